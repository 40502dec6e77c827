use super::*;
use batchwright_core::{Message, RetryClass};
use proptest::prelude::*;
use serde_json::{Value, json};

fn gemini() -> Arc<str> {
    Arc::from("gemini")
}

fn read(line: &Value) -> Outcome {
    decode(line.to_string().as_bytes(), &gemini()).unwrap()
}

fn answer(text: &str) -> Value {
    json!({"candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}], "modelVersion": "m-1"})
}

#[test]
fn a_line_begins_with_its_key_and_becomes_an_inline_request() {
    let request = Request::chat("own", "m", [Message::user("a \"key\"")]);
    let mut line = Vec::new();
    encode(&request, "p-1 \"ü\"", &mut line).unwrap();
    assert!(line.starts_with(b"{\"key\":\"p-1 "));
    let file: Value = serde_json::from_slice(&line).unwrap();
    let mut out = Vec::new();
    push_inlined(&line, &mut out).unwrap();
    let inline: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(inline["metadata"], json!({"key": "p-1 \"ü\""}));
    assert_eq!(inline["request"], file["request"]);
    assert_eq!(inline.as_object().unwrap().len(), 2);
    for odd in ["", "{}", "{\"key\":", "{\"key\":x}"] {
        assert!(push_inlined(odd.as_bytes(), &mut out).is_none(), "{odd}");
    }
}

/// F-050, F-062, F-076, F-078, F-104, F-105.
#[test]
fn f_104_a_gallery_of_result_lines() {
    let key = |line: Value| {
        let mut line = line;
        line["key"] = json!("k");
        line
    };
    for (line, ending) in [
        (key(json!({"response": answer("a")})), "succeeded"),
        (
            key(json!({"response": answer("a"), "error": null})),
            "succeeded",
        ),
        (
            key(json!({"response": answer("a"), "error": {}})),
            "succeeded",
        ),
        (
            json!({"metadata": {"key": "k", "own": 1}, "response": answer("a")}),
            "succeeded",
        ),
        (
            key(json!({"response": {"promptFeedback": {"blockReason": "OTHER"}}})),
            "refused",
        ),
        (key(json!({"error": {"code": 3, "message": "m"}})), "failed"),
        (
            key(json!({"error": {"code": 1, "message": "m"}})),
            "cancelled",
        ),
        (
            key(json!({"response": {"error": {"code": 500, "message": "m"}}})),
            "failed",
        ),
        (key(json!({"response": {}})), "unreadable"),
        (key(json!({"response": null})), "unreadable"),
        (key(json!({"response": "x"})), "unreadable"),
        (key(json!({})), "unreadable"),
    ] {
        let outcome = read(&line);
        assert_eq!(outcome.custom_id, "k", "{line}");
        assert_eq!(outcome.ending.as_str(), ending, "{line}");
        assert_eq!(outcome.provenance.lane, Some(batchwright_core::Lane::Batch));
        if let Some(error) = outcome.error() {
            assert_eq!(error.provider(), Some("gemini"));
        }
    }
    let model = read(&key(json!({"response": answer("a")})))
        .provenance
        .model;
    assert_eq!(model.as_deref(), Some("m-1"));
    let limited = read(&key(json!({"error": {"code": 8, "message": "m"}})));
    assert_eq!(limited.error().unwrap().class(), RetryClass::Rejected);
}

#[test]
fn f_101_f_104_a_line_without_a_key_names_nobody_and_a_broken_one_its_own() {
    let none = [
        json!({"response": answer("a")}),
        json!({"response": answer("a"), "metadata": {}}),
        json!({"response": answer("a"), "key": ""}),
        json!({"response": answer("a"), "key": {"a": 1}}),
    ];
    for line in none {
        assert!(
            decode(line.to_string().as_bytes(), &gemini()).is_none(),
            "{line}"
        );
    }
    let whole = format!("{{\"key\":\"k\",\"response\":{}}}", answer("ü"));
    for (line, readable) in [
        (whole.clone(), true),
        (format!("\u{feff}{whole}"), true),
        (whole[..40].to_owned(), false),
        (format!("{whole}x"), false),
        (whole.replacen("\"response\"", "response", 1), false),
    ] {
        let outcome = decode(line.as_bytes(), &gemini()).unwrap();
        assert_eq!(outcome.custom_id, "k", "{line}");
        let unreadable = matches!(outcome.ending, Ending::Unreadable(_));
        assert_eq!(unreadable, !readable, "{line}");
    }
    let late = format!("{{\"response\":{},\"key\":\"k\"}}", answer("a"));
    assert!(
        decode(late.as_bytes(), &gemini())
            .unwrap()
            .ending
            .is_success()
    );
}

proptest! {
    /// F-059: no line makes the reader panic.
    #[test]
    fn any_line_is_survived(line in "\\PC{0,60}|\\{\"key\":\"k\",[\\[\\]{}\",:a0]{0,40}") {
        let _ = decode(line.as_bytes(), &gemini());
    }
}

fn handle() -> BatchHandle {
    BatchHandle::new("gemini", "batches/b", InputRef::default())
}

fn seen(operation: &Value) -> BatchSnapshot {
    let text = operation.to_string();
    snapshot(&handle(), &serde_json::from_str(&text).unwrap()).unwrap()
}

fn in_state(state: &str) -> Value {
    json!({"name": "batches/b", "metadata": {"state": state, "displayName": "job",
        "createTime": "2026-11-22T09:00:00.123456789Z", "inputConfig": {"fileName": "files/i"},
        "batchStats": {"requestCount": "3", "pendingRequestCount": "3"}}})
}

#[test]
fn f_056_f_085_states_under_either_prefix_in_any_case() {
    for (word, status) in [
        ("PENDING", BatchStatus::InProgress),
        ("QUEUED", BatchStatus::InProgress),
        ("RUNNING", BatchStatus::InProgress),
        ("PAUSED", BatchStatus::InProgress),
        ("UPDATING", BatchStatus::InProgress),
        ("SUCCEEDED", BatchStatus::Completed),
        ("PARTIALLY_SUCCEEDED", BatchStatus::Completed),
        ("FAILED", BatchStatus::Failed),
        ("CANCELLING", BatchStatus::Cancelling),
        ("CANCELLED", BatchStatus::Cancelled),
        ("EXPIRED", BatchStatus::Expired),
    ] {
        for state in [
            format!("BATCH_STATE_{word}"),
            format!("JOB_STATE_{word}"),
            word.to_lowercase(),
        ] {
            assert_eq!(seen(&in_state(&state)).status, status, "{state}");
        }
    }
    for odd in ["BATCH_STATE_UNSPECIFIED", "hibernating"] {
        let status = seen(&in_state(odd)).status;
        assert_eq!(status, BatchStatus::Unknown(odd.to_owned()));
        assert!(!status.is_terminal());
    }
}

#[test]
fn counts_are_texts_and_zeros_are_left_out() {
    let running = seen(&in_state("BATCH_STATE_RUNNING"));
    assert_eq!(running.counts, Some(BatchCounts::new(3, 0, 0)));
    assert_eq!(running.handle.input, InputRef("files/i".into()));
    assert_eq!(
        running.created_at.unwrap().as_unix_millis(),
        1_795_338_000_123
    );
    let mut ended = in_state("BATCH_STATE_SUCCEEDED");
    ended["metadata"]["endTime"] = json!("2026-11-22T10:00:00Z");
    ended["metadata"]["batchStats"] =
        json!({"requestCount": "3", "successfulRequestCount": 2, "failedRequestCount": "1"});
    let ended = seen(&ended);
    assert_eq!(ended.counts, Some(BatchCounts::new(3, 2, 1)));
    assert!(ended.ended_at > ended.created_at);
    assert!(ended.awaits_files(), "F-081");
    // F-084.
    assert_eq!(
        seen(&json!({"metadata": {"state": "JOB_STATE_PENDING"}})).counts,
        None
    );
}

#[test]
fn f_091_results_are_found_in_both_places_and_both_forms() {
    let file = json!({"responsesFile": "files/batch-x"});
    let inline = json!({"inlinedResponses": {"inlinedResponses": [{}]}});
    let embeds = json!({"inlinedEmbedContentResponses": {"inlinedResponses": [{}]}});
    let none = json!({"inlinedResponses": {"inlinedResponses": []}});
    for (output, id) in [
        (file, Some("files/batch-x")),
        (inline, Some("batches/b")),
        (embeds, Some("batches/b")),
        (none, None),
        (json!({"responsesFile": ""}), None),
    ] {
        for place in ["/metadata/output", "/response"] {
            let mut operation = in_state("JOB_STATE_SUCCEEDED");
            operation["response"] = Value::Null;
            operation["metadata"]["output"] = Value::Null;
            *operation.pointer_mut(place).unwrap() = output.clone();
            let files = seen(&operation).files;
            let ids: Vec<&str> = files.iter().map(|file| file.id.as_str()).collect();
            assert_eq!(ids, id.into_iter().collect::<Vec<_>>(), "{place} {output}");
        }
    }
}

#[test]
fn f_010_f_027_f_075_a_failed_batch_says_what_it_can() {
    let failed = |error: Value| {
        let mut operation = in_state("BATCH_STATE_FAILED");
        operation["done"] = json!(true);
        operation["error"] = error;
        seen(&operation)
    };
    let full = failed(json!({"code": 8, "message": "queue"}));
    assert!(full.queue_full && full.account_fault.is_none());
    assert_eq!(full.faults[0].message, "queue");
    // Money at its end comes under the same code, and no other batch's end makes room for it (F-006).
    let spent = failed(json!({"code": 8, "message": "Your prepayment credits are depleted."}));
    assert_eq!(spent.account_fault, Some(ErrorKind::QuotaExceeded));
    assert!(!spent.queue_full);
    let denied = failed(json!({"code": 7, "message": "no"}));
    assert_eq!(denied.account_fault, Some(ErrorKind::PermissionDenied));
    let bad = failed(json!({"code": 3, "message": "bad"}));
    assert!(!bad.queue_full && bad.account_fault.is_none());
    assert!(failed(Value::Null).faults.is_empty(), "F-075");
    // F-076: what ran is paid and collected, whatever it failed for.
    let mut ran = in_state("BATCH_STATE_FAILED");
    ran["done"] = json!(true);
    ran["error"] = json!({"code": 8, "message": "queue"});
    ran["metadata"]["output"] = json!({"responsesFile": "files/batch-1"});
    let ran = seen(&ran);
    assert!(!ran.queue_full && ran.files.len() == 1);
    // F-077: no results at all, and an end.
    let expired = seen(&in_state("BATCH_STATE_EXPIRED"));
    assert!(expired.files.is_empty() && !expired.awaits_files());
}

#[test]
fn an_operation_without_a_state_is_judged_by_what_it_says_of_its_end() {
    let of = |operation: Value| {
        let text = operation.to_string();
        snapshot(&handle(), &serde_json::from_str(&text).unwrap()).map(|seen| seen.status)
    };
    let done = json!({"metadata": {}, "done": true, "response": {}});
    assert_eq!(of(done).unwrap(), BatchStatus::Completed);
    let failed = json!({"metadata": {}, "done": true, "error": {"code": 13}});
    assert_eq!(of(failed).unwrap(), BatchStatus::Failed);
    for hollow in [json!({}), json!({"metadata": {}}), json!({"metadata": 7})] {
        assert!(of(hollow.clone()).unwrap_err().is_ambiguous(), "{hollow}");
    }
}

#[test]
fn a_listed_batch_is_known_by_its_display_name() {
    let tag = SubmissionTag::new("job1", 4, 2, "rnd1").unwrap();
    let mut operation = in_state("BATCH_STATE_RUNNING");
    let of = |operation: &Value| {
        let text = operation.to_string();
        summary(&gemini(), &serde_json::from_str(&text).unwrap())
    };
    let foreign = of(&operation).unwrap();
    assert_eq!(foreign.tag, None, "a name of somebody else's");
    assert_eq!(foreign.requests, Some(3));
    operation["metadata"]["displayName"] = json!(tag.to_string());
    let ours = of(&operation).unwrap();
    assert_eq!(ours.tag, Some(tag));
    assert_eq!(ours.handle.input, InputRef("files/i".into()));
    assert!(of(&json!({"metadata": {"state": "x"}})).is_none());
}
