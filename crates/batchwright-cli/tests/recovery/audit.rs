//! `verify`: what it says of damage, and what damage it may pass over.

use crate::{
    command::Place,
    input,
    place::{self, VENDORS, lose_journal, run},
    provider::Provider,
};
use std::{
    fs,
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
};

/// A finished job of two chunks, one of whose rows failed.
fn finished(model: &str) -> (Provider, Place) {
    let provider = Provider::new();
    let place = place::of(&provider);
    let (csv, _) = input::words_like(40, |row| match row {
        4 => "4 [[error:400]]".to_owned(),
        _ => format!("{row}"),
    });
    place.write("in.csv", csv);
    place.run(&run(model, &[])).assert_code(3);
    (provider, place)
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push(path);
        }
    }
    found.sort();
}

#[test]
fn f_155_a_flipped_byte_is_found_or_means_nothing() {
    let (provider, place) = finished("openai:gpt-4o-mini");
    place.assert_verified("j");
    let before = place.read("out.jsonl");
    let mut files = Vec::new();
    files_below(&place.job("j"), &mut files);
    // Who held the job last is told to people alone.
    files.retain(|file| {
        let name = file.file_name().unwrap().to_str().unwrap();
        // What SQLite keeps while somebody reads is made anew each time.
        !["lock", "ledger.sqlite-wal", "ledger.sqlite-shm"].contains(&name)
    });
    let kinds = [
        "job.json",
        "ledger.sqlite",
        ".seal",
        ".rows",
        "segments/",
        "raw/",
        "chunks/",
    ];
    for kind in kinds {
        let has_one = |file: &PathBuf| file.to_str().unwrap().contains(kind);
        assert!(files.iter().any(has_one), "{kind}: {files:?}");
    }
    let creates = provider.paid_calls();
    let seed = std::env::var("BATCHWRIGHT_E2E_SEED").ok();
    let seed = seed.map_or_else(
        || RandomState::new().hash_one("flips") % 1_000_000,
        |seed| seed.parse().unwrap(),
    );
    println!("BATCHWRIGHT_E2E_SEED={seed}");
    let mut bits = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = |below: usize| {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        usize::try_from(bits % below as u64).unwrap()
    };
    for file in &files {
        let is_database = file.ends_with("ledger.sqlite");
        for _ in 0..if is_database { 60 } else { 12 } {
            let whole = fs::read(file).unwrap();
            let mut changed = whole.clone();
            let at = next(whole.len());
            changed[at] ^= 1 << next(8);
            fs::write(file, &changed).unwrap();
            let said = place.run(&["verify", "j"]);
            let what = format!("{file:?} at {at}: {} {}", said.stdout, said.stderr);
            match said.code() {
                Some(0) => {
                    // Only the database has bytes without a meaning: unused pages, and who once held the job.
                    assert!(is_database, "{what}");
                    place
                        .run(&["results", "j", "-o", "again.jsonl"])
                        .assert_code(3);
                    assert_eq!(place.read("again.jsonl"), before, "{what}");
                }
                Some(7) => {
                    let name = file.file_name().unwrap().to_str().unwrap();
                    assert!(is_database || said.stdout.contains(name), "{what}");
                }
                _ => panic!("{what}"),
            }
            for end in ["-wal", "-shm"] {
                let _ = fs::remove_file(place.job("j").join(format!("ledger.sqlite{end}")));
            }
            fs::write(file, &whole).unwrap();
        }
    }
    assert_eq!(provider.paid_calls(), creates);
    place.assert_verified("j");
}

/// Whoever changes an answer and everything that counts its bytes is found by the other file.
#[test]
fn f_155_outcomes_are_compared_with_what_the_vendor_sent_for_every_vendor() {
    for model in VENDORS {
        println!("{model}");
        let (_provider, place) = finished(model);
        place.assert_verified("j");
        let segments = place.job("j").join("segments");
        let segment = fs::read_dir(&segments)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let text = fs::read_to_string(&segment).unwrap();
        let cheat = text.replacen("\"status\":\"failed\"", "\"status\":\"refused\"", 1);
        assert_ne!(text, cheat);
        fs::write(&segment, cheat).unwrap();
        // A journal that is made again takes the segment as it finds it.
        lose_journal(&place);
        place.run(&["recover", "j"]).assert_code(0);
        let said = place.run(&["verify", "j"]).assert_code(7);
        assert!(
            said.stdout.contains("row 5 is refused") && said.stdout.contains("says failed"),
            "{}",
            said.stdout
        );
    }
}

#[test]
fn f_156_verify_compares_the_input_and_does_without_it() {
    let (_provider, place) = finished("openai:gpt-4o-mini");
    let input = place.read("in.csv");
    place.write("in.csv", input.replacen("id", "ID", 1));
    let said = place.run(&["verify", "j"]).assert_code(7);
    assert!(
        said.stdout.contains("the input was changed"),
        "{}",
        said.stdout
    );
    fs::remove_file(place.path("in.csv")).unwrap();
    let said = place.run(&["verify", "j"]).assert_code(0);
    assert!(said.stdout.contains("note:"), "{}", said.stdout);
}
