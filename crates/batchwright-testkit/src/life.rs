//! A batch's whole life.

use crate::{
    Subject,
    world::{World, borrowed, tag},
};
use batchwright_core::{
    BatchStatus, Ending, ErrorKind, ListMatch, Message, Outcome, Request, SealedBody,
};
use batchwright_emulator::{Cut, FaultAction, Reply, prompt_hash};
use std::{collections::BTreeMap, io::Write};

/// One outcome for each id.
fn by_id(outcomes: Vec<Outcome>) -> BTreeMap<String, Outcome> {
    let mut by_id = BTreeMap::new();
    for outcome in outcomes {
        let id = outcome.custom_id.clone();
        assert!(by_id.insert(id, outcome).is_none(), "two lines of one row");
    }
    by_id
}

/// From submit to results every row gets its own: answers, failed rows, ids and prompts in any script.
pub async fn every_row_gets_its_own(subject: &Subject) {
    let world = World::new(subject).await;
    let texts = [
        "eins",
        "[[error:400]]",
        "Wie heißt du? 名 😀",
        "[[error:500]]",
    ];
    let mut rows = world.rows(&texts);
    if world.limits().custom_id.allows("p-2 ü 名") {
        rows[2].0 = "p-2 ü 名".to_owned();
    }
    let handle = world.submit(&rows, 0).await;
    let fresh = world.batch().status(&handle).await.unwrap();
    assert!(!fresh.status.is_terminal() && fresh.files.is_empty());
    assert!(fresh.ended_at.is_none());

    let snapshot = world.end(&handle).await;
    assert_eq!(snapshot.status, BatchStatus::Completed);
    assert!(
        snapshot.created_at.is_some(),
        "the provider's clock is read"
    );
    assert!(snapshot.ended_at >= snapshot.created_at);
    assert_eq!(snapshot.handle.input, handle.input);
    if let Some(counts) = snapshot.counts {
        assert_eq!(counts.total, 4);
    }
    let outcomes = by_id(world.outcomes(&snapshot).await);
    assert_eq!(outcomes.len(), 4);
    for at in [0, 2] {
        let outcome = &outcomes[&rows[at].0];
        let response = outcome.response().expect("an answer");
        let mark = prompt_hash([texts[at]]);
        assert!(response.text().contains(&mark), "I4: {}", rows[at].0);
        assert!(outcome.ending.is_success());
    }
    for at in [1, 3] {
        let error = outcomes[&rows[at].0].error().expect("a failed row");
        assert_eq!(error.provider(), Some(world.batch().name()));
    }
    assert_eq!(
        outcomes[&rows[1].0].error().unwrap().kind(),
        ErrorKind::InvalidRequest
    );
    let fatal = |at: usize| !outcomes[&rows[at].0].error().unwrap().is_retryable();
    assert!(fatal(1), "a bad request stays one");
    assert!(!fatal(3), "a fault of the provider's may pass");
}

/// A refusal of the model is an answer and no failure (F-062, F-063).
pub async fn f_063_a_refusal_is_an_answer(subject: &Subject) {
    let world = World::new(subject).await;
    let (_, outcomes) = world.run(&["[[refuse]]", "plain"]).await;
    let outcomes = by_id(outcomes);
    let refused = &outcomes["p0-0"];
    assert!(
        matches!(refused.ending, Ending::Refused(_)),
        "{}",
        refused.ending.as_str()
    );
    assert!(outcomes["p1-1"].ending.is_success());
}

/// The smallest batch is one row.
pub async fn one_row_is_a_batch(subject: &Subject) {
    let world = World::new(subject).await;
    let (snapshot, outcomes) = world.run(&["alone"]).await;
    assert_eq!(snapshot.status, BatchStatus::Completed);
    assert_eq!(outcomes.len(), 1);
    let answer = outcomes[0].response().unwrap().text();
    assert!(answer.contains(&prompt_hash(["alone"])));
}

/// How many rows stand for a large batch; with this variable set, it is as many as one batch may hold.
const LARGE: u64 = 3000;
const FULL_VAR: &str = "BATCHWRIGHT_TESTKIT_FULL";

