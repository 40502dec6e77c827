//! The answer's body on its way in: bounded in time and memory, decompressed.

use crate::{deadline::Deadline, direct, failure, through_reqwest};
use batchwright_core::{ByteStream, Result, RetryClass};
use bytes::{Buf, Bytes, BytesMut};
use flate2::write::MultiGzDecoder;
use futures::{StreamExt, stream};
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap};
use std::{io::Write, time::Duration};

/// Compressed bytes unfolded at a time: gzip packs at most 1,032 to one, so a bomb unfolds by 2 MiB
/// before its size is looked at (F-200).
const SLICE: usize = 2 * 1024;

/// Unfolded bytes handed on at a time, at least, where there are as many.
const PIECE: usize = 64 * 1024;

/// A body that is arriving.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) operation: &'static str,
    pub(crate) source: Source,
    pub(crate) idle: Duration,
    pub(crate) deadline: Deadline,
    /// The most bytes after decompression.
    pub(crate) cap: u64,
    pub(crate) coding: Coding,
    pub(crate) read: u64,
}

/// Over what it arrives.
#[derive(Debug)]
pub(crate) enum Source {
    Direct(direct::Arriving),
    Reqwest(Box<through_reqwest::Arriving>),
}

/// How a body is packed.
#[derive(Debug)]
pub(crate) enum Coding {
    Identity,
    Gzip(Box<Gunzip>),
    /// One that was not asked for.
    Unknown,
}

impl Coding {
    /// Reads and removes the headers that speak of the packed body.
    pub(crate) fn take_from(headers: &mut HeaderMap) -> Self {
        let Some(value) = headers.get(CONTENT_ENCODING) else {
            return Self::Identity;
        };
        let coding = match value
            .as_bytes()
            .trim_ascii()
            .to_ascii_lowercase()
            .as_slice()
        {
            b"" | b"identity" => return Self::Identity,
            b"gzip" | b"x-gzip" => Self::Gzip(Box::default()),
            _ => Self::Unknown,
        };
        headers.remove(CONTENT_ENCODING);
        headers.remove(CONTENT_LENGTH);
        coding
    }
}

impl Incoming {
    /// The body as a stream that ends at its first error.
    pub(crate) fn into_stream(self) -> ByteStream {
        stream::unfold(Some(self), |incoming| async move {
            let mut incoming = incoming?;
            match incoming.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(incoming))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    /// The next piece; after `None` or an error there is none.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Coding::Gzip(gunzip) = &mut self.coding {
                match gunzip.unfold() {
                    Ok(Some(bytes)) => return self.count(bytes).map(Some),
                    Ok(None) => {}
                    Err(error) => {
                        return Err(failure::of_coding(self.operation, &error.to_string()));
                    }
                }
            }
            let packed = self.receive().await?;
            match (&mut self.coding, packed) {
                (Coding::Identity, Some(bytes)) => return self.count(bytes).map(Some),
                (Coding::Gzip(gunzip), Some(bytes)) => gunzip.packed = bytes,
                (Coding::Gzip(gunzip), None) => {
                    return match gunzip.finish() {
                        Ok(Some(bytes)) => self.count(bytes).map(Some),
                        Ok(None) => Ok(None),
                        Err(error) => Err(failure::of_coding(self.operation, &error.to_string())),
                    };
                }
                (Coding::Unknown, Some(_)) => {
                    return Err(failure::of_coding(
                        self.operation,
                        "an encoding that was not asked for",
                    ));
                }
                (Coding::Identity | Coding::Unknown, None) => return Ok(None),
            }
        }
    }

    /// The next piece as it was sent.
    async fn receive(&mut self) -> Result<Option<Bytes>> {
        let (idle, deadline) = (self.idle, self.deadline);
        let piece = match &mut self.source {
            Source::Direct(body) => body.chunk(idle, deadline).await,
            Source::Reqwest(body) => body.chunk(idle, deadline).await,
        };
        piece.map_err(|halt| failure::of_body(self.operation, &halt, idle, deadline.total))
    }

    fn count(&mut self, bytes: Bytes) -> Result<Bytes> {
        self.read = self.read.saturating_add(bytes.len() as u64);
        if self.read > self.cap {
            return Err(failure::too_long(self.operation, self.cap));
        }
        Ok(bytes)
    }
}

