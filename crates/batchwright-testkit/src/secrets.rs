//! What must never show.

use crate::{
    Subject,
    world::{KEY, World, borrowed, tag},
};
use batchwright_core::{Error, InputRef};
use batchwright_emulator::{EmulatorConfig, FaultAction, FaultRule, Reply};
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
    for status in [400, 401, 429, 500, 200] {
        let world = World::with(subject, EmulatorConfig::default()).await;
        let rows = world.rows(&["a"]);
        let requests = borrowed(&rows);
        let reply = Reply::status(status).with_body(echo.clone());
        let rule = FaultRule::on("POST", "*").action(FaultAction::Reply(reply));
        world.emulator.add_faults(vec![rule]);
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
