use super::{entry, handle, job, prefix, seal, success, tag};
use batchwright_core::{
    BatchHandle, BatchStatus, ErrorKind, InputRef, JournalEntry, JournalEvent, ListMark,
    SubmissionLog as _,
};
use batchwright_ledger::{ChunkPhase, Ledger};
use std::{fs, path::Path};

fn events() -> Vec<(JournalEvent, &'static str)> {
    let (tag, input) = (tag(1, 1), InputRef("file_1".into()));
    let mark = ListMark::new(vec!["batch_0".into()], None);
    vec![
        (JournalEvent::UploadIntent { tag: tag.clone() }, "uploading"),
        (
            JournalEvent::Uploaded {
                tag: tag.clone(),
                input: input.clone(),
            },
            "uploaded",
        ),
        (
            JournalEvent::CreateIntent {
                tag: tag.clone(),
                input,
                mark,
            },
            "creating",
        ),
        (
            JournalEvent::CreateUnknown {
                tag: tag.clone(),
                message: "reset".into(),
            },
            "unknown",
        ),
        (JournalEvent::ListedClean { tag: tag.clone() }, "unknown"),
        (
            JournalEvent::Held {
                tag: tag.clone(),
                reason: "ask".into(),
                batches: Vec::new(),
            },
            "held",
        ),
        (JournalEvent::Absent { tag: tag.clone() }, "absent"),
        (JournalEvent::Fenced { tag: tag.clone() }, "fenced"),
        (
            JournalEvent::CreateRefused {
                tag: tag.clone(),
                message: "no".into(),
                retryable: true,
            },
            "refused",
        ),
        (
            JournalEvent::Created {
                tag: tag.clone(),
                handle: handle(),
            },
            "running",
        ),
        (
            JournalEvent::Adopted {
                tag,
                handle: handle(),
            },
            "running",
        ),
        (
            JournalEvent::Status {
                handle: handle(),
                status: BatchStatus::InProgress,
            },
            "running",
        ),
        (JournalEvent::CancelIntent { handle: handle() }, "running"),
        (
            JournalEvent::Downloaded {
                handle: handle(),
                label: "output".into(),
                file: "000001-1-output.jsonl".into(),
                sha256: "00".into(),
                bytes: 1,
            },
            "downloaded",
        ),
        (JournalEvent::Merged { rows: 2 }, "merged"),
    ]
}

#[tokio::test]
async fn facts_read_back_and_fold_into_the_state() {
    let (folder, ledger) = job();
    seal(&ledger, 1, &[0, 1]);
    let mut written = ledger.entries(1).await.unwrap();
    for (event, phase) in events() {
        ledger.append(vec![entry(1, event.clone())]).await.unwrap();
        written.push(entry(1, event));
        let state = ledger.chunks().unwrap().remove(0);
        assert_eq!(state.phase.as_str(), phase);
        assert_eq!(state.held.as_deref(), (phase == "held").then_some("ask"));
        assert_eq!(state.requests, 2);
    }
    assert_eq!(
        ledger.chunks().unwrap()[0].phase,
        ChunkPhase::Merged { rows: 2 }
    );
    assert_eq!(ledger.entries(1).await.unwrap(), written);
    assert!(ledger.entries(2).await.unwrap().is_empty());
    drop(ledger);
    let reader = Ledger::open_read_only(&folder.path().join("job")).unwrap();
    assert_eq!(reader.entries(1).await.unwrap(), written);
    let error = reader.append(written).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unexpected);
}

/// A ledger whose states were folded before they told when an attempt was given up.
#[tokio::test]
async fn states_of_an_earlier_program_pass_verify_and_are_made_again_on_opening() {
    let (folder, ledger) = job();
    let dir = folder.path().join("job");
    seal(&ledger, 1, &[0, 1]);
    for event in [
        JournalEvent::UploadIntent { tag: tag(1, 1) },
        JournalEvent::Absent { tag: tag(1, 1) },
        JournalEvent::Fenced { tag: tag(1, 1) },
    ] {
        ledger.append(vec![entry(1, event)]).await.unwrap();
    }
    let told = ledger.chunks().unwrap();
    assert!(told[0].fenced_at.is_some());
    drop(ledger);
    let edit = |sql: &str| {
        let database = rusqlite::Connection::open(dir.join("ledger.sqlite")).unwrap();
        database.execute_batch(sql).unwrap();
    };
    let forget = "UPDATE chunks SET state = json_remove(state, '$.fenced_at');";
    edit(&format!("DELETE FROM meta WHERE key = 'fold'; {forget}"));
    let old = Ledger::open_read_only(&dir).unwrap();
    assert_eq!(old.chunks().unwrap()[0].fenced_at, None);
    assert_eq!(old.verify(None).unwrap().findings, []);
    drop(old);
    let opened = Ledger::open(&dir).unwrap();
    assert_eq!(opened.chunks().unwrap(), told);
    assert_eq!(opened.verify(None).unwrap().findings, []);
    drop(opened);
    // What this program wrote is still held against its journal.
    edit(forget);
    let edited = Ledger::open_read_only(&dir).unwrap();
    assert_eq!(edited.verify(None).unwrap().findings.len(), 1);
}

