//! From a batch's raw files to outcomes in the segments, and what is left of it.

use super::super::{
    Given, JobProgress, LiveLine, locked,
    policy::{HALVINGS, Judge, Judged},
};
use batchwright_core::{
    BatchStatus, Ending, Error, ErrorKind, InputFault, JournalEvent, Outcome, PriceTable, Result,
    WirePrefix,
};
use batchwright_ledger::{Ledger, OutcomeLog, OutcomeRecord, RowIds, RowSet};
use batchwright_router::{Join, Joined, Merge, MergeReport, Origin, refused_row};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader, Read},
    sync::{Arc, Mutex},
};
use tokio::sync::mpsc;

/// The longest result line that is looked at; a longer one is set aside (F-107).
const LINE_CAP: u64 = 64 * 1024 * 1024;
/// What is left of a chunk, by its number, in the job's record.
pub(in super::super) const LEFT: &str = "left.";

/// Rows of a merged chunk that have no outcome: they go on. Which ones, the segments tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Left {
    /// How many.
    pub(in super::super) rows: u64,
    /// Whether the chunk's input was refused, so that nothing of it ran.
    pub(in super::super) refused: bool,
    /// Whether nobody said which rows that was for, so that its halves are to tell.
    pub(in super::super) halve: bool,
}

impl Left {
    /// What is left of a chunk, where anything is.
    pub(super) fn of(ledger: &Ledger, chunk: u32) -> Result<Option<Self>> {
        let json = ledger.meta(&format!("{LEFT}{chunk:010}"))?;
        let left: Option<Self> = json.and_then(|json| serde_json::from_str(&json).ok());
        Ok(left.filter(|left| left.rows > 0))
    }

    /// Every chunk something is left of, by number.
    pub(super) fn all(ledger: &Ledger) -> Result<Vec<(u32, Self)>> {
        let left = ledger.metas(LEFT)?.into_iter().filter_map(|(key, json)| {
            let chunk = key.strip_prefix(LEFT)?.parse().ok()?;
            Some((chunk, serde_json::from_str(&json).ok()?))
        });
        Ok(left.collect())
    }

    pub(in super::super) fn store(&self, ledger: &Ledger, chunk: u32) -> Result<()> {
        let json = serde_json::to_string(self).expect("it is plain data");
        ledger.set_meta(&format!("{LEFT}{chunk:010}"), &json)
    }
}

/// The result files kept for a chunk: label and local name, the newest of each label.
pub(in super::super) fn downloads(ledger: &Ledger, chunk: u32) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let mut surplus = Vec::new();
    for entry in ledger.entries_blocking(chunk)? {
        match entry.event {
            // What a batch besides the one that counts answered is kept, and is no result.
            JournalEvent::Surplus { handle, .. } => surplus.push(handle.id),
            JournalEvent::Downloaded {
                handle,
                label,
                file,
                ..
            } if !surplus.contains(&handle.id) => {
                files.insert(label, file);
            }
            // Files of an earlier batch of the chunk say nothing about a later one.
            JournalEvent::Created { handle, .. } | JournalEvent::Adopted { handle, .. } => {
                surplus.retain(|id| *id != handle.id);
                files.clear();
            }
            JournalEvent::Decided { .. } | JournalEvent::Disproved { .. } => files.clear(),
            _ => {}
        }
    }
    Ok(files)
}

/// One merge: from the chunk's raw files to outcomes in the segments.
pub(super) struct Merging {
    pub(super) ledger: Ledger,
    pub(super) log: OutcomeLog,
    pub(super) prefix: WirePrefix,
    pub(super) json_output: bool,
    pub(super) prices: Arc<PriceTable>,
    pub(super) progress: Arc<JobProgress>,
    pub(super) live: Option<mpsc::Sender<LiveLine>>,
    pub(super) given: Given,
    pub(super) answered_directly: Arc<Mutex<RowSet>>,
    pub(super) judge: Judge,
    pub(super) chunk: u32,
    pub(super) attempt: u32,
}

/// What becomes of the rows of a refused input.
enum Refused {
    /// All of them fail.
    All,
    /// Those that are named fail, and the others go on.
    Named,
    /// They go on in halves.
    Halve,
}

