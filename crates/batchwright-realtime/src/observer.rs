//! Who is told of a run's events, each from a bounded queue of its own.

use crate::{Event, Meter};
use futures::{FutureExt, Stream, future::BoxFuture};
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
    time::timeout,
};

/// Events handed to an observer in one go: a thread is borrowed for so many at most.
const HANDFUL: usize = 256;

/// Sees what happens in a run, and cannot change it.
///
/// Each observer has a queue of [`HookOptions::event_queue`](crate::HookOptions) events and is called from a thread for
/// blocking work, one event after the other: it may block. Where it is behind and its queue is full, events are left
/// out for it and counted ([`Event::Missed`]); the run never waits for it, but for
/// [`HookOptions::patience`](crate::HookOptions) at its end, so that it can see the last ones. After a panic it is
/// called for the next event as before. One that never returns keeps a thread, and the runtime from shutting down, as
/// all blocking work does.
///
/// A closure `Fn(&Event)` is an observer.
pub trait Observer: Send + Sync {
    /// This happened.
    fn on_event(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync> Observer for F {
    fn on_event(&self, event: &Event) {
        self(event);
    }
}

impl fmt::Debug for dyn Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// The events of a run as a stream; it ends after [`Event::RunEnded`], or where the run is dropped.
///
/// # Cancel safety
/// Dropping a future that waits for the next event loses nothing.
#[derive(Debug)]
pub struct Events(Queue);

impl Stream for Events {
    type Item = Arc<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Arc<Event>>> {
        if let Some(missed) = self.0.missed() {
            return Poll::Ready(Some(Arc::new(missed)));
        }
        self.0.receiver.poll_recv(cx)
    }
}

/// The receiving end of one observer.
#[derive(Debug)]
struct Queue {
    receiver: mpsc::Receiver<Arc<Event>>,
    missed: Arc<AtomicU64>,
}

impl Queue {
    /// Tells of events that were left out since this was asked last.
    fn missed(&self) -> Option<Event> {
        match self.missed.swap(0, Relaxed) {
            0 => None,
            missed => Some(Event::Missed(missed)),
        }
    }
}

/// The sending end of one observer.
struct Sink {
    sender: mpsc::Sender<Arc<Event>>,
    /// A place kept for the last event.
    last: Option<mpsc::OwnedPermit<Arc<Event>>>,
    missed: Arc<AtomicU64>,
}

/// Tells everybody who wants to know.
#[derive(Default)]
pub(crate) struct Emitter {
    sinks: Vec<Sink>,
    tasks: JoinSet<()>,
}

impl Emitter {
    /// Whether anybody listens; where not, no event need be made.
    pub(crate) fn is_active(&self) -> bool {
        !self.sinks.is_empty()
    }

    /// A queue of at least one event, and one more for the last.
    fn queue(&mut self, capacity: usize) -> Queue {
        let (sender, receiver) = mpsc::channel(capacity.max(1).saturating_add(1));
        let missed = Arc::<AtomicU64>::default();
        let last = sender.clone().try_reserve_owned().ok();
        self.sinks.push(Sink {
            sender,
            last,
            missed: Arc::clone(&missed),
        });
        Queue { receiver, missed }
    }

    pub(crate) fn stream(&mut self, capacity: usize) -> Events {
        Events(self.queue(capacity))
    }

    /// Begins to call `observer`; within a runtime.
    pub(crate) fn call(&mut self, observer: Arc<dyn Observer>, capacity: usize, meter: Meter) {
        let queue = self.queue(capacity);
        self.tasks.spawn(serve(observer, queue, meter));
    }

    pub(crate) fn emit(&mut self, event: Event, meter: &Meter) {
        let event = Arc::new(event);
        for sink in &self.sinks {
            if let Err(mpsc::error::TrySendError::Full(_)) =
                sink.sender.try_send(Arc::clone(&event))
            {
                sink.missed.fetch_add(1, Relaxed);
                meter.counters().missed_events.fetch_add(1, Relaxed);
            }
        }
    }

    /// Tells the last event, for which there is always a place. What is returned waits until observers have seen it.
    pub(crate) fn end(
        &mut self,
        event: Event,
        patience: Duration,
    ) -> Option<BoxFuture<'static, ()>> {
        let event = Arc::new(event);
        for sink in self.sinks.drain(..) {
            if let Some(last) = sink.last {
                last.send(Arc::clone(&event));
            }
        }
        let mut tasks = std::mem::take(&mut self.tasks);
        if tasks.is_empty() {
            return None;
        }
        let served = async move {
            let all = async { while tasks.join_next().await.is_some() {} };
            // Whoever is not done by then goes with the set.
            let _ = timeout(patience, all).await;
        };
        Some(served.boxed())
    }
}

impl fmt::Debug for Emitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emitter")
            .field("sinks", &self.sinks.len())
            .finish()
    }
}

/// Calls an observer with what is in its queue, until the run is over.
async fn serve(observer: Arc<dyn Observer>, mut queue: Queue, meter: Meter) {
    let mut events = Vec::new();
    loop {
        if queue.receiver.recv_many(&mut events, HANDFUL).await == 0 {
            return;
        }
        let missed = queue.missed();
        let observer = Arc::clone(&observer);
        let meter = meter.clone();
        let handful = spawn_blocking(move || {
            for event in missed.map(Arc::new).into_iter().chain(events.drain(..)) {
                let called = catch_unwind(AssertUnwindSafe(|| observer.on_event(&event)));
                if called.is_err() {
                    meter.counters().observer_panics.fetch_add(1, Relaxed);
                }
            }
            events
        });
        // An error means that the runtime shuts down.
        let Ok(emptied) = handful.await else { return };
        events = emptied;
    }
}
