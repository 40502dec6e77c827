//! Direct calls: chat completions, responses, embeddings, and the list of models.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use futures::stream;
use serde::Serialize;
use serde_json::Value;

use super::body::{Endpoint, Prepared, Ways, prepare};
use super::error::{ApiError, INVALID, go_duration};
use super::quirks::{Models, Quirks, RateHeaders};
use super::reply::{Stamp, chat_events};
use super::rows::write_shaped;
use super::{Call, Part, disk_error, error_response, json, json_bytes, shape};
use crate::clock::seconds;
use crate::invoice::{Charge, Lane};
use crate::limits::{Headroom, RefusalKind, Room};
use crate::server::read_body;

/// Most bytes of an inference body.
const MAX_BODY: usize = 64 << 20;

pub(super) async fn infer(
    call: &Call<'_>,
    endpoint: Endpoint,
    deployment: Option<&str>,
    body: Body,
) -> Result<Response, ApiError> {
    let mut body = read(body, MAX_BODY).await?;
    if let Some(name) = deployment {
        body = with_model(call, name, &body)?;
    }
    let engine = call.engine;
    let quirks = &*call.quirks;
    let ways = Ways {
        dialect: call.dialect(),
        quirks,
    };
    let prepared = prepare(ways, endpoint, &body, engine.config.seed)?;
    let model = prepared.model;
    let admitted = engine.limiter.admit(
        call.dialect().name,
        &call.key,
        model.name,
        prepared.usage.input,
        engine.clock.limit_now(),
    );
    let (room, _in_flight) = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            let mut error = ApiError::of_refusal(model.name, &refusal);
            if quirks.rate_headers == RateHeaders::Day && refusal.kind == RefusalKind::TooLarge {
                error.status = 413;
            }
            let mut response = error_response(quirks, &error);
            rate_headers(quirks, response.headers_mut(), &refusal.room);
            return Ok(response);
        }
    };
    if quirks.no_flex_capacity && prepared.service_tier == "flex" {
        return Err(ApiError::no_capacity());
    }
    let stamp = Stamp {
        seed: engine.config.seed,
        nonce: call.sequence,
        lane: 0,
        created: seconds(call.now_ms()),
    };
    let request_id = stamp.request_id();
    // Billed before anything is sent: a client that hangs up has bought the answer all the same.
    engine
        .invoice
        .charge(&Charge {
            face: call.dialect().name,
            key: &call.key,
            lane: Lane::Realtime,
            custom_id: None,
            request_id: &request_id,
            prompt_hash: &prepared.hash.to_string(),
            model: model.dated,
            batch_id: None,
            input_tokens: prepared.usage.input,
            cached_input_tokens: prepared.usage.cached,
            output_tokens: prepared.usage.output,
            price_usd: model.price_usd(prepared.usage, false),
            at: stamp.created,
        })
        .map_err(|error| disk_error(&error))?;
    let mut response = if prepared.stream {
        let events = chat_events(&prepared, stamp);
        let events = shaped_events(ways, &prepared, stamp, events)
            .into_iter()
            .map(|event| Ok::<_, Infallible>(Bytes::from(event)));
        let events = stream::iter(events);
        let mut response = Response::new(Body::from_stream(events));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream; charset=utf-8"),
        );
        response
    } else {
        let mut out = Vec::with_capacity(1024);
        if quirks.leading_blank_lines {
            out.extend_from_slice(b"\n\n\n");
        }
        write_shaped(ways, endpoint, &prepared, stamp, &mut out);
        json_bytes(out)
    };
    let headers = response.headers_mut();
    rate_headers(quirks, headers, &room);
    if let Ok(request_id) = HeaderValue::try_from(request_id) {
        headers.insert("x-request-id", request_id);
    }
    if engine.config.latency > Duration::ZERO {
        tokio::time::sleep(engine.config.latency).await;
    }
    Ok(response)
}

/// Reads a JSON call's body.
pub(super) async fn read(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    match read_body(body, limit).await {
        Some(Ok(body)) => Ok(body),
        Some(Err(_)) => Err(ApiError::of_status(400)),
        None => Err(ApiError::too_large(limit as u64 + 1, limit as u64)),
    }
}

