//! What is done with each item that ended.

use batchwright_core::{Outcome, Response, Result};
use std::fmt;

use async_trait::async_trait;

/// Sees each item after its outcome is durable and before it is yielded, such as to save it elsewhere.
///
/// Runs where the attempt ran, so that as many run at once as items are in flight, and an item keeps its place until it
/// was seen: a slow one slows the run down. All are over when the run ends. One that fails, panics or takes longer
/// than [`HookOptions::post_process_timeout`](crate::HookOptions) is counted
/// ([`MetricsSnapshot::post_process_failures`](crate::MetricsSnapshot)) and logged; the item is not touched by it.
///
/// A closure `Fn(u64, &Outcome<T>) -> Result<()>` is one that does not wait; it must not block for long. For one item
/// after the other, in order of their ends, do the work where the run's stream is read.
#[async_trait]
pub trait PostProcessor<T = Response>: Send + Sync {
    /// Row number `row` ended so.
    ///
    /// # Errors
    /// Every failure; it is counted and logged.
    ///
    /// # Cancel safety
    /// Dropped after its timeout and where the run is dropped.
    async fn process(&self, row: u64, outcome: &Outcome<T>) -> Result<()>;
}

#[async_trait]
impl<T, F> PostProcessor<T> for F
where
    T: Sync,
    F: Fn(u64, &Outcome<T>) -> Result<()> + Send + Sync,
{
    async fn process(&self, row: u64, outcome: &Outcome<T>) -> Result<()> {
        self(row, outcome)
    }
}

impl<T> fmt::Debug for dyn PostProcessor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostProcessor")
    }
}
