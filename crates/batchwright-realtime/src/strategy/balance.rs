//! Several deployments of one model that share the load.

use super::{
    health::{Health, PlaceHealth, Standing},
    place::{Candidate, Chooser, Place, Places},
};
use crate::{Attempt, Executed, ItemState, Next, Scope, Strategy};
use async_trait::async_trait;
use batchwright_core::{Error, ErrorKind, Request, Response, Result};
use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How a [`LoadBalancer`] spreads items over its deployments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadPolicy {
    /// To the one with the fewest items, by its weight. The default: a slow one holds its items for longer and so gets
    /// fewer. Equal ones take turns.
    #[default]
    LeastLoaded,
    /// To the better of two drawn at random, by measured latency times items, by its weight. Better where many
    /// processes share the deployments, since they do not all run to the same one at once.
    LatencyAware,
    /// By turns, each as often as its weight says, whatever its load.
    Weighted,
}

/// Spreads items over several deployments of one model: regions, endpoints, accounts.
///
/// Each deployment ([`Place::with_deployment`]) is a scope of its own to the pool: its limits, its rest after a refusal
/// and its circuit breaker are its own. One that fails three times in a row rests alone, the others take its share, and
/// one item finds out whether it is back. An item that was refused or failed at one is tried at another at once, at
/// each at most once for each kind of failure, and within the pool's bound where an attempt may have been billed. One
/// that serves nobody (no money, a bad key) is closed for the run; only where all are does the run stop, with the error
/// of the first.
///
/// An item counts as load of its deployment from when it is told to go there until its outcome is recorded.
///
/// A strategy around this one must pass [`on_error`](Strategy::on_error) on to it.
///
/// ```
/// # use batchwright_core::ChatProvider;
/// use batchwright_realtime::{LoadBalancer, LoadPolicy, Place};
/// # use std::sync::Arc;
///
/// # fn balancer(east: Arc<dyn ChatProvider>, west: Arc<dyn ChatProvider>) {
/// let balancer = LoadBalancer::new([
///     Place::new(east).with_deployment("east").with_weight(3.0),
///     Place::new(west).with_deployment("west"),
/// ])
/// .with_policy(LoadPolicy::LatencyAware);
/// for place in balancer.snapshot() {
///     println!("{}: {} in flight, {:?}", place.deployment, place.in_flight, place.standing);
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct LoadBalancer<T = Response> {
    places: Places<T>,
    load: Load,
}

impl<T: Send + 'static> LoadBalancer<T> {
    /// Spreads items over these places. Give each a deployment name of its own: those of one name share one set of
    /// facts and limits. A run with none stops before anything is sent.
    pub fn new(places: impl IntoIterator<Item = Place<T>>) -> Self {
        Self {
            places: Places::new(places),
            load: Load::new(LoadPolicy::default()),
        }
    }

    /// Sets how items are spread. Default [`LoadPolicy::LeastLoaded`].
    #[must_use]
    pub fn with_policy(mut self, policy: LoadPolicy) -> Self {
        self.load.policy = policy;
        self
    }

    /// Draws from this seed on, so that a run replays. Default a random one.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        self.load.lock().random = seed;
        self
    }

    /// Shares what is known of places with others that choose among them. Default a knowledge of its own.
    #[must_use]
    pub fn with_health(mut self, health: &Health) -> Self {
        self.places.share(health);
        self
    }

    /// What is known of each deployment, in their order.
    pub fn snapshot(&self) -> Vec<PlaceHealth> {
        self.places.snapshot()
    }
}

#[async_trait]
impl<T: Send + 'static> Strategy for LoadBalancer<T> {
    type Output = T;

    fn scope<'a>(&'a self, request: &'a Request, state: &'a mut ItemState) -> Scope<'a> {
        self.places.scope(&self.load, request, state)
    }

    async fn prepare(&self) -> Result<()> {
        self.places.prepare().await
    }

    async fn execute(&self, request: &Request, attempt: &mut Attempt<'_>) -> Result<Executed<T>> {
        self.places.execute(&self.load, request, attempt).await
    }

    async fn on_error(&self, request: &Request, error: &Error, attempt: &mut Attempt<'_>) -> Next {
        self.places
            .on_error(&self.load, request, error, attempt)
            .await
    }

    fn dry_run(&self, request: &Request) -> Result<Executed<T>> {
        self.places.dry_run(request)
    }

    async fn cleanup(&self) {
        self.places.cleanup().await;
    }
}

/// Chooses by load.
pub(super) struct Load {
    pub(super) policy: LoadPolicy,
    state: Mutex<Turns>,
}

struct Turns {
    random: u64,
    /// The place that was chosen last.
    last: usize,
    /// What each place is owed, by its number.
    owed: Vec<f64>,
}

