//! How the router waits, spreads and decides.

use batchwright_core::RetryPolicy;
use std::time::Duration;

/// How the router waits, spreads and decides.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RouterOptions {
    /// The most batches open at once, 1 or more. Default 100: each costs a poll now and then and nothing
    /// else, and a million rows are 20.
    pub max_open_batches: usize,
    /// The most uploads and downloads at once, 1 or more. Default 4, so that they do not starve each other.
    pub max_transfers: usize,
    /// The first wait between two polls of a batch. Default 60 s; no vendor asks for more (OpenAI's guide
    /// names 30 to 60 s).
    pub poll_initial: Duration,
    /// The longest wait between two polls. Default 300 s.
    pub poll_cap: Duration,
    /// How long a create of unclear fate is looked for in the provider's list before it counts as without
    /// effect. Default 15 min, three times the create's own timeout.
    pub settle: Duration,
    /// The fewest clean readings of the list within `settle`. Default 3, against lists that lag (F-114).
    pub settle_listings: u32,
    /// How long results may be announced and not be there. Default 1 h (F-081).
    pub files_grace: Duration,
    /// The first wait when the provider's queue is full; doubles up to an hour. Default 60 s (F-010).
    pub queue_wait: Duration,
    /// Delays between attempts at calls that cost nothing; how many attempts there are is the router's own rule.
    /// Default [`RetryPolicy::default`], 500 ms to 60 s with jitter: the pace of the vendors' own clients, slow
    /// enough for many chunks that wait at once.
    pub retry: RetryPolicy,
}

impl Default for RouterOptions {
    fn default() -> Self {
        Self {
            max_open_batches: 100,
            max_transfers: 4,
            poll_initial: Duration::from_secs(60),
            poll_cap: Duration::from_secs(300),
            settle: Duration::from_secs(15 * 60),
            settle_listings: 3,
            files_grace: Duration::from_secs(3600),
            queue_wait: Duration::from_secs(60),
            retry: RetryPolicy::default(),
        }
    }
}

impl RouterOptions {
    /// Waits that suit a provider whose day passes in seconds, such as the emulator.
    pub fn for_sandbox() -> Self {
        Self {
            poll_initial: Duration::from_millis(100),
            poll_cap: Duration::from_millis(500),
            settle: Duration::from_secs(3),
            files_grace: Duration::from_secs(5),
            queue_wait: Duration::from_millis(500),
            ..Self::default()
        }
    }

    /// Sets the waits between polls.
    #[must_use]
    pub fn with_poll(mut self, initial: Duration, cap: Duration) -> Self {
        self.poll_initial = initial;
        self.poll_cap = cap;
        self
    }

    /// Sets how long and how often an unclear create is looked for.
    #[must_use]
    pub fn with_settle(mut self, settle: Duration, listings: u32) -> Self {
        self.settle = settle;
        self.settle_listings = listings;
        self
    }

    /// The wait after poll number `polls` since the last change of state.
    pub(crate) fn poll_interval(&self, polls: u32) -> Duration {
        let exponent = i32::try_from(polls.min(64)).unwrap_or(64);
        let seconds = self.poll_initial.as_secs_f64() * 1.5f64.powi(exponent);
        if seconds < self.poll_cap.as_secs_f64() {
            Duration::from_secs_f64(seconds)
        } else {
            self.poll_cap
        }
    }
}
