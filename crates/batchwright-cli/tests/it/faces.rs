//! Every vendor that sells batches, used as a library: a job in this process, over HTTP to the emulator.

use crate::{
    input::{self, Asked, PROMPT},
    provider::{Provider, quick},
    results,
};
use batchwright::{
    anthropic::Anthropic,
    core::{
        BatchHandle, BatchProvider, Decision, InputRef, JournalEntry, JournalEvent, Lane,
        ModelSpec, Timestamp,
    },
    gemini::Gemini,
    groq, kluster,
    ledger::{ChunkPhase, ChunkState, Ledger},
    openai::OpenAi,
    pipeline::{
        Job, JobControl, JobProgress, JobReport, JobSpec, LaneProvider, ResultsOptions, RunOptions,
    },
    vertex::{Credentials, Vertex},
};
use batchwright_emulator::{EmulatorConfig, Face};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::runtime::Runtime;

/// A run that takes longer hangs (I5).
const PATIENCE: Duration = Duration::from_secs(60);

/// A vendor whose batches a job buys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vendor {
    pub(crate) name: &'static str,
    pub(crate) model: &'static str,
    pub(crate) face: Face,
    /// The path of its creates, as fault rules match it.
    pub(crate) creates: &'static str,
    /// Whether the lines are stored first, and the create names them.
    pub(crate) has_uploads: bool,
}

pub(crate) const OPENAI: Vendor = Vendor {
    name: "openai",
    model: "gpt-4o-mini",
    face: Face::OpenAi,
    creates: "/openai/v1/batches",
    has_uploads: true,
};
pub(crate) const ANTHROPIC: Vendor = Vendor {
    name: "anthropic",
    model: "claude-haiku-4-5",
    face: Face::Anthropic,
    creates: "/anthropic/v1/messages/batches",
    has_uploads: false,
};
pub(crate) const GEMINI: Vendor = Vendor {
    name: "gemini",
    model: "gemini-2.5-flash",
    face: Face::Gemini,
    creates: "/gemini/*:batchGenerateContent",
    has_uploads: true,
};
pub(crate) const VERTEX: Vendor = Vendor {
    name: "vertex",
    model: "gemini-2.5-flash",
    face: Face::Vertex,
    creates: "/vertex/*/batchPredictionJobs",
    has_uploads: true,
};
pub(crate) const GROQ: Vendor = Vendor {
    name: "groq",
    model: "llama-3.1-8b-instant",
    face: Face::Groq,
    creates: "/groq/openai/v1/batches",
    has_uploads: true,
};
pub(crate) const KLUSTER: Vendor = Vendor {
    name: "kluster",
    model: "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo",
    face: Face::Kluster,
    creates: "/kluster/v1/batches",
    has_uploads: true,
};
pub(crate) const VENDORS: [Vendor; 6] = [OPENAI, ANTHROPIC, GEMINI, VERTEX, GROQ, KLUSTER];

impl Vendor {
    /// The vendor's library, calling the emulator at `base`, the URL of its face.
    pub(crate) fn connect(&self, base: &str) -> Arc<dyn BatchProvider> {
        const KEY: &str = "CANARY_KEY_that_must_never_show";
        match self.face {
            Face::OpenAi => Arc::new(OpenAi::builder(KEY).base_url(base).build().unwrap()),
            Face::Anthropic => Arc::new(Anthropic::builder(KEY).base_url(base).build().unwrap()),
            // Inputs are uploaded, also small ones.
            Face::Gemini => Arc::new(
                Gemini::builder(KEY)
                    .base_url(base)
                    .inline_up_to(0)
                    .build()
                    .unwrap(),
            ),
            Face::Vertex => {
                let origin = base.trim_end_matches("/vertex");
                let vertex = Vertex::builder("proj", "us-central1", Credentials::token(KEY))
                    .bucket("bkt")
                    .base_url(base)
                    .storage_url(format!("{origin}/gcs"))
                    .bigquery_url(format!("{origin}/bigquery"));
                Arc::new(vertex.build().unwrap())
            }
            Face::Groq => Arc::new(groq::builder(KEY).base_url(base).build().unwrap()),
            Face::Kluster => Arc::new(kluster::builder(KEY).base_url(base).build().unwrap()),
            other => panic!("no batches are bought of {other:?}"),
        }
    }
}

/// A provider whose batches end within some tens of milliseconds: a second is ten virtual minutes.
pub(crate) fn hasty() -> EmulatorConfig {
    quick().with_time_scale(600.0)
}

