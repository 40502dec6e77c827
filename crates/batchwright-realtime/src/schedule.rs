//! Who may be sent when: the pool's rules as a plain state machine over `(state, event, now)`.
//!
//! It holds no request and no clock. An item takes a place (a permit) when it arrives or when its wait is
//! over, keeps it until its outcome is durable, and gives it up while it waits. `now` is the time since
//! the run began and never goes back.

use crate::{EndReason, Next, PoolOptions, Unfinished, scope_name::ScopeId};
use batchwright_core::{Error, ErrorKind, RetryClass, RetryDecision, RetryState};
use std::{collections::BTreeSet, time::Duration};

/// Names an item while the schedule holds it; used again after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(usize);

impl Slot {
    /// For side tables; below twice `max_in_flight`.
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

/// An attempt of an item: one to be made, or the last one made of an item that is to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) slot: Slot,
    /// Counted from 1.
    pub(crate) attempt: u32,
    /// How long it may take: the attempt's bound, or less where the item's deadline is near.
    pub(crate) timeout: Duration,
    /// Earlier attempts of the item that may have been billed.
    pub(crate) possibly_paid: u32,
}

/// What to do for an item that waited.
#[derive(Debug)]
pub(crate) enum Due {
    /// Make another attempt.
    Start(Start),
    /// Its time is over: record this error as its outcome, then say [`Schedule::recorded`].
    Expired(Start, Error),
}

/// What follows a failed attempt.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The item waits; keep its request.
    Wait(Duration),
    /// Record this error as its outcome, then say [`Schedule::recorded`].
    Record(Start, Error),
    /// The run stops and a later one takes the item; forget it.
    Unfinished,
}

/// The state of a run.
#[derive(Debug)]
pub(crate) struct Schedule {
    options: PoolOptions,
    items: Vec<Option<Item>>,
    free: Vec<Slot>,
    live: usize,
    permits: usize,
    /// Waiting items by when their wait is over.
    waiting: BTreeSet<(Duration, Slot)>,
    /// Waiting items by deadline, for those that have one.
    deadlines: BTreeSet<(Duration, Slot)>,
    source_ended: bool,
    stopped: Option<EndReason>,
    taken: u64,
    /// Attempts granted after an ambiguous failure.
    extra: u64,
    possibly_paid: u64,
    unfinished: Vec<Unfinished>,
    answered: bool,
    /// Whether the provider was reached at all, whatever it said.
    reached: bool,
    /// How rows failed for good so far, and how many in a row did so.
    alike: Option<(Error, u32)>,
}

#[derive(Debug)]
struct Item {
    row: u64,
    phase: Phase,
    permit: bool,
    attempts: u32,
    retry: RetryState,
    deadline: Option<Duration>,
    /// Attempts before the last one that may have been billed.
    possibly_paid: u32,
    /// Whether the last one may have been billed although it gave no outcome.
    unsure: bool,
}

#[derive(Debug)]
enum Phase {
    InFlight,
    Waiting { until: Duration, last: Error },
    Recording,
}

impl Schedule {
    pub(crate) fn new(mut options: PoolOptions) -> Self {
        options.max_in_flight = options.max_in_flight.max(1);
        Self {
            options,
            items: Vec::new(),
            free: Vec::new(),
            live: 0,
            permits: 0,
            waiting: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            source_ended: false,
            stopped: None,
            taken: 0,
            extra: 0,
            possibly_paid: 0,
            unfinished: Vec::new(),
            answered: false,
            reached: false,
            alike: None,
        }
    }

    /// Whether another item may arrive: a place is free and few enough items hold none. Ask
    /// [`Schedule::due`] first, since items that waited go before new ones.
    pub(crate) fn wants_item(&self) -> bool {
        let without_permit = self.live - self.permits;
        !self.source_ended
            && self.stopped.is_none()
            && self.has_permit()
            && without_permit < self.options.max_in_flight
    }

