//! What a face tells the executor about its rows.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use super::{BatchRecord, BatchState, RowUsage};
use crate::answer::PromptHash;
use crate::engine::Engine;
use crate::faults::{BatchFailure, ResultFile};
use crate::results::LineShape;
use crate::store::FileRecord;

/// What a face knows about the rows of its batches.
pub(crate) trait BatchRows: LineShape {
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
    /// Looks at line `number`, counted from 1, before anything runs. An error fails the whole batch.
    fn check(&self, scan: &mut Scan<'_>, number: u64, line: &[u8]) -> Result<(), BatchFailure>;
    /// Looks at what [`Self::check`] gathered when all `rows` lines were seen.
    fn check_end(&self, _scan: &Scan<'_>, _rows: u64) -> Result<(), BatchFailure> {
        Ok(())
    }
    /// Appends the result line of an executed row.
    fn answer(&self, row: &Row<'_>, line: &[u8], out: &mut Vec<u8>) -> RowEnd;
    /// Appends the result line of a row that fails with a status by the fault script's will.
    fn fail(&self, row: &Row<'_>, line: &[u8], status: u16, out: &mut Vec<u8>);
    /// Appends the result line of a row that was never executed.
    fn unexecuted(&self, row: &Row<'_>, line: &[u8], why: Unexecuted, out: &mut Vec<u8>);

    /// Puts the input lines at `to`, at the virtual instant of validation.
    ///
    /// By default a link to the uploaded file `input_file_id` of purpose `batch`. A batch whose rows came with its
    /// creation ([`BatchRecord::inline`]) has its lines there already. A face with another kind of source (an object
    /// store, a table) writes them here.
    fn stage(
        &self,
        engine: &Engine,
        batch: &BatchRecord,
        at_ms: i64,
        to: &Path,
    ) -> io::Result<Result<(), BatchFailure>> {
        stage_upload(self, engine, batch, at_ms, to)
    }

    /// Whether failed rows stand among the answers in one file. Default: in a file of their own.
    fn one_file(&self, _engine: &Engine) -> bool {
        false
    }

    /// Whether a results file without lines exists all the same. Default: no.
    fn makes_empty_files(&self, _engine: &Engine) -> bool {
        false
    }

    /// Whether result lines come in another order than the input. Default: yes.
    fn shuffles(&self) -> bool {
        true
    }

    /// Whether a batch that ended so has results files at all. Default: yes.
    fn keeps_results(&self, _end: BatchState) -> bool {
        true
    }

    /// Changes the record of a results file before it is stored: id, name, purpose, key, lifetime. Must give the same
    /// id for the same batch, because a kill may let it happen twice. Default: an id like an uploaded file's.
    fn results_file(
        &self,
        _engine: &Engine,
        _batch: &BatchRecord,
        _which: ResultFile,
        file: FileRecord,
    ) -> FileRecord {
        file
    }
}

/// [`BatchRows::stage`] of an uploaded file, or of rows that came with the creation.
pub(crate) fn stage_upload<R: BatchRows + ?Sized>(
    rows: &R,
    engine: &Engine,
    batch: &BatchRecord,
    at_ms: i64,
    to: &Path,
) -> io::Result<Result<(), BatchFailure>> {
    if batch.inline {
        return Ok(Ok(()));
    }
    let input = engine
        .files
        .get(&batch.face, &batch.key, &batch.input_file_id, at_ms)
        .filter(|input| input.purpose == "batch");
    let Some(input) = input else {
        return Ok(Err(rows.bad_file(BadFile::Missing)));
    };
    if input.bytes > rows.max_bytes() {
        return Ok(Err(rows.bad_file(BadFile::TooLarge)));
    }
    link_or_copy(&engine.files.data_path(&input.id), to)?;
    Ok(Ok(()))
}

/// Makes `to` the same file as `from`; a copy where the disk has no links.
pub(crate) fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    crate::store::remove_file(to)?;
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to)?;
    }
    Ok(())
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
    pub(crate) engine: &'a Engine,
    pub(crate) batch: &'a BatchRecord,
    /// The model of the first line, as answers name it.
    pub(crate) model: Option<&'static str>,
    /// Hashes of the ids seen.
    pub(crate) custom_ids: HashSet<u64>,
    /// Inputs of an embedding batch, over all lines.
    pub(crate) inputs: u64,
    pub(crate) tokens: u64,
    /// Faults of lines that do not fail the batch; shown as the batch's errors, the first hundred of them.
    pub(crate) notes: Vec<BatchFailure>,
}

/// One row about to be answered.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) batch: &'a BatchRecord,
    /// Counted from 0.
    pub(crate) index: u64,
    /// Virtual Unix seconds.
    pub(crate) at: i64,
}

impl Row<'_> {
    /// The emulator's seed.
    pub(crate) fn seed(&self) -> u64 {
        self.engine.config.seed
    }

    /// Makes the row's ids: unique over all rows of all batches of the emulator.
    pub(crate) fn nonce(&self) -> u64 {
        crate::seed::mix(self.batch.sequence, self.index)
    }
}

/// How a row ended.
#[derive(Debug)]
pub(crate) enum RowEnd {
    /// Answered: goes to the output file and on the invoice.
    Answered(RowCharge),
    /// Failed: goes to the error file (or among the answers, see [`BatchRows::one_file`]), unbilled.
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
