//! When another attempt follows a failed one: a pure function of what happened and of the time.

use crate::{Error, ErrorKind, RetryClass};
use std::time::Duration;

/// How retries are spaced and bounded. Immutable; the counters of one item are a [`RetryState`].
///
/// ```
/// use batchwright_core::{Error, ErrorKind, RetryDecision, RetryPolicy, RetryState};
/// use std::time::Duration;
///
/// let policy = RetryPolicy::default();
/// let mut state = RetryState::default();
/// let slow_down = Error::new(ErrorKind::RateLimited, "slow down").with_retry_after(Duration::from_secs(20));
/// match policy.decide(&mut state, &slow_down, 0.5) {
///     RetryDecision::Retry { after } => assert!(after >= Duration::from_secs(20)),
///     RetryDecision::GiveUp => unreachable!("a rate limit is waited out"),
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Attempts of a request that failed without cost (`NotSent`, and `Rejected` by overload), the first one
    /// included; attempts a rate limit rejected do not count. Default none, which is no bound but the
    /// pool's `PoolOptions::item_deadline`: a request that was never served is worth waiting for, and costs nothing
    /// meanwhile (F-020, F-030).
    pub max_attempts: Option<u32>,
    /// Extra attempts after an `Ambiguous` failure, each of which may be paid twice. Default 1.
    pub max_ambiguous_retries: u32,
    /// Further attempts after an answer that was not what was asked for
    /// ([`ErrorKind::InvalidOutput`](crate::ErrorKind)), each of which is paid. Default 2, made at once: the provider
    /// is not under load, and the model may say something else.
    pub max_invalid_retries: u32,
    /// Attempts of a request that a rate limit may reject before that is its end. Default none, which is no bound but
    /// the pool's `PoolOptions::item_deadline`: such attempts cost nothing, and the limit is not the request's fault
    /// (F-001).
    pub max_rate_limited: Option<u32>,
    /// The first delay. Default 500 ms, as the vendors' own clients.
    pub initial: Duration,
    /// Factor from one delay to the next. Default 2.
    pub multiplier: f64,
    /// The longest delay of our own making. Default 60 s.
    pub cap: Duration,
    /// The longest delay a server may ask for; longer ones are cut to it. Default 1 h, since a bulk job
    /// is in no hurry, yet must end (F-016).
    pub ceiling: Duration,
    /// The shortest delay, also where a server says 0 (F-013). Default 100 ms.
    pub floor: Duration,
    /// How randomness spreads delays. Default [`Jitter::Full`].
    pub jitter: Jitter,
}

/// How randomness spreads a delay, so that many waiting rows do not fire together (F-019).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Jitter {
    /// Anywhere between the floor and the delay.
    Full,
    /// The delay plus or minus this share of it, 0 to 1; 0 is no jitter.
    Proportional(f64),
}

/// What happened to one item so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryState {
    /// Attempts that ended in a failure of class `NotSent`, or `Rejected` other than by a rate limit.
    pub faults: u32,
    /// Attempts that ended in an `Ambiguous` failure.
    pub ambiguous: u32,
    /// Attempts a rate limit rejected.
    pub rate_limited: u32,
    /// Attempts whose answer was not what was asked for.
    pub invalid: u32,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is no third way")]
pub enum RetryDecision {
    /// Another attempt, after this wait.
    Retry {
        /// How long to wait first.
        after: Duration,
    },
    /// The failure is final.
    GiveUp,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: None,
            max_ambiguous_retries: 1,
            max_invalid_retries: 2,
            max_rate_limited: None,
            initial: Duration::from_millis(500),
            multiplier: 2.0,
            cap: Duration::from_secs(60),
            ceiling: Duration::from_secs(3600),
            floor: Duration::from_millis(100),
            jitter: Jitter::Full,
        }
    }
}

impl RetryPolicy {
    /// For idempotent reads (poll, list, download): every retryable failure counts as a fault, since
    /// asking again costs nothing.
    pub fn for_reads() -> Self {
        Self {
            max_attempts: Some(6),
            max_ambiguous_retries: 6,
            cap: Duration::from_secs(30),
            ..Self::default()
        }
    }

