//! Requests that begin with a context stored at the provider.

use super::{memory::Memory, renewed::Renewed};
use crate::{Attempt, Executed, ItemState, Next, Scope, Strategy, telemetry};
use async_trait::async_trait;
use batchwright_core::{
    CachedContext, ContextCache, Error, ErrorKind, Money, Request, Response, Result,
};
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::AcqRel, Ordering::Acquire, Ordering::Release},
    },
    time::Duration,
};
use tokio::time::Instant;

/// How a stored context is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ContextCacheOptions {
    /// How long it is stored from its creation and from each renewal. Default 1 h, as the vendor's.
    pub ttl: Duration,
    /// The share of that time after which the next request renews it first, 0 to 1. Default 0.75: of an hour 15
    /// minutes are left, longer than an attempt takes by default.
    pub renew_after: f64,
    /// Whether it is kept after the last run instead of being deleted. Default no: storing is billed by the hour, and
    /// one that nobody uses costs as much as one in use. Kept, it is found and used again by the next run, also of
    /// another process, and ends after its time.
    pub keep: bool,
    /// What storing costs: USD for a million tokens and an hour. Default unknown, as are then the costs in
    /// [`ContextCacheReport`]. Of Gemini: 1.00 for the flash and 4.50 for the pro models
    /// (<https://ai.google.dev/gemini-api/docs/pricing>).
    pub storage_price: Option<f64>,
}

impl Default for ContextCacheOptions {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(3600),
            renew_after: 0.75,
            keep: false,
            storage_price: None,
        }
    }
}

impl ContextCacheOptions {
    /// Sets how long it is stored, at least a second.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl.max(Duration::from_secs(1));
        self
    }

    /// Sets the share of its time after which it is renewed; what lies outside 0 to 1 is cut.
    #[must_use]
    pub fn with_renew_after(mut self, share: f64) -> Self {
        self.renew_after = share.clamp(0.0, 1.0);
        self
    }

    /// Sets whether it is kept after the last run.
    #[must_use]
    pub fn with_keep(mut self, keep: bool) -> Self {
        self.keep = keep;
        self
    }

    /// Sets what storing costs: USD for a million tokens and an hour.
    #[must_use]
    pub fn with_storage_price(mut self, dollars: f64) -> Self {
        self.storage_price = Some(dollars);
        self
    }
}

/// What storing a context came to so far.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ContextCacheReport {
    /// How often it was stored; each costs its input tokens, which no outcome counts.
    pub created: u64,
    /// How often one of an earlier run was used.
    pub found: u64,
    /// How often its time was extended.
    pub renewed: u64,
    /// Input tokens that were stored, over all creations, where the provider said.
    pub stored_tokens: u64,
    /// Tokens times hours they were stored, until now or until they were deleted. One that is kept goes on costing
    /// until its time is over.
    pub token_hours: f64,
    /// What that storage cost, without the creation; unknown without a price.
    pub storage_cost: Option<Money>,
}

/// Answers with requests that begin with a context stored at the provider.
///
/// The context is stored before the first attempt, renewed by the requests that use it, and deleted after the last run
/// ([`ContextCacheOptions::keep`] leaves it). Where it is gone, it is stored anew, once for all, and the request is
/// sent again; once for each item. Runs that overlap share it, and the last one to end deletes it. Two processes store
/// one each, unless both keep it. A run that is dropped leaves it until its time is over.
///
/// Requests must ask for the model it was stored for, and may have no system message and no tools of their own.
///
/// A strategy around this one must pass [`on_error`](Strategy::on_error) on to it.
pub struct WithContext<T = Response> {
    inner: Arc<dyn Strategy<Output = T>>,
    cache: Arc<dyn ContextCache>,
    options: ContextCacheOptions,
    held: Renewed<Arc<Stored>>,
    memory: Memory,
    is_renewing: AtomicBool,
    books: Mutex<Books>,
}

/// A stored context and its times.
struct Stored {
    context: CachedContext,
    lease: Mutex<Lease>,
}

/// Until when a context is stored: times since the same moment, reckoned from before the call that set them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    renew_at: Instant,
    ends_at: Instant,
}

/// What is to be done before a context is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Renewal,
    /// Its time is over.
    Creation,
}

impl Lease {
    fn new(asked: Instant, options: &ContextCacheOptions) -> Self {
        let renew = options.ttl.mul_f64(options.renew_after.clamp(0.0, 1.0));
        Self {
            renew_at: asked + renew,
            ends_at: asked + options.ttl,
        }
    }

    fn due(&self, now: Instant) -> Due {
        if now >= self.ends_at {
            Due::Creation
        } else if now >= self.renew_at {
            Due::Renewal
        } else {
            Due::Nothing
        }
    }

