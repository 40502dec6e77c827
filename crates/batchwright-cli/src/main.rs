//! The `batchwright` command: bulk LLM work from a file, as a job that survives crashes.

mod args;
mod run;

mod cancel;
mod catalogue;
mod check;
mod decide;
mod doctor;
mod emulator;
mod gc;
mod jobs;
mod recover;
mod results;
mod retry;
mod status;
mod verify;

mod environment;
mod exit;
mod folder;
mod machine;
mod named_file;
mod output;
mod probe;
mod progress;
mod providers;
mod sandbox;
mod signals;
mod terminal;

use args::{Cli, Command};
use clap::Parser;
use exit::Exit;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter =
        EnvFilter::try_from_env("BATCHWRIGHT_LOG").unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("start the runtime")),
    };
    let result = runtime.block_on(dispatch(cli));
    // Blocking readers may sit in a system call; nothing they hold is worth waiting for.
    runtime.shutdown_background();
    match result {
        Ok(exit) => exit.into(),
        Err(error) => fail(&error),
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<Exit> {
    match cli.command {
        Command::Run(args) => run::run(args).await,
        Command::Check(args) => check::check(args).await,
        Command::Resume(args) => run::resume(args).await,
        Command::Retry(args) => retry::retry(*args).await,
        Command::Status(args) => status::status(&args),
        Command::Watch(args) => status::watch(&args).await,
        Command::Wait(args) => decide::wait(&args),
        Command::Adopt(args) => decide::adopt(args).await,
        Command::Resubmit(args) => decide::resubmit(&args),
        Command::Recover(args) => recover::recover(args).await,
        Command::Cancel(args) => cancel::cancel(args).await,
        Command::Results(args) => results::results(&args),
        Command::Verify(args) => verify::verify(&args),
        Command::Gc(args) => gc::gc(*args).await,
        Command::Jobs(args) => jobs::jobs(&args),
        Command::Providers(args) => catalogue::providers(&args),
        Command::Models(args) => catalogue::models(&args),
        Command::Doctor(args) => doctor::doctor(args).await,
        Command::Emulator(args) => emulator::emulator(args).await,
        Command::Completions(args) => {
            args::completions(args.shell);
            Ok(Exit::Done)
        }
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    terminal::error(error);
    Exit::of(error).into()
}
