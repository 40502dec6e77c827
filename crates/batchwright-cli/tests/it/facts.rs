//! `providers`, `models` and `doctor`: what is known, and what this machine is like.

use crate::{
    command::{KEY, Place},
    provider::Provider,
};
use serde_json::{Value, json};
use std::{fs, net::TcpListener};

fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn providers_and_models_say_where_and_when_each_fact_was_read() {
    let place = Place::bare();
    let providers = json_lines(&place.run(&["providers", "--json"]).assert_code(0).stdout);
    let openai = providers
        .iter()
        .find(|entry| entry["provider"] == "openai")
        .unwrap();
    assert_eq!(openai["lanes"], json!(["realtime", "batch"]));
    assert_eq!(openai["batch"]["max_rows"], 50_000);
    assert_eq!(openai["batch"]["window_seconds"], json!([86_400]));
    assert_eq!(openai["key_variables"], json!(["OPENAI_API_KEY"]));
    for entry in &providers {
        assert!(entry["source"].as_str().unwrap().contains("202"), "{entry}");
    }
    let text = place.run(&["providers"]).assert_code(0).stdout;
    assert!(
        text.contains("50,000") && text.contains("/v1/responses"),
        "{text}"
    );

    let models = json_lines(
        &place
            .run(&["models", "openai", "--json"])
            .assert_code(0)
            .stdout,
    );
    assert!(models.len() > 5);
    for model in &models {
        assert_eq!(model["provider"], "openai");
        assert_eq!(model["as_of"].as_str().unwrap().len(), 10, "{model}");
        assert!(
            model["source"].as_str().unwrap().starts_with("https://"),
            "{model}"
        );
    }
    let text = place.run(&["models", "openai"]).assert_code(0).stdout;
    assert!(
        text.contains("openai:gpt-4o-mini") && text.contains("source: https://"),
        "{text}"
    );
    place
        .run(&["models", "acme"])
        .assert_code(2)
        .assert_says(&["acme", "openai"]);

    place.write(
        "prices.json",
        "{\"openai:mine\":{\"realtime\":{\"input\":1,\"output\":2},\"as_of\":\"2026-11-01\",\"source\":\"me\"}}",
    );
    let text = place
        .run(&["models", "openai", "--prices", "prices.json"])
        .assert_code(0)
        .stdout;
    let mine = text
        .lines()
        .find(|line| line.contains("openai:mine"))
        .unwrap();
    assert!(
        mine.contains(" -  "),
        "an unknown price is no number: {mine}"
    );
}

#[test]
fn f_193_doctor_asks_the_provider_one_free_question_and_shows_no_key() {
    let provider = Provider::new();
    let place = Place::of(&provider)
        .with("HTTPS_PROXY", "http://me:CANARY@127.0.0.1:9")
        .with("NO_PROXY", "localhost");
    let ended = place.run(&["doctor", "--json"]).assert_code(0);
    assert!(!ended.stdout.contains("CANARY"), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let openai = &report["providers"][0];
    assert_eq!(openai["key_present"], true);
    assert_eq!(openai["base_url"], provider.base_url());
    assert_eq!(openai["reach"]["key_accepted"], true, "{openai}");
    assert!(
        openai["reach"]["clock_ahead_seconds"].is_number(),
        "{openai}"
    );
    assert_eq!(report["proxies"]["HTTPS_PROXY"], "http://…@127.0.0.1:9");
    let state = &report["state"];
    assert!(state["free_bytes"].as_u64().unwrap() > 0, "{state}");
    assert!(
        state["sync_milliseconds"].as_f64().unwrap() > 0.0,
        "{state}"
    );
    assert!(report["open_files"].as_u64().is_none_or(|files| files > 0));
    assert_eq!(provider.calls("GET", "/openai/v1/models"), 1);
    assert_eq!(provider.paid_calls(), 0);
    let text = place.run(&["doctor"]).assert_code(0);
    assert!(text.stdout.contains("it takes the key") && text.stdout.contains("sync of 4 KiB"));
    // Nothing of the key: another one of another length makes no difference.
    let about = |key: &str| {
        let place = Place::bare().with("OPENAI_API_KEY", key);
        let ended = place.run(&["doctor", "--offline", "--json"]).assert_code(0);
        let report: Value = serde_json::from_str(&ended.stdout).unwrap();
        report["providers"].clone()
    };
    assert_eq!(about(KEY), about("sk-1"));
    place.run(&["doctor", "--offline"]).assert_code(0);
    assert_eq!(
        provider.calls("GET", "/openai/v1/models"),
        2,
        "--offline asks nothing"
    );
    assert_eq!(
        fs::read_dir(place.dir()).unwrap().count(),
        0,
        "doctor leaves nothing behind"
    );
}

#[test]
fn f_030_a_provider_out_of_reach_or_a_refused_key_is_reported_and_is_not_fatal() {
    // Nobody listens there any more.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let place = Place::at(&format!("http://127.0.0.1:{port}/v1"));
    let ended = place.run(&["doctor", "--json"]).assert_code(0);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        report["providers"][0]["reach"]["answered"], false,
        "{report}"
    );
    assert!(report["warnings"].to_string().contains("cannot be reached"));

    let provider = Provider::start(
        batchwright_emulator::EmulatorConfig::default()
            .with_keys(vec!["sk-another-key-0123456789".to_owned()]),
    );
    let place = Place::of(&provider);
    let ended = place.run(&["doctor"]).assert_code(0);
    assert!(ended.stdout.contains("refuses the key"), "{ended:?}");

    // No answer at all ends after the 5 s that are waited.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::at(&format!("http://{}/v1", silent.local_addr().unwrap()));
    let since = std::time::Instant::now();
    let ended = place.run(&["doctor"]).assert_code(0);
    assert!(ended.stdout.contains("unreachable"), "{ended:?}");
    assert!(since.elapsed() < std::time::Duration::from_secs(20));
}

#[test]
fn doctor_fails_where_no_job_can_be_kept() {
    let place = Place::bare();
    // Even the root user cannot write there.
    let ended = place
        .run(&["doctor", "--offline", "--state", "/proc/jobs", "--json"])
        .assert_code(6);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert!(
        report["impossible"].to_string().contains("/proc"),
        "{report}"
    );
    // An address with a password in it is not shown.
    let place = Place::at("https://me:CANARY@example.com/v1");
    let ended = place.run(&["doctor", "--offline"]).assert_code(0);
    assert!(!ended.stdout.contains("CANARY"), "{ended:?}");
}
