//! Batches: a state machine over virtual time, and the executor that turns input lines into results.
//!
//! What a batch is at a virtual instant follows from its record and the instant alone. [`settle`] brings a record up to
//! an instant: it validates, executes the rows that are due, and builds the results files. Rows are executed in order
//! and in small steps, each ended by a checkpoint, so a killed emulator goes on where it was and bills no row twice.
//!
//! Nothing here knows a provider: what lines look like, what validation refuses and where results go is the face's, by
//! [`BatchRows`].

mod cell;
mod files;
mod record;
mod rows;
mod worker;

pub(crate) use cell::BatchCell;
pub(crate) use record::{BatchRecord, BatchState, Checkpoint, RowUsage};
pub(crate) use rows::{BadFile, BatchRows, Row, RowCharge, RowEnd, Scan, Unexecuted, stage_upload};
pub(crate) use worker::{Scanned, scan, settle};
