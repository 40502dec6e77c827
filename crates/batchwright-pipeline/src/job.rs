//! A durable job: one run over an input, on one lane, that survives crashes.

mod audit;
mod batch;
mod deadline;
mod garbage;
mod policy;
mod progress;
mod realtime;
mod recover;
mod results;
mod retry;
mod spec;

pub use batch::SeenBatch;
pub use garbage::{RemoteKind, RemoteObject};
pub use policy::Remainder;
pub use progress::{BatchLine, JobProgress, Progress};
pub use recover::{RecoverOptions, Recovered, RecoveredChunk};
pub use results::{ResultsOptions, WrittenResults};
pub use spec::JobSpec;

use crate::{
    Fingerprint, Preflight, PreflightReport, RequestBuilder, Source, Template, VendorRules,
    preflight::BadRow,
};
use batchwright_core::{
    BatchProvider, ChatProvider, Ending, Error, ErrorKind, Lane, Money, Outcome, PriceTable,
    Result, Timestamp,
};
use batchwright_ledger::{Ledger, LedgerOptions, OutcomeLog, OutcomeRecord, RowSet, Scan};
use batchwright_realtime::PoolOptions;
use batchwright_router::RouterOptions;
use serde::{Deserialize, Serialize};
use std::{
    convert::Infallible,
    fmt,
    hash::{BuildHasher, RandomState},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How often outcomes are summed up for the next opening.
const CHECKPOINTS: Duration = Duration::from_secs(30);
const SPEC: &str = "spec";
const ROWS: &str = "rows";
const TAG: &str = "tag";
/// Ended rows that wait to be written as they end; a slow reader slows the job beyond it.
const LIVE_BOUND: usize = 64;
const TOKENS: &str = "estimated_input_tokens";
/// Rows that cannot be sent and are to end as failed, and under whose rules: [`Skip`].
const SKIP: &str = "skip_invalid";

/// A job and its folder. Holding one is holding the folder's lock: no other process can run the job.
pub struct Job {
    ledger: Ledger,
    spec: JobSpec,
    rows: u64,
    tag: String,
    estimated_input_tokens: Option<u64>,
    preflight: Option<PreflightReport>,
}

/// How a job is opened.
#[derive(Clone)]
#[non_exhaustive]
pub struct OpenOptions {
    /// About its folder.
    pub ledger: LedgerOptions,
    /// Whether rows that cannot be sent end as failed, with the reason, instead of keeping the job from being
    /// started. Default false. It is decided when the job starts, and later openings do not change it.
    pub skip_invalid: bool,
    /// Whether the server is the vendor's own, so that what is known of the vendor's rules holds. Default true.
    pub vendor_rules: bool,
    /// Providers besides the job's own that rows may name. Default none.
    pub others: Vec<Arc<dyn BatchProvider>>,
}

impl fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenOptions")
            .field("ledger", &self.ledger)
            .field("skip_invalid", &self.skip_invalid)
            .field("vendor_rules", &self.vendor_rules)
            .finish_non_exhaustive()
    }
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            ledger: LedgerOptions::default(),
            skip_invalid: false,
            vendor_rules: true,
            others: Vec::new(),
        }
    }
}

impl From<LedgerOptions> for OpenOptions {
    fn from(ledger: LedgerOptions) -> Self {
        Self {
            ledger,
            ..Self::default()
        }
    }
}

/// What a started job still owes to rows that cannot be sent.
#[derive(Serialize, Deserialize)]
struct Skip {
    rows: u64,
    vendor_rules: bool,
    is_done: bool,
}

/// The provider of a job's lane.
#[derive(Clone)]
#[expect(clippy::exhaustive_enums, reason = "one for each lane")]
pub enum LaneProvider {
    /// Direct calls.
    Realtime(Arc<dyn ChatProvider>),
    /// The batch API.
    Batch(Arc<dyn BatchProvider>),
}

/// Whom rows of the batch lane go to that are not to wait for a batch any more.
#[derive(Clone)]
#[non_exhaustive]
pub struct Direct {
    /// The provider.
    pub provider: Arc<dyn ChatProvider>,
    /// Another model than the one asked for so far, where that is wanted.
    pub model: Option<String>,
}

