//! Single exchanges against a mock: what is sent, how often, and what never gets out.

use batchwright_core::{
    BatchHandle, BatchProvider, BatchStatus, CallOptions, ChatProvider, ErrorKind, InputRef,
    ListMark, Message, Request, Response, ResultFile, RetryClass, SealedBatch, SealedBody,
    SubmissionTag, SubmitError,
};
use batchwright_provider_openai::{Dialect, OpenAi, OpenAiBuilder, OpenAiConfig, Paging, Windows};
use futures::StreamExt;
use serde_json::{Value, json};
use std::time::Duration;
use wiremock::matchers::{body_json, header, header_exists, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

/// Without the shape of a key, so that nothing removes it by its looks.
const KEY: &str = "CANARY_KEY_that_must_never_show";

fn openai(server: &MockServer) -> OpenAiBuilder {
    OpenAi::builder(KEY).base_url(format!("{}/v1/", server.uri()))
}

fn chat() -> Request {
    Request::chat("row", "m", [Message::user("CANARY_PROMPT")])
}

fn good() -> Value {
    json!({"id": "chatcmpl-1", "model": "m-1", "choices": [{"finish_reason": "stop", "message": {"content": "CANARY_ANSWER"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
}

fn tag() -> SubmissionTag {
    SubmissionTag::new("job1", 4, 2, "rnd1").unwrap()
}

fn batch() -> SealedBatch {
    let lines = SealedBody::Memory(bytes::Bytes::from_static(b"{}\n"));
    SealedBatch::new(lines, 3, 1, "/v1/chat/completions", "m")
}

fn handle() -> BatchHandle {
    BatchHandle::new("openai", "batch_1", InputRef("file-1".into()))
}

async fn serve(verb: &str, at: &str, reply: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method(verb))
        .and(path(at))
        .respond_with(reply)
        .expect(1)
        .mount(&server)
        .await;
    server
}

fn reply(status: u16, body: Value) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_json(body)
}

#[tokio::test]
async fn a_call_goes_out_once_with_its_headers_and_body() {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/v1/chat/completions"))
        .and(header("authorization", format!("Bearer {KEY}")))
        .and(header("openai-organization", "org-1"))
        .and(header("openai-project", "proj_1"))
        .and(header("content-type", "application/json"))
        .and(body_json(
            json!({"model": "m", "messages": [{"role": "user", "content": "CANARY_PROMPT"}]}),
        ))
        .respond_with(
            reply(200, good())
                .insert_header("x-request-id", "req_1")
                .insert_header("x-ratelimit-remaining-tokens", "7")
                .insert_header("x-ratelimit-reset-tokens", "6m0s"),
        )
        .expect(1)
        .mount(&server)
        .await;
    let openai = openai(&server)
        .organization("org-1")
        .project("proj_1")
        .build()
        .unwrap();
    let answer = openai
        .complete(&chat(), &CallOptions::default())
        .await
        .unwrap();
    assert_eq!(answer.text(), "CANARY_ANSWER");
    assert_eq!(answer.request_id.as_deref(), Some("req_1"));
    let limit = answer.rate_limit.unwrap();
    assert_eq!(limit.remaining_tokens, Some(7));
    assert_eq!(limit.reset_tokens, Some(Duration::from_secs(360)));
    assert_eq!(answer.raw.unwrap().get(), good().to_string());
}

async fn failed(template: ResponseTemplate) -> batchwright_core::Error {
    let server = serve("POST", "/v1/chat/completions", template).await;
    let openai = openai(&server).build().unwrap();
    let result: batchwright_core::Result<Response> =
        openai.complete(&chat(), &CallOptions::default()).await;
    result.unwrap_err()
}

/// F-017, F-022, F-050, F-051, F-053: one send each, whatever comes back.
#[tokio::test]
async fn every_failure_is_sent_once() {
    for (template, kind, class) in [
        (
            ResponseTemplate::new(500),
            ErrorKind::ProviderFault,
            RetryClass::Ambiguous,
        ),
        (
            // Whoever said so; with a word of the provider's it is a refusal.
            ResponseTemplate::new(503),
            ErrorKind::Overloaded,
            RetryClass::Ambiguous,
        ),
        (
            reply(
                503,
                json!({"error": {"code": "server_is_overloaded", "message": "no"}}),
            ),
            ErrorKind::Overloaded,
            RetryClass::Rejected,
        ),
        (
            ResponseTemplate::new(429),
            ErrorKind::RateLimited,
            RetryClass::Rejected,
        ),
        (
            ResponseTemplate::new(500).insert_header("x-should-retry", "true"),
            ErrorKind::ProviderFault,
            RetryClass::Ambiguous,
        ),
        (
            ResponseTemplate::new(200).set_body_raw("<html>sign in</html>", "text/html"),
            ErrorKind::ProviderFault,
            RetryClass::Ambiguous,
        ),
        (
            ResponseTemplate::new(200).set_body_string("null"),
            ErrorKind::ProviderFault,
            RetryClass::Ambiguous,
        ),
        (
            ResponseTemplate::new(200).set_body_string(" "),
            ErrorKind::ProviderFault,
            RetryClass::Ambiguous,
        ),
        (
            ResponseTemplate::new(200).set_body_bytes(b"{\"choices\":\"\xff\"}".to_vec()),
            ErrorKind::ProviderFault,
            RetryClass::Ambiguous,
        ),
        (
            reply(200, json!({"error": {"code": 400, "message": "no"}})),
            ErrorKind::InvalidRequest,
            RetryClass::RowFatal,
        ),
    ] {
        let error = failed(template).await;
        assert_eq!((error.kind(), error.class()), (kind, class), "{error}");
        assert!(error.status().is_some());
    }
}

/// F-041: the call's own bound holds.
#[tokio::test]
async fn a_timeout_is_ambiguous() {
    let slow = reply(200, good()).set_delay(Duration::from_secs(60));
    let server = serve("POST", "/v1/chat/completions", slow).await;
    let openai = openai(&server).build().unwrap();
    let call = CallOptions::default().with_timeout(Duration::from_millis(100));
    let error = openai.complete(&chat(), &call).await.unwrap_err();
    assert!(error.is_timeout() && error.is_ambiguous(), "{error}");
}

/// F-030, F-031: nothing was sent.
#[tokio::test]
async fn no_connection_is_not_sent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let openai = OpenAi::builder(KEY)
        .base_url(format!("http://{address}/v1"))
        .build()
        .unwrap();
    let error = openai
        .complete(&chat(), &CallOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.class(), RetryClass::NotSent);
    let error = openai
        .submit(&batch(), &InputRef("f".into()), &tag())
        .await
        .unwrap_err();
    assert!(matches!(error, SubmitError::NotSent(_)), "{error}");
}

/// F-191, F-192, F-203: not the key, not the prompt, not the answer.
#[tokio::test]
async fn nothing_secret_shows() {
    let echo = json!({"error": {"message": format!("Incorrect API key provided: {KEY}."), "code": "invalid_api_key"}});
    let error = failed(reply(401, echo)).await;
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    let server = serve("POST", "/v1/chat/completions", reply(200, good())).await;
    let openai = openai(&server).build().unwrap();
    let answer = openai
        .complete(&chat(), &CallOptions::default())
        .await
        .unwrap();
    let cut = failed(
        ResponseTemplate::new(200)
            .set_body_string("{\"choices\":[{\"message\":{\"content\":\"CANARY_ANSWER"),
    )
    .await;
    for shown in [
        format!("{error} {error:?}"),
        format!("{cut} {cut:?}"),
        format!("{openai:?} {:?}", self::openai(&server)),
        format!("{answer:?}"),
    ] {
        assert!(!shown.contains("CANARY"), "{shown}");
    }
}

#[tokio::test]
async fn f_046_f_194_a_redirect_is_not_followed() {
    let elsewhere = MockServer::start().await;
    Mock::given(header_exists("authorization"))
        .respond_with(reply(200, good()))
        .expect(0)
        .mount(&elsewhere)
        .await;
    let moved = || ResponseTemplate::new(307).insert_header("location", elsewhere.uri());
    assert_eq!(failed(moved()).await.kind(), ErrorKind::ConfigInvalid);
    let server = serve("POST", "/v1/batches", moved()).await;
    let openai = openai(&server).build().unwrap();
    let error = openai
        .submit(&batch(), &InputRef("f".into()), &tag())
        .await
        .unwrap_err();
    assert!(matches!(error, SubmitError::Unknown(_)), "{error}");
}

#[tokio::test]
async fn a_create_carries_input_endpoint_and_tag() {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/v1/batches"))
        .and(body_json(json!({"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h",
            "metadata": {"batchwright_tag": "bw1-job1-4-2-rnd1", "batchwright_job": "job1"}})))
        .respond_with(reply(200, json!({"id": "batch_1", "object": "batch", "status": "validating"})))
        .expect(1)
        .mount(&server)
        .await;
    let openai = openai(&server).name("other").build().unwrap();
    let made = openai
        .submit(&batch(), &InputRef("file-1".into()), &tag())
        .await
        .unwrap();
    assert_eq!(
        made,
        BatchHandle::new("other", "batch_1", InputRef("file-1".into()))
    );
}

/// F-111: not even an explicit instruction makes a second create.
#[tokio::test]
async fn f_017_f_111_a_create_is_never_repeated() {
    for status in [408, 409, 429, 500, 503] {
        let body = json!({"error": {"message": "again", "code": null}});
        let told = reply(status, body).insert_header("x-should-retry", "true");
        let server = serve("POST", "/v1/batches", told).await;
        let openai = openai(&server).build().unwrap();
        let error = openai
            .submit(&batch(), &InputRef("f".into()), &tag())
            .await
            .unwrap_err();
        assert!(matches!(error, SubmitError::Unknown(_)), "{error}");
    }
}

/// F-118: a short file is deleted and not used.
#[tokio::test]
async fn f_118_an_upload_stored_short_is_deleted() {
    let server = serve(
        "POST",
        "/v1/files",
        reply(200, json!({"id": "file-1", "bytes": 2})),
    )
    .await;
    Mock::given(method("DELETE"))
        .and(path("/v1/files/file-1"))
        .respond_with(reply(200, json!({"deleted": true})))
        .expect(1)
        .mount(&server)
        .await;
    let openai = openai(&server).build().unwrap();
    let error = openai.upload(&batch(), &tag()).await.unwrap_err();
    assert_eq!(error.class(), RetryClass::Rejected, "{error}");
}

#[tokio::test]
async fn an_upload_is_a_form_of_exact_length() {
    let server = serve(
        "POST",
        "/v1/files",
        reply(200, json!({"id": "file-1", "bytes": 3})),
    )
    .await;
    let openai = openai(&server).build().unwrap();
    assert_eq!(
        openai.upload(&batch(), &tag()).await.unwrap(),
        InputRef("file-1".into())
    );
    let sent = &server.received_requests().await.unwrap()[0];
    let length: usize = sent.headers["content-length"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(length, sent.body.len());
    assert!(
        sent.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("multipart/form-data; boundary=batchwright-")
    );
}

/// F-198: an id from outside stays one segment of the path.
#[tokio::test]
async fn f_198_an_odd_id_does_not_lead_elsewhere() {
    let server = serve(
        "GET",
        "/v1/batches/..%2F..%2Fadmin%3Fa",
        reply(200, json!({"status": "in_progress"})),
    )
    .await;
    let openai = openai(&server).build().unwrap();
    let odd = BatchHandle::new("openai", "../../admin?a", InputRef::default());
    openai.status(&odd).await.unwrap();
    let dots = BatchHandle::new("openai", "..", InputRef::default());
    assert!(openai.status(&dots).await.is_err());
}

#[tokio::test]
async fn f_106_a_range_is_believed_only_with_its_place() {
    let part = |status: u16, range: Option<&str>| {
        let mut template = ResponseTemplate::new(status).set_body_string("rest");
        if let Some(range) = range {
            template = template.insert_header("content-range", range);
        }
        template
    };
    for (template, offset, works) in [
        (part(200, None), 0, true),
        (part(206, Some("bytes 6-9/10")), 6, true),
        (part(206, Some("bytes 6-9/*")), 6, true),
        (part(200, None), 6, false),
        (part(206, Some("bytes 0-9/10")), 6, false),
        (part(206, None), 6, false),
        (part(206, Some("lines 6-9/10")), 6, false),
        (part(416, Some("bytes */10")), 6, false),
    ] {
        let server = serve("GET", "/v1/files/file-1/content", template).await;
        let openai = openai(&server).build().unwrap();
        let read = openai
            .download(&ResultFile::new("file-1", "output"), offset)
            .await;
        assert_eq!(read.is_ok(), works, "{offset}");
        match read {
            Ok(stream) => {
                let pieces: Vec<_> = stream.map(Result::unwrap).collect().await;
                assert_eq!(pieces.concat(), b"rest");
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported),
        }
        let sent = &server.received_requests().await.unwrap()[0];
        let range = sent
            .headers
            .get("range")
            .map(|range| range.to_str().unwrap().to_owned());
        assert_eq!(range, (offset > 0).then(|| format!("bytes={offset}-")));
    }
}

/// F-025, F-079.
#[tokio::test]
async fn f_025_a_conflict_on_cancel_is_not_repeated() {
    let body = json!({"error": {"message": "Cannot cancel a batch with status 'completed'.", "type": "invalid_request_error"}});
    let server = serve("POST", "/v1/batches/batch_1/cancel", reply(409, body)).await;
    let openai = openai(&server).build().unwrap();
    let error = openai.cancel(&handle()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.class()),
        (ErrorKind::Conflict, RetryClass::RowFatal)
    );
}

/// F-087: a batch of another project is not lost, it is not ours to see.
#[tokio::test]
async fn f_087_a_batch_not_found_says_so_and_nothing_more() {
    let body = json!({"error": {"message": "No batch found with id 'batch_1'.", "type": "invalid_request_error", "param": null, "code": null}});
    let server = serve("GET", "/v1/batches/batch_1", reply(404, body)).await;
    let openai = openai(&server).build().unwrap();
    let error = openai.status(&handle()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("No batch found"));
}

/// F-210, F-211, F-116: a server without paging, and entries that cannot be read.
#[tokio::test]
async fn a_compatible_servers_list_is_read_or_refused() {
    let whole = json!({"object": "list", "data": [{"id": "batch_1", "status": "completed", "metadata": null}]});
    let server = serve("GET", "/v1/batches", reply(200, whole)).await;
    let openai = openai(&server).build().unwrap();
    let found = openai.list_since(&Default::default()).await.unwrap();
    assert_eq!((found.len(), &found[0].tag), (1, &None));
    for odd in [
        json!({"data": [7]}),
        json!({"data": [{"status": "completed"}]}),
        json!({"object": "list"}),
        json!([]),
    ] {
        let server = serve("GET", "/v1/batches", reply(200, odd.clone())).await;
        let openai = self::openai(&server).build().unwrap();
        assert!(
            openai.list_since(&Default::default()).await.is_err(),
            "{odd}"
        );
    }
}

#[tokio::test]
async fn f_119_the_stored_input_is_looked_for_by_name_and_size() {
    let file = |id: &str, name: &str, bytes: u64| json!({"id": id, "filename": name, "bytes": bytes, "purpose": "batch"});
    let server = MockServer::start().await;
    let first = json!({"data": [file("file-1", "bw1-job1-4-2-rnd1.jsonl", 2), file("file-2", "other.jsonl", 3)], "has_more": true, "last_id": "file-2"});
    let second = json!({"data": [file("file-3", "bw1-job1-4-2-rnd1.jsonl", 3)], "has_more": false});
    Mock::given(path("/v1/files"))
        .and(query_param("after", "file-2"))
        .and(query_param("purpose", "batch"))
        .respond_with(reply(200, second))
        .expect(1)
        .with_priority(1)
        .mount(&server)
        .await;
    Mock::given(path("/v1/files"))
        .and(query_param("order", "desc"))
        .respond_with(reply(200, first))
        .expect(1)
        .with_priority(2)
        .mount(&server)
        .await;
    let openai = openai(&server).build().unwrap();
    let found = openai.find_upload(&batch(), &tag()).await.unwrap();
    assert_eq!(found, Some(InputRef("file-3".into())));
}

#[test]
fn what_it_can_do_is_data_and_it_crosses_threads() {
    fn crosses<T: Send + Sync + Clone + 'static>(_: &T) {}
    let openai = OpenAi::builder(KEY).build().unwrap();
    crosses(&openai);
    let capability = ChatProvider::capability(&openai);
    assert_eq!(capability.realtime_endpoints.len(), 3);
    let batch = capability.batch.as_ref().unwrap();
    assert_eq!(batch.max_requests, 50_000);
    assert!(batch.max_bytes < 200_000_000);
    assert!(batch.one_model && batch.cancel);
    assert_eq!(ChatProvider::name(&openai), "openai");
}

/// A service with its own name, key header, window, paging, codes and words.
static ACME: Dialect = {
    const STATUSES: &[(&str, BatchStatus)] = &[("in_queue", BatchStatus::Validating)];
    let mut acme = Dialect::new(
        "acme",
        "https://acme.example/v1",
        "ACME_KEY",
        Dialect::OPENAI.capability,
    );
    acme.base_url_var = Some("ACME_URL");
    acme.auth_header = "api-key";
    acme.auth_prefix = "";
    acme.window = "7d";
    acme.windows = Windows::Of(&["24h", "7d"]);
    acme.paging = Paging::Cursor;
    acme.statuses = STATUSES;
    acme.errors = Dialect::OPENAI
        .errors
        .with_own_codes(&[("no_room", ErrorKind::Overloaded, RetryClass::Rejected)])
        .with_statuses(&[(498, ErrorKind::Overloaded, RetryClass::Rejected)]);
    acme
};

#[tokio::test]
async fn what_a_service_differs_in_comes_from_its_dialect() {
    let server = MockServer::start().await;
    let url = format!("{}/v1", server.uri());
    let pairs = [
        ("ACME_KEY", KEY),
        ("ACME_URL", &url),
        ("OPENAI_API_KEY", "other"),
    ];
    let acme = OpenAi::new(OpenAiConfig::from_env_of(&ACME, pairs).unwrap()).unwrap();
    assert_eq!(BatchProvider::name(&acme), "acme");

    Mock::given(method("POST"))
        .and(path("/v1/batches"))
        .and(header("api-key", KEY))
        .respond_with(reply(200, json!({"id": "batch_7"})))
        .expect(1)
        .mount(&server)
        .await;
    let handle = acme
        .submit(&batch(), &InputRef("file-1".into()), &tag())
        .await
        .unwrap();
    assert_eq!(handle.provider, "acme");
    let sent = server.received_requests().await.unwrap().pop().unwrap();
    let sent: Value = serde_json::from_slice(&sent.body).unwrap();
    assert_eq!(sent["completion_window"], "7d");

    let page = |id: &str, next: Value| json!({"data": [{"id": id, "status": "IN_QUEUE", "request_counts": {"total": 3}}], "paging": next});
    Mock::given(method("GET"))
        .and(path("/v1/batches"))
        .and(query_param("cursor", "c2"))
        .respond_with(reply(200, page("b", Value::Null)))
        .expect(1)
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .and(path("/v1/batches"))
        .respond_with(reply(200, page("a", json!({"next_cursor": "c2"}))))
        .expect(1)
        .with_priority(9)
        .mount(&server)
        .await;
    let listed = acme.list_since(&ListMark::default()).await.unwrap();
    let seen: Vec<_> = listed
        .iter()
        .map(|batch| (&*batch.handle.id, &batch.status, batch.requests))
        .collect();
    let queued = BatchStatus::Validating;
    assert_eq!(seen, [("a", &queued, Some(3)), ("b", &queued, Some(3))]);

    for (status, body) in [
        (498, json!({})),
        (400, json!({"error": {"code": "no_room"}})),
    ] {
        let server = serve("POST", "/v1/chat/completions", reply(status, body)).await;
        let mut config = OpenAiConfig::of(&ACME, KEY);
        config.base_url = format!("{}/v1", server.uri());
        let error = OpenAi::new(config)
            .unwrap()
            .complete(&chat(), &CallOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Overloaded, "{status}");
        assert_eq!(error.provider(), Some("acme"));
    }
}
