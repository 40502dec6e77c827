//! A file of rows through the batch lane, by the command itself, against the emulator in a process of its own.
//!
//! What is timed is what a person waits for; `benches/README.md` says what each figure covers.
#![expect(clippy::print_stdout, reason = "it reports to a terminal")]

use anyhow::{Context as _, Result, ensure};
use batchwright_benches::{cpu_micros, peak_rss};
use batchwright_core::{JournalEvent, Timestamp};
use batchwright_ledger::Ledger;
use clap::Parser;
use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

/// What `--limit` checks: the client's peak memory, and by how much it may differ between the smallest and the
/// largest number of rows. 100,000 rows are two chunks and a million are twenty, so that more transfers are on their
/// way at once.
const LIMIT: &str = "batch-memory";
const PEAK_BYTES: u64 = 150_000_000;
const GROWTH_BYTES: u64 = 15_000_000;

const JOB: &str = "bench";
/// The bytes of an input line, its end included.
const LINE_BYTES: usize = 1024;
/// How often the client's memory is looked at. Linux keeps the peak itself; what is missed is a peak in the
/// last moment of the process.
const LOOK: Duration = Duration::from_millis(20);

/// Rows of 1 KiB through the batch lane: phases and peak memory.
#[derive(Parser)]
struct Cli {
    /// How many rows, once for each run
    #[arg(long, num_args = 1.., default_values_t = [100_000, 1_000_000], value_parser = clap::value_parser!(u64).range(1..))]
    rows: Vec<u64>,
    /// End with 1 where the limit `batch-memory` is not held
    #[arg(long)]
    limit: bool,
    /// Folder for input, job, results and the emulator's data, about 6 KB a row [default: the system's]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// The command to measure [default: built in release]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Virtual seconds of the emulator for each real one: batches are to end as soon as they are made
    #[arg(long, value_name = "N", default_value_t = 100_000.0)]
    time_scale: f64,
}

/// What one run took; phases overlap, since a chunk is uploaded while the next is built.
struct Measured {
    rows: u64,
    total: f64,
    preflight: f64,
    build: f64,
    upload: f64,
    wait: f64,
    join: f64,
    results: f64,
    cpu_micros: u64,
    peak_rss: u64,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let binary = match &cli.binary {
        Some(binary) => binary.clone(),
        None => build()?,
    };
    println!(
        "{:>9} {:>8} {:>10} {:>8} {:>8} {:>8} {:>14} {:>8} {:>9} {:>8}",
        "rows",
        "total s",
        "preflight",
        "build",
        "upload",
        "wait",
        "download+join",
        "results",
        "CPU µs",
        "peak MB"
    );
    let mut all = Vec::new();
    for rows in &cli.rows {
        let measured = measure(&cli, &binary, *rows)?;
        println!(
            "{:>9} {:>8.1} {:>10.1} {:>8.1} {:>8.1} {:>8.1} {:>14.1} {:>8.1} {:>9.1} {:>8.1}",
            measured.rows,
            measured.total,
            measured.preflight,
            measured.build,
            measured.upload,
            measured.wait,
            measured.join,
            measured.results,
            measured.cpu_micros as f64 / measured.rows as f64,
            measured.peak_rss as f64 / 1e6
        );
        all.push(measured);
    }
    if cli.limit {
        check(&all)?;
    }
    Ok(())
}

/// The limit, as an error where it is not held.
fn check(all: &[Measured]) -> Result<()> {
    for measured in all {
        ensure!(
            measured.peak_rss < PEAK_BYTES,
            "limit {LIMIT}: {} bytes at {} rows, not below {PEAK_BYTES}",
            measured.peak_rss,
            measured.rows
        );
    }
    let fewest = all.iter().min_by_key(|measured| measured.rows);
    let most = all.iter().max_by_key(|measured| measured.rows);
    if let (Some(fewest), Some(most)) = (fewest, most) {
        ensure!(
            most.peak_rss < fewest.peak_rss + GROWTH_BYTES,
            "limit {LIMIT}: {} bytes more at {} rows than at {}, not below {GROWTH_BYTES}",
            most.peak_rss - fewest.peak_rss,
            most.rows,
            fewest.rows
        );
    }
    println!("limit {LIMIT}: held");
    Ok(())
}

/// Builds the command in release; returns where it is.
fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--locked",
            "--release",
            "--package",
            "batchwright-cli",
        ])
        .status()?;
    ensure!(status.success(), "building the command failed");
    // It lies beside this program, which cargo built in release too.
    let binary = std::env::current_exe()?.with_file_name("batchwright");
    ensure!(
        binary.is_file(),
        "there is no {}; name it with --binary",
        binary.display()
    );
    Ok(binary)
}

