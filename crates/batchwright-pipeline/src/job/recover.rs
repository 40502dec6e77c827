//! A job whose journal was lost, made whole again from its files and its provider's lists.
//!
//! What the journal knew is in other places too: what the job is, in `job.json`; what was sealed, beside the chunks;
//! which rows have ended, in the segments; what was bought, at the provider, under tags that name the job. What none
//! of them can tell stays open: such a chunk is of unclear fate, and the rules for that hold.

use super::{
    Job, JobSpec, ROWS, SPEC, TAG,
    batch::{Left, account_key},
    blocking,
};
use batchwright_core::{
    BatchHandle, BatchInput, BatchProvider, BatchStatus, BatchSummary, Error, ErrorKind, InputRef,
    JournalEntry, JournalEvent, Lane, ListMark, ListMatch, Result, StoredInput, SubmissionTag,
    Timestamp,
};
use batchwright_ledger::{ChunkState, Ledger, LedgerOptions, OutcomeRecord, Recovery, RowSet};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

/// How a job is recovered.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RecoverOptions {
    /// About its folder.
    pub ledger: LedgerOptions,
    /// Whether a key, project or address other than the job's earlier one is known to reach the same account. Without
    /// that another account's list is not asked. Default false.
    pub same_account: bool,
}

/// What was found out about a job whose journal was lost.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Recovered {
    /// Rows of the input.
    pub rows: u64,
    /// Rows that have their outcome.
    pub finished: u64,
    /// Every chunk, by number.
    pub chunks: Vec<(u32, RecoveredChunk)>,
}

/// What was found out about one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoveredChunk {
    /// Each of its rows has its outcome, or goes on in a later chunk.
    Merged,
    /// This batch is its own; its results are yet to be collected.
    Adopted {
        /// The batch.
        batch: String,
        /// Its state, where the provider's list tells.
        status: Option<BatchStatus>,
        /// Batches besides it, which may be paid twice.
        surplus: Vec<String>,
    },
    /// It may have been bought; the next run looks for its batch through a whole settle window before anything else.
    Unclear {
        /// Batches that hold as many requests, where those are known by nothing else.
        candidates: Vec<String>,
    },
    /// The provider cannot tell whether it was bought: a person must decide.
    Held {
        /// Why.
        reason: String,
    },
    /// Nothing of it was sent.
    Unsent,
}

/// What a provider tells of a job.
struct Told {
    /// How its batches are known.
    list_match: Vec<ListMatch>,
    /// Whether a create has to be preceded by an upload that its list of inputs shows.
    shows_inputs: bool,
    batches: Vec<BatchSummary>,
    /// Why its list cannot tell, where it cannot.
    unreadable: Option<String>,
    inputs: Vec<StoredInput>,
}

/// What the job's files tell of a chunk.
struct Known {
    state: ChunkState,
    /// How many of its rows have their outcome.
    finished: u64,
    rows: u64,
    /// Whether rows of it are in a later chunk, so that it was merged.
    went_on: bool,
    /// What is left of it went on because its input was refused.
    refused: bool,
    /// Rows were answered by direct calls, so that its batch may be under way all the same.
    direct: bool,
    /// The batch its outcomes name.
    batch: Option<String>,
    /// Whether results of it were downloaded.
    has_raw: bool,
}

impl Job {
    /// The settings of the job in `dir`, whatever became of its journal.
    ///
    /// # Errors
    /// As [`Job::spec_of`]; `Storage` where the journal is lost and `job.json` is too.
    pub fn spec_without_journal(dir: &Path) -> Result<JobSpec> {
        match Self::spec_of(dir) {
            Ok(spec) => Ok(spec),
            Err(_) => card(dir).and_then(|card| spec_in(dir, &card)),
        }
    }

