//! What all faces share: the clock, the stores, the invoice, the faults, the limits.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, request};
use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::batch::{self, BatchCell, BatchRecord, BatchState};
use crate::clock::VirtualClock;
use crate::config::EmulatorConfig;
use crate::error::{EmulatorError, Result};
use crate::face::{self, RouteName};
use crate::faults::FaultBook;
use crate::invoice::{self, Invoice, InvoiceLine, Sum};
use crate::limits::Limiter;
use crate::seed::{hex, sha256};
use crate::store::{FileStore, make_dir, read_records, write_record};

/// Everything behind the faces.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) config: EmulatorConfig,
    pub(crate) clock: VirtualClock,
    pub(crate) faults: FaultBook,
    pub(crate) limiter: Limiter,
    pub(crate) invoice: Invoice,
    pub(crate) files: FileStore,
    pub(crate) batches: BatchStore,
    pub(crate) sequence: Sequence,
    pub(crate) traffic: Traffic,
    pub(crate) late: LateCalls,
    /// What faces keep in memory, one value per type.
    states: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    /// One settlement at a time.
    settling: Mutex<()>,
    /// Last, so that the folder goes after everything that has files open in it.
    dir: DataDir,
}

impl Engine {
    pub(crate) fn open(config: EmulatorConfig) -> Result<Self> {
        let dir = DataDir::open(config.data_dir.as_deref())?;
        let saved = Saved::read(&dir.path)?;
        let files = FileStore::open(dir.path.join("files"))?;
        let batches = BatchStore::open(dir.path.join("batches"))?;
        let first_ms = config.start_at.map_or_else(
            || Timestamp::now().as_millisecond(),
            |seconds| seconds.saturating_mul(1000),
        );
        // A kill may have lost the clock's last words; the records know better then.
        let now_ms = [saved.now_ms, files.latest_ms(), batches.latest_ms()]
            .into_iter()
            .flatten()
            .max()
            .unwrap_or(first_ms);
        let engine = Self {
            clock: VirtualClock::new(now_ms, config.time_scale),
            faults: FaultBook::new(config.faults.clone()),
            limiter: Limiter::new(config.limits),
            invoice: Invoice::open(dir.path.join("invoice.jsonl"))?,
            files,
            batches,
            sequence: Sequence::new(saved.sequence),
            traffic: Traffic::default(),
            late: LateCalls::default(),
            states: Mutex::default(),
            settling: Mutex::new(()),
            dir,
            config,
        };
        engine.save().map_err(|source| EmulatorError::Data {
            path: engine.dir.path.clone(),
            source,
        })?;
        engine.apply_face_options()?;
        Ok(engine)
    }

