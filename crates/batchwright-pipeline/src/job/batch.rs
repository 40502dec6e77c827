//! The batch lane of a job: rows into sealed chunks, chunks through the router, results into segments.

use super::{
    Job, JobProgress, JobSpec, LaneEnd, LiveLine, Running, blocking, open_source, request_builder,
};
use crate::preflight::{OPEN_BATCHES, unfinished};
use async_trait::async_trait;
use batchwright_core::{
    BatchProvider, ByteStream, Ending, Error, ErrorKind, JournalEntry, JournalEvent, Outcome,
    PriceTable, Purchases, Request, Result, SealedBatch, SubmissionLog, Timestamp, WireId,
    WirePrefix,
};
use batchwright_ledger::{
    ChunkPhase, ChunkWriter, Ledger, OutcomeLog, OutcomeRecord, RowIds, RowSet,
};
use batchwright_router::{
    BatchRouter, ChunkJob, ChunkStore, Control, Join, Joined, KeptFile, Merge, MergeReport, Origin,
    RouterEvent, refused_row,
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Read},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::SystemTime,
};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Set once every row of the input is in a sealed chunk.
const SEALED: &str = "sealed";
/// What tells the account apart that batches are bought with.
const ACCOUNT: &str = "account";
const CHUNK_ROWS: &str = "chunk_rows";
const OTHER_ACCOUNT: &str = "key, project or address are others now";
/// Chunks written at the same time, one for each endpoint and model; of more, the fullest is sealed.
const OPEN_CHUNKS: usize = OPEN_BATCHES;
/// Sealed chunks that wait for the router.
const CHUNK_BOUND: usize = 4;
const EVENT_BOUND: usize = 64;
/// Merges at the same time: each keeps the ids of a chunk and may meet a long line. One keeps up with the one thread
/// that builds chunks, and so a job of many chunks holds no more than one of two.
const MERGES: usize = 1;
/// The longest result line that is looked at; a longer one is set aside (F-107).
const LINE_CAP: u64 = 64 * 1024 * 1024;

pub(super) async fn run(
    job: &Job,
    provider: Arc<dyn BatchProvider>,
    running: Running,
) -> Result<LaneEnd> {
    let Running {
        options,
        control,
        progress,
        log,
        live,
        finished,
    } = running;
    let other_account = check_account(job, provider.as_ref(), options.same_account)?;
    let skipped = finished.clone();
    let mut router =
        BatchRouter::new(options.router.clone()).with_prices(Arc::clone(&options.prices));
    router.register(Arc::clone(&provider))?;
    let store = Arc::new(LedgerStore {
        ledger: job.ledger().clone(),
        log,
        job: job.tag.clone(),
        json_output: job.spec().wants_json(),
        prices: Arc::clone(&options.prices),
        progress: Arc::clone(&progress),
        live,
        given: Arc::new(Mutex::new(finished)),
        merges: Semaphore::new(MERGES),
    });
    let (chunk_sender, mut chunks) = mpsc::channel(CHUNK_BOUND);
    let sealing = Sealing {
        ledger: job.ledger().clone(),
        spec: job.spec().clone(),
        job: job.tag.clone(),
        provider,
        chunk_rows: chunk_rows(job, options.chunk_rows)?,
        skipped,
        progress: Arc::clone(&progress),
        chunks: chunk_sender,
    };
    let mut hand = Control::default();
    hand.stop = control.stop.child_token();
    hand.cancel = control.cancel.clone();
    let stop = hand.stop.clone();
    let sealer = blocking(move || sealing.run());
    let chunks = futures::stream::poll_fn(move |cx| chunks.poll_recv(cx));
    let (event_sender, mut events) = mpsc::channel(EVENT_BOUND);
    let driver = router.drive(chunks, store, hand, event_sender);
    let watcher = async {
        while let Some(event) = events.recv().await {
            watch(&progress, event);
        }
    };
    let sealer = async {
        let sealed = sealer.await;
        if sealed.is_err() {
            stop.cancel();
        }
        sealed
    };
    let (end, sealed, ()) = tokio::join!(driver, sealer, watcher);
    let end = end?;
    sealed?;
    let stopped = end.stopped.map(|error| match error.kind() {
        ErrorKind::NotFound if other_account => error.context(OTHER_ACCOUNT),
        _ => error,
    });
    Ok(LaneEnd {
        stopped,
        held: end.held,
    })
}

