//! The life of one chunk, from sealed to merged, as a plain state machine.
//!
//! [`Submission::next`] names the one thing to do; the shell does it and reports back through
//! [`Submission::on`]. Facts are made durable before the machine builds on them: every change of phase
//! happens by folding a [`JournalEvent`] that was persisted, and a restart folds the chunk's journal
//! through the same function, so recovery is no code path of its own.

use crate::options::RouterOptions;
use batchwright_core::{
    BatchHandle, BatchInput, BatchLimits, BatchSnapshot, BatchStatus, BatchSummary, Ending, Error,
    ErrorKind, InputFault, InputRef, JournalEvent, ListMark, ListMatch, Result, RetryClass,
    SubmissionTag, SubmitError,
};
use std::{collections::HashSet, time::Duration};

#[cfg(test)]
mod tests;

/// Attempts after which a chunk whose input keeps vanishing is given up.
const MAX_REUPLOADS: u32 = 3;

/// Creates in one run that had no effect, after which the run stops for this chunk: something swallows
/// them, and another upload would not help.
const MAX_LOST: u32 = 5;

/// Failed batches in a row for want of room while no other batch of ours takes any, after which the run
/// stops: such a chunk never fits (F-010).
const MAX_FULL_ALONE: u32 = 5;

/// Readings of a list that the provider gave and that cannot be read to its end, after which a person is
/// asked (F-116).
const MAX_UNREADABLE: u32 = 5;

/// Free attempts at an upload or a create that the provider answers with no for another reason than load,
/// after which the run stops for this chunk.
const MAX_FREE: u32 = 20;

/// What the shell is to do next for this chunk. Exactly one thing is under way at a time.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// Make the fact durable, then report [`Event::Persisted`].
    Persist(JournalEvent),
    /// Mint a tag for this attempt, then report [`Event::Minted`].
    Mint { attempt: u32 },
    /// Look whether a lost upload of this tag is there.
    FindUpload { tag: SubmissionTag },
    /// Upload the attempt's lines.
    Upload { tag: SubmissionTag },
    /// Read the first page of the provider's list.
    Recent,
    /// Send the create. Handed out once for each durable intent.
    Submit { tag: SubmissionTag, input: InputRef },
    /// Read the provider's list back to the mark.
    List { mark: ListMark },
    /// Delete the input of an attempt that had no effect.
    Discard { input: InputRef },
    /// Ask for the batch's state.
    Poll { handle: BatchHandle },
    /// Ask for the batch to be cancelled.
    Cancel { handle: BatchHandle },
    /// Keep every result file, each with a durable fact, then report [`Event::KeptAll`].
    /// Where `fresh`, what was kept before is forgotten first.
    Collect {
        snapshot: BatchSnapshot,
        fresh: bool,
    },
    /// Give every row of the chunk its outcome from the files kept, then report [`Event::Merged`]. Rows
    /// without a line end in `rest`, or are only counted.
    Merge {
        handle: BatchHandle,
        rest: Option<Ending>,
    },
    /// Give every row of the chunk this ending, then report [`Event::Merged`].
    Close(Close),
    /// Do nothing until the instant.
    WaitUntil(Duration),
    /// Nothing is left to do for this chunk.
    Done,
    /// Stop here; the chunk's state stays as it is and a later run goes on from it.
    Stop(Error),
}

/// Why a chunk ends without results.
#[derive(Clone, Debug)]
pub(crate) enum Close {
    /// The provider refused it and nothing ran.
    Refused(Error, Vec<InputFault>),
    /// It was cancelled before anything was bought.
    Cancelled,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    Persisted(JournalEvent),
    Minted(SubmissionTag),
    Found(Result<Option<InputRef>>),
    Uploaded(Result<InputRef>),
    Recent(Result<Vec<BatchSummary>>),
    Submitted(Result<BatchHandle, SubmitError>),
    Listed(Result<Vec<BatchSummary>>),
    Discarded(Result<()>),
    Polled(Result<BatchSnapshot>),
    /// The provider was asked to cancel; what became of it the next poll tells.
    Cancelled(Result<()>),
    /// Every result file is kept, or one could not be.
    KeptAll(Result<()>),
    /// Rows that have an outcome now, rows of which no file holds a line, and lines under ids that are not
    /// this batch's.
    Merged {
        rows: u64,
        missing: u64,
        foreign: u64,
    },
    /// A waiting time passed.
    Woken,
    /// The caller wants the chunk cancelled.
    CancelRequested,
}

