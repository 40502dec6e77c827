//! The audit of a job from its files alone: input, attempts, raw files and outcomes against one another.

use super::{
    Job, JobSpec, TAG,
    batch::{downloads, each_line},
    fingerprint, stored_rows, stored_spec,
};
use batchwright_core::{
    BatchProvider, JournalEvent, Lane, Outcome, PriceTable, Result, WirePrefix,
};
use batchwright_ledger::{ChunkState, Finding, Ledger, RowSet, VerifyReport};
use batchwright_router::{Join, Joined, Origin};
use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

/// Rows whose result lines are compared with their outcomes at the same time, at 9 bytes each; the segments are read
/// once for each so many.
const GROUP_ROWS: usize = 2_000_000;
/// Findings of one kind that are named.
const NAMED: usize = 20;

/// A batch's result lines: what each of its rows ended with.
struct Lines {
    chunk: u32,
    /// Ascending.
    rows: Vec<u64>,
    /// By the place among the rows; 0 where there is no line.
    endings: Vec<u8>,
}

/// Findings of one kind: the first are named, the others counted.
struct Found<'r> {
    report: &'r mut VerifyReport,
    count: usize,
}

impl Found<'_> {
    fn push(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.count += 1;
        if self.count <= NAMED {
            self.report.findings.push(Finding::new(place, what));
        }
    }

    fn end(self, place: &str) {
        if let Some(more) = self.count.checked_sub(NAMED).filter(|more| *more > 0) {
            let what = format!("{more} more of the same kind");
            self.report.findings.push(Finding::new(place, what));
        }
    }
}

impl Job {
    /// Checks the job in `dir` from its files alone, without its lock: all that [`Ledger::verify`] does; the input's
    /// fingerprint, where the input is there; that every chunk's rows are rows of the input and none is in two chunks
    /// that are under way; and that every outcome that names a batch is what that batch's raw files say of its row.
    /// `providers` read the lines and are asked nothing; results of a batch whose provider is not among them are noted
    /// as not compared. Blocks. Memory: 18 MB besides what [`Ledger::scan`] needs.
    ///
    /// # Errors
    /// `Storage` where the ledger cannot be read at all; everything else is a finding.
    pub fn audit(dir: &Path, providers: &[Arc<dyn BatchProvider>]) -> Result<VerifyReport> {
        let ledger = Ledger::open_read_only(dir)?;
        let rows = stored_rows(&ledger)?;
        let mut report = ledger.verify(Some(rows))?;
        match stored_spec(&ledger) {
            Ok(Some(spec)) => check_input(&spec, &mut report),
            Ok(None) => report.findings.push(Finding::new(
                "ledger.sqlite",
                "what the job asks is not there",
            )),
            Err(error) => report
                .findings
                .push(Finding::new("ledger.sqlite", error.message())),
        }
        if Ledger::card_of(dir).is_ok_and(|card| card.is_none()) {
            report.findings.push(Finding::new(
                "job.json",
                "it is gone, and without it a lost journal cannot be made again; resume writes it again",
            ));
        }
        // What cannot be read was found above, and cannot be compared.
        if report.is_ok() {
            check_chunks(&ledger, rows, &mut report)?;
            check_results(&ledger, providers, &mut report)?;
        }
        Ok(report)
    }
}

fn check_input(spec: &JobSpec, report: &mut VerifyReport) {
    let name = spec.input.display().to_string();
    if spec.input.try_exists().is_ok_and(|exists| !exists) {
        let what = "the input is not there any more, so it was not compared";
        report.notes.push(Finding::new(name, what));
        return;
    }
    let Some(started) = &spec.fingerprint else {
        return;
    };
    match fingerprint(&spec.input) {
        Ok(found) if found == *started => {}
        Ok(_) => report.findings.push(Finding::new(
            name,
            "the input was changed since the job was started; bring the old file back",
        )),
        Err(error) => report.notes.push(Finding::new(name, error.message())),
    }
}

fn check_chunks(ledger: &Ledger, input_rows: u64, report: &mut VerifyReport) -> Result<()> {
    let mut under_way = RowSet::new();
    let mut found = Found { report, count: 0 };
    for state in ledger.chunks()? {
        let place = format!("chunks/{:06}.rows", state.chunk);
        for (line, row) in (1u64..).zip(ledger.chunk_rows(state.chunk)?) {
            let row = row?.0;
            let place = || format!("{place}:{line}");
            if row >= input_rows {
                found.push(place(), format!("the input has no row {}", row + 1));
            }
            if !state.phase.is_merged() && !under_way.insert(row) {
                let what = format!("row {} is in two chunks that are under way", row + 1);
                found.push(place(), what);
            }
        }
    }
    found.end("chunks");
    Ok(())
}

fn check_results(
    ledger: &Ledger,
    providers: &[Arc<dyn BatchProvider>],
    report: &mut VerifyReport,
) -> Result<()> {
    let chunks = ledger.chunks()?;
    let known = known_batches(ledger, &chunks)?;
    check_names(ledger, &known, report)?;
    let mut chunks = chunks.into_iter().peekable();
    while chunks.peek().is_some() {
        let mut group: HashMap<String, Lines> = HashMap::new();
        let mut rows = 0;
        while rows < GROUP_ROWS
            && let Some(state) = chunks.next()
        {
            let Some(handle) = &state.handle else {
                continue;
            };
            let provider = providers.iter().find(|one| one.name() == state.provider);
            let Some(provider) = provider else {
                let what = format!("{} cannot be read here", state.provider);
                let place = format!("raw/{:06}", state.chunk);
                report.notes.push(Finding::new(place, what));
                continue;
            };
            if let Some(lines) = read(ledger, &state, provider.as_ref())? {
                rows += lines.rows.len();
                group.insert(handle.id.clone(), lines);
            }
        }
        if !group.is_empty() {
            compare(ledger, &group, report)?;
        }
    }
    Ok(())
}

