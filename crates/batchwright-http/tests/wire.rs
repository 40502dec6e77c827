//! Servers that misbehave byte by byte.
#![allow(clippy::unwrap_used, reason = "tests")]

use batchwright_core::{Error, ErrorKind, RetryClass, RetryPolicy};
use batchwright_http::{Body, Call, HttpClient, Limits, Secret, Url, header};
use flate2::{Compression, write::GzEncoder};
use futures::StreamExt;
use std::{
    future::Future,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Runs `script` for every connection, after its request's head and `{}` body were read.
struct Server {
    url: Url,
    accepted: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start<F>(script: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "http://{}/v1/canary-path?a=canary-query",
            listener.local_addr().unwrap()
        );
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                read_head(&mut socket).await;
                connections.spawn(script(socket));
            }
        });
        Self {
            url: url.parse().unwrap(),
            accepted,
            _tasks: tasks,
        }
    }

    /// Answers with exactly these bytes and closes.
    async fn bytes(answer: impl Into<Vec<u8>>) -> Self {
        let answer = Arc::new(answer.into());
        Self::start(move |mut socket| {
            let answer = Arc::clone(&answer);
            async move {
                // The client may have had enough before the end.
                let _ = socket.write_all(&answer).await;
            }
        })
        .await
    }

    fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    fn call(&self) -> Call {
        Call::post("send the request", self.url.clone())
            .header(
                header::AUTHORIZATION,
                Secret::new("sk-canary-key".into())
                    .header_value("Bearer ")
                    .unwrap(),
            )
            .json("{\"prompt\":\"canary-prompt\"}")
    }
}

async fn read_head(socket: &mut TcpStream) {
    let mut seen = Vec::new();
    while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut buffer = [0; 4096];
        let read = socket.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "the head is whole");
        seen.extend_from_slice(&buffer[..read]);
    }
}

/// Each test twice: on connections of our own, and through reqwest, as with HTTP/2, which none of these servers speaks.
macro_rules! on_both {
    ($($test:ident)*) => {
        mod direct {
            $(#[tokio::test]
            async fn $test() {
                super::$test(batchwright_http::HttpClient::builder().build().unwrap()).await;
            })*
        }
        mod through_reqwest {
            $(#[tokio::test]
            async fn $test() {
                super::$test(batchwright_http::HttpClient::builder().http2().build().unwrap()).await;
            })*
        }
    };
}

on_both! {
    f_031_a_refused_connection_was_not_sent
    f_034_silence_after_the_request_is_ambiguous_and_sent_once
    f_033_a_connection_closed_while_idle_repeats_reads_only
    f_035_f_036_half_a_body_is_never_a_success
    f_036_the_status_of_a_cut_error_is_told
    f_038_f_039_every_wait_ends
    f_043_truncated_gzip_is_an_error
    f_044_several_gzip_members_are_read_and_a_wrong_label_is_an_error
    f_200_a_bomb_is_cut_while_it_unfolds
    f_201_endless_headers_and_bodies_end
    f_045_an_early_answer_is_reported_instead_of_the_broken_pipe
    f_046_f_194_redirects_are_never_followed
}

/// F-192, F-193: whatever fails, neither key nor prompt nor URL is told.
#[track_caller]
fn check(error: &Error, kind: ErrorKind, class: RetryClass) {
    let told = format!("{error} {error:?}");
    assert!(!told.contains("canary"), "{told}");
    assert_eq!((error.kind(), error.class()), (kind, class), "{told}");
    assert!(error.message().starts_with("send the request: "), "{told}");
}

async fn f_031_a_refused_connection_was_not_sent(client: HttpClient) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/canary", listener.local_addr().unwrap());
    drop(listener);
    let error = client
        .send(Call::get("send the request", url.parse().unwrap()))
        .await
        .unwrap_err();
    check(&error, ErrorKind::Connect, RetryClass::NotSent);
}

#[tokio::test]
async fn f_030_an_unknown_host_was_not_sent() {
    let url = "https://canary.invalid/v1".parse().unwrap();
    let client = HttpClient::builder().no_proxy().build().unwrap();
    let error = client
        .send(Call::get("send the request", url))
        .await
        .unwrap_err();
    check(&error, ErrorKind::Connect, RetryClass::NotSent);
}

async fn f_034_silence_after_the_request_is_ambiguous_and_sent_once(client: HttpClient) {
    let server = Server::bytes("").await;
    let error = client.send(server.call()).await.unwrap_err();
    check(&error, ErrorKind::Timeout, RetryClass::Ambiguous);
    assert_eq!(server.connections(), 1);
}

