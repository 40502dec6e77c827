//! What the pool runs for one item, and what it hands to it.

pub(crate) mod adapted;
pub(crate) mod answer_cache;
pub(crate) mod balance;
pub(crate) mod cached;
pub(crate) mod closure;
pub(crate) mod context_cache;
#[cfg(feature = "structured")]
mod contract;
pub(crate) mod credentials;
pub(crate) mod fallback;
mod flights;
pub(crate) mod health;
#[cfg(feature = "structured")]
mod json_text;
pub(crate) mod ladder;
mod memory;
pub(crate) mod place;
#[cfg(feature = "structured")]
mod portable;
#[cfg(feature = "structured")]
pub(crate) mod rejection;
mod renewed;
#[cfg(feature = "structured")]
pub(crate) mod structured;
pub(crate) mod timed;
#[cfg(feature = "structured")]
pub(crate) mod validated;

use crate::ItemState;
use async_trait::async_trait;
use batchwright_core::{
    CallOptions, ChatProvider, Ending, Error, ErrorKind, RateLimit, Request, Response, Result,
    Usage,
};
use std::{fmt, sync::Arc, time::Duration};

/// How one item is answered: what an attempt does, where it goes, and what follows a failure.
///
/// The pool decides when an attempt may be made, records it before it leaves, bounds its time and counts what it cost;
/// a strategy makes the one call. State of one item lives in [`Attempt::state`], never in the strategy, which many
/// items share at the same time.
///
/// A strategy that panics fails the item, not the run.
#[async_trait]
pub trait Strategy: Send + Sync {
    /// What a success holds.
    type Output: Send + 'static;

    /// Where the item's next attempt goes. All attempts of one scope share its limits, its cooldown and its circuit
    /// breaker. Asked at least once before each attempt; must be cheap, and must name what
    /// [`execute`](Self::execute) will call: what is chosen here is noted in `state`, where `execute` finds it. Asked
    /// again while the item waits, it may choose anew.
    fn scope<'a>(&'a self, request: &'a Request, state: &'a mut ItemState) -> Scope<'a>;

    /// Called once before the first attempt of a run, however many items share the strategy. The default does
    /// nothing.
    ///
    /// # Errors
    /// Every failure: the run stops with it, and nothing is sent.
    ///
    /// # Cancel safety
    /// Dropped where the run is dropped, or after the attempt's timeout.
    async fn prepare(&self) -> Result<()> {
        Ok(())
    }

    /// One attempt at answering `request`: at most one paid call, sent once.
    ///
    /// # Errors
    /// Every failure, with the class that says what may follow. An answer that is not what was asked for is of kind
    /// [`InvalidOutput`](ErrorKind::InvalidOutput), with the usage it cost.
    ///
    /// # Cancel safety
    /// Dropped after the attempt's timeout, which may abandon a call that is billed all the same.
    async fn execute(
        &self,
        request: &Request,
        attempt: &mut Attempt<'_>,
    ) -> Result<Executed<Self::Output>>;

    /// Called after each failed attempt, before anything is decided: what should follow, if not the usual. The place
    /// to note in the item's state what the next attempt does otherwise. The default leaves all to the pool.
    ///
    /// # Cancel safety
    /// Dropped after the attempt's timeout; then the usual follows.
    async fn on_error(
        &self,
        _request: &Request,
        _error: &Error,
        _attempt: &mut Attempt<'_>,
    ) -> Next {
        Next::Usual
    }

    /// What a dry run answers instead of a call. Nothing may be sent. The default has nothing to show.
    ///
    /// # Errors
    /// `Unsupported` where the strategy has nothing to show.
    fn dry_run(&self, _request: &Request) -> Result<Executed<Self::Output>> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "run dry: the strategy has no answer to show",
        ))
    }

    /// Called once after the last attempt of a run that called [`prepare`](Self::prepare), also where the run was
    /// stopped. Not called where the run is dropped. The default does nothing.
    ///
    /// # Cancel safety
    /// Dropped where the run is dropped, or after the attempt's timeout.
    async fn cleanup(&self) {}
}

/// Where an attempt goes: the provider, the model, and whatever else has limits of its own, such as a key or a
/// deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Scope<'a> {
    /// The provider's name.
    pub provider: &'a str,
    /// The model.
    pub model: &'a str,
    /// What tells apart keys, accounts or deployments that serve the same model; empty where there is one.
    pub deployment: &'a str,
}

