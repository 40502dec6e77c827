//! Core's requests in Anthropic's words, checked and then serialised straight from core's types.

use crate::config::{AnthropicConfig, CacheTtl};
use crate::wire::{Block, CacheControl, Choice, Format, OutputConfig, RawAsks, Source, ToolWire};
use batchwright_core::{
    Chat, Error, ErrorKind, Media, Message, Part, Payload, Request, ResponseFormat, Result, Role,
    Sampling, ToolChoice,
};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, value::RawValue};
use std::borrow::Cow;

/// The first version that forbids sampling parameters (API reference, "Versions"); versions are dates.
const WITHOUT_SAMPLING: &str = "2026-10-21";
/// Pictures the vendor reads.
const IMAGES: &[&str] = &["image/jpeg", "image/png", "image/gif", "image/webp"];
/// What counts towards a request's tokens; the rest of a body has no place where they are counted.
const COUNTED: &[&str] = &[
    "model",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "cache_control",
];

/// How requests are written: the settings that matter to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// Whether sampling parameters may be sent.
    pub(crate) sampling: bool,
    /// The most tokens of an answer where the request names none.
    pub(crate) max_tokens: u32,
    /// From how many tokens on an answer is streamed.
    pub(crate) stream_above: u32,
    /// What is cached, if anything.
    pub(crate) cache: Option<CacheTtl>,
}

impl Form {
    pub(crate) fn of(config: &AnthropicConfig) -> Self {
        Self {
            sampling: config.api_version.trim() < WITHOUT_SAMPLING,
            max_tokens: config.max_tokens,
            stream_above: config.stream_above,
            cache: config.cache,
        }
    }

    fn cache_control(&self) -> Option<CacheControl> {
        self.cache.map(|ttl| CacheControl {
            r#type: "ephemeral",
            ttl: match ttl {
                CacheTtl::FiveMinutes => "5m",
                CacheTtl::OneHour => "1h",
            },
        })
    }
}

/// What a body is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A direct call whose answer comes in one piece.
    Answer,
    /// A direct call whose answer comes in many.
    Stream,
    /// A line of a batch.
    Line,
    /// A count of its tokens.
    Count,
}

/// The most tokens a chat may answer with.
pub(crate) fn max_tokens(request: &Request, form: Form) -> u64 {
    match request.extra.get("max_tokens") {
        Some(extra) => extra.as_u64().unwrap_or(0),
        None => {
            let asked = request.sampling.max_output_tokens();
            u64::from(asked.unwrap_or(form.max_tokens))
        }
    }
}

/// Appends the request's body, in one line, to `out`; on an error `out` is as it was.
pub(crate) fn write_body(
    request: &Request,
    form: Form,
    purpose: Purpose,
    out: &mut Vec<u8>,
) -> Result<()> {
    let turns = check(request, form, purpose)?;
    let before = out.len();
    let written = match (&request.payload, purpose) {
        (Payload::Raw(raw), Purpose::Count) => count_body(raw.body.get(), out),
        (Payload::Raw(raw), _) => {
            out.extend(one_line(raw.body.get()).bytes());
            Ok(())
        }
        _ => serde_json::to_writer(
            &mut *out,
            &Body {
                request,
                form,
                purpose,
                turns,
            },
        ),
    };
    written.map_err(|error| {
        out.truncate(before);
        Error::new(ErrorKind::Unexpected, "write the request as JSON").with_source(error)
    })
}

/// A raw body without what is of no account for its tokens.
fn count_body(body: &str, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let mut fields: Map<String, Value> = serde_json::from_str(body)?;
    fields.retain(|key, _| COUNTED.contains(&key.as_str()));
    serde_json::to_writer(out, &fields)
}

/// JSON in one line. A line end between tokens would break a batch's line in two; inside a text JSON allows none.
fn one_line(json: &str) -> Cow<'_, str> {
    if json.contains(['\n', '\r']) {
        Cow::Owned(json.replace(['\n', '\r'], " "))
    } else {
        Cow::Borrowed(json)
    }
}

