//! Places an item can be answered at, and the choice among them that goes with the item.

use super::{
    health::{Health, Reservation, Standing, Tracker, View},
    memory::Memory,
};
use crate::{Attempt, Direct, Executed, ItemState, Next, PlaceHealth, Scope, Strategy};
use batchwright_core::{
    ChatProvider, Ending, Error, ErrorKind, Rates, Request, Response, Result, RetryClass,
};
use std::{borrow::Cow, fmt, future::Future, sync::Arc, time::Duration};

/// The share of the output among the tokens a price is reckoned with: one in four.
const OUTPUT_SHARE: f64 = 0.25;

/// A place an item can be answered at: a provider, a model there, a deployment of it, and what is known of it before
/// the first attempt. `T` is what a success holds.
#[non_exhaustive]
pub struct Place<T = Response> {
    strategy: Arc<dyn Strategy<Output = T>>,
    provider: Arc<str>,
    model: Arc<str>,
    deployment: Arc<str>,
    quality: Option<f64>,
    price: Option<f64>,
    context_tokens: Option<u64>,
    weight: f64,
}

impl Place {
    /// This provider, with the model each request names.
    pub fn new(provider: Arc<dyn ChatProvider>) -> Self {
        let name = provider.name().to_owned();
        Self::of(name, Arc::new(Direct::new(provider)))
    }
}

impl<T> Place<T> {
    /// Answers of this strategy, under this provider's name: for one that does more than a call.
    pub fn of(provider: impl Into<Arc<str>>, strategy: Arc<dyn Strategy<Output = T>>) -> Self {
        Self {
            strategy,
            provider: provider.into(),
            model: Arc::default(),
            deployment: Arc::default(),
            quality: None,
            price: None,
            context_tokens: None,
            weight: 1.0,
        }
    }

    /// Asks for this model, whatever the request names.
    #[must_use]
    pub fn with_model(mut self, model: impl Into<Arc<str>>) -> Self {
        self.model = model.into();
        self
    }

    /// Tells it apart from others of the same provider and model: a region, an endpoint, a key's label (never the
    /// key). It gets limits of its own.
    #[must_use]
    pub fn with_deployment(mut self, deployment: impl Into<Arc<str>>) -> Self {
        self.deployment = deployment.into();
        self
    }

    /// Declares how good its answers are, 0 to 1; what lies outside is cut. Undeclared counts as 0.5.
    #[must_use]
    pub fn with_quality(mut self, quality: f64) -> Self {
        self.quality = Some(quality).filter(|quality| quality.is_finite());
        self
    }

    /// Declares what it costs. Compared is the price of tokens of which one in four is output. Undeclared counts as
    /// the dearest.
    #[must_use]
    pub fn with_price(mut self, rates: Rates) -> Self {
        let price = rates.input.zip(rates.output);
        let price =
            price.map(|(input, output)| input * (1.0 - OUTPUT_SHARE) + output * OUTPUT_SHARE);
        self.price = price.filter(|price| price.is_finite() && *price >= 0.0);
        self
    }

    /// Declares how many tokens fit, prompt and answer: where another place finds a prompt too long, only a larger
    /// one is tried. Undeclared is unknown, and is not tried then.
    #[must_use]
    pub fn with_context_tokens(mut self, tokens: u64) -> Self {
        self.context_tokens = Some(tokens);
        self
    }

    /// Its share among places that share the load, above 0. Default 1.
    #[must_use]
    pub fn with_weight(mut self, weight: f64) -> Self {
        self.weight = if weight.is_finite() && weight > 0.0 {
            weight
        } else {
            1.0
        };
        self
    }

    /// The request as this place takes it.
    fn request<'r>(&self, request: &'r Request) -> Cow<'r, Request> {
        if self.model.is_empty() || *self.model == *request.model {
            return Cow::Borrowed(request);
        }
        let mut own = request.clone();
        own.model = self.model.to_string();
        Cow::Owned(own)
    }
}

impl<T: Send + 'static> Place<T> {
    fn scope<'a>(&'a self, request: &'a Request, state: &'a mut ItemState) -> Scope<'a> {
        let mut scope = self.strategy.scope(request, state);
        if !self.model.is_empty() {
            scope.model = &self.model;
        }
        if !self.deployment.is_empty() {
            scope.deployment = &self.deployment;
        }
        scope
    }
}

impl<T> Clone for Place<T> {
    fn clone(&self) -> Self {
        Self {
            strategy: Arc::clone(&self.strategy),
            provider: Arc::clone(&self.provider),
            model: Arc::clone(&self.model),
            deployment: Arc::clone(&self.deployment),
            ..*self
        }
    }
}

