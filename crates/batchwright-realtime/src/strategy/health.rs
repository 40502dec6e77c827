//! What is known of the places attempts go to: how fast and how sure they are, and whether they rest.

use batchwright_core::{Error, ErrorKind};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// The longest rest a provider may ask for, as [`RetryPolicy::ceiling`](batchwright_core::RetryPolicy) by default.
const MAX_ASKED: Duration = Duration::from_secs(3600);

/// The most times a rest doubles; past it every rest is the longest.
const MAX_DOUBLINGS: u32 = 20;

/// How places are judged by what comes of their attempts.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct HealthOptions {
    /// Failures in a row that count as being down: no connection, no capacity, a fault, no answer in time. At least 1.
    /// Default 3: a single reset is everyday.
    pub failures: u32,
    /// How long a place rests first, where the provider does not say; each further rest without an answer between is
    /// twice as long. Default 1 s. After a rest for being down one attempt is made, and the others follow its success.
    pub rest: Duration,
    /// The longest rest of our own making. Default 2 min, so that a provider that is back is soon found.
    pub max_rest: Duration,
    /// The share of the newest observation in the moving averages, above 0 to 1. Default 0.2: what is ten answers old
    /// counts a tenth.
    pub newest: f64,
    /// For how long an observation counts when no other follows it. Default 10 min: then a place nobody chose because
    /// it was slow is as good as an unknown one.
    pub memory: Duration,
}

impl Default for HealthOptions {
    fn default() -> Self {
        Self {
            failures: 3,
            rest: Duration::from_secs(1),
            max_rest: Duration::from_secs(120),
            newest: 0.2,
            memory: Duration::from_secs(600),
        }
    }
}

impl HealthOptions {
    /// Sets after how many failures in a row a place counts as down; 0 counts as 1.
    #[must_use]
    pub fn with_failures(mut self, failures: u32) -> Self {
        self.failures = failures;
        self
    }

    /// Sets the first and the longest rest.
    #[must_use]
    pub fn with_rest(mut self, first: Duration, longest: Duration) -> Self {
        self.rest = first;
        self.max_rest = longest;
        self
    }

    /// Sets for how long an observation counts when no other follows it.
    #[must_use]
    pub fn with_memory(mut self, memory: Duration) -> Self {
        self.memory = memory;
        self
    }

    fn rest_number(&self, number: u32) -> Duration {
        let factor = 1u32 << number.min(MAX_DOUBLINGS);
        self.rest.saturating_mul(factor).min(self.max_rest)
    }
}

/// Whether attempts may go to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// They may.
    Open,
    /// Not for so long. Zero is a rest that is over, after which one attempt finds out whether the place is back.
    Resting(Duration),
    /// One attempt is finding out whether it is back.
    Probing,
    /// It serves nobody in this run: no money, a bad key, an unknown model.
    Closed,
}

/// What is known of one place, as of now.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PlaceHealth {
    /// The provider's name.
    pub provider: Arc<str>,
    /// The model; empty for a place that takes each request's own.
    pub model: Arc<str>,
    /// The deployment or the key's label; empty where there is one.
    pub deployment: Arc<str>,
    /// Whether attempts may go there.
    pub standing: Standing,
    /// Items that are there or were told to go there, waiting ones included.
    pub in_flight: u32,
    /// Attempts that were answered.
    pub answered: u64,
    /// Attempts that failed, other than by a fault of the request.
    pub failed: u64,
    /// The moving average of how long answers took; `None` is unknown, or too long ago.
    pub latency: Option<Duration>,
    /// The moving average of answers among attempts, 0 to 1, refusals for the rate not counted; `None` as above.
    pub success_share: Option<f64>,
    /// What it last failed with.
    pub last_error: Option<ErrorKind>,
}

/// What is known of places, shared by all that choose among them. Cheap to clone; clones share the knowledge.
#[derive(Clone)]
pub struct Health(Arc<Board>);

struct Board {
    options: HealthOptions,
    epoch: Instant,
    trackers: Mutex<Vec<Arc<Tracker>>>,
}

impl Health {
    /// Knows nothing yet.
    pub fn new(options: HealthOptions) -> Self {
        Self(Arc::new(Board {
            options,
            epoch: Instant::now(),
            trackers: Mutex::default(),
        }))
    }

