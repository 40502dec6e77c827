//! Who may be sent when: the pool's rules as a plain state machine over `(state, event, now)`.
//!
//! It holds no request and no clock. An item takes a place (a permit) when its attempt starts, keeps it
//! until its outcome is durable, and gives it up while it waits: for its own backoff, and then in the queue
//! of its scope for whatever that scope is limited by. `now` is the time since the run began and never goes
//! back.

mod item;
mod lane;

use crate::{
    EndReason, Next, OnReached, PoolOptions, ScopeOptions, Spent, Unfinished,
    scope::{Admission, Cause, Ticket},
    scope_name::ScopeId,
    spend::{Estimate, Room, Spend},
};
use batchwright_core::{Error, ErrorKind, Money, RateLimit, RetryClass, RetryDecision, RetryState};
use item::{Item, Phase, describe, expired, is_alike};
use lane::Lane;
use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

/// How often in a row an item may be sent elsewhere: more often than any chain is long, and no strategy that always says
/// so goes on for ever.
const MOST_MOVES: u32 = 32;

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

/// What to do for an item that arrived.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// Make its first attempt.
    Start(Start),
    /// It waits; keep its request.
    Wait(Slot),
    /// The run stops and a later one takes the item; forget it.
    Unfinished,
}

/// What an attempt was answered with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// How long it took.
    pub(crate) took: Duration,
    /// Tokens it used, where the provider said.
    pub(crate) tokens: Option<u64>,
    /// What it cost, where that is known.
    pub(crate) cost: Option<Money>,
    pub(crate) rate_limit: Option<RateLimit>,
}

/// How an attempt failed, and where the next one would go.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// What it cost, where that is known.
    pub(crate) cost: Option<Money>,
    /// What the strategy wants to follow.
    pub(crate) next: Next,
    /// Where another attempt would go.
    pub(crate) scope: ScopeId,
    /// What another attempt would use.
    pub(crate) estimate: Estimate,
    /// Uniform in 0..1.
    pub(crate) random: f64,
}

/// What happened to a scope, for those who watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A rate limit made it rest for this long.
    Rests(ScopeId, Duration),
    /// Its provider counts as down.
    Down(ScopeId),
    /// Its provider is back.
    Back(ScopeId),
    /// So many attempts may be open at once from now on.
    Concurrency(ScopeId, usize),
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
    /// Items that wait for their own backoff, by when it is over.
    waiting: BTreeSet<(Duration, Slot)>,
    /// The scopes, by number, and the items that wait for them.
    lanes: Vec<Lane>,
    /// Items that wait for a scope.
    queued: usize,
    /// The place in its queue of the next item that joins one.
    next_place: u64,
    /// Items that wait for either, by deadline, for those that have one.
    deadlines: BTreeSet<(Duration, Slot)>,
    spend: Spend,
    /// Whether an attempt must settle before the spend budget has room for another.
    is_spent: bool,
    notices: VecDeque<Notice>,
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

/// Whether it is an item's turn.
enum Turn {
    Now,
    NotYet,
    /// The run stops.
    Never,
}

