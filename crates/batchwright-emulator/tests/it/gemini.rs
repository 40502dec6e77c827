//! The face of the Gemini developer API.

use std::time::Duration;

use batchwright_emulator::{Emulator, EmulatorConfig, Face, Limits, prompt_hash};
use serde_json::{Value, json};

use crate::client::{Answer, Client, quick_pace, start, still};

const MODEL: &str = "/gemini/v1beta/models/gemini-2.5-flash";
const KEY: (&str, &str) = ("x-goog-api-key", "AIza-test");

async fn opened(config: EmulatorConfig) -> (Emulator, Client) {
    let (emulator, client) = start(config).await;
    (emulator, client.at(Face::Gemini))
}

async fn call(client: &Client, method: &str, path: &str, body: &Value) -> Answer {
    let body = body.to_string();
    client.call(method, path, &[KEY], body.as_bytes()).await
}

async fn get(client: &Client, path: &str) -> Answer {
    client.call("GET", path, &[KEY], b"").await
}

fn text(text: &str) -> Value {
    json!({"contents": [{"role": "user", "parts": [{"text": text}]}]})
}

async fn ask(client: &Client, body: &Value) -> Answer {
    call(client, "POST", &format!("{MODEL}:generateContent"), body).await
}

async fn set(client: &Client, options: Value) {
    let answer = client.post("/emulator/faces/gemini", &options).await;
    assert_eq!(answer.status, 200);
}

/// Uploads in two steps and gives the file.
async fn upload(client: &Client, name: &str, content: &[u8]) -> Value {
    let url = begin(client, name, content.len()).await;
    let headers = [
        ("x-goog-upload-offset", "0"),
        ("x-goog-upload-command", "upload, finalize"),
    ];
    let answer = client.call("POST", &url, &headers, content).await;
    assert_eq!(answer.header("x-goog-upload-status"), Some("final"));
    answer.json()["file"].clone()
}

/// The address an upload's bytes go to.
async fn begin(client: &Client, name: &str, len: usize) -> String {
    let len = len.to_string();
    let headers = [
        KEY,
        ("x-goog-upload-protocol", "resumable"),
        ("x-goog-upload-command", "start"),
        ("x-goog-upload-header-content-length", len.as_str()),
        ("x-goog-upload-header-content-type", "application/jsonl"),
    ];
    let body = json!({"file": {"displayName": name}}).to_string();
    let path = "/gemini/upload/v1beta/files";
    let answer = client.call("POST", path, &headers, body.as_bytes()).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    let url = answer.header("x-goog-upload-url").unwrap();
    let at = url.find("/gemini/").unwrap();
    url[at..].to_owned()
}

fn line(key: &str, said: &str) -> String {
    json!({"key": key, "request": text(said)}).to_string()
}

async fn create(client: &Client, input: Value) -> Answer {
    let body = json!({"batch": {"displayName": "job", "inputConfig": input}});
    call(
        client,
        "POST",
        &format!("{MODEL}:batchGenerateContent"),
        &body,
    )
    .await
}

fn inline(texts: &[&str]) -> Value {
    let requests: Vec<Value> = texts
        .iter()
        .map(|said| json!({"request": text(said), "metadata": {"key": said, "own": 1}}))
        .collect();
    json!({"requests": {"requests": requests}})
}

async fn see(client: &Client, name: &Value) -> Value {
    let path = format!("/gemini/v1beta/{}", name.as_str().unwrap());
    let answer = get(client, &path).await;
    assert_eq!(answer.status, 200);
    answer.json()
}

