//! `jobs`.

use crate::{
    args::JobsArgs,
    exit::Exit,
    status::Overview,
    terminal::{clean, print},
};
use anyhow::Context;
use batchwright::ledger::Ledger;
use comfy_table::{Table, presets};

pub(crate) fn jobs(args: &JobsArgs) -> anyhow::Result<Exit> {
    let mut names = Vec::new();
    match std::fs::read_dir(&args.state) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry.with_context(|| format!("read {}", args.state.display()))?;
                if Ledger::exists(&entry.path()) {
                    names.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("read {}", args.state.display())),
    }
    names.sort();
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(["job", "state", "rows", "done", "lane", "cost", "input"]);
    for name in names {
        let overview = Overview::read(&args.state.join(&name), &name);
        match overview {
            Ok(overview) if args.json => print(overview.to_json()),
            Ok(overview) => {
                table.add_row([
                    name,
                    overview.state().to_owned(),
                    overview.rows.to_string(),
                    overview.scan.finished.len().to_string(),
                    overview.spec.lane.to_string(),
                    overview.cost(),
                    clean(&overview.spec.input.display().to_string()),
                ]);
            }
            Err(error) if args.json => {
                print(serde_json::json!({"job": name, "error": error.to_string()}))
            }
            Err(error) => {
                table.add_row([name, format!("unreadable: {}", clean(&error.to_string()))]);
            }
        }
    }
    if !args.json {
        print(table);
    }
    Ok(Exit::Done)
}
