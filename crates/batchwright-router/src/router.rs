//! Many batches over many providers.

use crate::{
    drive::{ChunkJob, Control, DriveEnd, Driver, RouterEvent, random_bits, random_word},
    memory::{MemoryChunk, MemoryStore},
    options::RouterOptions,
    store::ChunkStore,
};
use batchwright_core::{BatchProvider, Error, ErrorKind, Outcome, PriceTable, Request, Result};
use futures::{Stream, StreamExt, future::BoxFuture};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    hash::RandomState,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::sync::mpsc;

#[cfg(test)]
mod tests;

/// Outcomes that may wait for a slow reader before downloads wait too.
const OUTCOME_BOUND: usize = 256;

/// Buys batches from any number of providers, watches them and hands out outcomes as they come.
///
/// With a [`ChunkStore`] on disk ([`BatchRouter::drive`]) everything survives a crash; in memory
/// ([`BatchRouter::run`]) the same protocol holds within one process.
#[derive(Clone)]
pub struct BatchRouter {
    providers: BTreeMap<String, Arc<dyn BatchProvider>>,
    options: RouterOptions,
    prices: Arc<PriceTable>,
}

/// Requests that go to one provider as one batch: one endpoint and, where the provider wants it, one
/// model.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BatchRequest {
    /// The registered name of the provider.
    pub provider: String,
    /// The requests, each under a `custom_id` of its own.
    pub requests: Vec<Request>,
}

impl BatchRequest {
    /// These requests to this provider.
    pub fn new(provider: impl Into<String>, requests: Vec<Request>) -> Self {
        Self {
            provider: provider.into(),
            requests,
        }
    }
}

impl BatchRouter {
    /// A router without providers, with the built-in price table.
    pub fn new(options: RouterOptions) -> Self {
        Self {
            providers: BTreeMap::new(),
            options,
            prices: Arc::new(PriceTable::builtin()),
        }
    }

    /// Uses these prices for what outcomes cost.
    #[must_use]
    pub fn with_prices(mut self, prices: Arc<PriceTable>) -> Self {
        self.prices = prices;
        self
    }

    /// Registers a provider under its own name.
    ///
    /// # Errors
    /// `ConfigInvalid` where the name is taken, or the provider has no batch API.
    pub fn register(&mut self, provider: Arc<dyn BatchProvider>) -> Result<()> {
        let name = provider.name().to_owned();
        if provider.capability().batch.is_none() {
            return Err(Error::new(
                ErrorKind::ConfigInvalid,
                format!("{name} has no batch API"),
            ));
        }
        if self.providers.contains_key(&name) {
            return Err(Error::new(
                ErrorKind::ConfigInvalid,
                format!("{name} is registered already"),
            ));
        }
        self.providers.insert(name, provider);
        Ok(())
    }

    /// Takes a provider out; batches that run keep it. `None` where there is none of that name.
    pub fn unregister(&mut self, name: &str) -> Option<Arc<dyn BatchProvider>> {
        self.providers.remove(name)
    }

    /// A registered provider.
    pub fn provider(&self, name: &str) -> Option<&Arc<dyn BatchProvider>> {
        self.providers.get(name)
    }

    /// The names of all registered providers, in order.
    pub fn providers(&self) -> impl Iterator<Item = &str> {
        self.providers.keys().map(String::as_str)
    }

    /// Buys every chunk of the stream, watches the batches, keeps their raw results and merges them, all
    /// through `store`. A chunk that is under way already goes on from where its journal says.
    ///
    /// Ends when every chunk has ended, is held for a person, or was stopped through `control`. What it
    /// tells goes to `events`, which must be read or dropped.
    ///
    /// # Errors
    /// `Storage` where the store fails: nothing more is sent then. What stops single chunks, or the
    /// account as a whole, is told by [`DriveEnd`].
    ///
    /// # Cancel safety
    /// Dropping the future in the middle of a create leaves its fate to be reconciled by the next drive
    /// over the same store; nothing is lost or bought twice.
    pub async fn drive(
        &self,
        chunks: impl Stream<Item = Result<ChunkJob>> + Send,
        store: Arc<dyn ChunkStore>,
        control: Control,
        events: mpsc::Sender<RouterEvent>,
    ) -> Result<DriveEnd> {
        let providers = self.providers.clone();
        let chunks = chunks.map(move |job| {
            let job = job?;
            match providers.get(&job.provider) {
                Some(provider) => Ok((job, Arc::clone(provider))),
                None => Err(unknown_providers(&[job.provider.as_str()])),
            }
        });
        Driver::new(store, self.options.clone(), control, events)
            .run(chunks)
            .await
    }

