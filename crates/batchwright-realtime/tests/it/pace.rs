//! How fast it sends: places, waits, back-pressure, memory.

use crate::double::{
    Entry, SECOND, Scripted, Tape, collect, fail, is_complete, item, ok, options, rows, run_all,
};
use batchwright_core::{Error, ErrorKind};
use batchwright_realtime::{EndReason, Meter, NoLog, ParallelPool, PoolOptions, Run, WorkItem};
use futures::{StreamExt, stream};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

#[test]
fn a_run_crosses_threads() {
    fn crosses<T: Send + Sync + 'static>() {}
    fn is_sent<T: Send>() {}
    crosses::<ParallelPool>();
    crosses::<Meter>();
    is_sent::<Run<stream::Empty<batchwright_core::Result<WorkItem>>>>();
}

#[tokio::test(start_paused = true)]
async fn places_are_filled_and_never_exceeded() {
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    let begun = Instant::now();
    let (finished, end) = run_all(&provider, options(8), 80).await;
    assert!(is_complete(&end));
    assert_eq!((finished.len(), provider.seen().most_open), (80, 8));
    let took = begun.elapsed();
    assert!(took >= SECOND * 10 && took < SECOND * 11, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_empty_source_completes() {
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    let (finished, end) = run_all(&provider, PoolOptions::default(), 0).await;
    assert!(finished.is_empty() && is_complete(&end));
}

#[tokio::test(start_paused = true)]
async fn f_001_f_013_retry_after_is_honoured_and_spends_no_attempt() {
    let provider = Scripted::new(|_, nth| match nth {
        1..=3 => {
            let slow_down = Error::new(ErrorKind::RateLimited, "slow down");
            (Duration::ZERO, Err(slow_down.with_retry_after(SECOND * 20)))
        }
        _ => (SECOND, ok()),
    });
    let mut options = options(4);
    options.retry.max_attempts = Some(1);
    options.retry.max_ambiguous_retries = 0;
    let (finished, end) = run_all(&provider, options, 40).await;
    assert!(is_complete(&end));
    assert_eq!(end.possibly_paid_attempts, 0);
    for row in &finished {
        assert!(row.outcome.ending.is_success());
        assert_eq!(row.outcome.provenance.attempts, 4);
    }
    let sends = provider.seen().sends;
    for row in sends.values() {
        for pair in row.windows(2) {
            assert!(pair[1] - pair[0] >= SECOND * 20, "I10: sent too early");
        }
    }
    // F-019: the rows that were rejected together do not come back together.
    let mut again: Vec<_> = (0..4).map(|row| sends[&row][1]).collect();
    again.sort_unstable();
    again.dedup();
    assert!(again.len() > 1, "all fired at {again:?}");
}

#[tokio::test(start_paused = true)]
async fn f_018_f_022_faults_back_off_until_the_policy_gives_up() {
    let provider = Scripted::new(|_, _| (Duration::ZERO, fail(ErrorKind::Overloaded)));
    let mut options = options(2);
    options.retry.max_attempts = Some(10);
    let (finished, end) = run_all(&provider, options, 3).await;
    assert!(is_complete(&end));
    for row in &finished {
        let error = row.outcome.error().unwrap();
        assert_eq!(error.kind(), ErrorKind::Overloaded);
        assert_eq!(
            (error.attempts(), row.outcome.provenance.attempts),
            (10, 10)
        );
    }
    assert_eq!(provider.seen().count(), 30);
}

#[tokio::test(start_paused = true)]
async fn f_020_rows_outlast_an_hour_of_overload_unspent() {
    let begun = Instant::now();
    let provider = Scripted::new(move |_, _| {
        if begun.elapsed() < SECOND * 3600 {
            (Duration::ZERO, fail(ErrorKind::Overloaded))
        } else {
            (SECOND, ok())
        }
    });
    let (finished, end) = run_all(&provider, options(4), 12).await;
    assert!(is_complete(&end));
    assert!(finished.iter().all(|row| row.outcome.ending.is_success()));
    assert_eq!(end.possibly_paid_attempts, 0);
}

#[tokio::test(start_paused = true)]
async fn f_030_a_provider_never_reached_stops_the_run_and_one_lost_is_waited_for() {
    let provider = Scripted::new(|_, _| (Duration::ZERO, fail(ErrorKind::Connect)));
    let (finished, end) = run_all(&provider, options(4), 12).await;
    assert!(finished.is_empty());
    let EndReason::Stopped(error) = &end.reason else {
        panic!("{:?}", end.reason)
    };
    assert_eq!(error.kind(), ErrorKind::Connect);

    let begun = Instant::now();
    let provider = Scripted::new(move |_, _| match begun.elapsed() {
        now if now > SECOND * 10 && now < SECOND * 7200 => {
            (Duration::ZERO, fail(ErrorKind::Connect))
        }
        _ => (SECOND, ok()),
    });
    let (finished, end) = run_all(&provider, options(4), 200).await;
    assert!(is_complete(&end));
    assert!(finished.iter().all(|row| row.outcome.ending.is_success()));
}

#[tokio::test(start_paused = true)]
async fn i_6_rows_that_wait_do_not_pile_up() {
    let taken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&taken);
    let source = stream::iter(0..400).map(move |row| {
        counter.fetch_add(1, SeqCst);
        Ok(item(row))
    });
    let provider = Scripted::new(|row, nth| match nth {
        1..=3 if row % 4 != 0 => (Duration::ZERO, fail(ErrorKind::RateLimited)),
        _ => (SECOND, ok()),
    });
    let pool = ParallelPool::new(provider, options(8));
    let mut run = pool.run(source, Arc::new(NoLog), CancellationToken::new());
    let meter = run.meter();
    let (mut ended, mut most) = (0, 0);
    while run.next().await.is_some() {
        most = most.max(taken.load(SeqCst) - ended);
        assert!(meter.read().in_flight <= 8 && meter.read().waiting < 16);
        ended += 1;
    }
    assert_eq!(ended, 400);
    assert!(most < 16, "{most} rows were held at once");
    assert!(most > 8, "the bound was not even reached");
}

#[tokio::test(start_paused = true)]
async fn f_159_a_slow_log_slows_the_sending() {
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    let tape = Arc::new(Tape {
        intent_takes: SECOND * 2,
        outcome_takes: SECOND * 7,
        ..Tape::default()
    });
    let pool = ParallelPool::new(provider.clone(), options(3));
    let mut run = pool.run(rows(30), tape.clone(), CancellationToken::new());
    let begun = Instant::now();
    while let Some(row) = run.next().await {
        let entries = tape.entries();
        // Durable before visible, intent before effect.
        assert!(entries.contains(&Entry::Outcome(row.row)));
        assert!(entries.contains(&Entry::Intent(row.row, 1)));
        let unsaved = provider.seen().count() - tape.outcomes().len();
        assert!(unsaved <= 3, "{unsaved} rows sent and not saved");
    }
    assert!(is_complete(run.ended().unwrap()));
    assert!(begun.elapsed() >= SECOND * 100, "ten waves of ten seconds");
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_stops_reading_stops_the_sending_and_loses_no_answer() {
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    let tape = Arc::new(Tape::default());
    let pool = ParallelPool::new(provider.clone(), options(4));
    let mut run = pool.run(rows(40), tape.clone(), CancellationToken::new());
    let first = run.next().await.unwrap();
    tokio::time::sleep(SECOND * 60).await;
    assert_eq!(provider.seen().count(), 4);
    assert_eq!(tape.outcomes().len(), 4, "answers wait for nobody");
    let (rest, end) = {
        let mut rest = vec![first];
        while let Some(row) = run.next().await {
            rest.push(row);
        }
        (rest, run.ended().unwrap().clone())
    };
    assert_eq!(rest.len(), 40);
    assert!(is_complete(&end));
}

#[tokio::test(start_paused = true)]
async fn f_041_an_attempt_has_a_timeout_even_where_the_provider_ignores_it() {
    let provider = Scripted::new(|_, nth| match nth {
        1 => (SECOND * 100_000, ok()),
        _ => (SECOND, ok()),
    });
    let options = options(2).with_attempt_timeout(SECOND * 30);
    let begun = Instant::now();
    let (finished, end) = run_all(&provider, options, 2).await;
    assert!(is_complete(&end));
    assert!(begun.elapsed() < SECOND * 34);
    for row in &finished {
        let provenance = &row.outcome.provenance;
        assert!(row.outcome.ending.is_success());
        assert_eq!(
            (provenance.attempts, provenance.possibly_paid_attempts),
            (2, 1)
        );
    }
    let seen = provider.seen();
    assert_eq!(seen.dropped, 2);
    assert!(
        seen.timeouts
            .iter()
            .all(|given| *given == Some(SECOND * 30))
    );
    assert_eq!(end.possibly_paid_attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn i_5_a_deadline_ends_a_row_that_is_limited_for_ever() {
    let provider = Scripted::new(|row, _| match row {
        0 => {
            let limited = Error::new(ErrorKind::RateLimited, "slow down").with_status(429);
            (Duration::ZERO, Err(limited.with_retry_after(SECOND * 20)))
        }
        _ => (SECOND * 100_000, ok()),
    });
    let mut options = options(2)
        .with_attempt_timeout(SECOND * 600)
        .with_item_deadline(Some(SECOND * 90));
    options.retry.max_ambiguous_retries = 5;
    let begun = Instant::now();
    let (mut finished, end) = run_all(&provider, options, 2).await;
    assert!(begun.elapsed() <= SECOND * 92);
    assert!(is_complete(&end));
    finished.sort_by_key(|row| row.row);
    let limited = finished[0].outcome.error().unwrap();
    assert_eq!(
        (limited.kind(), limited.status()),
        (ErrorKind::Timeout, Some(429))
    );
    assert!(!limited.is_ambiguous() && limited.message().contains("slow down"));
    assert!(limited.attempts() >= 4);
    let slow = finished[1].outcome.error().unwrap();
    assert_eq!(slow.kind(), ErrorKind::Timeout);
    assert!(slow.is_ambiguous(), "its only attempt may have been billed");
    // An attempt is given no more time than its row has.
    let longest = provider.seen().timeouts.into_iter().flatten().max();
    assert_eq!(longest, Some(SECOND * 90));
}

#[tokio::test(start_paused = true)]
async fn a_slow_source_does_not_keep_rows_from_being_tried_again() {
    let provider = Scripted::new(|_, nth| match nth {
        1 => (Duration::ZERO, fail(ErrorKind::Connect)),
        _ => (SECOND, ok()),
    });
    let source = stream::iter([Ok(item(0))]).chain(stream::pending());
    let pool = ParallelPool::new(provider, options(2));
    let mut run = pool.run(source, Arc::new(NoLog), CancellationToken::new());
    let row = timeout(SECOND * 10, run.next()).await.unwrap().unwrap();
    assert_eq!(row.outcome.provenance.attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_ends_the_run_with_its_error() {
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    let broken = Error::new(ErrorKind::InvalidRequest, "read line 3");
    let source = stream::iter([Ok(item(0)), Ok(item(1)), Err(broken), Ok(item(2))]);
    let pool = ParallelPool::new(provider.clone(), options(8));
    let run = pool.run(source, Arc::new(NoLog), CancellationToken::new());
    let (finished, end) = collect(run).await;
    assert_eq!(crate::double::stopped_by(&end).message(), "read line 3");
    // Rows that had not left yet are handed back rather than sent.
    assert_eq!(finished.len(), provider.seen().count());
    assert_eq!(finished.len() + end.unfinished.len(), 2);
}
