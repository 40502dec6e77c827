//! Google's JSON, as far as it is read; what is odd is absent.

use batchwright_core::Timestamp;
use batchwright_http::wire::{instant, int64, word};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

// ---- generateContent ----

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Generated<'a> {
    #[serde(borrow)]
    pub(crate) candidates: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    pub(crate) prompt_feedback: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) usage_metadata: Option<&'a RawValue>,
    #[serde(deserialize_with = "word")]
    pub(crate) model_version: Option<String>,
    #[serde(deserialize_with = "word")]
    pub(crate) response_id: Option<String>,
    #[serde(borrow)]
    pub(crate) error: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Candidate<'a> {
    #[serde(borrow)]
    pub(crate) content: Option<&'a RawValue>,
    #[serde(deserialize_with = "word")]
    pub(crate) finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Content<'a> {
    #[serde(borrow)]
    pub(crate) parts: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct AnswerPart<'a> {
    #[serde(borrow)]
    pub(crate) text: Option<&'a RawValue>,
    pub(crate) thought: Option<bool>,
    #[serde(deserialize_with = "word")]
    pub(crate) thought_signature: Option<String>,
    #[serde(borrow)]
    pub(crate) function_call: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct AnswerCall<'a> {
    #[serde(deserialize_with = "word")]
    pub(crate) id: Option<String>,
    #[serde(deserialize_with = "word")]
    pub(crate) name: Option<String>,
    #[serde(borrow)]
    pub(crate) args: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PromptFeedback {
    #[serde(deserialize_with = "word")]
    pub(crate) block_reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct UsageMetadata {
    #[serde(deserialize_with = "int64")]
    pub(crate) prompt_token_count: Option<u64>,
    #[serde(deserialize_with = "int64")]
    pub(crate) tool_use_prompt_token_count: Option<u64>,
    #[serde(deserialize_with = "int64")]
    pub(crate) cached_content_token_count: Option<u64>,
    #[serde(deserialize_with = "int64")]
    pub(crate) candidates_token_count: Option<u64>,
    #[serde(deserialize_with = "int64")]
    pub(crate) thoughts_token_count: Option<u64>,
}

// ---- batchPredictionJobs ----

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreateJob<'a> {
    pub(crate) display_name: &'a str,
    pub(crate) model: &'a str,
    pub(crate) input_config: InputConfig<'a>,
    pub(crate) output_config: OutputConfig<'a>,
    pub(crate) labels: Labels<'a>,
}

#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub(crate) enum InputConfig<'a> {
    Storage {
        instances_format: &'a str,
        gcs_source: GcsSource<'a>,
    },
    BigQuery {
        instances_format: &'a str,
        bigquery_source: BigQuerySource<'a>,
    },
}

#[derive(Serialize)]
pub(crate) struct GcsSource<'a> {
    /// An array in REST, though several samples show a text.
    pub(crate) uris: [&'a str; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BigQuerySource<'a> {
    pub(crate) input_uri: &'a str,
}

#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub(crate) enum OutputConfig<'a> {
    Storage {
        predictions_format: &'a str,
        gcs_destination: GcsDestination,
    },
    BigQuery {
        predictions_format: &'a str,
        bigquery_destination: BigQueryDestination,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GcsDestination {
    pub(crate) output_uri_prefix: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BigQueryDestination {
    pub(crate) output_uri: String,
}

#[derive(Serialize)]
pub(crate) struct Labels<'a> {
    pub(crate) batchwright_tag: &'a str,
    pub(crate) batchwright_job: &'a str,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Job<'a> {
    #[serde(deserialize_with = "word")]
    pub(crate) name: Option<String>,
    #[serde(deserialize_with = "word")]
    pub(crate) display_name: Option<String>,
    #[serde(deserialize_with = "word")]
    pub(crate) state: Option<String>,
    #[serde(deserialize_with = "instant")]
    pub(crate) create_time: Option<Timestamp>,
    #[serde(deserialize_with = "instant")]
    pub(crate) end_time: Option<Timestamp>,
    #[serde(borrow)]
    pub(crate) input_config: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) output_info: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) completion_stats: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) error: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) labels: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct JobInput<'a> {
    #[serde(borrow)]
    pub(crate) gcs_source: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) bigquery_source: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct JobUris {
    pub(crate) uris: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct JobTable {
    #[serde(deserialize_with = "word")]
    pub(crate) input_uri: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct OutputInfo {
    #[serde(deserialize_with = "word")]
    pub(crate) gcs_output_directory: Option<String>,
    #[serde(deserialize_with = "word")]
    pub(crate) bigquery_output_dataset: Option<String>,
    #[serde(deserialize_with = "word")]
    pub(crate) bigquery_output_table: Option<String>,
}

/// Texts of whole numbers; `-1` is unknown, and a zero is left out.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct CompletionStats {
    #[serde(deserialize_with = "word")]
    pub(crate) successful_count: Option<String>,
    #[serde(deserialize_with = "word")]
    pub(crate) failed_count: Option<String>,
    #[serde(deserialize_with = "word")]
    pub(crate) incomplete_count: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct JobError {
    #[serde(deserialize_with = "int64")]
    pub(crate) code: Option<u64>,
    #[serde(deserialize_with = "word")]
    pub(crate) message: Option<String>,
}

pub(crate) type JobLabels = BTreeMap<String, String>;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct JobPage<'a> {
    #[serde(borrow)]
    pub(crate) batch_prediction_jobs: Vec<&'a RawValue>,
    #[serde(deserialize_with = "word")]
    pub(crate) next_page_token: Option<String>,
}

// ---- result lines ----

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct ResultLine<'a> {
    #[serde(borrow)]
    pub(crate) custom_id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) status: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) response: Option<&'a RawValue>,
}

// ---- Cloud Storage ----

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Located {
    #[serde(deserialize_with = "word")]
    pub(crate) location: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Object {
    #[serde(deserialize_with = "word")]
    pub(crate) name: Option<String>,
    #[serde(deserialize_with = "int64")]
    pub(crate) size: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ObjectPage {
    pub(crate) items: Vec<Object>,
    #[serde(deserialize_with = "word")]
    pub(crate) next_page_token: Option<String>,
}

// ---- BigQuery ----

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct LoadJob {
    pub(crate) status: LoadStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LoadStatus {
    #[serde(deserialize_with = "word")]
    pub(crate) state: Option<String>,
    pub(crate) error_result: Option<Reason>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Reason {
    #[serde(deserialize_with = "word")]
    pub(crate) reason: Option<String>,
    #[serde(deserialize_with = "word")]
    pub(crate) message: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Table {
    pub(crate) schema: Schema,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Schema {
    pub(crate) fields: Vec<Field>,
}

#[derive(Deserialize)]
pub(crate) struct Field {
    pub(crate) name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RowPage {
    pub(crate) rows: Vec<Row>,
    #[serde(deserialize_with = "word")]
    pub(crate) page_token: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Row {
    pub(crate) f: Vec<Cell>,
}

#[derive(Deserialize)]
pub(crate) struct Cell {
    /// Every scalar is a text or null.
    #[serde(default)]
    pub(crate) v: Option<String>,
}
