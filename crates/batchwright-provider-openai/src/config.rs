//! Every setting of the provider, its default and its unit.

use crate::dialect::Dialect;
use batchwright_core::{Error, ErrorKind, Result};
use batchwright_http::{BaseUrl, HttpClient, HttpClientBuilder, Secret};
use std::{fmt, time::Duration};

/// Which API a conversation goes to. Embeddings and raw bodies go to their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChatApi {
    /// `/v1/chat/completions`, which every compatible server has. The default.
    #[default]
    ChatCompletions,
    /// `/v1/responses`.
    Responses,
}

/// Every setting of [`OpenAi`](crate::OpenAi).
///
/// Its `Debug` shows neither the key nor what else may be secret.
#[derive(Clone)]
#[non_exhaustive]
pub struct OpenAiConfig {
    /// The service. Default [`Dialect::OPENAI`].
    pub dialect: &'static Dialect,
    /// The API key.
    pub api_key: Secret,
    /// The URL that ends in the version. Default: the dialect's; regional hosts such as
    /// `https://eu.api.openai.com/v1` are set instead of it.
    pub base_url: String,
    /// The version of Azure's dated APIs, such as `2024-10-21`; its paths are then those of deployments. Default
    /// none, which is Azure's v1 API and everybody else's.
    pub api_version: Option<String>,
    /// The organization, where a key reaches several. Default: the key's own.
    pub organization: Option<String>,
    /// The project, where a key reaches several. Default: the key's own. Files and batches belong to a
    /// project: whoever looks for a batch later must name the same one (F-087).
    pub project: Option<String>,
    /// The provider's name in results, prices and batch handles. Default: the dialect's.
    pub name: String,
    /// Which API a conversation goes to. Default [`ChatApi::ChatCompletions`].
    pub chat_api: ChatApi,
    /// The window a batch is created with, as the service writes it. Default: the dialect's, which for OpenAI is
    /// the only one, `24h`.
    pub completion_window: String,
    /// The longest one direct call may take, from the first byte sent to the last one read. Default
    /// 600 s as in the vendor's own client; flex wants 900 s.
    pub attempt_timeout: Duration,
    /// The most tokens of an answer that is waited for in one piece; answers that may be longer, by the request's own
    /// bound, are streamed, so that bytes flow and no box on the way cuts a connection that looks idle (F-040). What
    /// comes out is the same. A request without a bound is not streamed, unless this is 0, which streams every
    /// conversation. Default: the dialect's, 16,384 for OpenAI.
    pub stream_above: u32,
    /// How connections are made and how many calls are under way at once. Default: that of
    /// `batchwright-http`, with as many calls as the dialect says, 256 for OpenAI.
    pub http: HttpClientBuilder,
    /// Whether plain http is allowed to hosts other than this machine, where key and prompts travel in
    /// clear text (F-196). Default no.
    pub allow_plain_http: bool,
}

impl OpenAiConfig {
    /// OpenAI's defaults, with this key.
    pub fn new(api_key: impl Into<String>) -> Self {
        Self::of(&Dialect::OPENAI, api_key)
    }

    /// A dialect's defaults, with this key.
    pub fn of(dialect: &'static Dialect, api_key: impl Into<String>) -> Self {
        Self {
            dialect,
            api_key: Secret::new(api_key.into()),
            base_url: dialect.base_url.to_owned(),
            api_version: None,
            organization: None,
            project: None,
            name: dialect.name.to_owned(),
            chat_api: ChatApi::default(),
            completion_window: dialect.window.to_owned(),
            attempt_timeout: Duration::from_secs(600),
            stream_above: dialect.stream_above,
            http: HttpClient::builder().max_in_flight(dialect.max_in_flight),
            allow_plain_http: false,
        }
    }

    /// OpenAI's settings that stand in `pairs`, such as `std::env::vars()`; an empty value counts as unset.
    ///
    /// # Errors
    /// `ConfigInvalid` where the key is missing, or a base URL that only the customer knows.
    pub fn from_env<K, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Self>
    where
        K: AsRef<str>,
        V: Into<String>,
    {
        Self::from_env_of(&Dialect::OPENAI, pairs)
    }

    /// A dialect's settings that stand in `pairs`, under the names the dialect gives them.
    ///
    /// # Errors
    /// As [`OpenAiConfig::from_env`].
    pub fn from_env_of<K, V>(
        dialect: &'static Dialect,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self>
    where
        K: AsRef<str>,
        V: Into<String>,
    {
        let mut config = Self::of(dialect, String::new());
        let mut has_key = false;
        for (name, value) in pairs {
            let name = Some(name.as_ref());
            let is_key = name == Some(dialect.key_var);
            let slots = [
                dialect.base_url_var,
                dialect.organization_var,
                dialect.project_var,
                dialect.api_version_var,
            ];
            let slot = slots.iter().position(|slot| *slot == name);
            if !is_key && slot.is_none() {
                continue;
            }
            let value: String = value.into();
            if value.trim().is_empty() {
                continue;
            }
            match slot {
                _ if is_key => {
                    config.api_key = Secret::new(value);
                    has_key = true;
                }
                Some(0) => config.base_url = with_path(value, dialect.base_path),
                Some(1) => config.organization = Some(value),
                Some(2) => config.project = Some(value),
                _ => config.api_version = Some(value),
            }
        }
        let missing = |what: &str, variable: &str| {
            let message = format!("find the {what}: set {variable}");
            Err(Error::new(ErrorKind::ConfigInvalid, message))
        };
        match dialect.base_url_var {
            _ if dialect.key_needed && !has_key => missing("API key", dialect.key_var),
            Some(variable) if config.base_url.is_empty() => missing("base URL", variable),
            _ => Ok(config),
        }
    }
}

/// A base URL with what its vendor leaves out of the variable.
fn with_path(url: String, path: &str) -> String {
    let bare = url.trim().trim_end_matches('/');
    if bare.ends_with(path) {
        bare.to_owned()
    } else {
        format!("{bare}{path}")
    }
}

impl fmt::Debug for OpenAiConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiConfig")
            .field("name", &self.name)
            .field("base_url", &BaseUrl::shown(&self.base_url))
            .field("api_version", &self.api_version)
            .field("organization", &self.organization)
            .field("project", &self.project)
            .field("chat_api", &self.chat_api)
            .field("completion_window", &self.completion_window)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("stream_above", &self.stream_above)
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
        let config = OpenAiConfig::from_env([
            ("OPENAI_API_KEY", "k"),
            ("OPENAI_BASE_URL", " "),
            ("OPENAI_ORG_ID", "org-1"),
            ("OPENAI_PROJECT_ID", "proj_1"),
            ("PATH", "/bin"),
        ])
        .unwrap();
        assert_eq!(config.base_url, Dialect::OPENAI.base_url);
        assert_eq!(config.organization.as_deref(), Some("org-1"));
        assert_eq!(config.project.as_deref(), Some("proj_1"));
    }

    #[test]
    fn a_missing_key_names_its_variable_and_stops() {
        for pairs in [vec![], vec![("OPENAI_API_KEY", "")]] {
            let error = OpenAiConfig::from_env(pairs).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert!(error.is_job_stop());
            assert!(error.to_string().contains("OPENAI_API_KEY"), "{error}");
        }
    }

    #[test]
    fn f_192_debug_shows_no_secret() {
        let mut config = OpenAiConfig::new("CANARY-KEY");
        config.base_url = "https://user:CANARY-PASSWORD@example.com/v1".to_owned();
        assert!(!format!("{config:?}").contains("CANARY"), "{config:?}");
    }
}
