//! What a provider supports, as data.
//!
//! The limits of a batch are read by whoever makes batches, and hold before anything is sent. What a direct call
//! can hold is for programs that choose a provider: nothing of ours refuses a request by it, the provider does.

use crate::{BatchStatus, Error, ErrorKind, Result};
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
    /// How the lines get to the provider. Default [`BatchInput::Uploaded`].
    pub input: BatchInput,
    /// Whether all requests of a batch must name one model.
    pub one_model: bool,
    /// Which ids a line may carry. Default [`IdRule::ANY`]; ours are [`WireId`](crate::WireId)s, which obey the
    /// strictest known.
    pub custom_id: IdRule,
    /// Parameters a direct call takes and a line of a batch must not carry, in the vendor's spelling; for a
    /// preflight, which names the row.
    pub unsupported: &'static [&'static str],
    /// How long the provider takes at most before it lets a batch expire: the choices, the one taken by default
    /// first.
    pub windows: Vec<Duration>,
    /// How much less than a direct call a batch costs, in percent, where it is one number for all models; for an
    /// estimate where the price table names no price of a batch.
    pub discount_percent: Option<u8>,
    /// How long results stay, counted from the batch's creation; past that they are gone (F-130). For a
    /// preflight, which says until when to collect.
    pub retention: Duration,
    /// Whether a batch can be cancelled.
    pub cancel: bool,
    /// What identifies our batch in the provider's list, strongest first; empty means an unclear create
    /// cannot be resolved and is held for a person.
    pub list_match: Vec<ListMatch>,
    /// How long a batch usually takes from its creation to its end, where the vendor says; `None`, the default, is
    /// the window. For telling a batch that is slow from one that is not; nothing ends by it.
    pub typical: Option<Duration>,
    /// The most batches that may be open at once in one account, where the vendor says. Default `None`.
    pub max_open: Option<u64>,
}

/// How long a state other than running usually lasts at most where no vendor says: OpenAI has been seen to check an
/// input for 51 minutes (F-070) and to write results for hours (F-072).
const TYPICAL_STEP: Duration = Duration::from_secs(3600);

/// How long a cancel takes at most, by the specifications of OpenAI and Groq.
const TYPICAL_CANCEL: Duration = Duration::from_secs(600);

/// How a batch's lines get to the provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchInput {
    /// They are stored there first and the create names them: [`upload`](crate::BatchProvider::upload),
    /// [`find_upload`](crate::BatchProvider::find_upload) and [`discard`](crate::BatchProvider::discard) are
    /// called. A create that shows no effect is fenced by deleting what it names.
    #[default]
    Uploaded,
    /// The create itself carries them: those three are never called, and the create gets an empty
    /// [`InputRef`](crate::InputRef). Nothing can keep a create of unclear fate from running late, so one that
    /// shows no effect is held for a person.
    Inline,
}

/// Which ids a line of a batch may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdRule {
    /// The most characters.
    pub max_len: usize,
    /// Whether only `a-z`, `A-Z`, `0-9`, `_` and `-` are allowed.
    pub word_only: bool,
}

impl IdRule {
    /// No rule is known.
    pub const ANY: Self = Self {
        max_len: usize::MAX,
        word_only: false,
    };

    /// At most `max_len` of `a-z`, `A-Z`, `0-9`, `_` and `-`.
    pub const fn word(max_len: usize) -> Self {
        Self {
            max_len,
            word_only: true,
        }
    }

    /// At most `max_len` characters of any kind.
    pub const fn text(max_len: usize) -> Self {
        Self {
            max_len,
            word_only: false,
        }
    }

    /// Whether `id` obeys.
    pub fn allows(&self, id: &str) -> bool {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        !id.is_empty()
            && id.chars().count() <= self.max_len
            && (!self.word_only || id.chars().all(word))
    }
}

/// What identifies a batch of ours in a provider's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListMatch {
    /// The id of the uploaded input, which only this attempt used.
    Input,
    /// The submission tag, in metadata, a label or a display name.
    Tag,
    /// Only how many requests it holds, among batches new since the mark that the journal does not know
    /// ([`BatchSummary::requests`](crate::BatchSummary)). One that matches is taken on trial, nothing more is bought
    /// for the chunk meanwhile, and the wire ids of its results prove it: where they are all another's, the next one
    /// that matches is tried, and where there is none, a person is asked. Whoever makes chunks for such a provider
    /// gives each another number of requests, so that few match.
    Requests,
}

impl BatchLimits {
    /// Limits of a batch API with an upload, a 24 h window and nothing known of its list.
    pub fn new(endpoints: Vec<String>, max_requests: u64, max_bytes: u64) -> Self {
        Self {
            endpoints,
            max_requests,
            max_bytes,
            input: BatchInput::default(),
            one_model: true,
            custom_id: IdRule::ANY,
            unsupported: &[],
            windows: vec![Duration::from_secs(24 * 3600)],
            discount_percent: None,
            retention: Duration::from_secs(29 * 24 * 3600),
            cancel: true,
            list_match: Vec::new(),
            typical: None,
            max_open: None,
        }
    }

    /// How long a batch usually stays in this state at most; longer is worth a word, and no end.
    pub fn typical_in(&self, status: &BatchStatus) -> Duration {
        match status {
            BatchStatus::Validating | BatchStatus::Finalizing => TYPICAL_STEP,
            BatchStatus::Cancelling => TYPICAL_CANCEL,
            _ => self
                .typical
                .or_else(|| self.windows.first().copied())
                .unwrap_or(Duration::from_secs(24 * 3600)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{WireId, WirePrefix};

    #[test]
    fn f_176_the_strictest_rule_takes_our_ids() {
        let longest = WireId::new(WirePrefix::of("job", u32::MAX, u32::MAX), u64::MAX).to_string();
        for rule in [IdRule::ANY, IdRule::word(64), IdRule::text(63)] {
            assert!(rule.allows(&longest));
            assert!(!rule.allows(""));
        }
        assert!(!IdRule::word(64).allows("a b"));
        assert!(!IdRule::text(2).allows("äöü"));
        assert!(IdRule::text(3).allows("äöü"));
    }
}
