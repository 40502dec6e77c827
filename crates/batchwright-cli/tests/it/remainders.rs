//! Rows that come back without a final outcome go on in new batches: nothing that was answered is thrown away, nothing
//! is bought twice, and what cannot be helped is told.

use crate::{
    command::{Ended, LOOK, Place, Running},
    input::{self, Asked, PROMPT},
    provider::{BATCHES, CHAT, FILES, Provider, quick},
    results,
};
use batchwright_emulator::Face;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

const CREATE: &str = "/openai/v1/batches";
const CANCEL: &str = "/openai/v1/batches/{batch_id}/cancel";

/// One job over this many rows, in batches of twenty.
struct Case {
    provider: Provider,
    place: Place,
    asked: Vec<Asked>,
}

impl Case {
    fn new(rows: usize, provider: Provider, script: &Value) -> Self {
        provider.fault(script);
        let place = Place::of(&provider);
        let (csv, asked) = input::words(rows);
        place.write("in.csv", csv);
        Self {
            provider,
            place,
            asked,
        }
    }

    fn command<'a>(&self, more: &[&'a str]) -> Vec<&'a str> {
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
            "--json",
        ];
        [&command[..], more].concat()
    }

    fn start(&self, more: &[&str]) -> Running {
        self.place.start(&self.command(more))
    }

    fn run(&self, more: &[&str]) -> Ended {
        self.place.run(&self.command(more))
    }

    /// Lets virtual time pass until the command ends.
    fn pass_time(&self, mut running: Running) -> Ended {
        while running.is_running() {
            self.provider.advance(Duration::from_secs(3600));
            std::thread::sleep(LOOK);
        }
        running.wait()
    }

    fn statuses(&self) -> BTreeMap<String, u64> {
        results::assert_whole(&results::read(&self.place.path("out.jsonl")), &self.asked)
    }

    /// Everything succeeded, was billed once, and a rerun sends nothing.
    fn assert_all_answered(&self, more: &[&str]) {
        results::assert_answered(&self.place.path("out.jsonl"), &self.asked);
        results::assert_billed_once(&self.provider.invoice(), &self.asked);
        self.place.assert_verified("j");
        let calls = self.provider.paid_calls();
        self.run(more).assert_code(0);
        assert_eq!(self.provider.paid_calls(), calls, "I9");
    }

    fn creates(&self) -> u64 {
        self.provider.calls("POST", BATCHES)
    }
}

fn create(nth: Value, actions: &Value) -> Value {
    json!([{"match": {"method": "POST", "path": CREATE, "nth": nth}, "actions": actions}])
}

#[test]
fn f_076_what_an_expired_batch_did_not_answer_goes_on_in_a_new_one() {
    // 30 % done each time: 60 rows need more rounds than there are.
    let still = || Provider::start(quick().with_time_scale(0.0));
    let first = create(json!([1, 2, 3]), &json!([{"expire_after_rows": 6}]));
    let case = Case::new(60, still(), &first);
    let ended = case.pass_time(case.start(&[])).assert_code(0);
    assert_eq!(ended.summary()["endings"], json!({"succeeded": 60}));
    assert!((4..=6).contains(&case.creates()), "{}", case.creates());
    case.assert_all_answered(&[]);

    let always = create(Value::Null, &json!([{"expire_after_rows": 6}]));
    let case = Case::new(20, still(), &always);
    let ended = case.pass_time(case.start(&[])).assert_code(3);
    assert_eq!(
        ended.summary()["endings"],
        json!({"succeeded": 18, "expired": 2}),
        "three rounds and no more"
    );
    assert_eq!(case.creates(), 3);
    assert_eq!(case.statuses()["expired"], 2);
    assert!(
        results::billed(&case.provider.invoice(), &case.asked)
            .iter()
            .all(|times| *times <= 1)
    );
    case.place.assert_verified("j");
}

