//! The fault script over real connections.

use std::time::Duration;

use batchwright_emulator::{
    Cut, Emulator, FaultAction, FaultRule, Mutation, MutationKind, Nth, Reply, Span,
};
use serde_json::{Value, json};

use crate::client::{Client, chat, form, ids, lines, quick_pace, start, still};

const BATCHES: &str = "/openai/v1/batches";
const CHAT: &str = "/openai/v1/chat/completions";

async fn with_rule(rule: FaultRule) -> (Emulator, Client) {
    start(still().with_pace(quick_pace()).with_faults(vec![rule])).await
}

async fn listed(client: &Client) -> usize {
    let list = client.get(BATCHES).await.json();
    list["data"].as_array().unwrap().len()
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

#[tokio::test]
async fn f_110_and_f_034_a_create_without_an_answer_may_or_may_not_have_worked() {
    for (action, exists) in [
        (FaultAction::CommitThenDrop, 1),
        (FaultAction::DropBeforeCommit, 0),
        (FaultAction::Reset, 0),
    ] {
        let rule = FaultRule::on("POST", BATCHES)
            .times(1)
            .action(action.clone());
        let (emulator, client) = with_rule(rule).await;
        let file = client.input(&lines(1)).await;
        let body = Client::batch_body(&file).to_string();
        let (received, _) = client.raw("POST", BATCHES, &[], body.as_bytes()).await;
        assert!(received.is_empty(), "{action:?}");
        assert_eq!(listed(&client).await, exists, "{action:?}");
        assert_eq!(emulator.calls("POST", BATCHES), 1);
        // The rule is used up.
        client.batch(&file).await;
        assert_eq!(listed(&client).await, exists + 1);
    }
}

#[tokio::test]
async fn f_112_a_server_error_after_commit() {
    let reply = Reply::status(502).with_body(json!("<html>bad gateway</html>"));
    let rule = FaultRule::on("POST", BATCHES).action(FaultAction::CommitThenReply(reply));
    let (_emulator, client) = with_rule(rule).await;
    let answer = client.post(BATCHES, &Client::batch_body("file-1")).await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.body, b"<html>bad gateway</html>");
    assert_eq!(listed(&client).await, 1);
}

#[tokio::test]
async fn f_113_a_late_commit_appears_in_its_own_time() {
    let span = Span::from(minutes(10));
    let rule = FaultRule::on("POST", BATCHES).action(FaultAction::CommitLate(span));
    let (emulator, client) = with_rule(rule).await;
    let file = client.input(&lines(1)).await;
    let body = Client::batch_body(&file).to_string();
    let (received, _) = client.raw("POST", BATCHES, &[], body.as_bytes()).await;
    assert!(received.is_empty());
    let asked = emulator.now_ms() / 1000;
    emulator.advance(minutes(9)).await.unwrap();
    assert_eq!(listed(&client).await, 0);
    emulator.advance(minutes(60)).await.unwrap();
    let list = client.get(BATCHES).await.json();
    assert_eq!(list["data"][0]["created_at"], asked + 600);
    assert_eq!(list["data"][0]["status"], "completed");
    assert_eq!(emulator.calls("POST", BATCHES), 1);
}

#[tokio::test]
async fn f_114_and_f_086_lags_hide_what_exists() {
    let span = Span::from(minutes(2));
    let rule = FaultRule::on("POST", BATCHES).action(FaultAction::ListLag(span));
    let (emulator, client) = with_rule(rule).await;
    let batch = client.batch("file-1").await;
    assert_eq!(listed(&client).await, 0);
    assert_eq!(client.see(&batch).await["id"], batch);
    emulator.advance(minutes(2)).await.unwrap();
    assert_eq!(listed(&client).await, 1);

    emulator.add_faults(vec![
        FaultRule::on("POST", "/openai/v1/files").action(FaultAction::VisibleLag(span)),
    ]);
    let file = client.input(&lines(1)).await;
    let path = format!("/openai/v1/files/{file}");
    assert_eq!(client.get(&path).await.status, 404);
    emulator.advance(minutes(2)).await.unwrap();
    assert_eq!(client.get(&path).await.status, 200);
}

