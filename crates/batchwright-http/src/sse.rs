//! Server-sent events out of pieces of any size.
//!
//! The format is the HTML standard's (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use batchwright_core::{ByteStream, Error, ErrorKind, Result};
use futures::{Stream, StreamExt, stream};
use std::collections::VecDeque;

/// The default cap on one event: 16 MiB.
const MAX_EVENT: usize = 16 * 1024 * 1024;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SseEvent {
    /// Its `event` field; empty where it has none.
    pub event: String,
    /// Its `data` lines, joined by line feeds. Bytes that are not UTF-8 are replaced.
    pub data: String,
    /// Its `id` field, if it has one.
    pub id: Option<String>,
}

/// Splits what is pushed into events, without reading anything itself.
///
/// Lines end in CR, LF or both, wherever the pieces are cut; comments and unknown fields are skipped;
/// an event without data is none. Whether the stream is complete is not ours to say: the vendor's
/// last event does (F-058).
///
/// ```
/// use batchwright_http::sse::SseParser;
///
/// let mut parser = SseParser::new();
/// parser.push(b": ping\r\ndata: {\"a\":1}\r\n\r").unwrap();
/// assert_eq!(parser.next_event().unwrap().data, "{\"a\":1}");
/// assert!(parser.next_event().is_none());
/// ```
#[derive(Debug)]
pub struct SseParser {
    line: Vec<u8>,
    event: SseEvent,
    has_data: bool,
    /// The last byte was a CR, whose LF may open the next piece.
    after_return: bool,
    at_start: bool,
    size: usize,
    max_event: usize,
    ready: VecDeque<SseEvent>,
}

impl SseParser {
    /// A parser with the default cap of 16 MiB for an event.
    pub fn new() -> Self {
        Self::with_max_event(MAX_EVENT)
    }

    /// A parser that fails on events of more than `max_event` bytes.
    pub fn with_max_event(max_event: usize) -> Self {
        Self {
            line: Vec::new(),
            event: SseEvent::default(),
            has_data: false,
            after_return: false,
            at_start: true,
            size: 0,
            max_event,
            ready: VecDeque::new(),
        }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// `ProviderFault` of class `Ambiguous` where an event is over the cap.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<()> {
        if self.after_return && !piece.is_empty() {
            self.after_return = false;
            piece = piece.strip_prefix(b"\n").unwrap_or(piece);
        }
        while let Some(end) = memchr::memchr2(b'\r', b'\n', piece) {
            self.grow(&piece[..end])?;
            let returned = piece[end] == b'\r';
            piece = &piece[end + 1..];
            if returned {
                self.after_return = piece.is_empty();
                piece = piece.strip_prefix(b"\n").unwrap_or(piece);
            }
            self.end_line();
        }
        self.grow(piece)
    }

    /// The next complete event.
    pub fn next_event(&mut self) -> Option<SseEvent> {
        self.ready.pop_front()
    }

    /// The event whose closing blank line is missing at the end of the stream, as some servers send
    /// their last one. A line that was cut is dropped.
    pub fn finish(&mut self) -> Option<SseEvent> {
        self.line.clear();
        self.end_event();
        self.at_start = true;
        self.after_return = false;
        self.next_event()
    }

    fn grow(&mut self, bytes: &[u8]) -> Result<()> {
        self.size = self.size.saturating_add(bytes.len());
        if self.size > self.max_event {
            return Err(Error::new(
                ErrorKind::ProviderFault,
                format!(
                    "read the event stream: an event is longer than {} bytes",
                    self.max_event
                ),
            ));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) {
        let mut line = self.line.as_slice();
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            self.line.clear();
            self.end_event();
            return;
        }
        let (name, value) = match memchr::memchr(b':', line) {
            Some(colon) => (
                &line[..colon],
                line[colon + 1..]
                    .strip_prefix(b" ")
                    .unwrap_or(&line[colon + 1..]),
            ),
            None => (line, &[][..]),
        };
        match name {
            b"data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(&String::from_utf8_lossy(value));
                self.has_data = true;
            }
            b"event" => self.event.event = String::from_utf8_lossy(value).into_owned(),
            b"id" if !value.contains(&0) => {
                self.event.id = Some(String::from_utf8_lossy(value).into_owned())
            }
            _ => {}
        }
        self.line.clear();
    }

    fn end_event(&mut self) {
        self.size = 0;
        let event = std::mem::take(&mut self.event);
        if std::mem::take(&mut self.has_data) {
            self.ready.push_back(event);
        }
    }
}

