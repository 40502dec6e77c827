//! Appending outcomes: everybody writes, one thread syncs, and one sync serves all who wait.

use crate::{
    files::{self, Sha256},
    journal::{Journal, SealedSegment},
    ledger::Ledger,
    record,
    segment::SegmentName,
};
use batchwright_core::{Error, ErrorKind, Result};
use std::{
    fmt,
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Outcomes that wait for a sync at most before it is done: half of the default number of calls at once, so
/// that the other half keeps the connections busy meanwhile.
const GROUP: u64 = 32;
/// How long an outcome waits for others to share its sync: little beside a call, and long beside a sync, which
/// costs a few hundred microseconds of CPU whatever it carries.
const GATHER: Duration = Duration::from_millis(1);
/// How soon an intent is synced where no outcome brings it along.
const LINGER: Duration = Duration::from_millis(50);
/// A segment is closed once it is this large, so that no file grows without end.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Lines of a bulk append are written in pieces of this size.
const PIECE_BYTES: usize = 256 * 1024;
/// Room kept for lines that gather.
const KEPT_BYTES: usize = 64 * 1024;

/// Where outcomes are appended. Clones share one segment and one thread, which ends with
/// [`OutcomeLog::finish`] or the last clone.
///
/// An intent is in the file when its call returns, so that it outlives the process; intents of tasks that are ready
/// together share a write. Outcomes gather for at most a millisecond, and share a write, which may be that of the next
/// intent, and a sync. After a failed write or sync every append fails, since nobody knows what is on the disk (F-146);
/// what was confirmed before stays confirmed.
#[derive(Clone)]
pub struct OutcomeLog(Arc<Shared>);

/// The thread's owner.
pub(crate) struct Shared {
    desk: Arc<Desk>,
    thread: Mutex<Option<JoinHandle<()>>>,
    finished: AtomicBool,
}

/// What callers and the thread share.
struct Desk {
    writer: Mutex<Writer>,
    /// Wakes the thread.
    ready: Condvar,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whole lines to be written.
struct Lines<'a> {
    bytes: &'a [u8],
    outcomes: u64,
    intents: u64,
}

/// An intent on its way.
enum Noted {
    /// It is in the file once all up to this one are.
    Until(u64),
    /// It is in the file, and waits for a sync.
    Held(oneshot::Receiver<Result<()>>),
}

/// Who waits for a sync, with what.
struct Held {
    reply: oneshot::Sender<Result<()>>,
    is_intent: bool,
}

fn ended() -> Error {
    Error::new(
        ErrorKind::Unexpected,
        "append an outcome: the outcome log is finished",
    )
}

impl OutcomeLog {
    pub(crate) fn start(ledger: Ledger) -> Result<Self> {
        Self::start_with(ledger, SEGMENT_BYTES, Box::new(create_segment))
    }

    pub(crate) fn start_with(ledger: Ledger, segment_bytes: u64, create: Create) -> Result<Self> {
        let folder = ledger.folder().to_owned();
        let run = ledger.next_run();
        let writer = Writer {
            journal: ledger.second_journal()?,
            taken_over: None,
            // The first run of an epoch is told by the epoch.
            new_run: (run > 1).then_some(run),
            ledger,
            create,
            segment_bytes,
            current: None,
            pending: Vec::new(),
            pending_outcomes: 0,
            noted: Vec::new(),
            noted_until: 0,
            written_until: 0,
            broken: None,
            held: Vec::new(),
            held_outcomes: 0,
            due: None,
            sleeps_until: None,
            ended: false,
        };
        let desk = Arc::new(Desk {
            writer: Mutex::new(writer),
            ready: Condvar::new(),
        });
        let shared = Arc::clone(&desk);
        let thread = thread::Builder::new()
            .name("batchwright-outcomes".to_owned())
            .spawn(move || sync_when_due(&shared))
            .map_err(|error| files::storage("start a thread to sync in", &folder, error))?;
        Ok(Self(Arc::new(Shared {
            desk,
            thread: Mutex::new(Some(thread)),
            finished: AtomicBool::new(false),
        })))
    }

    /// The log again, while it is not finished.
    pub(crate) fn from_shared(shared: Arc<Shared>) -> Option<Self> {
        (!shared.finished.load(Ordering::Acquire)).then_some(Self(shared))
    }

    pub(crate) fn downgrade(&self) -> Weak<Shared> {
        Arc::downgrade(&self.0)
    }

    /// Records that row `row` is about to be sent for the `attempt`th time: however this process ends, the row
    /// is then named among those that may have been billed. It is synced 50 ms later at the latest, so that only
    /// a power failure within those can lose the name, though not the bound of one billing for each call at once.
    /// A ledger on a network file system syncs it before this returns, for whoever takes the job over on another
    /// host.
    ///
    /// # Errors
    /// `Storage` where it could not be written, or another process took the job over; the row must then not be
    /// sent.
    ///
    /// # Cancel safety
    /// A dropped call may or may not have been written; the intent then names a row that was not sent.
    pub async fn intent(&self, row: u64, attempt: u32) -> Result<()> {
        let mut line = Vec::with_capacity(64);
        record::write_intent(row, attempt, &mut line);
        line.push(b'\n');
        let noted = self.note(&line)?;
        let place = match noted {
            Noted::Until(place) => place,
            Noted::Held(synced) => return synced.await.map_err(|_| ended())?,
        };
        // Whatever else is ready comes first, and its intents go along: whoever is back first writes them all.
        tokio::task::yield_now().await;
        let mut writer = self.0.desk.lock();
        let written = writer.write_noted(place);
        self.0.desk.release(writer);
        written
    }

    /// Takes an intent's line; writes it at once where it is synced.
    fn note(&self, line: &[u8]) -> Result<Noted> {
        let mut writer = self.0.desk.lock();
        if !writer.ledger.syncs_intents() {
            return writer.note(line).map(Noted::Until);
        }
        let lines = Lines {
            bytes: line,
            outcomes: 0,
            intents: 1,
        };
        writer.write(&lines)?;
        let synced = writer.hold(&lines);
        self.0.desk.release(writer);
        Ok(Noted::Held(synced))
    }

    /// Records that the last intents of these rows cost nothing: they were not carried out, or refused
    /// without work. The rows are then not named among those that may have been billed.
    ///
    /// # Errors
    /// As [`OutcomeLog::append`].
    ///
    /// # Cancel safety
    /// A dropped call may or may not have been written; without it rows are named that cost nothing.
    pub async fn withdraw(&self, rows: &[u64]) -> Result<()> {
        let mut lines = Vec::new();
        for row in rows {
            record::write_withdrawn(*row, &mut lines);
            lines.push(b'\n');
        }
        self.append_lines(&lines, 0).await
    }

    /// Records that these rows are to be sent again: outcomes recorded before are superseded, and the rows have none
    /// until the next one. Durable on return. For blocking threads.
    ///
    /// # Errors
    /// As [`OutcomeLog::append`].
    ///
    /// # Panics
    /// In an async task, which it would block.
    pub fn reopen_blocking(&self, rows: impl IntoIterator<Item = u64>) -> Result<()> {
        self.write_blocking(rows, record::write_reopened)
    }

    /// Records that `chunk` may have been billed for these rows, which go on without an answer from it: each counts
    /// as an attempt that may have been billed besides, once for each chunk. Durable on return. For blocking threads.
    ///
    /// # Errors
    /// As [`OutcomeLog::append`].
    ///
    /// # Panics
    /// In an async task, which it would block.
    pub fn lost_blocking(&self, chunk: u32, rows: impl IntoIterator<Item = u64>) -> Result<()> {
        self.write_blocking(rows, |row, line| record::write_lost(row, chunk, line))
    }

    fn write_blocking(
        &self,
        rows: impl IntoIterator<Item = u64>,
        write: impl Fn(u64, &mut Vec<u8>),
    ) -> Result<()> {
        let mut lines = Vec::new();
        for row in rows {
            write(row, &mut lines);
            lines.push(b'\n');
            if lines.len() >= PIECE_BYTES {
                self.write(&lines, 0)?;
                lines.clear();
            }
        }
        let synced = self.write_to_sync(&lines, 0)?;
        synced.blocking_recv().map_err(|_| ended())?
    }

    /// Appends an outcome made by [`crate::OutcomeRecord::write`], durable on return; only then may it be
    /// shown to anybody.
    ///
    /// # Errors
    /// `Storage` where it could not be made durable; `Unexpected` where it holds a newline.
    ///
    /// # Cancel safety
    /// A dropped call may or may not have been written; writing the same outcome again is harmless.
    pub async fn append(&self, mut record: Vec<u8>) -> Result<()> {
        check(&record)?;
        record.push(b'\n');
        self.append_lines(&record, 1).await
    }

    /// Appends many outcomes with one sync at the end, durable on return.
    ///
    /// # Errors
    /// As [`OutcomeLog::append`]; some of the outcomes may then have been written.
    ///
    /// # Cancel safety
    /// A dropped call may have written any number of them; writing them again is harmless.
    pub async fn append_batch(&self, records: Vec<Vec<u8>>) -> Result<()> {
        for record in &records {
            check(record)?;
        }
        let mut bytes = Vec::new();
        let mut outcomes = 0;
        for record in records {
            bytes.extend_from_slice(&record);
            bytes.push(b'\n');
            outcomes += 1;
            if bytes.len() >= PIECE_BYTES {
                self.write(&bytes, outcomes)?;
                bytes.clear();
                outcomes = 0;
            }
        }
        self.append_lines(&bytes, outcomes).await
    }

    /// [`OutcomeLog::append_batch`] for blocking threads.
    ///
    /// # Errors
    /// As [`OutcomeLog::append_batch`].
    ///
    /// # Panics
    /// In an async task, which it would block.
    pub fn append_blocking(&self, records: &[Vec<u8>]) -> Result<()> {
        let mut bulk = self.bulk();
        for record in records {
            bulk.push(record)?;
        }
        bulk.finish()
    }

    /// Starts an append of any number of outcomes from a blocking thread, such as those of a whole batch.
    pub fn bulk(&self) -> BulkWriter {
        BulkWriter {
            log: self.clone(),
            bytes: Vec::new(),
            outcomes: 0,
        }
    }

    /// Closes the segment: durable, with its SHA-256 and counts in the ledger. Later appends fail, also those of
    /// clones; [`Ledger::outcome_log`] starts a new one.
    ///
    /// # Errors
    /// `Storage` where that failed, or an append before it did.
    ///
    /// # Cancel safety
    /// A dropped call closes the segment all the same.
    pub async fn finish(self) -> Result<()> {
        self.0.finished.store(true, Ordering::Release);
        let shared = self.0;
        crate::ledger::blocking(move || {
            let closed = shared.desk.end();
            shared.join();
            closed
        })
        .await
    }

    fn write(&self, bytes: &[u8], outcomes: u64) -> Result<()> {
        self.0.desk.lock().write(&Lines {
            bytes,
            outcomes,
            intents: 0,
        })
    }

    /// Writes and says when it is durable.
    fn write_to_sync(&self, bytes: &[u8], outcomes: u64) -> Result<oneshot::Receiver<Result<()>>> {
        let lines = Lines {
            bytes,
            outcomes,
            intents: 0,
        };
        let mut writer = self.0.desk.lock();
        writer.write(&lines)?;
        let synced = writer.hold(&lines);
        self.0.desk.release(writer);
        Ok(synced)
    }

    async fn append_lines(&self, bytes: &[u8], outcomes: u64) -> Result<()> {
        let synced = self.write_to_sync(bytes, outcomes)?;
        synced.await.map_err(|_| ended())?
    }
}

impl fmt::Debug for OutcomeLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutcomeLog")
            .field("finished", &self.0.finished)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn join(&self) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that writes outcomes panicked");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Whoever finished it was told.
        if let Err(error) = self.desk.end()
            && !self.finished.load(Ordering::Acquire)
        {
            tracing::warn!(%error, "the segment of outcomes is closed by the next opening");
        }
        self.join();
    }
}

