//! What the submission protocol writes down, and where.

use crate::{
    BatchHandle, BatchStatus, InputRef, ListMark, Money, Result, SubmissionTag, Timestamp,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// One durable fact about one chunk. The state of a chunk is a fold over its entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JournalEntry {
    /// The chunk's number within the job.
    pub chunk: u32,
    /// When it was written, by the local clock; for people, never for decisions.
    pub at: Timestamp,
    /// The fact.
    pub event: JournalEvent,
}

impl JournalEntry {
    /// A fact about `chunk`.
    pub fn new(chunk: u32, at: Timestamp, event: JournalEvent) -> Self {
        Self { chunk, at, event }
    }
}

/// A durable fact about a chunk. An intent is durable before its effect is sent; a result, before
/// anything is built on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[expect(
    clippy::exhaustive_enums,
    reason = "whoever folds the journal must handle every fact"
)]
pub enum JournalEvent {
    /// The chunk's file is whole and in place.
    Seal {
        /// Lower-case hex.
        sha256: String,
        /// Its size.
        bytes: u64,
        /// Its lines.
        requests: u64,
        /// The provider it is for.
        provider: String,
        /// The endpoint it is for.
        endpoint: String,
        /// The model it names.
        model: String,
        /// Which time its rows are sent, from 1: rows without a final outcome go on in a chunk of the next one.
        #[serde(default = "first_round")]
        round: u32,
        /// How many inputs in a row, each with these rows among others, were refused by the provider before
        /// anything ran.
        #[serde(default)]
        refusals: u32,
    },
    /// An upload is about to be sent; a lost one costs nothing.
    UploadIntent {
        /// Names this attempt at the provider.
        tag: SubmissionTag,
    },
    /// The upload is stored and its size was confirmed.
    Uploaded {
        /// The attempt.
        tag: SubmissionTag,
        /// The provider's name for it.
        input: InputRef,
    },
    /// A create is about to be sent, exactly once.
    CreateIntent {
        /// The attempt.
        tag: SubmissionTag,
        /// What it is created from.
        input: InputRef,
        /// What the provider's list held before.
        mark: ListMark,
    },
    /// The provider answered the create with a batch.
    Created {
        /// The attempt.
        tag: SubmissionTag,
        /// The batch.
        handle: BatchHandle,
    },
    /// Nothing was created; a new attempt may be made.
    CreateRefused {
        /// The attempt.
        tag: SubmissionTag,
        /// The error's text, redacted.
        message: String,
        /// Whether it can be tried again as it is.
        retryable: bool,
    },
    /// The create's fate is unclear; the provider's list must tell.
    CreateUnknown {
        /// The attempt.
        tag: SubmissionTag,
        /// The error's text, redacted.
        message: String,
    },
    /// The list was read to the mark and shows no batch of this attempt.
    ListedClean {
        /// The attempt.
        tag: SubmissionTag,
    },
    /// The list shows the batch of this attempt.
    Adopted {
        /// The attempt.
        tag: SubmissionTag,
        /// The batch.
        handle: BatchHandle,
    },
    /// The settle window passed with clean lists: the create had no effect. The input is about to be
    /// deleted, so that a late create fails instead of running (F-113).
    Absent {
        /// The attempt.
        tag: SubmissionTag,
    },
    /// The absent attempt's input is gone; a new attempt may be made.
    Fenced {
        /// The attempt.
        tag: SubmissionTag,
    },
    /// A person must decide; nothing is sent for this chunk until then.
    Held {
        /// The attempt.
        tag: SubmissionTag,
        /// Why, for people.
        reason: String,
        /// The batches it is about, where it is about some.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        batches: Vec<String>,
    },
    /// A person decided what becomes of a held chunk.
    Decided {
        /// The attempt that was held.
        tag: SubmissionTag,
        /// What.
        decision: Decision,
    },
    /// A batch that was taken for the chunk's by a person's word or by the number of its requests alone holds none
    /// of its rows: what was known before it was taken holds again.
    Disproved {
        /// The batch.
        handle: BatchHandle,
    },
    /// A batch besides the one that counts was found: its create committed after it was given up, or one create made
    /// two. It is to be cancelled, and what it answered all the same is paid for twice.
    Surplus {
        /// The attempt it was created by.
        tag: SubmissionTag,
        /// The batch.
        handle: BatchHandle,
        /// Whether that is beyond doubt. Else its results must prove it, and it is not cancelled.
        certain: bool,
    },
    /// A surplus batch has ended, and its results are counted.
    SurplusEnded {
        /// The batch.
        handle: BatchHandle,
        /// Its state.
        status: BatchStatus,
        /// Rows of the chunk it answered: those may be paid twice. 0 where it held none, and so is not ours.
        rows: u64,
        /// What they cost; `None` where that is not known.
        cost: Option<Money>,
    },
    /// The batch was seen in another state than before.
    Status {
        /// The batch.
        handle: BatchHandle,
        /// Its state.
        status: BatchStatus,
    },
    /// A cancel is about to be sent.
    CancelIntent {
        /// The batch.
        handle: BatchHandle,
    },
    /// A result file is whole on disk, untouched.
    Downloaded {
        /// The batch.
        handle: BatchHandle,
        /// What it is: `output`, `errors`, or a shard's number.
        label: String,
        /// Its local file name.
        file: String,
        /// Lower-case hex.
        sha256: String,
        /// Its size.
        bytes: u64,
    },
    /// Every result file the ended batch names is whole on disk: what follows needs no provider.
    Collected {
        /// The batch.
        handle: BatchHandle,
    },
    /// Nothing was bought for the chunk and, by request, nothing will be: its rows are about to end as
    /// cancelled.
    Cancelled,
    /// Every row of the chunk has an outcome on disk.
    Merged {
        /// Rows that have their final outcome.
        rows: u64,
    },
}

