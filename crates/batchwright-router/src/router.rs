//! Many batches over many providers.

use crate::{
    RouterEvent,
    active::Active,
    drive::{ChunkJob, Control, DriveEnd, Driver, Shared, random_bits, random_word},
    memory::{MemoryChunk, MemoryStore},
    options::RouterOptions,
    run::{BatchRun, Board, SentBatch},
    spec::{BatchRequest, Part, Rules, unknown_providers},
    store::ChunkStore,
};
use batchwright_core::{BatchProvider, Error, ErrorKind, PriceTable, Request, Result};
use futures::{Stream, StreamExt};
use std::{collections::BTreeMap, fmt, hash::RandomState, sync::Arc};
use tokio::sync::mpsc;
use tracing::debug;

mod batches;

pub use batches::Cancelled;

#[cfg(test)]
mod tests;

/// Outcomes that may wait for a slow reader before downloads wait too.
const OUTCOME_BOUND: usize = 256;

/// Buys batches from any number of providers, watches them and hands out outcomes as they come.
///
/// A clone is the same router: what is registered later is its own, queues and known batches are shared.
///
/// With a [`ChunkStore`] on disk ([`BatchRouter::drive`]) everything survives a crash; in memory
/// ([`BatchRouter::run`]) the same protocol holds within one process.
#[derive(Clone)]
pub struct BatchRouter {
    providers: BTreeMap<String, Arc<dyn BatchProvider>>,
    options: RouterOptions,
    prices: Arc<PriceTable>,
    shared: Shared,
    active: Arc<Active>,
}

impl BatchRouter {
    /// A router without providers, with the built-in price table.
    ///
    /// ```
    /// # use batchwright_router::{BatchRouter, RouterOptions};
    /// let router = BatchRouter::new(RouterOptions::default());
    /// assert_eq!(router.providers().count(), 0);
    /// ```
    pub fn new(options: RouterOptions) -> Self {
        Self {
            providers: BTreeMap::new(),
            options,
            prices: Arc::new(PriceTable::builtin()),
            shared: Shared::default(),
            active: Arc::default(),
        }
    }

    /// Uses these prices for what outcomes cost.
    ///
    /// ```
    /// # use batchwright_core::PriceTable;
    /// # use batchwright_router::{BatchRouter, RouterOptions};
    /// let mut prices = PriceTable::builtin();
    /// let own = r#"{"acme:small": {"realtime": {"input": 1.0, "output": 2.0}, "as_of": "2026-11-22", "source": "contract"}}"#;
    /// prices.overlay(own)?;
    /// let router = BatchRouter::new(RouterOptions::default()).with_prices(prices.into());
    /// # Ok::<(), batchwright_core::Error>(())
    /// ```
    #[must_use]
    pub fn with_prices(mut self, prices: Arc<PriceTable>) -> Self {
        self.prices = prices;
        self
    }

