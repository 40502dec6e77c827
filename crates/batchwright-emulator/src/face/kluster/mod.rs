//! kluster.ai, `/kluster/v1`: a dialect of the OpenAI face, as it was documented until July 2025.

use serde_json::{Value, json};

use super::openai::switch::{Metadata, RateHeaders, RowErrors, Times, Windows};
use super::openai::{Dialect, Endpoint, Family, Parameters, Part, Quirks};
use super::wire::KeyPlace;
use crate::model::Model;

static KLUSTER: Dialect = Dialect {
    name: "kluster",
    base: "/kluster/v1",
    root: None,
    keys: &[KeyPlace::Bearer],
    models: &[
        Model::chat(
            "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo",
            "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo",
            [0.18, 0.18, 0.18],
        ),
        Model::chat(
            "deepseek-ai/DeepSeek-V3-0324",
            "deepseek-ai/DeepSeek-V3-0324",
            [0.70, 0.70, 1.40],
        ),
        Model::embedding("BAAI/bge-m3", 1024, 0.01),
    ],
    direct: &[Endpoint::Chat, Endpoint::Embeddings],
    batched: &[Endpoint::Chat],
    parameters: Parameters::Any,
    strict_reasoning: false,
    many_choices: true,
    tier: None,
    headers: &[],
    file_id: "",
    batch_id: "",
    purposes: &["batch"],
    max_upload: 100 << 20,
    max_rows: 500_000,
    max_bytes: 100 << 20,
    windows: Windows::These(&[24, 48, 72]),
    mixed_models: true,
    bad_lines_are_rows: false,
    output_suffix: Some("-output"),
    finish: Some(finish),
    quirks,
    presets: &[("kluster", quirks)],
};

/// The face in the table of faces.
pub(super) static SERVICE: Family = Family(&KLUSTER);

fn quirks() -> Quirks {
    let mut quirks = Quirks::none();
    quirks.refusal = false;
    quirks.system_fingerprint = false;
    quirks.empty_tool_calls = true;
    quirks.extra_fields = true;
    quirks.usage = super::openai::switch::Usage::Plain;
    quirks.rate_headers = RateHeaders::Absent;
    quirks.times = Times::TextLater;
    quirks.metadata = Metadata::EmptyObject;
    quirks.early_file_ids = true;
    quirks.row_errors = RowErrors::NoKey;
    quirks
}

/// What only kluster said: more keys in its list, fewer in its batch.
fn finish(part: Part<'_>, value: &mut Value) {
    match part {
        Part::Answer { .. } => {
            if let Some(answer) = value.as_object_mut() {
                answer.remove("service_tier");
            }
        }
        Part::Batch => {
            if let Some(batch) = value.as_object_mut() {
                batch.remove("model");
                batch.remove("usage");
            }
        }
        Part::BatchList => {
            value["count"] = json!(value["data"].as_array().map_or(0, Vec::len));
            value["page"] = json!(1);
            value["page_count"] = json!(-1);
            value["items_per_page"] = json!(i64::MAX);
        }
    }
}
