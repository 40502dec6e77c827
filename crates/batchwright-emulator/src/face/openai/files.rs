//! The files endpoints: upload, get, list, content, delete.

use std::sync::Arc;

use axum::extract::multipart::{Field, Multipart};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufWriter};

use super::error::{ApiError, INVALID};
use super::quirks::{FileStatus, Lists};
use super::{Call, disk_error, limit, shape};
use crate::clock::seconds;
use crate::control::block;
use crate::face::download::{self, Download, Scratch};
use crate::face::wire::{Query, json as json_response};
use crate::faults::FaultAction;
use crate::seed::id;
use crate::store::FileRecord;

const THIRTY_DAYS_S: i64 = 2_592_000;
/// Virtual time a server may take to look at a file.
const LOOKED_AT_MS: i64 = 60_000;

#[derive(Serialize)]
struct FileObject<'a> {
    id: &'a str,
    object: &'static str,
    bytes: u64,
    created_at: i64,
    expires_at: Option<i64>,
    filename: &'a str,
    purpose: &'a str,
    status: &'static str,
    status_details: Option<()>,
}

impl<'a> FileObject<'a> {
    fn new(record: &'a FileRecord) -> Self {
        Self {
            id: &record.id,
            object: "file",
            bytes: record.bytes,
            created_at: seconds(record.created_ms),
            expires_at: record.expires_ms.map(seconds),
            filename: &record.filename,
            purpose: &record.purpose,
            status: "processed",
            status_details: None,
        }
    }
}

/// Whether a server that looks at files still looks at this one.
pub(super) fn is_pending(record: &FileRecord, now_ms: i64) -> bool {
    now_ms < record.created_ms + LOOKED_AT_MS
}

/// A file as this server shows it.
fn shaped(call: &Call<'_>, record: &FileRecord) -> Value {
    let mut object = serde_json::to_value(FileObject::new(record)).unwrap_or_default();
    let pending = is_pending(record, call.now_ms());
    shape::file(&call.quirks, pending, &mut object);
    object
}

pub(super) async fn upload(call: &Call<'_>, request: Request) -> Result<Response, ApiError> {
    let engine = call.engine;
    let mut form = Multipart::from_request(request, &()).await.map_err(|_| {
        ApiError::new(
            400,
            INVALID,
            None,
            "The request must be multipart/form-data with a boundary.",
        )
    })?;
    let mut arrived = Arrived {
        scratch: Scratch(engine.files.scratch_path(call.sequence)),
        ..Arrived::default()
    };
    while let Some(field) = form.next_field().await.map_err(|_| torn())? {
        arrived.take(call, field).await?;
    }
    arrived.shorten(call).map_err(|error| disk_error(&error))?;
    let record = arrived.check(call)?;
    let engine = Arc::clone(engine);
    let stored = block(move || engine.files.insert(record, &arrived.scratch.0))
        .await
        .map_err(|error| disk_error(&error))?;
    Ok(json_response(&shaped(call, &stored)))
}

/// The fields of an upload so far.
#[derive(Default)]
struct Arrived {
    purpose: Option<String>,
    filename: Option<String>,
    bytes: u64,
    anchor: Option<String>,
    seconds: Option<String>,
    scratch: Scratch,
}

impl Arrived {
    async fn take(&mut self, call: &Call<'_>, mut field: Field<'_>) -> Result<(), ApiError> {
        match field.name().unwrap_or_default() {
            "file" => {
                self.filename = Some(field.file_name().unwrap_or_default().to_owned());
                let file = tokio::fs::File::create(&self.scratch.0)
                    .await
                    .map_err(|error| disk_error(&error))?;
                let mut file = BufWriter::with_capacity(256 << 10, file);
                while let Some(chunk) = field.chunk().await.map_err(|_| torn())? {
                    self.bytes += chunk.len() as u64;
                    let most = call.dialect().max_upload;
                    if self.bytes > most {
                        return Err(ApiError::too_large(self.bytes, most));
                    }
                    file.write_all(&chunk)
                        .await
                        .map_err(|error| disk_error(&error))?;
                }
                file.flush().await.map_err(|error| disk_error(&error))
            }
            "purpose" => short(&mut self.purpose, field).await,
            "expires_after[anchor]" | "expires_after.anchor" => short(&mut self.anchor, field).await,
            "expires_after[seconds]" | "expires_after.seconds" => short(&mut self.seconds, field).await,
            _ => {
                while field.chunk().await.map_err(|_| torn())?.is_some() {}
                Ok(())
            }
        }
    }

    fn shorten(&mut self, call: &Call<'_>) -> std::io::Result<()> {
        for action in &call.faults.actions {
            if let (FaultAction::StoreShort(cut), true) = (action, self.filename.is_some()) {
                self.bytes = self.bytes.saturating_sub(*cut);
                std::fs::OpenOptions::new()
                    .write(true)
                    .open(&self.scratch.0)?
                    .set_len(self.bytes)?;
            }
        }
        Ok(())
    }

