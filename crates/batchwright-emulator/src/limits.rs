//! Rate limits: token buckets per face, key and model, and a bound on open requests per key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::config::Limits;

/// Decides which realtime requests are let in.
#[derive(Debug)]
pub(crate) struct Limiter {
    limits: Limits,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    buckets: HashMap<(&'static str, String, &'static str), Buckets>,
    in_flight: HashMap<String, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Buckets {
    requests: Bucket,
    day: Bucket,
    tokens: Bucket,
}

/// What is left after a request was let in or refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headroom {
    /// Requests per minute.
    pub(crate) requests: Room,
    /// Requests per day.
    pub(crate) day: Room,
    /// Tokens per minute.
    pub(crate) tokens: Room,
}

/// One bucket's numbers, as the rate-limit headers show them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// Time until the bucket is full.
    pub(crate) reset: Duration,
}

/// Why a request was not let in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) kind: RefusalKind,
    pub(crate) limit: u64,
    pub(crate) used: u64,
    pub(crate) requested: u64,
    pub(crate) retry_after: Duration,
    pub(crate) room: Headroom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalKind {
    Requests,
    /// Requests per day.
    Day,
    Tokens,
    /// One request is larger than the whole limit.
    TooLarge,
    Concurrency,
}

/// Holds a place among a key's open requests until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    held: Option<(String, Arc<Mutex<State>>)>,
}

impl Limiter {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: Arc::default(),
        }
    }

    pub(crate) fn clear(&self) {
        lock(&self.state).buckets.clear();
    }

    /// Lets a request in, or says why not. `now` is [`crate::clock::VirtualClock::limit_now`].
    pub(crate) fn admit(
        &self,
        face: &'static str,
        key: &str,
        model: &'static str,
        tokens: u64,
        now: Duration,
    ) -> Result<(Headroom, InFlight), Box<Refusal>> {
        let Limits {
            requests_per_minute,
            requests_per_day,
            tokens_per_minute,
            max_in_flight,
            ..
        } = self.limits;
        let limited = [
            requests_per_minute,
            requests_per_day,
            tokens_per_minute,
            max_in_flight,
        ]
        .iter()
        .any(Option::is_some);
        if !limited {
            return Ok((Headroom::plenty(tokens), InFlight { held: None }));
        }
        let mut state = lock(&self.state);
        let buckets = state
            .buckets
            .entry((face, key.to_owned(), model))
            .or_insert_with(|| Buckets {
                requests: Bucket::full(requests_per_minute.unwrap_or(PLENTY_REQUESTS), MINUTE, now),
                day: Bucket::full(requests_per_day.unwrap_or(PLENTY_A_DAY), DAY, now),
                tokens: Bucket::full(tokens_per_minute.unwrap_or(PLENTY_TOKENS), MINUTE, now),
            });
        buckets.requests.refill(now);
        buckets.day.refill(now);
        buckets.tokens.refill(now);
        let refuse = |kind, bucket: &Bucket, requested: u64, room: Headroom| {
            Box::new(Refusal {
                kind,
                limit: bucket.limit,
                used: bucket.limit - bucket.remaining(),
                requested,
                retry_after: bucket.wait_for(requested),
                room,
            })
        };
        let room = buckets.room();
        if tokens > buckets.tokens.limit {
            return Err(refuse(RefusalKind::TooLarge, &buckets.tokens, tokens, room));
        }
        if !buckets.requests.has(1) {
            return Err(refuse(RefusalKind::Requests, &buckets.requests, 1, room));
        }
        if !buckets.day.has(1) {
            return Err(refuse(RefusalKind::Day, &buckets.day, 1, room));
        }
        if !buckets.tokens.has(tokens) {
            return Err(refuse(RefusalKind::Tokens, &buckets.tokens, tokens, room));
        }
        let mut taken = *buckets;
        taken.requests.take(1);
        taken.day.take(1);
        taken.tokens.take(tokens);
        let mut guard = InFlight { held: None };
        if let Some(limit) = max_in_flight {
            let open = state.in_flight.entry(key.to_owned()).or_default();
            if *open >= limit {
                return Err(Box::new(Refusal {
                    kind: RefusalKind::Concurrency,
                    limit,
                    used: *open,
                    requested: 1,
                    retry_after: Duration::from_secs(1),
                    room,
                }));
            }
            *open += 1;
            guard.held = Some((key.to_owned(), Arc::clone(&self.state)));
        }
        state.buckets.insert((face, key.to_owned(), model), taken);
        Ok((taken.room(), guard))
    }
}

/// What the headers say where no limit is set.
const PLENTY_REQUESTS: u64 = 30_000;
const PLENTY_A_DAY: u64 = 14_400_000;
const PLENTY_TOKENS: u64 = 150_000_000;

