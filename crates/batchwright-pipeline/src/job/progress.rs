//! How far a job is, readable from anywhere while it runs.

use batchwright_core::{BatchCounts, BatchStatus, Money, Outcome, Usage};
use batchwright_realtime::Meter;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// How far a job is. Written by the job, read by whoever draws it.
#[derive(Debug, Default)]
pub struct JobProgress {
    total: AtomicU64,
    state: Mutex<Progress>,
    /// The realtime lane's pool, while it runs.
    pool: Mutex<Option<Meter>>,
}

/// A job's progress at one moment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Progress {
    /// Rows of the input; 0 while it is being checked.
    pub total: u64,
    /// Rows that have their outcome, those of earlier runs included.
    pub done: u64,
    /// Of those, rows that had it when this run began.
    pub earlier: u64,
    /// Of those done, rows that did not succeed.
    pub unsuccessful: u64,
    /// Rows sealed into chunks, on the batch lane.
    pub sealed: u64,
    /// Token counters of the rows done, as far as they are known.
    pub usage: Usage,
    /// What the rows done cost, as far as it is known.
    pub cost: Money,
    /// Rows done whose cost is unknown.
    pub cost_unknown: u64,
    /// The state of each open batch, by chunk.
    pub batches: BTreeMap<u32, BatchLine>,
    /// Direct calls under way.
    pub in_flight: u64,
    /// Rows that wait to be tried again.
    pub to_retry: u64,
    /// What is waited for: the last error that is being waited out, room in a provider's queue, a batch that is slower
    /// than usual, or one whose results will be gone.
    pub waiting: Option<String>,
}

/// One batch as last seen.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BatchLine {
    /// The provider's id of it.
    pub id: String,
    /// Its state.
    pub status: BatchStatus,
    /// Counts, where the provider gives any.
    pub counts: Option<BatchCounts>,
}

impl JobProgress {
    /// Nothing done yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The progress now.
    pub fn read(&self) -> Progress {
        let mut progress = self.lock().clone();
        progress.total = self.total.load(Relaxed);
        let pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = &*pool {
            let now = pool.read();
            progress.in_flight = now.in_flight;
            progress.to_retry = now.waiting;
            progress.waiting = pool.last_error().map(|error| error.to_string());
        }
        progress
    }

    pub(crate) fn set_pool(&self, pool: Option<Meter>) {
        *self.pool.lock().unwrap_or_else(PoisonError::into_inner) = pool;
    }

    pub(crate) fn set_total(&self, rows: u64) {
        self.total.store(rows, Relaxed);
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.lock());
    }

    pub(crate) fn record(&self, outcome: &Outcome) {
        let mut state = self.lock();
        state.done += 1;
        state.unsuccessful += u64::from(!outcome.ending.is_success());
        if let Some(response) = outcome.response() {
            state.usage.add(&response.usage);
        }
        match outcome.provenance.cost {
            Some(cost) => state.cost = state.cost + cost,
            None => state.cost_unknown += 1,
        }
    }

    pub(crate) fn batch(
        &self,
        chunk: u32,
        id: String,
        status: BatchStatus,
        counts: Option<BatchCounts>,
    ) {
        self.lock()
            .batches
            .insert(chunk, BatchLine { id, status, counts });
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
