//! `status`: what a job's folder says, without touching it.

use crate::{
    args::{JobArgs, WatchArgs},
    decide,
    exit::Exit,
    folder, providers, run, signals,
    terminal::{clean, count, print, rows},
};
use batchwright::{
    core::{BatchCounts, BatchLimits, BatchStatus, JournalEvent},
    ledger::{ChunkPhase, ChunkState, Ledger, Scan},
    pipeline::{Job, JobSpec, SeenBatch},
};
use comfy_table::{Table, presets};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::IsTerminal,
    path::{Path, PathBuf},
    time::Duration,
};

pub(crate) fn status(args: &JobArgs) -> anyhow::Result<Exit> {
    let dir = folder::existing(&args.state, &args.job)?;
    let overview = Overview::read(&dir, &args.job)?;
    if args.json {
        print(overview.to_json());
    } else {
        print(overview.to_text());
    }
    Ok(Exit::Done)
}

/// Shows the status again and again until the job is done, or nobody looks any more.
pub(crate) async fn watch(args: &WatchArgs) -> anyhow::Result<Exit> {
    let dir = folder::existing(&args.job.state, &args.job.job)?;
    let terminal = std::io::stdout().is_terminal();
    let mut last = String::new();
    loop {
        let (from, name) = (dir.clone(), args.job.job.clone());
        let overview = tokio::task::spawn_blocking(move || Overview::read(&from, &name)).await??;
        let shown = match args.job.json {
            true => overview.to_json().to_string(),
            false => overview.to_text(),
        };
        if terminal && !args.job.json {
            // From the top, on a clean screen.
            print(format_args!("\x1b[H\x1b[2J{shown}"));
        } else if shown != last {
            print(&shown);
            last = shown;
        }
        if overview.state() == "done" {
            return Ok(Exit::Done);
        }
        tokio::select! {
            () = tokio::time::sleep(args.interval) => {}
            () = signals::signal() => return Ok(Exit::Interrupted),
        }
    }
}

/// What a job's folder says.
pub(crate) struct Overview {
    pub(crate) name: String,
    pub(crate) spec: JobSpec,
    pub(crate) rows: u64,
    pub(crate) scan: Scan,
    chunks: Vec<ChunkState>,
    batches: BTreeMap<u32, Batch>,
    /// The folder the job's folder is in.
    state: PathBuf,
    now: i64,
}

/// What is known of an open batch besides its chunk's state.
#[derive(Default)]
struct Batch {
    counts: Option<BatchCounts>,
    status: Option<BatchStatus>,
    /// Seconds since 1970.
    since: Option<i64>,
    typical: Option<Duration>,
}

impl Overview {
    pub(crate) fn read(dir: &Path, name: &str) -> anyhow::Result<Self> {
        let spec = Job::spec_of(dir)?;
        let ledger = Ledger::open_read_only(dir)?;
        let now =
            batchwright::core::Timestamp::from(std::time::SystemTime::now()).as_unix_seconds();
        let chunks = ledger.chunks()?;
        let batches = Self::batches(&ledger, &chunks)?;
        Ok(Self {
            name: name.to_owned(),
            spec,
            rows: Job::rows_of(&ledger)?,
            scan: ledger.scan()?,
            chunks,
            batches,
            state: dir.parent().unwrap_or(dir).to_owned(),
            now,
        })
    }

    fn batches(ledger: &Ledger, chunks: &[ChunkState]) -> anyhow::Result<BTreeMap<u32, Batch>> {
        let mut seen = SeenBatch::all(ledger)?;
        let mut limits: BTreeMap<&str, Option<BatchLimits>> = BTreeMap::new();
        let mut batches = BTreeMap::new();
        for chunk in chunks {
            if chunk.phase.is_merged() {
                continue;
            }
            let seen = seen.remove(&chunk.chunk);
            let mut batch = Batch {
                counts: seen.as_ref().and_then(|seen| seen.counts),
                status: seen.map(|seen| seen.status),
                ..Batch::default()
            };
            for entry in ledger.entries_blocking(chunk.chunk)? {
                if let JournalEvent::Created { .. } | JournalEvent::Adopted { .. } = entry.event {
                    batch.since = Some(entry.at.as_unix_seconds());
                }
            }
            let limits = limits
                .entry(&chunk.provider)
                .or_insert_with(|| providers::batch_limits(&chunk.provider));
            batch.typical = limits
                .as_ref()
                .zip(batch.status.as_ref())
                .map(|(limits, status)| limits.typical_in(status));
            batches.insert(chunk.chunk, batch);
        }
        Ok(batches)
    }

