//! Sealed chunks on their way: as they are, and as a list.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use batchwright_core::{SealedBatch, SealedBody};
use batchwright_http::{Body, Call, HttpClient, Limits, Secret, Url, header::HeaderName};
use serde_json::{Value, json};
use std::io::Write;
use wiremock::{Mock, MockServer, ResponseTemplate, matchers::any};

/// What the server got, and the declared length.
async fn sent(body: Body) -> (Vec<u8>, String) {
    let server = MockServer::start().await;
    Mock::given(any())
        .respond_with(ResponseTemplate::new(200))
        .mount(&server)
        .await;
    let url = Url::parse(&server.uri()).unwrap();
    let call = Call::post("send the chunk", url)
        .body(body)
        .limits(Limits::upload());
    let client = HttpClient::builder().no_proxy().build().unwrap();
    assert!(client.send(call).await.unwrap().is_success());
    let request = server.received_requests().await.unwrap().pop().unwrap();
    let length = request.headers["content-length"].to_str().unwrap();
    let length = length.to_owned();
    (request.body, length)
}

fn in_memory(lines: &[u8]) -> SealedBatch {
    let rows = lines.split(|byte| *byte == b'\n').count() as u64;
    let body = SealedBody::Memory(lines.to_vec().into());
    SealedBatch::new(body, lines.len() as u64, rows, "/e", "m")
}

#[tokio::test]
async fn a_create_carries_a_chunks_lines_as_a_list_of_the_same_length() {
    // The last has lines longer than a piece read from disk.
    let long = "x".repeat(700_000);
    let rows = |texts: &[&str]| {
        let lines = texts
            .iter()
            .map(|text| format!("{}\n", json!({"id": "a,\\n", "text": text})));
        lines.collect::<String>()
    };
    for lines in [
        rows(&["a"]),
        rows(&["a", "b"]),
        rows(&["a", "b"]).trim_end().to_owned(),
        rows(&[&long, &long, "c"]),
    ] {
        let expected: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(lines.as_bytes()).unwrap();
        let from_memory = in_memory(lines.as_bytes());
        let mut from_file = from_memory.clone();
        from_file.body = SealedBody::File(file.path().to_owned());
        for batch in [from_memory, from_file] {
            let body = Body::sealed_list(&batch, "{\"requests\":[", "]}");
            let declared = body.len();
            let (got, length) = sent(body).await;
            assert_eq!((got.len() as u64, length), (declared, declared.to_string()));
            let got: Value = serde_json::from_slice(&got).unwrap();
            assert_eq!(got, json!({ "requests": expected }));
            let (got, _) = sent(Body::sealed(&batch, "<", ">")).await;
            assert_eq!(got, format!("<{lines}>").as_bytes());
        }
    }
}

#[tokio::test]
async fn f_192_any_header_may_carry_a_key_and_shows_none() {
    let name = HeaderName::from_static("x-api-key");
    let key = Secret::new("CANARY".to_owned());
    let url = Url::parse("http://127.0.0.1:1/").unwrap();
    let call = Call::get("read", url.clone())
        .secret(name.clone(), "", &key)
        .unwrap();
    assert!(call.headers[&name].is_sensitive());
    assert!(!format!("{call:?} {:?}", call.headers).contains("CANARY"));
    let broken = Secret::new("a\nb".to_owned());
    assert!(Call::get("read", url).secret(name, "", &broken).is_err());
}
