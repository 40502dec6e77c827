//! The first run of something new: nothing is sent, then eight rows, two at once, with next to no retries and a ceiling
//! of a few cents. What is wrong shows at once, and costs no more than that.
//!
//! With an account, the provider is built from the environment instead
//! (`OpenAi::new(OpenAiConfig::from_env(std::env::vars())?)?`), and all else stays.

#![expect(clippy::print_stdout, reason = "what a program prints is its output")]

use batchwright::{
    core::{Message, Money, PriceTable, Request, RetryPolicy, Sampling},
    emulator::{Emulator, EmulatorConfig, Face},
    openai::{OpenAi, OpenAiBuilder},
    realtime::{Event, ParallelPool, PoolOptions, SpendOptions},
};
use batchwright_example_strategies::{Shown, agrees, must};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

const ROWS: usize = 8;
/// What the true run will have.
const ALL_ROWS: u32 = 10_000;

#[tokio::main]
async fn main() -> Shown {
    let emulator = Emulator::start(EmulatorConfig::default()).await?;
    let openai = OpenAiBuilder::new("no-key")
        .base_url(emulator.base_url(Face::OpenAi))
        .build()?;

    println!("Nothing is sent:");
    let dry = pool(&openai, careful().with_dry_run(true))
        .run_all(requests()?)
        .await;
    println!("{dry}");
    must(dry.succeeded() == ROWS, "every row went through the pool")?;
    must(emulator.invoice().await?.is_empty(), "nothing was sent")?;

    println!("Eight rows:");
    let failures = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&failures);
    // The first error says more than the summary of a thousand.
    let small = pool(&openai, careful()).with_observer(move |event: &Event| {
        if let Event::AttemptFailed { row, error, .. } = event {
            println!("row {row}: {error}");
            count.fetch_add(1, Relaxed);
        }
    });
    let summary = small.run_all(requests()?).await;
    println!("{summary}");
    let each = summary.metrics.cost.as_dollars() / ROWS as f64;
    println!(
        "{ALL_ROWS} rows like these will cost about ${:.2}",
        each * f64::from(ALL_ROWS)
    );
    agrees(&emulator, &summary).await?;
    must(failures.load(Relaxed) == 0, "no attempt failed")?;
    must(
        emulator.peak_in_flight() <= 2,
        "no more than two calls were open at once",
    )?;

    println!("The same with a key that is refused:");
    let keys = EmulatorConfig::default().with_keys(["another-key"]);
    let strict = Emulator::start(keys).await?;
    let refused = OpenAiBuilder::new("no-key")
        .base_url(strict.base_url(Face::OpenAi))
        .build()?;
    let stopped = pool(&refused, careful()).run_all(requests()?).await;
    println!("{stopped}");
    must(
        !stopped.is_complete() && stopped.succeeded() == 0,
        "the run stopped",
    )?;
    must(
        stopped.metrics.attempts <= 2,
        "what is wrong showed with the first calls",
    )?;
    must(strict.invoice().await?.is_empty(), "it cost nothing")?;
    strict.shutdown().await;
    emulator.shutdown().await;
    Ok(())
}

fn pool(openai: &OpenAi, options: PoolOptions) -> ParallelPool {
    ParallelPool::new(Arc::new(openai.clone()), options)
}

/// Every bound is low. For the true run, leave all of them out but the ceiling.
fn careful() -> PoolOptions {
    let mut retry = RetryPolicy::default();
    retry.max_attempts = Some(2);
    retry.max_ambiguous_retries = 0;
    retry.max_invalid_retries = 0;
    PoolOptions::default()
        .with_max_in_flight(2)
        .with_retry(retry)
        .with_identical_failures(2)
        .with_attempt_timeout(Duration::from_secs(60))
        .with_item_deadline(Some(Duration::from_secs(300)))
        .with_prices(Arc::new(PriceTable::builtin()))
        .with_spend(SpendOptions::default().with_max_cost(Money::from_dollars(0.05)))
}

fn requests() -> Shown<Vec<Request>> {
    let short = Sampling::new().with_max_output_tokens(300)?;
    let request = |row| {
        let question = [Message::user(format!("Name a use for the number {row}."))];
        Request::chat(format!("row-{row}"), "gpt-4o-mini", question).with_sampling(short.clone())
    };
    Ok((0..ROWS).map(request).collect())
}
