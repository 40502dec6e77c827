//! How many attempts of one scope are open at once, found out where nobody knows.

use std::time::Duration;

/// The first limit.
const INITIAL: f64 = 8.0;
/// Latency this much above the least of late is a queue at the provider. Answers differ in length: over a
/// round of 32 the mean of lognormal latencies with a p99 of five medians errs by 12 %, far less than this.
const QUEUE: f64 = 1.5;
/// After a queue the limit falls to below the provider's capacity, so that the next round shows the latency
/// without a queue again.
const AFTER_QUEUE: f64 = 0.9 / QUEUE;
/// After a refusal or a timeout.
const AFTER_REFUSAL: f64 = 0.8;
/// The least answers of a round.
const ROUND: u32 = 32;

/// How many attempts are open at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Concurrency {
    /// Always [`PoolOptions::max_in_flight`](crate::PoolOptions::max_in_flight). The default: a provider
    /// that refuses is paced by its rate, and one that queues keeps nobody from waiting.
    #[default]
    Fixed,
    /// Found out for each scope, up to [`PoolOptions::max_in_flight`](crate::PoolOptions::max_in_flight):
    /// doubled from 8 until something gives, then raised by a tenth with each round of answers, and
    /// lowered by a fifth on a refusal, an overload or a timeout, by two fifths where latency has risen by half.
    /// For servers of one's own, which queue instead of refusing.
    Auto {
        /// Never below this; 0 counts as 1.
        min: usize,
    },
}

impl Concurrency {
    /// Found out, from 1 up.
    pub const fn auto() -> Self {
        Self::Auto { min: 1 }
    }
}

/// The limit of one scope.
#[derive(Clone, Debug)]
pub(crate) struct ConcurrencyLimit {
    auto: Option<Auto>,
    max: usize,
}

#[derive(Clone, Debug)]
struct Auto {
    min: f64,
    max: f64,
    limit: f64,
    /// Whether nothing gave yet.
    doubling: bool,
    /// When the limit last changed: attempts that began before say nothing about it.
    changed: Duration,
    answers: u32,
    /// Logarithms of latencies, whose mean a few long answers do not shift.
    latencies: f64,
    /// Whether the limit held anybody back in this round.
    bound: bool,
    /// The latency of the first round after the last fall, and after the one before: there the provider has
    /// no queue. The least of all rounds would be the least of many errors.
    base: [f64; 2],
}

impl ConcurrencyLimit {
    pub(crate) fn new(options: Concurrency, max: usize) -> Self {
        let max = max.max(1);
        let auto = match options {
            Concurrency::Fixed => None,
            Concurrency::Auto { min } => {
                let (min, max) = (min.clamp(1, max) as f64, max as f64);
                Some(Auto {
                    min,
                    max,
                    limit: INITIAL.clamp(min, max),
                    doubling: true,
                    changed: Duration::ZERO,
                    answers: 0,
                    latencies: 0.0,
                    bound: false,
                    base: [f64::INFINITY; 2],
                })
            }
        };
        Self { auto, max }
    }

    pub(crate) fn limit(&self) -> usize {
        // Between 1 and `max`.
        self.auto
            .as_ref()
            .map_or(self.max, |auto| auto.limit as usize)
    }

    /// An attempt starts and `in_flight` are open with it.
    pub(crate) fn started(&mut self, in_flight: usize) {
        if let Some(auto) = &mut self.auto {
            auto.bound |= in_flight >= auto.limit as usize;
        }
    }

    /// An attempt that began then was answered, and took this long without what was recorded of it.
    pub(crate) fn answered(&mut self, now: Duration, started: Duration, took: Duration) {
        let Some(auto) = &mut self.auto else {
            return;
        };
        if started < auto.changed {
            return;
        }
        auto.answers += 1;
        auto.latencies += took.as_secs_f64().max(1e-6).ln();
        if auto.answers >= ROUND.max(auto.limit as u32) {
            auto.round(now);
        }
    }

    /// An attempt that began then was refused, met an overload or took too long.
    pub(crate) fn refused(&mut self, now: Duration, started: Duration) {
        if let Some(auto) = &mut self.auto
            && started >= auto.changed
        {
            auto.doubling = false;
            auto.change(now, auto.limit * AFTER_REFUSAL);
        }
    }
}

impl Auto {
    fn round(&mut self, now: Duration) {
        let latency = (self.latencies / f64::from(self.answers)).exp();
        if self.base[0] == f64::INFINITY {
            self.base[0] = latency;
        }
        if latency > QUEUE * self.base[0].min(self.base[1]) {
            self.doubling = false;
            // Two falls forget a latency that is never seen again, as where requests got longer.
            self.base = [f64::INFINITY, self.base[0]];
            self.change(now, self.limit * AFTER_QUEUE);
        } else if !self.bound {
            self.change(now, self.limit);
        } else if self.doubling {
            self.change(now, self.limit * 2.0);
        } else {
            self.change(now, self.limit + (self.limit / 10.0).max(1.0));
        }
    }

    /// Begins a new round with this limit.
    fn change(&mut self, now: Duration, limit: f64) {
        let limit = limit.clamp(self.min, self.max);
        if limit.floor() != self.limit.floor() {
            self.changed = now;
        }
        self.limit = limit;
        self.answers = 0;
        self.latencies = 0.0;
        self.bound = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};
    use std::{cmp::Reverse, collections::BinaryHeap};

    /// A server that works on `capacity` requests at once and keeps the rest waiting in order.
    struct Server {
        /// When each of its workers is free.
        free: BinaryHeap<Reverse<Duration>>,
        work: Duration,
        random: u64,
    }

