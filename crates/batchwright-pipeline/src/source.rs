//! The input: rows of a CSV, JSONL or JSON file, one at a time.

mod csv;
mod json;
mod jsonl;

use crate::row::{JsonCells, JsonFault, Row};
use batchwright_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Cursor, Read},
    path::Path,
    sync::Arc,
};

/// The form of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SourceFormat {
    /// A header and records, separated by commas, or whatever the header shows: semicolons or tabs.
    Csv,
    /// The same, separated by tabs.
    Tsv,
    /// A JSON object on each line.
    Jsonl,
    /// An array of JSON objects, or objects one after another.
    Json,
}

/// How an input is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SourceOptions {
    /// The form; without one it is told from the file's ending, or else from its first bytes.
    pub format: Option<SourceFormat>,
    /// The byte between the fields of a CSV file. Without one it is whichever of `,`, `;` and tab the
    /// header holds most of.
    pub delimiter: Option<u8>,
    /// The most bytes one row may have. Without one it is 16 MiB for CSV, where a longer row is nearly
    /// always a quote that was never closed, and 64 MiB for JSON.
    pub max_row_bytes: Option<usize>,
}

/// The rows of an input, one at a time and in its order.
///
/// It blocks on reading, and holds one row and two buffers whatever the size of the input. A row that
/// cannot be read is an item too, so that the caller decides whether to go on; where the rest cannot be
/// told apart any more ([`RowError::ends_source`]), iteration ends after it.
pub struct Source {
    rows: Rows,
    name: Arc<str>,
    format: SourceFormat,
    next_number: u64,
    ended: bool,
}

/// Why a row could not be read: what, on which line, and what to do about it, never what the row holds.
#[derive(Clone, Debug)]
pub struct RowError {
    number: u64,
    line: u64,
    ends_source: bool,
    error: Error,
}

enum Rows {
    Csv(csv::CsvRows),
    Jsonl(jsonl::JsonlRows),
    Json(json::JsonRows),
    Empty,
}

/// What the readers below hand up: the place and the words, without the file's name.
#[derive(Debug)]
struct Fault {
    kind: ErrorKind,
    line: u64,
    ends_source: bool,
    what: String,
    cause: Option<io::Error>,
}

/// One row as bytes, and where it starts.
#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    line: u64,
    offset: u64,
}

type Input = Box<dyn BufRead + Send>;

/// Bytes read ahead to tell the form, and the size of the buffer.
const HEAD_BYTES: u64 = 64 * 1024;
const CSV_ROW_BYTES: usize = 16 * 1024 * 1024;
const JSON_ROW_BYTES: usize = 64 * 1024 * 1024;

impl Source {
    /// Opens a file in `format`, or in the one its ending or first bytes tell.
    ///
    /// # Errors
    /// As [`Source::open_with`].
    pub fn open(path: &Path, format: Option<SourceFormat>) -> Result<Self> {
        let options = SourceOptions::default();
        Self::open_with(path, &SourceOptions { format, ..options })
    }

