//! Faults below the protocols: encodings, redirects, kept connections, headers.

use std::io::{self, Read as _};
use std::time::Duration;

use batchwright_emulator::{Emulator, FaultRule, Span};
use flate2::read::{GzDecoder, MultiGzDecoder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Client, START, chat, start, still};

const CHAT: &str = "/openai/v1/chat/completions";

async fn with(action: Value) -> (Emulator, Client) {
    let script = json!([{"match": {"path": "/openai/*"}, "actions": [action]}]);
    let rules = FaultRule::list_from_json(&script.to_string()).unwrap();
    start(still().with_faults(rules)).await
}

fn gunzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut out).map(|_| out)
}

fn is_answer(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Value>(bytes).is_ok_and(|json| json["object"] == "chat.completion")
}

#[tokio::test]
async fn f_044_bodies_are_compressed_in_every_way() {
    for (kind, label) in [
        ("plain", Some("gzip")),
        ("members", Some("gzip")),
        ("twice", Some("gzip, gzip")),
        ("twice_unsaid", Some("gzip")),
        ("only_said", Some("gzip")),
        ("unsaid", None),
        ("x_gzip", Some("x-gzip")),
        ("garbage", Some("gzip")),
    ] {
        let (_emulator, client) = with(json!({"gzip": {"kind": kind}})).await;
        let answer = client.post(CHAT, &chat("gpt-4o-mini", "Hi")).await;
        assert_eq!(answer.status, 200, "{kind}");
        assert_eq!(answer.header("content-encoding"), label, "{kind}");
        assert!(answer.whole, "{kind}");
        let fine = match kind {
            "only_said" => is_answer(&answer.body) && gunzip(&answer.body).is_err(),
            "twice" | "twice_unsaid" => is_answer(&gunzip(&gunzip(&answer.body).unwrap()).unwrap()),
            "members" => {
                let mut all = Vec::new();
                let mut decoder = MultiGzDecoder::new(&*answer.body);
                decoder.read_to_end(&mut all).unwrap();
                is_answer(&all) && !is_answer(&gunzip(&answer.body).unwrap())
            }
            _ => is_answer(&gunzip(&answer.body).unwrap()),
        };
        assert!(fine, "{kind}");
    }
}

#[tokio::test]
async fn f_043_a_compressed_body_breaks_off_and_looks_whole() {
    for cut in [1, 8, 100] {
        let (_emulator, client) = with(json!({"gzip": {"cut": cut}})).await;
        let answer = client.post(CHAT, &chat("gpt-4o-mini", "Hi")).await;
        assert!(answer.whole, "the declared length is that of what is sent");
        assert!(gunzip(&answer.body).is_err(), "{cut}");
    }
}

#[tokio::test]
async fn f_200_a_bomb_is_small_on_the_wire() {
    let (_emulator, client) = with(json!({"gzip_bomb": {"bytes": 1 << 30}})).await;
    let answer = client.post(CHAT, &chat("gpt-4o-mini", "Hi")).await;
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert!(answer.body.len() < 2 << 20, "{}", answer.body.len());
    let mut decoder = GzDecoder::new(&*answer.body);
    let bytes = io::copy(&mut decoder, &mut io::sink()).unwrap();
    assert!(bytes > 1 << 30);
}