impl Load {
    pub(super) fn new(policy: LoadPolicy) -> Self {
        Self {
            policy,
            state: Mutex::new(Turns {
                random: RandomState::new().hash_one(0),
                last: usize::MAX,
                owed: Vec::new(),
            }),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Turns> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chooser for Load {
    fn choose(&self, candidates: &[Candidate]) -> usize {
        // One whose rest is over is asked first, or nobody would find out that it is back.
        let due = candidates
            .iter()
            .position(|place| matches!(place.view.standing, Standing::Resting(_)));
        if let Some(due) = due {
            return due;
        }
        let mut turns = self.lock();
        let chosen = match self.policy {
            LoadPolicy::LeastLoaded => turns.least(candidates, load),
            LoadPolicy::LatencyAware => turns.better_of_two(candidates),
            LoadPolicy::Weighted => turns.owed_most(candidates),
        };
        turns.last = candidates[chosen].index;
        chosen
    }

    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    fn chooses_anew(&self) -> bool {
        true
    }

    fn leaves_after(&self, _kind: ErrorKind) -> bool {
        // The same model says the same.
        false
    }
}

/// How full a place would be with one item more.
fn load(place: &Candidate) -> f64 {
    f64::from(place.view.in_flight.saturating_add(1)) / place.weight
}

impl Turns {
    /// The one with the least; among equal ones the next after the last that was chosen.
    fn least(&self, candidates: &[Candidate], of: impl Fn(&Candidate) -> f64) -> usize {
        let rank = |place: &Candidate| (of(place), place.index <= self.last);
        let mut best = 0;
        for at in 1..candidates.len() {
            if rank(&candidates[at]) < rank(&candidates[best]) {
                best = at;
            }
        }
        best
    }

    fn better_of_two(&mut self, candidates: &[Candidate]) -> usize {
        let one = self.below(candidates.len());
        let other = (one + 1 + self.below((candidates.len() - 1).max(1))) % candidates.len();
        // One not measured yet is taken for the fastest known, so that it is soon measured.
        let known = candidates.iter().filter_map(|place| place.view.latency);
        let fastest = known.fold(f64::INFINITY, f64::min);
        let fastest = if fastest.is_finite() { fastest } else { 1.0 };
        let cost = |at: usize| {
            let place = &candidates[at];
            let share = place.view.share.unwrap_or(1.0).max(0.05);
            load(place) * place.view.latency.unwrap_or(fastest).max(1e-6) / share
        };
        if cost(other) < cost(one) { other } else { one }
    }

    /// Smooth weighted turns: each is owed its weight at every turn, and the one chosen pays for all.
    fn owed_most(&mut self, candidates: &[Candidate]) -> usize {
        let highest = candidates.iter().map(|place| place.index).max();
        let places = highest.map_or(0, |highest| highest + 1);
        if self.owed.len() < places {
            self.owed.resize(places, 0.0);
        }
        let (mut best, mut sum) = (0, 0.0);
        for (at, place) in candidates.iter().enumerate() {
            self.owed[place.index] += place.weight;
            sum += place.weight;
            if self.owed[place.index] > self.owed[candidates[best].index] {
                best = at;
            }
        }
        self.owed[candidates[best].index] -= sum;
        best
    }

    /// Below `limit`, which is above zero; SplitMix64, since nothing secret rests on it.
    fn below(&mut self, limit: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // Below `limit`, so it fits.
        (bits % limit as u64) as usize
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.policy.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::super::health::View;
    use super::*;

    fn place(index: usize, in_flight: u32, latency: Option<f64>, weight: f64) -> Candidate {
        Candidate {
            index,
            view: View {
                standing: Standing::Open,
                is_down: false,
                in_flight,
                latency,
                share: None,
            },
            quality: 0.5,
            price: None,
            weight,
        }
    }

    fn shares(load: &Load, places: &[Candidate], draws: usize) -> Vec<usize> {
        let mut shares = vec![0; places.len()];
        for _ in 0..draws {
            shares[load.choose(places)] += 1;
        }
        shares
    }

    #[test]
    fn cx_12_the_least_loaded_goes_first_and_equal_ones_take_turns() {
        let load = Load::new(LoadPolicy::LeastLoaded);
        let uneven = [place(0, 3, None, 1.0), place(1, 1, None, 1.0)];
        assert_eq!(shares(&load, &uneven, 5), [0, 5]);
        let even: Vec<Candidate> = (0..3).map(|index| place(index, 2, None, 1.0)).collect();
        assert_eq!(shares(&load, &even, 9), [3, 3, 3]);
        let heavy = [place(0, 5, None, 3.0), place(1, 2, None, 1.0)];
        assert_eq!(load.choose(&heavy), 0, "6 of weight 3 are less than 3");
    }

    #[test]
    fn cx_11_turns_go_by_weight_and_are_spread() {
        let load = Load::new(LoadPolicy::Weighted);
        let places = [
            place(0, 9, None, 5.0),
            place(1, 0, None, 1.0),
            place(2, 0, None, 1.0),
        ];
        let turns: Vec<usize> = (0..7).map(|_| load.choose(&places)).collect();
        assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0]);
        // Without the first, the others share alike.
        assert_eq!(shares(&load, &places[1..], 8), [4, 4]);
    }

    #[test]
    fn the_faster_of_two_goes_first_unless_it_is_full() {
        let load = Load::new(LoadPolicy::LatencyAware);
        let fast = [place(0, 0, Some(2.0), 1.0), place(1, 0, Some(0.1), 1.0)];
        assert_eq!(shares(&load, &fast, 50), [0, 50]);
        let full = [place(0, 0, Some(2.0), 1.0), place(1, 30, Some(0.1), 1.0)];
        assert_eq!(shares(&load, &full, 50), [50, 0]);
        let unknown = [place(0, 0, None, 1.0), place(1, 1, Some(0.1), 1.0)];
        assert_eq!(shares(&load, &unknown, 50), [50, 0]);
        let one = [place(4, 0, None, 1.0)];
        assert_eq!(load.choose(&one), 0);
        // Two of three are drawn: the slowest is chosen never, the middle one third of the time.
        let three = [
            place(0, 0, Some(3.0), 1.0),
            place(1, 0, Some(2.0), 1.0),
            place(2, 0, Some(1.0), 1.0),
        ];
        let drawn = shares(&load, &three, 3000);
        assert_eq!(drawn[0], 0);
        assert!((850..1150).contains(&drawn[1]), "{drawn:?}");
    }
}
