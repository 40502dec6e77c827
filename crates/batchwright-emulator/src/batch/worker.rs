//! The executor: steps through a batch's states and its rows.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::cell::Paths;
use super::files::{Files, read_line, trim};
use super::record::ms;
use super::{
    BadFile, BatchCell, BatchRecord, BatchRows, BatchState, Row, RowEnd, Scan, Unexecuted,
};
use crate::config::BatchPace;
use crate::engine::Engine;
use crate::faults::{BatchFailure, Mutation, ResultFile};
use crate::invoice::{Charge, Lane};
use crate::results;
use crate::seed::mix;
use crate::store::{FileRecord, remove_file};

/// Faults of single lines that a batch shows.
const MOST_NOTES: usize = 100;
/// Rows between two checkpoints.
const STEP_ROWS: u64 = 10_000;

/// Brings a batch up to an instant of virtual time. Blocks; may take as long as executing its rows takes.
///
/// Unless `whole` is set, rows that are due may wait until a twentieth of the batch is due. With `validate_only` the
/// batch goes no further than to the end of validation.
pub(crate) fn settle(
    engine: &Engine,
    rows: &dyn BatchRows,
    cell: &BatchCell,
    now_ms: i64,
    whole: bool,
    validate_only: bool,
) -> io::Result<()> {
    let _work = cell.work.lock().unwrap_or_else(PoisonError::into_inner);
    let local = cell.record();
    if local.state.is_terminal() || cell.gone.load(Ordering::Acquire) {
        return Ok(());
    }
    let mut worker = Worker {
        engine,
        rows,
        cell,
        pace: engine.config.pace,
        record: local,
    };
    while !(validate_only && worker.record.state != BatchState::Validating) {
        if !worker.step(now_ms, whole)? {
            break;
        }
    }
    Ok(())
}

/// What a look at all lines of an input found.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) rows: u64,
    /// Of the first line, as answers name it.
    pub(crate) model: Option<&'static str>,
    /// Estimated input tokens.
    pub(crate) tokens: u64,
    /// Faults of lines that do not fail the batch.
    pub(crate) notes: Vec<BatchFailure>,
}

/// Brings a batch's input lines to `input` and looks at each once. Blocks.
///
/// The executor does so at the end of `validating`; a face that validates at creation does so before.
pub(crate) fn scan(
    engine: &Engine,
    rows: &dyn BatchRows,
    batch: &BatchRecord,
    at_ms: i64,
    input: &Path,
) -> io::Result<Result<Scanned, BatchFailure>> {
    if let Err(failure) = rows.stage(engine, batch, at_ms, input)? {
        return Ok(Err(failure));
    }
    let mut scan = Scan {
        engine,
        batch,
        model: None,
        custom_ids: HashSet::new(),
        inputs: 0,
        tokens: 0,
        notes: Vec::new(),
    };
    let mut reader = BufReader::with_capacity(256 << 10, File::open(input)?);
    let mut line = Vec::new();
    let mut number = 0;
    while read_line(&mut reader, &mut line)? > 0 {
        number += 1;
        if number > rows.max_rows() {
            return Ok(Err(rows.bad_file(BadFile::TooManyRows)));
        }
        if let Err(failure) = rows.check(&mut scan, number, trim(&line)) {
            return Ok(Err(failure));
        }
        scan.notes.truncate(MOST_NOTES);
    }
    if number == 0 {
        return Ok(Err(rows.bad_file(BadFile::Empty)));
    }
    if let Err(failure) = rows.check_end(&scan, number) {
        return Ok(Err(failure));
    }
    Ok(Ok(Scanned {
        rows: number,
        model: scan.model,
        tokens: scan.tokens,
        notes: scan.notes,
    }))
}

struct Worker<'a> {
    engine: &'a Engine,
    rows: &'a dyn BatchRows,
    cell: &'a BatchCell,
    pace: BatchPace,
    record: BatchRecord,
}