/// A body that names the model of a deployment's path.
fn with_model(call: &Call<'_>, name: &str, body: &[u8]) -> Result<Bytes, ApiError> {
    let Some(model) = call.dialect().model_for(&call.quirks, name) else {
        return Err(ApiError::new(
            404,
            INVALID,
            Some("DeploymentNotFound"),
            "The API deployment for this resource does not exist.",
        ));
    };
    let Ok(Value::Object(mut parsed)) = serde_json::from_slice(body) else {
        return Err(ApiError::of_status(400));
    };
    parsed.insert("model".to_owned(), Value::from(model.name));
    let body = serde_json::to_vec(&parsed).expect("JSON serializes into memory");
    Ok(Bytes::from(body))
}

/// The events of a stream as this server sends them.
fn shaped_events(
    ways: Ways<'_>,
    prepared: &Prepared,
    stamp: Stamp,
    mut events: Vec<Vec<u8>>,
) -> Vec<Vec<u8>> {
    let Ways { dialect, quirks } = ways;
    if !quirks.stream_done {
        events.pop();
    }
    if dialect.finish.is_some() || *quirks != Quirks::none() {
        for event in &mut events {
            let chunk = event
                .strip_prefix(b"data: ")
                .and_then(|text| serde_json::from_slice::<Value>(text).ok());
            if let Some(mut chunk) = chunk {
                shape::answer(quirks, prepared.usage.reasoning, &mut chunk);
                if let Some(finish) = dialect.finish {
                    let id = stamp.request_id();
                    finish(Part::Answer { id: &id }, &mut chunk);
                }
                *event = format!("data: {chunk}\n\n").into_bytes();
            }
        }
    }
    if quirks.stream_comments {
        events.insert(0, b": keep-alive\n\n".to_vec());
    }
    events
}

fn rate_headers(quirks: &Quirks, headers: &mut HeaderMap, room: &Headroom) {
    let requests = match quirks.rate_headers {
        RateHeaders::Absent => return,
        RateHeaders::Day => &room.day,
        RateHeaders::Minute | RateHeaders::Seconds | RateHeaders::Negative => &room.requests,
    };
    let rooms: [(&Room, [&'static str; 3]); 2] = [
        (
            requests,
            [
                "x-ratelimit-limit-requests",
                "x-ratelimit-remaining-requests",
                "x-ratelimit-reset-requests",
            ],
        ),
        (
            &room.tokens,
            [
                "x-ratelimit-limit-tokens",
                "x-ratelimit-remaining-tokens",
                "x-ratelimit-reset-tokens",
            ],
        ),
    ];
    for (room, [limit, remaining, reset]) in rooms {
        let reset_text = match quirks.rate_headers {
            RateHeaders::Seconds | RateHeaders::Negative => room.reset.as_secs().to_string(),
            _ => go_duration(room.reset),
        };
        if quirks.rate_headers == RateHeaders::Negative {
            headers.insert(limit, HeaderValue::from_static("-1"));
            headers.insert(remaining, HeaderValue::from_static("-1"));
        } else {
            headers.insert(limit, HeaderValue::from(room.limit));
            headers.insert(remaining, HeaderValue::from(room.remaining));
        }
        if let Ok(value) = HeaderValue::try_from(reset_text) {
            headers.insert(reset, value);
        }
    }
}

#[derive(Serialize)]
struct ModelObject {
    id: &'static str,
    object: &'static str,
    created: i64,
    owned_by: &'static str,
}

impl ModelObject {
    fn new(name: &'static str) -> Self {
        Self {
            id: name,
            object: "model",
            created: 1_721_172_741,
            owned_by: "system",
        }
    }
}

pub(super) fn list_models(call: &Call<'_>) -> Result<Response, ApiError> {
    if call.quirks.models == Models::Absent {
        return Err(ApiError::new(404, INVALID, None, "Not Found"));
    }
    let names = call.dialect().models.iter().flat_map(|model| {
        let dated = (model.dated != model.name).then_some(model.dated);
        std::iter::once(model.name).chain(dated)
    });
    let list = names
        .map(|name| serde_json::to_value(ModelObject::new(name)).unwrap_or_default())
        .collect();
    Ok(json(&shape::models(call.quirks.models, list)))
}

pub(super) fn model(call: &Call<'_>, name: &str) -> Result<Response, ApiError> {
    let model = call
        .dialect()
        .model(name)
        .ok_or_else(|| ApiError::model_not_found(name))?;
    let name = if model.name == name {
        model.name
    } else {
        model.dated
    };
    Ok(json(&ModelObject::new(name)))
}
