//! What a provider supports, as data.
//!
//! The limits of a batch are read by whoever makes batches, and hold before anything is sent. What a direct call
//! can hold is for programs that choose a provider: nothing of ours refuses a request by it, the provider does.

use crate::{Error, ErrorKind, Result};
use std::time::Duration;

/// What a provider supports. A limit nobody documents is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capability {
    /// Endpoints direct calls have words for, in the vendor's spelling; empty where there is no realtime. A raw
    /// body may name others.
    pub realtime_endpoints: Vec<String>,
    /// The batch API, where there is one.
    pub batch: Option<BatchLimits>,
    /// Whether answers can be held to a JSON schema.
    pub json_schema: bool,
    /// Whether tools can be offered.
    pub tools: bool,
    /// The page these facts come from and the day they were read, for people.
    pub source: &'static str,
}

/// Limits and habits of a batch API.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchLimits {
    /// Endpoints a batch can be for, in the vendor's spelling.
    pub endpoints: Vec<String>,
    /// The most requests in one batch.
    pub max_requests: u64,
    /// The most bytes of one batch's input.
    pub max_bytes: u64,
    /// Whether all requests of a batch must name one model.
    pub one_model: bool,
    /// How long the provider takes at most before it lets a batch expire.
    pub window: Duration,
    /// How long results stay, counted from the batch's creation; past that they are gone (F-130).
    pub retention: Duration,
    /// Whether a batch can be cancelled.
    pub cancel: bool,
    /// What identifies our batch in the provider's list, strongest first; empty means an unclear create
    /// cannot be resolved and is held for a person.
    pub list_match: Vec<ListMatch>,
    /// Whether the list is known to be newest first; where not, it is read to its end.
    pub newest_first: bool,
}

/// What identifies a batch of ours in a provider's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListMatch {
    /// The id of the uploaded input, which only this attempt used.
    Input,
    /// The submission tag, in metadata, a label or a display name.
    Tag,
}

impl BatchLimits {
    /// Limits of a batch API with a 24 h window and nothing known of its list.
    pub fn new(endpoints: Vec<String>, max_requests: u64, max_bytes: u64) -> Self {
        Self {
            endpoints,
            max_requests,
            max_bytes,
            one_model: true,
            window: Duration::from_secs(24 * 3600),
            retention: Duration::from_secs(29 * 24 * 3600),
            cancel: true,
            list_match: Vec::new(),
            newest_first: false,
        }
    }

    /// Refuses an endpoint no batch can be for.
    ///
    /// # Errors
    /// `Unsupported` where `endpoint` is not one of [`endpoints`](Self::endpoints).
    pub fn check_endpoint(&self, endpoint: &str) -> Result<()> {
        if self.endpoints.iter().any(|known| known == endpoint) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "no batch can be for the endpoint {endpoint:?}, only for {}",
                self.endpoints.join(", ")
            ),
        ))
    }
}
