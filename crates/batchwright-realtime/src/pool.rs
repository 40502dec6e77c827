//! The pool: a provider and settings, from which runs are started.

use crate::{DispatchLog, PoolOptions, Run, WorkItem};
use batchwright_core::{ChatProvider, Result};
use futures::Stream;
use std::{fmt, sync::Arc};
use tokio_util::sync::CancellationToken;

/// A bounded parallel pool of direct calls to one provider.
///
/// Holds no connection and no task of its own: each [`Run`] owns what it started.
#[derive(Clone)]
pub struct ParallelPool {
    provider: Arc<dyn ChatProvider>,
    options: PoolOptions,
}

impl ParallelPool {
    /// A pool that calls `provider`.
    pub fn new(provider: Arc<dyn ChatProvider>, options: PoolOptions) -> Self {
        Self { provider, options }
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
    pub fn run<S>(&self, items: S, log: Arc<dyn DispatchLog>, stop: CancellationToken) -> Run<S>
    where
        S: Stream<Item = Result<WorkItem>>,
    {
        Run::new(
            Arc::clone(&self.provider),
            self.options.clone(),
            items,
            log,
            stop,
        )
    }
}

impl fmt::Debug for ParallelPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParallelPool")
            .field("provider", &self.provider.name())
            .field("options", &self.options)
            .finish()
    }
}