impl Merging {
    pub(super) fn run(&self, merge: Merge) -> Result<MergeReport> {
        let ids = self.ledger.chunk_rows(self.chunk)?.load()?;
        let all = ids.len() as u64;
        let judged = self.judged()?;
        let (named, refused) = match &merge {
            Merge::Refused { faults, .. } => {
                let named = named(faults, &ids);
                let refused = self.refused(&judged, &named, all)?;
                (named, Some(refused))
            }
            _ => (RowSet::new(), None),
        };
        // Whether rows without a line are only counted so far.
        let counts_only = matches!(&merge, Merge::Results { rest: None, .. });
        let mut fresh = RowSet::new();
        let mut lost = RowSet::new();
        let mut bulk = self.log.bulk();
        let mut line = Vec::new();
        let (missing, foreign) = self.outcomes(&merge, &ids, &mut |row, outcome| {
            let is_final = match (&refused, &merge) {
                (Some(Refused::All), _) => true,
                (Some(Refused::Halve), _) => false,
                (Some(Refused::Named), _) => named.contains(row),
                _ => self.judge.is_final(&judged, outcome),
            };
            if !is_final {
                if Judge::was_paid_perhaps(&judged, outcome) {
                    lost.insert(row);
                }
                return Ok(());
            }
            // A merge is done again after a crash, or when lines were missing; what was given stays.
            if locked(&self.given).insert(row) {
                self.record(row, outcome, &ids, &mut line);
                bulk.push(&line)?;
                self.progress.record(outcome);
                if self.live.is_some() {
                    fresh.insert(row);
                }
            } else if outcome.response().is_some() && locked(&self.answered_directly).remove(row) {
                // The original is late: its row was answered by a direct call meanwhile. Both were paid, so both
                // are in the books, and the first one counts.
                self.record(row, outcome, &ids, &mut line);
                bulk.push(&line)?;
            }
            Ok(())
        })?;
        bulk.finish()?;
        if let Some(live) = &self.live {
            // Durable before visible: the files are read again, so that nothing has to be kept meanwhile.
            self.outcomes(&merge, &ids, &mut |row, outcome| {
                if fresh.remove(row) {
                    self.record(row, outcome, &ids, &mut line);
                    // Where nobody takes it, whoever did tells why.
                    let _ = live.blocking_send((row, line.clone()));
                }
                Ok(())
            })?;
        }
        if !(counts_only && missing > 0) {
            self.leave(&ids, &lost, refused)?;
        }
        Ok(MergeReport::new(all - missing, missing).with_foreign(foreign))
    }

    /// What its journal tells of the chunk.
    fn judged(&self) -> Result<Judged> {
        let state = self.ledger.chunk(self.chunk)?;
        let mut judged = Judged {
            round: state.as_ref().map_or(1, |state| state.round),
            refusals: state.as_ref().map_or(0, |state| state.refusals),
            cancel_asked: false,
            failed: false,
        };
        for entry in self.ledger.entries_blocking(self.chunk)? {
            match entry.event {
                // What was asked of an earlier batch says nothing about a later one.
                JournalEvent::Created { .. } | JournalEvent::Adopted { .. } => {
                    judged.cancel_asked = false;
                    judged.failed = false;
                }
                JournalEvent::Status { status, .. } => {
                    judged.failed = status == BatchStatus::Failed;
                }
                JournalEvent::CancelIntent { .. } | JournalEvent::Cancelled => {
                    judged.cancel_asked = true;
                }
                _ => {}
            }
        }
        Ok(judged)
    }

    /// Who of a refused input fails. Nothing of it ran, so whoever goes on is bought once all the same (F-073).
    fn refused(&self, judged: &Judged, named: &RowSet, rows: u64) -> Result<Refused> {
        // A merge that is done again after a crash comes to the same.
        if let Some(left) = Left::of(&self.ledger, self.chunk)? {
            return Ok(if left.halve {
                Refused::Halve
            } else {
                Refused::Named
            });
        }
        if !self.judge.searches(judged) || named.len() == rows {
            return Ok(Refused::All);
        }
        if !named.is_empty() {
            return Ok(Refused::Named);
        }
        let halvings = Left::all(&self.ledger)?;
        let halvings = halvings.iter().filter(|(_, left)| left.halve).count();
        Ok(if rows > 1 && halvings < HALVINGS {
            Refused::Halve
        } else {
            Refused::All
        })
    }

    /// Writes down what is left of the chunk, before it counts as merged.
    fn leave(&self, ids: &RowIds, lost: &RowSet, refused: Option<Refused>) -> Result<()> {
        let left: RowSet = {
            let given = locked(&self.given);
            let rows = ids.rows().iter().copied();
            rows.filter(|row| !given.contains(*row)).collect()
        };
        if left.is_empty() {
            return Ok(());
        }
        let lost = lost.iter().filter(|row| left.contains(*row));
        self.log.lost_blocking(self.chunk, lost)?;
        Left {
            rows: left.len(),
            refused: refused.is_some(),
            halve: matches!(refused, Some(Refused::Halve)),
        }
        .store(&self.ledger, self.chunk)
    }

    fn record(&self, row: u64, outcome: &Outcome, ids: &RowIds, line: &mut Vec<u8>) {
        line.clear();
        OutcomeRecord::write(
            row,
            ids.get(row).unwrap_or_default(),
            outcome,
            self.json_output,
            line,
        );
    }

