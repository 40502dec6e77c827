//! The create: sent once, and found again when its answer is lost.

use crate::{
    Subject,
    subject::Place,
    world::{HOUR, KEY, World, borrowed, tag},
};
use batchwright_core::{BatchInput, InputRef, ListMark, SubmitError};
use batchwright_emulator::{EmulatorConfig, FaultAction, Reply};
use serde_json::json;

/// An error in the vendor's own shape.
fn refusal(subject: &Subject, status: u16) -> Reply {
    Reply::status(status).with_body((subject.refusal)(status, "no"))
}

/// F-110, F-111, F-112: a create whose answer is lost was sent once, is unknown, and is found in the list by what a
/// batch is known by.
pub async fn f_110_f_112_a_lost_create_is_unknown_and_found(subject: &Subject) {
    for lost in [
        FaultAction::CommitThenDrop,
        FaultAction::CommitThenReply(Reply::status(500)),
        FaultAction::CommitThenReply(Reply::status(200).with_body(json!({}))),
        FaultAction::CommitThenReply(refusal(subject, 409)),
    ] {
        find_lost(subject, World::new(subject).await, lost).await;
    }
}

/// F-110, F-116: the same where the list begins with the oldest, which no vendor rules out.
pub async fn f_110_f_116_a_lost_create_is_found_in_a_list_oldest_first(subject: &Subject) {
    let config = EmulatorConfig::default().with_newest_first(false);
    let world = World::with(subject, config).await;
    find_lost(subject, world, FaultAction::CommitThenDrop).await;
}

async fn find_lost(subject: &Subject, world: World, lost: FaultAction) {
    for chunk in 0..3 {
        world.submit(&world.rows(&["old"]), chunk).await;
        world.advance(2 * HOUR).await;
    }
    let recent = world.batch().recent().await.unwrap();
    assert_eq!(recent.len(), 3);
    let seen = recent.into_iter().map(|batch| batch.handle.id);
    let mark = ListMark::new(seen.collect(), None);

    let rows = world.rows(&["a", "b"]);
    let batch = world.sealed(&borrowed(&rows));
    let input = world.input(&batch, &tag(9)).await;
    let before = world.calls(subject.routes.create);
    world.fault(subject.routes.create, lost.clone());
    let sent = world.batch().submit(&batch, &input, &tag(9)).await;
    let error = sent.unwrap_err();
    assert!(
        matches!(error, SubmitError::Unknown(_)),
        "{lost:?}: {error}"
    );
    assert_eq!(world.calls(subject.routes.create), before + 1, "F-111");

    let found = world.batch().list_since(&mark).await.unwrap();
    let ours = found
        .iter()
        .filter(|listed| world.is_ours(listed, &input, &tag(9), 2))
        .count();
    assert_eq!(ours, 1, "{lost:?}");
    let known = found
        .iter()
        .filter(|listed| mark.seen.contains(&listed.handle.id));
    assert_eq!(known.count(), 0, "what was there before is not new");
}

/// A create refused in the provider's own words bought nothing, and may be sent again.
pub async fn a_refused_create_bought_nothing(subject: &Subject) {
    let world = World::new(subject).await;
    let rows = world.rows(&["a"]);
    let batch = world.sealed(&borrowed(&rows));
    let input = world.input(&batch, &tag(1)).await;
    world.fault(
        subject.routes.create,
        FaultAction::Reply(refusal(subject, 400)),
    );
    let sent = world.batch().submit(&batch, &input, &tag(1)).await;
    let error = sent.unwrap_err();
    assert!(matches!(error, SubmitError::Refused(_)), "{error}");
    assert_eq!(error.error().provider(), Some(world.batch().name()));
    assert!(world.batch().recent().await.unwrap().is_empty());
}

/// F-031: a create without a connection was not sent.
pub async fn f_031_no_connection_is_not_sent(subject: &Subject) {
    let nowhere = Place::new(
        "http://127.0.0.1:1".to_owned(),
        "http://127.0.0.1:1".to_owned(),
        KEY,
    );
    let batch = subject.make(&nowhere).batch.expect("it has batches");
    let world = World::new(subject).await;
    let rows = world.rows(&["a"]);
    let sealed = world.sealed(&borrowed(&rows));
    let input = match world.limits().input {
        BatchInput::Uploaded => world.input(&sealed, &tag(1)).await,
        _ => InputRef::default(),
    };
    let error = batch.submit(&sealed, &input, &tag(1)).await.unwrap_err();
    assert!(matches!(error, SubmitError::NotSent(_)), "{error}");
}

/// F-116: a list of more than one page is read to its end, or as far as the mark.
pub async fn f_116_the_list_is_read_page_by_page(subject: &Subject) {
    let world = World::new(subject).await;
    let rows = world.rows(&["a"]);
    let batch = world.sealed(&borrowed(&rows));
    let input = world.input(&batch, &tag(0)).await;
    for chunk in 0..130 {
        let sent = world.batch().submit(&batch, &input, &tag(chunk)).await;
        sent.unwrap();
    }
    let page = world.batch().recent().await.unwrap();
    assert!(!page.is_empty() && page.len() <= 130);
    let all = world
        .batch()
        .list_since(&ListMark::default())
        .await
        .unwrap();
    assert_eq!(all.len(), 130);
}