/// Many outcomes from a blocking thread: large writes, one sync at the end.
///
/// Nothing is durable before [`BulkWriter::finish`] returns; dropped before, any number of the outcomes may
/// have been written, which is harmless.
pub struct BulkWriter {
    log: OutcomeLog,
    bytes: Vec<u8>,
    outcomes: u64,
}

impl BulkWriter {
    /// Adds an outcome made by [`crate::OutcomeRecord::write`].
    ///
    /// # Errors
    /// As [`OutcomeLog::append`].
    ///
    /// # Panics
    /// In an async task, which it would block.
    pub fn push(&mut self, record: &[u8]) -> Result<()> {
        check(record)?;
        self.bytes.extend_from_slice(record);
        self.bytes.push(b'\n');
        self.outcomes += 1;
        if self.bytes.len() >= PIECE_BYTES {
            self.log
                .write(&self.bytes, std::mem::take(&mut self.outcomes))?;
            self.bytes.clear();
        }
        Ok(())
    }

    /// Makes them all durable.
    ///
    /// # Errors
    /// As [`OutcomeLog::append`].
    ///
    /// # Panics
    /// In an async task, which it would block.
    pub fn finish(self) -> Result<()> {
        let synced = self.log.write_to_sync(&self.bytes, self.outcomes)?;
        synced.blocking_recv().map_err(|_| ended())?
    }
}

