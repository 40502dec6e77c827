//! Events, metrics, the progress callback, pausing.

use crate::double::{SECOND, Scripted, collect, fail, is_complete, ok, options, rows};
use batchwright_core::{Error, ErrorKind, Response, Usage};
use batchwright_realtime::{
    Event, HookOptions, NoLog, OnProgress, ParallelPool, PoolOptions, ProgressUpdate, Run,
};
use futures::{FutureExt, StreamExt};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

fn run(
    pool: &ParallelPool,
    count: u64,
) -> Run<
    impl futures::Stream<Item = batchwright_core::Result<batchwright_realtime::WorkItem>> + use<>,
> {
    pool.run(rows(count), Arc::new(NoLog), CancellationToken::new())
}

fn answer() -> batchwright_core::Result<Response> {
    let mut answer = Response::from_text("CANARY");
    answer.usage = Usage::of(2, 3);
    Ok(answer)
}

/// Row 0 is limited once, row 1 fails, the rest succeed.
fn mixed() -> Arc<Scripted> {
    Scripted::new(|row, nth| match (row, nth) {
        (0, 1) => {
            let error = Error::new(ErrorKind::RateLimited, "slow down");
            (SECOND, Err(error.with_retry_after(3 * SECOND)))
        }
        (1, _) => (SECOND, fail(ErrorKind::InvalidRequest)),
        _ => (SECOND, answer()),
    })
}

#[tokio::test(start_paused = true)]
async fn a_73_a_79_each_item_has_one_start_and_one_end_between_the_runs_own() {
    let seen = Arc::new(Mutex::new(Vec::<Event>::new()));
    let sink = seen.clone();
    let pool = ParallelPool::new(mixed(), options(2))
        .with_observer(move |event: &Event| sink.lock().unwrap().push(event.clone()));
    let mut run = run(&pool, 6);
    let stream = run.events();
    let (finished, end) = collect(run).await;
    assert!(is_complete(&end));
    assert_eq!(finished.len(), 6);
    let seen = seen.lock().unwrap().clone();
    let names: Vec<_> = seen.iter().map(Event::as_str).collect();
    let streamed: Vec<_> = stream.map(|event| event.as_str()).collect().await;
    assert_eq!(names, streamed, "all are told the same");
    assert_eq!(
        (names[0], names[names.len() - 1]),
        ("run_started", "run_ended")
    );
    let mut counts = BTreeMap::new();
    for name in &names {
        *counts.entry(*name).or_insert(0) += 1;
    }
    for (name, count) in [
        ("item_started", 6),
        ("item_completed", 5),
        ("item_failed", 1),
        ("attempt_started", 7),
        ("attempt_failed", 2),
        ("rate_limit_hit", 1),
        ("cooldown_began", 1),
        ("cooldown_ended", 1),
    ] {
        assert_eq!(counts.get(name), Some(&count), "{name} in {names:?}");
    }
    // No prompt and no answer: both hold this word.
    assert!(!format!("{seen:?}").contains("CANARY"));
    let Event::RunEnded {
        metrics, complete, ..
    } = &seen[seen.len() - 1]
    else {
        panic!("the run's end is the last event");
    };
    assert!(*complete);
    assert_eq!(
        (metrics.succeeded, metrics.failed, metrics.attempts),
        (5, 1, 7)
    );
}

#[tokio::test(start_paused = true)]
async fn a_80_metrics_count_what_happened() {
    let pool = ParallelPool::new(mixed(), options(2));
    let mut run = run(&pool, 6);
    let meter = run.meter();
    run.next().await.unwrap();
    assert_eq!(meter.metrics().done(), 1, "readable while it goes on");
    while run.next().await.is_some() {}
    let metrics = run.metrics();
    assert_eq!(metrics, meter.metrics());
    assert_eq!(
        (metrics.total, metrics.succeeded, metrics.failed),
        (6, 5, 1)
    );
    assert_eq!(
        (metrics.attempts, metrics.rate_limits, metrics.cooldowns),
        (7, 1, 1)
    );
    assert_eq!(
        (metrics.retries.rate_limited, metrics.retries.total()),
        (1, 1)
    );
    assert_eq!(metrics.usage, Usage::of(10, 15));
    assert_eq!((metrics.cost_unknown, metrics.usage_unknown), (6, 0));
    assert_eq!((metrics.most_in_flight, metrics.latency.count), (2, 5));
    let median = metrics.latency.p50;
    assert!(median >= SECOND && median <= SECOND * 9 / 8);
    assert!(metrics.latency.max > 4 * SECOND, "the limited row waited");
    assert!(metrics.elapsed >= metrics.latency.max);
    let still = metrics.elapsed;
    sleep(SECOND).await;
    assert_eq!(run.metrics().elapsed, still);
}

