//! Doubles: a provider that answers by a function, a log that keeps a tape, a source that counts.

use async_trait::async_trait;
use batchwright_core::{
    CallOptions, Capability, ChatProvider, Error, ErrorKind, Message, Outcome, Request, Response,
    Result,
};
use batchwright_realtime::{
    DispatchLog, EndReason, Finished, NoLog, ParallelPool, PoolOptions, Run, RunEnd, WorkItem,
};
use futures::{Stream, StreamExt, stream};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// What a scripted provider does with an attempt: takes this long, then answers so.
pub(crate) type Answer = (Duration, Result<Response>);

/// A provider that answers attempt number `n` (from 1) of a row as its script says.
pub(crate) struct Scripted {
    script: Box<dyn Fn(u64, usize) -> Answer + Send + Sync>,
    capability: Capability,
    seen: Mutex<Seen>,
}

#[derive(Clone, Default)]
pub(crate) struct Seen {
    /// When each row was sent, by row.
    pub(crate) sends: BTreeMap<u64, Vec<Instant>>,
    /// Calls that have not returned.
    pub(crate) open: usize,
    pub(crate) most_open: usize,
    /// Calls dropped before they returned.
    pub(crate) dropped: usize,
    pub(crate) timeouts: Vec<Option<Duration>>,
}

impl Seen {
    pub(crate) fn count(&self) -> usize {
        self.sends.values().map(Vec::len).sum()
    }

    pub(crate) fn after(&self, instant: Instant) -> usize {
        let all = self.sends.values().flatten();
        all.filter(|sent| **sent > instant).count()
    }
}

impl Scripted {
    pub(crate) fn new(script: impl Fn(u64, usize) -> Answer + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            script: Box::new(script),
            capability: Capability::default(),
            seen: Mutex::default(),
        })
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

#[async_trait]
impl ChatProvider for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn capability(&self) -> &Capability {
        &self.capability
    }

    async fn complete(&self, request: &Request, call: &CallOptions) -> Result<Response> {
        struct Open<'s>(&'s Mutex<Seen>, bool);
        impl Drop for Open<'_> {
            fn drop(&mut self) {
                let mut seen = self.0.lock().unwrap();
                seen.open -= 1;
                seen.dropped += usize::from(!self.1);
            }
        }
        let row = request.custom_id.parse().unwrap();
        let nth = {
            let mut seen = self.seen.lock().unwrap();
            seen.open += 1;
            seen.most_open = seen.most_open.max(seen.open);
            seen.timeouts.push(call.timeout);
            let sends = seen.sends.entry(row).or_default();
            sends.push(Instant::now());
            sends.len()
        };
        let mut open = Open(&self.seen, false);
        let (takes, answer) = (self.script)(row, nth);
        sleep(takes).await;
        open.1 = true;
        answer
    }
}

/// A line of the tape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Intent(u64, u32),
    Outcome(u64),
}

/// A log in memory that can be slow and can fail.
#[derive(Default)]
pub(crate) struct Tape {
    pub(crate) intent_takes: Duration,
    pub(crate) outcome_takes: Duration,
    /// The call, counted from 1 over both kinds, from which on nothing can be written.
    pub(crate) full_at: Option<usize>,
    pub(crate) state: Mutex<(usize, Vec<Entry>)>,
}

impl Tape {
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.state.lock().unwrap().1.clone()
    }

    pub(crate) fn outcomes(&self) -> Vec<u64> {
        let entries = self.entries().into_iter();
        entries
            .filter_map(|entry| match entry {
                Entry::Outcome(row) => Some(row),
                Entry::Intent(..) => None,
            })
            .collect()
    }

    async fn write(&self, takes: Duration, entry: Entry) -> Result<()> {
        let number = {
            let mut state = self.state.lock().unwrap();
            state.0 += 1;
            state.0
        };
        sleep(takes).await;
        if self.full_at.is_some_and(|full| number >= full) {
            return Err(Error::new(ErrorKind::Storage, "append to the journal"));
        }
        self.state.lock().unwrap().1.push(entry);
        Ok(())
    }
}

#[async_trait]
impl DispatchLog for Tape {
    async fn dispatching(&self, row: u64, attempt: u32) -> Result<()> {
        self.write(self.intent_takes, Entry::Intent(row, attempt))
            .await
    }

    async fn finished(&self, row: u64, _outcome: &Outcome) -> Result<()> {
        self.write(self.outcome_takes, Entry::Outcome(row)).await
    }
}

pub(crate) fn item(row: u64) -> WorkItem {
    let request = Request::chat(row.to_string(), "small", [Message::user("CANARY")]);
    WorkItem::new(row, request)
}

pub(crate) fn rows(count: u64) -> impl Stream<Item = Result<WorkItem>> + Send {
    stream::iter((0..count).map(|row| Ok(item(row))))
}

pub(crate) fn ok() -> Result<Response> {
    Ok(Response::from_text("fine"))
}

pub(crate) fn fail(kind: ErrorKind) -> Result<Response> {
    Err(Error::new(kind, "scripted"))
}

pub(crate) fn options(max_in_flight: usize) -> PoolOptions {
    PoolOptions::default().with_max_in_flight(max_in_flight)
}

/// Reads a run to its end.
pub(crate) async fn collect<S: Stream<Item = Result<WorkItem>>>(
    mut run: Run<S>,
) -> (Vec<Finished>, RunEnd) {
    let mut finished = Vec::new();
    while let Some(row) = run.next().await {
        assert!(run.ended().is_none());
        finished.push(row);
    }
    assert!(run.next().await.is_none(), "it stays at its end");
    let progress = run.progress();
    assert_eq!(progress.done(), finished.len() as u64);
    assert_eq!((progress.in_flight, progress.waiting), (0, 0));
    assert_eq!(progress, run.meter().read());
    let end = run.ended().unwrap().clone();
    // I1: every row taken ended exactly once or is handed back.
    let mut all: Vec<u64> = finished.iter().map(|row| row.row).collect();
    all.extend(end.unfinished.iter().map(|row| row.row));
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), finished.len() + end.unfinished.len());
    assert_eq!(all.len() as u64, progress.taken);
    (finished, end)
}

/// Runs `count` rows without a log, to the end.
pub(crate) async fn run_all(
    provider: &Arc<Scripted>,
    options: PoolOptions,
    count: u64,
) -> (Vec<Finished>, RunEnd) {
    let pool = ParallelPool::new(provider.clone(), options);
    let run = pool.run(rows(count), Arc::new(NoLog), CancellationToken::new());
    collect(run).await
}

pub(crate) fn stopped_by(end: &RunEnd) -> &Error {
    match &end.reason {
        EndReason::Stopped(error) => error,
        other => panic!("not stopped by an error: {other:?}"),
    }
}

pub(crate) fn is_complete(end: &RunEnd) -> bool {
    matches!(end.reason, EndReason::Completed) && end.unfinished.is_empty()
}