    /// What is known of every place, in the order they were first named.
    pub fn snapshot(&self) -> Vec<PlaceHealth> {
        let trackers = lock(&self.0.trackers).clone();
        trackers.iter().map(|tracker| tracker.snapshot()).collect()
    }

    /// The one tracker of this place.
    pub(super) fn tracker(
        &self,
        provider: &Arc<str>,
        model: &Arc<str>,
        deployment: &Arc<str>,
    ) -> Arc<Tracker> {
        let mut trackers = lock(&self.0.trackers);
        let known = trackers.iter().find(|known| {
            known.provider == *provider && known.model == *model && known.deployment == *deployment
        });
        if let Some(known) = known {
            return Arc::clone(known);
        }
        let tracker = Arc::new(Tracker {
            provider: Arc::clone(provider),
            model: Arc::clone(model),
            deployment: Arc::clone(deployment),
            options: self.0.options,
            epoch: self.0.epoch,
            facts: Mutex::default(),
        });
        trackers.push(Arc::clone(&tracker));
        tracker
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new(HealthOptions::default())
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.snapshot()).finish()
    }
}

/// The clock and the lock around one place's facts.
pub(super) struct Tracker {
    provider: Arc<str>,
    model: Arc<str>,
    deployment: Arc<str>,
    options: HealthOptions,
    epoch: Instant,
    facts: Mutex<Facts>,
}

impl Tracker {
    pub(super) fn now(&self) -> Duration {
        Instant::now().saturating_duration_since(self.epoch)
    }

    pub(super) fn view(&self, now: Duration) -> View {
        lock(&self.facts).view(now, &self.options)
    }

    pub(super) fn reserve(self: &Arc<Self>, now: Duration) -> Reservation {
        Reservation {
            probe: lock(&self.facts).reserve(now),
            tracker: Arc::clone(self),
        }
    }

    pub(super) fn answered(&self, began: Duration) {
        let now = self.now();
        lock(&self.facts).answered(now, began, &self.options);
    }

    pub(super) fn failed(&self, began: Duration, probe: bool, error: &Error) {
        let now = self.now();
        lock(&self.facts).failed(now, began, probe, error, &self.options);
    }

    pub(super) fn close(&self, error: &Error) {
        let now = self.now();
        lock(&self.facts).close(now, error);
    }

    pub(super) fn reopen(&self) {
        lock(&self.facts).closed = None;
    }

    /// Since when the place serves nobody, and why.
    pub(super) fn closed(&self) -> Option<(Duration, Error)> {
        lock(&self.facts).closed.clone()
    }

    pub(super) fn snapshot(&self) -> PlaceHealth {
        let now = self.now();
        let facts = lock(&self.facts);
        let view = facts.view(now, &self.options);
        PlaceHealth {
            provider: Arc::clone(&self.provider),
            model: Arc::clone(&self.model),
            deployment: Arc::clone(&self.deployment),
            standing: view.standing,
            in_flight: view.in_flight,
            answered: facts.answered,
            failed: facts.failed,
            latency: view.latency.map(Duration::from_secs_f64),
            success_share: view.share,
            last_error: facts.last_error,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An item's claim on a place; gives it back when dropped.
pub(super) struct Reservation {
    tracker: Arc<Tracker>,
    /// Whether it finds out if the place is back.
    pub(super) probe: bool,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        lock(&self.tracker.facts).release(self.probe);
    }
}

/// What choosing needs of a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct View {
    pub(super) standing: Standing,
    /// Whether it rests for being down, and not for its rate.
    pub(super) is_down: bool,
    pub(super) in_flight: u32,
    /// Seconds.
    pub(super) latency: Option<f64>,
    pub(super) share: Option<f64>,
}

impl View {
    /// Whether an item may be told to go there, which waits for so long where the place rests for its rate.
    pub(super) fn is_ready(&self, patience: Duration) -> bool {
        match self.standing {
            Standing::Open => true,
            Standing::Resting(left) if self.is_down => left.is_zero(),
            Standing::Resting(left) => left <= patience,
            Standing::Probing | Standing::Closed => false,
        }
    }

