//! The pool: a strategy and settings, from which runs are started.

use crate::{Direct, DispatchLog, PoolOptions, Run, Strategy, WorkItem};
use batchwright_core::{ChatProvider, Response, Result};
use futures::Stream;
use std::{fmt, sync::Arc};
use tokio_util::sync::CancellationToken;

/// A bounded parallel pool of direct calls. `T` is what a success holds.
///
/// Holds no connection and no task of its own: each [`Run`] owns what it started.
pub struct ParallelPool<T = Response> {
    strategy: Arc<dyn Strategy<Output = T>>,
    options: PoolOptions,
}

impl ParallelPool {
    /// A pool that calls `provider` with each request as it is.
    pub fn new(provider: Arc<dyn ChatProvider>, options: PoolOptions) -> Self {
        Self::with_strategy(Arc::new(Direct::new(provider)), options)
    }
}

impl<T: Send + Sync + 'static> ParallelPool<T> {
    /// A pool that answers each row as `strategy` does, unless the row has a strategy of its own.
    pub fn with_strategy(strategy: Arc<dyn Strategy<Output = T>>, options: PoolOptions) -> Self {
        Self { strategy, options }
    }

    /// Answers every row of `items`, as a stream of rows that ended, in the order they end.
    ///
    /// Nothing happens until the stream is polled, within a tokio runtime; rows are taken from `items`
    /// only as places become free, so a caller that stops polling stops the sending. `log` is told of
    /// each attempt before it leaves and of each outcome before it is yielded.
    ///
    /// An error from `items` or `log`, and a provider's answer that nobody can be served
    /// ([`JobStop`](batchwright_core::RetryClass::JobStop)), end the run: attempts in flight finish and
    /// are recorded, nothing else is sent. Cancelling `stop` does the same. Afterwards
    /// [`Run::ended`] says why the run ended and which rows it took without ending them.
    pub fn run<S, C>(
        &self,
        items: S,
        log: Arc<dyn DispatchLog<T>>,
        stop: CancellationToken,
    ) -> Run<S, T, C>
    where
        S: Stream<Item = Result<WorkItem<T, C>>>,
        C: Send + 'static,
    {
        Run::new(
            Arc::clone(&self.strategy),
            self.options.clone(),
            items,
            log,
            stop,
        )
    }
}

impl<T> Clone for ParallelPool<T> {
    fn clone(&self) -> Self {
        Self {
            strategy: Arc::clone(&self.strategy),
            options: self.options.clone(),
        }
    }
}

impl<T> fmt::Debug for ParallelPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParallelPool")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