async fn f_033_a_connection_closed_while_idle_repeats_reads_only(client: HttpClient) {
    // One answer per connection, then the server closes without saying so.
    let server = Server::start(|mut socket| async move {
        socket
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await
            .unwrap();
        // Takes the next request and drops it.
        read_head(&mut socket).await;
    })
    .await;
    let poll = || Call::get("send the request", server.url.clone());
    client.send(poll()).await.unwrap();
    let error = client.send(server.call()).await.unwrap_err();
    check(&error, ErrorKind::Timeout, RetryClass::Ambiguous);
    assert_eq!(
        server.connections(),
        1,
        "the paid call went over the idle connection, once"
    );

    client.send(poll()).await.unwrap();
    assert_eq!(server.connections(), 2);
    let mut policy = RetryPolicy::for_reads();
    policy.initial = Duration::from_millis(1);
    policy.floor = Duration::ZERO;
    let reply = client.read(poll(), &policy).await.unwrap();
    assert_eq!(&reply.body[..], b"ok");
    assert_eq!(
        server.connections(),
        3,
        "the repetition had a connection of its own"
    );
}

async fn f_035_f_036_half_a_body_is_never_a_success(client: HttpClient) {
    let answers: [&[u8]; 4] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nhalf",
        b"HTTP/1.1 200 OK\r\ncontent-le",
    ];
    for answer in answers {
        let server = Server::bytes(answer).await;
        let error = client.send(server.call()).await.unwrap_err();
        check(&error, ErrorKind::Timeout, RetryClass::Ambiguous);
        assert_eq!(server.connections(), 1);
    }
    // The stream gives what there is, then the error, then ends.
    let server = Server::bytes(answers[0]).await;
    let mut reply = client.stream(server.call()).await.unwrap();
    assert_eq!(reply.content_length(), Some(10));
    assert_eq!(&reply.body.next().await.unwrap().unwrap()[..], b"half");
    let error = reply.body.next().await.unwrap().unwrap_err();
    check(&error, ErrorKind::Timeout, RetryClass::Ambiguous);
    assert!(reply.body.next().await.is_none());
}

async fn f_036_the_status_of_a_cut_error_is_told(client: HttpClient) {
    let server =
        Server::bytes("HTTP/1.1 401 Unauthorized\r\ncontent-length: 100\r\n\r\n{\"error\"").await;
    let reply = client.send(server.call()).await.unwrap();
    assert_eq!((reply.status, reply.complete), (401, false));
    assert_eq!(&reply.body[..], b"{\"error\"");
}

