//! Providers that lie, forget and break off: every row ends once (I1), is paid once (I2), has its own answer (I4), the
//! run ends (I5), and its end is told as it was (I8).

use crate::{
    command::{Ended, Place},
    input::{self, Asked, PROMPT},
    provider::{BATCHES, CHAT, Provider, quick},
    results,
};
use batchwright_emulator::Limits;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

const CREATE: &str = "/openai/v1/batches";
const CANCEL: &str = "/openai/v1/batches/{batch_id}/cancel";
const ROWS: usize = 60;

/// Three chunks of twenty rows, each sent once.
const BATCH: [&str; 21] = [
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
    "--rounds",
    "1",
];

struct Case {
    provider: Provider,
    place: Place,
    asked: Vec<Asked>,
}

impl Case {
    fn new(provider: Provider, script: &Value) -> Self {
        provider.fault(script);
        let place = Place::of(&provider);
        let (csv, asked) = input::words(ROWS);
        place.write("in.csv", csv);
        Self {
            provider,
            place,
            asked,
        }
    }

    /// Runs to the end and holds it against what was expected: how many rows end in which status. A rerun
    /// changes nothing and pays nothing.
    fn assert_ends(&self, expected: &[(&str, u64)]) -> Ended {
        let ended = self.place.run(&BATCH);
        self.assert_ended(ended, expected)
    }

    fn assert_ended(&self, ended: Ended, expected: &[(&str, u64)]) -> Ended {
        let partial = expected.iter().any(|(status, _)| *status != "succeeded");
        let ended = ended.assert_code(if partial { 3 } else { 0 });
        let lines = results::read(&self.place.path("out.jsonl"));
        let statuses = results::assert_whole(&lines, &self.asked);
        let expected: BTreeMap<String, u64> = expected
            .iter()
            .map(|(status, rows)| ((*status).to_owned(), *rows))
            .collect();
        assert_eq!(statuses, expected, "{}", ended.stderr);
        assert_eq!(ended.summary()["endings"], json!(expected));
        let invoice = self.provider.invoice();
        for (row, times) in results::billed(&invoice, &self.asked).iter().enumerate() {
            let answered = lines[row]["status"] == "succeeded";
            assert!(*times <= 1, "row {row} was billed {times} times");
            assert!(
                *times == 1 || !answered,
                "row {row} has an answer nobody sent"
            );
        }
        self.place.assert_verified("j");
        let (bytes, calls) = (self.place.read("out.jsonl"), self.provider.paid_calls());
        self.place
            .run(&BATCH)
            .assert_code(if partial { 3 } else { 0 });
        assert_eq!(self.place.read("out.jsonl"), bytes);
        assert_eq!(
            self.provider.paid_calls(),
            calls,
            "a finished job sends nothing (I9)"
        );
        ended
    }

    fn creates(&self) -> u64 {
        self.provider.calls("POST", BATCHES)
    }
}

/// A rule for the creation of batches.
fn create(nth: Option<u64>, actions: &Value) -> Value {
    rule("POST", CREATE, nth, actions)
}

/// A rule for the download of results.
fn download(nth: Option<u64>, actions: &Value) -> Value {
    rule("GET", "*/content", nth, actions)
}

fn rule(method: &str, path: &str, nth: Option<u64>, actions: &Value) -> Value {
    json!([{"match": {"method": method, "path": path, "nth": nth}, "actions": actions}])
}

#[test]
fn f_097_to_f_108_results_files_that_lie_in_ways_that_can_be_mended() {
    let mutated =
        |kind: &str, count: u64| json!([{"mutate_results": {"kind": kind, "count": count}}]);
    for script in [
        create(None, &mutated("duplicate", 5)),
        create(None, &mutated("add", 5)),
        create(None, &mutated("blank", 5)),
        create(None, &mutated("crlf", 1)),
        create(None, &mutated("bom", 1)),
        // The first download is wrong, the second one is not.
        download(Some(1), &mutated("drop", 4)),
        download(Some(1), &mutated("truncate", 500)),
        download(Some(1), &mutated("html", 1)),
        download(Some(2), &mutated("garble", 3)),
        download(Some(1), &json!([{"cut_after": {"bytes": 3000}}])),
        download(
            Some(2),
            &json!([{"cut_after": {"bytes": 100, "how": "rst"}}]),
        ),
        download(Some(1), &json!([{"lie_content_length": 100}])),
        create(
            None,
            &json!([{"lie_counts": {"total": 20, "completed": 3, "failed": 0}}]),
        ),
        create(
            None,
            &json!([{"lie_counts": {"total": 0, "completed": 0, "failed": 0}}]),
        ),
    ] {
        println!("{script}");
        let case = Case::new(Provider::new(), &script);
        case.assert_ends(&[("succeeded", 60)]);
        assert_eq!(case.creates(), 3, "{script}");
    }
}

