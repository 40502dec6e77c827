//! Results files against what was asked and what was billed.

use crate::input::Asked;
use batchwright_emulator::InvoiceLine;
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

/// What every line of results in JSONL has.
pub(crate) const KEYS: [&str; 8] = [
    "custom_id",
    "status",
    "output",
    "finish_reason",
    "usage",
    "cost",
    "provenance",
    "error",
];

pub(crate) fn read(path: &Path) -> Vec<Value> {
    parse(&fs::read_to_string(path).unwrap())
}

pub(crate) fn parse(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with('\n'), "a torn last line");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Every row is there once, in order (I1), and no row has another one's answer (I4). Returns how often each status
/// stands.
pub(crate) fn assert_whole(lines: &[Value], asked: &[Asked]) -> BTreeMap<String, u64> {
    assert_eq!(lines.len(), asked.len(), "rows in the results");
    let mut statuses = BTreeMap::new();
    for (line, row) in lines.iter().zip(asked) {
        assert_eq!(line["custom_id"], row.id.as_str(), "{line}");
        for key in KEYS {
            assert!(line.get(key).is_some(), "no {key}: {line}");
        }
        let status = line["status"].as_str().unwrap();
        if status == "succeeded" {
            let output = line["output"].as_str().unwrap();
            assert!(output.starts_with(&row.mark()), "{row:?}: {line}");
        } else if status != "refused" {
            assert!(line["output"].is_null(), "{line}");
        }
        *statuses.entry(status.to_owned()).or_default() += 1;
    }
    statuses
}

/// As [`assert_whole`], of rows that all succeeded.
pub(crate) fn assert_answered(path: &Path, asked: &[Asked]) {
    let statuses = assert_whole(&read(path), asked);
    let all = BTreeMap::from([("succeeded".to_owned(), asked.len() as u64)]);
    assert_eq!(statuses, all);
}

/// How often each row was billed, by its number. Nothing else was billed.
pub(crate) fn billed(invoice: &[InvoiceLine], asked: &[Asked]) -> Vec<u64> {
    let rows: HashMap<String, usize> = asked
        .iter()
        .enumerate()
        .map(|(number, row)| (row.hash(), number))
        .collect();
    assert_eq!(
        rows.len(),
        asked.len(),
        "every row asks something of its own"
    );
    let mut times = vec![0; asked.len()];
    for line in invoice {
        let row = rows
            .get(&line.prompt_hash)
            .unwrap_or_else(|| panic!("billed and never asked: {line:?}"));
        times[*row] += 1;
    }
    times
}

/// Every row was billed exactly once (I2).
pub(crate) fn assert_billed_once(invoice: &[InvoiceLine], asked: &[Asked]) {
    let odd: Vec<_> = (0..)
        .zip(billed(invoice, asked))
        .filter(|(_, times)| *times != 1)
        .collect::<Vec<(u64, u64)>>();
    assert!(
        odd.is_empty(),
        "rows and how often they were billed: {odd:?}"
    );
}
