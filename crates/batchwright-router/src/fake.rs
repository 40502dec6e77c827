//! A provider and a store in memory, with faults, for the tests of the shell and the join.

use crate::{
    join::{Join, Joined, Origin, refused_row},
    store::{ChunkStore, KeptFile, Merge, MergeReport},
};
use async_trait::async_trait;
use batchwright_core::{
    BatchCounts, BatchHandle, BatchInput, BatchLimits, BatchProvider, BatchSnapshot, BatchStatus,
    BatchSummary, ByteStream, Capability, Ending, Error, ErrorKind, InputFault, InputRef,
    JournalEntry, JournalEvent, ListMark, ListMatch, Message, Outcome, Payload, PriceTable,
    Purchases, Request, Response, Result, ResultFile, SealedBatch, SealedBody, SubmissionLog,
    SubmissionTag, SubmitError, Timestamp, WireId, WirePrefix,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

pub(crate) const JOB: &str = "job";

/// What becomes of a create.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Create {
    Lost,
    Refused(ErrorKind),
    /// Never answers.
    Hangs,
    /// Takes place and never answers.
    CommitsAndHangs,
}

pub(crate) struct Fake {
    name: &'static str,
    capability: Capability,
    state: Mutex<FakeState>,
}

#[derive(Default)]
pub(crate) struct FakeState {
    pub(crate) creates: VecDeque<Create>,
    pub(crate) polls_to_end: u32,
    pub(crate) poll_errors: VecDeque<ErrorKind>,
    /// How long a batch takes, in place of a number of polls.
    pub(crate) ends_after: Option<Duration>,
    pub(crate) fails_validation: bool,
    pub(crate) fails_silently: bool,
    /// A chunk whose batch takes long, and is valid.
    pub(crate) slow: Option<u32>,
    /// A batch that no poll sees.
    pub(crate) unseen: Option<&'static str>,
    /// Whether results come in two files, each with every line.
    pub(crate) two_files: bool,
    /// Changes the result lines of the first downloads, in this order.
    pub(crate) edits: VecDeque<fn(&mut Vec<String>)>,
    /// After how many bytes the first downloads break, if they do.
    pub(crate) cuts: VecDeque<Option<usize>>,
    pub(crate) resumes: bool,
    pub(crate) sent: Sent,
    /// The offsets downloads began at.
    pub(crate) downloads: Vec<u64>,
    pub(crate) most_open: usize,
    /// Calls for one batch's state, and pages of the list that were read.
    pub(crate) status_calls: u32,
    pub(crate) list_pages: u32,
    files: BTreeMap<String, (SubmissionTag, Bytes)>,
    batches: Vec<FakeBatch>,
}

/// How many of each were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sent {
    pub(crate) uploads: u32,
    pub(crate) submits: u32,
    pub(crate) cancels: u32,
}

struct FakeBatch {
    tag: SubmissionTag,
    input: String,
    asked: Vec<(String, String)>,
    polls: u32,
    ended: bool,
    cancelled: bool,
    created: Instant,
}

impl Fake {
    pub(crate) fn new(name: &'static str) -> Arc<Self> {
        let mut limits = BatchLimits::new(vec!["/chat".to_owned(), "/embed".to_owned()], 100, 4000);
        limits.list_match = vec![ListMatch::Input, ListMatch::Tag];
        let mut capability = Capability::default();
        capability.batch = Some(limits);
        Arc::new(Self {
            name,
            capability,
            state: Mutex::new(FakeState {
                polls_to_end: 3,
                ..FakeState::default()
            }),
        })
    }

    /// Keeps results no longer than this.
    pub(crate) fn keeping_results(name: &'static str, retention: Duration) -> Arc<Self> {
        let mut fake = Self::new(name);
        let inner = Arc::get_mut(&mut fake).expect("nobody else has it yet");
        if let Some(limits) = &mut inner.capability.batch {
            limits.retention = retention;
        }
        fake
    }

    /// Its creates carry the lines, and its list shows ids and sizes only.
    pub(crate) fn inline(name: &'static str) -> Arc<Self> {
        let mut fake = Self::new(name);
        let inner = Arc::get_mut(&mut fake).expect("nobody else has it yet");
        if let Some(limits) = &mut inner.capability.batch {
            limits.input = BatchInput::Inline;
            limits.list_match = vec![ListMatch::Requests];
        }
        fake
    }

