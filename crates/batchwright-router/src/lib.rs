#![doc = include_str!("../README.md")]

mod router;

mod drive;
mod submission;

mod join;
mod memory;
mod options;
mod store;

#[cfg(test)]
mod fake;

pub use drive::{ChunkJob, Control, DriveEnd, RouterEvent};
pub use join::{Join, JoinReport, Joined, Origin, refused_row};
pub use options::RouterOptions;
pub use router::{BatchRequest, BatchRouter, BatchRun};
pub use store::{ChunkStore, KeptFile, Merge, MergeReport};
