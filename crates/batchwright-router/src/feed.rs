//! A stream whose items a future puts in, without a task of its own.

use batchwright_core::Result;
use futures::{Stream, future::BoxFuture};
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::sync::mpsc;

/// What `work` sends, and in the end its error.
pub(crate) struct Feed<T> {
    work: Option<BoxFuture<'static, Result<()>>>,
    items: mpsc::Receiver<T>,
    end: Result<()>,
}

impl<T> Feed<T> {
    /// At most `bound` items wait for the reader.
    pub(crate) fn new<F>(bound: usize, work: impl FnOnce(mpsc::Sender<T>) -> F) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (sender, items) = mpsc::channel(bound);
        Self {
            work: Some(Box::pin(work(sender))),
            items,
            end: Ok(()),
        }
    }
}

impl<T> Stream for Feed<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(work) = &mut this.work
            && let Poll::Ready(end) = work.as_mut().poll(cx)
        {
            this.work = None;
            this.end = end;
        }
        match this.items.poll_recv(cx) {
            Poll::Ready(Some(item)) => Poll::Ready(Some(Ok(item))),
            Poll::Ready(None) if this.work.is_none() => {
                let end = std::mem::replace(&mut this.end, Ok(()));
                Poll::Ready(end.err().map(Err))
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl<T> fmt::Debug for Feed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}