    /// Makes the lost or unreadable journal of the job in `dir` again. It reads the lists of `providers`, which are
    /// those of the job's chunks, and sends nothing: batches under the job's tag are adopted, and [`Job::run`] goes on
    /// from there. What the lists cannot tell is never bought again without a further look or a person's word.
    ///
    /// Outcomes in the segments stay final. Rows that were to be sent again by [`Job::reopen`], and were not, are asked
    /// for no more.
    ///
    /// # Errors
    /// `Conflict` where the journal is whole; `NeedsDecision` where the account is another, or the provider has a batch
    /// of this job for a chunk that is not in its folder; `ConfigInvalid` where a provider is missing; every failure to
    /// read a list that may pass; `Storage` where the folder fails. The folder is then as it was.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the folder as it was, or recovered.
    pub async fn recover(
        dir: &Path,
        providers: &[Arc<dyn BatchProvider>],
        options: RecoverOptions,
    ) -> Result<Recovered> {
        let (folder, same_account) = (dir.to_owned(), options.same_account);
        let (recovery, spec, tag, known, finished) = blocking(move || {
            let card = card(&folder)?;
            let spec = spec_in(&folder, &card)?;
            let tag = card.get(TAG).cloned();
            let tag = tag.ok_or_else(|| no_card(&folder))?;
            let recovery = Ledger::recover(&folder, options.ledger)?;
            for (key, value) in &card {
                recovery.ledger().set_meta(key, value)?;
            }
            let (known, finished) = read_files(recovery.ledger())?;
            Ok((recovery, spec, tag, known, finished))
        })
        .await?;
        let mut told = BTreeMap::new();
        if spec.lane == Lane::Batch {
            let names: BTreeSet<&str> = known
                .iter()
                .map(|chunk| chunk.state.provider.as_str())
                .collect();
            for name in names {
                let provider = providers.iter().find(|provider| provider.name() == name);
                let provider = provider.ok_or_else(|| {
                    let message =
                        format!("recover: chunks were sealed for {name}, which is not there now");
                    Error::new(ErrorKind::ConfigInvalid, message)
                })?;
                check_account(recovery.ledger(), &spec, provider.as_ref(), same_account)?;
                told.insert(name.to_owned(), ask(provider.as_ref(), &tag).await?);
            }
        }
        blocking(move || {
            let rows = recovery.ledger().meta(ROWS)?;
            let rows = rows.and_then(|rows| rows.parse().ok()).unwrap_or(0);
            let chunks = write(&recovery, &tag, &known, &told)?;
            recovery.finish()?;
            Ok(Recovered {
                rows,
                finished,
                chunks,
            })
        })
        .await
    }
}

fn card(dir: &Path) -> Result<BTreeMap<String, String>> {
    Ledger::card_of(dir)?.ok_or_else(|| no_card(dir))
}

fn no_card(dir: &Path) -> Error {
    Error::new(
        ErrorKind::Storage,
        format!(
            "recover {}: its job.json is not there, which says what the job is; restore it",
            dir.display()
        ),
    )
}

fn spec_in(dir: &Path, card: &BTreeMap<String, String>) -> Result<JobSpec> {
    let spec = card.get(SPEC).map(|json| serde_json::from_str(json));
    match spec {
        Some(Ok(spec)) => Ok(spec),
        _ => Err(no_card(dir)),
    }
}

/// Another account's list says nothing about what this one bought (F-087).
fn check_account(
    ledger: &Ledger,
    spec: &JobSpec,
    provider: &dyn BatchProvider,
    same_account: bool,
) -> Result<()> {
    let known = ledger.meta(&account_key(spec, provider))?;
    let account = provider.account();
    let is_other = known.is_some_and(|known| known != account);
    if spec.sandbox || account.is_empty() || same_account || !is_other {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::NeedsDecision,
        "recover: what was bought is known only to the account it was sent with, and key, project or address are \
         others now; use those the job was started with, or say that they reach the same account",
    ))
}

/// What the provider has of this job.
async fn ask(provider: &dyn BatchProvider, job: &str) -> Result<Told> {
    let limits = provider.capability().batch.as_ref();
    let list_match = limits.map(|limits| limits.list_match.clone());
    let mut told = Told {
        list_match: list_match.unwrap_or_default(),
        shows_inputs: false,
        batches: Vec::new(),
        unreadable: None,
        inputs: Vec::new(),
    };
    if told.list_match.is_empty() {
        told.unreadable =
            Some("the provider's list cannot tell whether the batch was created".to_owned());
        return Ok(told);
    }
    match provider.list_since(&ListMark::default()).await {
        Ok(batches) => told.batches = batches,
        Err(error) if error.is_retryable() => return Err(error),
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::NotFound) => {
            let reason = format!("the provider's list cannot be read: {}", error.message());
            told.unreadable = Some(reason);
        }
        Err(error) => return Err(error),
    }
    if limits.is_some_and(|limits| limits.input == BatchInput::Uploaded) {
        match provider.uploads(job).await {
            Ok(inputs) => {
                // Its list shows them before anything else: every create names one.
                told.shows_inputs = told.list_match.first() == Some(&ListMatch::Input);
                told.inputs = inputs;
            }
            Err(error) if error.is_retryable() => return Err(error),
            // Absence from what cannot be read means nothing.
            Err(_) => {}
        }
    }
    Ok(told)
}

