//! `wait`, `adopt` and `resubmit`: what a person says about a chunk that is held.
//!
//! Each writes one fact into the job's journal and sends nothing that costs; `resume` goes on from there.

use crate::{
    args::{AdoptArgs, HeldArgs, ResubmitArgs},
    environment,
    exit::Exit,
    folder, providers, run, sandbox,
    terminal::{clean, count, print, rows},
};
use anyhow::{Context, bail};
use batchwright::{
    core::{
        BatchHandle, BatchProvider, BatchStatus, Decision, ErrorKind, InputRef, JournalEntry,
        JournalEvent, ListMark, SubmissionLog, SubmissionTag, Timestamp,
    },
    ledger::{ChunkPhase, ChunkState, Ledger, LedgerOptions},
    pipeline::{Job, LaneProvider},
};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

pub(crate) fn wait(args: &HeldArgs) -> anyhow::Result<Exit> {
    let (_, ledger) = open(args)?;
    for (chunk, tag) in held(&ledger, args)? {
        decide(&ledger, &chunk, tag, Decision::Wait)?;
        print(format_args!(
            "chunk {}: its batch is looked for again, through a whole settle window; nothing is bought meanwhile",
            chunk.chunk
        ));
    }
    say_go_on(args);
    Ok(Exit::Done)
}

pub(crate) fn resubmit(args: &ResubmitArgs) -> anyhow::Result<Exit> {
    let (_, ledger) = open(&args.held)?;
    let held = held(&ledger, &args.held)?;
    if !args.accept_duplicate_risk {
        bail!(
            "{} may have been bought already, and would be paid twice; say --accept-duplicate-risk to buy it again",
            match held.as_slice() {
                [(chunk, _)] => format!("chunk {}", chunk.chunk),
                several => format!("each of {} held chunks", several.len()),
            }
        );
    }
    for (chunk, tag) in held {
        decide(&ledger, &chunk, tag, Decision::Resubmit)?;
        print(format_args!(
            "chunk {}: {} are bought again; an earlier batch of them that shows later is cancelled where that can be told, \
             and counted",
            chunk.chunk,
            rows(chunk.requests)
        ));
    }
    say_go_on(&args.held);
    Ok(Exit::Done)
}

pub(crate) async fn adopt(args: AdoptArgs) -> anyhow::Result<Exit> {
    let (dir, ledger) = open(&args.held)?;
    let mut held = held(&ledger, &args.held)?;
    if held.len() > 1 {
        let numbers: Vec<String> = held
            .iter()
            .map(|(chunk, _)| chunk.chunk.to_string())
            .collect();
        bail!(
            "chunks {} are held; name the one with --chunk",
            numbers.join(", ")
        );
    }
    let (chunk, tag) = held.remove(0);
    let purchases = ledger.purchases().await?;
    let other = purchases.batches.iter().chain(&purchases.taken);
    if let Some((other, _)) = other
        .filter(|(other, _)| *other != chunk.chunk)
        .find(|(_, id)| *id == args.batch)
    {
        bail!("batch {} is that of chunk {other}", args.batch);
    }
    let spec = Job::spec_of(&dir)?;
    let mut pairs = environment::pairs(args.env_file.as_deref())?;
    let known = providers::known(&chunk.provider)?;
    let emulator = match spec.sandbox {
        true => Some(sandbox::start(known, &dir, &mut pairs).await?),
        false => None,
    };
    let connection = providers::Connection {
        concurrency: 1,
        timeout: None,
    };
    let LaneProvider::Batch(provider) = known.build(&pairs, spec.lane, &connection)? else {
        bail!("the job has no batches");
    };
    let tag = check(&ledger, provider, &chunk, tag, &args.batch).await;
    if let Some(emulator) = emulator {
        emulator.shutdown().await;
    }
    let handle = BatchHandle::new(
        chunk.provider.clone(),
        args.batch.clone(),
        InputRef::default(),
    );
    decide(&ledger, &chunk, tag?, Decision::Adopt { handle })?;
    print(format_args!(
        "chunk {}: batch {} is taken for its own; its results must prove it before any row ends",
        chunk.chunk,
        clean(&args.batch)
    ));
    say_go_on(&args.held);
    Ok(Exit::Done)
}

