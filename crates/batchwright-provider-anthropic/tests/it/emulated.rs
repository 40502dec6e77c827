//! What is Anthropic's own, against the emulator.

use batchwright_core::{
    BatchHandle, BatchProvider, BatchStatus, CallOptions, Chat, ChatProvider, Ending, ErrorKind,
    FinishReason, InputRef, Message, Part, Payload, Request, Response, ResultFile, RetryClass,
    Role, Sampling, SealedBatch, SealedBody, SubmissionTag, SubmitError, Tool, ToolChoice,
    ToolResult,
};
use batchwright_emulator::{
    Emulator, EmulatorConfig, Face, FaultAction, FaultRule, Limits, prompt_hash,
};
use batchwright_provider_anthropic::{Anthropic, AnthropicBuilder, CacheTtl, Cursor};
use futures::TryStreamExt;
use serde_json::{Value, json};
use std::time::Duration;

const MODEL: &str = "claude-haiku-4-5";
const BATCHES: &str = "/anthropic/v1/messages/batches";
const HOUR: Duration = Duration::from_secs(3600);

struct World {
    emulator: Emulator,
    anthropic: Anthropic,
}

impl World {
    async fn new() -> Self {
        Self::with(EmulatorConfig::default(), |builder| builder).await
    }

    async fn with(
        config: EmulatorConfig,
        set: impl FnOnce(AnthropicBuilder) -> AnthropicBuilder,
    ) -> Self {
        let emulator = Emulator::start(config.with_time_scale(0.0)).await.unwrap();
        let builder =
            Anthropic::builder("sk-emulated").base_url(emulator.base_url(Face::Anthropic));
        let anthropic = set(builder).build().unwrap();
        Self {
            emulator,
            anthropic,
        }
    }

    async fn with_options(options: Value) -> Self {
        let config = EmulatorConfig::default().with_face_options(Face::Anthropic, options);
        Self::with(config, |builder| builder).await
    }

    async fn ask(&self, request: &Request) -> batchwright_core::Result<Response> {
        self.anthropic
            .complete(request, &CallOptions::default())
            .await
    }

    async fn submit(&self, requests: &[Request]) -> Result<BatchHandle, SubmitError> {
        let mut lines = Vec::new();
        for (row, request) in requests.iter().enumerate() {
            let id = format!("p-{row}");
            self.anthropic.encode(request, &id, &mut lines).unwrap();
            lines.push(b'\n');
        }
        let (bytes, rows) = (lines.len() as u64, requests.len() as u64);
        let body = SealedBody::Memory(lines.into());
        let batch = SealedBatch::new(body, bytes, rows, "/v1/messages", MODEL);
        let tag = SubmissionTag::new("job", 1, 1, "rnd").unwrap();
        self.anthropic
            .submit(&batch, &InputRef::default(), &tag)
            .await
    }

    async fn lines(&self, file: &ResultFile) -> batchwright_core::Result<Vec<u8>> {
        let pieces: Vec<_> = self
            .anthropic
            .download(file, 0)
            .await?
            .try_collect()
            .await?;
        Ok(pieces.concat())
    }
}

fn chat(text: &str) -> Request {
    Request::chat("row", MODEL, [Message::user(text)])
}

fn extra(request: Request, fields: Value) -> Request {
    let Value::Object(fields) = fields else {
        panic!("fields are an object")
    };
    request.with_extra(fields)
}

#[tokio::test]
async fn tools_go_round_with_thinking() {
    let world = World::new().await;
    let tool = Tool::new(
        "weather",
        None,
        json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}),
    );
    let asked = Chat::new([Message::user("weather")])
        .with_tools(vec![tool.clone()], Some(ToolChoice::Required));
    let answer = world
        .ask(&Request::new("row", MODEL, Payload::Chat(asked)))
        .await
        .unwrap();
    assert_eq!(answer.finish_reason, Some(FinishReason::ToolCalls));
    let Some(Part::ToolCall(call)) = answer.content.last().cloned() else {
        panic!("a call")
    };
    assert!(call.arguments.contains("city"));

    let thinking = json!({"thinking": {"type": "enabled", "budget_tokens": 1024}});
    let thought = world
        .ask(&extra(chat("think"), thinking.clone()))
        .await
        .unwrap();
    assert!(matches!(thought.content.first(), Some(Part::Thinking(_))));
    assert!(thought.usage.reasoning_tokens.unwrap() > 0);

    // Thinking, call and result go back, and the vendor takes them.
    let mut said = vec![thought.content[0].clone()];
    said.push(Part::ToolCall(call.clone()));
    let result = Part::ToolResult(ToolResult::new(call.id, "sunny"));
    let turns = [
        Message::user("weather"),
        Message::new(Role::Assistant, said),
        Message::new(Role::Tool, vec![result]),
    ];
    let followed = Chat::new(turns).with_tools(vec![tool], None);
    let request = extra(
        Request::new("row", MODEL, Payload::Chat(followed)),
        thinking,
    );
    let answer = world.ask(&request).await.unwrap();
    assert!(answer.text().contains(&prompt_hash(["weather", "sunny"])));
}

