//! The request's body on its way out.

use crate::{
    call::{Body, separate},
    deadline::later,
};
use batchwright_core::{Error, ErrorKind, Result};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream, stream::BoxStream};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::{
    fmt, io,
    path::Path,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, Take},
    time::Instant,
};

/// Bytes read from disk at a time.
const PIECE: usize = 512 * 1024;

/// The pause between two pieces. An answer that came early is read before the next write only if the
/// runtime looked at the socket in between; otherwise the write meets the closed connection and its
/// error hides the answer (F-045). With [`PIECE`] it bounds an upload at some 256 MiB a second.
const PAUSE: Duration = Duration::from_millis(1);

/// How far a body that is read from disk has been taken off our hands.
#[derive(Debug)]
pub(crate) struct Progress {
    start: Instant,
    /// Milliseconds from `start` to the last piece.
    last: AtomicU64,
    fault: OnceLock<Error>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
            fault: OnceLock::new(),
        }
    }

    /// Why our own side could not go on, if it could not.
    pub(crate) fn fault(&self) -> Option<&Error> {
        self.fault.get()
    }

    pub(crate) fn touch(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// When the last piece was taken.
    pub(crate) fn last(&self) -> Instant {
        later(
            self.start,
            Duration::from_millis(self.last.load(Ordering::Relaxed)),
        )
    }
}

/// A body as it goes out.
pub(crate) enum Outgoing {
    Empty,
    Bytes(Bytes),
    Stream {
        pieces: BoxStream<'static, io::Result<Bytes>>,
        /// Bytes not yet taken.
        left: u64,
    },
}

impl Outgoing {
    /// A body on its way, and where its progress is seen if it is read from disk. A file's length is checked here,
    /// before anything is sent.
    pub(crate) async fn of_file(
        operation: &'static str,
        body: Body,
    ) -> Result<(Self, Option<Arc<Progress>>)> {
        let left = body.len();
        let (prefix, path, len, suffix, as_list) = match body {
            Body::Empty => return Ok((Self::Empty, None)),
            Body::Bytes(bytes) => return Ok((Self::Bytes(bytes), None)),
            Body::File {
                prefix,
                path,
                len,
                suffix,
            } => (prefix, path, len, suffix, false),
            Body::Lines {
                prefix,
                path,
                len,
                suffix,
            } => (prefix, path, len, suffix, true),
        };
        let file = open(operation, &path, len).await?;
        let progress = Arc::new(Progress::new());
        let content = Content {
            operation,
            file: file.take(len),
            left: len,
            as_list,
            progress: Arc::clone(&progress),
        };
        let pieces = stream::iter([Ok(prefix)])
            .chain(stream::try_unfold(content, Content::next))
            .chain(stream::iter([Ok(suffix)]))
            .boxed();
        Ok((Self::Stream { pieces, left }, Some(progress)))
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Stream { pieces, left } => {
                let piece = ready!(pieces.as_mut().poll_next(cx));
                Poll::Ready(piece.map(|piece| {
                    let piece = piece?;
                    *left = left.saturating_sub(piece.len() as u64);
                    Ok(Frame::data(piece))
                }))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Bytes(bytes) => bytes.is_empty(),
            // Only its end tells that the file was as long as it should be.
            Self::Stream { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Stream { left, .. } => *left,
        })
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outgoing")
            .field(&self.size_hint().exact())
            .finish()
    }
}

/// The file, if it has the length it should have.
async fn open(operation: &'static str, path: &Path, len: u64) -> Result<File> {
    let file = File::open(path)
        .await
        .map_err(|error| storage(operation, &error))?;
    let on_disk = file
        .metadata()
        .await
        .map_err(|error| storage(operation, &error))?
        .len();
    if on_disk != len {
        let message =
            format!("{operation}: the file to be uploaded has {on_disk} bytes instead of {len}");
        return Err(Error::new(ErrorKind::Storage, message));
    }
    Ok(file)
}

/// The part of a file not yet sent.
struct Content {
    operation: &'static str,
    file: Take<File>,
    left: u64,
    /// Whether line feeds go out as commas.
    as_list: bool,
    progress: Arc<Progress>,
}

impl Content {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        self.progress.touch();
        if self.left == 0 {
            return Ok(None);
        }
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = self
            .file
            .read_buf(&mut piece)
            .await
            .and_then(|read| match read {
                0 => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "it became shorter while it was sent",
                )),
                read => Ok(read),
            });
        match read {
            Ok(read) => {
                self.left = self.left.saturating_sub(read as u64);
                if self.as_list {
                    separate(&mut piece, self.left);
                }
                tokio::time::sleep(PAUSE).await;
                Ok(Some((piece.freeze(), self)))
            }
            Err(error) => {
                // The server sees a body shorter than declared; what we report is why.
                let _ = self.progress.fault.set(storage(self.operation, &error));
                Err(error)
            }
        }
    }
}

fn storage(operation: &str, error: &io::Error) -> Error {
    Error::new(
        ErrorKind::Storage,
        format!("{operation}: read the file to be uploaded: {error}"),
    )
}
