//! Request bodies: one typed pass over the text, and what is to be answered.

use std::borrow::Cow;
use std::fmt;

use memchr::memmem;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::explain::explain;
use super::models::{CONTEXT, Model, ModelKind};
use crate::answer::{self, MARK_BYTES, PromptHash, tokens};
use crate::batch::RowUsage;
use crate::instance::instance;

/// An inference endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Chat,
    Responses,
    Embeddings,
}

impl Endpoint {
    /// As batch lines and batches name it.
    pub(super) fn url(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Responses => "/v1/responses",
            Self::Embeddings => "/v1/embeddings",
        }
    }

    pub(super) fn of_url(url: &str) -> Option<Self> {
        [Self::Chat, Self::Responses, Self::Embeddings]
            .into_iter()
            .find(|endpoint| endpoint.url() == url)
    }

    pub(super) fn serves(self, model: &Model) -> bool {
        (self == Self::Embeddings) == model.is_embedding()
    }
}

/// A request that will be answered, and with what.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) model: &'static Model,
    pub(super) hash: PromptHash,
    pub(super) usage: RowUsage,
    pub(super) said: Said,
    /// Choices of a chat.
    pub(super) choices: u64,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) service_tier: &'static str,
}

/// What a model says.
#[derive(Debug)]
pub(super) enum Said {
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

/// Reads a body and decides its answer; an error answer when the vendor would refuse it.
pub(super) fn prepare(endpoint: Endpoint, body: &[u8], seed: u64) -> Result<Prepared, ApiError> {
    let fast = match endpoint {
        Endpoint::Chat => serde_json::from_slice::<ChatBody<'_>>(body)
            .ok()
            .and_then(|body| body.prepare(seed)),
        Endpoint::Responses => serde_json::from_slice::<ResponsesBody<'_>>(body)
            .ok()
            .and_then(|body| body.prepare(seed)),
        Endpoint::Embeddings => serde_json::from_slice::<EmbeddingsBody<'_>>(body)
            .ok()
            .and_then(|body| body.prepare()),
    };
    // The typed pass knows only that something is wrong; the slow one says what.
    fast.unwrap_or_else(|| Err(explain(endpoint, body)))
}

/// Input tokens as they count for the limits, without an answer; `None` when the body is refused anyhow.
pub(super) fn input_tokens(endpoint: Endpoint, body: &[u8]) -> Option<(u64, u64)> {
    match endpoint {
        Endpoint::Chat => {
            let body: ChatBody<'_> = serde_json::from_slice(body).ok()?;
            Some((tokens(body.texts().map(str::len).sum()), 1))
        }
        Endpoint::Responses => {
            let body: ResponsesBody<'_> = serde_json::from_slice(body).ok()?;
            Some((tokens(body.texts().map(str::len).sum()), 1))
        }
        Endpoint::Embeddings => {
            let body: EmbeddingsBody<'_> = serde_json::from_slice(body).ok()?;
            Some((body.input.tokens(), body.input.len()))
        }
    }
}

/// `POST /v1/chat/completions`. The typed pass refuses unknown keys by failing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "keys that are known and change nothing")]
struct ChatBody<'a> {
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

pub(super) const ROLES: [&str; 6] = [
    "user",
    "system",
    "assistant",
    "developer",
    "tool",
    "function",
];

impl ChatBody<'_> {
    fn texts(&self) -> impl Iterator<Item = &str> {
        self.messages
            .iter()
            .flat_map(|message| message.content.texts())
    }

