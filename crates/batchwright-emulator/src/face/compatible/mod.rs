//! A server that calls itself compatible with OpenAI, `/compatible/v1`: a dialect of the OpenAI face whose switches are
//! there to be turned.
//!
//! Everything under `/compatible` is answered, whatever of `/openai`, `/api` and `/v1` a client puts there and however
//! many slashes it takes; `/compatible/openai/deployments/NAME/chat/completions` has the model in its path.

use super::openai::switch::{
    Absent, BatchErrors, CountsShape, Errors, FileStatus, Lists, Metadata, RateHeaders, Thoughts,
    RowErrors, Shape, StatusCase, Times, Usage, Windows,
};
use super::openai::{Dialect, Endpoint, Family, Parameters, Quirks};
use super::wire::KeyPlace;
use crate::model::Model;

static COMPATIBLE: Dialect = Dialect {
    name: "compatible",
    base: "/compatible/v1",
    root: Some("/compatible"),
    keys: &[KeyPlace::Bearer, KeyPlace::Header("api-key")],
    models: &[
        Model::chat("local-model", "local-model", [0.10, 0.10, 0.20]),
        Model::chat("small-model", "small-model", [0.05, 0.05, 0.10]),
        Model::reasoning("thinking-model", "thinking-model", [0.50, 0.50, 2.0]),
        Model::embedding("local-embedding", 768, 0.01),
    ],
    direct: &[Endpoint::Chat, Endpoint::Responses, Endpoint::Embeddings],
    batched: &[Endpoint::Chat, Endpoint::Responses, Endpoint::Embeddings],
    parameters: Parameters::Any,
    strict_reasoning: false,
    many_choices: true,
    tier: Some("default"),
    headers: &[],
    file_id: "file-",
    batch_id: "batch_",
    purposes: &["batch", "batch-api", "user_data"],
    max_upload: 512 << 20,
    max_rows: 100_000,
    max_bytes: 209_715_200,
    windows: Windows::Between(1, 336),
    mixed_models: true,
    bad_lines_are_rows: false,
    output_suffix: None,
    finish: None,
    quirks: plain,
    presets: &[
        ("plain", plain),
        ("openai", Quirks::none),
        ("azure", azure),
        ("deepseek", deepseek),
        ("doubleword", doubleword),
        ("mistral", mistral),
        ("ollama", ollama),
        ("openrouter", openrouter),
        ("siliconflow", siliconflow),
        ("together", together),
        ("vllm", vllm),
    ],
};

/// The face in the table of faces.
pub(super) static SERVICE: Family = Family(&COMPATIBLE);

/// OpenAI without what is OpenAI's alone.
fn plain() -> Quirks {
    let mut quirks = Quirks::none();
    quirks.refusal = false;
    quirks.usage = Usage::Plain;
    quirks.rate_headers = RateHeaders::Absent;
    quirks
}

fn azure() -> Quirks {
    let mut quirks = Quirks::none();
    quirks.filter_is_error = true;
    quirks.rate_headers = RateHeaders::Negative;
    quirks.file_status = FileStatus::Pending;
    quirks.status_case = StatusCase::Capital;
    quirks.times = Times::Iso;
    quirks.never_expires = true;
    quirks.empty_results_files = true;
    quirks
}

fn deepseek() -> Quirks {
    let mut quirks = plain();
    quirks.usage = Usage::Full;
    quirks.reasoning = Thoughts::ReasoningContent;
    quirks.leading_blank_lines = true;
    quirks.stream_comments = true;
    quirks.content_type = Some("application/octet-stream".to_owned());
    quirks.batches = false;
    quirks
}

fn doubleword() -> Quirks {
    let mut quirks = plain();
    quirks.creation_status = 201;
    quirks.absent = Absent::Missing;
    quirks.all_failed_fails = true;
    quirks.never_expires = true;
    quirks
}

fn mistral() -> Quirks {
    let mut quirks = plain();
    quirks.shape = Shape::Mistral;
    quirks.errors = Errors::Detail;
    quirks.row_errors = RowErrors::TextBody;
    quirks
}

fn ollama() -> Quirks {
    let mut quirks = plain();
    quirks.key_required = false;
    quirks.any_model = true;
    quirks.batches = false;
    quirks
}

fn openrouter() -> Quirks {
    let mut quirks = plain();
    quirks.errors = Errors::NumberCode;
    quirks.error_status = Some(200);
    quirks.stream_comments = true;
    quirks.system_fingerprint = false;
    quirks.batches = false;
    quirks
}

fn siliconflow() -> Quirks {
    let mut quirks = plain();
    quirks
        .statuses
        .insert("validating".to_owned(), "in_queue".to_owned());
    quirks.counts = CountsShape::Null;
    quirks.batch_errors = BatchErrors::Texts;
    quirks
}

fn together() -> Quirks {
    let mut quirks = plain();
    quirks.shape = Shape::Together;
    quirks.creation_status = 201;
    quirks.status_case = StatusCase::Upper;
    quirks
        .statuses
        .insert("cancelling".to_owned(), "canceling".to_owned());
    // Its finalizing shows as work going on.
    quirks
        .statuses
        .insert("finalizing".to_owned(), "in_progress".to_owned());
    quirks.times = Times::Iso;
    quirks.metadata = Metadata::Drop;
    quirks.lists = Lists::Array;
    quirks.row_errors = RowErrors::NoKey;
    quirks
}

fn vllm() -> Quirks {
    let mut quirks = plain();
    quirks.key_required = false;
    quirks.system_fingerprint = false;
    quirks.empty_tool_calls = true;
    quirks.extra_fields = true;
    quirks.batches = false;
    quirks
}
