//! The compatible face and its switches.

use std::time::Duration;

use batchwright_emulator::{Emulator, Face};
use serde_json::{Value, json};

use crate::client::{Answer, Client, START, chat, line_for, quick_pace, start, still};

const MODEL: &str = "local-model";

async fn with(options: Value) -> (Emulator, Client) {
    let config = still()
        .with_pace(quick_pace())
        .with_face_options(Face::Compatible, options);
    let (emulator, client) = start(config).await;
    (emulator, client.at(Face::Compatible))
}

async fn ask(client: &Client, body: &Value) -> Answer {
    client.post(&client.path("/chat/completions"), body).await
}

async fn set(client: &Client, options: &Value) {
    let answer = client.post("/emulator/faces/compatible", options).await;
    assert_eq!(answer.status, 200, "{options}: {:?}", answer.json());
}

fn rows(count: usize) -> Vec<String> {
    (0..count)
        .map(|n| line_for(MODEL, &format!("r-{n}"), &format!("question {n}")))
        .collect()
}

fn forced() -> Value {
    let mut body = chat(MODEL, "x");
    body["tools"] = json!([{"type": "function", "function": {"name": "f", "parameters":
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}]);
    body["tool_choice"] = json!("required");
    body
}

/// Each switch of an answer, and what a client then finds where.
#[tokio::test]
async fn f_217_f_056_and_f_057_answers_take_every_shape() {
    let (_emulator, client) = with(json!({})).await;
    let plain = chat(MODEL, "Hi");
    let gone = Value::Null;
    for (options, body, pointer, expected) in [
        (json!({"usage": "null"}), &plain, "/usage", Some(&gone)),
        (json!({"usage": "absent"}), &plain, "/usage", None),
        (
            json!({"usage": "zero"}),
            &plain,
            "/usage/total_tokens",
            Some(&json!(0)),
        ),
        (
            json!({"usage": "texts"}),
            &plain,
            "/usage/prompt_tokens",
            Some(&json!("1")),
        ),
        (
            json!({"usage": "floats"}),
            &plain,
            "/usage/prompt_tokens",
            Some(&json!(1.0)),
        ),
        (
            json!({"usage": "full"}),
            &plain,
            "/usage/prompt_tokens_details/cached_tokens",
            Some(&json!(0)),
        ),
        (
            json!({"content": "parts"}),
            &plain,
            "/choices/0/message/content/0/type",
            Some(&json!("text")),
        ),
        (
            json!({"content": "choice_text"}),
            &plain,
            "/choices/0/message",
            None,
        ),
        (
            json!({"system_fingerprint": false}),
            &plain,
            "/system_fingerprint",
            None,
        ),
        (
            json!({"finish_reasons": {"stop": "eos"}}),
            &plain,
            "/choices/0/finish_reason",
            Some(&json!("eos")),
        ),
        (
            json!({"empty_tool_calls": true}),
            &plain,
            "/choices/0/message/tool_calls",
            Some(&json!([])),
        ),
        (
            json!({"extra_fields": true}),
            &plain,
            "/prompt_logprobs",
            Some(&gone),
        ),
        (
            json!({"numeric_ids": true}),
            &plain,
            "/id",
            Some(&json!(9_007_199_254_740_993_u64)),
        ),
        (
            json!({"refusal": true}),
            &plain,
            "/choices/0/message/refusal",
            Some(&gone),
        ),
        (
            json!({"tool_calls": "finish_stop"}),
            &forced(),
            "/choices/0/finish_reason",
            Some(&json!("stop")),
        ),
        (
            json!({"tool_calls": "no_id"}),
            &forced(),
            "/choices/0/message/tool_calls/0/id",
            None,
        ),
        (
            json!({"tool_calls": "no_content_key"}),
            &forced(),
            "/choices/0/message/content",
            None,
        ),
        (
            json!({"tool_calls": "function_call"}),
            &forced(),
            "/choices/0/message/function_call/name",
            Some(&json!("f")),
        ),
    ] {
        set(&client, &json!({"preset": "plain"})).await;
        let before = ask(&client, body).await.json();
        assert_ne!(
            before.pointer(pointer),
            expected,
            "{pointer} before {options}"
        );
        set(&client, &options).await;
        let after = ask(&client, body).await.json();
        assert_eq!(
            after.pointer(pointer),
            expected,
            "{pointer} after {options}"
        );
    }
}

#[tokio::test]
async fn thoughts_and_object_arguments_can_be_shown() {
    let (_emulator, client) = with(json!({
        "reasoning": "reasoning_content",
        "tool_calls": "object_arguments",
    }))
    .await;
    let thinking = ask(&client, &chat("thinking-model", "Hi")).await.json();
    assert!(thinking["choices"][0]["message"]["reasoning_content"].is_string());
    let called = ask(&client, &forced()).await.json();
    let arguments = &called["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"];
    assert!(arguments["a"].is_i64());
}

#[tokio::test]
async fn f_055_f_050_and_f_220_errors_take_every_shape_and_any_status() {
    let (_emulator, client) = with(json!({})).await;
    let bad = chat("nobody", "Hi");
    let text = json!("The model `nobody` does not exist or you do not have access to it.");
    for (shape, pointer) in [
        ("object", "/error/message"),
        ("no_param", "/error/message"),
        ("number_code", "/error/message"),
        ("text", "/error"),
        ("detail", "/detail"),
        ("detail_list", "/detail/0/msg"),
        ("message", "/message"),
        ("list", "/errors/0/message"),
        ("list_data", "/errors/data/0/message"),
        ("wrapped", "/0/error/message"),
    ] {
        set(&client, &json!({"errors": shape, "error_status": null})).await;
        let answer = ask(&client, &bad).await;
        assert_eq!(answer.status, 404, "{shape}");
        assert_eq!(answer.json().pointer(pointer), Some(&text), "{shape}");
        set(&client, &json!({"error_status": 200})).await;
        let answer = ask(&client, &bad).await;
        assert_eq!(answer.status, 200, "{shape}");
        assert_eq!(answer.json().pointer(pointer), Some(&text), "{shape}");
    }
    set(&client, &json!({"preset": "openrouter"})).await;
    let answer = ask(&client, &chat(MODEL, "[[error:429]]")).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (200, &json!(429))
    );
}

