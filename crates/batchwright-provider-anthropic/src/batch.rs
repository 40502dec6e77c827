//! Batches: lines in, one create that carries them, polls, lists, lines out.
//!
//! What is decided here is pure and tested by table; what waits is one call of the client each.

use crate::client::Client;
use crate::convert::{Form, Purpose, read_answer, write_body};
use crate::error;
use crate::wire::{BatchObject, Page, RequestCounts, ResultLine, RowEnvelope, RowResult};
use batchwright_core::{
    BatchCounts, BatchHandle, BatchSnapshot, BatchStatus, BatchSummary, ByteStream, Ending, Error,
    ErrorKind, InputRef, ListMark, ListPage, ListWalk, Outcome, Request, Result, ResultFile,
    RetryClass, SealedBatch, SubmitError,
};
use batchwright_http::{
    Asked, Secret, answered, hollow, row_outcome, submitted, unreadable,
    wire::{lenient, line_text, push_text, some_object},
};
use serde_json::value::RawValue;
use std::sync::Arc;

/// From where on a page of the list of batches is read. The list begins with the newest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cursor {
    /// The beginning.
    #[default]
    Newest,
    /// What comes after this batch: older ones.
    After(String),
    /// What comes just before this batch: newer ones.
    Before(String),
}

/// How many batches the first page of the list shows: what a later search knows to be older.
const RECENT: usize = 100;
/// How many batches a page asks for while reading back, the most the vendor gives.
pub(crate) const LIST_LIMIT: usize = 1000;

// ---- lines ----

/// Appends a request's line without a line end; on an error `line` is as it was.
pub(crate) fn encode(
    request: &Request,
    form: Form,
    wire_id: &str,
    line: &mut Vec<u8>,
) -> Result<()> {
    let before = line.len();
    line.extend_from_slice(b"{\"custom_id\":");
    push_text(wire_id, line);
    line.extend_from_slice(b",\"params\":");
    let written = write_body(request, form, Purpose::Line, line);
    match written {
        Ok(()) => line.push(b'}'),
        Err(_) => line.truncate(before),
    }
    written
}

/// Reads a result line. An unknown type is unreadable, never a success.
pub(crate) fn decode(line: &[u8], provider: &Arc<str>) -> Option<Outcome> {
    let (line, whole) = line_text(line)?;
    let line = ResultLine::read(line);
    let custom_id = line.custom_id.as_deref()?.to_owned();
    let ended = match line.defect {
        Some(defect) => (Ending::Unreadable(unreadable(defect)), None),
        None if !whole => (
            Ending::Unreadable(unreadable("the line is not UTF-8")),
            None,
        ),
        None => row_ending(line.result),
    };
    Some(row_outcome(custom_id, ended, provider))
}

fn row_ending(result: Option<&RawValue>) -> (Ending, Option<Arc<str>>) {
    let hollow = |what: &str| (Ending::Unreadable(unreadable(what)), None);
    let Some(result) = lenient::<RowResult<'_>>(result) else {
        return hollow("the line has no result");
    };
    match result.r#type.as_deref() {
        Some("succeeded") => {
            let message = result.message.map_or("", RawValue::get);
            // No key reaches the bodies of results.
            answered(read_answer(message, &Secret::new(String::new())))
        }
        Some("errored") => (Ending::Failed(row_error(result.error)), None),
        Some("canceled" | "cancelled") => (Ending::Cancelled, None),
        Some("expired") => (Ending::Expired, None),
        _ => hollow("the line's result is of an unknown type"),
    }
}

/// The error of a row: the whole envelope stands within the result, so the type is two levels down.
fn row_error(envelope: Option<&RawValue>) -> Error {
    let said = envelope.and_then(|raw| error::of_row(raw.get()));
    let error = said.unwrap_or_else(|| {
        // It failed without a word, and what failed is not billed.
        Error::new(ErrorKind::ProviderFault, "the provider gave no reason")
            .with_class(RetryClass::Rejected)
    });
    let envelope: RowEnvelope = lenient(envelope).unwrap_or_default();
    match envelope.request_id {
        Some(id) => error.with_request_id(id),
        None => error,
    }
}

// ---- batches ----

/// Creates the batch, once.
pub(crate) async fn submit(
    client: &Client,
    provider: &str,
    batch: &SealedBatch,
) -> Result<BatchHandle, SubmitError> {
    submitted(client.create_batch(batch).await, batch_id, |reply| {
        client.refused(Asked::Object, reply)
    })
    .map(|id| BatchHandle::new(provider, id, InputRef::default()))
}

fn batch_id(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<BatchObject<'_>>(body).ok()?.id
}

/// The batch's state.
pub(crate) async fn status(client: &Client, handle: &BatchHandle) -> Result<BatchSnapshot> {
    let reply = client.get_batch(&handle.id).await?;
    snapshot(handle, &client.object(&reply)?)
}

