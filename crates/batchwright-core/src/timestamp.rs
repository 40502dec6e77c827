//! Wall-clock instants as plain data.

use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A wall-clock instant in milliseconds since the Unix epoch.
///
/// Core reads no clock: every instant is handed in by the caller or comes from a provider's answer.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    pub const fn from_unix_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From whole seconds since the Unix epoch, as most vendors write them; saturates.
    pub const fn from_unix_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_unix_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn as_unix_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The time from `earlier` to `self`; zero where `earlier` is the later one (clock steps happen).
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This instant moved later by `duration`; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let millis = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |m| -m),
        };
        Self(millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_138_a_clock_that_steps_back_gives_zero_not_a_panic() {
        let early = Timestamp::from_unix_seconds(10);
        let late = Timestamp::from_unix_seconds(20);
        assert_eq!(late.since(early), Duration::from_secs(10));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(
            Timestamp::from_unix_millis(i64::MAX)
                .plus(Duration::MAX)
                .as_unix_millis(),
            i64::MAX
        );
    }

    #[test]
    fn f_057_absurd_seconds_saturate() {
        assert_eq!(
            Timestamp::from_unix_seconds(i64::MAX).as_unix_millis(),
            i64::MAX
        );
        assert_eq!(Timestamp::from_unix_millis(-1).as_unix_seconds(), -1);
    }
}
