//! All strategies in one run: each row brings its own, and the pool's limits, retries and counts are for all of them.

#![expect(clippy::print_stdout, reason = "what a program prints is its output")]

use batchwright::{
    anthropic::AnthropicBuilder,
    core::{ErrorKind, Message, Payload, PriceTable, Request, Response, Usage},
    emulator::{Emulator, EmulatorConfig, Face, FaultAction, FaultRule, Reply},
    openai::OpenAiBuilder,
    realtime::{
        Adapted, Blocking, Cached, Closure, Direct, Executed, Fallback, Ladder, LoadBalancer,
        ParallelPool, Place, PoolOptions, Rung, Strategy, Timed, Validated, WorkItem,
    },
};
use batchwright_example_strategies::{Misfit, Shown, misfit, must};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

type Answers = Arc<dyn Strategy<Output = Response>>;

const MODEL: &str = "gpt-4o-mini";
/// How many calls each strategy is billed for.
const BILLED: [(&str, usize); 11] = [
    ("adapted", 2),
    ("balanced", 1),
    ("blocking", 0),
    ("cached-1", 1),
    ("cached-2", 0),
    ("closure", 0),
    ("direct", 1),
    ("fallback", 1),
    ("ladder", 1),
    ("timed", 1),
    ("validated", 2),
];

#[tokio::main]
async fn main() -> Shown {
    let emulator = Emulator::start(EmulatorConfig::default().with_faults(faults())).await?;
    let openai = Arc::new(
        OpenAiBuilder::new("no-key")
            .base_url(emulator.base_url(Face::OpenAi))
            .build()?,
    );
    let anthropic = Arc::new(
        AnthropicBuilder::new("no-key")
            .base_url(emulator.base_url(Face::Anthropic))
            .build()?,
    );
    let schema = json!({
        "type": "object",
        "properties": {"use": {"type": "string"}},
        "required": ["use"],
        "additionalProperties": false,
    });

    // One call of one provider, with the request as it is. All others stand around it, or in its place.
    let direct: Answers = Arc::new(Direct::new(openai.clone()));
    // The same question is sent once, also where it is asked twice at the same time.
    let cached: Answers = Arc::new(Cached::in_memory(direct.clone(), 100).with_single_flight());
    // Where one place cannot answer, another does.
    let fallback = Fallback::new([
        Place::new(anthropic).with_model("claude-haiku-4-5"),
        Place::new(openai.clone()).with_model(MODEL),
    ]);
    // Deployments that share the load.
    let balanced = LoadBalancer::new([
        Place::new(openai.clone()).with_deployment("east"),
        Place::new(openai).with_deployment("west"),
    ]);
    // Another model or temperature with each attempt that failed.
    let ladder = Ladder::new(
        direct.clone(),
        [
            Rung::of_temperature(0.0)?,
            Rung::of_model("gpt-4o").with_temperature(0.5)?,
        ],
    )?;
    // Answers held to a JSON schema; `Structured` reads them into a Rust type besides.
    let validated: Answers = Arc::new(Validated::new(direct.clone(), &schema)?);
    // Another request after an attempt that failed.
    let adapted = Adapted::new(validated.clone(), |request, error, _attempt| {
        if error.kind() != ErrorKind::InvalidOutput {
            return None;
        }
        let mut shorter = request.clone();
        if let Payload::Chat(chat) = &mut shorter.payload {
            chat.messages.push(Message::user("One word will do."));
        }
        Some(shorter)
    });
    // Functions, asynchronous and blocking, for what no provider of ours does.
    let closure = Closure::new("local", |request: Request, turn| async move {
        let text = format!("{}, attempt {}", request.custom_id, turn.attempt);
        Ok(Executed::new(Response::from_text(text)).with_usage(Usage::of(0, 0)))
    });
    let blocking = Blocking::new("local", 2, |request: Request, _turn| {
        std::thread::sleep(Duration::from_millis(5));
        let text = format!("{}, on a thread", request.custom_id);
        Ok(Executed::new(Response::from_text(text)).with_usage(Usage::of(0, 0)))
    });
    // How long calls take, whatever they are.
    let timed = Arc::new(Timed::new(direct.clone()));

    let strategies: [(&str, Answers); 11] = [
        ("direct", direct.clone()),
        ("cached-1", cached.clone()),
        ("cached-2", cached),
        ("fallback", Arc::new(fallback)),
        ("balanced", Arc::new(balanced)),
        ("ladder", Arc::new(ladder)),
        ("validated", validated),
        ("adapted", Arc::new(adapted)),
        ("closure", Arc::new(closure)),
        ("blocking", Arc::new(blocking)),
        ("timed", timed.clone()),
    ];
    let items = strategies.map(|(name, strategy)| {
        // What is cached is told by the question, not by its id.
        let about = name.trim_end_matches(|c: char| c == '-' || c.is_numeric());
        let question = [Message::user(format!("What is {about} good for?"))];
        WorkItem::from(Request::chat(name, MODEL, question)).with_strategy(strategy)
    });
    let options = PoolOptions::default().with_prices(Arc::new(PriceTable::builtin()));
    // The pool's own strategy is for rows that bring none.
    let pool = ParallelPool::with_strategy(direct, options);
    let summary = pool.run_all(items).await;
    let by_id = summary.by_id();
    for (name, row) in &by_id {
        let came = &row.outcome.provenance;
        println!(
            "{name:<10} {} attempts, {:<24} {}",
            came.attempts,
            if came.cached {
                "from the cache"
            } else {
                came.model.as_deref().unwrap_or("")
            },
            row.outcome
                .response()
                .map(Response::text)
                .unwrap_or_default(),
        );
    }
    println!("{summary}");

    must(
        summary.succeeded() == BILLED.len(),
        "every strategy answered",
    )?;
    let invoice = emulator.invoice().await?;
    let mut by_face: BTreeMap<&str, usize> = BTreeMap::new();
    for line in &invoice {
        *by_face.entry(line.face.as_str()).or_default() += 1;
    }
    let billed = BILLED.iter().map(|(_, calls)| calls).sum();
    println!("invoice: {by_face:?}");
    must(
        by_face == BTreeMap::from([("openai", billed)]),
        "each call was bought once",
    )?;
    let cached = ["cached-1", "cached-2"].map(|name| by_id[name].outcome.provenance.cached);
    must(
        cached[0] != cached[1],
        "of the same question asked twice one came from the cache",
    )?;
    let fallback = &by_id["fallback"].outcome.provenance;
    must(
        fallback.provider.as_deref() == Some("openai"),
        "where one place is down another answers",
    )?;
    must(
        ["validated", "adapted"]
            .iter()
            .all(|name| by_id[name].outcome.provenance.attempts == 2),
        "what did not fit was asked for again",
    )?;
    must(
        timed.snapshot().count() == 1,
        "the call that was timed is known",
    )?;
    emulator.shutdown().await;
    Ok(())
}

/// Anthropic is down, and the model does not keep to the schema at first.
fn faults() -> Vec<FaultRule> {
    let mut changed = FaultRule::on("POST", "*").action(FaultAction::SetHeaders(BTreeMap::new()));
    changed.matches.body_contains = Some("One word will do.".to_owned());
    vec![
        FaultRule::on("POST", "/anthropic/v1/messages")
            .action(FaultAction::Reply(Reply::status(529))),
        misfit(
            Misfit::OpenAi,
            "What is validated good for?",
            Some(1),
            "For much.",
        ),
        // The true answer, and only to the request that was changed.
        changed,
        misfit(
            Misfit::OpenAi,
            "What is adapted good for?",
            None,
            "For much.",
        ),
    ]
}
