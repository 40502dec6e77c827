//! Connections that can be cut: the listener hands every request a handle to its own TCP connection.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::engine::Engine;
use crate::faults::Cut;

/// A handle to the TCP connection a request came on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connection(Arc<Orders>);

/// What is to become of a connection.
#[derive(Debug, Default)]
struct Orders {
    cut: AtomicU8,
    plan: Mutex<Option<Plan>>,
    /// The task that reads, for orders that come while it waits.
    reader: AtomicWaker,
}

/// An end that comes later.
#[derive(Clone, Copy, Debug)]
enum Plan {
    /// When nothing came for so long.
    Idle(Duration, Cut),
    /// When something comes.
    Next(Cut),
}

const OPEN: u8 = 0;
const FIN: u8 = 1;
const RST: u8 = 2;

impl Connection {
    /// From now on no byte is written; the next attempt to write closes the connection.
    pub(crate) fn cut(&self, how: Cut) {
        let how = match how {
            Cut::Fin => FIN,
            Cut::Rst => RST,
        };
        self.0.cut.store(how, Ordering::Release);
    }

    /// Closes the connection when nothing comes for so long from now on.
    pub(crate) fn close_idle(&self, after: Duration, how: Cut) {
        self.plan(Plan::Idle(after, how));
    }

    /// Closes the connection as soon as something comes, and does not look at it.
    pub(crate) fn close_next(&self, how: Cut) {
        self.plan(Plan::Next(how));
    }

    fn plan(&self, plan: Plan) {
        *self.0.plan.lock().unwrap_or_else(PoisonError::into_inner) = Some(plan);
        self.0.reader.wake();
    }

    fn take_plan(&self, cx: &Context<'_>) -> Option<Plan> {
        self.0.reader.register(cx.waker());
        self.0
            .plan
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// A listener whose connections count themselves, can be cut, and end with the emulator.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    pub(crate) engine: Arc<Engine>,
    pub(crate) closing: CancellationToken,
}

impl Listener for Door {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, addr)) => {
                    // Without this, small answers wait for the client's delayed acknowledgements.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "could not set TCP_NODELAY");
                    }
                    self.engine.traffic.connections.enter();
                    let wire = Wire {
                        stream,
                        connection: Connection::default(),
                        engine: Arc::clone(&self.engine),
                        closing: Box::pin(self.closing.clone().cancelled_owned()),
                        ending: None,
                        closed: false,
                    };
                    return (wire, addr);
                }
                Err(error) => {
                    // Most often too many open files, which passes.
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Door>> for Connection {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        stream.io().connection.clone()
    }
}

/// A TCP stream that obeys its [`Connection`].
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    connection: Connection,
    engine: Arc<Engine>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    ending: Option<Ending>,
    closed: bool,
}

/// A [`Plan`] that a stream waits for.
#[derive(Debug)]
enum Ending {
    Idle(Pin<Box<Sleep>>, Cut),
    Next(Cut),
}

impl Wire {
    fn may_write(&mut self) -> io::Result<()> {
        match self.connection.0.cut.load(Ordering::Acquire) {
            OPEN if !self.closed => return Ok(()),
            RST => self.stream.set_zero_linger()?,
            _ => {}
        }
        Err(io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl Wire {
    /// Ends the connection while reading.
    fn end(&mut self, how: Cut) -> Poll<io::Result<()>> {
        self.closed = true;
        if how == Cut::Rst {
            self.connection.cut(Cut::Rst);
            self.stream.set_zero_linger()?;
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionReset)));
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.engine.traffic.connections.leave();
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.closed && self.closing.as_mut().poll(cx).is_ready() {
            self.closed = true;
        }
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        match self.connection.take_plan(cx) {
            Some(Plan::Idle(after, how)) => {
                self.ending = Some(Ending::Idle(Box::pin(tokio::time::sleep(after)), how));
            }
            Some(Plan::Next(how)) => self.ending = Some(Ending::Next(how)),
            None => {}
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_pending() {
            return match &mut self.ending {
                Some(Ending::Idle(sleep, how)) => {
                    let how = *how;
                    ready!(sleep.as_mut().poll(cx));
                    self.end(how)
                }
                _ => Poll::Pending,
            };
        }
        if let Some(Ending::Next(how)) = self.ending.take()
            && buf.filled().len() > before
        {
            buf.set_filled(before);
            return self.end(how);
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.may_write()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.may_write()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connection.0.cut.load(Ordering::Acquire) == RST {
            // An orderly shutdown would send the FIN that a reset must not have.
            self.stream.set_zero_linger()?;
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}
