//! Direct calls without latency: ours beside bare programs of hyper and of reqwest, in one invocation.
//!
//! The upstream and each run are processes of their own, so that nobody's CPU time or memory is counted as
//! another's. `benches/README.md` says what is compared and why.
#![expect(clippy::print_stdout, reason = "it reports to a terminal")]

mod bare;
mod client;
mod limits;
mod upstream;

use crate::{limits::Verdict, upstream::Upstream};
use anyhow::{Context as _, Result, ensure};
use batchwright_benches::median;
use clap::{Args, Parser, Subcommand};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tokio::task::JoinSet;

/// Direct calls at no latency: ours beside bare hyper and bare reqwest.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    /// Calls in all
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    requests: u64,
    /// Calls at once; each of several is measured
    #[arg(long, value_delimiter = ',', default_values_t = [64, 256], value_parser = clap::value_parser!(u64).range(1..))]
    concurrency: Vec<u64>,
    /// How often each variant runs; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// End with 1 where a limit is not held
    #[arg(long)]
    limit: bool,
    /// Run these variants only
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Variant>,
    /// Folder for results and job folders; the disk they are on is part of what is measured [default: the system's]
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
    #[arg(long)]
    requests: u64,
    #[arg(long)]
    concurrency: u64,
}

impl Load {
    fn concurrency(&self) -> usize {
        usize::try_from(self.concurrency).unwrap_or(usize::MAX)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Variant {
    /// Bare hyper, a task and a connection for each call at once
    Hyper,
    /// Bare reqwest and `serde_json::Value`, its calls as one stream
    Stream,
    /// Bare reqwest and `serde_json::Value`, a task for each call at once
    Workers,
    /// Our pool, with results written to a file
    Pool,
    /// Our pool with intents and outcomes durable, as a job runs it
    Full,
}

impl Variant {
    const ALL: [Self; 5] = [
        Self::Hyper,
        Self::Stream,
        Self::Workers,
        Self::Pool,
        Self::Full,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Hyper => "bare hyper, a task a connection",
            Self::Stream => "bare reqwest, buffer_unordered",
            Self::Workers => "bare reqwest, spawned workers",
            Self::Pool => "ours, results to a file",
            Self::Full => "ours, durable",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Hyper => "hyper",
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
        Some(Role::Upstream) => runtime.block_on(upstream::serve()),
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

fn compare(cli: &Cli) -> Result<()> {
    let folder = match &cli.folder {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let folder = folder.context("make a folder for results")?;
    let mut upstream = Upstream::start()?;
    let variants = match cli.only.as_slice() {
        [] => Variant::ALL.to_vec(),
        only => only.to_vec(),
    };
    let mut verdicts = Vec::new();
    for concurrency in &cli.concurrency {
        let load = Load {
            requests: cli.requests,
            concurrency: *concurrency,
        };
        let place = folder.path().join(concurrency.to_string());
        let table = measure(&variants, load, cli.runs, &mut upstream, &place)?;
        print(&table, load, cli.runs);
        verdicts.extend(limits::judge(&table, load));
    }
    for verdict in &verdicts {
        println!("{verdict}");
    }
    if cli.limit {
        ensure!(
            cli.only.is_empty() && cli.concurrency.contains(&limits::OLDER_CONCURRENCY),
            "the limits compare all variants; leave out --only, and let 64 be among --concurrency"
        );
        ensure!(
            verdicts.iter().all(Verdict::is_held),
            "not every limit is held"
        );
    }
    Ok(())
}

/// Each variant `runs` times, in turn.
fn measure(
    variants: &[Variant],
    load: Load,
    runs: u32,
    upstream: &mut Upstream,
    folder: &Path,
) -> Result<Vec<Summary>> {
    let mut all: Vec<Vec<Measured>> = variants.iter().map(|_| Vec::new()).collect();
    for run in 0..runs {
        for (variant, measured) in variants.iter().zip(&mut all) {
            let job = folder.join(format!("{}-{run}", variant.word()));
            let taken = child_run(*variant, &upstream.base_url, &job, load)?;
            let (connections, calls) = upstream.counts()?;
            ensure!(
                calls == load.requests,
                "{}: the upstream saw {calls} calls instead of {}",
                variant.title(),
                load.requests
            );
            measured.push(Measured { taken, connections });
        }
    }
    let summaries = variants.iter().zip(&all);
    Ok(summaries
        .map(|(variant, runs)| Summary::of(*variant, runs, load.requests))
        .collect())
}

fn print(table: &[Summary], load: Load, runs: u32) {
    println!(
        "{} calls, {} at once, {runs} runs of each in turn",
        load.requests, load.concurrency
    );
    println!(
        "{:<32} {:>9} {:>19} {:>9} {:>6} {:>9}",
        "", "calls/s", "lowest..highest", "CPU µs", "conns", "peak MB"
    );
    for summary in table {
        println!("{summary}");
    }
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

fn child_run(variant: Variant, base_url: &str, folder: &Path, load: Load) -> Result<Taken> {
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
