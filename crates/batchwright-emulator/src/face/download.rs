//! Stored files on their way out: ranges, and downloads that the fault script spoils.

use std::io::{self, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::Faults;
use crate::control::block;
use crate::engine::Engine;
use crate::faults::FaultAction;
use crate::results::{self, LineShape};
use crate::seed::mix;
use crate::store::FileRecord;

/// What is sent to whom.
#[derive(Clone, Copy)]
pub(crate) struct Download<'a> {
    pub(crate) engine: &'a Arc<Engine>,
    pub(crate) file: &'a FileRecord,
    /// Of the request: a range may be asked for.
    pub(crate) headers: &'a HeaderMap,
    pub(crate) faults: &'a Faults,
    /// The call's number.
    pub(crate) sequence: u64,
    pub(crate) shape: &'static dyn LineShape,
}

/// Sends a stored file as `application/octet-stream`, whole or the one range that was asked for.
pub(crate) async fn send(download: &Download<'_>) -> io::Result<Response> {
    let Download {
        engine,
        file: record,
        headers,
        faults,
        sequence,
        shape,
    } = *download;
    let mutations = faults.mutations();
    // Keeps a spoiled copy until the answer has the file open.
    let spoiled;
    let (path, bytes) = if mutations.is_empty() {
        (engine.files.data_path(&record.id), record.bytes)
    } else {
        spoiled = Scratch(engine.files.scratch_path(sequence));
        let (from, to) = (engine.files.data_path(&record.id), spoiled.0.clone());
        let mutations: Vec<_> = mutations.into_iter().cloned().collect();
        let seed = mix(engine.config.seed, sequence);
        let bytes = block(move || {
            let mutations: Vec<_> = mutations.iter().collect();
            results::copy(&from, &to, seed, false, &mutations, shape)
        })
        .await?;
        (spoiled.0.clone(), bytes)
    };
    let mut file = tokio::fs::File::open(&path).await?;
    let ignore_range = faults
        .actions
        .iter()
        .any(|action| matches!(action, FaultAction::IgnoreRange));
    let range = if ignore_range {
        Range::Whole
    } else {
        Range::of(headers, bytes)
    };
    let (from, len) = match range {
        Range::Whole => (0, bytes),
        Range::Part { from, len } => (from, len),
        Range::Beyond => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            if let Ok(value) = HeaderValue::try_from(format!("bytes */{bytes}")) {
                response.headers_mut().insert(header::CONTENT_RANGE, value);
            }
            return Ok(response);
        }
    };
    if from > 0 {
        file.seek(SeekFrom::Start(from)).await?;
    }
    let body = ReaderStream::with_capacity(file.take(len), 128 << 10);
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    if let Range::Part { from, len } = range {
        let value = format!("bytes {from}-{}/{bytes}", from + len - 1);
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(header::CONTENT_RANGE, value);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// A file that goes when the upload comes to nothing.
#[derive(Debug, Default)]
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Gone already when the upload was stored; a leftover goes at the next start.
        if let Err(error) = crate::store::remove_file(&self.0) {
            tracing::debug!(%error, "could not remove a scratch file");
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    Whole,
    Part { from: u64, len: u64 },
    Beyond,
}

impl Range {
    /// One range of bytes; several, or another unit, mean the whole file.
    fn of(headers: &HeaderMap, bytes: u64) -> Self {
        let asked = headers
            .get(header::RANGE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("bytes="))
            .and_then(|value| value.split_once('-'));
        let Some((from, to)) = asked else {
            return Self::Whole;
        };
        let (from, end) = match (from.parse::<u64>(), to.parse::<u64>()) {
            (Ok(from), Ok(to)) if from <= to => (from, to.saturating_add(1).min(bytes)),
            (Ok(from), Err(_)) if to.is_empty() => (from, bytes),
            (Err(_), Ok(last)) if from.is_empty() => (bytes.saturating_sub(last), bytes),
            _ => return Self::Whole,
        };
        if from >= end {
            return Self::Beyond;
        }
        Self::Part {
            from,
            len: end - from,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_means_them() {
        let part = |from, len| Range::Part { from, len };
        for (asked, range) in [
            ("bytes=0-", part(0, 10)),
            ("bytes=3-5", part(3, 3)),
            ("bytes=3-99", part(3, 7)),
            ("bytes=-4", part(6, 4)),
            ("bytes=-99", part(0, 10)),
            ("bytes=10-", Range::Beyond),
            ("bytes=5-3", Range::Whole),
            ("bytes=0-1,3-4", Range::Whole),
            ("lines=0-1", Range::Whole),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::from_static(asked));
            assert_eq!(Range::of(&headers, 10), range, "{asked}");
        }
    }
}
