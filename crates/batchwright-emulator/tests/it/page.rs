//! The page at `/emulator`.

use std::time::Duration;

use batchwright_emulator::{Face, FaultAction, FaultRule};
use serde_json::json;

use crate::client::{START, chat, line_for, lines, quick_pace, start, still};

#[tokio::test]
async fn the_page_shows_requests_batches_invoice_clock_and_faults() {
    let rule = FaultRule::on("POST", "/never").action(FaultAction::CommitThenDrop);
    let config = still().with_pace(quick_pace()).with_faults(vec![rule]);
    let (emulator, client) = start(config).await;
    let file = client.input(&lines(3)).await;
    let batch = client.batch(&file).await;
    let groq = client.at(Face::Groq);
    let body = chat("llama-3.1-8b-instant", "Hi");
    groq.post(&groq.path("/chat/completions"), &body).await;
    emulator.advance(Duration::from_secs(60)).await.unwrap();

    let page = client.get("/emulator").await;
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'sha256-"));
    let html = String::from_utf8(page.body).unwrap();
    for shown in [
        batch.as_str(),
        "completed",
        "POST /batches",
        "/groq/openai/v1",
        "<td>groq</td><td>realtime</td><td class=\"n\">1</td>",
        "<td>openai</td><td>batch</td><td class=\"n\">3</td>",
        "llama-3.1-8b-instant",
        "commit_then_drop",
        "2025-11-22T08:27:40Z",
        "name=\"advance\" value=\"24h\"",
        "http-equiv=\"refresh\"",
    ] {
        assert!(html.contains(shown), "{shown}");
    }
    assert!(!html.contains("http://") && !html.contains("https://"));
}

#[tokio::test]
async fn f_202_nothing_from_outside_reaches_the_page_as_markup() {
    let rule = FaultRule::list_from_json(
        r#"[{"name": "<script>alert(1)</script>", "match": {"path": "/\"><b>"}, "actions": []}]"#,
    )
    .unwrap();
    let config = still().with_pace(quick_pace()).with_faults(rule);
    let (emulator, client) = start(config).await;
    let line = line_for("gpt-4o-mini", "<img src=x onerror=alert(2)>", "Hi");
    let file = client.input(&[line]).await;
    client.batch(&file).await;
    emulator.advance(Duration::from_secs(60)).await.unwrap();
    let html = String::from_utf8(client.get("/emulator").await.body).unwrap();
    assert!(html.contains("&lt;img src=x onerror=alert(2)&gt;"));
    for markup in ["<img", "<script>alert", "<b>"] {
        assert!(!html.contains(markup), "{markup}");
    }
}

#[tokio::test]
async fn buttons_move_the_clock_and_come_back_to_the_page() {
    let (emulator, client) = start(still()).await;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let pressed = client
        .call("POST", "/emulator/clock", &form, b"advance=24h")
        .await;
    assert_eq!(
        (pressed.status, pressed.header("location")),
        (303, Some("/emulator"))
    );
    assert_eq!(emulator.now_ms(), (START + 86_400) * 1000);
    let foreign = [form[0], ("origin", "http://elsewhere.example")];
    let refused = client
        .call("POST", "/emulator/clock", &foreign, b"advance=24h")
        .await;
    assert_eq!(refused.status, 403);
    let ours = format!("http://{}", emulator.addr());
    let own = [form[0], ("origin", ours.as_str())];
    let pressed = client
        .call("POST", "/emulator/clock", &own, b"advance=1m")
        .await;
    assert_eq!(pressed.status, 303);
    let odd = client
        .call("POST", "/emulator/clock", &form, b"advance=soon")
        .await;
    assert_eq!(odd.status, 400);
    assert_eq!(emulator.now_ms(), (START + 86_460) * 1000);
}

#[tokio::test]
async fn the_index_names_every_face() {
    let (_emulator, client) = start(still()).await;
    let index = client.get("/emulator/index").await.json();
    for face in Face::ALL {
        assert_eq!(index["faces"][face.name()], json!(face.base_path()));
    }
}
