//! What a run counts, readable from anywhere while it goes on and after it.

use batchwright_core::{Error, ErrorKind, Money, RetryClass, Usage};
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// What a run counted so far, at one moment. Items unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct MetricsSnapshot {
    /// Taken from the source.
    pub total: u64,
    /// Ended with an answer.
    pub succeeded: u64,
    /// Ended with a refusal of the model.
    pub refused: u64,
    /// Ended in any other way, cancelled ones included.
    pub failed: u64,
    /// Of those that ended: cancelled by whoever wanted them.
    pub cancelled: u64,
    /// Of those that succeeded: answered by a cache.
    pub cached: u64,
    /// Attempts begun.
    pub attempts: u64,
    /// Attempts that were followed by another, by what they failed with.
    pub retries: Retries,
    /// Times a provider said that it is asked too often.
    pub rate_limits: u64,
    /// Rests of a scope after one.
    pub cooldowns: u64,
    /// Tokens of all answers, those that were not used included. Counters a provider did not report add nothing.
    pub usage: Usage,
    /// Items that succeeded and whose usage nobody reported.
    pub usage_unknown: u64,
    /// What all items cost whose cost is known.
    pub cost: Money,
    /// Items whose cost is unknown.
    pub cost_unknown: u64,
    /// From an item's first send to its end, waits between attempts included; of items that succeeded.
    pub latency: Latency,
    /// The most items that were in flight at once.
    pub most_in_flight: u64,
    /// The most items that waited for another attempt at once.
    pub most_waiting: u64,
    /// Calls of a post-processor that failed, panicked or took too long.
    pub post_process_failures: u64,
    /// Calls of the progress callback that panicked or took too long.
    pub progress_failures: u64,
    /// Events that observers did not see, over all of them.
    pub missed_events: u64,
    /// Times an observer panicked.
    pub observer_panics: u64,
    /// Since the run began; stands still once it is over.
    pub elapsed: Duration,
}

impl MetricsSnapshot {
    /// Items that ended, in whatever way.
    pub fn done(&self) -> u64 {
        self.succeeded + self.refused + self.failed
    }

    /// The share of ended items that succeeded, 0 to 1; 0 where none ended.
    pub fn success_rate(&self) -> f64 {
        match self.done() {
            0 => 0.0,
            done => self.succeeded as f64 / done as f64,
        }
    }
}

/// Attempts that were followed by another, by what they failed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retries {
    /// Nothing reached the provider.
    pub not_sent: u64,
    /// A rate limit refused it.
    pub rate_limited: u64,
    /// The provider refused it for another reason, such as overload.
    pub rejected: u64,
    /// It may have been billed.
    pub ambiguous: u64,
    /// The answer was not what was asked for.
    pub invalid_output: u64,
    /// Any other failure, tried again elsewhere.
    pub other: u64,
}

impl Retries {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.not_sent
            + self.rate_limited
            + self.rejected
            + self.ambiguous
            + self.invalid_output
            + self.other
    }
}

/// How long items took. Percentiles are upper bounds of a fixed histogram's buckets, at most an eighth too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latency {
    /// Items counted.
    pub count: u64,
    /// Their mean.
    pub mean: Duration,
    /// Half of them took no longer.
    pub p50: Duration,
    /// 95 of 100 took no longer.
    pub p95: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
    /// The longest, exactly.
    pub max: Duration,
}

/// Counters that only the run itself writes, but for those at the end.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) cancelled: AtomicU64,
    pub(crate) cached: AtomicU64,
    pub(crate) attempts: AtomicU64,
    not_sent: AtomicU64,
    rate_limited: AtomicU64,
    rejected: AtomicU64,
    ambiguous: AtomicU64,
    invalid_output: AtomicU64,
    other: AtomicU64,
    pub(crate) rate_limits: AtomicU64,
    pub(crate) cooldowns: AtomicU64,
    input_tokens: Known,
    output_tokens: Known,
    cache_read: Known,
    cache_creation: Known,
    reasoning: Known,
    pub(crate) usage_unknown: AtomicU64,
    cost: AtomicU64,
    cost_unknown: AtomicU64,
    latency: Histogram,
    most_in_flight: AtomicU64,
    most_waiting: AtomicU64,
    pub(crate) elapsed_nanos: AtomicU64,
    // Written from several threads.
    pub(crate) post_process_failures: AtomicU64,
    pub(crate) progress_failures: AtomicU64,
    pub(crate) missed_events: AtomicU64,
    pub(crate) observer_panics: AtomicU64,
}

