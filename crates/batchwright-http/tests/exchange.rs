//! Single exchanges with a well-behaved server.
#![allow(clippy::unwrap_used, reason = "tests")]

use batchwright_core::{ErrorKind, RetryClass, RetryPolicy};
use batchwright_http::{BaseUrl, Body, Call, HttpClient, Secret, header};
use std::io::Write;
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{body_string, header as has_header, method, path},
};

fn base(server: &MockServer) -> BaseUrl {
    BaseUrl::parse(&server.uri(), false).unwrap()
}

#[tokio::test]
async fn a_call_is_sent_as_given_and_any_status_comes_back() {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/v1/batches"))
        .and(has_header("authorization", "Bearer sk-canary"))
        .and(has_header("content-type", "application/json"))
        .and(body_string("{}"))
        .respond_with(
            ResponseTemplate::new(418).set_body_raw(r#"{"error":{}}"#, "application/json"),
        )
        .expect(1)
        .mount(&server)
        .await;
    let client = HttpClient::builder().build().unwrap();
    let key = Secret::new("sk-canary".into());
    let call = Call::post(
        "create the batch",
        base(&server).join("/v1/batches").unwrap(),
    )
    .header(header::AUTHORIZATION, key.header_value("Bearer ").unwrap())
    .json("{}");
    let reply = client.send(call).await.unwrap();
    assert_eq!((reply.status, reply.complete), (418, true));
    assert_eq!(&reply.body[..], br#"{"error":{}}"#);
    assert_eq!(reply.content_type(), Some("application/json"));
}

#[tokio::test]
async fn a_file_is_streamed_with_its_exact_length() {
    for builder in [HttpClient::builder(), HttpClient::builder().http2()] {
        streamed(builder.build().unwrap()).await;
    }
}

async fn streamed(client: HttpClient) {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(200))
        .mount(&server)
        .await;
    let content = vec![b'x'; 700_000];
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&content).unwrap();
    let body = |len| Body::File {
        prefix: "head".into(),
        path: file.path().into(),
        len,
        suffix: "tail".into(),
    };
    let url = base(&server).join("files").unwrap();
    let send = |body| client.send(Call::post("upload the file", url.clone()).body(body));
    assert_eq!(send(body(700_000)).await.unwrap().status, 200);
    let received = server.received_requests().await.unwrap();
    assert_eq!(received[0].headers["content-length"], "700008");
    assert!(!received[0].headers.contains_key("transfer-encoding"));
    assert_eq!(received[0].body, [b"head", &content[..], b"tail"].concat());

    let error = send(body(700_001)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.class()),
        (ErrorKind::Storage, RetryClass::JobStop)
    );
    assert_eq!(server.received_requests().await.unwrap().len(), 1);
}

#[tokio::test]
async fn f_033_reads_are_sent_again_and_nothing_else_is() {
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .respond_with(ResponseTemplate::new(503).insert_header("retry-after", "0"))
        .up_to_n_times(2)
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .respond_with(ResponseTemplate::new(200).set_body_string("done"))
        .mount(&server)
        .await;
    let url = base(&server).join("v1/batches/1").unwrap();
    let client = HttpClient::builder().build().unwrap();
    let mut policy = RetryPolicy::for_reads();
    policy.initial = std::time::Duration::from_millis(1);
    policy.floor = std::time::Duration::from_millis(1);
    let reply = client
        .read(Call::get("poll the batch", url.clone()), &policy)
        .await
        .unwrap();
    assert_eq!(&reply.body[..], b"done");
    assert_eq!(server.received_requests().await.unwrap().len(), 3);

    let refused = client
        .read(Call::post("x", url), &policy)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unexpected);
    assert_eq!(server.received_requests().await.unwrap().len(), 3);
}
