//! One run of the pool, in a process of its own.

use crate::{
    ClientArgs,
    case::{BURST, Case, RATE},
};
use anyhow::{Result, bail};
use async_trait::async_trait;
use batchwright_benches::peak_rss;
use batchwright_core::{Message, Outcome, Request, RetryPolicy};
use batchwright_ledger::OutcomeRecord;
use batchwright_provider_openai::OpenAi;
use batchwright_realtime::{
    DispatchLog, EndReason, ParallelPool, PoolOptions, RateLimitOptions, ScopeOptions, WorkItem,
};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{BufWriter, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub(crate) const KEY: &str = "sk-benchmark-0123456789abcdef";

/// What a run took.
#[derive(Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) seconds: f64,
    /// Rows without an answer.
    pub(crate) failed: u64,
    /// Rows with another row's answer.
    pub(crate) wrong: u64,
    pub(crate) peak_rss: u64,
}

pub(crate) async fn run(args: ClientArgs) -> Result<Taken> {
    let case = args.setting.case;
    let provider = OpenAi::builder(KEY)
        .base_url(&args.base_url)
        .max_in_flight(case.concurrency())
        .build()?;
    let pool = ParallelPool::new(Arc::new(provider), options(case));
    // The case of memory fills a prompt of 2 KB.
    let filling = if case == Case::Memory { 1_900 } else { 60 };
    let rows = stream::iter((0..args.rows).map(move |row| {
        let text = format!("row {row} {}", "x".repeat(filling));
        let request = Request::chat(format!("row-{row}"), "gpt-5-mini", [Message::user(text)]);
        Ok(WorkItem::new(row, request))
    }));
    let file = tempfile::tempfile()?;
    let log = Arc::new(ResultsFile(Mutex::new(BufWriter::new(file))));
    let begun = Instant::now();
    let mut run = pool.run(rows, log, CancellationToken::new());
    let (mut failed, mut wrong, mut seen) = (0, 0, 0u64);
    while let Some(finished) = run.next().await {
        seen += 1;
        match finished.outcome.response() {
            None => failed += 1,
            Some(response) => {
                let text = response.text();
                let named = text.split(' ').nth(1).and_then(|row| row.parse().ok());
                wrong += u64::from(named != Some(finished.row));
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    match run.ended().map(|end| &end.reason) {
        Some(EndReason::Completed) if seen == args.rows => {}
        reason => bail!("the run did not complete: {reason:?}"),
    }
    Ok(Taken {
        seconds,
        failed,
        wrong,
        peak_rss: peak_rss(std::process::id())?,
    })
}

fn options(case: Case) -> PoolOptions {
    let mut options = PoolOptions::default().with_max_in_flight(case.concurrency());
    if case == Case::Told {
        let told = RateLimitOptions::default()
            .with_requests_per_minute(Some(RATE * 60.0))
            .with_burst(Some(BURST));
        options = options.with_scope(ScopeOptions::default().with_rate_limit(told));
    }
    if case == Case::Faults {
        // By default one attempt that may be paid twice is allowed a row, and one in 20 rows of a run; here seven in a
        // hundred fail so, and each is to be answered.
        let mut retry = RetryPolicy::default();
        retry.max_ambiguous_retries = 10;
        options = options.with_retry(retry).with_extra_paid(0.2, 100);
    }
    options
}

/// A line for each outcome, in a file nobody waits for.
struct ResultsFile(Mutex<BufWriter<File>>);

#[async_trait]
impl DispatchLog for ResultsFile {
    async fn dispatching(&self, _row: u64, _attempt: u32) -> batchwright_core::Result<()> {
        Ok(())
    }

    async fn finished(&self, row: u64, outcome: &Outcome) -> batchwright_core::Result<()> {
        let mut line = Vec::with_capacity(1024);
        OutcomeRecord::write(row, &outcome.custom_id, outcome, false, &mut line);
        line.push(b'\n');
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line).map_err(|error| {
            batchwright_core::Error::new(
                batchwright_core::ErrorKind::Storage,
                format!("write a result: {error}"),
            )
        })
    }
}
