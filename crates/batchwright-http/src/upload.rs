//! The request's body on its way out, and the wait for the answer behind it.

use crate::{
    call::{Body, separate},
    deadline::{Deadline, later},
};
use batchwright_core::{Error, ErrorKind, Result};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use std::{
    future::Future,
    io,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, Take},
    time::{Instant, timeout_at},
};

/// Bytes read from disk at a time.
const PIECE: usize = 512 * 1024;

/// The pause between two pieces. An answer that came early is read before the next write only if the
/// runtime looked at the socket in between; otherwise the write meets the closed connection and its
/// error hides the answer (F-045). With [`PIECE`] it bounds an upload at some 256 MiB a second.
const PAUSE: Duration = Duration::from_millis(1);

/// How far the request's body has been taken off our hands.
#[derive(Debug)]
pub(crate) struct Upload {
    start: Instant,
    /// Milliseconds from `start` to the last piece.
    last: AtomicU64,
    fault: OnceLock<Error>,
}

impl Upload {
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

    fn touch(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        later(
            self.start,
            Duration::from_millis(self.last.load(Ordering::Relaxed)),
        )
    }
}

/// The outcome of `exchange`, or how long it was waited for in vain: `first_byte` after the last piece
/// of the body was taken, or the whole deadline.
pub(crate) async fn answer<T>(
    exchange: impl Future<Output = T>,
    upload: &Upload,
    first_byte: Duration,
    deadline: Deadline,
) -> Result<T, Duration> {
    let mut exchange = std::pin::pin!(exchange);
    loop {
        let until = later(upload.last(), first_byte).min(deadline.at);
        match timeout_at(until, exchange.as_mut()).await {
            Ok(answer) => return Ok(answer),
            Err(_) if until >= deadline.at => return Err(deadline.total),
            // A piece was taken meanwhile: the wait starts again there.
            Err(_) if later(upload.last(), first_byte) > until => {}
            Err(_) => return Err(first_byte),
        }
    }
}

/// A body on its way. A file's length is checked here, before anything is sent, and declared in `headers`.
pub(crate) async fn outgoing(
    operation: &'static str,
    body: Body,
    headers: &mut HeaderMap,
    upload: &Arc<Upload>,
) -> Result<Option<reqwest::Body>> {
    let length = body.len();
    let (prefix, path, len, suffix, as_list) = match body {
        Body::Empty => return Ok(None),
        Body::Bytes(bytes) => return Ok(Some(reqwest::Body::from(bytes))),
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
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    let upload = Arc::clone(upload);
    file_body(operation, prefix, &path, len, suffix, as_list, upload)
        .await
        .map(Some)
}

/// A file between two pieces in memory.
async fn file_body(
    operation: &'static str,
    prefix: Bytes,
    path: &Path,
    len: u64,
    suffix: Bytes,
    as_list: bool,
    upload: Arc<Upload>,
) -> Result<reqwest::Body> {
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
    let content = Content {
        operation,
        file: file.take(len),
        left: len,
        as_list,
        upload,
    };
    let content = stream::try_unfold(content, Content::next);
    let whole = stream::iter([Ok(prefix)])
        .chain(content)
        .chain(stream::iter([Ok(suffix)]));
    Ok(reqwest::Body::wrap_stream(whole))
}

/// The part of a file not yet sent.
struct Content {
    operation: &'static str,
    file: Take<File>,
    left: u64,
    /// Whether line feeds go out as commas.
    as_list: bool,
    upload: Arc<Upload>,
}

impl Content {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        self.upload.touch();
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
                let _ = self.upload.fault.set(storage(self.operation, &error));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn f_038_an_upload_that_makes_progress_is_not_a_silent_server() {
        let second = Duration::from_secs(1);
        let exchange = async |upload: &Upload, pieces: u32| {
            for _ in 0..pieces {
                tokio::time::sleep(5 * second).await;
                upload.touch();
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
            let upload = Upload::new();
            let deadline = Deadline::after(total * second);
            let outcome = answer(
                exchange(&upload, pieces),
                &upload,
                first_byte * second,
                deadline,
            );
            assert_eq!(
                outcome.await,
                expected,
                "{pieces} pieces, {first_byte} s, {total} s"
            );
        }
    }
}
