use super::{at, job, line, prefix, seal};
use batchwright_core::{ErrorKind, JournalEvent, SealedBody, WireId};
use batchwright_ledger::{ChunkPhase, Ledger};
use proptest::prelude::*;
use std::fs;

#[test]
fn a_sealed_chunk_reads_back() {
    let (folder, ledger) = job();
    let sealed = seal(&ledger, 1, &[3, 40, 5]);
    assert_eq!((sealed.chunk, sealed.attempt, sealed.requests), (1, 1, 3));
    assert_eq!(ledger.sealed(1, 1).unwrap(), sealed);
    assert_eq!(fs::metadata(&sealed.path).unwrap().len(), sealed.bytes);
    assert!(matches!(sealed.to_batch().body, SealedBody::File(path) if path == sealed.path));
    let state = ledger.chunks().unwrap().remove(0);
    assert_eq!(
        (state.phase, state.sha256),
        (ChunkPhase::Sealed, sealed.sha256)
    );
    assert_eq!(
        (state.model.as_str(), state.last_at),
        ("gpt-4o-mini", at(7))
    );

    let rows: Vec<_> = ledger.chunk_rows(1).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows[1], (40, "r-40".to_owned()));
    let ids = ledger.chunk_rows(1).unwrap().load().unwrap();
    assert_eq!((ids.len(), ids.get(5), ids.get(4)), (3, Some("r-5"), None));
    assert!(ids.iter().map(|pair| pair.0).eq([3, 5, 40]));
    assert_eq!(ids.position(40), Some(2));

    let error = ledger.chunk_writer(1, prefix(1, 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unexpected);
    drop(ledger);
    let ledger = Ledger::open(&folder.path().join("job")).unwrap();
    assert_eq!(ledger.sealed(1, 1).unwrap().requests, 3);
}

#[test]
fn an_unsealed_chunk_leaves_nothing_and_can_be_written_again() {
    let (folder, ledger) = job();
    let prefix = prefix(2, 1);
    let mut writer = ledger.chunk_writer(2, prefix).unwrap();
    writer.push(0, "a", &line(prefix, 0, "x")).unwrap();
    drop(writer);
    let chunks = folder.path().join("job/chunks");
    assert_eq!(fs::read_dir(&chunks).unwrap().count(), 0);
    drop(ledger);
    // What a killed process leaves: temporary files, or files in place without a fact (P0).
    fs::write(chunks.join("000002-1.jsonl.tmp"), "torn").unwrap();
    fs::write(chunks.join("000002-1.jsonl"), "unrecorded").unwrap();
    let ledger = Ledger::open(&folder.path().join("job")).unwrap();
    assert!(!chunks.join("000002-1.jsonl.tmp").exists());
    assert!(ledger.sealed(2, 1).is_err());
    let sealed = seal(&ledger, 2, &[0]);
    assert_ne!(fs::read_to_string(sealed.path).unwrap(), "unrecorded");
    let empty = ledger.chunk_writer(3, super::prefix(3, 1)).unwrap();
    assert!(empty.seal("p", "e", "m", at(0)).is_err());
}

#[test]
fn a_line_that_is_not_its_rows_is_refused() {
    let (_folder, ledger) = job();
    let prefix = prefix(1, 1);
    let mut writer = ledger.chunk_writer(1, prefix).unwrap();
    let id = WireId::new(prefix, 1).to_string();
    for bad in [
        line(prefix, 2, "another row's"),
        line(super::prefix(1, 2), 1, "another attempt's"),
        format!("{{\"custom_id\":\n\"{id}\"}}").into_bytes(),
        format!("{{\"x\":\"{prefix}-zz\",\"custom_id\":\"{id}\"}}").into_bytes(),
        format!("{{\"x\":\"\\\"{prefix}-1\\\"\",\"custom_id\":\"{id}\"}}").into_bytes(),
        b"{}".to_vec(),
    ] {
        assert!(writer.push(1, "a", &bad).is_err());
    }
    assert_eq!((writer.requests(), writer.bytes()), (0, 0));
    writer.push(1, "a", &line(prefix, 1, "right")).unwrap();
}