#[tokio::test]
async fn caching_is_asked_for_and_counted() {
    let world = World::with(EmulatorConfig::default(), |builder| {
        builder.cache(CacheTtl::OneHour)
    })
    .await;
    let long = "s".repeat(40_000);
    let request =
        |text| Request::chat("row", MODEL, [Message::system(&*long), Message::user(text)]);
    let first = world.ask(&request("a")).await.unwrap().usage;
    assert_eq!(first.cache_creation_input_tokens, Some(10_000));
    let second = world.ask(&request("b")).await.unwrap().usage;
    assert_eq!(second.cache_read_input_tokens, Some(10_000));
    let bill = world.emulator.invoice().await.unwrap();
    assert_eq!(second.input_tokens, Some(bill[1].input_tokens));
}

#[tokio::test]
async fn token_counting_is_free_and_says_as_much_as_the_bill() {
    let world = World::new().await;
    let request = chat("how many tokens are these?").with_sampling(
        Sampling::new()
            .with_max_output_tokens(64_000)
            .and_then(|sampling| sampling.with_stop(vec!["x".into()]))
            .unwrap(),
    );
    let counted = world.anthropic.count_tokens(&request).await.unwrap();
    assert!(world.emulator.invoice().await.unwrap().is_empty());
    // More tokens than are waited for in silence: streamed.
    let answer = world.ask(&request).await.unwrap();
    assert_eq!(answer.usage.input_tokens, Some(counted));
    let unknown = Request::chat("row", "claude-0", [Message::user("x")]);
    let error = world.anthropic.count_tokens(&unknown).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.is_job_stop()),
        (ErrorKind::NotFound, true)
    );
    assert_eq!(error.provider(), Some("anthropic"));
}

#[tokio::test]
async fn f_058_a_stream_that_ends_in_an_error_may_have_been_paid() {
    let world = World::with_options(json!({"stream_error": "overloaded_error"})).await;
    let streamed = extra(chat("x"), json!({"max_tokens": 64_000}));
    let error = world.ask(&streamed).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.class()),
        (ErrorKind::Overloaded, RetryClass::Ambiguous)
    );
    assert!(error.request_id().is_some());
}

#[tokio::test]
async fn rate_limits_are_read_from_answers() {
    let limits = Limits::default().with_tokens_per_minute(1_000_000);
    let config = EmulatorConfig::default().with_limits(limits);
    let world = World::with(config, |builder| builder).await;
    let answer = world.ask(&chat(&"x".repeat(40_000))).await.unwrap();
    let limit = answer.rate_limit.expect("the headers are read");
    assert_eq!(limit.limit_tokens, Some(1_000_000));
    assert_eq!(limit.remaining_tokens, Some(990_000));
    assert!(limit.limit_requests.is_some() && limit.reset_tokens.is_some());
}

