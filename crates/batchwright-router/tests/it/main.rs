//! The router over real HTTP against the emulator, whose invoice is the judge of double payment.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use batchwright_core::{BatchProvider, Message, Outcome, Request};
use batchwright_emulator::{
    BatchFailure, Emulator, EmulatorConfig, Face, FaultAction, FaultRule, Mutation, MutationKind,
    Nth, Reply, prompt_hash,
};
use batchwright_provider_openai::OpenAi;
use batchwright_router::{BatchRequest, BatchRouter, Control, RouterOptions};
use futures::StreamExt;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

mod handles;
mod queue;

const ROWS: usize = 20;
const BATCHES: &str = "/openai/v1/batches";
const FILES: &str = "/openai/v1/files";
const CONTENT: &str = "/openai/v1/files/{file_id}/content";

fn prompt(id: &str) -> String {
    format!("What is {id}?")
}

struct Ran {
    emulator: Emulator,
    outcomes: Vec<Outcome>,
}

/// One batch in memory under these faults; every row must come out once and answered.
async fn run(faults: Vec<FaultRule>) -> Ran {
    let config = EmulatorConfig::default()
        .with_time_scale(600.0)
        .with_faults(faults);
    let emulator = Emulator::start(config).await.unwrap();
    let openai = OpenAi::builder("sk-emulated")
        .base_url(emulator.base_url(Face::OpenAi))
        .build()
        .unwrap();
    let options = RouterOptions::for_sandbox()
        .with_poll(Duration::from_millis(20), Duration::from_millis(100))
        .with_settle(Duration::from_millis(900), 3);
    let mut router = BatchRouter::new(options);
    let openai: Arc<dyn BatchProvider> = Arc::new(openai);
    router.register(openai).unwrap();
    let requests = (0..ROWS)
        .map(|row| format!("row-{row}"))
        .map(|id| Request::chat(&id, "gpt-4o-mini", [Message::user(prompt(&id))]))
        .collect();
    let batch = BatchRequest::new("openai", requests);
    let run = router.run(vec![batch], Control::default()).unwrap();
    let outcomes: Vec<Outcome> = run.map(|outcome| outcome.unwrap()).collect().await;
    let ids: BTreeSet<&str> = outcomes.iter().map(|o| &*o.custom_id).collect();
    assert_eq!((outcomes.len(), ids.len()), (ROWS, ROWS));
    Ran { emulator, outcomes }
}

impl Ran {
    /// I2 and I4: the invoice names each row once, all of one batch, and each answer is its own prompt's.
    async fn bought_once(&self) {
        for outcome in &self.outcomes {
            let text = outcome.response().expect("every row is answered").text();
            assert!(text.contains(&prompt_hash([prompt(&outcome.custom_id)])));
        }
        let invoice = self.emulator.invoice().await.unwrap();
        let rows: BTreeSet<_> = invoice.iter().map(|line| line.custom_id.clone()).collect();
        let batches: BTreeSet<_> = invoice.iter().map(|line| line.batch_id.clone()).collect();
        assert_eq!((invoice.len(), rows.len(), batches.len()), (ROWS, ROWS, 1));
    }

    fn creates(&self) -> u64 {
        self.emulator.calls("POST", BATCHES)
    }

    fn uploads(&self) -> u64 {
        self.emulator.calls("POST", FILES)
    }
}

fn first_create(action: FaultAction) -> Vec<FaultRule> {
    vec![
        FaultRule::on("POST", BATCHES)
            .nth(Nth::One(1))
            .action(action),
    ]
}

fn minutes(minutes: u64) -> batchwright_emulator::Span {
    Duration::from_secs(60 * minutes).into()
}

#[tokio::test]
async fn a_batch_is_bought_and_every_answer_is_its_own() {
    let ran = run(Vec::new()).await;
    ran.bought_once().await;
    assert_eq!((ran.creates(), ran.uploads()), (1, 1));
}

#[tokio::test]
async fn f_110_f_111_a_create_whose_answer_is_dropped_is_sent_once_and_bought_once() {
    let ran = run(first_create(FaultAction::CommitThenDrop)).await;
    ran.bought_once().await;
    assert_eq!((ran.creates(), ran.uploads()), (1, 1));
}

#[tokio::test]
async fn f_112_a_server_error_after_the_commit_is_not_taken_for_a_failure() {
    for status in [500, 502, 503, 429] {
        let reply = FaultAction::CommitThenReply(Reply::status(status));
        let ran = run(first_create(reply)).await;
        ran.bought_once().await;
        assert_eq!((ran.creates(), ran.uploads()), (1, 1), "{status}");
    }
}

#[tokio::test]
async fn f_110_a_create_that_had_no_effect_is_sent_again_after_the_window() {
    let ran = run(first_create(FaultAction::DropBeforeCommit)).await;
    ran.bought_once().await;
    // A new attempt has an input of its own, since the first one's was deleted.
    assert_eq!((ran.creates(), ran.uploads()), (2, 2));
    assert_eq!(ran.outcomes[0].provenance.attempts, 2);
}

#[tokio::test]
async fn f_113_f_114_late_and_lagging_batches_are_found_within_the_window() {
    for fault in [
        vec![FaultAction::CommitLate(minutes(3))],
        vec![
            FaultAction::ListLag(minutes(3)),
            FaultAction::CommitThenDrop,
        ],
    ] {
        let rule = FaultRule::on("POST", BATCHES).nth(Nth::One(1));
        let rule = fault.into_iter().fold(rule, FaultRule::action);
        let ran = run(vec![rule]).await;
        ran.bought_once().await;
        assert_eq!((ran.creates(), ran.uploads()), (1, 1));
    }
}

#[tokio::test]
async fn f_010_a_full_queue_is_waited_for_with_the_same_input() {
    let full = BatchFailure::new("token_limit_exceeded", "Enqueued token limit reached");
    let rule = FaultRule::on("POST", BATCHES)
        .nth(Nth::Range {
            from: 1,
            to: Some(2),
        })
        .action(FaultAction::FailBatch(full));
    let ran = run(vec![rule]).await;
    ran.bought_once().await;
    assert_eq!((ran.creates(), ran.uploads()), (3, 1));
}

#[tokio::test]
async fn f_037_f_106_f_108_a_download_that_went_wrong_is_repeated() {
    for kind in [
        MutationKind::Drop,
        MutationKind::Truncate,
        MutationKind::Html,
        MutationKind::Garble,
    ] {
        let rule = FaultRule::on("GET", "*/content")
            .nth(Nth::One(1))
            .action(FaultAction::MutateResults(Mutation::new(kind, 3)));
        let ran = run(vec![rule]).await;
        ran.bought_once().await;
        assert_eq!(ran.emulator.calls("GET", CONTENT), 2, "{kind:?}");
    }
}

#[tokio::test]
async fn f_081_f_089_late_files_and_bad_polls_are_waited_out() {
    let faults = vec![
        FaultRule::on("POST", BATCHES).action(FaultAction::LateFileIds(minutes(5))),
        FaultRule::on("GET", "/openai/v1/batches/*")
            .nth(Nth::Range {
                from: 2,
                to: Some(5),
            })
            .action(FaultAction::Reply(Reply::status(502))),
    ];
    let ran = run(faults).await;
    ran.bought_once().await;
    assert_eq!(ran.creates(), 1);
    assert!(ran.emulator.calls("GET", "/openai/v1/batches/{batch_id}") > 5);
}
