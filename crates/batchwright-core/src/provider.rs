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
    BatchHandle, BatchSnapshot, BatchSummary, Capability, InputRef, ListMark, Outcome, Request,
    Response, Result, ResultFile, SealedBatch, SubmissionTag, SubmitError,
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
    /// The line holds no newline, and the wire id in double quotes before any other text that begins like it,
    /// a double quote and the id's first 9 characters: a later attempt at the chunk is a copy in which the id's
    /// prefix is exchanged there.
    ///
    /// # Errors
    /// `InvalidRequest` or `Unsupported` where the vendor has no form for it; `line` is then as it was.
    fn encode(&self, request: &Request, wire_id: &str, line: &mut Vec<u8>) -> Result<()>;

    /// Stores the chunk's lines at the provider and confirms their size (F-118). Costs nothing and may be
    /// repeated; where the create call itself carries the lines, does nothing.
    ///
    /// # Errors
    /// Every failure; none of them has cost anything.
    ///
    /// # Cancel safety
    /// Dropping the future may leave a stored file behind, found again by [`find_upload`](Self::find_upload).
    async fn upload(&self, batch: &SealedBatch, tag: &SubmissionTag) -> Result<InputRef>;

    /// The stored input of `tag`, where an upload of it was finished but not recorded.
    ///
    /// # Errors
    /// Every failure to read the provider's list.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    async fn find_upload(
        &self,
        batch: &SealedBatch,
        tag: &SubmissionTag,
    ) -> Result<Option<InputRef>>;

    /// Creates the batch: buys it. Sent exactly once, on a connection of its own.
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

    /// Deletes an uploaded input, so that a late create fails instead of running. An input that is not
    /// there is fine.
    ///
    /// # Errors
    /// Every failure.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the input is gone; deleting again is harmless.
    async fn discard(&self, input: &InputRef) -> Result<()>;
}
