//! What the segments say, summed up.

use crate::{
    ledger::Ledger,
    record::{Entry, Summary},
    rows::RowSet,
    segment::Segments,
};
use batchwright_core::{Money, Result, Usage};
use std::collections::BTreeMap;

/// Rows named in lists at most; the counts beside them are complete.
const NAMED_ROWS: usize = 100_000;

/// What the segments say, summed up. Memory: 4 bits for each row, and the lists.
///
/// Where a row has several outcomes, the first success counts, else the first outcome, in the order of
/// epochs, segments and lines (F-099); of a row that was reopened, only those after that do.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Scan {
    /// Rows that have an outcome.
    pub finished: RowSet,
    /// Rows whose outcome is a success.
    pub answered: RowSet,
    /// Rows that have more than one outcome.
    pub duplicated: RowSet,
    /// Rows of which an outcome came by a direct call.
    pub direct: RowSet,
    /// Rows that were reopened, by a person's word, to be sent again.
    pub reopened_rows: u64,
    reopens: Reopens,
    /// The final outcomes, one for each finished row.
    pub tally: Tally,
    /// Known token counters of the final outcomes, summed.
    pub usage: Usage,
    /// Final outcomes whose counters are unknown.
    pub usage_unknown: u64,
    /// Known costs of the final outcomes, summed.
    pub cost: Money,
    /// Final outcomes whose cost is unknown.
    pub cost_unknown: u64,
    /// Outcomes passed over for another one of the same row.
    pub superseded: u64,
    /// What those are known to have cost: paid too, where they are answers of their own and no copies.
    pub superseded_cost: Money,
    /// Intents read.
    pub intents: u64,
    /// Rows that were to be sent and have no outcome since, ascending, at most 100 000. After a crash they may
    /// have been billed, and are billed again when sent again.
    pub in_flight: Vec<u64>,
    /// How many such rows there are.
    pub in_flight_rows: u64,
    /// Rows that were in flight when a process or its outcome log ended and were sent again later, ascending,
    /// at most 100 000: they may have been billed twice.
    pub interrupted: Vec<u64>,
    /// How many such rows there are.
    pub interrupted_rows: u64,
    /// Attempts that may have been billed besides the final ones: those the outcomes name, and one for each
    /// time a row was in flight when a process or its outcome log ended and was sent again.
    pub possibly_paid: u64,
    /// Rows whose outcome tells of attempts that may have been billed besides the final one, ascending, at
    /// most 100 000.
    pub unclear: Vec<u64>,
    /// Torn last lines passed over: of a process that writes now, or that ended and left it.
    pub torn: u64,
}

/// Outcomes by status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// The model answered.
    pub succeeded: u64,
    /// Failed for good.
    pub failed: u64,
    /// The model or a policy refused.
    pub refused: u64,
    /// The window closed first.
    pub expired: u64,
    /// Cancelled first.
    pub cancelled: u64,
    /// No file holds a line.
    pub missing: u64,
    /// A line cannot be read.
    pub unreadable: u64,
}

impl Tally {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.succeeded
            + self.failed
            + self.refused
            + self.expired
            + self.cancelled
            + self.missing
            + self.unreadable
    }

    fn add(&mut self, status: &str) {
        let count = match status {
            "succeeded" => &mut self.succeeded,
            "failed" => &mut self.failed,
            "refused" => &mut self.refused,
            "expired" => &mut self.expired,
            "cancelled" => &mut self.cancelled,
            "missing" => &mut self.missing,
            // The line was checked to hold one of the seven.
            _ => &mut self.unreadable,
        };
        *count += 1;
    }
}

/// Which of a row's outcomes is the final one, asked in the order of the lines.
pub(crate) struct Finals {
    succeeded: RowSet,
    taken: RowSet,
    /// Reopenings still to come.
    reopens: Reopens,
}

impl Finals {
    pub(crate) fn new(scan: &Scan) -> Self {
        Self {
            succeeded: scan.answered.clone(),
            taken: RowSet::new(),
            reopens: scan.reopens.clone(),
        }
    }

    pub(crate) fn reopened(&mut self, row: u64) {
        self.reopens.pass(row);
    }

    pub(crate) fn is_final(&mut self, row: u64, success: bool) -> bool {
        !self.reopens.is_ahead(row)
            && (success || !self.succeeded.contains(row))
            && self.taken.insert(row)
    }
}

/// How often rows were reopened: level n has those reopened more than n times.
#[derive(Clone, Debug, Default)]
struct Reopens(Vec<RowSet>);

impl Reopens {
    fn add(&mut self, row: u64) {
        if self.0.iter_mut().any(|level| level.insert(row)) {
            return;
        }
        self.0.push(RowSet::from_iter([row]));
    }

    /// One of the row's reopenings was passed.
    fn pass(&mut self, row: u64) {
        self.0.iter_mut().rev().any(|level| level.remove(row));
    }

    /// Whether the row is reopened further on.
    fn is_ahead(&self, row: u64) -> bool {
        self.0.first().is_some_and(|level| level.contains(row))
    }
}

