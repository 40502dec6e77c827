//! A context stored at the provider: stored once, renewed by those who use it, stored anew where it is gone, deleted or
//! kept.

use crate::{
    double::{SECOND, collect, fail, is_complete, item, ok, options, rows, stopped_by},
    vendor::{Vendor, all_succeeded},
};
use batchwright_core::{CachedContext, ContextCache, Error, ErrorKind, Request, Result};
use batchwright_realtime::{
    ContextCacheOptions, Direct, NoLog, ParallelPool, PoolOptions, RunEnd, WithContext,
};
use futures::stream;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A provider's store in memory.
struct Shelf {
    state: Mutex<State>,
    creation: Mutex<Option<ErrorKind>>,
}

#[derive(Default)]
struct State {
    /// Names and when they end.
    held: Vec<(String, Instant)>,
    created: usize,
    extended: usize,
    deleted: usize,
    /// Extensions that are refused from now on.
    broken: usize,
}

impl Shelf {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            creation: Mutex::default(),
        })
    }

    fn holds(&self, name: &str) -> bool {
        let state = self.state.lock().unwrap();
        let now = Instant::now();
        state
            .held
            .iter()
            .any(|(held, end)| held == name && *end > now)
    }

    fn counts(&self) -> (usize, usize, usize) {
        let state = self.state.lock().unwrap();
        (state.created, state.extended, state.deleted)
    }
}

#[async_trait::async_trait]
impl ContextCache for Shelf {
    fn model(&self) -> &str {
        "models/small"
    }

    async fn create(&self, ttl: Duration) -> Result<CachedContext> {
        sleep(SECOND).await;
        if let Some(kind) = *self.creation.lock().unwrap() {
            return Err(Error::new(kind, "store it"));
        }
        let mut state = self.state.lock().unwrap();
        state.created += 1;
        let name = format!("c/{}", state.created);
        state.held.push((name.clone(), Instant::now() + ttl));
        Ok(CachedContext::new(name, Some(2_000_000)))
    }

    async fn find(&self) -> Result<Option<CachedContext>> {
        let state = self.state.lock().unwrap();
        let now = Instant::now();
        let found = state.held.iter().find(|(_, end)| *end > now);
        Ok(found.map(|(name, _)| CachedContext::new(name.clone(), Some(2_000_000))))
    }

    async fn extend(&self, name: &str, ttl: Duration) -> Result<bool> {
        sleep(MS * 50).await;
        let mut state = self.state.lock().unwrap();
        if state.broken > 0 {
            state.broken -= 1;
            return Err(Error::new(ErrorKind::Overloaded, "extend it"));
        }
        let now = Instant::now();
        let held = state
            .held
            .iter_mut()
            .find(|(held, end)| held == name && *end > now);
        let is_there = held.map(|(_, end)| *end = now + ttl).is_some();
        state.extended += usize::from(is_there);
        Ok(is_there)
    }

    async fn exists(&self, name: &str) -> Result<bool> {
        Ok(self.holds(name))
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        state.held.retain(|(held, _)| held != name);
        state.deleted += 1;
        Ok(())
    }

    fn begin(&self, name: &str, request: &Request) -> Request {
        let mut request = request.clone();
        request.extra.insert("context".to_owned(), name.into());
        request
    }
}

/// Answers after so long what begins with a context the shelf holds.
struct Reader {
    shelf: Arc<Shelf>,
    takes: Duration,
    capability: batchwright_core::Capability,
}

#[async_trait::async_trait]
impl batchwright_core::ChatProvider for Reader {
    fn name(&self) -> &str {
        "reader"
    }

    fn capability(&self) -> &batchwright_core::Capability {
        &self.capability
    }

    async fn complete(
        &self,
        request: &Request,
        _call: &batchwright_core::CallOptions,
    ) -> Result<batchwright_core::Response> {
        let name = request.extra["context"].as_str().unwrap();
        if !self.shelf.holds(name) {
            let error = Error::new(ErrorKind::PermissionDenied, "not found, or not yours");
            return Err(error);
        }
        sleep(self.takes).await;
        ok()
    }
}

