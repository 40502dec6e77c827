//! A provider's queue that takes only so many tokens, and many batches watched at once, over real HTTP.

use super::{BATCHES, prompt};
use batchwright_core::{Message, Money, Request, Sampling};
use batchwright_emulator::{BatchPace, Emulator, EmulatorConfig, Face, Limits};
use batchwright_provider_openai::OpenAi;
use batchwright_router::{
    BatchRequest, BatchRouter, Control, QueueLimit, RouterEvent, RouterOptions, RunItem, Split,
};
use futures::TryStreamExt;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

const BATCH: &str = "/openai/v1/batches/{batch_id}";

async fn world(limits: Limits, options: RouterOptions) -> (Emulator, BatchRouter) {
    world_at(BatchPace::default(), limits, options).await
}

async fn world_at(
    pace: BatchPace,
    limits: Limits,
    options: RouterOptions,
) -> (Emulator, BatchRouter) {
    let config = EmulatorConfig::default()
        .with_time_scale(600.0)
        .with_pace(pace)
        .with_limits(limits);
    let emulator = Emulator::start(config).await.unwrap();
    let openai = OpenAi::builder("sk-emulated")
        .base_url(emulator.base_url(Face::OpenAi))
        .build()
        .unwrap();
    let mut router = BatchRouter::new(options);
    router.register(Arc::new(openai)).unwrap();
    (emulator, router)
}

fn options() -> RouterOptions {
    RouterOptions::for_sandbox().with_poll(Duration::from_millis(20), Duration::from_millis(100))
}

fn requests(name: &str, rows: usize, words: usize) -> Vec<Request> {
    let sampling = Sampling::new().with_max_output_tokens(50).unwrap();
    (0..rows)
        .map(|row| {
            let id = format!("{name}-{row}");
            let text = format!("{} {}", prompt(&id), "word ".repeat(words));
            Request::chat(&id, "gpt-4o-mini", [Message::user(text)]).with_sampling(sampling.clone())
        })
        .collect()
}

/// Runs them; each row must come out once and be billed once. Gives what was told.
async fn all_rows_once(
    emulator: &Emulator,
    router: &BatchRouter,
    batches: Vec<BatchRequest>,
) -> Vec<RouterEvent> {
    let rows: usize = batches.iter().map(|batch| batch.requests.len()).sum();
    let run = router.run(batches, Control::default()).unwrap();
    let mut ids = BTreeSet::new();
    let mut events = Vec::new();
    let items: Vec<RunItem> = run.items().try_collect().await.unwrap();
    for item in items {
        match item {
            RunItem::Row(row) => {
                assert!(row.outcome.ending.is_success(), "{:?}", row.outcome.ending);
                assert!(ids.insert(row.outcome.custom_id));
            }
            RunItem::Event(event) => events.push(event),
            _ => {}
        }
    }
    let invoice = emulator.invoice().await.unwrap();
    assert_eq!((ids.len(), invoice.len()), (rows, rows));
    events
}

#[tokio::test]
async fn f_010_chunks_go_as_room_appears_and_a_full_queue_is_not_hammered() {
    // Eight batches of about 2,600 tokens, and room for three of them.
    let limits = Limits::default().with_enqueued_tokens(8000);
    let batches =
        (0..8).map(|number| BatchRequest::new("openai", requests(&format!("b{number}"), 10, 200)));
    let batches: Vec<BatchRequest> = batches.collect();
    let (emulator, router) = world(limits, options()).await;
    let events = all_rows_once(&emulator, &router, batches.clone()).await;
    let creates = emulator.calls("POST", BATCHES);
    // All eight at first; of the five that were refused each goes once more, and now and then one is sent too early.
    assert!((13..=20).contains(&creates), "{creates}");
    let queued = |event: &&RouterEvent| matches!(event, RouterEvent::Queued { .. });
    assert!(events.iter().any(|event| queued(&event)));

    // Told beforehand, nothing is refused.
    let told = QueueLimit::default().with_tokens(8000);
    let (emulator, router) = world(limits, options().with_queue_limit("openai", told)).await;
    all_rows_once(&emulator, &router, batches.clone()).await;
    assert_eq!(emulator.calls("POST", BATCHES), 8);

    // What was learned in one run is known in the next.
    let (emulator, router) = world(limits, options()).await;
    all_rows_once(&emulator, &router, batches).await;
    let before = emulator.calls("POST", BATCHES);
    let again =
        (0..8).map(|number| BatchRequest::new("openai", requests(&format!("c{number}"), 10, 200)));
    let run = router.run(again.collect(), Control::default()).unwrap();
    let rows: Vec<_> = run.rows().try_collect().await.unwrap();
    assert_eq!(rows.len(), 80);
    let creates = emulator.calls("POST", BATCHES) - before;
    assert!(creates <= 11, "{creates}");
}

