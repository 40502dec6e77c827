//! Batches: lines in, a file up, one create, polls, lists, lines out.
//!
//! What is decided here is pure and tested by table; what waits is one call of the client each.

use crate::client::{Client, spelled};
use crate::convert::{self, Expect, Form, read_answer, write_body};
use crate::dialect::{Dialect, Paging};
use crate::error::QUEUE_FULL;
use crate::wire::{
    BatchError, BatchErrors, BatchMetadata, BatchObject, CreateBatch, CreateMetadata, CreatedJob,
    FileObject, Page, RequestCounts, ResultLine, RowResponse,
};
use batchwright_core::{
    BatchCounts, BatchHandle, BatchSnapshot, BatchStatus, BatchSummary, ByteStream, Capability,
    Ending, Error, ErrorKind, InputFault, InputRef, ListMark, ListPage, ListWalk, Outcome, Request,
    Result, ResultFile, RetryClass, SealedBatch, StoredInput, SubmissionTag, SubmitError,
};
use batchwright_http::{
    Asked, Body, Reply, answered, hollow, redact, row_outcome, submitted, unreadable,
    wire::{lenient, line_text, push_text, text},
};
use bytes::Bytes;
use serde_json::value::RawValue;
use std::{sync::Arc, time::Duration};

/// The most batches of one page of the list (API reference, `batches/list`, `limit`).
pub(crate) const LIST_LIMIT: usize = 100;
/// How many files a page asks for, and how many pages an upload is looked for on. Missing one costs an
/// upload, which is free.
pub(crate) const FILES_LIMIT: usize = 1000;
const MAX_FILE_PAGES: usize = 20;
/// How long an input that is still looked at is left alone; it takes seconds to minutes.
const PROCESSING: Duration = Duration::from_secs(10);

// ---- lines ----

/// The endpoint of a request's batch.
pub(crate) fn endpoint<'r>(
    request: &'r Request,
    form: Form,
    capability: &Capability,
) -> Result<&'r str> {
    let endpoint = convert::endpoint(request, form.api)?;
    match &capability.batch {
        Some(limits) => limits.check_endpoint(endpoint).map(|()| endpoint),
        None => Err(Error::new(
            ErrorKind::Unsupported,
            "encode the request: the service has no batches",
        )),
    }
}

/// Appends a request's line without a line end; on an error `line` is as it was.
pub(crate) fn encode(
    request: &Request,
    form: Form,
    capability: &Capability,
    wire_id: &str,
    line: &mut Vec<u8>,
) -> Result<()> {
    let endpoint = endpoint(request, form, capability)?;
    let before = line.len();
    line.extend_from_slice(b"{\"custom_id\":");
    push_text(wire_id, line);
    line.extend_from_slice(b",\"method\":\"POST\",\"url\":");
    push_text(spelled(endpoint, form.dated), line);
    line.extend_from_slice(b",\"body\":");
    let written = write_body(request, form, line);
    match written {
        Ok(()) => line.push(b'}'),
        Err(_) => line.truncate(before),
    }
    written
}

/// Reads a result line by the vendor's rule: good is no error, a status of 2xx and a body that is an
/// object; which file it stood in does not matter.
pub(crate) fn decode(line: &[u8], provider: &Arc<str>, dialect: &Dialect) -> Option<Outcome> {
    let (line, whole) = line_text(line)?;
    let line = ResultLine::read(line);
    let custom_id = line.custom_id.as_deref()?.to_owned();
    let ended = match line.defect {
        Some(defect) => (Ending::Unreadable(unreadable(defect)), None),
        None if !whole => (
            Ending::Unreadable(unreadable("the line is not UTF-8")),
            None,
        ),
        None => row_ending(&line, dialect),
    };
    Some(row_outcome(custom_id, ended, provider))
}

