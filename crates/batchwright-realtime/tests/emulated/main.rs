//! Strategies over several places, with real providers against the emulator and its invoice.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use batchwright_core::{Chat, ChatProvider, Message, PriceTable, Request, Response};
use batchwright_emulator::{Emulator, EmulatorConfig, Face, FaultAction, FaultRule, Nth, Reply};
use batchwright_provider_anthropic::Anthropic;
use batchwright_provider_gemini::{Gemini, NewCache};
use batchwright_provider_openai::OpenAi;
use batchwright_realtime::{
    ContextCacheOptions, Direct, EndReason, Fallback, Finished, LoadBalancer, NoLog, ParallelPool,
    Place, PoolOptions, RotatingCredentials, RunEnd, Standing, Strategy, WithContext, WorkItem,
};
use futures::{StreamExt, stream};
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

const GPT: &str = "gpt-4.1-mini";
const CLAUDE: &str = "claude-haiku-4-5";
const FLASH: &str = "gemini-2.5-flash";

async fn start(config: EmulatorConfig) -> Emulator {
    Emulator::start(config.with_time_scale(0.0)).await.unwrap()
}

fn openai(emulator: &Emulator, key: &str) -> Arc<dyn ChatProvider> {
    let builder = OpenAi::builder(key).base_url(emulator.base_url(Face::OpenAi));
    Arc::new(builder.build().unwrap())
}

fn anthropic(emulator: &Emulator) -> Arc<dyn ChatProvider> {
    let builder = Anthropic::builder("key").base_url(emulator.base_url(Face::Anthropic));
    Arc::new(builder.build().unwrap())
}

fn gemini(emulator: &Emulator) -> Gemini {
    let builder = Gemini::builder("key").base_url(emulator.base_url(Face::Gemini));
    builder.build().unwrap()
}

async fn run(
    strategy: Arc<dyn Strategy<Output = Response>>,
    model: &str,
    count: u64,
) -> (Vec<Finished>, RunEnd) {
    let prices = Arc::new(PriceTable::builtin());
    let options = PoolOptions::default().with_prices(prices);
    let pool = ParallelPool::with_strategy(strategy, options);
    let model = model.to_owned();
    let rows = stream::iter((0..count).map(move |row| {
        let message = Message::user(format!("Which number is this: {row}?"));
        let request = Request::chat(row.to_string(), &model, [message]);
        Ok(WorkItem::new(row, request))
    }));
    let mut run = pool.run(rows, Arc::new(NoLog), CancellationToken::new());
    let mut finished = Vec::new();
    while let Some(row) = run.next().await {
        finished.push(row);
    }
    let end = run.ended().unwrap().clone();
    (finished, end)
}

/// Every row ended once and well, and the invoice holds one line for each and no other.
async fn agree(emulator: &Emulator, finished: &[Finished], end: &RunEnd, count: usize) {
    assert!(matches!(end.reason, EndReason::Completed), "{end:?}");
    let rows: BTreeSet<u64> = finished.iter().map(|row| row.row).collect();
    assert_eq!((finished.len(), rows.len()), (count, count));
    for row in finished {
        assert!(row.outcome.ending.is_success(), "{:?}", row.outcome);
    }
    let bill = emulator.invoice().await.unwrap();
    let prompts: BTreeSet<&str> = bill.iter().map(|line| &*line.prompt_hash).collect();
    assert_eq!((bill.len(), prompts.len()), (count, count));
    let outputs: u64 = bill.iter().map(|line| line.output_tokens).sum();
    let usages = finished
        .iter()
        .map(|row| row.outcome.response().unwrap().usage);
    assert_eq!(
        usages
            .map(|usage| usage.output_tokens.unwrap())
            .sum::<u64>(),
        outputs
    );
    assert_eq!(end.possibly_paid_attempts, 0);
}

fn answered_by(finished: &[Finished], provider: &str) -> usize {
    let by = |row: &&Finished| row.outcome.provenance.provider.as_deref() == Some(provider);
    finished.iter().filter(by).count()
}

