//! A chain of places: where one cannot answer, another does.

use super::{
    health::{Health, PlaceHealth},
    place::{Candidate, Chooser, Place, Places},
};
use crate::{Attempt, Executed, ItemState, Next, Scope, Strategy};
use async_trait::async_trait;
use batchwright_core::{Error, ErrorKind, Request, Response, Result};
use std::time::Duration;

/// What an unmeasured latency counts as, in seconds: slower than a place known to be fast, faster than one known to
/// be slow, so that both an order by speed and trying the unknown make sense.
const UNKNOWN_LATENCY: f64 = 1.0;

/// Which place of a [`Fallback`] goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum FallbackPolicy {
    /// In the order they were given. The default: whoever writes a list means its order.
    #[default]
    InOrder,
    /// The best declared quality.
    QualityFirst,
    /// The lowest measured latency, reckoned with the attempts that fail. A place not measured counts as one second.
    SpeedFirst,
    /// The lowest price. An unknown price goes last.
    CostFirst,
    /// The highest sum of weighted scores, each 0 to 1.
    Balanced(BalanceWeights),
}

/// How much each fact counts in [`FallbackPolicy::Balanced`].
///
/// Quality scores what is declared. Cost and latency score by how far a place lies below the dearest and the slowest
/// of those that may be chosen, `1 - x / highest`: a free place scores 1 and no more. An unknown price counts as the
/// dearest, a latency not measured as one second.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct BalanceWeights {
    /// Of the declared quality. Default 0.4.
    pub quality: f64,
    /// Of a low price. Default 0.3.
    pub cost: f64,
    /// Of a low latency. Default 0.3.
    pub speed: f64,
}

impl BalanceWeights {
    /// These weights; only their ratio matters.
    pub fn new(quality: f64, cost: f64, speed: f64) -> Self {
        Self {
            quality,
            cost,
            speed,
        }
    }
}

impl Default for BalanceWeights {
    fn default() -> Self {
        Self::new(0.4, 0.3, 0.3)
    }
}

impl FallbackPolicy {
    /// How long an item waits for a limited place rather than go to the next: 30 s for quality, nothing for speed,
    /// 60 s for cost, else 10 s.
    fn patience(&self) -> Duration {
        Duration::from_secs(match self {
            Self::QualityFirst => 30,
            Self::SpeedFirst => 0,
            Self::CostFirst => 60,
            Self::InOrder | Self::Balanced(_) => 10,
        })
    }

    /// The first of the candidates, by its place among them. Equal ones stay in their order.
    fn first(&self, candidates: &[Candidate]) -> usize {
        let dearest = candidates.iter().filter_map(|place| place.price);
        let dearest = dearest.fold(0.0, f64::max);
        let slowest = candidates.iter().map(latency).fold(0.0, f64::max);
        let badness = |place: &Candidate| match self {
            Self::InOrder => 0.0,
            Self::QualityFirst => -place.quality,
            Self::SpeedFirst => latency(place),
            Self::CostFirst => place.price.unwrap_or(f64::INFINITY),
            Self::Balanced(weights) => {
                let cost = place.price.map_or(0.0, |price| below(price, dearest));
                let speed = below(latency(place), slowest);
                -(weights.quality * place.quality + weights.cost * cost + weights.speed * speed)
            }
        };
        let mut first = (0, f64::INFINITY);
        for (at, place) in candidates.iter().enumerate() {
            let badness = badness(place);
            if badness < first.1 {
                first = (at, badness);
            }
        }
        first.0
    }
}

/// Seconds an answer takes, failed attempts reckoned in.
fn latency(place: &Candidate) -> f64 {
    let share = place.view.share.unwrap_or(1.0).max(0.05);
    place.view.latency.unwrap_or(UNKNOWN_LATENCY) / share
}

/// How far below the highest, 0 to 1.
fn below(value: f64, highest: f64) -> f64 {
    if highest > 0.0 {
        1.0 - value / highest
    } else {
        1.0
    }
}

