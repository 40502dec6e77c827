//! One free question to a provider: whether it answers, whether it takes the key, and what time it is there.

use crate::providers::{Known, Pairs};
use batchwright::{
    core::Error,
    http::{BaseUrl, Call, HeaderName, HeaderValue, HttpClient, Limits, Secret},
};
use std::time::{Duration, SystemTime};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked of a provider.
struct Question {
    /// A path below the base URL whose `GET` costs nothing.
    path: &'static str,
    /// The header the key travels in, and what stands before it.
    key: (&'static str, &'static str),
    more: &'static [(&'static str, &'static str)],
}

/// The free question to a provider, where one is known.
fn question(known: &Known) -> Option<Question> {
    let (path, key, more): (_, _, &[_]) = match known.name {
        "anthropic" => (
            "v1/models",
            ("x-api-key", ""),
            &[("anthropic-version", "2023-06-01")],
        ),
        "gemini" => ("v1beta/models", ("x-goog-api-key", ""), &[]),
        // A token is had only by a call that costs more than a look.
        "vertex" => return None,
        // Its paths depend on the resource.
        "azure" => return None,
        _ => ("models", ("authorization", "Bearer "), &[]),
    };
    Some(Question { path, key, more })
}

/// What came of asking.
#[derive(Debug)]
pub(crate) enum Reach {
    /// It was not asked, and why.
    NotAsked(&'static str),
    /// It did not answer, and why.
    Unreachable(String),
    /// It answered.
    Answered(Answer),
}

/// A provider's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) after: Duration,
    /// By how many seconds this machine's clock is ahead of the provider's, which tells whole seconds.
    pub(crate) clock_ahead: Option<f64>,
}

impl Answer {
    /// Whether the key is taken, where the status tells.
    pub(crate) fn takes_key(&self) -> Option<bool> {
        match self.status {
            200..300 => Some(true),
            401 | 403 => Some(false),
            _ => None,
        }
    }
}

/// The base URL in use and whether the environment names it; `None` where neither does nor a default is known here.
pub(crate) fn base_url(known: &Known, pairs: &Pairs) -> Option<(String, bool)> {
    match pairs.get(known.base_url_variable()) {
        Some(url) => Some((url.clone(), true)),
        None => known.default_base_url().map(|url| (url.to_owned(), false)),
    }
}

/// The base URL as it may be shown: one with a password or a key in it is not.
pub(crate) fn shown(base_url: &str) -> Result<&str, Error> {
    BaseUrl::parse(base_url, true).map(|_| base_url)
}

/// Asks, with the key where there is one, for 5 s at most.
pub(crate) async fn ask(known: &Known, pairs: &Pairs) -> Reach {
    let key = known.key(pairs).map(String::as_str);
    if key.is_none() && known.needs_key() {
        return Reach::NotAsked("it has no key");
    }
    let (Some(question), Some((url, is_set))) = (question(known), base_url(known, pairs)) else {
        return Reach::NotAsked("no free question to it is known");
    };
    if key.is_none() && !is_set {
        return Reach::NotAsked("nothing names it");
    }
    match send(&question, &url, key).await {
        Ok(answer) => Reach::Answered(answer),
        Err(error) => Reach::Unreachable(error.to_string()),
    }
}

async fn send(question: &Question, base_url: &str, key: Option<&str>) -> Result<Answer, Error> {
    let url = BaseUrl::parse(base_url, false)?.join(question.path)?;
    let (header, prefix) = question.key;
    let mut call = Call::get("ask for the models", url).limits(Limits::poll().within(PATIENCE));
    if let Some(key) = key {
        let key = Secret::new(key.to_owned());
        call = call.secret(HeaderName::from_static(header), prefix, &key)?;
    }
    for (name, value) in question.more {
        call = call.header(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    let client = HttpClient::builder().connect_timeout(PATIENCE).build()?;
    let (asked, since) = (SystemTime::now(), std::time::Instant::now());
    let reply = client.send(call).await?;
    let after = since.elapsed();
    Ok(Answer {
        status: reply.status,
        after,
        clock_ahead: reply
            .header("date")
            .and_then(|date| clock_ahead(asked + after / 2, date)),
    })
}

/// By how many seconds `now` is ahead of the time the header tells, which is cut to whole seconds: half of one is
/// what it lacks on average.
fn clock_ahead(now: SystemTime, date: &str) -> Option<f64> {
    let there = jiff::fmt::rfc2822::parse(date)
        .ok()?
        .timestamp()
        .as_second();
    let here = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()?
        .as_secs_f64();
    Some(here - there as f64 - 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_compared_with_the_header() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_500);
        let ahead = |date| clock_ahead(now, date);
        assert_eq!(ahead("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0.0));
        assert_eq!(ahead("Sun, 06 Nov 1994 08:48:37 GMT"), Some(60.0));
        assert_eq!(ahead("yesterday"), None);
    }

    #[test]
    fn f_193_an_address_with_a_password_is_not_shown() {
        assert!(shown("https://api.example.com/v1").is_ok());
        for url in [
            "https://me:CANARY@example.com",
            "https://example.com?api_key=CANARY",
            "CANARY",
        ] {
            let error = shown(url).unwrap_err().to_string();
            assert!(!error.contains("CANARY"), "{error}");
        }
    }
}
