//! What `check` and `run` find in an input before anything is sent.

use crate::{
    command::{Ended, Place},
    input::{self, PROMPT},
    provider::{BATCHES, CHAT, Provider},
    results,
};
use serde_json::{Value, json};
use std::net::TcpListener;

const M: &str = "openai:gpt-4o-mini";

/// A place whose provider must not be asked anything.
struct Quiet(TcpListener, Place);

impl Quiet {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let place = Place::at(&format!("http://{}/v1", listener.local_addr().unwrap()));
        Self(listener, place)
    }

    fn assert_nothing_sent(&self) {
        assert!(self.0.accept().is_err(), "something was sent");
    }
}

fn report(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"))
}

/// Line and code of each problem.
fn problems(report: &Value) -> Vec<(u64, String)> {
    let problems = report["problems"].as_array().unwrap();
    problems
        .iter()
        .map(|problem| {
            let code = problem["code"].as_str().unwrap().to_owned();
            (problem["line"].as_u64().unwrap(), code)
        })
        .collect()
}

fn chat(id: &str, more: &str) -> String {
    format!(
        "{{\"custom_id\":\"{id}\",\"model\":\"gpt-4o-mini\",\"messages\":[{{\"role\":\"user\",\"content\":\"Say {id}\"}}]{more}}}\n"
    )
}

/// Rows each wrong in one way, with what is told of them, and one that is right.
const WRONG: [(&str, &str); 9] = [
    (",\"temperature\":3", "range"),
    (",\"temperature\":\"0.5\"", "range"),
    (",\"top_p\":-1", "range"),
    (",\"max_tokens\":0", "range"),
    (",\"n\":1.5", "range"),
    (",\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]", "range"),
    (",\"stream\":true", "parameter"),
    (
        ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"strict\":true,\
         \"schema\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"}},\"required\":[\"a\"]}}}",
        "schema",
    ),
    (
        ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"strict\":true,\"parameters\":\
         {\"type\":\"object\",\"properties\":{\"a\":{}},\"additionalProperties\":false}}}]",
        "schema",
    ),
];

fn wrong_rows() -> String {
    let mut input = String::new();
    for (number, (more, _)) in WRONG.iter().enumerate() {
        input.push_str(&chat(&format!("bad-{number}"), more));
    }
    input.push_str(&chat("good", ",\"temperature\":2,\"stop\":[\"a\"]"));
    input
}

#[test]
fn f_074_f_173_check_finds_what_the_vendor_refuses_without_a_key() {
    let place = Place::bare();
    place.write("in.jsonl", wrong_rows());
    let ended = place
        .run(&["check", "in.jsonl", "--lane", "batch", "--json"])
        .assert_code(2);
    assert_eq!(ended.stderr, "");
    let report = report(&ended);
    let expected: Vec<(u64, String)> = (1..)
        .zip(WRONG)
        .map(|(line, (_, code))| (line, code.to_owned()))
        .collect();
    assert_eq!(problems(&report), expected, "{report}");
    assert_eq!(
        (&report["rows"], &report["bad_rows"], &report["batches"]),
        (&json!(10), &json!(9), &json!(1))
    );
    assert!(!place.path(".batchwright").exists(), "no job was begun");

    // As text too, each by file and line.
    let text = place
        .run(&["check", "in.jsonl", "--lane", "batch"])
        .assert_code(2);
    for line in 1..=9 {
        assert!(
            text.stdout.contains(&format!("in.jsonl:{line}: ")),
            "{text:?}"
        );
    }
    // With the bad ones left out the rest could run.
    place
        .run(&["check", "in.jsonl", "--lane", "batch", "--skip-invalid"])
        .assert_code(3);
}

#[test]
fn f_173_what_a_server_that_only_speaks_the_protocol_refuses_is_its_own_affair() {
    let quiet = Quiet::new();
    let place = &quiet.1;
    place.write("in.jsonl", wrong_rows());
    let ended = place
        .run(&["check", "in.jsonl", "--lane", "batch", "--json"])
        .assert_code(2);
    // What no batch can hold it cannot either; the rest is not known.
    let report = report(&ended);
    assert_eq!(problems(&report), [(7, "parameter".to_owned())], "{report}");
    assert_eq!(report["rules"], Value::Null);
    quiet.assert_nothing_sent();
}

