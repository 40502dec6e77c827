//! `verify`.

use crate::{
    args::JobArgs,
    exit::Exit,
    folder,
    terminal::{clean, count, print},
};
use batchwright::{ledger::Ledger, pipeline::Job};
use serde_json::json;

pub(crate) fn verify(args: &JobArgs) -> anyhow::Result<Exit> {
    let dir = folder::existing(&args.state, &args.job)?;
    let ledger = Ledger::open_read_only(&dir)?;
    let rows = Job::rows_of(&ledger)?;
    let report = ledger.verify(Some(rows))?;
    let exit = if report.is_ok() {
        Exit::Done
    } else {
        Exit::NotVerified
    };
    if args.json {
        let findings: Vec<_> = report
            .findings
            .iter()
            .map(|finding| json!({"where": finding.place, "what": finding.what}))
            .collect();
        print(json!({"job": args.job, "rows": rows, "ok": report.is_ok(), "findings": findings}));
        return Ok(exit);
    }
    for finding in &report.findings {
        print(format_args!(
            "{}: {}",
            clean(&finding.place),
            clean(&finding.what)
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
