//! Stops sending to a provider that is down, and finds out when it is back.

use std::time::Duration;

/// When a scope counts as down. While it does, rows stay queued and nothing is spent on them (F-022).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BreakerOptions {
    /// Faults in a row that open it; 0 is never. Default 20: a provider that fails every second call
    /// reaches it once in a million calls.
    pub consecutive: u32,
    /// The share of the last `window` attempts, 0 to 1, whose failing opens it. Default 0.8: retries get most
    /// rows through below that.
    pub share: f64,
    /// How many attempts the share is taken of; 0 is never. At most 128. Default 64.
    pub window: u32,
    /// How long it first stays open. Default 5 s.
    pub open: Duration,
    /// Factor from one opening to the next, while no probe succeeds. Default 2.
    pub multiplier: f64,
    /// The longest it stays open. Default 60 s: an hour's outage costs some 65 probes.
    pub cap: Duration,
}

impl Default for BreakerOptions {
    fn default() -> Self {
        Self {
            consecutive: 20,
            share: 0.8,
            window: 64,
            open: Duration::from_secs(5),
            multiplier: 2.0,
            cap: Duration::from_secs(60),
        }
    }
}

impl BreakerOptions {
    /// One that never opens.
    pub fn never() -> Self {
        Self {
            consecutive: 0,
            window: 0,
            ..Self::default()
        }
    }

    /// Sets after how many faults in a row it opens; 0 is never.
    #[must_use]
    pub fn with_consecutive(mut self, faults: u32) -> Self {
        self.consecutive = faults;
        self
    }

    /// Sets which share of how many attempts opens it; a window of 0 is never.
    #[must_use]
    pub fn with_share(mut self, share: f64, window: u32) -> Self {
        self.share = share;
        self.window = window;
        self
    }

    /// Sets how long it stays open: at first, by what factor longer each time, and at most.
    #[must_use]
    pub fn with_open(mut self, open: Duration, multiplier: f64, cap: Duration) -> Self {
        self.open = open;
        self.multiplier = multiplier;
        self.cap = cap;
        self
    }
}

/// What an attempt says about its provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It answered, whatever it said about the row or the rate.
    Up,
    /// It could not be reached, was overloaded or failed.
    Down,
    /// Nothing: the attempt was not sent, or took too long.
    Unknown,
}

/// The breaker of one scope.
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    options: BreakerOptions,
    state: State,
    /// Counts changes of state: what began before one says nothing after it.
    epoch: u64,
    /// Openings since a probe succeeded.
    openings: u32,
}

#[derive(Clone, Debug)]
enum State {
    Closed {
        faults: u32,
        /// The last attempts, the newest in the lowest bit; set is a fault.
        window: u128,
        seen: u32,
    },
    /// Until then; afterwards one probe at a time.
    Open { until: Duration, probing: bool },
}

const CLOSED: State = State::Closed {
    faults: 0,
    window: 0,
    seen: 0,
};

impl Breaker {
    pub(crate) fn new(options: BreakerOptions) -> Self {
        Self {
            options,
            state: CLOSED,
            epoch: 0,
            openings: 0,
        }
    }

