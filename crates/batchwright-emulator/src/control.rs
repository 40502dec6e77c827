//! The endpoints under `/emulator`: the page, clock, faults, faces, invoice, request counts, reset.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use crate::clock::{Span, rfc3339, seconds};
use crate::engine::Engine;
use crate::face::wire::Query;
use crate::face::{self, Face};
use crate::faults::{FaultScript, Skew};
use crate::page;
use crate::server::{read_body, run_late_calls};

/// Most bytes of a control call's body.
const LIMIT: usize = 16 << 20;

pub(crate) async fn handle(engine: &Arc<Engine>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Some(Ok(body)) = read_body(body, LIMIT).await else {
        return problem(StatusCode::BAD_REQUEST, "the body cannot be read");
    };
    let answer = match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/emulator" | "/emulator/") => page(engine).await,
        (&Method::GET, "/emulator/index") => Ok(json(&index())),
        (&Method::GET, "/emulator/clock") => Ok(json(&clock(engine))),
        (&Method::POST, "/emulator/clock") if is_form(&parts, &body) => {
            press(engine, &parts, &body).await
        }
        (&Method::POST, "/emulator/clock") => set_clock(engine, &body).await,
        (&Method::GET, "/emulator/faults") => Ok(json(&json!({"rules": engine.faults.to_json()}))),
        (&Method::POST, "/emulator/faults") => Ok(add_faults(engine, &body)),
        (&Method::DELETE, "/emulator/faults") => {
            engine.faults.clear();
            Ok(json(&json!({"rules": []})))
        }
        (&Method::GET, "/emulator/invoice") => invoice(engine).await,
        (&Method::GET, "/emulator/requests") => Ok(json(&engine.traffic.to_json())),
        (&Method::POST, "/emulator/reset") => reset(engine).await,
        (method, path) if path.starts_with(FACES) => Ok(options(engine, method, path, &body)),
        (_, path) => Ok(problem(
            StatusCode::NOT_FOUND,
            &format!("no control endpoint {} {path}", parts.method),
        )),
    };
    answer.unwrap_or_else(|error| problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))
}

fn index() -> Value {
    let faces: serde_json::Map<String, Value> = Face::ALL
        .iter()
        .map(|face| (face.name().to_owned(), face.base_path().into()))
        .collect();
    json!({
        "faces": faces,
        "control": [
            "GET /emulator/clock", "POST /emulator/clock",
            "GET /emulator/faults", "POST /emulator/faults", "DELETE /emulator/faults",
            "GET /emulator/faces/NAME", "POST /emulator/faces/NAME",
            "GET /emulator/invoice", "GET /emulator/requests", "POST /emulator/reset",
        ],
    })
}

const FACES: &str = "/emulator/faces/";

/// The options of a face: read, or set.
fn options(engine: &Engine, method: &Method, path: &str, body: &[u8]) -> Response {
    let Some(face) = Face::named(&path[FACES.len()..]) else {
        return problem(StatusCode::NOT_FOUND, "no such face");
    };
    let service = face::service(face);
    if method == Method::POST {
        let set = serde_json::from_slice(body)
            .map_err(|error| error.to_string())
            .and_then(|options| service.set_options(engine, &options));
        if let Err(error) = set {
            return problem(StatusCode::BAD_REQUEST, &error);
        }
    } else if method != Method::GET {
        return problem(StatusCode::METHOD_NOT_ALLOWED, "GET or POST");
    }
    json(&service.options(engine))
}

fn clock(engine: &Engine) -> Value {
    let now_ms = engine.clock.now_ms();
    json!({
        "now": seconds(now_ms),
        "now_ms": now_ms,
        "rfc3339": rfc3339(now_ms),
        "time_scale": engine.clock.scale(),
        "date_skew_ms": engine.clock.date_skew_ms(),
    })
}

async fn page(engine: &Arc<Engine>) -> io::Result<Response> {
    let engine = Arc::clone(engine);
    block(move || page::page(&engine)).await
}

/// Whether a browser sends a form. curl and Python say so of JSON too unless told otherwise.
fn is_form(parts: &Parts, body: &[u8]) -> bool {
    !body.trim_ascii_start().starts_with(b"{")
        && parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| {
            kind.as_bytes()
                .starts_with(b"application/x-www-form-urlencoded")
        })
}

