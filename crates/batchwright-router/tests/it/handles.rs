//! Batches by their handles over real HTTP: what comes of each way they can end.

use super::{BATCHES, CONTENT, prompt};
use batchwright_core::{BatchHandle, BatchStatus, Message, Outcome, Request};
use batchwright_emulator::{
    BatchPace, Emulator, EmulatorConfig, Face, FaultAction, FaultRule, Nth, prompt_hash,
};
use batchwright_provider_openai::OpenAi;
use batchwright_router::{
    BatchRequest, BatchRouter, Cancelled, RouterOptions, UniqueIds, WaitOptions,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const ROWS: usize = 10;

async fn world(config: EmulatorConfig, faults: Vec<FaultRule>) -> (Emulator, BatchRouter) {
    let emulator = Emulator::start(config.with_faults(faults)).await.unwrap();
    let openai = OpenAi::builder("sk-emulated")
        .base_url(emulator.base_url(Face::OpenAi))
        .build()
        .unwrap();
    let options = RouterOptions::for_sandbox()
        .with_poll(Duration::from_millis(20), Duration::from_millis(100))
        .with_unique_ids(UniqueIds::PerBatch);
    let mut router = BatchRouter::new(options);
    router.register(Arc::new(openai)).unwrap();
    (emulator, router)
}

fn on_create(action: FaultAction) -> FaultRule {
    FaultRule::on("POST", BATCHES).action(action)
}

fn batch() -> BatchRequest {
    let requests = (0..ROWS)
        .map(|row| format!("row-{row}"))
        .map(|id| Request::chat(&id, "gpt-4o-mini", [Message::user(prompt(&id))]));
    BatchRequest::new("openai", requests.collect())
}

async fn submitted(router: &BatchRouter) -> BatchHandle {
    let sent = router.submit(vec![batch()]).await.unwrap();
    sent[0].handle.clone().unwrap()
}

/// How many rows ended how; each row once, and each answer its own prompt's.
fn endings(outcomes: &[Outcome]) -> BTreeMap<&str, usize> {
    let mut ids: Vec<&str> = outcomes.iter().map(|o| &*o.custom_id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((outcomes.len(), ids.len()), (ROWS, ROWS));
    let mut endings = BTreeMap::new();
    for outcome in outcomes {
        if let Some(answer) = outcome.response() {
            let mark = prompt_hash([prompt(&outcome.custom_id)]);
            assert!(answer.text().contains(&mark));
        }
        *endings.entry(outcome.ending.as_str()).or_default() += 1;
    }
    endings
}

async fn ended(router: &BatchRouter, handle: &BatchHandle) -> (BatchStatus, Vec<Outcome>) {
    let handles = std::slice::from_ref(handle);
    let ended = router
        .wait_all(handles, WaitOptions::default())
        .await
        .unwrap();
    let mut grouped = router.collect_grouped(handles).await.unwrap();
    (ended[0].status.clone(), grouped.remove(0).1)
}

#[tokio::test]
async fn f_076_f_077_what_an_expired_batch_answered_is_collected_and_the_rest_has_expired() {
    for done in [4, 0] {
        let config = EmulatorConfig::default().with_time_scale(200_000.0);
        let faults = vec![on_create(FaultAction::ExpireAfterRows(done))];
        let (emulator, router) = world(config, faults).await;
        let handle = submitted(&router).await;
        let (status, outcomes) = ended(&router, &handle).await;
        assert_eq!(status, BatchStatus::Expired);
        let endings = endings(&outcomes);
        let succeeded = endings.get("succeeded").copied().unwrap_or(0);
        assert_eq!(
            (succeeded, endings["expired"]),
            (done as usize, ROWS - done as usize)
        );
        assert_eq!(emulator.invoice().await.unwrap().len(), succeeded);
    }
}

#[tokio::test]
async fn f_078_what_a_cancelled_batch_answered_is_collected() {
    let pace = BatchPace::default().with_per_row(Duration::from_secs(60));
    let config = EmulatorConfig::default()
        .with_time_scale(600.0)
        .with_pace(pace);
    let (emulator, router) = world(config, Vec::new()).await;
    let handle = submitted(&router).await;
    loop {
        let counts = router.status(&handle).await.unwrap().counts;
        if counts.is_some_and(|counts| counts.completed >= 2) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(router.cancel(&handle).await.unwrap(), Cancelled::Asked);
    let (status, outcomes) = ended(&router, &handle).await;
    assert_eq!(status, BatchStatus::Cancelled);
    let endings = endings(&outcomes);
    assert!(
        endings["succeeded"] >= 2 && endings["cancelled"] >= 1,
        "{endings:?}"
    );
    let billed = emulator.invoice().await.unwrap().len();
    assert_eq!(billed, endings["succeeded"]);
    assert_eq!(
        router.cancel(&handle).await.unwrap(),
        Cancelled::AlreadyEnded
    );
}

#[tokio::test]
async fn f_081_f_106_late_file_ids_and_cut_downloads_are_waited_out() {
    let config = EmulatorConfig::default().with_time_scale(600.0);
    let cut = FaultRule::on("GET", CONTENT)
        .nth(Nth::One(1))
        .action(FaultAction::CutAfter {
            bytes: 700,
            how: Default::default(),
        });
    let late = FaultAction::LateFileIds(Duration::from_secs(600).into());
    let (emulator, router) = world(config, vec![on_create(late), cut]).await;
    let handle = submitted(&router).await;
    let (status, outcomes) = ended(&router, &handle).await;
    assert_eq!(status, BatchStatus::Completed);
    assert_eq!(endings(&outcomes)["succeeded"], ROWS);
    assert_eq!(emulator.invoice().await.unwrap().len(), ROWS);
}

#[tokio::test]
async fn f_056_f_070_a_state_nobody_knows_is_waited_out() {
    let config = EmulatorConfig::default().with_time_scale(20_000.0);
    let stuck = FaultAction::Stick {
        state: "hibernating".to_owned(),
        span: Duration::from_secs(6 * 3600).into(),
    };
    let (_emulator, router) = world(config, vec![on_create(stuck)]).await;
    let handle = submitted(&router).await;
    let (status, outcomes) = ended(&router, &handle).await;
    assert_eq!(status, BatchStatus::Completed);
    assert_eq!(endings(&outcomes)["succeeded"], ROWS);
}
