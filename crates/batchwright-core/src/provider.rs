//! What a provider is. A crate of its own per vendor implements these.
//!
//! ```text
//! row 6   batchwright-cli          xtask                     people
//! row 5   batchwright                                        the facade
//! row 4   batchwright-pipeline                               files in, files out
//! row 3   batchwright-router       batchwright-realtime      many batches; many direct calls
//! row 2   batchwright-provider-*   batchwright-ledger        they implement the traits below
//! row 1   batchwright-http                                   one careful client
//! row 0   batchwright-core                                   these traits
//! ```

use crate::{
    BatchHandle, BatchSnapshot, BatchSummary, Capability, Error, ErrorKind, InputRef, ListMark,
    Outcome, Request, Response, Result, ResultFile, SealedBatch, StoredInput, SubmissionTag,
    SubmitError,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::time::Duration;

/// A body as it arrives, in pieces.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// Choices for one direct call.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CallOptions {
    /// The longest the attempt may take, from the first byte sent to the last one read. Unset is the
    /// provider's own total limit.
    pub timeout: Option<Duration>,
}

impl CallOptions {
    /// Bounds the attempt.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// A vendor's direct calls. Translates and reports; never retries, never sleeps, never decides.
#[async_trait]
pub trait ChatProvider: Send + Sync {
    /// The provider's name, such as `openai`.
    fn name(&self) -> &str;

    /// What it supports.
    fn capability(&self) -> &Capability;

    /// One attempt at answering `request`, sent exactly once.
    ///
    /// A refusal of the model is an `Ok` whose finish reason says so; see [`Response::into_ending`].
    ///
    /// # Errors
    /// Every failure, with the class that says what may follow.
    ///
    /// # Cancel safety
    /// Dropping the future may abandon an attempt that is billed all the same.
    async fn complete(&self, request: &Request, call: &CallOptions) -> Result<Response>;
}

/// A vendor's batch API. Translates and reports; never retries, never sleeps, never decides.
///
/// The steps of the submission protocol are apart, since a durable record stands between them:
/// [`upload`](Self::upload), [`submit`](Self::submit), [`status`](Self::status),
/// [`download`](Self::download).
#[async_trait]
pub trait BatchProvider: Send + Sync {
    /// The provider's name, such as `openai`.
    fn name(&self) -> &str;

    /// What it supports; `batch` is always there.
    fn capability(&self) -> &Capability;

    /// What tells the account apart that this provider buys with: a hash of its address, organisation, project
    /// and key, from which none can be had back. Empty where that cannot be told. A list read under another
    /// account says nothing about a batch (F-087).
    fn account(&self) -> &str {
        ""
    }

    /// The endpoint a request goes to, in the vendor's spelling. Requests of different endpoints do not
    /// share a batch (F-180).
    ///
    /// # Errors
    /// `Unsupported` where a batch cannot hold such a request.
    fn endpoint<'r>(&'r self, request: &'r Request) -> Result<&'r str>;

    /// Appends the request's line in the vendor's form, under `wire_id` and without a line end, to
    /// `line`. A pure function: sealing a chunk calls it for each row.
    ///
    /// A later attempt at the chunk is a copy in which the id's prefix is exchanged as text, once in each line. For
    /// that to be the line of the other id the line keeps three rules, which the conformance suite checks:
    ///
    /// - it holds no newline;
    /// - it holds the wire id exactly once, in double quotes: a second place, such as a label beside the
    ///   `custom_id`, would keep the old one;
    /// - nothing before it begins like it, with a double quote and its first 9 characters: so it is the first value
    ///   of the line (`{"custom_id":"…","params":…}`, `{"key":"…","request":…}`), before all that comes from the
    ///   request.
    ///
    /// # Errors
    /// `InvalidRequest` or `Unsupported` where the vendor has no form for it; `line` is then as it was.
    fn encode(&self, request: &Request, wire_id: &str, line: &mut Vec<u8>) -> Result<()>;