#[tokio::test]
async fn models_are_listed_in_every_shape() {
    let (_emulator, client) = with(json!({})).await;
    let path = client.path("/models");
    for (shape, pointer, found) in [
        ("list", "/data/0/id", true),
        ("array", "/0/id", true),
        ("names", "/0", true),
        ("tagged", "/models/0/name", true),
        ("absent", "/data", false),
    ] {
        set(&client, &json!({"models": shape})).await;
        let answer = client.get(&path).await;
        assert_eq!(answer.status, if found { 200 } else { 404 }, "{shape}");
        let name = answer.json().pointer(pointer).cloned();
        assert_eq!(name, found.then(|| json!(MODEL)), "{shape}");
    }
}

#[tokio::test]
async fn local_servers_need_no_key_and_take_any_model() {
    let (emulator, client) = with(json!({"preset": "ollama"})).await;
    let keyless = client.with_key("");
    let answer = ask(&keyless, &chat("whatever:latest", "Hi")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["model"], MODEL);
    assert_eq!(emulator.invoice().await.unwrap()[0].key, "no key");
    set(&client, &json!({"preset": "plain"})).await;
    assert_eq!(ask(&keyless, &chat(MODEL, "Hi")).await.status, 401);
    assert_eq!(
        ask(&client, &chat("whatever:latest", "Hi")).await.status,
        404
    );
}

