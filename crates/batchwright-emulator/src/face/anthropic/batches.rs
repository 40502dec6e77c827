//! The Message Batches endpoints: create, get, list, cancel, delete, results.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use futures::StreamExt;
use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::error::ApiError;
use super::options::{CancelEnded, CountsMove, Times};
use super::reply::short_id;
use super::rows::{MAX_BYTES, MAX_ROWS};
use super::{Call, NAME, SERVICE, disk_error, page};
use crate::batch::{BatchCell, BatchRecord, BatchState, Scanned};
use crate::clock::rfc3339;
use crate::control::block;
use crate::face::download::{Download, Scratch, send};
use crate::face::wire::{Query, json as json_answer};

/// How long results are kept, from the creation of their batch.
pub(super) const RESULTS_LIVE_MS: i64 = 29 * 86_400_000;
/// How long a batch may take.
const WINDOW_MS: i64 = 86_400_000;
/// The beta that lets rows answer at greater length.
const LONG_OUTPUT: &str = "output-300k-2026-03-24";

/// The stored results of a batch.
pub(super) fn results_id(batch: &str) -> String {
    format!("{batch}-results")
}

pub(super) async fn create(
    call: &Call<'_>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let engine = call.engine;
    let whole = Scratch(engine.files.scratch_path(call.sequence));
    store(body, &whole.0).await?;
    if let Some(refusal) = call.options.spend_limit.refusal() {
        return Err(refusal);
    }
    let lines_sequence = engine.next_sequence().map_err(|error| disk_error(&error))?;
    let lines = Scratch(engine.files.scratch_path(lines_sequence));
    let (from, to) = (whole.0.clone(), lines.0.clone());
    let rows = block(move || split(&from, &to))
        .await
        .map_err(|error| disk_error(&error))??;
    check_queue(call, rows)?;
    let created_ms = call.now_ms();
    let id = short_id("msgbatch_01", engine.config.seed, 2, call.sequence);
    let mut quirks = call.faults.quirks();
    // There is no validation that could fail a whole batch later.
    quirks.failure = None;
    let mut record = BatchRecord::new(
        NAME,
        call.key.clone(),
        id,
        call.sequence,
        created_ms,
        created_ms + WINDOW_MS,
        quirks,
    );
    record.endpoint = "/v1/messages".to_owned();
    record.extra = json!({
        "version": call.version.name(),
        "long": asks_for(headers, LONG_OUTPUT),
    });
    let record = record.validated(Scanned {
        rows,
        // Nothing of this protocol counts by model or token.
        model: None,
        tokens: 0,
        notes: Vec::new(),
    });
    let cell = engine
        .create_batch(record, Some(&lines.0))
        .map_err(|error| disk_error(&error))?;
    Ok(answer(call, &cell.record(), headers))
}

/// Whether a beta is asked for.
fn asks_for(headers: &HeaderMap, beta: &str) -> bool {
    headers
        .get_all("anthropic-beta")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim() == beta)
}

/// Writes a body to disk, in pieces.
async fn store(body: Body, to: &Path) -> Result<(), ApiError> {
    let broken = |_| ApiError::invalid("The request body could not be read.");
    let mut file = tokio::fs::File::create(to)
        .await
        .map_err(|error| disk_error(&error))?;
    let mut pieces = body.into_data_stream();
    let mut stored: u64 = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(broken)?;
        stored += piece.len() as u64;
        if stored > MAX_BYTES {
            return Err(ApiError::too_large());
        }
        file.write_all(&piece)
            .await
            .map_err(|error| disk_error(&error))?;
    }
    file.flush().await.map_err(|error| disk_error(&error))
}

/// Refuses what would not fit into the queue.
fn check_queue(call: &Call<'_>, rows: u64) -> Result<(), ApiError> {
    let Some(limit) = call.options.queued_requests else {
        return Ok(());
    };
    let now_ms = call.now_ms();
    let queued: u64 = call
        .engine
        .batches
        .all()
        .iter()
        .map(|cell| {
            cell.with(|record| {
                let waits = !record.state.is_terminal() && record.is_there(NAME, &call.key, now_ms);
                if waits { record.total } else { 0 }
            })
        })
        .sum();
    if queued.saturating_add(rows) <= limit {
        return Ok(());
    }
    let mut error = ApiError::new(
        429,
        "rate_limit_error",
        format!(
            "This request would exceed your organization's limit of {limit} batch requests in the processing queue."
        ),
    );
    error.retry_after = Some(std::time::Duration::from_secs(60));
    Err(error)
}