    /// An account with batches 0 to `count`, which do not end, created a second apart.
    pub(crate) fn with_open_batches(name: &'static str, count: usize) -> Arc<Self> {
        let fake = Self::new(name);
        {
            let mut state = fake.state();
            state.polls_to_end = u32::MAX;
            state.batches = (0..count)
                .map(|number| FakeBatch {
                    tag: SubmissionTag::new("other", number as u32, 1, "r").unwrap(),
                    input: String::new(),
                    asked: Vec::new(),
                    polls: 0,
                    ended: false,
                    cancelled: false,
                    created: Instant::now(),
                })
                .collect();
        }
        fake
    }

    fn is_inline(&self) -> bool {
        let limits = self.capability.batch.as_ref();
        limits.is_some_and(|limits| limits.input == BatchInput::Inline)
    }

    pub(crate) fn without_batches(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            capability: Capability::default(),
            state: Mutex::default(),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, FakeState> {
        self.state.lock().unwrap()
    }

    /// Batches that ran.
    pub(crate) fn bought(&self) -> usize {
        self.state().batches.len()
    }

    /// What was sent so far.
    pub(crate) fn sent(&self) -> Sent {
        self.state().sent
    }
}

impl FakeState {
    fn find(&mut self, id: &str) -> Result<&mut FakeBatch> {
        let at: Option<usize> = id.strip_prefix("batch-").and_then(|at| at.parse().ok());
        at.and_then(|at| self.batches.get_mut(at))
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such batch"))
    }

    fn note_open(&mut self) {
        let open = self.batches.iter().filter(|batch| !batch.ended).count();
        self.most_open = self.most_open.max(open);
    }
}

#[async_trait]
impl BatchProvider for Fake {
    fn name(&self) -> &str {
        self.name
    }

    fn capability(&self) -> &Capability {
        &self.capability
    }

    fn endpoint<'r>(&'r self, request: &'r Request) -> Result<&'r str> {
        Ok(match request.payload {
            Payload::Chat(_) => "/chat",
            Payload::Raw(ref raw) => &raw.endpoint,
            _ => "/embed",
        })
    }

