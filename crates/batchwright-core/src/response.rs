//! The model's answer.

use crate::{Ending, Part, RateLimit, RawJson, Usage};
use std::{fmt, str::FromStr};

/// The model's answer, as far as it was understood, and the vendor's JSON beside it.
///
/// Its `Debug` shows sizes, never content.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Response {
    /// The vendor's id of the answer.
    pub id: Option<String>,
    /// The model that answered, which may be a dated version of the one asked for (F-137).
    pub model: Option<String>,
    /// The answer's parts in order; empty for embeddings.
    pub content: Vec<Part>,
    /// One vector for each text of an embedding request, in order.
    pub embeddings: Vec<Vec<f32>>,
    /// Why the model stopped; `None` for embeddings, or where the vendor did not say.
    pub finish_reason: Option<FinishReason>,
    /// Token counters; all unknown where the vendor sent none.
    pub usage: Usage,
    /// The vendor's id of the HTTP request, for its support.
    pub request_id: Option<String>,
    /// Rate-limit headers of a direct call, for a limiter that learns.
    pub rate_limit: Option<RateLimit>,
    /// The vendor's body, byte for byte.
    pub raw: Option<RawJson>,
}

/// Why the model stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// It had said everything, or met a stop text.
    Stop,
    /// The token limit cut it off: paid, and incomplete (F-061).
    Length,
    /// It asks for tools.
    ToolCalls,
    /// A policy stopped it (F-062).
    ContentFilter,
    /// It refused to answer; what it said instead is the content (F-063).
    Refusal,
    /// A reason this version does not know, verbatim (F-056).
    Other(String),
}

impl FinishReason {
    /// The reason's stable name; an unknown one is the vendor's word.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
            Self::Refusal => "refusal",
            Self::Other(word) => word,
        }
    }
}

impl FromStr for FinishReason {
    type Err = std::convert::Infallible;

    /// Reads a name given by [`FinishReason::as_str`]; every other word is kept verbatim.
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Ok(match word {
            "stop" => Self::Stop,
            "length" => Self::Length,
            "tool_calls" => Self::ToolCalls,
            "content_filter" => Self::ContentFilter,
            "refusal" => Self::Refusal,
            other => Self::Other(other.to_owned()),
        })
    }
}

impl Response {
    /// An answer of one text.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self {
            content: vec![Part::Text(text.into())],
            finish_reason: Some(FinishReason::Stop),
            ..Self::default()
        }
    }

    /// All text parts joined; empty where there are none.
    pub fn text(&self) -> String {
        let mut texts = self.content.iter().filter_map(Part::as_text);
        let mut joined = texts.next().unwrap_or_default().to_owned();
        texts.for_each(|text| joined.push_str(text));
        joined
    }

    /// How a request ended that was answered so: refused where the model or a policy refused, else
    /// succeeded.
    pub fn into_ending(self) -> Ending {
        match self.finish_reason {
            Some(FinishReason::ContentFilter | FinishReason::Refusal) => Ending::Refused(self),
            _ => Ending::Succeeded(self),
        }
    }

    /// Whether the answer was cut off by a token limit (F-061).
    pub fn is_truncated(&self) -> bool {
        self.finish_reason == Some(FinishReason::Length)
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("id", &self.id)
            .field("model", &self.model)
            .field("content", &self.content)
            .field("embeddings", &self.embeddings.len())
            .field("finish_reason", &self.finish_reason)
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_joins_text_parts_only() {
        let response = Response {
            content: vec![
                Part::Thinking(crate::Thinking::new("hm", None)),
                Part::Text("a".into()),
                Part::Text("b".into()),
            ],
            ..Response::default()
        };
        assert_eq!(response.text(), "ab");
        assert_eq!(Response::default().text(), "");
    }

    #[test]
    fn f_056_an_unknown_finish_reason_is_kept_verbatim() {
        let reason: FinishReason = "hibernated".parse().unwrap();
        assert_eq!(reason.as_str(), "hibernated");
    }

    #[test]
    fn f_062_f_063_refusals_are_no_successes() {
        for reason in [FinishReason::ContentFilter, FinishReason::Refusal] {
            let response = Response {
                finish_reason: Some(reason),
                ..Response::from_text("no")
            };
            assert!(matches!(response.into_ending(), Ending::Refused(_)));
        }
        let cut = Response {
            finish_reason: Some(FinishReason::Length),
            ..Response::from_text("half")
        };
        assert!(cut.is_truncated() && cut.into_ending().is_success());
    }

    #[test]
    fn f_191_debug_shows_sizes_never_content() {
        assert!(!format!("{:?}", Response::from_text("CANARY")).contains("CANARY"));
    }
}
