//! What the data path costs by itself: rows into sealed chunks, and result lines back to their rows.
//!
//! Each variant runs in a process of its own, pinned to one core, in turn with the others; the median counts.
//! `benches/README.md` says what each one does.
#![expect(clippy::print_stdout, reason = "it reports to a terminal")]

mod build;
mod join;
mod limits;
mod lines;
mod peers;
mod stub;

use anyhow::{Context as _, Result, ensure};
use batchwright_benches::{cpu_micros, median, peak_rss};
use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// Building chunks and joining results, each beside bare programs.
#[derive(Parser)]
struct Cli {
    /// Rows of 1 KiB that are built into chunks, once for each run; speed is told of the most
    #[arg(long, num_args = 1.., default_values_t = [100_000, 1_000_000], value_parser = clap::value_parser!(u64).range(1..))]
    rows: Vec<u64>,
    /// Result lines of 1250 bytes that are joined
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1..))]
    results: u64,
    /// How often each variant runs
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// The core everything runs on, by taskset
    #[arg(long, default_value_t = 1)]
    core: u32,
    /// A Python that has orjson; without one that variant is left out
    #[arg(long, value_name = "PATH", default_value = "python3")]
    python: PathBuf,
    /// Only these variants
    #[arg(long, value_enum, num_args = 1..)]
    only: Vec<Variant>,
    /// Folder for all files, about 8 KB a row [default: the system's]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// End with 1 where a limit is not held
    #[arg(long)]
    limit: bool,
    /// Runs this variant in the folder; used by the program itself
    #[arg(long, value_enum, hide = true)]
    child: Option<Variant>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Variant {
    /// Ours: rows that already are requests
    Build,
    /// The same on all cores
    BuildCores,
    /// Ours: a prompt for each row
    BuildPrompt,
    /// Lines put together from slices of the input
    Splice,
    /// The same by Python's orjson
    Orjson,
    /// The input, copied
    CpInput,
    /// The input, copied by way of a pipe's end
    CatInput,
    /// Ours: result lines into durable outcomes
    Join,
    /// Ours: result lines into a file in the input's order
    JoinOrdered,
    /// Result lines read into borrowed structs, looked up in a map
    Typed,
    /// A map of where each result line is, and the lines copied in the input's order
    Offsets,
    /// The result files, copied
    CpResults,
    /// The result files, one after another
    CatResults,
}

impl Variant {
    fn is_build(self) -> bool {
        matches!(
            self,
            Self::Build
                | Self::BuildCores
                | Self::BuildPrompt
                | Self::Splice
                | Self::Orjson
                | Self::CpInput
                | Self::CatInput
        )
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Build => "ours, rows that are requests",
            Self::BuildCores => "the same, all cores",
            Self::BuildPrompt => "ours, a prompt",
            Self::Splice => "splice",
            Self::Orjson => "orjson",
            Self::CpInput | Self::CpResults => "cp",
            Self::CatInput | Self::CatResults => "cat",
            Self::Join => "ours",
            Self::JoinOrdered => "ours, and results in order",
            Self::Typed => "typed, borrowed",
            Self::Offsets => "index of offsets",
        })
    }
}

/// What one run took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Measured {
    bytes: u64,
    seconds: f64,
    cpu_micros: u64,
    /// 0 where it was not looked at.
    peak_rss: u64,
}

impl Measured {
    /// Times `work`, which returns the bytes of its input, within this process.
    fn of(work: impl FnOnce() -> Result<u64>) -> Result<Self> {
        let pid = std::process::id();
        let (begun, cpu) = (Instant::now(), cpu_micros(pid)?);
        let bytes = work()?;
        Ok(Self {
            bytes,
            seconds: begun.elapsed().as_secs_f64(),
            cpu_micros: cpu_micros(pid)? - cpu,
            peak_rss: peak_rss(pid)?,
        })
    }
}

/// The middle of several runs.
#[derive(Clone, Copy)]
struct Summary {
    variant: Variant,
    rows: u64,
    /// Megabytes of input a second of the clock, and a second of the processor.
    wall: f64,
    cpu: f64,
    peak_rss: u64,
}

