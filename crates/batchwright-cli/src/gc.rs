//! `gc`: what a job left at its provider.

use crate::{
    args::GcArgs,
    environment,
    exit::Exit,
    folder, providers, run,
    terminal::{clean, print, say},
};
use anyhow::bail;
use batchwright::{
    core::BatchInput,
    pipeline::{Job, LaneProvider},
};
use serde_json::json;
use std::collections::BTreeSet;

pub(crate) async fn gc(args: GcArgs) -> anyhow::Result<Exit> {
    let dir = folder::existing(&args.running.state, &args.job)?;
    let opening = dir.clone();
    let folder = run::ledger_options(&args.running);
    // The lock is held, so that no run of the job is about to use what is taken away.
    let job = tokio::task::spawn_blocking(move || Job::resume_with(&opening, folder)).await??;
    let spec = job.spec();
    if spec.sandbox {
        bail!("the sandbox ends with each run and leaves nothing behind");
    }
    let pairs = environment::pairs(args.running.env_file.as_deref())?;
    let connection = run::connection(&args.running);
    let own = providers::known(&spec.provider)?.build(&pairs, spec.lane, &connection)?;
    let others = run::others(spec, &pairs, &connection).into_iter();
    let bought_from: BTreeSet<String> = job
        .ledger()
        .chunks()?
        .into_iter()
        .map(|chunk| chunk.provider)
        .collect();
    let lanes: Vec<LaneProvider> = [own]
        .into_iter()
        .chain(others.map(LaneProvider::Batch))
        .filter(|lane| lane.name() == spec.provider || bought_from.contains(lane.name()))
        .collect();
    if let Some(missing) = bought_from
        .iter()
        .find(|name| lanes.iter().all(|lane| lane.name() != name.as_str()))
    {
        bail!("batches of this job were bought from {missing}, whose key is not set");
    }
    let mut objects = Vec::new();
    for lane in &lanes {
        let found = job.remote_objects(lane, args.results).await?;
        objects.extend(found.into_iter().map(|object| (lane, object)));
        if !args.running.quiet && !args.running.json && stores_nothing(lane) {
            say(format_args!(
                "{} stores no inputs: its creates carry them",
                lane.name()
            ));
        }
    }
    let mut failed = 0;
    for (lane, object) in &objects {
        let done = match (object.kept, args.yes) {
            (Some(why), _) => format!("kept: {why}"),
            (None, false) => "to be taken away".to_owned(),
            (None, true) => match job.remove_remote(lane, object).await {
                Ok(()) => "taken away".to_owned(),
                Err(error) => {
                    failed += 1;
                    format!("cannot be taken away: {error}")
                }
            },
        };
        let kind = object.kind.as_str();
        if args.running.json {
            print(json!({
                "provider": lane.name(), "kind": kind, "id": object.id, "chunk": object.chunk, "kept": object.kept,
                "result": done,
            }));
        } else {
            print(format_args!(
                "{kind:8} {} of chunk {}: {}",
                clean(&object.id),
                object.chunk,
                clean(&done)
            ));
        }
    }
    let garbage = objects.iter().filter(|(_, object)| object.kept.is_none());
    let garbage = garbage.count();
    if !args.running.quiet && !args.running.json {
        say(match (garbage, args.yes) {
            (0, _) => "nothing to take away".to_owned(),
            (number, true) => format!("{} of {number} taken away", number - failed),
            (number, false) => format!("{number} to be taken away; do so with --yes"),
        });
    }
    Ok(if failed > 0 {
        Exit::Stopped
    } else {
        Exit::Done
    })
}

/// Whether creates carry the lines.
fn stores_nothing(lane: &LaneProvider) -> bool {
    let LaneProvider::Batch(provider) = lane else {
        return false;
    };
    let limits = provider.capability().batch.as_ref();
    limits.is_some_and(|limits| limits.input == BatchInput::Inline)
}
