//! One scope: a provider, model and key whose limits are shared. Composes what may hold an attempt back.

use crate::{
    BreakerOptions, Concurrency, CooldownOptions, RateLimitOptions, RetryBudgetOptions,
    breaker::{Breaker, Health},
    concurrency::ConcurrencyLimit,
    cooldown::{Cooldown, Limited},
    rate_limit::{RateGates, Taken},
    retry_budget::RetryBudget,
    schedule::Answer,
};
use batchwright_core::{Error, ErrorKind, RetryClass};
use std::time::Duration;

/// How one scope (a provider, model and key whose limits are shared) is sent to.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ScopeOptions {
    /// Requests and tokens a minute.
    pub rate_limit: RateLimitOptions,
    /// The rest after a rate limit.
    pub cooldown: CooldownOptions,
    /// Attempts at once.
    pub concurrency: Concurrency,
    /// When the provider counts as down.
    pub breaker: BreakerOptions,
    /// Retries after faults.
    pub retry_budget: RetryBudgetOptions,
}

impl ScopeOptions {
    /// Sets requests and tokens a minute.
    #[must_use]
    pub fn with_rate_limit(mut self, rate_limit: RateLimitOptions) -> Self {
        self.rate_limit = rate_limit;
        self
    }

    /// Sets the rest after a rate limit.
    #[must_use]
    pub fn with_cooldown(mut self, cooldown: CooldownOptions) -> Self {
        self.cooldown = cooldown;
        self
    }

    /// Sets how many attempts are open at once.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: Concurrency) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Sets when the provider counts as down.
    #[must_use]
    pub fn with_breaker(mut self, breaker: BreakerOptions) -> Self {
        self.breaker = breaker;
        self
    }

    /// Sets how many retries follow faults.
    #[must_use]
    pub fn with_retry_budget(mut self, retry_budget: RetryBudgetOptions) -> Self {
        self.retry_budget = retry_budget;
        self
    }
}

/// Why an attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It is the item's first.
    First,
    /// The one before failed. Spends of the retry budget.
    Fault,
    /// The one before was refused for its rate, or its answer was not good enough.
    Again,
}

/// When an attempt may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Now,
    /// Not before then; ask again, since more may have come to hold it back.
    At(Duration),
    /// When an attempt of the scope has ended.
    AfterAnother,
    /// Not before then for want of a retry budget alone, which holds nobody back but retries.
    RetryAt(Duration),
}

/// What an attempt remembers of its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    taken: Taken,
    generation: u64,
    epoch: u64,
    cause: Cause,
}

/// The state of one scope.
///
/// Each attempt that started ends by exactly one of [`ScopeState::succeeded`], [`ScopeState::failed`] and
/// [`ScopeState::unsent`].
#[derive(Clone, Debug)]
pub(crate) struct ScopeState {
    cooldown: Cooldown,
    gates: RateGates,
    concurrency: ConcurrencyLimit,
    breaker: Breaker,
    retry_budget: RetryBudget,
    in_flight: usize,
}

impl ScopeState {
    pub(crate) fn new(options: &ScopeOptions, max_in_flight: usize) -> Self {
        Self {
            cooldown: Cooldown::new(options.cooldown.clone()),
            gates: RateGates::new(&options.rate_limit),
            concurrency: ConcurrencyLimit::new(options.concurrency, max_in_flight),
            breaker: Breaker::new(options.breaker.clone()),
            retry_budget: RetryBudget::new(&options.retry_budget),
            in_flight: 0,
        }
    }

    /// When an attempt that needs `tokens` may start.
    pub(crate) fn admission(&mut self, now: Duration, tokens: u64, cause: Cause) -> Admission {
        if self.in_flight >= self.concurrency.limit() {
            return Admission::AfterAnother;
        }
        let Some(mut at) = self.breaker.ready_at() else {
            return Admission::AfterAnother;
        };
        at = at.max(self.cooldown.ready_at());
        at = at.max(self.gates.ready_at(now, tokens));
        if at > now {
            return Admission::At(at);
        }
        if cause == Cause::Fault {
            let at = self.retry_budget.ready_at(now);
            if at > now {
                return Admission::RetryAt(at);
            }
        }
        Admission::Now
    }

