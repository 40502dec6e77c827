//! Files of a job folder: private, never through a link, and durable once they say so.

use batchwright_core::{Error, ErrorKind, Result};
use ring::digest;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt::{Display, Write as _},
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

/// Bytes gathered before a write call: large enough that call overhead vanishes, small enough to forget.
const BUFFER_BYTES: usize = 256 * 1024;
/// The most bytes of a small file that is read whole; a job's schema and prompts are in one.
const SUMMED_MOST: u64 = 64 * 1024 * 1024;

/// Tells of a step on the disk right after it: for whoever reads the log at its finest, and for tests that crash between
/// any two.
pub(crate) fn told(what: &str, of: impl Display) {
    tracing::trace!(target: "batchwright_ledger::step", what, %of);
}

/// What was being done, where, why it failed and what to do about it.
pub(crate) fn storage(what: impl Display, path: &Path, error: io::Error) -> Error {
    let path = path.display();
    let message = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!(
                "{what} {path}: disk full; free some space and run again, nothing durable is lost"
            )
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            format!("{what} {path}: {error}; make the job folder writable for this user")
        }
        io::ErrorKind::NotFound => {
            format!("{what} {path}: it is gone; restore it, or start in a new folder")
        }
        _ => format!("{what} {path}: {error}; check the disk, then run again"),
    };
    Error::new(ErrorKind::Storage, message).with_source(error)
}

/// A file that is not what the ledger wrote down.
pub(crate) fn damaged(path: &Path, what: impl Display) -> Error {
    Error::new(
        ErrorKind::Storage,
        format!(
            "read {}: {what}; restore the file from a backup",
            path.display()
        ),
    )
}

/// Makes a folder only its owner can enter, parents included where they are missing.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(path)
        .map_err(|error| storage("create the folder", path, error))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let metadata =
            fs::metadata(path).map_err(|error| storage("read the folder", path, error))?;
        if metadata.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))
                .map_err(|error| storage("close to others the folder", path, error))?;
        }
    }
    Ok(())
}

/// Makes a folder inside the job folder, which must be no link (F-199).
pub(crate) fn make_inner_folder(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_dir() => Err(linked(path)),
        _ => make_folder(path),
    }
}

fn linked(path: &Path) -> Error {
    Error::new(
        ErrorKind::Storage,
        format!(
            "open {}: it is a link or no plain file; someone else may have put it there, so remove it",
            path.display()
        ),
    )
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// A new file only its owner can read. `create_new` follows no link.
pub(crate) fn create(path: &Path) -> Result<File> {
    private()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|error| storage("create", path, error))
}

/// How an existing file is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// An existing plain file. A link in its place is refused: what was looked at and what was opened must be
/// the same file, so there is no gap to plant one in.
pub(crate) fn open(path: &Path, access: Access) -> Result<File> {
    let seen = fs::symlink_metadata(path).map_err(|error| storage("open", path, error))?;
    if !seen.is_file() {
        return Err(linked(path));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(access == Access::Write)
        .open(path)
        .map_err(|error| storage("open", path, error))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let opened = file
            .metadata()
            .map_err(|error| storage("open", path, error))?;
        if (seen.dev(), seen.ino()) != (opened.dev(), opened.ino()) {
            return Err(linked(path));
        }
    }
    Ok(file)
}

/// An existing plain file for writing, or a new one.
pub(crate) fn open_or_create(path: &Path) -> Result<File> {
    if fs::symlink_metadata(path).is_ok() {
        return open(path, Access::Write);
    }
    match create(path) {
        // Another process made it in between.
        Err(_) if fs::symlink_metadata(path).is_ok() => open(path, Access::Write),
        created => created,
    }
}

/// Removes a file; that it is not there is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(storage("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Makes the names in a folder durable. Windows has no such call and needs none for its renames.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| storage("make durable the names in", path, error))?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// Fills `buffer` from `offset`, leaving the file's own position alone where the system allows it.
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < buffer.len() {
            let rest = &mut buffer[done..];
            match std::os::windows::fs::FileExt::seek_read(file, rest, offset + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => done += read,
            }
        }
        Ok(())
    }
}

/// Writes all of `buffer` at `offset`.
pub(crate) fn write_at(file: &File, buffer: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, buffer, offset);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < buffer.len() {
            let rest = &buffer[done..];
            match std::os::windows::fs::FileExt::seek_write(file, rest, offset + done as u64)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => done += written,
            }
        }
        Ok(())
    }
}

/// A SHA-256 in the making.
#[derive(Clone)]
pub(crate) struct Sha256(digest::Context);

impl Sha256 {
    pub(crate) fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Lower-case hex.
    pub(crate) fn hex(self) -> String {
        let mut hex = String::with_capacity(64);
        for byte in self.0.finish().as_ref() {
            write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
        }
        hex
    }
}

