//! A chunk that is held, and the three words that settle it.

use crate::{
    command::Place,
    input::{self, Asked, PROMPT},
    provider::{BATCHES, Provider},
    results,
};
use serde_json::json;

const RUN: [&str; 16] = [
    "run",
    "in.csv",
    "-m",
    "openai:gpt-4o-mini",
    "-p",
    PROMPT,
    "--lane",
    "batch",
    "--job",
    "j",
    "--poll",
    "50ms",
    "--settle",
    "300ms",
    "-o",
    "out.jsonl",
];

const RESUME: [&str; 6] = ["resume", "j", "--settle", "300ms", "--poll", "50ms"];

/// A job of one chunk whose create got no answer, at a provider whose list cannot be read; `kept` is whether the batch
/// was made all the same.
fn held(kept: bool) -> (Provider, Place, Vec<Asked>) {
    let provider = Provider::new();
    let create = if kept {
        "commit_then_drop"
    } else {
        "drop_before_commit"
    };
    provider.fault(&json!([
        {"match": {"method": "POST", "path": BATCHES, "nth": 1}, "actions": [create]},
        {"match": {"method": "GET", "path": BATCHES, "nth": {"from": 2}},
         "actions": [{"reply": {"status": 404, "body": {"error": {"message": "no list"}}}}]},
    ]));
    let place = Place::of(&provider);
    let (csv, asked) = input::words(12);
    place.write("in.csv", csv);
    place.run(&RUN).assert_code(4).assert_says(&[
        "chunk 1 is held",
        "batchwright wait j --chunk 1",
        "batchwright adopt j BATCH_ID --chunk 1",
        "batchwright resubmit j --chunk 1 --accept-duplicate-risk",
    ]);
    let status = place.run(&["status", "j"]).assert_code(0);
    assert!(
        status.stdout.contains("batchwright wait j --chunk 1"),
        "{}",
        status.stdout
    );
    // Nothing more happens until somebody decides.
    place.run(&RESUME).assert_code(4);
    assert_eq!(provider.calls("POST", BATCHES), 1);
    (provider, place, asked)
}

#[test]
fn f_110_wait_looks_again_and_finds_the_batch() {
    let (provider, place, asked) = held(true);
    provider.heal();
    let said = place.run(&["wait", "j"]).assert_code(0);
    assert!(
        said.stdout.contains("batchwright resume j"),
        "{}",
        said.stdout
    );
    place.run(&RESUME).assert_code(0);
    results::assert_answered(&place.path("out.jsonl"), &asked);
    results::assert_billed_once(&provider.invoice(), &asked);
    assert_eq!(provider.calls("POST", BATCHES), 1);
    place.assert_verified("j");
    // Settled is settled.
    place
        .run(&["wait", "j"])
        .assert_code(2)
        .assert_says(&["no chunk of job j is held"]);
}

#[test]
fn f_110_adopt_takes_the_batch_a_person_names_and_no_other() {
    let (provider, place, asked) = held(true);
    place
        .run(&["adopt", "j", "batch_nowhere"])
        .assert_code(2)
        .assert_says(&["knows no batch batch_nowhere"]);
    place
        .run(&["adopt", "j", "batch_nowhere", "--chunk", "7"])
        .assert_code(2)
        .assert_says(&["no chunk 7"]);
    let invoice = provider.invoice();
    let id = invoice
        .first()
        .and_then(|line| line.batch_id.clone())
        .expect("it was made, and has run");
    place.run(&["adopt", "j", &id]).assert_code(0);
    place.run(&RESUME).assert_code(0);
    results::assert_answered(&place.path("out.jsonl"), &asked);
    results::assert_billed_once(&provider.invoice(), &asked);
    place.assert_verified("j");
}

#[test]
fn f_110_resubmit_buys_again_only_where_the_risk_is_accepted() {
    let (provider, place, asked) = held(false);
    place
        .run(&["resubmit", "j"])
        .assert_code(2)
        .assert_says(&["--accept-duplicate-risk"]);
    provider.heal();
    place
        .run(&["resubmit", "j", "--accept-duplicate-risk"])
        .assert_code(0);
    place
        .run(&RESUME)
        .assert_code(0)
        .assert_says(&["possibly paid twice: 1 times", "may still show for 24 h"]);
    results::assert_answered(&place.path("out.jsonl"), &asked);
    results::assert_billed_once(&provider.invoice(), &asked);
    place.assert_verified("j");
    assert_eq!(provider.calls("POST", BATCHES), 2);
    // I9: a finished job looks, and sends nothing.
    place.run(&RESUME).assert_code(0);
    assert_eq!(provider.calls("POST", BATCHES), 2);
}

/// F-110, F-148: many creates of unclear fate at once, at a provider that knows a batch only by the number of its
/// requests, are all found.
#[test]
fn f_110_f_148_an_anthropic_job_killed_while_it_creates_many_chunks_is_not_held() {
    let provider = Provider::new();
    let creates = "/anthropic/v1/messages/batches";
    // Made at once and answered never: at the kill every one of them is of unclear fate.
    provider.fault(&json!([
        {"match": {"method": "POST", "path": creates}, "actions": [{"delay_headers": "20s"}]},
    ]));
    let base = provider.base_url_of(batchwright_emulator::Face::Anthropic);
    let place = Place::bare()
        .with("ANTHROPIC_API_KEY", "sk-ant-emulated")
        .with("ANTHROPIC_BASE_URL", &base);
    let (csv, asked) = input::words(90);
    place.write("in.csv", csv);
    let mut command = RUN;
    command[3] = "anthropic:claude-haiku-4-5";
    let command: Vec<&str> = command.into_iter().chain(["--chunk-rows", "20"]).collect();
    let mut running = place.start(&command);
    running.until("every create", |_| provider.calls("POST", creates) >= 5);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(running.kill());
    provider.heal();
    let made = provider.calls("POST", creates);
    place.run(&command).assert_code(0);
    assert_eq!(
        provider.calls("POST", creates),
        made,
        "nothing is created again"
    );
    results::assert_answered(&place.path("out.jsonl"), &asked);
    results::assert_billed_once(&provider.invoice(), &asked);
    place.assert_verified("j");
}