    fn check(&self, call: &Call<'_>) -> Result<FileRecord, ApiError> {
        let Some(filename) = &self.filename else {
            return Err(ApiError::missing("file"));
        };
        let Some(purpose) = &self.purpose else {
            return Err(ApiError::missing("purpose"));
        };
        let purposes = call.dialect().purposes;
        if !purposes.contains(&purpose.as_str()) {
            return Err(ApiError::bad(
                "purpose",
                "invalid_value",
                format!("'{purpose}' is not one of {purposes:?} - 'purpose'"),
            ));
        }
        let purpose = if purpose == "batch-api" {
            "batch"
        } else {
            purpose
        };
        if purpose == "batch" && !filename.ends_with(".jsonl") {
            return Err(ApiError::new(
                400,
                INVALID,
                None,
                "Invalid file format for Batch API. Must be .jsonl",
            ));
        }
        let lives = lifetime(self.anchor.as_deref(), self.seconds.as_deref())?
            .or((purpose == "batch").then_some(THIRTY_DAYS_S));
        let created_ms = call.now_ms();
        let mut record = FileRecord {
            id: id(call.dialect().file_id, call.engine.config.seed, 1, call.sequence),
            sequence: call.sequence,
            face: call.dialect().name.to_owned(),
            key: call.key.clone(),
            bytes: self.bytes,
            created_ms,
            expires_ms: lives.map(|seconds| created_ms + seconds * 1000),
            filename: filename.clone(),
            purpose: purpose.to_owned(),
            listed_ms: created_ms,
            visible_ms: created_ms,
        };
        for action in &call.faults.actions {
            match action {
                FaultAction::ListLag(span) => record.listed_ms = created_ms + span.ms(),
                FaultAction::VisibleLag(span) => record.visible_ms = created_ms + span.ms(),
                _ => {}
            }
        }
        Ok(record)
    }
}

fn torn() -> ApiError {
    ApiError::new(400, INVALID, None, "The multipart body broke off.")
}

async fn short(into: &mut Option<String>, mut field: Field<'_>) -> Result<(), ApiError> {
    let mut text = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|_| torn())? {
        text.extend_from_slice(&chunk);
        if text.len() > 1 << 10 {
            return Err(ApiError::of_status(400));
        }
    }
    *into = Some(String::from_utf8_lossy(&text).into_owned());
    Ok(())
}

fn lifetime(anchor: Option<&str>, seconds: Option<&str>) -> Result<Option<i64>, ApiError> {
    match (anchor, seconds) {
        (None, None) => Ok(None),
        (Some("created_at"), Some(seconds)) => match seconds.parse() {
            Ok(seconds) if (3_600..=THIRTY_DAYS_S).contains(&seconds) => Ok(Some(seconds)),
            _ => Err(ApiError::bad(
                "expires_after.seconds",
                "invalid_value",
                "Invalid value for 'expires_after.seconds': expected an integer from 3600 to 2592000.",
            )),
        },
        _ => Err(ApiError::bad(
            "expires_after.anchor",
            "invalid_value",
            "Invalid value for 'expires_after.anchor': expected 'created_at'.",
        )),
    }
}

pub(super) fn list(call: &Call<'_>, query: &Query) -> Result<Response, ApiError> {
    let limit = limit(query, 10_000, 10_000)?;
    let mut records = call
        .engine
        .files
        .list(call.dialect().name, &call.key, call.now_ms());
    if let Some(purpose) = query.get("purpose") {
        records.retain(|record| record.purpose == purpose);
    }
    match query.get("order") {
        None | Some("desc") => records.reverse(),
        Some("asc") => {}
        Some(_) => {
            return Err(ApiError::bad(
                "order",
                "invalid_value",
                "Invalid value for 'order': expected 'asc' or 'desc'.",
            ));
        }
    }
    let objects: Vec<_> = records
        .iter()
        .map(|record| shaped(call, record))
        .collect();
    // Servers that page batches in their own way list files without pages.
    let lists = match call.quirks.lists {
        Lists::Cursor | Lists::Pages | Lists::Absent => Lists::Whole,
        lists => lists,
    };
    Ok(json_response(&shape::page(lists, objects, query, limit)))
}

pub(super) fn get(call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
    if call.quirks.file_status == FileStatus::NoEndpoint {
        return Err(ApiError::new(404, INVALID, None, "Not Found"));
    }
    Ok(json_response(&shaped(call, &*find(call, id)?)))
}

pub(super) fn delete(call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
    let record = find(call, id)?;
    call.engine
        .files
        .remove(&record.id)
        .map_err(|error| disk_error(&error))?;
    Ok(json_response(
        &json!({"id": id, "object": "file", "deleted": true}),
    ))
}

fn find(call: &Call<'_>, id: &str) -> Result<Arc<FileRecord>, ApiError> {
    call.engine
        .files
        .get(call.dialect().name, &call.key, id, call.now_ms())
        .ok_or_else(|| ApiError::no_file(id))
}

/// Sends a file, or the range that was asked for.
pub(super) async fn content(
    call: &Call<'_>,
    id: &str,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let record = find(call, id)?;
    let mut response = download::send(&Download {
        engine: call.engine,
        file: &record,
        headers,
        faults: &call.faults,
        sequence: call.sequence,
        shape: call.family,
    })
    .await
    .map_err(|error| disk_error(&error))?;
    let name = format!("attachment; filename=\"{}\"", record.filename);
    if let Ok(name) = HeaderValue::try_from(name) {
        response
            .headers_mut()
            .insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}