#[test]
fn f_097_f_104_f_106_lines_that_stay_wrong_are_told_as_such() {
    let lost = |kind: &str| {
        create(
            None,
            &json!([{"mutate_results": {"kind": kind, "count": 1, "file": "output"}}]),
        )
    };
    for (script, expected) in [
        (lost("drop"), &[("succeeded", 57), ("missing", 3)][..]),
        (lost("garble"), &[("succeeded", 57), ("unreadable", 3)]),
        (lost("hollow"), &[("succeeded", 57), ("unreadable", 3)]),
        (lost("html"), &[("missing", 60)]),
        (
            create(None, &json!([{"fail_rows": {"status": 500, "every": 10}}])),
            &[("succeeded", 54), ("failed", 6)],
        ),
    ] {
        println!("{script}");
        let case = Case::new(Provider::new(), &script);
        case.assert_ends(expected);
        assert_eq!(case.creates(), 3, "{script}");
    }
}

#[test]
fn f_098_lines_of_unknown_ids_are_set_aside() {
    let script = create(
        None,
        &json!([{"mutate_results": {"kind": "add", "count": 5, "file": "output"}}]),
    );
    let case = Case::new(Provider::new(), &script);
    case.assert_ends(&[("succeeded", 60)]);
    let aside = case.place.job("j").join("set-aside");
    let lines: usize = std::fs::read_dir(aside)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .map(|text| text.lines().count())
        .sum();
    assert_eq!(lines, 15);
}

#[test]
fn f_110_to_f_115_a_create_of_unclear_fate_is_looked_for_before_another_one() {
    for (actions, creates) in [
        // Done, and the answer lost: found in the list.
        (json!(["commit_then_drop"]), 3),
        (
            json!([{"commit_then_reply": {"status": 500, "body": "oops"}}]),
            3,
        ),
        (json!([{"commit_then_reply": {"status": 504}}]), 3),
        (
            json!([{"commit_then_reply": {"status": 200, "body": "<html>hello</html>"}}]),
            3,
        ),
        (json!([{"commit_then_reply": {"status": 429}}]), 3),
        (json!([{"list_lag": "9s"}, "commit_then_drop"]), 3),
        (json!([{"commit_late": "9s"}]), 3),
        // Not done: looked for in vain, its input deleted, then bought once more.
        (json!(["drop_before_commit"]), 4),
        (json!([{"reply": {"status": 502}}]), 4),
        (json!(["reset"]), 4),
        // Done after it was given up: its input is gone by then.
        (json!([{"commit_late": "90s"}]), 4),
    ] {
        println!("{actions}");
        let case = Case::new(Provider::new(), &create(Some(2), &actions));
        case.assert_ends(&[("succeeded", 60)]);
        assert_eq!(case.creates(), creates, "{actions}");
        results::assert_billed_once(&case.provider.invoice(), &case.asked);
    }
}

#[test]
fn f_112_creates_that_all_lose_their_answer_buy_each_chunk_once() {
    let case = Case::new(Provider::new(), &create(None, &json!(["commit_then_drop"])));
    case.assert_ends(&[("succeeded", 60)]);
    assert_eq!(case.creates(), 3);
    results::assert_billed_once(&case.provider.invoice(), &case.asked);
}

#[test]
fn f_022_f_089_polls_that_mostly_fail() {
    // 4 of 5, or with BATCHWRIGHT_E2E_FULL 19 of 20.
    let every = if std::env::var_os("BATCHWRIGHT_E2E_FULL").is_some() {
        20
    } else {
        5
    };
    let bad: Vec<u64> = (1..2000).filter(|poll| poll % every != 0).collect();
    let case = Case::new(
        Provider::new(),
        &json!([{
            "match": {"method": "GET", "path": "/openai/v1/batches/*", "nth": bad},
            "actions": [{"reply": {"status": 502, "body": "<html>Bad gateway</html>"}}],
        }]),
    );
    case.assert_ends(&[("succeeded", 60)]);
    assert_eq!(case.creates(), 3);
}

