//! A pool that many callers share, such as the handlers of a server.

use crate::{EndReason, Finished, NoLog, ParallelPool, WorkItem};
use batchwright_core::{Ending, Error, ErrorKind, Request, Response, Result, RetryClass};
use futures::{StreamExt, stream};
use std::{
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How a [`CallPool`] treats its callers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallPoolOptions {
    /// How many calls may wait beside the `max_in_flight` ones under way; one more is refused at once with the code
    /// `saturated`. Default none: every call waits its turn.
    pub max_pending: Option<usize>,
    /// The longest one caller waits, all waits included; past it, its call is given up and its place is free. Default
    /// none.
    pub submit_timeout: Option<Duration>,
}

impl CallPoolOptions {
    /// Bounds how many calls may wait.
    #[must_use]
    pub fn with_max_pending(mut self, calls: usize) -> Self {
        self.max_pending = Some(calls);
        self
    }

    /// Bounds how long one caller waits.
    #[must_use]
    pub fn with_submit_timeout(mut self, timeout: Duration) -> Self {
        self.submit_timeout = Some(timeout);
        self
    }
}

/// A pool that many callers share: each asks for one thing and waits for its answer, and all of them share one bound
/// of calls in flight, one cooldown and one set of rate limits. Cheap to clone.
///
/// It differs from a [`Run`](crate::Run) in this: rows that fail alike do not stop it, since they belong to different
/// people; an error that nobody can be served through (a bad key, no money) ends the calls of those who wait, and the
/// pool begins anew for the next ones. It keeps no record of what it sends.
///
/// When the last clone is dropped, what is under way is given up; [`close`](Self::close) lets it end first.
pub struct CallPool<T = Response> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    sender: mpsc::Sender<Ask<T>>,
    options: CallPoolOptions,
    /// The most calls waiting or under way.
    limit: usize,
    pending: AtomicUsize,
    next_row: AtomicU64,
    closing: CancellationToken,
    /// Cancelled once the driver is done.
    closed: CancellationToken,
    /// Ends the driver with the last clone.
    _driver: JoinSet<()>,
}

type Ask<T> = WorkItem<T, Reply<T>>;
type Answer<T> = Result<Finished<T>>;

/// The way back to a caller. Where a run hands its row back, it is put aside for the reason to come.
struct Reply<T> {
    sender: Option<oneshot::Sender<Answer<T>>>,
    /// None until a run has it: nobody has to be told why that one ended.
    orphans: Option<Arc<Orphans<T>>>,
}

type Orphans<T> = Mutex<Vec<oneshot::Sender<Answer<T>>>>;

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some((sender, orphans)) = self.sender.take().zip(self.orphans.as_ref()) {
            let mut orphans = orphans.lock().unwrap_or_else(PoisonError::into_inner);
            orphans.push(sender);
        }
    }
}

impl<T: Send + Sync + 'static> ParallelPool<T> {
    /// Begins a pool that many callers share, with this pool's strategy, settings and hooks. Its run is driven by a
    /// task of its own, which ends with the last clone.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn shared(&self, options: CallPoolOptions) -> CallPool<T> {
        let pool = self.for_callers();
        let places = pool.options().max_in_flight.max(1);
        // As many as may be under way: more only move waiting callers from one queue to another.
        let (sender, receiver) = mpsc::channel(places);
        let (closing, closed) = (CancellationToken::new(), CancellationToken::new());
        let driver = Driver {
            pool,
            orphans: Arc::default(),
            source: Arc::new(Mutex::new(Source {
                closing: Some(Box::pin(closing.clone().cancelled_owned())),
                receiver,
            })),
            closed: closed.clone(),
        };
        let limit = options.max_pending.map(|more| places.saturating_add(more));
        CallPool {
            shared: Arc::new(Shared {
                sender,
                limit: limit.unwrap_or(usize::MAX),
                options,
                pending: AtomicUsize::new(0),
                next_row: AtomicU64::new(0),
                closing,
                closed,
                _driver: JoinSet::from_iter([driver.drive()]),
            }),
        }
    }
}

