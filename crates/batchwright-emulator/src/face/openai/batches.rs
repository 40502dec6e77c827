//! The batches endpoints: create, get, list, cancel.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::error::{ApiError, INVALID};
use super::realtime::read;
use super::quirks::{FileStatus, Lists, Settings, Validation};
use super::{Call, Dialect, Parameters, Part, disk_error, limit, shape};
use crate::batch::{self, BatchCell, BatchRecord, BatchRows as _, BatchState};
use crate::clock::seconds;
use crate::control::block;
use crate::face::wire::{Query, json as json_answer};
use crate::face::download::Scratch;
use crate::faults::{BatchFailure, Counts};
use crate::seed::id;

/// Most bytes of a body that creates a batch.
const MAX_BODY: usize = 1 << 20;
/// Endpoints the vendor batches and this face does not serve.
const NOT_SERVED: [&str; 5] = [
    "/v1/completions",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
];

#[derive(Serialize)]
struct BatchObject {
    id: String,
    object: &'static str,
    endpoint: String,
    model: Option<String>,
    errors: Option<Errors>,
    input_file_id: String,
    completion_window: String,
    status: String,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    created_at: i64,
    in_progress_at: Option<i64>,
    expires_at: i64,
    finalizing_at: Option<i64>,
    completed_at: Option<i64>,
    failed_at: Option<i64>,
    expired_at: Option<i64>,
    cancelling_at: Option<i64>,
    cancelled_at: Option<i64>,
    request_counts: Counts,
    usage: Usage,
    metadata: Option<Map<String, Value>>,
}

#[derive(Serialize)]
struct Errors {
    object: &'static str,
    data: Vec<BatchFailure>,
}

#[derive(Serialize)]
struct Usage {
    input_tokens: u64,
    input_tokens_details: Cached,
    output_tokens: u64,
    output_tokens_details: Reasoning,
    total_tokens: u64,
}

#[derive(Serialize)]
struct Cached {
    cached_tokens: u64,
}

#[derive(Serialize)]
struct Reasoning {
    reasoning_tokens: u64,
}

impl BatchObject {
    fn new(record: BatchRecord, now_ms: i64) -> Self {
        let at = |ms: Option<i64>| ms.map(seconds);
        let status = record
            .invented_state(now_ms)
            .unwrap_or(record.shown_state().name())
            .to_owned();
        let shows_files = record.shows_files(now_ms);
        let usage = record.done.usage;
        Self {
            status,
            object: "batch",
            errors: (!record.errors.is_empty()).then(|| Errors {
                object: "list",
                data: record.errors.clone(),
            }),
            completion_window: record.extra["window"]
                .as_str()
                .unwrap_or("24h")
                .to_owned(),
            created_at: seconds(record.created_ms),
            in_progress_at: at(record.in_progress_ms),
            expires_at: seconds(record.expires_ms),
            finalizing_at: at(record.finalizing_ms),
            completed_at: at(record.completed_ms),
            failed_at: at(record.failed_ms),
            expired_at: at(record.expired_ms),
            cancelling_at: at(record.cancelling_ms),
            cancelled_at: at(record.cancelled_ms),
            request_counts: record.shown_counts(),
            usage: Usage {
                input_tokens: usage.input,
                input_tokens_details: Cached {
                    cached_tokens: usage.cached,
                },
                output_tokens: usage.output,
                output_tokens_details: Reasoning {
                    reasoning_tokens: usage.reasoning,
                },
                total_tokens: usage.input + usage.output,
            },
            output_file_id: record.output_file_id.filter(|_| shows_files),
            error_file_id: record.error_file_id.filter(|_| shows_files),
            id: record.id,
            endpoint: record.endpoint,
            model: record.model,
            input_file_id: record.input_file_id,
            metadata: record.metadata,
        }
    }
}

