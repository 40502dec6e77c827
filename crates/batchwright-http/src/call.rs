//! One HTTP exchange: what is sent, what it may cost in time and memory, and what came back.

use crate::{HintNames, RetryHints, Secret, hints::retry_hints, incoming::Whole};
use batchwright_core::{ByteStream, Error, ErrorKind, Result, SealedBatch, SealedBody};
use bytes::Bytes;
use futures::StreamExt;
use reqwest::{
    Method, Url,
    header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RANGE},
};
use serde::de::DeserializeOwned;
use std::{fmt, path::PathBuf, time::Duration};

/// Bytes per mebibyte.
const MIB: u64 = 1024 * 1024;

/// Headers a call gets on its way: content type and length, what is accepted, user agent, host.
const ADDED_HEADERS: usize = 6;

/// One request, sent exactly once by [`HttpClient::send`](crate::HttpClient::send).
///
/// `Debug` shows neither headers nor body nor query.
#[derive(Clone)]
#[non_exhaustive]
pub struct Call {
    /// What is being done, as it reads after "failed to": `create the batch`.
    pub operation: &'static str,
    /// The method.
    pub method: Method,
    /// Where to; credentials travel in `headers` only.
    pub url: Url,
    /// The headers, credentials marked sensitive.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
    /// Time and memory. Default [`Limits::poll`].
    pub limits: Limits,
    /// Whether to open a connection of its own instead of reusing an idle one, which the server may be
    /// closing this moment (F-033). For calls that must not end in doubt, such as creating a batch.
    pub fresh_connection: bool,
}

impl Call {
    /// A call without headers or body, with the limits of a poll.
    pub fn new(operation: &'static str, method: Method, url: Url) -> Self {
        Self {
            operation,
            method,
            url,
            headers: HeaderMap::new(),
            body: Body::Empty,
            limits: Limits::poll(),
            fresh_connection: false,
        }
    }

    /// A `GET`.
    pub fn get(operation: &'static str, url: Url) -> Self {
        Self::new(operation, Method::GET, url)
    }

    /// A `POST`; its body follows with [`Call::json`] or [`Call::body`].
    pub fn post(operation: &'static str, url: Url) -> Self {
        Self::new(operation, Method::POST, url)
    }

    /// A `DELETE`.
    pub fn delete(operation: &'static str, url: Url) -> Self {
        Self::new(operation, Method::DELETE, url)
    }

    /// Sets a header, replacing an earlier value.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Sets all of `headers`, replacing earlier values of the same names.
    #[must_use]
    pub fn headers(mut self, headers: &HeaderMap) -> Self {
        if self.headers.is_empty() {
            self.headers = headers.clone();
            // A clone has no room, and what the layers below add would let it grow step by step.
            self.headers.reserve(ADDED_HEADERS);
            return self;
        }
        for (name, value) in headers {
            self.headers.insert(name.clone(), value.clone());
        }
        self
    }

    /// Sets a header that carries a key: `prefix` (`"Bearer "` or empty) and the secret, marked sensitive.
    ///
    /// # Errors
    /// `ConfigInvalid` where the key is empty or holds what no header may hold.
    pub fn secret(self, name: HeaderName, prefix: &str, secret: &Secret) -> Result<Self> {
        Ok(self.header(name, secret.header_value(prefix)?))
    }

    /// Asks for the answer's bytes from `offset` on; see [`StreamReply::body_from`].
    #[must_use]
    pub fn range_from(self, offset: u64) -> Self {
        if offset == 0 {
            return self;
        }
        let range = HeaderValue::try_from(format!("bytes={offset}-"))
            .expect("a number and ASCII letters make a header");
        self.header(RANGE, range)
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    /// Sets a body of JSON text, sent as it is.
    #[must_use]
    pub fn json(self, body: impl Into<Bytes>) -> Self {
        self.header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Body::Bytes(body.into()))
    }

    /// Sets time and memory.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Opens a connection of its own (F-033).
    #[must_use]
    pub fn fresh_connection(mut self) -> Self {
        self.fresh_connection = true;
        self
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("operation", &self.operation)
            .field("method", &self.method)
            .field("origin", &self.url.origin().ascii_serialization())
            .field("body", &self.body)
            .field("limits", &self.limits)
            .field("fresh_connection", &self.fresh_connection)
            .finish_non_exhaustive()
    }
}

/// The body of a request.
///
/// `Debug` shows its length only.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Body {
    /// No body.
    #[default]
    Empty,
    /// Bytes in memory, never copied.
    Bytes(Bytes),
    /// A file, streamed from disk between two pieces in memory, with an exact `content-length`: a
    /// multipart upload is the form's fields and the part's head as `prefix`, the closing boundary as
    /// `suffix`.
    File {
        /// Sent before the file.
        prefix: Bytes,
        /// The file.
        path: PathBuf,
        /// Its length in bytes; another length on disk is an error before or instead of a success.
        len: u64,
        /// Sent after the file.
        suffix: Bytes,
    },
    /// A file of lines as the elements of a list, streamed as a [`Body::File`] is: each line feed goes out as a
    /// comma, but for one that ends the file. With `{"requests":[` before and `]}` behind, JSON lines become
    /// one JSON text of the same length.
    Lines {
        /// Sent before the lines.
        prefix: Bytes,
        /// The file.
        path: PathBuf,
        /// Its length in bytes; another length on disk is an error before or instead of a success.
        len: u64,
        /// Sent after the lines.
        suffix: Bytes,
    },
}

