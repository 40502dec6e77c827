//! Vertex AI as core's two traits: orchestration and nothing else.

use crate::auth::Credentials;
use crate::batch::{self, Places, places};
use crate::builder::VertexBuilder;
use crate::client::Client;
use crate::config::VertexConfig;
use crate::convert::{self, GENERATE};
use crate::realtime;
use async_trait::async_trait;
use batchwright_core::{
    BatchHandle, BatchLimits, BatchProvider, BatchSnapshot, BatchSummary, ByteStream, CallOptions,
    Capability, ChatProvider, Error, IdRule, InputRef, ListMark, ListMatch, Outcome, Request,
    Response, Result, ResultFile, SealedBatch, StoredInput, SubmissionTag, SubmitError,
};
use std::{fmt, sync::Arc, time::Duration};

/// Vertex AI in one project and location: direct calls, and batch prediction jobs where a bucket is set. Cheap to
/// clone; clones share connections and tokens.
#[derive(Clone)]
pub struct Vertex(Arc<Inner>);

struct Inner {
    client: Arc<Client>,
    config: VertexConfig,
    places: Option<Places>,
    name: Arc<str>,
    /// Tells accounts apart and leads back to none.
    account: String,
    capability: Capability,
}

/// What Vertex AI can do, read 2026-11-22 in "Batch inference with Gemini"
/// (<https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-gemini>).
fn capability(batches: bool) -> Capability {
    let mut capability = Capability::default();
    capability.realtime_endpoints = vec![GENERATE.to_owned()];
    if batches {
        // 200,000 requests and 1 GB; a twentieth is left free, since how a fuller object fails is not documented.
        let mut batch = BatchLimits::new(vec![GENERATE.to_owned()], 200_000, 950_000_000);
        batch.one_model = true;
        // Ids of digits alone come back as numbers; ours begin with a letter.
        batch.custom_id = IdRule::ANY;
        batch.unsupported = &["cachedContent"];
        // Up to 72 hours queued and 24 hours running.
        batch.windows = vec![Duration::from_secs(96 * 3600)];
        batch.discount_percent = Some(50);
        // Results are the caller's own objects and stay as long as the caller's bucket keeps them.
        batch.retention = Duration::from_secs(3650 * 24 * 3600);
        batch.cancel = true;
        batch.list_match = vec![ListMatch::Input, ListMatch::Tag];
        capability.batch = Some(batch);
    }
    capability.json_schema = true;
    capability.tools = true;
    capability.source = "https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-gemini, 2026-11-22";
    capability
}

impl Vertex {
    /// The settings of a provider in this project and location.
    pub fn builder(
        project: impl Into<String>,
        location: impl Into<String>,
        credentials: Credentials,
    ) -> VertexBuilder {
        VertexBuilder::new(project, location, credentials)
    }

    /// The provider these settings describe. Nothing is sent.
    ///
    /// # Errors
    /// `ConfigInvalid` as [`VertexBuilder::build`].
    pub fn new(config: VertexConfig) -> Result<Self> {
        VertexBuilder::from(config).build()
    }

    pub(crate) fn assemble(client: Client, config: VertexConfig) -> Self {
        // Jobs belong to project and location, whoever's credentials made them (F-087).
        let account =
            batchwright_http::account(&[&config.base_url, &config.project, &config.location]);
        let places = Places::of(&config);
        Self(Arc::new(Inner {
            client: Arc::new(client),
            name: Arc::from(&*config.name),
            account,
            capability: capability(places.is_some()),
            places,
            config,
        }))
    }

    fn places(&self) -> Result<&Places> {
        places(self.0.places.as_ref())
    }

    /// Says whose error it is.
    fn ours(&self, error: Error) -> Error {
        error.with_provider(self.0.name.clone())
    }
}

#[async_trait]
impl ChatProvider for Vertex {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn capability(&self) -> &Capability {
        &self.0.capability
    }

    async fn complete(&self, request: &Request, call: &CallOptions) -> Result<Response> {
        realtime::answer(&self.0.client, request, call)
            .await
            .map_err(|error| self.ours(error).with_model(&*request.model))
    }
}

#[async_trait]
impl BatchProvider for Vertex {
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
        self.places()
            .and_then(|_| convert::endpoint(request))
            .map_err(|error| self.ours(error))
    }

    fn encode(&self, request: &Request, wire_id: &str, line: &mut Vec<u8>) -> Result<()> {
        self.places()
            .and_then(|places| batch::encode(request, places, wire_id, line))
            .map_err(|error| self.ours(error))
    }

    async fn upload(&self, batch: &SealedBatch, tag: &SubmissionTag) -> Result<InputRef> {
        let places = self.places().map_err(|error| self.ours(error))?;
        batch::upload(&self.0.client, places, batch, tag)
            .await
            .map_err(|error| self.ours(error))
    }

    async fn find_upload(
        &self,
        batch: &SealedBatch,
        tag: &SubmissionTag,
    ) -> Result<Option<InputRef>> {
        let places = self.places().map_err(|error| self.ours(error))?;
        batch::find_upload(&self.0.client, places, batch, tag)
            .await
            .map_err(|error| self.ours(error))
    }

    async fn submit(
        &self,
        batch: &SealedBatch,
        input: &InputRef,
        tag: &SubmissionTag,
    ) -> Result<BatchHandle, SubmitError> {
        let ours = |error: SubmitError| error.map(|error| self.ours(error));
        let places = self
            .places()
            .map_err(|error| ours(SubmitError::NotSent(error)))?;
        batch::submit(&self.0.client, places, &self.0.name, batch, input, tag)
            .await
            .map_err(ours)
    }

    async fn status(&self, batch: &BatchHandle) -> Result<BatchSnapshot> {
        let places = self.places().map_err(|error| self.ours(error))?;
        batch::status(&self.0.client, places, batch)
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

    async fn uploads(&self, job: &str) -> Result<Vec<StoredInput>> {
        let places = self.places().map_err(|error| self.ours(error))?;
        batch::uploads(&self.0.client, places, job)
            .await
            .map_err(|error| self.ours(error))
    }

    async fn discard(&self, input: &InputRef) -> Result<()> {
        let places = self.places().map_err(|error| self.ours(error))?;
        batch::discard(&self.0.client, places, input)
            .await
            .map_err(|error| self.ours(error))
    }
}

impl fmt::Debug for Vertex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Vertex").field(&self.0.config).finish()
    }
}
