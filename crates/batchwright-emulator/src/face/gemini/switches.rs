//! The switches of this face, for what was seen to differ from call to call or from the documentation.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The switches, each with its value for the API as documented first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Switches {
    pub(super) states: States,
    pub(super) results: Results,
    /// Results of a batch from a file are inline, as seen for small ones (F-091).
    pub(super) inline_results: bool,
    pub(super) metadata: Metadata,
    pub(super) errors: Errors,
    pub(super) retry_hint: RetryHint,
    pub(super) day_hint: DayHint,
}

/// The prefix of a batch's states (F-085).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum States {
    #[default]
    Batch,
    Job,
}

/// Where an operation has its results (F-091).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Results {
    #[default]
    Both,
    /// In `metadata.output` only.
    Metadata,
    /// In the top-level `response` only.
    Response,
}

/// Whether inline results carry the metadata of their requests (F-101).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Metadata {
    #[default]
    Echo,
    Drop,
}

/// Whether errors are wrapped in a list (F-055).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Errors {
    #[default]
    Object,
    List,
}

/// What a 429 says of the wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RetryHint {
    /// `QuotaFailure` and `RetryInfo`.
    #[default]
    RetryInfo,
    /// A link to the documentation (F-018).
    HelpOnly,
}

/// The wait that a 429 of the daily limit names (F-003).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DayHint {
    #[default]
    Honest,
    /// 59 seconds, of no use.
    Short,
}

impl Switches {
    /// These with the ones of the object changed.
    pub(super) fn with(&self, options: &Value) -> Result<Self, String> {
        let Some(options) = options.as_object() else {
            return Err("the options are an object".to_owned());
        };
        let mut changed = serde_json::to_value(self).map_err(|error| error.to_string())?;
        for (name, value) in options {
            changed[name] = value.clone();
        }
        serde_json::from_value(changed).map_err(|error| error.to_string())
    }
}

/// The switches in force.
#[derive(Debug, Default)]
pub(super) struct Settings(Mutex<Arc<Switches>>);

impl Settings {
    pub(super) fn switches(&self) -> Arc<Switches> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set(&self, switches: Switches) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(switches);
    }
}
