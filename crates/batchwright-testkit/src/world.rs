//! A server and a provider that calls it, for one case.

use crate::{
    between::Between,
    double::{Billed, Double},
    live::{OUTPUT_TOKENS, assert_bounded},
    subject::{Made, Place, Route, Stage, Subject},
};
use batchwright_core::{
    BatchHandle, BatchInput, BatchLimits, BatchProvider, BatchSnapshot, BatchSummary, CallOptions,
    ChatProvider, InputRef, ListMatch, Message, Outcome, Request, Response, Result, ResultFile,
    Sampling, SealedBatch, SealedBody, SubmissionTag, SubmitError,
};
use batchwright_emulator::{
    Emulator, EmulatorConfig, FaultAction, FaultRule, Mutation, MutationKind, prompt_hash,
};
use futures::StreamExt;
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// The key providers get, without the shape of one, so that nothing removes it by its looks.
pub(crate) const KEY: &str = "CANARY_KEY_that_must_never_show";

/// The longest a batch is waited for, in virtual hours: a window of a week, and some.
const MAX_HOURS: u32 = 8 * 24;

pub(crate) struct World {
    server: Server,
    pub(crate) subject: Subject,
    made: Made,
}

/// What the provider calls.
enum Server {
    Emulator(Box<Emulator>),
    Double(Box<dyn Double>, Between),
    /// The vendor itself, and how many more requests the case may buy there.
    Live(AtomicU64),
}

impl World {
    /// Virtual time stands still until the case moves it.
    pub(crate) async fn new(subject: &Subject) -> Self {
        let (server, place) = match &subject.stage {
            Stage::Emulator(_) => return Self::with(subject, EmulatorConfig::default()).await,
            Stage::Double(_, start) => {
                let double = start().await;
                let between = Between::start(&double.base_url()).await;
                let place = Place::new(between.base_url(), String::new(), KEY);
                (Server::Double(double, between), place)
            }
            Stage::Live(live) => (Server::Live(AtomicU64::new(0)), live.place()),
        };
        Self::of(subject, server, &place)
    }

    /// An emulator with settings of its own, for cases that no other server can have.
    pub(crate) async fn with(subject: &Subject, config: EmulatorConfig) -> Self {
        let Stage::Emulator(face) = subject.stage else {
            panic!("the case says that it needs the emulator");
        };
        let emulator = Emulator::start(config.with_time_scale(0.0)).await.unwrap();
        let place = Place::new(emulator.base_url(face), emulator.control_url(), KEY);
        Self::of(subject, Server::Emulator(Box::new(emulator)), &place)
    }

    fn of(subject: &Subject, server: Server, place: &Place) -> Self {
        Self {
            made: subject.make(place),
            subject: subject.clone(),
            server,
        }
    }

    /// Allows a case over a live account as many requests as it declares.
    pub(crate) fn allow(self, requests: u64) -> Self {
        if let Server::Live(left) = &self.server {
            left.store(requests, Ordering::SeqCst);
        }
        self
    }

    pub(crate) async fn advance(&self, by: Duration) {
        match &self.server {
            Server::Emulator(emulator) => emulator.advance(by).await.unwrap(),
            Server::Double(double, _) => double.advance(by).await,
            Server::Live(_) => panic!("no case moves a vendor's clock"),
        }
    }

    pub(crate) async fn invoice(&self) -> Vec<Billed> {
        match &self.server {
            Server::Emulator(emulator) => {
                let lines = emulator.invoice().await.unwrap();
                let billed = lines
                    .iter()
                    .map(|line| Billed::new(line.input_tokens, line.output_tokens));
                billed.collect()
            }
            Server::Double(double, _) => double.invoice().await,
            Server::Live(_) => panic!("no case reads a vendor's invoice"),
        }
    }

    pub(crate) fn batch(&self) -> &Arc<dyn BatchProvider> {
        self.made.batch.as_ref().expect("it has batches")
    }

    pub(crate) fn realtime(&self) -> &Arc<dyn ChatProvider> {
        self.made.realtime.as_ref().expect("it has direct calls")
    }

    pub(crate) fn limits(&self) -> &BatchLimits {
        let limits = self.batch().capability().batch.as_ref();
        limits.expect("it has batches")
    }

