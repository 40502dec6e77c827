//! Caller's code that is wrong, and what a run makes of it.

use crate::double::{
    Entry, SECOND, Scripted, Tape, collect, fail, is_complete, item, ok, options, rows, stopped_by,
};
use async_trait::async_trait;
use batchwright_core::{Error, ErrorKind, Money, PriceTable, Request, Response, Result, Usage};
use batchwright_realtime::{
    Attempt, Event, Executed, ItemState, Next, NoLog, ParallelPool, Scope, SpendOptions, Strategy,
    Warning,
};
use futures::{StreamExt, stream};
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

type Answer<'a> = Pin<Box<dyn Future<Output = Result<Executed>> + Send + 'a>>;

/// Fails always, and always wants to go elsewhere.
struct Restless(AtomicUsize);

#[async_trait]
impl Strategy for Restless {
    type Output = Response;

    fn scope<'a>(&'a self, request: &'a Request, _: &'a mut ItemState) -> Scope<'a> {
        Scope::new("restless", &request.model)
    }

    async fn execute(&self, _: &Request, _: &mut Attempt<'_>) -> Result<Executed> {
        self.0.fetch_add(1, SeqCst);
        let error = Error::new(ErrorKind::InvalidOutput, "scripted");
        Err(error.with_usage(Usage::of(10, 1)))
    }

    async fn on_error(&self, _: &Request, _: &Error, _: &mut Attempt<'_>) -> Next {
        Next::Elsewhere
    }
}

#[tokio::test(start_paused = true)]
async fn a_strategy_that_always_goes_elsewhere_pays_for_a_bounded_number_of_answers() {
    let restless = Arc::new(Restless(AtomicUsize::new(0)));
    let pool = ParallelPool::with_strategy(restless.clone(), options(1));
    let summary = timeout(SECOND * 60, pool.run_all([item(0).request])).await;
    let summary = summary.expect("it ends, and no time passes");
    let error = summary.results[0].outcome.error().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidOutput);
    let attempts = restless.0.load(SeqCst);
    assert!(attempts <= 34, "{attempts} paid answers");
    assert_eq!(summary.usage().input_tokens, Some(10 * attempts as u64));
}

/// Written by hand: panics before there is a future.
struct ByHand;

impl Strategy for ByHand {
    type Output = Response;

