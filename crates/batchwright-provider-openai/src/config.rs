//! Every setting of the provider, its default and its unit.

use batchwright_core::{Error, ErrorKind, Result};
use batchwright_http::{BaseUrl, HttpClient, HttpClientBuilder, Secret};
use std::{fmt, time::Duration};

/// The environment variable that holds the API key.
pub const API_KEY_VAR: &str = "OPENAI_API_KEY";
/// The environment variable that holds another base URL.
pub const BASE_URL_VAR: &str = "OPENAI_BASE_URL";
/// The environment variable that names the organization.
pub const ORGANIZATION_VAR: &str = "OPENAI_ORG_ID";
/// The environment variable that names the project.
pub const PROJECT_VAR: &str = "OPENAI_PROJECT_ID";

/// OpenAI's own base URL. Regional hosts such as `https://eu.api.openai.com/v1` are set instead of it.
pub const DEFAULT_BASE_URL: &str = "https://api.openai.com/v1";

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
    /// The API key.
    pub api_key: Secret,
    /// The URL that ends in the version. Default [`DEFAULT_BASE_URL`].
    pub base_url: String,
    /// The organization, where a key reaches several. Default: the key's own.
    pub organization: Option<String>,
    /// The project, where a key reaches several. Default: the key's own. Files and batches belong to a
    /// project: whoever looks for a batch later must name the same one (F-087).
    pub project: Option<String>,
    /// Which API a conversation goes to. Default [`ChatApi::ChatCompletions`].
    pub chat_api: ChatApi,
    /// The provider's name in results, prices and batch handles. Default `openai`; a compatible service
    /// gives its own.
    pub name: String,
    /// The longest one direct call may take, from the first byte sent to the last one read. Default
    /// 600 s as in the vendor's own client; flex wants 900 s.
    pub attempt_timeout: Duration,
    /// How connections are made and how many calls are under way at once. Default: that of
    /// `batchwright-http`, with 256 calls.
    pub http: HttpClientBuilder,
    /// Whether plain http is allowed to hosts other than this machine, where key and prompts travel in
    /// clear text (F-196). Default no.
    pub allow_plain_http: bool,
}

impl OpenAiConfig {
    /// The defaults, with this key.
    pub fn new(api_key: impl Into<String>) -> Self {
        Self {
            api_key: Secret::new(api_key.into()),
            base_url: DEFAULT_BASE_URL.to_owned(),
            organization: None,
            project: None,
            chat_api: ChatApi::default(),
            name: "openai".to_owned(),
            attempt_timeout: Duration::from_secs(600),
            http: HttpClient::builder(),
            allow_plain_http: false,
        }
    }

    /// The settings that stand in `pairs`, such as `std::env::vars()`; an empty value counts as unset.
    ///
    /// # Errors
    /// `ConfigInvalid` where [`API_KEY_VAR`] is missing.
    pub fn from_env<K, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Self>
    where
        K: AsRef<str>,
        V: Into<String>,
    {
        let mut config = Self::new(String::new());
        let mut has_key = false;
        for (name, value) in pairs {
            let slot = match name.as_ref() {
                API_KEY_VAR | BASE_URL_VAR | ORGANIZATION_VAR | PROJECT_VAR => name.as_ref(),
                _ => continue,
            };
            let value: String = value.into();
            if value.trim().is_empty() {
                continue;
            }
            match slot {
                API_KEY_VAR => {
                    config.api_key = Secret::new(value);
                    has_key = true;
                }
                BASE_URL_VAR => config.base_url = value,
                ORGANIZATION_VAR => config.organization = Some(value),
                _ => config.project = Some(value),
            }
        }
        if has_key {
            return Ok(config);
        }
        Err(Error::new(
            ErrorKind::ConfigInvalid,
            format!("find the API key: set {API_KEY_VAR}"),
        ))
    }
}

impl fmt::Debug for OpenAiConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A URL may carry a password; one that does is refused later, and not shown here.
        let base_url = BaseUrl::parse(&self.base_url, true)
            .map_or_else(|_| "unusable".to_owned(), |url| url.to_string());
        f.debug_struct("OpenAiConfig")
            .field("name", &self.name)
            .field("base_url", &base_url)
            .field("organization", &self.organization)
            .field("project", &self.project)
            .field("chat_api", &self.chat_api)
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
        let config = OpenAiConfig::from_env([
            (API_KEY_VAR, "k"),
            (BASE_URL_VAR, " "),
            (ORGANIZATION_VAR, "org-1"),
            (PROJECT_VAR, "proj_1"),
            ("PATH", "/bin"),
        ])
        .unwrap();
        assert_eq!(config.base_url, DEFAULT_BASE_URL);
        assert_eq!(config.organization.as_deref(), Some("org-1"));
        assert_eq!(config.project.as_deref(), Some("proj_1"));
    }

    #[test]
    fn a_missing_key_names_its_variable_and_stops() {
        for pairs in [vec![], vec![(API_KEY_VAR, "")]] {
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
