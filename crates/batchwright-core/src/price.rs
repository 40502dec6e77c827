//! What things cost: a dated table as data. What it does not name is unknown, never free.

use crate::{Ending, Error, ErrorKind, Lane, Result, Usage};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, iter::Sum, ops::Add};

/// An amount in picodollars (10⁻¹² USD), so that sums of per-token prices are exact; saturates at
/// about 18 million dollars.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Money(u64);

/// What one model costs. Batch and realtime have rates of their own, since discounts differ by counter
/// and do not always stack.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Price {
    /// Direct calls.
    pub realtime: Rates,
    /// Batches; missing is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Rates>,
    /// The day these prices were read, `YYYY-MM-DD`.
    pub as_of: String,
    /// The page they were read on.
    pub source: String,
}

/// USD for a million tokens, by counter of [`Usage`]. A missing rate is unknown: where its counter is not
/// zero, so is the cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Rates {
    /// Input tokens that no cache was involved in.
    pub input: Option<f64>,
    /// Output tokens; 0 for embeddings.
    pub output: Option<f64>,
    /// Input tokens read from the provider's prompt cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<f64>,
    /// Input tokens written to the provider's prompt cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<f64>,
    /// Hidden reasoning tokens; without it they cost as other output, as with every vendor read so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<f64>,
}

/// Prices by `provider:model`.
#[derive(Clone, Debug, Default)]
pub struct PriceTable(BTreeMap<String, Price>);

impl Money {
    /// Nothing at all, which is not the same as unknown.
    pub const ZERO: Self = Self(0);

    /// From picodollars.
    pub const fn from_picodollars(picodollars: u64) -> Self {
        Self(picodollars)
    }

    /// From dollars; negative and non-finite amounts are refused as `None`.
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        let picodollars = dollars * 1e12;
        // The cast saturates, and the range was just checked.
        (picodollars.is_finite() && picodollars >= 0.0).then_some(Self(picodollars.round() as u64))
    }

    /// What is left of it without `other`; nothing where that is more.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// In picodollars.
    pub const fn as_picodollars(self) -> u64 {
        self.0
    }

    /// In dollars.
    pub fn as_dollars(self) -> f64 {
        self.0 as f64 / 1e12
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Money {
    /// As `$1.23`, with more digits below a dollar.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dollars = self.as_dollars();
        match dollars {
            0.0 => f.write_str("$0.00"),
            d if d < 0.01 => write!(f, "${d:.6}"),
            d if d < 1.0 => write!(f, "${d:.4}"),
            d => write!(f, "${d:.2}"),
        }
    }
}

impl Price {
    /// What `usage` costs on `lane`; `None` where a needed rate or counter is unknown.
    pub fn cost(&self, usage: &Usage, lane: Lane) -> Option<Money> {
        match lane {
            Lane::Realtime => self.realtime.cost(usage),
            Lane::Batch => self.batch?.cost(usage),
        }
    }
}

impl Rates {
    fn cost(&self, usage: &Usage) -> Option<Money> {
        let input = usage.input_tokens?;
        // Embeddings report no output, and their output rate is 0.
        let output = usage
            .output_tokens
            .or((self.output == Some(0.0)).then_some(0))?;
        let read = usage.cache_read_input_tokens.unwrap_or(0).min(input);
        let written = usage
            .cache_creation_input_tokens
            .unwrap_or(0)
            .min(input - read);
        let reasoning = usage.reasoning_tokens.unwrap_or(0).min(output);
        let part = |tokens: u64, rate: Option<f64>| {
            if tokens == 0 {
                Some(0.0)
            } else {
                Some(tokens as f64 * rate?)
            }
        };
        let dollars_per_million = part(input - read - written, self.input)?
            + part(read, self.cache_read)?
            + part(written, self.cache_write)?
            + part(output - reasoning, self.output)?
            + part(reasoning, self.reasoning.or(self.output))?;
        Money::from_dollars(dollars_per_million / 1e6)
    }