    fn encode(&self, request: &Request, wire_id: &str, line: &mut Vec<u8>) -> Result<()> {
        let ask = match &request.payload {
            Payload::Chat(chat) => chat.messages[0].content[0].as_text().unwrap_or_default(),
            _ => "",
        };
        if ask == "unspeakable" {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "encode the request: no such word",
            ));
        }
        line.extend(json!({"id": wire_id, "ask": ask}).to_string().bytes());
        Ok(())
    }

    async fn upload(&self, batch: &SealedBatch, tag: &SubmissionTag) -> Result<InputRef> {
        let SealedBody::Memory(lines) = &batch.body else {
            return Err(Error::new(ErrorKind::Unexpected, "only memory"));
        };
        let mut state = self.state();
        state.sent.uploads += 1;
        let id = format!("file-{}", state.sent.uploads);
        state.files.insert(id.clone(), (tag.clone(), lines.clone()));
        Ok(InputRef(id))
    }

    async fn find_upload(&self, _: &SealedBatch, tag: &SubmissionTag) -> Result<Option<InputRef>> {
        let state = self.state();
        let found = state.files.iter().find(|(_, (theirs, _))| theirs == tag);
        Ok(found.map(|(id, _)| InputRef(id.clone())))
    }

    async fn submit(
        &self,
        batch: &SealedBatch,
        input: &InputRef,
        tag: &SubmissionTag,
    ) -> Result<BatchHandle, SubmitError> {
        let create = {
            let mut state = self.state();
            state.sent.submits += 1;
            state.creates.pop_front()
        };
        match create {
            Some(Create::Refused(kind)) => {
                return Err(SubmitError::Refused(Error::new(kind, "the create")));
            }
            Some(Create::Hangs) => std::future::pending::<()>().await,
            _ => {}
        }
        let id = {
            let mut state = self.state();
            let lines = match (&batch.body, self.is_inline()) {
                (SealedBody::Memory(lines), true) => lines,
                _ => &state.files[&input.0].1,
            };
            let asked = std::str::from_utf8(lines)
                .unwrap()
                .lines()
                .map(|line| {
                    let line: Value = serde_json::from_str(line).unwrap();
                    let text = |key: &str| line[key].as_str().unwrap().to_owned();
                    (text("id"), text("ask"))
                })
                .collect();
            let id = format!("batch-{}", state.batches.len());
            state.batches.push(FakeBatch {
                tag: tag.clone(),
                input: input.0.clone(),
                asked,
                polls: 0,
                ended: false,
                cancelled: false,
                created: Instant::now(),
            });
            state.note_open();
            id
        };
        if matches!(create, Some(Create::CommitsAndHangs)) {
            std::future::pending::<()>().await;
        }
        match create {
            Some(Create::Lost) => Err(SubmitError::Unknown(Error::new(ErrorKind::Timeout, "lost"))),
            _ => Ok(BatchHandle::new(self.name, id, input.clone())),
        }
    }

    async fn status(&self, handle: &BatchHandle) -> Result<BatchSnapshot> {
        let mut state = self.state();
        state.status_calls += 1;
        if let Some(kind) = state.poll_errors.pop_front() {
            return Err(Error::new(kind, "the poll"));
        }
        if state.unseen == Some(&*handle.id) {
            return Err(Error::new(ErrorKind::NotFound, "no such batch"));
        }
        let (to_end, invalid) = (state.polls_to_end, state.fails_validation);
        let silent = state.fails_silently;
        let (two_files, slow, ends_after) = (state.two_files, state.slow, state.ends_after);
        let batch = state.find(&handle.id)?;
        batch.polls += 1;
        let (to_end, invalid) = match slow == Some(batch.tag.chunk()) {
            true => (to_end + 50, false),
            false => (to_end, invalid),
        };
        batch.ended = batch.cancelled
            || match ends_after {
                Some(after) => batch.created.elapsed() >= after,
                None => batch.polls > to_end,
            };
        let status = match batch.ended {
            false => BatchStatus::InProgress,
            true if batch.cancelled => BatchStatus::Cancelled,
            true if invalid => BatchStatus::Failed,
            true => BatchStatus::Completed,
        };
        let rows = batch.asked.len() as u64;
        let mut snapshot = BatchSnapshot::new(handle.clone(), status);
        snapshot.created_at = created_at(&handle.id);
        match snapshot.status {
            BatchStatus::Completed => {
                snapshot.counts = Some(BatchCounts::new(rows, rows, 0));
                snapshot.files.push(ResultFile::new(&handle.id, "output"));
                if two_files {
                    snapshot.files.push(ResultFile::new(&handle.id, "errors"));
                }
            }
            BatchStatus::Failed if !silent => {
                let fault = InputFault::new(Some("bad_line".into()), "line two", Some(2), None);
                snapshot.faults.push(fault);
            }
            _ => {}
        }
        Ok(snapshot)
    }

    async fn download(&self, file: &ResultFile, offset: u64) -> Result<ByteStream> {
        let mut state = self.state();
        state.downloads.push(offset);
        if offset > 0 && !state.resumes {
            return Err(Error::new(ErrorKind::Unsupported, "only from the start"));
        }
        let asked = state.find(&file.id)?.asked.clone();
        // Never in order (F-095).
        let mut lines: Vec<String> = asked
            .iter()
            .rev()
            .map(|(id, ask)| json!({"id": id, "answer": format!("re: {ask}")}).to_string())
            .collect();
        if let Some(edit) = state.edits.pop_front() {
            edit(&mut lines);
        }
        let body = lines.join("\n").into_bytes();
        let body = body[(offset as usize).min(body.len())..].to_vec();
        let cut = state.cuts.pop_front().flatten();
        let (body, end) = match cut {
            Some(cut) => (
                body[..cut.min(body.len())].to_vec(),
                Some(Err(Error::new(ErrorKind::Timeout, "the body broke"))),
            ),
            None => (body, None),
        };
        let pieces: Vec<Result<Bytes>> = body
            .chunks(7)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .chain(end)
            .collect();
        Ok(stream::iter(pieces).boxed())
    }

    fn decode(&self, line: &[u8]) -> Option<Outcome> {
        let line: Value = serde_json::from_slice(line).ok()?;
        let id = line["id"].as_str()?;
        let error = |kind| Error::new(kind, "the row");
        let ending = if let Some(answer) = line["answer"].as_str() {
            let mut response = Response::from_text(answer);
            response.model = line["model"].as_str().map(str::to_owned);
            Ending::Succeeded(response)
        } else if let Some(refusal) = line["refusal"].as_str() {
            Ending::Refused(Response::from_text(refusal))
        } else if line["error"].is_string() {
            Ending::Failed(error(ErrorKind::InvalidRequest))
        } else if line["expired"] == true {
            Ending::Expired
        } else {
            Ending::Unreadable(error(ErrorKind::ProviderFault))
        };
        Some(Outcome::new(id, ending))
    }

    async fn cancel(&self, handle: &BatchHandle) -> Result<()> {
        let mut state = self.state();
        state.sent.cancels += 1;
        let batch = state.find(&handle.id)?;
        if batch.ended {
            return Err(Error::new(ErrorKind::Conflict, "it has ended"));
        }
        batch.cancelled = true;
        Ok(())
    }

    async fn recent(&self) -> Result<Vec<BatchSummary>> {
        self.list_since(&ListMark::default()).await
    }

    async fn list_since(&self, mark: &ListMark) -> Result<Vec<BatchSummary>> {
        let mut state = self.state();
        if let Some(after) = state.ends_after {
            for batch in &mut state.batches {
                batch.ended |= batch.created.elapsed() >= after;
            }
        }
        state.list_pages += (state.batches.len() as u32).div_ceil(PAGE);
        let all = state.batches.iter().enumerate().rev();
        Ok(all
            .map(|(at, batch)| {
                let input = InputRef(batch.input.clone());
                let handle = BatchHandle::new(self.name, format!("batch-{at}"), input);
                let tag = Some(batch.tag.clone()).filter(|_| !self.is_inline());
                let requests = batch.asked.len() as u64;
                let created = created_at(&handle.id);
                let status = match batch.ended {
                    true => BatchStatus::Completed,
                    false => BatchStatus::InProgress,
                };
                BatchSummary::new(handle, status, tag, created).with_requests(Some(requests))
            })
            .filter(|summary| !mark.seen.contains(&summary.handle.id))
            .collect())
    }

    async fn discard(&self, input: &InputRef) -> Result<()> {
        self.state().files.remove(&input.0);
        Ok(())
    }
}

