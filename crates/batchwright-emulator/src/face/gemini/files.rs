//! Files: resumable uploads, get, list, delete, and downloads of what batches made.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::error::ApiError;
use super::{BASE, Call, NAME, SERVICE, disk_error, page, proto, read};
use crate::clock::rfc3339;
use crate::control::block;
use crate::face::download::{self, Download, Scratch};
use crate::face::wire::{Query, json as json_answer};
use crate::faults::FaultAction;
use crate::seed::id as seeded;
use crate::store::FileRecord;

/// How long a file lives.
pub(super) const LIVES_MS: i64 = 48 * 3_600_000;
/// Most bytes of one file.
pub(super) const MAX_BYTES: u64 = 2 << 30;
/// Most characters of a file's id that the endpoint of files takes.
const MAX_ID: usize = 40;
/// What is in the purpose of a file that a batch made.
const GENERATED: &str = "batch_output";

/// Uploads under way, by the id in their address.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Session>>);

#[derive(Debug)]
struct Session {
    key: String,
    name: Option<String>,
    display_name: String,
    mime: String,
    path: PathBuf,
    received: u64,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

/// Starts an upload: the answer is empty and names the address for the bytes.
pub(super) async fn start(
    call: &Call<'_>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = proto::read(&read(body, 1 << 20).await?, &proto::UPLOAD)?;
    if text(headers, "x-goog-upload-protocol") != "resumable"
        || text(headers, "x-goog-upload-command") != "start"
    {
        return Err(ApiError::invalid(
            "The emulator serves resumable uploads only.",
        ));
    }
    let file = &body["file"];
    let name = match file["name"].as_str() {
        None => None,
        Some(name) => {
            let id = name.strip_prefix("files/").unwrap_or(name);
            let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(fine) {
                return Err(ApiError::invalid("Invalid file name."));
            }
            Some(id.to_owned())
        }
    };
    let declared: u64 = text(headers, "x-goog-upload-header-content-length")
        .parse()
        .unwrap_or(0);
    if declared > MAX_BYTES {
        return Err(ApiError::invalid("The file is larger than 2 GB."));
    }
    let mime = match text(headers, "x-goog-upload-header-content-type") {
        "" => file["mimeType"].as_str().unwrap_or("text/plain"),
        mime => mime,
    };
    let upload_id = seeded("", call.engine.config.seed, 43, call.sequence);
    let session = Session {
        key: call.key.clone(),
        name,
        display_name: file["displayName"].as_str().unwrap_or_default().to_owned(),
        mime: mime.to_owned(),
        path: call.engine.files.scratch_path(call.sequence),
        received: 0,
    };
    let host = text(headers, "host");
    let url = format!("http://{host}{BASE}/upload/v1beta/files/{upload_id}");
    call.engine
        .state::<Sessions>()
        .lock()
        .insert(upload_id, session);
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    if let Ok(url) = HeaderValue::try_from(url) {
        headers.insert("x-goog-upload-url", url);
    }
    headers.insert("x-goog-upload-status", HeaderValue::from_static("active"));
    Ok(response)
}

/// Takes bytes, or says how many there are.
pub(super) async fn upload(
    call: &Call<'_>,
    upload_id: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let sessions = call.engine.state::<Sessions>();
    let unknown = || ApiError::not_found("Upload not found.");
    let commands: Vec<&str> = text(headers, "x-goog-upload-command")
        .split(',')
        .map(str::trim)
        .collect();
    if commands.contains(&"query") {
        let received = sessions.lock().get(upload_id).map(|one| one.received);
        let mut response = status("active", json!({}));
        let size = HeaderValue::from(received.ok_or_else(unknown)?);
        response
            .headers_mut()
            .insert("x-goog-upload-size-received", size);
        return Ok(response);
    }
    // Whoever sends bytes has the session for itself.
    let mut session = sessions.lock().remove(upload_id).ok_or_else(unknown)?;
    let offset: Option<u64> = text(headers, "x-goog-upload-offset").parse().ok();
    let taken = if offset == Some(session.received) {
        take(&mut session, body).await
    } else {
        Err(ApiError::invalid(
            "The offset of the upload is not where it ended.",
        ))
    };
    let finalize = commands.contains(&"finalize");
    match taken {
        Ok(()) if finalize => finish(call, session).await,
        Ok(()) => {
            sessions.lock().insert(upload_id.to_owned(), session);
            Ok(status("active", json!({})))
        }
        Err(error) => {
            sessions.lock().insert(upload_id.to_owned(), session);
            Err(error)
        }
    }
}

fn status(status: &'static str, body: Value) -> Response {
    let mut response = json_answer(&body);
    response
        .headers_mut()
        .insert("x-goog-upload-status", HeaderValue::from_static(status));
    response
}

/// Appends a body to what came before. Bytes of a body that breaks off count as far as they came.
async fn take(session: &mut Session, body: Body) -> Result<(), ApiError> {
    let mut file = tokio::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&session.path)
        .await
        .map_err(|error| disk_error(&error))?;
    let mut body = body.into_data_stream();
    let mut torn = false;
    while let Some(piece) = body.next().await {
        let Ok(piece) = piece else {
            torn = true;
            break;
        };
        if session.received + piece.len() as u64 > MAX_BYTES {
            return Err(ApiError::invalid("The file is larger than 2 GB."));
        }
        file.write_all(&piece)
            .await
            .map_err(|error| disk_error(&error))?;
        session.received += piece.len() as u64;
    }
    file.flush().await.map_err(|error| disk_error(&error))?;
    if torn {
        return Err(ApiError::invalid("The upload broke off."));
    }
    Ok(())
}

