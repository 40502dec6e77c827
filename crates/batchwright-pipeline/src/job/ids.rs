//! Finds ids that stand twice, in flat memory.

use batchwright_core::{Error, ErrorKind, Result};
use ring::digest::{SHA256, digest};
use std::{
    fmt, fs,
    io::{BufWriter, Read, Write},
    path::{Path, PathBuf},
};

/// Ids kept in memory before they go to files: 1.5 MiB.
const IN_MEMORY: usize = 64 * 1024;
/// Files they are spread over by their hash, so that one file at a time is looked through: 10 million ids
/// are 1 MiB a file.
const FILES: usize = 256;
const ENTRY: usize = 24;

/// Finds ids that stand twice (F-174), byte for byte (F-181). It keeps 128 bits of each id's SHA-256 and its
/// line, past 64 Ki ids in files beside the job, so its memory does not grow with the input.
pub(super) struct IdCheck {
    dir: PathBuf,
    entries: Vec<Entry>,
    files: Vec<BufWriter<fs::File>>,
    /// Lines of duplicates found so far: the first, and the one that repeats it.
    found: Vec<(u64, u64)>,
}

type Entry = ([u8; 16], u64);

impl IdCheck {
    /// A check whose files, where it needs any, are in `dir`.
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.join("ids.tmp"),
            entries: Vec::new(),
            files: Vec::new(),
            found: Vec::new(),
        }
    }

    /// Notes the id of the row at `line`.
    pub(super) fn add(&mut self, custom_id: &str, line: u64) -> Result<()> {
        let digest = digest(&SHA256, custom_id.as_bytes());
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest.as_ref()[..16]);
        self.entries.push((hash, line));
        if self.entries.len() >= IN_MEMORY {
            self.spill().map_err(|error| storage(&self.dir, error))?;
        }
        Ok(())
    }

    /// The lines of every repetition: where the id stood first, and where it stands again, by the latter.
    pub(super) fn finish(mut self) -> Result<Vec<(u64, u64)>> {
        if self.files.is_empty() {
            let mut entries = std::mem::take(&mut self.entries);
            self.repeated(&mut entries);
        } else {
            self.look_through()
                .map_err(|error| storage(&self.dir, error))?;
        }
        let mut found = std::mem::take(&mut self.found);
        found.sort_unstable_by_key(|(_, again)| *again);
        Ok(found)
    }

    fn spill(&mut self) -> std::io::Result<()> {
        if self.files.is_empty() {
            // Left over from a process that was killed.
            let _ = fs::remove_dir_all(&self.dir);
            fs::create_dir(&self.dir)?;
            for number in 0..FILES {
                let file = fs::File::create_new(self.dir.join(number.to_string()))?;
                self.files.push(BufWriter::with_capacity(4096, file));
            }
        }
        for (hash, line) in self.entries.drain(..) {
            let file = &mut self.files[usize::from(hash[0])];
            file.write_all(&hash)?;
            file.write_all(&line.to_le_bytes())?;
        }
        Ok(())
    }

    fn look_through(&mut self) -> std::io::Result<()> {
        self.spill()?;
        for mut file in std::mem::take(&mut self.files) {
            file.flush()?;
        }
        let mut bytes = Vec::new();
        for number in 0..FILES {
            bytes.clear();
            fs::File::open(self.dir.join(number.to_string()))?.read_to_end(&mut bytes)?;
            let mut entries: Vec<Entry> = bytes
                .chunks_exact(ENTRY)
                .map(|entry| {
                    let (hash, line) = entry.split_at(16);
                    let hash = hash.try_into().expect("an entry begins with 16 bytes");
                    (
                        hash,
                        u64::from_le_bytes(line.try_into().expect("and ends with 8")),
                    )
                })
                .collect();
            self.repeated(&mut entries);
        }
        Ok(())
    }

    fn repeated(&mut self, entries: &mut [Entry]) {
        entries.sort_unstable();
        for same in entries.chunk_by(|a, b| a.0 == b.0) {
            self.found
                .extend(same[1..].iter().map(|again| (same[0].1, again.1)));
        }
    }
}

impl Drop for IdCheck {
    fn drop(&mut self) {
        self.files.clear();
        // What stays behind is removed by the next check of the job.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl fmt::Debug for IdCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdCheck")
            .field("in_memory", &self.entries.len())
            .finish_non_exhaustive()
    }
}

/// What is told of a repetition. The id itself is not: it may be a prompt.
pub(super) fn duplicate(input: &Path, (first, again): (u64, u64)) -> Error {
    let input = input.display();
    let message = format!(
        "{input}:{again}: the id of this row is that of line {first} too; give every row its own"
    );
    Error::new(ErrorKind::InvalidRequest, message)
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
        for count in [100u64, 3 * IN_MEMORY as u64] {
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
