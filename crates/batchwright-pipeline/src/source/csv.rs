//! Rows of a CSV file.

use super::{Fault, Input, shown};
use crate::row::{CsvCells, Header, Row};
use memchr::{memchr, memchr_iter};
use std::sync::Arc;

/// Records of RFC 4180 text, with any one byte between the fields.
///
/// The `csv` crate reads the same texts, but ends a record at a lone carriage return, tells the wrong
/// line after CRLF, takes a quote that is never closed for the end of a field, and has no limit on a
/// record. So records are cut here, and the crate is what the tests compare with.
///
/// `\n` and `\r\n` end a record; a lone `\r` is data (F-167). Blank lines are passed over.
pub(super) struct CsvRows {
    reader: Reader,
    header: Arc<Header>,
}

struct Reader {
    input: Input,
    delimiter: u8,
    max_row_bytes: usize,
    line: u64,
    offset: u64,
    record: Record,
}

/// The record being read; kept between records for its buffers.
#[derive(Default)]
struct Record {
    bytes: Vec<u8>,
    fields: Vec<Field>,
    line: u64,
}

/// Where a field ends in the record's bytes, and how it stood in the file.
#[derive(Clone, Copy)]
struct Field {
    end: usize,
    offset: u64,
    quoted: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    FieldStart,
    Unquoted,
    Quoted,
    /// After a quote inside a quoted field: the field's end, or the first half of a doubled quote.
    Quote,
    /// After a closing quote and `\r`.
    QuoteReturn,
}

impl CsvRows {
    pub(super) fn new(
        input: Input,
        offset: u64,
        delimiter: u8,
        max_row_bytes: usize,
    ) -> Result<Self, Fault> {
        if matches!(delimiter, b'"' | b'\n' | b'\r') || !delimiter.is_ascii() {
            return Err(Fault {
                kind: batchwright_core::ErrorKind::ConfigInvalid,
                ..Fault::end(
                    1,
                    "the delimiter must be an ASCII character, and no quote or line end",
                )
            });
        }
        let mut reader = Reader {
            input,
            delimiter,
            max_row_bytes,
            line: 1,
            offset,
            record: Record::default(),
        };
        let names = if reader.read_record()? {
            reader.header()?
        } else {
            Vec::new()
        };
        let line = reader.record.line;
        let header = Header::new(names.clone()).map_err(|place| {
            let what = if names[place].trim().is_empty() {
                format!(
                    "column {} of the header has no name; give it one",
                    place + 1
                )
            } else {
                format!(
                    "the header names the column {} twice; rename one",
                    shown(&names[place])
                )
            };
            Fault::end(line, what)
        })?;
        Ok(Self {
            reader,
            header: Arc::new(header),
        })
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn next(&mut self, number: u64) -> Option<Result<Row, Fault>> {
        match self.reader.read_record() {
            Ok(true) => Some(self.row(number)),
            Ok(false) => None,
            Err(fault) => Some(Err(fault)),
        }
    }

    fn row(&self, number: u64) -> Result<Row, Fault> {
        let record = &self.reader.record;
        let (found, wanted) = (record.fields.len(), self.header.names().len());
        if found != wanted {
            return Err(Fault::row(
                record.line,
                format!(
                    "the row has {found} fields and the header has {wanted} (delimiter {:?}); put fields \
                     that hold the delimiter, a quote or a line end in quotes, or mend the row",
                    char::from(self.reader.delimiter)
                ),
            ));
        }
        let text = record.text()?;
        let ends = record.fields.iter().map(|field| field.end).collect();
        let cells = CsvCells::new(Arc::clone(&self.header), text.to_owned(), ends);
        Ok(Row::csv(number, record.line, cells))
    }
}

impl Reader {
    /// Reads the next record that is no blank line into `self.record`; false at the end.
    fn read_record(&mut self) -> Result<bool, Fault> {
        loop {
            if !self.read_any_record()? {
                return Ok(false);
            }
            let is_blank = matches!(
                self.record.fields[..],
                [Field {
                    end: 0,
                    quoted: false,
                    ..
                }]
            );
            if !is_blank {
                return Ok(true);
            }
        }
    }

