//! Both lanes from a file to a file.

use crate::{
    command::Place,
    input::{self, PROMPT, REVIEW_PROMPT, reviews, reviews_asked},
    provider::{CHAT, Provider},
    results,
};
use batchwright_emulator::InvoiceLine;
use serde_json::json;
use std::{collections::BTreeSet, fs, path::Path};

const MODEL: &str = "openai:gpt-4o-mini";

#[test]
fn f_095_i4_both_lanes_give_every_review_its_own_answer() {
    let place = Place::bare();
    let (input, asked) = reviews_asked();
    let reviews = reviews();
    for lane in ["realtime", "batch"] {
        let output = format!("{lane}.csv");
        let command = [
            "run",
            reviews.to_str().unwrap(),
            "-m",
            MODEL,
            "-p",
            REVIEW_PROMPT,
            "--sandbox",
            "--lane",
            lane,
            "--job",
            lane,
            "-o",
            &output,
        ];
        let ended = place.run(&command).assert_code(0);
        assert_eq!(ended.stdout, "");
        ended.assert_says(&["320 rows: 320 succeeded", &output]);

        let mut reader = csv::Reader::from_path(place.path(&output)).unwrap();
        let columns: Vec<String> = reader
            .headers()
            .unwrap()
            .iter()
            .map(str::to_owned)
            .collect();
        assert_eq!(
            columns[..5],
            ["id", "product", "stars", "review", "language"]
        );
        assert_eq!(columns[5..7], ["status", "output"]);
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), input.len());
        for ((row, original), asked) in rows.iter().zip(&input).zip(&asked) {
            assert!(row.iter().take(5).eq(original.iter()), "{row:?}");
            assert_eq!(&row[5], "succeeded");
            assert!(row[6].starts_with(&asked.mark()), "{row:?}");
        }
        let sandbox = place.job(lane).join("sandbox");
        results::assert_billed_once(&invoice_of(&sandbox), &asked);
        place.assert_verified(lane);

        // I9: once more pays nothing and says the same.
        let (before, bytes) = (invoice_of(&sandbox), place.read(&output));
        fs::remove_file(place.path(&output)).unwrap();
        place.run(&command).assert_code(0);
        assert_eq!(invoice_of(&sandbox), before);
        assert_eq!(place.read(&output), bytes);
    }
}

#[test]
fn i9_a_finished_job_makes_no_call_and_gives_the_same_results() {
    let provider = Provider::new();
    let place = Place::of(&provider);
    let (csv, asked) = input::words(60);
    place.write("in.csv", csv);
    for lane in ["realtime", "batch"] {
        let command = [
            "run",
            "in.csv",
            "-m",
            MODEL,
            "-p",
            PROMPT,
            "--lane",
            lane,
            "--job",
            lane,
            "--poll",
            "50ms",
            "-o",
            "out.jsonl",
        ];
        let before = provider.invoice().len();
        place.run(&command).assert_code(0);
        results::assert_answered(&place.path("out.jsonl"), &asked);
        results::assert_billed_once(&provider.invoice()[..][before..], &asked);
        place.assert_verified(lane);

        let (calls, invoice) = (provider.paid_calls(), provider.invoice());
        let bytes = place.read("out.jsonl");
        for again in [
            &command[..],
            &["resume", lane],
            &["results", lane, "-o", "out.jsonl"],
        ] {
            fs::remove_file(place.path("out.jsonl")).unwrap();
            place.run(again).assert_code(0);
            assert_eq!(place.read("out.jsonl"), bytes);
        }
        assert_eq!(provider.paid_calls(), calls);
        assert_eq!(provider.invoice(), invoice);

        let mut everything = command.to_vec();
        everything[12..].copy_from_slice(&["-o", "-"]);
        let ended = place.run(&everything).assert_code(0);
        assert_eq!(ended.stdout, bytes);

        place
            .run(&["results", lane, "-o", "any.jsonl", "--unordered"])
            .assert_code(0);
        let lines =
            |text: String| -> BTreeSet<String> { text.lines().map(str::to_owned).collect() };
        let any = place.read("any.jsonl");
        assert_eq!(any.lines().count(), asked.len());
        assert_eq!(lines(any), lines(bytes));
    }
}

