//! The protocol against a model provider and a model journal, in virtual time, with a crash at every
//! boundary between two effects.

use super::*;
use batchwright_core::{BatchCounts, ResultFile};
use proptest::{collection::vec, option, prelude::*, sample};
use std::collections::{BTreeSet, VecDeque};

mod besides;
mod crashes;
mod decisions;
mod explorer;
mod rules;

const ROWS: u64 = 10;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// What becomes of one create.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Create {
    Answered,
    /// Committed, and the answer is lost; also a 5xx after the commit.
    AnswerLost,
    Dropped,
    /// Answered with nothing, committed after this time.
    Late(Duration),
    /// The vendor's own retry behind one create: two batches, no answer.
    Doubled,
    Refused,
    RateLimited,
    /// Refused in words, and committed all the same.
    RefusedAfterAll,
    LimitedAfterAll,
    Account,
    NotSent,
    /// The input is not visible yet, or not any more.
    NoInput,
}

/// How a batch that was committed goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Completes,
    QueueFull,
    Invalid,
    InputGone,
    /// Completed and counted; its file shows after this many further polls.
    FilesLate(u32),
    /// Ended in this state; a second file is announced and shows after this many further polls.
    OneFileLate(&'static str, u32),
    /// Failed for want of money.
    NoMoney,
    ExpiresEmpty,
    /// Rests in this state for this long, then completes.
    Stuck(&'static str, Duration),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum CancelMode {
    Works,
    Conflicts,
    /// Accepted, and the batch completes all the same.
    Ignored,
    Fails,
}

#[derive(Clone, Debug)]
struct Batch {
    id: String,
    tag: Option<SubmissionTag>,
    input: InputRef,
    at: Duration,
    fate: Fate,
    polls: u32,
    cancelled_at: Option<Duration>,
}

/// Everything that survives a crash: the journal and the provider.
#[derive(Clone, Debug)]
struct World {
    now: Duration,
    journal: Vec<JournalEvent>,
    /// When each fact was written.
    written: Vec<Duration>,
    /// Journal positions of the intents whose create was sent.
    sent: BTreeSet<usize>,
    files: Vec<(SubmissionTag, InputRef)>,
    fences: Vec<(InputRef, Duration)>,
    uploads: u32,
    batches: Vec<Batch>,
    later: Vec<Batch>,
    creates: VecDeque<Create>,
    fates: VecDeque<Fate>,
    /// Which of the coming free calls fail.
    bad_reads: VecDeque<bool>,
    lag: Duration,
    page: usize,
    fence_works: bool,
    terms: Terms,
    others: Others,
    /// Lines under other ids, in every download.
    foreign: u64,
    /// Whether another job makes a batch of as many requests just after our create.
    stranger: bool,
    /// Whether an input can be deleted.
    can_discard: bool,
    /// Whether the list can be read.
    readable: bool,
    /// Whether no other batch of ours takes room.
    alone: bool,
    cancel: CancelMode,
    cancels: u32,
    cancel_at: Option<Duration>,
    /// Rows without a line in every download, and in the first one only.
    missing: u64,
    cut: u64,
    merges: Vec<String>,
    closes: Vec<String>,
    faults: Vec<InputFault>,
    creates_at: Vec<Duration>,
    polls_at: Vec<Duration>,
    lists_at: Vec<Duration>,
    /// The effect the last crash was at, and whether it had taken place.
    crashed: Option<(String, bool)>,
    minted: u32,
    options: RouterOptions,
}

#[derive(Clone, Debug, PartialEq)]
enum End {
    Merged,
    Held,
    Stopped(ErrorKind),
}

#[derive(Clone, Copy, Debug)]
struct Crash {
    /// Before or after which effect of the process, counted from 0.
    at: usize,
    after: bool,
    downtime: Duration,
}

impl World {
    fn new() -> Self {
        Self {
            now: Duration::ZERO,
            journal: Vec::new(),
            written: Vec::new(),
            sent: BTreeSet::new(),
            files: Vec::new(),
            fences: Vec::new(),
            uploads: 0,
            batches: Vec::new(),
            later: Vec::new(),
            creates: VecDeque::new(),
            fates: VecDeque::new(),
            bad_reads: VecDeque::new(),
            lag: Duration::ZERO,
            page: 20,
            fence_works: true,
            terms: Terms {
                can_list: true,
                ..Terms::default()
            },
            others: Others::default(),
            foreign: 0,
            stranger: false,
            can_discard: true,
            readable: true,
            alone: false,
            cancel: CancelMode::Works,
            cancels: 0,
            cancel_at: None,
            missing: 0,
            cut: 0,
            merges: Vec::new(),
            closes: Vec::new(),
            faults: Vec::new(),
            creates_at: Vec::new(),
            polls_at: Vec::new(),
            lists_at: Vec::new(),
            crashed: None,
            minted: 0,
            options: RouterOptions::default(),
        }
    }

    fn creating(creates: impl IntoIterator<Item = Create>) -> Self {
        let mut world = Self::new();
        world.creates.extend(creates);
        world
    }

    fn fated(fates: impl IntoIterator<Item = Fate>) -> Self {
        let mut world = Self::new();
        world.fates.extend(fates);
        world
    }

    /// Runs processes until one ends without a crash; each crash ends one.
    fn run(&mut self, crashes: &[Crash]) -> End {
        for crash in crashes {
            if let Some(end) = self.process(Some(*crash)) {
                return end;
            }
        }
        self.process(None).expect("nothing crashes any more")
    }

    /// Reruns after stops, as people do, until nothing is left to do.
    fn run_to_the_end(&mut self, crashes: &[Crash]) -> End {
        let mut end = self.run(crashes);
        for _ in 0..20 {
            let End::Stopped(_) = end else { break };
            self.now += HOUR;
            end = self.run(&[]);
        }
        end
    }

    /// One process, from reading the journal to its end; `None` where it crashed.
    fn process(&mut self, crash: Option<Crash>) -> Option<End> {
        let ages = self.written.iter().map(|at| self.now - *at);
        let mut machine = Submission::restore(
            ages.zip(self.journal.iter().cloned()),
            self.terms,
            self.options.clone(),
            self.now,
        );
        machine.set_alone(self.alone);
        for step in 0..20_000 {
            if self.cancel_at.is_some_and(|at| self.now >= at) {
                machine.on(Event::CancelRequested, self.now, 0.5);
            }
            let effect = machine.next(self.now);
            let crash = crash.filter(|crash| crash.at == step);
            if let Some(crash) = crash {
                let name = format!("{effect:?}");
                let end = name.find([' ', '(']).unwrap_or(name.len());
                self.crashed = Some((name[..end].to_owned(), crash.after));
            }
            if let Some(crash) = crash.filter(|crash| !crash.after) {
                self.now += crash.downtime;
                return None;
            }
            let event = match effect {
                Effect::Done => {
                    assert_eq!(machine.held().is_some(), !self.is_merged());
                    return Some(if self.is_merged() {
                        End::Merged
                    } else {
                        End::Held
                    });
                }
                Effect::Stop(error) => return Some(End::Stopped(error.kind())),
                effect => self.perform(effect),
            };
            if let Some(crash) = crash {
                self.now += crash.downtime;
                return None;
            }
            if machine.wants_others() {
                machine.set_others(self.others.clone());
            }
            machine.on(event, self.now, 0.5);
        }
        panic!("I5: the run does not end: {self:#?}");
    }

    fn write(&mut self, fact: JournalEvent) {
        self.journal.push(fact);
        self.written.push(self.now);
    }

    fn is_merged(&self) -> bool {
        self.journal
            .iter()
            .any(|fact| matches!(fact, JournalEvent::Merged { .. }))
    }

    fn bad(&mut self) -> Result<()> {
        self.now += SECOND;
        self.settle();
        match self.bad_reads.pop_front() {
            Some(true) => Err(Error::new(ErrorKind::ProviderFault, "a bad gateway")),
            _ => Ok(()),
        }
    }

    /// Commits what was late.
    fn settle(&mut self) {
        let (due, later) = std::mem::take(&mut self.later)
            .into_iter()
            .partition(|batch: &Batch| batch.at <= self.now);
        self.later = later;
        for batch in due {
            self.commit(batch);
        }
    }

    fn commit(&mut self, mut batch: Batch) {
        let there = self.terms.inline || self.files.iter().any(|(_, input)| *input == batch.input);
        if !there && self.fence_works {
            batch.fate = Fate::InputGone;
        }
        batch.id = format!("batch-{}", self.batches.len());
        self.batches.push(batch);
    }

    fn batch(&mut self, tag: &SubmissionTag, input: &InputRef) -> Batch {
        Batch {
            id: String::new(),
            tag: Some(tag.clone()),
            input: input.clone(),
            at: self.now,
            fate: self.fates.pop_front().unwrap_or(Fate::Completes),
            polls: 0,
            cancelled_at: None,
        }
    }

    fn perform(&mut self, effect: Effect) -> Event {
        match effect {
            Effect::Persist(fact) => {
                self.write(fact.clone());
                Event::Persisted(fact)
            }
            Effect::Mint { attempt } => {
                self.minted += 1;
                Event::Minted(tag(attempt, &format!("r{}", self.minted)))
            }
            Effect::FindUpload { tag } => Event::Found(self.bad().map(|()| {
                let file = self.files.iter().find(|(theirs, _)| *theirs == tag);
                file.map(|(_, input)| input.clone())
            })),
            Effect::Upload { tag } => {
                let intent = JournalEvent::UploadIntent { tag: tag.clone() };
                assert_eq!(self.journal.last(), Some(&intent));
                self.uploads += 1;
                Event::Uploaded(self.bad().map(|()| {
                    let input = InputRef(format!("file-{}", self.uploads));
                    self.files.push((tag, input.clone()));
                    input
                }))
            }
            Effect::Recent => Event::Recent(self.bad().map(|()| {
                let mut listed = self.listed(&ListMark::default());
                listed.truncate(self.page);
                listed
            })),
            Effect::Submit { tag, input } => self.submit(&tag, &input),
            Effect::List { .. } if !self.readable => {
                self.now += SECOND;
                Event::Listed(Err(Error::new(ErrorKind::Unsupported, "it has no end")))
            }
            Effect::List { mark } => Event::Listed(self.bad().map(|()| {
                self.lists_at.push(self.now);
                self.listed(&mark)
            })),
            Effect::Discard { .. } if !self.can_discard => {
                Event::Discarded(Err(Error::new(ErrorKind::Unsupported, "no delete")))
            }
            Effect::Discard { input } => Event::Discarded(self.bad().map(|()| {
                self.files.retain(|(_, theirs)| *theirs != input);
                self.fences.push((input, self.now));
            })),
            Effect::Poll { handle } => {
                self.polls_at.push(self.now);
                Event::Polled(self.bad().map(|()| self.poll(&handle)))
            }
            Effect::Cancel { handle } => {
                let intent = JournalEvent::CancelIntent {
                    handle: handle.clone(),
                };
                assert!(
                    self.journal.contains(&intent),
                    "a cancel before its intent is durable"
                );
                self.cancels += 1;
                self.now += SECOND;
                let now = self.now;
                let at = self.batches.iter().position(|batch| batch.id == handle.id);
                let over = at.is_some_and(|at| self.status(&self.batches[at]).is_terminal());
                let batch = at.map(|at| &mut self.batches[at]);
                Event::Cancelled(match self.cancel {
                    CancelMode::Works if over => {
                        Err(Error::new(ErrorKind::Conflict, "it has ended"))
                    }
                    CancelMode::Works => {
                        batch.expect("it exists").cancelled_at.get_or_insert(now);
                        Ok(())
                    }
                    CancelMode::Ignored => Ok(()),
                    CancelMode::Conflicts => Err(Error::new(ErrorKind::Conflict, "it has ended")),
                    CancelMode::Fails => Err(Error::new(ErrorKind::ProviderFault, "no")),
                })
            }
            Effect::Collect { fresh, .. } => {
                if fresh {
                    self.cut = 0;
                }
                Event::KeptAll(self.bad())
            }
            Effect::Bill { snapshot, .. } => {
                let rows = self.answered_by(&snapshot);
                Event::Billed(self.bad().map(|()| Bill { rows, cost: None }))
            }
            Effect::Merge { handle, rest } => {
                let missing = self.missing + self.cut;
                if self.is_strangers(&handle) {
                    return Event::Merged {
                        rows: 0,
                        missing: ROWS,
                        foreign: ROWS,
                    };
                }
                let Some(rest) = rest.or((missing == 0).then_some(Ending::Missing)) else {
                    return Event::Merged {
                        rows: ROWS - missing,
                        missing,
                        foreign: self.foreign,
                    };
                };
                self.merges.push(match missing {
                    0 => format!("{}: whole", handle.id),
                    some => format!("{}: {some} {}", handle.id, rest.as_str()),
                });
                Event::Merged {
                    rows: ROWS,
                    missing: 0,
                    foreign: 0,
                }
            }
            Effect::Close(close) => {
                self.closes.push(match close {
                    Close::Refused(error, faults) => {
                        self.faults = faults;
                        format!("refused: {}", error.message())
                    }
                    Close::Cancelled => "cancelled".to_owned(),
                });
                Event::Merged {
                    rows: ROWS,
                    missing: 0,
                    foreign: 0,
                }
            }
            Effect::WaitUntil(instant) => {
                assert!(instant > self.now, "a wait that is none");
                self.now = match self.cancel_at.filter(|at| *at > self.now) {
                    // As the shell does, which is woken by the request.
                    Some(at) => instant.min(at),
                    None => instant,
                };
                self.settle();
                Event::Woken
            }
            Effect::Done | Effect::Stop(_) => unreachable!("the caller takes these"),
        }
    }

    /// Rows of this chunk that an ended batch answered.
    fn answered_by(&self, snapshot: &BatchSnapshot) -> u64 {
        match snapshot.status {
            BatchStatus::Completed if !self.is_strangers(&snapshot.handle) => ROWS,
            _ => 0,
        }
    }

    fn is_strangers(&self, handle: &BatchHandle) -> bool {
        let batch = self.batches.iter().find(|batch| batch.id == handle.id);
        let tag = batch.and_then(|batch| batch.tag.as_ref());
        tag.is_some_and(|tag| tag.job() != "job")
    }

    fn submit(&mut self, tag: &SubmissionTag, input: &InputRef) -> Event {
        let last = self.journal.len() - 1;
        assert!(
            matches!(&self.journal[last], JournalEvent::CreateIntent { tag: t, input: i, .. } if t == tag && i == input),
            "a create before its intent is durable"
        );
        assert!(self.sent.insert(last), "a create sent twice for one intent");
        self.creates_at.push(self.now);
        self.now += SECOND;
        let create = self.creates.pop_front().unwrap_or(Create::Answered);
        let refuse = |kind| Err(SubmitError::Refused(Error::new(kind, "the create")));
        let unknown = Err(SubmitError::Unknown(Error::new(ErrorKind::Timeout, "lost")));
        Event::Submitted(match create {
            Create::Answered => {
                let batch = self.batch(tag, input);
                self.commit(batch);
                let id = self.batches.last().expect("just committed").id.clone();
                Ok(BatchHandle::new("model", id, input.clone()))
            }
            Create::AnswerLost | Create::Doubled => {
                for _ in 0..if create == Create::Doubled { 2 } else { 1 } {
                    let batch = self.batch(tag, input);
                    self.commit(batch);
                }
                if self.stranger {
                    let mut batch = self.batch(tag, input);
                    batch.tag = Some(SubmissionTag::new("other", 1, 1, "x").unwrap());
                    self.commit(batch);
                }
                unknown
            }
            Create::Dropped => unknown,
            Create::Late(after) => {
                let mut batch = self.batch(tag, input);
                batch.at += after;
                self.later.push(batch);
                unknown
            }
            Create::RefusedAfterAll | Create::LimitedAfterAll => {
                let batch = self.batch(tag, input);
                self.commit(batch);
                refuse(match create {
                    Create::RefusedAfterAll => ErrorKind::InvalidRequest,
                    _ => ErrorKind::RateLimited,
                })
            }
            Create::Refused => refuse(ErrorKind::InvalidRequest),
            Create::RateLimited => refuse(ErrorKind::RateLimited),
            Create::Account => refuse(ErrorKind::QuotaExceeded),
            Create::NotSent => Err(SubmitError::NotSent(Error::new(ErrorKind::Connect, "no"))),
            Create::NoInput => refuse(ErrorKind::NotFound),
        })
    }

    /// Newest first, without what the list does not show yet.
    fn listed(&self, mark: &ListMark) -> Vec<BatchSummary> {
        let summary = |batch: &Batch| {
            let handle = BatchHandle::new("model", batch.id.clone(), batch.input.clone());
            let requests = self.terms.by_requests.then_some(ROWS);
            // Where only the number of requests tells, nothing else does.
            let tag = batch.tag.clone().filter(|_| !self.terms.by_requests);
            BatchSummary::new(handle, self.status(batch), tag, None).with_requests(requests)
        };
        let shown = |batch: &&Batch| batch.at + self.lag <= self.now;
        let all = self.batches.iter().rev().filter(shown).map(summary);
        all.filter(|summary| !mark.seen.contains(&summary.handle.id))
            .collect()
    }

    fn status(&self, batch: &Batch) -> BatchStatus {
        let age = self.now.saturating_sub(batch.at);
        if let Some(at) = batch.cancelled_at {
            return if self.now < at + MINUTE {
                BatchStatus::Cancelling
            } else {
                BatchStatus::Cancelled
            };
        }
        match batch.fate {
            Fate::Stuck(word, long) if age < long => match word {
                "validating" => BatchStatus::Validating,
                "in_progress" => BatchStatus::InProgress,
                "finalizing" => BatchStatus::Finalizing,
                word => BatchStatus::Unknown(word.to_owned()),
            },
            _ if age < MINUTE => BatchStatus::Validating,
            Fate::QueueFull | Fate::Invalid | Fate::InputGone | Fate::NoMoney => {
                BatchStatus::Failed
            }
            _ if age < HOUR => BatchStatus::InProgress,
            Fate::ExpiresEmpty | Fate::OneFileLate("expired", _) => BatchStatus::Expired,
            Fate::OneFileLate("cancelled", _) => BatchStatus::Cancelled,
            _ => BatchStatus::Completed,
        }
    }

    fn poll(&mut self, handle: &BatchHandle) -> BatchSnapshot {
        let at = self.batches.iter().position(|batch| batch.id == handle.id);
        let at = at.expect("only batches that exist are polled");
        let status = self.status(&self.batches[at]);
        let batch = &mut self.batches[at];
        let mut snapshot = BatchSnapshot::new(handle.clone(), status);
        if let Fate::OneFileLate(_, polls) = batch.fate
            && snapshot.status.is_terminal()
        {
            batch.polls += 1;
            snapshot.results_pending = batch.polls <= polls;
            snapshot.files.push(ResultFile::new("err", "errors"));
            // The rows of the file that is not named yet.
            self.missing = if snapshot.results_pending { 4 } else { 0 };
        } else if snapshot.status == BatchStatus::Completed {
            batch.polls += 1;
            snapshot.counts = Some(BatchCounts::new(ROWS, ROWS, 0));
        }
        let files_there = match batch.fate {
            Fate::FilesLate(polls) => batch.polls > polls,
            Fate::ExpiresEmpty => false,
            _ => true,
        };
        match snapshot.status {
            BatchStatus::Completed | BatchStatus::Cancelled if files_there => {
                snapshot.files.push(ResultFile::new("out", "output"));
            }
            BatchStatus::Failed => {
                let fault = |code: &str, line, param: Option<&str>| {
                    InputFault::new(Some(code.into()), code, line, param.map(str::to_owned))
                };
                snapshot.queue_full = batch.fate == Fate::QueueFull;
                if batch.fate == Fate::NoMoney {
                    snapshot.account_fault = Some(ErrorKind::QuotaExceeded);
                }
                snapshot.faults = match batch.fate {
                    Fate::NoMoney => vec![fault("billing_hard_limit_reached", None, None)],
                    Fate::QueueFull => vec![fault("token_limit_exceeded", None, None)],
                    Fate::InputGone => vec![fault("invalid_request", None, Some("file_id"))],
                    _ => vec![
                        fault("invalid_json_line", Some(3), None),
                        fault("url_mismatch", Some(7), Some("url")),
                    ],
                };
            }
            _ => {}
        }
        snapshot
    }

    /// Batches that ran for this chunk, by whoever's create.
    fn bought(&self) -> usize {
        let ran = |batch: &&Batch| {
            !matches!(
                batch.fate,
                Fate::QueueFull | Fate::Invalid | Fate::InputGone | Fate::NoMoney
            )
        };
        self.batches.iter().filter(ran).count()
    }

    /// The residual risk: committed when the input was still there, and not listed yet when it was deleted.
    fn has_ghost(&self) -> bool {
        self.batches.iter().any(|batch| {
            let hidden = |at: Duration| batch.at <= at && at < batch.at + self.lag;
            let fenced = |(input, at): &(InputRef, Duration)| *input == batch.input && hidden(*at);
            self.fences.iter().any(fenced)
        })
    }

    /// I1: every row was given its ending, each time the same one.
    fn assert_rows_ended_once(&self) {
        let endings: BTreeSet<&String> = self.merges.iter().chain(&self.closes).collect();
        assert_eq!(endings.len(), 1, "{endings:?}");
    }

    fn count(&self, is: impl Fn(&JournalEvent) -> bool) -> usize {
        self.journal.iter().filter(|fact| is(fact)).count()
    }
}

fn tag(attempt: u32, random: &str) -> SubmissionTag {
    SubmissionTag::new("job", 1, attempt, random).unwrap()
}

/// The rows each ended surplus batch answered.
fn surplus_ends(world: &World) -> Vec<u64> {
    let ended = world.journal.iter().filter_map(|fact| match fact {
        JournalEvent::SurplusEnded { rows, .. } => Some(*rows),
        _ => None,
    });
    ended.collect()
}