    fn read_any_record(&mut self) -> Result<bool, Fault> {
        let record = &mut self.record;
        record.bytes.clear();
        record.fields.clear();
        record.line = self.line;
        let start = self.offset;
        let mut state = State::FieldStart;
        let mut field = Field {
            end: 0,
            offset: start,
            quoted: false,
        };
        let mut quote_line = self.line;
        loop {
            let line = self.line;
            let chunk = self
                .input
                .fill_buf()
                .map_err(|error| Fault::io(line, error))?;
            if chunk.is_empty() {
                if state == State::Quoted {
                    return Err(Fault::end(
                        quote_line,
                        "a quote opens here and is never closed; close it, or write it twice if it \
                         belongs to the text",
                    ));
                }
                if self.offset == start {
                    return Ok(false);
                }
                record.end_field(field);
                return Ok(true);
            }
            let mut at = 0;
            let mut ended = false;
            while at < chunk.len() && !ended {
                let byte = chunk[at];
                if state == State::Quoted {
                    let rest = &chunk[at..];
                    let end = memchr(b'"', rest).unwrap_or(rest.len());
                    self.line += memchr_iter(b'\n', &rest[..end]).count() as u64;
                    record.bytes.extend_from_slice(&rest[..end]);
                    at += end;
                    if at < chunk.len() {
                        at += 1;
                        state = State::Quote;
                    }
                    continue;
                }
                at += 1;
                match (state, byte) {
                    (State::FieldStart, b'"') => {
                        field.quoted = true;
                        quote_line = self.line;
                        state = State::Quoted;
                    }
                    (State::Quote, b'"') => {
                        record.bytes.push(b'"');
                        state = State::Quoted;
                    }
                    (_, b'\n') => {
                        self.line += 1;
                        let start = record.fields.last().map_or(0, |field| field.end);
                        if state == State::Unquoted && record.bytes[start..].ends_with(b"\r") {
                            record.bytes.pop();
                        }
                        record.end_field(field);
                        ended = true;
                    }
                    (State::Quote, b'\r') => state = State::QuoteReturn,
                    (State::QuoteReturn, _) => return Err(Fault::after_quote(self.line)),
                    (_, byte) if byte == self.delimiter => {
                        record.end_field(field);
                        field = Field {
                            end: 0,
                            offset: self.offset + at as u64,
                            quoted: false,
                        };
                        state = State::FieldStart;
                    }
                    (State::Quote, _) => return Err(Fault::after_quote(self.line)),
                    (_, byte) => {
                        record.bytes.push(byte);
                        state = State::Unquoted;
                    }
                }
            }
            self.input.consume(at);
            self.offset += at as u64;
            if ended {
                return Ok(true);
            }
            if self.offset - start > self.max_row_bytes as u64 {
                return Err(Fault::end(
                    record.line,
                    format!(
                        "the row that starts here has more than {} bytes, which is the most one row may \
                         have; a quote was likely opened and never closed",
                        self.max_row_bytes
                    ),
                ));
            }
        }
    }

    /// The names of the columns.
    fn header(&self) -> Result<Vec<String>, Fault> {
        let record = &self.record;
        let text = record.text()?;
        let mut start = 0;
        let mut names = Vec::with_capacity(record.fields.len());
        for field in &record.fields {
            let name = &text[start..field.end];
            start = field.end;
            if !field.quoted && name.contains('\r') {
                return Err(Fault::end(
                    record.line,
                    "the lines end in a carriage return alone, as on old Macs; convert them (`tr '\\r' \
                     '\\n'`)",
                ));
            }
            names.push(name.to_owned());
        }
        Ok(names)
    }
}

impl Record {
    fn end_field(&mut self, field: Field) {
        self.fields.push(Field {
            end: self.bytes.len(),
            ..field
        });
    }

    /// The fields' bytes as text. Every field is checked alone, so that two halves of a character in two
    /// fields make no character.
    fn text(&self) -> Result<&str, Fault> {
        let mut start = 0;
        for field in &self.fields {
            let bytes = &self.bytes[start..field.end];
            if let Err(error) = str::from_utf8(bytes) {
                let good = &bytes[..error.valid_up_to()];
                // In the file a quoted field has one quote before it, and its own quotes stand twice.
                let quotes = if field.quoted {
                    1 + memchr_iter(b'"', good).count()
                } else {
                    0
                };
                let offset = field.offset + (good.len() + quotes) as u64;
                return Err(Fault::utf8(self.line, offset));
            }
            start = field.end;
        }
        str::from_utf8(&self.bytes).map_err(|_| Fault::utf8(self.line, 0))
    }
}

impl Fault {
    fn after_quote(line: u64) -> Self {
        Self::end(
            line,
            "text stands after the closing quote of a field; an earlier quote was never closed, or a quote \
             inside the field is not written twice",
        )
    }
}

/// Whichever of comma, semicolon and tab stands most often in the first line, outside quotes.
pub(super) fn delimiter_of(head: &[u8]) -> u8 {
    let mut counts = [(b',', 0_usize), (b';', 0), (b'\t', 0)];
    let mut in_quotes = false;
    for byte in head.trim_ascii_start() {
        match byte {
            b'"' => in_quotes = !in_quotes,
            b'\n' if !in_quotes => break,
            byte if !in_quotes => {
                if let Some((_, count)) = counts.iter_mut().find(|(mark, _)| mark == byte) {
                    *count += 1;
                }
            }
            _ => {}
        }
    }
    // The first of equals wins, so a header of one column is read with commas.
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0);
    counts
        .iter()
        .find(|(_, count)| *count == most)
        .map_or(b',', |(mark, _)| *mark)
}