impl fmt::Debug for BulkWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkWriter").finish_non_exhaustive()
    }
}

fn check(record: &[u8]) -> Result<()> {
    if record.is_empty() || memchr::memchr(b'\n', record).is_some() {
        return Err(Error::new(
            ErrorKind::Unexpected,
            "append an outcome: the record is not one line",
        ));
    }
    Ok(())
}

/// The file behind a segment; a trait so that tests can fail each write and sync.
pub(crate) trait SegmentFile: Send + Sync {
    fn append(&self, bytes: &[u8]) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
}

impl SegmentFile for File {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file = self;
        file.write_all(bytes)?;
        files::told("written", "segment");
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()?;
        files::told("synced", "segment");
        Ok(())
    }
}

/// A segment's file, of which no sync succeeds after one that failed: the kernel tells an error once, to whichever of
/// two syncs asks first (F-146).
struct Synced {
    file: Arc<dyn SegmentFile>,
    failed: Mutex<bool>,
}

impl Synced {
    fn new(file: Arc<dyn SegmentFile>) -> Self {
        Self {
            file,
            failed: Mutex::new(false),
        }
    }

    /// One at a time, so that the second learns how the first one ended.
    fn sync(&self) -> io::Result<()> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if *failed {
            return Err(io::Error::other("an earlier sync of it failed"));
        }
        let synced = self.file.sync();
        *failed = synced.is_err();
        synced
    }
}

pub(crate) type Create = Box<dyn FnMut(&Path) -> Result<Arc<dyn SegmentFile>> + Send>;

pub(crate) fn create_segment(path: &Path) -> Result<Arc<dyn SegmentFile>> {
    let file = files::create(path)?;
    if let Some(folder) = path.parent() {
        files::sync_folder(folder)?;
    }
    Ok(Arc::new(file))
}

/// The segment being written.
struct Current {
    name: SegmentName,
    path: PathBuf,
    file: Arc<Synced>,
    sha: Sha256,
    bytes: u64,
    /// How many of the bytes are durable.
    synced: u64,
    outcomes: u64,
    intents: u64,
}

