//! Direct calls of Gemini, in the order of the source, with a system message, and with what each row cost.

#![expect(clippy::print_stdout, reason = "what a program prints is its output")]

use batchwright::{
    core::{Message, PriceTable, Request, Sampling},
    emulator::{Emulator, EmulatorConfig, Face},
    gemini::GeminiBuilder,
    realtime::{EndReason, ParallelPool, PoolOptions},
};
use batchwright_example_strategies::{Shown, must};
use futures::StreamExt;
use std::sync::Arc;

const CITIES: [&str; 6] = ["Lisbon", "Oslo", "Quito", "Accra", "Hanoi", "Perth"];

#[tokio::main]
async fn main() -> Shown {
    let emulator = Emulator::start(EmulatorConfig::default()).await?;
    // With an account: `Gemini::new(GeminiConfig::from_env(std::env::vars())?)?`.
    let gemini = GeminiBuilder::new("no-key")
        .base_url(emulator.base_url(Face::Gemini))
        .build()?;
    let options = PoolOptions::default().with_prices(Arc::new(PriceTable::builtin()));
    let pool = ParallelPool::new(Arc::new(gemini), options);

    let sampling = Sampling::new().with_temperature(0.2)?;
    let request = |city: &str| {
        let messages = [
            Message::system("Answer in one sentence."),
            Message::user(format!("What is {city} known for?")),
        ];
        Request::chat(city, "gemini-2.5-flash", messages).with_sampling(sampling.clone())
    };

    // One call alone has the same patience as a run.
    println!("{}", pool.call(request("Turin")).await?.text());

    // As a stream, in the order of the source: at most 100 rows wait for a slow one before them.
    let mut rows = pool.run_iter(CITIES.map(&request)).in_order(100);
    let mut order = Vec::new();
    while let Some(row) = rows.next().await {
        let response = row.outcome.response().ok_or("a row was not answered")?;
        let cost = row.outcome.provenance.cost.ok_or("a price is missing")?;
        println!("{cost}  {}", response.text());
        order.push(row.outcome.custom_id);
    }
    must(order == CITIES, "answers came in the order of the source")?;

    let end = rows.run().ended().ok_or("the stream has not ended")?;
    must(
        matches!(end.reason, EndReason::Completed),
        "the run completed",
    )?;
    let invoice = emulator.invoice().await?;
    // The first line is that of the call alone.
    let billed: f64 = invoice[1..].iter().map(|line| line.price_usd).sum();
    println!(
        "{} for {} rows; billed ${billed:.6}",
        end.spent.cost,
        order.len()
    );
    must(
        invoice.len() == 1 + CITIES.len(),
        "each row was bought once",
    )?;
    must(
        (end.spent.cost.as_dollars() - billed).abs() < 1e-9,
        "the cost counted is what was billed",
    )?;
    emulator.shutdown().await;
    Ok(())
}
