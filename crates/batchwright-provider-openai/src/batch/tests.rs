use super::*;
use crate::config::ChatApi;
use batchwright_core::{FinishReason, Message, Usage};
use batchwright_core::{SealedBody, Timestamp};
use batchwright_http::HeaderMap;
use proptest::prelude::*;
use serde_json::{Value, json};

const OPENAI: Dialect = Dialect::OPENAI;

fn form(api: ChatApi) -> Form {
    Form {
        api,
        max_tokens: OPENAI.max_tokens,
        refused: OPENAI.refused,
        dated: false,
        streamed: false,
    }
}

fn decode(line: &[u8], provider: &Arc<str>) -> Option<Outcome> {
    super::decode(line, provider, &OPENAI)
}

fn encode(request: &Request, api: ChatApi, wire_id: &str, line: &mut Vec<u8>) -> Result<()> {
    super::encode(request, form(api), &(OPENAI.capability)(), wire_id, line)
}

fn provider() -> Arc<str> {
    Arc::from("openai")
}

fn decoded(line: &str) -> Option<Outcome> {
    decode(line.as_bytes(), &provider())
}

fn good_body() -> Value {
    json!({"id": "chatcmpl-1", "object": "chat.completion", "model": "m-1",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Paris.", "refusal": null}}],
        "usage": {"prompt_tokens": 21, "completion_tokens": 3}})
}

fn row(status: Value, body: Value, error: Value) -> String {
    json!({"id": "batch_req_1", "custom_id": "r-1", "error": error,
        "response": {"status_code": status, "request_id": "req_9", "body": body}})
    .to_string()
}

#[test]
fn a_line_is_one_line_of_json_under_the_wire_id() {
    let request = Request::chat("caller's id", "m", [Message::user("a\nb")]);
    let mut line = b"kept\n".to_vec();
    encode(&request, ChatApi::Responses, "p1-é", &mut line).unwrap();
    let text = String::from_utf8(line).unwrap();
    assert_eq!(
        text,
        "kept\n{\"custom_id\":\"p1-é\",\"method\":\"POST\",\"url\":\"/v1/responses\",\"body\":\
         {\"model\":\"m\",\"input\":[{\"role\":\"user\",\"content\":\"a\\nb\"}]}}"
    );
}