impl Current {
    fn sync(&mut self) -> Result<()> {
        if self.synced < self.bytes {
            self.file
                .sync()
                .map_err(|error| files::storage("append to", &self.path, error))?;
            self.synced = self.bytes;
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .file
            .append(bytes)
            .map_err(|error| files::storage("append to", &self.path, error))?;
        self.sha.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// What is written, and who waits for it to be durable.
struct Writer {
    /// For the fence alone: the ledger's own is locked while anybody checks or writes facts. Above the ledger,
    /// so that it is closed first, and what closes last clears up.
    journal: Journal,
    /// Why no intent is confirmed any more.
    taken_over: Option<Error>,
    ledger: Ledger,
    /// The run's number, until its first line is written.
    new_run: Option<u32>,
    create: Create,
    segment_bytes: u64,
    current: Option<Current>,
    /// Whole lines not yet written, which no intent is among.
    pending: Vec<u8>,
    /// How many outcomes are among them.
    pending_outcomes: u64,
    /// Lines of intents whose callers have yet to see them written.
    noted: Vec<u8>,
    /// How many intents were ever noted.
    noted_until: u64,
    /// How many of them were written.
    written_until: u64,
    broken: Option<Error>,
    held: Vec<Held>,
    /// How many outcomes they wait for.
    held_outcomes: u64,
    /// When the next sync is to be done at the latest.
    due: Option<Instant>,
    /// Until when the thread sleeps by itself, while it does; the outer `None` while it does not.
    sleeps_until: Option<Option<Instant>>,
    /// Whether nothing is accepted any more.
    ended: bool,
}

/// The thread: makes durable what is written, when it is time.
fn sync_when_due(desk: &Desk) {
    let mut writer = desk.lock();
    while !writer.ended {
        let now = Instant::now();
        if !writer.is_due(now) {
            writer.sleeps_until = Some(writer.due);
            writer = match writer.due {
                None => desk
                    .ready
                    .wait(writer)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(due) => {
                    desk.ready
                        .wait_timeout(writer, due - now)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
            writer.sleeps_until = None;
            continue;
        }
        if let Err(error) = writer.flush() {
            writer.fail(&error);
            continue;
        }
        writer.due = None;
        writer.held_outcomes = 0;
        let held = std::mem::take(&mut writer.held);
        let Some(current) = &writer.current else {
            // What was written to a segment that is closed is durable.
            writer.answer(held, &Ok(()));
            continue;
        };
        let (file, name, bytes) = (Arc::clone(&current.file), current.name, current.bytes);
        drop(writer);
        let synced = file.sync();
        writer = desk.lock();
        let result = match synced {
            Ok(()) => {
                if let Some(current) = &mut writer.current
                    && current.name == name
                {
                    current.synced = current.synced.max(bytes);
                }
                writer.check_fence()
            }
            Err(error) => {
                let path = name.path(writer.ledger.folder());
                Err(files::storage("append to", &path, error))
            }
        };
        if let Err(error) = &result {
            writer.fail(error);
        }
        // Those who are answered come back for more at once.
        let taken_over = writer.taken_over.clone();
        drop(writer);
        answer(held, &result, taken_over.as_ref());
        writer = desk.lock();
    }
}

fn answer(held: Vec<Held>, result: &Result<()>, taken_over: Option<&Error>) {
    for Held { reply, is_intent } in held {
        let result = match (taken_over, is_intent) {
            (Some(error), true) => Err(error.clone()),
            _ => result.clone(),
        };
        // Who does not wait any more does not need the answer.
        let _ = reply.send(result);
    }
}

impl Desk {
    /// Wakes the thread where it would sleep too long.
    fn release(&self, mut writer: MutexGuard<'_, Writer>) {
        let oversleeps = match writer.sleeps_until {
            None => false,
            Some(until) => {
                writer.held_outcomes >= GROUP
                    || writer
                        .due
                        .is_some_and(|due| until.is_none_or(|until| due < until))
            }
        };
        if oversleeps {
            // Once is enough.
            writer.sleeps_until = None;
        }
        drop(writer);
        if oversleeps {
            self.ready.notify_one();
        }
    }

    /// Makes everything durable and closes the segment; nothing is accepted afterwards, and the thread ends.
    fn end(&self) -> Result<()> {
        let mut writer = self.lock();
        if writer.ended {
            return writer.broken.clone().map_or(Ok(()), Err);
        }
        let closed = writer.check_fence().and_then(|()| writer.close());
        if let Err(error) = &closed {
            writer.fail(error);
        }
        writer.ended = true;
        drop(writer);
        self.ready.notify_one();
        closed
    }
}

impl Writer {
    fn is_due(&self, now: Instant) -> bool {
        self.held_outcomes >= GROUP || self.due.is_some_and(|due| due <= now)
    }

    /// Takes whole lines for the segment. Intents are in it on return, and outlive this process.
    fn write(&mut self, lines: &Lines<'_>) -> Result<()> {
        if self.ended {
            return Err(ended());
        }
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        self.try_write(lines)
            .inspect_err(|error| self.fail(error))?;
        match &self.taken_over {
            // A row that may not be sent is no fault of the disk.
            Some(error) if lines.intents > 0 => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Takes an intent's line, to be written with those of others. Its number among all.
    fn note(&mut self, line: &[u8]) -> Result<u64> {
        self.is_open_to_intents()?;
        self.noted.extend_from_slice(line);
        self.noted_until += 1;
        Ok(self.noted_until)
    }

    /// Writes all intents that were noted, unless somebody wrote the one at `place` already.
    fn write_noted(&mut self, place: u64) -> Result<()> {
        if self.written_until < place {
            let intents = self.noted_until - self.written_until;
            self.written_until = self.noted_until;
            let mut bytes = std::mem::take(&mut self.noted);
            self.write(&Lines {
                bytes: &bytes,
                outcomes: 0,
                intents,
            })?;
            bytes.clear();
            self.noted = bytes;
            self.due.get_or_insert_with(|| Instant::now() + LINGER);
        }
        // Whoever wrote it may have failed, or found the job taken over.
        self.is_open_to_intents()
    }

    fn is_open_to_intents(&self) -> Result<()> {
        if self.ended {
            return Err(ended());
        }
        let error = self.broken.as_ref().or(self.taken_over.as_ref());
        error.map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Writes nothing, or in vain, where an intent comes after another process took the job over.
    fn try_write(&mut self, lines: &Lines<'_>) -> Result<()> {
        if lines.intents > 0 {
            self.check_fence()?;
            if self.taken_over.is_some() {
                return Ok(());
            }
            let fills = self.put(lines.bytes, lines.intents)?;
            // Once more, now that the intent can be read: whoever takes the job over after this reads it.
            self.check_fence()?;
            // What was left to another process is nobody's to close here.
            if fills && self.taken_over.is_none() {
                self.close()?;
            }
            return Ok(());
        }
        self.pending.extend_from_slice(lines.bytes);
        self.pending_outcomes += lines.outcomes;
        let begun = self.current.as_ref().map_or(0, |current| current.bytes);
        let fills = begun + self.pending.len() as u64 >= self.segment_bytes;
        if fills || self.pending.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what is pending.
    fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.check_fence()?;
        if self.put(&[], 0)? {
            self.close()?;
        }
        Ok(())
    }

    /// Writes what is pending and, behind it in the same write, these lines of intents. Whether the segment is full
    /// then.
    fn put(&mut self, lines: &[u8], intents: u64) -> Result<bool> {
        let current = match &mut self.current {
            Some(current) => current,
            None => {
                let name = self.ledger.next_segment();
                let path = name.path(self.ledger.folder());
                let file = Arc::new(Synced::new((self.create)(&path)?));
                self.current.insert(Current {
                    name,
                    path,
                    file,
                    sha: Sha256::new(),
                    bytes: 0,
                    synced: 0,
                    outcomes: 0,
                    intents: 0,
                })
            }
        };
        if let Some(run) = self.new_run.take() {
            let mut line = Vec::new();
            record::write_run(run, &mut line);
            line.push(b'\n');
            current.append(&line)?;
        }
        if self.pending.is_empty() {
            current.append(lines)?;
        } else {
            self.pending.extend_from_slice(lines);
            current.append(&self.pending)?;
            self.pending.clear();
            self.pending.shrink_to(KEPT_BYTES);
        }
        current.outcomes += std::mem::take(&mut self.pending_outcomes);
        current.intents += intents;
        Ok(current.bytes >= self.segment_bytes)
    }

    /// Looks whether another process took the job over (F-153). It has closed our segment then, so what was
    /// bought already goes to a new one.
    fn check_fence(&mut self) -> Result<()> {
        // Where the kernel's locks can be relied on, nobody can without removing the lock's file.
        let possible = self.ledger.syncs_intents() || self.ledger.lock_is_gone();
        if !possible || self.taken_over.is_some() {
            return Ok(());
        }
        self.taken_over = self.journal.fence(self.ledger.epoch())?;
        if self.taken_over.is_some()
            && let Some(mut left) = self.current.take()
        {
            left.sync()?;
        }
        Ok(())
    }

    /// Has a caller wait for what it just wrote.
    fn hold(&mut self, lines: &Lines<'_>) -> oneshot::Receiver<Result<()>> {
        let (reply, synced) = oneshot::channel();
        self.held.push(Held {
            reply,
            is_intent: lines.intents > 0,
        });
        self.held_outcomes += lines.outcomes;
        let due = Instant::now() + GATHER;
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
        synced
    }

    fn answer(&self, held: Vec<Held>, result: &Result<()>) {
        answer(held, result, self.taken_over.as_ref());
    }

    /// From the first error on nothing is confirmed any more.
    fn fail(&mut self, error: &Error) {
        if self.broken.is_none() {
            self.broken = Some(error.clone().context("append an outcome after this failed"));
        }
        self.due = None;
        self.held_outcomes = 0;
        let held = std::mem::take(&mut self.held);
        self.answer(held, &Err(error.clone()));
    }

    /// Makes the current segment durable and closes it, if there is one.
    fn close(&mut self) -> Result<()> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let written = self.flush();
        if let Err(error) = &written {
            self.fail(error);
        }
        written?;
        let synced = self.current.as_mut().map_or(Ok(()), Current::sync);
        if let Err(error) = &synced {
            self.fail(error);
        }
        self.due = None;
        self.held_outcomes = 0;
        let held = std::mem::take(&mut self.held);
        self.answer(held, &synced);
        synced?;
        let Some(current) = self.current.take() else {
            return Ok(());
        };
        self.ledger.journal().put_segment(&SealedSegment {
            epoch: current.name.epoch,
            number: current.name.number,
            bytes: current.bytes,
            sha256: current.sha.hex(),
            outcomes: current.outcomes,
            intents: current.intents,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright_core::{Ending, Outcome};
    use std::sync::{atomic::AtomicUsize, mpsc};

    fn record(row: u64) -> Vec<u8> {
        let mut line = Vec::new();
        let outcome = Outcome::new("id", Ending::Expired);
        crate::OutcomeRecord::write(row, "id", &outcome, false, &mut line);
        line
    }

    /// A real file whose n-th operation, counted over writes and syncs, fails; a failing write leaves half.
    struct Failing {
        file: File,
        left: AtomicUsize,
    }

    impl Failing {
        fn step(&self) -> bool {
            self.left.fetch_sub(1, Ordering::SeqCst) == 1
        }
    }

    impl SegmentFile for Failing {
        fn append(&self, bytes: &[u8]) -> io::Result<()> {
            if self.step() {
                self.file.append(&bytes[..bytes.len() / 2])?;
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.file.append(bytes)
        }

        fn sync(&self) -> io::Result<()> {
            if self.step() {
                return Err(io::Error::other("injected"));
            }
            self.file.sync_data()
        }
    }

    #[tokio::test]
    async fn f_145_f_146_after_a_failed_write_or_sync_nothing_is_confirmed() {
        for fail_at in 1..=8 {
            let folder = tempfile::tempdir().unwrap();
            let ledger = Ledger::open(folder.path()).unwrap();
            let create: Create = Box::new(move |path| {
                let file = files::create(path)?;
                Ok(Arc::new(Failing {
                    file,
                    left: AtomicUsize::new(fail_at),
                }))
            });
            let log = OutcomeLog::start_with(ledger.clone(), SEGMENT_BYTES, create).unwrap();
            let mut confirmed = Vec::new();
            let mut failures = Vec::new();
            for row in 0..6 {
                match log.append(record(row)).await {
                    Ok(()) => confirmed.push(row),
                    Err(error) => failures.push(error),
                }
            }
            // Two operations each: the first failure ends it, also where the next would work again.
            assert_eq!(confirmed.len(), (fail_at - 1) / 2);
            assert_eq!(confirmed.len() + failures.len(), 6);
            assert!(
                failures
                    .iter()
                    .all(|error| error.kind() == ErrorKind::Storage)
            );
            let full = failures
                .iter()
                .all(|error| error.message().contains("disk full"));
            assert_eq!(full, fail_at % 2 == 1);
            assert!(log.intent(9, 1).await.is_err());
            assert!(log.finish().await.is_err());
            drop(ledger);
            let scan = Ledger::open(folder.path()).unwrap().scan().unwrap();
            assert!(confirmed.iter().all(|row| scan.finished.contains(*row)));
        }
    }

    /// Counts its syncs, each of which waits to be let through.
    struct Gated {
        file: File,
        syncs: Arc<AtomicUsize>,
        gate: Mutex<mpsc::Receiver<()>>,
    }

    impl SegmentFile for Gated {
        fn append(&self, bytes: &[u8]) -> io::Result<()> {
            self.file.append(bytes)
        }

        fn sync(&self) -> io::Result<()> {
            let gate = self.gate.lock().unwrap();
            gate.recv().map_err(io::Error::other)?;
            self.syncs.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    }

    #[tokio::test]
    async fn f_153_on_a_network_an_intent_that_is_overtaken_on_its_way_to_the_disk_is_not_confirmed()
     {
        let folder = tempfile::tempdir().unwrap();
        let network = crate::LedgerOptions::default().with_network_fs(true);
        let ledger = Ledger::open_with(folder.path(), network).unwrap();
        let (open, gate) = mpsc::channel();
        let (syncs, mut gate) = (Arc::new(AtomicUsize::new(0)), Some(gate));
        let counted = Arc::clone(&syncs);
        let create: Create = Box::new(move |path| {
            let file = files::create(path)?;
            match gate.take() {
                Some(gate) => {
                    let syncs = Arc::clone(&counted);
                    let gate = Mutex::new(gate);
                    Ok(Arc::new(Gated { file, syncs, gate }))
                }
                None => Ok(Arc::new(file)),
            }
        });
        let log = OutcomeLog::start_with(ledger.clone(), SEGMENT_BYTES, create).unwrap();
        let mut intent = Box::pin(log.intent(0, 1));
        assert!(futures::poll!(&mut intent).is_pending());
        // The fence was passed when the file is there; the sync waits.
        let segment = folder.path().join("segments/000001-0001.jsonl");
        while std::fs::read(&segment).is_ok_and(|bytes| bytes.is_empty()) || !segment.exists() {
            tokio::task::yield_now().await;
        }
        std::fs::remove_file(folder.path().join("lock")).unwrap();
        let second = Ledger::open(folder.path()).unwrap();
        open.send(()).unwrap();
        let error = intent.await.unwrap_err();
        assert!(error.message().contains("took this job over"), "{error}");
        assert_eq!(syncs.load(Ordering::SeqCst), 1);
        log.append(record(1)).await.unwrap();
        let scan = second.scan().unwrap();
        assert!(scan.finished.iter().eq([1]));
        assert_eq!(scan.in_flight, [0]);
    }

    #[tokio::test]
    async fn an_intent_waits_for_no_sync_and_gets_one_soon_after() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        let syncs = Arc::new(AtomicUsize::new(0));
        let (open, gate) = mpsc::channel();
        let mut parts = Some((Arc::clone(&syncs), gate));
        let create: Create = Box::new(move |path| {
            let file = files::create(path)?;
            let (syncs, gate) = parts.take().expect("one segment is enough");
            let gate = Mutex::new(gate);
            Ok(Arc::new(Gated { file, syncs, gate }))
        });
        let log = OutcomeLog::start_with(ledger, SEGMENT_BYTES, create).unwrap();
        log.intent(3, 1).await.unwrap();
        // In the file already, for whoever opens the job after this process.
        let segment = folder.path().join("segments/000001-0001.jsonl");
        assert!(std::fs::read_to_string(segment).unwrap().ends_with("\n"));
        assert_eq!(syncs.load(Ordering::SeqCst), 0);
        open.send(()).unwrap();
        while syncs.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Counts its writes.
    struct Counting {
        file: File,
        writes: Arc<AtomicUsize>,
    }

    impl SegmentFile for Counting {
        fn append(&self, bytes: &[u8]) -> io::Result<()> {
            self.writes.fetch_add(1, Ordering::SeqCst);
            self.file.append(bytes)
        }

        fn sync(&self) -> io::Result<()> {
            self.file.sync()
        }
    }

    #[tokio::test]
    async fn intents_that_are_ready_together_share_a_write_and_all_are_in_the_file_on_return() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        let writes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&writes);
        let create: Create = Box::new(move |path| {
            let (file, writes) = (files::create(path)?, Arc::clone(&counted));
            Ok(Arc::new(Counting { file, writes }))
        });
        let log = OutcomeLog::start_with(ledger.clone(), SEGMENT_BYTES, create).unwrap();
        // One is dropped before it is written, which costs the others nothing.
        let mut dropped = Box::pin(log.intent(100, 1));
        assert!(futures::poll!(&mut dropped).is_pending());
        drop(dropped);
        let mut tasks = tokio::task::JoinSet::new();
        let segment = folder.path().join("segments/000001-0001.jsonl");
        for row in 0..100 {
            let (log, segment) = (log.clone(), segment.clone());
            tasks.spawn(async move {
                log.intent(row, 1).await.unwrap();
                let written = std::fs::read_to_string(segment).unwrap();
                assert!(written.contains(&format!("\"intent\":{row},")));
            });
        }
        tasks.join_all().await;
        assert_eq!(writes.load(Ordering::SeqCst), 1);
        log.finish().await.unwrap();
        assert_eq!(ledger.scan().unwrap().in_flight_rows, 101);
    }

    #[tokio::test]
    async fn all_who_wait_share_one_sync_and_none_is_confirmed_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        let syncs = Arc::new(AtomicUsize::new(0));
        let (open, gate) = mpsc::channel();
        let mut parts = Some((Arc::clone(&syncs), gate));
        let create: Create = Box::new(move |path| {
            let file = files::create(path)?;
            let (syncs, gate) = parts.take().expect("one segment is enough");
            let gate = Mutex::new(gate);
            Ok(Arc::new(Gated { file, syncs, gate }))
        });
        let log = OutcomeLog::start_with(ledger, SEGMENT_BYTES, create).unwrap();
        let mut appends: Vec<_> = (0..100)
            .map(|row| Box::pin(log.append(record(row))))
            .collect();
        for append in &mut appends {
            assert!(futures::poll!(append).is_pending());
        }
        // The thread holds one group at the gate; whatever came meanwhile is the next one.
        for _ in 0..appends.len() {
            open.send(()).unwrap();
        }
        for result in futures::future::join_all(appends).await {
            result.unwrap();
        }
        let shared = syncs.load(Ordering::SeqCst);
        log.append(record(100)).await.unwrap();
        assert_eq!(syncs.load(Ordering::SeqCst), shared + 1);
        assert!(shared < 100, "{shared} syncs for 100 appends");
    }

    /// Its first sync fails once it is let through, and no other does, as a kernel tells an error once.
    struct ToldOnce {
        file: File,
        entered: mpsc::SyncSender<()>,
        gate: Mutex<Option<mpsc::Receiver<()>>>,
    }

    impl SegmentFile for ToldOnce {
        fn append(&self, bytes: &[u8]) -> io::Result<()> {
            self.file.append(bytes)
        }

        fn sync(&self) -> io::Result<()> {
            let Some(gate) = self.gate.lock().unwrap().take() else {
                return Ok(());
            };
            self.entered.send(()).unwrap();
            gate.recv().unwrap();
            Err(io::Error::other("injected"))
        }
    }

    #[tokio::test]
    async fn f_146_an_error_one_sync_was_told_is_not_confirmed_by_another() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        let (entered, was_entered) = mpsc::sync_channel(1);
        let (open, gate) = mpsc::channel();
        let mut gate = Some(gate);
        let create: Create = Box::new(move |path| {
            let (file, entered) = (files::create(path)?, entered.clone());
            let gate = Mutex::new(gate.take());
            Ok(Arc::new(ToldOnce {
                file,
                entered,
                gate,
            }))
        });
        let line = record(0).len() as u64 + 1;
        let log = OutcomeLog::start_with(ledger, 3 * line, create).unwrap();
        let mut first = Box::pin(log.append(record(0)));
        assert!(futures::poll!(&mut first).is_pending());
        was_entered.recv().unwrap();
        // The thread syncs; one more waits, and the next one fills the segment, which is synced to be closed.
        let mut second = Box::pin(log.append(record(1)));
        assert!(futures::poll!(&mut second).is_pending());
        let third = thread::spawn({
            let log = log.clone();
            move || log.append_blocking(&[record(2)])
        });
        let segment = folder.path().join("segments/000001-0001.jsonl");
        while std::fs::metadata(&segment).unwrap().len() < 3 * line {
            tokio::task::yield_now().await;
        }
        open.send(()).unwrap();
        assert!(first.await.is_err());
        assert!(second.await.is_err());
        assert!(third.join().unwrap().is_err());
        assert!(log.append(record(3)).await.is_err());
        let other = log.clone();
        assert!(log.finish().await.is_err());
        assert!(other.finish().await.is_err(), "nor by asking again");
    }

    #[tokio::test]
    async fn f_146_a_sync_that_fails_while_the_job_is_taken_over_confirms_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        let create: Create = Box::new(move |path| {
            let file = files::create(path)?;
            // Two writes, then the sync of what is left behind.
            let left = AtomicUsize::new(3);
            Ok(Arc::new(Failing { file, left }))
        });
        let log = OutcomeLog::start_with(ledger, SEGMENT_BYTES, create).unwrap();
        let shared = Arc::clone(&log.0.desk);
        let synced = {
            let mut writer = shared.lock();
            let mut bytes = record(0);
            bytes.push(b'\n');
            let outcome = Lines {
                bytes: &bytes,
                outcomes: 1,
                intents: 0,
            };
            writer.write(&outcome).unwrap();
            writer.flush().unwrap();
            let synced = writer.hold(&outcome);
            writer.write(&outcome).unwrap();
            writer.flush().unwrap();
            std::fs::remove_file(folder.path().join("lock")).unwrap();
            let _second = Ledger::open(folder.path()).unwrap();
            let intent = Lines {
                bytes: b"{}\n",
                outcomes: 0,
                intents: 1,
            };
            assert!(writer.write(&intent).is_err());
            synced
        };
        shared.ready.notify_one();
        assert!(synced.await.unwrap().is_err());
        assert!(log.append(record(1)).await.is_err());
    }

    #[tokio::test]
    async fn f_153_a_job_taken_over_since_the_last_outcome_is_finished_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        let log = ledger.outcome_log().unwrap();
        log.append(record(0)).await.unwrap();
        std::fs::remove_file(folder.path().join("lock")).unwrap();
        let second = Ledger::open(folder.path()).unwrap();
        log.finish().await.unwrap();
        assert!(second.scan().unwrap().finished.iter().eq([0]));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn f_153_a_lock_that_was_moved_away_is_gone() {
        for linked in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let ledger = Ledger::open(folder.path()).unwrap();
            let log = ledger.outcome_log().unwrap();
            let lock = folder.path().join("lock");
            // As a backup of links does.
            if linked {
                std::fs::hard_link(&lock, folder.path().join("lock.1")).unwrap();
                std::fs::remove_file(&lock).unwrap();
            } else {
                std::fs::rename(&lock, folder.path().join("lock.1")).unwrap();
            }
            log.intent(0, 1).await.unwrap();
            let _second = Ledger::open(folder.path()).unwrap();
            let error = log.intent(1, 1).await.unwrap_err();
            assert!(error.message().contains("took this job over"), "{error}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nobody_waits_for_ever_and_every_segment_is_what_it_was_closed_as() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        let log = OutcomeLog::start_with(ledger.clone(), 16 * 1024, Box::new(create_segment));
        let log = log.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..32 {
            let log = log.clone();
            tasks.spawn(async move {
                for row in (task * 50)..(task * 50 + 50) {
                    log.intent(row, 1).await.unwrap();
                    log.append(record(row)).await.unwrap();
                }
            });
        }
        for task in 0..2 {
            let log = log.clone();
            tasks.spawn_blocking(move || {
                let rows = (10_000 * (task + 1))..(10_000 * (task + 1) + 8_000);
                let records: Vec<_> = rows.map(record).collect();
                log.append_blocking(&records).unwrap();
            });
        }
        let all = tokio::time::timeout(Duration::from_secs(60), tasks.join_all());
        all.await.expect("every append is answered");
        log.finish().await.unwrap();
        let scan = ledger.scan().unwrap();
        assert_eq!(scan.finished.len(), 32 * 50 + 2 * 8_000);
        assert_eq!((scan.in_flight_rows, scan.possibly_paid), (0, 0));
        assert!(ledger.verify(None).unwrap().findings.is_empty());
    }
}
