//! What `check` and `run` find in an input before anything is sent.

use crate::{
    command::{Ended, Place},
    input::{self, PROMPT},
    lanes::invoice_of,
    provider::{BATCHES, CHAT, Provider},
    results,
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::TcpListener};

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

    /// Every vendor at that address, with credentials of its own.
    fn of_every_vendor() -> Self {
        let Self(listener, place) = Self::new();
        let host = listener.local_addr().unwrap().to_string();
        let url = format!("http://{host}");
        let mut place = place
            .with("GOOGLE_CLOUD_PROJECT", "p")
            .with("GOOGLE_CLOUD_LOCATION", "us-central1")
            .with("BATCHWRIGHT_VERTEX_BUCKET", "b")
            .with("GCE_METADATA_HOST", &host);
        for key in [
            "ANTHROPIC_API_KEY",
            "GEMINI_API_KEY",
            "GROQ_API_KEY",
            "KLUSTER_API_KEY",
        ] {
            place = place.with(key, "sk-none");
        }
        for base in [
            "ANTHROPIC_BASE_URL",
            "GOOGLE_GEMINI_BASE_URL",
            "GOOGLE_VERTEX_BASE_URL",
            "STORAGE_EMULATOR_HOST",
        ] {
            place = place.with(base, &url);
        }
        place = place.with("GROQ_BASE_URL", &format!("{url}/openai/v1"));
        place = place.with("KLUSTER_BASE_URL", &format!("{url}/v1"));
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

/// A model of each vendor.
const MODELS: [&str; 6] = [
    "openai:gpt-4o-mini",
    "anthropic:claude-haiku-4-5",
    "gemini:gemini-2.5-flash",
    "vertex:gemini-2.5-flash",
    "groq:openai/gpt-oss-20b",
    "kluster:klusterai/Meta-Llama-3.1-8B-Instruct-Turbo",
];

const LANES: [&str; 2] = ["realtime", "batch"];

/// What is wrong with a row of a vendor: what its body holds besides, the word for it, and the lanes it is wrong on.
type Wrong = (&'static str, &'static str, &'static [&'static str]);

const OPEN_SCHEMA: &str = "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"strict\":true,\
     \"schema\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"}},\"required\":[\"a\"]}}}";

/// Rows of vendors whose own requests can be rows, each wrong in one way.
const WRONG_BY_VENDOR: [(&str, &[Wrong]); 4] = [
    (
        "openai:gpt-4o-mini",
        &[
            ("\"temperature\":2.5", "range", &LANES),
            ("\"temperature\":1e400", "range", &LANES),
            ("\"stream\":true", "parameter", &LANES),
            ("\"background\":true", "parameter", &LANES),
        ],
    ),
    (
        "anthropic:claude-haiku-4-5",
        &[
            ("\"max_tokens\":-1", "range", &LANES),
            ("\"max_tokens\":1.5", "range", &LANES),
            ("\"max_tokens\":\"16\"", "range", &LANES),
            // In a direct call that warms the cache.
            ("\"max_tokens\":0", "range", &["batch"]),
            ("\"max_tokens\":null", "parameter", &LANES),
            ("\"max_tokens\":16,\"temperature\":1.5", "range", &LANES),
            ("\"max_tokens\":16,\"stream\":true", "parameter", &LANES),
            (
                "\"max_tokens\":16,\"speed\":\"fast\"",
                "parameter",
                &["batch"],
            ),
            (
                "\"max_tokens\":16,\"output_config\":{\"format\":{\"type\":\"json_schema\",\"schema\":\
                 {\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}}}}}",
                "schema",
                &LANES,
            ),
            (
                "\"max_tokens\":16,\"tools\":[{\"name\":\"f\",\"strict\":true,\"input_schema\":\
                 {\"type\":\"object\",\"additionalProperties\":false,\"properties\":{\"a\":{\"type\":\"integer\",\
                 \"minimum\":1}}}}]",
                "schema",
                &LANES,
            ),
        ],
    ),
    (
        "groq:openai/gpt-oss-20b",
        &[
            ("\"temperature\":2.5", "range", &LANES),
            ("\"n\":2", "range", &LANES),
            ("\"max_completion_tokens\":0", "range", &LANES),
            ("\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]", "range", &LANES),
            ("\"stream\":true", "parameter", &LANES),
            (OPEN_SCHEMA, "schema", &LANES),
        ],
    ),
    (
        "kluster:klusterai/Meta-Llama-3.1-8B-Instruct-Turbo",
        &[
            ("\"temperature\":2.5", "range", &LANES),
            ("\"top_logprobs\":21", "range", &LANES),
            (
                "\"metadata\":{\"@kluster.ai\":{\"async\":true}}",
                "parameter",
                &LANES,
            ),
            ("\"stream\":true", "parameter", &LANES),
        ],
    ),
];

