//! The vendor-side object that holds many requests.

use crate::{Error, ErrorKind, Result, Timestamp, Usage};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, str::FromStr};

/// Names one attempt to buy one chunk, at the provider and in the journal:
/// `bw1-<job>-<chunk>-<attempt>-<random>`.
///
/// Made of `a-z`, `0-9` and `-`, at most 63 characters, so that it fits metadata values, labels and
/// file names of every provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SubmissionTag {
    job: String,
    chunk: u32,
    attempt: u32,
    random: String,
}

impl SubmissionTag {
    /// A tag of attempt number `attempt` (from 1) at `chunk` of `job`. `job` and `random` are 1 to 10 of
    /// `a-z` and `0-9`.
    ///
    /// # Errors
    /// `Unexpected` where a part is not of that form.
    pub fn new(job: &str, chunk: u32, attempt: u32, random: &str) -> Result<Self> {
        let fits = |part: &str| {
            (1..=10).contains(&part.len())
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        if !fits(job) || !fits(random) || attempt == 0 {
            return Err(Error::new(
                ErrorKind::Unexpected,
                "a submission tag's parts are 1 to 10 of a-z and 0-9",
            ));
        }
        Ok(Self {
            job: job.to_owned(),
            chunk,
            attempt,
            random: random.to_owned(),
        })
    }

    /// The job's short name.
    pub fn job(&self) -> &str {
        &self.job
    }

    /// The chunk's number within the job.
    pub fn chunk(&self) -> u32 {
        self.chunk
    }

    /// Which attempt at buying the chunk this is, counted from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

impl fmt::Display for SubmissionTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "bw1-{}-{}-{}-{}",
            self.job, self.chunk, self.attempt, self.random
        )
    }
}

impl FromStr for SubmissionTag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let other = || Error::new(ErrorKind::InvalidRequest, "not a submission tag");
        let mut parts = text.split('-');
        let mut next = || parts.next().ok_or_else(other);
        if next()? != "bw1" {
            return Err(other());
        }
        let (job, chunk, attempt, random) = (next()?, next()?, next()?, next()?);
        let number = |part: &str| part.parse::<u32>().map_err(|_| other());
        let tag = Self::new(job, number(chunk)?, number(attempt)?, random).map_err(|_| other())?;
        if tag.to_string() == text {
            Ok(tag)
        } else {
            Err(other())
        }
    }
}

impl TryFrom<String> for SubmissionTag {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<SubmissionTag> for String {
    fn from(tag: SubmissionTag) -> Self {
        tag.to_string()
    }
}

/// A sealed chunk as a provider gets it: lines in the provider's own form, immutable, each under a wire
/// id of ours.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SealedBatch {
    /// The lines.
    pub body: SealedBody,
    /// How many bytes they are.
    pub bytes: u64,
    /// How many requests they are.
    pub requests: u64,
    /// The endpoint they are for, in the vendor's spelling.
    pub endpoint: String,
    /// The one model they name, where the provider wants one.
    pub model: String,
    /// About how many tokens go in, where that was counted; for the account of a provider's queue (F-010).
    pub tokens: Option<u64>,
}

/// Where a sealed chunk's lines are.
#[derive(Clone)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a provider must be able to read every form"
)]
pub enum SealedBody {
    /// In a file, which does not change any more.
    File(PathBuf),
    /// In memory, for small batches without a job folder.
    Memory(Bytes),
}

impl fmt::Debug for SealedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(_) => f.write_str("File"),
            Self::Memory(bytes) => write!(f, "Memory({} bytes)", bytes.len()),
        }
    }
}

impl SealedBatch {
    /// A chunk of `requests` lines for `endpoint` and `model`.
    pub fn new(
        body: SealedBody,
        bytes: u64,
        requests: u64,
        endpoint: impl Into<String>,
        model: impl Into<String>,
    ) -> Self {
        Self {
            body,
            bytes,
            requests,
            endpoint: endpoint.into(),
            model: model.into(),
            tokens: None,
        }
    }

