//! Inline results: a list deep inside an operation, of any size, taken apart as it arrives.
//!
//! A batch whose results are inline shows them with every look at it. A poll keeps what stands around the list, a
//! download the list's elements, and neither holds more than a piece of the body.

use batchwright_core::{ByteStream, Error, Result};
use batchwright_http::hollow;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;

/// The key of the list, and of the object around it.
const KEY: &[u8] = b"inlinedResponses";

/// The most bytes of an operation, or a page of them, beside inline results.
const MAX_AROUND: usize = 8 * 1024 * 1024;

/// What is read of a body byte by byte: where the lists of inline results begin and end.
#[derive(Debug, Default)]
struct Scanner {
    depth: u32,
    in_text: bool,
    escaped: bool,
    /// The last text as far as it may be [`KEY`].
    text: Vec<u8>,
    /// Whether a value of [`KEY`] is next.
    is_key: bool,
    /// How deep the elements of the list are that is being read.
    list: Option<u32>,
    in_element: bool,
    /// Elements of the list so far.
    elements: u64,
    /// Whether a list that holds elements has been read to its end.
    has_list: bool,
}

impl Scanner {
    /// Takes a piece. `around` gets what stands around the lists, in which a list that is not empty holds `{}`;
    /// `lines` gets each element of them as a line.
    fn push(&mut self, piece: &[u8], around: &mut Vec<u8>, lines: &mut Vec<u8>) {
        for &byte in piece {
            if self.in_text {
                self.read_text(byte);
            } else {
                self.read_token(byte, around, lines);
                continue;
            }
            self.put(byte, around, lines);
        }
    }

    fn read_text(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => {
                self.escaped = false;
                // No text with an escape is the key.
                self.text.clear();
                self.text.push(b'\\');
            }
            b'\\' => self.escaped = true,
            b'"' => self.in_text = false,
            other if self.text.len() <= KEY.len() => self.text.push(other),
            _ => {}
        }
    }

    fn read_token(&mut self, byte: u8, around: &mut Vec<u8>, lines: &mut Vec<u8>) {
        match byte {
            b'"' => {
                self.in_text = true;
                self.text.clear();
                self.is_key = false;
            }
            b':' => self.is_key = self.text == KEY,
            b'{' | b'[' => {
                if self.list == Some(self.depth) {
                    self.in_element = true;
                    self.elements += 1;
                    if self.elements == 1 {
                        around.extend_from_slice(b"{}");
                    }
                }
                let opens = byte == b'[' && self.is_key && self.list.is_none();
                self.is_key = false;
                self.put(byte, around, lines);
                self.depth = self.depth.saturating_add(1);
                if opens {
                    self.list = Some(self.depth);
                    self.elements = 0;
                }
                return;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.list == Some(self.depth) {
                    self.put(byte, around, lines);
                    self.in_element = false;
                    lines.push(b'\n');
                    return;
                }
                if self.list == Some(self.depth + 1) {
                    self.list = None;
                    self.has_list |= self.elements > 0;
                }
            }
            b' ' | b'\t' | b'\n' | b'\r' => {
                // A line end between tokens would break the element's line in two.
                self.put(b' ', around, lines);
                return;
            }
            _ => self.is_key = false,
        }
        self.put(byte, around, lines);
    }

    fn put(&self, byte: u8, around: &mut Vec<u8>, lines: &mut Vec<u8>) {
        if self.in_element {
            lines.push(byte);
        } else if self.list.is_none() {
            around.push(byte);
        }
        // Commas between elements, and what is no object, are of no use to anyone.
    }
}

/// The body without the elements of its lists of inline results; a list that is not empty holds `{}`.
pub(crate) async fn without_elements(mut body: ByteStream) -> Result<Vec<u8>> {
    let mut scanner = Scanner::default();
    let (mut around, mut lines) = (Vec::new(), Vec::new());
    while let Some(piece) = body.next().await {
        scanner.push(&piece?, &mut around, &mut lines);
        lines.clear();
        if around.len() > MAX_AROUND {
            return Err(hollow("read the batch: its description is too long"));
        }
    }
    Ok(around)
}

