//! The pause of a scope after the provider asked for slower sending, shared by all that is sent there.

use std::time::Duration;

/// How long a scope rests after a rate limit, and how it begins again.
///
/// The seed of this design rested 300 s after one 429, more after a second, and began again with one row in
/// 2 s: minutes are lost where a limit of so many requests a minute has room again within a second. So the
/// first rest of our own making is short, repeated ones grow, and what a server asks for always counts.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CooldownOptions {
    /// The first rest where the server names none. Default 500 ms, as the vendors' own clients wait; 0 is
    /// legal and no rest.
    pub initial: Duration,
    /// Factor from one rest to the next while no attempt succeeds in between, at least 1. Default 1.5.
    pub multiplier: f64,
    /// The longest rest of our own making. Default 300 s.
    pub cap: Duration,
    /// The longest rest a server may ask for; longer ones are cut to it. Default 1 h (F-016).
    pub ceiling: Duration,
    /// Starts with fixed delays after each rest. Default none: the learned pace, see
    /// [`RateLimitOptions::learn`](crate::RateLimitOptions::learn), begins again at what the provider was seen to let
    /// through, where fixed delays are too long for one provider and too short for another.
    pub slow_start: Option<SlowStart>,
}

/// A ramp of starts after a rest: the delay between them falls evenly from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlowStart {
    /// How many starts it spans; 0 is none.
    pub items: u32,
    /// The delay after the first of them.
    pub initial_delay: Duration,
    /// The delay after the last of them.
    pub final_delay: Duration,
}

impl Default for CooldownOptions {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(500),
            multiplier: 1.5,
            cap: Duration::from_secs(300),
            ceiling: Duration::from_secs(3600),
            slow_start: None,
        }
    }
}

impl Default for SlowStart {
    /// 50 starts from 2 s to 100 ms apart, as with the seed of this design.
    fn default() -> Self {
        Self {
            items: 50,
            initial_delay: Duration::from_secs(2),
            final_delay: Duration::from_millis(100),
        }
    }
}

impl SlowStart {
    /// `items` starts, from `initial_delay` to `final_delay` apart.
    pub fn new(items: u32, initial_delay: Duration, final_delay: Duration) -> Self {
        Self {
            items,
            initial_delay,
            final_delay,
        }
    }

    /// The delay after start number `index`, counted from 0; none after the last.
    fn delay(&self, index: u32) -> Option<Duration> {
        if index >= self.items {
            return None;
        }
        let share = f64::from(index) / f64::from(self.items.max(2) - 1);
        let (first, last) = (
            self.initial_delay.as_secs_f64(),
            self.final_delay.as_secs_f64(),
        );
        // Between two durations, so itself one.
        Some(Duration::from_secs_f64(first + (last - first) * share))
    }
}

impl CooldownOptions {
    /// Long rests and slow starts for a provider that punishes whoever comes back early: 300 s, growing by
    /// 1.5 to 600 s, then 50 starts from 2 s to 100 ms apart.
    pub fn patient() -> Self {
        Self {
            initial: Duration::from_secs(300),
            cap: Duration::from_secs(600),
            slow_start: Some(SlowStart::default()),
            ..Self::default()
        }
    }

    /// Sets the first rest where the server names none.
    #[must_use]
    pub fn with_initial(mut self, rest: Duration) -> Self {
        self.initial = rest;
        self
    }

    /// Sets the factor from one rest to the next.
    #[must_use]
    pub fn with_multiplier(mut self, multiplier: f64) -> Self {
        self.multiplier = multiplier;
        self
    }

    /// Bounds rests of our own making.
    #[must_use]
    pub fn with_cap(mut self, cap: Duration) -> Self {
        self.cap = cap;
        self
    }

    /// Bounds rests a server asks for.
    #[must_use]
    pub fn with_ceiling(mut self, ceiling: Duration) -> Self {
        self.ceiling = ceiling;
        self
    }

    /// Sets fixed delays after each rest; `None` is none.
    #[must_use]
    pub fn with_slow_start(mut self, slow_start: Option<SlowStart>) -> Self {
        self.slow_start = slow_start;
        self
    }

    /// The rest after `repeats` limits in a row. `hint` is honoured as a floor; both are spread upwards by
    /// up to a tenth, so that processes that share a key do not come back together (F-019).
    fn length(&self, repeats: u32, hint: Option<Duration>, random: f64) -> Duration {
        let exponent = i32::try_from(repeats.saturating_sub(1)).unwrap_or(i32::MAX);
        let factor = if self.multiplier.is_finite() {
            self.multiplier.max(1.0)
        } else {
            1.0
        };
        let seconds = self.initial.as_secs_f64() * factor.powi(exponent);
        let own = if seconds < self.cap.as_secs_f64() {
            Duration::from_secs_f64(seconds)
        } else {
            self.cap
        };
        let rest = hint.map_or(own, |hint| hint.min(self.ceiling).max(own));
        let spread = rest.mul_f64(0.1 * random.clamp(0.0, 1.0));
        rest.saturating_add(spread).min(self.ceiling.max(own))
    }
}

