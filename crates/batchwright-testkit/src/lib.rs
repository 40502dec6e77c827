#![doc = include_str!("../README.md")]
#![allow(clippy::unwrap_used, reason = "a case fails by panicking")]

mod between;
mod double;
mod harness;
mod live;
mod script;
mod subject;
mod suite;
mod world;

pub mod create;
pub mod endings;
pub mod files;
pub mod life;
pub mod lines;
pub mod realtime;
pub mod secrets;

pub use double::{Billed, Double, Powers};
pub use live::Live;
pub use script::{Calls, Script, ScriptedProvider, ScriptedStrategy};
pub use subject::{Made, Place, Route, Routes, Subject};
pub use suite::{Case, cases, run};

pub use batchwright_emulator::{Face, prompt_hash};
