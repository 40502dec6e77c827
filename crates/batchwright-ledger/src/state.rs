//! What the journal says about a chunk: a fold over its entries.

use batchwright_core::{
    BatchHandle, BatchStatus, Decision, JournalEntry, JournalEvent, Money, Purchases,
    SubmissionTag, Timestamp,
};
use serde::{Deserialize, Serialize};
use std::{collections::HashSet, time::Duration};

/// Where one chunk is, as its journal tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChunkState {
    /// The chunk's number within the job.
    pub chunk: u32,
    /// The newest attempt, from 1.
    pub attempt: u32,
    /// Its lines.
    pub requests: u64,
    /// The size of the newest attempt's file.
    pub bytes: u64,
    /// The newest attempt's SHA-256, lower-case hex; empty while nothing is sealed.
    pub sha256: String,
    /// The provider it is for.
    pub provider: String,
    /// The endpoint it is for.
    pub endpoint: String,
    /// The model it names.
    pub model: String,
    /// Which time its rows are sent, from 1.
    #[serde(default = "first_round")]
    pub round: u32,
    /// How many inputs in a row with these rows among others were refused before anything ran.
    #[serde(default)]
    pub refusals: u32,
    /// How far it is.
    pub phase: ChunkPhase,
    /// The newest batch, once there is one.
    pub handle: Option<BatchHandle>,
    /// Why a person must decide, while one must.
    pub held: Option<String>,
    /// The batches the newest question to a person was about.
    #[serde(default)]
    pub asked_about: Vec<String>,
    /// The tag of the newest attempt at the provider, once one was made.
    #[serde(default)]
    pub tag: Option<SubmissionTag>,
    /// Whether the batch was taken for this chunk's by the number of its requests or by a person's word, and its
    /// results have not proved it yet.
    #[serde(default)]
    pub unproven: bool,
    /// Batches besides the one that counts.
    #[serde(default)]
    pub surplus: Vec<SurplusBatch>,
    /// When the newest attempt that had no effect was given up: for a day after that its batch may still show.
    #[serde(default)]
    pub fenced_at: Option<Timestamp>,
    /// How often a person had the chunk bought again although it may have been bought.
    #[serde(default)]
    pub risks: u32,
    /// Batches that another process bought for the job, and a person knows of it.
    #[serde(default)]
    pub acknowledged: Vec<String>,
    /// When the last fact was written, by the local clock; for people.
    pub last_at: Timestamp,
}

/// A batch besides the one that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SurplusBatch {
    /// The batch.
    pub handle: BatchHandle,
    /// Whether it is the chunk's beyond doubt.
    pub certain: bool,
    /// What it came to, once it has ended.
    pub ended: Option<SurplusEnd>,
}

/// What a surplus batch came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SurplusEnd {
    /// How it ended.
    pub status: BatchStatus,
    /// Rows it answered, which may be paid twice.
    pub rows: u64,
    /// What they cost, where that is known.
    pub cost: Option<Money>,
}

impl ChunkState {
    /// Until when a batch of an attempt that was given up may still show; `None` where none was.
    pub fn ghosts_until(&self) -> Option<Timestamp> {
        self.fenced_at.map(|at| at.plus(GHOST_WATCH))
    }

    /// Whether a surplus batch is known of that has not ended yet.
    pub fn has_open_surplus(&self) -> bool {
        self.surplus.iter().any(|batch| batch.ended.is_none())
    }

    /// Whether a batch besides the one that counts may still show, or has not ended, as of `now`.
    pub fn is_watched(&self, now: Timestamp) -> bool {
        self.has_open_surplus() || self.ghosts_until().is_some_and(|until| now < until)
    }

    fn surplus_mut(&mut self, id: &str) -> Option<&mut SurplusBatch> {
        self.surplus.iter_mut().find(|batch| batch.handle.id == id)
    }
}

/// How long after an attempt was given up its batch may still show, by the local clock, which here decides nothing
/// but for how long it is looked for.
const GHOST_WATCH: Duration = Duration::from_secs(24 * 3600);

