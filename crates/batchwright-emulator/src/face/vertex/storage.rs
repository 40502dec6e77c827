//! Cloud Storage's JSON API, as far as clients of batch jobs use it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::fs::OpenOptions;
use tokio::io::AsyncWriteExt;

use super::encoding::Crc32c;
use super::error::ApiError;
use super::{Call, NAME, SERVICE, read, read_json};
use crate::clock::rfc3339;
use crate::control::block;
use crate::engine::Engine;
use crate::face::download::{self, Download, Scratch};
use crate::face::wire::{self, Query, decode};
use crate::faults::FaultAction;
use crate::seed::id;
use crate::store::FileRecord;

/// Under which key objects are kept: buckets have one namespace for all projects.
const KEY: &str = "objects";
/// Every chunk but the last is a multiple of this.
const CHUNK: u64 = 262_144;
/// Most bytes of an upload that is one multipart body.
const MAX_MULTIPART: usize = 64 << 20;

/// An object's id in the store.
fn object_id(bucket: &str, name: &str) -> String {
    format!("gs://{bucket}/{name}")
}

/// An object by its `gs://` address.
pub(super) fn find(engine: &Engine, uri: &str, at_ms: i64) -> Option<Arc<FileRecord>> {
    engine.files.get(NAME, KEY, uri, at_ms)
}

/// Objects whose address begins so, in order of their addresses.
pub(super) fn all(engine: &Engine, prefix: &str, at_ms: i64) -> Vec<Arc<FileRecord>> {
    let mut found = engine.files.list(NAME, KEY, at_ms);
    found.retain(|file| file.id.starts_with(prefix));
    found.sort_by(|one, other| one.id.cmp(&other.id));
    found
}

/// The record of a new object.
pub(super) fn record(uri: String, kind: &str, bytes: u64, sequence: u64, at_ms: i64) -> FileRecord {
    FileRecord {
        filename: uri.clone(),
        id: uri,
        sequence,
        face: NAME.to_owned(),
        key: KEY.to_owned(),
        bytes,
        created_ms: at_ms,
        expires_ms: None,
        purpose: kind.to_owned(),
        listed_ms: at_ms,
        visible_ms: at_ms,
    }
}

fn missing(what: &str) -> ApiError {
    ApiError::new(404, format!("No such object: {what}")).with_reason("notFound")
}

/// The bucket's location, if it exists.
fn exists<'c>(call: &'c Call<'_>, bucket: &str) -> Result<&'c str, ApiError> {
    call.options.bucket(bucket).ok_or_else(|| {
        ApiError::new(404, "The specified bucket does not exist.").with_reason("notFound")
    })
}

pub(super) fn bucket(call: &Call<'_>, bucket: &str) -> Result<Response, ApiError> {
    let name = decode(bucket);
    let location = exists(call, &name)?;
    let multi = matches!(location, "US" | "EU" | "ASIA");
    Ok(wire::json(&json!({
        "kind": "storage#bucket",
        "id": name,
        "name": name,
        "location": location,
        "locationType": if multi { "multi-region" } else { "region" },
        "storageClass": "STANDARD",
        "timeCreated": rfc3339(0),
    })))
}

// ---- objects ----

/// Checksums of objects, by id and generation; a state of the engine.
#[derive(Debug, Default)]
struct Checksums(Mutex<HashMap<(String, u64), String>>);

async fn checksum(engine: &Arc<Engine>, record: &FileRecord) -> io::Result<String> {
    let key = (record.id.clone(), record.sequence);
    let known = engine.state::<Checksums>();
    let lock = |known: &Arc<Checksums>| -> Option<String> {
        let known = known.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&key).cloned()
    };
    if let Some(found) = lock(&known) {
        return Ok(found);
    }
    let path = engine.files.data_path(&record.id);
    let made = block(move || {
        let mut file = File::open(path)?;
        let mut crc = Crc32c::new();
        let mut piece = vec![0; 256 << 10];
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(crc.text()),
                read => crc.update(&piece[..read]),
            }
        }
    })
    .await?;
    let mut known = known.0.lock().unwrap_or_else(PoisonError::into_inner);
    known.insert(key, made.clone());
    Ok(made)
}

async fn object(call: &Call<'_>, record: &FileRecord) -> Result<Value, ApiError> {
    let uri = record.id.strip_prefix("gs://").unwrap_or(&record.id);
    let (bucket, name) = uri.split_once('/').unwrap_or((uri, ""));
    // Microseconds of the creation, as at the vendor, and unique.
    let generation = record.created_ms * 1000 + i64::try_from(record.sequence % 1000).unwrap_or(0);
    let crc32c = checksum(call.engine, record).await?;
    Ok(json!({
        "kind": "storage#object",
        "id": format!("{bucket}/{name}/{generation}"),
        "name": name,
        "bucket": bucket,
        "generation": generation.to_string(),
        "metageneration": "1",
        "contentType": record.purpose,
        "storageClass": "STANDARD",
        "size": record.bytes.to_string(),
        "crc32c": crc32c,
        "etag": format!("C{generation}="),
        "timeCreated": rfc3339(record.created_ms),
        "updated": rfc3339(record.created_ms),
    }))
}

