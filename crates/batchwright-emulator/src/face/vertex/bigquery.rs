//! BigQuery's REST API, as far as clients of batch jobs use it: datasets, tables, load jobs, rows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::route::TableName;
use super::tables::{self, Column};
use super::{Call, read_json, storage};
use crate::control::block;
use crate::engine::Engine;
use crate::face::wire::{self, Query, decode};
use crate::store::FileRecord;

/// Most rows of a page.
const MAX_PAGE: usize = 100_000;
/// Most bytes of a page, about.
const PAGE_BYTES: usize = 10 << 20;

fn not_found(what: &str) -> ApiError {
    ApiError::new(404, format!("Not found: {what}")).with_reason("notFound")
}

fn may(call: &Call<'_>, project: &str, permission: &str) -> Result<(), ApiError> {
    call.open(&decode(project), permission, project).map(|_| ())
}

/// The dataset's location, if it exists.
fn located<'c>(call: &'c Call<'_>, project: &str, dataset: &str) -> Result<&'c str, ApiError> {
    call.options
        .dataset(&decode(project), &decode(dataset))
        .ok_or_else(|| not_found(&format!("Dataset {project}:{dataset}")))
}

pub(super) fn dataset(call: &Call<'_>, project: &str, dataset: &str) -> Result<Response, ApiError> {
    may(call, project, "bigquery.datasets.get")?;
    let location = located(call, project, dataset)?;
    Ok(wire::json(&json!({
        "kind": "bigquery#dataset",
        "id": format!("{project}:{dataset}"),
        "datasetReference": {"projectId": project, "datasetId": dataset},
        // Regions are written small here, multi-regions large.
        "location": if location.contains('-') { location.to_lowercase() } else { location.to_owned() },
    })))
}

fn uri(table: TableName<'_>) -> String {
    format!(
        "bq://{}.{}.{}",
        decode(table.project),
        decode(table.dataset),
        decode(table.table)
    )
}

fn find(call: &Call<'_>, table: TableName<'_>) -> Result<Arc<FileRecord>, ApiError> {
    may(call, table.project, "bigquery.tables.get")?;
    tables::find(call.engine, &uri(table), call.now_ms()).ok_or_else(|| {
        not_found(&format!(
            "Table {}:{}.{}",
            table.project, table.dataset, table.table
        ))
    })
}

pub(super) fn table(call: &Call<'_>, table: TableName<'_>) -> Result<Response, ApiError> {
    let record = find(call, table)?;
    Ok(wire::json(&json!({
        "kind": "bigquery#table",
        "tableReference": {
            "projectId": table.project, "datasetId": table.dataset, "tableId": table.table,
        },
        "schema": {"fields": tables::columns(&record)},
        "numBytes": record.bytes.to_string(),
        "creationTime": record.created_ms.to_string(),
        "location": located(call, table.project, table.dataset)?.to_lowercase(),
        "type": "TABLE",
    })))
}

