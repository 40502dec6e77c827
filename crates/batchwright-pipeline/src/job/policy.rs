//! What a job decides about its chunks and about rows that come back without a final outcome.

use super::{RunOptions, keep_card};
use batchwright_core::{Ending, Outcome, Result};
use batchwright_ledger::Ledger;
use serde::{Deserialize, Serialize};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio_util::sync::CancellationToken;

/// Where it is in the job's record.
const KEY: &str = "policy";
/// When the job was started, in milliseconds since 1970.
pub(super) const STARTED: &str = "started_at";
/// Set once batches were cancelled because the job's deadline had passed.
const LATE: &str = "deadline_passed";

/// How often a row is sent in batches at most, unless told otherwise.
const ROUNDS: u32 = 3;
/// Inputs refused in a row with a row among others, after which the row fails with the others of the last one.
const REFUSALS: u32 = 20;
/// Inputs of a job that are halved to find out what they were refused for; each costs two creates, and no money.
pub(super) const HALVINGS: usize = 32;

/// Which way rows go that come back from a batch without a final outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "one for each lane")]
pub enum Remainder {
    /// Into a new batch, as often as the rounds allow.
    #[default]
    Batch,
    /// Through direct calls, once the batches have ended.
    Realtime,
}

/// What was asked for, now or when the job was started; a later word counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Policy {
    pub(super) chunk_rows: Option<u64>,
    /// Picodollars.
    pub(super) chunk_cost: Option<u64>,
    pub(super) chunk_tokens: Option<u64>,
    rounds: Option<u32>,
    remainder: Option<Remainder>,
    rebuy_missing: Option<bool>,
    /// Milliseconds from the job's start.
    deadline: Option<u64>,
}

impl Policy {
    /// What holds for this run, kept for the next ones.
    pub(super) fn settle(ledger: &Ledger, options: &RunOptions) -> Result<Self> {
        let json = ledger.meta(KEY)?;
        let known: Self = json
            .as_deref()
            .and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_default();
        let deadline = options
            .deadline
            .map(|deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
        let now = Self {
            chunk_rows: options.chunk_rows.or(known.chunk_rows),
            chunk_cost: options
                .chunk_cost
                .map(|cost| cost.as_picodollars())
                .or(known.chunk_cost),
            chunk_tokens: options.chunk_tokens.or(known.chunk_tokens),
            rounds: options.rounds.or(known.rounds),
            remainder: options.remainder.or(known.remainder),
            rebuy_missing: options.rebuy_missing.or(known.rebuy_missing),
            deadline: deadline.or(known.deadline),
        };
        if now != known {
            let json = serde_json::to_string(&now).expect("it is plain data");
            ledger.set_meta(KEY, &json)?;
            keep_card(ledger)?;
        }
        Ok(now)
    }

    pub(super) fn remainder(&self) -> Remainder {
        self.remainder.unwrap_or_default()
    }

    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(ROUNDS).max(1)
    }

    /// How long until the deadline, by the clock on the wall, since the job may have been started by another
    /// process; never more than the deadline itself, wherever that clock was set to meanwhile (F-138).
    pub(super) fn until_deadline(&self, ledger: &Ledger) -> Result<Option<Duration>> {
        let Some(deadline) = self.deadline.map(Duration::from_millis) else {
            return Ok(None);
        };
        let started = ledger.meta(STARTED)?.and_then(|at| at.parse().ok());
        let started = Duration::from_millis(started.unwrap_or_else(now_millis));
        let left = (started + deadline).saturating_sub(Duration::from_millis(now_millis()));
        Ok(Some(left.min(deadline)))
    }
}

pub(super) fn now_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Tells a row's final outcome from one after which it goes on.
#[derive(Clone)]
pub(super) struct Judge {
    policy: Policy,
    /// The caller cancelled the job in this run.
    cancel: CancellationToken,
    late: Arc<AtomicBool>,
}

/// What is known of the chunk whose rows are judged.
#[derive(Clone, Copy)]
pub(super) struct Judged {
    pub(super) round: u32,
    pub(super) refusals: u32,
    /// Whether a cancel of its batch was asked for.
    pub(super) cancel_asked: bool,
    /// Whether its batch failed, so that what it has no line of did not run.
    pub(super) failed: bool,
}

impl Judge {
    pub(super) fn new(policy: &Policy, cancel: CancellationToken, ledger: &Ledger) -> Result<Self> {
        let late = ledger.meta(LATE)?.is_some();
        Ok(Self {
            policy: policy.clone(),
            cancel,
            late: Arc::new(AtomicBool::new(late)),
        })
    }

    /// Whether the deadline has passed, and batches are cancelled for it.
    pub(super) fn is_late(&self) -> bool {
        self.late.load(Relaxed)
    }

    /// The deadline has passed. Durable before any batch is cancelled for it, so that whoever collects a cancelled
    /// batch knows that its rows go on.
    pub(super) fn set_late(&self, ledger: &Ledger) -> Result<()> {
        ledger.set_meta(LATE, "1")?;
        keep_card(ledger)?;
        self.late.store(true, Relaxed);
        Ok(())
    }

    /// Whether rows without a final outcome go to direct calls.
    pub(super) fn goes_direct(&self) -> bool {
        self.is_late() || self.policy.remainder() == Remainder::Realtime
    }

    /// Whether rows without a final outcome go on at all.
    fn goes_on(&self, chunk: &Judged) -> bool {
        !self.cancel.is_cancelled() && (self.goes_direct() || chunk.round < self.policy.rounds())
    }

    /// Whether the row's outcome is its last.
    pub(super) fn is_final(&self, chunk: &Judged, outcome: &Outcome) -> bool {
        let goes_on = self.goes_on(chunk);
        match &outcome.ending {
            Ending::Succeeded(_) | Ending::Refused(_) => true,
            Ending::Failed(error) => {
                !(goes_on && error.is_retryable() && error.should_retry() != Some(false))
            }
            Ending::Expired => !goes_on,
            // By the caller, unless the deadline had them cancelled; else the provider did.
            Ending::Cancelled => !goes_on || chunk.cancel_asked && !self.is_late(),
            // It may have been billed: buying it again is for the caller to choose, and is counted.
            Ending::Missing => !goes_on || !chunk.failed && !self.rebuys(),
            Ending::Unreadable(_) => !goes_on || !self.rebuys(),
        }
    }

    /// Whether an outcome that is not final was perhaps paid for.
    pub(super) fn was_paid_perhaps(chunk: &Judged, outcome: &Outcome) -> bool {
        match &outcome.ending {
            Ending::Missing => !chunk.failed,
            Ending::Unreadable(_) => true,
            _ => false,
        }
    }

    /// Whether the rows of a refused input that are not to blame go on. Nothing ran, so it is no round.
    pub(super) fn searches(&self, chunk: &Judged) -> bool {
        !self.cancel.is_cancelled()
            && chunk.refusals < REFUSALS
            && (self.goes_direct() || self.policy.rounds() > 1)
    }

    fn rebuys(&self) -> bool {
        self.policy.rebuy_missing.unwrap_or(false)
    }
}
