//! OpenAI and its dialects as core's two traits: orchestration and nothing else.

use crate::batch;
use crate::builder::OpenAiBuilder;
use crate::client::Client;
use crate::config::OpenAiConfig;
use crate::convert::Form;
use crate::realtime;
use async_trait::async_trait;
use batchwright_core::{
    BatchHandle, BatchProvider, BatchSnapshot, BatchSummary, ByteStream, CallOptions, Capability,
    ChatProvider, Error, InputRef, ListMark, Outcome, Request, Response, Result, ResultFile,
    SealedBatch, StoredInput, SubmissionTag, SubmitError,
};
use std::{fmt, sync::Arc};

/// OpenAI's API: direct calls, files and batches. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct OpenAi(Arc<Inner>);

struct Inner {
    client: Client,
    config: OpenAiConfig,
    name: Arc<str>,
    /// Tells accounts apart and leads back to none.
    account: String,
    capability: Capability,
}

/// Files and batches belong to a project, which the key may choose alone (F-087).
fn account(config: &OpenAiConfig) -> String {
    let organization = config.organization.as_deref().unwrap_or_default();
    let project = config.project.as_deref().unwrap_or_default();
    let key = config.api_key.expose();
    batchwright_http::account(&[&config.base_url, organization, project, key])
}

impl OpenAi {
    /// The settings of a provider with this key.
    pub fn builder(api_key: impl Into<String>) -> OpenAiBuilder {
        OpenAiBuilder::new(api_key)
    }

    /// The provider these settings describe. Nothing is sent.
    ///
    /// # Errors
    /// `ConfigInvalid` as [`OpenAiBuilder::build`].
    pub fn new(config: OpenAiConfig) -> Result<Self> {
        OpenAiBuilder::from(config).build()
    }

    pub(crate) fn assemble(client: Client, config: OpenAiConfig, capability: Capability) -> Self {
        Self(Arc::new(Inner {
            client,
            name: Arc::from(&*config.name),
            account: account(&config),
            capability,
            config,
        }))
    }

    fn form(&self) -> Form {
        let config = &self.0.config;
        Form {
            api: config.chat_api,
            max_tokens: config.dialect.max_tokens,
            refused: config.dialect.refused,
            dated: config.api_version.is_some(),
            streamed: false,
        }
    }

    /// Says whose error it is.
    fn ours(&self, error: Error) -> Error {
        error.with_provider(self.0.name.clone())
    }
}

#[async_trait]
impl ChatProvider for OpenAi {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn capability(&self) -> &Capability {
        &self.0.capability
    }

    async fn complete(&self, request: &Request, call: &CallOptions) -> Result<Response> {
        realtime::answer(
            &self.0.client,
            self.form(),
            self.0.config.stream_above,
            request,
            call,
        )
        .await
        .map_err(|error| self.ours(error).with_model(&*request.model))
    }
}

#[async_trait]
impl BatchProvider for OpenAi {
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
        batch::endpoint(request, self.form(), &self.0.capability).map_err(|error| self.ours(error))
    }

    fn encode(&self, request: &Request, wire_id: &str, line: &mut Vec<u8>) -> Result<()> {
        batch::encode(request, self.form(), &self.0.capability, wire_id, line)
            .map_err(|error| self.ours(error))
    }

    async fn upload(&self, batch: &SealedBatch, tag: &SubmissionTag) -> Result<InputRef> {
        batch::upload(&self.0.client, batch, tag)
            .await
            .map_err(|error| self.ours(error))
    }

    async fn find_upload(
        &self,
        batch: &SealedBatch,
        tag: &SubmissionTag,
    ) -> Result<Option<InputRef>> {
        batch::find_upload(&self.0.client, batch, tag)
            .await
            .map_err(|error| self.ours(error))
    }

    async fn submit(
        &self,
        batch: &SealedBatch,
        input: &InputRef,
        tag: &SubmissionTag,
    ) -> Result<BatchHandle, SubmitError> {
        batch::submit(&self.0.client, &self.0.name, batch, input, tag)
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
        batch::decode(line, &self.0.name, self.0.config.dialect)
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
        batch::uploads(&self.0.client, job).await
    }

    async fn discard(&self, input: &InputRef) -> Result<()> {
        batch::discard(&self.0.client, input)
            .await
            .map_err(|error| self.ours(error))
    }
}

impl fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpenAi").field(&self.0.config).finish()
    }
}
