//! Which connections are used again, and which never are.
#![allow(clippy::unwrap_used, reason = "tests")]

use batchwright_core::{ErrorKind, RetryClass};
use batchwright_http::{Call, HttpClient, Limits, Method, Url};
use futures::StreamExt;
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

/// What happened at the server, in its order.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Connection,
    /// A request's first line.
    Request(String),
    /// The client closed a connection.
    Closed,
    /// The server did, after its last answer.
    Ended,
}

struct Server {
    url: Url,
    seen: mpsc::Receiver<Seen>,
    _tasks: JoinSet<()>,
}

/// Gives each request on a connection the next of `answers`; after the last, closes the connection.
async fn serve(answers: &'static [&'static str]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (tell, seen) = mpsc::channel(100);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            tell.send(Seen::Connection).await.unwrap();
            connections.spawn(converse(socket, answers, tell.clone()));
        }
    });
    Server {
        url: url.parse().unwrap(),
        seen,
        _tasks: tasks,
    }
}

async fn converse(mut socket: TcpStream, answers: &[&str], tell: mpsc::Sender<Seen>) {
    for answer in answers {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match socket.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return tell.send(Seen::Closed).await.unwrap(),
            }
        }
        let head = String::from_utf8(head).unwrap();
        let line = head.lines().next().unwrap().to_owned();
        tell.send(Seen::Request(line)).await.unwrap();
        socket.write_all(answer.as_bytes()).await.unwrap();
    }
    drop(socket);
    // Most tests are over by now.
    let _ = tell.send(Seen::Ended).await;
}

impl Server {
    async fn next(&mut self) -> Seen {
        tokio::time::timeout(Duration::from_secs(10), self.seen.recv())
            .await
            .unwrap()
            .unwrap()
    }

    async fn expect(&mut self, connections: usize, line: &str) {
        for _ in 0..connections {
            assert_eq!(self.next().await, Seen::Connection);
        }
        assert_eq!(self.next().await, Seen::Request(line.to_owned()));
    }

    fn call(&self) -> Call {
        Call::new("send the request", Method::POST, self.url.clone())
    }
}

fn client() -> HttpClient {
    HttpClient::builder().build().unwrap()
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const LINE: &str = "POST /v1 HTTP/1.1";

#[tokio::test]
async fn an_answer_read_to_its_end_leaves_its_connection_to_the_next_call() {
    for answer in [
        OK,
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 500 X\r\ncontent-length: 3\r\n\r\nbad",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x\r\n\r\n2\r\nok\r\n0\r\nx: 1\r\n\r\n",
    ] {
        let answers: &'static [&'static str] = vec![answer; 5].leak();
        let mut server = serve(answers).await;
        let client = client();
        for call in 0..5 {
            client.send(server.call()).await.unwrap();
            server.expect(usize::from(call == 0), LINE).await;
        }
    }
}

#[tokio::test]
async fn a_head_has_no_body_and_its_connection_is_used_again() {
    let mut server = serve(&["HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n"; 2]).await;
    let client = client();
    for call in 0..2 {
        let head = Call::new("look", Method::HEAD, server.url.clone());
        assert!(client.send(head).await.unwrap().body.is_empty());
        server
            .expect(usize::from(call == 0), "HEAD /v1 HTTP/1.1")
            .await;
    }
}

#[tokio::test]
async fn a_server_that_closes_after_its_answer_is_believed() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        // More than was declared: whose answer would the rest be?
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok and more",
    ] {
        let answers: &'static [&'static str] = vec![answer; 5].leak();
        let mut server = serve(answers).await;
        let client = client();
        for _ in 0..2 {
            assert_eq!(&client.send(server.call()).await.unwrap().body[..], b"ok");
            server.expect(1, LINE).await;
            assert_eq!(server.next().await, Seen::Closed);
        }
    }
}

