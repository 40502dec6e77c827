//! When an exchange must be over.

use std::time::Duration;
use tokio::time::Instant;

/// When an exchange must be over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    /// When it began.
    pub(crate) start: Instant,
    pub(crate) at: Instant,
    /// How long after the start that is.
    pub(crate) total: Duration,
}

impl Deadline {
    pub(crate) fn after(total: Duration) -> Self {
        let start = Instant::now();
        Self {
            start,
            at: later(start, total),
            total,
        }
    }
}

/// `instant` plus `wait`, at most some thirty years on, which no clock overflows at.
pub(crate) fn later(instant: Instant, wait: Duration) -> Instant {
    instant + wait.min(Duration::from_secs(1_000_000_000))
}
