//! Holds a run back and lets it go on, from elsewhere.

use futures::task::AtomicWaker;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    task::Waker,
};

/// Pauses and resumes a run, also from another task. Cheap to clone.
///
/// A paused run sends nothing and takes nothing from its source; what is in flight ends, is recorded and yielded. Time
/// goes on: item deadlines run, and those that pass meanwhile end their items once the run is resumed. A stop is
/// obeyed in a pause too.
#[derive(Clone, Default)]
pub struct RunControl(Arc<Gate>);

#[derive(Default)]
struct Gate {
    is_paused: AtomicBool,
    run: AtomicWaker,
}

impl RunControl {
    /// Sends nothing from now on; attempts that were begun go on.
    pub fn pause(&self) {
        self.set(true);
    }

    /// Goes on sending.
    pub fn resume(&self) {
        self.set(false);
    }

    /// Whether it was paused last.
    pub fn is_paused(&self) -> bool {
        self.0.is_paused.load(Acquire)
    }

    fn set(&self, is_paused: bool) {
        self.0.is_paused.store(is_paused, Release);
        self.0.run.wake();
    }

    /// Whether the run is paused; `waker` is told when that changes.
    pub(crate) fn watch(&self, waker: &Waker) -> bool {
        self.0.run.register(waker);
        self.is_paused()
    }
}

impl fmt::Debug for RunControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunControl")
            .field("is_paused", &self.is_paused())
            .finish()
    }
}