impl<T> fmt::Debug for Place<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("provider", &self.provider)
            .field("model", &self.model)
            .field("deployment", &self.deployment)
            .finish_non_exhaustive()
    }
}

/// A place that may be chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Its number in the order of declaration.
    pub(super) index: usize,
    pub(super) view: View,
    /// 0 to 1.
    pub(super) quality: f64,
    /// USD for a million tokens.
    pub(super) price: Option<f64>,
    pub(super) weight: f64,
}

/// Whom to choose, and what makes an item go elsewhere.
pub(super) trait Chooser: Send + Sync {
    /// One of `candidates`, which are not empty, by its place in them.
    fn choose(&self, candidates: &[Candidate]) -> usize;

    /// How long an item waits for a place that rests.
    fn patience(&self) -> Duration;

    /// Whether each attempt is chosen anew, or an item stays where it is until it must leave.
    fn chooses_anew(&self) -> bool;

    /// Whether an item leaves after this fault of its own.
    fn leaves_after(&self, kind: ErrorKind) -> bool;
}

/// Places, what is known of them, and the choice among them.
pub(super) struct Places<T> {
    memory: Memory,
    places: Vec<Place<T>>,
    trackers: Vec<Arc<Tracker>>,
}

/// Where one item is and has been.
#[derive(Default)]
struct Visit {
    choice: Option<Choice>,
    /// Places it left, and why.
    been: Vec<(usize, ErrorKind)>,
    /// Why it is on its way.
    avoid: Option<ErrorKind>,
    /// The context it is known to need more than.
    above_tokens: Option<u64>,
    /// Whether its last attempt was not sent, since its place had closed meanwhile.
    is_turned_away: bool,
}

struct Choice {
    place: usize,
    reservation: Reservation,
    began: Option<Duration>,
}

impl Visit {
    fn has_been(&self, place: usize, kind: ErrorKind) -> bool {
        self.been.contains(&(place, kind))
    }

    fn has_left(&self, place: usize) -> bool {
        self.been.iter().any(|(left, _)| *left == place)
    }
}