    /// Visits every row's outcome once; returns how many rows have none, and how many lines are another's.
    fn outcomes(
        &self,
        merge: &Merge,
        ids: &RowIds,
        visit: &mut dyn FnMut(u64, &Outcome) -> Result<()>,
    ) -> Result<(u64, u64)> {
        let (provider, model) = self
            .ledger
            .chunk(self.chunk)?
            .map(|state| (state.provider, state.model))
            .unwrap_or_default();
        let origin = Origin::new(&provider, &model, Arc::clone(&self.prices));
        match merge {
            Merge::Results {
                provider,
                handle,
                rest,
            } => {
                let origin = origin.bought(handle, self.attempt);
                let join = || Join::new(provider.as_ref(), self.prefix, ids.rows(), &origin);
                let Some(rest) = rest else {
                    return self.while_lines_may_be_missing(join, visit);
                };
                let mut join = join();
                self.join(&mut join, visit)?;
                for row in join.missing() {
                    visit(row, &origin.outcome(rest.clone()))?;
                }
            }
            Merge::Refused { error, faults } => {
                // Lines of a chunk are in the order of its rows.
                for (line, (row, _)) in (1u64..).zip(ids.iter()) {
                    let error = refused_row(error, faults, line);
                    visit(row, &origin.outcome(Ending::Failed(error)))?;
                }
            }
            Merge::Cancelled => {
                for (row, _) in ids.iter() {
                    visit(row, &origin.outcome(Ending::Cancelled))?;
                }
            }
        }
        Ok((0, 0))
    }

    /// Visits successes, and everything else only where every row has a line that can be read: another
    /// download may hold a success in the place of an error, or a line whole that was cut (F-082, F-106).
    fn while_lines_may_be_missing<'j>(
        &self,
        join: impl Fn() -> Join<'j>,
        visit: &mut dyn FnMut(u64, &Outcome) -> Result<()>,
    ) -> Result<(u64, u64)> {
        let (mut unreadable, mut others) = (0, 0);
        let mut first = join();
        self.join(&mut first, &mut |row, outcome| {
            match outcome.ending {
                Ending::Succeeded(_) | Ending::Refused(_) => visit(row, outcome)?,
                Ending::Unreadable(_) => unreadable += 1,
                _ => others += 1,
            }
            Ok(())
        })?;
        let missing = first.missing().count() as u64 + unreadable;
        if missing == 0 && others > 0 {
            self.join(&mut join(), visit)?;
        }
        Ok((missing, first.report().foreign))
    }

    /// Visits every row's outcome that a file holds a line for.
    fn join(
        &self,
        join: &mut Join<'_>,
        visit: &mut dyn FnMut(u64, &Outcome) -> Result<()>,
    ) -> Result<()> {
        let files = downloads(&self.ledger, self.chunk)?;
        let mut aside = self
            .ledger
            .set_aside(self.chunk, self.attempt, "unattributed")?;
        for pass in 0..2 {
            if pass == 1 {
                if join.is_complete() {
                    break;
                }
                join.second_pass();
            }
            for file in files.values() {
                let path = self.ledger.raw_path(file)?;
                // A file that went away is a file of missing lines, and is downloaded again.
                if !path.exists() {
                    continue;
                }
                each_line(&path, |line| {
                    match join.line(line) {
                        Joined::Row(row, outcome) => visit(row, &outcome)?,
                        Joined::Unknown => aside.push(line)?,
                        Joined::Passed => {}
                    }
                    Ok(())
                })?;
            }
        }
        aside.finish()?;
        Ok(())
    }
}

/// The rows whose lines the faults name: lines of a chunk are in the order of its rows.
fn named(faults: &[InputFault], ids: &RowIds) -> RowSet {
    let lines: BTreeSet<u64> = faults.iter().filter_map(|fault| fault.line).collect();
    let rows = (1u64..).zip(ids.rows());
    rows.filter(|(line, _)| lines.contains(line))
        .map(|(_, row)| *row)
        .collect()
}

/// Calls `take` with each line of the file, without its line end; a line over the cap is cut there, and so
/// will not be understood.
pub(in super::super) fn each_line(
    path: &std::path::Path,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let storage = |error: std::io::Error| {
        Error::new(
            ErrorKind::Storage,
            format!("read {}: {error}", path.display()),
        )
        .with_source(error)
    };
    let mut reader = BufReader::with_capacity(256 * 1024, File::open(path).map_err(storage)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader
            .by_ref()
            .take(LINE_CAP)
            .read_until(b'\n', &mut line)
            .map_err(storage)?;
        if read == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') && read as u64 == LINE_CAP {
            skip_line(&mut reader).map_err(storage)?;
        }
        let end = line.strip_suffix(b"\n").unwrap_or(&line);
        take(end.strip_suffix(b"\r").unwrap_or(end))?;
    }
}

/// Passes over the rest of a line without keeping it.
fn skip_line(reader: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        match memchr::memchr(b'\n', buffer) {
            Some(end) => {
                reader.consume(end + 1);
                return Ok(());
            }
            None => {
                let all = buffer.len();
                reader.consume(all);
            }
        }
    }
}