/// Turns the body of a creation into lines, one per request, and says how many; an error answer where the vendor would
/// refuse it. Holds one request at a time, and a hash of each id.
fn split(from: &Path, to: &Path) -> io::Result<Result<u64, ApiError>> {
    let mut sink = Sink {
        lines: BufWriter::with_capacity(256 << 10, File::create(to)?),
        ids: HashSet::new(),
        rows: None,
        refusal: None,
        failure: None,
    };
    let body = BufReader::with_capacity(256 << 10, File::open(from)?);
    let mut body = serde_json::Deserializer::from_reader(body);
    let read = Whole(&mut sink)
        .deserialize(&mut body)
        .and_then(|()| body.end());
    if let Some(failure) = sink.failure {
        return Err(failure);
    }
    if let Some(refusal) = sink.refusal {
        return Ok(Err(refusal));
    }
    if let Err(error) = read {
        return match error.classify() {
            serde_json::error::Category::Io => Err(error.into()),
            _ => Ok(Err(ApiError::not_json(&error))),
        };
    }
    sink.lines.flush()?;
    Ok(match sink.rows {
        None => Err(ApiError::missing("requests")),
        Some(0) => Err(ApiError::invalid(
            "requests: List should have at least 1 item after validation, not 0",
        )),
        Some(rows) if rows > MAX_ROWS => Err(ApiError::invalid(format!(
            "requests: List should have at most {MAX_ROWS} items after validation, not {rows}"
        ))),
        Some(rows) => Ok(rows),
    })
}

struct Sink {
    lines: BufWriter<File>,
    ids: HashSet<u64>,
    rows: Option<u64>,
    refusal: Option<ApiError>,
    failure: Option<io::Error>,
}

/// One request of a creation.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(default)]
    custom_id: Option<Value>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

impl Sink {
    fn take(&mut self, index: u64, request: &str) -> Result<(), ApiError> {
        let place = format!("requests.{index}");
        let invalid = |rest: &str| Err(ApiError::invalid(format!("{place}{rest}")));
        let Ok(Entry { custom_id, params }) = serde_json::from_str::<Entry<'_>>(request) else {
            return invalid(": Input should be a valid dictionary");
        };
        let id = match &custom_id {
            None | Some(Value::Null) => {
                return Err(ApiError::missing(&format!("{place}.custom_id")));
            }
            Some(Value::String(id)) => id,
            Some(_) => return invalid(".custom_id: Input should be a valid string"),
        };
        if id.is_empty() {
            return invalid(".custom_id: String should have at least 1 character");
        }
        if id.chars().count() > 64 {
            return invalid(".custom_id: String should have at most 64 characters");
        }
        let fits = id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if !fits {
            return invalid(".custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'");
        }
        let Some(params) = params.filter(|params| params.get().starts_with('{')) else {
            return Err(ApiError::missing(&format!("{place}.params")));
        };
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        if !self.ids.insert(hasher.finish()) {
            return Err(ApiError::invalid(format!(
                "requests: custom_id's must be unique within a batch. Duplicate custom_id found: {id}"
            )));
        }
        // Between tokens a line end means nothing; inside a text there can be none.
        let params: String = params
            .get()
            .chars()
            .map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c })
            .collect();
        let line = format!("{{\"custom_id\":\"{id}\",\"params\":{params}}}\n");
        if let Err(error) = self.lines.write_all(line.as_bytes()) {
            self.failure = Some(error);
            return Err(ApiError::internal());
        }
        Ok(())
    }
}

/// The body of a creation.
struct Whole<'a>(&'a mut Sink);

impl<'de> DeserializeSeed<'de> for Whole<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "requests" {
                map.next_value_seed(Requests(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
                self.0.refusal = Some(ApiError::extra(&key));
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

/// The list of requests.
struct Requests<'a>(&'a mut Sink);

impl<'de> DeserializeSeed<'de> for Requests<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Requests<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut rows = 0;
        while let Some(request) = list.next_element::<Box<RawValue>>()? {
            if let Err(refusal) = self.0.take(rows, request.get()) {
                self.0.refusal = Some(refusal);
                return Err(A::Error::custom("refused"));
            }
            rows += 1;
        }
        self.0.rows = Some(rows);
        Ok(())
    }
}

pub(super) fn get(call: &Call<'_>, id: &str, headers: &HeaderMap) -> Result<Response, ApiError> {
    let record = find(call, id)?.record();
    let ended = record.state.is_terminal();
    let mut response = answer(call, &record, headers);
    if !ended {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
    }
    Ok(response)
}

pub(super) fn list(
    call: &Call<'_>,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let now_ms = call.now_ms();
    let mut objects: Vec<Value> = call
        .engine
        .batches
        .all()
        .iter()
        .map(|cell| cell.record())
        .filter(|record| record.is_there(NAME, &call.key, now_ms) && record.is_listed(now_ms))
        .map(|record| object(call, &record, headers))
        .collect();
    if call.engine.config.newest_first {
        objects.reverse();
    }
    page(objects, query)
}

pub(super) fn cancel(call: &Call<'_>, id: &str, headers: &HeaderMap) -> Result<Response, ApiError> {
    let cell = find(call, id)?;
    let running = cell
        .cancel(call.now_ms())
        .map_err(|error| disk_error(&error))?;
    if !running && call.options.cancel_ended == CancelEnded::Refused {
        return Err(ApiError::invalid(format!(
            "Message Batch {id} has already ended."
        )));
    }
    Ok(answer(call, &cell.record(), headers))
}

