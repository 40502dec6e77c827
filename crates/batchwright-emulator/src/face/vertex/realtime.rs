//! Direct calls: generateContent, its stream, countTokens.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures::stream;
use serde_json::{Map, Value, json};

use super::body::{self, Prepared};
use super::error::ApiError;
use super::reply::{self, Stamp};
use super::route::Place;
use super::{Call, NAME, models, read_json};
use crate::clock::seconds;
use crate::face::wire::{self, Query, decode};
use crate::invoice::{Charge, Lane};
use crate::limits::InFlight;
use crate::model::Model;

/// Most bytes of an inference body.
const MAX_BODY: usize = 100 << 20;

pub(super) async fn generate(
    call: &Call<'_>,
    place: Place<'_>,
    model: &str,
    body: Body,
) -> Result<Response, ApiError> {
    let (prepared, stamp, _in_flight) = bought(call, place, model, body).await?;
    rest(call).await;
    Ok(wire::json(&reply::whole(&prepared, stamp)))
}

/// Server-sent events with `alt=sse`, else the pieces as one array.
pub(super) async fn stream(
    call: &Call<'_>,
    place: Place<'_>,
    model: &str,
    query: &Query,
    body: Body,
) -> Result<Response, ApiError> {
    let (prepared, stamp, _in_flight) = bought(call, place, model, body).await?;
    rest(call).await;
    let pieces = reply::pieces(&prepared, stamp);
    if query.get("alt") != Some("sse") {
        return Ok(wire::json(&pieces));
    }
    let events = pieces
        .into_iter()
        .map(|piece| Ok::<_, Infallible>(Bytes::from(format!("data: {piece}\r\n\r\n"))));
    let mut response = Response::new(Body::from_stream(stream::iter(events.collect::<Vec<_>>())));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    Ok(response)
}

pub(super) async fn count(
    call: &Call<'_>,
    place: Place<'_>,
    model: &str,
    body: Body,
) -> Result<Response, ApiError> {
    allowed(call, place, model)?;
    let body = read_json(body, MAX_BODY).await?;
    let tokens = body::count(&body)?;
    Ok(wire::json(&json!({
        "totalTokens": tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens}],
    })))
}

/// The model and the owner, if the caller may ask it.
fn allowed(
    call: &Call<'_>,
    place: Place<'_>,
    name: &str,
) -> Result<(&'static Model, String), ApiError> {
    let resource = format!(
        "//aiplatform.googleapis.com/projects/{}/locations/{}/publishers/google/models/{name}",
        place.project, place.location
    );
    let owner = call.open(
        &decode(place.project),
        "aiplatform.endpoints.predict",
        &resource,
    )?;
    let model = models::find(&decode(name)).ok_or_else(|| {
        ApiError::new(
            404,
            format!(
                "Publisher Model `projects/{}/locations/{}/publishers/google/models/{name}` was not found or your \
                 project does not have access to it.",
                place.project, place.location
            ),
        )
    })?;
    Ok((model, owner))
}

/// Reads, lets in and bills a call.
async fn bought(
    call: &Call<'_>,
    place: Place<'_>,
    model: &str,
    body: Body,
) -> Result<(Prepared, Stamp, InFlight), ApiError> {
    let (model, owner) = allowed(call, place, model)?;
    let body: Map<String, Value> = read_json(body, MAX_BODY).await?;
    let engine = call.engine;
    let prepared = body::prepare(model, &body, engine.config.seed)?;
    let (_, in_flight) = engine
        .limiter
        .admit(
            NAME,
            &owner,
            model.name,
            prepared.usage.input,
            engine.clock.limit_now(),
        )
        .map_err(|_| ApiError::of_status(429))?;
    let stamp = Stamp {
        seed: engine.config.seed,
        nonce: call.sequence,
        lane: 0,
        at_ms: call.now_ms(),
    };
    // Billed before anything is sent: a client that hangs up has bought the answer all the same.
    engine.invoice.charge(&Charge {
        face: NAME,
        key: &owner,
        lane: Lane::Realtime,
        custom_id: None,
        request_id: &stamp.response_id(),
        prompt_hash: &prepared.hash.to_string(),
        model: model.name,
        batch_id: None,
        input_tokens: prepared.usage.input,
        cached_input_tokens: prepared.usage.cached,
        output_tokens: prepared.usage.output,
        price_usd: models::price_usd(model, prepared.usage, false),
        at: seconds(stamp.at_ms),
    })?;
    Ok((prepared, stamp, in_flight))
}

async fn rest(call: &Call<'_>) {
    let latency = call.engine.config.latency;
    if latency > Duration::ZERO {
        tokio::time::sleep(latency).await;
    }
}