#[tokio::test]
async fn an_observer_that_panics_sees_the_rest_and_harms_nobody() {
    let seen = Arc::new(AtomicU64::new(0));
    let count = seen.clone();
    let provider = Scripted::new(|_, _| (Duration::ZERO, ok()));
    let pool = ParallelPool::new(provider, options(4)).with_observer(move |_: &Event| {
        count.fetch_add(1, Relaxed);
        panic!("on purpose");
    });
    let mut run = run(&pool, 20);
    while run.next().await.is_some() {}
    let metrics = run.metrics();
    assert_eq!(metrics.succeeded, 20);
    assert_eq!(metrics.observer_panics, seen.load(Relaxed));
    assert!(
        seen.load(Relaxed) >= 62,
        "a start, an attempt and an end each, and the run's"
    );
}

#[tokio::test]
async fn an_observer_that_blocks_holds_nobody_up_and_learns_what_it_missed() {
    let (let_go, gate) = mpsc::channel::<()>();
    let (gate, names) = (Mutex::new(gate), Arc::new(Mutex::new(Vec::new())));
    let sink = names.clone();
    let provider = Scripted::new(|_, _| (Duration::ZERO, ok()));
    let mut options = options(4);
    options.hooks = HookOptions::default()
        .with_event_queue(8)
        .with_patience(600 * SECOND);
    let fast = Arc::new(AtomicU64::new(0));
    let count = fast.clone();
    let pool = ParallelPool::new(provider, options)
        .with_observer(move |event: &Event| {
            // Blocks until the run has ended all rows.
            let _ = gate.lock().unwrap().recv();
            sink.lock().unwrap().push(event.clone());
        })
        .with_observer(move |event: &Event| {
            if matches!(event, Event::RunEnded { .. }) {
                count.fetch_add(1, Relaxed);
            }
        });
    let mut run = run(&pool, 100);
    for _ in 0..100 {
        run.next().await.unwrap();
    }
    drop(let_go);
    assert!(run.next().await.is_none());
    let names = names.lock().unwrap();
    let missed: u64 = names
        .iter()
        .map(|event| match event {
            Event::Missed(missed) => *missed,
            _ => 0,
        })
        .sum();
    assert!(missed > 0, "{names:?}");
    assert!(run.metrics().missed_events >= missed);
    assert!(matches!(names.last(), Some(Event::RunEnded { .. })));
    assert_eq!(fast.load(Relaxed), 1);
}

