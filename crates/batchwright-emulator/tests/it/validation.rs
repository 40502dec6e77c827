//! What makes a batch fail, and what makes a creation fail.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Client, chat, line, start, still};

fn changed(change: impl FnOnce(&mut Value)) -> String {
    let mut line: Value = serde_json::from_str(&line("b", "x")).unwrap();
    change(&mut line);
    line.to_string()
}

#[tokio::test]
async fn f_073_every_validation_error_has_its_code_param_and_line() {
    let (emulator, client) = start(still()).await;
    let good = line("a", "x");
    let dropped = |key: &'static str| {
        changed(move |line| {
            line.as_object_mut().unwrap().remove(key);
        })
    };
    let model = |model: &'static str| changed(move |line| line["body"]["model"] = json!(model));
    let cases: Vec<(Vec<String>, &str, Value, Value)> = vec![
        (
            vec![good.clone(), "{oops".to_owned()],
            "invalid_json_line",
            Value::Null,
            json!(2),
        ),
        (
            vec![good.clone(), good.clone()],
            "duplicate_custom_id",
            json!("custom_id"),
            json!(2),
        ),
        (
            vec![dropped("custom_id")],
            "missing_required_parameter",
            json!("custom_id"),
            json!(1),
        ),
        (
            vec![good.clone(), dropped("body")],
            "missing_required_parameter",
            json!("body"),
            json!(2),
        ),
        (
            vec![dropped("method")],
            "missing_required_parameter",
            json!("method"),
            json!(1),
        ),
        (
            vec![good.clone(), model("gpt-4o")],
            "mismatched_model",
            json!("body.model"),
            json!(2),
        ),
        (
            vec![model("gpt-0")],
            "model_not_found",
            json!("body.model"),
            json!(1),
        ),
        (
            vec![model("text-embedding-3-small")],
            "model_not_found",
            json!("body.model"),
            json!(1),
        ),
        (
            vec![
                good.clone(),
                changed(|line| {
                    line["body"].as_object_mut().unwrap().remove("model");
                }),
            ],
            "invalid_request",
            json!("body.model"),
            json!(2),
        ),
        (
            vec![changed(|line| line["url"] = json!("/v1/embeddings"))],
            "invalid_url",
            json!("url"),
            json!(1),
        ),
        (
            vec![changed(|line| line["body"]["stream"] = json!(true))],
            "streaming_unsupported",
            json!("body.stream"),
            json!(1),
        ),
        (
            vec![changed(|line| line["method"] = json!("GET"))],
            "invalid_method",
            json!("method"),
            json!(1),
        ),
        (vec![], "empty_file", Value::Null, Value::Null),
    ];
    for (lines, code, param, number) in cases {
        // F-074: whatever the content, the upload is fine.
        let id = client.batch(&client.input(&lines).await).await;
        emulator.advance(Duration::from_secs(600)).await.unwrap();
        let seen = client.see(&id).await;
        assert_eq!(seen["status"], "failed", "{code}");
        assert!(seen["failed_at"].is_i64());
        assert_eq!(seen["errors"]["object"], "list");
        let error = &seen["errors"]["data"][0];
        assert_eq!(error["code"], code);
        assert_eq!(error["param"], param, "{code}");
        assert_eq!(error["line"], number, "{code}");
        assert_eq!(seen["output_file_id"], Value::Null);
        assert_eq!(seen["error_file_id"], Value::Null);
    }
    assert!(emulator.invoice().await.unwrap().is_empty());
}

#[tokio::test]
async fn too_many_rows_fail_the_batch() {
    let (emulator, client) = start(still()).await;
    let lines: Vec<String> = (0..50_001).map(|n| line(&n.to_string(), "x")).collect();
    let id = client.batch(&client.input(&lines).await).await;
    emulator.advance(Duration::from_secs(600)).await.unwrap();
    let seen = client.see(&id).await;
    assert_eq!(seen["errors"]["data"][0]["code"], "too_many_tasks");
}