/// What a request asks for that the API has no form for is refused before anything is sent.
fn check(request: &Request, form: Form, purpose: Purpose) -> Result<Turns<'_>> {
    crate::convert::endpoint(request)?;
    if request.extra.contains_key("stream") {
        return Err(invalid(
            "the extra field stream would change how the answer comes; leave it out",
        ));
    }
    if purpose == Purpose::Line && request.extra.contains_key("speed") {
        return Err(unsupported("the extra field speed in a batch"));
    }
    match &request.payload {
        Payload::Chat(chat) => {
            check_sampling(&request.sampling, form)?;
            if chat.response_format == ResponseFormat::Json {
                return Err(unsupported(
                    "any JSON object as an answer; give a schema, or ask for it in words",
                ));
            }
            Turns::of(chat)
        }
        Payload::Raw(raw) => {
            if request.sampling != Sampling::default() || !request.extra.is_empty() {
                return Err(invalid(
                    "a raw body is sent as it is: put sampling and extra fields into it",
                ));
            }
            let asks: RawAsks<'_> = serde_json::from_str(raw.body.get())
                .map_err(|_| invalid("the raw body must be a JSON object"))?;
            if asks.stream.is_some_and(|value| value.get() != "false") {
                return Err(invalid(
                    "stream of the raw body would change how the answer comes; leave it out",
                ));
            }
            if purpose == Purpose::Line && asks.speed.is_some() {
                return Err(unsupported("speed in a batch"));
            }
            Ok(Turns::default())
        }
        _ => Err(unsupported("this kind of request")),
    }
}

fn check_sampling(sampling: &Sampling, form: Form) -> Result<()> {
    for (name, set) in [
        ("seed", sampling.seed().is_some()),
        ("frequency_penalty", sampling.frequency_penalty().is_some()),
        ("presence_penalty", sampling.presence_penalty().is_some()),
    ] {
        if set {
            return Err(unsupported(name));
        }
    }
    for (name, set) in [
        ("temperature", sampling.temperature().is_some()),
        ("top_p", sampling.top_p().is_some()),
        ("top_k", sampling.top_k().is_some()),
    ] {
        if set && !form.sampling {
            return Err(unsupported(format_args!(
                "{name} from anthropic-version {WITHOUT_SAMPLING} on"
            )));
        }
    }
    if sampling.temperature().is_some_and(|value| value > 1.0) {
        return Err(invalid("temperature must be 0 to 1"));
    }
    Ok(())
}

/// A conversation as the vendor divides it: instructions, and turns in which neighbours of one side are one.
#[derive(Default)]
struct Turns<'a> {
    system: Vec<&'a str>,
    turns: Vec<Turn<'a>>,
}

struct Turn<'a> {
    role: &'static str,
    blocks: Vec<Block<'a>>,
}

impl<'a> Turns<'a> {
    fn of(chat: &'a Chat) -> Result<Self> {
        let mut turns = Self::default();
        for message in &chat.messages {
            if message.role == Role::System {
                turns.instruct(message)?;
                continue;
            }
            let role = match message.role {
                Role::Assistant => "assistant",
                _ => "user",
            };
            let blocks = blocks(message)?;
            match turns.turns.last_mut().filter(|turn| turn.role == role) {
                Some(turn) => turn.blocks.extend(blocks),
                None => turns.turns.push(Turn { role, blocks }),
            }
        }
        for turn in &mut turns.turns {
            // The vendor wants the results of tools before anything else.
            turn.blocks
                .sort_by_key(|block| !matches!(block, Block::ToolResult { .. }));
            if turn.blocks.is_empty() {
                return Err(invalid("a turn of a conversation needs content"));
            }
        }
        if turns.turns.is_empty() {
            return Err(invalid("a conversation needs a message"));
        }
        Ok(turns)
    }

    fn instruct(&mut self, message: &'a Message) -> Result<()> {
        if !self.turns.is_empty() {
            return Err(invalid("instructions stand before the conversation"));
        }
        for part in &message.content {
            match part {
                // An empty block is refused by the vendor, and says nothing.
                Part::Text(text) if text.is_empty() => {}
                Part::Text(text) => self.system.push(text),
                _ => return Err(unsupported("instructions that are no text")),
            }
        }
        Ok(())
    }
}