/// What a person wants done with a held chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
#[expect(
    clippy::exhaustive_enums,
    reason = "whoever folds the journal must handle every decision"
)]
pub enum Decision {
    /// Look for the batch again, through a whole settle window.
    Wait,
    /// This batch is the chunk's; its results must prove it.
    Adopt {
        /// The batch.
        handle: BatchHandle,
    },
    /// Buy the chunk again, although it may have been bought.
    Resubmit,
}

fn first_round() -> u32 {
    1
}

/// What a journal knows of the purchases for all its chunks, so that one chunk's batch is not taken for
/// another's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Purchases {
    /// Chunks and the ids of batches bought for them, beyond doubt.
    pub batches: Vec<(u32, String)>,
    /// Chunks and the ids of batches taken for theirs until their results tell.
    pub taken: Vec<(u32, String)>,
    /// Chunks of which a create was meant and its fate is not known.
    pub unclear: Vec<u32>,
    /// Batches that another process bought for this job, and a person knows of it.
    pub acknowledged: Vec<String>,
}

impl Purchases {
    /// What these facts, each chunk's oldest first, tell.
    pub fn of<'e>(entries: impl IntoIterator<Item = &'e JournalEntry>) -> Self {
        let mut purchases = Self::default();
        let mut held: Vec<(u32, Vec<String>)> = Vec::new();
        for JournalEntry { chunk, event, .. } in entries {
            match event {
                // What is held may have been bought, also where another's batch was taken for it.
                JournalEvent::Held { batches, .. } => {
                    held.push((*chunk, batches.clone()));
                    purchases.is_unclear(*chunk);
                }
                JournalEvent::CreateIntent { .. } => purchases.is_unclear(*chunk),
                JournalEvent::Created { handle, .. } => purchases.bought(*chunk, &handle.id),
                JournalEvent::Adopted { handle, .. } if !handle.input.0.is_empty() => {
                    purchases.bought(*chunk, &handle.id);
                }
                JournalEvent::Adopted { handle, .. } => purchases.takes(*chunk, &handle.id),
                JournalEvent::Surplus {
                    handle,
                    certain: true,
                    ..
                } => purchases.batches.push((*chunk, handle.id.clone())),
                JournalEvent::Disproved { handle } => {
                    purchases.taken.retain(|(_, id)| *id != handle.id);
                    purchases.is_unclear(*chunk);
                }
                JournalEvent::Decided { decision, .. } => {
                    let named = held.iter().rev().find(|(other, _)| other == chunk);
                    let named = named.map(|(_, batches)| batches.clone());
                    match decision {
                        Decision::Adopt { handle } => purchases.takes(*chunk, &handle.id),
                        Decision::Wait | Decision::Resubmit => {
                            purchases.acknowledged.extend(named.unwrap_or_default());
                        }
                    }
                }
                JournalEvent::Merged { .. } => {
                    let taken = purchases.taken.iter();
                    let ours = taken.filter(|(other, _)| other == chunk).cloned();
                    purchases.batches.extend(ours.collect::<Vec<_>>());
                    purchases.taken.retain(|(other, _)| other != chunk);
                }
                JournalEvent::CreateRefused { .. } | JournalEvent::Fenced { .. } => {
                    purchases.unclear.retain(|other| other != chunk);
                }
                _ => {}
            }
        }
        purchases
    }

    /// Batch `id` is taken for the one of `chunk` until its results tell.
    pub fn takes(&mut self, chunk: u32, id: &str) {
        self.unclear.retain(|other| *other != chunk);
        self.taken.retain(|(other, _)| *other != chunk);
        self.taken.push((chunk, id.to_owned()));
    }

    /// Batch `id` was bought for `chunk`.
    pub fn bought(&mut self, chunk: u32, id: &str) {
        self.unclear.retain(|other| *other != chunk);
        self.batches.push((chunk, id.to_owned()));
    }

    /// A create for `chunk` was meant.
    pub fn is_unclear(&mut self, chunk: u32) {
        if !self.unclear.contains(&chunk) {
            self.unclear.push(chunk);
        }
    }
}

