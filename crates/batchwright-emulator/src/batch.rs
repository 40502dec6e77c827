//! Batches: a state machine over virtual time, and the executor that turns input lines into results.
//!
//! What a batch is at a virtual instant follows from its record and the instant alone. [`settle`] brings a record up to
//! an instant: it validates, executes the rows that are due, and builds the results files. Rows are executed in order
//! and in small steps, each ended by a checkpoint, so a killed emulator goes on where it was and bills no row twice.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::answer::PromptHash;
use crate::config::BatchPace;
use crate::engine::Engine;
use crate::faults::{BatchFailure, BatchQuirks, Counts, Mutation, ResultFile};
use crate::invoice::{Charge, Lane};
use crate::results::{self, LineShape};
use crate::seed::mix;
use crate::store::{FileRecord, remove_file, write_record};

/// What a face knows about the rows of its batches.
pub(crate) trait BatchRows: LineShape + Send + Sync {
    /// The face's name in records and on the invoice.
    fn face(&self) -> &'static str;
    /// Most rows of one input file.
    fn max_rows(&self) -> u64;
    /// Most bytes of one input file.
    fn max_bytes(&self) -> u64;
    /// The failure for a file that is not there, has another purpose, is empty, or is too large.
    fn bad_file(&self, why: BadFile) -> BatchFailure;
    /// The failure for a batch that does not fit under the limit of waiting tokens.
    fn too_many_tokens(&self, model: &str, limit: u64) -> BatchFailure;
    /// Looks at line `number`, counted from 1, before anything runs.
    fn check(&self, scan: &mut Scan<'_>, number: u64, line: &[u8]) -> Result<(), BatchFailure>;
    /// Appends the result line of an executed row.
    fn answer(&self, row: &Row<'_>, line: &[u8], out: &mut Vec<u8>) -> RowEnd;
    /// Appends the error line of a row that fails with a status by the fault script's will.
    fn fail(&self, row: &Row<'_>, line: &[u8], status: u16, out: &mut Vec<u8>);
    /// Appends the error line of a row that was never executed.
    fn unexecuted(&self, row: &Row<'_>, line: &[u8], why: Unexecuted, out: &mut Vec<u8>);
    /// How long results files live, in virtual milliseconds.
    fn results_live_ms(&self) -> i64;
}

/// Why an input file is no good as a whole.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BadFile {
    Missing,
    Empty,
    TooManyRows,
    TooLarge,
}

/// Why a row was never executed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unexecuted {
    Expired,
    Cancelled,
}

/// What validation gathers over the lines of a file.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    pub(crate) endpoint: &'a str,
    /// The model of the first line, as answers name it.
    pub(crate) model: Option<&'static str>,
    /// Hashes of the ids seen.
    pub(crate) custom_ids: HashSet<u64>,
    /// Inputs of an embedding batch, over all lines.
    pub(crate) inputs: u64,
    pub(crate) tokens: u64,
}

/// One row about to be answered.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) endpoint: &'a str,
    pub(crate) seed: u64,
    /// Makes the row's ids: unique over all batches of the emulator.
    pub(crate) batch_sequence: u64,
    /// Counted from 0.
    pub(crate) index: u64,
    /// Virtual Unix seconds.
    pub(crate) at: i64,
}

/// How a row ended.
#[derive(Debug)]
pub(crate) enum RowEnd {
    /// Answered: goes to the output file and on the invoice.
    Answered(RowCharge),
    /// Failed: goes to the error file, unbilled.
    Failed,
}

/// What an answered row costs.
#[derive(Debug)]
pub(crate) struct RowCharge {
    pub(crate) custom_id: String,
    pub(crate) request_id: String,
    pub(crate) hash: PromptHash,
    pub(crate) model: &'static str,
    pub(crate) usage: RowUsage,
    pub(crate) price_usd: f64,
}

