//! A ladder of models and temperatures that is climbed for answers that do not fit, and for nothing else: a fault of the
//! network says nothing about the model. Compare `model_escalation`, where a lost answer is a step as well.

#![expect(clippy::print_stdout, reason = "what a program prints is its output")]

use batchwright::{
    core::{CallOptions, ChatProvider, RetryPolicy},
    emulator::{Emulator, EmulatorConfig, Face, FaultAction, FaultRule, Nth, Reply},
    openai::OpenAiBuilder,
    realtime::{
        Climb, Closure, Executed, Ladder, ParallelPool, PoolOptions, Rung, Structured, WorkItem,
        prompts,
    },
};
use batchwright_example_strategies::{Misfit, Shown, lines_of, misfit, must};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

const CHEAP: &str = "gpt-4.1-nano";
const DEAR: &str = "gpt-4.1";

/// The model and the temperature of each call, by row.
type Calls = Arc<Mutex<BTreeMap<String, Vec<(String, Option<f64>)>>>>;

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

    let calls = Calls::default();
    let ladder = Ladder::new(
        Arc::new(noted(openai, Arc::clone(&calls))),
        [
            Rung::of_model(CHEAP).with_temperature(0.0)?,
            Rung::of_model(CHEAP).with_temperature(0.7)?,
            Rung::of_model(DEAR).with_temperature(0.2)?,
        ],
    )?
    .with_climb(Climb::InvalidOutput);
    let strategy = Structured::<Verdict>::new(Arc::new(ladder))?;
    let mut retry = RetryPolicy::default();
    retry.initial = std::time::Duration::from_millis(100);
    let options = PoolOptions::default().with_retry(retry);
    let pool = ParallelPool::with_strategy(Arc::new(strategy), options);

    let questions =
        ["easy", "odd", "hard", "busy", "cut"].map(|id| (id, format!("A question that is {id}.")));
    let items: Vec<WorkItem<Verdict>> = prompts(CHEAP, questions).collect();
    let summary = pool.run_all(items).await;
    let known = summary
        .outputs()
        .filter(|(_, verdict)| !verdict.reason.is_empty());
    must(known.count() == 5, "every row was answered")?;

    let calls = calls.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (id, calls) in &calls {
        println!("{id}: {calls:?}");
    }
    let (cold, warm) = ((CHEAP.to_owned(), Some(0.0)), (CHEAP.to_owned(), Some(0.7)));
    let dear = (DEAR.to_owned(), Some(0.2));
    must(
        calls["easy"] == [cold.clone()],
        "what works stays on the first rung",
    )?;
    must(
        calls["odd"] == [cold.clone(), warm.clone()],
        "an answer that does not fit is a step",
    )?;
    must(
        calls["hard"] == [cold.clone(), warm, dear],
        "two of them are two steps",
    )?;
    must(
        calls["busy"] == [cold.clone(), cold.clone()],
        "a server error is no step",
    )?;
    must(
        calls["cut"] == [cold.clone(), cold],
        "a lost answer is no step",
    )?;

    let lines = lines_of(&emulator.invoice().await?, [CHEAP, DEAR]);
    println!("invoice: {lines:?} lines of {CHEAP} and {DEAR}");
    // The call that met a server error was not billed, the one whose answer was lost was.
    must(lines == [8, 1], "the dear model was asked once")?;
    emulator.shutdown().await;
    Ok(())
}

/// Calls the provider and notes with what: any asynchronous function is a strategy.
fn noted(provider: impl ChatProvider + 'static, calls: Calls) -> Closure {
    let provider = Arc::new(provider);
    Closure::new(provider.name().to_owned(), move |request, turn| {
        let (provider, calls) = (Arc::clone(&provider), Arc::clone(&calls));
        async move {
            let call = (request.model.clone(), request.sampling.temperature());
            calls
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(request.custom_id.clone())
                .or_default()
                .push(call);
            let options = CallOptions::default().with_timeout(turn.timeout);
            Ok(Executed::from(provider.complete(&request, &options).await?))
        }
    })
}

/// The easy question has no fault.
fn faults() -> Vec<FaultRule> {
    let on = |about: &str, action| {
        let mut rule = FaultRule::on("POST", "/openai/v1/chat/completions")
            .nth(Nth::One(1))
            .action(action);
        rule.matches.body_contains = Some(about.to_owned());
        rule
    };
    vec![
        on("that is busy", FaultAction::Reply(Reply::status(503))),
        on("that is cut", FaultAction::CommitThenDrop),
        misfit(Misfit::OpenAi, "that is odd", Some(1), "I am not sure."),
        misfit(Misfit::OpenAi, "that is hard", Some(2), "I am not sure."),
    ]
}
