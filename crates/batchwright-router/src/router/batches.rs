//! What is done with batches by their handles, also with those of another process.

use super::BatchRouter;
use crate::{
    ActiveBatch, BatchTicket, Control, SentBatch,
    feed::Feed,
    gather::Gather,
    spec::{BatchRequest, unknown_providers},
    wait::{Rhythm, WaitError, WaitOptions},
};
use batchwright_core::{
    BatchHandle, BatchProvider, BatchSnapshot, BatchStatus, BatchSummary, Error, ErrorKind,
    Outcome, Result, Timestamp,
};
use futures::{Stream, StreamExt};
use std::sync::Arc;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

/// Outcomes that may wait for a slow reader before downloads wait too.
const OUTCOME_BOUND: usize = 256;

/// Calls for single batches at the same time.
const AT_ONCE: usize = 16;

/// What a request to cancel came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cancelled {
    /// The provider takes it up; what becomes of it the batch's state tells. What was answered is kept and billed.
    Asked,
    /// The batch had ended already.
    AlreadyEnded,
}

impl BatchRouter {
    /// Buys these batches and returns once each is known to be at its provider, or will not be: in the order their
    /// requests were handed in, each with its handle. Nobody watches them then.
    ///
    /// What it takes to collect them from another process is their ticket ([`BatchRouter::ticket`]). Where a queue is
    /// full this waits for room, watching the batches it sent. Left alone they count no more in the account of the queue,
    /// and one the provider fails for want of room is not sent again: both is what [`BatchRouter::run`] does.
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let batches = vec![BatchRequest::new("openai", colours(3)), BatchRequest::new("openai", shapes(2))];
    /// let sent = router.submit(batches).await?;
    /// let handles: Vec<BatchHandle> = sent.into_iter().filter_map(|sent| sent.handle).collect();
    /// let ended = router.wait_all(&handles, WaitOptions::default()).await?;
    /// assert!(ended.iter().all(|batch| batch.status == BatchStatus::Completed));
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// Before anything is sent, those of [`BatchRouter::validate`]. Of a batch that was not bought
    /// [`SentBatch::failed`] tells, the others being there all the same.
    ///
    /// # Cancel safety
    /// A create that is dropped is of unclear fate: it may be bought and is not known here.
    pub async fn submit(&self, batches: Vec<BatchRequest>) -> Result<Vec<SentBatch>> {
        let mut run = self.run(batches, Control::default())?;
        let sent = run.sent().await?;
        run.leave();
        Ok(sent)
    }

