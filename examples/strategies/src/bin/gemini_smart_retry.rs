//! An answer that does not fit is asked for again, and the model is told which fields were right and which were not.
//!
//! The emulator answers wrongly until a request says what was wrong: a program that only asked again would never get its
//! answer.

#![expect(clippy::print_stdout, reason = "what a program prints is its output")]

use batchwright::{
    emulator::{Emulator, EmulatorConfig, Face},
    gemini::GeminiBuilder,
    realtime::{Direct, Event, ParallelPool, PoolOptions, Structured, WorkItem, prompts},
};
use batchwright_example_strategies::{Misfit, Shown, misfit, must};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Person {
    name: String,
    /// Years.
    #[schemars(range(min = 0, max = 130))]
    age: u32,
    email: String,
}

#[tokio::main]
async fn main() -> Shown {
    // Of the rules that are due the first one fires, so later turns of the conversation come first.
    let faults = vec![
        misfit(
            Misfit::Gemini,
            "These fields are right: name.",
            None,
            r#"{"name": "Ada", "age": 36}"#,
        ),
        misfit(
            Misfit::Gemini,
            "- /email: ",
            None,
            r#"{"name": "Ada", "age": 36, "email": "ada@example.org"}"#,
        ),
        misfit(
            Misfit::Gemini,
            "Ada, thirty-six",
            None,
            r#"Of course! {"name": "Ada", "age": 250}"#,
        ),
    ];
    let emulator = Emulator::start(EmulatorConfig::default().with_faults(faults)).await?;
    let gemini = GeminiBuilder::new("no-key")
        .base_url(emulator.base_url(Face::Gemini))
        .build()?;

    let direct = Arc::new(Direct::new(Arc::new(gemini)));
    let strategy = Structured::<Person>::new(direct)?;
    // By default an answer that does not fit is asked for twice more, `RetryPolicy::max_invalid_retries`.
    let rejected = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&rejected);
    let pool = ParallelPool::with_strategy(Arc::new(strategy), PoolOptions::default())
        .with_observer(move |event: &Event| {
            if let Event::AttemptFailed { row, error, .. } = event {
                println!("row {row}: {}", error.message());
                count.fetch_add(1, Relaxed);
            }
        });

    let texts = [
        ("ada", "Who wrote this? Ada, thirty-six, ada@example.org"),
        ("bob", "Who wrote this? Bob, fifty, bob@example.org"),
    ];
    let items: Vec<WorkItem<Person>> = prompts("gemini-2.5-flash", texts).collect();
    let summary = pool.run_all(items).await;
    let attempts: BTreeMap<&str, u32> = summary
        .by_id()
        .into_iter()
        .map(|(id, row)| (id, row.outcome.provenance.attempts))
        .collect();
    let ada = summary.by_id()["ada"].outcome.provenance.discarded_usage;
    for (id, person) in summary.outputs() {
        println!("{id}: {}, {}, {}", person.name, person.age, person.email);
    }
    println!(
        "attempts: {attempts:?}; the answers that were not used cost {:?} tokens",
        ada.total_tokens()
    );

    must(summary.succeeded() == 2, "both rows were answered")?;
    must(
        attempts["ada"] == 3 && attempts["bob"] == 1,
        "only what did not fit was asked for again",
    )?;
    must(
        rejected.load(Relaxed) == 2,
        "an observer saw both answers that did not fit",
    )?;
    must(ada.total_tokens() == Some(60), "what they cost is known")?;
    must(
        emulator.invoice().await?.len() == 4,
        "the invoice has a line for each answer, used or not",
    )?;
    let named = summary
        .outputs()
        .any(|(_, person)| person.email == "ada@example.org" && person.age == 36);
    must(named, "the last answer has all that was asked for")?;
    emulator.shutdown().await;
    Ok(())
}
