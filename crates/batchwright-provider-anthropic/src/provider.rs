//! Anthropic as core's two traits: orchestration and nothing else.

use crate::batch::{self, Cursor};
use crate::builder::AnthropicBuilder;
use crate::client::Client;
use crate::config::AnthropicConfig;
use crate::convert::{Form, MESSAGES};
use crate::realtime;
use async_trait::async_trait;
use batchwright_core::{
    BatchHandle, BatchInput, BatchLimits, BatchProvider, BatchSnapshot, BatchSummary, ByteStream,
    CallOptions, Capability, ChatProvider, Error, IdRule, InputRef, ListMark, ListMatch, ListPage,
    Outcome, Request, Response, Result, ResultFile, SealedBatch, SubmissionTag, SubmitError,
};
use std::{fmt, sync::Arc, time::Duration};

/// Anthropic's API: direct calls and Message Batches. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Anthropic(Arc<Inner>);

struct Inner {
    client: Client,
    config: AnthropicConfig,
    name: Arc<str>,
    /// Tells accounts apart and leads back to none.
    account: String,
    capability: Capability,
}

/// Batches belong to a workspace, which the key may choose alone (F-087).
fn account(config: &AnthropicConfig) -> String {
    let workspace = config.workspace.as_deref().unwrap_or_default();
    batchwright_http::account(&[&config.base_url, workspace, config.api_key.expose()])
}

/// What Anthropic can do, read 2026-11-22 in "Batch processing" and "Structured outputs"
/// (<https://platform.claude.com/docs/en/build-with-claude/batch-processing>).
fn capability(config: &AnthropicConfig) -> Capability {
    let endpoints = vec![MESSAGES.to_owned()];
    let mut batch = BatchLimits::new(endpoints.clone(), config.batch_requests, config.batch_bytes);
    batch.input = BatchInput::Inline;
    // Rows of one batch may name several.
    batch.one_model = false;
    batch.custom_id = IdRule::word(64);
    batch.unsupported = &["stream", "speed"];
    batch.discount_percent = Some(50);
    batch.retention = Duration::from_secs(29 * 24 * 3600);
    batch.cancel = true;
    // There is neither a name nor metadata, and the requests themselves are not shown.
    batch.list_match = vec![ListMatch::Requests];
    let mut capability = Capability::default();
    capability.realtime_endpoints = endpoints;
    capability.batch = Some(batch);
    capability.json_schema = true;
    capability.tools = true;
    capability.source =
        "https://platform.claude.com/docs/en/build-with-claude/batch-processing, 2026-11-22";
    capability
}

impl Anthropic {
    /// The settings of a provider with this key.
    pub fn builder(api_key: impl Into<String>) -> AnthropicBuilder {
        AnthropicBuilder::new(api_key)
    }

    /// The provider these settings describe. Nothing is sent.
    ///
    /// # Errors
    /// `ConfigInvalid` as [`AnthropicBuilder::build`].
    pub fn new(config: AnthropicConfig) -> Result<Self> {
        AnthropicBuilder::from(config).build()
    }

    pub(crate) fn assemble(client: Client, config: AnthropicConfig) -> Self {
        Self(Arc::new(Inner {
            client,
            name: Arc::from(&*config.name),
            account: account(&config),
            capability: capability(&config),
            config,
        }))
    }

    /// How many tokens the vendor estimates `request` to put in. Free, with a limit of requests per minute of its
    /// own. Sent once.
    ///
    /// # Errors
    /// Every failure, as of a direct call.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    pub async fn count_tokens(&self, request: &Request) -> Result<u64> {
        realtime::count(&self.0.client, self.form(), request)
            .await
            .map_err(|error| self.ours(error).with_model(&*request.model))
    }

    /// A page of the list of batches, of at most 1,000. Its `next` goes on in the direction of `cursor`.
    ///
    /// # Errors
    /// Every failure to read the list; `InvalidRequest` where the batch the cursor names is not there.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    pub async fn list_batches(&self, cursor: &Cursor) -> Result<ListPage> {
        batch::page(&self.0.client, &self.0.name, cursor, batch::LIST_LIMIT)
            .await
            .map_err(|error| self.ours(error))
    }

    /// Deletes a batch that has ended, with its results. One that is not there is fine.
    ///
    /// # Errors
    /// `Conflict` where it has not ended; every other failure.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the batch is gone; deleting again is harmless.
    pub async fn delete_batch(&self, batch: &BatchHandle) -> Result<()> {
        batch::delete(&self.0.client, batch)
            .await
            .map_err(|error| self.ours(error))
    }

    fn form(&self) -> Form {
        Form::of(&self.0.config)
    }

    /// Says whose error it is.
    fn ours(&self, error: Error) -> Error {
        error.with_provider(self.0.name.clone())
    }
}

#[async_trait]
impl ChatProvider for Anthropic {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn capability(&self) -> &Capability {
        &self.0.capability
    }

    async fn complete(&self, request: &Request, call: &CallOptions) -> Result<Response> {
        realtime::answer(&self.0.client, self.form(), request, call)
            .await
            .map_err(|error| self.ours(error).with_model(&*request.model))
    }
}

#[async_trait]
impl BatchProvider for Anthropic {
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
        crate::convert::endpoint(request).map_err(|error| self.ours(error))
    }

    fn encode(&self, request: &Request, wire_id: &str, line: &mut Vec<u8>) -> Result<()> {
        batch::encode(request, self.form(), wire_id, line).map_err(|error| self.ours(error))
    }

    async fn submit(
        &self,
        batch: &SealedBatch,
        _input: &InputRef,
        _tag: &SubmissionTag,
    ) -> Result<BatchHandle, SubmitError> {
        batch::submit(&self.0.client, &self.0.name, batch)
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
        batch::recent(&self.0.client, &self.0.name)
            .await
            .map_err(|error| self.ours(error))
    }

    async fn list_since(&self, mark: &ListMark) -> Result<Vec<BatchSummary>> {
        batch::list_since(&self.0.client, &self.0.name, mark)
            .await
            .map_err(|error| self.ours(error))
    }
}

impl fmt::Debug for Anthropic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Anthropic").field(&self.0.config).finish()
    }
}