    /// `None` when the body is refused for a reason that [`explain`] finds.
    fn prepare(&self, seed: u64) -> Option<Result<Prepared, ApiError>> {
        let model = Model::find(&self.model.0).filter(|model| Endpoint::Chat.serves(model))?;
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
            && self.n.is_none_or(|n| (1..=128).contains(&n))
            && self.max_tokens != Some(0)
            && self.max_completion_tokens != Some(0)
            && self.tool_choice.is_none_or(|_| self.tools.is_some());
        let sampling_allowed = !model.reasons()
            || (self.max_tokens.is_none()
                && self.temperature.is_none_or(is_one)
                && self.top_p.is_none_or(is_one));
        if !fine || !sampling_allowed {
            return None;
        }
        let bytes = self.texts().map(str::len).sum();
        let input = tokens(bytes);
        if input > CONTEXT {
            return Some(Err(ApiError::context_too_long("messages", CONTEXT, input)));
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
        let asked = Asked {
            model,
            seed,
            hash: PromptHash::of(self.texts()),
            last_user,
            input,
            limit: self.max_completion_tokens.or(self.max_tokens),
            schema: format.as_ref().and_then(|format| {
                let kind = format.get("type").and_then(Value::as_str);
                Schema::of(kind, format.pointer("/json_schema/schema"))
            }),
            tool: self
                .tools
                .and_then(|tools| forced_tool(tools, self.tool_choice)),
        };
        Some(asked.answer().map(|(said, usage)| {
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
                service_tier: tier(self.service_tier.as_ref()),
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

/// `POST /v1/responses`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "keys that are known and change nothing")]
struct ResponsesBody<'a> {
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
    fn texts(&self) -> impl Iterator<Item = &str> {
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

    fn prepare(&self, seed: u64) -> Option<Result<Prepared, ApiError>> {
        let model = Model::find(&self.model.0).filter(|model| Endpoint::Responses.serves(model))?;
        let fine = self
            .temperature
            .is_none_or(|value| (0.0..=2.0).contains(&value))
            && self.top_p.is_none_or(|value| (0.0..=1.0).contains(&value))
            && self.top_logprobs.is_none_or(|top| top <= 20)
            && self.max_output_tokens.is_none_or(|max| max >= 16)
            && self.stream != Some(true)
            && (!model.reasons()
                || (self.temperature.is_none_or(is_one) && self.top_p.is_none_or(is_one)));
        if !fine {
            return None;
        }
        let input = tokens(self.texts().map(str::len).sum());
        if input > CONTEXT {
            return Some(Err(ApiError::context_too_long("input", CONTEXT, input)));
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
        let asked = Asked {
            model,
            seed,
            hash: PromptHash::of(self.texts()),
            last_user,
            input,
            limit: self.max_output_tokens,
            schema: text.as_ref().and_then(|text| {
                let format = text.get("format")?;
                let kind = format.get("type").and_then(Value::as_str);
                Schema::of(kind, format.get("schema"))
            }),
            tool: self
                .tools
                .and_then(|tools| forced_tool(tools, self.tool_choice)),
        };
        Some(asked.answer().map(|(said, usage)| Prepared {
            model,
            hash: asked.hash,
            usage,
            said,
            choices: 1,
            stream: false,
            include_usage: false,
            service_tier: tier(self.service_tier.as_ref()),
        }))
    }
}

/// `POST /v1/embeddings`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "keys that are known and change nothing")]
struct EmbeddingsBody<'a> {
    #[serde(borrow)]
    model: Text<'a>,
    #[serde(borrow)]
    input: EmbeddingInput<'a>,
    dimensions: Option<u64>,
    #[serde(borrow)]
    encoding_format: Option<Text<'a>>,
    user: Option<IgnoredAny>,
}

/// Texts, or lists of tokens (each then counts as its number in decimal, four bytes a token).
struct EmbeddingInput<'a> {
    texts: Vec<Cow<'a, str>>,
    /// Tokens of each input that came as tokens; empty when they came as texts.
    token_counts: Vec<u64>,
}

/// Bounds of one embeddings call.
pub(super) const MAX_INPUTS: usize = 2_048;
const MAX_INPUT_TOKENS: u64 = 8_192;
const MAX_CALL_TOKENS: u64 = 300_000;

impl EmbeddingInput<'_> {
    fn len(&self) -> u64 {
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

    fn tokens(&self) -> u64 {
        self.counts().sum()
    }
}

impl EmbeddingsBody<'_> {
    fn prepare(&self) -> Option<Result<Prepared, ApiError>> {
        let model = Model::find(&self.model.0)?;
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

/// A question to a chat model, whatever the endpoint.
struct Asked<'a> {
    model: &'static Model,
    seed: u64,
    hash: PromptHash,
    last_user: &'a str,
    input: u64,
    /// Most output tokens.
    limit: Option<u64>,
    schema: Option<Schema<'a>>,
    /// A tool that must be called: its name and the schema of its arguments.
    tool: Option<(String, Value)>,
}

enum Schema<'a> {
    Any,
    Given(&'a Value),
}

impl<'a> Schema<'a> {
    fn of(kind: Option<&str>, schema: Option<&'a Value>) -> Option<Self> {
        match kind? {
            "json_object" => Some(Self::Any),
            "json_schema" => Some(schema.map_or(Self::Any, Self::Given)),
            _ => None,
        }
    }
}

impl Asked<'_> {
    fn answer(&self) -> Result<(Said, RowUsage), ApiError> {
        let marker = Marker::find(self.last_user);
        if let Some(Marker::Error(status)) = marker {
            return Err(ApiError::of_status(status));
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

/// The tool that `tool_choice` forces, in the shape of either endpoint.
fn forced_tool(tools: &RawValue, choice: Option<&RawValue>) -> Option<(String, Value)> {
    let choice: Value = serde_json::from_str(choice?.get()).ok()?;
    let tools: Vec<Value> = serde_json::from_str(tools.get()).ok()?;
    // The chat endpoint wraps a function's definition, the responses endpoint does not.
    fn inner(tool: &Value) -> &Value {
        tool.get("function").unwrap_or(tool)
    }
    fn name(tool: &Value) -> Option<&str> {
        inner(tool).get("name").and_then(Value::as_str)
    }
    let tool = if choice == "required" {
        tools.iter().find(|tool| name(tool).is_some())?
    } else {
        let wanted = name(&choice)?;
        tools.iter().find(|tool| name(tool) == Some(wanted))?
    };
    let schema = inner(tool)
        .get("parameters")
        .cloned()
        .unwrap_or_else(|| serde_json::json!({"type": "object", "properties": {}}));
    Some((name(tool)?.to_owned(), schema))
}

/// Words in the last user message that decide the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Marker {
    Refuse,
    Length,
    Filter,
    Error(u16),
}

impl Marker {
    fn find(text: &str) -> Option<Self> {
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

/// The tier that an answer names: the one asked for where it exists.
fn tier(asked: Option<&Text<'_>>) -> &'static str {
    match asked.map(|tier| &*tier.0) {
        Some("flex") => "flex",
        Some("priority") => "priority",
        Some("scale") => "scale",
        _ => "default",
    }
}

#[expect(clippy::float_cmp, reason = "the vendor takes exactly 1")]
pub(super) fn is_one(value: f64) -> bool {
    value == 1.0
}

/// A string that borrows from the body unless it has escapes, also inside an option or a list.
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Read)
    }
}

/// The texts of a message.
#[derive(Default)]
enum Content<'a> {
    #[default]
    None,
    One(Cow<'a, str>),
    Parts(Vec<Part<'a>>),
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
}

impl Content<'_> {
    fn texts(&self) -> impl DoubleEndedIterator<Item = &str> {
        let (one, parts) = match self {
            Self::None => (None, &[][..]),
            Self::One(text) => (Some(&**text), &[][..]),
            Self::Parts(parts) => (None, &parts[..]),
        };
        let parts = parts
            .iter()
            .filter_map(|part| part.text.as_ref())
            .map(|text| &*text.0);
        one.into_iter().chain(parts)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Content<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of parts")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Content::One(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Content::One(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Content::None)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
                let mut read = Vec::new();
                while let Some(part) = parts.next_element()? {
                    read.push(part);
                }
                Ok(Content::Parts(read))
            }

            fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
                Err(serde::de::Error::custom("an object is no content"))
            }
        }
        deserializer.deserialize_any(Read)
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

    #[test]
    fn hashes_cover_all_texts_in_order() {
        let body = br#"{"model":"gpt-4o-mini","messages":[
            {"role":"system","content":"a\u0062"},
            {"role":"user","content":[{"type":"text","text":"c"},{"type":"image_url","image_url":{"url":"x"}}]}]}"#;
        let prepared = prepare(Endpoint::Chat, body, 0).expect("a good body");
        assert_eq!(prepared.hash, PromptHash::of(["abc"]));
        assert_eq!(prepared.usage.input, 1);
    }

    #[test]
    fn tokens_are_embedding_inputs_too() {
        for (input, inputs, tokens) in [
            (r#""hello""#, 1, 2),
            (r#"["a","b"]"#, 2, 2),
            ("[1,2,3]", 1, 3),
            ("[[1,2],[3]]", 2, 3),
        ] {
            let body = format!(r#"{{"model":"text-embedding-3-small","input":{input}}}"#);
            let prepared = prepare(Endpoint::Embeddings, body.as_bytes(), 0).expect("a good body");
            let Said::Vectors { inputs: made, .. } = prepared.said else {
                panic!("embeddings answer with vectors");
            };
            assert_eq!(
                (made.len(), prepared.usage.input),
                (inputs, tokens),
                "{input}"
            );
        }
    }
}
