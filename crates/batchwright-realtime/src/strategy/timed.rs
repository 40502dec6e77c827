//! How long attempts take.

use crate::{Attempt, Executed, ItemState, Next, Scope, Strategy};
use async_trait::async_trait;
use batchwright_core::{Error, Request, Response, Result};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Measures each attempt of the strategy within.
///
/// What it measures is what stands within: around a [`Cached`](crate::Cached) the answers of the cache count too,
/// within it only the calls. Waiting for a place, a limit or a cooldown is not in it, since the pool waits before.
pub struct Timed<T = Response> {
    inner: Arc<dyn Strategy<Output = T>>,
    latencies: Mutex<Latencies>,
}

/// Attempts and how long they took, since the strategy was made.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latencies {
    /// Attempts that came to an ending.
    pub answered: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Attempts that were given up before they ended, by a timeout or otherwise.
    pub abandoned: u64,
    /// The shortest; zero where there was none.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
    /// All together.
    pub total: Duration,
    buckets: [u32; BUCKETS],
}

/// Parts of each doubling of the time.
const PARTS: usize = 16;
const PARTS_LOG: usize = 4;
/// Up to 2^40 µs, twelve days; what is longer counts as that.
const BUCKETS: usize = (40 - PARTS_LOG + 1) * PARTS;

impl Default for Latencies {
    fn default() -> Self {
        Self {
            answered: 0,
            failed: 0,
            abandoned: 0,
            min: Duration::ZERO,
            max: Duration::ZERO,
            total: Duration::ZERO,
            buckets: [0; BUCKETS],
        }
    }
}

impl Latencies {
    /// All attempts.
    pub fn count(&self) -> u64 {
        self.answered + self.failed + self.abandoned
    }

    /// The mean; `None` without an attempt.
    pub fn mean(&self) -> Option<Duration> {
        let count = self.count();
        (count > 0).then(|| self.total.div_f64(count as f64))
    }

    /// The time within which this share of the attempts ended, 0 to 1, such as 0.99: at most a sixteenth too long,
    /// never too short. `None` without an attempt.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let share = if share.is_nan() { 1.0 } else { share };
        let rank = ((share.clamp(0.0, 1.0) * count as f64).ceil() as u64).max(1);
        let mut below = 0;
        let bucket = self.buckets.iter().position(|attempts| {
            below += u64::from(*attempts);
            below >= rank
        });
        let end = bucket.map_or(self.max, bucket_end);
        Some(end.clamp(self.min, self.max))
    }

    fn add(&mut self, took: Duration, how: How) {
        *match how {
            How::Answered => &mut self.answered,
            How::Failed => &mut self.failed,
            How::Abandoned => &mut self.abandoned,
        } += 1;
        self.min = if self.count() == 1 {
            took
        } else {
            self.min.min(took)
        };
        self.max = self.max.max(took);
        self.total = self.total.saturating_add(took);
        let count = &mut self.buckets[bucket(took)];
        *count = count.saturating_add(1);
    }
}

/// Microseconds below `PARTS` have a bucket each; above, each doubling has `PARTS`.
fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let doubling = micros.max(1).ilog2() as usize;
    if doubling < PARTS_LOG {
        return micros as usize;
    }
    let part = (micros >> (doubling - PARTS_LOG)) as usize - PARTS;
    ((doubling - PARTS_LOG + 1) * PARTS + part).min(BUCKETS - 1)
}

/// The longest time in a bucket.
fn bucket_end(bucket: usize) -> Duration {
    let (doubling, part) = (bucket / PARTS, bucket % PARTS);
    let next = match doubling {
        0 => part as u64 + 1,
        _ => ((PARTS + part + 1) as u64) << (doubling - 1),
    };
    // A microsecond holds what is less than the next one.
    Duration::from_micros(next).saturating_sub(Duration::from_nanos(1))
}

#[derive(Clone, Copy)]
enum How {
    Answered,
    Failed,
    Abandoned,
}

/// An attempt that runs; dropped, it counts.
struct Clock<'a> {
    latencies: &'a Mutex<Latencies>,
    begun: Instant,
    how: How,
}

impl Drop for Clock<'_> {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        let mut latencies = self
            .latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        latencies.add(took, self.how);
    }
}

impl<T> Timed<T> {
    /// Measures `inner`.
    pub fn new(inner: Arc<dyn Strategy<Output = T>>) -> Self {
        Self {
            inner,
            latencies: Mutex::default(),
        }
    }

    /// What was measured so far, also while a run goes on.
    pub fn snapshot(&self) -> Latencies {
        self.latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[async_trait]
impl<T: Send + 'static> Strategy for Timed<T> {
    type Output = T;

    fn scope<'a>(&'a self, request: &'a Request, state: &'a mut ItemState) -> Scope<'a> {
        self.inner.scope(request, state)
    }

    async fn prepare(&self) -> Result<()> {
        self.inner.prepare().await
    }

    async fn execute(&self, request: &Request, attempt: &mut Attempt<'_>) -> Result<Executed<T>> {
        let mut clock = Clock {
            latencies: &self.latencies,
            begun: Instant::now(),
            how: How::Abandoned,
        };
        let result = self.inner.execute(request, attempt).await;
        clock.how = match &result {
            Ok(_) => How::Answered,
            Err(_) => How::Failed,
        };
        result
    }

    async fn on_error(&self, request: &Request, error: &Error, attempt: &mut Attempt<'_>) -> Next {
        self.inner.on_error(request, error, attempt).await
    }

    fn dry_run(&self, request: &Request) -> Result<Executed<T>> {
        self.inner.dry_run(request)
    }

    async fn cleanup(&self) {
        self.inner.cleanup().await;
    }
}

impl<T> fmt::Debug for Timed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timed").field(&self.snapshot()).finish()
    }
}

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latencies")
            .field("answered", &self.answered)
            .field("failed", &self.failed)
            .field("abandoned", &self.abandoned)
            .field("mean", &self.mean())
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .field("max", &self.max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_33_quantiles_are_never_short_and_at_most_a_sixteenth_long(
            mut nanos in prop::collection::vec(0_u64..5_000_000_000_000_000, 1..200),
            share in 0.0..=1.0_f64,
        ) {
            let mut latencies = Latencies::default();
            for nanos in &nanos {
                latencies.add(Duration::from_nanos(*nanos), How::Answered);
            }
            nanos.sort_unstable();
            let rank = ((share * nanos.len() as f64).ceil() as usize).max(1);
            let exact = Duration::from_nanos(nanos[rank - 1]);
            let told = latencies.quantile(share).unwrap();
            // Twelve days are the longest that is told apart.
            if exact < Duration::from_micros(1 << 40) {
                prop_assert!(told >= exact, "{told:?} < {exact:?}");
            }
            let most = exact.mul_f64(17.0 / 16.0) + Duration::from_micros(1);
            prop_assert!(told <= most, "{told:?} for {exact:?}");
        }
    }
}
