//! The OpenAI face, `/openai/v1`, and what it shares with its dialects.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use self::dialect::Windows;
use self::error::{ApiError, INVALID};
use self::quirks::{Lists, Settings, Shape};
use super::wire::{KeyFault, Query, caller, json, json_bytes};
use super::{Faults, RouteName, Service, under};
use crate::engine::Engine;
use crate::seed::id;

mod batches;
mod body;
mod dialect;
mod error;
mod explain;
mod files;
mod jobs;
mod models;
mod quirks;
mod realtime;
mod reply;
mod rows;
mod shape;

pub(super) use self::body::Endpoint;
pub(super) use self::dialect::{Dialect, Parameters, Part};
pub(super) use self::quirks::Quirks;
pub(super) mod switch {
    //! The values of switches, for dialects.
    pub(in crate::face) use super::dialect::Windows;
    pub(in crate::face) use super::quirks::{
        Absent, BatchErrors, CountsShape, Errors, FileStatus, Lists, Metadata, RateHeaders,
        Thoughts, RowErrors, Shape, StatusCase, Times, ToolCalls, Usage,
    };
}

use super::wire::KeyPlace;

/// OpenAI itself.
pub(super) static OPENAI: Dialect = Dialect {
    name: "openai",
    base: "/openai/v1",
    root: None,
    keys: &[KeyPlace::Bearer],
    models: models::MODELS,
    direct: &[Endpoint::Chat, Endpoint::Responses, Endpoint::Embeddings],
    batched: &[Endpoint::Chat, Endpoint::Responses, Endpoint::Embeddings],
    parameters: Parameters::OpenAi,
    strict_reasoning: true,
    many_choices: true,
    tier: Some("default"),
    headers: &[
        ("openai-version", "2020-10-01"),
        ("openai-organization", "org-emulator"),
        ("openai-processing-ms", "1"),
    ],
    file_id: "file-",
    batch_id: "batch_",
    purposes: &[
        "assistants",
        "batch",
        "fine-tune",
        "vision",
        "user_data",
        "evals",
    ],
    max_upload: 512 << 20,
    max_rows: 50_000,
    max_bytes: 209_715_200,
    windows: Windows::These(&[24]),
    mixed_models: false,
    bad_lines_are_rows: false,
    output_suffix: None,
    finish: None,
    quirks: Quirks::none,
    presets: &[("openai", Quirks::none)],
};

/// The face in the table of faces.
pub(super) static SERVICE: Family = Family(&OPENAI);

/// A face of the OpenAI family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family(pub(super) &'static Dialect);

impl Family {
    /// The switches in force.
    fn quirks(&self, engine: &Engine) -> Arc<Quirks> {
        engine
            .state::<Settings>()
            .quirks(self.0.name, self.0.quirks)
    }
}

