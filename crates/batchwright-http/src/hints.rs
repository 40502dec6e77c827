//! What an answer's headers say about trying again.

use batchwright_core::RateLimit;
use jiff::Timestamp;
use reqwest::header::{DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use std::time::Duration;

/// The longest delay believed: 3,650 days. A policy's ceiling is what bounds waits; this one keeps
/// arithmetic from overflowing (F-016).
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

static RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// OpenAI's names (<https://platform.openai.com/docs/guides/rate-limits>), which compatible servers share.
pub static OPENAI_HINTS: HintNames = HintNames::new(
    Some([
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ]),
    Some([
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    ]),
);

/// For a vendor without such headers.
pub static NO_HINTS: HintNames = HintNames::new(None, None);

/// The names of a vendor's rate-limit headers, as a static of its crate; what all share, such as
/// `retry-after`, is read whatever they are.
///
/// A reset may be a duration as Go prints it (`6m0s`, `20ms`), plain seconds, or an instant in RFC 3339, which is
/// measured against the answer's own `Date`.
///
/// ```
/// use batchwright_http::HintNames;
///
/// static ANTHROPIC: HintNames = HintNames::new(
///     Some([
///         "anthropic-ratelimit-requests-limit",
///         "anthropic-ratelimit-requests-remaining",
///         "anthropic-ratelimit-requests-reset",
///     ]),
///     None,
/// );
/// ```
#[derive(Debug)]
pub struct HintNames {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

/// The names of limit, remaining and reset.
#[derive(Debug)]
struct Bucket([&'static str; 3]);

impl Bucket {
    const fn new(names: Option<[&'static str; 3]>) -> Option<Self> {
        let Some(names) = names else {
            return None;
        };
        let mut place = 0;
        while place < names.len() {
            let (name, mut at) = (names[place].as_bytes(), 0);
            while at < name.len() {
                assert!(
                    !name[at].is_ascii_uppercase(),
                    "headers are looked up in lower case"
                );
                at += 1;
            }
            place += 1;
        }
        Some(Self(names))
    }
}

/// Limit, what is left of it, and when it is full again, where an answer has them.
#[derive(Clone, Copy, Default)]
struct Told<'a>([Option<&'a HeaderValue>; 3]);

impl<'a> Told<'a> {
    /// Takes a header where it is one of the bucket's; of several the first counts.
    fn take(&mut self, bucket: Option<&Bucket>, name: &str, value: &'a HeaderValue) {
        let Some(Bucket(names)) = bucket else {
            return;
        };
        if let Some(place) = names.iter().position(|known| *known == name) {
            self.0[place].get_or_insert(value);
        }
    }

    fn read(&self, headers: &HeaderMap) -> (Option<u64>, Option<u64>, Option<Duration>) {
        let count = |value: Option<&HeaderValue>| text(value?)?.parse::<u64>().ok();
        let [limit, remaining, reset] = self.0;
        let reset = reset
            .and_then(text)
            .and_then(|text| go_duration(text).or_else(|| until_instant(headers, text)));
        (count(limit), count(remaining), reset)
    }
}

impl HintNames {
    /// The names of limit, remaining and reset, all in lower case, for requests and for tokens. `None` for a
    /// bucket that is of no use for pacing, such as requests per day.
    ///
    /// # Panics
    /// Where a name is not in lower case; as a static it does not compile then.
    pub const fn new(
        requests: Option<[&'static str; 3]>,
        tokens: Option<[&'static str; 3]>,
    ) -> Self {
        Self {
            requests: Bucket::new(requests),
            tokens: Bucket::new(tokens),
        }
    }

    /// Reads the hints of an answer. Whatever cannot be understood is ignored.
    pub fn read(&self, headers: &HeaderMap) -> RetryHints {
        read(headers, self)
    }
}

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

/// Reads the hints under [`OPENAI_HINTS`]. Whatever cannot be understood is ignored.
///
/// Dates are measured against the answer's own `Date`, not the local clock, and ignored without one.
pub fn retry_hints(headers: &HeaderMap) -> RetryHints {
    OPENAI_HINTS.read(headers)
}

/// Goes through the headers once: most names that could be there are not.
fn read(headers: &HeaderMap, names: &HintNames) -> RetryHints {
    let (mut requests, mut tokens) = (Told::default(), Told::default());
    let (mut asks, mut should_retry) = (false, None);
    // By how much each name is preferred.
    let mut ids = [None; 4];
    for (name, value) in headers {
        let first = match name.as_str() {
            "retry-after" | "retry-after-ms" => {
                asks = true;
                continue;
            }
            "x-should-retry" => &mut should_retry,
            "x-request-id" => &mut ids[0],
            "request-id" => &mut ids[1],
            "apim-request-id" => &mut ids[2],
            "x-ms-request-id" => &mut ids[3],
            name => {
                requests.take(names.requests.as_ref(), name, value);
                tokens.take(names.tokens.as_ref(), name, value);
                continue;
            }
        };
        first.get_or_insert(value);
    }
    let rate_limit = rate_limit(headers, &requests, &tokens);
    let asked = asks.then(|| asked(headers)).flatten();
    RetryHints {
        retry_after: asked.or_else(|| exhausted(rate_limit.as_ref()?)),
        should_retry: should_retry.and_then(text).and_then(|value| {
            if value.eq_ignore_ascii_case("true") {
                Some(true)
            } else if value.eq_ignore_ascii_case("false") {
                Some(false)
            } else {
                None
            }
        }),
        rate_limit,
        request_id: ids
            .into_iter()
            .flatten()
            .find_map(text)
            .map(|id| {
                if id.len() <= 128 && id.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return id.to_owned();
                }
                id.chars()
                    .filter(char::is_ascii_graphic)
                    .take(128)
                    .collect::<String>()
            })
            .filter(|id| !id.is_empty()),
    }
}

fn rate_limit(headers: &HeaderMap, requests: &Told<'_>, tokens: &Told<'_>) -> Option<RateLimit> {
    let mut limit = RateLimit::default();
    (
        limit.limit_requests,
        limit.remaining_requests,
        limit.reset_requests,
    ) = requests.read(headers);
    (
        limit.limit_tokens,
        limit.remaining_tokens,
        limit.reset_tokens,
    ) = tokens.read(headers);
    (limit != RateLimit::default()).then_some(limit)
}

/// The wait the server asks for.
fn asked(headers: &HeaderMap) -> Option<Duration> {
    let millis = longest(headers, &RETRY_AFTER_MS, |text| seconds(text, 1e-3));
    millis.max(longest(headers, &RETRY_AFTER, |text| {
        seconds(text, 1.0).or_else(|| until(headers, text))
    }))
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
    name: &HeaderName,
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

/// From the answer's `Date` to an instant in RFC 3339; zero where that is past.
fn until_instant(headers: &HeaderMap, text: &str) -> Option<Duration> {
    let now = http_date(headers.get(DATE)?.to_str().ok()?)?;
    let then: Timestamp = text.parse().ok()?;
    let wait = then
        .as_millisecond()
        .saturating_sub(now.as_millisecond())
        .max(0);
    Some(Duration::from_millis(wait.unsigned_abs()).min(LONGEST))
}

fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text.trim())
        .ok()
        .map(|zoned| zoned.timestamp())
}

/// A duration as Go prints it (`6m0s`, `16m17.764s`, `20ms`), or plain seconds.
pub(crate) fn go_duration(text: &str) -> Option<Duration> {
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

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use reqwest::header::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    type Case<'a> = (&'a [(&'static str, &'a str)], Option<f64>);

    const NOW: (&str, &str) = ("date", "Wed, 21 Oct 2026 07:28:00 GMT");

    #[test]
    fn f_013_f_014_f_015_f_016_delays_are_read_or_ignored() {
        let cases: &[Case<'_>] = &[
            (&[], None),
            (&[("retry-after", "20")], Some(20.0)),
            (&[("retry-after", " 20.5 ")], Some(20.5)),
            (&[("retry-after", "0")], Some(0.0)),
            (&[("retry-after-ms", "1500")], Some(1.5)),
            (
                &[("retry-after-ms", "1500"), ("retry-after", "2")],
                Some(2.0),
            ),
            (
                &[("retry-after-ms", "2500.5"), ("retry-after", "2")],
                Some(2.5005),
            ),
            (&[("retry-after-ms", "x"), ("retry-after", "2")], Some(2.0)),
            (&[("retry-after", "-5")], None),
            (&[("retry-after", "NaN")], None),
            (&[("retry-after", "inf")], None),
            (&[("retry-after", "")], None),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "3, 7,5")], Some(7.0)),
            (&[("retry-after", "3"), ("retry-after", "9")], Some(9.0)),
            (&[("retry-after", "999999999")], Some(LONGEST.as_secs_f64())),
            (&[("retry-after", "1e300")], Some(LONGEST.as_secs_f64())),
            (
                &[NOW, ("retry-after", "Wed, 21 Oct 2026 07:29:30 GMT")],
                Some(90.0),
            ),
            (
                &[NOW, ("retry-after", "Wed, 21 Oct 2026 07:27:00 GMT")],
                Some(0.0),
            ),
            (
                &[NOW, ("retry-after", "Fri, 31 Dec 99999 23:59:59 GMT")],
                None,
            ),
            (
                &[NOW, ("retry-after", "Fri, 31 Dec 9998 23:59:59 GMT")],
                Some(LONGEST.as_secs_f64()),
            ),
            (
                &[NOW, ("retry-after", "Wed, 99 Oct 2026 07:29:30 GMT")],
                None,
            ),
            // Not measured against the local clock.
            (&[("retry-after", "Wed, 21 Oct 2026 07:29:30 GMT")], None),
            (
                &[
                    ("date", "garbage"),
                    ("retry-after", "Wed, 21 Oct 2026 07:29:30 GMT"),
                ],
                None,
            ),
        ];
        for (pairs, expected) in cases {
            assert_eq!(
                retry_hints(&headers(pairs)).retry_after,
                expected.map(Duration::from_secs_f64),
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn f_017_the_instruction_is_read() {
        for (value, expected) in [
            ("true", Some(true)),
            ("False", Some(false)),
            ("1", None),
            ("", None),
        ] {
            assert_eq!(
                retry_hints(&headers(&[("x-should-retry", value)])).should_retry,
                expected
            );
        }
    }

    #[test]
    fn f_018_resets_count_only_where_nothing_is_left() {
        let hints = |requests, tokens, more: &[(&'static str, &str)]| {
            let mut pairs = vec![
                ("x-ratelimit-remaining-requests", requests),
                ("x-ratelimit-remaining-tokens", tokens),
                ("x-ratelimit-reset-requests", "20ms"),
                ("x-ratelimit-reset-tokens", "6m0s"),
            ];
            pairs.extend(more);
            retry_hints(&headers(&pairs))
        };
        assert_eq!(
            hints("0", "0", &[]).retry_after,
            Some(Duration::from_secs(360))
        );
        assert_eq!(hints("0", "1", &[]).retry_after, None);
        assert_eq!(hints("-1", "0", &[]).retry_after, None);
        assert_eq!(
            hints("0", "0", &[("retry-after", "1")]).retry_after,
            Some(Duration::from_secs(1))
        );
        let limit = hints("-1", "7", &[]).rate_limit.unwrap();
        assert_eq!(
            (limit.remaining_requests, limit.remaining_tokens),
            (None, Some(7))
        );
        assert_eq!(limit.reset_requests, Some(Duration::from_millis(20)));
    }

    #[test]
    fn go_durations_are_read_or_ignored() {
        let cases = [
            ("1s", Some(1.0)),
            ("20ms", Some(0.02)),
            ("6m0s", Some(360.0)),
            ("16m17.764s", Some(977.764)),
            ("1h2m3s", Some(3723.0)),
            ("1.5h", Some(5400.0)),
            ("250us", Some(0.00025)),
            ("9ns", Some(9e-9)),
            ("0", Some(0.0)),
            ("59.7", Some(59.7)),
            ("-1", None),
            ("", None),
            ("s", None),
            ("1", Some(1.0)),
            ("1m5", None),
            ("1d", None),
            ("1.2.3s", None),
            ("NaN", None),
        ];
        for (text, expected) in cases {
            assert_eq!(
                go_duration(text),
                expected.map(Duration::from_secs_f64),
                "{text}"
            );
        }
    }

    #[test]
    fn a_request_id_is_short_and_visible() {
        let id = format!("req_\u{1b}[31m{}", "x".repeat(500)).into_bytes();
        let mut map = HeaderMap::new();
        map.insert("x-request-id", HeaderValue::from_static("req_1"));
        assert_eq!(retry_hints(&map).request_id.as_deref(), Some("req_1"));
        assert!(
            HeaderValue::from_bytes(&id).is_err(),
            "escapes do not even arrive"
        );
        map.insert(
            "x-request-id",
            HeaderValue::from_str(&"x".repeat(500)).unwrap(),
        );
        assert_eq!(retry_hints(&map).request_id.map(|id| id.len()), Some(128));
    }

    static ANTHROPIC: HintNames = HintNames::new(
        Some([
            "anthropic-ratelimit-requests-limit",
            "anthropic-ratelimit-requests-remaining",
            "anthropic-ratelimit-requests-reset",
        ]),
        Some([
            "anthropic-ratelimit-tokens-limit",
            "anthropic-ratelimit-tokens-remaining",
            "anthropic-ratelimit-tokens-reset",
        ]),
    );

    #[test]
    fn f_018_names_are_a_vendors_own_and_instants_are_measured_by_its_clock() {
        let map = headers(&[
            NOW,
            ("anthropic-ratelimit-requests-limit", "1000"),
            ("anthropic-ratelimit-requests-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", "2026-10-21T07:28:30Z"),
            ("anthropic-ratelimit-tokens-remaining", "0"),
            (
                "anthropic-ratelimit-tokens-reset",
                "2026-10-21T09:29:30.5+02:00",
            ),
            ("x-ratelimit-remaining-requests", "7"),
        ]);
        let hints = ANTHROPIC.read(&map);
        let limit = hints.rate_limit.unwrap();
        assert_eq!(limit.limit_requests, Some(1000));
        assert_eq!(limit.remaining_requests, Some(0));
        assert_eq!(limit.reset_requests, Some(Duration::from_secs(30)));
        assert_eq!(limit.reset_tokens, Some(Duration::from_millis(90_500)));
        assert_eq!(hints.retry_after, Some(Duration::from_millis(90_500)));
        assert_eq!(NO_HINTS.read(&map).rate_limit, None);
        let dateless = headers(&[("anthropic-ratelimit-requests-reset", "2026-10-21T07:28:30Z")]);
        assert_eq!(ANTHROPIC.read(&dateless).rate_limit, None);
    }

    proptest! {
        /// F-015, F-016: no header value panics or gives a delay over the bound.
        #[test]
        fn any_header_is_survived(
            values in proptest::collection::vec((0usize..8, "[ -~]{0,24}|-?[0-9]{1,25}(\\.[0-9]{1,5})?(s|ms|m|h)?|[A-Z][a-z]{2}, [0-9]{1,2} (Oct|Feb) [0-9]{1,6} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"), 0..8)
        ) {
            let names = ["retry-after", "retry-after-ms", "date", "x-ratelimit-reset-tokens", "x-ratelimit-reset-requests", "x-ratelimit-remaining-tokens", "x-ratelimit-remaining-requests", "x-should-retry"];
            let mut map = HeaderMap::new();
            for (name, value) in &values {
                map.append(HeaderName::from_static(names[*name]), HeaderValue::from_str(value).unwrap());
            }
            let hints = retry_hints(&map);
            prop_assert!(hints.retry_after.is_none_or(|delay| delay <= LONGEST));
        }
    }
}
