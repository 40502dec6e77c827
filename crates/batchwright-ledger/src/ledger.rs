//! A job's folder, opened.

use crate::{
    card,
    chunk::{ChunkLines, ChunkRows, ChunkWriter, SealedChunk},
    files::{self, Access},
    index::{OutcomeIndex, UnorderedOutcomes},
    journal::{ChunkFile, Holder, Journal, SealedSegment},
    mounts,
    outcome_log::{OutcomeLog, Shared},
    raw::RawFile,
    recovery::Recovery,
    scan::Scan,
    segment::{self, SegmentName},
    set_aside::SetAside,
    state::ChunkState,
    verify::{VerifyReport, WrittenOutcome},
};
use async_trait::async_trait;
use batchwright_core::{
    ByteStream, Error, ErrorKind, JournalEntry, Purchases, Result, SubmissionLog, Timestamp,
    WirePrefix,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    fs::{self, File, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::SystemTime,
};

pub(crate) const DATABASE: &str = "ledger.sqlite";
const LOCK: &str = "lock";

/// The durable record of one job, in one folder. Clones share it; the folder's lock is held until the last
/// clone, and the last [`OutcomeLog`] or [`ChunkWriter`] made from one, is dropped.
///
/// The methods that are not `async` do disk work in place: call them from a blocking thread.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    journal: Mutex<Journal>,
    epoch: u64,
    /// Held, never read: the kernel releases it with the process, however that ends (F-152).
    lock: Option<File>,
    /// Where it is, asked for with every outcome.
    #[cfg(unix)]
    lock_path: PathBuf,
    /// Device and inode of the lock's file, where they can be told.
    #[cfg(unix)]
    lock_place: Option<(u64, u64)>,
    next_segment: AtomicU32,
    /// Bytes of closed segments that were summed up.
    checkpointed: AtomicU64,
    /// Whether intents are durable before they are confirmed.
    syncs_intents: bool,
    /// How many outcome logs were started.
    runs: AtomicU32,
    outcome_log: Mutex<Weak<Shared>>,
    /// Raw files being written by this process.
    downloading: Mutex<HashSet<String>>,
}

/// How a job is opened for writing.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct LedgerOptions {
    /// Whether the folder may be on a network file system; off by default, since its lock may be granted on two
    /// hosts and its syncs may not be (F-153). Known on Linux alone; elsewhere nothing is refused.
    pub allow_network_fs: bool,
}

impl LedgerOptions {
    /// The same with [`LedgerOptions::allow_network_fs`].
    pub fn with_network_fs(mut self, allow: bool) -> Self {
        self.allow_network_fs = allow;
        self
    }
}

/// A folder whose lock is held.
pub(crate) struct Held {
    pub(crate) folder: PathBuf,
    pub(crate) lock: File,
    pub(crate) holder: Holder,
}

impl Held {
    /// Takes the lock of a folder that is there, and makes sure that it can be written.
    pub(crate) fn take(dir: &Path, options: LedgerOptions) -> Result<Self> {
        // SQLite and messages get the real path; a link to a job folder is the caller's own business.
        #[cfg(unix)]
        let folder = fs::canonicalize(dir).map_err(|error| files::storage("open", dir, error))?;
        #[cfg(not(unix))]
        let folder = dir.to_owned();
        if !options.allow_network_fs {
            refuse_network_fs(&folder, mounts::network_file_system(&folder).as_deref())?;
        }
        let holder = holder();
        let lock = take_lock(&folder.join(LOCK))?;
        write_note(&lock, &folder.join(LOCK), &holder)?;
        probe_write(&folder)?;
        for inner in ["chunks", "raw", "segments", "set-aside"] {
            files::make_inner_folder(&folder.join(inner))?;
        }
        Ok(Self {
            folder,
            lock,
            holder,
        })
    }
}

/// What the lock file says about its holder, for the message to others.
#[derive(Serialize, Deserialize)]
struct LockNote {
    pid: u32,
    host: String,
    boot_id: String,
    since: String,
}

