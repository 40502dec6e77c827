//! The provider against the emulator of OpenAI's wire: direct calls, and the whole life of a batch.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use batchwright_core::{
    BatchHandle, BatchProvider, BatchSnapshot, BatchStatus, CallOptions, ChatProvider, Ending,
    ErrorKind, FinishReason, InputRef, ListMark, Message, Outcome, Payload, Request, Response,
    ResponseFormat, ResultFile, RetryClass, SealedBatch, SealedBody, SubmissionTag, SubmitError,
};
use batchwright_emulator::{
    BatchFailure, BatchPace, Cut, Emulator, EmulatorConfig, Face, FaultAction, FaultRule, Mutation,
    MutationKind, Nth, Reply, Span, prompt_hash,
};
use batchwright_provider_openai::{ChatApi, OpenAi, OpenAiBuilder};
use futures::StreamExt;
use serde_json::json;
use std::{collections::BTreeMap, io::Write, time::Duration};

const MODEL: &str = "gpt-4o-mini";
const HOUR: Duration = Duration::from_secs(3600);

struct World {
    emulator: Emulator,
    openai: OpenAi,
}

impl World {
    /// Virtual time stands still until a test moves it.
    async fn new() -> Self {
        Self::with(EmulatorConfig::default(), |builder| builder).await
    }

    async fn with(
        config: EmulatorConfig,
        set: impl FnOnce(OpenAiBuilder) -> OpenAiBuilder,
    ) -> Self {
        let emulator = Emulator::start(config.with_time_scale(0.0)).await.unwrap();
        let builder = OpenAi::builder("sk-emulated").base_url(emulator.base_url(Face::OpenAi));
        let openai = set(builder).build().unwrap();
        Self { emulator, openai }
    }

    async fn ask(&self, request: &Request) -> batchwright_core::Result<Response> {
        self.openai.complete(request, &CallOptions::default()).await
    }

    async fn submit(
        &self,
        requests: &[(&str, Request)],
        chunk: u32,
    ) -> (BatchHandle, SubmissionTag) {
        let tag = tag(chunk);
        let batch = sealed(&self.openai, requests);
        let input = self.openai.upload(&batch, &tag).await.unwrap();
        let handle = self.openai.submit(&batch, &input, &tag).await.unwrap();
        assert_eq!(handle.provider, "openai");
        (handle, tag)
    }

    async fn after(&self, time: Duration, handle: &BatchHandle) -> BatchSnapshot {
        self.emulator.advance(time).await.unwrap();
        self.openai.status(handle).await.unwrap()
    }

    async fn outcomes(&self, snapshot: &BatchSnapshot) -> BTreeMap<String, Outcome> {
        let mut outcomes = BTreeMap::new();
        for file in &snapshot.files {
            let bytes = self.bytes(file, 0).await.unwrap();
            for line in bytes
                .split(|&byte| byte == b'\n')
                .filter(|line| !line.is_empty())
            {
                let outcome = self
                    .openai
                    .decode(line)
                    .expect("a line that names a request");
                assert!(
                    outcomes
                        .insert(outcome.custom_id.clone(), outcome)
                        .is_none()
                );
            }
        }
        outcomes
    }

    async fn bytes(&self, file: &ResultFile, offset: u64) -> batchwright_core::Result<Vec<u8>> {
        let mut stream = self.openai.download(file, offset).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes)
    }

    fn fault(&self, method: &str, path: &str, action: FaultAction) {
        let path = format!("/openai/v1{path}");
        self.emulator
            .add_faults(vec![FaultRule::on(method, &path).times(1).action(action)]);
    }

    fn calls(&self, method: &str, path: &str) -> u64 {
        self.emulator.calls(method, &format!("/openai/v1{path}"))
    }
}

fn tag(chunk: u32) -> SubmissionTag {
    SubmissionTag::new("job1", chunk, 1, "rnd1").unwrap()
}