fn seen(call: &Call<'_>, bucket: &str, name: &str) -> Result<Arc<FileRecord>, ApiError> {
    let (bucket, name) = (decode(bucket), decode(name));
    exists(call, &bucket)?;
    find(call.engine, &object_id(&bucket, &name), call.now_ms())
        .ok_or_else(|| missing(&format!("{bucket}/{name}")))
}

/// An object's record, or with `alt=media` its bytes.
pub(super) async fn get(
    call: &Call<'_>,
    bucket: &str,
    name: &str,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    if query.get("alt") == Some("media") {
        return content(call, bucket, name, headers).await;
    }
    let record = seen(call, bucket, name)?;
    Ok(wire::json(&object(call, &record).await?))
}

pub(super) async fn content(
    call: &Call<'_>,
    bucket: &str,
    name: &str,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let record = seen(call, bucket, name)?;
    let crc32c = checksum(call.engine, &record).await?;
    let mut response = download::send(&Download {
        engine: call.engine,
        file: &record,
        headers,
        faults: &call.faults,
        sequence: call.sequence,
        shape: &SERVICE,
    })
    .await?;
    let headers = response.headers_mut();
    if let Ok(hash) = HeaderValue::try_from(format!("crc32c={crc32c}")) {
        headers.insert("x-goog-hash", hash);
    }
    if let Ok(kind) = HeaderValue::try_from(&record.purpose) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    Ok(response)
}

pub(super) fn delete(call: &Call<'_>, bucket: &str, name: &str) -> Result<Response, ApiError> {
    let record = seen(call, bucket, name)?;
    call.engine.files.remove(&record.id)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// Objects in order of their names, `maxResults` at a time; a page's token is the last name of the one before.
pub(super) async fn list(
    call: &Call<'_>,
    bucket: &str,
    query: &Query,
) -> Result<Response, ApiError> {
    let bucket = decode(bucket);
    exists(call, &bucket)?;
    let most = match query.get("maxResults").map(str::parse::<usize>) {
        None | Some(Ok(0)) => 1000,
        Some(Ok(most)) => most.min(1000),
        Some(Err(_)) => return Err(ApiError::invalid("Invalid maxResults").with_reason("invalid")),
    };
    let root = object_id(&bucket, "");
    let prefix = query.get("prefix").unwrap_or_default();
    let delimiter = query.get("delimiter").filter(|text| !text.is_empty());
    let mut objects = Vec::new();
    let mut prefixes: Vec<String> = Vec::new();
    let mut next = None;
    for record in all(call.engine, &format!("{root}{prefix}"), call.now_ms()) {
        let name = record.id[root.len()..].to_owned();
        if query.get("pageToken").is_some_and(|after| *name <= *after) {
            continue;
        }
        if objects.len() + prefixes.len() == most {
            next = objects.last().cloned().map(|(name, _)| name);
            break;
        }
        let folder = delimiter.and_then(|delimiter| {
            let at = name[prefix.len()..].find(delimiter)?;
            Some(name[..prefix.len() + at + delimiter.len()].to_owned())
        });
        match folder {
            Some(folder) if prefixes.last() == Some(&folder) => {}
            Some(folder) => prefixes.push(folder),
            None => objects.push((name, record)),
        }
    }
    let mut items = Vec::with_capacity(objects.len());
    for (_, record) in &objects {
        items.push(object(call, record).await?);
    }
    let mut page = json!({"kind": "storage#objects"});
    if !items.is_empty() {
        page["items"] = Value::Array(items);
    }
    if !prefixes.is_empty() {
        page["prefixes"] = json!(prefixes);
    }
    if let Some(next) = next {
        page["nextPageToken"] = json!(next);
    }
    Ok(wire::json(&page))
}

// ---- uploads ----

/// Uploads under way; a state of the engine.
#[derive(Debug, Default)]
struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

#[derive(Debug)]
struct Session {
    uri: String,
    kind: String,
    /// The number its scratch file is named by.
    sequence: u64,
    only_new: bool,
    received: Mutex<u64>,
}

impl Session {
    fn received(&self) -> MutexGuard<'_, u64> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `uploadType` `media`, `multipart`, or `resumable`: begun with POST, sent with PUT.
pub(super) async fn upload(
    call: &Call<'_>,
    method: &Method,
    bucket: &str,
    query: &Query,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let bucket = decode(bucket);
    exists(call, &bucket)?;
    let kind = text(headers, "content-type").unwrap_or("application/octet-stream");
    let only_new = query.get("ifGenerationMatch") == Some("0");
    match (query.get("uploadType"), query.get("upload_id")) {
        (Some("media"), None) if *method == Method::POST => {
            let uri = object_id(&bucket, name(query, None)?);
            let scratch = Scratch(call.engine.files.scratch_path(call.sequence));
            let bytes = receive(&scratch.0, body, 0).await?;
            store(call, uri, kind, only_new, scratch, bytes).await
        }
        (Some("multipart"), None) if *method == Method::POST => {
            let body = read(body, MAX_MULTIPART).await?;
            let (meta, kind, data) = related(kind, &body).ok_or_else(|| {
                ApiError::invalid("Malformed multipart body.").with_reason("invalid")
            })?;
            let meta: Value = serde_json::from_slice(meta).unwrap_or_default();
            let uri = object_id(&bucket, name(query, meta["name"].as_str())?);
            let kind = meta["contentType"].as_str().unwrap_or(&kind).to_owned();
            let scratch = Scratch(call.engine.files.scratch_path(call.sequence));
            tokio::fs::write(&scratch.0, data).await?;
            store(call, uri, &kind, only_new, scratch, data.len() as u64).await
        }
        (Some("resumable"), None) if *method == Method::POST => {
            begin(call, &bucket, query, headers, only_new, body).await
        }
        (_, Some(session)) if *method == Method::PUT => proceed(call, session, headers, body).await,
        _ => Err(ApiError::invalid("Invalid uploadType.").with_reason("invalid")),
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn name<'n>(query: &'n Query, meta: Option<&'n str>) -> Result<&'n str, ApiError> {
    query
        .get("name")
        .or(meta)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| ApiError::invalid("Required parameter: name").with_reason("required"))
}

/// Writes a body to a file from an offset on; gives the file's length.
async fn receive(path: &Path, body: Body, from: u64) -> Result<u64, ApiError> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .await?;
    file.set_len(from).await?;
    let mut bytes = from;
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| ApiError::invalid("The request broke off."))?;
        bytes += piece.len() as u64;
        file.write_all(&piece).await?;
    }
    file.flush().await?;
    Ok(bytes)
}

