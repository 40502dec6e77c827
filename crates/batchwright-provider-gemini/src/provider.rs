//! Gemini as core's two traits, and its cached contents: orchestration and nothing else.

use crate::batch::{self, Account};
use crate::builder::GeminiBuilder;
use crate::client::Client;
use crate::config::GeminiConfig;
use crate::convert::{EMBED, EMBED_MANY, GENERATE};
use crate::realtime::{self, CachePage, CachedContent, GeminiContext, NewCache, TokenCount, cache};
use async_trait::async_trait;
use batchwright_core::{
    BatchHandle, BatchLimits, BatchProvider, BatchSnapshot, BatchSummary, ByteStream, CallOptions,
    Capability, ChatProvider, Error, IdRule, InputRef, ListMark, ListMatch, Outcome, Request,
    Response, Result, ResultFile, SealedBatch, StoredInput, SubmissionTag, SubmitError,
};
use std::{fmt, sync::Arc, time::Duration};

/// Google's Gemini developer API: direct calls, embeddings, batches, cached contents. Cheap to clone; clones share
/// connections.
#[derive(Clone)]
pub struct Gemini(Arc<Inner>);

struct Inner {
    client: Client,
    config: GeminiConfig,
    name: Arc<str>,
    /// Tells accounts apart and leads back to none.
    account: String,
    capability: Capability,
}

/// Files and batches belong to a project, which the key chooses alone (F-087).
fn account(config: &GeminiConfig) -> String {
    batchwright_http::account(&[&config.base_url, config.api_key.expose()])
}

/// What Gemini can do, read 2026-11-22 in the guide <https://ai.google.dev/gemini-api/docs/batch-api>.
fn capability() -> Capability {
    let owned = |methods: &[&str]| methods.iter().map(|&method| method.to_owned()).collect();
    // A file of 2 GB; some is left free, since how a fuller one fails is not documented. No number of requests is
    // documented either: this one is ours, and at a few hundred tokens a request is more than most tiers may have
    // waiting.
    let mut batch = BatchLimits::new(owned(&[GENERATE, EMBED]), 200_000, 1_900_000_000);
    batch.one_model = true;
    batch.custom_id = IdRule::ANY;
    // The target is a day; what is still waiting or running after two expires, without any result.
    batch.windows = vec![Duration::from_secs(48 * 3600)];
    batch.typical = Some(Duration::from_secs(24 * 3600));
    // Of a project.
    batch.max_open = Some(100);
    // Half the price of a direct call for every model; cached tokens cost the same as there.
    batch.discount_percent = Some(50);
    // Uploads stay 48 h; how long results stay is not documented, so it is reckoned with no more.
    batch.retention = Duration::from_secs(48 * 3600);
    batch.cancel = true;
    batch.list_match = vec![ListMatch::Tag, ListMatch::Input];
    let mut capability = Capability::default();
    capability.realtime_endpoints = owned(&[GENERATE, EMBED_MANY, EMBED]);
    capability.batch = Some(batch);
    capability.json_schema = true;
    capability.tools = true;
    capability.source = "https://ai.google.dev/gemini-api/docs/batch-api, 2026-11-22";
    capability
}

impl Gemini {
    /// The settings of a provider with this key.
    pub fn builder(api_key: impl Into<String>) -> GeminiBuilder {
        GeminiBuilder::new(api_key)
    }

    /// The provider these settings describe. Nothing is sent.
    ///
    /// # Errors
    /// `ConfigInvalid` as [`GeminiBuilder::build`].
    pub fn new(config: GeminiConfig) -> Result<Self> {
        GeminiBuilder::from(config).build()
    }

    pub(crate) fn assemble(client: Client, config: GeminiConfig) -> Self {
        Self(Arc::new(Inner {
            client,
            name: Arc::from(&*config.name),
            account: account(&config),
            capability: capability(),
            config,
        }))
    }

    /// How many tokens a conversation has, with its system message and tools. Free, but it counts as a request.
    /// <https://ai.google.dev/api/tokens>
    ///
    /// # Errors
    /// `Unsupported` for what is no conversation; every failure of the call.
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    pub async fn count_tokens(&self, request: &Request) -> Result<TokenCount> {
        realtime::count(&self.0.client, request)
            .await
            .map_err(|error| self.ours(error).with_model(&*request.model))
    }

    /// Stores the beginning of prompts at the provider. Sent exactly once: storing costs its input tokens, and money
    /// for every hour it is kept. <https://ai.google.dev/gemini-api/docs/caching>
    ///
    /// # Errors
    /// `InvalidRequest` where there is less than the model's least (1,024 tokens, 4,096 for the pro models); every
    /// failure of the call.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether it is stored; it ends by itself then, after its time.
    pub async fn create_cache(&self, cache: &NewCache) -> Result<CachedContent> {
        cache::create(&self.0.client, cache)
            .await
            .map_err(|error| self.ours(error).with_model(&*cache.model))
    }