impl Headroom {
    fn plenty(tokens: u64) -> Self {
        Self {
            requests: Room {
                limit: PLENTY_REQUESTS,
                remaining: PLENTY_REQUESTS - 1,
                reset: Duration::from_millis(2),
            },
            day: Room {
                limit: PLENTY_A_DAY,
                remaining: PLENTY_A_DAY - 1,
                reset: Duration::from_millis(6),
            },
            tokens: Room {
                limit: PLENTY_TOKENS,
                remaining: PLENTY_TOKENS.saturating_sub(tokens),
                reset: Duration::ZERO,
            },
        }
    }
}

impl Buckets {
    fn room(&self) -> Headroom {
        Headroom {
            requests: self.requests.room(),
            day: self.day.room(),
            tokens: self.tokens.room(),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some((key, state)) = self.held.take()
            && let Some(open) = lock(&state).in_flight.get_mut(&key)
        {
            *open = open.saturating_sub(1);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A token bucket: as large as one period's limit, refilled evenly.
///
/// One unit is as many grains as the period has microseconds; a limit of n then gives n grains per microsecond, so that
/// refilling is exact.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    limit: u64,
    grains: u128,
    /// Grains of a unit: the period in microseconds.
    unit: u128,
    at: Duration,
}

const MINUTE: u128 = 60_000_000;
const DAY: u128 = 86_400_000_000;

impl Bucket {
    fn full(limit: u64, unit: u128, now: Duration) -> Self {
        Self {
            limit,
            grains: u128::from(limit) * unit,
            unit,
            at: now,
        }
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_micros();
        let full = u128::from(self.limit) * self.unit;
        let gained = passed.saturating_mul(u128::from(self.limit));
        self.grains = full.min(self.grains.saturating_add(gained));
        self.at = self.at.max(now);
    }

    fn has(&self, amount: u64) -> bool {
        self.grains >= u128::from(amount) * self.unit
    }

    fn take(&mut self, amount: u64) {
        self.grains = self.grains.saturating_sub(u128::from(amount) * self.unit);
    }

    fn remaining(&self) -> u64 {
        u64::try_from(self.grains / self.unit).unwrap_or(u64::MAX)
    }

    fn wait_for(&self, amount: u64) -> Duration {
        let missing = (u128::from(amount) * self.unit).saturating_sub(self.grains);
        if self.limit == 0 {
            return Duration::from_secs(60);
        }
        let micros = missing.div_ceil(u128::from(self.limit));
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn room(&self) -> Room {
        Room {
            limit: self.limit,
            remaining: self.remaining(),
            reset: self.wait_for(self.limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn f_001_requests_run_out_and_come_back_evenly() {
        let limiter = Limiter::new(Limits::default().with_requests_per_minute(2));
        assert!(limiter.admit("f", "k", "m", 1, at(0)).is_ok());
        assert!(limiter.admit("f", "k", "m", 1, at(0)).is_ok());
        let refusal = limiter.admit("f", "k", "m", 1, at(0)).expect_err("empty");
        assert_eq!(refusal.kind, RefusalKind::Requests);
        assert_eq!(refusal.retry_after, at(30));
        assert_eq!(refusal.room.requests.reset, at(60));
        assert!(limiter.admit("f", "other", "m", 1, at(0)).is_ok());
        assert!(limiter.admit("f", "k", "m", 1, at(29)).is_err());
        assert!(limiter.admit("f", "k", "m", 1, at(30)).is_ok());
    }

    #[test]
    fn f_003_a_days_requests_run_out_apart_from_the_minutes() {
        let limiter = Limiter::new(Limits::default().with_requests_per_day(2));
        assert!(limiter.admit("f", "k", "m", 1, at(0)).is_ok());
        assert!(limiter.admit("f", "k", "m", 1, at(60)).is_ok());
        let refusal = limiter.admit("f", "k", "m", 1, at(120)).expect_err("empty");
        assert_eq!(refusal.kind, RefusalKind::Day);
        assert_eq!(refusal.room.day.limit, 2);
        assert!(limiter.admit("f", "k", "m", 1, at(43_200)).is_ok());
    }

    #[test]
    fn f_002_a_request_larger_than_the_limit_is_told_apart() {
        let limiter = Limiter::new(Limits::default().with_tokens_per_minute(100));
        let large = limiter
            .admit("f", "k", "m", 101, at(0))
            .expect_err("too large");
        assert_eq!(large.kind, RefusalKind::TooLarge);
        assert!(limiter.admit("f", "k", "m", 100, at(0)).is_ok());
        let empty = limiter.admit("f", "k", "m", 50, at(0)).expect_err("empty");
        assert_eq!(empty.kind, RefusalKind::Tokens);
        assert_eq!(empty.retry_after, at(30));
    }

    #[test]
    fn f_004_open_requests_are_bounded_per_key() {
        let limiter = Limiter::new(Limits::default().with_max_in_flight(1));
        let held = limiter.admit("f", "k", "m", 1, at(0)).expect("first");
        let refusal = limiter.admit("f", "k", "m", 1, at(0)).expect_err("second");
        assert_eq!(refusal.kind, RefusalKind::Concurrency);
        drop(held);
        assert!(limiter.admit("f", "k", "m", 1, at(0)).is_ok());
    }
}
