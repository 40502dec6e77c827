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
        remove_leftovers(folder);
        let (file, path) = loop {
            // The name is made of numbers alone, so no name from outside can be too long or odd (F-198).
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{PREFIX}{}-{number}{SUFFIX}", process::id());
            let path = folder.join(name);
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            // Answers are for their owner alone, unless the file that stood there said otherwise (F-199).
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            match options.open(&path) {
                Ok(file) => {
                    // Whoever cleans up may have taken it for a leftover before it was locked, and removed it.
                    // Where there are no locks, the process id alone protects it.
                    let _ = file.lock();
                    if path.try_exists()? {
                        break (file, path);
                    }
                }
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

const PREFIX: &str = ".batchwright-";
const SUFFIX: &str = ".partial";

/// Removes partial files of processes that were killed (F-148). Nobody waits for them: where one cannot be removed it
/// stays until the next time.
fn remove_leftovers(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(owner) = name.to_str().and_then(owner) else {
            continue;
        };
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) || is_running(owner) {
            continue;
        }
        // The lock goes with its process, also where that ran under another machine's or container's numbers.
        let Ok(file) = OpenOptions::new().write(true).open(entry.path()) else {
            continue;
        };
        if file.try_lock().is_ok() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The process that made the partial file of this name.
fn owner(name: &str) -> Option<u32> {
    let numbers = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let (process, number) = numbers.split_once('-')?;
    number.parse::<u64>().ok()?;
    process.parse().ok()
}

/// Whether another process of this number runs, where the system tells. Of this one's own files the locks tell.
fn is_running(id: u32) -> bool {
    id != process::id() && Path::new("/proc").join(id.to_string()).exists()
}

/// The folder a file is in; the current one for a bare name.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_148_leftovers_of_killed_processes_are_removed_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        // Above the highest number Linux gives.
        let gone = [
            ".batchwright-4194999-0.partial".to_owned(),
            format!(".batchwright-{}-999999.partial", process::id()),
        ];
        let kept = [
            ".batchwright-4194999-x.partial",
            ".batchwright-4194999.partial",
            "batchwright-4194999-0.partial",
            ".batchwright-4194999-0.partial.csv",
        ];
        for name in gone.iter().map(String::as_str).chain(kept) {
            fs::write(path(name), "x").unwrap();
        }
        fs::create_dir(path(".batchwright-4194998-0.partial")).unwrap();
        let first = PartialFile::create(path("a.csv"), None).unwrap();
        let second = PartialFile::create(path("b.csv"), None).unwrap();
        assert!(gone.iter().all(|name| !path(name).exists()));
        assert!(kept.iter().all(|name| path(name).exists()));
        assert!(path(".batchwright-4194998-0.partial").is_dir());
        assert!(
            first.path.exists() && second.path.exists(),
            "those being written stay"
        );
        second.place().unwrap();
        first.place().unwrap();
        assert!(path("a.csv").exists() && path("b.csv").exists());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_of_a_running_process_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".batchwright-1-0.partial");
        fs::write(&path, "x").unwrap();
        remove_leftovers(dir.path());
        assert!(path.exists(), "process 1 runs");
    }
}
