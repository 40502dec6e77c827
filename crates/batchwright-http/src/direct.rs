//! Calls over HTTP/1.1 on connections of our own, each polled in the task of its exchange.
//!
//! There is no task for a connection and no queue to one, so that an answer costs the wake-up of one task. An exchange
//! takes an idle connection or opens one, hence there are never more connections than exchanges were at once.

use crate::{
    bell::Bell,
    call::{Call, Limits},
    deadline::{Deadline, later},
    failure::{Broken, Fault, Halt},
    origin::{Origin, Origins},
    socket::Socket,
    upload::{Outgoing, Progress},
};
use bytes::Bytes;
use hyper::http::response::Parts;
use hyper::{
    Request, Response, Uri,
    body::{Body as _, Incoming},
    client::conn::{TrySendError, http1},
    rt::{Read, Write},
};
use hyper_util::{
    client::{legacy::connect::HttpConnector, proxy::matcher::Matcher},
    rt::TokioIo,
};
use reqwest::{Url, header::HOST};
use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tower_service::Service;

/// Opens connections, and keeps those that may be used again.
pub(crate) struct Direct {
    origins: Origins,
    connector: HttpConnector,
    tls: TlsConnector,
    /// For a connection to be made, TLS included.
    connect_timeout: Duration,
    pool: Pool,
}

/// Which connections are kept.
#[derive(Clone, Copy, Debug)]
struct Pool {
    idle_timeout: Duration,
    /// At most, for each origin.
    most: usize,
}

/// An open connection.
pub(crate) struct Live {
    sender: http1::SendRequest<Outgoing>,
    /// None once the connection has ended.
    driver: Option<http1::Connection<Socket, Outgoing>>,
    bell: Arc<Bell>,
    /// Rings `bell`.
    waker: Waker,
    /// The wait of the exchange. It stays with the connection: to put off a timer that runs costs next to nothing.
    timer: Pin<Box<Sleep>>,
}

/// The body of an answer, with the connection it comes over.
pub(crate) struct Arriving {
    body: Incoming,
    /// None once the connection is back in the pool or closed.
    live: Option<Box<Live>>,
    /// Where the connection goes back to; none where it is of this call alone.
    home: Option<(Arc<Origin>, Pool)>,
}

impl Direct {
    pub(crate) fn new(
        tls: rustls::ClientConfig,
        proxies: Option<Matcher>,
        connect_timeout: Duration,
        idle_timeout: Duration,
        most: usize,
    ) -> Self {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(connect_timeout));
        connector.set_keepalive(Some(Duration::from_secs(30)));
        connector.set_keepalive_interval(Some(Duration::from_secs(30)));
        connector.set_keepalive_retries(Some(3));
        // Bytes nobody acknowledges end the connection then, where the system can do that.
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        connector.set_tcp_user_timeout(Some(Duration::from_secs(30)));
        Self {
            origins: Origins::new(proxies),
            connector,
            tls: TlsConnector::from(Arc::new(tls)),
            connect_timeout,
            pool: Pool { idle_timeout, most },
        }
    }

    /// Where `url` leads; none where no request can be sent there.
    pub(crate) fn origin(&self, url: &Url) -> Option<Arc<Origin>> {
        self.origins.of(url)
    }

    /// Sends `call` with `body` exactly once and waits for the answer's headers. A connection from the pool that turns
    /// out to be closed before a byte of the request left is replaced by the next.
    pub(crate) async fn send(
        &self,
        origin: Arc<Origin>,
        call: &mut Call,
        mut body: Outgoing,
        wait: Wait<'_>,
    ) -> Result<(Parts, Arriving), Broken> {
        let fresh = call.fresh_connection;
        loop {
            let idle = match fresh {
                true => None,
                false => origin.take(self.pool.idle_timeout, wait.deadline.start),
            };
            let reused = idle.is_some();
            let mut live = match idle {
                Some(live) => live,
                // Seldom, and large: not worth its place in every exchange.
                None => Box::pin(self.open(&origin, wait)).await?,
            };
            match live.exchange(request(&origin, call, body)?, wait).await? {
                Ok(response) => {
                    let (parts, body) = response.into_parts();
                    let arriving = Arriving {
                        body,
                        live: Some(live),
                        home: (!fresh).then_some((origin, self.pool)),
                    };
                    return Ok((parts, arriving));
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => {
                        let (parts, unsent) = unsent.into_parts();
                        call.headers = parts.headers;
                        body = unsent;
                    }
                    Some(_) => return Err(Fault::connect(error.into_error()).into()),
                    None => return Err(Fault::exchange(error.into_error()).into()),
                },
            }
        }
    }

    /// A new connection, within its own limit and those of the exchange. Where any of them is over, nothing was sent.
    async fn open(&self, origin: &Origin, wait: Wait<'_>) -> Result<Box<Live>, Broken> {
        let left = wait.deadline.at.saturating_duration_since(Instant::now());
        let limit = self.connect_timeout.min(wait.first_byte).min(left);
        match timeout(limit, self.connect(origin)).await {
            Ok(live) => Ok(live?),
            Err(_) => Err(Fault::connect(io::Error::from(io::ErrorKind::TimedOut)).into()),
        }
    }

    async fn connect(&self, origin: &Origin) -> Result<Box<Live>, Fault> {
        let mut connector = self.connector.clone();
        let connected = connector.call(origin.uri.clone()).await;
        let plain = connected.map_err(Fault::connect)?;
        let socket = match &origin.name {
            None => Socket::Plain(plain),
            Some(name) => {
                let tls = self.tls.connect(name.clone(), plain.into_inner()).await;
                Socket::Tls(Box::new(TokioIo::new(tls.map_err(Fault::connect)?)))
            }
        };
        Live::begin(socket).await
    }
}

