//! The pool's settings, each with its reason.

use crate::{HookOptions, Scope, ScopeOptions, SpendOptions, TokenEstimator};
use batchwright_core::{PriceTable, RetryPolicy};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The pool's settings.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolOptions {
    /// The most rows in flight: from before their intent is recorded until their outcome is. At least 1.
    /// Default 16: keeps a slow model busy, stays under the lowest published concurrency limit we know
    /// (20, kluster.ai's first tier), and is the most rows a crash can send twice. Local servers do better
    /// with 4 to 8.
    ///
    /// Rows waiting to be tried again are not in flight. The pool holds fewer than twice this many rows
    /// in all, whatever the provider answers.
    pub max_in_flight: usize,
    /// The longest one attempt may take. Default 600 s, since a caller that gives up before the model
    /// is done pays for the answer and does not get it (F-041).
    pub attempt_timeout: Duration,
    /// The longest a row may take from its arrival in the pool to its last attempt's end; past it, the
    /// row fails with kind `Timeout`. `None` is no bound: a provider that limits the rate for ever then
    /// keeps the run going for ever. Default 26 h: daily limits reset within 24 h (F-003), and after that
    /// one longest wait of an hour and an attempt still fit.
    pub item_deadline: Option<Duration>,
    /// How long the provider may be unreachable before it was reached at all: past it the run stops instead of
    /// waiting for the deadline of each row, since an address or a proxy is likely wrong. Default 60 s.
    pub first_contact: Duration,
    /// When a failed attempt is followed by another.
    pub retry: RetryPolicy,
    /// After this many rows in a row that failed for good in the same way, with no success in the run,
    /// the run stops; 0 is never. Default 20: enough to tell a wrong setting from a few bad rows, and
    /// cheap to repeat (F-027).
    pub identical_failures: u32,
    /// How many attempts of a run may follow an ambiguous failure, as a share of the rows taken so far;
    /// one more stops the run, since each may be paid twice (F-122). Default 0.05.
    pub extra_paid_share: f64,
    /// How many such attempts are allowed at least, whatever the share says. Default 20, so that one
    /// dropped connection pool does not stop a small run.
    pub extra_paid_floor: u64,
    /// How each scope (a provider, model and key whose limits are shared) is sent to: its rate limits, the rest
    /// after a 429, attempts at once, the circuit breaker, the retry budget. Items that wait for any of it hold no
    /// place and spend no attempt; within a scope they go in the order they came.
    pub scope: ScopeOptions,
    /// The same for single scopes, by their deployment, else by `provider:model`, else by model. Default none.
    pub scopes: BTreeMap<String, ScopeOptions>,
    /// The spend budget of a run. Default none.
    pub spend: SpendOptions,
    /// Guesses what a request will use, for gates by tokens and for the spend budget.
    pub estimator: TokenEstimator,
    /// Whether nothing is sent: each item ends as its strategy's [`dry_run`](crate::Strategy::dry_run) says, with no
    /// attempt and no cost. Strategies are not prepared, the log is told nothing, and no limit is waited for; middleware,
    /// post-processors and observers are called as ever. Default false.
    pub dry_run: bool,
    /// Bounds for middleware, post-processors, observers and the progress callback.
    pub hooks: HookOptions,
    /// Prices for the cost in an outcome's provenance. Default none: every cost is unknown.
    pub prices: Option<Arc<PriceTable>>,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            max_in_flight: 16,
            attempt_timeout: Duration::from_secs(600),
            item_deadline: Some(Duration::from_secs(26 * 3600)),
            first_contact: Duration::from_secs(60),
            retry: RetryPolicy::default(),
            identical_failures: 20,
            extra_paid_share: 0.05,
            extra_paid_floor: 20,
            scope: ScopeOptions::default(),
            scopes: BTreeMap::new(),
            spend: SpendOptions::default(),
            estimator: TokenEstimator::default(),
            dry_run: false,
            hooks: HookOptions::default(),
            prices: None,
        }
    }
}

