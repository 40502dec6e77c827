//! Every setting of the provider, its default and its unit.

use batchwright_core::{Error, ErrorKind, Result};
use batchwright_http::{BaseUrl, HttpClient, HttpClientBuilder, Secret};
use std::{fmt, time::Duration};

/// The vendor's own address.
pub(crate) const BASE_URL: &str = "https://api.anthropic.com";
/// The version whose rules for sampling are the wider ones.
const VERSION: &str = "2023-06-01";

/// The environment variable that holds the key.
const KEY_VAR: &str = "ANTHROPIC_API_KEY";
/// The environment variable that holds a token, always a bearer's.
const TOKEN_VAR: &str = "ANTHROPIC_AUTH_TOKEN";
/// The environment variable that holds another base URL.
const BASE_URL_VAR: &str = "ANTHROPIC_BASE_URL";

/// The most tokens of an answer where a request names none.
pub(crate) const MAX_TOKENS: u32 = 4096;
/// The most tokens of an answer that is waited for in one piece.
pub(crate) const STREAM_ABOVE: u32 = 21_333;
/// The most requests of a batch, by our own choice; the vendor takes ten times as many.
pub(crate) const BATCH_REQUESTS: u64 = 10_000;
/// The most bytes of a batch, by our own choice; the vendor takes 256 MB.
pub(crate) const BATCH_BYTES: u64 = 20_000_000;

/// Where the key goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Auth {
    /// `x-api-key`, which every gateway knows. The default.
    #[default]
    ApiKey,
    /// `Authorization: Bearer`, which the vendor's newer clients use for the same key.
    Bearer,
}

/// How long a cached prefix is kept after its last use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheTtl {
    /// Five minutes; a write costs 1.25 times the input.
    FiveMinutes,
    /// An hour; a write costs twice the input. What the vendor recommends for batches.
    OneHour,
}

/// Every setting of [`Anthropic`](crate::Anthropic).
///
/// Its `Debug` shows neither the key nor what else may be secret.
#[derive(Clone)]
#[non_exhaustive]
pub struct AnthropicConfig {
    /// The API key, or the token.
    pub api_key: Secret,
    /// Where it goes. Default [`Auth::ApiKey`].
    pub auth: Auth,
    /// The URL that `/v1/messages` follows; one that ends in `/v1` is taken as well. Default
    /// `https://api.anthropic.com`.
    pub base_url: String,
    /// The `anthropic-version`. Default `2023-06-01`; `2026-10-21` forbids all sampling parameters.
    pub api_version: String,
    /// Names for `anthropic-beta`, such as `output-300k-2026-03-24`. Default none.
    pub betas: Vec<String>,
    /// The workspace, where a key reaches several. Default: the key's own. Batches belong to a workspace: whoever
    /// looks for one later must name the same (F-087).
    pub workspace: Option<String>,
    /// The provider's name in results, prices and batch handles. Default `anthropic`.
    pub name: String,
    /// The most tokens of an answer where a request names none, since the API has no default of its own. Default
    /// 4,096, which every model takes; an answer that needs more is marked as cut off.
    pub max_tokens: u32,
    /// Direct calls that may answer with more tokens than this are streamed, since connections that are silent for
    /// long get cut (F-040). Default 21,333: where the vendor's own client refuses to wait in silence.
    pub stream_above: u32,
    /// Whether tools and instructions of each request are marked to be cached, and for how long. Default not.
    pub cache: Option<CacheTtl>,
    /// The most requests of a batch, 1 to 100,000. Default 10,000: a create carries its lines, and one whose answer
    /// is lost puts all of them in doubt.
    pub batch_requests: u64,
    /// The most bytes of a batch's lines, at most 256,000,000. Default 20,000,000, for the same reason.
    pub batch_bytes: u64,
    /// The longest one direct call may take that is not streamed, from the first byte sent to the last one read.
    /// Default 600 s as in the vendor's own client.
    pub attempt_timeout: Duration,
    /// The longest one streamed call may take. Default 3,600 s, in which the vendor expects 128,000 tokens.
    pub stream_timeout: Duration,
    /// How connections are made and how many calls are under way at once. Default: that of
    /// `batchwright-http`, with 256 calls.
    pub http: HttpClientBuilder,
    /// Whether plain http is allowed to hosts other than this machine, where key and prompts travel in
    /// clear text (F-196). Default no.
    pub allow_plain_http: bool,
}

