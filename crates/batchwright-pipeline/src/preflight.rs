//! Every row checked against the vendor's rules before anything is sent for any of them.

use crate::{
    RowError, VendorRules,
    ids::{IdCheck, Repeated},
    job::{JobSpec, LaneProvider, open_source, request_builder},
    requests::RequestBuilder,
    row::Row,
};
use batchwright_core::{
    BatchLimits, BatchProvider, Chat, Error, ErrorKind, Message, Payload, Request, ResponseFormat,
    Result, Sampling, WireId, WirePrefix,
};
use batchwright_ledger::RowSet;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Deserializer, de};
use serde_json::{Value, value::RawValue};
use std::{borrow::Cow, collections::BTreeMap, fmt, path::Path, sync::Arc};

/// Problems kept with their words; more are counted.
pub(crate) const NAMED: usize = 100;
/// Models told apart, and parameters listed; rows may name any.
const TOLD: usize = 64;
/// Batches filled at the same time, as the batch lane does it.
pub(crate) const OPEN_BATCHES: usize = 16;
/// Schemas remembered as checked: rows of one file nearly always share one.
const SCHEMAS: usize = 16;

/// A check of a whole input by the code the job itself makes its requests with.
///
/// It reads the input once, and once more where ids stand twice; memory does not grow with it. Nothing is sent,
/// and no key is used.
#[derive(Debug)]
pub struct Preflight<'a> {
    spec: &'a JobSpec,
    provider: &'a LaneProvider,
    /// Other providers rows may name.
    others: Vec<LaneProvider>,
    chunk_rows: Option<u64>,
    rules: Option<&'static VendorRules>,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PreflightReport {
    /// The input, as problems name it.
    pub input: String,
    /// Rows of the input, those that cannot be used included.
    pub rows: u64,
    /// Rows that cannot be sent.
    pub bad_rows: u64,
    /// What is wrong with the settings, and so with every row; with any of these no job can be started.
    pub settings: Vec<String>,
    /// What is wrong with rows, in the order of the input. At most 100, those of duplicate ids last among them.
    pub problems: Vec<Problem>,
    /// How many problems there are, those without words included.
    pub problem_count: u64,
    /// Whether the rest of the input could not be told apart into rows, so that `rows` is no count of all.
    pub is_cut: bool,
    /// What rows that can be sent come to, by model; of more than 64 models the rest is under an empty name.
    pub models: BTreeMap<String, ModelLoad>,
    /// How many batches they make; `None` on the realtime lane. Where ids stand twice, as many at most.
    pub batches: Option<u64>,
    /// Rows whose id is that of an earlier one.
    pub repeated_ids: u64,
    /// Bytes of all lines of these batches.
    pub batch_bytes: u64,
    /// Rows with media, whose tokens nothing here can estimate.
    pub media_rows: u64,
    /// Parameters the vendor's documentation does not name, and in how many rows each stands. They are passed
    /// through; at most 64 are told.
    pub unknown_parameters: BTreeMap<String, u64>,
    /// Rows estimated to be longer than their model's context, and the first of them.
    pub long_rows: u64,
    /// The number of the first of them, from 1, its line, and about how many tokens it has of how many.
    pub first_long: Option<(u64, u64, u64, u64)>,
    /// Whether vendor rules were applied.
    pub has_rules: bool,
}

/// What the rows for one model come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelLoad {
    /// Rows.
    pub rows: u64,
    /// About how many input tokens: a quarter of the bytes.
    pub tokens: u64,
    /// The most tokens all answers may have, where every row says so.
    pub max_output_tokens: Option<u64>,
}

/// One thing that is wrong with one row.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The row's number, counted from 1.
    pub row: u64,
    /// The line it begins on, counted from 1.
    pub line: u64,
    /// A stable word for what it is about: `unreadable`, `request`, `endpoint`, `parameter`, `range`, `schema`,
    /// `size` or `duplicate_id`.
    pub code: &'static str,
    /// What is wrong and what to do about it, never what the row holds.
    pub message: String,
}

/// A row that cannot be sent, with its number from 0 and the id its outcome is kept under.
pub(crate) struct BadRow {
    pub(crate) row: u64,
    pub(crate) custom_id: String,
    pub(crate) error: Error,
}

impl<'a> Preflight<'a> {
    /// A check of the input of `spec` for this provider, by the rules of the vendor itself where they are known.
    pub fn new(spec: &'a JobSpec, provider: &'a LaneProvider) -> Self {
        Self {
            spec,
            provider,
            others: Vec::new(),
            chunk_rows: None,
            rules: VendorRules::of(&spec.provider),
        }
    }