impl Ledger {
    /// Opens the job in `dir` for writing, or starts one there.
    ///
    /// In this order: the folder is made (only its owner may enter), the lock is taken, a write is probed
    /// (F-147), the journal is checked (F-155), a new epoch begins (F-153), what an interrupted process left
    /// under temporary names is removed, and the tails of its segments are repaired: a whole last line gets
    /// its newline, a torn one moves to `set-aside` (F-150).
    ///
    /// # Errors
    /// `Storage` where another process holds the job, the folder cannot be written or is on a network file
    /// system, the journal is gone while other files are there, or a file was changed.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::open_with(dir, LedgerOptions::default())
    }

    /// [`Ledger::open`], otherwise than by default.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn open_with(dir: &Path, options: LedgerOptions) -> Result<Self> {
        files::make_folder(dir)?;
        let Held {
            folder,
            lock,
            holder,
        } = Held::take(dir, options)?;
        let database = folder.join(DATABASE);
        if fs::symlink_metadata(&database).is_err() {
            refuse_lost_journal(&folder)?;
            files::create(&database)?
                .sync_all()
                .map_err(|error| files::storage("create", &database, error))?;
            files::sync_folder(&folder)?;
        } else {
            let file = files::open(&database, Access::Write)?;
            let emptied = file
                .metadata()
                .map_err(|error| files::storage("open", &database, error))?
                .len()
                == 0;
            // Asked before SQLite sees the file: beside an empty one it removes a WAL that may hold everything.
            if emptied {
                refuse_lost_journal(&folder)?;
            }
        }
        let mut journal = Journal::open(&database, || refuse_lost_journal(&folder))?;
        journal.check()?;
        let epoch = journal.begin_epoch(&holder)?;
        for inner in [&folder, &folder.join("chunks"), &folder.join("set-aside")] {
            files::remove_temps(inner)?;
        }
        segment::close_dead(&folder, &mut journal)?;
        let network = options.allow_network_fs;
        Ok(Self::new(folder, journal, epoch, Some(lock), network))
    }

    /// Opens the job in `dir` for reading, also while another process writes it. Nothing is repaired:
    /// a torn last line is passed over and counted.
    ///
    /// # Errors
    /// `Storage` where there is no job, or it cannot be read.
    pub fn open_read_only(dir: &Path) -> Result<Self> {
        #[cfg(unix)]
        let folder = fs::canonicalize(dir).map_err(|error| files::storage("open", dir, error))?;
        #[cfg(not(unix))]
        let folder = dir.to_owned();
        if !Self::exists(&folder) {
            return Err(Error::new(
                ErrorKind::Storage,
                format!(
                    "open {}: there is no job; name the folder of one",
                    dir.display()
                ),
            ));
        }
        let journal = Journal::open_read_only(&folder.join(DATABASE))?;
        Ok(Self::new(folder, journal, 0, None, false))
    }

    pub(crate) fn new(
        folder: PathBuf,
        journal: Journal,
        epoch: u64,
        lock: Option<File>,
        syncs_intents: bool,
    ) -> Self {
        Self(Arc::new(Inner {
            #[cfg(unix)]
            lock_path: folder.join(LOCK),
            // They stay the same while it is held open.
            #[cfg(unix)]
            lock_place: lock.as_ref().and_then(place),
            folder,
            journal: Mutex::new(journal),
            epoch,
            lock,
            next_segment: AtomicU32::new(1),
            checkpointed: AtomicU64::new(0),
            syncs_intents,
            runs: AtomicU32::new(0),
            outcome_log: Mutex::new(Weak::new()),
            downloading: Mutex::new(HashSet::new()),
        }))
    }

    /// Takes the journal out, where this is the last handle; the lock stays held by what is returned with it.
    pub(crate) fn into_journal(self) -> Result<(Journal, PathBuf, Option<File>)> {
        let inner = Arc::into_inner(self.0).ok_or_else(|| {
            Error::new(
                ErrorKind::Unexpected,
                "close the journal: it is still in use",
            )
        })?;
        let journal = inner.journal.into_inner();
        let journal = journal.unwrap_or_else(PoisonError::into_inner);
        Ok((journal, inner.folder, inner.lock))
    }

    /// Whether `dir` holds a job whose journal is gone: other files of a job are there.
    pub fn is_lost(dir: &Path) -> bool {
        let has_files = |inner: &str| {
            fs::read_dir(dir.join(inner)).is_ok_and(|mut entries| entries.next().is_some())
        };
        !Self::exists(dir) && ["chunks", "raw", "segments"].into_iter().any(has_files)
    }

    /// Whether `dir` holds a job.
    pub fn exists(dir: &Path) -> bool {
        fs::symlink_metadata(dir.join(DATABASE)).is_ok_and(|metadata| metadata.is_file())
    }

    /// Whether the lock's file was removed, moved or replaced, so that another process may hold the job too.
    pub(crate) fn lock_is_gone(&self) -> bool {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            if self.0.lock.is_none() {
                return false;
            }
            let named = fs::symlink_metadata(&self.0.lock_path);
            let named = named.ok().map(|named| (named.dev(), named.ino()));
            // Where it cannot be told, it may be.
            named.is_none() || named != self.0.lock_place
        }
        // A locked file cannot be removed there.
        #[cfg(not(unix))]
        false
    }

    /// Whether intents are durable before they are confirmed: where another host may take the job over, which
    /// does not see what this one's kernel has not written out yet.
    pub(crate) fn syncs_intents(&self) -> bool {
        self.0.syncs_intents
    }

    /// The job's folder.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// The number of this opening, from 1; 0 where the ledger was opened for reading.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        // A panic inside SQLite's binding leaves no half transaction behind: it rolls back when dropped.
        self.0
            .journal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn writable(&self) -> Result<()> {
        if self.0.lock.is_some() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unexpected,
            "write to the job: it was opened for reading",
        ))
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.0.lock.is_some()
    }

    pub(crate) fn checkpointed(&self) -> u64 {
        self.0.checkpointed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_checkpointed(&self, bytes: u64) {
        self.0.checkpointed.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn path(&self, inner: &str, file: &str) -> PathBuf {
        self.0.folder.join(inner).join(file)
    }

    pub(crate) fn next_segment(&self) -> SegmentName {
        let number = self.0.next_segment.fetch_add(1, Ordering::Relaxed);
        SegmentName {
            epoch: self.0.epoch,
            number,
        }
    }

    /// Another look at the journal, which waits for nobody who writes to it.
    pub(crate) fn second_journal(&self) -> Result<Journal> {
        Journal::open_read_only(&self.0.folder.join(DATABASE))
    }

    pub(crate) fn next_run(&self) -> u32 {
        self.0.runs.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn downloading(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0
            .downloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The value kept under `key`.
    ///
    /// # Errors
    /// `Storage` where it cannot be read.
    pub fn meta(&self, key: &str) -> Result<Option<String>> {
        self.journal().meta(key)
    }

    /// Keeps `value` under `key`, durable on return. Never a secret: names of key sources at most (F-204).
    ///
    /// # Errors
    /// `Storage` where it could not be made durable.
    pub fn set_meta(&self, key: &str, value: &str) -> Result<()> {
        self.writable()?;
        self.journal().set_meta(key, value)
    }

    /// Keeps a copy of the values whose keys do not begin with one of `without`, in the file `job.json` beside the
    /// journal: what a job is must outlive the journal, for [`Ledger::recover`]. Does nothing where it is that already.
    ///
    /// # Errors
    /// `Storage` where it could not be made durable.
    pub fn keep_card(&self, without: &[&str]) -> Result<()> {
        self.writable()?;
        let mut values: BTreeMap<String, String> = self.metas("")?.into_iter().collect();
        values.retain(|key, _| !without.iter().any(|prefix| key.starts_with(prefix)));
        card::keep(self.folder(), values)
    }

    /// What [`Ledger::keep_card`] kept last for the job in `dir`, without its lock; `None` where there is nothing.
    ///
    /// # Errors
    /// `Storage` where it cannot be read, or was changed.
    pub fn card_of(dir: &Path) -> Result<Option<BTreeMap<String, String>>> {
        card::read(dir)
    }

    /// Makes the lost or unreadable journal of the job in `dir` again, from its sealed chunks and segments; what else
    /// is known is the caller's to append before [`Recovery::finish`].
    ///
    /// # Errors
    /// `Conflict` where the journal is there and whole; `Storage` where another process holds the job, or a chunk's
    /// seal is gone or was changed.
    pub fn recover(dir: &Path, options: LedgerOptions) -> Result<Recovery> {
        Recovery::begin(dir, options)
    }

    /// Whole downloads in the job's folder: chunk, attempt and label of each, by name.
    ///
    /// # Errors
    /// `Storage` where the folder cannot be read.
    pub fn raw_files(&self) -> Result<Vec<(u32, u32, String)>> {
        crate::raw::list(self)
    }

    /// Every chunk's state, folded from its journal, by number.
    ///
    /// # Errors
    /// `Storage` where it cannot be read.
    pub fn chunks(&self) -> Result<Vec<ChunkState>> {
        self.journal().chunks()
    }

    /// One chunk's state; `None` where nothing is sealed under that number.
    ///
    /// # Errors
    /// `Storage` where it cannot be read.
    pub fn chunk(&self, chunk: u32) -> Result<Option<ChunkState>> {
        self.journal().chunk(chunk)
    }

    /// Keys that begin with `prefix`, and their values, by key.
    ///
    /// # Errors
    /// `Storage` where they cannot be read.
    pub fn metas(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        self.journal().metas(prefix)
    }

    /// [`SubmissionLog::append`] for blocking threads.
    ///
    /// # Errors
    /// `Storage` where the facts could not be made durable, or another process took the job over and an
    /// intent is among them; nothing may then be sent.
    pub fn append_blocking(&self, entries: &[JournalEntry]) -> Result<()> {
        self.append_with(entries, None)
    }

    pub(crate) fn append_with(
        &self,
        entries: &[JournalEntry],
        file: Option<&ChunkFile>,
    ) -> Result<()> {
        self.writable()?;
        self.journal().append(entries, file)
    }

    /// [`SubmissionLog::entries`] for blocking threads.
    ///
    /// # Errors
    /// `Storage` where they cannot be read.
    pub fn entries_blocking(&self, chunk: u32) -> Result<Vec<JournalEntry>> {
        self.journal().entries(chunk)
    }

    /// Starts the file of chunk number `chunk`, whose lines carry ids made of `wire_prefix`.
    ///
    /// # Errors
    /// `Unexpected` where the chunk is sealed already; `Storage` where the files cannot be made.
    pub fn chunk_writer(&self, chunk: u32, wire_prefix: WirePrefix) -> Result<ChunkWriter> {
        ChunkWriter::new(self.clone(), chunk, wire_prefix)
    }

    /// The sealed file of an attempt, after comparing it with its SHA-256 in the journal (F-155).
    ///
    /// # Errors
    /// `Storage` where it was never sealed, is gone or was changed.
    pub fn sealed(&self, chunk: u32, attempt: u32) -> Result<SealedChunk> {
        SealedChunk::load(self, chunk, attempt)
    }

    /// Seals attempt number `attempt` (2 or more) as a copy of the newest attempt before it, with every
    /// line's id prefix replaced: the first `"old-` of each line becomes `"new-`. An attempt sealed already
    /// under `new_prefix` is returned as it is.
    ///
    /// # Errors
    /// `Unexpected` where the prefixes do not fit; `Storage` where the older file is gone or was changed, or
    /// the new one could not be made durable.
    pub fn reseal(
        &self,
        chunk: u32,
        attempt: u32,
        old_prefix: WirePrefix,
        new_prefix: WirePrefix,
    ) -> Result<SealedChunk> {
        SealedChunk::reseal(self, chunk, attempt, old_prefix, new_prefix)
    }

    /// The rows of a sealed chunk in line order, after comparing their file with its SHA-256.
    ///
    /// # Errors
    /// `Storage` where the chunk was never sealed, or the file is gone or was changed.
    pub fn chunk_rows(&self, chunk: u32) -> Result<ChunkRows> {
        ChunkRows::open(self, chunk)
    }

    /// The lines of a sealed chunk with their rows, after comparing both files with their SHA-256: what a chunk of
    /// those without a final outcome is made of.
    ///
    /// # Errors
    /// As [`Ledger::chunk_rows`].
    pub fn chunk_lines(&self, chunk: u32) -> Result<ChunkLines> {
        ChunkLines::open(self, chunk)
    }

    /// Streams a download into the job's folder, untouched. The first `offset` bytes of an interrupted
    /// download are kept, what is beyond is cut off; 0 starts anew. On success the whole file is durable
    /// under its final name, an older one replaced; on error what came stays for [`Ledger::partial_raw`].
    ///
    /// `label` is 1 to 32 of `a-z`, `0-9`, `_` and `-`.
    ///
    /// # Errors
    /// The body's own error; `Storage` where it cannot be written; `Unexpected` for a bad label; `Conflict`
    /// while the same file is being written by this process.
    ///
    /// # Cancel safety
    /// A dropped call leaves the partial download as an error does; nothing gets the final name by it.
    pub async fn keep_raw(
        &self,
        chunk: u32,
        attempt: u32,
        label: &str,
        offset: u64,
        body: ByteStream,
    ) -> Result<RawFile> {
        crate::raw::keep(self, chunk, attempt, label, offset, body).await
    }

    /// How many bytes of an interrupted download are there; 0 where there is none.
    ///
    /// # Errors
    /// `Storage` where the file cannot be looked at; `Unexpected` for a bad label.
    pub fn partial_raw(&self, chunk: u32, attempt: u32, label: &str) -> Result<u64> {
        crate::raw::partial(self, chunk, attempt, label)
    }

    /// The whole download, hashed just now; `None` where it is not there.
    ///
    /// # Errors
    /// `Storage` where it cannot be read; `Unexpected` for a bad label.
    pub fn raw(&self, chunk: u32, attempt: u32, label: &str) -> Result<Option<RawFile>> {
        crate::raw::find(self, chunk, attempt, label)
    }

    /// The path of a raw file by the name a `Downloaded` fact holds.
    ///
    /// # Errors
    /// `Storage` where the name is none the ledger gives (F-198).
    pub fn raw_path(&self, file: &str) -> Result<PathBuf> {
        crate::raw::path_of(self, file)
    }

    /// Removes a download, whole or partial, so that it can be made again.
    ///
    /// # Errors
    /// `Storage` where it cannot be removed; `Unexpected` for a bad label.
    pub fn discard_raw(&self, chunk: u32, attempt: u32, label: &str) -> Result<()> {
        crate::raw::discard(self, chunk, attempt, label)
    }

    /// A place for lines of a chunk's results that are unknown or cannot be read. An older one under the
    /// same label is replaced when it is finished. `label` is as in [`Ledger::keep_raw`].
    ///
    /// # Errors
    /// `Unexpected` for a bad label.
    pub fn set_aside(&self, chunk: u32, attempt: u32, label: &str) -> Result<SetAside> {
        self.writable()?;
        SetAside::new(self, chunk, attempt, label)
    }

    /// The log outcomes are appended to; the same one while a handle to it lives. Another one after it is
    /// another run: what was in flight and is sent again is counted as after a crash.
    ///
    /// # Errors
    /// `Unexpected` where the ledger was opened for reading; `Storage` where no thread can be started.
    pub fn outcome_log(&self) -> Result<OutcomeLog> {
        self.writable()?;
        let mut current = self
            .0
            .outcome_log
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(log) = current.upgrade().and_then(OutcomeLog::from_shared) {
            return Ok(log);
        }
        let log = OutcomeLog::start(self.clone())?;
        *current = log.downgrade();
        Ok(log)
    }

    pub(crate) fn segment_list(&self) -> Result<(Vec<SegmentName>, Vec<SealedSegment>)> {
        // The table is read first: a segment sealed in between is then merely taken for an open one.
        let sealed = self.journal().segments()?;
        let names = segment::list(&self.0.folder)?;
        Ok((names, sealed))
    }

    /// Reads every segment: which rows are finished, how, and at what cost.
    ///
    /// # Errors
    /// `Storage` where a segment is gone or was cut, or a line within cannot be read; the message names file
    /// and line, and no line is skipped (F-150).
    pub fn scan(&self) -> Result<Scan> {
        Scan::run(self)
    }

    /// Sums up the segments that are closed by now, so that the next [`Ledger::scan`] need not read them, also that of
    /// another process; where little was closed since the last time it does nothing. A copy of what the segments say,
    /// which they are read instead of where one was touched since.
    ///
    /// # Errors
    /// As [`Ledger::scan`].
    pub fn checkpoint(&self) -> Result<()> {
        self.writable()?;
        Scan::checkpoint(self)
    }

    /// Finds each row's final outcome, for reading in row order.
    ///
    /// Memory stays below 20 MB; 16 bytes a row are used on disk, in the job's folder, until the index is
    /// dropped.
    ///
    /// # Errors
    /// As [`Ledger::scan`].
    pub fn index(&self) -> Result<OutcomeIndex> {
        OutcomeIndex::build(self)
    }

    /// Each row's final outcome in the order they were written, which is faster than row order.
    ///
    /// # Errors
    /// As [`Ledger::scan`].
    pub fn unordered(&self) -> Result<UnorderedOutcomes> {
        UnorderedOutcomes::new(self)
    }

    /// Visits every outcome in the segments, superseded ones included, in the order they were written.
    ///
    /// # Errors
    /// As [`Ledger::scan`].
    pub fn each_outcome(&self, visit: &mut dyn FnMut(WrittenOutcome<'_>)) -> Result<()> {
        crate::verify::each_outcome(self, visit)
    }

    /// Checks the job from its files alone: every chunk, seal, download and closed segment against its SHA-256, the
    /// journal against itself and against what stands beside it, and, where `input_rows` is known, that each row from
    /// 0 to it has exactly one final outcome.
    ///
    /// # Errors
    /// `Storage` where the ledger cannot be read at all; everything else is a finding.
    pub fn verify(&self, input_rows: Option<u64>) -> Result<VerifyReport> {
        VerifyReport::run(self, input_rows)
    }
}

#[async_trait]
impl SubmissionLog for Ledger {
    async fn append(&self, entries: Vec<JournalEntry>) -> Result<()> {
        let ledger = self.clone();
        blocking(move || ledger.append_blocking(&entries)).await
    }

    async fn entries(&self, chunk: u32) -> Result<Vec<JournalEntry>> {
        let ledger = self.clone();
        blocking(move || ledger.entries_blocking(chunk)).await
    }

    async fn purchases(&self) -> Result<Purchases> {
        let ledger = self.clone();
        blocking(move || ledger.journal().purchases()).await
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("folder", &self.0.folder)
            .field("epoch", &self.0.epoch)
            .finish_non_exhaustive()
    }
}

/// Disk work off the runtime's own threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(
                Error::new(ErrorKind::Unexpected, "do disk work: its thread ended")
                    .with_source(error),
            )
        })
}