/// What is new, of the right size and in no journal may be taken for a chunk's own batch: what failed stays known.
#[tokio::test]
async fn f_117_every_batch_of_a_chunk_stays_known_and_a_copy_sealed_late_hides_no_create() {
    let (_folder, ledger) = job();
    seal(&ledger, 1, &[0, 1]);
    let batch = |id: &str| BatchHandle::new("model", id, InputRef::default());
    let intent = |attempt| JournalEvent::CreateIntent {
        tag: tag(1, attempt),
        input: InputRef::default(),
        mark: ListMark::default(),
    };
    let created = |attempt, id| JournalEvent::Created {
        tag: tag(1, attempt),
        handle: batch(id),
    };
    let refused = JournalEvent::CreateRefused {
        tag: tag(1, 1),
        message: "the queue is full".into(),
        retryable: true,
    };
    for event in [intent(1), created(1, "b1"), refused, intent(1)] {
        ledger.append(vec![entry(1, event)]).await.unwrap();
    }
    assert_eq!(ledger.purchases().await.unwrap().unclear, [1]);
    ledger
        .append(vec![entry(1, created(1, "b2"))])
        .await
        .unwrap();
    let known = ledger.purchases().await.unwrap();
    assert!(known.unclear.is_empty());
    assert_eq!(known.batches, [(1, "b1".to_owned()), (1, "b2".to_owned())]);

    let fenced = JournalEvent::Fenced { tag: tag(1, 1) };
    for event in [fenced, intent(2)] {
        ledger.append(vec![entry(1, event)]).await.unwrap();
    }
    ledger.reseal(1, 2, prefix(1, 1), prefix(1, 2)).unwrap();
    assert_eq!(ledger.purchases().await.unwrap().unclear, [1]);
    assert_eq!(ledger.chunks().unwrap()[0].phase, ChunkPhase::Creating);
}

#[test]
fn meta_is_kept_and_replaced() {
    let (folder, ledger) = job();
    assert_eq!(ledger.meta("fingerprint").unwrap(), None);
    ledger.set_meta("fingerprint", "a").unwrap();
    ledger.set_meta("fingerprint", "b").unwrap();
    drop(ledger);
    let ledger = Ledger::open(&folder.path().join("job")).unwrap();
    assert_eq!(ledger.meta("fingerprint").unwrap().as_deref(), Some("b"));
    assert_eq!(ledger.epoch(), 2);
}

#[test]
fn f_153_an_older_epoch_sends_nothing_more() {
    let (folder, first) = job();
    seal(&first, 1, &[0]);
    // A file system whose locks lie: the second opener locks another file of the same name.
    fs::remove_file(folder.path().join("job/lock")).unwrap();
    let second = Ledger::open(&folder.path().join("job")).unwrap();
    assert_eq!((first.epoch(), second.epoch()), (1, 2));
    let input = InputRef("f".into());
    let intents = [
        JournalEvent::UploadIntent { tag: tag(1, 1) },
        JournalEvent::CreateIntent {
            tag: tag(1, 1),
            input,
            mark: ListMark::default(),
        },
        JournalEvent::CancelIntent { handle: handle() },
    ];
    for intent in intents {
        let error = first
            .append_blocking(&[entry(1, intent.clone())])
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(
            error
                .message()
                .contains("another process took this job over"),
            "{error}"
        );
        second.append_blocking(&[entry(1, intent)]).unwrap();
    }
    // What it has bought already must not be lost by that.
    first
        .append_blocking(&[entry(
            1,
            JournalEvent::Created {
                tag: tag(1, 1),
                handle: handle(),
            },
        )])
        .unwrap();
    assert_eq!(second.chunks().unwrap()[0].handle, Some(handle()));
}