/// Unpacks gzip: several members, each with its checksum, and nothing behind them (F-043, F-044).
/// tower-http, which reqwest would use, drops every member but the first without a word.
#[derive(Debug)]
pub(crate) struct Gunzip {
    decoder: MultiGzDecoder<Vec<u8>>,
    packed: Bytes,
    /// An empty body is no broken gzip.
    fed: bool,
}

impl Default for Gunzip {
    fn default() -> Self {
        Self {
            decoder: MultiGzDecoder::new(Vec::new()),
            packed: Bytes::new(),
            fed: false,
        }
    }
}

impl Gunzip {
    fn unfold(&mut self) -> std::io::Result<Option<Bytes>> {
        while !self.packed.is_empty() && self.decoder.get_ref().len() < PIECE {
            self.fed = true;
            let slice = &self.packed[..self.packed.len().min(SLICE)];
            let taken = self.decoder.write(slice)?;
            if taken == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            self.packed.advance(taken);
        }
        if self.fed && self.packed.is_empty() {
            // The decoder holds back what fits its own buffer, which an event stream must not wait for.
            self.decoder.flush()?;
        }
        Ok(self.take())
    }

    /// Checks that the last member is whole, and gives what the decoder still held back.
    fn finish(&mut self) -> std::io::Result<Option<Bytes>> {
        if std::mem::take(&mut self.fed) {
            self.decoder.try_finish()?;
        }
        Ok(self.take())
    }

    fn take(&mut self) -> Option<Bytes> {
        let unfolded = std::mem::take(self.decoder.get_mut());
        (!unfolded.is_empty()).then(|| Bytes::from(unfolded))
    }
}

/// A body being read to its end. Below status 400 half a body is an error; from 400 on the status says
/// enough, and the body is cut at `cap`.
#[derive(Debug)]
pub(crate) struct Whole {
    status: u16,
    cap: u64,
    /// Most answers arrive in one piece, which is handed on as it is.
    first: Bytes,
    rest: BytesMut,
    complete: bool,
}

impl Whole {
    pub(crate) fn new(status: u16, cap: u64) -> Self {
        Self {
            status,
            cap,
            first: Bytes::new(),
            rest: BytesMut::new(),
            complete: true,
        }
    }

    /// Takes the next piece; `false` where no further one is wanted.
    pub(crate) fn push(&mut self, piece: Result<Bytes>) -> Result<bool> {
        let lenient = self.status >= 400;
        let piece = match piece {
            Ok(piece) => piece,
            Err(_) if lenient => {
                self.complete = false;
                return Ok(false);
            }
            Err(error) => {
                return Err(error
                    .with_class(RetryClass::Ambiguous)
                    .with_status(self.status));
            }
        };
        if self.first.is_empty() && self.rest.is_empty() {
            self.first = piece;
        } else {
            if self.rest.is_empty() {
                self.rest.reserve(self.first.len() + piece.len());
                self.rest.extend_from_slice(&self.first);
            }
            self.rest.extend_from_slice(&piece);
        }
        let read = self.first.len().max(self.rest.len()) as u64;
        if lenient && read > self.cap {
            self.complete = false;
            return Ok(false);
        }
        Ok(true)
    }

    /// The body, and whether it is whole.
    pub(crate) fn finish(self) -> (Bytes, bool) {
        let mut bytes = if self.rest.is_empty() {
            self.first
        } else {
            self.rest.freeze()
        };
        bytes.truncate(usize::try_from(self.cap).unwrap_or(usize::MAX));
        (bytes, self.complete)
    }
}
