//! Mistral's batch jobs: `/batch/jobs`, over the same batches.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::{ApiError, INVALID};
use super::quirks::Lists;
use super::realtime::read;
use super::{Call, batches, disk_error, shape};
use crate::batch::{BatchRecord, BatchState};
use crate::clock::seconds;
use crate::control::block;
use crate::engine::Engine;
use crate::face::download::Scratch;
use crate::face::wire::{Query, json as json_answer};
use crate::seed::id;

/// Most bytes of a creation, rows among it.
const MAX_BODY: usize = 256 << 20;

#[derive(Deserialize)]
struct Creation {
    #[serde(default)]
    input_files: Vec<String>,
    requests: Option<Vec<Map<String, Value>>>,
    model: Option<String>,
    endpoint: String,
    metadata: Option<Map<String, Value>>,
    #[serde(default = "a_day")]
    timeout_hours: i64,
}

fn a_day() -> i64 {
    24
}

pub(super) async fn create(call: &Call<'_>, body: Body) -> Result<Response, ApiError> {
    let body = read(body, MAX_BODY).await?;
    let creation: Creation = serde_json::from_slice(&body)
        .map_err(|error| ApiError::new(422, INVALID, None, error.to_string()))?;
    if call.dialect().endpoint(&creation.endpoint).is_none() {
        return Err(ApiError::bad("endpoint", "invalid_value", "Unknown endpoint."));
    }
    if !(1..=168).contains(&creation.timeout_hours) {
        return Err(ApiError::bad(
            "timeout_hours",
            "invalid_value",
            "timeout_hours is from 1 to 168.",
        ));
    }
    let engine = call.engine;
    let created_ms = call.now_ms();
    let mut record = BatchRecord::new(
        call.dialect().name,
        call.key.clone(),
        id(call.dialect().batch_id, engine.config.seed, 2, call.sequence),
        call.sequence,
        created_ms,
        created_ms + creation.timeout_hours * 3_600_000,
        call.faults.quirks(),
    );
    record.endpoint = creation.endpoint;
    record.metadata = creation.metadata;
    record.input_file_id = creation.input_files.first().cloned().unwrap_or_default();
    record.extra = json!({"job": {"model": creation.model, "input_files": creation.input_files}});
    let engine = Arc::clone(engine);
    let scratch = Scratch(engine.files.scratch_path(call.sequence));
    let cell = block(move || {
        let Some(requests) = creation.requests else {
            return engine.create_batch(record, None);
        };
        let mut lines = BufWriter::new(File::create(&scratch.0)?);
        for request in requests {
            write_line(&record, request, &mut lines)?;
        }
        lines.flush()?;
        engine.create_batch(record, Some(&scratch.0))
    })
    .await
    .map_err(|error| disk_error(&error))?;
    Ok(json_answer(&job(&cell.record())))
}

pub(super) fn get(call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
    let cell = batches::find(call, id, call.now_ms())?;
    Ok(json_answer(&job(&cell.record())))
}

pub(super) fn cancel(call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
    let cell = batches::find(call, id, call.now_ms())?;
    // A job that has ended is shown as it is.
    cell.cancel(call.now_ms())
        .map_err(|error| disk_error(&error))?;
    Ok(json_answer(&job(&cell.record())))
}

pub(super) fn delete(call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
    let now_ms = call.now_ms();
    let cell = batches::find(call, id, now_ms)?;
    if !cell.record().state.is_terminal() {
        return Err(ApiError::new(409, INVALID, None, "The job has not ended."));
    }
    cell.delete(now_ms).map_err(|error| disk_error(&error))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

pub(super) fn list(call: &Call<'_>, query: &Query) -> Response {
    let jobs = batches::visible(call).iter().map(job).collect();
    let size = query.get("page_size").and_then(|size| size.parse().ok());
    let size = size.unwrap_or(100).max(1);
    json_answer(&shape::page(Lists::Pages, jobs, query, size))
}

fn job(record: &BatchRecord) -> Value {
    let status = match record.shown_state() {
        BatchState::Validating => "QUEUED",
        BatchState::InProgress | BatchState::Finalizing => "RUNNING",
        BatchState::Cancelling => "CANCELLATION_REQUESTED",
        BatchState::Completed => "SUCCESS",
        BatchState::Failed => "FAILED",
        BatchState::Expired => "TIMEOUT_EXCEEDED",
        BatchState::Cancelled => "CANCELLED",
    };
    let counts = record.shown_counts();
    let errors: Vec<Value> = record
        .errors
        .iter()
        .map(|failure| json!({"message": failure.message, "count": 1}))
        .collect();
    let ended = record.state.is_terminal().then(|| record.latest_ms());
    json!({
        "id": record.id,
        "object": "batch",
        "input_files": record.extra["job"]["input_files"],
        "endpoint": record.endpoint,
        "model": record.extra["job"]["model"],
        "metadata": record.metadata,
        "errors": errors,
        "status": status,
        "created_at": seconds(record.created_ms),
        "started_at": record.in_progress_ms.map(seconds),
        "completed_at": ended.map(seconds),
        "total_requests": counts.total,
        "completed_requests": counts.completed + counts.failed,
        "succeeded_requests": counts.completed,
        "failed_requests": counts.failed,
        "output_file": record.output_file_id,
        "error_file": record.error_file_id,
        "outputs": null,
    })
}

/// Whether a batch is one of these jobs.
pub(super) fn is_job(batch: &BatchRecord) -> bool {
    batch.extra["job"].is_object()
}

/// Brings a job's lines, which have neither method nor url nor model, into OpenAI's shape; false when a file is missing.
pub(super) fn stage(
    engine: &Engine,
    batch: &BatchRecord,
    at_ms: i64,
    to: &Path,
) -> io::Result<bool> {
    let mut out = BufWriter::new(File::create(to)?);
    let files = batch.extra["job"]["input_files"].as_array();
    for file in files.into_iter().flatten().filter_map(Value::as_str) {
        let found = engine.files.get(&batch.face, &batch.key, file, at_ms);
        let Some(found) = found.filter(|found| found.purpose == "batch") else {
            return Ok(false);
        };
        let mut reader = BufReader::new(File::open(engine.files.data_path(&found.id))?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            match serde_json::from_slice(&line) {
                Ok(request) => write_line(batch, request, &mut out)?,
                // Validation finds it.
                Err(_) => out.write_all(&line)?,
            }
            line.clear();
        }
    }
    out.flush()?;
    Ok(true)
}

fn write_line(
    batch: &BatchRecord,
    mut request: Map<String, Value>,
    out: &mut impl Write,
) -> io::Result<()> {
    request.insert("method".to_owned(), json!("POST"));
    request.insert("url".to_owned(), json!(batch.endpoint));
    if request.get("custom_id").is_none_or(Value::is_null) {
        request.insert("custom_id".to_owned(), json!(""));
    }
    let model = &batch.extra["job"]["model"];
    if let Some(Value::Object(body)) = request.get_mut("body") {
        body.entry("model").or_insert_with(|| model.clone());
    }
    serde_json::to_writer(&mut *out, &request)?;
    out.write_all(b"\n")
}