/// What a rate limit did to its scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limited {
    /// It began a rest, which ends then.
    Began(Duration),
    /// It came from before the present rest, which now ends then.
    Late(Duration),
}

impl Limited {
    pub(crate) fn is_new(self) -> bool {
        matches!(self, Self::Began(_))
    }

    /// When the scope's rest ends.
    pub(crate) fn until(self) -> Duration {
        match self {
            Self::Began(until) | Self::Late(until) => until,
        }
    }
}

/// The rest of one scope.
///
/// Each rest has a number. An attempt remembers the number it started under; only the first limit of a number
/// begins a rest, so that a hundred rejections of one moment are one event.
#[derive(Clone, Debug)]
pub(crate) struct Cooldown {
    options: CooldownOptions,
    generation: u64,
    until: Duration,
    /// Rests since the last success.
    repeats: u32,
    /// Starts since the last rest, until the ramp is over.
    ramp: Option<u32>,
    /// The earliest next start of the ramp.
    next: Duration,
}

impl Cooldown {
    pub(crate) fn new(options: CooldownOptions) -> Self {
        Self {
            options,
            generation: 0,
            until: Duration::ZERO,
            repeats: 0,
            ramp: None,
            next: Duration::ZERO,
        }
    }

    /// What an attempt that starts now is to remember.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// When the next attempt may start; `now` or earlier is at once.
    pub(crate) fn ready_at(&self) -> Duration {
        self.until.max(self.next)
    }

    pub(crate) fn is_resting(&self, now: Duration) -> bool {
        now < self.until
    }

    /// An attempt starts. Only when [`Cooldown::ready_at`] has come.
    pub(crate) fn started(&mut self, now: Duration) {
        let Some(index) = self.ramp else {
            return;
        };
        match self.options.slow_start.and_then(|ramp| ramp.delay(index)) {
            Some(delay) => {
                self.ramp = Some(index + 1);
                self.next = now.saturating_add(delay);
            }
            None => self.ramp = None,
        }
    }

    /// An attempt of `generation` was refused by a rate limit.
    pub(crate) fn limited(
        &mut self,
        now: Duration,
        generation: u64,
        retry_after: Option<Duration>,
        random: f64,
    ) -> Limited {
        if generation != self.generation {
            if self.is_resting(now)
                && let Some(hint) = retry_after
            {
                let asked = now.saturating_add(hint.min(self.options.ceiling));
                self.until = self.until.max(asked);
            }
            return Limited::Late(self.until);
        }
        self.generation += 1;
        self.repeats = self.repeats.saturating_add(1);
        let rest = self.options.length(self.repeats, retry_after, random);
        self.until = now.saturating_add(rest);
        self.next = self.until;
        self.ramp = self.options.slow_start.map(|_| 0);
        Limited::Began(self.until)
    }

