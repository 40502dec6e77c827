//! What a job folder promises, through the public API.
#![allow(
    clippy::unwrap_used,
    reason = "a failed test is the right place to panic"
)]

mod chunks;
mod crash;
mod journal;
mod lock;
mod outcomes;
mod raw;
mod verify;

use batchwright_core::{
    BatchHandle, Ending, Error, ErrorKind, InputRef, JournalEntry, JournalEvent, Outcome, Response,
    SubmissionTag, Timestamp, WireId, WirePrefix,
};
use batchwright_ledger::{Ledger, OutcomeRecord, SealedChunk};
use tempfile::TempDir;

fn job() -> (TempDir, Ledger) {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&folder.path().join("job")).unwrap();
    (folder, ledger)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds)
}

fn tag(chunk: u32, attempt: u32) -> SubmissionTag {
    SubmissionTag::new("job", chunk, attempt, "random").unwrap()
}

fn entry(chunk: u32, event: JournalEvent) -> JournalEntry {
    JournalEntry::new(chunk, at(1), event)
}

fn handle() -> BatchHandle {
    BatchHandle::new("openai", "batch_1", InputRef("file_1".into()))
}

fn prefix(chunk: u32, attempt: u32) -> WirePrefix {
    WirePrefix::of("job", chunk, attempt)
}

fn line(prefix: WirePrefix, row: u64, text: &str) -> Vec<u8> {
    let id = WireId::new(prefix, row).to_string();
    serde_json::to_vec(&serde_json::json!({"custom_id": id, "text": text})).unwrap()
}

fn seal(ledger: &Ledger, chunk: u32, rows: &[u64]) -> SealedChunk {
    let prefix = prefix(chunk, 1);
    let mut writer = ledger.chunk_writer(chunk, prefix).unwrap();
    for &row in rows {
        writer
            .push(row, &format!("r-{row}"), &line(prefix, row, "hello"))
            .unwrap();
    }
    writer
        .seal("openai", "/v1/chat/completions", "gpt-4o-mini", at(7))
        .unwrap()
}

fn record(row: u64, ending: Ending) -> Vec<u8> {
    let custom_id = format!("r-{row}");
    let outcome = Outcome::new(custom_id.clone(), ending);
    let mut line = Vec::new();
    OutcomeRecord::write(row, &custom_id, &outcome, false, &mut line);
    line
}

fn success(row: u64) -> Vec<u8> {
    record(
        row,
        Ending::Succeeded(Response::from_text(format!("é{row}"))),
    )
}

fn failure(row: u64, message: &str) -> Vec<u8> {
    record(
        row,
        Ending::Failed(Error::new(ErrorKind::InvalidRequest, message)),
    )
}

/// The records of an iterator over lines, as row and status.
fn statuses(
    lines: impl Iterator<Item = batchwright_core::Result<(u64, Vec<u8>)>>,
) -> Vec<(u64, String)> {
    lines
        .map(|line| {
            let (row, line) = line.unwrap();
            let record = OutcomeRecord::parse(&line).unwrap();
            assert_eq!(record.row, row);
            assert_eq!(record.custom_id, format!("r-{row}"));
            (row, record.status.into_owned())
        })
        .collect()
}

#[test]
fn public_types_cross_threads() {
    fn crosses<T: Send + 'static>() {}
    crosses::<Ledger>();
    crosses::<batchwright_ledger::ChunkWriter>();
    crosses::<batchwright_ledger::OutcomeLog>();
    crosses::<batchwright_ledger::BulkWriter>();
    crosses::<batchwright_ledger::OutcomeIndex>();
    crosses::<batchwright_ledger::UnorderedOutcomes>();
}
