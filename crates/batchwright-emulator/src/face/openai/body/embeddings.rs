//! `POST /v1/embeddings`.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::{Prepared, Ways};
use super::text::Text;
use crate::answer::{PromptHash, tokens};
use crate::batch::RowUsage;
use crate::chat::{Marker, Said};
use crate::face::openai::error::ApiError;
use crate::model::ModelKind;

/// `POST /v1/embeddings`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "keys that are known and change nothing")]
pub(super) struct EmbeddingsBody<'a> {
    #[serde(borrow)]
    model: Text<'a>,
    #[serde(borrow)]
    pub(super) input: EmbeddingInput<'a>,
    dimensions: Option<u64>,
    #[serde(borrow)]
    encoding_format: Option<Text<'a>>,
    user: Option<IgnoredAny>,
}

/// Texts, or lists of tokens (each then counts as its number in decimal, four bytes a token).
pub(super) struct EmbeddingInput<'a> {
    texts: Vec<Cow<'a, str>>,
    /// Tokens of each input that came as tokens; empty when they came as texts.
    token_counts: Vec<u64>,
}

/// Bounds of one embeddings call.
pub(in crate::face::openai) const MAX_INPUTS: usize = 2_048;
const MAX_INPUT_TOKENS: u64 = 8_192;
const MAX_CALL_TOKENS: u64 = 300_000;

impl EmbeddingInput<'_> {
    pub(super) fn len(&self) -> u64 {
        self.texts.len() as u64
    }

    fn counts(&self) -> impl Iterator<Item = u64> {
        let known = !self.token_counts.is_empty();
        self.texts.iter().enumerate().map(move |(index, text)| {
            if known {
                self.token_counts[index]
            } else {
                tokens(text.len())
            }
        })
    }

    pub(super) fn tokens(&self) -> u64 {
        self.counts().sum()
    }
}

impl EmbeddingsBody<'_> {
    pub(super) fn prepare(&self, ways: Ways<'_>) -> Option<Result<Prepared, ApiError>> {
        let model = ways.model(&self.model.0)?;
        let ModelKind::Embedding(most) = model.kind else {
            return None;
        };
        let dimensions = match self.dimensions {
            None => most,
            Some(wanted) => usize::try_from(wanted)
                .ok()
                .filter(|wanted| (1..=most).contains(wanted))?,
        };
        let base64 = match self.encoding_format.as_ref().map(|format| &*format.0) {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => return None,
        };
        let inputs = &self.input.texts;
        if inputs.is_empty() || inputs.len() > MAX_INPUTS || inputs.iter().any(|t| t.is_empty()) {
            return None;
        }
        if let Some(Marker::Error(status)) = inputs.iter().find_map(|text| Marker::find(text)) {
            return Some(Err(ApiError::of_status(status)));
        }
        let input = self.input.tokens();
        if let Some(tokens) = self.input.counts().find(|count| *count > MAX_INPUT_TOKENS) {
            return Some(Err(ApiError::context_too_long(
                "input",
                MAX_INPUT_TOKENS,
                tokens,
            )));
        }
        if input > MAX_CALL_TOKENS {
            return Some(Err(ApiError::bad(
                "input",
                "max_tokens_per_request",
                format!("Requested {input} tokens, max {MAX_CALL_TOKENS} tokens per request."),
            )));
        }
        Some(Ok(Prepared {
            model,
            hash: PromptHash::of(inputs.iter().map(|text| text.as_bytes())),
            usage: RowUsage {
                input,
                ..RowUsage::default()
            },
            said: Said::Vectors {
                inputs: inputs
                    .iter()
                    .map(|text| PromptHash::of([text.as_bytes()]))
                    .collect(),
                dimensions,
                base64,
            },
            choices: 1,
            stream: false,
            include_usage: false,
            service_tier: "default",
        }))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for EmbeddingInput<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Tokens {
            One(u64),
            Many(Vec<u64>),
        }
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = EmbeddingInput<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, an array of strings, or tokens")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(EmbeddingInput {
                    texts: vec![Cow::Borrowed(text)],
                    token_counts: Vec::new(),
                })
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(EmbeddingInput {
                    texts: vec![Cow::Owned(text.to_owned())],
                    token_counts: Vec::new(),
                })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum Element<'a> {
                    Tokens(Tokens),
                    #[serde(borrow)]
                    Text(Text<'a>),
                }
                let mut texts = Vec::new();
                let mut token_counts = Vec::new();
                let mut flat: Vec<u64> = Vec::new();
                while let Some(element) = items.next_element()? {
                    match element {
                        Element::Text(Text(text)) => texts.push(text),
                        Element::Tokens(Tokens::One(token)) => flat.push(token),
                        Element::Tokens(Tokens::Many(tokens)) => {
                            token_counts.push(tokens.len() as u64);
                            texts.push(Cow::Owned(in_words(&tokens)));
                        }
                    }
                }
                if !flat.is_empty() {
                    token_counts.push(flat.len() as u64);
                    texts.push(Cow::Owned(in_words(&flat)));
                }
                if !token_counts.is_empty() && token_counts.len() != texts.len() {
                    return Err(serde::de::Error::custom("texts and tokens do not mix"));
                }
                Ok(EmbeddingInput {
                    texts,
                    token_counts,
                })
            }
        }
        fn in_words(tokens: &[u64]) -> String {
            let words: Vec<String> = tokens.iter().map(u64::to_string).collect();
            words.join(" ")
        }
        deserializer.deserialize_any(Read)
    }
}
