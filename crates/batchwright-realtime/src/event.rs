//! What a run tells about itself while it goes on.

use crate::{MetricsSnapshot, ScopeName, Warning};
use batchwright_core::{Error, Money, Usage};
use std::{sync::Arc, time::Duration};

/// Something that happened in a run. Ids, names, counters and errors; no prompt, no answer, no key.
///
/// Every item that is taken has one [`ItemStarted`](Self::ItemStarted) and ends in exactly one of
/// [`ItemCompleted`](Self::ItemCompleted), [`ItemRefused`](Self::ItemRefused), [`ItemFailed`](Self::ItemFailed) and
/// [`ItemCancelled`](Self::ItemCancelled), told after its outcome is durable; items a stopped run hands back have no
/// end, and [`RunEnded`](Self::RunEnded) counts them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The run begins. The first event.
    #[non_exhaustive]
    RunStarted {
        /// The most items in flight.
        max_in_flight: usize,
        /// How many items the source holds, where it knows.
        expected: Option<u64>,
        /// Whether nothing will be sent.
        dry_run: bool,
    },
    /// A setting that is likely not meant so.
    Warned(Warning),
    /// The run is over. The last event.
    #[non_exhaustive]
    RunEnded {
        /// What stopped it, where an error did.
        error: Option<Error>,
        /// Whether every item of the source ended.
        complete: bool,
        /// Items handed back without an end.
        unfinished: u64,
        /// What it counted.
        metrics: Arc<MetricsSnapshot>,
    },
    /// An item was taken from the source.
    #[non_exhaustive]
    ItemStarted {
        /// The row's number.
        row: u64,
        /// The request's id.
        custom_id: Arc<str>,
    },
    /// An item succeeded.
    #[non_exhaustive]
    ItemCompleted {
        /// The row's number.
        row: u64,
        /// From its first send to its end.
        latency: Option<Duration>,
        /// Attempts it took.
        attempts: u32,
        /// Tokens of all its attempts.
        usage: Usage,
        /// What it cost, where that is known.
        cost: Option<Money>,
        /// Whether a cache answered.
        cached: bool,
    },
    /// The model or a policy refused to answer.
    #[non_exhaustive]
    ItemRefused {
        /// The row's number.
        row: u64,
        /// Attempts it took.
        attempts: u32,
    },
    /// An item failed for good. Where its error's code is `middleware_dropped`, a middleware wanted it so.
    #[non_exhaustive]
    ItemFailed {
        /// The row's number.
        row: u64,
        /// Attempts it took.
        attempts: u32,
        /// Why.
        error: Error,
    },
    /// Nobody wanted an item any more before it was its turn.
    #[non_exhaustive]
    ItemCancelled {
        /// The row's number.
        row: u64,
    },
    /// An attempt is about to be made.
    #[non_exhaustive]
    AttemptStarted {
        /// The row's number.
        row: u64,
        /// Counted from 1.
        attempt: u32,
        /// Where it goes.
        scope: ScopeName,
    },
    /// An attempt failed.
    #[non_exhaustive]
    AttemptFailed {
        /// The row's number.
        row: u64,
        /// Counted from 1.
        attempt: u32,
        /// Where it went.
        scope: ScopeName,
        /// Why.
        error: Error,
        /// The wait before the next attempt; `None` where none follows.
        wait: Option<Duration>,
    },
    /// An attempt takes long: ten times the median of rows that succeeded, and a minute at least, or longer than its timeout, so that something
    /// other than the call, such as the log or a post-processor, may be stuck. Told once for each attempt, within 15 s;
    /// it goes on.
    #[non_exhaustive]
    AttemptSlow {
        /// The row's number.
        row: u64,
        /// Counted from 1.
        attempt: u32,
        /// How long it has been going on.
        running: Duration,
    },
    /// A provider said that it is asked too often.
    #[non_exhaustive]
    RateLimitHit {
        /// The row that met it.
        row: u64,
        /// Whose limit.
        scope: ScopeName,
        /// How long the provider asks to wait, where it said.
        retry_after: Option<Duration>,
    },
    /// A scope rests after a rate limit.
    #[non_exhaustive]
    CooldownBegan {
        /// Who rests.
        scope: ScopeName,
        /// For how long, as far as is known now.
        rest: Duration,
    },
    /// A scope's rest is over.
    #[non_exhaustive]
    CooldownEnded {
        /// Who rested.
        scope: ScopeName,
    },
    /// The attempts a scope may have open at once changed.
    #[non_exhaustive]
    LimitChanged {
        /// Whose limit.
        scope: ScopeName,
        /// Attempts at once from now on.
        concurrency: usize,
    },
    /// A scope's provider counts as down.
    #[non_exhaustive]
    BreakerOpened {
        /// Who is down.
        scope: ScopeName,
    },
    /// A scope's provider is up again.
    #[non_exhaustive]
    BreakerClosed {
        /// Who is up.
        scope: ScopeName,
    },
    /// The run's ceiling of money or tokens is reached: nothing new is sent.
    SpendCeilingReached,
    /// Nothing is sent until the run is resumed.
    Paused,
    /// Sending goes on.
    Resumed,
    /// So many events were left out since this was told last, because this observer is behind.
    Missed(u64),
}

impl Event {
    /// The event's stable name, `snake_case`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::RunStarted { .. } => "run_started",
            Self::Warned(_) => "warned",
            Self::RunEnded { .. } => "run_ended",
            Self::ItemStarted { .. } => "item_started",
            Self::ItemCompleted { .. } => "item_completed",
            Self::ItemRefused { .. } => "item_refused",
            Self::ItemFailed { .. } => "item_failed",
            Self::ItemCancelled { .. } => "item_cancelled",
            Self::AttemptStarted { .. } => "attempt_started",
            Self::AttemptFailed { .. } => "attempt_failed",
            Self::AttemptSlow { .. } => "attempt_slow",
            Self::RateLimitHit { .. } => "rate_limit_hit",
            Self::CooldownBegan { .. } => "cooldown_began",
            Self::CooldownEnded { .. } => "cooldown_ended",
            Self::LimitChanged { .. } => "limit_changed",
            Self::BreakerOpened { .. } => "breaker_opened",
            Self::BreakerClosed { .. } => "breaker_closed",
            Self::SpendCeilingReached => "spend_ceiling_reached",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Missed(_) => "missed",
        }
    }
}
