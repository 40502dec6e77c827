//! How soon a job of many rows goes on: `resume --rows 10000000`.
//!
//! One process makes a job in which all but a few rows have their outcomes, as a killed run leaves it; another opens it
//! and runs it. Told is how long until its first call, and how much memory it took at most by then.

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use batchwright_benches::peak_rss;
use batchwright_core::{
    CallOptions, Capability, ChatProvider, Ending, Error, ErrorKind, Lane, Outcome, Request,
    Response, Usage,
};
use batchwright_ledger::OutcomeRecord;
use batchwright_pipeline::{Job, JobControl, JobProgress, JobSpec, LaneProvider, RunOptions};
use batchwright_provider_openai::OpenAi;
use clap::Parser;
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Instant,
};

/// The limits: until the first call, and the most memory by then.
const TIME: &str = "resume-time";
const SECONDS: f64 = 5.0;
const MEMORY: &str = "resume-memory";
const PEAK_BYTES: u64 = 512_000_000;

#[derive(Parser)]
struct Args {
    /// Rows of the input.
    #[arg(long, default_value_t = 10_000_000)]
    rows: u64,
    /// How many of them, the last ones, have no outcome yet.
    #[arg(long, default_value_t = 1000)]
    left: u64,
    /// The folder of an earlier run, to be used again.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// End with 1 where a limit is not held.
    #[arg(long)]
    limit: bool,
    /// Goes on with the job in the folder; used by the program itself.
    #[arg(long, hide = true)]
    go_on: bool,
}

/// Stops the job at its first call.
struct First {
    inner: OpenAi,
    called: Mutex<Option<Instant>>,
    control: JobControl,
}

#[async_trait]
impl ChatProvider for First {
    fn name(&self) -> &str {
        ChatProvider::name(&self.inner)
    }

    fn capability(&self) -> &Capability {
        ChatProvider::capability(&self.inner)
    }

    async fn complete(&self, _: &Request, _: &CallOptions) -> Result<Response, Error> {
        let mut called = self.called.lock().expect("nobody panics with it");
        called.get_or_insert_with(Instant::now);
        self.control.stop.cancel();
        Err(Error::new(ErrorKind::QuotaExceeded, "stop here"))
    }
}

fn provider() -> Result<OpenAi> {
    let builder = OpenAi::builder("sk-none").base_url("http://127.0.0.1:1/v1");
    Ok(builder.build()?)
}

fn make(folder: &Path, rows: u64, left: u64) -> Result<()> {
    let input = folder.join("in.jsonl");
    let mut file = BufWriter::new(File::create(&input)?);
    for row in 0..rows {
        writeln!(
            file,
            "{{\"id\":\"r{row}\",\"text\":\"a short row, number {row}\"}}"
        )?;
    }
    file.flush()?;
    drop(file);
    let mut spec = JobSpec::new(input, "openai", Lane::Realtime).with_prompt("{{ text }}");
    spec.model = Some("gpt-4o-mini".to_owned());
    let lane = LaneProvider::Realtime(Arc::new(provider()?));
    let job = Job::open(&folder.join("job"), spec, &lane)?;
    let log = job.ledger().outcome_log()?;
    let mut bulk = log.bulk();
    let mut line = Vec::new();
    let mut response = Response::from_text("An answer of some words, as models give them.");
    response.usage = Usage::of(12, 11);
    let mut outcome = Outcome::new("", Ending::Succeeded(response));
    outcome.provenance.provider = Some("openai".into());
    outcome.provenance.model = Some("gpt-4o-mini".into());
    outcome.provenance.lane = Some(Lane::Realtime);
    outcome.provenance.attempts = 1;
    for row in 0..rows - left {
        line.clear();
        OutcomeRecord::write(row, &format!("r{row}"), &outcome, false, &mut line);
        bulk.push(&line)?;
        // As a running job does it now and then.
        if row % 1_000_000 == 0 {
            job.ledger().checkpoint()?;
        }
    }
    bulk.finish()?;
    job.ledger().checkpoint()?;
    Ok(())
}

/// Tells whether both limits are held.
async fn go_on(folder: &Path) -> Result<bool> {
    let begun = Instant::now();
    let dir = folder.join("job");
    let job = tokio::task::spawn_blocking(move || Job::resume(&dir)).await??;
    let opened = begun.elapsed();
    let control = JobControl::default();
    let first = Arc::new(First {
        inner: provider()?,
        called: Mutex::new(None),
        control: control.clone(),
    });
    let lane = LaneProvider::Realtime(Arc::clone(&first) as Arc<dyn ChatProvider>);
    let progress = Arc::new(JobProgress::new());
    job.run(lane, RunOptions::default(), control, progress)
        .await?;
    let called = *first.called.lock().expect("nobody panics with it");
    let called = called.context("no call was made")?.duration_since(begun);
    let called = called.as_secs_f64();
    let peak = peak_rss(std::process::id())?;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "opened after {:.2} s, first call after {called:.2} s, peak memory {:.1} MB",
        opened.as_secs_f64(),
        peak as f64 / 1e6
    )?;
    let word = |held| if held { "held" } else { "NOT HELD" };
    let (in_time, in_memory) = (called < SECONDS, peak < PEAK_BYTES);
    writeln!(
        out,
        "limit {TIME}: {called:.2} s, below {SECONDS}: {}\nlimit {MEMORY}: {peak} bytes, below {PEAK_BYTES}: {}",
        word(in_time),
        word(in_memory)
    )?;
    Ok(in_time && in_memory)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let temp;
    let folder = match &args.folder {
        Some(folder) => folder.clone(),
        None => {
            temp = tempfile::tempdir()?;
            temp.path().to_owned()
        }
    };
    if args.go_on {
        let held = tokio::runtime::Runtime::new()?.block_on(go_on(&folder))?;
        ensure!(held || !args.limit, "a limit is not held");
        return Ok(());
    }
    if !folder.join("job").exists() {
        std::fs::create_dir_all(&folder)?;
        make(&folder, args.rows, args.left)?;
    }
    for _ in 0..2 {
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.arg("--go-on").arg("--folder").arg(&folder);
        command.args(args.limit.then_some("--limit"));
        ensure!(
            command.status()?.success(),
            "the job did not go on as it must"
        );
    }
    Ok(())
}
