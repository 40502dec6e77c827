//! Batch prediction jobs: create, get, list, cancel, delete.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::auth::number;
use super::body::{check_labels, known};
use super::error::ApiError;
use super::filter::Filter;
use super::route::Place;
use super::{Call, NAME, models, read_json};
use crate::batch::{BatchCell, BatchRecord, BatchState};
use crate::clock::rfc3339;
use crate::face::wire::{self, Query, decode};
use crate::seed::mix;

/// Most bytes of a body that creates a job.
const MAX_BODY: usize = 1 << 20;
/// How long a job may run.
const WINDOW_MS: i64 = 24 * 3_600_000;
/// Entries of a page.
const PAGE: usize = 100;

/// What a job was created with.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) location: String,
    pub(super) model: String,
    /// Objects of the input, a `*` at the end of an address among them.
    pub(super) uris: Vec<String>,
    /// The input's table.
    pub(super) table: Option<String>,
    output_prefix: Option<String>,
    output_table: Option<String>,
}

impl Config {
    pub(super) fn of(batch: &BatchRecord) -> Self {
        let body = &batch.extra["body"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let uris = match &body["inputConfig"]["gcsSource"]["uris"] {
            Value::Array(uris) => uris.iter().filter_map(text).collect(),
            one => text(one).into_iter().collect(),
        };
        let (input, output) = (&body["inputConfig"], &body["outputConfig"]);
        Self {
            location: text(&batch.extra["location"]).unwrap_or_default(),
            model: text(&body["model"]).unwrap_or_default(),
            uris,
            table: text(&input["bigquerySource"]["inputUri"]),
            output_prefix: text(&output["gcsDestination"]["outputUriPrefix"]),
            output_table: text(&output["bigqueryDestination"]["outputUri"]),
        }
    }

    /// The buckets of input and output.
    pub(super) fn buckets(&self) -> impl Iterator<Item = &str> {
        let addresses = self.uris.iter().chain(&self.output_prefix);
        addresses.filter_map(|uri| uri.strip_prefix("gs://")?.split('/').next())
    }

    /// Project and dataset of input and output.
    pub(super) fn datasets(&self) -> impl Iterator<Item = (&str, &str)> {
        let addresses = self.table.iter().chain(&self.output_table);
        addresses.filter_map(|uri| {
            let mut parts = uri.strip_prefix("bq://")?.split('.');
            Some((parts.next()?, parts.next()?))
        })
    }

    /// The folder results go to; its time is neither the creation's nor without colons.
    pub(super) fn output_folder(&self, batch: &BatchRecord) -> Option<String> {
        let prefix = self.output_prefix.as_deref()?.trim_end_matches('/');
        let at = rfc3339(batch.in_progress_ms? / 1000 * 1000 + 12_934);
        Some(format!("{prefix}/prediction-model-{at}"))
    }

    /// The table results go to; one in a dataset of its own where only a project is named.
    pub(super) fn output_table(&self, batch: &BatchRecord) -> Option<String> {
        let uri = self.output_table.as_deref()?;
        Some(match uri.matches('.').count() {
            0 => format!("{uri}.prediction_{}.predictions", batch.id),
            1 => format!("{uri}.predictions_{}", batch.id),
            _ => uri.to_owned(),
        })
    }
}

pub(super) async fn create(
    call: &Call<'_>,
    place: Place<'_>,
    body: Body,
) -> Result<Response, ApiError> {
    let owner = owner(call, place, "create")?;
    let body = read_json(body, MAX_BODY).await?;
    check(&body)?;
    let engine = call.engine;
    let created_ms = call.now_ms();
    let job = 10_u64.pow(18)
        + mix(engine.config.seed ^ 0x7665_7274, call.sequence) % 8_000_000_000_000_000_000;
    let mut record = BatchRecord::new(
        NAME,
        owner,
        job.to_string(),
        call.sequence,
        created_ms,
        created_ms + WINDOW_MS,
        call.faults.quirks(),
    );
    record.endpoint = "generateContent".to_owned();
    record.extra = json!({
        "project": decode(place.project),
        "location": decode(place.location),
        "body": body,
    });
    let cell = engine.create_batch(record, None)?;
    Ok(wire::json(&object(call, &cell.record())))
}

/// The key under which the place's jobs are, if the caller may come in.
fn owner(call: &Call<'_>, place: Place<'_>, verb: &str) -> Result<String, ApiError> {
    let resource = format!(
        "//aiplatform.googleapis.com/projects/{}/locations/{}",
        place.project, place.location
    );
    let permission = format!("aiplatform.batchPredictionJobs.{verb}");
    call.open(&decode(place.project), &permission, &resource)
}

/// What is told at once; buckets and rows are looked at later.
fn check(body: &Map<String, Value>) -> Result<(), ApiError> {
    known(
        body,
        &[
            "displayName",
            "model",
            "inputConfig",
            "outputConfig",
            "labels",
            "modelParameters",
        ],
        "batch_prediction_job",
    )?;
    let required = |what: &str| ApiError::invalid(format!("Required field {what} is not set."));
    let name = body.get("displayName").and_then(Value::as_str);
    match name {
        Some(name) if (1..=128).contains(&name.chars().count()) => {}
        Some(_) => {
            return Err(ApiError::invalid(
                "display_name is at most 128 characters long.",
            ));
        }
        None => return Err(required("display_name")),
    }
    let model = body
        .get("model")
        .and_then(Value::as_str)
        .ok_or_else(|| required("model"))?;
    models::find(model).ok_or_else(|| models::missing(model))?;
    if let Some(labels) = body.get("labels") {
        let labels = labels.as_object().ok_or_else(|| required("labels"))?;
        check_labels(labels)?;
    }
    let one = |side: &str, format: &str, places: [(&str, &str, &str); 2]| {
        let config = body
            .get(side)
            .and_then(Value::as_object)
            .ok_or_else(|| required(side))?;
        let given = config
            .get(format)
            .and_then(Value::as_str)
            .ok_or_else(|| required(format))?;
        let [(gcs, gcs_field, _), (bq, bq_field, _)] = places;
        let (place, field, scheme) = match given {
            "jsonl" => (gcs, gcs_field, "gs://"),
            "bigquery" => (bq, bq_field, "bq://"),
            _ => return Err(ApiError::invalid(format!("Unsupported {format}: {given}."))),
        };
        known(config, &[format, place], side)?;
        let value = config.get(place).and_then(|place| place.get(field));
        let all = match value {
            Some(Value::Array(uris)) if !uris.is_empty() => uris.as_slice(),
            Some(one @ Value::String(_)) => std::slice::from_ref(one),
            _ => return Err(required(field)),
        };
        if all
            .iter()
            .all(|uri| uri.as_str().is_some_and(|uri| uri.starts_with(scheme)))
        {
            Ok(())
        } else {
            Err(ApiError::invalid(format!(
                "{side}.{place} must begin with {scheme}."
            )))
        }
    };
    one(
        "inputConfig",
        "instancesFormat",
        [
            ("gcsSource", "uris", ""),
            ("bigquerySource", "inputUri", ""),
        ],
    )?;
    one(
        "outputConfig",
        "predictionsFormat",
        [
            ("gcsDestination", "outputUriPrefix", ""),
            ("bigqueryDestination", "outputUri", ""),
        ],
    )
}

fn find(
    call: &Call<'_>,
    place: Place<'_>,
    id: &str,
    verb: &str,
) -> Result<Arc<BatchCell>, ApiError> {
    let owner = owner(call, place, verb)?;
    let now_ms = call.now_ms();
    let here = |cell: &Arc<BatchCell>| {
        cell.with(|record| {
            record.is_there(NAME, &owner, now_ms)
                && record.extra["location"].as_str() == Some(&*decode(place.location))
        })
    };
    call.engine.batches.get(id).filter(here).ok_or_else(|| {
        ApiError::new(
            404,
            format!(
                "The BatchPredictionJob \"projects/{}/locations/{}/batchPredictionJobs/{id}\" does not exist.",
                number(place.project),
                place.location
            ),
        )
    })
}

pub(super) fn get(call: &Call<'_>, place: Place<'_>, id: &str) -> Result<Response, ApiError> {
    let cell = find(call, place, id, "get")?;
    Ok(wire::json(&object(call, &cell.record())))
}

pub(super) fn cancel(call: &Call<'_>, place: Place<'_>, id: &str) -> Result<Response, ApiError> {
    let cell = find(call, place, id, "cancel")?;
    if cell.cancel(call.now_ms())? {
        return Ok(wire::json(&json!({})));
    }
    Err(ApiError::precondition(format!(
        "The job is in a terminal state: {}.",
        state(call, &cell.record())
    )))
}

pub(super) fn delete(call: &Call<'_>, place: Place<'_>, id: &str) -> Result<Response, ApiError> {
    let cell = find(call, place, id, "delete")?;
    if !cell.with(|record| record.state.is_terminal()) {
        return Err(ApiError::precondition(
            "The job must be in a terminal state to be deleted.",
        ));
    }
    cell.delete(call.now_ms())?;
    Ok(wire::json(&json!({
        "name": format!(
            "projects/{}/locations/{}/operations/{}",
            number(place.project), place.location, call.sequence
        ),
        "metadata": {
            "@type": "type.googleapis.com/google.cloud.aiplatform.v1.DeleteOperationMetadata",
            "genericMetadata": {"createTime": rfc3339(call.now_ms()), "updateTime": rfc3339(call.now_ms())},
        },
        "done": true,
        "response": {"@type": "type.googleapis.com/google.protobuf.Empty"},
    })))
}

/// A page's token is the id of the last job of the one before.
pub(super) fn list(call: &Call<'_>, place: Place<'_>, query: &Query) -> Result<Response, ApiError> {
    let owner = owner(call, place, "list")?;
    let size = match query.get("pageSize").map(str::parse::<usize>) {
        None | Some(Ok(0)) => PAGE,
        Some(Ok(size)) => size.min(PAGE),
        Some(Err(_)) => return Err(ApiError::invalid("Invalid page_size.")),
    };
    let filter = Filter::read(query.get("filter").unwrap_or_default())?;
    let mask: Vec<&str> = query
        .get("readMask")
        .map_or_else(Vec::new, |mask| mask.split(',').collect());
    let now_ms = call.now_ms();
    let location = decode(place.location);
    let mut jobs: Vec<BatchRecord> = call
        .engine
        .batches
        .all()
        .iter()
        .map(|cell| cell.record())
        .filter(|record| {
            record.is_there(NAME, &owner, now_ms)
                && record.is_listed(now_ms)
                && record.extra["location"].as_str() == Some(&*location)
        })
        .collect();
    if call.engine.config.newest_first {
        jobs.reverse();
    }
    if let Some(after) = query.get("pageToken").filter(|token| !token.is_empty()) {
        let at = jobs.iter().position(|job| job.id == after);
        let at = at.ok_or_else(|| ApiError::invalid("Invalid page_token."))?;
        jobs.drain(..=at);
    }
    let mut shown = jobs
        .into_iter()
        .map(|job| (object(call, &job), job.id))
        .filter(|(job, _)| {
            filter.takes(&|name| {
                let (name, inner) = match name.split_once('.') {
                    Some((name, inner)) => (name, Some(inner)),
                    None => (name, None),
                };
                let name = match name {
                    "display_name" => "displayName",
                    "create_time" => "createTime",
                    "update_time" => "updateTime",
                    "end_time" => "endTime",
                    other => other,
                };
                let value = inner.map_or(&job[name], |inner| &job[name][inner]);
                value.as_str().map(str::to_owned)
            })
        });
    let mut page: Vec<Value> = Vec::new();
    let mut last = None;
    for (mut job, id) in shown.by_ref().take(size) {
        if let Some(fields) = job.as_object_mut().filter(|_| !mask.is_empty()) {
            fields.retain(|name, _| mask.contains(&&**name));
        }
        page.push(job);
        last = Some(id);
    }
    let more = shown.next().is_some();
    let mut answer = json!({});
    if !page.is_empty() {
        answer["batchPredictionJobs"] = Value::Array(page);
    }
    if let Some(last) = last.filter(|_| more) {
        answer["nextPageToken"] = json!(last);
    }
    Ok(wire::json(&answer))
}

fn state(call: &Call<'_>, record: &BatchRecord) -> String {
    let word = match record.invented_state(call.now_ms()) {
        Some(word) => word.to_uppercase(),
        None => match record.shown_state() {
            BatchState::Validating => "PENDING".to_owned(),
            BatchState::InProgress | BatchState::Finalizing => "RUNNING".to_owned(),
            BatchState::Completed => "SUCCEEDED".to_owned(),
            other => other.name().to_uppercase(),
        },
    };
    format!("JOB_STATE_{word}")
}

/// A job as a client sees it.
fn object(call: &Call<'_>, record: &BatchRecord) -> Value {
    let now_ms = call.now_ms();
    let text = |name: &str| record.extra[name].as_str().unwrap_or_default();
    let mut job = record.extra["body"].clone();
    job["name"] = json!(format!(
        "projects/{}/locations/{}/batchPredictionJobs/{}",
        number(text("project")),
        text("location"),
        record.id
    ));
    job["state"] = json!(state(call, record));
    job["createTime"] = json!(rfc3339(record.created_ms));
    job["updateTime"] = json!(rfc3339(record.latest_ms()));
    job["modelVersionId"] = json!("1");
    if let Some(started) = record.in_progress_ms {
        job["startTime"] = json!(rfc3339(started));
    }
    if !record.state.is_terminal() {
        return job;
    }
    job["endTime"] = json!(rfc3339(record.latest_ms()));
    match record.state {
        BatchState::Failed => {
            let failure = record.errors.first();
            let code = failure.and_then(|failure| failure.code.parse::<u32>().ok());
            let message = failure.map_or("", |failure| &failure.message);
            job["error"] = json!({"code": code.unwrap_or(3), "message": message});
            return job;
        }
        BatchState::Cancelled => {
            job["error"] = json!({"code": 1, "message": "The job was cancelled."});
        }
        _ => {}
    }
    if record.in_progress_ms.is_some() {
        let counts = record.shown_counts();
        let left = counts
            .total
            .saturating_sub(counts.completed + counts.failed);
        let mut stats = Map::new();
        for (name, count) in [
            ("successfulCount", counts.completed),
            ("failedCount", counts.failed),
            ("incompleteCount", left),
        ] {
            if count > 0 {
                stats.insert(name.to_owned(), json!(count.to_string()));
            }
        }
        job["completionStats"] = Value::Object(stats);
    }
    if record.output_file_id.is_some() && record.shows_files(now_ms) {
        let config = Config::of(record);
        if let Some(folder) = config.output_folder(record) {
            job["outputInfo"] = json!({"gcsOutputDirectory": folder});
        }
        if let Some((dataset, table)) = config
            .output_table(record)
            .as_deref()
            .and_then(|uri| uri.rsplit_once('.'))
        {
            job["outputInfo"] =
                json!({"bigqueryOutputDataset": dataset, "bigqueryOutputTable": table});
        }
    }
    job
}