    /// A request whose answer tells its prompt: servers put [`mark`](Self::mark) there by themselves, a real model is
    /// asked to.
    pub(crate) fn chat(&self, text: &str) -> Request {
        let text = match self.server {
            Server::Live(_) => format!("Repeat {} and nothing else.\n\n{text}", self.mark(text)),
            _ => text.to_owned(),
        };
        self.bounded(Request::chat(
            "row",
            self.subject.model,
            [Message::user(text)],
        ))
    }

    /// What the answer to this text holds.
    pub(crate) fn mark(&self, text: &str) -> String {
        prompt_hash([text])
    }

    /// The request as it is, or with a bound of its answer where that costs money.
    pub(crate) fn bounded(&self, request: Request) -> Request {
        match self.server {
            Server::Live(_) => {
                let sampling = Sampling::new().with_max_output_tokens(OUTPUT_TOKENS);
                request.with_sampling(sampling.unwrap())
            }
            _ => request,
        }
    }

    pub(crate) async fn ask(&self, request: &Request) -> Result<Response> {
        self.draw(1);
        if matches!(self.server, Server::Live(_)) {
            assert_bounded(request);
        }
        self.realtime()
            .complete(request, &CallOptions::default())
            .await
    }

    /// Takes requests from what a case over a live account may buy.
    fn draw(&self, requests: u64) {
        if let Server::Live(left) = &self.server {
            let taken = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(requests)
            });
            assert!(taken.is_ok(), "the case buys more than it declares");
        }
    }

    /// Leaves nothing to run or to store at a live account; what a test's own server holds is gone with it.
    pub(crate) async fn give_up(&self, handle: &BatchHandle) {
        if let Server::Live(_) = self.server {
            // Best effort: it may have ended, and its rows were reckoned with.
            let _ = self.batch().cancel(handle).await;
            if self.limits().input == BatchInput::Uploaded {
                let _ = self.batch().discard(&handle.input).await;
            }
        }
    }

    pub(crate) fn lines(&self, requests: &[(&str, Request)]) -> Vec<u8> {
        let mut lines = Vec::new();
        for (wire_id, request) in requests {
            self.batch().encode(request, wire_id, &mut lines).unwrap();
            lines.push(b'\n');
        }
        lines
    }

    pub(crate) fn sealed(&self, requests: &[(&str, Request)]) -> SealedBatch {
        if matches!(self.server, Server::Live(_)) {
            requests
                .iter()
                .for_each(|(_, request)| assert_bounded(request));
        }
        let lines = self.lines(requests);
        let bytes = lines.len() as u64;
        self.sealed_as(SealedBody::Memory(lines.into()), bytes, requests)
    }

    pub(crate) fn sealed_as(
        &self,
        body: SealedBody,
        bytes: u64,
        requests: &[(&str, Request)],
    ) -> SealedBatch {
        let (_, first) = requests.first().expect("a batch holds a request");
        let endpoint = self.batch().endpoint(first).unwrap().to_owned();
        SealedBatch::new(body, bytes, requests.len() as u64, endpoint, &first.model)
    }

    /// Rows of these texts under ids that prove where they belong.
    pub(crate) fn rows(&self, texts: &[&str]) -> Vec<(String, Request)> {
        (0..)
            .zip(texts)
            .map(|(row, text)| (format!("p{row}-{row}"), self.chat(text)))
            .collect()
    }

    /// What the create is made from: an upload where the provider has uploads.
    pub(crate) async fn input(&self, batch: &SealedBatch, tag: &SubmissionTag) -> InputRef {
        match self.limits().input {
            BatchInput::Uploaded => self.batch().upload(batch, tag).await.unwrap(),
            _ => InputRef::default(),
        }
    }

    pub(crate) async fn try_submit(
        &self,
        batch: &SealedBatch,
        tag: &SubmissionTag,
    ) -> Result<BatchHandle, SubmitError> {
        self.draw(batch.requests);
        let input = self.input(batch, tag).await;
        self.batch().submit(batch, &input, tag).await
    }

    pub(crate) async fn submit(&self, rows: &[(String, Request)], chunk: u32) -> BatchHandle {
        let requests: Vec<_> = borrowed(rows);
        let batch = self.sealed(&requests);
        let handle = self.try_submit(&batch, &tag(chunk)).await.unwrap();
        assert_eq!(handle.provider, self.batch().name());
        assert!(!handle.id.is_empty());
        handle
    }

    /// Buys a batch of these texts and sees it to its end.
    pub(crate) async fn run(&self, texts: &[&str]) -> (BatchSnapshot, Vec<Outcome>) {
        let handle = self.submit(&self.rows(texts), 0).await;
        let snapshot = self.end(&handle).await;
        let outcomes = self.outcomes(&snapshot).await;
        (snapshot, outcomes)
    }

    /// The batch when it has ended and its files are there.
    pub(crate) async fn end(&self, handle: &BatchHandle) -> BatchSnapshot {
        for _ in 0..MAX_HOURS {
            let snapshot = self.batch().status(handle).await.unwrap();
            if snapshot.status.is_terminal() && !snapshot.awaits_files() {
                return snapshot;
            }
            self.advance(HOUR).await;
        }
        panic!("batch {} does not end", handle.id);
    }

    /// Every line of every file that names a request.
    pub(crate) async fn outcomes(&self, snapshot: &BatchSnapshot) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for file in &snapshot.files {
            let bytes = self.bytes(file, 0).await.unwrap();
            let lines = bytes
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.trim_ascii().is_empty());
            outcomes.extend(lines.filter_map(|line| self.batch().decode(line)));
        }
        outcomes
    }

    pub(crate) async fn bytes(&self, file: &ResultFile, offset: u64) -> Result<Vec<u8>> {
        let mut stream = self.batch().download(file, offset).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes)
    }

    /// The next call of this route goes wrong so.
    pub(crate) fn fault(&self, route: Option<Route>, action: FaultAction) {
        self.faults(route, 1, action);
    }

    /// The next `times` calls of this route go wrong so.
    pub(crate) fn faults(&self, route: Option<Route>, times: u64, action: FaultAction) {
        let route = route.expect("cases without their route are ignored");
        match &self.server {
            Server::Emulator(emulator) => {
                let rule = FaultRule::on(route.method, route.path).times(times);
                emulator.add_faults(vec![rule.action(action)]);
            }
            Server::Double(_, between) => between.add(route.method, route.path, times, action),
            Server::Live(_) => panic!("no case lets a vendor's calls go wrong"),
        }
    }

    /// The results of the next batch go wrong so: in the emulator's files, or between a double and the provider.
    pub(crate) fn mutate(&self, kind: MutationKind) {
        let routes = self.subject.routes;
        let route = match &self.server {
            Server::Double(..) => routes.results,
            _ => routes.create,
        };
        self.fault(route, FaultAction::MutateResults(Mutation::new(kind, 1)));
    }

    pub(crate) fn calls(&self, route: Option<Route>) -> u64 {
        let route = route.expect("cases without their route are ignored");
        match &self.server {
            Server::Emulator(emulator) => emulator.calls(route.method, route.counted),
            Server::Double(_, between) => between.calls(route.method, route.path),
            Server::Live(_) => panic!("no case counts a vendor's calls"),
        }
    }

    /// Whether the list's entry is the batch of this create, by the strongest of what it is known by.
    pub(crate) fn is_ours(
        &self,
        listed: &BatchSummary,
        input: &InputRef,
        tag: &SubmissionTag,
        requests: u64,
    ) -> bool {
        match self.limits().list_match.first() {
            Some(ListMatch::Input) => !input.0.is_empty() && listed.handle.input == *input,
            Some(ListMatch::Tag) => listed.tag.as_ref() == Some(tag),
            Some(ListMatch::Requests) => listed.requests == Some(requests),
            _ => false,
        }
    }
}

pub(crate) fn borrowed(rows: &[(String, Request)]) -> Vec<(&str, Request)> {
    rows.iter()
        .map(|(id, request)| (id.as_str(), request.clone()))
        .collect()
}

/// A tag of this process alone, since a live account remembers those of others.
pub(crate) fn tag(chunk: u32) -> SubmissionTag {
    static RANDOM: OnceLock<String> = OnceLock::new();
    let random = RANDOM.get_or_init(|| {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        format!("{:x}", now.as_nanos() & 0xff_ffff_ffff)
    });
    SubmissionTag::new("job1", chunk, 1, random).unwrap()
}
