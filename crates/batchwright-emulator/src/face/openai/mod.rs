//! The OpenAI face, `/openai/v1`, and what it shares with its dialects.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Serialize;

use self::body::Endpoint;
use self::dialect::Dialect;
use self::error::{ApiError, INVALID};
use super::wire::{KeyFault, KeyPlace, Query, caller, json, json_bytes};
use super::{Faults, RouteName, Service};
use crate::engine::Engine;
use crate::seed::id;

mod batches;
mod body;
pub(super) mod dialect;
mod error;
mod explain;
mod files;
mod models;
mod realtime;
mod reply;
mod rows;

/// OpenAI itself.
static OPENAI: Dialect = Dialect {
    name: "openai",
    base: "/openai/v1",
    models: models::MODELS,
    file_id: "file-",
    batch_id: "batch_",
};

/// The face in the table of faces.
pub(super) static SERVICE: Family = Family(&OPENAI);

/// A face of the OpenAI family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family(pub(super) &'static Dialect);

impl Service for Family {
    fn base(&self) -> &'static str {
        self.0.base
    }

    fn route(&self, path: &str) -> Option<RouteName> {
        let rest = Route::of(path.strip_prefix(self.0.base)?)?.name();
        Some(RouteName {
            base: self.0.base,
            rest,
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
}

#[derive(Clone, Copy, Debug)]
enum Route<'a> {
    Infer(Endpoint),
    Models,
    Model(&'a str),
    Files,
    File(&'a str),
    FileContent(&'a str),
    Batches,
    Batch(&'a str),
    BatchCancel(&'a str),
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.splitn(3, '/');
        Some(match (parts.next()?, parts.next(), parts.next()) {
            ("chat", Some("completions"), None) => Self::Infer(Endpoint::Chat),
            ("responses", None, None) => Self::Infer(Endpoint::Responses),
            ("embeddings", None, None) => Self::Infer(Endpoint::Embeddings),
            ("models", None, None) => Self::Models,
            ("models", Some(id), None) => Self::Model(id),
            ("files", None, None) => Self::Files,
            ("files", Some(id), None) => Self::File(id),
            ("files", Some(id), Some("content")) => Self::FileContent(id),
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
            Self::Models => "/models",
            Self::Model(_) => "/models/{model}",
            Self::Files => "/files",
            Self::File(_) => "/files/{file_id}",
            Self::FileContent(_) => "/files/{file_id}/content",
            Self::Batches => "/batches",
            Self::Batch(_) => "/batches/{batch_id}",
            Self::BatchCancel(_) => "/batches/{batch_id}/cancel",
        }
    }
}

/// One call: the engine, who calls, and its place in the sequence.
pub(super) struct Call<'a> {
    engine: &'a Arc<Engine>,
    family: &'static Family,
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
    let sequence = match engine.next_sequence() {
        Ok(sequence) => sequence,
        Err(error) => return failed(&error),
    };
    let answered = match authorized(engine, request.headers()) {
        Ok(key) => {
            let call = Call {
                engine,
                family,
                key,
                sequence,
                faults,
            };
            dispatch(&call, request).await
        }
        Err(error) => Err(error),
    };
    let mut response = answered.unwrap_or_else(|error| error_response(&error));
    let headers = response.headers_mut();
    if !headers.contains_key("x-request-id") {
        let request_id = id("req_", engine.config.seed, 21, sequence);
        if let Ok(request_id) = HeaderValue::try_from(request_id) {
            headers.insert("x-request-id", request_id);
        }
    }
    headers.insert("openai-version", HeaderValue::from_static("2020-10-01"));
    headers.insert(
        "openai-organization",
        HeaderValue::from_static("org-emulator"),
    );
    headers.insert("openai-processing-ms", HeaderValue::from_static("1"));
    response
}

async fn dispatch(call: &Call<'_>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let route = path
        .strip_prefix(call.dialect().base)
        .and_then(Route::of);
    let Some(route) = route else {
        return Err(ApiError::new(
            404,
            INVALID,
            None,
            format!("Invalid URL ({} {path})", parts.method),
        ));
    };
    let query = parts.uri.query().unwrap_or_default();
    match (&parts.method, route) {
        (&Method::POST, Route::Infer(endpoint)) => realtime::infer(call, endpoint, body).await,
        (&Method::GET, Route::Models) => Ok(realtime::list_models(call)),
        (&Method::GET, Route::Model(name)) => realtime::model(call, name),
        (&Method::POST, Route::Files) => {
            files::upload(call, Request::from_parts(parts, body)).await
        }
        (&Method::GET, Route::Files) => files::list(call, query),
        (&Method::GET, Route::File(id)) => files::get(call, id),
        (&Method::DELETE, Route::File(id)) => files::delete(call, id),
        (&Method::GET, Route::FileContent(id)) => files::content(call, id, &parts.headers).await,
        (&Method::POST, Route::Batches) => batches::create(call, body).await,
        (&Method::GET, Route::Batches) => batches::list(call, query),
        (&Method::GET, Route::Batch(id)) => batches::get(call, id),
        (&Method::POST, Route::BatchCancel(id)) => batches::cancel(call, id),
        _ => Err(ApiError::new(
            405,
            INVALID,
            Some("method_not_supported"),
            format!("Not allowed to {} on {path}.", parts.method),
        )),
    }
}

/// The fingerprint of the caller's key, if it may come in.
fn authorized(engine: &Engine, headers: &HeaderMap) -> Result<String, ApiError> {
    caller(engine, headers, "", &[KeyPlace::Bearer]).map_err(|fault| match fault {
        KeyFault::Missing => ApiError::new(
            401,
            INVALID,
            None,
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer \
             auth.",
        ),
        KeyFault::Unknown => ApiError::new(
            401,
            INVALID,
            Some("invalid_api_key"),
            "Incorrect API key provided.",
        ),
    })
}

fn error_response(error: &ApiError) -> Response {
    let mut body = Vec::with_capacity(256);
    error.write(&mut body);
    let mut response = json_bytes(body);
    *response.status_mut() =
        StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(wait) = error.retry_after {
        let headers = response.headers_mut();
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        let ms = wait.as_millis().max(1);
        for (name, value) in [("retry-after", seconds), ("retry-after-ms", ms)] {
            if let Ok(value) = HeaderValue::try_from(value.to_string()) {
                headers.insert(name, value);
            }
        }
    }
    response
}

/// A 500 for what should not happen: the emulator's own disk failed.
fn failed(error: &std::io::Error) -> Response {
    error_response(&disk_error(error))
}

fn disk_error(error: &std::io::Error) -> ApiError {
    tracing::error!(%error, "the emulator's disk failed");
    ApiError::internal()
}

/// A page of a list: `after` an id, at most `limit`, as `{"object":"list","data":[…],…}`.
fn page<T: Serialize>(
    all: Vec<T>,
    id: impl Fn(&T) -> &str,
    after: Option<&str>,
    limit: usize,
) -> Response {
    #[derive(Serialize)]
    struct Page<'a, T> {
        object: &'static str,
        data: &'a [T],
        first_id: Option<&'a str>,
        last_id: Option<&'a str>,
        has_more: bool,
    }
    let start = match after {
        None => 0,
        Some(after) => all
            .iter()
            .position(|item| id(item) == after)
            .map_or(all.len(), |at| at + 1),
    };
    let rest = &all[start..];
    let data = &rest[..limit.min(rest.len())];
    json(&Page {
        object: "list",
        first_id: data.first().map(&id),
        last_id: data.last().map(&id),
        has_more: data.len() < rest.len(),
        data,
    })
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
