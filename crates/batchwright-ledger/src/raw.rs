//! Downloads, kept untouched.

use crate::{
    files::{self, Access, Sha256},
    ledger::{Ledger, blocking},
};
use batchwright_core::{ByteStream, Error, ErrorKind, Result};
use bytes::Bytes;
use futures::StreamExt as _;
use std::{
    fs, io,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::PathBuf,
};
use tokio::sync::mpsc;

/// Pieces between the network and the disk. On a fast connection a piece grows to 400 KiB, so few are enough to keep
/// both busy, and many are megabytes for each download.
const PIECES: usize = 1;

/// A whole download in the job's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawFile {
    /// Its name within the job, for the `Downloaded` fact.
    pub file: String,
    /// Where it is.
    pub path: PathBuf,
    /// Lower-case hex.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

/// The only names raw files have: generated, with nothing in them from outside but a checked label (F-198).
pub(crate) fn name(chunk: u32, attempt: u32, label: &str) -> Result<String> {
    let fits = (1..=32).contains(&label.len())
        && label.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-')
        });
    if !fits {
        return Err(Error::new(
            ErrorKind::Unexpected,
            "name a file of the job: a label is 1 to 32 of a-z, 0-9, _ and -",
        ));
    }
    Ok(format!("{chunk:06}-{attempt}-{label}.jsonl"))
}

fn paths(
    ledger: &Ledger,
    chunk: u32,
    attempt: u32,
    label: &str,
) -> Result<(String, PathBuf, PathBuf)> {
    let name = name(chunk, attempt, label)?;
    let path = ledger.path("raw", &name);
    let part = ledger.path("raw", &format!("{name}.part"));
    Ok((name, path, part))
}

pub(crate) fn path_of(ledger: &Ledger, file: &str) -> Result<PathBuf> {
    let known = || {
        let mut parts = file.strip_suffix(".jsonl")?.splitn(3, '-');
        let chunk = parts.next()?.parse().ok()?;
        let attempt = parts.next()?.parse().ok()?;
        name(chunk, attempt, parts.next()?).ok()
    };
    if known().as_deref() == Some(file) {
        Ok(ledger.path("raw", file))
    } else {
        Err(Error::new(
            ErrorKind::Storage,
            "read a raw file: the journal names one the ledger never makes; it was changed",
        ))
    }
}

/// Every whole download: chunk, attempt and label.
pub(crate) fn list(ledger: &Ledger) -> Result<Vec<(u32, u32, String)>> {
    let folder = ledger.path("raw", "");
    let failed = |error| files::storage("read", &folder, error);
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let file = entry.map_err(failed)?.file_name();
        let Some(file) = file.to_str() else { continue };
        let parts = || {
            let mut parts = file.strip_suffix(".jsonl")?.splitn(3, '-');
            let chunk = parts.next()?.parse().ok()?;
            let attempt = parts.next()?.parse().ok()?;
            Some((chunk, attempt, parts.next()?.to_owned()))
        };
        found.extend(parts().filter(|(chunk, attempt, label)| {
            name(*chunk, *attempt, label).is_ok_and(|known| known == file)
        }));
    }
    found.sort();
    Ok(found)
}

