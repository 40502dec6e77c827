//! Batches: lines in, a file up or a create that carries them, polls, lists, lines out.
//!
//! What is decided here is pure and tested by table; what waits is one call of the client each.

mod inlined;

use self::inlined::{elements, without_elements};
use crate::client::Client;
use crate::config::MOST_INLINE;
use crate::convert::{self, EMBED, Expect, GENERATE, Purpose, read_answer, write_body};
use crate::error::{DENIED, MISSING, QUEUE_FULL, of_row};
use crate::wire::{
    BatchMetadata, BatchOutput, BatchStats, CreateBatch, FileObject, FilePage, InlinedResponses,
    InputConfig, InputConfigOut, NewBatch, NewFile, Operation, OperationPage, ResultLine,
    RpcStatus, StartUpload, Uploaded,
};
use batchwright_core::{
    BatchCounts, BatchHandle, BatchSnapshot, BatchStatus, BatchSummary, ByteStream, Ending, Error,
    ErrorKind, InputFault, InputRef, ListMark, ListPage, ListWalk, Outcome, Request, Result,
    ResultFile, RetryClass, SealedBatch, SealedBody, StoredInput, SubmissionTag, SubmitError,
};
use batchwright_http::{
    Asked, Body, Reply, StreamReply, answered, hollow, redact, row_outcome, submitted, unreadable,
    wire::{lenient, line_text, push_text},
};
use bytes::Bytes;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::Arc;

/// How many batches and files a page asks for (API reference, `files.list`, `pageSize`, at most 100; none is named for
/// batches).
const LIST_LIMIT: usize = 100;
/// How many pages an upload is looked for on. Missing one costs an upload, which is free.
const MAX_FILE_PAGES: usize = 100;

/// What inline results are named by, where other results have a file's name.
const BATCHES: &str = "batches/";

/// Who buys, and how.
#[derive(Clone, Copy)]
pub(crate) struct Account<'a> {
    pub(crate) client: &'a Client,
    pub(crate) provider: &'a Arc<str>,
    /// The most bytes of a chunk that goes inline.
    pub(crate) inline_up_to: u64,
}

impl Account<'_> {
    fn goes_inline(&self, batch: &SealedBatch) -> bool {
        batch.bytes <= self.inline_up_to
    }
}

// ---- lines ----

/// The method a request's batch is for.
pub(crate) fn endpoint(request: &Request) -> Result<&str> {
    let endpoint = convert::endpoint(request, Purpose::Line)?;
    if [GENERATE, EMBED].contains(&endpoint) {
        return Ok(endpoint);
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("no batch can be for the method {endpoint:?}, only for {GENERATE} and {EMBED}"),
    ))
}

/// Appends a request's line without a line end; on an error `line` is as it was.
pub(crate) fn encode(request: &Request, wire_id: &str, line: &mut Vec<u8>) -> Result<()> {
    let before = line.len();
    line.extend_from_slice(LINE_HEAD);
    push_text(wire_id, line);
    line.extend_from_slice(b",\"request\":");
    let written = write_body(request, Purpose::Line, line);
    match written {
        Ok(()) => line.push(b'}'),
        Err(_) => line.truncate(before),
    }
    written
}

/// What a line begins with, before its key.
const LINE_HEAD: &[u8] = b"{\"key\":";

/// A line as an inline request: its key goes into the metadata, which comes back with the answer.
fn push_inlined(line: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let rest = line.strip_prefix(LINE_HEAD)?;
    let mut key = serde_json::Deserializer::from_slice(rest).into_iter::<&RawValue>();
    let text = key.next()?.ok()?.get();
    let behind = &rest[key.byte_offset()..];
    out.extend_from_slice(b"{\"metadata\":{\"key\":");
    out.extend_from_slice(text.as_bytes());
    out.push(b'}');
    out.extend_from_slice(behind);
    Some(())
}

/// Reads a result line, of a file or inline.
pub(crate) fn decode(line: &[u8], provider: &Arc<str>) -> Option<Outcome> {
    let (line, whole) = line_text(line)?;
    let (line, readable) = ResultLine::read(line);
    let key = line.key()?;
    let ended = if readable && whole {
        row_ending(&line)
    } else {
        let error = unreadable("the line is not whole JSON");
        (Ending::Unreadable(error), None)
    };
    Some(row_outcome(key, ended, provider))
}