    fn all(&self) -> [Option<f64>; 5] {
        [
            self.input,
            self.output,
            self.cache_read,
            self.cache_write,
            self.reasoning,
        ]
    }
}

impl PriceTable {
    /// The table this version was released with. Prices change: every figure carries its date, and a
    /// file of the user's own is laid over it with [`PriceTable::overlay`] (F-140).
    pub fn builtin() -> Self {
        let prices =
            serde_json::from_str(include_str!("prices.json")).expect("a test reads the table");
        Self(prices)
    }

    /// Lays a user's table over this one: a JSON object of `"provider:model"` to a price, as in the
    /// built-in table. A named model is replaced whole.
    ///
    /// # Errors
    /// `ConfigInvalid` where the JSON is not such a table, or a price is negative.
    pub fn overlay(&mut self, json: &str) -> Result<()> {
        let prices: BTreeMap<String, Price> = serde_json::from_str(json).map_err(|error| {
            Error::new(
                ErrorKind::ConfigInvalid,
                format!("read the price table: {error}"),
            )
        })?;
        for (name, price) in &prices {
            let rates = [Some(price.realtime), price.batch];
            if rates
                .iter()
                .flatten()
                .flat_map(Rates::all)
                .flatten()
                .any(|value| !value.is_finite() || value < 0.0)
            {
                return Err(Error::new(
                    ErrorKind::ConfigInvalid,
                    format!("a price of {name} is negative"),
                ));
            }
        }
        self.0.extend(prices);
        Ok(())
    }

    /// The price of a model: by its exact name, else by its name without a trailing date
    /// (`-2024-07-18`, `-20240718`).
    pub fn price(&self, provider: &str, model: &str) -> Option<&Price> {
        let find = |model: &str| self.0.get(&format!("{provider}:{model}"));
        find(model).or_else(|| find(without_date(model)?))
    }

    /// What `usage` of `model` costs on `lane`; `None` where the price or a needed counter is unknown.
    pub fn usage_cost(
        &self,
        provider: &str,
        model: &str,
        usage: &Usage,
        lane: Lane,
    ) -> Option<Money> {
        self.price(provider, model)?.cost(usage, lane)
    }

    /// What a request that ended so cost on `lane`, where `model` was asked for. An ending of which the vendors
    /// say that nothing is billed cost nothing; one that may have been billed costs an unknown amount.
    pub fn cost(&self, provider: &str, model: &str, ending: &Ending, lane: Lane) -> Option<Money> {
        match ending {
            Ending::Succeeded(response) | Ending::Refused(response) => {
                // The model that answered may be a dated version with a price of its own.
                let answered = response
                    .model
                    .as_deref()
                    .and_then(|model| self.price(provider, model));
                answered
                    .or_else(|| self.price(provider, model))?
                    .cost(&response.usage, lane)
            }
            Ending::Failed(error) => match error.usage() {
                Some(usage) => self.price(provider, model)?.cost(usage, lane),
                None => (!error.is_ambiguous()).then_some(Money::ZERO),
            },
            Ending::Expired | Ending::Cancelled => Some(Money::ZERO),
            Ending::Missing | Ending::Unreadable(_) => None,
        }
    }

    /// All prices by `provider:model`, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Price)> {
        self.0.iter().map(|(name, price)| (name.as_str(), price))
    }
}

