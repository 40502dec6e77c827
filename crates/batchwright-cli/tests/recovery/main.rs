//! A job whose journal is lost, and the audit of its files, with the real binary and the emulator as the provider.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    reason = "a failed test is the right place to panic, and helpers are shared with the other tests"
)]

#[path = "../it/command.rs"]
mod command;
#[path = "../it/input.rs"]
mod input;
#[path = "../it/provider.rs"]
mod provider;
#[path = "../it/results.rs"]
mod results;

mod audit;
mod lost;
mod place;
