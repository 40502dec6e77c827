//! `results`.

use crate::{
    args::ResultsArgs,
    exit::Exit,
    folder,
    output::Output,
    run::state_option,
    terminal::{rows, say},
};
use anyhow::bail;
use batchwright::{ledger::Ledger, pipeline::Job};

pub(crate) fn results(args: &ResultsArgs) -> anyhow::Result<Exit> {
    let dir = folder::existing(&args.state, &args.job)?;
    let spec = Job::spec_of(&dir)?;
    let options = Output::stored(&args.job, &Ledger::open_read_only(&dir)?, &spec)?
        .with(&args.output)
        .options()?;
    let ledger = Ledger::open_read_only(&dir)?;
    let left = Job::rows_of(&ledger)?.saturating_sub(ledger.scan()?.finished.len());
    if left > 0 && !args.partial {
        bail!(
            "{} of the job have no result yet; --partial writes what is there, and `batchwright resume {}{}` goes on",
            rows(left),
            args.job,
            state_option(&args.state)
        );
    }
    let written = Job::write_results_of(&dir, &options)?;
    if written.missing > 0 {
        say(format_args!(
            "{} with results, {} without yet: batchwright resume {}{}",
            rows(written.rows),
            rows(written.missing),
            args.job,
            state_option(&args.state)
        ));
        return Ok(Exit::Partial);
    }
    Ok(if written.unsuccessful == 0 {
        Exit::Done
    } else {
        Exit::Partial
    })
}