    /// Opens a file.
    ///
    /// # Errors
    /// `Storage` where it cannot be read; `InvalidRequest` where its first bytes or its header cannot be
    /// used, such as UTF-16 text or two columns of one name (F-165, F-177).
    pub fn open_with(path: &Path, options: &SourceOptions) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| {
            Error::new(ErrorKind::Storage, format!("open {name}: {error}")).with_source(error)
        })?;
        let extension = path.extension().and_then(|extension| extension.to_str());
        let options = SourceOptions {
            format: options
                .format
                .or(extension.and_then(SourceFormat::from_extension)),
            ..options.clone()
        };
        Self::from_reader(file, name, &options)
    }

    /// Reads from anything that yields bytes; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`Source::open_with`].
    pub fn from_reader(
        mut reader: impl Read + Send + 'static,
        name: impl Into<Arc<str>>,
        options: &SourceOptions,
    ) -> Result<Self> {
        let name = name.into();
        let at_start = |fault: Fault| fault.into_error(&name);
        let mut head = Vec::new();
        (&mut reader)
            .take(HEAD_BYTES)
            .read_to_end(&mut head)
            .map_err(|error| at_start(Fault::io(1, error)))?;
        refuse_other_forms(&head).map_err(at_start)?;

        // A byte order mark is stripped here, once, and nowhere else (F-165).
        let bom = if head.starts_with(b"\xEF\xBB\xBF") {
            3
        } else {
            0
        };
        let text = &head[bom..];
        let format = match (options.format.unwrap_or_else(|| sniff(text)), first(text)) {
            // An array in a file named .jsonl is meant as one (F-168).
            (SourceFormat::Jsonl, Some(b'[')) => SourceFormat::Json,
            (format, _) => format,
        };
        let is_empty = first(text).is_none() && (head.len() as u64) < HEAD_BYTES;
        let delimiter = match format {
            SourceFormat::Tsv => options.delimiter.unwrap_or(b'\t'),
            _ => options.delimiter.unwrap_or_else(|| csv::delimiter_of(text)),
        };
        let mut cursor = Cursor::new(head);
        cursor.set_position(bom as u64);
        let input: Input = Box::new(BufReader::with_capacity(
            HEAD_BYTES as usize,
            cursor.chain(reader),
        ));
        let offset = bom as u64;
        let csv_cap = options.max_row_bytes.unwrap_or(CSV_ROW_BYTES);
        let json_cap = options.max_row_bytes.unwrap_or(JSON_ROW_BYTES);
        let rows = match format {
            _ if is_empty => Rows::Empty,
            SourceFormat::Csv | SourceFormat::Tsv => {
                Rows::Csv(csv::CsvRows::new(input, offset, delimiter, csv_cap).map_err(at_start)?)
            }
            SourceFormat::Jsonl => Rows::Jsonl(jsonl::JsonlRows::new(input, offset, json_cap)),
            SourceFormat::Json => Rows::Json(json::JsonRows::new(input, offset, json_cap)),
        };
        Ok(Self {
            rows,
            name,
            format,
            next_number: 0,
            ended: false,
        })
    }

    /// The form the input is read in.
    pub fn format(&self) -> SourceFormat {
        self.format
    }

    /// The names of the columns, where the input has a header; `None` for JSON, and for an empty file.
    pub fn header(&self) -> Option<&[String]> {
        match &self.rows {
            Rows::Csv(rows) => Some(rows.header().names()),
            Rows::Jsonl(_) | Rows::Json(_) | Rows::Empty => None,
        }
    }

    /// The next row whose number is not `skipped`. Where lines are rows, those skipped are not looked into.
    pub(crate) fn next_unless(
        &mut self,
        skipped: impl Fn(u64) -> bool,
    ) -> Option<Result<Row, RowError>> {
        loop {
            let number = self.next_number;
            if !self.ended
                && skipped(number)
                && let Rows::Jsonl(rows) = &mut self.rows
            {
                match rows.pass() {
                    Ok(true) => self.next_number += 1,
                    Ok(false) => self.ended = true,
                    // Reading goes on where it can, and tells what it cannot.
                    Err(fault) => {
                        self.next_number += 1;
                        self.ended = fault.ends_source;
                        if fault.ends_source {
                            let error = fault.into_error(&self.name);
                            return Some(Err(RowError {
                                number,
                                line: 0,
                                ends_source: true,
                                error,
                            }));
                        }
                    }
                }
                continue;
            }
            match self.next()? {
                Ok(row) if skipped(row.number()) => {}
                Err(error) if skipped(error.number()) && !error.ends_source() => {}
                row => return Some(row),
            }
        }
    }

    /// What errors call the input.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Iterator for Source {
    type Item = Result<Row, RowError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let number = self.next_number;
        let row = match &mut self.rows {
            Rows::Csv(rows) => rows.next(number),
            Rows::Jsonl(rows) => rows.next(number),
            Rows::Json(rows) => rows.next(number),
            Rows::Empty => None,
        };
        let Some(row) = row else {
            self.ended = true;
            return None;
        };
        self.next_number += 1;
        Some(row.map_err(|fault| {
            self.ended = fault.ends_source;
            RowError {
                number,
                line: fault.line,
                ends_source: fault.ends_source,
                error: fault.into_error(&self.name),
            }
        }))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("name", &self.name)
            .field("format", &self.format)
            .field("next_number", &self.next_number)
            .finish_non_exhaustive()
    }
}