/// Whether another account is used than the one the job's batches were bought with. Refuses to look for a
/// create of unclear fate there, since that account's list says nothing about it (F-087).
fn check_account(job: &Job, provider: &dyn BatchProvider, same_account: bool) -> Result<bool> {
    let account = provider.account();
    // The sandbox is at another address each time, and is nobody's account.
    if account.is_empty() || job.spec().sandbox {
        return Ok(false);
    }
    let ledger = job.ledger();
    let is_other = ledger.meta(ACCOUNT)?.is_some_and(|known| known != account);
    if !is_other || same_account {
        ledger.set_meta(ACCOUNT, account)?;
        return Ok(false);
    }
    let unclear = |phase: &ChunkPhase| {
        matches!(
            phase,
            ChunkPhase::Creating | ChunkPhase::Unknown | ChunkPhase::Absent
        )
    };
    match ledger
        .chunks()?
        .into_iter()
        .find(|chunk| unclear(&chunk.phase))
    {
        None => Ok(true),
        Some(chunk) => Err(Error::new(
            ErrorKind::NeedsDecision,
            format!(
                "go on: whether chunk {} was bought is known only to the account it was sent with, and {OTHER_ACCOUNT}; \
                 use those it was started with, or say that they reach the same account",
                chunk.chunk
            ),
        )),
    }
}

/// The most rows of a chunk: what is asked for now, else what the job was started with.
fn chunk_rows(job: &Job, asked: Option<u64>) -> Result<Option<u64>> {
    let ledger = job.ledger();
    match asked {
        Some(rows) => ledger
            .set_meta(CHUNK_ROWS, &rows.to_string())
            .map(|()| asked),
        None => Ok(ledger.meta(CHUNK_ROWS)?.and_then(|rows| rows.parse().ok())),
    }
}

fn watch(progress: &JobProgress, event: RouterEvent) {
    match event {
        RouterEvent::Status {
            chunk,
            handle,
            status,
            counts,
            ..
        } => {
            progress.update(|state| state.waiting = None);
            progress.batch(chunk, handle.id, status, counts);
        }
        RouterEvent::Waiting { error, .. } => {
            progress.update(|state| state.waiting = Some(error.to_string()));
        }
        RouterEvent::Merged { chunk, .. } => {
            progress.update(|state| {
                state.batches.remove(&chunk);
            });
        }
        _ => {}
    }
}

/// Puts rows into chunks and hands the chunks to the router.
struct Sealing {
    ledger: Ledger,
    spec: JobSpec,
    job: String,
    provider: Arc<dyn BatchProvider>,
    chunk_rows: Option<u64>,
    /// Rows that have their outcome: those in chunks, and those that cannot be sent.
    skipped: RowSet,
    progress: Arc<JobProgress>,
    chunks: mpsc::Sender<Result<ChunkJob>>,
}

/// Rows that may share a batch.
type Group = (String, String);

impl Sealing {
    fn run(&self) -> Result<()> {
        let mut next = 1;
        let mut sealed = self.skipped.clone();
        let complete = self.ledger.meta(SEALED)?.is_some();
        for chunk in self.ledger.chunks()? {
            next = chunk.chunk + 1;
            if !complete {
                for row in self.ledger.chunk_rows(chunk.chunk)? {
                    sealed.insert(row?.0);
                }
            }
            self.progress.update(|state| state.sealed += chunk.requests);
            if !chunk.phase.is_merged() && !self.hand_over(chunk.chunk) {
                return Ok(());
            }
        }
        if complete {
            return Ok(());
        }
        self.seal_rest(next, &sealed)
    }