impl Service for Family {
    fn base(&self) -> &'static str {
        self.0.base
    }

    fn answers(&self, path: &str) -> bool {
        under(self.0.root.unwrap_or(self.0.base), path)
    }

    fn route(&self, path: &str) -> Option<RouteName> {
        let rest = self.0.rest(path)?;
        Some(RouteName {
            base: self.0.base,
            rest: Route::of(&rest)?.name(),
        })
    }

    fn handle<'a>(
        &'static self,
        engine: &'a Arc<Engine>,
        request: Request,
        faults: Faults,
    ) -> BoxFuture<'a, Response> {
        handle(self, engine, request, faults).boxed()
    }

    fn options(&self, engine: &Engine) -> Value {
        serde_json::to_value(&*self.quirks(engine)).unwrap_or_default()
    }

    fn set_options(&self, engine: &Engine, options: &Value) -> Result<(), String> {
        let changed = self.quirks(engine).with(options, self.0.presets)?;
        engine.state::<Settings>().set(self.0.name, changed);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Route<'a> {
    Infer(Endpoint),
    /// A model by its name in the path, as at Azure.
    Deployment(&'a str, Endpoint),
    Models,
    Model(&'a str),
    Files,
    File(&'a str),
    FileContent(&'a str),
    Batches,
    Batch(&'a str),
    BatchCancel(&'a str),
    Jobs,
    Job(&'a str),
    JobCancel(&'a str),
}

impl<'a> Route<'a> {
    fn of(rest: &'a str) -> Option<Self> {
        let rest = rest.strip_prefix('/')?;
        if let Some(rest) = rest.strip_prefix("deployments/") {
            let (name, rest) = rest.split_once('/')?;
            let endpoint = Endpoint::of_url(&format!("/v1/{rest}"))?;
            return Some(Self::Deployment(name, endpoint));
        }
        let mut parts = rest.splitn(3, '/');
        Some(match (parts.next()?, parts.next(), parts.next()) {
            ("chat", Some("completions"), None) => Self::Infer(Endpoint::Chat),
            ("responses", None, None) => Self::Infer(Endpoint::Responses),
            ("embeddings", None, None) => Self::Infer(Endpoint::Embeddings),
            ("models", None, None) => Self::Models,
            ("models", Some(id), None) => Self::Model(id),
            ("files", None, None) => Self::Files,
            ("files", Some(id), None) => Self::File(id),
            ("files", Some(id), Some("content")) => Self::FileContent(id),
            ("batch", Some("jobs"), None) => Self::Jobs,
            ("batch", Some("jobs"), Some(rest)) => match rest.split_once('/') {
                None => Self::Job(rest),
                Some((id, "cancel")) => Self::JobCancel(id),
                Some(_) => return None,
            },
            ("batches", None, None) => Self::Batches,
            ("batches", Some(id), None) => Self::Batch(id),
            ("batches", Some(id), Some("cancel")) => Self::BatchCancel(id),
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Infer(Endpoint::Chat) => "/chat/completions",
            Self::Infer(Endpoint::Responses) => "/responses",
            Self::Infer(Endpoint::Embeddings) => "/embeddings",
            Self::Deployment(_, Endpoint::Chat) => "/deployments/{name}/chat/completions",
            Self::Deployment(_, Endpoint::Responses) => "/deployments/{name}/responses",
            Self::Deployment(_, Endpoint::Embeddings) => "/deployments/{name}/embeddings",
            Self::Models => "/models",
            Self::Model(_) => "/models/{model}",
            Self::Files => "/files",
            Self::File(_) => "/files/{file_id}",
            Self::FileContent(_) => "/files/{file_id}/content",
            Self::Batches => "/batches",
            Self::Batch(_) => "/batches/{batch_id}",
            Self::BatchCancel(_) => "/batches/{batch_id}/cancel",
            Self::Jobs => "/batch/jobs",
            Self::Job(_) => "/batch/jobs/{job_id}",
            Self::JobCancel(_) => "/batch/jobs/{job_id}/cancel",
        }
    }
}

/// One call: the engine, the face, who calls, and its place in the sequence.
struct Call<'a> {
    engine: &'a Arc<Engine>,
    family: &'static Family,
    quirks: Arc<Quirks>,
    /// Fingerprint of the caller's key.
    key: String,
    sequence: u64,
    faults: Faults,
}

impl Call<'_> {
    fn dialect(&self) -> &'static Dialect {
        self.family.0
    }

    fn now_ms(&self) -> i64 {
        self.engine.clock.now_ms()
    }
}

async fn handle(
    family: &'static Family,
    engine: &Arc<Engine>,
    request: Request,
    faults: Faults,
) -> Response {
    let quirks = family.quirks(engine);
    let sequence = match engine.next_sequence() {
        Ok(sequence) => sequence,
        Err(error) => return error_response(&quirks, &disk_error(&error)),
    };
    let answered = match authorized(family, &quirks, engine, &request) {
        Ok(key) => {
            let call = Call {
                engine,
                family,
                quirks: Arc::clone(&quirks),
                key,
                sequence,
                faults,
            };
            dispatch(&call, request).await
        }
        Err(error) => Err(error),
    };
    let mut response = answered.unwrap_or_else(|error| error_response(&quirks, &error));
    let headers = response.headers_mut();
    if !headers.contains_key("x-request-id") {
        let request_id = id("req_", engine.config.seed, 21, sequence);
        if let Ok(request_id) = HeaderValue::try_from(request_id) {
            headers.insert("x-request-id", request_id);
        }
    }
    for (name, value) in family.0.headers {
        headers.insert(*name, HeaderValue::from_static(value));
    }
    let json = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/json");
    if let Some(kind) = quirks.content_type.as_ref().filter(|_| json)
        && let Ok(kind) = HeaderValue::try_from(kind)
    {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    response
}

async fn dispatch(call: &Call<'_>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let Quirks {
        batches,
        lists,
        shape,
        ..
    } = *call.quirks;
    let jobs = batches && shape == Shape::Mistral;
    let batches = batches && !jobs;
    let rest = call.dialect().rest(path).unwrap_or_default();
    let served = |route: &Route<'_>| match route {
        Route::Infer(endpoint) => call.dialect().direct.contains(endpoint),
        Route::Deployment(..) => call.dialect().root.is_some(),
        Route::Batches if parts.method == Method::GET => batches && lists != Lists::Absent,
        Route::Batches | Route::Batch(_) | Route::BatchCancel(_) => batches,
        Route::Jobs | Route::Job(_) | Route::JobCancel(_) => jobs,
        _ => true,
    };
    let Some(route) = Route::of(&rest).filter(served) else {
        return Err(ApiError::new(
            404,
            INVALID,
            None,
            format!("Invalid URL ({} {path})", parts.method),
        ));
    };
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    match (&parts.method, route) {
        (&Method::POST, Route::Infer(endpoint)) => {
            realtime::infer(call, endpoint, None, body).await
        }
        (&Method::POST, Route::Deployment(name, endpoint)) => {
            realtime::infer(call, endpoint, Some(name), body).await
        }
        (&Method::GET, Route::Models) => realtime::list_models(call),
        (&Method::GET, Route::Model(name)) => realtime::model(call, name),
        (&Method::POST, Route::Files | Route::File("upload")) => {
            files::upload(call, Request::from_parts(parts, body)).await
        }
        (&Method::GET, Route::Files) => files::list(call, &query),
        (&Method::GET, Route::File(id)) => files::get(call, id),
        (&Method::DELETE, Route::File(id)) => files::delete(call, id),
        (&Method::GET, Route::FileContent(id)) => files::content(call, id, &parts.headers).await,
        (&Method::POST, Route::Batches) => batches::create(call, &parts.headers, body).await,
        (&Method::GET, Route::Batches) => batches::list(call, &query),
        (&Method::GET, Route::Batch(id)) => batches::get(call, id),
        (&Method::POST, Route::BatchCancel(id)) => batches::cancel(call, id),
        (&Method::POST, Route::Jobs) => jobs::create(call, body).await,
        (&Method::GET, Route::Jobs) => Ok(jobs::list(call, &query)),
        (&Method::GET, Route::Job(id)) => jobs::get(call, id),
        (&Method::DELETE, Route::Job(id)) => jobs::delete(call, id),
        (&Method::POST, Route::JobCancel(id)) => jobs::cancel(call, id),
        _ => Err(ApiError::new(
            405,
            INVALID,
            Some("method_not_supported"),
            format!("Not allowed to {} on {path}.", parts.method),
        )),
    }
}

/// The fingerprint of the caller's key, if it may come in.
fn authorized(
    family: &Family,
    quirks: &Quirks,
    engine: &Engine,
    request: &Request,
) -> Result<String, ApiError> {
    match caller(engine, request.headers(), "", family.0.keys) {
        Ok(key) => Ok(key),
        Err(_) if !quirks.key_required => Ok("no key".to_owned()),
        Err(KeyFault::Missing) => Err(ApiError::new(
            401,
            INVALID,
            None,
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer \
             auth.",
        )),
        Err(KeyFault::Unknown) => Err(ApiError::new(
            401,
            INVALID,
            Some("invalid_api_key"),
            "Incorrect API key provided.",
        )),
    }
}

fn error_response(quirks: &Quirks, error: &ApiError) -> Response {
    let mut response = json(&error.body(quirks.errors));
    let status = quirks.error_status.unwrap_or(error.status);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(wait) = error.retry_after {
        let headers = response.headers_mut();
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        let ms = wait.as_millis().max(1);
        for (name, value) in [("retry-after", seconds), ("retry-after-ms", ms)] {
            let openai = quirks.rate_headers == quirks::RateHeaders::Minute;
            if let Ok(value) = HeaderValue::try_from(value.to_string())
                && (openai || name == "retry-after")
            {
                headers.insert(name, value);
            }
        }
    }
    response
}

fn disk_error(error: &std::io::Error) -> ApiError {
    tracing::error!(%error, "the emulator's disk failed");
    ApiError::internal()
}

/// The `limit` of a list.
fn limit(query: &Query, default: usize, most: usize) -> Result<usize, ApiError> {
    let Some(text) = query.get("limit") else {
        return Ok(default);
    };
    match text.parse() {
        Ok(limit) if (1..=most).contains(&limit) => Ok(limit),
        _ => Err(ApiError::bad(
            "limit",
            "invalid_value",
            format!("Invalid value for 'limit': expected an integer from 1 to {most}."),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_have_names_without_ids() {
        for (path, name) in [
            ("/openai/v1/batches", Some("/openai/v1/batches")),
            (
                "/openai/v1/batches/batch_1/cancel",
                Some("/openai/v1/batches/{batch_id}/cancel"),
            ),
            (
                "/openai/v1/files/file-1/content",
                Some("/openai/v1/files/{file_id}/content"),
            ),
            ("/openai/v1/files/file-1/other", None),
            ("/openai/v1", None),
            ("/other", None),
        ] {
            let found = SERVICE.route(path).map(|route| route.to_string());
            assert_eq!(found.as_deref(), name, "{path}");
        }
    }
}