#[test]
fn f_105_rows_that_failed_in_a_way_that_passes_are_sent_again_and_others_are_not() {
    for (status, first, expected) in [
        (500, 3, json!({"succeeded": 60})),
        (429, 3, json!({"succeeded": 60})),
        (400, 3, json!({"succeeded": 54, "failed": 6})),
    ] {
        let rows = json!([{"fail_rows": {"status": status, "every": 10}}]);
        let case = Case::new(
            60,
            Provider::new(),
            &create(json!({"from": 1, "to": first}), &rows),
        );
        let ended = case.run(&[]);
        assert_eq!(ended.summary()["endings"], expected, "{status}");
        if status == 400 {
            assert_eq!(case.creates(), 3, "nothing to send again");
        } else {
            case.assert_all_answered(&[]);
        }
        assert!(
            results::billed(&case.provider.invoice(), &case.asked)
                .iter()
                .all(|times| *times <= 1)
        );
    }
}

#[test]
fn f_073_a_refused_input_loses_only_its_named_rows() {
    let fault = json!([{"fail_batch": {"code": "invalid_json_line", "message": "This line is odd.", "line": 2}}]);
    let case = Case::new(60, Provider::new(), &create(json!(2), &fault));
    let ended = case.run(&[]).assert_code(3);
    assert_eq!(
        ended.summary()["endings"],
        json!({"succeeded": 59, "failed": 1})
    );
    assert_eq!(case.creates(), 4);
    let lines = results::read(&case.place.path("out.jsonl"));
    let failed: Vec<_> = lines
        .iter()
        .filter(|line| line["status"] == "failed")
        .collect();
    assert!(
        failed[0]["error"]["message"]
            .as_str()
            .unwrap()
            .contains("odd")
    );
    assert_eq!(case.provider.invoice().len(), 59);
    case.place.assert_verified("j");
}

#[test]
fn f_073_an_unnamed_bad_row_is_found_by_halving() {
    // Whatever holds this word is refused as a whole, and nobody says why.
    let case = Case::new(40, Provider::new(), &json!([]));
    let (csv, asked) = input::words_like(40, |row| {
        if row == 13 {
            "POISON 13".to_owned()
        } else {
            format!("word {row}")
        }
    });
    case.place.write("in.csv", csv);
    let case = Case { asked, ..case };
    case.provider.fault(&json!([{
        "match": {"method": "POST", "path": FILES, "body_contains": "POISON"},
        "actions": [{"reply": {"status": 413, "body": {"error": {"message": "Something is wrong."}}}}],
    }]));
    let ended = case.run(&[]).assert_code(3);
    assert_eq!(
        ended.summary()["endings"],
        json!({"succeeded": 39, "failed": 1})
    );
    let lines = results::read(&case.place.path("out.jsonl"));
    assert_eq!(lines[13]["status"], "failed");
    assert!(case.creates() <= 2 + 2 * 5, "{} creates", case.creates());
    assert_eq!(case.provider.invoice().len(), 39);
    case.place.assert_verified("j");
}

#[test]
fn f_148_a_job_killed_between_rounds_buys_no_row_twice() {
    // P20 among others: some batches expire, one is refused, and rows fail; killed every tenth of a second.
    for moment in 0..10u32 {
        let case = Case::new(
            60,
            Provider::new(),
            &json!([
                {"match": {"method": "POST", "path": CREATE, "nth": 1},
                 "actions": [{"fail_rows": {"status": 500, "every": 4}}]},
                {"match": {"method": "POST", "path": CREATE, "nth": 2},
                 "actions": [{"fail_batch": {"code": "odd", "message": "Something is odd."}}]},
                {"match": {"method": "POST", "path": CREATE, "nth": 3},
                 "actions": [{"fail_rows": {"status": 503, "every": 1}}]},
                {"match": {"path": "*/content"}, "actions": [{"delay_headers": "30ms"}]},
            ]),
        );
        for kill in 0..3 {
            let mut running = case.start(&[]);
            let since = std::time::Instant::now();
            let moment = Duration::from_millis(u64::from(100 + moment * 80 + kill * 50));
            while since.elapsed() < moment && running.is_running() {
                std::thread::sleep(LOOK);
            }
            running.kill();
        }
        case.run(&[]).assert_code(0);
        case.assert_all_answered(&[]);
    }
}