fn blocks(message: &Message) -> Result<Vec<Block<'_>>> {
    let mut blocks = Vec::with_capacity(message.content.len());
    for part in &message.content {
        let block = match (part, message.role) {
            (Part::ToolResult(result), Role::Tool | Role::User) => Block::ToolResult {
                tool_use_id: &result.id,
                content: &result.content,
            },
            (Part::ToolResult(_), _) => {
                return Err(invalid("a tool's result belongs to a turn of the tool"));
            }
            (_, Role::Tool) => {
                return Err(invalid("a turn of the tool holds tool results only"));
            }
            (Part::Text(text), _) if text.is_empty() => continue,
            (Part::Text(text), _) => Block::Text {
                text,
                cache_control: None,
            },
            (Part::ToolCall(call), Role::Assistant) => Block::ToolUse {
                id: &call.id,
                name: &call.name,
                input: arguments(&call.arguments)?,
            },
            (Part::ToolCall(_), _) => return Err(invalid("only the assistant calls tools")),
            // Reasoning of other vendors has no signature, and is not this one's to read.
            (Part::Thinking(thinking), Role::Assistant) => match &thinking.signature {
                Some(signature) => Block::Thinking {
                    thinking: &thinking.text,
                    signature,
                },
                None => continue,
            },
            (Part::Thinking(_), _) => continue,
            (Part::Image(media), Role::User) => Block::Image {
                source: source(media, IMAGES)?,
            },
            (Part::Document(media), Role::User) => Block::Document {
                title: match media {
                    Media::Inline { name, .. } => name.as_deref(),
                    _ => None,
                },
                source: source(media, &["application/pdf"])?,
            },
            (Part::Image(_) | Part::Document(_), _) => {
                return Err(invalid("only a turn of the user holds media"));
            }
            (Part::Audio(_), _) => return Err(unsupported("sound")),
            _ => return Err(unsupported("this kind of part")),
        };
        blocks.push(block);
    }
    Ok(blocks)
}

/// A tool call's arguments, which the vendor wants as an object; none are an empty one.
fn arguments(text: &str) -> Result<Cow<'_, RawValue>> {
    let text = match text.trim() {
        "" => "{}",
        text => text,
    };
    let refused = |_| invalid("the arguments of a tool call in the messages must be a JSON object");
    if !text.starts_with('{') {
        return Err(invalid(
            "the arguments of a tool call in the messages must be a JSON object",
        ));
    }
    match one_line(text) {
        Cow::Borrowed(text) => serde_json::from_str(text)
            .map(Cow::Borrowed)
            .map_err(refused),
        Cow::Owned(text) => RawValue::from_string(text).map(Cow::Owned).map_err(refused),
    }
}

fn source<'a>(media: &'a Media, media_types: &[&str]) -> Result<Source<'a>> {
    match media {
        Media::Url(url) => Ok(Source::Url { url }),
        Media::File(file_id) => Ok(Source::File { file_id }),
        Media::Inline {
            media_type, base64, ..
        } if media_types.contains(&media_type.as_str()) => Ok(Source::Base64 {
            media_type,
            data: base64,
        }),
        Media::Inline { .. } => Err(unsupported(format_args!(
            "media other than {}",
            media_types.join(", ")
        ))),
        _ => Err(unsupported("this place of media")),
    }
}

