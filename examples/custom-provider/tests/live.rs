//! The cases for a live account, with the server of the tests in its place: what they buy there is what they would buy.

#![allow(clippy::unwrap_used, reason = "tests")]

mod server;

use batchwright_core::PriceTable;
use batchwright_example_custom_provider::{Quillmere, QuillmereConfig};
use batchwright_testkit::{Double, Live, Made, Subject, cases};
use server::{Server, VOICE};

const PRICES: &str = r#"{"quillmere:quill-1": {"realtime": {"input": 2, "output": 8},
    "batch": {"input": 1, "output": 4}, "as_of": "2026-11-01", "source": "https://quillmere.example"}}"#;

fn account(base_url: &str, cap: &'static str) -> Subject {
    let mut prices = PriceTable::builtin();
    prices.overlay(PRICES).unwrap();
    let live = Live::new("quillmere", "QUILLMERE_KEY", base_url)
        .with_prices(prices)
        .with_variables(move |name| {
            let value = match name {
                "BATCHWRIGHT_LIVE" => "quillmere",
                "BATCHWRIGHT_LIVE_MAX_USD" => cap,
                _ => "a-key",
            };
            Some(value.to_owned())
        });
    Subject::live("live", live, VOICE, |place| {
        let config = QuillmereConfig::new(&place.key).with_base_url(&place.base_url);
        Ok(Made::both(Quillmere::new(config)?))
    })
}

#[tokio::test]
async fn a_live_account_is_called_within_the_cap() {
    let server = Server::start(3600).await;
    let subject = account(&server.base_url(), "0.10");
    let mut ran = 0;
    for case in cases() {
        if case.ignored(&subject).is_none() {
            case.run(&subject).await;
            ran += 1;
        }
    }
    assert_eq!(ran, 5, "an ask, an unknown voice, two batches, an upload");
    // A million tokens are 8 dollars at most, so these are far below ten cents.
    let billed = server.invoice().await;
    let tokens = billed
        .iter()
        .map(|one| one.input_tokens + one.output_tokens);
    assert!((1..1000).contains(&tokens.sum::<u64>()), "{billed:?}");
}

#[tokio::test]
async fn nothing_that_costs_runs_without_a_cap_for_it() {
    let server = Server::start(3600).await;
    let subject = account(&server.base_url(), "0.001");
    for case in cases() {
        if case.ignored(&subject).is_none() {
            case.run(&subject).await;
        }
    }
    assert!(server.invoice().await.is_empty(), "an upload is free");
}
