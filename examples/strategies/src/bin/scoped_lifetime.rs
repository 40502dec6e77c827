//! What a strategy opens for a run is closed with it: `prepare` before the first attempt, `cleanup` after the last one,
//! also where the run is stopped. Here that is a long context stored at Gemini, which costs money for as long as it is
//! stored, and a session of a strategy of our own around it.

#![expect(clippy::print_stdout, reason = "what a program prints is its output")]

use async_trait::async_trait;
use batchwright::{
    core::{Chat, Error, Message, Request, Response, Result},
    emulator::{Emulator, EmulatorConfig, Face},
    gemini::{GeminiBuilder, NewCache},
    realtime::{
        Attempt, CallPoolOptions, Direct, EndReason, Executed, ItemState, Next, NoLog,
        ParallelPool, PoolOptions, Scope, Strategy, WithContext, WorkItem, prompts,
    },
};
use batchwright_example_strategies::{Shown, must};
use futures::{StreamExt, stream};
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

const MODEL: &str = "gemini-2.5-flash";
const ROWS: u64 = 6;

/// A strategy around another: it opens something for each run, and closes it.
struct Session {
    inner: WithContext,
    open: AtomicI64,
    opened: AtomicU64,
}

#[async_trait]
impl Strategy for Session {
    type Output = Response;

    fn scope<'a>(&'a self, request: &'a Request, state: &'a mut ItemState) -> Scope<'a> {
        self.inner.scope(request, state)
    }

    async fn prepare(&self) -> Result<()> {
        self.inner.prepare().await?;
        self.open.fetch_add(1, Relaxed);
        self.opened.fetch_add(1, Relaxed);
        println!("  opened");
        Ok(())
    }

    async fn execute(&self, request: &Request, attempt: &mut Attempt<'_>) -> Result<Executed> {
        self.inner.execute(request, attempt).await
    }

    // Whatever stands around another strategy passes errors on, so that it can mend what is its own: `WithContext`
    // stores a context anew that is gone.
    async fn on_error(&self, request: &Request, error: &Error, attempt: &mut Attempt<'_>) -> Next {
        self.inner.on_error(request, error, attempt).await
    }

    async fn cleanup(&self) {
        self.open.fetch_sub(1, Relaxed);
        self.inner.cleanup().await;
        println!("  closed");
    }
}

#[tokio::main]
async fn main() -> Shown {
    let config = EmulatorConfig::default().with_latency(Duration::from_millis(5));
    let emulator = Emulator::start(config).await?;
    let gemini = GeminiBuilder::new("no-key")
        .base_url(emulator.base_url(Face::Gemini))
        .build()?;
    // Every prompt begins with it. Stored, it is read at a tenth of the price.
    let handbook =
        "A forester walks the forest twice a year, and writes down what is ill. ".repeat(100);
    let chat = Chat::new([Message::system(handbook)]);
    let context = gemini.context(NewCache::new(MODEL, chat, Duration::from_secs(600)))?;
    let direct = Arc::new(Direct::new(Arc::new(gemini)));
    let session = Arc::new(Session {
        inner: WithContext::new(direct, Arc::new(context)),
        open: AtomicI64::new(0),
        opened: AtomicU64::new(0),
    });
    let pool = ParallelPool::with_strategy(
        Arc::<Session>::clone(&session),
        PoolOptions::default().with_max_in_flight(2),
    );

    println!("A run to its end:");
    let questions = (0..ROWS).map(|row| format!("What does chapter {row} say?"));
    let items: Vec<WorkItem> = prompts(MODEL, questions).collect();
    let summary = pool.run_all(items).await;
    println!("  {} of {ROWS} answered", summary.succeeded());
    must(summary.succeeded() as u64 == ROWS, "every row was answered")?;
    must(
        summary.cache_hit_rate() > 0.9,
        "nearly all of the prompts was read from the stored context",
    )?;
    stored_and_deleted(&emulator, &session, 1)?;

    println!("A run that is stopped after its second row:");
    let stop = CancellationToken::new();
    let rows = stream::iter((0..1_000).map(|row| {
        let question = [Message::user(format!("What does page {row} say?"))];
        Ok(WorkItem::new(
            row,
            Request::chat(row.to_string(), MODEL, question),
        ))
    }));
    let mut run = pool.run(rows, Arc::new(NoLog), stop.clone());
    let mut answered = 0;
    while run.next().await.is_some() {
        answered += 1;
        if answered == 2 {
            stop.cancel();
        }
    }
    println!("  {answered} answered");
    let end = run.ended().ok_or("the stream has not ended")?;
    must(
        matches!(end.reason, EndReason::Cancelled),
        "the run was stopped",
    )?;
    must(answered < 1_000, "it was stopped early")?;
    stored_and_deleted(&emulator, &session, 2)?;

    println!("A pool that the callers of a server share, until it is closed:");
    let shared = pool.shared(CallPoolOptions::default());
    let call = |page: u32| {
        let question = [Message::user(format!(
            "What does the note on page {page} say?"
        ))];
        shared.submit(Request::chat(format!("note-{page}"), MODEL, question))
    };
    let (one, other) = tokio::join!(call(1), call(2));
    must(
        !one?.text().is_empty() && !other?.text().is_empty(),
        "both callers were answered",
    )?;
    must(
        session.open.load(Relaxed) == 1,
        "both callers share one session",
    )?;
    shared.close().await;
    let late = shared
        .submit(Request::chat(
            "late",
            MODEL,
            [Message::user("Still there?")],
        ))
        .await;
    must(
        late.is_err_and(|error| error.code() == Some("closed")),
        "a closed pool takes no calls",
    )?;
    stored_and_deleted(&emulator, &session, 3)?;

    // A line for each context stored, and one for each answer.
    let lines = emulator.invoice().await?.len() as u64;
    println!("invoice: {lines} lines");
    must(
        lines == 3 + ROWS + answered + 2,
        "each row was bought once, and each context",
    )?;
    emulator.shutdown().await;
    Ok(())
}

/// So many sessions were opened and so many contexts stored, and none of them is left.
fn stored_and_deleted(emulator: &Emulator, session: &Session, runs: u64) -> Shown {
    must(
        session.opened.load(Relaxed) == runs,
        "each run opened one session",
    )?;
    must(session.open.load(Relaxed) == 0, "none is left open")?;
    let report = session.inner.report();
    must(report.created == runs, "each run stored the context once")?;
    let deleted = emulator.calls("DELETE", "/gemini/{version}/cachedContents/{cache_id}");
    must(deleted == runs, "each stored context was deleted")
}