/// What the provider's batch API allows for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    /// Whether its list can identify a batch of ours.
    pub(crate) can_list: bool,
    /// Whether a batch that shows neither input nor tag is known by the number of its requests.
    pub(crate) by_requests: bool,
    /// Whether the create carries the lines: nothing is uploaded, and nothing can be deleted under a late one.
    pub(crate) inline: bool,
}

impl Terms {
    pub(crate) fn of(limits: &BatchLimits) -> Self {
        Self {
            can_list: !limits.list_match.is_empty(),
            by_requests: limits.list_match.contains(&ListMatch::Requests),
            inline: limits.input == BatchInput::Inline,
        }
    }
}

/// What tells this chunk's batch from others where only the number of requests does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Others {
    /// How many requests this chunk holds.
    pub(crate) requests: u64,
    /// Batches the journal names.
    pub(crate) known: HashSet<String>,
    /// Whether another chunk's create is of unclear fate too.
    pub(crate) unclear: bool,
}

/// The durable state: a fold over the chunk's journal.
#[derive(Clone, Debug, PartialEq)]
enum Phase {
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

/// What only this process knows about the phase it is in.
#[derive(Clone, Debug)]
enum Live {
    /// The phase was just entered, or the process just started: nothing of this phase was done here.
    Idle,
    /// The intent was made durable by this process and its effect was not sent yet; of an absent attempt,
    /// its input is gone and the list is read once more.
    Armed,
    /// The attempt has its tag, and its create needs no upload.
    Minted(SubmissionTag),
    /// A fact to be made durable next.
    Pending(JournalEvent),
    /// The ended batch as the last poll found it.
    Ended(BatchSnapshot),
    /// Ended without results.
    Closing(Close),
}

/// Whether this process asked for the cancel that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    No,
    /// In vain: once more after the next poll, which may find that there is nothing left to cancel.
    InVain,
    Yes,
}

/// One chunk on its way.
#[derive(Debug)]
pub(crate) struct Submission {
    phase: Phase,
    live: Live,
    /// Not before this instant anything else is done.
    wait: Option<Duration>,
    /// Failures of the current step, for its backoff; a free reading that succeeds in between does not
    /// make them less.
    failures: u32,
    /// Polls so far, for their growing interval.
    polls: u32,
    /// Clean readings of the list, and when the first one was.
    clean: u32,
    clean_since: Option<Duration>,
    /// Since when results are announced and not there.
    awaiting_since: Option<Duration>,
    /// Whether the result files were downloaded a second time because rows were missing.
    again: bool,
    /// How often the batch's files were collected, by the journal: a process that dies while it merges for the last
    /// time leaves that to the next one, which must judge from the same files.
    collections: u32,
    /// Whether what was kept before that second download is still there.
    fresh: bool,
    /// Whether a row of this chunk was found in the results, so that the batch is ours beyond doubt.
    proven: bool,
    cancel: bool,
    asked: Asked,
    /// Nothing more can be done for this chunk in this run.
    stop: Option<Error>,
    /// Every tag the journal knows of this chunk.
    tags: Vec<SubmissionTag>,
    /// Batches that failed without buying anything and whose chunk went on.
    spent: Vec<String>,
    queue_waits: u32,
    /// Whether no other batch of ours takes room in the provider's queue, and for how many failures in a row
    /// that was so.
    alone: bool,
    full_alone: u32,
    /// Readings of a list that could not be read.
    unreadable: u32,
    /// Attempts in a row that were answered with no, and not for load.
    free: u32,
    /// Since when the provider says that there is no such batch.
    unseen_since: Option<Duration>,
    /// Since when the provider says that there is no such input.
    input_gone_since: Option<Duration>,
    /// Creates of this run that had no effect.
    lost: u32,
    terms: Terms,
    others: Others,
    /// Since when a batch may be this chunk's or that of another one of unclear fate.
    doubtful_since: Option<Duration>,
    options: RouterOptions,
}