fn row_ending(line: &ResultLine<'_>) -> (Ending, Option<Arc<str>>) {
    if let Some(error) = line.error.and_then(|raw| of_row(raw.get())) {
        let ending = match error.code() {
            // Never executed: the row's own word, not a fault (F-078).
            Some("CANCELLED") => Ending::Cancelled,
            _ => Ending::Failed(error),
        };
        return (ending, None);
    }
    let Some(response) = line.response else {
        let error = unreadable("the line has neither an answer nor an error");
        return (Ending::Unreadable(error), None);
    };
    answered(read_answer(response.get(), Expect::Any, &[]))
}

// ---- files ----

/// Uploads a chunk and compares what was stored with what was sent (F-118). A chunk that goes inline has no file.
pub(crate) async fn upload(
    account: Account<'_>,
    batch: &SealedBatch,
    tag: &SubmissionTag,
) -> Result<InputRef> {
    if account.goes_inline(batch) {
        return Ok(InputRef::default());
    }
    let client = account.client;
    let name = tag.to_string();
    let start = json(&StartUpload {
        file: NewFile {
            display_name: &name,
        },
    })?;
    let started = client.start_upload(start, batch.bytes).await?;
    if !started.is_success() {
        return Err(client.refused(Asked::Object, &started));
    }
    let url = started.header("x-goog-upload-url").ok_or_else(|| {
        hollow("store the input: the answer names no address for it").with_status(started.status)
    })?;
    let body = Body::sealed(batch, Bytes::new(), Bytes::new());
    let reply = client.finish_upload(url, body).await?;
    let file: Option<FileObject> = client.object::<Uploaded>(&reply)?.file;
    let named = file.as_ref().and_then(|file| file.name.clone());
    let name = named
        .filter(|name| !name.is_empty())
        .ok_or_else(|| hollow("store the input: the answer names no file"))?;
    let stored = file.as_ref().and_then(|file| file.size_bytes);
    let failed = file.is_some_and(|file| file.state.as_deref() == Some("FAILED"));
    match stored {
        // ProtoJSON leaves a zero out, and no chunk is empty.
        Some(stored) if stored == batch.bytes && !failed => Ok(InputRef(name)),
        stored => {
            // Best effort: a short file that stays behind costs nothing and is never used.
            let _ = client.delete_file(&name).await;
            let stored = stored.unwrap_or(0);
            Err(Error::new(
                ErrorKind::ProviderFault,
                format!("store the input: {stored} of {} bytes arrived", batch.bytes),
            )
            .with_class(RetryClass::Rejected))
        }
    }
}

/// Looks for the file an upload of this tag left behind (F-119).
pub(crate) async fn find_upload(
    account: Account<'_>,
    batch: &SealedBatch,
    tag: &SubmissionTag,
) -> Result<Option<InputRef>> {
    if account.goes_inline(batch) {
        return Ok(None);
    }
    let name = tag.to_string();
    let mut found = None;
    each_file(account.client, &mut |file| {
        let ours = file.display_name.as_deref() == Some(&*name)
            && file.size_bytes == Some(batch.bytes)
            && file.state.as_deref() != Some("FAILED");
        if ours && let Some(name) = file.name {
            found = Some(InputRef(name));
        }
        found.is_none()
    })
    .await?;
    Ok(found)
}

