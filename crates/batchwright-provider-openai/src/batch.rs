//! Batches: lines in, a file up, one create, polls, lists, lines out.
//!
//! What is decided here is pure and tested by table; what waits is one call of the client each.

use crate::client::Client;
use crate::config::ChatApi;
use crate::convert::{self, Expect, Unanswered, read_answer, write_body};
use crate::error::{Asked, QUEUE_FULL, account_fault, hollow, inner_error, row_error};
use crate::wire::{
    BatchError, BatchErrors, BatchMetadata, BatchObject, CreateBatch, CreateMetadata, FileObject,
    Page, RequestCounts, ResultLine, RowResponse, lenient, text,
};
use batchwright_core::{
    BatchCounts, BatchHandle, BatchSnapshot, BatchStatus, BatchSummary, ByteStream, Ending, Error,
    ErrorKind, InputFault, InputRef, Lane, ListMark, Outcome, Request, Response, Result,
    ResultFile, RetryClass, SealedBatch, SealedBody, SubmissionTag, SubmitError, Timestamp,
};
use batchwright_http::{Body, Reply, VendorError, redact};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{collections::HashSet, sync::Arc, time::Duration};

/// The endpoints a batch can be for (API reference, `batches/create`, `endpoint`).
pub(crate) const ENDPOINTS: &[&str] = &[
    convert::RESPONSES,
    convert::CHAT_COMPLETIONS,
    convert::EMBEDDINGS,
    "/v1/completions",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
];

/// The most batches of one page of the list (API reference, `batches/list`, `limit`).
pub(crate) const LIST_LIMIT: usize = 100;
/// The most pages read before a list counts as endless: 50,000 batches, or a day at the hourly limit.
const MAX_PAGES: usize = 500;
/// How many files a page asks for, and how many pages an upload is looked for on. Missing one costs an
/// upload, which is free.
pub(crate) const FILES_LIMIT: usize = 1000;
const MAX_FILE_PAGES: usize = 20;

/// How much older than the newest batch known before a create something must be to be too old: servers'
/// clocks differ among themselves.
const SLACK: Duration = Duration::from_secs(3600);

// ---- lines ----

/// The endpoint of a request's batch.
pub(crate) fn endpoint(request: &Request, api: ChatApi) -> Result<&str> {
    let endpoint = convert::endpoint(request, api)?;
    if ENDPOINTS.contains(&endpoint) {
        return Ok(endpoint);
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        "encode the request: a batch cannot be for its endpoint",
    ))
}

/// Appends a request's line without a line end; on an error `line` is as it was.
pub(crate) fn encode(
    request: &Request,
    api: ChatApi,
    wire_id: &str,
    line: &mut Vec<u8>,
) -> Result<()> {
    let endpoint = endpoint(request, api)?;
    let before = line.len();
    line.extend_from_slice(b"{\"custom_id\":");
    let written = write_text(wire_id, line).and_then(|()| {
        line.extend_from_slice(b",\"method\":\"POST\",\"url\":");
        write_text(endpoint, line)?;
        line.extend_from_slice(b",\"body\":");
        write_body(request, api, line)
    });
    match written {
        Ok(()) => line.push(b'}'),
        Err(_) => line.truncate(before),
    }
    written
}

fn write_text(text: &str, line: &mut Vec<u8>) -> Result<()> {
    serde_json::to_writer(line, text).map_err(|error| {
        Error::new(ErrorKind::Unexpected, "write a text as JSON").with_source(error)
    })
}

/// Reads a result line by the vendor's rule: good is no error, a status of 2xx and a body that is an
/// object; which file it stood in does not matter.
pub(crate) fn decode(line: &[u8], provider: &Arc<str>) -> Option<Outcome> {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    // An id is ASCII of ours, so a line that is no UTF-8 is read as far as it is.
    let (line, broken) = match str::from_utf8(line) {
        Ok(line) => (line, false),
        Err(error) => (str::from_utf8(&line[..error.valid_up_to()]).ok()?, true),
    };
    let line = ResultLine::read(line);
    let custom_id = line.custom_id.as_deref()?.to_owned();
    let (ending, model) = match line.defect {
        Some(defect) => (Ending::Unreadable(unreadable(defect)), None),
        None if broken => (
            Ending::Unreadable(unreadable("the line is not UTF-8")),
            None,
        ),
        None => row_ending(&line),
    };
    let mut outcome = Outcome::new(custom_id, name_provider(ending, provider));
    outcome.provenance.provider = Some(provider.clone());
    outcome.provenance.model = model;
    outcome.provenance.lane = Some(Lane::Batch);
    Some(outcome)
}

