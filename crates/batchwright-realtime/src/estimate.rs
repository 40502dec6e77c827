//! What a request will use, guessed before it is sent.

use batchwright_core::Request;
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// Output tokens where nothing is known. Most answers to bulk work are short; usage sets it right.
const OUTPUT: u64 = 256;

/// How many tokens a request is expected to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenEstimate {
    /// Tokens read.
    pub input: u64,
    /// Tokens written.
    pub output: u64,
}

impl TokenEstimate {
    /// So many tokens read and written.
    pub fn new(input: u64, output: u64) -> Self {
        Self { input, output }
    }

    /// Both together.
    pub fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }
}

/// Guesses what a request will use, for gates by tokens and for the spend budget.
///
/// The default takes [`Request::estimated_input_tokens`] and 256 output tokens, or the request's own bound where
/// that is lower. It is only as good as that: a tokenizer does better.
#[derive(Clone, Default)]
pub struct TokenEstimator(Option<Arc<Guess>>);

type Guess = dyn Fn(&Request) -> TokenEstimate + Send + Sync;

impl TokenEstimator {
    /// Asks `guess`, once for each row and again where a row's next attempt goes elsewhere. It runs between other
    /// rows' events, so it must not block; where it panics the default counts.
    pub fn new(guess: impl Fn(&Request) -> TokenEstimate + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(guess)))
    }

    pub(crate) fn estimate(&self, request: &Request) -> TokenEstimate {
        if let Some(guess) = &self.0
            && let Ok(estimate) = catch_unwind(AssertUnwindSafe(|| guess(request)))
        {
            return estimate;
        }
        let most = request
            .sampling
            .max_output_tokens()
            .map_or(OUTPUT, u64::from);
        TokenEstimate::new(request.estimated_input_tokens(), most.min(OUTPUT))
    }
}

impl fmt::Debug for TokenEstimator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.0.is_some() { "own" } else { "default" };
        f.debug_tuple("TokenEstimator").field(&name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright_core::{Message, Sampling};

    #[test]
    fn ax_147_the_default_counts_the_prompt_and_a_short_answer() {
        let request = Request::chat("1", "m", [Message::user("x".repeat(400))]);
        let estimate = TokenEstimator::default().estimate(&request);
        assert_eq!(estimate.input, request.estimated_input_tokens());
        assert_eq!(estimate.output, 256);
        let short = Sampling::new().with_max_output_tokens(10).unwrap();
        let estimate = TokenEstimator::default().estimate(&request.with_sampling(short));
        assert_eq!(estimate.output, 10);
    }

    #[test]
    fn ax_148_a_guess_that_panics_harms_nothing() {
        let request = Request::chat("1", "m", [Message::user("x")]);
        let default = TokenEstimator::default().estimate(&request);
        assert_eq!(
            TokenEstimator::new(|_| panic!("x")).estimate(&request),
            default
        );
        let own = TokenEstimator::new(|_| TokenEstimate::new(1, 2));
        assert_eq!(own.estimate(&request).total(), 3);
    }
}
