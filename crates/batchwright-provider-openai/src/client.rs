//! One function per endpoint: build the call, send it, hand back status and body.
//!
//! Reads are sent again by `batchwright-http`; everything else is sent exactly once.

use crate::batch::{FILES_LIMIT, LIST_LIMIT};
use crate::config::OpenAiConfig;
use crate::convert::{CHAT_COMPLETIONS, EMBEDDINGS, RESPONSES};
use crate::dialect::{Dialect, Paging};
use crate::wire::BatchObject;
use batchwright_core::{Error, ErrorKind, Result, RetryPolicy};
use batchwright_http::{
    Asked, BaseUrl, Body, Call, HttpClient, Limits, Reply, Secret, StreamReply, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;
use std::time::Duration;

/// What every endpoint's path begins with in the vendor's spelling, and what the base URL ends in.
const VERSION: &str = "/v1/";

pub(crate) struct Client {
    pub(crate) dialect: &'static Dialect,
    /// The window batches are created with.
    pub(crate) window: String,
    http: HttpClient,
    base: BaseUrl,
    /// Whether the paths are those of Azure's dated APIs.
    pub(crate) dated: bool,
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
        let base = base_url(config)?;
        let mut headers = HeaderMap::new();
        if config.dialect.key_needed || !config.api_key.expose().is_empty() {
            let auth = HeaderName::try_from(config.dialect.auth_header).map_err(|_| {
                Error::new(
                    ErrorKind::ConfigInvalid,
                    "use the key: its header has no valid name",
                )
            })?;
            let key = config.api_key.header_value(config.dialect.auth_prefix)?;
            headers.insert(auth, key);
        }
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
            dated: config.api_version.is_some(),
            headers,
            key: config.api_key.clone(),
            answer: Limits::answer().within(config.attempt_timeout),
            reads: RetryPolicy::for_reads(),
            base,
        })
    }

    /// A direct call; `timeout` bounds it further. The request is made at once, and not kept beside its future.
    pub(crate) fn infer(
        &self,
        endpoint: &str,
        model: &str,
        body: Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<impl Future<Output = Result<Reply>> + Send + use<'_>> {
        let call = self.infer_call(endpoint, model, body, timeout)?;
        Ok(self.http.send(call))
    }

    /// A direct call whose answer comes in pieces.
    pub(crate) async fn infer_streamed(
        &self,
        endpoint: &str,
        model: &str,
        body: Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<StreamReply> {
        let call = self.infer_call(endpoint, model, body, timeout)?;
        self.http.stream(call).await
    }

    fn infer_call(
        &self,
        endpoint: &str,
        model: &str,
        body: Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<Call> {
        let known = self.inference.iter().find(|(known, _)| *known == endpoint);
        let url = match known {
            // Only these take the deployment's name from the body.
            _ if self.dated && endpoint != RESPONSES => {
                let path = below_version(endpoint)?.split('/');
                let segments: Vec<_> = ["deployments", model].into_iter().chain(path).collect();
                self.base.join_segments(&segments)?
            }
            Some((_, url)) => url.clone(),
            None => self.base.join(below_version(endpoint)?)?,
        };
        let limits = timeout.map_or(self.answer, |timeout| self.answer.within(timeout));
        let call = self.with_headers(Call::post("send the request", url));
        Ok(call.json(body).limits(limits))
    }

    pub(crate) async fn upload(&self, content_type: String, body: Body) -> Result<Reply> {
        let content_type = HeaderValue::from_str(&content_type).map_err(|error| {
            Error::new(ErrorKind::Unexpected, "name the form's boundary").with_source(error)
        })?;
        let call = self
            .with_headers(Call::post(
                "store the input",
                self.url(self.dialect.upload_path)?,
            ))
            .header(CONTENT_TYPE, content_type)
            .limits(Limits::upload());
        self.http.send(call.body(body)).await
    }

    /// Stored inputs, newest first.
    pub(crate) async fn list_files(&self, after: Option<&str>) -> Result<Reply> {
        let mut url = self.url(&["files"])?;
        // Without pages nothing is known of filters either.
        if self.dialect.paging != Paging::Whole {
            url.query_pairs_mut()
                .append_pair("purpose", self.dialect.upload_purpose)
                .append_pair("order", "desc")
                .append_pair("limit", &FILES_LIMIT.to_string())
                .extend_pairs(after.map(|after| ("after", after)));
        }
        self.read("list the stored inputs", url).await
    }

    pub(crate) async fn get_file(&self, id: &str) -> Result<Reply> {
        self.read("read the input's state", self.url(&["files", id])?)
            .await
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
                Paging::Cursor => ("cursor", after),
                Paging::After | Paging::Whole => ("after", after),
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
        let error = self.dialect.errors.of_reply(asked, reply, &[&self.key]);
        let message = error.message();
        let mut beginnings = self.dialect.bad_key.iter();
        let bad_key = reply.status == 400 && beginnings.any(|words| message.starts_with(words));
        let mut spent = self.dialect.spent.iter();
        let kind = match reply.status {
            _ if bad_key => ErrorKind::Unauthenticated,
            400..=499
                if spent
                    .any(|(first, then)| message.starts_with(first) && message.contains(then)) =>
            {
                ErrorKind::QuotaExceeded
            }
            _ => return error,
        };
        let refused = Error::new(kind, message).with_status(reply.status);
        reply.hints_by(self.dialect.errors.hints()).apply(refused)
    }

    /// The object a successful answer holds.
    pub(crate) fn object<'a, T: Deserialize<'a>>(&self, reply: &'a Reply) -> Result<T> {
        if reply.is_success() {
            self.dialect.errors.object(reply, &[&self.key])
        } else {
            Err(self.refused(Asked::Object, reply))
        }
    }

    /// The batch a successful answer holds, whose own `error` is none of the call's.
    pub(crate) fn batch<'a>(&self, reply: &'a Reply) -> Result<BatchObject<'a>> {
        if !reply.is_success() {
            return Err(self.refused(Asked::Object, reply));
        }
        let errors = &self.dialect.errors;
        errors.polled(reply, &[&self.key], |batch: &BatchObject<'_>| {
            batch.id.is_some() && batch.status.is_some()
        })
    }

    async fn read(&self, operation: &'static str, url: Url) -> Result<Reply> {
        let call = self.with_headers(Call::get(operation, url));
        self.http.read(call, &self.reads).await
    }

    fn url(&self, segments: &[&str]) -> Result<Url> {
        self.base.join_segments(segments)
    }

    fn with_headers(&self, call: Call) -> Call {
        call.headers(&self.headers)
    }
}

/// The base URL: with an API version that of the dated API, whose paths have none and whose queries have this one.
fn base_url(config: &OpenAiConfig) -> Result<BaseUrl> {
    let invalid = |message: String| Err(Error::new(ErrorKind::ConfigInvalid, message));
    let Some(version) = &config.api_version else {
        return BaseUrl::parse(&config.base_url, config.allow_plain_http);
    };
    if config.dialect.api_version_var.is_none() {
        return invalid(format!(
            "use the API version: {} has none",
            config.dialect.name
        ));
    }
    let version = version.trim();
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if version.is_empty() || !version.bytes().all(word) {
        return invalid("use the API version: it is no such word as 2024-10-21".to_owned());
    }
    let url = config.base_url.trim().trim_end_matches('/');
    let url = url.strip_suffix("/v1").unwrap_or(url);
    BaseUrl::parse(
        &format!("{url}?api-version={version}"),
        config.allow_plain_http,
    )
}

/// The endpoint as lines and creates spell it: the dated APIs leave the version out.
pub(crate) fn spelled(endpoint: &str, dated: bool) -> &str {
    match endpoint.strip_prefix("/v1") {
        Some(rest) if dated && rest.starts_with('/') => rest,
        _ => endpoint,
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
