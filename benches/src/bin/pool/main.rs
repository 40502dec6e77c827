//! The pool where the upstream is slow, limited or faulty: what a run takes beside what is possible.
//!
//! Each case has an upstream of its own, in a process of its own, and a client in another. `benches/README.md` says
//! what is compared and why.
#![expect(clippy::print_stdout, reason = "it reports to a terminal")]

mod case;
mod client;
mod possible;
mod upstream;

use crate::{case::Case, client::Taken, upstream::Upstream};
use anyhow::{Context as _, Result, ensure};
use batchwright_benches::median;
use clap::{Args, Parser, Subcommand};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

/// The pool beside what is possible, case by case.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    /// Run these cases only
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Case>,
    /// How often each case runs; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// What latencies and faults are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End with 1 where a limit is not held
    #[arg(long)]
    limit: bool,
    /// The command whose start is measured [default: batchwright beside this program]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Role {
    /// The server; started by the benchmark itself
    #[command(hide = true)]
    Upstream(Setting),
    /// One run; started by the benchmark itself
    #[command(hide = true)]
    Client(ClientArgs),
}

#[derive(Args, Clone, Copy)]
struct Setting {
    case: Case,
    #[arg(long)]
    seed: u64,
}

#[derive(Args, Clone)]
struct ClientArgs {
    #[command(flatten)]
    setting: Setting,
    base_url: String,
    /// Rows of this run
    #[arg(long)]
    rows: u64,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    match &cli.role {
        Some(Role::Upstream(setting)) => runtime.block_on(upstream::serve(*setting)),
        Some(Role::Client(args)) => {
            let taken = runtime.block_on(client::run(args.clone()))?;
            println!("{}", serde_json::to_string(&taken)?);
            Ok(())
        }
        None => all(&cli),
    }
}

fn all(cli: &Cli) -> Result<()> {
    let cases = match cli.only.as_slice() {
        [] => Case::ALL.to_vec(),
        only => only.to_vec(),
    };
    let mut all_held = true;
    for case in cases {
        let findings = match case {
            Case::Start => start(cli)?,
            Case::Memory => memory(cli)?,
            _ => paced(cli, case)?,
        };
        for Finding { what, figure, held } in findings {
            all_held &= held;
            let verdict = if held { "held" } else { "NOT HELD" };
            println!("{:<16} {what:<58} {figure:>18}  {verdict}", case.word());
        }
    }
    ensure!(!cli.limit || all_held, "not every limit is held");
    Ok(())
}

/// One figure beside its limit.
struct Finding {
    what: String,
    figure: String,
    held: bool,
}

impl Finding {
    fn new(what: impl Into<String>, figure: impl Into<String>, held: bool) -> Self {
        Self {
            what: what.into(),
            figure: figure.into(),
            held,
        }
    }
}

fn paced(cli: &Cli, case: Case) -> Result<Vec<Finding>> {
    let mut ratios = Vec::new();
    let (mut connections, mut in_flight, mut refused, mut failed) = (0, u64::MAX, 0.0f64, 0);
    let mut needless = 0;
    let rows = case.rows();
    let possible = possible::seconds(case, cli.seed);
    for _ in 0..cli.runs {
        let mut upstream = Upstream::start(case, cli.seed)?;
        let taken = child(cli, case, &upstream.base_url, rows)?;
        let counts = upstream.counts()?;
        ratios.push(taken.seconds / possible);
        connections = connections.max(counts.connections);
        in_flight = in_flight.min(counts.most_open);
        refused = refused.max(counts.refused as f64 / counts.calls as f64);
        failed = failed.max(taken.failed);
        ensure!(taken.wrong == 0, "{} answers on the wrong row", taken.wrong);
        // Every call beyond one a row must have been asked for by a call that failed.
        needless = needless.max(counts.calls - rows - counts.refused - counts.faulted);
    }
    let ratio = median(ratios);
    let mut findings = vec![
        Finding::new(
            format!(
                "time beside the {possible:.1} s possible, at most {}",
                case.ratio()
            ),
            format!("{ratio:.3}"),
            ratio <= case.ratio(),
        ),
        Finding::new("rows that failed, none", failed.to_string(), failed == 0),
        Finding::new(
            "calls nothing had asked for, none",
            needless.to_string(),
            needless == 0,
        ),
    ];
    if let Some(most) = case.most_refused() {
        findings.push(Finding::new(
            format!("share of 429s, below {most}"),
            format!("{refused:.4}"),
            refused < most,
        ));
    }
    let at_once = case.concurrency() as u64;
    findings.push(Finding::new(
        format!("connections, at most {}", at_once + 10),
        connections.to_string(),
        connections <= at_once + 10,
    ));
    if case == Case::Latency {
        findings.push(Finding::new(
            format!("calls at once, exactly {at_once}"),
            in_flight.to_string(),
            in_flight == at_once,
        ));
    }
    Ok(findings)
}