fn take_lock(path: &Path) -> Result<File> {
    let file = files::open_or_create(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(held(&file)),
        Err(TryLockError::Error(error)) => Err(files::storage("lock", path, error)),
    }
}

fn held(mut file: &File) -> Error {
    let mut note = String::new();
    // Best effort: Windows lets nobody read a locked file, and the holder may be just about to write it.
    let who = file
        .read_to_string(&mut note)
        .ok()
        .and_then(|_| serde_json::from_str::<LockNote>(&note).ok())
        .map_or_else(
            || "another process".to_owned(),
            |note| {
                format!(
                    "pid {} on host {} since {}",
                    note.pid, note.host, note.since
                )
            },
        );
    Error::new(
        ErrorKind::Storage,
        format!("open the job: job is held by {who}; wait for it to end, or stop it"),
    )
}

/// What tells the file apart from any other as long as it is open.
#[cfg(unix)]
fn place(file: &File) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = file.metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn write_note(mut lock: &File, path: &Path, holder: &Holder) -> Result<()> {
    let since = jiff::Timestamp::from_second(holder.at.as_unix_seconds())
        .map_or_else(|_| "an unknown time".to_owned(), |since| since.to_string());
    let note = LockNote {
        pid: holder.pid,
        host: holder.host.clone(),
        boot_id: holder.boot_id.clone(),
        since,
    };
    let json = serde_json::to_vec(&note).expect("plain strings and numbers always serialise");
    lock.set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| lock.write_all(&json))
        .map_err(|error| files::storage("write", path, error))
}

