//! A journal that was lost, made again.

use crate::{
    files::{self, Access},
    journal::{ChunkFile, Journal},
    ledger::{DATABASE, Held, Ledger, LedgerOptions},
    seal::Seal,
    segment,
};
use batchwright_core::{Error, ErrorKind, JournalEntry, Result};
use std::{
    fmt,
    fs::{self, File},
    path::Path,
};

/// Under which name the new journal grows. What an interrupted recovery left under it is thrown away by the next one.
const NEW: &str = "ledger.sqlite.tmp";
/// What SQLite keeps beside a database.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

/// A journal being made again, in the place of one that was lost or cannot be read. The old one, or the lack of it,
/// stays as it is until [`Recovery::finish`]; dropped before, nothing has changed.
pub struct Recovery {
    ledger: Ledger,
}

impl Recovery {
    pub(crate) fn begin(dir: &Path, options: LedgerOptions) -> Result<Self> {
        let Held {
            folder,
            lock,
            holder,
        } = Held::take(dir, options)?;
        if is_whole(&folder) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "recover {}: its journal is there and whole; go on with `batchwright resume`",
                    folder.display()
                ),
            ));
        }
        let (seals, unsealed) = Seal::list(&folder)?;
        // The last thing a process did may have been to write a chunk it did not come to seal, and so did not send.
        let newest = seals.iter().map(|seal| seal.chunk).max().unwrap_or(0);
        if let Some(chunk) = unsealed
            .iter()
            .find(|chunk| **chunk <= newest || unsealed.len() > 1)
        {
            return Err(Error::new(
                ErrorKind::Storage,
                format!(
                    "recover {}: chunk {chunk} is there and its seal, chunks/{chunk:06}-*.seal, is gone; restore it, since \
                     what it bought cannot be told without",
                    folder.display()
                ),
            ));
        }
        for name in [NEW.to_owned()]
            .into_iter()
            .chain(BESIDE.map(|end| format!("{NEW}{end}")))
        {
            files::remove(&folder.join(name))?;
        }
        let path = folder.join(NEW);
        files::create(&path)?
            .sync_all()
            .map_err(|error| files::storage("create", &path, error))?;
        let mut journal = Journal::open(&path, || Ok(()))?;
        let before = segment::list(&folder)?.iter().map(|name| name.epoch).max();
        let epoch = journal.begin_epoch_after(before.unwrap_or(0), &holder)?;
        segment::close_dead(&folder, &mut journal)?;
        for seal in seals {
            let file = ChunkFile {
                attempt: seal.attempt,
                wire_prefix: seal.wire_prefix,
                rows_sha256: seal.rows_sha256,
            };
            let entry = JournalEntry::new(seal.chunk, seal.at, seal.fact);
            journal.append(&[entry], Some(&file))?;
        }
        let network = options.allow_network_fs;
        Ok(Self {
            ledger: Ledger::new(folder, journal, epoch, Some(lock), network),
        })
    }

    /// The job with its new journal. No outcome log is to be made of it.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Puts the new journal in place; what there was of the old one moves to the folder `set-aside`. A crash in
    /// between leaves a folder without a journal, to be recovered once more.
    ///
    /// # Errors
    /// `Unexpected` where a handle to the ledger is left; `Storage` where it could not be made durable.
    pub fn finish(self) -> Result<()> {
        // The lock is held to the end.
        let (journal, folder, lock): (_, _, Option<File>) = self.ledger.into_journal()?;
        journal.into_one_file()?;
        let new = folder.join(NEW);
        files::open(&new, Access::Write)?
            .sync_all()
            .map_err(|error| files::storage("write", &new, error))?;
        let aside = folder.join("set-aside");
        // The database first: its log beside another database would be taken for that one's.
        for end in ["", BESIDE[0], BESIDE[1]] {
            let old = folder.join(format!("{DATABASE}{end}"));
            if fs::symlink_metadata(&old).is_err() {
                continue;
            }
            let place = (1..)
                .map(|number: u32| aside.join(format!("{DATABASE}.{number}{end}")))
                .find(|place| fs::symlink_metadata(place).is_err())
                .expect("a folder does not hold that many");
            fs::rename(&old, &place).map_err(|error| files::storage("set aside", &old, error))?;
            files::sync_folder(&folder)?;
        }
        let path = folder.join(DATABASE);
        fs::rename(&new, &path).map_err(|error| files::storage("put in place", &path, error))?;
        files::sync_folder(&folder)?;
        drop(lock);
        Ok(())
    }
}

impl fmt::Debug for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recovery")
            .field("ledger", &self.ledger)
            .finish()
    }
}

/// Whether the journal can be read and holds together. What is not there or empty is lost.
fn is_whole(folder: &Path) -> bool {
    let path = folder.join(DATABASE);
    fs::symlink_metadata(&path).is_ok_and(|found| found.is_file())
        && Journal::open_read_only(&path).is_ok_and(|journal| journal.check().is_ok())
}
