//! The client: one exchange, sent exactly once, under limits.

use crate::{
    call::{Body, Call, Reply, StreamReply},
    deadline::Deadline,
    direct::{Direct, Wait},
    failure::{self, Broken, Fault},
    incoming::{Coding, Incoming, Source, Whole},
    through_reqwest::{Settings, ThroughReqwest},
    tls,
    upload::Outgoing,
};
use batchwright_core::{Error, ErrorKind, Result, RetryDecision, RetryPolicy, RetryState};
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{
    Method,
    header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderValue, USER_AGENT},
};
use std::{
    fmt,
    future::Future,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::Semaphore;

/// One careful HTTP client, cheap to clone; clones share connections.
///
/// It sends what it is given exactly once, follows no redirect, bounds every wait and every body, and
/// puts neither URL nor header nor body into its errors. Only [`HttpClient::read`] sends again.
///
/// Calls go over HTTP/1.1, each on a connection of its own meanwhile, which is what work in bulk wants: servers bound the
/// calls on one HTTP/2 connection, often at 100, and one lost packet holds all of them up. HTTP/2 is there with
/// [`HttpClientBuilder::http2`].
///
/// Proxies come from the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, or the
/// system's setting on macOS and Windows) unless [`HttpClientBuilder::no_proxy`] is called; this
/// machine itself is never reached through one (F-047).
#[derive(Clone)]
pub struct HttpClient(Arc<Inner>);

struct Inner {
    transport: Transport,
    places: Semaphore,
    max_in_flight: usize,
    random: AtomicU64,
}

/// How calls get to the server.
enum Transport {
    /// Directly, but through reqwest where a proxy stands between; none where proxies are ignored.
    Direct {
        direct: Box<Direct>,
        proxied: Option<Box<ThroughReqwest>>,
    },
    /// All through reqwest, which speaks HTTP/2.
    Reqwest(Box<ThroughReqwest>),
}

/// An answer whose body is still to come.
struct Opened {
    status: u16,
    headers: HeaderMap,
    incoming: Incoming,
    /// The most bytes kept of the body.
    cap: u64,
}

/// What every request says of us.
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("batchwright/", env!("CARGO_PKG_VERSION")));

impl HttpClient {
    /// The settings of a new client.
    pub fn builder() -> HttpClientBuilder {
        HttpClientBuilder::default()
    }