/// The elements of the first list of inline results that holds any, each a line.
pub(crate) fn elements(body: ByteStream) -> ByteStream {
    let state = Some((body, Scanner::default(), Vec::new()));
    stream::unfold(state, |state| async move {
        let (mut body, mut scanner, mut around) = state?;
        loop {
            if scanner.has_list {
                // The same results may stand in the operation once more.
                return None;
            }
            let mut lines = Vec::new();
            let failed: Error = match body.next().await {
                Some(Ok(piece)) => {
                    push_to_end(&mut scanner, &piece, &mut around, &mut lines);
                    around.clear();
                    if lines.is_empty() {
                        continue;
                    }
                    return Some((Ok(Bytes::from(lines)), Some((body, scanner, around))));
                }
                Some(Err(error)) => error,
                None => hollow("download the results: the inline ones break off or are gone"),
            };
            return Some((Err(failed), None));
        }
    })
    .boxed()
}

/// Pushes a piece as far as the first list that holds elements ends.
fn push_to_end(scanner: &mut Scanner, piece: &[u8], around: &mut Vec<u8>, lines: &mut Vec<u8>) {
    // A list ends with a bracket, so the piece is pushed from bracket to bracket.
    for part in piece.split_inclusive(|byte| *byte == b']') {
        scanner.push(part, around, lines);
        if scanner.has_list {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn operation() -> Value {
        let list = json!([
            {"response": {"text": "a ] } \" \\ \"inlinedResponses\":[ b"}, "metadata": {"key": "k-0"}},
            {"error": {"code": 3, "list": [[{}], []]}, "metadata": {"key": "k-1"}},
        ]);
        json!({
            "name": "batches/b",
            "metadata": {"displayName": "inlinedResponses", "output": {"inlinedResponses": {"inlinedResponses": list}}},
            "done": true,
            "response": {"inlinedResponses": {"inlinedResponses": list}},
        })
    }

    fn streamed(pieces: Vec<Vec<u8>>) -> ByteStream {
        stream::iter(pieces.into_iter().map(|piece| Ok(Bytes::from(piece)))).boxed()
    }

    fn cut(text: &str, size: usize) -> Vec<Vec<u8>> {
        text.as_bytes().chunks(size).map(<[u8]>::to_vec).collect()
    }

    async fn lines_of(pieces: Vec<Vec<u8>>) -> Result<Vec<Value>> {
        let mut body = elements(streamed(pieces));
        let mut all = Vec::new();
        while let Some(piece) = body.next().await {
            all.extend_from_slice(&piece?);
        }
        let lines = all.split_inclusive(|byte| *byte == b'\n');
        Ok(lines
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect())
    }

    #[tokio::test]
    async fn f_091_elements_come_out_once_and_the_rest_without_them() {
        let operation = operation();
        let want = operation["response"]["inlinedResponses"]["inlinedResponses"].clone();
        for text in [
            operation.to_string(),
            serde_json::to_string_pretty(&operation).unwrap(),
        ] {
            for size in [1, 7, 10_000] {
                let lines = lines_of(cut(&text, size)).await.unwrap();
                assert_eq!(Value::from(lines), want, "{size}");
                let around = without_elements(streamed(cut(&text, size))).await.unwrap();
                let around: Value = serde_json::from_slice(&around).unwrap();
                assert_eq!(around["name"], "batches/b");
                assert_eq!(around["metadata"]["displayName"], "inlinedResponses");
                assert_eq!(
                    around["response"]["inlinedResponses"]["inlinedResponses"],
                    json!([{}])
                );
            }
        }
    }

    #[tokio::test]
    async fn f_106_results_that_break_off_are_an_error() {
        let text = operation().to_string();
        for end in [0, 10, 100, 150, 200] {
            assert!(lines_of(cut(&text[..end], 50)).await.is_err(), "{end}");
        }
        let none = json!({"response": {"inlinedResponses": {"inlinedResponses": []}}});
        assert!(lines_of(vec![none.to_string().into_bytes()]).await.is_err());
        let embeds =
            json!({"response": {"inlinedEmbedContentResponses": {"inlinedResponses": [{"a": 1}]}}});
        let lines = lines_of(vec![embeds.to_string().into_bytes()])
            .await
            .unwrap();
        assert_eq!(lines, [json!({"a": 1})]);
    }

    proptest! {
        /// F-059: no bytes make it panic, and what stands around is no longer than what came.
        #[test]
        fn any_bytes_are_survived(body in "(\"inlinedResponses\":|[\\[\\]{},:\"\\\\ a]|\n){0,80}") {
            let mut scanner = Scanner::default();
            let (mut around, mut lines) = (Vec::new(), Vec::new());
            scanner.push(body.as_bytes(), &mut around, &mut lines);
            prop_assert!(around.len() <= body.len() * 2 && lines.len() <= body.len() * 2);
        }
    }
}