    fn to_text(&self) -> String {
        let spec = &self.spec;
        let mut lines = vec![
            format!(
                "job      {}{}",
                self.name,
                if spec.sandbox { " (sandbox)" } else { "" }
            ),
            format!("state    {}", self.state()),
            format!("input    {}", clean(&spec.input.display().to_string())),
            format!(
                "model    {}:{}",
                spec.provider,
                clean(spec.model.as_deref().unwrap_or("named by the rows"))
            ),
            format!("lane     {}", spec.lane),
            format!(
                "rows     {} of {} done",
                count(self.scan.finished.len()),
                count(self.rows)
            ),
        ];
        for (ending, rows) in run::tally(&self.scan) {
            lines.push(format!("         {} {ending}", count(rows)));
        }
        lines.push(format!("cost     {}", self.cost()));
        if self.scan.superseded > 0 {
            lines.push(format!(
                "         {} besides, for {} that do not count",
                self.scan.superseded_cost,
                count(self.scan.superseded)
            ));
        }
        if self.scan.in_flight_rows > 0 {
            lines.push(format!(
                "         {} in flight, or interrupted there",
                count(self.scan.in_flight_rows)
            ));
        }
        if !self.chunks.is_empty() {
            lines.push(format!("\n{}", self.table()));
        }
        for chunk in &self.chunks {
            if let Some(reason) = &chunk.held {
                lines.push(format!(
                    "\nchunk {} is held: {}",
                    chunk.chunk,
                    clean(reason)
                ));
                for line in decide::choices(&self.name, &self.state, chunk) {
                    lines.push(format!("  {line}"));
                }
            }
        }
        lines.extend(decide::notes(&self.chunks));
        lines.join("\n")
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header([
            "chunk", "round", "rows", "state", "answered", "age", "usually", "batch",
        ]);
        for chunk in &self.chunks {
            let batch = self.batches.get(&chunk.chunk);
            let counts = batch.and_then(|batch| batch.counts);
            let since = batch.and_then(|batch| batch.since);
            let usually = batch.and_then(|batch| batch.typical);
            let id = chunk.handle.as_ref().map(|handle| handle.id.as_str());
            table.add_row([
                chunk.chunk.to_string(),
                chunk.round.to_string(),
                count(chunk.requests),
                phase(chunk),
                counts.map_or_else(String::new, |counts| {
                    format!(
                        "{}/{}",
                        count(counts.completed + counts.failed),
                        count(counts.total)
                    )
                }),
                since.map_or_else(String::new, |since| span(self.now - since)),
                usually.map_or_else(String::new, |usually| {
                    format!(
                        "≤ {}",
                        span(i64::try_from(usually.as_secs()).unwrap_or(i64::MAX))
                    )
                }),
                clean(id.unwrap_or_default()),
            ]);
        }
        table
    }

    pub(crate) fn state(&self) -> &'static str {
        if self.scan.finished.len() >= self.rows {
            "done"
        } else if self
            .chunks
            .iter()
            .any(|chunk| chunk.phase == ChunkPhase::Held)
        {
            "needs a decision"
        } else {
            "unfinished"
        }
    }

    pub(crate) fn cost(&self) -> String {
        match self.scan.cost_unknown {
            0 => self.scan.cost.to_string(),
            number => format!("{} and {} of unknown cost", self.scan.cost, rows(number)),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let endings: serde_json::Map<String, Value> = run::tally(&self.scan)
            .map(|(ending, rows)| (ending.to_owned(), rows.into()))
            .collect();
        let chunks: Vec<Value> = self
            .chunks
            .iter()
            .map(|chunk| {
                let batch = self.batches.get(&chunk.chunk);
                let counts = batch.and_then(|batch| batch.counts);
                let usually = batch.and_then(|batch| batch.typical);
                json!({
                    "chunk": chunk.chunk,
                    "round": chunk.round,
                    "counts": counts,
                    "age_seconds": batch.and_then(|batch| batch.since).map(|since| self.now - since),
                    "usually_seconds": usually.map(|usually| usually.as_secs()),
                    "rows": chunk.requests,
                    "state": phase(chunk),
                    "batch": chunk.handle.as_ref().map(|handle| &handle.id),
                    "held": chunk.held,
                    "asked_about": chunk.asked_about,
                })
            })
            .collect();
        json!({
            "job": self.name,
            "state": self.state(),
            "input": self.spec.input,
            "provider": self.spec.provider,
            "model": self.spec.model,
            "lane": self.spec.lane.as_str(),
            "sandbox": self.spec.sandbox,
            "rows": self.rows,
            "finished": self.scan.finished.len(),
            "endings": endings,
            "usage": self.scan.usage,
            "cost": self.scan.cost.as_dollars(),
            "cost_unknown_rows": self.scan.cost_unknown,
            "in_flight": self.scan.in_flight_rows,
            "chunks": chunks,
            "twice": decide::notes_json(&self.chunks),
        })
    }
}

/// Seconds, for people.
fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

fn phase(chunk: &ChunkState) -> String {
    match &chunk.phase {
        ChunkPhase::Running {
            status: Some(status),
            ..
        } => status.as_str().to_owned(),
        phase => phase.as_str().to_owned(),
    }
}
