//! The presets' habits: against the emulator's compatible face in their own positions, and single exchanges.

use batchwright_core::{
    BatchProvider, BatchSnapshot, BatchStatus, CallOptions, ChatProvider, Ending, ErrorKind,
    ListMark, Message, Request, RetryClass, SealedBatch, SealedBody, SubmissionTag, SubmitError,
};
use batchwright_emulator::{Emulator, EmulatorConfig, Face, FaultAction, FaultRule, prompt_hash};
use batchwright_provider_openai::{Dialect, OpenAi, OpenAiConfig};
use futures::StreamExt;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use wiremock::matchers::{body_string_contains, header, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

const HOUR: Duration = Duration::from_secs(3600);

struct World {
    emulator: Emulator,
    provider: OpenAi,
}

impl World {
    /// The preset over the compatible face with these switches; virtual time stands still.
    async fn new(name: &str, options: Value) -> Self {
        Self::with(name, options, &[("KEY", "sk-emulated")]).await
    }

    async fn with(name: &str, options: Value, pairs: &[(&str, &str)]) -> Self {
        let config = EmulatorConfig::default()
            .with_time_scale(0.0)
            .with_face_options(Face::Compatible, options);
        let emulator = Emulator::start(config).await.unwrap();
        let preset = Dialect::named(name).unwrap();
        let base = emulator.base_url(Face::Compatible);
        let root = base.strip_suffix("/v1").unwrap();
        let mut all = vec![(preset.base_url_var.unwrap(), root)];
        all.extend(pairs.iter().map(|&(name, value)| match name {
            "KEY" => (preset.key_var, value),
            other => (other, value),
        }));
        let mut config = OpenAiConfig::from_env_of(preset, all).unwrap();
        // Those whose variable holds the version too.
        if !config.base_url.ends_with("/v1") {
            config.base_url = base;
        }
        let provider = OpenAi::new(config).unwrap();
        Self { emulator, provider }
    }

    fn sealed(&self, texts: &[&str]) -> SealedBatch {
        let mut lines = Vec::new();
        for (row, text) in texts.iter().enumerate() {
            let wire_id = format!("p-{row}");
            self.provider
                .encode(&chat(text), &wire_id, &mut lines)
                .unwrap();
            lines.push(b'\n');
        }
        let (bytes, rows) = (lines.len() as u64, texts.len() as u64);
        let endpoint = self.provider.endpoint(&chat("x")).unwrap().to_owned();
        SealedBatch::new(
            SealedBody::Memory(lines.into()),
            bytes,
            rows,
            endpoint,
            "small-model",
        )
    }

    async fn run(&self, texts: &[&str]) -> (BatchSnapshot, BTreeMap<String, Ending>) {
        let batch = self.sealed(texts);
        let input = self.provider.upload(&batch, &tag()).await.unwrap();
        self.emulator
            .advance(Duration::from_secs(120))
            .await
            .unwrap();
        let handle = self.provider.submit(&batch, &input, &tag()).await.unwrap();
        assert_eq!(
            self.provider.find_upload(&batch, &tag()).await.unwrap(),
            Some(input.clone())
        );
        let early = self.provider.status(&handle).await.unwrap();
        assert!(!early.status.is_terminal(), "{:?}", early.status);
        let listed = self
            .provider
            .list_since(&ListMark::default())
            .await
            .unwrap();
        assert!(
            listed
                .iter()
                .any(|it| it.handle.input == input && it.handle.id == handle.id)
        );
        self.emulator.advance(HOUR).await.unwrap();
        let snapshot = self.provider.status(&handle).await.unwrap();
        let mut endings = BTreeMap::new();
        for file in &snapshot.files {
            let mut stream = self.provider.download(file, 0).await.unwrap();
            let mut bytes = Vec::new();
            while let Some(piece) = stream.next().await {
                bytes.extend_from_slice(&piece.unwrap());
            }
            for line in bytes
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
            {
                let outcome = self.provider.decode(line).unwrap();
                endings.insert(outcome.custom_id, outcome.ending);
            }
        }
        (snapshot, endings)
    }

    async fn ask(&self, text: &str) -> batchwright_core::Result<batchwright_core::Response> {
        self.provider
            .complete(&chat(text), &CallOptions::default())
            .await
    }
}

fn tag() -> SubmissionTag {
    SubmissionTag::new("job1", 0, 1, "rnd1").unwrap()
}

fn chat(text: &str) -> Request {
    Request::chat("row", "small-model", [Message::user(text)])
}

fn is_answer_to(ending: &Ending, text: &str) -> bool {
    matches!(ending, Ending::Succeeded(answer) if answer.text().contains(&prompt_hash([text])))
}

/// The preset over a mock server, and that server.
async fn mocked(name: &str, reply: ResponseTemplate) -> (OpenAi, MockServer) {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .respond_with(reply)
        .expect(1)
        .mount(&server)
        .await;
    let mut config = OpenAiConfig::of(Dialect::named(name).unwrap(), "CANARY_KEY_0123456789");
    config.base_url = server.uri();
    (OpenAi::new(config).unwrap(), server)
}

async fn answered(name: &str, body: Value) -> batchwright_core::Result<batchwright_core::Response> {
    let reply = ResponseTemplate::new(200).set_body_json(body);
    let (provider, _server) = mocked(name, reply).await;
    provider.complete(&chat("x"), &CallOptions::default()).await
}

fn said(finish: &str, usage: Value) -> Value {
    json!({"id": "c-1", "model": "m", "usage": usage,
        "choices": [{"finish_reason": finish, "message": {"content": "Paris."}}]})
}

// ---- Azure ----

/// F-085, F-086, F-057: capital states, ISO times, and an input that is not processed at once, in both ways its
/// paths can be.
#[tokio::test]
async fn f_085_f_086_azure_in_both_its_forms() {
    for (version, url) in [
        (None, "/v1/chat/completions"),
        (Some("2024-10-21"), "/chat/completions"),
    ] {
        let mut pairs = vec![("KEY", "azure-key")];
        pairs.extend(version.map(|version| ("OPENAI_API_VERSION", version)));
        let world = World::with("azure", json!({"preset": "azure"}), &pairs).await;

        let answer = world.ask("hello").await.unwrap();
        assert!(answer.text().contains(&prompt_hash(["hello"])));
        let limit = answer.rate_limit.unwrap_or_default();
        assert_eq!(limit.remaining_tokens, None, "-1 is unknown");
        let filtered = world.ask("[[filter]]").await.unwrap_err();
        assert_eq!(
            (filtered.kind(), filtered.class()),
            (ErrorKind::ContentFiltered, RetryClass::RowFatal)
        );

        let batch = world.sealed(&["a"]);
        let SealedBody::Memory(line) = &batch.body else {
            panic!("in memory")
        };
        let line: Value = serde_json::from_slice(line).unwrap();
        assert_eq!(line["url"], url);

        let input = world.provider.upload(&batch, &tag()).await.unwrap();
        let early = world
            .provider
            .submit(&batch, &input, &tag())
            .await
            .unwrap_err();
        let SubmitError::NotSent(error) = early else {
            panic!("{early}")
        };
        assert_eq!(error.class(), RetryClass::Rejected);
        assert!(error.retry_after().is_some());
        assert_eq!(
            world.emulator.calls("POST", "/compatible/v1/batches"),
            0,
            "nothing was sent"
        );

        let (snapshot, endings) = world.run(&["one", "two", "[[error:400]]"]).await;
        assert_eq!(snapshot.status, BatchStatus::Completed);
        assert!(snapshot.created_at.is_some() && snapshot.ended_at.is_some());
        assert!(is_answer_to(&endings["p-0"], "one") && is_answer_to(&endings["p-1"], "two"));
        assert!(matches!(&endings["p-2"], Ending::Failed(error) if error.status() == Some(400)));
    }
}

#[tokio::test]
async fn azures_dated_paths_have_the_deployment_the_version_and_the_key_header() {
    let server = MockServer::start().await;
    let url = "/openai/deployments/my%20model/chat/completions";
    Mock::given(method("POST"))
        .and(path(url))
        .and(query_param("api-version", "2024-10-21"))
        .and(header("api-key", "azure-key"))
        .respond_with(ResponseTemplate::new(200).set_body_json(said("stop", Value::Null)))
        .expect(1)
        .mount(&server)
        .await;
    Mock::given(method("POST"))
        .and(path("/openai/batches"))
        .and(query_param("api-version", "2024-10-21"))
        .and(body_string_contains(r#""endpoint":"/chat/completions""#))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"id": "b"})))
        .expect(1)
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .and(path("/openai/files/file-1"))
        .respond_with(
            ResponseTemplate::new(200)
                .set_body_json(json!({"id": "file-1", "status": "Processed"})),
        )
        .expect(1)
        .mount(&server)
        .await;
    let pairs = [
        ("AZURE_OPENAI_API_KEY", "azure-key"),
        ("AZURE_OPENAI_ENDPOINT", &server.uri()),
        ("OPENAI_API_VERSION", "2024-10-21"),
    ];
    let azure = OpenAi::new(OpenAiConfig::from_env_of(&Dialect::AZURE, pairs).unwrap()).unwrap();
    let request = Request::chat("row", "my model", [Message::user("x")]);
    azure
        .complete(&request, &CallOptions::default())
        .await
        .unwrap();
    let sent = server.received_requests().await.unwrap().remove(0);
    assert!(sent.headers.get("authorization").is_none());
    let batch = SealedBatch::new(
        SealedBody::Memory("{}\n".into()),
        3,
        1,
        "/v1/chat/completions",
        "m",
    );
    azure
        .submit(&batch, &batchwright_core::InputRef("file-1".into()), &tag())
        .await
        .unwrap();
    for bad in ["", "a b", "2024&x=1"] {
        let mut config = OpenAiConfig::of(&Dialect::AZURE, "k");
        config.base_url = server.uri();
        config.api_version = Some(bad.to_owned());
        assert_eq!(
            OpenAi::new(config).unwrap_err().kind(),
            ErrorKind::ConfigInvalid,
            "{bad}"
        );
    }
}

/// F-214: Azure's and others' refusals at creation, in a shape of their own.
#[tokio::test]
async fn f_214_a_create_that_validates_is_refused_in_words() {
    let body = json!({"errors": {"object": "list", "data": [{"code": "too_many_tasks", "message": "Too many."}]}});
    let reply = ResponseTemplate::new(400).set_body_json(body);
    let (provider, _server) = mocked("doubleword", reply).await;
    let batch = SealedBatch::new(
        SealedBody::Memory("{}\n".into()),
        3,
        1,
        "/v1/chat/completions",
        "m",
    );
    let error = provider
        .submit(&batch, &batchwright_core::InputRef("f".into()), &tag())
        .await
        .unwrap_err();
    let SubmitError::Refused(error) = error else {
        panic!("{error}")
    };
    assert_eq!(error.message(), "Too many.");
    let world = World::new(
        "doubleword",
        json!({"preset": "doubleword", "validation": "at_creation"}),
    )
    .await;
    let batch = world.sealed(&["x"]);
    let mut twice = Vec::new();
    for _ in 0..2 {
        world
            .provider
            .encode(&chat("x"), "same", &mut twice)
            .unwrap();
        twice.push(b'\n');
    }
    let bytes = twice.len() as u64;
    let twice = SealedBatch::new(
        SealedBody::Memory(twice.into()),
        bytes,
        2,
        batch.endpoint.clone(),
        "small-model",
    );
    let input = world.provider.upload(&twice, &tag()).await.unwrap();
    let error = world
        .provider
        .submit(&twice, &input, &tag())
        .await
        .unwrap_err();
    assert!(matches!(error, SubmitError::Refused(_)), "{error}");
}

// ---- Together ----

/// F-085, F-210, F-211, F-213: words in capitals, a job within the answer, a list alone, no metadata, no counts.
#[tokio::test]
async fn f_211_f_213_together() {
    let world = World::new("together", json!({"preset": "together"})).await;
    let (snapshot, endings) = world.run(&["one", "[[error:400]]"]).await;
    assert_eq!(snapshot.status, BatchStatus::Completed);
    assert_eq!(snapshot.counts, None);
    assert!(!snapshot.results_pending);
    assert!(is_answer_to(&endings["p-0"], "one"));
    assert!(matches!(endings["p-1"], Ending::Failed(_)));

    let batch = world.sealed(&["again"]);
    let input = world.provider.upload(&batch, &tag()).await.unwrap();
    let handle = world.provider.submit(&batch, &input, &tag()).await.unwrap();
    world.provider.cancel(&handle).await.unwrap();
    let cancelling = world.provider.status(&handle).await.unwrap();
    assert_eq!(cancelling.status, BatchStatus::Cancelling);
    world.emulator.advance(HOUR).await.unwrap();
    let cancelled = world.provider.status(&handle).await.unwrap();
    assert_eq!(cancelled.status, BatchStatus::Cancelled);
}

/// F-073: a failed job's `error` is the batch's own and no error of the call.
#[tokio::test]
async fn f_073_togethers_failed_job_says_why() {
    let world = World::new("together", json!({"preset": "together"})).await;
    let lost = batchwright_core::InputRef("file-none".into());
    let handle = world
        .provider
        .submit(&world.sealed(&["x"]), &lost, &tag())
        .await
        .unwrap();
    world.emulator.advance(HOUR).await.unwrap();
    let failed = world.provider.status(&handle).await.unwrap();
    assert_eq!(failed.status, BatchStatus::Failed);
    assert!(!failed.faults[0].message.is_empty());
}

#[tokio::test]
async fn togethers_upload_has_its_own_path_purpose_and_name() {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/files/upload"))
        .and(body_string_contains(
            "name=\"purpose\"\r\n\r\nbatch-api\r\n",
        ))
        .and(body_string_contains(
            "name=\"file_name\"\r\n\r\nbw1-job1-0-1-rnd1.jsonl\r\n",
        ))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"id": "f", "bytes": 3})))
        .expect(1)
        .mount(&server)
        .await;
    Mock::given(method("POST"))
        .and(path("/batches"))
        .respond_with(ResponseTemplate::new(201).set_body_json(json!({"job": {"id": "j"}})))
        .expect(1)
        .mount(&server)
        .await;
    let mut config = OpenAiConfig::of(&Dialect::TOGETHER, "k");
    config.base_url = server.uri();
    let together = OpenAi::new(config).unwrap();
    let lines = SealedBody::Memory("{}\n".into());
    let batch = SealedBatch::new(lines, 3, 1, "/v1/chat/completions", "m");
    let input = together.upload(&batch, &tag()).await.unwrap();
    let handle = together.submit(&batch, &input, &tag()).await.unwrap();
    assert_eq!(handle.id, "j");
    let sent = server.received_requests().await.unwrap().pop().unwrap();
    let sent: Value = serde_json::from_slice(&sent.body).unwrap();
    assert!(sent.get("metadata").is_none());
    assert!(sent["completion_window"].is_string());
}