impl AnthropicConfig {
    /// The defaults, with this key.
    pub fn new(api_key: impl Into<String>) -> Self {
        Self {
            api_key: Secret::new(api_key.into()),
            auth: Auth::default(),
            base_url: BASE_URL.to_owned(),
            api_version: VERSION.to_owned(),
            betas: Vec::new(),
            workspace: None,
            name: "anthropic".to_owned(),
            max_tokens: MAX_TOKENS,
            stream_above: STREAM_ABOVE,
            cache: None,
            batch_requests: BATCH_REQUESTS,
            batch_bytes: BATCH_BYTES,
            attempt_timeout: Duration::from_secs(600),
            stream_timeout: Duration::from_secs(3600),
            http: HttpClient::builder(),
            allow_plain_http: false,
        }
    }

    /// Settings that stand in `pairs`, such as `std::env::vars()`; an empty value counts as unset. A key is
    /// preferred to a token.
    ///
    /// # Errors
    /// `ConfigInvalid` where neither key nor token is there.
    pub fn from_env<K, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Self>
    where
        K: AsRef<str>,
        V: Into<String>,
    {
        let (mut key, mut token, mut base_url) = (None, None, None);
        for (name, value) in pairs {
            let slot = match name.as_ref() {
                KEY_VAR => &mut key,
                TOKEN_VAR => &mut token,
                BASE_URL_VAR => &mut base_url,
                _ => continue,
            };
            let value: String = value.into();
            if !value.trim().is_empty() {
                *slot = Some(value);
            }
        }
        let (secret, auth) = match (key, token) {
            (Some(key), _) => (key, Auth::ApiKey),
            (None, Some(token)) => (token, Auth::Bearer),
            (None, None) => {
                return Err(Error::new(
                    ErrorKind::ConfigInvalid,
                    format!("find the API key: set {KEY_VAR} or {TOKEN_VAR}"),
                ));
            }
        };
        let mut config = Self::new(secret);
        config.auth = auth;
        config.base_url = base_url.unwrap_or(config.base_url);
        Ok(config)
    }
}

impl fmt::Debug for AnthropicConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnthropicConfig")
            .field("name", &self.name)
            .field("base_url", &BaseUrl::shown(&self.base_url))
            .field("auth", &self.auth)
            .field("api_version", &self.api_version)
            .field("betas", &self.betas)
            .field("workspace", &self.workspace)
            .field("max_tokens", &self.max_tokens)
            .field("stream_above", &self.stream_above)
            .field("cache", &self.cache)
            .field("batch_requests", &self.batch_requests)
            .field("batch_bytes", &self.batch_bytes)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("stream_timeout", &self.stream_timeout)
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
        let config = AnthropicConfig::from_env([
            ("ANTHROPIC_API_KEY", "k"),
            ("ANTHROPIC_AUTH_TOKEN", "t"),
            ("ANTHROPIC_BASE_URL", " "),
            ("PATH", "/bin"),
        ])
        .unwrap();
        assert_eq!(config.base_url, BASE_URL);
        assert_eq!((config.api_key.expose(), config.auth), ("k", Auth::ApiKey));
        let config = AnthropicConfig::from_env([
            ("ANTHROPIC_API_KEY", ""),
            ("ANTHROPIC_AUTH_TOKEN", "t"),
            ("ANTHROPIC_BASE_URL", "https://example.com"),
        ])
        .unwrap();
        assert_eq!(config.base_url, "https://example.com");
        assert_eq!((config.api_key.expose(), config.auth), ("t", Auth::Bearer));
    }

    #[test]
    fn a_missing_key_names_its_variables_and_stops() {
        let error = AnthropicConfig::from_env([("ANTHROPIC_API_KEY", " ")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.is_job_stop());
        assert!(error.to_string().contains("ANTHROPIC_API_KEY"), "{error}");
    }

    #[test]
    fn f_192_debug_shows_no_secret() {
        let mut config = AnthropicConfig::new("CANARY-KEY");
        config.base_url = "https://user:CANARY-PASSWORD@example.com".to_owned();
        assert!(!format!("{config:?}").contains("CANARY"), "{config:?}");
    }
}
