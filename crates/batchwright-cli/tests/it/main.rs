//! The command `batchwright` as people run it: the real binary over real files, with the emulator as the provider.
//!
//! Every test judges by four things: the results file, the exit code, the emulator's invoice, and what
//! `batchwright verify` says of the job's folder.
//!
//! `BATCHWRIGHT_E2E_KILLS` (default 6) is how often each of the kill tests kills a run; `BATCHWRIGHT_E2E_SEED`
//! (default: the time) is what the moments are made of, and is printed. `BATCHWRIGHT_E2E_FULL=1` cuts a segment at
//! every byte of its last line, where the default takes some of them, and crashes every vendor's jobs at every effect of
//! every story.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed test is the right place to panic, and seeds and figures are to be seen"
)]

mod account;
mod command;
mod crash_points;
mod creates;
mod damage;
mod disk;
mod faces;
mod facts;
mod faults;
mod held;
mod input;
mod kills;
mod lanes;
mod locking;
mod misuse;
mod pool;
mod preflight;
mod provider;
mod remainders;
mod results;
mod secrets;
mod signals;
mod vendors;