#[test]
fn togethers_own_words_for_rows() {
    let together = OpenAi::new(OpenAiConfig::of(&Dialect::TOGETHER, "k")).unwrap();
    let line =
        br#"{"id":"1","custom_id":"a","error":{"code":"batch_client_error","message":"bad"}}"#;
    let Ending::Failed(error) = together.decode(line).unwrap().ending else {
        panic!("failed")
    };
    assert_eq!(error.class(), RetryClass::RowFatal);
    let limits = BatchProvider::capability(&together).batch.as_ref().unwrap();
    assert!(!limits.custom_id.allows(&"x".repeat(65)));
}

// ---- Doubleword ----

/// F-080, F-054: null fields are left out, all rows failed is `failed`, and the rows' errors are there all the same.
#[tokio::test]
async fn f_080_doubleword() {
    let world = World::new("doubleword", json!({"preset": "doubleword"})).await;
    let (snapshot, endings) = world.run(&["one", "[[error:400]]"]).await;
    assert_eq!(snapshot.status, BatchStatus::Completed);
    assert!(is_answer_to(&endings["p-0"], "one"));
    assert_eq!(snapshot.handle.provider, "doubleword");

    let world = World::new("doubleword", json!({"preset": "doubleword"})).await;
    let (snapshot, endings) = world.run(&["[[error:400]]", "[[error:400]]"]).await;
    assert_eq!(snapshot.status, BatchStatus::Failed);
    assert_eq!(endings.len(), 2);
    assert!(!snapshot.queue_full && snapshot.account_fault.is_none());
    assert_eq!(snapshot.counts.map(|counts| counts.failed), Some(2));
}

