//! What only kluster.ai had: its odd objects against a mock server, its batches against the emulator.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use batchwright_core::{
    BatchHandle, BatchProvider, BatchStatus, CallOptions, ChatProvider, Ending, ErrorKind,
    InputRef, ListMark, Message, Part, Request, RetryClass, SealedBatch, SealedBody, SubmissionTag,
    Timestamp,
};
use batchwright_emulator::{Emulator, EmulatorConfig, Face, prompt_hash};
use batchwright_provider_kluster::{OpenAi, builder, from_env};
use serde_json::{Value, json};
use std::time::Duration;
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

const MODEL: &str = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo";
const OTHER: &str = "deepseek-ai/DeepSeek-V3-0324";
const HOUR: Duration = Duration::from_secs(3600);

fn tag() -> SubmissionTag {
    SubmissionTag::new("job1", 0, 1, "rnd1").unwrap()
}

fn chat(model: &str, text: &str) -> Request {
    Request::chat("row", model, [Message::user(text)])
}

async fn mocked(verb: &str, at: &str, status: u16, body: Value) -> (OpenAi, MockServer) {
    let server = MockServer::start().await;
    Mock::given(method(verb))
        .and(path(at))
        .respond_with(ResponseTemplate::new(status).set_body_json(body))
        .expect(1)
        .mount(&server)
        .await;
    let pairs = [
        ("KLUSTER_API_KEY", "key"),
        ("KLUSTER_BASE_URL", &server.uri()),
    ];
    (OpenAi::new(from_env(pairs).unwrap()).unwrap(), server)
}

fn handle() -> BatchHandle {
    BatchHandle::new("kluster", "b2", InputRef("f1".into()))
}

/// F-057: the list as it was documented, with a count no `f64` holds and times as texts.
#[tokio::test]
async fn f_057_the_documented_list() {
    let body = json!({"object": "list", "first_id": "b2", "last_id": "b1", "has_more": false, "count": 2, "page": 1,
        "page_count": -1, "items_per_page": 9_223_372_036_854_775_807_i64,
        "data": [{"id": "b2", "object": "batch", "endpoint": "/v1/chat/completions", "errors": null,
            "input_file_id": "f1", "completion_window": "48h", "status": "completed", "output_file_id": "f1-output",
            "error_file_id": null, "created_at": "1747000000", "expires_at": "1747172800",
            "completed_at": "1747000900", "request_counts": {"total": 4, "completed": 4, "failed": 0}, "metadata": {}}]});
    let (kluster, _server) = mocked("GET", "/v1/batches", 200, body).await;
    let listed = kluster.list_since(&ListMark::default()).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&*listed[0].handle.id, &*listed[0].handle.input.0),
        ("b2", "f1")
    );
    assert_eq!(
        listed[0].created_at,
        Some(Timestamp::from_unix_seconds(1_747_000_000))
    );
    assert_eq!((&listed[0].tag, listed[0].requests), (&None, Some(4)));
}

/// F-057, F-075, F-085, F-216: every word of the documentation and of the cookbook, in whatever form.
#[tokio::test]
async fn f_085_f_216_states_decide_and_nothing_else() {
    for (word, status) in [
        ("pre_schedule", BatchStatus::Validating),
        ("validating", BatchStatus::Validating),
        ("in_progress", BatchStatus::InProgress),
        ("finalizing", BatchStatus::Finalizing),
        ("canceling", BatchStatus::Cancelling),
        ("cancelling", BatchStatus::Cancelling),
        ("canceled", BatchStatus::Cancelled),
        ("failed", BatchStatus::Failed),
        ("expired", BatchStatus::Expired),
        ("completed", BatchStatus::Completed),
        ("paused", BatchStatus::Unknown("paused".to_owned())),
    ] {
        let body = json!({"id": "b2", "status": word, "output_file_id": "f1-output", "error_file_id": null,
            "created_at": "1747000000", "expires_at": "1747000000", "metadata": {},
            "errors": [{"code": "invalid_json_line", "message": "bad", "line": 3}]});
        let (kluster, _server) = mocked("GET", "/v1/batches/b2", 200, body).await;
        let snapshot = kluster.status(&handle()).await.unwrap();
        assert_eq!(snapshot.status, status, "{word}");
        assert_eq!(
            snapshot.created_at,
            Some(Timestamp::from_unix_seconds(1_747_000_000))
        );
        assert_eq!(snapshot.faults[0].line, Some(3));
    }
}

