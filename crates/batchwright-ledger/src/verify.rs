//! Checking a job from its files alone.

use crate::{
    files::{self, Access},
    journal::Download,
    ledger::Ledger,
    raw,
    scan::Scan,
    segment::SegmentName,
};
use batchwright_core::{Error, Result};
use std::{
    collections::BTreeSet,
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
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What is wrong, and what to do about it.
    pub what: String,
    /// The file within the job's folder, or `rows`.
    pub place: String,
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
        report.check_chunks(ledger)?;
        report.check_raw_files(ledger)?;
        report.check_segments(ledger)?;
        report.check_rows(ledger, input_rows);
        Ok(report)
    }

    fn find(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.findings.push(Finding {
            what: what.into(),
            place: place.into(),
        });
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

fn compare(path: &Path, sha256: &str, bytes: u64) -> Result<(), Error> {
    let found = files::hash(path, files::open(path, Access::Read)?)?;
    if (found.0.as_str(), found.1) == (sha256, bytes) {
        Ok(())
    } else {
        Err(files::damaged(path, "it was changed after it was written"))
    }
}