#[tokio::test]
async fn f_006_f_007_f_008_money_at_its_end_stops_the_job_and_blames_no_row() {
    for limit in ["enforced", "contract", "own", "workspace", "linked"] {
        let world = World::with_options(json!({"spend_limit": limit})).await;
        let error = world.ask(&chat("x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QuotaExceeded, "{limit}: {error}");
        assert!(error.is_job_stop() && !error.is_retryable(), "{limit}");
        let refused = world.submit(&[chat("x")]).await.unwrap_err();
        assert!(refused.error().is_job_stop(), "{limit}");
        // A 429 of a create is looked into all the same.
        let settled = matches!(refused, SubmitError::Refused(_));
        assert_eq!(
            settled,
            !matches!(limit, "enforced" | "contract"),
            "{limit}"
        );
    }
}

#[tokio::test]
async fn f_197_results_come_from_the_own_origin_whatever_an_answer_says() {
    let canary = Emulator::start(EmulatorConfig::default()).await.unwrap();
    let elsewhere = format!(
        "{}/v1/messages/batches/x/results",
        canary.base_url(Face::Anthropic)
    );
    for url in [
        &*elsewhere,
        "file:///etc/passwd",
        "http://169.254.169.254/latest",
    ] {
        let world = World::with_options(json!({"results_url": url})).await;
        let handle = world.submit(&[chat("a")]).await.unwrap();
        world.emulator.advance(HOUR).await.unwrap();
        let snapshot = world.anthropic.status(&handle).await.unwrap();
        let lines = world.lines(&snapshot.files[0]).await.unwrap();
        let outcome = world.anthropic.decode(lines.trim_ascii()).unwrap();
        assert!(outcome.ending.is_success());
    }
    let route = format!("{BATCHES}/{{message_batch_id}}/results");
    assert_eq!(canary.calls("GET", &route), 0);
}

#[tokio::test]
async fn rows_that_fail_say_why_and_rows_of_other_models_are_fine() {
    let world = World::new().await;
    let other = Request::chat("row", "claude-opus-5", [Message::user("b")]);
    let unknown = Request::chat("row", "claude-0", [Message::user("c")]);
    let long = extra(chat("d"), json!({"max_tokens": 9_999_999}));
    let handle = world
        .submit(&[chat("a"), other, unknown, long])
        .await
        .unwrap();
    world.emulator.advance(HOUR).await.unwrap();
    let snapshot = world.anthropic.status(&handle).await.unwrap();
    let lines = world.lines(&snapshot.files[0]).await.unwrap();
    let mut endings: Vec<(String, String)> = lines
        .split(|byte| *byte == b'\n')
        .filter_map(|line| world.anthropic.decode(line))
        .map(|outcome| {
            let said = match &outcome.ending {
                Ending::Failed(error) => {
                    assert_eq!(error.class(), RetryClass::RowFatal);
                    format!("{}: {}", error.kind(), error.message())
                }
                ending => ending.as_str().to_owned(),
            };
            (outcome.custom_id, said)
        })
        .collect();
    endings.sort();
    let said: Vec<&str> = endings.iter().map(|(_, said)| &**said).collect();
    assert_eq!(
        said[..3],
        ["succeeded", "succeeded", "not_found: model: claude-0"]
    );
    assert!(
        said[3].starts_with("invalid_request: max_tokens: 9999999 > 64000, which"),
        "{}",
        said[3]
    );
}

#[tokio::test]
async fn f_079_a_cancel_of_what_has_ended_is_a_conflict_either_way() {
    for options in [json!({}), json!({"cancel_ended": "refused"})] {
        let world = World::with_options(options).await;
        let handle = world.submit(&[chat("a")]).await.unwrap();
        world.emulator.advance(HOUR).await.unwrap();
        let error = world.anthropic.cancel(&handle).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(!error.is_retryable());
    }
}

#[tokio::test]
async fn a_batch_is_deleted_when_it_has_ended() {
    let world = World::new().await;
    let handle = world.submit(&[chat("a")]).await.unwrap();
    let error = world.anthropic.delete_batch(&handle).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    world.emulator.advance(HOUR).await.unwrap();
    world.anthropic.delete_batch(&handle).await.unwrap();
    world.anthropic.delete_batch(&handle).await.unwrap();
    let error = world.anthropic.status(&handle).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn the_list_is_read_in_both_directions() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.insert(0, world.submit(&[chat("a")]).await.unwrap().id);
    }
    for (cursor, expected, next) in [
        (Cursor::Newest, &ids[..], &ids[3]),
        (Cursor::After(ids[1].clone()), &ids[2..], &ids[3]),
        (Cursor::Before(ids[2].clone()), &ids[..2], &ids[0]),
    ] {
        let page = world.anthropic.list_batches(&cursor).await.unwrap();
        let listed: Vec<&str> = page.batches.iter().map(|batch| &*batch.handle.id).collect();
        assert_eq!(listed, expected, "{cursor:?}");
        assert!(!page.more && page.next.as_ref() == Some(next), "{cursor:?}");
    }
    let newest = Cursor::Before(ids[0].clone());
    let page = world.anthropic.list_batches(&newest).await.unwrap();
    assert!(page.batches.is_empty() && page.next.is_none());
    let unknown = Cursor::Before("msgbatch_none".to_owned());
    let error = world.anthropic.list_batches(&unknown).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
}

/// F-130: results are gone 29 days after the creation, and the batch says so.
#[tokio::test]
async fn f_130_archived_results_are_gone() {
    let world = World::new().await;
    let handle = world.submit(&[chat("a")]).await.unwrap();
    world.emulator.advance(30 * 24 * HOUR).await.unwrap();
    let snapshot = world.anthropic.status(&handle).await.unwrap();
    assert_eq!(snapshot.status, BatchStatus::Completed);
    assert!(snapshot.files.is_empty() && !snapshot.results_pending);
    let file = ResultFile::new(handle.id, "output");
    assert_eq!(
        world.lines(&file).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

/// F-020, F-011: a busy provider is not the request's fault, and a full queue of batches is told.
#[tokio::test]
async fn f_011_f_020_what_passes_is_told_as_such() {
    let world = World::with_options(json!({"queued_requests": 1})).await;
    let error = world.ask(&chat("[[error:529]]")).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.class()),
        (ErrorKind::Overloaded, RetryClass::Rejected)
    );
    world.submit(&[chat("a")]).await.unwrap();
    let refused = world.submit(&[chat("a")]).await.unwrap_err();
    assert!(refused.error().is_rate_limited(), "{refused}");
    assert!(matches!(refused, SubmitError::Unknown(_)));
}

/// F-118 has no place here: what arrives is what was sent, or nothing is created.
#[tokio::test]
async fn f_035_a_create_that_breaks_off_creates_nothing_and_is_unknown() {
    let world = World::new().await;
    let rule = FaultRule::on("POST", BATCHES).times(1);
    world
        .emulator
        .add_faults(vec![rule.action(FaultAction::Reset)]);
    let error = world.submit(&[chat("a")]).await.unwrap_err();
    assert!(matches!(error, SubmitError::Unknown(_)), "{error}");
    assert!(world.anthropic.recent().await.unwrap().is_empty());
}
