//! One waker for a connection that is polled by whoever uses it.

use futures::task::AtomicWaker;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// Nobody is polling: a ring wakes the task that polled last.
const IDLE: u8 = 0;
/// A poll is under way.
const POLLING: u8 = 1;
/// A ring came while the poll was under way.
const RUNG: u8 = 2;

/// How often a poll that rang its own bell is repeated at once. Two suffice for an answer that has arrived whole; a task
/// out of its budget rings each time, and must yield.
const ROUNDS: u32 = 3;

/// Takes the wake-ups of a connection that is polled in the task of its exchange.
///
/// A connection and those who use it talk over channels, and each message wakes the other side, which here is the task
/// that runs already: it would be scheduled again for nothing, at times on another thread. A ring within a poll repeats
/// the poll instead.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let rung = self
            .state
            .compare_exchange(POLLING, RUNG, Ordering::AcqRel, Ordering::Acquire);
        if rung == Err(IDLE) {
            self.task.wake();
        }
    }
}

impl Bell {
    /// Polls with `waker`, which rings this bell; again where it rang meanwhile.
    pub(crate) fn poll<T>(
        &self,
        cx: &Context<'_>,
        waker: &Waker,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.task.register(cx.waker());
        let mut inner = Context::from_waker(waker);
        for _ in 0..ROUNDS {
            self.state.store(POLLING, Ordering::Release);
            if let Poll::Ready(ready) = poll(&mut inner) {
                self.state.store(IDLE, Ordering::Release);
                return Poll::Ready(ready);
            }
            let quiet =
                self.state
                    .compare_exchange(POLLING, IDLE, Ordering::AcqRel, Ordering::Acquire);
            if quiet.is_ok() {
                return Poll::Pending;
            }
        }
        self.state.store(IDLE, Ordering::Release);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Forgets the task that polled last: it is done with the connection.
    pub(crate) fn forget(&self) {
        drop(self.task.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn bell() -> (Arc<Bell>, Waker, Arc<Count>, Waker) {
        let (bell, count) = (Arc::new(Bell::default()), Arc::new(Count::default()));
        let (ring, task) = (
            Waker::from(Arc::clone(&bell)),
            Waker::from(Arc::clone(&count)),
        );
        (bell, ring, count, task)
    }

    #[test]
    fn a_ring_within_the_poll_repeats_it_and_one_after_it_wakes_the_task() {
        let (bell, ring, count, task) = bell();
        let mut polls = 0;
        let polled = bell.poll(&Context::from_waker(&task), &ring, |cx| {
            polls += 1;
            if polls == 1 {
                cx.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        });
        assert_eq!((polled, polls), (Poll::Pending, 2));
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        ring.wake_by_ref();
        ring.wake_by_ref();
        assert_eq!(count.0.load(Ordering::SeqCst), 1, "once for each poll");
    }

    #[test]
    fn a_poll_that_rings_each_time_yields_and_is_woken() {
        let (bell, ring, count, task) = bell();
        let mut polls = 0;
        let polled = bell.poll(&Context::from_waker(&task), &ring, |cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        assert_eq!((polled, polls), (Poll::Pending, ROUNDS));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_forgotten_task_is_left_alone() {
        let (bell, ring, count, task) = bell();
        let polled = bell.poll(&Context::from_waker(&task), &ring, |_| Poll::<()>::Pending);
        assert!(polled.is_pending());
        bell.forget();
        ring.wake();
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
    }
}