/// Asks for a cancel; that it has ended already is a conflict.
pub(crate) async fn cancel(client: &Client, handle: &BatchHandle) -> Result<()> {
    let reply = client.cancel_batch(&handle.id).await?;
    let ended = |error: Error| {
        let conflict = Error::new(ErrorKind::Conflict, error.message());
        conflict.with_status(reply.status)
    };
    if !reply.is_success() {
        let error = client.refused(Asked::Cancel, &reply);
        // There is no body that could be wrong, so it is the state.
        return Err(match error.kind() {
            ErrorKind::InvalidRequest => ended(error),
            _ => error,
        });
    }
    // The vendor may answer with the batch as it is.
    let batch = some_object(&reply.body)
        .and_then(|body| serde_json::from_str::<BatchObject<'_>>(body).ok());
    match batch.and_then(|batch| batch.processing_status) {
        Some(status) if batch_word(&status) == Some(Word::Ended) => Err(ended(Error::new(
            ErrorKind::Conflict,
            "cancel the batch: it has ended already",
        ))),
        _ => Ok(()),
    }
}

/// Deletes a batch; one that is gone is fine.
pub(crate) async fn delete(client: &Client, handle: &BatchHandle) -> Result<()> {
    let reply = client.delete_batch(&handle.id).await?;
    if reply.status == 404 || reply.is_success() {
        return Ok(());
    }
    let error = client.refused(Asked::Object, &reply);
    Err(match error.kind() {
        ErrorKind::InvalidRequest => {
            Error::new(ErrorKind::Conflict, error.message()).with_status(reply.status)
        }
        _ => error,
    })
}

/// The results from `offset` on.
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

/// A page of the list; its next one goes on in the same direction.
pub(crate) async fn page(
    client: &Client,
    provider: &str,
    cursor: &Cursor,
    limit: usize,
) -> Result<ListPage> {
    let reply = client.list_batches(limit, cursor).await?;
    let page: Page<'_> = client.object(&reply)?;
    let batches = page
        .data
        .iter()
        .filter_map(|entry| summary(provider, lenient::<BatchObject<'_>>(Some(entry))?))
        .collect::<Vec<_>>();
    let (told, edge) = match cursor {
        Cursor::Before(_) => (page.first_id, batches.first()),
        _ => (page.last_id, batches.last()),
    };
    let next = told
        .filter(|id| !id.is_empty())
        .or_else(|| edge.map(|batch| batch.handle.id.clone()));
    let unreadable = page.data.len() > batches.len();
    let more = page.has_more.unwrap_or(!batches.is_empty());
    Ok(ListPage::new(batches)
        .with_unreadable(unreadable)
        .with_next(more, next))
}

/// The first page of the list.
pub(crate) async fn recent(client: &Client, provider: &str) -> Result<Vec<BatchSummary>> {
    let page = page(client, provider, &Cursor::Newest, RECENT).await?;
    Ok(page.batches)
}

/// Everything newer than the mark. Read back from the newest: a cursor for newer ones alone would miss what a server
/// with another order shows behind it, and fails where the batch it names was deleted.
pub(crate) async fn list_since(
    client: &Client,
    provider: &str,
    mark: &ListMark,
) -> Result<Vec<BatchSummary>> {
    let mut walk = ListWalk::new(mark);
    let mut cursor = Cursor::Newest;
    loop {
        let page = page(client, provider, &cursor, LIST_LIMIT).await?;
        match walk.take(page)? {
            Some(next) => cursor = Cursor::After(next),
            None => return Ok(walk.into_found()),
        }
    }
}

// ---- objects ----

/// What the vendor says of a batch's state.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    InProgress,
    Canceling,
    Ended,
}

/// A state by its word, in any case (F-085).
fn batch_word(word: &str) -> Option<Word> {
    match &*word.to_ascii_lowercase() {
        "in_progress" => Some(Word::InProgress),
        "canceling" | "cancelling" => Some(Word::Canceling),
        "ended" => Some(Word::Ended),
        _ => None,
    }
}

/// All ends are one word; which one it was is in the counts. An unknown word is not an end (F-056).
fn batch_status(batch: &BatchObject<'_>, counts: RequestCounts) -> BatchStatus {
    let word = batch.processing_status.as_deref().unwrap_or_default();
    match batch_word(word) {
        Some(Word::InProgress) => BatchStatus::InProgress,
        Some(Word::Canceling) => BatchStatus::Cancelling,
        Some(Word::Ended) if counts.canceled.unwrap_or(0) > 0 => BatchStatus::Cancelled,
        Some(Word::Ended) if counts.expired.unwrap_or(0) > 0 => BatchStatus::Expired,
        Some(Word::Ended) => BatchStatus::Completed,
        None => BatchStatus::Unknown(word.to_owned()),
    }
}

fn counts(batch: &BatchObject<'_>) -> RequestCounts {
    lenient(batch.request_counts).unwrap_or_default()
}

fn snapshot(handle: &BatchHandle, batch: &BatchObject<'_>) -> Result<BatchSnapshot> {
    if batch.processing_status.is_none() {
        return Err(hollow("read the batch: the answer has no status"));
    }
    let counts = counts(batch);
    let mut snapshot = BatchSnapshot::new(handle.clone(), batch_status(batch, counts));
    snapshot.counts = told(counts);
    snapshot.created_at = batch.created_at;
    if snapshot.status.is_terminal() {
        snapshot.ended_at = batch.ended_at;
        let announced = batch
            .results_url
            .as_deref()
            .is_some_and(|url| !url.is_empty());
        if announced {
            // The address is made anew from the id: one from an answer might lead the key elsewhere (F-197).
            snapshot
                .files
                .push(ResultFile::new(handle.id.clone(), "output"));
        }
        snapshot.results_pending = !announced && batch.archived_at.is_none();
    }
    Ok(snapshot)
}

fn summary(provider: &str, batch: BatchObject<'_>) -> Option<BatchSummary> {
    let counts = counts(&batch);
    let status = batch_status(&batch, counts);
    let id = batch.id.filter(|id| !id.is_empty())?;
    let handle = BatchHandle::new(provider, id, InputRef::default());
    let summary = BatchSummary::new(handle, status, None, batch.created_at);
    Some(
        summary
            .with_requests(counts.total())
            .with_counts(told(counts)),
    )
}

fn told(counts: RequestCounts) -> Option<BatchCounts> {
    let told = |count: Option<u64>| count.unwrap_or(0);
    let counted = |total| BatchCounts::new(total, told(counts.succeeded), told(counts.errored));
    counts.total().map(counted)
}

#[cfg(test)]
mod tests;
