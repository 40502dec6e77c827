//! Single exchanges against a mock: what is sent, how often, and what never gets out.

use batchwright_core::{
    BatchProvider, CallOptions, ChatProvider, ErrorKind, InputRef, ListMark, Message, Request,
    SealedBatch, SealedBody, SubmissionTag, SubmitError,
};
use batchwright_provider_anthropic::{Anthropic, AnthropicBuilder, Auth};
use serde_json::json;
use std::time::Duration;
use wiremock::matchers::{body_string, header, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

async fn served(set: impl FnOnce(AnthropicBuilder) -> AnthropicBuilder) -> (MockServer, Anthropic) {
    let server = MockServer::start().await;
    let builder = Anthropic::builder("CANARY-KEY-0123456789").base_url(server.uri());
    let anthropic = set(builder).build().unwrap();
    (server, anthropic)
}

fn request() -> Request {
    Request::chat("row", "claude-haiku-4-5", [Message::user("Hi")])
}

fn message() -> serde_json::Value {
    json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5-20251001",
        "content": [{"type": "text", "text": "Yo!"}], "stop_reason": "end_turn",
        "usage": {"input_tokens": 8, "output_tokens": 5}})
}

#[tokio::test]
async fn every_header_is_where_it_belongs() {
    for (auth, name, value) in [
        (Auth::ApiKey, "x-api-key", "CANARY-KEY-0123456789"),
        (
            Auth::Bearer,
            "authorization",
            "Bearer CANARY-KEY-0123456789",
        ),
    ] {
        let (server, anthropic) = served(|builder| {
            builder
                .auth(auth)
                .api_version("2026-10-21")
                .beta("one")
                .beta("two")
                .workspace("wrkspc_1")
        })
        .await;
        let sent = "{\"model\":\"claude-haiku-4-5\",\"max_tokens\":4096,\
                    \"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}";
        Mock::given(method("POST"))
            .and(path("/v1/messages"))
            .and(header(name, value))
            .and(header("anthropic-version", "2026-10-21"))
            .and(wiremock::matchers::headers(
                "anthropic-beta",
                vec!["one", "two"],
            ))
            .and(header("anthropic-workspace-id", "wrkspc_1"))
            .and(header("content-type", "application/json"))
            .and(body_string(sent))
            .respond_with(ResponseTemplate::new(200).set_body_json(message()))
            .expect(1)
            .mount(&server)
            .await;
        let call = CallOptions::default();
        let answer = anthropic.complete(&request(), &call).await.unwrap();
        assert_eq!(answer.text(), "Yo!");
        for request in server.received_requests().await.unwrap() {
            let keys = ["x-api-key", "authorization"];
            let there = keys
                .iter()
                .filter(|key| request.headers.contains_key(**key));
            assert_eq!(there.count(), 1, "the key is there once");
        }
    }
}

#[tokio::test]
async fn f_221_a_base_url_may_end_in_the_version() {
    let server = MockServer::start().await;
    Mock::given(path("/proxy/v1/messages/count_tokens"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"input_tokens": 7})))
        .expect(3)
        .mount(&server)
        .await;
    for rest in ["/proxy", "/proxy/", "/proxy/v1/"] {
        let base_url = format!("{}{rest}", server.uri());
        let anthropic = Anthropic::builder("k").base_url(base_url).build().unwrap();
        assert_eq!(anthropic.count_tokens(&request()).await.unwrap(), 7);
    }
}

#[tokio::test]
async fn a_create_carries_its_lines_from_disk_as_one_list() {
    let (server, anthropic) = served(|builder| builder).await;
    Mock::given(method("POST"))
        .and(path("/v1/messages/batches"))
        .and(body_string(
            "{\"requests\":[{\"custom_id\":\"a\"},{\"custom_id\":\"b\"}\n]}",
        ))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"id": "msgbatch_1"})))
        .expect(1)
        .mount(&server)
        .await;
    let lines = b"{\"custom_id\":\"a\"}\n{\"custom_id\":\"b\"}\n";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("chunk.jsonl");
    std::fs::write(&file, lines).unwrap();
    let (bytes, body) = (lines.len() as u64, SealedBody::File(file));
    let batch = SealedBatch::new(body, bytes, 2, "/v1/messages", "m");
    let tag = SubmissionTag::new("job", 1, 1, "rnd").unwrap();
    let input = InputRef::default();
    let handle = anthropic.submit(&batch, &input, &tag).await.unwrap();
    assert_eq!(
        (&*handle.provider, &*handle.id),
        ("anthropic", "msgbatch_1")
    );
}

