//! Lines of a batch, which need no network.

use crate::Subject;
use batchwright_core::{Message, Request, WireId, WirePrefix};
use std::sync::Arc;

fn encoded(subject: &Subject, request: &Request, id: &str) -> Vec<u8> {
    let mut line = Vec::new();
    let batch = subject.offline().batch.expect("it has batches");
    batch.encode(request, id, &mut line).unwrap();
    line
}

/// A later attempt's line is the earlier one's with the prefix exchanged as text, once: whatever the prompt holds, one
/// that looks like an id among it.
pub async fn another_attempt_is_a_copy_with_the_prefix_exchanged(subject: &Subject) {
    let prefix = |attempt| WirePrefix::of("job", 1, attempt);
    let decoy = format!("\"{}-0\" and \"{}-1\"", prefix(1), prefix(2));
    for text in ["plain", &decoy, "a\nb\r\n\u{2028}\"quoted\" 名 😀 \u{0}"] {
        let request = Request::chat("row", subject.model, [Message::user(text)]);
        let line = |attempt| {
            let id = WireId::new(prefix(attempt), 71).to_string();
            encoded(subject, &request, &id)
        };
        let (first, second) = (line(1), line(2));
        assert!(!first.contains(&b'\n'), "a line is one line");
        let quoted = format!("\"{}-1z\"", prefix(1));
        let at = first
            .windows(quoted.len())
            .position(|part| part == quoted.as_bytes())
            .expect("the line holds its wire id in double quotes");
        let beginning = &quoted.as_bytes()[..10];
        let earlier = first[..at].windows(10).any(|part| part == beginning);
        assert!(!earlier, "something before the wire id begins like it");
        let mut copy = first.clone();
        copy[at + 1..at + 9].copy_from_slice(prefix(2).as_str().as_bytes());
        assert_eq!(
            String::from_utf8_lossy(&copy),
            String::from_utf8_lossy(&second),
            "the wire id stands in the line exactly once"
        );
    }
}

/// F-176: ids of ours are allowed, the longest too.
pub async fn f_176_our_ids_are_allowed(subject: &Subject) {
    let limits = subject.limits().expect("it has batches");
    let prefix = WirePrefix::of("job", u32::MAX, u32::MAX);
    let longest = WireId::new(prefix, u64::MAX).to_string();
    assert!(limits.custom_id.allows(&longest), "{longest}");
}

/// What the vendor has no form for is refused, and leaves what was written before as it was.
pub async fn what_has_no_form_leaves_the_buffer(subject: &Subject) {
    let batch = subject.offline().batch.expect("it has batches");
    let mut line = b"kept".to_vec();
    let empty = Request::chat("row", subject.model, []);
    let error = batch.encode(&empty, "p-1", &mut line).unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    assert_eq!(line, b"kept");
}

/// Names, limits and sources are there for whoever chooses and asks.
pub async fn what_it_can_do_is_said_as_data(subject: &Subject) {
    let made = subject.offline();
    let capability = made.capability();
    assert!(!capability.source.is_empty(), "facts name their source");
    if let Some(batch) = &made.batch {
        let limits = subject.limits().expect("it has batches");
        assert!(limits.max_requests > 0 && limits.max_bytes > 0);
        assert!(!limits.endpoints.is_empty() && !limits.windows.is_empty());
        let request = Request::chat("row", subject.model, [Message::user("x")]);
        let endpoint = batch.endpoint(&request).unwrap();
        assert!(limits.check_endpoint(endpoint).is_ok(), "{endpoint}");
        assert!(!batch.account().is_empty(), "accounts are told apart");
        if let Some(realtime) = &made.realtime {
            assert_eq!(realtime.name(), batch.name());
        }
    }
    fn crosses<T: Send + Sync + ?Sized>(_: &Arc<T>) {}
    made.realtime.as_ref().inspect(|it| crosses(it));
    made.batch.as_ref().inspect(|it| crosses(it));
}

/// F-104: no bytes make the reader of result lines panic, and none of these names a request.
pub async fn f_104_lines_that_are_none_name_nobody(subject: &Subject) {
    let batch = subject.offline().batch.expect("it has batches");
    let lines: [&[u8]; 9] = [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\"p-1\"",
        b"<html></html>",
        b"\xff\xfe",
        b"{\"",
        b"{\"custom_id\":7}",
    ];
    for line in lines {
        assert!(
            batch.decode(line).is_none(),
            "{:?}",
            String::from_utf8_lossy(line)
        );
    }
}