/// Entries of a page of the list.
const PAGE: u32 = 100;

/// Batches are created a second apart, the first an hour ago.
fn created_at(id: &str) -> Option<Timestamp> {
    static FIRST: OnceLock<Timestamp> = OnceLock::new();
    let number: u64 = id.strip_prefix("batch-")?.parse().ok()?;
    let now = Timestamp::from(SystemTime::now());
    let first = FIRST.get_or_init(|| Timestamp::from_unix_millis(now.as_unix_millis() - 3_600_000));
    Some(first.plus(Duration::from_secs(number)))
}

pub(crate) fn ask(id: &str) -> Request {
    Request::chat(id, "model-a", [Message::user(format!("ask {id}"))])
}

/// Keeps what it is given for as long as a test lives, over any number of drives.
pub(crate) struct FakeStore {
    provider: Arc<Fake>,
    chunks: BTreeMap<u32, Vec<Request>>,
    state: Mutex<StoreState>,
}

type Listener = Box<dyn Fn(&JournalEvent) + Send>;

#[derive(Default)]
pub(crate) struct StoreState {
    pub(crate) journal: Vec<JournalEntry>,
    /// Which append fails, counted from 0.
    pub(crate) fail_append: Option<usize>,
    pub(crate) appends: usize,
    /// Is told of each fact once it is durable.
    pub(crate) on_append: Option<Listener>,
    /// By the caller's id, each ending that was given.
    pub(crate) endings: BTreeMap<String, Vec<String>>,
    pub(crate) discards: u32,
    files: BTreeMap<(u32, u32, String), Vec<u8>>,
}