impl Summary {
    fn of(variant: Variant, rows: u64, runs: &[Measured]) -> Self {
        let rate = |run: &Measured, seconds: f64| run.bytes as f64 / 1e6 / seconds;
        Self {
            variant,
            rows,
            wall: median(runs.iter().map(|run| rate(run, run.seconds))),
            cpu: median(
                runs.iter()
                    .map(|run| rate(run, run.cpu_micros.max(1) as f64 / 1e6)),
            ),
            peak_rss: runs.iter().map(|run| run.peak_rss).max().unwrap_or(0),
        }
    }
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if let Some(variant) = cli.child {
        let folder = cli.folder.as_deref().context("a child needs its folder")?;
        let measured = run_child(variant, folder)?;
        println!("{}", serde_json::to_string(&measured)?);
        return Ok(());
    }
    let folder = match &cli.folder {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let folder = folder.context("make a folder")?;
    let mut table = Vec::new();
    let mut rows = cli.rows.clone();
    rows.sort_unstable();
    println!(
        "{:<30} {:>9} {:>9} {:>9} {:>9}",
        "variant", "rows", "MB/s", "MB/CPU s", "peak MiB"
    );
    for rows in rows {
        let folder = folder.path().join(format!("build-{rows}"));
        std::fs::create_dir(&folder)?;
        lines::write_rows(&folder, rows)?;
        measure(&cli, &folder, rows, true, &mut table)?;
        std::fs::remove_dir_all(&folder)?;
    }
    let folder = folder.path().join("join");
    std::fs::create_dir(&folder)?;
    if Variant::value_variants()
        .iter()
        .any(|variant| !variant.is_build() && is_wanted(&cli, *variant))
    {
        lines::write_results(&folder, cli.results)?;
        measure(&cli, &folder, cli.results, false, &mut table)?;
    }
    let verdicts = limits::judge(&table);
    for verdict in &verdicts {
        println!("{verdict}");
    }
    ensure!(
        !cli.limit || verdicts.iter().all(limits::Verdict::is_held),
        "a limit is not held"
    );
    Ok(())
}

fn is_wanted(cli: &Cli, variant: Variant) -> bool {
    cli.only.is_empty() || cli.only.contains(&variant)
}

/// Runs every variant of building, or of joining, in turn.
fn measure(
    cli: &Cli,
    folder: &Path,
    rows: u64,
    builds: bool,
    table: &mut Vec<Summary>,
) -> Result<()> {
    let mut variants: Vec<(Variant, Vec<Measured>)> = Variant::value_variants()
        .iter()
        .filter(|variant| variant.is_build() == builds && is_wanted(cli, **variant))
        .map(|variant| (*variant, Vec::new()))
        .collect();
    if !peers::has_orjson(&cli.python) {
        if builds && is_wanted(cli, Variant::Orjson) {
            println!(
                "orjson is left out: {} has none (--python)",
                cli.python.display()
            );
        }
        variants.retain(|(variant, _)| *variant != Variant::Orjson);
    }
    for _ in 0..cli.runs {
        for (variant, runs) in &mut variants {
            prepare(*variant, folder)?;
            runs.push(run(cli, *variant, folder)?);
            clean(folder)?;
        }
    }
    for (variant, runs) in variants {
        let summary = Summary::of(variant, rows, &runs);
        let peak = match summary.peak_rss {
            0 => String::new(),
            peak => format!("{:.1}", peak as f64 / 1024.0 / 1024.0),
        };
        println!(
            "{:<30} {:>9} {:>9.0} {:>9.0} {:>9}",
            summary.variant, summary.rows, summary.wall, summary.cpu, peak
        );
        table.push(summary);
    }
    Ok(())
}

/// A tick of `/proc/PID/stat`.
const TICK_MICROS: u64 = 10_000;

/// The sum of a `stat`'s two fields of CPU time from `place` on, counted from the one after the name: 11 for the process
/// or thread itself, 13 for its ended children.
fn ticks(stat: &str, place: usize) -> Result<u64> {
    let (_, fields) = stat.rsplit_once(')').context("find the process's name")?;
    let mut ticks = 0;
    for field in fields.split_ascii_whitespace().skip(place).take(2) {
        ticks += field.parse::<u64>()?;
    }
    Ok(ticks)
}

/// What is not timed.
fn prepare(variant: Variant, folder: &Path) -> Result<()> {
    match variant {
        Variant::Build | Variant::BuildCores => build::prepare(folder, false),
        Variant::BuildPrompt => build::prepare(folder, true),
        Variant::Join | Variant::JoinOrdered => join::prepare(folder),
        _ => Ok(()),
    }?;
    std::fs::create_dir(folder.join(OUT))?;
    Ok(())
}

/// The folder of what a run makes, and of the job it runs in.
const OUT: &str = "out";
const JOB: &str = "job";

fn clean(folder: &Path) -> Result<()> {
    for made in [OUT, JOB] {
        let made = folder.join(made);
        if made.exists() {
            std::fs::remove_dir_all(made)?;
        }
    }
    Ok(())
}

/// Runs a variant in a process of its own, which tells what it took unless it is a copy.
fn run(cli: &Cli, variant: Variant, folder: &Path) -> Result<Measured> {
    let mut command = Command::new("taskset");
    let cores = match variant {
        Variant::BuildCores => format!("0-{}", std::thread::available_parallelism()?.get() - 1),
        _ => cli.core.to_string(),
    };
    command.args(["--cpu-list", &cores]);
    let tells = match variant {
        Variant::Orjson => {
            peers::orjson(&mut command, &cli.python, folder);
            true
        }
        Variant::CpInput | Variant::CatInput | Variant::CpResults | Variant::CatResults => {
            peers::copy(&mut command, variant, folder)?;
            false
        }
        _ => {
            let name = variant.to_possible_value().context("it has a name")?;
            command.arg(std::env::current_exe()?);
            command.args(["--child", name.get_name(), "--folder"]);
            command.arg(folder);
            true
        }
    };
    if tells {
        let output = command
            .stderr(std::process::Stdio::inherit())
            .output()
            .context("run taskset")?;
        ensure!(output.status.success(), "{variant} failed");
        return serde_json::from_slice(&output.stdout).context("read what was measured");
    }
    let before = peers::children_cpu_micros()?;
    let begun = Instant::now();
    ensure!(
        command.status().context("run taskset")?.success(),
        "{variant} failed"
    );
    Ok(Measured {
        bytes: peers::copied_bytes(variant, folder)?,
        seconds: begun.elapsed().as_secs_f64(),
        cpu_micros: peers::children_cpu_micros()? - before,
        peak_rss: 0,
    })
}

fn run_child(variant: Variant, folder: &Path) -> Result<Measured> {
    match variant {
        Variant::Build | Variant::BuildCores | Variant::BuildPrompt => build::ours(folder),
        Variant::Splice => Measured::of(|| build::splice(folder)),
        Variant::Join => Measured::of(|| join::ours(folder, false)),
        Variant::JoinOrdered => Measured::of(|| join::ours(folder, true)),
        Variant::Typed => Measured::of(|| join::typed(folder)),
        Variant::Offsets => Measured::of(|| join::offsets(folder)),
        _ => anyhow::bail!("{variant} is another program's"),
    }
}
