//! Keeps retries a small share of what is sent, so that a failing provider is not sent more than a sound one.

use crate::bucket::Bucket;
use std::time::Duration;

/// How many retries after faults a scope allows. Retries after rate limits spend nothing, and a retry that is
/// answered gives back what it spent, so that rows flow again as soon as the provider does. A retry that finds the
/// budget empty waits, and lets first attempts pass; it does not fail.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RetryBudgetOptions {
    /// Retries for each first attempt, 0 or more. Default 0.2, Finagle's.
    pub share: f64,
    /// Retries a second that are always allowed, so that nobody waits for ever; what is not above 0 counts as
    /// one in a minute. Default 10, Finagle's.
    pub per_second: f64,
    /// The most retries saved up for a bad moment, and what a run begins with; at least 1. Default
    /// 100, as many as the clients of AWS.
    pub burst: u32,
}

impl Default for RetryBudgetOptions {
    fn default() -> Self {
        Self {
            share: 0.2,
            per_second: 10.0,
            burst: 100,
        }
    }
}

impl RetryBudgetOptions {
    /// Sets the retries for each first attempt.
    #[must_use]
    pub fn with_share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// Sets the retries a second that are always allowed.
    #[must_use]
    pub fn with_per_second(mut self, retries: f64) -> Self {
        self.per_second = retries;
        self
    }

    /// Sets the most retries saved up.
    #[must_use]
    pub fn with_burst(mut self, retries: u32) -> Self {
        self.burst = retries;
        self
    }
}

/// The retry budget of one scope.
#[derive(Clone, Debug)]
pub(crate) struct RetryBudget {
    share: f64,
    bucket: Bucket,
    /// First attempts not yet put into the bucket, which few retries ask for.
    firsts: u64,
}

impl RetryBudget {
    pub(crate) fn new(options: &RetryBudgetOptions) -> Self {
        let least = 1.0 / 60.0;
        let per_second = if options.per_second.is_finite() {
            options.per_second.max(least)
        } else {
            least
        };
        let share = if options.share.is_finite() {
            options.share.max(0.0)
        } else {
            0.0
        };
        Self {
            share,
            bucket: Bucket::full(per_second, f64::from(options.burst.max(1)), Duration::ZERO),
            firsts: 0,
        }
    }

    /// A first attempt starts.
    pub(crate) fn deposit(&mut self) {
        self.firsts += 1;
    }

    /// When a retry may start; `now` or earlier is at once.
    pub(crate) fn ready_at(&mut self, now: Duration) -> Duration {
        self.settle(now);
        self.bucket.ready_at(now, 1.0)
    }

    /// A retry after a fault starts. Only when [`RetryBudget::ready_at`] has come.
    pub(crate) fn withdraw(&mut self, now: Duration) {
        self.settle(now);
        self.bucket.take(now, 1.0);
    }

    /// A retry was answered, or never left.
    pub(crate) fn give_back(&mut self, now: Duration) {
        self.bucket.give_back(now, 1.0);
    }

    fn settle(&mut self, now: Duration) {
        let firsts = std::mem::take(&mut self.firsts);
        self.bucket.give_back(now, self.share * firsts as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    #[test]
    fn f_019_retries_stay_a_share_and_never_stop() {
        let options = RetryBudgetOptions::default();
        let mut budget = RetryBudget::new(&options);
        let mut retries = 0;
        // 100 first attempts a second for 100 s, all of which fail.
        for step in 0..10_000 {
            let now = Duration::from_millis(step * 10);
            budget.deposit();
            while budget.ready_at(now) <= now {
                budget.withdraw(now);
                retries += 1;
            }
        }
        assert!((3_000..3_200).contains(&retries), "{retries}");
        let end = Duration::from_secs(100);
        assert!(budget.ready_at(end) <= end + Duration::from_secs(1));
    }

    proptest! {
        /// However it is set, the next retry may go within a minute, and no more go than are allowed.
        #[test]
        fn it_bounds_retries_and_their_wait(
            share in proptest::num::f64::ANY,
            per_second in proptest::num::f64::ANY,
            burst in 0u32..100,
            steps in vec((any::<bool>(), 0u64..5_000), 0..300),
        ) {
            let options = RetryBudgetOptions { share, per_second, burst };
            let mut budget = RetryBudget::new(&options);
            let (mut now, mut firsts, mut retries) = (Duration::ZERO, 0.0, 0.0);
            for (first, passed) in steps {
                now += Duration::from_millis(passed);
                if first {
                    firsts += 1.0;
                    budget.deposit();
                }
                let at = budget.ready_at(now);
                prop_assert!(at <= now + Duration::from_secs(61));
                if at <= now {
                    budget.withdraw(now);
                    retries += 1.0;
                }
            }
            let share = if share.is_finite() { share.max(0.0) } else { 0.0 };
            let rate = if per_second.is_finite() { per_second.max(1.0 / 60.0) } else { 1.0 / 60.0 };
            let most = f64::from(burst.max(1)) + share * firsts + rate * now.as_secs_f64();
            prop_assert!(retries <= most + 1e-3);
        }
    }
}
