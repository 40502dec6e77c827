//! Rows into chunks: as a job does it, and by copying slices of the input.

use crate::{
    JOB, Measured, OUT, TICK_MICROS,
    lines::{INPUT, MODEL, each_line},
    stub::Stub,
    ticks,
};
use anyhow::{Context as _, Result, ensure};
use batchwright_benches::{cpu_micros, peak_rss};
use batchwright_core::{BatchProvider, JournalEvent, Lane, Timestamp};
use batchwright_ledger::Ledger;
use batchwright_pipeline::{Job, JobControl, JobProgress, JobSpec, LaneProvider, RunOptions};
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// Starts the job, which checks its input.
pub(crate) fn prepare(folder: &Path, prompt: bool) -> Result<()> {
    let mut spec = JobSpec::new(folder.join(INPUT), "openai", Lane::Batch);
    if prompt {
        spec = spec
            .with_prompt("Say what this is about: {{ messages[0].content }}, asked of {{ model }}");
        spec.model = Some(MODEL.to_owned());
    }
    let provider = LaneProvider::Batch(Arc::new(Stub::new()?));
    Job::open(&folder.join(JOB), spec, &provider)?;
    Ok(())
}

/// Runs the job until every batch is made. The clock stops at the last sealed chunk; the CPU time is that of the threads
/// that build.
pub(crate) fn ours(folder: &Path) -> Result<Measured> {
    let bytes = std::fs::metadata(folder.join(INPUT))?.len();
    let dir = folder.join(JOB);
    let job = Job::resume(&dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        // So that all threads but those that build are still there to be asked what they took.
        .thread_keep_alive(Duration::from_secs(3600))
        .enable_all()
        .build()?;
    let stub = Arc::new(Stub::new()?);
    let provider = LaneProvider::Batch(Arc::clone(&stub) as Arc<dyn BatchProvider>);
    let mut options = RunOptions::default();
    options.leave = true;
    let pid = std::process::id();
    let cpu = cpu_micros(pid)?;
    let others = other_threads_micros(None)?;
    let begun = Timestamp::from(SystemTime::now());
    let progress = Arc::new(JobProgress::new());
    runtime.block_on(job.run(
        provider,
        options,
        JobControl::default(),
        Arc::clone(&progress),
    ))?;
    let others = other_threads_micros(stub.encoder())? - others;
    let cpu_micros = (cpu_micros(pid)? - cpu).saturating_sub(others);
    let peak_rss = peak_rss(pid)?;
    let rows = job.rows();
    drop(job);
    let ledger = Ledger::open_read_only(&dir)?;
    let (mut sealed, mut requests) = (begun, 0);
    for chunk in ledger.chunks()? {
        requests += chunk.requests;
        for entry in ledger.entries_blocking(chunk.chunk)? {
            if matches!(entry.event, JournalEvent::Seal { .. }) {
                sealed = sealed.max(entry.at);
            }
        }
    }
    ensure!(requests == rows, "{requests} of {rows} rows are sealed");
    Ok(Measured {
        bytes,
        seconds: sealed.since(begun).as_secs_f64(),
        cpu_micros,
        peak_rss,
    })
}

/// CPU time of the threads that are there, but for one.
fn other_threads_micros(but: Option<&str>) -> Result<u64> {
    let mut micros = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let thread = thread?;
        if but.is_none_or(|but| thread.file_name() != *but) {
            let stat = std::fs::read_to_string(thread.path().join("stat"))?;
            micros += ticks(&stat, 11)? * TICK_MICROS;
        }
    }
    Ok(micros)
}

/// Finds each row's id and writes what follows it as the body.
pub(crate) fn splice(folder: &Path) -> Result<u64> {
    const BEFORE: &[u8] = b"{\"custom_id\":\"";
    let mut out =
        BufWriter::with_capacity(256 * 1024, File::create(folder.join(OUT).join("chunk"))?);
    let bytes = each_line(&folder.join(INPUT), |line| {
        let rest = line.strip_prefix(BEFORE).context("find the id")?;
        let end = rest.iter().position(|byte| *byte == b'"');
        let (id, rest) = rest.split_at(end.context("find the id's end")?);
        let rest = rest.strip_prefix(b"\",").context("find the body")?;
        out.write_all(BEFORE)?;
        out.write_all(id)?;
        out.write_all(b"\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{")?;
        out.write_all(rest.strip_suffix(b"\n").unwrap_or(rest))?;
        out.write_all(b"}\n")?;
        Ok(())
    })?;
    out.into_inner()?.sync_all()?;
    Ok(bytes)
}
