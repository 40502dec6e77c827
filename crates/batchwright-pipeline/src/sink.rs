//! The results file.

mod csv;
mod destination;
mod jsonl;

use crate::row::Row;
use batchwright_core::{Error, ErrorKind, Result};
use batchwright_ledger::OutcomeRecord;
use destination::Destination;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    io::{self, Write},
    path::Path,
};

/// The form of a results file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SinkFormat {
    /// A JSON object on each line: `custom_id`, `status`, `output`, `finish_reason`, `usage`, `cost`,
    /// `provenance` and `error`.
    Jsonl,
    /// The input's columns and the outcome's, separated by commas.
    Csv,
    /// The same, separated by tabs.
    Tsv,
}

/// How results are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SinkOptions {
    /// The form; without one it is told from the file's ending, and is JSONL on standard output.
    pub format: Option<SinkFormat>,
    /// The input's columns, which CSV repeats before those of the outcome, as [`Source::header`] gives them.
    /// Without them, as for JSON input, `custom_id` stands in their place.
    ///
    /// [`Source::header`]: crate::Source::header
    pub columns: Option<Vec<String>>,
    /// Whether a text of the outcome that a spreadsheet would run as a formula gets a `'` before it in CSV
    /// (F-190). True by default, since answers are other people's text; switch it off where a program reads
    /// the file.
    pub guard_formulas: bool,
}

/// What is held back before it is written to a file.
const BUFFER_BYTES: usize = 64 * 1024;

/// A results file being written.
///
/// A file appears under its name only when it is finished: until then it has a name of its own beside it, and
/// is removed if the sink is dropped. A file that stood there is replaced. A stream is flushed after every
/// row. All of it blocks.
pub struct Sink {
    encoder: Encoder,
    name: String,
    is_stream: bool,
    rows: u64,
    has_failed: bool,
}

enum Encoder {
    Jsonl(jsonl::JsonlEncoder<Destination>),
    Csv(Box<csv::CsvEncoder<Destination>>),
}

