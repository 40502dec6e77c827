//! Counts effects, and dies after one of them.

use async_trait::async_trait;
use batchwright::core::{
    BatchHandle, BatchProvider, BatchSnapshot, BatchSummary, ByteStream, Capability, Error,
    ErrorKind, InputRef, ListMark, Outcome, Request, Result, ResultFile, RetryClass, SealedBatch,
    StoredInput, SubmissionTag, SubmitError,
};
use futures::StreamExt;
use std::{
    collections::HashMap,
    fmt,
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio_util::sync::CancellationToken;
use tracing::field::{Field, Visit};
use tracing_subscriber::{Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// The effects of this process so far.
pub(super) struct Steps {
    /// The effect to die after, by its number or by how its name begins.
    at: u64,
    named: String,
    count: AtomicU64,
    phase: Mutex<&'static str>,
    /// The job's folder, where what was not synced is to be lost, and how much of its segments is synced.
    power: Option<PathBuf>,
    synced: Mutex<HashMap<PathBuf, u64>>,
}

impl Steps {
    /// Counts from now on, the ledger's steps in the log among them.
    pub(super) fn start(at: u64, named: String, power: Option<PathBuf>) -> Arc<Self> {
        let steps = Arc::new(Self {
            at,
            named,
            count: AtomicU64::new(0),
            phase: Mutex::default(),
            power,
            synced: Mutex::default(),
        });
        tracing_subscriber::registry()
            .with(OnDisk(Arc::clone(&steps)))
            .init();
        steps
    }

    pub(super) fn set_phase(&self, phase: &'static str) {
        *self.phase.lock().unwrap() = phase;
    }

    /// Something has been done; dies where it is its time.
    pub(super) fn reach(&self, step: &str) {
        if step == "synced segment" {
            self.note_synced();
        }
        let phase = *self.phase.lock().unwrap();
        let is_named = !self.named.is_empty() && format!("{phase}{step}").starts_with(&self.named);
        if self.count.fetch_add(1, Ordering::SeqCst) + 1 == self.at || is_named {
            if let Some(job) = &self.power {
                self.lose_unsynced(job, step);
            }
            let _ = writeln!(std::io::stderr(), "dies at: {phase}{step}");
            std::process::abort();
        }
    }

    /// Tells how many there were.
    pub(super) fn report(&self) {
        let count = self.count.load(Ordering::SeqCst);
        let _ = writeln!(std::io::stderr(), "effects: {count}");
    }

    fn note_synced(&self) {
        if let Some(job) = &self.power {
            for (path, bytes) in files(&job.join("segments")) {
                self.synced.lock().unwrap().insert(path, bytes);
            }
        }
    }

    /// As a power failure does: segments end where they were synced last, and files that never were are empty.
    fn lose_unsynced(&self, job: &Path, step: &str) {
        let synced = self.synced.lock().unwrap();
        for (path, _) in files(&job.join("segments")) {
            cut(&path, synced.get(&path).copied().unwrap_or(0));
        }
        for folder in ["chunks", "raw"] {
            for (path, _) in files(&job.join(folder)) {
                let name = path.file_name().unwrap().to_str().unwrap();
                let is_synced = step == format!("file {folder}/{name}");
                if (name.ends_with(".tmp") || name.ends_with(".part")) && !is_synced {
                    cut(&path, 0);
                }
            }
        }
    }
}

fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let sized = |entry: fs::DirEntry| Some((entry.path(), entry.metadata().ok()?.len()));
    entries.flatten().filter_map(sized).collect()
}

fn cut(path: &Path, bytes: u64) {
    if let Ok(file) = OpenOptions::new().write(true).open(path) {
        file.set_len(bytes).unwrap();
    }
}

/// Hears what the ledger does on the disk.
struct OnDisk(Arc<Steps>);

impl<S: tracing::Subscriber> Layer<S> for OnDisk {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        if event.metadata().target() != "batchwright_ledger::step" {
            return;
        }
        let mut step = Step::default();
        event.record(&mut step);
        // Within the job's folder, and without the random name of that.
        let of = match step.of.split_once("/job/") {
            Some((_, within)) => within,
            None => &step.of,
        };
        self.0.reach(&format!("{} {of}", step.what));
    }
}

