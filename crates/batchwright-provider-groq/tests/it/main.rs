//! What only Groq has: its errors against a mock server, its batches against the emulator.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use batchwright_core::{
    BatchProvider, BatchStatus, CallOptions, ChatProvider, Ending, ErrorKind, InputRef, Lane,
    ListMark, Message, Part, PriceTable, Request, RetryClass, Sampling, SealedBatch, SealedBody,
    SubmissionTag, SubmitError, Usage,
};
use batchwright_emulator::{Emulator, EmulatorConfig, Face, prompt_hash};
use batchwright_provider_groq::{GROQ, OpenAi, builder, from_env};
use futures::StreamExt;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

const SMALL: &str = "llama-3.1-8b-instant";
const LARGE: &str = "openai/gpt-oss-120b";
const HOUR: Duration = Duration::from_secs(3600);

fn chat(model: &str, text: &str) -> Request {
    Request::chat("row", model, [Message::user(text)])
}

fn tag(chunk: u32) -> SubmissionTag {
    SubmissionTag::new("job1", chunk, 1, "rnd1").unwrap()
}

fn sealed(lines: Vec<u8>, rows: u64) -> SealedBatch {
    let bytes = lines.len() as u64;
    let body = SealedBody::Memory(lines.into());
    SealedBatch::new(body, bytes, rows, "/v1/chat/completions", SMALL)
}

async fn answered(reply: ResponseTemplate) -> batchwright_core::Result<batchwright_core::Response> {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/openai/v1/chat/completions"))
        .and(header("authorization", "Bearer gsk_test"))
        .respond_with(reply)
        .expect(1)
        .mount(&server)
        .await;
    let pairs = [
        ("GROQ_API_KEY", "gsk_test"),
        ("GROQ_BASE_URL", &server.uri()),
    ];
    let groq = OpenAi::new(from_env(pairs)?)?;
    groq.complete(&chat(SMALL, "x"), &CallOptions::default())
        .await
}

/// One row for each row of the vendor's table; F-002, F-026, F-055: `param` is absent.
#[tokio::test]
async fn every_row_of_the_vendors_table() {
    use ErrorKind::{
        ContextTooLong, InvalidRequest, NotFound, Overloaded, PermissionDenied, ProviderFault,
        QuotaExceeded, RateLimited, Unauthenticated,
    };
    use RetryClass::{Ambiguous, JobStop, Rejected, RowFatal};
    let invalid = "invalid_request_error";
    let slow = "Rate limit reached for model `m` in organization `o` service tier `on_demand` on tokens per \
                minute (TPM): Limit 8000, Used 7600, Requested 900. Please try again in 3.75s.";
    let large = "Request too large for model `m` in organization `o`: Limit 8000, Requested 9000.";
    let tool = "Tool call validation failed: parameters for tool f did not match schema";
    #[rustfmt::skip]
    let table = [
        (400, "", invalid, "bad", InvalidRequest, RowFatal),
        (400, "context_length_exceeded", invalid, "long", ContextTooLong, RowFatal),
        (400, "tool_use_failed", invalid, tool, ProviderFault, Ambiguous),
        (400, "json_validate_failed", invalid, "not JSON", ProviderFault, Ambiguous),
        (400, "blocked_api_access", invalid, "spend limit reached", QuotaExceeded, JobStop),
        (400, "organization_restricted", invalid, "Organization has been restricted.", PermissionDenied, JobStop),
        (401, "invalid_api_key", invalid, "no", Unauthenticated, JobStop),
        (401, "", "", "no", Unauthenticated, JobStop),
        (403, "", "permissions_error", "blocked", PermissionDenied, JobStop),
        (404, "model_not_found", invalid, "The model `x` does not exist or you do not have access to it.", NotFound, JobStop),
        (413, "", invalid, "Request Entity Too Large", InvalidRequest, RowFatal),
        (413, "rate_limit_exceeded", "tokens", large, InvalidRequest, RowFatal),
        (422, "", invalid, "not processable", ProviderFault, Ambiguous),
        (424, "", invalid, "the tool failed", InvalidRequest, RowFatal),
        (429, "rate_limit_exceeded", "tokens", slow, RateLimited, Rejected),
        (429, "rate_limit_exceeded", "requests", slow, RateLimited, Rejected),
        (429, "rate_limit_exceeded", "tokens", large, InvalidRequest, RowFatal),
        (498, "capacity_exceeded", "", "no capacity", Overloaded, Rejected),
        (498, "", "", "no capacity", Overloaded, Rejected),
        (500, "", "internal_server_error", "oh", ProviderFault, Ambiguous),
        (502, "", "", "oh", ProviderFault, Ambiguous),
        (503, "", "service_unavailable", "oh", Overloaded, Rejected),
    ];
    for (status, code, r#type, message, kind, class) in table {
        let mut error = json!({"message": message});
        for (key, word) in [("code", code), ("type", r#type)] {
            if !word.is_empty() {
                error[key] = json!(word);
            }
        }
        let body = json!({"error": error});
        let reply = ResponseTemplate::new(status)
            .set_body_json(&body)
            .insert_header("retry-after", "3");
        let error = answered(reply).await.unwrap_err();
        let row = format!("{status} {code}: {error}");
        assert_eq!((error.kind(), error.class()), (kind, class), "{row}");
        assert_eq!(
            (error.status(), error.provider()),
            (Some(status), Some("groq"))
        );
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3)), "{row}");
    }
    let half = ResponseTemplate::new(206).set_body_json(json!({"choices": []}));
    assert!(answered(half).await.unwrap_err().is_ambiguous());
}