/// Thousands of rows, or as many as one batch holds, go out from disk and come back, each once.
pub async fn thousands_of_rows_from_disk(subject: &Subject) {
    let world = World::new(subject).await;
    let most = world.limits().max_requests;
    let rows = match std::env::var_os(FULL_VAR) {
        Some(_) => most,
        None => most.min(LARGE),
    };
    let rows = usize::try_from(rows).unwrap();
    let texts: Vec<String> = (0..rows).map(|row| format!("text {row}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let rows = world.rows(&texts);
    let requests = borrowed(&rows);
    let lines = world.lines(&requests);
    assert!(lines.len() as u64 <= world.limits().max_bytes);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&lines).unwrap();
    let body = SealedBody::File(file.path().to_owned());
    let batch = world.sealed_as(body, lines.len() as u64, &requests);
    let handle = world.try_submit(&batch, &tag(0)).await.unwrap();
    let snapshot = world.end(&handle).await;
    let outcomes = by_id(world.outcomes(&snapshot).await);
    assert_eq!(outcomes.len(), rows.len());
    for ((id, _), text) in rows.iter().zip(&texts) {
        let answer = outcomes[id].response().unwrap().text();
        assert!(answer.contains(&prompt_hash([*text])), "I4: {id}");
    }
}

/// What outcomes say was used is what the provider bills (I6, F-066).
pub async fn f_066_usage_is_what_is_billed(subject: &Subject) {
    let world = World::new(subject).await;
    let (_, outcomes) = world.run(&["one", "two words", "[[error:400]]"]).await;
    let bill = world.invoice().await;
    let billed = bill.iter().fold((0, 0), |(input, output), line| {
        (input + line.input_tokens, output + line.output_tokens)
    });
    let used =
        outcomes
            .iter()
            .filter_map(Outcome::response)
            .fold((0, 0), |(input, output), response| {
                let usage = response.usage;
                (
                    input + usage.input_tokens.expect("usage is told"),
                    output + usage.output_tokens.expect("usage is told"),
                )
            });
    assert_eq!(bill.len(), 2, "the failed row is free");
    assert_eq!(used, billed);
}

/// The list shows a batch by what it is said to be known by, and the first page is enough for a new one.
pub async fn the_list_shows_what_a_batch_is_known_by(subject: &Subject) {
    let world = World::new(subject).await.allow(2);
    let rows = world.rows(&["a", "b"]);
    let handle = world.submit(&rows, 3).await;
    let mut listed = world.batch().recent().await.unwrap();
    listed.retain(|listed| listed.handle.id == handle.id);
    assert_eq!(listed.len(), 1, "it is there once");
    for known_by in &world.limits().list_match {
        match known_by {
            ListMatch::Input => assert_eq!(listed[0].handle.input, handle.input),
            ListMatch::Tag => assert_eq!(listed[0].tag, Some(tag(3))),
            ListMatch::Requests => assert_eq!(listed[0].requests, Some(2)),
            other => panic!("a case for {other:?} is missing here"),
        }
    }
    world.give_up(&handle).await;
}

/// F-089: bad answers to polls are not the end of a batch.
pub async fn f_089_a_poll_outlives_bad_answers(subject: &Subject) {
    let world = World::new(subject).await;
    let handle = world.submit(&world.rows(&["a"]), 0).await;
    let html = Reply::status(502)
        .with_header("content-type", "text/html")
        .with_body("<html>502</html>".into());
    world.faults(subject.routes.status, 2, FaultAction::Reply(html));
    let snapshot = world.batch().status(&handle).await.unwrap();
    assert!(snapshot.handle.id == handle.id);
}

/// F-087: a batch that is not there is not found, and nothing more is said of it.
pub async fn f_087_a_batch_that_is_not_there_is_not_found(subject: &Subject) {
    let world = World::new(subject).await.allow(1);
    let handle = world.submit(&world.rows(&["a"]), 0).await;
    let mut other = handle.clone();
    other.id.push('9');
    let error = world.batch().status(&other).await.unwrap_err();
    world.give_up(&handle).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

/// F-106: from an offset, the bytes are the rest of the whole or nothing at all; a body that breaks is an error.
pub async fn f_106_a_download_goes_on_or_says_that_it_cannot(subject: &Subject) {
    let world = World::new(subject).await;
    let (snapshot, _) = world.run(&["a", "b"]).await;
    let file = &snapshot.files[0];
    let whole = world.bytes(file, 0).await.unwrap();
    match world.bytes(file, 100).await {
        Ok(rest) => assert_eq!(rest, whole[100..]),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported),
    }
    let how = Cut::Rst;
    world.fault(
        subject.routes.results,
        FaultAction::CutAfter { bytes: 50, how },
    );
    let error = world.bytes(file, 0).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}

/// F-079: a cancel of what has ended is a conflict, and not repeated.
pub async fn f_079_a_cancel_of_what_has_ended_is_a_conflict(subject: &Subject) {
    let world = World::new(subject).await;
    let (snapshot, _) = world.run(&["a"]).await;
    // A provider that takes it without a word is right too: nothing changes.
    if let Err(error) = world.batch().cancel(&snapshot.handle).await {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(!error.is_retryable());
    }
    let after = world.batch().status(&snapshot.handle).await.unwrap();
    assert_eq!(after.status, BatchStatus::Completed);
}

/// Requests of a caller's own id go out under the wire id alone.
pub async fn f_172_the_callers_id_stays_at_home(subject: &Subject) {
    let world = World::new(subject).await;
    let request = Request::chat("CALLERS-OWN ü", subject.model, [Message::user("x")]);
    let lines = world.lines(&[("p-1", request)]);
    assert!(!String::from_utf8(lines).unwrap().contains("CALLERS-OWN"));
}
