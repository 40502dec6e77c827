//! Finds ids that stand twice, in flat memory.

use batchwright_core::{Error, ErrorKind, Result};
use ring::digest::{SHA256, digest};
use std::{
    fmt, fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

/// Lists the ids are spread over by their hash, so that one at a time is looked through: 10 million ids are 1 MiB a list.
const LISTS: usize = 256;
/// Ids of a list kept in memory before they go to its file: 1.5 MiB for all lists, in small pieces that leave no gap
/// behind once they are gone.
const IN_MEMORY: usize = 256;
const ENTRY: usize = 24;

/// Finds ids that stand twice (F-174), byte for byte (F-181). It keeps 128 bits of each id's SHA-256 and its
/// line, past 64 Ki ids in files beside the job, so its memory does not grow with the input.
pub(super) struct IdCheck {
    dir: PathBuf,
    lists: Vec<List>,
    /// Lines of duplicates found so far: the first, and the one that repeats it.
    found: Vec<(u64, u64)>,
}

/// Ids whose hashes begin alike.
#[derive(Default)]
struct List {
    entries: Vec<Entry>,
    /// Those that came before.
    file: Option<fs::File>,
}

type Entry = ([u8; 16], u64);

impl IdCheck {
    /// A check whose files, where it needs any, are in `dir`.
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.join("ids.tmp"),
            lists: (0..LISTS).map(|_| List::default()).collect(),
            found: Vec::new(),
        }
    }

    /// Notes the id of the row at `line`.
    pub(super) fn add(&mut self, custom_id: &str, line: u64) -> Result<()> {
        let digest = digest(&SHA256, custom_id.as_bytes());
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest.as_ref()[..16]);
        let number = usize::from(hash[0]);
        let entries = &mut self.lists[number].entries;
        entries.push((hash, line));
        if entries.len() >= IN_MEMORY {
            self.spill(number)
                .map_err(|error| storage(&self.dir, error))?;
        }
        Ok(())
    }

    /// The lines of every repetition: where the id stood first, and where it stands again, by the latter.
    pub(super) fn finish(mut self) -> Result<Vec<(u64, u64)>> {
        for number in 0..LISTS {
            self.look_through(number)
                .map_err(|error| storage(&self.dir, error))?;
        }
        let mut found = std::mem::take(&mut self.found);
        found.sort_unstable_by_key(|(_, again)| *again);
        Ok(found)
    }

    /// Moves the ids of a list to its file.
    fn spill(&mut self, number: usize) -> std::io::Result<()> {
        if self.lists.iter().all(|list| list.file.is_none()) {
            // Left over from a process that was killed.
            let _ = fs::remove_dir_all(&self.dir);
            fs::create_dir(&self.dir)?;
        }
        let List { entries, file } = &mut self.lists[number];
        let mut bytes = Vec::with_capacity(entries.len() * ENTRY);
        for (hash, line) in entries.drain(..) {
            bytes.extend_from_slice(&hash);
            bytes.extend_from_slice(&line.to_le_bytes());
        }
        let file = match file {
            Some(file) => file,
            None => file.insert(fs::File::create_new(self.dir.join(number.to_string()))?),
        };
        file.write_all(&bytes)
    }

    fn look_through(&mut self, number: usize) -> std::io::Result<()> {
        let List { mut entries, file } = std::mem::take(&mut self.lists[number]);
        if file.is_some() {
            let mut bytes = Vec::new();
            fs::File::open(self.dir.join(number.to_string()))?.read_to_end(&mut bytes)?;
            entries.reserve_exact(bytes.len() / ENTRY);
            entries.extend(bytes.chunks_exact(ENTRY).map(|entry| {
                let (hash, line) = entry.split_at(16);
                let hash = hash.try_into().expect("an entry begins with 16 bytes");
                let line = line.try_into().expect("and ends with 8");
                (hash, u64::from_le_bytes(line))
            }));
        }
        entries.sort_unstable();
        for same in entries.chunk_by(|a, b| a.0 == b.0) {
            self.found
                .extend(same[1..].iter().map(|again| (same[0].1, again.1)));
        }
        Ok(())
    }
}

impl Drop for IdCheck {
    fn drop(&mut self) {
        self.lists.clear();
        // What stays behind is removed by the next check of the job.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl fmt::Debug for IdCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdCheck")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

fn storage(dir: &Path, error: std::io::Error) -> Error {
    Error::new(
        ErrorKind::Storage,
        format!("look for duplicate ids in {}: {error}", dir.display()),
    )
    .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_174_f_181_repetitions_are_found_in_memory_and_in_files() {
        for count in [100, 3 * (IN_MEMORY * LISTS) as u64] {
            let dir = tempfile::tempdir().unwrap();
            let mut ids = IdCheck::new(dir.path());
            for line in 1..=count {
                ids.add(&format!("id-{line}"), line).unwrap();
            }
            // Composed and decomposed are two ids; equal bytes are one.
            ids.add("\u{e9}", count + 1).unwrap();
            ids.add("e\u{301}", count + 2).unwrap();
            ids.add("id-7", count + 3).unwrap();
            ids.add("id-7", count + 4).unwrap();
            assert_eq!(ids.finish().unwrap(), [(7, count + 3), (7, count + 4)]);
            assert_eq!(
                fs::read_dir(dir.path()).unwrap().count(),
                0,
                "nothing is left behind"
            );
        }
    }
}
