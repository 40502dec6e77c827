//! Batches under way in this process, and what comes out of them.

use crate::{RouterEvent, active::Active, drive::DriveEnd};
use batchwright_core::{BatchHandle, BatchStatus, Error, ErrorKind, Outcome, Result};
use futures::{Stream, StreamExt, future::BoxFuture};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};
use tokio::sync::mpsc;

/// An outcome and where its request stood.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BatchRow {
    /// Which [`BatchRequest`](crate::BatchRequest) of those handed in together, from 0.
    pub batch: usize,
    /// Which request of it, from 0.
    pub row: usize,
    /// How it ended.
    pub outcome: Outcome,
}

impl BatchRow {
    pub(crate) fn new(batch: usize, row: usize, outcome: Outcome) -> Self {
        Self {
            batch,
            row,
            outcome,
        }
    }
}

/// A batch of a run: a [`BatchRequest`](crate::BatchRequest), or a part of one that was cut.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SentBatch {
    /// Its number in this run, from 1: the chunk that a [`RouterEvent`] is about.
    pub chunk: u32,
    /// Which [`BatchRequest`](crate::BatchRequest) of those handed in together it is of, from 0.
    pub batch: usize,
    /// The provider it is for.
    pub provider: String,
    /// The model of its first request.
    pub model: String,
    /// How many requests it holds.
    pub requests: u64,
    /// The caller's own words about it.
    pub metadata: BTreeMap<String, String>,
    /// The batch at the provider, once it is known to be there. Another one may take its place where the provider failed
    /// it for want of room.
    pub handle: Option<BatchHandle>,
    /// Its state when it was last asked for.
    pub status: Option<BatchStatus>,
    /// Whether each of its requests has its outcome.
    pub merged: bool,
    /// Why nothing more is done for it, where it was not bought.
    pub failed: Option<Error>,
}

/// What is known of the batches of a run.
#[derive(Debug)]
pub(crate) struct Board {
    batches: Mutex<Vec<SentBatch>>,
}

impl Board {
    /// Batches 1, 2 and so on, in this order.
    pub(crate) fn new(batches: Vec<SentBatch>) -> Self {
        Self {
            batches: Mutex::new(batches),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SentBatch>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn change(&self, chunk: u32, change: impl FnOnce(&mut SentBatch)) {
        if let Some(batch) = self.lock().get_mut((chunk as usize).wrapping_sub(1)) {
            change(batch);
        }
    }

    fn all_sent(&self) -> bool {
        self.lock()
            .iter()
            .all(|sent| sent.handle.is_some() || sent.merged || sent.failed.is_some())
    }
}

/// What a run tells.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[expect(
    clippy::large_enum_variant,
    reason = "most are rows, each handed on once"
)]
pub enum RunItem {
    /// A request ended.
    Row(BatchRow),
    /// Something happened to a batch.
    Event(RouterEvent),
}

/// Outcomes of running batches, as they come; the stream ends when every batch has ended.
///
/// As a stream it gives outcomes. [`BatchRun::rows`] says of each which request it is of, [`BatchRun::in_order`] gives
/// them in the order they were handed in, [`BatchRun::items`] tells of progress too. An `Err` item is the last one: it
/// tells why not every request has an outcome.
///
/// The stream is to be polled within a Tokio runtime. Dropping the run stops sending and polling at once; what was bought
/// goes on at the provider, stays known to the router ([`BatchRouter::active`](crate::BatchRouter::active)) and can be
/// collected from there.
pub struct BatchRun {
    driver: Option<BoxFuture<'static, Result<DriveEnd>>>,
    outcomes: mpsc::Receiver<BatchRow>,
    events: mpsc::Receiver<RouterEvent>,
    board: Arc<Board>,
    active: Arc<Active>,
    /// Outcomes that came while the run waited for all to be sent.
    early: VecDeque<BatchRow>,
    end: Option<Result<DriveEnd>>,
    /// Whether the reason for an early end was handed out.
    told: bool,
    /// Whether batches that have ended stay known to the router.
    keep: bool,
}

impl BatchRun {
    pub(crate) fn new(
        driver: BoxFuture<'static, Result<DriveEnd>>,
        outcomes: mpsc::Receiver<BatchRow>,
        events: mpsc::Receiver<RouterEvent>,
        board: Arc<Board>,
        active: Arc<Active>,
    ) -> Self {
        Self {
            driver: Some(driver),
            outcomes,
            events,
            board,
            active,
            early: VecDeque::new(),
            end: None,
            told: false,
            keep: false,
        }
    }