/// A hanging observer costs the end of a run its patience and no more.
#[tokio::test]
async fn the_end_waits_for_an_observer_no_longer_than_its_patience() {
    let (let_go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let provider = Scripted::new(|_, _| (Duration::ZERO, ok()));
    let mut options = options(4);
    options.hooks.patience = Duration::from_millis(20);
    let pool = ParallelPool::new(provider, options).with_observer(move |_: &Event| {
        let _ = gate.lock().unwrap().recv();
    });
    let mut run = run(&pool, 10);
    while run.next().await.is_some() {}
    assert_eq!(run.metrics().succeeded, 10);
    // So that the runtime can shut down.
    drop(let_go);
}

#[tokio::test(start_paused = true)]
async fn a_57_a_62_progress_is_told_every_so_often_and_at_the_end() {
    let told = Arc::new(Mutex::new(Vec::<ProgressUpdate>::new()));
    let sink = told.clone();
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    let callback = OnProgress::new(move |update| {
        sink.lock().unwrap().push(update);
        async {}
    });
    let pool = ParallelPool::new(provider, options(1)).with_progress(callback);
    let mut run = run(&pool, 25);
    while run.next().await.is_some() {}
    let told = told.lock().unwrap();
    let done: Vec<_> = told.iter().map(|update| update.progress.done()).collect();
    assert_eq!(done, [10, 20, 25]);
    assert_eq!(
        (told[1].total, told[1].row, &*told[1].custom_id),
        (Some(25), 19, "19")
    );
    assert_eq!(told[2].elapsed, 25 * SECOND);
    assert_eq!(run.metrics().progress_failures, 0);
}

#[tokio::test(start_paused = true)]
async fn a_58_a_progress_callback_that_hangs_or_panics_is_counted() {
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    let callback = OnProgress::new(|update: ProgressUpdate| async move {
        match update.progress.done() {
            1..=3 => std::future::pending().await,
            4..=7 => panic!("on purpose"),
            _ => {}
        }
    });
    let mut options = options(1);
    options.hooks.progress_interval = 1;
    options.hooks.progress_timeout = 4 * SECOND + SECOND / 2;
    let pool = ParallelPool::new(provider, options).with_progress(callback);
    let begun = Instant::now();
    let mut run = run(&pool, 12);
    while run.next().await.is_some() {}
    assert_eq!(begun.elapsed(), 12 * SECOND, "nobody waited for it");
    // The first hung; of the ones meanwhile the newest was told, the fifth: it panicked, and so did the next two.
    assert_eq!(run.metrics().progress_failures, 4);

    let callback = OnProgress::blocking(|_| panic!("on purpose"));
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    let pool = ParallelPool::new(provider, PoolOptions::default()).with_progress(callback);
    let mut run = self::run(&pool, 2);
    while run.next().await.is_some() {}
    assert_eq!(run.metrics().progress_failures, 1);
}

#[tokio::test(start_paused = true)]
async fn a_68_a_paused_run_sends_nothing_and_goes_on_when_resumed() {
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    let pool = ParallelPool::new(provider.clone(), options(2));
    let mut run = run(&pool, 10);
    let mut events = run.events();
    let control = run.control();
    let waits = async {
        sleep(SECOND + SECOND / 2).await;
        control.pause();
        assert!(control.is_paused());
        sleep(60 * SECOND).await;
        assert_eq!(
            provider.seen().count(),
            4,
            "what was begun ended, and nothing else was sent"
        );
        control.resume();
    };
    let begun = Instant::now();
    let all = async { while run.next().await.is_some() {} };
    tokio::join!(waits, all);
    assert_eq!(run.metrics().succeeded, 10);
    // Two before, then the three that were left once it goes on at 61.5 s.
    assert_eq!(begun.elapsed(), 64 * SECOND + SECOND / 2);
    let mut names = Vec::new();
    while let Some(Some(event)) = events.next().now_or_never() {
        names.push(event.as_str());
    }
    assert_eq!(names.iter().filter(|name| **name == "paused").count(), 1);
    assert_eq!(names.iter().filter(|name| **name == "resumed").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_obeyed_in_a_pause() {
    let provider = Scripted::new(|_, _| (SECOND, fail(ErrorKind::Overloaded)));
    let pool = ParallelPool::new(provider, options(2));
    let stop = CancellationToken::new();
    let run = pool.run(rows(10), Arc::new(NoLog), stop.clone());
    run.control().pause();
    let (ended, ()) = tokio::join!(collect(run), async {
        sleep(SECOND).await;
        stop.cancel();
    });
    assert!(ended.0.is_empty() && ended.1.unfinished.is_empty());
}

#[tokio::test(start_paused = true)]
async fn settings_that_are_likely_not_meant_are_told_at_the_start() {
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    let options = options(1)
        .with_attempt_timeout(60 * SECOND)
        .with_item_deadline(Some(30 * SECOND));
    let pool = ParallelPool::new(provider, options);
    let mut run = run(&pool, 1);
    let events = run.events();
    while run.next().await.is_some() {}
    drop(run);
    let warned = events.filter(|event| {
        let is = matches!(**event, Event::Warned(_));
        async move { is }
    });
    assert_eq!(warned.count().await, 1);
}