impl Direct {
    /// Direct calls to `provider`, for the models asked for.
    pub fn new(provider: Arc<dyn ChatProvider>) -> Self {
        Self {
            provider,
            model: None,
        }
    }

    /// Asks for another model.
    #[must_use]
    pub fn with_model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct")
            .field("provider", &self.provider.name())
            .field("model", &self.model)
            .finish()
    }
}

/// How a job runs; none of it changes what is asked.
#[derive(Clone)]
#[non_exhaustive]
pub struct RunOptions {
    /// The realtime lane's pool.
    pub pool: PoolOptions,
    /// The batch lane's router.
    pub router: RouterOptions,
    /// The most rows of a chunk, 1 or more; without it as many as the provider takes. It bounds what one
    /// create of unclear fate can cost.
    pub chunk_rows: Option<u64>,
    /// The most a chunk may cost, as estimated by its prices: input tokens, and answers where a row bounds them.
    /// Default none. A single row that costs more is a chunk of its own.
    pub chunk_cost: Option<Money>,
    /// The most estimated input tokens of a chunk, such as what the provider's queue takes. Default none.
    pub chunk_tokens: Option<u64>,
    /// How often a row is sent in batches at most, 1 or more, counting the first time. Rows whose batch expired, was
    /// cancelled by the provider or failed, and rows that failed in a way that passes, are sent again. Default: as
    /// earlier runs of the job, else 3.
    pub rounds: Option<u32>,
    /// Which way such rows go. Default: as earlier runs of the job, else into batches.
    pub remainder: Option<Remainder>,
    /// Whether rows are sent again too of which the provider's files hold no line, or one that cannot be read. They
    /// may have been billed; each is counted as such. Default: as earlier runs of the job, else false.
    pub rebuy_missing: Option<bool>,
    /// How long after the job's start batches are cancelled, and what they did not answer goes to direct calls.
    /// Default: as earlier runs of the job, else never.
    pub deadline: Option<Duration>,
    /// How long batches that are cancelled for the deadline are waited for before their rows go to direct calls all
    /// the same; what such a batch answers later is paid besides, and counted. Default 10 minutes, the time OpenAI
    /// and Groq document for a cancel.
    pub deadline_grace: Duration,
    /// Whether the batch lane ends as soon as every batch is made, and a later run collects what they answer. A
    /// deadline or another round is then for that run. Default false.
    pub leave: bool,
    /// Providers besides the job's own whose batches rows may be bought in. Default none.
    pub others: Vec<Arc<dyn BatchProvider>>,
    /// Who answers rows of the realtime lane that the job's own provider cannot: places that are tried one after
    /// another where it is down, refuses the account or limits the rate for long. Default none.
    pub fallbacks: Vec<Direct>,
    /// The most direct calls of the job may cost, those of earlier runs included. What is reserved for calls on their
    /// way counts, so that it is passed by no more than those use above their estimates. Past it the run stops with
    /// kind `QuotaExceeded`, and can be resumed with more. Default none.
    pub budget: Option<Money>,
    /// Whom direct calls go to that a deadline or [`Remainder::Realtime`] makes of rows of the batch lane.
    pub direct: Option<Direct>,
    /// Whether a key, project or address other than the job's earlier one is known to reach the same
    /// account. Without that, a create of unclear fate is not looked for under another one.
    pub same_account: bool,
    /// Prices for what outcomes cost.
    pub prices: Arc<PriceTable>,
    /// Where rows are written as they end, in whatever order they do; JSONL only. Without it results are
    /// written afterwards, by [`Job::write_results`].
    pub live: Option<ResultsOptions>,
}

impl fmt::Debug for RunOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOptions")
            .field("pool", &self.pool)
            .field("router", &self.router)
            .field("direct", &self.direct)
            .finish_non_exhaustive()
    }
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            pool: PoolOptions::default(),
            router: RouterOptions::default(),
            chunk_rows: None,
            chunk_cost: None,
            chunk_tokens: None,
            rounds: None,
            remainder: None,
            rebuy_missing: None,
            deadline: None,
            deadline_grace: Duration::from_secs(600),
            leave: false,
            others: Vec::new(),
            fallbacks: Vec::new(),
            budget: None,
            direct: None,
            same_account: false,
            prices: Arc::new(PriceTable::builtin()),
            live: None,
        }
    }
}