impl Scan {
    pub(crate) fn run(ledger: &Ledger) -> Result<Self> {
        let mut scan = Self::default();
        let mut sent = Sent::default();
        let mut unclear = RowSet::new();
        let mut lost: BTreeMap<u32, RowSet> = BTreeMap::new();
        let mut segments = Segments::of(ledger)?;
        let epochs: Vec<u64> = segments.names().iter().map(|name| name.epoch).collect();
        while let Some((segment, _, entry)) = segments.next()? {
            sent.enter(epochs[segment]);
            match entry {
                Entry::Run => sent.cut(),
                Entry::Withdrawn { row } => {
                    sent.open.remove(row);
                }
                Entry::Intent { row } => {
                    scan.intents += 1;
                    sent.intent(row);
                }
                Entry::Reopened { row } => {
                    scan.reopens.add(row);
                    scan.finished.remove(row);
                    scan.answered.remove(row);
                }
                Entry::Lost { row, chunk } => {
                    // A merge that is done again after a crash says so again.
                    if lost.entry(chunk).or_default().insert(row) {
                        scan.possibly_paid += 1;
                        unclear.insert(row);
                    }
                }
                Entry::Outcome { row, summary } => {
                    sent.outcome(row);
                    if summary.is_direct() {
                        scan.direct.insert(row);
                    }
                    if summary.is_success() {
                        scan.answered.insert(row);
                    }
                    if !scan.finished.insert(row) {
                        scan.duplicated.insert(row);
                    }
                    scan.possibly_paid += summary.possibly_paid();
                    if summary.possibly_paid() > 0 {
                        unclear.insert(row);
                    }
                    scan.add(&summary);
                }
            }
        }
        scan.torn = segments.torn();
        scan.reopened_rows = scan.reopens.0.first().map_or(0, RowSet::len);
        if !scan.duplicated.is_empty() || scan.reopened_rows > 0 {
            scan.separate(ledger)?;
        }
        let mut open = sent.open;
        open.extend(sent.cut.iter());
        scan.in_flight_rows = open.len();
        scan.in_flight = open.iter().take(NAMED_ROWS).collect();
        scan.unclear = unclear.iter().take(NAMED_ROWS).collect();
        scan.interrupted_rows = sent.again.len();
        scan.interrupted = sent.again.iter().take(NAMED_ROWS).collect();
        scan.possibly_paid += sent.resent;
        Ok(scan)
    }

    /// How many rows' outcome is a success.
    pub fn succeeded(&self) -> u64 {
        self.tally.succeeded
    }

    /// Counts a final outcome.
    fn add(&mut self, summary: &Summary<'_>) {
        self.tally.add(summary.status);
        match &summary.usage {
            Some(usage) => self.usage.add(usage),
            // What cost nothing used nothing.
            None if summary.cost == Some(Money::ZERO) => {}
            None => self.usage_unknown += 1,
        }
        match summary.cost {
            Some(cost) => self.cost = self.cost + cost,
            None => self.cost_unknown += 1,
        }
    }

    /// Tells final outcomes from superseded ones, which takes a second reading: only after the first one is it
    /// known which rows have a success.
    fn separate(&mut self, ledger: &Ledger) -> Result<()> {
        self.tally = Tally::default();
        (self.usage, self.usage_unknown) = (Usage::default(), 0);
        (self.cost, self.cost_unknown) = (Money::ZERO, 0);
        let mut finals = Finals::new(self);
        let mut segments = Segments::of(ledger)?;
        while let Some((_, _, entry)) = segments.next()? {
            if let Entry::Reopened { row } = entry {
                finals.reopened(row);
            }
            if let Entry::Outcome { row, summary } = entry {
                // Lines appended since the first reading belong to the next scan.
                if !self.finished.contains(row) && !self.reopens.is_ahead(row) {
                    continue;
                }
                if finals.is_final(row, summary.is_success()) {
                    self.add(&summary);
                } else {
                    self.superseded += 1;
                    self.superseded_cost =
                        self.superseded_cost + summary.cost.unwrap_or(Money::ZERO);
                }
            }
        }
        Ok(())
    }
}

/// Rows between intent and outcome.
#[derive(Default)]
struct Sent {
    epoch: u64,
    /// Intents of this run without an outcome.
    open: RowSet,
    /// Intents of earlier runs without an outcome: their process, or their log, ended first.
    cut: RowSet,
    /// Cut rows that were sent again.
    again: RowSet,
    resent: u64,
}

impl Sent {
    fn enter(&mut self, epoch: u64) {
        if epoch != self.epoch {
            self.epoch = epoch;
            self.cut();
        }
    }

    /// Another run begins: what was open is nobody's any more.
    fn cut(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.cut.extend(open.iter());
    }

    fn intent(&mut self, row: u64) {
        if self.cut.remove(row) {
            self.again.insert(row);
            self.resent += 1;
        }
        self.open.insert(row);
    }

    fn outcome(&mut self, row: u64) {
        self.open.remove(row);
        // An outcome without an intent came by the other lane: that is a second payment, too.
        if self.cut.remove(row) {
            self.again.insert(row);
            self.resent += 1;
        }
    }
}