fn chat(text: &str) -> Request {
    Request::chat("row", MODEL, [Message::user(text)])
}

fn lines(openai: &OpenAi, requests: &[(&str, Request)]) -> Vec<u8> {
    let mut lines = Vec::new();
    for (wire_id, request) in requests {
        openai.encode(request, wire_id, &mut lines).unwrap();
        lines.push(b'\n');
    }
    lines
}

fn sealed(openai: &OpenAi, requests: &[(&str, Request)]) -> SealedBatch {
    let lines = lines(openai, requests);
    let (bytes, rows) = (lines.len() as u64, requests.len() as u64);
    let (_, first) = requests.first().unwrap();
    let endpoint = BatchProvider::endpoint(openai, first).unwrap().to_owned();
    SealedBatch::new(
        SealedBody::Memory(lines.into()),
        bytes,
        rows,
        endpoint,
        &first.model,
    )
}

// ---- direct calls ----

#[tokio::test]
async fn chat_completions_and_responses_answer_the_prompt() {
    for api in [ChatApi::ChatCompletions, ChatApi::Responses] {
        let world = World::with(EmulatorConfig::default(), |builder| builder.chat_api(api)).await;
        let answer = world.ask(&chat("Wie heißt du? 😀")).await.unwrap();
        let mark = format!("[prompt:{}]", prompt_hash(["Wie heißt du? 😀"]));
        assert!(answer.text().contains(&mark), "{api:?}: {}", answer.text());
        assert_eq!(answer.finish_reason, Some(FinishReason::Stop));
        assert!(answer.usage.total_tokens().unwrap() > 0);
        assert!(answer.id.is_some() && answer.model.is_some() && answer.request_id.is_some());
        assert!(
            answer.raw.unwrap().get().contains(&mark),
            "the body is kept"
        );
        assert_eq!(world.emulator.invoice().await.unwrap().len(), 1);

        let refused = world.ask(&chat("[[refuse]]")).await.unwrap();
        assert!(
            matches!(refused.into_ending(), Ending::Refused(_)),
            "{api:?}"
        );
        let filtered = world.ask(&chat("[[filter]]")).await.unwrap();
        assert_eq!(
            filtered.finish_reason,
            Some(FinishReason::ContentFilter),
            "{api:?}"
        );
        let cut = world.ask(&chat("[[length]]")).await.unwrap();
        assert!(cut.is_truncated(), "{api:?}");
    }
}

#[tokio::test]
async fn embeddings_and_raw_bodies_go_to_their_own_endpoints() {
    let world = World::new().await;
    let input = batchwright_core::EmbeddingInput::new(["a".to_owned(), "b".to_owned()]);
    let mut request = Request::new("row", "text-embedding-3-small", Payload::Embedding(input));
    let floats = world.ask(&request).await.unwrap();
    assert_eq!(floats.embeddings.len(), 2);
    assert!(floats.finish_reason.is_none() && floats.content.is_empty());
    request
        .extra
        .insert("encoding_format".into(), json!("base64"));
    let packed = world.ask(&request).await.unwrap();
    for (a, b) in floats
        .embeddings
        .iter()
        .flatten()
        .zip(packed.embeddings.iter().flatten())
    {
        assert!((a - b).abs() < 1e-6);
    }
    assert_ne!(floats.embeddings[0], floats.embeddings[1]);

    let body = json!({"model": MODEL, "input": "raw", "instructions": "terse"}).to_string();
    let body = serde_json::value::RawValue::from_string(body).unwrap();
    let answer = world
        .ask(&Request::raw("row", "/v1/responses", body).unwrap())
        .await
        .unwrap();
    assert!(answer.text().contains(&prompt_hash(["terse", "raw"])));
    assert_eq!(world.calls("POST", "/responses"), 1);
}

