//! Rows into sealed chunks: those of the input first, then those that came back without a final outcome.

use super::{
    super::{
        Given, JobProgress, JobSpec, locked, open_source,
        policy::{Judge, Policy},
        request_builder,
    },
    Providers,
    desk::Desk,
    merging::Left,
};
use crate::preflight::{OPEN_BATCHES, longest_answer};
use batchwright_core::{
    BatchLimits, BatchProvider, Error, ErrorKind, Lane, ListMatch, Money, PriceTable, Request,
    Result, Timestamp, Usage, WireId, WirePrefix,
};
use batchwright_ledger::{ChunkState, ChunkWriter, Ledger, RowSet};
use batchwright_router::ChunkJob;
use std::{
    collections::{BTreeMap, HashSet},
    mem,
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, sync_channel},
    },
    thread,
    time::SystemTime,
};
use tokio::sync::mpsc;

/// Chunks written at the same time, one for each provider, endpoint and model; of more, the fullest is sealed.
const OPEN_CHUNKS: usize = OPEN_BATCHES;
/// Rows that are handed over together by the thread that reads them, in rows and in bytes, and how often that is done
/// before the first are taken: some hundred kilobytes at once, or a few rows where they are long.
const ASK_ROWS: usize = 256;
const ASK_BYTES: usize = 64 * 1024;
const ASK_BATCHES: usize = 1;

/// Puts rows into chunks and hands the chunks to the router.
pub(super) struct Sealing {
    pub(super) ledger: Ledger,
    pub(super) spec: JobSpec,
    pub(super) job: String,
    pub(super) providers: Providers,
    pub(super) policy: Policy,
    pub(super) judge: Judge,
    pub(super) prices: Arc<PriceTable>,
    pub(super) rows: u64,
    /// Rows that have their outcome.
    pub(super) given: Given,
    pub(super) progress: Arc<JobProgress>,
    pub(super) desk: Arc<Desk>,
    pub(super) chunks: mpsc::Sender<Result<ChunkJob>>,
    pub(super) next: Mutex<u32>,
    pub(super) sizes: Mutex<Sizes>,
}

/// Rows that may share a batch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    provider: String,
    endpoint: String,
    model: String,
    round: u32,
    refusals: u32,
    /// Tells parts of a halved chunk apart.
    part: (u32, u8),
}

impl Group {
    /// Of rows that are sent for the first time. Always one model, also where the provider would take several: so every
    /// outcome names the model that was asked, and a batch that is refused for its model fails no row of another.
    fn of(provider: &str, endpoint: &str, model: &str) -> Self {
        Self {
            provider: provider.to_owned(),
            endpoint: endpoint.to_owned(),
            model: model.to_owned(),
            round: 1,
            refusals: 0,
            part: (0, 0),
        }
    }

    /// Whether it was made of these three.
    fn is_of(&self, provider: &str, endpoint: &str, model: &str) -> bool {
        self.provider == provider && self.endpoint == endpoint && self.model == model
    }
}

/// What a row of the input asks for.
struct Ask {
    row: u64,
    /// The provider it names, where it names one.
    named: Option<String>,
    request: Request,
}

/// A chunk being written.
struct Open {
    number: u32,
    prefix: WirePrefix,
    writer: ChunkWriter,
    load: Load,
}

/// The numbers of requests this job's chunks hold, where the provider's list tells by that number alone whose a batch is.
/// No two are to hold as many.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    taken: HashSet<u64>,
    /// The largest one that is free, by the most a chunk may hold.
    free: Option<(u64, u64)>,
}

impl Sizes {
    fn take(&mut self, requests: u64) {
        self.taken.insert(requests);
        self.free = None;
    }

