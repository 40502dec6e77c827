//! Which batches are slow, and whose results will be gone: told, and nothing ends by it.

use batchwright_core::{BatchLimits, BatchSnapshot, BatchStatus, Timestamp};
use std::time::Duration;

#[cfg(test)]
mod tests;

/// How much time is left when the second warning is due, or an eighth of the whole where that is less.
const LOUD: Duration = Duration::from_secs(3 * 24 * 3600);

/// Something worth a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// It is in this state for longer than usual.
    Slow { age: Duration, typical: Duration },
    /// Half of the time its results are kept has passed, or little is left.
    Expiring { collect_by: Timestamp },
}

/// What was told of one batch.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    batch: String,
    status: Option<BatchStatus>,
    /// When this state was first seen.
    since: Duration,
    /// Slow is told again when the age has doubled.
    slow_at: Option<Duration>,
    /// Warnings of the results' end given so far.
    warned: u32,
}

impl Patience {
    /// What a poll at `now`, by a monotonic clock, and `wall` makes worth telling.
    pub(crate) fn see(
        &mut self,
        snapshot: &BatchSnapshot,
        limits: &BatchLimits,
        now: Duration,
        wall: Timestamp,
    ) -> Vec<Notice> {
        if self.batch != snapshot.handle.id {
            *self = Self {
                batch: snapshot.handle.id.clone(),
                ..Self::default()
            };
        }
        if self.status.as_ref() != Some(&snapshot.status) {
            self.status = Some(snapshot.status.clone());
            self.since = now;
            self.slow_at = None;
        }
        let mut notices = Vec::new();
        let terminal = snapshot.status.is_terminal();
        // An ended batch whose files are not there yet is as slow as one that writes them.
        if !terminal || snapshot.awaits_files() {
            let typical = limits.typical_in(match terminal {
                true => &BatchStatus::Finalizing,
                false => &snapshot.status,
            });
            let age = self.age(snapshot, now, wall);
            if age >= self.slow_at.unwrap_or(typical) {
                self.slow_at = Some(age * 2);
                notices.push(Notice::Slow { age, typical });
            }
        }
        if let Some(collect_by) = collect_by(snapshot, limits) {
            let left = collect_by.since(wall);
            let loud = LOUD.min(limits.retention / 8);
            let due = u32::from(left <= limits.retention / 2) + u32::from(left <= loud);
            if due > self.warned {
                self.warned = due;
                notices.push(Notice::Expiring { collect_by });
            }
        }
        notices
    }

    /// How long it is in this state: of the first ones since its creation, which outlives this process, and of others
    /// since they were seen. Two clocks are compared for that, and nothing hangs on it (F-138).
    fn age(&self, snapshot: &BatchSnapshot, now: Duration, wall: Timestamp) -> Duration {
        let seen = now.saturating_sub(self.since);
        match (&snapshot.status, snapshot.created_at) {
            (BatchStatus::Finalizing | BatchStatus::Cancelling, _) | (_, None) => seen,
            (status, _) if status.is_terminal() => seen,
            (_, Some(created)) => seen.max(wall.since(created)),
        }
    }
}

/// Until when the results of a batch are kept, by its provider's documented time; a provider that keeps them where
/// the user says has none. `None` where its creation is not known.
pub(crate) fn collect_by(snapshot: &BatchSnapshot, limits: &BatchLimits) -> Option<Timestamp> {
    Some(snapshot.created_at?.plus(limits.retention))
}
