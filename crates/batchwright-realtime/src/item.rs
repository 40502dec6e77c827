//! What goes into the pool and what comes out.

use batchwright_core::{Outcome, Request};

/// One row for the pool.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkItem {
    /// The row's number in the job: how the log and the caller know it. Rows of one run differ.
    pub row: u64,
    /// What is asked.
    pub request: Request,
}

impl WorkItem {
    /// Row number `row` asking `request`.
    pub fn new(row: u64, request: Request) -> Self {
        Self { row, request }
    }
}

/// One row that ended. Its outcome was durable before this value existed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finished {
    /// The row's number in the job.
    pub row: u64,
    /// How it ended. Its cost is that of the last attempt; what earlier ones may have cost is unknown,
    /// and `possibly_paid_attempts` counts them.
    pub outcome: Outcome,
}

impl Finished {
    pub(crate) fn new(row: u64, outcome: Outcome) -> Self {
        Self { row, outcome }
    }
}