#[tokio::test]
async fn f_046_and_f_194_redirects_go_where_the_script_says_and_do_nothing() {
    for (status, to) in [
        (301, Some("https://canary.example/")),
        (302, Some("/openai/v1/models")),
        (307, Some(CHAT)),
        (308, None),
    ] {
        let (emulator, client) = with(json!({"redirect": {"status": status, "to": to}})).await;
        let answer = client.post(CHAT, &chat("gpt-4o-mini", "Hi")).await;
        assert_eq!((answer.status, answer.header("location")), (status, to));
        assert!(emulator.invoice().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn f_138_dates_are_wrong_for_one_answer_or_for_all() {
    let (_emulator, client) = with(json!({"skew_date": {"by": "12h", "back": true}})).await;
    let skewed = client.get("/openai/v1/models").await;
    assert_eq!(skewed.header("date"), Some("Fri, 21 Nov 2025 20:26:40 GMT"));

    let (emulator, client) = start(still()).await;
    let set = json!({"date_skew": {"by": "1h"}});
    let clock = client.post("/emulator/clock", &set).await.json();
    assert_eq!(clock["date_skew_ms"], 3_600_000);
    assert_eq!(clock["now"], START);
    let skewed = client.get("/openai/v1/models").await;
    assert_eq!(skewed.header("date"), Some("Sat, 22 Nov 2025 09:26:40 GMT"));
    assert_eq!(emulator.now_ms(), START * 1000);
}

#[tokio::test]
async fn headers_of_a_true_answer_can_be_set_and_taken_away() {
    let action = json!({"set_headers": {
        "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": null,
    }});
    let (_emulator, client) = with(action).await;
    let answer = client.post(CHAT, &chat("gpt-4o-mini", "Hi")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("0"));
    assert_eq!(answer.header("x-ratelimit-reset-requests"), None);
    assert!(answer.header("x-ratelimit-limit-requests").is_some());
}

#[tokio::test]
async fn f_201_a_body_never_ends() {
    let (emulator, _client) = with(json!("endless")).await;
    let mut stream = send(&emulator).await;
    let mut read = 0;
    let mut buffer = vec![0; 64 << 10];
    while read < 8 << 20 {
        let more = stream.read(&mut buffer).await.unwrap();
        assert!(more > 0, "ended after {read} bytes");
        read += more;
    }
}

/// Opens a connection that is kept and sends one request on it.
async fn send(emulator: &Emulator) -> TcpStream {
    let mut stream = TcpStream::connect(emulator.addr()).await.unwrap();
    stream.write_all(request().as_bytes()).await.unwrap();
    stream
}

fn request() -> String {
    "GET /openai/v1/models/gpt-4o HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k\r\n\r\n".to_owned()
}

/// Reads one answer whose length is declared.
async fn answer(stream: &mut TcpStream) -> io::Result<String> {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && body.ends_with('}')
        {
            return Ok(text);
        }
    }
}

#[tokio::test]
async fn f_033_an_idle_connection_is_closed_unannounced() {
    let (emulator, _client) = with(json!({"close_idle": {"after": "50ms"}})).await;
    let mut stream = send(&emulator).await;
    let first = answer(&mut stream).await.unwrap().to_ascii_lowercase();
    assert!(!first.contains("connection: close"));
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest));
    assert_eq!(
        end.await.unwrap().unwrap(),
        0,
        "closed in order, without a byte"
    );
    assert_eq!(emulator.calls("GET", "/openai/v1/models/{model}"), 1);
}

#[tokio::test]
async fn f_033_a_connection_in_use_is_not_idle() {
    let rule = |times: u64| {
        json!([{"match": {"path": "/openai/*"}, "times": times,
                "actions": [{"close_idle": {"after": Span(Duration::from_secs(1))}}]}])
    };
    let rules = FaultRule::list_from_json(&rule(1).to_string()).unwrap();
    let (emulator, _client) = start(still().with_faults(rules)).await;
    let mut stream = send(&emulator).await;
    answer(&mut stream).await.unwrap();
    stream.write_all(request().as_bytes()).await.unwrap();
    answer(&mut stream).await.unwrap();
    let mut byte = [0];
    let more = tokio::time::timeout(Duration::from_millis(1200), stream.read(&mut byte)).await;
    assert!(more.is_err(), "the second request called the closing off");
}

#[tokio::test]
async fn f_033_and_f_034_the_next_request_finds_the_connection_closing() {
    for how in ["fin", "rst"] {
        let (emulator, _client) = with(json!({"close_next": how})).await;
        let mut stream = send(&emulator).await;
        answer(&mut stream).await.unwrap();
        stream.write_all(request().as_bytes()).await.unwrap();
        let error = answer(&mut stream).await.unwrap_err();
        let expected = match how {
            "fin" => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::ConnectionReset,
        };
        assert_eq!(error.kind(), expected, "{how}");
        assert_eq!(
            emulator.calls("GET", "/openai/v1/models/{model}"),
            1,
            "the second request was never looked at"
        );
    }
}