/// F-215, F-216: a minimum of rows is told; an id that is shown early is no end.
#[tokio::test]
async fn f_215_f_216_minimums_and_early_ids() {
    let world = World::new(
        "doubleword",
        json!({"preset": "doubleword", "least_rows": 2, "early_file_ids": true}),
    )
    .await;
    let batch = world.sealed(&["alone"]);
    let input = world.provider.upload(&batch, &tag()).await.unwrap();
    let handle = world.provider.submit(&batch, &input, &tag()).await.unwrap();
    let early = world.provider.status(&handle).await.unwrap();
    assert!(!early.status.is_terminal());
    world.emulator.advance(HOUR).await.unwrap();
    let failed = world.provider.status(&handle).await.unwrap();
    assert_eq!(failed.status, BatchStatus::Failed);
    assert_eq!(failed.faults[0].code.as_deref(), Some("too_few_tasks"));
    let (snapshot, endings) = world.run(&["one", "two"]).await;
    assert_eq!(
        (snapshot.status, endings.len()),
        (BatchStatus::Completed, 2)
    );
}

// ---- direct calls ----

/// A wrong key is a 400 at xAI, and nobody is served with it (F-027).
#[tokio::test]
async fn f_027_xai_says_wrong_key_in_a_sentence() {
    for (message, kind, class) in [
        (
            "Incorrect API key provided: na***ys.",
            ErrorKind::Unauthenticated,
            RetryClass::JobStop,
        ),
        (
            "Incorrect%20API%20key%20provided:%20na",
            ErrorKind::Unauthenticated,
            RetryClass::JobStop,
        ),
        (
            "Argument not supported: stop",
            ErrorKind::InvalidRequest,
            RetryClass::RowFatal,
        ),
    ] {
        let body = json!({"code": "Client specified an invalid argument", "error": message});
        let reply = ResponseTemplate::new(400)
            .set_body_json(body)
            .insert_header("x-request-id", "r");
        let (xai, _server) = mocked("xai", reply).await;
        let error = xai
            .complete(&chat("x"), &CallOptions::default())
            .await
            .unwrap_err();
        assert_eq!((error.kind(), error.class()), (kind, class), "{error}");
        assert_eq!((error.status(), error.request_id()), (Some(400), Some("r")));
        assert_eq!(error.provider(), Some("xai"));
    }
}

