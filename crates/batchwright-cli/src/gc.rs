//! `gc`: what a job left at its provider.

use crate::{
    args::GcArgs,
    environment,
    exit::Exit,
    folder, providers, run,
    terminal::{clean, print, say},
};
use anyhow::bail;
use batchwright::pipeline::Job;
use serde_json::json;

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
    let lane = providers::known(&spec.provider)?.build(
        &pairs,
        spec.lane,
        &run::connection(&args.running),
    )?;
    let objects = job.remote_objects(&lane, args.results).await?;
    let mut failed = 0;
    for object in &objects {
        let done = match (object.kept, args.yes) {
            (Some(why), _) => format!("kept: {why}"),
            (None, false) => "to be taken away".to_owned(),
            (None, true) => match job.remove_remote(&lane, object).await {
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
                "kind": kind, "id": object.id, "chunk": object.chunk, "kept": object.kept,
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
    let garbage = objects.iter().filter(|object| object.kept.is_none());
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
