//! Files: names, lists, ranges, expiry.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{START, lines, start, still};

#[tokio::test]
async fn a_file_is_uploaded_seen_listed_and_deleted() {
    let (_emulator, client) = start(still()).await;
    let content = lines(3).join("\n");
    let made = client
        .upload("shard.jsonl", "batch", content.as_bytes())
        .await
        .json();
    let id = made["id"].as_str().unwrap();
    assert!(id.starts_with("file-"));
    assert_eq!(
        made,
        json!({"id": id, "object": "file", "bytes": content.len(), "created_at": START,
            "expires_at": START + 2_592_000, "filename": "shard.jsonl", "purpose": "batch",
            "status": "processed", "status_details": null})
    );
    let path = format!("/openai/v1/files/{id}");
    assert_eq!(client.get(&path).await.json(), made);
    let whole = client.get(&format!("{path}/content")).await;
    assert_eq!(whole.body, content.as_bytes());
    let deleted = client.call("DELETE", &path, &[], b"").await;
    assert_eq!(
        deleted.json(),
        json!({"id": id, "object": "file", "deleted": true})
    );
    assert_eq!(
        client.get(&path).await.error(),
        (404, json!("id"), Value::Null)
    );
}

#[tokio::test]
async fn only_the_name_and_the_purpose_are_checked() {
    let (_emulator, client) = start(still()).await;
    let answer = client.upload("in.csv", "batch", b"x").await;
    assert_eq!(answer.status, 400);
    assert_eq!(
        answer.json()["error"]["message"],
        "Invalid file format for Batch API. Must be .jsonl"
    );
    let answer = client.upload("in.jsonl", "fun", b"x").await;
    assert_eq!(
        answer.error(),
        (400, json!("purpose"), json!("invalid_value"))
    );
    let answer = client.upload("in.jsonl", "batch", b"not json").await;
    assert_eq!(answer.json()["status"], "processed");
    let answer = client.call("POST", "/openai/v1/files", &[], b"x").await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn lists_are_filtered_ordered_and_paged() {
    let (_emulator, client) = start(still()).await;
    let mut made = Vec::new();
    for purpose in ["batch", "user_data", "batch", "batch"] {
        let answer = client.upload("in.jsonl", purpose, b"x").await.json();
        if purpose == "batch" {
            made.push(answer["id"].as_str().unwrap().to_owned());
        }
    }
    let mut listed: Vec<String> = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/openai/v1/files?purpose=batch&order=asc&limit=1{after}");
        let page = client.get(&path).await.json();
        let id = page["data"][0]["id"].as_str().unwrap().to_owned();
        after = format!("&after={id}");
        listed.push(id);
        if page["has_more"] == false {
            break;
        }
    }
    assert_eq!(listed, made);
    let all = client.get("/openai/v1/files").await.json();
    assert_eq!(all["data"].as_array().unwrap().len(), 4);
    assert_eq!(all["first_id"], *made.last().unwrap());
}

#[tokio::test]
async fn f_106_a_range_is_answered_with_206_and_its_place() {
    let (_emulator, client) = start(still()).await;
    let made = client.upload("in.jsonl", "batch", b"0123456789").await;
    let path = format!(
        "/openai/v1/files/{}/content",
        made.json()["id"].as_str().unwrap()
    );
    let part = client
        .call("GET", &path, &[("range", "bytes=4-")], b"")
        .await;
    assert_eq!((part.status, &part.body[..]), (206, &b"456789"[..]));
    assert_eq!(part.header("content-range"), Some("bytes 4-9/10"));
    let beyond = client
        .call("GET", &path, &[("range", "bytes=10-")], b"")
        .await;
    assert_eq!(beyond.status, 416);
    assert_eq!(beyond.header("content-range"), Some("bytes */10"));
}

#[tokio::test]
async fn f_130_files_are_gone_after_thirty_virtual_days() {
    let (emulator, client) = start(still()).await;
    let file = client.input(&lines(1)).await;
    let batch = client.batch(&file).await;
    let day = Duration::from_secs(86_400);
    emulator.advance(day * 29).await.unwrap();
    let seen = client.see(&batch).await;
    let output = seen["output_file_id"].as_str().unwrap().to_owned();
    let path = format!("/openai/v1/files/{output}/content");
    assert_eq!(client.get(&path).await.status, 200);
    assert_eq!(
        client.get(&path).await.header("date"),
        Some("Sun, 21 Dec 2025 08:26:40 GMT")
    );
    emulator.advance(day * 2).await.unwrap();
    assert_eq!(client.get(&path).await.status, 404);
    assert_eq!(
        client.get(&format!("/openai/v1/files/{file}")).await.status,
        404
    );
    assert_eq!(client.see(&batch).await["status"], "completed");
}

#[tokio::test]
async fn f_131_results_expire_as_soon_as_the_creation_asked() {
    let (emulator, client) = start(still()).await;
    let mut body = crate::client::Client::batch_body(&client.input(&lines(1)).await);
    body["output_expires_after"] = json!({"anchor": "created_at", "seconds": 3600});
    let made = client.post("/openai/v1/batches", &body).await.json();
    emulator.advance(Duration::from_secs(600)).await.unwrap();
    let seen = client.see(made["id"].as_str().unwrap()).await;
    let output = seen["output_file_id"].as_str().unwrap().to_owned();
    let file = client
        .get(&format!("/openai/v1/files/{output}"))
        .await
        .json();
    assert_eq!(
        file["expires_at"].as_i64().unwrap() - file["created_at"].as_i64().unwrap(),
        3600
    );
    assert_eq!(file["purpose"], "batch_output");
}