fn row_ending(line: &ResultLine<'_>, dialect: &Dialect) -> (Ending, Option<Arc<str>>) {
    let errors = &dialect.errors;
    if let Some(error) = line.error.and_then(|raw| errors.within(raw.get(), &[])) {
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
        (Some(status @ 200..=299), Some(body)) => {
            let read = read_answer(body.get(), Expect::Any, dialect, &[]);
            answered(match read {
                Ok(mut answer) => {
                    answer.request_id = response.request_id.or(answer.request_id);
                    Ok(answer)
                }
                Err(unanswered) => Err(unanswered.map(|error| noted(error.with_status(status)))),
            })
        }
        (Some(status @ 300..=599), body) => {
            let body = body.map_or("", RawValue::get).as_bytes();
            (Ending::Failed(noted(errors.of_row(status, body))), None)
        }
        // A hollow row: status 0 or none at all, or a good status without a body (F-104).
        _ => (
            Ending::Unreadable(noted(unreadable("the line's answer is hollow"))),
            None,
        ),
    }
}

// ---- files ----

/// Uploads a chunk and compares what was stored with what was sent (F-118).
pub(crate) async fn upload(
    client: &Client,
    batch: &SealedBatch,
    tag: &SubmissionTag,
) -> Result<InputRef> {
    let form = Upload::new(tag, client.dialect);
    let reply = client.upload(form.content_type(), form.body(batch)).await?;
    let file: FileObject = client.object(&reply)?;
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
    let mut found = None;
    each_file(client, &mut |file| {
        let ours = file.filename.as_deref() == Some(&*filename);
        if let (true, Some(id)) = (ours && file.bytes == Some(batch.bytes), &file.id) {
            found = Some(InputRef(id.clone()));
        }
        found.is_none()
    })
    .await?;
    Ok(found)
}

/// The stored inputs of a job.
pub(crate) async fn uploads(client: &Client, job: &str) -> Result<Vec<StoredInput>> {
    let mut uploads = Vec::new();
    let is_whole = each_file(client, &mut |file| {
        let name = file.filename.as_deref().unwrap_or_default();
        let tag = name.strip_suffix(".jsonl").map(str::parse::<SubmissionTag>);
        if let (Some(Ok(tag)), Some(id)) = (tag, &file.id)
            && tag.job() == job
        {
            uploads.push(StoredInput::new(InputRef(id.clone()), tag, file.bytes));
        }
        true
    })
    .await?;
    if !is_whole {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "list the stored inputs: there are more pages than are read",
        ));
    }
    Ok(uploads)
}

/// Visits every file of the list until `visit` has enough; `false` where the list has more pages than are read.
async fn each_file(
    client: &Client,
    visit: &mut (dyn FnMut(&FileObject) -> bool + Send),
) -> Result<bool> {
    let mut after: Option<String> = None;
    for _ in 0..MAX_FILE_PAGES {
        let reply = client.list_files(after.as_deref()).await?;
        let page = read_page(client, &reply)?;
        let mut last = None;
        for entry in &page.data {
            let Some(file) = lenient::<FileObject>(Some(entry)) else {
                continue;
            };
            if !visit(&file) {
                return Ok(true);
            }
            last = file.id.or(last);
        }
        let next = page.last_id.filter(|id| !id.is_empty()).or(last);
        let more = page.has_more.unwrap_or(page.data.len() >= FILES_LIMIT);
        if !more || next.is_none() || next == after {
            return Ok(true);
        }
        after = next;
    }
    Ok(false)
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
struct Upload {
    boundary: String,
    head: Bytes,
    tail: Bytes,
}

impl Upload {
    fn new(tag: &SubmissionTag, dialect: &Dialect) -> Self {
        // A delimiter begins with CR LF, and no line of ours holds a CR: the file cannot hold one.
        let boundary = format!("batchwright-{tag}");
        let field = |name: &str, value: &str| {
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            )
        };
        let filename = filename(tag);
        let mut head = field("purpose", dialect.upload_purpose);
        if dialect.upload_names_file {
            head.push_str(&field("file_name", &filename));
        }
        head.push_str(&format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{filename}\"\r\n\
             Content-Type: application/jsonl\r\n\r\n"
        ));
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
        Body::sealed(batch, self.head, self.tail)
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
    if client.dialect.input_processed {
        check_processed(client, input).await?;
    }
    let tag_text = tag.to_string();
    let create = CreateBatch {
        input_file_id: &input.0,
        endpoint: spelled(&batch.endpoint, client.dated),
        completion_window: &client.window,
        metadata: client.dialect.metadata.then_some(CreateMetadata {
            batchwright_tag: &tag_text,
            batchwright_job: tag.job(),
        }),
    };
    let body = serde_json::to_vec(&create).map_err(|error| {
        SubmitError::NotSent(
            Error::new(ErrorKind::Unexpected, "write the create as JSON").with_source(error),
        )
    })?;
    let sent = client.create_batch(body).await;
    submitted(sent, batch_id, |reply| client.refused(Asked::Object, reply))
        .map_err(|error| match error {
            // What is unclear of a row is clear of a create that was refused in words: nothing was done.
            SubmitError::Refused(error) if error.is_ambiguous() => {
                SubmitError::Refused(error.with_class(RetryClass::Rejected))
            }
            other => other,
        })
        .map(|id| BatchHandle::new(provider, id, input.clone()))
}

