//! Requests for two models, cut into four batches and bought through the router; outcomes of all are printed as they
//! come.
//!
//! It talks to the emulator inside this process, so it needs no account and no network, and a batch that takes minutes
//! at a provider takes about a second. With a real account, only the two lines that build the provider differ.

#![expect(clippy::print_stdout, reason = "what a program prints is its output")]

use batchwright::{
    core::{Message, Money, Request, Sampling},
    emulator::{Emulator, EmulatorConfig, Face},
    openai::OpenAiBuilder,
    router::{BatchRequest, BatchRouter, Control, RouterEvent, RouterOptions, RunItem, Split},
};
use futures::StreamExt;
use std::{error::Error, sync::Arc};

const CITIES: [&str; 8] = [
    "Accra", "Bergen", "Cusco", "Dakar", "Esfahan", "Fukuoka", "Graz", "Hanoi",
];
const WORDS: [&str; 6] = ["anvil", "bellows", "crucible", "die", "ember", "forge"];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let emulator = Emulator::start(EmulatorConfig::default()).await?;
    let openai = OpenAiBuilder::new("no-key")
        .base_url(emulator.base_url(Face::OpenAi))
        .build()?;

    // `RouterOptions::default()` suits a real provider: it polls every minute to every five. No batch here holds more
    // than five requests, so that cities and words make two each.
    let options = RouterOptions::for_sandbox().with_split(Split::default().with_requests(5));
    let mut router = BatchRouter::new(options);
    router.register(Arc::new(openai))?;

    let batches = vec![
        BatchRequest::new("openai", about_cities()?).with_metadata("about", "cities"),
        BatchRequest::new("openai", about_words()).with_metadata("about", "words"),
    ];
    let expected = CITIES.len() + WORDS.len();

    // Everything is checked before the first byte is sent: ids, models, endpoints, limits.
    let run = router.run(batches, Control::default())?;
    for batch in run.batches() {
        println!(
            "batch {}: {} requests about {}",
            batch.chunk, batch.requests, batch.metadata["about"]
        );
    }
    let mut items = run.items();
    let (mut succeeded, mut unknown) = (0, 0);
    let mut costs = Vec::new();
    while let Some(item) = items.next().await {
        let row = match item? {
            RunItem::Row(row) => row,
            RunItem::Event(RouterEvent::Sent { chunk, handle }) => {
                println!("batch {chunk} is {} at {}", handle.id, handle.provider);
                continue;
            }
            _ => continue,
        };
        let outcome = row.outcome;
        let text = outcome
            .response()
            .map(|response| response.text())
            .unwrap_or_default();
        println!(
            "{:<14} {:<9} {text}",
            outcome.custom_id,
            outcome.ending.as_str()
        );
        succeeded += usize::from(outcome.ending.is_success());
        match outcome.provenance.cost {
            Some(cost) => costs.push(cost),
            None => unknown += 1,
        }
    }

    // The emulator's own invoice says what was bought, whatever the router believes.
    let billed = emulator.invoice().await?.len();
    let total: Money = costs.into_iter().sum();
    println!("{succeeded} of {expected} rows succeeded; {billed} were billed");
    println!("total {total}; {unknown} rows of unknown cost");
    emulator.shutdown().await;
    if (succeeded, billed, unknown) == (expected, expected, 0) {
        Ok(())
    } else {
        Err("not every row was answered and billed once".into())
    }
}

fn about_cities() -> Result<Vec<Request>, batchwright::core::Error> {
    let sampling = Sampling::new()
        .with_temperature(0.2)?
        .with_max_output_tokens(60)?;
    Ok(CITIES
        .iter()
        .map(|city| {
            let question = Message::user(format!("In one sentence, what is {city} known for?"));
            Request::chat(format!("city-{city}"), "gpt-4o-mini", [question])
                .with_sampling(sampling.clone())
        })
        .collect())
}

fn about_words() -> Vec<Request> {
    WORDS
        .iter()
        .map(|word| {
            let question = Message::user(format!("Use the word {word} in a sentence."));
            Request::chat(format!("word-{word}"), "gpt-4.1-mini", [question])
        })
        .collect()
}
