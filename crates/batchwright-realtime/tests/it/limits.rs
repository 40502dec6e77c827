//! What scopes are limited by, through the whole pool: rates told and learned, rests, outages, budgets.

use crate::double::{
    SECOND, Scripted, collect, fail, is_complete, item, ok, options, run_all, stopped_by,
};
use batchwright_core::{Error, ErrorKind, RateLimit, Response, Result, Usage};
use batchwright_realtime::{
    Concurrency, EndReason, NoLog, OnReached, ParallelPool, RateLimitOptions, ScopeOptions,
    SpendOptions, TokenEstimate, TokenEstimator,
};
use futures::stream;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const LATENCY: Duration = Duration::from_millis(50);

/// 100 requests a second, 100 at once.
struct Limited {
    bucket: Mutex<(f64, Instant)>,
    refused: AtomicU64,
    has_headers: bool,
}

impl Limited {
    fn new(has_headers: bool) -> Arc<Self> {
        Arc::new(Self {
            bucket: Mutex::new((100.0, Instant::now())),
            refused: AtomicU64::new(0),
            has_headers,
        })
    }

    fn answer(&self) -> Result<Response> {
        let mut bucket = self.bucket.lock().unwrap();
        let now = Instant::now();
        let level = (bucket.0 + (now - bucket.1).as_secs_f64() * 100.0).min(100.0);
        let passes = level >= 1.0;
        let level = if passes { level - 1.0 } else { level };
        *bucket = (level, now);
        let mut headers = RateLimit::default();
        if self.has_headers {
            headers.limit_requests = Some(6000);
            headers.remaining_requests = Some(level as u64);
            headers.reset_requests = Some(Duration::from_secs_f64((100.0 - level) / 100.0));
        }
        if passes {
            let mut response = Response::from_text("fine");
            response.rate_limit = self.has_headers.then_some(headers);
            return Ok(response);
        }
        self.refused.fetch_add(1, SeqCst);
        let mut error = Error::new(ErrorKind::RateLimited, "slow down");
        if self.has_headers {
            error = error.with_rate_limit(headers);
        }
        Err(error)
    }
}

/// 3,000 rows, of which 29.05 s are the least; how much longer it took in percent, and how many were refused.
async fn race(scope: ScopeOptions, has_headers: bool) -> (f64, u64) {
    let server = Limited::new(has_headers);
    let provider = Scripted::new({
        let server = Arc::clone(&server);
        move |_, _| (LATENCY, server.answer())
    });
    let begun = Instant::now();
    let (finished, end) = run_all(&provider, options(64).with_scope(scope), 3000).await;
    assert!(is_complete(&end));
    assert_eq!(finished.len(), 3000);
    assert!(finished.iter().all(|row| row.outcome.ending.is_success()));
    let took = begun.elapsed().as_secs_f64();
    ((took / 29.05 - 1.0) * 100.0, server.refused.load(SeqCst))
}

#[tokio::test(start_paused = true)]
async fn f_001_a_told_limit_is_used_in_full_and_never_passed() {
    let limit = RateLimitOptions::default().with_requests_per_minute(Some(6000.0));
    let scope = ScopeOptions::default().with_rate_limit(limit);
    let (over, refused) = race(scope, false).await;
    assert!(over < 1.0, "{over:.2} % over");
    assert_eq!(refused, 0);
}

#[tokio::test(start_paused = true)]
async fn f_001_a_limit_in_headers_is_learned_without_a_refusal() {
    let (over, refused) = race(ScopeOptions::default(), true).await;
    assert!(over < 4.0, "{over:.2} % over");
    assert_eq!(refused, 0);
}

#[tokio::test(start_paused = true)]
async fn f_018_a_limit_nobody_tells_is_learned_from_refusals() {
    let (over, refused) = race(ScopeOptions::default(), false).await;
    assert!(over < 4.0, "{over:.2} % over");
    assert!(refused < 120, "4 % of 3,000: {refused}");
}

#[tokio::test(start_paused = true)]
async fn f_019_rows_that_were_refused_together_do_not_come_back_together() {
    let refused = AtomicU64::new(0);
    let provider = Scripted::new(move |_, _| {
        if refused.fetch_add(1, SeqCst) < 500 {
            let slow_down = Error::new(ErrorKind::RateLimited, "slow down");
            return (LATENCY, Err(slow_down.with_retry_after(SECOND * 20)));
        }
        (LATENCY, ok())
    });
    let begun = Instant::now();
    let (_, end) = run_all(&provider, options(500), 500).await;
    assert!(is_complete(&end));
    let seen = provider.seen();
    let again: Vec<_> = seen.sends.values().map(|sends| sends[1] - begun).collect();
    assert_eq!(seen.count(), 1000, "one rest for all of them");
    assert!(again.iter().all(|at| *at >= SECOND * 20));
    let (first, last) = (again.iter().min().unwrap(), again.iter().max().unwrap());
    assert!(*last - *first > SECOND, "{:?}", *last - *first);
}