    /// The folder everything is in.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir.path
    }

    /// What a face keeps in memory under a type of its own; made at the first call, forgotten by a reset.
    pub(crate) fn state<T: Any + Default + Send + Sync>(&self) -> Arc<T> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let state = states
            .entry(TypeId::of::<T>())
            .or_insert_with(|| Arc::new(T::default()));
        Arc::clone(state)
            .downcast()
            .expect("a state is kept under its own type")
    }

    fn apply_face_options(&self) -> Result<()> {
        for (face, options) in &self.config.face_options {
            face::service(*face)
                .set_options(self, options)
                .map_err(|problem| EmulatorError::FaceOptions {
                    face: face.name(),
                    problem,
                })?;
        }
        Ok(())
    }

    /// Keeps a new batch. `lines` is a file of input lines when the rows came with the creation.
    pub(crate) fn create_batch(
        &self,
        mut record: BatchRecord,
        lines: Option<&Path>,
    ) -> io::Result<Arc<BatchCell>> {
        record.inline = lines.is_some();
        self.batches.insert(record, lines)
    }

    /// Saves the clock and the sequence.
    pub(crate) fn save(&self) -> io::Result<()> {
        self.sequence.save(&self.dir.path, || self.clock.now_ms())
    }

    /// The next number of the sequence that ids are made from.
    pub(crate) fn next_sequence(&self) -> io::Result<u64> {
        let next = self.sequence.next();
        if self.sequence.must_reserve(next) {
            self.save()?;
        }
        Ok(next)
    }

    /// Brings all batches up to now. Blocks. See [`batch::settle`] for `whole`.
    pub(crate) fn settle(&self, whole: bool) -> io::Result<()> {
        let _settling = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = self.clock.now_ms();
        let cells = self.batches.active();
        if cells.is_empty() {
            return Ok(());
        }
        // Validation looks at the other batches' waiting tokens, so it goes in order of creation, before the rest.
        for cell in &cells {
            let new = cell.with(|record| record.state == BatchState::Validating);
            if new {
                self.settle_one(cell, now_ms, whole, true)?;
            }
        }
        let turn = AtomicUsize::new(0);
        let workers = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(cells.len());
        let work = || {
            while let Some(cell) = cells.get(turn.fetch_add(1, Ordering::Relaxed)) {
                self.settle_one(cell, now_ms, whole, false)?;
            }
            Ok(())
        };
        if workers == 1 {
            return work();
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().expect("an executor does not panic"))
        })
    }

    fn settle_one(
        &self,
        cell: &BatchCell,
        now_ms: i64,
        whole: bool,
        validate_only: bool,
    ) -> io::Result<()> {
        let rows = cell.with(|record| face::batch_rows(&record.face));
        let Some(rows) = rows else {
            return Err(io::Error::other("a batch of an unknown face"));
        };
        let done = batch::settle(self, rows, cell, now_ms, whole, validate_only);
        if cell.is_gone() { Ok(()) } else { done }
    }

    /// The invoice's files with how much of each counts: first the realtime lane, then batch by batch.
    pub(crate) fn invoice_files(&self) -> Vec<(PathBuf, u64)> {
        let mut files = vec![(self.invoice.path().to_path_buf(), u64::MAX)];
        files.extend(self.batches.all().iter().map(|cell| cell.invoice()));
        files
    }

    /// What the invoice comes to, by face and lane.
    pub(crate) fn invoice_sums(&self) -> Vec<(String, &'static str, Sum)> {
        let mut sums: BTreeMap<(String, &'static str), Sum> = BTreeMap::new();
        for (face, sum) in self.invoice.sums() {
            sums.insert((face, "realtime"), sum);
        }
        for cell in self.batches.all() {
            let (face, sum) = cell.with(|record| (record.face.clone(), record.done.sum()));
            if sum.units > 0 {
                sums.entry((face, "batch")).or_default().add(sum);
            }
        }
        sums.into_iter()
            .map(|((face, lane), sum)| (face, lane, sum))
            .collect()
    }

    /// Calls `each` with every line of the invoice.
    pub(crate) fn each_invoice_line(&self, mut each: impl FnMut(InvoiceLine)) -> io::Result<()> {
        self.invoice_files()
            .into_iter()
            .try_for_each(|(path, len)| invoice::read_lines(&path, len, &mut each))
    }

    /// Forgets every file, batch, invoice line, count, waiting call and rule. The clock and the ids go on.
    pub(crate) fn reset(&self) -> io::Result<()> {
        self.faults.clear();
        self.late.clear();
        for cell in self.batches.take_all() {
            cell.erase()?;
        }
        self.files.clear()?;
        self.invoice.clear()?;
        self.limiter.clear();
        self.traffic.clear();
        self.states
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.apply_face_options().map_err(io::Error::other)
    }
}

/// A key as it appears in records and on the invoice.
pub(crate) fn fingerprint(key: &str) -> String {
    hex(&sha256(key.as_bytes())[..6])
}

/// Numbers that never come twice, also over restarts: they are reserved on disk in blocks.
#[derive(Debug)]
pub(crate) struct Sequence {
    next: AtomicU64,
    /// One writer of the file at a time.
    saving: Mutex<()>,
}

/// Numbers reserved at a time; a restart skips at most this many.
const BLOCK: u64 = 10_000;

impl Sequence {
    fn new(next: u64) -> Self {
        Self {
            next: AtomicU64::new(next),
            saving: Mutex::new(()),
        }
    }

    /// A number from what [`Sequence::save`] reserved. Callers outside the executor use [`Engine::next_sequence`].
    pub(crate) fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn must_reserve(&self, number: u64) -> bool {
        number.is_multiple_of(BLOCK)
    }

