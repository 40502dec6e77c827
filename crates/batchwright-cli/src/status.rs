//! `status`: what a job's folder says, without touching it.

use crate::{
    args::JobArgs,
    exit::Exit,
    folder, run,
    terminal::{clean, count, print, rows},
};
use batchwright::{
    ledger::{ChunkPhase, ChunkState, Ledger, Scan},
    pipeline::{Job, JobSpec},
};
use comfy_table::{Table, presets};
use serde_json::{Value, json};
use std::path::Path;

pub(crate) fn status(args: &JobArgs) -> anyhow::Result<Exit> {
    let dir = folder::existing(&args.state, &args.job)?;
    let overview = Overview::read(&dir, &args.job)?;
    if args.json {
        print(overview.to_json());
        return Ok(Exit::Done);
    }
    let spec = &overview.spec;
    let model = spec.model.as_deref().unwrap_or("named by the rows");
    print(format_args!(
        "job      {}{}",
        overview.name,
        if spec.sandbox { " (sandbox)" } else { "" }
    ));
    print(format_args!("state    {}", overview.state()));
    print(format_args!(
        "input    {}",
        clean(&spec.input.display().to_string())
    ));
    print(format_args!("model    {}:{}", spec.provider, clean(model)));
    print(format_args!("lane     {}", spec.lane));
    print(format_args!(
        "rows     {} of {} done",
        count(overview.scan.finished.len()),
        count(overview.rows)
    ));
    for (ending, rows) in run::tally(&overview.scan) {
        print(format_args!("         {} {ending}", count(rows)));
    }
    print(format_args!("cost     {}", overview.cost()));
    if overview.scan.in_flight_rows > 0 {
        print(format_args!(
            "         {} in flight, or interrupted there",
            count(overview.scan.in_flight_rows)
        ));
    }
    if !overview.chunks.is_empty() {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_header(["chunk", "rows", "state", "batch", "since"]);
        for chunk in &overview.chunks {
            let batch = chunk
                .handle
                .as_ref()
                .map_or("", |handle| handle.id.as_str());
            let since = (overview.now - chunk.last_at.as_unix_seconds()).max(0);
            table.add_row([
                chunk.chunk.to_string(),
                count(chunk.requests),
                phase(chunk),
                clean(batch),
                format!("{}m{:02}s", since / 60, since % 60),
            ]);
        }
        print(format_args!("\n{table}"));
    }
    for chunk in &overview.chunks {
        if let Some(reason) = &chunk.held {
            print(format_args!(
                "\nchunk {} is held: {}",
                chunk.chunk,
                clean(reason)
            ));
        }
    }
    Ok(Exit::Done)
}

/// What a job's folder says.
pub(crate) struct Overview {
    pub(crate) name: String,
    pub(crate) spec: JobSpec,
    pub(crate) rows: u64,
    pub(crate) scan: Scan,
    chunks: Vec<ChunkState>,
    now: i64,
}

impl Overview {
    pub(crate) fn read(dir: &Path, name: &str) -> anyhow::Result<Self> {
        let spec = Job::spec_of(dir)?;
        let ledger = Ledger::open_read_only(dir)?;
        let now =
            batchwright::core::Timestamp::from(std::time::SystemTime::now()).as_unix_seconds();
        Ok(Self {
            name: name.to_owned(),
            spec,
            rows: Job::rows_of(&ledger)?,
            scan: ledger.scan()?,
            chunks: ledger.chunks()?,
            now,
        })
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
                json!({
                    "chunk": chunk.chunk,
                    "rows": chunk.requests,
                    "state": phase(chunk),
                    "batch": chunk.handle.as_ref().map(|handle| &handle.id),
                    "held": chunk.held,
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
        })
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