#[test]
fn f_074_run_finds_the_same_as_check_and_sends_nothing() {
    let quiet = Quiet::new();
    let place = &quiet.1;
    for lane in ["realtime", "batch"] {
        let mut input = chat("a", "");
        input.push_str("no json\n");
        input.push_str(&chat("a", ""));
        input.push_str("{\"custom_id\":\"b\"}\n");
        place.write("in.jsonl", input);
        let checked = place
            .run(&["check", "in.jsonl", "--lane", lane, "--json"])
            .assert_code(2);
        let found = report(&checked);
        let codes = problems(&found);
        assert_eq!(
            codes,
            [(2, "unreadable"), (3, "duplicate_id"), (4, "request")]
                .map(|(line, code)| (line, code.to_owned()))
        );
        let ended = place
            .run(&["run", "in.jsonl", "--lane", lane])
            .assert_code(2)
            .assert_says(&["in.jsonl:2: ", "in.jsonl:3: ", "line 1", "in.jsonl:4: "]);
        for problem in found["problems"].as_array().unwrap() {
            assert!(
                ended.stderr.contains(problem["message"].as_str().unwrap()),
                "{ended:?}"
            );
        }
        quiet.assert_nothing_sent();
    }
}

#[test]
fn a_schema_no_vendor_can_enforce_is_told_before_anything_is_sent() {
    let quiet = Quiet::new();
    let place = &quiet.1;
    place.write("in.csv", "id,word\n1,one\n");
    place.write(
        "open.json",
        "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"}}}",
    );
    let settings = ["in.csv", "-m", M, "-p", PROMPT, "--schema", "open.json"];
    let bare = Place::bare();
    for name in ["in.csv", "open.json"] {
        bare.write(name, place.read(name));
    }
    let ended = bare
        .run(&[&["check"][..], &settings, &["--json", "--skip-invalid"]].concat())
        .assert_code(2);
    let faults = report(&ended)["settings"].clone();
    assert_eq!(faults.as_array().unwrap().len(), 2, "{faults}");
    // The sandbox stands for the vendor; another server may take any schema.
    for more in [&["--sandbox"][..], &["--sandbox", "--skip-invalid"]] {
        place
            .run(&[&["run"][..], &settings, more].concat())
            .assert_code(2)
            .assert_says(&["additionalProperties", "required"]);
        assert!(!place.path(".batchwright").join("in").exists());
    }
    place
        .run(&[&["check"][..], &settings].concat())
        .assert_code(0);
    quiet.assert_nothing_sent();
}

#[test]
fn f_074_skipped_rows_end_as_failed_with_the_reason_and_none_is_lost() {
    for lane in ["realtime", "batch"] {
        let provider = Provider::new();
        let place = Place::of(&provider);
        let mut input = "id,word\n".to_owned();
        for row in 1..=30 {
            match row {
                5 => input.push_str("r5,too,many,fields\n"),
                12 | 30 => input.push_str("r3,again\n"),
                _ => input.push_str(&format!("r{row},word {row}\n")),
            }
        }
        place.write("in.csv", &input);
        let command = [
            "run",
            "in.csv",
            "-m",
            M,
            "-p",
            PROMPT,
            "--lane",
            lane,
            "--poll",
            "50ms",
            "--job",
            "j",
            "-o",
            "out.jsonl",
        ];
        place.run(&command).assert_code(2).assert_says(&[
            "in.csv:6: ",
            "in.csv:13: ",
            "in.csv:31: ",
            "line 4",
            "nothing was sent",
        ]);
        assert_eq!(provider.paid_calls(), 0);

        let skipping = [&command[..], &["--skip-invalid", "--chunk-rows", "10"]].concat();
        place.run(&skipping).assert_code(3).assert_says(&[
            "3 rows cannot be sent",
            "in.csv:6: ",
            "30 rows: 27 succeeded, 3 failed",
        ]);
        assert_eq!(provider.invoice().len(), 27, "only good rows are bought");
        place.assert_verified("j");
        let lines = results::read(&place.path("out.jsonl"));
        assert_eq!(lines.len(), 30);
        for (number, line) in (1..).zip(&lines) {
            let why = match number {
                5 => "in.csv, line 6",
                12 => "in.csv:13: ",
                30 => "in.csv:31: ",
                _ => {
                    assert_eq!(line["status"], "succeeded", "{line}");
                    assert_eq!(line["custom_id"], format!("r{number}"));
                    continue;
                }
            };
            assert_eq!(line["status"], "failed", "{line}");
            assert!(
                line["error"]["message"].as_str().unwrap().contains(why),
                "{line}"
            );
            assert_eq!(
                (&line["cost"], &line["provenance"]["attempts"]),
                (&json!(0), &json!(0))
            );
        }
        // CSV repeats the columns of every row that could be read.
        place.run(&["results", "j", "-o", "out.csv"]).assert_code(3);
        let mut reader = csv::Reader::from_path(place.path("out.csv")).unwrap();
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 30);
        assert_eq!((&rows[4][0], &rows[4][2]), ("", "failed"));
        assert_eq!(
            (&rows[11][0], &rows[11][1], &rows[11][2]),
            ("r3", "again", "failed")
        );
        // The same command, and without the flag, sends nothing more.
        let calls = provider.paid_calls();
        place.run(&skipping).assert_code(3);
        place.run(&command).assert_code(3);
        assert_eq!(provider.paid_calls(), calls);
    }
}