/// F-110, F-112: only a refusal in words proves that nothing was bought, and nothing is ever sent twice.
#[tokio::test]
async fn f_110_f_112_what_a_creates_answer_proves() {
    let words =
        json!({"type": "error", "error": {"type": "invalid_request_error", "message": "no"}});
    for (status, body, refused) in [
        (400, words.to_string(), true),
        (413, words.to_string(), true),
        (413, "<html>".to_owned(), false),
        (409, words.to_string(), false),
        (429, words.to_string(), false),
        (500, words.to_string(), false),
        (529, words.to_string(), false),
        (200, "{}".to_owned(), false),
        (200, "null".to_owned(), false),
    ] {
        let (server, anthropic) = served(|builder| builder).await;
        Mock::given(method("POST"))
            .respond_with(ResponseTemplate::new(status).set_body_string(body))
            .expect(1)
            .mount(&server)
            .await;
        let batch = SealedBatch::new(SealedBody::Memory("{}\n".into()), 3, 1, "/v1/messages", "m");
        let tag = SubmissionTag::new("job", 1, 1, "rnd").unwrap();
        let sent = anthropic.submit(&batch, &InputRef::default(), &tag).await;
        let error = sent.unwrap_err();
        assert_eq!(
            matches!(error, SubmitError::Refused(_)),
            refused,
            "{status}: {error}"
        );
        assert_eq!(
            matches!(error, SubmitError::Unknown(_)),
            !refused,
            "{status}: {error}"
        );
    }
}

/// F-116: an entry that cannot be read may be the one that is looked for.
#[tokio::test]
async fn f_116_a_list_that_cannot_be_read_proves_nothing() {
    let (server, anthropic) = served(|builder| builder).await;
    Mock::given(path("/v1/messages/batches"))
        .and(query_param("limit", "1000"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({
            "data": [{"type": "message_batch"}], "has_more": false, "first_id": null, "last_id": null})))
        .mount(&server)
        .await;
    let error = anthropic
        .list_since(&ListMark::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

fn events(events: &[serde_json::Value]) -> String {
    let line = |event: &serde_json::Value| {
        format!(
            "event: {}\r\ndata: {event}\r\n\r\n",
            event["type"].as_str().unwrap()
        )
    };
    events.iter().map(line).collect()
}

/// F-058: a stream is whole after its last event and not before.
#[tokio::test]
async fn f_058_a_stream_without_its_last_event_is_no_answer() {
    let mut message = message();
    message["content"] = json!([]);
    let all = [
        json!({"type": "message_start", "message": message}),
        json!({"type": "ping"}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Yo!"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}),
        json!({"type": "message_stop"}),
    ];
    for upto in 0..=all.len() {
        let (server, anthropic) = served(|builder| builder.stream_above(0)).await;
        let reply = ResponseTemplate::new(200)
            .set_body_raw(events(&all[..upto]), "text/event-stream")
            .insert_header("request-id", "req_1");
        Mock::given(method("POST"))
            .respond_with(reply)
            .expect(1)
            .mount(&server)
            .await;
        let answered = anthropic
            .complete(&request(), &CallOptions::default())
            .await;
        if upto == all.len() {
            let answer = answered.unwrap();
            assert_eq!(
                (answer.text(), answer.usage.total_tokens()),
                ("Yo!".to_owned(), Some(13))
            );
            assert_eq!(answer.request_id.as_deref(), Some("req_1"));
            assert!(
                answer.raw.unwrap().get().contains("Yo!"),
                "the message is kept"
            );
        } else {
            let error = answered.unwrap_err();
            assert!(error.is_ambiguous(), "{upto}: {error}");
            assert_eq!(error.request_id(), Some("req_1"));
        }
    }
}

/// F-050, F-051, F-053: a success without an answer is none.
#[tokio::test]
async fn f_050_f_053_a_success_without_an_answer_is_ambiguous() {
    for streams in [false, true] {
        for body in [
            "",
            "null",
            "{}",
            "<html>busy</html>",
            "{\"type\":\"error\",\"error\":{\"type\":\"api_error\"}}",
        ] {
            let above = if streams { 0 } else { 21_333 };
            let (server, anthropic) = served(|builder| builder.stream_above(above)).await;
            Mock::given(method("POST"))
                .respond_with(ResponseTemplate::new(200).set_body_string(body))
                .expect(1)
                .mount(&server)
                .await;
            let sent = anthropic
                .complete(&request(), &CallOptions::default())
                .await;
            let error = sent.unwrap_err();
            assert!(error.is_ambiguous(), "{streams} {body}: {error}");
        }
    }
}

/// F-046: the key does not follow to another place.
#[tokio::test]
async fn f_046_a_redirect_is_a_wrong_base_url() {
    let (elsewhere, _) = served(|builder| builder).await;
    let (server, anthropic) = served(|builder| builder).await;
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(307).insert_header("location", &*elsewhere.uri()))
        .mount(&server)
        .await;
    let sent = anthropic
        .complete(&request(), &CallOptions::default())
        .await;
    assert_eq!(sent.unwrap_err().kind(), ErrorKind::ConfigInvalid);
    assert!(elsewhere.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn f_041_a_call_ends_when_its_time_is_up() {
    let (server, anthropic) = served(|builder| builder).await;
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(200).set_delay(Duration::from_secs(30)))
        .mount(&server)
        .await;
    let call = CallOptions::default().with_timeout(Duration::from_millis(50));
    let error = anthropic.complete(&request(), &call).await.unwrap_err();
    assert!(error.is_timeout() && error.is_ambiguous(), "{error}");
}