    /// A renewal failed: the next one comes after a part of what is left.
    fn put_off(&mut self, now: Instant) {
        self.renew_at = now + self.ends_at.saturating_duration_since(now) / 4;
    }
}

/// Who uses it, and what it cost.
#[derive(Default)]
struct Books {
    /// Runs that prepared it and have not ended.
    users: u64,
    report: ContextCacheReport,
    /// Since when how many tokens are stored.
    storing: Option<(Instant, u64)>,
}

impl Books {
    /// Counts what was stored until now, or until its time was over.
    fn settle(&mut self, now: Instant) {
        if let Some((since, tokens)) = self.storing.take() {
            let hours = now.saturating_duration_since(since).as_secs_f64() / 3600.0;
            self.report.token_hours += tokens as f64 * hours;
        }
    }
}

/// What an item's attempt used.
#[derive(Default)]
struct Used {
    number: Option<u64>,
    /// Whether it was sent again for its context was gone.
    was_sent_again: bool,
}

impl<T: Send + 'static> WithContext<T> {
    /// Answers as `inner` does, with requests that begin with what `cache` stores. `inner` calls the provider that
    /// stores it.
    pub fn new(inner: Arc<dyn Strategy<Output = T>>, cache: Arc<dyn ContextCache>) -> Self {
        Self {
            inner,
            cache,
            options: ContextCacheOptions::default(),
            held: Renewed::new(),
            memory: Memory::new(),
            is_renewing: AtomicBool::new(false),
            books: Mutex::default(),
        }
    }

    /// Sets how it is kept.
    #[must_use]
    pub fn with_options(mut self, options: ContextCacheOptions) -> Self {
        self.options = options.with_ttl(options.ttl);
        self
    }

    /// What storing it came to so far.
    pub fn report(&self) -> ContextCacheReport {
        let books = lock(&self.books);
        let mut report = books.report.clone();
        if let Some((since, tokens)) = books.storing {
            report.token_hours += tokens as f64 * since.elapsed().as_secs_f64() / 3600.0;
        }
        report.storage_cost = self
            .options
            .storage_price
            .and_then(|price| Money::from_dollars(report.token_hours * price / 1e6));
        report
    }

    /// Deletes the context now, whatever the options say; the next request stores it anew. For the end of what kept it
    /// over several runs.
    ///
    /// # Errors
    /// Every failure of the call.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether it is gone; deleting again is harmless.
    pub async fn delete(&self) -> Result<()> {
        if let Some((number, stored)) = self.held.current() {
            self.cache.delete(&stored.context.name).await?;
            if self.held.forget(number) {
                lock(&self.books).settle(Instant::now());
            }
        }
        Ok(())
    }

    /// The context, ready for use.
    async fn ready(&self) -> Result<(u64, Arc<Stored>)> {
        if let Some((number, stored)) = self.held.current() {
            let due = lock(&stored.lease).due(Instant::now());
            let serves = match due {
                Due::Nothing => true,
                Due::Creation => false,
                // One renews it; the others use it meanwhile.
                Due::Renewal => match Flag::raise(&self.is_renewing) {
                    Some(_renewing) => self.renew(&stored).await,
                    None => true,
                },
            };
            if serves {
                return Ok((number, stored));
            }
            self.drop_context(number, &stored);
        }
        self.held.get(self.obtain()).await
    }

    /// Finds or stores the context.
    async fn obtain(&self) -> Result<Arc<Stored>> {
        let ttl = self.options.ttl;
        let mut asked = Instant::now();
        let mut found = None;
        if self.options.keep
            && let Some(context) = self.cache.find().await?
            && self.cache.extend(&context.name, ttl).await?
        {
            found = Some(context);
        }
        let is_found = found.is_some();
        let context = match found {
            Some(context) => context,
            None => {
                asked = Instant::now();
                self.cache.create(ttl).await?
            }
        };
        let mut books = lock(&self.books);
        let tokens = context.tokens.unwrap_or(0);
        books.settle(asked);
        books.storing = Some((asked, tokens));
        if is_found {
            books.report.found += 1;
        } else {
            books.report.created += 1;
            books.report.stored_tokens += tokens;
        }
        drop(books);
        Ok(Arc::new(Stored {
            context,
            lease: Mutex::new(Lease::new(asked, &self.options)),
        }))
    }

    /// Extends the context's time. Returns whether it is still there.
    async fn renew(&self, stored: &Stored) -> bool {
        let asked = Instant::now();
        // Another may have done so since this one looked.
        if lock(&stored.lease).due(asked) != Due::Renewal {
            return true;
        }
        let extended = self.cache.extend(&stored.context.name, self.options.ttl);
        match extended.await {
            Ok(true) => {
                *lock(&stored.lease) = Lease::new(asked, &self.options);
                lock(&self.books).report.renewed += 1;
                true
            }
            Ok(false) => false,
            // It lives on for a while, and the next request but a few tries again.
            Err(_) => {
                lock(&stored.lease).put_off(asked);
                true
            }
        }
    }

    fn drop_context(&self, number: u64, stored: &Stored) {
        if self.held.forget(number) {
            let ended = lock(&stored.lease).ends_at.min(Instant::now());
            lock(&self.books).settle(ended);
        }
    }

    fn check(&self, request: &Request) -> Result<()> {
        let bare = |model: &str| model.strip_prefix("models/").unwrap_or(model).to_owned();
        if bare(&request.model) == bare(self.cache.model()) {
            return Ok(());
        }
        let message = "use the stored context: it is for another model";
        Err(Error::new(ErrorKind::InvalidRequest, message).with_model(&*request.model))
    }
}

