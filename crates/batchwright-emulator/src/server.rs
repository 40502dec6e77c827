//! From a request to its answer: counting, faults, and the way to the right face.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use futures::{Stream, StreamExt, stream};
use serde_json::Value;

use crate::clock::{Span, http_date};
use crate::connection::Connection;
use crate::control;
use crate::engine::{Engine, LateCall};
use crate::face::{self, Faults};
use crate::faults::{Cut, FaultAction, Gzip, Reply};
use crate::gzip;

/// The one service behind the listener.
pub(crate) fn router(engine: Arc<Engine>) -> Router {
    Router::new()
        .fallback(handle)
        .layer(DefaultBodyLimit::disable())
        .with_state(engine)
}

async fn handle(
    State(engine): State<Arc<Engine>>,
    Extension(ConnectInfo(connection)): Extension<ConnectInfo<Connection>>,
    request: Request,
) -> Response {
    let _in_flight = InFlight::enter(&engine);
    let response = answer(&engine, &connection, request).await;
    with_date(&engine, response)
}

async fn answer(engine: &Arc<Engine>, connection: &Connection, request: Request) -> Response {
    let path = request.uri().path();
    if path == "/emulator" || path.starts_with("/emulator/") {
        return control::handle(engine, request).await;
    }
    engine.traffic.count(request.method(), face::route(path));
    if engine.faults.is_empty() {
        return face::handle(engine, request, Faults::default()).await;
    }
    let (request, actions) = match fire(engine, request).await {
        Ok(fired) => fired,
        Err(response) => return response,
    };
    run(engine, connection, request, actions).await
}

/// Bytes of a body that a fault predicate can see.
const PEEK: usize = 1 << 20;

/// Asks the fault book about a call, reading the head of the body if a rule needs it.
async fn fire(engine: &Engine, request: Request) -> Result<(Request, Vec<FaultAction>), Response> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    if !engine.faults.needs_body(&parts.method, path) {
        let actions = engine.faults.fire(&parts.method, path, &parts.headers, b"");
        return Ok((Request::from_parts(parts, body), actions));
    }
    let mut rest = body.into_data_stream();
    let mut head = Vec::new();
    while head.len() < PEEK {
        match rest.next().await {
            Some(Ok(chunk)) => head.extend_from_slice(&chunk),
            Some(Err(_)) => return Err(StatusCode::BAD_REQUEST.into_response()),
            None => break,
        }
    }
    let actions = engine
        .faults
        .fire(&parts.method, path, &parts.headers, &head);
    let body = Body::from_stream(stream::iter([Ok(Bytes::from(head))]).chain(rest));
    Ok((Request::from_parts(parts, body), actions))
}

/// Most bytes of a body that `commit_late` can keep.
const LATE_BODY: usize = 256 << 20;

async fn run(
    engine: &Arc<Engine>,
    connection: &Connection,
    request: Request,
    actions: Vec<FaultAction>,
) -> Response {
    for action in &actions {
        match action {
            FaultAction::Reply(given) => {
                drain(request).await;
                return shape(engine, connection, reply(given), actions).await;
            }
            FaultAction::ReplyEarly(given) => {
                return shape(engine, connection, reply(given), actions).await;
            }
            FaultAction::Redirect { status, to } => {
                drain(request).await;
                return shape(
                    engine,
                    connection,
                    redirect(*status, to.as_deref()),
                    actions,
                )
                .await;
            }
            FaultAction::Reset => {
                connection.cut(Cut::Rst);
                return gone();
            }
            FaultAction::DropBeforeCommit => {
                drain(request).await;
                connection.cut(Cut::Fin);
                return gone();
            }
            FaultAction::CommitLate(span) => {
                let due_ms = engine.clock.now_ms().saturating_add(span.ms());
                let (parts, body) = request.into_parts();
                if let Ok(body) = axum::body::to_bytes(body, LATE_BODY).await {
                    engine.late.put(LateCall {
                        due_ms,
                        parts,
                        body,
                    });
                }
                connection.cut(Cut::Fin);
                return gone();
            }
            _ => {}
        }
    }
    let faults = Faults {
        actions: actions.clone(),
    };
    let response = face::handle(engine, request, faults).await;
    for action in &actions {
        match action {
            FaultAction::CommitThenDrop => {
                connection.cut(Cut::Fin);
                return gone();
            }
            FaultAction::CommitThenReply(given) => {
                return shape(engine, connection, reply(given), actions).await;
            }
            _ => {}
        }
    }
    shape(engine, connection, response, actions).await
}

/// Makes the late calls that are due, for their effects alone.
pub(crate) async fn run_late_calls(engine: &Arc<Engine>) {
    while let Some(call) = engine.late.take_due(engine.clock.now_ms()) {
        let request = Request::from_parts(call.parts, Body::from(call.body));
        // The client left long ago; whatever the answer is, nobody reads it.
        drop(face::handle(engine, request, Faults::default()).await);
    }
}