    /// How the run ended, once the stream has; `None` before, or where it ended in an error.
    pub fn end(&self) -> Option<&DriveEnd> {
        match &self.end {
            Some(Ok(end)) => Some(end),
            _ => None,
        }
    }

    /// The batches of the run as they are known now, in the order their requests were handed in.
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let batch = BatchRequest::new("openai", colours(3)).with_metadata("project", "colours");
    /// let run = router.run(vec![batch], Control::default())?;
    /// let batches = run.batches();
    /// assert_eq!((batches[0].requests, &*batches[0].metadata["project"]), (3, "colours"));
    /// assert!(batches[0].handle.is_none(), "nothing is sent before the run is polled");
    /// # Ok(())
    /// # });
    /// ```
    pub fn batches(&self) -> Vec<SentBatch> {
        self.board.lock().clone()
    }

    /// Drives the run until every batch is known to be at its provider, or will not be, and gives them in the order their
    /// requests were handed in. Outcomes that come meanwhile are kept for the stream.
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let batches = vec![BatchRequest::new("openai", colours(3)), BatchRequest::new("openai", shapes(2))];
    /// let mut run = router.run(batches, Control::default())?;
    /// let sent = run.sent().await?;
    /// assert_eq!(sent.iter().map(|sent| sent.requests).collect::<Vec<_>>(), [3, 2]);
    /// assert!(sent.iter().all(|sent| sent.handle.is_some()));
    /// assert_eq!(run.count().await, 5);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// What ended the run before that; of a single batch [`SentBatch::failed`] tells.
    ///
    /// # Cancel safety
    /// Cancel safe: what came is kept, and asking again goes on.
    pub async fn sent(&mut self) -> Result<Vec<SentBatch>> {
        // Whatever changes on the board is told of right after, so that this is woken.
        while !self.board.all_sent() {
            match std::future::poll_fn(|cx| self.poll_item(cx)).await {
                Some(Ok(RunItem::Row(row))) => self.early.push_back(row),
                Some(Ok(RunItem::Event(_))) => {}
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        Ok(self.batches())
    }

    /// The same outcomes, each with the place of its request.
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let batches = vec![BatchRequest::new("openai", colours(3)), BatchRequest::new("openai", shapes(2))];
    /// let mut rows = router.run(batches, Control::default())?.rows();
    /// let mut of_second = 0;
    /// while let Some(row) = rows.next().await {
    ///     of_second += usize::from(row?.batch == 1);
    /// }
    /// assert_eq!(of_second, 2);
    /// # Ok(())
    /// # });
    /// ```
    pub fn rows(self) -> impl Stream<Item = Result<BatchRow>> + Send + Unpin + 'static {
        self.items().filter_map(|item| {
            std::future::ready(match item {
                Ok(RunItem::Row(row)) => Some(Ok(row)),
                Ok(RunItem::Event(_)) => None,
                Err(error) => Some(Err(error)),
            })
        })
    }

    /// The same outcomes in the order their requests were handed in. One that comes early waits in memory for those
    /// before it; after an error come those that wait.
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let run = router.run_one(BatchRequest::new("openai", colours(3)), Control::default())?;
    /// let ids: Vec<String> = run
    ///     .in_order()
    ///     .map(|row| row.map(|row| row.outcome.custom_id))
    ///     .try_collect()
    ///     .await?;
    /// assert_eq!(ids, ["colour-0", "colour-1", "colour-2"]);
    /// # Ok(())
    /// # });
    /// ```
    pub fn in_order(self) -> impl Stream<Item = Result<BatchRow>> + Send + Unpin + 'static {
        let mut sizes: Vec<usize> = Vec::new();
        for sent in self.board.lock().iter() {
            sizes.resize(sizes.len().max(sent.batch + 1), 0);
            sizes[sent.batch] += usize::try_from(sent.requests).unwrap_or(usize::MAX);
        }
        let state = Ordered {
            rows: self.rows().boxed(),
            sizes,
            next: (0, 0),
            waiting: BTreeMap::new(),
            error: None,
            ended: false,
        };
        futures::stream::unfold(state, async |mut state| {
            let item = state.next().await?;
            Some((item, state))
        })
        .boxed()
    }

