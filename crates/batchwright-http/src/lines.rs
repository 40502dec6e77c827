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

/// The lines of a body, with the default cap of 64 MiB for a line. An error of the body ends it; the
/// unfinished line before it is dropped.
pub fn lines(body: ByteStream) -> impl Stream<Item = Result<Line>> + Send {
    lines_within(body, MAX_LINE)
}

/// As [`lines`], with [`Line::Oversize`] for lines of more than `max_line` bytes.
pub fn lines_within(body: ByteStream, max_line: usize) -> impl Stream<Item = Result<Line>> + Send {
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

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright_core::{Error, ErrorKind};
    use proptest::prelude::*;

    fn split(pieces: &[&[u8]], max_line: usize) -> Vec<Line> {
        let mut splitter = LineSplitter::with_max_line(max_line);
        let mut lines = Vec::new();
        for piece in pieces {
            splitter.push(Bytes::copy_from_slice(piece));
            while let Some(line) = splitter.next_line() {
                lines.push(line);
            }
        }
        lines.extend(splitter.finish());
        lines
    }

    fn text(line: &str) -> Line {
        Line::Text(Bytes::copy_from_slice(line.as_bytes()))
    }

    #[test]
    fn f_108_bom_blank_lines_crlf_and_a_missing_line_feed() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("\n\n \t\r\n", &[]),
            ("\u{feff}", &[]),
            ("\u{feff}a\n\u{feff}b\n", &["a", "\u{feff}b"]),
            ("\n\u{feff}a", &["\u{feff}a"]),
            ("a\r\nb\r\r\nc\rd\n", &["a", "b\r", "c\rd"]),
            ("a\u{2028}b\u{85}c\u{b}d\n", &["a\u{2028}b\u{85}c\u{b}d"]),
            ("a\nlast", &["a", "last"]),
            ("a\nlast\r", &["a", "last"]),
            (" a \n", &[" a "]),
        ];
        for (input, expected) in cases {
            let expected = expected.iter().map(|line| text(line)).collect::<Vec<_>>();
            assert_eq!(split(&[input.as_bytes()], 100), expected, "{input:?}");
        }
    }

    #[test]
    fn f_107_an_oversize_line_costs_only_itself() {
        let expected = [
            text("ab"),
            Line::Oversize { bytes: 5 },
            text("cd"),
            Line::Oversize { bytes: 6 },
        ];
        assert_eq!(split(&[b"ab\n12345\ncd\n123456"], 4), expected);
        assert_eq!(
            split(&[b"a", b"b\n123", b"", b"45\nc", b"d\n12345", b"6"], 4),
            expected
        );
        assert_eq!(split(&[b"1234\n"], 4), [text("1234")]);
    }

    #[test]
    fn a_line_in_one_piece_is_not_copied() {
        let piece = Bytes::from_static(b"first\nsecond\n");
        let mut splitter = LineSplitter::new();
        splitter.push(piece.clone());
        let Some(Line::Text(line)) = splitter.next_line() else {
            panic!("a line");
        };
        assert_eq!(line.as_ptr(), piece.as_ptr());
    }

    #[test]
    fn memory_stays_under_the_cap() {
        let mut splitter = LineSplitter::with_max_line(1000);
        for _ in 0..1000 {
            splitter.push(Bytes::from(vec![b'x'; 300]));
            assert_eq!(splitter.next_line(), None);
            assert!(splitter.carry.capacity() <= 4096);
        }
        assert_eq!(splitter.finish(), Some(Line::Oversize { bytes: 300_000 }));
    }

    #[tokio::test]
    async fn f_106_an_error_ends_the_lines() {
        let broken = || Error::new(ErrorKind::Timeout, "cut");
        let body: ByteStream = stream::iter([
            Ok(Bytes::from_static(b"a\nb")),
            Err(broken()),
            Ok("c\n".into()),
        ])
        .boxed();
        let got = lines(body).collect::<Vec<_>>().await;
        assert_eq!(got.len(), 2);
        assert_eq!(got[0].as_ref().unwrap(), &text("a"));
        assert!(got[1].is_err());
        let body: ByteStream =
            stream::iter([Ok(Bytes::from_static(b"a\nb")), Ok("c\nd".into())]).boxed();
        let got = lines(body).map(Result::unwrap).collect::<Vec<_>>().await;
        assert_eq!(got, [text("a"), text("bc"), text("d")]);
    }

    proptest! {
        /// Any cutting gives the same lines, taken out eagerly or not.
        #[test]
        fn cutting_changes_nothing(
            input in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b' '), Just(0xef), Just(0xbb), Just(0xbf), Just(b'x'), any::<u8>()], 0..200),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
            max_line in 0usize..40,
        ) {
            let mut cuts = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect::<Vec<_>>();
            cuts.extend([0, input.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &input[pair[0]..pair[1]]).collect::<Vec<_>>();
            let whole = split(&[&input], max_line);
            prop_assert_eq!(&split(&pieces, max_line), &whole);
            let mut lazy = LineSplitter::with_max_line(max_line);
            for piece in pieces {
                lazy.push(Bytes::copy_from_slice(piece));
            }
            let mut lines = std::iter::from_fn(|| lazy.next_line()).collect::<Vec<_>>();
            lines.extend(lazy.finish());
            prop_assert_eq!(lines, whole);
        }

        /// What is no line end stays: joined again, nothing but ends, blanks and the mark is missing.
        #[test]
        fn plain_lines_come_back(lines in proptest::collection::vec("[a-z{}\":\u{2028}é]{1,20}", 0..20), end in prop_oneof![Just("\n"), Just("\r\n"), Just("\n\n")]) {
            let input = lines.iter().map(|line| format!("{line}{end}")).collect::<String>();
            let expected = lines.iter().map(|line| text(line)).collect::<Vec<_>>();
            prop_assert_eq!(split(&[input.as_bytes()], 1000), expected);
        }
    }
}
