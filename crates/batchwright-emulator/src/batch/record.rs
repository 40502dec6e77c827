//! What is known of a batch, and when its states end.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Scanned;
use crate::config::BatchPace;
use crate::faults::{BatchFailure, BatchQuirks, Counts};
use crate::invoice::Sum;

const THIRTY_DAYS_MS: i64 = 2_592_000_000;

/// Tokens of one row or many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RowUsage {
    pub(crate) input: u64,
    pub(crate) cached: u64,
    pub(crate) output: u64,
    pub(crate) reasoning: u64,
}

impl RowUsage {
    pub(super) fn add(&mut self, other: Self) {
        self.input += other.input;
        self.cached += other.cached;
        self.output += other.output;
        self.reasoning += other.reasoning;
    }
}

/// Where a batch is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BatchState {
    Validating,
    Failed,
    InProgress,
    Finalizing,
    Completed,
    Expired,
    Cancelling,
    Cancelled,
}

impl BatchState {
    pub(crate) fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Failed | Self::Completed | Self::Expired | Self::Cancelled
        )
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::Failed => "failed",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }
}

/// All there is to know about a batch; kept as one JSON file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BatchRecord {
    pub(crate) id: String,
    pub(crate) sequence: u64,
    pub(crate) face: String,
    /// Fingerprint of the owner's key.
    pub(crate) key: String,
    pub(crate) endpoint: String,
    /// The uploaded input; empty when the rows came with the creation or from elsewhere.
    pub(crate) input_file_id: String,
    /// Whether the rows came with the creation.
    #[serde(default)]
    pub(crate) inline: bool,
    pub(crate) metadata: Option<Map<String, Value>>,
    /// How long results files live, in virtual milliseconds.
    pub(crate) results_live_ms: i64,
    pub(crate) created_ms: i64,
    pub(crate) expires_ms: i64,
    /// Whether `expires_ms` is only shown: the batch goes on until it is done.
    #[serde(default)]
    pub(crate) never_expires: bool,
    /// What a face wants to remember of the creation: its own window, names, labels.
    #[serde(default)]
    pub(crate) extra: Value,
    pub(crate) quirks: BatchQuirks,
    pub(crate) state: BatchState,
    pub(crate) model: Option<String>,
    pub(crate) in_progress_ms: Option<i64>,
    pub(crate) finalizing_ms: Option<i64>,
    pub(crate) completed_ms: Option<i64>,
    pub(crate) failed_ms: Option<i64>,
    pub(crate) expired_ms: Option<i64>,
    /// When a cancel was asked for; set from outside while the executor works.
    pub(crate) cancelling_ms: Option<i64>,
    pub(crate) cancelled_ms: Option<i64>,
    pub(crate) errors: Vec<BatchFailure>,
    pub(crate) total: u64,
    /// Input tokens that wait until the batch ends.
    pub(crate) tokens: u64,
    pub(crate) done: Checkpoint,
    pub(crate) output_file_id: Option<String>,
    pub(crate) error_file_id: Option<String>,
}

/// How far the executor came: what the partial files hold up to these lengths counts, the rest is done again.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) rows: u64,
    pub(crate) input_bytes: u64,
    pub(crate) output_bytes: u64,
    pub(crate) error_bytes: u64,
    pub(crate) invoice_bytes: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) usage: RowUsage,
    /// Price of what is billed, in US dollars.
    #[serde(default)]
    pub(crate) price_usd: f64,
}

impl Checkpoint {
    /// What the batch's part of the invoice comes to.
    pub(crate) fn sum(&self) -> Sum {
        Sum {
            units: self.completed,
            input_tokens: self.usage.input,
            output_tokens: self.usage.output,
            price_usd: self.price_usd,
        }
    }
}

impl BatchRecord {
    /// A batch just created, in `validating`, with everything a face may set left empty. Results live thirty days.
    pub(crate) fn new(
        face: &str,
        key: String,
        id: String,
        sequence: u64,
        created_ms: i64,
        expires_ms: i64,
        quirks: BatchQuirks,
    ) -> Self {
        Self {
            id,
            sequence,
            face: face.to_owned(),
            key,
            endpoint: String::new(),
            input_file_id: String::new(),
            inline: false,
            metadata: None,
            results_live_ms: THIRTY_DAYS_MS,
            created_ms,
            expires_ms,
            never_expires: false,
            extra: Value::Null,
            quirks,
            state: BatchState::Validating,
            model: None,
            in_progress_ms: None,
            finalizing_ms: None,
            completed_ms: None,
            failed_ms: None,
            expired_ms: None,
            cancelling_ms: None,
            cancelled_ms: None,
            errors: Vec::new(),
            total: 0,
            tokens: 0,
            done: Checkpoint::default(),
            output_file_id: None,
            error_file_id: None,
        }
    }

    /// A batch that was validated at its creation: it begins in `in_progress`, with what the look at its lines found.
    ///
    /// Its lines must be given to [`Engine::create_batch`](crate::engine::Engine::create_batch). Where the fault script
    /// wants something of `validating`, it begins there all the same.
    pub(crate) fn validated(mut self, scanned: Scanned) -> Self {
        self.total = scanned.rows;
        self.tokens = scanned.tokens;
        self.model = scanned.model.map(str::to_owned);
        self.errors = scanned.notes;
        if self.quirks.failure.is_none() && self.quirks.stuck_ms("validating") == 0 {
            self.in_progress_ms = Some(self.created_ms);
            self.state = BatchState::InProgress;
        }
        self
    }

