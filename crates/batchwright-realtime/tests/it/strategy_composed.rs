//! Strategies around one another, shared by many items.

use crate::{
    double::{SECOND, is_complete, options, stopped_by},
    strategy_double::{Asked, prices, request, run_rows, said, turns},
};
use async_trait::async_trait;
use batchwright_core::{
    Ending, Error, ErrorKind, Money, Request, Response, Result, RetryPolicy, Usage,
};
use batchwright_realtime::{
    Adapted, Attempt, Cached, Executed, ItemState, Ladder, Next, Scope, Strategy, Structured,
    Timed, Validated, WorkItem,
};
use futures::{StreamExt, stream};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How often row `row` is answered wrongly: as random as it needs to be, and the same each time.
fn misfits(row: &str, seed: u64) -> usize {
    let mut hasher = DefaultHasher::new();
    (row, seed).hash(&mut hasher);
    (hasher.finish() % 5) as usize
}

#[tokio::test(start_paused = true)]
async fn a_16_a_41_a_42_ax_98_items_that_share_a_strategy_never_share_their_state() {
    for seed in 0..8 {
        // Each row is answered with its own name, after some answers that name it and do not fit.
        let asked = Asked::new(move |request, nth| {
            let row = &request.custom_id;
            let takes = Duration::from_millis(10 + misfits(row, seed + 99) as u64 * 7);
            let answer = if nth <= misfits(row, seed) {
                format!(r#"{{"row":"{row}","wrong":{nth}}}"#)
            } else {
                format!(r#"{{"row":"{row}","n":{nth}}}"#)
            };
            (takes, Ok(said(&answer)))
        });
        let schema = json!({
            "type": "object",
            "properties": {"row": {"type": "string"}, "n": {"type": "integer"}},
            "required": ["row", "n"],
            "additionalProperties": false,
        });
        let models: Vec<String> = (0..6).map(|tier| format!("tier-{tier}")).collect();
        let ladder = Ladder::models(asked.direct(), models.clone()).unwrap();
        let ladder: Arc<dyn Strategy<Output = Response>> = Arc::new(ladder);
        let strategy = Validated::new(ladder, &schema).unwrap();
        let mut retry = RetryPolicy::default();
        retry.max_invalid_retries = 3;
        let models: Vec<&str> = models.iter().map(|model| &**model).collect();
        let options = options(64).with_retry(retry).with_prices(prices(&models));
        let (finished, end) = run_rows(Arc::new(strategy), options, 400).await;
        assert!(is_complete(&end));
        for row in finished {
            let name = row.row.to_string();
            let wrong = misfits(&name, seed);
            let (attempts, provenance) = ((wrong + 1).min(4), &row.outcome.provenance);
            assert_eq!(provenance.attempts as usize, attempts);
            assert_eq!(row.outcome.ending.is_success(), wrong < 4);
            let discarded = wrong.min(4) as u64;
            let known = (discarded > 0).then(|| Usage::of(100 * discarded, 10 * discarded));
            assert_eq!(provenance.discarded_usage, known.unwrap_or_default());
            let paid = 200e-6 * attempts as f64;
            assert_eq!(provenance.cost, Money::from_dollars(paid));
            let tier = format!("tier-{}", attempts - 1);
            if wrong < 4 {
                assert_eq!(provenance.model.as_deref(), Some(&*tier));
            }
            for (index, request) in asked.seen(&name).iter().enumerate() {
                assert_eq!(request.model, format!("tier-{index}"));
                let turns = turns(request);
                if index == 0 {
                    assert_eq!(turns.len(), 1);
                } else {
                    assert_eq!(turns[1].1, format!(r#"{{"row":"{name}","wrong":{index}}}"#));
                }
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, JsonSchema, Deserialize)]
struct Colour {
    name: String,
}

#[tokio::test(start_paused = true)]
async fn a_16_a_32_a_33_a_40_a_44_all_of_them_around_one_another() {
    let asked = Asked::new(|request, nth| {
        let is_adapted = turns(request)[0].1 == "adapted";
        let answer = match (nth, is_adapted) {
            (1, false) => Err(Error::new(ErrorKind::ProviderFault, "scripted")),
            (2, true) => Ok(said("none")),
            (3, true) => Ok(said("{\"name\":\"red\"}")),
            _ => Err(Error::new(ErrorKind::Unexpected, "not as composed")),
        };
        (SECOND, answer)
    });
    let ladder = Ladder::temperatures(asked.direct(), [0.0, 0.5, 1.0]).unwrap();
    let timed = Arc::new(Timed::new(Arc::new(ladder)));
    let structured = Structured::<Colour>::new(timed.clone()).unwrap();
    let adapted = Adapted::new(Arc::new(structured), |request, error, _| {
        (error.kind() == ErrorKind::ProviderFault).then(|| {
            Request::chat(
                request.custom_id.clone(),
                "other",
                [batchwright_core::Message::user("adapted")],
            )
        })
    });
    let cached: Arc<dyn Strategy<Output = Colour>> =
        Arc::new(Cached::in_memory(Arc::new(adapted), 10));
    let (finished, end) = run_rows(cached.clone(), options(1), 3).await;
    assert!(is_complete(&end));
    for row in &finished {
        let Ending::Succeeded(colour) = &row.outcome.ending else {
            panic!("{:?}", row.outcome)
        };
        assert_eq!(colour.name, "red");
    }
    let requests = asked.seen("0");
    let temperatures: Vec<_> = requests
        .iter()
        .map(|request| request.sampling.temperature())
        .collect();
    assert_eq!(temperatures, [Some(0.0), Some(0.5), Some(1.0)]);
    let models: Vec<&str> = requests.iter().map(|request| &*request.model).collect();
    assert_eq!(models, ["small", "other", "other"]);
    // Tells of the answer that did not fit, behind the changed question.
    assert_eq!(turns(&requests[2]).len(), 3);
    assert_eq!(
        finished[0].outcome.provenance.model.as_deref(),
        Some("other")
    );
    // The others are answered by the cache, although the first one's answer came from another model.
    assert!(
        finished[1..]
            .iter()
            .all(|row| row.outcome.provenance.cached)
    );
    let seen = timed.snapshot();
    assert_eq!((seen.failed, seen.answered), (1, 2));
}

/// Counts what it is called for.
#[derive(Default)]
struct Counted {
    prepared: AtomicUsize,
    cleaned: AtomicUsize,
    errors: AtomicUsize,
    fails_prepare: bool,
    fails: Option<ErrorKind>,
}

#[async_trait]
impl Strategy for Counted {
    type Output = Response;

    fn scope<'a>(&'a self, request: &'a Request, _state: &'a mut ItemState) -> Scope<'a> {
        Scope::new("counted", &request.model)
    }

    async fn prepare(&self) -> Result<()> {
        self.prepared.fetch_add(1, SeqCst);
        tokio::time::sleep(SECOND).await;
        if self.fails_prepare {
            return Err(Error::new(ErrorKind::Connect, "reach it"));
        }
        Ok(())
    }

    async fn execute(&self, _request: &Request, _attempt: &mut Attempt<'_>) -> Result<Executed> {
        assert_eq!(self.prepared.load(SeqCst), 1);
        assert_eq!(self.cleaned.load(SeqCst), 0);
        tokio::time::sleep(SECOND).await;
        match self.fails {
            Some(kind) => Err(Error::new(kind, "scripted")),
            None => Ok(said("{\"name\":\"red\"}").into()),
        }
    }

    async fn on_error(&self, _: &Request, _: &Error, _: &mut Attempt<'_>) -> Next {
        self.errors.fetch_add(1, SeqCst);
        Next::GiveUp
    }

    async fn cleanup(&self) {
        self.cleaned.fetch_add(1, SeqCst);
    }
}

/// Everything there is around `inner`.
fn wrapped(inner: Arc<Counted>) -> Arc<dyn Strategy<Output = Colour>> {
    let timed = Timed::new(inner);
    let ladder = Ladder::models(Arc::new(timed), ["a", "b"]).unwrap();
    let validated = Validated::new(Arc::new(ladder), &json!({"type": "object"})).unwrap();
    let structured = Structured::<Colour>::new(Arc::new(validated)).unwrap();
    let adapted = Adapted::new(Arc::new(structured), |_, _, _| None);
    Arc::new(Cached::in_memory(Arc::new(adapted), 1))
}

#[tokio::test(start_paused = true)]
async fn a_18_a_20_a_21_ax_267_what_is_within_is_prepared_and_cleaned_once_also_where_the_run_fails()
 {
    // Errors that end rows, an error that ends the run, and none.
    for fails in [
        None,
        Some(ErrorKind::InvalidRequest),
        Some(ErrorKind::QuotaExceeded),
    ] {
        let counted = Arc::new(Counted {
            fails,
            ..Counted::default()
        });
        let options = options(64).with_identical_failures(0);
        let (finished, _) = run_rows(wrapped(counted.clone()), options, 200).await;
        assert_eq!(counted.prepared.load(SeqCst), 1);
        assert_eq!(counted.cleaned.load(SeqCst), 1);
        match fails {
            None => assert_eq!(finished.len(), 200),
            Some(_) => assert!(
                counted.errors.load(SeqCst) > 0,
                "the error got lost on its way in"
            ),
        }
        // What the innermost decides, holds.
        if let Some(kind) = fails {
            for row in finished {
                let error = row.outcome.error().unwrap();
                assert_eq!((error.kind(), row.outcome.provenance.attempts), (kind, 1));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_18_what_cannot_be_prepared_is_neither_used_nor_cleaned() {
    let counted = Arc::new(Counted {
        fails_prepare: true,
        ..Counted::default()
    });
    let (finished, end) = run_rows(wrapped(counted.clone()), options(8), 20).await;
    assert!(finished.is_empty());
    assert!(stopped_by(&end).message().contains("prepare"), "{end:?}");
    assert_eq!(counted.cleaned.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_21_a_run_that_is_stopped_by_its_caller_cleans_up_too() {
    let counted = Arc::new(Counted::default());
    let pool =
        batchwright_realtime::ParallelPool::with_strategy(wrapped(counted.clone()), options(2));
    let rows = stream::iter((0..1000).map(|row| Ok(WorkItem::new(row, request(&row.to_string())))));
    let stop = CancellationToken::new();
    let mut run = pool.run(rows, Arc::new(batchwright_realtime::NoLog), stop.clone());
    assert!(run.next().await.is_some());
    stop.cancel();
    while run.next().await.is_some() {}
    assert_eq!(counted.cleaned.load(SeqCst), 1);
}
