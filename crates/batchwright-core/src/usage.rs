//! Token counters as a provider reported them.

use serde::{Deserialize, Serialize};

/// Token counters of one request, or the sum of many. A counter nobody reported is `None`, never zero.
///
/// `cache_read_input_tokens` and `cache_creation_input_tokens` are parts of `input_tokens`, and
/// `reasoning_tokens` is a part of `output_tokens`: providers whose wire counts them apart are
/// normalised to this where their answer is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens read, cached ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Tokens written, hidden reasoning included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// The part of `input_tokens` served from the provider's prompt cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read_input_tokens: Option<u64>,
    /// The part of `input_tokens` written to the provider's prompt cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_creation_input_tokens: Option<u64>,
    /// The part of `output_tokens` spent on hidden reasoning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
}

impl Usage {
    /// Counters of a plain call; the three detail counters stay unknown.
    pub fn of(input_tokens: u64, output_tokens: u64) -> Self {
        Self {
            input_tokens: Some(input_tokens),
            output_tokens: Some(output_tokens),
            ..Self::default()
        }
    }

    /// Whether the provider reported nothing at all (F-066).
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }

    /// Input plus output; `None` unless both are known.
    pub fn total_tokens(&self) -> Option<u64> {
        Some(self.input_tokens?.saturating_add(self.output_tokens?))
    }

    /// Adds another request's counters, saturating; an unknown counter adds nothing, so callers who
    /// need to know how much is missing count the unknown ones beside the sum.
    pub fn add(&mut self, other: &Usage) {
        fn sum(into: &mut Option<u64>, from: Option<u64>) {
            if let Some(from) = from {
                *into = Some(into.unwrap_or(0).saturating_add(from));
            }
        }
        sum(&mut self.input_tokens, other.input_tokens);
        sum(&mut self.output_tokens, other.output_tokens);
        sum(
            &mut self.cache_read_input_tokens,
            other.cache_read_input_tokens,
        );
        sum(
            &mut self.cache_creation_input_tokens,
            other.cache_creation_input_tokens,
        );
        sum(&mut self.reasoning_tokens, other.reasoning_tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_066_unknown_stays_unknown_in_sums_and_on_the_wire() {
        let mut sum = Usage::default();
        sum.add(&Usage::default());
        assert!(sum.is_unknown());
        assert_eq!(serde_json::to_string(&sum).unwrap(), "{}");
        sum.add(&Usage::of(3, 4));
        sum.add(&Usage {
            input_tokens: Some(u64::MAX),
            ..Usage::default()
        });
        assert_eq!(sum.input_tokens, Some(u64::MAX));
        assert_eq!(sum.reasoning_tokens, None);
        assert_eq!(
            Usage {
                input_tokens: Some(1),
                ..Usage::default()
            }
            .total_tokens(),
            None
        );
    }
}
