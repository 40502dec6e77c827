//! Direct calls.

use std::time::Duration;

use batchwright_emulator::{Lane, Limits, prompt_hash};
use serde_json::{Value, json};

use crate::client::{START, chat, start, still};

const CHAT: &str = "/openai/v1/chat/completions";

#[tokio::test]
async fn a_chat_is_answered_billed_and_carries_the_vendors_headers() {
    let (emulator, client) = start(still()).await;
    let answer = client.post(CHAT, &chat("gpt-4o", "hello")).await;
    assert_eq!(answer.status, 200);
    for name in [
        "x-request-id",
        "openai-processing-ms",
        "openai-organization",
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-requests",
    ] {
        assert!(answer.header(name).is_some(), "{name}");
    }
    assert_eq!(answer.header("openai-version"), Some("2020-10-01"));
    let body = answer.json();
    assert_eq!(body["created"], START);
    let invoice = emulator.invoice().await.unwrap();
    assert_eq!(invoice.len(), 1);
    let line = &invoice[0];
    assert_eq!(line.lane, Lane::Realtime);
    assert_eq!(line.prompt_hash, prompt_hash(["hello"]));
    assert_eq!(line.model, "gpt-4o-2024-08-06");
    assert_eq!(
        Some(line.request_id.as_str()),
        answer.header("x-request-id")
    );
    assert_eq!(body["usage"]["completion_tokens"], line.output_tokens);
    assert!(!line.key.contains("sk-test"));
}

#[tokio::test]
async fn f_058_a_stream_ends_with_done() {
    let (_emulator, client) = start(still()).await;
    let mut body = chat("gpt-4o", "hello");
    body["stream"] = json!(true);
    let answer = client.post(CHAT, &body).await;
    assert!(answer.whole);
    assert_eq!(
        answer.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    let text = String::from_utf8(answer.body).unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"));
    assert!(text.contains(&prompt_hash(["hello"])));
}

#[tokio::test]
async fn f_061_and_f_063_markers_choose_the_outcome() {
    let (emulator, client) = start(still()).await;
    let ask = |text: &'static str| {
        let client = client.clone();
        async move { client.post(CHAT, &chat("gpt-4o", text)).await }
    };
    let refused = ask("[[refuse]]").await.json();
    assert!(refused["choices"][0]["message"]["refusal"].is_string());
    assert_eq!(refused["choices"][0]["message"]["content"], Value::Null);
    let cut = ask("[[length]]").await.json();
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    let billed = emulator.invoice().await.unwrap().len();
    for status in [400_u16, 401, 403, 404, 408, 409, 413, 429, 500, 503, 529] {
        let text: &'static str = Box::leak(format!("[[error:{status}]]").into_boxed_str());
        let answer = ask(text).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("retry-after").is_some(), status == 429);
    }
    assert_eq!(emulator.invoice().await.unwrap().len(), billed);
}

#[tokio::test]
async fn f_001_the_request_limit_answers_429_until_time_has_passed() {
    let limits = Limits::default().with_requests_per_minute(2);
    let (emulator, client) = start(still().with_limits(limits)).await;
    for remaining in ["1", "0"] {
        let answer = client.post(CHAT, &chat("gpt-4o", "x")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.header("x-ratelimit-remaining-requests"),
            Some(remaining)
        );
    }
    let refused = client.post(CHAT, &chat("gpt-4o", "x")).await;
    assert_eq!(
        refused.error(),
        (429, Value::Null, json!("rate_limit_exceeded"))
    );
    assert_eq!(refused.json()["error"]["type"], "requests");
    assert_eq!(refused.header("retry-after"), Some("30"));
    assert_eq!(emulator.invoice().await.unwrap().len(), 2);
    emulator.advance(Duration::from_secs(30)).await.unwrap();
    assert_eq!(client.post(CHAT, &chat("gpt-4o", "x")).await.status, 200);
}

#[tokio::test]
async fn f_002_a_request_too_large_for_the_limit_says_so() {
    let limits = Limits::default().with_tokens_per_minute(10);
    let (_emulator, client) = start(still().with_limits(limits)).await;
    let refused = client.post(CHAT, &chat("gpt-4o", &"x".repeat(41))).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("retry-after"), None);
    let message = refused.json()["error"]["message"].clone();
    let message = message.as_str().unwrap();
    assert!(message.starts_with("Request too large") && !message.contains("Used"));
}

#[tokio::test]
async fn f_004_open_requests_are_bounded_and_counted() {
    let limits = Limits::default().with_max_in_flight(1);
    let config = still()
        .with_limits(limits)
        .with_latency(Duration::from_secs(1));
    let (emulator, client) = start(config).await;
    let (one, two) = (chat("gpt-4o", "x"), chat("gpt-4o", "x"));
    let (one, two) = tokio::join!(client.post(CHAT, &one), client.post(CHAT, &two));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 429]);
    assert!(emulator.peak_in_flight() >= 2);
    let requests = client.get("/emulator/requests").await.json();
    assert_eq!(
        requests["calls"],
        json!([{"method": "POST", "path": CHAT, "count": 2}])
    );
    assert!(requests["connections"]["peak"].as_u64() >= Some(2));
}

#[tokio::test]
async fn structured_output_is_an_instance_of_its_schema() {
    let (_emulator, client) = start(still()).await;
    let mut body = chat("gpt-4o", "x");
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {
        "type": "object", "additionalProperties": false, "required": ["label", "why"],
        "properties": {"label": {"enum": ["good", "bad"]}, "why": {"type": "string"}}}}});
    let answer = client.post(CHAT, &body).await.json();
    let said = answer["choices"][0]["message"]["content"].as_str().unwrap();
    let said: Value = serde_json::from_str(said).unwrap();
    assert!(said["label"] == "good" || said["label"] == "bad");
    assert_eq!(said["why"], format!("[prompt:{}]", prompt_hash(["x"])));
}

#[tokio::test]
async fn short_limits_cut_the_text_but_not_the_hash() {
    let (_emulator, client) = start(still()).await;
    let mut body = chat("gpt-4o", "x");
    body["max_completion_tokens"] = json!(2);
    let answer = client.post(CHAT, &body).await.json();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 2);
    assert_eq!(
        answer["choices"][0]["message"]["content"],
        format!("[prompt:{}]", prompt_hash(["x"]))
    );
}

#[tokio::test]
async fn f_041_a_client_that_hangs_up_has_paid() {
    let config = still().with_latency(Duration::from_secs(3_600));
    let (emulator, client) = start(config).await;
    let body = chat("gpt-4o", "x");
    let call = client.post(CHAT, &body);
    let billed = async {
        while emulator.invoice().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = call => panic!("the answer is an hour away"),
        () = billed => {}
    }
    assert_eq!(emulator.invoice().await.unwrap().len(), 1);
}

#[tokio::test]
async fn models_are_listed_and_found() {
    let (_emulator, client) = start(still()).await;
    let list = client.get("/openai/v1/models").await.json();
    let listed = list["data"].as_array().unwrap();
    assert!(listed.iter().any(|model| model["id"] == "gpt-4.1-nano"));
    let model = client
        .get("/openai/v1/models/o4-mini-2025-04-16")
        .await
        .json();
    assert_eq!(model["object"], "model");
    let none = client.get("/openai/v1/models/gpt-0").await;
    assert_eq!(none.error(), (404, Value::Null, json!("model_not_found")));
}