impl Body {
    /// A sealed chunk as it is, between two texts.
    pub fn sealed(batch: &SealedBatch, prefix: impl Into<Bytes>, suffix: impl Into<Bytes>) -> Self {
        let (prefix, suffix) = (prefix.into(), suffix.into());
        match &batch.body {
            SealedBody::File(path) => Self::File {
                prefix,
                path: path.clone(),
                len: batch.bytes,
                suffix,
            },
            SealedBody::Memory(lines) => Self::Bytes([&*prefix, lines, &*suffix].concat().into()),
        }
    }

    /// A sealed chunk's lines as the elements of a list, for creates that carry them:
    /// `Body::sealed_list(batch, "{\"requests\":[", "]}")`.
    pub fn sealed_list(
        batch: &SealedBatch,
        prefix: impl Into<Bytes>,
        suffix: impl Into<Bytes>,
    ) -> Self {
        let (prefix, suffix) = (prefix.into(), suffix.into());
        match &batch.body {
            SealedBody::File(path) => Self::Lines {
                prefix,
                path: path.clone(),
                len: batch.bytes,
                suffix,
            },
            SealedBody::Memory(lines) => {
                let mut body = [&*prefix, lines, &*suffix].concat();
                let lines = prefix.len()..prefix.len() + lines.len();
                separate(&mut body[lines], 0);
                Self::Bytes(body.into())
            }
        }
    }

    /// The bytes to be sent, in total.
    pub fn len(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File {
                prefix,
                len,
                suffix,
                ..
            }
            | Self::Lines {
                prefix,
                len,
                suffix,
                ..
            } => (prefix.len() as u64)
                .saturating_add(*len)
                .saturating_add(suffix.len() as u64),
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Turns the line feeds of a piece into commas. `left` bytes come after it; with none its last byte is the
/// file's and stays.
pub(crate) fn separate(piece: &mut [u8], left: u64) {
    let end = match left {
        0 => piece.len().saturating_sub(1),
        _ => piece.len(),
    };
    let mut rest = &mut piece[..end];
    while let Some(at) = memchr::memchr(b'\n', rest) {
        rest[at] = b',';
        rest = &mut rest[at + 1..];
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Empty => "Empty",
            Self::Bytes(_) => "Bytes",
            Self::File { .. } => "File",
            Self::Lines { .. } => "Lines",
        };
        write!(f, "{name}({} bytes)", self.len())
    }
}

/// What a call may cost in time and memory. Every wait of the client is under one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// From the last byte of the request taken off our hands to the answer's headers (F-038). While a
    /// body is being sent it bounds the time between two pieces, so that a slow upload is not a
    /// silent server.
    pub first_byte: Duration,
    /// Between two pieces of the answer's body (F-039).
    pub idle: Duration,
    /// From the start of the exchange to the last byte of the answer, waiting for a place in
    /// `max_in_flight` left out.
    pub total: Duration,
    /// Bytes of the answer's body after decompression (F-200, F-201). The body of an error status is
    /// cut at 1 MiB where this is more.
    pub max_body: u64,
}

impl Limits {
    /// Small reads and writes of the API's objects: 30 s of silence, 60 s in all, 8 MiB.
    pub const fn poll() -> Self {
        Self {
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            total: Duration::from_secs(60),
            max_body: 8 * MIB,
        }
    }

    /// A model's answer: 600 s of silence as the vendors' own clients allow, 30 min in all, 64 MiB.
    pub const fn answer() -> Self {
        Self {
            first_byte: Duration::from_secs(600),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(30 * 60),
            max_body: 64 * MIB,
        }
    }

    /// An upload: as long as it makes progress, 2 h in all; the answer is small.
    pub const fn upload() -> Self {
        Self {
            first_byte: Duration::from_secs(300),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(2 * 3600),
            max_body: 8 * MIB,
        }
    }

    /// A file's content: 60 s between pieces, 2 h in all, no bound on bytes but the disk.
    pub const fn download() -> Self {
        Self {
            first_byte: Duration::from_secs(120),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(2 * 3600),
            max_body: u64::MAX,
        }
    }

    /// Sets the wait for the answer's headers.
    #[must_use]
    pub const fn with_first_byte(mut self, limit: Duration) -> Self {
        self.first_byte = limit;
        self
    }

    /// Sets the wait between two pieces of the body.
    #[must_use]
    pub const fn with_idle(mut self, limit: Duration) -> Self {
        self.idle = limit;
        self
    }

    /// Sets the bound of the whole exchange.
    #[must_use]
    pub const fn with_total(mut self, limit: Duration) -> Self {
        self.total = limit;
        self
    }

