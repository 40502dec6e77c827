//! Finds attempts that take far longer than others.

use crate::schedule::Slot;
use std::time::Duration;

/// How often it looks while anything is in flight: often enough for a person, and nothing beside a call.
const EVERY: Duration = Duration::from_secs(15);
/// An attempt that takes so many times the median is worth a word.
const TIMES: u32 = 10;
/// And no sooner than this, since a median of a fast model says little.
const LEAST: Duration = Duration::from_secs(60);

/// The attempts in flight, and whom it told of.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    /// By slot.
    open: Vec<Option<Open>>,
    count: usize,
    next: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    row: u64,
    attempt: u32,
    since: Duration,
    is_told: bool,
}

/// An attempt that takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slow {
    pub(super) row: u64,
    pub(super) attempt: u32,
    pub(super) running: Duration,
}

impl Watchdog {
    pub(super) fn began(&mut self, now: Duration, slot: Slot, row: u64, attempt: u32) {
        let index = slot.index();
        if self.open.len() <= index {
            self.open.resize(index + 1, None);
        }
        if self.count == 0 {
            self.next = now + EVERY;
        }
        let open = Open {
            row,
            attempt,
            since: now,
            is_told: false,
        };
        self.count += usize::from(self.open[index].replace(open).is_none());
    }

    pub(super) fn ended(&mut self, slot: Slot) {
        if let Some(open) = self.open.get_mut(slot.index()) {
            self.count -= usize::from(open.take().is_some());
        }
    }

    /// When to look again.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        (self.count > 0).then_some(self.next)
    }

    /// Whether it is time to look.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.count > 0 && now >= self.next
    }

    /// Those that took too long and were not told of: longer than ten times the `median`, where there is one, and a
    /// minute at least; or longer than `longest`, where something must be stuck.
    pub(super) fn look(
        &mut self,
        now: Duration,
        median: Option<Duration>,
        longest: Duration,
    ) -> Vec<Slow> {
        self.next = now + EVERY;
        let usual = median.map_or(Duration::MAX, |median| median.saturating_mul(TIMES));
        let bound = usual.max(LEAST).min(longest);
        let mut slow = Vec::new();
        for open in self.open.iter_mut().flatten() {
            let running = now.saturating_sub(open.since);
            if !open.is_told && running > bound {
                open.is_told = true;
                slow.push(Slow {
                    row: open.row,
                    attempt: open.attempt,
                    running,
                });
            }
        }
        slow
    }
}