    /// Sends `call` exactly once and reads the answer to its end, whatever its status.
    ///
    /// # Errors
    /// - `Connect` of class `NotSent`: no connection was made. Of class `JobStop` where the server's
    ///   certificate is refused (F-032).
    /// - `ConfigInvalid` where the base URL redirects elsewhere (F-046) or a proxy wants a password
    ///   (F-047). The request was sent; the error holds the status.
    /// - `Timeout` of class `Ambiguous`: no answer in time, or the connection broke after sending.
    /// - `ProviderFault` of class `Ambiguous`: the body is too long, or its compression is broken.
    /// - `Storage`: the file to be sent cannot be read or has another length than declared.
    ///
    /// # Cancel safety
    /// Dropping the future closes the exchange; whether the provider acted on it is then unknown.
    pub fn send(&self, call: Call) -> impl Future<Output = Result<Reply>> + Send + use<'_> {
        let call = accepting(call, HeaderValue::from_static("gzip"));
        async move {
            let _place = self.place().await;
            let Opened {
                status,
                headers,
                mut incoming,
                cap,
            } = self.open(call).await?;
            let mut whole = Whole::new(status, cap);
            while let Some(piece) = incoming.next().await.transpose() {
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

    /// Sends `call` exactly once and hands back the body as it arrives. Without an `accept-encoding`
    /// of the caller's, none is accepted, so that a file's length can be compared (F-043).
    ///
    /// The body does not hold one of the client's places: whoever keeps a stream open and sends
    /// another call would otherwise wait for themselves. Its reader bounds how many are open.
    ///
    /// # Errors
    /// As [`HttpClient::send`], those about the body inside the stream. After an error the stream ends.
    ///
    /// # Cancel safety
    /// As [`HttpClient::send`]; dropping the body closes the connection.
    pub fn stream(&self, call: Call) -> impl Future<Output = Result<StreamReply>> + Send + use<'_> {
        let call = accepting(call, HeaderValue::from_static("identity"));
        async move {
            let _place = self.place().await;
            let opened = self.open(call).await?;
            Ok(StreamReply {
                status: opened.status,
                headers: opened.headers,
                body: opened.incoming.into_stream(),
                cap: opened.cap,
            })
        }
    }

    /// Reads: sends a `GET` or `HEAD`, again after transport failures and the statuses 408, 425, 429
    /// and 5xx, spaced by `policy` and no sooner than the server asks. When `policy` gives up, the last
    /// answer or failure is handed back. A rate limit counts as an attempt here, so that it ends.
    ///
    /// # Errors
    /// As [`HttpClient::send`]; `Unexpected` for any other method, before sending.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed by reading.
    pub async fn read(&self, call: Call, policy: &RetryPolicy) -> Result<Reply> {
        if call.method != Method::GET && call.method != Method::HEAD {
            return Err(Error::new(
                ErrorKind::Unexpected,
                format!("{}: only GET and HEAD are sent again", call.operation),
            ));
        }
        let mut state = RetryState::default();
        let mut attempts = 0u32;
        loop {
            attempts = attempts.saturating_add(1);
            let mut attempt = call.clone();
            // The connection that failed may not be the only stale one (F-033).
            attempt.fresh_connection |= attempts > 1;
            let result = self.send(attempt).await;
            let failure = match &result {
                Ok(reply) => match failure::of_status(call.operation, reply) {
                    None => return result,
                    Some(failure) => failure,
                },
                Err(error) => error.clone(),
            };
            match policy.decide(&mut state, &failure, self.0.random()) {
                RetryDecision::GiveUp => {
                    return result.map_err(|error| error.with_attempts(attempts));
                }
                RetryDecision::Retry { after } => {
                    tracing::debug!(operation = call.operation, attempts, wait = ?after, kind = %failure.kind(), "read again");
                    tokio::time::sleep(after).await;
                }
            }
        }
    }

    /// How many calls are under way at once at most.
    pub fn max_in_flight(&self) -> usize {
        self.0.max_in_flight
    }

    async fn place(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.0
            .places
            .acquire()
            .await
            .expect("the semaphore lives as long as the client and is never closed")
    }

    /// Sends and waits for the headers.
    async fn open(&self, mut call: Box<Call>) -> Result<Opened> {
        let (operation, limits) = (call.operation, call.limits);
        let deadline = Deadline::after(limits.total);
        let (body, progress) = match std::mem::take(&mut call.body) {
            Body::Empty => (Outgoing::Empty, None),
            Body::Bytes(bytes) => (Outgoing::Bytes(bytes), None),
            file => Box::pin(Outgoing::of_file(operation, file)).await?,
        };
        let wait = Wait::new(&limits, deadline, progress.as_deref());
        let answered = match &self.0.transport {
            Transport::Reqwest(reqwest) => {
                Box::pin(through_reqwest(reqwest, &mut call, body, wait)).await
            }
            Transport::Direct { direct, proxied } => match (direct.origin(&call.url), proxied) {
                (None, _) => Err(Fault::build("this is no URL to call").into()),
                (Some(origin), Some(reqwest)) if origin.proxied => {
                    Box::pin(through_reqwest(reqwest, &mut call, body, wait)).await
                }
                (Some(origin), _) => {
                    let answer = direct.send(origin, &mut call, body, wait).await;
                    answer.map(|(parts, body)| {
                        (parts.status.as_u16(), parts.headers, Source::Direct(body))
                    })
                }
            },
        };
        let (status, mut headers, source) = answered.map_err(|broken| {
            let fault = progress.as_ref().and_then(|progress| progress.fault());
            failure::of_transport(operation, broken, fault)
        })?;
        if let Some(error) = failure::of_misdirection(operation, status, &headers, &call.url) {
            return Err(error);
        }
        let incoming = Incoming {
            operation,
            coding: Coding::take_from(&mut headers),
            source,
            idle: limits.idle,
            deadline,
            cap: limits.max_body,
            read: 0,
        };
        Ok(Opened {
            status,
            headers,
            incoming,
            cap: limits.body_cap(status),
        })
    }
}

/// The call with what every request says of us. On the heap once: the layers a call passes on its way each hold it.
fn accepting(mut call: Call, encoding: HeaderValue) -> Box<Call> {
    call.headers.entry(ACCEPT_ENCODING).or_insert(encoding);
    call.headers
        .entry(ACCEPT)
        .or_insert(HeaderValue::from_static("*/*"));
    call.headers.entry(USER_AGENT).or_insert(AGENT);
    Box::new(call)
}

async fn through_reqwest(
    reqwest: &ThroughReqwest,
    call: &mut Call,
    body: Outgoing,
    wait: Wait<'_>,
) -> Result<(u16, HeaderMap, Source), Broken> {
    let mut response = reqwest.send(call, body, wait).await?;
    let (status, headers) = (response.status(), response.take_headers());
    Ok((status, headers, Source::Reqwest(Box::new(response))))
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient")
            .field("max_in_flight", &self.0.max_in_flight)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Uniform in 0..1 (SplitMix64).
    fn random(&self) -> f64 {
        let mut bits = self
            .random
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // 53 bits are what an f64 holds exactly.
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The settings of an [`HttpClient`].
#[derive(Clone)]
pub struct HttpClientBuilder {
    max_in_flight: usize,
    connect_timeout: Duration,
    pool_idle_timeout: Duration,
    extra_roots: Vec<Vec<u8>>,
    proxy: bool,
    http2: bool,
}

impl Default for HttpClientBuilder {
    fn default() -> Self {
        Self {
            max_in_flight: 256,
            connect_timeout: Duration::from_secs(10),
            pool_idle_timeout: Duration::from_secs(10),
            extra_roots: Vec::new(),
            proxy: true,
            http2: false,
        }
    }
}

impl HttpClientBuilder {
    /// How many calls are under way at once at most, at least 1; default 256. Further calls wait, which
    /// counts against none of their limits. The pool keeps as many idle connections.
    #[must_use]
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = calls.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// The longest a connection may take to be made, TLS included; default 10 s (F-031).
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// How long an idle connection is kept; default 10 s, below what servers keep theirs (F-033).
    #[must_use]
    pub fn pool_idle_timeout(mut self, limit: Duration) -> Self {
        self.pool_idle_timeout = limit;
        self
    }

    /// Trusts the certificates in this PEM text beside Mozilla's roots, as a company's TLS-inspecting
    /// proxy needs. Verification cannot be turned off.
    #[must_use]
    pub fn extra_ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.extra_roots.push(pem.into());
        self
    }

    /// Ignores the proxies of environment and system.
    #[must_use]
    pub fn no_proxy(mut self) -> Self {
        self.proxy = false;
        self
    }

    /// Uses HTTP/2 where the server offers it: one connection for each host, whose number of concurrent calls the server
    /// bounds, often at 100. By default all calls go over HTTP/1.1, with a connection for each call at once.
    #[must_use]
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// The client.
    ///
    /// # Errors
    /// `ConfigInvalid` where the extra CA or a proxy's URL is unusable.
    pub fn build(self) -> Result<HttpClient> {
        let settings = Settings {
            tls: tls::config(&self.extra_roots, self.http2)?,
            connect_timeout: self.connect_timeout,
            idle_timeout: self.pool_idle_timeout,
            most_idle: self.max_in_flight,
            proxy: self.proxy,
            http2: self.http2,
        };
        let reqwest = || ThroughReqwest::new(&settings).map(Box::new);
        let transport = if self.http2 {
            Transport::Reqwest(reqwest()?)
        } else {
            Transport::Direct {
                proxied: self.proxy.then(reqwest).transpose()?,
                direct: Box::new(Direct::new(
                    settings.tls,
                    // What reqwest reads too.
                    self.proxy.then(Matcher::from_system),
                    self.connect_timeout,
                    self.pool_idle_timeout,
                    self.max_in_flight,
                )),
            }
        };
        Ok(HttpClient(Arc::new(Inner {
            transport,
            places: Semaphore::new(self.max_in_flight),
            max_in_flight: self.max_in_flight,
            random: AtomicU64::new(RandomState::new().hash_one("retry jitter")),
        })))
    }
}

impl fmt::Debug for HttpClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClientBuilder")
            .field("max_in_flight", &self.max_in_flight)
            .field("connect_timeout", &self.connect_timeout)
            .field("pool_idle_timeout", &self.pool_idle_timeout)
            .field("extra_roots", &self.extra_roots.len())
            .field("proxy", &self.proxy)
            .field("http2", &self.http2)
            .finish()
    }
}