/// The stored inputs of a job. Chunks that went inline have none.
pub(crate) async fn uploads(client: &Client, job: &str) -> Result<Vec<StoredInput>> {
    let mut uploads = Vec::new();
    let is_whole = each_file(client, &mut |file| {
        let tag = file
            .display_name
            .as_deref()
            .map(str::parse::<SubmissionTag>);
        if let (Some(Ok(tag)), Some(name)) = (tag, file.name)
            && tag.job() == job
        {
            uploads.push(StoredInput::new(InputRef(name), tag, file.size_bytes));
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
    visit: &mut (dyn FnMut(FileObject) -> bool + Send),
) -> Result<bool> {
    let mut token: Option<String> = None;
    for _ in 0..MAX_FILE_PAGES {
        let reply = client.list_files(LIST_LIMIT, token.as_deref()).await?;
        let page: FilePage<'_> = client.object(&reply)?;
        for entry in page.files {
            let Some(file) = lenient::<FileObject>(Some(entry)) else {
                continue;
            };
            if !visit(file) {
                return Ok(true);
            }
        }
        let next = page.next_page_token.filter(|next| !next.is_empty());
        if next.is_none() || next == token {
            return Ok(true);
        }
        token = next;
    }
    Ok(false)
}

/// Deletes an input; one that is gone is fine, which is a 403 here.
pub(crate) async fn discard(client: &Client, input: &InputRef) -> Result<()> {
    if input.0.is_empty() {
        return Ok(());
    }
    let reply = client.delete_file(&input.0).await?;
    if reply.is_success() {
        return Ok(());
    }
    let error = client.refused(Asked::Object, &reply);
    if is_gone(&error) { Ok(()) } else { Err(error) }
}

/// Whether an error is what an unknown or deleted file gets.
fn is_gone(error: &Error) -> bool {
    matches!(error.code(), Some(DENIED | MISSING)) && matches!(error.status(), Some(403 | 404))
}

// ---- batches ----

/// Creates the batch, once.
pub(crate) async fn submit(
    account: Account<'_>,
    batch: &SealedBatch,
    input: &InputRef,
    tag: &SubmissionTag,
) -> Result<BatchHandle, SubmitError> {
    let client = account.client;
    let method = if batch.endpoint == EMBED {
        "asyncBatchEmbedContent"
    } else {
        "batchGenerateContent"
    };
    let body = create_body(batch, input, tag)
        .await
        .map_err(SubmitError::NotSent)?;
    let sent = client.create_batch(&batch.model, method, body).await;
    let created = submitted(sent, batch_name, |reply| {
        // An unknown model serves nobody, as in a direct call.
        client.refused(Asked::Inference, reply)
    });
    match created {
        Ok(name) => Ok(BatchHandle::new(&**account.provider, name, input.clone())),
        Err(SubmitError::Refused(error)) if !input.0.is_empty() && is_gone(&error) => {
            // Model, right or file: a free look at the file tells which (F-132).
            let looked = client.get_file(&input.0).await;
            let gone = looked.is_ok_and(|reply| {
                !reply.is_success() && is_gone(&client.refused(Asked::Object, &reply))
            });
            Err(SubmitError::Refused(if gone {
                input_gone(&error)
            } else {
                error
            }))
        }
        Err(other) => Err(other),
    }
}

/// The input is not there any more: it can be uploaded again.
fn input_gone(error: &Error) -> Error {
    let gone = Error::new(
        ErrorKind::NotFound,
        format!("create the batch: its input is gone: {}", error.message()),
    );
    match error.status() {
        Some(status) => gone.with_status(status),
        None => gone,
    }
}

/// A create that names its file, or carries its lines.
async fn create_body(batch: &SealedBatch, input: &InputRef, tag: &SubmissionTag) -> Result<Body> {
    let name = tag.to_string();
    if !input.0.is_empty() {
        return Ok(Body::Bytes(
            json(&CreateBatch {
                batch: NewBatch {
                    display_name: &name,
                    input_config: InputConfigOut {
                        file_name: &input.0,
                    },
                },
            })?
            .into(),
        ));
    }
    if batch.bytes > MOST_INLINE {
        return Err(Error::new(
            ErrorKind::InvalidRequest,
            "create the batch: it is too large to go inline, and has no file",
        ));
    }
    let lines = match &batch.body {
        SealedBody::Memory(lines) => Cow::Borrowed(&**lines),
        SealedBody::File(path) => Cow::Owned(tokio::fs::read(path).await.map_err(|error| {
            Error::new(ErrorKind::Storage, "create the batch: read its lines").with_source(error)
        })?),
    };
    if lines.len() as u64 != batch.bytes {
        return Err(Error::new(
            ErrorKind::Storage,
            format!(
                "create the batch: its lines are {} bytes instead of {}",
                lines.len(),
                batch.bytes
            ),
        ));
    }
    // The tag is made of letters, digits and dashes.
    let head = format!(
        "{{\"batch\":{{\"displayName\":\"{name}\",\"inputConfig\":{{\"requests\":{{\"requests\":["
    );
    let room = usize::try_from(batch.requests)
        .unwrap_or(0)
        .saturating_mul(16);
    let mut body = Vec::with_capacity(head.len() + lines.len() + room);
    body.extend_from_slice(head.as_bytes());
    let lines = lines.split(|byte| *byte == b'\n');
    for (at, line) in lines.filter(|line| !line.is_empty()).enumerate() {
        if at > 0 {
            body.push(b',');
        }
        push_inlined(line, &mut body).ok_or_else(|| {
            Error::new(
                ErrorKind::Storage,
                "create the batch: a line of it is none of ours",
            )
        })?;
    }
    body.extend_from_slice(b"]}}}}");
    Ok(Body::Bytes(body.into()))
}

fn batch_name(body: &[u8]) -> Option<String> {
    let operation: Operation<'_> = serde_json::from_slice(body).ok()?;
    operation.name.filter(|name| name.starts_with(BATCHES))
}

/// The batch's state.
pub(crate) async fn status(client: &Client, handle: &BatchHandle) -> Result<BatchSnapshot> {
    let first = client.stream_batch("read the batch", &handle.id).await;
    let reply = described(first, client.get_batch(&handle.id)).await?;
    snapshot(handle, &client.batch(&reply)?)
}

/// Asks for a cancel; that it has ended already is a conflict.
pub(crate) async fn cancel(client: &Client, handle: &BatchHandle) -> Result<()> {
    let reply = client.cancel_batch(&handle.id).await?;
    if reply.is_success() {
        return Ok(());
    }
    Err(client.refused(Asked::Cancel, &reply))
}

/// A result file from `offset` on, or the inline results from their beginning.
pub(crate) async fn download(
    client: &Client,
    file: &ResultFile,
    offset: u64,
) -> Result<ByteStream> {
    let inline = file.id.starts_with(BATCHES);
    if inline && offset > 0 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "download the results: inline ones come whole",
        ));
    }
    let reply = if inline {
        client
            .stream_batch("download the results", &file.id)
            .await?
    } else {
        client.content(&file.id, offset).await?
    };
    let body = reply
        .results_from(offset, |reply| client.refused(Asked::Object, reply))
        .await?;
    Ok(if inline { elements(body) } else { body })
}