    impl Server {
        fn new(capacity: usize, work_ms: u64) -> Self {
            Self {
                free: vec![Reverse(Duration::ZERO); capacity].into(),
                work: Duration::from_millis(work_ms),
                random: 7,
            }
        }

        /// When a request that comes now is answered; work is lognormal with p99 of five medians.
        fn answer_at(&mut self, now: Duration) -> Duration {
            let mut uniform = || {
                self.random = self
                    .random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                ((self.random >> 11) as f64 + 0.5) / (1u64 << 53) as f64
            };
            let (one, two) = (uniform(), uniform());
            let normal = (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * two).cos();
            let work = self.work.mul_f64((0.69 * normal).exp());
            let Reverse(free) = self.free.pop().unwrap();
            let end = free.max(now) + work;
            self.free.push(Reverse(end));
            end
        }
    }

    /// Runs for that long with as much to do as the limit allows; returns answers and each round's limit.
    fn drive(
        limit: &mut ConcurrencyLimit,
        server: &mut Server,
        from: Duration,
        until: Duration,
    ) -> (usize, Vec<usize>) {
        let mut open: BinaryHeap<Reverse<(Duration, Duration)>> = BinaryHeap::new();
        let (mut now, mut answers, mut limits) = (from, 0, Vec::new());
        while now < until {
            while open.len() < limit.limit() {
                open.push(Reverse((server.answer_at(now), now)));
                limit.started(open.len());
            }
            let Reverse((at, started)) = open.pop().unwrap();
            now = at;
            answers += 1;
            limit.answered(now, started, now - started);
            limits.push(limit.limit());
        }
        (answers, limits)
    }

    #[test]
    fn it_settles_near_the_capacity_of_a_server_that_queues_and_follows_its_growth() {
        let second = Duration::from_secs(1);
        for capacity in [10, 50, 200] {
            let mut limit = ConcurrencyLimit::new(Concurrency::Auto { min: 1 }, 1000);
            let mut server = Server::new(capacity, 300);
            drive(&mut limit, &mut server, Duration::ZERO, second * 60);
            let (answers, limits) = drive(&mut limit, &mut server, second * 60, second * 180);
            // The mean of the work is exp(0.69² / 2) medians.
            let possible = capacity as f64 * 120.0 / (0.3 * (0.69f64.powi(2) / 2.0).exp());
            let share = answers as f64 / possible;
            let mean = limits.iter().sum::<usize>() as f64 / limits.len() as f64 / capacity as f64;
            println!("capacity {capacity}: limit {mean:.2} of it, throughput {share:.3}");
            assert!(
                share > 0.85,
                "capacity {capacity}: {share} of the throughput"
            );
            assert!(
                (0.8..2.0).contains(&mean),
                "capacity {capacity}: limit {mean} of it"
            );
            let mut larger = Server::new(capacity * 3, 300);
            drive(&mut limit, &mut larger, second * 180, second * 240);
            let (answers, limits) = drive(&mut limit, &mut larger, second * 240, second * 360);
            let share = answers as f64 / possible / 3.0;
            let mean = limits.iter().sum::<usize>() as f64 / limits.len() as f64 / capacity as f64;
            println!(
                "  grown: limit {:.2} of it, throughput {share:.3}",
                mean / 3.0
            );
            assert!(
                share > 0.85,
                "grown from {capacity}: {share} of the throughput"
            );
        }
    }

    #[test]
    fn f_004_it_stays_below_what_is_refused() {
        let mut limit = ConcurrencyLimit::new(Concurrency::Auto { min: 1 }, 1000);
        let (mut refused, mut sum) = (0, 0);
        for step in 0..2000u32 {
            let (started, now) = (
                Duration::from_millis((step * 20).into()),
                Duration::from_millis((step * 20 + 10).into()),
            );
            let open = limit.limit();
            if step > 1000 {
                sum += open;
                refused += u32::from(open > 20);
            }
            limit.started(open);
            if open > 20 {
                limit.refused(now, started);
            } else {
                limit.answered(now, started, now - started);
            }
        }
        assert!(sum / 999 >= 16, "80 % of 20: {}", sum / 999);
        assert!(refused * 20 < 999, "{refused}");
    }

    #[test]
    fn fixed_is_constant() {
        let mut limit = ConcurrencyLimit::new(Concurrency::Fixed, 0);
        for step in 0..100 {
            limit.refused(Duration::from_secs(step), Duration::from_secs(step));
            let (now, took) = (Duration::from_secs(step + 9), Duration::from_secs(9));
            limit.answered(now, Duration::from_secs(step), took);
        }
        assert_eq!(limit.limit(), 1);
    }

    #[test]
    fn refusals_of_one_moment_lower_it_once() {
        let mut limit = ConcurrencyLimit::new(Concurrency::Auto { min: 1 }, 1000);
        for _ in 0..100 {
            limit.refused(Duration::from_secs(2), Duration::from_secs(1));
        }
        assert_eq!(limit.limit(), 6);
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(
            min in 0usize..50,
            max in 0usize..50,
            events in vec((any::<bool>(), 0u64..100_000, 0u64..100_000), 0..400),
        ) {
            let mut limit = ConcurrencyLimit::new(Concurrency::Auto { min }, max);
            for (answered, began, took) in events {
                let started = Duration::from_millis(began);
                let now = started + Duration::from_millis(took);
                limit.started(limit.limit());
                if answered {
                    limit.answered(now, started, now - started);
                } else {
                    limit.refused(now, started);
                }
                prop_assert!(limit.limit() <= max.max(1));
                prop_assert!(limit.limit() >= min.clamp(1, max.max(1)));
            }
        }
    }
}