/// A request's body.
struct Body<'a> {
    request: &'a Request,
    form: Form,
    purpose: Purpose,
    turns: Turns<'a>,
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Payload::Chat(chat) = &self.request.payload else {
            // A raw body is copied, and what this version does not know was refused by `check`.
            return Err(serde::ser::Error::custom("no form for this payload"));
        };
        let counting = self.purpose == Purpose::Count;
        let mut body = Fields {
            map: serializer.serialize_map(None)?,
            extra: &self.request.extra,
            counting,
        };
        body.put("model", &self.request.model)?;
        let sampling = &self.request.sampling;
        body.put("max_tokens", &max_tokens(self.request, self.form))?;
        if !chat.tools.is_empty() {
            let cached = self.turns.system.is_empty();
            let cache_control = self.form.cache_control().filter(|_| cached);
            body.put("tools", &Tools(chat, cache_control))?;
        }
        body.put_some("tool_choice", chat.tool_choice.as_ref().map(choice))?;
        if !self.turns.system.is_empty() {
            let system = System(&self.turns.system, self.form.cache_control());
            body.put("system", &system)?;
        }
        body.put("messages", &Messages(&self.turns.turns))?;
        let format = match &chat.response_format {
            ResponseFormat::JsonSchema { schema, .. } => Some(Format::JsonSchema { schema }),
            _ => None,
        };
        let effort = sampling.reasoning_effort();
        if format.is_some() || effort.is_some() {
            body.put("output_config", &OutputConfig { effort, format })?;
        }
        body.put_some("temperature", sampling.temperature())?;
        body.put_some("top_p", sampling.top_p())?;
        body.put_some("top_k", sampling.top_k())?;
        if !sampling.stop().is_empty() {
            body.put("stop_sequences", sampling.stop())?;
        }
        if self.purpose == Purpose::Stream {
            body.put("stream", &true)?;
        }
        body.end()
    }
}

/// The fields of a body, with the caller's extra ones laid over them.
struct Fields<'e, M> {
    map: M,
    extra: &'e Map<String, Value>,
    /// Whether only what counts towards tokens is written.
    counting: bool,
}

impl<M: SerializeMap> Fields<'_, M> {
    fn put<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), M::Error> {
        if self.extra.contains_key(key) || (self.counting && !COUNTED.contains(&key)) {
            return Ok(());
        }
        self.map.serialize_entry(key, value)
    }

    fn put_some<T: Serialize>(
        &mut self,
        key: &'static str,
        value: Option<T>,
    ) -> Result<(), M::Error> {
        value.map_or(Ok(()), |value| self.put(key, &value))
    }

    fn end(mut self) -> Result<M::Ok, M::Error> {
        for (key, value) in self.extra {
            if !self.counting || COUNTED.contains(&key.as_str()) {
                self.map.serialize_entry(key, value)?;
            }
        }
        self.map.end()
    }
}

/// Instructions: a plain text where it is one, else blocks, the last of which ends what is cached.
struct System<'a>(&'a [&'a str], Option<CacheControl>);

impl Serialize for System<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(texts, cache_control) = self;
        if let ([text], None) = (texts, cache_control) {
            return serializer.serialize_str(text);
        }
        let mut list = serializer.serialize_seq(Some(texts.len()))?;
        for (at, text) in texts.iter().enumerate() {
            let last = at + 1 == texts.len();
            list.serialize_element(&Block::Text {
                text,
                cache_control: cache_control.filter(|_| last),
            })?;
        }
        list.end()
    }
}

struct Messages<'a>(&'a [Turn<'a>]);

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Message<'a> {
            role: &'static str,
            content: Content<'a>,
        }
        serializer.collect_seq(self.0.iter().map(|turn| Message {
            role: turn.role,
            content: Content(&turn.blocks),
        }))
    }
}

/// What a turn says: a plain text where it is one, else its blocks.
struct Content<'a>(&'a [Block<'a>]);

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            [Block::Text { text, .. }] => serializer.serialize_str(text),
            blocks => blocks.serialize(serializer),
        }
    }
}

/// The tools, the last of which ends what is cached where there are no instructions.
struct Tools<'a>(&'a Chat, Option<CacheControl>);

impl Serialize for Tools<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tools = &self.0.tools;
        serializer.collect_seq(tools.iter().enumerate().map(|(at, tool)| ToolWire {
            name: &tool.name,
            description: tool.description.as_deref(),
            input_schema: &tool.parameters,
            strict: tool.strict,
            cache_control: self.1.filter(|_| at + 1 == tools.len()),
        }))
    }
}

fn choice(choice: &ToolChoice) -> Choice<'_> {
    match choice {
        ToolChoice::None => Choice::None,
        ToolChoice::Required => Choice::Any,
        ToolChoice::Named(name) => Choice::Tool { name },
        // Also what later versions may add: the vendor's own default.
        _ => Choice::Auto,
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidRequest, message)
}

fn unsupported(what: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("encode the request: the API has no form for {what}"),
    )
}