/// A sum of what was reported, and whether anything was: one more than the sum, so that 0 is nothing.
#[derive(Debug, Default)]
struct Known(AtomicU64);

impl Known {
    fn add(&self, more: Option<u64>) {
        if let Some(more) = more {
            let sum = self.0.load(Relaxed).max(1);
            self.0.store(sum.saturating_add(more), Relaxed);
        }
    }

    fn read(&self) -> Option<u64> {
        self.0.load(Relaxed).checked_sub(1)
    }
}

/// Adds to a counter nobody else writes, which needs no locked instruction.
pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed).saturating_add(more), Relaxed);
}

fn raise(counter: &AtomicU64, to: u64) {
    if to > counter.load(Relaxed) {
        counter.store(to, Relaxed);
    }
}

impl Counters {
    pub(crate) fn retried(&self, error: &Error) {
        let counter = if error.kind() == ErrorKind::InvalidOutput {
            &self.invalid_output
        } else {
            match error.class() {
                RetryClass::NotSent => &self.not_sent,
                RetryClass::Rejected if error.is_rate_limited() => &self.rate_limited,
                RetryClass::Rejected => &self.rejected,
                RetryClass::Ambiguous => &self.ambiguous,
                _ => &self.other,
            }
        };
        add(counter, 1);
    }

    pub(crate) fn used(&self, usage: &Usage) {
        self.input_tokens.add(usage.input_tokens);
        self.output_tokens.add(usage.output_tokens);
        self.cache_read.add(usage.cache_read_input_tokens);
        self.cache_creation.add(usage.cache_creation_input_tokens);
        self.reasoning.add(usage.reasoning_tokens);
    }

    pub(crate) fn paid(&self, cost: Option<Money>) {
        match cost {
            Some(cost) => add(&self.cost, cost.as_picodollars()),
            None => add(&self.cost_unknown, 1),
        }
    }

    pub(crate) fn took(&self, latency: Duration) {
        self.latency.add(latency);
    }

    pub(crate) fn queues(&self, in_flight: u64, waiting: u64) {
        raise(&self.most_in_flight, in_flight);
        raise(&self.most_waiting, waiting);
    }

    /// All but the counters of [`Progress`](crate::Progress) and the time of a run that goes on.
    pub(crate) fn read(&self) -> MetricsSnapshot {
        let mut usage = Usage::default();
        usage.input_tokens = self.input_tokens.read();
        usage.output_tokens = self.output_tokens.read();
        usage.cache_read_input_tokens = self.cache_read.read();
        usage.cache_creation_input_tokens = self.cache_creation.read();
        usage.reasoning_tokens = self.reasoning.read();
        MetricsSnapshot {
            cancelled: self.cancelled.load(Relaxed),
            cached: self.cached.load(Relaxed),
            attempts: self.attempts.load(Relaxed),
            retries: Retries {
                not_sent: self.not_sent.load(Relaxed),
                rate_limited: self.rate_limited.load(Relaxed),
                rejected: self.rejected.load(Relaxed),
                ambiguous: self.ambiguous.load(Relaxed),
                invalid_output: self.invalid_output.load(Relaxed),
                other: self.other.load(Relaxed),
            },
            rate_limits: self.rate_limits.load(Relaxed),
            cooldowns: self.cooldowns.load(Relaxed),
            usage,
            usage_unknown: self.usage_unknown.load(Relaxed),
            cost: Money::from_picodollars(self.cost.load(Relaxed)),
            cost_unknown: self.cost_unknown.load(Relaxed),
            latency: self.latency.read(),
            most_in_flight: self.most_in_flight.load(Relaxed),
            most_waiting: self.most_waiting.load(Relaxed),
            post_process_failures: self.post_process_failures.load(Relaxed),
            progress_failures: self.progress_failures.load(Relaxed),
            missed_events: self.missed_events.load(Relaxed),
            observer_panics: self.observer_panics.load(Relaxed),
            elapsed: Duration::from_nanos(self.elapsed_nanos.load(Relaxed)),
            ..MetricsSnapshot::default()
        }
    }
}