/// The request `call` asks for, whose headers it takes.
fn request(origin: &Origin, call: &mut Call, body: Outgoing) -> Result<Request<Outgoing>, Fault> {
    let path = match call.url.query() {
        None => Uri::try_from(call.url.path()),
        Some(query) => Uri::try_from(format!("{}?{query}", call.url.path())),
    };
    let mut request = Request::new(body);
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = path.map_err(Fault::build)?;
    *request.headers_mut() = std::mem::take(&mut call.headers);
    request
        .headers_mut()
        .entry(HOST)
        .or_insert_with(|| origin.authority.clone());
    Ok(request)
}

/// How long an exchange may take.
#[derive(Clone, Copy)]
pub(crate) struct Wait<'a> {
    pub(crate) first_byte: Duration,
    pub(crate) deadline: Deadline,
    /// How far the request's body has been taken, where that takes longer than one write.
    pub(crate) progress: Option<&'a Progress>,
}

impl<'a> Wait<'a> {
    pub(crate) fn new(limits: &Limits, deadline: Deadline, progress: Option<&'a Progress>) -> Self {
        Self {
            first_byte: limits.first_byte,
            deadline,
            progress,
        }
    }

    /// Until when the answer's headers are waited for, by what is known now.
    pub(crate) fn until(&self) -> Instant {
        let sent = match self.progress {
            Some(progress) => progress.last(),
            None => self.deadline.start,
        };
        later(sent, self.first_byte).min(self.deadline.at)
    }

    /// How long was waited, where the wait was over at `until`.
    pub(crate) fn waited(&self, until: Instant) -> Duration {
        if until >= self.deadline.at {
            self.deadline.total
        } else {
            self.first_byte
        }
    }
}

type Answer = Result<Response<Incoming>, TrySendError<Request<Outgoing>>>;

impl Live {
    async fn begin(socket: Socket) -> Result<Box<Self>, Fault> {
        let (sender, driver) = http1::handshake(socket).await.map_err(Fault::connect)?;
        let bell = Arc::new(Bell::default());
        Ok(Box::new(Self {
            sender,
            driver: Some(driver),
            waker: Waker::from(Arc::clone(&bell)),
            bell,
            timer: Box::pin(sleep_until(Instant::now())),
        }))
    }