/// Tokens of one row or many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RowUsage {
    pub(crate) input: u64,
    pub(crate) cached: u64,
    pub(crate) output: u64,
    pub(crate) reasoning: u64,
}

impl RowUsage {
    fn add(&mut self, other: Self) {
        self.input += other.input;
        self.cached += other.cached;
        self.output += other.output;
        self.reasoning += other.reasoning;
    }
}

/// Where a batch is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BatchState {
    Validating,
    Failed,
    InProgress,
    Finalizing,
    Completed,
    Expired,
    Cancelling,
    Cancelled,
}

impl BatchState {
    pub(crate) fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Failed | Self::Completed | Self::Expired | Self::Cancelled
        )
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::Failed => "failed",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }
}

/// All there is to know about a batch; kept as one JSON file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BatchRecord {
    pub(crate) id: String,
    pub(crate) sequence: u64,
    pub(crate) face: String,
    /// Fingerprint of the owner's key.
    pub(crate) key: String,
    pub(crate) endpoint: String,
    pub(crate) input_file_id: String,
    pub(crate) metadata: Option<Map<String, Value>>,
    /// How long results files live, in virtual milliseconds.
    pub(crate) results_live_ms: i64,
    pub(crate) created_ms: i64,
    pub(crate) expires_ms: i64,
    pub(crate) quirks: BatchQuirks,
    pub(crate) state: BatchState,
    pub(crate) model: Option<String>,
    pub(crate) in_progress_ms: Option<i64>,
    pub(crate) finalizing_ms: Option<i64>,
    pub(crate) completed_ms: Option<i64>,
    pub(crate) failed_ms: Option<i64>,
    pub(crate) expired_ms: Option<i64>,
    /// When a cancel was asked for; set from outside while the executor works.
    pub(crate) cancelling_ms: Option<i64>,
    pub(crate) cancelled_ms: Option<i64>,
    pub(crate) errors: Vec<BatchFailure>,
    pub(crate) total: u64,
    /// Input tokens that wait until the batch ends.
    pub(crate) tokens: u64,
    pub(crate) done: Checkpoint,
    pub(crate) output_file_id: Option<String>,
    pub(crate) error_file_id: Option<String>,
}

/// How far the executor came: what the partial files hold up to these lengths counts, the rest is done again.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) rows: u64,
    pub(crate) input_bytes: u64,
    pub(crate) output_bytes: u64,
    pub(crate) error_bytes: u64,
    pub(crate) invoice_bytes: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) usage: RowUsage,
}

impl BatchRecord {
    /// The state a client sees: a cancel shows at once, before the executor has taken notice.
    pub(crate) fn shown_state(&self) -> BatchState {
        if self.cancelling_ms.is_some() && !self.state.is_terminal() {
            BatchState::Cancelling
        } else {
            self.state
        }
    }

    /// The row counts a client sees.
    pub(crate) fn shown_counts(&self) -> Counts {
        if let (Some(counts), Some(_)) = (self.quirks.counts, self.finalizing_ms) {
            return counts;
        }
        let mut counts = Counts::default();
        if matches!(self.state, BatchState::Validating | BatchState::Failed) {
            return counts;
        }
        counts.total = self.total;
        if !(self.quirks.cancel_loses_rows && self.state == BatchState::Cancelled) {
            counts.completed = self.done.completed;
            counts.failed = self.done.failed;
        }
        counts
    }

    /// Whether results file ids are shown yet.
    pub(crate) fn shows_files(&self, now_ms: i64) -> bool {
        self.completed_ms
            .is_none_or(|completed| completed + self.quirks.late_file_ids_ms <= now_ms)
    }

    /// Whether a call with this key finds the batch now.
    pub(crate) fn is_there(&self, key: &str, now_ms: i64) -> bool {
        let forgotten = self
            .quirks
            .forget_after_ms
            .is_some_and(|after| self.created_ms + after <= now_ms);
        self.key == key && self.created_ms + self.quirks.visible_lag_ms <= now_ms && !forgotten
    }

