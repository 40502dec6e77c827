//! A disk that is full: what is durable stays, and a larger disk is all it takes (F-145).

use crate::{
    command::Place,
    input::{self, PROMPT},
    provider::{Provider, quick},
    results,
};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// A small file system of its own; unmounted when it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, with the reason printed, where this user may not mount.
    fn mount(at: &Path, kibibytes: u32) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let said = mount(at, &format!("size={kibibytes}k"));
        match said {
            Ok(()) => Some(Self(at.to_owned())),
            Err(reason) => {
                println!("skipped: mounting a small disk: {reason}");
                None
            }
        }
    }

    fn enlarge(&self) {
        mount(&self.0, "remount,size=256m").unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(at: &Path, options: &str) -> Result<(), String> {
    let output = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "batchwright-test"])
        .arg(at)
        .output()
        .map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

const MODEL: &str = "openai:gpt-4o-mini";

#[test]
fn f_145_a_full_disk_stops_the_batch_lane_and_nothing_is_bought_twice() {
    let mut met = 0;
    for kibibytes in [300, 700, 850, 1000, 1150, 1300, 1500] {
        let provider = Provider::new();
        let place = Place::of(&provider);
        let Some(disk) = SmallDisk::mount(&place.path("state"), kibibytes) else {
            return;
        };
        // Four chunks of about 50 kB, whose results are as large again.
        let (csv, asked) =
            input::words_like(200, |row| format!("{row} {}", "lorem ipsum ".repeat(60)));
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
            "--state",
            "state",
            "--chunk-rows",
            "50",
            "--poll",
            "50ms",
            "--settle",
            "300ms",
            "-o",
            "out.jsonl",
        ];
        let ended = place.run(&command);
        if ended.status.code() != Some(0) {
            ended.assert_code(6).assert_says(&["full"]);
            met += 1;
            // Once more on the same disk changes nothing.
            place.run(&command).assert_code(6).assert_says(&["full"]);
        }
        let billed = provider.invoice().len();
        disk.enlarge();
        place.run(&command).assert_code(0);
        results::assert_answered(&place.path("out.jsonl"), &asked);
        results::assert_billed_once(&provider.invoice(), &asked);
        place
            .run(&["verify", "j", "--state", "state"])
            .assert_code(0);
        println!("{kibibytes} KiB: {billed} of 200 rows were bought before there was room");
    }
    assert!(met >= 3, "the disk was full {met} times");
}

#[test]
fn f_145_a_full_disk_stops_the_realtime_lane_within_its_bound() {
    const CONCURRENCY: u64 = 4;
    let mut met = 0;
    for kibibytes in [120, 160, 200, 240] {
        let provider = Provider::start(quick().with_latency(Duration::from_millis(2)));
        let place = Place::of(&provider);
        let Some(disk) = SmallDisk::mount(&place.path("state"), kibibytes) else {
            return;
        };
        let (csv, asked) = input::words(400);
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
            "--state",
            "state",
            "--concurrency",
            "4",
            "-o",
            "out.jsonl",
            "--json",
        ];
        let ended = place.run(&command);
        if ended.status.code() != Some(0) {
            ended.assert_code(6).assert_says(&["full"]);
            met += 1;
        }
        let before = provider.invoice().len() as u64;
        disk.enlarge();
        let summary = place.run(&command).assert_code(0).summary();
        results::assert_answered(&place.path("out.jsonl"), &asked);
        let named: Vec<u64> =
            serde_json::from_value(summary["sent_again_after_interruption"].clone()).unwrap();
        let mut extra = 0;
        // Rows are named as people count, from 1.
        for (row, times) in (1..).zip(results::billed(&provider.invoice(), &asked)) {
            assert!((1..=2).contains(&times), "row {row}: {times} times");
            if times == 2 {
                extra += 1;
                assert!(named.contains(&row), "row {row} is not named: {summary}");
            }
        }
        assert!(extra <= CONCURRENCY, "{extra} rows were bought again");
        place
            .run(&["verify", "j", "--state", "state"])
            .assert_code(0);
        println!(
            "{kibibytes} KiB: {before} of 400 rows were bought before there was room, {extra} twice"
        );
    }
    assert!(met >= 2, "the disk was full {met} times");
}

#[test]
fn f_145_a_results_file_that_does_not_fit_costs_nothing_more() {
    let provider = Provider::new();
    let place = Place::of(&provider);
    let Some(disk) = SmallDisk::mount(&place.path("results"), 16) else {
        return;
    };
    let (csv, asked) = input::words(200);
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
        "-o",
        "results/out.jsonl",
    ];
    place
        .run(&command)
        .assert_code(6)
        .assert_says(&["results/out.jsonl"]);
    assert_eq!(
        std::fs::read_dir(place.path("results")).unwrap().count(),
        0,
        "half a file is no file"
    );
    place.assert_verified("j");
    disk.enlarge();
    place.run(&command).assert_code(0);
    results::assert_answered(&place.path("results/out.jsonl"), &asked);
    results::assert_billed_once(&provider.invoice(), &asked);
}
