//! Settings one by one, checked once.

use crate::client::Client;
use crate::config::{ChatApi, OpenAiConfig};
use crate::convert::RESPONSES;
use crate::provider::OpenAi;
use batchwright_core::{Error, ErrorKind, ModelSpec, Result};
use batchwright_http::{HttpClientBuilder, Secret};
use std::time::Duration;

/// Collects the settings of an [`OpenAi`].
#[derive(Clone, Debug)]
#[must_use]
pub struct OpenAiBuilder {
    config: OpenAiConfig,
}

impl OpenAiBuilder {
    /// Starts from the defaults and this key.
    pub fn new(api_key: impl Into<String>) -> Self {
        OpenAiConfig::new(api_key).into()
    }

    /// Replaces the key.
    pub fn api_key(mut self, api_key: impl Into<String>) -> Self {
        self.config.api_key = Secret::new(api_key.into());
        self
    }

    /// Sets the URL that ends in the version, such as `https://eu.api.openai.com/v1`.
    pub fn base_url(mut self, base_url: impl Into<String>) -> Self {
        self.config.base_url = base_url.into();
        self
    }

    /// Sets the version of Azure's dated APIs, such as `2024-10-21`.
    pub fn api_version(mut self, version: impl Into<String>) -> Self {
        self.config.api_version = Some(version.into());
        self
    }

    /// Names the organization.
    pub fn organization(mut self, organization: impl Into<String>) -> Self {
        self.config.organization = Some(organization.into());
        self
    }

    /// Names the project.
    pub fn project(mut self, project: impl Into<String>) -> Self {
        self.config.project = Some(project.into());
        self
    }

    /// Sets the provider's name, for a compatible service.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Sets which API a conversation goes to.
    pub fn chat_api(mut self, chat_api: ChatApi) -> Self {
        self.config.chat_api = chat_api;
        self
    }

    /// Sets the window a batch is created with, where the service has several.
    pub fn completion_window(mut self, window: impl Into<String>) -> Self {
        self.config.completion_window = window.into();
        self
    }

    /// Bounds one direct call.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.config.attempt_timeout = timeout;
        self
    }

    /// Sets how long an answer may be that is waited for in one piece, in tokens; longer ones are streamed.
    pub fn stream_above(mut self, tokens: u32) -> Self {
        self.config.stream_above = tokens;
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
    /// `ConfigInvalid` where a setting is unusable: a base URL that is none or is plain http, a key no
    /// header can hold, a name that is not of `a-z`, `0-9`, `-` and `_`, a timeout of zero, a certificate that is
    /// none, the Responses API of a service without it, a window the service does not have, an API version that is
    /// none or that the service has no use for.
    pub fn build(self) -> Result<OpenAi> {
        let config = self.config;
        if config.attempt_timeout.is_zero() {
            return Err(Error::new(
                ErrorKind::ConfigInvalid,
                "build the provider: attempt_timeout must be above zero",
            ));
        }
        // The same rule as where the name is used, so that it cannot be too wide here.
        ModelSpec::new(&config.name, "model")
            .map_err(|error| error.context("check the provider's name"))?;
        let mut capability = (config.dialect.capability)();
        let has_responses = capability
            .realtime_endpoints
            .iter()
            .any(|path| path == RESPONSES);
        if config.chat_api == ChatApi::Responses && !has_responses {
            return Err(Error::new(
                ErrorKind::ConfigInvalid,
                format!(
                    "build the provider: {} has no Responses API",
                    config.dialect.name
                ),
            ));
        }
        if let Some(batch) = &mut capability.batch {
            let length = config.dialect.windows.length(&config.completion_window)?;
            // The one that is taken stands first.
            batch.windows.retain(|window| *window != length);
            batch.windows.insert(0, length);
        }
        let client = Client::new(&config)?;
        Ok(OpenAi::assemble(client, config, capability))
    }
}

impl From<OpenAiConfig> for OpenAiBuilder {
    fn from(config: OpenAiConfig) -> Self {
        Self { config }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright_http::HttpClient;

    #[test]
    fn f_196_unusable_settings_are_refused_before_anything_is_sent() {
        let good = || OpenAiBuilder::new("key");
        assert!(good().build().is_ok());
        assert!(good().base_url("http://127.0.0.1:9/v1").build().is_ok());
        let plain = good().base_url("http://example.com/v1");
        assert!(plain.clone().allow_plain_http(true).build().is_ok());
        for (what, builder) in [
            ("plain http", plain),
            ("no url", good().base_url("api.openai.com")),
            ("a password", good().base_url("https://a:b@example.com/v1")),
            ("no key", good().api_key("")),
            ("a key of two lines", good().api_key("a\nb")),
            ("an odd name", good().name("Open AI")),
            ("no time", good().attempt_timeout(Duration::ZERO)),
            (
                "a certificate that is none",
                good().http(HttpClient::builder().extra_ca_pem("no PEM")),
            ),
            ("a split header", good().organization("a\r\nb: c")),
        ] {
            let error = builder.build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{what}: {error}");
        }
    }
}