    /// Sets the most rows of a batch, 1 or more; without it as many as the provider takes.
    #[must_use]
    pub fn with_chunk_rows(mut self, rows: Option<u64>) -> Self {
        self.chunk_rows = rows;
        self
    }

    /// Sets the vendor's rules; `None` where the server is not the vendor's own, so that none are known.
    #[must_use]
    pub fn with_rules(mut self, rules: Option<&'static VendorRules>) -> Self {
        self.rules = rules;
        self
    }

    /// Sets providers besides the job's own that rows may name, in a batch job.
    #[must_use]
    pub fn with_others(mut self, others: &[Arc<dyn BatchProvider>]) -> Self {
        let others = others.iter().cloned();
        self.others = others.map(LaneProvider::Batch).collect();
        self
    }

    /// Reads the input to its end. Blocks. `scratch` is a folder for the hashes of many ids, which are gone
    /// afterwards.
    ///
    /// # Errors
    /// `ConfigInvalid` where a setting is wrong for every row; `Storage` where the input or `scratch` cannot be
    /// used. What is wrong with rows is no error but in the report.
    pub fn run(&self, scratch: &Path) -> Result<PreflightReport> {
        self.run_with(scratch, &mut |_| Ok(()))
    }

    /// As [`Preflight::run`], and hands over every row that cannot be sent.
    pub(crate) fn run_with(
        &self,
        scratch: &Path,
        bad: &mut dyn FnMut(BadRow) -> Result<()>,
    ) -> Result<PreflightReport> {
        let source = open_source(self.spec)?;
        let builder = request_builder(self.spec)?;
        builder.check(source.header())?;
        let mut ids = builder
            .takes_ids(source.header())
            .then(|| IdCheck::new(scratch));
        let unusable = self.unusable_setting()?;
        let settings = self.setting_faults(unusable.as_deref());
        // The job's own provider comes first.
        let mut checkers = vec![self.checker(self.provider, self.rules, unusable)];
        for other in &self.others {
            let rules = self.rules.and_then(|_| VendorRules::of(other.name()));
            checkers.push(self.checker(other, rules, None));
        }
        let mut report = PreflightReport {
            input: self.spec.input.display().to_string(),
            settings,
            has_rules: self.rules.is_some(),
            ..PreflightReport::default()
        };
        for row in source {
            report.rows += 1;
            let row = match row {
                Ok(row) => row,
                Err(error) => {
                    report.is_cut |= error.ends_source();
                    let problem = unreadable(&report.input, error)?;
                    let bad_row = problem.0.to_bad_row(made_id(problem.0.row - 1), problem.1);
                    report.note_row([problem.0]);
                    bad(bad_row)?;
                    continue;
                }
            };
            let mut faults = Vec::new();
            let mut place = Some(0);
            let request = match builder.build_routed(&row) {
                Ok((named, request)) => {
                    if let Some(named) = named {
                        place = checkers
                            .iter()
                            .position(|(checker, _)| checker.provider.name() == named);
                        if place.is_none() {
                            faults.push((
                                "request",
                                format!(
                                    "its provider {} cannot be used by this job: it has no batches here, or no key",
                                    crate::source::shown(&named)
                                ),
                            ));
                        }
                    }
                    Some(request)
                }
                Err(error) => {
                    faults.push(fault_of(error, "request", row.line())?);
                    None
                }
            };
            let mut group = None;
            if let (Some(request), Some(place)) = (&request, place) {
                let (checker, _) = &mut checkers[place];
                group = checker.check(request, row.number(), &mut faults)?;
            }
            let Some(request) = request.filter(|_| faults.is_empty()) else {
                let id = builder.id_of(&row).unwrap_or_else(|| made_id(row.number()));
                let problems: Vec<Problem> = faults
                    .into_iter()
                    .map(|(code, message)| Problem {
                        row: row.number() + 1,
                        line: row.line(),
                        code,
                        message,
                    })
                    .collect();
                let bad_row = self.bad_row(&problems, id, row.number());
                report.note_row(problems);
                bad(bad_row)?;
                continue;
            };
            if let Some(ids) = &mut ids {
                ids.add(&request.custom_id, row.number())?;
            }
            let (checker, batches) = &mut checkers[place.unwrap_or_default()];
            report.add(&request, &row, checker.rules);
            if let (Some(batches), Some(group)) = (batches, group) {
                batches.add(group, checker.line.len() as u64);
            }
        }
        if let Some(ids) = ids {
            self.tell_repeated(&ids.finish()?, &builder, &mut report, bad)?;
        }
        report.problems.sort_by_key(|problem| problem.row);
        report.models.retain(|_, load| load.rows > 0);
        for (_, batches) in checkers {
            if let Some(batches) = batches {
                report.batch_bytes += batches.bytes;
                *report.batches.get_or_insert(0) += batches.count();
            }
        }
        Ok(report)
    }

