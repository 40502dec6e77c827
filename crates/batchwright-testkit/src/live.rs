//! The same cases over the vendor itself, within a sum of money.
//!
//! What is spent is bounded before anything is sent: each case declares how many requests it sends, each request has a
//! bound of tokens, and the price table turns both into money. The sum is a function of the list of cases alone, so it
//! holds where each case runs in a process of its own.

use crate::subject::Place;
use batchwright_core::{Lane, Money, Price, PriceTable, Rates, Request};
use std::{borrow::Cow, fmt, sync::Arc};

/// Names the vendors that may be called, separated by commas.
pub(crate) const WHO_VAR: &str = "BATCHWRIGHT_LIVE";

/// The most that may be spent, in dollars.
pub(crate) const CAP_VAR: &str = "BATCHWRIGHT_LIVE_MAX_USD";

/// The most input tokens of one request: its text has fewer bytes, and a token has at least one.
pub(crate) const INPUT_TOKENS: u64 = 1024;

/// The most output tokens of one request, which it says itself; enough for a model that thinks first.
pub(crate) const OUTPUT_TOKENS: u32 = 256;

/// Bytes left for what a vendor lays around a prompt.
const AROUND: u64 = 400;

type Variables = dyn Fn(&str) -> Option<String> + Send + Sync;

/// A vendor's real account, for [`Subject::live`](crate::Subject::live).
///
/// Nothing is sent unless `BATCHWRIGHT_LIVE` names it, `BATCHWRIGHT_LIVE_MAX_USD` is set, the vendor's own variable
/// holds a key, and the model's price is known.
#[derive(Clone)]
pub struct Live {
    name: &'static str,
    key_var: &'static str,
    base_url: String,
    prices: PriceTable,
    variables: Arc<Variables>,
}

impl Live {
    /// The account that `BATCHWRIGHT_LIVE` calls `name`, with the key in the variable `key_var`, at `base_url`.
    pub fn new(name: &'static str, key_var: &'static str, base_url: impl Into<String>) -> Self {
        Self {
            name,
            key_var,
            base_url: base_url.into(),
            prices: PriceTable::builtin(),
            variables: Arc::new(|name| std::env::var(name).ok()),
        }
    }

    /// Sets the prices the bound is reckoned with. Default [`PriceTable::builtin`].
    #[must_use]
    pub fn with_prices(mut self, prices: PriceTable) -> Self {
        self.prices = prices;
        self
    }

    /// Sets where variables are read. Default: the environment of the process.
    #[must_use]
    pub fn with_variables(
        mut self,
        variables: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.variables = Arc::new(variables);
        self
    }

    fn variable(&self, name: &str) -> Option<String> {
        let value = (self.variables)(name)?.trim().to_owned();
        (!value.is_empty()).then_some(value)
    }

    /// The most that may be spent, or why nothing may.
    pub(crate) fn cap(&self) -> Result<Money, Cow<'static, str>> {
        let who = self.variable(WHO_VAR).unwrap_or_default();
        if !who.split(',').any(|name| name.trim() == self.name) {
            return Err(format!("{WHO_VAR} does not name {}", self.name).into());
        }
        let Some(cap) = self.variable(CAP_VAR) else {
            return Err(format!("{CAP_VAR} is not set").into());
        };
        let cap = cap.parse().ok().and_then(Money::from_dollars);
        let Some(cap) = cap else {
            return Err(format!("{CAP_VAR} is no sum of dollars").into());
        };
        match self.variable(self.key_var) {
            Some(_) => Ok(cap),
            None => Err(format!("{} is not set", self.key_var).into()),
        }
    }

    /// The most that `spend` can cost, or why that is unknown.
    pub(crate) fn bound(
        &self,
        spend: Spend,
        provider: &str,
        model: &str,
    ) -> Result<Money, Cow<'static, str>> {
        if spend.requests == 0 {
            return Ok(Money::ZERO);
        }
        let price = self.prices.price(provider, model);
        let each = price.and_then(|price| dearest(price, spend.lane));
        match each {
            Some(each) => Ok((0..spend.requests).map(|_| each).sum()),
            None => Err(format!("the price of {provider}:{model} is unknown").into()),
        }
    }

    pub(crate) fn place(&self) -> Place {
        let key = self.variable(self.key_var).unwrap_or_default();
        Place::new(self.base_url.clone(), String::new(), &key)
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("name", &self.name)
            .field("key_var", &self.key_var)
            .finish_non_exhaustive()
    }
}

/// The most one request can cost: all its tokens at the dearest rate they may have.
fn dearest(price: &Price, lane: Lane) -> Option<Money> {
    let rates: Rates = match lane {
        Lane::Batch => price.batch?,
        _ => price.realtime,
    };
    let input = rates.input?.max(rates.cache_write.unwrap_or(0.0));
    let output = rates.output?.max(rates.reasoning.unwrap_or(0.0));
    let tokens = INPUT_TOKENS as f64 * input + f64::from(OUTPUT_TOKENS) * output;
    Money::from_dollars(tokens / 1e6)
}

/// What a case may buy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spend {
    pub(crate) requests: u64,
    pub(crate) lane: Lane,
}

impl Spend {
    /// Says of a case that it is not for a live account.
    pub(crate) const NO: Option<Self> = None;

    /// It buys nothing.
    pub(crate) const FREE: Option<Self> = Self::calls(0);

    pub(crate) const fn calls(requests: u64) -> Option<Self> {
        let lane = Lane::Realtime;
        Some(Self { requests, lane })
    }

    pub(crate) const fn rows(requests: u64) -> Option<Self> {
        let lane = Lane::Batch;
        Some(Self { requests, lane })
    }
}

/// Whether a request stays within what every live request is reckoned with.
pub(crate) fn assert_bounded(request: &Request) {
    let bytes = request.estimated_input_tokens() * 4 + AROUND;
    assert!(bytes <= INPUT_TOKENS, "a live prompt is short");
    let output = request.sampling.max_output_tokens();
    assert!(
        output.is_some_and(|most| most <= OUTPUT_TOKENS),
        "a live request bounds its answer"
    );
}

#[cfg(test)]
mod tests;
