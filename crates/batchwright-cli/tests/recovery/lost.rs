//! P24: the journal is lost, and the provider's list and the job's files tell what it knew.

use crate::{
    command::{LOOK, Place},
    input,
    place::{self, RESUME, VENDORS, lose_journal, run},
    provider::{BATCHES, CHAT, Provider, quick},
    results,
};
use serde_json::json;
use std::{fs, time::Duration};

/// Before `recover` nothing is sent; after it the job ends as if nothing had happened.
fn recover_and_end(place: &Place, provider: &Provider, asked: &[input::Asked], command: &[&str]) {
    for refused in [command, RESUME.as_slice()] {
        place
            .run(refused)
            .assert_code(6)
            .assert_says(&["batchwright recover"]);
    }
    let billed = provider.invoice().len();
    let said = place.run(&["recover", "j"]).assert_code(0);
    assert!(
        said.stdout.contains("batchwright resume j"),
        "{}",
        said.stdout
    );
    place
        .run(&["recover", "j"])
        .assert_code(5)
        .assert_says(&["there and whole"]);
    assert!(provider.invoice().len() >= billed);
    place.run(&RESUME).assert_code(0);
    results::assert_answered(&place.path("out.jsonl"), asked);
    results::assert_billed_once(&provider.invoice(), asked);
    place.assert_verified("j");
    // I9: a finished job sends nothing more.
    let billed = provider.invoice().len();
    place.run(&RESUME).assert_code(0);
    assert_eq!(provider.invoice().len(), billed);
}

#[test]
fn p24_f_155_a_journal_lost_while_batches_are_open_is_made_again_for_every_vendor() {
    for model in VENDORS {
        println!("{model}");
        let provider = Provider::new();
        let place = place::of(&provider);
        let (csv, asked) = input::words(50);
        place.write("in.csv", csv);
        place.run(&run(model, &["--no-wait"])).assert_code(0);
        lose_journal(&place);
        recover_and_end(&place, &provider, &asked, &run(model, &[]));
    }
}

#[test]
fn p24_f_155_a_journal_lost_while_results_are_collected_is_made_again_for_every_vendor() {
    for model in VENDORS {
        println!("{model}");
        let provider = Provider::new();
        let place = place::of(&provider);
        let (csv, asked) = input::words(90);
        place.write("in.csv", csv);
        let command = run(model, &[]);
        let mut running = place.start(&command);
        let segments = place.job("j").join("segments");
        let collected = || {
            fs::read_dir(&segments).is_ok_and(|files| {
                files
                    .flatten()
                    .any(|file| file.metadata().is_ok_and(|found| found.len() > 0))
            })
        };
        running.until("some outcomes", |_| collected());
        running.kill();
        lose_journal(&place);
        recover_and_end(&place, &provider, &asked, &command);
    }
}

#[test]
fn p24_a_lost_journal_of_a_finished_job_buys_nothing() {
    let provider = Provider::new();
    let place = place::of(&provider);
    let (csv, asked) = input::words(50);
    place.write("in.csv", csv);
    let command = run("openai:gpt-4o-mini", &[]);
    place.run(&command).assert_code(0);
    let creates = provider.calls("POST", BATCHES);
    lose_journal(&place);
    recover_and_end(&place, &provider, &asked, &command);
    assert_eq!(provider.calls("POST", BATCHES), creates);
}

/// The create got no answer and the journal is gone: the list tells, and what it does not show is looked for first.
#[test]
fn p24_f_110_a_create_of_unclear_fate_is_found_without_the_journal() {
    for create in ["commit_then_drop", "drop_before_commit"] {
        let provider = Provider::new();
        provider.fault(&json!([
            {"match": {"method": "POST", "path": BATCHES, "nth": 2}, "actions": [create]},
            {"match": {"method": "GET", "path": BATCHES, "nth": {"from": 4}}, "actions": [{"delay_headers": "20s"}]},
        ]));
        let place = place::of(&provider);
        let (csv, asked) = input::words(50);
        place.write("in.csv", csv);
        let command = run("openai:gpt-4o-mini", &[]);
        let mut running = place.start(&command);
        running.until("the creates", |_| provider.calls("POST", BATCHES) >= 2);
        std::thread::sleep(Duration::from_millis(200));
        running.kill();
        provider.heal();
        lose_journal(&place);
        recover_and_end(&place, &provider, &asked, &command);
    }
}

/// What an expired batch did not answer is in a later chunk already, or is to be: either way it is bought once.
#[test]
fn p24_f_076_a_journal_lost_between_rounds_buys_what_is_left_once() {
    for creates in [3, 4, 6] {
        println!("after {creates} creates");
        let provider = Provider::start(quick().with_time_scale(0.0));
        provider.fault(&json!([
            {"match": {"method": "POST", "path": BATCHES, "nth": [1, 2, 3]}, "actions": [{"expire_after_rows": 6}]},
        ]));
        let place = place::of(&provider);
        let (csv, asked) = input::words(60);
        place.write("in.csv", csv);
        let mut running = place.start(&run("openai:gpt-4o-mini", &[]));
        running.until("the creates", |_| {
            provider.advance(Duration::from_secs(3600));
            provider.calls("POST", BATCHES) >= creates || provider.calls("POST", BATCHES) >= 5
        });
        running.kill();
        lose_journal(&place);
        place.run(&["recover", "j"]).assert_code(0);
        let mut running = place.start(&RESUME);
        while running.is_running() {
            provider.advance(Duration::from_secs(3600));
            std::thread::sleep(LOOK);
        }
        running.wait().assert_code(0);
        results::assert_answered(&place.path("out.jsonl"), &asked);
        results::assert_billed_once(&provider.invoice(), &asked);
        place.assert_verified("j");
    }
}

