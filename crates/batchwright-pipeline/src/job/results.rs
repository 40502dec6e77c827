//! From segments to the results file.

use super::{JobSpec, fingerprint, open_source, stored_rows};
use crate::{Sink, SinkFormat, SinkOptions, Source};
use batchwright_core::{Error, ErrorKind, Result};
use batchwright_ledger::{Ledger, OutcomeRecord};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where and how a job's results are written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResultsOptions {
    /// The file, whose ending tells the form; `-` is standard output.
    pub target: PathBuf,
    /// Whether rows are written in the order their outcomes came, instead of the input's. Default false.
    /// CSV that repeats the input's columns is always in the input's order.
    pub unordered: bool,
    /// Whether text in CSV that a spreadsheet would run as a formula is made harmless. Default true.
    pub safe_csv: bool,
}

impl ResultsOptions {
    /// Results in the input's order, to `target`.
    pub fn new(target: impl Into<PathBuf>) -> Self {
        Self {
            target: target.into(),
            unordered: false,
            safe_csv: true,
        }
    }

    /// Checks that results of `input` can be written there, so that a wrong name is told before anything is
    /// bought: the ending must tell a form, the folder must be there and writable (F-147), and the file must
    /// not be the input itself.
    ///
    /// # Errors
    /// `ConfigInvalid` where they cannot; `Storage` where the disk is at fault.
    pub fn check(&self, input: &Path) -> Result<()> {
        let name = self.target.display();
        let wrong = |what: &str| {
            let message = format!("write results to {name}: {what}");
            Error::new(ErrorKind::ConfigInvalid, message)
        };
        if self.target == Path::new("-") {
            return Ok(());
        }
        if fs::canonicalize(&self.target)
            .is_ok_and(|target| fs::canonicalize(input).is_ok_and(|input| target == input))
        {
            return Err(wrong("it is the input; name another file"));
        }
        match fs::metadata(&self.target) {
            // A pipe or a device is opened when there is something to write, and a form is all it needs.
            Ok(found) if !found.is_file() && !found.is_dir() => {
                let form = self.target.extension().and_then(|end| end.to_str());
                return match form.and_then(SinkFormat::from_extension) {
                    Some(_) => Ok(()),
                    None => Err(wrong("its ending tells no form; use - to write to a pipe")),
                };
            }
            Ok(_) => {}
            Err(_) => {
                let folder = self
                    .target
                    .parent()
                    .filter(|folder| *folder != Path::new(""));
                if !folder.is_none_or(Path::is_dir) {
                    return Err(wrong("its folder is not there"));
                }
            }
        }
        // A sink that is dropped leaves nothing behind.
        Sink::create(&self.target, &SinkOptions::default())
            .map(drop)
            .map_err(|error| match io_kind(&error) {
                Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) | None => error,
                Some(_) => Error::new(ErrorKind::ConfigInvalid, error.message()),
            })
    }
}

fn io_kind(error: &Error) -> Option<io::ErrorKind> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<io::Error>().map(io::Error::kind)
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WrittenResults {
    /// Rows written.
    pub rows: u64,
    /// Of those, rows that did not succeed.
    pub unsuccessful: u64,
    /// Rows of the input that have no outcome yet.
    pub missing: u64,
}

/// Writes what the job has, in the input's order or in the one it came in.
pub(super) fn write(
    ledger: &Ledger,
    spec: &JobSpec,
    options: &ResultsOptions,
) -> Result<WrittenResults> {
    let mut results = Results::open(ledger, spec, options)?;
    if options.unordered && results.source.is_none() {
        results.write_earlier(ledger)?;
    } else {
        ledger
            .index()?
            .for_each_in_order(|row, line| results.write(row, line))?;
    }
    results.finish()
}

/// A results file being written.
pub(super) struct Results {
    sink: Sink,
    /// The input once more, for CSV that repeats its columns.
    source: Option<Source>,
    total: u64,
    written: WrittenResults,
}

impl Results {
    pub(super) fn open(ledger: &Ledger, spec: &JobSpec, options: &ResultsOptions) -> Result<Self> {
        let total = stored_rows(ledger)?;
        let mut settings = SinkOptions::default().with_guard_formulas(options.safe_csv);
        let form = options.target.extension().and_then(|end| end.to_str());
        let form = form.and_then(SinkFormat::from_extension);
        // Only CSV repeats the input's columns, and so needs the input, unchanged.
        let mut source = None;
        if matches!(form, Some(SinkFormat::Csv | SinkFormat::Tsv)) {
            let found = fingerprint(&spec.input).map_err(|error| {
                error.context("repeat the input's columns (results in JSONL need no input)")
            })?;
            if let Some(started) = &spec.fingerprint {
                started.check(&found, &spec.input.display().to_string())?;
            }
            let opened = open_source(spec)?;
            if let Some(columns) = opened.header() {
                settings = settings.with_columns(columns.to_vec());
                source = Some(opened);
            }
        }
        Ok(Self {
            sink: Sink::create(&options.target, &settings)?,
            source,
            total,
            written: WrittenResults::default(),
        })
    }

    /// Whether rows can be written in any order.
    pub(super) fn takes_any_order(&self) -> bool {
        self.source.is_none()
    }

    /// Writes every row that has an outcome, in the order they came.
    pub(super) fn write_earlier(&mut self, ledger: &Ledger) -> Result<()> {
        for outcome in ledger.unordered()? {
            let (row, line) = outcome?;
            self.write(row, &line)?;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, row: u64, line: &[u8]) -> Result<()> {
        let record = OutcomeRecord::parse(line)?;
        self.written.rows += 1;
        self.written.unsuccessful += u64::from(!record.is_success());
        let input = match &mut self.source {
            Some(source) => Some(input_row(source, row)?),
            None => None,
        };
        self.sink.write(input.as_ref(), &record)
    }

    pub(super) fn finish(mut self) -> Result<WrittenResults> {
        self.written.missing = self.total.saturating_sub(self.written.rows);
        self.sink.finish()?;
        Ok(self.written)
    }
}

/// Reads on to row number `row`.
fn input_row(source: &mut Source, row: u64) -> Result<crate::Row> {
    while let Some(read) = source.next() {
        match read {
            Ok(read) if read.number() == row => return Ok(read),
            // A row that cannot be read has an outcome that says so, and no columns.
            Err(error) if error.number() == row && !error.ends_source() => {
                if let Some(header) = source.header() {
                    return Ok(crate::Row::empty(row, error.line(), header));
                }
            }
            Err(error) if error.ends_source() => return Err(error.into()),
            _ => {}
        }
    }
    Err(Error::new(
        ErrorKind::Storage,
        format!(
            "find row {} in the input: the input is shorter than it was",
            row + 1
        ),
    ))
}
