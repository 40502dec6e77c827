//! Batches: create with a file or with the requests themselves, get, list, cancel, delete.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::files::LIVES_MS;
use super::switches::{Metadata, Results, States};
use super::{Call, NAME, SERVICE, disk_error, page, proto, read};
use crate::batch::{self, BatchCell, BatchRecord, BatchState};
use crate::clock::rfc3339;
use crate::control::block;
use crate::face::download::Scratch;
use crate::face::wire::{Query, json as json_answer};
use crate::model::Model;
use crate::seed::id as seeded;

/// Most bytes of a body that carries its requests.
const MAX_BODY: usize = 20 << 20;
/// After this long a batch expires, and its results with it.
const WINDOW_MS: i64 = 48 * 3_600_000;

pub(super) async fn create(
    call: &Call<'_>,
    model: &'static Model,
    embeds: bool,
    body: Body,
) -> Result<Response, ApiError> {
    let body = proto::read(&read(body, MAX_BODY).await?, &proto::CREATE)?;
    if model.is_embedding() != embeds {
        let method = if embeds {
            "asyncBatchEmbedContent"
        } else {
            "batchGenerateContent"
        };
        return Err(ApiError::no_model(model.name, method));
    }
    let asked = &body["batch"];
    let display_name = asked["displayName"].as_str().unwrap_or_default();
    if display_name.is_empty() {
        return Err(ApiError::invalid(
            "* BatchGenerateContentRequest.batch.display_name: display_name is required\n",
        ));
    }
    let engine = call.engine;
    let created_ms = call.now_ms();
    let id = seeded("", engine.config.seed, 45, call.sequence);
    let mut record = BatchRecord::new(
        NAME,
        call.key.clone(),
        format!("{id}{}", &id[..4]),
        call.sequence,
        created_ms,
        created_ms + WINDOW_MS,
        call.faults.quirks(),
    );
    record.endpoint = if embeds { "embed" } else { "generate" }.to_owned();
    record.results_live_ms = LIVES_MS;
    record.model = Some(model.name.to_owned());
    let input = &asked["inputConfig"];
    let requests = input["requests"]["requests"].as_array();
    let scratch = Scratch(engine.files.scratch_path(call.sequence));
    match (input["fileName"].as_str(), requests) {
        (Some(name), None) => {
            let file = name.strip_prefix("files/").unwrap_or(name);
            if engine
                .files
                .get(NAME, &call.key, file, created_ms)
                .is_none()
            {
                return Err(ApiError::no_file(file));
            }
            record.input_file_id = file.to_owned();
        }
        (None, Some(requests)) if !requests.is_empty() => {
            write_lines(requests, &scratch.0).map_err(|error| disk_error(&error))?;
            record.inline = true;
        }
        _ => {
            return Err(ApiError::invalid(
                "* BatchGenerateContentRequest.batch.input_config: exactly one of file_name and requests must be set\n",
            ));
        }
    }
    let inline_results = record.inline || call.switches.inline_results;
    record.extra = json!({"display_name": display_name, "inline_results": inline_results});
    let cell = validated(call, record, scratch).await?;
    Ok(json_answer(&operation(call, &cell.record()).await?))
}

/// Requests as lines of a file, with their metadata beside their key.
fn write_lines(requests: &[Value], to: &Path) -> io::Result<()> {
    let mut lines = BufWriter::new(File::create(to)?);
    for request in requests {
        let mut line = Map::new();
        if let Some(key) = request["metadata"]["key"].as_str() {
            line.insert("key".to_owned(), Value::from(key));
        }
        for field in ["request", "metadata"] {
            if !request[field].is_null() {
                line.insert(field.to_owned(), request[field].clone());
            }
        }
        serde_json::to_writer(&mut lines, &line)?;
        lines.write_all(b"\n")?;
    }
    lines.flush()
}