#[test]
fn f_148_a_job_killed_while_it_skips_rows_loses_none() {
    let provider = Provider::new();
    let place = Place::of(&provider);
    let mut input = String::new();
    for row in 0..3_000 {
        match row % 3 {
            0 => input.push_str("{\"custom_id\":\"only an id\"}\n"),
            _ => input.push_str(&chat(&format!("r{row}"), "")),
        }
    }
    place.write("in.jsonl", input);
    let command = [
        "run",
        "in.jsonl",
        "--job",
        "j",
        "--skip-invalid",
        "--concurrency",
        "64",
        "-o",
        "out.jsonl",
    ];
    // Killed as soon as the job is there, which is before or while the bad rows get their outcomes, or soon after.
    for _ in 0..3 {
        let mut running = place.start(&command);
        running.until("a job", |running| {
            running.stderr().contains("cannot be sent") || provider.calls("POST", CHAT) > 0
        });
        running.kill();
    }
    place
        .run(&command)
        .assert_code(3)
        .assert_says(&["2,000 succeeded, 1,000 failed"]);
    place.assert_verified("j");
    assert_eq!(results::read(&place.path("out.jsonl")).len(), 3_000);
}

#[test]
fn an_input_that_is_cut_off_cannot_be_skipped_over() {
    let place = Place::bare();
    place.write("cut.json", "[{\"word\":\"one\"},{\"word\":\"two\"");
    let command = ["cut.json", "-m", M, "-p", PROMPT];
    for more in [&["check"][..], &["run", "--sandbox"]] {
        let ended = place
            .run(&[more, &command, &["--skip-invalid"]].concat())
            .assert_code(2);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(said.contains("cut.json:1"), "{ended:?}");
    }
    assert!(!place.path(".batchwright").join("cut").exists());
}

