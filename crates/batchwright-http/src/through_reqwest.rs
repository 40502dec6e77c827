//! Calls through reqwest: where a proxy stands between, and over HTTP/2.

use crate::{
    base_url::is_loopback,
    call::Call,
    connection::{Busy, GateLayer, Tally, wanted},
    deadline::{Deadline, later},
    direct::Wait,
    failure::{self, Broken, Fault, Halt},
    upload::Outgoing,
};
use batchwright_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use reqwest::{
    Response, Version,
    header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue},
};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};

/// The clients of reqwest.
pub(crate) struct ThroughReqwest {
    remote: Pair,
    /// For this machine: the same without proxies.
    local: Pair,
    tally: Arc<Tally>,
}

/// The two ways to get a connection.
#[derive(Clone)]
struct Pair {
    pooled: reqwest::Client,
    fresh: reqwest::Client,
}

/// What its clients are made of.
pub(crate) struct Settings {
    pub(crate) tls: rustls::ClientConfig,
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) most_idle: usize,
    pub(crate) proxy: bool,
    pub(crate) http2: bool,
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct Arriving {
    response: Response,
    /// Whether the connection outlives this exchange.
    keeps_alive: bool,
    /// Held until the body ends or is dropped, where the connection came from the pool.
    busy: Option<Busy>,
}

impl ThroughReqwest {
    /// # Errors
    /// `ConfigInvalid` where reqwest takes the settings for unusable.
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let tally = Arc::new(Tally::new());
        let local = settings.pair(&tally, false)?;
        let remote = match settings.proxy {
            true => settings.pair(&tally, true)?,
            false => local.clone(),
        };
        Ok(Self {
            remote,
            local,
            tally,
        })
    }

    /// Sends `call` with `body` exactly once and waits for the answer's headers.
    pub(crate) async fn send(
        &self,
        call: &mut Call,
        body: Outgoing,
        wait: Wait<'_>,
    ) -> Result<Arriving, Broken> {
        let fresh = call.fresh_connection;
        // A connection of its own never reaches the pool, so the tally is not told of it.
        let busy = (!fresh).then(|| self.tally.start());
        let pair = match is_loopback(&call.url) {
            true => &self.local,
            false => &self.remote,
        };
        let client = if fresh { &pair.fresh } else { &pair.pooled };
        let mut headers = std::mem::take(&mut call.headers);
        let mut request = reqwest::Request::new(call.method.clone(), call.url.clone());
        *request.body_mut() = match body {
            Outgoing::Empty => None,
            Outgoing::Bytes(bytes) => Some(bytes.into()),
            Outgoing::Stream { pieces, left } => {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(left));
                Some(reqwest::Body::wrap_stream(pieces))
            }
        };
        *request.headers_mut() = headers;
        let response = within(wait, wanted(client.execute(request))).await;
        let response = response
            .map_err(Broken::Waited)?
            .map_err(|error| Broken::Fault(Fault::from(error)))?;
        let keeps_alive = response.version() >= Version::HTTP_11
            && response
                .headers()
                .get(CONNECTION)
                .is_none_or(|value| !value.as_bytes().eq_ignore_ascii_case(b"close"));
        Ok(Arriving {
            response,
            keeps_alive,
            busy,
        })
    }
}

impl Arriving {
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(crate) fn take_headers(&mut self) -> HeaderMap {
        std::mem::take(self.response.headers_mut())
    }

    /// The next piece of the body; none at its end.
    pub(crate) async fn chunk(
        &mut self,
        idle: Duration,
        deadline: Deadline,
    ) -> Result<Option<Bytes>, Halt> {
        let until = later(Instant::now(), idle).min(deadline.at);
        match timeout_at(until, self.response.chunk()).await {
            Ok(Ok(piece)) => {
                if piece.is_none()
                    && self.keeps_alive
                    && let Some(busy) = &mut self.busy
                {
                    busy.returns();
                }
                Ok(piece)
            }
            Ok(Err(error)) => Err(Halt::Fault(error.without_url().into())),
            Err(_) if until >= deadline.at => Err(Halt::Total),
            Err(_) => Err(Halt::Idle),
        }
    }
}

impl Settings {
    fn pair(&self, tally: &Arc<Tally>, proxy: bool) -> Result<Pair> {
        Ok(Pair {
            pooled: self.client(proxy, |builder| {
                builder
                    .pool_max_idle_per_host(self.most_idle)
                    .connector_layer(GateLayer(Arc::clone(tally)))
            })?,
            fresh: self.client(proxy, |builder| builder.pool_max_idle_per_host(0))?,
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one constructor; it hands over a TLS configuration of its own"
    )]
    fn client(
        &self,
        proxy: bool,
        pool: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    ) -> Result<reqwest::Client> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(self.idle_timeout)
            .tcp_keepalive(Duration::from_secs(30))
            .tcp_keepalive_interval(Duration::from_secs(30))
            .no_gzip();
        if !self.http2 {
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

/// The outcome of `exchange`, or how long it was waited for in vain.
async fn within<T>(wait: Wait<'_>, exchange: impl Future<Output = T>) -> Result<T, Duration> {
    let mut exchange = std::pin::pin!(exchange);
    loop {
        let until = wait.until();
        match timeout_at(until, exchange.as_mut()).await {
            Ok(answer) => return Ok(answer),
            // A piece of the request was taken meanwhile: the wait starts again there.
            Err(_) if wait.until() > until => {}
            Err(_) => return Err(wait.waited(until)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, upload::Progress};

    #[tokio::test(start_paused = true)]
    async fn f_038_an_upload_that_makes_progress_is_not_a_silent_server() {
        let second = Duration::from_secs(1);
        let exchange = async |progress: &Progress, pieces: u32| {
            for _ in 0..pieces {
                tokio::time::sleep(5 * second).await;
                progress.touch();
            }
            tokio::time::sleep(5 * second).await;
        };
        for (pieces, first_byte, total, expected) in [
            (10, 8, 100, Ok(())),
            (0, 8, 100, Ok(())),
            (0, 4, 100, Err(4 * second)),
            (10, 4, 100, Err(4 * second)),
            (10, 8, 30, Err(30 * second)),
        ] {
            let progress = Progress::new();
            let limits = Limits::upload().with_first_byte(first_byte * second);
            let deadline = Deadline::after(total * second);
            let wait = Wait::new(&limits, deadline, Some(&progress));
            assert_eq!(
                within(wait, exchange(&progress, pieces)).await,
                expected,
                "{pieces} pieces, {first_byte} s, {total} s"
            );
        }
    }
}