#[test]
fn questions_in_jsonl_keep_their_ids() {
    let provider = Provider::new();
    let place = Place::of(&provider);
    let questions = reviews().with_file_name("questions.jsonl");
    let asked: Vec<input::Asked> = fs::read_to_string(&questions)
        .unwrap()
        .lines()
        .map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            input::Asked {
                id: row["custom_id"].as_str().unwrap().to_owned(),
                prompt: row["question"].as_str().unwrap().to_owned(),
            }
        })
        .collect();
    place
        .run(&[
            "run",
            questions.to_str().unwrap(),
            "-m",
            MODEL,
            "-p",
            "{{ question }}",
            "--job",
            "ask",
        ])
        .assert_code(0);
    // Results are named after their job where nothing else is said.
    results::assert_answered(&place.path("ask.results.jsonl"), &asked);
    results::assert_billed_once(&provider.invoice(), &asked);
    let jobs = place.run(&["jobs", "--json"]).assert_code(0);
    let job: serde_json::Value = serde_json::from_str(&jobs.stdout).unwrap();
    assert_eq!(job["state"], "done");
    place.assert_verified(job["job"].as_str().unwrap());
}

#[test]
fn i8_rows_that_fail_make_a_partial_end() {
    let provider = Provider::new();
    let place = Place::of(&provider);
    let (csv, asked) = input::words_like(40, |row| match row % 10 {
        3 => format!("{row} [[refuse]]"),
        7 => format!("{row} [[error:400]]"),
        _ => format!("{row}"),
    });
    place.write("in.csv", csv);
    for lane in ["realtime", "batch"] {
        let ended = place
            .run(&[
                "run",
                "in.csv",
                "-m",
                MODEL,
                "-p",
                PROMPT,
                "--lane",
                lane,
                "--job",
                lane,
                "--poll",
                "50ms",
                "-o",
                "out.jsonl",
                "--json",
            ])
            .assert_code(3);
        let endings = &ended.summary()["endings"];
        assert_eq!(
            *endings,
            serde_json::json!({"succeeded": 32, "refused": 4, "failed": 4})
        );
        for (line, row) in results::read(&place.path("out.jsonl")).iter().zip(&asked) {
            let expected = match row {
                row if row.prompt.contains("[[refuse]]") => "refused",
                row if row.prompt.contains("[[error") => "failed",
                _ => "succeeded",
            };
            assert_eq!(line["status"], expected, "{line}");
            assert_eq!(line["error"].is_null(), expected != "failed", "{line}");
        }
        place.assert_verified(lane);
    }
}

#[test]
fn the_emulator_command_serves_a_run() {
    let base = Place::bare();
    let mut emulator = base.start(&["emulator", "--listen", "127.0.0.1:0", "--data", "data"]);
    emulator.until("its address", |emulator| {
        emulator.stderr().contains("control: ")
    });
    let said = emulator.stderr();
    let url = said
        .lines()
        .find_map(|line| line.strip_prefix("OPENAI_BASE_URL="))
        .unwrap();
    let place = Place::at(url);
    let (csv, asked) = input::words(30);
    place.write("in.csv", csv);
    place
        .run(&[
            "run",
            "in.csv",
            "-m",
            MODEL,
            "-p",
            PROMPT,
            "-o",
            "out.jsonl",
        ])
        .assert_code(0);
    results::assert_answered(&place.path("out.jsonl"), &asked);
    emulator.signal("TERM");
    emulator.wait().assert_code(0);
    results::assert_billed_once(&invoice_of(&base.path("data")), &asked);
}

#[test]
fn no_more_calls_at_once_than_were_allowed() {
    let provider = Provider::start(
        crate::provider::quick().with_latency(std::time::Duration::from_millis(20)),
    );
    let place = Place::of(&provider);
    let (csv, asked) = input::words(40);
    place.write("in.csv", csv);
    place
        .run(&[
            "run",
            "in.csv",
            "-m",
            MODEL,
            "-p",
            PROMPT,
            "-o",
            "out.jsonl",
            "--concurrency",
            "3",
        ])
        .assert_code(0);
    results::assert_answered(&place.path("out.jsonl"), &asked);
    assert_eq!(provider.peak_in_flight(), 3);
    assert_eq!(provider.calls("POST", CHAT), 40);
}