/// The caller's hand on a running job.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct JobControl {
    /// Stops sending; what is in flight ends and is kept. Batches go on at their provider.
    pub stop: CancellationToken,
    /// Cancels: batches are cancelled at their provider, rows not yet sent end as cancelled.
    pub cancel: CancellationToken,
}

/// How a run of a job ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct JobReport {
    /// Rows of the input.
    pub rows: u64,
    /// What the folder's segments hold now.
    pub scan: Scan,
    /// Why sending stopped, where it did not end by itself or by request.
    pub stopped: Option<Error>,
    /// Chunks for which a person must decide, and why.
    pub held: Vec<(u32, String)>,
    /// What was written as rows ended, where the job is complete and that was asked for.
    pub written: Option<WrittenResults>,
}

impl JobReport {
    /// Whether every row has its outcome.
    pub fn is_complete(&self) -> bool {
        self.scan.finished.len() >= self.rows
    }
}

impl Job {
    /// Opens the job in `dir`, starting it there if there is none. Blocks: it reads the whole input.
    ///
    /// A new job's input is checked to the last row first: every row must be readable, make a request the
    /// lane's provider can take, and have an id of its own; so nothing is sent for an input that could
    /// not be finished. An old job's input must be the same bytes, and the settings the same (F-121,
    /// F-156).
    ///
    /// # Errors
    /// `InvalidRequest` naming the first bad rows by file and line; `ConfigInvalid` where input or
    /// settings differ from the job's; `Storage` where the folder cannot be used, or another process
    /// runs the job.
    pub fn open(dir: &Path, spec: JobSpec, provider: &LaneProvider) -> Result<Self> {
        Self::open_with(dir, spec, provider, LedgerOptions::default())
    }

    /// As [`Job::open`], with choices about the folder and about rows that cannot be sent.
    ///
    /// # Errors
    /// As [`Job::open`].
    pub fn open_with(
        dir: &Path,
        mut spec: JobSpec,
        provider: &LaneProvider,
        options: impl Into<OpenOptions>,
    ) -> Result<Self> {
        let options = options.into();
        let fingerprint = fingerprint(&spec.input)?;
        let is_new = !dir.exists();
        let ledger = Ledger::open_with(dir, options.ledger)?;
        spec.fingerprint = Some(fingerprint);
        if let Some(started) = stored_spec(&ledger)? {
            spec.check_same(&started)?;
            return Self::go_on(ledger, started, spec.fingerprint);
        }
        let rules = rules(&spec, options.vendor_rules);
        let checked = Preflight::new(&spec, provider)
            .with_rules(rules)
            .with_others(&options.others)
            .run(dir)
            .and_then(|report| {
                if report.is_ok() || options.skip_invalid && report.can_skip() {
                    Ok(report)
                } else {
                    Err(report.to_error())
                }
            });
        let report = match checked {
            Ok(report) => report,
            Err(error) => {
                if is_new {
                    // A typing error leaves no job behind. Where that fails, an empty one is no harm. The lock
                    // is held until the folder is gone.
                    let _ = std::fs::remove_dir_all(dir);
                }
                return Err(error);
            }
        };
        let (rows, tokens) = (report.rows, report.tokens());
        set_skip(
            &ledger,
            &Skip {
                rows: report.bad_rows,
                vendor_rules: options.vendor_rules,
                is_done: report.bad_rows == 0,
            },
        )?;
        let tag = random_word();
        ledger.set_meta(TAG, &tag)?;
        ledger.set_meta(ROWS, &rows.to_string())?;
        ledger.set_meta(TOKENS, &tokens.to_string())?;
        ledger.set_meta(policy::STARTED, &policy::now_millis().to_string())?;
        // The specification comes last: with it the job exists.
        let json = serde_json::to_string(&spec).expect("a specification is plain data");
        ledger.set_meta(SPEC, &json)?;
        keep_card(&ledger)?;
        Ok(Self {
            ledger,
            spec,
            rows,
            tag,
            estimated_input_tokens: Some(tokens),
            preflight: Some(report),
        })
    }