    fn limits(&self) -> Option<&'a BatchLimits> {
        limits_of(self.provider)
    }

    /// What the rows of one provider are checked with, and the batches they make.
    fn checker<'p>(
        &self,
        provider: &'p LaneProvider,
        rules: Option<&'static VendorRules>,
        told: Option<String>,
    ) -> (Checker<'p>, Option<Batches<'p>>) {
        let limits = limits_of(provider);
        let checker = Checker {
            rules,
            limits,
            provider,
            schemas: Schemas::default(),
            line: Vec::new(),
            told,
        };
        let batches = limits.map(|limits| Batches::new(limits, self.chunk_rows));
        (checker, batches)
    }

    /// What would be wrong with every row is told once.
    fn setting_faults(&self, unusable: Option<&str>) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some(rules) = self.rules {
            if let (Some(schema), Some(rules)) = (&self.spec.schema, &rules.schema) {
                faults.extend(rules.faults(schema));
            }
            let sampling = &self.spec.sampling;
            let ranges = rules.ranges.iter();
            let ranges = ranges.chain(self.limits().map_or(&[][..], |_| rules.batch_ranges));
            for range in ranges {
                let value = set(sampling, range.name);
                faults.extend(value.and_then(|value| range.fault(&value)));
            }
            for (name, most) in rules.lists {
                if matches!(last(name), "stop" | "stopSequences" | "stop_sequences") {
                    faults.extend(too_many(name, sampling.stop().len(), *most));
                }
            }
            let model = self.spec.model.as_deref().unwrap_or_default();
            if let Some(bound) = rules.output_bounds.first()
                && let Some(given) = sampling.max_output_tokens().map(u64::from)
            {
                faults.extend(too_long(rules, model, bound, given));
            }
        }
        if faults.is_empty() {
            faults.extend(unusable.map(str::to_owned));
        }
        faults
    }

    /// Why no request of the prompt can be a line of a batch, where that lies with the settings. Direct calls are
    /// only written when they are made.
    fn unusable_setting(&self) -> Result<Option<String>> {
        let LaneProvider::Batch(provider) = self.provider else {
            return Ok(None);
        };
        if self.spec.prompt.is_none() {
            return Ok(None);
        }
        let mut chat = Chat::new([Message::user("a")]);
        if let Some(schema) = &self.spec.schema {
            chat = chat.with_response_format(ResponseFormat::JsonSchema {
                name: "a".to_owned(),
                schema: schema.clone(),
                strict: true,
            });
        }
        let model = self.spec.model.clone().unwrap_or_default();
        let request = Request::new("a", model, Payload::Chat(chat))
            .with_sampling(self.spec.sampling.clone())
            .with_extra(self.spec.extra.clone());
        let id = WireId::new(WirePrefix::of("check", 1, 1), 0).to_string();
        match provider.encode(&request, &id, &mut Vec::new()) {
            Ok(()) => Ok(None),
            Err(error) => fault_of(error, "request", 0).map(|(_, what)| Some(what)),
        }
    }

    /// Reads the input once more, for the lines and ids of these rows.
    fn tell_repeated(
        &self,
        repeated: &Repeated,
        builder: &RequestBuilder,
        report: &mut PreflightReport,
        bad: &mut dyn FnMut(BadRow) -> Result<()>,
    ) -> Result<()> {
        if repeated.rows.is_empty() {
            return Ok(());
        }
        let mut lines: BTreeMap<u64, u64> = repeated.named.values().map(|row| (*row, 0)).collect();
        for row in open_source(self.spec)? {
            let Ok(row) = row else {
                continue;
            };
            if let Some(line) = lines.get_mut(&row.number()) {
                *line = row.line();
            }
            if !repeated.rows.contains(row.number()) {
                continue;
            }
            // The id itself is not told: it may be a prompt.
            let message = match repeated
                .named
                .get(&row.number())
                .and_then(|first| lines.get(first))
            {
                Some(first) => format!(
                    "the id of this row is that of line {first} too; give every row its own"
                ),
                None => "the id of this row is that of an earlier one too; give every row its own"
                    .to_owned(),
            };
            let problem = Problem {
                row: row.number() + 1,
                line: row.line(),
                code: "duplicate_id",
                message,
            };
            let id = builder.id_of(&row).unwrap_or_else(|| made_id(row.number()));
            let problems = [problem];
            let bad_row = self.bad_row(&problems, id, row.number());
            report.repeated_ids += 1;
            report.forget(builder, &row);
            report.note_row(problems);
            bad(bad_row)?;
        }
        Ok(())
    }

    fn bad_row(&self, problems: &[Problem], custom_id: String, row: u64) -> BadRow {
        let place = problems
            .first()
            .map(|problem| format!("{}:{}", self.spec.input.display(), problem.line))
            .unwrap_or_default();
        let words: Vec<&str> = problems.iter().map(|p| p.message.as_str()).collect();
        let message = format!("{place}: {}", words.join("; "));
        BadRow {
            row,
            custom_id,
            error: Error::new(ErrorKind::InvalidRequest, message),
        }
    }
}