/// A row that is a request of the vendor, with these fields besides.
fn ready(model: &str, id: &str, more: &str) -> String {
    let messages = format!("\"messages\":[{{\"role\":\"user\",\"content\":\"Say {id}\"}}]");
    if model.starts_with("anthropic:") {
        return format!(
            "{{\"custom_id\":\"{id}\",\"method\":\"POST\",\"url\":\"/v1/messages\",\"body\":{{{messages},{more}}}}}\n"
        );
    }
    format!("{{\"custom_id\":\"{id}\",{messages},{more}}}\n")
}

#[test]
fn f_073_f_173_every_vendor_s_bad_rows_are_named_on_both_lanes_and_nothing_is_sent() {
    for (model, wrong) in WRONG_BY_VENDOR {
        for lane in LANES {
            let place = Place::bare();
            let mut input = String::new();
            let mut expected = Vec::new();
            for (number, (more, code, lanes)) in wrong.iter().enumerate() {
                input.push_str(&ready(model, &format!("r{number}"), more));
                if lanes.contains(&lane) {
                    expected.push((number as u64 + 1, (*code).to_owned()));
                }
            }
            input.push_str(&ready(model, "good", "\"max_tokens\":16"));
            place.write("in.jsonl", input);
            let command = ["in.jsonl", "-m", model, "--lane", lane];
            let checked = place
                .run(&[&["check"][..], &command, &["--json"]].concat())
                .assert_code(2);
            let found = report(&checked);
            assert_eq!(problems(&found), expected, "{model} {lane}: {found}");
            assert!(found["rules"].as_str().unwrap().contains("2026-"));
            let text = place
                .run(&[&["check"][..], &command, &["--skip-invalid"]].concat())
                .assert_code(3);
            let ended = place
                .run(&[&["run"][..], &command, &["--sandbox", "--job", "j"]].concat())
                .assert_code(2)
                .assert_says(&["nothing was sent"]);
            for (line, _) in &expected {
                let at = format!("in.jsonl:{line}: ");
                assert!(text.stdout.contains(&at), "{text:?}");
                assert!(ended.stderr.contains(&at), "{ended:?}");
            }
            assert!(!place.job("j").exists(), "no job was begun");
        }
    }
}

#[test]
fn f_073_what_no_vendor_can_use_is_named_for_each_of_them_and_nothing_is_sent() {
    let quiet = Quiet::of_every_vendor();
    let place = &quiet.1;
    for model in MODELS {
        for lane in LANES {
            let good = "id,word\n1,one\n2,two\n";
            place.write("in.csv", format!("{good}3,three,much\n1,again\n"));
            place.write("good.csv", good);
            let run = |what: &str, file: &str, more: &[&str]| {
                let command = [what, file, "-m", model, "-p", PROMPT, "--lane", lane];
                place.run(&[&command[..], more].concat())
            };
            let found = report(&run("check", "in.csv", &["--json"]).assert_code(2));
            let expected = [(4, "unreadable"), (5, "duplicate_id")]
                .map(|(line, code)| (line, code.to_owned()));
            assert_eq!(problems(&found), expected, "{model} {lane}");
            run("run", "in.csv", &[]).assert_code(2).assert_says(&[
                "in.csv:4: ",
                "in.csv:5: ",
                "nothing was sent",
            ]);
            let fine = report(&run("check", "good.csv", &["--json"]).assert_code(0));
            assert_eq!(
                (&fine["ok"], &fine["rows"], &fine["bad_rows"]),
                (&json!(true), &json!(2), &json!(0))
            );
            let batches = if lane == "batch" {
                json!(1)
            } else {
                Value::Null
            };
            assert_eq!(fine["batches"], batches, "{model}");

            // A request of a form that is none of the vendor's.
            let endpoint = match model.split(':').next().unwrap() {
                "anthropic" | "gemini" | "vertex" => "/v1/chat/completions",
                _ if lane == "batch" => "/v1/nothing",
                _ => continue,
            };
            place.write(
                "in.jsonl",
                format!(
                    "{{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"{endpoint}\",\"body\":{{\"messages\":[]}}}}\n"
                ),
            );
            let command = ["in.jsonl", "-m", model, "--lane", lane];
            let checked = place.run(&[&["check"][..], &command, &["--json"]].concat());
            assert_eq!(
                problems(&report(&checked.assert_code(2))),
                [(1, "endpoint".to_owned())],
                "{model} {lane}"
            );
            place
                .run(&[&["run"][..], &command].concat())
                .assert_code(2)
                .assert_says(&["in.jsonl:1: ", "nothing was sent"]);
        }
    }
    quiet.assert_nothing_sent();
}