pub(crate) fn partial(ledger: &Ledger, chunk: u32, attempt: u32, label: &str) -> Result<u64> {
    let (_, _, part) = paths(ledger, chunk, attempt, label)?;
    match fs::symlink_metadata(&part) {
        Ok(metadata) if metadata.is_file() => Ok(metadata.len()),
        Ok(_) => files::open(&part, Access::Read).map(|_| 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(files::storage("look at", &part, error)),
    }
}

pub(crate) fn find(
    ledger: &Ledger,
    chunk: u32,
    attempt: u32,
    label: &str,
) -> Result<Option<RawFile>> {
    let (file, path, _) = paths(ledger, chunk, attempt, label)?;
    if fs::symlink_metadata(&path).is_err() {
        return Ok(None);
    }
    let (sha256, bytes, _) = files::hash(&path, files::open(&path, Access::Read)?)?;
    Ok(Some(RawFile {
        file,
        path,
        sha256,
        bytes,
    }))
}

pub(crate) fn discard(ledger: &Ledger, chunk: u32, attempt: u32, label: &str) -> Result<()> {
    ledger.writable()?;
    let (_, path, part) = paths(ledger, chunk, attempt, label)?;
    files::remove(&part)?;
    files::remove(&path)
}

/// Keeps two writers of this process off the same file, also where the first one's caller is gone.
struct Claim {
    ledger: Ledger,
    name: String,
}

impl Claim {
    fn take(ledger: &Ledger, name: &str) -> Result<Self> {
        if ledger.downloading().insert(name.to_owned()) {
            return Ok(Self {
                ledger: ledger.clone(),
                name: name.to_owned(),
            });
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!("download raw/{name}: it is being written; wait for that"),
        ))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.ledger.downloading().remove(&self.name);
    }
}

enum Piece {
    Bytes(Bytes),
    /// The body ended as it should; a channel that closes without this was abandoned.
    End,
}

pub(crate) async fn keep(
    ledger: &Ledger,
    chunk: u32,
    attempt: u32,
    label: &str,
    offset: u64,
    mut body: ByteStream,
) -> Result<RawFile> {
    ledger.writable()?;
    let (name, path, part) = paths(ledger, chunk, attempt, label)?;
    let claim = Claim::take(ledger, &name)?;
    let folder = ledger.path("raw", "");
    let (sender, receiver) = mpsc::channel(PIECES);
    let writer = blocking(move || {
        let _claim = claim;
        write(name, &path, &part, &folder, offset, receiver)
    });
    let reader = async move {
        while let Some(piece) = body.next().await {
            // A writer that is gone has an error of its own to tell.
            if sender.send(Piece::Bytes(piece?)).await.is_err() {
                return Ok(());
            }
        }
        sender.send(Piece::End).await.ok();
        Ok(())
    };
    let (read, written): (Result<()>, _) = futures::join!(reader, writer);
    read?;
    written?.ok_or_else(|| Error::new(ErrorKind::Unexpected, "keep a download: it was abandoned"))
}

/// `None` where the body did not end as it should; what came is then in the partial file.
fn write(
    name: String,
    path: &PathBuf,
    part: &PathBuf,
    folder: &std::path::Path,
    offset: u64,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<Option<RawFile>> {
    let failed = |error| files::storage("write", part, error);
    let mut file = files::open_or_create(part)?;
    let there = file.metadata().map_err(failed)?.len();
    if there < offset {
        return Err(Error::new(
            ErrorKind::Storage,
            format!(
                "resume raw/{name}: {there} bytes are there, not {offset}; download it from the start"
            ),
        ));
    }
    file.set_len(offset).map_err(failed)?;
    let mut sha = Sha256::new();
    let there = usize::try_from(offset).unwrap_or(usize::MAX);
    let mut buffer = vec![0; there.min(64 * 1024)];
    let mut bytes = 0;
    while bytes < offset {
        let read = file.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        sha.update(&buffer[..read]);
        bytes += read as u64;
    }
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Bytes(piece)) => {
                file.write_all(&piece).map_err(failed)?;
                sha.update(&piece);
                bytes += piece.len() as u64;
            }
            Some(Piece::End) => break,
            None => return Ok(None),
        }
    }
    file.sync_all().map_err(failed)?;
    drop(file);
    files::told("file", part.display());
    fs::rename(part, path).map_err(|error| files::storage("put in place", path, error))?;
    files::sync_folder(folder)?;
    files::told("name", path.display());
    Ok(Some(RawFile {
        file: name,
        path: path.clone(),
        sha256: sha.hex(),
        bytes,
    }))
}