    fn save(&self, dir: &Path, now_ms: impl Fn() -> i64) -> io::Result<()> {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let used = self.next.load(Ordering::Relaxed);
        let saved = Saved {
            now_ms: Some(now_ms()),
            // Two blocks ahead: calls may take numbers between the crossing of a block and this write.
            sequence: (used / BLOCK + 2) * BLOCK,
        };
        write_record(&dir.join("state.json"), &saved)
    }
}

/// What `state.json` holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    now_ms: Option<i64>,
    sequence: u64,
}

impl Saved {
    fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("state.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self {
                    now_ms: None,
                    sequence: 1,
                });
            }
            Err(source) => return Err(EmulatorError::Data { path, source }),
        };
        serde_json::from_slice(&text).map_err(|source| EmulatorError::Record { path, source })
    }
}

/// The folder everything is in; removed at the end unless the caller named it.
#[derive(Debug)]
struct DataDir {
    path: PathBuf,
    temporary: bool,
}

impl DataDir {
    fn open(wanted: Option<&Path>) -> Result<Self> {
        let dir = match wanted {
            Some(path) => Self {
                path: path.to_path_buf(),
                temporary: false,
            },
            None => {
                let mut noise = [0; 8];
                SystemRandom::new()
                    .fill(&mut noise)
                    .map_err(|_| EmulatorError::Data {
                        path: std::env::temp_dir(),
                        source: io::Error::other("no random numbers from the system"),
                    })?;
                let name = format!("batchwright-emulator-{:016x}", u64::from_be_bytes(noise));
                Self {
                    path: std::env::temp_dir().join(name),
                    temporary: true,
                }
            }
        };
        make_dir(&dir.path)?;
        Ok(dir)
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, "could not remove the emulator's temporary folder");
        }
    }
}

/// All batches, in order of creation.
#[derive(Debug)]
pub(crate) struct BatchStore {
    dir: PathBuf,
    index: Mutex<BatchIndex>,
}

#[derive(Debug, Default)]
struct BatchIndex {
    in_order: BTreeMap<u64, Arc<BatchCell>>,
    by_id: HashMap<String, u64>,
}

impl BatchStore {
    fn open(dir: PathBuf) -> Result<Self> {
        make_dir(&dir)?;
        let store = Self {
            index: Mutex::default(),
            dir: dir.clone(),
        };
        for record in read_records::<BatchRecord>(&dir)? {
            let cell = store.put(BatchCell::new(&dir, record));
            cell.recover().map_err(|source| EmulatorError::Data {
                path: dir.clone(),
                source,
            })?;
        }
        Ok(store)
    }

    fn insert(&self, record: BatchRecord, lines: Option<&Path>) -> io::Result<Arc<BatchCell>> {
        let cell = BatchCell::new(&self.dir, record);
        if let Some(lines) = lines {
            cell.take_input(lines)?;
        }
        cell.persist()?;
        Ok(self.put(cell))
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<BatchCell>> {
        let index = self.lock();
        index.in_order.get(index.by_id.get(id)?).map(Arc::clone)
    }

    /// All batches, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<BatchCell>> {
        self.lock().in_order.values().map(Arc::clone).collect()
    }

    /// Whether any batch has not ended.
    pub(crate) fn has_active(&self) -> bool {
        self.lock()
            .in_order
            .values()
            .any(|cell| cell.with(|record| !record.state.is_terminal()))
    }

    fn active(&self) -> Vec<Arc<BatchCell>> {
        self.lock()
            .in_order
            .values()
            .filter(|cell| cell.with(|record| !record.state.is_terminal()))
            .map(Arc::clone)
            .collect()
    }

    fn take_all(&self) -> Vec<Arc<BatchCell>> {
        let mut index = self.lock();
        index.by_id.clear();
        std::mem::take(&mut index.in_order).into_values().collect()
    }

    fn latest_ms(&self) -> Option<i64> {
        self.all()
            .iter()
            .map(|cell| cell.with(BatchRecord::latest_ms))
            .max()
    }

    fn put(&self, cell: BatchCell) -> Arc<BatchCell> {
        let (id, sequence) = cell.with(|record| (record.id.clone(), record.sequence));
        let cell = Arc::new(cell);
        let mut index = self.lock();
        index.by_id.insert(id, sequence);
        index.in_order.insert(sequence, Arc::clone(&cell));
        cell
    }

