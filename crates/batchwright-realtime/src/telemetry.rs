//! Opens the spans of a run and records into them; names follow the open convention for generative AI.
//!
//! No prompt, answer or key is ever a field.

use crate::scope_name::ScopeName;
use batchwright_core::{Error, Payload, Request, Usage};
use std::time::Duration;
use tracing::{Span, debug, debug_span, field::Empty, warn};

/// One row, from its first attempt to its end.
pub(crate) fn row(provider: &str, request: &Request) -> Span {
    debug_span!(
        "row",
        gen_ai.operation.name = match request.payload {
            Payload::Chat(_) => "chat",
            Payload::Embedding(_) => "embeddings",
            _ => "raw",
        },
        gen_ai.provider.name = provider,
        gen_ai.request.model = request.model,
        batchwright.custom_id = request.custom_id,
    )
}

/// One attempt at a row.
pub(crate) fn attempt(row: &Span, number: u32) -> Span {
    debug_span!(
        parent: row,
        "attempt",
        batchwright.attempt = number,
        gen_ai.response.model = Empty,
        gen_ai.usage.input_tokens = Empty,
        gen_ai.usage.output_tokens = Empty,
        error.type = Empty,
    )
}

/// An attempt was answered.
pub(crate) fn answered(attempt: &Span, model: Option<&str>, usage: &Usage) {
    if let Some(model) = model {
        attempt.record("gen_ai.response.model", model);
    }
    if let Some(tokens) = usage.input_tokens {
        attempt.record("gen_ai.usage.input_tokens", tokens);
    }
    if let Some(tokens) = usage.output_tokens {
        attempt.record("gen_ai.usage.output_tokens", tokens);
    }
}

/// An attempt failed.
pub(crate) fn failed(attempt: &Span, error: &Error) {
    attempt.record("error.type", error.kind().as_str());
}

/// A row waits for its next attempt.
pub(crate) fn backoff(row: &Span, wait: Duration) {
    debug!(
        parent: row,
        batchwright.backoff_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        "wait before the next attempt",
    );
}

/// A rate limit makes a scope rest.
pub(crate) fn cooldown(scope: &ScopeName, rest: Duration) {
    debug!(
        gen_ai.provider.name = &*scope.provider,
        gen_ai.request.model = &*scope.model,
        batchwright.cooldown_ms = u64::try_from(rest.as_millis()).unwrap_or(u64::MAX),
        "rest after a rate limit",
    );
}

/// A scope's provider counts as down.
pub(crate) fn down(scope: &ScopeName) {
    warn!(
        gen_ai.provider.name = &*scope.provider,
        gen_ai.request.model = &*scope.model,
        "the provider is down: rows wait",
    );
}

/// A scope's provider is back.
pub(crate) fn back(scope: &ScopeName) {
    debug!(
        gen_ai.provider.name = &*scope.provider,
        gen_ai.request.model = &*scope.model,
        "the provider is back",
    );
}

/// A run ended before its source did.
pub(crate) fn stopped(error: &Error) {
    warn!(error.type = error.kind().as_str(), "the run stopped: {error}");
}

/// A strategy could not clean up after itself.
pub(crate) fn not_cleaned(error: &Error) {
    warn!(error.type = error.kind().as_str(), "a strategy did not clean up: {error}");
}