#[tokio::test]
async fn f_062_f_065_endings_have_their_shapes_and_zeros_are_left_out() {
    let (_emulator, client) = opened(still()).await;
    let answer = ask(&client, &text("Hi")).await.json();
    let usage = &answer["usageMetadata"];
    assert!(usage["thoughtsTokenCount"].is_u64());
    assert!(usage["cachedContentTokenCount"].is_null());
    let mut plain = text("Hi");
    plain["generationConfig"] = json!({"thinkingConfig": {"thinkingBudget": 0}});
    let plain = ask(&client, &plain).await.json();
    assert!(plain["usageMetadata"]["thoughtsTokenCount"].is_null());

    let blocked = ask(&client, &text("[[refuse]]")).await.json();
    assert!(blocked["candidates"].is_null());
    assert_eq!(
        blocked["promptFeedback"]["blockReason"],
        "PROHIBITED_CONTENT"
    );
    let cut = ask(&client, &text("[[length]]")).await.json();
    assert_eq!(cut["candidates"][0]["finishReason"], "MAX_TOKENS");
    assert_eq!(cut["candidates"][0]["content"], json!({"role": "model"}));
    let stopped = ask(&client, &text("[[filter]]")).await.json();
    assert_eq!(stopped["candidates"][0]["finishReason"], "SAFETY");
}

#[tokio::test]
async fn f_001_f_003_f_009_f_018_quota_details_come_in_their_variants() {
    let limits = Limits::default().with_requests_per_minute(1);
    let (_emulator, client) = opened(still().with_limits(limits)).await;
    assert_eq!(ask(&client, &text("a")).await.status, 200);
    let refused = ask(&client, &text("a")).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("retry-after"), None);
    let details = refused.json()["error"]["details"].clone();
    let id = details[0]["violations"][0]["quotaId"].as_str().unwrap();
    assert!(id.contains("PerMinute"));
    assert!(details[2]["retryDelay"].as_str().unwrap().ends_with('s'));
    set(&client, json!({"retry_hint": "help_only"})).await;
    let bare = ask(&client, &text("a")).await.json();
    assert_eq!(bare["error"]["details"].as_array().unwrap().len(), 1);

    let limits = Limits::default().with_requests_per_day(1);
    let (_emulator, client) = opened(still().with_limits(limits)).await;
    set(&client, json!({"day_hint": "short"})).await;
    assert_eq!(ask(&client, &text("a")).await.status, 200);
    let details = ask(&client, &text("a")).await.json()["error"]["details"].clone();
    let id = details[0]["violations"][0]["quotaId"].as_str().unwrap();
    assert!(id.contains("PerDay"));
    assert_eq!(details[2]["retryDelay"], "59.0s");

    let limits = Limits::default().with_requests_per_day(0);
    let (_emulator, client) = opened(still().with_limits(limits)).await;
    let error = ask(&client, &text("a")).await.json()["error"].clone();
    assert!(error["details"][0]["violations"][0]["quotaValue"].is_null());
    assert!(error["message"].as_str().unwrap().contains("limit: 0"));
}

#[tokio::test]
async fn keys_come_in_a_header_or_the_query_and_a_bad_one_is_a_400() {
    let (_emulator, client) = opened(still()).await;
    let path = "/gemini/v1beta/models";
    assert_eq!(client.get(&format!("{path}?key=AIza-x")).await.status, 200);
    let none = client.get(path).await;
    assert_eq!(none.status, 403, "a bearer token is no key");
    let bad = client
        .call("GET", path, &[("x-goog-api-key", "not well formed")], b"")
        .await;
    assert_eq!(bad.status, 400);
    let reason = bad.json()["error"]["details"][0]["reason"].clone();
    assert_eq!(reason, "API_KEY_INVALID");
    set(&client, json!({"errors": "list"})).await;
    let listed = client.get(path).await.json();
    assert_eq!(listed[0]["error"]["status"], "PERMISSION_DENIED");
}

