//! The batches endpoints: create, get, list, cancel.

use axum::body::Body;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value};

use super::body::Endpoint;
use super::error::{ApiError, INVALID};
use super::realtime::read;
use super::{Call, disk_error, limit, page};
use crate::batch::BatchRecord;
use crate::clock::seconds;
use crate::face::wire::{Query, json};
use crate::faults::{BatchFailure, Counts};
use crate::seed::id;

/// Most bytes of a body that creates a batch.
const MAX_BODY: usize = 1 << 20;
const DAY_MS: i64 = 86_400_000;
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
    completion_window: &'static str,
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
            completion_window: "24h",
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

pub(super) async fn create(call: &Call<'_>, body: Body) -> Result<Response, ApiError> {
    let body = read(body, MAX_BODY).await?;
    let asked = Asked::read(&body)?;
    let engine = call.engine;
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
        created_ms + DAY_MS,
        call.faults.quirks(),
    );
    record.endpoint = asked.endpoint;
    record.input_file_id = asked.input_file_id;
    record.metadata = asked.metadata;
    if let Some(seconds) = asked.results_live_s {
        record.results_live_ms = seconds * 1000;
    }
    let cell = engine
        .create_batch(record, None)
        .map_err(|error| disk_error(&error))?;
    Ok(json(&BatchObject::new(cell.record(), created_ms)))
}

/// A body that creates a batch.
struct Asked {
    input_file_id: String,
    endpoint: String,
    metadata: Option<Map<String, Value>>,
    results_live_s: Option<i64>,
}

impl Asked {
    fn read(body: &[u8]) -> Result<Self, ApiError> {
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
        if let Some(name) = body.keys().find(|name| !KNOWN.contains(&name.as_str())) {
            return Err(ApiError::bad(
                name.clone(),
                "unknown_parameter",
                format!("Unknown parameter: '{name}'."),
            ));
        }
        let input_file_id = text(&mut body, "input_file_id")?;
        let endpoint = text(&mut body, "endpoint")?;
        let window = text(&mut body, "completion_window")?;
        if Endpoint::of_url(&endpoint).is_none() {
            let message = if NOT_SERVED.contains(&endpoint.as_str()) {
                format!("The emulator does not serve batches of '{endpoint}'.")
            } else {
                format!("Invalid value: '{endpoint}'. It is not an endpoint of the Batch API.")
            };
            return Err(ApiError::bad("endpoint", "invalid_value", message));
        }
        if window != "24h" {
            return Err(ApiError::bad(
                "completion_window",
                "invalid_value",
                format!("Invalid value: '{window}'. Value must be '24h'."),
            ));
        }
        Ok(Self {
            input_file_id,
            endpoint,
            metadata: metadata(body.remove("metadata"))?,
            results_live_s: results_live_s(body.remove("output_expires_after"))?,
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
    let now_ms = call.now_ms();
    let record = find(call, id, now_ms)?.record();
    Ok(json(&BatchObject::new(record, now_ms)))
}

pub(super) fn list(call: &Call<'_>, query: &str) -> Result<Response, ApiError> {
    let query = Query::parse(query);
    let limit = limit(&query, 20, 100)?;
    let now_ms = call.now_ms();
    let mut objects: Vec<BatchObject> = call
        .engine
        .batches
        .all()
        .iter()
        .map(|cell| cell.record())
        .filter(|record| record.is_there(call.dialect().name, &call.key, now_ms) && record.is_listed(now_ms))
        .map(|record| BatchObject::new(record, now_ms))
        .collect();
    if call.engine.config.newest_first {
        objects.reverse();
    }
    Ok(page(objects, |batch| &batch.id, query.get("after"), limit))
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
    Ok(json(&BatchObject::new(record, now_ms)))
}

fn find(
    call: &Call<'_>,
    id: &str,
    now_ms: i64,
) -> Result<std::sync::Arc<crate::batch::BatchCell>, ApiError> {
    call.engine
        .batches
        .get(id)
        .filter(|cell| cell.with(|record| record.is_there(call.dialect().name, &call.key, now_ms)))
        .ok_or_else(|| ApiError::no_batch(id))
}
