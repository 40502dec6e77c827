//! Reviews read into a Rust type by OpenAI: the schema comes from the type, and a value of the type comes back.

#![expect(clippy::print_stdout, reason = "what a program prints is its output")]

use batchwright::{
    core::PriceTable,
    emulator::{Emulator, EmulatorConfig, Face},
    openai::OpenAiBuilder,
    realtime::{Direct, ParallelPool, PoolOptions, Structured, WorkItem, prompts},
};
use batchwright_example_strategies::{Shown, agrees, must};
use std::sync::Arc;

/// What is read from a review. Comments become the schema's descriptions, which the model reads.
#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Review {
    /// Whether the buyer is content.
    is_positive: bool,
    /// How content, from 0 to 100.
    score: u8,
    /// What the review is about, in a word.
    subject: String,
}

#[tokio::main]
async fn main() -> Shown {
    let emulator = Emulator::start(EmulatorConfig::default()).await?;
    // With an account: `OpenAi::new(OpenAiConfig::from_env(std::env::vars())?)?`.
    let openai = OpenAiBuilder::new("no-key")
        .base_url(emulator.base_url(Face::OpenAi))
        .build()?;

    // `strict` makes the vendor hold the model to the schema; the answer is held to it here all the same.
    let direct = Arc::new(Direct::new(Arc::new(openai)));
    let strategy = Structured::<Review>::new(direct)?.with_strict(true);
    let options = PoolOptions::default().with_prices(Arc::new(PriceTable::builtin()));
    let pool = ParallelPool::with_strategy(Arc::new(strategy), options);

    // The third value is the caller's own, and comes back with the outcome.
    let reviews = [
        (
            "lamp",
            "Bright, cheap, and still working after a year.",
            2024,
        ),
        ("kettle", "It leaked on the second day.", 2025),
        ("chair", "Comfortable, though it creaks.", 2026),
    ];
    let items: Vec<WorkItem<Review, i32>> = prompts("gpt-4o-mini", reviews).collect();
    let summary = pool.run_all(items).await.into_input_order();
    for (id, review) in summary.outputs() {
        let mood = if review.is_positive {
            "content"
        } else {
            "not content"
        };
        println!(
            "{id}: {mood}, {} of 100, on {}",
            review.score, review.subject
        );
    }
    println!("{summary}");

    agrees(&emulator, &summary).await?;
    let read = summary
        .outputs()
        .filter(|(_, review)| !review.subject.is_empty());
    must(
        read.count() == reviews.len(),
        "each answer was read into the type",
    )?;
    let years: Vec<i32> = summary.results.iter().map(|row| row.context).collect();
    must(
        years == [2024, 2025, 2026],
        "what is the caller's came back in the order of the source",
    )?;
    emulator.shutdown().await;
    Ok(())
}
