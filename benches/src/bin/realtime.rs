//! Direct calls without latency: our pool beside a bare reqwest program, in one invocation.
//!
//! The upstream and each run are processes of their own, so that nobody's CPU time or memory is counted as
//! another's. `benches/README.md` says what is compared and why.
#![expect(clippy::print_stdout, reason = "it reports to a terminal")]

use anyhow::{Context as _, Result, bail, ensure};
use async_trait::async_trait;
use batchwright_benches::{cpu_micros, median, peak_rss};
use batchwright_core::{Message, Outcome, Request};
use batchwright_ledger::{Ledger, OutcomeLog, OutcomeRecord};
use batchwright_provider_openai::OpenAi;
use batchwright_realtime::{DispatchLog, EndReason, NoLog, ParallelPool, PoolOptions, WorkItem};
use bytes::Bytes;
use clap::{Args, Parser, Subcommand};
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Full};
use hyper::{Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    fmt,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// What `--limit` checks: by how much the full path may be slower than the better bare program, for noise;
/// and how many connections it may open beyond one for each call in flight.
const LIMIT: &str = "realtime-beside-reqwest";
const TOLERANCE: f64 = 0.05;
const EXTRA_CONNECTIONS: u64 = 4;

/// 20,000 direct calls at no latency: ours beside bare reqwest.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    load: Load,
    /// How often each variant runs; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// End with 1 where the limit `realtime-beside-reqwest` is not held
    #[arg(long)]
    limit: bool,
    /// Run this variant only
    #[arg(long, value_enum)]
    only: Option<Variant>,
    /// Folder for job folders; the disk they are on is part of what is measured [default: the system's]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Role {
    /// The server; started by the benchmark itself
    #[command(hide = true)]
    Upstream,
    /// One run; started by the benchmark itself
    #[command(hide = true)]
    Client(Client),
}

#[derive(Args, Clone)]
struct Client {
    variant: Variant,
    base_url: String,
    folder: PathBuf,
    #[command(flatten)]
    load: Load,
}

#[derive(Args, Clone, Copy)]
struct Load {
    /// Calls in all
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    requests: u64,
    /// Calls at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    concurrency: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Variant {
    /// Bare reqwest, its calls as one stream
    Stream,
    /// Bare reqwest, a task for each call at once
    Workers,
    /// Our pool without a record
    Pool,
    /// Our pool with intents and outcomes durable, as a job runs it
    Full,
}

impl Variant {
    const ALL: [Self; 4] = [Self::Stream, Self::Workers, Self::Pool, Self::Full];

    fn title(self) -> &'static str {
        match self {
            Self::Stream => "bare reqwest, buffer_unordered",
            Self::Workers => "bare reqwest, spawned workers",
            Self::Pool => "ours, pool only",
            Self::Full => "ours, full path",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Workers => "workers",
            Self::Pool => "pool",
            Self::Full => "full",
        }
    }
}

/// What one run took.
#[derive(Serialize, Deserialize)]
struct Taken {
    seconds: f64,
    cpu_micros: u64,
    peak_rss: u64,
}

/// One run as its client and the upstream saw it.
struct Measured {
    taken: Taken,
    connections: u64,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    match &cli.role {
        Some(Role::Upstream) => runtime.block_on(upstream()),
        Some(Role::Client(client)) => {
            // On a thread of the runtime, as a server's handler would be: from the main thread every call would
            // cross to another one and back.
            let mut tasks = JoinSet::new();
            tasks.spawn_on(client.clone().run(), runtime.handle());
            let taken = runtime
                .block_on(tasks.join_next())
                .context("the run is one task")???;
            println!("{}", serde_json::to_string(&taken)?);
            Ok(())
        }
        None => compare(&cli),
    }
}

// ---- the comparison ----

