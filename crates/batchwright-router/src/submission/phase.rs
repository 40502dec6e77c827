//! What is durable of a chunk: a fold over its journal.
//!
//! ```text
//! Sealed ─ UploadIntent ▶ Uploading ─ Uploaded ▶ Uploaded ─ CreateIntent ▶ Creating ─ Created, Adopted ▶ Running ─▶ Merged
//!   ▲                                               ▲                        │  │  ▲                        │
//!   │                                               └──── CreateRefused ─────┘  │  └──────── Disproved ─────┘
//!   └──── Fenced ──── Absent ◀── Absent: the window passed with clean lists ────┘
//!            Held ◀── Held, from anywhere;  Decided ▶ Creating (wait), Running (adopt), Absent (resubmit)
//! ```
//!
//! `Creating` is entered by `CreateIntent` alone, and left without a batch only by a refusal, or by `Absent` and then
//! `Fenced`: so between two creates there is always a refusal, a search of the provider's list that found nothing, or a
//! person's word.

use super::{Submission, watch::Fence};
use batchwright_core::{
    BatchHandle, BatchStatus, Decision, InputRef, JournalEvent, ListMark, SubmissionTag,
};
use std::time::Duration;

/// The durable state: a fold over the chunk's journal.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Phase {
    /// Nothing was sent for attempt number `attempt`.
    Sealed {
        attempt: u32,
    },
    Uploading {
        tag: SubmissionTag,
    },
    Uploaded {
        tag: SubmissionTag,
        input: InputRef,
        /// Where a create of this attempt was refused: what the list held before it. No other one is sent before the
        /// list was read once more.
        refused: Option<ListMark>,
    },
    /// The intent to create is durable; whether it was sent is known to this process only.
    Creating {
        tag: SubmissionTag,
        input: InputRef,
        mark: ListMark,
    },
    /// The create had no effect so far; its input is to go.
    Absent {
        tag: SubmissionTag,
        input: InputRef,
        mark: ListMark,
        /// Whether a person said so: then what cannot be deleted or listed keeps nothing.
        forced: bool,
    },
    Running {
        tag: SubmissionTag,
        input: InputRef,
        mark: ListMark,
        handle: BatchHandle,
        status: Option<BatchStatus>,
        /// Whether its cancelling was wanted.
        cancel: bool,
        /// Whether its input was deleted before it was found, so that it may fail for want of it.
        fenced: bool,
        /// Whether its files are whole on disk.
        collected: bool,
        /// Where it was taken for this chunk's by the number of its requests or by a person's word alone, what was
        /// known before: its results must prove it, and until then it may be somebody else's.
        unproven: Option<Box<Phase>>,
    },
    /// To be closed without a purchase, by request.
    Cancelled,
    Refused {
        message: String,
        /// The create that was refused: before its rows end, the list is read once more.
        create: Option<(SubmissionTag, InputRef, ListMark)>,
    },
    Held {
        reason: String,
        batches: Vec<String>,
        before: Box<Phase>,
    },
    Merged,
}

impl Phase {
    /// The attempt under way, its stored input, and what the list held before its create.
    fn parts(&self) -> Option<(&SubmissionTag, &InputRef, Option<&ListMark>)> {
        match self {
            Self::Uploaded {
                tag,
                input,
                refused,
            } => Some((tag, input, refused.as_ref())),
            Self::Creating { tag, input, mark }
            | Self::Absent {
                tag, input, mark, ..
            }
            | Self::Running {
                tag, input, mark, ..
            } => Some((tag, input, Some(mark))),
            Self::Refused {
                create: Some((tag, input, mark)),
                ..
            } => Some((tag, input, Some(mark))),
            Self::Held { before, .. } => before.parts(),
            _ => None,
        }
    }

    /// Whether a create of the attempt under way may have been sent.
    fn may_have_bought(&self) -> bool {
        !matches!(
            self,
            Self::Sealed { .. } | Self::Uploading { .. } | Self::Uploaded { .. }
        )
    }

    /// To be looked for again, as after a create of unclear fate.
    fn sought(self) -> Self {
        match self {
            Self::Absent {
                tag, input, mark, ..
            }
            | Self::Running {
                tag, input, mark, ..
            } => Self::Creating { tag, input, mark },
            Self::Held { before, .. } => before.sought(),
            other => other,
        }
    }
}

