//! The server all variants call, in a process of its own.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::{
    convert::Infallible,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// The upstream's process, ended with this.
pub(crate) struct Upstream {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub(crate) base_url: String,
}

impl Upstream {
    pub(crate) fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("upstream")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = child.stdin.take().context("write to the upstream")?;
        let answers = child.stdout.take().context("read from the upstream")?;
        let mut upstream = Self {
            child,
            commands,
            answers: BufReader::new(answers),
            base_url: String::new(),
        };
        upstream.base_url = upstream.line()?;
        Ok(upstream)
    }

    /// Connections accepted and calls answered since the last time.
    pub(crate) fn counts(&mut self) -> Result<(u64, u64)> {
        writeln!(self.commands, "counts")?;
        let line = self.line()?;
        let (connections, calls) = line.split_once(' ').context("read the upstream's counts")?;
        Ok((connections.parse()?, calls.parse()?))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.answers.read_line(&mut line)? > 0, "the upstream ended");
        Ok(line.trim().to_owned())
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    calls: AtomicU64,
}

/// Serves until its standard input ends; each line of that asks for the counts.
pub(crate) async fn serve() -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("http://{}/v1", listener.local_addr()?);
    let counts = Arc::new(Counts::default());
    let asked = Arc::clone(&counts);
    let commands = tokio::task::spawn_blocking(move || {
        for line in std::io::stdin().lines() {
            if line.is_err() {
                break;
            }
            let (connections, calls) = (&asked.connections, &asked.calls);
            println!(
                "{} {}",
                connections.swap(0, Relaxed),
                calls.swap(0, Relaxed)
            );
        }
    });
    let answer = Bytes::from(serde_json::to_vec(&json!({
        "id": "chatcmpl-C0dexAAAAAAAAAAAAAAAAAAAAAAAA",
        "object": "chat.completion",
        "created": 1_795_000_000,
        "model": "gpt-5-mini-2025-08-07",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": "It is about the battery, which the writer likes.", "refusal": null, "annotations": []},
            "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": 60, "completion_tokens": 12, "total_tokens": 72,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": null,
    }))?);
    let accept = async {
        let mut connections = JoinSet::new();
        loop {
            let Ok((socket, _)) = listener.accept().await else {
                continue;
            };
            counts.connections.fetch_add(1, Relaxed);
            connections.spawn(connection(socket, Arc::clone(&counts), answer.clone()));
            while connections.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = accept => {}
        done = commands => done?,
    }
    Ok(())
}

async fn connection(socket: TcpStream, counts: Arc<Counts>, answer: Bytes) {
    // Without this, Nagle's algorithm would be what is measured.
    if socket.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (counts, answer) = (Arc::clone(&counts), answer.clone());
        async move {
            let status = match request.into_body().collect().await {
                Ok(_) => 200,
                Err(_) => 400,
            };
            counts.calls.fetch_add(1, Relaxed);
            // Limits that are kept, since the pool paces itself by what it is told.
            let response = Response::builder()
                .status(status)
                .header("content-type", "application/json")
                .header("openai-processing-ms", "3")
                .header("openai-version", "2020-10-01")
                .header("x-request-id", "req_0123456789abcdef0123456789abcdef")
                .header("x-ratelimit-limit-requests", "60000000")
                .header("x-ratelimit-limit-tokens", "9000000000")
                .header("x-ratelimit-remaining-requests", "59999999")
                .header("x-ratelimit-remaining-tokens", "8999999000")
                .header("x-ratelimit-reset-requests", "6ms")
                .header("x-ratelimit-reset-tokens", "30ms")
                .body(Full::new(answer))
                .expect("the headers are constant");
            Ok::<_, Infallible>(response)
        }
    });
    // A client that goes away is no failure.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(socket), service)
        .await;
}