fn without_date(model: &str) -> Option<&str> {
    let dated = |tail: &str, pattern: &str| {
        tail.len() == pattern.len()
            && tail
                .bytes()
                .zip(pattern.bytes())
                .all(|(byte, want)| match want {
                    b'9' => byte.is_ascii_digit(),
                    want => byte == want,
                })
    };
    ["-9999-99-99", "-99999999"]
        .into_iter()
        .find_map(|pattern| {
            let cut = model.len().checked_sub(pattern.len())?;
            let (name, tail) = model.split_at_checked(cut)?;
            (dated(tail, pattern) && !name.is_empty()).then_some(name)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_table_reads_and_every_price_is_dated_and_sourced() {
        let table = PriceTable::builtin();
        assert!(table.iter().count() > 5);
        for (name, price) in table.iter() {
            assert!(
                price.as_of.len() == 10 && price.source.starts_with("https://"),
                "{name}"
            );
            assert!(name.parse::<crate::ModelSpec>().is_ok(), "{name}");
        }
    }

    #[test]
    fn costs_are_exact_and_batches_pay_their_share() {
        let table = PriceTable::builtin();
        let price = table.price("openai", "gpt-4o-mini-2024-07-18").unwrap();
        let usage = Usage {
            cache_read_input_tokens: Some(400),
            ..Usage::of(1000, 100)
        };
        let realtime = price.cost(&usage, Lane::Realtime).unwrap();
        // 600 × 0.15 + 400 × 0.075 + 100 × 0.60, for a million.
        assert_eq!(realtime, Money::from_picodollars(180_000_000));
        assert_eq!(
            price.cost(&usage, Lane::Batch).unwrap().as_picodollars() * 2,
            realtime.as_picodollars()
        );
    }

    #[test]
    fn f_066_unknown_is_unknown_never_zero() {
        let table = PriceTable::builtin();
        assert!(table.price("openai", "gpt-99").is_none());
        let price = table.price("openai", "gpt-4o-mini").unwrap();
        assert_eq!(price.cost(&Usage::default(), Lane::Realtime), None);
        let no_batch = Price {
            batch: None,
            ..price.clone()
        };
        assert_eq!(no_batch.cost(&Usage::of(1, 1), Lane::Batch), None);
        let written = Usage {
            cache_creation_input_tokens: Some(1),
            ..Usage::of(2, 1)
        };
        assert_eq!(
            price.cost(&written, Lane::Realtime),
            None,
            "no rate is known for cache writes"
        );
    }

    #[test]
    fn what_was_not_billed_costs_nothing_and_what_may_have_been_is_unknown() {
        let table = PriceTable::builtin();
        let cost = |ending| table.cost("openai", "gpt-4o-mini", &ending, Lane::Batch);
        assert_eq!(cost(Ending::Cancelled), Some(Money::ZERO));
        assert_eq!(cost(Ending::Expired), Some(Money::ZERO));
        assert_eq!(cost(Ending::Missing), None);
        let failed = |kind| Ending::Failed(Error::new(kind, "x"));
        assert_eq!(cost(failed(ErrorKind::InvalidRequest)), Some(Money::ZERO));
        assert_eq!(cost(failed(ErrorKind::Timeout)), None);
        let answer = crate::Response {
            usage: Usage::of(1000, 0),
            ..crate::Response::from_text("x")
        };
        assert_eq!(
            cost(Ending::Succeeded(answer.clone())),
            Some(Money::from_picodollars(75_000_000))
        );
        assert_eq!(
            table.cost("openai", "gpt-99", &Ending::Succeeded(answer), Lane::Batch),
            None
        );
    }

    #[test]
    fn a_users_file_is_laid_over_the_table() {
        let mut table = PriceTable::builtin();
        let json = r#"{"openai:gpt-4o-mini":{"realtime":{"input":1,"output":2},"as_of":"2026-11-01","source":"https://example.org"}}"#;
        table.overlay(json).unwrap();
        assert_eq!(
            table.price("openai", "gpt-4o-mini").unwrap().realtime.input,
            Some(1.0)
        );
        assert!(
            table
                .overlay(r#"{"a:b":{"realtime":{"input":-1,"output":2},"as_of":"","source":""}}"#)
                .is_err()
        );
        assert!(table.overlay("[]").is_err());
    }

    #[test]
    fn money_reads_well() {
        let shown = |dollars| Money::from_dollars(dollars).unwrap().to_string();
        assert_eq!(
            [shown(0.0), shown(0.000_012), shown(0.25), shown(12.345)],
            ["$0.00", "$0.000012", "$0.2500", "$12.35"]
        );
        assert_eq!(Money::from_dollars(-1.0), None);
    }
}
