//! Automation of the Batchwright workspace: one module per command, the flags in `flags`.
//!
//! A library beside the binary so that `tests/` can hold the rules to account.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks on its terminal"
)]

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use xshell::Shell;

mod flags;
mod tool;
pub mod workspace;

mod bench;
mod ci;
pub mod conformance;
pub mod layers;
pub mod publish;
pub mod release;
pub mod tidy;

use flags::{Command, Xtask};
use workspace::Workspace;

/// Runs the command named by the process's arguments.
///
/// The exit code is 0 when it succeeded, 1 when it failed, 2 when the arguments make no sense.
#[must_use]
pub fn run() -> ExitCode {
    match dispatch(Xtask::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    let shell = Shell::new()?;
    let workspace = Workspace::load(&shell)?;
    shell.change_dir(&workspace.root);
    match command {
        Command::Ci(flags) => ci::run(&shell, &workspace, &flags),
        Command::Layers => layers::run(&workspace),
        Command::Tidy => tidy::run(&workspace),
        Command::CheckFeatures => ci::check_features(&shell, &workspace),
        Command::Conformance(flags) => conformance::run(&shell, &workspace, &flags),
        Command::Bench(flags) => bench::run(&shell, &workspace, &flags),
        Command::Release(flags) => release::run(&shell, &workspace, &flags),
        Command::Publish(flags) => publish::run(&shell, &workspace, &flags),
    }
}