/// Whether the provider knows the batch and nothing speaks against it, and the attempt it is of.
async fn check(
    ledger: &Ledger,
    provider: Arc<dyn BatchProvider>,
    chunk: &ChunkState,
    tag: SubmissionTag,
    id: &str,
) -> anyhow::Result<SubmissionTag> {
    let handle = BatchHandle::new(&chunk.provider, id, InputRef::default());
    let snapshot = match provider.status(&handle).await {
        Ok(snapshot) => snapshot,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!(
                "{} knows no batch {} under this key",
                chunk.provider,
                clean(id)
            );
        }
        Err(error) => return Err(error).context("look at the batch"),
    };
    if snapshot.status == BatchStatus::Failed {
        bail!(
            "batch {} has failed before any row ran, so it bought nothing",
            clean(id)
        );
    }
    let mark = ledger
        .entries_blocking(chunk.chunk)?
        .into_iter()
        .rev()
        .find_map(|entry| match entry.event {
            JournalEvent::CreateIntent { mark, .. } => Some(mark),
            _ => None,
        });
    // What the list says besides; where there is none, what the batch says of itself must do.
    let listed = provider
        .list_since(&mark.unwrap_or_else(ListMark::default))
        .await
        .unwrap_or_default()
        .into_iter()
        .find(|summary| summary.handle.id == id);
    let requests = listed.as_ref().and_then(|summary| summary.requests);
    let counted = snapshot.counts.map(|counts| counts.total);
    if let Some(other) = requests
        .or(counted)
        .filter(|n| *n != 0 && *n != chunk.requests)
    {
        bail!(
            "batch {} holds {}, and chunk {} has {}",
            clean(id),
            rows(other),
            chunk.chunk,
            count(chunk.requests)
        );
    }
    match listed.and_then(|summary| summary.tag) {
        Some(theirs) if theirs.job() != tag.job() || theirs.chunk() != tag.chunk() => {
            bail!(
                "batch {} was bought under {theirs}, not for chunk {}",
                clean(id),
                chunk.chunk
            );
        }
        Some(theirs) => Ok(theirs),
        None => Ok(tag),
    }
}

/// The job's folder, locked.
fn open(args: &HeldArgs) -> anyhow::Result<(PathBuf, Ledger)> {
    let dir = folder::existing(&args.state, &args.job)?;
    let options = LedgerOptions::default().with_network_fs(args.network_state);
    let ledger = Ledger::open_with(&dir, options)?;
    Ok((dir, ledger))
}

/// The held chunks that are meant; at least one.
fn held(ledger: &Ledger, args: &HeldArgs) -> anyhow::Result<Vec<(ChunkState, SubmissionTag)>> {
    let chunks = ledger.chunks()?;
    if let Some(number) = args.chunk
        && !chunks.iter().any(|chunk| chunk.chunk == number)
    {
        bail!("job {} has no chunk {number}", args.job);
    }
    let held: Vec<(ChunkState, SubmissionTag)> = chunks
        .into_iter()
        .filter(|chunk| args.chunk.is_none_or(|number| number == chunk.chunk))
        .filter(|chunk| chunk.phase == ChunkPhase::Held)
        .filter_map(|chunk| {
            let tag = chunk.tag.clone()?;
            Some((chunk, tag))
        })
        .collect();
    if held.is_empty() {
        match args.chunk {
            Some(number) => bail!("chunk {number} of job {} is not held", args.job),
            None => bail!("no chunk of job {} is held", args.job),
        }
    }
    Ok(held)
}

fn decide(
    ledger: &Ledger,
    chunk: &ChunkState,
    tag: SubmissionTag,
    decision: Decision,
) -> anyhow::Result<()> {
    let at = Timestamp::from(SystemTime::now());
    let fact = JournalEvent::Decided { tag, decision };
    ledger.append_blocking(&[JournalEntry::new(chunk.chunk, at, fact)])?;
    Ok(())
}

