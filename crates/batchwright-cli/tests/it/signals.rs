//! Ctrl-C and its like: once ends in order, twice at once, and both can be gone on from (F-157).

use crate::{
    command::{Place, Running},
    input::{self, PROMPT},
    provider::{BATCHES, CHAT, Provider, quick},
    results,
};
use serde_json::json;
use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const MODEL: &str = "openai:gpt-4o-mini";

const REALTIME: [&str; 12] = [
    "run",
    "in.csv",
    "-m",
    MODEL,
    "-p",
    PROMPT,
    "--job",
    "j",
    "--concurrency",
    "4",
    "-o",
    "out.jsonl",
];

#[test]
fn f_157_one_signal_saves_what_is_in_flight_and_says_how_to_go_on() {
    for signal in ["INT", "TERM", "HUP"] {
        let provider = Provider::start(quick().with_latency(Duration::from_millis(150)));
        let place = Place::of(&provider);
        let (csv, asked) = input::words(30);
        place.write("in.csv", csv);
        let mut running = place.start(&REALTIME);
        running.until("the second round of calls", |_| {
            provider.calls("POST", CHAT) >= 6
        });
        running.signal(signal);
        running
            .wait()
            .assert_code(130)
            .assert_says(&["stopping", "to go", "batchwright resume j"]);
        let billed = provider.invoice().len();
        assert!(billed < asked.len());
        assert!(!place.path("out.jsonl").exists());
        // Whatever was bought is there; nothing of it is bought again.
        let status = place.status("j");
        assert_eq!(status["finished"], billed);
        assert_eq!(status["in_flight"], 0);
        assert_eq!(status["state"], "unfinished");
        place.run(&["verify", "j"]).assert_code(7);

        let resume = if signal == "INT" {
            &["resume", "j"][..]
        } else {
            &REALTIME
        };
        place.run(resume).assert_code(0);
        results::assert_answered(&place.path("out.jsonl"), &asked);
        results::assert_billed_once(&provider.invoice(), &asked);
        place.assert_verified("j");
    }
}

#[test]
fn f_157_two_signals_leave_at_once() {
    let provider = Provider::new();
    // Answers that nobody should wait for.
    provider.fault(&json!([
        {"match": {"path": CHAT, "nth": {"from": 9}}, "actions": [{"delay_headers": "40s"}]}
    ]));
    let place = Place::of(&provider);
    let (csv, asked) = input::words(20);
    place.write("in.csv", csv);
    let mut running = place.start(&REALTIME);
    running.until("slow calls", |_| provider.calls("POST", CHAT) == 12);
    running.signal("INT");
    running.until("its word", |running| running.stderr().contains("stopping"));
    let since = Instant::now();
    running.signal("INT");
    running.wait().assert_code(130);
    assert!(since.elapsed() < Duration::from_secs(10));

    provider.heal();
    let mut again = REALTIME.to_vec();
    again.push("--json");
    let summary = place.run(&again).assert_code(0).summary();
    results::assert_answered(&place.path("out.jsonl"), &asked);
    // Four rows were bought and their answers left behind; they are named.
    let billed = results::billed(&provider.invoice(), &asked);
    let twice: Vec<u64> = (1..)
        .zip(&billed)
        .filter(|(_, times)| **times == 2)
        .map(|(row, _)| row)
        .collect();
    assert_eq!(twice.len(), 4);
    assert_eq!(summary["sent_again_after_interruption"], json!(twice));
    assert!(billed.iter().all(|times| (1..=2).contains(times)));
    place.assert_verified("j");
}

#[test]
fn f_157_batches_go_on_while_nobody_watches() {
    for signals in 1..=2 {
        let provider = Provider::start(quick().with_time_scale(0.0));
        let place = Place::of(&provider);
        let (csv, asked) = input::words(40);
        place.write("in.csv", csv);
        let command = [
            "run",
            "in.csv",
            "-m",
            MODEL,
            "-p",
            PROMPT,
            "--lane",
            "batch",
            "--job",
            "j",
            "--poll",
            "30ms",
            "--settle",
            "300ms",
            "--chunk-rows",
            "20",
            "-o",
            "out.jsonl",
        ];
        let mut running = place.start(&command);
        running.until("two batches", |_| provider.calls("POST", BATCHES) == 2);
        running.signal("TERM");
        if signals == 2 {
            // It may be gone before the second one.
            let _ = Command::new("kill")
                .arg(running.id().to_string())
                .stderr(Stdio::null())
                .status();
        }
        running.wait().assert_code(130);
        assert_eq!(
            provider.calls("POST", "/openai/v1/batches/{batch_id}/cancel"),
            0
        );
        provider.advance(Duration::from_secs(600));
        place
            .run(&["resume", "j", "--poll", "30ms", "--settle", "300ms"])
            .assert_code(0);
        results::assert_answered(&place.path("out.jsonl"), &asked);
        results::assert_billed_once(&provider.invoice(), &asked);
        assert_eq!(provider.calls("POST", BATCHES), 2);
        place.assert_verified("j");
    }
}

#[test]
fn f_157_a_signal_ends_the_writing_of_results_too() {
    let provider = Provider::new();
    let place = Place::of(&provider);
    // More than a pipe holds.
    let (csv, asked) = input::words(400);
    place.write("in.csv", csv);
    let pipe = place.path("pipe.jsonl");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    // Reads the first bytes and then sits there with the pipe open.
    let reader = Command::new("sh")
        .args(["-c", "exec 3<\"$0\"; head -c 1 <&3; exec sleep 60"])
        .arg(&pipe)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let reader = Reader(reader);
    let mut to_pipe = REALTIME.to_vec();
    to_pipe[11] = "pipe.jsonl";
    let mut running = place.start(&to_pipe);
    running.until("all rows", |running| stuck(running, &provider, asked.len()));
    running.signal("INT");
    running.wait().assert_code(130);
    drop(reader);
    place
        .run(&["results", "j", "--partial", "-o", "out.jsonl"])
        .assert_code(0);
    results::assert_answered(&place.path("out.jsonl"), &asked);
}

struct Reader(std::process::Child);

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether everything was bought and a thread sleeps in a write to a pipe.
fn stuck(running: &Running, provider: &Provider, rows: usize) -> bool {
    provider.calls("POST", CHAT) == rows as u64
        && std::fs::read_dir(format!("/proc/{}/task", running.id()))
            .into_iter()
            .flatten()
            .flatten()
            .any(|task| {
                std::fs::read_to_string(task.path().join("wchan"))
                    .is_ok_and(|place| place.contains("pipe_write"))
            })
}
