#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::config::AnthropicConfig;
use batchwright_core::{Message, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

fn provider() -> Arc<str> {
    Arc::from("anthropic")
}

fn row(result: Value) -> Outcome {
    let line = json!({"custom_id": "p-1", "result": result}).to_string();
    let outcome = decode(line.as_bytes(), &provider()).unwrap();
    assert_eq!(outcome.custom_id, "p-1");
    assert_eq!(outcome.provenance.lane, Some(batchwright_core::Lane::Batch));
    outcome
}

#[test]
fn a_line_begins_with_its_wire_id() {
    let form = Form::of(&AnthropicConfig::new("k"));
    let request = Request::chat("MINE", "m", [Message::user("a\nb")]);
    let mut line = b"kept".to_vec();
    encode(&request, form, "p-1", &mut line).unwrap();
    assert_eq!(
        std::str::from_utf8(&line[4..]).unwrap(),
        r#"{"custom_id":"p-1","params":{"model":"m","max_tokens":4096,"messages":[{"role":"user","content":"a\nb"}]}}"#
    );
    let mut line = b"kept".to_vec();
    assert!(encode(&Request::chat("MINE", "m", []), form, "p-1", &mut line).is_err());
    assert_eq!(line, b"kept");
}

#[test]
fn every_type_of_result_has_its_ending() {
    let message = |stop_reason: &str| {
        json!({"type": "succeeded", "message": {"id": "msg_1", "model": "m-1", "stop_reason": stop_reason,
            "content": [{"type": "text", "text": "Yo!"}], "usage": {"input_tokens": 8, "output_tokens": 5}}})
    };
    let good = row(message("end_turn"));
    assert_eq!(good.response().unwrap().text(), "Yo!");
    assert_eq!(good.provenance.model.as_deref(), Some("m-1"));
    let error = |r#type: &str| {
        json!({"type": "errored", "error": {"type": "error", "request_id": "workerreq_1",
            "error": {"type": r#type, "message": "m", "details": {"error_visibility": "user_facing"}}}})
    };
    for (result, ending) in [
        (message("max_tokens"), "succeeded"),
        (message("refusal"), "refused"),
        (error("invalid_request_error"), "failed"),
        (json!({"type": "errored"}), "failed"),
        (json!({"type": "errored", "error": null}), "failed"),
        (json!({"type": "canceled"}), "cancelled"),
        (json!({"type": "expired"}), "expired"),
        (json!({"type": "succeeded"}), "unreadable"),
        (json!({"type": "succeeded", "message": {}}), "unreadable"),
        (
            json!({"type": "succeeded", "message": {"error": {"type": "api_error", "message": "m"}}}),
            "failed",
        ),
        (json!({"type": "hibernated"}), "unreadable"),
        (json!({}), "unreadable"),
        (json!(null), "unreadable"),
        (json!("x"), "unreadable"),
    ] {
        assert_eq!(row(result.clone()).ending.as_str(), ending, "{result}");
    }
    let failed = row(error("invalid_request_error"));
    let failed = failed.error().unwrap();
    assert_eq!(
        (failed.kind(), failed.class()),
        (ErrorKind::InvalidRequest, RetryClass::RowFatal)
    );
    assert_eq!(
        (failed.message(), failed.request_id()),
        ("m", Some("workerreq_1"))
    );
    assert_eq!(
        (failed.provider(), failed.code()),
        (Some("anthropic"), Some("invalid_request_error"))
    );
    let passing = row(error("overloaded_error"));
    assert!(passing.error().unwrap().is_retryable());
    assert!(
        !row(json!({"type": "errored"}))
            .error()
            .unwrap()
            .is_ambiguous(),
        "what failed is not billed"
    );
}

#[test]
fn f_103_f_104_f_108_odd_lines_are_somebodys_or_nobodys() {
    let read = |line: &[u8]| {
        let outcome = decode(line, &provider())?;
        Some((outcome.custom_id, outcome.ending.as_str()))
    };
    let canceled = br#"{"custom_id":"p-1","result":{"type":"canceled"}}"#;
    let ours = |ending| Some(("p-1".to_owned(), ending));
    assert_eq!(read(canceled), ours("cancelled"));
    assert_eq!(
        read(&[b"\xef\xbb\xbf", &canceled[..]].concat()),
        ours("cancelled")
    );
    assert_eq!(read(&[&canceled[..], b"\r"].concat()), ours("cancelled"));
    assert_eq!(read(&canceled[..30]), ours("unreadable"));
    assert_eq!(
        read(&[&canceled[..30], b"\xff\xfe"].concat()),
        ours("unreadable")
    );
    for none in [
        &b""[..],
        b"{}",
        b"null",
        b"\xff",
        b"{\"custom_id\":7}",
        b"{\"custom_id\":null}",
        b"<html>",
    ] {
        assert_eq!(read(none), None);
    }
}

proptest! {
    #[test]
    fn f_059_no_line_makes_the_reader_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&line, &provider());
        let begun = [br#"{"custom_id":"p-1","result":"#, &line[..]].concat();
        prop_assert!(decode(&begun, &provider()).is_some());
    }
}

fn seen(batch: &Value) -> Result<BatchSnapshot> {
    let text = batch.to_string();
    let handle = BatchHandle::new("anthropic", "msgbatch_1", InputRef::default());
    snapshot(&handle, &serde_json::from_str(&text).unwrap())
}

fn batch(status: &str, counts: [u64; 5]) -> Value {
    let [processing, succeeded, errored, canceled, expired] = counts;
    json!({
        "id": "msgbatch_1", "type": "message_batch", "processing_status": status,
        "request_counts": {"processing": processing, "succeeded": succeeded, "errored": errored,
            "canceled": canceled, "expired": expired},
        "created_at": "2026-11-22T09:00:00.123456+00:00", "expires_at": "2026-11-23T09:00:00Z",
        "ended_at": if status == "ended" { json!("2026-11-22T10:00:00Z") } else { json!(null) },
        "cancel_initiated_at": null, "archived_at": null,
        "results_url": if status == "ended" {
            json!("https://elsewhere.example/v1/messages/batches/msgbatch_2/results")
        } else { json!(null) },
    })
}

#[test]
fn f_056_f_076_f_078_f_084_an_end_is_told_by_its_counts() {
    for (status, counts, read) in [
        ("in_progress", [2, 0, 0, 0, 0], BatchStatus::InProgress),
        ("canceling", [1, 1, 0, 0, 0], BatchStatus::Cancelling),
        ("ended", [0, 1, 1, 0, 0], BatchStatus::Completed),
        ("ended", [0, 0, 2, 0, 0], BatchStatus::Completed),
        ("ended", [0, 1, 0, 1, 0], BatchStatus::Cancelled),
        ("ended", [0, 1, 0, 0, 1], BatchStatus::Expired),
        ("ENDED", [0, 2, 0, 0, 0], BatchStatus::Completed),
        (
            "hibernating",
            [2, 0, 0, 0, 0],
            BatchStatus::Unknown("hibernating".into()),
        ),
    ] {
        let snapshot = seen(&batch(status, counts)).unwrap();
        assert_eq!(snapshot.status, read, "{status} {counts:?}");
        assert_eq!(
            snapshot.counts,
            Some(BatchCounts::new(2, counts[1], counts[2]))
        );
        assert_eq!(
            snapshot.created_at,
            Some(Timestamp::from_unix_millis(1_795_338_000_123))
        );
        assert_eq!(snapshot.files.len(), usize::from(status == "ended"));
    }
    assert!(seen(&json!({"id": "msgbatch_1"})).is_err());
    let countless = seen(&json!({"processing_status": "ended", "request_counts": null})).unwrap();
    assert_eq!(
        (countless.status, countless.counts),
        (BatchStatus::Completed, None)
    );
}

/// F-197: an address from an answer is a sign and never gone to.
#[test]
fn f_197_results_are_where_the_batch_is() {
    let snapshot = seen(&batch("ended", [0, 2, 0, 0, 0])).unwrap();
    assert_eq!(snapshot.files, [ResultFile::new("msgbatch_1", "output")]);
}

#[test]
fn f_081_f_130_results_that_are_not_there_are_waited_for_or_gone() {
    for counts in [[0, 2, 0, 0, 0], [0, 1, 0, 0, 1], [0, 1, 0, 1, 0]] {
        let mut late = batch("ended", counts);
        late["results_url"] = json!(null);
        let snapshot = seen(&late).unwrap();
        assert!(snapshot.files.is_empty() && snapshot.awaits_files());
        late["archived_at"] = json!("2026-12-21T09:00:00Z");
        assert!(!seen(&late).unwrap().results_pending);
    }
}

#[test]
fn a_batch_of_the_list_is_known_by_its_size() {
    let entry = |batch: &Value| {
        let text = batch.to_string();
        summary("anthropic", serde_json::from_str(&text).unwrap())
    };
    let listed = entry(&batch("ended", [0, 1, 1, 1, 1])).unwrap();
    assert_eq!(listed.requests, Some(4));
    assert_eq!(listed.status, BatchStatus::Cancelled);
    let mut part = batch("in_progress", [2, 0, 0, 0, 0]);
    part["request_counts"] = json!({"processing": 2});
    assert_eq!(
        entry(&part).unwrap().requests,
        None,
        "a sum of some would be another batch's"
    );
    part["id"] = json!("");
    assert!(entry(&part).is_none());
}