impl PoolOptions {
    /// How many rows in flight keep a limit of so many requests a minute busy where a call takes `latency`: as many as
    /// begin in that time, and half as many again since calls differ. At least 4. Without a limit 16, the default, for
    /// whoever does not want to think; [`Concurrency::Auto`](crate::Concurrency) finds out more, within
    /// `max_in_flight`. More rows than this wait for the limit all the same, and a crash sends more of them twice.
    ///
    /// ```
    /// use batchwright_realtime::PoolOptions;
    /// use std::time::Duration;
    ///
    /// let places = PoolOptions::recommend_in_flight(Some(600.0), Duration::from_secs(4));
    /// assert_eq!(places, 60);
    /// let options = PoolOptions::default().with_max_in_flight(places);
    /// # assert_eq!(options.max_in_flight, 60);
    /// ```
    pub fn recommend_in_flight(requests_per_minute: Option<f64>, latency: Duration) -> usize {
        match requests_per_minute {
            // The cast saturates, and takes what is no number as 0.
            Some(rate) => ((rate / 60.0 * latency.as_secs_f64() * 1.5).ceil() as usize).max(4),
            None => 16,
        }
    }

    /// Bounds the rows in flight; 0 counts as 1.
    #[must_use]
    pub fn with_max_in_flight(mut self, max_in_flight: usize) -> Self {
        self.max_in_flight = max_in_flight;
        self
    }

    /// Bounds one attempt.
    #[must_use]
    pub fn with_attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// Bounds a row from its arrival to its end.
    #[must_use]
    pub fn with_item_deadline(mut self, deadline: Option<Duration>) -> Self {
        self.item_deadline = deadline;
        self
    }

    /// Sets how long the provider may be unreachable before it was reached at all.
    #[must_use]
    pub fn with_first_contact(mut self, patience: Duration) -> Self {
        self.first_contact = patience;
        self
    }

    /// Sets when a failed attempt is followed by another.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Sets after how many identical failures the run stops; 0 is never.
    #[must_use]
    pub fn with_identical_failures(mut self, rows: u32) -> Self {
        self.identical_failures = rows;
        self
    }

    /// Bounds the attempts that may be paid twice: `share` of the rows taken so far, at least `floor`.
    #[must_use]
    pub fn with_extra_paid(mut self, share: f64, floor: u64) -> Self {
        self.extra_paid_share = share;
        self.extra_paid_floor = floor;
        self
    }

    /// Sets how scopes are sent to.
    #[must_use]
    pub fn with_scope(mut self, scope: ScopeOptions) -> Self {
        self.scope = scope;
        self
    }

    /// Sets how one scope is sent to, by its deployment, by `provider:model` or by model.
    #[must_use]
    pub fn with_scope_of(mut self, name: impl Into<String>, scope: ScopeOptions) -> Self {
        self.scopes.insert(name.into(), scope);
        self
    }

    /// Sets the spend budget.
    #[must_use]
    pub fn with_spend(mut self, spend: SpendOptions) -> Self {
        self.spend = spend;
        self
    }

    /// Sets what guesses the tokens of a request.
    #[must_use]
    pub fn with_estimator(mut self, estimator: TokenEstimator) -> Self {
        self.estimator = estimator;
        self
    }

    /// The options of this scope.
    pub(crate) fn of_scope(&self, scope: Scope<'_>) -> &ScopeOptions {
        let full = format!("{}:{}", scope.provider, scope.model);
        [scope.deployment, &full, scope.model]
            .into_iter()
            .find_map(|name| self.scopes.get(name))
            .unwrap_or(&self.scope)
    }

    /// Sets whether nothing is sent.
    #[must_use]
    pub fn with_dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Sets bounds for middleware, post-processors, observers and the progress callback.
    #[must_use]
    pub fn with_hooks(mut self, hooks: HookOptions) -> Self {
        self.hooks = hooks;
        self
    }

    /// Prices for the cost in an outcome's provenance.
    #[must_use]
    pub fn with_prices(mut self, prices: Arc<PriceTable>) -> Self {
        self.prices = Some(prices);
        self
    }
}