    /// Opens the job in `dir` with the settings it was started with. Blocks: it reads the whole input.
    ///
    /// # Errors
    /// As [`Job::open`]; `ConfigInvalid` where there is no job.
    pub fn resume(dir: &Path) -> Result<Self> {
        Self::resume_with(dir, LedgerOptions::default())
    }

    /// As [`Job::resume`], with choices about the folder.
    ///
    /// # Errors
    /// As [`Job::resume`].
    pub fn resume_with(dir: &Path, options: LedgerOptions) -> Result<Self> {
        let spec = Self::spec_of(dir)?;
        let found = fingerprint(&spec.input)?;
        Self::go_on(Ledger::open_with(dir, options)?, spec, Some(found))
    }

    fn go_on(ledger: Ledger, spec: JobSpec, found: Option<Fingerprint>) -> Result<Self> {
        if let (Some(started), Some(found)) = (&spec.fingerprint, &found) {
            started.check(found, &spec.input.display().to_string())?;
        }
        let rows = stored_rows(&ledger)?;
        let tag = ledger.meta(TAG)?.ok_or_else(|| incomplete(&ledger))?;
        let tokens = ledger.meta(TOKENS)?.and_then(|tokens| tokens.parse().ok());
        keep_card(&ledger)?;
        Ok(Self {
            ledger,
            spec,
            rows,
            tag,
            estimated_input_tokens: tokens,
            preflight: None,
        })
    }

    /// The settings of the job in `dir`, without taking its lock.
    ///
    /// # Errors
    /// `ConfigInvalid` where there is no job; `Storage` where its folder cannot be read.
    pub fn spec_of(dir: &Path) -> Result<JobSpec> {
        let missing = || {
            Error::new(
                ErrorKind::ConfigInvalid,
                format!("there is no job in {}", dir.display()),
            )
        };
        if !Ledger::exists(dir) {
            return Err(missing());
        }
        stored_spec(&Ledger::open_read_only(dir)?)?.ok_or_else(missing)
    }

    /// How many rows the input of the job of `ledger` has.
    ///
    /// # Errors
    /// `Storage` where the folder holds no started job.
    pub fn rows_of(ledger: &Ledger) -> Result<u64> {
        stored_rows(ledger)
    }

    /// The job's settings.
    pub fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// Rows of the input.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether the job was started by opening it, rather than found in its folder.
    pub fn is_new(&self) -> bool {
        self.preflight.is_some()
    }

    /// What the check of the input found, where opening the job started it.
    pub fn preflight(&self) -> Option<&PreflightReport> {
        self.preflight.as_ref()
    }

    /// About how many input tokens all rows have together: a quarter of their bytes.
    pub fn estimated_input_tokens(&self) -> Option<u64> {
        self.estimated_input_tokens
    }

