//! A run's rows in the order of its source.

use crate::{Finished, Run, WorkItem};
use batchwright_core::{Response, Result};
use futures::Stream;
use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

/// A run whose rows come in the order its source gave them.
///
/// Rows that ended before an older one wait in a buffer. No row is taken from the source that is `ahead` or more behind
/// the oldest one that has not been yielded, so that the buffer holds fewer than `ahead` rows: a slow row holds the
/// source back in the end. Where a run was stopped, rows it handed back are left out, and the order of the others holds.
///
/// # Cancel safety
/// As that of the [`Run`]; rows in the buffer are lost with it, though they are recorded.
pub struct InOrder<S, T = Response, C = ()> {
    run: Run<S, T, C>,
    ahead: u64,
    next: u64,
    buffer: BTreeMap<u64, Finished<T, C>>,
    is_over: bool,
}

impl<S, T, C> InOrder<S, T, C> {
    /// The run itself, for its progress and its end.
    pub fn run(&self) -> &Run<S, T, C> {
        &self.run
    }

    /// Rows that wait for an older one.
    pub fn held(&self) -> usize {
        self.buffer.len()
    }
}

impl<S, T, C> Run<S, T, C> {
    /// The rows in the order of the source, with a window of `ahead` rows (at least 1). Twice `max_in_flight` keeps
    /// the pool busy where answers take about the same time; more where they differ much.
    pub fn in_order(mut self, ahead: usize) -> InOrder<S, T, C> {
        let ahead = ahead.max(1) as u64;
        let next = self.take_until(None);
        self.take_until(Some(next.saturating_add(ahead)));
        InOrder {
            run: self,
            ahead,
            next,
            buffer: BTreeMap::new(),
            is_over: false,
        }
    }
}

impl<S, T, C> Stream for InOrder<S, T, C>
where
    S: Stream<Item = Result<WorkItem<T, C>>>,
    T: Send + Sync + 'static,
    C: Send + 'static,
{
    type Item = Finished<T, C>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Finished<T, C>>> {
        let this = self.get_mut();
        loop {
            let oldest = match this.buffer.first_entry() {
                Some(first) if this.is_over || *first.key() == this.next => Some(first),
                _ => None,
            };
            if let Some(oldest) = oldest {
                let (index, finished) = oldest.remove_entry();
                this.next = index + 1;
                this.run
                    .take_until(Some(this.next.saturating_add(this.ahead)));
                return Poll::Ready(Some(finished));
            }
            if this.is_over {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut this.run).poll_next(cx)) {
                Some(finished) => {
                    this.buffer.insert(finished.index, finished);
                }
                None => this.is_over = true,
            }
        }
    }
}

impl<S, T, C> fmt::Debug for InOrder<S, T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InOrder")
            .field("run", &self.run)
            .field("held", &self.buffer.len())
            .finish_non_exhaustive()
    }
}
