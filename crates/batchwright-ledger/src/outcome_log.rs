//! Appending outcomes: one thread writes for everybody, and one sync serves all who wait.

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
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc as std_mpsc,
    },
    thread::{self, JoinHandle},
};
use tokio::sync::{mpsc, oneshot};

/// Appends that wait for the thread at most; further callers wait to be let in, and with them the work
/// that would make more outcomes (F-159).
const QUEUE: usize = 1024;
/// A segment is closed once it is this large, so that no file grows without end.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Lines of a bulk append are written in pieces of this size.
const PIECE_BYTES: usize = 1024 * 1024;

/// Where outcomes are appended. Clones share one segment and one thread, which ends with
/// [`OutcomeLog::finish`] or the last clone.
///
/// There is no delay to gather more: whatever waits when the disk is free goes together. After a failed write
/// or sync every append fails, since nobody knows what is on the disk (F-146); what was confirmed before
/// stays confirmed.
#[derive(Clone)]
pub struct OutcomeLog(Arc<Shared>);

/// The thread's owner.
pub(crate) struct Shared {
    /// `None` only while being dropped.
    sender: Option<mpsc::Sender<Command>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    finished: AtomicBool,
}

struct Command {
    work: Work,
    reply: Reply,
}

enum Work {
    Write {
        /// Whole lines.
        bytes: Vec<u8>,
        outcomes: u64,
        intents: u64,
        /// Whether the reply is to wait until they are durable.
        sync: bool,
    },
    Finish,
}

impl Command {
    fn is_intent(&self) -> bool {
        matches!(self.work, Work::Write { intents, .. } if intents > 0)
    }
}

enum Reply {
    Task(oneshot::Sender<Result<()>>),
    Thread(std_mpsc::SyncSender<Result<()>>),
}

impl Reply {
    fn send(self, result: Result<()>) {
        // Who does not wait any more does not need the answer.
        match self {
            Self::Task(sender) => drop(sender.send(result)),
            Self::Thread(sender) => drop(sender.send(result)),
        }
    }
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
        let (sender, queue) = mpsc::channel(QUEUE);
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
            broken: None,
            joined: Vec::new(),
        };
        let thread = thread::Builder::new()
            .name("batchwright-outcomes".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|error| files::storage("start a thread to write in", &folder, error))?;
        Ok(Self(Arc::new(Shared {
            sender: Some(sender),
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

    /// Records that row `row` is about to be sent for the `attempt`th time, durable on return: after a crash
    /// the row is named among those that may have been billed.
    ///
    /// # Errors
    /// `Storage` where it could not be made durable, or another process took the job over; the row must then
    /// not be sent.
    ///
    /// # Cancel safety
    /// A dropped call may or may not have been written; the intent then names a row that was not sent.
    pub async fn intent(&self, row: u64, attempt: u32) -> Result<()> {
        let mut line = Vec::with_capacity(64);
        record::write_intent(row, attempt, &mut line);
        line.push(b'\n');
        self.send(line, 0, 1).await
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
        self.send(lines, 0, 0).await
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
        self.send(record, 1, 0).await
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
                self.send_work(write(std::mem::take(&mut bytes), outcomes, false))
                    .await?;
                outcomes = 0;
            }
        }
        self.send(bytes, outcomes, 0).await
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
        self.send_work(Work::Finish).await?;
        // The thread ended its loop with that reply: the join is short, and the folder's lock is free after.
        let shared = self.0;
        crate::ledger::blocking(move || {
            shared.join();
            Ok(())
        })
        .await
    }

    fn sender(&self) -> Result<&mpsc::Sender<Command>> {
        self.0.sender.as_ref().ok_or_else(ended)
    }

    async fn send(&self, bytes: Vec<u8>, outcomes: u64, intents: u64) -> Result<()> {
        self.send_work(Work::Write {
            bytes,
            outcomes,
            intents,
            sync: true,
        })
        .await
    }

    async fn send_work(&self, work: Work) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let command = Command {
            work,
            reply: Reply::Task(reply),
        };
        self.sender()?.send(command).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    fn send_blocking(&self, work: Work) -> Result<()> {
        let (reply, answer) = std_mpsc::sync_channel(1);
        let command = Command {
            work,
            reply: Reply::Thread(reply),
        };
        self.sender()?.blocking_send(command).map_err(|_| ended())?;
        answer.recv().map_err(|_| ended())?
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
        self.sender = None;
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
            let bytes = std::mem::take(&mut self.bytes);
            let outcomes = std::mem::take(&mut self.outcomes);
            self.log.send_blocking(write(bytes, outcomes, false))?;
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
        self.log
            .send_blocking(write(self.bytes, self.outcomes, true))
    }
}

impl fmt::Debug for BulkWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkWriter").finish_non_exhaustive()
    }
}

