//! One function per endpoint: build the call, send it, hand back status and body.
//!
//! Reads are sent again by `batchwright-http`; everything else is sent exactly once.

use crate::batch::Cursor;
use crate::config::{AnthropicConfig, Auth};
use crate::error;
use batchwright_core::{Error, ErrorKind, Result, RetryPolicy, SealedBatch};
use batchwright_http::{
    Asked, BaseUrl, Body, Call, HttpClient, Limits, Reply, Secret, StreamReply, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;
use std::time::Duration;

/// The longest silence within a stream; the vendor's pings come far more often.
const STREAM_IDLE: Duration = Duration::from_secs(300);

pub(crate) struct Client {
    http: HttpClient,
    base: BaseUrl,
    pub(crate) key: Secret,
    /// Key, version, betas and workspace: on every call.
    headers: HeaderMap,
    /// Joined once, since every direct call needs it.
    messages: Url,
    answer: Limits,
    stream: Limits,
    reads: RetryPolicy,
}

impl Client {
    pub(crate) fn new(config: &AnthropicConfig) -> Result<Self> {
        // With or without the version: both are common (F-221).
        let url = config.base_url.trim().trim_end_matches('/');
        let url = url.strip_suffix("/v1").unwrap_or(url);
        let base = BaseUrl::parse(url, config.allow_plain_http)?;
        let mut headers = HeaderMap::new();
        match config.auth {
            Auth::ApiKey => {
                let name = HeaderName::from_static("x-api-key");
                headers.insert(name, config.api_key.header_value("")?);
            }
            Auth::Bearer => {
                headers.insert(AUTHORIZATION, config.api_key.header_value("Bearer ")?);
            }
        }
        let betas = (!config.betas.is_empty()).then(|| config.betas.join(","));
        for (name, value) in [
            ("anthropic-version", Some(&config.api_version)),
            ("anthropic-beta", betas.as_ref()),
            ("anthropic-workspace-id", config.workspace.as_ref()),
        ] {
            let Some(value) = value else { continue };
            let value = HeaderValue::from_str(value.trim())
                .ok()
                .filter(|value| !value.is_empty())
                .ok_or_else(|| {
                    Error::new(
                        ErrorKind::ConfigInvalid,
                        format!("use {name}: no header can hold it"),
                    )
                })?;
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(Self {
            http: config.http.clone().build()?,
            messages: base.join_segments(&["v1", "messages"])?,
            headers,
            key: config.api_key.clone(),
            answer: Limits::answer().within(config.attempt_timeout),
            stream: Limits::answer()
                .with_idle(STREAM_IDLE)
                .within(config.stream_timeout),
            reads: RetryPolicy::for_reads(),
            base,
        })
    }

    /// A direct call; `timeout` bounds it further.
    pub(crate) async fn infer(&self, body: Vec<u8>, timeout: Option<Duration>) -> Result<Reply> {
        let call = self.infer_call(body, self.answer, timeout);
        self.http.send(call).await
    }

    /// A direct call whose answer comes in pieces.
    pub(crate) async fn infer_streamed(
        &self,
        body: Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<StreamReply> {
        let call = self.infer_call(body, self.stream, timeout);
        self.http.stream(call).await
    }

    fn infer_call(&self, body: Vec<u8>, limits: Limits, timeout: Option<Duration>) -> Call {
        let limits = timeout.map_or(limits, |timeout| limits.within(timeout));
        let call = self.with_headers(Call::post("send the request", self.messages.clone()));
        call.json(body).limits(limits)
    }

    pub(crate) async fn count_tokens(&self, body: Vec<u8>) -> Result<Reply> {
        let url = self
            .base
            .join_segments(&["v1", "messages", "count_tokens"])?;
        let call = self.with_headers(Call::post("count the tokens", url));
        self.http.send(call.json(body)).await
    }

    /// Creates a batch: once, on a connection of its own (F-033, F-111), its lines streamed from disk.
    pub(crate) async fn create_batch(&self, batch: &SealedBatch) -> Result<Reply> {
        let call = self
            .with_headers(Call::post("create the batch", self.batches(&[])?))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .limits(Limits::upload())
            .body(Body::sealed_list(batch, "{\"requests\":[", "]}"))
            .fresh_connection();
        self.http.send(call).await
    }

    pub(crate) async fn get_batch(&self, id: &str) -> Result<Reply> {
        self.read("read the batch", self.batches(&[id])?).await
    }

    /// A page of the list, of at most `limit`.
    pub(crate) async fn list_batches(&self, limit: usize, cursor: &Cursor) -> Result<Reply> {
        let mut url = self.batches(&[])?;
        url.query_pairs_mut()
            .append_pair("limit", &limit.to_string())
            .extend_pairs(match cursor {
                Cursor::Newest => None,
                Cursor::After(id) => Some(("after_id", id)),
                Cursor::Before(id) => Some(("before_id", id)),
            });
        self.read("list the batches", url).await
    }

    pub(crate) async fn cancel_batch(&self, id: &str) -> Result<Reply> {
        let call = Call::post("cancel the batch", self.batches(&[id, "cancel"])?);
        self.http.send(self.with_headers(call)).await
    }

    pub(crate) async fn delete_batch(&self, id: &str) -> Result<Reply> {
        let call = Call::delete("delete the batch", self.batches(&[id])?);
        self.http.send(self.with_headers(call)).await
    }

    /// A batch's results from `offset` on, if the server can. The address is made here and never taken from an
    /// answer: the key goes nowhere else (F-197).
    pub(crate) async fn content(&self, id: &str, offset: u64) -> Result<StreamReply> {
        let url = self.batches(&[id, "results"])?;
        let call = self
            .with_headers(Call::get("download the results", url))
            .limits(Limits::download())
            .range_from(offset);
        self.http.stream(call).await
    }

    /// The error of a reply that is no success.
    pub(crate) fn refused(&self, asked: Asked, reply: &Reply) -> Error {
        error::of_reply(asked, reply, &self.key)
    }

    /// The object a successful answer holds.
    pub(crate) fn object<'a, T: Deserialize<'a>>(&self, reply: &'a Reply) -> Result<T> {
        if reply.is_success() {
            error::ERRORS.object(reply, &[&self.key])
        } else {
            Err(self.refused(Asked::Object, reply))
        }
    }

    async fn read(&self, operation: &'static str, url: Url) -> Result<Reply> {
        let call = self.with_headers(Call::get(operation, url));
        self.http.read(call, &self.reads).await
    }

    fn batches(&self, rest: &[&str]) -> Result<Url> {
        let segments = [&["v1", "messages", "batches"], rest].concat();
        self.base.join_segments(&segments)
    }

    fn with_headers(&self, call: Call) -> Call {
        call.headers(&self.headers)
    }
}
