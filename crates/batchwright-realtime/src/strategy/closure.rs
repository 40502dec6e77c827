//! Strategies made of functions: asynchronous ones, and ones that block.

use crate::{Attempt, Executed, ItemState, Scope, Strategy};
use async_trait::async_trait;
use batchwright_core::{Error, ErrorKind, Request, Response, Result, RetryClass};
use futures::future::BoxFuture;
use std::{fmt, future::Future, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::task::TaskTracker;

/// What a function knows of the attempt it makes.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Turn {
    /// Counted from 1.
    pub attempt: u32,
    /// How long it may take; the pool enforces it.
    pub timeout: Duration,
}

impl Turn {
    fn of(attempt: &Attempt<'_>) -> Self {
        Self {
            attempt: attempt.number,
            timeout: attempt.timeout,
        }
    }
}

type Run<T> = dyn for<'a> Fn(&'a Request, &'a mut Attempt<'_>) -> BoxFuture<'a, Result<Executed<T>>>
    + Send
    + Sync;

/// A strategy that is an asynchronous function, for calls no provider of ours makes: another vendor's client, a chain,
/// an agent.
///
/// Its rate limits, cooldown and circuit breaker are those of the provider it is named after and of the request's
/// model. Usage it does not report is unknown, and so is its cost. A function that panics fails its row alone.
///
/// ```
/// use batchwright_core::{Message, Request, Usage};
/// use batchwright_realtime::{Attempt, Closure, Executed, ItemState, Strategy};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> batchwright_core::Result<()> {
/// let lengths = Closure::new("acme", |request: Request, _turn| async move {
///     Ok(Executed::new(request.custom_id.len()).with_usage(Usage::of(3, 1)))
/// });
/// let request = Request::chat("row-1", "small", [Message::user("How long?")]);
/// let mut state = ItemState::default();
/// let mut attempt = Attempt::new(1, Duration::from_secs(60), &mut state);
/// let executed = lengths.execute(&request, &mut attempt).await?;
/// assert_eq!(executed.ending.as_str(), "succeeded");
/// # Ok(())
/// # }
/// ```
pub struct Closure<T = Response> {
    provider: String,
    run: Box<Run<T>>,
}

impl<T: Send + 'static> Closure<T> {
    /// Each attempt is `run` with a copy of the request; `provider` is the name its limits go by.
    pub fn new<F, Fut>(provider: impl Into<String>, run: F) -> Self
    where
        F: Fn(Request, Turn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Executed<T>>> + Send + 'static,
    {
        Self::with_state(provider, move |request, attempt| {
            Box::pin(run(request.clone(), Turn::of(attempt)))
        })
    }

    /// The same without the copy, and with the item's state: `|request, attempt| Box::pin(async move { … })`.
    pub fn with_state(
        provider: impl Into<String>,
        run: impl for<'a> Fn(&'a Request, &'a mut Attempt<'_>) -> BoxFuture<'a, Result<Executed<T>>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self {
            provider: provider.into(),
            run: Box::new(run),
        }
    }
}

#[async_trait]
impl<T: Send + 'static> Strategy for Closure<T> {
    type Output = T;

    fn scope<'a>(&'a self, request: &'a Request, _state: &'a mut ItemState) -> Scope<'a> {
        Scope::new(&self.provider, &request.model)
    }

    async fn execute(&self, request: &Request, attempt: &mut Attempt<'_>) -> Result<Executed<T>> {
        (self.run)(request, attempt).await
    }
}

impl<T> fmt::Debug for Closure<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Closure").field(&self.provider).finish()
    }
}

/// A strategy that is a function which blocks, run on tokio's threads for such work.
///
/// A call that blocks cannot be stopped: past the attempt's timeout, or where the row is cancelled or the run dropped,
/// nobody waits for it, but it goes on to its end and may be billed. It keeps its place meanwhile, so never more than
/// `max_threads` of them exist; an attempt that gets no place within its timeout fails as one that was never sent, and
/// is made again. Where the run ends, cleanup waits for calls that still run, up to the attempt's timeout. A runtime
/// that is dropped waits for them without bound.
///
/// A function that panics fails its row alone, and like any other attempt that may have been billed.
pub struct Blocking<T = Response> {
    provider: String,
    run: Arc<dyn Fn(Request, Turn) -> Result<Executed<T>> + Send + Sync>,
    places: Arc<Semaphore>,
    calls: TaskTracker,
}

impl<T: Send + 'static> Blocking<T> {
    /// Each attempt is `run` with a copy of the request, at most `max_threads` of them at once; 0 counts as 1, and
    /// tokio has 512 threads for such work. `provider` is the name its limits go by.
    pub fn new(
        provider: impl Into<String>,
        max_threads: usize,
        run: impl Fn(Request, Turn) -> Result<Executed<T>> + Send + Sync + 'static,
    ) -> Self {
        let places = max_threads.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            provider: provider.into(),
            run: Arc::new(run),
            places: Arc::new(Semaphore::new(places)),
            calls: TaskTracker::new(),
        }
    }
}

#[async_trait]
impl<T: Send + 'static> Strategy for Blocking<T> {
    type Output = T;

    fn scope<'a>(&'a self, request: &'a Request, _state: &'a mut ItemState) -> Scope<'a> {
        Scope::new(&self.provider, &request.model)
    }

    async fn execute(&self, request: &Request, attempt: &mut Attempt<'_>) -> Result<Executed<T>> {
        let place = Arc::clone(&self.places).acquire_owned();
        let place = timeout(attempt.timeout, place).await.map_err(|_| {
            Error::new(
                ErrorKind::Timeout,
                "get a thread: calls that block hold them all",
            )
            .with_class(RetryClass::NotSent)
        })?;
        let place = place.expect("nobody closes it");
        let (run, request, turn) = (Arc::clone(&self.run), request.clone(), Turn::of(attempt));
        let call = self.calls.spawn_blocking(move || {
            let result = run(request, turn);
            drop(place);
            result
        });
        match call.await {
            Ok(result) => result,
            // Its message may hold a prompt. Where it ended for another reason the runtime shuts down.
            Err(_panicked) => Err(Error::new(
                ErrorKind::Unexpected,
                "make an attempt: the function that blocks panicked",
            )
            .with_class(RetryClass::Ambiguous)
            .with_should_retry(false)),
        }
    }

    async fn cleanup(&self) {
        self.calls.close();
        self.calls.wait().await;
        // Another run may come.
        self.calls.reopen();
    }
}

impl<T> fmt::Debug for Blocking<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking")
            .field("provider", &self.provider)
            .field("free", &self.places.available_permits())
            .finish_non_exhaustive()
    }
}
