//! The Anthropic face, `/anthropic`: messages, token counts, models, Message Batches.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use self::error::ApiError;
use self::options::{Options, Settings};
use self::reply::short_id;
use super::wire::{KeyFault, KeyPlace, Query, caller, json as json_answer};
use super::{Faults, RouteName, Service};
use crate::batch::BatchRecord;
use crate::engine::Engine;

mod batches;
mod body;
mod cache;
mod check;
mod error;
mod messages;
mod models;
mod options;
mod reply;
mod rows;
mod schema;

/// The face's name in records and on the invoice.
const NAME: &str = "anthropic";
const BASE: &str = "/anthropic";

/// The face in the table of faces.
pub(super) static SERVICE: Anthropic = Anthropic;

/// Anthropic's API.
#[derive(Clone, Copy, Debug)]
pub(super) struct Anthropic;

impl Service for Anthropic {
    fn base(&self) -> &'static str {
        BASE
    }

    fn route(&self, path: &str) -> Option<RouteName> {
        Some(RouteName {
            base: BASE,
            rest: Route::of(path.strip_prefix(BASE)?)?.name(),
        })
    }

    fn handle<'a>(
        &'static self,
        engine: &'a Arc<Engine>,
        request: Request,
        faults: Faults,
    ) -> BoxFuture<'a, Response> {
        handle(engine, request, faults).boxed()
    }

    fn options(&self, engine: &Engine) -> Value {
        serde_json::to_value(&*engine.state::<Settings>().get()).unwrap_or_default()
    }

    fn set_options(&self, engine: &Engine, options: &Value) -> Result<(), String> {
        let settings = engine.state::<Settings>();
        let changed = settings.get().with(options)?;
        settings.set(changed);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Route<'a> {
    Messages,
    CountTokens,
    Batches,
    Batch(&'a str),
    BatchCancel(&'a str),
    BatchResults(&'a str),
    Models,
    Model(&'a str),
}

impl<'a> Route<'a> {
    fn of(rest: &'a str) -> Option<Self> {
        let rest = rest.strip_prefix("/v1/")?;
        let mut parts = rest.splitn(4, '/');
        let parts = (parts.next()?, parts.next(), parts.next(), parts.next());
        Some(match parts {
            ("messages", None, ..) => Self::Messages,
            ("messages", Some("count_tokens"), None, _) => Self::CountTokens,
            ("messages", Some("batches"), None, _) => Self::Batches,
            ("messages", Some("batches"), Some(id), None) => Self::Batch(id),
            ("messages", Some("batches"), Some(id), Some("cancel")) => Self::BatchCancel(id),
            ("messages", Some("batches"), Some(id), Some("results")) => Self::BatchResults(id),
            ("models", None, ..) => Self::Models,
            ("models", Some(id), None, _) => Self::Model(id),
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
            Self::Batches => "/v1/messages/batches",
            Self::Batch(_) => "/v1/messages/batches/{message_batch_id}",
            Self::BatchCancel(_) => "/v1/messages/batches/{message_batch_id}/cancel",
            Self::BatchResults(_) => "/v1/messages/batches/{message_batch_id}/results",
            Self::Models => "/v1/models",
            Self::Model(_) => "/v1/models/{model_id}",
        }
    }
}

/// The `anthropic-version` of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    June2023,
    October2026,
}

impl Version {
    fn name(self) -> &'static str {
        match self {
            Self::June2023 => "2023-06-01",
            Self::October2026 => "2026-10-21",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::June2023, Self::October2026]
            .into_iter()
            .find(|version| version.name() == name)
    }

    /// The version a batch was created with.
    fn of_batch(batch: &BatchRecord) -> Self {
        batch.extra["version"]
            .as_str()
            .and_then(Self::named)
            .unwrap_or(Self::June2023)
    }
}

/// One call: the engine, who calls and how, and its place in the sequence.
struct Call<'a> {
    engine: &'a Arc<Engine>,
    options: Arc<Options>,
    /// Fingerprint of the caller's key.
    key: String,
    version: Version,
    sequence: u64,
    request_id: String,
    faults: Faults,
}

impl Call<'_> {
    fn now_ms(&self) -> i64 {
        self.engine.clock.now_ms()
    }

    /// What this face's URLs begin with, as the caller reached it.
    fn origin(&self, headers: &HeaderMap) -> String {
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or("localhost");
        format!("http://{host}{BASE}")
    }
}

async fn handle(engine: &Arc<Engine>, request: Request, faults: Faults) -> Response {
    let options = engine.state::<Settings>().get();
    let (request_id, answered) = match engine.next_sequence() {
        Err(error) => (String::from("req_011C"), Err(disk_error(&error))),
        Ok(sequence) => {
            let request_id = short_id("req_011C", engine.config.seed, 21, sequence);
            let answered = match admit(engine, request.headers()) {
                Ok((key, version)) => {
                    let call = Call {
                        engine,
                        options: Arc::clone(&options),
                        key,
                        version,
                        sequence,
                        request_id: request_id.clone(),
                        faults,
                    };
                    dispatch(&call, request).await
                }
                Err(error) => Err(error),
            };
            (request_id, answered)
        }
    };
    let now_ms = engine.clock.now_ms();
    let mut response =
        answered.unwrap_or_else(|error| error_response(&options, &error, &request_id, now_ms));
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::try_from(request_id) {
        headers.insert("request-id", value);
    }
    for (name, value) in [
        ("anthropic-organization-id", "org-emulator"),
        ("anthropic-workspace-id", "wrkspc_emulator"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn dispatch(call: &Call<'_>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let rest = parts.uri.path().strip_prefix(BASE).unwrap_or_default();
    let Some(route) = Route::of(rest) else {
        return Err(ApiError::not_found("Not found"));
    };
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let headers = &parts.headers;
    match (&parts.method, route) {
        (&Method::POST, Route::Messages) => messages::create(call, body).await,
        (&Method::POST, Route::CountTokens) => messages::count(call, body).await,
        (&Method::POST, Route::Batches) => batches::create(call, headers, body).await,
        (&Method::GET, Route::Batches) => batches::list(call, &query, headers),
        (&Method::GET, Route::Batch(id)) => batches::get(call, id, headers),
        (&Method::DELETE, Route::Batch(id)) => batches::delete(call, id),
        (&Method::POST, Route::BatchCancel(id)) => batches::cancel(call, id, headers),
        (&Method::GET, Route::BatchResults(id)) => batches::results(call, id).await,
        (&Method::GET, Route::Models) => messages::list_models(&query),
        (&Method::GET, Route::Model(name)) => messages::model(name),
        _ => Err(ApiError::new(
            405,
            "invalid_request_error",
            "Method Not Allowed",
        )),
    }
}

/// The fingerprint of the caller's key and the version asked for, if the call may come in.
fn admit(engine: &Engine, headers: &HeaderMap) -> Result<(String, Version), ApiError> {
    let places = [KeyPlace::Header("x-api-key"), KeyPlace::Bearer];
    let key = caller(engine, headers, "", &places).map_err(|fault| {
        let message = match fault {
            KeyFault::Missing => "x-api-key header is required",
            KeyFault::Unknown => "API key is invalid.",
        };
        ApiError::new(401, "authentication_error", message)
    })?;
    let version = match headers.get("anthropic-version") {
        None => {
            return Err(ApiError::invalid("anthropic-version: header is required"));
        }
        Some(version) => version.to_str().ok().and_then(Version::named),
    };
    let Some(version) = version else {
        return Err(ApiError::invalid(
            "anthropic-version: header is not a valid version",
        ));
    };
    Ok((key, version))
}

fn error_response(options: &Options, error: &ApiError, request_id: &str, now_ms: i64) -> Response {
    let mut response = json_answer(&error.body(request_id));
    *response.status_mut() =
        StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if let Some(wait) = error.retry_after.filter(|_| options.retry_after) {
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        if let Ok(value) = HeaderValue::try_from(seconds.to_string()) {
            headers.insert(header::RETRY_AFTER, value);
        }
    }
    if let Some(room) = &error.room {
        messages::rate_headers(headers, room, now_ms);
    }
    response
}

fn disk_error(error: &std::io::Error) -> ApiError {
    tracing::error!(%error, "the emulator's disk failed");
    ApiError::internal()
}

/// A page of a list: what comes after `after_id`, or what comes just before `before_id`, at most `limit`.
fn page(items: Vec<Value>, query: &Query) -> Result<Response, ApiError> {
    let limit = match query.get("limit").map(str::parse) {
        None => 20,
        Some(Ok(limit)) if (1..=1_000).contains(&limit) => limit,
        Some(_) => {
            return Err(ApiError::invalid(
                "limit: Input should be greater than or equal to 1 and less than or equal to 1000",
            ));
        }
    };
    let place = |id: &str| {
        let found = items.iter().position(|item| item["id"] == id);
        found.ok_or_else(|| ApiError::invalid(format!("Unknown cursor: {id}")))
    };
    let (from, to, more) = match (query.get("after_id"), query.get("before_id")) {
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid(
                "Only one of before_id and after_id may be given",
            ));
        }
        (None, Some(before)) => {
            let to = place(before)?;
            let from = to.saturating_sub(limit);
            (from, to, from > 0)
        }
        (after, None) => {
            let from = after.map(place).transpose()?.map_or(0, |at| at + 1);
            let to = from.saturating_add(limit).min(items.len());
            (from, to, to < items.len())
        }
    };
    let data = &items[from..to];
    Ok(json_answer(&json!({
        "data": data,
        "has_more": more,
        "first_id": data.first().map(|item| &item["id"]),
        "last_id": data.last().map(|item| &item["id"]),
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_have_names_without_ids() {
        for (path, name) in [
            ("/anthropic/v1/messages", Some("/anthropic/v1/messages")),
            (
                "/anthropic/v1/messages/batches/msgbatch_1/results",
                Some("/anthropic/v1/messages/batches/{message_batch_id}/results"),
            ),
            (
                "/anthropic/v1/messages/count_tokens",
                Some("/anthropic/v1/messages/count_tokens"),
            ),
            (
                "/anthropic/v1/models/x",
                Some("/anthropic/v1/models/{model_id}"),
            ),
            ("/anthropic/v1/messages/batches/x/other", None),
            ("/anthropic/v1/complete", None),
            ("/anthropic", None),
        ] {
            let found = SERVICE.route(path).map(|route| route.to_string());
            assert_eq!(found.as_deref(), name, "{path}");
        }
    }
}
