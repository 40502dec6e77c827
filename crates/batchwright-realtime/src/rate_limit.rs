//! The rate gates of one scope: requests and tokens a minute, told by option, read in headers or learned
//! from refusals.

use crate::{
    advertised::{Advertised, Reading},
    bucket::Bucket,
    pace::Pace,
};
use batchwright_core::RateLimit;
use std::time::Duration;

/// The burst where none is told, in seconds of the rate. Vendors enforce a minute's limit over shorter times,
/// often a second; a tenth less leaves room for attempts that overtake each other on their way.
const BURST: f64 = 0.9;

/// How fast is sent to one scope. Without any of it the pool learns: from headers that name limits, and from
/// refusals.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RateLimitOptions {
    /// Requests a minute; any positive number, also below 1. Default none. Where the provider's headers show
    /// a lower limit, that counts.
    pub requests_per_minute: Option<f64>,
    /// Tokens a minute, input and output together; any positive number. Default none. What a request needs is
    /// estimated before it is sent and set right by its usage.
    pub tokens_per_minute: Option<f64>,
    /// The most requests that start at once, and for tokens the same share of their limit; at least 1.
    /// Default none: what 0.9 s of the limit allow, since vendors that count by the minute enforce shorter times
    /// too. A provider known to let a whole minute's requests through at once finishes a short run sooner with
    /// more.
    pub burst: Option<u64>,
    /// Whether a pace is learned from headers and refusals. Default true; told limits then are upper bounds.
    pub learn: bool,
}

impl Default for RateLimitOptions {
    fn default() -> Self {
        Self {
            requests_per_minute: None,
            tokens_per_minute: None,
            burst: None,
            learn: true,
        }
    }
}

impl RateLimitOptions {
    /// Tells the requests a minute; `None`, and what is not a positive number, is no limit.
    #[must_use]
    pub fn with_requests_per_minute(mut self, limit: Option<f64>) -> Self {
        self.requests_per_minute = limit.filter(is_rate);
        self
    }

    /// Tells the tokens a minute; `None`, and what is not a positive number, is no limit.
    #[must_use]
    pub fn with_tokens_per_minute(mut self, limit: Option<f64>) -> Self {
        self.tokens_per_minute = limit.filter(is_rate);
        self
    }

    /// Tells how many requests may start at once; 0 counts as 1.
    #[must_use]
    pub fn with_burst(mut self, burst: Option<u64>) -> Self {
        self.burst = burst;
        self
    }

    /// Sets whether a pace is learned.
    #[must_use]
    pub fn with_learn(mut self, learn: bool) -> Self {
        self.learn = learn;
        self
    }

    /// The burst in seconds of the limit, from what was told of requests.
    fn burst_seconds(&self) -> f64 {
        match (self.burst, self.requests_per_minute) {
            (Some(burst), Some(limit)) if is_rate(&limit) => burst.max(1) as f64 * 60.0 / limit,
            _ => BURST,
        }
    }
}

fn is_rate(limit: &f64) -> bool {
    limit.is_finite() && *limit > 0.0
}

/// What an attempt took of the gates, for setting it right later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    /// The attempt's number in its scope, counted from 0.
    pub(crate) serial: u64,
    pub(crate) started: Duration,
    tokens: u64,
    /// Tokens taken in the scope up to and with this attempt.
    tokens_before: u64,
}

/// The gates of one scope. Who asks first goes first: the scope's queue asks for its head alone, so nothing is
/// promised to an item that may never be sent.
#[derive(Clone, Debug)]
pub(crate) struct RateGates {
    learn: bool,
    burst_seconds: f64,
    requests: Gate,
    tokens: Gate,
    pace: Pace,
    in_flight: u64,
    tokens_in_flight: u64,
    tokens_taken: u64,
}

#[derive(Clone, Debug)]
struct Gate {
    told: Option<f64>,
    burst: Option<f64>,
    bucket: Option<Bucket>,
    advertised: Advertised,
}

impl RateGates {
    pub(crate) fn new(options: &RateLimitOptions) -> Self {
        let burst_seconds = options.burst_seconds();
        let burst = options.burst.map(|burst| burst.max(1) as f64);
        Self {
            learn: options.learn,
            burst_seconds,
            requests: Gate::new(options.requests_per_minute, burst, burst_seconds),
            tokens: Gate::new(options.tokens_per_minute, None, burst_seconds),
            pace: Pace::new(),
            in_flight: 0,
            tokens_in_flight: 0,
            tokens_taken: 0,
        }
    }

    /// When an attempt that needs `tokens` may start; `now` or earlier is at once.
    pub(crate) fn ready_at(&mut self, now: Duration, tokens: u64) -> Duration {
        let mut at = self.pace.ready_at(now);
        if let Some(bucket) = &mut self.requests.bucket {
            at = at.max(bucket.ready_at(now, 1.0));
        }
        if let Some(bucket) = &mut self.tokens.bucket {
            at = at.max(bucket.ready_at(now, tokens as f64));
        }
        at
    }

    /// Whether tokens are limited, as far as is known.
    pub(crate) fn counts_tokens(&self) -> bool {
        self.tokens.bucket.is_some()
    }

