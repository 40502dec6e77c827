//! What is paid, what may be paid twice, and what is said of it.

use crate::double::{SECOND, Scripted, fail, is_complete, ok, options, run_all, stopped_by};
use batchwright_core::{Ending, ErrorKind, FinishReason, Lane, PriceTable, Response, Usage};
use std::{sync::Arc, time::Duration};

#[tokio::test(start_paused = true)]
async fn f_024_f_034_f_122_an_unclear_failure_is_tried_once_more_and_counted() {
    // One row in 25 is cut off once, one in 100 always.
    let provider = Scripted::new(|row, nth| match (row % 25, row % 100) {
        (_, 7) => (SECOND, fail(ErrorKind::ProviderFault)),
        (3, _) if nth == 1 => (SECOND, fail(ErrorKind::Timeout)),
        _ => (SECOND, ok()),
    });
    let (finished, end) = run_all(&provider, options(16), 400).await;
    assert!(is_complete(&end));
    let seen = provider.seen();
    let extra = seen.count() - 400;
    assert_eq!(extra, 16 + 4);
    assert_eq!(
        end.possibly_paid_attempts as usize, extra,
        "I2: sent again and not said"
    );
    for row in &finished {
        let sends = seen.sends[&row.row].len();
        let provenance = &row.outcome.provenance;
        assert!(sends <= 2);
        assert_eq!(provenance.attempts as usize, sends);
        assert_eq!(provenance.possibly_paid_attempts as usize, sends - 1);
        assert_eq!(row.outcome.ending.is_success(), row.row % 100 != 7);
    }
}

#[tokio::test(start_paused = true)]
async fn f_122_too_many_unclear_failures_stop_the_run() {
    let provider = Scripted::new(|_, _| (SECOND, fail(ErrorKind::Timeout)));
    let (finished, end) = run_all(&provider, options(4), 10_000).await;
    let error = stopped_by(&end);
    assert_eq!(error.kind(), ErrorKind::NeedsDecision);
    assert!(error.message().contains("paid twice"), "{error}");
    let sent_again = provider.seen().count() - provider.seen().sends.len();
    assert!(sent_again <= 20, "{sent_again} rows sent again");
    assert!(finished.len() < 40);
    let unfinished: u32 = end
        .unfinished
        .iter()
        .map(|row| row.possibly_paid_attempts)
        .sum();
    let ended: u32 = finished
        .iter()
        .map(|row| row.outcome.provenance.possibly_paid_attempts)
        .sum();
    assert_eq!(end.possibly_paid_attempts, u64::from(unfinished + ended));
    assert!(unfinished > 0);
}

#[tokio::test(start_paused = true)]
async fn f_017_an_instruction_not_to_retry_ends_the_row() {
    let provider = Scripted::new(|_, _| {
        let error = fail(ErrorKind::Overloaded).unwrap_err();
        (Duration::ZERO, Err(error.with_should_retry(false)))
    });
    let (finished, end) = run_all(&provider, options(2), 5).await;
    assert!(is_complete(&end));
    assert_eq!((finished.len(), provider.seen().count()), (5, 5));
}

#[tokio::test(start_paused = true)]
async fn an_outcome_says_how_it_came_about() {
    let provider = Scripted::new(|row, nth| {
        let mut response = Response::from_text("no");
        response.usage = if row == 2 {
            Usage::default()
        } else {
            Usage::of(1_000, 200)
        };
        match (row, nth) {
            (0, 1) => return (SECOND, fail(ErrorKind::Connect)),
            (1, _) => response.finish_reason = Some(FinishReason::ContentFilter),
            _ => {}
        }
        (SECOND * 3, Ok(response))
    });
    let mut prices = PriceTable::default();
    prices
        .overlay(r#"{"scripted:small":{"realtime":{"input":1,"output":10},"as_of":"2026-01-01","source":"x"}}"#)
        .unwrap();
    let options = options(4).with_prices(Arc::new(prices));
    let (mut finished, _) = run_all(&provider, options, 3).await;
    finished.sort_by_key(|row| row.row);
    let [tried_again, refused, unknown] = &finished[..] else {
        panic!("three rows");
    };
    assert!(tried_again.outcome.ending.is_success());
    assert!(matches!(refused.outcome.ending, Ending::Refused(_)));
    for row in &finished {
        let provenance = &row.outcome.provenance;
        assert_eq!(row.outcome.custom_id, row.row.to_string());
        assert_eq!(provenance.provider.as_deref(), Some("scripted"));
        assert_eq!(provenance.model.as_deref(), Some("small"));
        assert_eq!(provenance.lane, Some(Lane::Realtime));
        assert!(!provenance.cached && provenance.batch.is_none());
        assert_eq!(provenance.possibly_paid_attempts, 0);
    }
    let latency = tried_again.outcome.provenance.latency.unwrap();
    assert!(
        latency >= SECOND * 4,
        "counted from the first send: {latency:?}"
    );
    assert_eq!(tried_again.outcome.provenance.attempts, 2);
    let cost = refused.outcome.provenance.cost.unwrap();
    assert_eq!(cost.as_picodollars(), 3_000_000_000, "a refusal costs too");
    assert_eq!(
        unknown.outcome.provenance.cost, None,
        "F-066: unknown, not zero"
    );
}
