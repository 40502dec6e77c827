//! Direct calls: generate, stream, count, embed; and the list of models.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures::stream as streams;
use serde_json::{Value, json};

use super::body::{self, Prepared, list};
use super::error::ApiError;
use super::models::{MAX_OUTPUT, MODELS};
use super::{Call, disk_error, page, proto, read, reply};
use crate::clock::seconds;
use crate::face::wire::{Query, json as json_answer};
use crate::invoice::{Charge, Lane};
use crate::limits::InFlight;
use crate::model::Model;

/// Most bytes of a direct call's body.
const MAX_BODY: usize = 64 << 20;

pub(super) async fn generate(
    call: &Call<'_>,
    model: &'static Model,
    body: Body,
) -> Result<Response, ApiError> {
    let (prepared, id, _in_flight) = bought(call, model, body).await?;
    let answer = reply::whole(&prepared, &id);
    rest(call).await;
    Ok(json_answer(&answer))
}

pub(super) async fn stream(
    call: &Call<'_>,
    model: &'static Model,
    sse: bool,
    body: Body,
) -> Result<Response, ApiError> {
    let (prepared, id, _in_flight) = bought(call, model, body).await?;
    let pieces = reply::pieces(&prepared, &id);
    rest(call).await;
    if !sse {
        return Ok(json_answer(&pieces));
    }
    let events = pieces
        .into_iter()
        .map(|piece| Ok::<_, Infallible>(Bytes::from(format!("data: {piece}\r\n\r\n"))));
    let mut response = Response::new(Body::from_stream(streams::iter(events)));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    Ok(response)
}

/// A question that was let in, answered and billed.
async fn bought(
    call: &Call<'_>,
    model: &'static Model,
    body: Body,
) -> Result<(Prepared, String, InFlight), ApiError> {
    let body = proto::read(&read(body, MAX_BODY).await?, &proto::GENERATE)?;
    let prepared = body::generate(call.asker(), model, &body)?;
    let in_flight = admit(call, model, prepared.usage.input)?;
    let id = reply::response_id(call.engine.config.seed, call.sequence);
    charge(call, &prepared, &id)?;
    Ok((prepared, id, in_flight))
}

fn admit(call: &Call<'_>, model: &'static Model, tokens: u64) -> Result<InFlight, ApiError> {
    let admitted = call.engine.limiter.admit(
        super::NAME,
        &call.key,
        model.name,
        tokens,
        call.engine.clock.limit_now(),
    );
    match admitted {
        Ok((_, in_flight)) => Ok(in_flight),
        Err(refusal) => Err(ApiError::of_refusal(&call.switches, model.name, &refusal)),
    }
}

/// Billed before anything is sent: a client that hangs up has bought the answer all the same.
fn charge(call: &Call<'_>, prepared: &Prepared, id: &str) -> Result<(), ApiError> {
    let usage = prepared.usage;
    call.engine
        .invoice
        .charge(&Charge {
            face: super::NAME,
            key: &call.key,
            lane: Lane::Realtime,
            custom_id: None,
            request_id: id,
            prompt_hash: &prepared.hash.to_string(),
            model: prepared.model.dated,
            batch_id: None,
            input_tokens: usage.input,
            cached_input_tokens: usage.cached,
            output_tokens: usage.output,
            price_usd: prepared.price_usd(false),
            at: seconds(call.now_ms()),
        })
        .map_err(|error| disk_error(&error))
}

async fn rest(call: &Call<'_>) {
    if call.engine.config.latency > Duration::ZERO {
        tokio::time::sleep(call.engine.config.latency).await;
    }
}

pub(super) async fn count(
    call: &Call<'_>,
    model: &'static Model,
    body: Body,
) -> Result<Response, ApiError> {
    let body = proto::read(&read(body, MAX_BODY).await?, &proto::COUNT)?;
    let (total, cached) = body::count(call.asker(), model, &body)?;
    let mut answer = json!({
        "totalTokens": total,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": total}],
    });
    if cached > 0 {
        answer["cachedContentTokenCount"] = Value::from(cached);
    }
    Ok(json_answer(&answer))
}

pub(super) async fn embed(
    call: &Call<'_>,
    model: &'static Model,
    body: Body,
) -> Result<Response, ApiError> {
    let body = proto::read(&read(body, MAX_BODY).await?, &proto::EMBED)?;
    let vector = embedded(call, model, &body)?;
    Ok(json_answer(&json!({"embedding": vector})))
}

pub(super) async fn embed_many(
    call: &Call<'_>,
    model: &'static Model,
    body: Body,
) -> Result<Response, ApiError> {
    let body = proto::read(&read(body, MAX_BODY).await?, &proto::EMBED_MANY)?;
    let requests = list(&body, "requests");
    if requests.is_empty() || requests.len() > 100 {
        return Err(ApiError::invalid(
            "* BatchEmbedContentsRequest.requests: at least 1 and at most 100 requests can be in one batch\n",
        ));
    }
    let vectors = requests
        .iter()
        .map(|request| embedded(call, model, request))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(json_answer(&json!({"embeddings": vectors})))
}

fn embedded(call: &Call<'_>, model: &'static Model, body: &Value) -> Result<Value, ApiError> {
    let prepared = body::embed(model, body)?;
    let _in_flight = admit(call, model, prepared.usage.input)?;
    let id = reply::response_id(call.engine.config.seed, call.sequence);
    charge(call, &prepared, &id)?;
    Ok(reply::embedding(&prepared))
}

fn object(model: &Model) -> Value {
    let methods: &[&str] = if model.is_embedding() {
        &["embedContent", "countTokens", "asyncBatchEmbedContent"]
    } else {
        &[
            "generateContent",
            "countTokens",
            "createCachedContent",
            "batchGenerateContent",
        ]
    };
    json!({
        "name": format!("models/{}", model.name),
        "version": "001",
        "displayName": model.name,
        "inputTokenLimit": model.context,
        "outputTokenLimit": MAX_OUTPUT,
        "supportedGenerationMethods": methods,
        "thinking": model.reasons(),
    })
}

pub(super) fn list_models(query: &Query) -> Result<Response, ApiError> {
    let objects = (0..).zip(MODELS.iter().map(object)).collect();
    page("models", objects, query, 1_000)
}

pub(super) fn model(name: &str) -> Result<Response, ApiError> {
    let model = super::models::find(name).ok_or_else(|| ApiError::no_model(name, "getModel"))?;
    Ok(json_answer(&object(model)))
}
