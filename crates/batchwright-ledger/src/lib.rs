#![doc = include_str!("../README.md")]

mod ledger;

mod journal;
mod json_line;
mod state;

mod chunk;
mod raw;
mod seal;
mod set_aside;

mod outcome_log;
mod record;
mod segment;

mod checkpoint;
mod index;
mod rows;
mod scan;
mod verify;

mod card;
mod recovery;

mod files;
mod mounts;

pub use chunk::{ChunkLine, ChunkLines, ChunkRows, ChunkWriter, RowIds, SealedChunk};
pub use index::{OutcomeIndex, UnorderedOutcomes};
pub use ledger::{Ledger, LedgerOptions};
pub use outcome_log::{BulkWriter, OutcomeLog};
pub use raw::RawFile;
pub use record::{OutcomeRecord, RecordError, RecordProvenance};
pub use recovery::Recovery;
pub use rows::RowSet;
pub use scan::{Scan, Tally};
pub use set_aside::SetAside;
pub use state::{ChunkPhase, ChunkState, SurplusBatch, SurplusEnd};
pub use verify::{Finding, VerifyReport, WrittenOutcome};