#[tokio::test]
async fn f_030_rows_of_a_provider_that_is_down_are_answered_and_billed_by_the_other_one() {
    let down =
        FaultRule::on("POST", "/openai/v1/chat/completions").nth(Nth::Range { from: 41, to: None });
    let overloaded = json!({"error": {"code": "server_is_overloaded", "message": "overloaded"}});
    let reply = Reply::status(503).with_body(overloaded);
    let down = down.action(FaultAction::Reply(reply));
    let emulator = start(EmulatorConfig::default().with_faults(vec![down])).await;
    let fallback = Arc::new(Fallback::new([
        Place::new(openai(&emulator, "key")),
        Place::new(anthropic(&emulator)).with_model(CLAUDE),
    ]));
    let (finished, end) = run(fallback.clone(), GPT, 300).await;
    agree(&emulator, &finished, &end, 300).await;
    let bill = emulator.invoice().await.unwrap();
    let by_openai = bill.iter().filter(|line| line.face == "openai").count();
    assert_eq!((answered_by(&finished, "openai"), by_openai), (40, 40));
    assert_eq!(answered_by(&finished, "anthropic"), 260);
    let models = finished.iter().map(|row| &row.outcome.provenance);
    assert!(models.into_iter().all(|provenance| {
        let is_openai = provenance.provider.as_deref() == Some("openai");
        provenance.model.as_deref() == Some(if is_openai { GPT } else { CLAUDE })
    }));
    let asked = emulator.calls("POST", "/openai/v1/chat/completions");
    assert!(asked < 40 + 40, "{asked} calls: it rests");
}

#[tokio::test]
async fn f_005_a_31_a_key_the_provider_refuses_is_closed_and_appears_nowhere() {
    let emulator = start(EmulatorConfig::default().with_keys(["key-good-1", "key-good-2"])).await;
    let keys = Arc::new(
        RotatingCredentials::new()
            .with_client("one", openai(&emulator, "key-good-1"))
            .with_client("two", openai(&emulator, "key-revoked-CANARY"))
            .with_client("three", openai(&emulator, "key-good-2")),
    );
    let (finished, end) = run(keys.clone(), GPT, 200).await;
    agree(&emulator, &finished, &end, 200).await;
    let known = keys.snapshot();
    assert_eq!(known[1].standing, Standing::Closed);
    assert_eq!(known[1].answered, 0);
    assert!(known[1].failed <= 16, "those in flight at most");
    let shares = (known[0].answered, known[2].answered);
    assert!(shares.0 > 60 && shares.1 > 60, "{shares:?}");
    assert!(!format!("{keys:?} {known:?} {finished:?}").contains("CANARY"));
    let bill = emulator.invoice().await.unwrap();
    let keys: BTreeSet<&str> = bill.iter().map(|line| &*line.key).collect();
    assert_eq!(keys.len(), 2);
}

#[tokio::test]
async fn f_020_a_deployment_whose_connections_break_before_anything_is_done_gives_its_share() {
    let broken = start(EmulatorConfig::default()).await;
    let url = broken.base_url(Face::OpenAi);
    // Nobody listens there any more.
    broken.shutdown().await;
    let emulator = start(EmulatorConfig::default()).await;
    let gone = Arc::new(OpenAi::builder("key").base_url(url).build().unwrap());
    let balancer = Arc::new(LoadBalancer::new([
        Place::new(openai(&emulator, "a")).with_deployment("east"),
        Place::new(gone).with_deployment("gone"),
        Place::new(openai(&emulator, "b")).with_deployment("west"),
    ]));
    let (finished, end) = run(balancer.clone(), GPT, 300).await;
    agree(&emulator, &finished, &end, 300).await;
    let known = balancer.snapshot();
    assert_eq!(known[1].answered, 0);
    assert!(known[1].failed < 40, "{known:?}");
    assert!(known[0].answered > 100 && known[2].answered > 100);
}

fn context() -> NewCache {
    let chat = Chat::new([
        Message::system("You know it."),
        Message::user("known text ".repeat(600)),
    ]);
    NewCache::new(FLASH, chat, Duration::from_secs(600))
}

