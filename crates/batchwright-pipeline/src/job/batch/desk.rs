//! Which chunks the router has, told from its own threads to the one that seals.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

/// Which chunks were handed to the router, and which of them it is done with.
#[derive(Debug, Default)]
pub(super) struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

/// Closes the desk when it is dropped: whoever waits there does not outlive the run, however that ends.
pub(super) struct Closing(pub(super) Arc<Desk>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[derive(Debug, Default)]
struct State {
    open: BTreeSet<u32>,
    ended: VecDeque<u32>,
    /// Open chunks whose batch is made, or that wait for a person.
    made: BTreeSet<u32>,
    /// Whether every row is in a chunk.
    sealed: bool,
    closed: bool,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A chunk is about to be handed over.
    pub(super) fn hand_over(&self, chunk: u32) {
        self.lock().open.insert(chunk);
    }

    /// The router is done with a chunk.
    pub(super) fn ended(&self, chunk: u32) {
        let mut state = self.lock();
        state.made.remove(&chunk);
        if state.open.remove(&chunk) {
            state.ended.push_back(chunk);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// A chunk's batch is made.
    pub(super) fn made(&self, chunk: u32) {
        self.lock().made.insert(chunk);
    }

    /// A chunk's batch is to be made once more.
    pub(super) fn unmade(&self, chunk: u32) {
        self.lock().made.remove(&chunk);
    }

    /// Every row is in a chunk.
    pub(super) fn sealed(&self) {
        self.lock().sealed = true;
    }

    /// Whether nothing is left but to wait for batches.
    pub(super) fn only_waits(&self) -> bool {
        let state = self.lock();
        state.sealed && state.ended.is_empty() && state.open.is_subset(&state.made)
    }

    /// The router takes no more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Chunks the router is done with since the last call, without waiting.
    pub(super) fn take(&self) -> Vec<u32> {
        self.lock().ended.drain(..).collect()
    }

    /// As [`Desk::take`], after waiting for at least one; none where nothing is left to wait for.
    pub(super) fn wait(&self) -> Vec<u32> {
        let mut state = self.lock();
        while state.ended.is_empty() && !state.open.is_empty() && !state.closed {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Vec::new();
        }
        state.ended.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_010_a_batch_that_is_to_be_made_once_more_is_not_left() {
        let desk = Desk::default();
        desk.hand_over(1);
        desk.sealed();
        assert!(!desk.only_waits());
        desk.made(1);
        assert!(desk.only_waits());
        desk.unmade(1);
        assert!(!desk.only_waits());
    }

    #[test]
    fn it_ends_when_nothing_is_left_to_wait_for() {
        let desk = Desk::default();
        assert!(desk.wait().is_empty());
        desk.hand_over(1);
        desk.hand_over(2);
        desk.ended(2);
        desk.ended(3);
        assert_eq!(desk.wait(), [2]);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| desk.wait());
            desk.ended(1);
            assert_eq!(waiting.join().unwrap(), [1]);
            desk.hand_over(4);
            let waiting = scope.spawn(|| desk.wait());
            desk.close();
            assert!(waiting.join().unwrap().is_empty());
        });
    }
}