impl PreflightReport {
    /// Whether every row can be sent.
    pub fn is_ok(&self) -> bool {
        self.problem_count == 0 && self.settings.is_empty()
    }

    /// Whether a job can be started that leaves out the rows that cannot be sent.
    pub fn can_skip(&self) -> bool {
        !self.is_cut && self.settings.is_empty()
    }

    /// Rows that can be sent.
    pub fn good_rows(&self) -> u64 {
        self.rows - self.bad_rows
    }

    /// About how many input tokens all rows that can be sent have together.
    pub fn tokens(&self) -> u64 {
        self.models
            .values()
            .fold(0, |sum: u64, load| sum.saturating_add(load.tokens))
    }

    /// The problem as a line for people.
    pub fn shown<'p>(&'p self, problem: &'p Problem) -> impl fmt::Display + 'p {
        fmt::from_fn(move |f| write!(f, "{}:{}: {}", self.input, problem.line, problem.message))
    }

    /// The report as the error that stops a job from being started.
    pub(crate) fn to_error(&self) -> Error {
        if !self.settings.is_empty() {
            let message = format!(
                "use these settings, which the provider does not take; nothing was sent:\n  {}",
                self.settings.join("\n  ")
            );
            return Error::new(ErrorKind::ConfigInvalid, message);
        }
        let mut message = format!("use every row of {}; nothing was sent:", self.input);
        for problem in &self.problems {
            message.push_str(&format!("\n  {}", self.shown(problem)));
        }
        let more = self.problem_count - self.problems.len() as u64;
        if more > 0 {
            message.push_str(&format!("\n  and {more} more"));
        }
        Error::new(ErrorKind::InvalidRequest, message)
    }

    /// Notes what is wrong with one row.
    fn note_row(&mut self, problems: impl IntoIterator<Item = Problem>) {
        self.bad_rows += 1;
        for problem in problems {
            self.problem_count += 1;
            if self.problems.len() < NAMED {
                self.problems.push(problem);
            }
        }
    }

    fn add(&mut self, request: &Request, row: &Row, rules: Option<&VendorRules>) {
        let tokens = request.estimated_input_tokens();
        let key = if self.models.len() < TOLD || self.models.contains_key(&request.model) {
            request.model.as_str()
        } else {
            ""
        };
        let most = longest_answer(request);
        let load = match self.models.get_mut(key) {
            Some(load) => load,
            None => self.models.entry(key.to_owned()).or_insert(ModelLoad {
                max_output_tokens: Some(0),
                ..ModelLoad::default()
            }),
        };
        load.rows += 1;
        load.tokens = load.tokens.saturating_add(tokens);
        load.max_output_tokens = load
            .max_output_tokens
            .zip(most)
            .map(|(sum, most)| sum.saturating_add(most));
        if has_media(request) {
            self.media_rows += 1;
            return;
        }
        let Some(rules) = rules else {
            return;
        };
        if let Some(context) = rules.context(&request.model)
            && tokens > context
        {
            self.long_rows += 1;
            self.first_long
                .get_or_insert((row.number() + 1, row.line(), tokens, context));
        }
        if let Payload::Raw(raw) = &request.payload
            && let Some((_, known)) = rules
                .parameters
                .iter()
                .find(|(endpoint, _)| *endpoint == raw.endpoint)
        {
            let body: Body<'_> = serde_json::from_str(raw.body.get()).unwrap_or_default();
            for (name, _) in body.0.iter().filter(|(name, _)| !known.contains(&&**name)) {
                if let Some(rows) = self.unknown_parameters.get_mut(&**name) {
                    *rows += 1;
                } else if self.unknown_parameters.len() < TOLD {
                    self.unknown_parameters.insert(name.to_string(), 1);
                }
            }
        }
    }
}