    /// An attempt starts.
    pub(crate) fn take(&mut self, now: Duration, tokens: u64) -> Taken {
        let serial = self.pace.started(now);
        self.in_flight += 1;
        self.tokens_in_flight += tokens;
        self.tokens_taken += tokens;
        if let Some(bucket) = &mut self.requests.bucket {
            bucket.take(now, 1.0);
        }
        if let Some(bucket) = &mut self.tokens.bucket {
            bucket.take(now, tokens as f64);
        }
        Taken {
            serial,
            started: now,
            tokens,
            tokens_before: self.tokens_taken,
        }
    }

    /// The attempt came back. `tokens` is what it used; unknown leaves the estimate.
    pub(crate) fn settle(&mut self, now: Duration, taken: Taken, tokens: Option<u64>) {
        self.in_flight -= 1;
        self.tokens_in_flight -= taken.tokens;
        if let (Some(bucket), Some(tokens)) = (&mut self.tokens.bucket, tokens) {
            let over = tokens as f64 - taken.tokens as f64;
            if over > 0.0 {
                bucket.take(now, over);
            } else {
                bucket.give_back(now, -over);
            }
        }
    }

    /// The attempt never left: all of what it took is free again.
    pub(crate) fn refund(&mut self, now: Duration, taken: Taken) {
        self.give_back(now, taken);
        self.pace.unsent(now, taken.started);
    }

    /// The attempt was refused by a rate limit, which began a rest until `resume` or came late.
    pub(crate) fn refused(&mut self, now: Duration, taken: Taken, resume: Option<Duration>) {
        // Where a vendor counts what it refuses, its headers say so.
        self.give_back(now, taken);
        match resume {
            Some(resume) if self.learn => {
                self.pace.limited(now, taken.serial, taken.started, resume);
            }
            _ => self.pace.refused(taken.serial, taken.started),
        }
    }

    /// Reads the headers of the answer to an attempt that has come back.
    pub(crate) fn read(&mut self, now: Duration, taken: Taken, limit: &RateLimit) {
        if !self.learn {
            return;
        }
        // What was sent since and has come back is counted by later headers, or was refused.
        let after = (self.pace.serial() - taken.serial - 1).min(self.in_flight);
        let recent = self.pace.recent(now) as f64;
        self.requests.read(
            now,
            self.burst_seconds,
            reading(
                limit.limit_requests,
                limit.remaining_requests,
                limit.reset_requests,
            ),
            after as f64,
            recent,
        );
        let after = (self.tokens_taken - taken.tokens_before).min(self.tokens_in_flight);
        self.tokens.read(
            now,
            self.burst_seconds,
            reading(
                limit.limit_tokens,
                limit.remaining_tokens,
                limit.reset_tokens,
            ),
            after as f64,
            after as f64,
        );
    }

    fn give_back(&mut self, now: Duration, taken: Taken) {
        self.settle(now, taken, Some(0));
        if let Some(bucket) = &mut self.requests.bucket {
            bucket.give_back(now, 1.0);
        }
    }
}

fn reading(limit: Option<u64>, remaining: Option<u64>, reset: Option<Duration>) -> Option<Reading> {
    Some(Reading {
        limit: limit?,
        remaining: remaining?,
        reset: reset?,
    })
}

impl Gate {
    fn new(per_minute: Option<f64>, burst: Option<f64>, burst_seconds: f64) -> Self {
        let told = per_minute.filter(is_rate).map(|limit| limit / 60.0);
        let mut gate = Self {
            told,
            burst,
            bucket: None,
            advertised: Advertised::default(),
        };
        if let Some(rate) = told {
            let capacity = gate.capacity(rate, burst_seconds);
            gate.bucket = Some(Bucket::full(rate, capacity, Duration::ZERO));
        }
        gate
    }

    fn capacity(&self, per_second: f64, burst_seconds: f64) -> f64 {
        self.burst.unwrap_or(per_second * burst_seconds).max(1.0)
    }

    /// `after` was taken after the attempt whose answer this is, and `recent` in the last second.
    fn read(
        &mut self,
        now: Duration,
        burst_seconds: f64,
        reading: Option<Reading>,
        after: f64,
        recent: f64,
    ) {
        let Some(reading) = reading else {
            return;
        };
        if let Some(rate) = self.advertised.rate(now, reading) {
            let rate = self.told.map_or(rate, |told| told.min(rate));
            let capacity = self.capacity(rate, burst_seconds);
            match &mut self.bucket {
                Some(bucket) => bucket.set(now, rate, capacity),
                None => {
                    let mut bucket = Bucket::full(rate, capacity, now);
                    bucket.take(now, recent.min(2.0 * capacity));
                    self.bucket = Some(bucket);
                }
            }
        }
        let Some(bucket) = &mut self.bucket else {
            return;
        };
        if reading.limit > 0 {
            // What was sent since is still to be counted. Never upwards: a whole minute's requests may be left
            // where a burst of them is refused, and what was lowered too far refills soon.
            bucket.lower_to(now, reading.remaining as f64 - after);
        }
    }
}