#[tokio::test]
async fn f_070_to_f_072_states_can_be_held() {
    // A batch held in validation past its window would expire; the other states may outlast it.
    for (state, hours) in [
        ("validating", 20),
        ("in_progress", 30),
        ("finalizing", 30),
        ("hibernating", 30),
    ] {
        let rule = FaultRule::on("POST", BATCHES).action(FaultAction::Stick {
            state: state.to_owned(),
            span: Span::from(minutes(60 * hours)),
        });
        let (emulator, client) = with_rule(rule).await;
        let id = client.batch(&client.input(&lines(2)).await).await;
        emulator.advance(minutes(60 * (hours - 1))).await.unwrap();
        assert_eq!(client.see(&id).await["status"], state);
        emulator.advance(minutes(61)).await.unwrap();
        assert_eq!(client.see(&id).await["status"], "completed", "{state}");
    }
}

#[tokio::test]
async fn f_097_to_f_108_results_files_go_wrong() {
    let all: Vec<String> = (0..10).map(|n| format!("r-{n}")).collect();
    for kind in [
        MutationKind::Drop,
        MutationKind::Duplicate,
        MutationKind::Add,
        MutationKind::Swap,
        MutationKind::Hollow,
        MutationKind::Garble,
        MutationKind::Truncate,
        MutationKind::Html,
        MutationKind::Blank,
        MutationKind::Crlf,
        MutationKind::Bom,
    ] {
        let mutation = FaultAction::MutateResults(Mutation::new(kind, 2));
        let rule = FaultRule::on("POST", BATCHES).action(mutation);
        let (emulator, client) = with_rule(rule).await;
        let id = client.batch(&client.input(&lines(10)).await).await;
        emulator.advance(minutes(5)).await.unwrap();
        let seen = client.see(&id).await;
        let file = seen["output_file_id"].as_str().unwrap().to_owned();
        let path = format!("/openai/v1/files/{file}");
        let bytes = client.get(&path).await.json()["bytes"].as_u64().unwrap();
        let answer = client.get(&format!("{path}/content")).await;
        assert_eq!(answer.body.len() as u64, bytes);
        let text = String::from_utf8(answer.body).unwrap();
        let parsed: Vec<Value> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let found = ids(&parsed);
        let known = all.iter().filter(|id| found.contains(*id)).count();
        match kind {
            MutationKind::Drop | MutationKind::Garble => assert!((8..10).contains(&known)),
            MutationKind::Duplicate => assert_eq!((parsed.len(), known), (12, 10)),
            MutationKind::Add => assert_eq!((found.len(), known), (12, 10)),
            MutationKind::Swap => {
                assert_eq!(known, 10);
                let crossed = parsed.iter().filter(|line| !is_right(line)).count();
                assert!(crossed >= 2, "{crossed} rows have another row's answer");
            }
            MutationKind::Hollow => {
                let hollow = |line: &&Value| line["response"]["status_code"] == 0;
                assert!(parsed.iter().any(|line| hollow(&line)));
                assert_eq!(known, 10);
            }
            MutationKind::Truncate => assert_eq!(parsed.len(), 9),
            MutationKind::Html => assert!(text.starts_with("<html>")),
            MutationKind::Blank => {
                let empty = text.lines().filter(|line| line.is_empty()).count();
                assert_eq!((empty, known), (2, 10));
            }
            MutationKind::Crlf => assert_eq!(text.matches("\r\n").count(), 10),
            MutationKind::Bom => assert!(text.starts_with('\u{feff}')),
            _ => unreachable!("no such case"),
        }
    }
}