#[test]
fn f_097_lost_rows_are_bought_again_only_by_a_word_and_then_counted() {
    let lost = json!([{"mutate_results": {"kind": "drop", "count": 2, "file": "output"}}]);
    let script = create(json!({"from": 1, "to": 3}), &lost);
    let case = Case::new(60, Provider::new(), &script);
    let summary = case.run(&[]).assert_code(3).summary();
    assert_eq!(summary["endings"], json!({"succeeded": 54, "missing": 6}));
    assert_eq!(case.creates(), 3);

    let case = Case::new(60, Provider::new(), &script);
    let summary = case.run(&["--rebuy-missing"]).assert_code(0).summary();
    assert_eq!(summary["endings"], json!({"succeeded": 60}));
    assert_eq!(summary["possibly_billed_attempts"], 6);
    let billed = results::billed(&case.provider.invoice(), &case.asked);
    assert_eq!(billed.iter().filter(|times| **times == 2).count(), 6);
    case.place.assert_verified("j");
}

#[test]
fn what_batches_do_not_answer_goes_to_direct_calls_where_that_is_wanted() {
    let still = Provider::start(quick().with_time_scale(0.0));
    let case = Case::new(
        60,
        still,
        &create(Value::Null, &json!([{"expire_after_rows": 6}])),
    );
    let more = ["--remainder", "realtime"];
    let ended = case.pass_time(case.start(&more)).assert_code(0);
    assert_eq!(ended.summary()["endings"], json!({"succeeded": 60}));
    assert_eq!(case.creates(), 3);
    assert_eq!(case.provider.calls("POST", CHAT), 42);
    case.assert_all_answered(&more);
}

/// Batches of one row a virtual second, while the clock stands still.
fn standing() -> Provider {
    let pace = batchwright_emulator::BatchPace::default()
        .with_validating(Duration::ZERO)
        .with_warm_up(Duration::ZERO)
        .with_per_row(Duration::from_secs(1))
        .with_finalizing(Duration::from_secs(1))
        .with_cancelling(Duration::from_secs(1));
    Provider::start(quick().with_time_scale(0.0).with_pace(pace))
}

#[test]
fn f_078_a_deadline_moves_what_is_not_finished_to_direct_calls() {
    let case = Case::new(60, standing(), &json!([]));
    let more = ["--deadline", "1500ms"];
    let mut running = case.start(&more);
    running.until("three batches", |_| case.creates() == 3);
    case.provider.advance(Duration::from_secs(7));
    running.until("three cancels", |_| {
        case.provider.calls("POST", CANCEL) == 3
    });
    while running.is_running() {
        case.provider.advance(Duration::from_secs(2));
        std::thread::sleep(LOOK);
    }
    let summary = running.wait().assert_code(0).summary();
    assert_eq!(summary["endings"], json!({"succeeded": 60}));
    assert_eq!(case.creates(), 3);
    let direct = case.provider.calls("POST", CHAT);
    assert!((1..60).contains(&direct), "{direct} direct calls");
    assert_eq!(summary["superseded"], 0);
    case.assert_all_answered(&more);
}

