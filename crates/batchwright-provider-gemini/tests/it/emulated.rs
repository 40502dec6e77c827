//! What is Gemini's own, against the emulator.

use batchwright_core::{
    BatchProvider, BatchSnapshot, BatchStatus, CallOptions, Chat, ChatProvider, EmbeddingInput,
    Ending, ErrorKind, Message, Outcome, Payload, Request, RetryClass, Sampling, SealedBatch,
    SealedBody, SubmissionTag, SubmitError, Tool, ToolChoice,
};
use batchwright_emulator::{
    Emulator, EmulatorConfig, Face, FaultAction, FaultRule, Limits, prompt_hash,
};
use batchwright_provider_gemini::{Gemini, NewCache};
use futures::StreamExt;
use serde_json::{Value, json};
use std::time::Duration;

const MODEL: &str = "gemini-2.5-flash";
const HOUR: Duration = Duration::from_secs(3600);

async fn start(config: EmulatorConfig, options: Value) -> (Emulator, Gemini) {
    let config = config
        .with_time_scale(0.0)
        .with_face_options(Face::Gemini, options);
    let emulator = Emulator::start(config).await.unwrap();
    let gemini = made(&emulator, 0);
    (emulator, gemini)
}

fn made(emulator: &Emulator, inline_up_to: u64) -> Gemini {
    Gemini::builder("key")
        .base_url(emulator.base_url(Face::Gemini))
        .inline_up_to(inline_up_to)
        .build()
        .unwrap()
}

fn plain() -> EmulatorConfig {
    EmulatorConfig::default()
}

fn tag() -> SubmissionTag {
    SubmissionTag::new("job1", 1, 1, "rnd1").unwrap()
}

fn sealed(gemini: &Gemini, requests: &[Request]) -> SealedBatch {
    let mut lines = Vec::new();
    for (at, request) in requests.iter().enumerate() {
        gemini
            .encode(request, &format!("p-{at}"), &mut lines)
            .unwrap();
        lines.push(b'\n');
    }
    let bytes = lines.len() as u64;
    let endpoint = gemini.endpoint(&requests[0]).unwrap().to_owned();
    let body = SealedBody::Memory(lines.into());
    SealedBatch::new(
        body,
        bytes,
        requests.len() as u64,
        endpoint,
        &requests[0].model,
    )
}

/// Buys a batch and sees it to its end.
async fn run(
    emulator: &Emulator,
    gemini: &Gemini,
    requests: &[Request],
) -> (BatchSnapshot, Vec<Outcome>) {
    let batch = sealed(gemini, requests);
    let input = gemini.upload(&batch, &tag()).await.unwrap();
    let handle = gemini.submit(&batch, &input, &tag()).await.unwrap();
    emulator.advance(HOUR).await.unwrap();
    let snapshot = gemini.status(&handle).await.unwrap();
    let mut outcomes = Vec::new();
    for file in &snapshot.files {
        let mut body = gemini.download(file, 0).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(&piece.unwrap());
        }
        let lines = bytes.split(|byte| *byte == b'\n');
        outcomes.extend(lines.filter_map(|line| gemini.decode(line)));
    }
    outcomes.sort_by(|a, b| a.custom_id.cmp(&b.custom_id));
    (snapshot, outcomes)
}

fn rows(texts: &[&str]) -> Vec<Request> {
    let row = |text: &&str| Request::chat("own", MODEL, [Message::user(*text)]);
    texts.iter().map(row).collect()
}

#[tokio::test]
async fn f_085_f_091_results_are_found_wherever_they_are() {
    for states in ["batch", "job"] {
        for results in ["both", "metadata", "response"] {
            for inline in [false, true] {
                let options =
                    json!({"states": states, "results": results, "inline_results": inline});
                let (emulator, gemini) = start(plain(), options.clone()).await;
                let (snapshot, outcomes) = run(&emulator, &gemini, &rows(&["a", "b"])).await;
                assert_eq!(snapshot.status, BatchStatus::Completed, "{options}");
                assert_eq!(outcomes.len(), 2, "{options}");
                for (outcome, text) in outcomes.iter().zip(["a", "b"]) {
                    let said = outcome.response().unwrap().text();
                    assert!(said.contains(&prompt_hash([text])), "I4: {options}");
                }
            }
        }
    }
}

#[tokio::test]
async fn f_101_inline_results_without_their_keys_are_nobodys() {
    let (emulator, _) = start(plain(), json!({"metadata": "drop"})).await;
    let gemini = made(&emulator, 1_000_000);
    let (snapshot, outcomes) = run(&emulator, &gemini, &rows(&["a", "b"])).await;
    assert_eq!(snapshot.files.len(), 1);
    assert!(outcomes.is_empty(), "never by their place: F-096");
}