pub(super) fn drop_table(call: &Call<'_>, table: TableName<'_>) -> Result<Response, ApiError> {
    let record = find(call, table)?;
    call.engine.files.remove(&record.id)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// Rows by their columns' order; a page's token is the offset of its first line.
pub(super) async fn data(
    call: &Call<'_>,
    table: TableName<'_>,
    query: &Query,
) -> Result<Response, ApiError> {
    let record = find(call, table)?;
    let bad = || ApiError::invalid("Invalid value").with_reason("invalid");
    let most = match query.get("maxResults").map(str::parse::<usize>) {
        None => MAX_PAGE,
        Some(Ok(most)) => most.min(MAX_PAGE),
        Some(Err(_)) => return Err(bad()),
    };
    let from: u64 = query
        .get("pageToken")
        .map_or(Ok(0), str::parse)
        .map_err(|_| bad())?;
    let mut columns = tables::columns(&record);
    if let Some(selected) = query.get("selectedFields") {
        let selected: Vec<&str> = selected.split(',').collect();
        columns.retain(|column| selected.contains(&&*column.name));
    }
    let path = call.engine.files.data_path(&record.id);
    let (rows, next) = block(move || page(path, from, most, &columns)).await?;
    let mut answer = json!({"kind": "bigquery#tableDataList"});
    if !rows.is_empty() {
        answer["rows"] = Value::Array(rows);
    }
    if next < record.bytes {
        answer["pageToken"] = json!(next.to_string());
    }
    Ok(wire::json(&answer))
}

/// Rows from an offset on, and where the next ones are.
fn page(
    path: PathBuf,
    from: u64,
    most: usize,
    columns: &[Column],
) -> io::Result<(Vec<Value>, u64)> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut lines = BufReader::new(file);
    let mut line = Vec::new();
    let (mut rows, mut next, mut bytes) = (Vec::new(), from, 0);
    while rows.len() < most && bytes < PAGE_BYTES {
        line.clear();
        let read = lines.read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        next += read as u64;
        bytes += read;
        // A fault script's odd bytes between lines are nothing that a table holds.
        let line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&line);
        if line.trim_ascii().is_empty() {
            continue;
        }
        let fields: Map<String, Value> = serde_json::from_slice(line).unwrap_or_default();
        let cells: Vec<Value> = columns
            .iter()
            .map(|column| json!({"v": cell(column, fields.get(&column.name))}))
            .collect();
        rows.push(json!({ "f": cells }));
    }
    Ok((rows, next))
}

/// A value as a row shows it: a text or null.
fn cell(column: &Column, value: Option<&Value>) -> Value {
    match (column.kind.as_str(), value) {
        (_, None | Some(Value::Null)) => Value::Null,
        ("JSON", Some(value)) => json!(value.to_string()),
        ("TIMESTAMP", Some(Value::String(text))) => {
            let at: Option<jiff::Timestamp> = text.parse().ok();
            at.map_or(Value::Null, |at| json!(format!("{}.0", at.as_second())))
        }
        (_, Some(Value::String(text))) => json!(text),
        (_, Some(other)) => json!(other.to_string()),
    }
}

// ---- load jobs ----

/// Load jobs by project and id; a state of the engine.
#[derive(Debug, Default)]
struct Loads(Mutex<BTreeMap<(String, String), Load>>);

#[derive(Debug)]
struct Load {
    body: Value,
    /// Looks that are left until it is done.
    left: u64,
    error: Option<Value>,
}

impl Load {
    fn object(&self, project: &str, id: &str) -> Value {
        let mut job = self.body.clone();
        job["kind"] = json!("bigquery#job");
        job["id"] = json!(format!("{project}:{id}"));
        job["status"] = if self.left > 0 {
            json!({"state": "RUNNING"})
        } else {
            json!({"state": "DONE"})
        };
        if let Some(error) = self.error.as_ref().filter(|_| self.left == 0) {
            job["status"]["errorResult"] = error.clone();
            job["status"]["errors"] = json!([error]);
        }
        job
    }
}

