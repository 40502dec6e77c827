//! What a router tells while it works.

use batchwright_core::{BatchCounts, BatchHandle, BatchStatus, Error, Money, Timestamp};
use std::{fmt, time::Duration};

/// What a drive tells while it runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RouterEvent {
    /// A batch was created for a chunk, or one of an earlier process was found.
    Sent {
        /// The chunk it was bought for.
        chunk: u32,
        /// The batch.
        handle: BatchHandle,
    },
    /// A chunk waits for room in its provider's queue.
    Queued {
        /// Which chunk.
        chunk: u32,
        /// The model whose queue it is.
        model: String,
    },
    /// A batch is in its state for longer than is usual at its provider. Told again when the time has doubled;
    /// nothing ends by it.
    Slow {
        /// The chunk it was bought for.
        chunk: u32,
        /// The batch.
        handle: BatchHandle,
        /// Its state.
        status: BatchStatus,
        /// For how long.
        age: Duration,
        /// How long is usual at most ([`BatchLimits::typical_in`](batchwright_core::BatchLimits::typical_in)).
        typical: Duration,
    },
    /// The results of a batch that are not collected yet will be gone: told when half the time they are kept has passed,
    /// and when three days are left, or an eighth where that is less (F-130).
    Expiring {
        /// The chunk it was bought for.
        chunk: u32,
        /// The batch.
        handle: BatchHandle,
        /// Until when they are kept, by what the provider documents.
        collect_by: Timestamp,
    },
    /// A batch was found in this state.
    Status {
        /// The chunk it was bought for.
        chunk: u32,
        /// The batch.
        handle: BatchHandle,
        /// Its state.
        status: BatchStatus,
        /// Counts, where the provider gives any.
        counts: Option<BatchCounts>,
    },
    /// A chunk waits because of an error that may pass.
    Waiting {
        /// Which chunk.
        chunk: u32,
        /// What went wrong.
        error: Error,
    },
    /// Every row of a chunk has its outcome.
    Merged {
        /// Which chunk.
        chunk: u32,
        /// Its rows.
        rows: u64,
    },
    /// A batch was found besides the one that counts for the chunk, or one that may be: it is cancelled where it is
    /// ours beyond doubt.
    Surplus {
        /// The chunk.
        chunk: u32,
        /// The batch.
        handle: BatchHandle,
    },
    /// A surplus batch has ended, and what it answered is counted.
    SurplusEnded {
        /// The chunk.
        chunk: u32,
        /// The batch.
        handle: BatchHandle,
        /// Rows it answered, which may be paid twice; 0 where it was not ours.
        rows: u64,
        /// What they cost, where that is known.
        cost: Option<Money>,
    },
    /// A person must decide before anything more is sent for a chunk.
    Held {
        /// Which chunk.
        chunk: u32,
        /// Why.
        reason: String,
    },
    /// Nothing more is done for a chunk in this drive, however it ended; it comes last of the chunk's.
    Ended {
        /// Which chunk.
        chunk: u32,
    },
}

impl RouterEvent {
    /// The chunk it is about.
    pub fn chunk(&self) -> u32 {
        match self {
            Self::Sent { chunk, .. }
            | Self::Queued { chunk, .. }
            | Self::Slow { chunk, .. }
            | Self::Expiring { chunk, .. }
            | Self::Status { chunk, .. }
            | Self::Waiting { chunk, .. }
            | Self::Merged { chunk, .. }
            | Self::Surplus { chunk, .. }
            | Self::SurplusEnded { chunk, .. }
            | Self::Held { chunk, .. }
            | Self::Ended { chunk } => *chunk,
        }
    }
}

/// One line for people.
impl fmt::Display for RouterEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent { handle, .. } => write!(f, "{} was created", handle.id),
            Self::Queued { chunk, model } => {
                write!(f, "batch {chunk} waits for room in the queue of {model}")
            }
            Self::Slow {
                handle,
                status,
                age,
                typical,
                ..
            } => write!(
                f,
                "{} is {status} for {}; usual is at most {}",
                handle.id,
                rough(*age),
                rough(*typical)
            ),
            Self::Expiring {
                handle, collect_by, ..
            } => write!(
                f,
                "the results of {} are kept until {} (Unix time)",
                handle.id,
                collect_by.as_unix_seconds()
            ),
            Self::Status { handle, status, .. } => write!(f, "{} is {status}", handle.id),
            Self::Waiting { chunk, error } => write!(f, "batch {chunk} waits: {error}"),
            Self::Merged { chunk, rows } => write!(f, "batch {chunk} has ended, {rows} rows"),
            Self::Surplus { handle, .. } => write!(f, "{} is one too many", handle.id),
            Self::SurplusEnded { handle, rows, .. } => write!(
                f,
                "{}, which was one too many, has answered {rows} rows",
                handle.id
            ),
            Self::Held { chunk, reason } => write!(f, "batch {chunk} is held: {reason}"),
            Self::Ended { chunk } => write!(f, "nothing more is done for batch {chunk}"),
        }
    }
}

/// A time in its largest whole unit.
fn rough(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