    /// These limits with no wait above `total`.
    #[must_use]
    pub fn within(self, total: Duration) -> Self {
        self.with_total(total)
            .with_first_byte(total)
            .with_idle(self.idle.min(total))
    }

    /// The most bytes kept of the body of an answer with this status: 1 MiB for errors.
    pub(crate) fn body_cap(&self, status: u16) -> u64 {
        if status >= 400 {
            self.max_body.min(MIB)
        } else {
            self.max_body
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::poll()
    }
}

/// An answer, whatever its status, read to its end.
///
/// `Debug` shows neither headers nor body.
#[derive(Clone)]
#[non_exhaustive]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, decompressed. With an error status it may be cut, see `complete`.
    pub body: Bytes,
    /// Whether the body is whole. Always so below status 400; an error's body may be cut by its cap or
    /// by the connection, since the status alone says enough.
    pub complete: bool,
}

impl Reply {
    /// A whole answer, as tests of what reads one make it.
    pub fn new(status: u16, headers: HeaderMap, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers,
            body: body.into(),
            complete: true,
        }
    }

    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// What the headers say about trying again.
    pub fn hints(&self) -> RetryHints {
        retry_hints(&self.headers)
    }

    /// What the headers say about trying again, under one vendor's names.
    pub fn hints_by(&self, names: &HintNames) -> RetryHints {
        names.read(&self.headers)
    }

    /// A header's value, if it is there and is text: `reply.header("x-goog-upload-url")`.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The `content-type`, if it is text.
    pub fn content_type(&self) -> Option<&str> {
        self.headers.get(CONTENT_TYPE)?.to_str().ok()
    }

    /// The body read as JSON.
    ///
    /// # Errors
    /// `ProviderFault` of class `Ambiguous` where it is something else; the message names a position,
    /// never content.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Error::new(
                ErrorKind::ProviderFault,
                format!(
                    "read the answer: not the expected JSON at line {} column {}",
                    error.line(),
                    error.column()
                ),
            )
            .with_status(self.status)
        })
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .field("bytes", &self.body.len())
            .field("complete", &self.complete)
            .finish_non_exhaustive()
    }
}

/// An answer whose body is still arriving.
///
/// `Debug` shows neither headers nor body.
#[non_exhaustive]
pub struct StreamReply {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, under the call's limits. An error in its middle is `Ambiguous`; its end proves
    /// nothing where no length was declared (F-037).
    pub body: ByteStream,
    pub(crate) cap: u64,
}

impl StreamReply {
    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// What the headers say about trying again.
    pub fn hints(&self) -> RetryHints {
        retry_hints(&self.headers)
    }

    /// The length the server declared, if it did and the body is not compressed.
    pub fn content_length(&self) -> Option<u64> {
        self.headers
            .get(reqwest::header::CONTENT_LENGTH)?
            .to_str()
            .ok()?
            .parse()
            .ok()
    }

    /// The body of a success where it begins at byte `offset` of the whole: a 200 at 0, a 206 where its
    /// `content-range` says so (F-106).
    ///
    /// # Errors
    /// `Unsupported` where it begins elsewhere: the caller starts again from 0.
    pub fn body_from(self, offset: u64) -> Result<ByteStream> {
        let begins = match self.status {
            206 => self.headers.get(CONTENT_RANGE).and_then(|range| {
                let range = range.to_str().ok()?.strip_prefix("bytes ")?;
                range.split_once('-')?.0.parse().ok()
            }),
            200 => Some(0),
            _ => None,
        };
        if begins == Some(offset) {
            return Ok(self.body);
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("download the results: the provider does not start at byte {offset}"),
        ))
    }

    /// The body of results asked for from byte `offset` on, as [`StreamReply::body_from`]; of a refusal the error
    /// `refused` makes of it.
    ///
    /// # Errors
    /// What `refused` gives; `Unsupported` where the body begins elsewhere, which a 416 says too.
    ///
    /// # Cancel safety
    /// Dropping the future drops the answer.
    pub async fn results_from(
        self,
        offset: u64,
        refused: impl FnOnce(&Reply) -> Error,
    ) -> Result<ByteStream> {
        if !self.is_success() && self.status != 416 {
            return Err(refused(&self.into_reply().await?));
        }
        self.body_from(offset)
    }

    /// Reads the rest, as [`HttpClient::send`](crate::HttpClient::send) would have: for error statuses.
    ///
    /// # Errors
    /// Below status 400 whatever the body's stream ends in; from 400 on, none.
    ///
    /// # Cancel safety
    /// Dropping the future drops the answer.
    pub async fn into_reply(self) -> Result<Reply> {
        let Self {
            status,
            headers,
            mut body,
            cap,
        } = self;
        let mut whole = Whole::new(status, cap);
        while let Some(piece) = body.next().await {
            if !whole.push(piece)? {
                break;
            }
        }
        let (body, complete) = whole.finish();
        Ok(Reply {
            status,
            headers,
            body,
            complete,
        })
    }
}

impl fmt::Debug for StreamReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamReply")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}
