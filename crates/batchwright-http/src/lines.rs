//! Lines of a JSONL file out of pieces of any size.

use batchwright_core::{ByteStream, Result};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use memchr::memchr;

/// A line, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a line fits or it does not")]
pub enum Line {
    /// The line; it is not empty. Where it arrived in one piece it shares that piece's memory.
    Text(Bytes),
    /// A line longer than the cap, whose bytes were dropped (F-107).
    Oversize {
        /// Its length without the line feed.
        bytes: u64,
    },
}

/// Splits what is pushed into lines, without reading anything itself.
///
/// A line ends at a line feed; one carriage return before it belongs to the end. U+2028 and other
/// characters end nothing. A byte order mark at the start of the file is dropped, blank lines are
/// skipped, and a last line without a line feed comes with [`LineSplitter::finish`] (F-108). The same
/// bytes give the same lines however they were cut.
///
/// ```
/// use batchwright_http::{Line, LineSplitter};
///
/// let mut lines = LineSplitter::new();
/// lines.push("{\"a\":1}\r\n\n{\"b\"".into());
/// assert_eq!(lines.next_line(), Some(Line::Text("{\"a\":1}".into())));
/// assert_eq!(lines.next_line(), None);
/// lines.push(":2}".into());
/// assert_eq!(lines.next_line(), None);
/// assert_eq!(lines.finish(), Some(Line::Text("{\"b\":2}".into())));
/// ```
#[derive(Debug)]
pub struct LineSplitter {
    /// What was pushed and not yet looked at.
    chunk: Bytes,
    /// The start of the current line, out of earlier pieces.
    carry: BytesMut,
    /// Bytes of the current line already dropped since it is over the cap.
    dropped: u64,
    max_line: usize,
    at_start: bool,
}

/// The default cap on a line: 64 MiB, above any vendor's answer.
const MAX_LINE: usize = 64 * 1024 * 1024;

impl LineSplitter {
    /// A splitter with the default cap of 64 MiB for a line.
    pub fn new() -> Self {
        Self::with_max_line(MAX_LINE)
    }

    /// A splitter that gives [`Line::Oversize`] for lines of more than `max_line` bytes, which is also
    /// the most memory it takes beside the piece pushed last.
    pub fn with_max_line(max_line: usize) -> Self {
        Self {
            chunk: Bytes::new(),
            carry: BytesMut::new(),
            dropped: 0,
            max_line,
            at_start: true,
        }
    }

    /// Takes the next piece. Lines of earlier pieces must have been taken out, until
    /// [`LineSplitter::next_line`] gave `None`; what is left of them is joined to this piece at the
    /// price of a copy.
    pub fn push(&mut self, piece: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = piece;
        } else {
            let mut joined = BytesMut::with_capacity(self.chunk.len() + piece.len());
            joined.extend_from_slice(&self.chunk);
            joined.extend_from_slice(&piece);
            self.chunk = joined.freeze();
        }
    }

    /// The next complete line of what was pushed.
    pub fn next_line(&mut self) -> Option<Line> {
        while !self.chunk.is_empty() {
            let Some(end) = memchr(b'\n', &self.chunk) else {
                let rest = std::mem::take(&mut self.chunk);
                self.keep(&rest);
                return None;
            };
            let mut line = self.chunk.split_to(end + 1);
            line.truncate(end);
            if let Some(line) = self.end_line(line) {
                return Some(line);
            }
        }
        None
    }

    /// The last line, if it has no line feed. Call it after the last [`LineSplitter::next_line`] gave
    /// `None`; afterwards the splitter is as new.
    pub fn finish(&mut self) -> Option<Line> {
        let rest = std::mem::take(&mut self.chunk);
        let line = self.end_line(rest);
        self.at_start = true;
        line
    }

    /// Ends the current line with `tail`; `None` where it is blank.
    fn end_line(&mut self, tail: Bytes) -> Option<Line> {
        let length = self
            .dropped
            .saturating_add(self.carry.len() as u64)
            .saturating_add(tail.len() as u64);
        let first = std::mem::take(&mut self.at_start);
        self.dropped = 0;
        if length > self.max_line as u64 {
            self.carry = BytesMut::new();
            return Some(Line::Oversize { bytes: length });
        }
        let mut line = if self.carry.is_empty() {
            tail
        } else {
            self.carry.extend_from_slice(&tail);
            self.carry.split().freeze()
        };
        if first && line.starts_with(b"\xef\xbb\xbf") {
            line = line.slice(3..);
        }
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        (!line.iter().all(u8::is_ascii_whitespace)).then_some(Line::Text(line))
    }

    /// Keeps the start of a line that goes on in the next piece.
    fn keep(&mut self, rest: &[u8]) {
        if self.dropped > 0 || self.carry.len() + rest.len() > self.max_line {
            self.dropped = self
                .dropped
                .saturating_add(self.carry.len() as u64)
                .saturating_add(rest.len() as u64);
            self.carry = BytesMut::new();
        } else {
            self.carry.extend_from_slice(rest);
        }
    }
}

impl Default for LineSplitter {
    fn default() -> Self {
        Self::new()
    }
}

/// The lines of a body. An error of the body ends it; the unfinished line before it is dropped.
pub fn lines(body: ByteStream, max_line: usize) -> impl Stream<Item = Result<Line>> + Send {
    let state = Some((body, LineSplitter::with_max_line(max_line)));
    stream::unfold(state, |state| async move {
        let (mut body, mut splitter) = state?;
        loop {
            if let Some(line) = splitter.next_line() {
                return Some((Ok(line), Some((body, splitter))));
            }
            match body.next().await {
                Some(Ok(piece)) => splitter.push(piece),
                Some(Err(error)) => return Some((Err(error), None)),
                None => return splitter.finish().map(|line| (Ok(line), None)),
            }
        }
    })
}
