//! Two hundred direct calls through the parallel pool, while every tenth call is rejected as too fast and five rows meet
//! a server error once.
//!
//! It talks to the emulator inside this process, so it needs no account and no network. The emulator's invoice shows that
//! every row was bought once all the same. An observer counts what went wrong on the way, and the run tells how long rows
//! took.

#![expect(clippy::print_stdout, reason = "what a program prints is its output")]

use batchwright::{
    core::{Message, Money, PriceTable, Request},
    emulator::{Emulator, EmulatorConfig, Face, FaultAction, FaultRule, Nth, Reply},
    openai::OpenAiBuilder,
    realtime::{EndReason, Event, NoLog, ParallelPool, PoolOptions, WorkItem},
};
use futures::{StreamExt, stream};
use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

const ROWS: u64 = 200;

/// Rows whose first attempt meets a server error.
const UNLUCKY: [u64; 5] = [17, 57, 97, 137, 177];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let config = EmulatorConfig::default()
        .with_latency(Duration::from_millis(20))
        .with_faults(faults());
    let emulator = Emulator::start(config).await?;
    let openai = OpenAiBuilder::new("no-key")
        .base_url(emulator.base_url(Face::OpenAi))
        .build()?;

    let options = PoolOptions::default()
        .with_max_in_flight(16)
        .with_prices(Arc::new(PriceTable::builtin()));
    // An observer is called beside the run: a slow one misses events, and harms nothing.
    let cooldowns = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&cooldowns);
    let pool = ParallelPool::new(Arc::new(openai), options).with_observer(move |event: &Event| {
        if matches!(event, Event::CooldownBegan { .. }) {
            counted.fetch_add(1, Relaxed);
        }
    });

    // Rows are made as places in the pool become free: a source of any length needs no more memory.
    let rows = stream::iter((0..ROWS).map(|row| {
        let request = Request::chat(
            format!("row-{row}"),
            "gpt-4o-mini",
            [Message::user(question(row))],
        );
        Ok(WorkItem::new(row, request))
    }));

    // `NoLog` keeps no record; `batchwright::pipeline` gives the pool one on disk, which survives a crash.
    let mut run = pool.run(rows, Arc::new(NoLog), CancellationToken::new());
    let (mut succeeded, mut attempts, mut retried) = (0, 0, 0);
    let mut costs = Vec::new();
    while let Some(finished) = run.next().await {
        let provenance = &finished.outcome.provenance;
        attempts += provenance.attempts;
        retried += u64::from(provenance.attempts > 1);
        costs.extend(provenance.cost);
        match finished.outcome.error() {
            None => succeeded += 1,
            Some(error) => println!("row {} failed to {error}", finished.row),
        }
    }
    let end = run.ended().expect("the stream was read to its end");

    // The emulator's own invoice says what was bought, whatever the pool believes.
    let billed = emulator.invoice().await?.len() as u64;
    let total: Money = costs.into_iter().sum();
    println!(
        "{succeeded} of {ROWS} rows succeeded in {attempts} attempts; {retried} rows needed more than one"
    );
    println!(
        "{} attempts may have been billed besides; the invoice has {billed} lines",
        end.possibly_paid_attempts
    );
    println!("total {total}");
    let metrics = run.metrics();
    println!(
        "{} rate limits made the pool rest {} times; half of the rows took {:?} or less, the slowest {:?}",
        metrics.rate_limits,
        cooldowns.load(Relaxed),
        metrics.latency.p50,
        metrics.latency.max
    );
    emulator.shutdown().await;
    match &end.reason {
        EndReason::Completed if (succeeded, billed) == (ROWS, ROWS) => Ok(()),
        EndReason::Completed => Err("not every row was answered and billed once".into()),
        EndReason::Stopped(error) => Err(error.clone().into()),
        reason => Err(format!("the run ended early: {reason:?}").into()),
    }
}

fn question(row: u64) -> String {
    format!("Name a use for the number {row}.")
}

/// What goes wrong. Of the rules that are due, the first one fires.
fn faults() -> Vec<FaultRule> {
    let calls = "/openai/v1/chat/completions";
    let server_error = UNLUCKY.map(|row| {
        let mut rule = FaultRule::on("POST", calls)
            .nth(Nth::One(1))
            .action(FaultAction::Reply(Reply::status(500)));
        rule.matches.body_contains = Some(question(row));
        rule
    });
    let too_fast = FaultRule::on("POST", calls)
        .nth(Nth::Every { every: 10 })
        .action(FaultAction::Reply(
            Reply::status(429).with_header("retry-after-ms", "100"),
        ));
    server_error.into_iter().chain([too_fast]).collect()
}