#[tokio::test]
async fn f_153_an_older_epoch_calls_nobody_more_and_keeps_what_it_bought() {
    let (folder, first) = job();
    let job = folder.path().join("job");
    let log = first.outcome_log().unwrap();
    log.intent(0, 1).await.unwrap();
    log.intent(1, 1).await.unwrap();
    fs::remove_file(job.join("lock")).unwrap();
    let second = Ledger::open(&job).unwrap();
    for row in [2, 3] {
        let error = log.intent(row, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(
            error
                .message()
                .contains("another process took this job over"),
            "{error}"
        );
    }
    // The answers to what was sent before are paid for, and harm nothing the other process relies on.
    log.append(success(0)).await.unwrap();
    let other = second.outcome_log().unwrap();
    other.intent(1, 1).await.unwrap();
    other.append(success(1)).await.unwrap();
    log.append(success(1)).await.unwrap();
    log.finish().await.unwrap();
    other.finish().await.unwrap();
    let scan = second.scan().unwrap();
    assert!(scan.finished.iter().eq([0, 1]));
    assert_eq!((scan.intents, scan.in_flight_rows), (3, 0));
    let report = second.verify(Some(2)).unwrap();
    assert!(report.is_ok(), "{report:?}");
    drop((first, second));
    assert!(Ledger::open(&job).unwrap().verify(Some(2)).unwrap().is_ok());
}

#[test]
fn facts_are_appended_all_or_none() {
    let (folder, first) = job();
    fs::remove_file(folder.path().join("job/lock")).unwrap();
    let second = Ledger::open(&folder.path().join("job")).unwrap();
    let both: [JournalEntry; 2] = [
        entry(1, JournalEvent::Merged { rows: 1 }),
        entry(1, JournalEvent::UploadIntent { tag: tag(1, 1) }),
    ];
    assert!(first.append_blocking(&both).is_err());
    assert!(second.entries_blocking(1).unwrap().is_empty());
    assert!(second.chunks().unwrap().is_empty());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn f_155_a_changed_byte_of_the_journal_is_found_or_harmless() {
    let (folder, ledger) = job();
    seal(&ledger, 1, &[0, 1]);
    for (event, _) in events().into_iter().take(5) {
        ledger.append_blocking(&[entry(1, event)]).unwrap();
    }
    let (entries, chunks) = (
        ledger.entries_blocking(1).unwrap(),
        ledger.chunks().unwrap(),
    );
    drop(ledger);
    let original = folder.path().join("job");
    let changed = folder.path().join("changed");
    copy(&original, &changed);
    let database = changed.join("ledger.sqlite");
    let whole = fs::read(&database).unwrap();
    let mut found = 0;
    for position in (0..whole.len()).step_by(41) {
        let mut bytes = whole.clone();
        bytes[position] ^= 0x11;
        fs::write(&database, bytes).unwrap();
        let Ok(reader) = Ledger::open_read_only(&changed) else {
            found += 1;
            continue;
        };
        match reader.verify(None) {
            Ok(report) if report.is_ok() => {
                assert_eq!(
                    reader.entries_blocking(1).unwrap(),
                    entries,
                    "byte {position}"
                );
                assert_eq!(reader.chunks().unwrap(), chunks, "byte {position}");
            }
            _ => found += 1,
        }
    }
    assert!(found > 0);
}

#[test]
fn a_lost_journal_is_not_started_over() {
    let (folder, ledger) = job();
    seal(&ledger, 1, &[0]);
    drop(ledger);
    let job = folder.path().join("job");
    fs::remove_file(job.join("ledger.sqlite")).unwrap();
    assert!(!Ledger::exists(&job));
    let error = Ledger::open(&job).unwrap_err();
    assert!(error.message().contains("ledger.sqlite is gone"), "{error}");
    assert!(Ledger::open_read_only(&job).is_err());
}

#[test]
fn f_155_an_emptied_journal_is_not_started_over() {
    for inner in ["chunks", "raw", "segments"] {
        let (folder, ledger) = job();
        drop(ledger);
        let job = folder.path().join("job");
        let database = job.join("ledger.sqlite");
        let tables = fs::read(&database).unwrap();
        fs::write(job.join(inner).join("000001-0001.jsonl"), "").unwrap();
        // A SQLite database in which nothing was ever made: its version is 0.
        let mut bare = tables[..4096].to_vec();
        bare[60..64].fill(0);
        bare[28..32].copy_from_slice(&1_u32.to_be_bytes());
        bare[100..].fill(0);
        bare[100] = 13;
        bare[105..107].copy_from_slice(&4096_u16.to_be_bytes());
        for lost in [Vec::new(), bare] {
            fs::write(&database, &lost).unwrap();
            // What SQLite keeps beside it may be all that is left to restore from.
            fs::write(job.join("ledger.sqlite-wal"), "rest").unwrap();
            let error = Ledger::open(&job).unwrap_err();
            assert!(error.message().contains("gone or empty"), "{error}");
            assert!(Ledger::open_read_only(&job).is_err());
            if lost.is_empty() {
                assert_eq!(fs::read(job.join("ledger.sqlite-wal")).unwrap(), b"rest");
            }
            fs::remove_file(job.join("ledger.sqlite-wal")).ok();
        }
        // A first start that was cut off before it had bought anything goes on.
        fs::remove_file(job.join(inner).join("000001-0001.jsonl")).unwrap();
        fs::write(&database, "").unwrap();
        assert_eq!(Ledger::open(&job).unwrap().epoch(), 1);
    }
}
