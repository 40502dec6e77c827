//! The settings, from code or from variables.

use crate::dialect::KLUSTER;
use batchwright_core::Result;
use batchwright_provider_openai::{OpenAiBuilder, OpenAiConfig};

/// Starts from kluster.ai's defaults and this key.
pub fn builder(api_key: impl Into<String>) -> OpenAiBuilder {
    OpenAiConfig::of(&KLUSTER, api_key).into()
}

/// kluster.ai's settings that stand in `pairs`, such as `std::env::vars()`; an empty value counts as unset.
///
/// # Errors
/// `ConfigInvalid` where `KLUSTER_API_KEY` is missing.
pub fn from_env<K, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<OpenAiConfig>
where
    K: AsRef<str>,
    V: Into<String>,
{
    OpenAiConfig::from_env_of(&KLUSTER, pairs)
}