    fn seal_rest(&self, mut next: u32, sealed: &RowSet) -> Result<()> {
        let limits = self.provider.capability().batch.as_ref();
        let limits = limits
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, "the provider has no batch API"))?;
        let max_requests = self
            .chunk_rows
            .unwrap_or(u64::MAX)
            .clamp(1, limits.max_requests.max(1));
        let builder = request_builder(&self.spec)?;
        let mut open: BTreeMap<Group, (u32, WirePrefix, ChunkWriter)> = BTreeMap::new();
        let mut line = Vec::new();
        for row in open_source(&self.spec)? {
            let Some(row) = unfinished(row, sealed)? else {
                continue;
            };
            let request = builder.build(&row)?;
            let group = self.group(&request)?;
            if !open.contains_key(&group) && open.len() >= OPEN_CHUNKS {
                let fullest = open
                    .iter()
                    .max_by_key(|(_, (_, _, writer))| writer.bytes())
                    .map(|(group, _)| group.clone());
                if let Some(fullest) = fullest
                    && !self.seal(&fullest, open.remove(&fullest))?
                {
                    return Ok(());
                }
            }
            let mut chunk = match open.remove(&group) {
                Some(chunk) => chunk,
                None => self.begin(&mut next)?,
            };
            line.clear();
            self.provider.encode(
                &request,
                &WireId::new(chunk.1, row.number()).to_string(),
                &mut line,
            )?;
            let full = chunk.2.requests() >= max_requests
                || chunk.2.bytes() + line.len() as u64 + 1 > limits.max_bytes
                    && chunk.2.requests() > 0;
            if full {
                if !self.seal(&group, Some(chunk))? {
                    return Ok(());
                }
                chunk = self.begin(&mut next)?;
                line.clear();
                self.provider.encode(
                    &request,
                    &WireId::new(chunk.1, row.number()).to_string(),
                    &mut line,
                )?;
            }
            chunk.2.push(row.number(), &request.custom_id, &line)?;
            self.progress.update(|state| state.sealed += 1);
            open.insert(group, chunk);
        }
        for (group, chunk) in open {
            if !self.seal(&group, Some(chunk))? {
                return Ok(());
            }
        }
        self.ledger.set_meta(SEALED, "1")
    }

    fn begin(&self, next: &mut u32) -> Result<(u32, WirePrefix, ChunkWriter)> {
        let number = *next;
        *next += 1;
        let prefix = WirePrefix::of(&self.job, number, 1);
        Ok((number, prefix, self.ledger.chunk_writer(number, prefix)?))
    }

    /// Always one model, also where the provider would take several: so every outcome names the model that was asked,
    /// and a batch that is refused for its model fails no row of another.
    fn group(&self, request: &Request) -> Result<Group> {
        let endpoint = self.provider.endpoint(request)?.to_owned();
        Ok((endpoint, request.model.clone()))
    }

    /// `false` where nobody takes chunks any more.
    fn seal(&self, group: &Group, chunk: Option<(u32, WirePrefix, ChunkWriter)>) -> Result<bool> {
        let Some((number, _, writer)) = chunk else {
            return Ok(true);
        };
        let at = Timestamp::from(SystemTime::now());
        writer.seal(self.provider.name(), &group.0, &group.1, at)?;
        Ok(self.hand_over(number))
    }

    fn hand_over(&self, chunk: u32) -> bool {
        let job = ChunkJob::new(self.job.clone(), chunk, self.provider.name());
        self.chunks.blocking_send(Ok(job)).is_ok()
    }
}

/// The router's store, in a job's folder.
struct LedgerStore {
    ledger: Ledger,
    log: OutcomeLog,
    job: String,
    json_output: bool,
    prices: Arc<PriceTable>,
    progress: Arc<JobProgress>,
    live: Option<mpsc::Sender<LiveLine>>,
    /// Rows that have their outcome.
    given: Arc<Mutex<RowSet>>,
    merges: Semaphore,
}

#[async_trait]
impl SubmissionLog for LedgerStore {
    async fn append(&self, entries: Vec<JournalEntry>) -> Result<()> {
        self.ledger.append(entries).await
    }

    async fn entries(&self, chunk: u32) -> Result<Vec<JournalEntry>> {
        self.ledger.entries(chunk).await
    }

    async fn purchases(&self) -> Result<Purchases> {
        self.ledger.purchases().await
    }
}

#[async_trait]
impl ChunkStore for LedgerStore {
    async fn sealed(&self, chunk: u32, attempt: u32) -> Result<SealedBatch> {
        let (ledger, job) = (self.ledger.clone(), self.job.clone());
        blocking(move || {
            if attempt > 1 {
                let prefix = |attempt| WirePrefix::of(&job, chunk, attempt);
                ledger.reseal(chunk, attempt, prefix(attempt - 1), prefix(attempt))?;
            }
            Ok(ledger.sealed(chunk, attempt)?.to_batch())
        })
        .await
    }

    async fn partial(&self, chunk: u32, attempt: u32, label: &str) -> Result<u64> {
        let (ledger, label) = (self.ledger.clone(), label.to_owned());
        blocking(move || ledger.partial_raw(chunk, attempt, &label)).await
    }

