//! Virtual time: every timestamp, window and expiry of the emulator follows this clock.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// The virtual clock: runs `scale` virtual seconds per real second and can be moved forward by hand.
#[derive(Debug)]
pub(crate) struct VirtualClock {
    hand: Mutex<Hand>,
    /// By how many milliseconds `Date` headers are wrong.
    date_skew_ms: AtomicI64,
    started: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Hand {
    /// Virtual milliseconds since the Unix epoch at `since`.
    at_ms: i64,
    since: Instant,
    scale: f64,
    /// Sum of all advances by hand, for the rate limits.
    advanced: Duration,
}

impl VirtualClock {
    pub(crate) fn new(at_ms: i64, scale: f64) -> Self {
        let now = Instant::now();
        let hand = Hand {
            at_ms,
            since: now,
            scale: sane_scale(scale),
            advanced: Duration::ZERO,
        };
        Self {
            hand: Mutex::new(hand),
            date_skew_ms: AtomicI64::new(0),
            started: now,
        }
    }

    /// Virtual milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> i64 {
        self.hand().now_ms(Instant::now())
    }

    pub(crate) fn scale(&self) -> f64 {
        self.hand().scale
    }

    pub(crate) fn set_scale(&self, scale: f64) {
        let mut hand = self.hand();
        let now = Instant::now();
        hand.at_ms = hand.now_ms(now);
        hand.since = now;
        hand.scale = sane_scale(scale);
    }

    /// By how many milliseconds `Date` headers are wrong.
    pub(crate) fn date_skew_ms(&self) -> i64 {
        self.date_skew_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn set_date_skew_ms(&self, ms: i64) {
        self.date_skew_ms.store(ms, Ordering::Relaxed);
    }

    pub(crate) fn advance(&self, by: Duration) {
        let mut hand = self.hand();
        let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX / 4);
        hand.at_ms = hand.at_ms.saturating_add(by_ms);
        hand.advanced = hand.advanced.saturating_add(by);
    }

    /// Time for rate limits: real time plus what was advanced by hand.
    ///
    /// Clients wait for rate limits in real time whatever the scale is, so the scale is left out.
    pub(crate) fn limit_now(&self) -> Duration {
        let advanced = self.hand().advanced;
        self.started.elapsed().saturating_add(advanced)
    }

    fn hand(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hand {
    fn now_ms(&self, now: Instant) -> i64 {
        if self.scale == 0.0 {
            return self.at_ms;
        }
        let elapsed = now.saturating_duration_since(self.since).as_secs_f64() * self.scale;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a float that is too large saturates, which is what we want"
        )]
        let passed = (elapsed * 1000.0) as i64;
        self.at_ms.saturating_add(passed)
    }
}

fn sane_scale(scale: f64) -> f64 {
    if scale.is_finite() && scale > 0.0 {
        scale
    } else {
        0.0
    }
}

/// Whole seconds of a virtual instant, as the wire shows it.
pub(crate) fn seconds(at_ms: i64) -> i64 {
    at_ms.div_euclid(1000)
}

/// An instant as RFC 3339 text.
pub(crate) fn rfc3339(at_ms: i64) -> String {
    timestamp(at_ms).to_string()
}

/// An instant as an HTTP `Date` header.
pub(crate) fn http_date(at_ms: i64) -> String {
    timestamp(at_ms)
        .strftime("%a, %d %b %Y %H:%M:%S GMT")
        .to_string()
}

fn timestamp(at_ms: i64) -> Timestamp {
    Timestamp::from_millisecond(at_ms).unwrap_or(Timestamp::MAX)
}

/// A length of time in a fault script or a control call: `"250ms"`, `"30s"`, `"5m"`, `"24h"`, `"30d"`, or a number of
/// milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::exhaustive_structs, reason = "a newtype over one duration")]
pub struct Span(pub Duration);

impl Span {
    /// Reads `"250ms"`, `"30s"`, `"5m"`, `"24h"` or `"30d"`; a decimal fraction is allowed.
    ///
    /// # Errors
    ///
    /// A message naming the text when it is not a number and one of these units.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let split = text
            .find(|c: char| c.is_ascii_alphabetic())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit_ms = match unit {
            "ms" => 1.0,
            "s" => 1e3,
            "m" => 60e3,
            "h" => 3_600e3,
            "d" => 86_400e3,
            _ => return Err(format!("`{text}` needs a unit: ms, s, m, h or d")),
        };
        let number: f64 = number
            .trim()
            .parse()
            .map_err(|_| format!("`{text}` does not begin with a number"))?;
        Duration::try_from_secs_f64(number * unit_ms / 1e3)
            .map(Self)
            .map_err(|_| format!("`{text}` is out of range"))
    }

    pub(crate) fn ms(self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX / 4)
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}ms", self.0.as_millis()))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Span;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a span like \"30s\" or a number of milliseconds")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                Span::parse(text).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, ms: u64) -> Result<Span, E> {
                Ok(Span(Duration::from_millis(ms)))
            }

            fn visit_i64<E: de::Error>(self, ms: i64) -> Result<Span, E> {
                u64::try_from(ms)
                    .map(|ms| Span(Duration::from_millis(ms)))
                    .map_err(|_| E::custom("a span is not negative"))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_with_their_units() {
        for (text, ms) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("1.5s", 1_500),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("30d", 2_592_000_000),
        ] {
            assert_eq!(Span::parse(text).map(Span::ms), Ok(ms), "{text}");
        }
        for text in ["", "5", "h", "-1s", "1y", "NaNs"] {
            assert!(Span::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_still_clock_moves_only_by_hand() {
        let clock = VirtualClock::new(1_000, 0.0);
        assert_eq!(clock.now_ms(), 1_000);
        clock.advance(Duration::from_secs(24 * 3600));
        assert_eq!(clock.now_ms(), 86_401_000);
    }

    #[test]
    fn dates_are_http_dates() {
        assert_eq!(
            http_date(1_763_800_000_000),
            "Sat, 22 Nov 2025 08:26:40 GMT"
        );
    }
}