fn row_ending(line: &ResultLine<'_>) -> (Ending, Option<Arc<str>>) {
    if let Some(error) = line.error.and_then(inner_error) {
        // Never executed: these two words are the row's own, not a fault (F-076, F-078).
        let ending = match error.code() {
            Some("batch_expired") => Ending::Expired,
            Some("batch_cancelled" | "batch_canceled") => Ending::Cancelled,
            _ => Ending::Failed(error),
        };
        return (ending, None);
    }
    let Some(response) = lenient::<RowResponse<'_>>(line.response) else {
        return (
            Ending::Unreadable(unreadable("the line has neither an answer nor an error")),
            None,
        );
    };
    let noted = |mut error: Error| {
        if let Some(id) = &response.request_id {
            error = error.with_request_id(id.clone());
        }
        error
    };
    let status = response
        .status_code
        .and_then(|status| u16::try_from(status).ok());
    match (status, response.body) {
        (Some(status @ 200..=299), Some(body)) => match read_answer(body.get(), Expect::Any) {
            Ok(answer) => {
                let model = answer.model.as_deref().map(Arc::from);
                let answer = with_request_id(answer, response.request_id);
                (answer.into_ending(), model)
            }
            Err(Unanswered::Said(error)) => {
                (Ending::Failed(noted(error.with_status(status))), None)
            }
            Err(Unanswered::Hollow(error)) => {
                (Ending::Unreadable(noted(error.with_status(status))), None)
            }
        },
        (Some(status @ 300..=599), body) => {
            let body = body.map_or("", RawValue::get).as_bytes();
            (Ending::Failed(noted(row_error(status, body))), None)
        }
        // A hollow row: status 0 or none at all, or a good status without a body (F-104).
        _ => (
            Ending::Unreadable(noted(unreadable("the line's answer is hollow"))),
            None,
        ),
    }
}

fn with_request_id(mut answer: Response, request_id: Option<String>) -> Response {
    answer.request_id = request_id;
    answer
}

fn name_provider(ending: Ending, provider: &Arc<str>) -> Ending {
    match ending {
        Ending::Failed(error) => Ending::Failed(error.with_provider(provider.clone())),
        Ending::Unreadable(error) => Ending::Unreadable(error.with_provider(provider.clone())),
        other => other,
    }
}

fn unreadable(what: &str) -> Error {
    Error::new(ErrorKind::ProviderFault, format!("read the result: {what}"))
}

// ---- files ----

/// Uploads a chunk and compares what was stored with what was sent (F-118).
pub(crate) async fn upload(
    client: &Client,
    batch: &SealedBatch,
    tag: &SubmissionTag,
) -> Result<InputRef> {
    let form = Form::new(tag);
    let reply = client.upload(form.content_type(), form.body(batch)).await?;
    let file: FileObject = object(client, &reply)?;
    let id = file.id.filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| hollow("store the input: the answer names no file"))?;
    match file.bytes {
        Some(stored) if stored != batch.bytes => {
            // Best effort: a short file that stays behind costs nothing and is never used.
            let _ = client.delete_file(&id).await;
            Err(Error::new(
                ErrorKind::ProviderFault,
                format!("store the input: {stored} of {} bytes arrived", batch.bytes),
            )
            .with_class(RetryClass::Rejected))
        }
        _ => Ok(InputRef(id)),
    }
}