    /// How long until it may be asked. One that is being asked is as good as nearly back.
    pub(super) fn wait(&self) -> Duration {
        match self.standing {
            Standing::Open => Duration::ZERO,
            Standing::Resting(left) => left,
            Standing::Probing => Duration::from_secs(1),
            Standing::Closed => Duration::MAX,
        }
    }
}

/// The facts of one place: a state machine over what happens to its attempts.
///
/// `now` and `began` are times since the same moment; `now` never goes back.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    latency: Option<f64>,
    share: Option<f64>,
    observed_at: Duration,
    in_flight: u32,
    answered: u64,
    failed: u64,
    last_error: Option<ErrorKind>,
    /// Failures that count as being down, since the last answer.
    in_a_row: u32,
    /// Rests since the last answer.
    rests: u32,
    rest: Option<Rest>,
    closed: Option<(Duration, Error)>,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    since: Duration,
    until: Duration,
    /// Whether one attempt must show that the place is back.
    needs_probe: bool,
    is_probing: bool,
}

/// What an error says of the place it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// It works: the request was at fault.
    Up,
    Limited,
    Down,
    /// Nothing: the fault is ours, or the caller gave up.
    Nothing,
}

fn sign(error: &Error) -> Sign {
    match error.kind() {
        ErrorKind::RateLimited => Sign::Limited,
        ErrorKind::Connect
        | ErrorKind::Overloaded
        | ErrorKind::ProviderFault
        | ErrorKind::Timeout => Sign::Down,
        ErrorKind::Cancelled
        | ErrorKind::Storage
        | ErrorKind::ConfigInvalid
        | ErrorKind::NeedsDecision
        | ErrorKind::Unexpected => Sign::Nothing,
        _ => Sign::Up,
    }
}

impl Facts {
    fn view(&self, now: Duration, options: &HealthOptions) -> View {
        let fresh = now.saturating_sub(self.observed_at) <= options.memory;
        View {
            standing: self.standing(now),
            is_down: self.rest.is_some_and(|rest| rest.needs_probe),
            in_flight: self.in_flight,
            latency: self.latency.filter(|_| fresh),
            share: self.share.filter(|_| fresh),
        }
    }

    fn standing(&self, now: Duration) -> Standing {
        if self.closed.is_some() {
            return Standing::Closed;
        }
        match self.rest {
            Some(rest) if rest.until > now => Standing::Resting(rest.until - now),
            Some(rest) if rest.needs_probe && rest.is_probing => Standing::Probing,
            Some(rest) if rest.needs_probe => Standing::Resting(Duration::ZERO),
            _ => Standing::Open,
        }
    }

    /// An item is told to go there. Returns whether it finds out if the place is back.
    fn reserve(&mut self, now: Duration) -> bool {
        let probe = self.standing(now) == Standing::Resting(Duration::ZERO);
        if let Some(rest) = self.rest.as_mut().filter(|_| probe) {
            rest.is_probing = true;
        }
        self.in_flight += 1;
        probe
    }