/// Loads lines of JSON from Cloud Storage into a new table.
pub(super) async fn load(call: &Call<'_>, project: &str, body: Body) -> Result<Response, ApiError> {
    may(call, project, "bigquery.jobs.create")?;
    let body = Value::Object(read_json(body, 1 << 20).await?);
    let required = |what: &str| {
        ApiError::invalid(format!("Required parameter is missing: {what}")).with_reason("required")
    };
    let id = body["jobReference"]["jobId"]
        .as_str()
        .map_or_else(|| format!("job_{}", call.sequence), str::to_owned);
    let config = &body["configuration"]["load"];
    if !config.is_object() {
        return Err(required("configuration.load"));
    }
    if config["sourceFormat"] != "NEWLINE_DELIMITED_JSON" {
        return Err(ApiError::invalid("Unsupported source format").with_reason("invalid"));
    }
    let key = (decode(project), id.clone());
    let loads = call.engine.state::<Loads>();
    {
        let loads = loads.0.lock().unwrap_or_else(PoisonError::into_inner);
        if loads.contains_key(&key) {
            return Err(
                ApiError::new(409, format!("Already Exists: Job {project}:{id}"))
                    .with_reason("duplicate"),
            );
        }
    }
    let done = {
        let (engine, config) = (Arc::clone(call.engine), config.clone());
        let options = Arc::clone(&call.options);
        let location = body["jobReference"]["location"].as_str().map(str::to_owned);
        let (sequence, at_ms) = (call.sequence, call.now_ms());
        block(move || {
            let target = &config["destinationTable"];
            let text = |name: &str| target[name].as_str().unwrap_or_default();
            let found = options.dataset(text("projectId"), text("datasetId"));
            let here = match (found, &location) {
                (Some(found), Some(asked)) => found.eq_ignore_ascii_case(asked),
                (found, _) => found.is_some(),
            };
            if !here {
                let message = format!(
                    "Not found: Dataset {}:{}",
                    text("projectId"),
                    text("datasetId")
                );
                return Ok(Some(json!({"reason": "notFound", "message": message})));
            }
            loaded(&engine, &config, sequence, at_ms)
        })
        .await?
    };
    let load = Load {
        left: call.options.load_polls,
        error: done,
        body,
    };
    let answer = load.object(project, &id);
    let mut loads = loads.0.lock().unwrap_or_else(PoisonError::into_inner);
    loads.insert(key, load);
    Ok(wire::json(&answer))
}

/// Makes the table; the error that the job ends with.
fn loaded(engine: &Engine, config: &Value, sequence: u64, at_ms: i64) -> io::Result<Option<Value>> {
    let error =
        |reason: &str, message: String| Ok(Some(json!({"reason": reason, "message": message})));
    let target = &config["destinationTable"];
    let text = |name: &str| target[name].as_str().unwrap_or_default();
    let uri = format!(
        "bq://{}.{}.{}",
        text("projectId"),
        text("datasetId"),
        text("tableId")
    );
    let there = tables::find(engine, &uri, at_ms).is_some_and(|table| table.bytes > 0);
    if there && config["writeDisposition"] == "WRITE_EMPTY" {
        return error("duplicate", format!("Already Exists: Table {uri}"));
    }
    let columns: Vec<Column> =
        serde_json::from_value(config["schema"]["fields"].clone()).unwrap_or_default();
    if columns.is_empty() {
        return error("invalid", "No schema specified on job or table.".to_owned());
    }
    let scratch = engine.files.scratch_path(sequence);
    let mut out = File::create(&scratch)?;
    let mut bytes = 0;
    for source in config["sourceUris"].as_array().into_iter().flatten() {
        let source = source.as_str().unwrap_or_default();
        let Some(object) = storage::find(engine, source, at_ms) else {
            return error("notFound", format!("Not found: URI {source}"));
        };
        let mut lines = BufReader::new(File::open(engine.files.data_path(&object.id))?);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            let row: Option<Map<String, Value>> = serde_json::from_slice(&line).ok();
            let fits = row.is_some_and(|row| {
                row.keys()
                    .all(|name| columns.iter().any(|column| column.name == *name))
            });
            if !fits {
                return error(
                    "invalid",
                    "Error while reading data: a row does not fit the schema.".to_owned(),
                );
            }
            out.write_all(&line)?;
            bytes += line.len() as u64;
            line.clear();
        }
    }
    engine.files.insert(
        tables::record(uri, &columns, bytes, sequence, at_ms),
        &scratch,
    )?;
    Ok(None)
}

pub(super) fn load_job(call: &Call<'_>, project: &str, id: &str) -> Result<Response, ApiError> {
    may(call, project, "bigquery.jobs.get")?;
    let loads = call.engine.state::<Loads>();
    let mut loads = loads.0.lock().unwrap_or_else(PoisonError::into_inner);
    let load = loads
        .get_mut(&(decode(project), decode(id)))
        .ok_or_else(|| not_found(&format!("Job {project}:{id}")))?;
    load.left = load.left.saturating_sub(1);
    Ok(wire::json(&load.object(project, id)))
}
