//! A token bucket: how much may be taken now, and when the next amount fits.

use std::time::Duration;

/// The longest a gate sleeps before it looks again: rates may have been learned meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// Forgives what floating point loses.
const GRAIN: f64 = 1e-6;

/// Refills evenly up to its capacity. Its level may fall below nothing: that is debt, paid off by waiting.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    per_second: f64,
    capacity: f64,
    level: f64,
    at: Duration,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn full(per_second: f64, capacity: f64, now: Duration) -> Self {
        Self {
            per_second,
            capacity,
            level: capacity,
            at: now,
        }
    }

    /// When `amount` can be taken; `now` or earlier is at once. What is larger than the bucket goes when it
    /// is full, and leaves debt.
    pub(crate) fn ready_at(&mut self, now: Duration, amount: f64) -> Duration {
        self.refill(now);
        let missing = amount.min(self.capacity) - self.level;
        if missing <= GRAIN {
            return now;
        }
        let seconds = missing / self.per_second;
        if seconds < LOOK_AGAIN.as_secs_f64() {
            // Up by the grain of time, or it would be asked just before it fits.
            now + Duration::from_secs_f64(seconds) + Duration::from_nanos(1)
        } else {
            now + LOOK_AGAIN
        }
    }

    pub(crate) fn take(&mut self, now: Duration, amount: f64) {
        self.refill(now);
        self.level -= amount;
    }

    /// Puts back what was taken and not used.
    pub(crate) fn give_back(&mut self, now: Duration, amount: f64) {
        self.refill(now);
        self.level = (self.level + amount).min(self.capacity);
    }

    /// Empties it down to `level`, where it holds more.
    pub(crate) fn lower_to(&mut self, now: Duration, level: f64) {
        self.refill(now);
        self.level = self.level.min(level);
    }

    /// What was refilled stays; what is above the new capacity goes.
    pub(crate) fn set(&mut self, now: Duration, per_second: f64, capacity: f64) {
        self.refill(now);
        self.per_second = per_second;
        self.capacity = capacity;
        self.level = self.level.min(capacity);
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.per_second
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.level = (self.level + passed * self.per_second).min(self.capacity);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn ax_135_it_refills_evenly_and_not_above_its_capacity() {
        let mut bucket = Bucket::full(2.0, 3.0, Duration::ZERO);
        for _ in 0..3 {
            assert_eq!(bucket.ready_at(Duration::ZERO, 1.0), Duration::ZERO);
            bucket.take(Duration::ZERO, 1.0);
        }
        let at = bucket.ready_at(Duration::ZERO, 1.0);
        assert!(at.abs_diff(SECOND / 2) < Duration::from_micros(1));
        bucket.take(SECOND * 100, 3.0);
        assert!(bucket.ready_at(SECOND * 100, 0.5) > SECOND * 100);
    }

    #[test]
    fn ax_136_what_is_larger_than_the_bucket_goes_when_it_is_full_and_leaves_debt() {
        let mut bucket = Bucket::full(10.0, 10.0, Duration::ZERO);
        assert_eq!(bucket.ready_at(Duration::ZERO, 25.0), Duration::ZERO);
        bucket.take(Duration::ZERO, 25.0);
        let at = bucket.ready_at(Duration::ZERO, 1.0);
        assert!(
            at.abs_diff(SECOND * 16 / 10) < Duration::from_micros(1),
            "{at:?}"
        );
    }

    #[test]
    fn a_rate_next_to_nothing_is_asked_again_and_does_not_overflow() {
        let mut bucket = Bucket::full(1e-300, 1.0, Duration::ZERO);
        bucket.take(Duration::ZERO, 1.0);
        assert_eq!(bucket.ready_at(SECOND, 1.0), SECOND + LOOK_AGAIN);
    }

    proptest! {
        /// AX-151: whoever asks before taking takes at most the capacity and the refill in any stretch
        /// of time; and what is ready at an instant is ready at that instant.
        #[test]
        fn no_stretch_of_time_sees_more_than_capacity_and_refill(
            rate in 0.01f64..1000.0,
            capacity in 1.0f64..100.0,
            asks in vec((0.0f64..5.0, 0.0f64..1.0), 1..200),
        ) {
            let mut bucket = Bucket::full(rate, capacity, Duration::ZERO);
            let mut now = Duration::ZERO;
            let mut taken: Vec<(Duration, f64)> = Vec::new();
            for (idle, share) in asks {
                now += Duration::from_secs_f64(idle * share * capacity / rate);
                let amount = share * capacity;
                now = now.max(bucket.ready_at(now, amount));
                prop_assert_eq!(bucket.ready_at(now, amount), now);
                bucket.take(now, amount);
                taken.push((now, amount));
            }
            for first in 0..taken.len() {
                let mut sum = 0.0;
                for (at, amount) in &taken[first..] {
                    sum += amount;
                    let stretch = (*at - taken[first].0).as_secs_f64();
                    let most = capacity + rate * stretch;
                    prop_assert!(sum <= most + 1e-3, "{sum} of {most} in {stretch} s");
                }
            }
        }
    }
}
