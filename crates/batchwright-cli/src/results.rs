//! `results`.

use crate::{
    args::ResultsArgs,
    exit::Exit,
    folder, run,
    terminal::{count, say},
};
use batchwright::pipeline::Job;

pub(crate) fn results(args: &ResultsArgs) -> anyhow::Result<Exit> {
    let dir = folder::existing(&args.state, &args.job)?;
    let spec = Job::spec_of(&dir)?;
    let target = args
        .output
        .output
        .clone()
        .unwrap_or_else(|| run::default_output(&spec.input));
    let options = run::results_options(target, &args.output)?;
    let written = Job::write_results_of(&dir, &options)?;
    if written.missing > 0 {
        say(format_args!(
            "{} rows have results, {} have none yet: batchwright resume {}",
            count(written.rows),
            count(written.missing),
            args.job
        ));
        return Ok(Exit::Partial);
    }
    Ok(if written.unsuccessful == 0 {
        Exit::Done
    } else {
        Exit::Partial
    })
}