/// Looks for the file an upload of this tag left behind (F-119).
pub(crate) async fn find_upload(
    client: &Client,
    batch: &SealedBatch,
    tag: &SubmissionTag,
) -> Result<Option<InputRef>> {
    let filename = filename(tag);
    let mut after: Option<String> = None;
    for _ in 0..MAX_FILE_PAGES {
        let reply = client.list_files(after.as_deref()).await?;
        let page: Page<'_> = object(client, &reply)?;
        let mut last = None;
        for entry in &page.data {
            let Some(file) = lenient::<FileObject>(Some(entry)) else {
                continue;
            };
            let ours = file.filename.as_deref() == Some(&*filename);
            if let (true, Some(id)) = (ours && file.bytes == Some(batch.bytes), &file.id) {
                return Ok(Some(InputRef(id.clone())));
            }
            last = file.id.or(last);
        }
        let next = page.last_id.filter(|id| !id.is_empty()).or(last);
        let more = page.has_more.unwrap_or(page.data.len() >= FILES_LIMIT);
        if !more || next.is_none() || next == after {
            break;
        }
        after = next;
    }
    Ok(None)
}

/// Deletes an input; one that is gone is fine.
pub(crate) async fn discard(client: &Client, input: &InputRef) -> Result<()> {
    let reply = client.delete_file(&input.0).await?;
    if reply.status == 404 || reply.is_success() {
        return Ok(());
    }
    Err(client.refused(Asked::Object, &reply))
}

fn filename(tag: &SubmissionTag) -> String {
    // The API refuses every other extension.
    format!("{tag}.jsonl")
}

/// A multipart form around the chunk, which is streamed from disk between the two pieces.
struct Form {
    boundary: String,
    head: Bytes,
    tail: Bytes,
}

impl Form {
    fn new(tag: &SubmissionTag) -> Self {
        // A delimiter begins with CR LF, and no line of ours holds a CR: the file cannot hold one.
        let boundary = format!("batchwright-{tag}");
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
             --{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\n\
             Content-Type: application/jsonl\r\n\r\n",
            filename(tag)
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        Self {
            boundary,
            head: head.into(),
            tail: tail.into(),
        }
    }

    fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }

    fn body(self, batch: &SealedBatch) -> Body {
        match &batch.body {
            SealedBody::File(path) => Body::File {
                prefix: self.head,
                path: path.clone(),
                len: batch.bytes,
                suffix: self.tail,
            },
            SealedBody::Memory(lines) => {
                Body::Bytes([&*self.head, lines, &self.tail].concat().into())
            }
        }
    }
}

// ---- batches ----

/// Creates the batch, once.
pub(crate) async fn submit(
    client: &Client,
    provider: &str,
    batch: &SealedBatch,
    input: &InputRef,
    tag: &SubmissionTag,
) -> Result<BatchHandle, SubmitError> {
    let tag_text = tag.to_string();
    let create = CreateBatch {
        input_file_id: &input.0,
        endpoint: &batch.endpoint,
        // The only window there is.
        completion_window: "24h",
        metadata: CreateMetadata {
            batchwright_tag: &tag_text,
            batchwright_job: tag.job(),
        },
    };
    let body = serde_json::to_vec(&create).map_err(|error| {
        SubmitError::NotSent(
            Error::new(ErrorKind::Unexpected, "write the create as JSON").with_source(error),
        )
    })?;
    match client.create_batch(body).await {
        Ok(reply) => {
            let refused = || client.refused(Asked::Object, &reply);
            submitted(reply.status, &reply.body, refused)
                .map(|id| BatchHandle::new(provider, id, input.clone()))
        }
        // A refused certificate is a stop, and no connection all the same.
        Err(error)
            if error.class() == RetryClass::NotSent || error.kind() == ErrorKind::Connect =>
        {
            Err(SubmitError::NotSent(error))
        }
        Err(error) => Err(SubmitError::Unknown(error)),
    }
}