/// The two parts of a `multipart/related` body: JSON, and the data with its type.
fn related<'b>(kind: &str, body: &'b [u8]) -> Option<(&'b [u8], String, &'b [u8])> {
    let boundary = kind.split_once("boundary=")?.1.trim();
    let boundary = boundary.split(';').next()?.trim_matches(['"', '\'']);
    let delimiter = format!("--{boundary}");
    let part = |from: usize| {
        let begin =
            from + memchr::memmem::find(&body[from..], delimiter.as_bytes())? + delimiter.len();
        let head = begin + memchr::memmem::find(&body[begin..], b"\r\n\r\n")?;
        let end =
            head + memchr::memmem::find(&body[head..], format!("\r\n{delimiter}").as_bytes())?;
        let content = body.get(head + 4..end)?;
        Some((
            std::str::from_utf8(&body[begin..head]).ok()?,
            content,
            end + 2,
        ))
    };
    let (_, meta, next) = part(0)?;
    let (head, data, _) = part(next)?;
    let kind = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-type")
            .then(|| value.trim().to_owned())
    });
    Some((meta, kind.unwrap_or_default(), data))
}

/// Takes over what arrived as an object.
async fn store(
    call: &Call<'_>,
    uri: String,
    kind: &str,
    only_new: bool,
    scratch: Scratch,
    bytes: u64,
) -> Result<Response, ApiError> {
    let engine = call.engine;
    let at_ms = call.now_ms();
    if only_new && engine.files.get(NAME, KEY, &uri, i64::MAX).is_some() {
        return Err(ApiError::new(
            412,
            "At least one of the pre-conditions you specified did not hold.",
        )
        .with_reason("conditionNotMet"));
    }
    let bytes = bytes.saturating_sub(lost(call));
    let mut record = record(uri, kind, bytes, call.sequence, at_ms);
    for action in &call.faults.actions {
        match action {
            FaultAction::ListLag(span) => record.listed_ms = at_ms + span.ms(),
            FaultAction::VisibleLag(span) => record.visible_ms = at_ms + span.ms(),
            _ => {}
        }
    }
    let stored = {
        let engine = Arc::clone(engine);
        block(move || {
            let file = std::fs::OpenOptions::new().write(true).open(&scratch.0)?;
            file.set_len(bytes)?;
            engine.files.insert(record, &scratch.0)
        })
        .await?
    };
    Ok(wire::json(&object(call, &stored).await?))
}