    /// It left, whatever came of it.
    fn release(&mut self, probe: bool) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(rest) = self.rest.as_mut().filter(|_| probe) {
            rest.is_probing = false;
        }
    }

    fn answered(&mut self, now: Duration, began: Duration, options: &HealthOptions) {
        self.answered += 1;
        let took = now.saturating_sub(began).as_secs_f64();
        self.latency = Some(mix(self.latency, took, options.newest));
        self.observe(now, 1.0, options);
        self.is_up(began);
    }

    fn failed(
        &mut self,
        now: Duration,
        began: Duration,
        probe: bool,
        error: &Error,
        options: &HealthOptions,
    ) {
        let sign = sign(error);
        if matches!(sign, Sign::Limited | Sign::Down) || error.is_job_stop() {
            self.failed += 1;
            self.last_error = Some(error.kind());
        }
        match sign {
            Sign::Nothing => {}
            Sign::Up => self.is_up(began),
            Sign::Limited => self.limited(now, began, error.retry_after(), options),
            Sign::Down => {
                self.in_a_row = self.in_a_row.saturating_add(1);
                if error.is_timeout() {
                    // It takes at least that long.
                    let took = now.saturating_sub(began).as_secs_f64();
                    if self.latency.is_none_or(|latency| latency < took) {
                        self.latency = Some(mix(self.latency, took, options.newest));
                    }
                }
                self.observe(now, 0.0, options);
                if let Some(wait) = error.retry_after() {
                    self.limited(now, began, Some(wait), options);
                }
                let is_down = probe || self.in_a_row >= options.failures.max(1);
                if is_down && (probe || !self.is_resting(now)) && !self.knows(began, probe) {
                    let wait = self.next_rest(options);
                    self.begin_rest(now, wait, true);
                }
            }
        }
    }

    fn limited(
        &mut self,
        now: Duration,
        began: Duration,
        asked: Option<Duration>,
        options: &HealthOptions,
    ) {
        let asked = asked.map(|asked| asked.min(MAX_ASKED));
        match (asked, &mut self.rest) {
            // More than one attempt is refused at the same moment.
            (Some(asked), Some(rest)) if rest.until > now => {
                rest.until = rest.until.max(now.saturating_add(asked));
            }
            (Some(asked), _) => self.begin_rest(now, asked, false),
            (None, _) => {
                if !self.is_resting(now) && !self.knows(began, false) {
                    let wait = self.next_rest(options);
                    self.begin_rest(now, wait, false);
                }
            }
        }
    }

    fn close(&mut self, now: Duration, error: &Error) {
        self.closed.get_or_insert_with(|| (now, error.clone()));
    }

    fn is_resting(&self, now: Duration) -> bool {
        self.rest.is_some_and(|rest| rest.until > now)
    }

    /// Whether an attempt begun then says nothing the last rest did not say.
    fn knows(&self, began: Duration, probe: bool) -> bool {
        !probe && self.rest.is_some_and(|rest| began < rest.since)
    }

    fn next_rest(&mut self, options: &HealthOptions) -> Duration {
        let wait = options.rest_number(self.rests);
        self.rests = self.rests.saturating_add(1);
        wait
    }

    fn begin_rest(&mut self, now: Duration, wait: Duration, needs_probe: bool) {
        self.rest = Some(Rest {
            since: now,
            until: now.saturating_add(wait),
            needs_probe,
            is_probing: false,
        });
    }

    /// An attempt begun then found it working.
    fn is_up(&mut self, began: Duration) {
        self.in_a_row = 0;
        if self.rest.is_none_or(|rest| began >= rest.since) {
            self.rest = None;
            self.rests = 0;
        }
    }

    fn observe(&mut self, now: Duration, success: f64, options: &HealthOptions) {
        self.share = Some(mix(self.share, success, options.newest));
        self.observed_at = now;
    }
}

