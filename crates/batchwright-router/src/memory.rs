//! A store without a folder: the same protocol, as long as the process lives.

use crate::{
    BatchRow, BatchTicket,
    active::Active,
    join::{Join, Joined, Origin},
    run::Board,
    store::{ChunkStore, KeptFile, Merge, MergeReport},
};
use async_trait::async_trait;
use batchwright_core::{
    BatchProvider, ByteStream, Ending, Error, ErrorKind, JournalEntry, JournalEvent, Outcome,
    PriceTable, Purchases, Request, Result, SealedBatch, SealedBody, SubmissionLog, WireId,
    WirePrefix,
};
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::mpsc;
use tracing::debug;

/// The requests of one batch.
pub(crate) struct MemoryChunk {
    pub(crate) provider: Arc<dyn BatchProvider>,
    pub(crate) requests: Vec<Request>,
    /// Of each request, which it is of its [`BatchRequest`](crate::BatchRequest).
    pub(crate) rows: Vec<usize>,
    /// Which [`BatchRequest`](crate::BatchRequest) they are of.
    pub(crate) batch: usize,
    pub(crate) endpoint: String,
    pub(crate) metadata: BTreeMap<String, String>,
}

pub(crate) struct MemoryStore {
    job: String,
    chunks: BTreeMap<u32, MemoryChunk>,
    prices: Arc<PriceTable>,
    outcomes: mpsc::Sender<BatchRow>,
    board: Arc<Board>,
    active: Arc<Active>,
    journal: Mutex<Vec<JournalEntry>>,
    files: Mutex<BTreeMap<(u32, u32, String), Bytes>>,
    /// Rows whose success was given out before the second download of their chunk.
    given: Mutex<BTreeSet<(u32, u64)>>,
}

impl MemoryStore {
    pub(crate) fn new(
        job: String,
        chunks: BTreeMap<u32, MemoryChunk>,
        prices: Arc<PriceTable>,
        outcomes: mpsc::Sender<BatchRow>,
        board: Arc<Board>,
        active: Arc<Active>,
    ) -> Self {
        Self {
            job,
            chunks,
            prices,
            outcomes,
            board,
            active,
            journal: Mutex::default(),
            files: Mutex::default(),
            given: Mutex::default(),
        }
    }

    fn chunk(&self, chunk: u32) -> Result<&MemoryChunk> {
        self.chunks
            .get(&chunk)
            .ok_or_else(|| Error::new(ErrorKind::Unexpected, "no such chunk"))
    }

    async fn give(&self, chunk: &MemoryChunk, at: usize, mut outcome: Outcome) {
        let (Some(request), Some(row)) = (chunk.requests.get(at), chunk.rows.get(at)) else {
            return;
        };
        outcome.custom_id.clone_from(&request.custom_id);
        // Whoever dropped the receiving end wants nothing more.
        let row = BatchRow::new(chunk.batch, *row, outcome);
        let _ = self.outcomes.send(row).await;
    }

