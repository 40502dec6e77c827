use super::job;
use batchwright_core::{ByteStream, Error, ErrorKind};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use std::fs;

fn body(pieces: Vec<Result<&'static str, ErrorKind>>) -> ByteStream {
    let piece = |piece: Result<&'static str, ErrorKind>| {
        piece
            .map(|text| Bytes::from_static(text.as_bytes()))
            .map_err(|kind| Error::new(kind, "cut"))
    };
    stream::iter(pieces).map(piece).boxed()
}

#[tokio::test]
async fn f_106_a_cut_download_is_resumed_and_whole() {
    let (folder, ledger) = job();
    let keep = |offset, pieces| ledger.keep_raw(1, 1, "output", offset, body(pieces));
    let error = keep(0, vec![Ok("hello "), Ok("wor"), Err(ErrorKind::Timeout)])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(ledger.partial_raw(1, 1, "output").unwrap(), 9);
    assert_eq!(ledger.raw(1, 1, "output").unwrap(), None);
    assert!(keep(10, vec![Ok("x")]).await.is_err());
    assert_eq!(ledger.partial_raw(1, 1, "output").unwrap(), 9);
    let kept = keep(6, vec![Ok("there"), Ok("\n")]).await.unwrap();
    assert_eq!(fs::read_to_string(&kept.path).unwrap(), "hello there\n");
    assert_eq!(
        (kept.bytes, kept.file.as_str()),
        (12, "000001-1-output.jsonl")
    );
    assert_eq!(ledger.raw(1, 1, "output").unwrap(), Some(kept.clone()));
    assert_eq!(ledger.raw_path(&kept.file).unwrap(), kept.path);
    assert_eq!(ledger.partial_raw(1, 1, "output").unwrap(), 0);
    // The server ignored the range: from the start, nothing glued.
    let again = keep(0, vec![Ok("other")]).await.unwrap();
    assert_eq!(fs::read_to_string(&again.path).unwrap(), "other");
    ledger.discard_raw(1, 1, "output").unwrap();
    assert_eq!(
        fs::read_dir(folder.path().join("job/raw")).unwrap().count(),
        0
    );
}

#[tokio::test]
async fn an_abandoned_download_never_looks_whole() {
    let (folder, ledger) = job();
    let pieces = stream::iter([Ok(Bytes::from_static(b"half"))]).chain(stream::pending());
    let mut keep = Box::pin(ledger.keep_raw(1, 1, "output", 0, pieces.boxed()));
    assert!(futures::poll!(&mut keep).is_pending());
    let error = ledger
        .keep_raw(1, 1, "output", 0, body(vec![]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    drop(keep);
    // The writer's thread ends by itself; dropping the runtime waits for it.
    let path = folder.path().join("job/raw/000001-1-output.jsonl");
    tokio::task::spawn_blocking(move || assert!(!path.exists()))
        .await
        .unwrap();
    let kept = loop {
        match ledger
            .keep_raw(1, 1, "output", 0, body(vec![Ok("whole")]))
            .await
        {
            Err(error) if error.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
            kept => break kept.unwrap(),
        }
    };
    assert_eq!(fs::read_to_string(kept.path).unwrap(), "whole");
}

#[tokio::test]
async fn f_198_no_name_from_outside_becomes_a_path() {
    let (folder, ledger) = job();
    let long = "x".repeat(33);
    for label in [
        "", "../x", "a/b", "a\\b", "C:", "a.b", "Ä", "A", "nul\0", &long,
    ] {
        let error = ledger
            .keep_raw(1, 1, label, 0, body(vec![Ok("x")]))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unexpected, "{label}");
        assert!(ledger.partial_raw(1, 1, label).is_err());
        assert!(ledger.set_aside(1, 1, label).is_err());
    }
    for file in [
        "../lock",
        "000001-1-output",
        "1-1-output.jsonl",
        "000001-1-../x.jsonl",
        "/etc/passwd",
    ] {
        assert!(ledger.raw_path(file).is_err(), "{file}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn lines_set_aside_are_kept_once() {
    let (folder, ledger) = job();
    let aside = folder.path().join("job/set-aside");
    assert_eq!(
        ledger.set_aside(1, 1, "unknown").unwrap().finish().unwrap(),
        None
    );
    for _ in 0..2 {
        let mut lines = ledger.set_aside(1, 1, "unknown").unwrap();
        lines.push(b"\xffwhat").unwrap();
        lines.push(b"{}").unwrap();
        assert_eq!(lines.lines(), 2);
        let path = lines.finish().unwrap().unwrap();
        assert_eq!(fs::read(path).unwrap(), b"\xffwhat\n{}\n");
    }
    ledger
        .set_aside(1, 2, "unknown")
        .unwrap()
        .push(b"unfinished")
        .unwrap();
    assert_eq!(fs::read_dir(aside).unwrap().count(), 1);
}
