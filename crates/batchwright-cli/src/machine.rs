//! What this machine gives a job: disk, file system and open files.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Syncs timed; the one in the middle is told.
const SYNCS: usize = 9;
const SYNC_BYTES: usize = 4096;

/// What a folder's disk is like.
#[derive(Debug)]
pub(crate) struct Disk {
    /// The folder looked at: the one asked about, or the nearest above it that is there.
    pub(crate) folder: PathBuf,
    /// Bytes that can still be written.
    pub(crate) free: Option<u64>,
    /// The kind of file system, where the system tells.
    pub(crate) kind: Option<&'static str>,
    /// How long it takes to make 4 KiB durable, the middle and the longest of some.
    pub(crate) sync: io::Result<(Duration, Duration)>,
}

impl Disk {
    /// Looks at the disk below `folder`, which need not be there. What is written to time it is removed.
    pub(crate) fn of(folder: &Path) -> Self {
        let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let folder = absolute
            .ancestors()
            .find(|folder| folder.is_dir())
            .unwrap_or(Path::new("."))
            .to_owned();
        Self {
            free: free(&folder),
            kind: kind(&folder),
            sync: time_syncs(&folder),
            folder,
        }
    }

    /// Whether it is reached over a network, so that locks and syncs may not hold.
    pub(crate) fn is_network(&self) -> bool {
        matches!(self.kind, Some("nfs" | "cifs" | "smb" | "9p" | "fuse"))
    }

    /// Whether it is gone when the machine is switched off.
    pub(crate) fn is_memory(&self) -> bool {
        matches!(self.kind, Some("tmpfs" | "ramfs"))
    }
}

fn time_syncs(folder: &Path) -> io::Result<(Duration, Duration)> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let since = Instant::now();
        file.write_all(&[b'x'; SYNC_BYTES])?;
        file.as_file().sync_all()?;
        times.push(since.elapsed());
    }
    times.sort_unstable();
    Ok((times[SYNCS / 2], times[SYNCS - 1]))
}

#[cfg(unix)]
fn free(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

#[cfg(not(unix))]
fn free(_: &Path) -> Option<u64> {
    None
}

/// How many files this process may have open at once; `None` where there is no bound or none is told.
#[cfg(unix)]
pub(crate) fn open_files() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// How many files this process may have open at once; `None` where there is no bound or none is told.
#[cfg(not(unix))]
pub(crate) fn open_files() -> Option<u64> {
    None
}

/// The kind by the number statfs(2) names it with.
#[cfg(target_os = "linux")]
fn kind(folder: &Path) -> Option<&'static str> {
    let found = rustix::fs::statfs(folder).ok()?;
    Some(match found.f_type as u32 {
        0x0000_ef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0x794c_7630 => "overlay",
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x0000_6969 => "nfs",
        0xff53_4d42 => "cifs",
        0xfe53_4d42 => "smb",
        0x0102_1997 => "9p",
        0x6573_5546 => "fuse",
        _ => return None,
    })
}

#[cfg(not(target_os = "linux"))]
fn kind(_: &Path) -> Option<&'static str> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_is_told_by_the_one_above() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::of(&dir.path().join("a/b"));
        assert_eq!(disk.folder, dir.path());
        let (middle, longest) = disk.sync.unwrap();
        assert!(middle <= longest);
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nothing is left behind"
        );
    }
}
