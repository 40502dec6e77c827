//! Connections that can be cut: the listener hands every request a handle to its own TCP connection.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::engine::Engine;
use crate::faults::Cut;

/// A handle to the TCP connection a request came on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connection {
    cut: Arc<AtomicU8>,
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
        self.cut.store(how, Ordering::Release);
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
    closed: bool,
}

impl Wire {
    fn may_write(&mut self) -> io::Result<()> {
        match self.connection.cut.load(Ordering::Acquire) {
            OPEN if !self.closed => return Ok(()),
            RST => self.stream.set_zero_linger()?,
            _ => {}
        }
        Err(io::Error::from(io::ErrorKind::BrokenPipe))
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
        Pin::new(&mut self.stream).poll_read(cx, buf)
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
        if self.connection.cut.load(Ordering::Acquire) == RST {
            // An orderly shutdown would send the FIN that a reset must not have.
            self.stream.set_zero_linger()?;
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}
