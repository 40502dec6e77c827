//! The Anthropic face. What the vendor's own package can show is in `tests/sdk/anthropic_sdk.py`.

use std::time::Duration;

use batchwright_emulator::{
    EmulatorConfig, Face, FaultAction, FaultRule, Limits, Mutation, MutationKind, prompt_hash,
};
use serde_json::{Value, json};

use crate::client::{Answer, Client, ids, quick_pace, start, still};

const MODEL: &str = "claude-haiku-4-5";
const VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");
const OPTIONS: &str = "/emulator/faces/anthropic";

async fn post(client: &Client, path: &str, body: &Value) -> Answer {
    let headers = [("content-type", "application/json"), VERSION];
    let body = body.to_string();
    client
        .call("POST", &client.path(path), &headers, body.as_bytes())
        .await
}

async fn get(client: &Client, path: &str) -> Answer {
    client
        .call("GET", &client.path(path), &[VERSION], b"")
        .await
}

fn params(text: &str) -> Value {
    json!({"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": text}]})
}

fn requests(count: usize) -> Value {
    let request =
        |n| json!({"custom_id": format!("r-{n}"), "params": params(&format!("question {n}"))});
    json!({"requests": (0..count).map(request).collect::<Vec<_>>()})
}

async fn create(client: &Client, body: &Value) -> String {
    let answer = post(client, "/v1/messages/batches", body).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    answer.json()["id"].as_str().unwrap().to_owned()
}

async fn see(client: &Client, id: &str) -> Value {
    get(client, &format!("/v1/messages/batches/{id}"))
        .await
        .json()
}

