//! `POST /v1/chat/completions`.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

use super::text::{Content, Text};
use super::{Endpoint, Prepared, Ways, forced_tool, is_one, most_choices, schema, tier};
use crate::answer::{PromptHash, tokens};
use crate::batch::RowUsage;
use crate::chat::Ask;
use crate::face::openai::error::ApiError;

/// `POST /v1/chat/completions`. The typed pass refuses unknown keys by failing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "keys that are known and change nothing")]
pub(super) struct ChatBody<'a> {
    #[serde(borrow)]
    model: Text<'a>,
    #[serde(borrow)]
    messages: Vec<Message<'a>>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    top_logprobs: Option<u64>,
    n: Option<u64>,
    #[serde(borrow)]
    tools: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_choice: Option<&'a RawValue>,
    #[serde(borrow)]
    response_format: Option<&'a RawValue>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    #[serde(borrow)]
    service_tier: Option<Text<'a>>,
    audio: Option<IgnoredAny>,
    function_call: Option<IgnoredAny>,
    functions: Option<IgnoredAny>,
    logit_bias: Option<IgnoredAny>,
    logprobs: Option<bool>,
    metadata: Option<IgnoredAny>,
    modalities: Option<IgnoredAny>,
    parallel_tool_calls: Option<bool>,
    prediction: Option<IgnoredAny>,
    prompt_cache_key: Option<IgnoredAny>,
    prompt_cache_retention: Option<IgnoredAny>,
    reasoning_effort: Option<IgnoredAny>,
    safety_identifier: Option<IgnoredAny>,
    seed: Option<i64>,
    stop: Option<IgnoredAny>,
    store: Option<bool>,
    user: Option<IgnoredAny>,
    verbosity: Option<IgnoredAny>,
    web_search_options: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Text<'a>,
    #[serde(borrow, default)]
    content: Content<'a>,
}

pub(in crate::face::openai) const ROLES: [&str; 6] = [
    "user",
    "system",
    "assistant",
    "developer",
    "tool",
    "function",
];

impl ChatBody<'_> {
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.messages
            .iter()
            .flat_map(|message| message.content.texts())
    }

    /// `None` when the body is refused for a reason that `explain` finds.
    pub(super) fn prepare(
        &self,
        ways: Ways<'_>,
        seed: u64,
    ) -> Option<Result<Prepared, ApiError>> {
        let model = ways
            .model(&self.model.0)
            .filter(|model| Endpoint::Chat.serves(model))?;
        let within = |value: Option<f64>, low, high| {
            value.is_none_or(|value: f64| (low..=high).contains(&value))
        };
        let fine = !self.messages.is_empty()
            && self.messages.iter().all(Message::is_fine)
            && within(self.temperature, 0.0, 2.0)
            && within(self.top_p, 0.0, 1.0)
            && within(self.presence_penalty, -2.0, 2.0)
            && within(self.frequency_penalty, -2.0, 2.0)
            && self.top_logprobs.is_none_or(|top| top <= 20)
            && self
                .n
                .is_none_or(|n| (1..=most_choices(ways.dialect)).contains(&n))
            && self.max_tokens != Some(0)
            && self.max_completion_tokens != Some(0)
            && self.tool_choice.is_none_or(|_| self.tools.is_some());
        let sampling_allowed = !ways.dialect.strict_reasoning
            || !model.reasons()
            || (self.max_tokens.is_none()
                && self.temperature.is_none_or(is_one)
                && self.top_p.is_none_or(is_one));
        if !fine || !sampling_allowed {
            return None;
        }
        let bytes = self.texts().map(str::len).sum();
        let input = tokens(bytes);
        if input > model.context {
            let error = ApiError::context_too_long("messages", model.context, input);
            return Some(Err(error));
        }
        let last_user = self
            .messages
            .iter()
            .rev()
            .find(|message| message.role.0 == "user")
            .and_then(|message| message.content.texts().last())
            .unwrap_or_default();
        let format = self
            .response_format
            .map(|format| serde_json::from_str::<Value>(format.get()).unwrap_or_default());
        let asked = Ask {
            model,
            seed,
            hash: PromptHash::of(self.texts()),
            last_user,
            input,
            limit: self.max_completion_tokens.or(self.max_tokens),
            schema: format.as_ref().and_then(|format| {
                let kind = format.get("type").and_then(Value::as_str);
                schema(kind, format.pointer("/json_schema/schema"))
            }),
            tool: self
                .tools
                .and_then(|tools| forced_tool(tools, self.tool_choice)),
        };
        let answered = asked.answer().map_err(ApiError::of_status);
        Some(answered.map(|(said, usage)| {
            let choices = self.n.unwrap_or(1);
            let usage = RowUsage {
                output: usage.output * choices,
                reasoning: usage.reasoning * choices,
                ..usage
            };
            Prepared {
                model,
                hash: asked.hash,
                usage,
                said,
                choices,
                stream: self.stream == Some(true),
                include_usage: self
                    .stream_options
                    .as_ref()
                    .is_some_and(|options| options.include_usage),
                service_tier: tier(ways.dialect, self.service_tier.as_ref()),
            }
        }))
    }
}

impl Message<'_> {
    fn is_fine(&self) -> bool {
        let may_be_empty = matches!(&*self.role.0, "assistant" | "function");
        ROLES.contains(&&*self.role.0) && (may_be_empty || !matches!(self.content, Content::None))
    }
}

