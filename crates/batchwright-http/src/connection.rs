//! Keeps the pool from opening connections nobody will use.
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
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tower_layer::Layer;
use tower_service::Service;

/// How long a new connection waits for one that is on its way back. Returning takes microseconds;
/// under load, as long as the runtime's queue is.
const GRACE: Duration = Duration::from_millis(10);

tokio::task_local! {
    /// Set while a request waits for its connection: what the pool finishes in the background is
    /// polled outside of it.
    static WANTED: ();
}

/// Runs `exchange` so that the connections it asks for know whether it still waits.
pub(crate) async fn wanted<F: Future>(exchange: F) -> F::Output {
    WANTED.scope((), exchange).await
}

/// How many exchanges are under way and how many connections were ever opened.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    busy: AtomicUsize,
    opened: AtomicUsize,
}

/// Counts one exchange until it is dropped.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Tally>);

impl Tally {
    /// Counts an exchange.
    pub(crate) fn start(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Whether some open connection may be idle or about to be: if every one ever opened has an
    /// exchange of its own, waiting for one is in vain.
    fn may_have_idle(&self) -> bool {
        self.opened.load(Ordering::Relaxed) >= self.busy.load(Ordering::Relaxed)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
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
            if tally.may_have_idle() {
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
            }
            tally.opened.fetch_add(1, Ordering::Relaxed);
            connect.await
        })
    }
}
