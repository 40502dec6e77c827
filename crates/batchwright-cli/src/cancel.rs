//! `cancel`.

use crate::{args::CancelArgs, exit::Exit, folder, output::Output, run};
use batchwright::pipeline::Job;

pub(crate) async fn cancel(args: CancelArgs) -> anyhow::Result<Exit> {
    let dir = folder::existing(&args.running.state, &args.job)?;
    let opening = dir.clone();
    let folder = run::ledger_options(&args.running);
    let job = tokio::task::spawn_blocking(move || Job::resume_with(&opening, folder)).await??;
    let results = Output::stored(&args.job, job.ledger(), job.spec())?.options()?;
    results.check(&job.spec().input)?;
    run::go(&args.job, &dir, job, &args.running, None, results, true).await
}
