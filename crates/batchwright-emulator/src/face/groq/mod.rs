//! Groq, `/groq/openai/v1`: a dialect of the OpenAI face.

use serde_json::{Value, json};

use super::openai::switch::{
    BatchErrors, Errors, FileStatus, Lists, RateHeaders, Thoughts, ToolCalls, Windows,
};
use super::openai::{Dialect, Endpoint, Family, Parameters, Part, Quirks};
use super::wire::KeyPlace;
use crate::model::Model;

static GROQ: Dialect = Dialect {
    name: "groq",
    base: "/groq/openai/v1",
    root: None,
    keys: &[KeyPlace::Bearer],
    models: &[
        Model::chat("llama-3.1-8b-instant", "llama-3.1-8b-instant", [0.05, 0.05, 0.08]),
        Model::chat("llama-3.3-70b-versatile", "llama-3.3-70b-versatile", [0.59, 0.59, 0.79]),
        Model::reasoning("openai/gpt-oss-20b", "openai/gpt-oss-20b", [0.075, 0.0375, 0.30]),
        Model::reasoning("openai/gpt-oss-120b", "openai/gpt-oss-120b", [0.15, 0.075, 0.60]),
    ],
    direct: &[Endpoint::Chat],
    batched: &[Endpoint::Chat],
    parameters: Parameters::Also(&[
        "citation_options",
        "compound_custom",
        "disable_tool_validation",
        "documents",
        "exclude_domains",
        "include_domains",
        "include_reasoning",
        "reasoning_format",
        "search_settings",
    ]),
    strict_reasoning: false,
    many_choices: false,
    tier: Some("on_demand"),
    headers: &[],
    file_id: "file_01",
    batch_id: "batch_01",
    purposes: &["batch"],
    max_upload: 209_715_200,
    max_rows: 50_000,
    max_bytes: 209_715_200,
    windows: Windows::Between(24, 168),
    mixed_models: true,
    bad_lines_are_rows: true,
    output_suffix: None,
    finish: Some(finish),
    quirks,
    presets: &[("groq", quirks)],
};

/// The face in the table of faces.
pub(super) static SERVICE: Family = Family(&GROQ);

fn quirks() -> Quirks {
    let mut quirks = Quirks::none();
    quirks.refusal = false;
    quirks.tool_calls = ToolCalls::NoContentKey;
    quirks.reasoning = Thoughts::Reasoning;
    // There is no content_filter.
    quirks
        .finish_reasons
        .insert("content_filter".to_owned(), "stop".to_owned());
    quirks.rate_headers = RateHeaders::Day;
    quirks.errors = Errors::NoParam;
    quirks.file_status = FileStatus::Unsaid;
    quirks.batch_errors = BatchErrors::Array;
    quirks.lists = Lists::Cursor;
    quirks
}

/// What only Groq says: times in the usage, its own ids, and a batch without model and usage.
fn finish(part: Part<'_>, value: &mut Value) {
    match part {
        Part::Answer { id } => answer(id, value),
        Part::Batch => {
            if let Some(batch) = value.as_object_mut() {
                batch.remove("model");
                batch.remove("usage");
            }
        }
        Part::BatchList => {}
    }
}

fn answer(id: &str, value: &mut Value) {
    if let Some(text) = value["id"].as_str() {
        value["id"] = json!(with_dashes(text));
    }
    let whole = value["object"] == "chat.completion";
    value["x_groq"] = json!({"id": id.replacen("req_", "req_01", 1)});
    if let Some(usage) = value.get_mut("usage").filter(|usage| usage.is_object()) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "token counts of one answer are far below 2^53"
        )]
        let seconds = |name: &str, each: f64| usage[name].as_u64().unwrap_or(0) as f64 * each;
        let (prompt, completion) = (
            seconds("prompt_tokens", 0.000_05),
            seconds("completion_tokens", 0.002),
        );
        for (name, time) in [
            ("queue_time", 0.081),
            ("prompt_time", prompt),
            ("completion_time", completion),
            ("total_time", prompt + completion),
        ] {
            usage[name] = json!(time);
        }
        let details = usage["completion_tokens_details"]["reasoning_tokens"].take();
        usage["completion_tokens_details"] = json!({"reasoning_tokens": details});
        let details = usage["prompt_tokens_details"]["cached_tokens"].take();
        usage["prompt_tokens_details"] = json!({"cached_tokens": details});
        if !whole {
            value["x_groq"]["usage"] = value["usage"].clone();
        }
    }
}

/// `chatcmpl-` and 32 digits as a UUID.
fn with_dashes(id: &str) -> String {
    let Some(digits) = id.strip_prefix("chatcmpl-").filter(|rest| rest.len() == 32) else {
        return id.to_owned();
    };
    format!(
        "chatcmpl-{}-{}-{}-{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..]
    )
}