/// Peak memory over ten times the rows.
fn memory(cli: &Cli) -> Result<Vec<Finding>> {
    const MIB: f64 = 1024.0 * 1024.0;
    let mut growths = Vec::new();
    let mut most = 0.0f64;
    for _ in 0..cli.runs {
        let mut peaks = [0.0; 2];
        for (peak, rows) in peaks.iter_mut().zip([20_000, 200_000]) {
            let upstream = Upstream::start(Case::Memory, cli.seed)?;
            let taken = child(cli, Case::Memory, &upstream.base_url, rows)?;
            ensure!(taken.failed == 0 && taken.wrong == 0, "rows failed");
            *peak = taken.peak_rss as f64 / MIB;
        }
        growths.push(peaks[1] - peaks[0]);
        most = most.max(peaks[1]);
    }
    let growth = median(growths);
    Ok(vec![Finding::new(
        format!("growth from 20,000 to 200,000 rows, at most 3 MiB (peak {most:.1})"),
        format!("{growth:.2} MiB"),
        growth <= 3.0,
    )])
}

/// From the start of the command to its first request.
fn start(cli: &Cli) -> Result<Vec<Finding>> {
    let binary = match &cli.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()?.with_file_name("batchwright"),
    };
    ensure!(
        binary.is_file(),
        "there is no {}; name it with --binary",
        binary.display()
    );
    let mut millis = Vec::new();
    for _ in 0..cli.runs.max(10) {
        millis.push(first_request(&binary, cli.seed)?.as_secs_f64() * 1e3);
    }
    let median = median(millis);
    Ok(vec![Finding::new(
        "start of the command to its first request, at most 30 ms",
        format!("{median:.1} ms"),
        median <= 30.0,
    )])
}

fn first_request(binary: &Path, seed: u64) -> Result<Duration> {
    let folder = tempfile::tempdir()?;
    let input = folder.path().join("in.jsonl");
    std::fs::write(&input, "{\"q\":\"0\"}\n")?;
    let mut upstream = Upstream::start(Case::Start, seed)?;
    let begun = SystemTime::now();
    let output = Command::new(binary)
        .args(["run", "--quiet", "--model", "openai:gpt-5-mini"])
        .args(["--prompt", "row {{ q }}", "--state"])
        .arg(folder.path().join("state"))
        .arg("-o")
        .arg(folder.path().join("out.jsonl"))
        .arg(&input)
        .env_clear()
        .env("OPENAI_API_KEY", client::KEY)
        .env("OPENAI_BASE_URL", &upstream.base_url)
        .stdin(Stdio::null())
        .output()?;
    ensure!(
        output.status.success(),
        "the command failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let first = upstream.counts()?.first_call.context("it sent nothing")?;
    Ok(first.duration_since(begun)?)
}

fn child(cli: &Cli, case: Case, base_url: &str, rows: u64) -> Result<Taken> {
    let output = Command::new(std::env::current_exe()?)
        .args(["client", case.word(), base_url])
        .args(["--seed", &cli.seed.to_string(), "--rows", &rows.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "{} failed", case.word());
    serde_json::from_slice(&output.stdout).context("read what the run took")
}
