//! What survives a kill.

use std::path::Path;
use std::time::Duration;

use batchwright_emulator::{Emulator, EmulatorConfig};
use serde_json::json;
use tempfile::TempDir;

use crate::client::{Client, START, chat, ids, lines, quick_pace, start, still};

fn on(dir: &Path) -> EmulatorConfig {
    still().with_pace(quick_pace()).with_data_dir(dir)
}

/// Copies a data folder as it is at this instant, which is what a kill leaves.
fn snapshot(from: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                std::fs::create_dir(&target).unwrap();
                copy(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let to = tempfile::tempdir().unwrap();
    copy(from, to.path());
    to
}

#[tokio::test]
async fn a_batch_goes_on_after_a_kill_and_bills_no_row_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (emulator, client) = start(on(dir.path())).await;
    let file = client.input(&lines(20)).await;
    let id = client.batch(&file).await;
    client
        .post("/openai/v1/chat/completions", &chat("gpt-4o", "x"))
        .await;
    emulator.advance(Duration::from_secs(9)).await.unwrap();

    let killed = snapshot(dir.path());
    // A kill tears whatever was being written.
    let torn = |name: &str| {
        use std::io::Write as _;
        let path = killed.path().join(name);
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        file.write_all(b"{\"torn\":").unwrap();
    };
    torn("invoice.jsonl");
    for kind in ["output", "error", "invoice"] {
        torn(&format!("batches/{id}.{kind}"));
    }
    torn("files/7.scratch");
    torn("batches/x.json.new");

    let (again, client) = start(on(killed.path())).await;
    assert_eq!(again.now_ms(), (START + 9) * 1000);
    let seen = client.see(&id).await;
    assert_eq!(seen["status"], "in_progress");
    assert_eq!(seen["request_counts"]["completed"], 8);
    assert_eq!(again.invoice().await.unwrap().len(), 9);
    again.advance(Duration::from_secs(60)).await.unwrap();
    let seen = client.see(&id).await;
    assert_eq!(seen["status"], "completed");
    let output = client.lines(&seen["output_file_id"]).await;
    assert_eq!((output.len(), ids(&output).len()), (20, 20));
    let invoice = again.invoice().await.unwrap();
    assert_eq!(invoice.len(), 21);
    // New ids do not meet old ones, and the realtime invoice goes on behind the torn line.
    let other = client.input(&lines(1)).await;
    assert_ne!(other, file);
    client
        .post("/openai/v1/chat/completions", &chat("gpt-4o", "y"))
        .await;
    assert_eq!(again.invoice().await.unwrap().len(), 22);

    // The emulator that was not killed comes to the same result, byte for byte.
    emulator.advance(Duration::from_secs(60)).await.unwrap();
    let alive = Client::new(emulator.addr());
    assert_eq!(alive.see(&id).await, seen);
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (emulator, client) = start(on(dir.path())).await;
    let file = client.input(&lines(3)).await;
    let id = client.batch(&file).await;
    let cancelled = client.batch(&file).await;
    client
        .post(
            &format!("/openai/v1/batches/{cancelled}/cancel"),
            &json!({}),
        )
        .await;
    emulator.advance(Duration::from_secs(60)).await.unwrap();
    let before = (client.see(&id).await, emulator.invoice().await.unwrap());
    emulator.shutdown().await;

    let (emulator, client) = start(on(dir.path())).await;
    assert_eq!(emulator.now_ms(), (START + 60) * 1000);
    assert_eq!(
        before,
        (client.see(&id).await, emulator.invoice().await.unwrap())
    );
    assert_eq!(client.see(&cancelled).await["status"], "cancelled");
    assert_eq!(client.lines(&before.0["output_file_id"]).await.len(), 3);
}

#[tokio::test]
async fn without_a_data_folder_nothing_stays() {
    let emulator = Emulator::start(still()).await.unwrap();
    Client::new(emulator.addr()).input(&lines(1)).await;
    let dir = emulator.data_dir().to_path_buf();
    assert!(dir.is_dir());
    emulator.shutdown().await;
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_slow_answers() {
    let config = still().with_latency(Duration::from_secs(3_600));
    let (emulator, client) = start(config).await;
    let body = chat("gpt-4o", "x").to_string();
    let path = "/openai/v1/chat/completions";
    let call = async { client.raw("POST", path, &[], body.as_bytes()).await };
    let stop = async {
        while emulator.invoice().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        emulator.shutdown().await;
    };
    let both = async { tokio::join!(call, stop) };
    let ((received, _), ()) = tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .unwrap();
    assert!(received.is_empty());
}
