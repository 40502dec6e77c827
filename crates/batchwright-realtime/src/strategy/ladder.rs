//! Another temperature or another model after attempts that failed.

use super::memory::{Memory, OwnedScope};
use crate::{Attempt, Executed, ItemState, Next, Scope, Strategy};
use async_trait::async_trait;
use batchwright_core::{
    Error, ErrorKind, Payload, Request, Response, Result, RetryClass, Sampling,
};
use std::{fmt, sync::Arc};

/// Climbs from rung to rung as attempts at an item fail: to a higher temperature, to a better model, or to both. Past
/// the last rung it stays there.
///
/// What counts as a step is [`Climb`]'s to say; that the endpoint was busy or out of reach never does, so a busy hour
/// never makes a run dear. Each item climbs for itself.
///
/// It changes the request and leaves the call to the strategy within, so it may stand within
/// `Validated` and around [`Direct`](crate::Direct); how often an answer that does not fit is
/// asked for again is the pool's to say ([`RetryPolicy::max_invalid_retries`](batchwright_core::RetryPolicy)): with
/// the default of 2 the third rung is the last that is reached.
///
/// A raw body names its own model and sampling, so on a rung that would change them it fails with `Unsupported`.
///
/// ```
/// # use batchwright_core::{CallOptions, Capability, ChatProvider, Request, Response, Result};
/// # use batchwright_realtime::{Direct, Ladder, Rung};
/// # use std::sync::Arc;
/// # struct Echo(Capability);
/// # #[async_trait::async_trait]
/// # impl ChatProvider for Echo {
/// #     fn name(&self) -> &str { "echo" }
/// #     fn capability(&self) -> &Capability { &self.0 }
/// #     async fn complete(&self, _: &Request, _: &CallOptions) -> Result<Response> { Ok(Response::from_text("")) }
/// # }
/// # fn main() -> Result<()> {
/// # let provider = Arc::new(Echo(Capability::default()));
/// // A dearer model only for the answers the cheap one got wrong.
/// let direct = Arc::new(Direct::new(provider));
/// let models = Ladder::models(direct.clone(), ["small", "medium", "large"])?;
/// // Both at once, by attempt.
/// let both = Ladder::new(
///     direct,
///     [
///         Rung::of_model("small").with_temperature(0.0)?,
///         Rung::of_model("small").with_temperature(0.5)?,
///         Rung::of_model("large").with_temperature(0.2)?,
///     ],
/// )?;
/// # let _ = (models, both);
/// # Ok(())
/// # }
/// ```
pub struct Ladder<T = Response> {
    inner: Arc<dyn Strategy<Output = T>>,
    rungs: Vec<Rung>,
    climb: Climb,
    memory: Memory,
}

/// What an attempt on one rung of a [`Ladder`] does otherwise. What it does not name stays as the request says.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Rung {
    model: Option<String>,
    temperature: Option<f64>,
}

/// Which failures are a step up a [`Ladder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Climb {
    /// An answer that was not what was asked for ([`ErrorKind::InvalidOutput`]), and nothing else: a fault of the
    /// network says nothing about the model. The default of [`Ladder::models`].
    InvalidOutput,
    /// Every failure in which the model may have worked: the one above, timeouts and broken answers; not what was
    /// never sent, and not what a rate limit or an overload rejected. The default of every other ladder.
    EveryFailure,
}

/// Where an item is.
#[derive(Default)]
struct Climber {
    steps: usize,
    place: OwnedScope,
}

impl Rung {
    /// The request's temperature and this model.
    pub fn of_model(model: impl Into<String>) -> Self {
        Self {
            model: Some(model.into()),
            temperature: None,
        }
    }

    /// The request's model and this temperature.
    ///
    /// # Errors
    /// `InvalidRequest` outside 0 to 2.
    pub fn of_temperature(temperature: f64) -> Result<Self> {
        Self::default().with_temperature(temperature)
    }

    /// With this temperature, 0 to 2.
    ///
    /// # Errors
    /// `InvalidRequest` outside that range.
    pub fn with_temperature(mut self, temperature: f64) -> Result<Self> {
        Sampling::new().with_temperature(temperature)?;
        self.temperature = Some(temperature);
        Ok(self)
    }

    /// The request as it goes out from this rung.
    fn apply(&self, request: &Request) -> Result<Option<Request>> {
        let model = self.model.as_ref().filter(|model| **model != request.model);
        let temperature = self
            .temperature
            .filter(|temperature| request.sampling.temperature() != Some(*temperature));
        if model.is_none() && temperature.is_none() {
            return Ok(None);
        }
        if matches!(request.payload, Payload::Raw(_)) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "climb a ladder: a raw body names its own model and temperature",
            ));
        }
        let mut request = request.clone();
        if let Some(model) = model {
            request.model.clone_from(model);
        }
        if let Some(temperature) = temperature {
            request.sampling = request.sampling.with_temperature(temperature)?;
        }
        Ok(Some(request))
    }
}

