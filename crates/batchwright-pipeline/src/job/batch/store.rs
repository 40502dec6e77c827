//! The router's store, in a job's folder.

use super::{
    super::{Given, JobProgress, LiveLine, blocking, policy::Judge},
    merging::{Merging, downloads},
};
use async_trait::async_trait;
use batchwright_core::{
    ByteStream, Error, ErrorKind, JournalEntry, PriceTable, Purchases, Result, SealedBatch,
    SubmissionLog, WirePrefix,
};
use batchwright_ledger::{Ledger, OutcomeLog, RowSet};
use batchwright_router::{ChunkStore, KeptFile, Merge, MergeReport};
use std::{
    sync::{Arc, Mutex},
    thread,
};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// The router's store, in a job's folder.
pub(super) struct LedgerStore {
    pub(super) ledger: Ledger,
    pub(super) log: OutcomeLog,
    pub(super) job: String,
    pub(super) json_output: bool,
    pub(super) prices: Arc<PriceTable>,
    pub(super) progress: Arc<JobProgress>,
    pub(super) live: Option<mpsc::Sender<LiveLine>>,
    /// Rows that have their outcome.
    pub(super) given: Given,
    /// Rows that had it by a direct call, and may have one more of their batch.
    pub(super) answered_directly: Arc<Mutex<RowSet>>,
    pub(super) judge: Judge,
    pub(super) merges: Semaphore,
}

#[async_trait]
impl SubmissionLog for LedgerStore {
    async fn append(&self, entries: Vec<JournalEntry>) -> Result<()> {
        self.ledger.append(entries).await
    }

    async fn entries(&self, chunk: u32) -> Result<Vec<JournalEntry>> {
        self.ledger.entries(chunk).await
    }

    async fn purchases(&self) -> Result<Purchases> {
        self.ledger.purchases().await
    }
}

#[async_trait]
impl ChunkStore for LedgerStore {
    async fn sealed(&self, chunk: u32, attempt: u32) -> Result<SealedBatch> {
        let (ledger, job) = (self.ledger.clone(), self.job.clone());
        blocking(move || {
            if attempt > 1 {
                let prefix = |attempt| WirePrefix::of(&job, chunk, attempt);
                ledger.reseal(chunk, attempt, prefix(attempt - 1), prefix(attempt))?;
            }
            Ok(ledger.sealed(chunk, attempt)?.to_batch())
        })
        .await
    }

    async fn partial(&self, chunk: u32, attempt: u32, label: &str) -> Result<u64> {
        let (ledger, label) = (self.ledger.clone(), label.to_owned());
        blocking(move || ledger.partial_raw(chunk, attempt, &label)).await
    }

    async fn keep(
        &self,
        chunk: u32,
        attempt: u32,
        label: &str,
        offset: u64,
        body: ByteStream,
    ) -> Result<KeptFile> {
        let raw = self
            .ledger
            .keep_raw(chunk, attempt, label, offset, body)
            .await?;
        Ok(KeptFile::new(raw.file, raw.sha256, raw.bytes))
    }

    async fn kept(&self, chunk: u32, attempt: u32, label: &str) -> Result<Option<KeptFile>> {
        let (ledger, label) = (self.ledger.clone(), label.to_owned());
        blocking(move || {
            let raw = ledger.raw(chunk, attempt, &label)?;
            Ok(raw.map(|raw| KeptFile::new(raw.file, raw.sha256, raw.bytes)))
        })
        .await
    }

    async fn discard(&self, chunk: u32, attempt: u32) -> Result<()> {
        let ledger = self.ledger.clone();
        blocking(move || {
            for (label, _) in downloads(&ledger, chunk)? {
                ledger.discard_raw(chunk, attempt, &label)?;
            }
            Ok(())
        })
        .await
    }

    async fn merge(&self, chunk: u32, attempt: u32, merge: Merge) -> Result<MergeReport> {
        // Closed by nobody, and a merge without a permit would be no harm.
        let _permit = self.merges.acquire().await;
        let merging = Merging {
            ledger: self.ledger.clone(),
            log: self.log.clone(),
            prefix: WirePrefix::of(&self.job, chunk, attempt),
            json_output: self.json_output,
            prices: Arc::clone(&self.prices),
            progress: Arc::clone(&self.progress),
            live: self.live.clone(),
            given: Arc::clone(&self.given),
            answered_directly: Arc::clone(&self.answered_directly),
            judge: self.judge.clone(),
            chunk,
            attempt,
        };
        on_own_thread(move || merging.run(merge)).await
    }
}

/// As [`blocking`], on a thread that ends with the work. What a merge allocated stays with its thread's part of the
/// heap, and the runtime's threads take turns: on those, each of them would come to hold what a merge needs. glibc
/// gives a new thread the part that an ended one left.
async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, answer) = oneshot::channel();
    thread::Builder::new()
        .name("batchwright-merge".to_owned())
        .spawn(move || {
            // Who does not wait any more does not need the answer.
            drop(sender.send(work()));
        })
        .map_err(|error| {
            Error::new(
                ErrorKind::Storage,
                format!("start a thread to read results in: {error}"),
            )
            .with_source(error)
        })?;
    answer
        .await
        .map_err(|_| Error::new(ErrorKind::Unexpected, "reading results panicked"))?
}