impl Problem {
    fn to_bad_row(&self, custom_id: String, error: Error) -> BadRow {
        BadRow {
            row: self.row - 1,
            custom_id,
            error,
        }
    }
}

/// The row, unless it has its outcome: one that cannot be read was given its own before the job began.
pub(crate) fn unfinished(row: Result<Row, RowError>, finished: &RowSet) -> Result<Option<Row>> {
    let number = match &row {
        Ok(row) => row.number(),
        Err(error) => error.number(),
    };
    if finished.contains(number) {
        return Ok(None);
    }
    row.map(Some).map_err(Error::from)
}

fn limits_of(provider: &LaneProvider) -> Option<&BatchLimits> {
    match provider {
        LaneProvider::Batch(provider) => provider.capability().batch.as_ref(),
        LaneProvider::Realtime(_) => None,
    }
}

/// The id of a row that brings none.
fn made_id(row: u64) -> String {
    format!("row-{}", row + 1)
}

/// A problem of a row that cannot be read; what is wrong with the disk is not the row's fault.
fn unreadable(input: &str, error: RowError) -> Result<(Problem, Error)> {
    if error.error().kind() == ErrorKind::Storage {
        return Err(error.into());
    }
    let place = format!("read {input}, line {}: ", error.line());
    let message = error.error().message();
    let problem = Problem {
        row: error.number() + 1,
        line: error.line(),
        code: "unreadable",
        message: message.strip_prefix(&place).unwrap_or(message).to_owned(),
    };
    Ok((problem, error.into()))
}

/// A word for what it is about, and what is wrong.
type Fault = (&'static str, String);

/// What is wrong with a row; what is wrong with the disk or the settings is not its fault.
fn fault_of(error: Error, code: &'static str, line: u64) -> Result<Fault> {
    if matches!(
        error.kind(),
        ErrorKind::Storage | ErrorKind::ConfigInvalid | ErrorKind::Unexpected
    ) {
        return Err(error);
    }
    let place = format!("make the request of line {line}: ");
    let message = error.message();
    let message = message.strip_prefix(&place).unwrap_or(message);
    Ok((code, message.to_owned()))
}

/// Rows that may share a batch, by endpoint and model.
type Group = (String, String);

/// What each request is checked with.
struct Checker<'a> {
    rules: Option<&'static VendorRules>,
    limits: Option<&'a BatchLimits>,
    provider: &'a LaneProvider,
    schemas: Schemas,
    /// The request as a line of a batch.
    line: Vec<u8>,
    /// What is wrong with the settings, in the provider's words: said once, not of every row.
    told: Option<String>,
}