pub(super) async fn create(
    call: &Call<'_>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read(body, MAX_BODY).await?;
    let asked = Asked::read(call.dialect(), &body)?;
    let engine = call.engine;
    let quirks = &*call.quirks;
    let created_ms = call.now_ms();
    let mut record = BatchRecord::new(
        call.dialect().name,
        call.key.clone(),
        id(
            call.dialect().batch_id,
            engine.config.seed,
            2,
            call.sequence,
        ),
        call.sequence,
        created_ms,
        created_ms + asked.window_ms,
        call.faults.quirks(),
    );
    record.endpoint = asked.endpoint;
    record.input_file_id = asked.input_file_id;
    record.metadata = asked.metadata;
    record.never_expires = quirks.never_expires;
    record.extra = json!({"window": asked.window});
    if let Some(seconds) = asked.results_live_s {
        record.results_live_ms = seconds * 1000;
    }
    if let Some(existing) = same_creation(call, headers, &record) {
        return answer_created(call, existing);
    }
    if quirks.file_status == FileStatus::Pending {
        still_pending(call, &record.input_file_id)?;
    }
    if quirks.validation != Validation::Later {
        let cell = create_validated(call, record)
            .await
            .map_err(|error| disk_error(&error))?
            .map_err(|failure| refused(&failure))?;
        return answer_created(call, cell.record());
    }
    let cell = engine
        .create_batch(record, None)
        .map_err(|error| disk_error(&error))?;
    answer_created(call, cell.record())
}

/// Looks at all lines before there is a batch.
async fn create_validated(
    call: &Call<'_>,
    record: BatchRecord,
) -> io::Result<Result<Arc<BatchCell>, BatchFailure>> {
    let (engine, family) = (Arc::clone(call.engine), call.family);
    let scratch = Scratch(engine.files.scratch_path(call.sequence));
    block(move || {
        let at_ms = record.created_ms;
        let scanned = match batch::scan(&engine, family, &record, at_ms, &scratch.0)? {
            Ok(scanned) => scanned,
            Err(failure) => return Ok(Err(failure)),
        };
        let limit = engine.config.limits.enqueued_tokens;
        if let (Some(limit), Some(model)) = (limit, scanned.model)
            && engine.waiting_tokens(&record, model, at_ms) + scanned.tokens > limit
        {
            return Ok(Err(family.too_many_tokens(model, limit)));
        }
        let record = record.validated(scanned);
        engine.create_batch(record, Some(&scratch.0)).map(Ok)
    })
    .await
}

fn answer_created(call: &Call<'_>, record: BatchRecord) -> Result<Response, ApiError> {
    let batch = shaped(call, record, true);
    let mut response = json_answer(&shape::created(&call.quirks, batch));
    *response.status_mut() =
        StatusCode::from_u16(call.quirks.creation_status).unwrap_or(StatusCode::OK);
    Ok(response)
}

/// The batch that an earlier call with the same idempotency key made, where that is offered.
fn same_creation(
    call: &Call<'_>,
    headers: &HeaderMap,
    record: &BatchRecord,
) -> Option<BatchRecord> {
    let token = headers.get("idempotency-key")?.to_str().ok()?;
    if !call.quirks.idempotency_key {
        return None;
    }
    let settings = call.engine.state::<Settings>();
    let id = settings.batch_of(call.dialect().name, &call.key, token, &record.id);
    let earlier = call.engine.batches.get(&id)?;
    Some(earlier.record())
}

fn still_pending(call: &Call<'_>, file: &str) -> Result<(), ApiError> {
    let now_ms = call.now_ms();
    let found = call
        .engine
        .files
        .get(call.dialect().name, &call.key, file, now_ms);
    match found {
        Some(file) if super::files::is_pending(&file, now_ms) => Err(ApiError::bad(
            "input_file_id",
            "invalid_request",
            "The input file is not processed yet.",
        )),
        _ => Ok(()),
    }
}

/// A failed validation as the answer to the creation.
fn refused(failure: &BatchFailure) -> ApiError {
    let mut error = ApiError::new(400, INVALID, None, failure.message.clone());
    error.param = failure.param.clone().map(Into::into);
    error
}