/// The first page of the list.
pub(crate) async fn recent(account: Account<'_>) -> Result<Vec<BatchSummary>> {
    Ok(list_page(account, None).await?.batches)
}

/// Everything newer than the mark.
pub(crate) async fn list_since(account: Account<'_>, mark: &ListMark) -> Result<Vec<BatchSummary>> {
    let mut walk = ListWalk::new(mark);
    let mut token: Option<String> = None;
    loop {
        token = walk.take(list_page(account, token.as_deref()).await?)?;
        if token.is_none() {
            return Ok(walk.into_found());
        }
    }
}

async fn list_page(account: Account<'_>, token: Option<&str>) -> Result<ListPage> {
    let client = account.client;
    let first = client.stream_batches(LIST_LIMIT, token).await;
    let reply = described(first, client.list_batches(LIST_LIMIT, token)).await?;
    let page: OperationPage<'_> = client.object(&reply)?;
    let batches = page
        .operations
        .iter()
        .filter_map(|entry| summary(account.provider, &lenient(Some(entry))?))
        .collect::<Vec<_>>();
    let unreadable = page.operations.len() > batches.len();
    let next = page.next_page_token.filter(|next| !next.is_empty());
    Ok(ListPage::new(batches)
        .with_unreadable(unreadable)
        .with_next(next.is_some(), next))
}

/// A look at operations without their inline results, which may be longer than what a poll may hold. Where the look
/// fails in a way that may pass, it is done again as every read is.
async fn described(
    first: Result<StreamReply>,
    again: impl Future<Output = Result<Reply>>,
) -> Result<Reply> {
    match first {
        Ok(reply) if reply.is_success() => {
            let (status, headers) = (reply.status, reply.headers);
            match without_elements(reply.body).await {
                Ok(body) => Ok(Reply::new(status, headers, body)),
                Err(_) => again.await,
            }
        }
        Ok(reply)
            if (400..500).contains(&reply.status) && !matches!(reply.status, 408 | 425 | 429) =>
        {
            reply.into_reply().await
        }
        _ => again.await,
    }
}

// ---- objects ----

fn snapshot(handle: &BatchHandle, operation: &Operation<'_>) -> Result<BatchSnapshot> {
    let metadata: BatchMetadata<'_> = lenient(operation.metadata)
        .ok_or_else(|| hollow("read the batch: the answer has no metadata"))?;
    let status = status_of(operation, &metadata)
        .ok_or_else(|| hollow("read the batch: the answer has no state"))?;
    let mut snapshot = BatchSnapshot::new(handle.clone(), status);
    if let (true, Some(input)) = (handle.input.0.is_empty(), input_of(&metadata)) {
        snapshot.handle.input = input;
    }
    snapshot.counts = lenient::<BatchStats>(metadata.batch_stats).and_then(counts);
    snapshot.created_at = metadata.create_time;
    if snapshot.status.is_terminal() {
        snapshot.ended_at = metadata.end_time;
    }
    snapshot.files = result_files(handle, operation, &metadata)
        .into_iter()
        .collect();
    if let (BatchStatus::Failed, Some(error)) =
        (&snapshot.status, lenient::<RpcStatus>(operation.error))
    {
        // The queue was full, or the account is at fault: no row is, and another batch may do (F-010, F-027). A batch
        // with results ran, and is not bought again for that.
        let stop = operation
            .error
            .and_then(|raw| of_row(raw.get()))
            .filter(Error::is_job_stop);
        snapshot.queue_full =
            error.code == Some(QUEUE_FULL) && stop.is_none() && snapshot.files.is_empty();
        snapshot.account_fault = stop.map(|error| error.kind());
        snapshot.faults.push(InputFault::new(
            error.code.map(|code| code.to_string()),
            redact(error.message.as_deref().unwrap_or_default()),
            None,
            None,
        ));
    }
    Ok(snapshot)
}