fn say_go_on(args: &HeldArgs) {
    print(format_args!(
        "go on: batchwright resume {}{}",
        args.job,
        run::state_option(&args.state)
    ));
}

/// What a person can say about a held chunk, as commands.
pub(crate) fn choices(job: &str, state: &Path, chunk: &ChunkState) -> Vec<String> {
    let number = chunk.chunk;
    let state = run::state_option(state);
    let mut lines = vec![format!(
        "batchwright wait {job} --chunk {number}{state}    look for its batch again"
    )];
    let named = match chunk.asked_about.as_slice() {
        [] => vec!["BATCH_ID".to_owned()],
        ids => ids.iter().map(|id| clean(id).to_string()).collect(),
    };
    lines.extend(named.iter().map(|id| {
        format!("batchwright adopt {job} {id} --chunk {number}{state}    that batch is its own")
    }));
    lines.push(format!(
        "batchwright resubmit {job} --chunk {number} --accept-duplicate-risk{state}    buy it again; it may be paid twice"
    ));
    lines
}

/// What may be paid twice, and until when more of that may show, for people.
pub(crate) fn notes(chunks: &[ChunkState]) -> Vec<String> {
    let mut notes = Vec::new();
    for chunk in chunks {
        for batch in &chunk.surplus {
            let id = clean(&batch.handle.id);
            notes.push(match &batch.ended {
                None if batch.certain => format!(
                    "batch {id} is one too many for chunk {}: it is being cancelled",
                    chunk.chunk
                ),
                None => format!(
                    "batch {id} may be one too many for chunk {}: its results will tell",
                    chunk.chunk
                ),
                Some(end) if end.rows == 0 => continue,
                Some(end) => {
                    let cost = end
                        .cost
                        .map_or("an unknown cost".to_owned(), |cost| cost.to_string());
                    format!(
                        "batch {id} was one too many for chunk {}: {} are paid twice, for {cost}",
                        chunk.chunk,
                        rows(end.rows)
                    )
                }
            });
        }
    }
    let risks: u32 = chunks.iter().map(|chunk| chunk.risks).sum();
    if risks > 0 {
        notes.push(format!(
            "bought again at your word, and possibly paid twice: {risks} times"
        ));
    }
    let now = Timestamp::from(SystemTime::now());
    if let Some(until) = ghosts_until(chunks) {
        notes.push(format!(
            "a batch that was given up may still show for {} h; resume looks for it again",
            until.since(now).as_secs() / 3600 + 1
        ));
    }
    notes
}

/// The same for programs.
pub(crate) fn notes_json(chunks: &[ChunkState]) -> Value {
    let surplus: Vec<Value> = chunks
        .iter()
        .flat_map(|chunk| chunk.surplus.iter().map(move |batch| (chunk.chunk, batch)))
        .map(|(chunk, batch)| {
            json!({
                "chunk": chunk,
                "batch": batch.handle.id,
                "certain": batch.certain,
                "ended": batch.ended.as_ref().map(|end| end.status.as_str()),
                "rows": batch.ended.as_ref().map(|end| end.rows),
                "cost": batch.ended.as_ref().and_then(|end| end.cost).map(|cost| cost.as_dollars()),
            })
        })
        .collect();
    json!({
        "surplus_batches": surplus,
        "duplicate_risks_accepted": chunks.iter().map(|chunk| chunk.risks).sum::<u32>(),
        "ghosts_until": ghosts_until(chunks).map(Timestamp::as_unix_seconds),
    })
}

/// Until when a batch that was given up may still show.
fn ghosts_until(chunks: &[ChunkState]) -> Option<Timestamp> {
    let now = Timestamp::from(SystemTime::now());
    let until = chunks.iter().filter_map(ChunkState::ghosts_until).max();
    until.filter(|until| now < *until)
}