fn first_round() -> u32 {
    1
}

/// How far a chunk is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ChunkPhase {
    /// Its file is whole; nothing was sent.
    Sealed,
    /// An upload may be under way.
    Uploading,
    /// The upload is stored.
    Uploaded,
    /// A create may have been sent.
    Creating,
    /// A create was sent and its fate is unclear.
    Unknown,
    /// The create had no effect; its input is being deleted.
    Absent,
    /// The absent attempt's input is gone; a new attempt may follow.
    Fenced,
    /// The provider created nothing.
    Refused {
        /// The error's text, redacted.
        message: String,
        /// Whether it can be tried again as it is.
        retryable: bool,
    },
    /// A person must decide.
    Held,
    /// A batch exists.
    Running {
        /// The batch.
        handle: BatchHandle,
        /// Its state when last seen to change; `None` right after the create.
        status: Option<BatchStatus>,
    },
    /// At least one result file is whole on disk.
    Downloaded,
    /// Every row has its outcome.
    Merged {
        /// How many rows.
        rows: u64,
    },
}

impl ChunkPhase {
    /// The phase's stable name, `snake_case`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Uploading => "uploading",
            Self::Uploaded => "uploaded",
            Self::Creating => "creating",
            Self::Unknown => "unknown",
            Self::Absent => "absent",
            Self::Fenced => "fenced",
            Self::Refused { .. } => "refused",
            Self::Held => "held",
            Self::Running { .. } => "running",
            Self::Downloaded => "downloaded",
            Self::Merged { .. } => "merged",
        }
    }

    /// Whether nothing is left to do for the chunk.
    pub fn is_merged(&self) -> bool {
        matches!(self, Self::Merged { .. })
    }
}

