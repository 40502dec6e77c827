//! Single exchanges against a mock: what is sent, how often, and what never gets out.

use batchwright_core::{
    BatchHandle, BatchProvider, BatchStatus, CallOptions, ChatProvider, ErrorKind, FinishReason,
    InputRef, Message, Request, ResultFile, RetryClass, Sampling, SealedBatch, SealedBody,
    SubmissionTag, SubmitError,
};
use batchwright_provider_gemini::{Gemini, GeminiBuilder};
use futures::StreamExt;
use serde_json::{Value, json};
use wiremock::matchers::{any, body_json, header, headers, method, path, query_param};
use wiremock::{Match, Mock, MockServer, ResponseTemplate};

/// Without the shape of a key, so that nothing removes it by its looks.
const KEY: &str = "CANARY_KEY_that_must_never_show";
const MODEL: &str = "gemini-2.5-flash";
const GENERATE: &str = "/v1beta/models/gemini-2.5-flash:generateContent";
const CREATE: &str = "/v1beta/models/gemini-2.5-flash:batchGenerateContent";

fn gemini(server: &MockServer) -> GeminiBuilder {
    Gemini::builder(KEY).base_url(server.uri())
}

fn built(server: &MockServer) -> Gemini {
    gemini(server).build().unwrap()
}

fn chat() -> Request {
    Request::chat("row", MODEL, [Message::user("CANARY_PROMPT")])
}