#[test]
fn f_070_to_f_086_batches_that_take_their_time() {
    for script in [
        create(None, &json!([{"late_file_ids": "30s"}])),
        create(
            None,
            &json!([{"stick": {"state": "validating", "for": "30s"}}]),
        ),
        create(
            None,
            &json!([{"stick": {"state": "pondering", "for": "30s"}}]),
        ),
        create(
            None,
            &json!([{"stick": {"state": "finalizing", "for": "30s"}}]),
        ),
        rule(
            "POST",
            "/openai/v1/files",
            Some(1),
            &json!([{"visible_lag": "10s"}]),
        ),
        rule(
            "POST",
            "/openai/v1/files",
            Some(1),
            &json!(["commit_then_drop"]),
        ),
        rule(
            "POST",
            "/openai/v1/files",
            Some(1),
            &json!([{"reply": {"status": 503}}]),
        ),
        rule(
            "POST",
            "/openai/v1/files",
            Some(1),
            &json!([{"store_short": 100}]),
        ),
        rule(
            "GET",
            "/openai/v1/batches",
            Some(1),
            &json!([{"reply": {"status": 500}}]),
        ),
    ] {
        println!("{script}");
        let case = Case::new(Provider::new(), &script);
        case.assert_ends(&[("succeeded", 60)]);
        results::assert_billed_once(&case.provider.invoice(), &case.asked);
    }
}

#[test]
fn f_088_a_batch_that_is_not_found_is_not_bought_again() {
    let case = Case::new(
        Provider::new(),
        &create(None, &json!([{"visible_lag": "30m"}])),
    );
    case.place
        .run(&BATCH)
        .assert_code(5)
        .assert_says(&["No batch found"]);
    case.provider.advance(Duration::from_secs(3600));
    case.assert_ends(&[("succeeded", 60)]);
    assert_eq!(case.creates(), 3);
    results::assert_billed_once(&case.provider.invoice(), &case.asked);
}

#[test]
fn f_076_an_expired_batch_keeps_what_it_answered() {
    let provider = Provider::start(quick().with_time_scale(0.0));
    let case = Case::new(provider, &create(None, &json!([{"expire_after_rows": 7}])));
    let mut running = case.place.start(&BATCH);
    running.until("three batches", |_| case.creates() == 3);
    // The create that was counted last may not have been made yet.
    running.until("three ids", |running| {
        case.provider.advance(Duration::from_secs(60));
        running
            .stderr()
            .lines()
            .rev()
            .find(|line| line.contains("progress"))
            .is_some_and(|line| {
                let progress: Value = serde_json::from_str(line).unwrap_or_default();
                progress["batches"]
                    .as_array()
                    .is_some_and(|batches| batches.len() == 3)
            })
    });
    case.provider.advance(Duration::from_secs(25 * 3600));
    case.assert_ended(running.wait(), &[("succeeded", 21), ("expired", 39)]);
}

#[test]
fn f_073_a_batch_refused_at_validation_fails_its_own_rows_only() {
    let script = create(
        Some(2),
        &json!([{"fail_batch": {"code": "invalid_json_line", "message": "This line is odd.", "line": 2}}]),
    );
    let case = Case::new(Provider::new(), &script);
    case.assert_ends(&[("succeeded", 40), ("failed", 20)]);
    let lines = results::read(&case.place.path("out.jsonl"));
    let failed = lines.iter().filter(|line| line["status"] == "failed");
    for line in failed {
        assert!(
            !line["error"]["message"].as_str().unwrap().is_empty(),
            "{line}"
        );
    }
}

#[test]
fn f_010_a_full_queue_is_waited_for() {
    // Each chunk has about 200 tokens: one fits.
    let limits = Limits::default().with_enqueued_tokens(300);
    let case = Case::new(Provider::start(quick().with_limits(limits)), &json!([]));
    case.assert_ends(&[("succeeded", 60)]);
    assert!(case.creates() > 3, "the queue was never full");
    results::assert_billed_once(&case.provider.invoice(), &case.asked);
}