#[tokio::test(start_paused = true)]
async fn f_022_an_outage_costs_few_calls_and_no_row() {
    let begun = Instant::now();
    let provider = Scripted::new(move |_, _| {
        let minutes = begun.elapsed().as_secs() / 60;
        if (1..60).contains(&minutes) {
            return (LATENCY, fail(ErrorKind::Overloaded));
        }
        (SECOND, ok())
    });
    let (finished, end) = run_all(&provider, options(16), 2000).await;
    assert!(is_complete(&end));
    assert_eq!(finished.len(), 2000);
    let needless = provider.seen().count() - 2000;
    assert!(needless < 120, "{needless} calls in an hour's outage");
}

#[tokio::test(start_paused = true)]
async fn ax_124_scopes_are_limited_apart() {
    let slow = RateLimitOptions::default().with_requests_per_minute(Some(60.0));
    let provider = Scripted::new(|_, _| (LATENCY, ok()));
    let options = options(8).with_scope_of("slow", ScopeOptions::default().with_rate_limit(slow));
    let rows = (0..20).map(|row| {
        let mut item = item(row);
        item.request.model = if row % 10 == 0 { "slow" } else { "small" }.into();
        Ok(item)
    });
    let pool = ParallelPool::new(provider.clone(), options);
    let begun = Instant::now();
    let run = pool.run(
        stream::iter(rows),
        Arc::new(NoLog),
        CancellationToken::new(),
    );
    let (_, end) = collect(run).await;
    assert!(is_complete(&end));
    let sends = provider.seen().sends;
    let at = |row: u64| sends[&row][0] - begun;
    assert!(at(10) >= SECOND, "a minute's limit of 60");
    assert!((1..10).chain(11..20).all(|row| at(row) < SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_queue_at_the_server_is_seen_in_its_latency() {
    // 20 at once, 200 ms each; the rest waits in order.
    let free = Mutex::new(Vec::new());
    let provider = Scripted::new(move |_, _| {
        let mut free = free.lock().unwrap();
        let now = Instant::now();
        free.resize(20, now);
        let worker = free.iter_mut().min().unwrap();
        *worker = (*worker).max(now) + SECOND / 5;
        (*worker - now, ok())
    });
    let auto = ScopeOptions::default().with_concurrency(Concurrency::Auto { min: 1 });
    let begun = Instant::now();
    let (_, end) = run_all(&provider, options(1000).with_scope(auto), 6000).await;
    assert!(is_complete(&end));
    let took = begun.elapsed().as_secs_f64();
    assert!(took < 60.0 * 1.2, "{took:.1} s of 60 s");
    let most = provider.seen().most_open;
    assert!(most <= 64, "{most} open at a server of 20");
}

fn used(tokens: u64) -> Result<Response> {
    let mut response = Response::from_text("fine");
    response.usage = Usage::of(tokens, 0);
    Ok(response)
}

#[tokio::test(start_paused = true)]
async fn ax_162_ax_167_a_spend_budget_ends_the_run_within_its_bound() {
    let provider = Scripted::new(|row, _| (SECOND * (1 + row as u32 % 3), used(120)));
    let spend = SpendOptions::default().with_max_tokens(Some(10_000));
    let estimator = TokenEstimator::new(|_| TokenEstimate::new(100, 0));
    let options = options(16).with_spend(spend).with_estimator(estimator);
    let (finished, end) = run_all(&provider, options, 1000).await;
    let error = stopped_by(&end);
    assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
    assert_eq!(end.spent.tokens, finished.len() as u64 * 120);
    // 16 in flight use 20 above their estimate.
    assert!(
        (9_900..=10_000 + 16 * 20).contains(&end.spent.tokens),
        "{:?}",
        end.spent
    );
    assert_eq!(provider.seen().dropped, 0, "what is in flight ends");
    assert_eq!(end.possibly_paid_attempts, 0);
}

#[tokio::test(start_paused = true)]
async fn ax_163_what_is_in_flight_is_given_up_where_that_is_wanted() {
    let provider = Scripted::new(|row, _| match row {
        0 => (SECOND, used(100)),
        _ => (SECOND * 60, used(0)),
    });
    let spend = SpendOptions::default()
        .with_max_tokens(Some(100))
        .with_on_reached(OnReached::Cancel);
    let estimator = TokenEstimator::new(|_| TokenEstimate::default());
    let options = options(4).with_spend(spend).with_estimator(estimator);
    let begun = Instant::now();
    let (finished, end) = run_all(&provider, options, 100).await;
    assert!(matches!(end.reason, EndReason::Stopped(_)));
    assert_eq!(finished.len(), 1);
    assert_eq!(provider.seen().dropped, 3);
    assert_eq!(end.possibly_paid_attempts, 3);
    assert!(begun.elapsed() < SECOND * 2);
}

#[tokio::test(start_paused = true)]
async fn a_bound_on_the_cost_needs_prices() {
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    let most = batchwright_core::Money::from_dollars(1.0);
    let spend = SpendOptions::default().with_max_cost(most);
    let (finished, end) = run_all(&provider, options(4).with_spend(spend), 10).await;
    assert_eq!(stopped_by(&end).kind(), ErrorKind::ConfigInvalid);
    assert!(finished.is_empty());
    assert_eq!(provider.seen().count(), 0);
}