impl Checker<'_> {
    /// Notes what the vendor would refuse; returns where the request goes as a line of a batch, if it can.
    fn check(
        &mut self,
        request: &Request,
        row: u64,
        faults: &mut Vec<Fault>,
    ) -> Result<Option<Group>> {
        let body = match &request.payload {
            Payload::Raw(raw) => serde_json::from_str(raw.body.get()).unwrap_or_default(),
            _ => Body::default(),
        };
        self.check_parameters(request, &body, faults);
        self.check_schemas(request, &body, faults);
        let provider = match self.provider {
            LaneProvider::Batch(provider) => provider,
            LaneProvider::Realtime(provider) => {
                let endpoints = &provider.capability().realtime_endpoints;
                check_direct(request, &body, endpoints, faults);
                return Ok(None);
            }
        };
        let endpoint = match provider.endpoint(request) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                faults.push(fault_of(error, "endpoint", 0)?);
                return Ok(None);
            }
        };
        if let Some(limits) = self.limits {
            if let Err(error) = limits.check_endpoint(endpoint) {
                faults.push(fault_of(error, "endpoint", 0)?);
            }
            for name in limits.unsupported {
                if asks_for(request, &body, name) {
                    let what = format!("{name} cannot be asked for in a batch; leave it out");
                    faults.push(("parameter", what));
                }
            }
        }
        // The same prefix length as every attempt has, so that the line has the length it will have.
        let id = WireId::new(WirePrefix::of("check", 1, 1), row).to_string();
        if let Some(limits) = self.limits
            && !limits.custom_id.allows(&id)
        {
            let what = format!("no id of ours obeys the vendor's rule for ids: {id}");
            return Err(Error::new(ErrorKind::Unexpected, what));
        }
        self.line.clear();
        match provider.encode(request, &id, &mut self.line) {
            Ok(()) => {}
            // What was told already need not be told in the provider's words too.
            Err(_) if !faults.is_empty() => return Ok(None),
            Err(error) => {
                let fault = fault_of(error, "request", 0)?;
                if self.told.as_ref() != Some(&fault.1) {
                    faults.push(fault);
                }
                return Ok(None);
            }
        }
        let Some(limits) = self.limits else {
            return Ok(None);
        };
        let bytes = self.line.len() as u64 + 1;
        if bytes > limits.max_bytes {
            let what = format!(
                "its {bytes} bytes are more than the {} a whole batch may have; make it shorter",
                limits.max_bytes
            );
            faults.push(("size", what));
        }
        Ok(Some((endpoint.to_owned(), request.model.clone())))
    }

    fn check_parameters(&self, request: &Request, body: &Body<'_>, faults: &mut Vec<Fault>) {
        let Some(rules) = self.rules else {
            return;
        };
        if let Payload::Raw(raw) = &request.payload {
            let required = rules.required.iter();
            for (_, names) in required.filter(|(endpoint, _)| *endpoint == raw.endpoint) {
                for name in *names {
                    if body.get(name).is_none_or(|json| json.trim() == "null") {
                        faults.push((
                            "parameter",
                            format!("{name} is missing; write it into the body"),
                        ));
                    }
                }
            }
        }
        for (name, why) in rules.refused {
            if asks_for(request, body, name) {
                faults.push(("parameter", format!("{name} must be left out: {why}")));
            }
        }
        let batch_ranges = match self.provider {
            LaneProvider::Batch(_) => rules.batch_ranges,
            LaneProvider::Realtime(_) => &[],
        };
        // One that is narrower on this lane takes the place of the general one.
        let ranges = rules.ranges.iter().filter(|range| {
            let mut narrower = batch_ranges.iter();
            !narrower.any(|other| other.name == range.name)
        });
        for range in ranges.chain(batch_ranges) {
            let value = given(request, body, range.name);
            if let Some(what) = value.and_then(|value| range.fault(&value)) {
                faults.push(("range", what));
            }
        }
        for (name, most) in rules.lists {
            let entries = match name.contains('.') {
                true => given(request, body, name).and_then(|list| Some(list.as_array()?.len())),
                // The lists at the top may be the whole conversation, and are only counted.
                false => body
                    .get(name)
                    .and_then(|json| serde_json::from_str::<Vec<de::IgnoredAny>>(json).ok())
                    .map(|list| list.len())
                    .or_else(|| Some(request.extra.get(*name)?.as_array()?.len())),
            };
            if let Some(what) = entries.and_then(|entries| too_many(name, entries, *most)) {
                faults.push(("range", what));
            }
        }
        for name in rules.output_bounds {
            let bound = given(request, body, name).and_then(|bound| bound.as_u64());
            if let Some(what) = bound.and_then(|bound| too_long(rules, &request.model, name, bound))
            {
                faults.push(("range", what));
            }
        }
    }

    fn check_schemas(&mut self, request: &Request, body: &Body<'_>, faults: &mut Vec<Fault>) {
        let Some((rules, schema_rules)) = self.rules.and_then(|r| Some((r, r.schema.as_ref()?)))
        else {
            return;
        };
        if let Payload::Chat(chat) = &request.payload {
            // That of the job's own settings was checked once for all rows.
            if let ResponseFormat::JsonSchema { .. } = chat.response_format {
                return;
            }
        }
        for place in rules.schema_places {
            let Some(json) = place.path.first().and_then(|key| body.get(key)) else {
                continue;
            };
            let places = rules
                .schema_places
                .iter()
                .filter(|other| other.path.first() == place.path.first());
            // Each key is looked through once for all its places.
            if !std::ptr::eq(place, places.clone().next().unwrap_or(place)) {
                continue;
            }
            for what in self.schemas.faults(json, || {
                let value: Value = serde_json::from_str(json).unwrap_or_default();
                let mut found = Vec::new();
                for place in places {
                    place.each(&value, &place.path[1..], &mut |schema| {
                        found.extend(schema_rules.faults(schema));
                    });
                }
                found
            }) {
                faults.push(("schema", what));
            }
        }
    }
}

