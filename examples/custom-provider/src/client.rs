//! A function for each endpoint, and what Quillmere's errors mean.

use crate::provider::QuillmereConfig;
use crate::wire::{Trouble, Troubled};
use batchwright_core::{Error, ErrorKind, Result, RetryClass, RetryPolicy, SealedBatch};
use batchwright_http::{
    Asked, BaseUrl, Body, Call, ErrorTable, HeaderName, HttpClient, Limits, Method, Reply, Secret,
    StreamReply, Url,
};
use serde_json::json;
use std::time::Duration;

/// Sorts of trouble that mean more than their status; all others are read by it.
pub(crate) const ERRORS: ErrorTable = ErrorTable::new(&[
    ("no_such_voice", ErrorKind::NotFound, RetryClass::JobStop),
    ("press_idle", ErrorKind::Conflict, RetryClass::RowFatal),
]);

const KEY: HeaderName = HeaderName::from_static("x-quill-key");

pub(crate) struct Client {
    http: HttpClient,
    base: BaseUrl,
    key: Secret,
    reads: RetryPolicy,
}

impl Client {
    pub(crate) fn new(config: &QuillmereConfig) -> Result<Self> {
        let client = Self {
            http: HttpClient::builder().build()?,
            base: BaseUrl::parse(&config.base_url, false)?,
            key: config.key.clone(),
            reads: RetryPolicy::for_reads(),
        };
        // A key that no header can hold is refused here, not with the first call.
        client.key.header_value("")?;
        Ok(client)
    }

    pub(crate) async fn ask(&self, body: Vec<u8>, timeout: Option<Duration>) -> Result<Reply> {
        let limits = Limits::answer();
        let limits = timeout.map_or(limits, |timeout| limits.within(timeout));
        let call = Call::post("send the ask", self.url(&["asks"])?).json(body);
        self.send(call.limits(limits)).await
    }

    /// Stores lines under a name of ours: doing it again replaces them.
    pub(crate) async fn put_ream(&self, name: &str, batch: &SealedBatch) -> Result<Reply> {
        let url = self.url(&["reams", name])?;
        let call = Call::new("store the input", Method::PUT, url)
            .body(Body::sealed(batch, "", ""))
            .limits(Limits::upload());
        self.send(call).await
    }

    pub(crate) async fn get_ream(&self, name: &str) -> Result<Reply> {
        self.read("look for the input", self.url(&["reams", name])?)
            .await
    }

    pub(crate) async fn delete_ream(&self, name: &str) -> Result<Reply> {
        self.send(Call::delete(
            "delete the input",
            self.url(&["reams", name])?,
        ))
        .await
    }

    /// Creates a press: once, on a connection of its own (F-033, F-111).
    pub(crate) async fn new_press(&self, body: Vec<u8>) -> Result<Reply> {
        let call = Call::post("create the batch", self.url(&["presses"])?);
        self.send(call.json(body).fresh_connection()).await
    }

    pub(crate) async fn get_press(&self, id: &str) -> Result<Reply> {
        self.read("read the batch", self.url(&["presses", id])?)
            .await
    }

    pub(crate) async fn presses(&self, after: Option<&str>) -> Result<Reply> {
        let mut url = self.url(&["presses"])?;
        if let Some(after) = after {
            url.query_pairs_mut().append_pair("after", after);
        }
        self.read("list the batches", url).await
    }

    pub(crate) async fn halt(&self, id: &str) -> Result<Reply> {
        let url = self.url(&["presses", id, "halt"])?;
        self.send(Call::post("cancel the batch", url)).await
    }

    /// A sheet's bytes, always from the first on: Quillmere knows no ranges.
    pub(crate) async fn sheet(&self, id: &str) -> Result<StreamReply> {
        let call = Call::get("download the results", self.url(&["sheets", id])?)
            .limits(Limits::download())
            .secret(KEY, "", &self.key)?;
        self.http.stream(call).await
    }

    /// The error of a reply that is no success.
    pub(crate) fn refused(&self, asked: Asked, reply: &Reply) -> Error {
        ERRORS.of_reply(asked, reply, &[&self.key])
    }

    /// The object a successful answer holds.
    pub(crate) fn object<'r, T: serde::Deserialize<'r>>(&self, reply: &'r Reply) -> Result<T> {
        ERRORS.object(reply, &[&self.key])
    }

    async fn send(&self, call: Call) -> Result<Reply> {
        let call = call.secret(KEY, "", &self.key)?;
        self.http.send(call).await.map(readable)
    }

    async fn read(&self, operation: &'static str, url: Url) -> Result<Reply> {
        let call = Call::get(operation, url).secret(KEY, "", &self.key)?;
        self.http.read(call, &self.reads).await.map(readable)
    }

    fn url(&self, segments: &[&str]) -> Result<Url> {
        self.base.join_segments(segments)
    }
}

/// An error answer in the words the shared reader of errors knows; what is none of Quillmere's stays as it is.
pub(crate) fn readable(reply: Reply) -> Reply {
    if reply.is_success() {
        return reply;
    }
    match serde_json::from_slice::<Troubled>(&reply.body) {
        Ok(said) => Reply::new(reply.status, reply.headers, in_common_words(&said.trouble)),
        Err(_) => reply,
    }
}

/// Trouble as the error body most vendors send.
pub(crate) fn in_common_words(trouble: &Trouble) -> Vec<u8> {
    let error = json!({"error": {"code": trouble.sort, "message": trouble.say}});
    error.to_string().into_bytes()
}
