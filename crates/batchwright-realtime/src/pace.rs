//! The pace a provider was seen to let through, learned from what it refused and from nothing else.
//!
//! At the start of the first refused attempt of a moment the provider's bucket was empty. From one such
//! instant to the next it let through what it was refilled, so what passed, divided by the time, is its
//! rate; unless the bucket was full for a while, in which case that is too little. Then what passed in the
//! last second, less what the bucket can hold, is nearer. Between refusals the pace grows, the slower the
//! more refusals confirmed it, so that each costs few attempts.

use crate::bucket::Bucket;
use std::time::Duration;

/// How long the pace takes to double after the first refusal; four times as long after each further one.
const DOUBLING: f64 = 0.5;
/// Refusals that slow the growth. At the last step it is 0.14 % a second.
const STEPS: i32 = 5;
/// Growth is one step faster for each of these stretches without a refusal, so that a limit that was
/// raised is found within minutes.
const CLEAN: Duration = Duration::from_secs(30);
/// The most one refusal takes from a pace that was confirmed before; a limit that really fell so far
/// refuses again at once.
const KEEP: f64 = 0.7;
/// The same for the first estimate, which took a bucket for refill.
const KEEP_FIRST: f64 = 0.1;
/// A refusal confirms an estimate where the pace had not grown past this much of it.
const CONFIRMED: f64 = 3.0;
/// And where it held for this long; otherwise the next pace is less by the factor.
const SETTLED: Duration = Duration::from_secs(1);
const BACK: f64 = 0.8;
/// How much of what the provider's bucket was refilled by during a rest goes at once after it.
const CREDIT: f64 = 0.5;
/// The least pace. Longer waits are the server's to ask for.
const SLOWEST: f64 = 1.0 / 60.0;
/// How much may start at once, in seconds of the pace: what timers are late by.
const BURST: f64 = 0.05;
/// A pace as high as this limits nothing any more.
const FORGOTTEN: f64 = 1e5;
/// Cells of the memory of recent starts, and how many are a second.
const CELLS: usize = 16;
const CELLS_A_SECOND: u64 = 8;
/// How far back what passed is asked for: limits are by the minute.
const MEMORY: Duration = Duration::from_secs(60);

/// Counts starts and refusals of one scope; holds a pace once something was refused.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    learned: Option<Learned>,
    /// Starts so far.
    serial: u64,
    first_start: Duration,
    /// What passed before the first refusal, and when that was.
    first: (f64, Duration),
    /// The last instant the provider's bucket was known to be empty.
    empty: Option<Empty>,
    /// Refused since then.
    refused: u64,
    recent: Recent,
}

#[derive(Clone, Copy, Debug)]
struct Empty {
    serial: u64,
    at: Duration,
}