/// F-003: the headers tell a day's requests and a minute's tokens, and resets as Go prints them.
#[tokio::test]
async fn f_003_an_answer_with_all_that_groq_adds() {
    let body = json!({"id": "chatcmpl-b0", "object": "chat.completion", "model": LARGE,
        "choices": [{"index": 0, "logprobs": null, "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Paris.", "reasoning": "Capital of France."}}],
        "usage": {"queue_time": 0.081, "prompt_tokens": 84, "prompt_time": 0.003, "completion_tokens": 17,
            "completion_time": 0.036, "total_tokens": 101, "total_time": 0.039,
            "prompt_tokens_details": null, "completion_tokens_details": {"reasoning_tokens": 5}},
        "usage_breakdown": null, "service_tier": "on_demand",
        "x_groq": {"id": "req_01k9", "seed": 7, "usage": {"dram_cached_tokens": 40, "sram_cached_tokens": 2}}});
    let reply = |body: &Value| {
        ResponseTemplate::new(200)
            .set_body_json(body)
            .insert_header("x-ratelimit-limit-requests", "14400")
            .insert_header("x-ratelimit-reset-requests", "2m59.56s")
            .insert_header("x-ratelimit-reset-tokens", "577.5ms")
    };
    let answer = answered(reply(&body)).await.unwrap();
    assert_eq!(answer.text(), "Paris.");
    let usage = answer.usage;
    assert_eq!(
        (usage.input_tokens, usage.output_tokens),
        (Some(84), Some(17))
    );
    assert_eq!(usage.reasoning_tokens, Some(5));
    assert_eq!(usage.cache_read_input_tokens, Some(42), "of both memories");
    assert_eq!(answer.request_id.as_deref(), Some("req_01k9"));
    let limit = answer.rate_limit.unwrap();
    assert_eq!(limit.limit_requests, Some(14_400));
    assert_eq!(limit.reset_requests, Some(Duration::from_millis(179_560)));
    assert_eq!(limit.reset_tokens, Some(Duration::from_micros(577_500)));

    let mut said = body;
    said["usage"]["prompt_tokens_details"] = json!({"cached_tokens": 9});
    let answer = answered(reply(&said).insert_header("x-request-id", "req_h"))
        .await
        .unwrap();
    assert_eq!(
        answer.usage.cache_read_input_tokens,
        Some(9),
        "what is said counts"
    );
    assert_eq!(answer.request_id.as_deref(), Some("req_h"));
    said["usage"] = Value::Null;
    said["x_groq"] = json!({"id": "req_2"});
    assert!(answered(reply(&said)).await.unwrap().usage.is_unknown());
}