fn measure(cli: &Cli, binary: &Path, rows: u64) -> Result<Measured> {
    let folder = match &cli.folder {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let folder = folder.context("make a folder")?;
    let input = folder.path().join("input.jsonl");
    write_input(&input, rows)?;
    let emulator = Emulator::start(binary, &folder.path().join("emulator"), cli.time_scale)?;
    let state = folder.path().join("state");
    let output = folder.path().join("results.jsonl");
    let begun_at = now();
    let begun = Instant::now();
    let mut client = Process(
        Command::new(binary)
            .args(["run", "--lane", "batch", "--model", "openai:gpt-5-mini"])
            .args(["--prompt", "Say what this review is about: {{ review }}"])
            .args(["--poll", "100ms", "--job", JOB, "--state"])
            .arg(&state)
            .arg("--output")
            .arg(&output)
            .arg(&input)
            .env("OPENAI_BASE_URL", &emulator.base_url)
            .env("OPENAI_API_KEY", "sk-benchmark-0123456789abcdef")
            .stderr(Stdio::piped())
            .spawn()
            .context("start the command")?,
    );
    let stderr = client.0.stderr.take().context("read from the command")?;
    // Says when the line came that ends the check of the input; the rest is shown if the run fails.
    let listener = thread::spawn(move || {
        let (mut checked, mut said) = (None, String::new());
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if checked.is_none() && line.starts_with("job ") {
                checked = Some(Instant::now());
            }
            said.push_str(&line);
            said.push('\n');
        }
        (checked, said)
    });
    let pid = client.0.id();
    let (mut peak, mut cpu) = (0, 0);
    let status = loop {
        if let Some(status) = client.0.try_wait()? {
            break status;
        }
        // It may end between the two looks.
        peak = peak_rss(pid).unwrap_or(0).max(peak);
        cpu = cpu_micros(pid).unwrap_or(0).max(cpu);
        thread::sleep(LOOK);
    };
    let total = begun.elapsed();
    let (checked, said) = listener.join().ok().context("the listener panicked")?;
    ensure!(status.success(), "the command failed:\n{said}");
    let checked = checked.with_context(|| format!("the command never began:\n{said}"))?;
    let written = BufReader::new(File::open(&output)?).lines().count() as u64;
    ensure!(written == rows, "{written} results for {rows} rows");

    let preflight = (checked - begun).as_secs_f64();
    let phases = Phases::read(&state.join(JOB), begun_at)?;
    Ok(Measured {
        rows,
        total: total.as_secs_f64(),
        preflight,
        build: phases.sealed - preflight,
        upload: covered(phases.upload),
        wait: covered(phases.wait),
        join: covered(phases.join),
        results: total.as_secs_f64() - phases.merged,
        cpu_micros: cpu,
        peak_rss: peak,
    })
}

/// `rows` lines of exactly [`LINE_BYTES`].
fn write_input(path: &Path, rows: u64) -> Result<()> {
    const WORDS: [&str; 16] = [
        "battery", "screen", "the", "garden", "bright", "camera", "hardly", "weeks", "and",
        "phone", "lasts", "days", "used", "better", "cover", "with",
    ];
    let mut file = BufWriter::new(File::create(path)?);
    let mut line = String::new();
    for row in 0..rows {
        line.clear();
        line.push_str(&format!("{{\"custom_id\":\"review-{row}\",\"review\":\""));
        let mut bits = row;
        while line.len() < LINE_BYTES - 13 {
            bits = bits
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            line.push_str(WORDS[(bits >> 60) as usize]);
            line.push(' ');
        }
        while line.len() < LINE_BYTES - 3 {
            line.push('.');
        }
        line.push_str("\"}\n");
        file.write_all(line.as_bytes())?;
    }
    file.into_inner()?.sync_all()?;
    Ok(())
}

/// A process that ends with this.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody to tell.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Emulator {
    _process: Process,
    base_url: String,
}

impl Emulator {
    fn start(binary: &Path, data: &Path, time_scale: f64) -> Result<Self> {
        let mut process = Process(
            Command::new(binary)
                .args(["emulator", "--listen", "127.0.0.1:0", "--data"])
                .arg(data)
                .args(["--time-scale", &time_scale.to_string()])
                .stderr(Stdio::piped())
                .spawn()
                .context("start the emulator")?,
        );
        let stderr = process.0.stderr.take().context("read from the emulator")?;
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let base_url =
            lines.find_map(|line| Some(line.strip_prefix("OPENAI_BASE_URL=")?.to_owned()));
        // It says little; what it says later is dropped so that it never blocks on a full pipe.
        thread::spawn(move || lines.for_each(drop));
        Ok(Self {
            _process: process,
            base_url: base_url.context("the emulator said no address")?,
        })
    }
}

/// When the chunks were where, in seconds since the start, by the job's journal.
#[derive(Default)]
struct Phases {
    /// The last chunk was sealed.
    sealed: f64,
    /// The last chunk's outcomes were durable.
    merged: f64,
    /// From a chunk's intent to upload to its input being stored.
    upload: Vec<(f64, f64)>,
    /// From its batch's creation to its end being seen.
    wait: Vec<(f64, f64)>,
    /// From there to its outcomes being durable.
    join: Vec<(f64, f64)>,
}

impl Phases {
    fn read(job: &Path, begun_at: Timestamp) -> Result<Self> {
        let ledger = Ledger::open_read_only(job)?;
        let mut phases = Self::default();
        for chunk in ledger.chunks()? {
            let (mut uploading, mut created, mut ended) = (None, None, None);
            for entry in ledger.entries_blocking(chunk.chunk)? {
                let at = entry.at.since(begun_at).as_secs_f64();
                match entry.event {
                    JournalEvent::Seal { .. } => phases.sealed = phases.sealed.max(at),
                    JournalEvent::UploadIntent { .. } => uploading = Some(at),
                    JournalEvent::Uploaded { .. } => {
                        phases.upload.extend(uploading.map(|from| (from, at)))
                    }
                    JournalEvent::Created { .. } => created = Some(at),
                    // The last state seen before the download is the one that ended the wait.
                    JournalEvent::Status { .. } => ended = Some(at),
                    JournalEvent::Merged { .. } => {
                        phases.wait.extend(created.zip(ended));
                        phases.join.extend(ended.map(|from| (from, at)));
                        phases.merged = phases.merged.max(at);
                    }
                    _ => {}
                }
            }
        }
        Ok(phases)
    }
}

/// How long at least one of the spans lasted.
fn covered(mut spans: Vec<(f64, f64)>) -> f64 {
    spans.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut covered, mut reached) = (0.0, f64::NEG_INFINITY);
    for (from, to) in spans {
        covered += (to - from.max(reached)).max(0.0);
        reached = reached.max(to);
    }
    covered
}

fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}