fn write(bytes: Vec<u8>, outcomes: u64, sync: bool) -> Work {
    Work::Write {
        bytes,
        outcomes,
        intents: 0,
        sync,
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
pub(crate) trait SegmentFile: Send {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
}

impl SegmentFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

pub(crate) type Create = Box<dyn FnMut(&Path) -> Result<Box<dyn SegmentFile>> + Send>;

pub(crate) fn create_segment(path: &Path) -> Result<Box<dyn SegmentFile>> {
    let file = files::create(path)?;
    if let Some(folder) = path.parent() {
        files::sync_folder(folder)?;
    }
    Ok(Box::new(file))
}

/// The segment being written.
struct Current {
    name: SegmentName,
    path: PathBuf,
    file: Box<dyn SegmentFile>,
    sha: Sha256,
    bytes: u64,
    outcomes: u64,
    intents: u64,
    unsynced: bool,
}

/// The thread's state.
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
    broken: Option<Error>,
    /// The lines of a group that go to the disk in one call.
    joined: Vec<u8>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut group = Vec::new();
        while queue.blocking_recv_many(&mut group, QUEUE) > 0 {
            let mut waiting = Vec::new();
            for command in group.drain(..) {
                if let Work::Finish = command.work {
                    self.commit(std::mem::take(&mut waiting));
                    let closed = self.close();
                    queue.close();
                    command.reply.send(closed);
                    // What was sent after finds the queue closed, or its reply dropped.
                    return;
                }
                waiting.push(command);
            }
            self.commit(waiting);
        }
        if self.broken.is_none()
            && let Err(error) = self.close()
        {
            tracing::warn!(%error, "the outcomes are durable; their segment is closed by the next opening");
        }
    }

    /// Writes a group at once, syncs once where anybody asked for it, answers all.
    fn commit(&mut self, group: Vec<Command>) {
        if group.is_empty() {
            return;
        }
        let result = match &self.broken {
            Some(error) => Err(error.clone()),
            None => self.write(&group),
        };
        if let Err(error) = &result
            && self.broken.is_none()
        {
            self.broken = Some(error.clone().context("append an outcome after this failed"));
        }
        for command in group {
            let fenced = match (&self.taken_over, command.is_intent()) {
                (Some(error), true) => Err(error.clone()),
                _ => Ok(()),
            };
            command.reply.send(result.clone().and(fenced));
        }
    }

    /// Looks whether another process took the job over (F-153). It has closed our segment then, so what was
    /// bought already goes to a new one.
    fn check_fence(&mut self) -> Result<()> {
        if self.taken_over.is_some() {
            return Ok(());
        }
        self.taken_over = self.journal.fence(self.ledger.epoch())?;
        if self.taken_over.is_some()
            && let Some(mut left) = self.current.take()
            && left.unsynced
        {
            left.file
                .sync()
                .map_err(|error| files::storage("append to", &left.path, error))?;
        }
        Ok(())
    }

    fn write(&mut self, group: &[Command]) -> Result<()> {
        self.check_fence()?;
        let (mut new_outcomes, mut new_intents, mut wants_sync) = (0, 0, false);
        self.joined.clear();
        if let Some(run) = self.new_run.take() {
            record::write_run(run, &mut self.joined);
            self.joined.push(b'\n');
        }
        for command in group {
            if self.taken_over.is_some() && command.is_intent() {
                continue;
            }
            if let Work::Write {
                bytes,
                outcomes,
                intents,
                sync,
            } = &command.work
            {
                self.joined.extend_from_slice(bytes);
                new_outcomes += outcomes;
                new_intents += intents;
                wants_sync |= sync;
            }
        }
        if self.taken_over.is_some() && self.joined.is_empty() {
            return Ok(());
        }
        let current = match &mut self.current {
            Some(current) => current,
            None => {
                let name = self.ledger.next_segment();
                let path = name.path(self.ledger.folder());
                let file = (self.create)(&path)?;
                self.current.insert(Current {
                    name,
                    path,
                    file,
                    sha: Sha256::new(),
                    bytes: 0,
                    outcomes: 0,
                    intents: 0,
                    unsynced: false,
                })
            }
        };
        let failed = |error| files::storage("append to", &current.path, error);
        current.file.append(&self.joined).map_err(failed)?;
        current.sha.update(&self.joined);
        current.bytes += self.joined.len() as u64;
        current.outcomes += new_outcomes;
        current.intents += new_intents;
        current.unsynced = true;
        if wants_sync {
            current.file.sync().map_err(failed)?;
            current.unsynced = false;
        }
        // A bulk append may have made this large; its next pieces come soon enough to make it so again.
        self.joined.shrink_to(4 * PIECE_BYTES);
        if current.bytes >= self.segment_bytes {
            self.close()?;
        }
        // Once more, now that the intents are durable: whoever takes the job over after this reads them.
        if new_intents > 0 {
            self.check_fence()?;
        }
        Ok(())
    }

    /// Closes the current segment, if there is one.
    fn close(&mut self) -> Result<()> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let Some(mut current) = self.current.take() else {
            return Ok(());
        };
        if current.unsynced {
            current
                .file
                .sync()
                .map_err(|error| files::storage("append to", &current.path, error))?;
        }
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
    use std::sync::atomic::AtomicUsize;

    fn record(row: u64) -> Vec<u8> {
        let mut line = Vec::new();
        let outcome = Outcome::new("id", Ending::Expired);
        crate::OutcomeRecord::write(row, "id", &outcome, false, &mut line);
        line
    }

    /// A real file whose n-th operation, counted over writes and syncs, fails; a failing write leaves half.
    struct Failing {
        file: File,
        left: usize,
    }

    impl Failing {
        fn step(&mut self) -> bool {
            self.left = self.left.saturating_sub(1);
            self.left == 0
        }
    }

    impl SegmentFile for Failing {
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            if self.step() {
                self.file.write_all(&bytes[..bytes.len() / 2])?;
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.file.write_all(bytes)
        }

        fn sync(&mut self) -> io::Result<()> {
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
                Ok(Box::new(Failing {
                    file,
                    left: fail_at,
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
        gate: std_mpsc::Receiver<()>,
    }

    impl SegmentFile for Gated {
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.file.write_all(bytes)
        }

        fn sync(&mut self) -> io::Result<()> {
            self.gate.recv().map_err(io::Error::other)?;
            self.syncs.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    }

    #[tokio::test]
    async fn f_153_an_intent_that_is_overtaken_on_its_way_to_the_disk_is_not_confirmed() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        let (open, gate) = std_mpsc::channel();
        let (syncs, mut gate) = (Arc::new(AtomicUsize::new(0)), Some(gate));
        let counted = Arc::clone(&syncs);
        let create: Create = Box::new(move |path| {
            let file = files::create(path)?;
            match gate.take() {
                Some(gate) => {
                    let syncs = Arc::clone(&counted);
                    Ok(Box::new(Gated { file, syncs, gate }))
                }
                None => Ok(Box::new(file)),
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
    async fn all_who_wait_share_one_sync_and_none_is_confirmed_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        let syncs = Arc::new(AtomicUsize::new(0));
        let (open, gate) = std_mpsc::channel();
        let mut parts = Some((Arc::clone(&syncs), gate));
        let create: Create = Box::new(move |path| {
            let file = files::create(path)?;
            let (syncs, gate) = parts.take().expect("one segment is enough");
            Ok(Box::new(Gated { file, syncs, gate }))
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
}
