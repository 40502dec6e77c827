//! The pool: a strategy and settings, from which runs are started.

use crate::{
    Direct, DispatchLog, ErrorClassifier, Finished, Middleware, NoLog, Observer, OnProgress,
    PoolOptions, PostProcessor, Run, Strategy, Summary, WorkItem, call_pool::into_output,
    hooks::Hooks,
};
use batchwright_core::{ChatProvider, Error, ErrorKind, Request, Response, Result};
use futures::{Stream, stream};
use std::{fmt, sync::Arc};
use tokio_util::sync::CancellationToken;

/// A bounded parallel pool of direct calls. `T` is what a success holds.
///
/// Holds no connection and no task of its own: each [`Run`] owns what it started.
pub struct ParallelPool<T = Response> {
    strategy: Arc<dyn Strategy<Output = T>>,
    options: PoolOptions,
    hooks: Hooks<T>,
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
        Self {
            strategy,
            options,
            hooks: Hooks::default(),
        }
    }

    /// Adds a middleware inside of those that are there.
    #[must_use]
    pub fn with_middleware(mut self, middleware: impl Middleware<T> + 'static) -> Self {
        self.hooks.middlewares.push(Arc::new(middleware));
        self
    }

    /// Adds an observer.
    #[must_use]
    pub fn with_observer(mut self, observer: impl Observer + 'static) -> Self {
        self.hooks.observers.push(Arc::new(observer));
        self
    }

    /// Adds what is done with each item that ended.
    #[must_use]
    pub fn with_post_processor(mut self, processor: impl PostProcessor<T> + 'static) -> Self {
        self.hooks.post_processors.push(Arc::new(processor));
        self
    }

    /// Sets what says what an error means, on top of the provider.
    #[must_use]
    pub fn with_classifier(mut self, classifier: impl ErrorClassifier + 'static) -> Self {
        self.hooks.classifier = Some(Arc::new(classifier));
        self
    }

    /// Sets the callback for the progress of its runs.
    #[must_use]
    pub fn with_progress(mut self, callback: OnProgress) -> Self {
        self.hooks.progress = Some(callback);
        self
    }

    /// Its settings.
    pub fn options(&self) -> &PoolOptions {
        &self.options
    }

    /// The same for rows of different people, whose failures say nothing of each other.
    pub(crate) fn for_callers(&self) -> Self {
        let mut pool = self.clone();
        pool.options.identical_failures = 0;
        pool
    }

    /// Answers every item and keeps every result: for as many as fit into memory. Nothing is recorded.
    ///
    /// Items are numbered from 0 in their order, whatever row they had; anything that becomes a [`WorkItem`] is one,
    /// such as a [`Request`], or what [`prompts`](crate::prompts) makes of texts. An iterator is read as places become
    /// free.
    ///
    /// ```
    /// # use async_trait::async_trait;
    /// # use batchwright_core::{CallOptions, Capability, ChatProvider, Request, Response, Result};
    /// # struct Echo(Capability);
    /// # #[async_trait]
    /// # impl ChatProvider for Echo {
    /// #     fn name(&self) -> &str { "echo" }
    /// #     fn capability(&self) -> &Capability { &self.0 }
    /// #     async fn complete(&self, request: &Request, _: &CallOptions) -> Result<Response> {
    /// #         Ok(Response::from_text(request.custom_id.clone()))
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let provider = std::sync::Arc::new(Echo(Capability::default()));
    /// use batchwright_realtime::{ParallelPool, PoolOptions, prompts};
    ///
    /// let pool = ParallelPool::new(provider, PoolOptions::default());
    /// let summary = pool.run_all(prompts("small", ["Name a colour.", "Name a number."])).await;
    /// assert_eq!((summary.total(), summary.succeeded()), (2, 2));
    /// println!("{summary}");
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Dropping the future gives up what is in flight; it may be billed, and all results are lost.
    pub async fn run_all<I, C>(&self, items: I) -> Summary<T, C>
    where
        I: IntoIterator<Item: Into<WorkItem<T, C>>>,
        C: Send + 'static,
    {
        self.run_iter(items).summary().await
    }

    /// A run over an iterator, with items numbered as [`run_all`](Self::run_all) does, and without a record.
    pub fn run_iter<I, C>(
        &self,
        items: I,
    ) -> Run<impl Stream<Item = Result<WorkItem<T, C>>> + use<I, T, C>, T, C>
    where
        I: IntoIterator<Item: Into<WorkItem<T, C>>>,
        C: Send + 'static,
    {
        let items = items.into_iter().enumerate().map(|(index, item)| {
            let mut item = item.into();
            item.row = index as u64;
            Ok(item)
        });
        self.run(
            stream::iter(items),
            Arc::new(NoLog),
            CancellationToken::new(),
        )
    }

    /// Answers one request with all the patience of a run, and without a record.
    ///
    /// # Errors
    /// What the item failed with or the run was stopped by; `ContentFiltered` where the model refused.
    ///
    /// # Cancel safety
    /// Dropping the future gives the call up; it may be billed all the same.
    pub async fn call(&self, request: Request) -> Result<T> {
        into_output(self.call_detailed(request).await?)
    }

    /// The same with all that is known of the item. What it failed with is in its outcome.
    ///
    /// # Errors
    /// What the run was stopped by before the item ended.
    ///
    /// # Cancel safety
    /// As [`call`](Self::call).
    pub async fn call_detailed(&self, request: Request) -> Result<Finished<T>> {
        let mut summary = self.run_all([request]).await;
        match (summary.results.pop(), summary.end.reason) {
            (Some(finished), _) => Ok(finished),
            (None, crate::EndReason::Stopped(error)) => Err(error),
            (None, _) => Err(Error::new(
                ErrorKind::Unexpected,
                "end the one item of a run",
            )),
        }
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
            self.hooks.clone(),
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
            hooks: self.hooks.clone(),
        }
    }
}

impl<T> fmt::Debug for ParallelPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParallelPool")
            .field("options", &self.options)
            .field("hooks", &self.hooks)
            .finish_non_exhaustive()
    }
}
