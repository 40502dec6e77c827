//! The files endpoints: upload, get, list, content, delete.

use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::multipart::{Field, Multipart};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufWriter};
use tokio_util::io::ReaderStream;

use super::error::{ApiError, INVALID};
use super::{Call, Query, disk_error, json as json_response, page};
use crate::clock::seconds;
use crate::control::block;
use crate::faults::FaultAction;
use crate::results;
use crate::seed::id;
use crate::store::FileRecord;

/// Most bytes of one file.
const MAX_FILE: u64 = 512 << 20;
const THIRTY_DAYS_S: i64 = 2_592_000;
const PURPOSES: [&str; 6] = [
    "assistants",
    "batch",
    "fine-tune",
    "vision",
    "user_data",
    "evals",
];

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
        arrived.take(field).await?;
    }
    arrived.shorten(call).map_err(|error| disk_error(&error))?;
    let record = arrived.check(call)?;
    let engine = Arc::clone(engine);
    let stored = block(move || engine.files.insert(record, &arrived.scratch.0))
        .await
        .map_err(|error| disk_error(&error))?;
    Ok(json_response(&FileObject::new(&stored)))
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

/// A file that goes when the upload comes to nothing.
#[derive(Default)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Gone already when the upload was stored; a leftover goes at the next start.
        if let Err(error) = crate::store::remove_file(&self.0) {
            tracing::debug!(%error, "could not remove a scratch file");
        }
    }
}

impl Arrived {
    async fn take(&mut self, mut field: Field<'_>) -> Result<(), ApiError> {
        match field.name().unwrap_or_default() {
            "file" => {
                self.filename = Some(field.file_name().unwrap_or_default().to_owned());
                let file = tokio::fs::File::create(&self.scratch.0)
                    .await
                    .map_err(|error| disk_error(&error))?;
                let mut file = BufWriter::with_capacity(256 << 10, file);
                while let Some(chunk) = field.chunk().await.map_err(|_| torn())? {
                    self.bytes += chunk.len() as u64;
                    if self.bytes > MAX_FILE {
                        return Err(ApiError::too_large(self.bytes, MAX_FILE));
                    }
                    file.write_all(&chunk)
                        .await
                        .map_err(|error| disk_error(&error))?;
                }
                file.flush().await.map_err(|error| disk_error(&error))
            }
            "purpose" => short(&mut self.purpose, field).await,
            "expires_after[anchor]" => short(&mut self.anchor, field).await,
            "expires_after[seconds]" => short(&mut self.seconds, field).await,
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
        if !PURPOSES.contains(&purpose.as_str()) {
            return Err(ApiError::bad(
                "purpose",
                "invalid_value",
                format!("'{purpose}' is not one of {PURPOSES:?} - 'purpose'"),
            ));
        }
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
            id: id("file-", call.engine.config.seed, 1, call.sequence),
            sequence: call.sequence,
            face: super::NAME.to_owned(),
            key: call.key.clone(),
            bytes: self.bytes,
            created_ms,
            expires_ms: lives.map(|seconds| created_ms + seconds * 1000),
            filename: filename.clone(),
            purpose: purpose.clone(),
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

pub(super) fn list(call: &Call<'_>, query: &str) -> Result<Response, ApiError> {
    let query = Query::parse(query);
    let limit = query.limit(10_000, 10_000)?;
    let mut records = call.engine.files.list(&call.key, call.now_ms());
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
        .map(|record| FileObject::new(record))
        .collect();
    Ok(page(objects, |file| file.id, query.get("after"), limit))
}

pub(super) fn get(call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
    Ok(json_response(&FileObject::new(&*find(call, id)?)))
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
        .get(&call.key, id, call.now_ms())
        .ok_or_else(|| ApiError::no_file(id))
}

/// Sends a file, or the range that was asked for.
pub(super) async fn content(
    call: &Call<'_>,
    id: &str,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let record = find(call, id)?;
    let engine = call.engine;
    let mutations = call.faults.mutations();
    // Keeps a spoiled copy until the answer has the file open.
    let spoiled;
    let (path, bytes) = if mutations.is_empty() {
        (engine.files.data_path(&record.id), record.bytes)
    } else {
        spoiled = Scratch(engine.files.scratch_path(call.sequence));
        let (from, to) = (engine.files.data_path(&record.id), spoiled.0.clone());
        let mutations: Vec<_> = mutations.into_iter().cloned().collect();
        let seed = crate::seed::mix(engine.config.seed, call.sequence);
        let bytes = block(move || {
            let mutations: Vec<_> = mutations.iter().collect();
            results::copy(&from, &to, seed, false, &mutations, &super::Rows)
        })
        .await
        .map_err(|error| disk_error(&error))?;
        (spoiled.0.clone(), bytes)
    };
    let mut file = tokio::fs::File::open(&path)
        .await
        .map_err(|error| disk_error(&error))?;
    let ignore_range = call
        .faults
        .actions
        .iter()
        .any(|action| matches!(action, FaultAction::IgnoreRange));
    let range = if ignore_range {
        Range::Whole
    } else {
        Range::of(headers, bytes)
    };
    let (from, len) = match range {
        Range::Whole => (0, bytes),
        Range::Part { from, len } => (from, len),
        Range::Beyond => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            if let Ok(value) = HeaderValue::try_from(format!("bytes */{bytes}")) {
                response.headers_mut().insert(header::CONTENT_RANGE, value);
            }
            return Ok(response);
        }
    };
    if from > 0 {
        file.seek(SeekFrom::Start(from))
            .await
            .map_err(|error| disk_error(&error))?;
    }
    let body = ReaderStream::with_capacity(file.take(len), 128 << 10);
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    let name = format!("attachment; filename=\"{}\"", record.filename);
    if let Ok(name) = HeaderValue::try_from(name) {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    if let Range::Part { from, len } = range {
        let value = format!("bytes {from}-{}/{bytes}", from + len - 1);
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(header::CONTENT_RANGE, value);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    Whole,
    Part { from: u64, len: u64 },
    Beyond,
}

impl Range {
    /// One range of bytes; several, or another unit, mean the whole file.
    fn of(headers: &HeaderMap, bytes: u64) -> Self {
        let asked = headers
            .get(header::RANGE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("bytes="))
            .and_then(|value| value.split_once('-'));
        let Some((from, to)) = asked else {
            return Self::Whole;
        };
        let (from, end) = match (from.parse::<u64>(), to.parse::<u64>()) {
            (Ok(from), Ok(to)) if from <= to => (from, to.saturating_add(1).min(bytes)),
            (Ok(from), Err(_)) if to.is_empty() => (from, bytes),
            (Err(_), Ok(last)) if from.is_empty() => (bytes.saturating_sub(last), bytes),
            _ => return Self::Whole,
        };
        if from >= end {
            return Self::Beyond;
        }
        Self::Part {
            from,
            len: end - from,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_means_them() {
        let part = |from, len| Range::Part { from, len };
        for (asked, range) in [
            ("bytes=0-", part(0, 10)),
            ("bytes=3-5", part(3, 3)),
            ("bytes=3-99", part(3, 7)),
            ("bytes=-4", part(6, 4)),
            ("bytes=-99", part(0, 10)),
            ("bytes=10-", Range::Beyond),
            ("bytes=5-3", Range::Whole),
            ("bytes=0-1,3-4", Range::Whole),
            ("lines=0-1", Range::Whole),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::from_static(asked));
            assert_eq!(Range::of(&headers, 10), range, "{asked}");
        }
    }
}