#[test]
fn f_078_f_079_a_cancelled_job_keeps_what_was_answered() {
    for (actions, completes) in [
        (json!([]), false),
        (json!(["cancel_loses_rows"]), false),
        (json!(["cancel_completes"]), true),
    ] {
        println!("{actions}");
        // One row a virtual second, and the clock stands still.
        let pace = batchwright_emulator::BatchPace::default()
            .with_validating(Duration::ZERO)
            .with_warm_up(Duration::ZERO)
            .with_per_row(Duration::from_secs(1))
            .with_finalizing(Duration::from_secs(1))
            .with_cancelling(Duration::from_secs(1));
        let config = quick().with_time_scale(0.0).with_pace(pace);
        let case = Case::new(Provider::start(config), &create(None, &actions));
        let mut running = case.place.start(&BATCH);
        running.until("three batches", |_| case.creates() == 3);
        running.signal("INT");
        running.wait().assert_code(130);
        case.provider.advance(Duration::from_secs(7));

        let mut cancelling = case.place.start(&[
            "cancel", "j", "--poll", "50ms", "--settle", "300ms", "--json",
        ]);
        cancelling.until("three cancels", |_| {
            case.provider.calls("POST", CANCEL) == 3
        });
        // The last one may have been counted and not been done yet.
        while cancelling.is_running() {
            case.provider.advance(Duration::from_secs(2));
            std::thread::sleep(crate::command::LOOK);
        }
        let ended = cancelling.wait();
        let billed = case.provider.invoice().len() as u64;
        let expected = match (completes, actions.to_string().contains("loses")) {
            (true, _) => vec![("succeeded", 60)],
            (_, true) => vec![("cancelled", 60)],
            _ => vec![("succeeded", billed), ("cancelled", 60 - billed)],
        };
        assert!(completes || (1..60).contains(&billed), "{billed}");
        case.assert_ended(ended, &expected);
        assert_eq!(case.creates(), 3);
    }
}

#[test]
fn a_cancelled_realtime_job_sends_no_more() {
    let provider = Provider::start(quick().with_latency(Duration::from_millis(100)));
    let place = Place::of(&provider);
    let (csv, asked) = input::words(30);
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
        "3",
        "-o",
        "out.jsonl",
    ];
    let mut running = place.start(&command);
    running.until("calls", |_| provider.calls("POST", CHAT) >= 5);
    running.signal("INT");
    running.wait().assert_code(130);
    let calls = provider.calls("POST", CHAT);
    place.run(&["cancel", "j"]).assert_code(3);
    assert_eq!(provider.calls("POST", CHAT), calls);
    let statuses = results::assert_whole(&results::read(&place.path("out.jsonl")), &asked);
    assert_eq!(statuses["succeeded"], calls);
    assert_eq!(statuses["cancelled"], 30 - calls);
    place.assert_verified("j");
    place.run(&command).assert_code(3);
    assert_eq!(provider.calls("POST", CHAT), calls);
}

#[test]
fn f_001_to_f_053_direct_calls_that_fail_are_made_again_or_told() {
    let rate = json!({"reply": {"status": 429, "headers": {"retry-after-ms": "20"},
        "body": {"error": {"message": "Slow down.", "type": "requests", "code": "rate_limit_exceeded"}}}});
    // With the provider's own words: a bare 503 may be a proxy's, after the work was done.
    let overloaded = json!({"reply": {"status": 503, "headers": {"retry-after-ms": "20"},
        "body": {"error": {"message": "Overloaded.", "type": "service_unavailable_error",
            "code": "server_is_overloaded"}}}});
    for (actions, paid_again) in [
        (json!([rate]), false),
        (json!([overloaded]), false),
        (json!(["commit_then_drop"]), true),
        (
            json!([{"commit_then_reply": {"status": 500, "body": "oops"}}]),
            true,
        ),
        (json!([{"cut_after": {"bytes": 40}}]), true),
        (
            json!([{"commit_then_reply": {"status": 200, "body": "<html></html>"}}]),
            true,
        ),
    ] {
        println!("{actions}");
        let provider = Provider::new();
        provider.fault(&json!([
            {"match": {"path": CHAT, "nth": {"every": 9}}, "times": 6, "actions": actions}
        ]));
        let place = Place::of(&provider);
        let (csv, asked) = input::words(ROWS);
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
            "-o",
            "out.jsonl",
            "--json",
        ];
        let summary = place.run(&command).assert_code(0).summary();
        results::assert_answered(&place.path("out.jsonl"), &asked);
        let billed = results::billed(&provider.invoice(), &asked);
        let twice: Vec<u64> = (1..)
            .zip(&billed)
            .filter(|(_, times)| **times > 1)
            .map(|(row, _)| row)
            .collect();
        assert_eq!(
            summary["answered_after_unclear_attempts"],
            json!(twice),
            "{summary}"
        );
        assert_eq!(
            summary["possibly_billed_attempts"],
            twice.len(),
            "{summary}"
        );
        assert_eq!(twice.len(), if paid_again { 6 } else { 0 });
        assert!(billed.iter().all(|times| (1..=2).contains(times)));
        place.assert_verified("j");
    }
}
