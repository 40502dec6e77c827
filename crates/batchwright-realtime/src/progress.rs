//! How far a run is, readable from anywhere while it goes on.

use crate::{
    HookOptions, MetricsSnapshot,
    metrics::Counters,
    middleware::{Broken, contained},
    telemetry,
};
use batchwright_core::Error;
use futures::{FutureExt, future::BoxFuture};
use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::watch, task::spawn_blocking};

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
    counters: Counters,
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

    /// What the run counted so far, with its progress. Counters are read one after another, so that they may differ by
    /// the rows that moved meanwhile.
    pub fn metrics(&self) -> MetricsSnapshot {
        let progress = self.read();
        let mut metrics = self.0.counters.read();
        metrics.total = progress.taken;
        metrics.succeeded = progress.succeeded;
        metrics.refused = progress.refused;
        metrics.failed = progress.failed;
        metrics
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.0.counters
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

/// How far a run is, for a callback.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ProgressUpdate {
    /// The run's progress.
    pub progress: Progress,
    /// How many rows the source holds in all, where it knows.
    pub total: Option<u64>,
    /// The row that ended last.
    pub row: u64,
    /// Its request's id.
    pub custom_id: String,
    /// Since the run began.
    pub elapsed: Duration,
}

/// A callback for a run's progress.
///
/// Called after every so many ended rows ([`HookOptions::progress_interval`]) and once at the end. It never holds the
/// run up: while it is at work, newer states take the place of older ones, and the newest is what it sees next. A call
/// that panics or takes longer than [`HookOptions::progress_timeout`] is counted
/// ([`MetricsSnapshot::progress_failures`]); a blocking one goes on after that, and the next begins when it is done.
#[derive(Clone)]
pub struct OnProgress(Callback);

#[derive(Clone)]
enum Callback {
    Waiting(Arc<dyn Fn(ProgressUpdate) -> BoxFuture<'static, ()> + Send + Sync>),
    Blocking(Arc<dyn Fn(ProgressUpdate) + Send + Sync>),
}

impl OnProgress {
    /// Calls `callback` and awaits what it returns.
    pub fn new<F, R>(callback: F) -> Self
    where
        F: Fn(ProgressUpdate) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self(Callback::Waiting(Arc::new(move |update| {
            // Its panic is the future's, where it is caught.
            let future = catch_unwind(AssertUnwindSafe(|| callback(update)));
            match future {
                Ok(future) => future.boxed(),
                Err(panic) => async move { std::panic::resume_unwind(panic) }.boxed(),
            }
        })))
    }

    /// Calls `callback` on a thread for blocking work.
    pub fn blocking(callback: impl Fn(ProgressUpdate) + Send + Sync + 'static) -> Self {
        Self(Callback::Blocking(Arc::new(callback)))
    }

    /// Calls it with each update that comes, until the run is over.
    pub(crate) async fn serve(
        self,
        mut updates: watch::Receiver<ProgressUpdate>,
        meter: Meter,
        options: HookOptions,
    ) {
        while updates.changed().await.is_ok() {
            let update = updates.borrow_and_update().clone();
            let called = match &self.0 {
                Callback::Waiting(callback) => {
                    contained(options.progress_timeout, callback(update)).await
                }
                Callback::Blocking(callback) => {
                    let callback = Arc::clone(callback);
                    let mut call = spawn_blocking(move || callback(update));
                    let called = contained(options.progress_timeout, &mut call).await;
                    if matches!(called, Err(Broken::TookTooLong)) {
                        meter.counters().progress_failures.fetch_add(1, Relaxed);
                        telemetry::progress_failed(Broken::TookTooLong.as_str());
                        // It cannot be stopped, and two at once were not asked for.
                        let _ = call.await;
                        continue;
                    }
                    called.and_then(|done| done.map_err(|_panicked| Broken::Panicked))
                }
            };
            if let Err(broken) = called {
                meter.counters().progress_failures.fetch_add(1, Relaxed);
                telemetry::progress_failed(broken.as_str());
            }
        }
    }
}

impl fmt::Debug for OnProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Callback::Waiting(_) => "OnProgress::new",
            Callback::Blocking(_) => "OnProgress::blocking",
        })
    }
}
