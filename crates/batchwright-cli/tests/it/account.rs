//! Accounts that stop in the middle: sending ends at once, and goes on when the account is well again.

use crate::{
    command::Place,
    input::{self, PROMPT},
    provider::{BATCHES, CHAT, FILES, Provider, quick},
    results,
};
use serde_json::{Value, json};
use std::time::Duration;

/// What stops an account, and the word its message must have.
fn stops() -> [(Value, &'static str); 3] {
    [
        (
            json!({"status": 401, "body": {"error": {"message": "Incorrect API key provided.",
                "type": "invalid_request_error", "param": null, "code": "invalid_api_key"}}}),
            "Incorrect API key",
        ),
        (
            json!({"status": 429, "body": {"error": {"message": "You exceeded your current quota, please check your \
                plan and billing details.", "type": "insufficient_quota", "param": null,
                "code": "insufficient_quota"}}}),
            "current quota",
        ),
        (
            json!({"status": 403, "body": {"error": {"message": "Your project has no access.",
                "type": "invalid_request_error", "param": null, "code": "unsupported_country_region_territory"}}}),
            "no access",
        ),
    ]
}

#[test]
fn f_005_f_133_the_realtime_lane_stops_within_its_concurrency() {
    const CONCURRENCY: u64 = 4;
    const WELL: u64 = 20;
    for (reply, word) in stops() {
        let provider = Provider::start(quick().with_latency(Duration::from_millis(5)));
        provider.fault(&json!([
            {"match": {"path": CHAT, "nth": {"from": WELL + 1}}, "actions": [{"reply": reply}]}
        ]));
        let place = Place::of(&provider);
        let (csv, asked) = input::words(200);
        place.write("in.csv", csv);
        let command = [
            "run",
            "in.csv",
            "-m",
            "openai:gpt-4o-mini",
            "-p",
            PROMPT,
            "--job",
            "j",
            "--concurrency",
            "4",
            "-o",
            "out.jsonl",
        ];
        place
            .run(&command)
            .assert_code(5)
            .assert_says(&[word, "stopped", "batchwright resume j"]);
        let calls = provider.calls("POST", CHAT);
        assert!(calls <= WELL + 1 + CONCURRENCY, "{calls} calls");
        assert_eq!(place.status("j")["finished"], WELL);
        // While the account is as it was, each try costs a few refused calls and nothing else.
        place.run(&command).assert_code(5).assert_says(&[word]);
        assert!(provider.calls("POST", CHAT) <= calls + CONCURRENCY);
        assert_eq!(provider.invoice().len() as u64, WELL);

        provider.heal();
        place.run(&command).assert_code(0);
        results::assert_answered(&place.path("out.jsonl"), &asked);
        results::assert_billed_once(&provider.invoice(), &asked);
        place.assert_verified("j");
    }
}

#[test]
fn f_005_f_133_the_batch_lane_stops_at_every_step() {
    for (reply, word) in stops() {
        for (method, path, nth) in [
            ("POST", FILES, 2),
            ("POST", BATCHES, 1),
            ("POST", BATCHES, 2),
            ("GET", "/openai/v1/batches/*", 1),
            ("GET", "/openai/v1/files/*/content", 1),
        ] {
            let provider = Provider::new();
            provider.fault(&json!([{
                "match": {"method": method, "path": path, "nth": {"from": nth}},
                "actions": [{"reply": reply}],
            }]));
            let place = Place::of(&provider);
            let (csv, asked) = input::words(60);
            place.write("in.csv", csv);
            let command = [
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
                "--chunk-rows",
                "20",
                "--poll",
                "50ms",
                "--settle",
                "300ms",
                "-o",
                "out.jsonl",
            ];
            let at = format!("{method} {path} {word}");
            println!("{at}");
            place
                .run(&command)
                .assert_code(5)
                .assert_says(&[word, "batchwright resume j"]);
            assert!(provider.calls("POST", BATCHES) <= 3, "{at}");
            provider.heal();
            place.run(&command).assert_code(0);
            results::assert_answered(&place.path("out.jsonl"), &asked);
            results::assert_billed_once(&provider.invoice(), &asked);
            place.assert_verified("j");
        }
    }
}