impl Sink {
    /// A results file at `path`, or standard output for `-`. What is there and is no file, such as a pipe or
    /// a device, is written to.
    ///
    /// # Errors
    /// `ConfigInvalid` where neither options nor ending tell the form; `Storage` where nothing can be written
    /// there, and as [`Sink::write`] for the header.
    pub fn create(path: &Path, options: &SinkOptions) -> Result<Self> {
        let is_stdout = path == Path::new("-");
        let name = if is_stdout {
            "standard output".to_owned()
        } else {
            path.display().to_string()
        };
        let extension = path.extension().and_then(|extension| extension.to_str());
        let format = options
            .format
            .or(extension.and_then(SinkFormat::from_extension))
            .or(is_stdout.then_some(SinkFormat::Jsonl))
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::ConfigInvalid,
                    format!(
                        "write results to {name}: its ending tells no form; end it in .jsonl, .csv or .tsv, or \
                         name the form"
                    ),
                )
            })?;
        let destination = Destination::create(path).map_err(|error| failed(&name, error))?;
        Self::new(destination, name, format, options)
    }

    /// Results into any writer, as JSONL unless the options name a form; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`Sink::write`] for the header.
    pub fn to_writer(
        writer: impl Write + Send + 'static,
        name: impl Into<String>,
        options: &SinkOptions,
    ) -> Result<Self> {
        let format = options.format.unwrap_or(SinkFormat::Jsonl);
        let destination = Destination::Stream(Box::new(writer));
        Self::new(destination, name.into(), format, options)
    }

    fn new(
        destination: Destination,
        name: String,
        format: SinkFormat,
        options: &SinkOptions,
    ) -> Result<Self> {
        let is_stream = destination.is_stream();
        let delimiter = match format {
            SinkFormat::Jsonl => None,
            SinkFormat::Csv => Some(b','),
            SinkFormat::Tsv => Some(b'\t'),
        };
        let encoder = match delimiter {
            None => Encoder::Jsonl(jsonl::JsonlEncoder::new(destination)),
            Some(delimiter) => {
                let csv = csv::CsvEncoder::new(destination, delimiter, options);
                Encoder::Csv(Box::new(csv.map_err(|error| failed(&name, error))?))
            }
        };
        let mut sink = Self {
            encoder,
            name,
            is_stream,
            rows: 0,
            has_failed: false,
        };
        sink.flush_stream()?;
        Ok(sink)
    }

    /// Writes one row's outcome. CSV with the input's columns needs the row; otherwise it is not looked at.
    ///
    /// # Errors
    /// `Cancelled` where the reader of a pipe went away (F-157); `Storage` where the disk is full or fails;
    /// `Unexpected` where the row is missing or has other columns. After an error the file is never finished.
    pub fn write(&mut self, row: Option<&Row>, record: &OutcomeRecord<'_>) -> Result<()> {
        let written = match &mut self.encoder {
            Encoder::Jsonl(jsonl) => jsonl.write(record),
            Encoder::Csv(csv) => csv.write(row, record),
        };
        self.note(written)?;
        self.flush_stream()?;
        self.rows += 1;
        Ok(())
    }

    /// Makes the file durable and gives it its name; returns how many rows were written.
    ///
    /// # Errors
    /// As [`Sink::write`], and `Storage` where a write before it failed.
    pub fn finish(self) -> Result<u64> {
        let Self {
            encoder,
            name,
            rows,
            has_failed,
            ..
        } = self;
        if has_failed {
            return Err(Error::new(
                ErrorKind::Storage,
                format!("finish {name}: not every row was written to it"),
            ));
        }
        match encoder {
            Encoder::Jsonl(jsonl) => jsonl.finish(),
            Encoder::Csv(csv) => csv.finish(),
        }
        .and_then(Destination::finish)
        .map_err(|error| failed(&name, error))?;
        Ok(rows)
    }

    /// The names of the columns of a CSV file, as written; `None` for JSONL.
    pub fn columns(&self) -> Option<&[String]> {
        match &self.encoder {
            Encoder::Csv(csv) => Some(csv.columns()),
            Encoder::Jsonl(_) => None,
        }
    }

    fn flush_stream(&mut self) -> Result<()> {
        if !self.is_stream {
            return Ok(());
        }
        let flushed = match &mut self.encoder {
            Encoder::Jsonl(jsonl) => jsonl.flush(),
            Encoder::Csv(csv) => csv.flush(),
        };
        self.note(flushed)
    }

    fn note(&mut self, written: io::Result<()>) -> Result<()> {
        written.map_err(|error| {
            self.has_failed = true;
            failed(&self.name, error)
        })
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink")
            .field("name", &self.name)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl SinkFormat {
    /// The format a file's ending stands for: `csv`, `tsv`, `jsonl` or `ndjson`, in any case.
    pub fn from_extension(extension: &str) -> Option<Self> {
        match extension.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            _ => None,
        }
    }
}

impl Default for SinkOptions {
    fn default() -> Self {
        Self {
            format: None,
            columns: None,
            guard_formulas: true,
        }
    }
}

impl SinkOptions {
    /// Sets the form.
    #[must_use]
    pub fn with_format(mut self, format: SinkFormat) -> Self {
        self.format = Some(format);
        self
    }

    /// Sets the input's columns.
    #[must_use]
    pub fn with_columns(mut self, columns: impl Into<Vec<String>>) -> Self {
        self.columns = Some(columns.into());
        self
    }

    /// Sets whether formulas are guarded.
    #[must_use]
    pub fn with_guard_formulas(mut self, guard_formulas: bool) -> Self {
        self.guard_formulas = guard_formulas;
        self
    }
}

fn failed(name: &str, error: io::Error) -> Error {
    let (kind, what) = match error.kind() {
        io::ErrorKind::BrokenPipe => (ErrorKind::Cancelled, "its reader went away".to_owned()),
        // The encoders' own word for a row that does not belong to the columns.
        io::ErrorKind::InvalidInput => (ErrorKind::Unexpected, error.to_string()),
        _ => (ErrorKind::Storage, error.to_string()),
    };
    Error::new(kind, format!("write results to {name}: {what}")).with_source(error)
}

#[cfg(test)]
mod tests;