    /// When the next attempt may start: `now` or earlier is at once, `None` when the probe under way has ended.
    pub(crate) fn ready_at(&self) -> Option<Duration> {
        match self.state {
            State::Closed { .. } => Some(Duration::ZERO),
            State::Open { probing: true, .. } => None,
            State::Open { until, .. } => Some(until),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// An attempt starts; returns what it is to remember. Only when [`Breaker::ready_at`] has come.
    pub(crate) fn started(&mut self) -> u64 {
        if let State::Open { probing, .. } = &mut self.state {
            *probing = true;
        }
        self.epoch
    }

    /// An attempt of `epoch` ended. Each that started says so once, or a probe would be waited for for ever.
    pub(crate) fn ended(&mut self, now: Duration, epoch: u64, health: Health) {
        if epoch != self.epoch {
            return;
        }
        match &mut self.state {
            State::Open { probing, .. } => match health {
                Health::Up => {
                    self.openings = 0;
                    self.enter(CLOSED);
                }
                Health::Down => self.open(now),
                Health::Unknown => *probing = false,
            },
            State::Closed {
                faults,
                window,
                seen,
            } => {
                let is_fault = match health {
                    Health::Unknown => return,
                    Health::Up => false,
                    Health::Down => true,
                };
                *faults = if is_fault {
                    faults.saturating_add(1)
                } else {
                    0
                };
                *window = *window << 1 | u128::from(is_fault);
                let length = self.options.window.min(128);
                *seen = (*seen + 1).min(length);
                let full = length > 0 && *seen == length;
                let failed = (*window << (128 - length.max(1))).count_ones();
                let in_a_row = self.options.consecutive > 0 && *faults >= self.options.consecutive;
                // An answer never opens it, also where the share stays high behind it.
                let share =
                    is_fault && full && f64::from(failed) >= self.options.share * f64::from(length);
                if in_a_row || share {
                    self.open(now);
                }
            }
        }
    }

    fn open(&mut self, now: Duration) {
        let exponent = i32::try_from(self.openings).unwrap_or(i32::MAX);
        self.openings = self.openings.saturating_add(1);
        let factor = if self.options.multiplier.is_finite() {
            self.options.multiplier.max(1.0)
        } else {
            1.0
        };
        let seconds = self.options.open.as_secs_f64() * factor.powi(exponent);
        let open = if seconds < self.options.cap.as_secs_f64() {
            Duration::from_secs_f64(seconds)
        } else {
            self.options.cap
        };
        self.enter(State::Open {
            until: now.saturating_add(open),
            probing: false,
        });
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    const SECOND: Duration = Duration::from_secs(1);

    fn fail(breaker: &mut Breaker, now: Duration, times: u32) {
        for _ in 0..times {
            let epoch = breaker.started();
            breaker.ended(now, epoch, Health::Down);
        }
    }

    #[test]
    fn f_022_it_opens_probes_one_at_a_time_and_stays_open_longer_each_time() {
        let mut breaker = Breaker::new(BreakerOptions::default());
        fail(&mut breaker, SECOND, 19);
        assert!(!breaker.is_open());
        let late = breaker.started();
        fail(&mut breaker, SECOND, 1);
        assert_eq!(breaker.ready_at(), Some(SECOND * 6));
        breaker.ended(SECOND * 2, late, Health::Up);
        assert!(breaker.is_open(), "what began before says nothing");
        let mut now = SECOND * 6;
        for expected in [10, 20, 40, 60, 60] {
            let probe = breaker.started();
            assert_eq!(breaker.ready_at(), None, "one probe at a time");
            breaker.ended(now, probe, Health::Down);
            let next = breaker.ready_at().unwrap();
            assert_eq!(next - now, SECOND * expected);
            now = next;
        }
        let lost = breaker.started();
        breaker.ended(now, lost, Health::Unknown);
        assert_eq!(breaker.ready_at(), Some(now), "another probe may go");
        let probe = breaker.started();
        breaker.ended(now, probe, Health::Up);
        assert!(!breaker.is_open());
        fail(&mut breaker, now, 20);
        assert_eq!(
            breaker.ready_at(),
            Some(now + SECOND * 5),
            "from the beginning"
        );
    }

    #[test]
    fn f_022_an_hours_outage_costs_few_calls() {
        let mut breaker = Breaker::new(BreakerOptions::default());
        let (mut now, mut calls) = (Duration::ZERO, 0);
        while now < SECOND * 3600 {
            fail(&mut breaker, now, 1);
            calls += 1;
            now = now.max(breaker.ready_at().unwrap());
        }
        assert!(calls < 85, "{calls}");
    }

    #[test]
    fn l_150_a_share_of_the_last_attempts_opens_it() {
        let mut breaker = Breaker::new(BreakerOptions::default().with_share(0.5, 10));
        let mut ended = |faults: &[u8]| {
            for fault in faults {
                let epoch = breaker.started();
                let health = if *fault == 1 {
                    Health::Down
                } else {
                    Health::Up
                };
                breaker.ended(SECOND, epoch, health);
            }
            breaker.is_open()
        };
        assert!(!ended(&[0; 1000]));
        assert!(!ended(&[1, 0, 1, 0, 1, 0, 1, 0]));
        assert!(ended(&[1]), "five of the last ten");
    }

    #[test]
    fn a_provider_that_answers_rows_badly_is_up() {
        let mut breaker = Breaker::new(BreakerOptions::default());
        for _ in 0..1000 {
            let epoch = breaker.started();
            breaker.ended(SECOND, epoch, Health::Up);
            let epoch = breaker.started();
            breaker.ended(SECOND, epoch, Health::Unknown);
        }
        assert!(!breaker.is_open());
        let mut never = Breaker::new(BreakerOptions::never());
        fail(&mut never, SECOND, 1000);
        assert!(!never.is_open());
    }

    proptest! {
        /// Whatever happens in whatever order, an attempt may start within the cap, at most one while it is
        /// open, and a success closes it.
        #[test]
        fn it_never_blocks_for_longer_than_its_cap(
            events in vec((0u8..4, 0u64..10, any::<usize>()), 1..300),
            window in 0u32..300,
            consecutive in 0u32..10,
        ) {
            let options = BreakerOptions::default()
                .with_consecutive(consecutive)
                .with_share(0.5, window);
            let mut breaker = Breaker::new(options);
            let mut now = Duration::ZERO;
            let mut running: Vec<u64> = Vec::new();
            for (event, passed, which) in events {
                now += SECOND * u32::try_from(passed).unwrap();
                match breaker.ready_at() {
                    Some(at) => {
                        prop_assert!(at <= now + SECOND * 60);
                        if event == 0 && at <= now {
                            running.push(breaker.started());
                        }
                    }
                    None => prop_assert!(running.contains(&breaker.epoch), "a lost probe"),
                }
                let probes = running.iter().filter(|epoch| **epoch == breaker.epoch).count();
                prop_assert!(!breaker.is_open() || probes <= 1);
                if event > 0 && !running.is_empty() {
                    let epoch = running.swap_remove(which % running.len());
                    let health = [Health::Up, Health::Down, Health::Unknown][usize::from(event) - 1];
                    let counts = epoch == breaker.epoch && health == Health::Up;
                    breaker.ended(now, epoch, health);
                    prop_assert!(!(counts && breaker.is_open()));
                }
            }
        }
    }
}