#[test]
fn f_079_originals_that_come_after_the_deadline_are_in_the_books_and_no_second_outcome() {
    let case = Case::new(
        60,
        standing(),
        &create(Value::Null, &json!(["cancel_completes"])),
    );
    let more = ["--deadline", "800ms", "--deadline-grace", "300ms"];
    let mut running = case.start(&more);
    running.until("three batches", |_| case.creates() == 3);
    // The batches are asked to be cancelled, and time stands still: nobody waits for them.
    let summary = running.wait().assert_code(0).summary();
    assert_eq!(summary["endings"], json!({"succeeded": 60}));
    assert_eq!(case.provider.calls("POST", CHAT), 60);
    results::assert_answered(&case.place.path("out.jsonl"), &case.asked);
    let bytes = case.place.read("out.jsonl");
    let cost = summary["cost"].as_f64().unwrap();

    // They complete all the same, and are collected: paid twice, and said so.
    let ended = case.pass_time(case.start(&more)).assert_code(0);
    let summary = ended.summary();
    assert_eq!(summary["endings"], json!({"succeeded": 60}));
    assert_eq!(summary["superseded"], 60);
    assert!(summary["superseded_cost"].as_f64().unwrap() > 0.0);
    assert_eq!(summary["cost"].as_f64().unwrap(), cost);
    assert_eq!(
        case.place.read("out.jsonl"),
        bytes,
        "the first answer counts"
    );
    let billed = results::billed(&case.provider.invoice(), &case.asked);
    assert!(billed.iter().all(|times| *times == 2), "{billed:?}");
    case.place.assert_verified("j");
    let calls = case.provider.paid_calls();
    case.run(&more).assert_code(0);
    assert_eq!(case.provider.paid_calls(), calls, "I9");
}

#[test]
fn f_148_a_job_killed_about_its_deadline_goes_on_with_direct_calls() {
    for moment in [700, 850, 1000, 1200, 1400] {
        let case = Case::new(60, standing(), &json!([]));
        let more = ["--deadline", "800ms"];
        let mut running = case.start(&more);
        running.until("three batches", |_| case.creates() == 3);
        let since = std::time::Instant::now();
        while since.elapsed() < Duration::from_millis(moment) {
            case.provider.advance(Duration::from_millis(50));
            std::thread::sleep(LOOK);
        }
        running.kill();
        // The deadline is the job's, and needs not be said again.
        let mut running = case.start(&[]);
        while running.is_running() {
            case.provider.advance(Duration::from_secs(1));
            std::thread::sleep(LOOK);
        }
        let summary = running.wait().assert_code(0).summary();
        results::assert_answered(&case.place.path("out.jsonl"), &case.asked);
        let billed = results::billed(&case.provider.invoice(), &case.asked);
        let again: u64 = billed.iter().sum::<u64>() - 60;
        assert!(
            summary["possibly_billed_attempts"].as_u64().unwrap() >= again,
            "{summary}"
        );
        assert!(again <= 16, "the calls in flight at most");
        case.place.assert_verified("j");
    }
}

#[test]
fn a_deadline_can_go_to_another_model() {
    let case = Case::new(20, standing(), &json!([]));
    let more = [
        "--deadline",
        "500ms",
        "--deadline-grace",
        "100ms",
        "--fallback",
        "openai:gpt-4o",
    ];
    case.run(&more).assert_code(0);
    let lines = results::read(&case.place.path("out.jsonl"));
    for line in &lines {
        assert_eq!(line["provenance"]["model"], "gpt-4o", "{line}");
        assert_eq!(line["provenance"]["lane"], "realtime");
    }
}

#[test]
fn rows_that_failed_are_tried_again_by_a_word_and_the_newest_outcome_counts() {
    let rows = json!([{"fail_rows": {"status": 400, "every": 10}}]);
    let case = Case::new(
        60,
        Provider::new(),
        &create(json!({"from": 1, "to": 3}), &rows),
    );
    case.run(&[]).assert_code(3);
    assert_eq!(case.statuses()["failed"], 6);
    case.place.run(&["retry", "j"]).assert_code(2);
    let retry = [
        "retry", "j", "--failed", "--poll", "50ms", "--settle", "300ms", "--json",
    ];
    let summary = case.place.run(&retry).assert_code(0).summary();
    assert_eq!(summary["endings"], json!({"succeeded": 60}));
    assert_eq!(summary["superseded"], 6);
    assert_eq!(case.creates(), 4);
    case.assert_all_answered(&[]);
    // Nothing failed, so nothing is sent.
    case.place.run(&retry).assert_code(0);
    assert_eq!(case.creates(), 4);

    // Killed at once, the rows have no outcome until they have the new one.
    let case = Case::new(
        60,
        Provider::new(),
        &create(json!({"from": 1, "to": 3}), &rows),
    );
    case.run(&[]).assert_code(3);
    let mut running = case.place.start(&retry);
    running.until("the new batch", |_| case.creates() == 4);
    running.kill();
    case.place.run(&["verify", "j"]).assert_code(7);
    case.place
        .run(&["results", "j", "-o", "part.jsonl"])
        .assert_code(2);
    case.place
        .run(&["results", "j", "--partial", "-o", "part.jsonl"])
        .assert_code(3)
        .assert_says(&["54 rows with results, 6 rows without"]);
    assert_eq!(results::read(&case.place.path("part.jsonl")).len(), 54);
    case.run(&[]).assert_code(0);
    case.assert_all_answered(&[]);
}