fn reader(shelf: &Arc<Shelf>, takes: Duration) -> WithContext {
    let reader = Reader {
        shelf: shelf.clone(),
        takes,
        capability: batchwright_core::Capability::default(),
    };
    WithContext::new(Arc::new(Direct::new(Arc::new(reader))), shelf.clone())
}

async fn run(
    strategy: &Arc<WithContext>,
    options: PoolOptions,
    count: u64,
) -> (Vec<batchwright_realtime::Finished>, RunEnd) {
    let pool = ParallelPool::with_strategy(strategy.clone(), options);
    collect(pool.run(rows(count), Arc::new(NoLog), CancellationToken::new())).await
}

#[tokio::test(start_paused = true)]
async fn a_25_it_is_stored_once_renewed_and_deleted_and_its_storage_is_stated() {
    let shelf = Shelf::new();
    let kept = ContextCacheOptions::default().with_storage_price(1.0);
    let strategy = Arc::new(reader(&shelf, SECOND * 60).with_options(kept));
    // 4 at once of a minute: 100 minutes.
    let begun = Instant::now();
    let (finished, end) = run(&strategy, options(4), 400).await;
    all_succeeded(&finished, &end, 400);
    let took = begun.elapsed();
    assert!(took < SECOND * 60 * 101, "{took:?}");
    let (created, extended, deleted) = shelf.counts();
    // After 45 and 90 minutes.
    assert_eq!((created, extended, deleted), (1, 2, 1));
    let report = strategy.report();
    assert_eq!((report.created, report.renewed), (1, 2));
    assert_eq!(report.stored_tokens, 2_000_000);
    // 2 million tokens for 100 minutes at a dollar for a million and an hour.
    let hours = report.token_hours / 2e6;
    assert!((1.66..1.68).contains(&hours), "{hours}");
    let dollars = report.storage_cost.unwrap().as_dollars();
    assert!((3.32..3.36).contains(&dollars), "{dollars}");
    sleep(HOUR).await;
    assert_eq!(strategy.report().token_hours, report.token_hours, "deleted");
}

#[tokio::test(start_paused = true)]
async fn ax_273_one_that_is_gone_is_stored_anew_once_for_all_and_rows_are_sent_again() {
    let shelf = Shelf::new();
    let strategy = Arc::new(reader(&shelf, SECOND));
    let dropped = async {
        sleep(SECOND * 10 + MS * 500).await;
        shelf.state.lock().unwrap().held.clear();
    };
    let ((finished, end), ()) = tokio::join!(run(&strategy, options(8), 200), dropped);
    all_succeeded(&finished, &end, 200);
    let twice = finished
        .iter()
        .filter(|row| row.outcome.provenance.attempts > 1);
    assert!((1..=8).contains(&twice.count()));
    assert_eq!(strategy.report().created, 2);
    assert_eq!(end.possibly_paid_attempts, 0);
}

