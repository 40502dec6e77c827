//! How the router waits, spreads and decides.

use crate::spec::{Split, UniqueIds};
use batchwright_core::RetryPolicy;
use std::{collections::BTreeMap, time::Duration};

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
    /// How long after an attempt was given up its batch is still looked for (a ghost, F-113). Default 24 h, the longest
    /// a batch waits for its turn.
    pub ghost_watch: Duration,
    /// How far apart such looks are while the drive runs anyway. Default 15 min: each is a reading of the list.
    pub ghost_interval: Duration,
    /// How long results may be announced and not be there. Default 1 h (F-081).
    pub files_grace: Duration,
    /// The first wait when the provider's queue is full; doubles up to an hour, and ends when a batch of ours does.
    /// Default 60 s (F-010).
    pub queue_wait: Duration,
    /// What a provider's queue takes, by its registered name. Default empty: a limit is learned when the provider
    /// refuses a batch and names it.
    pub queue_limits: BTreeMap<String, QueueLimit>,
    /// How long [`BatchRouter::wait_all`](crate::BatchRouter::wait_all) waits at most. Default 24 h, the usual window.
    pub timeout: Duration,
    /// Among which requests a `custom_id` must be the only one of its kind. Default [`UniqueIds::Global`].
    pub unique_ids: UniqueIds,
    /// Whether and how requests that make more than one batch are cut. Default `None`: they are refused. For
    /// [`BatchRouter::run`](crate::BatchRouter::run) and its like; chunks of a store are cut by whoever fills it.
    pub split: Option<Split>,
    /// Delays between attempts at calls that cost nothing; how many attempts there are is the router's own rule.
    /// Default [`RetryPolicy::default`], 500 ms to 60 s with jitter: the pace of the vendors' own clients, slow
    /// enough for many chunks that wait at once.
    pub retry: RetryPolicy,
}

/// What a provider's queue takes of one account, where the caller knows it.
///
/// ```
/// # use batchwright_router::{QueueLimit, RouterOptions};
/// let tier_two = QueueLimit::default().with_tokens(20_000_000).with_open(50);
/// let options = RouterOptions::default().with_queue_limit("openai", tier_two);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueLimit {
    /// The most input tokens, as estimated, in open batches of one model. Default `None`. One batch alone always goes:
    /// whether it fits is the provider's to say.
    pub max_enqueued_tokens: Option<u64>,
    /// The most open batches, of all models together, 1 or more. Default `None`, which is what the provider documents
    /// ([`BatchLimits::max_open`](batchwright_core::BatchLimits)).
    pub max_open: Option<u64>,
}

impl QueueLimit {
    /// Sets the most input tokens in open batches of one model.
    #[must_use]
    pub fn with_tokens(mut self, tokens: u64) -> Self {
        self.max_enqueued_tokens = Some(tokens);
        self
    }

    /// Sets the most open batches.
    #[must_use]
    pub fn with_open(mut self, batches: u64) -> Self {
        self.max_open = Some(batches);
        self
    }
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
            ghost_watch: Duration::from_secs(24 * 3600),
            ghost_interval: Duration::from_secs(15 * 60),
            files_grace: Duration::from_secs(3600),
            queue_wait: Duration::from_secs(60),
            queue_limits: BTreeMap::new(),
            timeout: Duration::from_secs(24 * 3600),
            unique_ids: UniqueIds::default(),
            split: None,
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
            ghost_interval: Duration::from_secs(1),
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

    /// Sets how long is waited for the end of batches at most.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets among which requests a `custom_id` must be the only one of its kind.
    #[must_use]
    pub fn with_unique_ids(mut self, unique: UniqueIds) -> Self {
        self.unique_ids = unique;
        self
    }

    /// Has requests that make more than one batch cut.
    #[must_use]
    pub fn with_split(mut self, split: Split) -> Self {
        self.split = Some(split);
        self
    }

    /// Says what a provider's queue takes.
    #[must_use]
    pub fn with_queue_limit(mut self, provider: impl Into<String>, limit: QueueLimit) -> Self {
        self.queue_limits.insert(provider.into(), limit);
        self
    }

    /// The wait after poll number `polls` since the last change of state.
    pub(crate) fn poll_interval(&self, polls: u32) -> Duration {
        grown(self.poll_initial, self.poll_cap, polls)
    }
}

/// `initial` grown by half `times` times, and no longer than `cap`.
pub(crate) fn grown(initial: Duration, cap: Duration, times: u32) -> Duration {
    let exponent = i32::try_from(times.min(64)).unwrap_or(64);
    let seconds = initial.as_secs_f64() * 1.5f64.powi(exponent);
    if seconds < cap.as_secs_f64() {
        Duration::from_secs_f64(seconds)
    } else {
        cap
    }
}
