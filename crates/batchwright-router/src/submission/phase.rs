//! What is durable of a chunk: a fold over its journal.

use super::Submission;
use batchwright_core::{BatchHandle, BatchStatus, InputRef, JournalEvent, ListMark, SubmissionTag};

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
    },
    Running {
        tag: SubmissionTag,
        input: InputRef,
        handle: BatchHandle,
        status: Option<BatchStatus>,
        /// Whether its cancelling was wanted.
        cancel: bool,
        /// Whether its input was deleted before it was found, so that it may fail for want of it.
        fenced: bool,
        /// Whether its files are whole on disk.
        collected: bool,
        /// Whether it was taken for this chunk's by the number of its requests alone: its results must prove
        /// it, and until then it may be somebody else's.
        provisional: bool,
    },
    /// To be closed without a purchase, by request.
    Cancelled,
    Refused {
        message: String,
    },
    Held {
        reason: String,
    },
    Merged,
}

impl Submission {
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

    /// The attempt under way and its stored input.
    pub(super) fn current(&self) -> Option<(&SubmissionTag, &InputRef)> {
        match &self.phase {
            Phase::Uploaded { tag, input }
            | Phase::Creating { tag, input, .. }
            | Phase::Absent { tag, input, .. }
            | Phase::Running { tag, input, .. } => Some((tag, input)),
            _ => None,
        }
    }

    /// Changes the phase by a durable fact.
    pub(super) fn fold(&mut self, fact: &JournalEvent) {
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
            },
            JournalEvent::CreateIntent { tag, input, mark } => {
                self.clean = 0;
                self.clean_since = None;
                Phase::Creating {
                    tag: tag.clone(),
                    input: input.clone(),
                    mark: mark.clone(),
                }
            }
            JournalEvent::Created { tag, handle } | JournalEvent::Adopted { tag, handle } => {
                let fenced = matches!(self.phase, Phase::Absent { .. })
                    || self.current().is_some_and(|(current, _)| current != tag);
                let input = match self.current() {
                    Some((current, input)) if current == tag => input.clone(),
                    // A batch of an earlier attempt, or one a person named.
                    _ => handle.input.clone(),
                };
                self.collections = 0;
                self.again = false;
                Phase::Running {
                    tag: tag.clone(),
                    input,
                    handle: handle.clone(),
                    status: None,
                    cancel: false,
                    fenced,
                    collected: false,
                    provisional: self.terms.by_requests
                        && matches!(fact, JournalEvent::Adopted { .. })
                        && handle.input.0.is_empty(),
                }
            }
            JournalEvent::CreateRefused {
                tag,
                retryable: true,
                ..
            } => {
                self.spend();
                match self.current() {
                    // The input is still there: the same attempt goes on from it. Where the create itself
                    // carries the lines it has no name.
                    Some((_, input))
                        if !input.0.is_empty() || matches!(self.phase, Phase::Creating { .. }) =>
                    {
                        Phase::Uploaded {
                            tag: tag.clone(),
                            input: input.clone(),
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
            },
            JournalEvent::CreateUnknown { .. }
            | JournalEvent::ListedClean { .. }
            | JournalEvent::Downloaded { .. } => return,
            JournalEvent::Absent { tag } => {
                let (input, mark) = match &self.phase {
                    Phase::Creating { input, mark, .. } => (input.clone(), mark.clone()),
                    _ => Default::default(),
                };
                Phase::Absent {
                    tag: tag.clone(),
                    input,
                    mark,
                }
            }
            JournalEvent::Fenced { tag } => {
                self.spend();
                let known = self.tags.iter().map(SubmissionTag::attempt).max();
                Phase::Sealed {
                    attempt: known.unwrap_or(0).max(tag.attempt()).saturating_add(1),
                }
            }
            JournalEvent::Held { reason, .. } => Phase::Held {
                reason: reason.clone(),
            },
            JournalEvent::Status { status: new, .. } => {
                if let Phase::Running { status, .. } = &mut self.phase {
                    *status = Some(new.clone());
                }
                return;
            }
            JournalEvent::CancelIntent { .. } => {
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

    /// The batch under way failed without buying anything, and the chunk goes on without it.
    pub(super) fn spend(&mut self) {
        if let Phase::Running { handle, .. } = &self.phase {
            self.spent.push(handle.id.clone());
        }
    }
}