/// Leading blank lines, another content type, comments in streams and none of their ends.
#[tokio::test]
async fn f_058_bodies_and_streams_have_odd_edges() {
    let (_emulator, client) = with(json!({"preset": "deepseek", "stream_done": false})).await;
    let answer = ask(&client, &chat(MODEL, "Hi")).await;
    assert!(answer.body.starts_with(b"\n\n"));
    assert_eq!(
        answer.header("content-type"),
        Some("application/octet-stream")
    );
    assert_eq!(answer.json()["object"], "chat.completion");
    let mut body = chat(MODEL, "Hi");
    body["stream"] = json!(true);
    let stream = String::from_utf8(ask(&client, &body).await.body).unwrap();
    assert!(stream.starts_with(": keep-alive\n\ndata: {"));
    assert!(!stream.contains("[DONE]"));
    set(&client, &json!({"stream_done": true})).await;
    let stream = String::from_utf8(ask(&client, &body).await.body).unwrap();
    assert!(stream.ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn f_221_paths_may_be_joined_in_any_way() {
    let (emulator, client) = with(json!({})).await;
    for path in [
        "/compatible/v1/chat/completions",
        "/compatible/chat/completions",
        "/compatible/openai/v1/chat/completions",
        "/compatible/api/v1/chat/completions",
        "/compatible/v1//chat/completions",
        "/compatible//v1/chat/completions",
    ] {
        assert_eq!(
            client.post(path, &chat(MODEL, "Hi")).await.status,
            200,
            "{path}"
        );
    }
    assert_eq!(emulator.calls("POST", "/compatible/v1/chat/completions"), 6);
    assert_eq!(client.get("/compatible/v1/nothing").await.status, 404);
}

/// Each switch of a batch object.
#[tokio::test]
async fn f_075_f_084_f_085_f_211_and_f_213_batches_take_every_shape() {
    let (emulator, client) = with(json!({})).await;
    let file = client.input(&rows(2)).await;
    let good = client.batch(&file).await;
    let bad = client.batch("file-none").await;
    emulator.advance(Duration::from_secs(60)).await.unwrap();
    let of = |id: &str| client.path(&format!("/batches/{id}"));
    let message = json!("The input file does not exist or does not have the purpose 'batch'.");
    let gone = Value::Null;
    for (options, batch, pointer, expected) in [
        (
            json!({"status_case": "upper"}),
            &good,
            "/status",
            Some(&json!("COMPLETED")),
        ),
        (
            json!({"status_case": "capital"}),
            &good,
            "/status",
            Some(&json!("Completed")),
        ),
        (
            json!({"statuses": {"completed": "done"}}),
            &good,
            "/status",
            Some(&json!("done")),
        ),
        (
            json!({"times": "text"}),
            &good,
            "/created_at",
            Some(&json!(START.to_string())),
        ),
        (
            json!({"times": "iso"}),
            &good,
            "/created_at",
            Some(&json!("2025-11-22T08:26:40Z")),
        ),
        (
            json!({"times": "millis"}),
            &good,
            "/created_at",
            Some(&json!(START * 1000)),
        ),
        (
            json!({"counts": "null"}),
            &good,
            "/request_counts",
            Some(&gone),
        ),
        (json!({"counts": "absent"}), &good, "/request_counts", None),
        (json!({"metadata": "drop"}), &good, "/metadata", None),
        (json!({"absent": "missing"}), &good, "/error_file_id", None),
        (
            json!({"absent": "empty"}),
            &good,
            "/error_file_id",
            Some(&json!("")),
        ),
        (
            json!({"batch_errors": "array"}),
            &bad,
            "/errors/0/message",
            Some(&message),
        ),
        (
            json!({"batch_errors": "texts"}),
            &bad,
            "/errors/0",
            Some(&message),
        ),
        (
            json!({"batch_errors": "text"}),
            &bad,
            "/errors",
            Some(&message),
        ),
        (
            json!({"batch_errors": "null"}),
            &bad,
            "/errors",
            Some(&gone),
        ),
    ] {
        set(&client, &json!({"preset": "plain"})).await;
        let before = client.get(&of(batch)).await.json();
        assert_ne!(
            before.pointer(pointer),
            expected,
            "{pointer} before {options}"
        );
        set(&client, &options).await;
        let after = client.get(&of(batch)).await.json();
        assert_eq!(
            after.pointer(pointer),
            expected,
            "{pointer} after {options}"
        );
    }
}

#[tokio::test]
async fn f_210_f_212_and_f_219_endpoints_can_be_missing() {
    let (_emulator, client) = with(json!({})).await;
    let file = client.input(&rows(1)).await;
    let batch = client.batch(&file).await;
    let status = async |rest: String| client.get(&client.path(&rest)).await.status;
    for (options, rest) in [
        (json!({"lists": "absent"}), "/batches".to_owned()),
        (
            json!({"file_status": "no_endpoint"}),
            format!("/files/{file}"),
        ),
        (json!({"batches": false}), format!("/batches/{batch}")),
    ] {
        set(&client, &json!({"preset": "plain"})).await;
        assert_eq!(status(rest.clone()).await, 200, "{rest}");
        set(&client, &options).await;
        assert_eq!(status(rest.clone()).await, 404, "{rest}");
    }
}

#[tokio::test]
async fn f_116_and_f_210_lists_take_every_shape() {
    let (_emulator, client) = with(json!({"page": 2})).await;
    let file = client.input(&rows(1)).await;
    for _ in 0..3 {
        client.batch(&file).await;
    }
    let path = client.path("/batches");
    let length = |list: &Value| list.as_array().map(Vec::len);
    for (lists, rest, pointer, expected) in [
        ("after", "?limit=2", "/data", 2),
        ("cursor", "", "/data", 2),
        ("cursor", "?cursor=c2", "/data", 1),
        ("pages", "?page=1", "/data", 1),
        ("pages", "?page=0&page_size=3", "/data", 3),
        ("whole", "", "/data", 3),
        ("array", "", "", 3),
    ] {
        set(&client, &json!({"lists": lists})).await;
        let list = client.get(&format!("{path}{rest}")).await.json();
        assert_eq!(
            list.pointer(pointer).and_then(length),
            Some(expected),
            "{lists}{rest}"
        );
    }
}

#[tokio::test]
async fn f_214_and_f_215_creation_may_validate_and_ask_for_more_rows() {
    let (emulator, client) =
        with(json!({"validation": "at_creation", "errors": "list_data"})).await;
    let file = client.input(&["not json".to_owned()]).await;
    let body = Client::batch_body(&file);
    let refused = client.post(&client.path("/batches"), &body).await;
    assert_eq!(refused.status, 400);
    assert!(refused.json()["errors"]["data"][0]["message"].is_string());
    let few = Client::batch_body(&client.input(&rows(2)).await);
    assert_eq!(
        client.post(&client.path("/batches"), &few).await.status,
        200
    );
    let created = client.post(&client.path("/batches"), &few).await.json();
    assert_eq!(created["status"], "in_progress");
    assert_eq!(created["request_counts"]["total"], 2);
    emulator.advance(Duration::from_secs(10)).await.unwrap();
    let seen = client.see(created["id"].as_str().unwrap()).await;
    assert_eq!(seen["status"], "completed");
    assert_eq!(client.lines(&seen["output_file_id"]).await.len(), 2);
    set(&client, &json!({"least_rows": 3})).await;
    assert_eq!(
        client.post(&client.path("/batches"), &few).await.status,
        400
    );
    set(&client, &json!({"validation": "later"})).await;
    let created = client.post(&client.path("/batches"), &few).await.json();
    emulator.advance(Duration::from_secs(2)).await.unwrap();
    let seen = client.see(created["id"].as_str().unwrap()).await;
    assert_eq!(seen["status"], "failed");
    assert_eq!(seen["errors"]["data"][0]["code"], "too_few_tasks");
}

#[tokio::test]
async fn f_218_an_idempotency_key_makes_one_batch_where_it_is_offered() {
    let (_emulator, client) = with(json!({})).await;
    let file = client.input(&rows(1)).await;
    let body = Client::batch_body(&file).to_string();
    let create = async || {
        let headers = [("idempotency-key", "one")];
        let path = client.path("/batches");
        let answer = client.call("POST", &path, &headers, body.as_bytes()).await;
        answer.json()["id"].as_str().unwrap().to_owned()
    };
    assert_ne!(create().await, create().await);
    set(&client, &json!({"idempotency_key": true})).await;
    assert_eq!(create().await, create().await);
}

#[tokio::test]
async fn f_082_and_f_104_rows_take_every_shape() {
    let (emulator, client) = with(json!({})).await;
    let bad = |id: &str| line_for(MODEL, id, "[[error:422]]");
    let run = async |options: Value| {
        set(&client, &json!({"preset": "plain"})).await;
        set(&client, &options).await;
        let file = client.input(&[rows(1).remove(0), bad("r-bad")]).await;
        let batch = client.batch(&file).await;
        emulator.advance(Duration::from_secs(60)).await.unwrap();
        let batch = client.see(&batch).await;
        let output = client.lines(&batch["output_file_id"]).await;
        let error = client.lines(&batch["error_file_id"]).await;
        (output, error)
    };
    let (output, error) = run(json!({"one_results_file": true})).await;
    assert_eq!((output.len(), error.len()), (2, 0));
    let (_, error) = run(json!({"row_errors": "text_body"})).await;
    let body = error[0]["response"]["body"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(body).unwrap()["error"].is_object());
    let (_, error) = run(json!({"row_errors": "text"})).await;
    assert!(error[0]["error"].is_string());
    let (output, error) = run(json!({"row_errors": "no_key"})).await;
    assert!(output[0].get("error").is_none());
    assert_eq!(error[0]["response"]["status_code"], 422);
    let (_, error) = run(json!({"errors": "detail"})).await;
    assert!(error[0]["response"]["body"]["detail"].is_string());
}

#[tokio::test]
async fn azure_has_deployments_pending_files_and_capital_states() {
    let (emulator, client) = with(json!({"preset": "azure"})).await;
    let path = "/compatible/openai/deployments/small-model/chat/completions?api-version=2024-10-21";
    let body = json!({"messages": [{"role": "user", "content": "Hi"}]}).to_string();
    let answer = client
        .with_key("")
        .call("POST", path, &[("api-key", "k-1")], body.as_bytes())
        .await;
    assert_eq!(answer.status, 200, "the key may be in its own header");
    let answer = client.call("POST", path, &[], body.as_bytes()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["model"], "small-model");
    assert_eq!(answer.header("x-ratelimit-remaining-tokens"), Some("-1"));
    let missing = path.replace("small-model", "nobody");
    let missing = client.call("POST", &missing, &[], body.as_bytes()).await;
    assert_eq!(missing.json()["error"]["code"], "DeploymentNotFound");
    let filtered = ask(&client, &chat(MODEL, "[[filter]]")).await;
    assert_eq!(filtered.status, 400);
    assert_eq!(
        filtered.json()["error"]["innererror"]["code"],
        "ResponsibleAIPolicyViolation"
    );

    let line = rows(1).remove(0).replace("/v1/chat", "/chat");
    let file = client.input(&[line]).await;
    let of_file = client.path(&format!("/files/{file}"));
    assert_eq!(client.get(&of_file).await.json()["status"], "pending");
    let mut creation = Client::batch_body(&file);
    creation["endpoint"] = json!("/chat/completions");
    let batches = "/compatible/openai/batches?api-version=2024-10-21";
    assert_eq!(client.post(batches, &creation).await.status, 400);
    emulator.advance(Duration::from_secs(60)).await.unwrap();
    assert_eq!(client.get(&of_file).await.json()["status"], "processed");
    let created = client.post(batches, &creation).await.json();
    assert_eq!(created["status"], "Validating");
    assert!(created["created_at"].as_str().unwrap().ends_with('Z'));
    emulator.advance(Duration::from_secs(60)).await.unwrap();
    let done = client.see(created["id"].as_str().unwrap()).await;
    assert_eq!(done["status"], "Completed");
    let empty = client.lines(&done["error_file_id"]).await;
    assert!(done["error_file_id"].is_string() && empty.is_empty());
}

/// Azure does not expire a batch whose window is over.
#[tokio::test]
async fn f_071_a_batch_may_outlive_its_window() {
    let pace = quick_pace().with_per_row(Duration::from_secs(20 * 3600));
    let config = still()
        .with_pace(pace)
        .with_face_options(Face::Compatible, json!({"never_expires": true}));
    let (emulator, client) = start(config).await;
    let client = client.at(Face::Compatible);
    let file = client.input(&rows(3)).await;
    let batch = client.batch(&file).await;
    emulator
        .advance(Duration::from_secs(30 * 3600))
        .await
        .unwrap();
    assert_eq!(client.see(&batch).await["status"], "in_progress");
    emulator
        .advance(Duration::from_secs(40 * 3600))
        .await
        .unwrap();
    assert_eq!(client.see(&batch).await["status"], "completed");
}

#[tokio::test]
async fn together_wraps_its_job_once_and_lists_a_bare_array() {
    let (emulator, client) = with(json!({"preset": "together"})).await;
    let (kind, form) = crate::client::form("in.jsonl", "batch-api", rows(1)[0].as_bytes());
    let path = client.path("/files/upload");
    let headers = [("content-type", kind.as_str())];
    let uploaded = client.call("POST", &path, &headers, &form).await.json();
    let body = json!({"input_file_id": uploaded["id"], "endpoint": "/v1/chat/completions"});
    let created = client.post(&client.path("/batches"), &body).await;
    assert_eq!(created.status, 201);
    let job = created.json()["job"].clone();
    assert_eq!(job["status"], "VALIDATING");
    emulator.advance(Duration::from_secs(60)).await.unwrap();
    let list = client.get(&client.path("/batches")).await.json();
    assert_eq!(list[0]["id"], job["id"]);
    assert_eq!(list[0]["status"], "COMPLETED");
    assert_eq!(list[0]["progress"], 100);
    assert!(list[0].get("metadata").is_none());
    let rows = client.lines(&list[0]["output_file_id"]).await;
    assert!(rows[0].get("error").is_none());
}

#[tokio::test]
async fn doubleword_calls_a_batch_of_failures_failed() {
    let (emulator, client) = with(json!({"preset": "doubleword"})).await;
    let file = client
        .input(&[line_for(MODEL, "r-1", "[[error:400]]")])
        .await;
    let body = Client::batch_body(&file);
    let created = client.post(&client.path("/batches"), &body).await;
    assert_eq!(created.status, 201);
    assert!(created.json().get("errors").is_none());
    emulator.advance(Duration::from_secs(60)).await.unwrap();
    let seen = client.see(created.json()["id"].as_str().unwrap()).await;
    assert_eq!(seen["status"], "failed");
    assert_eq!(client.lines(&seen["error_file_id"]).await.len(), 1);
}

#[tokio::test]
async fn options_that_are_none_are_refused() {
    let (_emulator, client) = with(json!({})).await;
    for options in [
        json!({"usage": "sometimes"}),
        json!({"colour": 1}),
        json!(3),
    ] {
        let answer = client.post("/emulator/faces/compatible", &options).await;
        assert_eq!(answer.status, 400, "{options}");
    }
    assert_eq!(client.get("/emulator/faces/nobody").await.status, 404);
    let config = still().with_face_options(Face::Compatible, json!({"colour": 1}));
    let error = Emulator::start(config).await.unwrap_err();
    assert!(error.to_string().contains("compatible"), "{error}");
    set(&client, &json!({"usage": "null"})).await;
    assert_eq!(client.post("/emulator/reset", &json!({})).await.status, 200);
    let after = client.get("/emulator/faces/compatible").await.json();
    assert_eq!(after["usage"], "plain", "a reset goes back to the config");
}

#[tokio::test]
async fn mistral_has_jobs_that_bring_their_model_and_may_bring_their_rows() {
    let (emulator, client) = with(json!({"preset": "mistral"})).await;
    let jobs = client.path("/batch/jobs");
    assert_eq!(client.get(&client.path("/batches")).await.status, 404);
    let row = |id: &str, text: &str| {
        let messages = json!([{"role": "user", "content": text}]);
        json!({"custom_id": id, "body": {"messages": messages}})
    };
    let (good, bad) = (row("r-1", "one"), row("r-2", "[[error:422]]"));
    let file = client.input(&[good.to_string(), bad.to_string()]).await;
    let common = json!({"model": MODEL, "endpoint": "/v1/chat/completions",
                        "timeout_hours": 48, "metadata": {"run": "1"}});
    let mut of_file = common.clone();
    of_file["input_files"] = json!([file]);
    let mut inline = common.clone();
    // Ids need not be unique.
    inline["requests"] = json!([good, good]);
    let mut made = Vec::new();
    for body in [&of_file, &inline] {
        let job = client.post(&jobs, body).await;
        assert_eq!(job.status, 200);
        assert_eq!(job.json()["status"], "QUEUED");
        made.push(job.json()["id"].as_str().unwrap().to_owned());
    }
    emulator.advance(Duration::from_secs(60)).await.unwrap();
    let see = async |id: &str| client.get(&format!("{jobs}/{id}")).await;
    let mixed = see(&made[0]).await.json();
    assert_eq!(mixed["status"], "SUCCESS");
    assert_eq!(mixed["completed_requests"], 2);
    assert_eq!(mixed["failed_requests"], 1);
    let failed = client.lines(&mixed["error_file"]).await;
    let body = failed[0]["response"]["body"].as_str().unwrap();
    assert!(body.contains("detail"));
    let twice = see(&made[1]).await.json();
    assert_eq!(client.lines(&twice["output_file"]).await.len(), 2);

    let page = client
        .get(&format!("{jobs}?page=1&page_size=1"))
        .await
        .json();
    assert_eq!(
        (&page["total"], &page["data"][0]["id"]),
        (&json!(2), &json!(made[0]))
    );
    let gone = client
        .call("DELETE", &format!("{jobs}/{}", made[0]), &[], b"")
        .await;
    assert_eq!(gone.status, 204);
    assert_eq!(see(&made[0]).await.status, 404);
    assert_eq!(
        emulator.invoice().await.unwrap().len(),
        3,
        "deleted and billed"
    );
    let running = client.post(&jobs, &inline).await.json()["id"].clone();
    let path = format!("{jobs}/{}/cancel", running.as_str().unwrap());
    let cancelled = client.post(&path, &json!({})).await.json();
    assert_eq!(cancelled["status"], "CANCELLATION_REQUESTED");
    let refused = client.post(&jobs, &json!({"endpoint": "/v1/ocr"})).await;
    assert_eq!(refused.status, 400);
    assert!(refused.json()["detail"].is_string());
}