async fn results(client: &Client, id: &str) -> Vec<Value> {
    let answer = get(client, &format!("/v1/messages/batches/{id}/results")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/x-jsonl"));
    let lines = answer.body.split_inclusive(|byte| *byte == b'\n');
    lines
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

/// Type and message of an error.
fn said(answer: &Answer) -> (u16, String, String) {
    let json = answer.json();
    assert_eq!(json["type"], "error");
    assert_eq!(json["request_id"].as_str(), answer.header("request-id"));
    let text = |name: &str| json["error"][name].as_str().unwrap().to_owned();
    (answer.status, text("type"), text("message"))
}

#[tokio::test]
async fn every_kind_of_token_is_billed_at_its_own_price() {
    let (emulator, client) = start(still()).await;
    let client = client.at(Face::Anthropic);
    let mut body = params("question");
    body["system"] = json!([{"type": "text", "text": "s".repeat(40_000),
        "cache_control": {"type": "ephemeral", "ttl": "1h"}}]);
    for _ in 0..2 {
        assert_eq!(post(&client, "/v1/messages", &body).await.status, 200);
    }
    let invoice = emulator.invoice().await.unwrap();
    let outputs = invoice[0].output_tokens as f64 * 5.0;
    // 10,000 tokens written for an hour at twice 1 dollar a million, then read at a tenth; 2 tokens of the question.
    for (line, dollars) in invoice.iter().zip([20_000.0 + 2.0, 1_000.0 + 2.0]) {
        assert_eq!(
            (line.input_tokens, line.face.as_str()),
            (10_002, "anthropic")
        );
        assert!(
            (line.price_usd - (dollars + outputs) / 1e6).abs() < 1e-9,
            "{line:?}"
        );
        assert_eq!(
            line.prompt_hash,
            prompt_hash([&*"s".repeat(40_000), "question"])
        );
    }
    assert_eq!(invoice[1].cached_input_tokens, 10_000);

    // A row of a batch reads the same prefix, at half of everything.
    let id = create(
        &client,
        &json!({"requests": [{"custom_id": "a", "params": body}]}),
    )
    .await;
    emulator.advance(Duration::from_secs(600)).await.unwrap();
    let row = &results(&client, &id).await[0];
    let usage = &row["result"]["message"]["usage"];
    assert_eq!(usage["cache_read_input_tokens"], 10_000);
    assert_eq!(
        (&usage["input_tokens"], &usage["service_tier"]),
        (&json!(2), &json!("batch"))
    );
    let line = emulator.invoice().await.unwrap().pop().unwrap();
    assert!((line.price_usd - (1_002.0 + outputs) / 2e6).abs() < 1e-9);
}

#[tokio::test]
async fn f_001_f_013_f_018_a_rate_limit_says_when_to_come_back_or_does_not() {
    let limits = Limits::default().with_requests_per_minute(1);
    let (_emulator, client) = start(still().with_limits(limits)).await;
    let client = client.at(Face::Anthropic);
    assert_eq!(
        post(&client, "/v1/messages", &params("a")).await.status,
        200
    );
    let limited = post(&client, "/v1/messages", &params("b")).await;
    assert_eq!(said(&limited).1, "rate_limit_error");
    assert_eq!(limited.header("retry-after"), Some("60"));
    assert_eq!(
        limited.header("anthropic-ratelimit-requests-remaining"),
        Some("0")
    );
    assert!(
        limited
            .header("anthropic-ratelimit-requests-reset")
            .unwrap()
            .ends_with('Z')
    );
    client.post(OPTIONS, &json!({"retry_after": false})).await;
    let limited = post(&client, "/v1/messages", &params("b")).await;
    assert_eq!((limited.status, limited.header("retry-after")), (429, None));
    // Token counting has a limit of its own.
    let mut counted = params("b");
    counted.as_object_mut().unwrap().remove("max_tokens");
    let path = "/v1/messages/count_tokens";
    assert_eq!(
        post(&client, path, &counted).await.json(),
        json!({"input_tokens": 1})
    );
    assert_eq!(post(&client, path, &counted).await.status, 429);
}

#[tokio::test]
async fn f_006_f_007_f_008_spend_limits_refuse_all_that_costs() {
    let (emulator, client) = start(still()).await;
    let client = client.at(Face::Anthropic);
    for (limit, status, kind, code) in [
        (
            "enforced",
            429,
            "rate_limit_error",
            json!("enforced_spend_limit_reached"),
        ),
        (
            "contract",
            429,
            "rate_limit_error",
            json!("contract_spend_limit_reached"),
        ),
        ("own", 400, "invalid_request_error", Value::Null),
        ("workspace", 400, "invalid_request_error", Value::Null),
        (
            "linked",
            402,
            "billing_error",
            json!("linked_organization_spend_limit_reached"),
        ),
    ] {
        client.post(OPTIONS, &json!({"spend_limit": limit})).await;
        for (path, body) in [
            ("/v1/messages", params("x")),
            ("/v1/messages/batches", requests(1)),
        ] {
            let refused = post(&client, path, &body).await;
            let (got, word, _) = said(&refused);
            assert_eq!((got, &*word), (status, kind), "{limit} {path}");
            assert_eq!(refused.json()["error"]["details"]["error_code"], code);
            assert_eq!(refused.header("retry-after"), None);
        }
        assert_eq!(
            get(&client, "/v1/models").await.status,
            200,
            "free all the same"
        );
    }
    assert!(emulator.invoice().await.unwrap().is_empty());
}

#[tokio::test]
async fn f_084_counts_move_at_the_end_or_as_rows_end() {
    let (emulator, client) = start(still().with_pace(quick_pace())).await;
    let client = client.at(Face::Anthropic);
    let id = create(&client, &requests(4)).await;
    emulator.advance(Duration::from_secs(2)).await.unwrap();
    assert_eq!(see(&client, &id).await["request_counts"]["processing"], 4);
    client
        .post(OPTIONS, &json!({"counts": "live", "times": "zulu"}))
        .await;
    let batch = see(&client, &id).await;
    assert_eq!(batch["request_counts"]["succeeded"], 2);
    assert_eq!(batch["request_counts"]["processing"], 2);
    assert!(batch["created_at"].as_str().unwrap().ends_with("40Z"));
    let answer = get(&client, &format!("/v1/messages/batches/{id}")).await;
    assert_eq!(answer.header("retry-after"), Some("10"));
}

#[tokio::test]
async fn f_078_rows_done_before_a_cancel_stay_and_are_billed() {
    let (emulator, client) = start(still().with_pace(quick_pace())).await;
    let client = client.at(Face::Anthropic);
    let id = create(&client, &requests(4)).await;
    emulator.advance(Duration::from_secs(2)).await.unwrap();
    let path = format!("/v1/messages/batches/{id}/cancel");
    let cancelled = post(&client, &path, &json!({})).await.json();
    assert_eq!(cancelled["processing_status"], "canceling");
    emulator.advance(Duration::from_secs(60)).await.unwrap();
    let batch = see(&client, &id).await;
    assert_eq!(batch["processing_status"], "ended");
    assert_eq!(
        batch["request_counts"],
        json!({"processing": 0, "succeeded": 2, "errored": 0, "canceled": 2, "expired": 0})
    );
    assert_eq!(ids(&results(&client, &id).await).len(), 4);
    assert_eq!(emulator.invoice().await.unwrap().len(), 2);
    assert_eq!(post(&client, &path, &json!({})).await.status, 200);
    client
        .post(OPTIONS, &json!({"cancel_ended": "refused"}))
        .await;
    assert_eq!(post(&client, &path, &json!({})).await.status, 400);
}

#[tokio::test]
async fn a_creation_may_be_of_many_lines_and_rows_keep_their_version() {
    let (emulator, client) = start(still()).await;
    let client = client.at(Face::Anthropic);
    let mut hot = params("multi\nline");
    hot["temperature"] = json!(0.5);
    let body = json!({"requests": [{"custom_id": "hot", "params": hot}]});
    let pretty = serde_json::to_string_pretty(&body).unwrap();
    let path = client.path("/v1/messages/batches");
    let mut created = Vec::new();
    for version in ["2023-06-01", "2026-10-21"] {
        let headers = [("anthropic-version", version)];
        let answer = client
            .call("POST", &path, &headers, pretty.as_bytes())
            .await;
        created.push(answer.json()["id"].as_str().unwrap().to_owned());
    }
    emulator.advance(Duration::from_secs(600)).await.unwrap();
    let kinds = [
        &results(&client, &created[0]).await[0],
        &results(&client, &created[1]).await[0],
    ]
    .map(|row| row["result"]["type"].clone());
    assert_eq!(kinds, ["succeeded", "errored"]);

    for broken in [&b"{\"requests\":["[..], b"[]", b"", b"{\"requests\":[]} x"] {
        let answer = client.call("POST", &path, &[VERSION], broken).await;
        assert!(
            said(&answer)
                .2
                .starts_with("The request body is not valid JSON")
        );
    }
    let answer = post(&client, "/v1/messages/batches", &json!({})).await;
    assert_eq!(said(&answer).2, "requests: Field required");
    let other = client.with_key("sk-other");
    let answer = get(&other, &format!("/v1/messages/batches/{}", created[0])).await;
    assert_eq!(
        said(&answer).2,
        format!("Message Batch {} not found.", created[0])
    );
}

#[tokio::test]
async fn f_197_what_the_vendor_leaves_open_can_be_switched() {
    let (emulator, client) = start(still()).await;
    let client = client.at(Face::Anthropic);
    let mut body = requests(1);
    body["requests"][0]["params"] = json!({});
    let id = create(&client, &body).await;
    let url = "https://elsewhere.example/results";
    let set = json!({"results_url": url, "queued_requests": 1, "row_request_ids": "absent"});
    assert_eq!(client.post(OPTIONS, &set).await.status, 200);
    assert_eq!(
        client.post(OPTIONS, &json!({"colour": 1})).await.status,
        400
    );
    assert_eq!(
        client
            .post(OPTIONS, &json!({"stream_error": "x"}))
            .await
            .status,
        400
    );
    let full = post(&client, "/v1/messages/batches", &requests(1)).await;
    assert_eq!(said(&full).1, "rate_limit_error");
    emulator.advance(Duration::from_secs(600)).await.unwrap();
    assert_eq!(see(&client, &id).await["results_url"], url);
    let row = &results(&client, &id).await[0]["result"];
    let error = row["error"].as_object().unwrap();
    assert_eq!(error["error"]["message"], "model: Field required");
    assert_eq!(error["error"]["details"]["error_visibility"], "user_facing");
    assert!(!error.contains_key("request_id"));
    create(&client, &requests(1)).await;
}

#[tokio::test]
async fn a_batch_and_its_results_outlive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = || -> EmulatorConfig { still().with_data_dir(dir.path()).with_pace(quick_pace()) };
    let (emulator, client) = start(config()).await;
    let id = create(&client.at(Face::Anthropic), &requests(3)).await;
    emulator.advance(Duration::from_secs(2)).await.unwrap();
    emulator.shutdown().await;
    let (emulator, client) = start(config()).await;
    let client = client.at(Face::Anthropic);
    emulator.advance(Duration::from_secs(60)).await.unwrap();
    assert_eq!(results(&client, &id).await.len(), 3);
    assert_eq!(emulator.invoice().await.unwrap().len(), 3);
}

#[tokio::test]
async fn f_020_f_104_faults_are_in_this_faces_shape() {
    let rule = FaultRule::on("POST", "/anthropic/v1/messages/batches")
        .action(FaultAction::FailRows {
            status: 529,
            every: 2,
        })
        .action(FaultAction::MutateResults(Mutation::new(
            MutationKind::Hollow,
            1,
        )));
    let (emulator, client) = start(still().with_faults(vec![rule])).await;
    let client = client.at(Face::Anthropic);
    let id = create(&client, &requests(2)).await;
    emulator.advance(Duration::from_secs(600)).await.unwrap();
    assert_eq!(emulator.calls("POST", "/anthropic/v1/messages/batches"), 1);
    let rows = results(&client, &id).await;
    let hollow = |row: &&Value| row["result"]["message"] == json!({});
    assert_eq!(rows.iter().filter(hollow).count(), 1);
    let counts = &see(&client, &id).await["request_counts"];
    assert_eq!(
        (&counts["succeeded"], &counts["errored"]),
        (&json!(1), &json!(1))
    );
}