/// Hashes what `reader` holds from here on; also counts the bytes and the lines.
pub(crate) fn hash(path: &Path, mut reader: impl Read) -> Result<(String, u64, u64)> {
    let mut sha = Sha256::new();
    let (mut bytes, mut lines) = (0, 0);
    // Of any thread of a pool, each of which keeps what it once used.
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok((sha.hex(), bytes, lines)),
            Ok(read) => {
                sha.update(&buffer[..read]);
                bytes += read as u64;
                lines += memchr::memchr_iter(b'\n', &buffer[..read]).count() as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(storage("read", path, error)),
        }
    }
}

/// A file under a temporary name: whole and durable under its real one after `commit`, gone if dropped
/// before.
pub(crate) struct TempFile {
    file: BufWriter<File>,
    temp: PathBuf,
    path: PathBuf,
    sha: Sha256,
    bytes: u64,
    committed: bool,
}

impl TempFile {
    /// Replaces `path` on commit.
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        let mut temp = path.clone().into_os_string();
        temp.push(".tmp");
        let temp = PathBuf::from(temp);
        remove(&temp)?;
        Ok(Self::over(create(&temp)?, temp, path))
    }

    fn over(file: File, temp: PathBuf, path: PathBuf) -> Self {
        Self {
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            temp,
            path,
            sha: Sha256::new(),
            bytes: 0,
            committed: false,
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|error| storage("write", &self.path, error))?;
        self.sha.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Flushes, makes the contents durable and gives the file its name; the name itself is durable after
    /// [`sync_folder`]. Returns the SHA-256.
    pub(crate) fn commit(mut self) -> Result<String> {
        self.file
            .flush()
            .and_then(|()| self.file.get_ref().sync_all())
            .map_err(|error| storage("write", &self.path, error))?;
        told("file", self.temp.display());
        fs::rename(&self.temp, &self.path)
            .map_err(|error| storage("put in place", &self.path, error))?;
        told("name", self.path.display());
        self.committed = true;
        Ok(std::mem::replace(&mut self.sha, Sha256::new()).hex())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = remove(&self.temp)
        {
            tracing::warn!(%error, "an unfinished file stays behind until the job is opened again");
        }
    }
}

/// Writes `value` as a line of JSON and its SHA-256 on the next, whole or not at all.
pub(crate) fn write_summed(path: PathBuf, value: &impl Serialize) -> Result<()> {
    let mut json = serde_json::to_vec(value).expect("plain data always serialises");
    json.push(b'\n');
    let mut sha = Sha256::new();
    sha.update(&json);
    let mut file = TempFile::create(path)?;
    file.write(&json)?;
    file.write(sha.hex().as_bytes())?;
    file.write(b"\n")?;
    file.commit().map(drop)
}

/// Reads what [`write_summed`] wrote, to the last byte.
pub(crate) fn read_summed<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let mut bytes = Vec::new();
    open(path, Access::Read)?
        .take(SUMMED_MOST)
        .read_to_end(&mut bytes)
        .map_err(|error| storage("read", path, error))?;
    let changed = || damaged(path, "it was changed after it was written");
    let end = memchr::memchr(b'\n', &bytes).ok_or_else(changed)? + 1;
    let (json, sum) = bytes.split_at(end);
    let mut sha = Sha256::new();
    sha.update(json);
    if sum.strip_suffix(b"\n") != Some(sha.hex().as_bytes()) {
        return Err(changed());
    }
    serde_json::from_slice(json)
        .map_err(|error| damaged(path, "it is of another version").with_source(error))
}

/// Removes what an interrupted process left under temporary names.
pub(crate) fn remove_temps(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(|error| storage("read", folder, error))?;
    for entry in entries {
        let path = entry
            .map_err(|error| storage("read", folder, error))?
            .path();
        if path.extension().is_some_and(|extension| extension == "tmp") {
            remove(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn f_145_a_full_disk_is_named_and_leaves_nothing_under_the_real_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut file = TempFile::over(full, folder.path().join("out.tmp"), path.clone());
        file.write(b"x").unwrap();
        let error = file.commit().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(error.message().contains("disk full"), "{error}");
        assert!(!path.exists());
    }

    #[cfg(unix)]
    #[test]
    fn f_199_a_link_is_never_followed() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        fs::write(&target, "theirs").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(create(&link).is_err());
        assert!(open(&link, Access::Read).is_err());
        assert!(open_or_create(&link).is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "theirs");
        let inner = folder.path().join("inner");
        std::os::unix::fs::symlink(folder.path(), &inner).unwrap();
        assert!(make_inner_folder(&inner).is_err());
    }

    #[test]
    fn a_dropped_temporary_file_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        TempFile::create(path.clone()).unwrap().write(b"x").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let mut file = TempFile::create(path.clone()).unwrap();
        file.write(b"abc").unwrap();
        let sha = file.commit().unwrap();
        assert_eq!(
            sha,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(fs::read(&path).unwrap(), b"abc");
    }
}