/// Answers an item at the first place that can: another provider, another model, or both.
///
/// An item goes to another place, at once, where the one it is at
///
/// - is down or overloaded, fails, or gives no answer in time. After what may have been billed it does so only within
///   the pool's bound for attempts that may be paid twice;
/// - serves nobody: no money, a bad key, an unknown model. That place is closed for the run, and all others go on. Only
///   where every place is closed does the run stop, with the error of the first;
/// - is limited for longer than the policy has patience ([`with_patience`](Self::with_patience));
/// - finds the prompt too long, and another declares a larger context ([`Place::with_context_tokens`]);
/// - cannot do what was asked (`Unsupported`);
/// - refuses for its content, or finds the request wrong: only where told so
///   ([`with_refusals`](Self::with_refusals), [`with_row_errors`](Self::with_row_errors)).
///
/// It goes to each place at most once for each kind of failure; then it is tried again as the pool's policy says. A
/// limit that was waited out begins the round anew. The outcome's provenance names the place that answered.
///
/// What comes of attempts is kept in a [`Health`], so that items go where answers come from: a place that failed three
/// times in a row rests, and one item finds out whether it is back.
///
/// A strategy around this one must pass [`on_error`](Strategy::on_error) on to it.
///
/// ```
/// # use async_trait::async_trait;
/// # use batchwright_core::{CallOptions, Capability, ChatProvider, Error, ErrorKind, Message, Request, Response, Result};
/// use batchwright_realtime::{Fallback, FallbackPolicy, NoLog, ParallelPool, Place, PoolOptions, WorkItem};
/// use futures::{StreamExt, stream};
/// use std::sync::Arc;
/// # use tokio_util::sync::CancellationToken;
/// # struct Vendor(&'static str, bool, Capability);
/// # #[async_trait]
/// # impl ChatProvider for Vendor {
/// #     fn name(&self) -> &str { self.0 }
/// #     fn capability(&self) -> &Capability { &self.2 }
/// #     async fn complete(&self, _: &Request, _: &CallOptions) -> Result<Response> {
/// #         if self.1 { Ok(Response::from_text("blue")) } else { Err(Error::new(ErrorKind::Connect, "connect")) }
/// #     }
/// # }
/// # fn vendor(name: &'static str, works: bool) -> Arc<dyn ChatProvider> {
/// #     Arc::new(Vendor(name, works, Capability::default()))
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let (best, cheap) = (vendor("best", false), vendor("cheap", true));
/// let fallback = Fallback::new([
///     Place::new(best).with_model("large").with_quality(0.9),
///     Place::new(cheap).with_model("small").with_quality(0.6),
/// ])
/// .with_policy(FallbackPolicy::QualityFirst);
///
/// let pool = ParallelPool::with_strategy(Arc::new(fallback), PoolOptions::default());
/// let request = Request::chat("1", "large", [Message::user("Name a colour.")]);
/// let rows = stream::iter([Ok(WorkItem::new(0, request))]);
/// let mut run = pool.run(rows, Arc::new(NoLog), CancellationToken::new());
/// let row = run.next().await.expect("every row ends");
/// assert_eq!(row.outcome.provenance.provider.as_deref(), Some("cheap"));
/// # }
/// ```
#[derive(Debug)]
pub struct Fallback<T = Response> {
    places: Places<T>,
    rules: Rules,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rules {
    policy: FallbackPolicy,
    patience: Option<Duration>,
    refusals: bool,
    row_errors: bool,
}

impl Chooser for Rules {
    fn choose(&self, candidates: &[Candidate]) -> usize {
        self.policy.first(candidates)
    }

    fn patience(&self) -> Duration {
        self.patience.unwrap_or_else(|| self.policy.patience())
    }

    fn chooses_anew(&self) -> bool {
        false
    }

    fn leaves_after(&self, kind: ErrorKind) -> bool {
        match kind {
            ErrorKind::ContentFiltered => self.refusals,
            _ => self.row_errors,
        }
    }
}

impl<T: Send + 'static> Fallback<T> {
    /// A chain of these places, in their order unless a policy says otherwise. A run with none stops before anything
    /// is sent.
    pub fn new(places: impl IntoIterator<Item = Place<T>>) -> Self {
        Self {
            places: Places::new(places),
            rules: Rules::default(),
        }
    }

    /// Sets which place goes first. Default [`FallbackPolicy::InOrder`].
    #[must_use]
    pub fn with_policy(mut self, policy: FallbackPolicy) -> Self {
        self.rules.policy = policy;
        self
    }