/// Buckets to an octave.
const STEPS: usize = 8;
/// From a microsecond to 2^44 µs, which is half a year.
const OCTAVES: usize = 44;

/// A histogram of times whose buckets grow by an eighth of their octave.
#[derive(Debug)]
struct Histogram {
    buckets: Box<[AtomicU64]>,
    count: AtomicU64,
    sum_nanos: AtomicU64,
    max_nanos: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: (0..STEPS * OCTAVES).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicU64::new(0),
            sum_nanos: AtomicU64::new(0),
            max_nanos: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    fn add(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        add(&self.buckets[bucket(nanos / 1000)], 1);
        add(&self.count, 1);
        add(&self.sum_nanos, nanos);
        raise(&self.max_nanos, nanos);
    }

    fn read(&self) -> Latency {
        let counts: Vec<u64> = self.buckets.iter().map(|all| all.load(Relaxed)).collect();
        let count = counts.iter().sum();
        let max = Duration::from_nanos(self.max_nanos.load(Relaxed));
        // Nearest rank: the smallest time that so many in a hundred do not pass.
        let percentile = |percent: u64| {
            let rank = (u128::from(count) * u128::from(percent)).div_ceil(100);
            let mut seen = 0_u128;
            let at = counts.iter().position(|more| {
                seen += u128::from(*more);
                seen >= rank.max(1)
            });
            at.map_or(Duration::ZERO, |at| {
                Duration::from_micros(upper_bound(at)).min(max)
            })
        };
        let sum = self.sum_nanos.load(Relaxed);
        Latency {
            count,
            mean: Duration::from_nanos(sum.checked_div(count).unwrap_or(0)),
            p50: percentile(50),
            p95: percentile(95),
            p99: percentile(99),
            max,
        }
    }
}

/// The bucket of so many microseconds.
fn bucket(micros: u64) -> usize {
    if micros < STEPS as u64 {
        return usize::try_from(micros).expect("below the steps of an octave");
    }
    // Above: the octave, and the three bits below its leading one.
    let octave = 63 - micros.leading_zeros() as usize;
    let step = usize::try_from((micros >> (octave - 3)) & 7).expect("three bits");
    ((octave - 2) * STEPS + step).min(STEPS * OCTAVES - 1)
}

/// Every time in the bucket is below so many microseconds.
fn upper_bound(bucket: usize) -> u64 {
    let (octave, step) = (bucket / STEPS, (bucket % STEPS) as u64);
    match octave {
        0 => step + 1,
        octave => (STEPS as u64 + step + 1) << (octave - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bucket_holds_its_time_within_an_eighth(micros in 0_u64..1 << 44) {
            let bucket = bucket(micros);
            let above = upper_bound(bucket);
            prop_assert!(micros < above);
            prop_assert!(above <= micros + micros / 8 + 1);
            prop_assert!(bucket == 0 || upper_bound(bucket - 1) <= micros);
        }
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let histogram = Histogram::default();
        assert_eq!(histogram.read(), Latency::default());
        for millis in 1..=100 {
            histogram.add(Duration::from_millis(millis));
        }
        let read = histogram.read();
        assert_eq!((read.count, read.max), (100, Duration::from_millis(100)));
        assert_eq!(read.mean, Duration::from_micros(50_500));
        for (percentile, exact) in [(read.p50, 50), (read.p95, 95), (read.p99, 99)] {
            let exact = Duration::from_millis(exact);
            assert!(percentile >= exact && percentile <= exact * 9 / 8 + Duration::from_micros(1));
        }
        histogram.add(Duration::MAX);
        assert_eq!(histogram.read().count, 101);
    }

    #[test]
    fn usage_nobody_reported_stays_unknown() {
        let counters = Counters::default();
        assert!(counters.read().usage.is_unknown());
        counters.used(&Usage::of(0, 7));
        counters.used(&Usage::default());
        assert_eq!(counters.read().usage, Usage::of(0, 7));
    }
}