/// Takes one more fact into account. `attempt` is the one the fact belongs to.
pub(crate) fn fold(state: Option<ChunkState>, attempt: u32, entry: &JournalEntry) -> ChunkState {
    let mut state = state.unwrap_or_else(|| ChunkState {
        chunk: entry.chunk,
        attempt,
        requests: 0,
        bytes: 0,
        sha256: String::new(),
        provider: String::new(),
        endpoint: String::new(),
        model: String::new(),
        round: first_round(),
        refusals: 0,
        phase: ChunkPhase::Sealed,
        handle: None,
        held: None,
        asked_about: Vec::new(),
        tag: None,
        unproven: false,
        surplus: Vec::new(),
        fenced_at: None,
        risks: 0,
        acknowledged: Vec::new(),
        last_at: entry.at,
    });
    state.attempt = state.attempt.max(attempt);
    state.last_at = entry.at;
    // What is found out or done about a surplus batch settles no question.
    match &entry.event {
        JournalEvent::Surplus {
            handle, certain, ..
        } => {
            match state.surplus_mut(&handle.id) {
                Some(known) => known.certain |= certain,
                None => state.surplus.push(SurplusBatch {
                    handle: handle.clone(),
                    certain: *certain,
                    ended: None,
                }),
            }
            return state;
        }
        JournalEvent::SurplusEnded {
            handle,
            status,
            rows,
            cost,
        } => {
            if let Some(batch) = state.surplus_mut(&handle.id) {
                batch.ended = Some(SurplusEnd {
                    status: status.clone(),
                    rows: *rows,
                    cost: *cost,
                });
            }
            return state;
        }
        JournalEvent::CancelIntent { handle } | JournalEvent::Downloaded { handle, .. }
            if state.surplus_mut(&handle.id).is_some() =>
        {
            return state;
        }
        _ => {}
    }
    if let JournalEvent::UploadIntent { tag } | JournalEvent::CreateIntent { tag, .. } =
        &entry.event
    {
        state.tag = Some(tag.clone());
    }
    state.held = None;
    let running = |state: &mut ChunkState, handle: &BatchHandle, status: Option<BatchStatus>| {
        state.handle = Some(handle.clone());
        state.phase = ChunkPhase::Running {
            handle: handle.clone(),
            status,
        };
    };
    match &entry.event {
        JournalEvent::Seal {
            sha256,
            bytes,
            requests,
            provider,
            endpoint,
            model,
            round,
            refusals,
        } => {
            state.sha256.clone_from(sha256);
            state.bytes = *bytes;
            state.requests = *requests;
            state.provider.clone_from(provider);
            state.endpoint.clone_from(endpoint);
            state.model.clone_from(model);
            state.round = *round;
            state.refusals = *refusals;
            // A later attempt is sealed when it is first asked for, which may be after the intent to send it.
            if state.phase != ChunkPhase::Creating {
                state.phase = ChunkPhase::Sealed;
            }
        }
        JournalEvent::UploadIntent { .. } => state.phase = ChunkPhase::Uploading,
        JournalEvent::Uploaded { .. } => state.phase = ChunkPhase::Uploaded,
        JournalEvent::CreateIntent { .. } => state.phase = ChunkPhase::Creating,
        JournalEvent::Created { handle, .. } | JournalEvent::Adopted { handle, .. } => {
            let is_adopted = matches!(entry.event, JournalEvent::Adopted { .. });
            state.unproven = is_adopted && handle.input.0.is_empty();
            state.surplus.retain(|batch| batch.handle.id != handle.id);
            running(&mut state, handle, None);
        }
        JournalEvent::Disproved { .. } => {
            state.unproven = false;
            state.handle = None;
            state.phase = ChunkPhase::Unknown;
        }
        JournalEvent::Decided { decision, .. } => match decision {
            Decision::Wait => {
                let asked_about = state.asked_about.clone();
                state.acknowledged.extend(asked_about);
                state.phase = ChunkPhase::Unknown;
            }
            Decision::Adopt { handle } => {
                state.unproven = true;
                running(&mut state, handle, None);
            }
            Decision::Resubmit => {
                let asked_about = state.asked_about.clone();
                state.acknowledged.extend(asked_about);
                state.risks += 1;
                state.phase = ChunkPhase::Absent;
            }
        },
        JournalEvent::CreateRefused {
            message, retryable, ..
        } => {
            state.phase = ChunkPhase::Refused {
                message: message.clone(),
                retryable: *retryable,
            };
        }
        JournalEvent::CreateUnknown { .. } | JournalEvent::ListedClean { .. } => {
            state.phase = ChunkPhase::Unknown;
        }
        JournalEvent::Absent { .. } => state.phase = ChunkPhase::Absent,
        JournalEvent::Fenced { .. } => {
            state.phase = ChunkPhase::Fenced;
            state.fenced_at = Some(entry.at);
        }
        JournalEvent::Held {
            tag,
            reason,
            batches,
        } => {
            state.phase = ChunkPhase::Held;
            state.held = Some(reason.clone());
            state.asked_about.clone_from(batches);
            state.tag = Some(tag.clone());
        }
        JournalEvent::Status { handle, status } => {
            running(&mut state, handle, Some(status.clone()));
        }
        JournalEvent::CancelIntent { handle } => state.handle = Some(handle.clone()),
        JournalEvent::Downloaded { handle, .. } => {
            state.handle = Some(handle.clone());
            state.phase = ChunkPhase::Downloaded;
        }
        JournalEvent::Collected { handle } => {
            state.handle = Some(handle.clone());
            state.phase = ChunkPhase::Downloaded;
        }
        // How far it came stays as it was until its rows have ended.
        JournalEvent::Cancelled => {}
        JournalEvent::Merged { rows } => {
            state.phase = ChunkPhase::Merged { rows: *rows };
            state.unproven = false;
        }
        // Taken in above.
        JournalEvent::Surplus { .. } | JournalEvent::SurplusEnded { .. } => {}
    }
    state
}