#[derive(Default)]
struct Step {
    what: String,
    of: String,
}

impl Visit for Step {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "of" => self.of = format!("{value:?}"),
            "what" => self.what = format!("{value:?}"),
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "what" {
            self.what = value.to_owned();
        }
    }
}

/// A provider whose calls are effects.
pub(super) struct Counted {
    inner: Arc<dyn BatchProvider>,
    steps: Arc<Steps>,
    /// Cancelled at the first poll.
    pub(super) cancel: Option<CancellationToken>,
    /// Whether the next create is sent twice, by somebody on the way who answers nothing.
    pub(super) doubles: AtomicBool,
}

impl Counted {
    pub(super) fn new(inner: Arc<dyn BatchProvider>, steps: Arc<Steps>) -> Self {
        Self {
            inner,
            steps,
            cancel: None,
            doubles: AtomicBool::new(false),
        }
    }

    async fn call<T>(&self, name: &str, call: impl Future<Output = T>) -> T {
        self.steps.reach(&format!("before {name}"));
        let answer = call.await;
        self.steps.reach(&format!("after {name}"));
        answer
    }
}

#[async_trait]
impl BatchProvider for Counted {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capability(&self) -> &Capability {
        self.inner.capability()
    }

    fn account(&self) -> &str {
        self.inner.account()
    }

    fn endpoint<'r>(&'r self, request: &'r Request) -> Result<&'r str> {
        self.inner.endpoint(request)
    }

    fn encode(&self, request: &Request, wire_id: &str, line: &mut Vec<u8>) -> Result<()> {
        self.inner.encode(request, wire_id, line)
    }

    async fn upload(&self, batch: &SealedBatch, tag: &SubmissionTag) -> Result<InputRef> {
        self.call("upload", self.inner.upload(batch, tag)).await
    }

    async fn find_upload(
        &self,
        batch: &SealedBatch,
        tag: &SubmissionTag,
    ) -> Result<Option<InputRef>> {
        self.call("find_upload", self.inner.find_upload(batch, tag))
            .await
    }

    async fn submit(
        &self,
        batch: &SealedBatch,
        input: &InputRef,
        tag: &SubmissionTag,
    ) -> Result<BatchHandle, SubmitError> {
        let call = async {
            let made = self.inner.submit(batch, input, tag).await;
            if !self.doubles.swap(false, Ordering::SeqCst) {
                return made;
            }
            self.inner.submit(batch, input, tag).await?;
            let lost = Error::new(ErrorKind::Connect, "the connection broke");
            Err(SubmitError::Unknown(lost.with_class(RetryClass::Ambiguous)))
        };
        self.call("submit", call).await
    }

    async fn status(&self, batch: &BatchHandle) -> Result<BatchSnapshot> {
        if let Some(cancel) = &self.cancel {
            cancel.cancel();
        }
        self.call("status", self.inner.status(batch)).await
    }

    async fn download(&self, file: &ResultFile, offset: u64) -> Result<ByteStream> {
        let body = self.call("download", self.inner.download(file, offset));
        let steps = Arc::clone(&self.steps);
        Ok(body.await?.inspect(move |_| steps.reach("piece")).boxed())
    }

    fn decode(&self, line: &[u8]) -> Option<Outcome> {
        self.inner.decode(line)
    }

    async fn cancel(&self, batch: &BatchHandle) -> Result<()> {
        self.call("cancel", self.inner.cancel(batch)).await
    }

    async fn recent(&self) -> Result<Vec<BatchSummary>> {
        self.call("recent", self.inner.recent()).await
    }

    async fn list_since(&self, mark: &ListMark) -> Result<Vec<BatchSummary>> {
        self.call("list_since", self.inner.list_since(mark)).await
    }

    async fn uploads(&self, job: &str) -> Result<Vec<StoredInput>> {
        self.call("uploads", self.inner.uploads(job)).await
    }

    async fn discard(&self, input: &InputRef) -> Result<()> {
        self.call("discard", self.inner.discard(input)).await
    }
}
