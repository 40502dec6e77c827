//! Batches in memory: what is refused before anything is sent, and what comes out.

use super::*;
use crate::fake::{Create, Fake, ask};
use batchwright_core::{Ending, Message, Outcome};
use std::collections::BTreeSet;

mod acceptance;

fn router(fakes: &[&Arc<Fake>]) -> BatchRouter {
    let mut router = BatchRouter::new(RouterOptions::default());
    for fake in fakes {
        router.register(Arc::clone(fake) as _).unwrap();
    }
    router
}

fn asks(name: &str, rows: u32) -> Vec<Request> {
    (0..rows).map(|row| ask(&format!("{name}-{row}"))).collect()
}

fn refusal(batches: Vec<BatchRequest>) -> Error {
    let fake = Fake::new("fake");
    let error = router(&[&fake])
        .run(batches, Control::default())
        .unwrap_err();
    assert_eq!(fake.sent().uploads, 0);
    error
}

async fn collect(mut run: BatchRun) -> (Vec<Outcome>, Vec<Error>, BatchRun) {
    let (mut outcomes, mut errors) = (Vec::new(), Vec::new());
    while let Some(item) = run.next().await {
        assert!(errors.is_empty(), "an error is the last item");
        match item {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => errors.push(error),
        }
    }
    assert!(run.next().await.is_none());
    (outcomes, errors, run)
}

#[test]
fn every_provider_that_is_missing_is_named_at_once() {
    let batch = |name: &str| BatchRequest::new(name, asks(name, 1));
    let error = refusal(vec![
        batch("zeta"),
        batch("fake"),
        batch("alpha"),
        batch("zeta"),
    ]);
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    assert!(error.message().ends_with("alpha, zeta"), "{error}");
}

#[test]
fn an_endpoint_no_batch_can_be_for_is_refused_before_anything_is_sent() {
    let body = serde_json::value::RawValue::from_string("{}".to_owned()).unwrap();
    let raw = Request::raw("a", "/images", body).unwrap();
    let error = refusal(vec![BatchRequest::new("fake", vec![raw])]);
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(
        error
            .message()
            .ends_with("\"/images\", only for /chat, /embed"),
        "{error}"
    );
}

#[test]
fn f_174_f_179_f_180_a_batch_that_cannot_be_is_refused_before_anything_is_sent() {
    let fake = |requests| vec![BatchRequest::new("fake", requests)];
    let mut two_models = asks("a", 2);
    two_models[1].model = "model-b".to_owned();
    let mut two_endpoints = asks("a", 1);
    two_endpoints.push(Request::embedding("b", "model-a", "text"));
    let long = Request::chat("a", "model-a", [Message::user("x".repeat(5000))]);
    let twice = vec![
        BatchRequest::new("fake", asks("a", 1)),
        BatchRequest::new("fake", asks("a", 1)),
    ];
    for (batches, said) in [
        (fake(Vec::new()), "batch 1: it has no requests"),
        (fake(asks("a", 101)), "101 requests, and fake takes 100"),
        (fake(vec![long]), "bytes, and fake takes 4000"),
        (fake(two_models), "several models share a batch, \"a-1\""),
        (
            fake(two_endpoints),
            "several endpoints share a batch, \"b\"",
        ),
        (twice, "custom_id \"a-0\" stands twice"),
    ] {
        let error = refusal(batches);
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
        assert!(error.message().contains(said), "{error}");
    }
    let unspeakable = Request::chat("a", "model-a", [Message::user("unspeakable")]);
    assert_eq!(
        refusal(fake(vec![unspeakable])).kind(),
        ErrorKind::Unsupported
    );
}

#[test]
fn a_provider_is_registered_once_and_only_with_a_batch_api() {
    let fake = Fake::new("fake");
    let mut router = router(&[&fake]);
    let again = router.register(Fake::new("fake")).unwrap_err();
    let without = router
        .register(Fake::without_batches("direct"))
        .unwrap_err();
    assert_eq!(again.kind(), ErrorKind::ConfigInvalid);
    assert_eq!(without.kind(), ErrorKind::ConfigInvalid);
    assert_eq!(router.providers().collect::<Vec<_>>(), ["fake"]);
    assert!(router.provider("fake").is_some());
    assert!(router.unregister("fake").is_some());
    assert!(router.unregister("fake").is_none());
}

#[tokio::test(start_paused = true)]
async fn outcomes_of_several_providers_come_mixed_each_under_the_callers_id() {
    let (one, two) = (Fake::new("one"), Fake::new("two"));
    two.state().polls_to_end = 1;
    // More than the channel holds, so that downloads wait for the reader.
    let mut batches: Vec<BatchRequest> = (0..6)
        .map(|number| BatchRequest::new("one", asks(&format!("one-{number}"), 60)))
        .collect();
    batches.push(BatchRequest::new("two", asks("two", 60)));
    let run = router(&[&one, &two])
        .run(batches, Control::default())
        .unwrap();
    let (outcomes, errors, run) = collect(run).await;
    assert!(errors.is_empty(), "{errors:?}");
    let ids: BTreeSet<&str> = outcomes.iter().map(|outcome| &*outcome.custom_id).collect();
    assert_eq!((outcomes.len(), ids.len()), (420, 420));
    for outcome in &outcomes {
        let said = outcome.response().map(batchwright_core::Response::text);
        assert_eq!(said, Some(format!("re: ask {}", outcome.custom_id)));
        let provider = outcome.provenance.provider.as_deref();
        assert_eq!(provider, outcome.custom_id.split('-').next());
        assert_eq!(outcome.provenance.attempts, 1);
    }
    // What is ready first comes first.
    assert!(
        outcomes[..60]
            .iter()
            .all(|outcome| outcome.custom_id.starts_with("two"))
    );
    assert_eq!(run.end().map(|end| end.merged), Some(7));
    assert_eq!((one.bought(), two.bought()), (6, 1));
}