#[tokio::test(start_paused = true)]
async fn f_005_a_refusal_that_is_not_for_the_context_stops_the_run() {
    let shelf = Shelf::new();
    let denied = Vendor::new("denied", |_| (MS, fail(ErrorKind::PermissionDenied)));
    let inner = Arc::new(Direct::new(denied.clone()));
    let strategy = Arc::new(WithContext::new(inner, shelf.clone()));
    let (_, end) = run(&strategy, options(2), 50).await;
    assert_eq!(stopped_by(&end).kind(), ErrorKind::PermissionDenied);
    assert!(denied.calls() <= 2);
    assert_eq!(shelf.counts(), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn ax_274_a_kept_one_serves_the_next_run_and_is_deleted_when_told() {
    let shelf = Shelf::new();
    let keep = ContextCacheOptions::default().with_keep(true);
    let first = Arc::new(reader(&shelf, SECOND).with_options(keep));
    let (finished, end) = run(&first, options(2), 4).await;
    all_succeeded(&finished, &end, 4);
    assert_eq!(shelf.counts(), (1, 0, 0));
    // Another process: finds it, and gives it its full time again.
    let second = Arc::new(reader(&shelf, SECOND).with_options(keep));
    let (finished, end) = run(&second, options(2), 4).await;
    all_succeeded(&finished, &end, 4);
    assert_eq!(shelf.counts(), (1, 1, 0));
    assert_eq!((second.report().created, second.report().found), (0, 1));
    second.delete().await.unwrap();
    assert_eq!(shelf.counts(), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn ax_268_runs_that_overlap_share_it_and_the_last_one_deletes_it() {
    let shelf = Shelf::new();
    let strategy = Arc::new(reader(&shelf, SECOND));
    let short = run(&strategy, options(2), 10);
    let long = run(&strategy, options(2), 100);
    let ((short, first), (long, last)) = tokio::join!(short, long);
    all_succeeded(&short, &first, 10);
    all_succeeded(&long, &last, 100);
    let attempts: u32 = long.iter().map(|row| row.outcome.provenance.attempts).sum();
    assert_eq!(attempts, 100, "the first run's end took nothing away");
    assert_eq!(shelf.counts(), (1, 0, 1));
    // A later run stores it again.
    let (finished, end) = run(&strategy, options(2), 2).await;
    all_succeeded(&finished, &end, 2);
    assert_eq!(shelf.counts(), (2, 0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_is_tried_again_before_the_time_is_over() {
    let shelf = Shelf::new();
    shelf.state.lock().unwrap().broken = 2;
    let strategy = Arc::new(reader(&shelf, SECOND * 60));
    let (finished, end) = run(&strategy, options(4), 400).await;
    all_succeeded(&finished, &end, 400);
    assert_eq!(shelf.counts().0, 1);
    assert!(
        finished
            .iter()
            .all(|row| row.outcome.provenance.attempts == 1)
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_stored_stops_the_run_before_a_row_is_sent() {
    let shelf = Shelf::new();
    *shelf.creation.lock().unwrap() = Some(ErrorKind::InvalidRequest);
    let strategy = Arc::new(reader(&shelf, SECOND));
    let (finished, end) = run(&strategy, options(4), 40).await;
    assert!(finished.is_empty());
    assert_eq!(stopped_by(&end).kind(), ErrorKind::InvalidRequest);
}

#[tokio::test(start_paused = true)]
async fn f_122_storing_again_and_again_what_may_have_been_billed_is_bounded() {
    let shelf = Shelf::new();
    let strategy = Arc::new(reader(&shelf, SECOND));
    let broken = async {
        sleep(SECOND * 5).await;
        shelf.state.lock().unwrap().held.clear();
        *shelf.creation.lock().unwrap() = Some(ErrorKind::Timeout);
    };
    let ((_, end), ()) = tokio::join!(run(&strategy, options(2), 1000), broken);
    // Each row asks at most twice, and the run's bound for such attempts stops it.
    assert_eq!(stopped_by(&end).kind(), ErrorKind::NeedsDecision);
    assert_eq!(shelf.counts().0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_for_another_model_is_refused_and_not_sent_without_its_context() {
    let shelf = Shelf::new();
    let strategy = Arc::new(reader(&shelf, SECOND));
    let pool = ParallelPool::with_strategy(strategy, options(1));
    let mut other = item(0);
    other.request.model = "large".to_owned();
    let rows = stream::iter([Ok(other), Ok(item(1))]);
    let (finished, end) = collect(pool.run(rows, Arc::new(NoLog), CancellationToken::new())).await;
    assert!(is_complete(&end));
    let error = finished[0].outcome.error().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(finished[1].outcome.ending.is_success());
}