    /// Whether anything is limited by tokens.
    pub(crate) fn counts_tokens(&self) -> bool {
        self.gates.counts_tokens()
    }

    /// An attempt starts. Only right after [`ScopeState::admission`] said so.
    pub(crate) fn start(&mut self, now: Duration, tokens: u64, cause: Cause) -> Ticket {
        self.in_flight += 1;
        self.concurrency.started(self.in_flight);
        self.cooldown.started(now);
        match cause {
            Cause::First => self.retry_budget.deposit(),
            Cause::Fault => self.retry_budget.withdraw(now),
            Cause::Again => {}
        }
        Ticket {
            taken: self.gates.take(now, tokens),
            generation: self.cooldown.generation(),
            epoch: self.breaker.started(),
            cause,
        }
    }

    /// The attempt was answered.
    pub(crate) fn succeeded(&mut self, now: Duration, ticket: Ticket, answer: &Answer) {
        self.in_flight -= 1;
        self.cooldown.passed(ticket.generation);
        self.concurrency
            .answered(now, ticket.taken.started, answer.took);
        self.breaker.ended(now, ticket.epoch, Health::Up);
        self.gates.settle(now, ticket.taken, answer.tokens);
        if ticket.cause == Cause::Fault {
            self.retry_budget.give_back(now);
        }
        if let Some(limit) = &answer.rate_limit {
            self.gates.read(now, ticket.taken, limit);
        }
    }

    /// The attempt failed. `random` is uniform in 0..1. Returns what a rate limit did to the scope.
    pub(crate) fn failed(
        &mut self,
        now: Duration,
        ticket: Ticket,
        error: &Error,
        random: f64,
    ) -> Option<Limited> {
        self.in_flight -= 1;
        let taken = ticket.taken;
        self.breaker.ended(now, ticket.epoch, health(error));
        let pushes_back = matches!(
            error.kind(),
            ErrorKind::RateLimited | ErrorKind::Overloaded | ErrorKind::Timeout
        );
        if pushes_back {
            self.concurrency.refused(now, taken.started);
        }
        let mut limited = None;
        if error.is_rate_limited() {
            let did = self
                .cooldown
                .limited(now, ticket.generation, error.retry_after(), random);
            let resume = match did {
                Limited::Began(until) => Some(until),
                Limited::Late(_) => None,
            };
            self.gates.refused(now, taken, resume);
            limited = Some(did);
        } else if error.class() == RetryClass::NotSent {
            self.gates.refund(now, taken);
        } else {
            if health(error) == Health::Up {
                self.cooldown.passed(ticket.generation);
            }
            let used = error.usage().and_then(|usage| usage.total_tokens());
            let unused = (!error.is_ambiguous()).then_some(0);
            self.gates.settle(now, taken, used.or(unused));
        }
        if let Some(limit) = error.rate_limit() {
            self.gates.read(now, taken, limit);
        }
        limited
    }

    /// The attempt never left.
    pub(crate) fn unsent(&mut self, now: Duration, ticket: Ticket) {
        self.in_flight -= 1;
        self.breaker.ended(now, ticket.epoch, Health::Unknown);
        self.gates.refund(now, ticket.taken);
        if ticket.cause == Cause::Fault {
            self.retry_budget.give_back(now);
        }
    }

    /// How many attempts may be open at once.
    pub(crate) fn concurrency(&self) -> usize {
        self.concurrency.limit()
    }

    pub(crate) fn is_down(&self) -> bool {
        self.breaker.is_open()
    }
}

fn health(error: &Error) -> Health {
    match error.kind() {
        ErrorKind::Connect | ErrorKind::Overloaded | ErrorKind::ProviderFault => Health::Down,
        ErrorKind::Timeout
        | ErrorKind::Cancelled
        | ErrorKind::Storage
        | ErrorKind::ConfigInvalid
        | ErrorKind::Unexpected => Health::Unknown,
        _ => Health::Up,
    }
}

#[cfg(test)]
mod tests;