/// What the folder tells of every chunk, by number, and how many rows have their outcome.
fn read_files(ledger: &Ledger) -> Result<(Vec<Known>, u64)> {
    let scan = ledger.scan()?;
    let mut chunks = ledger.chunks()?;
    chunks.sort_by_key(|state| state.chunk);
    let raw: BTreeSet<u32> = ledger
        .raw_files()?
        .into_iter()
        .map(|(chunk, ..)| chunk)
        .collect();
    let named = named_batches(ledger, &chunks)?;
    let mut later = RowSet::new();
    let mut known: Vec<Known> = Vec::new();
    for state in chunks.into_iter().rev() {
        let mut chunk = Known {
            finished: 0,
            rows: 0,
            went_on: false,
            refused: false,
            direct: false,
            batch: named.get(&state.chunk).cloned(),
            has_raw: raw.contains(&state.chunk),
            state,
        };
        let mut shared = None;
        let mut own = Vec::new();
        for row in ledger.chunk_rows(chunk.state.chunk)? {
            let row = row?.0;
            chunk.rows += 1;
            chunk.finished += u64::from(scan.finished.contains(row));
            chunk.direct |= scan.direct.contains(row);
            if later.contains(row) {
                shared = shared.or(Some(row));
            }
            own.push(row);
        }
        later.extend(own);
        if let Some(row) = shared {
            chunk.went_on = true;
            chunk.refused = is_next_of_refused(ledger, &chunk.state, &known, row)?;
        }
        known.push(chunk);
    }
    known.reverse();
    Ok((known, scan.finished.len()))
}

/// Whether the next chunk with this row was sealed because this one's input was refused.
fn is_next_of_refused(
    ledger: &Ledger,
    state: &ChunkState,
    later: &[Known],
    row: u64,
) -> Result<bool> {
    // The nearest is the last one that was looked at.
    for next in later.iter().rev() {
        let mut rows = ledger.chunk_rows(next.state.chunk)?;
        let mut has_row = false;
        for found in &mut rows {
            has_row |= found?.0 == row;
        }
        if has_row {
            return Ok(next.state.round == state.round && next.state.refusals > state.refusals);
        }
    }
    Ok(false)
}