#[test]
fn f_010_batches_are_split_by_tokens_and_by_cost() {
    let case = Case::new(60, Provider::new(), &json!([]));
    case.run(&["--chunk-tokens", "60"]).assert_code(0);
    assert!(case.creates() > 5, "{}", case.creates());
    case.assert_all_answered(&[]);

    let case = Case::new(60, Provider::new(), &json!([]));
    case.run(&["--chunk-cost", "0.000005"]).assert_code(0);
    assert!(case.creates() > 5, "{}", case.creates());
    case.assert_all_answered(&[]);
}

#[test]
fn a_job_is_left_at_the_provider_watched_and_collected_later() {
    let case = Case::new(60, standing(), &json!([]));
    case.place
        .run(&[
            "run",
            "in.csv",
            "-m",
            "openai:gpt-4o-mini",
            "-p",
            PROMPT,
            "--no-wait",
        ])
        .assert_code(2);
    let ended = case.run(&["--no-wait"]).assert_code(0);
    assert_eq!(ended.summary()["finished"], 0);
    assert_eq!(case.creates(), 3);
    let status = case.place.status("j");
    assert_eq!(status["state"], "unfinished");
    for chunk in status["chunks"].as_array().unwrap() {
        assert_eq!(chunk["round"], 1);
        // What the provider said last: it still looks at the input, which takes an hour at most.
        assert_eq!(chunk["state"], "validating", "{status}");
        assert_eq!(chunk["counts"]["completed"], 0, "{status}");
        assert_eq!(chunk["usually_seconds"], 3600, "{status}");
        assert!(chunk["age_seconds"].as_i64().unwrap() < 60);
    }
    let mut watching = case
        .place
        .start(&["watch", "j", "--json", "--interval", "50ms"]);
    // The machine was off for a day, and the batches are done.
    case.provider.advance(Duration::from_secs(20 * 3600));
    assert!(watching.is_running());
    let resume = ["resume", "j", "--poll", "50ms", "--json"];
    case.place.run(&resume).assert_code(0);
    let watched = watching.wait().assert_code(0);
    let last: Value = serde_json::from_str(watched.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["state"], "done");
    assert_eq!(last["finished"], 60);
    case.assert_all_answered(&[]);
    let text = case.place.run(&["status", "j"]).assert_code(0).stdout;
    assert!(
        text.contains("60 of 60 done") && text.contains("merged"),
        "{text}"
    );
}