#[tokio::test]
async fn a_schema_is_obeyed() {
    let schema = json!({"type": "object", "properties": {"colour": {"type": "string"}},
        "required": ["colour"], "additionalProperties": false});
    for api in [ChatApi::ChatCompletions, ChatApi::Responses] {
        let world = World::with(EmulatorConfig::default(), |builder| builder.chat_api(api)).await;
        let format = ResponseFormat::JsonSchema {
            name: "c".into(),
            schema: schema.clone(),
            strict: true,
        };
        let conversation =
            batchwright_core::Chat::new([Message::user("a colour")]).with_response_format(format);
        let answer = world
            .ask(&Request::new("row", MODEL, Payload::Chat(conversation)))
            .await
            .unwrap();
        let read: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
        assert!(read["colour"].is_string(), "{api:?}");
    }
}

#[tokio::test]
async fn failures_keep_their_class_over_the_wire() {
    let world = World::new().await;
    for (status, kind, class) in [
        (400, ErrorKind::InvalidRequest, RetryClass::RowFatal),
        (401, ErrorKind::Unauthenticated, RetryClass::JobStop),
        (404, ErrorKind::NotFound, RetryClass::JobStop),
        (429, ErrorKind::RateLimited, RetryClass::Rejected),
        (500, ErrorKind::ProviderFault, RetryClass::Ambiguous),
        (503, ErrorKind::Overloaded, RetryClass::Rejected),
    ] {
        let before = world.calls("POST", "/chat/completions");
        let error = world
            .ask(&chat(&format!("[[error:{status}]]")))
            .await
            .unwrap_err();
        assert_eq!((error.kind(), error.class()), (kind, class), "{error}");
        assert_eq!(error.provider(), Some("openai"));
        assert_eq!(error.model(), Some(MODEL));
        assert_eq!(
            world.calls("POST", "/chat/completions"),
            before + 1,
            "sent once"
        );
    }
    let unknown = Request::chat("row", "gpt-none", [Message::user("x")]);
    assert!(world.ask(&unknown).await.unwrap_err().is_job_stop());
}

/// F-034, F-035: a broken connection after sending may have been paid, and is not sent again.
#[tokio::test]
async fn a_dropped_call_is_ambiguous_and_sent_once() {
    let world = World::new().await;
    for action in [
        FaultAction::CommitThenDrop,
        FaultAction::CutAfter {
            bytes: 20,
            how: Cut::Rst,
        },
    ] {
        world.fault("POST", "/chat/completions", action);
        let before = world.calls("POST", "/chat/completions");
        let error = world.ask(&chat("x")).await.unwrap_err();
        assert!(error.is_ambiguous(), "{error}");
        assert_eq!(world.calls("POST", "/chat/completions"), before + 1);
    }
}

// ---- batches ----

#[tokio::test]
async fn a_batch_lives_to_its_end_and_every_row_gets_its_own() {
    let world = World::new().await;
    let texts = [
        "eins",
        "[[error:400]]",
        "[[refuse]]",
        "[[error:500]]",
        "fünf",
    ];
    let ids = ["p-0", "p-1", "p-2 ü 名", "p-3", "p-4"];
    let requests: Vec<_> = ids.into_iter().zip(texts.map(chat)).collect();
    let (handle, tag) = world.submit(&requests, 0).await;
    let fresh = world.openai.status(&handle).await.unwrap();
    assert_eq!(fresh.status, BatchStatus::Validating);
    assert!(fresh.files.is_empty() && fresh.ended_at.is_none());

    let snapshot = world.after(HOUR, &handle).await;
    assert_eq!(snapshot.status, BatchStatus::Completed);
    assert!(snapshot.ended_at > snapshot.created_at);
    assert_eq!(snapshot.counts.unwrap().total, 5);
    assert_eq!(snapshot.handle.input, handle.input);

    let outcomes = world.outcomes(&snapshot).await;
    assert_eq!(outcomes.len(), ids.len());
    for id in ["p-0", "p-4"] {
        let text = texts[ids.iter().position(|other| *other == id).unwrap()];
        let outcome = &outcomes[id];
        assert!(
            outcome
                .response()
                .unwrap()
                .text()
                .contains(&prompt_hash([text])),
            "I4: {id}"
        );
        assert!(outcome.ending.is_success());
        assert!(!outcome.response().unwrap().usage.is_unknown());
    }
    assert!(matches!(outcomes["p-2 ü 名"].ending, Ending::Refused(_)));
    assert_eq!(
        outcomes["p-1"].error().unwrap().class(),
        RetryClass::RowFatal
    );
    assert_eq!(
        outcomes["p-3"].error().unwrap().class(),
        RetryClass::Ambiguous
    );

    // F-079: a cancel of what has ended is a conflict and not repeated.
    let error = world.openai.cancel(&handle).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(!error.is_retryable());
    let listed = world.openai.recent().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].tag.as_ref(), Some(&tag));
    assert_eq!(listed[0].handle, handle);
}

