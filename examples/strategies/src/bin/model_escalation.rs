//! A dearer model with each attempt that failed, whatever the model may have had to do with it. That the endpoint was
//! busy is no step: a busy hour makes no run dear.

#![expect(clippy::print_stdout, reason = "what a program prints is its output")]

use batchwright::{
    core::RetryPolicy,
    emulator::{Emulator, EmulatorConfig, Face, FaultAction, FaultRule, Nth, Reply},
    openai::OpenAiBuilder,
    realtime::{Climb, Direct, Ladder, ParallelPool, PoolOptions, Structured, WorkItem, prompts},
};
use batchwright_example_strategies::{Misfit, Shown, lines_of, misfit, must};
use std::sync::Arc;

const MODELS: [&str; 3] = ["gpt-4.1-nano", "gpt-4.1-mini", "gpt-4.1"];

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Verdict {
    reason: String,
}

#[tokio::main]
async fn main() -> Shown {
    let emulator = Emulator::start(EmulatorConfig::default().with_faults(faults())).await?;
    let openai = OpenAiBuilder::new("no-key")
        .base_url(emulator.base_url(Face::OpenAi))
        .build()?;

    let direct = Arc::new(Direct::new(Arc::new(openai)));
    let ladder = Ladder::models(direct, MODELS)?.with_climb(Climb::EveryFailure);
    // What does not fit is found around the ladder, so that it hears of it.
    let strategy = Structured::<Verdict>::new(Arc::new(ladder))?;
    let mut retry = RetryPolicy::default();
    retry.initial = std::time::Duration::from_millis(100);
    let options = PoolOptions::default().with_retry(retry);
    let pool = ParallelPool::with_strategy(Arc::new(strategy), options);

    let questions =
        ["easy", "hard", "busy", "cut"].map(|id| (id, format!("A question that is {id}.")));
    // The model asked for does not matter: every rung names one.
    let items: Vec<WorkItem<Verdict>> = prompts(MODELS[0], questions).collect();
    let summary = pool.run_all(items).await;
    for (id, row) in summary.by_id() {
        let came = &row.outcome.provenance;
        println!(
            "{id}: {} attempts, answered by {}",
            came.attempts,
            came.model.as_deref().unwrap_or("nobody")
        );
    }
    let known = summary
        .outputs()
        .filter(|(_, verdict)| !verdict.reason.is_empty());
    must(known.count() == 4, "every row was answered")?;

    let answered_by = |id: &str| summary.by_id()[id].outcome.provenance.model.clone();
    let is_by = |id, model| answered_by(id).as_deref() == Some(model);
    must(
        is_by("easy", MODELS[0]),
        "what works stays with the cheapest",
    )?;
    must(
        is_by("hard", MODELS[2]),
        "two answers that do not fit are two steps",
    )?;
    must(is_by("busy", MODELS[0]), "a rate limit is no step")?;
    must(is_by("cut", MODELS[1]), "an answer that was lost is a step")?;

    let invoice = emulator.invoice().await?;
    let lines = lines_of(&invoice, MODELS);
    println!("invoice: {lines:?} lines of {MODELS:?}");
    must(
        lines == [4, 2, 1],
        "each model was asked as often as the ladder says",
    )?;
    // The pool cannot know whether the lost answer is billed; here it is.
    let possibly = summary.end.possibly_paid_attempts;
    must(
        possibly == 1,
        "the attempt whose answer was lost is counted",
    )?;
    emulator.shutdown().await;
    Ok(())
}

/// The easy question has no fault.
fn faults() -> Vec<FaultRule> {
    let mut busy = FaultRule::on("POST", "/openai/v1/chat/completions")
        .nth(Nth::Each(vec![1, 2]))
        .action(FaultAction::Reply(
            Reply::status(429).with_header("retry-after-ms", "50"),
        ));
    busy.matches.body_contains = Some("that is busy".to_owned());
    let mut cut = FaultRule::on("POST", "/openai/v1/chat/completions")
        .nth(Nth::One(1))
        .action(FaultAction::CommitThenDrop);
    cut.matches.body_contains = Some("that is cut".to_owned());
    let hard = misfit(Misfit::OpenAi, "that is hard", Some(2), "I am not sure.");
    vec![busy, cut, hard]
}