fn good() -> Value {
    json!({"candidates": [{"content": {"parts": [{"text": "CANARY_ANSWER"}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2}, "responseId": "r-1"})
}

fn tag() -> SubmissionTag {
    SubmissionTag::new("job1", 4, 2, "rnd1").unwrap()
}

fn batch() -> SealedBatch {
    let lines = b"{\"key\":\"p-1\",\"request\":{}}\n";
    let body = SealedBody::Memory(bytes::Bytes::from_static(lines));
    SealedBatch::new(body, lines.len() as u64, 1, "generateContent", MODEL)
}

fn handle() -> BatchHandle {
    BatchHandle::new("gemini", "batches/b1", InputRef("files/i1".into()))
}

fn reply(status: u16, body: Value) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_json(body)
}

fn error(status: u16, word: &str) -> ResponseTemplate {
    let error = json!({"code": status, "status": word, "message": "what"});
    reply(status, json!({"error": error}))
}

async fn mount(server: &MockServer, verb: &str, at: &str, reply: ResponseTemplate) {
    Mock::given(method(verb))
        .and(path(at))
        .respond_with(reply)
        .expect(1)
        .mount(server)
        .await;
}

async fn serve(verb: &str, at: &str, reply: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    mount(&server, verb, at, reply).await;
    server
}

/// The key travels in its header and nowhere else.
struct KeyInHeaderOnly;

impl Match for KeyInHeaderOnly {
    fn matches(&self, request: &wiremock::Request) -> bool {
        let shown = |text: &str| text.contains("CANARY_KEY");
        let alone = request
            .headers
            .iter()
            .all(|(name, value)| name == "x-goog-api-key" || !shown(value.to_str().unwrap()));
        alone
            && !shown(request.url.as_str())
            && !shown(&String::from_utf8_lossy(&request.body))
            && request.headers.get("x-goog-api-key").is_some()
    }
}

#[tokio::test]
async fn f_193_a_call_is_sent_once_with_the_key_in_its_header_alone() {
    let server = MockServer::start().await;
    let body = json!({"contents": [{"role": "user", "parts": [{"text": "CANARY_PROMPT"}]}]});
    Mock::given(method("POST"))
        .and(path(GENERATE))
        .and(header("x-goog-api-key", KEY))
        .and(body_json(body))
        .and(KeyInHeaderOnly)
        .respond_with(reply(200, good()))
        .expect(1)
        .mount(&server)
        .await;
    let gemini = built(&server);
    let answer = gemini.complete(&chat(), &CallOptions::default()).await;
    let answer = answer.unwrap();
    assert_eq!(answer.text(), "CANARY_ANSWER");
    assert_eq!(answer.id.as_deref(), Some("r-1"));
    assert!(answer.raw.is_some());
    let shown = format!("{gemini:?} {answer:?}");
    assert!(!shown.contains("CANARY"), "F-191, F-192: {shown}");
}

#[tokio::test]
async fn f_023_nothing_paid_is_sent_again() {
    for (status, word, class) in [
        (500, "INTERNAL", RetryClass::Ambiguous),
        (503, "UNAVAILABLE", RetryClass::Rejected),
        (504, "DEADLINE_EXCEEDED", RetryClass::Ambiguous),
        (429, "RESOURCE_EXHAUSTED", RetryClass::Rejected),
    ] {
        let server = serve("POST", GENERATE, error(status, word)).await;
        let sent = built(&server)
            .complete(&chat(), &CallOptions::default())
            .await;
        assert_eq!(sent.unwrap_err().class(), class, "{word}");
        let server = serve("POST", CREATE, error(status, word)).await;
        let input = InputRef("files/i1".into());
        let sent = built(&server).submit(&batch(), &input, &tag()).await;
        let error = sent.unwrap_err();
        assert!(matches!(error, SubmitError::Unknown(_)), "{word}: {error}");
    }
}

fn long() -> Request {
    let sampling = Sampling::new().with_max_output_tokens(20_000).unwrap();
    chat().with_sampling(sampling)
}

fn events(chunks: &[Value]) -> ResponseTemplate {
    let body: String = chunks
        .iter()
        .map(|it| format!("data: {it}\r\n\r\n"))
        .collect();
    ResponseTemplate::new(200).set_body_raw(body, "text/event-stream")
}

const STREAM: &str = "/v1beta/models/gemini-2.5-flash:streamGenerateContent";

#[tokio::test]
async fn f_058_a_long_answer_is_streamed_and_whole_only_with_its_last_piece() {
    let chunk = |text: &str| json!({"candidates": [{"content": {"parts": [{"text": text}]}}]});
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path(STREAM))
        .and(query_param("alt", "sse"))
        .respond_with(events(&[chunk("a"), good()]))
        .expect(1)
        .mount(&server)
        .await;
    let answer = built(&server)
        .complete(&long(), &CallOptions::default())
        .await;
    let answer = answer.unwrap();
    assert_eq!(answer.text(), "aCANARY_ANSWER");
    assert_eq!(answer.finish_reason, Some(FinishReason::Stop));
    assert_eq!(answer.usage.output_tokens, Some(2));
    let raw: Value = serde_json::from_str(answer.raw.unwrap().get()).unwrap();
    assert_eq!(raw.as_array().unwrap().len(), 2);

    let unavailable = json!({"error": {"code": 503, "status": "UNAVAILABLE", "message": "m"}});
    for (chunks, class) in [
        (vec![chunk("a")], RetryClass::Ambiguous),
        (vec![], RetryClass::Ambiguous),
        (vec![chunk("a"), unavailable], RetryClass::Rejected),
    ] {
        let server = serve("POST", STREAM, events(&chunks)).await;
        let sent = built(&server)
            .complete(&long(), &CallOptions::default())
            .await;
        assert_eq!(sent.unwrap_err().class(), class);
    }
    // Where it is turned off, or not told to be long.
    let server = serve("POST", GENERATE, reply(200, good())).await;
    let plain = gemini(&server).stream_above(u32::MAX).build().unwrap();
    plain
        .complete(&long(), &CallOptions::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn f_197_an_uploads_bytes_stay_at_our_own_origin() {
    let server = MockServer::start().await;
    let foreign = MockServer::start().await;
    Mock::given(any())
        .respond_with(ResponseTemplate::new(200))
        .expect(0)
        .mount(&foreign)
        .await;
    let named = format!("{}/upload/v1beta/files?upload_id=7", foreign.uri());
    Mock::given(method("POST"))
        .and(path("/upload/v1beta/files"))
        .and(header("x-goog-upload-command", "start"))
        .and(header("x-goog-upload-protocol", "resumable"))
        .and(header("x-goog-upload-header-content-length", "27"))
        .and(header(
            "x-goog-upload-header-content-type",
            "application/jsonl",
        ))
        .and(body_json(
            json!({"file": {"displayName": tag().to_string()}}),
        ))
        .respond_with(ResponseTemplate::new(200).insert_header("x-goog-upload-url", named))
        .expect(1)
        .mount(&server)
        .await;
    Mock::given(method("POST"))
        .and(path("/upload/v1beta/files"))
        .and(query_param("upload_id", "7"))
        .and(headers("x-goog-upload-command", vec!["upload", "finalize"]))
        .and(header("x-goog-upload-offset", "0"))
        .respond_with(reply(
            200,
            json!({"file": {"name": "files/i1", "sizeBytes": "27"}}),
        ))
        .expect(1)
        .mount(&server)
        .await;
    let input = built(&server).upload(&batch(), &tag()).await.unwrap();
    assert_eq!(input.0, "files/i1");
}

#[tokio::test]
async fn an_upload_without_an_address_or_a_file_is_an_error() {
    let start = "/upload/v1beta/files";
    let server = serve("POST", start, ResponseTemplate::new(200)).await;
    let error = built(&server).upload(&batch(), &tag()).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let server = serve("POST", start, self::error(403, "PERMISSION_DENIED")).await;
    let error = built(&server).upload(&batch(), &tag()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    for file in [
        json!({}),
        json!({"file": {}}),
        json!({"file": {"name": ""}}),
    ] {
        let server = MockServer::start().await;
        let named = ResponseTemplate::new(200).insert_header("x-goog-upload-url", "/u");
        mount(&server, "POST", start, named).await;
        mount(&server, "POST", "/u", reply(200, file)).await;
        assert!(built(&server).upload(&batch(), &tag()).await.is_err());
    }
}

#[tokio::test]
async fn a_create_names_its_file_and_its_tag() {
    let server = MockServer::start().await;
    let input = InputRef("files/i1".into());
    Mock::given(method("POST"))
        .and(path(CREATE))
        .and(body_json(json!({"batch": {
            "displayName": tag().to_string(), "inputConfig": {"fileName": "files/i1"},
        }})))
        .and(KeyInHeaderOnly)
        .respond_with(reply(200, json!({"name": "batches/b1", "metadata": {}})))
        .expect(1)
        .mount(&server)
        .await;
    let handle = built(&server)
        .submit(&batch(), &input, &tag())
        .await
        .unwrap();
    assert_eq!((handle.id.as_str(), &handle.input), ("batches/b1", &input));
    // F-112: a success that names no batch is unclear.
    for odd in [
        json!({}),
        json!({"name": "operations/x"}),
        json!({"error": {"code": 400}}),
    ] {
        let server = serve("POST", CREATE, reply(200, odd)).await;
        let sent = built(&server).submit(&batch(), &input, &tag()).await;
        assert!(matches!(sent, Err(SubmitError::Unknown(_))));
    }
}

#[tokio::test]
async fn f_132_a_create_whose_input_is_gone_says_so_and_others_stop() {
    let input = InputRef("files/i1".into());
    for (file, kind, class) in [
        (
            error(403, "PERMISSION_DENIED"),
            ErrorKind::NotFound,
            RetryClass::RowFatal,
        ),
        (
            error(404, "NOT_FOUND"),
            ErrorKind::NotFound,
            RetryClass::RowFatal,
        ),
        (
            reply(200, json!({"name": "files/i1"})),
            ErrorKind::PermissionDenied,
            RetryClass::JobStop,
        ),
    ] {
        let server = serve("POST", CREATE, error(403, "PERMISSION_DENIED")).await;
        mount(&server, "GET", "/v1beta/files/i1", file).await;
        let sent = built(&server).submit(&batch(), &input, &tag()).await;
        match sent.unwrap_err() {
            SubmitError::Refused(error) => assert_eq!((error.kind(), error.class()), (kind, class)),
            other => panic!("{other}"),
        }
    }
    let server = serve("POST", CREATE, error(404, "NOT_FOUND")).await;
    mount(&server, "GET", "/v1beta/files/i1", reply(200, json!({}))).await;
    let sent = built(&server).submit(&batch(), &input, &tag()).await;
    assert!(sent.unwrap_err().error().is_job_stop(), "an unknown model");
}

#[tokio::test]
async fn chunks_go_inline_by_their_size_and_nothing_else_is_sent_for_them() {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path(CREATE))
        .and(body_json(json!({"batch": {
            "displayName": tag().to_string(),
            "inputConfig": {"requests": {"requests": [{"metadata": {"key": "p-1"}, "request": {}}]}},
        }})))
        .respond_with(reply(200, json!({"name": "batches/b1"})))
        .expect(1)
        .mount(&server)
        .await;
    let gemini = gemini(&server).inline_up_to(27).build().unwrap();
    let input = gemini.upload(&batch(), &tag()).await.unwrap();
    assert_eq!(input, InputRef::default(), "no file, so no fence");
    assert_eq!(gemini.find_upload(&batch(), &tag()).await.unwrap(), None);
    gemini.discard(&input).await.unwrap();
    gemini.submit(&batch(), &input, &tag()).await.unwrap();
    let mut other = batch();
    other.bytes += 1;
    let sent = gemini.submit(&other, &input, &tag()).await;
    assert!(
        matches!(sent, Err(SubmitError::NotSent(_))),
        "not its lines"
    );
}

#[tokio::test]
async fn f_119_discarding_what_is_gone_is_fine_and_ids_stay_in_their_segment() {
    let input = InputRef("files/i1".into());
    for (answer, fine) in [
        (reply(200, json!({})), true),
        (error(403, "PERMISSION_DENIED"), true),
        (error(404, "NOT_FOUND"), true),
        (error(500, "INTERNAL"), false),
    ] {
        let server = serve("DELETE", "/v1beta/files/i1", answer).await;
        assert_eq!(built(&server).discard(&input).await.is_ok(), fine);
    }
    let nobody = MockServer::start().await;
    let gemini = built(&nobody);
    for odd in ["files/../x", "files/a/b", "files/a?b", "files/é", "files/"] {
        let error = gemini.discard(&InputRef(odd.into())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "F-198: {odd}");
        let file = ResultFile::new(odd, "output");
        assert!(gemini.download(&file, 0).await.is_err());
    }
    assert!(nobody.received_requests().await.unwrap().is_empty());
}

/// F-077, F-089: how an operation ended is in its `error`, and is no error of the call.
#[tokio::test]
async fn an_operations_own_error_is_no_error_of_the_call() {
    let ended = json!({"name": "batches/b1", "done": true, "error": {"code": 13, "message": "m"},
        "metadata": {"state": "BATCH_STATE_CANCELLED"}});
    let server = serve("GET", "/v1beta/batches/b1", reply(200, ended)).await;
    let snapshot = built(&server).status(&handle()).await.unwrap();
    assert_eq!(snapshot.status, BatchStatus::Cancelled);
    let other = json!({"error": {"code": 503, "status": "UNAVAILABLE", "message": "m"}});
    let server = serve("GET", "/v1beta/batches/b1", reply(200, other)).await;
    let error = built(&server).status(&handle()).await.unwrap_err();
    assert_eq!(error.class(), RetryClass::Rejected, "F-050");
    let server = serve("GET", "/v1beta/batches/b1", error_reply(404)).await;
    let error = built(&server).status(&handle()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

fn error_reply(status: u16) -> ResponseTemplate {
    error(status, "NOT_FOUND")
}

/// F-107: results of any size are no burden to a poll.
#[tokio::test]
async fn a_poll_of_a_long_inline_batch_keeps_what_stands_around_it() {
    let answer = "x".repeat(64 * 1024);
    let elements: Vec<Value> = (0..200)
        .map(|n| json!({"metadata": {"key": format!("k-{n}")}, "response": {"text": answer}}))
        .collect();
    let list = json!({"inlinedResponses": {"inlinedResponses": elements}});
    let operation = json!({"name": "batches/b1", "done": true, "response": list,
        "metadata": {"state": "BATCH_STATE_SUCCEEDED", "batchStats": {"requestCount": "200"}}});
    let long = operation.to_string();
    assert!(long.len() > 8 << 20, "more than a poll may hold");
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .and(path("/v1beta/batches/b1"))
        .respond_with(ResponseTemplate::new(200).set_body_raw(long, "application/json"))
        .expect(2)
        .mount(&server)
        .await;
    let gemini = built(&server);
    let snapshot = gemini.status(&handle()).await.unwrap();
    assert_eq!(snapshot.files, [ResultFile::new("batches/b1", "output")]);
    let mut body = gemini.download(&snapshot.files[0], 0).await.unwrap();
    let (mut lines, mut most) = (0, 0);
    while let Some(piece) = body.next().await {
        let piece = piece.unwrap();
        most = most.max(piece.len());
        lines += piece.iter().filter(|byte| **byte == b'\n').count();
    }
    assert_eq!(lines, 200);
    assert!(most < 4 << 20, "a piece at a time: {most}");
    let later = gemini.download(&snapshot.files[0], 5).await;
    assert_eq!(later.err().unwrap().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn f_079_a_cancel_of_what_has_ended_is_a_conflict() {
    let at = "/v1beta/batches/b1:cancel";
    let server = serve("POST", at, error(400, "FAILED_PRECONDITION")).await;
    let error = built(&server).cancel(&handle()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.is_retryable()),
        (ErrorKind::Conflict, false)
    );
    let server = serve("POST", at, reply(200, json!({}))).await;
    built(&server).cancel(&handle()).await.unwrap();
}

#[tokio::test]
async fn a_tuned_model_and_another_version_have_their_paths() {
    let server = serve(
        "POST",
        "/v1/tunedModels/mine:generateContent",
        reply(200, good()),
    )
    .await;
    let gemini = gemini(&server).api_version("v1").build().unwrap();
    let request = Request::chat("row", "tunedModels/mine", [Message::user("x")]);
    gemini
        .complete(&request, &CallOptions::default())
        .await
        .unwrap();
    let odd = Request::chat("row", "models/a/../b", [Message::user("x")]);
    let sent = gemini.complete(&odd, &CallOptions::default()).await;
    assert!(sent.is_err(), "F-198: one segment, which nobody serves");
}
