#![doc = include_str!("../README.md")]

mod router;
mod run;
mod spec;
mod wait;

mod drive;
mod submission;

mod events;
mod patience;
mod polls;
mod queue;

mod active;
mod feed;
mod gather;
mod join;
mod memory;
mod options;
mod store;

#[cfg(test)]
mod fake;

pub use active::{ActiveBatch, BatchTicket};
pub use drive::{ChunkJob, Control, DriveEnd};
pub use events::RouterEvent;
pub use join::{Join, JoinReport, Joined, Origin, refused_row};
pub use options::{QueueLimit, RouterOptions};
pub use router::{BatchRouter, Cancelled};
pub use run::{BatchRow, BatchRun, RunItem, SentBatch};
pub use spec::{BatchRequest, Split, UniqueIds};
pub use store::{ChunkStore, KeptFile, Merge, MergeReport};
pub use wait::{WaitError, WaitOptions};
