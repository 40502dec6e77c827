//! Checking a job from its files alone.

use crate::{
    card, checkpoint,
    files::{self, Access},
    journal::Download,
    ledger::Ledger,
    raw,
    record::{Entry, OutcomeRecord},
    scan::Scan,
    seal::Seal,
    segment::{SegmentName, Segments},
};
use batchwright_core::{Error, JournalEvent, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// Rows a finding names at most.
const NAMED_ROWS: usize = 20;
/// How long the fact of a download that differs is waited for: whoever makes a download again puts the file
/// in place first, and its fact is durable two syncs later.
const SETTLE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);

/// What a check of a job found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Sealed attempts whose file was compared.
    pub chunks: u64,
    /// Downloads whose file was compared.
    pub raw_files: u64,
    /// Closed segments whose file was compared.
    pub segments: u64,
    /// Rows that have their final outcome.
    pub finished: u64,
    /// Outcomes passed over for another one of the same row: paid for, and harmless.
    pub superseded: u64,
    /// What is wrong, in plain words; empty where nothing is.
    pub findings: Vec<Finding>,
    /// What could not be looked at and is no fault of the job, such as an input that is not there any more.
    pub notes: Vec<Finding>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What is wrong, and what to do about it.
    pub what: String,
    /// The file within the job's folder, with its line where one is at fault; or `rows`.
    pub place: String,
}