    async fn keep(
        &self,
        chunk: u32,
        attempt: u32,
        label: &str,
        offset: u64,
        body: ByteStream,
    ) -> Result<KeptFile> {
        let raw = self
            .ledger
            .keep_raw(chunk, attempt, label, offset, body)
            .await?;
        Ok(KeptFile::new(raw.file, raw.sha256, raw.bytes))
    }

    async fn kept(&self, chunk: u32, attempt: u32, label: &str) -> Result<Option<KeptFile>> {
        let (ledger, label) = (self.ledger.clone(), label.to_owned());
        blocking(move || {
            let raw = ledger.raw(chunk, attempt, &label)?;
            Ok(raw.map(|raw| KeptFile::new(raw.file, raw.sha256, raw.bytes)))
        })
        .await
    }

    async fn discard(&self, chunk: u32, attempt: u32) -> Result<()> {
        let ledger = self.ledger.clone();
        blocking(move || {
            for (label, _) in downloads(&ledger, chunk)? {
                ledger.discard_raw(chunk, attempt, &label)?;
            }
            Ok(())
        })
        .await
    }

    async fn merge(&self, chunk: u32, attempt: u32, merge: Merge) -> Result<MergeReport> {
        // Closed by nobody, and a merge without a permit would be no harm.
        let _permit = self.merges.acquire().await;
        let merging = Merging {
            ledger: self.ledger.clone(),
            log: self.log.clone(),
            prefix: WirePrefix::of(&self.job, chunk, attempt),
            json_output: self.json_output,
            prices: Arc::clone(&self.prices),
            progress: Arc::clone(&self.progress),
            live: self.live.clone(),
            given: Arc::clone(&self.given),
            chunk,
            attempt,
        };
        on_own_thread(move || merging.run(merge)).await
    }
}

/// As [`blocking`], on a thread that ends with the work. What a merge allocated stays with its thread's part of the
/// heap, and the runtime's threads take turns: on those, each of them would come to hold what a merge needs. glibc
/// gives a new thread the part that an ended one left.
async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, answer) = oneshot::channel();
    thread::Builder::new()
        .name("batchwright-merge".to_owned())
        .spawn(move || {
            // Who does not wait any more does not need the answer.
            drop(sender.send(work()));
        })
        .map_err(|error| {
            Error::new(
                ErrorKind::Storage,
                format!("start a thread to read results in: {error}"),
            )
            .with_source(error)
        })?;
    answer
        .await
        .map_err(|_| Error::new(ErrorKind::Unexpected, "reading results panicked"))?
}

/// The result files kept for a chunk: label and local name, the newest of each label.
fn downloads(ledger: &Ledger, chunk: u32) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in ledger.entries_blocking(chunk)? {
        match entry.event {
            JournalEvent::Downloaded { label, file, .. } => {
                files.insert(label, file);
            }
            // Files of an earlier batch of the chunk say nothing about a later one.
            JournalEvent::Created { .. } | JournalEvent::Adopted { .. } => files.clear(),
            _ => {}
        }
    }
    Ok(files)
}

/// One merge: from the chunk's raw files to outcomes in the segments.
struct Merging {
    ledger: Ledger,
    log: OutcomeLog,
    prefix: WirePrefix,
    json_output: bool,
    prices: Arc<PriceTable>,
    progress: Arc<JobProgress>,
    live: Option<mpsc::Sender<LiveLine>>,
    given: Arc<Mutex<RowSet>>,
    chunk: u32,
    attempt: u32,
}

impl Merging {
    fn run(&self, merge: Merge) -> Result<MergeReport> {
        let ids = self.ledger.chunk_rows(self.chunk)?.load()?;
        let all = ids.len() as u64;
        let mut fresh = RowSet::new();
        let mut bulk = self.log.bulk();
        let mut line = Vec::new();
        let (missing, foreign) = self.outcomes(&merge, &ids, &mut |row, outcome| {
            // A merge is done again after a crash, or when lines were missing; what was given stays.
            if self
                .given
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(row)
            {
                self.record(row, outcome, &ids, &mut line);
                bulk.push(&line)?;
                self.progress.record(outcome);
                if self.live.is_some() {
                    fresh.insert(row);
                }
            }
            Ok(())
        })?;
        bulk.finish()?;
        if let Some(live) = &self.live {
            // Durable before visible: the files are read again, so that nothing has to be kept meanwhile.
            self.outcomes(&merge, &ids, &mut |row, outcome| {
                if fresh.remove(row) {
                    self.record(row, outcome, &ids, &mut line);
                    // Where nobody takes it, whoever did tells why.
                    let _ = live.blocking_send((row, line.clone()));
                }
                Ok(())
            })?;
        }
        Ok(MergeReport::new(all - missing, missing).with_foreign(foreign))
    }