    /// Whether a chunk of `requests` is to be sealed as it is. The first one holds `most`, each later one less, down to
    /// half of it, and then from the top again. One that is nearly full by its bytes, which all chunks of rows of one
    /// size are at the same number, is sealed at the first number that is free.
    fn ends(&mut self, requests: u64, most: u64, nearly: bool) -> bool {
        if requests == 0 {
            return false;
        }
        let free = match self.free {
            Some((of, free)) if of == most => free,
            _ => {
                let mut sizes = (most / 2 + 1..=most).rev();
                let free = sizes.find(|size| !self.taken.contains(size));
                let free = free.unwrap_or_else(|| {
                    self.taken.clear();
                    most
                });
                self.free = Some((most, free));
                free
            }
        };
        requests >= free || (nearly && !self.taken.contains(&requests))
    }
}

/// What requests are estimated to come to.
#[derive(Clone, Copy, Default)]
struct Load {
    tokens: u64,
    /// Zero where no bound on it is asked for.
    cost: Money,
}

/// `Break` where nobody takes chunks any more.
type Flow = Result<ControlFlow<()>>;

const GO_ON: Flow = Ok(ControlFlow::Continue(()));

macro_rules! flow {
    ($flow:expr) => {
        if $flow?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    };
}

impl Sealing {
    pub(super) fn run(&self) -> Result<()> {
        self.seal_all().map(|_| ())
    }

    fn seal_all(&self) -> Flow {
        let mut unmerged = Vec::new();
        let now = Timestamp::from(SystemTime::now());
        for chunk in self.ledger.chunks()? {
            *locked(&self.next) = chunk.chunk + 1;
            if chunk.round == 1 && chunk.refusals == 0 {
                self.progress.update(|state| state.sealed += chunk.requests);
            }
            if !chunk.phase.is_merged() {
                unmerged.push(chunk.chunk);
                flow!(self.hand_over(chunk.chunk, chunk.refusals > 0));
            } else if chunk.is_watched(now) {
                // Its rows have ended; a batch that it does not know of may still show, or run.
                flow!(self.have_watched(&chunk));
            }
            if self.is_known_by_size(&chunk.provider) {
                locked(&self.sizes).take(chunk.requests);
            }
        }
        let mut covered = locked(&self.given).clone();
        if covered.len() < self.rows {
            for chunk in unmerged {
                for row in self.ledger.chunk_rows(chunk)? {
                    covered.insert(row?.0);
                }
            }
        }
        // Chunks that were merged and of which nobody sealed what is left (P20). The newest first: a row may be left
        // of several, and goes on from the last one.
        if covered.len() < self.rows {
            let left: Vec<u32> = Left::all(&self.ledger)?
                .into_iter()
                .map(|(chunk, _)| chunk)
                .rev()
                .collect();
            flow!(self.seal_left(&left, Some(&mut covered)));
        }
        if covered.len() < self.rows && !self.judge.is_late() {
            flow!(self.seal_input(&covered));
        }
        self.desk.sealed();
        loop {
            let ended = self.desk.wait();
            if ended.is_empty() {
                return GO_ON;
            }
            flow!(self.seal_left(&ended, None));
        }
    }

    /// Seals every row of the input that is not covered. A thread beside this one reads the rows.
    fn seal_input(&self, covered: &RowSet) -> Flow {
        let builder = request_builder(&self.spec)?;
        let mut source = open_source(&self.spec)?;
        let (sender, asks) = sync_channel(ASK_BATCHES);
        thread::scope(|scope| {
            // It ends at the end of the input, or when nobody takes its rows any more.
            scope.spawn(move || {
                let mut batch = Vec::new();
                let mut bytes = 0;
                while let Some(row) = source.next_unless(|row| covered.contains(row)) {
                    let ask = row.map_err(Error::from).and_then(|row| {
                        bytes += row.len_bytes();
                        let (named, request) = builder.build_routed(&row)?;
                        Ok(Ask {
                            row: row.number(),
                            named,
                            request,
                        })
                    });
                    let ends = ask.is_err();
                    batch.push(ask);
                    if ends || batch.len() >= ASK_ROWS || bytes >= ASK_BYTES {
                        bytes = 0;
                        if sender.send(mem::take(&mut batch)).is_err() || ends {
                            return;
                        }
                    }
                }
                // Where it fails, nobody wants them.
                let _ = sender.send(batch);
            });
            self.seal_asked(asks)
        })
    }