/// F-066: what is counted beside the output is output all the same.
/// F-006: money at its end comes as a limit of the minute at xAI, and as a refusal of the row at OpenRouter.
#[tokio::test]
async fn f_006_money_at_its_end_is_told_by_a_sentence() {
    let team =
        "Your team 1 has either used all available credits or reached its monthly spending limit.";
    let busy =
        "Too many requests for team 1. Your team has used all available credits of the minute.";
    let key =
        "Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys";
    for (name, status, message, kind, class) in [
        (
            "xai",
            429,
            team,
            ErrorKind::QuotaExceeded,
            RetryClass::JobStop,
        ),
        (
            "xai",
            429,
            busy,
            ErrorKind::RateLimited,
            RetryClass::Rejected,
        ),
        (
            "openrouter",
            403,
            key,
            ErrorKind::QuotaExceeded,
            RetryClass::JobStop,
        ),
        (
            "openrouter",
            403,
            "flagged by moderation: Key limit exceeded",
            ErrorKind::ContentFiltered,
            RetryClass::RowFatal,
        ),
    ] {
        let body = match name {
            "xai" => json!({"code": "Some resource has been exhausted", "error": message}),
            _ => json!({"error": {"code": status, "message": message}}),
        };
        let (provider, _server) =
            mocked(name, ResponseTemplate::new(status).set_body_json(body)).await;
        let error = provider
            .complete(&chat("x"), &CallOptions::default())
            .await
            .unwrap_err();
        assert_eq!((error.kind(), error.class()), (kind, class), "{error}");
    }
}

