//! Settings one by one, checked once.

use crate::client::Client;
use crate::config::{GeminiConfig, MOST_INLINE};
use crate::provider::Gemini;
use batchwright_core::{Error, ErrorKind, ModelSpec, Result};
use batchwright_http::{HttpClientBuilder, Secret};
use std::time::Duration;

/// Collects the settings of a [`Gemini`].
#[derive(Clone, Debug)]
#[must_use]
pub struct GeminiBuilder {
    config: GeminiConfig,
}

impl GeminiBuilder {
    /// Starts from the defaults and this key.
    pub fn new(api_key: impl Into<String>) -> Self {
        GeminiConfig::new(api_key).into()
    }

    /// Replaces the key.
    pub fn api_key(mut self, api_key: impl Into<String>) -> Self {
        self.config.api_key = Secret::new(api_key.into());
        self
    }

    /// Sets the URL before the version.
    pub fn base_url(mut self, base_url: impl Into<String>) -> Self {
        self.config.base_url = base_url.into();
        self
    }

    /// Sets the version of the API, `v1beta` or `v1`.
    pub fn api_version(mut self, version: impl Into<String>) -> Self {
        self.config.api_version = version.into();
        self
    }

    /// Sets the provider's name, for a service that speaks this protocol.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Sends chunks of at most this many bytes as inline batches; see [`GeminiConfig::inline_up_to`].
    pub fn inline_up_to(mut self, bytes: u64) -> Self {
        self.config.inline_up_to = bytes;
        self
    }

    /// Streams direct calls that may answer with more tokens than this.
    pub fn stream_above(mut self, tokens: u32) -> Self {
        self.config.stream_above = tokens;
        self
    }

    /// Bounds one direct call.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.config.attempt_timeout = timeout;
        self
    }

    /// Bounds the HTTP calls under way at once, at least 1; further ones wait.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.config.http = self.config.http.max_in_flight(calls);
        self
    }

    /// Sets how connections are made: their timeouts, proxies and further certificates. What
    /// [`max_in_flight`](Self::max_in_flight) set before is replaced.
    pub fn http(mut self, http: HttpClientBuilder) -> Self {
        self.config.http = http;
        self
    }

    /// Allows plain http to other machines.
    pub fn allow_plain_http(mut self, allow: bool) -> Self {
        self.config.allow_plain_http = allow;
        self
    }

    /// Checks the settings together and builds the provider. Nothing is sent.
    ///
    /// # Errors
    /// `ConfigInvalid` where a setting is unusable: a base URL that is none or is plain http, a key no header can
    /// hold, a name that is not of `a-z`, `0-9`, `-` and `_`, a version that is no word, more inline bytes than the
    /// API takes, a timeout of zero, a certificate that is none.
    pub fn build(self) -> Result<Gemini> {
        let config = self.config;
        let invalid = |message: &str| {
            Error::new(
                ErrorKind::ConfigInvalid,
                format!("build the provider: {message}"),
            )
        };
        if config.attempt_timeout.is_zero() {
            return Err(invalid("attempt_timeout must be above zero"));
        }
        let version = &config.api_version;
        if version.is_empty() || !version.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(invalid("api_version must be a word such as v1beta"));
        }
        if config.inline_up_to > MOST_INLINE {
            return Err(invalid("inline_up_to must be at most 19000000 bytes"));
        }
        // The same rule as where the name is used, so that it cannot be too wide here.
        ModelSpec::new(&config.name, "model")
            .map_err(|error| error.context("check the provider's name"))?;
        let client = Client::new(&config)?;
        Ok(Gemini::assemble(client, config))
    }
}

impl From<GeminiConfig> for GeminiBuilder {
    fn from(config: GeminiConfig) -> Self {
        Self { config }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright_http::HttpClient;

    #[test]
    fn f_193_f_196_unusable_settings_are_refused_before_anything_is_sent() {
        let good = || GeminiBuilder::new("key");
        assert!(good().build().is_ok());
        assert!(good().base_url("http://127.0.0.1:9/gemini").build().is_ok());
        assert!(good().inline_up_to(MOST_INLINE).build().is_ok());
        let plain = good().base_url("http://example.com");
        assert!(plain.clone().allow_plain_http(true).build().is_ok());
        for (what, builder) in [
            ("plain http", plain),
            (
                "no url",
                good().base_url("generativelanguage.googleapis.com"),
            ),
            ("a password", good().base_url("https://a:b@example.com")),
            ("a key in it", good().base_url("https://example.com/?key=k")),
            ("no key", good().api_key("")),
            ("a key of two lines", good().api_key("a\nb")),
            ("an odd name", good().name("Gem ini")),
            ("no version", good().api_version("")),
            ("a path as version", good().api_version("v1/../x")),
            ("no time", good().attempt_timeout(Duration::ZERO)),
            ("too much inline", good().inline_up_to(MOST_INLINE + 1)),
            (
                "a certificate that is none",
                good().http(HttpClient::builder().extra_ca_pem("no PEM")),
            ),
        ] {
            let error = builder.build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{what}: {error}");
        }
    }
}
