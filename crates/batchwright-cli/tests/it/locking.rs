//! Two processes on one job (F-151).

use crate::{
    command::Place,
    input::{self, PROMPT},
    provider::{CHAT, Provider, quick},
    results,
};
use serde_json::json;
use std::time::Duration;

const COMMAND: [&str; 12] = [
    "run",
    "in.csv",
    "-m",
    "openai:gpt-4o-mini",
    "-p",
    PROMPT,
    "--job",
    "j",
    "--concurrency",
    "2",
    "-o",
    "out.jsonl",
];

#[test]
fn f_151_the_second_process_names_the_first_and_sends_nothing() {
    let provider = Provider::new();
    // Answers wait until the test is done with looking.
    provider.fault(&json!([
        {"match": {"path": CHAT, "nth": {"from": 3, "to": 4}}, "actions": [{"delay_headers": "8s"}]}
    ]));
    let place = Place::of(&provider);
    let (csv, asked) = input::words(10);
    place.write("in.csv", csv);
    let mut first = place.start(&COMMAND);
    first.until("two slow calls", |_| provider.calls("POST", CHAT) == 4);
    let pid = format!("pid {} ", first.id());
    for _ in 0..20 {
        place
            .run(&COMMAND)
            .assert_code(6)
            .assert_says(&[&pid, "held"]);
        place
            .run(&["resume", "j"])
            .assert_code(6)
            .assert_says(&[&pid]);
    }
    place
        .run(&["cancel", "j"])
        .assert_code(6)
        .assert_says(&[&pid]);
    assert_eq!(provider.calls("POST", CHAT), 4, "only the first one sends");

    // Who only reads is let in.
    let status = place.status("j");
    assert_eq!(
        (&status["finished"], &status["in_flight"]),
        (&json!(2), &json!(2))
    );
    let verify = place.run(&["verify", "j", "--json"]).assert_code(7);
    assert!(
        verify.stdout.contains("8 rows without an outcome"),
        "{}",
        verify.stdout
    );
    let jobs = place.run(&["jobs", "--json"]).assert_code(0);
    assert!(jobs.stdout.contains("\"unfinished\""), "{}", jobs.stdout);
    place
        .run(&[
            "results",
            "j",
            "--state",
            "./.batchwright",
            "--partial",
            "-o",
            "part.jsonl",
        ])
        .assert_code(3)
        .assert_says(&[
            "2 rows with results, 8 rows without yet: batchwright resume j --state ./.batchwright",
        ]);
    assert_eq!(results::read(&place.path("part.jsonl")).len(), 2);

    assert!(first.is_running());
    first.wait().assert_code(0);
    results::assert_answered(&place.path("out.jsonl"), &asked);
    results::assert_billed_once(&provider.invoice(), &asked);
    place.assert_verified("j");
}

#[test]
fn f_151_f_152_of_two_at_once_one_wins_and_a_killed_one_leaves_no_lock() {
    let provider = Provider::start(quick().with_latency(Duration::from_millis(30)));
    let place = Place::of(&provider);
    for round in 0..20 {
        let job = format!("j{round}");
        let (csv, _) = input::words_like(6, |row| format!("{round} {row}"));
        place.write("in.csv", csv);
        let mut command = COMMAND;
        command[7] = &job;
        let calls = provider.calls("POST", CHAT);
        let both = [place.start(&command), place.start(&command)];
        let mut codes = both.map(|running| {
            let ended = running.wait();
            if ended.status.code() == Some(6) {
                assert!(ended.stderr.contains("held by"), "{ended:?}");
            }
            ended.status.code()
        });
        codes.sort();
        // Or the second came when the first had ended.
        assert!(
            codes == [Some(0), Some(6)] || codes == [Some(0), Some(0)],
            "{codes:?}"
        );
        assert_eq!(provider.calls("POST", CHAT), calls + 6, "round {round}");
        place.assert_verified(&job);
    }
    let (csv, _) = input::words(30);
    place.write("in.csv", csv);
    let mut running = place.start(&COMMAND);
    running.until("calls", |_| provider.calls("POST", CHAT) >= 20 * 6 + 3);
    assert!(running.kill());
    place.run(&COMMAND).assert_code(0);
}
