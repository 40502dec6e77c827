//! The OpenAI face: `/openai/v1`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use serde::Serialize;

use self::body::Endpoint;
use self::error::{ApiError, INVALID};
use super::Faults;
use crate::engine::{Engine, fingerprint};
use crate::seed::id;
use crate::server::bearer;

mod batches;
mod body;
mod error;
mod explain;
mod files;
mod models;
mod realtime;
mod reply;
mod rows;

pub(crate) use self::rows::Rows;

pub(super) const BASE: &str = "/openai/v1";
pub(super) const NAME: &str = "openai";

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
        let mut parts = path.strip_prefix(BASE)?.strip_prefix('/')?.splitn(3, '/');
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
            Self::Infer(Endpoint::Chat) => "/openai/v1/chat/completions",
            Self::Infer(Endpoint::Responses) => "/openai/v1/responses",
            Self::Infer(Endpoint::Embeddings) => "/openai/v1/embeddings",
            Self::Models => "/openai/v1/models",
            Self::Model(_) => "/openai/v1/models/{model}",
            Self::Files => "/openai/v1/files",
            Self::File(_) => "/openai/v1/files/{file_id}",
            Self::FileContent(_) => "/openai/v1/files/{file_id}/content",
            Self::Batches => "/openai/v1/batches",
            Self::Batch(_) => "/openai/v1/batches/{batch_id}",
            Self::BatchCancel(_) => "/openai/v1/batches/{batch_id}/cancel",
        }
    }
}

pub(super) fn route_name(path: &str) -> Option<&'static str> {
    Route::of(path).map(Route::name)
}

/// One call: the engine, who calls, and its place in the sequence.
pub(super) struct Call<'a> {
    engine: &'a Arc<Engine>,
    /// Fingerprint of the caller's key.
    key: String,
    sequence: u64,
    faults: Faults,
}

impl Call<'_> {
    fn now_ms(&self) -> i64 {
        self.engine.clock.now_ms()
    }
}

pub(super) async fn handle(engine: &Arc<Engine>, request: Request, faults: Faults) -> Response {
    let sequence = match engine.next_sequence() {
        Ok(sequence) => sequence,
        Err(error) => return failed(&error),
    };
    let answered = match authorized(engine, request.headers()) {
        Ok(key) => {
            let call = Call {
                engine,
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
    let Some(route) = Route::of(path) else {
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
        (&Method::GET, Route::Models) => Ok(realtime::list_models()),
        (&Method::GET, Route::Model(name)) => realtime::model(name),
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
    let Some(key) = bearer(headers) else {
        return Err(ApiError::new(
            401,
            INVALID,
            None,
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer \
             auth.",
        ));
    };
    let keys = &engine.config.keys;
    let well_formed = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    let known = keys.is_empty() || keys.iter().any(|known| known == key);
    if well_formed && known {
        Ok(fingerprint(key))
    } else {
        Err(ApiError::new(
            401,
            INVALID,
            Some("invalid_api_key"),
            "Incorrect API key provided.",
        ))
    }
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

fn json_bytes(body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

fn json<T: Serialize>(value: &T) -> Response {
    json_bytes(serde_json::to_vec(value).expect("answers serialize into memory"))
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

/// A query of `name=value` pairs, percent-decoded.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    fn limit(&self, default: usize, most: usize) -> Result<usize, ApiError> {
        let Some(text) = self.get("limit") else {
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
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let escaped = match (byte, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match (byte, escaped) {
            (_, Some((high, low))) => {
                bytes.push(high * 16 + low);
                rest = &tail[2..];
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("after=file-1&order=asc&purpose=a%20b+c&x");
        assert_eq!(query.get("after"), Some("file-1"));
        assert_eq!(query.get("purpose"), Some("a b c"));
        assert_eq!(query.get("x"), Some(""));
        assert_eq!(query.get("limit"), None);
    }

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
            assert_eq!(route_name(path), name, "{path}");
        }
    }
}