    fn record(&self, row: u64, outcome: &Outcome, ids: &RowIds, line: &mut Vec<u8>) {
        line.clear();
        OutcomeRecord::write(
            row,
            ids.get(row).unwrap_or_default(),
            outcome,
            self.json_output,
            line,
        );
    }

    /// Visits every row's outcome once; returns how many rows have none, and how many lines are another's.
    fn outcomes(
        &self,
        merge: &Merge,
        ids: &RowIds,
        visit: &mut dyn FnMut(u64, &Outcome) -> Result<()>,
    ) -> Result<(u64, u64)> {
        let sealed = self
            .ledger
            .chunks()?
            .into_iter()
            .find(|state| state.chunk == self.chunk);
        let (provider, model) = sealed
            .map(|state| (state.provider, state.model))
            .unwrap_or_default();
        let origin = Origin::new(&provider, &model, Arc::clone(&self.prices));
        match merge {
            Merge::Results {
                provider,
                handle,
                rest,
            } => {
                let origin = origin.bought(handle, self.attempt);
                let join = || Join::new(provider.as_ref(), self.prefix, ids.rows(), &origin);
                let Some(rest) = rest else {
                    return self.while_lines_may_be_missing(join, visit);
                };
                let mut join = join();
                self.join(&mut join, visit)?;
                for row in join.missing() {
                    visit(row, &origin.outcome(rest.clone()))?;
                }
            }
            Merge::Refused { error, faults } => {
                // Lines of a chunk are in the order of its rows.
                for (line, (row, _)) in (1u64..).zip(ids.iter()) {
                    let error = refused_row(error, faults, line);
                    visit(row, &origin.outcome(Ending::Failed(error)))?;
                }
            }
            Merge::Cancelled => {
                for (row, _) in ids.iter() {
                    visit(row, &origin.outcome(Ending::Cancelled))?;
                }
            }
        }
        Ok((0, 0))
    }

    /// Visits successes, and everything else only where every row has a line that can be read: another
    /// download may hold a success in the place of an error, or a line whole that was cut (F-082, F-106).
    fn while_lines_may_be_missing<'j>(
        &self,
        join: impl Fn() -> Join<'j>,
        visit: &mut dyn FnMut(u64, &Outcome) -> Result<()>,
    ) -> Result<(u64, u64)> {
        let (mut unreadable, mut others) = (0, 0);
        let mut first = join();
        self.join(&mut first, &mut |row, outcome| {
            match outcome.ending {
                Ending::Succeeded(_) | Ending::Refused(_) => visit(row, outcome)?,
                Ending::Unreadable(_) => unreadable += 1,
                _ => others += 1,
            }
            Ok(())
        })?;
        let missing = first.missing().count() as u64 + unreadable;
        if missing == 0 && others > 0 {
            self.join(&mut join(), visit)?;
        }
        Ok((missing, first.report().foreign))
    }

    /// Visits every row's outcome that a file holds a line for.
    fn join(
        &self,
        join: &mut Join<'_>,
        visit: &mut dyn FnMut(u64, &Outcome) -> Result<()>,
    ) -> Result<()> {
        let files = downloads(&self.ledger, self.chunk)?;
        let mut aside = self
            .ledger
            .set_aside(self.chunk, self.attempt, "unattributed")?;
        for pass in 0..2 {
            if pass == 1 {
                if join.is_complete() {
                    break;
                }
                join.second_pass();
            }
            for file in files.values() {
                let path = self.ledger.raw_path(file)?;
                // A file that went away is a file of missing lines, and is downloaded again.
                if !path.exists() {
                    continue;
                }
                each_line(&path, |line| {
                    match join.line(line) {
                        Joined::Row(row, outcome) => visit(row, &outcome)?,
                        Joined::Unknown => aside.push(line)?,
                        Joined::Passed => {}
                    }
                    Ok(())
                })?;
            }
        }
        aside.finish()?;
        Ok(())
    }
}

