//! `recover`: a journal that was lost, made again.

use crate::{
    args::RecoverArgs,
    environment,
    exit::Exit,
    folder,
    providers::{self, Connection},
    run, sandbox,
    terminal::{clean, count, print, rows},
};
use anyhow::bail;
use batchwright::{
    core::{BatchProvider, Lane},
    ledger::{Ledger, LedgerOptions},
    pipeline::{Job, LaneProvider, RecoverOptions, Recovered, RecoveredChunk},
};
use serde_json::json;
use std::sync::Arc;

pub(crate) async fn recover(args: RecoverArgs) -> anyhow::Result<Exit> {
    let dir = folder::of(&args.state, &args.job)?;
    if !Ledger::exists(&dir) && !Ledger::is_lost(&dir) {
        bail!("there is no job {} in {}", args.job, args.state.display());
    }
    let spec = Job::spec_without_journal(&dir)?;
    let mut pairs = environment::pairs(args.env_file.as_deref())?;
    let known = providers::known(&spec.provider)?;
    let emulator = match spec.sandbox {
        true => Some(sandbox::start(known, &dir, &mut pairs).await?),
        false => None,
    };
    let connection = Connection {
        concurrency: 4,
        timeout: None,
    };
    let mut providers: Vec<Arc<dyn BatchProvider>> = run::others(&spec, &pairs, &connection);
    // Direct calls are in the job's own files alone.
    if spec.lane == Lane::Batch
        && let LaneProvider::Batch(own) = known.build(&pairs, spec.lane, &connection)?
    {
        providers.push(own);
    }
    let mut options = RecoverOptions::default();
    options.ledger = LedgerOptions::default().with_network_fs(args.network_state);
    options.same_account = args.same_account;
    let recovered = Job::recover(&dir, &providers, options).await;
    if let Some(emulator) = emulator {
        emulator.shutdown().await;
    }
    let recovered = recovered?;
    tell(&args, &recovered);
    let held = |(_, found): &(u32, RecoveredChunk)| matches!(found, RecoveredChunk::Held { .. });
    Ok(if recovered.chunks.iter().any(held) {
        Exit::NeedsDecision
    } else {
        Exit::Done
    })
}

fn tell(args: &RecoverArgs, recovered: &Recovered) {
    let state = run::state_option(&args.state);
    if args.json {
        for (chunk, found) in &recovered.chunks {
            print(json_of(*chunk, found));
        }
        print(json!({
            "job": args.job, "rows": recovered.rows, "finished": recovered.finished,
            "chunks": recovered.chunks.len(),
        }));
        return;
    }
    for (chunk, found) in &recovered.chunks {
        print(format_args!("chunk {chunk}: {}", clean(&words(found))));
        if let RecoveredChunk::Held { .. } = found {
            let job = &args.job;
            print(format_args!(
                "  batchwright wait {job} --chunk {chunk}{state}\n  batchwright adopt {job} BATCH_ID --chunk {chunk}{state}\n  \
                 batchwright resubmit {job} --chunk {chunk} --accept-duplicate-risk{state}"
            ));
        }
    }
    print(format_args!(
        "{} of {} have their outcome; go on: batchwright resume {}{state}",
        count(recovered.finished),
        rows(recovered.rows),
        args.job,
    ));
}

fn words(found: &RecoveredChunk) -> String {
    match found {
        RecoveredChunk::Merged => "its rows have ended, or go on in a later chunk".to_owned(),
        RecoveredChunk::Adopted {
            batch,
            status,
            surplus,
        } => {
            let status = status
                .as_ref()
                .map_or("not listed any more", |it| it.as_str());
            let mut words = format!("batch {batch} is its own ({status}) and is to be collected");
            if !surplus.is_empty() {
                words += &format!(
                    "; {} may be paid besides, and will be cancelled",
                    surplus.join(", ")
                );
            }
            words
        }
        RecoveredChunk::Unclear { candidates } if candidates.is_empty() => {
            "no batch of it shows; it is looked for again before anything is bought".to_owned()
        }
        RecoveredChunk::Unclear { candidates } => format!(
            "{} holds as many requests; its results must prove that it is its own",
            candidates.join(" or ")
        ),
        RecoveredChunk::Held { reason } => format!("held: {reason}"),
        RecoveredChunk::Unsent => "nothing of it was sent".to_owned(),
        _ => "known".to_owned(),
    }
}

fn json_of(chunk: u32, found: &RecoveredChunk) -> serde_json::Value {
    match found {
        RecoveredChunk::Merged => json!({"chunk": chunk, "found": "merged"}),
        RecoveredChunk::Adopted {
            batch,
            status,
            surplus,
        } => json!({
            "chunk": chunk, "found": "adopted", "batch": batch,
            "status": status.as_ref().map(|status| status.as_str()), "surplus": surplus,
        }),
        RecoveredChunk::Unclear { candidates } => {
            json!({"chunk": chunk, "found": "unclear", "candidates": candidates})
        }
        RecoveredChunk::Held { reason } => {
            json!({"chunk": chunk, "found": "held", "reason": reason})
        }
        RecoveredChunk::Unsent => json!({"chunk": chunk, "found": "unsent"}),
        _ => json!({"chunk": chunk, "found": "known"}),
    }
}