    /// Sets about how many tokens go in.
    #[must_use]
    pub fn with_tokens(mut self, tokens: u64) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// About how many tokens go in: what was counted, else a quarter of the bytes.
    pub fn estimated_tokens(&self) -> u64 {
        self.tokens.unwrap_or(self.bytes.div_ceil(4))
    }
}

/// The provider's name for an uploaded input: a file id or an object's address; empty where the create
/// call itself carries the requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
#[expect(clippy::exhaustive_structs, reason = "a name and nothing else")]
pub struct InputRef(pub String);

/// An input of ours that is stored at a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredInput {
    /// The provider's name for it.
    pub input: InputRef,
    /// The attempt it was uploaded for.
    pub tag: SubmissionTag,
    /// Its size, where the list tells.
    pub bytes: Option<u64>,
}

impl StoredInput {
    /// An input stored for this attempt.
    pub fn new(input: InputRef, tag: SubmissionTag, bytes: Option<u64>) -> Self {
        Self { input, tag, bytes }
    }
}

/// A batch at a provider, as durable data.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BatchHandle {
    /// The provider's registered name.
    pub provider: String,
    /// The provider's id of the batch.
    pub id: String,
    /// The uploaded input it was created from, where known.
    #[serde(default)]
    pub input: InputRef,
}

impl BatchHandle {
    /// A batch `id` at `provider`.
    pub fn new(provider: impl Into<String>, id: impl Into<String>, input: InputRef) -> Self {
        Self {
            provider: provider.into(),
            id: id.into(),
            input,
        }
    }
}

/// What state a batch is in. Vendors' words are mapped by their provider crates.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BatchStatus {
    /// The provider checks the input.
    Validating,
    /// Requests are being answered, or wait for it.
    InProgress,
    /// All are answered and the results are being written; this can last hours (F-072).
    Finalizing,
    /// Ended: results exist for what ran.
    Completed,
    /// Ended: the input was refused, nothing ran and nothing was billed.
    Failed,
    /// Ended: the window closed; what had been answered is kept and billed.
    Expired,
    /// Cancelling; what is running may still finish.
    Cancelling,
    /// Ended by cancelling; what had been answered may be kept and billed.
    Cancelled,
    /// A word this version does not know, verbatim: not an end, polled on (F-056).
    Unknown(String),
}

impl BatchStatus {
    /// Whether the provider will do nothing more.
    pub fn is_terminal(&self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Failed | Self::Expired | Self::Cancelled
        )
    }

    /// The status' stable name; an unknown one is the vendor's word.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Validating => "validating",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Unknown(word) => word,
        }
    }
}

impl fmt::Display for BatchStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many of a batch's requests are where. For display only: the truth is in the rows (F-083).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BatchCounts {
    /// All of them.
    pub total: u64,
    /// Those answered.
    pub completed: u64,
    /// Those that failed.
    pub failed: u64,
}

impl BatchCounts {
    /// These counts.
    pub fn new(total: u64, completed: u64, failed: u64) -> Self {
        Self {
            total,
            completed,
            failed,
        }
    }
}

/// Why a provider refused a batch's input, as far as it said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InputFault {
    /// The vendor's code.
    pub code: Option<String>,
    /// The vendor's words, redacted.
    pub message: String,
    /// The line at fault, counted from 1.
    pub line: Option<u64>,
    /// The parameter at fault.
    pub param: Option<String>,
}

impl InputFault {
    /// A fault with these words.
    pub fn new(
        code: Option<String>,
        message: impl Into<String>,
        line: Option<u64>,
        param: Option<String>,
    ) -> Self {
        Self {
            code,
            message: message.into(),
            line,
            param,
        }
    }
}