#[tokio::test]
async fn f_066_xai_counts_reasoning_beside_the_output() {
    let usage = json!({"prompt_tokens": 5, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 40}});
    let answer = answered("xai", said("stop", usage.clone())).await.unwrap();
    assert_eq!(
        (answer.usage.output_tokens, answer.usage.reasoning_tokens),
        (Some(43), Some(40))
    );
    let answer = answered("openrouter", said("stop", usage)).await.unwrap();
    assert_eq!(answer.usage.output_tokens, Some(3));
    let none = said("stop", json!({"prompt_tokens": 5, "completion_tokens": 3}));
    assert_eq!(
        answered("xai", none).await.unwrap().usage.output_tokens,
        Some(3)
    );
}

/// F-040, F-217: blank lines first and another content type; reasoning in its own key; its own name for the cache.
#[tokio::test]
async fn f_217_deepseek() {
    let world = World::new("deepseek", json!({"preset": "deepseek"})).await;
    let thinking = Request::chat("row", "thinking-model", [Message::user("hello")]);
    let answer = world
        .provider
        .complete(&thinking, &CallOptions::default())
        .await
        .unwrap();
    assert!(answer.text().contains(&prompt_hash(["hello"])));
    assert!(
        answer
            .content
            .iter()
            .any(|part| matches!(part, batchwright_core::Part::Thinking(_)))
    );

    let usage = json!({"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 7, "prompt_cache_miss_tokens": 2});
    let answer = answered("deepseek", said("stop", usage.clone()))
        .await
        .unwrap();
    assert_eq!(answer.usage.cache_read_input_tokens, Some(7));
    let error = answered("deepseek", said("insufficient_system_resource", usage))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.class()),
        (ErrorKind::Overloaded, RetryClass::Ambiguous)
    );
    assert!(error.usage().is_some(), "what it cost is known");

    let body = json!({"error": {"message": "Insufficient Balance", "type": "unknown_error", "param": null, "code": "invalid_request_error"}});
    let (deepseek, server) =
        mocked("deepseek", ResponseTemplate::new(402).set_body_json(body)).await;
    let mut request = chat("x");
    request.sampling = batchwright_core::Sampling::default()
        .with_max_output_tokens(7)
        .unwrap();
    let error = deepseek
        .complete(&request, &CallOptions::default())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.class()),
        (ErrorKind::QuotaExceeded, RetryClass::JobStop)
    );
    let sent = server.received_requests().await.unwrap().remove(0);
    assert_eq!(
        sent.url.path(),
        "/chat/completions",
        "F-221: no version in its path"
    );
    let sent: Value = serde_json::from_slice(&sent.body).unwrap();
    assert_eq!(sent["max_tokens"], 7);
}

