//! Quillmere as core's two traits: orchestration and nothing else.

use crate::client::{Client, readable};
use crate::convert::{ASKS, read_answer, read_line, snapshot, summary, write_ask, write_line};
use crate::wire::{NewPress, Press, Presses, Ream};
use async_trait::async_trait;
use batchwright_core::{
    BatchHandle, BatchLimits, BatchProvider, BatchSnapshot, BatchSummary, ByteStream, CallOptions,
    Capability, ChatProvider, Error, ErrorKind, IdRule, InputRef, ListMark, ListMatch, ListPage,
    ListWalk, Outcome, Request, Response, Result, ResultFile, RetryClass, SealedBatch,
    SubmissionTag, SubmitError,
};
use batchwright_http::{Asked, Secret, account, hollow, submitted};
use serde_json::value::RawValue;
use std::{fmt, sync::Arc};

/// Every setting of [`Quillmere`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QuillmereConfig {
    /// The API key; shown nowhere.
    pub key: Secret,
    /// The URL that ends in the version. Default `https://api.quillmere.example/v3`.
    pub base_url: String,
}

impl QuillmereConfig {
    /// The defaults, with this key.
    pub fn new(key: impl Into<String>) -> Self {
        Self {
            key: Secret::new(key.into()),
            base_url: "https://api.quillmere.example/v3".to_owned(),
        }
    }

    /// Sets the URL that ends in the version.
    #[must_use]
    pub fn with_base_url(mut self, base_url: impl Into<String>) -> Self {
        self.base_url = base_url.into();
        self
    }
}

/// Quillmere's API: asks and presses. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Quillmere(Arc<Inner>);

struct Inner {
    client: Client,
    name: Arc<str>,
    account: String,
    capability: Capability,
}

impl Quillmere {
    /// The provider these settings describe. Nothing is sent.
    ///
    /// # Errors
    /// `ConfigInvalid` where the base URL is none or the key fits no header.
    pub fn new(config: QuillmereConfig) -> Result<Self> {
        Ok(Self(Arc::new(Inner {
            client: Client::new(&config)?,
            name: Arc::from("quillmere"),
            account: account(&[&config.base_url, config.key.expose()]),
            capability: capability(),
        })))
    }

    /// Says whose error it is.
    fn ours(&self, error: Error) -> Error {
        error.with_provider(self.0.name.clone())
    }

    async fn page(&self, after: Option<&str>) -> Result<ListPage> {
        let reply = self.0.client.presses(after).await?;
        let page: Presses<'_> = self.0.client.object(&reply)?;
        let listed = page.presses.iter();
        let batches: Vec<_> = listed
            .filter_map(|entry| summary(&self.0.name, entry))
            .collect();
        let unreadable = batches.len() < page.presses.len();
        Ok(ListPage::new(batches)
            .with_unreadable(unreadable)
            .with_next(page.next.is_some(), page.next))
    }

    async fn answer(&self, request: &Request, call: &CallOptions) -> Result<Response> {
        let mut body = Vec::new();
        write_ask(request, &mut body)?;
        let reply = self.0.client.ask(body, call.timeout).await?;
        if !reply.is_success() {
            return Err(self.0.client.refused(Asked::Inference, &reply));
        }
        let json: Option<&RawValue> = serde_json::from_slice(&reply.body).ok();
        let answer = json.and_then(read_answer);
        answer.ok_or_else(|| hollow("read the answer: it says nothing").with_status(reply.status))
    }

    async fn stored(&self, batch: &SealedBatch, name: &str) -> Result<InputRef> {
        let reply = self.0.client.put_ream(name, batch).await?;
        let ream: Ream = self.0.client.object(&reply)?;
        if ream.octets == Some(batch.bytes) {
            return Ok(InputRef(name.to_owned()));
        }
        // F-118. What was stored is replaced by the next attempt, under the same name.
        Err(Error::new(
            ErrorKind::ProviderFault,
            format!(
                "store the input: not all of its {} bytes arrived",
                batch.bytes
            ),
        )
        .with_class(RetryClass::Rejected))
    }

    async fn found(&self, batch: &SealedBatch, name: &str) -> Result<Option<InputRef>> {
        let reply = self.0.client.get_ream(name).await?;
        if reply.status == 404 {
            return Ok(None);
        }
        let ream: Ream = self.0.client.object(&reply)?;
        Ok((ream.octets == Some(batch.bytes)).then(|| InputRef(name.to_owned())))
    }
}

/// What Quillmere's (invented) manual says.
fn capability() -> Capability {
    let mut limits = BatchLimits::new(vec![ASKS.to_owned()], 20_000, 64 * 1024 * 1024);
    limits.one_model = false;
    limits.custom_id = IdRule::text(80);
    limits.list_match = vec![ListMatch::Input, ListMatch::Tag];
    let mut capability = Capability::default();
    capability.realtime_endpoints = vec![ASKS.to_owned()];
    capability.batch = Some(limits);
    capability.source = "https://quillmere.example/manual, an invention";
    capability
}

