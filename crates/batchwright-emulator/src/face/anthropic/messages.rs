//! Direct calls: messages, token counts, and the list of models.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use futures::stream;
use serde_json::{Value, json};

use super::body::{Asking, Way};
use super::check::check;
use super::error::ApiError;
use super::models::{Facts, MODELS};
use super::reply::{Stamp, events, message};
use super::{Call, NAME, disk_error, page};
use crate::clock::{rfc3339, seconds};
use crate::face::wire::{Query, json as json_answer};
use crate::invoice::{Charge, Lane};
use crate::limits::{Headroom, Room};
use crate::server::read_body;

/// Most bytes of an inference body.
const MAX_BODY: usize = 32 << 20;
/// What the headers say of output tokens, which are not limited here.
const OUTPUT_LIMIT: u64 = 400_000;

pub(super) async fn create(call: &Call<'_>, body: Body) -> Result<Response, ApiError> {
    let body = read(body).await?;
    if let Some(refusal) = call.options.spend_limit.refusal() {
        return Err(refusal);
    }
    let engine = call.engine;
    let asking = asking(call, Way::Direct);
    let checked = check(asking, &body)?;
    let facts = checked.facts;
    let (room, _in_flight) = engine
        .limiter
        .admit(
            NAME,
            &call.key,
            facts.model.name,
            checked.tokens(),
            engine.clock.limit_now(),
        )
        .map_err(|refusal| ApiError::of_refusal(&refusal))?;
    let prepared = checked.answer(asking)?;
    let stamp = Stamp {
        seed: engine.config.seed,
        nonce: call.sequence,
        batch: false,
    };
    let usage = &prepared.usage;
    // Billed before anything is sent: a client that hangs up has bought the answer all the same.
    engine
        .invoice
        .charge(&Charge {
            face: NAME,
            key: &call.key,
            lane: Lane::Realtime,
            custom_id: None,
            request_id: &call.request_id,
            prompt_hash: &prepared.hash.to_string(),
            model: facts.model.dated,
            batch_id: None,
            input_tokens: usage.prompt(),
            cached_input_tokens: usage.cache.read,
            output_tokens: usage.output,
            price_usd: usage.price_usd(facts, false),
            at: seconds(call.now_ms()),
        })
        .map_err(|error| disk_error(&error))?;
    let mut response = if prepared.stream {
        let kind = call.options.stream_error.as_deref();
        let broken = kind.and_then(ApiError::of_kind);
        let broken = broken.as_ref().map(|error| (error, &*call.request_id));
        let events = events(&prepared, stamp, broken)
            .into_iter()
            .map(|event| Ok::<_, Infallible>(Bytes::from(event)));
        let mut response = Response::new(Body::from_stream(stream::iter(events)));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream; charset=utf-8"),
        );
        response
    } else {
        json_answer(&message(&prepared, stamp))
    };
    rate_headers(response.headers_mut(), &room, call.now_ms());
    if engine.config.latency > Duration::ZERO {
        tokio::time::sleep(engine.config.latency).await;
    }
    Ok(response)
}

/// Counts tokens. Free, and limited apart from the messages.
pub(super) async fn count(call: &Call<'_>, body: Body) -> Result<Response, ApiError> {
    let body = read(body).await?;
    let checked = check(asking(call, Way::Count), &body)?;
    let now = call.engine.clock.limit_now();
    call.engine
        .limiter
        .admit(NAME, &call.key, "count_tokens", 0, now)
        .map_err(|refusal| ApiError::of_refusal(&refusal))?;
    Ok(json_answer(&json!({"input_tokens": checked.tokens()})))
}

fn asking<'a>(call: &'a Call<'_>, way: Way) -> Asking<'a> {
    Asking {
        engine: call.engine,
        key: &call.key,
        version: call.version,
        way,
        now_ms: call.now_ms(),
    }
}

async fn read(body: Body) -> Result<Bytes, ApiError> {
    match read_body(body, MAX_BODY).await {
        Some(Ok(body)) => Ok(body),
        Some(Err(_)) => Err(ApiError::invalid("The request body could not be read.")),
        None => Err(ApiError::too_large()),
    }
}

/// The rate-limit headers, of an answer as of a refusal.
pub(super) fn rate_headers(headers: &mut HeaderMap, room: &Headroom, now_ms: i64) {
    let thousands = |tokens: u64| (tokens + 500) / 1_000 * 1_000;
    let tokens = Room {
        remaining: thousands(room.tokens.remaining).min(room.tokens.limit),
        ..room.tokens
    };
    let output = Room {
        limit: OUTPUT_LIMIT,
        remaining: OUTPUT_LIMIT,
        reset: Duration::ZERO,
    };
    for (kind, room) in [
        ("requests", room.requests),
        ("tokens", tokens),
        ("input-tokens", tokens),
        ("output-tokens", output),
    ] {
        let reset = i64::try_from(room.reset.as_millis()).unwrap_or(i64::MAX);
        // Whole seconds, rounded up.
        let at_ms = now_ms.saturating_add(reset).saturating_add(999);
        for (what, value) in [
            ("limit", room.limit.to_string()),
            ("remaining", room.remaining.to_string()),
            (
                "reset",
                rfc3339(at_ms.div_euclid(1000).saturating_mul(1000)),
            ),
        ] {
            let name = HeaderName::try_from(format!("anthropic-ratelimit-{kind}-{what}"));
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
    }
}

fn model_object(facts: &Facts) -> Value {
    use super::models::Thinking;
    let supported = |yes: bool| json!({"supported": yes});
    json!({
        "id": facts.model.dated,
        "type": "model",
        "display_name": facts.display_name,
        "created_at": facts.created_at,
        "max_input_tokens": facts.model.context,
        "max_tokens": facts.max_tokens,
        "lifecycle": if facts.retired { "retired" } else { "active" },
        "deprecated_at": null,
        "retires_at": null,
        "capabilities": {
            "batch": supported(!facts.retired),
            "citations": supported(true),
            "structured_outputs": supported(!facts.retired),
            "image_input": supported(true),
            "pdf_input": supported(true),
            "thinking": {
                "supported": true,
                "types": {
                    "enabled": supported(matches!(facts.thinking, Thinking::Enabled | Thinking::Both)),
                    "adaptive": supported(facts.thinking != Thinking::Enabled),
                },
            },
        },
    })
}

pub(super) fn list_models(query: &Query) -> Result<Response, ApiError> {
    page(MODELS.iter().map(model_object).collect(), query)
}

pub(super) fn model(name: &str) -> Result<Response, ApiError> {
    let facts = Facts::listed(name).ok_or_else(|| ApiError::no_model(name))?;
    Ok(json_answer(&model_object(facts)))
}
