//! The durable record a run keeps of what it sends and of how rows end.

use async_trait::async_trait;
use batchwright_core::{Outcome, Response, Result};

/// The durable record a run keeps. The pool waits for both calls, so a slow disk slows sending down
/// (F-159), and an error of either stops the run (F-145).
///
/// Calls for different rows come at the same time, as many as rows may be in flight: an implementation
/// can make many of them durable with one fsync.
#[async_trait]
pub trait DispatchLog<T = Response>: Send + Sync {
    /// Records that attempt number `attempt` (from 1) of `row` is about to leave; returns when that is
    /// as durable as the job wants it. The request leaves afterwards, unless the run was stopped
    /// meanwhile: an intent without an outcome is a row that *may* have been sent.
    ///
    /// # Errors
    /// Every failure to record. Nothing is sent then, and the run stops with this error.
    ///
    /// # Cancel safety
    /// Dropped when the run's stream is dropped; the record may or may not exist then, and nothing was
    /// sent.
    async fn dispatching(&self, row: u64, attempt: u32) -> Result<()>;

    /// Records how `row` ended; returns when that is durable. The outcome is shown to the caller, and the
    /// row's place is given to another, afterwards.
    ///
    /// # Errors
    /// Every failure to record. The outcome is not shown, and the run stops with this error.
    ///
    /// # Cancel safety
    /// Dropped when the run's stream is dropped; the record may or may not exist then.
    async fn finished(&self, row: u64, outcome: &Outcome<T>) -> Result<()>;
}

/// Keeps no record: for runs whose outcomes live in memory and may be lost with it.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it holds nothing")]
pub struct NoLog;

#[async_trait]
impl<T: Sync> DispatchLog<T> for NoLog {
    async fn dispatching(&self, _row: u64, _attempt: u32) -> Result<()> {
        Ok(())
    }

    async fn finished(&self, _row: u64, _outcome: &Outcome<T>) -> Result<()> {
        Ok(())
    }
}