    /// One request and its answer's headers.
    fn exchange<'a>(
        &'a mut self,
        request: Request<Outgoing>,
        wait: Wait<'a>,
    ) -> impl Future<Output = Result<Answer, Broken>> + Send + use<'a> {
        let Self {
            sender,
            driver,
            bell,
            waker,
            timer,
        } = self;
        // Queued here, so that the request need not be kept beside.
        let answer = sender.try_send_request(request);
        let mut until = wait.until();
        timer.as_mut().reset(until);
        let mut answer = Box::pin(answer);
        poll_fn(move |cx| {
            bell.poll(cx, waker, |cx| {
                drive(driver, cx);
                // The answer can only come while the connection is polled, so that nobody need be woken for it.
                let mut nobody = Context::from_waker(Waker::noop());
                if let Poll::Ready(answer) = answer.as_mut().poll(&mut nobody) {
                    return Poll::Ready(Ok(answer));
                }
                while timer.as_mut().poll(cx).is_ready() {
                    // A piece of the request was taken meanwhile: the wait starts again there.
                    let now = wait.until();
                    if now <= until {
                        return Poll::Ready(Err(Broken::Waited(wait.waited(until))));
                    }
                    until = now;
                    timer.as_mut().reset(until);
                }
                Poll::Pending
            })
        })
    }
}

/// Moves the connection on; ends it where it is over, which gives its answer to whoever waits for one.
fn drive<T: Read + Write + Unpin>(
    driver: &mut Option<http1::Connection<T, Outgoing>>,
    cx: &mut Context<'_>,
) {
    if let Some(connection) = driver
        && Pin::new(connection).poll(cx).is_ready()
    {
        *driver = None;
    }
}

impl Arriving {
    /// The next piece of the body; none at its end. After that or an error there is none.
    pub(crate) async fn chunk(
        &mut self,
        idle: Duration,
        deadline: Deadline,
    ) -> Result<Option<Bytes>, Halt> {
        let Self { body, live, .. } = self;
        let piece = match live {
            None => return Ok(None),
            Some(live) => {
                let Live {
                    driver,
                    bell,
                    waker,
                    timer,
                    ..
                } = &mut **live;
                let mut until = None;
                poll_fn(|cx| {
                    bell.poll(cx, waker, |cx| {
                        // To ask for a piece lets the connection read one.
                        let mut piece = next(body);
                        if piece.is_pending() {
                            drive(driver, cx);
                            piece = next(body);
                        }
                        if let Poll::Ready(piece) = piece {
                            return Poll::Ready(piece.map_err(|error| Halt::Fault(error.into())));
                        }
                        let until = *until.get_or_insert_with(|| {
                            let until = later(Instant::now(), idle).min(deadline.at);
                            timer.as_mut().reset(until);
                            until
                        });
                        match timer.as_mut().poll(cx) {
                            Poll::Pending => Poll::Pending,
                            Poll::Ready(()) if until >= deadline.at => {
                                Poll::Ready(Err(Halt::Total))
                            }
                            Poll::Ready(()) => Poll::Ready(Err(Halt::Idle)),
                        }
                    })
                })
                .await
            }
        };
        match &piece {
            Ok(Some(_)) if !self.body.is_end_stream() => {}
            Ok(_) => self.release(),
            // Closed: nobody knows what of the answer is still on its way.
            Err(_) => self.live = None,
        }
        piece
    }

    /// Gives the connection back, if it can carry another exchange.
    fn release(&mut self) {
        let Some(mut live) = self.live.take() else {
            return;
        };
        let Some((origin, pool)) = self.home.take() else {
            return;
        };
        if !live.sender.is_ready() {
            // The answer's end may be read and not yet acted upon.
            drive(&mut live.driver, &mut Context::from_waker(&live.waker));
        }
        if live.driver.is_some() && live.sender.is_ready() {
            live.bell.forget();
            origin.put(live, pool.idle_timeout, pool.most);
        }
    }
}

/// The next piece that has arrived. Nobody is woken for one: it arrives while the connection is polled.
fn next(body: &mut Incoming) -> Poll<Result<Option<Bytes>, hyper::Error>> {
    let mut nobody = Context::from_waker(Waker::noop());
    loop {
        match Pin::new(&mut *body).poll_frame(&mut nobody) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(Ok(None)),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
            Poll::Ready(Some(Ok(frame))) => {
                // Trailers say nothing we use.
                if let Ok(bytes) = frame.into_data() {
                    return Poll::Ready(Ok(Some(bytes)));
                }
            }
        }
    }
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct")
            .field("connect_timeout", &self.connect_timeout)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("open", &self.driver.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Arriving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arriving")
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}