    /// A cached content by its name, `cachedContents/…`.
    ///
    /// # Errors
    /// `NotFound` or `PermissionDenied` where it is gone; every failure of the call.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    pub async fn cache(&self, name: &str) -> Result<CachedContent> {
        cache::get(&self.0.client, name)
            .await
            .map_err(|error| self.ours(error))
    }

    /// A page of the cached contents, without what they hold; `page_token` is the one before's
    /// [`next_page_token`](CachePage::next_page_token).
    ///
    /// # Errors
    /// Every failure of the call.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    pub async fn caches(&self, page_token: Option<&str>) -> Result<CachePage> {
        cache::list(&self.0.client, page_token)
            .await
            .map_err(|error| self.ours(error))
    }

    /// Lets a cached content live for `ttl` from now on, above zero.
    ///
    /// # Errors
    /// `NotFound` or `PermissionDenied` where it is gone; every failure of the call.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open which time holds; extending again is harmless.
    pub async fn extend_cache(&self, name: &str, ttl: Duration) -> Result<CachedContent> {
        cache::extend(&self.0.client, name, ttl)
            .await
            .map_err(|error| self.ours(error))
    }

    /// Deletes a cached content; one that is gone is fine.
    ///
    /// # Errors
    /// Every failure.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether it is gone; deleting again is harmless.
    pub async fn delete_cache(&self, name: &str) -> Result<()> {
        cache::delete(&self.0.client, name)
            .await
            .map_err(|error| self.ours(error))
    }

    /// The beginning of prompts for the pool to store, renew and delete. Its time is the pool's to say. Nothing is sent.
    ///
    /// # Errors
    /// `InvalidRequest` where the API has no form for it.
    pub fn context(&self, cache: NewCache) -> Result<GeminiContext> {
        GeminiContext::new(self.clone(), cache).map_err(|error| self.ours(error))
    }

    fn buyer(&self) -> Account<'_> {
        Account {
            client: &self.0.client,
            provider: &self.0.name,
            inline_up_to: self.0.config.inline_up_to,
        }
    }

    /// Says whose error it is.
    fn ours(&self, error: Error) -> Error {
        error.with_provider(self.0.name.clone())
    }
}

#[async_trait]
impl ChatProvider for Gemini {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn capability(&self) -> &Capability {
        &self.0.capability
    }

    async fn complete(&self, request: &Request, call: &CallOptions) -> Result<Response> {
        realtime::answer(&self.0.client, self.0.config.stream_above, request, call)
            .await
            .map_err(|error| self.ours(error).with_model(&*request.model))
    }
}

#[async_trait]
impl BatchProvider for Gemini {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn capability(&self) -> &Capability {
        &self.0.capability
    }

    fn account(&self) -> &str {
        &self.0.account
    }

    fn endpoint<'r>(&'r self, request: &'r Request) -> Result<&'r str> {
        batch::endpoint(request).map_err(|error| self.ours(error))
    }

    fn encode(&self, request: &Request, wire_id: &str, line: &mut Vec<u8>) -> Result<()> {
        batch::encode(request, wire_id, line).map_err(|error| self.ours(error))
    }

    async fn upload(&self, batch: &SealedBatch, tag: &SubmissionTag) -> Result<InputRef> {
        batch::upload(self.buyer(), batch, tag)
            .await
            .map_err(|error| self.ours(error))
    }

    async fn find_upload(
        &self,
        batch: &SealedBatch,
        tag: &SubmissionTag,
    ) -> Result<Option<InputRef>> {
        batch::find_upload(self.buyer(), batch, tag)
            .await
            .map_err(|error| self.ours(error))
    }

    async fn submit(
        &self,
        batch: &SealedBatch,
        input: &InputRef,
        tag: &SubmissionTag,
    ) -> Result<BatchHandle, SubmitError> {
        batch::submit(self.buyer(), batch, input, tag)
            .await
            .map_err(|error| error.map(|error| self.ours(error)))
    }

    async fn status(&self, batch: &BatchHandle) -> Result<BatchSnapshot> {
        batch::status(&self.0.client, batch)
            .await
            .map_err(|error| self.ours(error))
    }

    async fn download(&self, file: &ResultFile, offset: u64) -> Result<ByteStream> {
        batch::download(&self.0.client, file, offset)
            .await
            .map_err(|error| self.ours(error))
    }

    fn decode(&self, line: &[u8]) -> Option<Outcome> {
        batch::decode(line, &self.0.name)
    }

    async fn cancel(&self, batch: &BatchHandle) -> Result<()> {
        batch::cancel(&self.0.client, batch)
            .await
            .map_err(|error| self.ours(error))
    }

    async fn recent(&self) -> Result<Vec<BatchSummary>> {
        batch::recent(self.buyer())
            .await
            .map_err(|error| self.ours(error))
    }

    async fn list_since(&self, mark: &ListMark) -> Result<Vec<BatchSummary>> {
        batch::list_since(self.buyer(), mark)
            .await
            .map_err(|error| self.ours(error))
    }

    async fn uploads(&self, job: &str) -> Result<Vec<StoredInput>> {
        batch::uploads(&self.0.client, job)
            .await
            .map_err(|error| self.ours(error))
    }

    async fn discard(&self, input: &InputRef) -> Result<()> {
        batch::discard(&self.0.client, input)
            .await
            .map_err(|error| self.ours(error))
    }
}

impl fmt::Debug for Gemini {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gemini").field(&self.0.config).finish()
    }
}
