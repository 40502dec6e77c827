//! Direct calls of Anthropic, while its servers are overloaded (529) now and then: a call that was refused unserved costs
//! nothing and is made again.

#![expect(clippy::print_stdout, reason = "what a program prints is its output")]

use batchwright::{
    anthropic::AnthropicBuilder,
    core::{Message, PriceTable, Request, Sampling},
    emulator::{Emulator, EmulatorConfig, Face, FaultAction, FaultRule, Nth, Reply},
    realtime::{ParallelPool, PoolOptions},
};
use batchwright_example_strategies::{Shown, agrees, must};
use serde_json::json;
use std::sync::Arc;

#[tokio::main]
async fn main() -> Shown {
    let overloaded = Reply::status(529).with_body(json!({
        "type": "error",
        "error": {"type": "overloaded_error", "message": "Overloaded"},
    }));
    let fault = FaultRule::on("POST", "/anthropic/v1/messages")
        .nth(Nth::Each(vec![2, 5]))
        .action(FaultAction::Reply(overloaded));
    let emulator = Emulator::start(EmulatorConfig::default().with_faults(vec![fault])).await?;
    // With an account: `Anthropic::new(AnthropicConfig::from_env(std::env::vars())?)?`.
    let anthropic = AnthropicBuilder::new("no-key")
        .base_url(emulator.base_url(Face::Anthropic))
        .build()?;

    let options = PoolOptions::default()
        .with_max_in_flight(4)
        .with_prices(Arc::new(PriceTable::builtin()));
    let pool = ParallelPool::new(Arc::new(anthropic), options);

    let short = Sampling::new().with_max_output_tokens(200)?;
    let requests = ["oak", "elm", "ash", "fir", "yew", "box", "bay", "fig"].map(|tree| {
        let messages = [
            Message::system("You are a forester. Answer in one sentence."),
            Message::user(format!("What is the wood of the {tree} good for?")),
        ];
        Request::chat(tree, "claude-haiku-4-5", messages).with_sampling(short.clone())
    });
    let summary = pool.run_all(requests).await;
    for (tree, answer) in summary.outputs() {
        println!("{tree}: {}", answer.text());
    }
    println!("{summary}");

    agrees(&emulator, &summary).await?;
    let refused = summary.metrics.retries.rejected;
    must(refused == 2, "two calls were refused and made again")?;
    must(
        summary.end.possibly_paid_attempts == 0,
        "nothing may have been paid twice",
    )?;
    emulator.shutdown().await;
    Ok(())
}
