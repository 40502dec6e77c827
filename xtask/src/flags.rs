//! The command line, all of it.

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Automation of the Batchwright workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Xtask {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything the server runs, in its order.
    Ci(Ci),
    /// Print the layers, and check that each crate uses only rows below its own.
    Layers,
    /// Check what no linter knows: folder names, provider layout, lints, leftovers, changelog.
    Tidy,
    /// Build each set of at most two features of each crate; without cargo-hack each feature alone, and none.
    CheckFeatures,
    /// Drive the emulator with the vendors' own Python packages, installed into `target`.
    Conformance(Conformance),
    /// Run a benchmark in release; without a name, list them.
    Bench(Bench),
    /// Set the version, date the changelog, commit and tag. Safe to run twice.
    Release(Release),
    /// Publish the crates in dependency order.
    Publish(Publish),
}

#[derive(Debug, Args)]
pub(crate) struct Ci {
    /// The steps to run, still in the order below; all of them unless named.
    #[arg(value_enum)]
    pub(crate) steps: Vec<Step>,
    /// Run the remaining steps after one has failed.
    #[arg(long)]
    pub(crate) keep_going: bool,
}

/// One step of `ci`; the order here is the order they run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// Formatting, without changing anything.
    Fmt,
    /// Clippy on all targets and all features, warnings denied.
    Clippy,
    /// Unit and integration tests.
    Test,
    /// The examples in the documentation.
    Doctest,
    /// The documentation, warnings denied.
    Docs,
    /// The layer rule.
    Layers,
    /// What no linter knows.
    Tidy,
    /// Each set of at most two features.
    Features,
    /// The programs in `examples/`.
    Examples,
    /// The vendors' own packages against the emulator.
    Conformance,
    /// Licences, bans and sources of the dependencies.
    Deny,
    /// Known weaknesses in the dependencies.
    Advisories,
}

#[derive(Debug, Args)]
pub(crate) struct Conformance {
    /// The faces to drive, such as `openai`; all of them unless named.
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// A file name in `benches/src/bin`, without `.rs`.
    pub(crate) name: Option<String>,
    /// Handed to the benchmark as they are.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Release {
    /// The new version, such as `0.2.0`.
    pub(crate) version: String,
    /// Print what would be done, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// Pack and build every crate as a registry would, and upload nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}