    /// Counts the failure and decides. `random` is uniform in 0..1 and handed in, so that decisions
    /// replay.
    pub fn decide(&self, state: &mut RetryState, error: &Error, random: f64) -> RetryDecision {
        if error.kind() == ErrorKind::InvalidOutput && error.should_retry() != Some(false) {
            state.invalid = state.invalid.saturating_add(1);
            if state.invalid > self.max_invalid_retries {
                return RetryDecision::GiveUp;
            }
            return RetryDecision::Retry {
                after: Duration::ZERO,
            };
        }
        if !error.is_retryable() {
            return RetryDecision::GiveUp;
        }
        let (step, spent) = match error.class() {
            RetryClass::Rejected if error.is_rate_limited() => {
                state.rate_limited = state.rate_limited.saturating_add(1);
                let bound = self.max_rate_limited.unwrap_or(u32::MAX);
                (state.rate_limited, state.rate_limited >= bound)
            }
            RetryClass::Ambiguous => {
                state.ambiguous = state.ambiguous.saturating_add(1);
                (
                    state.ambiguous,
                    state.ambiguous > self.max_ambiguous_retries,
                )
            }
            _ => {
                state.faults = state.faults.saturating_add(1);
                let bound = self.max_attempts.unwrap_or(u32::MAX);
                (state.faults, state.faults >= bound)
            }
        };
        if spent {
            return RetryDecision::GiveUp;
        }
        RetryDecision::Retry {
            after: self.delay(step, error.retry_after(), random),
        }
    }

    /// The wait before retry number `step`, counted from 1: never under the server's `hint` (up to the
    /// ceiling), which is spread upwards by up to a tenth, and never under the floor.
    pub fn delay(&self, step: u32, hint: Option<Duration>, random: f64) -> Duration {
        let random = if random.is_finite() {
            random.clamp(0.0, 1.0)
        } else {
            0.5
        };
        let own = self.step(step);
        let own = match self.jitter {
            Jitter::Full => own.mul_f64(random),
            Jitter::Proportional(share) => {
                own.mul_f64((1.0 + share.clamp(0.0, 1.0) * (2.0 * random - 1.0)).max(0.0))
            }
        };
        let hinted = hint.map_or(Duration::ZERO, |hint| {
            let hint = hint.min(self.ceiling);
            hint.saturating_add(hint.mul_f64(0.1 * random))
                .min(self.ceiling.max(hint))
        });
        own.max(hinted).max(self.floor)
    }