#[derive(Clone, Debug)]
struct Learned {
    bucket: Bucket,
    /// What the last refusal showed, before any growth.
    estimate: f64,
    /// How much the growth is slowed, 0 to `STEPS`.
    step: i32,
    /// What goes at once, at least.
    credit: f64,
    grown_at: Duration,
    resumed: Duration,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self {
            learned: None,
            serial: 0,
            first_start: Duration::ZERO,
            first: (0.0, Duration::ZERO),
            empty: None,
            refused: 0,
            recent: Recent::default(),
        }
    }

    /// When the next attempt may start; `now` or earlier is at once.
    pub(crate) fn ready_at(&mut self, now: Duration) -> Duration {
        match &mut self.learned {
            Some(learned) => learned.bucket.ready_at(now, 1.0),
            None => now,
        }
    }

    /// An attempt starts; returns its serial number.
    pub(crate) fn started(&mut self, now: Duration) -> u64 {
        let serial = self.serial;
        self.serial += 1;
        if serial == 0 {
            self.first_start = now;
        }
        self.recent.add(now);
        if let Some(learned) = &mut self.learned {
            learned.grow(now);
            learned.bucket.take(now, 1.0);
            if learned.bucket.per_second() > FORGOTTEN {
                self.learned = None;
            }
        }
        serial
    }

    /// Attempt number `serial` never left.
    pub(crate) fn unsent(&mut self, now: Duration, started: Duration) {
        self.recent.remove(started);
        self.refused += 1;
        if let Some(learned) = &mut self.learned {
            learned.bucket.give_back(now, 1.0);
        }
    }

    /// Starts so far.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Starts in the second up to `now`.
    pub(crate) fn recent(&self, now: Duration) -> u64 {
        self.recent.sum(now)
    }

    /// A rate limit refused an attempt, which did not begin a rest.
    pub(crate) fn refused(&mut self, serial: u64, started: Duration) {
        self.recent.remove(started);
        if self.empty.is_some_and(|empty| serial >= empty.serial) {
            self.refused += 1;
        }
        if let Some(learned) = self.learned.as_mut().filter(|learned| learned.step == 0) {
            // The rest of what had been sent when the first refusal came.
            self.first.0 = (self.first.0 - 1.0).max(1.0);
            learned.begin(self.first.0 / seconds(self.first_start, learned.resumed));
        }
    }

    /// A rate limit refused an attempt and so began a rest until `resume`.
    pub(crate) fn limited(
        &mut self,
        now: Duration,
        serial: u64,
        started: Duration,
        resume: Duration,
    ) {
        self.recent.remove(started);
        let learned = match (&self.learned, self.empty) {
            (Some(before), Some(empty)) => {
                let passed = (serial - empty.serial).saturating_sub(self.refused) as f64;
                let since = empty.at.max(started.saturating_sub(MEMORY));
                let long = passed / seconds(since, started);
                let stretch = seconds(before.resumed, started).clamp(0.25, 1.0);
                let burst = self.burst(long);
                let late = (self.recent.sum(started) as f64 - burst) / stretch;
                let keep = if before.step > 0 { KEEP } else { KEEP_FIRST };
                let held = started.saturating_sub(before.resumed) >= SETTLED;
                let late = if held {
                    late
                } else {
                    late.min(before.estimate * BACK)
                };
                let estimate = long.max(late).max(before.estimate * keep);
                let confirmed = held && before.bucket.per_second() < CONFIRMED * estimate;
                let step = if confirmed { before.step + 1 } else { 1 };
                let credit = burst.min(estimate * seconds(started, resume)) * CREDIT;
                Learned::new(estimate, step.min(STEPS), credit, resume)
            }
            _ => {
                // Nothing tells the bucket from its refill yet: what passed counts as refilled in the time
                // until the rest ends.
                self.first = ((self.serial as f64 - 1.0).max(1.0), now);
                let estimate = self.first.0 / seconds(self.first_start, resume);
                Learned::new(estimate, 0, 0.0, resume)
            }
        };
        self.learned = Some(learned);
        self.empty = Some(Empty {
            serial,
            at: started,
        });
        self.refused = 1;
    }

    /// What the provider's bucket holds when full: what passed before the first refusal, less the refill at
    /// `rate`.
    fn burst(&self, rate: f64) -> f64 {
        let (passed, at) = self.first;
        (passed - rate * at.saturating_sub(self.first_start).as_secs_f64()).max(1.0)
    }

    /// The pace in starts a second, once one was learned.
    #[cfg(test)]
    pub(crate) fn per_second(&self) -> Option<f64> {
        Some(self.learned.as_ref()?.bucket.per_second())
    }
}

impl Learned {
    fn new(estimate: f64, step: i32, credit: f64, resume: Duration) -> Self {
        let mut learned = Self {
            bucket: Bucket::full(1.0, 1.0, resume),
            estimate,
            step,
            credit,
            grown_at: resume,
            resumed: resume,
        };
        learned.begin(estimate);
        learned
    }

    /// One may go at once, whatever was sent before: the rest was long enough for it.
    fn begin(&mut self, estimate: f64) {
        self.estimate = estimate.max(SLOWEST);
        self.bucket = Bucket::full(self.estimate, self.capacity(self.estimate), self.resumed);
    }

    fn capacity(&self, pace: f64) -> f64 {
        if self.step == 0 {
            (pace * BURST).max(1.0)
        } else {
            self.credit.max(1.0)
        }
    }

    /// Lets the pace grow by the time since the last start, of which an idle stretch counts little.
    fn grow(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.grown_at).as_secs_f64().min(1.0);
        self.grown_at = self.grown_at.max(now);
        let clean = now.saturating_sub(self.resumed).as_secs() / CLEAN.as_secs();
        let clean = i32::try_from(clean).unwrap_or(i32::MAX);
        let step = self.step.saturating_sub(clean).max(self.step.min(1));
        let doubling = DOUBLING * 4f64.powi(step);
        let pace = self.bucket.per_second() * (passed / doubling).exp2();
        self.bucket.set(now, pace, self.capacity(pace));
    }
}

/// At least a thousandth, to divide by.
fn seconds(from: Duration, to: Duration) -> f64 {
    to.saturating_sub(from).as_secs_f64().max(1e-3)
}

/// Starts of the last two seconds, by cells of time.
#[derive(Clone, Debug, Default)]
struct Recent {
    cells: [u32; CELLS],
    /// The number of the newest cell, counted from the run's beginning.
    newest: u64,
}

