//! Sampling parameters; an unset one is never sent.

use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// How the model samples. Every field is optional and an unset one never reaches the wire, so the
/// provider's own default holds.
///
/// The ranges are the widest any supported vendor takes; a provider whose own range is narrower says
/// so when it encodes the request. Setters refuse a value outside its range, and NaN always (F-173),
/// so a `Sampling` in hand is valid, also one that came from JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct Sampling(Unchecked);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Unchecked {
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<String>,
}

impl Sampling {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Randomness, 0 to 2.
    ///
    /// # Errors
    /// `InvalidRequest` outside the range or NaN; the same holds for every other setter.
    pub fn with_temperature(mut self, temperature: f64) -> Result<Self> {
        self.0.temperature = Some(temperature);
        self.checked()
    }

    /// Nucleus sampling, above 0 and up to 1.
    ///
    /// # Errors
    /// `InvalidRequest` outside the range.
    pub fn with_top_p(mut self, top_p: f64) -> Result<Self> {
        self.0.top_p = Some(top_p);
        self.checked()
    }

    /// Only the `top_k` likeliest tokens, at least 1; not every vendor has it.
    ///
    /// # Errors
    /// `InvalidRequest` for 0.
    pub fn with_top_k(mut self, top_k: u32) -> Result<Self> {
        self.0.top_k = Some(top_k);
        self.checked()
    }

    /// The most tokens the answer may have, hidden reasoning included; 1 to 10,000,000.
    ///
    /// # Errors
    /// `InvalidRequest` outside the range.
    pub fn with_max_output_tokens(mut self, tokens: u32) -> Result<Self> {
        self.0.max_output_tokens = Some(tokens);
        self.checked()
    }

    /// Penalty on frequent tokens, -2 to 2.
    ///
    /// # Errors
    /// `InvalidRequest` outside the range.
    pub fn with_frequency_penalty(mut self, penalty: f64) -> Result<Self> {
        self.0.frequency_penalty = Some(penalty);
        self.checked()
    }

    /// Penalty on tokens already present, -2 to 2.
    ///
    /// # Errors
    /// `InvalidRequest` outside the range.
    pub fn with_presence_penalty(mut self, penalty: f64) -> Result<Self> {
        self.0.presence_penalty = Some(penalty);
        self.checked()
    }

    /// Best-effort determinism, where the vendor has it.
    #[must_use]
    pub fn with_seed(mut self, seed: i64) -> Self {
        self.0.seed = Some(seed);
        self
    }

    /// Texts that end the answer, at most 16 and none empty (vendors take 4 to 16).
    ///
    /// # Errors
    /// `InvalidRequest` for more, or for an empty one.
    pub fn with_stop(mut self, stop: Vec<String>) -> Result<Self> {
        self.0.stop = stop;
        self.checked()
    }

    /// How hard a reasoning model thinks, in the vendor's own word (`low`, `medium`, `high`, …).
    ///
    /// # Errors
    /// `InvalidRequest` for an empty word.
    pub fn with_reasoning_effort(mut self, effort: impl Into<String>) -> Result<Self> {
        self.0.reasoning_effort = Some(effort.into());
        self.checked()
    }

    /// Randomness, if set.
    pub fn temperature(&self) -> Option<f64> {
        self.0.temperature
    }

    /// Nucleus sampling, if set.
    pub fn top_p(&self) -> Option<f64> {
        self.0.top_p
    }

    /// Top-k, if set.
    pub fn top_k(&self) -> Option<u32> {
        self.0.top_k
    }

    /// The answer's token limit, if set.
    pub fn max_output_tokens(&self) -> Option<u32> {
        self.0.max_output_tokens
    }

    /// Frequency penalty, if set.
    pub fn frequency_penalty(&self) -> Option<f64> {
        self.0.frequency_penalty
    }

    /// Presence penalty, if set.
    pub fn presence_penalty(&self) -> Option<f64> {
        self.0.presence_penalty
    }

    /// Seed, if set.
    pub fn seed(&self) -> Option<i64> {
        self.0.seed
    }

    /// Stop texts; empty when unset.
    pub fn stop(&self) -> &[String] {
        &self.0.stop
    }

    /// Reasoning effort, if set.
    pub fn reasoning_effort(&self) -> Option<&str> {
        self.0.reasoning_effort.as_deref()
    }

    fn checked(self) -> Result<Self> {
        Self::try_from(self.0)
    }
}

impl TryFrom<Unchecked> for Sampling {
    type Error = Error;

    fn try_from(fields: Unchecked) -> Result<Self> {
        // `contains` is false for NaN, so NaN is refused with the rest.
        let within = |name: &str, value: Option<f64>, low: f64, high: f64| match value {
            Some(v) if !(low..=high).contains(&v) => Err(refuse(name, &format!("{low} to {high}"))),
            _ => Ok(()),
        };
        within("temperature", fields.temperature, 0.0, 2.0)?;
        within("top_p", fields.top_p, f64::MIN_POSITIVE, 1.0)
            .map_err(|_| refuse("top_p", "above 0 and up to 1"))?;
        within("frequency_penalty", fields.frequency_penalty, -2.0, 2.0)?;
        within("presence_penalty", fields.presence_penalty, -2.0, 2.0)?;
        if fields.top_k == Some(0) {
            return Err(refuse("top_k", "at least 1"));
        }
        if fields
            .max_output_tokens
            .is_some_and(|n| !(1..=10_000_000).contains(&n))
        {
            return Err(refuse("max_output_tokens", "1 to 10000000"));
        }
        if fields.stop.len() > 16 || fields.stop.iter().any(String::is_empty) {
            return Err(refuse("stop", "at most 16 texts, none empty"));
        }
        if fields.reasoning_effort.as_deref() == Some("") {
            return Err(refuse("reasoning_effort", "a word"));
        }
        Ok(Self(fields))
    }
}

impl From<Sampling> for Unchecked {
    fn from(sampling: Sampling) -> Self {
        sampling.0
    }
}

fn refuse(name: &str, range: &str) -> Error {
    Error::new(ErrorKind::InvalidRequest, format!("{name} must be {range}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_173_nonsense_is_refused_before_anything_is_sent() {
        for temperature in [-1.0, 3.0, f64::NAN, f64::INFINITY] {
            assert!(
                Sampling::new().with_temperature(temperature).is_err(),
                "{temperature}"
            );
        }
        assert!(Sampling::new().with_top_p(0.0).is_err());
        assert!(Sampling::new().with_top_p(2.0).is_err());
        assert!(Sampling::new().with_max_output_tokens(0).is_err());
        assert!(Sampling::new().with_stop(vec![String::new()]).is_err());
        assert!(
            Sampling::new()
                .with_temperature(2.0)
                .unwrap()
                .with_top_p(1.0)
                .is_ok()
        );
        for json in [
            r#"{"temperature":-1}"#,
            r#"{"max_output_tokens":-1}"#,
            r#"{"temperature":"0.5"}"#,
            r#"{"temprature":1}"#,
        ] {
            assert!(serde_json::from_str::<Sampling>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn an_unset_parameter_is_never_sent() {
        assert_eq!(serde_json::to_string(&Sampling::new()).unwrap(), "{}");
        let set = Sampling::new().with_temperature(0.0).unwrap();
        assert_eq!(
            serde_json::to_string(&set).unwrap(),
            r#"{"temperature":0.0}"#
        );
    }
}
