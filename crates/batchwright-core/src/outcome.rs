//! How one request ended.

use crate::{Error, Money, Response, Usage};
use std::{fmt, str::FromStr, sync::Arc, time::Duration};

/// How one request ended, and how it came to that. Every request of a job ends in exactly one.
///
/// `T` is what a success holds: the model's [`Response`], or what a strategy of the pool made of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome<T = Response> {
    /// The request's id; from a provider it is the id on the wire, from a job the caller's.
    pub custom_id: String,
    /// How it ended.
    pub ending: Ending<T>,
    /// How it came to that.
    pub provenance: Provenance,
}

/// How a request ended.
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_enums,
    reason = "whoever accounts for rows must handle every ending"
)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every ending is an answer, and a box for each would be one more allocation a row"
)]
pub enum Ending<T = Response> {
    /// The model answered; the answer may be cut off, see [`Response::is_truncated`].
    Succeeded(T),
    /// It failed for good.
    Failed(Error),
    /// The model or a policy refused to answer; the finish reason tells which, and what was said
    /// instead is the content (F-062, F-063).
    Refused(Response),
    /// The batch's window closed before it was its turn; nothing was billed (F-076).
    Expired,
    /// It was cancelled before it was its turn; nothing was billed (F-078).
    Cancelled,
    /// The batch ended and no file holds a line for it (F-097); it may have been billed.
    Missing,
    /// A line for it exists and cannot be read; its bytes are kept (F-104).
    Unreadable(Error),
}

/// How an outcome came about.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Provenance {
    /// The provider's name.
    pub provider: Option<Arc<str>>,
    /// The model asked for.
    pub model: Option<Arc<str>>,
    /// Which way it went.
    pub lane: Option<Lane>,
    /// The provider's id of the batch.
    pub batch: Option<Arc<str>>,
    /// Attempts made, the last one included; 0 where nothing was sent.
    pub attempts: u32,
    /// Attempts besides the last that may have been billed too (F-122).
    pub possibly_paid_attempts: u32,
    /// From the first send to the answer; unknown for batches.
    pub latency: Option<Duration>,
    /// What it cost by the price table, earlier answers that were not used included; unknown where a price or a
    /// counter is.
    pub cost: Option<Money>,
    /// Tokens of earlier answers that were paid and not used, such as those that did not fit a schema. Beside the
    /// usage of the answer itself.
    pub discarded_usage: Usage,
    /// Whether a cache answered instead of a provider.
    pub cached: bool,
}

/// Which way a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lane {
    /// The provider's asynchronous batch API.
    Batch,
    /// Direct calls through the parallel pool.
    Realtime,
}

impl<T> Outcome<T> {
    /// An outcome whose provenance is filled in by those who know it.
    pub fn new(custom_id: impl Into<String>, ending: Ending<T>) -> Self {
        Self {
            custom_id: custom_id.into(),
            ending,
            provenance: Provenance::default(),
        }
    }

    /// The error of a failed or unreadable outcome.
    pub fn error(&self) -> Option<&Error> {
        match &self.ending {
            Ending::Failed(error) | Ending::Unreadable(error) => Some(error),
            _ => None,
        }
    }
}

impl Outcome {
    /// The answer, also a refused one.
    pub fn response(&self) -> Option<&Response> {
        match &self.ending {
            Ending::Succeeded(response) | Ending::Refused(response) => Some(response),
            _ => None,
        }
    }
}

impl<T> Ending<T> {
    /// The ending's stable name: `succeeded`, `failed`, `refused`, `expired`, `cancelled`, `missing`,
    /// `unreadable`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Succeeded(_) => "succeeded",
            Self::Failed(_) => "failed",
            Self::Refused(_) => "refused",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Missing => "missing",
            Self::Unreadable(_) => "unreadable",
        }
    }

    /// Whether the model answered.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Succeeded(_))
    }

    /// The ending with another success, where it is one.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Ending<U> {
        match self {
            Self::Succeeded(output) => Ending::Succeeded(make(output)),
            Self::Failed(error) => Ending::Failed(error),
            Self::Refused(response) => Ending::Refused(response),
            Self::Expired => Ending::Expired,
            Self::Cancelled => Ending::Cancelled,
            Self::Missing => Ending::Missing,
            Self::Unreadable(error) => Ending::Unreadable(error),
        }
    }
}

impl Lane {
    /// The lane's stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Realtime => "realtime",
        }
    }
}

impl FromStr for Lane {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self, Error> {
        match word {
            "batch" => Ok(Self::Batch),
            "realtime" => Ok(Self::Realtime),
            _ => Err(Error::new(
                crate::ErrorKind::ConfigInvalid,
                "a lane is batch or realtime",
            )),
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
