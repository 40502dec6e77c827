//! How far a run is, readable from anywhere while it goes on.

use batchwright_core::Error;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// How far a run is, at one moment. Counters are rows unless they say otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Taken from the source.
    pub taken: u64,
    /// Holding a place: being sent, answered or recorded.
    pub in_flight: u64,
    /// Waiting to be tried again.
    pub waiting: u64,
    /// Ended with an answer.
    pub succeeded: u64,
    /// Ended with a refusal of the model.
    pub refused: u64,
    /// Ended in any other way.
    pub failed: u64,
    /// Attempts that may have been billed although no outcome rests on them (F-122).
    pub possibly_paid_attempts: u64,
}

impl Progress {
    /// Rows that ended, in whatever way.
    pub fn done(&self) -> u64 {
        self.succeeded + self.refused + self.failed
    }
}

/// Reads a run's progress from another task, such as one that draws it. Cheap to clone and to read.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Cells>);

#[derive(Debug, Default)]
struct Cells {
    last_error: Mutex<Option<Error>>,
    taken: AtomicU64,
    in_flight: AtomicU64,
    waiting: AtomicU64,
    succeeded: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    possibly_paid_attempts: AtomicU64,
}

impl Meter {
    /// The run's progress. Counters are read one after another, so that they may differ by the rows that
    /// moved meanwhile.
    pub fn read(&self) -> Progress {
        let cells = &*self.0;
        Progress {
            taken: cells.taken.load(Relaxed),
            in_flight: cells.in_flight.load(Relaxed),
            waiting: cells.waiting.load(Relaxed),
            succeeded: cells.succeeded.load(Relaxed),
            refused: cells.refused.load(Relaxed),
            failed: cells.failed.load(Relaxed),
            possibly_paid_attempts: cells.possibly_paid_attempts.load(Relaxed),
        }
    }

    /// The error the row that waits since last waits for; none once a row ended.
    pub fn last_error(&self) -> Option<Error> {
        self.0
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn note(&self, error: Option<Error>) {
        *self
            .0
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = error;
    }

    pub(crate) fn show(&self, progress: &Progress) {
        let cells = &*self.0;
        cells.taken.store(progress.taken, Relaxed);
        cells.in_flight.store(progress.in_flight, Relaxed);
        cells.waiting.store(progress.waiting, Relaxed);
        cells.succeeded.store(progress.succeeded, Relaxed);
        cells.refused.store(progress.refused, Relaxed);
        cells.failed.store(progress.failed, Relaxed);
        cells
            .possibly_paid_attempts
            .store(progress.possibly_paid_attempts, Relaxed);
    }
}
