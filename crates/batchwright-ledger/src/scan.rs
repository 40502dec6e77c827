//! What the segments say, summed up.

use crate::{
    checkpoint,
    ledger::Ledger,
    record::{Entry, Summary},
    rows::RowSet,
    segment::{SegmentName, Segments},
};
use batchwright_core::{Money, Result, Usage};
use serde::{Deserialize, Serialize};
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// What segments come to so far.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Progress {
    #[serde(skip)]
    scan: Scan,
    sums: Sums,
    #[serde(skip)]
    sent: Sent,
    #[serde(skip)]
    unclear: RowSet,
    #[serde(skip)]
    lost: BTreeMap<u32, RowSet>,
    /// The chunks of `lost`, and how many levels of reopenings there are.
    lost_chunks: Vec<u32>,
    reopen_levels: usize,
}

/// The numbers of a scan that is not finished.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Sums {
    tally: Tally,
    usage: Usage,
    usage_unknown: u64,
    cost: Money,
    cost_unknown: u64,
    superseded: u64,
    superseded_cost: Money,
    intents: u64,
    possibly_paid: u64,
    resent: u64,
    epoch: u64,
}

impl Progress {
    /// Every set of rows, in the order [`Progress::set_rows`] takes them.
    pub(crate) fn rows(&self) -> Vec<&RowSet> {
        let (scan, sent) = (&self.scan, &self.sent);
        let mut sets = vec![
            &scan.finished,
            &scan.answered,
            &scan.duplicated,
            &scan.direct,
            &sent.open,
            &sent.cut,
            &sent.again,
            &self.unclear,
        ];
        sets.extend(self.lost.values());
        sets.extend(&scan.reopens.0);
        sets
    }

    /// The rest of it.
    pub(crate) fn without_rows(&self) -> Self {
        let (scan, sent) = (&self.scan, &self.sent);
        Self {
            sums: Sums {
                tally: scan.tally,
                usage: scan.usage,
                usage_unknown: scan.usage_unknown,
                cost: scan.cost,
                cost_unknown: scan.cost_unknown,
                superseded: scan.superseded,
                superseded_cost: scan.superseded_cost,
                intents: scan.intents,
                possibly_paid: scan.possibly_paid,
                resent: sent.resent,
                epoch: sent.epoch,
            },
            lost_chunks: self.lost.keys().copied().collect(),
            reopen_levels: scan.reopens.0.len(),
            ..Self::default()
        }
    }

    /// Puts both together again; `None` where they do not fit.
    pub(crate) fn set_rows(&mut self, sets: Vec<RowSet>) -> Option<()> {
        let mut sets = sets.into_iter();
        let sums = self.sums;
        self.scan = Scan {
            finished: sets.next()?,
            answered: sets.next()?,
            duplicated: sets.next()?,
            direct: sets.next()?,
            tally: sums.tally,
            usage: sums.usage,
            usage_unknown: sums.usage_unknown,
            cost: sums.cost,
            cost_unknown: sums.cost_unknown,
            superseded: sums.superseded,
            superseded_cost: sums.superseded_cost,
            intents: sums.intents,
            possibly_paid: sums.possibly_paid,
            ..Scan::default()
        };
        self.sent = Sent {
            epoch: sums.epoch,
            resent: sums.resent,
            open: sets.next()?,
            cut: sets.next()?,
            again: sets.next()?,
        };
        self.unclear = sets.next()?;
        for chunk in std::mem::take(&mut self.lost_chunks) {
            self.lost.insert(chunk, sets.next()?);
        }
        for _ in 0..self.reopen_levels {
            self.scan.reopens.0.push(sets.next()?);
        }
        sets.next().is_none().then_some(())
    }

    /// Takes one line into account; `true` where what was summed up so far is not so any more.
    fn take(&mut self, epoch: u64, entry: &Entry<'_>) -> bool {
        let scan = &mut self.scan;
        self.sent.enter(epoch);
        match entry {
            Entry::Run => self.sent.cut(),
            Entry::Withdrawn { row } => {
                self.sent.open.remove(*row);
            }
            Entry::Intent { row } => {
                scan.intents += 1;
                self.sent.intent(*row);
            }
            Entry::Reopened { row } => {
                scan.reopens.add(*row);
                scan.answered.remove(*row);
                return scan.finished.remove(*row);
            }
            Entry::Lost { row, chunk } => {
                // A merge that is done again after a crash says so again.
                if self.lost.entry(*chunk).or_default().insert(*row) {
                    scan.possibly_paid += 1;
                    self.unclear.insert(*row);
                }
            }
            Entry::Outcome { row, summary } => {
                let row = *row;
                self.sent.outcome(row);
                if summary.is_direct() {
                    scan.direct.insert(row);
                }
                scan.possibly_paid += summary.possibly_paid();
                if summary.possibly_paid() > 0 {
                    self.unclear.insert(row);
                }
                let success = summary.is_success();
                if scan.finished.insert(row) {
                    if success {
                        scan.answered.insert(row);
                    }
                    scan.add(summary);
                } else {
                    scan.duplicated.insert(row);
                    // The first success takes the place of what came before.
                    if success && scan.answered.insert(row) {
                        return true;
                    }
                    scan.supersede(summary);
                }
            }
        }
        false
    }