    /// What the fact says of the batch, for whoever asks while it runs and after.
    fn note(&self, number: u32, fact: &JournalEvent) {
        let chunk = number;
        match fact {
            JournalEvent::Created { tag, handle } | JournalEvent::Adopted { tag, handle } => {
                debug!(chunk, batch = %handle.id, "sent");
                self.board.change(number, |sent| {
                    sent.handle = Some(handle.clone());
                    sent.status = None;
                });
                if let Some(chunk) = self.chunks.get(&number) {
                    let ids = chunk.requests.iter();
                    self.active.insert(BatchTicket {
                        handle: handle.clone(),
                        tag: tag.clone(),
                        model: chunk
                            .requests
                            .first()
                            .map(|request| request.model.clone())
                            .unwrap_or_default(),
                        custom_ids: ids.map(|request| request.custom_id.clone()).collect(),
                        metadata: chunk.metadata.clone(),
                    });
                }
            }
            JournalEvent::CreateRefused { .. } | JournalEvent::Fenced { .. } => {
                self.board.change(number, |sent| {
                    if let Some(handle) = sent.handle.take() {
                        self.active.remove(&handle);
                    }
                });
            }
            JournalEvent::Status { handle, status } => {
                debug!(chunk, batch = %handle.id, %status, "status");
                self.active.seen(handle, status);
                self.board
                    .change(number, |sent| sent.status = Some(status.clone()));
            }
            JournalEvent::Merged { rows } => {
                debug!(chunk, rows, "finished");
                self.board.change(number, |sent| sent.merged = true);
            }
            _ => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the model answered.
fn is_answer(ending: &Ending) -> bool {
    ending.is_success() || matches!(ending, Ending::Refused(_))
}

#[async_trait]
impl SubmissionLog for MemoryStore {
    async fn append(&self, entries: Vec<JournalEntry>) -> Result<()> {
        for entry in &entries {
            self.note(entry.chunk, &entry.event);
        }
        lock(&self.journal).extend(entries);
        Ok(())
    }

    async fn entries(&self, chunk: u32) -> Result<Vec<JournalEntry>> {
        Ok(lock(&self.journal)
            .iter()
            .filter(|entry| entry.chunk == chunk)
            .cloned()
            .collect())
    }

    async fn purchases(&self) -> Result<Purchases> {
        Ok(Purchases::of(lock(&self.journal).iter()))
    }
}

#[async_trait]
impl ChunkStore for MemoryStore {
    async fn sealed(&self, chunk: u32, attempt: u32) -> Result<SealedBatch> {
        let prefix = WirePrefix::of(&self.job, chunk, attempt);
        let chunk = self.chunk(chunk)?;
        let mut lines = Vec::new();
        for (row, request) in (0u64..).zip(&chunk.requests) {
            chunk
                .provider
                .encode(request, &WireId::new(prefix, row).to_string(), &mut lines)?;
            lines.push(b'\n');
        }
        let model = chunk
            .requests
            .first()
            .map(|request| request.model.clone())
            .unwrap_or_default();
        let (bytes, requests) = (lines.len() as u64, chunk.requests.len() as u64);
        Ok(SealedBatch::new(
            SealedBody::Memory(lines.into()),
            bytes,
            requests,
            &chunk.endpoint,
            model,
        ))
    }

    async fn partial(&self, _chunk: u32, _attempt: u32, _label: &str) -> Result<u64> {
        Ok(0)
    }

    async fn keep(
        &self,
        chunk: u32,
        attempt: u32,
        label: &str,
        _offset: u64,
        body: ByteStream,
    ) -> Result<KeptFile> {
        let bytes = body
            .try_fold(BytesMut::new(), |mut whole, piece| async move {
                whole.extend_from_slice(&piece);
                Ok(whole)
            })
            .await?
            .freeze();
        let size = bytes.len() as u64;
        lock(&self.files).insert((chunk, attempt, label.to_owned()), bytes);
        Ok(KeptFile::new(label, "", size))
    }

    async fn kept(&self, chunk: u32, attempt: u32, label: &str) -> Result<Option<KeptFile>> {
        // A file is put in whole.
        let files = lock(&self.files);
        let file = files.get(&(chunk, attempt, label.to_owned()));
        Ok(file.map(|file| KeptFile::new(label, "", file.len() as u64)))
    }

    async fn discard(&self, chunk: u32, attempt: u32) -> Result<()> {
        lock(&self.files).retain(|(c, a, _), _| (*c, *a) != (chunk, attempt));
        Ok(())
    }

    async fn merge(&self, number: u32, attempt: u32, merge: Merge) -> Result<MergeReport> {
        let chunk = self.chunk(number)?;
        let all = chunk.requests.len() as u64;
        let model = chunk
            .requests
            .first()
            .map_or("", |request| request.model.as_str());
        let origin = Origin::new(chunk.provider.name(), model, Arc::clone(&self.prices));
        let (provider, handle, rest) = match merge {
            Merge::Results {
                provider,
                handle,
                rest,
            } => (provider, handle, rest),
            Merge::Refused { error, faults } => {
                self.board
                    .change(number, |sent| sent.failed = Some(error.clone()));
                for (line, at) in (1u64..).zip(0..chunk.requests.len()) {
                    let error = crate::join::refused_row(&error, &faults, line);
                    self.give(chunk, at, origin.outcome(Ending::Failed(error)))
                        .await;
                }
                return Ok(MergeReport::new(all, 0));
            }
            Merge::Cancelled => {
                let error = Error::new(ErrorKind::Cancelled, "cancelled before it was bought");
                self.board.change(number, |sent| sent.failed = Some(error));
                for at in 0..chunk.requests.len() {
                    self.give(chunk, at, origin.outcome(Ending::Cancelled))
                        .await;
                }
                return Ok(MergeReport::new(all, 0));
            }
        };
        let files: Vec<Bytes> = lock(&self.files)
            .iter()
            .filter(|((c, a, _), _)| (*c, *a) == (number, attempt))
            .map(|(_, bytes)| bytes.clone())
            .collect();
        let rows: Vec<u64> = (0..all).collect();
        let origin = origin.bought(&handle, attempt);
        let mut outcomes = Vec::new();
        let (missing, foreign) = {
            let mut join = Join::new(
                provider.as_ref(),
                WirePrefix::of(&self.job, number, attempt),
                &rows,
                &origin,
            );
            for pass in 0..2 {
                if pass == 1 {
                    join.second_pass();
                }
                for line in files
                    .iter()
                    .flat_map(|file| file.split(|byte| *byte == b'\n'))
                {
                    if let Joined::Row(row, outcome) = join.line(line) {
                        outcomes.push((row, outcome));
                    }
                }
            }
            (join.missing().collect::<Vec<u64>>(), join.report().foreign)
        };
        // A line that was cut on its way is whole in the next download (F-106).
        let unreadable = outcomes
            .iter()
            .filter(|(_, outcome)| matches!(outcome.ending, Ending::Unreadable(_)))
            .count();
        let doubtful = missing.len() + unreadable > 0;
        let again = doubtful && rest.is_none();
        if again {
            // Paid and whole; of the others the second download may hold a success.
            outcomes.retain(|(_, outcome)| is_answer(&outcome.ending));
        } else {
            let rest = rest.unwrap_or(Ending::Missing);
            let missing = missing
                .iter()
                .map(|row| (*row, Box::new(origin.outcome(rest.clone()))));
            outcomes.extend(missing);
        }
        for (row, outcome) in outcomes {
            // What was given out once stands.
            if !lock(&self.given).insert((number, row)) {
                continue;
            }
            if let Ok(at) = usize::try_from(row) {
                self.give(chunk, at, *outcome).await;
            }
        }
        if again {
            let given = lock(&self.given)
                .range((number, 0)..=(number, u64::MAX))
                .count() as u64;
            return Ok(MergeReport::new(given, all - given).with_foreign(foreign));
        }
        // Nobody reads them again.
        lock(&self.files).retain(|(c, ..), _| *c != number);
        lock(&self.given).retain(|(c, _)| *c != number);
        Ok(MergeReport::new(all, 0))
    }
}
