//! Settings that are likely not meant so.

use crate::PoolOptions;
use std::{fmt, time::Duration};

/// Files a process has open besides its calls: the log, the standard streams, the runtime's own, and some to spare.
const OTHER_FILES: u64 = 128;

/// A setting that is likely not meant so. Nothing is changed because of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// An item's deadline is no longer than one attempt's timeout: a slow first attempt leaves no time for another.
    #[non_exhaustive]
    DeadlineBelowAttempt {
        /// The item's deadline.
        deadline: Duration,
        /// The attempt's timeout.
        attempt_timeout: Duration,
    },
    /// An item's deadline may cut its retries short: the waits between attempts alone can take longer.
    #[non_exhaustive]
    DeadlineBelowRetries {
        /// The item's deadline.
        deadline: Duration,
        /// Twice the longest wait for each attempt.
        recommended: Duration,
    },
    /// Two rows of a collected run have one id. Told once for a run; both are answered.
    #[non_exhaustive]
    DuplicateId {
        /// The row that ended later.
        row: u64,
    },
    /// The process may open too few files for so many calls at once.
    #[non_exhaustive]
    FewOpenFiles {
        /// How many it may open.
        limit: u64,
        /// How many it should be allowed.
        recommended: u64,
    },
    /// An item is given up before a server's longest wait that would be honoured is over.
    #[non_exhaustive]
    DeadlineBelowServerWait {
        /// The item's deadline.
        deadline: Duration,
        /// The longest wait a server may ask for.
        ceiling: Duration,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeadlineBelowAttempt {
                deadline,
                attempt_timeout,
            } => write!(
                f,
                "an item's deadline of {deadline:?} is no longer than an attempt's timeout of {attempt_timeout:?}: \
                 raise `item_deadline` or lower `attempt_timeout`"
            ),
            Self::DeadlineBelowRetries {
                deadline,
                recommended,
            } => write!(
                f,
                "an item's deadline of {deadline:?} may cut its retries short: give it {recommended:?}, or lower \
                 `retry.max_attempts` or `retry.cap`"
            ),
            Self::DuplicateId { row } => write!(
                f,
                "row {row} has the id of another row: look results up by row or place, since by id only the last is found"
            ),
            Self::FewOpenFiles { limit, recommended } => write!(
                f,
                "this process may open {limit} files, which is few for so many calls at once: `ulimit -n {recommended}`"
            ),
            Self::DeadlineBelowServerWait { deadline, ceiling } => write!(
                f,
                "an item's deadline of {deadline:?} is shorter than the wait of {ceiling:?} a server may ask for: lower \
                 `retry.ceiling`, or raise `item_deadline`"
            ),
        }
    }
}

impl PoolOptions {
    /// What is likely not meant so in these settings, where the process may open `open_files` files
    /// ([`open_file_limit`]); `None` is no limit, or one nobody knows. A run logs and tells these
    /// ([`Event::Warned`](crate::Event::Warned)) at its start.
    ///
    /// An item's deadline should be at least twice `max_attempts` × the longest wait; a process should have 128 files
    /// beside its calls, and better four for each call, or 8,192.
    ///
    /// ```
    /// use batchwright_realtime::PoolOptions;
    /// use std::time::Duration;
    ///
    /// assert!(PoolOptions::default().lint(Some(1024)).is_empty());
    /// let short = PoolOptions::default().with_item_deadline(Some(Duration::from_secs(60)));
    /// assert_eq!(short.lint(None).len(), 1);
    /// ```
    pub fn lint(&self, open_files: Option<u64>) -> Vec<Warning> {
        let mut warnings = Vec::new();
        if let Some(deadline) = self.item_deadline {
            let tries = self.retry.max_attempts.unwrap_or(0);
            let recommended = self.retry.cap.saturating_mul(tries).saturating_mul(2);
            if deadline <= self.attempt_timeout {
                warnings.push(Warning::DeadlineBelowAttempt {
                    deadline,
                    attempt_timeout: self.attempt_timeout,
                });
            } else if tries > 1 && deadline < recommended {
                warnings.push(Warning::DeadlineBelowRetries {
                    deadline,
                    recommended,
                });
            } else if deadline < self.retry.ceiling {
                warnings.push(Warning::DeadlineBelowServerWait {
                    deadline,
                    ceiling: self.retry.ceiling,
                });
            }
        }
        let calls = self.max_in_flight as u64;
        if let Some(limit) = open_files
            && limit.saturating_sub(calls) < OTHER_FILES
        {
            warnings.push(Warning::FewOpenFiles {
                limit,
                recommended: calls.saturating_mul(4).max(8192),
            });
        }
        warnings
    }
}

/// How many files this process may open; `None` where there is no limit or the system does not say.
pub fn open_file_limit() -> Option<u64> {
    #[cfg(unix)]
    {
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current
    }
    #[cfg(not(unix))]
    {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_45_a_deadline_that_cuts_retries_short_is_told() {
        let mut options = PoolOptions::default()
            .with_attempt_timeout(MINUTE)
            .with_item_deadline(Some(5 * MINUTE));
        options.retry.max_attempts = Some(3);
        options.retry.ceiling = MINUTE;
        let recommended = 6 * MINUTE;
        let told = Warning::DeadlineBelowRetries {
            deadline: 5 * MINUTE,
            recommended,
        };
        assert_eq!(options.lint(None), [told]);
        options.item_deadline = Some(recommended);
        assert_eq!(options.lint(None), []);
        options.item_deadline = Some(MINUTE);
        assert!(matches!(
            options.lint(None)[..],
            [Warning::DeadlineBelowAttempt { .. }]
        ));
        options.item_deadline = None;
        assert_eq!(options.lint(None), []);
    }

    #[test]
    fn f_158_few_open_files_are_told() {
        let options = PoolOptions::default().with_max_in_flight(3000);
        assert_eq!(options.lint(Some(3128)), []);
        let told = Warning::FewOpenFiles {
            limit: 3127,
            recommended: 12_000,
        };
        assert_eq!(options.lint(Some(3127)), [told]);
        assert!(open_file_limit().is_none_or(|limit| limit > 0));
    }
}