fn batch_id(body: &[u8]) -> Option<String> {
    let within = serde_json::from_slice::<CreatedJob<'_>>(body).ok()?.job;
    match lenient::<BatchObject<'_>>(within) {
        Some(job) => job.id,
        None => serde_json::from_slice::<BatchObject<'_>>(body).ok()?.id,
    }
}

/// Refuses a create that the service would refuse, since it still looks at the input (F-086). The create may follow.
async fn check_processed(client: &Client, input: &InputRef) -> Result<(), SubmitError> {
    let file = async {
        let reply = client.get_file(&input.0).await?;
        client.object::<FileObject>(&reply)
    };
    let file = file.await.map_err(|error| match error.kind() {
        ErrorKind::NotFound => SubmitError::Refused(error),
        _ => SubmitError::NotSent(error),
    })?;
    let status = file.status.unwrap_or_default().to_ascii_lowercase();
    match &*status {
        "processed" | "" => Ok(()),
        "error" | "deleting" | "deleted" => Err(SubmitError::NotSent(Error::new(
            ErrorKind::InvalidRequest,
            "create the batch: the service could not read the input",
        ))),
        _ => Err(SubmitError::NotSent(
            Error::new(
                ErrorKind::Conflict,
                "create the batch: the service still looks at the input",
            )
            .with_class(RetryClass::Rejected)
            .with_retry_after(PROCESSING),
        )),
    }
}

/// The batch's state.
pub(crate) async fn status(client: &Client, handle: &BatchHandle) -> Result<BatchSnapshot> {
    let reply = client.get_batch(&handle.id).await?;
    snapshot(handle, &client.batch(&reply)?, client.dialect)
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
    reply
        .results_from(offset, |reply| client.refused(Asked::Object, reply))
        .await
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
    let mut walk = ListWalk::new(mark);
    let mut after: Option<String> = None;
    loop {
        let reply = client.list_batches(after.as_deref()).await?;
        after = walk.take(list_page(client, provider, &reply)?)?;
        if after.is_none() {
            return Ok(walk.into_found());
        }
    }
}

/// A page of a list, or a list alone where the service has no pages.
fn read_page<'r>(client: &Client, reply: &'r Reply) -> Result<Page<'r>> {
    let alone = (client.dialect.paging == Paging::Whole && reply.is_success())
        .then(|| serde_json::from_slice::<Vec<&RawValue>>(&reply.body).ok());
    match alone.flatten() {
        Some(data) => Ok(Page::of(data)),
        None => client.object(reply),
    }
}

fn list_page(client: &Client, provider: &str, reply: &Reply) -> Result<ListPage> {
    let page = read_page(client, reply)?;
    let batches = page
        .data
        .iter()
        .filter_map(|entry| {
            let batch = lenient::<BatchObject<'_>>(Some(entry))?;
            summary(provider, batch, client.dialect)
        })
        .collect::<Vec<_>>();
    let last = batches.last().map(|batch| batch.handle.id.clone());
    let unreadable = page.data.len() > batches.len();
    let (more, next) = match client.dialect.paging {
        // Servers without paging say nothing of more; then a full page is what tells.
        Paging::After => (
            page.has_more.unwrap_or(batches.len() >= LIST_LIMIT),
            page.last_id.filter(|id| !id.is_empty()).or(last),
        ),
        // A list that says it goes on and does not say where proves no batch's absence (F-116).
        Paging::Whole => (page.has_more == Some(true), None),
        Paging::Cursor => {
            let cursor = page.paging.and_then(|paging| paging.next_cursor);
            let cursor = cursor.filter(|cursor| !cursor.is_empty());
            (cursor.is_some() || page.has_more == Some(true), cursor)
        }
    };
    Ok(ListPage::new(batches)
        .with_unreadable(unreadable)
        .with_next(more, next))
}