/// A batch as one poll found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BatchSnapshot {
    /// Which batch.
    pub handle: BatchHandle,
    /// Its state.
    pub status: BatchStatus,
    /// Counts, where the provider gives any (F-084).
    pub counts: Option<BatchCounts>,
    /// When the provider created it, by the provider's clock.
    pub created_at: Option<Timestamp>,
    /// When it ended, by the provider's clock.
    pub ended_at: Option<Timestamp>,
    /// Why its input was refused; empty also where a provider fails a batch without a word (F-075).
    pub faults: Vec<InputFault>,
    /// The files that hold its results, as far as they exist yet.
    pub files: Vec<ResultFile>,
    /// Whether it failed only because the provider's queue is full: nothing ran, and the same input may be
    /// submitted again when another batch has ended (F-010).
    pub queue_full: bool,
    /// What kind of fault of the account or the settings it failed for, such as money, permission or an unknown
    /// model: nothing ran, no row is at fault, and every other batch would fail alike (F-005, F-027).
    #[serde(default)]
    pub account_fault: Option<ErrorKind>,
    /// Whether results are announced that no file is named for yet, as far as the provider's answer tells
    /// (F-081).
    #[serde(default)]
    pub results_pending: bool,
    /// Token counters of the whole batch, where the provider gives them.
    pub usage: Option<Usage>,
}

impl BatchSnapshot {
    /// A batch in `status` of which nothing else is known.
    pub fn new(handle: BatchHandle, status: BatchStatus) -> Self {
        Self {
            handle,
            status,
            counts: None,
            created_at: None,
            ended_at: None,
            faults: Vec::new(),
            files: Vec::new(),
            queue_full: false,
            account_fault: None,
            results_pending: false,
            usage: None,
        }
    }

    /// Whether results are announced but not all there yet: ended, and the provider says so, or rows were
    /// counted and no file is named (F-081). Poll on for a grace period.
    pub fn awaits_files(&self) -> bool {
        let unnamed = self.status == BatchStatus::Completed
            && self.files.is_empty()
            && self
                .counts
                .is_none_or(|counts| counts.completed + counts.failed > 0);
        unnamed || (self.results_pending && self.status.is_terminal())
    }
}

/// A file of results at the provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ResultFile {
    /// The provider's id or address of it.
    pub id: String,
    /// What it is, for its local name: `output`, `errors`, or a shard's number.
    pub label: String,
}

impl ResultFile {
    /// File `id`, kept locally under `label`.
    pub fn new(id: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            label: label.into(),
        }
    }
}

/// A batch as a provider's list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchSummary {
    /// Which batch, and from which input.
    pub handle: BatchHandle,
    /// Its state.
    pub status: BatchStatus,
    /// The tag it was created with, where the list shows tags and it is one of ours.
    pub tag: Option<SubmissionTag>,
    /// When it was created, by the provider's clock.
    pub created_at: Option<Timestamp>,
    /// How many requests it holds, where the list tells; what a batch is known by where the list shows neither
    /// input nor tag ([`ListMatch::Requests`](crate::ListMatch)).
    pub requests: Option<u64>,
    /// Counts, where the list gives any; for display only, as those of a poll are (F-083).
    pub counts: Option<BatchCounts>,
}

impl BatchSummary {
    /// A batch of the list.
    pub fn new(
        handle: BatchHandle,
        status: BatchStatus,
        tag: Option<SubmissionTag>,
        created_at: Option<Timestamp>,
    ) -> Self {
        Self {
            handle,
            status,
            tag,
            created_at,
            requests: None,
            counts: None,
        }
    }

    /// Sets how many requests it holds.
    #[must_use]
    pub fn with_requests(mut self, requests: Option<u64>) -> Self {
        self.requests = requests;
        self
    }

    /// Sets how many of its requests are where.
    #[must_use]
    pub fn with_counts(mut self, counts: Option<BatchCounts>) -> Self {
        self.counts = counts;
        self
    }
}

/// How far back a list is to be read: what was there before a create was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListMark {
    /// Ids on the first page just before the create, in the list's order: where that is newest first, the first
    /// is the newest, after which a list with a cursor for newer entries (`before_id`) goes on. Else their times,
    /// by the provider's clock, bound how far back is read; no local clock is compared with it (F-138).
    pub seen: Vec<String>,
    /// An instant by the provider's clock before which nothing of interest was created.
    pub not_before: Option<Timestamp>,
}