    /// The state a client sees: a cancel shows at once, before the executor has taken notice.
    pub(crate) fn shown_state(&self) -> BatchState {
        if self.cancelling_ms.is_some() && !self.state.is_terminal() {
            BatchState::Cancelling
        } else {
            self.state
        }
    }

    /// The row counts a client sees.
    pub(crate) fn shown_counts(&self) -> Counts {
        if let (Some(counts), Some(_)) = (self.quirks.counts, self.finalizing_ms) {
            return counts;
        }
        let mut counts = Counts::default();
        if matches!(self.state, BatchState::Validating | BatchState::Failed) {
            return counts;
        }
        counts.total = self.total;
        if !(self.quirks.cancel_loses_rows && self.state == BatchState::Cancelled) {
            counts.completed = self.done.completed;
            counts.failed = self.done.failed;
        }
        counts
    }

    /// Whether results file ids are shown yet.
    pub(crate) fn shows_files(&self, now_ms: i64) -> bool {
        self.completed_ms
            .is_none_or(|completed| completed + self.quirks.late_file_ids_ms <= now_ms)
    }

    /// Whether a call to this face with this key finds the batch now.
    pub(crate) fn is_there(&self, face: &str, key: &str, now_ms: i64) -> bool {
        let forgotten = self
            .quirks
            .forget_after_ms
            .is_some_and(|after| self.created_ms + after <= now_ms);
        self.face == face
            && self.key == key
            && self.created_ms + self.quirks.visible_lag_ms <= now_ms
            && !forgotten
    }

    /// The invented state that the fault script wants shown in place of `in_progress` now.
    pub(crate) fn invented_state(&self, now_ms: i64) -> Option<&str> {
        let (name, ms) = self.quirks.invented_state()?;
        let from = self.in_progress_ms?;
        (self.shown_state() == BatchState::InProgress && now_ms < from + ms).then_some(name)
    }

    pub(crate) fn is_listed(&self, now_ms: i64) -> bool {
        self.created_ms + self.quirks.list_lag_ms <= now_ms
    }

    /// The latest instant that the record speaks of having happened.
    pub(crate) fn latest_ms(&self) -> i64 {
        [
            self.in_progress_ms,
            self.finalizing_ms,
            self.completed_ms,
            self.failed_ms,
            self.expired_ms,
            self.cancelling_ms,
            self.cancelled_ms,
        ]
        .into_iter()
        .flatten()
        .fold(self.created_ms, i64::max)
    }

    pub(super) fn validated_ms(&self, pace: &BatchPace) -> i64 {
        self.created_ms + ms(pace.validating).max(self.quirks.stuck_ms("validating"))
    }

    /// When the first row begins.
    pub(super) fn starts_ms(&self, pace: &BatchPace) -> i64 {
        self.in_progress_ms.unwrap_or(self.created_ms) + ms(pace.warm_up)
    }

    /// Rows whose time has come at an instant.
    pub(super) fn due_rows(&self, pace: &BatchPace, now_ms: i64) -> u64 {
        let limit = self.quirks.expire_after_rows.unwrap_or(u64::MAX);
        let passed = u64::try_from(now_ms - self.starts_ms(pace)).unwrap_or(0);
        let due = passed
            .saturating_mul(1000)
            .checked_div(per_row_us(pace))
            .unwrap_or(if now_ms < self.starts_ms(pace) {
                0
            } else {
                u64::MAX
            });
        due.min(self.total).min(limit)
    }

    /// When row `index` is done.
    pub(super) fn row_ms(&self, pace: &BatchPace, index: u64) -> i64 {
        let passed = (index + 1).saturating_mul(per_row_us(pace)) / 1000;
        self.starts_ms(pace)
            .saturating_add(i64::try_from(passed).unwrap_or(i64::MAX))
    }

    /// When the rows end, and whether by expiry.
    pub(super) fn rows_end(&self, pace: &BatchPace) -> (i64, bool) {
        let stuck = self
            .quirks
            .stuck_ms("in_progress")
            .max(self.quirks.invented_state().map_or(0, |(_, ms)| ms));
        let stuck_until = self.in_progress_ms.unwrap_or(self.created_ms) + stuck;
        let last = match self.total {
            0 => self.starts_ms(pace),
            total => self.row_ms(pace, total - 1),
        };
        let end = last.max(stuck_until);
        let runs_out = last > self.expires_ms && !self.never_expires;
        if self.quirks.expire_after_rows.is_some() || runs_out {
            (self.expires_ms.max(stuck_until), true)
        } else {
            (end, false)
        }
    }

    /// When the batch will have ended if nobody cancels it; for the limit of waiting tokens.
    pub(super) fn projected_end_ms(&self, pace: &BatchPace) -> i64 {
        if self.state.is_terminal() {
            return self.latest_ms();
        }
        if let Some(at) = self.cancelling_ms {
            return at + ms(pace.cancelling).max(self.quirks.stuck_ms("cancelling"));
        }
        match self.rows_end(pace) {
            (end, true) => end,
            (end, false) => end + ms(pace.finalizing).max(self.quirks.stuck_ms("finalizing")),
        }
    }
}

pub(super) fn ms(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

fn per_row_us(pace: &BatchPace) -> u64 {
    u64::try_from(pace.per_row.as_micros()).unwrap_or(u64::MAX)
}
