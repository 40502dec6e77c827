//! Finds ids that stand twice, in flat memory.

use batchwright_core::{Error, ErrorKind, Result};
use batchwright_ledger::RowSet;
use ring::digest::{SHA256, digest};
use std::{
    collections::BTreeMap,
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

/// Repetitions whose first row is kept too.
const NAMED: usize = 100;

/// Finds ids that stand twice (F-174), byte for byte (F-181). It keeps 128 bits of each id's SHA-256 and its
/// row's number, past 64 Ki ids in files beside the job, so its memory does not grow with the input: one bit a row
/// for those that repeat an id.
pub(crate) struct IdCheck {
    dir: PathBuf,
    lists: Vec<List>,
    found: Repeated,
}

/// Rows whose id is that of an earlier one.
#[derive(Default)]
pub(crate) struct Repeated {
    /// All of them.
    pub(crate) rows: RowSet,
    /// The first 100 of them, each with an earlier row that has its id.
    pub(crate) named: BTreeMap<u64, u64>,
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
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.join("ids.tmp"),
            lists: (0..LISTS).map(|_| List::default()).collect(),
            found: Repeated::default(),
        }
    }

    /// Notes the id of row number `row`.
    pub(crate) fn add(&mut self, custom_id: &str, row: u64) -> Result<()> {
        let digest = digest(&SHA256, custom_id.as_bytes());
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest.as_ref()[..16]);
        let number = usize::from(hash[0]);
        let entries = &mut self.lists[number].entries;
        entries.push((hash, row));
        if entries.len() >= IN_MEMORY {
            self.spill(number)
                .map_err(|error| storage(&self.dir, error))?;
        }
        Ok(())
    }

    /// Every row that repeats an id.
    pub(crate) fn finish(mut self) -> Result<Repeated> {
        for number in 0..LISTS {
            self.look_through(number)
                .map_err(|error| storage(&self.dir, error))?;
        }
        Ok(std::mem::take(&mut self.found))
    }

    /// Moves the ids of a list to its file.
    fn spill(&mut self, number: usize) -> std::io::Result<()> {
        if self.lists.iter().all(|list| list.file.is_none()) {
            // Left over from a process that was killed.
            let _ = fs::remove_dir_all(&self.dir);
            fs::create_dir(&self.dir)?;
        }
        let List { entries, file } = &mut self.lists[number];
        // An id that every row has would else fill one list alone.
        self.found.take_from(entries);
        let mut bytes = Vec::with_capacity(entries.len() * ENTRY);
        for (hash, row) in entries.drain(..) {
            bytes.extend_from_slice(&hash);
            bytes.extend_from_slice(&row.to_le_bytes());
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
                let (hash, row) = entry.split_at(16);
                let hash = hash.try_into().expect("an entry begins with 16 bytes");
                let row = row.try_into().expect("and ends with 8");
                (hash, u64::from_le_bytes(row))
            }));
        }
        self.found.take_from(&mut entries);
        Ok(())
    }
}

impl Repeated {
    /// Notes the repetitions among these, and leaves the first of each id.
    fn take_from(&mut self, entries: &mut Vec<Entry>) {
        entries.sort_unstable();
        for same in entries.chunk_by(|a, b| a.0 == b.0) {
            for (_, again) in &same[1..] {
                self.rows.insert(*again);
                self.named.insert(*again, same[0].1);
                if self.named.len() > NAMED {
                    self.named.pop_last();
                }
            }
        }
        entries.dedup_by_key(|entry| entry.0);
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
            for row in 1..=count {
                ids.add(&format!("id-{row}"), row).unwrap();
            }
            // Composed and decomposed are two ids; equal bytes are one.
            ids.add("\u{e9}", count + 1).unwrap();
            ids.add("e\u{301}", count + 2).unwrap();
            ids.add("id-7", count + 3).unwrap();
            ids.add("id-7", count + 4).unwrap();
            let found = ids.finish().unwrap();
            assert!(found.rows.iter().eq([count + 3, count + 4]));
            assert!(found.named.into_iter().eq([(count + 3, 7), (count + 4, 7)]));
            assert_eq!(
                fs::read_dir(dir.path()).unwrap().count(),
                0,
                "nothing is left behind"
            );
        }
    }

    #[test]
    fn f_174_an_id_that_every_row_has_fills_no_list() {
        let dir = tempfile::tempdir().unwrap();
        let mut ids = IdCheck::new(dir.path());
        let rows = 1_000 * IN_MEMORY as u64;
        for row in 0..rows {
            ids.add("the same", row).unwrap();
        }
        let spilled: u64 = fs::read_dir(dir.path().join("ids.tmp"))
            .unwrap()
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum();
        assert!(spilled < 2_000 * ENTRY as u64, "{spilled} bytes");
        let found = ids.finish().unwrap();
        assert!(found.rows.iter().eq(1..rows));
        assert_eq!(found.named.len(), NAMED);
        assert_eq!(found.named.last_key_value().map(|(row, _)| *row), Some(100));
    }
}