#[tokio::test]
async fn f_003_f_009_a_days_quota_stops_at_once_and_a_minutes_waits() {
    let limits = Limits::default().with_requests_per_day(1);
    let config = plain().with_limits(limits);
    let (emulator, gemini) = start(config, json!({"day_hint": "short"})).await;
    let ask = async || {
        let row = &rows(&["x"])[0];
        gemini.complete(row, &CallOptions::default()).await
    };
    ask().await.unwrap();
    let error = ask().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
    assert_eq!(
        (error.class(), error.retry_after()),
        (RetryClass::JobStop, None)
    );
    drop(emulator);

    let limits = Limits::default().with_requests_per_minute(1);
    let (_emulator, gemini) = start(plain().with_limits(limits), json!({})).await;
    let row = &rows(&["x"])[0];
    gemini.complete(row, &CallOptions::default()).await.unwrap();
    let error = gemini
        .complete(row, &CallOptions::default())
        .await
        .unwrap_err();
    assert!(error.is_rate_limited() && error.retry_after().is_some());
    // The same sentence, other classes.
    assert!(
        error
            .message()
            .contains("check your plan and billing details")
    );
}

/// F-011: a full queue is a 429 without a delay, of which nothing may follow but a look into the list.
#[tokio::test]
async fn f_011_a_full_queue_is_unclear_until_the_list_was_read() {
    let limits = Limits::default().with_enqueued_tokens(10);
    let (emulator, gemini) = start(plain().with_limits(limits), json!({})).await;
    let batch = sealed(
        &gemini,
        &rows(&["a long text that is more than ten tokens in all"]),
    );
    let input = gemini.upload(&batch, &tag()).await.unwrap();
    let sent = gemini.submit(&batch, &input, &tag()).await.unwrap_err();
    assert!(matches!(sent, SubmitError::Unknown(_)), "{sent}");
    assert!(sent.error().is_rate_limited() && sent.error().retry_after().is_none());
    assert!(gemini.recent().await.unwrap().is_empty());
    drop(emulator);
}

#[tokio::test]
async fn embeddings_directly_and_in_batches() {
    let (emulator, gemini) = start(plain(), json!({})).await;
    let model = "gemini-embedding-001";
    let input = EmbeddingInput::new(["a".into(), "b".into()]).with_dimensions(8);
    let both = Request::new("own", model, Payload::Embedding(input));
    let answer = gemini
        .complete(&both, &CallOptions::default())
        .await
        .unwrap();
    assert_eq!(answer.embeddings.len(), 2);
    assert_eq!(answer.embeddings[0].len(), 8);

    let requests: Vec<Request> = ["a", "b"]
        .map(|text| {
            let input = EmbeddingInput::new([text.to_owned()]).with_dimensions(8);
            Request::new("own", model, Payload::Embedding(input))
        })
        .into();
    for inline_up_to in [0, 1_000_000] {
        let gemini = made(&emulator, inline_up_to);
        let (snapshot, outcomes) = run(&emulator, &gemini, &requests).await;
        assert_eq!(snapshot.status, BatchStatus::Completed);
        for (outcome, direct) in outcomes.iter().zip(&answer.embeddings) {
            let response = outcome.response().unwrap();
            assert_eq!(&response.embeddings[0], direct);
            assert_eq!(response.usage.input_tokens, Some(1));
        }
        assert_eq!(outcomes.len(), 2);
    }
}

#[tokio::test]
async fn a_cached_beginning_is_created_used_extended_and_deleted() {
    let (emulator, gemini) = start(plain(), json!({})).await;
    let long = "known text ".repeat(600);
    let chat = Chat::new([Message::system("You know it."), Message::user(&long)]);
    let new = NewCache::new(MODEL, chat, Duration::from_secs(600)).with_display_name("ctx");
    let cache = gemini.create_cache(&new).await.unwrap();
    assert_eq!(cache.display_name.as_deref(), Some("ctx"));
    let tokens = cache.tokens.unwrap();
    let request = cache.begin(rows(&["and?"]).remove(0));
    let answer = gemini
        .complete(&request, &CallOptions::default())
        .await
        .unwrap();
    assert!(
        answer
            .text()
            .contains(&prompt_hash(["You know it.", &long, "and?"]))
    );
    assert_eq!(answer.usage.cache_read_input_tokens, Some(tokens));
    assert!(answer.usage.input_tokens.unwrap() > tokens);
    let counted = gemini.count_tokens(&request).await.unwrap();
    assert_eq!(counted.cached_tokens, tokens);
    assert_eq!(Some(counted.total_tokens), answer.usage.input_tokens);

    emulator.advance(Duration::from_secs(700)).await.unwrap();
    let (_, outcomes) = run(&emulator, &gemini, std::slice::from_ref(&request)).await;
    let failed = outcomes[0].error().expect("it had ended");
    assert_eq!(failed.kind(), ErrorKind::PermissionDenied);
    let gone = gemini.cache(&cache.name).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::PermissionDenied);

    let cache = gemini.create_cache(&new).await.unwrap();
    let later = gemini.extend_cache(&cache.name, 50 * HOUR).await.unwrap();
    assert!(later.expires_at > cache.expires_at);
    let (_, outcomes) = run(
        &emulator,
        &gemini,
        &[cache.begin(rows(&["and?"]).remove(0))],
    )
    .await;
    let usage = outcomes[0].response().unwrap().usage;
    assert_eq!(usage.cache_read_input_tokens, Some(tokens));
    let page = gemini.caches(None).await.unwrap();
    assert_eq!((page.caches.len(), page.next_page_token), (1, None));
    assert_eq!(gemini.cache(&cache.name).await.unwrap(), page.caches[0]);
    gemini.delete_cache(&cache.name).await.unwrap();
    gemini.delete_cache(&cache.name).await.unwrap();
    assert!(gemini.caches(None).await.unwrap().caches.is_empty());

    let small = NewCache::new(MODEL, Chat::new([Message::user("short")]), HOUR);
    let error = gemini.create_cache(&small).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
}