/// A button of the page: moves the clock and shows the page again.
async fn press(engine: &Arc<Engine>, parts: &Parts, body: &[u8]) -> io::Result<Response> {
    // Pages from elsewhere can send forms here, but cannot hide that they did.
    let host = parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
    let origin = parts.headers.get(header::ORIGIN).map(HeaderValue::as_bytes);
    let ours = origin.is_none_or(|origin| origin.strip_prefix(b"http://") == host);
    if !ours {
        return Ok(problem(StatusCode::FORBIDDEN, "a form from elsewhere"));
    }
    let form = Query::parse(&String::from_utf8_lossy(body));
    let Some(Ok(span)) = form.get("advance").map(Span::parse) else {
        return Ok(problem(StatusCode::BAD_REQUEST, "`advance` is a span"));
    };
    advance(engine, span.0).await?;
    Ok((StatusCode::SEE_OTHER, [(header::LOCATION, "/emulator")]).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetClock {
    advance: Option<Span>,
    time_scale: Option<f64>,
    date_skew: Option<Skew>,
}

async fn set_clock(engine: &Arc<Engine>, body: &[u8]) -> io::Result<Response> {
    let set: SetClock = match serde_json::from_slice(body) {
        Ok(set) => set,
        Err(error) => return Ok(problem(StatusCode::BAD_REQUEST, &error.to_string())),
    };
    if let Some(scale) = set.time_scale {
        if !(scale.is_finite() && scale >= 0.0) {
            return Ok(problem(
                StatusCode::BAD_REQUEST,
                "time_scale is a number from 0 on",
            ));
        }
        engine.clock.set_scale(scale);
    }
    if let Some(skew) = set.date_skew {
        engine.clock.set_date_skew_ms(skew.ms());
    }
    if let Some(span) = set.advance {
        advance(engine, span.0).await?;
    }
    Ok(json(&clock(engine)))
}

/// Moves the clock and returns when everything that became due has happened.
pub(crate) async fn advance(engine: &Arc<Engine>, by: Duration) -> io::Result<()> {
    let mut left = by;
    // Late calls happen at their own instant, so the clock stops there on its way.
    while let Some(due_ms) = engine.late.next_due_ms() {
        let wait = u64::try_from(due_ms - engine.clock.now_ms()).unwrap_or(0);
        let wait = Duration::from_millis(wait);
        if wait > left {
            break;
        }
        engine.clock.advance(wait);
        left -= wait;
        settle(engine, true).await?;
        run_late_calls(engine).await;
    }
    engine.clock.advance(left);
    settle(engine, true).await?;
    engine.save()
}

/// Brings all batches up to now, on a thread that may block.
pub(crate) async fn settle(engine: &Arc<Engine>, whole: bool) -> io::Result<()> {
    let engine = Arc::clone(engine);
    block(move || engine.settle(whole)).await
}

/// Runs what blocks on a thread of its own.
pub(crate) async fn block<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn add_faults(engine: &Engine, body: &[u8]) -> Response {
    match FaultScript::parse(body) {
        Ok(script) => {
            engine.faults.add(script.rules, script.replace);
            json(&json!({"rules": engine.faults.to_json()}))
        }
        Err(error) => problem(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

async fn invoice(engine: &Arc<Engine>) -> io::Result<Response> {
    settle(engine, true).await?;
    let files = stream::iter(engine.invoice_files())
        .map(Ok::<_, io::Error>)
        .and_then(|(path, len)| async move {
            match tokio::fs::File::open(&path).await {
                Ok(file) => Ok(ReaderStream::with_capacity(file.take(len), 64 << 10).left_stream()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Ok(stream::empty().right_stream())
                }
                Err(error) => Err(error),
            }
        })
        .try_flatten();
    let mut response = Response::new(Body::from_stream(files));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    Ok(response)
}

async fn reset(engine: &Arc<Engine>) -> io::Result<Response> {
    let engine = Arc::clone(engine);
    block(move || engine.reset()).await?;
    Ok(json(&json!({"reset": true})))
}

fn json(value: &Value) -> Response {
    axum::Json(value).into_response()
}

fn problem(status: StatusCode, text: &str) -> Response {
    (status, axum::Json(json!({"error": text}))).into_response()
}
