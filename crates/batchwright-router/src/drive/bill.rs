//! What a surplus batch came to: its results, kept untouched and counted on their way to the disk.

use super::{ChunkJob, Driver, lock};
use crate::submission::Bill;
use batchwright_core::{
    BatchProvider, BatchSnapshot, Ending, JournalEvent, Lane, Money, PriceTable, Result,
    SubmissionTag, WireId, WirePrefix,
};
use futures::StreamExt;
use std::{
    mem,
    sync::{Arc, Mutex},
};

/// The longest result line that is looked at (F-107).
const LINE_CAP: usize = 64 * 1024 * 1024;

impl Driver {
    /// Keeps every result file of a surplus batch under a label of its own, beside the chunk's, and counts what it
    /// answered. The outer error is the store's.
    pub(super) async fn bill(
        &self,
        job: &ChunkJob,
        provider: &Arc<dyn BatchProvider>,
        tag: &SubmissionTag,
        snapshot: &BatchSnapshot,
        number: usize,
    ) -> Result<Result<Bill>> {
        let model = self.store.sealed(job.chunk, 1).await?.model;
        let tally = Arc::new(Mutex::new(Tally {
            provider: Arc::clone(provider),
            prices: Arc::clone(&self.prices),
            model,
            prefix: WirePrefix::of(&job.job, job.chunk, tag.attempt()),
            line: Vec::new(),
            too_long: false,
            rows: 0,
            cost: Some(Money::ZERO),
        }));
        for file in &snapshot.files {
            let label = format!("s{number}-{}", file.label);
            let _permit = self.transfers.acquire().await;
            let body = match provider.download(file, 0).await {
                Ok(body) => body,
                Err(error) => return Ok(Err(error)),
            };
            let counted = Arc::clone(&tally);
            let body = body.inspect(move |piece| {
                if let Ok(piece) = piece {
                    lock(&counted).take(piece);
                }
            });
            let kept = self
                .store
                .keep(job.chunk, tag.attempt(), &label, 0, body.boxed())
                .await;
            let kept = match kept {
                Ok(kept) => kept,
                Err(error) if error.kind() == batchwright_core::ErrorKind::Storage => {
                    return Err(error);
                }
                Err(error) => return Ok(Err(error)),
            };
            lock(&tally).end_line();
            let fact = JournalEvent::Downloaded {
                handle: snapshot.handle.clone(),
                label,
                file: kept.file,
                sha256: kept.sha256,
                bytes: kept.bytes,
            };
            self.persist(job.chunk, fact).await?;
        }
        let tally = lock(&tally);
        Ok(Ok(Bill {
            rows: tally.rows,
            cost: tally.cost,
        }))
    }
}

/// Counts result lines as their bytes pass.
struct Tally {
    provider: Arc<dyn BatchProvider>,
    prices: Arc<PriceTable>,
    model: String,
    prefix: WirePrefix,
    line: Vec<u8>,
    too_long: bool,
    rows: u64,
    cost: Option<Money>,
}

impl Tally {
    fn take(&mut self, piece: &[u8]) {
        let mut parts = piece.split(|byte| *byte == b'\n');
        if let Some(first) = parts.next() {
            self.grow(first);
        }
        for part in parts {
            self.end_line();
            self.grow(part);
        }
    }

    fn grow(&mut self, part: &[u8]) {
        self.too_long |= self.line.len() + part.len() > LINE_CAP;
        if !self.too_long {
            self.line.extend_from_slice(part);
        }
    }

    fn end_line(&mut self) {
        let line = mem::take(&mut self.line);
        if mem::take(&mut self.too_long) || line.trim_ascii().is_empty() {
            return;
        }
        let Some(outcome) = self.provider.decode(&line) else {
            return;
        };
        let id = outcome.custom_id.parse::<WireId>();
        if !id.is_ok_and(|id| id.prefix() == self.prefix) {
            return;
        }
        let ending = &outcome.ending;
        self.rows += u64::from(ending.is_success() || matches!(ending, Ending::Refused(_)));
        let name = self.provider.name();
        let cost = self.prices.cost(name, &self.model, ending, Lane::Batch);
        self.cost = self.cost.zip(cost).map(|(sum, cost)| sum + cost);
    }
}