impl Submission {
    /// Whether a create of this chunk was sent, or may be at any moment, and has not ended.
    pub(crate) fn holds_create(&self) -> bool {
        match &self.phase {
            Phase::Creating { .. } | Phase::Absent { .. } => true,
            Phase::Running { status, .. } => !status.as_ref().is_some_and(BatchStatus::is_terminal),
            _ => false,
        }
    }

    /// The attempt whose wire ids a batch of this chunk carries.
    pub(crate) fn attempt(&self) -> u32 {
        match &self.phase {
            Phase::Sealed { attempt } => *attempt,
            Phase::Uploading { tag }
            | Phase::Uploaded { tag, .. }
            | Phase::Creating { tag, .. }
            | Phase::Absent { tag, .. }
            | Phase::Running { tag, .. } => tag.attempt(),
            Phase::Cancelled | Phase::Refused { .. } | Phase::Held { .. } | Phase::Merged => {
                self.tags.last().map_or(1, SubmissionTag::attempt)
            }
        }
    }

    /// Whether its rows all have their outcome.
    pub(crate) fn is_merged(&self) -> bool {
        self.phase == Phase::Merged
    }

    /// Why a person must decide, where one must.
    pub(crate) fn held(&self) -> Option<&str> {
        match &self.phase {
            Phase::Held { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// The attempt under way and its stored input.
    pub(super) fn current(&self) -> Option<(&SubmissionTag, &InputRef)> {
        self.phase.parts().map(|(tag, input, _)| (tag, input))
    }

    /// Changes the phase by a durable fact. `ghosts_until` is for a fence: until when its batch is looked for.
    pub(super) fn fold(&mut self, fact: &JournalEvent, ghosts_until: Duration) {
        if let JournalEvent::UploadIntent { tag } | JournalEvent::CreateIntent { tag, .. } = fact
            && !self.tags.contains(tag)
        {
            self.tags.push(tag.clone());
        }
        let phase = match fact {
            // A later attempt is sealed while its upload is under way; that changes nothing here.
            JournalEvent::Seal { .. } => return,
            JournalEvent::UploadIntent { tag } => Phase::Uploading { tag: tag.clone() },
            JournalEvent::Uploaded { tag, input } => Phase::Uploaded {
                tag: tag.clone(),
                input: input.clone(),
                refused: None,
            },
            JournalEvent::CreateIntent { tag, input, mark } => {
                self.begin_search();
                Phase::Creating {
                    tag: tag.clone(),
                    input: input.clone(),
                    mark: mark.clone(),
                }
            }
            JournalEvent::Created { tag, handle } => self.running(tag, handle, false),
            JournalEvent::Adopted { tag, handle } => {
                let by_size = self.terms.by_requests && handle.input.0.is_empty();
                self.running(tag, handle, by_size)
            }
            JournalEvent::CreateRefused {
                tag,
                retryable: true,
                ..
            } => {
                self.spend();
                let was_created = matches!(self.phase, Phase::Creating { .. });
                match self.phase.parts() {
                    // The input is still there: the same attempt goes on from it. Where the create itself
                    // carries the lines it has no name.
                    Some((_, input, mark)) if !input.0.is_empty() || was_created => {
                        Phase::Uploaded {
                            tag: tag.clone(),
                            input: input.clone(),
                            refused: mark.cloned(),
                        }
                    }
                    _ => Phase::Sealed {
                        attempt: tag.attempt(),
                    },
                }
            }
            JournalEvent::CreateRefused {
                message,
                retryable: false,
                ..
            } => Phase::Refused {
                message: message.clone(),
                create: match &self.phase {
                    Phase::Creating { tag, input, mark } => {
                        Some((tag.clone(), input.clone(), mark.clone()))
                    }
                    _ => None,
                },
            },
            JournalEvent::CreateUnknown { .. }
            | JournalEvent::ListedClean { .. }
            | JournalEvent::Downloaded { .. } => return,
            JournalEvent::Absent { tag } => self.absent(tag, false),
            JournalEvent::Fenced { tag } => {
                self.spend();
                let (input, mark) = match self.phase.parts() {
                    Some((_, input, mark)) => (input.clone(), mark.cloned().unwrap_or_default()),
                    None => Default::default(),
                };
                self.fences.push(Fence {
                    tag: tag.clone(),
                    input,
                    mark,
                    until: ghosts_until,
                });
                let known = self.tags.iter().map(SubmissionTag::attempt).max();
                Phase::Sealed {
                    attempt: known.unwrap_or(0).max(tag.attempt()).saturating_add(1),
                }
            }
            JournalEvent::Held {
                reason, batches, ..
            } => Phase::Held {
                reason: reason.clone(),
                batches: batches.clone(),
                before: Box::new(std::mem::replace(&mut self.phase, Phase::Merged)),
            },
            JournalEvent::Decided { tag, decision } => {
                // Settled meanwhile: a decision is about the question it answers.
                let Phase::Held { batches, .. } = &self.phase else {
                    return;
                };
                match decision {
                    Decision::Wait => {
                        self.begin_search();
                        std::mem::replace(&mut self.phase, Phase::Merged).sought()
                    }
                    Decision::Adopt { handle } => self.running(tag, handle, true),
                    Decision::Resubmit => {
                        self.excused.extend(batches.iter().cloned());
                        match std::mem::replace(&mut self.phase, Phase::Merged) {
                            // Nothing was sent for it: there is nothing to give up.
                            Phase::Held { before, .. } if !before.may_have_bought() => *before,
                            held => {
                                self.phase = held;
                                self.absent(tag, true)
                            }
                        }
                    }
                }
            }
            JournalEvent::Disproved { handle } => {
                let Phase::Running { unproven, .. } = &mut self.phase else {
                    return;
                };
                let Some(before) = unproven.take() else {
                    return;
                };
                self.disproved.push(handle.id.clone());
                self.used.retain(|id| *id != handle.id);
                self.begin_search();
                *before
            }
            JournalEvent::Surplus {
                tag,
                handle,
                certain,
            } => {
                self.add_surplus(tag, handle, *certain);
                return;
            }
            JournalEvent::SurplusEnded { handle, .. } => {
                self.end_surplus(handle);
                return;
            }
            JournalEvent::Status { status: new, .. } => {
                if let Phase::Running { status, .. } = &mut self.phase {
                    *status = Some(new.clone());
                }
                return;
            }
            JournalEvent::CancelIntent { handle } => {
                if self.cancels_surplus(handle) {
                    return;
                }
                if let Phase::Running { cancel, .. } = &mut self.phase {
                    *cancel = true;
                }
                return;
            }
            JournalEvent::Collected { .. } => {
                self.collections += 1;
                self.again |= self.collections > 1;
                if let Phase::Running { collected, .. } = &mut self.phase {
                    *collected = true;
                }
                return;
            }
            JournalEvent::Cancelled => Phase::Cancelled,
            JournalEvent::Merged { .. } => Phase::Merged,
        };
        self.phase = phase;
    }

    /// A batch is the chunk's, or is taken for it until its results tell.
    fn running(&mut self, tag: &SubmissionTag, handle: &BatchHandle, unproven: bool) -> Phase {
        let fenced = matches!(self.phase, Phase::Absent { .. })
            || self.current().is_some_and(|(current, _)| current != tag);
        let (input, mark) = match self.phase.parts() {
            Some((current, input, mark)) if current == tag => {
                (input.clone(), mark.cloned().unwrap_or_default())
            }
            // A batch of an earlier attempt, or one a person named.
            Some((.., mark)) => (handle.input.clone(), mark.cloned().unwrap_or_default()),
            None => (handle.input.clone(), ListMark::default()),
        };
        self.collections = 0;
        self.again = false;
        self.proven = false;
        self.surplus.retain(|batch| batch.handle.id != handle.id);
        self.used.push(handle.id.clone());
        let before = std::mem::replace(&mut self.phase, Phase::Merged);
        Phase::Running {
            tag: tag.clone(),
            input,
            mark,
            handle: handle.clone(),
            status: None,
            cancel: false,
            fenced,
            collected: false,
            unproven: unproven.then(|| Box::new(before)),
        }
    }

    fn absent(&self, tag: &SubmissionTag, forced: bool) -> Phase {
        let (input, mark) = match self.phase.parts() {
            Some((_, input, mark)) => (input.clone(), mark.cloned().unwrap_or_default()),
            None => Default::default(),
        };
        Phase::Absent {
            tag: tag.clone(),
            input,
            mark,
            forced,
        }
    }

    /// The settle window begins.
    fn begin_search(&mut self) {
        self.clean = 0;
        self.clean_since = None;
        self.unreadable = 0;
        self.doubtful_since = None;
    }

    /// The batch under way failed without buying anything, and the chunk goes on without it.
    fn spend(&mut self) {
        if let Phase::Running { handle, .. } = &self.phase {
            self.spent.push(handle.id.clone());
        }
    }
}