#[test]
fn what_a_batch_cannot_hold_leaves_the_line_as_it_was() {
    let raw = |endpoint: &str, body: &str| {
        let body = RawValue::from_string(body.to_owned()).unwrap();
        Request::raw("a", endpoint, body).unwrap()
    };
    for (request, kind) in [
        (
            raw("/v1/audio/speech", r#"{"model":"m"}"#),
            ErrorKind::Unsupported,
        ),
        (
            raw("/v1/responses", r#"{"model":"m","stream":true}"#),
            ErrorKind::InvalidRequest,
        ),
        (Request::chat("a", "m", []), ErrorKind::InvalidRequest),
    ] {
        let mut line = b"kept".to_vec();
        let error = encode(&request, ChatApi::default(), "w", &mut line).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(line, b"kept");
    }
    let moderation = raw("/v1/moderations", r#"{"model":"m","input":"x"}"#);
    assert_eq!(
        endpoint(
            &moderation,
            form(ChatApi::default()),
            &(OPENAI.capability)()
        )
        .unwrap(),
        "/v1/moderations"
    );
}

#[test]
fn a_good_row_is_an_answer_with_its_origin() {
    let outcome = decoded(&row(json!(200), good_body(), Value::Null)).unwrap();
    assert_eq!(outcome.custom_id, "r-1");
    assert_eq!(outcome.provenance.provider.as_deref(), Some("openai"));
    assert_eq!(outcome.provenance.model.as_deref(), Some("m-1"));
    assert_eq!(outcome.provenance.lane, Some(batchwright_core::Lane::Batch));
    let Ending::Succeeded(answer) = outcome.ending else {
        panic!("succeeded")
    };
    assert_eq!(answer.text(), "Paris.");
    assert_eq!(answer.usage, Usage::of(21, 3));
    assert_eq!(answer.request_id.as_deref(), Some("req_9"));
    assert!(answer.raw.is_none(), "the downloaded file keeps it");
}

/// F-050, F-062, F-063, F-076, F-078, F-097, F-104, F-105: every shape of a result line, in either file.
#[test]
fn every_shape_of_a_row_has_its_ending() {
    let fault = |code: Value, r#type: &str| json!({"error": {"message": "m", "type": r#type, "param": null, "code": code}});
    let never = |code: &str| {
        json!({"id": "b", "custom_id": "r-1", "response": null, "error": {"code": code, "message": "never"}}).to_string()
    };
    let answered = |change: fn(&mut Value)| {
        let mut body = good_body();
        change(&mut body["choices"][0]);
        row(json!(200), body, Value::Null)
    };
    use RetryClass::{Ambiguous, JobStop, Rejected, RowFatal};
    let table: Vec<(String, &str, Option<RetryClass>)> = vec![
        (row(json!(200), good_body(), Value::Null), "succeeded", None),
        (
            answered(|choice| choice["finish_reason"] = json!("length")),
            "succeeded",
            None,
        ),
        (
            answered(|choice| choice["finish_reason"] = json!("content_filter")),
            "refused",
            None,
        ),
        (
            answered(|choice| choice["message"] = json!({"content": null, "refusal": "no"})),
            "refused",
            None,
        ),
        (
            row(
                json!(400),
                fault(json!("unsupported_parameter"), "invalid_request_error"),
                Value::Null,
            ),
            "failed",
            Some(RowFatal),
        ),
        (
            row(
                json!(400),
                fault(json!("billing_hard_limit_reached"), ""),
                Value::Null,
            ),
            "failed",
            Some(JobStop),
        ),
        (
            row(json!(408), json!({}), Value::Null),
            "failed",
            Some(Ambiguous),
        ),
        (
            row(json!(409), json!({}), Value::Null),
            "failed",
            Some(Rejected),
        ),
        (
            row(
                json!(429),
                fault(json!("rate_limit_exceeded"), "tokens"),
                Value::Null,
            ),
            "failed",
            Some(Rejected),
        ),
        (
            row(
                json!(429),
                fault(json!("insufficient_quota"), "insufficient_quota"),
                Value::Null,
            ),
            "failed",
            Some(JobStop),
        ),
        (
            row(json!(500), fault(Value::Null, "server_error"), Value::Null),
            "failed",
            Some(Ambiguous),
        ),
        (
            row(json!(503), Value::Null, Value::Null),
            "failed",
            Some(Ambiguous),
        ),
        (
            row(
                json!(503),
                fault(json!("server_is_overloaded"), "service_unavailable_error"),
                Value::Null,
            ),
            "failed",
            Some(Rejected),
        ),
        (
            row(json!(200), fault(json!(400), ""), Value::Null),
            "failed",
            Some(RowFatal),
        ),
        (
            row(json!(200), json!({"error": "broke"}), Value::Null),
            "failed",
            Some(Ambiguous),
        ),
        (
            row(
                json!(200),
                good_body(),
                json!({"code": "server_error", "message": "x"}),
            ),
            "failed",
            Some(Ambiguous),
        ),
        (never("batch_expired"), "expired", None),
        (never("batch_cancelled"), "cancelled", None),
        (never("batch_moonstruck"), "failed", Some(Ambiguous)),
        (
            row(json!(0), json!({}), Value::Null),
            "unreadable",
            Some(Ambiguous),
        ),
        (
            row(Value::Null, good_body(), Value::Null),
            "unreadable",
            Some(Ambiguous),
        ),
        (
            row(json!("200"), good_body(), Value::Null),
            "unreadable",
            Some(Ambiguous),
        ),
        (
            row(json!(200), Value::Null, Value::Null),
            "unreadable",
            Some(Ambiguous),
        ),
        (
            row(json!(200), json!({}), Value::Null),
            "unreadable",
            Some(Ambiguous),
        ),
        (
            row(json!(200), json!([]), Value::Null),
            "unreadable",
            Some(Ambiguous),
        ),
        (
            row(json!(200), json!("<html>"), Value::Null),
            "unreadable",
            Some(Ambiguous),
        ),
        (
            row(json!(200), json!({"choices": null}), Value::Null),
            "unreadable",
            Some(Ambiguous),
        ),
        (
            row(json!(70_000), json!({}), Value::Null),
            "unreadable",
            Some(Ambiguous),
        ),
        (
            r#"{"custom_id":"r-1"}"#.into(),
            "unreadable",
            Some(Ambiguous),
        ),
        (
            r#"{"custom_id":"r-1","response":null,"error":null}"#.into(),
            "unreadable",
            Some(Ambiguous),
        ),
        (
            r#"{"custom_id":"r-1","response":7}"#.into(),
            "unreadable",
            Some(Ambiguous),
        ),
        (
            r#"{"custom_id":"r-1","response":{"status_co"#.into(),
            "unreadable",
            Some(Ambiguous),
        ),
        (
            r#"{"custom_id":"r-1","error":null,"error":null}"#.into(),
            "unreadable",
            Some(Ambiguous),
        ),
    ];
    for (line, ending, class) in table {
        let outcome = decoded(&line).expect(&line);
        assert_eq!(outcome.custom_id, "r-1", "{line}");
        assert_eq!(outcome.ending.as_str(), ending, "{line}");
        assert_eq!(outcome.error().map(Error::class), class, "{line}");
        if let Some(error) = outcome.error() {
            assert_eq!(error.provider(), Some("openai"));
        }
    }
}

#[test]
fn f_108_bom_crlf_and_bad_bytes_in_a_line() {
    let line = row(json!(200), good_body(), Value::Null);
    let with = |before: &[u8], after: &[u8]| {
        decode(&[before, line.as_bytes(), after].concat(), &provider())
    };
    assert!(with(b"\xef\xbb\xbf", b"\r").unwrap().ending.is_success());
    let bad = decode(
        b"{\"custom_id\":\"r-1\",\"response\":\"\xff\"}",
        &provider(),
    )
    .unwrap();
    assert_eq!(
        (bad.custom_id.as_str(), bad.ending.as_str()),
        ("r-1", "unreadable")
    );
    for nobodys in [
        "",
        " ",
        "null",
        "[]",
        "{}",
        "{\"custom_id\":\"cut",
        "\u{feff}",
        "{\"custom_id\":7,\"response\":{}}",
    ] {
        assert!(decoded(nobodys).is_none(), "{nobodys}");
    }
}

#[test]
fn f_056_an_unknown_end_of_a_row_is_kept() {
    let line = row(
        json!(200),
        json!({"choices": [{"finish_reason": "moon", "message": {"content": "x"}}]}),
        Value::Null,
    );
    let outcome = decoded(&line).unwrap();
    assert_eq!(
        outcome.response().unwrap().finish_reason,
        Some(FinishReason::Other("moon".into()))
    );
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof![".{0,8}", "200|choices|error|custom_id|r-[0-9]"].prop_map(Value::from),
    ];
    let keys = "custom_id|response|error|status_code|body|choices|message|content|code|output|usage|data|embedding|[a-z]{1,3}";
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((keys, inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    /// F-059, F-104, I4: whatever stands in a line, nothing panics and nobody gets another's row.
    #[test]
    fn any_row_stays_with_its_id(id in ".{0,12}", response in json_value(), error in json_value(), cut in 0.0..=1.0) {
        let line = json!({"custom_id": id, "response": response, "error": error}).to_string();
        prop_assert_eq!(decoded(&line).unwrap().custom_id, id.clone());
        let cut = line.floor_char_boundary((line.len() as f64 * cut) as usize);
        if cut < line.len() && let Some(outcome) = decoded(&line[..cut]) {
            prop_assert_eq!(outcome.custom_id, id);
            prop_assert_eq!(outcome.ending.as_str(), "unreadable");
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes, &provider());
    }

    #[test]
    fn what_is_encoded_comes_back_under_its_id(id in "[a-z0-9-]{1,20}", text in ".{0,40}") {
        let mut line = Vec::new();
        encode(&Request::chat("x", "m", [Message::user(text.clone())]), ChatApi::default(), &id, &mut line).unwrap();
        prop_assert!(!line.contains(&b'\n'));
        let read: Value = serde_json::from_slice(&line).unwrap();
        prop_assert_eq!(&read["custom_id"], &Value::from(id));
        prop_assert_eq!(&read["body"]["messages"][0]["content"], &Value::from(text));
    }
}

// ---- the create ----

#[test]
fn only_a_parsed_refusal_proves_that_nothing_was_bought() {
    let said =
        r#"{"error":{"message":"no","type":"invalid_request_error","param":null,"code":null}}"#;
    let outcome = |status: u16, body: &str| {
        let reply = Reply::new(status, HeaderMap::new(), body.to_owned());
        let refused =
            |reply: &Reply| Error::new(ErrorKind::InvalidRequest, "x").with_status(reply.status);
        match submitted(Ok(reply), batch_id, refused) {
            Ok(id) => id,
            Err(SubmitError::NotSent(_)) => "not sent".to_owned(),
            Err(SubmitError::Refused(error)) => format!("refused {}", error.status().unwrap()),
            Err(SubmitError::Unknown(_)) => "unknown".to_owned(),
        }
    };
    assert_eq!(
        outcome(200, r#"{"id":"batch_1","object":"batch"}"#),
        "batch_1"
    );
    assert_eq!(outcome(201, r#"{"id":"batch_1","odd":[{}]}"#), "batch_1");
    for status in [400, 401, 402, 403, 404, 413, 422] {
        assert_eq!(outcome(status, said), format!("refused {status}"));
        for unsaid in ["", "<html>403</html>", "null", "{}"] {
            assert_eq!(outcome(status, unsaid), "unknown", "{status} {unsaid}");
        }
    }
    for status in [
        302, 307, 405, 408, 409, 410, 418, 425, 429, 499, 500, 502, 503, 504, 524, 529,
    ] {
        assert_eq!(outcome(status, said), "unknown", "{status}");
    }
    for unreadable in [
        "",
        "null",
        "{}",
        "[]",
        r#"{"id":""}"#,
        r#"{"id":null}"#,
        r#"{"id":"batch_1""#,
        said,
    ] {
        assert_eq!(outcome(200, unreadable), "unknown", "{unreadable}");
    }
}

// ---- objects ----

fn seen(batch: Value) -> Result<BatchSnapshot> {
    let text = batch.to_string();
    let handle = BatchHandle::new("openai", "batch_1", InputRef("file-1".into()));
    snapshot(&handle, &serde_json::from_str(&text).unwrap(), &OPENAI)
}

#[test]
fn a_whole_batch_is_read() {
    let snapshot = seen(json!({"id": "batch_1", "object": "batch", "endpoint": "/v1/chat/completions", "model": "m",
        "errors": null, "input_file_id": "file-1", "completion_window": "24h", "status": "completed",
        "output_file_id": "file-O", "error_file_id": "file-E", "created_at": 1_763_800_000, "completed_at": 1_763_801_002,
        "failed_at": null, "request_counts": {"total": 3, "completed": 2, "failed": 1},
        "usage": {"input_tokens": 42, "input_tokens_details": {"cached_tokens": 1}, "output_tokens": 6}, "metadata": {"a": "b"}}))
    .unwrap();
    assert_eq!(snapshot.status, BatchStatus::Completed);
    assert_eq!(snapshot.counts, Some(BatchCounts::new(3, 2, 1)));
    assert_eq!(
        snapshot.created_at,
        Some(Timestamp::from_unix_seconds(1_763_800_000))
    );
    assert_eq!(
        snapshot.ended_at,
        Some(Timestamp::from_unix_seconds(1_763_801_002))
    );
    assert_eq!(
        snapshot.files,
        [
            ResultFile::new("file-O", "output"),
            ResultFile::new("file-E", "errors")
        ]
    );
    assert_eq!(snapshot.usage.unwrap().input_tokens, Some(42));
    assert!(snapshot.faults.is_empty() && !snapshot.queue_full);
}

/// F-056, F-085.
#[test]
fn every_word_of_a_state() {
    for (word, status) in [
        ("validating", BatchStatus::Validating),
        ("in_progress", BatchStatus::InProgress),
        ("finalizing", BatchStatus::Finalizing),
        ("COMPLETED", BatchStatus::Completed),
        ("failed", BatchStatus::Failed),
        ("expired", BatchStatus::Expired),
        ("cancelling", BatchStatus::Cancelling),
        ("canceling", BatchStatus::Cancelling),
        ("cancelled", BatchStatus::Cancelled),
        ("Canceled", BatchStatus::Cancelled),
        ("pre_schedule", BatchStatus::Unknown("pre_schedule".into())),
    ] {
        assert_eq!(seen(json!({"status": word})).unwrap().status, status);
    }
    assert!(
        !seen(json!({"status": "hibernating"}))
            .unwrap()
            .status
            .is_terminal()
    );
    assert!(
        seen(json!({"id": "batch_1"})).is_err(),
        "no state is no end"
    );
}

/// F-080, F-081, F-084: ids null, missing and empty are alike, and counts may be anything.
#[test]
fn absent_files_and_counts() {
    for batch in [
        json!({"status": "completed", "output_file_id": null, "error_file_id": "", "request_counts": null}),
        json!({"status": "completed", "request_counts": {}}),
        json!({"status": "completed", "output_file_id": "", "request_counts": "x"}),
    ] {
        let snapshot = seen(batch).unwrap();
        assert!(snapshot.files.is_empty() && snapshot.counts.is_none());
        assert!(snapshot.awaits_files());
    }
    let all_bad = seen(
        json!({"status": "completed", "output_file_id": null, "error_file_id": "file-E",
        "request_counts": {"total": 2, "completed": 0, "failed": 2}}),
    );
    assert_eq!(
        all_bad.unwrap().files,
        [ResultFile::new("file-E", "errors")]
    );
}

/// F-010, F-073, F-075.
#[test]
fn every_shape_of_a_batchs_errors() {
    let faults = |errors: Value| {
        seen(json!({"status": "failed", "errors": errors}))
            .unwrap()
            .faults
    };
    let fault = |code: Option<&str>, message: &str, line, param: Option<&str>| {
        InputFault::new(
            code.map(str::to_owned),
            message,
            line,
            param.map(str::to_owned),
        )
    };
    let entry =
        json!({"code": "duplicate_custom_id", "message": "twice", "param": "custom_id", "line": 3});
    let read = vec![fault(
        Some("duplicate_custom_id"),
        "twice",
        Some(3),
        Some("custom_id"),
    )];
    assert_eq!(faults(json!({"object": "list", "data": [entry]})), read);
    assert_eq!(faults(json!([entry])), read);
    assert_eq!(faults(json!("twice")), [fault(None, "twice", None, None)]);
    assert_eq!(faults(json!(["twice"])), [fault(None, "twice", None, None)]);
    for none in [
        Value::Null,
        json!([]),
        json!({}),
        json!({"data": null}),
        json!(7),
    ] {
        assert_eq!(faults(none.clone()), [], "{none}");
    }
    let full = json!({"status": "failed", "errors": {"data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]}});
    assert!(seen(full.clone()).unwrap().queue_full);
    let mut running = full;
    running["status"] = json!("in_progress");
    assert!(!seen(running).unwrap().queue_full);
}

#[test]
fn f_057_times_in_milliseconds() {
    let at = |created: Value| {
        seen(json!({"status": "failed", "created_at": created}))
            .unwrap()
            .created_at
    };
    let expected = Some(Timestamp::from_unix_seconds(1_763_800_000));
    assert_eq!(at(json!(1_763_800_000_u64)), expected);
    assert_eq!(at(json!(1_763_800_000_000_u64)), expected);
    assert_eq!(at(json!("soon")), None);
}

#[test]
fn a_form_wraps_the_lines_and_nothing_else() {
    let tag = SubmissionTag::new("job", 2, 1, "rnd").unwrap();
    let lines = SealedBody::Memory(Bytes::from_static(b"{}\n{}\n"));
    let batch = SealedBatch::new(lines, 6, 2, "/v1/responses", "m");
    let form = Upload::new(&tag, &OPENAI);
    assert_eq!(
        form.content_type(),
        "multipart/form-data; boundary=batchwright-bw1-job-2-1-rnd"
    );
    let Body::Bytes(body) = form.body(&batch) else {
        panic!("bytes")
    };
    assert_eq!(
        body,
        "--batchwright-bw1-job-2-1-rnd\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
         --batchwright-bw1-job-2-1-rnd\r\nContent-Disposition: form-data; name=\"file\"; filename=\"bw1-job-2-1-rnd.jsonl\"\r\n\
         Content-Type: application/jsonl\r\n\r\n{}\n{}\n\r\n--batchwright-bw1-job-2-1-rnd--\r\n"
    );
}

/// F-081: one id of two may show late too, whatever the end is.
#[test]
fn f_081_results_are_pending_while_a_counted_kind_has_no_file() {
    let pending = |status: &str, completed: u64, failed: u64, output: &str, errors: &str| {
        seen(json!({"status": status, "output_file_id": output, "error_file_id": errors,
            "request_counts": {"total": completed + failed, "completed": completed, "failed": failed}}))
        .unwrap()
        .awaits_files()
    };
    for status in ["completed", "expired", "cancelled"] {
        assert!(pending(status, 2, 1, "", ""), "{status}");
        assert!(pending(status, 2, 1, "file-O", ""), "{status}");
        assert!(pending(status, 2, 1, "", "file-E"), "{status}");
        assert!(!pending(status, 2, 1, "file-O", "file-E"), "{status}");
        assert!(!pending(status, 2, 0, "file-O", ""), "{status}");
        assert!(!pending(status, 0, 0, "", ""), "{status}");
    }
    assert!(!pending("failed", 0, 2, "", ""));
    assert!(!pending("finalizing", 2, 1, "", ""));
}

/// F-005, F-027: a batch that failed for the account is no row's fault.
#[test]
fn f_005_f_027_a_batch_failed_for_the_account_says_so() {
    let fault = |status: &str, code: &str| {
        seen(json!({"status": status, "errors": {"data": [{"code": code, "message": "m"}]}}))
            .unwrap()
            .account_fault
    };
    for (code, kind) in [
        ("billing_hard_limit_reached", Some(ErrorKind::QuotaExceeded)),
        ("insufficient_quota", Some(ErrorKind::QuotaExceeded)),
        ("team_spend_reached", Some(ErrorKind::QuotaExceeded)),
        ("model_not_found", Some(ErrorKind::NotFound)),
        ("request_forbidden", Some(ErrorKind::PermissionDenied)),
        ("invalid_json_line", None),
        ("token_limit_exceeded", None),
        ("", None),
    ] {
        assert_eq!(fault("failed", code), kind, "{code}");
    }
    assert_eq!(fault("completed", "insufficient_quota"), None);
}

/// F-010, F-076: a batch with results ran, and is not bought again because the queue was full at its end.
#[test]
fn f_010_f_076_a_failed_batch_with_results_is_no_full_queue() {
    let full = |output: Value| {
        seen(json!({"status": "failed", "output_file_id": output,
            "errors": {"data": [{"code": "token_limit_exceeded", "message": "m"}]}}))
        .unwrap()
        .queue_full
    };
    assert!(full(Value::Null));
    assert!(!full(json!("file-O")));
}