fn holder() -> Holder {
    let read = |path: &str| {
        fs::read_to_string(path)
            .ok()
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
    };
    let host = read("/proc/sys/kernel/hostname")
        .or_else(|| std::env::var("HOSTNAME").ok())
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .unwrap_or_else(|| "unknown".to_owned());
    Holder {
        host,
        boot_id: read("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
        pid: std::process::id(),
        at: Timestamp::from(SystemTime::now()),
    }
}

/// Writes, syncs and removes a small file before anything is bought (F-147).
fn probe_write(folder: &Path) -> Result<()> {
    let path = folder.join("probe.tmp");
    files::remove(&path)?;
    let mut file = files::create(&path)?;
    file.write_all(&[b'x'; 4096])
        .and_then(|()| file.sync_all())
        .map_err(|error| files::storage("write", &path, error))?;
    drop(file);
    files::remove(&path)
}

/// Where a lock may be granted twice, rows may be bought twice (F-153).
fn refuse_network_fs(folder: &Path, kind: Option<&str>) -> Result<()> {
    let Some(kind) = kind else {
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::Storage,
        format!(
            "open {}: it is on a network file system ({kind}), whose locks do not keep a second host from buying the same rows; put the job on a local disk",
            folder.display()
        ),
    ))
}

/// Without its journal nobody knows what a folder has bought: nothing may start over in it.
fn refuse_lost_journal(folder: &Path) -> Result<()> {
    for inner in ["chunks", "raw", "segments"] {
        let path = folder.join(inner);
        let mut entries =
            fs::read_dir(&path).map_err(|error| files::storage("read", &path, error))?;
        // An interrupted first start leaves at most temporary files, and those only after the journal.
        if entries.next().is_some() {
            return Err(Error::new(
                ErrorKind::Storage,
                format!(
                    "open {}: the job's files are there and its ledger.sqlite is gone or empty; rebuild it with `batchwright recover`, restore it, or start in a new folder",
                    folder.display()
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_153_a_network_file_system_is_refused_by_name() {
        let folder = Path::new("/nets/me/job");
        let error = refuse_network_fs(folder, Some("nfs4")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(error.message().contains("(nfs4)"), "{error}");
        assert!(refuse_network_fs(folder, None).is_ok());
        let folder = tempfile::tempdir().unwrap();
        let options = LedgerOptions::default().with_network_fs(true);
        assert!(Ledger::open_with(folder.path(), options).is_ok());
    }
}