#[tokio::test]
async fn one_malformed_line_refuses_the_whole_batch_and_a_bad_value_its_row() {
    let (emulator, client) = opened(still().with_pace(quick_pace())).await;
    let bad = json!({"key": "b", "request": {"contents": [], "colour": 1}}).to_string();
    let content = [line("a", "x"), bad].join("\n");
    let file = upload(&client, "in", content.as_bytes()).await;
    assert_eq!(file["sizeBytes"], content.len().to_string());
    let refused = create(&client, json!({"fileName": file["name"]})).await;
    assert_eq!(refused.status, 400);
    assert!(emulator.invoice().await.unwrap().is_empty());

    let empty = json!({"key": "b", "request": {"contents": []}}).to_string();
    let file = upload(&client, "in", [line("a", "x"), empty].join("\n").as_bytes()).await;
    let made = create(&client, json!({"file_name": file["name"]}))
        .await
        .json();
    assert!(made["done"].is_null());
    let stats = json!({"requestCount": "2", "pendingRequestCount": "2"});
    assert_eq!(made["metadata"]["batchStats"], stats);
    emulator.advance(Duration::from_secs(60)).await.unwrap();
    let done = see(&client, &made["name"]).await;
    assert_eq!(done["done"], true);
    assert_eq!(done["metadata"]["batchStats"]["failedRequestCount"], "1");
    let output = &done["metadata"]["output"]["responsesFile"];
    assert_eq!(*output, done["response"]["responsesFile"]);
    let id = output.as_str().unwrap();
    let whole = get(&client, &format!("/gemini/v1beta/{id}:download?alt=media")).await;
    let other = get(
        &client,
        &format!("/gemini/download/v1beta/{id}:download?alt=media"),
    )
    .await;
    assert_eq!((whole.status, &whole.body), (200, &other.body));
    let refused = get(&client, &format!("/gemini/v1beta/{id}")).await;
    assert_eq!(refused.status, 400, "F-090");
    let rows: Vec<Value> = String::from_utf8(whole.body)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let failed = rows.iter().find(|row| row["key"] == "b").unwrap();
    assert_eq!(failed["error"]["code"], 3);
    let input = file["name"].as_str().unwrap();
    let uploaded = get(&client, &format!("/gemini/v1beta/{input}:download")).await;
    assert_eq!(uploaded.status, 400, "only generated files");
}

#[tokio::test]
async fn f_085_f_091_f_101_results_come_where_the_switches_say() {
    let (emulator, client) = opened(still().with_pace(quick_pace())).await;
    let made = create(&client, inline(&["a", "b"])).await.json();
    assert_eq!(made["metadata"]["inputConfig"], json!({}));
    emulator.advance(Duration::from_secs(60)).await.unwrap();
    let done = see(&client, &made["name"]).await;
    let responses = &done["response"]["inlinedResponses"]["inlinedResponses"];
    assert_eq!(responses.as_array().unwrap().len(), 2);
    for one in responses.as_array().unwrap() {
        let key = one["metadata"]["key"].as_str().unwrap();
        assert_eq!(one["metadata"]["own"], 1);
        let said = &one["response"]["candidates"][0]["content"]["parts"][0]["text"];
        assert!(said.as_str().unwrap().contains(&prompt_hash([key])));
    }
    let switches = json!({"results": "metadata", "metadata": "drop", "states": "job"});
    set(&client, switches).await;
    let done = see(&client, &made["name"]).await;
    assert!(done["response"].is_null());
    assert_eq!(done["metadata"]["state"], "JOB_STATE_SUCCEEDED");
    let responses = &done["metadata"]["output"]["inlinedResponses"]["inlinedResponses"];
    assert!(responses[0]["metadata"].is_null());
    let unknown = client
        .post("/emulator/faces/gemini", &json!({"colour": 1}))
        .await;
    assert_eq!(unknown.status, 400);
}

#[tokio::test]
async fn f_077_f_078_a_cancelled_batch_has_no_results_and_a_deleted_one_is_gone() {
    let (emulator, client) = opened(still()).await;
    let made = create(&client, inline(&["a"])).await.json();
    let path = format!("/gemini/v1beta/{}", made["name"].as_str().unwrap());
    let cancel = format!("{path}:cancel");
    let asked = call(&client, "POST", &cancel, &json!({})).await;
    assert_eq!((asked.status, asked.json()), (200, json!({})));
    emulator.advance(Duration::from_secs(60)).await.unwrap();
    let ended = see(&client, &made["name"]).await;
    assert_eq!(ended["metadata"]["state"], "BATCH_STATE_CANCELLED");
    assert_eq!(
        (&ended["done"], &ended["error"]["code"]),
        (&json!(true), &json!(13))
    );
    assert!(ended["response"].is_null());
    let again = call(&client, "POST", &cancel, &json!({})).await;
    assert_eq!(again.json()["error"]["status"], "FAILED_PRECONDITION");
    assert_eq!(client.call("DELETE", &path, &[KEY], b"").await.status, 200);
    assert_eq!(client.call("DELETE", &path, &[KEY], b"").await.status, 404);
}