/// What a create's answer says about the batch: only a parsed refusal with one of seven statuses proves
/// that there is none.
fn submitted(
    status: u16,
    body: &[u8],
    refused: impl FnOnce() -> Error,
) -> Result<String, SubmitError> {
    if (200..300).contains(&status) {
        let batch = serde_json::from_slice::<BatchObject<'_>>(body).ok();
        let id = batch.and_then(|batch| batch.id).filter(|id| !id.is_empty());
        return id.ok_or_else(|| {
            SubmitError::Unknown(
                hollow("create the batch: the answer names no batch").with_status(status),
            )
        });
    }
    let settled = matches!(status, 400 | 401 | 402 | 403 | 404 | 413 | 422);
    if settled && VendorError::from_body(body).is_some() {
        Err(SubmitError::Refused(refused()))
    } else {
        Err(SubmitError::Unknown(refused()))
    }
}

/// The batch's state.
pub(crate) async fn status(client: &Client, handle: &BatchHandle) -> Result<BatchSnapshot> {
    let reply = client.get_batch(&handle.id).await?;
    snapshot(handle, &object(client, &reply)?)
}

/// Asks for a cancel; that it has ended already is a conflict.
pub(crate) async fn cancel(client: &Client, handle: &BatchHandle) -> Result<()> {
    let reply = client.cancel_batch(&handle.id).await?;
    if reply.is_success() {
        return Ok(());
    }
    Err(client.refused(Asked::Cancel, &reply))
}

/// A result file from `offset` on.
pub(crate) async fn download(
    client: &Client,
    file: &ResultFile,
    offset: u64,
) -> Result<ByteStream> {
    let reply = client.content(&file.id, offset).await?;
    let begins = match reply.status {
        206 => reply.headers.get("content-range").and_then(|range| {
            let range = range.to_str().ok()?.strip_prefix("bytes ")?;
            range.split_once('-')?.0.parse().ok()
        }),
        200 => Some(0),
        416 => None,
        _ if reply.is_success() => None,
        _ => return Err(client.refused(Asked::Object, &reply.into_reply().await?)),
    };
    if begins == Some(offset) {
        return Ok(reply.body);
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("download the results: the provider does not start at byte {offset}"),
    ))
}

/// The first page of the list.
pub(crate) async fn recent(client: &Client, provider: &str) -> Result<Vec<BatchSummary>> {
    let reply = client.list_batches(None).await?;
    Ok(list_page(client, provider, &reply)?.batches)
}

/// Everything newer than the mark.
pub(crate) async fn list_since(
    client: &Client,
    provider: &str,
    mark: &ListMark,
) -> Result<Vec<BatchSummary>> {
    let mut reading = Reading::new(mark);
    let mut after: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let reply = client.list_batches(after.as_deref()).await?;
        after = reading.take(list_page(client, provider, &reply)?)?;
        if after.is_none() {
            return Ok(reading.found);
        }
    }
    Err(cannot_finish("it has too many pages"))
}

struct ListPage {
    batches: Vec<BatchSummary>,
    /// Whether an entry could not be read or has no id.
    unreadable: bool,
    /// Where the next page starts, if there is one.
    next: Option<String>,
    /// Whether the server says that there is one.
    more: bool,
}

