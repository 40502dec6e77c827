//! Where and how a job's results are written, which its record remembers.

use crate::args::OutputArgs;
use anyhow::bail;
use batchwright::{
    ledger::Ledger,
    pipeline::{JobSpec, ResultsOptions},
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Where it is in the job's record.
const KEY: &str = "command.output";

/// Where and how results are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    target: PathBuf,
    unordered: bool,
    raw_csv: bool,
}

impl Output {
    /// What the command line says; `default` is the file where it names none.
    pub(crate) fn of(args: &OutputArgs, default: impl FnOnce() -> PathBuf) -> Self {
        Self {
            target: args.output.clone().unwrap_or_else(default),
            unordered: args.unordered,
            raw_csv: args.raw_csv,
        }
    }

    /// What the job was started with.
    pub(crate) fn stored(name: &str, ledger: &Ledger, spec: &JobSpec) -> anyhow::Result<Self> {
        let stored: Option<Value> = ledger
            .meta(KEY)?
            .and_then(|json| serde_json::from_str(&json).ok());
        let stored = stored.unwrap_or_default();
        let flag = |key: &str| stored[key].as_bool().unwrap_or(false);
        Ok(Self {
            // Jobs of the first builds kept the file alone.
            target: match stored.as_str().or(stored["target"].as_str()) {
                Some(target) => PathBuf::from(target),
                None => default_target(name, &spec.input),
            },
            unordered: flag("unordered"),
            raw_csv: flag("raw_csv"),
        })
    }

    /// With what the command line says now laid over it. An order that another file cannot have is not carried over.
    pub(crate) fn with(mut self, args: &OutputArgs) -> Self {
        if let Some(target) = &args.output {
            self.unordered &= !is_csv(target);
            self.target.clone_from(target);
        }
        self.unordered |= args.unordered;
        self.raw_csv |= args.raw_csv;
        self
    }

    /// Keeps it in the job's record.
    pub(crate) fn store(&self, ledger: &Ledger) -> anyhow::Result<()> {
        let target = if self.target == Path::new("-") {
            self.target.clone()
        } else {
            std::path::absolute(&self.target)?
        };
        // A name that is no Unicode cannot be kept in JSON; without one the default is taken.
        let record = json!({
            "target": target.to_str(),
            "unordered": self.unordered,
            "raw_csv": self.raw_csv,
        });
        Ok(ledger.set_meta(KEY, &record.to_string())?)
    }

    /// As the job takes it.
    ///
    /// # Errors
    /// Where CSV is wanted in another order than the input's.
    pub(crate) fn options(self) -> anyhow::Result<ResultsOptions> {
        if self.unordered && is_csv(&self.target) {
            bail!(
                "results in CSV repeat the input's columns and are in its order; use a .jsonl file with --unordered"
            );
        }
        let mut options = ResultsOptions::new(self.target);
        options.unordered = self.unordered;
        options.safe_csv = !self.raw_csv;
        Ok(options)
    }
}

fn is_csv(target: &Path) -> bool {
    target
        .extension()
        .is_some_and(|end| end.eq_ignore_ascii_case("csv") || end.eq_ignore_ascii_case("tsv"))
}

/// A file named after the job, so that two jobs over one input do not overwrite each other: CSV for CSV,
/// everything else JSONL.
pub(crate) fn default_target(name: &str, input: &Path) -> PathBuf {
    let end = if is_csv(input) { "csv" } else { "jsonl" };
    PathBuf::from(format!("{name}.results.{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_job_remembers_is_laid_under_what_the_command_says() {
        let stored = Output {
            target: "a.jsonl".into(),
            unordered: true,
            raw_csv: false,
        };
        let with = |output: Option<&str>, raw_csv| {
            let args = OutputArgs {
                output: output.map(PathBuf::from),
                unordered: false,
                raw_csv,
            };
            stored.clone().with(&args)
        };
        assert_eq!(with(None, false), stored);
        assert!(with(Some("b.jsonl"), true).unordered);
        assert!(with(Some("b.jsonl"), true).raw_csv);
        let csv = with(Some("b.csv"), false);
        assert!(!csv.unordered, "CSV is in the input's order");
        assert!(csv.options().is_ok());
    }
}