/// Bytes that the fault script wants lost at the end of what was sent.
fn lost(call: &Call<'_>) -> u64 {
    let lost = call.faults.actions.iter().map(|action| match action {
        FaultAction::StoreShort(bytes) => *bytes,
        _ => 0,
    });
    lost.sum()
}

async fn begin(
    call: &Call<'_>,
    bucket: &str,
    query: &Query,
    headers: &HeaderMap,
    only_new: bool,
    body: Body,
) -> Result<Response, ApiError> {
    let meta = match text(headers, "content-length") {
        None | Some("0") => serde_json::Map::new(),
        Some(_) => read_json(body, 1 << 20).await?,
    };
    let told = |name: &str| meta.get(name).and_then(Value::as_str);
    let name = name(query, told("name"))?;
    let kind = text(headers, "x-upload-content-type")
        .or(told("contentType"))
        .unwrap_or("application/octet-stream");
    let session = id("emulated-", call.engine.config.seed, 32, call.sequence);
    let sessions = call.engine.state::<Sessions>();
    let mut sessions = sessions.0.lock().unwrap_or_else(PoisonError::into_inner);
    sessions.insert(
        session.clone(),
        Arc::new(Session {
            uri: object_id(bucket, name),
            kind: kind.to_owned(),
            sequence: call.sequence,
            only_new,
            received: Mutex::new(0),
        }),
    );
    let location = format!(
        "http://{}/gcs/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={session}",
        call.host
    );
    let mut response = Response::new(Body::empty());
    let location = HeaderValue::try_from(location)
        .map_err(|_| ApiError::invalid("Invalid bucket name").with_reason("invalid"))?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// A `Content-Range` of an upload: first byte and total, where there are any.
struct Sent {
    from: Option<u64>,
    total: Option<u64>,
}

impl Sent {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let Some(range) = text(headers, "content-range") else {
            // A single PUT of everything.
            let total = text(headers, "content-length")?.parse().ok()?;
            return Some(Self {
                from: Some(0),
                total: Some(total),
            });
        };
        let (range, total) = range.strip_prefix("bytes ")?.split_once('/')?;
        let from = match range {
            "*" => None,
            range => Some(range.split_once('-')?.0.parse().ok()?),
        };
        let total = match total {
            "*" => None,
            total => Some(total.parse().ok()?),
        };
        Some(Self { from, total })
    }
}

async fn proceed(
    call: &Call<'_>,
    id: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let gone = || ApiError::new(404, "No such upload session.").with_reason("notFound");
    let sessions = call.engine.state::<Sessions>();
    let session = {
        let sessions = sessions.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.get(id).cloned().ok_or_else(gone)?
    };
    let bad = || ApiError::invalid("Invalid Content-Range.").with_reason("invalid");
    let sent = Sent::of(headers).ok_or_else(bad)?;
    let scratch = call.engine.files.scratch_path(session.sequence);
    let mut received = *session.received();
    if sent.from == Some(received) {
        let until = receive(&scratch, body, received).await?;
        let whole = sent.total == Some(until);
        if !whole && !(until - received).is_multiple_of(CHUNK) {
            return Err(bad());
        }
        // What the script loses of a chunk is sent again by a client that looks at the answer's range.
        received = if whole {
            until
        } else {
            (until - lost(call)) / CHUNK * CHUNK
        };
        *session.received() = received;
    }
    if sent.total != Some(received) {
        return Ok(incomplete(received));
    }
    if !scratch.exists() {
        tokio::fs::write(&scratch, b"").await?;
    }
    {
        let mut sessions = sessions.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.remove(id);
    }
    let (uri, kind) = (session.uri.clone(), session.kind.clone());
    store(
        call,
        uri,
        &kind,
        session.only_new,
        Scratch(scratch),
        received,
    )
    .await
}

fn incomplete(received: u64) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    if received > 0
        && let Ok(range) = HeaderValue::try_from(format!("bytes=0-{}", received - 1))
    {
        response.headers_mut().insert(header::RANGE, range);
    }
    response
}

/// Writes an object that the service makes itself.
pub(super) fn put(
    engine: &Engine,
    uri: String,
    kind: &str,
    lines: &[u8],
    at_ms: i64,
) -> io::Result<()> {
    let sequence = engine.sequence.next();
    let scratch = engine.files.scratch_path(sequence);
    let mut file = File::create(&scratch)?;
    file.write_all(lines)?;
    let record = record(uri, kind, lines.len() as u64, sequence, at_ms);
    engine.files.insert(record, &scratch).map(|_| ())
}