/// A batch as this server shows it.
fn shaped(call: &Call<'_>, record: BatchRecord, created: bool) -> Value {
    let quirks = &*call.quirks;
    let early = quirks.early_file_ids && record.in_progress_ms.is_some() && record.errors.is_empty();
    let early = early.then(|| super::rows::output_file_id(call.dialect(), call.engine, &record));
    let ended = record.state.is_terminal();
    let validated = !matches!(record.state, BatchState::Validating | BatchState::Failed);
    let mut object = serde_json::to_value(BatchObject::new(record, call.now_ms())).unwrap_or_default();
    if let Some(early) = early.filter(|_| !ended && validated) {
        object["output_file_id"] = json!(early);
    }
    shape::batch(quirks, created, &mut object);
    if let Some(finish) = call.dialect().finish {
        finish(Part::Batch, &mut object);
    }
    object
}

/// A body that creates a batch.
struct Asked {
    input_file_id: String,
    endpoint: String,
    metadata: Option<Map<String, Value>>,
    results_live_s: Option<i64>,
    window: String,
    window_ms: i64,
}

impl Asked {
    fn read(dialect: &Dialect, body: &[u8]) -> Result<Self, ApiError> {
        let Ok(Value::Object(mut body)) = serde_json::from_slice::<Value>(body) else {
            return Err(ApiError::new(
                400,
                INVALID,
                None,
                "We could not parse the JSON body of your request.",
            ));
        };
        const KNOWN: [&str; 5] = [
            "input_file_id",
            "endpoint",
            "completion_window",
            "metadata",
            "output_expires_after",
        ];
        let strict = matches!(dialect.parameters, Parameters::OpenAi);
        let unknown = body.keys().find(|name| !KNOWN.contains(&name.as_str()));
        if let Some(name) = unknown.filter(|_| strict) {
            return Err(ApiError::bad(
                name.clone(),
                "unknown_parameter",
                format!("Unknown parameter: '{name}'."),
            ));
        }
        let input_file_id = text(&mut body, "input_file_id")?;
        let endpoint = text(&mut body, "endpoint")?;
        let window = match body.get("completion_window") {
            None if dialect.root.is_some() => "24h".to_owned(),
            _ => text(&mut body, "completion_window")?,
        };
        if dialect.endpoint(&endpoint).is_none() {
            let message = if NOT_SERVED.contains(&endpoint.as_str()) {
                format!("The emulator does not serve batches of '{endpoint}'.")
            } else {
                format!("Invalid value: '{endpoint}'. It is not an endpoint of the Batch API.")
            };
            return Err(ApiError::bad("endpoint", "invalid_value", message));
        }
        let Some(window_ms) = dialect.windows.ms(&window) else {
            return Err(ApiError::bad(
                "completion_window",
                "invalid_value",
                format!(
                    "Invalid value: '{window}'. Value must be {}.",
                    dialect.windows.words()
                ),
            ));
        };
        Ok(Self {
            input_file_id,
            endpoint,
            metadata: metadata(body.remove("metadata"))?,
            results_live_s: results_live_s(body.remove("output_expires_after"))?,
            window,
            window_ms,
        })
    }
}

fn text(body: &mut Map<String, Value>, name: &'static str) -> Result<String, ApiError> {
    match body.remove(name) {
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => Err(ApiError::missing(name)),
        Some(_) => Err(ApiError::wrong_type(name, "a string", "another type")),
    }
}