    fn finish(self, torn: u64) -> Scan {
        let mut scan = self.scan;
        scan.torn = torn;
        scan.reopened_rows = scan.reopens.0.first().map_or(0, RowSet::len);
        let mut open = self.sent.open;
        open.extend(self.sent.cut.iter());
        scan.in_flight_rows = open.len();
        scan.in_flight = open.iter().take(NAMED_ROWS).collect();
        scan.unclear = self.unclear.iter().take(NAMED_ROWS).collect();
        scan.interrupted_rows = self.sent.again.len();
        scan.interrupted = self.sent.again.iter().take(NAMED_ROWS).collect();
        scan.possibly_paid += self.sent.resent;
        scan
    }
}

impl Scan {
    /// From the checkpoint on, where there is one.
    pub(crate) fn run(ledger: &Ledger) -> Result<Self> {
        Self::read(ledger, Segments::of(ledger)?, true)
    }

    /// From the segments alone.
    pub(crate) fn run_all(ledger: &Ledger) -> Result<Self> {
        Self::read(ledger, Segments::of(ledger)?, false)
    }

    /// Makes a checkpoint of the segments that are closed by now, where that is worth its while.
    pub(crate) fn checkpoint(ledger: &Ledger) -> Result<()> {
        let mut segments = Segments::of(ledger)?;
        segments.closed_only();
        let bytes: u64 = segments.sealed().iter().map(|segment| segment.bytes).sum();
        if bytes.saturating_sub(ledger.checkpointed()) < checkpoint::WORTH_BYTES {
            return Ok(());
        }
        Self::read(ledger, segments, true).map(drop)
    }

    fn read(ledger: &Ledger, mut segments: Segments, with_checkpoint: bool) -> Result<Self> {
        let names = segments.names().to_vec();
        let known = with_checkpoint
            .then(|| checkpoint::load(ledger, &names, segments.sealed()))
            .flatten();
        let (start, mut progress) = known.unwrap_or_default();
        segments.start_at(start);
        let mut separate = false;
        while let Some((segment, _, entry)) = segments.next()? {
            separate |= progress.take(names[segment].epoch, &entry);
        }
        if separate {
            progress.scan.separate(ledger, &names)?;
        }
        let bytes: u64 = segments.sealed().iter().map(|segment| segment.bytes).sum();
        if with_checkpoint && ledger.is_writable() {
            ledger.set_checkpointed(bytes);
            let new: u64 = segments.sealed()[start.min(segments.sealed().len())..]
                .iter()
                .map(|segment| segment.bytes)
                .sum();
            // Nothing depends on it: where it cannot be written, the segments are read again.
            if new >= checkpoint::WORTH_BYTES
                && let Err(error) = checkpoint::store(ledger, &names, segments.sealed(), &progress)
            {
                tracing::warn!(%error, "the checkpoint is not kept");
            }
        }
        Ok(progress.finish(segments.torn()))
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

    fn supersede(&mut self, summary: &Summary<'_>) {
        self.superseded += 1;
        self.superseded_cost = self.superseded_cost + summary.cost.unwrap_or(Money::ZERO);
    }

    /// Tells final outcomes from superseded ones, which takes a reading of its own where one took the place of another:
    /// only afterwards is it known which rows have a success, and since when.
    fn separate(&mut self, ledger: &Ledger, names: &[SegmentName]) -> Result<()> {
        self.tally = Tally::default();
        (self.usage, self.usage_unknown) = (Usage::default(), 0);
        (self.cost, self.cost_unknown) = (Money::ZERO, 0);
        (self.superseded, self.superseded_cost) = (0, Money::ZERO);
        let mut finals = Finals::new(self);
        let mut segments = Segments::of(ledger)?;
        while let Some((segment, _, entry)) = segments.next()? {
            if segment >= names.len() {
                break;
            }
            match entry {
                Entry::Reopened { row } => finals.reopened(row),
                Entry::Outcome { row, summary } => {
                    if finals.is_final(row, summary.is_success()) {
                        // Lines appended since the first reading belong to the next scan.
                        if self.finished.contains(row) {
                            self.add(&summary);
                        }
                    } else {
                        self.supersede(&summary);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Rows between intent and outcome.
#[derive(Clone, Default)]
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