impl Worker<'_> {
    /// Makes one step if one is due; false when there is nothing to do yet.
    fn step(&mut self, now_ms: i64, whole: bool) -> io::Result<bool> {
        let cancelled = self.record.cancelling_ms;
        match self.record.state {
            BatchState::Validating => {
                let due = self.record.validated_ms(&self.pace);
                match cancelled {
                    Some(at) if at < due => self.record.state = BatchState::Cancelling,
                    _ if now_ms < due => return Ok(false),
                    _ => self.validate(due)?,
                }
            }
            BatchState::InProgress => {
                let (end, expires) = self.record.rows_end(&self.pace);
                let until = now_ms.min(end).min(cancelled.unwrap_or(i64::MAX));
                let last = until == end || cancelled == Some(until);
                // A batch stuck past its window does no row after the window closed.
                let until = if expires {
                    until.min(self.record.expires_ms)
                } else {
                    until
                };
                self.execute(self.record.due_rows(&self.pace, until), whole || last)?;
                match cancelled {
                    Some(at) if at < end => self.record.state = BatchState::Cancelling,
                    _ if now_ms < end => return Ok(false),
                    _ if expires => {
                        self.abandon(Unexecuted::Expired)?;
                        self.build(end, BatchState::Expired)?;
                        self.record.expired_ms = Some(end);
                        self.record.state = BatchState::Expired;
                    }
                    _ => {
                        self.record.finalizing_ms = Some(end);
                        self.record.state = BatchState::Finalizing;
                    }
                }
            }
            BatchState::Finalizing => {
                let span = ms(self.pace.finalizing).max(self.record.quirks.stuck_ms("finalizing"));
                let end = self.record.finalizing_ms.unwrap_or(now_ms) + span;
                match cancelled {
                    Some(at) if at < end => self.record.state = BatchState::Cancelling,
                    _ if now_ms < end => return Ok(false),
                    _ => self.complete(end)?,
                }
            }
            BatchState::Cancelling => {
                let span = ms(self.pace.cancelling).max(self.record.quirks.stuck_ms("cancelling"));
                let end = cancelled.unwrap_or(now_ms) + span;
                if now_ms < end {
                    return Ok(false);
                }
                if self.record.quirks.cancel_completes && self.record.in_progress_ms.is_some() {
                    self.execute(self.record.total, true)?;
                    self.record.finalizing_ms.get_or_insert(end);
                    self.complete(end)?;
                } else {
                    self.cancel(end)?;
                }
            }
            _ => return Ok(false),
        }
        self.cell.commit(&mut self.record)?;
        if self.record.state.is_terminal() {
            self.clean_up()?;
        }
        Ok(!self.record.state.is_terminal())
    }

    fn validate(&mut self, due_ms: i64) -> io::Result<()> {
        let failure = match self.record.quirks.failure.clone() {
            Some(failure) => Some(failure),
            None => self.scan(due_ms)?.err(),
        };
        match failure {
            Some(failure) => {
                self.record.errors.push(failure);
                self.record.failed_ms = Some(due_ms);
                self.record.state = BatchState::Failed;
            }
            None => {
                self.record.in_progress_ms = Some(due_ms);
                self.record.state = BatchState::InProgress;
            }
        }
        Ok(())
    }

    /// Reads the whole input once and keeps a copy of it (a link, where the disk can) for the execution.
    fn scan(&mut self, due_ms: i64) -> io::Result<Result<(), BatchFailure>> {
        let scanned = scan(
            self.engine,
            self.rows,
            &self.record,
            due_ms,
            &self.cell.paths.input,
        )?;
        let scanned = match scanned {
            Ok(scanned) => scanned,
            Err(failure) => return Ok(Err(failure)),
        };
        let limit = self.engine.config.limits.enqueued_tokens;
        if let (Some(limit), Some(model)) = (limit, scanned.model) {
            let waiting = self.engine.waiting_tokens(&self.record, model, due_ms);
            if waiting.saturating_add(scanned.tokens) > limit {
                return Ok(Err(self.rows.too_many_tokens(model, limit)));
            }
        }
        self.record.model = scanned.model.map(str::to_owned);
        self.record.tokens = scanned.tokens;
        self.record.total = scanned.rows;
        self.record.errors = scanned.notes;
        Ok(Ok(()))
    }

    /// Executes rows until `target` are done.
    fn execute(&mut self, target: u64, whole: bool) -> io::Result<()> {
        let due = target.saturating_sub(self.record.done.rows);
        let patience = if whole {
            0
        } else {
            (self.record.total / 20).min(STEP_ROWS)
        };
        if due == 0 || due < patience {
            return Ok(());
        }
        let mut files = Files::open(&self.cell.paths, &self.record.done)?;
        while self.record.done.rows < target {
            let stop = target.min(self.record.done.rows + STEP_ROWS);
            self.execute_until(stop, &mut files)?;
            self.cell.commit(&mut self.record)?;
        }
        Ok(())
    }

    fn execute_until(&mut self, stop: u64, files: &mut Files) -> io::Result<()> {
        let BatchRecord { key, id, .. } = &self.record;
        let one_file = self.rows.one_file(self.engine);
        let mut done = self.record.done;
        let mut line = Vec::new();
        let mut out = Vec::new();
        while done.rows < stop {
            let read = read_line(&mut files.input, &mut line)?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            let at = self.record.row_ms(&self.pace, done.rows).div_euclid(1000);
            let row = Row {
                engine: self.engine,
                batch: &self.record,
                index: done.rows,
                at,
            };
            out.clear();
            let fails = match self.record.quirks.fail_rows {
                Some((status, every)) if (done.rows + 1).is_multiple_of(every) => Some(status),
                _ => None,
            };
            let end = match fails {
                Some(status) => {
                    self.rows.fail(&row, trim(&line), status, &mut out);
                    RowEnd::Failed
                }
                None => self.rows.answer(&row, trim(&line), &mut out),
            };
            match end {
                RowEnd::Answered(charge) => {
                    files.output.write_all(&out)?;
                    done.output_bytes += out.len() as u64;
                    done.completed += 1;
                    done.usage.add(charge.usage);
                    done.price_usd += charge.price_usd;
                    out.clear();
                    let hash = charge.hash.to_string();
                    let line = Charge {
                        face: self.rows.face(),
                        key,
                        lane: Lane::Batch,
                        custom_id: Some(&charge.custom_id),
                        request_id: &charge.request_id,
                        prompt_hash: &hash,
                        model: charge.model,
                        batch_id: Some(id),
                        input_tokens: charge.usage.input,
                        cached_input_tokens: charge.usage.cached,
                        output_tokens: charge.usage.output,
                        price_usd: charge.price_usd,
                        at,
                    };
                    serde_json::to_writer(&mut out, &line)?;
                    out.push(b'\n');
                    files.invoice.write_all(&out)?;
                    done.invoice_bytes += out.len() as u64;
                }
                RowEnd::Failed if one_file => {
                    files.output.write_all(&out)?;
                    done.output_bytes += out.len() as u64;
                    done.failed += 1;
                }
                RowEnd::Failed => {
                    files.error.write_all(&out)?;
                    done.error_bytes += out.len() as u64;
                    done.failed += 1;
                }
            }
            done.rows += 1;
            done.input_bytes += read as u64;
        }
        files.output.flush()?;
        files.error.flush()?;
        files.invoice.flush()?;
        self.record.done = done;
        Ok(())
    }

    /// Writes an error line for every row that was not executed. Leaves the checkpoint of executed rows alone.
    fn abandon(&mut self, why: Unexecuted) -> io::Result<()> {
        if self.record.in_progress_ms.is_none() {
            return Ok(());
        }
        let mut files = Files::open(&self.cell.paths, &self.record.done)?;
        let mut line = Vec::new();
        let mut out = Vec::new();
        let mut index = self.record.done.rows;
        let one_file = self.rows.one_file(self.engine);
        while read_line(&mut files.input, &mut line)? > 0 {
            let row = Row {
                engine: self.engine,
                batch: &self.record,
                index,
                at: 0,
            };
            out.clear();
            self.rows.unexecuted(&row, trim(&line), why, &mut out);
            if one_file {
                files.output.write_all(&out)?;
            } else {
                files.error.write_all(&out)?;
            }
            index += 1;
        }
        files.output.flush()?;
        files.error.flush()
    }

    fn complete(&mut self, at_ms: i64) -> io::Result<()> {
        self.build(at_ms, BatchState::Completed)?;
        self.record.completed_ms = Some(at_ms);
        self.record.state = BatchState::Completed;
        Ok(())
    }

    fn cancel(&mut self, at_ms: i64) -> io::Result<()> {
        self.abandon(Unexecuted::Cancelled)?;
        if self.record.quirks.cancel_loses_rows {
            File::create(&self.cell.paths.output)?;
        }
        self.build(at_ms, BatchState::Cancelled)?;
        self.record.cancelled_ms = Some(at_ms);
        self.record.state = BatchState::Cancelled;
        Ok(())
    }

    /// Builds the results files. Their ids follow from the batch, so doing it again after a kill changes nothing.
    fn build(&mut self, at_ms: i64, end: BatchState) -> io::Result<()> {
        if self.record.in_progress_ms.is_none() || !self.rows.keeps_results(end) {
            return Ok(());
        }
        self.record.output_file_id = self.build_one(at_ms, ResultFile::Output)?;
        self.record.error_file_id = self.build_one(at_ms, ResultFile::Error)?;
        Ok(())
    }

    fn build_one(&self, at_ms: i64, which: ResultFile) -> io::Result<Option<String>> {
        let (partial, kind, name) = match which {
            ResultFile::Error => (&self.cell.paths.error, 12, "error"),
            ResultFile::Output | ResultFile::Both => (&self.cell.paths.output, 11, "output"),
        };
        let empty = fs::metadata(partial).map_or(0, |data| data.len()) == 0;
        if empty && !self.rows.makes_empty_files(self.engine) {
            return Ok(None);
        }
        if empty {
            File::create(partial)?;
        }
        let engine = self.engine;
        let BatchRecord { sequence, id, .. } = &self.record;
        let seed = mix(mix(engine.config.seed, kind), *sequence);
        let mutations: Vec<&Mutation> = self
            .record
            .quirks
            .mutations
            .iter()
            .filter(|mutation| mutation.file == which || mutation.file == ResultFile::Both)
            .collect();
        let file_sequence = engine.sequence.next();
        let scratch = engine.files.scratch_path(file_sequence);
        let bytes = results::copy(
            partial,
            &scratch,
            seed,
            self.rows.shuffles(),
            &mutations,
            self.rows,
        )?;
        let record = FileRecord {
            id: crate::seed::id("file-", engine.config.seed, kind, *sequence),
            sequence: file_sequence,
            face: self.record.face.clone(),
            key: self.record.key.clone(),
            bytes,
            created_ms: at_ms,
            expires_ms: Some(at_ms.saturating_add(self.record.results_live_ms)),
            filename: format!("{id}_{name}.jsonl"),
            purpose: "batch_output".to_owned(),
            listed_ms: at_ms,
            visible_ms: at_ms,
        };
        let record = self.rows.results_file(engine, &self.record, which, record);
        let record = engine.files.insert(record, &scratch)?;
        Ok(Some(record.id.clone()))
    }

    /// Removes what only the executor needed; the invoice stays.
    fn clean_up(&self) -> io::Result<()> {
        let Paths {
            input,
            output,
            error,
            ..
        } = &self.cell.paths;
        [input, output, error]
            .into_iter()
            .try_for_each(|path| remove_file(path))
    }
}

impl Engine {
    /// Input tokens of other batches of the same key and model that wait at an instant.
    pub(crate) fn waiting_tokens(&self, batch: &BatchRecord, model: &str, at_ms: i64) -> u64 {
        self.batches
            .all()
            .iter()
            .map(|cell| {
                cell.with(|other| {
                    let counts = other.id != batch.id
                        && other.face == batch.face
                        && other.key == batch.key
                        && other.model.as_deref() == Some(model)
                        && other.in_progress_ms.is_some_and(|from| from <= at_ms)
                        && at_ms < other.projected_end_ms(&self.config.pace);
                    if counts { other.tokens } else { 0 }
                })
            })
            .sum()
    }
}
