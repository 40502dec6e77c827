//! The client: one exchange, sent exactly once, under limits.

use crate::{
    base_url::is_loopback,
    call::{Call, Reply, StreamReply},
    connection::{GateLayer, Tally, wanted},
    deadline::Deadline,
    failure,
    incoming::{Coding, Incoming, Whole},
    tls,
    upload::{Upload, answer, outgoing},
};
use batchwright_core::{Error, ErrorKind, Result, RetryDecision, RetryPolicy, RetryState};
use reqwest::{
    Method, Version,
    header::{ACCEPT_ENCODING, CONNECTION, HeaderMap, HeaderValue},
};
use std::{
    fmt,
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
/// Proxies come from the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, or the
/// system's setting on macOS and Windows) unless [`HttpClientBuilder::no_proxy`] is called; this
/// machine itself is never reached through one (F-047).
#[derive(Clone)]
pub struct HttpClient(Arc<Inner>);

struct Inner {
    remote: Pair,
    /// For this machine: the same without proxies.
    local: Pair,
    places: Semaphore,
    max_in_flight: usize,
    tally: Arc<Tally>,
    random: AtomicU64,
}

/// An answer whose body is still to come.
struct Opened {
    status: u16,
    headers: HeaderMap,
    incoming: Incoming,
    /// The most bytes kept of the body.
    cap: u64,
}

/// The two ways to get a connection.
struct Pair {
    pooled: reqwest::Client,
    fresh: reqwest::Client,
}

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
    pub async fn send(&self, mut call: Call) -> Result<Reply> {
        call.headers
            .entry(ACCEPT_ENCODING)
            .or_insert(HeaderValue::from_static("gzip"));
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
    pub async fn stream(&self, mut call: Call) -> Result<StreamReply> {
        call.headers
            .entry(ACCEPT_ENCODING)
            .or_insert(HeaderValue::from_static("identity"));
        let _place = self.place().await;
        let opened = self.open(call).await?;
        Ok(StreamReply {
            status: opened.status,
            headers: opened.headers,
            body: opened.incoming.into_stream(),
            cap: opened.cap,
        })
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
    async fn open(&self, call: Call) -> Result<Opened> {
        let Call {
            operation,
            method,
            url,
            mut headers,
            body,
            limits,
            fresh_connection,
        } = call;
        let deadline = Deadline::after(limits.total);
        // A connection of its own never reaches the pool, so the tally is not told of it.
        let busy = (!fresh_connection).then(|| self.0.tally.start());
        let upload = Arc::new(Upload::new());
        let pair = if is_loopback(&url) {
            &self.0.local
        } else {
            &self.0.remote
        };
        let client = if fresh_connection {
            &pair.fresh
        } else {
            &pair.pooled
        };
        let body = outgoing(operation, body, &mut headers, &upload).await?;
        let mut request = reqwest::Request::new(method, url);
        *request.headers_mut() = headers;
        *request.body_mut() = body;
        let response = answer(
            wanted(client.execute(request)),
            &upload,
            limits.first_byte,
            deadline,
        )
        .await;
        let mut response = match response {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                return Err(failure::of_transport(operation, error, upload.fault()));
            }
            Err(waited) => return Err(failure::timeout(operation, "no answer", waited)),
        };
        let status = response.status().as_u16();
        if let Some(error) = failure::of_misdirection(operation, &response) {
            return Err(error);
        }
        let cap = limits.body_cap(status);
        let mut headers = std::mem::take(response.headers_mut());
        let keeps_alive = response.version() >= Version::HTTP_11
            && headers
                .get(CONNECTION)
                .is_none_or(|value| !value.as_bytes().eq_ignore_ascii_case(b"close"));
        let incoming = Incoming {
            operation,
            coding: Coding::take_from(&mut headers),
            response,
            idle: limits.idle,
            deadline,
            cap: limits.max_body,
            keeps_alive,
            busy,
            read: 0,
        };
        Ok(Opened {
            status,
            headers,
            incoming,
            cap,
        })
    }
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
    http1_only: bool,
}

impl Default for HttpClientBuilder {
    fn default() -> Self {
        Self {
            max_in_flight: 256,
            connect_timeout: Duration::from_secs(10),
            pool_idle_timeout: Duration::from_secs(10),
            extra_roots: Vec::new(),
            proxy: true,
            http1_only: false,
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

    /// Speaks HTTP/1.1 only. By default HTTP/2 is used where the server offers it, with one connection
    /// per host, whose number of concurrent calls the server bounds, often at 100.
    #[must_use]
    pub fn http1_only(mut self) -> Self {
        self.http1_only = true;
        self
    }

    /// The client.
    ///
    /// # Errors
    /// `ConfigInvalid` where the extra CA or a proxy's URL is unusable.
    pub fn build(self) -> Result<HttpClient> {
        let tls = tls::config(&self.extra_roots, self.http1_only)?;
        let tally = Arc::new(Tally::new());
        let local = self.pair(&tls, &tally, false)?;
        let remote = if self.proxy {
            self.pair(&tls, &tally, true)?
        } else {
            Pair {
                pooled: local.pooled.clone(),
                fresh: local.fresh.clone(),
            }
        };
        Ok(HttpClient(Arc::new(Inner {
            remote,
            local,
            places: Semaphore::new(self.max_in_flight),
            max_in_flight: self.max_in_flight,
            tally,
            random: AtomicU64::new(RandomState::new().hash_one("retry jitter")),
        })))
    }

    fn pair(&self, tls: &rustls::ClientConfig, tally: &Arc<Tally>, proxy: bool) -> Result<Pair> {
        Ok(Pair {
            pooled: self.client(tls, proxy, |builder| {
                builder
                    .pool_max_idle_per_host(self.max_in_flight)
                    .connector_layer(GateLayer(Arc::clone(tally)))
            })?,
            fresh: self.client(tls, proxy, |builder| builder.pool_max_idle_per_host(0))?,
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one constructor; it hands over a TLS configuration of its own"
    )]
    fn client(
        &self,
        tls: &rustls::ClientConfig,
        proxy: bool,
        pool: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    ) -> Result<reqwest::Client> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .user_agent(concat!("batchwright/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(self.pool_idle_timeout)
            .tcp_keepalive(Duration::from_secs(30))
            .tcp_keepalive_interval(Duration::from_secs(30))
            .no_gzip();
        if self.http1_only {
            builder = builder.http1_only();
        }
        if !proxy {
            builder = builder.no_proxy();
        }
        pool(builder).build().map_err(|error| {
            Error::new(
                ErrorKind::ConfigInvalid,
                format!(
                    "set up the HTTP client: {}",
                    failure::cause(&error.without_url())
                ),
            )
        })
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
            .field("http1_only", &self.http1_only)
            .finish()
    }
}