#[tokio::test]
async fn tools_make_the_round_with_their_signatures() {
    let (_emulator, gemini) = start(plain(), json!({})).await;
    let schema =
        json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let tool = Tool::new("weather", None, schema);
    let chat = Chat::new([Message::user("rain?")])
        .with_tools(vec![tool], Some(ToolChoice::Named("weather".into())));
    let request = Request::new("own", MODEL, Payload::Chat(chat.clone()));
    let answer = gemini
        .complete(&request, &CallOptions::default())
        .await
        .unwrap();
    let batchwright_core::Part::ToolCall(call) = answer.content.last().unwrap() else {
        panic!("a call is last");
    };
    let result = batchwright_core::ToolResult::new(&call.id, "sun");
    let result = batchwright_core::Part::ToolResult(result);
    let mut next = chat;
    next.tool_choice = None;
    next.messages.extend([
        Message::new(batchwright_core::Role::Assistant, answer.content.clone()),
        Message::new(batchwright_core::Role::Tool, vec![result]),
    ]);
    let request = Request::new("own", MODEL, Payload::Chat(next));
    let answer = gemini
        .complete(&request, &CallOptions::default())
        .await
        .unwrap();
    assert!(answer.text().contains(&prompt_hash(["rain?"])));
}

#[tokio::test]
async fn a_long_answer_is_streamed_and_billed_once() {
    let (emulator, gemini) = start(plain(), json!({})).await;
    let sampling = Sampling::new().with_max_output_tokens(20_000).unwrap();
    let request = rows(&["Wie heißt du? 名 😀"])
        .remove(0)
        .with_sampling(sampling);
    let answer = gemini
        .complete(&request, &CallOptions::default())
        .await
        .unwrap();
    assert!(
        answer
            .text()
            .contains(&prompt_hash(["Wie heißt du? 名 😀"]))
    );
    let bill = emulator.invoice().await.unwrap();
    assert_eq!(bill.len(), 1);
    assert_eq!(answer.usage.output_tokens, Some(bill[0].output_tokens));
    let streamed = "/gemini/{version}/models/{model}:streamGenerateContent";
    assert_eq!(emulator.calls("POST", streamed), 1);
}

/// F-077, F-071: what expires has no results at all, and no row is billed as answered.
#[tokio::test]
async fn f_077_an_expired_batch_ends_without_results() {
    let (emulator, gemini) = start(plain(), json!({})).await;
    let create = FaultRule::on("POST", "*:batchGenerateContent");
    emulator.add_faults(vec![create.action(FaultAction::ExpireAfterRows(1))]);
    let batch = sealed(&gemini, &rows(&["a", "b"]));
    let input = gemini.upload(&batch, &tag()).await.unwrap();
    let handle = gemini.submit(&batch, &input, &tag()).await.unwrap();
    emulator.advance(47 * HOUR).await.unwrap();
    let running = gemini.status(&handle).await.unwrap();
    assert_eq!(running.status, BatchStatus::InProgress);
    emulator.advance(2 * HOUR).await.unwrap();
    let ended = gemini.status(&handle).await.unwrap();
    assert_eq!(ended.status, BatchStatus::Expired);
    assert!(ended.files.is_empty() && !ended.awaits_files());
}

/// One malformed line refuses the create as a whole: nothing is bought, and the vendor's words are kept.
#[tokio::test]
async fn a_malformed_line_refuses_the_whole_create() {
    let (emulator, gemini) = start(plain(), json!({})).await;
    let mut requests = rows(&["a", "b"]);
    requests[1].extra.insert("colour".to_owned(), json!(1));
    let batch = sealed(&gemini, &requests);
    let input = gemini.upload(&batch, &tag()).await.unwrap();
    match gemini.submit(&batch, &input, &tag()).await {
        Err(SubmitError::Refused(error)) => {
            assert_eq!(error.class(), RetryClass::RowFatal);
            assert!(error.message().contains("colour"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert!(emulator.invoice().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_blocked_prompt_is_refused_in_a_batch_too() {
    let (emulator, gemini) = start(plain(), json!({})).await;
    let texts = ["[[refuse]]", "[[filter]]", "[[length]]"];
    let (_, outcomes) = run(&emulator, &gemini, &rows(&texts)).await;
    assert!(matches!(outcomes[0].ending, Ending::Refused(_)));
    assert!(matches!(outcomes[1].ending, Ending::Refused(_)));
    let cut = outcomes[2].response().unwrap();
    assert!(cut.is_truncated() && cut.text().is_empty(), "F-061, F-064");
}