    fn lock(&self) -> MutexGuard<'_, BatchIndex> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts of calls and connections.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    calls: Mutex<HashMap<(Method, RouteName), u64>>,
    other_calls: AtomicU64,
    pub(crate) connections: Gauge,
    pub(crate) in_flight: Gauge,
}

impl Traffic {
    pub(crate) fn count(&self, method: &Method, route: Option<RouteName>) {
        match route {
            Some(route) => {
                let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
                *calls.entry((method.clone(), route)).or_default() += 1;
            }
            None => {
                self.other_calls.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Calls of one method and route, for example `POST` and `/openai/v1/batches/{batch_id}/cancel`.
    pub(crate) fn calls(&self, method: &str, route: &str) -> u64 {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls
            .iter()
            .filter(|((m, r), _)| m.as_str() == method && r.is(route))
            .map(|(_, count)| count)
            .sum()
    }

    /// Calls by route and method, in order.
    pub(crate) fn rows(&self) -> Vec<(Method, RouteName, u64)> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<_> = calls
            .iter()
            .map(|((method, route), count)| (method.clone(), *route, *count))
            .collect();
        rows.sort_by(|(m, r, _), (n, s, _)| (r, m.as_str()).cmp(&(s, n.as_str())));
        rows
    }

    pub(crate) fn to_json(&self) -> serde_json::Value {
        let rows: Vec<_> = self
            .rows()
            .into_iter()
            .map(|(method, route, count)| {
                serde_json::json!({"method": method.as_str(), "path": route.to_string(), "count": count})
            })
            .collect();
        serde_json::json!({
            "calls": rows,
            "unknown_paths": self.other_calls.load(Ordering::Relaxed),
            "connections": self.connections.to_json(),
            "in_flight": self.in_flight.to_json(),
        })
    }

    fn clear(&self) {
        self.calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.other_calls.store(0, Ordering::Relaxed);
        self.connections.clear();
        self.in_flight.clear();
    }
}

/// How many are open now, and the most that ever were.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    now: AtomicU64,
    peak: AtomicU64,
    total: AtomicU64,
}

impl Gauge {
    pub(crate) fn enter(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(now, Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leave(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    fn clear(&self) {
        let now = self.now.load(Ordering::Relaxed);
        self.peak.store(now, Ordering::Relaxed);
        self.total.store(now, Ordering::Relaxed);
    }

    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "open": self.now.load(Ordering::Relaxed),
            "peak": self.peak(),
            "total": self.total.load(Ordering::Relaxed),
        })
    }
}

/// Calls that a `commit_late` fault put off, by the virtual time they are due.
#[derive(Debug, Default)]
pub(crate) struct LateCalls {
    queue: Mutex<BinaryHeap<LateCall>>,
    any: AtomicBool,
}

/// A call to be made later, for its effect alone.
#[derive(Debug)]
pub(crate) struct LateCall {
    pub(crate) due_ms: i64,
    pub(crate) parts: request::Parts,
    pub(crate) body: Bytes,
}

impl LateCalls {
    pub(crate) fn put(&self, call: LateCall) {
        self.lock().push(call);
        self.any.store(true, Ordering::Release);
    }

    /// When the earliest call is due.
    pub(crate) fn next_due_ms(&self) -> Option<i64> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.lock().peek().map(|call| call.due_ms)
    }

    /// Takes the earliest call that is due.
    pub(crate) fn take_due(&self, now_ms: i64) -> Option<LateCall> {
        if self.next_due_ms()? > now_ms {
            return None;
        }
        let mut queue = self.lock();
        let due = queue.peek().is_some_and(|call| call.due_ms <= now_ms);
        if due { queue.pop() } else { None }
    }

    fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BinaryHeap<LateCall>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for LateCall {
    fn eq(&self, other: &Self) -> bool {
        self.due_ms == other.due_ms
    }
}

impl Eq for LateCall {}

impl PartialOrd for LateCall {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for LateCall {
    /// Earliest first: a binary heap gives its greatest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.due_ms.cmp(&self.due_ms)
    }
}

/// Real time between two looks at the batches while virtual time runs.
pub(crate) const TICK: Duration = Duration::from_millis(20);
