//! Where results are written to.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

/// A file that appears whole or not at all, or a stream.
pub(super) enum Destination {
    File(PartialFile),
    Stream(Box<dyn Write + Send>),
}

/// A file beside its target, which takes the target's place when it is finished, and is removed when it is
/// dropped before that.
pub(super) struct PartialFile {
    file: File,
    path: PathBuf,
    target: PathBuf,
    is_placed: bool,
}

impl Destination {
    /// A file at `path`, a stream to standard output for `-`, and one into whatever else is there: a device or
    /// a pipe is written to, never replaced.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stream(Box::new(io::stdout())));
        }
        match fs::metadata(path) {
            Ok(found) if found.is_file() => {
                // A link stays a link: what it points to is replaced.
                let target = fs::canonicalize(path)?;
                PartialFile::create(target, Some(found.permissions())).map(Self::File)
            }
            Ok(found) if found.is_dir() => Err(io::Error::new(
                io::ErrorKind::IsADirectory,
                "it is a folder; name a file in it",
            )),
            Ok(_) => {
                let file = OpenOptions::new().write(true).open(path)?;
                Ok(Self::Stream(Box::new(file)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                PartialFile::create(path.to_owned(), None).map(Self::File)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    /// Makes what was written durable and visible.
    pub(super) fn finish(self) -> io::Result<()> {
        match self {
            Self::File(file) => file.place(),
            Self::Stream(mut stream) => stream.flush(),
        }
    }
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.file.write(bytes),
            Self::Stream(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.file.flush(),
            Self::Stream(stream) => stream.flush(),
        }
    }
}

impl PartialFile {
    fn create(target: PathBuf, permissions: Option<fs::Permissions>) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let folder = folder_of(&target);
        let (file, path) = loop {
            // The name is made of numbers alone, so no name from outside can be too long or odd (F-198).
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!(".batchwright-{}-{number}.partial", process::id());
            let path = folder.join(name);
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            // Answers are for their owner alone, unless the file that stood there said otherwise (F-199).
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            match options.open(&path) {
                Ok(file) => break (file, path),
                // Left behind by a process of the same number that was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        };
        let partial = Self {
            file,
            path,
            target,
            is_placed: false,
        };
        if let Some(permissions) = permissions {
            partial.file.set_permissions(permissions)?;
        }
        Ok(partial)
    }

    /// The file is on disk before it has its name, and the name is on disk before this returns (F-149).
    fn place(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, &self.target)?;
        self.is_placed = true;
        #[cfg(unix)]
        File::open(folder_of(&self.target))?.sync_all()?;
        Ok(())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.is_placed {
            // Nobody can act on a failure here, and the name says what the file is.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The folder a file is in; the current one for a bare name.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