    /// Sets how long an item waits for a place that is limited rather than go to the next. Default by policy: 30 s for
    /// quality, nothing for speed, 60 s for cost, 10 s for the others.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.rules.patience = Some(patience);
        self
    }

    /// Whether an item goes on where the model or a policy refuses to answer. Default no: a refusal is an answer, and
    /// asking around for another may break the terms of use. What the refusal cost counts as discarded.
    #[must_use]
    pub fn with_refusals(mut self, refusals: bool) -> Self {
        self.rules.refusals = refusals;
        self
    }

    /// Whether an item goes on where a place finds the request wrong. Default no: it is wrong elsewhere too mostly,
    /// and the caller should know.
    #[must_use]
    pub fn with_row_errors(mut self, row_errors: bool) -> Self {
        self.rules.row_errors = row_errors;
        self
    }

    /// Shares what is known of places with others that choose among them. Default a knowledge of its own.
    #[must_use]
    pub fn with_health(mut self, health: &Health) -> Self {
        self.places.share(health);
        self
    }

    /// What is known of each place, in their order.
    pub fn snapshot(&self) -> Vec<PlaceHealth> {
        self.places.snapshot()
    }
}

#[async_trait]
impl<T: Send + 'static> Strategy for Fallback<T> {
    type Output = T;

    fn scope<'a>(&'a self, request: &'a Request, state: &'a mut ItemState) -> Scope<'a> {
        self.places.scope(&self.rules, request, state)
    }

    async fn prepare(&self) -> Result<()> {
        self.places.prepare().await
    }

    async fn execute(&self, request: &Request, attempt: &mut Attempt<'_>) -> Result<Executed<T>> {
        self.places.execute(&self.rules, request, attempt).await
    }

    async fn on_error(&self, request: &Request, error: &Error, attempt: &mut Attempt<'_>) -> Next {
        self.places
            .on_error(&self.rules, request, error, attempt)
            .await
    }

    fn dry_run(&self, request: &Request) -> Result<Executed<T>> {
        self.places.dry_run(request)
    }

    async fn cleanup(&self) {
        self.places.cleanup().await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::health::{Standing, View};
    use super::*;

    fn place(index: usize, quality: f64, price: Option<f64>, latency: Option<f64>) -> Candidate {
        Candidate {
            index,
            view: View {
                standing: Standing::Open,
                is_down: false,
                in_flight: 0,
                latency,
                share: None,
            },
            quality,
            price,
            weight: 1.0,
        }
    }

    #[test]
    fn cx_6_to_cx_9_each_policy_by_its_fact() {
        let balanced = FallbackPolicy::Balanced(BalanceWeights::default());
        let all = [
            place(0, 0.5, None, Some(2.0)),
            place(1, 0.9, Some(8.0), Some(3.0)),
            place(2, 0.6, Some(1.0), Some(0.4)),
            place(3, 0.6, Some(0.5), None),
        ];
        for (policy, first) in [
            (FallbackPolicy::InOrder, 0),
            (FallbackPolicy::QualityFirst, 1),
            (FallbackPolicy::SpeedFirst, 2),
            (FallbackPolicy::CostFirst, 3),
            (balanced, 2),
        ] {
            assert_eq!(policy.first(&all), first, "{policy:?}");
        }
    }

    #[test]
    fn l_148_a_free_place_does_not_win_by_an_infinite_score() {
        let balanced = FallbackPolicy::Balanced(BalanceWeights::default());
        let free_and_slow = place(0, 0.5, Some(0.0), Some(20.0));
        let cheap_and_fast = place(1, 0.6, Some(0.1), Some(0.5));
        let dear = place(2, 0.6, Some(5.0), Some(0.5));
        let first = balanced.first(&[free_and_slow, cheap_and_fast, dear]);
        assert_eq!(first, 1);
        assert_eq!(
            balanced.first(&[place(0, 0.5, Some(0.0), Some(0.0))]),
            0,
            "nothing is divided by nothing"
        );
    }

    #[test]
    fn what_fails_often_is_not_fast() {
        let mut flaky = place(0, 0.5, None, Some(0.4));
        flaky.view.share = Some(0.3);
        let sure = place(1, 0.5, None, Some(0.8));
        assert_eq!(FallbackPolicy::SpeedFirst.first(&[flaky, sure]), 1);
    }
}
