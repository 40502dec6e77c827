//! The switches of the family: every way in which a compatible server was seen to differ.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How a server differs from OpenAI. The table in the crate's README says what each switch does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::face) struct Quirks {
    pub(in crate::face) key_required: bool,
    pub(in crate::face) any_model: bool,
    pub(in crate::face) models: Models,

    pub(in crate::face) usage: Usage,
    pub(in crate::face) content: Content,
    pub(in crate::face) tool_calls: ToolCalls,
    pub(in crate::face) empty_tool_calls: bool,
    pub(in crate::face) refusal: bool,
    pub(in crate::face) system_fingerprint: bool,
    pub(in crate::face) reasoning: Thoughts,
    /// What finish reasons are called here, by what OpenAI calls them.
    pub(in crate::face) finish_reasons: BTreeMap<String, String>,
    pub(in crate::face) extra_fields: bool,
    pub(in crate::face) numeric_ids: bool,
    pub(in crate::face) filter_is_error: bool,
    pub(in crate::face) no_flex_capacity: bool,
    pub(in crate::face) leading_blank_lines: bool,
    pub(in crate::face) content_type: Option<String>,
    pub(in crate::face) stream_done: bool,
    pub(in crate::face) stream_comments: bool,
    pub(in crate::face) rate_headers: RateHeaders,

    pub(in crate::face) errors: Errors,
    /// The status that every error has in place of its own.
    pub(in crate::face) error_status: Option<u16>,

    pub(in crate::face) file_status: FileStatus,

    pub(in crate::face) batches: bool,
    pub(in crate::face) shape: Shape,
    pub(in crate::face) creation_status: u16,
    pub(in crate::face) validation: Validation,
    pub(in crate::face) least_rows: u64,
    pub(in crate::face) idempotency_key: bool,
    pub(in crate::face) status_case: StatusCase,
    /// What states of a batch are called here, by what OpenAI calls them.
    pub(in crate::face) statuses: BTreeMap<String, String>,
    pub(in crate::face) times: Times,
    pub(in crate::face) absent: Absent,
    pub(in crate::face) counts: CountsShape,
    pub(in crate::face) batch_errors: BatchErrors,
    pub(in crate::face) metadata: Metadata,
    pub(in crate::face) early_file_ids: bool,
    pub(in crate::face) all_failed_fails: bool,
    pub(in crate::face) never_expires: bool,
    pub(in crate::face) lists: Lists,
    /// Most entries of a page of `cursor` and `pages` lists.
    pub(in crate::face) page: usize,
    pub(in crate::face) one_results_file: bool,
    pub(in crate::face) empty_results_files: bool,
    pub(in crate::face) row_errors: RowErrors,
}

/// Makes an enum of a switch: its words in snake case, the first one OpenAI's own.
macro_rules! switch {
    ($(#[$doc:meta])* $name:ident { $first:ident $(, $other:ident)* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub(in crate::face) enum $name {
            #[default]
            $first,
            $($other,)*
        }
    };
}

switch! {
    /// How models are listed.
    Models { List, Array, Names, Tagged, Absent }
}
switch! {
    /// What an answer says of its tokens.
    Usage { Full, Plain, Null, Absent, Zero, Texts, Floats }
}
switch! {
    /// Where an answer's text is.
    Content { Text, Parts, ChoiceText }
}
switch! {
    /// How a tool call is written.
    ToolCalls { Standard, ObjectArguments, NoId, FunctionCall, FinishStop, NoContentKey }
}
switch! {
    /// Where a reasoning model's thoughts are.
    Thoughts { Hidden, Reasoning, ReasoningContent }
}
switch! {
    /// What the rate-limit headers count.
    RateHeaders { Minute, Day, Seconds, Negative, Absent }
}
switch! {
    /// What an error's body looks like.
    Errors { Object, NoParam, NumberCode, Text, Detail, DetailList, Message, List, ListData, Wrapped }
}
switch! {
    /// What is said of a file after its upload.
    FileStatus { Processed, Pending, Unsaid, NoEndpoint }
}
switch! {
    /// Whose batch objects these are.
    Shape { OpenAi, Together, Mistral }
}
switch! {
    /// When a bad input file is noticed.
    Validation { Later, AtCreation }
}
switch! {
    /// Letters of a batch's state.
    StatusCase { Lower, Upper, Capital }
}
switch! {
    /// How times are written.
    Times { Seconds, Text, TextLater, Iso, Millis }
}
switch! {
    /// How an absent value of a batch is written.
    Absent { Null, Missing, Empty }
}
switch! {
    /// How row counts are written.
    CountsShape { Full, Null, Absent }
}
switch! {
    /// How a batch's errors are written.
    BatchErrors { List, Array, Texts, Text, Null }
}
switch! {
    /// What becomes of a batch's metadata.
    Metadata { Echo, Drop, EmptyObject }
}
switch! {
    /// How batches are listed.
    Lists { After, Cursor, Pages, Whole, Array, Absent }
}
switch! {
    /// How a failed row is written.
    RowErrors { Standard, TextBody, Text, NoKey }
}