    /// The job's folder and record.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Runs the job from where it is until every row has its outcome, it is stopped, or it needs a
    /// person. Running a finished job sends nothing (I9).
    ///
    /// # Errors
    /// `Storage` where the folder fails: sending stops at once, and what was recorded stays. What stops
    /// the job otherwise is told by the report.
    ///
    /// # Cancel safety
    /// Dropping the future is like a crash: the next run goes on from what is on disk. Stop through
    /// `control` instead.
    pub async fn run(
        &self,
        provider: LaneProvider,
        options: RunOptions,
        control: JobControl,
        progress: Arc<JobProgress>,
    ) -> Result<JobReport> {
        self.skip_invalid(&provider, &options.others).await?;
        let ledger = self.ledger.clone();
        let scan = blocking(move || {
            // The caller may have noted settings of its own since the job was opened.
            keep_card(&ledger)?;
            ledger.scan()
        })
        .await?;
        progress.set_total(self.rows);
        progress.update(|state| {
            state.done = scan.finished.len();
            state.earlier = state.done;
            state.unsuccessful = state.done - scan.succeeded();
            state.usage = scan.usage;
            state.cost = scan.cost;
            state.cost_unknown = scan.cost_unknown;
        });
        let live = match options.live.clone() {
            Some(live) => Some(self.open_live(live).await?),
            None => None,
        };
        if scan.finished.len() >= self.rows && !self.has_late_batches()? {
            let written = match live {
                Some(results) => Some(blocking(move || results.finish()).await?),
                None => None,
            };
            return Ok(JobReport {
                rows: self.rows,
                scan,
                stopped: None,
                held: Vec::new(),
                written,
            });
        }
        let ledger = self.ledger.clone();
        let log = blocking(move || ledger.outcome_log()).await?;
        let stop = control.stop.child_token();
        let (live, writer) = match live {
            Some(results) => {
                let (sender, lines) = mpsc::channel(LIVE_BOUND);
                (
                    Some(sender),
                    Some(blocking(move || write_live(results, lines))),
                )
            }
            None => (None, None),
        };
        let running = Running {
            options,
            control: JobControl {
                stop: stop.clone(),
                cancel: control.cancel,
            },
            progress,
            log: log.clone(),
            live,
            answered_directly: Arc::new(Mutex::new(direct_only(&scan))),
            given: Arc::new(Mutex::new(scan.finished)),
        };
        let lane = async {
            match provider {
                LaneProvider::Realtime(provider) => {
                    let skip = locked(&running.given).clone();
                    realtime::run(self, Direct::new(provider), running, skip).await
                }
                LaneProvider::Batch(provider) => deadline::run(self, provider, running).await,
            }
        };
        let writer = async {
            let Some(writer) = writer else {
                return Ok(None);
            };
            let results = writer.await;
            if results.is_err() {
                // Nobody reads the results any more: what is in flight ends and is kept, and that is all.
                stop.cancel();
            }
            results.map(Some)
        };
        let working = async { tokio::join!(lane, writer) };
        let (ended, results) = tokio::select! {
            ended = working => ended,
            never = keep_checkpoints(&self.ledger) => match never {},
        };
        log.finish().await?;
        let (ended, results) = (ended?, results?);
        let ledger = self.ledger.clone();
        let scan = blocking(move || ledger.scan()).await?;
        let written = match results {
            Some(results) if scan.finished.len() >= self.rows => {
                Some(blocking(move || results.finish()).await?)
            }
            _ => None,
        };
        Ok(JobReport {
            rows: self.rows,
            scan,
            stopped: ended.stopped,
            held: ended.held,
            written,
        })
    }

    /// Gives the rows that cannot be sent their outcomes, unless they have them. A crash before the end makes it
    /// be done again, and of two equal outcomes one counts.
    async fn skip_invalid(
        &self,
        provider: &LaneProvider,
        others: &[Arc<dyn BatchProvider>],
    ) -> Result<()> {
        let others = others.to_vec();
        let skip = self.ledger.meta(SKIP)?;
        let skip: Option<Skip> = skip.and_then(|json| serde_json::from_str(&json).ok());
        let Some(mut skip) = skip.filter(|skip| !skip.is_done) else {
            return Ok(());
        };
        let (ledger, spec, provider) = (self.ledger.clone(), self.spec.clone(), provider.clone());
        let vendor_rules = skip.vendor_rules;
        let log = blocking(move || {
            let log = ledger.outcome_log()?;
            let mut bulk = log.bulk();
            let mut line = Vec::new();
            Preflight::new(&spec, &provider)
                .with_rules(rules(&spec, vendor_rules))
                .with_others(&others)
                .run_with(ledger.folder(), &mut |bad| {
                    line.clear();
                    write_skipped(&spec, bad, &mut line);
                    bulk.push(&line)
                })?;
            bulk.finish()?;
            Ok(log)
        })
        .await?;
        log.finish().await?;
        skip.is_done = true;
        set_skip(&self.ledger, &skip)
    }

    /// Whether a batch is under way of a job that has its deadline behind it: its rows may all have ended meanwhile,
    /// and what it answered is to be in the books.
    fn has_late_batches(&self) -> Result<bool> {
        if self.spec.lane != Lane::Batch {
            return Ok(false);
        }
        let now = Timestamp::from(SystemTime::now());
        let chunks = self.ledger.chunks()?;
        Ok(chunks.iter().any(|chunk| {
            chunk.handle.is_some() && !chunk.phase.is_merged() || chunk.is_watched(now)
        }))
    }