    /// The batch's state. Asking is free.
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let sent = router.submit(vec![BatchRequest::new("openai", colours(3))]).await?;
    /// let handle = sent[0].handle.clone().ok_or("not sent")?;
    /// let snapshot = router.status(&handle).await?;
    /// println!("{} of {:?}", snapshot.status, snapshot.counts);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// `ConfigInvalid` where its provider is not registered; `NotFound` where the provider has no such batch for this
    /// key; every failure of the call. None says that the batch ended.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    pub async fn status(&self, handle: &BatchHandle) -> Result<BatchSnapshot> {
        let provider = self.of(handle)?;
        let snapshot = provider.status(handle).await?;
        self.active.seen(handle, &snapshot.status);
        Ok(snapshot)
    }

    /// The states of many batches, asked for at the same time, in the order of the handles.
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let sent = router.submit(vec![BatchRequest::new("openai", colours(3))]).await?;
    /// let known = sent[0].handle.clone().ok_or("not sent")?;
    /// let mut unknown = known.clone();
    /// unknown.id = "batch_of_nobody".to_owned();
    /// let statuses = router.statuses(&[known, unknown]).await;
    /// assert!(statuses[0].is_ok() && statuses[1].is_err());
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    pub async fn statuses(&self, handles: &[BatchHandle]) -> Vec<Result<BatchSnapshot>> {
        futures::stream::iter(handles)
            .map(|handle| self.status(handle))
            .buffered(AT_ONCE)
            .collect()
            .await
    }

    /// Waits until every batch has ended, and gives their last states in the order of the handles.
    ///
    /// Asks at growing intervals, of many batches by the provider's list. A poll that fails for now ends nothing (F-089).
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let sent = router.submit(vec![BatchRequest::new("openai", colours(3))]).await?;
    /// let handle = sent[0].handle.clone().ok_or("not sent")?;
    /// let impatient = WaitOptions::default().with_timeout(std::time::Duration::ZERO);
    /// let error = router.wait_all(&[handle.clone()], impatient).await.unwrap_err();
    /// assert_eq!(error.late, [handle.clone()]);
    /// // The provider's work goes on, and can be waited for again.
    /// let ended = router.wait_all(&[handle], WaitOptions::default()).await?;
    /// assert_eq!(ended[0].status, BatchStatus::Completed);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// Where the time is up, or a batch cannot be asked after: which have ended, and which are late. Nothing is
    /// cancelled by that.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    pub async fn wait_all(
        &self,
        handles: &[BatchHandle],
        wait: WaitOptions,
    ) -> Result<Vec<BatchSnapshot>, WaitError> {
        let mut rhythm = Rhythm::new(wait, &self.options);
        let started = Instant::now();
        let mut unseen: Vec<Option<Instant>> = vec![None; handles.len()];
        let mut ended: Vec<Option<BatchSnapshot>> = vec![None; handles.len()];
        let mut cause = None;
        loop {
            let open: Vec<usize> = (0..handles.len())
                .filter(|at| ended[*at].is_none())
                .collect();
            let before = open.len();
            let mut polls = futures::stream::iter(open)
                .map(async |at| (at, self.poll(&handles[at]).await))
                .buffer_unordered(AT_ONCE);
            while let Some((at, polled)) = polls.next().await {
                match polled {
                    Ok(snapshot) => {
                        unseen[at] = None;
                        if snapshot.status.is_terminal() {
                            debug!(batch = %snapshot.handle.id, status = %snapshot.status, "ended");
                            ended[at] = Some(snapshot);
                        }
                    }
                    // Not every reader may see it yet (F-086).
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        let since = *unseen[at].get_or_insert_with(Instant::now);
                        if since.elapsed() >= self.options.settle {
                            cause.get_or_insert(error);
                        }
                    }
                    Err(error) if error.is_retryable() => {
                        warn!(kind = %error.kind(), status = error.status(), "a poll failed");
                    }
                    Err(error) => {
                        cause.get_or_insert(error);
                    }
                }
            }
            drop(polls);
            let left = ended.iter().filter(|ended| ended.is_none()).count();
            if left == 0 {
                return Ok(ended.into_iter().flatten().collect());
            }
            match rhythm.next(started.elapsed(), left < before) {
                Some(pause) if cause.is_none() => sleep(pause).await,
                _ => {
                    let late = handles.iter().zip(&ended);
                    return Err(WaitError {
                        late: late
                            .filter(|(_, ended)| ended.is_none())
                            .map(|(handle, _)| handle.clone())
                            .collect(),
                        ended: ended.into_iter().flatten().collect(),
                        cause,
                    });
                }
            }
        }
    }

    /// The outcomes of one batch that has ended, in whatever state: what it answered is given in every one of them, and
    /// each other request ends as the batch did.
    ///
    /// Of a batch this router sent, or knows by its ticket, they come under the caller's ids and one for each request.
    /// Of any other, what its files hold comes under the ids that stand there. Downloads go on from where they broke;
    /// where requests are missing the files are read once more. Reading them again gives the same outcomes.
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let sent = router.submit(vec![BatchRequest::new("openai", colours(3))]).await?;
    /// let handle = sent[0].handle.clone().ok_or("not sent")?;
    /// router.wait_all(&[handle.clone()], WaitOptions::default()).await?;
    /// let mut results = router.results(&handle);
    /// while let Some(outcome) = results.next().await {
    ///     assert!(outcome?.custom_id.starts_with("colour-"));
    /// }
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// As the stream's last item: `Conflict` where the batch has not ended; `ConfigInvalid` where its provider is not
    /// registered; every failure of a call that a while of trying did not overcome.
    pub fn results(
        &self,
        handle: &BatchHandle,
    ) -> impl Stream<Item = Result<Outcome>> + Send + Unpin + 'static {
        let (router, handle) = (self.clone(), handle.clone());
        Feed::new(OUTCOME_BOUND, async move |outcomes| {
            router.gather(handle, outcomes)?.run().await
        })
    }

    /// The outcomes of many batches, all mixed, each with its batch: waits for the end of each as
    /// [`BatchRouter::wait_all`] does and gives its outcomes as soon as they are there.
    ///
    /// A batch that cannot be collected is an `Err` in place of its outcomes; the others come all the same.
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let batches = vec![BatchRequest::new("openai", colours(3)), BatchRequest::new("openai", shapes(2))];
    /// let sent = router.submit(batches).await?;
    /// let handles: Vec<BatchHandle> = sent.into_iter().filter_map(|sent| sent.handle).collect();
    /// let mut results = router.results_all(&handles);
    /// let mut count = 0;
    /// while let Some((handle, outcome)) = results.next().await {
    ///     println!("{}: {}", handle.id, outcome?.ending.as_str());
    ///     count += 1;
    /// }
    /// assert_eq!(count, 5);
    /// # Ok(())
    /// # });
    /// ```
    pub fn results_all(
        &self,
        handles: &[BatchHandle],
    ) -> impl Stream<Item = (BatchHandle, Result<Outcome>)> + Send + Unpin + 'static {
        let router = self.clone();
        let handles = handles.to_vec();
        let feed = Feed::new(OUTCOME_BOUND, async move |sender| {
            // Batches wait side by side; so many are collected at the same time.
            let collecting = tokio::sync::Semaphore::new(router.options.max_transfers.max(1));
            let each = handles.into_iter().map(|handle| {
                let (router, sender, collecting) = (&router, sender.clone(), &collecting);
                async move {
                    let one = std::slice::from_ref(&handle);
                    let waited = router.wait_all(one, WaitOptions::default()).await;
                    if let Err(error) = waited {
                        let _ = sender.send((handle, Err(error.into()))).await;
                        return;
                    }
                    let _permit = collecting.acquire().await;
                    let mut results = router.results(&handle);
                    while let Some(outcome) = results.next().await {
                        if sender.send((handle.clone(), outcome)).await.is_err() {
                            return;
                        }
                    }
                }
            });
            futures::future::join_all(each).await;
            Ok(())
        });
        feed.filter_map(|item| std::future::ready(item.ok()))
    }

    /// Everything that [`BatchRouter::results_all`] gives, in memory and by batch, in the order of the handles.
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let batches = vec![BatchRequest::new("openai", colours(3)), BatchRequest::new("openai", shapes(2))];
    /// let sent = router.submit(batches).await?;
    /// let handles: Vec<BatchHandle> = sent.into_iter().filter_map(|sent| sent.handle).collect();
    /// let grouped = router.collect_grouped(&handles).await?;
    /// assert_eq!((grouped[0].1.len(), grouped[1].1.len()), (3, 2));
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// The first of any batch.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    pub async fn collect_grouped(
        &self,
        handles: &[BatchHandle],
    ) -> Result<Vec<(BatchHandle, Vec<Outcome>)>> {
        let mut groups: Vec<(BatchHandle, Vec<Outcome>)> = handles
            .iter()
            .map(|handle| (handle.clone(), Vec::new()))
            .collect();
        let mut results = self.results_all(handles);
        while let Some((handle, outcome)) = results.next().await {
            let outcome = outcome?;
            if let Some((_, group)) = groups.iter_mut().find(|(known, _)| *known == handle) {
                group.push(outcome);
            }
        }
        Ok(groups)
    }

    /// Asks for a batch to be cancelled. A request, not a fact: [`BatchRouter::wait_all`] tells how it ended, and what it
    /// had answered can be collected (F-078).
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let sent = router.submit(vec![BatchRequest::new("openai", colours(3))]).await?;
    /// let handle = sent[0].handle.clone().ok_or("not sent")?;
    /// router.cancel(&handle).await?;
    /// router.wait_all(&[handle.clone()], WaitOptions::default()).await?;
    /// assert_eq!(router.cancel(&handle).await?, Cancelled::AlreadyEnded);
    /// // Each request has its outcome all the same.
    /// assert_eq!(router.results(&handle).count().await, 3);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// `ConfigInvalid` where its provider is not registered; `NotFound` where there is no such batch; every failure of
    /// the call.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the cancel was asked for; asking again is harmless.
    pub async fn cancel(&self, handle: &BatchHandle) -> Result<Cancelled> {
        let provider = self.of(handle)?;
        match provider.cancel(handle).await {
            Ok(()) => {
                self.active.seen(handle, &BatchStatus::Cancelling);
                Ok(Cancelled::Asked)
            }
            // It may have ended, or be ended by another cancel (F-025).
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Conflict | ErrorKind::InvalidRequest
                ) =>
            {
                match self.status(handle).await?.status {
                    status if status.is_terminal() => Ok(Cancelled::AlreadyEnded),
                    BatchStatus::Cancelling => Ok(Cancelled::Asked),
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Asks for many batches to be cancelled, at the same time; what came of each is in the order of the handles.
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let batches = vec![BatchRequest::new("openai", colours(3)), BatchRequest::new("openai", shapes(2))];
    /// let sent = router.submit(batches).await?;
    /// let handles: Vec<BatchHandle> = sent.into_iter().filter_map(|sent| sent.handle).collect();
    /// assert!(router.cancel_all(&handles).await.iter().all(Result::is_ok));
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Cancel safety
    /// As [`BatchRouter::cancel`].
    pub async fn cancel_all(&self, handles: &[BatchHandle]) -> Vec<Result<Cancelled>> {
        futures::stream::iter(handles)
            .map(|handle| self.cancel(handle))
            .buffered(AT_ONCE)
            .collect()
            .await
    }

    /// The batches this router bought, or was given tickets of, and has not forgotten.
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// router.submit(vec![BatchRequest::new("openai", colours(3))]).await?;
    /// assert_eq!(router.active().len(), 1);
    /// # Ok(())
    /// # });
    /// ```
    pub fn active(&self) -> Vec<ActiveBatch> {
        self.active.all()
    }

    /// What it takes to collect this batch from another process; `None` where this router does not know it.
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let sent = router.submit(vec![BatchRequest::new("openai", colours(3))]).await?;
    /// let handle = sent[0].handle.clone().ok_or("not sent")?;
    /// let kept = serde_json::to_string(&*router.ticket(&handle).ok_or("not known")?)?;
    /// router.forget(&handle);
    ///
    /// // In another process, with a router of its own:
    /// let handle = router.restore(serde_json::from_str(&kept)?);
    /// let grouped = router.collect_grouped(&[handle]).await?;
    /// assert!(grouped[0].1.iter().any(|outcome| outcome.custom_id == "colour-0"));
    /// # Ok(())
    /// # });
    /// ```
    pub fn ticket(&self, handle: &BatchHandle) -> Option<Arc<BatchTicket>> {
        self.active.ticket(handle)
    }

    /// Makes a batch known that was bought in another process, and gives its handle. See [`BatchRouter::ticket`].
    pub fn restore(&self, ticket: BatchTicket) -> BatchHandle {
        let handle = ticket.handle.clone();
        self.active.insert(ticket);
        handle
    }

    /// Forgets a batch; at its provider nothing changes. Its ticket, where it was known: whoever collects many batches in
    /// one process gives their ids' memory back so. See [`BatchRouter::ticket`].
    pub fn forget(&self, handle: &BatchHandle) -> Option<Arc<BatchTicket>> {
        self.active.remove(handle)
    }

    /// The newest batches in a provider's list, as far as its first page goes: ours, and whoever else's share the
    /// account.
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// router.submit(vec![BatchRequest::new("openai", colours(3))]).await?;
    /// assert_eq!(router.recent("openai").await?.len(), 1);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// `ConfigInvalid` where the provider is not registered; `Unsupported` where it has no list; every failure of the
    /// call.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    pub async fn recent(&self, provider: &str) -> Result<Vec<BatchSummary>> {
        let found = self.provider(provider);
        found
            .ok_or_else(|| unknown_providers(&[provider]))?
            .recent()
            .await
    }

    /// Until when a batch's results are kept, by what its provider documents; `None` where its creation or its provider
    /// is not known (F-130).
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let sent = router.submit(vec![BatchRequest::new("openai", colours(3))]).await?;
    /// let snapshot = router.status(sent[0].handle.as_ref().ok_or("not sent")?).await?;
    /// assert!(router.collect_by(&snapshot) > snapshot.created_at);
    /// # Ok(())
    /// # });
    /// ```
    pub fn collect_by(&self, snapshot: &BatchSnapshot) -> Option<Timestamp> {
        let provider = self.provider(&snapshot.handle.provider)?;
        let limits = provider.capability().batch.as_ref()?;
        crate::patience::collect_by(snapshot, limits)
    }

    /// The provider of a handle.
    fn of(&self, handle: &BatchHandle) -> Result<&Arc<dyn BatchProvider>> {
        self.provider(&handle.provider)
            .ok_or_else(|| unknown_providers(&[&handle.provider]))
    }

    /// The batch's state, which the provider's list may tell.
    async fn poll(&self, handle: &BatchHandle) -> Result<BatchSnapshot> {
        let provider = self.of(handle)?;
        let polls = &self.shared.polls;
        let snapshot = polls.status(provider.as_ref(), handle).await?;
        self.active.seen(handle, &snapshot.status);
        Ok(snapshot)
    }

    fn gather(
        &self,
        handle: BatchHandle,
        outcomes: tokio::sync::mpsc::Sender<Outcome>,
    ) -> Result<Gather, Error> {
        Ok(Gather {
            provider: Arc::clone(self.of(&handle)?),
            ticket: self.active.ticket(&handle),
            options: self.options.clone(),
            prices: Arc::clone(&self.prices),
            handle,
            outcomes,
        })
    }
}