#[test]
fn settings_a_vendor_does_not_take_are_told_once() {
    let place = Place::bare();
    let (csv, _) = input::words(20);
    place.write("in.csv", csv);
    place.write(
        "recursive.json",
        "{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#/$defs/a\"}},\"required\":[\"a\"],\
         \"additionalProperties\":false,\"$defs\":{\"a\":{\"type\":\"object\",\"additionalProperties\":false,\
         \"properties\":{\"a\":{\"$ref\":\"#/$defs/a\"}},\"required\":[\"a\"]}}}",
    );
    let schema = ["--schema", "recursive.json"];
    let longest = ["--max-output-tokens", "65536"];
    let warm = ["--temperature", "1.5"];
    for (model, lanes, setting, word) in [
        (MODELS[1], &LANES[..], &warm, "temperature"),
        (MODELS[1], &LANES, &schema, "itself"),
        (MODELS[3], &LANES, &longest, "65535"),
        (MODELS[3], &["batch"], &schema, "schema"),
        (MODELS[0], &[], &schema, ""),
        (MODELS[2], &[], &schema, ""),
        (MODELS[2], &[], &longest, ""),
        (MODELS[4], &[], &warm, ""),
    ] {
        for lane in LANES {
            let command = ["in.csv", "-m", model, "-p", PROMPT, "--lane", lane];
            let code = if lanes.contains(&lane) { 2 } else { 0 };
            let checked = place.run(&[&["check"][..], &command, setting, &["--json"]].concat());
            let found = report(&checked.assert_code(code));
            let settings = found["settings"].as_array().unwrap();
            assert_eq!(
                settings.len(),
                usize::from(code == 2),
                "{model} {lane}: {found}"
            );
            assert_eq!(found["problem_count"], 0, "{model} {lane}: {found}");
            if code == 2 {
                assert!(settings[0].as_str().unwrap().contains(word), "{found}");
                let run = [
                    &["run"][..],
                    &command,
                    setting,
                    &["--sandbox", "--job", "j"],
                ];
                place.run(&run.concat()).assert_code(2).assert_says(&[word]);
                assert!(!place.job("j").exists());
            }
        }
    }
}

/// What `check` says of the batch lane, and how many batches a run in the sandbox then has.
fn checked_and_made(place: &Place, settings: &[&str]) -> (Value, usize) {
    let lane = ["--lane", "batch"];
    let command = [&["check"][..], settings, &lane, &["--json"]].concat();
    let found = report(&place.run(&command).assert_code(0));
    let more = ["--sandbox", "--job", "j", "-o", "out.jsonl"];
    place
        .run(&[&["run"][..], settings, &lane, &more].concat())
        .assert_code(0);
    place.assert_verified("j");
    let invoice = invoice_of(&place.job("j").join("sandbox"));
    assert_eq!(Some(invoice.len() as u64), found["rows"].as_u64());
    let batches: BTreeSet<_> = invoice.iter().map(|line| line.batch_id.clone()).collect();
    let tokens: u64 = invoice.iter().map(|line| line.input_tokens).sum();
    let estimated = found["estimated_input_tokens"].as_u64().unwrap();
    assert!(
        (tokens / 2..=tokens * 2).contains(&estimated),
        "{estimated} tokens estimated, {tokens} billed"
    );
    (found, batches.len())
}

#[test]
fn f_179_anthropic_s_batches_are_as_many_as_check_says_by_rows() {
    let place = Place::bare();
    let (csv, _) = input::words_like(10_001, |row| format!("word {row} of a longer text"));
    place.write("in.csv", csv);
    let settings = ["in.csv", "-m", MODELS[1], "-p", PROMPT];
    let (found, made) = checked_and_made(&place, &settings);
    assert_eq!((&found["batches"], made), (&json!(2), 2), "{found}");
    assert_eq!(found["batch_max_rows"], 10_000);
}