impl<T> Ladder<T> {
    /// The temperatures of [`Ladder::temperatures`] where nothing else is wanted: the likeliest answer first, then
    /// ever more varied ones, since the same one would fail again.
    pub const TEMPERATURES: [f64; 3] = [0.0, 0.5, 1.0];

    /// These rungs, lowest first; steps are counted by [`Climb::EveryFailure`].
    ///
    /// # Errors
    /// `ConfigInvalid` where there is none, or a model without a name.
    pub fn new(
        inner: Arc<dyn Strategy<Output = T>>,
        rungs: impl IntoIterator<Item = Rung>,
    ) -> Result<Self> {
        let rungs: Vec<Rung> = rungs.into_iter().collect();
        let fault = |what| Err(Error::new(ErrorKind::ConfigInvalid, what));
        if rungs.is_empty() {
            return fault("make a ladder: it has no rung");
        }
        if rungs.iter().any(|rung| rung.model.as_deref() == Some("")) {
            return fault("make a ladder: a rung's model has no name");
        }
        Ok(Self {
            inner,
            rungs,
            climb: Climb::EveryFailure,
            memory: Memory::new(),
        })
    }

    /// A temperature for each attempt, such as [`Ladder::TEMPERATURES`].
    ///
    /// # Errors
    /// `ConfigInvalid` where there is none, `InvalidRequest` outside 0 to 2.
    pub fn temperatures(
        inner: Arc<dyn Strategy<Output = T>>,
        temperatures: impl IntoIterator<Item = f64>,
    ) -> Result<Self> {
        let rungs: Result<Vec<Rung>> = temperatures.into_iter().map(Rung::of_temperature).collect();
        Self::new(inner, rungs?)
    }

    /// A better model after each answer that was not what was asked for; other failures keep the model.
    ///
    /// # Errors
    /// `ConfigInvalid` where there is none, or one without a name.
    pub fn models<M: Into<String>>(
        inner: Arc<dyn Strategy<Output = T>>,
        models: impl IntoIterator<Item = M>,
    ) -> Result<Self> {
        let ladder = Self::new(inner, models.into_iter().map(Rung::of_model))?;
        Ok(ladder.with_climb(Climb::InvalidOutput))
    }

    /// Sets what counts as a step.
    #[must_use]
    pub fn with_climb(mut self, climb: Climb) -> Self {
        self.climb = climb;
        self
    }

    /// The request as it goes out from the rung the item is on; `None` where that is what came in. Made anew each
    /// time, since what stands around may hand in another request with each attempt.
    fn changed(&self, request: &Request, state: &ItemState) -> Result<Option<Request>> {
        let climber = self.memory.of::<Climber>(state);
        let steps = climber.map_or(0, |climber| climber.steps);
        self.rungs[steps.min(self.rungs.len() - 1)].apply(request)
    }
}

impl Climb {
    fn counts(self, error: &Error) -> bool {
        let is_invalid = error.kind() == ErrorKind::InvalidOutput;
        match self {
            Self::InvalidOutput => is_invalid,
            Self::EveryFailure => {
                is_invalid
                    || !matches!(error.class(), RetryClass::NotSent | RetryClass::Rejected)
                        && !error.is_rate_limited()
            }
        }
    }
}

#[async_trait]
impl<T: Send + 'static> Strategy for Ladder<T> {
    type Output = T;

    fn scope<'a>(&'a self, request: &'a Request, state: &'a mut ItemState) -> Scope<'a> {
        // Where a rung cannot be applied the attempt says so.
        let Ok(Some(changed)) = self.changed(request, state) else {
            return self.inner.scope(request, state);
        };
        let place = OwnedScope::of(self.inner.scope(&changed, &mut *state));
        let climber = self.memory.of_mut::<Climber>(state);
        climber.place = place;
        climber.place.scope()
    }

    async fn prepare(&self) -> Result<()> {
        self.inner.prepare().await
    }

    async fn execute(&self, request: &Request, attempt: &mut Attempt<'_>) -> Result<Executed<T>> {
        let changed = self.changed(request, attempt.state)?;
        let request = changed.as_ref().unwrap_or(request);
        self.inner.execute(request, attempt).await
    }

    async fn on_error(&self, request: &Request, error: &Error, attempt: &mut Attempt<'_>) -> Next {
        let changed = self.changed(request, attempt.state).ok().flatten();
        if self.climb.counts(error) {
            let climber = self.memory.of_mut::<Climber>(attempt.state);
            climber.steps = climber.steps.saturating_add(1);
        }
        let sent = changed.as_ref().unwrap_or(request);
        self.inner.on_error(sent, error, attempt).await
    }

    fn dry_run(&self, request: &Request) -> Result<Executed<T>> {
        let changed = self.rungs[0].apply(request)?;
        self.inner.dry_run(changed.as_ref().unwrap_or(request))
    }

    async fn cleanup(&self) {
        self.inner.cleanup().await;
    }
}

impl<T> fmt::Debug for Ladder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ladder")
            .field("rungs", &self.rungs)
            .field("climb", &self.climb)
            .finish_non_exhaustive()
    }
}
