//! A chain as a strategy: passages that fit the question are looked up, the model is asked with them, and the answer
//! comes back with its sources. Any asynchronous function can stand in this place, such as another vendor's client or a
//! framework for chains.
//!
//! The emulator's invoice has a hash of each prompt, which shows that the passages were in it.

#![expect(clippy::print_stdout, reason = "what a program prints is its output")]

use batchwright::{
    core::{CallOptions, ChatProvider, Error, ErrorKind, Message, Payload, Request, Result},
    emulator::{Emulator, EmulatorConfig, Face, FaultAction, FaultRule, Nth, Reply, prompt_hash},
    openai::OpenAiBuilder,
    realtime::{Closure, Executed, ParallelPool, PoolOptions, WorkItem, prompts},
};
use batchwright_example_strategies::{Shown, must};
use std::{collections::BTreeSet, sync::Arc};

const PASSAGES: [&str; 5] = [
    "Returns are free within 30 days of delivery.",
    "Delivery takes two days within the country and six days abroad.",
    "A warranty of two years covers faults of material.",
    "Gift cards cannot be returned and do not expire.",
    "The shop is open from nine to six, and closed on Sundays.",
];

const QUESTIONS: [(&str, &str); 4] = [
    ("returns", "How many days do I have for returns?"),
    ("abroad", "How long does delivery abroad take?"),
    ("gift", "Do gift cards expire?"),
    ("sunday", "Is the shop open on Sundays?"),
];

/// What a row's success holds.
struct Answer {
    text: String,
    /// Places in [`PASSAGES`].
    sources: Vec<usize>,
}

#[tokio::main]
async fn main() -> Shown {
    // The second call meets a server error, so one row goes through the chain twice.
    let fault = FaultRule::on("POST", "/openai/v1/chat/completions")
        .nth(Nth::One(2))
        .action(FaultAction::Reply(Reply::status(503)));
    let emulator = Emulator::start(EmulatorConfig::default().with_faults(vec![fault])).await?;
    let openai = OpenAiBuilder::new("no-key")
        .base_url(emulator.base_url(Face::OpenAi))
        .build()?;
    let openai = Arc::new(openai);

    let chain = Closure::new("openai", move |question: Request, turn| {
        let openai = Arc::clone(&openai);
        async move {
            let sources = look_up(asked(&question)?);
            let request = with_passages(&question, &sources)?;
            // An attempt makes one paid call at most: the pool counts attempts, and answers for what is paid twice.
            let options = CallOptions::default().with_timeout(turn.timeout);
            let response = openai.complete(&request, &options).await?;
            Ok(Executed::from(response).map(|response| Answer {
                text: response.text(),
                sources,
            }))
        }
    });
    let pool = ParallelPool::with_strategy(Arc::new(chain), PoolOptions::default());
    let items: Vec<WorkItem<Answer>> = prompts("gpt-4o-mini", QUESTIONS).collect();
    let summary = pool.run_all(items).await.into_input_order();
    for (id, answer) in summary.outputs() {
        println!("{id}: {} (from {:?})", answer.text, answer.sources);
    }

    must(
        summary.succeeded() == QUESTIONS.len(),
        "every question was answered",
    )?;
    let sources: Vec<&[usize]> = summary
        .outputs()
        .map(|(_, answer)| &*answer.sources)
        .collect();
    must(
        sources == [&[0][..], &[1], &[3], &[4]],
        "the passages that fit were found",
    )?;
    must(
        summary.metrics.attempts == 5,
        "one row went through the chain twice",
    )?;
    let sent: BTreeSet<String> = QUESTIONS
        .iter()
        .zip(&sources)
        .map(|((_, question), sources)| prompt_hash([system(sources).as_str(), question]))
        .collect();
    let invoice = emulator.invoice().await?;
    let billed: BTreeSet<String> = invoice
        .iter()
        .map(|line| line.prompt_hash.clone())
        .collect();
    must(invoice.len() == QUESTIONS.len(), "each row was bought once")?;
    must(billed == sent, "the passages were in the prompts")?;
    emulator.shutdown().await;
    Ok(())
}

/// What the row asks.
fn asked(request: &Request) -> Result<&str> {
    let text = match &request.payload {
        Payload::Chat(chat) => chat
            .messages
            .last()
            .and_then(|last| last.content.first()?.as_text()),
        _ => None,
    };
    text.ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidRequest,
            "look up passages: the row asks nothing",
        )
    })
}

/// The passages that share the most long words with the question. A vector search would stand here.
fn look_up(question: &str) -> Vec<usize> {
    let shared = PASSAGES.map(|passage| words(passage).intersection(&words(question)).count());
    let most = shared.iter().copied().max().unwrap_or(0).max(1);
    (0..PASSAGES.len())
        .filter(|at| shared[*at] == most)
        .collect()
}

fn words(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| word.len() > 3)
        .map(str::to_lowercase)
        .collect()
}

fn system(sources: &[usize]) -> String {
    let passages: Vec<&str> = sources.iter().map(|source| PASSAGES[*source]).collect();
    format!("Answer from these passages alone:\n{}", passages.join("\n"))
}

fn with_passages(question: &Request, sources: &[usize]) -> Result<Request> {
    let messages = [
        Message::system(system(sources)),
        Message::user(asked(question)?),
    ];
    Ok(Request::chat(
        question.custom_id.clone(),
        question.model.clone(),
        messages,
    ))
}