#[tokio::test]
async fn a_file_that_is_gone_or_has_another_purpose_fails_the_batch_later() {
    let (emulator, client) = start(still()).await;
    let deleted = client.input(&[line("a", "x")]).await;
    let other = client.upload("in.jsonl", "user_data", b"{}").await.json();
    let batches = [
        client.batch("file-none").await,
        client.batch(&deleted).await,
        client.batch(other["id"].as_str().unwrap()).await,
    ];
    let path = format!("/openai/v1/files/{deleted}");
    assert_eq!(
        client.call("DELETE", &path, &[], b"").await.json()["deleted"],
        true
    );
    emulator.advance(Duration::from_secs(600)).await.unwrap();
    for batch in &batches {
        let error = client.see(batch).await["errors"]["data"][0].clone();
        assert_eq!(error["code"], "invalid_request");
        assert_eq!(error["param"], "file_id");
        assert_eq!(error["line"], Value::Null);
    }
}

#[tokio::test]
async fn a_file_deleted_after_validation_does_not_disturb_its_batch() {
    let (emulator, client) = start(still()).await;
    let file = client.input(&[line("a", "x")]).await;
    let id = client.batch(&file).await;
    emulator.advance(Duration::from_secs(30)).await.unwrap();
    client
        .call("DELETE", &format!("/openai/v1/files/{file}"), &[], b"")
        .await;
    emulator.advance(Duration::from_secs(600)).await.unwrap();
    assert_eq!(client.see(&id).await["status"], "completed");
}

#[tokio::test]
async fn malformed_creations_are_refused_at_once() {
    let (emulator, client) = start(still()).await;
    let with = |key: &str, value: Value| {
        let mut body = Client::batch_body("file-1");
        body[key] = value;
        body
    };
    let many: serde_json::Map<String, Value> =
        (0..17).map(|n| (n.to_string(), json!("x"))).collect();
    for (body, param) in [
        (with("endpoint", json!("/v1/other")), "endpoint"),
        (with("completion_window", json!("48h")), "completion_window"),
        (with("input_file_id", Value::Null), "input_file_id"),
        (with("metadata", Value::Object(many)), "metadata"),
        (with("metadata", json!({"a": 1})), "metadata.a"),
        (
            with("metadata", json!({"a": "x".repeat(513)})),
            "metadata.a",
        ),
        (with("colour", json!("red")), "colour"),
        (
            with(
                "output_expires_after",
                json!({"anchor": "created_at", "seconds": 60}),
            ),
            "output_expires_after.seconds",
        ),
    ] {
        let answer = client.post("/openai/v1/batches", &body).await;
        assert_eq!(answer.status, 400, "{param}");
        assert_eq!(answer.json()["error"]["param"], param);
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    }
    assert_eq!(
        client.get("/openai/v1/batches").await.json()["data"],
        json!([])
    );
    drop(emulator);
}

#[tokio::test]
async fn calls_are_refused_with_the_vendors_bodies() {
    let (_emulator, client) = start(still().with_keys(["sk-test"])).await;
    let post = |model: &'static str| {
        let client = client.clone();
        async move {
            client
                .post("/openai/v1/chat/completions", &chat(model, "x"))
                .await
                .error()
        }
    };
    assert_eq!(
        post("gpt-0").await,
        (404, Value::Null, json!("model_not_found"))
    );
    let stranger = client.with_key("sk-stranger");
    assert_eq!(
        stranger.get("/openai/v1/models").await.error(),
        (401, Value::Null, json!("invalid_api_key"))
    );
    assert_eq!(client.get("/openai/v1/nothing").await.status, 404);
    assert_eq!(
        client
            .call("PUT", "/openai/v1/batches", &[], b"")
            .await
            .status,
        405
    );
    let broken = client
        .call("POST", "/openai/v1/chat/completions", &[], b"{")
        .await;
    assert_eq!(broken.error(), (400, Value::Null, Value::Null));
}