/// Calls `take` with each line of the file, without its line end; a line over the cap is cut there, and so
/// will not be understood.
fn each_line(path: &std::path::Path, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let storage = |error: std::io::Error| {
        Error::new(
            ErrorKind::Storage,
            format!("read {}: {error}", path.display()),
        )
        .with_source(error)
    };
    let mut reader = BufReader::with_capacity(256 * 1024, File::open(path).map_err(storage)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader
            .by_ref()
            .take(LINE_CAP)
            .read_until(b'\n', &mut line)
            .map_err(storage)?;
        if read == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') && read as u64 == LINE_CAP {
            skip_line(&mut reader).map_err(storage)?;
        }
        let end = line.strip_suffix(b"\n").unwrap_or(&line);
        take(end.strip_suffix(b"\r").unwrap_or(end))?;
    }
}

/// Passes over the rest of a line without keeping it.
fn skip_line(reader: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        match memchr::memchr(b'\n', buffer) {
            Some(end) => {
                reader.consume(end + 1);
                return Ok(());
            }
            None => {
                let all = buffer.len();
                reader.consume(all);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{JobSpec, LaneProvider};
    use batchwright_core::{InputRef, Lane, ListMark, SubmissionTag};
    use batchwright_provider_openai::OpenAi;

    fn provider(key: &str) -> OpenAi {
        OpenAi::builder(key)
            .base_url("http://127.0.0.1:1/v1")
            .build()
            .unwrap()
    }

    /// A job of one chunk whose create is under way by the account of `key`.
    fn job(dir: &std::path::Path, key: &str) -> Job {
        let input = dir.join("in.jsonl");
        std::fs::write(&input, "{\"q\":\"a\"}\n").unwrap();
        let mut spec = JobSpec::new(input, "openai", Lane::Batch).with_prompt("{{ q }}");
        spec.model = Some("gpt-4o-mini".to_owned());
        let lane = LaneProvider::Batch(Arc::new(provider(key)));
        let job = Job::open(&dir.join("job"), spec, &lane).unwrap();
        check_account(&job, &provider(key), false).unwrap();
        let sealing = Sealing {
            ledger: job.ledger().clone(),
            spec: job.spec().clone(),
            job: job.tag.clone(),
            provider: Arc::new(provider(key)),
            chunk_rows: None,
            skipped: RowSet::new(),
            progress: Arc::new(JobProgress::new()),
            chunks: mpsc::channel(1).0,
        };
        sealing.run().unwrap();
        job
    }

    fn append(job: &Job, event: JournalEvent) {
        let entry = JournalEntry::new(1, Timestamp::from_unix_seconds(1), event);
        job.ledger().append_blocking(&[entry]).unwrap();
    }

    #[test]
    fn f_087_another_accounts_list_is_not_asked_about_an_unclear_create() {
        let dir = tempfile::tempdir().unwrap();
        let job = job(dir.path(), "one");
        let tag = SubmissionTag::new(&job.tag, 1, 1, "r").unwrap();
        let input = InputRef("file-1".to_owned());
        assert!(
            check_account(&job, &provider("two"), false).unwrap(),
            "nothing is unclear yet"
        );

        append(&job, JournalEvent::UploadIntent { tag: tag.clone() });
        append(
            &job,
            JournalEvent::CreateIntent {
                tag,
                input,
                mark: ListMark::default(),
            },
        );
        let error = check_account(&job, &provider("two"), false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NeedsDecision);
        assert!(!check_account(&job, &provider("one"), false).unwrap());
        // Whoever says so goes on with the other key, and it is the job's from then on.
        assert!(!check_account(&job, &provider("two"), true).unwrap());
        assert!(check_account(&job, &provider("one"), false).is_err());
    }

    #[test]
    fn f_204_the_record_of_the_account_leads_back_to_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let job = job(dir.path(), "sk-CANARY");
        let account = job.ledger().meta(ACCOUNT).unwrap().unwrap();
        assert_eq!(account.len(), 16);
        assert!(!account.contains("CANARY"));
    }

    #[test]
    fn a_resumed_job_keeps_the_size_of_its_chunks() {
        let dir = tempfile::tempdir().unwrap();
        let job = job(dir.path(), "one");
        assert_eq!(chunk_rows(&job, None).unwrap(), None);
        assert_eq!(chunk_rows(&job, Some(100)).unwrap(), Some(100));
        assert_eq!(chunk_rows(&job, None).unwrap(), Some(100));
    }
}