    pub(crate) fn is_listed(&self, now_ms: i64) -> bool {
        self.created_ms + self.quirks.list_lag_ms <= now_ms
    }

    /// The latest instant that the record speaks of having happened.
    pub(crate) fn latest_ms(&self) -> i64 {
        [
            self.in_progress_ms,
            self.finalizing_ms,
            self.completed_ms,
            self.failed_ms,
            self.expired_ms,
            self.cancelling_ms,
            self.cancelled_ms,
        ]
        .into_iter()
        .flatten()
        .fold(self.created_ms, i64::max)
    }

    fn validated_ms(&self, pace: &BatchPace) -> i64 {
        self.created_ms + ms(pace.validating).max(self.quirks.stuck_ms("validating"))
    }

    /// When the first row begins.
    fn starts_ms(&self, pace: &BatchPace) -> i64 {
        self.in_progress_ms.unwrap_or(self.created_ms) + ms(pace.warm_up)
    }

    /// Rows whose time has come at an instant.
    fn due_rows(&self, pace: &BatchPace, now_ms: i64) -> u64 {
        let limit = self.quirks.expire_after_rows.unwrap_or(u64::MAX);
        let passed = u64::try_from(now_ms - self.starts_ms(pace)).unwrap_or(0);
        let due = passed
            .saturating_mul(1000)
            .checked_div(per_row_us(pace))
            .unwrap_or(if now_ms < self.starts_ms(pace) {
                0
            } else {
                u64::MAX
            });
        due.min(self.total).min(limit)
    }

    /// When row `index` is done.
    fn row_ms(&self, pace: &BatchPace, index: u64) -> i64 {
        let passed = (index + 1).saturating_mul(per_row_us(pace)) / 1000;
        self.starts_ms(pace)
            .saturating_add(i64::try_from(passed).unwrap_or(i64::MAX))
    }

    /// When the rows end, and whether by expiry.
    fn rows_end(&self, pace: &BatchPace) -> (i64, bool) {
        let stuck = self
            .quirks
            .stuck_ms("in_progress")
            .max(self.quirks.invented_state().map_or(0, |(_, ms)| ms));
        let stuck_until = self.in_progress_ms.unwrap_or(self.created_ms) + stuck;
        let last = match self.total {
            0 => self.starts_ms(pace),
            total => self.row_ms(pace, total - 1),
        };
        let end = last.max(stuck_until);
        if self.quirks.expire_after_rows.is_some() || last > self.expires_ms {
            (self.expires_ms.max(stuck_until), true)
        } else {
            (end, false)
        }
    }

    /// When the batch will have ended if nobody cancels it; for the limit of waiting tokens.
    fn projected_end_ms(&self, pace: &BatchPace) -> i64 {
        if self.state.is_terminal() {
            return self.latest_ms();
        }
        if let Some(at) = self.cancelling_ms {
            return at + ms(pace.cancelling).max(self.quirks.stuck_ms("cancelling"));
        }
        match self.rows_end(pace) {
            (end, true) => end,
            (end, false) => end + ms(pace.finalizing).max(self.quirks.stuck_ms("finalizing")),
        }
    }
}

