//! Middleware, post-processors, classifiers and dry runs.

use crate::double::{
    Entry, SECOND, Scripted, Tape, collect, fail, is_complete, item, ok, options, rows, run_all,
};
use async_trait::async_trait;
use batchwright_core::{
    Ending, Error, ErrorKind, Outcome, Request, Response, Result, RetryClass, Usage,
};
use batchwright_realtime::{
    Attempt, Entering, Executed, Flow, HookOptions, ItemState, Middleware, NoLog, ParallelPool,
    PostProcessor, Recovery, Scope, Strategy, WorkItem,
};
use futures::{StreamExt, stream};
use proptest::prelude::*;
use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

type Notes = Arc<Mutex<Vec<String>>>;

/// Notes what it sees, and marks what passes.
struct Noting(&'static str, Notes);

#[async_trait]
impl Middleware for Noting {
    async fn before(&self, item: &mut Entering<'_>) -> Result<Flow> {
        let note = format!("{} before {}", self.0, item.request.model);
        self.1.lock().unwrap().push(note);
        item.request.model.push_str(self.0);
        Ok(Flow::Pass)
    }

    async fn after(&self, _row: u64, request: &Request, output: Response) -> Result<Response> {
        let note = format!("{} after {} {}", self.0, request.model, output.text());
        self.1.lock().unwrap().push(note);
        Ok(Response::from_text(format!("{}{}", output.text(), self.0)))
    }

    async fn on_error(&self, _row: u64, _request: &Request, error: Error) -> Recovery {
        let note = format!("{} error {}", self.0, error.message());
        self.1.lock().unwrap().push(note);
        Recovery::Error(error.context(self.0))
    }
}

#[tokio::test(start_paused = true)]
async fn a_70_a_72_middlewares_are_an_onion_and_see_an_item_once() {
    let provider = Scripted::new(|row, nth| match (row, nth) {
        (0, 1) => (SECOND, fail(ErrorKind::Overloaded)),
        (0, _) => (SECOND, ok()),
        _ => (SECOND, fail(ErrorKind::InvalidRequest)),
    });
    let notes = Notes::default();
    let pool = ParallelPool::new(provider, options(1))
        .with_middleware(Noting("+", notes.clone()))
        .with_middleware(Noting("-", notes.clone()));
    let tape = Arc::new(Tape::default());
    let run = pool.run(rows(2), tape.clone(), CancellationToken::new());
    let (finished, end) = collect(run).await;
    assert!(is_complete(&end));
    assert_eq!(
        *notes.lock().unwrap(),
        [
            "+ before small",
            "- before small+",
            "- after small+- fine",
            "+ after small+- fine-",
            "+ before small",
            "- before small+",
            "- error scripted",
            "+ error -: scripted",
        ]
    );
    let answer = finished[0].outcome.response().unwrap();
    assert_eq!((answer.text().as_str(), finished[0].index), ("fine-+", 0));
    assert_eq!(
        finished[0].outcome.provenance.model.as_deref(),
        Some("small+-")
    );
    let error = finished[1].outcome.error().unwrap();
    assert_eq!(error.message(), "+: -: scripted");
    assert_eq!(
        tape.outcomes(),
        [0, 1],
        "what was made of it is what is recorded"
    );
}

/// A middleware that does with rows what their numbers say.
struct Unruly;

#[async_trait]
impl Middleware for Unruly {
    async fn before(&self, item: &mut Entering<'_>) -> Result<Flow> {
        match item.row {
            0 => return Ok(Flow::Drop),
            1 => panic!("on purpose"),
            2 => pending().await,
            3 => return Err(Error::new(ErrorKind::InvalidRequest, "like it")),
            4 => item.request.custom_id = "other".into(),
            _ => {}
        }
        Ok(Flow::Pass)
    }

    async fn after(&self, row: u64, _request: &Request, output: Response) -> Result<Response> {
        match row {
            5 => panic!("on purpose"),
            6 => pending().await,
            7 => Err(Error::new(ErrorKind::InvalidOutput, "like the answer")),
            _ => Ok(output),
        }
    }

    async fn on_error(&self, row: u64, _request: &Request, error: Error) -> Recovery {
        match row {
            8 => panic!("on purpose"),
            9 => pending().await,
            10 | 11 => Recovery::Success(Response::from_text("a substitute")),
            _ => Recovery::Error(error),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_middleware_that_drops_panics_or_hangs_ends_its_item_alone() {
    let provider = Scripted::new(|row, _| match row {
        8..=10 => (SECOND, fail(ErrorKind::InvalidRequest)),
        11 => (SECOND, fail(ErrorKind::ProviderFault)),
        _ => {
            let mut answer = Response::from_text("fine");
            answer.usage = Usage::of(3, 4);
            (SECOND, Ok(answer))
        }
    });
    let mut options = options(3);
    options.hooks = HookOptions::default().with_middleware_timeout(5 * SECOND);
    let pool = ParallelPool::new(provider.clone(), options).with_middleware(Unruly);
    let run = pool.run(rows(14), Arc::new(NoLog), CancellationToken::new());
    let (mut finished, end) = collect(run).await;
    assert!(is_complete(&end));
    finished.sort_by_key(|row| row.row);
    let codes: Vec<_> = finished
        .iter()
        .map(|row| match row.outcome.error() {
            None => "fine",
            Some(error) => error.code().unwrap_or("its own"),
        })
        .collect();
    let expected = [
        "middleware_dropped",
        "middleware_failed",
        "middleware_failed",
        "its own",
        "middleware_failed",
        "middleware_failed",
        "middleware_failed",
        "its own",
        "middleware_failed",
        "middleware_failed",
        "fine",
        "fine",
        "fine",
        "fine",
    ];
    assert_eq!(codes, expected);
    for row in &finished[..5] {
        assert_eq!(row.outcome.provenance.attempts, 0);
        assert_eq!(row.outcome.custom_id, row.row.to_string());
        assert!(
            !provider.seen().sends.contains_key(&row.row),
            "nothing was sent"
        );
    }
    // What was paid is told, though the answer is lost.
    for row in &finished[5..8] {
        assert_eq!(row.usage, Usage::of(3, 4));
        assert_eq!(row.outcome.provenance.discarded_usage, Usage::of(3, 4));
    }
    // The substitute hides two attempts that may have been billed.
    assert_eq!(finished[11].outcome.provenance.possibly_paid_attempts, 2);
    assert_eq!(end.possibly_paid_attempts, 2);
    assert_eq!(finished[10].outcome.provenance.possibly_paid_attempts, 0);
}

#[tokio::test(start_paused = true)]
async fn rows_a_middleware_holds_are_handed_back_by_a_stop() {
    struct Slow;
    #[async_trait]
    impl Middleware for Slow {
        async fn before(&self, _item: &mut Entering<'_>) -> Result<Flow> {
            sleep(10 * SECOND).await;
            Ok(Flow::Pass)
        }
    }
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    let pool = ParallelPool::new(provider.clone(), options(4)).with_middleware(Slow);
    let stop = CancellationToken::new();
    let mut run = pool.run(rows(100), Arc::new(NoLog), stop.clone());
    let (finished, end) = tokio::join!(
        async {
            let finished: Vec<_> = run.by_ref().collect().await;
            finished
        },
        async {
            sleep(15 * SECOND).await;
            stop.cancel();
        }
    );
    let () = end;
    assert_eq!(finished.len(), 4);
    let end = run.ended().unwrap();
    let unfinished: Vec<_> = end.unfinished.iter().map(|row| row.row).collect();
    assert_eq!(unfinished, [4, 5, 6, 7]);
    assert_eq!(run.progress().taken, 8);
    assert_eq!(provider.seen().count(), 4);
}

/// Keeps what it is shown.
struct Keeping(Notes);

#[async_trait]
impl PostProcessor for Keeping {
    async fn process(&self, row: u64, outcome: &Outcome) -> Result<()> {
        let note = format!("{row} {}", outcome.ending.as_str());
        self.0.lock().unwrap().push(note);
        match row {
            1 => panic!("on purpose"),
            2 => pending().await,
            3 => Err(Error::new(ErrorKind::Storage, "save it")),
            _ => Ok(()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_63_a_post_processor_that_breaks_is_counted_and_breaks_nothing() {
    let provider = Scripted::new(|row, _| match row {
        4 => (SECOND, fail(ErrorKind::InvalidRequest)),
        _ => (SECOND, ok()),
    });
    let (notes, seen) = (Notes::default(), Notes::default());
    let sync = seen.clone();
    let pool = ParallelPool::new(provider, options(1))
        .with_post_processor(Keeping(notes.clone()))
        .with_post_processor(move |row: u64, _: &Outcome| {
            sync.lock().unwrap().push(row.to_string());
            Ok(())
        });
    let begun = Instant::now();
    let mut run = pool.run(rows(5), Arc::new(NoLog), CancellationToken::new());
    let meter = run.meter();
    let mut finished = Vec::new();
    while let Some(row) = run.next().await {
        let last = notes.lock().unwrap().last().cloned().unwrap();
        assert!(
            last.starts_with(&row.row.to_string()),
            "seen before it is shown"
        );
        finished.push(row);
    }
    assert_eq!(
        *notes.lock().unwrap(),
        [
            "0 succeeded",
            "1 succeeded",
            "2 succeeded",
            "3 succeeded",
            "4 failed"
        ]
    );
    assert_eq!(
        seen.lock().unwrap().len(),
        5,
        "what breaks in one is not another's"
    );
    assert_eq!(meter.metrics().post_process_failures, 3);
    assert_eq!(meter.metrics().succeeded, 4);
    // Five calls, and the default of 90 s for the one that hangs.
    assert_eq!(begun.elapsed().as_secs(), 95);
}

#[tokio::test(start_paused = true)]
async fn a_83_a_classifier_on_top_of_the_provider_decides() {
    let provider = Scripted::new(|row, nth| match (row, nth) {
        (0, 1) => (
            SECOND,
            Err(Error::new(ErrorKind::Conflict, "busy").with_status(409)),
        ),
        (1, _) => (SECOND, Err(Error::new(ErrorKind::InvalidRequest, "bad"))),
        _ => (SECOND, ok()),
    });
    let pool = ParallelPool::new(provider, options(2)).with_classifier(|error: Error| match error
        .status()
    {
        Some(409) => error.with_class(RetryClass::Rejected),
        _ => panic!("on purpose"),
    });
    let run = pool.run(rows(3), Arc::new(NoLog), CancellationToken::new());
    let (mut finished, end) = collect(run).await;
    assert!(is_complete(&end));
    finished.sort_by_key(|row| row.row);
    assert_eq!(finished[0].outcome.provenance.attempts, 2);
    let broken = finished[1].outcome.error().unwrap();
    assert_eq!(broken.code(), Some("classifier_failed"));
    assert!(finished[2].outcome.ending.is_success());
}

#[tokio::test(start_paused = true)]
async fn a_60_a_dry_run_sends_nothing_and_calls_the_rest() {
    let provider = Scripted::new(|_, _| unreachable!("nothing is sent"));
    let notes = Notes::default();
    let pool = ParallelPool::new(provider.clone(), options(2).with_dry_run(true))
        .with_middleware(Noting("+", Notes::default()))
        .with_post_processor(Keeping(notes.clone()));
    let tape = Arc::new(Tape::default());
    let run = pool.run(
        stream::iter([Ok(item(0)), Ok(item(5))]),
        tape.clone(),
        CancellationToken::new(),
    );
    let (finished, end) = collect(run).await;
    assert!(is_complete(&end));
    for row in &finished {
        assert!(
            row.outcome
                .response()
                .unwrap()
                .text()
                .starts_with("dry run: ")
        );
        assert_eq!(row.outcome.provenance.attempts, 0);
        assert!(row.usage.is_unknown());
    }
    assert_eq!(tape.entries(), Vec::<Entry>::new(), "nothing is recorded");
    assert_eq!(notes.lock().unwrap().len(), 2);
    assert_eq!(provider.seen().count(), 0);
}

/// Panics where it is asked.
struct Panicking(&'static str);

#[async_trait]
impl Strategy for Panicking {
    type Output = Response;

    fn scope<'a>(&'a self, request: &'a Request, _state: &'a mut ItemState) -> Scope<'a> {
        assert!(self.0 != "scope", "on purpose");
        Scope::new("p", &request.model)
    }

    async fn execute(&self, _request: &Request, attempt: &mut Attempt<'_>) -> Result<Executed> {
        if attempt.number == 1 {
            return Err(Error::new(ErrorKind::Overloaded, "busy"));
        }
        panic!("on purpose")
    }

    fn dry_run(&self, _request: &Request) -> Result<Executed> {
        panic!("on purpose")
    }
}

#[tokio::test(start_paused = true)]
async fn a_strategy_that_panics_anywhere_ends_its_item_alone() {
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    for dry_run in [false, true] {
        let pool = ParallelPool::new(provider.clone(), options(2).with_dry_run(dry_run));
        let items = ["scope", "execute"].map(|at| {
            let row = u64::from(at == "execute");
            Ok(item(row).with_strategy(Arc::new(Panicking(at))))
        });
        let items = stream::iter(items).chain(stream::iter([Ok(item(2))]));
        let run = pool.run(items, Arc::new(NoLog), CancellationToken::new());
        let (mut finished, end) = collect(run).await;
        assert!(is_complete(&end));
        finished.sort_by_key(|row| row.row);
        for row in &finished[..2] {
            assert_eq!(row.outcome.error().unwrap().kind(), ErrorKind::Unexpected);
        }
        assert!(finished[2].outcome.ending.is_success());
    }
}

/// Drops, changes and breaks by the row's number.
struct Random(Vec<u8>);

impl Random {
    fn of(&self, row: u64) -> u8 {
        self.0[usize::try_from(row).unwrap() % self.0.len()]
    }
}

#[async_trait]
impl Middleware for Random {
    async fn before(&self, item: &mut Entering<'_>) -> Result<Flow> {
        match self.of(item.row) {
            0 => Ok(Flow::Drop),
            1 => panic!("on purpose"),
            2 => pending().await,
            3 => Err(Error::new(ErrorKind::InvalidRequest, "like it")),
            4 => {
                item.request.model = "large".into();
                Ok(Flow::Pass)
            }
            5 => {
                sleep(3 * SECOND).await;
                Ok(Flow::Pass)
            }
            _ => Ok(Flow::Pass),
        }
    }

    async fn after(&self, row: u64, _request: &Request, output: Response) -> Result<Response> {
        match self.of(row) {
            6 => panic!("on purpose"),
            7 => pending().await,
            _ => Ok(output),
        }
    }

    async fn on_error(&self, row: u64, _request: &Request, error: Error) -> Recovery {
        match self.of(row) {
            8 => Recovery::Success(Response::from_text("a substitute")),
            9 => panic!("on purpose"),
            _ => Recovery::Error(error),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// I1: every accepted item ends once, or is handed back by a run that was stopped.
    #[test]
    fn every_item_ends_once_whatever_middlewares_do(
        outer in proptest::collection::vec(0_u8..20, 1..12),
        inner in proptest::collection::vec(0_u8..20, 1..7),
        answers in proptest::collection::vec(0_u8..5, 1..9),
        places in 1_usize..6,
        stop_after in proptest::option::of(0_u64..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let provider = Scripted::new(move |row, nth| {
                let at = usize::try_from(row).unwrap() + nth;
                match answers[at % answers.len()] {
                    0 => (SECOND, fail(ErrorKind::Overloaded)),
                    1 => (SECOND, fail(ErrorKind::ProviderFault)),
                    2 => (SECOND, fail(ErrorKind::ContextTooLong)),
                    _ => (SECOND / 2, ok()),
                }
            });
            let mut options = options(places)
                .with_identical_failures(0)
                .with_extra_paid(1.0, 1000);
            options.retry.max_attempts = Some(4);
            options.hooks.middleware_timeout = 7 * SECOND;
            let pool = ParallelPool::new(provider, options)
                .with_middleware(Random(outer))
                .with_middleware(Random(inner));
            let stop = CancellationToken::new();
            let run = pool.run(rows(40), Arc::new(NoLog), stop.clone());
            let stopping = async {
                if let Some(after) = stop_after {
                    sleep(Duration::from_millis(after * 100)).await;
                    stop.cancel();
                }
            };
            // It checks that each row taken ended exactly once or was handed back.
            let ((finished, end), ()) = tokio::join!(collect(run), stopping);
            if stop_after.is_none() {
                assert!(is_complete(&end), "{end:?}");
                assert_eq!(finished.len(), 40);
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_middleware_rows_go_straight_in() {
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    let begun = Instant::now();
    let (finished, _) = run_all(&provider, options(5), 20).await;
    assert_eq!((finished.len(), begun.elapsed()), (20, 4 * SECOND));
    let mut places: Vec<_> = finished.iter().map(|row| row.index).collect();
    places.sort_unstable();
    assert_eq!(places, (0..20).collect::<Vec<_>>());
}

/// A middleware may change how a row is answered; limits are those of where it goes then.
#[tokio::test(start_paused = true)]
async fn ax_183_a_middleware_may_change_the_strategy() {
    struct Fixed;
    #[async_trait]
    impl Strategy for Fixed {
        type Output = Response;
        fn scope<'a>(&'a self, _: &'a Request, _: &'a mut ItemState) -> Scope<'a> {
            Scope::new("fixed", "none")
        }
        async fn execute(&self, _: &Request, _: &mut Attempt<'_>) -> Result<Executed> {
            Ok(Executed::new(Response::from_text("fixed")).with_usage(Usage::of(1, 2)))
        }
    }
    struct Change;
    #[async_trait]
    impl Middleware for Change {
        async fn before(&self, item: &mut Entering<'_>) -> Result<Flow> {
            if item.row == 1 {
                *item.strategy = Some(Arc::new(Fixed));
            }
            Ok(Flow::Pass)
        }
    }
    let provider = Scripted::new(|_, _| (SECOND, ok()));
    let pool = ParallelPool::new(provider.clone(), options(2)).with_middleware(Change);
    let summary = pool
        .run_all([item(0), item(1), WorkItem::from(item(2).request)])
        .await;
    let outputs: Vec<_> = summary.into_input_order().results;
    let providers: Vec<_> = outputs
        .iter()
        .map(|row| row.outcome.provenance.provider.as_deref().unwrap())
        .collect();
    assert_eq!(providers, ["scripted", "fixed", "scripted"]);
    assert!(
        matches!(&outputs[1].outcome.ending, Ending::Succeeded(answer) if answer.text() == "fixed")
    );
    assert_eq!(outputs[1].usage, Usage::of(1, 2));
    assert_eq!(provider.seen().count(), 2);
}
