use super::{entry, handle, job, seal, success};
use batchwright_core::JournalEvent;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use std::fs;

#[tokio::test]
async fn every_changed_file_and_every_row_is_named() {
    let (folder, ledger) = job();
    let sealed = seal(&ledger, 1, &[0, 1, 2]);
    let body = stream::iter([Ok(Bytes::from_static(b"{}\n"))]).boxed();
    let raw = ledger.keep_raw(1, 1, "output", 0, body).await.unwrap();
    let downloaded = JournalEvent::Downloaded {
        handle: handle(),
        label: "output".into(),
        file: raw.file,
        sha256: raw.sha256,
        bytes: raw.bytes,
    };
    ledger.append_blocking(&[entry(1, downloaded)]).unwrap();
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
            "3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, …"
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
