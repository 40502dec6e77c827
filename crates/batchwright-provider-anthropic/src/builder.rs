//! Settings one by one, checked once.

use crate::client::Client;
use crate::config::{AnthropicConfig, Auth, CacheTtl};
use crate::provider::Anthropic;
use batchwright_core::{Error, ErrorKind, ModelSpec, Result};
use batchwright_http::{HttpClientBuilder, Secret};
use std::time::Duration;

/// The most requests the vendor takes in a batch (API reference, "Create a Message Batch").
const MAX_BATCH_REQUESTS: u64 = 100_000;
/// The most bytes the vendor takes in a batch, as whole millions.
const MAX_BATCH_BYTES: u64 = 256_000_000;

/// Collects the settings of an [`Anthropic`].
#[derive(Clone, Debug)]
#[must_use]
pub struct AnthropicBuilder {
    config: AnthropicConfig,
}

impl AnthropicBuilder {
    /// Starts from the defaults and this key.
    pub fn new(api_key: impl Into<String>) -> Self {
        AnthropicConfig::new(api_key).into()
    }

    /// Replaces the key.
    pub fn api_key(mut self, api_key: impl Into<String>) -> Self {
        self.config.api_key = Secret::new(api_key.into());
        self
    }

    /// Sets where the key goes.
    pub fn auth(mut self, auth: Auth) -> Self {
        self.config.auth = auth;
        self
    }

    /// Sets the URL that `/v1/messages` follows.
    pub fn base_url(mut self, base_url: impl Into<String>) -> Self {
        self.config.base_url = base_url.into();
        self
    }

    /// Sets the `anthropic-version`.
    pub fn api_version(mut self, version: impl Into<String>) -> Self {
        self.config.api_version = version.into();
        self
    }

    /// Adds a name to `anthropic-beta`.
    pub fn beta(mut self, beta: impl Into<String>) -> Self {
        self.config.betas.push(beta.into());
        self
    }

    /// Names the workspace.
    pub fn workspace(mut self, workspace: impl Into<String>) -> Self {
        self.config.workspace = Some(workspace.into());
        self
    }

    /// Sets the provider's name, for a compatible service.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Bounds answers whose request does not, in tokens from 1 on.
    pub fn max_tokens(mut self, tokens: u32) -> Self {
        self.config.max_tokens = tokens;
        self
    }

    /// Streams direct calls that may answer with more tokens than this.
    pub fn stream_above(mut self, tokens: u32) -> Self {
        self.config.stream_above = tokens;
        self
    }

    /// Marks tools and instructions of each request to be cached.
    pub fn cache(mut self, ttl: CacheTtl) -> Self {
        self.config.cache = Some(ttl);
        self
    }

    /// Bounds the requests of a batch, 1 to 100,000.
    pub fn batch_requests(mut self, requests: u64) -> Self {
        self.config.batch_requests = requests;
        self
    }

    /// Bounds the bytes of a batch's lines, at most 256,000,000.
    pub fn batch_bytes(mut self, bytes: u64) -> Self {
        self.config.batch_bytes = bytes;
        self
    }

    /// Bounds one direct call that is not streamed.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.config.attempt_timeout = timeout;
        self
    }

    /// Bounds one streamed call.
    pub fn stream_timeout(mut self, timeout: Duration) -> Self {
        self.config.stream_timeout = timeout;
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
    /// `ConfigInvalid` where a setting is unusable: a base URL that is none or is plain http, a key, version, beta or
    /// workspace no header can hold, a name that is not of `a-z`, `0-9`, `-` and `_`, a timeout or a limit of zero, a
    /// batch beyond the vendor's limits, a certificate that is none.
    pub fn build(self) -> Result<Anthropic> {
        let config = self.config;
        let within = |value: u64, most: u64| (1..=most).contains(&value);
        for (name, fits) in [
            ("attempt_timeout", !config.attempt_timeout.is_zero()),
            ("stream_timeout", !config.stream_timeout.is_zero()),
            ("max_tokens", config.max_tokens > 0),
            (
                "batch_requests",
                within(config.batch_requests, MAX_BATCH_REQUESTS),
            ),
            ("batch_bytes", within(config.batch_bytes, MAX_BATCH_BYTES)),
        ] {
            if !fits {
                return Err(Error::new(
                    ErrorKind::ConfigInvalid,
                    format!("build the provider: {name} is out of its range"),
                ));
            }
        }
        // The same rule as where the name is used, so that it cannot be too wide here.
        ModelSpec::new(&config.name, "model")
            .map_err(|error| error.context("check the provider's name"))?;
        let client = Client::new(&config)?;
        Ok(Anthropic::assemble(client, config))
    }
}

impl From<AnthropicConfig> for AnthropicBuilder {
    fn from(config: AnthropicConfig) -> Self {
        Self { config }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright_http::HttpClient;

    #[test]
    fn f_196_unusable_settings_are_refused_before_anything_is_sent() {
        let good = || AnthropicBuilder::new("key");
        assert!(good().build().is_ok());
        assert!(good().base_url("http://127.0.0.1:9/v1/").build().is_ok());
        let plain = good().base_url("http://example.com");
        assert!(plain.clone().allow_plain_http(true).build().is_ok());
        for (what, builder) in [
            ("plain http", plain),
            ("no url", good().base_url("api.anthropic.com")),
            ("a password", good().base_url("https://a:b@example.com")),
            ("no key", good().api_key("")),
            ("a key of two lines", good().api_key("a\nb")),
            ("no version", good().api_version(" ")),
            ("an odd name", good().name("An thropic")),
            ("no time", good().attempt_timeout(Duration::ZERO)),
            ("no time to stream", good().stream_timeout(Duration::ZERO)),
            ("no tokens", good().max_tokens(0)),
            ("too large a batch", good().batch_bytes(300_000_000)),
            ("too many requests", good().batch_requests(100_001)),
            ("a split header", good().workspace("a\r\nb: c")),
            ("a split beta", good().beta("a\nb")),
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