    /// Buys these batches in parallel, in memory, and streams their outcomes as they come, all batches
    /// mixed.
    ///
    /// Nothing is sent before everything was checked.
    ///
    /// # Errors
    /// Before anything is sent: `ConfigInvalid` naming every provider that is not registered;
    /// `InvalidRequest` for an empty batch, a batch over its provider's limits or with several models or
    /// endpoints where one is wanted, or a `custom_id` that stands twice in all batches together;
    /// `Unsupported` for an endpoint no batch can be for.
    pub fn run(&self, batches: Vec<BatchRequest>, control: Control) -> Result<BatchRun> {
        let chunks = self.check(batches)?;
        // A name of its own for each run: an earlier run's batches in the provider's list are not ours.
        let job = random_word(random_bits(&RandomState::new()));
        let jobs: Vec<Result<ChunkJob>> = chunks
            .iter()
            .map(|(number, chunk)| Ok(ChunkJob::new(job.clone(), *number, chunk.provider.name())))
            .collect();
        let batches = jobs.len();
        let (outcomes, outcome_reader) = mpsc::channel(OUTCOME_BOUND);
        let (events, event_reader) = mpsc::channel(OUTCOME_BOUND);
        let store = Arc::new(MemoryStore::new(
            job,
            chunks,
            Arc::clone(&self.prices),
            outcomes,
        ));
        let router = self.clone();
        let driver = async move {
            router
                .drive(futures::stream::iter(jobs), store, control, events)
                .await
        };
        Ok(BatchRun {
            driver: Some(Box::pin(driver)),
            outcomes: outcome_reader,
            events: event_reader,
            batches,
            end: None,
            told: false,
        })
    }

    fn check(&self, batches: Vec<BatchRequest>) -> Result<BTreeMap<u32, MemoryChunk>> {
        let mut missing: Vec<&str> = batches
            .iter()
            .map(|batch| batch.provider.as_str())
            .filter(|name| !self.providers.contains_key(*name))
            .collect();
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            return Err(unknown_providers(&missing));
        }
        let mut ids = HashSet::new();
        let mut chunks = BTreeMap::new();
        for (number, batch) in (1u32..).zip(batches) {
            let provider = Arc::clone(&self.providers[&batch.provider]);
            let endpoint = check_batch(number, &batch, provider.as_ref())?;
            for request in &batch.requests {
                if !ids.insert(request.custom_id.clone()) {
                    let id = &request.custom_id;
                    let message =
                        format!("custom_id {id:?} stands twice; give each request one of its own");
                    return Err(Error::new(ErrorKind::InvalidRequest, message));
                }
            }
            chunks.insert(
                number,
                MemoryChunk {
                    provider,
                    requests: batch.requests,
                    endpoint,
                },
            );
        }
        Ok(chunks)
    }
}