impl ListMark {
    /// A mark at these ids and this instant.
    pub fn new(seen: Vec<String>, not_before: Option<Timestamp>) -> Self {
        Self { seen, not_before }
    }
}

/// Why a batch create gave no batch. Only [`SubmitError::Unknown`] forbids another create.
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_enums,
    reason = "whoever may buy again must handle exactly these three"
)]
pub enum SubmitError {
    /// Nothing reached the provider: another create may follow.
    NotSent(Error),
    /// The provider refused and created nothing: another create may follow.
    Refused(Error),
    /// It was sent and its fate is unclear: the provider's list must tell before anything else is sent
    /// (F-110, F-112).
    Unknown(Error),
}

impl SubmitError {
    /// The error within.
    pub fn error(&self) -> &Error {
        match self {
            Self::NotSent(error) | Self::Refused(error) | Self::Unknown(error) => error,
        }
    }

    /// The same verdict with its error changed, for whoever adds a provider's name.
    #[must_use]
    pub fn map(self, change: impl FnOnce(Error) -> Error) -> Self {
        match self {
            Self::NotSent(error) => Self::NotSent(change(error)),
            Self::Refused(error) => Self::Refused(change(error)),
            Self::Unknown(error) => Self::Unknown(change(error)),
        }
    }
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(error) => write!(f, "submit the batch, nothing was sent: {error}"),
            Self::Refused(error) => write!(f, "submit the batch, the provider refused: {error}"),
            Self::Unknown(error) => write!(f, "submit the batch, its fate is unclear: {error}"),
        }
    }
}

impl std::error::Error for SubmitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_tag_reads_back_and_fits_every_provider(job in "[a-z0-9]{1,10}", chunk: u32, attempt in 1u32.., random in "[a-z0-9]{1,10}") {
            let tag = SubmissionTag::new(&job, chunk, attempt, &random).unwrap();
            let text = tag.to_string();
            prop_assert!(text.len() <= 63);
            prop_assert_eq!(text.parse::<SubmissionTag>().unwrap(), tag);
        }

        #[test]
        fn foreign_text_is_no_tag(text in ".{0,40}") {
            if let Ok(tag) = text.parse::<SubmissionTag>() {
                prop_assert_eq!(tag.to_string(), text);
            }
        }
    }

    #[test]
    fn f_056_an_unknown_status_is_not_an_end() {
        assert!(!BatchStatus::Unknown("hibernating".into()).is_terminal());
        let ends = [
            BatchStatus::Completed,
            BatchStatus::Failed,
            BatchStatus::Expired,
            BatchStatus::Cancelled,
        ];
        assert!(ends.iter().all(BatchStatus::is_terminal));
    }

    #[test]
    fn f_081_completed_without_files_is_not_yet_an_end() {
        let mut snapshot = BatchSnapshot::new(
            BatchHandle::new("p", "b", InputRef::default()),
            BatchStatus::Completed,
        );
        assert!(snapshot.awaits_files());
        snapshot.counts = Some(BatchCounts::new(0, 0, 0));
        assert!(!snapshot.awaits_files());
        snapshot.counts = Some(BatchCounts::new(2, 1, 1));
        assert!(snapshot.awaits_files());
        snapshot.files.push(ResultFile::new("f", "errors"));
        assert!(!snapshot.awaits_files());
        // One file of two, and after an end of any kind.
        snapshot.results_pending = true;
        for (status, awaits) in [
            (BatchStatus::Completed, true),
            (BatchStatus::Expired, true),
            (BatchStatus::Cancelled, true),
            (BatchStatus::InProgress, false),
        ] {
            snapshot.status = status;
            assert_eq!(snapshot.awaits_files(), awaits, "{}", snapshot.status);
        }
    }
}