pub(super) fn delete(call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
    let cell = find(call, id)?;
    if !cell.with(|record| record.state.is_terminal()) {
        return Err(ApiError::invalid(
            "In progress batches cannot be deleted. Consider canceling the batch instead.",
        ));
    }
    cell.delete(call.now_ms())
        .and_then(|()| call.engine.files.remove(&results_id(id)))
        .map_err(|error| disk_error(&error))?;
    Ok(json_answer(
        &json!({"id": id, "type": "message_batch_deleted"}),
    ))
}

pub(super) async fn results(call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
    let cell = find(call, id)?;
    let now_ms = call.now_ms();
    let record = cell.record();
    let file = call
        .engine
        .files
        .get(NAME, &call.key, &results_id(id), now_ms)
        .filter(|_| has_results(&record, now_ms));
    let Some(file) = file else {
        return Err(ApiError::not_found(format!(
            "Message Batch {id} has no available results."
        )));
    };
    // No range is documented, so none is looked at.
    let download = Download {
        engine: call.engine,
        file: &file,
        headers: &HeaderMap::new(),
        faults: &call.faults,
        sequence: call.sequence,
        shape: &SERVICE,
    };
    let mut response = send(&download).await.map_err(|error| disk_error(&error))?;
    let headers = response.headers_mut();
    headers.remove(header::ACCEPT_RANGES);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-jsonl"),
    );
    Ok(response)
}

fn find(call: &Call<'_>, id: &str) -> Result<Arc<BatchCell>, ApiError> {
    let now_ms = call.now_ms();
    call.engine
        .batches
        .get(id)
        .filter(|cell| cell.with(|record| record.is_there(NAME, &call.key, now_ms)))
        .ok_or_else(|| ApiError::no_batch(id))
}

fn has_results(record: &BatchRecord, now_ms: i64) -> bool {
    record.state.is_terminal()
        && record.shows_files(now_ms)
        && now_ms < record.created_ms + RESULTS_LIVE_MS
}

fn answer(call: &Call<'_>, record: &BatchRecord, headers: &HeaderMap) -> Response {
    json_answer(&object(call, record, headers))
}

/// A batch as the vendor shows it.
fn object(call: &Call<'_>, record: &BatchRecord, headers: &HeaderMap) -> Value {
    let now_ms = call.now_ms();
    let status = match record.shown_state() {
        state if state.is_terminal() => "ended",
        BatchState::Cancelling => "canceling",
        _ => record.invented_state(now_ms).unwrap_or("in_progress"),
    };
    let ended_ms = [record.completed_ms, record.expired_ms, record.cancelled_ms]
        .into_iter()
        .flatten()
        .next();
    let archived_ms = record.created_ms + RESULTS_LIVE_MS;
    let results_url = has_results(record, now_ms).then(|| match &call.options.results_url {
        Some(url) => url.clone(),
        None => format!(
            "{}/v1/messages/batches/{}/results",
            call.origin(headers),
            record.id
        ),
    });
    let time = |ms: i64| written(call.options.times, ms);
    json!({
        "id": record.id,
        "type": "message_batch",
        "processing_status": status,
        "request_counts": counts(call.options.counts, record),
        "created_at": time(record.created_ms),
        "expires_at": time(record.expires_ms),
        "ended_at": ended_ms.map(time),
        "cancel_initiated_at": record.cancelling_ms.map(time),
        "archived_at": (archived_ms <= now_ms).then(|| time(archived_ms)),
        "results_url": results_url,
    })
}

fn counts(moves: CountsMove, record: &BatchRecord) -> Value {
    let ended = record.state.is_terminal();
    let shown = record.shown_counts();
    let (mut succeeded, mut errored) = (shown.completed, shown.failed);
    if !ended && moves == CountsMove::AtEnd {
        (succeeded, errored) = (0, 0);
    }
    let total = match record.state {
        BatchState::Validating => record.total,
        _ => shown.total,
    };
    let rest = total.saturating_sub(succeeded + errored);
    let [mut processing, mut canceled, mut expired] = [0; 3];
    match record.state {
        BatchState::Cancelled => canceled = rest,
        BatchState::Expired => expired = rest,
        _ => processing = rest,
    }
    json!({
        "processing": processing,
        "succeeded": succeeded,
        "errored": errored,
        "canceled": canceled,
        "expired": expired,
    })
}

/// An instant as this face writes it.
fn written(times: Times, ms: i64) -> String {
    match times {
        Times::Zulu => rfc3339(ms.div_euclid(1000).saturating_mul(1000)),
        Times::Offset => {
            let whole = rfc3339(ms.div_euclid(1000).saturating_mul(1000));
            let micros = ms.rem_euclid(1000) * 1000;
            format!("{}.{micros:06}+00:00", whole.trim_end_matches('Z'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_in_two_ways() {
        assert_eq!(
            written(Times::Offset, 1_795_338_000_123),
            "2026-11-22T09:00:00.123000+00:00"
        );
        assert_eq!(
            written(Times::Zulu, 1_795_338_000_123),
            "2026-11-22T09:00:00Z"
        );
    }
}
