//! Batches besides the one that counts: a create that committed after it was given up (a ghost, F-113), or one create
//! that made two (F-117).
//!
//! For a day after an attempt was fenced every reading of the list also looks for it. What is found is cancelled,
//! polled to its end, and counted, since what it answered may be paid twice. Nothing here buys, and nothing here
//! changes what becomes of the chunk.

use super::{Asked, Effect, Phase, Submission};
use batchwright_core::{
    BatchHandle, BatchSnapshot, BatchStatus, BatchSummary, InputRef, JournalEvent, ListMark, Money,
    Result, RetryClass, SubmissionTag,
};
use std::time::Duration;

/// An attempt that was given up, and may commit late all the same.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fence {
    pub(super) tag: SubmissionTag,
    pub(super) input: InputRef,
    pub(super) mark: ListMark,
    /// Until when it is looked for.
    pub(super) until: Duration,
}

/// A batch besides the one that counts.
#[derive(Clone, Debug)]
pub(super) struct Extra {
    tag: SubmissionTag,
    pub(super) handle: BatchHandle,
    certain: bool,
    ended: bool,
    /// Whether its cancel is durable, and whether this process asked for it.
    cancel: bool,
    asked: Asked,
    polls: u32,
    wait: Duration,
    /// As the last poll found it, where that was its end.
    end: Option<BatchSnapshot>,
}

impl Extra {
    pub(super) fn is_certain(&self) -> bool {
        self.certain
    }
}

/// What the answer under way is about, where it is not the chunk's own step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Watch,
    Batch(usize),
}

/// What a surplus batch's results come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bill {
    /// Rows of the chunk it answered.
    pub(crate) rows: u64,
    /// What they cost; `None` where that is not known.
    pub(crate) cost: Option<Money>,
}

impl Submission {
    /// Until when a given-up attempt may still show, where one may.
    pub(crate) fn ghosts_until(&self, now: Duration) -> Option<Duration> {
        let until = self.fences.iter().map(|fence| fence.until).max()?;
        (self.terms.can_list && now < until).then_some(until)
    }

    /// Has the list looked at again although the chunk has ended.
    pub(crate) fn look_again(&mut self) {
        self.next_watch = None;
    }

    /// Whether the answer under way is about another batch than the chunk's own.
    pub(crate) fn is_aside(&self) -> bool {
        self.side.is_some()
    }

    /// Whether a batch of ours runs besides the one that counts.
    fn has_open_surplus(&self) -> bool {
        self.surplus
            .iter()
            .any(|extra| extra.certain && !extra.ended)
    }

    /// Whether the chunk's own batch is known, so that another one is surplus.
    fn is_settled(&self) -> bool {
        match &self.phase {
            Phase::Merged | Phase::Held { .. } => true,
            Phase::Running { unproven, .. } => unproven.is_none(),
            _ => false,
        }
    }

    /// What is to be done about other batches now, where the chunk's own step can wait.
    pub(super) fn aside(&mut self, now: Duration) -> Option<Effect> {
        if !self.is_settled() {
            return None;
        }
        // Whose an uncertain one is, its results tell; that is of interest once the chunk's own have told.
        let is_due = |extra: &Extra| {
            !extra.ended && extra.wait <= now && (extra.certain || self.phase == Phase::Merged)
        };
        if let Some(at) = self.surplus.iter().position(is_due) {
            return Some(self.surplus_step(at));
        }
        if self.ghosts_until(now).is_some() && self.next_watch.is_none_or(|at| at <= now) {
            let first = self.fences.iter().find(|fence| now < fence.until)?;
            let mark = first.mark.clone();
            self.side = Some(Side::Watch);
            return Some(Effect::List { mark });
        }
        None
    }

    fn surplus_step(&mut self, at: usize) -> Effect {
        self.side = Some(Side::Batch(at));
        let extra = &self.surplus[at];
        let handle = extra.handle.clone();
        if let Some(snapshot) = &extra.end {
            return Effect::Bill {
                tag: extra.tag.clone(),
                snapshot: snapshot.clone(),
                number: at + 1,
            };
        }
        if extra.certain && !extra.cancel {
            self.side = None;
            return Effect::Persist(self.also(JournalEvent::CancelIntent { handle }));
        }
        if extra.certain && extra.asked == Asked::No {
            return Effect::Cancel { handle };
        }
        Effect::Poll { handle }
    }

    /// A fact besides the chunk's own step.
    pub(super) fn also(&mut self, fact: JournalEvent) -> JournalEvent {
        self.also.push_back(fact.clone());
        fact
    }

    /// When something is to be done about other batches, of a chunk that has not ended.
    pub(super) fn aside_due(&self, now: Duration) -> Option<Duration> {
        if !self.is_settled() {
            return None;
        }
        let surplus = self
            .surplus
            .iter()
            .filter(|extra| extra.certain && !extra.ended)
            .map(|extra| extra.wait);
        let watch = self.ghosts_until(now).and(self.next_watch);
        surplus.chain(watch).min()
    }