#[test]
fn f_092_what_is_left_at_the_provider_is_named_and_taken_away_by_a_word() {
    let case = Case::new(60, standing(), &json!([]));
    // Each of these runs dies with an upload or a create under way.
    case.provider.fault(&json!([
        {"match": {"method": "POST"}, "actions": [{"delay_headers": "80ms"}]},
    ]));
    for moment in [150u64, 250, 350] {
        let running = case.start(&[]);
        std::thread::sleep(Duration::from_millis(moment));
        running.kill();
    }
    let gc = |more: &[&str]| {
        let ended = case
            .place
            .run(&[&["gc", "j", "--remote", "--json"], more].concat());
        let ended = ended.assert_code(0);
        let lines = ended
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        lines.collect::<Vec<Value>>()
    };
    // Nothing that a chunk under way needs goes.
    for object in gc(&["--yes"]) {
        assert!(!object["kept"].is_null(), "{object}");
    }
    case.pass_time(case.start(&[])).assert_code(0);
    let garbage = gc(&["--results"]);
    let count = |kind: &str| {
        let of_kind = garbage.iter().filter(|object| object["kind"] == kind);
        of_kind.clone().count() as i64 * 100
            + of_kind.filter(|it| it["kept"].is_null()).count() as i64
    };
    assert!(count("input") >= 303, "{garbage:?}");
    assert_eq!(count("batch"), 300, "{garbage:?}");
    assert_eq!(count("results"), 303, "{garbage:?}");
    let deletes = || case.provider.calls("DELETE", "/openai/v1/files/{file_id}");
    assert_eq!(deletes(), 0, "so far they were only named");
    gc(&["--results", "--yes"]);
    assert!(deletes() >= 6, "{}", deletes());
    assert!(
        gc(&[]).iter().all(|object| object["kind"] == "batch"),
        "all inputs are gone"
    );
    case.assert_all_answered(&[]);
}

#[test]
fn f_180_rows_for_several_providers_and_models_come_back_as_one_output_in_order() {
    let provider = Provider::new();
    let place = Place::of(&provider)
        .with(
            "ANTHROPIC_API_KEY",
            "sk-ant-canary-0123456789abcdefghijklmnopqrstuv",
        )
        .with("ANTHROPIC_BASE_URL", &provider.base_url_of(Face::Anthropic));
    let models = [
        "openai:gpt-4o-mini",
        "anthropic:claude-haiku-4-5",
        "openai:gpt-4o",
        "",
    ];
    let mut csv = "id,word,who\n".to_owned();
    let mut asked = Vec::new();
    for row in 0..40 {
        csv.push_str(&format!("row-{row},word {row},{}\n", models[row % 4]));
        asked.push(Asked {
            id: format!("row-{row}"),
            prompt: format!("Say word {row}"),
        });
    }
    place.write("in.csv", &csv);
    let command = [
        "run",
        "in.csv",
        "-m",
        "openai:gpt-4o-mini",
        "--model-column",
        "who",
        "-p",
        PROMPT,
        "--lane",
        "batch",
        "--max-output-tokens",
        "100",
        "--job",
        "j",
        "--poll",
        "50ms",
        "--settle",
        "300ms",
        "-o",
        "out.jsonl",
        "--json",
    ];
    let summary = place.run(&command).assert_code(0).summary();
    assert_eq!(summary["endings"], json!({"succeeded": 40}));
    results::assert_answered(&place.path("out.jsonl"), &asked);
    results::assert_billed_once(&provider.invoice(), &asked);
    for (row, line) in results::read(&place.path("out.jsonl")).iter().enumerate() {
        let wanted = [models[0], models[1], models[2], models[0]][row % 4];
        let found = format!(
            "{}:{}",
            line["provenance"]["provider"].as_str().unwrap(),
            line["provenance"]["model"].as_str().unwrap()
        );
        assert_eq!(found, wanted, "row {row}");
    }
    assert_eq!(
        provider.calls("POST", BATCHES),
        2,
        "one batch for each model"
    );
    assert_eq!(provider.calls("POST", "/anthropic/v1/messages/batches"), 1);
    place.assert_verified("j");

    // A provider that cannot be used is told of before anything is sent, with its line.
    place.write("in.csv", csv.replace("anthropic:", "gemini:"));
    let calls = provider.paid_calls();
    let command: Vec<&str> = command
        .iter()
        .map(|it| if *it == "j" { "k" } else { it })
        .collect();
    place
        .run(&command)
        .assert_code(2)
        .assert_says(&["in.csv:3:", "gemini"]);
    assert_eq!(provider.paid_calls(), calls);
}
