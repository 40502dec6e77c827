//! Rows of a JSON file: the elements of an array, or objects one after another.

use super::{Fault, Input, Piece};
use crate::row::Row;
use memchr::memchr_iter;

/// Cuts a JSON text into its elements without holding more than one, by following strings and brackets;
/// whether an element is valid JSON is for the parser to say.
pub(super) struct JsonRows {
    input: Input,
    line: u64,
    offset: u64,
    max_row_bytes: usize,
    place: Place,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// Before the first byte that counts.
    Start,
    /// In an array before its first element.
    ArrayStart,
    /// In an array after an element.
    AfterElement,
    /// Between objects that stand one after another.
    Stream,
    /// After the array.
    End,
}

impl JsonRows {
    pub(super) fn new(input: Input, offset: u64, max_row_bytes: usize) -> Self {
        Self {
            input,
            line: 1,
            offset,
            max_row_bytes,
            place: Place::Start,
        }
    }

    pub(super) fn next(&mut self, number: u64) -> Option<Result<Row, Fault>> {
        match self.find_element() {
            Ok(true) => Some(
                self.read_element()
                    .and_then(|piece| piece.into_json_row(number)),
            ),
            Ok(false) => None,
            Err(fault) => Some(Err(fault)),
        }
    }

    /// Moves to the first byte of the next element; false at the end of the input.
    fn find_element(&mut self) -> Result<bool, Fault> {
        loop {
            let byte = self.skip_space()?;
            let line = self.line;
            self.place = match (self.place, byte) {
                (Place::Start, Some(b'[')) => Place::ArrayStart,
                (Place::Start, Some(b'{')) => {
                    self.place = Place::Stream;
                    return Ok(true);
                }
                (Place::Start | Place::Stream | Place::End, None) => return Ok(false),
                (Place::Stream, Some(b'{')) => return Ok(true),
                (Place::ArrayStart | Place::AfterElement, Some(b']')) => Place::End,
                (Place::ArrayStart, Some(_)) => return Ok(true),
                (Place::AfterElement, Some(b',')) => {
                    self.skip_byte();
                    return match self.skip_space()? {
                        Some(b']') => Err(Fault::end(
                            line,
                            "a comma stands after the last element of the array; remove it",
                        )),
                        Some(_) => Ok(true),
                        None => Err(self.cut_off()),
                    };
                }
                (Place::ArrayStart | Place::AfterElement, None) => return Err(self.cut_off()),
                (Place::Start | Place::Stream, Some(_)) => {
                    return Err(Fault::end(
                        line,
                        "the file must be an array of JSON objects, or objects one after another",
                    ));
                }
                (Place::AfterElement, Some(_)) => {
                    return Err(Fault::end(
                        line,
                        "a comma or the end of the array is missing after an element; mend the file",
                    ));
                }
                (Place::End, Some(_)) => {
                    return Err(Fault::end(
                        line,
                        "text stands after the end of the array; remove it",
                    ));
                }
            };
            self.skip_byte();
        }
    }

    fn cut_off(&self) -> Fault {
        Fault::end(
            self.line,
            "the file ends inside the array; it was cut off, so copy or export it again",
        )
    }

    /// The next byte that is no white space, not yet consumed.
    fn skip_space(&mut self) -> Result<Option<u8>, Fault> {
        loop {
            let line = self.line;
            let chunk = self
                .input
                .fill_buf()
                .map_err(|error| Fault::io(line, error))?;
            let space = chunk.len() - chunk.trim_ascii_start().len();
            let next = chunk.get(space).copied();
            let is_end = chunk.is_empty();
            self.line += memchr_iter(b'\n', &chunk[..space]).count() as u64;
            self.offset += space as u64;
            self.input.consume(space);
            if next.is_some() || is_end {
                return Ok(next);
            }
        }
    }

    /// Passes over the byte [`JsonRows::skip_space`] found.
    fn skip_byte(&mut self) {
        self.input.consume(1);
        self.offset += 1;
    }

    /// Reads the element that starts at the next byte.
    fn read_element(&mut self) -> Result<Piece, Fault> {
        let (line, offset) = (self.line, self.offset);
        let mut bytes = Vec::new();
        let mut scan = Scan::default();
        loop {
            let at = self.line;
            let chunk = self
                .input
                .fill_buf()
                .map_err(|error| Fault::io(at, error))?;
            if chunk.is_empty() {
                // A cut-off object goes to the parser as it is, which tells what is missing.
                break;
            }
            let end = scan.feed(chunk);
            let part = &chunk[..end.unwrap_or(chunk.len())];
            if bytes.len() + part.len() > self.max_row_bytes {
                return Err(Fault::end(
                    line,
                    format!(
                        "the element that starts here has more than {} bytes, which is the most one row \
                         may have; a quote or bracket may be missing",
                        self.max_row_bytes
                    ),
                ));
            }
            bytes.extend_from_slice(part);
            self.line += memchr_iter(b'\n', part).count() as u64;
            let used = part.len();
            self.offset += used as u64;
            self.input.consume(used);
            if end.is_some() {
                break;
            }
        }
        if self.place != Place::Stream {
            self.place = Place::AfterElement;
        }
        Ok(Piece {
            bytes,
            line,
            offset,
        })
    }
}

/// Follows strings and brackets to the end of a value.
#[derive(Default)]
struct Scan {
    depth: u64,
    in_string: bool,
    escaped: bool,
    begun: bool,
}

impl Scan {
    /// The place after the value's last byte, if that is in `chunk`.
    fn feed(&mut self, chunk: &[u8]) -> Option<usize> {
        for (place, byte) in chunk.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => {
                        self.in_string = false;
                        if self.depth == 0 {
                            return Some(place + 1);
                        }
                    }
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' if self.depth > 0 || !self.begun => self.in_string = true,
                b'{' | b'[' if self.depth > 0 || !self.begun => self.depth += 1,
                b'}' | b']' if self.depth > 0 => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Some(place + 1);
                    }
                }
                // A number or word ends before whatever is no part of it, but has at least one byte.
                b'}' | b']' | b',' | b' ' | b'\n' | b'\r' | b'\t' | b'"' | b'{' | b'['
                    if self.depth == 0 && self.begun =>
                {
                    return Some(place);
                }
                _ => {}
            }
            self.begun = true;
        }
        None
    }
}
