//! An emulator and a provider that calls it, for one case.

use crate::subject::{Made, Place, Route, Subject};
use batchwright_core::{
    BatchHandle, BatchInput, BatchLimits, BatchProvider, BatchSnapshot, BatchSummary, CallOptions,
    ChatProvider, InputRef, ListMatch, Message, Outcome, Request, Response, Result, ResultFile,
    SealedBatch, SealedBody, SubmissionTag, SubmitError,
};
use batchwright_emulator::{Emulator, EmulatorConfig, FaultAction, FaultRule};
use futures::StreamExt;
use std::{sync::Arc, time::Duration};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// The key providers get, without the shape of one, so that nothing removes it by its looks.
pub(crate) const KEY: &str = "CANARY_KEY_that_must_never_show";

/// The longest a batch is waited for, in virtual hours: a window of a week, and some.
const MAX_HOURS: u32 = 8 * 24;

pub(crate) struct World {
    pub(crate) emulator: Emulator,
    pub(crate) subject: Subject,
    made: Made,
}

impl World {
    /// Virtual time stands still until the case moves it.
    pub(crate) async fn new(subject: &Subject) -> Self {
        Self::with(subject, EmulatorConfig::default()).await
    }

    pub(crate) async fn with(subject: &Subject, config: EmulatorConfig) -> Self {
        let emulator = Emulator::start(config.with_time_scale(0.0)).await.unwrap();
        let place = Place::new(emulator.base_url(subject.face), emulator.control_url(), KEY);
        Self {
            made: subject.make(&place),
            subject: subject.clone(),
            emulator,
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

    pub(crate) fn chat(&self, text: &str) -> Request {
        Request::chat("row", self.subject.model, [Message::user(text)])
    }

    pub(crate) async fn ask(&self, request: &Request) -> Result<Response> {
        self.realtime()
            .complete(request, &CallOptions::default())
            .await
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
            self.emulator.advance(HOUR).await.unwrap();
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
        let route = route.expect("cases without their route are ignored");
        let rule = FaultRule::on(route.method, route.path).times(1);
        self.emulator.add_faults(vec![rule.action(action)]);
    }

    pub(crate) fn calls(&self, route: Option<Route>) -> u64 {
        let route = route.expect("cases without their route are ignored");
        self.emulator.calls(route.method, route.counted)
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

pub(crate) fn tag(chunk: u32) -> SubmissionTag {
    SubmissionTag::new("job1", chunk, 1, "rnd1").unwrap()
}