impl<T: Send + Sync + 'static> CallPool<T> {
    /// Asks for an answer and waits for it. A request without an id gets one: `req-1`, `req-2` and so on.
    ///
    /// # Errors
    /// What the item failed with; `ContentFiltered` where the model refused; `Overloaded` with the code `saturated`
    /// where too many wait; `Timeout` with the code `submit_timeout`; `Cancelled` with the code `closed` after
    /// [`close`](Self::close).
    ///
    /// # Cancel safety
    /// Dropping the future gives the call up, also where it is in flight; it may be billed all the same.
    pub async fn submit(&self, request: Request) -> Result<T> {
        into_output(self.submit_detailed(request).await?)
    }

    /// The same with all that is known of the item. What the item failed with is in its outcome.
    ///
    /// # Errors
    /// Where the item has no outcome: as [`submit`](Self::submit), but for failures of the item and refusals.
    ///
    /// # Cancel safety
    /// As [`submit`](Self::submit).
    pub async fn submit_detailed(&self, request: Request) -> Result<Finished<T>> {
        self.submit_within(request, self.shared.options.submit_timeout)
            .await
    }

    /// The same with a bound of its own to how long the caller waits; `None` is none.
    ///
    /// # Errors
    /// As [`submit_detailed`](Self::submit_detailed).
    ///
    /// # Cancel safety
    /// As [`submit`](Self::submit).
    pub async fn submit_within(
        &self,
        request: Request,
        limit: Option<Duration>,
    ) -> Result<Finished<T>> {
        let _place = self.enter()?;
        let answer = self.ask(request);
        let Some(limit) = limit else {
            return answer.await;
        };
        timeout(limit, answer).await.unwrap_or_else(|_elapsed| {
            let message = format!("answer within {limit:?}");
            // Whether it was sent the caller cannot know.
            Err(Error::new(ErrorKind::Timeout, message).with_code("submit_timeout"))
        })
    }

    /// Calls that wait or are under way.
    pub fn pending(&self) -> usize {
        self.shared.pending.load(Relaxed)
    }

    /// Refuses new calls, and waits until all that were accepted ended. Whoever calls it at the same time waits for
    /// the same end.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing about the closing: it goes on as long as a clone of the pool is there.
    pub async fn close(&self) {
        self.shared.closing.cancel();
        self.shared.closed.cancelled().await;
    }

    fn enter(&self) -> Result<Place<'_>> {
        let pending = &self.shared.pending;
        // Made before the check, so that its drop takes back what was added.
        let before = pending.fetch_add(1, Relaxed);
        let place = Place(pending);
        if self.shared.closing.is_cancelled() {
            return Err(closed());
        }
        if before >= self.shared.limit {
            let message = format!("take the call: {before} wait or are under way");
            return Err(Error::new(ErrorKind::Overloaded, message)
                .with_class(RetryClass::NotSent)
                .with_code("saturated"));
        }
        Ok(place)
    }

    async fn ask(&self, mut request: Request) -> Result<Finished<T>> {
        let row = self.shared.next_row.fetch_add(1, Relaxed);
        if request.custom_id.is_empty() {
            request.custom_id = format!("req-{}", row + 1);
        }
        let (sender, receiver) = oneshot::channel();
        let cancel = CancellationToken::new();
        let _unwanted = cancel.clone().drop_guard();
        let reply = Reply {
            sender: Some(sender),
            orphans: None,
        };
        let item = WorkItem::new(row, request)
            .with_context(reply)
            .with_cancel(cancel);
        self.shared.sender.send(item).await.map_err(|_| closed())?;
        receiver.await.unwrap_or_else(|_| Err(closed()))
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Cancelled, "take the call: the pool is closed").with_code("closed")
}

/// One of the calls that are counted.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// What the callers ask for; no more once the pool closes.
struct Source<T> {
    closing: Option<std::pin::Pin<Box<WaitForCancellationFutureOwned>>>,
    receiver: mpsc::Receiver<Ask<T>>,
}

/// Runs the pool, again and again where an error stops it.
struct Driver<T> {
    pool: ParallelPool<T>,
    source: Arc<Mutex<Source<T>>>,
    orphans: Arc<Orphans<T>>,
    closed: CancellationToken,
}

impl<T: Send + Sync + 'static> Driver<T> {
    async fn drive(self) {
        // Also where the driver is aborted: nobody waits for it in vain.
        let _closed = self.closed.clone().drop_guard();
        loop {
            let mut run = self
                .pool
                .run(self.items(), Arc::new(NoLog), CancellationToken::new());
            while let Some(Finished {
                row,
                index,
                outcome,
                usage,
                mut context,
                ..
            }) = run.next().await
            {
                let sender = context.sender.take().expect("a row ends once");
                // Whoever went away does not want it.
                let _ = sender.send(Ok(Finished::new(row, index, outcome, usage, ())));
            }
            let reason = run.ended().map(|end| end.reason.clone());
            drop(run);
            let why = match reason {
                Some(EndReason::Stopped(error)) => error,
                _ => closed(),
            };
            for orphan in
                std::mem::take(&mut *self.orphans.lock().unwrap_or_else(PoisonError::into_inner))
            {
                let _ = orphan.send(Err(why.clone()));
            }
            if self.is_drained() {
                return;
            }
        }
    }

    /// What callers ask for, as the source of one run.
    fn items(&self) -> impl futures::Stream<Item = Result<Ask<T>>> + use<T> {
        let (source, orphans) = (Arc::clone(&self.source), Arc::clone(&self.orphans));
        stream::poll_fn(move |cx| {
            let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
            let Source { closing, receiver } = &mut *source;
            if let Some(is_closing) = closing
                && is_closing.as_mut().poll(cx).is_ready()
            {
                *closing = None;
                receiver.close();
            }
            let Poll::Ready(item) = receiver.poll_recv(cx) else {
                return Poll::Pending;
            };
            Poll::Ready(item.map(|mut item| {
                item.context.orphans = Some(Arc::clone(&orphans));
                Ok(item)
            }))
        })
    }

    fn is_drained(&self) -> bool {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        source.receiver.is_closed() && source.receiver.is_empty()
    }
}

/// The output of an item that succeeded, or why there is none.
pub(crate) fn into_output<T, C>(finished: Finished<T, C>) -> Result<T> {
    match finished.outcome.ending {
        Ending::Succeeded(output) => Ok(output),
        Ending::Failed(error) | Ending::Unreadable(error) => Err(error),
        Ending::Refused(response) => Err(Error::new(
            ErrorKind::ContentFiltered,
            "answer: the model refused",
        )
        .with_usage(response.usage)),
        Ending::Cancelled => Err(Error::new(ErrorKind::Cancelled, "answer: it was cancelled")),
        ending @ (Ending::Expired | Ending::Missing) => Err(Error::new(
            ErrorKind::Unexpected,
            format!("answer: it is {}", ending.as_str()),
        )),
    }
}

impl<T> Clone for CallPool<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> fmt::Debug for CallPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallPool")
            .field("options", &self.shared.options)
            .field("pending", &self.shared.pending.load(Relaxed))
            .finish_non_exhaustive()
    }
}