/// F-104: a row without an `error` key, with what vLLM adds; an empty list of calls is no call.
#[test]
fn f_104_the_documented_line() {
    let kluster = builder("key").build().unwrap();
    let line = json!({"id": "b2-1", "custom_id": "r-1", "response": {"status_code": 200, "request_id": "rq-1",
        "body": {"id": "chat-5d1f", "object": "chat.completion", "created": 1_747_000_500, "model": OTHER,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris.", "tool_calls": []},
                "logprobs": null, "finish_reason": "stop", "stop_reason": null}],
            "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}, "prompt_logprobs": null}}});
    let outcome = kluster.decode(line.to_string().as_bytes()).unwrap();
    let Ending::Succeeded(answer) = outcome.ending else {
        panic!("it is an answer")
    };
    assert!(matches!(&*answer.content, [Part::Text(text)] if text == "Paris."));
    assert_eq!(answer.usage.output_tokens, Some(3));
}

/// No error of its own is documented: they are read as OpenAI's.
#[tokio::test]
async fn errors_are_read_as_openais() {
    for (status, kind, class) in [
        (400, ErrorKind::InvalidRequest, RetryClass::RowFatal),
        (401, ErrorKind::Unauthenticated, RetryClass::JobStop),
        (402, ErrorKind::QuotaExceeded, RetryClass::JobStop),
        (403, ErrorKind::PermissionDenied, RetryClass::JobStop),
        (429, ErrorKind::RateLimited, RetryClass::Rejected),
        (500, ErrorKind::ProviderFault, RetryClass::Ambiguous),
    ] {
        let body = json!({"error": {"message": "no", "type": "", "param": null, "code": null}});
        let (kluster, _server) = mocked("POST", "/v1/chat/completions", status, body).await;
        let call = CallOptions::default();
        let error = kluster
            .complete(&chat(MODEL, "x"), &call)
            .await
            .unwrap_err();
        assert_eq!((error.kind(), error.class()), (kind, class), "{status}");
        assert_eq!(error.provider(), Some("kluster"));
    }
}

/// F-219: where the service is gone nothing is taken for an end.
#[tokio::test]
async fn f_219_a_withdrawn_service() {
    let gone = json!({"message": "no Route matched with those values"});
    let (kluster, _server) = mocked("GET", "/v1/batches/b2", 404, gone).await;
    let error = kluster.status(&handle()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// Metadata could queue a direct call, and a stand-in would be taken for the answer.
#[tokio::test]
async fn what_would_queue_a_call_is_refused() {
    let kluster = builder("key").build().unwrap();
    let mut request = chat(MODEL, "x");
    let queue = json!({"@kluster.ai": {"async": true, "completion_window": "24h"}});
    request.extra.insert("metadata".to_owned(), queue);
    let error = kluster
        .complete(&request, &CallOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn windows_are_three() {
    for (window, hours) in [("24h", 24), ("48h", 48), ("72h", 72)] {
        let kluster = builder("key").completion_window(window).build().unwrap();
        let limits = BatchProvider::capability(&kluster).batch.as_ref().unwrap();
        assert_eq!((limits.windows[0], limits.windows.len()), (hours * HOUR, 3));
        assert_eq!(limits.discount_percent, None);
    }
    for window in ["1h", "2d", "7d", ""] {
        let error = builder("key")
            .completion_window(window)
            .build()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{window}");
    }
}

/// Two models in one file, the longest window, and an output's id that is shown before there is one (F-216).
#[tokio::test]
async fn f_216_a_batch_of_two_models() {
    let config = EmulatorConfig::default().with_time_scale(0.0);
    let emulator = Emulator::start(config).await.unwrap();
    let kluster = builder("key")
        .base_url(emulator.base_url(Face::Kluster))
        .completion_window("72h")
        .build()
        .unwrap();
    let mut lines = Vec::new();
    for (id, model) in [("a", MODEL), ("b", OTHER)] {
        kluster.encode(&chat(model, id), id, &mut lines).unwrap();
        lines.push(b'\n');
    }
    let bytes = lines.len() as u64;
    let batch = SealedBatch::new(
        SealedBody::Memory(lines.into()),
        bytes,
        2,
        "/v1/chat/completions",
        MODEL,
    );
    let input = kluster.upload(&batch, &tag()).await.unwrap();
    let handle = kluster.submit(&batch, &input, &tag()).await.unwrap();
    let early = kluster.status(&handle).await.unwrap();
    assert!(!early.status.is_terminal());
    emulator.advance(HOUR).await.unwrap();
    let snapshot = kluster.status(&handle).await.unwrap();
    assert_eq!(snapshot.status, BatchStatus::Completed);
    assert!(snapshot.created_at.is_some() && snapshot.ended_at.is_some());
    let output = &snapshot.files[0];
    assert!(output.id.ends_with("-output"), "{}", output.id);
    let mut stream = kluster.download(output, 0).await.unwrap();
    let mut text = String::new();
    while let Some(piece) = futures::StreamExt::next(&mut stream).await {
        text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
    }
    for id in ["a", "b"] {
        assert!(text.contains(&prompt_hash([id])));
    }
    let listed = kluster.list_since(&ListMark::default()).await.unwrap();
    assert_eq!(listed[0].tag, Some(tag()));
}
