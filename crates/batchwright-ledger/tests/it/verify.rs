use super::{entry, handle, job, seal, success};
use batchwright_core::JournalEvent;
use batchwright_ledger::{Ledger, RawFile};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

fn downloaded(raw: RawFile) -> JournalEvent {
    JournalEvent::Downloaded {
        handle: handle(),
        label: "output".into(),
        file: raw.file,
        sha256: raw.sha256,
        bytes: raw.bytes,
    }
}

#[tokio::test]
async fn every_changed_file_and_every_row_is_named() {
    let (folder, ledger) = job();
    let sealed = seal(&ledger, 1, &[0, 1, 2]);
    let body = stream::iter([Ok(Bytes::from_static(b"{}\n"))]).boxed();
    let raw = ledger.keep_raw(1, 1, "output", 0, body).await.unwrap();
    ledger
        .append_blocking(&[
            entry(1, downloaded(raw.clone())),
            entry(1, JournalEvent::Merged { rows: 3 }),
        ])
        .unwrap();
    let log = ledger.outcome_log().unwrap();
    log.append_batch((0..3).map(success).collect())
        .await
        .unwrap();
    log.finish().await.unwrap();
    let report = ledger.verify(Some(3)).unwrap();
    assert!(report.is_ok(), "{report:?}");
    assert_eq!(
        (
            report.chunks,
            report.raw_files,
            report.segments,
            report.finished
        ),
        (1, 1, 1, 3)
    );

    let report = ledger.verify(Some(100)).unwrap();
    assert_eq!(report.findings.len(), 1);
    let what = &report.findings[0].what;
    assert!(what.starts_with("97 rows without an outcome"), "{what}");
    assert!(
        what.ends_with(
            "4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, … (counted from 1)"
        ),
        "{what}"
    );
    let report = ledger.verify(Some(2)).unwrap();
    assert!(
        report.findings[0]
            .what
            .starts_with("1 rows past the end of the input")
    );

    let job = folder.path().join("job");
    for (path, place) in [
        (sealed.path.clone(), "chunks/000001-1.jsonl"),
        (job.join("chunks/000001.rows"), "chunks/000001.rows"),
        (raw.path.clone(), "raw/000001-1-output.jsonl"),
        (
            job.join("segments/000001-0001.jsonl"),
            "segments/000001-0001.jsonl",
        ),
    ] {
        let whole = fs::read(&path).unwrap();
        let mut changed = whole.clone();
        // Inside a value, so that only the hash can tell.
        let position = whole.iter().position(|byte| *byte == b'h').unwrap_or(0);
        changed[position] ^= 1;
        fs::write(&path, changed).unwrap();
        let places = |report: batchwright_ledger::VerifyReport| -> Vec<String> {
            report
                .findings
                .into_iter()
                .map(|finding| finding.place)
                .collect()
        };
        assert!(
            places(ledger.verify(Some(3)).unwrap()).contains(&place.to_owned()),
            "{place}"
        );
        fs::remove_file(&path).unwrap();
        assert!(
            places(ledger.verify(Some(3)).unwrap()).contains(&place.to_owned()),
            "{place}"
        );
        fs::write(&path, whole).unwrap();
    }
    assert!(ledger.verify(Some(3)).unwrap().is_ok());
}

#[test]
fn a_job_that_is_being_written_is_not_damaged() {
    let (folder, ledger) = job();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let keep = |chunk, text: String| {
        let body = stream::iter([Ok(Bytes::from(text))]).boxed();
        let raw = runtime.block_on(ledger.keep_raw(chunk, 1, "output", 0, body));
        let facts = [entry(chunk, downloaded(raw.unwrap()))];
        ledger.append_blocking(&facts).unwrap();
    };
    let ended = AtomicBool::new(false);
    let written = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                let chunk = round + 1;
                seal(&ledger, chunk, &[u64::from(round)]);
                keep(chunk, format!("{round}"));
                // One download is replaced all the time, and one is thrown away before it is made again.
                keep(1, format!("again {round}"));
                ledger.discard_raw(chunk, 1, "output").unwrap();
                keep(chunk, format!("anew {round}"));
                let log = ledger.outcome_log().unwrap();
                log.append_blocking(&[success(u64::from(round))]).unwrap();
                // Each round closes its segment.
                runtime.block_on(log.finish()).unwrap();
                written.fetch_add(1, Ordering::Relaxed);
                if ended.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let reader = Ledger::open_read_only(&folder.path().join("job")).unwrap();
        let mut verified = 0;
        while verified < 50 || written.load(Ordering::Relaxed) < 50 {
            verified += 1;
            let report = reader.verify(None);
            if !report.as_ref().is_ok_and(|report| report.is_ok()) {
                ended.store(true, Ordering::Relaxed);
            }
            assert_eq!(report.unwrap().findings, []);
        }
        ended.store(true, Ordering::Relaxed);
    });
    let rounds = u64::from(written.load(Ordering::Relaxed));
    let report = ledger.verify(Some(rounds)).unwrap();
    assert!(report.is_ok(), "{report:?}");
    assert_eq!((report.chunks, report.segments), (rounds, rounds));
}

#[tokio::test]
async fn a_download_that_may_be_made_again_is_missed_only_once_it_is_merged() {
    let (_folder, ledger) = job();
    seal(&ledger, 1, &[0]);
    let body = stream::iter([Ok(Bytes::from_static(b"{}\n"))]).boxed();
    let raw = ledger.keep_raw(1, 1, "output", 0, body).await.unwrap();
    ledger
        .append_blocking(&[entry(1, downloaded(raw.clone()))])
        .unwrap();
    ledger.discard_raw(1, 1, "output").unwrap();
    assert!(ledger.verify(None).unwrap().is_ok());
    // Changed is another matter than gone.
    fs::write(&raw.path, "[]\n").unwrap();
    assert_eq!(ledger.verify(None).unwrap().findings.len(), 1);
    fs::remove_file(&raw.path).unwrap();
    let merged = entry(1, JournalEvent::Merged { rows: 1 });
    ledger.append_blocking(&[merged]).unwrap();
    assert_eq!(ledger.verify(None).unwrap().findings.len(), 1);
}
