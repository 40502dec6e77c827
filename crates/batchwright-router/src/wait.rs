//! Waiting for the end of many batches.

use crate::options::{RouterOptions, grown};
use batchwright_core::{BatchHandle, BatchSnapshot, Error, ErrorKind};
use std::{fmt, time::Duration};

#[cfg(test)]
mod tests;

/// How long and how often to ask, for one call. What is not set is the router's ([`RouterOptions`]).
///
/// ```
/// # use batchwright_router::WaitOptions;
/// # use std::time::Duration;
/// let hurried = WaitOptions::default()
///     .with_poll(Duration::from_secs(15), Duration::from_secs(60))
///     .with_timeout(Duration::from_secs(3600));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitOptions {
    /// The first wait between two polls; each wait is half as long again as the one before. The router's default is
    /// 60 s.
    pub poll: Option<Duration>,
    /// The longest wait between two polls. The router's default is 300 s.
    pub cap: Option<Duration>,
    /// How long to wait in all. The router's default is 24 h.
    pub timeout: Option<Duration>,
}

impl WaitOptions {
    /// Sets the waits between polls.
    #[must_use]
    pub fn with_poll(mut self, poll: Duration, cap: Duration) -> Self {
        self.poll = Some(poll);
        self.cap = Some(cap);
        self
    }

    /// Sets how long to wait in all.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// When to ask next: growing waits, begun anew when a batch has ended, and never past the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rhythm {
    poll: Duration,
    cap: Duration,
    timeout: Duration,
    waits: u32,
}

impl Rhythm {
    pub(crate) fn new(wait: WaitOptions, options: &RouterOptions) -> Self {
        Self {
            poll: wait.poll.unwrap_or(options.poll_initial),
            cap: wait.cap.unwrap_or(options.poll_cap),
            timeout: wait.timeout.unwrap_or(options.timeout),
            waits: 0,
        }
    }

    /// The next wait, `waited` into the whole; `None` where the time is up.
    pub(crate) fn next(&mut self, waited: Duration, some_ended: bool) -> Option<Duration> {
        if waited >= self.timeout {
            return None;
        }
        if some_ended {
            self.waits = 0;
        }
        let wait = grown(self.poll, self.cap, self.waits);
        self.waits = self.waits.saturating_add(1);
        Some(wait.min(self.timeout - waited))
    }
}

/// Not every batch has ended in time, or one could not be asked after. Nothing was cancelled: the batches go on at their
/// providers and can be waited for again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WaitError {
    /// Those that have ended.
    pub ended: Vec<BatchSnapshot>,
    /// Those that have not, as far as is known.
    pub late: Vec<BatchHandle>,
    /// Why it is no use to wait on, where that is not the time.
    pub cause: Option<Error>,
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let late: Vec<String> = self
            .late
            .iter()
            .map(|handle| format!("{} at {}", handle.id, handle.provider))
            .collect();
        match &self.cause {
            Some(error) => write!(f, "{error}; ")?,
            None => write!(f, "waited long enough; ")?,
        }
        write!(
            f,
            "not ended and going on at their providers: {}",
            late.join(", ")
        )
    }
}

impl std::error::Error for WaitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|error| error as _)
    }
}

impl From<WaitError> for Error {
    fn from(error: WaitError) -> Self {
        let kind = error.cause.as_ref().map_or(ErrorKind::Timeout, Error::kind);
        Error::new(kind, error.to_string())
    }
}