/// Where results are: in a file or inline, in the metadata or at the top (F-091).
fn result_files(
    handle: &BatchHandle,
    operation: &Operation<'_>,
    metadata: &BatchMetadata<'_>,
) -> Option<ResultFile> {
    let outputs = [metadata.output, operation.response].map(|raw| {
        let output: BatchOutput<'_> = lenient(raw).unwrap_or_default();
        output
    });
    let file = outputs
        .iter()
        .find_map(|output| output.responses_file.as_deref())
        .filter(|name| !name.is_empty());
    if let Some(name) = file {
        return Some(ResultFile::new(name, "output"));
    }
    let inline = outputs
        .iter()
        .flat_map(|output| {
            [
                output.inlined_responses,
                output.inlined_embed_content_responses,
            ]
        })
        .filter_map(lenient::<InlinedResponses>)
        .any(|list| !list.inlined_responses.is_empty());
    inline.then(|| ResultFile::new(&handle.id, "output"))
}

fn input_of(metadata: &BatchMetadata<'_>) -> Option<InputRef> {
    let input: InputConfig = lenient(metadata.input_config)?;
    input.file_name.map(InputRef)
}

fn status_of(operation: &Operation<'_>, metadata: &BatchMetadata<'_>) -> Option<BatchStatus> {
    match metadata.state.as_deref().filter(|state| !state.is_empty()) {
        Some(state) => Some(batch_status(state)),
        // A default is left out; that it has ended is told by the operation alone then.
        None if operation.done == Some(true) => Some(match operation.error {
            Some(_) => BatchStatus::Failed,
            None => BatchStatus::Completed,
        }),
        None => None,
    }
}

fn summary(provider: &Arc<str>, operation: &Operation<'_>) -> Option<BatchSummary> {
    let name = operation.name.clone().filter(|name| !name.is_empty())?;
    let metadata: BatchMetadata<'_> = lenient(operation.metadata)?;
    let handle = BatchHandle::new(&**provider, name, input_of(&metadata).unwrap_or_default());
    let status = status_of(operation, &metadata).unwrap_or(BatchStatus::Unknown(String::new()));
    let tag = metadata.display_name.as_deref();
    let tag = tag.and_then(|tag| tag.parse().ok());
    let stats: Option<BatchStats> = lenient(metadata.batch_stats);
    let requests = stats.as_ref().and_then(|stats| stats.request_count);
    let counts = stats.and_then(counts);
    let summary = BatchSummary::new(handle, status, tag, metadata.create_time);
    Some(summary.with_requests(requests).with_counts(counts))
}

fn counts(stats: BatchStats) -> Option<BatchCounts> {
    // Zeros are left out, but a batch without requests there is none.
    Some(BatchCounts::new(
        stats.request_count?,
        stats.successful_request_count.unwrap_or(0),
        stats.failed_request_count.unwrap_or(0),
    ))
}

/// A state by its word, under either prefix and in any case (F-085); an unknown one is not an end (F-056).
fn batch_status(word: &str) -> BatchStatus {
    let upper = word.to_ascii_uppercase();
    let state = ["BATCH_STATE_", "JOB_STATE_"]
        .into_iter()
        .find_map(|prefix| upper.strip_prefix(prefix))
        .unwrap_or(&upper);
    match state {
        "PENDING" | "QUEUED" | "RUNNING" | "PAUSED" | "UPDATING" => BatchStatus::InProgress,
        // What exists is collected, and the rest is accounted for.
        "SUCCEEDED" | "PARTIALLY_SUCCEEDED" => BatchStatus::Completed,
        "FAILED" => BatchStatus::Failed,
        "CANCELLING" => BatchStatus::Cancelling,
        "CANCELLED" => BatchStatus::Cancelled,
        "EXPIRED" => BatchStatus::Expired,
        _ => BatchStatus::Unknown(word.to_owned()),
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| {
        Error::new(ErrorKind::Unexpected, "write the call as JSON").with_source(error)
    })
}

#[cfg(test)]
mod tests;
