//! Uploads, for providers that have them.

use crate::{
    Subject,
    world::{World, borrowed, tag},
};
use batchwright_core::{BatchStatus, SealedBody, SubmitError};
use batchwright_emulator::FaultAction;
use std::io::Write;

/// F-119: an upload from disk is found again by its tag alone, and gone when it is discarded.
pub async fn f_119_an_upload_is_found_again_and_discarded(subject: &Subject) {
    let world = World::new(subject).await;
    let rows = world.rows(&["a", "b"]);
    let requests = borrowed(&rows);
    let lines = world.lines(&requests);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&lines).unwrap();
    let body = SealedBody::File(file.path().to_owned());
    let batch = world.sealed_as(body, lines.len() as u64, &requests);
    let find = async |chunk| {
        world
            .batch()
            .find_upload(&batch, &tag(chunk))
            .await
            .unwrap()
    };

    assert_eq!(find(0).await, None);
    let input = world.batch().upload(&batch, &tag(0)).await.unwrap();
    assert!(!input.0.is_empty(), "an upload has a name");
    assert_eq!(find(0).await, Some(input.clone()));
    assert_eq!(find(1).await, None);
    world.batch().discard(&input).await.unwrap();
    world.batch().discard(&input).await.unwrap();
    assert_eq!(find(0).await, None);
}

/// F-113: a create that comes after its input was discarded buys nothing: the fence.
pub async fn f_113_a_create_without_its_input_buys_nothing(subject: &Subject) {
    let world = World::new(subject).await;
    let rows = world.rows(&["a"]);
    let batch = world.sealed(&borrowed(&rows));
    let input = world.batch().upload(&batch, &tag(0)).await.unwrap();
    world.batch().discard(&input).await.unwrap();
    match world.batch().submit(&batch, &input, &tag(0)).await {
        Ok(handle) => {
            let snapshot = world.end(&handle).await;
            assert_eq!(snapshot.status, BatchStatus::Failed);
        }
        Err(error) => assert!(matches!(error, SubmitError::Refused(_)), "{error}"),
    }
    assert!(world.invoice().await.is_empty());
}

/// An upload whose answer is lost may be sent again, and is found.
pub async fn an_upload_that_breaks_off_is_found(subject: &Subject) {
    let world = World::new(subject).await;
    let rows = world.rows(&["a"]);
    let batch = world.sealed(&borrowed(&rows));
    world.fault(subject.routes.upload, FaultAction::CommitThenDrop);
    let error = world.batch().upload(&batch, &tag(0)).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let found = world.batch().find_upload(&batch, &tag(0)).await.unwrap();
    assert!(found.is_some());
}

/// F-118: an upload that was stored short is not used.
pub async fn f_118_an_upload_stored_short_is_an_error(subject: &Subject) {
    let world = World::new(subject).await;
    let rows = world.rows(&["a"]);
    let batch = world.sealed(&borrowed(&rows));
    world.fault(subject.routes.upload, FaultAction::StoreShort(3));
    let error = world.batch().upload(&batch, &tag(0)).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}
