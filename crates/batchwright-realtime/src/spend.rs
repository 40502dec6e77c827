//! The spend budget of a run: how many tokens, how much money and how much time it may use.

use batchwright_core::{Error, ErrorKind, Money, RetryClass};
use std::time::Duration;

/// How much a run may spend. Nothing is spent twice on a row that a later run skips: each run counts afresh.
///
/// A request is sent only while what was used, what is reserved for requests on their way and its own estimate
/// stay within both ceilings. The run therefore passes a ceiling by no more than what the requests in flight
/// use above their estimates; where nothing is estimated, by what they use. Where usage or price is unknown
/// the estimate counts as used, and [`Spent`] says how often that was so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpendOptions {
    /// The most tokens, input and output together. Default none.
    pub max_tokens: Option<u64>,
    /// The most money; needs prices. Default none.
    pub max_cost: Option<Money>,
    /// The longest the run may take, from its start: then nothing more is sent, and rows without an outcome are handed
    /// back as unfinished. Default none.
    pub max_time: Option<Duration>,
    /// What happens to requests in flight when a ceiling is reached.
    pub on_reached: OnReached,
}

/// What happens to requests in flight when a run may send nothing more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnReached {
    /// They end, and their answers are kept. The default: they are paid for.
    #[default]
    Drain,
    /// They are given up; each may be billed all the same.
    Cancel,
}

impl SpendOptions {
    /// Bounds the tokens.
    #[must_use]
    pub fn with_max_tokens(mut self, tokens: Option<u64>) -> Self {
        self.max_tokens = tokens;
        self
    }

    /// Bounds the money.
    #[must_use]
    pub fn with_max_cost(mut self, cost: Option<Money>) -> Self {
        self.max_cost = cost;
        self
    }

    pub(crate) fn is_bounded(&self) -> bool {
        self.max_tokens.is_some() || self.max_cost.is_some()
    }

    /// Bounds the time.
    #[must_use]
    pub fn with_max_time(mut self, time: Option<Duration>) -> Self {
        self.max_time = time;
        self
    }

    /// Sets what happens to requests in flight.
    #[must_use]
    pub fn with_on_reached(mut self, on_reached: OnReached) -> Self {
        self.on_reached = on_reached;
        self
    }
}

/// What a run used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Spent {
    /// Tokens of attempts that came back; estimates where the provider did not say.
    pub tokens: u64,
    /// Money of attempts that came back; estimates where usage or price is unknown.
    pub cost: Money,
    /// Attempts whose tokens are an estimate.
    pub unknown_tokens: u64,
    /// Attempts whose money is an estimate.
    pub unknown_cost: u64,
}

/// What an attempt is expected to use; nothing where nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Estimate {
    pub(crate) tokens: u64,
    pub(crate) cost: Money,
}

/// Whether another attempt may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Yes,
    /// Perhaps when an attempt in flight has used less than was reserved for it.
    WhenSettled,
    /// No: the run ends.
    Reached,
}

/// The spend budget of a run.
#[derive(Clone, Debug)]
pub(crate) struct Spend {
    options: SpendOptions,
    spent: Spent,
    reserved_tokens: u64,
    reserved_cost: u64,
    in_flight: u64,
    is_over: bool,
}

impl Spend {
    pub(crate) fn new(options: SpendOptions) -> Self {
        Self {
            options,
            spent: Spent::default(),
            reserved_tokens: 0,
            reserved_cost: 0,
            in_flight: 0,
            is_over: false,
        }
    }

    pub(crate) fn room(&self, estimate: Estimate) -> Room {
        if !self.options.is_bounded() {
            return Room::Yes;
        }
        let tokens = side(
            self.options.max_tokens,
            self.spent.tokens,
            self.reserved_tokens,
            estimate.tokens,
        );
        let cost = side(
            self.options.max_cost.map(Money::as_picodollars),
            self.spent.cost.as_picodollars(),
            self.reserved_cost,
            estimate.cost.as_picodollars(),
        );
        match (tokens, cost) {
            (Room::Yes, Room::Yes) => Room::Yes,
            (Room::Reached, _) | (_, Room::Reached) => Room::Reached,
            // Nothing will settle.
            _ if self.in_flight == 0 => Room::Reached,
            _ => Room::WhenSettled,
        }
    }

    /// An attempt starts. Only when there is [`Spend::room`].
    pub(crate) fn reserve(&mut self, estimate: Estimate) {
        self.in_flight += 1;
        self.reserved_tokens = self.reserved_tokens.saturating_add(estimate.tokens);
        let cost = estimate.cost.as_picodollars();
        self.reserved_cost = self.reserved_cost.saturating_add(cost);
    }

    /// The attempt came back and used this; `None` is unknown.
    pub(crate) fn settle(&mut self, estimate: Estimate, tokens: Option<u64>, cost: Option<Money>) {
        self.refund(estimate);
        let spent = &mut self.spent;
        spent.tokens = spent
            .tokens
            .saturating_add(tokens.unwrap_or(estimate.tokens));
        spent.cost = spent.cost + cost.unwrap_or(estimate.cost);
        spent.unknown_tokens += u64::from(tokens.is_none());
        spent.unknown_cost += u64::from(cost.is_none());
    }