/// Waits that suit it. A settle window is a virtual minute and a half.
pub(crate) fn options(chunk_rows: u64) -> RunOptions {
    let mut options = RunOptions::default();
    let router = &mut options.router;
    router.poll_initial = Duration::from_millis(10);
    router.poll_cap = Duration::from_millis(20);
    router.settle = Duration::from_millis(150);
    router.ghost_interval = Duration::from_millis(50);
    router.files_grace = Duration::from_secs(2);
    router.queue_wait = Duration::from_millis(50);
    router.retry.initial = Duration::from_millis(10);
    router.retry.floor = Duration::from_millis(5);
    router.retry.cap = Duration::from_millis(100);
    options.chunk_rows = Some(chunk_rows);
    options
}

/// A job of `rows` rows in `dir`.
pub(crate) struct Case {
    pub(crate) vendor: Vendor,
    pub(crate) provider: Provider,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) asked: Vec<Asked>,
}

impl Case {
    pub(crate) fn new(vendor: Vendor, config: EmulatorConfig, rows: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (csv, asked) = input::words(rows);
        std::fs::write(dir.path().join("in.csv"), csv).unwrap();
        Self {
            vendor,
            provider: Provider::start(config),
            dir,
            asked,
        }
    }

    pub(crate) fn base(&self) -> String {
        self.provider.base_url_of(self.vendor.face)
    }

    pub(crate) fn job_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("job")
    }

    /// Runs the job from where it is, in this process.
    pub(crate) fn run(&self, options: RunOptions) -> JobReport {
        let provider = self.vendor.connect(&self.base());
        run(
            self.vendor,
            self.dir.path(),
            provider,
            options,
            JobControl::default(),
        )
    }

    /// Writes the results and returns how often each status stands, after comparing every answer with its row.
    pub(crate) fn statuses(&self) -> std::collections::BTreeMap<String, u64> {
        let target = self.dir.path().join("out.jsonl");
        Job::write_results_of(&self.job_dir(), &ResultsOptions::new(&target)).unwrap();
        results::assert_whole(&results::read(&target), &self.asked)
    }

    /// How often each row was billed.
    pub(crate) fn billed(&self) -> Vec<u64> {
        results::billed(&self.provider.invoice(), &self.asked)
    }

    pub(crate) fn chunks(&self) -> Vec<ChunkState> {
        Ledger::open_read_only(&self.job_dir())
            .unwrap()
            .chunks()
            .unwrap()
    }

    /// Says what a person would of every held chunk: take the batch that was asked about, where there is one, else buy
    /// again.
    pub(crate) fn decide(&self) {
        let ledger = unlocked(|| Ledger::open(&self.job_dir()));
        for chunk in ledger.chunks().unwrap() {
            if chunk.phase != ChunkPhase::Held {
                continue;
            }
            let decision = match chunk.asked_about.first() {
                Some(id) => Decision::Adopt {
                    handle: BatchHandle::new(chunk.provider.clone(), id, InputRef::default()),
                },
                None => Decision::Resubmit,
            };
            let tag = chunk.tag.clone().unwrap();
            let at = Timestamp::from(SystemTime::now());
            let fact = JournalEvent::Decided { tag, decision };
            let entry = JournalEntry::new(chunk.chunk, at, fact);
            ledger.append_blocking(&[entry]).unwrap();
        }
    }

    /// `verify` finds nothing; every row has one outcome.
    pub(crate) fn assert_verified(&self) {
        let ledger = Ledger::open_read_only(&self.job_dir()).unwrap();
        let report = ledger.verify(Some(self.asked.len() as u64)).unwrap();
        assert!(report.is_ok(), "{:?}", report.findings);
    }
}

pub(crate) fn open(vendor: Vendor, dir: &Path, lane: &LaneProvider) -> Job {
    let model = ModelSpec::new(vendor.name, vendor.model).unwrap();
    let spec = JobSpec::new(dir.join("in.csv"), vendor.name, Lane::Batch)
        .with_model(&model)
        .with_prompt(PROMPT);
    unlocked(|| Job::open(&dir.join("job"), spec.clone(), lane))
}

/// Opens a folder that nobody holds. A process that another thread of this one starts has a copy of every open file for a
/// moment, the lock's among them.
fn unlocked<T>(open: impl Fn() -> batchwright::core::Result<T>) -> T {
    let mut tries = 0;
    loop {
        match open() {
            Err(error) if error.message().contains("is held by") && tries < 100 => tries += 1,
            opened => return opened.unwrap(),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Opens the job in `dir` and runs it, within [`PATIENCE`].
pub(crate) fn run(
    vendor: Vendor,
    dir: &Path,
    provider: Arc<dyn BatchProvider>,
    options: RunOptions,
    control: JobControl,
) -> JobReport {
    let runtime = Runtime::new().unwrap();
    let lane = LaneProvider::Batch(provider);
    let job = open(vendor, dir, &lane);
    let running = job.run(lane, options, control, Arc::new(JobProgress::new()));
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, running)
            .await
            .unwrap_or_else(|_| panic!("{}: the job hangs in {}", vendor.name, dir.display()))
            .unwrap()
    })
}
