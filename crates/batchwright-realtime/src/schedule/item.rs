//! What the schedule keeps of one item, and the error it ends with.

use crate::{
    scope::{Cause, Ticket},
    scope_name::ScopeId,
    spend::Estimate,
};
use batchwright_core::{Error, ErrorKind, RetryClass, RetryState};
use std::time::Duration;

/// One item.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) row: u64,
    pub(super) phase: Phase,
    pub(super) permit: bool,
    pub(super) attempts: u32,
    pub(super) retry: RetryState,
    pub(super) deadline: Option<Duration>,
    pub(super) scope: ScopeId,
    pub(super) estimate: Estimate,
    /// Why the next attempt is made.
    pub(super) cause: Cause,
    /// How often in a row its strategy sent it elsewhere.
    pub(super) moves: u32,
    /// Of the attempt under way.
    pub(super) ticket: Option<Ticket>,
    /// Attempts before the last one that may have been billed.
    pub(super) possibly_paid: u32,
    /// Whether the last one may have been billed although it gave no outcome.
    pub(super) unsure: bool,
}

/// Where an item is.
#[derive(Debug)]
pub(super) enum Phase {
    InFlight,
    /// For its own backoff.
    Waiting {
        until: Duration,
        last: Error,
    },
    /// For its scope; `last` is what it failed with before, if it was tried.
    Queued {
        place: u64,
        last: Option<Error>,
    },
    Recording,
}

impl Item {
    /// Whether it holds no place.
    pub(super) fn waits(&self) -> bool {
        matches!(self.phase, Phase::Waiting { .. } | Phase::Queued { .. })
    }
}

/// Whether rows failed for the same reason.
pub(super) fn is_alike(one: &Error, other: &Error) -> bool {
    one.kind() == other.kind()
        && one.status() == other.status()
        && one.code() == other.code()
        && one.param() == other.param()
}

/// The final error of an item whose deadline leaves no time for another attempt. It keeps the class of
/// the last failure, which says whether that one may have been billed.
pub(super) fn expired(last: Option<Error>) -> Error {
    let Some(last) = last else {
        let message = "end the row before its deadline: it was never its turn";
        return Error::new(ErrorKind::Timeout, message).with_class(RetryClass::NotSent);
    };
    let message = format!("end the row before its deadline: {}", last.message());
    describe(Error::new(ErrorKind::Timeout, message), &last)
        .with_class(last.class())
        .with_attempts(last.attempts())
        .with_source(last)
}

/// Gives `error` what is known of `cause`.
pub(super) fn describe(mut error: Error, cause: &Error) -> Error {
    if let Some(provider) = cause.provider() {
        error = error.with_provider(provider);
    }
    if let Some(model) = cause.model() {
        error = error.with_model(model);
    }
    if let Some(status) = cause.status() {
        error = error.with_status(status);
    }
    if let Some(code) = cause.code() {
        error = error.with_code(code);
    }
    if let Some(param) = cause.param() {
        error = error.with_param(param);
    }
    if let Some(id) = cause.request_id() {
        error = error.with_request_id(id);
    }
    if let Some(usage) = cause.usage() {
        error = error.with_usage(*usage);
    }
    error
}