/// Looks at all lines before there is a batch: one that is malformed refuses them all.
async fn validated(
    call: &Call<'_>,
    mut record: BatchRecord,
    scratch: Scratch,
) -> Result<Arc<BatchCell>, ApiError> {
    let engine = Arc::clone(call.engine);
    let created = block(move || {
        let at_ms = record.created_ms;
        let scanned = match batch::scan(&engine, &SERVICE, &record, at_ms, &scratch.0)? {
            Ok(scanned) => scanned,
            Err(failure) => return Ok(Err(ApiError::invalid(failure.message))),
        };
        let limit = engine.config.limits.enqueued_tokens;
        let model = record.model.clone().unwrap_or_default();
        if limit.is_some_and(|limit| {
            engine.waiting_tokens(&record, &model, at_ms) + scanned.tokens > limit
        }) {
            return Ok(Err(ApiError::queue_full()));
        }
        record.total = scanned.rows;
        record.tokens = scanned.tokens;
        // The lines are the batch's own from here on, whatever becomes of the file.
        engine.create_batch(record, Some(&scratch.0)).map(Ok)
    })
    .await;
    created.map_err(|error| disk_error(&error))?
}

/// The operation as this face shows it.
async fn operation(call: &Call<'_>, record: &BatchRecord) -> Result<Value, ApiError> {
    let now_ms = call.now_ms();
    let name = format!("batches/{}", record.id);
    let embeds = record.endpoint == "embed";
    let kind = if embeds {
        "EmbedContentBatch"
    } else {
        "GenerateContentBatch"
    };
    let at_type =
        |kind: &str| format!("type.googleapis.com/google.ai.generativelanguage.v1main.{kind}");
    let mut metadata = json!({
        "@type": at_type(kind),
        "name": name,
        "model": format!("models/{}", record.model.as_deref().unwrap_or_default()),
        "displayName": record.extra["display_name"],
        "createTime": nanos(record.created_ms),
        "updateTime": nanos(record.latest_ms()),
        "batchStats": stats(record),
        "state": state(call.switches.states, record, now_ms),
        "inputConfig": {},
    });
    if !record.input_file_id.is_empty() {
        metadata["inputConfig"] = json!({"fileName": format!("files/{}", record.input_file_id)});
    }
    let mut operation = json!({"name": name});
    if record.state.is_terminal() {
        operation["done"] = Value::from(true);
        metadata["endTime"] = Value::from(nanos(record.latest_ms()));
    }
    match record.state {
        BatchState::Completed if record.shows_files(now_ms) => {
            let output = output(call, record, embeds).await?;
            if call.switches.results != Results::Response {
                metadata["output"] = output.clone();
            }
            if call.switches.results != Results::Metadata {
                let mut response = output;
                response["@type"] = Value::from(at_type(&format!("{kind}Output")));
                operation["response"] = response;
            }
        }
        BatchState::Failed => {
            let failure = record.errors.first();
            let code = failure.and_then(|failure| failure.code.parse().ok());
            let message = failure.map_or("The batch failed.", |failure| &failure.message);
            operation["error"] = json!({"code": code.unwrap_or(13), "message": message});
        }
        BatchState::Cancelled => {
            operation["error"] = json!({"code": 13, "message": "The batch was cancelled."});
        }
        BatchState::Expired => {
            operation["error"] = json!({"code": 4, "message": "The batch expired."});
        }
        _ => {}
    }
    operation["metadata"] = metadata;
    Ok(operation)
}

/// An instant with nine digits of a second, as seen.
fn nanos(at_ms: i64) -> String {
    let whole = rfc3339(at_ms.div_euclid(1000) * 1000);
    format!(
        "{}.{:03}000000Z",
        whole.trim_end_matches('Z'),
        at_ms.rem_euclid(1000)
    )
}

fn state(prefix: States, record: &BatchRecord, now_ms: i64) -> String {
    let word = match record.state {
        BatchState::Validating => "PENDING",
        BatchState::InProgress | BatchState::Finalizing | BatchState::Cancelling => "RUNNING",
        BatchState::Completed => "SUCCEEDED",
        BatchState::Failed => "FAILED",
        BatchState::Cancelled => "CANCELLED",
        BatchState::Expired => "EXPIRED",
    };
    let word = match record.invented_state(now_ms) {
        Some(invented) => invented.to_ascii_uppercase(),
        None => word.to_owned(),
    };
    match prefix {
        States::Batch => format!("BATCH_STATE_{word}"),
        States::Job => format!("JOB_STATE_{word}"),
    }
}

