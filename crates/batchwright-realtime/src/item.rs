//! What goes into the pool and what comes out.

use crate::Strategy;
use batchwright_core::{Outcome, Request, Response, Usage};
use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// One row for the pool. `T` is what a success holds, `C` what the caller wants back with the row.
#[non_exhaustive]
pub struct WorkItem<T = Response, C = ()> {
    /// The row's number in the job: how the log and the caller know it. Rows of one run differ.
    pub row: u64,
    /// What is asked.
    pub request: Request,
    /// The caller's own, given back with the outcome.
    pub context: C,
    /// How this row is answered, where not as the pool does.
    pub strategy: Option<Arc<dyn Strategy<Output = T>>>,
    /// Cancelled where nobody wants the row any more: it ends as cancelled, at once where it is in flight, else when
    /// it would be its turn.
    pub cancel: Option<CancellationToken>,
}

impl<T> WorkItem<T> {
    /// Row number `row` asking `request`.
    pub fn new(row: u64, request: Request) -> Self {
        Self {
            row,
            request,
            context: (),
            strategy: None,
            cancel: None,
        }
    }
}

impl<T, C> WorkItem<T, C> {
    /// With this for the caller, in the place of what was there.
    pub fn with_context<D>(self, context: D) -> WorkItem<T, D> {
        WorkItem {
            row: self.row,
            request: self.request,
            context,
            strategy: self.strategy,
            cancel: self.cancel,
        }
    }

    /// Answered by this strategy instead of the pool's. A run keeps every strategy it was handed until its end, to clean
    /// up after it: share one among items rather than make one for each.
    #[must_use]
    pub fn with_strategy(mut self, strategy: Arc<dyn Strategy<Output = T>>) -> Self {
        self.strategy = Some(strategy);
        self
    }

    /// Given up where this token is cancelled.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancellationToken) -> Self {
        self.cancel = Some(cancel);
        self
    }
}

impl<T, C> fmt::Debug for WorkItem<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkItem")
            .field("row", &self.row)
            .field("custom_id", &self.request.custom_id)
            .finish_non_exhaustive()
    }
}

/// One row that ended. Its outcome was durable before this value existed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finished<T = Response, C = ()> {
    /// The row's number in the job.
    pub row: u64,
    /// How it ended. Its cost is that of all attempts that were answered; what others may have cost is unknown,
    /// and `possibly_paid_attempts` counts them.
    pub outcome: Outcome<T>,
    /// Tokens of all its attempts that were answered, those that were not used included. What a cache answered used
    /// none.
    pub usage: Usage,
    /// The place in the source, counted from 0.
    pub index: u64,
    /// The caller's own.
    pub context: C,
}

impl<T, C> Finished<T, C> {
    pub(crate) fn new(row: u64, index: u64, outcome: Outcome<T>, usage: Usage, context: C) -> Self {
        Self {
            row,
            outcome,
            usage,
            index,
            context,
        }
    }
}

/// What strategies know of one item from its earlier attempts: one value of each type.
#[derive(Default)]
pub struct ItemState(HashMap<TypeId, Box<dyn Any + Send + Sync>>);

impl ItemState {
    /// The value of this type, where there is one.
    pub fn get<S: Any + Send + Sync>(&self) -> Option<&S> {
        self.0.get(&TypeId::of::<S>())?.downcast_ref()
    }

    /// The value of this type, made on first use.
    pub fn get_mut<S: Any + Send + Sync + Default>(&mut self) -> &mut S {
        self.0
            .entry(TypeId::of::<S>())
            .or_insert_with(|| Box::new(S::default()))
            .downcast_mut()
            .expect("the key is the value's type")
    }
}

impl fmt::Debug for ItemState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemState")
            .field("values", &self.0.len())
            .finish()
    }
}
