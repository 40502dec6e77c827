//! Keys and prompts stay where they belong, also when everything is logged (F-191, F-192, F-204).

use crate::{
    command::{KEY, Place},
    input::{self, PROMPT},
    provider::{CHAT, Provider},
};
use serde_json::json;
use std::path::{Path, PathBuf};

/// In every prompt, and so in every answer, which quotes it.
const CANARY: &str = "canary-prompt-d41d8cd9";

fn files_under(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files_under(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[test]
fn f_191_f_192_f_203_f_204_no_key_anywhere_and_no_prompt_outside_the_job() {
    // What a provider may echo: the key, and the prompt.
    let echo = |status: u16| {
        json!([{"reply": {"status": status, "headers": {"retry-after-ms": "10"}, "body": {"error": {
            "message": format!("Incorrect API key provided: {KEY}. You asked: {CANARY}."),
            "type": "invalid_request_error", "param": null, "code": null,
        }}}}])
    };
    let faults = [
        json!([]),
        json!([{"match": {"path": CHAT, "nth": {"every": 4}}, "times": 5, "actions": echo(500)}]),
        json!([{"match": {"path": CHAT, "nth": 5}, "actions": echo(400)}]),
        json!([{"match": {"nth": 6}, "actions": echo(401)}]),
        json!([{"match": {"method": "POST", "path": "*/files"}, "actions": echo(400)}]),
        json!([{"match": {"method": "POST", "path": "*/batches"}, "actions": echo(403)}]),
        json!([{"match": {"method": "POST", "path": "*/batches", "nth": 1},
            "actions": [{"commit_then_reply": {"status": 500, "body": format!("{KEY} {CANARY}")}}]}]),
        json!([{"match": {"method": "POST", "path": "*/batches"},
            "actions": [{"fail_batch": {"code": "odd", "message": format!("{KEY} {CANARY}"), "line": 1}}]}]),
    ];
    for fault in &faults {
        for lane in ["realtime", "batch"] {
            let provider = Provider::new();
            provider.fault(fault);
            let place = Place::of(&provider).with("BATCHWRIGHT_LOG", "trace");
            let (csv, _) = input::words_like(12, |row| format!("{CANARY} {row}"));
            place.write("in.csv", csv);
            let command = [
                "run",
                "in.csv",
                "-m",
                "openai:gpt-4o-mini",
                "-p",
                PROMPT,
                "--system",
                "canary-prompt-d41d8cd9 system",
                "--lane",
                lane,
                "--job",
                "j",
                "--poll",
                "50ms",
                "--settle",
                "200ms",
                "-o",
                "out.jsonl",
            ];
            let mut json_too = command.to_vec();
            json_too.push("--json");
            // The key is looked for in the output of every run there is.
            for arguments in [
                &command[..],
                &json_too,
                &["status", "j"],
                &["status", "j", "--json"],
                &["jobs", "--json"],
                &["verify", "j"],
                &["cancel", "j"],
            ] {
                let ended = place.run(arguments);
                let shown = [&ended.stdout, &ended.stderr];
                let line = shown
                    .iter()
                    .flat_map(|text| text.lines())
                    .find(|line| line.contains(CANARY));
                assert_eq!(line, None, "{fault} {lane}: {arguments:?}");
            }
            let mut files = Vec::new();
            files_under(place.dir(), &mut files);
            assert!(files.len() > 3, "{files:?}");
            for file in files {
                let bytes = std::fs::read(&file).unwrap();
                let name = file.strip_prefix(place.dir()).unwrap().to_str().unwrap();
                assert!(
                    !contains(&bytes, KEY),
                    "{fault} {lane}: the key is in {name}"
                );
                let may_hold_prompts =
                    name.starts_with(".batchwright/j/") || ["in.csv", "out.jsonl"].contains(&name);
                assert!(
                    may_hold_prompts || !contains(&bytes, CANARY),
                    "{fault} {lane}: a prompt is in {name}"
                );
            }
        }
    }
}

#[test]
fn f_192_the_log_is_on_and_the_key_is_in_none_of_it() {
    let provider = Provider::new();
    let place = Place::of(&provider).with("BATCHWRIGHT_LOG", "trace");
    let (csv, _) = input::words(3);
    place.write("in.csv", csv);
    let ended = place
        .run(&["run", "in.csv", "-m", "openai:gpt-4o-mini", "-p", PROMPT])
        .assert_code(0);
    // So that the test above cannot pass because nothing is logged.
    assert!(
        ended.stderr.contains("TRACE") || ended.stderr.contains("DEBUG"),
        "{}",
        ended.stderr
    );
}

#[test]
fn f_199_answers_and_jobs_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let provider = Provider::new();
    let place = Place::of(&provider);
    let (csv, _) = input::words(3);
    place.write("in.csv", csv);
    place
        .run(&[
            "run",
            "in.csv",
            "-m",
            "openai:gpt-4o-mini",
            "-p",
            PROMPT,
            "--job",
            "j",
            "-o",
            "out.csv",
        ])
        .assert_code(0);
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(place.path("out.csv")), 0o600);
    assert_eq!(mode(place.job("j")), 0o700);
    assert_eq!(mode(place.job("j").join("ledger.sqlite")), 0o600);
}
