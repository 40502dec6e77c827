//! OpenAI as core's two traits: orchestration, and what it can do as data.

use crate::batch;
use crate::builder::OpenAiBuilder;
use crate::client::Client;
use crate::config::OpenAiConfig;
use crate::convert::{self, CHAT_COMPLETIONS, EMBEDDINGS, Expect, RESPONSES};
use crate::error::Asked;
use async_trait::async_trait;
use batchwright_core::{
    BatchHandle, BatchLimits, BatchProvider, BatchSnapshot, BatchSummary, ByteStream, CallOptions,
    Capability, ChatProvider, Error, InputRef, ListMark, ListMatch, Outcome, Request, Response,
    Result, ResultFile, SealedBatch, SubmissionTag, SubmitError,
};
use batchwright_http::{Reply, Secret};
use serde_json::value::RawValue;
use std::{fmt, sync::Arc, time::Duration};

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

/// What OpenAI can do, read 2026-11-22 in the guide <https://platform.openai.com/docs/guides/batch>.
fn capability() -> Capability {
    let owned = |endpoints: &[&str]| endpoints.iter().map(|&path| path.to_owned()).collect();
    // 50,000 lines and 200 MB; a tenth is left free, since how a fuller file fails is not documented.
    let mut batch = BatchLimits::new(owned(batch::ENDPOINTS), 50_000, 190_000_000);
    batch.one_model = true;
    // Quoted as half the price of a direct call for every model.
    batch.discount_percent = Some(50);
    batch.unsupported = &["stream", "background"];
    // Output files stay 30 days from their own creation, which is never before the batch's.
    batch.retention = Duration::from_secs(30 * 24 * 3600);
    batch.cancel = true;
    batch.list_match = vec![ListMatch::Input, ListMatch::Tag];
    let mut capability = Capability::default();
    capability.realtime_endpoints = owned(&[CHAT_COMPLETIONS, RESPONSES, EMBEDDINGS]);
    capability.batch = Some(batch);
    capability.json_schema = true;
    capability.tools = true;
    capability.source = "https://platform.openai.com/docs/guides/batch, 2026-11-22";
    capability
}

/// Files and batches belong to a project, which the key may choose alone (F-087).
fn account(config: &OpenAiConfig) -> String {
    let organization = config.organization.as_deref().unwrap_or_default();
    let project = config.project.as_deref().unwrap_or_default();
    let key = config.api_key.expose();
    Secret::new(format!(
        "{}\0{organization}\0{project}\0{key}",
        config.base_url
    ))
    .fingerprint()
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

    pub(crate) fn assemble(client: Client, config: OpenAiConfig) -> Self {
        Self(Arc::new(Inner {
            client,
            name: Arc::from(&*config.name),
            account: account(&config),
            capability: capability(),
            config,
        }))
    }

    /// Says whose error it is.
    fn ours(&self, error: Error) -> Error {
        error.with_provider(self.0.name.clone())
    }

    fn ours_submitting(&self, error: SubmitError) -> SubmitError {
        match error {
            SubmitError::NotSent(error) => SubmitError::NotSent(self.ours(error)),
            SubmitError::Refused(error) => SubmitError::Refused(self.ours(error)),
            SubmitError::Unknown(error) => SubmitError::Unknown(self.ours(error)),
        }
    }

    async fn answer(&self, request: &Request, call: &CallOptions) -> Result<Response> {
        let endpoint = convert::endpoint(request, self.0.config.chat_api)?;
        let mut body = Vec::with_capacity(size_hint(request));
        convert::write_body(request, self.0.config.chat_api, &mut body)?;
        let reply = self.0.client.infer(endpoint, body, call.timeout).await?;
        if !reply.is_success() {
            return Err(self.0.client.refused(Asked::Inference, &reply));
        }
        read_reply(&reply, Expect::of(request))
    }
}

/// About how long a body gets: its texts and some room, so that most are written without growing.
fn size_hint(request: &Request) -> usize {
    let bytes = request.estimated_input_tokens().saturating_mul(4);
    usize::try_from(bytes).unwrap_or(0).saturating_add(256)
}

fn read_reply(reply: &Reply, expect: Expect) -> Result<Response> {
    let hints = reply.hints();
    let raw = serde_json::from_slice::<Box<RawValue>>(&reply.body).ok();
    let body = raw.as_deref().map_or("", RawValue::get);
    match convert::read_answer(body, expect) {
        Ok(mut response) => {
            response.request_id = hints.request_id;
            response.rate_limit = hints.rate_limit;
            response.raw = raw;
            Ok(response)
        }
        Err(unanswered) => Err(hints.apply(unanswered.into_error().with_status(reply.status))),
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
        self.answer(request, call)
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
        batch::endpoint(request, self.0.config.chat_api).map_err(|error| self.ours(error))
    }

    fn encode(&self, request: &Request, wire_id: &str, line: &mut Vec<u8>) -> Result<()> {
        batch::encode(request, self.0.config.chat_api, wire_id, line)
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
            .map_err(|error| self.ours_submitting(error))
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