#[test]
fn f_155_a_changed_chunk_is_never_sent() {
    let (folder, ledger) = job();
    let sealed = seal(&ledger, 1, &[0, 1]);
    let rows = folder.path().join("job/chunks/000001.rows");
    for path in [&sealed.path, &rows] {
        let whole = fs::read(path).unwrap();
        for position in 0..whole.len() {
            let mut changed = whole.clone();
            changed[position] ^= 1;
            fs::write(path, changed).unwrap();
            assert!(ledger.sealed(1, 1).is_err() || ledger.chunk_rows(1).is_err());
        }
        fs::write(path, &whole[..whole.len() - 1]).unwrap();
        assert!(ledger.sealed(1, 1).is_err() || ledger.chunk_rows(1).is_err());
        fs::write(path, whole).unwrap();
    }
    assert!(ledger.sealed(1, 1).is_ok() && ledger.chunk_rows(1).is_ok());
    fs::remove_file(&sealed.path).unwrap();
    let error = ledger.sealed(1, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(error.message().contains("000001-1.jsonl"), "{error}");
}

#[test]
fn resealing_again_gives_the_same_attempt() {
    let (_folder, ledger) = job();
    seal(&ledger, 1, &[0]);
    let (old, new) = (prefix(1, 1), prefix(1, 2));
    let second = ledger.reseal(1, 2, old, new).unwrap();
    assert_eq!(ledger.reseal(1, 2, old, new).unwrap(), second);
    assert_eq!(ledger.chunks().unwrap()[0].attempt, 2);
    let third = prefix(1, 3);
    assert!(ledger.reseal(1, 3, old, third).is_err());
    assert!(ledger.reseal(1, 3, new, third).is_ok());
    assert!(ledger.reseal(9, 2, old, new).is_err());
    assert_eq!(ledger.sealed(1, 1).unwrap().wire_prefix, old.as_str());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn f_172_a_resealed_chunk_differs_in_its_ids_alone(
        rows in proptest::collection::btree_map(0u64..1 << 36, (".{0,40}", ".{0,60}"), 1..12),
    ) {
        let (_folder, ledger) = job();
        let (old, new) = (prefix(1, 1), prefix(1, 2));
        let mut writer = ledger.chunk_writer(1, old).unwrap();
        for (row, (custom_id, text)) in &rows {
            // A prompt that quotes an id of this very attempt must come through untouched.
            let text = format!("{text} \"{old}-1\"");
            writer.push(*row, custom_id, &line(old, *row, &text)).unwrap();
        }
        let first = writer.seal("p", "e", "m", at(0)).unwrap();
        let second = ledger.reseal(1, 2, old, new).unwrap();
        prop_assert_eq!((first.bytes, first.requests), (second.bytes, second.requests));
        let read = |path| fs::read_to_string(path).unwrap();
        let (first, second) = (read(&first.path), read(&second.path));
        for ((row, _), (before, after)) in rows.iter().zip(first.lines().zip(second.lines())) {
            let mut before: serde_json::Value = serde_json::from_str(before).unwrap();
            let after: serde_json::Value = serde_json::from_str(after).unwrap();
            before["custom_id"] = WireId::new(new, *row).to_string().into();
            prop_assert_eq!(before, after);
        }
        let ids = ledger.chunk_rows(1).unwrap().load().unwrap();
        for (row, (custom_id, _)) in &rows {
            prop_assert_eq!(ids.get(*row), Some(custom_id.as_str()));
        }
        let seals = ledger.entries_blocking(1).unwrap();
        let seals = seals.iter().filter(|entry| matches!(entry.event, JournalEvent::Seal { .. }));
        prop_assert_eq!(seals.count(), 2);
    }
}
