//! The items that wait for one scope, and what their scope lets through.

use super::Slot;
use crate::{
    ScopeOptions,
    scope::{Admission, Cause, ScopeState},
};
use std::{collections::BTreeSet, time::Duration};

/// One scope and its queue, in the order items joined it.
#[derive(Debug)]
pub(super) struct Lane {
    state: ScopeState,
    queue: Queue,
    /// Retries after faults, which may be passed while they have no budget.
    retries: Queue,
}

#[derive(Debug, Default)]
struct Queue {
    items: BTreeSet<(u64, Slot)>,
    /// What holds the first back, until something happens in the scope.
    hold: Option<Admission>,
}

impl Lane {
    pub(super) fn new(options: &ScopeOptions, max_in_flight: usize) -> Self {
        Self {
            state: ScopeState::new(options, max_in_flight),
            queue: Queue::default(),
            retries: Queue::default(),
        }
    }

    pub(super) fn join(&mut self, place: u64, slot: Slot, cause: Cause) {
        self.queue_of(cause).items.insert((place, slot));
    }

    pub(super) fn leave(&mut self, place: u64, slot: Slot) {
        self.let_go();
        self.queue.items.remove(&(place, slot));
        self.retries.items.remove(&(place, slot));
    }

    /// All who wait, in their order.
    pub(super) fn queued(&self) -> Vec<Slot> {
        let all = self.queue.items.union(&self.retries.items);
        all.map(|&(_, slot)| slot).collect()
    }

    pub(super) fn first(&self) -> Option<(u64, Slot)> {
        self.heads().next()
    }

    /// Those who may be next, in their order. The second is asked only where the first is a retry without a
    /// budget.
    pub(super) fn heads(&self) -> impl Iterator<Item = (u64, Slot)> + use<> {
        let (one, other) = (self.queue.items.first(), self.retries.items.first());
        let (one, other) = (one.copied(), other.copied());
        let swap = other.is_some_and(|retry| one.is_none_or(|one| retry < one));
        let both = if swap { [other, one] } else { [one, other] };
        both.into_iter().flatten()
    }

    /// Asks for a head, or for one that comes while nobody waits.
    pub(super) fn admission(&mut self, now: Duration, tokens: u64, cause: Cause) -> Admission {
        match self.queue_of(cause).hold {
            Some(Admission::AfterAnother) => Admission::AfterAnother,
            Some(held @ (Admission::At(at) | Admission::RetryAt(at))) if at > now => held,
            _ => {
                let admission = self.state.admission(now, tokens, cause);
                let hold = (admission != Admission::Now).then_some(admission);
                self.queue_of(cause).hold = hold;
                admission
            }
        }
    }

    /// When the next may start although nothing else happens.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let mut wakes = None;
        for head in self.heads() {
            let is_retry = self.retries.items.first() == Some(&head);
            let queue = if is_retry { &self.retries } else { &self.queue };
            match queue.hold {
                Some(Admission::RetryAt(at)) => wakes = Some(at),
                Some(Admission::AfterAnother) => return wakes,
                Some(Admission::At(at)) => return Some(wakes.map_or(at, |retry| at.min(retry))),
                Some(Admission::Now) | None => return Some(Duration::ZERO),
            }
        }
        wakes
    }

    /// The scope, to tell it what happened.
    pub(super) fn state(&mut self) -> &mut ScopeState {
        self.let_go();
        &mut self.state
    }

    fn let_go(&mut self) {
        self.queue.hold = None;
        self.retries.hold = None;
    }

    fn queue_of(&mut self, cause: Cause) -> &mut Queue {
        if cause == Cause::Fault {
            &mut self.retries
        } else {
            &mut self.queue
        }
    }

    pub(super) fn counts_tokens(&self) -> bool {
        self.state.counts_tokens()
    }

    /// How many attempts may be open at once.
    pub(super) fn concurrency(&self) -> usize {
        self.state.concurrency()
    }

    pub(super) fn is_down(&self) -> bool {
        self.state.is_down()
    }
}
