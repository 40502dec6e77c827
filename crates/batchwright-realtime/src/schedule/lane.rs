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
    queue: BTreeSet<(u64, Slot)>,
    /// What holds the first of the queue back, until something happens in the scope.
    hold: Option<Admission>,
}

impl Lane {
    pub(super) fn new(options: &ScopeOptions, max_in_flight: usize) -> Self {
        Self {
            state: ScopeState::new(options, max_in_flight),
            queue: BTreeSet::new(),
            hold: None,
        }
    }

    pub(super) fn join(&mut self, place: u64, slot: Slot) {
        self.queue.insert((place, slot));
    }

    pub(super) fn leave(&mut self, place: u64, slot: Slot) {
        // The next one may need less, or spend of another budget.
        self.hold = None;
        self.queue.remove(&(place, slot));
    }

    pub(super) fn first(&self) -> Option<(u64, Slot)> {
        self.queue.first().copied()
    }

    /// Asks for the first of the queue, or for one that comes while nobody waits.
    pub(super) fn admission(&mut self, now: Duration, tokens: u64, cause: Cause) -> Admission {
        match self.hold {
            Some(Admission::AfterAnother) => Admission::AfterAnother,
            Some(Admission::At(at)) if at > now => Admission::At(at),
            _ => {
                let admission = self.state.admission(now, tokens, cause);
                self.hold = (admission != Admission::Now).then_some(admission);
                admission
            }
        }
    }

    /// When the first of the queue may start although nothing else happens.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        if self.queue.is_empty() {
            return None;
        }
        match self.hold {
            Some(Admission::AfterAnother) => None,
            Some(Admission::At(at)) => Some(at),
            Some(Admission::Now) | None => Some(Duration::ZERO),
        }
    }

    /// The scope, to tell it what happened.
    pub(super) fn state(&mut self) -> &mut ScopeState {
        self.hold = None;
        &mut self.state
    }

    pub(super) fn counts_tokens(&self) -> bool {
        self.state.counts_tokens()
    }

    pub(super) fn is_down(&self) -> bool {
        self.state.is_down()
    }
}