fn list_page(client: &Client, provider: &str, reply: &Reply) -> Result<ListPage> {
    let page: Page<'_> = object(client, reply)?;
    let batches = page
        .data
        .iter()
        .filter_map(|entry| summary(provider, lenient::<BatchObject<'_>>(Some(entry))?))
        .collect::<Vec<_>>();
    let last = batches.last().map(|batch| batch.handle.id.clone());
    Ok(ListPage {
        // Servers without paging say nothing of more; then a full page is what tells.
        more: page.has_more.unwrap_or(batches.len() >= LIST_LIMIT),
        next: page.last_id.filter(|id| !id.is_empty()).or(last),
        unreadable: page.data.len() > batches.len(),
        batches,
    })
}

/// A list being read back to a mark.
///
/// Newest first is seen and not promised, so reading stops early only where the entries so far show it:
/// none is newer than the one before, and one is older than anything a create after the mark can be.
struct Reading<'m> {
    mark: &'m ListMark,
    found: Vec<BatchSummary>,
    ids: HashSet<String>,
    cursors: HashSet<String>,
    floor: Option<Timestamp>,
    previous: Option<Timestamp>,
    falls: bool,
    rises: bool,
    reached: bool,
}

impl<'m> Reading<'m> {
    fn new(mark: &'m ListMark) -> Self {
        Self {
            mark,
            found: Vec::new(),
            ids: HashSet::new(),
            cursors: HashSet::new(),
            floor: mark.not_before,
            previous: None,
            falls: false,
            rises: false,
            reached: false,
        }
    }

    /// Takes a page in and says where the next one starts; `None` is the end.
    fn take(&mut self, page: ListPage) -> Result<Option<String>> {
        // It may be the one that is looked for.
        if page.unreadable {
            return Err(cannot_finish("an entry of it cannot be read"));
        }
        let known = self.ids.len();
        for batch in page.batches {
            if self.ids.insert(batch.handle.id.clone()) {
                self.weigh(batch);
            }
        }
        let newest_first = self.falls && !self.rises;
        if !page.more || (newest_first && self.reached) {
            return Ok(None);
        }
        match page.next {
            Some(next) if self.ids.len() > known && self.cursors.insert(next.clone()) => {
                Ok(Some(next))
            }
            _ => Err(cannot_finish("its pages do not go on")),
        }
    }

    fn weigh(&mut self, batch: BatchSummary) {
        match (self.previous, batch.created_at) {
            (Some(previous), Some(at)) => {
                self.falls |= at < previous;
                self.rises |= at > previous;
            }
            // Without times there is no order to see.
            (_, None) => self.rises = true,
            (None, Some(_)) => {}
        }
        self.previous = batch.created_at.or(self.previous);
        if self.mark.seen.contains(&batch.handle.id) {
            // The newest one known before the create, where the list is newest first.
            let floor = batch.created_at.map(|at| {
                let slack = i64::try_from(SLACK.as_millis()).unwrap_or(i64::MAX);
                Timestamp::from_unix_millis(at.as_unix_millis().saturating_sub(slack))
            });
            self.floor = self.floor.max(floor);
            return;
        }
        match (batch.created_at, self.floor) {
            (Some(at), Some(floor)) if at < floor => self.reached = true,
            _ => self.found.push(batch),
        }
    }
}

/// The server answered, and its list is of no use for finding a batch.
fn cannot_finish(why: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("read the list of batches: {why}"),
    )
}

// ---- objects ----

fn snapshot(handle: &BatchHandle, batch: &BatchObject<'_>) -> Result<BatchSnapshot> {
    let status = batch
        .status
        .as_deref()
        .ok_or_else(|| hollow("read the batch: the answer has no status"))?;
    let mut snapshot = BatchSnapshot::new(handle.clone(), batch_status(status));
    if let (true, Some(input)) = (handle.input.0.is_empty(), &batch.input_file_id) {
        snapshot.handle.input = InputRef(input.clone());
    }
    snapshot.counts = lenient::<RequestCounts>(batch.request_counts).and_then(|counts| {
        Some(BatchCounts::new(
            counts.total?,
            counts.completed.unwrap_or(0),
            counts.failed.unwrap_or(0),
        ))
    });
    snapshot.created_at = batch.created_at.map(timestamp);
    let ended = match snapshot.status {
        BatchStatus::Completed => batch.completed_at,
        BatchStatus::Failed => batch.failed_at,
        BatchStatus::Expired => batch.expired_at,
        BatchStatus::Cancelled => batch.cancelled_at,
        _ => None,
    };
    snapshot.ended_at = ended.map(timestamp);
    snapshot.faults = faults(batch.errors);
    // The input is still there, and another batch's end makes room (F-010).
    snapshot.queue_full = snapshot.status == BatchStatus::Failed
        && snapshot
            .faults
            .iter()
            .any(|fault| fault.code.as_deref() == Some(QUEUE_FULL));
    if snapshot.status == BatchStatus::Failed {
        snapshot.account_fault = snapshot
            .faults
            .iter()
            .find_map(|fault| account_fault(fault.code.as_deref()?));
    }
    for (id, label) in [
        (&batch.output_file_id, "output"),
        (&batch.error_file_id, "errors"),
    ] {
        // Null, missing and empty are the same (F-080).
        if let Some(id) = id.as_deref().filter(|id| !id.is_empty()) {
            snapshot.files.push(ResultFile::new(id, label));
        }
    }
    snapshot.results_pending = matches!(
        snapshot.status,
        BatchStatus::Completed | BatchStatus::Expired | BatchStatus::Cancelled
    ) && snapshot.counts.is_some_and(|counts| {
        let named = |label: &str| snapshot.files.iter().any(|file| file.label == label);
        (counts.completed > 0 && !named("output")) || (counts.failed > 0 && !named("errors"))
    });
    snapshot.usage = Some(convert::usage(batch.usage)).filter(|usage| !usage.is_unknown());
    Ok(snapshot)
}

