//! A provider that Batchwright has never heard of, in its router: two batches, outcomes printed as they come.
//!
//! Quillmere runs inside this process, so this needs no account and no network, and a press that takes minutes takes
//! about a second.

#![expect(clippy::print_stdout, reason = "what a program prints is its output")]

#[path = "../tests/server/mod.rs"]
mod server;

use batchwright_core::{Message, Request};
use batchwright_example_custom_provider::{Quillmere, QuillmereConfig};
use batchwright_router::{BatchRequest, BatchRouter, Control, RouterOptions};
use batchwright_testkit::Double;
use futures::StreamExt;
use server::{Server, VOICE};
use std::{error::Error, sync::Arc};

const INKS: [&str; 6] = ["oak gall", "lampblack", "sepia", "madder", "indigo", "soot"];
const PAPERS: [&str; 5] = ["vellum", "rag", "rice", "birch bark", "[[refuse]]"];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::start(120).await;
    let config = QuillmereConfig::new("no-key").with_base_url(server.base_url());
    let quillmere = Quillmere::new(config)?;

    // `RouterOptions::default()` suits a real provider: it polls every minute to every five.
    let mut router = BatchRouter::new(RouterOptions::for_sandbox());
    router.register(Arc::new(quillmere))?;

    let batches = vec![
        BatchRequest::new("quillmere", about("ink", &INKS)),
        BatchRequest::new("quillmere", about("paper", &PAPERS)),
    ];
    let mut run = router.run(batches, Control::default())?;
    let (mut succeeded, mut refused) = (0, 0);
    while let Some(outcome) = run.next().await {
        let outcome = outcome?;
        let answer = outcome.response().map(|response| response.text());
        println!(
            "{:<18} {:<9} {}",
            outcome.custom_id,
            outcome.ending.as_str(),
            answer.unwrap_or_default()
        );
        match outcome.ending.as_str() {
            "succeeded" => succeeded += 1,
            "refused" => refused += 1,
            _ => {}
        }
    }

    // The server's own bill says what was bought, whatever the router believes.
    let billed = server.invoice().await.len();
    println!("{succeeded} rows succeeded, {refused} was refused; {billed} were billed");
    if (succeeded, refused, billed) == (10, 1, 11) {
        Ok(())
    } else {
        Err("not every row was answered and billed once".into())
    }
}

fn about(kind: &str, things: &[&str]) -> Vec<Request> {
    things
        .iter()
        .map(|thing| {
            let question = Message::user(format!("What is the {kind} {thing} good for?"));
            Request::chat(format!("{kind}: {thing}"), VOICE, [question])
        })
        .collect()
}