impl Schedule {
    pub(crate) fn new(mut options: PoolOptions) -> Self {
        options.max_in_flight = options.max_in_flight.max(1);
        Self {
            spend: Spend::new(options.spend),
            options,
            items: Vec::new(),
            free: Vec::new(),
            live: 0,
            permits: 0,
            waiting: BTreeSet::new(),
            lanes: Vec::new(),
            queued: 0,
            next_place: 0,
            deadlines: BTreeSet::new(),
            is_spent: false,
            notices: VecDeque::new(),
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

    /// Whether this scope is known. Those that are not are added in the order of their numbers.
    pub(crate) fn has_scope(&self, scope: ScopeId) -> bool {
        scope.index() < self.lanes.len()
    }

    pub(crate) fn add_scope(&mut self, options: &ScopeOptions) {
        let max = self.options.max_in_flight;
        self.lanes.push(Lane::new(options, max));
    }

    /// Whether the tokens of an attempt there need to be estimated.
    pub(crate) fn counts_tokens(&self, scope: ScopeId) -> bool {
        self.options.spend.is_bounded() || self.lanes[scope.index()].counts_tokens()
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

    /// An item arrived. Only after [`Schedule::wants_item`].
    pub(crate) fn arrived(
        &mut self,
        now: Duration,
        row: u64,
        scope: ScopeId,
        estimate: Estimate,
    ) -> Arrival {
        if self.stopped.is_some() {
            // Between being wanted and arriving it can have stopped the run itself, as one without a price.
            self.turned_back(row);
            return Arrival::Unfinished;
        }
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
            scope,
            estimate,
            cause: Cause::First,
            moves: 0,
            ticket: None,
            possibly_paid: 0,
            unsure: false,
        };
        let slot = self.hold(item);
        let first = self.lanes[scope.index()].first().is_none();
        if first && self.has_permit() && !self.is_spent {
            match self.turn(now, slot) {
                Turn::Now => return Arrival::Start(self.start(now, slot)),
                Turn::NotYet => {}
                Turn::Never => {
                    self.hand_back(slot);
                    return Arrival::Unfinished;
                }
            }
        }
        self.enqueue(slot, None);
        Arrival::Wait(slot)
    }

    /// An item arrived that ended before it was sent: record its outcome. Only after [`Schedule::wants_item`].
    pub(crate) fn arrived_at_its_end(&mut self, row: u64, scope: ScopeId) -> Start {
        self.taken += 1;
        self.permits += 1;
        let slot = self.hold(Item {
            row,
            phase: Phase::Recording,
            permit: true,
            attempts: 0,
            retry: RetryState::default(),
            deadline: None,
            scope,
            estimate: Estimate::default(),
            cause: Cause::First,
            moves: 0,
            ticket: None,
            possibly_paid: 0,
            unsure: false,
        });
        self.last(slot)
    }

    /// An item was taken from the source and never arrived, since the run stops.
    pub(crate) fn turned_back(&mut self, row: u64) {
        self.taken += 1;
        self.unfinished.push(Unfinished::new(row, 0, 0));
    }

    /// Keeps an item in a slot of its own.
    fn hold(&mut self, item: Item) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.items.push(None);
            Slot(self.items.len() - 1)
        });
        self.items[slot.0] = Some(item);
        self.live += 1;
        slot
    }

    /// No more items will arrive.
    pub(crate) fn source_ended(&mut self) {
        self.source_ended = true;
    }

    /// Time passed or a place became free: the next thing to do for an item that waited, if any.
    pub(crate) fn due(&mut self, now: Duration) -> Option<Due> {
        if self.stopped.is_none() && self.spend.ends_at().is_some_and(|end| end <= now) {
            let late = self.spend.late();
            self.stop(EndReason::Stopped(late));
        }
        if let Some(&(deadline, slot)) = self.deadlines.first()
            && deadline <= now
        {
            let last = self.leave(slot);
            self.item(slot).phase = Phase::Recording;
            return Some(Due::Expired(self.last(slot), expired(last)));
        }
        while let Some(&(until, slot)) = self.waiting.first()
            && until <= now
        {
            let last = self.leave(slot);
            self.enqueue(slot, last);
        }
        if self.queued == 0 || !self.has_permit() || self.is_spent {
            return None;
        }
        let slot = self.next_in_queue(now)?;
        match self.turn(now, slot) {
            Turn::Now => {
                self.leave(slot);
                Some(Due::Start(self.start(now, slot)))
            }
            Turn::NotYet | Turn::Never => None,
        }
    }

    /// When to ask [`Schedule::due`] again although nothing else happened.
    pub(crate) fn wake_at(&self) -> Option<Duration> {
        let end = self.spend.ends_at().filter(|_| self.stopped.is_none());
        let deadline = self.deadlines.first().map(|&(deadline, _)| deadline);
        let deadline = deadline.into_iter().chain(end).min();
        if !self.has_permit() || self.is_spent {
            return deadline;
        }
        let wait = self.waiting.first().map(|&(until, _)| until);
        let waits = deadline.into_iter().chain(wait);
        if self.queued == 0 {
            return waits.min();
        }
        waits
            .chain(self.lanes.iter().filter_map(Lane::wake_at))
            .min()
    }

    /// Some attempt was answered, also when its outcome is not durable yet.
    pub(crate) fn answered(&mut self) {
        self.answered = true;
    }

    /// An attempt failed.
    pub(crate) fn failed(&mut self, now: Duration, slot: Slot, failure: Failure) -> Verdict {
        let rest = self.close_failed(now, slot, &failure);
        let Failure {
            error,
            next,
            scope,
            estimate,
            random,
            ..
        } = failure;
        let gives_up = self.gives_up();
        let item = item(&mut self.items, slot);
        item.unsure = error.is_ambiguous();
        let attempts = item.attempts;
        if gives_up && error.kind() == ErrorKind::Cancelled {
            return self.hand_back(slot);
        }
        self.reached |= self.answered || error.class() != RetryClass::NotSent;
        if !self.reached && now >= self.options.first_contact && self.stopped.is_none() {
            self.stop(EndReason::Stopped(error.with_attempts(attempts)));
            return self.hand_back(slot);
        }
        let next = match next {
            Next::Elsewhere if item.moves >= MOST_MOVES => Next::Usual,
            other => other,
        };
        item.moves = match next {
            Next::Elsewhere => item.moves + 1,
            Next::Usual | Next::GiveUp => 0,
        };
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
        let mut after = match decision {
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
        // One wait for one failure: the scope's rest where its rate was the cause, else the item's own.
        let waits_for_scope = error.is_rate_limited() || after.is_zero();
        if error.is_rate_limited() && next == Next::Usual {
            after = rest.unwrap_or_default();
        }
        let until = now.saturating_add(after);
        if item.deadline.is_some_and(|deadline| until >= deadline) {
            let expired = expired(Some(error.with_attempts(attempts)));
            return self.record(slot, expired);
        }
        item.scope = scope;
        item.estimate = estimate;
        item.cause = if waits_for_scope {
            Cause::Again
        } else {
            Cause::Fault
        };
        if error.is_ambiguous()
            && let Err(over) = self.grant_extra(&error)
        {
            self.stop(EndReason::Stopped(over));
            return self.hand_back(slot);
        }
        let last = error.with_attempts(attempts);
        self.give_place_back(slot);
        if waits_for_scope {
            self.enqueue(slot, Some(last));
        } else {
            self.wait(slot, until, last);
        }
        Verdict::Wait(after)
    }

    /// An item's outcome is durable: it ended. `answer` is what its last attempt was answered with, where that was
    /// sent and did not fail.
    pub(crate) fn recorded(&mut self, now: Duration, slot: Slot, answer: Option<Answer>) {
        match answer {
            Some(answer) => self.close_answered(now, slot, &answer),
            None => self.close_unsent(now, slot),
        }
        self.possibly_paid += u64::from(self.item(slot).possibly_paid);
        self.remove(slot);
    }

    /// An item was withheld because the run stops: its attempt was not sent.
    pub(crate) fn withheld(&mut self, now: Duration, slot: Slot) {
        self.close_unsent(now, slot);
        self.stop(EndReason::Cancelled);
        self.hand_back(slot);
    }

    /// An item's intent or outcome could not be recorded: the run stops. `paid` tells whether an answer
    /// was lost with it.
    pub(crate) fn unrecorded(&mut self, now: Duration, slot: Slot, error: Error, paid: bool) {
        if paid {
            self.close_lost(now, slot);
        } else {
            self.close_unsent(now, slot);
        }
        self.item(slot).unsure |= paid;
        self.stop(EndReason::Stopped(error));
        self.hand_back(slot);
    }

    /// The shell has no task left: whoever still counts as in flight was lost to a fault of the program.
    pub(crate) fn nothing_runs(&mut self, now: Duration) {
        if self.live == self.waiting() {
            return;
        }
        for index in 0..self.items.len() {
            let lost = self.items[index].as_mut();
            if let Some(item) = lost.filter(|item| !item.waits()) {
                item.unsure = true;
                self.close_lost(now, Slot(index));
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
            self.leave(slot);
            self.hand_back(slot);
        }
        for index in 0..self.lanes.len() {
            while let Some((_, slot)) = self.lanes[index].first() {
                self.leave(slot);
                self.hand_back(slot);
            }
        }
    }

    /// Whether the spend budget is used up.
    pub(crate) fn is_out_of_budget(&self) -> bool {
        self.spend.is_over()
    }

    /// Whether what is in flight is to be given up too.
    pub(crate) fn gives_up(&self) -> bool {
        self.stopped.is_some()
            && self.spend.is_over()
            && self.spend.on_reached() == OnReached::Cancel
    }

    /// What was used so far.
    pub(crate) fn spent(&self) -> Spent {
        self.spend.spent()
    }

    /// The next thing that happened to a scope.
    pub(crate) fn notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
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

    /// Items that hold none and wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len() + self.queued
    }

    /// Attempts, over all items that left, that may have been billed although no outcome rests on them.
    pub(crate) fn possibly_paid(&self) -> u64 {
        self.possibly_paid
    }

    fn has_permit(&self) -> bool {
        self.permits < self.options.max_in_flight
    }

    /// The first in all queues whose scope lets it through. Within a scope nobody overtakes but those who pass
    /// retries without a budget.
    fn next_in_queue(&mut self, now: Duration) -> Option<Slot> {
        let mut next: Option<(u64, Slot)> = None;
        for lane in &mut self.lanes {
            for (place, slot) in lane.heads() {
                if next.is_some_and(|(before, _)| before < place) {
                    break;
                }
                let item = self.items[slot.0].as_ref().expect(HELD);
                match lane.admission(now, item.estimate.tokens, item.cause) {
                    Admission::Now => next = Some((place, slot)),
                    Admission::RetryAt(_) => continue,
                    Admission::At(_) | Admission::AfterAnother => {}
                }
                break;
            }
        }
        next.map(|(_, slot)| slot)
    }

    /// Whether it is this item's turn, which nobody of its scope is before.
    fn turn(&mut self, now: Duration, slot: Slot) -> Turn {
        let item = self.items[slot.0].as_ref().expect(HELD);
        let lane = &mut self.lanes[item.scope.index()];
        if lane.admission(now, item.estimate.tokens, item.cause) != Admission::Now {
            return Turn::NotYet;
        }
        match self.spend.room(item.estimate) {
            Room::Yes => Turn::Now,
            Room::WhenSettled => {
                self.is_spent = true;
                Turn::NotYet
            }
            Room::Reached => {
                let reached = self.spend.reached();
                self.stop(EndReason::Stopped(reached));
                Turn::Never
            }
        }
    }

    /// Gives the item a place and counts an attempt.
    fn start(&mut self, now: Duration, slot: Slot) -> Start {
        self.permits += 1;
        let item = item(&mut self.items, slot);
        let lane = self.lanes[item.scope.index()].state();
        item.ticket = Some(lane.start(now, item.estimate.tokens, item.cause));
        self.spend.reserve(item.estimate);
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

    /// The attempt under way failed. Returns how long its scope rests, where that is why.
    fn close_failed(&mut self, now: Duration, slot: Slot, failure: &Failure) -> Option<Duration> {
        let error = &failure.error;
        let (scope, estimate, ticket) = self.close(slot)?;
        let tokens = error.usage().and_then(|usage| usage.total_tokens());
        match (tokens, error.is_ambiguous()) {
            (None, false) => self.spend.refund(estimate),
            (tokens, _) => self.spend.settle(estimate, tokens, failure.cost),
        }
        let limited = self.tell(scope, |lane| {
            lane.state().failed(now, ticket, error, failure.random)
        })?;
        if limited.is_new() {
            let rest = limited.until().saturating_sub(now);
            self.notices.push_back(Notice::Rests(scope, rest));
        }
        Some(limited.until().saturating_sub(now))
    }

    fn close_answered(&mut self, now: Duration, slot: Slot, answer: &Answer) {
        if let Some((scope, estimate, ticket)) = self.close(slot) {
            self.spend.settle(estimate, answer.tokens, answer.cost);
            self.tell(scope, |lane| lane.state().succeeded(now, ticket, answer));
        }
    }

    fn close_unsent(&mut self, now: Duration, slot: Slot) {
        if let Some((scope, estimate, ticket)) = self.close(slot) {
            self.spend.refund(estimate);
            self.tell(scope, |lane| lane.state().unsent(now, ticket));
        }
    }

    /// What the attempt came to nobody knows.
    fn close_lost(&mut self, now: Duration, slot: Slot) {
        if let Some((scope, estimate, ticket)) = self.close(slot) {
            self.spend.settle(estimate, None, None);
            self.tell(scope, |lane| lane.state().unsent(now, ticket));
        }
    }

    fn close(&mut self, slot: Slot) -> Option<(ScopeId, Estimate, Ticket)> {
        let item = item(&mut self.items, slot);
        let ticket = item.ticket.take()?;
        self.is_spent = false;
        Some((item.scope, item.estimate, ticket))
    }

    /// Tells a scope what happened, and notes whether it is down after it.
    fn tell<R>(&mut self, scope: ScopeId, event: impl FnOnce(&mut Lane) -> R) -> R {
        let lane = &mut self.lanes[scope.index()];
        let was_down = lane.is_down();
        let before = lane.concurrency();
        let result = event(lane);
        let after = lane.concurrency();
        if before != after {
            self.notices.push_back(Notice::Concurrency(scope, after));
        }
        match (was_down, lane.is_down()) {
            (false, true) => self.notices.push_back(Notice::Down(scope)),
            (true, false) => self.notices.push_back(Notice::Back(scope)),
            _ => {}
        }
        result
    }

    fn give_place_back(&mut self, slot: Slot) {
        let item = item(&mut self.items, slot);
        self.permits -= usize::from(std::mem::take(&mut item.permit));
    }

    fn wait(&mut self, slot: Slot, until: Duration, last: Error) {
        let item = item(&mut self.items, slot);
        item.phase = Phase::Waiting { until, last };
        self.waiting.insert((until, slot));
        if let Some(deadline) = item.deadline {
            self.deadlines.insert((deadline, slot));
        }
    }

    /// Behind all who wait for the same scope.
    fn enqueue(&mut self, slot: Slot, last: Option<Error>) {
        let place = self.next_place;
        self.next_place += 1;
        self.queued += 1;
        let item = item(&mut self.items, slot);
        item.phase = Phase::Queued { place, last };
        self.lanes[item.scope.index()].join(place, slot, item.cause);
        if let Some(deadline) = item.deadline {
            self.deadlines.insert((deadline, slot));
        }
    }

    /// Items that wait for this scope, in their order.
    pub(crate) fn queued_for(&self, scope: ScopeId) -> Vec<Slot> {
        self.lanes[scope.index()].queued()
    }

    /// An item that waits for its scope goes to another one, where it keeps its place among those that wait.
    pub(crate) fn redirected(&mut self, slot: Slot, scope: ScopeId, estimate: Estimate) {
        let item = item(&mut self.items, slot);
        if let Phase::Queued { place, .. } = item.phase {
            self.lanes[item.scope.index()].leave(place, slot);
            item.scope = scope;
            item.estimate = estimate;
            self.lanes[scope.index()].join(place, slot, item.cause);
        }
    }

    /// Takes the item out of the queues and returns what it last failed with.
    fn leave(&mut self, slot: Slot) -> Option<Error> {
        let item = item(&mut self.items, slot);
        if let Some(deadline) = item.deadline {
            self.deadlines.remove(&(deadline, slot));
        }
        match std::mem::replace(&mut item.phase, Phase::InFlight) {
            Phase::Waiting { until, last } => {
                self.waiting.remove(&(until, slot));
                Some(last)
            }
            Phase::Queued { place, last } => {
                self.queued -= 1;
                self.lanes[item.scope.index()].leave(place, slot);
                last
            }
            Phase::InFlight | Phase::Recording => {
                unreachable!("the queues hold waiting items only")
            }
        }
    }

    fn hand_back(&mut self, slot: Slot) -> Verdict {
        let item = item(&mut self.items, slot);
        let possibly_paid = item.possibly_paid + u32::from(item.unsure);
        self.possibly_paid += u64::from(possibly_paid);
        self.unfinished
            .push(Unfinished::new(item.row, item.attempts, possibly_paid));
        self.remove(slot);
        Verdict::Unfinished
    }

    fn remove(&mut self, slot: Slot) {
        self.give_place_back(slot);
        // In place: an item is too large to be moved for nothing.
        self.items[slot.0] = None;
        self.free.push(slot);
        self.live -= 1;
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

#[cfg(test)]
mod tests;