#[test]
fn f_175_an_empty_input_is_told_and_is_no_fault() {
    let place = Place::bare();
    place.write("in.csv", "id,word\n");
    let ended = place
        .run(&[
            "check", "in.csv", "-m", M, "-p", PROMPT, "--lane", "batch", "--json",
        ])
        .assert_code(0);
    let report = report(&ended);
    assert_eq!(
        (&report["rows"], &report["batches"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(
        report["estimated_input_cost"],
        Value::Null,
        "nothing is no price"
    );
    let text = place
        .run(&["check", "in.csv", "-m", M, "-p", PROMPT])
        .assert_code(0);
    assert!(text.stdout.contains("no rows"), "{text:?}");
}

#[test]
fn f_180_check_says_how_many_batches_run_makes() {
    let provider = Provider::new();
    let place = Place::of(&provider);
    let models = ["gpt-4o-mini", "gpt-4o", "gpt-4.1"];
    let input: String = (0..47)
        .map(|row| chat(&format!("r{row}"), "").replace("gpt-4o-mini", models[row % 3]))
        .collect();
    place.write("in.jsonl", input);
    // 16, 16 and 15 rows of three models, at most 7 in each: one model a batch.
    let check = [
        "check",
        "in.jsonl",
        "--lane",
        "batch",
        "--chunk-rows",
        "7",
        "--json",
    ];
    let report = report(&place.run(&check).assert_code(0));
    assert_eq!(report["batches"], 9, "{report}");
    assert_eq!(report["models"]["gpt-4.1"]["rows"], 15);
    place
        .run(&[
            "run",
            "in.jsonl",
            "--lane",
            "batch",
            "--chunk-rows",
            "7",
            "--poll",
            "50ms",
            "-o",
            "out.jsonl",
        ])
        .assert_code(0);
    assert_eq!(provider.calls("POST", BATCHES), 9);
}

#[test]
fn f_066_check_makes_no_figure_up() {
    let place = Place::bare();
    let (csv, _) = input::words(10);
    place.write("in.csv", csv);
    let check = |model: &str, more: &[&str]| {
        let command = ["check", "in.csv", "-m", model, "-p", PROMPT, "--json"];
        report(&place.run(&[&command[..], more].concat()).assert_code(0))
    };
    let unknown = check("openai:gpt-99", &[]);
    assert_eq!(unknown["estimated_input_cost"], Value::Null);
    assert_eq!(unknown["output_cost_at_most"], Value::Null);
    assert!(
        unknown["unknown"][0].as_str().unwrap().contains("gpt-99"),
        "{unknown}"
    );

    let known = check(M, &[]);
    let tokens = known["estimated_input_tokens"].as_u64().unwrap();
    let cost = known["estimated_input_cost"].as_f64().unwrap();
    assert!((cost - tokens as f64 * 0.15 / 1e6).abs() < 1e-12, "{known}");
    assert_eq!(
        known["output_cost_at_most"],
        Value::Null,
        "answers may be of any length"
    );
    assert!(known["prices_as_of"][0].as_str().unwrap().starts_with("20"));

    let bounded = check(M, &["--max-output-tokens", "100", "--lane", "batch"]);
    let most = bounded["output_cost_at_most"].as_f64().unwrap();
    assert!((most - 1_000.0 * 0.3 / 1e6).abs() < 1e-12, "{bounded}");

    // A price of one's own without one of a batch, and the provider's discount.
    place.write(
        "prices.json",
        "{\"openai:mine\":{\"realtime\":{\"input\":1,\"output\":2},\"as_of\":\"2026-11-01\",\"source\":\"me\"}}",
    );
    let mine = check(
        "openai:mine",
        &["--prices", "prices.json", "--lane", "batch"],
    );
    let tokens = mine["estimated_input_tokens"].as_u64().unwrap();
    let cost = mine["estimated_input_cost"].as_f64().unwrap();
    assert!((cost - tokens as f64 * 0.5 / 1e6).abs() < 1e-9, "{mine}");
    assert_eq!(mine["by_batch_discount_percent"], 50);
}

#[test]
fn f_173_f_176_unknown_parameters_are_listed_and_ids_come_back_as_they_were() {
    let provider = Provider::new();
    let place = Place::of(&provider);
    let odd = ["a b/c", "ä\u{301}ö", "💥", "=1+1"];
    let long = "x".repeat(300);
    let ids: Vec<&str> = odd.iter().copied().chain([long.as_str()]).collect();
    let input: String = ids
        .iter()
        .map(|id| {
            chat("ID", ",\"top_k\":null")
                .replace("\"custom_id\":\"ID\"", &format!("\"custom_id\":\"{id}\""))
        })
        .collect();
    place.write("in.jsonl", input);
    let bare = Place::bare();
    bare.write("in.jsonl", place.read("in.jsonl"));
    let checked = report(
        &bare
            .run(&["check", "in.jsonl", "--lane", "batch", "--json"])
            .assert_code(0),
    );
    assert_eq!(checked["unknown_parameters"], json!({"top_k": 5}));
    place.run(&[
        "run",
        "in.jsonl",
        "--lane",
        "batch",
        "--poll",
        "50ms",
        "--job",
        "j",
        "-o",
        "out.jsonl",
    ]);
    let lines = results::read(&place.path("out.jsonl"));
    assert!(
        lines
            .iter()
            .map(|line| line["custom_id"].as_str().unwrap())
            .eq(ids)
    );
}

#[test]
fn f_064_rows_longer_than_the_context_are_a_warning() {
    let place = Place::bare();
    let long = "word ".repeat(130_000);
    place.write("in.csv", format!("id,word\n1,short\n2,{long}\n"));
    let ended = place
        .run(&["check", "in.csv", "-m", M, "-p", PROMPT])
        .assert_code(0);
    assert!(
        ended.stdout.contains("row 2, line 3") && ended.stdout.contains("of 128,000 tokens"),
        "{ended:?}"
    );
}

#[test]
fn a_hundred_problems_are_named_and_the_rest_counted() {
    let place = Place::bare();
    let input: String = (0..1_000)
        .map(|row| format!("{{\"id\":{row}}}\n"))
        .collect();
    place.write("in.jsonl", input);
    let report = report(&place.run(&["check", "in.jsonl", "--json"]).assert_code(2));
    assert_eq!(report["problems"].as_array().unwrap().len(), 100);
    assert_eq!(report["problem_count"], 1_000);
    place
        .run(&["run", "in.jsonl", "--sandbox"])
        .assert_code(2)
        .assert_says(&["in.jsonl:100: ", "and 900 more"]);
}