#[tokio::test]
async fn no_more_batches_are_open_than_the_provider_is_told_to_take() {
    let told = QueueLimit::default().with_open(2);
    let (emulator, router) = world(
        Limits::default(),
        options().with_queue_limit("openai", told),
    )
    .await;
    let batches = (0..5).map(|n| BatchRequest::new("openai", requests(&format!("b{n}"), 2, 1)));
    let events = all_rows_once(&emulator, &router, batches.collect()).await;
    let (mut open, mut most) = (BTreeSet::new(), 0);
    for event in events {
        match event {
            RouterEvent::Sent { chunk, .. } => drop(open.insert(chunk)),
            RouterEvent::Status { chunk, status, .. } if status.is_terminal() => {
                open.remove(&chunk);
            }
            _ => {}
        }
        most = most.max(open.len());
    }
    assert!(most <= 2, "{most}");
}

#[tokio::test]
async fn a_mixed_list_is_cut_and_comes_back_in_order() {
    let split = Split::default()
        .with_requests(4)
        .with_cost(Money::from_dollars(0.001).unwrap());
    let (emulator, router) = world(Limits::default(), options().with_split(split)).await;
    let mut mixed = requests("a", 10, 1);
    for row in [1, 5, 6] {
        mixed[row].model = "gpt-4.1-mini".to_owned();
    }
    let order: Vec<String> = mixed
        .iter()
        .map(|request| request.custom_id.clone())
        .collect();
    let run = router
        .run_one(BatchRequest::new("openai", mixed), Control::default())
        .unwrap();
    let sizes: Vec<u64> = run.batches().iter().map(|sent| sent.requests).collect();
    assert_eq!(sizes, [4, 3, 3]);
    let rows: Vec<_> = run.in_order().try_collect().await.unwrap();
    let ids: Vec<String> = rows.into_iter().map(|row| row.outcome.custom_id).collect();
    assert_eq!(ids, order);
    assert_eq!(emulator.invoice().await.unwrap().len(), 10);
}

/// Sixty batches over real HTTP, each of which takes an hour of the emulator's time.
#[tokio::test]
async fn open_batches_are_watched_by_the_list_over_http() {
    const COUNT: u64 = 60;
    let pace = BatchPace::default().with_per_row(Duration::from_secs(3600));
    let (emulator, router) = world_at(pace, Limits::default(), options()).await;
    let batches = (0..COUNT).map(|n| BatchRequest::new("openai", requests(&format!("b{n}"), 1, 1)));
    let events = all_rows_once(&emulator, &router, batches.collect()).await;
    let polls = events
        .iter()
        .filter(|event| matches!(event, RouterEvent::Status { .. }))
        .count() as u64;
    let own = emulator.calls("GET", BATCH);
    // By themselves: while fewer than twenty are there, at the start, and for the end of each.
    assert!(own * 4 < polls, "{own} of {polls} by calls of their own");
    let listed = |event: &&RouterEvent| matches!(event, RouterEvent::Status { counts: Some(counts), .. } if counts.total == 1);
    assert!(
        events.iter().any(|event| listed(&event)),
        "counts come in the list too"
    );
}