    /// Stores the chunk's lines at the provider and confirms their size (F-118). Costs nothing and may be
    /// repeated. Never called where [`BatchLimits::input`](crate::BatchLimits) is
    /// [`Inline`](crate::BatchInput::Inline); the default is for those.
    ///
    /// # Errors
    /// Every failure; none of them has cost anything.
    ///
    /// # Cancel safety
    /// Dropping the future may leave a stored file behind, found again by [`find_upload`](Self::find_upload).
    async fn upload(&self, _batch: &SealedBatch, _tag: &SubmissionTag) -> Result<InputRef> {
        Err(no_upload())
    }

    /// The stored input of `tag`, where an upload of it was finished but not recorded. Never called where the
    /// create carries the lines.
    ///
    /// # Errors
    /// Every failure to read the provider's list.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    async fn find_upload(
        &self,
        _batch: &SealedBatch,
        _tag: &SubmissionTag,
    ) -> Result<Option<InputRef>> {
        Err(no_upload())
    }

    /// Creates the batch: buys it. Sent exactly once, on a connection of its own. `input` is what
    /// [`upload`](Self::upload) gave, or empty where the create carries the lines.
    ///
    /// # Errors
    /// A [`SubmitError`] tells whether another create may follow.
    ///
    /// # Cancel safety
    /// Not cancel safe: a dropped create is of unclear fate and must be reconciled.
    async fn submit(
        &self,
        batch: &SealedBatch,
        input: &InputRef,
        tag: &SubmissionTag,
    ) -> Result<BatchHandle, SubmitError>;

    /// The batch's state. Free; asking again is always right.
    ///
    /// # Errors
    /// Every failure; none says that the batch ended.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    async fn status(&self, batch: &BatchHandle) -> Result<BatchSnapshot>;

    /// A result file's bytes from `offset` on. Where the provider cannot start there the error's kind is
    /// `Unsupported`, and the caller starts again from 0.
    ///
    /// # Errors
    /// Every failure, also in the middle of the stream; the end of the stream proves nothing (F-037).
    ///
    /// # Cancel safety
    /// Cancel safe, and so is dropping the stream: what was read so far can be gone on from.
    async fn download(&self, file: &ResultFile, offset: u64) -> Result<ByteStream>;

    /// Reads one line of a result file, without its line end. A pure function. A line that names a
    /// request and cannot be understood is that request's [`Ending::Unreadable`](crate::Ending); `None`
    /// is a line that names no request, whose bytes the caller sets aside.
    fn decode(&self, line: &[u8]) -> Option<Outcome>;

    /// Asks for the batch to be cancelled. A request, not a fact: poll on to its end (F-079).
    ///
    /// # Errors
    /// `Conflict` where it has ended already; every other failure.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the cancel was asked for; asking again is harmless.
    async fn cancel(&self, batch: &BatchHandle) -> Result<()>;

    /// The first page of the provider's list. Its ids are the mark for a later
    /// [`list_since`](Self::list_since), and its tags tell whether someone else bought for this job.
    ///
    /// # Errors
    /// Every failure to read the list; `Unsupported` where there is none.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    async fn recent(&self) -> Result<Vec<BatchSummary>>;

    /// All batches newer than `mark`, for reconciliation. Returns only after reading as far as the mark
    /// or to the end of the list, so that absence from it means something.
    ///
    /// # Errors
    /// Every failure; also where the list could not be read far enough (F-116).
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    async fn list_since(&self, mark: &ListMark) -> Result<Vec<BatchSummary>>;

    /// The inputs of a job that are stored at the provider, by their tags, whoever uploaded them: for taking them away
    /// when nobody needs them any more. The default is for providers that cannot tell.
    ///
    /// # Errors
    /// `Unsupported` where the provider has no list, or creates carry the lines; every failure to read it.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    async fn uploads(&self, _job: &str) -> Result<Vec<StoredInput>> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "list stored inputs: this provider has no list of them",
        ))
    }

    /// Deletes an uploaded input, so that a late create fails instead of running. An input that is not
    /// there is fine. Never called where the create carries the lines.
    ///
    /// # Errors
    /// Every failure.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the input is gone; deleting again is harmless.
    async fn discard(&self, _input: &InputRef) -> Result<()> {
        Err(no_upload())
    }
}

/// Of a provider whose creates carry the lines.
fn no_upload() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "store the input: this provider's creates carry it",
    )
}