/// F-033: a request of which no byte left goes over another connection, and no one sees it twice.
#[tokio::test]
async fn f_033_a_connection_seen_closed_while_idle_costs_nothing() {
    let mut server = serve(&[OK]).await;
    let client = client();
    for _ in 0..20 {
        client.send(server.call()).await.unwrap();
        server.expect(1, LINE).await;
        assert_eq!(server.next().await, Seen::Ended);
        // The runtime hears of it when it rests.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn f_033_an_unasked_answer_on_an_idle_connection_is_nobodys() {
    let late = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Url = format!("http://{}/", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let (say, mut said) = mpsc::channel::<()>(1);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut held = Vec::new();
        for n in 0.. {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            assert_ne!(socket.read(&mut buffer).await.unwrap(), 0);
            socket.write_all(late.as_bytes()).await.unwrap();
            if n == 0 {
                // Once the first call is over, another answer nobody asked for.
                said.recv().await;
                socket
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
                    .await
                    .unwrap();
            }
            held.push(socket);
        }
    });
    let client = client();
    let call = || Call::post("send the request", url.clone());
    assert_eq!(&client.send(call()).await.unwrap().body[..], b"ok");
    say.send(()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(&client.send(call()).await.unwrap().body[..], b"ok");
}

#[tokio::test]
async fn a_body_dropped_in_its_middle_and_a_call_given_up_close_their_connections() {
    let mut server = serve(&["HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"; 2]).await;
    let client = client();
    let mut reply = client.stream(server.call()).await.unwrap();
    server.expect(1, LINE).await;
    assert_eq!(&reply.body.next().await.unwrap().unwrap()[..], b"half");
    drop(reply);
    assert_eq!(server.next().await, Seen::Closed);

    // No answer at all: the wait ends, or the caller's patience.
    let mut server = serve(&["", ""]).await;
    for patience in [50, 10_000] {
        let limits = Limits::answer().with_first_byte(Duration::from_millis(200));
        let call = client.send(server.call().limits(limits));
        let result = tokio::time::timeout(Duration::from_millis(patience), call).await;
        assert_eq!(result.is_err(), patience == 50);
        server.expect(1, LINE).await;
        assert_eq!(server.next().await, Seen::Closed);
    }
}

#[tokio::test]
async fn connections_idle_for_too_long_are_closed_by_the_next_call() {
    let mut server = serve(&[OK; 5]).await;
    let client = HttpClient::builder()
        .pool_idle_timeout(Duration::from_millis(50))
        .build()
        .unwrap();
    client.send(server.call()).await.unwrap();
    server.expect(1, LINE).await;
    client.send(server.call()).await.unwrap();
    server.expect(0, LINE).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    client.send(server.call()).await.unwrap();
    // The old one's end and the new one's begin come from two tasks of the server.
    let mut seen = [server.next().await, server.next().await];
    seen.sort_by_key(|seen| *seen == Seen::Closed);
    assert_eq!(seen, [Seen::Connection, Seen::Closed]);
    server.expect(0, LINE).await;
}

#[tokio::test]
async fn f_031_a_wait_that_ends_before_there_is_a_connection_was_not_sent() {
    // A backlog of one that nobody accepts from: further connections hang.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(socket)) =
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        waiting.push(socket);
        assert!(waiting.len() < 100, "the backlog is full at some time");
    }
    let url: Url = format!("http://{address}/").parse().unwrap();
    let short = Duration::from_millis(50);
    let patient = || Call::post("send the request", url.clone());
    for (client, call) in [
        (client(), patient().limits(Limits::poll().with_total(short))),
        (
            client(),
            patient().limits(Limits::poll().with_first_byte(short)),
        ),
        (
            HttpClient::builder()
                .connect_timeout(short)
                .build()
                .unwrap(),
            patient(),
        ),
    ] {
        let error = client.send(call).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.class()),
            (ErrorKind::Connect, RetryClass::NotSent)
        );
        assert!(error.message().contains("no connection in time"), "{error}");
    }
}

/// Answers that arrive in pieces are put together whatever the cuts, on one connection.
#[tokio::test]
async fn answers_in_pieces_are_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Url = format!("http://{}/", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let body: Arc<str> = "0123456789".repeat(2000).into();
    let sent = Arc::clone(&body);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        for cut in [1usize, 7, 100, 8192, 30_000] {
            let mut buffer = [0; 4096];
            assert_ne!(socket.read(&mut buffer).await.unwrap(), 0);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", sent.len());
            let answer = [head.as_bytes(), sent.as_bytes()].concat();
            for piece in answer.chunks(cut) {
                socket.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    let client = client();
    for _ in 0..5 {
        let call = Call::post("send the request", url.clone());
        assert_eq!(client.send(call).await.unwrap().body, body.as_bytes());
    }
}