/// A named set of switches.
pub(in crate::face) type Preset = (&'static str, fn() -> Quirks);

impl Quirks {
    /// OpenAI's own ways.
    pub(in crate::face) fn none() -> Self {
        Self {
            key_required: true,
            any_model: false,
            models: Models::default(),
            usage: Usage::default(),
            content: Content::default(),
            tool_calls: ToolCalls::default(),
            empty_tool_calls: false,
            refusal: true,
            system_fingerprint: true,
            reasoning: Thoughts::default(),
            finish_reasons: BTreeMap::new(),
            extra_fields: false,
            numeric_ids: false,
            filter_is_error: false,
            no_flex_capacity: false,
            leading_blank_lines: false,
            content_type: None,
            stream_done: true,
            stream_comments: false,
            rate_headers: RateHeaders::default(),
            errors: Errors::default(),
            error_status: None,
            file_status: FileStatus::default(),
            batches: true,
            shape: Shape::default(),
            creation_status: 200,
            validation: Validation::default(),
            least_rows: 0,
            idempotency_key: false,
            status_case: StatusCase::default(),
            statuses: BTreeMap::new(),
            times: Times::default(),
            absent: Absent::default(),
            counts: CountsShape::default(),
            batch_errors: BatchErrors::default(),
            metadata: Metadata::default(),
            early_file_ids: false,
            all_failed_fails: false,
            never_expires: false,
            lists: Lists::default(),
            page: 20,
            one_results_file: false,
            empty_results_files: false,
            row_errors: RowErrors::default(),
        }
    }

    /// Changes what the object names. `preset`, a name of the list given, is taken first.
    pub(in crate::face) fn with(
        &self,
        options: &Value,
        presets: &[Preset],
    ) -> Result<Self, String> {
        let Value::Object(options) = options else {
            return Err("options are an object".to_owned());
        };
        let base = match options.get("preset") {
            None => self.clone(),
            Some(name) => {
                let known = presets.iter().find(|(known, _)| name == known);
                let Some((_, preset)) = known else {
                    let names: Vec<_> = presets.iter().map(|(name, _)| *name).collect();
                    return Err(format!("the presets are {names:?}"));
                };
                preset()
            }
        };
        let mut whole = serde_json::to_value(base).map_err(|error| error.to_string())?;
        for (name, value) in options {
            if name != "preset" {
                whole[name] = value.clone();
            }
        }
        let changed: Self = serde_json::from_value(whole).map_err(|error| error.to_string())?;
        let status_fits = |status: u16| (100..=999).contains(&status);
        if !status_fits(changed.creation_status) || !changed.error_status.is_none_or(status_fits) {
            return Err("a status has three digits".to_owned());
        }
        if changed.page == 0 {
            return Err("a page has at least one entry".to_owned());
        }
        Ok(changed)
    }
}

/// The switches in force, by face, and the creations that an idempotency key names.
#[derive(Debug, Default)]
pub(super) struct Settings {
    quirks: Mutex<HashMap<&'static str, Arc<Quirks>>>,
    created: Mutex<HashMap<(&'static str, String, String), String>>,
}

impl Settings {
    /// The switches of a face, `default` until they are set.
    pub(super) fn quirks(&self, face: &'static str, default: fn() -> Quirks) -> Arc<Quirks> {
        let mut quirks = self.quirks.lock().unwrap_or_else(PoisonError::into_inner);
        let quirks = quirks.entry(face).or_insert_with(|| Arc::new(default()));
        Arc::clone(quirks)
    }

    pub(super) fn set(&self, face: &'static str, quirks: Quirks) {
        self.quirks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(face, Arc::new(quirks));
    }

    /// The batch that an idempotency key of this caller stands for; `batch` when it is new.
    pub(super) fn batch_of(
        &self,
        face: &'static str,
        key: &str,
        token: &str,
        batch: &str,
    ) -> String {
        let mut created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        created
            .entry((face, key.to_owned(), token.to_owned()))
            .or_insert_with(|| batch.to_owned())
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_change_what_they_name_and_nothing_unknown() {
        let presets: [Preset; 1] = [("openai", Quirks::none)];
        let changed = Quirks::none()
            .with(&json!({"usage": "absent", "statuses": {"validating": "queued"}}), &presets)
            .expect("known switches");
        assert_eq!(changed.usage, Usage::Absent);
        assert_eq!(changed.statuses["validating"], "queued");
        assert!(changed.key_required);
        let back = changed.with(&json!({"preset": "openai"}), &presets);
        assert_eq!(back, Ok(Quirks::none()));
        for bad in [
            json!({"usage": "often"}),
            json!({"colour": 1}),
            json!({"preset": "x"}),
            json!({"creation_status": 7}),
            json!({"page": 0}),
            json!([]),
        ] {
            assert!(changed.with(&bad, &presets).is_err(), "{bad}");
        }
    }
}