impl Default for SseParser {
    fn default() -> Self {
        Self::new()
    }
}

/// The events of a body. An error of the body ends it.
pub fn events(body: ByteStream) -> impl Stream<Item = Result<SseEvent>> + Send {
    stream::unfold(Some((body, SseParser::new(), false)), |state| async move {
        let (mut body, mut parser, ended) = state?;
        loop {
            if let Some(event) = parser.next_event() {
                return Some((Ok(event), Some((body, parser, ended))));
            }
            if ended {
                return None;
            }
            match body.next().await {
                Some(Ok(piece)) => {
                    if let Err(error) = parser.push(&piece) {
                        return Some((Err(error), None));
                    }
                }
                Some(Err(error)) => return Some((Err(error), None)),
                None => return parser.finish().map(|event| (Ok(event), None)),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn parse(pieces: &[&[u8]]) -> Vec<SseEvent> {
        let mut parser = SseParser::new();
        let mut events = Vec::new();
        for piece in pieces {
            parser.push(piece).unwrap();
            events.extend(std::iter::from_fn(|| parser.next_event()));
        }
        events.extend(parser.finish());
        events
    }

    fn event(event: &str, data: &str) -> SseEvent {
        SseEvent {
            event: event.into(),
            data: data.into(),
            id: None,
        }
    }

    #[test]
    fn f_058_every_line_end_comments_and_fields() {
        let cases: &[(&str, &[SseEvent])] = &[
            ("", &[]),
            ("data: a\n\ndata: b\n\n", &[event("", "a"), event("", "b")]),
            (
                "data: a\r\rdata: b\r\n\r\n",
                &[event("", "a"), event("", "b")],
            ),
            (
                "event: error\ndata:{\"x\":1}\n\n",
                &[event("error", "{\"x\":1}")],
            ),
            ("data: a\ndata:\ndata:  b\n\n", &[event("", "a\n\n b")]),
            (": ping\n\n:\nevent: ping\n\ndata: a\n\n", &[event("", "a")]),
            ("\u{feff}data: a\n\n", &[event("", "a")]),
            ("data\n\n", &[event("", "")]),
            ("retry: 5\nunknown: x\n\n", &[]),
            // The last event's blank line is missing; a cut line is dropped.
            ("data: [DONE]\n", &[event("", "[DONE]")]),
            ("data: a\n\ndata: {\"half", &[event("", "a")]),
        ];
        for (input, expected) in cases {
            assert_eq!(&parse(&[input.as_bytes()]), expected, "{input:?}");
        }
        assert_eq!(parse(&[b"id: 7\ndata: a\n\n"])[0].id.as_deref(), Some("7"));
    }

    #[test]
    fn f_058_split_utf_8_is_whole_again() {
        let text = "data: é😀\r\n\r\n".as_bytes();
        let bytes = text.chunks(1).collect::<Vec<_>>();
        assert_eq!(parse(&bytes), [event("", "é😀")]);
    }

    #[test]
    fn f_201_an_endless_event_is_an_error() {
        let mut parser = SseParser::with_max_event(100);
        let error = (0..)
            .find_map(|_| parser.push(b"data: xxxxxxxxxx\n").err())
            .unwrap();
        assert!(error.is_ambiguous());
        let mut parser = SseParser::with_max_event(100);
        for _ in 0..1000 {
            parser.push(b"data: xxxxxxxxxx\n\n").unwrap();
            assert!(parser.next_event().is_some());
        }
    }

    #[tokio::test]
    async fn a_body_becomes_events() {
        let body: ByteStream = stream::iter([
            Ok(Bytes::from_static(b"data: a\n\nda")),
            Ok("ta: b\n".into()),
        ])
        .boxed();
        let got = events(body).map(Result::unwrap).collect::<Vec<_>>().await;
        assert_eq!(got, [event("", "a"), event("", "b")]);
    }

    proptest! {
        #[test]
        fn cutting_changes_nothing(input in "(data: ?|event:|id: |: |[\r\n]|[a-zé\u{2028}]){0,60}", cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12)) {
            let input = input.as_bytes();
            let mut cuts = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect::<Vec<_>>();
            cuts.extend([0, input.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &input[pair[0]..pair[1]]).collect::<Vec<_>>();
            prop_assert_eq!(parse(&pieces), parse(&[input]));
        }
    }
}