impl Recent {
    fn cell(at: Duration) -> u64 {
        at.as_secs() * CELLS_A_SECOND + u64::from(at.subsec_millis()) / (1000 / CELLS_A_SECOND)
    }

    fn add(&mut self, now: Duration) {
        let cell = Self::cell(now).max(self.newest);
        let passed = cell - self.newest;
        if passed > 0 {
            for step in 1..=passed.min(CELLS as u64) {
                self.cells[index(self.newest + step)] = 0;
            }
            self.newest = cell;
        }
        self.cells[index(cell)] += 1;
    }

    fn remove(&mut self, started: Duration) {
        let cell = Self::cell(started);
        if cell <= self.newest && self.newest - cell < CELLS as u64 {
            let count = &mut self.cells[index(cell)];
            *count = count.saturating_sub(1);
        }
    }

    /// Starts in the second up to `now`, as far as they are remembered.
    fn sum(&self, now: Duration) -> u64 {
        let last = Self::cell(now);
        let first = last.saturating_sub(CELLS_A_SECOND - 1);
        let oldest = self.newest.saturating_sub(CELLS as u64 - 1);
        (first.max(oldest)..=last.min(self.newest))
            .map(|cell| u64::from(self.cells[index(cell)]))
            .sum()
    }
}

fn index(cell: u64) -> usize {
    // Below the number of cells.
    (cell % CELLS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_passed_between_two_refusals_bounds_the_pace() {
        let mut pace = Pace::new();
        let mut now = Duration::ZERO;
        let mut start = |pace: &mut Pace, at: Duration| {
            now = now.max(at).max(pace.ready_at(now));
            (pace.started(now), now)
        };
        for _ in 0..100 {
            start(&mut pace, SECOND);
        }
        assert_eq!(pace.per_second(), None, "nothing was refused");
        let (serial, at) = start(&mut pace, SECOND);
        pace.limited(at, serial, at, SECOND * 2);
        let mut last = (0, SECOND);
        while last.1 < SECOND * 4 {
            last = start(&mut pace, SECOND * 2);
        }
        let passed = last.0 - serial - 1;
        let at_refusal = pace.per_second().unwrap();
        pace.limited(last.1, last.0, last.1, SECOND * 5);
        let learned = pace.per_second().unwrap();
        let between = passed as f64 / (last.1 - at).as_secs_f64();
        assert!(learned >= between * 0.999, "{learned} {between}");
        assert!(learned <= at_refusal, "{learned} {at_refusal}");
    }

    #[test]
    fn a_pace_grows_until_it_limits_nothing() {
        let mut pace = Pace::new();
        let serial = pace.started(Duration::ZERO);
        pace.limited(Duration::ZERO, serial, Duration::ZERO, SECOND);
        let mut now = SECOND;
        while pace.per_second().is_some() {
            now = now.max(pace.ready_at(now));
            pace.started(now);
        }
        assert!(now < SECOND * 15, "{now:?}");
    }

    #[test]
    fn the_memory_of_starts_spans_a_second() {
        let mut recent = Recent::default();
        for step in 0..100 {
            recent.add(SECOND / 10 * step);
        }
        let sum = recent.sum(SECOND * 99 / 10);
        assert!((9..=11).contains(&sum), "{sum}");
        assert_eq!(recent.sum(SECOND * 20), 0);
        recent.add(SECOND * 1000);
        assert_eq!(recent.sum(SECOND * 1000), 1);
        recent.remove(SECOND * 1000);
        recent.remove(SECOND);
        assert_eq!(recent.sum(SECOND * 1000), 0);
    }

    proptest! {
        /// Whatever is refused in whatever order, the next start is allowed within a minute of the rest.
        #[test]
        fn it_never_stands_still(
            steps in vec((0u8..4, 0u64..20_000, any::<usize>()), 1..300),
        ) {
            let mut pace = Pace::new();
            let mut now = Duration::ZERO;
            let mut resume = Duration::ZERO;
            let mut open: Vec<(u64, Duration)> = Vec::new();
            for (event, passed, which) in steps {
                now += Duration::from_millis(passed);
                let at = pace.ready_at(now);
                prop_assert!(at <= now.max(resume) + SECOND * 61, "{at:?} at {now:?}");
                if event < 2 {
                    if at <= now && resume <= now {
                        open.push((pace.started(now), now));
                    }
                } else if !open.is_empty() {
                    let (serial, started) = open.swap_remove(which % open.len());
                    if event == 2 && started >= resume {
                        resume = now + SECOND;
                        pace.limited(now, serial, started, resume);
                    } else {
                        pace.refused(serial, started);
                    }
                }
            }
        }
    }
}
