//! What a provider's headers say about one of its limits: requests or tokens.
//!
//! Headers name a limit, what is left of it and when it is full again, but not over what time the limit
//! counts. Two vendors mean a minute; gateways mean a second, an hour or a fixed window under the same
//! names. So a rate is believed once something was used up and the numbers agree with each other.

use std::time::Duration;

/// Uses below this say nothing about a rate: a bucket refills some between two answers.
const USED: u64 = 8;
/// Two rates within this factor are the same one, told with rounding.
const ALIKE: f64 = 2.0;
/// A rate between two readings is only worth the time it takes to read.
const APART: f64 = 0.02;
/// How long the reading that others are compared to is kept.
const KEPT: Duration = Duration::from_secs(10);

/// One limit's numbers in an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// Until it is full again.
    pub(crate) reset: Duration,
}

/// What readings said so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Advertised {
    base: Option<(Duration, Reading)>,
}

impl Advertised {
    /// The rate a second that the reading shows, where it shows one.
    pub(crate) fn rate(&mut self, now: Duration, reading: Reading) -> Option<f64> {
        let base = self.base;
        if base.is_none_or(|(at, _)| now.saturating_sub(at) > KEPT) {
            self.base = Some((now, reading));
        }
        let used = reading.limit.saturating_sub(reading.remaining);
        if reading.limit == 0 || used < USED || reading.reset.is_zero() {
            return None;
        }
        let by_minute = reading.limit as f64 / 60.0;
        let by_reset = used as f64 / reading.reset.as_secs_f64();
        if alike(by_minute, by_reset) {
            return Some(by_minute);
        }
        let (at, base) = base?;
        let left = base.remaining as f64 - reading.remaining as f64;
        let later = reading.reset.as_secs_f64() - base.reset.as_secs_f64();
        if left.abs() < USED as f64 {
            return None;
        }
        // A bucket takes longer to fill the less is left of it, whatever the limit beside it means.
        if later.abs() >= APART && left.signum() == later.signum() {
            let slope = left / later;
            if alike(slope, by_minute) {
                return Some(by_minute);
            }
            // Slower than by the minute, it counts by the hour or the day: what is left may go at once.
            return (alike(slope, by_reset) && by_reset > by_minute).then_some(by_reset);
        }
        // A window that ends at an instant, whatever is left: spread the rest over its time.
        let moved = (now.as_secs_f64() - at.as_secs_f64()) + later;
        let fixed = moved.abs() < 0.25 * left.abs() / by_minute;
        fixed.then(|| {
            (reading.remaining as f64 / reading.reset.as_secs_f64().max(1.0)).max(by_minute)
        })
    }
}

fn alike(one: f64, other: f64) -> bool {
    one < other * ALIKE && other < one * ALIKE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(limit: u64, remaining: u64, reset_ms: u64) -> Reading {
        Reading {
            limit,
            remaining,
            reset: Duration::from_millis(reset_ms),
        }
    }

    /// The rate after two readings, 20 ms apart.
    fn rate(first: Reading, second: Reading) -> Option<f64> {
        let mut advertised = Advertised::default();
        advertised.rate(Duration::from_millis(50), first);
        let rate = advertised.rate(Duration::from_millis(70), second)?;
        Some((rate * 10.0).round() / 10.0)
    }

    #[test]
    fn f_001_a_rate_is_believed_when_the_numbers_agree() {
        let cases = [
            // A minute's bucket, as OpenAI reports it.
            (
                reading(6000, 5999, 10),
                reading(6000, 5940, 600),
                Some(100.0),
            ),
            // The same with whole seconds, as Anthropic's dates.
            (
                reading(4000, 3999, 0),
                reading(4000, 3900, 2000),
                Some(66.7),
            ),
            // A second's bucket under a second's limit.
            (reading(100, 99, 10), reading(100, 40, 600), Some(100.0)),
            // A second's bucket beside the minute's limit.
            (reading(6000, 99, 10), reading(6000, 40, 600), Some(100.0)),
            // A fixed window that ends in half a minute.
            (
                reading(6000, 5999, 30_000),
                reading(6000, 5700, 29_980),
                Some(190.1),
            ),
            // By the day: nothing to pace by.
            (
                reading(14_400, 14_399, 6_000),
                reading(14_400, 14_340, 360_000),
                None,
            ),
            // Nothing is used up, as where limits are not enforced.
            (reading(30_000, 29_999, 2), reading(30_000, 29_999, 2), None),
            (reading(0, 0, 0), reading(0, 0, 60_000), None),
        ];
        for (first, second, expected) in cases {
            assert_eq!(rate(first, second), expected, "{first:?} {second:?}");
        }
    }
}