#[async_trait]
impl ChatProvider for Quillmere {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn capability(&self) -> &Capability {
        &self.0.capability
    }

    async fn complete(&self, request: &Request, call: &CallOptions) -> Result<Response> {
        let answer = self.answer(request, call).await;
        answer.map_err(|error| self.ours(error).with_model(&*request.model))
    }
}

#[async_trait]
impl BatchProvider for Quillmere {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn capability(&self) -> &Capability {
        &self.0.capability
    }

    fn account(&self) -> &str {
        &self.0.account
    }

    fn endpoint<'r>(&'r self, _: &'r Request) -> Result<&'r str> {
        Ok(ASKS)
    }

    fn encode(&self, request: &Request, wire_id: &str, line: &mut Vec<u8>) -> Result<()> {
        write_line(request, wire_id, line).map_err(|error| self.ours(error))
    }

    async fn upload(&self, batch: &SealedBatch, tag: &SubmissionTag) -> Result<InputRef> {
        let stored = self.stored(batch, &tag.to_string()).await;
        stored.map_err(|error| self.ours(error))
    }

    async fn find_upload(
        &self,
        batch: &SealedBatch,
        tag: &SubmissionTag,
    ) -> Result<Option<InputRef>> {
        let found = self.found(batch, &tag.to_string()).await;
        found.map_err(|error| self.ours(error))
    }

    async fn submit(
        &self,
        _: &SealedBatch,
        input: &InputRef,
        tag: &SubmissionTag,
    ) -> Result<BatchHandle, SubmitError> {
        let new = NewPress {
            ream: &input.0,
            label: &tag.to_string(),
        };
        let body = serde_json::to_vec(&new).map_err(|error| {
            let error = Error::new(ErrorKind::Unexpected, "write the create").with_source(error);
            SubmitError::NotSent(self.ours(error))
        })?;
        let sent = self.0.client.new_press(body).await;
        let id = |body: &[u8]| serde_json::from_slice::<Press>(body).ok()?.press;
        let refused = |reply: &_| self.0.client.refused(Asked::Object, reply);
        submitted(sent, id, refused)
            .map(|id| BatchHandle::new(&*self.0.name, id, input.clone()))
            .map_err(|error| error.map(|error| self.ours(error)))
    }

    async fn status(&self, batch: &BatchHandle) -> Result<BatchSnapshot> {
        let status = async {
            let reply = self.0.client.get_press(&batch.id).await?;
            let press = snapshot(batch, self.0.client.object(&reply)?);
            press.ok_or_else(|| hollow("read the batch: it is at no stage"))
        };
        status.await.map_err(|error| self.ours(error))
    }

    async fn download(&self, file: &ResultFile, offset: u64) -> Result<ByteStream> {
        let stream = async {
            let reply = self.0.client.sheet(&file.id).await?;
            if !reply.is_success() {
                let reply = readable(reply.into_reply().await?);
                return Err(self.0.client.refused(Asked::Object, &reply));
            }
            reply.body_from(offset)
        };
        stream.await.map_err(|error| self.ours(error))
    }

    fn decode(&self, line: &[u8]) -> Option<Outcome> {
        read_line(line, &self.0.name)
    }

    async fn cancel(&self, batch: &BatchHandle) -> Result<()> {
        let reply = self.0.client.halt(&batch.id).await;
        let reply = reply.map_err(|error| self.ours(error))?;
        if reply.is_success() {
            return Ok(());
        }
        Err(self.ours(self.0.client.refused(Asked::Cancel, &reply)))
    }

    async fn recent(&self) -> Result<Vec<BatchSummary>> {
        let page = self.page(None).await;
        page.map(|page| page.batches)
            .map_err(|error| self.ours(error))
    }

    async fn list_since(&self, mark: &ListMark) -> Result<Vec<BatchSummary>> {
        let mut walk = ListWalk::new(mark);
        let mut after = None;
        loop {
            let page = self.page(after.as_deref()).await;
            let next = page.and_then(|page| walk.take(page));
            after = next.map_err(|error| self.ours(error))?;
            if after.is_none() {
                return Ok(walk.into_found());
            }
        }
    }

    async fn discard(&self, input: &InputRef) -> Result<()> {
        let reply = self.0.client.delete_ream(&input.0).await;
        let reply = reply.map_err(|error| self.ours(error))?;
        if reply.is_success() || reply.status == 404 {
            return Ok(());
        }
        Err(self.ours(self.0.client.refused(Asked::Object, &reply)))
    }
}

impl fmt::Debug for Quillmere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Quillmere").finish_non_exhaustive()
    }
}
