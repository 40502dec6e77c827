//! The difficult server, in a process of its own.

use crate::{
    Setting,
    case::{BURST, Case, LATENCY_MS, RATE, latency_ms},
    possible::{Fault, fault},
};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

/// What the upstream saw.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Connections that are open.
    connected: u64,
    /// The most of them at one time.
    pub(crate) connections: u64,
    pub(crate) calls: u64,
    /// Refused for the rate.
    pub(crate) refused: u64,
    /// Failed on purpose.
    pub(crate) faulted: u64,
    /// Calls that were being answered.
    open: u64,
    pub(crate) most_open: u64,
    pub(crate) first_call: Option<SystemTime>,
}

/// The upstream's process, ended with this.
pub(crate) struct Upstream {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub(crate) base_url: String,
}

impl Upstream {
    pub(crate) fn start(case: Case, seed: u64) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["upstream", case.word(), "--seed", &seed.to_string()])
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

    pub(crate) fn counts(&mut self) -> Result<Counts> {
        writeln!(self.commands, "counts")?;
        serde_json::from_str(&self.line()?).context("read the upstream's counts")
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

struct Server {
    setting: Setting,
    state: Mutex<State>,
    begun: Instant,
}

#[derive(Default)]
struct State {
    counts: Counts,
    /// Calls so far, by row, in the case of faults.
    attempts: HashMap<u64, u64>,
    /// What is left of the limit, and when that was.
    level: f64,
    at: Duration,
}

impl Server {
    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes one of the limit; what is left, or how long to wait for one.
    fn take(&self) -> Result<f64, Duration> {
        let now = self.begun.elapsed();
        self.with(|state| {
            let more = now.saturating_sub(state.at).as_secs_f64() * RATE;
            state.level = (state.level + more).min(BURST as f64);
            state.at = now;
            if state.level >= 1.0 {
                state.level -= 1.0;
                return Ok(state.level);
            }
            state.counts.refused += 1;
            Err(Duration::from_secs_f64((1.0 - state.level) / RATE))
        })
    }
}

/// Serves until its standard input ends; each line of that asks for the counts.
pub(crate) async fn serve(setting: Setting) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("http://{}/v1", listener.local_addr()?);
    let server = Arc::new(Server {
        setting,
        state: Mutex::new(State {
            level: BURST as f64,
            ..State::default()
        }),
        begun: Instant::now(),
    });
    let asked = Arc::clone(&server);
    let commands = tokio::task::spawn_blocking(move || -> Result<()> {
        for line in io::stdin().lines() {
            line?;
            let counts = asked.with(|state| state.counts);
            println!("{}", serde_json::to_string(&counts)?);
        }
        Ok(())
    });
    let accept = async {
        let mut connections = JoinSet::new();
        loop {
            let Ok((socket, _)) = listener.accept().await else {
                continue;
            };
            server.with(|state| {
                let counts = &mut state.counts;
                counts.connected += 1;
                counts.connections = counts.connections.max(counts.connected);
            });
            connections.spawn(connection(socket, Arc::clone(&server)));
            while connections.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = accept => Ok(()),
        done = commands => done?,
    }
}

async fn connection(socket: TcpStream, server: Arc<Server>) {
    answer_all(socket, &server).await;
    server.with(|state| state.counts.connected -= 1);
}

async fn answer_all(socket: TcpStream, server: &Arc<Server>) {
    // Without this, Nagle's algorithm would be what is measured.
    if socket.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let server = Arc::clone(server);
        async move {
            let body = request.into_body().collect().await;
            let body = body.map_err(io::Error::other)?.to_bytes();
            server.with(|state| {
                let counts = &mut state.counts;
                counts.calls += 1;
                counts.open += 1;
                counts.most_open = counts.most_open.max(counts.open);
                counts.first_call.get_or_insert_with(SystemTime::now);
            });
            let response = answer(&server, &body).await;
            server.with(|state| state.counts.open -= 1);
            response
        }
    });
    // A client that goes away is no failure.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(socket), service)
        .await;
}

async fn answer(server: &Server, body: &[u8]) -> io::Result<Response<Full<Bytes>>> {
    let Setting { case, seed } = server.setting;
    let row = row(body).ok_or_else(|| io::Error::other("a prompt without its row"))?;
    let mut response = Response::builder().header("content-type", "application/json");
    let refusal = |code: &str| {
        json!({"error": {"message": "Not now.", "type": code, "param": null, "code": code}})
            .to_string()
    };
    match case {
        Case::Latency => {
            sleep(Duration::from_micros((latency_ms(seed, row) * 1e3) as u64)).await;
        }
        Case::Told | Case::Headers | Case::Untold => {
            let taken = server.take();
            if case == Case::Headers {
                let left = *taken.as_ref().unwrap_or(&0.0);
                let full = Duration::from_secs_f64((BURST as f64 - left) / RATE);
                response = response
                    .header("x-ratelimit-limit-requests", (RATE * 60.0).to_string())
                    .header("x-ratelimit-remaining-requests", left.floor().to_string())
                    .header(
                        "x-ratelimit-reset-requests",
                        format!("{}ms", full.as_millis()),
                    );
            }
            if taken.is_err() {
                return built(response.status(429), refusal("rate_limit_exceeded"));
            }
            sleep(Duration::from_millis(LATENCY_MS)).await;
        }
        Case::Faults => {
            sleep(Duration::from_millis(LATENCY_MS)).await;
            let attempt = server.with(|state| {
                let attempts = state.attempts.entry(row).or_default();
                *attempts += 1;
                *attempts
            });
            let fault = fault(seed, row, attempt);
            if fault.is_some() {
                server.with(|state| state.counts.faulted += 1);
            }
            match fault {
                Some(Fault::Status) => return built(response.status(500), refusal("server_error")),
                // An error of the service closes the connection without an answer.
                Some(Fault::Reset) => return Err(io::ErrorKind::ConnectionReset.into()),
                None => {}
            }
        }
        Case::Memory | Case::Start => {}
    }
    let filling = if case == Case::Memory { 1_500 } else { 40 };
    let answer = json!({
        "id": "chatcmpl-C0dexAAAAAAAAAAAAAAAAAAAAAAAA",
        "object": "chat.completion",
        "created": 1_795_000_000,
        "model": "gpt-5-mini-2025-08-07",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": format!("row {row} {}", "y".repeat(filling))},
            "finish_reason": "stop",
        }],
        "usage": {"prompt_tokens": 60, "completion_tokens": 12, "total_tokens": 72},
    });
    built(response, answer.to_string())
}

fn built(
    response: hyper::http::response::Builder,
    body: String,
) -> io::Result<Response<Full<Bytes>>> {
    let response = response.header("x-request-id", "req_0123456789abcdef");
    response
        .body(Full::new(Bytes::from(body)))
        .map_err(io::Error::other)
}

/// The row a prompt is of: the number behind `row `.
fn row(body: &[u8]) -> Option<u64> {
    let body = std::str::from_utf8(body).ok()?;
    let (_, rest) = body.split_once("row ")?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest[..digits].parse().ok()
}
