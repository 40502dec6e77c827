//! What every chat model is asked and what it says, whatever the protocol.
//!
//! A face reads its own wire into an [`Ask`] and writes the [`Said`] it gets back in its own shape.

use memchr::memmem;
use serde_json::Value;

use crate::answer::{self, MARK_BYTES, PromptHash, tokens};
use crate::batch::RowUsage;
use crate::instance::instance;
use crate::model::Model;

/// What a model says.
#[derive(Debug)]
pub(crate) enum Said {
    Text(String),
    /// A text that ran into the limit of output tokens.
    CutShort(String),
    /// A text that the content filter stopped.
    Filtered(String),
    Refusal(String),
    ToolCall {
        name: String,
        arguments: String,
    },
    Vectors {
        inputs: Vec<PromptHash>,
        dimensions: usize,
        base64: bool,
    },
}
/// A question to a chat model.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) model: &'static Model,
    pub(crate) seed: u64,
    pub(crate) hash: PromptHash,
    /// The last text of the last user message: markers in it decide the ending.
    pub(crate) last_user: &'a str,
    /// Estimated input tokens.
    pub(crate) input: u64,
    /// Most output tokens.
    pub(crate) limit: Option<u64>,
    pub(crate) schema: Option<Schema<'a>>,
    /// A tool that must be called: its name and the schema of its arguments.
    pub(crate) tool: Option<(String, Value)>,
}

/// The JSON an answer must be.
#[derive(Debug)]
pub(crate) enum Schema<'a> {
    /// Any object.
    Any,
    Given(&'a Value),
}

impl Ask<'_> {
    /// The answer and its tokens, or the status that the prompt asks to fail with.
    pub(crate) fn answer(&self) -> Result<(Said, RowUsage), u16> {
        let marker = Marker::find(self.last_user);
        if let Some(Marker::Error(status)) = marker {
            return Err(status);
        }
        let reasoning = if self.model.reasons() {
            let wanted = 64 * (1 + self.hash.0 % 4);
            self.limit.map_or(wanted, |limit| wanted.min(limit / 2))
        } else {
            0
        };
        let limit = self.limit.map(|limit| limit - reasoning);
        let (said, visible) = match (marker, &self.tool) {
            (Some(Marker::Refuse), _) => {
                let text = format!(
                    "I'm sorry, but I can't help with that. [prompt:{}]",
                    self.hash
                );
                let visible = tokens(text.len());
                (Said::Refusal(text), visible)
            }
            (None, Some((name, schema))) => {
                let arguments = instance(schema, self.seed, self.hash).to_string();
                let visible = tokens(name.len() + arguments.len());
                let name = name.clone();
                (Said::ToolCall { name, arguments }, visible)
            }
            (marker, _) => self.text(marker, limit),
        };
        let mut usage = RowUsage {
            input: self.input,
            cached: 0,
            output: reasoning + visible,
            reasoning,
        };
        // The vendor caches prompts from 1,024 tokens on, in steps of 128; here about half of those are hits.
        if self.model.reasons() && self.input >= 1_024 && self.hash.0.is_multiple_of(2) {
            usage.cached = self.input / 128 * 128;
        }
        Ok((said, usage))
    }

    fn text(&self, marker: Option<Marker>, limit: Option<u64>) -> (Said, u64) {
        let mut text = match self.schema {
            None => answer::sentence(self.seed, self.hash, self.last_user),
            Some(Schema::Any) => {
                let text = answer::sentence(self.seed, self.hash, self.last_user);
                serde_json::json!({ "answer": text }).to_string()
            }
            Some(Schema::Given(schema)) => instance(schema, self.seed, self.hash).to_string(),
        };
        match marker {
            Some(Marker::Length) if self.model.reasons() => {
                let spent = limit.unwrap_or(0);
                return (Said::CutShort(String::new()), spent);
            }
            Some(Marker::Length) => {
                let half = answer::head(&text, (text.len() / 2).max(MARK_BYTES)).len();
                text.truncate(half);
                let visible = tokens(text.len());
                return (Said::CutShort(text), visible);
            }
            Some(Marker::Filter) => {
                text.truncate(MARK_BYTES.min(text.len()));
                let visible = tokens(text.len());
                return (Said::Filtered(text), visible);
            }
            _ => {}
        }
        let visible = tokens(text.len());
        match limit {
            Some(limit) if visible > limit => {
                let bytes = usize::try_from(limit.saturating_mul(4)).unwrap_or(usize::MAX);
                let keep = answer::head(&text, bytes.max(MARK_BYTES)).len();
                text.truncate(keep);
                (Said::CutShort(text), limit)
            }
            _ => (Said::Text(text), visible),
        }
    }
}

/// Words in the last user message that decide the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    Refuse,
    Length,
    Filter,
    Error(u16),
}

impl Marker {
    pub(crate) fn find(text: &str) -> Option<Self> {
        memmem::find_iter(text.as_bytes(), "[[").find_map(|at| {
            let (word, _) = text[at + 2..].split_once("]]")?;
            match word {
                "refuse" => Some(Self::Refuse),
                "length" => Some(Self::Length),
                "filter" => Some(Self::Filter),
                _ => {
                    let status = word.strip_prefix("error:")?.parse().ok()?;
                    (400..=599).contains(&status).then_some(Self::Error(status))
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_found_anywhere_in_the_text() {
        for (text, marker) in [
            ("hi", None),
            ("a [[refuse]] b", Some(Marker::Refuse)),
            ("[[x]][[length]]", Some(Marker::Length)),
            ("[[error:429]]", Some(Marker::Error(429))),
            ("[[error:42]]", None),
            ("[[filter", None),
        ] {
            assert_eq!(Marker::find(text), marker, "{text}");
        }
    }
}
