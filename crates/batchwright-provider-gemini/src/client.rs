//! One function per endpoint: build the call, send it, hand back status and body.
//!
//! Reads are sent again by `batchwright-http`; everything else is sent exactly once.

use crate::config::GeminiConfig;
use crate::convert::model_name;
use crate::error::{ERRORS, of_reply};
use crate::wire::Operation;
use batchwright_core::{Error, ErrorKind, Result, RetryPolicy};
use batchwright_http::{
    Asked, BaseUrl, Body, Call, HttpClient, Limits, Method, Reply, Secret, StreamReply, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;
use std::time::Duration;

/// What a batch's file is; guessing by a name's end fails in places.
const JSONL: &str = "application/jsonl";

pub(crate) struct Client {
    pub(crate) key: Secret,
    http: HttpClient,
    base: BaseUrl,
    version: String,
    headers: HeaderMap,
    answer: Limits,
    reads: RetryPolicy,
}

impl Client {
    pub(crate) fn new(config: &GeminiConfig) -> Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(
            HeaderName::from_static("x-goog-api-key"),
            config.api_key.header_value("")?,
        );
        Ok(Self {
            base: BaseUrl::parse(&config.base_url, config.allow_plain_http)?,
            version: config.api_version.clone(),
            http: config.http.clone().build()?,
            headers,
            key: config.api_key.clone(),
            answer: Limits::answer().within(config.attempt_timeout),
            reads: RetryPolicy::for_reads(),
        })
    }

    /// A direct call of a model's method; `timeout` bounds it further.
    pub(crate) async fn infer(
        &self,
        model: &str,
        method: &str,
        body: Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<Reply> {
        let url = self.model_url(model, method)?;
        let call = self.with_headers(Call::post("send the request", url));
        let call = call.json(body).limits(self.answer_within(timeout));
        self.http.send(call).await
    }

    /// The same with the answer in pieces, as server-sent events.
    pub(crate) async fn infer_streamed(
        &self,
        model: &str,
        body: Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<StreamReply> {
        let mut url = self.model_url(model, "streamGenerateContent")?;
        url.query_pairs_mut().append_pair("alt", "sse");
        let call = self.with_headers(Call::post("send the request", url));
        let call = call.json(body).limits(self.answer_within(timeout));
        self.http.stream(call).await
    }

    /// Counts tokens.
    pub(crate) async fn count_tokens(&self, model: &str, body: Vec<u8>) -> Result<Reply> {
        let url = self.model_url(model, "countTokens")?;
        let call = self.with_headers(Call::post("count the tokens", url));
        self.http.send(call.json(body)).await
    }

    /// Begins an upload; the answer's header names where the bytes go.
    pub(crate) async fn start_upload(&self, body: Vec<u8>, bytes: u64) -> Result<Reply> {
        let url = self
            .base
            .join_segments(&["upload", &self.version, "files"])?;
        let call = self
            .with_headers(Call::post("store the input", url))
            .header(upload_header("protocol"), word("resumable"))
            .header(upload_header("command"), word("start"))
            .header(
                upload_header("header-content-length"),
                HeaderValue::from(bytes),
            )
            .header(upload_header("header-content-type"), word(JSONL));
        self.http.send(call.json(body)).await
    }

    /// Sends an upload's bytes, all at once, to the path the server named, at our own origin (F-197).
    pub(crate) async fn finish_upload(&self, url: &str, body: Body) -> Result<Reply> {
        let url = self.base.at_origin(url)?;
        let call = self
            .with_headers(Call::post("store the input", url))
            .header(upload_header("offset"), word("0"))
            .header(upload_header("command"), word("upload, finalize"))
            .header(CONTENT_TYPE, word(JSONL))
            .limits(Limits::upload());
        self.http.send(call.body(body)).await
    }

    pub(crate) async fn get_file(&self, name: &str) -> Result<Reply> {
        self.read("look at the input", self.resource("files", name, "")?)
            .await
    }

    pub(crate) async fn list_files(&self, size: usize, token: Option<&str>) -> Result<Reply> {
        let url = self.page("files", size, token)?;
        self.read("list the stored inputs", url).await
    }

    pub(crate) async fn delete_file(&self, name: &str) -> Result<Reply> {
        let url = self.resource("files", name, "")?;
        self.http
            .send(self.with_headers(Call::delete("delete the input", url)))
            .await
    }

    /// A result file's bytes, from `offset` on if the server can. By the documented media route: the plain one refuses
    /// the ids of result files (F-090).
    pub(crate) async fn content(&self, name: &str, offset: u64) -> Result<StreamReply> {
        let id = format!("{}:download", id_of("files", name)?);
        let mut url = self
            .base
            .join_segments(&["download", &self.version, "files", &id])?;
        url.query_pairs_mut().append_pair("alt", "media");
        let call = self
            .with_headers(Call::get("download the results", url))
            .limits(Limits::download())
            .range_from(offset);
        self.http.stream(call).await
    }

    /// Creates a batch: once, on a connection of its own (F-033, F-111).
    pub(crate) async fn create_batch(
        &self,
        model: &str,
        method: &str,
        body: Body,
    ) -> Result<Reply> {
        let url = self.model_url(model, method)?;
        let call = self
            .with_headers(Call::post("create the batch", url))
            .header(CONTENT_TYPE, word("application/json"))
            .body(body)
            .fresh_connection();
        // A create that carries its lines is as long as an upload.
        self.http.send(call.limits(Limits::upload())).await
    }

    /// A batch, read again where it fails.
    pub(crate) async fn get_batch(&self, name: &str) -> Result<Reply> {
        self.read("read the batch", self.resource("batches", name, "")?)
            .await
    }

    /// A batch as it arrives, however long.
    pub(crate) async fn stream_batch(
        &self,
        operation: &'static str,
        name: &str,
    ) -> Result<StreamReply> {
        self.stream(operation, self.resource("batches", name, "")?)
            .await
    }

    pub(crate) async fn list_batches(&self, size: usize, token: Option<&str>) -> Result<Reply> {
        let url = self.page("batches", size, token)?;
        self.read("list the batches", url).await
    }

    /// A page of batches as it arrives, however long.
    pub(crate) async fn stream_batches(
        &self,
        size: usize,
        token: Option<&str>,
    ) -> Result<StreamReply> {
        let url = self.page("batches", size, token)?;
        self.stream("list the batches", url).await
    }

    pub(crate) async fn cancel_batch(&self, name: &str) -> Result<Reply> {
        let url = self.resource("batches", name, ":cancel")?;
        let call = self.with_headers(Call::post("cancel the batch", url));
        self.http.send(call.json("{}")).await
    }

    /// Stores cached content, once.
    pub(crate) async fn create_cache(&self, body: Vec<u8>) -> Result<Reply> {
        let url = self.url(&["cachedContents"])?;
        let call = self.with_headers(Call::post("cache the content", url));
        self.http
            .send(call.json(body).limits(Limits::upload()))
            .await
    }

    pub(crate) async fn get_cache(&self, name: &str) -> Result<Reply> {
        let url = self.resource("cachedContents", name, "")?;
        self.read("read the cached content", url).await
    }

    pub(crate) async fn list_caches(&self, size: usize, token: Option<&str>) -> Result<Reply> {
        let url = self.page("cachedContents", size, token)?;
        self.read("list the cached contents", url).await
    }

    pub(crate) async fn update_cache(&self, name: &str, body: Vec<u8>) -> Result<Reply> {
        let mut url = self.resource("cachedContents", name, "")?;
        url.query_pairs_mut().append_pair("updateMask", "ttl");
        let call = Call::new("extend the cached content", Method::PATCH, url);
        self.http.send(self.with_headers(call).json(body)).await
    }

    pub(crate) async fn delete_cache(&self, name: &str) -> Result<Reply> {
        let url = self.resource("cachedContents", name, "")?;
        self.http
            .send(self.with_headers(Call::delete("delete the cached content", url)))
            .await
    }

    /// The error of a reply that is no success.
    pub(crate) fn refused(&self, asked: Asked, reply: &Reply) -> Error {
        of_reply(asked, reply, &[&self.key])
    }

    /// The object a successful answer holds.
    pub(crate) fn object<'a, T: Deserialize<'a>>(&self, reply: &'a Reply) -> Result<T> {
        if reply.is_success() {
            ERRORS.object(reply, &[&self.key])
        } else {
            Err(self.refused(Asked::Object, reply))
        }
    }

    /// The batch a successful answer holds. Its `error` is how it ended, and none of the call's.
    pub(crate) fn batch<'a>(&self, reply: &'a Reply) -> Result<Operation<'a>> {
        if !reply.is_success() {
            return Err(self.refused(Asked::Object, reply));
        }
        ERRORS.polled(reply, &[&self.key], |operation: &Operation<'_>| {
            operation.name.is_some()
        })
    }

    async fn read(&self, operation: &'static str, url: Url) -> Result<Reply> {
        let call = self.with_headers(Call::get(operation, url));
        self.http.read(call, &self.reads).await
    }

    async fn stream(&self, operation: &'static str, url: Url) -> Result<StreamReply> {
        let call = self.with_headers(Call::get(operation, url));
        self.http.stream(call.limits(Limits::download())).await
    }

    fn answer_within(&self, timeout: Option<Duration>) -> Limits {
        timeout.map_or(self.answer, |timeout| self.answer.within(timeout))
    }

    fn model_url(&self, model: &str, method: &str) -> Result<Url> {
        let name = model_name(model)?;
        let (kind, id) = name.split_once('/').unwrap_or(("models", &name));
        self.url(&[kind, &format!("{id}:{method}")])
    }

    /// The URL of a resource named `KIND/ID`, with a verb behind it.
    fn resource(&self, kind: &str, name: &str, verb: &str) -> Result<Url> {
        let id = id_of(kind, name)?;
        self.url(&[kind, &format!("{id}{verb}")])
    }

    fn page(&self, kind: &str, size: usize, token: Option<&str>) -> Result<Url> {
        let mut url = self.url(&[kind])?;
        url.query_pairs_mut()
            .append_pair("pageSize", &size.to_string())
            .extend_pairs(token.map(|token| ("pageToken", token)));
        Ok(url)
    }

    fn url(&self, segments: &[&str]) -> Result<Url> {
        let segments = [&[self.version.as_str()], segments].concat();
        self.base.join_segments(&segments)
    }

    fn with_headers(&self, call: Call) -> Call {
        call.headers(&self.headers)
    }
}

/// The id of a resource named `KIND/ID`, or `ID` alone. An id from outside stays one segment (F-198).
fn id_of<'n>(kind: &str, name: &'n str) -> Result<&'n str> {
    let id = name
        .strip_prefix(kind)
        .and_then(|rest| rest.strip_prefix('/'))
        .unwrap_or(name);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if id.is_empty() || !id.bytes().all(plain) {
        return Err(Error::new(
            ErrorKind::InvalidRequest,
            format!("build the URL: not a name of {kind}"),
        ));
    }
    Ok(id)
}

fn upload_header(name: &str) -> HeaderName {
    HeaderName::try_from(format!("x-goog-upload-{name}")).expect("letters and dashes make a name")
}

fn word(text: &'static str) -> HeaderValue {
    HeaderValue::from_static(text)
}
