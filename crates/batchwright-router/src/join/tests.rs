//! Lines in any order, number and shape against the rows they were sent for.

use super::*;
use crate::fake::Fake;
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeMap;

const ROWS: [u64; 4] = [3, 7, 70_000, 70_001];

fn prefix() -> WirePrefix {
    WirePrefix::of("job", 1, 1)
}

fn id(row: u64) -> String {
    WireId::new(prefix(), row).to_string()
}

fn answer(row: u64, text: &str) -> String {
    format!(r#"{{"id":"{}","answer":"{text}"}}"#, id(row))
}

fn with(row: u64, rest: &str) -> String {
    format!(r#"{{"id":"{}",{rest}}}"#, id(row))
}

struct Result {
    /// By row, its ending and, of an answer, its text.
    rows: BTreeMap<u64, (String, String)>,
    missing: Vec<u64>,
    report: JoinReport,
    /// Lines to be set aside.
    aside: u64,
}

/// Both passes over these lines, as a store makes them.
fn join(lines: &[String]) -> Result {
    let fake = Fake::new("fake");
    let origin = Origin::new("fake", "model-a", Arc::default());
    let mut join = Join::new(fake.as_ref(), prefix(), &ROWS, &origin);
    let (mut rows, mut aside) = (BTreeMap::new(), 0);
    for pass in 0..2 {
        if pass == 1 {
            join.second_pass();
        }
        for line in lines {
            match join.line(line.as_bytes()) {
                Joined::Row(row, outcome) => {
                    let text = outcome.response().map(|response| response.text());
                    let ending = outcome.ending.as_str().to_owned();
                    let before = rows.insert(row, (ending, text.unwrap_or_default()));
                    assert_eq!(before, None, "row {row} ended twice");
                }
                Joined::Passed => {}
                Joined::Unknown => aside += 1,
            }
        }
    }
    assert_eq!(join.settled(), rows.len() as u64);
    assert_eq!(join.is_complete(), rows.len() == ROWS.len());
    Result {
        rows,
        missing: join.missing().collect(),
        report: join.report().clone(),
        aside,
    }
}

fn ending(result: &Result, row: u64) -> (&str, &str) {
    let (ending, text) = &result.rows[&row];
    (ending, text)
}

#[test]
fn f_095_lines_in_any_order_find_their_rows() {
    let lines = [
        answer(70_001, "d"),
        answer(3, "a"),
        answer(70_000, "c"),
        answer(7, "b"),
    ];
    let result = join(&lines);
    for (row, text) in [(3, "a"), (7, "b"), (70_000, "c"), (70_001, "d")] {
        assert_eq!(ending(&result, row), ("succeeded", text));
    }
    assert_eq!(
        (result.missing.len(), result.report),
        (0, JoinReport::default())
    );
}

#[test]
fn f_097_rows_without_a_line_are_told_by_number() {
    let result = join(&[answer(7, "b")]);
    assert_eq!(result.missing, [3, 70_000, 70_001]);
    assert_eq!(join(&[]).missing, ROWS);
}

#[test]
fn f_098_unknown_ids_are_set_aside_once_and_hurt_nobody() {
    let other_attempt = WireId::new(WirePrefix::of("job", 1, 2), 3);
    let other_chunk = WireId::new(WirePrefix::of("job", 2, 1), 3);
    let lines = [
        answer(5, "a row of another chunk"),
        format!(r#"{{"id":"{other_attempt}","answer":"late"}}"#),
        format!(r#"{{"id":"{other_chunk}","answer":"elsewhere"}}"#),
        r#"{"id":"request-1","answer":"never sent"}"#.to_owned(),
        format!(
            r#"{{"id":"{}","answer":"upper case"}}"#,
            id(3).to_uppercase()
        ),
        r#"{"answer":"no id"}"#.to_owned(),
        "<html>bad gateway</html>".to_owned(),
        answer(3, "mine"),
    ];
    let result = join(&lines);
    assert_eq!((result.report.unknown, result.aside), (7, 7));
    assert_eq!(result.rows.len(), 1);
    assert_eq!(ending(&result, 3), ("succeeded", "mine"));
}

#[test]
fn f_099_the_first_success_wins_and_only_different_ones_are_counted() {
    let lines = [
        answer(3, "first"),
        answer(3, "first"),
        answer(3, "second"),
        answer(3, "first"),
    ];
    let result = join(&lines);
    assert_eq!(ending(&result, 3), ("succeeded", "first"));
    assert_eq!(result.report.duplicates, 1);
    assert_eq!(result.aside, 0);
}

#[test]
fn f_082_a_success_wins_over_an_error_wherever_it_stands() {
    let error = with(3, r#""error":"server_error""#);
    for lines in [
        [error.clone(), answer(3, "a")],
        [answer(3, "a"), error.clone()],
    ] {
        let result = join(&lines);
        assert_eq!(ending(&result, 3), ("succeeded", "a"));
        assert_eq!(result.report, JoinReport::default());
    }
    // Of several errors the first one stands.
    let result = join(&[with(3, r#""expired":true"#), error]);
    assert_eq!(ending(&result, 3).0, "expired");
}

#[test]
fn f_063_f_082_a_refusal_was_paid_and_wins_over_an_error_too() {
    let lines = [
        with(3, r#""error":"x""#),
        with(3, r#""refusal":"I cannot""#),
    ];
    assert_eq!(ending(&join(&lines), 3), ("refused", "I cannot"));
}

#[test]
fn f_104_a_hollow_line_is_its_own_rows_and_nobody_elses() {
    let hollow = with(3, r#""response":null,"error":null"#);
    let result = join(&[hollow.clone(), answer(7, "b")]);
    assert_eq!(ending(&result, 3).0, "unreadable");
    assert_eq!(ending(&result, 7).0, "succeeded");
    assert_eq!(
        ending(&join(&[hollow, answer(3, "a")]), 3),
        ("succeeded", "a")
    );
}

#[test]
fn f_083_f_108_blank_lines_are_nothing_and_lines_are_not_counted_on() {
    let lines = [
        String::new(),
        "  \t".to_owned(),
        "\r".to_owned(),
        answer(3, "a") + "\r",
    ];
    let result = join(&lines);
    assert_eq!(ending(&result, 3), ("succeeded", "a"));
    assert_eq!((result.aside, result.missing.len()), (0, 3));
}

#[test]
fn f_137_a_cost_is_by_the_model_that_answered_and_the_model_shown_is_the_one_asked_for() {
    let fake = Fake::new("openai");
    let handle = BatchHandle::new("openai", "batch-1", Default::default());
    let origin = Origin::new("openai", "gpt-4o-mini", Arc::default()).bought(&handle, 2);
    let mut join = Join::new(fake.as_ref(), prefix(), &ROWS, &origin);
    let line = with(3, r#""answer":"a","model":"gpt-4o-mini-2024-07-18""#);
    let Joined::Row(3, outcome) = join.line(line.as_bytes()) else {
        panic!("row 3 has an answer");
    };
    let provenance = outcome.provenance;
    assert_eq!(provenance.provider.as_deref(), Some("openai"));
    assert_eq!(provenance.batch.as_deref(), Some("batch-1"));
    assert_eq!(provenance.model.as_deref(), Some("gpt-4o-mini"));
    assert_eq!(
        (provenance.attempts, provenance.lane),
        (2, Some(Lane::Batch))
    );
    // The table is empty: unknown, not free.
    assert_eq!(provenance.cost, None);
}

#[test]
fn f_073_a_fault_is_its_own_lines_error_and_the_others_have_the_batchs() {
    let batch = Error::new(
        batchwright_core::ErrorKind::InvalidRequest,
        "the batch was refused",
    );
    let faults = [
        InputFault::new(Some("bad".into()), "this line", Some(2), Some("url".into())),
        InputFault::new(None, "all of it", None, None),
    ];
    let second = refused_row(&batch, &faults, 2);
    assert_eq!(
        (second.message(), second.code(), second.param()),
        ("this line", Some("bad"), Some("url"))
    );
    assert_eq!(
        refused_row(&batch, &faults, 1).message(),
        "the batch was refused"
    );
}

fn line() -> impl Strategy<Value = String> {
    let row = prop_oneof![prop::sample::select(ROWS.to_vec()), 0u64..10];
    (row, 0u8..7, 0u8..3).prop_map(|(row, shape, text)| match shape {
        0 | 1 => answer(row, &format!("{row} says {text}")),
        2 => with(row, r#""error":"x""#),
        3 => with(row, r#""nothing":0"#),
        4 => with(row, r#""refusal":"no""#),
        5 => format!(r#"{{"id":"other-{row}","answer":"x"}}"#),
        _ => ["", "{", "null", "[]"][usize::from(text)].to_owned(),
    })
}

proptest! {
    /// I1: whatever lines come, each row has one outcome or is missing, and no row has another's answer.
    #[test]
    fn every_row_has_one_outcome_or_is_missing(lines in vec(line(), 0..40), second in 0usize..40) {
        let result = join(&lines);
        let mut rows: Vec<u64> = result.rows.keys().copied().chain(result.missing.clone()).collect();
        rows.sort_unstable();
        prop_assert_eq!(rows, ROWS);
        for (row, (ending, text)) in &result.rows {
            if ending == "succeeded" {
                let own = format!("{row} says ");
                prop_assert!(text.starts_with(&own));
            }
        }
        prop_assert_eq!(result.report.unknown, result.aside);
        // An order of files or lines changes neither which rows have an outcome nor which succeeded.
        let mut turned = lines;
        let middle = second.min(turned.len());
        turned.rotate_left(middle);
        let turned = join(&turned);
        let paid = |result: &Result| -> Vec<(u64, bool)> {
            let paid = |ending: &str| ending == "succeeded" || ending == "refused";
            result.rows.iter().map(|(row, (ending, _))| (*row, paid(ending))).collect()
        };
        prop_assert_eq!(paid(&turned), paid(&result));
        prop_assert_eq!(turned.aside, result.aside);
    }

    #[test]
    fn bytes_of_any_kind_are_survived(lines in vec(vec(any::<u8>(), 0..60), 0..10)) {
        let fake = Fake::new("fake");
        let origin = Origin::new("fake", "m", Arc::default());
        let mut join = Join::new(fake.as_ref(), prefix(), &ROWS, &origin);
        for line in &lines {
            let is_row = matches!(join.line(line), Joined::Row(..));
            prop_assert!(!is_row);
        }
        prop_assert_eq!(join.missing().count(), ROWS.len());
    }
}

#[test]
fn f_099_lines_that_differ_in_one_byte_or_in_length_are_told_apart() {
    for length in 0..70 {
        let line = vec![b'a'; length];
        assert_eq!(digest(&line), digest(&line.clone()));
        assert_ne!(digest(&line), digest(&vec![b'a'; length + 1]));
        // What fills up the last word is told from a line that holds it.
        let mut padded = line.clone();
        padded.push(0);
        assert_ne!(digest(&line), digest(&padded));
        for place in 0..length {
            let mut other = line.clone();
            other[place] = b'b';
            assert_ne!(digest(&line), digest(&other), "byte {place} of {length}");
            for second in 0..place {
                let mut swapped = other.clone();
                swapped.swap(second, place);
                assert_ne!(digest(&swapped), digest(&other), "{second} and {place}");
            }
        }
    }
}

#[test]
fn a_row_is_found_where_the_rows_have_gaps() {
    let fake = Fake::new("fake");
    let origin = Origin::new("fake", "m", Arc::default());
    let rows = [3, 4, 5, 9, 10, u64::MAX];
    let join = Join::new(&*fake, prefix(), &rows, &origin);
    let place = |row| join.place(&id(row));
    for (place_of, row) in rows.into_iter().enumerate() {
        assert_eq!(place(row), Some(place_of));
    }
    for row in [0, 2, 6, 8, 11, u64::MAX - 1] {
        assert_eq!(place(row), None);
    }
}