/// The invoice of an emulator from the files of its data folder.
pub(crate) fn invoice_of(data: &Path) -> Vec<InvoiceLine> {
    let mut files = vec![data.join("invoice.jsonl")];
    if let Ok(batches) = fs::read_dir(data.join("batches")) {
        files.extend(
            batches
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|end| end == "invoice")),
        );
    }
    files.sort();
    files
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect::<Vec<InvoiceLine>>()
        })
        .collect()
}

#[test]
fn a_resumed_job_remembers_how_its_results_are_written() {
    let provider = Provider::new();
    let place = Place::of(&provider);
    let (csv, _) = input::words(6);
    place.write("in.csv", csv);
    let answer = |text: &str| {
        json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})
    };
    // One of the first two rows is answered last of all, and some row with what a spreadsheet would run.
    let script = json!([
        {"match": {"path": CHAT, "nth": 1}, "actions": [{"delay_headers": "700ms"}]},
        {"match": {"path": CHAT, "nth": 6}, "actions": [{"reply": {"status": 200, "body": answer("=1+1")}}]},
    ]);
    let last = |place: &Place, output: &str| {
        let lines = results::read(&place.path(output));
        assert_eq!(lines.len(), 6);
        lines[5]["custom_id"].as_str().unwrap().to_owned()
    };
    for (job, output, flag) in [("u", "u.jsonl", "--unordered"), ("r", "r.csv", "--raw-csv")] {
        provider.heal();
        provider.fault(&script);
        let command = [
            "run",
            "in.csv",
            "-m",
            MODEL,
            "-p",
            PROMPT,
            "--job",
            job,
            "-o",
            output,
            flag,
            "--concurrency",
            "2",
        ];
        place.run(&command).assert_code(0);
        let check = || {
            if flag == "--unordered" {
                let id = last(&place, output);
                assert!(["row-0", "row-1"].contains(&id.as_str()), "{id} came last");
            } else {
                let csv = place.read(output);
                assert!(csv.contains(",=1+1,"), "{csv}");
            }
        };
        check();
        for again in ["resume", "results"] {
            fs::remove_file(place.path(output)).unwrap();
            place.run(&[again, job]).assert_code(0);
            check();
        }
        // Another file may be of a form that has the input's order only.
        place
            .run(&["resume", job, "-o", "other.csv"])
            .assert_code(0);
    }
}

#[test]
fn f_148_what_a_killed_writer_left_beside_the_results_is_cleared_away() {
    let provider = Provider::new();
    let place = Place::of(&provider);
    let (csv, asked) = input::words(20);
    place.write("in.csv", csv);
    provider.fault(&json!([{"match": {"path": CHAT, "nth": {"from": 10, "to": 99}}, "actions": [{"delay_headers": "1h"}]}]));
    let command = [
        "run",
        "in.csv",
        "-m",
        MODEL,
        "-p",
        PROMPT,
        "--job",
        "j",
        "-o",
        "out.jsonl",
        "--unordered",
        "--concurrency",
        "2",
    ];
    let partial = |place: &Place| {
        fs::read_dir(place.dir())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".partial"))
            .count()
    };
    let mut running = place.start(&command);
    running.until("a partial file", |_| {
        partial(&place) == 1 && provider.calls("POST", CHAT) > 9
    });
    assert!(running.kill());
    assert_eq!(partial(&place), 1, "the killed process could not remove it");
    provider.heal();

    // Another job in the folder clears it away, and not what is being written.
    let mut second = place.start(&[
        "run",
        "in.csv",
        "-m",
        MODEL,
        "-p",
        PROMPT,
        "--job",
        "k",
        "-o",
        "k.jsonl",
        "--unordered",
    ]);
    place.run(&command).assert_code(0);
    second.until("its end", |_| place.path("k.jsonl").exists());
    second.wait().assert_code(0);
    assert_eq!(partial(&place), 0);
    for output in ["out.jsonl", "k.jsonl"] {
        assert_eq!(results::read(&place.path(output)).len(), asked.len());
    }
}