    /// Opens results that are written as rows end, and writes those of earlier runs.
    async fn open_live(&self, options: ResultsOptions) -> Result<results::Results> {
        let (ledger, spec) = (self.ledger.clone(), self.spec.clone());
        blocking(move || {
            let mut results = results::Results::open(&ledger, &spec, &options)?;
            if !results.takes_any_order() {
                let message =
                    "results that repeat the input's columns are written in its order; write JSONL";
                return Err(Error::new(ErrorKind::ConfigInvalid, message));
            }
            results.write_earlier(&ledger)?;
            Ok(results)
        })
        .await
    }

    /// Writes the results of every row that has an outcome. Blocks.
    ///
    /// # Errors
    /// `Storage` where the folder cannot be read or the target not written; the input's own errors,
    /// where the results repeat its columns.
    pub fn write_results(&self, options: &ResultsOptions) -> Result<WrittenResults> {
        results::write(&self.ledger, &self.spec, options)
    }

    /// As [`Job::write_results`], for the job in `dir` and without taking its lock.
    ///
    /// # Errors
    /// As [`Job::write_results`]; `ConfigInvalid` where there is no job.
    pub fn write_results_of(dir: &Path, options: &ResultsOptions) -> Result<WrittenResults> {
        let spec = Self::spec_of(dir)?;
        results::write(&Ledger::open_read_only(dir)?, &spec, options)
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("spec", &self.spec)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl LaneProvider {
    /// The provider's registered name.
    pub fn name(&self) -> &str {
        match self {
            Self::Realtime(provider) => provider.name(),
            Self::Batch(provider) => provider.name(),
        }
    }
}

impl fmt::Debug for LaneProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Realtime(provider) => write!(f, "Realtime({})", provider.name()),
            Self::Batch(provider) => write!(f, "Batch({})", provider.name()),
        }
    }
}

/// A row and the line of its outcome.
type LiveLine = (u64, Vec<u8>);

/// Rows that have their outcome.
type Given = Arc<Mutex<RowSet>>;

/// What a lane works with.
#[derive(Clone)]
struct Running {
    options: RunOptions,
    control: JobControl,
    progress: Arc<JobProgress>,
    log: OutcomeLog,
    /// Where rows go as they end, once their outcome is durable.
    live: Option<mpsc::Sender<LiveLine>>,
    given: Given,
    /// Rows of the batch lane that were answered by a direct call, and may be by their batch too.
    answered_directly: Arc<Mutex<RowSet>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rows that were answered by a direct call and have no other outcome.
fn direct_only(scan: &Scan) -> RowSet {
    let direct = scan.direct.iter();
    direct
        .filter(|row| scan.answered.contains(*row) && !scan.duplicated.contains(*row))
        .collect()
}

/// How a lane's run ended.
#[derive(Default)]
struct LaneEnd {
    stopped: Option<Error>,
    held: Vec<(u32, String)>,
}

/// The rules the vendor of a job is known to have, where it is the vendor's own server.
fn rules(spec: &JobSpec, vendor_rules: bool) -> Option<&'static VendorRules> {
    VendorRules::of(&spec.provider).filter(|_| vendor_rules)
}

fn set_skip(ledger: &Ledger, skip: &Skip) -> Result<()> {
    let json = serde_json::to_string(skip).expect("it is plain data");
    ledger.set_meta(SKIP, &json)?;
    match ledger.meta(SPEC)? {
        Some(_) => keep_card(ledger),
        // The job does not exist yet.
        None => Ok(()),
    }
}

/// Keeps beside the journal what a job is, for [`Job::recover`]. What the journal's chunks and the segments tell is no
/// part of it.
fn keep_card(ledger: &Ledger) -> Result<()> {
    // How states were folded is of the journal that holds them.
    ledger.keep_card(&[SeenBatch::KEY, batch::LEFT, "fold"])
}