/// Every batch the journal names.
fn known_batches(ledger: &Ledger, chunks: &[ChunkState]) -> Result<HashSet<String>> {
    use JournalEvent::{Adopted, Created, Surplus};
    let mut known = HashSet::new();
    for state in chunks {
        known.extend(state.handle.as_ref().map(|handle| handle.id.clone()));
        for entry in ledger.entries_blocking(state.chunk)? {
            if let Created { handle, .. } | Adopted { handle, .. } | Surplus { handle, .. } =
                entry.event
            {
                known.insert(handle.id);
            }
        }
    }
    Ok(known)
}

fn check_names(ledger: &Ledger, known: &HashSet<String>, report: &mut VerifyReport) -> Result<()> {
    let mut found = Found { report, count: 0 };
    ledger.each_outcome(&mut |outcome| {
        let origin = &outcome.record.provenance;
        if origin.lane.as_deref() != Some(Lane::Batch.as_str()) {
            return;
        }
        let row = outcome.record.row + 1;
        let place = || format!("{}:{}", outcome.file, outcome.line);
        match origin.batch.as_deref() {
            Some(batch) if !known.contains(batch) => {
                let what =
                    format!("row {row} names batch {batch}, which the journal does not know");
                found.push(place(), what);
            }
            None if outcome.record.is_success() => {
                found.push(place(), format!("row {row} was answered by no batch"));
            }
            _ => {}
        }
    })?;
    found.end("segments");
    Ok(())
}

/// What the raw files of a chunk say of its rows; `None` where none was collected.
fn read(
    ledger: &Ledger,
    state: &ChunkState,
    provider: &dyn BatchProvider,
) -> Result<Option<Lines>> {
    let files = downloads(ledger, state.chunk)?;
    let attempt = files.values().next().and_then(|file| {
        // The ledger names them: chunk, attempt, label.
        file.split('-').nth(1)?.parse::<u32>().ok()
    });
    let (Some(attempt), true) = (attempt, state.phase.is_merged()) else {
        return Ok(None);
    };
    let job = ledger.meta(TAG)?.unwrap_or_default();
    let wire = WirePrefix::of(&job, state.chunk, attempt);
    let rows = ledger.chunk_rows(state.chunk)?.load()?.rows().to_vec();
    let mut endings = vec![0; rows.len()];
    let origin = Origin::new(
        &state.provider,
        &state.model,
        Arc::new(PriceTable::default()),
    );
    let mut join = Join::new(provider, wire, &rows, &origin);
    for pass in 0..2 {
        if pass == 1 {
            join.second_pass();
        }
        for file in files.values() {
            each_line(&ledger.raw_path(file)?, |line| {
                if let Joined::Row(row, outcome) = join.line(line)
                    && let Ok(place) = rows.binary_search(&row)
                {
                    endings[place] = ending(&outcome);
                }
                Ok(())
            })?;
        }
    }
    Ok(Some(Lines {
        chunk: state.chunk,
        rows,
        endings,
    }))
}

const ENDINGS: [&str; 8] = [
    "no line",
    "succeeded",
    "failed",
    "refused",
    "expired",
    "cancelled",
    "missing",
    "unreadable",
];

fn ending(outcome: &Outcome) -> u8 {
    let name = outcome.ending.as_str();
    let place = ENDINGS.iter().position(|known| *known == name);
    u8::try_from(place.unwrap_or(0)).unwrap_or(0)
}

/// Every outcome that names one of these batches against its lines.
fn compare(
    ledger: &Ledger,
    group: &HashMap<String, Lines>,
    report: &mut VerifyReport,
) -> Result<()> {
    let mut found = Found { report, count: 0 };
    ledger.each_outcome(&mut |outcome| {
        let record = &outcome.record;
        let batch = record.provenance.batch.as_deref();
        let Some((batch, lines)) = batch.and_then(|batch| Some((batch, group.get(batch)?))) else {
            return;
        };
        let row = record.row + 1;
        let place = || format!("{}:{}", outcome.file, outcome.line);
        let Ok(at) = lines.rows.binary_search(&record.row) else {
            let what = format!(
                "row {row} names batch {batch}, and chunk {} has no such row",
                lines.chunk
            );
            return found.push(place(), what);
        };
        let line = ENDINGS[usize::from(lines.endings[at])];
        // How a batch ended is the ending of a row that it has no line of.
        let without_line = matches!(record.status.as_ref(), "expired" | "cancelled" | "missing");
        if line != record.status && !(line == ENDINGS[0] && without_line) {
            let what = format!(
                "row {row} is {}, and batch {batch} says {line} of it in raw/{:06}-*",
                record.status, lines.chunk
            );
            found.push(place(), what);
        }
    })?;
    found.end("segments");
    Ok(())
}