impl FakeStore {
    /// Chunks 1 to `chunks` of `rows` rows each.
    pub(crate) fn new(provider: &Arc<Fake>, chunks: u32, rows: u32) -> Arc<Self> {
        let requests = |chunk| {
            (0..rows)
                .map(|row| ask(&format!("{chunk}-{row}")))
                .collect()
        };
        Arc::new(Self {
            provider: Arc::clone(provider),
            chunks: (1..=chunks).map(|chunk| (chunk, requests(chunk))).collect(),
            state: Mutex::default(),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, StoreState> {
        self.state.lock().unwrap()
    }

    fn give(&self, request: &Request, outcome: &Outcome) {
        let said = outcome.response().map(Response::text);
        if let Some(said) = &said {
            // I4: no answer on another row.
            assert_eq!(*said, format!("re: ask {}", request.custom_id));
        }
        let ending = outcome.ending.as_str().to_owned();
        let id = request.custom_id.clone();
        self.state().endings.entry(id).or_default().push(ending);
    }
}

#[async_trait]
impl SubmissionLog for FakeStore {
    async fn append(&self, entries: Vec<JournalEntry>) -> Result<()> {
        let mut state = self.state();
        let number = state.appends;
        state.appends += 1;
        if state.fail_append == Some(number) {
            return Err(Error::new(
                ErrorKind::Storage,
                "append to the journal: no space",
            ));
        }
        if let Some(tell) = &state.on_append {
            entries.iter().for_each(|entry| tell(&entry.event));
        }
        state.journal.extend(entries);
        Ok(())
    }

    async fn entries(&self, chunk: u32) -> Result<Vec<JournalEntry>> {
        let state = self.state();
        let ours = state.journal.iter().filter(|entry| entry.chunk == chunk);
        Ok(ours.cloned().collect())
    }

    async fn purchases(&self) -> Result<Purchases> {
        Ok(Purchases::of(&self.state().journal))
    }
}

#[async_trait]
impl ChunkStore for FakeStore {
    async fn sealed(&self, chunk: u32, attempt: u32) -> Result<SealedBatch> {
        let mut lines = Vec::new();
        for (row, request) in (0u64..).zip(&self.chunks[&chunk]) {
            let id = WireId::new(WirePrefix::of(JOB, chunk, attempt), row).to_string();
            self.provider.encode(request, &id, &mut lines)?;
            lines.push(b'\n');
        }
        let size = lines.len() as u64;
        let rows = self.chunks[&chunk].len() as u64;
        let body = SealedBody::Memory(lines.into());
        Ok(SealedBatch::new(body, size, rows, "/chat", "model-a"))
    }

    async fn partial(&self, chunk: u32, attempt: u32, label: &str) -> Result<u64> {
        let key = (chunk, attempt, label.to_owned());
        Ok(self.state().files.get(&key).map_or(0, Vec::len) as u64)
    }

    async fn keep(
        &self,
        chunk: u32,
        attempt: u32,
        label: &str,
        offset: u64,
        mut body: ByteStream,
    ) -> Result<KeptFile> {
        let key = (chunk, attempt, label.to_owned());
        let file = |offset: Option<u64>, piece: &[u8]| {
            let mut state = self.state();
            let file = state.files.entry(key.clone()).or_default();
            if let Some(offset) = offset {
                file.truncate(offset as usize);
            }
            file.extend_from_slice(piece);
            file.len() as u64
        };
        let mut size = file(Some(offset), &[]);
        while let Some(piece) = body.try_next().await? {
            size = file(None, &piece);
        }
        Ok(KeptFile::new(label, "", size))
    }

    async fn kept(&self, chunk: u32, attempt: u32, label: &str) -> Result<Option<KeptFile>> {
        let key = (chunk, attempt, label.to_owned());
        let state = self.state();
        let file = state.files.get(&key);
        Ok(file.map(|file| KeptFile::new(label, "", file.len() as u64)))
    }

    async fn discard(&self, chunk: u32, attempt: u32) -> Result<()> {
        let mut state = self.state();
        state.discards += 1;
        state
            .files
            .retain(|(c, a, _), _| (*c, *a) != (chunk, attempt));
        Ok(())
    }

    async fn merge(&self, number: u32, attempt: u32, merge: Merge) -> Result<MergeReport> {
        let requests = &self.chunks[&number];
        let all = requests.len() as u64;
        let origin = Origin::new("fake", "model-a", Arc::new(PriceTable::default()));
        let (provider, handle, rest) = match merge {
            Merge::Results {
                provider,
                handle,
                rest,
            } => (provider, handle, rest),
            Merge::Refused { error, faults } => {
                for (line, request) in (1u64..).zip(requests) {
                    let error = refused_row(&error, &faults, line);
                    self.give(request, &origin.outcome(Ending::Failed(error)));
                }
                return Ok(MergeReport::new(all, 0));
            }
            Merge::Cancelled => {
                for request in requests {
                    self.give(request, &origin.outcome(Ending::Cancelled));
                }
                return Ok(MergeReport::new(all, 0));
            }
        };
        let origin = origin.bought(&handle, attempt);
        let files: Vec<Vec<u8>> = self.state().files.values().cloned().collect();
        let rows: Vec<u64> = (0..all).collect();
        let prefix = WirePrefix::of(JOB, number, attempt);
        let mut join = Join::new(provider.as_ref(), prefix, &rows, &origin);
        let mut outcomes = Vec::new();
        for pass in 0..2 {
            if pass == 1 {
                join.second_pass();
            }
            for line in files.iter().flat_map(|file| file.split(|b| *b == b'\n')) {
                if let Joined::Row(row, outcome) = join.line(line) {
                    outcomes.push((row, *outcome));
                }
            }
        }
        let missing: Vec<u64> = join.missing().collect();
        let foreign = join.report().foreign;
        let Some(rest) = rest.or(missing.is_empty().then_some(Ending::Missing)) else {
            return Ok(
                MergeReport::new(all - missing.len() as u64, missing.len() as u64)
                    .with_foreign(foreign),
            );
        };
        outcomes.extend(
            missing
                .iter()
                .map(|row| (*row, origin.outcome(rest.clone()))),
        );
        for (row, outcome) in &outcomes {
            self.give(&requests[*row as usize], outcome);
        }
        Ok(MergeReport::new(all, 0))
    }
}
