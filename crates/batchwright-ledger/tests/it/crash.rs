use super::{job, statuses, success};
use batchwright_core::ErrorKind;
use batchwright_ledger::Ledger;
use std::{collections::BTreeSet, fs, path::Path};

fn segment(job: &Path, epoch: u64) -> std::path::PathBuf {
    job.join(format!("segments/{epoch:06}-0001.jsonl"))
}

/// Short lines, so that every byte of them can be tried; a reader takes absent keys for null ones.
fn lines(rows: std::ops::Range<u64>) -> Vec<u8> {
    let line = |row| {
        format!(
            "{{\"v\":1,\"row\":{row},\"custom_id\":\"r-{row}\",\"status\":\"succeeded\",\"output\":\"é\"}}\n"
        )
    };
    rows.map(line).collect::<String>().into_bytes()
}

#[test]
fn f_150_a_segment_cut_at_any_byte_loses_no_whole_line_and_glues_none() {
    let (folder, ledger) = job();
    drop(ledger);
    let job = folder.path().join("job");
    let last_two = lines(1..3).len();
    let mut expected = BTreeSet::new();
    let mut torn = 0;
    for cut in 0..=last_two {
        let first = cut as u64 * 10;
        let epoch = cut as u64 + 1;
        let mut bytes = lines(first..first + 3);
        // Row numbers have another length for later cuts.
        let keep = bytes.len().saturating_sub(cut);
        bytes.truncate(keep);
        fs::write(segment(&job, epoch), &bytes).unwrap();
        let ledger = Ledger::open(&job).unwrap();
        let repaired = fs::read(segment(&job, epoch)).unwrap();
        assert!(repaired.is_empty() || repaired.ends_with(b"\n"));
        let whole = |row: u64| keep >= lines(first..row + 1).len() - 1;
        let rows: Vec<u64> = (first..first + 3).filter(|&row| whole(row)).collect();
        let count = rows.len() as u64;
        assert_eq!(repaired, lines(first..first + count));
        torn += u64::from(keep > repaired.len());
        expected.extend(rows);
        // A new process appends to a segment of its own.
        assert_eq!(ledger.epoch(), epoch + 1);
    }
    let ledger = Ledger::open(&job).unwrap();
    let found: BTreeSet<u64> = ledger.scan().unwrap().finished.iter().collect();
    assert_eq!(found, expected);
    assert!(statuses(ledger.unordered().unwrap()).len() == expected.len());
    assert_eq!(
        fs::read_dir(job.join("set-aside")).unwrap().count() as u64,
        torn
    );
    assert!(torn > 100);
    assert!(ledger.verify(None).unwrap().is_ok());
}

#[test]
fn f_150_a_reader_passes_over_a_torn_tail_and_repairs_nothing() {
    let (folder, ledger) = job();
    drop(ledger);
    let job = folder.path().join("job");
    let mut bytes = lines(0..2);
    bytes.truncate(bytes.len() - 5);
    fs::write(segment(&job, 1), &bytes).unwrap();
    let scan = Ledger::open_read_only(&job).unwrap().scan().unwrap();
    assert_eq!((scan.finished.len(), scan.torn), (1, 1));
    assert_eq!(fs::read(segment(&job, 1)).unwrap(), bytes);
}

#[test]
fn f_150_damage_in_the_middle_names_file_and_line() {
    for damage in [
        "half a line",
        "{\"v\":1}",
        "{\"v\":2,\"row\":0,\"custom_id\":\"r\",\"status\":\"failed\"}",
        "{\"v\":1,\"row\":0,\"custom_id\":\"r\",\"status\":\"odd\"}",
        "{\"v\":1,\"row\":99999999999999,\"custom_id\":\"r\",\"status\":\"failed\"}",
        "",
    ] {
        let (folder, ledger) = job();
        drop(ledger);
        let job = folder.path().join("job");
        let mut bytes = lines(0..2);
        bytes.extend_from_slice(damage.as_bytes());
        bytes.push(b'\n');
        bytes.extend(lines(3..4));
        fs::write(segment(&job, 1), bytes).unwrap();
        let ledger = Ledger::open(&job).unwrap();
        let error = ledger.scan().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(
            error.message().contains("000001-0001.jsonl: line 3: "),
            "{error}"
        );
        assert!(ledger.index().is_err());
        assert!(ledger.unordered().is_err());
        assert!(!ledger.verify(None).unwrap().is_ok());
    }
}

#[test]
fn f_155_a_lost_or_cut_segment_is_an_error_and_no_reason_to_pay_again() {
    let (folder, ledger) = job();
    let log = ledger.outcome_log().unwrap();
    log.append_blocking(&[success(0), success(1)]).unwrap();
    drop((log, ledger));
    let path = segment(&folder.path().join("job"), 1);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, lines(0..1)).unwrap();
    let ledger = Ledger::open(&folder.path().join("job")).unwrap();
    assert!(ledger.scan().unwrap_err().message().contains("000001-0001"));
    fs::remove_file(&path).unwrap();
    assert!(ledger.scan().unwrap_err().message().contains("it is gone"));
    assert!(!ledger.verify(None).unwrap().is_ok());
    fs::write(&path, whole).unwrap();
    assert_eq!(ledger.scan().unwrap().finished.len(), 2);
}
