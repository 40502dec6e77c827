//! Batches from creation to their end.

use std::time::Duration;

use batchwright_emulator::{Face, Lane, Limits, prompt_hash};
use serde_json::{Value, json};

use crate::client::{Client, START, chat, ids, line, lines, quick_pace, start, still};

fn second() -> Duration {
    Duration::from_secs(1)
}

#[tokio::test]
async fn f_095_a_batch_passes_all_states_and_answers_every_row_out_of_order() {
    let (emulator, client) = start(still().with_pace(quick_pace())).await;
    let file = client.input(&lines(50)).await;
    let created = client
        .post("/openai/v1/batches", &Client::batch_body(&file))
        .await;
    assert!(created.header("x-request-id").unwrap().starts_with("req_"));
    let created = created.json();
    assert_eq!(created["status"], "validating");
    assert_eq!(created["metadata"], json!({"run": "1"}));
    assert_eq!(created["created_at"], START);
    assert_eq!(created["expires_at"], START + 86_400);
    assert_eq!(
        created["request_counts"],
        json!({"total": 0, "completed": 0, "failed": 0})
    );
    let id = created["id"].as_str().unwrap();

    emulator.advance(second()).await.unwrap();
    let seen = client.see(id).await;
    assert_eq!(seen["status"], "in_progress");
    assert_eq!(seen["model"], "gpt-4o-mini-2024-07-18");
    emulator.advance(second() * 10).await.unwrap();
    let seen = client.see(id).await;
    assert_eq!(
        seen["request_counts"],
        json!({"total": 50, "completed": 10, "failed": 0})
    );
    assert_eq!(emulator.invoice().await.unwrap().len(), 10);
    emulator.advance(second() * 40).await.unwrap();
    let seen = client.see(id).await;
    assert_eq!(seen["status"], "finalizing");
    assert_eq!(seen["output_file_id"], Value::Null);
    emulator.advance(second()).await.unwrap();
    let seen = client.see(id).await;
    assert_eq!(seen["status"], "completed");
    assert_eq!(seen["completed_at"], START + 52);
    assert_eq!(seen["error_file_id"], Value::Null);
    assert_eq!(seen["errors"], Value::Null);

    let output = client.lines(&seen["output_file_id"]).await;
    assert_eq!(output.len(), 50);
    let in_order: Vec<String> = (0..50).map(|n| format!("r-{n}")).collect();
    let got: Vec<&str> = output
        .iter()
        .map(|line| line["custom_id"].as_str().unwrap())
        .collect();
    assert_ne!(got, in_order);
    let mut tokens = 0;
    for line in &output {
        let number = line["custom_id"]
            .as_str()
            .unwrap()
            .strip_prefix("r-")
            .unwrap();
        let hash = prompt_hash([format!("question {number}")]);
        let body = &line["response"]["body"];
        let said = body["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(said.starts_with(&format!("[prompt:{hash}]")));
        assert_eq!(line["error"], Value::Null);
        tokens += body["usage"]["total_tokens"].as_u64().unwrap();
    }
    assert_eq!(seen["usage"]["total_tokens"], tokens);

    let invoice = emulator.invoice().await.unwrap();
    assert_eq!(invoice.len(), 50);
    let billed: u64 = invoice
        .iter()
        .map(|line| line.input_tokens + line.output_tokens)
        .sum();
    assert_eq!(billed, tokens);
    for line in &invoice {
        assert_eq!(line.lane, Lane::Batch);
        assert_eq!(line.face, Face::OpenAi.name());
        assert_eq!(line.batch_id.as_deref(), Some(id));
        let price = (line.input_tokens as f64 * 0.15 + line.output_tokens as f64 * 0.60) / 2e6;
        assert!((line.price_usd - price).abs() < 1e-12);
    }
    assert_eq!(emulator.calls("POST", "/openai/v1/batches"), 1);
}

#[tokio::test]
async fn f_080_completed_with_all_rows_bad_has_no_output_file() {
    let (emulator, client) = start(still()).await;
    let bad = (0..3)
        .map(|n| line(&format!("r-{n}"), "[[error:500]]"))
        .collect::<Vec<_>>();
    let id = client.batch(&client.input(&bad).await).await;
    emulator.advance(second() * 600).await.unwrap();
    let seen = client.see(&id).await;
    assert_eq!(seen["status"], "completed");
    assert_eq!(seen["output_file_id"], Value::Null);
    assert_eq!(seen["request_counts"]["failed"], 3);
    let errors = client.lines(&seen["error_file_id"]).await;
    assert_eq!(errors[0]["response"]["status_code"], 500);
    assert_eq!(errors[0]["error"], Value::Null);
    assert!(emulator.invoice().await.unwrap().is_empty());
}

#[tokio::test]
async fn mixed_rows_go_to_two_files_whose_union_is_the_input() {
    let (emulator, client) = start(still()).await;
    let mut input = lines(10);
    let mut hot = chat("gpt-4o-mini", "x");
    hot["temperature"] = json!(9);
    let mut long = chat("gpt-4o-mini", "x");
    long["messages"][0]["content"] = json!("x".repeat(600_000));
    let mut unknown = chat("gpt-4o-mini", "x");
    unknown["colour"] = json!("red");
    for (id, body) in [("hot", hot), ("long", long), ("unknown", unknown)] {
        input.push(
            json!({"custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body})
                .to_string(),
        );
    }
    let id = client.batch(&client.input(&input).await).await;
    emulator.advance(second() * 600).await.unwrap();
    let seen = client.see(&id).await;
    let output = client.lines(&seen["output_file_id"]).await;
    let errors = client.lines(&seen["error_file_id"]).await;
    assert_eq!((output.len(), errors.len()), (10, 3));
    for line in errors {
        let error = &line["response"]["body"]["error"];
        let expected = match line["custom_id"].as_str().unwrap() {
            "hot" => "invalid_value",
            "long" => "context_length_exceeded",
            _ => "unknown_parameter",
        };
        assert_eq!(line["response"]["status_code"], 400);
        assert_eq!(error["code"], expected);
    }
}

#[tokio::test]
async fn f_078_a_cancelled_batch_keeps_what_it_finished_and_bills_no_more() {
    let (emulator, client) = start(still().with_pace(quick_pace())).await;
    let id = client.batch(&client.input(&lines(20)).await).await;
    emulator.advance(second() * 8).await.unwrap();
    let cancel = format!("/openai/v1/batches/{id}/cancel");
    let cancelled = client.post(&cancel, &json!({})).await;
    assert_eq!(cancelled.status, 200);
    assert_eq!(cancelled.json()["status"], "cancelling");
    assert_eq!(cancelled.json()["cancelling_at"], START + 8);
    emulator.advance(second() * 100).await.unwrap();
    let seen = client.see(&id).await;
    assert_eq!(seen["status"], "cancelled");
    let output = client.lines(&seen["output_file_id"]).await;
    let errors = client.lines(&seen["error_file_id"]).await;
    assert_eq!((output.len(), errors.len()), (7, 13));
    assert_eq!(ids(&output).union(&ids(&errors)).count(), 20);
    assert_eq!(errors[0]["response"], Value::Null);
    assert_eq!(errors[0]["error"]["code"], "batch_cancelled");
    assert_eq!(emulator.invoice().await.unwrap().len(), 7);

    // F-025: cancelling what has ended is a conflict.
    let again = client.post(&cancel, &json!({})).await;
    assert_eq!(again.status, 409);
    let message = again.json()["error"]["message"].clone();
    assert_eq!(message, "Cannot cancel a batch with status 'cancelled'.");
}

#[tokio::test]
async fn a_batch_cancelled_while_validating_has_no_files() {
    let (emulator, client) = start(still()).await;
    let id = client.batch(&client.input(&lines(2)).await).await;
    client
        .post(&format!("/openai/v1/batches/{id}/cancel"), &json!({}))
        .await;
    emulator.advance(second() * 100).await.unwrap();
    let seen = client.see(&id).await;
    assert_eq!(seen["status"], "cancelled");
    assert_eq!(seen["output_file_id"], Value::Null);
    assert_eq!(seen["error_file_id"], Value::Null);
}

#[tokio::test]
async fn f_076_an_expired_batch_keeps_its_finished_rows() {
    let pace = quick_pace().with_per_row(second() * 3_600);
    let (emulator, client) = start(still().with_pace(pace)).await;
    let id = client.batch(&client.input(&lines(30)).await).await;
    emulator.advance(second() * 86_399).await.unwrap();
    assert_eq!(client.see(&id).await["status"], "in_progress");
    emulator.advance(second()).await.unwrap();
    let seen = client.see(&id).await;
    assert_eq!(seen["status"], "expired");
    assert_eq!(seen["expired_at"], START + 86_400);
    let output = client.lines(&seen["output_file_id"]).await;
    let errors = client.lines(&seen["error_file_id"]).await;
    assert_eq!((output.len(), errors.len()), (23, 7));
    assert_eq!(errors[0]["error"]["code"], "batch_expired");
    assert_eq!(emulator.invoice().await.unwrap().len(), 23);
}

#[tokio::test]
async fn f_116_lists_are_paged_one_by_one_newest_or_oldest_first() {
    for newest_first in [true, false] {
        let (_emulator, client) = start(still().with_newest_first(newest_first)).await;
        let file = client.input(&lines(1)).await;
        let mut created = Vec::new();
        for _ in 0..4 {
            created.push(client.batch(&file).await);
        }
        if newest_first {
            created.reverse();
        }
        let mut listed = Vec::new();
        let mut path = "/openai/v1/batches?limit=1".to_owned();
        loop {
            let page = client.get(&path).await.json();
            assert_eq!(page["data"].as_array().unwrap().len(), 1);
            assert_eq!(page["first_id"], page["last_id"]);
            let last = page["last_id"].as_str().unwrap().to_owned();
            path = format!("/openai/v1/batches?limit=1&after={last}");
            listed.push(last);
            if page["has_more"] == false {
                break;
            }
        }
        assert_eq!(listed, created);
        let bad = client.get("/openai/v1/batches?limit=101").await;
        assert_eq!(bad.error(), (400, json!("limit"), json!("invalid_value")));
    }
}

#[tokio::test]
async fn f_010_the_limit_of_waiting_tokens_fails_a_batch_until_another_ends() {
    // 20 rows of 3 tokens ("question 0" has 10 bytes).
    let limits = Limits::default().with_enqueued_tokens(100);
    let (emulator, client) = start(still().with_limits(limits).with_pace(quick_pace())).await;
    let file = client.input(&lines(20)).await;
    let first = client.batch(&file).await;
    let second_batch = client.batch(&file).await;
    // One jump over everything: validation still sees the first batch waiting.
    emulator.advance(second() * 3_600).await.unwrap();
    assert_eq!(client.see(&first).await["status"], "completed");
    let seen = client.see(&second_batch).await;
    assert_eq!(seen["status"], "failed");
    let error = &seen["errors"]["data"][0];
    assert_eq!(error["code"], "token_limit_exceeded");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("Enqueued token limit reached") && message.contains("Limit: 100 "));
    let third = client.batch(&file).await;
    emulator.advance(second() * 3_600).await.unwrap();
    assert_eq!(client.see(&third).await["status"], "completed");
}

#[tokio::test]
async fn f_087_objects_belong_to_the_key_that_made_them() {
    let (_emulator, client) = start(still()).await;
    let file = client.input(&lines(1)).await;
    let batch = client.batch(&file).await;
    let other = client.with_key("sk-other");
    let answer = other.get(&format!("/openai/v1/batches/{batch}")).await;
    assert_eq!(answer.error(), (404, Value::Null, Value::Null));
    let answer = other.get(&format!("/openai/v1/files/{file}")).await;
    assert_eq!(answer.error(), (404, json!("id"), Value::Null));
    for list in ["/openai/v1/batches", "/openai/v1/files"] {
        assert_eq!(other.get(list).await.json()["data"], json!([]));
    }
}

#[tokio::test]
async fn f_074_embeddings_and_responses_are_batched_too() {
    let (emulator, client) = start(still()).await;
    for (endpoint, body, at) in [
        (
            "/v1/embeddings",
            json!({"model": "text-embedding-3-small", "input": "x", "dimensions": 4}),
            "/response/body/data/0/embedding/3",
        ),
        (
            "/v1/responses",
            json!({"model": "gpt-4o", "input": "x"}),
            "/response/body/output/0/content/0/text",
        ),
    ] {
        let line =
            json!({"custom_id": "a", "method": "POST", "url": endpoint, "body": body}).to_string();
        let mut create = Client::batch_body(&client.input(&[line]).await);
        create["endpoint"] = json!(endpoint);
        let created = client.post("/openai/v1/batches", &create).await.json();
        emulator.advance(second() * 600).await.unwrap();
        let seen = client.see(created["id"].as_str().unwrap()).await;
        let output = client.lines(&seen["output_file_id"]).await;
        assert!(output[0].pointer(at).is_some(), "{}", output[0]);
    }
}

#[tokio::test]
async fn the_same_seed_gives_the_same_bytes() {
    let mut files = Vec::new();
    for seed in [7, 7, 8] {
        let (emulator, client) = start(still().with_seed(seed)).await;
        let id = client.batch(&client.input(&lines(30)).await).await;
        emulator.advance(second() * 600).await.unwrap();
        let seen = client.see(&id).await;
        let file = seen["output_file_id"].as_str().unwrap().to_owned();
        let path = format!("/openai/v1/files/{file}/content");
        files.push(client.get(&path).await.body);
        emulator.shutdown().await;
    }
    assert_eq!(files[0], files[1]);
    assert_ne!(files[0], files[2]);
}

#[tokio::test]
async fn a_running_clock_carries_a_batch_to_its_end() {
    let (_emulator, client) = start(still().with_time_scale(600.0)).await;
    let id = client.batch(&client.input(&lines(300)).await).await;
    let mut states = Vec::new();
    let ended = async {
        loop {
            let status = client.see(&id).await["status"].as_str().unwrap().to_owned();
            if states.last() != Some(&status) {
                states.push(status.clone());
            }
            if status == "completed" {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended)
        .await
        .unwrap();
    let order = ["validating", "in_progress", "finalizing", "completed"];
    let places: Vec<_> = states
        .iter()
        .map(|state| order.iter().position(|known| known == state).unwrap())
        .collect();
    assert!(places.is_sorted(), "{states:?}");
}

#[tokio::test]
async fn a_reset_forgets_everything_but_the_time() {
    let (emulator, client) = start(still()).await;
    let id = client.batch(&client.input(&lines(3)).await).await;
    client
        .post("/openai/v1/chat/completions", &chat("gpt-4o", "x"))
        .await;
    emulator.advance(second() * 600).await.unwrap();
    assert_eq!(client.post("/emulator/reset", &json!({})).await.status, 200);
    assert!(emulator.invoice().await.unwrap().is_empty());
    assert_eq!(emulator.calls("POST", "/openai/v1/batches"), 0);
    assert_eq!(
        client.get(&format!("/openai/v1/batches/{id}")).await.status,
        404
    );
    assert_eq!(
        client.get("/openai/v1/files").await.json()["data"],
        json!([])
    );
    assert_eq!(
        client.get("/emulator/clock").await.json()["now"],
        START + 600
    );
}