#[tokio::test]
async fn batches_of_responses_and_of_embeddings() {
    let world = World::with(EmulatorConfig::default(), |builder| {
        builder.chat_api(ChatApi::Responses)
    })
    .await;
    let (handle, _) = world
        .submit(&[("a", chat("one")), ("b", chat("two"))], 0)
        .await;
    let outcomes = world.outcomes(&world.after(HOUR, &handle).await).await;
    assert!(
        outcomes["b"]
            .response()
            .unwrap()
            .text()
            .contains(&prompt_hash(["two"]))
    );

    let vector = Request::embedding("row", "text-embedding-3-small", "one");
    let direct = world.ask(&vector).await.unwrap();
    let (handle, _) = world.submit(&[("a", vector)], 1).await;
    let outcomes = world.outcomes(&world.after(HOUR, &handle).await).await;
    assert_eq!(
        outcomes["a"].response().unwrap().embeddings,
        direct.embeddings
    );
}

/// F-080: every row bad, no output file.
#[tokio::test]
async fn f_080_all_rows_bad_is_completed_with_an_error_file_alone() {
    let world = World::new().await;
    let (handle, _) = world
        .submit(
            &[("a", chat("[[error:400]]")), ("b", chat("[[error:400]]"))],
            0,
        )
        .await;
    let snapshot = world.after(HOUR, &handle).await;
    assert_eq!(snapshot.status, BatchStatus::Completed);
    assert_eq!(snapshot.files.len(), 1);
    assert_eq!(snapshot.files[0].label, "errors");
    assert_eq!(world.outcomes(&snapshot).await.len(), 2);
}

#[tokio::test]
async fn f_078_a_cancelled_batch_keeps_what_ran_and_marks_the_rest() {
    let pace = BatchPace::default().with_per_row(Duration::from_secs(60));
    let world = World::with(EmulatorConfig::default().with_pace(pace), |builder| builder).await;
    let requests: Vec<_> = ["a", "b", "c", "d"].map(|id| (id, chat(id))).into();
    let (handle, _) = world.submit(&requests, 0).await;
    world
        .emulator
        .advance(Duration::from_secs(200))
        .await
        .unwrap();
    world.openai.cancel(&handle).await.unwrap();
    assert_eq!(
        world.openai.status(&handle).await.unwrap().status,
        BatchStatus::Cancelling
    );
    let snapshot = world.after(HOUR, &handle).await;
    assert_eq!(snapshot.status, BatchStatus::Cancelled);
    assert!(snapshot.ended_at.is_some());
    let outcomes = world.outcomes(&snapshot).await;
    assert_eq!(outcomes.len(), 4);
    let cancelled = outcomes
        .values()
        .filter(|outcome| matches!(outcome.ending, Ending::Cancelled))
        .count();
    let done = outcomes
        .values()
        .filter(|outcome| outcome.ending.is_success())
        .count();
    assert!(
        cancelled > 0 && done > 0 && cancelled + done == 4,
        "{cancelled} {done}"
    );
}