    /// The delay of `step` before jitter: `initial * multiplier^(step - 1)`, at most `cap`.
    fn step(&self, step: u32) -> Duration {
        let exponent = i32::try_from(step.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial.as_secs_f64() * self.multiplier.max(1.0).powi(exponent);
        if seconds.is_finite() && seconds < self.cap.as_secs_f64() {
            Duration::from_secs_f64(seconds)
        } else {
            self.cap
        }
    }
}

#[cfg(feature = "backoff")]
impl From<&backoff::ExponentialBackoff> for RetryPolicy {
    /// The delays of `backoff`'s `next_backoff`: initial interval, multiplier, longest interval and
    /// randomisation. Its `max_elapsed_time` is left out, because it runs on the standard clock;
    /// `PoolOptions::item_deadline` bounds time here.
    fn from(backoff: &backoff::ExponentialBackoff) -> Self {
        Self {
            initial: backoff.initial_interval,
            multiplier: backoff.multiplier,
            cap: backoff.max_interval,
            jitter: Jitter::Proportional(backoff.randomization_factor),
            floor: Duration::ZERO,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn f_013_f_016_server_delays_are_honoured_and_bounded() {
        let policy = RetryPolicy::default();
        let wait = |seconds| policy.delay(1, Some(Duration::from_secs(seconds)), 0.5);
        assert!(wait(20) >= Duration::from_secs(20) && wait(20) <= Duration::from_secs(22));
        assert_eq!(wait(999_999_999), policy.ceiling);
        assert!(policy.delay(1, Some(Duration::ZERO), 0.0) >= policy.floor);
    }

    #[test]
    fn f_001_a_rate_limit_spends_no_attempt() {
        let policy = RetryPolicy {
            max_attempts: Some(2),
            ..RetryPolicy::default()
        };
        let mut state = RetryState::default();
        let limited = Error::new(ErrorKind::RateLimited, "slow down");
        for _ in 0..100 {
            assert!(matches!(
                policy.decide(&mut state, &limited, 0.1),
                RetryDecision::Retry { .. }
            ));
        }
        assert_eq!((state.rate_limited, state.faults), (100, 0));
        let bounded = RetryPolicy {
            max_rate_limited: Some(101),
            ..policy
        };
        assert_eq!(
            bounded.decide(&mut state, &limited, 0.1),
            RetryDecision::GiveUp
        );
    }

    #[test]
    fn f_020_f_030_what_costs_nothing_is_tried_until_the_deadline() {
        let mut state = RetryState::default();
        for kind in [ErrorKind::Connect, ErrorKind::Overloaded].repeat(500) {
            let decision = RetryPolicy::default().decide(&mut state, &Error::new(kind, "x"), 0.5);
            assert!(matches!(decision, RetryDecision::Retry { .. }));
        }
    }

    #[test]
    fn f_122_one_extra_paid_attempt_by_default() {
        let policy = RetryPolicy::default();
        let mut state = RetryState::default();
        let cut = Error::new(ErrorKind::Timeout, "read the answer");
        assert!(matches!(
            policy.decide(&mut state, &cut, 0.5),
            RetryDecision::Retry { .. }
        ));
        assert_eq!(policy.decide(&mut state, &cut, 0.5), RetryDecision::GiveUp);
    }

    #[test]
    fn f_005_stops_and_fatal_rows_are_never_retried() {
        for kind in [
            ErrorKind::QuotaExceeded,
            ErrorKind::InvalidRequest,
            ErrorKind::Unauthenticated,
        ] {
            let decision = RetryPolicy::default().decide(
                &mut RetryState::default(),
                &Error::new(kind, "x"),
                0.5,
            );
            assert_eq!(decision, RetryDecision::GiveUp, "{kind}");
        }
    }

    #[test]
    fn a_39_an_answer_that_does_not_fit_is_asked_for_again_at_once_within_its_bound() {
        let policy = RetryPolicy::default();
        let mut state = RetryState::default();
        let misfit = Error::new(
            ErrorKind::InvalidOutput,
            "read the answer as the schema says",
        );
        for _ in 0..2 {
            let again = RetryDecision::Retry {
                after: Duration::ZERO,
            };
            assert_eq!(policy.decide(&mut state, &misfit, 0.5), again);
        }
        assert_eq!(
            policy.decide(&mut state, &misfit, 0.5),
            RetryDecision::GiveUp
        );
        assert_eq!((state.faults, state.ambiguous), (0, 0));
    }

    proptest! {
        /// F-016, F-019: whatever comes in, the wait lies between the floor and the larger of cap and ceiling.
        #[test]
        fn every_wait_is_bounded(step in 0u32.., hint in proptest::option::of(0u64..), random in proptest::num::f64::ANY) {
            let policy = RetryPolicy::default();
            let wait = policy.delay(step, hint.map(Duration::from_secs), random);
            prop_assert!(wait >= policy.floor);
            prop_assert!(wait <= policy.cap.max(policy.ceiling));
            if let Some(hint) = hint {
                prop_assert!(wait >= Duration::from_secs(hint).min(policy.ceiling));
            }
        }

        /// F-122: a run of failures of any classes ends where it is bounded.
        #[test]
        fn a_run_of_faults_ends(classes in proptest::collection::vec(0u8..2, 64)) {
            let policy = RetryPolicy { max_attempts: Some(10), ..RetryPolicy::default() };
            let mut state = RetryState::default();
            let ended = classes.iter().any(|class| {
                let kind = if *class == 0 { ErrorKind::Connect } else { ErrorKind::Timeout };
                policy.decide(&mut state, &Error::new(kind, "x"), 0.5) == RetryDecision::GiveUp
            });
            prop_assert!(ended);
        }
    }

    #[cfg(feature = "backoff")]
    #[test]
    fn the_adapter_gives_the_delays_of_backoff() {
        use backoff::backoff::Backoff;
        let mut theirs = backoff::ExponentialBackoff {
            randomization_factor: 0.0,
            ..Default::default()
        };
        let ours = RetryPolicy::from(&theirs);
        for step in 1..=12 {
            let expected = theirs.next_backoff().expect("no elapsed time yet");
            let got = ours.delay(step, None, 0.5);
            assert!(
                got.abs_diff(expected) < Duration::from_millis(1),
                "step {step}: {got:?} {expected:?}"
            );
        }
    }
}