#[tokio::test]
async fn an_upload_goes_on_where_it_was_cut() {
    let (_emulator, client) = opened(still()).await;
    let content = line("a", "x");
    let (head, tail) = content.as_bytes().split_at(10);
    let url = begin(&client, "in", content.len()).await;
    let part = |offset: &'static str, command: &'static str| {
        [
            ("x-goog-upload-offset", offset),
            ("x-goog-upload-command", command),
        ]
    };
    let first = client.call("POST", &url, &part("0", "upload"), head).await;
    assert_eq!(first.header("x-goog-upload-status"), Some("active"));
    let asked = client
        .call("POST", &url, &[("x-goog-upload-command", "query")], b"")
        .await;
    assert_eq!(asked.header("x-goog-upload-size-received"), Some("10"));
    let wrong = client
        .call("POST", &url, &part("3", "upload, finalize"), tail)
        .await;
    assert_eq!(wrong.status, 400);
    let last = client
        .call("POST", &url, &part("10", "upload, finalize"), tail)
        .await;
    let file = last.json()["file"].clone();
    assert_eq!(file["sizeBytes"], content.len().to_string());
    assert_eq!(
        create(&client, json!({"fileName": file["name"]}))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_cache_is_billed_once_and_cheap_to_read_and_ends() {
    let (emulator, client) = opened(still().with_pace(quick_pace())).await;
    let long = "word ".repeat(2_000);
    let body = json!({
        "model": "models/gemini-2.5-flash", "ttl": "600s",
        "contents": [{"role": "user", "parts": [{"text": long}]}],
    });
    let path = "/gemini/v1beta/cachedContents";
    let cache = call(&client, "POST", path, &body).await.json();
    let mut asked = text("and?");
    asked["cachedContent"] = cache["name"].clone();
    let answer = ask(&client, &asked).await.json();
    assert_eq!(answer["usageMetadata"]["cachedContentTokenCount"], 2_500);
    let request = json!({"request": asked.clone(), "metadata": {"key": "k"}});
    create(&client, json!({"requests": {"requests": [request]}})).await;
    emulator.advance(Duration::from_secs(60)).await.unwrap();
    let bill = emulator.invoice().await.unwrap();
    assert_eq!(bill.len(), 3);
    assert_eq!(bill[0].input_tokens, 2_500, "what was cached");
    let (direct, batched) = (&bill[1], &bill[2]);
    assert_eq!(batched.cached_input_tokens, 2_500);
    // What the cache gave costs the same, the rest half.
    let cached = 2_500.0 * 0.03 / 1e6;
    let halves = (batched.price_usd - cached) * 2.0;
    assert!((halves - (direct.price_usd - cached)).abs() < 1e-12);
    asked["systemInstruction"] = json!({"parts": [{"text": "x"}]});
    assert_eq!(ask(&client, &asked).await.status, 400);
    asked.as_object_mut().unwrap().remove("systemInstruction");
    emulator.advance(Duration::from_secs(600)).await.unwrap();
    assert_eq!(ask(&client, &asked).await.status, 403, "it has expired");
}

#[tokio::test]
async fn f_011_f_116_a_full_queue_is_a_bare_429_and_lists_are_paged() {
    let limits = Limits::default().with_enqueued_tokens(100);
    let (_emulator, client) = opened(still().with_limits(limits).with_newest_first(false)).await;
    let full = create(&client, inline(&["x".repeat(1_000).as_str()])).await;
    assert_eq!(full.status, 429);
    let details = full.json()["error"]["details"].clone();
    assert!(details.to_string().contains("google.rpc.Help"));
    assert!(!details.to_string().contains("RetryInfo"));
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(create(&client, inline(&["a"])).await.json()["name"].clone());
    }
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let path = format!("/gemini/v1beta/batches?pageSize=2&pageToken={token}");
        let page = get(&client, &path).await.json();
        let operations = page["operations"].as_array().unwrap();
        seen.extend(operations.iter().map(|one| one["name"].clone()));
        match page["nextPageToken"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, made);
    let empty = get(&client, "/gemini/v1beta/files").await.json();
    assert_eq!(empty, json!({}));
}
