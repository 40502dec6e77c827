//! `verify`.

use crate::{
    args::JobArgs,
    exit::Exit,
    folder, providers,
    terminal::{clean, count, print},
};
use batchwright::{
    ledger::{Finding, Ledger, VerifyReport},
    pipeline::Job,
};
use serde_json::json;

pub(crate) fn verify(args: &JobArgs) -> anyhow::Result<Exit> {
    let dir = folder::existing(&args.state, &args.job)?;
    let report = match Ledger::open_read_only(&dir).and_then(|ledger| Job::rows_of(&ledger)) {
        Ok(rows) => (rows, Job::audit(&dir, &providers::offline_batches())?),
        // A journal that cannot even be read is what this command is to find.
        Err(error) => {
            let mut report = VerifyReport::default();
            report
                .findings
                .push(Finding::new("ledger.sqlite", error.message()));
            (0, report)
        }
    };
    let (rows, report) = report;
    let exit = if report.is_ok() {
        Exit::Done
    } else {
        Exit::NotVerified
    };
    if args.json {
        let [findings, notes] = [&report.findings, &report.notes].map(|found| {
            let found = found.iter();
            let found = found.map(|one| json!({"where": one.place, "what": one.what}));
            found.collect::<Vec<_>>()
        });
        print(
            json!({"job": args.job, "rows": rows, "ok": report.is_ok(), "findings": findings, "notes": notes}),
        );
        return Ok(exit);
    }
    for finding in &report.findings {
        print(format_args!(
            "{}: {}",
            clean(&finding.place),
            clean(&finding.what)
        ));
    }
    for note in &report.notes {
        print(format_args!(
            "note: {}: {}",
            clean(&note.place),
            clean(&note.what)
        ));
    }
    if report.is_ok() {
        print(format_args!(
            "ok: each of {} rows has exactly one outcome, and every file is as it was written",
            count(rows)
        ));
    } else {
        print(format_args!("not ok: {} findings", report.findings.len()));
    }
    Ok(exit)
}