#[async_trait]
impl<T: Send + 'static> Strategy for WithContext<T> {
    type Output = T;

    fn scope<'a>(&'a self, request: &'a Request, state: &'a mut ItemState) -> Scope<'a> {
        self.inner.scope(request, state)
    }

    async fn prepare(&self) -> Result<()> {
        self.inner.prepare().await?;
        self.ready().await?;
        lock(&self.books).users += 1;
        Ok(())
    }

    async fn execute(&self, request: &Request, attempt: &mut Attempt<'_>) -> Result<Executed<T>> {
        self.memory.of_mut::<Used>(attempt.state).number = None;
        self.check(request)?;
        // Storing may have been billed where it broke off, so its error keeps its class.
        let ready = self.ready().await;
        let (number, stored) = ready.map_err(|error| error.context("store the context"))?;
        self.memory.of_mut::<Used>(attempt.state).number = Some(number);
        let request = self.cache.begin(&stored.context.name, request);
        self.inner.execute(&request, attempt).await
    }

    async fn on_error(&self, request: &Request, error: &Error, attempt: &mut Attempt<'_>) -> Next {
        let used = self.memory.of_mut::<Used>(attempt.state);
        let number = used.number.take();
        let may_be_gone = matches!(
            error.kind(),
            ErrorKind::PermissionDenied | ErrorKind::NotFound
        );
        if let Some(number) = number
            && may_be_gone
            && !used.was_sent_again
        {
            let is_gone = match self.held.current() {
                Some((now, stored)) if now == number => {
                    let exists = self.cache.exists(&stored.context.name).await;
                    let gone = matches!(exists, Ok(false));
                    if gone {
                        self.drop_context(number, &stored);
                    }
                    gone
                }
                // Another item found out before.
                _ => true,
            };
            if is_gone {
                self.memory.of_mut::<Used>(attempt.state).was_sent_again = true;
                return Next::Elsewhere;
            }
        }
        self.inner.on_error(request, error, attempt).await
    }

    fn dry_run(&self, request: &Request) -> Result<Executed<T>> {
        self.inner.dry_run(request)
    }

    async fn cleanup(&self) {
        let is_last = {
            let mut books = lock(&self.books);
            books.users = books.users.saturating_sub(1);
            books.users == 0
        };
        if is_last
            && !self.options.keep
            && let Err(error) = self.delete().await
        {
            // It ends after its time.
            telemetry::not_cleaned(&error);
        }
        self.inner.cleanup().await;
    }
}

impl<T> fmt::Debug for WithContext<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithContext")
            .field("model", &self.cache.model())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A flag that one holder raises and that falls with it.
struct Flag<'a>(&'a AtomicBool);

impl<'a> Flag<'a> {
    fn raise(flag: &'a AtomicBool) -> Option<Self> {
        flag.compare_exchange(false, true, AcqRel, Acquire)
            .is_ok()
            // Lazily: one that is made and dropped would lower the flag.
            .then(|| Self(flag))
    }
}

impl Drop for Flag<'_> {
    fn drop(&mut self) {
        self.0.store(false, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_25_a_lease_is_renewed_after_its_share_and_ends_after_its_time() {
        let options = ContextCacheOptions::default();
        let asked = Instant::now();
        let mut lease = Lease::new(asked, &options);
        let at = |minutes: u64| asked + Duration::from_secs(60 * minutes);
        for (minutes, due) in [
            (0, Due::Nothing),
            (44, Due::Nothing),
            (45, Due::Renewal),
            (60, Due::Creation),
        ] {
            assert_eq!(lease.due(at(minutes)), due, "{minutes}");
        }
        lease.put_off(at(48));
        assert_eq!(
            lease.due(at(50)),
            Due::Nothing,
            "a quarter of twelve minutes"
        );
        assert_eq!(lease.due(at(51)), Due::Renewal);
    }
}
