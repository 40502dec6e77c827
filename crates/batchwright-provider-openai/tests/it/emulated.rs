//! What only OpenAI has, against the emulator: its further endpoints, its two result files, its words for a refused
//! input. What every provider must show is in `tests/conformance.rs`.

use batchwright_core::{
    BatchHandle, BatchProvider, BatchSnapshot, BatchStatus, CallOptions, ChatProvider, Message,
    Outcome, Payload, Request, Response, ResultFile, SealedBatch, SealedBody, SubmissionTag,
    SubmitError,
};
use batchwright_emulator::{
    BatchFailure, Emulator, EmulatorConfig, Face, FaultAction, FaultRule, Span, prompt_hash,
};
use batchwright_provider_openai::{ChatApi, OpenAi, OpenAiBuilder};
use futures::StreamExt;
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};

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
