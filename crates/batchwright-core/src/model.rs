//! `provider:model` as one word.

use crate::{Error, ErrorKind, Result};
use std::{fmt, str::FromStr};

/// Which provider and which of its models, written `provider:model`.
///
/// Only the first colon separates, since model names hold colons themselves (`ollama:llama3.2:3b`).
///
/// ```
/// let spec: batchwright_core::ModelSpec = "openai:gpt-4o-mini".parse()?;
/// assert_eq!((spec.provider(), spec.model()), ("openai", "gpt-4o-mini"));
/// # Ok::<(), batchwright_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelSpec {
    provider: String,
    model: String,
}

impl ModelSpec {
    /// From its two parts.
    ///
    /// # Errors
    /// `ConfigInvalid` where a part is empty, holds white space or control characters, or the
    /// provider's name is not made of `a-z`, `0-9`, `-` and `_`.
    pub fn new(provider: impl Into<String>, model: impl Into<String>) -> Result<Self> {
        let (provider, model) = (provider.into(), model.into());
        let provider_ok = !provider.is_empty()
            && provider
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b));
        let model_ok =
            !model.is_empty() && !model.contains(|c: char| c.is_whitespace() || c.is_control());
        if provider_ok && model_ok {
            return Ok(Self { provider, model });
        }
        Err(Error::new(
            ErrorKind::ConfigInvalid,
            "a model is written provider:model, for example openai:gpt-4o-mini",
        ))
    }

    /// The provider's name, as it is registered.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// The model's name, as the provider spells it.
    pub fn model(&self) -> &str {
        &self.model
    }
}

impl FromStr for ModelSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (provider, model) = text.split_once(':').unwrap_or(("", text));
        Self::new(provider, model)
    }
}

impl fmt::Display for ModelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.provider, self.model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_colon_separates() {
        let spec: ModelSpec = "ollama:llama3.2:3b".parse().unwrap();
        assert_eq!((spec.provider(), spec.model()), ("ollama", "llama3.2:3b"));
        assert_eq!(spec.to_string(), "ollama:llama3.2:3b");
    }

    #[test]
    fn half_a_specifier_is_refused() {
        for text in [
            "",
            "gpt-4o",
            ":gpt-4o",
            "openai:",
            "Open AI:x",
            "openai:a b",
            "openai:a\n",
        ] {
            assert_eq!(
                text.parse::<ModelSpec>().unwrap_err().kind(),
                ErrorKind::ConfigInvalid,
                "{text:?}"
            );
        }
    }
}
