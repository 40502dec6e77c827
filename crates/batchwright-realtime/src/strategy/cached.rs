//! The same question is asked once.

use super::{
    flights::{Flights, Joined},
    memory::{Memory, OwnedScope},
};
use crate::{
    AnswerCache, AnswerKey, Attempt, Executed, ItemState, MemoryCache, Next, Scope, Strategy,
};
use async_trait::async_trait;
use batchwright_core::{Ending, Error, Request, Response, Result, Usage};
use futures::FutureExt;
use std::{any::Any, fmt, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};
use tracing::warn;

/// Answers identical requests from a cache: same provider, same model, same content, whatever their `custom_id`.
///
/// Such an answer is marked in [`Executed::cached`], with zero tokens: nothing was sent and nothing is billed. The
/// response itself, with the usage it had, is that of the first time. Only successes are kept, and none that was cut
/// off at the token limit. An answer is given again whatever the temperature, which the key holds but does not heed.
///
/// Stand it around `Validated` and the like, so that only answers that fit are kept; within, an
/// answer that was rejected would be given again.
///
/// A cache that fails, panics or takes longer than its [patience](Self::with_patience) is a cache without the answer:
/// the request is sent, and a warning logged.
///
/// ```
/// # use batchwright_core::{CallOptions, Capability, ChatProvider, Request, Response, Result};
/// use batchwright_core::Message;
/// use batchwright_realtime::{Attempt, Cached, Direct, ItemState, MemoryCache, Strategy};
/// use std::{sync::Arc, time::Duration};
/// # struct Echo(Capability);
/// # #[async_trait::async_trait]
/// # impl ChatProvider for Echo {
/// #     fn name(&self) -> &str { "echo" }
/// #     fn capability(&self) -> &Capability { &self.0 }
/// #     async fn complete(&self, _: &Request, _: &CallOptions) -> Result<Response> { Ok(Response::from_text("")) }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let provider = Arc::new(Echo(Capability::default()));
/// let cache = Arc::new(MemoryCache::new(1_000).with_ttl(Duration::from_secs(600)));
/// let cached = Cached::new(Arc::new(Direct::new(provider)), cache, "colours");
/// for (custom_id, is_cached) in [("row-1", false), ("row-2", true)] {
///     let request = Request::chat(custom_id, "small", [Message::user("Name a colour.")]);
///     let mut state = ItemState::default();
///     let mut attempt = Attempt::new(1, Duration::from_secs(60), &mut state);
///     assert_eq!(cached.execute(&request, &mut attempt).await?.cached, is_cached);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Cached<T = Response> {
    inner: Arc<dyn Strategy<Output = T>>,
    cache: Arc<dyn AnswerCache<T>>,
    namespace: String,
    patience: Duration,
    flights: Option<Flights<T>>,
    memory: Memory,
}

/// Where the item's attempts go.
#[derive(Default)]
struct Noted {
    /// Where the first one went, which is part of the key: whoever asks the same begins there too, also where the
    /// answer came from elsewhere.
    first: Option<OwnedScope>,
    last: OwnedScope,
}

impl<T: Clone + Send + Sync + 'static> Cached<T> {
    /// Looks into `cache` before `inner` is asked. `namespace` tells apart what must not answer for each other in one
    /// cache: the version of a prompt, or the schema answers were validated against, which the request does not show.
    pub fn new(
        inner: Arc<dyn Strategy<Output = T>>,
        cache: Arc<dyn AnswerCache<T>>,
        namespace: impl Into<String>,
    ) -> Self {
        Self {
            inner,
            cache,
            namespace: namespace.into(),
            patience: Duration::from_secs(1),
            flights: None,
            memory: Memory::new(),
        }
    }

    /// With a cache of its own in memory, of at most `max_answers`; see [`MemoryCache::new`].
    pub fn in_memory(inner: Arc<dyn Strategy<Output = T>>, max_answers: usize) -> Self {
        Self::new(inner, Arc::new(MemoryCache::new(max_answers)), "")
    }

    /// Of identical requests that are in flight at the same time, only one is sent and the others wait for it. Where
    /// it fails, the next one is sent; who has waited for half of its attempt's timeout is sent alone. Off by default:
    /// who waits holds its place in the pool.
    #[must_use]
    pub fn with_single_flight(mut self) -> Self {
        self.flights = Some(Flights::default());
        self
    }

    /// The longest the cache may take for a look or for a store, though never more than a quarter of the attempt's
    /// timeout. Default 1 s: longer than any cache that is worth asking, shorter than most answers.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    fn key(&self, request: &Request, state: &mut ItemState) -> Option<AnswerKey> {
        if self.memory.of::<Noted>(state).is_none() {
            // Asked outside of a pool.
            self.scope(request, state);
        }
        let first = self.memory.of::<Noted>(state)?.first.as_ref()?;
        AnswerKey::of(&self.namespace, first.scope(), request)
    }

    async fn look_up(&self, key: &AnswerKey, limit: Duration) -> Option<Executed<T>> {
        let found = within(limit, self.cache.get(key)).await??;
        Some(again(found))
    }

    async fn keep(&self, key: &AnswerKey, executed: &Executed<T>, limit: Duration) {
        within(limit, self.cache.put(key, executed)).await;
    }
}

