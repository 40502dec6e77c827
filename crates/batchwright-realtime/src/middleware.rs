//! What stands around every item: sees it before its first attempt and after its last.

use crate::{Strategy, hooks::Hooks};
use async_trait::async_trait;
use batchwright_core::{Error, ErrorKind, Request, Response, Result, RetryClass};
use futures::FutureExt;
use std::{fmt, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::time::timeout;

/// The code of the error a row ends with that a middleware dropped.
pub(crate) const DROPPED: &str = "middleware_dropped";
/// The code of the error a row ends with whose middleware failed, panicked or took too long.
pub(crate) const FAILED: &str = "middleware_failed";

/// Code around every item. Middlewares are an onion: the first one added sees an item first and its end last.
///
/// Each method is called at most once per item, not per attempt, and runs beside other items. `before` runs ahead of
/// the intent and the others ahead of the outcome's record, so that what is durable is what the caller is shown. One
/// that fails, panics or takes longer than [`HookOptions::middleware_timeout`](crate::HookOptions) fails its item, with
/// the code `middleware_failed`, and nothing else.
#[async_trait]
pub trait Middleware<T = Response>: Send + Sync {
    /// Sees an item that was taken from the source; may change its request or its strategy, or drop it. The default
    /// lets it pass.
    ///
    /// A dropped item ends as failed with kind [`Cancelled`](ErrorKind::Cancelled) and the code `middleware_dropped`,
    /// without an attempt. The request's `custom_id` must stay what it is, since results are joined by it: an item
    /// whose id was changed fails.
    ///
    /// # Errors
    /// Every failure: the item ends with it, and nothing is sent.
    ///
    /// # Cancel safety
    /// Dropped after the timeout and where the run is dropped; nothing was sent then.
    async fn before(&self, _item: &mut Entering<'_, T>) -> Result<Flow> {
        Ok(Flow::Pass)
    }

    /// Sees a success and says what it is to be instead. The default leaves it. Refusals of the model are not shown.
    ///
    /// # Errors
    /// Every failure: the item ends with it, though it was paid; its usage and cost stay in the outcome.
    ///
    /// # Cancel safety
    /// Dropped after the timeout and where the run is dropped; the answer is lost then.
    async fn after(&self, _row: u64, _request: &Request, output: T) -> Result<T>
    where
        T: Send + 'static,
    {
        Ok(output)
    }

    /// Sees the error an item is about to end with, when no attempt will follow: the same or another error, or a
    /// success in its place, which no other middleware sees any more. The default leaves it. Not asked about items
    /// that a middleware itself ended.
    ///
    /// # Cancel safety
    /// Dropped after the timeout and where the run is dropped.
    async fn on_error(&self, _row: u64, _request: &Request, error: Error) -> Recovery<T>
    where
        T: Send + 'static,
    {
        Recovery::Error(error)
    }
}

/// An item before its first attempt.
#[non_exhaustive]
pub struct Entering<'a, T = Response> {
    /// The row's number.
    pub row: u64,
    /// What is asked; may be changed, but for its `custom_id`.
    pub request: &'a mut Request,
    /// How it is answered, where not as the pool does; may be changed.
    pub strategy: &'a mut Option<Arc<dyn Strategy<Output = T>>>,
}

impl<T> fmt::Debug for Entering<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entering")
            .field("row", &self.row)
            .field("custom_id", &self.request.custom_id)
            .finish_non_exhaustive()
    }
}

/// What becomes of an item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flow {
    /// It goes on.
    #[default]
    Pass,
    /// It ends here, unsent.
    Drop,
}

/// What an item that failed for good ends as.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "there is no third way")]
pub enum Recovery<T = Response> {
    /// Failed with this error.
    Error(Error),
    /// Succeeded with this.
    Success(T),
}

/// Shows an item to all middlewares, outermost first. An error is the item's end.
pub(crate) async fn before<T: Send + 'static>(
    hooks: &Hooks<T>,
    mut item: Entering<'_, T>,
) -> Result<()> {
    let custom_id = item.request.custom_id.clone();
    for middleware in &hooks.middlewares {
        let flow = within(hooks, async { middleware.before(&mut item).await }).await;
        let changed = item.request.custom_id != custom_id;
        if changed {
            item.request.custom_id.clone_from(&custom_id);
        }
        match flow?? {
            Flow::Drop => {
                let error = Error::new(ErrorKind::Cancelled, "answer: a middleware dropped it");
                return Err(error.with_class(RetryClass::RowFatal).with_code(DROPPED));
            }
            Flow::Pass if changed => return Err(failed("it changed the custom id")),
            Flow::Pass => {}
        }
    }
    Ok(())
}

/// Shows a success to all middlewares, innermost first.
pub(crate) async fn after<T: Send + 'static>(
    hooks: &Hooks<T>,
    row: u64,
    request: &Request,
    mut output: T,
) -> Result<T> {
    for middleware in hooks.middlewares.iter().rev() {
        output = within(hooks, async {
            middleware.after(row, request, output).await
        })
        .await??;
    }
    Ok(output)
}

/// Shows a final error to all middlewares, innermost first, until one has a success for it.
pub(crate) async fn on_error<T: Send + 'static>(
    hooks: &Hooks<T>,
    row: u64,
    request: &Request,
    mut error: Error,
) -> Recovery<T> {
    for middleware in hooks.middlewares.iter().rev() {
        let asked = async { middleware.on_error(row, request, error.clone()).await };
        match within(hooks, asked).await {
            Ok(Recovery::Error(changed)) => error = changed,
            Ok(success) => return success,
            // What the row failed with says more than what its handler did.
            Err(broken) => {
                return Recovery::Error(error.context(broken.message()).with_code(FAILED));
            }
        }
    }
    Recovery::Error(error)
}

/// Runs a middleware's work within its time, and without its panic being anybody else's.
async fn within<T: Send + 'static, R>(
    hooks: &Hooks<T>,
    work: impl Future<Output = R>,
) -> Result<R> {
    contained(hooks.options.middleware_timeout, work)
        .await
        .map_err(|broken| failed(broken.as_str()))
}

fn failed(how: &str) -> Error {
    let message = format!("pass a middleware: {how}");
    Error::new(ErrorKind::Unexpected, message)
        .with_class(RetryClass::RowFatal)
        .with_code(FAILED)
}

/// How a caller's code broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    Panicked,
    TookTooLong,
}

impl Broken {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            // Its message may hold a prompt, and the hook that prints panics has seen it.
            Self::Panicked => "it panicked",
            Self::TookTooLong => "it took too long",
        }
    }
}

/// Runs a caller's code within `limit`, and without its panic being anybody else's.
pub(crate) async fn contained<R>(
    limit: Duration,
    work: impl Future<Output = R>,
) -> Result<R, Broken> {
    match timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_panic)) => Err(Broken::Panicked),
        Err(_) => Err(Broken::TookTooLong),
    }
}
