//! Rows that ended without an answer, sent again by a person's word.

use super::{Job, batch};
use batchwright_core::Result;
use batchwright_ledger::{OutcomeRecord, RowSet};

impl Job {
    /// Has every row sent again whose final outcome is one of these, by [`Ending::as_str`], and returns how many rows
    /// those are; the next [`Job::run`] sends them. What they ended with is superseded and stays in the books. Rows of
    /// batches that are under way are left alone. Blocks.
    ///
    /// A `missing` or `unreadable` row may have been billed, and is counted as such.
    ///
    /// [`Ending::as_str`]: batchwright_core::Ending::as_str
    ///
    /// # Errors
    /// `Storage` where the folder fails; some of the rows may then be sent again.
    ///
    /// # Panics
    /// In an async task, which it would block.
    pub fn reopen(&self, statuses: &[&str]) -> Result<u64> {
        let mut under_way = RowSet::new();
        for chunk in self.ledger.chunks()? {
            if chunk.phase.is_merged() {
                continue;
            }
            for row in self.ledger.chunk_rows(chunk.chunk)? {
                under_way.insert(row?.0);
            }
        }
        let (mut rows, mut lost) = (RowSet::new(), RowSet::new());
        for outcome in self.ledger.unordered()? {
            let (row, line) = outcome?;
            let record = OutcomeRecord::parse(&line)?;
            if !statuses.contains(&record.status.as_ref()) || under_way.contains(row) {
                continue;
            }
            rows.insert(row);
            if matches!(record.status.as_ref(), "missing" | "unreadable") {
                lost.insert(row);
            }
        }
        if rows.is_empty() {
            return Ok(0);
        }
        let log = self.ledger.outcome_log()?;
        log.lost_blocking(0, lost.iter())?;
        log.reopen_blocking(rows.iter())?;
        // They begin again with the first round.
        batch::forget_left(&self.ledger)?;
        Ok(rows.len())
    }
}
