//! One run of one variant, in a process of its own.

use crate::{Client, Taken, Variant, bare};
use anyhow::{Result, bail, ensure};
use async_trait::async_trait;
use batchwright_benches::{cpu_micros, peak_rss};
use batchwright_core::{Error, ErrorKind, Message, Outcome, Request};
use batchwright_ledger::{Ledger, OutcomeLog, OutcomeRecord};
use batchwright_provider_openai::OpenAi;
use batchwright_realtime::{DispatchLog, EndReason, ParallelPool, PoolOptions, WorkItem};
use futures::{StreamExt, stream};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

pub(crate) const MODEL: &str = "gpt-5-mini";
pub(crate) const KEY: &str = "sk-benchmark-0123456789abcdef";

/// The text of row `row`, about 300 bytes.
pub(crate) fn prompt(row: u64) -> String {
    format!(
        "Say in one sentence what this review is about and whether its writer is content. Review {row}: \
         I have had this phone for three weeks now. The battery lasts two days, which none of my earlier \
         ones did, and the screen is bright enough for the garden. The camera I hardly use."
    )
}

/// The rows not yet taken.
#[derive(Clone)]
pub(crate) struct Rows {
    taken: Arc<AtomicU64>,
    all: u64,
}

impl Rows {
    pub(crate) fn next(&self) -> Option<u64> {
        let row = self.taken.fetch_add(1, Relaxed);
        (row < self.all).then_some(row)
    }
}

impl Client {
    pub(crate) async fn run(self) -> Result<Taken> {
        let (url, concurrency) = (self.base_url.as_str(), self.load.concurrency());
        let rows = Rows {
            taken: Arc::default(),
            all: self.load.requests,
        };
        match self.variant {
            Variant::Hyper => measure(bare::hyper(url, concurrency, rows)).await,
            Variant::Stream => measure(bare::stream(url, concurrency, rows)).await,
            Variant::Workers => measure(bare::workers(url, concurrency, rows)).await,
            Variant::Pool => {
                std::fs::create_dir_all(&self.folder)?;
                let path = self.folder.join("results.jsonl");
                let log = Arc::new(ResultsFile(Mutex::new(BufWriter::with_capacity(
                    64 * 1024,
                    File::create(&path)?,
                ))));
                let pool = self.pool(Arc::clone(&log) as Arc<dyn DispatchLog>)?;
                let taken = measure(async {
                    pool.await?;
                    Ok(log.flush()?)
                })
                .await?;
                let lines = BufReader::new(File::open(&path)?).lines().count() as u64;
                ensure!(lines == self.load.requests, "{lines} results");
                Ok(taken)
            }
            Variant::Full => {
                let ledger = Ledger::open(&self.folder)?;
                let log = ledger.outcome_log()?;
                let pool = self.pool(Arc::new(SegmentLog(log.clone())))?;
                let taken = measure(async {
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

    /// The pool over all rows, with the settings a job has.
    fn pool(&self, log: Arc<dyn DispatchLog>) -> Result<impl Future<Output = Result<()>>> {
        let provider = OpenAi::builder(KEY)
            .base_url(&self.base_url)
            .max_in_flight(self.load.concurrency())
            .build()?;
        let options = PoolOptions::default().with_max_in_flight(self.load.concurrency());
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
}

async fn measure(work: impl Future<Output = Result<()>>) -> Result<Taken> {
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

/// A line for each outcome, in a file nobody waits for.
struct ResultsFile(Mutex<BufWriter<File>>);

impl ResultsFile {
    fn flush(&self) -> io::Result<()> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .flush()
    }
}

#[async_trait]
impl DispatchLog for ResultsFile {
    async fn dispatching(&self, _row: u64, _attempt: u32) -> batchwright_core::Result<()> {
        Ok(())
    }

    async fn finished(&self, row: u64, outcome: &Outcome) -> batchwright_core::Result<()> {
        let mut line = Vec::with_capacity(1024);
        OutcomeRecord::write(row, &outcome.custom_id, outcome, false, &mut line);
        line.push(b'\n');
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line)
            .map_err(|error| Error::new(ErrorKind::Storage, format!("write a result: {error}")))
    }
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