/// The batch of each chunk, as far as final outcomes name it.
fn named_batches(ledger: &Ledger, chunks: &[ChunkState]) -> Result<BTreeMap<u32, String>> {
    // Of each batch the rows it answered.
    let mut batches: HashMap<String, RowSet> = HashMap::new();
    for outcome in ledger.unordered()? {
        let (row, line) = outcome?;
        let record = OutcomeRecord::parse(&line)?;
        let origin = &record.provenance;
        if let (Some("batch"), Some(batch)) = (origin.lane.as_deref(), origin.batch.as_deref()) {
            match batches.get_mut(batch) {
                Some(rows) => rows.insert(row),
                None => batches.entry(batch.to_owned()).or_default().insert(row),
            };
        }
    }
    let mut named = BTreeMap::new();
    // What a later chunk's rows were answered by is no earlier one's.
    for state in chunks.iter().rev() {
        let mut counts: HashMap<&str, u64> = HashMap::new();
        for row in ledger.chunk_rows(state.chunk)? {
            let row = row?.0;
            for (batch, rows) in &batches {
                if rows.contains(row) {
                    *counts.entry(batch).or_default() += 1;
                }
            }
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        if let Some(batch) = most.map(|(batch, _)| batch.to_owned()) {
            batches.remove(&batch);
            named.insert(state.chunk, batch);
        }
    }
    Ok(named)
}

/// Appends what is known of every chunk to the new journal.
fn write(
    recovery: &Recovery,
    job: &str,
    known: &[Known],
    told: &BTreeMap<String, Told>,
) -> Result<Vec<(u32, RecoveredChunk)>> {
    let ledger = recovery.ledger();
    for told in told.values() {
        let mut tags = told.batches.iter().filter_map(|batch| {
            let tag = batch.tag.as_ref().filter(|tag| tag.job() == job)?;
            Some((tag, &batch.handle.id))
        });
        let is_known = |number| known.iter().any(|chunk| chunk.state.chunk == number);
        if let Some((tag, id)) = tags.find(|(tag, _)| !is_known(tag.chunk())) {
            return Err(Error::new(
                ErrorKind::NeedsDecision,
                format!(
                    "recover: the provider has batch {id} for chunk {} of this job, and the chunk is not in its folder; \
                     bring its files back",
                    tag.chunk()
                ),
            ));
        }
    }
    let mut chunks = Vec::new();
    for chunk in known {
        let number = chunk.state.chunk;
        let told = &told[&chunk.state.provider];
        let mut facts = Vec::new();
        let found = facts_of(job, chunk, told, &mut facts)?;
        let at = Timestamp::from(SystemTime::now());
        let merged = found == RecoveredChunk::Merged;
        if merged {
            facts.extend(downloads(ledger, number, &facts)?);
            facts.push(JournalEvent::Merged {
                rows: chunk.finished,
            });
            if chunk.finished < chunk.rows {
                let left = Left {
                    rows: chunk.rows - chunk.finished,
                    refused: chunk.refused,
                    halve: false,
                };
                left.store(ledger, number)?;
            }
        }
        let entries: Vec<JournalEntry> = facts
            .into_iter()
            .map(|fact| JournalEntry::new(number, at, fact))
            .collect();
        ledger.append_blocking(&entries)?;
        chunks.push((number, found));
    }
    Ok(chunks)
}

/// The downloads of a chunk that was merged, as they are now.
fn downloads(ledger: &Ledger, chunk: u32, facts: &[JournalEvent]) -> Result<Vec<JournalEvent>> {
    let adopted = facts.iter().rev().find_map(|fact| match fact {
        JournalEvent::Adopted { tag, handle } => Some((tag.attempt(), handle)),
        _ => None,
    });
    let Some((attempt, handle)) = adopted else {
        return Ok(Vec::new());
    };
    let mut downloads = Vec::new();
    for (of, made_by, label) in ledger.raw_files()? {
        // What batches besides the one that counts answered is no result.
        let is_surplus = label
            .strip_prefix('s')
            .and_then(|rest| rest.split_once('-'))
            .is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        if (of, made_by) != (chunk, attempt) || is_surplus {
            continue;
        }
        if let Some(raw) = ledger.raw(of, made_by, &label)? {
            downloads.push(JournalEvent::Downloaded {
                handle: handle.clone(),
                label,
                file: raw.file,
                sha256: raw.sha256,
                bytes: raw.bytes,
            });
        }
    }
    Ok(downloads)
}

/// What is known of one chunk as facts, and in words. Batches come first, those that failed before any other, since a
/// batch of the job that the journal does not know is another process's.
fn facts_of(
    job: &str,
    chunk: &Known,
    told: &Told,
    facts: &mut Vec<JournalEvent>,
) -> Result<RecoveredChunk> {
    let state = &chunk.state;
    let number = state.chunk;
    let mut ours: Vec<(&SubmissionTag, &BatchSummary)> = told
        .batches
        .iter()
        .filter_map(|batch| Some((batch.tag.as_ref()?, batch)))
        .filter(|(tag, _)| (tag.job(), tag.chunk()) == (job, number))
        .collect();
    // The one that counts comes last: whose results were taken, else the furthest, of the newest attempt.
    ours.sort_by_key(|(tag, batch)| {
        let counts = chunk.batch.as_ref() == Some(&batch.handle.id);
        (counts, progress(&batch.status), tag.attempt())
    });
    let inputs = told
        .inputs
        .iter()
        .filter(|input| input.tag.chunk() == number);
    let input_of = |tag: &SubmissionTag, batch: Option<&BatchSummary>| {
        let named = batch.map(|batch| batch.handle.input.clone());
        let named = named.filter(|input| !input.0.is_empty());
        let stored = || {
            let mut stored = inputs.clone().filter(|input| input.tag == *tag);
            stored.next().map(|input| input.input.clone())
        };
        named.or_else(stored).unwrap_or_default()
    };
    let is_merged = chunk.went_on || chunk.rows > 0 && chunk.finished == chunk.rows;
    let attempt = state.attempt.max(1);

    if let Some(((tag, best), others)) = ours.split_last() {
        let mut surplus = Vec::new();
        for (tag, batch) in others {
            if batch.status == BatchStatus::Failed {
                intend(tag, &input_of(tag, Some(batch)), facts);
                facts.push(JournalEvent::Created {
                    tag: (*tag).clone(),
                    handle: batch.handle.clone(),
                });
                facts.push(JournalEvent::CreateRefused {
                    tag: (*tag).clone(),
                    message: "the batch failed before anything ran".to_owned(),
                    retryable: true,
                });
            } else {
                surplus.push((*tag, *batch));
            }
        }
        for (tag, batch) in &surplus {
            intend(tag, &input_of(tag, Some(batch)), facts);
        }
        intend(tag, &input_of(tag, Some(best)), facts);
        facts.push(JournalEvent::Adopted {
            tag: (*tag).clone(),
            handle: best.handle.clone(),
        });
        facts.extend(surplus.iter().map(|(tag, batch)| JournalEvent::Surplus {
            tag: (*tag).clone(),
            handle: batch.handle.clone(),
            certain: true,
        }));
        // A row of it may have been answered directly while its batch ran on.
        let may_answer = best.status != BatchStatus::Failed
            && (!best.status.is_terminal() || chunk.direct)
            && !chunk.went_on;
        return Ok(if is_merged && !may_answer {
            RecoveredChunk::Merged
        } else {
            RecoveredChunk::Adopted {
                batch: best.handle.id.clone(),
                status: Some(best.status.clone()),
                surplus: surplus
                    .iter()
                    .map(|(_, batch)| batch.handle.id.clone())
                    .collect(),
            }
        });
    }
    if let Some(batch) = &chunk.batch {
        let tag = mint(job, number, attempt)?;
        let listed = told.batches.iter().find(|one| one.handle.id == *batch);
        let handle = listed.map_or_else(
            || BatchHandle::new(&state.provider, batch, InputRef::default()),
            |listed| listed.handle.clone(),
        );
        intend(&tag, &handle.input, facts);
        facts.push(JournalEvent::Adopted { tag, handle });
        return Ok(if is_merged && (!chunk.direct || chunk.went_on) {
            RecoveredChunk::Merged
        } else {
            RecoveredChunk::Adopted {
                batch: batch.clone(),
                status: listed.map(|listed| listed.status.clone()),
                surplus: Vec::new(),
            }
        });
    }
    if is_merged && (!chunk.direct || chunk.went_on) {
        return Ok(RecoveredChunk::Merged);
    }

    // No batch of it is known. Inputs besides the newest one's are of attempts that were given up, or never used.
    let mut stored: Vec<&StoredInput> = inputs.clone().collect();
    stored.sort_by_key(|input| input.tag.attempt());
    let newest = stored.pop();
    for input in stored {
        intend(&input.tag, &input.input, facts);
        facts.push(JournalEvent::Fenced {
            tag: input.tag.clone(),
        });
    }
    if newest.is_none() && told.shows_inputs && told.unreadable.is_none() {
        // A create needs its input, and neither is there.
        if !chunk.has_raw && chunk.finished == 0 {
            if attempt > 1 {
                let tag = mint(job, number, attempt)?;
                facts.push(JournalEvent::UploadIntent { tag: tag.clone() });
                facts.push(JournalEvent::Fenced { tag });
            }
            return Ok(RecoveredChunk::Unsent);
        }
    }
    let (tag, input) = match newest {
        Some(newest) => (newest.tag.clone(), newest.input.clone()),
        None => (mint(job, number, attempt)?, InputRef::default()),
    };
    intend(&tag, &input, facts);
    facts.push(JournalEvent::CreateUnknown {
        tag: tag.clone(),
        message: "the journal was lost".to_owned(),
    });
    if let Some(reason) = &told.unreadable {
        facts.push(JournalEvent::Held {
            tag,
            reason: reason.clone(),
            batches: Vec::new(),
        });
        return Ok(RecoveredChunk::Held {
            reason: reason.clone(),
        });
    }
    let by_size = told.list_match.contains(&ListMatch::Requests);
    let candidates = told
        .batches
        .iter()
        .filter(|batch| by_size && batch.tag.is_none() && batch.requests == Some(state.requests));
    Ok(RecoveredChunk::Unclear {
        candidates: candidates.map(|batch| batch.handle.id.clone()).collect(),
    })
}

/// A create under this tag may have been sent.
fn intend(tag: &SubmissionTag, input: &InputRef, facts: &mut Vec<JournalEvent>) {
    if !input.0.is_empty() {
        facts.push(JournalEvent::UploadIntent { tag: tag.clone() });
        facts.push(JournalEvent::Uploaded {
            tag: tag.clone(),
            input: input.clone(),
        });
    }
    facts.push(JournalEvent::CreateIntent {
        tag: tag.clone(),
        input: input.clone(),
        mark: ListMark::default(),
    });
}

/// A tag for an attempt whose own is not known.
fn mint(job: &str, chunk: u32, attempt: u32) -> Result<SubmissionTag> {
    SubmissionTag::new(job, chunk, attempt, &super::random_word())
}

/// How far a batch is, to tell which of several counts.
fn progress(status: &BatchStatus) -> u8 {
    match status {
        BatchStatus::Completed => 6,
        BatchStatus::Finalizing => 5,
        BatchStatus::InProgress => 4,
        BatchStatus::Expired => 2,
        BatchStatus::Cancelling | BatchStatus::Cancelled => 1,
        BatchStatus::Failed => 0,
        _ => 3,
    }
}