impl Submission {
    /// The chunk as its journal tells.
    pub(crate) fn restore(
        entries: impl IntoIterator<Item = JournalEvent>,
        terms: Terms,
        options: RouterOptions,
    ) -> Self {
        let mut submission = Self {
            phase: Phase::Sealed { attempt: 1 },
            live: Live::Idle,
            wait: None,
            failures: 0,
            polls: 0,
            clean: 0,
            clean_since: None,
            awaiting_since: None,
            again: false,
            collections: 0,
            fresh: false,
            proven: false,
            cancel: false,
            asked: Asked::No,
            stop: None,
            tags: Vec::new(),
            spent: Vec::new(),
            queue_waits: 0,
            alone: false,
            full_alone: 0,
            unreadable: 0,
            free: 0,
            unseen_since: None,
            input_gone_since: None,
            lost: 0,
            terms,
            others: Others::default(),
            doubtful_since: None,
            options,
        };
        for event in entries {
            submission.fold(&event);
        }
        submission.live = Live::Idle;
        submission
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

    /// Why a person must decide, where one must.
    pub(crate) fn held(&self) -> Option<&str> {
        match &self.phase {
            Phase::Held { reason } => Some(reason),
            _ => None,
        }
    }

    /// Whether its batch takes room in the provider's queue, as far as the last poll told.
    pub(crate) fn takes_room(&self) -> bool {
        match &self.phase {
            Phase::Running { status, .. } => matches!(
                status,
                Some(BatchStatus::InProgress | BatchStatus::Finalizing | BatchStatus::Cancelling)
            ),
            _ => false,
        }
    }

    /// Tells whether no other batch of ours takes room in the provider's queue.
    pub(crate) fn set_alone(&mut self, alone: bool) {
        self.alone = alone;
    }

    /// Tells what [`Event::Listed`] is to be read by.
    pub(crate) fn set_others(&mut self, others: Others) {
        self.others = others;
    }

    /// Whether [`Event::Listed`] is to be preceded by [`Submission::set_others`].
    pub(crate) fn wants_others(&self) -> bool {
        self.terms.by_requests
    }

    /// What to do now. Taking `Effect::Submit` disarms it: it is never handed out twice for one intent.
    pub(crate) fn next(&mut self, now: Duration) -> Effect {
        if let Live::Pending(fact) = &self.live {
            return Effect::Persist(fact.clone());
        }
        if let Some(error) = &self.stop {
            return Effect::Stop(error.clone());
        }
        if let Live::Closing(close) = &self.live {
            return Effect::Close(close.clone());
        }
        let unsent = matches!(
            self.phase,
            Phase::Sealed { .. } | Phase::Uploading { .. } | Phase::Uploaded { .. }
        );
        if self.cancel && unsent {
            // Durable first: a rerun that is not told to cancel must not buy rows that have ended.
            return Effect::Persist(JournalEvent::Cancelled);
        }
        if let Some(until) = self.wait {
            if now < until {
                return Effect::WaitUntil(until);
            }
            self.wait = None;
        }
        match &self.phase {
            Phase::Sealed { attempt } => match &self.live {
                Live::Minted(_) if self.terms.can_list => Effect::Recent,
                Live::Minted(tag) => Effect::Persist(JournalEvent::CreateIntent {
                    tag: tag.clone(),
                    input: InputRef::default(),
                    mark: ListMark::default(),
                }),
                _ => Effect::Mint { attempt: *attempt },
            },
            Phase::Uploading { tag } if matches!(self.live, Live::Armed) => {
                Effect::Upload { tag: tag.clone() }
            }
            Phase::Uploading { tag } => Effect::FindUpload { tag: tag.clone() },
            Phase::Uploaded { .. } if self.terms.can_list => Effect::Recent,
            Phase::Uploaded { tag, input } => Effect::Persist(JournalEvent::CreateIntent {
                tag: tag.clone(),
                input: input.clone(),
                mark: ListMark::default(),
            }),
            Phase::Creating { tag, input, mark } => {
                if self.cancel && matches!(self.live, Live::Armed) {
                    return Effect::Persist(JournalEvent::CreateRefused {
                        tag: tag.clone(),
                        message: "cancelled before it was sent".to_owned(),
                        retryable: true,
                    });
                }
                if matches!(self.live, Live::Armed) {
                    let effect = Effect::Submit {
                        tag: tag.clone(),
                        input: input.clone(),
                    };
                    self.live = Live::Idle;
                    return effect;
                }
                if self.terms.can_list {
                    return Effect::List { mark: mark.clone() };
                }
                let reason =
                    "the provider's list cannot tell whether the batch was created".to_owned();
                Effect::Persist(JournalEvent::Held {
                    tag: tag.clone(),
                    reason,
                })
            }
            Phase::Absent { mark, .. } if matches!(self.live, Live::Armed) => {
                Effect::List { mark: mark.clone() }
            }
            Phase::Absent { input, .. } => Effect::Discard {
                input: input.clone(),
            },
            Phase::Running {
                handle,
                status,
                cancel,
                collected,
                provisional,
                ..
            } => match &self.live {
                _ if *collected => Effect::Merge {
                    handle: handle.clone(),
                    // No row ends without a line because a batch that may be another's holds none.
                    rest: (self.again && (self.proven || !provisional))
                        .then(|| rest(status.as_ref())),
                },
                Live::Ended(snapshot) => Effect::Collect {
                    snapshot: snapshot.clone(),
                    fresh: self.fresh,
                },
                _ if (self.cancel || *cancel)
                    && self.asked == Asked::No
                    // Nobody else's batch is cancelled.
                    && !provisional
                    && !status.as_ref().is_some_and(BatchStatus::is_terminal) =>
                {
                    // An earlier process may have died before it asked; asking twice is harmless.
                    if *cancel {
                        Effect::Cancel {
                            handle: handle.clone(),
                        }
                    } else {
                        Effect::Persist(JournalEvent::CancelIntent {
                            handle: handle.clone(),
                        })
                    }
                }
                _ => Effect::Poll {
                    handle: handle.clone(),
                },
            },
            Phase::Cancelled => Effect::Close(Close::Cancelled),
            Phase::Refused { message } => {
                let error = Error::new(ErrorKind::InvalidRequest, message.clone());
                Effect::Close(Close::Refused(error, Vec::new()))
            }
            Phase::Held { .. } | Phase::Merged => Effect::Done,
        }
    }

    /// Takes in what happened.
    pub(crate) fn on(&mut self, event: Event, now: Duration, random: f64) {
        match event {
            Event::Persisted(fact) => {
                self.live = Live::Idle;
                self.fold(&fact);
                if matches!(
                    fact,
                    JournalEvent::UploadIntent { .. } | JournalEvent::CreateIntent { .. }
                ) {
                    self.live = Live::Armed;
                }
            }
            Event::Woken => self.wait = None,
            Event::CancelRequested => {
                if !self.cancel {
                    self.cancel = true;
                    self.wait = None;
                }
            }
            Event::Minted(tag) if self.terms.inline => self.live = Live::Minted(tag),
            Event::Minted(tag) => self.live = Live::Pending(JournalEvent::UploadIntent { tag }),
            Event::Found(Ok(Some(input))) => self.uploaded(input),
            Event::Found(Ok(None)) => self.live = Live::Armed,
            // A list of files that cannot be had: at worst an orphan stays, which costs nothing.
            Event::Found(Err(error)) if error.class() == RetryClass::RowFatal => {
                self.live = Live::Armed;
            }
            Event::Found(Err(error)) => self.again_later(error, now, random),
            Event::Uploaded(Ok(input)) => self.uploaded(input),
            Event::Uploaded(Err(error)) => self.on_upload_failed(error, now, random),
            Event::Recent(Ok(recent)) => self.on_recent(&recent),
            Event::Recent(Err(error)) if error.kind() == ErrorKind::Unsupported => {
                self.on_recent(&[])
            }
            Event::Recent(Err(error)) => self.again_later(error, now, random),
            Event::Submitted(result) => self.on_submitted(result, now, random),
            Event::Listed(Ok(found)) => self.on_listed(&found, now, random),
            Event::Listed(Err(error)) if error.kind() == ErrorKind::Unsupported => {
                self.unreadable += 1;
                if self.unreadable < MAX_UNREADABLE {
                    self.wait_to_retry(&error, now, random);
                } else {
                    self.hold(format!(
                        "the provider's list cannot be read: {}",
                        error.message()
                    ));
                }
            }
            Event::Listed(Err(error)) => self.again_later(error, now, random),
            // A create that committed since the last reading still had its input: once more.
            Event::Discarded(Ok(())) => self.live = Live::Armed,
            Event::Discarded(Err(error)) if error.class() == RetryClass::RowFatal => {
                self.hold(format!(
                    "the input cannot be deleted, so that a late create might still run: {}",
                    error.message()
                ));
            }
            Event::Discarded(Err(error)) => self.again_later(error, now, random),
            Event::Polled(Ok(snapshot)) => self.on_polled(snapshot, now),
            // Not every reader may see it yet; later on it may be another account's (F-087).
            Event::Polled(Err(error))
                if error.kind() == ErrorKind::NotFound && error.class() == RetryClass::RowFatal =>
            {
                let since = *self.unseen_since.get_or_insert(now);
                if now.saturating_sub(since) < self.options.settle {
                    self.wait_to_retry(&error, now, random);
                } else {
                    self.stop = Some(error);
                }
            }
            // One bad poll never ends a batch (F-089).
            Event::Polled(Err(error)) => self.again_later(error, now, random),
            // A cancel is a request: what became of it, the next poll tells (F-025, F-079).
            Event::Cancelled(result) => {
                self.asked = match result {
                    Err(error) if error.class() != RetryClass::RowFatal => Asked::InVain,
                    _ => Asked::Yes,
                };
                self.wait = None;
            }
            Event::KeptAll(Ok(())) => {
                self.failures = 0;
                self.fresh = false;
                if let Phase::Running { handle, .. } = &self.phase {
                    let handle = handle.clone();
                    self.live = Live::Pending(JournalEvent::Collected { handle });
                }
            }
            Event::KeptAll(Err(error)) => {
                // The state is read again first: file ids may have changed, or the files may be gone. What
                // was kept is resumed.
                self.fresh = false;
                self.live = Live::Idle;
                self.again_later(error, now, random);
            }
            Event::Merged {
                rows,
                missing,
                foreign,
            } => self.on_merged(rows, missing, foreign, now),
        }
    }

    fn on_merged(&mut self, rows: u64, missing: u64, foreign: u64, now: Duration) {
        let just_proven = rows > 0 && !self.proven;
        self.proven |= just_proven;
        match &mut self.phase {
            // Not one line is this attempt's: it was another's all along, or nothing tells. Rows marked missing
            // would be bought again, and whether they were bought once is not known.
            Phase::Running {
                handle,
                provisional: true,
                ..
            } if rows == 0 && (foreign > 0 || self.again) => {
                let reason = not_proven(handle, "holds none of them");
                self.hold(reason);
            }
            // Lines that are missing may be a cut download (F-037, F-097), or stand in a file that was not
            // named yet (F-081): once more as a later poll finds it, then it is so.
            Phase::Running { collected, .. } if missing > 0 && !self.again => {
                *collected = false;
                self.again = true;
                self.fresh = true;
                self.live = Live::Idle;
                self.wait = Some(now + self.options.poll_interval(self.polls));
            }
            // Proven by the second download: once more, for the rows without a line.
            Phase::Running {
                provisional: true, ..
            } if missing > 0 && just_proven => self.live = Live::Idle,
            _ => self.live = Live::Pending(JournalEvent::Merged { rows }),
        }
    }

    fn uploaded(&mut self, input: InputRef) {
        self.failures = 0;
        self.free = 0;
        if let Phase::Uploading { tag } = &self.phase {
            self.live = Live::Pending(JournalEvent::Uploaded {
                tag: tag.clone(),
                input,
            });
        }
    }

    /// An upload costs nothing, so it is sent again after a look whether it arrived.
    fn on_upload_failed(&mut self, error: Error, now: Duration, random: f64) {
        match (&self.phase, error.class()) {
            // Its size is the one thing of an upload that is the chunk's own.
            (Phase::Uploading { tag }, RetryClass::RowFatal) if error.status() == Some(413) => {
                let message = error.message().to_owned();
                self.live = Live::Pending(JournalEvent::CreateRefused {
                    tag: tag.clone(),
                    message,
                    retryable: false,
                });
            }
            // The address, the account's storage or its rights: every other upload would end alike (F-092).
            (_, RetryClass::RowFatal) => self.stop = Some(error.with_class(RetryClass::JobStop)),
            _ => {
                self.live = Live::Idle;
                self.free_try(error, now, random);
            }
        }
    }

    /// The page read just before a create. A batch of this chunk may already be there.
    fn on_recent(&mut self, recent: &[BatchSummary]) {
        let (tag, input) = match (&self.phase, &self.live) {
            (Phase::Uploaded { tag, input }, _) => (tag.clone(), input.clone()),
            (Phase::Sealed { .. }, Live::Minted(tag)) => (tag.clone(), InputRef::default()),
            _ => return,
        };
        let ours = |summary: &&BatchSummary| {
            summary
                .tag
                .as_ref()
                .is_some_and(|t| t.job() == tag.job() && t.chunk() == tag.chunk())
        };
        // A fenced attempt that committed late fails for want of its input; that bought nothing.
        let bought: Vec<&BatchSummary> = recent
            .iter()
            .filter(ours)
            .filter(|summary| summary.status != BatchStatus::Failed && !self.is_spent(summary))
            .collect();
        let foreign = bought.iter().find(|summary| {
            !summary
                .tag
                .as_ref()
                .is_some_and(|theirs| self.tags.contains(theirs))
        });
        if let Some(foreign) = foreign {
            let reason = format!(
                "batch {} was bought for this chunk by another process or a copy of this job folder",
                foreign.handle.id
            );
            self.live = Live::Pending(JournalEvent::Held { tag, reason });
            return;
        }
        match bought.as_slice() {
            [] => {}
            [only] => {
                self.live = Live::Pending(JournalEvent::Adopted {
                    tag: only.tag.clone().expect("only tagged batches are ours"),
                    handle: only.handle.clone(),
                });
                return;
            }
            several => {
                let reason = several_match(several);
                self.live = Live::Pending(JournalEvent::Held { tag, reason });
                return;
            }
        }
        let seen = recent
            .iter()
            .map(|summary| summary.handle.id.clone())
            .collect();
        let mark = ListMark::new(seen, None);
        self.live = Live::Pending(JournalEvent::CreateIntent { tag, input, mark });
    }

    fn on_submitted(
        &mut self,
        result: Result<BatchHandle, SubmitError>,
        now: Duration,
        random: f64,
    ) {
        let Phase::Creating { tag, .. } = &self.phase else {
            return;
        };
        let tag = tag.clone();
        self.live = Live::Pending(match result {
            Ok(handle) => {
                self.failures = 0;
                self.free = 0;
                JournalEvent::Created { tag, handle }
            }
            Err(SubmitError::Unknown(error)) => {
                let message = error.message().to_owned();
                if error.is_job_stop() {
                    // An account without money buys nothing on the next try either (F-005). The next run looks
                    // in the list first, as after a crash.
                    self.stop = Some(error);
                }
                JournalEvent::CreateUnknown { tag, message }
            }
            Err(SubmitError::Refused(error))
                if !self.terms.inline
                    && error.kind() == ErrorKind::NotFound
                    && error.class() == RetryClass::RowFatal =>
            {
                let message = error.message().to_owned();
                self.on_input_gone(&tag, now)
                    .unwrap_or(JournalEvent::CreateRefused {
                        tag,
                        message,
                        retryable: false,
                    })
            }
            Err(SubmitError::NotSent(error) | SubmitError::Refused(error)) => {
                let retryable = error.class() != RetryClass::RowFatal;
                let message = error.message().to_owned();
                if retryable {
                    // Where the account is at fault the refusal is recorded first and the run stops then, so
                    // that a rerun has nothing to reconcile.
                    self.free_try(error, now, random);
                }
                JournalEvent::CreateRefused {
                    tag,
                    message,
                    retryable,
                }
            }
        });
    }

    fn on_listed(&mut self, found: &[BatchSummary], now: Duration, random: f64) {
        self.failures = 0;
        let (tag, input, fenced) = match &self.phase {
            Phase::Creating { tag, input, .. } => (tag, input, false),
            Phase::Absent { tag, input, .. } => (tag, input, true),
            _ => return,
        };
        let can_fence = !self.terms.inline && !input.0.is_empty();
        let by_requests = |summary: &BatchSummary| {
            self.terms.by_requests
                && summary.tag.is_none()
                && summary.handle.input.0.is_empty()
                && summary.requests == Some(self.others.requests)
                && !self.others.known.contains(&summary.handle.id)
        };
        let mut ours: Vec<&BatchSummary> = found
            .iter()
            .filter(|summary| {
                summary.tag.as_ref() == Some(tag)
                    || (!input.0.is_empty() && summary.handle.input == *input)
                    || by_requests(summary)
            })
            // An earlier batch of the same input, which failed for a full queue, is not this create's.
            .filter(|summary| !self.is_spent(summary))
            .collect();
        // Where several match, those that failed bought nothing (F-117).
        if ours.len() > 1 {
            let one_failed = ours
                .iter()
                .position(|one| one.status == BatchStatus::Failed);
            let failed = one_failed.map(|at| ours[at]);
            ours.retain(|summary| summary.status != BatchStatus::Failed);
            if ours.is_empty() {
                ours.extend(failed);
            }
        }
        self.unreadable = 0;
        if self.others.unclear && ours.iter().any(|summary| by_requests(summary)) {
            // It may be the other chunk's, whose create is answered any moment or is of unclear fate too.
            let since = *self.doubtful_since.get_or_insert(now);
            if now.saturating_sub(since) < self.options.settle {
                let step = self.options.settle / self.options.settle_listings.max(1);
                self.wait = Some(now + step.mul_f64(1.0 + 0.1 * random));
            } else {
                let reason = format!(
                    "creates of several chunks are of unclear fate, and the number of requests does not tell \
                     whose is batch {}",
                    ours[0].handle.id
                );
                self.hold(reason);
            }
            return;
        }
        self.doubtful_since = None;
        match ours.as_slice() {
            [only] => {
                self.live = Live::Pending(JournalEvent::Adopted {
                    tag: tag.clone(),
                    handle: only.handle.clone(),
                });
            }
            [] if fenced => {
                self.live = Live::Pending(JournalEvent::Fenced { tag: tag.clone() });
            }
            [] => {
                self.clean += 1;
                let since = *self.clean_since.get_or_insert(now);
                let settled = now.saturating_sub(since) >= self.options.settle;
                let fact = if self.clean >= self.options.settle_listings && settled {
                    if !can_fence {
                        let reason = "no batch of this chunk showed in the provider's list, and nothing can keep \
                                      its create from running late"
                            .to_owned();
                        self.hold(reason);
                        return;
                    }
                    self.lost += 1;
                    if self.lost >= MAX_LOST {
                        let message = format!("create the batch: {MAX_LOST} creates had no effect");
                        self.stop = Some(Error::new(ErrorKind::ProviderFault, message));
                    }
                    JournalEvent::Absent { tag: tag.clone() }
                } else {
                    // The listings are spread over the window (F-114).
                    let step = self.options.settle / self.options.settle_listings.max(1);
                    self.wait = Some(now + step.mul_f64(1.0 + 0.1 * random));
                    JournalEvent::ListedClean { tag: tag.clone() }
                };
                self.live = Live::Pending(fact);
            }
            several => self.hold(several_match(several)),
        }
    }

    fn on_polled(&mut self, snapshot: BatchSnapshot, now: Duration) {
        self.unseen_since = None;
        if !snapshot.status.is_terminal() {
            self.failures = 0;
            if self.asked == Asked::InVain {
                self.asked = Asked::No;
            }
        }
        let Phase::Running {
            handle,
            status,
            tag,
            fenced,
            provisional,
            ..
        } = &self.phase
        else {
            return;
        };
        let changed = status.as_ref() != Some(&snapshot.status);
        if changed {
            self.polls = 0;
        }
        let interval = self.options.poll_interval(self.polls);
        self.polls = self.polls.saturating_add(1);
        let nothing_ran = snapshot.status == BatchStatus::Failed && snapshot.files.is_empty();
        if nothing_ran && *fenced {
            // Whatever it says: its input was deleted under it. Its attempt is over, as it was meant to be
            // (F-113).
            self.live = Live::Pending(JournalEvent::Fenced { tag: tag.clone() });
            return;
        }
        if *provisional && (nothing_ran || snapshot.queue_full) {
            // It bought nothing, and that says nothing about the chunk's own batch, should it be another one.
            let reason = not_proven(handle, "failed before any row ran");
            self.hold(reason);
            return;
        }
        if let (true, Some(kind)) = (nothing_ran, snapshot.account_fault) {
            // No row's fault, and nothing to poll for: the same input may be submitted in a later run.
            let error = refusal(&snapshot, kind).with_class(RetryClass::JobStop);
            self.live = Live::Pending(JournalEvent::CreateRefused {
                tag: tag.clone(),
                message: error.message().to_owned(),
                retryable: true,
            });
            self.stop = Some(error);
            return;
        }
        if snapshot.queue_full {
            // Nothing ran: the same input is submitted again when there may be room (F-010).
            let error = refusal(&snapshot, ErrorKind::RateLimited);
            self.live = Live::Pending(JournalEvent::CreateRefused {
                tag: tag.clone(),
                message: error.message().to_owned(),
                retryable: true,
            });
            self.full_alone = if self.alone { self.full_alone + 1 } else { 0 };
            if self.full_alone >= MAX_FULL_ALONE {
                self.stop = Some(error.with_class(RetryClass::JobStop));
            }
            self.queue_pause(now);
            return;
        }
        if changed {
            // A terminal state is read once more, after it is recorded.
            self.wait = (!snapshot.status.is_terminal()).then_some(now + interval);
            self.live = Live::Pending(JournalEvent::Status {
                handle: handle.clone(),
                status: snapshot.status,
            });
            return;
        }
        match snapshot.status {
            BatchStatus::Failed if snapshot.files.is_empty() => {
                let input_gone = !self.terms.inline
                    && snapshot
                        .faults
                        .iter()
                        .any(|fault| fault.param.as_deref() == Some("file_id"));
                let tag = tag.clone();
                let next = input_gone.then(|| self.on_input_gone(&tag, now)).flatten();
                self.live = match next {
                    Some(fact) => Live::Pending(fact),
                    None => {
                        let error = refusal(&snapshot, ErrorKind::InvalidRequest);
                        Live::Closing(Close::Refused(error, snapshot.faults))
                    }
                };
            }
            ref status if status.is_terminal() => {
                let since = *self.awaiting_since.get_or_insert(now);
                if snapshot.awaits_files() && now.saturating_sub(since) < self.options.files_grace {
                    self.wait = Some(now + interval);
                } else {
                    // What is kept is given up only for something else.
                    self.fresh &= !snapshot.files.is_empty();
                    self.live = Live::Ended(snapshot);
                }
            }
            _ => {
                self.awaiting_since = None;
                self.wait = Some(now + interval);
            }
        }
    }

    /// Nothing ran, because the provider does not see the input. It may not have arrived everywhere yet
    /// (F-086); later on it is gone and is uploaded again (F-132). `None` where that did not help either.
    fn on_input_gone(&mut self, tag: &SubmissionTag, now: Duration) -> Option<JournalEvent> {
        let since = *self.input_gone_since.get_or_insert(now);
        if now.saturating_sub(since) < self.options.settle / 3 {
            self.queue_pause(now);
            return Some(JournalEvent::CreateRefused {
                tag: tag.clone(),
                message: "the provider does not see the input yet".to_owned(),
                retryable: true,
            });
        }
        self.input_gone_since = None;
        (tag.attempt() < MAX_REUPLOADS).then(|| JournalEvent::Fenced { tag: tag.clone() })
    }

    /// Waits before the same input is submitted again, longer each time.
    fn queue_pause(&mut self, now: Duration) {
        let growth = 1u32 << self.queue_waits.min(6);
        self.queue_waits = self.queue_waits.saturating_add(1);
        let wait = self.options.queue_wait.saturating_mul(growth);
        self.wait = Some(now + wait.min(Duration::from_secs(3600)));
    }

    fn is_spent(&self, summary: &BatchSummary) -> bool {
        self.spent.contains(&summary.handle.id)
    }

    fn hold(&mut self, reason: String) {
        if let Some((tag, _)) = self.current() {
            self.live = Live::Pending(JournalEvent::Held {
                tag: tag.clone(),
                reason,
            });
        }
    }

    /// The attempt under way and its stored input.
    fn current(&self) -> Option<(&SubmissionTag, &InputRef)> {
        match &self.phase {
            Phase::Uploaded { tag, input }
            | Phase::Creating { tag, input, .. }
            | Phase::Absent { tag, input, .. }
            | Phase::Running { tag, input, .. } => Some((tag, input)),
            _ => None,
        }
    }

    /// The step failed and may be done again: after a while, or not in this run.
    fn again_later(&mut self, error: Error, now: Duration, random: f64) {
        let patient = matches!(
            error.class(),
            RetryClass::NotSent | RetryClass::Rejected | RetryClass::Ambiguous
        );
        if !patient || error.should_retry() == Some(false) {
            self.stop = Some(error);
            return;
        }
        self.wait_to_retry(&error, now, random);
    }

    /// The step costs nothing and was answered with no. Load passes; anything else may stand for ever.
    fn free_try(&mut self, error: Error, now: Duration, random: f64) {
        let load = matches!(error.kind(), ErrorKind::RateLimited | ErrorKind::Overloaded);
        if error.class() == RetryClass::Rejected && !load {
            self.free += 1;
            if self.free >= MAX_FREE {
                self.stop = Some(error);
                return;
            }
        }
        self.again_later(error, now, random);
    }

    fn wait_to_retry(&mut self, error: &Error, now: Duration, random: f64) {
        self.failures = self.failures.saturating_add(1);
        self.wait = Some(
            now + self
                .options
                .retry
                .delay(self.failures, error.retry_after(), random),
        );
    }

    /// Changes the phase by a durable fact.
    fn fold(&mut self, fact: &JournalEvent) {
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
    fn spend(&mut self) {
        if let Phase::Running { handle, .. } = &self.phase {
            self.spent.push(handle.id.clone());
        }
    }
}

/// Why nothing follows from a batch that was taken for this chunk's by its size.
fn not_proven(handle: &BatchHandle, what: &str) -> String {
    format!(
        "batch {}, taken for this chunk's by the number of its requests, {what}: whether this chunk was bought is \
         not known",
        handle.id
    )
}

fn several_match(batches: &[&BatchSummary]) -> String {
    let ids: Vec<&str> = batches
        .iter()
        .map(|summary| summary.handle.id.as_str())
        .collect();
    format!("several batches match this chunk: {}", ids.join(", "))
}

/// How rows end of which an ended batch's files hold no line: some providers write none for what they
/// never ran (F-077, F-078).
fn rest(status: Option<&BatchStatus>) -> Ending {
    match status {
        Some(BatchStatus::Expired) => Ending::Expired,
        Some(BatchStatus::Cancelled) => Ending::Cancelled,
        _ => Ending::Missing,
    }
}

/// The provider's own words on why it refused a batch's input.
fn refusal(snapshot: &BatchSnapshot, kind: ErrorKind) -> Error {
    let Some(first) = snapshot.faults.first() else {
        return Error::new(kind, "the provider failed the batch without a reason");
    };
    let place = first
        .line
        .map_or(String::new(), |line| format!("line {line}: "));
    let error = Error::new(
        kind,
        format!("the provider refused the batch: {place}{}", first.message),
    );
    match &first.code {
        Some(code) => error.with_code(code.clone()),
        None => error,
    }
}