impl Finding {
    /// Something wrong at a place.
    pub fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            place: place.into(),
        }
    }
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.findings.is_empty()
    }

    pub(crate) fn run(ledger: &Ledger, input_rows: Option<u64>) -> Result<Self> {
        let mut report = Self::default();
        if let Err(error) = ledger.journal().check() {
            report.find("ledger.sqlite", error.message());
        }
        if let Err(error) = report.check_all(ledger, input_rows) {
            // What cannot be read there was found above, and nothing can be compared with it.
            if report.is_ok() {
                report.find("ledger.sqlite", error.message());
            }
        }
        Ok(report)
    }

    fn check_all(&mut self, ledger: &Ledger, input_rows: Option<u64>) -> Result<()> {
        self.check_card(ledger)?;
        self.check_purchases(ledger)?;
        self.check_chunks(ledger)?;
        self.check_raw_files(ledger)?;
        self.check_segments(ledger)?;
        self.check_rows(ledger, input_rows);
        self.check_sums(ledger)
    }

    /// What a job is stands twice, in the journal and beside it.
    fn check_card(&mut self, ledger: &Ledger) -> Result<()> {
        let values = match card::read(ledger.folder()) {
            Ok(Some(values)) => values,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.find(card::FILE, error.message());
                return Ok(());
            }
        };
        for (key, value) in values {
            if ledger.meta(&key)? != Some(value) {
                let what =
                    format!("its {key} is not what ledger.sqlite says; resume writes it again");
                self.find(card::FILE, what);
            }
        }
        Ok(())
    }

    /// No create without its intent, and no two batches that count for one attempt.
    fn check_purchases(&mut self, ledger: &Ledger) -> Result<()> {
        for state in ledger.chunks()? {
            let chunk = state.chunk;
            let mut meant = Vec::new();
            let mut bought: BTreeMap<String, String> = BTreeMap::new();
            for entry in ledger.entries_blocking(chunk)? {
                use JournalEvent::{
                    Adopted, CreateIntent, CreateRefused, CreateUnknown, Created, Decided,
                    Disproved, Surplus,
                };
                match entry.event {
                    CreateIntent { tag, .. } => meant.push(tag),
                    CreateUnknown { tag, .. } if !meant.contains(&tag) => {
                        self.unmeant(chunk, &tag.to_string());
                    }
                    Created { tag, handle } | Adopted { tag, handle } => {
                        if !meant.contains(&tag) {
                            self.unmeant(chunk, &handle.id);
                        }
                        let before = bought.insert(tag.to_string(), handle.id.clone());
                        if let Some(before) = before.filter(|before| *before != handle.id) {
                            let what = format!(
                                "chunk {chunk} has two batches for attempt {}, {before} and {}, and none counts as a \
                                 duplicate",
                                tag.attempt(),
                                handle.id
                            );
                            self.find("ledger.sqlite", what);
                        }
                    }
                    CreateRefused { tag, .. } | Decided { tag, .. } => {
                        bought.remove(&tag.to_string());
                    }
                    Disproved { handle } | Surplus { handle, .. } => {
                        bought.retain(|_, id| *id != handle.id);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn unmeant(&mut self, chunk: u32, what: &str) {
        let what = format!("chunk {chunk} was created ({what}) without an intent to do so");
        self.find("ledger.sqlite", what);
    }

    /// What is summed up beside the segments says the same as they do.
    fn check_sums(&mut self, ledger: &Ledger) -> Result<()> {
        if !ledger.folder().join(checkpoint::FILE).exists() {
            return Ok(());
        }
        // While somebody writes, two readings may differ.
        let is_still = |ledger: &Ledger| -> Result<Option<usize>> {
            let (names, sealed) = ledger.segment_list()?;
            Ok((names.len() == sealed.len()).then_some(names.len()))
        };
        let before = is_still(ledger)?;
        let (Ok(kept), Ok(read)) = (Scan::run(ledger), Scan::run_all(ledger)) else {
            // Whoever read the rows said so.
            return Ok(());
        };
        let sums = |scan: &Scan| {
            let rows = (
                scan.finished.len(),
                scan.in_flight_rows,
                scan.interrupted_rows,
            );
            (
                rows,
                scan.tally,
                scan.cost,
                scan.superseded_cost,
                scan.possibly_paid,
            )
        };
        if before.is_some() && before == is_still(ledger)? && sums(&kept) != sums(&read) {
            let what = "it does not say what the segments say; remove it, it is made again";
            self.find(checkpoint::FILE, what);
        }
        Ok(())
    }

    fn find(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.findings.push(Finding::new(place, what));
    }

    fn note(&mut self, place: impl Into<String>, checked: Result<()>) {
        if let Err(error) = checked {
            self.find(place, error.message());
        }
    }

    fn check_chunks(&mut self, ledger: &Ledger) -> Result<()> {
        let attempts = ledger.journal().sealed_attempts()?;
        for (chunk, attempt) in attempts {
            self.chunks += 1;
            let place = format!("chunks/{chunk:06}-{attempt}.jsonl");
            self.note(place, ledger.sealed(chunk, attempt).map(drop));
            self.note(
                format!("chunks/{}", Seal::name(chunk, attempt)),
                check_seal(ledger, chunk, attempt),
            );
            if attempt == 1 {
                let rows = ledger.chunk_rows(chunk);
                let read = rows.and_then(|mut rows| rows.try_for_each(|row| row.map(drop)));
                self.note(format!("chunks/{chunk:06}.rows"), read);
            }
        }
        Ok(())
    }

    fn check_raw_files(&mut self, ledger: &Ledger) -> Result<()> {
        let merged: BTreeSet<u32> = ledger
            .chunks()?
            .into_iter()
            .filter(|state| state.phase.is_merged())
            .map(|state| state.chunk)
            .collect();
        let downloads = ledger.journal().downloads()?;
        let mut suspects = Vec::new();
        for (file, known) in downloads {
            self.raw_files += 1;
            if let Err(error) = check_raw_file(ledger, &file, &known, &merged) {
                suspects.push((file, known, error));
            }
        }
        let deadline = Instant::now() + SETTLE;
        while !suspects.is_empty() && Instant::now() < deadline {
            thread::sleep(PAUSE);
            // A file that has a newer fact was replaced since the facts were read.
            let newest = ledger.journal().downloads()?;
            suspects.retain(|(file, known, _)| newest.get(file) == Some(known));
        }
        for (file, _, error) in suspects {
            self.find(format!("raw/{file}"), error.message());
        }
        Ok(())
    }

    fn check_segments(&mut self, ledger: &Ledger) -> Result<()> {
        let segments = ledger.journal().segments()?;
        for segment in segments {
            self.segments += 1;
            let name = SegmentName {
                epoch: segment.epoch,
                number: segment.number,
            };
            let path = name.path(ledger.folder());
            self.note(
                format!("segments/{}", name.file()),
                compare(&path, &segment.sha256, segment.bytes),
            );
        }
        Ok(())
    }

    fn check_rows(&mut self, ledger: &Ledger, input_rows: Option<u64>) {
        let scan = match Scan::run_all(ledger) {
            Ok(scan) => scan,
            Err(error) => return self.find("segments", error.message()),
        };
        self.finished = scan.finished.len();
        self.superseded = scan.superseded;
        let Some(input_rows) = input_rows else {
            return;
        };
        let missing = scan.finished.missing(0..input_rows);
        if let Some(what) = name_rows("without an outcome; run the job again", missing) {
            self.find("rows", what);
        }
        let outside = scan.finished.iter().filter(|row| *row >= input_rows);
        if let Some(what) = name_rows("past the end of the input; the input was changed", outside) {
            self.find("rows", what);
        }
    }
}

fn name_rows(what: &str, rows: impl Iterator<Item = u64>) -> Option<String> {
    let mut first = Vec::new();
    let mut count = 0_u64;
    for row in rows {
        if first.len() < NAMED_ROWS {
            // Counted from 1, as every place outside of the job's folder counts them.
            first.push((row + 1).to_string());
        }
        count += 1;
    }
    let more = if count > NAMED_ROWS as u64 {
        ", …"
    } else {
        ""
    };
    (count > 0).then(|| {
        format!(
            "{count} rows {what}: {}{more} (counted from 1)",
            first.join(", ")
        )
    })
}

fn check_raw_file(
    ledger: &Ledger,
    file: &str,
    known: &Download,
    merged: &BTreeSet<u32>,
) -> Result<()> {
    let path = raw::path_of(ledger, file)?;
    let absent =
        fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    // While its rows are not all there, a download may be thrown away and made again.
    if absent && !merged.contains(&known.chunk) {
        return Ok(());
    }
    compare(&path, &known.sha256, known.bytes)
}

/// What was sealed stands twice, in the journal and beside the chunk.
fn check_seal(ledger: &Ledger, chunk: u32, attempt: u32) -> Result<()> {
    let seal = Seal::read(ledger.folder(), chunk, attempt)?;
    let known = ledger.journal().seal(chunk, attempt)?;
    let same = known.is_some_and(|(fact, file)| {
        fact == seal.fact
            && file.wire_prefix == seal.wire_prefix
            && file.rows_sha256 == seal.rows_sha256
    });
    let path = ledger.path("chunks", &Seal::name(chunk, attempt));
    same.then_some(())
        .ok_or_else(|| files::damaged(&path, "it is not what ledger.sqlite says"))
}

/// An outcome in a segment, final or not.
#[derive(Debug)]
#[non_exhaustive]
pub struct WrittenOutcome<'a> {
    /// The segment's file within the job's folder.
    pub file: &'a str,
    /// Its line there, from 1.
    pub line: u64,
    /// What it says.
    pub record: OutcomeRecord<'a>,
}

/// Visits every outcome of every segment, superseded ones included, in the order they were written.
pub(crate) fn each_outcome(
    ledger: &Ledger,
    visit: &mut dyn FnMut(WrittenOutcome<'_>),
) -> Result<()> {
    let mut segments = Segments::of(ledger)?;
    let names: Vec<String> = segments
        .names()
        .iter()
        .map(|name| format!("segments/{}", name.file()))
        .collect();
    while let Some((segment, line, entry)) = segments.next()? {
        if let Entry::Outcome { .. } = entry {
            visit(WrittenOutcome {
                file: &names[segment],
                line: line.number,
                record: OutcomeRecord::parse(line.bytes)?,
            });
        }
    }
    Ok(())
}

fn compare(path: &Path, sha256: &str, bytes: u64) -> Result<(), Error> {
    let found = files::hash(path, files::open(path, Access::Read)?)?;
    if (found.0.as_str(), found.1) == (sha256, bytes) {
        Ok(())
    } else {
        Err(files::damaged(path, "it was changed after it was written"))
    }
}