/// Checks one batch against its provider's rules and returns its endpoint.
fn check_batch(number: u32, batch: &BatchRequest, provider: &dyn BatchProvider) -> Result<String> {
    let refuse = |text: String| {
        Err(Error::new(
            ErrorKind::InvalidRequest,
            format!("batch {number}: {text}"),
        ))
    };
    let limits = provider.capability().batch.as_ref();
    let Some(limits) = limits else {
        return refuse(format!("{} has no batch API", batch.provider));
    };
    let Some(first) = batch.requests.first() else {
        return refuse("it has no requests".to_owned());
    };
    let count = batch.requests.len() as u64;
    if count > limits.max_requests {
        return refuse(format!(
            "{count} requests, and {} takes {}; split it",
            batch.provider, limits.max_requests
        ));
    }
    let endpoint = provider.endpoint(first)?.to_owned();
    limits
        .check_endpoint(&endpoint)
        .map_err(|error| error.context(format_args!("batch {number}")))?;
    let mut bytes = 0u64;
    let mut line = Vec::new();
    for request in &batch.requests {
        if provider.endpoint(request)? != endpoint {
            return refuse(format!(
                "requests for several endpoints share a batch, {:?} for one",
                request.custom_id
            ));
        }
        if limits.one_model && request.model != first.model {
            return refuse(format!(
                "requests for several models share a batch, {:?} for one",
                request.custom_id
            ));
        }
        line.clear();
        let id = batchwright_core::WireId::new(
            batchwright_core::WirePrefix::of("check", number, 1),
            bytes,
        );
        provider.encode(request, &id.to_string(), &mut line)?;
        bytes += line.len() as u64 + 1;
    }
    if bytes > limits.max_bytes {
        return refuse(format!(
            "{bytes} bytes, and {} takes {}; split it",
            batch.provider, limits.max_bytes
        ));
    }
    Ok(endpoint)
}

fn unknown_providers(names: &[&str]) -> Error {
    Error::new(
        ErrorKind::ConfigInvalid,
        format!("no such provider is registered: {}", names.join(", ")),
    )
}

impl fmt::Debug for BatchRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchRouter")
            .field("providers", &self.providers.keys())
            .finish_non_exhaustive()
    }
}

/// Outcomes of running batches, as they come; the stream ends when every batch has ended.
///
/// An `Err` item is the last one: it tells why not every request has an outcome. The stream is to be
/// polled within a Tokio runtime. Dropping the run stops
/// sending and polling at once; what was bought goes on at the provider and is not collected.
pub struct BatchRun {
    driver: Option<BoxFuture<'static, Result<DriveEnd>>>,
    outcomes: mpsc::Receiver<Outcome>,
    events: mpsc::Receiver<RouterEvent>,
    batches: usize,
    end: Option<Result<DriveEnd>>,
    /// Whether the reason for an early end was handed out.
    told: bool,
}

impl BatchRun {
    /// How the run ended, once the stream has; `None` before, or where it ended in an error.
    pub fn end(&self) -> Option<&DriveEnd> {
        match &self.end {
            Some(Ok(end)) => Some(end),
            _ => None,
        }
    }
}

impl Stream for BatchRun {
    type Item = Result<Outcome>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(driver) = &mut this.driver
            && let Poll::Ready(end) = driver.as_mut().poll(cx)
        {
            this.driver = None;
            this.end = Some(end);
        }
        // Progress is of no use here; the driver must not wait for anyone to read it.
        while let Poll::Ready(Some(_)) = this.events.poll_recv(cx) {}
        match this.outcomes.poll_recv(cx) {
            Poll::Ready(Some(outcome)) => return Poll::Ready(Some(Ok(outcome))),
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) if this.driver.is_some() => return Poll::Pending,
            Poll::Ready(None) => {}
        }
        // The driver has ended and every outcome is out: what is left is why it ended early.
        if std::mem::replace(&mut this.told, true) {
            return Poll::Ready(None);
        }
        let error = match &this.end {
            Some(Ok(end)) => end.stopped.clone().or_else(|| {
                let (kind, text) = match end.held.first() {
                    Some((chunk, reason)) => {
                        (ErrorKind::NeedsDecision, format!("batch {chunk}: {reason}"))
                    }
                    None if (end.merged as usize) < this.batches => {
                        let text = "stopped before every batch had ended";
                        (ErrorKind::Cancelled, text.to_owned())
                    }
                    None => return None,
                };
                Some(Error::new(kind, text))
            }),
            Some(Err(error)) => Some(error.clone()),
            None => None,
        };
        Poll::Ready(error.map(Err))
    }
}

impl fmt::Debug for BatchRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchRun")
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
