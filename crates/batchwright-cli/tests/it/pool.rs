//! The pool's options on the command line: limits, calls at once, fallbacks, schemas, budgets.

use crate::{
    command::Place,
    input::{self, PROMPT},
    provider::{CHAT, Provider, quick},
    results,
};
use batchwright_emulator::{Face, Limits};
use serde_json::json;
use std::time::{Duration, Instant};

const M: &str = "openai:gpt-4o-mini";

fn run<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec![
        "run",
        "in.csv",
        "-m",
        M,
        "-p",
        PROMPT,
        "--job",
        "j",
        "-o",
        "out.jsonl",
        "--json",
    ];
    arguments.extend(more);
    arguments
}

#[test]
fn a_told_limit_is_kept_and_met_by_no_429() {
    let limits = Limits::default().with_requests_per_minute(1_200);
    let provider = Provider::start(quick().with_limits(limits).with_time_scale(1.0));
    let place = Place::of(&provider);
    let (csv, asked) = input::words(40);
    place.write("in.csv", csv);
    let begun = Instant::now();
    place.run(&run(&["--rpm", "1200"])).assert_code(0);
    // Eighteen at once, the others at 20 a second.
    assert!(begun.elapsed() > Duration::from_millis(1_050));
    results::assert_answered(&place.path("out.jsonl"), &asked);
    results::assert_billed_once(&provider.invoice(), &asked);
    assert_eq!(provider.calls("POST", CHAT), 40, "none was refused");
}

#[test]
fn calls_at_once_are_found_out() {
    let provider = Provider::start(quick().with_latency(Duration::from_millis(20)));
    let place = Place::of(&provider);
    let (csv, asked) = input::words(400);
    place.write("in.csv", csv);
    place.run(&run(&["--concurrency", "auto"])).assert_code(0);
    results::assert_answered(&place.path("out.jsonl"), &asked);
    results::assert_billed_once(&provider.invoice(), &asked);
    let peak = provider.peak_in_flight();
    assert!((9..=256).contains(&peak), "{peak} at once");
}

#[test]
fn a_fallback_answers_where_the_first_has_no_money() {
    let provider = Provider::new();
    let broke = json!([{"match": {"method": "POST", "path": CHAT}, "actions": [{"reply": {"status": 429,
        "body": {"error": {"message": "You exceeded your current quota, please check your plan and billing details.",
            "type": "insufficient_quota", "param": null, "code": "insufficient_quota"}}}}]}]);
    provider.fault(&broke);
    let place = Place::of(&provider)
        .with("ANTHROPIC_API_KEY", "sk-ant-api03-fallback-0123456789")
        .with("ANTHROPIC_BASE_URL", &provider.base_url_of(Face::Anthropic));
    let (csv, asked) = input::words(30);
    place.write("in.csv", csv);
    // Without one the job stops, and keeps what it has.
    place
        .run(&run(&["--max-output-tokens", "50"]))
        .assert_code(5);
    assert!(provider.invoice().is_empty());
    let fallback = [
        "resume",
        "j",
        "--fallback",
        "anthropic:claude-haiku-4-5",
        "--json",
    ];
    place.run(&fallback).assert_code(0);
    results::assert_answered(&place.path("out.jsonl"), &asked);
    results::assert_billed_once(&provider.invoice(), &asked);
    for line in results::read(&place.path("out.jsonl")) {
        assert_eq!(line["provenance"]["provider"], "anthropic");
        assert_eq!(line["provenance"]["model"], "claude-haiku-4-5");
    }
    place.assert_verified("j");
}

#[test]
fn a_39_an_answer_against_the_schema_is_asked_for_again_and_paid() {
    let provider = Provider::new();
    let misfit = json!([{"match": {"method": "POST", "path": CHAT, "nth": 2}, "actions": [{"reply": {"status": 200,
        "body": {"id": "chatcmpl-misfit", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini-2024-07-18",
            "choices": [{"index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": "{\"mood\": 7}"}}],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}}}}]}]);
    provider.fault(&misfit);
    let place = Place::of(&provider);
    let (csv, _) = input::words(8);
    place.write("in.csv", csv);
    place.write(
        "schema.json",
        json!({"type": "object", "properties": {"mood": {"type": "string"}}, "required": ["mood"],
            "additionalProperties": false})
        .to_string(),
    );
    place.run(&run(&["--schema", "schema.json"])).assert_code(0);
    assert_eq!(provider.calls("POST", CHAT), 9);
    let lines = results::read(&place.path("out.jsonl"));
    let mut again = 0;
    for line in &lines {
        assert!(line["output"]["mood"].is_string(), "{line}");
        if line["provenance"]["attempts"] == 2 {
            again += 1;
            // 1,000 input and 500 output tokens of the answer that was not used.
            assert!(line["cost"].as_f64().unwrap() > 0.000_45, "{line}");
        }
    }
    assert_eq!((lines.len(), again), (8, 1));
}

#[test]
fn a_budget_stops_the_job_and_a_larger_one_goes_on() {
    let provider = Provider::new();
    let place = Place::of(&provider);
    let (csv, asked) = input::words(200);
    place.write("in.csv", csv);
    let narrow = [
        "--max-output-tokens",
        "50",
        "--concurrency",
        "4",
        "--budget",
        "0.0005",
    ];
    let ended = place.run(&run(&narrow)).assert_code(5);
    let billed = provider.invoice().len();
    assert!((1..150).contains(&billed), "{billed} rows");
    assert!(ended.stderr.contains("budget"), "{}", ended.stderr);
    // The budget is the job's: it holds for the next run too.
    place.run(&["resume", "j", "--json"]).assert_code(5);
    assert!(provider.invoice().len() <= billed + 4);
    place
        .run(&["resume", "j", "--json", "--budget", "1"])
        .assert_code(0);
    results::assert_answered(&place.path("out.jsonl"), &asked);
    results::assert_billed_once(&provider.invoice(), &asked);
    place.assert_verified("j");
}

#[test]
fn what_the_pool_cannot_do_is_said_before_anything_is_sent() {
    let provider = Provider::new();
    let place = Place::of(&provider);
    let (csv, _) = input::words(2);
    place.write("in.csv", csv);
    for (more, words) in [
        (["--concurrency", "many"], ["or auto", "--concurrency"]),
        (["--rpm", "0"], ["--rpm", "0"]),
        (["--budget", "0"], ["--budget", "dollars"]),
        (["--fallback", "nobody:m"], ["nobody", "provider"]),
        (["--fallback", "anthropic:m"], ["ANTHROPIC_API_KEY", "key"]),
    ] {
        place.run(&run(&more)).assert_code(2).assert_says(&words);
    }
    assert_eq!(provider.calls("POST", CHAT), 0);
}