    /// Seals what rows ask for.
    fn seal_asked(&self, asks: Receiver<Vec<Result<Ask>>>) -> Flow {
        let mut open: BTreeMap<Group, Open> = BTreeMap::new();
        let mut line = Vec::new();
        let mut last: Option<Group> = None;
        for ask in asks.into_iter().flatten() {
            let Ask {
                row,
                named,
                request,
            } = ask?;
            if self.judge.is_late() {
                return GO_ON;
            }
            let provider = self.provider(named.as_deref().unwrap_or(&self.spec.provider))?;
            let endpoint = provider.endpoint(&request)?;
            let group = match last.take() {
                Some(last) if last.is_of(provider.name(), endpoint, &request.model) => last,
                _ => Group::of(provider.name(), endpoint, &request.model),
            };
            flow!(self.make_room(&group, &mut open));
            if !open.contains_key(&group) {
                open.insert(group.clone(), self.begin(&group)?);
            }
            let mut chunk = open.get_mut(&group).expect("it was just put there");
            encode(provider, &request, chunk, row, &mut line)?;
            let load = self.load(provider.name(), &request)?;
            if self.is_full(chunk, line.len() as u64, limits(provider)?, load) {
                if let Some(full) = open.remove(&group) {
                    flow!(self.seal(&group, full));
                }
                // What ended meanwhile goes on before more is begun.
                flow!(self.seal_left(&self.desk.take(), None));
                chunk = open.entry(group.clone()).or_insert(self.begin(&group)?);
                encode(provider, &request, chunk, row, &mut line)?;
            }
            chunk.writer.push(row, &request.custom_id, &line)?;
            chunk.load.tokens += load.tokens;
            chunk.load.cost = chunk.load.cost + load.cost;
            self.progress.update(|state| state.sealed += 1);
            last = Some(group);
        }
        self.seal_open(open)
    }

    /// Seals what is left of these chunks, in batches of their own: the lines are those that were sent before, under
    /// other ids. At the start of a run `covered` are the rows that are in later chunks.
    fn seal_left(&self, chunks: &[u32], mut covered: Option<&mut RowSet>) -> Flow {
        let goes_direct = self.judge.goes_direct();
        if goes_direct && covered.is_none() {
            return GO_ON;
        }
        let mut open: BTreeMap<Group, Open> = BTreeMap::new();
        for chunk in chunks {
            let state = self.ledger.chunk(*chunk)?;
            let Some(state) = state.filter(|state| state.phase.is_merged()) else {
                continue;
            };
            let Some(left) = Left::of(&self.ledger, *chunk)? else {
                continue;
            };
            let provider = self.provider(&state.provider)?;
            let (round, refusals) = match left.refused {
                true => (state.round, state.refusals + 1),
                false => (state.round + 1, 0),
            };
            let mut rows: RowSet = RowSet::new();
            for row in self.ledger.chunk_rows(*chunk)? {
                let row = row?.0;
                let is_taken = match &covered {
                    Some(covered) => covered.contains(row),
                    None => locked(&self.given).contains(row),
                };
                if !is_taken {
                    rows.insert(row);
                }
            }
            if let (true, Some(covered)) = (goes_direct, &mut covered) {
                covered.extend(rows.iter());
                continue;
            }
            let half = rows.len().div_ceil(2);
            let mut done = 0;
            for line in self.ledger.chunk_lines(*chunk)? {
                let line = line?;
                if !rows.contains(line.row) {
                    continue;
                }
                let group = Group {
                    provider: state.provider.clone(),
                    endpoint: state.endpoint.clone(),
                    model: state.model.clone(),
                    round,
                    refusals,
                    part: match left.halve {
                        true => (*chunk, u8::from(done >= half)),
                        false => (0, 0),
                    },
                };
                done += 1;
                flow!(self.make_room(&group, &mut open));
                let mut into = match open.remove(&group) {
                    Some(into) => into,
                    None => self.begin(&group)?,
                };
                let bytes = line.line.len() as u64;
                if self.is_full(&into, bytes, limits(provider)?, Load::default()) {
                    flow!(self.seal(&group, into));
                    into = self.begin(&group)?;
                }
                into.writer.push_copied(&line)?;
                if let Some(covered) = &mut covered {
                    covered.insert(line.row);
                }
                open.insert(group, into);
            }
        }
        self.seal_open(open)
    }

