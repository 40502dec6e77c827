//! What an answer's headers say about trying again.

use batchwright_core::RateLimit;
use jiff::Timestamp;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use std::time::Duration;

/// The longest delay believed: 3,650 days. A policy's ceiling is what bounds waits; this one keeps
/// arithmetic from overflowing (F-016).
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

/// What an answer's headers say about trying again. Absent is unknown.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct RetryHints {
    /// How long to wait: the longest of `retry-after-ms` and `retry-after` (F-013, F-014, F-015), else
    /// the larger reset where no request and no token is left (F-018).
    pub retry_after: Option<Duration>,
    /// The server's instruction whether to retry, `x-should-retry` (F-017).
    pub should_retry: Option<bool>,
    /// `x-ratelimit-*`, if there were any.
    pub rate_limit: Option<RateLimit>,
    /// The vendor's id of the request, at most 128 visible characters.
    pub request_id: Option<String>,
}

impl RetryHints {
    /// Puts the hints onto an error.
    #[must_use]
    pub fn apply(self, mut error: batchwright_core::Error) -> batchwright_core::Error {
        if let Some(delay) = self.retry_after {
            error = error.with_retry_after(delay);
        }
        if let Some(should_retry) = self.should_retry {
            error = error.with_should_retry(should_retry);
        }
        if let Some(rate_limit) = self.rate_limit {
            error = error.with_rate_limit(rate_limit);
        }
        if let Some(request_id) = self.request_id {
            error = error.with_request_id(request_id);
        }
        error
    }
}

/// Reads the hints. Whatever cannot be understood is ignored.
///
/// Dates are measured against the answer's own `Date`, not the local clock, and ignored without one.
/// The names are OpenAI's (<https://platform.openai.com/docs/guides/rate-limits>), which compatible
/// servers share.
pub fn retry_hints(headers: &HeaderMap) -> RetryHints {
    let rate_limit = rate_limit(headers);
    let asked = longest(headers, "retry-after-ms", |text| seconds(text, 1e-3)).max(longest(
        headers,
        RETRY_AFTER.as_str(),
        |text| seconds(text, 1.0).or_else(|| until(headers, text)),
    ));
    RetryHints {
        retry_after: asked.or_else(|| exhausted(rate_limit.as_ref()?)),
        should_retry: text(headers, "x-should-retry").and_then(|value| {
            if value.eq_ignore_ascii_case("true") {
                Some(true)
            } else if value.eq_ignore_ascii_case("false") {
                Some(false)
            } else {
                None
            }
        }),
        rate_limit,
        request_id: [
            "x-request-id",
            "request-id",
            "apim-request-id",
            "x-ms-request-id",
        ]
        .into_iter()
        .find_map(|name| text(headers, name))
        .map(|id| {
            id.chars()
                .filter(char::is_ascii_graphic)
                .take(128)
                .collect::<String>()
        })
        .filter(|id| !id.is_empty()),
    }
}

fn rate_limit(headers: &HeaderMap) -> Option<RateLimit> {
    let count = |name: &str| text(headers, name)?.parse::<u64>().ok();
    let reset = |name: &str| go_duration(text(headers, name)?);
    let mut limit = RateLimit::default();
    limit.limit_requests = count("x-ratelimit-limit-requests");
    limit.remaining_requests = count("x-ratelimit-remaining-requests");
    limit.reset_requests = reset("x-ratelimit-reset-requests");
    limit.limit_tokens = count("x-ratelimit-limit-tokens");
    limit.remaining_tokens = count("x-ratelimit-remaining-tokens");
    limit.reset_tokens = reset("x-ratelimit-reset-tokens");
    (limit != RateLimit::default()).then_some(limit)
}

/// The wait where nothing is left in either bucket: until both are full, since the headers do not say
/// when one more request fits.
fn exhausted(limit: &RateLimit) -> Option<Duration> {
    (limit.remaining_requests == Some(0) && limit.remaining_tokens == Some(0))
        .then(|| limit.reset_requests.max(limit.reset_tokens))
        .flatten()
}

/// The longest of all values of a header, each alone or in a list.
fn longest(
    headers: &HeaderMap,
    name: &str,
    parse: impl Fn(&str) -> Option<Duration>,
) -> Option<Duration> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        // A date holds a comma of its own: the whole is tried before its parts.
        .filter_map(|text| {
            parse(text.trim())
                .or_else(|| text.split(',').filter_map(|part| parse(part.trim())).max())
        })
        .max()
}

fn seconds(text: &str, unit: f64) -> Option<Duration> {
    let number = text
        .parse::<f64>()
        .ok()
        .filter(|number| number.is_finite() && *number >= 0.0)?;
    Some(Duration::try_from_secs_f64(number * unit).map_or(LONGEST, |delay| delay.min(LONGEST)))
}

/// From the answer's `Date` to the date in `text`; zero where that is past.
fn until(headers: &HeaderMap, text: &str) -> Option<Duration> {
    let now = http_date(headers.get(DATE)?.to_str().ok()?)?;
    let then = http_date(text)?;
    let wait = then.as_second().saturating_sub(now.as_second()).max(0);
    Some(Duration::from_secs(wait.unsigned_abs()).min(LONGEST))
}

fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text.trim())
        .ok()
        .map(|zoned| zoned.timestamp())
}

/// A duration as Go prints it (`6m0s`, `16m17.764s`, `20ms`), or plain seconds.
fn go_duration(text: &str) -> Option<Duration> {
    if text.is_empty() {
        return None;
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number = rest[..digits].parse::<f64>().ok()?;
        rest = &rest[digits..];
        let unit_end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            "" if digits == text.len() => 1.0,
            _ => return None,
        };
        rest = &rest[unit_end..];
        total += number * unit;
    }
    Some(Duration::try_from_secs_f64(total).map_or(LONGEST, |delay| delay.min(LONGEST)))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}
