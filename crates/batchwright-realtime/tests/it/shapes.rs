//! Ways to use the pool: all at once, in order, one call, many callers.

use crate::double::{SECOND, Scripted, fail, ok, options, rows};
use batchwright_core::{ErrorKind, Message, Request, Response, RetryClass, Usage};
use batchwright_realtime::{CallPoolOptions, EndReason, NoLog, ParallelPool, prompts};
use futures::{FutureExt, StreamExt};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

fn request(row: u64) -> Request {
    Request::chat(row.to_string(), "small", [Message::user("x")])
}

#[tokio::test(start_paused = true)]
async fn a_4_a_9_a_12_one_call_answers_all_and_counts() {
    let provider = Scripted::new(|row, _| match row {
        2 => (SECOND, fail(ErrorKind::ContextTooLong)),
        _ => {
            let mut answer = Response::from_text(format!("answer {row}"));
            answer.usage = Usage::of(10, 5);
            answer.usage.cache_read_input_tokens = Some(5);
            (SECOND * (4 - u32::try_from(row).unwrap()), Ok(answer))
        }
    });
    let pool = ParallelPool::new(provider, options(4));
    let items = [("0", "a"), ("1", "b"), ("2", "c"), ("3", "d")];
    let summary = pool.run_all(prompts("small", items)).await;
    assert!(summary.is_complete());
    assert_eq!(
        (summary.total(), summary.succeeded(), summary.failed()),
        (4, 3, 1)
    );
    assert_eq!(summary.usage().total_tokens(), Some(45));
    assert!((summary.cache_hit_rate() - 0.5).abs() < 1e-9);
    assert_eq!(summary.wall_time(), 4 * SECOND);
    assert_eq!(
        summary.by_id()["3"].outcome.response().unwrap().text(),
        "answer 3"
    );
    assert_eq!(summary.outputs().count(), 3);
    let text = summary.to_string();
    assert!(
        text.starts_with("4 rows: 3 succeeded, 0 refused, 1 failed"),
        "{text}"
    );
    assert!(text.ends_with("context_too_long: 1 (2)"), "{text}");
    let order: Vec<_> = summary
        .into_input_order()
        .results
        .iter()
        .map(|row| row.row)
        .collect();
    assert_eq!(order, [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_call_alone_is_tried_again_and_fails_with_its_own_error() {
    let provider = Scripted::new(|row, nth| match (row, nth) {
        (0, 1) => (SECOND, fail(ErrorKind::Overloaded)),
        (0, _) => (SECOND, ok()),
        (1, _) => (SECOND, fail(ErrorKind::InvalidRequest)),
        _ => (SECOND, fail(ErrorKind::Unauthenticated)),
    });
    let pool = ParallelPool::new(provider, options(1));
    assert_eq!(pool.call(request(0)).await.unwrap().text(), "fine");
    let error = pool.call(request(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(
        pool.call_detailed(request(1))
            .await
            .unwrap()
            .outcome
            .error()
            .is_some()
    );
    let error = pool.call_detailed(request(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
}

#[tokio::test(start_paused = true)]
async fn rows_in_order_hold_the_source_back_for_the_oldest() {
    let provider = Scripted::new(|row, _| match row {
        3 => (100 * SECOND, ok()),
        _ => (SECOND * (1 + u32::try_from(row % 3).unwrap()), ok()),
    });
    let taken = Arc::new(AtomicU64::new(0));
    let count = taken.clone();
    let source = rows(60).inspect(move |_| {
        count.fetch_add(1, Relaxed);
    });
    let pool = ParallelPool::new(provider.clone(), options(4));
    let run = pool.run(source, Arc::new(NoLog), CancellationToken::new());
    let mut ordered = run.in_order(10);
    let mut order = Vec::new();
    while let Some(finished) = ordered.next().await {
        if finished.row == 3 {
            assert_eq!(taken.load(Relaxed), 13, "ten behind the slow row");
        }
        assert!(ordered.held() < 10);
        order.push(finished.row);
    }
    assert_eq!(order, (0..60).collect::<Vec<_>>());
    assert!(matches!(
        ordered.run().ended().unwrap().reason,
        EndReason::Completed
    ));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_run_in_order_gives_what_ended() {
    let provider = Scripted::new(|row, _| match row {
        0 => (5 * SECOND, fail(ErrorKind::Unauthenticated)),
        _ => (SECOND, ok()),
    });
    let pool = ParallelPool::new(provider, options(3));
    let run = pool.run(rows(30), Arc::new(NoLog), CancellationToken::new());
    let mut ordered = run.in_order(6);
    let order: Vec<_> = ordered.by_ref().map(|row| row.row).collect().await;
    assert_eq!(order, [1, 2, 3, 4, 5], "the first is handed back");
    let end = ordered.run().ended().unwrap();
    assert_eq!(
        end.unfinished.iter().map(|row| row.row).collect::<Vec<_>>(),
        [0]
    );
}

#[tokio::test(start_paused = true)]
async fn ax_13_callers_share_the_places() {
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    let pool = ParallelPool::new(provider.clone(), options(3)).shared(CallPoolOptions::default());
    let begun = Instant::now();
    let calls = (0..9).map(|row| pool.submit(request(row)));
    let answers = futures::future::join_all(calls).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.as_ref().unwrap().text() == "fine")
    );
    assert_eq!(begun.elapsed(), 3 * SECOND);
    assert_eq!(provider.seen().most_open, 3);
    assert_eq!(pool.pending(), 0);
    pool.close().await;
    let error = pool.submit(request(0)).await.unwrap_err();
    assert_eq!(error.code(), Some("closed"));
}

#[tokio::test(start_paused = true)]
async fn ax_14_one_too_many_is_refused_at_once() {
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    let options_of_pool = CallPoolOptions::default().with_max_pending(1);
    let pool = ParallelPool::new(provider, options(2)).shared(options_of_pool);
    let calls = (0..4).map(|row| pool.submit(request(row)));
    let answers = futures::future::join_all(calls).await;
    let refused = answers[3].as_ref().unwrap_err();
    assert_eq!(
        (refused.code(), refused.class()),
        (Some("saturated"), RetryClass::NotSent)
    );
    assert!(answers[..3].iter().all(Result::is_ok));
    assert!(pool.submit(request(4)).await.is_ok(), "there is room again");
}

#[tokio::test(start_paused = true)]
async fn ax_15_a_caller_that_goes_away_frees_its_place() {
    let provider = Scripted::new(|row, _| match row {
        0 | 1 => (1000 * SECOND, ok()),
        _ => (SECOND, ok()),
    });
    let limits = CallPoolOptions::default().with_submit_timeout(5 * SECOND);
    let pool = ParallelPool::new(provider.clone(), options(1)).shared(limits);
    let begun = Instant::now();
    let error = pool.submit(request(0)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Timeout, Some("submit_timeout"))
    );
    let dropped = pool.submit_within(request(1), None);
    assert!(timeout(SECOND, dropped).await.is_err());
    pool.submit(request(2)).await.unwrap();
    assert_eq!(begun.elapsed(), 7 * SECOND);
    assert_eq!((provider.seen().dropped, pool.pending()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn ax_17_a_close_lets_calls_end_and_all_closers_wait_for_it() {
    let provider = Scripted::new(|_, _| (10 * SECOND, ok()));
    let pool = ParallelPool::new(provider, options(2)).shared(CallPoolOptions::default());
    let calls = futures::future::join_all((0..4).map(|row| pool.submit(request(row))));
    let (one, other) = (pool.clone(), pool.clone());
    let begun = Instant::now();
    let close = async {
        sleep(SECOND).await;
        tokio::join!(one.close(), other.close());
        begun.elapsed()
    };
    let (answers, closed) = tokio::join!(calls, close);
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(closed, 20 * SECOND);
    pool.close().now_or_never().expect("it is closed");
}

/// Neither rows that fail alike nor a key that is refused end the pool for the next caller.
#[tokio::test(start_paused = true)]
async fn f_027_what_stops_a_run_stops_no_other_caller() {
    let provider = Scripted::new(|row, _| match row {
        0..30 => (SECOND, fail(ErrorKind::InvalidRequest)),
        30 => (SECOND, fail(ErrorKind::Unauthenticated)),
        31 => (SECOND / 2, fail(ErrorKind::RateLimited)),
        _ => (SECOND, ok()),
    });
    let pool = ParallelPool::new(provider, options(2)).shared(CallPoolOptions::default());
    for row in 0..30 {
        let error = pool.submit(request(row)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    }
    // The one that waits is told why nobody can be served.
    let (one, other) = tokio::join!(pool.submit(request(30)), pool.submit(request(31)));
    assert_eq!(one.unwrap_err().kind(), ErrorKind::Unauthenticated);
    assert_eq!(other.unwrap_err().kind(), ErrorKind::Unauthenticated);
    assert!(pool.submit(request(32)).await.is_ok());
    let detailed = pool
        .submit_detailed(Request::chat("33", "small", []))
        .await
        .unwrap();
    assert_eq!(detailed.outcome.custom_id, "33");
}

#[tokio::test(start_paused = true)]
async fn the_last_clone_takes_what_is_under_way_with_it() {
    let provider = Scripted::new(|_, _| (1000 * SECOND, ok()));
    let pool = ParallelPool::new(provider.clone(), options(2)).shared(CallPoolOptions::default());
    {
        let calls = futures::future::join_all((0..2).map(|row| pool.submit(request(row))));
        assert!(timeout(SECOND, calls).await.is_err());
    }
    drop(pool);
    while provider.seen().open > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(provider.seen().dropped, 2);
}