fn is_right(line: &Value) -> bool {
    let id = line["custom_id"].as_str().unwrap();
    let number = id.strip_prefix("r-").unwrap();
    let hash = batchwright_emulator::prompt_hash([format!("question {number}")]);
    line["response"]["body"]["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
        .contains(&hash)
}

#[tokio::test]
async fn f_106_one_download_goes_wrong_and_the_next_is_whole() {
    let path = "/openai/v1/files/*/content";
    let mutation = FaultAction::MutateResults(Mutation::new(MutationKind::Truncate, 10));
    let rule = FaultRule::on("GET", path).times(1).action(mutation);
    let (emulator, client) = with_rule(rule).await;
    emulator.add_faults(vec![
        FaultRule::on("GET", path)
            .nth(Nth::One(2))
            .action(FaultAction::CutAfter {
                bytes: 100,
                how: Cut::Rst,
            }),
        FaultRule::on("GET", path)
            .nth(Nth::One(3))
            .action(FaultAction::IgnoreRange),
    ]);
    let content = lines(5).join("\n");
    let made = client.upload("a.jsonl", "batch", content.as_bytes()).await;
    let path = format!(
        "/openai/v1/files/{}/content",
        made.json()["id"].as_str().unwrap()
    );
    let short = client.get(&path).await;
    assert!(short.whole);
    assert_eq!(short.body, &content.as_bytes()[..content.len() - 10]);
    let cut = client.get(&path).await;
    assert!(!cut.whole);
    assert_eq!(cut.body.len(), 100);
    let range = [("range", "bytes=5-")];
    let ignored = client.call("GET", &path, &range, b"").await;
    assert_eq!((ignored.status, ignored.body.len()), (200, content.len()));
    let whole = client.get(&path).await;
    assert!(whole.whole);
    assert_eq!(whole.body, content.as_bytes());
}

#[tokio::test]
async fn f_035_to_f_039_bodies_break_off_lie_and_trickle() {
    let (emulator, client) = start(still()).await;
    let whole = client.post(CHAT, &chat("gpt-4o", "x")).await;
    let len = whole.body.len();
    let act = |action: FaultAction| {
        emulator.clear_faults();
        emulator.add_faults(vec![FaultRule::on("POST", CHAT).action(action)]);
        client.post(CHAT, &TEXT)
    };
    static TEXT: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| chat("gpt-4o", "x"));
    let cut = act(FaultAction::CutAfter {
        bytes: 40,
        how: Cut::Fin,
    })
    .await;
    assert_eq!((cut.whole, cut.body.len()), (false, 40));
    let lie = act(FaultAction::LieContentLength(100)).await;
    assert_eq!((lie.whole, lie.body.len()), (false, len));
    assert_eq!(
        lie.header("content-length"),
        Some(&*(len + 100).to_string())
    );
    let endless = act(FaultAction::NoLength).await;
    assert_eq!(endless.header("content-length"), None);
    assert_eq!(endless.header("transfer-encoding"), None);
    assert_eq!(endless.body.len(), len);
    let slow = std::time::Instant::now();
    let trickled = act(FaultAction::Trickle {
        bytes: len / 4,
        every: Span::from(Duration::from_millis(20)),
    })
    .await;
    // Four pieces have three pauses between them.
    assert!(slow.elapsed() >= Duration::from_millis(60));
    assert!(trickled.whole);
    for action in [
        FaultAction::DelayHeaders(Span::from(Duration::from_millis(50))),
        FaultAction::DelayBody(Span::from(Duration::from_millis(50))),
    ] {
        let slow = std::time::Instant::now();
        let answer = act(action).await;
        assert!(answer.whole && slow.elapsed() >= Duration::from_millis(50));
    }
    assert_eq!(emulator.invoice().await.unwrap().len(), 7);
}

#[tokio::test]
async fn f_005_a_reply_stands_for_the_true_answer() {
    let script = r#"{"rules": [{
        "name": "no money",
        "match": {"method": "POST", "path": "*/chat/completions", "body_contains": "canary",
                  "header": {"name": "Authorization", "contains": "sk-"}},
        "actions": [{"reply": {"status": 429, "headers": {"x-should-retry": "false"},
            "body": {"error": {"message": "m", "type": "insufficient_quota", "param": null,
                               "code": "insufficient_quota"}}}}]}]}"#;
    let (emulator, client) = start(still()).await;
    let added = client
        .call("POST", "/emulator/faults", &[], script.as_bytes())
        .await;
    assert_eq!(added.status, 200);
    assert_eq!(client.post(CHAT, &chat("gpt-4o", "x")).await.status, 200);
    let refused = client.post(CHAT, &chat("gpt-4o", "a canary")).await;
    assert_eq!(
        refused.error(),
        (429, Value::Null, json!("insufficient_quota"))
    );
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    let rules = client.get("/emulator/faults").await.json();
    assert_eq!(rules["rules"][0]["name"], "no money");
    assert_eq!(rules["rules"][0]["fired"], 1);
    assert_eq!(emulator.invoice().await.unwrap().len(), 1);
    assert_eq!(
        client
            .call("DELETE", "/emulator/faults", &[], b"")
            .await
            .status,
        200
    );
    assert_eq!(
        client.post(CHAT, &chat("gpt-4o", "a canary")).await.status,
        200
    );
    let bad = client
        .call("POST", "/emulator/faults", &[], b"{\"rules\":[{}]}")
        .await;
    assert_eq!(bad.status, 400);
}