    /// An attempt of `generation` was not limited; says nothing where it began before the last rest.
    pub(crate) fn passed(&mut self, generation: u64) {
        if generation == self.generation {
            self.repeats = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, option, prelude::*};

    const SECOND: Duration = Duration::from_secs(1);

    fn cooldown() -> Cooldown {
        Cooldown::new(CooldownOptions::default())
    }

    #[test]
    fn l_007_ax_122_limits_of_one_moment_are_one_rest() {
        let mut scope = cooldown();
        let old = scope.generation();
        assert_eq!(
            scope.limited(SECOND, old, Some(SECOND * 20), 0.0),
            Limited::Began(SECOND * 21)
        );
        for _ in 0..100 {
            assert_eq!(
                scope.limited(SECOND * 2, old, Some(SECOND * 5), 0.9),
                Limited::Late(SECOND * 21)
            );
        }
        // One that reaches further moves the end, and one that comes after the end does nothing.
        assert_eq!(
            scope.limited(SECOND * 3, old, Some(SECOND * 30), 0.9),
            Limited::Late(SECOND * 33)
        );
        assert_eq!(
            scope.limited(SECOND * 40, old, Some(SECOND * 30), 0.9),
            Limited::Late(SECOND * 33)
        );
        assert_eq!(scope.generation(), old + 1);
        assert!(!scope.is_resting(SECOND * 40));
    }

    #[test]
    fn a_049_rests_grow_until_something_passes() {
        let mut scope = cooldown();
        let mut now = Duration::ZERO;
        let mut rest = |scope: &mut Cooldown| {
            let begun = now;
            let Limited::Began(until) = scope.limited(now, scope.generation(), None, 0.0) else {
                panic!("the first of its number begins a rest");
            };
            now = until;
            (until - begun).as_millis()
        };
        assert_eq!(
            [rest(&mut scope), rest(&mut scope), rest(&mut scope)],
            [500, 750, 1125]
        );
        let before = scope.generation();
        assert_eq!(rest(&mut scope), 1687);
        scope.passed(before);
        assert_eq!(
            rest(&mut scope),
            2531,
            "a success from before the rest says nothing"
        );
        scope.passed(scope.generation());
        assert_eq!(rest(&mut scope), 500);
        for _ in 0..100 {
            rest(&mut scope);
        }
        assert_eq!(rest(&mut scope), 300_000, "the cap");
    }

    #[test]
    fn f_013_f_016_what_the_server_asks_is_a_floor_up_to_the_ceiling() {
        let length = |hint: u64, random| {
            CooldownOptions::default().length(1, Some(Duration::from_secs(hint)), random)
        };
        assert_eq!(length(20, 0.0), SECOND * 20);
        assert_eq!(length(20, 1.0), SECOND * 22);
        assert_eq!(length(0, 0.0), Duration::from_millis(500));
        assert_eq!(length(u64::MAX, 1.0), SECOND * 3600);
    }

    #[test]
    fn a_050_a_051_a_052_the_ramp_falls_evenly_and_only_after_a_limit() {
        let ramp = SlowStart::new(4, SECOND * 2, SECOND / 10);
        let options = CooldownOptions::default().with_slow_start(Some(ramp));
        let mut scope = Cooldown::new(options);
        scope.started(SECOND);
        assert!(scope.ready_at() <= SECOND, "l_013: no ramp before a limit");
        scope.limited(SECOND, 0, None, 0.0);
        let mut gaps = Vec::new();
        let mut now = scope.ready_at();
        for _ in 0..5 {
            scope.started(now);
            gaps.push((scope.ready_at() - now).as_millis());
            now = scope.ready_at();
        }
        assert_eq!(gaps, [2000, 1366, 733, 100, 0]);
    }

    #[test]
    fn a_048_the_patient_options_are_the_seeds() {
        let options = CooldownOptions::patient();
        assert_eq!(options.length(1, None, 0.0), SECOND * 300);
        assert_eq!(options.length(2, None, 0.0), SECOND * 450);
        assert_eq!(options.length(9, None, 0.0), SECOND * 600);
        assert_eq!(SlowStart::default().delay(0), Some(SECOND * 2));
        assert_eq!(SlowStart::default().delay(49), Some(SECOND / 10));
        assert_eq!(SlowStart::default().delay(50), None);
    }

    #[test]
    fn l_009_ax_120_no_rest_is_legal() {
        let options = CooldownOptions::default().with_initial(Duration::ZERO);
        let mut scope = Cooldown::new(options);
        assert_eq!(scope.limited(SECOND, 0, None, 0.5), Limited::Began(SECOND));
        assert!(!scope.is_resting(SECOND));
    }

    proptest! {
        /// Whatever comes in whatever order: a rest ends within the ceiling of the last event, a number is
        /// used once, and rests of one number do not grow by counting.
        #[test]
        fn a_rest_always_ends(
            events in vec((0u64..100, any::<u64>(), option::of(0u64..10_000), 0.0f64..1.0), 1..200),
            multiplier in proptest::num::f64::ANY,
        ) {
            let options = CooldownOptions::default()
                .with_multiplier(multiplier)
                .with_slow_start(Some(SlowStart::default()));
            let mut scope = Cooldown::new(options);
            let mut now = Duration::ZERO;
            for (passes, which, hint, random) in events {
                now += Duration::from_secs(passes);
                let number = which % (scope.generation() + 1);
                let before = scope.generation();
                let was = scope.ready_at();
                match scope.limited(now, number, hint.map(Duration::from_secs), random) {
                    Limited::Began(_) => {
                        prop_assert_eq!(number, before);
                        prop_assert_eq!(scope.generation(), before + 1);
                    }
                    Limited::Late(_) => {
                        prop_assert!(number < before);
                        prop_assert!(scope.ready_at() >= was);
                        prop_assert_eq!(scope.generation(), before);
                    }
                }
                prop_assert!(scope.ready_at() <= now + SECOND * 3602);
                if which % 3 == 0 {
                    now = now.max(scope.ready_at());
                    scope.started(now);
                    prop_assert!(scope.ready_at() <= now + SECOND * 2);
                }
            }
        }
    }
}
