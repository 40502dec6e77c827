//! One function per endpoint: build the call, send it, hand back status and body.
//!
//! Reads are sent again by `batchwright-http`; everything else is sent exactly once.

use crate::batch::{FILES_LIMIT, LIST_LIMIT};
use crate::config::OpenAiConfig;
use crate::convert::{CHAT_COMPLETIONS, EMBEDDINGS, RESPONSES};
use crate::dialect::{Dialect, Paging};
use batchwright_core::{Error, ErrorKind, Result, RetryPolicy};
use batchwright_http::{
    Asked, BaseUrl, Body, Call, HttpClient, Limits, Reply, Secret, StreamReply, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;
use std::time::Duration;

/// What every endpoint's path begins with in the vendor's spelling, and what the base URL ends in.
const VERSION: &str = "/v1/";

/// Headers a call gets on its way: content type and length, what is accepted, user agent, host.
const ADDED_HEADERS: usize = 6;

pub(crate) struct Client {
    pub(crate) dialect: &'static Dialect,
    /// The window batches are created with.
    pub(crate) window: String,
    http: HttpClient,
    base: BaseUrl,
    pub(crate) key: Secret,
    /// Credentials, organization and project: on every call.
    headers: HeaderMap,
    /// The three inference endpoints, joined once, since every direct call needs one.
    inference: [(&'static str, Url); 3],
    answer: Limits,
    reads: RetryPolicy,
}

impl Client {
    pub(crate) fn new(config: &OpenAiConfig) -> Result<Self> {
        let base = BaseUrl::parse(&config.base_url, config.allow_plain_http)?;
        let mut headers = HeaderMap::new();
        let auth = HeaderName::try_from(config.dialect.auth_header).map_err(|_| {
            Error::new(
                ErrorKind::ConfigInvalid,
                "use the key: its header has no valid name",
            )
        })?;
        let key = config.api_key.header_value(config.dialect.auth_prefix)?;
        headers.insert(auth, key);
        for (name, value) in [
            ("openai-organization", &config.organization),
            ("openai-project", &config.project),
        ] {
            if let Some(value) = value {
                let value = HeaderValue::from_str(value.trim()).map_err(|_| {
                    Error::new(
                        ErrorKind::ConfigInvalid,
                        format!("use {name}: no header can hold it"),
                    )
                })?;
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        let join = |endpoint| Ok((endpoint, base.join(below_version(endpoint)?)?));
        Ok(Self {
            dialect: config.dialect,
            window: config.completion_window.clone(),
            http: config.http.clone().build()?,
            inference: [join(CHAT_COMPLETIONS)?, join(RESPONSES)?, join(EMBEDDINGS)?],
            headers,
            key: config.api_key.clone(),
            answer: Limits::answer().within(config.attempt_timeout),
            reads: RetryPolicy::for_reads(),
            base,
        })
    }

    /// A direct call; `timeout` bounds it further.
    pub(crate) async fn infer(
        &self,
        endpoint: &str,
        body: Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<Reply> {
        let known = self.inference.iter().find(|(known, _)| *known == endpoint);
        let url = match known {
            Some((_, url)) => url.clone(),
            None => self.base.join(below_version(endpoint)?)?,
        };
        let limits = timeout.map_or(self.answer, |timeout| self.answer.within(timeout));
        let call = self.with_headers(Call::post("send the request", url));
        self.http.send(call.json(body).limits(limits)).await
    }

    pub(crate) async fn upload(&self, content_type: String, body: Body) -> Result<Reply> {
        let content_type = HeaderValue::from_str(&content_type).map_err(|error| {
            Error::new(ErrorKind::Unexpected, "name the form's boundary").with_source(error)
        })?;
        let call = self
            .with_headers(Call::post("store the input", self.url(&["files"])?))
            .header(CONTENT_TYPE, content_type)
            .limits(Limits::upload());
        self.http.send(call.body(body)).await
    }

    /// Stored inputs, newest first.
    pub(crate) async fn list_files(&self, after: Option<&str>) -> Result<Reply> {
        let mut url = self.url(&["files"])?;
        url.query_pairs_mut()
            .append_pair("purpose", "batch")
            .append_pair("order", "desc")
            .append_pair("limit", &FILES_LIMIT.to_string())
            .extend_pairs(after.map(|after| ("after", after)));
        self.read("list the stored inputs", url).await
    }

    pub(crate) async fn delete_file(&self, id: &str) -> Result<Reply> {
        let url = self.url(&["files", id])?;
        let call = self.with_headers(Call::delete("delete the input", url));
        self.http.send(call).await
    }

    /// A file's bytes, from `offset` on if the server can.
    pub(crate) async fn content(&self, id: &str, offset: u64) -> Result<StreamReply> {
        let url = self.url(&["files", id, "content"])?;
        let call = self
            .with_headers(Call::get("download the results", url))
            .limits(Limits::download())
            .range_from(offset);
        self.http.stream(call).await
    }

    /// Creates a batch: once, on a connection of its own (F-033, F-111).
    pub(crate) async fn create_batch(&self, body: Vec<u8>) -> Result<Reply> {
        let call = self.with_headers(Call::post("create the batch", self.url(&["batches"])?));
        self.http.send(call.json(body).fresh_connection()).await
    }

    pub(crate) async fn get_batch(&self, id: &str) -> Result<Reply> {
        self.read("read the batch", self.url(&["batches", id])?)
            .await
    }

    pub(crate) async fn list_batches(&self, after: Option<&str>) -> Result<Reply> {
        let mut url = self.url(&["batches"])?;
        url.query_pairs_mut()
            .append_pair("limit", &LIST_LIMIT.to_string())
            .extend_pairs(after.map(|after| match self.dialect.paging {
                Paging::After => ("after", after),
                Paging::Cursor => ("cursor", after),
            }));
        self.read("list the batches", url).await
    }

    pub(crate) async fn cancel_batch(&self, id: &str) -> Result<Reply> {
        let url = self.url(&["batches", id, "cancel"])?;
        let call = self.with_headers(Call::post("cancel the batch", url));
        self.http.send(call).await
    }

    /// The error of a reply that is no success.
    pub(crate) fn refused(&self, asked: Asked, reply: &Reply) -> Error {
        self.dialect.errors.of_reply(asked, reply, &[&self.key])
    }

    /// The object a successful answer holds.
    pub(crate) fn object<'a, T: Deserialize<'a>>(&self, reply: &'a Reply) -> Result<T> {
        self.dialect.errors.object(reply, &[&self.key])
    }

    async fn read(&self, operation: &'static str, url: Url) -> Result<Reply> {
        let call = self.with_headers(Call::get(operation, url));
        self.http.read(call, &self.reads).await
    }

    fn url(&self, segments: &[&str]) -> Result<Url> {
        self.base.join_segments(segments)
    }

    fn with_headers(&self, mut call: Call) -> Call {
        call.headers = self.headers.clone();
        // A clone has no room, and what the layers below add would let it grow step by step.
        call.headers.reserve(ADDED_HEADERS);
        call
    }
}

/// An endpoint's path below the version, which the base URL already ends in.
fn below_version(endpoint: &str) -> Result<&str> {
    endpoint.strip_prefix(VERSION).ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidRequest,
            "send the request: the endpoint of a raw body must begin with /v1/",
        )
    })
}
