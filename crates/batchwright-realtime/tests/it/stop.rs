//! What stops a run, and what is left then.

use crate::double::{
    Entry, SECOND, Scripted, Tape, collect, fail, is_complete, ok, options, rows, run_all,
    stopped_by,
};
use batchwright_core::{Error, ErrorKind};
use batchwright_realtime::{EndReason, NoLog, OnReached, ParallelPool, SpendOptions};
use futures::StreamExt;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

#[tokio::test(start_paused = true)]
async fn f_005_f_133_nobody_can_be_served_so_nothing_more_is_sent() {
    for kind in [ErrorKind::QuotaExceeded, ErrorKind::Unauthenticated] {
        let begun = Instant::now();
        // From the tenth second on there is no money; until then some rows are asked to wait.
        let provider = Scripted::new(move |row, nth| {
            if begun.elapsed() >= SECOND * 10 {
                (SECOND, fail(kind))
            } else if row % 3 == 0 && nth == 1 {
                (SECOND, fail(ErrorKind::RateLimited))
            } else {
                (SECOND * 2, ok())
            }
        });
        let (finished, end) = run_all(&provider, options(4), 10_000).await;
        assert_eq!(stopped_by(&end).kind(), kind);
        let seen = provider.seen();
        let out_of_money = begun + SECOND * 10;
        let further = seen.after(out_of_money - Duration::from_millis(1));
        assert!(further <= 4, "{further} further requests");
        assert_eq!(
            seen.after(out_of_money + SECOND),
            0,
            "sent after the answer"
        );
        assert!(finished.iter().all(|row| row.outcome.ending.is_success()));
        assert!(!end.unfinished.is_empty() && end.unfinished.len() < 8);
        assert_eq!(end.possibly_paid_attempts, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn f_005_a_request_whose_intent_is_still_being_recorded_does_not_leave() {
    let provider = Scripted::new(|_, _| (SECOND, fail(ErrorKind::QuotaExceeded)));
    // Each intent takes longer than the one before: the first is answered while the others wait.
    struct Slower(Tape);
    #[async_trait::async_trait]
    impl batchwright_realtime::DispatchLog for Slower {
        async fn dispatching(&self, row: u64, attempt: u32) -> batchwright_core::Result<()> {
            sleep(SECOND * 5 * u32::try_from(row).unwrap()).await;
            self.0.dispatching(row, attempt).await
        }
        async fn finished(
            &self,
            row: u64,
            outcome: &batchwright_core::Outcome,
        ) -> batchwright_core::Result<()> {
            self.0.finished(row, outcome).await
        }
    }
    let pool = ParallelPool::new(provider.clone(), options(4));
    let log = Arc::new(Slower(Tape::default()));
    let (finished, end) = collect(pool.run(rows(9), log, CancellationToken::new())).await;
    assert_eq!(stopped_by(&end).kind(), ErrorKind::QuotaExceeded);
    assert!(finished.is_empty());
    assert_eq!(provider.seen().count(), 1);
    assert_eq!(end.unfinished.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn f_027_rows_that_all_fail_alike_stop_the_run_and_keep_their_outcomes() {
    let provider = Scripted::new(|_, _| {
        let error = Error::new(ErrorKind::InvalidRequest, "unknown parameter");
        let error = error
            .with_status(400)
            .with_code("unknown_parameter")
            .with_param("top_k");
        (SECOND, Err(error))
    });
    let tape = Arc::new(Tape::default());
    let pool = ParallelPool::new(provider.clone(), options(8));
    let run = pool.run(rows(50_000), tape.clone(), CancellationToken::new());
    let (finished, end) = collect(run).await;
    let error = stopped_by(&end);
    assert!(
        error.is_job_stop() && error.message().contains("20 in a row"),
        "{error}"
    );
    assert_eq!(
        (error.status(), error.code()),
        (Some(400), Some("unknown_parameter"))
    );
    assert!(provider.seen().count() <= 20 + 8);
    assert!(finished.len() >= 20);
    let mut recorded = tape.outcomes();
    recorded.sort_unstable();
    let mut shown: Vec<_> = finished.iter().map(|row| row.row).collect();
    shown.sort_unstable();
    assert_eq!(recorded, shown);
}

#[tokio::test(start_paused = true)]
async fn f_027_one_answer_that_is_still_being_recorded_shows_that_rows_can_succeed() {
    let provider = Scripted::new(|row, _| match row {
        0 => (SECOND, ok()),
        _ => (SECOND * 2, fail(ErrorKind::InvalidRequest)),
    });
    let tape = Arc::new(Tape {
        outcome_takes: SECOND * 60,
        ..Tape::default()
    });
    let pool = ParallelPool::new(provider, options(50));
    let run = pool.run(rows(50), tape, CancellationToken::new());
    let (finished, end) = collect(run).await;
    assert!(is_complete(&end), "{end:?}");
    assert_eq!(finished.len(), 50);
}

#[tokio::test(start_paused = true)]
async fn f_157_a_stop_loses_nothing() {
    // At any moment, also before anything is sent.
    for millis in [0, 1, 999, 1_500, 4_000, 6_500, 11_111, 1_000_000] {
        let provider = Scripted::new(|row, nth| match (row % 2, nth) {
            (0, 1) => (SECOND, fail(ErrorKind::Connect)),
            _ => (SECOND * 5, ok()),
        });
        let tape = Arc::new(Tape {
            intent_takes: Duration::from_millis(200),
            outcome_takes: Duration::from_millis(300),
            ..Tape::default()
        });
        let stop = CancellationToken::new();
        let pool = ParallelPool::new(provider.clone(), options(4));
        let run = pool.run(rows(40), tape.clone(), stop.clone());
        let begun = Instant::now();
        let reading = collect(run);
        let stopping = async {
            sleep(Duration::from_millis(millis)).await;
            stop.cancel();
            Instant::now()
        };
        let ((finished, end), stopped) = tokio::join!(reading, stopping);
        let seen = provider.seen();
        assert_eq!(seen.after(stopped), 0, "{millis} ms: sent after the stop");
        assert_eq!(seen.dropped, 0, "{millis} ms: an attempt was cut off");
        let shown: BTreeSet<_> = finished.iter().map(|row| row.row).collect();
        assert_eq!(shown, tape.outcomes().into_iter().collect(), "{millis} ms");
        if millis == 1_000_000 {
            assert!(is_complete(&end), "a stop after the end is no stop");
        } else {
            assert!(matches!(end.reason, EndReason::Cancelled), "{millis} ms");
            assert!(begun.elapsed() < SECOND * 20);
        }
        // What was answered is recorded: the rest never got an answer.
        for row in &end.unfinished {
            assert_eq!(row.possibly_paid_attempts, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn f_145_a_log_that_fails_stops_the_sending() {
    for full_at in 1..=24 {
        let provider = Scripted::new(|_, _| (SECOND, ok()));
        let tape = Arc::new(Tape {
            full_at: Some(full_at),
            ..Tape::default()
        });
        let pool = ParallelPool::new(provider.clone(), options(4));
        let run = pool.run(rows(1_000), tape.clone(), CancellationToken::new());
        let (finished, end) = collect(run).await;
        assert_eq!(stopped_by(&end).kind(), ErrorKind::Storage);
        let entries = tape.entries();
        // Shown is what is durable, sent is what was announced.
        assert_eq!(finished.len(), tape.outcomes().len(), "full at {full_at}");
        for row in provider.seen().sends.keys() {
            assert!(
                entries.contains(&Entry::Intent(*row, 1)),
                "full at {full_at}"
            );
        }
        assert!(provider.seen().count() <= full_at, "full at {full_at}");
        // Answers that could not be kept were paid for, and a rerun pays again.
        let lost = provider.seen().count() - finished.len();
        assert_eq!(
            end.possibly_paid_attempts as usize, lost,
            "full at {full_at}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_panics_fails_the_row_and_not_the_run() {
    let provider = Scripted::new(|row, _| {
        assert!(row != 5, "scripted");
        (SECOND, ok())
    });
    let (finished, end) = run_all(&provider, options(3), 100).await;
    assert!(is_complete(&end));
    let failed: Vec<_> = finished
        .iter()
        .filter(|row| row.outcome.error().is_some())
        .collect();
    assert_eq!((finished.len(), failed.len(), failed[0].row), (100, 1, 5));
    let error = failed[0].outcome.error().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unexpected);
    assert!(
        error.is_ambiguous(),
        "nobody knows whether it was sent before"
    );
    assert_eq!(
        provider.seen().sends[&5].len(),
        1,
        "and it is not sent again"
    );
}

#[tokio::test(start_paused = true)]
async fn f_027_a_provider_that_always_panics_stops_the_run() {
    let provider = Scripted::new(|_, _| panic!("scripted"));
    let (finished, end) = run_all(&provider, options(3), 100).await;
    assert_eq!(stopped_by(&end).kind(), ErrorKind::Unexpected);
    assert!((20..=23).contains(&finished.len()), "{}", finished.len());
}

#[tokio::test(start_paused = true)]
async fn dropping_the_run_aborts_what_is_in_flight() {
    let provider = Scripted::new(|row, _| (SECOND * if row == 0 { 1 } else { 600 }, ok()));
    let tape = Arc::new(Tape::default());
    let pool = ParallelPool::new(provider.clone(), options(4));
    let mut run = pool.run(rows(100), tape.clone(), CancellationToken::new());
    assert_eq!(run.next().await.unwrap().row, 0);
    assert_eq!(provider.seen().open, 3);
    drop(run);
    // The runtime drops aborted tasks when it comes round to them.
    sleep(SECOND).await;
    let seen = provider.seen();
    assert_eq!((seen.open, seen.dropped, seen.count()), (0, 3, 4));
    assert_eq!(
        tape.entries().len(),
        5,
        "the log names the three that were lost"
    );
}

#[tokio::test(start_paused = true)]
async fn runs_of_one_pool_are_apart() {
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    let pool = ParallelPool::new(provider, options(2));
    let (one, two) = (CancellationToken::new(), CancellationToken::new());
    one.cancel();
    let stopped = collect(pool.run(rows(5), Arc::new(NoLog), one)).await;
    let whole = collect(pool.run(rows(5), Arc::new(NoLog), two)).await;
    assert!(stopped.0.is_empty() && matches!(stopped.1.reason, EndReason::Cancelled));
    assert_eq!(whole.0.len(), 5);
    assert!(is_complete(&whole.1));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_took_its_time_ends_and_keeps_what_is_in_flight_or_gives_it_up() {
    for (on_reached, answered) in [(OnReached::Drain, 12), (OnReached::Cancel, 8)] {
        let provider = Scripted::new(|_, _| (SECOND * 4, ok()));
        let spend = SpendOptions::default()
            .with_max_time(Some(SECOND * 10))
            .with_on_reached(on_reached);
        let begun = Instant::now();
        let (finished, end) = run_all(&provider, options(4).with_spend(spend), 100).await;
        let error = stopped_by(&end);
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.is_job_stop());
        let succeeded = finished
            .iter()
            .filter(|row| row.outcome.ending.is_success())
            .count();
        assert_eq!(succeeded, answered, "{on_reached:?}");
        assert_eq!(provider.seen().count(), 12, "nothing is sent past it");
        let latest = SECOND
            * if on_reached == OnReached::Drain {
                12
            } else {
                10
            };
        assert!(begun.elapsed() <= latest + SECOND, "{:?}", begun.elapsed());
    }
}