/// Reads a request to its end, so that the client cannot tell where it was dropped.
async fn drain(request: Request) {
    let mut body = request.into_body().into_data_stream();
    while let Some(Ok(_)) = body.next().await {}
}

/// Stands for no answer: the connection was cut, so not a byte of this is written.
fn gone() -> Response {
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

fn reply(reply: &Reply) -> Response {
    let (kind, body) = match &reply.body {
        Value::Null => (None, Body::empty()),
        Value::String(text) => (None, Body::from(text.clone())),
        json => (Some("application/json"), Body::from(json.to_string())),
    };
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if let Some(kind) = kind {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    for (name, value) in &reply.headers {
        if let (Ok(name), Ok(value)) = (
            HeaderName::try_from(name.as_str()),
            HeaderValue::try_from(value.as_str()),
        ) {
            headers.insert(name, value);
        }
    }
    response
}

/// Applies what delays, cuts and lies about an answer.
async fn shape(
    engine: &Engine,
    connection: &Connection,
    mut response: Response,
    actions: Vec<FaultAction>,
) -> Response {
    for action in actions {
        match action {
            FaultAction::DelayHeaders(Span(time)) => tokio::time::sleep(time).await,
            FaultAction::DelayBody(Span(time)) => {
                response = with_stream(response, |body| {
                    let pause = stream::once(async move {
                        tokio::time::sleep(time).await;
                        Ok(Bytes::new())
                    });
                    pause.chain(body)
                });
            }
            FaultAction::Trickle { bytes, every } => {
                response = with_stream(response, |body| trickle(body, bytes.max(1), every.0));
            }
            FaultAction::CutAfter { bytes, how } => {
                let connection = connection.clone();
                response = with_stream(response, |body| cut(body, bytes, how, connection));
            }
            FaultAction::LieContentLength(more) => {
                response = lie(response, more).await;
            }
            FaultAction::NoLength => {
                response.headers_mut().remove(header::CONTENT_LENGTH);
                // An HTTP/1.0 answer without a length ends with its connection.
                *response.version_mut() = Version::HTTP_10;
                response = with_stream(response, |body| body);
            }
            FaultAction::CloseIdle { after, how } => {
                let (connection, after) = (connection.clone(), after.0.max(FLUSH));
                response = at_the_end(response, move || connection.close_idle(after, how));
            }
            FaultAction::CloseNext(how) => {
                let connection = connection.clone();
                response = at_the_end(response, move || connection.close_next(how));
            }
            FaultAction::Gzip(how) => response = compress(response, how).await,
            FaultAction::GzipBomb { bytes } => {
                response = match axum::body::to_bytes(response.into_body(), LATE_BODY).await {
                    Ok(rest) => gzip::bomb(bytes, &rest),
                    Err(_) => gone(),
                };
            }
            FaultAction::Endless => {
                response.headers_mut().remove(header::CONTENT_LENGTH);
                let (parts, body) = response.into_parts();
                let spaces = Bytes::from(vec![b' '; 64 << 10]);
                let endless = stream::repeat_with(move || Ok(spaces.clone()));
                let body = body.into_data_stream().chain(endless);
                response = Response::from_parts(parts, Body::from_stream(body));
            }
            FaultAction::SkewDate(skew) => {
                let date = http_date(engine.clock.now_ms().saturating_add(skew.ms()));
                if let Ok(date) = HeaderValue::try_from(date) {
                    response.headers_mut().insert(header::DATE, date);
                }
            }
            FaultAction::SetHeaders(headers) => {
                for (name, value) in headers {
                    let Ok(name) = HeaderName::try_from(name) else {
                        continue;
                    };
                    match value.map(HeaderValue::try_from) {
                        Some(Ok(value)) => {
                            response.headers_mut().insert(name, value);
                        }
                        Some(Err(_)) => {}
                        None => {
                            response.headers_mut().remove(name);
                        }
                    }
                }
            }
            _ => {}
        }
    }
    response
}

fn redirect(status: u16, to: Option<&str>) -> Response {
    let mut given = Reply::status(status);
    if let Some(to) = to {
        given = given.with_header("location", to);
    }
    reply(&given)
}

async fn compress(response: Response, how: Gzip) -> Response {
    let (mut parts, body) = response.into_parts();
    let Ok(body) = axum::body::to_bytes(body, LATE_BODY).await else {
        return gone();
    };
    let (mut body, label) = gzip::encode(&body, how.kind);
    let cut = usize::try_from(how.cut).unwrap_or(usize::MAX);
    body.truncate(body.len().saturating_sub(cut));
    parts.headers.remove(header::CONTENT_LENGTH);
    if let Some(label) = label {
        let label = HeaderValue::from_static(label);
        parts.headers.insert(header::CONTENT_ENCODING, label);
    }
    Response::from_parts(parts, Body::from(body))
}

/// Does something when the last byte of the body was handed over.
///
/// A body of a known length is not asked for its end, so what counts is that nobody needs it any more.
fn at_the_end(response: Response, act: impl FnOnce() + Send + 'static) -> Response {
    let end = AtTheEnd(Some(act));
    with_stream(response, |body| {
        body.map(move |chunk| {
            let _until_dropped = &end;
            chunk
        })
    })
}

/// Calls a function when it goes.
struct AtTheEnd<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for AtTheEnd<F> {
    fn drop(&mut self) {
        if let Some(act) = self.0.take() {
            act();
        }
    }
}

/// Real time before an answer ends badly: hyper writes what it holds when the body has nothing to give for a moment, and
/// throws it away when the body fails before.
const FLUSH: Duration = Duration::from_millis(20);

type BodyStream = axum::body::BodyDataStream;

/// Replaces the body by a stream made of it; the length header stays, so a shorter body shows as cut.
fn with_stream<S>(response: Response, change: impl FnOnce(BodyStream) -> S) -> Response
where
    S: Stream<Item = Result<Bytes, axum::Error>> + Send + 'static,
{
    use axum::body::HttpBody as _;
    let (mut parts, body) = response.into_parts();
    let exact = body.size_hint().exact();
    if let Some(len) = exact
        && parts.version != Version::HTTP_10
    {
        parts
            .headers
            .entry(header::CONTENT_LENGTH)
            .or_insert_with(|| HeaderValue::from(len));
    }
    Response::from_parts(parts, Body::from_stream(change(body.into_data_stream())))
}

fn trickle(
    body: BodyStream,
    bytes: usize,
    every: Duration,
) -> impl Stream<Item = Result<Bytes, axum::Error>> + Send {
    stream::unfold((body, Bytes::new(), true), move |state| async move {
        let (mut body, mut rest, first) = state;
        while rest.is_empty() {
            match body.next().await? {
                Ok(chunk) => rest = chunk,
                Err(error) => return Some((Err(error), (body, rest, first))),
            }
        }
        if !first {
            tokio::time::sleep(every).await;
        }
        let piece = rest.split_to(bytes.min(rest.len()));
        Some((Ok(piece), (body, rest, false)))
    })
}

/// Lets `left` bytes through, gives them time to be written, and then cuts the connection.
fn cut(
    body: BodyStream,
    left: u64,
    how: Cut,
    connection: Connection,
) -> impl Stream<Item = Result<Bytes, axum::Error>> + Send {
    stream::unfold((body, left), move |(mut body, left)| {
        let connection = connection.clone();
        async move {
            if left > 0 {
                let mut chunk = match body.next().await? {
                    Ok(chunk) => chunk,
                    Err(error) => return Some((Err(error), (body, 0))),
                };
                chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - chunk.len() as u64;
                return Some((Ok(chunk), (body, left)));
            }
            tokio::time::sleep(FLUSH).await;
            connection.cut(how);
            Some((
                Err(axum::Error::new(std::io::Error::other("cut"))),
                (body, 0),
            ))
        }
    })
}

async fn lie(response: Response, more: i64) -> Response {
    let (mut parts, body) = response.into_parts();
    let Ok(body) = axum::body::to_bytes(body, LATE_BODY).await else {
        return gone();
    };
    let declared = (body.len() as u64).saturating_add_signed(more);
    parts
        .headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(declared));
    let pause = stream::once(async {
        tokio::time::sleep(FLUSH).await;
        Ok(Bytes::new())
    });
    let body = stream::iter([Ok::<_, axum::Error>(body)]).chain(pause);
    Response::from_parts(parts, Body::from_stream(body))
}

fn with_date(engine: &Engine, mut response: Response) -> Response {
    let headers = response.headers_mut();
    if !headers.contains_key(header::DATE)
        && let Ok(date) = HeaderValue::try_from(http_date(
            engine
                .clock
                .now_ms()
                .saturating_add(engine.clock.date_skew_ms()),
        ))
    {
        headers.insert(header::DATE, date);
    }
    response
}

struct InFlight<'a>(&'a Engine);

impl<'a> InFlight<'a> {
    fn enter(engine: &'a Engine) -> Self {
        engine.traffic.in_flight.enter();
        Self(engine)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.traffic.in_flight.leave();
    }
}

/// Reads a whole body of at most `limit` bytes; `None` when it is longer, `Some(Err)` when it breaks off.
pub(crate) async fn read_body(body: Body, limit: usize) -> Option<Result<Bytes, axum::Error>> {
    let mut rest = body.into_data_stream();
    let first = match rest.next().await {
        None => return Some(Ok(Bytes::new())),
        Some(Err(error)) => return Some(Err(error)),
        Some(Ok(chunk)) => chunk,
    };
    let mut whole: Option<Vec<u8>> = None;
    loop {
        match rest.next().await {
            None => break,
            Some(Err(error)) => return Some(Err(error)),
            Some(Ok(chunk)) => whole
                .get_or_insert_with(|| first.to_vec())
                .extend_from_slice(&chunk),
        }
        if whole.as_ref().is_some_and(|whole| whole.len() > limit) {
            return None;
        }
    }
    Some(Ok(whole.map_or(first, Bytes::from)))
}