/// The outcome of a row that cannot be sent: nothing was, so it cost nothing.
fn write_skipped(spec: &JobSpec, bad: BadRow, line: &mut Vec<u8>) {
    let mut outcome = Outcome::new(bad.custom_id, Ending::Failed(bad.error));
    outcome.provenance.provider = Some(Arc::from(spec.provider.as_str()));
    outcome.provenance.model = spec.model.as_deref().map(Arc::from);
    outcome.provenance.lane = Some(spec.lane);
    outcome.provenance.cost = Some(Money::ZERO);
    OutcomeRecord::write(bad.row, &outcome.custom_id, &outcome, false, line);
}

fn stored_spec(ledger: &Ledger) -> Result<Option<JobSpec>> {
    let Some(json) = ledger.meta(SPEC)? else {
        return Ok(None);
    };
    let spec = serde_json::from_str(&json).map_err(|error| {
        let message = format!(
            "read the job's settings in {}: {error}",
            ledger.folder().display()
        );
        Error::new(ErrorKind::Storage, message)
    })?;
    Ok(Some(spec))
}

fn stored_rows(ledger: &Ledger) -> Result<u64> {
    let rows = ledger.meta(ROWS)?;
    rows.and_then(|rows| rows.parse().ok())
        .ok_or_else(|| incomplete(ledger))
}

fn incomplete(ledger: &Ledger) -> Error {
    let message = format!(
        "read the job in {}: it was never started",
        ledger.folder().display()
    );
    Error::new(ErrorKind::Storage, message)
}

/// What tells the input from another one.
fn fingerprint(input: &Path) -> Result<Fingerprint> {
    if input.try_exists().is_ok_and(|exists| !exists) {
        let message = format!(
            "read {}: the job's input is not there; bring it back",
            input.display()
        );
        return Err(Error::new(ErrorKind::ConfigInvalid, message));
    }
    Fingerprint::of_file(input)
}

/// The rows of the job's input, from the start.
pub(crate) fn open_source(spec: &JobSpec) -> Result<Source> {
    Source::open_with(&spec.input, &spec.source)
}

pub(crate) fn request_builder(spec: &JobSpec) -> Result<RequestBuilder> {
    let mut builder = RequestBuilder::new()
        .with_sampling(spec.sampling.clone())
        .with_extra(spec.extra.clone());
    if let Some(model) = &spec.model {
        builder = builder.with_model(model.clone());
    }
    if let Some(system) = &spec.system {
        builder = builder.with_system(Template::compile("system", system.clone())?);
    }
    if let Some(prompt) = &spec.prompt {
        builder = builder.with_prompt(Template::compile("prompt", prompt.clone())?);
    }
    if let Some(schema) = &spec.schema {
        builder = builder.with_schema("answer", schema.clone());
    }
    if let Some(column) = &spec.model_column {
        builder = builder.with_model_column(column.clone());
    }
    if let Some(column) = &spec.id_column {
        builder = builder.with_id_column(column.clone());
    }
    Ok(builder)
}

/// Keeps what there is summed up, so that a job that is killed goes on in seconds.
async fn keep_checkpoints(ledger: &Ledger) -> Infallible {
    let mut ticks = tokio::time::interval(CHECKPOINTS);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let ledger = ledger.clone();
        // Nothing depends on it: without one the segments are read.
        let _ = blocking(move || ledger.checkpoint()).await;
    }
}

/// Runs blocking work where it may block, and waits for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|panic| {
        Error::new(ErrorKind::Unexpected, "blocking work panicked").with_source(panic)
    })?
}

/// Writes rows as their outcomes become durable, until no lane sends any more.
fn write_live(
    mut results: results::Results,
    mut lines: mpsc::Receiver<LiveLine>,
) -> Result<results::Results> {
    while let Some((row, line)) = lines.blocking_recv() {
        results.write(row, &line)?;
    }
    Ok(results)
}

/// 10 of `a-z` and `0-9`, for a tag that no other job has.
fn random_word() -> String {
    let mut bits = RandomState::new().hash_one(std::process::id());
    (0..10)
        .map(|_| {
            let digit = char::from_digit((bits % 36) as u32, 36).expect("below the base");
            bits /= 36;
            digit
        })
        .collect()
}
