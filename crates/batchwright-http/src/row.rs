//! What answers become: as direct calls an error or a response, as lines of a batch's results an outcome.

use crate::{RetryHints, hollow};
use batchwright_core::{Ending, Error, ErrorKind, Lane, Outcome, RawJson, Response, Result, Usage};
use serde_json::value::RawValue;
use std::sync::Arc;

/// Why a successful answer's body holds no answer.
#[derive(Debug)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a row that failed and one that cannot be read end differently, and there is no third"
)]
pub enum Unanswered {
    /// It holds an error of the server's (F-050).
    Said(Error),
    /// It holds nothing that can be understood.
    Hollow(Error),
}

impl Unanswered {
    /// There is nothing in it, as [`hollow`] says.
    pub fn hollow(message: &'static str) -> Self {
        Self::Hollow(hollow(message))
    }

    /// The error, for a direct call, to which both are the same.
    pub fn into_error(self) -> Error {
        match self {
            Self::Said(error) | Self::Hollow(error) => error,
        }
    }

    /// The same with more said of the error.
    #[must_use]
    pub fn map(self, more: impl FnOnce(Error) -> Error) -> Self {
        match self {
            Self::Said(error) => Self::Said(more(error)),
            Self::Hollow(error) => Self::Hollow(more(error)),
        }
    }

    /// The same with what it cost, which is known of an unusable answer all the same.
    #[must_use]
    pub fn with_usage(self, usage: Usage) -> Self {
        if usage.is_unknown() {
            return self;
        }
        self.map(|error| error.with_usage(usage))
    }
}

/// The answer of a direct call that succeeded: what `read` finds in its body, empty where that is no text, and what
/// its headers and its bytes say beside. A `read` that keeps the body itself spares it another reading.
///
/// # Errors
/// Why there is no answer, with status and headers.
pub fn direct_answer(
    body: &[u8],
    status: u16,
    hints: RetryHints,
    read: impl FnOnce(&str) -> Result<Response, Unanswered>,
) -> Result<Response> {
    let body = str::from_utf8(body).unwrap_or_default();
    match read(body) {
        Ok(mut response) => {
            response.request_id = hints.request_id.or(response.request_id);
            response.rate_limit = hints.rate_limit;
            if response.raw.is_none() {
                let raw = serde_json::from_str::<&RawValue>(body);
                response.raw = raw.ok().map(RawJson::from);
            }
            Ok(response)
        }
        Err(unanswered) => Err(hints.apply(unanswered.into_error().with_status(status))),
    }
}

/// The error of a result line that cannot be read; it may have been paid.
pub fn unreadable(what: &str) -> Error {
    Error::new(ErrorKind::ProviderFault, format!("read the result: {what}"))
}

/// How a row ended whose answer was read, and the model that answered.
pub fn answered(read: Result<Response, Unanswered>) -> (Ending, Option<Arc<str>>) {
    match read {
        Ok(answer) => {
            let model = answer.model.as_deref().map(Arc::from);
            (answer.into_ending(), model)
        }
        Err(Unanswered::Said(error)) => (Ending::Failed(error), None),
        Err(Unanswered::Hollow(error)) => (Ending::Unreadable(error), None),
    }
}

/// The outcome of a batch's row that ended so, under this provider's name.
pub fn row_outcome(
    custom_id: impl Into<String>,
    (ending, model): (Ending, Option<Arc<str>>),
    provider: &Arc<str>,
) -> Outcome {
    let ending = match ending {
        Ending::Failed(error) => Ending::Failed(error.with_provider(provider.clone())),
        Ending::Unreadable(error) => Ending::Unreadable(error.with_provider(provider.clone())),
        other => other,
    };
    let mut outcome = Outcome::new(custom_id, ending);
    outcome.provenance.provider = Some(provider.clone());
    outcome.provenance.model = model;
    outcome.provenance.lane = Some(Lane::Batch);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_053_an_answer_has_what_headers_and_bytes_say_and_its_error_too() {
        let hints = || RetryHints {
            request_id: Some("req_1".to_owned()),
            ..RetryHints::default()
        };
        let answer = direct_answer(br#"{"a":1}"#, 200, hints(), |body| {
            assert_eq!(body, r#"{"a":1}"#);
            Ok(Response::default())
        })
        .unwrap();
        assert_eq!(answer.request_id.as_deref(), Some("req_1"));
        assert_eq!(answer.raw.unwrap().get(), r#"{"a":1}"#);
        let kept = direct_answer(br#"{"a":1}"#, 200, hints(), |body| {
            let mut response = Response::default();
            response.raw = Some(RawJson::parse(body.replace('1', "2")).unwrap());
            Ok(response)
        })
        .unwrap();
        assert_eq!(kept.raw.unwrap().get(), r#"{"a":2}"#);
        let other = direct_answer(b"<html>", 200, hints(), |_| Ok(Response::default())).unwrap();
        assert_eq!(other.raw, None, "what is kept is JSON");
        let error = direct_answer(b"{\"a\":\"\xff\"}", 200, hints(), |body| {
            assert_eq!(body, "");
            Err(Unanswered::hollow("read the answer: it is none"))
        })
        .unwrap_err();
        assert_eq!(
            (error.status(), error.request_id()),
            (Some(200), Some("req_1"))
        );
    }

    #[test]
    fn f_050_f_051_a_failed_row_and_an_unreadable_one_end_apart_and_name_whose_they_are() {
        let provider: Arc<str> = Arc::from("acme");
        let said = Unanswered::Said(Error::new(ErrorKind::RateLimited, "busy"));
        let outcome = row_outcome("a", answered(Err(said)), &provider);
        let Ending::Failed(error) = &outcome.ending else {
            panic!("{outcome:?}");
        };
        assert_eq!(error.provider(), Some("acme"));
        let hollow = Unanswered::hollow("read the answer: nothing");
        let outcome = row_outcome("a", answered(Err(hollow)), &provider);
        let Ending::Unreadable(error) = &outcome.ending else {
            panic!("{outcome:?}");
        };
        assert_eq!(error.provider(), Some("acme"));
        assert!(error.is_ambiguous());

        let mut response = Response::default();
        response.model = Some("m-1".to_owned());
        let outcome = row_outcome("b", answered(Ok(response)), &provider);
        assert_eq!(outcome.provenance.model.as_deref(), Some("m-1"));
        assert_eq!(outcome.provenance.lane, Some(Lane::Batch));
    }
}