fn ms(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

fn per_row_us(pace: &BatchPace) -> u64 {
    u64::try_from(pace.per_row.as_micros()).unwrap_or(u64::MAX)
}

/// A batch in memory: its record, and the right to work on it.
#[derive(Debug)]
pub(crate) struct BatchCell {
    record: Mutex<BatchRecord>,
    work: Mutex<()>,
    /// Set by a reset; whoever works on the batch then stops.
    gone: AtomicBool,
    paths: Paths,
}

#[derive(Debug)]
struct Paths {
    record: PathBuf,
    input: PathBuf,
    output: PathBuf,
    error: PathBuf,
    invoice: PathBuf,
}

impl BatchCell {
    pub(crate) fn new(dir: &Path, record: BatchRecord) -> Self {
        let path = |kind: &str| dir.join(format!("{}.{kind}", record.id));
        let paths = Paths {
            record: path("json"),
            input: path("input"),
            output: path("output"),
            error: path("error"),
            invoice: path("invoice"),
        };
        Self {
            record: Mutex::new(record),
            work: Mutex::new(()),
            gone: AtomicBool::new(false),
            paths,
        }
    }

    /// A copy of the record as of the last step.
    pub(crate) fn record(&self) -> BatchRecord {
        self.lock().clone()
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&BatchRecord) -> T) -> T {
        look(&self.lock())
    }

    pub(crate) fn persist(&self) -> io::Result<()> {
        write_record(&self.paths.record, &*self.lock())
    }

    /// Notes that a cancel was asked for; false when the batch has ended.
    pub(crate) fn cancel(&self, now_ms: i64) -> io::Result<bool> {
        let mut record = self.lock();
        if record.state.is_terminal() {
            return Ok(false);
        }
        if record.cancelling_ms.is_none() {
            record.cancelling_ms = Some(now_ms);
            write_record(&self.paths.record, &*record)?;
        }
        Ok(true)
    }

    /// The invoice file of the rows, and how much of it counts.
    pub(crate) fn invoice(&self) -> (PathBuf, u64) {
        (self.paths.invoice.clone(), self.lock().done.invoice_bytes)
    }

    /// Cuts partial files back to the last checkpoint, after a kill.
    pub(crate) fn recover(&self) -> io::Result<()> {
        let done = self.lock().done;
        for (path, len) in [
            (&self.paths.output, done.output_bytes),
            (&self.paths.error, done.error_bytes),
            (&self.paths.invoice, done.invoice_bytes),
        ] {
            match OpenOptions::new().write(true).open(path) {
                Ok(file) => file.set_len(len)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether a reset has erased the batch.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Removes the batch and everything it wrote, once nobody works on it.
    pub(crate) fn erase(&self) -> io::Result<()> {
        self.gone.store(true, Ordering::Release);
        let _work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let Paths {
            record,
            input,
            output,
            error,
            invoice,
        } = &self.paths;
        [record, input, output, error, invoice]
            .into_iter()
            .try_for_each(|path| remove_file(path))
    }

    fn lock(&self) -> MutexGuard<'_, BatchRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes and saves the executor's copy; takes over a cancel that was asked for meanwhile.
    fn commit(&self, local: &mut BatchRecord) -> io::Result<()> {
        if self.gone.load(Ordering::Acquire) {
            return Err(io::Error::other("the batch was erased"));
        }
        let mut shared = self.lock();
        local.cancelling_ms = shared.cancelling_ms;
        shared.clone_from(local);
        write_record(&self.paths.record, local)
    }
}

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
                        self.build(end)?;
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
        let BatchRecord {
            key, input_file_id, ..
        } = &self.record;
        let input = self.engine.files.get(key, input_file_id, due_ms);
        let Some(input) = input.filter(|input| input.purpose == "batch") else {
            return Ok(Err(self.rows.bad_file(BadFile::Missing)));
        };
        if input.bytes > self.rows.max_bytes() {
            return Ok(Err(self.rows.bad_file(BadFile::TooLarge)));
        }
        let source = self.engine.files.data_path(&input.id);
        remove_file(&self.cell.paths.input)?;
        if fs::hard_link(&source, &self.cell.paths.input).is_err() {
            fs::copy(&source, &self.cell.paths.input)?;
        }
        let mut scan = Scan {
            endpoint: &self.record.endpoint,
            model: None,
            custom_ids: HashSet::new(),
            inputs: 0,
            tokens: 0,
        };
        let mut reader = BufReader::with_capacity(256 << 10, File::open(&self.cell.paths.input)?);
        let mut line = Vec::new();
        let mut number = 0;
        while read_line(&mut reader, &mut line)? > 0 {
            number += 1;
            if number > self.rows.max_rows() {
                return Ok(Err(self.rows.bad_file(BadFile::TooManyRows)));
            }
            if let Err(failure) = self.rows.check(&mut scan, number, trim(&line)) {
                return Ok(Err(failure));
            }
        }
        if number == 0 {
            return Ok(Err(self.rows.bad_file(BadFile::Empty)));
        }
        let (model, tokens) = (scan.model, scan.tokens);
        if let (Some(limit), Some(model)) = (self.engine.config.limits.enqueued_tokens, model) {
            let waiting = self.engine.waiting_tokens(&self.record, model, due_ms);
            if waiting.saturating_add(tokens) > limit {
                return Ok(Err(self.rows.too_many_tokens(model, limit)));
            }
        }
        self.record.model = model.map(str::to_owned);
        self.record.tokens = tokens;
        self.record.total = number;
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
        let BatchRecord {
            sequence,
            endpoint,
            key,
            id,
            ..
        } = &self.record;
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
                endpoint,
                seed: self.engine.config.seed,
                batch_sequence: *sequence,
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
        while read_line(&mut files.input, &mut line)? > 0 {
            let row = Row {
                endpoint: &self.record.endpoint,
                seed: self.engine.config.seed,
                batch_sequence: self.record.sequence,
                index,
                at: 0,
            };
            out.clear();
            self.rows.unexecuted(&row, trim(&line), why, &mut out);
            files.error.write_all(&out)?;
            index += 1;
        }
        files.error.flush()
    }

    fn complete(&mut self, at_ms: i64) -> io::Result<()> {
        self.build(at_ms)?;
        self.record.completed_ms = Some(at_ms);
        self.record.state = BatchState::Completed;
        Ok(())
    }

    fn cancel(&mut self, at_ms: i64) -> io::Result<()> {
        self.abandon(Unexecuted::Cancelled)?;
        if self.record.quirks.cancel_loses_rows {
            File::create(&self.cell.paths.output)?;
        }
        self.build(at_ms)?;
        self.record.cancelled_ms = Some(at_ms);
        self.record.state = BatchState::Cancelled;
        Ok(())
    }

    /// Builds the results files. Their ids follow from the batch, so doing it again after a kill changes nothing.
    fn build(&mut self, at_ms: i64) -> io::Result<()> {
        if self.record.in_progress_ms.is_none() {
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
        if fs::metadata(partial).map_or(0, |data| data.len()) == 0 {
            return Ok(None);
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
        let bytes = results::copy(partial, &scratch, seed, true, &mutations, self.rows)?;
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

/// The open files of an executor, each at its checkpoint.
struct Files {
    input: BufReader<File>,
    output: BufWriter<File>,
    error: BufWriter<File>,
    invoice: BufWriter<File>,
}

impl Files {
    fn open(paths: &Paths, done: &Checkpoint) -> io::Result<Self> {
        let mut input = File::open(&paths.input)?;
        input.seek(SeekFrom::Start(done.input_bytes))?;
        Ok(Self {
            input: BufReader::with_capacity(256 << 10, input),
            output: writer(&paths.output, done.output_bytes)?,
            error: writer(&paths.error, done.error_bytes)?,
            invoice: writer(&paths.invoice, done.invoice_bytes)?,
        })
    }
}

fn writer(path: &Path, at: u64) -> io::Result<BufWriter<File>> {
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)?;
    file.set_len(at)?;
    file.seek(SeekFrom::Start(at))?;
    Ok(BufWriter::with_capacity(256 << 10, file))
}

fn read_line(reader: &mut BufReader<File>, line: &mut Vec<u8>) -> io::Result<usize> {
    line.clear();
    reader.read_until(b'\n', line)
}

fn trim(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
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