/// An answer, told as one that came from a cache.
fn again<T>(mut executed: Executed<T>) -> Executed<T> {
    // What the limits were is long past, and this attempt cost nothing.
    executed.rate_limit = None;
    executed.with_usage(Usage::of(0, 0)).from_cache()
}

/// What a cache does, without its faults being anybody else's.
async fn within<R>(limit: Duration, work: impl Future<Output = Result<R>>) -> Option<R> {
    match timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(Ok(done))) => return Some(done),
        Ok(Ok(Err(error))) => warn!("the cache of answers was left out: {error}"),
        Ok(Err(_panic)) => warn!("the cache of answers was left out: it panicked"),
        Err(_) => warn!("the cache of answers was left out: it took over {limit:?}"),
    }
    None
}

fn is_worth_keeping<T: 'static>(executed: &Executed<T>) -> bool {
    let Ending::Succeeded(output) = &executed.ending else {
        return false;
    };
    let response = (output as &dyn Any).downcast_ref::<Response>();
    !executed.cached && !response.is_some_and(Response::is_truncated)
}

#[async_trait]
impl<T: Clone + Send + Sync + 'static> Strategy for Cached<T> {
    type Output = T;

    fn scope<'a>(&'a self, request: &'a Request, state: &'a mut ItemState) -> Scope<'a> {
        let place = OwnedScope::of(self.inner.scope(request, &mut *state));
        let noted = self.memory.of_mut::<Noted>(state);
        noted.first.get_or_insert_with(|| place.clone());
        noted.last = place;
        noted.last.scope()
    }

    async fn prepare(&self) -> Result<()> {
        self.inner.prepare().await
    }

    async fn execute(&self, request: &Request, attempt: &mut Attempt<'_>) -> Result<Executed<T>> {
        let Some(key) = self.key(request, attempt.state) else {
            return self.inner.execute(request, attempt).await;
        };
        let (begun, whole) = (Instant::now(), attempt.timeout);
        let limit = self.patience.min(whole / 4);
        if let Some(found) = self.look_up(&key, limit).await {
            return Ok(found);
        }
        let mut lead = None;
        if let Some(flights) = &self.flights {
            match flights.join(key, begun + whole / 2).await {
                Joined::Answer(answer) => return Ok(again((*answer).clone())),
                Joined::Late => {}
                Joined::Lead(mine) => {
                    // The one before may have landed between the look and now.
                    if let Some(found) = self.look_up(&key, limit.min(whole / 8)).await {
                        mine.land(&found);
                        return Ok(found);
                    }
                    lead = Some(mine);
                }
            }
        }
        let left = whole.saturating_sub(begun.elapsed());
        let mut rest = Attempt::new(attempt.number, left, attempt.state);
        let executed = self.inner.execute(request, &mut rest).await?;
        if is_worth_keeping(&executed) {
            self.keep(&key, &executed, limit).await;
            if let Some(lead) = lead {
                lead.land(&executed);
            }
        }
        Ok(executed)
    }

    async fn on_error(&self, request: &Request, error: &Error, attempt: &mut Attempt<'_>) -> Next {
        self.inner.on_error(request, error, attempt).await
    }

    fn dry_run(&self, request: &Request) -> Result<Executed<T>> {
        self.inner.dry_run(request)
    }

    async fn cleanup(&self) {
        self.inner.cleanup().await;
    }
}

impl<T> fmt::Debug for Cached<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached")
            .field("namespace", &self.namespace)
            .field("patience", &self.patience)
            .field("single_flight", &self.flights.is_some())
            .finish_non_exhaustive()
    }
}