    fn provider(&self, name: &str) -> Result<&Arc<dyn BatchProvider>> {
        self.providers.get(name).ok_or_else(|| {
            let message = format!("go on: chunks were sealed for {name}, which is not there now");
            Error::new(ErrorKind::ConfigInvalid, message)
        })
    }

    /// Whether a line of `bytes` and `load` more is past what the provider takes, or the caller allows. One row alone
    /// always fits: whether that is so is the provider's to say.
    fn is_full(&self, chunk: &Open, bytes: u64, limits: &BatchLimits, load: Load) -> bool {
        let rows = self.policy.chunk_rows.unwrap_or(u64::MAX);
        if limits.list_match.contains(&ListMatch::Requests) {
            let most = rows.clamp(1, limits.max_requests.max(1));
            let nearly = chunk.writer.bytes() + bytes + limits.max_bytes / 20 > limits.max_bytes;
            if locked(&self.sizes).ends(chunk.writer.requests(), most, nearly) {
                return true;
            }
        }
        let most_tokens = self.policy.chunk_tokens.unwrap_or(u64::MAX);
        let most_cost = self.policy.chunk_cost.unwrap_or(u64::MAX);
        let cost = chunk.load.cost + load.cost;
        chunk.writer.requests() >= rows.clamp(1, limits.max_requests.max(1))
            || chunk.writer.requests() > 0
                && (chunk.writer.bytes() + bytes + 1 > limits.max_bytes
                    || chunk.load.tokens.saturating_add(load.tokens) > most_tokens
                    || cost.as_picodollars() > most_cost)
    }

    /// What a request is estimated to come to, its answer included where it has a bound.
    fn load(&self, provider: &str, request: &Request) -> Result<Load> {
        let tokens = request.estimated_input_tokens();
        if self.policy.chunk_cost.is_none() {
            return Ok(Load {
                tokens,
                cost: Money::ZERO,
            });
        }
        let usage = Usage::of(tokens, longest_answer(request).unwrap_or(0));
        let price = self.prices.price(provider, &request.model);
        let cost = price.and_then(|price| price.cost(&usage, Lane::Batch));
        let cost = cost.ok_or_else(|| {
            let message = format!(
                "keep batches below a cost: no batch price of {provider}:{} is known; give one, or bound rows or \
                 tokens instead",
                request.model
            );
            Error::new(ErrorKind::ConfigInvalid, message)
        })?;
        Ok(Load { tokens, cost })
    }

    /// Whether a batch of this provider is known by the number of its requests alone.
    fn is_known_by_size(&self, provider: &str) -> bool {
        let limits = |provider: &Arc<dyn BatchProvider>| {
            let batch = provider.capability().batch.as_ref();
            batch.is_some_and(|limits| limits.list_match.contains(&ListMatch::Requests))
        };
        self.providers.get(provider).is_some_and(limits)
    }

    fn begin(&self, group: &Group) -> Result<Open> {
        let number = {
            let mut next = locked(&self.next);
            let number = *next;
            *next += 1;
            number
        };
        let prefix = WirePrefix::of(&self.job, number, 1);
        let writer = self.ledger.chunk_writer(number, prefix)?;
        Ok(Open {
            number,
            prefix,
            writer: writer.with_round(group.round, group.refusals),
            load: Load::default(),
        })
    }

