//! What must never show.

use crate::{
    Route, Subject,
    world::{KEY, World, borrowed, tag},
};
use batchwright_core::{Error, InputRef};
use batchwright_emulator::{FaultAction, Reply};
use serde_json::json;

fn assert_hidden(what: &str, error: &Error) {
    let mut shown = format!("{error} {error:?} {error:#?}");
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        shown += &format!("{inner} {inner:?}");
        source = inner.source();
    }
    assert!(!shown.contains("CANARY"), "{what}: {shown}");
}

/// F-192, F-203: a key shows in no error, also where the server repeats it in every field, nor in the account.
pub async fn f_192_f_203_the_key_shows_in_no_error(subject: &Subject) {
    let echo = json!({"type": "error", "error": {"message": format!("bad key {KEY}"), "code": KEY,
        "type": KEY, "status": KEY, "param": KEY, "details": [{"reason": KEY}]}, "request_id": "r"});
    let own = |status| (subject.refusal)(status, &format!("bad key {KEY}"));
    let echoes = [400, 401, 429, 500, 200].map(|status| (status, echo.clone()));
    for (status, body) in echoes.into_iter().chain([(400, own(400)), (401, own(401))]) {
        let world = World::new(subject).await;
        let rows = world.rows(&["a"]);
        let requests = borrowed(&rows);
        let reply = Reply::status(status).with_body(body);
        let every = Some(Route::new("POST", "*"));
        world.faults(every, u64::MAX, FaultAction::Reply(reply));
        if subject.offline().realtime.is_some() {
            let error = world.ask(&requests[0].1).await.unwrap_err();
            assert_hidden("complete", &error);
        }
        if subject.offline().batch.is_some() {
            let batch = world.sealed(&requests);
            let input = InputRef("file-1".to_owned());
            let sent = world.batch().submit(&batch, &input, &tag(0)).await;
            assert_hidden("submit", sent.unwrap_err().error());
            assert!(!world.batch().account().contains("CANARY"));
        }
    }
}
