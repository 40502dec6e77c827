//! The life of one chunk, from sealed to merged, as a plain state machine.
//!
//! [`Submission::next`] names the one thing to do; the shell does it and reports back through
//! [`Submission::on`]. Facts are made durable before the machine builds on them: every change of phase
//! happens by folding a [`JournalEvent`] that was persisted, and a restart folds the chunk's journal
//! through the same function, so recovery is no code path of its own.
//!
//! Where it buys: [`Effect::Submit`] is made at one place, in [`Submission::next`], of a phase that only a durable
//! `CreateIntent` of this very process leads to, and is disarmed there. Every other way into that phase, a restart
//! above all, leads to the provider's list instead.

use crate::options::RouterOptions;
use batchwright_core::{
    BatchHandle, BatchInput, BatchLimits, BatchSnapshot, BatchStatus, BatchSummary, Ending, Error,
    ErrorKind, InputFault, InputRef, JournalEvent, ListMark, ListMatch, Result, RetryClass,
    SubmissionTag, SubmitError,
};
use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

mod collect;
mod phase;
mod purchase;
mod reconcile;
mod watch;

use collect::rest;
use phase::Phase;
use watch::{Extra, Fence, Side};

pub(crate) use watch::Bill;

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
    /// Count what a surplus batch that has ended answered; it is the `number`-th of this chunk.
    Bill {
        tag: SubmissionTag,
        snapshot: BatchSnapshot,
        number: usize,
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
    /// A surplus batch's results are counted, or could not be.
    Billed(Result<Bill>),
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
    /// Batches the journal names as some chunk's beyond doubt.
    pub(crate) known: HashSet<String>,
    /// Batches that other chunks have taken for theirs until their results tell.
    pub(crate) taken: HashSet<String>,
    /// Whether the create of another chunk of as many requests is of unclear fate too.
    pub(crate) unclear: bool,
    /// Batches of this job that the list shows, that its journal does not know, and that no person knows of.
    pub(crate) strangers: Vec<String>,
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
    /// The list was read once more after a refusal, and shows no batch.
    Confirmed,
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
#[derive(Clone, Debug)]
pub(crate) struct Submission {
    phase: Phase,
    live: Live,
    /// Facts to be made durable before anything else.
    also: VecDeque<JournalEvent>,
    /// What the effect under way is about, where it is not the chunk's own step.
    side: Option<Side>,
    /// Whether the wait under way is for that.
    waits_aside: bool,
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
    /// Batches that count or counted for this chunk.
    used: Vec<String>,
    /// Batches taken for this chunk's whose results told otherwise.
    disproved: Vec<String>,
    /// Batches a person had it bought again in spite of.
    excused: Vec<String>,
    /// Given-up attempts, and batches besides the one that counts.
    fences: Vec<Fence>,
    surplus: Vec<Extra>,
    next_watch: Option<Duration>,
    /// Since when nothing is left to do but for surplus batches.
    ended_since: Option<Duration>,
    /// Whether somebody else was seen buying for this job.
    second_buyer: bool,
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
    /// Creates of this run that had no effect, and what the last one of unclear fate was answered with.
    lost: u32,
    answer: Option<Error>,
    terms: Terms,
    others: Others,
    /// Since when a batch may be this chunk's or that of another one of unclear fate.
    doubtful_since: Option<Duration>,
    options: RouterOptions,
}

impl Submission {
    /// The chunk as its journal tells: each fact with its age.
    pub(crate) fn restore(
        entries: impl IntoIterator<Item = (Duration, JournalEvent)>,
        terms: Terms,
        options: RouterOptions,
        now: Duration,
    ) -> Self {
        let mut submission = Self {
            phase: Phase::Sealed { attempt: 1 },
            live: Live::Idle,
            also: VecDeque::new(),
            side: None,
            waits_aside: false,
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
            used: Vec::new(),
            disproved: Vec::new(),
            excused: Vec::new(),
            fences: Vec::new(),
            surplus: Vec::new(),
            next_watch: None,
            ended_since: None,
            second_buyer: false,
            queue_waits: 0,
            alone: false,
            full_alone: 0,
            unreadable: 0,
            free: 0,
            unseen_since: None,
            input_gone_since: None,
            lost: 0,
            answer: None,
            terms,
            others: Others::default(),
            doubtful_since: None,
            options,
        };
        for (age, event) in entries {
            let left = submission.options.ghost_watch.saturating_sub(age);
            submission.fold(&event, now + left);
        }
        submission.live = Live::Idle;
        submission
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

    /// Whether somebody else was seen buying for this job, so that this process must not.
    pub(crate) fn has_second_buyer(&self) -> bool {
        self.second_buyer
    }

    /// Tells what [`Event::Listed`] and [`Event::Recent`] are to be read by.
    pub(crate) fn set_others(&mut self, others: Others) {
        self.others = others;
    }

    /// Whether [`Event::Listed`] is to be preceded by [`Submission::set_others`].
    pub(crate) fn wants_others(&self) -> bool {
        self.terms.by_requests
    }

    /// What to do now. Taking `Effect::Submit` disarms it: it is never handed out twice for one intent.
    pub(crate) fn next(&mut self, now: Duration) -> Effect {
        self.side = None;
        if let Some(fact) = self.also.front() {
            return Effect::Persist(fact.clone());
        }
        if let Live::Pending(fact) = &self.live {
            return Effect::Persist(fact.clone());
        }
        if let Some(error) = &self.stop {
            return Effect::Stop(error.clone());
        }
        if let Live::Closing(close) = &self.live {
            return Effect::Close(close.clone());
        }
        let unsent = match &self.phase {
            Phase::Sealed { .. } | Phase::Uploading { .. } => true,
            // What was refused is looked for first.
            Phase::Uploaded { refused, .. } => self.is_confirmed(refused.is_none()),
            _ => false,
        };
        if self.cancel && unsent {
            // Durable first: a rerun that is not told to cancel must not buy rows that have ended.
            return Effect::Persist(JournalEvent::Cancelled);
        }
        if let Some(effect) = self.aside(now) {
            return effect;
        }
        if let Some(until) = self.wait {
            if now < until {
                let aside = self.aside_due(now).filter(|due| *due < until);
                self.waits_aside = aside.is_some();
                return Effect::WaitUntil(aside.unwrap_or(until));
            }
            self.wait = None;
        }
        self.step(now)
    }

    /// Whether nothing keeps a create of an attempt that may have been refused before.
    fn is_confirmed(&self, is_first: bool) -> bool {
        is_first || !self.terms.can_list || matches!(self.live, Live::Confirmed)
    }

    /// The chunk's own next step.
    fn step(&mut self, now: Duration) -> Effect {
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
            Phase::Uploaded {
                refused: Some(mark),
                ..
            } if !self.is_confirmed(false) => Effect::List { mark: mark.clone() },
            Phase::Uploaded { .. } if self.terms.can_list => Effect::Recent,
            Phase::Uploaded { tag, input, .. } => Effect::Persist(JournalEvent::CreateIntent {
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
                    batches: Vec::new(),
                })
            }
            Phase::Absent {
                tag, input, forced, ..
            } if *forced && !self.terms.can_list && (self.terms.inline || input.0.is_empty()) => {
                Effect::Persist(JournalEvent::Fenced { tag: tag.clone() })
            }
            Phase::Absent { tag, mark, .. }
                if matches!(self.live, Live::Armed) || self.terms.inline =>
            {
                if self.terms.can_list {
                    Effect::List { mark: mark.clone() }
                } else {
                    Effect::Persist(JournalEvent::Fenced { tag: tag.clone() })
                }
            }
            Phase::Absent { mark, input, .. } if input.0.is_empty() => {
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
                unproven,
                ..
            } => match &self.live {
                _ if *collected => Effect::Merge {
                    handle: handle.clone(),
                    // No row ends without a line because a batch that may be another's holds none.
                    rest: (self.again && (self.proven || unproven.is_none()))
                        .then(|| rest(status.as_ref())),
                },
                Live::Ended(snapshot) => Effect::Collect {
                    snapshot: snapshot.clone(),
                    fresh: self.fresh,
                },
                _ if (self.cancel || *cancel)
                    && self.asked == Asked::No
                    // Nobody else's batch is cancelled.
                    && (self.proven || unproven.is_none())
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
            Phase::Refused {
                create: Some((.., mark)),
                ..
            } if !self.is_confirmed(false) => Effect::List { mark: mark.clone() },
            Phase::Refused { message, .. } => {
                let error = Error::new(ErrorKind::InvalidRequest, message.clone());
                Effect::Close(Close::Refused(error, Vec::new()))
            }
            Phase::Held { .. } | Phase::Merged => match self.lingers_until(now) {
                Some(until) => {
                    self.waits_aside = true;
                    Effect::WaitUntil(until)
                }
                None => Effect::Done,
            },
        }
    }

    /// Takes in what happened.
    pub(crate) fn on(&mut self, event: Event, now: Duration, random: f64) {
        match (self.side.take(), event) {
            (Some(Side::Watch), Event::Listed(found)) => self.on_watched(found, now),
            (Some(Side::Batch(at)), Event::Polled(result)) => {
                self.on_surplus_polled(at, result, now);
            }
            (Some(Side::Batch(at)), Event::Cancelled(result)) => {
                self.on_surplus_cancelled(at, &result);
            }
            (Some(Side::Batch(at)), Event::Billed(result)) => self.on_billed(at, result, now),
            (side, event) => {
                // Neither a wish nor a wait answers what is under way.
                self.side = side;
                self.on_own(event, now, random);
            }
        }
    }

    /// What happened to the chunk's own step.
    fn on_own(&mut self, event: Event, now: Duration, random: f64) {
        match event {
            // Only of what is aside.
            Event::Billed(_) => {}
            Event::Persisted(fact) => {
                let ghosts_until = now + self.options.ghost_watch;
                if self.also.front() == Some(&fact) {
                    self.also.pop_front();
                    self.fold(&fact, ghosts_until);
                    return;
                }
                self.live = Live::Idle;
                self.fold(&fact, ghosts_until);
                if matches!(
                    fact,
                    JournalEvent::UploadIntent { .. } | JournalEvent::CreateIntent { .. }
                ) {
                    self.live = Live::Armed;
                }
            }
            Event::Woken if std::mem::take(&mut self.waits_aside) => {}
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
            Event::Listed(Err(error))
                if error.kind() == ErrorKind::Unsupported
                    || error.class() == RetryClass::RowFatal =>
            {
                self.on_unreadable(&error, now, random);
            }
            Event::Listed(Err(error)) => self.again_later(error, now, random),
            // A create that committed since the last reading still had its input: once more.
            Event::Discarded(Ok(())) => self.live = Live::Armed,
            Event::Discarded(Err(error)) if error.class() == RetryClass::RowFatal => {
                if matches!(self.phase, Phase::Absent { forced: true, .. }) {
                    // Whoever said so knows that nothing keeps a late create.
                    self.live = Live::Armed;
                    return;
                }
                let reason = format!(
                    "the input cannot be deleted, so that a late create might still run: {}",
                    error.message()
                );
                self.hold(reason, Vec::new());
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
}
