//! Every setting of the provider, its default and its unit.

use batchwright_core::{Error, ErrorKind, Result};
use batchwright_http::{BaseUrl, HttpClient, HttpClientBuilder, Secret};
use std::{fmt, time::Duration};

/// Where the API is.
pub(crate) const BASE_URL: &str = "https://generativelanguage.googleapis.com";

/// The variable that holds the key; it wins over [`KEY_VAR`], as in the vendor's own client.
pub(crate) const GOOGLE_KEY_VAR: &str = "GOOGLE_API_KEY";
/// The other variable that holds the key.
pub(crate) const KEY_VAR: &str = "GEMINI_API_KEY";
/// The variable that holds another base URL.
pub(crate) const BASE_URL_VAR: &str = "GOOGLE_GEMINI_BASE_URL";

/// The most bytes of a chunk whose create carries its lines: the API takes less than 20 MB for the whole body
/// (<https://ai.google.dev/gemini-api/docs/batch-api>, read 2026-11-22).
pub(crate) const MOST_INLINE: u64 = 19_000_000;

/// Every setting of [`Gemini`](crate::Gemini).
///
/// Its `Debug` shows neither the key nor what else may be secret.
#[derive(Clone)]
#[non_exhaustive]
pub struct GeminiConfig {
    /// The API key. It travels in a header, never in a URL (F-193).
    pub api_key: Secret,
    /// The URL before the version. Default `https://generativelanguage.googleapis.com`.
    pub base_url: String,
    /// The version of the API. Default `v1beta`, which the documentation of batches, files and caching uses; under
    /// `v1` some preview models are not found.
    pub api_version: String,
    /// The provider's name in results, prices and batch handles. Default `gemini`.
    pub name: String,
    /// Chunks of at most this many bytes go as inline batches: their create carries the lines, and nothing is
    /// uploaded. At most 19,000,000. Default 0, none: the vendor was seen to lose the keys of inline requests (F-101),
    /// a create of unclear fate cannot be fenced without a file to delete, and each look at a finished inline batch
    /// transfers its results.
    pub inline_up_to: u64,
    /// Direct calls whose `max_output_tokens` is more than this are streamed, so that the connection is not silent for
    /// the minutes a long answer takes, which proxies cut (F-040). Default 16,384; `u32::MAX` streams nothing.
    pub stream_above: u32,
    /// The longest one direct call may take, from the first byte sent to the last one read. Default 600 s, the
    /// deadline of the service itself for long answers.
    pub attempt_timeout: Duration,
    /// How connections are made and how many calls are under way at once. Default: that of
    /// `batchwright-http`, with 256 calls.
    pub http: HttpClientBuilder,
    /// Whether plain http is allowed to hosts other than this machine, where key and prompts travel in
    /// clear text (F-196). Default no.
    pub allow_plain_http: bool,
}

impl GeminiConfig {
    /// The defaults, with this key.
    pub fn new(api_key: impl Into<String>) -> Self {
        Self {
            api_key: Secret::new(api_key.into()),
            base_url: BASE_URL.to_owned(),
            api_version: "v1beta".to_owned(),
            name: "gemini".to_owned(),
            inline_up_to: 0,
            stream_above: 16_384,
            attempt_timeout: Duration::from_secs(600),
            http: HttpClient::builder(),
            allow_plain_http: false,
        }
    }

    /// The settings that stand in `pairs`, such as `std::env::vars()`: `GOOGLE_API_KEY`, else `GEMINI_API_KEY`, and
    /// `GOOGLE_GEMINI_BASE_URL`. An empty value counts as unset.
    ///
    /// # Errors
    /// `ConfigInvalid` where the key is missing.
    pub fn from_env<K, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Self>
    where
        K: AsRef<str>,
        V: Into<String>,
    {
        let (mut google_key, mut key, mut base_url) = (None, None, None);
        for (name, value) in pairs {
            let slot = match name.as_ref() {
                GOOGLE_KEY_VAR => &mut google_key,
                KEY_VAR => &mut key,
                BASE_URL_VAR => &mut base_url,
                _ => continue,
            };
            let value: String = value.into();
            if !value.trim().is_empty() {
                *slot = Some(value);
            }
        }
        let key = google_key.or(key).ok_or_else(|| {
            Error::new(
                ErrorKind::ConfigInvalid,
                format!("find the API key: set {GOOGLE_KEY_VAR} or {KEY_VAR}"),
            )
        })?;
        let mut config = Self::new(key);
        if let Some(base_url) = base_url {
            config.base_url = base_url;
        }
        Ok(config)
    }
}

impl fmt::Debug for GeminiConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GeminiConfig")
            .field("name", &self.name)
            .field("base_url", &BaseUrl::shown(&self.base_url))
            .field("api_version", &self.api_version)
            .field("inline_up_to", &self.inline_up_to)
            .field("stream_above", &self.stream_above)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("http", &self.http)
            .field("allow_plain_http", &self.allow_plain_http)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_from_pairs_and_empty_ones_are_unset() {
        let config = GeminiConfig::from_env([
            (KEY_VAR, "second"),
            (GOOGLE_KEY_VAR, "first"),
            (BASE_URL_VAR, " "),
            ("PATH", "/bin"),
        ])
        .unwrap();
        assert_eq!(config.api_key.expose(), "first");
        assert_eq!(config.base_url, BASE_URL);
        let other = GeminiConfig::from_env([(KEY_VAR, "k"), (GOOGLE_KEY_VAR, "")]).unwrap();
        assert_eq!(other.api_key.expose(), "k");
    }

    #[test]
    fn a_missing_key_names_its_variables_and_stops() {
        let error = GeminiConfig::from_env([("OPENAI_API_KEY", "k")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.is_job_stop());
        for name in [GOOGLE_KEY_VAR, KEY_VAR] {
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn f_192_debug_shows_no_secret() {
        let mut config = GeminiConfig::new("CANARY-KEY");
        config.base_url = "https://user:CANARY-PASSWORD@example.com".to_owned();
        assert!(!format!("{config:?}").contains("CANARY"), "{config:?}");
    }
}
