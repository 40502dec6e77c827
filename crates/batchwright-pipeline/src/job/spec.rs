//! What a job is: everything that decides its requests, kept in its folder.

use crate::{Fingerprint, SourceOptions};
use batchwright_core::{Error, ErrorKind, Lane, ModelSpec, Result, Sampling};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{fmt, path::PathBuf};

/// Everything that decides a job's requests. It is kept in the job's folder when the job starts, and a
/// resumed job must have the same one (F-121). No key is part of it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct JobSpec {
    /// The format of this record; 1.
    version: u32,
    /// The input file.
    pub input: PathBuf,
    /// How it is read.
    pub source: SourceOptions,
    /// The provider's registered name.
    pub provider: String,
    /// The model, where rows do not name their own.
    pub model: Option<String>,
    /// The column in which rows name a provider and model of their own, as `provider:model`; where it is empty, those
    /// of the job hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_column: Option<String>,
    /// The template of the user's turn; without it every row must be a request already.
    pub prompt: Option<String>,
    /// The template of the system turn.
    pub system: Option<String>,
    /// The JSON schema answers are held to.
    pub schema: Option<Value>,
    /// How the model samples.
    pub sampling: Sampling,
    /// Vendor fields passed through.
    pub extra: Map<String, Value>,
    /// The column that holds the caller's ids.
    pub id_column: Option<String>,
    /// Which way requests go.
    #[serde(with = "lane")]
    pub lane: Lane,
    /// Whether the provider is the local emulator, whose answers are not for real.
    pub sandbox: bool,
    /// What tells the input from another one; set when the job is opened.
    pub fingerprint: Option<Fingerprint>,
}

impl JobSpec {
    /// A job over `input` on `lane` of `provider`, with nothing else set.
    pub fn new(input: impl Into<PathBuf>, provider: impl Into<String>, lane: Lane) -> Self {
        Self {
            version: 1,
            input: input.into(),
            source: SourceOptions::default(),
            provider: provider.into(),
            model: None,
            model_column: None,
            prompt: None,
            system: None,
            schema: None,
            sampling: Sampling::default(),
            extra: Map::new(),
            id_column: None,
            lane,
            sandbox: false,
            fingerprint: None,
        }
    }

    /// Sets provider and model.
    #[must_use]
    pub fn with_model(mut self, spec: &ModelSpec) -> Self {
        self.provider = spec.provider().to_owned();
        self.model = Some(spec.model().to_owned());
        self
    }

    /// Sets the template of the user's turn.
    #[must_use]
    pub fn with_prompt(mut self, template: impl Into<String>) -> Self {
        self.prompt = Some(template.into());
        self
    }

    /// Whether answers are asked for as JSON, so that they are kept as JSON.
    pub(crate) fn wants_json(&self) -> bool {
        self.schema.is_some()
            || self.extra.contains_key("response_format")
            || self.extra.contains_key("text")
    }

    /// Refuses to go on where `self` asks for something else than the job was started with.
    pub(crate) fn check_same(&self, started: &Self) -> Result<()> {
        let mut different = Vec::new();
        let mut note = |same: bool, name: &'static str| {
            if !same {
                different.push(name);
            }
        };
        note(
            self.provider == started.provider && self.model == started.model,
            "model",
        );
        note(self.model_column == started.model_column, "model column");
        note(self.prompt == started.prompt, "prompt");
        note(self.system == started.system, "system prompt");
        note(self.schema == started.schema, "schema");
        note(
            self.sampling == started.sampling && self.extra == started.extra,
            "parameters",
        );
        note(self.id_column == started.id_column, "id column");
        note(self.source == started.source, "input format");
        note(self.lane == started.lane, "lane");
        note(self.sandbox == started.sandbox, "sandbox");
        if different.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::ConfigInvalid,
            format!(
                "resume the job with other settings ({}): start a new job with another name, or call it with the \
                 settings it was started with",
                different.join(", ")
            ),
        ))
    }
}

impl fmt::Debug for JobSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobSpec")
            .field("input", &self.input)
            .field("provider", &self.provider)
            .field("model", &self.model)
            .field("lane", &self.lane)
            .field("sandbox", &self.sandbox)
            .finish_non_exhaustive()
    }
}

mod lane {
    use batchwright_core::Lane;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(lane: &Lane, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(lane.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Lane, D::Error> {
        let word = String::deserialize(deserializer)?;
        word.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_121_other_settings_are_refused_by_name() {
        let started = JobSpec::new("in.csv", "openai", Lane::Batch).with_prompt("a {{ b }}");
        assert!(started.check_same(&started).is_ok());
        let mut other = started.clone().with_prompt("c");
        other.lane = Lane::Realtime;
        let error = other.check_same(&started).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.message().contains("(prompt, lane)"), "{error}");
    }

    #[test]
    fn it_reads_back_and_shows_no_prompt() {
        let spec = JobSpec::new("in.csv", "openai", Lane::Realtime).with_prompt("CANARY");
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<JobSpec>(&json).unwrap(), spec);
        assert!(!format!("{spec:?}").contains("CANARY"));
    }
}
