//! The shell around [`Submission`]: does what the machine names, one task per chunk.

use crate::{
    RouterEvent,
    options::RouterOptions,
    patience::Patience,
    polls::Polls,
    queue::{Seat, SharedQueue},
    store::{ChunkStore, Merge},
    submission::{Close, Effect, Event, Others, Submission, Terms},
};
use batchwright_core::{
    BatchProvider, BatchSnapshot, BatchStatus, BatchSummary, Error, ErrorKind, JournalEntry,
    JournalEvent, PriceTable, Result, RetryClass, SubmissionTag, SubmitError, Timestamp,
};
use futures::{Stream, StreamExt};
use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

mod bill;
mod linger;
mod room;

use linger::Ended;
use room::{leads_to_create, no_room, noticed};

#[cfg(test)]
mod tests;

/// A sealed chunk to be bought.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChunkJob {
    /// The job's short name, 1 to 10 of `a-z` and `0-9`; part of every tag.
    pub job: String,
    /// The chunk's number within the job.
    pub chunk: u32,
    /// The provider it is for.
    pub provider: String,
    /// Whether it is part of an input that was refused, sent to find out which of its rows that was for: that it
    /// is refused too says nothing about other chunks. Default false.
    pub search: bool,
    /// The model whose queue its batch waits in and about how many tokens go in, where the caller knows; else the
    /// store's sealed lines tell.
    pub load: Option<(String, u64)>,
}

impl ChunkJob {
    /// Chunk number `chunk` of `job`, for `provider`.
    pub fn new(job: impl Into<String>, chunk: u32, provider: impl Into<String>) -> Self {
        Self {
            job: job.into(),
            chunk,
            provider: provider.into(),
            search: false,
            load: None,
        }
    }

    /// Sets the model whose queue its batch waits in, and about how many tokens go in.
    #[must_use]
    pub fn with_load(mut self, model: impl Into<String>, tokens: u64) -> Self {
        self.load = Some((model.into(), tokens));
        self
    }

    /// Sets whether it is part of an input that was refused.
    #[must_use]
    pub fn with_search(mut self, search: bool) -> Self {
        self.search = search;
        self
    }
}

/// The caller's hand on a drive.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Control {
    /// Stops sending and polling; batches go on at their providers, and a later drive goes on from there.
    pub stop: CancellationToken,
    /// Cancels every batch at its provider and collects what had been answered.
    pub cancel: CancellationToken,
}

/// How a drive ended.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DriveEnd {
    /// Chunks whose rows all have an outcome.
    pub merged: u32,
    /// Chunks that go on in a later drive.
    pub unfinished: u32,
    /// Chunks for which a person must decide, and why.
    pub held: Vec<(u32, String)>,
    /// Why sending stopped, where it did not stop by request.
    pub stopped: Option<Error>,
}

enum ChunkEnd {
    Merged,
    /// Merged, and so many were refused like it that nothing more is bought.
    Refused(Error),
    Unfinished,
    Held(String),
    Stopped(Error),
}

/// What all drives of a router share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared {
    pub(crate) queue: Arc<SharedQueue>,
    pub(crate) polls: Arc<Polls>,
}

/// What every chunk's task shares.
pub(crate) struct Driver {
    pub(crate) store: Arc<dyn ChunkStore>,
    pub(crate) options: RouterOptions,
    pub(crate) control: Control,
    pub(crate) events: mpsc::Sender<RouterEvent>,
    transfers: Semaphore,
    shared: Shared,
    prices: Arc<PriceTable>,
    verdict: Mutex<Verdict>,
    /// How many requests each chunk holds, where that was asked.
    sizes: Mutex<HashMap<u32, u64>>,
    /// Tags of this job's other chunks that its journal knows.
    tags: Mutex<HashSet<SubmissionTag>>,
    /// Chunks that have ended and are still looked at.
    lingering: Mutex<Vec<Ended>>,
    all_ended: CancellationToken,
    /// Nothing more is bought; what was bought is polled and collected all the same.
    closed: CancellationToken,
    started: Instant,
    random: RandomState,
}

