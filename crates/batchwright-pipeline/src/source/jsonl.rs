//! Rows of a JSONL file.

use super::{Fault, Input, Piece};
use crate::row::Row;
use memchr::memchr;

/// Lines that each hold one JSON object. Only `\n` ends a line; U+2028, U+2029 and NEL do not (F-167).
pub(super) struct JsonlRows {
    input: Input,
    line: u64,
    offset: u64,
    max_row_bytes: usize,
}

impl JsonlRows {
    pub(super) fn new(input: Input, offset: u64, max_row_bytes: usize) -> Self {
        Self {
            input,
            line: 1,
            offset,
            max_row_bytes,
        }
    }

    pub(super) fn next(&mut self, number: u64) -> Option<Result<Row, Fault>> {
        loop {
            let piece = match self.read_line() {
                Ok(piece) => piece?,
                Err(fault) => return Some(Err(fault)),
            };
            if !piece.bytes.trim_ascii().is_empty() {
                return Some(piece.into_json_row(number));
            }
        }
    }

    /// Goes past one row without reading what it says; `false` at the end.
    pub(super) fn pass(&mut self) -> Result<bool, Fault> {
        loop {
            let mut blank = true;
            let mut length = 0;
            loop {
                let chunk = self
                    .input
                    .fill_buf()
                    .map_err(|error| Fault::io(self.line, error))?;
                if chunk.is_empty() {
                    return Ok(!blank || length > self.max_row_bytes);
                }
                let end = memchr(b'\n', chunk);
                let part = &chunk[..end.unwrap_or(chunk.len())];
                blank = blank && part.trim_ascii().is_empty();
                length += part.len();
                let used = part.len() + usize::from(end.is_some());
                self.input.consume(used);
                self.offset += used as u64;
                if end.is_some() {
                    self.line += 1;
                    break;
                }
            }
            // A line that is too long is a row too, whatever it holds.
            if !blank || length > self.max_row_bytes {
                return Ok(true);
            }
        }
    }

    /// The next line without its end. One that is too long is passed over and told.
    fn read_line(&mut self) -> Result<Option<Piece>, Fault> {
        let (line, offset) = (self.line, self.offset);
        let mut bytes = Vec::new();
        let mut length = 0;
        loop {
            let chunk = self
                .input
                .fill_buf()
                .map_err(|error| Fault::io(line, error))?;
            if chunk.is_empty() {
                if length == 0 {
                    return Ok(None);
                }
                break;
            }
            let end = memchr(b'\n', chunk);
            let part = &chunk[..end.unwrap_or(chunk.len())];
            length += part.len();
            if length <= self.max_row_bytes {
                bytes.extend_from_slice(part);
            } else {
                bytes = Vec::new();
            }
            let used = part.len() + usize::from(end.is_some());
            self.input.consume(used);
            self.offset += used as u64;
            if end.is_some() {
                self.line += 1;
                break;
            }
        }
        if length > self.max_row_bytes {
            return Err(Fault::row(
                line,
                format!(
                    "the line has {length} bytes and at most {} are read; a JSON array or a pretty-printed \
                     file must be named .json",
                    self.max_row_bytes
                ),
            ));
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        Ok(Some(Piece {
            bytes,
            line,
            offset,
        }))
    }
}