/// The key of the content is not there at all beside tool calls.
#[tokio::test]
async fn a_tool_call_without_a_content_key() {
    let body = json!({"choices": [{"finish_reason": "tool_calls", "message": {"role": "assistant",
        "tool_calls": [{"id": "fc_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}}]});
    let answer = answered(ResponseTemplate::new(200).set_body_json(body))
        .await
        .unwrap();
    assert!(matches!(&*answer.content, [Part::ToolCall(call)] if call.name == "f"));
}

#[tokio::test]
async fn what_groq_does_not_take_is_refused_before_anything_is_sent() {
    let groq = builder("gsk_test")
        .base_url("http://127.0.0.1:1/openai/v1")
        .build()
        .unwrap();
    let mut requests = Vec::new();
    for field in [
        "n",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "metadata",
        "store",
    ] {
        let mut request = chat(SMALL, "x");
        request.extra.insert(field.to_owned(), json!(2));
        requests.push(request);
    }
    for sampling in [
        Sampling::default().with_frequency_penalty(0.5).unwrap(),
        Sampling::default().with_presence_penalty(0.5).unwrap(),
    ] {
        let mut request = chat(SMALL, "x");
        request.sampling = sampling;
        requests.push(request);
    }
    for request in requests {
        let error = groq
            .complete(&request, &CallOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(groq.encode(&request, "p-1", &mut Vec::new()).is_err());
    }
}

#[test]
fn windows_from_a_day_to_a_week() {
    for (window, hours) in [("24h", 24), ("48h", 48), ("3d", 72), ("7d", 168)] {
        let groq = builder("gsk_test")
            .completion_window(window)
            .build()
            .unwrap();
        let limits = BatchProvider::capability(&groq).batch.as_ref().unwrap();
        assert_eq!(
            limits.windows[0],
            hours * HOUR,
            "the one that is taken stands first"
        );
        assert_eq!(
            limits.windows.len(),
            if matches!(hours, 24 | 168) { 2 } else { 3 }
        );
    }
    for window in ["1h", "23h", "8d", "week", ""] {
        let error = builder("gsk_test")
            .completion_window(window)
            .build()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{window}");
    }
}

#[test]
fn limits_and_prices_are_data_with_a_date() {
    let groq = builder("gsk_test").build().unwrap();
    let capability = BatchProvider::capability(&groq);
    assert!(capability.source.ends_with("2026-11-22"));
    let limits = capability.batch.as_ref().unwrap();
    assert!(limits.max_requests == 50_000 && limits.max_bytes < 100_000_000 && !limits.one_model);
    assert_eq!(limits.discount_percent, Some(50));
    let prices = PriceTable::builtin();
    let price = prices.price(GROQ.name, LARGE).unwrap();
    let mut usage = Usage::of(1000, 100);
    let cost = |usage: &Usage, lane| price.cost(usage, lane).unwrap().as_picodollars();
    assert_eq!(cost(&usage, Lane::Realtime), 2 * cost(&usage, Lane::Batch));
    usage.cache_read_input_tokens = Some(1000);
    assert_eq!(
        cost(&usage, Lane::Batch),
        cost(&Usage::of(1000, 100), Lane::Batch),
        "the discounts do not add up"
    );
}

struct World {
    emulator: Emulator,
    groq: OpenAi,
}

impl World {
    async fn new(options: Value, window: &str) -> Self {
        let config = EmulatorConfig::default()
            .with_time_scale(0.0)
            .with_face_options(Face::Groq, options);
        let emulator = Emulator::start(config).await.unwrap();
        let groq = builder("gsk_test")
            .base_url(emulator.base_url(Face::Groq))
            .completion_window(window)
            .build()
            .unwrap();
        Self { emulator, groq }
    }

    fn lines(&self, requests: &[(&str, Request)]) -> Vec<u8> {
        let mut lines = Vec::new();
        for (id, request) in requests {
            self.groq.encode(request, id, &mut lines).unwrap();
            lines.push(b'\n');
        }
        lines
    }

    async fn endings(
        &self,
        snapshot: &batchwright_core::BatchSnapshot,
    ) -> BTreeMap<String, Ending> {
        let mut endings = BTreeMap::new();
        for file in &snapshot.files {
            let mut stream = self.groq.download(file, 0).await.unwrap();
            let mut bytes = Vec::new();
            while let Some(piece) = stream.next().await {
                bytes.extend_from_slice(&piece.unwrap());
            }
            for line in bytes
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
            {
                let outcome = self.groq.decode(line).unwrap();
                endings.insert(outcome.custom_id, outcome.ending);
            }
        }
        endings
    }
}

/// F-073, F-075: models mixed in one file; a bad line is a failed row, and a bare list of errors on a completed batch.
#[tokio::test]
async fn f_073_f_075_a_bad_line_fails_alone() {
    let world = World::new(json!({}), "24h").await;
    let mut lines = world.lines(&[("a", chat(SMALL, "one")), ("b", chat(LARGE, "two"))]);
    lines.extend_from_slice(
        br#"{"custom_id":"c","method":"GET","url":"/v1/chat/completions","body":{"model":"llama-3.1-8b-instant","messages":[]}}"#,
    );
    lines.push(b'\n');
    let batch = sealed(lines, 3);
    let input = world.groq.upload(&batch, &tag(0)).await.unwrap();
    assert!(input.0.starts_with("file_01"));
    let handle = world.groq.submit(&batch, &input, &tag(0)).await.unwrap();
    world.emulator.advance(HOUR).await.unwrap();
    let snapshot = world.groq.status(&handle).await.unwrap();
    assert_eq!(snapshot.status, BatchStatus::Completed);
    assert_eq!(
        (snapshot.faults.len(), snapshot.faults[0].line),
        (1, Some(3))
    );
    let endings = world.endings(&snapshot).await;
    for (id, text) in [("a", "one"), ("b", "two")] {
        let answer = matches!(&endings[id], Ending::Succeeded(it) if it.text().contains(&prompt_hash([text])));
        assert!(answer, "{id}");
    }
    let counts = snapshot.counts.unwrap();
    assert_eq!((counts.completed, counts.failed), (2, 1));
}

/// F-076: the window that was asked for is the one that holds.
#[tokio::test]
async fn a_week_is_a_week() {
    for (window, hours) in [("24h", 24), ("7d", 168)] {
        let world = World::new(json!({}), window).await;
        let rule = batchwright_emulator::FaultRule::on("POST", "/groq/openai/v1/batches").times(1);
        let long = batchwright_emulator::FaultAction::ExpireAfterRows(1);
        world.emulator.add_faults(vec![rule.action(long)]);
        let batch = sealed(
            world.lines(&[("a", chat(SMALL, "one")), ("b", chat(SMALL, "two"))]),
            2,
        );
        let input = world.groq.upload(&batch, &tag(0)).await.unwrap();
        let handle = world.groq.submit(&batch, &input, &tag(0)).await.unwrap();
        world.emulator.advance((hours - 1) * HOUR).await.unwrap();
        let before = world.groq.status(&handle).await.unwrap();
        assert!(
            !before.status.is_terminal(),
            "{window}: {:?}",
            before.status
        );
        world.emulator.advance(2 * HOUR).await.unwrap();
        let after = world.groq.status(&handle).await.unwrap();
        assert_eq!(after.status, BatchStatus::Expired, "{window}");
        let endings = world.endings(&after).await;
        assert_eq!(
            endings
                .values()
                .filter(|it| matches!(it, Ending::Succeeded(_)))
                .count(),
            1
        );
        assert_eq!(
            endings
                .values()
                .filter(|it| matches!(it, Ending::Expired))
                .count(),
            1
        );
    }
}

/// F-116: small pages, each with the cursor of the next.
#[tokio::test]
async fn f_116_the_list_goes_on_by_cursor() {
    let world = World::new(json!({"page": 2}), "24h").await;
    let batch = sealed(world.lines(&[("a", chat(SMALL, "one"))]), 1);
    let mut made = Vec::new();
    for chunk in 0..5 {
        let input = world.groq.upload(&batch, &tag(chunk)).await.unwrap();
        made.push(
            world
                .groq
                .submit(&batch, &input, &tag(chunk))
                .await
                .unwrap()
                .id,
        );
    }
    let listed = world.groq.list_since(&ListMark::default()).await.unwrap();
    let mut ids: Vec<_> = listed.iter().map(|it| it.handle.id.clone()).collect();
    ids.sort();
    made.sort();
    assert_eq!(ids, made);
    assert!(
        listed
            .iter()
            .all(|it| it.tag.is_some() && !it.handle.input.0.is_empty())
    );
}

/// F-116: a list that goes on without a cursor proves no absence, after which a chunk would be bought again.
#[tokio::test]
async fn f_116_a_list_that_goes_on_nowhere_is_no_whole_list() {
    for (body, whole) in [
        (json!({"data": []}), true),
        (json!({"data": [], "has_more": false}), true),
        (
            json!({"data": [{"id": "batch_01", "status": "completed"}], "has_more": true}),
            false,
        ),
    ] {
        let server = MockServer::start().await;
        Mock::given(path("/openai/v1/batches"))
            .respond_with(ResponseTemplate::new(200).set_body_json(&body))
            .mount(&server)
            .await;
        let pairs = [
            ("GROQ_API_KEY", "gsk_test"),
            ("GROQ_BASE_URL", &server.uri()),
        ];
        let groq = OpenAi::new(from_env(pairs).unwrap()).unwrap();
        let listed = groq.list_since(&ListMark::default()).await;
        assert_eq!(listed.is_ok(), whole, "{body}");
    }
}

/// F-026: no flex capacity is said at once and by a status of its own; nothing is billed.
#[tokio::test]
async fn f_026_flex_without_capacity() {
    let world = World::new(json!({"no_flex_capacity": true}), "24h").await;
    let mut request = chat(SMALL, "x");
    request
        .extra
        .insert("service_tier".to_owned(), json!("flex"));
    let error = world
        .groq
        .complete(&request, &CallOptions::default())
        .await
        .unwrap_err();
    assert_eq!(
        (error.status(), error.class()),
        (Some(498), RetryClass::Rejected)
    );
    assert!(world.emulator.invoice().await.unwrap().is_empty());
}

/// A create that is refused in words bought nothing, also with a status that is unclear of a row.
#[tokio::test]
async fn a_refused_create_is_told_in_words() {
    for (status, class) in [(400, RetryClass::RowFatal), (422, RetryClass::Rejected)] {
        let server = MockServer::start().await;
        let body = json!({"error": {"message": "completion_window must be 24h to 7d", "type": "invalid_request_error"}});
        Mock::given(path("/openai/v1/batches"))
            .respond_with(ResponseTemplate::new(status).set_body_json(body))
            .expect(1)
            .mount(&server)
            .await;
        let groq = builder("gsk_test")
            .base_url(format!("{}/openai/v1", server.uri()))
            .build()
            .unwrap();
        let batch = sealed(b"{}\n".to_vec(), 1);
        let error = groq
            .submit(&batch, &InputRef("f".into()), &tag(0))
            .await
            .unwrap_err();
        let SubmitError::Refused(error) = error else {
            panic!("{error}")
        };
        assert_eq!(error.class(), class);
    }
}