/// What this drive's ended batches say about those to come.
#[derive(Default)]
struct Verdict {
    /// Whether any had results.
    any_results: bool,
    /// What the last refused chunk was refused for, and how many were for the same in a row.
    refused_for: String,
    alike: u32,
}

/// Chunks refused alike before any had results, after which nothing more is bought: the next ones would end
/// the same way (F-027).
const MAX_ALIKE: u32 = 2;

impl Verdict {
    /// One more refused chunk; the error is the reason to stop.
    fn refused(&mut self, error: &Error) -> Option<Error> {
        // A code stands for what differs only in its line.
        let reason = error.code().unwrap_or(error.message());
        if self.refused_for != reason {
            self.refused_for = reason.to_owned();
            self.alike = 0;
        }
        self.alike += 1;
        (self.alike >= MAX_ALIKE && !self.any_results).then(|| {
            error
                .clone()
                .with_class(RetryClass::JobStop)
                .context(format_args!("{} chunks were refused alike", self.alike))
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Driver {
    pub(crate) fn new(
        store: Arc<dyn ChunkStore>,
        options: RouterOptions,
        control: Control,
        events: mpsc::Sender<RouterEvent>,
        shared: Shared,
    ) -> Self {
        let transfers = Semaphore::new(options.max_transfers.max(1));
        Self {
            store,
            options,
            // Stopping this drive must not stop what else hangs on the caller's token.
            control: Control {
                stop: control.stop.child_token(),
                cancel: control.cancel,
            },
            events,
            transfers,
            shared,
            prices: Arc::default(),
            verdict: Mutex::default(),
            sizes: Mutex::default(),
            tags: Mutex::default(),
            lingering: Mutex::default(),
            all_ended: CancellationToken::new(),
            closed: CancellationToken::new(),
            started: Instant::now(),
            random: RandomState::new(),
        }
    }

    /// Uses these prices for what surplus batches cost.
    pub(crate) fn with_prices(mut self, prices: Arc<PriceTable>) -> Self {
        self.prices = prices;
        self
    }

    /// Drives every chunk of the stream to its end. Dropping the future leaves every chunk where its
    /// journal says.
    pub(crate) async fn run(
        self,
        chunks: impl Stream<Item = Result<(ChunkJob, Arc<dyn BatchProvider>)>> + Send,
    ) -> Result<DriveEnd> {
        let driver = Arc::new(self);
        let mut chunks = std::pin::pin!(chunks.fuse());
        let mut open: JoinSet<Result<(u32, ChunkEnd)>> = JoinSet::new();
        let mut lingering = JoinSet::new();
        let watch = Arc::clone(&driver);
        lingering.spawn(async move { watch.linger().await });
        let mut numbers = HashSet::new();
        let mut end = DriveEnd::default();
        let mut failed = None;
        let mut source = true;
        loop {
            let room = source && open.len() < driver.options.max_open_batches.max(1);
            if !source && open.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some(ended) = open.join_next(), if !open.is_empty() => {
                    let ended = ended.unwrap_or_else(|panic| {
                        Err(Error::new(ErrorKind::Unexpected, "a chunk's task panicked")
                            .with_source(panic))
                    });
                    let (chunk, ended) = match ended {
                        Ok(ended) => ended,
                        Err(error) => {
                            driver.control.stop.cancel();
                            failed.get_or_insert(error);
                            continue;
                        }
                    };
                    numbers.remove(&chunk);
                    match ended {
                        ChunkEnd::Merged => end.merged += 1,
                        ChunkEnd::Refused(error) => {
                            end.merged += 1;
                            end.stopped.get_or_insert(error);
                        }
                        ChunkEnd::Unfinished => end.unfinished += 1,
                        ChunkEnd::Held(reason) => end.held.push((chunk, reason)),
                        ChunkEnd::Stopped(error) => {
                            end.unfinished += 1;
                            end.stopped.get_or_insert(error);
                        }
                    }
                }
                () = driver.control.stop.cancelled(), if source => source = false,
                () = driver.closed.cancelled(), if source => source = false,
                next = chunks.next(), if room => match next {
                    Some(Ok((job, _))) if !numbers.insert(job.chunk) => {
                        // Two of one chunk at once would be two buyers.
                        driver.control.stop.cancel();
                        failed.get_or_insert_with(|| {
                            let message = format!("chunk {} was handed in twice", job.chunk);
                            Error::new(ErrorKind::Unexpected, message)
                        });
                    }
                    Some(Ok((job, provider))) => {
                        let driver = Arc::clone(&driver);
                        open.spawn(async move {
                            let chunk = job.chunk;
                            let ended = driver.chunk(job, provider).await;
                            driver.tell(RouterEvent::Ended { chunk }).await;
                            let hopeless = match &ended {
                                Err(_) => true,
                                Ok(ChunkEnd::Stopped(error)) => error.is_job_stop(),
                                Ok(_) => false,
                            };
                            if hopeless {
                                // Nothing can be recorded, or nobody can be served: no chunk sends more.
                                // Creates under way are waited for, since their answers may still be
                                // recorded.
                                driver.control.stop.cancel();
                            }
                            ended.map(|ended| (chunk, ended))
                        });
                    }
                    Some(Err(error)) => {
                        driver.control.stop.cancel();
                        end.stopped.get_or_insert(error);
                    }
                    None => source = false,
                },
            }
        }
        driver.all_ended.cancel();
        while let Some(watched) = lingering.join_next().await {
            if let Ok(Err(error)) = watched {
                failed.get_or_insert(error);
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(end),
        }
    }

    async fn chunk(&self, job: ChunkJob, provider: Arc<dyn BatchProvider>) -> Result<ChunkEnd> {
        let chunk = job.chunk;
        let entries = self.store.entries(chunk).await?;
        let limits = provider.capability().batch.as_ref();
        let wall = Timestamp::from(SystemTime::now());
        let mut machine = Submission::restore(
            entries
                .into_iter()
                .map(|entry| (wall.since(entry.at), entry.event)),
            limits.map(Terms::of).unwrap_or_default(),
            self.options.clone(),
            self.now(),
        );
        let end = self.work(&job, &mut machine, &provider).await?;
        if let ChunkEnd::Held(reason) = &end {
            let reason = reason.clone();
            self.tell(RouterEvent::Held { chunk, reason }).await;
        }
        if matches!(end, ChunkEnd::Merged | ChunkEnd::Held(_)) {
            self.keep_in_view(Ended {
                job,
                provider,
                machine,
            });
        }
        Ok(end)
    }

    /// Does what the machine names until it names nothing more.
    async fn work(
        &self,
        job: &ChunkJob,
        machine: &mut Submission,
        provider: &Arc<dyn BatchProvider>,
    ) -> Result<ChunkEnd> {
        let chunk = job.chunk;
        let limits = provider.capability().batch.as_ref();
        let mut refused_alike = None;
        let mut patience = Patience::default();
        let mut seat = None;
        if machine.holds_create()
            // What was bought is collected also where its lines cannot be read any more.
            && let Ok(mut taken) = self.seat(job, machine, provider.as_ref()).await
        {
            taken.occupy(machine.takes_room());
            seat = Some(taken);
        }
        loop {
            if self.control.cancel.is_cancelled() {
                machine.on(Event::CancelRequested, self.now(), 0.0);
            }
            let effect = machine.next(self.now());
            let stopped = self.control.stop.is_cancelled()
                || (self.closed.is_cancelled() && is_purchase(&effect));
            let effect = if stopped {
                match effect {
                    // A fact that is known is written down, whatever else stops; an intent can wait.
                    Effect::Persist(fact) if !is_intent(&fact) => Some(Effect::Persist(fact)),
                    effect @ (Effect::Done | Effect::Stop(_)) => Some(effect),
                    // Its intent is durable, and that it was not sent saves the next drive the search.
                    Effect::Submit { .. } => {
                        let error = Error::new(ErrorKind::Cancelled, "stopped before it was sent")
                            .with_class(RetryClass::NotSent);
                        machine.on(
                            Event::Submitted(Err(SubmitError::NotSent(error))),
                            self.now(),
                            0.0,
                        );
                        continue;
                    }
                    _ => None,
                }
            } else {
                Some(effect)
            };
            let Some(effect) = effect else {
                // What is left is about surplus batches only.
                return Ok(match (machine.is_merged(), machine.held()) {
                    (true, _) => ChunkEnd::Merged,
                    (_, Some(reason)) => ChunkEnd::Held(reason.to_owned()),
                    _ => ChunkEnd::Unfinished,
                });
            };
            let is_aside = machine.is_aside();
            // What says when the next create may go is the account of the queue, here and nowhere else.
            let refused = seat.as_ref().is_some_and(Seat::was_refused);
            let waits_for_room = refused && matches!(effect, Effect::WaitUntil(_));
            if waits_for_room || leads_to_create(&effect) {
                let seat = match &mut seat {
                    Some(seat) => seat,
                    None => seat.insert(self.seat(job, machine, provider.as_ref()).await?),
                };
                if !seat.is_taken() {
                    self.take_room(chunk, seat).await;
                    if seat.is_taken() && waits_for_room {
                        machine.on(Event::Woken, self.now(), 0.0);
                    }
                    continue;
                }
            }
            let event = match effect {
                Effect::Done => {
                    return Ok(match machine.held() {
                        Some(reason) => ChunkEnd::Held(reason.to_owned()),
                        None => refused_alike.map_or(ChunkEnd::Merged, ChunkEnd::Refused),
                    });
                }
                Effect::Stop(error) => return Ok(ChunkEnd::Stopped(error)),
                Effect::Persist(fact) => {
                    self.persist(chunk, fact.clone()).await?;
                    match &fact {
                        JournalEvent::Created { handle, .. }
                        | JournalEvent::Adopted { handle, .. } => {
                            let handle = handle.clone();
                            self.tell(RouterEvent::Sent { chunk, handle }).await;
                        }
                        JournalEvent::Merged { rows } => {
                            self.tell(RouterEvent::Merged { chunk, rows: *rows }).await;
                        }
                        JournalEvent::Surplus { handle, .. } => {
                            let handle = handle.clone();
                            self.tell(RouterEvent::Surplus { chunk, handle }).await;
                        }
                        JournalEvent::SurplusEnded {
                            handle, rows, cost, ..
                        } => {
                            self.tell(RouterEvent::SurplusEnded {
                                chunk,
                                handle: handle.clone(),
                                rows: *rows,
                                cost: *cost,
                            })
                            .await;
                        }
                        _ => {}
                    }
                    Event::Persisted(fact)
                }
                Effect::WaitUntil(instant) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(self.started + instant) => {}
                        () = self.control.stop.cancelled() => {}
                        () = self.closed.cancelled(), if !self.closed.is_cancelled() => {}
                        () = self.control.cancel.cancelled(), if !self.control.cancel.is_cancelled() => {}
                    }
                    Event::Woken
                }
                effect => {
                    // What is neither paid nor merged may be dropped in the middle and done again.
                    let refused = match &effect {
                        Effect::Close(Close::Refused(error, _)) => Some(error.clone()),
                        _ => None,
                    };
                    let lasting = matches!(
                        effect,
                        Effect::Submit { .. }
                            | Effect::Cancel { .. }
                            | Effect::Merge { .. }
                            | Effect::Close(_)
                    );
                    let event = tokio::select! {
                        biased;
                        event = self.perform(job, machine, provider, effect) => event?,
                        () = self.control.stop.cancelled(), if !lasting => {
                            return Ok(ChunkEnd::Unfinished);
                        }
                    };
                    if let Some(error) = refused.filter(|_| !job.search) {
                        refused_alike = lock(&self.verdict).refused(&error);
                        if refused_alike.is_some() {
                            self.closed.cancel();
                        }
                    }
                    event
                }
            };
            self.observe(chunk, &event).await;
            if let (Event::Polled(Ok(snapshot)), Some(limits), false) = (&event, limits, is_aside) {
                let wall = Timestamp::from(SystemTime::now());
                for notice in patience.see(snapshot, limits, self.now(), wall) {
                    self.tell(noticed(chunk, snapshot, notice)).await;
                }
            }
            match &event {
                Event::Listed(Ok(_)) if machine.wants_others() => {
                    machine.set_others(self.others(chunk).await?);
                }
                Event::Recent(Ok(recent)) => {
                    let strangers = self.strangers(job, recent).await?;
                    machine.set_others(Others {
                        strangers,
                        ..Others::default()
                    });
                }
                _ => {}
            }
            machine.set_alone(seat.as_ref().is_none_or(Seat::may_never_fit));
            if let (Some(seat), Some((limit, wait))) =
                (&mut seat, no_room(&event).filter(|_| !is_aside))
            {
                seat.refused(limit, self.options.queue_wait.max(wait));
            }
            let held = machine.holds_create();
            machine.on(event, self.now(), self.random());
            if machine.has_second_buyer() {
                // Whoever it is does not read this journal: no chunk is bought beside them.
                self.closed.cancel();
            }
            if let Some(seat) = &mut seat {
                if held && !machine.holds_create() {
                    seat.release();
                }
                if machine.takes_room() {
                    seat.let_in();
                }
            }
        }
    }

    /// What tells this chunk's batch from others. Read after the list, so that whatever that shows of another
    /// chunk of this journal is either recorded by now or unclear.
    async fn others(&self, chunk: u32) -> Result<Others> {
        let requests = self.size(chunk).await?;
        let purchases = self.store.purchases().await?;
        let mut unclear = false;
        for other in purchases.unclear.iter().filter(|other| **other != chunk) {
            unclear |= self.size(*other).await? == requests;
        }
        let others = |(other, id): (u32, String)| (other != chunk).then_some(id);
        Ok(Others {
            requests,
            known: purchases.batches.into_iter().map(|(_, id)| id).collect(),
            taken: purchases.taken.into_iter().filter_map(others).collect(),
            unclear,
            strangers: Vec::new(),
        })
    }

    /// How many requests a chunk holds, of whatever attempt.
    async fn size(&self, chunk: u32) -> Result<u64> {
        if let Some(known) = lock(&self.sizes).get(&chunk) {
            return Ok(*known);
        }
        let requests = self.store.sealed(chunk, 1).await?.requests;
        lock(&self.sizes).insert(chunk, requests);
        Ok(requests)
    }

    /// Batches of this job's other chunks that its journal does not know, and no person either: a copy of the folder
    /// buys beside us (F-154). The journal is read after the list, and knows a tag before a batch can have it.
    async fn strangers(&self, job: &ChunkJob, recent: &[BatchSummary]) -> Result<Vec<String>> {
        let mut strangers = Vec::new();
        for summary in recent {
            let Some(tag) = &summary.tag else { continue };
            let is_other = tag.job() == job.job && tag.chunk() != job.chunk;
            if !is_other || summary.status == BatchStatus::Failed || lock(&self.tags).contains(tag)
            {
                continue;
            }
            let entries = self.store.entries(tag.chunk()).await?;
            let known = entries.into_iter().filter_map(|entry| match entry.event {
                JournalEvent::UploadIntent { tag } | JournalEvent::CreateIntent { tag, .. } => {
                    Some(tag)
                }
                _ => None,
            });
            let mut tags = lock(&self.tags);
            tags.extend(known);
            if !tags.contains(tag) {
                strangers.push(summary.handle.id.clone());
            }
        }
        if !strangers.is_empty() {
            let acknowledged = self.store.purchases().await?.acknowledged;
            strangers.retain(|id| !acknowledged.contains(id));
        }
        Ok(strangers)
    }

    /// Does one effect. An `Err` is a failure of the store.
    async fn perform(
        &self,
        job: &ChunkJob,
        machine: &Submission,
        provider: &Arc<dyn BatchProvider>,
        effect: Effect,
    ) -> Result<Event> {
        let chunk = job.chunk;
        let event = match effect {
            Effect::Mint { attempt } => Event::Minted(SubmissionTag::new(
                &job.job,
                chunk,
                attempt,
                &random_word(random_bits(&self.random)),
            )?),
            Effect::FindUpload { tag } => {
                let batch = self.store.sealed(chunk, tag.attempt()).await?;
                Event::Found(provider.find_upload(&batch, &tag).await)
            }
            Effect::Upload { tag } => {
                let batch = self.store.sealed(chunk, tag.attempt()).await?;
                let _permit = self.transfers.acquire().await;
                Event::Uploaded(provider.upload(&batch, &tag).await)
            }
            Effect::Recent => Event::Recent(provider.recent().await),
            Effect::Submit { tag, input } => {
                let batch = match self.store.sealed(chunk, tag.attempt()).await {
                    Ok(batch) => batch,
                    Err(error) => {
                        return Ok(Event::Submitted(Err(SubmitError::NotSent(error))));
                    }
                };
                debug!(chunk, tag = %tag, "create the batch");
                Event::Submitted(provider.submit(&batch, &input, &tag).await)
            }
            Effect::List { mark } => Event::Listed(provider.list_since(&mark).await),
            Effect::Discard { input } => Event::Discarded(provider.discard(&input).await),
            Effect::Poll { handle } => {
                let polls = &self.shared.polls;
                let result = polls.status(provider.as_ref(), &handle).await;
                if let Ok(snapshot) = &result
                    && !machine.is_aside()
                {
                    self.tell(RouterEvent::Status {
                        chunk,
                        handle,
                        status: snapshot.status.clone(),
                        counts: snapshot.counts,
                    })
                    .await;
                }
                Event::Polled(result)
            }
            Effect::Cancel { handle } => {
                let result = provider.cancel(&handle).await;
                if let Err(error) = &result {
                    // A refusal is no news: the batch may have ended, which the next poll tells.
                    debug!(chunk, kind = %error.kind(), status = error.status(), "cancel the batch");
                }
                Event::Cancelled(result)
            }
            Effect::Collect { snapshot, fresh } => {
                let attempt = machine.attempt();
                match self
                    .collect(chunk, attempt, provider.as_ref(), &snapshot, fresh)
                    .await
                {
                    Err(error) if error.kind() == ErrorKind::Storage => return Err(error),
                    result => Event::KeptAll(result),
                }
            }
            Effect::Bill {
                tag,
                snapshot,
                number,
            } => Event::Billed(self.bill(job, provider, &tag, &snapshot, number).await?),
            Effect::Merge { handle, rest } => {
                let merge = Merge::Results {
                    provider: Arc::clone(provider),
                    handle,
                    rest,
                };
                let report = self.store.merge(chunk, machine.attempt(), merge).await?;
                lock(&self.verdict).any_results = true;
                Event::Merged {
                    rows: report.rows,
                    missing: report.missing,
                    foreign: report.foreign,
                }
            }
            Effect::Close(close) => {
                let merge = match close {
                    Close::Refused(error, faults) => Merge::Refused { error, faults },
                    Close::Cancelled => Merge::Cancelled,
                };
                let report = self.store.merge(chunk, machine.attempt(), merge).await?;
                Event::Merged {
                    rows: report.rows,
                    missing: 0,
                    foreign: 0,
                }
            }
            Effect::Persist(_) | Effect::WaitUntil(_) | Effect::Done | Effect::Stop(_) => {
                return Err(Error::new(
                    ErrorKind::Unexpected,
                    "an effect reached the wrong place",
                ));
            }
        };
        Ok(event)
    }

    /// Keeps every result file of an ended batch, whatever its state (F-076), but for what is kept already.
    async fn collect(
        &self,
        chunk: u32,
        attempt: u32,
        provider: &dyn BatchProvider,
        snapshot: &BatchSnapshot,
        fresh: bool,
    ) -> Result<()> {
        if fresh {
            self.store.discard(chunk, attempt).await?;
        }
        for file in &snapshot.files {
            if !fresh && self.is_kept(chunk, attempt, snapshot, &file.label).await? {
                continue;
            }
            let _permit = self.transfers.acquire().await;
            let mut offset = self.store.partial(chunk, attempt, &file.label).await?;
            let body = match provider.download(file, offset).await {
                Err(error) if offset > 0 && error.kind() == ErrorKind::Unsupported => {
                    offset = 0;
                    provider.download(file, 0).await?
                }
                body => body?,
            };
            let kept = self
                .store
                .keep(chunk, attempt, &file.label, offset, body)
                .await?;
            let fact = JournalEvent::Downloaded {
                handle: snapshot.handle.clone(),
                label: file.label.clone(),
                file: kept.file,
                sha256: kept.sha256,
                bytes: kept.bytes,
            };
            self.persist(chunk, fact).await?;
        }
        Ok(())
    }

    /// Whether the file of this label is on disk as the batch's newest fact about it says.
    async fn is_kept(
        &self,
        chunk: u32,
        attempt: u32,
        snapshot: &BatchSnapshot,
        named: &str,
    ) -> Result<bool> {
        let entries = self.store.entries(chunk).await?;
        let known = entries.iter().rev().find_map(|entry| match &entry.event {
            JournalEvent::Downloaded {
                handle,
                label,
                sha256,
                bytes,
                ..
            } if label == named && handle.id == snapshot.handle.id => Some((sha256, bytes)),
            _ => None,
        });
        let Some((sha256, bytes)) = known else {
            return Ok(false);
        };
        let kept = self.store.kept(chunk, attempt, named).await?;
        Ok(kept.is_some_and(|kept| kept.sha256 == *sha256 && kept.bytes == *bytes))
    }

    async fn persist(&self, chunk: u32, fact: JournalEvent) -> Result<()> {
        let at = Timestamp::from(SystemTime::now());
        self.store
            .append(vec![JournalEntry::new(chunk, at, fact)])
            .await
    }

    /// Tells of errors that are waited out.
    async fn observe(&self, chunk: u32, event: &Event) {
        let error = match event {
            Event::Found(Err(error))
            | Event::Uploaded(Err(error))
            | Event::Recent(Err(error))
            | Event::Listed(Err(error))
            | Event::Discarded(Err(error))
            | Event::Polled(Err(error))
            | Event::KeptAll(Err(error)) => error,
            Event::Submitted(Err(error)) => error.error(),
            _ => return,
        };
        let waits = match event {
            // For a while these two wait for what may show or be readable later.
            Event::Polled(_) => error.kind() == ErrorKind::NotFound,
            Event::Listed(_) => error.kind() == ErrorKind::Unsupported,
            _ => false,
        };
        if !error.is_retryable() && !waits {
            return;
        }
        // Without the provider's own words, which may repeat what it was sent (F-191).
        warn!(chunk, kind = %error.kind(), status = error.status(), "the chunk waits");
        self.tell(RouterEvent::Waiting {
            chunk,
            error: error.clone(),
        })
        .await;
    }

    /// Nobody has to listen.
    async fn tell(&self, event: RouterEvent) {
        let _ = self.events.send(event).await;
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn random(&self) -> f64 {
        (random_bits(&self.random) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Ten of `a-z` and `0-9`.
pub(crate) fn random_word(mut bits: u64) -> String {
    (0..10)
        .map(|_| {
            let digit = char::from_digit((bits % 36) as u32, 36).expect("below the base");
            bits /= 36;
            digit
        })
        .collect()
}

/// 64 bits nobody else has, from the seeds the standard library draws for its maps.
pub(crate) fn random_bits(random: &RandomState) -> u64 {
    random.hash_one((SystemTime::now(), RandomState::new().hash_one(0u8)))
}

/// Whether the effect leads to a create.
fn is_purchase(effect: &Effect) -> bool {
    match effect {
        Effect::Mint { .. }
        | Effect::FindUpload { .. }
        | Effect::Upload { .. }
        | Effect::Recent
        | Effect::Submit { .. } => true,
        Effect::Persist(fact) => matches!(
            fact,
            JournalEvent::UploadIntent { .. } | JournalEvent::CreateIntent { .. }
        ),
        _ => false,
    }
}

/// Whether the fact only announces an effect.
fn is_intent(fact: &JournalEvent) -> bool {
    matches!(
        fact,
        JournalEvent::UploadIntent { .. }
            | JournalEvent::CreateIntent { .. }
            | JournalEvent::CancelIntent { .. }
    )
}