// ---- objects ----

fn snapshot(
    handle: &BatchHandle,
    batch: &BatchObject<'_>,
    dialect: &Dialect,
) -> Result<BatchSnapshot> {
    let status = batch
        .status
        .as_deref()
        .ok_or_else(|| hollow("read the batch: the answer has no status"))?;
    let mut snapshot = BatchSnapshot::new(handle.clone(), batch_status(status, dialect));
    if let (true, Some(input)) = (handle.input.0.is_empty(), &batch.input_file_id) {
        snapshot.handle.input = InputRef(input.clone());
    }
    snapshot.counts = lenient::<RequestCounts>(batch.request_counts).and_then(counts);
    snapshot.created_at = batch.created_at;
    let ended = match snapshot.status {
        BatchStatus::Completed => batch.completed_at,
        BatchStatus::Failed => batch.failed_at,
        BatchStatus::Expired => batch.expired_at,
        BatchStatus::Cancelled => batch.cancelled_at,
        _ => None,
    };
    snapshot.ended_at = ended;
    snapshot.faults = faults(batch.errors.or(batch.error));
    // The input is still there, and another batch's end makes room (F-010).
    let full = snapshot.status == BatchStatus::Failed
        && snapshot
            .faults
            .iter()
            .any(|fault| fault.code.as_deref() == Some(QUEUE_FULL));
    if snapshot.status == BatchStatus::Failed {
        snapshot.account_fault = snapshot
            .faults
            .iter()
            .find_map(|fault| dialect.errors.account_fault(fault.code.as_deref()?));
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
    // One with results ran, and is not bought again for that.
    snapshot.queue_full = full && snapshot.files.is_empty();
    snapshot.results_pending = matches!(
        snapshot.status,
        BatchStatus::Completed | BatchStatus::Expired | BatchStatus::Cancelled
    ) && snapshot.counts.is_some_and(|counts| {
        let named = |label: &str| snapshot.files.iter().any(|file| file.label == label);
        (counts.completed > 0 && !named("output")) || (counts.failed > 0 && !named("errors"))
    });
    snapshot.usage = Some(convert::usage(batch.usage, dialect)).filter(|usage| !usage.is_unknown());
    Ok(snapshot)
}

fn counts(told: RequestCounts) -> Option<BatchCounts> {
    Some(BatchCounts::new(
        told.total?,
        told.completed.unwrap_or(0),
        told.failed.unwrap_or(0),
    ))
}

fn summary(provider: &str, batch: BatchObject<'_>, dialect: &Dialect) -> Option<BatchSummary> {
    let id = batch.id.filter(|id| !id.is_empty())?;
    let input = InputRef(batch.input_file_id.unwrap_or_default());
    let tag = lenient::<BatchMetadata>(batch.metadata)
        .and_then(|metadata| metadata.batchwright_tag?.parse().ok());
    let told = lenient::<RequestCounts>(batch.request_counts);
    let requests = told.as_ref().and_then(|counts| counts.total);
    let counts = told.and_then(counts);
    let status = batch_status(batch.status.as_deref().unwrap_or_default(), dialect);
    let handle = BatchHandle::new(provider, id, input);
    let summary = BatchSummary::new(handle, status, tag, batch.created_at);
    Some(summary.with_requests(requests).with_counts(counts))
}

/// A status by its word, in any case (F-085); an unknown one is not an end (F-056).
fn batch_status(word: &str, dialect: &Dialect) -> BatchStatus {
    let lower = word.to_ascii_lowercase();
    let own = dialect.statuses.iter().find(|(own, _)| *own == lower);
    if let Some((_, status)) = own {
        return status.clone();
    }
    match &*lower {
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

#[cfg(test)]
mod tests;