    /// An item arrived: make its first attempt. Only after [`Schedule::wants_item`].
    pub(crate) fn arrived(&mut self, now: Duration, row: u64, _scope: ScopeId) -> Start {
        self.taken += 1;
        let item = Item {
            row,
            phase: Phase::InFlight,
            permit: false,
            attempts: 0,
            retry: RetryState::default(),
            deadline: self
                .options
                .item_deadline
                .map(|after| now.saturating_add(after)),
            possibly_paid: 0,
            unsure: false,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.items.push(None);
            Slot(self.items.len() - 1)
        });
        self.items[slot.0] = Some(item);
        self.live += 1;
        self.start(now, slot)
    }

    /// No more items will arrive.
    pub(crate) fn source_ended(&mut self) {
        self.source_ended = true;
    }

    /// Time passed or a place became free: the next thing to do for an item that waited, if any.
    pub(crate) fn due(&mut self, now: Duration) -> Option<Due> {
        if let Some(&(deadline, slot)) = self.deadlines.first()
            && deadline <= now
        {
            let last = self.leave_wait(slot);
            self.item(slot).phase = Phase::Recording;
            return Some(Due::Expired(self.last(slot), expired(last)));
        }
        let &(until, slot) = self.waiting.first()?;
        if until > now || !self.has_permit() {
            return None;
        }
        self.leave_wait(slot);
        Some(Due::Start(self.start(now, slot)))
    }

    /// When to ask [`Schedule::due`] again although nothing else happened.
    pub(crate) fn wake_at(&self) -> Option<Duration> {
        let deadline = self.deadlines.first().map(|&(deadline, _)| deadline);
        let wait = self.waiting.first().map(|&(until, _)| until);
        let wait = wait.filter(|_| self.has_permit());
        deadline.into_iter().chain(wait).min()
    }

    /// Some attempt was answered, also when its outcome is not durable yet.
    pub(crate) fn answered(&mut self) {
        self.answered = true;
    }

    /// An attempt failed. `next` is what the strategy wants to follow, `scope` where another attempt would go, and
    /// `random` is uniform in 0..1.
    pub(crate) fn failed(
        &mut self,
        now: Duration,
        slot: Slot,
        error: Error,
        next: Next,
        _scope: ScopeId,
        random: f64,
    ) -> Verdict {
        let item = item(&mut self.items, slot);
        item.unsure = error.is_ambiguous();
        let attempts = item.attempts;
        self.reached |= self.answered || error.class() != RetryClass::NotSent;
        if !self.reached && now >= self.options.first_contact && self.stopped.is_none() {
            self.stop(EndReason::Stopped(error.with_attempts(attempts)));
            return self.hand_back(slot);
        }
        if error.is_job_stop() && next == Next::Usual {
            self.stop(EndReason::Stopped(error.with_attempts(attempts)));
            return self.hand_back(slot);
        }
        let usual = self.options.retry.decide(&mut item.retry, &error, random);
        let decision = match next {
            Next::GiveUp => RetryDecision::GiveUp,
            // What may have been billed keeps its bound wherever the next attempt goes.
            Next::Elsewhere if !error.is_ambiguous() || usual != RetryDecision::GiveUp => {
                RetryDecision::Retry {
                    after: Duration::ZERO,
                }
            }
            _ => usual,
        };
        let after = match decision {
            RetryDecision::Retry { after } => after,
            RetryDecision::GiveUp => {
                let error = error.with_attempts(attempts);
                if error.class() == RetryClass::RowFatal || error.kind() == ErrorKind::Unexpected {
                    self.compare(&error);
                }
                return self.record(slot, error);
            }
        };
        if self.stopped.is_some() {
            return self.hand_back(slot);
        }
        let until = now.saturating_add(after);
        if item.deadline.is_some_and(|deadline| until >= deadline) {
            return self.record(slot, expired(error.with_attempts(attempts)));
        }
        if error.is_ambiguous()
            && let Err(over) = self.grant_extra(&error)
        {
            self.stop(EndReason::Stopped(over));
            return self.hand_back(slot);
        }
        self.wait(slot, until, error.with_attempts(attempts));
        Verdict::Wait(after)
    }

    /// An item's outcome is durable: it ended.
    pub(crate) fn recorded(&mut self, slot: Slot) {
        let item = self.remove(slot);
        self.possibly_paid += u64::from(item.possibly_paid);
    }

    /// An item was withheld because the run stops: its attempt was not sent.
    pub(crate) fn withheld(&mut self, slot: Slot) {
        self.stop(EndReason::Cancelled);
        self.hand_back(slot);
    }

    /// An item's intent or outcome could not be recorded: the run stops. `paid` tells whether an answer
    /// was lost with it.
    pub(crate) fn unrecorded(&mut self, slot: Slot, error: Error, paid: bool) {
        self.item(slot).unsure |= paid;
        self.stop(EndReason::Stopped(error));
        self.hand_back(slot);
    }

    /// The shell has no task left: whoever still counts as in flight was lost to a fault of the program.
    pub(crate) fn nothing_runs(&mut self) {
        if self.live == self.waiting.len() {
            return;
        }
        for index in 0..self.items.len() {
            let lost = self.items[index].as_mut();
            if let Some(item) = lost.filter(|item| !matches!(item.phase, Phase::Waiting { .. })) {
                item.unsure = true;
                self.hand_back(Slot(index));
            }
        }
    }

    /// Nothing more is to be sent. Items that wait are handed back now; items in flight end or are handed
    /// back as their attempts do. The first reason stands, except that an error goes before cancelling.
    pub(crate) fn stop(&mut self, reason: EndReason) {
        match (&self.stopped, &reason) {
            (None, _) | (Some(EndReason::Cancelled), EndReason::Stopped(_)) => {
                self.stopped = Some(reason);
            }
            _ => {}
        }
        while let Some(&(_, slot)) = self.waiting.first() {
            self.leave_wait(slot);
            self.hand_back(slot);
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopped.is_some()
    }

    /// Whether nothing is left to do or to wait for.
    pub(crate) fn is_over(&self) -> bool {
        self.live == 0 && (self.source_ended || self.stopped.is_some())
    }

    /// Why the run ended, and the items it took without ending them, by row. Once it is over.
    pub(crate) fn end(&mut self) -> (EndReason, Vec<Unfinished>) {
        let mut unfinished = std::mem::take(&mut self.unfinished);
        unfinished.sort_unstable_by_key(|item| item.row);
        let complete = self.source_ended && unfinished.is_empty();
        let reason = match self.stopped.take() {
            Some(EndReason::Cancelled) if complete => EndReason::Completed,
            Some(reason) => reason,
            None => EndReason::Completed,
        };
        (reason, unfinished)
    }

    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Items that hold a place.
    pub(crate) fn in_flight(&self) -> usize {
        self.permits
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Attempts, over all items that left, that may have been billed although no outcome rests on them.
    pub(crate) fn possibly_paid(&self) -> u64 {
        self.possibly_paid
    }

    fn has_permit(&self) -> bool {
        self.permits < self.options.max_in_flight
    }

    /// Gives the item a place and counts an attempt.
    fn start(&mut self, now: Duration, slot: Slot) -> Start {
        self.permits += 1;
        let item = item(&mut self.items, slot);
        item.phase = Phase::InFlight;
        item.permit = true;
        item.attempts = item.attempts.saturating_add(1);
        item.possibly_paid += u32::from(item.unsure);
        item.unsure = false;
        let left = item
            .deadline
            .map_or(Duration::MAX, |deadline| deadline.saturating_sub(now));
        Start {
            timeout: self.options.attempt_timeout.min(left),
            ..self.last(slot)
        }
    }

    fn last(&self, slot: Slot) -> Start {
        let item = self.items[slot.0].as_ref().expect(HELD);
        Start {
            slot,
            attempt: item.attempts,
            timeout: Duration::ZERO,
            possibly_paid: item.possibly_paid,
        }
    }

    fn record(&mut self, slot: Slot, error: Error) -> Verdict {
        self.item(slot).phase = Phase::Recording;
        Verdict::Record(self.last(slot), error)
    }

    fn wait(&mut self, slot: Slot, until: Duration, last: Error) {
        let item = item(&mut self.items, slot);
        item.phase = Phase::Waiting { until, last };
        item.permit = false;
        self.permits -= 1;
        self.waiting.insert((until, slot));
        if let Some(deadline) = item.deadline {
            self.deadlines.insert((deadline, slot));
        }
    }

    /// Takes the item out of the queues and returns what it last failed with.
    fn leave_wait(&mut self, slot: Slot) -> Error {
        let item = item(&mut self.items, slot);
        let deadline = item.deadline;
        let Phase::Waiting { until, last } = std::mem::replace(&mut item.phase, Phase::InFlight)
        else {
            unreachable!("the queues hold waiting items only")
        };
        self.waiting.remove(&(until, slot));
        if let Some(deadline) = deadline {
            self.deadlines.remove(&(deadline, slot));
        }
        last
    }

    fn hand_back(&mut self, slot: Slot) -> Verdict {
        let item = self.remove(slot);
        let possibly_paid = item.possibly_paid + u32::from(item.unsure);
        self.possibly_paid += u64::from(possibly_paid);
        self.unfinished
            .push(Unfinished::new(item.row, item.attempts, possibly_paid));
        Verdict::Unfinished
    }

    fn remove(&mut self, slot: Slot) -> Item {
        let item = self.items[slot.0].take().expect(HELD);
        self.free.push(slot);
        self.live -= 1;
        self.permits -= usize::from(item.permit);
        item
    }

    fn item(&mut self, slot: Slot) -> &mut Item {
        item(&mut self.items, slot)
    }

    /// Counts one more attempt that may be paid twice, or says why there may be none.
    fn grant_extra(&mut self, last: &Error) -> Result<(), Error> {
        // The cast saturates, and a share of rows is all that is meant.
        let share = (self.taken as f64 * self.options.extra_paid_share) as u64;
        let allowed = share.max(self.options.extra_paid_floor);
        if self.extra < allowed {
            self.extra += 1;
            return Ok(());
        }
        let message = format!(
            "go on: attempts that may be paid twice have reached their bound of {allowed} in {} rows",
            self.taken
        );
        Err(Error::new(ErrorKind::NeedsDecision, message).with_source(last.clone()))
    }

    /// Counts rows that failed for good in the same way, and stops where all do (F-027).
    fn compare(&mut self, error: &Error) {
        let limit = self.options.identical_failures;
        if self.answered || limit == 0 {
            return;
        }
        let count = match &self.alike {
            Some((other, count)) if is_alike(other, error) => count + 1,
            _ => 1,
        };
        self.alike = Some((error.clone(), count));
        if count >= limit {
            let message = format!(
                "answer any row: {count} in a row failed in the same way: {}",
                error.message()
            );
            let stop = describe(Error::new(error.kind(), message), error)
                .with_class(RetryClass::JobStop)
                .with_source(error.clone());
            self.stop(EndReason::Stopped(stop));
        }
    }
}

const HELD: &str = "a slot is used only while its item is held";

fn item(items: &mut [Option<Item>], slot: Slot) -> &mut Item {
    items[slot.0].as_mut().expect(HELD)
}

fn is_alike(one: &Error, other: &Error) -> bool {
    one.kind() == other.kind()
        && one.status() == other.status()
        && one.code() == other.code()
        && one.param() == other.param()
}

/// The final error of an item whose deadline leaves no time for another attempt. It keeps the class of
/// the last failure, which says whether that one may have been billed.
fn expired(last: Error) -> Error {
    let message = format!("end the row before its deadline: {}", last.message());
    describe(Error::new(ErrorKind::Timeout, message), &last)
        .with_class(last.class())
        .with_attempts(last.attempts())
        .with_source(last)
}

/// Gives `error` what is known of `cause`.
fn describe(mut error: Error, cause: &Error) -> Error {
    if let Some(provider) = cause.provider() {
        error = error.with_provider(provider);
    }
    if let Some(model) = cause.model() {
        error = error.with_model(model);
    }
    if let Some(status) = cause.status() {
        error = error.with_status(status);
    }
    if let Some(code) = cause.code() {
        error = error.with_code(code);
    }
    if let Some(param) = cause.param() {
        error = error.with_param(param);
    }
    if let Some(id) = cause.request_id() {
        error = error.with_request_id(id);
    }
    if let Some(usage) = cause.usage() {
        error = error.with_usage(*usage);
    }
    error
}

#[cfg(test)]
mod tests;