impl crate::rules::SchemaPlace {
    /// Visits every enforced schema in `value`, which is below the first key of the path.
    fn each(&self, value: &Value, path: &[&str], visit: &mut dyn FnMut(&Value)) {
        match path {
            [] => {
                let is_strict = self
                    .strict
                    .is_none_or(|key| value.get(key) == Some(&Value::Bool(true)));
                if let Some(schema) = value.get(self.schema).filter(|_| is_strict) {
                    visit(schema);
                }
            }
            ["[]", rest @ ..] => {
                for entry in value.as_array().into_iter().flatten() {
                    self.each(entry, rest, visit);
                }
            }
            [key, rest @ ..] => {
                if let Some(value) = value.get(key) {
                    self.each(value, rest, visit);
                }
            }
        }
    }
}

/// What was found in the last few JSON texts that hold schemas, by their hash.
#[derive(Default)]
struct Schemas(Vec<([u8; 32], Vec<String>)>);

impl Schemas {
    fn faults(&mut self, json: &str, look: impl FnOnce() -> Vec<String>) -> Vec<String> {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, json.as_bytes()).as_ref());
        if let Some((_, faults)) = self.0.iter().find(|(known, _)| *known == hash) {
            return faults.clone();
        }
        let faults = look();
        if self.0.len() == SCHEMAS {
            self.0.remove(0);
        }
        self.0.push((hash, faults.clone()));
        faults
    }
}

/// The top of a JSON object: its keys, and its values as they are written.
#[derive(Default)]
struct Body<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl Body<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(key, _)| key == name)?;
        Some(value)
    }
}