/// At most 16 pairs of texts, keys up to 64 and values up to 512 characters.
fn metadata(value: Option<Value>) -> Result<Option<Map<String, Value>>, ApiError> {
    let pairs = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(pairs)) => pairs,
        Some(_) => {
            return Err(ApiError::wrong_type(
                "metadata",
                "an object",
                "another type",
            ));
        }
    };
    if pairs.len() > 16 {
        return Err(ApiError::bad(
            "metadata",
            "object_above_max_properties",
            "Invalid 'metadata': too many properties. Expected an object with at most 16 properties.",
        ));
    }
    for (key, value) in &pairs {
        let param = format!("metadata.{key}");
        let Value::String(value) = value else {
            return Err(ApiError::wrong_type(param, "a string", "another type"));
        };
        if key.chars().count() > 64 || value.chars().count() > 512 {
            return Err(ApiError::bad(
                param,
                "string_above_max_length",
                "Invalid 'metadata': keys have at most 64 characters and values at most 512.",
            ));
        }
    }
    Ok(Some(pairs))
}

fn results_live_s(value: Option<Value>) -> Result<Option<i64>, ApiError> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    if value.get("anchor").and_then(Value::as_str) != Some("created_at") {
        return Err(ApiError::bad(
            "output_expires_after.anchor",
            "invalid_value",
            "Invalid value for 'output_expires_after.anchor': expected 'created_at'.",
        ));
    }
    match value.get("seconds").and_then(Value::as_i64) {
        Some(seconds) if (3_600..=2_592_000).contains(&seconds) => Ok(Some(seconds)),
        _ => Err(ApiError::bad(
            "output_expires_after.seconds",
            "invalid_value",
            "Invalid value for 'output_expires_after.seconds': expected an integer from 3600 to 2592000.",
        )),
    }
}

pub(super) fn get(call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
    let record = find(call, id, call.now_ms())?.record();
    Ok(json_answer(&shaped(call, record, false)))
}

/// The caller's batches that lists show, in the order of lists.
pub(super) fn visible(call: &Call<'_>) -> Vec<BatchRecord> {
    let now_ms = call.now_ms();
    let mut records: Vec<BatchRecord> = call
        .engine
        .batches
        .all()
        .iter()
        .map(|cell| cell.record())
        .filter(|record| {
            record.is_there(call.dialect().name, &call.key, now_ms) && record.is_listed(now_ms)
        })
        .collect();
    if call.engine.config.newest_first {
        records.reverse();
    }
    records
}

pub(super) fn list(call: &Call<'_>, query: &Query) -> Result<Response, ApiError> {
    let lists = call.quirks.lists;
    let limit = match lists {
        Lists::Cursor => call.quirks.page,
        Lists::Pages => match query.get("page_size") {
            Some(size) => size.parse().unwrap_or(call.quirks.page).max(1),
            None => call.quirks.page,
        },
        _ => limit(query, 20, 100)?,
    };
    let wanted: Vec<&str> = query.all("id").filter(|_| lists == Lists::Cursor).collect();
    let objects: Vec<Value> = visible(call)
        .into_iter()
        .filter(|record| wanted.is_empty() || wanted.contains(&record.id.as_str()))
        .map(|record| shaped(call, record, false))
        .collect();
    let limit = if wanted.is_empty() {
        limit
    } else {
        objects.len().max(1)
    };
    let mut page = shape::page(lists, objects, query, limit);
    if let Some(finish) = call.dialect().finish {
        finish(Part::BatchList, &mut page);
    }
    Ok(json_answer(&page))
}

pub(super) fn cancel(call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
    let now_ms = call.now_ms();
    let cell = find(call, id, now_ms)?;
    let cancelled = cell.cancel(now_ms).map_err(|error| disk_error(&error))?;
    let record = cell.record();
    if !cancelled {
        return Err(ApiError::new(
            409,
            INVALID,
            None,
            format!(
                "Cannot cancel a batch with status '{}'.",
                record.state.name()
            ),
        ));
    }
    Ok(json_answer(&shaped(call, record, false)))
}

pub(super) fn find(call: &Call<'_>, id: &str, now_ms: i64) -> Result<Arc<BatchCell>, ApiError> {
    call.engine
        .batches
        .get(id)
        .filter(|cell| {
            cell.with(|record| record.is_there(call.dialect().name, &call.key, now_ms))
        })
        .ok_or_else(|| ApiError::no_batch(id))
}