#[tokio::test(start_paused = true)]
async fn f_154_an_earlier_run_in_the_same_account_is_nobody_elses_purchase() {
    let fake = Fake::new("fake");
    let router = router(&[&fake]);
    for run in 0..3 {
        let batch = BatchRequest::new("fake", asks(&format!("run-{run}"), 2));
        let run = router.run(vec![batch], Control::default()).unwrap();
        let (outcomes, errors, _) = collect(run).await;
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(outcomes.len(), 2);
    }
    assert_eq!(fake.bought(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_account_that_serves_nobody_ends_the_stream_in_one_error() {
    let fake = Fake::new("fake");
    fake.state()
        .creates
        .push_back(Create::Refused(ErrorKind::QuotaExceeded));
    let batch = BatchRequest::new("fake", asks("a", 2));
    let run = router(&[&fake])
        .run(vec![batch], Control::default())
        .unwrap();
    let (outcomes, errors, run) = collect(run).await;
    assert!(outcomes.is_empty());
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].kind(), ErrorKind::QuotaExceeded);
    assert_eq!(run.end().map(|end| end.unfinished), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_run_says_that_outcomes_are_lacking() {
    let fake = Fake::new("fake");
    let control = Control::default();
    control.stop.cancel();
    let batch = BatchRequest::new("fake", asks("a", 2));
    let run = router(&[&fake]).run(vec![batch], control).unwrap();
    let (outcomes, errors, _) = collect(run).await;
    assert!(outcomes.is_empty());
    assert_eq!(errors[0].kind(), ErrorKind::Cancelled);
    assert_eq!((errors.len(), fake.sent().uploads), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn f_073_f_078_f_097_rows_without_an_answer_come_out_too() {
    let ends = async |fake: &Arc<Fake>, control: Control| {
        let batch = BatchRequest::new("fake", asks("a", 3));
        let run = router(&[fake]).run(vec![batch], control).unwrap();
        let (outcomes, errors, _) = collect(run).await;
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(outcomes.len(), 3);
        outcomes
    };
    let invalid = Fake::new("fake");
    invalid.state().fails_validation = true;
    let outcomes = ends(&invalid, Control::default()).await;
    let said: Vec<&str> = outcomes
        .iter()
        .map(|o| o.error().unwrap().message())
        .collect();
    // The fault names line 2; the others have the batch's.
    assert_eq!(said[1], "line two");
    assert!(said[0].contains("refused the batch") && said[2] == said[0]);
    assert_eq!(outcomes[0].provenance.provider.as_deref(), Some("fake"));

    let cancelled = Control::default();
    cancelled.cancel.cancel();
    let outcomes = ends(&Fake::new("fake"), cancelled).await;
    assert!(
        outcomes
            .iter()
            .all(|o| matches!(o.ending, Ending::Cancelled))
    );

    let short = Fake::new("fake");
    for _ in 0..2 {
        short.state().edits.push_back(|lines| lines.truncate(1));
    }
    let outcomes = ends(&short, Control::default()).await;
    let missing = outcomes
        .iter()
        .filter(|o| matches!(o.ending, Ending::Missing));
    assert_eq!(missing.count(), 2);
}

#[test]
fn an_embedding_goes_to_an_endpoint_of_its_own() {
    let request = Request::embedding("a", "m", "text");
    let batch = BatchRequest::new("fake", vec![request]);
    let parts = router(&[&Fake::new("fake")]).plan(&[batch]).unwrap();
    assert_eq!(parts[0].endpoint, "/embed");
}

#[tokio::test(start_paused = true)]
async fn f_082_f_097_a_success_of_either_download_wins_and_none_comes_twice() {
    fn error_for(line: &str) -> String {
        let id = line.split('"').nth(7).unwrap();
        format!("{{\"id\":\"{id}\",\"error\":\"no\"}}")
    }
    let fake = Fake::new("fake");
    // Lines come last row first: of row 3 nothing, of row 2 an error, then of row 0 nothing any more.
    fake.state().edits.push_back(|lines| {
        let row_two = &lines[1];
        lines[1] = error_for(row_two);
        lines.remove(0);
    });
    fake.state().edits.push_back(|lines| {
        lines.truncate(3);
    });
    let batch = BatchRequest::new("fake", asks("a", 4));
    let run = router(&[&fake])
        .run(vec![batch], Control::default())
        .unwrap();
    let (outcomes, errors, _) = collect(run).await;
    assert!(errors.is_empty(), "{errors:?}");
    let ids: BTreeSet<&str> = outcomes.iter().map(|outcome| &*outcome.custom_id).collect();
    assert_eq!((outcomes.len(), ids.len()), (4, 4));
    assert!(outcomes.iter().all(|outcome| outcome.ending.is_success()));
}