async fn f_038_f_039_every_wait_ends(client: HttpClient) {
    let limits = Limits::answer()
        .with_first_byte(Duration::from_millis(80))
        .with_idle(Duration::from_millis(80))
        .with_total(Duration::from_millis(400));
    // Silence before the headers, silence in the body, and one byte at a time for ever.
    for (head, trickles) in [
        ("", false),
        ("HTTP/1.1 200 OK\r\n\r\nhalf", false),
        ("HTTP/1.1 200 OK\r\n\r\n", true),
    ] {
        let server = Server::start(move |mut socket| async move {
            socket.write_all(head.as_bytes()).await.unwrap();
            while trickles && socket.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            std::future::pending::<()>().await;
        })
        .await;
        let start = Instant::now();
        let error = client.send(server.call().limits(limits)).await.unwrap_err();
        check(&error, ErrorKind::Timeout, RetryClass::Ambiguous);
        assert_eq!(
            start.elapsed() >= Duration::from_millis(400),
            trickles,
            "{error}"
        );
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn gzip_answer(status: u16, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

async fn f_043_truncated_gzip_is_an_error(client: HttpClient) {
    let content = (0..2000).map(|n| n.to_string()).collect::<String>();
    let whole = gzip(content.as_bytes());
    let server = Server::bytes(gzip_answer(200, &whole)).await;
    assert!(client.send(server.call()).await.unwrap().body == content);
    // Inside the header, half of it, before the trailer, inside the trailer.
    for length in [
        1,
        5,
        whole.len() / 2,
        whole.len() - 8,
        whole.len() - 3,
        whole.len() - 1,
    ] {
        let server = Server::bytes(gzip_answer(200, &whole[..length])).await;
        match client.send(server.call()).await {
            Err(error) => {
                assert!(!format!("{error:?}").contains("canary"));
                assert!(error.is_ambiguous(), "{length}: {error:?}");
            }
            Ok(reply) => panic!(
                "{length} of {} bytes gave {} as a whole answer",
                whole.len(),
                reply.body.len()
            ),
        }
    }
}

async fn f_044_several_gzip_members_are_read_and_a_wrong_label_is_an_error(client: HttpClient) {
    let two = [gzip(b"one "), gzip(b"two")].concat();
    let server = Server::bytes(gzip_answer(200, &two)).await;
    assert_eq!(
        &client.send(server.call()).await.unwrap().body[..],
        b"one two"
    );
    let server = Server::bytes(gzip_answer(200, b"{\"plain\":true}")).await;
    let error = client.send(server.call()).await.unwrap_err();
    check(&error, ErrorKind::ProviderFault, RetryClass::Ambiguous);
}

async fn f_200_a_bomb_is_cut_while_it_unfolds(client: HttpClient) {
    let bomb = gzip(&vec![0; 200 * 1024 * 1024]);
    for status in [200, 500] {
        let server = Server::bytes(gzip_answer(status, &bomb)).await;
        match client.send(server.call().limits(Limits::poll())).await {
            Err(error) => {
                assert_eq!(status, 200);
                check(&error, ErrorKind::ProviderFault, RetryClass::Ambiguous);
            }
            Ok(reply) => {
                assert_eq!(
                    (reply.status, reply.complete, reply.body.len()),
                    (500, false, 1024 * 1024)
                );
            }
        }
    }
    let server = Server::bytes(gzip_answer(200, &bomb)).await;
    let body = client
        .stream(server.call().limits(Limits::poll()))
        .await
        .unwrap()
        .body;
    let pieces = body.collect::<Vec<_>>().await;
    let (last, whole) = pieces.split_last().unwrap();
    check(
        last.as_ref().unwrap_err(),
        ErrorKind::ProviderFault,
        RetryClass::Ambiguous,
    );
    assert!(
        whole
            .iter()
            .map(|piece| piece.as_ref().unwrap().len())
            .sum::<usize>()
            <= 8 * 1024 * 1024
    );
}

async fn f_201_endless_headers_and_bodies_end(client: HttpClient) {
    for (head, more) in [
        ("HTTP/1.1 200 OK\r\n", "x-more: and more of it\r\n"),
        ("HTTP/1.1 200 OK\r\n\r\n", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
    ] {
        let server = Server::start(move |mut socket| async move {
            let _ = socket.write_all(head.as_bytes()).await;
            let more = more.repeat(1000);
            while socket.write_all(more.as_bytes()).await.is_ok() {}
        })
        .await;
        let error = client
            .send(server.call().limits(Limits::poll()))
            .await
            .unwrap_err();
        assert!(
            error.is_ambiguous() && !error.to_string().contains("canary"),
            "{error:?}"
        );
    }
}

async fn f_045_an_early_answer_is_reported_instead_of_the_broken_pipe(client: HttpClient) {
    // Closing with unread input makes the kernel send RST.
    let server = Server::start(|mut socket| async move {
        let mut taken = 0;
        let mut buffer = vec![0; 16 * 1024];
        while taken < 64 * 1024 {
            taken += socket.read(&mut buffer).await.unwrap();
        }
        socket
            .write_all(
                b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig",
            )
            .await
            .unwrap();
    })
    .await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let len = 64 * 1024 * 1024;
    file.as_file_mut().set_len(len).unwrap();
    for _ in 0..20 {
        let body = Body::File {
            prefix: "a".into(),
            path: file.path().into(),
            len,
            suffix: "b".into(),
        };
        let call = server.call().body(body).limits(Limits::upload());
        let reply = client.send(call).await.unwrap();
        assert_eq!((reply.status, &reply.body[..]), (413, &b"big"[..]));
    }
}

async fn f_046_f_194_redirects_are_never_followed(client: HttpClient) {
    let canary = Server::bytes("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let elsewhere = canary.url.origin().ascii_serialization();
    for status in [301, 302, 303, 307, 308] {
        let locations = [
            (
                format!("location: {elsewhere}/canary?key=canary\r\n"),
                elsewhere.as_str(),
            ),
            (String::new(), "nowhere"),
        ];
        for (location, told) in locations {
            let server = Server::bytes(format!(
                "HTTP/1.1 {status} X\r\n{location}content-length: 0\r\n\r\n"
            ))
            .await;
            let error = client.send(server.call()).await.unwrap_err();
            check(&error, ErrorKind::ConfigInvalid, RetryClass::JobStop);
            assert_eq!(error.status(), Some(status));
            assert!(
                error
                    .message()
                    .contains(&format!("redirects to {told}, fix it")),
                "{error}"
            );
            assert_eq!(server.connections(), 1);
        }
    }
    assert_eq!(canary.connections(), 0);
}