/// What the journal tells of purchases: every batch of every chunk, those that failed included, and which chunk may
/// have one more. Of each batch `bought` tells whether it is the chunk's beyond doubt; what of the others has proved
/// its chunk's since, the states tell.
pub(crate) fn purchases(bought: Vec<(u32, BatchHandle, bool)>, chunks: &[ChunkState]) -> Purchases {
    let mut purchases = Purchases::default();
    let mut named = HashSet::new();
    for (chunk, handle, certain) in bought {
        if certain && named.insert((chunk, handle.id.clone())) {
            purchases.bought(chunk, &handle.id);
        }
    }
    for state in chunks {
        purchases
            .acknowledged
            .extend(state.acknowledged.iter().cloned());
        match &state.handle {
            Some(handle) if state.unproven => purchases.takes(state.chunk, &handle.id),
            // Named above already, but for one that only its results have proved.
            Some(handle) if named.insert((state.chunk, handle.id.clone())) => {
                purchases.bought(state.chunk, &handle.id);
            }
            _ => {}
        }
        // What is held may have been bought, also where another's batch was taken for it.
        if matches!(
            state.phase,
            ChunkPhase::Creating | ChunkPhase::Unknown | ChunkPhase::Absent | ChunkPhase::Held
        ) {
            purchases.is_unclear(state.chunk);
        }
    }
    purchases
}

/// The attempt a fact names itself, where it does.
pub(crate) fn attempt_of(event: &JournalEvent) -> Option<u32> {
    match event {
        JournalEvent::UploadIntent { tag }
        | JournalEvent::Uploaded { tag, .. }
        | JournalEvent::CreateIntent { tag, .. }
        | JournalEvent::Created { tag, .. }
        | JournalEvent::CreateRefused { tag, .. }
        | JournalEvent::CreateUnknown { tag, .. }
        | JournalEvent::ListedClean { tag }
        | JournalEvent::Adopted { tag, .. }
        | JournalEvent::Absent { tag }
        | JournalEvent::Fenced { tag }
        | JournalEvent::Held { tag, .. }
        | JournalEvent::Decided { tag, .. } => Some(tag.attempt()),
        JournalEvent::Seal { .. }
        | JournalEvent::Status { .. }
        | JournalEvent::CancelIntent { .. }
        | JournalEvent::Downloaded { .. }
        | JournalEvent::Collected { .. }
        | JournalEvent::Cancelled
        | JournalEvent::Disproved { .. }
        // A surplus batch may be an earlier attempt's.
        | JournalEvent::Surplus { .. }
        | JournalEvent::SurplusEnded { .. }
        | JournalEvent::Merged { .. } => None,
    }
}

/// Whether an effect at the provider follows the fact.
pub(crate) fn is_intent(event: &JournalEvent) -> bool {
    matches!(
        event,
        JournalEvent::UploadIntent { .. }
            | JournalEvent::CreateIntent { .. }
            | JournalEvent::CancelIntent { .. }
    )
}

/// The fact's stable name, as in its JSON.
pub(crate) fn kind_of(event: &JournalEvent) -> &'static str {
    match event {
        JournalEvent::Seal { .. } => "seal",
        JournalEvent::UploadIntent { .. } => "upload_intent",
        JournalEvent::Uploaded { .. } => "uploaded",
        JournalEvent::CreateIntent { .. } => "create_intent",
        JournalEvent::Created { .. } => "created",
        JournalEvent::CreateRefused { .. } => "create_refused",
        JournalEvent::CreateUnknown { .. } => "create_unknown",
        JournalEvent::ListedClean { .. } => "listed_clean",
        JournalEvent::Adopted { .. } => "adopted",
        JournalEvent::Absent { .. } => "absent",
        JournalEvent::Fenced { .. } => "fenced",
        JournalEvent::Held { .. } => "held",
        JournalEvent::Decided { .. } => "decided",
        JournalEvent::Disproved { .. } => "disproved",
        JournalEvent::Surplus { .. } => "surplus",
        JournalEvent::SurplusEnded { .. } => "surplus_ended",
        JournalEvent::Status { .. } => "status",
        JournalEvent::CancelIntent { .. } => "cancel_intent",
        JournalEvent::Downloaded { .. } => "downloaded",
        JournalEvent::Collected { .. } => "collected",
        JournalEvent::Cancelled => "cancelled",
        JournalEvent::Merged { .. } => "merged",
    }
}