fn summary(provider: &str, batch: BatchObject<'_>) -> Option<BatchSummary> {
    let id = batch.id.filter(|id| !id.is_empty())?;
    let input = InputRef(batch.input_file_id.unwrap_or_default());
    let tag = lenient::<BatchMetadata>(batch.metadata)
        .and_then(|metadata| metadata.batchwright_tag?.parse().ok());
    Some(BatchSummary::new(
        BatchHandle::new(provider, id, input),
        batch_status(batch.status.as_deref().unwrap_or_default()),
        tag,
        batch.created_at.map(timestamp),
    ))
}

/// A status by its word, in any case (F-085); an unknown one is not an end (F-056).
fn batch_status(word: &str) -> BatchStatus {
    match &*word.to_ascii_lowercase() {
        "validating" => BatchStatus::Validating,
        "in_progress" => BatchStatus::InProgress,
        "finalizing" => BatchStatus::Finalizing,
        "completed" => BatchStatus::Completed,
        "failed" => BatchStatus::Failed,
        "expired" => BatchStatus::Expired,
        "cancelling" | "canceling" => BatchStatus::Cancelling,
        "cancelled" | "canceled" => BatchStatus::Cancelled,
        _ => BatchStatus::Unknown(word.to_owned()),
    }
}

/// Seconds, or milliseconds from servers that count so: no batch is from the year 5138 (F-057).
fn timestamp(count: u64) -> Timestamp {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    if count < 100_000_000_000 {
        Timestamp::from_unix_seconds(count)
    } else {
        Timestamp::from_unix_millis(count)
    }
}

/// `errors` as an object with a list, a bare list, one text or nothing (F-075).
fn faults(errors: Option<&RawValue>) -> Vec<InputFault> {
    let list = lenient::<BatchErrors<'_>>(errors)
        .and_then(|errors| errors.data)
        .or_else(|| lenient::<Vec<&RawValue>>(errors))
        .or_else(|| {
            errors
                .filter(|raw| text(raw).is_some())
                .map(|raw| vec![raw])
        });
    let fault = |raw: &RawValue| match lenient::<BatchError>(Some(raw)) {
        Some(error) => InputFault::new(
            error.code,
            redact(error.message.as_deref().unwrap_or_default()),
            error.line,
            error.param,
        ),
        None => InputFault::new(None, redact(&text(raw).unwrap_or_default()), None, None),
    };
    list.into_iter().flatten().map(fault).collect()
}

/// The object a successful answer holds.
fn object<'a, T: Deserialize<'a>>(client: &Client, reply: &'a Reply) -> Result<T> {
    if !reply.is_success() {
        return Err(client.refused(Asked::Object, reply));
    }
    let odd = || {
        hollow("read the answer: it is not the object that was asked for").with_status(reply.status)
    };
    let body = str::from_utf8(&reply.body).map_err(|_| odd())?;
    if !body.trim_start().starts_with('{') {
        return Err(odd());
    }
    let within = serde_json::from_str::<crate::wire::Envelope<'_>>(body)
        .ok()
        .and_then(|envelope| envelope.error);
    if let Some(error) = within.and_then(inner_error) {
        return Err(error.with_status(reply.status));
    }
    serde_json::from_str(body).map_err(|_| odd())
}

#[cfg(test)]
mod tests;
