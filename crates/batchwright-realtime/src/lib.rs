#![doc = include_str!("../README.md")]

mod item;
mod log;
mod options;
mod pool;
mod progress;
mod run;
mod strategy;

mod attempt;
mod schedule;
mod scope_name;
mod telemetry;

pub use item::{Finished, ItemState, WorkItem};
pub use log::{DispatchLog, NoLog};
pub use options::PoolOptions;
pub use pool::ParallelPool;
pub use progress::{Meter, Progress};
pub use run::{EndReason, Run, RunEnd, Unfinished};
pub use strategy::{Attempt, Direct, Executed, Next, Scope, Strategy};
