//! What tests set of the face: where buckets and datasets are, and how results come.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The options, as `/emulator/faces/vertex` shows them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Options {
    /// Buckets and where they are.
    pub(super) buckets: BTreeMap<String, String>,
    /// Datasets and where they are, as `project.dataset`.
    pub(super) datasets: BTreeMap<String, String>,
    /// Where a bucket or dataset is that is not named; null: it does not exist.
    pub(super) elsewhere: Option<String>,
    /// How long an access token lives, in virtual seconds.
    pub(super) token_seconds: i64,
    /// How many files results come in; rows are dealt out in turn.
    pub(super) shards: usize,
    /// Whether a job fails whose bucket is in another region. BigQuery's datasets must always be in the job's.
    pub(super) buckets_in_region: bool,
    /// Whether id texts that look like numbers come back as numbers.
    pub(super) retype: bool,
    /// Whether further fields of a line come back.
    pub(super) echo: bool,
    /// The project that the metadata server names.
    pub(super) project: String,
    /// How often a load job has to be looked at before it is done.
    pub(super) load_polls: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            buckets: BTreeMap::new(),
            datasets: BTreeMap::new(),
            elsewhere: Some("US-CENTRAL1".to_owned()),
            token_seconds: 3599,
            shards: 1,
            buckets_in_region: true,
            retype: true,
            echo: true,
            project: "emulated".to_owned(),
            load_polls: 1,
        }
    }
}

impl Options {
    /// Where a bucket is, if it exists.
    pub(super) fn bucket(&self, name: &str) -> Option<&str> {
        let known = self.buckets.get(name).or(self.elsewhere.as_ref());
        known.map(String::as_str)
    }

    /// Where a dataset is, if it exists.
    pub(super) fn dataset(&self, project: &str, dataset: &str) -> Option<&str> {
        let known = self.datasets.get(&format!("{project}.{dataset}"));
        known.or(self.elsewhere.as_ref()).map(String::as_str)
    }

    /// These with what an object sets.
    pub(super) fn with(&self, set: &Value) -> Result<Self, String> {
        let mut whole = serde_json::to_value(self).map_err(|error| error.to_string())?;
        let (Some(whole), Some(set)) = (whole.as_object_mut(), set.as_object()) else {
            return Err("the options are an object".to_owned());
        };
        whole.extend(set.clone());
        let options: Self = serde_json::from_value(Value::Object(whole.clone()))
            .map_err(|error| error.to_string())?;
        if !(1..=100).contains(&options.shards) {
            return Err("shards is a number from 1 to 100".to_owned());
        }
        Ok(options)
    }
}

/// The options in force; a state of the engine.
#[derive(Debug, Default)]
pub(super) struct Settings(Mutex<Arc<Options>>);

impl Settings {
    pub(super) fn get(&self) -> Arc<Options> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set(&self, options: Options) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(options);
    }
}
