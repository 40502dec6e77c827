//! `retry`.

use crate::{args::RetryArgs, exit::Exit, folder, output::Output, run, terminal};
use batchwright::{core::Error, pipeline::Job};

pub(crate) async fn retry(args: RetryArgs) -> anyhow::Result<Exit> {
    let dir = folder::existing(&args.running.state, &args.job)?;
    let mut statuses = Vec::new();
    if args.which.failed {
        statuses.extend(["failed", "expired", "missing", "unreadable"]);
    }
    if args.which.cancelled {
        statuses.push("cancelled");
    }
    if args.which.refused {
        statuses.push("refused");
    }
    let opening = dir.clone();
    let folder = run::ledger_options(&args.running);
    let (job, rows) = tokio::task::spawn_blocking(move || {
        let job = Job::resume_with(&opening, folder)?;
        let rows = job.reopen(&statuses)?;
        Ok::<_, Error>((job, rows))
    })
    .await??;
    let results = Output::stored(&args.job, job.ledger(), job.spec())?
        .with(&args.output)
        .options()?;
    results.check(&job.spec().input)?;
    run::say_unless(
        &args.running,
        format_args!("{} again", terminal::rows(rows)),
    );
    run::go(&args.job, &dir, job, &args.running, None, results, false).await
}
