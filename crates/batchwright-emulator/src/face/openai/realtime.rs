//! Direct calls: chat completions, responses, embeddings, and the list of models.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use futures::stream;
use serde::Serialize;

use super::body::{Endpoint, prepare};
use super::error::{ApiError, go_duration};
use super::reply::{Stamp, chat_events, write};
use super::{Call, disk_error, error_response};
use crate::clock::seconds;
use crate::face::wire::{json, json_bytes};
use crate::invoice::{Charge, Lane};
use crate::limits::{Headroom, Room};
use crate::server::read_body;

/// Most bytes of an inference body.
const MAX_BODY: usize = 64 << 20;

pub(super) async fn infer(
    call: &Call<'_>,
    endpoint: Endpoint,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read(body, MAX_BODY).await?;
    let engine = call.engine;
    let prepared = prepare(call.dialect(), endpoint, &body, engine.config.seed)?;
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
            let mut response = error_response(&ApiError::of_refusal(model.name, &refusal));
            rate_headers(response.headers_mut(), &refusal.room);
            return Ok(response);
        }
    };
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
        let events = chat_events(&prepared, stamp)
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
        write(endpoint, &prepared, stamp, &mut out);
        json_bytes(out)
    };
    let headers = response.headers_mut();
    rate_headers(headers, &room);
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

fn rate_headers(headers: &mut HeaderMap, room: &Headroom) {
    let rooms: [(&Room, [&'static str; 3]); 2] = [
        (
            &room.requests,
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
        headers.insert(limit, HeaderValue::from(room.limit));
        headers.insert(remaining, HeaderValue::from(room.remaining));
        if let Ok(value) = HeaderValue::try_from(go_duration(room.reset)) {
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

pub(super) fn list_models(call: &Call<'_>) -> Response {
    #[derive(Serialize)]
    struct List {
        object: &'static str,
        data: Vec<ModelObject>,
    }
    let names = call.dialect().models.iter().flat_map(|model| {
        let dated = (model.dated != model.name).then_some(model.dated);
        std::iter::once(model.name).chain(dated)
    });
    json(&List {
        object: "list",
        data: names.map(ModelObject::new).collect(),
    })
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