#[tokio::test]
async fn f_076_an_expired_batch_keeps_what_ran_and_marks_the_rest() {
    let world = World::new().await;
    world.fault("POST", "/batches", FaultAction::ExpireAfterRows(1));
    let (handle, _) = world
        .submit(&[("a", chat("a")), ("b", chat("b")), ("c", chat("c"))], 0)
        .await;
    let snapshot = world.after(25 * HOUR, &handle).await;
    assert_eq!(snapshot.status, BatchStatus::Expired);
    let outcomes = world.outcomes(&snapshot).await;
    let expired = outcomes
        .values()
        .filter(|outcome| matches!(outcome.ending, Ending::Expired))
        .count();
    assert_eq!((outcomes.len(), expired), (3, 2));
}

#[tokio::test]
async fn f_010_f_073_a_batch_that_fails_validation_says_why() {
    let world = World::new().await;
    let batch = |chunk| {
        let requests = [("same", chat("a")), ("same", chat("b"))];
        let world = &world;
        async move { world.submit(&requests, chunk).await.0 }
    };
    let handle = batch(0).await;
    let snapshot = world.after(HOUR, &handle).await;
    assert_eq!(snapshot.status, BatchStatus::Failed);
    assert_eq!(
        snapshot.faults[0].code.as_deref(),
        Some("duplicate_custom_id")
    );
    assert_eq!(snapshot.faults[0].line, Some(2));
    assert!(!snapshot.queue_full && snapshot.files.is_empty());

    let full = BatchFailure::new("token_limit_exceeded", "Enqueued token limit reached");
    world.fault("POST", "/batches", FaultAction::FailBatch(full));
    let handle = batch(1).await;
    assert!(world.after(HOUR, &handle).await.queue_full);
}

/// F-104, F-108: odd files harm only the rows they are odd about.
#[tokio::test]
async fn odd_result_files_harm_only_their_own_rows() {
    for (kind, hollow) in [
        (MutationKind::Crlf, 0),
        (MutationKind::Bom, 0),
        (MutationKind::Blank, 0),
        (MutationKind::Hollow, 1),
    ] {
        let world = World::new().await;
        world.fault(
            "POST",
            "/batches",
            FaultAction::MutateResults(Mutation::new(kind, 1)),
        );
        let (handle, _) = world
            .submit(&[("a", chat("a")), ("b", chat("b")), ("c", chat("c"))], 0)
            .await;
        let snapshot = world.after(HOUR, &handle).await;
        let bytes = world.bytes(&snapshot.files[0], 0).await.unwrap();
        let mut endings: Vec<_> = bytes
            .split(|&byte| byte == b'\n')
            .filter_map(|line| world.openai.decode(line))
            .map(|outcome| outcome.ending.as_str())
            .collect();
        endings.sort_unstable();
        assert_eq!(endings.len(), 3, "{kind:?}");
        let unreadable = endings
            .iter()
            .filter(|ending| **ending == "unreadable")
            .count();
        assert_eq!(unreadable, hollow, "{kind:?}: {endings:?}");
    }
}

/// F-106: from an offset, the bytes are the rest of the whole or nothing at all.
#[tokio::test]
async fn f_106_a_download_goes_on_or_says_that_it_cannot() {
    let world = World::new().await;
    let (handle, _) = world.submit(&[("a", chat("a")), ("b", chat("b"))], 0).await;
    let snapshot = world.after(HOUR, &handle).await;
    let whole = world.bytes(&snapshot.files[0], 0).await.unwrap();
    match world.bytes(&snapshot.files[0], 100).await {
        Ok(rest) => assert_eq!(rest, whole[100..]),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported),
    }
    world.fault(
        "GET",
        "/files/*/content",
        FaultAction::CutAfter {
            bytes: 50,
            how: Cut::Rst,
        },
    );
    assert!(
        world
            .bytes(&snapshot.files[0], 0)
            .await
            .unwrap_err()
            .is_ambiguous()
    );
    let gone = world
        .bytes(&ResultFile::new("file-none", "output"), 0)
        .await
        .unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

