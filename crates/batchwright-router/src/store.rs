//! Where the router's chunks, raw results and outcomes are kept.

use async_trait::async_trait;
use batchwright_core::{
    BatchHandle, BatchProvider, ByteStream, Ending, Error, InputFault, Result, SealedBatch,
    SubmissionLog,
};
use std::{fmt, sync::Arc};

/// Keeps what the router works on: sealed chunks, raw results and, through [`SubmissionLog`], facts. A
/// ledger keeps them durably; in memory they live as long as the process.
#[async_trait]
pub trait ChunkStore: SubmissionLog {
    /// The chunk's lines under the wire ids of attempt number `attempt`.
    ///
    /// # Errors
    /// `Storage` where they cannot be had unchanged; nothing is then sent.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the attempt sealed or not; asking again gives the same lines.
    async fn sealed(&self, chunk: u32, attempt: u32) -> Result<SealedBatch>;

    /// How many bytes of a result file are kept from an interrupted download.
    ///
    /// # Errors
    /// `Storage`.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    async fn partial(&self, chunk: u32, attempt: u32, label: &str) -> Result<u64>;

    /// Keeps a result file's bytes from `offset` on, and returns when it is whole and durable.
    ///
    /// # Errors
    /// Those of `body`, what came before them being kept for a later resume; `Storage`.
    ///
    /// # Cancel safety
    /// Dropping the future keeps some of what was read, as an interrupted download does; `partial` says how much.
    async fn keep(
        &self,
        chunk: u32,
        attempt: u32,
        label: &str,
        offset: u64,
        body: ByteStream,
    ) -> Result<KeptFile>;

    /// The result file that is kept whole under `label`, with the hash of what is on disk; `None` where there
    /// is none or that is not known, and it is downloaded again then. The default knows of none.
    ///
    /// # Errors
    /// `Storage`.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    async fn kept(&self, _chunk: u32, _attempt: u32, _label: &str) -> Result<Option<KeptFile>> {
        Ok(None)
    }

    /// Forgets the chunk's result files, so that they are downloaded again.
    ///
    /// # Errors
    /// `Storage`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open which files are gone; doing so again is harmless.
    async fn discard(&self, chunk: u32, attempt: u32) -> Result<()>;

    /// Gives rows of the chunk their outcomes, durably. Doing so again is harmless.
    ///
    /// # Errors
    /// `Storage`.
    ///
    /// # Cancel safety
    /// Dropping the future may leave some rows with their outcome; merging again is harmless.
    async fn merge(&self, chunk: u32, attempt: u32, merge: Merge) -> Result<MergeReport>;
}

/// A result file, whole and untouched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptFile {
    /// Its local name.
    pub file: String,
    /// Lower-case hex.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

impl KeptFile {
    /// A file of this name, hash and size.
    pub fn new(file: impl Into<String>, sha256: impl Into<String>, bytes: u64) -> Self {
        Self {
            file: file.into(),
            sha256: sha256.into(),
            bytes,
        }
    }
}

/// Where the outcomes of a chunk come from.
#[derive(Clone)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a store must know every way a chunk can end"
)]
#[expect(
    clippy::large_enum_variant,
    reason = "one is made for each merge of a chunk, and moved once"
)]
pub enum Merge {
    /// From the result files that were kept.
    Results {
        /// Reads the lines.
        provider: Arc<dyn BatchProvider>,
        /// The batch.
        handle: BatchHandle,
        /// How rows without a line end: missing, or expired or cancelled as the batch did. `None` is to count
        /// them and those whose line cannot be read and, where there are any, to give only successes out:
        /// the files are downloaded once more then, and a success may show for every other row (F-082).
        rest: Option<Ending>,
    },
    /// The provider refused the input: every row fails, and nothing was billed.
    Refused {
        /// Why, for the rows no fault names.
        error: Error,
        /// The faults the provider named, by line.
        faults: Vec<InputFault>,
    },
    /// Every row is cancelled; nothing was billed.
    Cancelled,
}

impl fmt::Debug for Merge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Results { handle, rest, .. } => {
                let rest = rest.as_ref().map_or("none", Ending::as_str);
                write!(f, "Results({}, rest: {rest})", handle.id)
            }
            Self::Refused { error, .. } => write!(f, "Refused({error})"),
            Self::Cancelled => f.write_str("Cancelled"),
        }
    }
}

/// What a merge came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergeReport {
    /// Rows of the chunk that have an outcome now.
    pub rows: u64,
    /// Rows of which no file holds a line that can be read.
    pub missing: u64,
    /// Lines under an id that is not this batch's ([`JoinReport::foreign`](crate::JoinReport)). Where there are
    /// any and no row's, the batch may be another's.
    pub foreign: u64,
}

impl MergeReport {
    /// These counts.
    pub fn new(rows: u64, missing: u64) -> Self {
        Self {
            rows,
            missing,
            foreign: 0,
        }
    }

    /// Sets how many lines were under ids that are not this batch's.
    #[must_use]
    pub fn with_foreign(mut self, lines: u64) -> Self {
        self.foreign = lines;
        self
    }
}
