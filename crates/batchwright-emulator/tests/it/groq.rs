//! The Groq face, where it differs from OpenAI's.

use std::time::Duration;

use batchwright_emulator::{Face, Limits};
use serde_json::{Value, json};

use crate::client::{Client, START, chat, ids, line_for, quick_pace, start, still};

const SMALL: &str = "llama-3.1-8b-instant";
const LARGE: &str = "openai/gpt-oss-120b";

fn body(file: &str, window: &str) -> Value {
    let mut body = Client::batch_body(file);
    body["completion_window"] = json!(window);
    body
}

#[tokio::test]
async fn answers_have_groqs_shape() {
    let (emulator, client) = start(still()).await;
    let client = client.at(Face::Groq);
    let path = client.path("/chat/completions");
    let answer = client.post(&path, &chat(LARGE, "Hi")).await;
    assert_eq!(answer.status, 200);
    let json = answer.json();
    let id = json["id"].as_str().unwrap();
    assert_eq!(id.len(), "chatcmpl-".len() + 36);
    assert!(json["x_groq"]["id"].as_str().unwrap().starts_with("req_01"));
    assert_eq!(json["service_tier"], "on_demand");
    assert!(json["usage"]["total_time"].is_f64());
    let message = json["choices"][0]["message"].as_object().unwrap();
    assert!(!message.contains_key("refusal"));
    assert!(message["reasoning"].is_string());

    let line = &emulator.invoice().await.unwrap()[0];
    assert_eq!((line.face.as_str(), line.model.as_str()), ("groq", LARGE));

    let refused = client.post(&path, &chat(SMALL, "[[refuse]]")).await.json();
    assert!(refused["choices"][0]["message"]["content"].is_string());
    let filtered = client.post(&path, &chat(SMALL, "[[filter]]")).await.json();
    assert_eq!(filtered["choices"][0]["finish_reason"], "stop");

    let mut forced = chat(SMALL, "x");
    forced["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    forced["tool_choice"] = json!("required");
    let called = client.post(&path, &forced).await.json();
    let message = called["choices"][0]["message"].as_object().unwrap();
    assert!(!message.contains_key("content"));
    assert_eq!(message["tool_calls"][0]["function"]["name"], "f");

    let mut body = chat(LARGE, "x");
    body["reasoning_format"] = json!("hidden");
    body["temperature"] = json!(0.2);
    assert_eq!(client.post(&path, &body).await.status, 200);
    body["n"] = json!(2);
    assert_eq!(client.post(&path, &body).await.status, 400);
    body["n"] = json!(1);
    body["colour"] = json!(1);
    assert_eq!(client.post(&path, &body).await.status, 400);
    assert_eq!(client.get(&client.path("/embeddings")).await.status, 404);
}

#[tokio::test]
async fn f_055_errors_have_no_param_and_flex_fails_with_498() {
    let (_emulator, client) = start(still()).await;
    let client = client.at(Face::Groq);
    let path = client.path("/chat/completions");
    let unknown = client.post(&path, &chat("x", "Hi")).await;
    assert_eq!(unknown.status, 404);
    let error = unknown.json()["error"].clone();
    assert_eq!(error["code"], "model_not_found");
    assert!(!error.as_object().unwrap().contains_key("param"));

    let mut flex = chat(SMALL, "Hi");
    flex["service_tier"] = json!("flex");
    assert_eq!(
        client.post(&path, &flex).await.json()["service_tier"],
        "flex"
    );
    let set = client
        .post("/emulator/faces/groq", &json!({"no_flex_capacity": true}))
        .await;
    assert_eq!(set.json()["no_flex_capacity"], true);
    let full = client.post(&path, &flex).await;
    assert_eq!(full.status, 498);
    assert_eq!(full.json()["error"]["code"], "capacity_exceeded");
    assert_eq!(client.post(&path, &chat(SMALL, "Hi")).await.status, 200);
}

#[tokio::test]
async fn f_001_f_002_and_f_003_headers_count_requests_by_the_day_and_tokens_by_the_minute() {
    let limits = Limits::default()
        .with_requests_per_day(2)
        .with_tokens_per_minute(100);
    let (_emulator, client) = start(still().with_limits(limits)).await;
    let client = client.at(Face::Groq);
    let path = client.path("/chat/completions");
    let large = client.post(&path, &chat(SMALL, &"x".repeat(1_000))).await;
    assert_eq!(large.status, 413);
    assert_eq!(large.header("retry-after"), None);
    let first = client.post(&path, &chat(SMALL, "Hi")).await;
    assert_eq!(first.header("x-ratelimit-limit-requests"), Some("2"));
    assert_eq!(first.header("x-ratelimit-remaining-requests"), Some("1"));
    assert_eq!(first.header("x-ratelimit-limit-tokens"), Some("100"));
    assert_eq!(first.header("retry-after"), None);
    assert_eq!(client.post(&path, &chat(SMALL, "Hi")).await.status, 200);
    let third = client.post(&path, &chat(SMALL, "Hi")).await;
    assert_eq!(third.status, 429);
    assert!(third.header("retry-after").is_some());
    assert_eq!(third.header("retry-after-ms"), None);
    assert_eq!(third.json()["error"]["type"], "requests");
}

#[tokio::test]
async fn f_075_a_bad_line_fails_alone_and_is_shown_among_the_errors() {
    let (emulator, client) = start(still().with_pace(quick_pace())).await;
    let client = client.at(Face::Groq);
    let mut bad: Value = serde_json::from_str(&line_for(SMALL, "r-bad", "x")).unwrap();
    bad["method"] = json!("GET");
    let file = client
        .input(&[
            line_for(SMALL, "r-1", "one"),
            line_for(LARGE, "r-2", "two"),
            bad.to_string(),
        ])
        .await;
    assert!(file.starts_with("file_01"));
    let seen = client
        .get(&client.path(&format!("/files/{file}")))
        .await
        .json();
    assert!(!seen.as_object().unwrap().contains_key("status"));

    let created = client
        .post(&client.path("/batches"), &body(&file, "7d"))
        .await;
    let created = created.json();
    assert_eq!(created["completion_window"], "7d");
    assert_eq!(created["expires_at"], START + 7 * 86_400);
    assert!(!created.as_object().unwrap().contains_key("usage"));
    let id = created["id"].as_str().unwrap();
    assert!(id.starts_with("batch_01"));
    emulator.advance(Duration::from_secs(60)).await.unwrap();
    let done = client.see(id).await;
    assert_eq!(done["status"], "completed");
    assert_eq!(done["errors"][0]["code"], "invalid_method");
    assert_eq!(done["errors"][0]["line"], 3);
    assert_eq!(
        done["request_counts"],
        json!({"total": 3, "completed": 2, "failed": 1})
    );
    let output = client.lines(&done["output_file_id"]).await;
    assert_eq!(ids(&output).len(), 2);
    assert!(output[0]["response"]["body"]["x_groq"]["id"].is_string());
    let failed = client.lines(&done["error_file_id"]).await;
    assert_eq!(failed[0]["custom_id"], "r-bad");
    assert_eq!(failed[0]["error"]["code"], "invalid_method");
    assert_eq!(emulator.invoice().await.unwrap().len(), 2);
    for window in ["23h", "8d", "24"] {
        let refused = client
            .post(&client.path("/batches"), &body(&file, window))
            .await;
        assert_eq!(refused.status, 400, "{window}");
    }
}

#[tokio::test]
async fn f_116_lists_are_paged_by_cursor_or_asked_by_id() {
    let (_emulator, client) = start(still()).await;
    let client = client.at(Face::Groq);
    let set = json!({"page": 2});
    assert_eq!(client.post("/emulator/faces/groq", &set).await.status, 200);
    let file = client.input(&[line_for(SMALL, "r-1", "one")]).await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(client.batch(&file).await);
    }
    let mut seen = Vec::new();
    let mut path = client.path("/batches");
    loop {
        let page = client.get(&path).await.json();
        let data = page["data"].as_array().unwrap();
        assert!(data.len() <= 2);
        seen.extend(
            data.iter()
                .map(|batch| batch["id"].as_str().unwrap().to_owned()),
        );
        assert!(!page.as_object().unwrap().contains_key("has_more"));
        match page["paging"]["next_cursor"].as_str() {
            Some(cursor) => path = client.path(&format!("/batches?cursor={cursor}")),
            None => break,
        }
    }
    made.reverse();
    assert_eq!(seen, made);
    let some = format!("/batches?id={}&id={}&id={}", made[0], made[3], made[4]);
    let named = client.get(&client.path(&some)).await.json();
    assert_eq!(named["data"].as_array().unwrap().len(), 3);
    let openai = client.at(Face::OpenAi);
    let none = openai.get("/openai/v1/batches").await.json();
    assert_eq!(
        none["data"],
        json!([]),
        "faces do not see each other's batches"
    );
}