impl<'de> Deserialize<'de> for Body<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> de::Visitor<'de> for Entries {
            type Value = Body<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Body<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    entries.push((key, map.next_value::<&'de RawValue>()?.get()));
                }
                Ok(Body(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// What a direct call cannot be, which the provider itself finds only when it is made.
fn check_direct(request: &Request, body: &Body<'_>, endpoints: &[String], faults: &mut Vec<Fault>) {
    let Payload::Raw(raw) = &request.payload else {
        return;
    };
    // Services of OpenAI's protocol are asked whatever a row names; the others have their own paths alone.
    let is_open = endpoints.iter().any(|known| known == CHAT);
    if !is_open && !endpoints.contains(&raw.endpoint) {
        let what = format!(
            "no direct call can be for the endpoint {:?}, only for {}",
            raw.endpoint,
            endpoints.join(", ")
        );
        faults.push(("endpoint", what));
    }
    for name in ["stream", "background"] {
        if asks_for(request, body, name) {
            let what = format!("{name} would change how the answer comes; leave it out");
            faults.push(("parameter", what));
        }
    }
}

/// Where the answers of OpenAI's protocol come from.
const CHAT: &str = "/v1/chat/completions";

/// Whether a parameter at the top is asked for: it is there, and neither `false` nor `null`.
fn asks_for(request: &Request, body: &Body<'_>, name: &str) -> bool {
    let asks = |json: &str| !matches!(json.trim(), "false" | "null");
    let extra = request.extra.get(name);
    body.get(name).is_some_and(asks) || extra.is_some_and(|value| asks(&value.to_string()))
}

/// A parameter of a row's own body or of the extra fields. What no number can hold, such as `1e400`, is `false`, which
/// no rule takes.
fn given(request: &Request, body: &Body<'_>, name: &str) -> Option<Value> {
    let mut path = name.split('.');
    let first = path.next()?;
    let top = match body.get(first) {
        Some(json) => serde_json::from_str(json).unwrap_or(Value::Bool(false)),
        None => request.extra.get(first)?.clone(),
    };
    path.try_fold(top, |mut value, key| value.get_mut(key).map(Value::take))
}

/// A parameter of the job's settings, which every vendor spells alike but for its case.
fn set(sampling: &Sampling, name: &str) -> Option<Value> {
    match last(name) {
        "temperature" => sampling.temperature().map(Value::from),
        "top_p" | "topP" => sampling.top_p().map(Value::from),
        "top_k" | "topK" => sampling.top_k().map(Value::from),
        "frequency_penalty" | "frequencyPenalty" => sampling.frequency_penalty().map(Value::from),
        "presence_penalty" | "presencePenalty" => sampling.presence_penalty().map(Value::from),
        "seed" => sampling.seed().map(Value::from),
        _ => None,
    }
}

/// The last key of a name with dots.
fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn too_many(name: &str, entries: usize, most: usize) -> Option<String> {
    (entries > most).then(|| format!("{name} has {entries} entries, and at most {most} are taken"))
}

fn too_long(rules: &VendorRules, model: &str, name: &str, bound: u64) -> Option<String> {
    let most = rules.output(model)?;
    (bound > most).then(|| format!("{name} may be at most {most} for this model"))
}

/// The most tokens the answer may have, where the settings or the row say so.
pub(crate) fn longest_answer(request: &Request) -> Option<u64> {
    let Payload::Raw(raw) = &request.payload else {
        return request.sampling.max_output_tokens().map(u64::from);
    };
    let body: Body<'_> = serde_json::from_str(raw.body.get()).unwrap_or_default();
    let count = |name: &str| given(request, &body, name)?.as_u64();
    let bound = OUTPUT_BOUNDS.iter().find_map(|name| count(name))?;
    // Every answer to the row may be that long.
    let answers = ANSWERS.iter().find_map(|name| count(name)).unwrap_or(1);
    Some(bound.saturating_mul(answers.max(1)))
}

/// How vendors spell the most tokens of an answer, and how many answers are asked for.
const OUTPUT_BOUNDS: [&str; 4] = [
    "max_completion_tokens",
    "max_tokens",
    "max_output_tokens",
    "generationConfig.maxOutputTokens",
];
const ANSWERS: [&str; 2] = ["n", "generationConfig.candidateCount"];

/// Whether there is something in it that is no text.
fn has_media(request: &Request) -> bool {
    match &request.payload {
        Payload::Raw(raw) => {
            let body = raw.body.get();
            [
                "\"image_url\"",
                "\"input_image\"",
                "\"input_audio\"",
                "\"base64\"",
                "\"file_id\"",
                "\"file_data\"",
                "\"media_type\"",
                "\"inlineData\"",
                "\"inline_data\"",
                "\"fileData\"",
            ]
            .iter()
            .any(|mark| body.contains(mark))
        }
        _ => false,
    }
}

/// How many batches the rows make, by the rule the batch lane fills them by.
struct Batches<'a> {
    limits: &'a BatchLimits,
    max_requests: u64,
    /// Rows and bytes of those that are being filled.
    open: BTreeMap<Group, (u64, u64)>,
    closed: u64,
    bytes: u64,
}

impl<'a> Batches<'a> {
    fn new(limits: &'a BatchLimits, chunk_rows: Option<u64>) -> Self {
        Self {
            limits,
            max_requests: chunk_rows
                .unwrap_or(u64::MAX)
                .clamp(1, limits.max_requests.max(1)),
            open: BTreeMap::new(),
            closed: 0,
            bytes: 0,
        }
    }

    fn add(&mut self, group: Group, line: u64) {
        self.bytes += line + 1;
        if !self.open.contains_key(&group) && self.open.len() >= OPEN_BATCHES {
            let fullest = self.open.iter().max_by_key(|(_, (_, bytes))| *bytes);
            if let Some(fullest) = fullest.map(|(group, _)| group.clone()) {
                self.open.remove(&fullest);
                self.closed += 1;
            }
        }
        let (rows, bytes) = self.open.entry(group).or_default();
        if *rows >= self.max_requests || *bytes + line + 1 > self.limits.max_bytes && *rows > 0 {
            self.closed += 1;
            (*rows, *bytes) = (0, 0);
        }
        *rows += 1;
        *bytes += line + 1;
    }

    fn count(&self) -> u64 {
        self.closed + self.open.len() as u64
    }
}

impl PreflightReport {
    /// Takes a row that will not be sent out of what the rows come to.
    fn forget(&mut self, builder: &RequestBuilder, row: &Row) {
        let Ok(request) = builder.build(row) else {
            return;
        };
        let key = if self.models.contains_key(&request.model) {
            request.model.as_str()
        } else {
            ""
        };
        if let Some(load) = self.models.get_mut(key) {
            load.rows = load.rows.saturating_sub(1);
            load.tokens = load.tokens.saturating_sub(request.estimated_input_tokens());
            let most = longest_answer(&request);
            load.max_output_tokens = load
                .max_output_tokens
                .zip(most)
                .map(|(sum, most)| sum.saturating_sub(most));
        }
    }
}