    /// Seals the fullest chunk where one more would be too many.
    fn make_room(&self, group: &Group, open: &mut BTreeMap<Group, Open>) -> Flow {
        if open.contains_key(group) || open.len() < OPEN_CHUNKS {
            return GO_ON;
        }
        let fullest = open
            .iter()
            .max_by_key(|(_, chunk)| chunk.writer.bytes())
            .map(|(group, _)| group.clone());
        match fullest.and_then(|group| open.remove_entry(&group)) {
            Some((group, chunk)) => self.seal(&group, chunk),
            None => GO_ON,
        }
    }

    fn seal_open(&self, open: BTreeMap<Group, Open>) -> Flow {
        for (group, chunk) in open {
            flow!(self.seal(&group, chunk));
        }
        GO_ON
    }

    fn seal(&self, group: &Group, chunk: Open) -> Flow {
        let at = Timestamp::from(SystemTime::now());
        let Open { number, writer, .. } = chunk;
        if self.is_known_by_size(&group.provider) {
            locked(&self.sizes).take(writer.requests());
        }
        writer.seal(&group.provider, &group.endpoint, &group.model, at)?;
        self.hand_over(number, group.refusals > 0)
    }

    fn hand_over(&self, chunk: u32, search: bool) -> Flow {
        let state = self.ledger.chunk(chunk)?;
        let provider = state.map(|state| state.provider).unwrap_or_default();
        self.desk.hand_over(chunk);
        self.send(ChunkJob::new(self.job.clone(), chunk, provider).with_search(search))
    }

    /// Hands over a chunk that has ended, for a look at batches it does not know of. Nothing is left of it to seal.
    fn have_watched(&self, chunk: &ChunkState) -> Flow {
        self.send(ChunkJob::new(
            self.job.clone(),
            chunk.chunk,
            chunk.provider.clone(),
        ))
    }

    fn send(&self, job: ChunkJob) -> Flow {
        Ok(match self.chunks.blocking_send(Ok(job)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        })
    }
}

fn limits(provider: &Arc<dyn BatchProvider>) -> Result<&BatchLimits> {
    let limits = provider.capability().batch.as_ref();
    limits.ok_or_else(|| Error::new(ErrorKind::Unsupported, "the provider has no batch API"))
}

fn encode(
    provider: &Arc<dyn BatchProvider>,
    request: &Request,
    chunk: &Open,
    row: u64,
    line: &mut Vec<u8>,
) -> Result<()> {
    line.clear();
    let id = WireId::new(chunk.prefix, row).to_string();
    provider.encode(request, &id, line)
}

#[cfg(test)]
mod tests {
    use super::Sizes;

    /// How many rows each of `chunks` chunks takes.
    fn sizes(chunks: usize, most: u64, nearly_at: u64) -> Vec<u64> {
        let mut sizes = Sizes::default();
        let mut taken = Vec::new();
        for _ in 0..chunks {
            let mut rows = 0;
            while !sizes.ends(rows, most, rows >= nearly_at) {
                rows += 1;
            }
            sizes.take(rows);
            taken.push(rows);
        }
        taken
    }

    #[test]
    fn f_110_chunks_known_by_their_size_hold_each_another_number_of_rows() {
        assert_eq!(sizes(3, 10_000, u64::MAX), [10_000, 9_999, 9_998]);
        // Down to half, and then from the top.
        assert_eq!(sizes(7, 10, u64::MAX), [10, 9, 8, 7, 6, 10, 9]);
        assert_eq!(sizes(3, 1, u64::MAX), [1, 1, 1]);
        // Rows of one size fill the bytes at one number: up from there.
        assert_eq!(sizes(3, 10_000, 5_000), [5_000, 5_001, 5_002]);
    }
}