impl SourceFormat {
    /// The format a file's ending stands for: `csv`, `tsv`, `jsonl`, `ndjson` or `json`, in any case.
    pub fn from_extension(extension: &str) -> Option<Self> {
        match extension.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

impl SourceOptions {
    /// Sets the form.
    #[must_use]
    pub fn with_format(mut self, format: SourceFormat) -> Self {
        self.format = Some(format);
        self
    }

    /// Sets the byte between the fields of a CSV file.
    #[must_use]
    pub fn with_delimiter(mut self, delimiter: u8) -> Self {
        self.delimiter = Some(delimiter);
        self
    }

    /// Sets the most bytes one row may have.
    #[must_use]
    pub fn with_max_row_bytes(mut self, bytes: usize) -> Self {
        self.max_row_bytes = Some(bytes);
        self
    }
}

impl RowError {
    /// The number the row would have had, counted from 0.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The physical line the row starts on, counted from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Whether no row can be read after this one.
    pub fn ends_source(&self) -> bool {
        self.ends_source
    }

    /// The error alone; its message names file and line.
    pub fn error(&self) -> &Error {
        &self.error
    }
}

impl From<RowError> for Error {
    fn from(row: RowError) -> Self {
        row.error
    }
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for RowError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}

impl Fault {
    /// A row that cannot be used; the next one can be found.
    fn row(line: u64, what: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::InvalidRequest,
            line,
            ends_source: false,
            what: what.into(),
            cause: None,
        }
    }

    /// The rows after this cannot be told apart.
    fn end(line: u64, what: impl Into<String>) -> Self {
        Self {
            ends_source: true,
            ..Self::row(line, what)
        }
    }

    fn io(line: u64, error: io::Error) -> Self {
        Self {
            kind: ErrorKind::Storage,
            cause: Some(error),
            ..Self::end(line, "the file cannot be read on")
        }
    }

    fn into_error(self, name: &str) -> Error {
        let Self {
            kind,
            line,
            what,
            cause,
            ..
        } = self;
        let message = format!("read {name}, line {line}: {what}");
        match cause {
            Some(cause) => Error::new(kind, format!("{message}: {cause}")).with_source(cause),
            None => Error::new(kind, message),
        }
    }
}

impl Piece {
    /// Makes the row of a JSON text.
    fn into_json_row(self, number: u64) -> Result<Row, Fault> {
        let Self {
            bytes,
            line,
            offset,
        } = self;
        let text = String::from_utf8(bytes)
            .map_err(|error| Fault::utf8(line, offset + error.utf8_error().valid_up_to() as u64))?;
        let cells = JsonCells::parse(text).map_err(|fault| match fault {
            JsonFault::Syntax(below, column, words) => Fault::row(
                line + below as u64 - 1,
                format!("this is not valid JSON at column {column} ({words}); mend the row"),
            ),
            JsonFault::NotAnObject => Fault::row(
                line,
                "the row is not a JSON object; every row must be written as {\"column\": value, …}",
            ),
            JsonFault::DuplicateKey(key) => Fault::row(
                line,
                format!(
                    "the key {} stands twice, and which one counts is undefined; remove one",
                    shown(&key)
                ),
            ),
            JsonFault::LoneSurrogate(place) => Fault::row(
                line,
                format!(
                    "half of a surrogate pair (\\ud800 to \\udfff) stands at byte {} of the file, which \
                     is no character and which providers refuse; the text was cut inside a character, \
                     so cut it elsewhere or replace it with \\ufffd",
                    offset + place as u64
                ),
            ),
        })?;
        Ok(Row::json(number, line, cells))
    }
}

impl Fault {
    fn utf8(line: u64, offset: u64) -> Self {
        Self::row(
            line,
            format!(
                "the text is not valid UTF-8 at byte {offset} of the file; save the file as UTF-8 \
                 (`iconv -f WINDOWS-1252 -t UTF-8` converts one from an older Windows program)"
            ),
        )
    }
}

/// A name of a column or key in quotes, with control characters escaped (F-202) and cut at 64 characters.
pub(crate) fn shown(name: &str) -> String {
    match name.char_indices().nth(64) {
        Some((end, _)) => format!("{:?}…", &name[..end]),
        None => format!("{name:?}"),
    }
}

/// The first 20 of these names, and how many there are besides.
pub(crate) fn shown_list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: VecDeque<&str> = names.collect();
    let more = names.len().saturating_sub(20);
    names.truncate(20);
    let mut list: Vec<String> = names.into_iter().map(shown).collect();
    if more > 0 {
        list.push(format!("and {more} more"));
    }
    list.join(", ")
}

fn first(text: &[u8]) -> Option<u8> {
    text.trim_ascii_start().first().copied()
}

/// The form of a file whose ending says nothing.
fn sniff(text: &[u8]) -> SourceFormat {
    match first(text) {
        Some(b'[') => SourceFormat::Json,
        Some(b'{') => {
            let line = text.trim_ascii_start().split(|byte| *byte == b'\n').next();
            let is_whole = line.is_some_and(|line| {
                serde_json::from_slice::<serde::de::IgnoredAny>(line.trim_ascii()).is_ok()
            });
            if is_whole {
                SourceFormat::Jsonl
            } else {
                SourceFormat::Json
            }
        }
        _ => SourceFormat::Csv,
    }
}

/// Refuses what is no UTF-8 text at all, by its first bytes.
fn refuse_other_forms(head: &[u8]) -> Result<(), Fault> {
    let utf16 = "the file is UTF-16 text; save it as UTF-8 (in Excel: \"CSV UTF-8\"; else `iconv -f \
                 UTF-16 -t UTF-8`)";
    let forms: [(&[u8], &str); 5] = [
        (b"\xFF\xFE", utf16),
        (b"\xFE\xFF", utf16),
        (
            b"\x1F\x8B",
            "the file is compressed with gzip; unpack it first (`gunzip`)",
        ),
        (
            b"PK\x03\x04",
            "the file is a zip archive or a spreadsheet (.xlsx); export it as CSV",
        ),
        (
            b"PAR1",
            "the file is Parquet, which this version does not read; export it as CSV or JSONL",
        ),
    ];
    for (mark, advice) in forms {
        if head.starts_with(mark) {
            return Err(Fault::end(1, advice));
        }
    }
    // UTF-16 without a mark: every other byte of Western text is zero.
    if let [a, b, c, d, ..] = head
        && matches!((*a, *b, *c, *d), (1.., 0, 1.., 0) | (0, 1.., 0, 1..))
    {
        return Err(Fault::end(1, utf16));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