    fn scope<'a>(&'a self, request: &'a Request, _: &'a mut ItemState) -> Scope<'a> {
        Scope::new("by hand", &request.model)
    }

    fn execute<'l, 'a, 'b, 'c, 'f>(
        &'l self,
        request: &'a Request,
        _: &'b mut Attempt<'c>,
    ) -> Answer<'f>
    where
        'l: 'f,
        'a: 'f,
        'b: 'f,
        'c: 'f,
        Self: 'f,
    {
        assert!(request.custom_id != "3", "scripted");
        Box::pin(async { Ok(Executed::from(Response::from_text("fine"))) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_strategy_that_panics_before_it_has_a_future_fails_its_row_alone() {
    let pool = ParallelPool::with_strategy(Arc::new(ByHand), options(4));
    let run = pool.run(rows(20), Arc::new(NoLog), CancellationToken::new());
    let (finished, end) = collect(run).await;
    assert!(is_complete(&end), "{:?}", end.reason);
    let failed = finished
        .iter()
        .filter(|row| row.outcome.error().is_some())
        .map(|row| row.row)
        .collect::<Vec<_>>();
    assert_eq!((finished.len(), failed), (20, vec![3]));
}

#[tokio::test(start_paused = true)]
async fn what_a_classifier_makes_of_a_paid_failure_does_not_change_its_account() {
    // Both ways: what was counted already, and what will not be counted as such.
    for (from, to) in [
        (ErrorKind::InvalidOutput, ErrorKind::InvalidRequest),
        (ErrorKind::InvalidOutput, ErrorKind::Overloaded),
        (ErrorKind::InvalidRequest, ErrorKind::InvalidOutput),
    ] {
        let provider = Scripted::new(move |_, nth| {
            let paid = Error::new(from, "scripted").with_usage(Usage::of(10, 1));
            (SECOND, if nth < 3 { Err(paid) } else { ok() })
        });
        let pool = ParallelPool::new(provider.clone(), options(1))
            .with_classifier(move |error: Error| describe(&error, to));
        let summary = pool.run_all([item(0).request]).await;
        let paid = provider.seen().count().min(2) as u64;
        let usage = summary.results[0].usage;
        assert_eq!(usage.input_tokens, Some(10 * paid), "{from:?} as {to:?}");
    }
}

fn describe(error: &Error, kind: ErrorKind) -> Error {
    Error::new(kind, "in other words").with_usage(*error.usage().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_row_cancelled_while_its_intent_is_recorded_is_not_sent() {
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    let tape = Arc::new(Tape {
        intent_takes: SECOND * 2,
        ..Tape::default()
    });
    let cancel = CancellationToken::new();
    let items = stream::iter([Ok(item(0).with_cancel(cancel.clone()))]);
    let pool = ParallelPool::new(provider.clone(), options(1));
    let run = pool.run(items, tape.clone(), CancellationToken::new());
    let ((finished, end), ()) = futures::join!(collect(run), async {
        sleep(SECOND).await;
        cancel.cancel();
    });
    assert!(is_complete(&end));
    assert_eq!(provider.seen().count(), 0);
    assert_eq!(tape.entries(), [Entry::Intent(0, 1), Entry::Outcome(0)]);
    assert!(matches!(
        finished[0].outcome.ending,
        batchwright_core::Ending::Cancelled
    ));
}

/// Goes to a place without a price once the first one is limited.
struct Astray {
    inner: Arc<Scripted>,
    is_limited: AtomicBool,
}

#[async_trait]
impl Strategy for Astray {
    type Output = Response;

    fn scope<'a>(&'a self, request: &'a Request, _: &'a mut ItemState) -> Scope<'a> {
        let is_limited = self.is_limited.load(SeqCst);
        let model = if is_limited {
            "unpriced"
        } else {
            &request.model
        };
        Scope::new("scripted", model)
    }

    async fn execute(&self, request: &Request, attempt: &mut Attempt<'_>) -> Result<Executed> {
        use batchwright_core::ChatProvider;
        let answer = self.inner.complete(request, &attempt.call_options()).await;
        let is_limited = answer.as_ref().is_err_and(Error::is_rate_limited);
        self.is_limited.fetch_or(is_limited, SeqCst);
        Ok(answer?.into())
    }
}

fn priced() -> batchwright_realtime::PoolOptions {
    let mut prices = PriceTable::default();
    prices
        .overlay(r#"{"scripted:small":{"realtime":{"input":1,"output":10},"as_of":"2026-01-01","source":"x"}}"#)
        .unwrap();
    let spend = SpendOptions::default().with_max_cost(Money::from_dollars(100.0));
    options(8).with_prices(Arc::new(prices)).with_spend(spend)
}

#[tokio::test(start_paused = true)]
async fn rows_that_would_go_where_no_price_is_known_come_back() {
    // Rows wait for their scope when it is limited, and are asked where they go instead.
    let first = AtomicUsize::new(0);
    let inner = Scripted::new(move |_, _| match first.fetch_add(1, SeqCst) {
        0..4 => (SECOND, fail(ErrorKind::RateLimited)),
        _ => (SECOND * 2, ok()),
    });
    let astray = Arc::new(Astray {
        inner: inner.clone(),
        is_limited: AtomicBool::new(false),
    });
    let pool = ParallelPool::with_strategy(astray.clone(), priced());
    let run = pool.run(rows(100), Arc::new(NoLog), CancellationToken::new());
    let (_, end) = collect(run).await;
    assert_eq!(stopped_by(&end).kind(), ErrorKind::ConfigInvalid);
    assert!(!end.unfinished.is_empty());
    assert_eq!(inner.seen().count(), 8, "nothing is sent past it");
}

#[tokio::test]
async fn a_row_that_stops_the_run_for_want_of_a_price_is_not_sent() {
    let inner = Scripted::new(|_, _| (Duration::ZERO, ok()));
    let pool = ParallelPool::new(inner.clone(), priced());
    let mut last = item(1);
    last.request.model = "unpriced".into();
    let items = stream::iter([Ok(item(0)), Ok(last)]);
    let tape = Arc::new(Tape::default());
    let run = pool.run(items, tape.clone(), CancellationToken::new());
    let (_, end) = collect(run).await;
    assert_eq!(stopped_by(&end).kind(), ErrorKind::ConfigInvalid);
    assert!(
        end.unfinished
            .iter()
            .any(|row| row.row == 1 && row.attempts == 0)
    );
    assert!(!tape.entries().contains(&Entry::Intent(1, 1)));
}

#[tokio::test(start_paused = true)]
async fn a_87_an_attempt_that_takes_far_longer_than_others_is_told_once() {
    let provider = Scripted::new(|row, _| (SECOND * if row == 5 { 300 } else { 1 }, ok()));
    let told = Arc::new(Mutex::new(Vec::new()));
    let pool = ParallelPool::new(provider, options(4));
    let mut run = pool.run(rows(50), Arc::new(NoLog), CancellationToken::new());
    let events = run.events();
    let (_, end) = collect(run).await;
    assert!(is_complete(&end));
    let events: Vec<_> = events.collect().await;
    for event in &events {
        if let Event::AttemptSlow { row, running, .. } = &**event {
            told.lock().unwrap().push((*row, *running));
        }
    }
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    let (row, running) = told[0];
    assert_eq!(row, 5);
    assert!(
        running > SECOND * 60 && running <= SECOND * 76,
        "{running:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_87_what_hangs_beside_the_call_is_told_too() {
    // Not the call but the log: no attempt's bound ends that.
    let tape = Arc::new(Tape {
        outcome_takes: SECOND * 200,
        ..Tape::default()
    });
    let pool = ParallelPool::new(
        Scripted::new(|_, _| (SECOND, ok())),
        options(4).with_attempt_timeout(SECOND * 30),
    );
    let mut run = pool.run(rows(4), tape, CancellationToken::new());
    let events = run.events();
    let (finished, _) = collect(run).await;
    assert_eq!(finished.len(), 4);
    let events: Vec<_> = events.collect().await;
    let slow = events
        .iter()
        .filter(|event| event.as_str() == "attempt_slow");
    assert_eq!(slow.count(), 4);
}

#[tokio::test(start_paused = true)]
async fn ax_7_ids_that_are_not_unique_are_told_once_and_all_answered() {
    let warnings = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&warnings);
    let pool = ParallelPool::new(Scripted::new(|_, _| (SECOND, ok())), options(4)).with_observer(
        move |event: &Event| {
            if matches!(event, Event::Warned(Warning::DuplicateId { .. })) {
                count.fetch_add(1, SeqCst);
            }
        },
    );
    let requests = (0..30).map(|row| item(row % 10).request);
    let summary = pool.run_all(requests).await;
    assert_eq!((summary.succeeded(), summary.by_id().len()), (30, 10));
    assert_eq!(warnings.load(SeqCst), 1);
    pool.run_all((0..30).map(|row| item(row).request)).await;
    assert_eq!(warnings.load(SeqCst), 1);
}