fn cached(gemini: &Gemini, options: ContextCacheOptions) -> Arc<WithContext> {
    let cache = Arc::new(gemini.context(context()).unwrap());
    let inner = Arc::new(Direct::new(Arc::new(gemini.clone())));
    Arc::new(WithContext::new(inner, cache).with_options(options))
}

#[tokio::test]
async fn a_25_geminis_stored_context_is_used_by_every_row_and_deleted_at_the_end() {
    let emulator = start(EmulatorConfig::default()).await;
    let gemini = gemini(&emulator);
    let strategy = cached(&gemini, ContextCacheOptions::default());
    let (finished, end) = run(strategy.clone(), FLASH, 60).await;
    assert!(matches!(end.reason, EndReason::Completed), "{end:?}");
    let report = strategy.report();
    assert_eq!(report.created, 1);
    for row in &finished {
        let usage = row.outcome.response().unwrap().usage;
        assert_eq!(usage.cache_read_input_tokens, Some(report.stored_tokens));
    }
    let bill = emulator.invoice().await.unwrap();
    assert_eq!(bill.len(), 61, "the rows, and the storing");
    let stored: Vec<_> = bill
        .iter()
        .filter(|line| line.cached_input_tokens == 0)
        .collect();
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].input_tokens, report.stored_tokens);
    assert!(gemini.caches(None).await.unwrap().caches.is_empty());
}

#[tokio::test]
async fn ax_272_ax_273_ax_274_a_kept_context_is_found_and_one_that_is_gone_is_stored_anew() {
    let emulator = start(EmulatorConfig::default()).await;
    let gemini = gemini(&emulator);
    let keep = ContextCacheOptions::default().with_keep(true);
    let first = cached(&gemini, keep);
    let (_, end) = run(first.clone(), FLASH, 3).await;
    assert!(matches!(end.reason, EndReason::Completed), "{end:?}");
    // Another process finds it by its contents.
    let second = cached(&gemini, keep);
    let (finished, _) = run(second.clone(), FLASH, 3).await;
    assert_eq!(finished.len(), 3);
    assert_eq!((second.report().created, second.report().found), (0, 1));
    assert_eq!(gemini.caches(None).await.unwrap().caches.len(), 1);
    // Its time passes at the provider, and here it is as fresh as before.
    emulator.advance(Duration::from_secs(7200)).await.unwrap();
    let (finished, end) = run(second.clone(), FLASH, 20).await;
    assert!(matches!(end.reason, EndReason::Completed), "{end:?}");
    for row in &finished {
        assert!(row.outcome.ending.is_success(), "{:?}", row.outcome);
    }
    assert_eq!(second.report().created, 1);
    assert_eq!(gemini.caches(None).await.unwrap().caches.len(), 1);
    second.delete().await.unwrap();
    assert!(gemini.caches(None).await.unwrap().caches.is_empty());
}

#[tokio::test]
async fn ax_273_a_context_deleted_by_another_in_the_middle_costs_no_row() {
    let emulator = start(EmulatorConfig::default().with_latency(Duration::from_millis(5))).await;
    let gemini = gemini(&emulator);
    let strategy = cached(&gemini, ContextCacheOptions::default());
    let other = gemini.clone();
    let deletes = async {
        // As soon as it is there and in use.
        loop {
            let page = other.caches(None).await.unwrap();
            let used = emulator.invoice().await.unwrap().len();
            if let Some(cache) = page.caches.first().filter(|_| used > 20) {
                other.delete_cache(&cache.name).await.unwrap();
                return;
            }
        }
    };
    let ((finished, end), ()) = tokio::join!(run(strategy.clone(), FLASH, 200), deletes);
    assert!(matches!(end.reason, EndReason::Completed), "{end:?}");
    assert_eq!(finished.len(), 200);
    for row in &finished {
        assert!(row.outcome.ending.is_success(), "{:?}", row.outcome);
    }
    assert_eq!(strategy.report().created, 2);
    let bill = emulator.invoice().await.unwrap();
    assert_eq!(bill.len(), 202, "the rows once each, and the storing twice");
}