/// F-050, F-220: an error in a success, its code a number.
#[tokio::test]
async fn f_050_f_220_openrouter() {
    let world = World::new("openrouter", json!({"preset": "openrouter"})).await;
    world.ask("hello").await.unwrap();
    for (status, kind, class) in [
        (400, ErrorKind::InvalidRequest, RetryClass::RowFatal),
        (402, ErrorKind::QuotaExceeded, RetryClass::JobStop),
        (403, ErrorKind::ContentFiltered, RetryClass::RowFatal),
        (408, ErrorKind::Timeout, RetryClass::Ambiguous),
        (429, ErrorKind::RateLimited, RetryClass::Rejected),
        (502, ErrorKind::ProviderFault, RetryClass::Ambiguous),
    ] {
        let body = json!({"error": {"code": status, "message": "Provider returned error",
            "metadata": {"provider_name": "X", "raw": "…"}}, "user_id": "u"});
        for reply in [ResponseTemplate::new(200), ResponseTemplate::new(status)] {
            let (provider, _server) = mocked("openrouter", reply.set_body_json(&body)).await;
            let error = provider
                .complete(&chat("x"), &CallOptions::default())
                .await
                .unwrap_err();
            assert_eq!(
                (error.kind(), error.class()),
                (kind, class),
                "{status}: {error}"
            );
        }
        let error = world.ask(&format!("[[error:{status}]]")).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.class()),
            (kind, class),
            "{status}: {error}"
        );
    }
    let error = answered("openrouter", said("error", Value::Null))
        .await
        .unwrap_err();
    assert_eq!(error.class(), RetryClass::Ambiguous);
}