/// Counts as texts; what is zero is left out.
fn stats(record: &BatchRecord) -> Value {
    let (total, completed, failed) = match (record.quirks.counts, record.finalizing_ms) {
        (Some(lie), Some(_)) => (lie.total, lie.completed, lie.failed),
        _ => (record.total, record.done.completed, record.done.failed),
    };
    let pending = if record.state.is_terminal() {
        0
    } else {
        total.saturating_sub(completed + failed)
    };
    let mut stats = Map::new();
    for (name, count) in [
        ("requestCount", total),
        ("successfulRequestCount", completed),
        ("failedRequestCount", failed),
        ("pendingRequestCount", pending),
    ] {
        if count > 0 {
            stats.insert(name.to_owned(), Value::from(count.to_string()));
        }
    }
    Value::Object(stats)
}

/// Where the results are, or the results.
async fn output(call: &Call<'_>, record: &BatchRecord, embeds: bool) -> Result<Value, ApiError> {
    let Some(file) = record.output_file_id.clone() else {
        return Ok(json!({}));
    };
    if record.extra["inline_results"] != true {
        return Ok(json!({"responsesFile": format!("files/{file}")}));
    }
    let path = call.engine.files.data_path(&file);
    let echo = call.switches.metadata == Metadata::Echo;
    let responses = block(move || inlined(&path, echo))
        .await
        .map_err(|error| disk_error(&error))?;
    let name = if embeds {
        "inlinedEmbedContentResponses"
    } else {
        "inlinedResponses"
    };
    Ok(json!({name: {"inlinedResponses": responses}}))
}

/// The lines of a results file as inline responses: their key goes into the metadata.
fn inlined(path: &Path, echo: bool) -> io::Result<Vec<Value>> {
    let mut responses = Vec::new();
    for line in BufReader::new(File::open(path)?).split(b'\n') {
        // A line that a fault spoiled has no place in JSON.
        let line = line?;
        let line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&line);
        let Ok(Value::Object(mut line)) = serde_json::from_slice(line.trim_ascii()) else {
            continue;
        };
        let key = line.remove("key");
        let metadata = line.remove("metadata");
        if echo && (key.is_some() || metadata.is_some()) {
            let mut metadata = metadata.unwrap_or_else(|| json!({}));
            if let Some(key) = key {
                metadata["key"] = key;
            }
            line.insert("metadata".to_owned(), metadata);
        }
        responses.push(Value::Object(line));
    }
    Ok(responses)
}

pub(super) async fn get(call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
    let record = find(call, id)?.record();
    Ok(json_answer(&operation(call, &record).await?))
}

pub(super) async fn list(call: &Call<'_>, query: &Query) -> Result<Response, ApiError> {
    let now_ms = call.now_ms();
    let mut records: Vec<BatchRecord> = call
        .engine
        .batches
        .all()
        .iter()
        .map(|cell| cell.record())
        .filter(|record| record.is_there(NAME, &call.key, now_ms) && record.is_listed(now_ms))
        .collect();
    if call.engine.config.newest_first {
        records.reverse();
    }
    let mut objects = Vec::with_capacity(records.len());
    for record in &records {
        objects.push((record.sequence, operation(call, record).await?));
    }
    page("operations", objects, query, 100)
}

pub(super) fn cancel(call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
    let now_ms = call.now_ms();
    let cell = find(call, id)?;
    if !cell.cancel(now_ms).map_err(|error| disk_error(&error))? {
        return Err(ApiError::new(
            "FAILED_PRECONDITION",
            "The batch has ended and cannot be cancelled.",
        ));
    }
    Ok(json_answer(&json!({})))
}

/// Deletes a batch with its results. One that runs is cancelled by it.
pub(super) fn delete(call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
    let now_ms = call.now_ms();
    let cell = find(call, id)?;
    cell.cancel(now_ms).map_err(|error| disk_error(&error))?;
    let output = cell.with(|record| record.output_file_id.clone());
    if let Some(output) = output {
        call.engine
            .files
            .remove(&output)
            .map_err(|error| disk_error(&error))?;
    }
    cell.delete(now_ms).map_err(|error| disk_error(&error))?;
    Ok(json_answer(&json!({})))
}

fn find(call: &Call<'_>, id: &str) -> Result<Arc<BatchCell>, ApiError> {
    let now_ms = call.now_ms();
    call.engine
        .batches
        .get(id)
        .filter(|cell| cell.with(|record| record.is_there(NAME, &call.key, now_ms)))
        .ok_or_else(ApiError::no_batch)
}