impl<T: Send + 'static> Places<T> {
    pub(super) fn new(places: impl IntoIterator<Item = Place<T>>) -> Self {
        let mut all = Self {
            memory: Memory::new(),
            places: places.into_iter().collect(),
            trackers: Vec::new(),
        };
        all.share(&Health::default());
        all
    }

    pub(super) fn share(&mut self, health: &Health) {
        let trackers = self.places.iter();
        self.trackers = trackers
            .map(|place| health.tracker(&place.provider, &place.model, &place.deployment))
            .collect();
    }

    pub(super) fn push(&mut self, place: Place<T>, health: &Health) {
        self.trackers
            .push(health.tracker(&place.provider, &place.model, &place.deployment));
        self.places.push(place);
    }

    pub(super) fn snapshot(&self) -> Vec<PlaceHealth> {
        let trackers = self.trackers.iter();
        trackers.map(|tracker| tracker.snapshot()).collect()
    }

    pub(super) fn scope<'a>(
        &'a self,
        chooser: &dyn Chooser,
        request: &'a Request,
        state: &'a mut ItemState,
    ) -> Scope<'a> {
        match self.settle(chooser, self.memory.of_mut::<Visit>(state)) {
            Some(place) => self.places[place].scope(request, state),
            None => Scope::new("", &request.model),
        }
    }

    /// Calls where [`Self::scope`] said.
    pub(super) async fn execute(
        &self,
        chooser: &dyn Chooser,
        request: &Request,
        attempt: &mut Attempt<'_>,
    ) -> Result<Executed<T>> {
        let visit = self.memory.of_mut::<Visit>(attempt.state);
        if visit.choice.is_none() {
            self.settle(chooser, visit);
        }
        let Some(choice) = visit.choice.as_mut() else {
            return Err(none());
        };
        if let Some((_, error)) = self.trackers[choice.place].closed() {
            visit.is_turned_away = true;
            return Err(self.all_closed().unwrap_or_else(|| {
                // The next attempt goes elsewhere, and this one did not leave.
                error.with_class(RetryClass::NotSent)
            }));
        }
        let index = choice.place;
        let (place, tracker) = (&self.places[index], &self.trackers[index]);
        let began = tracker.now();
        choice.began = Some(began);
        let request = place.request(request);
        let executed = place.strategy.execute(&request, attempt).await?;
        tracker.answered(began);
        if chooser.leaves_after(ErrorKind::ContentFiltered)
            && matches!(executed.ending, Ending::Refused(_))
        {
            let visit = self.memory.of_mut::<Visit>(attempt.state);
            if self.has_other(visit, index, ErrorKind::ContentFiltered) {
                return Err(refused(&executed));
            }
        }
        Ok(executed)
    }

    pub(super) async fn on_error(
        &self,
        chooser: &dyn Chooser,
        request: &Request,
        error: &Error,
        attempt: &mut Attempt<'_>,
    ) -> Next {
        let visit = self.memory.of_mut::<Visit>(attempt.state);
        if std::mem::take(&mut visit.is_turned_away) {
            visit.choice = None;
            return if error.is_job_stop() {
                Next::Usual
            } else {
                Next::Elsewhere
            };
        }
        let Some(choice) = &mut visit.choice else {
            return Next::Usual;
        };
        let (index, probe) = (choice.place, choice.reservation.probe);
        // Without an attempt there is nothing to learn: the fault came before it.
        let Some(began) = choice.began.take() else {
            return Next::Usual;
        };
        let place = &self.places[index];
        let own = place.request(request);
        let inner = place.strategy.on_error(&own, error, attempt).await;
        if inner != Next::Usual {
            // It moves within its place, or knows best.
            return inner;
        }
        self.trackers[index].failed(began, probe, error);
        let visit = self.memory.of_mut::<Visit>(attempt.state);
        self.decide(chooser, visit, index, error)
    }

    /// Where an item goes after this failure.
    fn decide(
        &self,
        chooser: &dyn Chooser,
        visit: &mut Visit,
        place: usize,
        error: &Error,
    ) -> Next {
        let kind = error.kind();
        if error.is_job_stop() {
            if !is_of_place(kind) {
                return Next::Usual;
            }
            self.trackers[place].close(error);
            visit.choice = None;
            visit.avoid = None;
            // Where nobody is left, the next attempt says why the first one closed.
            return if self.places.len() > 1 {
                Next::Elsewhere
            } else {
                Next::Usual
            };
        }
        let leaves = match (error.class(), kind) {
            (_, ErrorKind::RateLimited) => {
                let now = self.trackers[place].now();
                let wait = self.trackers[place].view(now).wait();
                wait > chooser.patience() && self.is_other_sooner(visit, place, now, wait)
            }
            (_, ErrorKind::ContextTooLong) => {
                let tokens = self.places[place].context_tokens.unwrap_or(0);
                visit.above_tokens = visit.above_tokens.max(Some(tokens));
                true
            }
            (_, ErrorKind::Unexpected | ErrorKind::Cancelled | ErrorKind::InvalidOutput) => false,
            (RetryClass::RowFatal, ErrorKind::Unsupported) => true,
            (RetryClass::RowFatal, kind) => chooser.leaves_after(kind),
            _ => true,
        };
        if leaves && self.has_other(visit, place, kind) {
            visit.been.push((place, kind));
            visit.avoid = Some(kind);
            visit.choice = None;
            return Next::Elsewhere;
        }
        if kind == ErrorKind::RateLimited {
            // It is waited out, and then the round begins again.
            visit.been.retain(|(_, why)| *why != kind);
        }
        visit.avoid = None;
        if leaves || chooser.chooses_anew() {
            visit.choice = None;
        }
        Next::Usual
    }

    /// Chooses a place, unless the one that was chosen will still do.
    fn settle(&self, chooser: &dyn Chooser, visit: &mut Visit) -> Option<usize> {
        let tracker = self.trackers.first()?;
        let now = tracker.now();
        if let Some(choice) = &visit.choice {
            let view = self.trackers[choice.place].view(now);
            let will_do = match view.standing {
                Standing::Probing => true,
                _ => choice.reservation.probe || view.is_ready(chooser.patience()),
            };
            if will_do || choice.began.is_some() {
                return Some(choice.place);
            }
        }
        // Given back first, so that it does not count as load.
        visit.choice = None;
        let place = self.choose(chooser, visit, now);
        visit.choice = Some(Choice {
            place,
            reservation: self.trackers[place].reserve(now),
            began: None,
        });
        Some(place)
    }

    fn choose(&self, chooser: &dyn Chooser, visit: &Visit, now: Duration) -> usize {
        let mut all: Vec<Candidate> = (0..self.places.len())
            .filter(|&index| self.fits(visit, index))
            .filter(|&index| visit.avoid.is_none_or(|kind| !visit.has_been(index, kind)))
            .map(|index| self.candidate(index, now))
            .filter(|candidate| candidate.view.standing != Standing::Closed)
            .collect();
        if all.is_empty() {
            // All that would do are closed meanwhile, which the attempt tells.
            all = (0..self.places.len())
                .map(|index| self.candidate(index, now))
                .collect();
            all.sort_by_key(|candidate| candidate.view.standing == Standing::Closed);
            return all[0].index;
        }
        let patience = chooser.patience();
        let ready = all.iter().filter(|place| place.view.is_ready(patience));
        let ready: Vec<Candidate> = ready.copied().collect();
        if ready.is_empty() {
            let soonest = all.iter().min_by_key(|candidate| candidate.view.wait());
            return soonest.map_or(0, |soonest| soonest.index);
        }
        // Where it has not failed yet goes before where it has.
        let fresh: Vec<Candidate> = ready
            .iter()
            .filter(|candidate| !visit.has_left(candidate.index))
            .copied()
            .collect();
        let among = if fresh.is_empty() { ready } else { fresh };
        let chosen = chooser.choose(&among).min(among.len() - 1);
        among[chosen].index
    }

    fn candidate(&self, index: usize, now: Duration) -> Candidate {
        let place = &self.places[index];
        Candidate {
            index,
            view: self.trackers[index].view(now),
            quality: place.quality.unwrap_or(0.5).clamp(0.0, 1.0),
            price: place.price,
            weight: place.weight,
        }
    }

    fn fits(&self, visit: &Visit, index: usize) -> bool {
        let tokens = self.places[index].context_tokens;
        visit.above_tokens.is_none() || tokens > visit.above_tokens
    }

    /// Whether an item may go from here to another place because of this.
    fn has_other(&self, visit: &Visit, place: usize, kind: ErrorKind) -> bool {
        (0..self.places.len()).any(|other| {
            other != place
                && self.fits(visit, other)
                && !visit.has_been(other, kind)
                && self.trackers[other].closed().is_none()
        })
    }

    fn is_other_sooner(&self, visit: &Visit, place: usize, now: Duration, wait: Duration) -> bool {
        (0..self.places.len()).any(|other| {
            other != place
                && self.fits(visit, other)
                && !visit.has_been(other, ErrorKind::RateLimited)
                && self.trackers[other].view(now).wait() < wait
        })
    }

    /// Why the first place closed, where none is left.
    fn all_closed(&self) -> Option<Error> {
        let closed: Option<Vec<_>> = self
            .trackers
            .iter()
            .map(|tracker| tracker.closed())
            .collect();
        let first = closed?.into_iter().min_by_key(|(since, _)| *since);
        first.map(|(_, error)| error)
    }

    /// Prepares every place and forgets what closed them before. One that cannot be prepared for good is closed.
    pub(super) async fn prepare(&self) -> Result<()> {
        let prepare = |(place, tracker): (&Place<T>, &Arc<Tracker>)| {
            let (strategy, tracker) = (Arc::clone(&place.strategy), Arc::clone(tracker));
            async move {
                tracker.reopen();
                let prepared = strategy.prepare().await;
                // What may pass is found out by the attempts.
                if let Err(error) = prepared
                    && !error.is_retryable()
                {
                    let stop = error.with_class(RetryClass::JobStop);
                    tracker.close(&stop);
                }
            }
        };
        each(self.places.iter().zip(&self.trackers).map(prepare)).await;
        if self.places.is_empty() {
            return Err(none());
        }
        self.all_closed().map_or(Ok(()), Err)
    }

    pub(super) async fn cleanup(&self) {
        each(self.places.iter().map(|place| place.strategy.cleanup())).await;
    }

    pub(super) fn dry_run(&self, request: &Request) -> Result<Executed<T>> {
        let place = self.places.first().ok_or_else(none)?;
        place.strategy.dry_run(&place.request(request))
    }
}

impl<T> fmt::Debug for Places<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.places).finish()
    }
}

async fn each(work: impl Iterator<Item = impl Future<Output = ()>>) {
    futures::future::join_all(work).await;
}

/// Whether what stops a job is a fault of the place, so that others may go on.
fn is_of_place(kind: ErrorKind) -> bool {
    !matches!(
        kind,
        ErrorKind::Cancelled
            | ErrorKind::Storage
            | ErrorKind::NeedsDecision
            | ErrorKind::Unexpected
    )
}

fn refused<T>(executed: &Executed<T>) -> Error {
    Error::new(
        ErrorKind::ContentFiltered,
        "answer the request: the model refused, and another is asked",
    )
    .with_usage(executed.usage)
}

fn none() -> Error {
    Error::new(
        ErrorKind::ConfigInvalid,
        "choose a place for the request: none is given",
    )
}
