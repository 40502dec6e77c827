//! `POST /v1/responses`.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::text::{Content, Text};
use super::{Endpoint, Prepared, Ways, forced_tool, is_one, schema, tier};
use crate::answer::{PromptHash, tokens};
use crate::chat::Ask;
use crate::face::openai::error::ApiError;

/// `POST /v1/responses`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "keys that are known and change nothing")]
pub(super) struct ResponsesBody<'a> {
    #[serde(borrow)]
    model: Text<'a>,
    #[serde(borrow)]
    input: ResponsesInput<'a>,
    #[serde(borrow)]
    instructions: Option<Text<'a>>,
    max_output_tokens: Option<u64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_logprobs: Option<u64>,
    #[serde(borrow)]
    tools: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_choice: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    stream: Option<bool>,
    #[serde(borrow)]
    service_tier: Option<Text<'a>>,
    background: Option<IgnoredAny>,
    background_options: Option<IgnoredAny>,
    conversation: Option<IgnoredAny>,
    include: Option<IgnoredAny>,
    max_tool_calls: Option<IgnoredAny>,
    metadata: Option<IgnoredAny>,
    parallel_tool_calls: Option<bool>,
    previous_response_id: Option<IgnoredAny>,
    prompt: Option<IgnoredAny>,
    prompt_cache_key: Option<IgnoredAny>,
    prompt_cache_retention: Option<IgnoredAny>,
    reasoning: Option<IgnoredAny>,
    safety_identifier: Option<IgnoredAny>,
    store: Option<bool>,
    stream_options: Option<IgnoredAny>,
    truncation: Option<IgnoredAny>,
    user: Option<IgnoredAny>,
}

enum ResponsesInput<'a> {
    Text(Cow<'a, str>),
    Items(Vec<Item<'a>>),
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    role: Option<Text<'a>>,
    #[serde(borrow, default)]
    content: Content<'a>,
    /// Of a tool call's result.
    #[serde(borrow, default)]
    output: Content<'a>,
}

impl ResponsesBody<'_> {
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let (text, items) = match &self.input {
            ResponsesInput::Text(text) => (Some(&**text), &[][..]),
            ResponsesInput::Items(items) => (None, &items[..]),
        };
        let items = items
            .iter()
            .flat_map(|item| item.content.texts().chain(item.output.texts()));
        self.instructions
            .iter()
            .map(|text| &*text.0)
            .chain(text)
            .chain(items)
    }

    pub(super) fn prepare(
        &self,
        ways: Ways<'_>,
        seed: u64,
    ) -> Option<Result<Prepared, ApiError>> {
        let model = ways
            .model(&self.model.0)
            .filter(|model| Endpoint::Responses.serves(model))?;
        let fine = self
            .temperature
            .is_none_or(|value| (0.0..=2.0).contains(&value))
            && self.top_p.is_none_or(|value| (0.0..=1.0).contains(&value))
            && self.top_logprobs.is_none_or(|top| top <= 20)
            && self.max_output_tokens.is_none_or(|max| max >= 16)
            && self.stream != Some(true)
            && (!ways.dialect.strict_reasoning
                || !model.reasons()
                || (self.temperature.is_none_or(is_one) && self.top_p.is_none_or(is_one)));
        if !fine {
            return None;
        }
        let input = tokens(self.texts().map(str::len).sum());
        if input > model.context {
            let error = ApiError::context_too_long("input", model.context, input);
            return Some(Err(error));
        }
        let last_user = match &self.input {
            ResponsesInput::Text(text) => text,
            ResponsesInput::Items(items) => items
                .iter()
                .rev()
                .find(|item| item.role.as_ref().is_some_and(|role| role.0 == "user"))
                .and_then(|item| item.content.texts().last())
                .unwrap_or_default(),
        };
        let text = self
            .text
            .map(|text| serde_json::from_str::<Value>(text.get()).unwrap_or_default());
        let asked = Ask {
            model,
            seed,
            hash: PromptHash::of(self.texts()),
            last_user,
            input,
            limit: self.max_output_tokens,
            schema: text.as_ref().and_then(|text| {
                let format = text.get("format")?;
                let kind = format.get("type").and_then(Value::as_str);
                schema(kind, format.get("schema"))
            }),
            tool: self
                .tools
                .and_then(|tools| forced_tool(tools, self.tool_choice)),
        };
        let answered = asked.answer().map_err(ApiError::of_status);
        Some(answered.map(|(said, usage)| Prepared {
            model,
            hash: asked.hash,
            usage,
            said,
            choices: 1,
            stream: false,
            include_usage: false,
            service_tier: tier(ways.dialect, self.service_tier.as_ref()),
        }))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for ResponsesInput<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = ResponsesInput<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of items")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(ResponsesInput::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(ResponsesInput::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut read = Vec::new();
                while let Some(item) = items.next_element()? {
                    read.push(item);
                }
                Ok(ResponsesInput::Items(read))
            }
        }
        deserializer.deserialize_any(Read)
    }
}