async fn finish(call: &Call<'_>, session: Session) -> Result<Response, ApiError> {
    let engine = Arc::clone(call.engine);
    let created_ms = call.now_ms();
    let mut bytes = session.received;
    let scratch = Scratch(session.path);
    for action in &call.faults.actions {
        if let FaultAction::StoreShort(cut) = action {
            bytes = bytes.saturating_sub(*cut);
            std::fs::OpenOptions::new()
                .write(true)
                .open(&scratch.0)
                .and_then(|file| file.set_len(bytes))
                .map_err(|error| disk_error(&error))?;
        }
    }
    let id = session.name.unwrap_or_else(|| {
        let id = seeded("", engine.config.seed, 44, call.sequence);
        id[..12].to_owned()
    });
    let mut record = FileRecord {
        id,
        sequence: call.sequence,
        face: NAME.to_owned(),
        key: session.key,
        bytes,
        created_ms,
        expires_ms: Some(created_ms + LIVES_MS),
        filename: session.display_name,
        purpose: session.mime,
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
    let stored = block(move || engine.files.insert(record, &scratch.0))
        .await
        .map_err(|error| disk_error(&error))?;
    Ok(status("final", json!({"file": object(&stored)})))
}

fn object(record: &FileRecord) -> Value {
    let generated = record.purpose == GENERATED;
    let mime = if generated {
        "application/jsonl"
    } else {
        &record.purpose
    };
    let name = format!("files/{}", record.id);
    let uri = format!("https://generativelanguage.googleapis.com/v1beta/{name}");
    let mut object = json!({
        "mimeType": mime,
        "sizeBytes": record.bytes.to_string(),
        "createTime": rfc3339(record.created_ms),
        "updateTime": rfc3339(record.created_ms),
        "state": "ACTIVE",
        "source": if generated { "GENERATED" } else { "UPLOADED" },
    });
    if let Some(expires_ms) = record.expires_ms {
        object["expirationTime"] = Value::from(rfc3339(expires_ms));
    }
    if !generated && !record.filename.is_empty() {
        object["displayName"] = Value::from(record.filename.as_str());
    }
    if generated {
        object["downloadUri"] = Value::from(format!("{uri}:download?alt=media"));
    }
    object["name"] = Value::from(name);
    object["uri"] = Value::from(uri);
    object
}

pub(super) fn list(call: &Call<'_>, query: &Query) -> Result<Response, ApiError> {
    let mut records = call.engine.files.list(NAME, &call.key, call.now_ms());
    records.retain(|record| record.purpose != GENERATED);
    records.reverse();
    let objects = records
        .iter()
        .map(|record| (record.sequence, object(record)))
        .collect();
    page("files", objects, query, 100)
}

/// F-090: the ids of results are longer than this endpoint takes.
fn short(id: &str) -> Result<(), ApiError> {
    if id.len() > MAX_ID {
        return Err(ApiError::invalid(format!(
            "* GetFileRequest.name: File ID files/{id} cannot be more than {MAX_ID} characters long.\n"
        )));
    }
    Ok(())
}

pub(super) fn get(call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
    short(id)?;
    Ok(json_answer(&object(&*find(call, id)?)))
}

pub(super) fn delete(call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
    short(id)?;
    let record = find(call, id)?;
    call.engine
        .files
        .remove(&record.id)
        .map_err(|error| disk_error(&error))?;
    Ok(json_answer(&json!({})))
}

fn find(call: &Call<'_>, id: &str) -> Result<Arc<FileRecord>, ApiError> {
    call.engine
        .files
        .get(NAME, &call.key, id, call.now_ms())
        .ok_or_else(|| ApiError::no_file(id))
}

/// Sends a file that a batch made, or the range that was asked for.
pub(super) async fn download(
    call: &Call<'_>,
    id: &str,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let record = find(call, id)?;
    if record.purpose != GENERATED {
        return Err(ApiError::invalid("Only generated files can be downloaded."));
    }
    let mut response = download::send(&Download {
        engine: call.engine,
        file: &record,
        headers,
        faults: &call.faults,
        sequence: call.sequence,
        shape: &SERVICE,
    })
    .await
    .map_err(|error| disk_error(&error))?;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/jsonl"),
    );
    Ok(response)
}
