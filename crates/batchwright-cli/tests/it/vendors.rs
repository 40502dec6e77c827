//! One input through every vendor: the same rows, the same shape, each at its own prices.

use crate::{
    command::Place,
    input::{self, PROMPT},
    lanes::invoice_of,
    provider::Provider,
    results,
};
use batchwright_emulator::{EmulatorConfig, Face};
use serde_json::json;
use std::collections::BTreeMap;

/// A model of each vendor, and whether its price is known.
const VENDORS: [(&str, bool); 6] = [
    ("openai:gpt-4o-mini", true),
    ("anthropic:claude-haiku-4-5", true),
    ("gemini:gemini-2.5-flash", true),
    ("vertex:gemini-2.5-flash", true),
    ("groq:llama-3.1-8b-instant", true),
    ("kluster:klusterai/Meta-Llama-3.1-8B-Instruct-Turbo", false),
];

/// Sandbox services of OpenAI's protocol that have no crate of their own.
const PRESETS: [(&str, &[&str]); 10] = [
    ("azure:gpt-4o-mini", &["realtime", "batch"]),
    ("together:any/model", &["realtime", "batch"]),
    ("doubleword:any-model", &["realtime", "batch"]),
    ("xai:grok-4", &["realtime"]),
    ("deepseek:deepseek-chat", &["realtime"]),
    ("openrouter:any/model", &["realtime"]),
    ("ollama:llama3.2", &["realtime"]),
    ("vllm:any-model", &["realtime"]),
    ("llamacpp:any-model", &["realtime"]),
    ("lmstudio:any-model", &["realtime"]),
];

/// Runs the input and returns its results, after comparing every answer with its row and every bill with its call.
fn run(place: &Place, model: &str, lane: &str, asked: &[input::Asked]) -> Vec<serde_json::Value> {
    let job = format!("{}-{lane}", model.split(':').next().unwrap());
    let output = format!("{job}.jsonl");
    place
        .run(&[
            "run",
            "in.csv",
            "-m",
            model,
            "-p",
            PROMPT,
            "--lane",
            lane,
            "--job",
            &job,
            "--sandbox",
            "-o",
            &output,
        ])
        .assert_code(0);
    results::assert_answered(&place.path(&output), asked);
    results::assert_billed_once(&invoice_of(&place.job(&job).join("sandbox")), asked);
    place.assert_verified(&job);
    results::read(&place.path(&output))
}

fn keys(line: &serde_json::Value) -> Vec<String> {
    line.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn every_vendor_answers_the_same_input_on_both_lanes_at_its_own_price() {
    let place = Place::bare();
    let (csv, asked) = input::words(24);
    place.write("in.csv", csv);
    let mut shapes: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    for (model, has_price) in VENDORS {
        let (vendor, name) = model.split_once(':').unwrap();
        let mut totals = Vec::new();
        for lane in ["realtime", "batch"] {
            let mut total = 0.0;
            for line in run(&place, model, lane, &asked) {
                shapes
                    .entry(keys(&line))
                    .or_default()
                    .push(format!("{vendor} {lane}"));
                assert_eq!(line["provenance"]["provider"], vendor, "{line}");
                assert_eq!(line["provenance"]["model"], name, "{line}");
                assert_eq!(line["provenance"]["lane"], lane, "{line}");
                assert!(line["usage"]["input_tokens"].as_u64() > Some(0), "{line}");
                assert_eq!(line["cost"].as_f64().is_some(), has_price, "{line}");
                total += line["cost"].as_f64().unwrap_or_default();
            }
            totals.push(total);
        }
        if has_price {
            let share = totals[1] / totals[0];
            assert!(
                (0.45..0.55).contains(&share),
                "{model}: a batch costs half, not {share}"
            );
        }
    }
    assert_eq!(shapes.len(), 1, "{shapes:?}");
}

#[test]
fn services_of_openais_protocol_answer_by_their_presets() {
    let place = Place::bare();
    let (csv, asked) = input::words(6);
    place.write("in.csv", csv);
    for (model, lanes) in PRESETS {
        for lane in lanes {
            run(&place, model, lane, &asked);
        }
        if !lanes.contains(&"batch") {
            place
                .run(&[
                    "run",
                    "in.csv",
                    "-m",
                    model,
                    "-p",
                    PROMPT,
                    "--lane",
                    "batch",
                    "--sandbox",
                ])
                .assert_code(2)
                .assert_says(&["has no batches", "--lane realtime"]);
        }
    }
}

#[test]
fn a_local_server_needs_no_key_and_gets_none() {
    let config =
        EmulatorConfig::default().with_face_options(Face::Compatible, json!({"preset": "ollama"}));
    let server = Provider::start(config);
    let place = Place::bare().with("OLLAMA_BASE_URL", &server.base_url_of(Face::Compatible));
    let (csv, asked) = input::words(6);
    place.write("in.csv", csv);
    place
        .run(&[
            "run",
            "in.csv",
            "-m",
            "ollama:llama3.2",
            "-p",
            PROMPT,
            "-o",
            "out.jsonl",
        ])
        .assert_code(0);
    results::assert_answered(&place.path("out.jsonl"), &asked);
}