    /// Outcomes and what happens to the batches, as they come.
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let mut items = router.run_one(BatchRequest::new("openai", colours(3)), Control::default())?.items();
    /// let (mut rows, mut sent) = (0, 0);
    /// while let Some(item) = items.next().await {
    ///     match item? {
    ///         RunItem::Row(_) => rows += 1,
    ///         RunItem::Event(RouterEvent::Sent { .. }) => sent += 1,
    ///         _ => {}
    ///     }
    /// }
    /// assert_eq!((rows, sent), (3, 1));
    /// # Ok(())
    /// # });
    /// ```
    pub fn items(mut self) -> impl Stream<Item = Result<RunItem>> + Send + Unpin + 'static {
        futures::stream::poll_fn(move |cx| match self.early.pop_front() {
            Some(row) => Poll::Ready(Some(Ok(RunItem::Row(row)))),
            None => self.poll_item(cx),
        })
    }

    /// Leaves the batches to their providers; what has come is forgotten and can be collected again.
    pub(crate) fn leave(mut self) {
        self.keep = true;
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<RunItem>>> {
        if let Some(driver) = &mut self.driver
            && let Poll::Ready(end) = driver.as_mut().poll(cx)
        {
            self.driver = None;
            if let Ok(end) = &end {
                self.note(end);
            }
            self.end = Some(end);
        }
        let event = self.events.poll_recv(cx);
        if let Poll::Ready(Some(event)) = event {
            return Poll::Ready(Some(Ok(RunItem::Event(event))));
        }
        match self.outcomes.poll_recv(cx) {
            Poll::Ready(Some(row)) => return Poll::Ready(Some(Ok(RunItem::Row(row)))),
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) if self.driver.is_some() || event.is_pending() => {
                return Poll::Pending;
            }
            Poll::Ready(None) => {}
        }
        // The driver has ended and every outcome is out: what is left is why it ended early.
        if std::mem::replace(&mut self.told, true) {
            return Poll::Ready(None);
        }
        Poll::Ready(self.why().map(Err))
    }

    /// What the drive's end says of single batches.
    fn note(&self, end: &DriveEnd) {
        for (chunk, reason) in &end.held {
            let error = Error::new(ErrorKind::NeedsDecision, reason.clone());
            self.board.change(*chunk, |sent| sent.failed = Some(error));
        }
        let stopped = end.stopped.clone().unwrap_or_else(stopped);
        for sent in self.board.lock().iter_mut() {
            if sent.handle.is_none() && !sent.merged && sent.failed.is_none() {
                sent.failed = Some(stopped.clone());
            }
        }
    }

    /// Why not every request has its outcome, where that is so.
    fn why(&self) -> Option<Error> {
        match self.end.as_ref()? {
            Err(error) => Some(error.clone()),
            Ok(end) => end.stopped.clone().or_else(|| match end.held.first() {
                Some((chunk, reason)) => Some(Error::new(
                    ErrorKind::NeedsDecision,
                    format!("batch {chunk}: {reason}"),
                )),
                None if (end.merged as usize) < self.board.lock().len() => Some(stopped()),
                None => None,
            }),
        }
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Cancelled, "stopped before every batch had ended")
}

impl Stream for BatchRun {
    type Item = Result<Outcome>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(row) = this.early.pop_front() {
            return Poll::Ready(Some(Ok(row.outcome)));
        }
        loop {
            return match std::task::ready!(this.poll_item(cx)) {
                // Progress is of no use here.
                Some(Ok(RunItem::Event(_))) => continue,
                Some(Ok(RunItem::Row(row))) => Poll::Ready(Some(Ok(row.outcome))),
                Some(Err(error)) => Poll::Ready(Some(Err(error))),
                None => Poll::Ready(None),
            };
        }
    }
}

impl Drop for BatchRun {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // Their outcomes were handed out.
        for sent in self.board.lock().iter().filter(|sent| sent.merged) {
            if let Some(handle) = &sent.handle {
                self.active.remove(handle);
            }
        }
    }
}

impl fmt::Debug for BatchRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchRun")
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// Rows being put in order.
struct Ordered {
    rows: futures::stream::BoxStream<'static, Result<BatchRow>>,
    /// How many rows each batch has.
    sizes: Vec<usize>,
    next: (usize, usize),
    waiting: BTreeMap<(usize, usize), BatchRow>,
    error: Option<Error>,
    ended: bool,
}

impl Ordered {
    async fn next(&mut self) -> Option<Result<BatchRow>> {
        loop {
            while self
                .sizes
                .get(self.next.0)
                .is_some_and(|size| self.next.1 >= *size)
            {
                self.next = (self.next.0 + 1, 0);
            }
            if let Some(row) = self.waiting.remove(&self.next) {
                self.next.1 += 1;
                return Some(Ok(row));
            }
            if self.ended {
                // Those before them never come.
                return match self.waiting.pop_first() {
                    Some((_, row)) => Some(Ok(row)),
                    None => self.error.take().map(Err),
                };
            }
            match self.rows.next().await {
                Some(Ok(row)) => {
                    self.waiting.insert((row.batch, row.row), row);
                }
                Some(Err(error)) => self.error = Some(error),
                None => self.ended = true,
            }
        }
    }
}
