//! Opens the spans of a run and records into them; names follow the open convention for generative AI.
//!
//! No prompt, answer or key is ever a field.

use crate::{Progress, ScopeName, Warning};
use batchwright_core::{Error, Outcome, Payload, Request, Usage};
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

/// Another so many rows ended.
pub(crate) fn progressed(progress: &Progress, total: Option<u64>) {
    debug!(
        batchwright.done = progress.done(),
        batchwright.total = total,
        batchwright.succeeded = progress.succeeded,
        batchwright.failed = progress.failed,
        batchwright.in_flight = progress.in_flight,
        batchwright.waiting = progress.waiting,
        "rows ended",
    );
}

/// The progress callback broke.
pub(crate) fn progress_failed(how: &str) {
    warn!("the progress callback failed: {how}");
}

/// An attempt takes far longer than others.
pub(crate) fn slow(row: u64, attempt: u32, running: Duration) {
    warn!(
        batchwright.row = row,
        batchwright.attempt = attempt,
        seconds = running.as_secs(),
        "an attempt takes far longer than others; it goes on"
    );
}

/// A post-processor broke.
pub(crate) fn not_post_processed(row: u64, how: &str) {
    warn!(batchwright.row = row, "a post-processor failed: {how}");
}

/// A setting is likely not meant so.
pub(crate) fn warned(warning: &Warning) {
    warn!("{warning}");
}

/// An attempt begins. Counted for the `metrics` facade where the feature is on.
#[inline]
pub(crate) fn count_attempt(scope: &ScopeName) {
    #[cfg(feature = "metrics")]
    facade::attempt(scope);
    let _ = scope;
}

/// An attempt is followed by another.
#[inline]
pub(crate) fn count_retry(scope: &ScopeName, error: &Error) {
    #[cfg(feature = "metrics")]
    facade::retry(scope, error);
    let _ = (scope, error);
}

/// A row ended.
#[inline]
pub(crate) fn count_end<T>(outcome: &Outcome<T>, usage: &Usage) {
    #[cfg(feature = "metrics")]
    facade::end(outcome, usage);
    let _ = (outcome, usage);
}

/// Counters and histograms of the `metrics` facade. Labels are names of providers and models and words of ours: their
/// number does not grow with the rows.
#[cfg(feature = "metrics")]
mod facade {
    use crate::ScopeName;
    use batchwright_core::{Error, Outcome, Usage};
    use metrics::{SharedString, counter, histogram};
    use std::sync::Arc;

    const PROVIDER: &str = "gen_ai.provider.name";
    const MODEL: &str = "gen_ai.request.model";

    fn label(name: &Arc<str>) -> SharedString {
        SharedString::from_shared(Arc::clone(name))
    }

    pub(super) fn attempt(scope: &ScopeName) {
        let (provider, model) = (label(&scope.provider), label(&scope.model));
        counter!("batchwright_attempts_total", PROVIDER => provider, MODEL => model).increment(1);
    }

    pub(super) fn retry(scope: &ScopeName, error: &Error) {
        let (provider, model) = (label(&scope.provider), label(&scope.model));
        let why = error.kind().as_str();
        counter!("batchwright_retries_total", PROVIDER => provider, MODEL => model, "error.type" => why)
            .increment(1);
    }

    pub(super) fn end<T>(outcome: &Outcome<T>, usage: &Usage) {
        let provenance = &outcome.provenance;
        let of = |name: &Option<Arc<str>>| name.as_ref().map(label).unwrap_or_default();
        let (provider, model) = (of(&provenance.provider), of(&provenance.model));
        let labels = [
            metrics::Label::new(PROVIDER, provider),
            metrics::Label::new(MODEL, model),
        ];
        let mut ended = labels.to_vec();
        ended.push(metrics::Label::new("outcome", outcome.ending.as_str()));
        counter!("batchwright_rows_total", ended).increment(1);
        if let Some(latency) = provenance.latency {
            histogram!("batchwright_row_seconds", labels.to_vec()).record(latency.as_secs_f64());
        }
        for (kind, tokens) in [
            ("input", usage.input_tokens),
            ("output", usage.output_tokens),
        ] {
            let mut labels = labels.to_vec();
            labels.push(metrics::Label::new("gen_ai.token.type", kind));
            counter!("batchwright_tokens_total", labels).increment(tokens.unwrap_or(0));
        }
    }
}
