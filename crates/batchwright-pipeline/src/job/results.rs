//! From segments to the results file.

use super::{JobSpec, open_source, stored_rows};
use crate::{Sink, SinkOptions, Source};
use batchwright_core::{Error, Result};
use batchwright_ledger::{Ledger, OutcomeRecord};
use std::path::PathBuf;

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

pub(super) fn write(
    ledger: &Ledger,
    spec: &JobSpec,
    options: &ResultsOptions,
) -> Result<WrittenResults> {
    let total = stored_rows(ledger)?;
    let header = open_source(spec)?.header().map(<[String]>::to_vec);
    let mut settings = SinkOptions::default().with_guard_formulas(options.safe_csv);
    if let Some(columns) = header {
        settings = settings.with_columns(columns);
    }
    let mut sink = Sink::create(&options.target, &settings)?;
    // Only CSV that repeats the input's columns needs the input again.
    let mut source = match (sink.columns(), &settings.columns) {
        (Some(_), Some(_)) => Some(open_source(spec)?),
        _ => None,
    };
    let in_step = source.is_some();
    let mut written = WrittenResults::default();
    let mut one = |row: u64, line: &[u8]| {
        let record = OutcomeRecord::parse(line)?;
        written.rows += 1;
        written.unsuccessful += u64::from(!record.is_success());
        match &mut source {
            Some(source) => {
                let input = input_row(source, row)?;
                sink.write(Some(&input), &record)
            }
            None => sink.write(None, &record),
        }
    };
    if options.unordered && !in_step {
        for outcome in ledger.unordered()? {
            let (row, line) = outcome?;
            one(row, &line)?;
        }
    } else {
        ledger.index()?.for_each_in_order(one)?;
    }
    written.missing = total.saturating_sub(written.rows);
    sink.finish()?;
    Ok(written)
}

/// Reads on to row number `row`.
fn input_row(source: &mut Source, row: u64) -> Result<crate::Row> {
    for read in source {
        let read = read.map_err(Error::from)?;
        if read.number() == row {
            return Ok(read);
        }
    }
    Err(Error::new(
        batchwright_core::ErrorKind::Storage,
        format!(
            "find row {} in the input: the input is shorter than it was",
            row + 1
        ),
    ))
}
