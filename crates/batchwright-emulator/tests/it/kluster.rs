//! The kluster.ai face, where it differs from OpenAI's.

use std::time::Duration;

use batchwright_emulator::Face;
use serde_json::json;

use crate::client::{Client, START, chat, line_for, quick_pace, start, still};

const ONE: &str = "deepseek-ai/DeepSeek-V3-0324";
const OTHER: &str = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo";

#[tokio::test]
async fn answers_have_vllms_traits() {
    let (_emulator, client) = start(still()).await;
    let client = client.at(Face::Kluster);
    let mut body = chat(ONE, "Hi");
    body["top_k"] = json!(5);
    let answer = client.post(&client.path("/chat/completions"), &body).await;
    let json = answer.json();
    let choice = &json["choices"][0];
    assert_eq!(choice["message"]["tool_calls"], json!([]));
    assert!(choice.as_object().unwrap().contains_key("stop_reason"));
    assert!(json.as_object().unwrap().contains_key("prompt_logprobs"));
    assert!(!json.as_object().unwrap().contains_key("system_fingerprint"));
    assert_eq!(answer.header("x-ratelimit-limit-requests"), None);
}

#[tokio::test]
async fn f_057_times_are_texts_and_f_216_ids_come_before_their_files() {
    let (emulator, client) = start(still().with_pace(quick_pace())).await;
    let client = client.at(Face::Kluster);
    let file = client
        .input(&[line_for(ONE, "r-1", "one"), line_for(OTHER, "r-2", "two")])
        .await;
    let mut body = Client::batch_body(&file);
    body["completion_window"] = json!("48h");
    body.as_object_mut().unwrap().remove("metadata");
    let created = client.post(&client.path("/batches"), &body).await.json();
    assert_eq!(created["created_at"], START);
    assert_eq!(created["metadata"], json!({}));
    let id = created["id"].as_str().unwrap();
    assert_eq!(client.see(id).await["created_at"], START.to_string());
    emulator.advance(Duration::from_secs(2)).await.unwrap();
    let running = client.see(id).await;
    assert_eq!(running["status"], "in_progress");
    assert_eq!(running["output_file_id"], format!("{file}-output"));
    let early = client.path(&format!("/files/{file}-output/content"));
    assert_eq!(client.get(&early).await.status, 404);
    emulator.advance(Duration::from_secs(60)).await.unwrap();
    let done = client.see(id).await;
    assert_eq!(done["expires_at"], (START + 48 * 3600).to_string());
    let lines = client.lines(&done["output_file_id"]).await;
    assert_eq!(lines.len(), 2);
    assert!(!lines[0].as_object().unwrap().contains_key("error"));

    let page = client.get(&client.path("/batches")).await.json();
    assert_eq!(page["items_per_page"], i64::MAX);
    assert_eq!(page["page_count"], -1);
    assert_eq!(page["count"], 1);
    assert_eq!(page["has_more"], false);
    body["completion_window"] = json!("1h");
    assert_eq!(
        client.post(&client.path("/batches"), &body).await.status,
        400
    );
}