/// F-089: bad polls are not the end of a batch.
#[tokio::test]
async fn f_089_a_poll_outlives_bad_answers() {
    let world = World::new().await;
    let (handle, _) = world.submit(&[("a", chat("a"))], 0).await;
    let html = Reply::status(502)
        .with_header("content-type", "text/html")
        .with_body(json!("<html>502</html>"));
    let bad = FaultRule::on("GET", "/openai/v1/batches/*").nth(Nth::Range {
        from: 1,
        to: Some(2),
    });
    world
        .emulator
        .add_faults(vec![bad.action(FaultAction::Reply(html))]);
    let snapshot = world.after(HOUR, &handle).await;
    assert_eq!(snapshot.status, BatchStatus::Completed);
    let missing = BatchHandle::new("openai", "batch_none", InputRef::default());
    let error = world.openai.status(&missing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

// ---- the create, when its answer is lost ----

/// F-110, F-111, F-112: one send, and the list finds what was bought.
#[tokio::test]
async fn a_lost_create_is_unknown_and_found_in_the_list() {
    for lost in [
        FaultAction::CommitThenDrop,
        FaultAction::CommitThenReply(Reply::status(500)),
        FaultAction::CommitThenReply(Reply::status(200).with_body(json!({}))),
        FaultAction::CommitThenReply(
            Reply::status(409).with_body(json!({"error": {"message": "x"}})),
        ),
    ] {
        for newest_first in [true, false] {
            let config = EmulatorConfig::default().with_newest_first(newest_first);
            let world = World::with(config, |builder| builder).await;
            for chunk in 0..3 {
                world.submit(&[("a", chat("old"))], chunk).await;
                world.emulator.advance(2 * HOUR).await.unwrap();
            }
            let recent = world.openai.recent().await.unwrap();
            let mark = ListMark::new(
                recent.into_iter().map(|batch| batch.handle.id).collect(),
                None,
            );

            let requests = [("a", chat("a"))];
            let batch = sealed(&world.openai, &requests);
            let input = world.openai.upload(&batch, &tag(9)).await.unwrap();
            let before = world.calls("POST", "/batches");
            world.fault("POST", "/batches", lost.clone());
            let error = world
                .openai
                .submit(&batch, &input, &tag(9))
                .await
                .unwrap_err();
            assert!(
                matches!(error, SubmitError::Unknown(_)),
                "{lost:?}: {error}"
            );
            assert_eq!(world.calls("POST", "/batches"), before + 1, "F-111");

            let found = world.openai.list_since(&mark).await.unwrap();
            assert_eq!(found.len(), 1, "{lost:?} {newest_first}");
            assert_eq!(found[0].handle.input, input);
            assert_eq!(found[0].tag, Some(tag(9)));
        }
    }
}

#[tokio::test]
async fn a_refused_create_bought_nothing() {
    let world = World::new().await;
    let requests = [("a", chat("a"))];
    let batch = sealed(&world.openai, &requests);
    let input = world.openai.upload(&batch, &tag(1)).await.unwrap();
    let refusal = json!({"error": {"message": "no", "type": "invalid_request_error", "param": null, "code": null}});
    world.fault(
        "POST",
        "/batches",
        FaultAction::Reply(Reply::status(400).with_body(refusal)),
    );
    let error = world
        .openai
        .submit(&batch, &input, &tag(1))
        .await
        .unwrap_err();
    assert!(matches!(error, SubmitError::Refused(_)), "{error}");
    let mark = ListMark::default();
    assert!(world.openai.list_since(&mark).await.unwrap().is_empty());
}

/// F-116: a list of more than one page is read to its mark.
#[tokio::test]
async fn f_116_the_list_is_read_page_by_page() {
    let world = World::new().await;
    let requests = [("a", chat("a"))];
    let batch = sealed(&world.openai, &requests);
    let input = world.openai.upload(&batch, &tag(0)).await.unwrap();
    for chunk in 0..230 {
        world
            .openai
            .submit(&batch, &input, &tag(chunk))
            .await
            .unwrap();
    }
    assert_eq!(world.openai.recent().await.unwrap().len(), 100);
    let all = world.openai.list_since(&ListMark::default()).await.unwrap();
    assert_eq!(all.len(), 230);
    let pages = world.calls("GET", "/batches");
    assert_eq!(pages, 1 + 3);
}

// ---- files ----

#[tokio::test]
async fn f_119_an_upload_from_disk_is_found_again_and_discarded() {
    let world = World::new().await;
    let requests = [("a", chat("a")), ("b", chat("b"))];
    let lines = lines(&world.openai, &requests);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&lines).unwrap();
    let body = SealedBody::File(file.path().to_owned());
    let batch = SealedBatch::new(body, lines.len() as u64, 2, "/v1/chat/completions", MODEL);

    assert_eq!(
        world.openai.find_upload(&batch, &tag(0)).await.unwrap(),
        None
    );
    let input = world.openai.upload(&batch, &tag(0)).await.unwrap();
    assert_eq!(
        world.openai.find_upload(&batch, &tag(0)).await.unwrap(),
        Some(input.clone())
    );
    assert_eq!(
        world.openai.find_upload(&batch, &tag(1)).await.unwrap(),
        None
    );
    let stored = world
        .bytes(&ResultFile::new(&input.0, "input"), 0)
        .await
        .unwrap();
    assert_eq!(stored, lines, "byte for byte");

    world.openai.discard(&input).await.unwrap();
    world.openai.discard(&input).await.unwrap();
    assert_eq!(
        world.openai.find_upload(&batch, &tag(0)).await.unwrap(),
        None
    );

    // The fence: a create that comes late fails at validation.
    let handle = world.openai.submit(&batch, &input, &tag(0)).await;
    if let Ok(handle) = handle {
        let snapshot = world.after(HOUR, &handle).await;
        assert_eq!(snapshot.status, BatchStatus::Failed);
        assert_eq!(snapshot.faults[0].param.as_deref(), Some("file_id"));
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_left_nothing_or_is_found() {
    let world = World::new().await;
    let requests = [("a", chat("a"))];
    let batch = sealed(&world.openai, &requests);
    world.fault("POST", "/files", FaultAction::CommitThenDrop);
    assert!(
        world
            .openai
            .upload(&batch, &tag(0))
            .await
            .unwrap_err()
            .is_retryable()
    );
    assert!(
        world
            .openai
            .find_upload(&batch, &tag(0))
            .await
            .unwrap()
            .is_some()
    );
}

/// F-086: a file that is not visible yet makes the batch fail at validation, or refuses it; never more.
#[tokio::test]
async fn f_086_a_file_that_lags_is_reported() {
    let world = World::new().await;
    let requests = [("a", chat("a"))];
    let batch = sealed(&world.openai, &requests);
    world.fault("POST", "/files", FaultAction::VisibleLag(Span(HOUR)));
    let input = world.openai.upload(&batch, &tag(0)).await.unwrap();
    match world.openai.submit(&batch, &input, &tag(0)).await {
        Ok(handle) => {
            let snapshot = world.after(Duration::from_secs(600), &handle).await;
            assert_eq!(snapshot.status, BatchStatus::Failed);
            assert_eq!(snapshot.faults[0].param.as_deref(), Some("file_id"));
        }
        Err(error) => assert!(matches!(error, SubmitError::Refused(_)), "{error}"),
    }
}