/// Where the submission protocol writes its facts.
///
/// `append` returns after the facts are as durable as the implementation can make them; the protocol
/// sends nothing that depends on a fact before that.
#[async_trait]
pub trait SubmissionLog: Send + Sync {
    /// Appends facts, all or none, and makes them durable.
    ///
    /// # Errors
    /// `Storage` where they could not be made durable; nothing may then be sent.
    ///
    /// # Cancel safety
    /// A dropped append may or may not have taken place; the reader of the journal must allow for both.
    async fn append(&self, entries: Vec<JournalEntry>) -> Result<()>;

    /// The facts of one chunk, oldest first.
    ///
    /// # Errors
    /// `Storage` where they cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    async fn entries(&self, chunk: u32) -> Result<Vec<JournalEntry>>;

    /// What is known of the purchases for all chunks.
    ///
    /// # Errors
    /// `Storage` where it cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    async fn purchases(&self) -> Result<Purchases>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_create_is_unclear_until_something_tells() {
        let tag = SubmissionTag::new("job", 1, 1, "r").unwrap();
        let handle = BatchHandle::new("p", "b1", InputRef::default());
        let intent = JournalEvent::CreateIntent {
            tag: tag.clone(),
            input: InputRef::default(),
            mark: ListMark::default(),
        };
        let held = JournalEvent::Held {
            tag: tag.clone(),
            reason: String::new(),
            batches: vec!["theirs".to_owned()],
        };
        let refused = JournalEvent::CreateRefused {
            tag: tag.clone(),
            message: String::new(),
            retryable: true,
        };
        let created = JournalEvent::Created {
            tag: tag.clone(),
            handle,
        };
        let of = |events: &[&JournalEvent]| {
            let entries: Vec<_> = events
                .iter()
                .map(|event| JournalEntry::new(1, Timestamp::default(), (*event).clone()))
                .collect();
            Purchases::of(&entries)
        };
        assert_eq!(of(&[&intent]).unclear, [1]);
        assert_eq!(of(&[&intent, &intent, &held]).unclear, [1]);
        assert_eq!(of(&[&intent, &refused]), Purchases::default());
        let bought = of(&[&intent, &created]);
        assert!(bought.unclear.is_empty());
        assert_eq!(bought.batches, [(1, "b1".to_owned())]);

        // What only its size or a person's word speaks for is the chunk's when its rows have ended by it.
        let handle = BatchHandle::new("p", "b2", InputRef::default());
        let adopted = JournalEvent::Adopted {
            tag: tag.clone(),
            handle: handle.clone(),
        };
        let taken = of(&[&intent, &adopted]);
        assert_eq!(taken.taken, [(1, "b2".to_owned())]);
        assert!(taken.unclear.is_empty() && taken.batches.is_empty());
        let merged = of(&[&intent, &adopted, &JournalEvent::Merged { rows: 1 }]);
        assert_eq!(merged.batches, [(1, "b2".to_owned())]);
        let disproved = of(&[&intent, &adopted, &JournalEvent::Disproved { handle }]);
        assert_eq!((disproved.unclear, disproved.taken), (vec![1], Vec::new()));

        let wait = JournalEvent::Decided {
            tag,
            decision: Decision::Wait,
        };
        let decided = of(&[&intent, &held, &wait]);
        assert_eq!(
            (decided.unclear, decided.acknowledged),
            (vec![1], vec!["theirs".to_owned()])
        );
    }
}