fn compare(cli: &Cli) -> Result<()> {
    let folder = match &cli.folder {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let folder = folder.context("make a folder for job folders")?;
    let mut upstream = Upstream::start()?;
    let variants: Vec<Variant> = match cli.only {
        Some(variant) => vec![variant],
        None => Variant::ALL.to_vec(),
    };
    println!(
        "{} calls, {} at once, {} runs of each in turn",
        cli.load.requests, cli.load.concurrency, cli.runs
    );
    let mut all: Vec<Vec<Measured>> = variants.iter().map(|_| Vec::new()).collect();
    for run in 0..cli.runs {
        for (variant, measured) in variants.iter().zip(&mut all) {
            let job = folder.path().join(format!("{}-{run}", variant.word()));
            let taken = child_run(*variant, &upstream.base_url, &job, cli.load)?;
            let (connections, calls) = upstream.counts()?;
            ensure!(
                calls == cli.load.requests,
                "{}: the upstream saw {calls} calls instead of {}",
                variant.title(),
                cli.load.requests
            );
            measured.push(Measured { taken, connections });
        }
    }
    let summaries: Vec<Summary> = variants
        .iter()
        .zip(&all)
        .map(|(variant, runs)| Summary::of(*variant, runs, cli.load.requests))
        .collect();
    // The better of the two bare programs, so that ours is compared with how reqwest is used well.
    let bare = [Variant::Stream, Variant::Workers]
        .into_iter()
        .filter_map(|variant| rate_of(&summaries, variant))
        .max_by(f64::total_cmp);
    println!(
        "{:<32} {:>9} {:>19} {:>9} {:>6} {:>9} {:>8}",
        "", "calls/s", "lowest..highest", "CPU µs", "conns", "peak MB", "to bare"
    );
    for summary in &summaries {
        let ratio = bare.map_or("-".to_owned(), |bare| format!("{:.2}", summary.rate / bare));
        println!("{summary} {ratio:>8}");
    }
    if cli.limit {
        check(cli, &summaries, bare)?;
    }
    Ok(())
}

/// The limit, as an error where it is not held.
fn check(cli: &Cli, summaries: &[Summary], bare: Option<f64>) -> Result<()> {
    let (Some(bare), Some(full)) = (bare, rate_of(summaries, Variant::Full)) else {
        bail!("limit {LIMIT}: it compares all variants; leave out --only");
    };
    let ratio = full / bare;
    ensure!(
        ratio >= 1.0 - TOLERANCE,
        "limit {LIMIT}: the full path makes {ratio:.2} times the calls of bare reqwest, less than {:.2}",
        1.0 - TOLERANCE
    );
    let connections = cli.load.concurrency + EXTRA_CONNECTIONS;
    let ours = |summary: &&Summary| matches!(summary.variant, Variant::Pool | Variant::Full);
    for summary in summaries.iter().filter(ours) {
        ensure!(
            summary.connections <= connections,
            "limit {LIMIT}: {} opened {} connections, more than {connections}",
            summary.variant.title(),
            summary.connections
        );
    }
    println!("limit {LIMIT}: held");
    Ok(())
}

fn rate_of(summaries: &[Summary], variant: Variant) -> Option<f64> {
    let mut rates = summaries
        .iter()
        .filter(|summary| summary.variant == variant);
    rates.next().map(|summary| summary.rate)
}

/// The medians of one variant's runs, but the most connections of any.
struct Summary {
    variant: Variant,
    rate: f64,
    lowest: f64,
    highest: f64,
    cpu_micros: f64,
    peak_rss: f64,
    connections: u64,
}

impl Summary {
    fn of(variant: Variant, runs: &[Measured], requests: u64) -> Self {
        let rates = || runs.iter().map(|run| requests as f64 / run.taken.seconds);
        Self {
            variant,
            rate: median(rates()),
            lowest: rates().fold(f64::INFINITY, f64::min),
            highest: rates().fold(0.0, f64::max),
            cpu_micros: median(
                runs.iter()
                    .map(|run| run.taken.cpu_micros as f64 / requests as f64),
            ),
            peak_rss: median(runs.iter().map(|run| run.taken.peak_rss as f64)),
            connections: runs.iter().map(|run| run.connections).max().unwrap_or(0),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = format!("{:.0}..{:.0}", self.lowest, self.highest);
        write!(
            f,
            "{:<32} {:>9.0} {range:>19} {:>9.1} {:>6} {:>9.1}",
            self.variant.title(),
            self.rate,
            self.cpu_micros,
            self.connections,
            self.peak_rss / 1e6
        )
    }
}

fn child_run(
    variant: Variant,
    base_url: &str,
    folder: &std::path::Path,
    load: Load,
) -> Result<Taken> {
    let output = Command::new(std::env::current_exe()?)
        .args(["client", variant.word(), base_url])
        .arg(folder)
        .args(["--requests", &load.requests.to_string()])
        .args(["--concurrency", &load.concurrency.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "{} failed", variant.title());
    serde_json::from_slice(&output.stdout).context("read what the run took")
}

/// The upstream's process, ended with this.
struct Upstream {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    base_url: String,
}

impl Upstream {
    fn start() -> Result<Self> {
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
    fn counts(&mut self) -> Result<(u64, u64)> {
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

// ---- the upstream ----

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    calls: AtomicU64,
}

/// Serves until its standard input ends; each line of that asks for the counts.
async fn upstream() -> Result<()> {
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
    let serve = async {
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
        () = serve => {}
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
            let response = Response::builder()
                .status(status)
                .header("content-type", "application/json")
                .header("openai-processing-ms", "3")
                .header("openai-version", "2020-10-01")
                .header("x-request-id", "req_0123456789abcdef0123456789abcdef")
                .header("x-ratelimit-limit-requests", "10000")
                .header("x-ratelimit-limit-tokens", "2000000")
                .header("x-ratelimit-remaining-requests", "9999")
                .header("x-ratelimit-remaining-tokens", "1999000")
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

// ---- the clients ----

/// The text of row `row`, about 300 bytes.
fn prompt(row: u64) -> String {
    format!(
        "Say in one sentence what this review is about and whether its writer is content. Review {row}: \
         I have had this phone for three weeks now. The battery lasts two days, which none of my earlier \
         ones did, and the screen is bright enough for the garden. The camera I hardly use."
    )
}

const MODEL: &str = "gpt-5-mini";
const KEY: &str = "sk-benchmark-0123456789abcdef";

impl Client {
    async fn run(self) -> Result<Taken> {
        match self.variant {
            Variant::Stream => {
                let client = bare()?;
                let url = format!("{}/chat/completions", self.base_url);
                let (client, url) = (&client, url.as_str());
                self.measure(async {
                    let mut answers = stream::iter(0..self.load.requests)
                        .map(|row| call(client, url, row))
                        .buffer_unordered(self.concurrency());
                    while let Some(answer) = answers.next().await {
                        judge(&answer?)?;
                    }
                    Ok(())
                })
                .await
            }
            Variant::Workers => {
                let client = bare()?;
                let url: Arc<str> = format!("{}/chat/completions", self.base_url).into();
                let next = Arc::new(AtomicU64::new(0));
                let requests = self.load.requests;
                self.measure(async {
                    let mut workers: JoinSet<Result<()>> = JoinSet::new();
                    for _ in 0..self.concurrency() {
                        let (client, url, next) = (client.clone(), url.clone(), Arc::clone(&next));
                        workers.spawn(async move {
                            loop {
                                let row = next.fetch_add(1, Relaxed);
                                if row >= requests {
                                    return Ok(());
                                }
                                judge(&call(&client, &url, row).await?)?;
                            }
                        });
                    }
                    while let Some(worker) = workers.join_next().await {
                        worker??;
                    }
                    Ok(())
                })
                .await
            }
            Variant::Pool => self.measure(self.pool(Arc::new(NoLog))?).await,
            Variant::Full => {
                let ledger = Ledger::open(&self.folder)?;
                let log = ledger.outcome_log()?;
                let pool = self.pool(Arc::new(SegmentLog(log.clone())))?;
                let taken = self
                    .measure(async {
                        pool.await?;
                        log.finish().await?;
                        Ok(())
                    })
                    .await?;
                let report = ledger.verify(Some(self.load.requests))?;
                ensure!(
                    report.is_ok() && report.finished == self.load.requests,
                    "the record is not whole: {report:?}"
                );
                Ok(taken)
            }
        }
    }

    fn concurrency(&self) -> usize {
        usize::try_from(self.load.concurrency).unwrap_or(usize::MAX)
    }

    /// The pool over all rows, with the settings a job has.
    fn pool(&self, log: Arc<dyn DispatchLog>) -> Result<impl Future<Output = Result<()>>> {
        let provider = OpenAi::builder(KEY)
            .base_url(&self.base_url)
            .max_in_flight(self.concurrency())
            .build()?;
        let options = PoolOptions::default().with_max_in_flight(self.concurrency());
        let pool = ParallelPool::new(Arc::new(provider), options);
        let rows = stream::iter((0..self.load.requests).map(|row| {
            let messages = [Message::user(prompt(row))];
            let request = Request::chat(format!("row-{row}"), MODEL, messages);
            Ok(WorkItem::new(row, request))
        }));
        Ok(async move {
            let mut run = pool.run(rows, log, CancellationToken::new());
            while let Some(finished) = run.next().await {
                ensure!(finished.outcome.ending.is_success(), "a row failed");
            }
            match run.ended().map(|end| &end.reason) {
                Some(EndReason::Completed) => Ok(()),
                reason => bail!("the run did not complete: {reason:?}"),
            }
        })
    }

    async fn measure(&self, work: impl Future<Output = Result<()>>) -> Result<Taken> {
        let pid = std::process::id();
        let cpu = cpu_micros(pid)?;
        let begun = Instant::now();
        work.await?;
        let elapsed: Duration = begun.elapsed();
        Ok(Taken {
            seconds: elapsed.as_secs_f64(),
            cpu_micros: cpu_micros(pid)? - cpu,
            peak_rss: peak_rss(pid)?,
        })
    }
}

/// The client of a bare program: everything by default.
#[expect(
    clippy::disallowed_methods,
    reason = "it is what our own client is compared with; the process's TLS provider is set first"
)]
fn bare() -> Result<reqwest::Client> {
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        bail!("TLS is set up already");
    }
    Ok(reqwest::Client::new())
}

/// One call as a bare program makes it.
async fn call(client: &reqwest::Client, url: &str, row: u64) -> Result<Value> {
    let body = json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt(row)}],
    });
    let response = client.post(url).bearer_auth(KEY).json(&body).send().await?;
    Ok(response.error_for_status()?.json::<Value>().await?)
}

/// Even a bare program looks at the answer.
fn judge(answer: &Value) -> Result<()> {
    let text = answer["choices"][0]["message"]["content"].as_str();
    ensure!(text.is_some_and(|text| !text.is_empty()), "no answer");
    Ok(())
}

/// The record of a job's realtime lane.
struct SegmentLog(OutcomeLog);

#[async_trait]
impl DispatchLog for SegmentLog {
    async fn dispatching(&self, row: u64, attempt: u32) -> batchwright_core::Result<()> {
        self.0.intent(row, attempt).await
    }

    async fn finished(&self, row: u64, outcome: &Outcome) -> batchwright_core::Result<()> {
        let mut line = Vec::with_capacity(1024);
        OutcomeRecord::write(row, &outcome.custom_id, outcome, false, &mut line);
        self.0.append(line).await
    }
}