/// F-196, F-217: a server on this machine wants no key, gets none, and may say less than OpenAI.
#[tokio::test]
async fn f_217_local_servers_get_no_key_they_do_not_want() {
    for (name, options) in [
        ("ollama", json!({"preset": "ollama"})),
        ("vllm", json!({"preset": "vllm"})),
        ("llamacpp", json!({"preset": "vllm", "usage": "absent"})),
        (
            "lmstudio",
            json!({"preset": "ollama", "usage": "null", "content": "choice_text"}),
        ),
    ] {
        let preset = Dialect::named(name).unwrap();
        let base = host(preset.base_url);
        assert!(matches!(base, "localhost" | "127.0.0.1"), "{base}");
        let world = World::with(name, options, &[]).await;
        let answer = world.ask("hello").await.unwrap();
        assert!(answer.text().contains(&prompt_hash(["hello"])), "{name}");
        assert!(answer.finish_reason.is_some());
        let error = world.provider.endpoint(&chat("x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "it has no batches");

        for key in [None, Some("local-key")] {
            let server = MockServer::start().await;
            Mock::given(method("POST"))
                .and(path("/v1/chat/completions"))
                .respond_with(ResponseTemplate::new(200).set_body_json(said("stop", Value::Null)))
                .mount(&server)
                .await;
            let url = server.uri();
            let mut pairs = vec![(preset.base_url_var.unwrap(), &*url)];
            pairs.extend(key.map(|key| (preset.key_var, key)));
            let local = OpenAi::new(OpenAiConfig::from_env_of(preset, pairs).unwrap()).unwrap();
            local
                .complete(&chat("x"), &CallOptions::default())
                .await
                .unwrap();
            let sent = server.received_requests().await.unwrap().remove(0);
            let sent = sent
                .headers
                .get("authorization")
                .map(|it| it.to_str().unwrap());
            let wanted = key.map(|key| format!("Bearer {key}"));
            assert_eq!(sent, wanted.as_deref(), "{name}");
        }
    }
}

fn host(url: &str) -> &str {
    let rest = url.strip_prefix("http://").unwrap();
    rest.split([':', '/']).next().unwrap()
}

/// llama.cpp while it loads its model, and a model Ollama does not have.
#[tokio::test]
async fn what_local_servers_refuse() {
    let body =
        json!({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}});
    let (local, _server) = mocked("llamacpp", ResponseTemplate::new(503).set_body_json(body)).await;
    let error = local
        .complete(&chat("x"), &CallOptions::default())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.class()),
        (ErrorKind::Overloaded, RetryClass::Rejected)
    );

    let body = json!({"error": {"message": "model \"m\" not found, try pulling it first", "type": "not_found_error"}});
    let (local, _server) = mocked("ollama", ResponseTemplate::new(404).set_body_json(body)).await;
    let error = local
        .complete(&chat("x"), &CallOptions::default())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.class()),
        (ErrorKind::NotFound, RetryClass::JobStop)
    );

    let mut biased = chat("x");
    biased.extra.insert("logit_bias".into(), json!({}));
    let ollama = OpenAi::new(OpenAiConfig::of(&Dialect::OLLAMA, "")).unwrap();
    let error = ollama
        .complete(&biased, &CallOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// F-212: no service of ours is asked for the state of a file but Azure.
#[tokio::test]
async fn f_212_no_file_status_endpoint_is_needed() {
    let world = World::new(
        "doubleword",
        json!({"preset": "doubleword", "file_status": "no_endpoint"}),
    )
    .await;
    let (snapshot, _) = world.run(&["one"]).await;
    assert_eq!(snapshot.status, BatchStatus::Completed);
}

/// F-219: a service that is gone answers 404, and nothing is lost or bought by it.
#[tokio::test]
async fn f_219_a_withdrawn_service_is_not_found() {
    let world = World::new(
        "doubleword",
        json!({"preset": "doubleword", "batches": false}),
    )
    .await;
    let lost = batchwright_core::BatchHandle::new(
        "doubleword",
        "b",
        batchwright_core::InputRef::default(),
    );
    assert_eq!(
        world.provider.status(&lost).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert!(
        world
            .provider
            .list_since(&ListMark::default())
            .await
            .is_err()
    );
}

/// An answer that says of itself that it is a part is none.
#[tokio::test]
async fn half_an_answer_is_no_answer() {
    let reply = ResponseTemplate::new(206).set_body_json(said("stop", Value::Null));
    let (provider, _server) = mocked("openrouter", reply).await;
    let error = provider
        .complete(&chat("x"), &CallOptions::default())
        .await
        .unwrap_err();
    assert_eq!(
        (error.class(), error.status()),
        (RetryClass::Ambiguous, Some(206))
    );
}

/// F-116: what is created late is found in a list without pages too.
#[tokio::test]
async fn f_110_a_lost_create_is_found_by_its_input() {
    let world = World::new("together", json!({"preset": "together"})).await;
    let batch = world.sealed(&["x"]);
    let input = world.provider.upload(&batch, &tag()).await.unwrap();
    let rule = FaultRule::on("POST", "/compatible/v1/batches").times(1);
    world
        .emulator
        .add_faults(vec![rule.action(FaultAction::CommitThenDrop)]);
    let error = world
        .provider
        .submit(&batch, &input, &tag())
        .await
        .unwrap_err();
    assert!(matches!(error, SubmitError::Unknown(_)), "{error}");
    let listed = world
        .provider
        .list_since(&ListMark::default())
        .await
        .unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].handle.input, &listed[0].tag), (&input, &None));
}
