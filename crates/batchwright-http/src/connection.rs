//! Keeps reqwest's pool from opening connections nobody will use.
//!
//! The pool below reqwest races a new connection against the next idle one and, where the idle one
//! wins, finishes the new one in the background. A connection reaches the pool a moment after its
//! answer's last byte was read, so under load almost every request starts such a race, and hundreds of
//! connections are opened for a few dozen requests in flight. Here a new connection waits for that
//! moment first, and one that nobody waits for any more is never opened.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tower_layer::Layer;
use tower_service::Service;

/// How long a new connection waits at most for one that is on its way back. Returning takes
/// microseconds; on a machine under load, as long as the runtime's queue is.
const GRACE: Duration = Duration::from_millis(50);

/// How long after the last exchange ended a connection may still be on its way back. Later ones are in
/// the pool already, so that a poller that found it empty waits for nothing.
const RETURNING: Duration = Duration::from_secs(1);

tokio::task_local! {
    /// Set while a request waits for its connection: what the pool finishes in the background is
    /// polled outside of it.
    static WANTED: ();
}

/// Runs `exchange` so that the connections it asks for know whether it still waits.
pub(crate) async fn wanted<F: Future>(exchange: F) -> F::Output {
    WANTED.scope((), exchange).await
}

/// How many exchanges are under way and how many connections are open, as far as can be seen from here.
#[derive(Debug)]
pub(crate) struct Tally {
    busy: AtomicUsize,
    open: AtomicUsize,
    start: Instant,
    /// Milliseconds from `start` to the end of the exchange that ended last, plus one; 0 is none.
    last_end: AtomicU64,
}

/// Counts one exchange until it is dropped.
#[derive(Debug)]
pub(crate) struct Busy {
    tally: Arc<Tally>,
    /// Whether the connection goes back to the pool.
    returns: bool,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            busy: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            start: Instant::now(),
            last_end: AtomicU64::new(0),
        }
    }

    /// Counts an exchange.
    pub(crate) fn start(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy {
            tally: Arc::clone(self),
            returns: false,
        }
    }

    /// Whether a connection may be on its way back to the pool. Not if each has an exchange of its own.
    fn expects_one_back(&self) -> bool {
        let last_end = self.last_end.load(Ordering::Relaxed);
        self.open.load(Ordering::Relaxed) >= self.busy.load(Ordering::Relaxed)
            && last_end > 0
            && self.now().saturating_sub(last_end.into()) < RETURNING.as_millis()
    }

    fn now(&self) -> u128 {
        self.start.elapsed().as_millis() + 1
    }
}

impl Busy {
    /// The answer was read to its end and the server keeps the connection.
    pub(crate) fn returns(&mut self) {
        self.returns = true;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.tally.busy.fetch_sub(1, Ordering::Relaxed);
        if self.returns {
            let now = u64::try_from(self.tally.now()).unwrap_or(u64::MAX);
            self.tally.last_end.store(now, Ordering::Relaxed);
        } else {
            let less = |open: usize| open.checked_sub(1);
            // Already 0 where the connection was never made.
            let _ = self
                .tally
                .open
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

/// Puts a [`Gate`] before the connector.
#[derive(Clone, Debug)]
pub(crate) struct GateLayer(pub(crate) Arc<Tally>);

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate {
            inner,
            tally: Arc::clone(&self.0),
        }
    }
}

/// A connector that opens what is still wanted after the grace.
#[derive(Clone, Debug)]
pub(crate) struct Gate<S> {
    inner: S,
    tally: Arc<Tally>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<S, R> Service<R> for Gate<S>
where
    S: Service<R, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, target: R) -> Self::Future {
        let connect = self.inner.call(target);
        let tally = Arc::clone(&self.tally);
        Box::pin(async move {
            let mut replaces = false;
            if tally.expects_one_back() {
                let mut grace = pin!(tokio::time::sleep(GRACE));
                poll_fn(|cx| {
                    if WANTED.try_with(|()| ()).is_err() {
                        return Poll::Ready(Err(BoxError::from(
                            "another connection was free first",
                        )));
                    }
                    grace.as_mut().poll(cx).map(Ok)
                })
                .await?;
                // None came back: one that was counted as open must have been closed while idle.
                replaces = true;
            }
            // Counted before it is there, so that the next call does not open another meanwhile. Where
            // it fails, the end of its exchange takes it off again.
            if !replaces {
                tally.open.fetch_add(1, Ordering::Relaxed);
            }
            connect.await
        })
    }
}