/// A recovery that dies changes nothing, and is done again.
#[test]
fn p24_f_148_a_killed_recovery_is_done_again() {
    let provider = Provider::new();
    let place = place::of(&provider);
    let (csv, asked) = input::words(50);
    place.write("in.csv", csv);
    place
        .run(&run("openai:gpt-4o-mini", &["--no-wait"]))
        .assert_code(0);
    lose_journal(&place);
    provider.fault(&json!([
        {"match": {"method": "GET", "path": BATCHES}, "actions": [{"delay_headers": "20s"}]},
    ]));
    let asked_before = provider.calls("GET", BATCHES);
    let mut running = place.start(&["recover", "j"]);
    running.until("a look at the list", |_| {
        provider.calls("GET", BATCHES) > asked_before
    });
    assert!(running.kill());
    provider.heal();
    assert!(!place.job("j").join("ledger.sqlite").exists());
    assert!(place.job("j").join("ledger.sqlite.tmp").exists());
    recover_and_end(&place, &provider, &asked, &run("openai:gpt-4o-mini", &[]));
}

/// What a finished job stored at its provider is found by its tags, and can go.
#[test]
fn gc_finds_stored_inputs_at_every_vendor() {
    for model in VENDORS {
        println!("{model}");
        let provider = Provider::new();
        let place = place::of(&provider);
        let (csv, _) = input::words(50);
        place.write("in.csv", csv);
        place.run(&run(model, &[])).assert_code(0);
        let gc = |more: &[&str]| {
            let ended = place.run(&[&["gc", "j", "--remote", "--json"], more].concat());
            let lines = results::parse(&ended.assert_code(0).stdout);
            let inputs = lines.iter().filter(|line| line["kind"] == "input");
            inputs.count()
        };
        let vendor = model.split(':').next().unwrap();
        // Creates of Anthropic's carry the lines.
        let wanted = if vendor == "anthropic" { 0 } else { 3 };
        assert_eq!(gc(&["--yes"]), wanted, "{vendor}");
        assert_eq!(gc(&[]), 0, "{vendor}");
    }
}

#[test]
fn p24_a_damaged_journal_is_set_aside_and_made_again() {
    let provider = Provider::new();
    let place = place::of(&provider);
    let (csv, asked) = input::words(50);
    place.write("in.csv", csv);
    let command = run("openai:gpt-4o-mini", &["--no-wait"]);
    place.run(&command).assert_code(0);
    let journal = place.job("j").join("ledger.sqlite");
    let mut bytes = fs::read(&journal).unwrap();
    let word = b"\"kind\":\"created\"";
    let places: Vec<usize> = (0..bytes.len())
        .filter(|at| bytes[*at..].starts_with(word))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at + 2] = b'X';
    }
    fs::write(&journal, bytes).unwrap();
    place
        .run(&RESUME)
        .assert_code(6)
        .assert_says(&["batchwright recover"]);
    place.run(&["recover", "j"]).assert_code(0);
    assert!(place.job("j").join("set-aside/ledger.sqlite.1").exists());
    place.run(&RESUME).assert_code(0);
    results::assert_answered(&place.path("out.jsonl"), &asked);
    results::assert_billed_once(&provider.invoice(), &asked);
    place.assert_verified("j");
}

#[test]
fn p24_a_direct_jobs_journal_is_made_again_from_its_segments() {
    let provider = Provider::start(quick().with_latency(Duration::from_millis(10)));
    let place = place::of(&provider);
    let (csv, asked) = input::words(60);
    place.write("in.csv", csv);
    let mut command = run("openai:gpt-4o-mini", &["--concurrency", "1"]);
    command[7] = "realtime";
    let mut running = place.start(&command);
    running.until("some rows", |_| provider.calls("POST", CHAT) >= 20);
    assert!(running.kill());
    lose_journal(&place);
    place
        .run(&command)
        .assert_code(6)
        .assert_says(&["batchwright recover"]);
    place.run(&["recover", "j"]).assert_code(0);
    place.run(&command).assert_code(0);
    results::assert_answered(&place.path("out.jsonl"), &asked);
    place.assert_verified("j");
    // At most the one that was in flight.
    assert!(provider.calls("POST", CHAT) <= 61);
}

/// A job folder whose chunks are gone cannot tell what the provider has of it.
#[test]
fn p24_a_batch_of_a_chunk_that_is_gone_keeps_the_job_from_going_on() {
    let provider = Provider::new();
    let place = place::of(&provider);
    let (csv, _) = input::words(50);
    place.write("in.csv", csv);
    place
        .run(&run("openai:gpt-4o-mini", &["--no-wait"]))
        .assert_code(0);
    lose_journal(&place);
    for end in ["-1.jsonl", "-1.seal", ".rows"] {
        fs::remove_file(place.job("j").join(format!("chunks/000003{end}"))).unwrap();
    }
    place
        .run(&["recover", "j"])
        .assert_code(4)
        .assert_says(&["chunk 3"]);
    place.run(&RESUME).assert_code(6);
}
