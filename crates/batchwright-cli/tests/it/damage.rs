//! Job folders that were torn or changed.

use crate::{
    command::Place,
    input::{self, PROMPT},
    provider::{CHAT, Provider, quick},
    results,
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const MODEL: &str = "openai:gpt-4o-mini";

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The files of a folder inside a job's.
fn files_of(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

#[test]
fn f_150_a_segment_cut_at_any_byte_of_its_last_line_loses_and_glues_nothing() {
    let provider = Provider::start(quick().with_latency(Duration::from_millis(10)));
    let place = Place::of(&provider);
    let (csv, asked) = input::words(12);
    place.write("in.csv", csv);
    let command = [
        "run",
        "in.csv",
        "-m",
        MODEL,
        "-p",
        PROMPT,
        "--job",
        "j",
        "--concurrency",
        "1",
        "-o",
        "out.jsonl",
    ];
    let mut running = place.start(&command);
    running.until("some rows", |_| provider.calls("POST", CHAT) >= 8);
    assert!(running.kill());
    let segment = files_of(&place.job("j").join("segments")).pop().unwrap();
    let whole = fs::read(&segment).unwrap();
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let is_intent = |line: &&[u8]| line.starts_with(b"{\"v\":1,\"intent\"");

    // Once where the last line is an outcome, once where it is an intent.
    for wanted in [false, true] {
        let last = (0..lines.len())
            .rev()
            .find(|at| is_intent(&lines[*at]) == wanted)
            .unwrap();
        let before: usize = lines[..last].iter().map(|line| line.len()).sum();
        let line = lines[last];
        let saved = lines[..last].iter().filter(|line| !is_intent(line)).count();
        let full = std::env::var_os("BATCHWRIGHT_E2E_FULL").is_some();
        let step = if full { 1 } else { line.len().div_ceil(8) };
        let mut cuts: Vec<usize> = (0..line.len()).step_by(step).collect();
        // Without its newline, and without one byte more.
        cuts.extend([line.len() - 2, line.len() - 1]);
        for cut in cuts {
            let state = place.path("copy");
            let _ = fs::remove_dir_all(&state);
            copy(&place.job("j"), &state.join("j"));
            let torn = state.join("j/segments").join(segment.file_name().unwrap());
            fs::write(&torn, &whole[..before + cut]).unwrap();
            // A whole outcome without its newline is an outcome.
            let saved = saved + usize::from(!wanted && cut == line.len() - 1);

            let calls = provider.calls("POST", CHAT);
            let mut again = command.to_vec();
            again.extend(["--state", "copy"]);
            place.run(&again).assert_code(0);
            results::assert_answered(&place.path("out.jsonl"), &asked);
            let sent = provider.calls("POST", CHAT) - calls;
            assert_eq!(
                sent,
                (asked.len() - saved) as u64,
                "cut at byte {cut} of {}",
                line.len()
            );
            place
                .run(&["verify", "j", "--state", "copy"])
                .assert_code(0);
            let aside = files_of(&state.join("j/set-aside"));
            let torn_away = cut > 0 && cut < line.len() - 1;
            assert_eq!(
                aside.len(),
                usize::from(torn_away),
                "cut at byte {cut}: {aside:?}"
            );
        }
    }
}

#[test]
fn f_155_verify_finds_one_changed_byte_in_any_file() {
    let provider = Provider::new();
    let place = Place::of(&provider);
    let (csv, _) = input::words_like(40, |row| match row % 10 {
        4 => format!("{row} [[error:400]]"),
        _ => format!("{row}"),
    });
    place.write("in.csv", csv);
    place
        .run(&[
            "run",
            "in.csv",
            "-m",
            MODEL,
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
        ])
        .assert_code(3);
    place.assert_verified("j");
    for folder in ["raw", "chunks", "segments"] {
        let files = files_of(&place.job("j").join(folder));
        let expected = match folder {
            "segments" => 1,
            // Lines, rows and a seal of each of two.
            "chunks" => 6,
            _ => 4,
        };
        assert_eq!(files.len(), expected, "{files:?}");
        for file in files {
            let name = format!("{folder}/{}", file.file_name().unwrap().to_str().unwrap());
            let whole = fs::read(&file).unwrap();
            for at in [0, whole.len() / 2, whole.len() - 1] {
                let mut changed = whole.clone();
                changed[at] ^= 0x01;
                fs::write(&file, changed).unwrap();
                let ended = place.run(&["verify", "j"]).assert_code(7);
                assert!(
                    ended.stdout.contains(&name),
                    "{name}, byte {at}: {}",
                    ended.stdout
                );
            }
            fs::write(&file, &whole[..whole.len() - 1]).unwrap();
            place.run(&["verify", "j"]).assert_code(7);
            fs::remove_file(&file).unwrap();
            let ended = place.run(&["verify", "j"]).assert_code(7);
            assert!(
                ended.stdout.contains(&name),
                "{name} removed: {}",
                ended.stdout
            );
            fs::write(&file, whole).unwrap();
        }
    }
    place.assert_verified("j");
}

#[test]
fn f_155_a_changed_chunk_is_not_bought_and_a_lost_journal_buys_nothing() {
    let provider = Provider::new();
    provider.fault(&serde_json::json!([
        {"match": {"method": "POST", "path": "/openai/v1/files"},
         "actions": [{"reply": {"status": 401, "body": {"error": {"code": "invalid_api_key"}}}}]}
    ]));
    let place = Place::of(&provider);
    let (csv, asked) = input::words(20);
    place.write("in.csv", csv);
    let command = [
        "run",
        "in.csv",
        "-m",
        MODEL,
        "-p",
        PROMPT,
        "--lane",
        "batch",
        "--job",
        "j",
        "--poll",
        "50ms",
        "-o",
        "out.jsonl",
    ];
    place.run(&command).assert_code(5);
    provider.heal();
    let calls = provider.paid_calls();

    let chunk = place.job("j").join("chunks/000001-1.jsonl");
    let whole = fs::read_to_string(&chunk).unwrap();
    fs::write(&chunk, whole.replacen("Say", "Buy", 1)).unwrap();
    place
        .run(&command)
        .assert_code(6)
        .assert_says(&["000001-1.jsonl"]);
    fs::write(&chunk, whole).unwrap();

    let journal = place.job("j").join("ledger.sqlite");
    let moved = place.path("elsewhere.sqlite");
    for end in ["", "-wal", "-shm"] {
        let _ = fs::rename(
            journal.with_extension(format!("sqlite{end}")),
            moved.with_extension(format!("sqlite{end}")),
        );
    }
    place
        .run(&command)
        .assert_code(6)
        .assert_says(&["ledger.sqlite is gone"]);
    assert_eq!(provider.paid_calls(), calls, "nothing was sent");
    let _ = fs::remove_file(&journal);
    for end in ["", "-wal", "-shm"] {
        let _ = fs::rename(
            moved.with_extension(format!("sqlite{end}")),
            journal.with_extension(format!("sqlite{end}")),
        );
    }

    place.run(&command).assert_code(0);
    results::assert_answered(&place.path("out.jsonl"), &asked);
    results::assert_billed_once(&provider.invoice(), &asked);
}
