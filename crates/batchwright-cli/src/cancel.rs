//! `cancel`.

use crate::{args::CancelArgs, exit::Exit, folder, run};
use batchwright::pipeline::Job;

pub(crate) async fn cancel(args: CancelArgs) -> anyhow::Result<Exit> {
    let dir = folder::existing(&args.running.state, &args.job)?;
    let opening = dir.clone();
    let folder = run::ledger_options(&args.running);
    let job = tokio::task::spawn_blocking(move || Job::resume_with(&opening, folder)).await??;
    let output = run::stored_output(&args.job, job.ledger(), job.spec())?;
    let results = run::results_options(output, &crate::args::OutputArgs::default())?;
    results.check(&job.spec().input)?;
    run::go(&args.job, &dir, job, &args.running, None, results, true).await
}