/// The moving average with one more value.
fn mix(average: Option<f64>, value: f64, newest: f64) -> f64 {
    let newest = newest.clamp(0.0, 1.0);
    average.map_or(value, |average| average + newest * (value - average))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn options() -> HealthOptions {
        HealthOptions::default()
    }

    fn fails(facts: &mut Facts, now: u64, kind: ErrorKind) {
        let probe = facts.reserve(at(now));
        facts.failed(at(now), at(now), probe, &Error::new(kind, "x"), &options());
        facts.release(probe);
    }

    #[test]
    fn f_020_a_place_that_is_down_rests_and_one_attempt_finds_out_whether_it_is_back() {
        let mut facts = Facts::default();
        for now in 0..3 {
            assert_eq!(facts.standing(at(now)), Standing::Open);
            fails(&mut facts, now, ErrorKind::Connect);
        }
        assert_eq!(facts.standing(at(2)), Standing::Resting(SECOND));
        assert_eq!(facts.standing(at(3)), Standing::Resting(Duration::ZERO));
        // One finds out; others are kept away meanwhile.
        assert!(facts.reserve(at(3)));
        assert_eq!(facts.standing(at(3)), Standing::Probing);
        assert!(!facts.reserve(at(3)));
        let down = Error::new(ErrorKind::Connect, "x");
        facts.failed(at(3), at(3), true, &down, &options());
        facts.release(true);
        assert_eq!(
            facts.standing(at(3)),
            Standing::Resting(SECOND * 2),
            "twice"
        );
        // The next one gives up before it asks: the place may be asked again.
        assert!(facts.reserve(at(5)));
        facts.release(true);
        assert!(facts.reserve(at(5)));
        facts.answered(at(6), at(5), &options());
        facts.release(true);
        assert_eq!(facts.standing(at(6)), Standing::Open);
        assert_eq!((facts.in_flight, facts.rests, facts.in_a_row), (1, 0, 0));
    }

    #[test]
    fn f_001_a_limited_place_rests_as_long_as_it_says_and_needs_no_probe() {
        let mut facts = Facts::default();
        let limited = |wait| Error::new(ErrorKind::RateLimited, "x").with_retry_after(at(wait));
        facts.failed(at(0), at(0), false, &limited(20), &options());
        facts.failed(at(1), at(0), false, &limited(5), &options());
        assert_eq!(facts.standing(at(1)), Standing::Resting(at(19)));
        assert_eq!(facts.standing(at(20)), Standing::Open);
        assert_eq!(facts.share, None, "a limit says nothing of how sure it is");
        // Without a hint: once for all that were refused at the same moment.
        let bare = Error::new(ErrorKind::RateLimited, "x");
        facts.failed(at(30), at(29), false, &bare, &options());
        facts.failed(at(32), at(29), false, &bare, &options());
        assert_eq!(facts.standing(at(32)), Standing::Open, "a late one");
        facts.failed(at(33), at(32), false, &bare, &options());
        assert_eq!(facts.standing(at(33)), Standing::Resting(SECOND * 2));
    }

    #[test]
    fn f_027_a_fault_of_the_request_says_that_the_place_works() {
        let mut facts = Facts::default();
        fails(&mut facts, 0, ErrorKind::Timeout);
        fails(&mut facts, 1, ErrorKind::ProviderFault);
        fails(&mut facts, 2, ErrorKind::InvalidRequest);
        fails(&mut facts, 3, ErrorKind::Overloaded);
        assert_eq!(facts.standing(at(3)), Standing::Open);
        assert_eq!(facts.failed, 3);
    }

    #[test]
    fn averages_follow_what_is_seen_and_fade() {
        let mut facts = Facts::default();
        facts.answered(at(1), at(0), &options());
        assert_eq!(facts.view(at(1), &options()).latency, Some(1.0));
        for now in 2..40 {
            facts.answered(at(now + 4), at(now), &options());
        }
        let latency = facts.view(at(44), &options()).latency.unwrap();
        assert!((3.9..4.0).contains(&latency), "{latency}");
        assert_eq!(facts.view(at(43 + 601), &options()).latency, None);
        let timeout = Error::new(ErrorKind::Timeout, "x");
        facts.failed(at(700), at(100), false, &timeout, &options());
        assert!(
            facts.latency.unwrap() > 100.0,
            "it takes at least that long"
        );
    }

    #[test]
    fn a_closed_place_names_the_first_reason() {
        let mut facts = Facts::default();
        facts.close(at(1), &Error::new(ErrorKind::QuotaExceeded, "first"));
        facts.close(at(2), &Error::new(ErrorKind::Unauthenticated, "second"));
        assert_eq!(facts.standing(at(9)), Standing::Closed);
        assert_eq!(facts.closed.unwrap().1.message(), "first");
    }

    proptest! {
        /// Whatever happens, who came leaves, no rest is for ever, and no probe is lost.
        #[test]
        fn every_rest_ends_and_every_probe_comes_back(
            steps in proptest::collection::vec((0u8..6, 0u64..5, 0u64..90), 0..200)
        ) {
            let options = options();
            let mut facts = Facts::default();
            let mut open: Vec<(Duration, bool)> = Vec::new();
            let mut now = Duration::ZERO;
            for (what, pass, hint) in steps {
                now += at(pass);
                if what < 2 {
                    open.push((now, facts.reserve(now)));
                    continue;
                }
                let Some((began, probe)) = open.pop() else { continue };
                match what {
                    2 => facts.answered(now, began, &options),
                    3 => facts.failed(now, began, probe, &Error::new(ErrorKind::Connect, "x"), &options),
                    4 => facts.failed(
                        now, began, probe,
                        &Error::new(ErrorKind::RateLimited, "x").with_retry_after(at(hint)), &options,
                    ),
                    _ => {}
                }
                facts.release(probe);
                prop_assert_eq!(facts.in_flight as usize, open.len());
                if let Standing::Resting(left) = facts.standing(now) {
                    prop_assert!(left <= options.max_rest.max(at(90)));
                }
            }
            for (_, probe) in open {
                facts.release(probe);
            }
            now += at(1000);
            prop_assert!(matches!(facts.standing(now), Standing::Open | Standing::Resting(Duration::ZERO)));
        }
    }
}