#[test]
fn f_171_f_179_anthropic_s_batches_are_as_many_as_check_says_by_bytes() {
    let place = Place::bare();
    // Six of these fill a batch of 20 MB.
    let long = "0123456 ".repeat(375_000);
    let mut input: String = (0..7)
        .map(|row| {
            let content = format!("\"system\":\"{long}\",\"max_tokens\":16");
            ready("anthropic:claude-opus-4-7", &format!("r{row}"), &content)
        })
        .collect();
    place.write("in.jsonl", &input);
    let settings = ["in.jsonl", "-m", "anthropic:claude-opus-4-7"];
    let (found, made) = checked_and_made(&place, &settings);
    assert_eq!((&found["batches"], made), (&json!(2), 2), "{found}");
    assert_eq!(found["batch_max_bytes"], 20_000_000);
    assert!(found["batch_bytes"].as_u64() > Some(20_000_000), "{found}");

    // One that no batch can hold is a row's own fault, and none on the other lane.
    input.push_str(&ready(
        "anthropic:claude-opus-4-7",
        "long",
        &format!("\"system\":\"{}\",\"max_tokens\":16", long.repeat(7)),
    ));
    place.write("in.jsonl", input);
    for (lane, code) in [("batch", 2), ("realtime", 0)] {
        let command = [&["check"][..], &settings, &["--lane", lane, "--json"]].concat();
        let found = report(&place.run(&command).assert_code(code));
        let expected = (code == 2).then(|| (8, "size".to_owned()));
        assert_eq!(problems(&found), Vec::from_iter(expected), "{lane}");
    }
}

#[test]
fn f_179_f_180_gemini_s_batches_are_as_many_as_check_says() {
    let place = Place::bare();
    let (csv, _) = input::words_like(47, |row| format!("word {row} of a longer text"));
    place.write("in.csv", csv);
    let settings = ["in.csv", "-m", MODELS[2], "-p", PROMPT, "--chunk-rows", "7"];
    let (found, made) = checked_and_made(&place, &settings);
    assert_eq!((&found["batches"], made), (&json!(7), 7), "{found}");
}

#[test]
fn every_vendor_s_estimate_is_of_its_own_price_and_lane() {
    let place = Place::bare();
    let (csv, _) = input::words(20);
    place.write("in.csv", csv);
    // Dollars for a million tokens of input and output in a direct call; a batch is half of both.
    for (model, price) in [
        (MODELS[0], Some((0.15, 0.6))),
        (MODELS[1], Some((1.0, 5.0))),
        (MODELS[2], Some((0.3, 2.5))),
        (MODELS[3], Some((0.3, 2.5))),
        (MODELS[4], Some((0.075, 0.3))),
        (MODELS[5], None),
    ] {
        for (lane, share) in [("realtime", 1.0), ("batch", 0.5)] {
            let found = report(
                &place
                    .run(&[
                        "check",
                        "in.csv",
                        "-m",
                        model,
                        "-p",
                        PROMPT,
                        "--lane",
                        lane,
                        "--max-output-tokens",
                        "100",
                        "--json",
                    ])
                    .assert_code(0),
            );
            let tokens = found["estimated_input_tokens"].as_f64().unwrap();
            let expected = price.map(|(input, output)| {
                [tokens * input, 2_000.0 * output].map(|micros| micros * share / 1e6)
            });
            for (place, key) in ["estimated_input_cost", "output_cost_at_most"]
                .into_iter()
                .enumerate()
            {
                let close = match (&expected, found[key].as_f64()) {
                    (Some(expected), Some(cost)) => (cost - expected[place]).abs() < 1e-9,
                    (expected, cost) => expected.is_none() && cost.is_none(),
                };
                assert!(close, "{model} {lane} {key}: {found}");
            }
        }
    }
    // A row of the vendor's own says itself how long its answer may be.
    place.write("in.jsonl", ready(MODELS[1], "a", "\"max_tokens\":1000"));
    let command = ["check", "in.jsonl", "-m", MODELS[1], "--json"];
    let found = report(&place.run(&command).assert_code(0));
    let most = found["output_cost_at_most"].as_f64().unwrap();
    assert!((most - 0.005).abs() < 1e-9, "{found}");
}