    /// The attempt used nothing: it was not sent, or refused.
    pub(crate) fn refund(&mut self, estimate: Estimate) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.reserved_tokens = self.reserved_tokens.saturating_sub(estimate.tokens);
        let cost = estimate.cost.as_picodollars();
        self.reserved_cost = self.reserved_cost.saturating_sub(cost);
    }

    /// The error to end the run with.
    pub(crate) fn reached(&mut self) -> Error {
        self.is_over = true;
        let ceiling = match (self.options.max_tokens, self.options.max_cost) {
            (Some(tokens), Some(cost)) => format!("{tokens} tokens or {cost}"),
            (Some(tokens), None) => format!("{tokens} tokens"),
            (None, Some(cost)) => cost.to_string(),
            (None, None) => unreachable!("without a ceiling there is room"),
        };
        let message = format!(
            "go on: the spend budget of {ceiling} has no room for another request after {} tokens and {}",
            self.spent.tokens, self.spent.cost
        );
        Error::new(ErrorKind::QuotaExceeded, message)
    }

    /// When the run is to have ended, since it began.
    pub(crate) fn ends_at(&self) -> Option<Duration> {
        self.options.max_time
    }

    /// The error to end a run with that took its time.
    pub(crate) fn late(&mut self) -> Error {
        self.is_over = true;
        let time = self.options.max_time.unwrap_or_default();
        Error::new(
            ErrorKind::Timeout,
            format!("go on: the run has taken the {time:?} it was given"),
        )
        .with_class(RetryClass::JobStop)
    }

    /// Whether [`Spend::reached`] or [`Spend::late`] was asked.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(crate) fn on_reached(&self) -> OnReached {
        self.options.on_reached
    }

    pub(crate) fn spent(&self) -> Spent {
        self.spent
    }
}

fn side(ceiling: Option<u64>, spent: u64, reserved: u64, estimate: u64) -> Room {
    let Some(ceiling) = ceiling else {
        return Room::Yes;
    };
    let alone = spent.saturating_add(estimate);
    if spent >= ceiling || alone > ceiling {
        Room::Reached
    } else if alone.saturating_add(reserved) > ceiling {
        Room::WhenSettled
    } else {
        Room::Yes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, option, prelude::*};

    fn tokens(tokens: u64) -> Estimate {
        Estimate {
            tokens,
            ..Estimate::default()
        }
    }

    #[test]
    fn ax_167_reaching_the_ceiling_ends_sending_and_reservations_hold_it() {
        let mut spend = Spend::new(SpendOptions::default().with_max_tokens(Some(100)));
        spend.reserve(tokens(60));
        assert_eq!(spend.room(tokens(40)), Room::Yes);
        assert_eq!(spend.room(tokens(41)), Room::WhenSettled);
        spend.settle(tokens(60), Some(30), None);
        assert_eq!(spend.room(tokens(41)), Room::Yes);
        assert_eq!(spend.room(tokens(71)), Room::Reached, "it never fits");
        spend.reserve(tokens(70));
        spend.settle(tokens(70), Some(70), None);
        assert_eq!(
            spend.room(Estimate::default()),
            Room::Reached,
            "equality reaches it"
        );
        assert!(spend.reached().message().contains("100 tokens"));
    }

    #[test]
    fn ax_171_what_is_unknown_counts_as_its_estimate_and_is_told() {
        let mut spend = Spend::new(SpendOptions::default());
        let estimate = Estimate {
            tokens: 10,
            cost: Money::from_picodollars(7),
        };
        spend.reserve(estimate);
        spend.settle(estimate, None, None);
        spend.reserve(estimate);
        spend.refund(estimate);
        let spent = spend.spent();
        assert_eq!((spent.tokens, spent.cost), (10, estimate.cost));
        assert_eq!((spent.unknown_tokens, spent.unknown_cost), (1, 1));
    }

    #[test]
    fn a_ceiling_in_money_counts_too() {
        let dollar = Money::from_dollars(1.0).unwrap();
        let mut spend = Spend::new(SpendOptions::default().with_max_cost(Some(dollar)));
        assert_eq!(spend.room(tokens(u64::MAX)), Room::Yes);
        spend.reserve(Estimate::default());
        spend.settle(Estimate::default(), None, Some(dollar));
        assert_eq!(spend.room(Estimate::default()), Room::Reached);
    }

    proptest! {
        /// AX-170: used is at most the ceiling and what attempts used above their estimates; waiting ends when
        /// nothing is in flight.
        #[test]
        fn overshoot_is_bounded(
            ceiling in 0u64..5_000,
            steps in vec((any::<bool>(), 0u64..200, option::of(0u64..300)), 0..300),
        ) {
            let mut spend = Spend::new(SpendOptions::default().with_max_tokens(Some(ceiling)));
            let mut open: Vec<Estimate> = Vec::new();
            let mut over = 0;
            for (starts, estimate, actual) in steps {
                let estimate = tokens(estimate);
                match spend.room(estimate) {
                    Room::Yes if starts => {
                        spend.reserve(estimate);
                        open.push(estimate);
                    }
                    Room::WhenSettled => prop_assert!(!open.is_empty()),
                    Room::Yes | Room::Reached => {}
                }
                if !starts && let Some(estimate) = open.pop() {
                    let used = actual.unwrap_or(estimate.tokens);
                    over += used.saturating_sub(estimate.tokens);
                    spend.settle(estimate, actual, None);
                }
                prop_assert!(spend.spent().tokens <= ceiling + over);
            }
        }
    }
}