impl<'a> Scope<'a> {
    /// This model of this provider.
    pub fn new(provider: &'a str, model: &'a str) -> Self {
        Self {
            provider,
            model,
            deployment: "",
        }
    }

    /// With limits apart from other deployments of the model.
    #[must_use]
    pub fn with_deployment(mut self, deployment: &'a str) -> Self {
        self.deployment = deployment;
        self
    }
}

/// One attempt at an item.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attempt<'a> {
    /// Counted from 1.
    pub number: u32,
    /// How long it may take; the pool enforces it.
    pub timeout: Duration,
    /// What is known of the item from earlier attempts.
    pub state: &'a mut ItemState,
}

impl<'a> Attempt<'a> {
    /// Attempt number `number`. For tests of strategies; the pool makes its own.
    pub fn new(number: u32, timeout: Duration, state: &'a mut ItemState) -> Self {
        Self {
            number,
            timeout,
            state,
        }
    }

    /// Options for a provider's call that give it the attempt's time.
    pub fn call_options(&self) -> CallOptions {
        CallOptions::default().with_timeout(self.timeout)
    }
}

/// What should follow a failed attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// What the error's class and the pool's policy say.
    #[default]
    Usual,
    /// Another attempt at once, since it goes to another place ([`Strategy::scope`]); also after errors that would
    /// end the row or stop the run. After one that may have been billed, only within the pool's bounds for those; and
    /// at most 32 times in a row, after which the usual follows.
    Elsewhere,
    /// No further attempt: the error is the item's outcome.
    GiveUp,
}

/// What an attempt came to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Executed<T = Response> {
    /// How the item ends with it.
    pub ending: Ending<T>,
    /// Tokens the attempt cost.
    pub usage: Usage,
    /// The model that answered, where the provider said; may be a dated version of the one asked for.
    pub model: Option<String>,
    /// The rate-limit headers that came with it.
    pub rate_limit: Option<RateLimit>,
    /// Whether a cache answered: nothing was sent, and nothing is billed.
    pub cached: bool,
}

impl<T> Executed<T> {
    /// A success of unknown cost.
    pub fn new(output: T) -> Self {
        Self::ended(Ending::Succeeded(output))
    }

    /// This ending, of unknown cost.
    pub fn ended(ending: Ending<T>) -> Self {
        Self {
            ending,
            usage: Usage::default(),
            model: None,
            rate_limit: None,
            cached: false,
        }
    }

    /// The tokens it cost.
    #[must_use]
    pub fn with_usage(mut self, usage: Usage) -> Self {
        self.usage = usage;
        self
    }

    /// Marks it as answered by a cache.
    #[must_use]
    pub fn from_cache(mut self) -> Self {
        self.cached = true;
        self
    }

    /// Makes another success of it; what else is known stays.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Executed<U> {
        Executed {
            ending: self.ending.map(make),
            usage: self.usage,
            model: self.model,
            rate_limit: self.rate_limit,
            cached: self.cached,
        }
    }
}

impl From<Response> for Executed {
    fn from(response: Response) -> Self {
        Self {
            usage: response.usage,
            model: response.model.clone(),
            rate_limit: response.rate_limit,
            cached: false,
            ending: response.into_ending(),
        }
    }
}

/// The plain strategy: one call of one provider, with the request as it is.
#[derive(Clone)]
pub struct Direct {
    provider: Arc<dyn ChatProvider>,
}

impl Direct {
    /// Calls `provider`.
    pub fn new(provider: Arc<dyn ChatProvider>) -> Self {
        Self { provider }
    }
}

#[async_trait]
impl Strategy for Direct {
    type Output = Response;

    fn scope<'a>(&'a self, request: &'a Request, _state: &'a mut ItemState) -> Scope<'a> {
        Scope::new(self.provider.name(), &request.model)
    }

    async fn execute(&self, request: &Request, attempt: &mut Attempt<'_>) -> Result<Executed> {
        let options = attempt.call_options();
        let response = self.provider.complete(request, &options).await?;
        Ok(response.into())
    }

    fn dry_run(&self, request: &Request) -> Result<Executed> {
        let answer = Response::from_text(format!("dry run: {}", request.custom_id));
        Ok(Executed::from(answer).with_usage(Usage::of(0, 0)))
    }
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Direct")
            .field(&self.provider.name())
            .finish()
    }
}