    /// Registers a provider under its own name.
    ///
    /// ```
    /// # use batchwright_provider_openai::OpenAi;
    /// # use batchwright_router::{BatchRouter, RouterOptions};
    /// # use std::sync::Arc;
    /// let mut router = BatchRouter::new(RouterOptions::default());
    /// let openai = Arc::new(OpenAi::builder("no-key").build()?);
    /// router.register(openai.clone())?;
    /// assert!(router.register(openai).is_err(), "its name is taken");
    /// assert_eq!(router.providers().collect::<Vec<_>>(), ["openai"]);
    /// assert!(router.provider("openai").is_some());
    /// assert!(router.unregister("openai").is_some());
    /// assert!(router.unregister("openai").is_none());
    /// # Ok::<(), batchwright_core::Error>(())
    /// ```
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
        debug!(provider = %name, "registered");
        self.providers.insert(name, provider);
        Ok(())
    }

    /// Takes a provider out; batches that run keep it. `None` where there is none of that name. See
    /// [`BatchRouter::register`].
    pub fn unregister(&mut self, name: &str) -> Option<Arc<dyn BatchProvider>> {
        debug!(provider = name, "unregistered");
        self.providers.remove(name)
    }

    /// A registered provider. See [`BatchRouter::register`].
    pub fn provider(&self, name: &str) -> Option<&Arc<dyn BatchProvider>> {
        self.providers.get(name)
    }

    /// The names of all registered providers, in order. See [`BatchRouter::register`].
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
        Driver::new(
            store,
            self.options.clone(),
            control,
            events,
            self.shared.clone(),
        )
        .with_prices(Arc::clone(&self.prices))
        .run(chunks)
        .await
    }

    /// Checks these batches as [`BatchRouter::run`] does before it sends anything. Pure: nothing is sent or kept.
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let batches = [
    ///     BatchRequest::new("openai", colours(3)),
    ///     BatchRequest::new("acme", shapes(2)),
    ///     BatchRequest::new("zenith", shapes(2)),
    /// ];
    /// let error = router.validate(&batches).unwrap_err();
    /// assert_eq!(error.message(), "no such provider is registered: acme, zenith");
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// `ConfigInvalid` naming every provider that is not registered; `InvalidRequest` for an empty batch or `custom_id`,
    /// an id that stands twice ([`RouterOptions::unique_ids`]), and for a batch over its provider's limits or with several
    /// models or endpoints where one is wanted, or, where such are cut ([`RouterOptions::split`]), a request that fits
    /// into no batch alone; `Unsupported` for an endpoint no batch can be for, and for a request its provider has no
    /// form for.
    pub fn validate(&self, batches: &[BatchRequest]) -> Result<()> {
        self.plan(batches).map(drop)
    }

    /// Buys these batches in parallel, in memory, and streams their outcomes as they come, all batches mixed.
    ///
    /// Nothing is sent before everything was checked, and nothing before the stream is polled.
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let batches = vec![BatchRequest::new("openai", colours(3)), BatchRequest::new("openai", shapes(2))];
    /// let mut run = router.run(batches, Control::default())?;
    /// while let Some(outcome) = run.next().await {
    ///     let outcome = outcome?;
    ///     println!("{}: {}", outcome.custom_id, outcome.ending.as_str());
    /// }
    /// assert_eq!(run.end().map(|end| end.merged), Some(2));
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// Those of [`BatchRouter::validate`], before anything is sent.
    pub fn run(&self, batches: Vec<BatchRequest>, control: Control) -> Result<BatchRun> {
        let parts = self.plan(&batches)?;
        // A name of its own for each run: an earlier run's batches in the provider's list are not ours.
        let job = random_word(random_bits(&RandomState::new()));
        let mut requests: Vec<Vec<Option<Request>>> = Vec::with_capacity(batches.len());
        let mut metadata = Vec::with_capacity(batches.len());
        for batch in batches {
            requests.push(batch.requests.into_iter().map(Some).collect());
            metadata.push(batch.metadata);
        }
        let mut jobs = Vec::with_capacity(parts.len());
        let mut sent = Vec::with_capacity(parts.len());
        let mut chunks = BTreeMap::new();
        for (number, part) in (1u32..).zip(parts) {
            let name = part.provider.name().to_owned();
            let job = ChunkJob::new(job.clone(), number, name.as_str());
            jobs.push(Ok(job.with_load(part.model.clone(), part.tokens)));
            let words: BTreeMap<String, String> = metadata[part.batch].clone();
            sent.push(SentBatch {
                chunk: number,
                batch: part.batch,
                provider: name,
                model: part.model,
                requests: part.rows.len() as u64,
                metadata: words.clone(),
                handle: None,
                status: None,
                merged: false,
                failed: None,
            });
            let of = &mut requests[part.batch];
            let chunk = MemoryChunk {
                requests: part.rows.iter().filter_map(|row| of[*row].take()).collect(),
                provider: part.provider,
                rows: part.rows,
                batch: part.batch,
                endpoint: part.endpoint,
                metadata: words,
            };
            chunks.insert(number, chunk);
        }
        let (outcomes, outcome_reader) = mpsc::channel(OUTCOME_BOUND);
        let (events, event_reader) = mpsc::channel(OUTCOME_BOUND);
        let board = Arc::new(Board::new(sent));
        let store = Arc::new(MemoryStore::new(
            job,
            chunks,
            Arc::clone(&self.prices),
            outcomes,
            Arc::clone(&board),
            Arc::clone(&self.active),
        ));
        let router = self.clone();
        let driver = async move {
            router
                .drive(futures::stream::iter(jobs), store, control, events)
                .await
        };
        Ok(BatchRun::new(
            Box::pin(driver),
            outcome_reader,
            event_reader,
            board,
            Arc::clone(&self.active),
        ))
    }

    /// Buys one batch, as [`BatchRouter::run`] does many.
    ///
    /// ```
    /// # mod docs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/sandbox.rs")); } use docs::*;
    /// # block_on(async {
    /// # let (emulator, router) = sandbox().await?;
    /// let run = router.run_one(BatchRequest::new("openai", colours(3)), Control::default())?;
    /// assert_eq!(run.count().await, 3);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// Those of [`BatchRouter::validate`], before anything is sent.
    pub fn run_one(&self, batch: BatchRequest, control: Control) -> Result<BatchRun> {
        self.run(vec![batch], control)
    }

    /// The batches these requests make, everything checked.
    fn plan(&self, batches: &[BatchRequest]) -> Result<Vec<Part>> {
        let limits = &self.options.queue_limits;
        let rules = Rules {
            providers: &self.providers,
            unique: self.options.unique_ids,
            split: self.options.split,
            queue_tokens: &|name| limits.get(name)?.max_enqueued_tokens,
            prices: &self.prices,
        };
        rules.plan(batches)
    }
}

impl fmt::Debug for BatchRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchRouter")
            .field("providers", &self.providers.keys())
            .finish_non_exhaustive()
    }
}
