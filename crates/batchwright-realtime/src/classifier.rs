//! A caller's own view of what an error means.

use batchwright_core::{Error, ErrorKind, RetryClass};
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// The code of the error an attempt ends with whose classifier panicked.
const FAILED: &str = "classifier_failed";

/// Says what a failed attempt means, before anything is decided upon it.
///
/// Providers classify by tables of their own, one per vendor, which are the default; a classifier comes on top of them,
/// for a gateway or a server with habits of its own. What an error says for deciding are its
/// [`kind`](Error::kind) (is it a rate limit, a timeout, …), its [`class`](Error::class) (what may follow),
/// [`should_retry`](Error::should_retry) and [`retry_after`](Error::retry_after).
///
/// A class is a promise about money: `NotSent` and `Rejected` are tried again freely, so that an answer that may have
/// been billed must stay [`Ambiguous`](RetryClass::Ambiguous).
///
/// ```
/// use batchwright_core::{Error, ErrorKind, RetryClass};
/// use batchwright_realtime::ErrorClassifier;
///
/// // A gateway that says 409 where it means "busy".
/// let classifier = |error: Error| match error.status() {
///     Some(409) => Error::new(ErrorKind::Overloaded, "get a place at the gateway")
///         .with_status(409)
///         .with_source(error),
///     _ => error,
/// };
/// let busy = classifier.classify(Error::new(ErrorKind::Conflict, "call").with_status(409));
/// assert_eq!(busy.class(), RetryClass::Rejected);
/// ```
pub trait ErrorClassifier: Send + Sync {
    /// The error to decide upon: the same, or one of another kind or class. Called once for each failed attempt; must
    /// not block. One that panics fails the item.
    fn classify(&self, error: Error) -> Error;
}

impl<F: Fn(Error) -> Error + Send + Sync> ErrorClassifier for F {
    fn classify(&self, error: Error) -> Error {
        self(error)
    }
}

impl fmt::Debug for dyn ErrorClassifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ErrorClassifier")
    }
}

pub(crate) fn classify(classifier: &dyn ErrorClassifier, error: Error) -> Error {
    let given = error.clone();
    catch_unwind(AssertUnwindSafe(|| classifier.classify(given))).unwrap_or_else(|_panic| {
        let class = match error.class() {
            RetryClass::Ambiguous => RetryClass::Ambiguous,
            _ => RetryClass::RowFatal,
        };
        Error::new(
            ErrorKind::Unexpected,
            "classify an error: the classifier panicked",
        )
        .with_class(class)
        .with_should_retry(false)
        .with_code(FAILED)
        .with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_classifier_that_panics_ends_the_row_and_keeps_the_doubt_about_money() {
        let broken = |_: Error| -> Error { panic!("on purpose") };
        for (kind, class) in [
            (ErrorKind::Timeout, RetryClass::Ambiguous),
            (ErrorKind::RateLimited, RetryClass::RowFatal),
        ] {
            let error = classify(&broken, Error::new(kind, "call"));
            assert_eq!((error.class(), error.code()), (class, Some(FAILED)));
            assert!(!error.is_retryable());
        }
    }
}
