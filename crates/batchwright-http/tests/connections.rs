//! How many connections the client opens, counted where they arrive.
#![allow(clippy::unwrap_used, reason = "tests")]

use batchwright_http::{BaseUrl, Call, HttpClient, HttpClientBuilder, Limits};
use bytes::Bytes;
use futures::{StreamExt, stream};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Serves keep-alive HTTP/1.1 until dropped.
struct Server {
    url: String,
    accepted: Arc<AtomicUsize>,
    most_open: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

async fn serve(think: Duration, answer_bytes: usize) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (accepted, open, most_open) =
        <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let mut tasks = JoinSet::new();
    let (count, most) = (Arc::clone(&accepted), Arc::clone(&most_open));
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let now = open.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            let open = Arc::clone(&open);
            connections.spawn(async move {
                let _ = converse(socket, think, answer_bytes).await;
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    Server {
        url,
        accepted,
        most_open,
        _tasks: tasks,
    }
}

/// Answers each request, whose end is its body's `}`.
async fn converse(
    mut socket: TcpStream,
    think: Duration,
    answer_bytes: usize,
) -> std::io::Result<()> {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {answer_bytes}\r\n\r\n{}",
        "x".repeat(answer_bytes)
    );
    let mut buffer = vec![0; 64 * 1024];
    loop {
        loop {
            let read = socket.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            if buffer[read - 1] == b'}' {
                break;
            }
        }
        if !think.is_zero() {
            tokio::time::sleep(think).await;
        }
        socket.write_all(answer.as_bytes()).await?;
    }
}

/// On connections of our own, and through reqwest, whose pool may open a few more than 64 for 64 calls at once.
fn builders() -> [(HttpClientBuilder, usize); 2] {
    [
        (HttpClient::builder(), 64),
        (HttpClient::builder().http2(), 68),
    ]
}

async fn load(client: &HttpClient, server: &Server, requests: usize, at_once: usize) {
    let url = BaseUrl::parse(&server.url, false)
        .unwrap()
        .join("v1/chat/completions")
        .unwrap();
    let body = Bytes::from(format!("{{\"prompt\":\"{}\"}}", "p".repeat(1000)));
    let statuses = stream::iter(0..requests)
        .map(|_| {
            client.send(
                Call::post("send the request", url.clone())
                    .limits(Limits::answer())
                    .json(body.clone()),
            )
        })
        .buffer_unordered(at_once)
        .map(|reply| reply.unwrap().status);
    assert_eq!(
        statuses
            .filter(|status| std::future::ready(*status == 200))
            .count()
            .await,
        requests
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_stay_close_to_the_calls_in_flight() {
    for builder in builders() {
        stay_close(builder).await;
    }
}

async fn stay_close((builder, most): (HttpClientBuilder, usize)) {
    for (think, bytes) in [
        (Duration::ZERO, 100),
        (Duration::from_millis(3), 20_000),
        (Duration::from_millis(1), 3_000),
    ] {
        let server = serve(think, bytes).await;
        let client = builder.clone().max_in_flight(64).build().unwrap();
        // The callers ask for more than there are places; the client bounds them.
        load(&client, &server, 2_000, 200).await;
        let (accepted, open) = (
            server.accepted.load(Ordering::SeqCst),
            server.most_open.load(Ordering::SeqCst),
        );
        assert!(
            accepted <= most,
            "{accepted} connections, {open} of them open at once, for 64 calls in flight"
        );
    }
}

#[tokio::test]
async fn f_033_a_fresh_connection_is_neither_reused_nor_kept() {
    for (builder, _) in builders() {
        fresh(builder.build().unwrap()).await;
    }
}

async fn fresh(client: HttpClient) {
    let server = serve(Duration::ZERO, 10).await;
    load(&client, &server, 3, 1).await;
    assert_eq!(server.accepted.load(Ordering::SeqCst), 1);
    let url = BaseUrl::parse(&server.url, false)
        .unwrap()
        .join("v1/batches")
        .unwrap();
    for fresh in 2..4 {
        client
            .send(
                Call::post("create the batch", url.clone())
                    .json("{}")
                    .fresh_connection(),
            )
            .await
            .unwrap();
        assert_eq!(server.accepted.load(Ordering::SeqCst), fresh);
    }
}