#[tokio::test]
async fn f_081_f_083_f_105_and_f_088_batches_lie_late_and_vanish() {
    let counts = serde_json::from_value(json!({"total": 9, "completed": 9, "failed": 0})).unwrap();
    let rule = FaultRule::on("POST", BATCHES)
        .action(FaultAction::LieCounts(counts))
        .action(FaultAction::LateFileIds(Span::from(minutes(5))))
        .action(FaultAction::FailRows {
            status: 500,
            every: 2,
        })
        .action(FaultAction::ForgetAfter(Span::from(minutes(60))));
    let (emulator, client) = with_rule(rule).await;
    let id = client.batch(&client.input(&lines(4)).await).await;
    emulator.advance(minutes(4)).await.unwrap();
    let seen = client.see(&id).await;
    assert_eq!(seen["status"], "completed");
    assert_eq!(seen["request_counts"]["completed"], 9);
    assert_eq!(seen["output_file_id"], Value::Null);
    emulator.advance(minutes(5)).await.unwrap();
    let seen = client.see(&id).await;
    let errors = client.lines(&seen["error_file_id"]).await;
    assert_eq!(ids(&errors), ["r-1".to_owned(), "r-3".to_owned()].into());
    assert_eq!(errors[0]["response"]["status_code"], 500);
    assert_eq!(client.lines(&seen["output_file_id"]).await.len(), 2);
    emulator.advance(minutes(60)).await.unwrap();
    assert_eq!(
        client.get(&format!("{BATCHES}/{id}")).await.error(),
        (404, Value::Null, Value::Null)
    );
}

#[tokio::test]
async fn f_076_and_f_079_ends_can_be_chosen() {
    let fail = json!({"code": "token_limit_exceeded", "message": "Enqueued token limit reached"});
    let fail = serde_json::from_value(fail).unwrap();
    for (action, cancel, status, output, errors, billed) in [
        (FaultAction::ExpireAfterRows(3), false, "expired", 3, 7, 3),
        (FaultAction::FailBatch(fail), false, "failed", 0, 0, 0),
        (FaultAction::CancelCompletes, true, "completed", 10, 0, 10),
        (FaultAction::CancelLosesRows, true, "cancelled", 0, 5, 5),
    ] {
        let rule = FaultRule::on("POST", BATCHES).action(action.clone());
        let (emulator, client) = with_rule(rule).await;
        let id = client.batch(&client.input(&lines(10)).await).await;
        emulator.advance(Duration::from_secs(6)).await.unwrap();
        if cancel {
            let path = format!("{BATCHES}/{id}/cancel");
            assert_eq!(client.post(&path, &json!({})).await.status, 200);
        }
        emulator.advance(minutes(60 * 25)).await.unwrap();
        let seen = client.see(&id).await;
        assert_eq!(seen["status"], status, "{action:?}");
        let lines = (
            client.lines(&seen["output_file_id"]).await.len(),
            client.lines(&seen["error_file_id"]).await.len(),
        );
        assert_eq!(lines, (output, errors), "{action:?}");
        assert_eq!(emulator.invoice().await.unwrap().len(), billed);
    }
}

#[tokio::test]
async fn f_045_and_f_118_uploads_break_off_or_are_stored_short() {
    let rule = FaultRule::on("POST", "/openai/v1/files")
        .nth(Nth::One(1))
        .action(FaultAction::StoreShort(4));
    let (emulator, client) = with_rule(rule).await;
    let made = client.upload("a.jsonl", "batch", b"0123456789").await;
    assert_eq!(made.json()["bytes"], 6);
    let path = format!(
        "/openai/v1/files/{}/content",
        made.json()["id"].as_str().unwrap()
    );
    assert_eq!(client.get(&path).await.body, b"012345");

    emulator.add_faults(vec![
        FaultRule::on("POST", "/openai/v1/files")
            .action(FaultAction::ReplyEarly(Reply::status(413))),
    ]);
    let (kind, body) = form("a.jsonl", "batch", &vec![b'x'; 16 << 20]);
    let headers = [("content-type", kind.as_str())];
    let (received, result) = client
        .raw("POST", "/openai/v1/files", &headers, &body)
        .await;
    // The upload cannot end; whether the answer is seen before the reset is the client's art.
    assert!(result.is_err() || received.starts_with(b"HTTP/1.1 413"));
    let files = client.get("/openai/v1/files").await.json();
    assert_eq!(files["data"].as_array().unwrap().len(), 1);
}