    /// Where the chunk has ended and a surplus batch has not: until when the run waits for it. A cancel takes minutes;
    /// one that does not work is a later run's to look at.
    pub(super) fn lingers_until(&mut self, now: Duration) -> Option<Duration> {
        if !self.has_open_surplus() {
            return None;
        }
        let since = *self.ended_since.get_or_insert(now);
        let until = since + self.options.settle;
        (now < until).then(|| self.aside_due(now).unwrap_or(until).min(until))
    }

    pub(super) fn add_surplus(&mut self, tag: &SubmissionTag, handle: &BatchHandle, certain: bool) {
        let known = self
            .surplus
            .iter_mut()
            .find(|extra| extra.handle.id == handle.id);
        match known {
            Some(extra) => extra.certain |= certain,
            None => self.surplus.push(Extra {
                tag: tag.clone(),
                handle: handle.clone(),
                certain,
                ended: false,
                cancel: false,
                asked: Asked::No,
                polls: 0,
                wait: Duration::ZERO,
                end: None,
            }),
        }
    }

    fn surplus_of(&mut self, handle: &BatchHandle) -> Option<&mut Extra> {
        self.surplus
            .iter_mut()
            .find(|extra| extra.handle.id == handle.id)
    }

    pub(super) fn end_surplus(&mut self, handle: &BatchHandle) {
        if let Some(extra) = self.surplus_of(handle) {
            extra.ended = true;
        }
    }

    /// Whether a cancel is of a surplus batch; it is noted then.
    pub(super) fn cancels_surplus(&mut self, handle: &BatchHandle) -> bool {
        match self.surplus_of(handle) {
            Some(extra) => {
                extra.cancel = true;
                true
            }
            None => false,
        }
    }

    /// Batches of this list that given-up attempts made after all. Those that failed bought nothing.
    pub(super) fn ghosts_in(&self, found: &[BatchSummary]) -> Vec<JournalEvent> {
        let own = match &self.phase {
            Phase::Running { handle, .. } => Some(&handle.id),
            _ => None,
        };
        let mut ghosts = Vec::new();
        for summary in found {
            let id = &summary.handle.id;
            let is_known = Some(id) == own
                || self.surplus.iter().any(|extra| extra.handle.id == *id)
                || self.used.contains(id)
                || self.disproved.contains(id)
                || self.is_spent(summary);
            if is_known || summary.status == BatchStatus::Failed {
                continue;
            }
            let strong = self.fences.iter().find(|fence| {
                summary.tag.as_ref() == Some(&fence.tag)
                    || (!fence.input.0.is_empty() && summary.handle.input == fence.input)
            });
            let by_size = || {
                let fence = self.fences.last()?;
                self.is_of_our_size(summary).then_some(fence)
            };
            let Some(fence) = strong.or_else(by_size) else {
                continue;
            };
            ghosts.push(JournalEvent::Surplus {
                tag: fence.tag.clone(),
                handle: summary.handle.clone(),
                certain: strong.is_some(),
            });
        }
        ghosts
    }

    pub(super) fn on_watched(&mut self, found: Result<Vec<BatchSummary>>, now: Duration) {
        self.next_watch = Some(now + self.options.ghost_interval);
        // A list that cannot be had now is read again at the next turn.
        if let Ok(found) = found {
            let ghosts = self.ghosts_in(&found);
            self.also.extend(ghosts);
        }
    }

    pub(super) fn on_surplus_cancelled(&mut self, at: usize, result: &Result<()>) {
        self.surplus[at].asked = match result {
            Err(error) if error.class() != RetryClass::RowFatal => Asked::InVain,
            _ => Asked::Yes,
        };
    }

    pub(super) fn on_surplus_polled(
        &mut self,
        at: usize,
        result: Result<BatchSnapshot>,
        now: Duration,
    ) {
        let interval = self.options.poll_interval(self.surplus[at].polls);
        let extra = &mut self.surplus[at];
        extra.polls = extra.polls.saturating_add(1);
        extra.wait = now + interval;
        if extra.asked == Asked::InVain {
            extra.asked = Asked::No;
        }
        match result {
            Ok(snapshot) if snapshot.status.is_terminal() && !snapshot.awaits_files() => {
                extra.wait = now;
                extra.end = Some(snapshot);
            }
            // One that ended and whose files never show is counted by what it says of itself.
            Ok(snapshot) if snapshot.status.is_terminal() && extra.polls > 20 => {
                extra.wait = now;
                extra.end = Some(snapshot);
            }
            _ => {}
        }
    }

    pub(super) fn on_billed(&mut self, at: usize, result: Result<Bill>, now: Duration) {
        let interval = self.options.poll_interval(self.surplus[at].polls);
        let extra = &mut self.surplus[at];
        let Some(snapshot) = &extra.end else {
            return;
        };
        let bill = match result {
            Ok(bill) => bill,
            Err(error) if error.is_retryable() => {
                extra.wait = now + interval;
                extra.end = None;
                return;
            }
            // Its results are not to be had: what it says of itself is all there is to count.
            Err(_) => Bill {
                rows: snapshot.counts.map_or(0, |counts| counts.completed),
                cost: None,
            },
        };
        let fact = JournalEvent::SurplusEnded {
            handle: extra.handle.clone(),
            status: snapshot.status.clone(),
            rows: bill.rows,
            cost: bill.cost,
        };
        self.also.push_back(fact);
    }
}
