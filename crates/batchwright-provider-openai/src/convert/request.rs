//! Core's requests in OpenAI's words, checked and then serialised straight from core's types: nothing is copied.

use crate::config::ChatApi;
use crate::wire::{
    Address, CalledFunction, ChatPart, ChatToolCall, FileRef, Function, ImageUrl, InputAudio,
    ResponsesItem, ResponsesPart, Schema,
};
use batchwright_core::{
    Chat, EmbeddingInput, Error, ErrorKind, Media, Message, Part, Payload, Request, ResponseFormat,
    Result, Role, Sampling, ToolChoice,
};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, value::RawValue};

/// How a request is written: which API it is for, and what the service differs in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// Which API a conversation goes to.
    pub(crate) api: ChatApi,
    /// The field that bounds the answer in chat completions.
    pub(crate) max_tokens: &'static str,
    /// Fields the service refuses or ignores.
    pub(crate) refused: &'static [&'static str],
    /// Whether a line's endpoint is without its version.
    pub(crate) dated: bool,
    /// Whether the answer is to come in pieces.
    pub(crate) streamed: bool,
}

/// The most stop texts the API takes (API reference, `chat/completions`, `stop`).
const MAX_STOP: usize = 4;
/// The most texts of one embeddings call (API reference, `embeddings`, `input`).
const MAX_EMBEDDING_INPUTS: usize = 2048;

/// Appends the request's body, in one line, to `out`; on an error `out` is as it was.
pub(crate) fn write_body(request: &Request, form: Form, out: &mut Vec<u8>) -> Result<()> {
    check(request, form)?;
    if let Payload::Raw(raw) = &request.payload {
        // A line end between tokens would break a batch's line in two; inside a text JSON allows none.
        out.extend(raw.body.get().bytes().map(|byte| match byte {
            b'\n' | b'\r' => b' ',
            other => other,
        }));
        return Ok(());
    }
    let before = out.len();
    serde_json::to_writer(&mut *out, &Body { request, form }).map_err(|error| {
        out.truncate(before);
        Error::new(ErrorKind::Unexpected, "write the request as JSON").with_source(error)
    })
}

/// What a request asks for that this endpoint has no form for is refused before anything is sent.
fn check(request: &Request, form: Form) -> Result<()> {
    let api = form.api;
    for key in form.refused {
        if request.extra.contains_key(*key) {
            return Err(unsupported(format!("the extra field {key}")));
        }
    }
    for key in ["stream", "background"] {
        if request.extra.contains_key(key) {
            return Err(invalid(format!(
                "the extra field {key} would change how the answer comes; leave it out"
            )));
        }
    }
    let sampling = &request.sampling;
    match &request.payload {
        Payload::Chat(chat) => {
            if chat.messages.is_empty() {
                return Err(invalid("a conversation needs a message"));
            }
            chat.messages
                .iter()
                .try_for_each(|message| check_message(message, api))?;
            check_sampling(sampling, form)
        }
        Payload::Embedding(input) => {
            if !(1..=MAX_EMBEDDING_INPUTS).contains(&input.texts.len()) {
                return Err(invalid(format!(
                    "an embedding request holds 1 to {MAX_EMBEDDING_INPUTS} texts"
                )));
            }
            if *sampling != Sampling::default() {
                return Err(unsupported("sampling of an embedding"));
            }
            Ok(())
        }
        Payload::Raw(raw) => {
            if *sampling != Sampling::default() || !request.extra.is_empty() {
                return Err(invalid(
                    "a raw body is sent as it is: put sampling and extra fields into it",
                ));
            }
            let asks: RawAsks<'_> = serde_json::from_str(raw.body.get())
                .map_err(|_| invalid("the raw body must be a JSON object"))?;
            for (key, value) in [("stream", asks.stream), ("background", asks.background)] {
                if value.is_some_and(|value| value.get() != "false") {
                    return Err(invalid(format!(
                        "{key} of the raw body would change how the answer comes; leave it out"
                    )));
                }
            }
            Ok(())
        }
        _ => Err(unsupported("this kind of request")),
    }
}

#[derive(Deserialize)]
struct RawAsks<'a> {
    #[serde(default, borrow)]
    stream: Option<&'a RawValue>,
    #[serde(default, borrow)]
    background: Option<&'a RawValue>,
}

fn check_sampling(sampling: &Sampling, form: Form) -> Result<()> {
    for (name, set) in [
        ("seed", sampling.seed().is_some()),
        ("stop", !sampling.stop().is_empty()),
        ("frequency_penalty", sampling.frequency_penalty().is_some()),
        ("presence_penalty", sampling.presence_penalty().is_some()),
        ("reasoning_effort", sampling.reasoning_effort().is_some()),
    ] {
        if set && form.refused.contains(&name) {
            return Err(unsupported(name));
        }
    }
    if sampling.top_k().is_some() {
        return Err(unsupported("top_k"));
    }
    if sampling.stop().len() > MAX_STOP {
        return Err(invalid(format!("at most {MAX_STOP} stop texts are taken")));
    }
    if form.api == ChatApi::Responses {
        for (name, set) in [
            ("seed", sampling.seed().is_some()),
            ("stop", !sampling.stop().is_empty()),
            ("frequency_penalty", sampling.frequency_penalty().is_some()),
            ("presence_penalty", sampling.presence_penalty().is_some()),
        ] {
            if set {
                return Err(unsupported(format!("{name} in the Responses API")));
            }
        }
    }
    Ok(())
}

fn check_message(message: &Message, api: ChatApi) -> Result<()> {
    for part in &message.content {
        match part {
            // Another model's reasoning is not this API's to read: it is left out, and documented so.
            Part::Thinking(_) => {}
            Part::ToolCall(_) if message.role == Role::Assistant => {}
            Part::ToolCall(_) => return Err(invalid("only the assistant calls tools")),
            Part::ToolResult(_) if matches!(message.role, Role::Tool | Role::User) => {}
            Part::ToolResult(_) => {
                return Err(invalid("a tool's result belongs to a turn of the tool"));
            }
            _ if message.role == Role::Tool => {
                return Err(invalid("a turn of the tool holds tool results only"));
            }
            Part::Text(_) => {}
            _ if message.role != Role::User => {
                return Err(invalid("only a turn of the user holds media"));
            }
            media => match api {
                ChatApi::ChatCompletions => chat_part(media).map(|_| ())?,
                ChatApi::Responses => responses_part(media, message.role).map(|_| ())?,
            },
        }
    }
    Ok(())
}

/// A request's body.
struct Body<'a> {
    request: &'a Request,
    form: Form,
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut body = Fields {
            map: serializer.serialize_map(None)?,
            extra: &self.request.extra,
        };
        body.put("model", &self.request.model)?;
        let sampling = &self.request.sampling;
        match (&self.request.payload, self.form.api) {
            (Payload::Chat(chat), ChatApi::ChatCompletions) => {
                chat_fields(&mut body, chat, sampling, self.form.max_tokens)?;
            }
            (Payload::Chat(chat), ChatApi::Responses) => {
                responses_fields(&mut body, chat, sampling)?;
            }
            (Payload::Embedding(input), _) => embedding_fields(&mut body, input)?,
            // A raw body is copied, and what this version does not know was refused by `check`.
            _ => return Err(serde::ser::Error::custom("no form for this payload")),
        }
        if self.form.streamed {
            body.put("stream", &true)?;
            // Else nothing tells what it cost; the Responses API always does.
            if self.form.api == ChatApi::ChatCompletions {
                #[derive(Serialize)]
                struct Options {
                    include_usage: bool,
                }
                let include_usage = true;
                body.put("stream_options", &Options { include_usage })?;
            }
        }
        body.end()
    }
}

/// The fields of a body, with the caller's extra ones laid over them.
struct Fields<'e, M> {
    map: M,
    extra: &'e Map<String, Value>,
}

impl<M: SerializeMap> Fields<'_, M> {
    fn put<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), M::Error> {
        if !self.extra.is_empty() && self.extra.contains_key(key) {
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
            self.map.serialize_entry(key, value)?;
        }
        self.map.end()
    }
}

fn chat_fields<M: SerializeMap>(
    body: &mut Fields<'_, M>,
    chat: &Chat,
    sampling: &Sampling,
    max_tokens: &'static str,
) -> Result<(), M::Error> {
    body.put("messages", &ChatMessages(&chat.messages))?;
    if !chat.tools.is_empty() {
        body.put("tools", &Tools(chat, ChatApi::ChatCompletions))?;
    }
    body.put_some(
        "tool_choice",
        chat.tool_choice
            .as_ref()
            .map(|choice| Choose(choice, ChatApi::ChatCompletions)),
    )?;
    if chat.response_format != ResponseFormat::Text {
        body.put(
            "response_format",
            &Format(&chat.response_format, ChatApi::ChatCompletions),
        )?;
    }
    body.put_some(max_tokens, sampling.max_output_tokens())?;
    body.put_some("temperature", sampling.temperature())?;
    body.put_some("top_p", sampling.top_p())?;
    body.put_some("frequency_penalty", sampling.frequency_penalty())?;
    body.put_some("presence_penalty", sampling.presence_penalty())?;
    body.put_some("seed", sampling.seed())?;
    if !sampling.stop().is_empty() {
        body.put("stop", sampling.stop())?;
    }
    body.put_some("reasoning_effort", sampling.reasoning_effort())
}

fn responses_fields<M: SerializeMap>(
    body: &mut Fields<'_, M>,
    chat: &Chat,
    sampling: &Sampling,
) -> Result<(), M::Error> {
    #[derive(Serialize)]
    struct Text<'a> {
        format: Format<'a>,
    }
    #[derive(Serialize)]
    struct Reasoning<'a> {
        effort: &'a str,
    }
    body.put("input", &ResponsesInput(&chat.messages))?;
    if !chat.tools.is_empty() {
        body.put("tools", &Tools(chat, ChatApi::Responses))?;
    }
    body.put_some(
        "tool_choice",
        chat.tool_choice
            .as_ref()
            .map(|choice| Choose(choice, ChatApi::Responses)),
    )?;
    if chat.response_format != ResponseFormat::Text {
        let format = Format(&chat.response_format, ChatApi::Responses);
        body.put("text", &Text { format })?;
    }
    body.put_some("max_output_tokens", sampling.max_output_tokens())?;
    body.put_some("temperature", sampling.temperature())?;
    body.put_some("top_p", sampling.top_p())?;
    body.put_some(
        "reasoning",
        sampling
            .reasoning_effort()
            .map(|effort| Reasoning { effort }),
    )
}

fn embedding_fields<M: SerializeMap>(
    body: &mut Fields<'_, M>,
    input: &EmbeddingInput,
) -> Result<(), M::Error> {
    body.put("input", &input.texts)?;
    body.put_some("dimensions", input.dimensions)
}

/// The messages of a chat completion. A turn's tool results are messages of their own, before the rest.
struct ChatMessages<'a>(&'a [Message]);

impl Serialize for ChatMessages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Turn<'a> {
            role: &'static str,
            content: Content<'a>,
            #[serde(skip_serializing_if = "ToolCalls::is_empty")]
            tool_calls: ToolCalls<'a>,
        }
        #[derive(Serialize)]
        struct ToolTurn<'a> {
            role: &'static str,
            tool_call_id: &'a str,
            content: &'a str,
        }
        let mut turns = serializer.serialize_seq(None)?;
        for message in self.0 {
            for (tool_call_id, content) in tool_results(message) {
                turns.serialize_element(&ToolTurn {
                    role: "tool",
                    tool_call_id,
                    content,
                })?;
            }
            if speaks(message) {
                turns.serialize_element(&Turn {
                    role: role(message.role),
                    content: Content(message, ChatApi::ChatCompletions),
                    tool_calls: ToolCalls(&message.content),
                })?;
            }
        }
        turns.end()
    }
}

/// The input items of a response: tool results, then what is said, then tool calls.
struct ResponsesInput<'a>(&'a [Message]);

impl Serialize for ResponsesInput<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Turn<'a> {
            role: &'static str,
            content: Content<'a>,
        }
        let mut items = serializer.serialize_seq(None)?;
        for message in self.0 {
            for (call_id, output) in tool_results(message) {
                items.serialize_element(&ResponsesItem::FunctionCallOutput { call_id, output })?;
            }
            let calls = ToolCalls(&message.content);
            if speaks(message) && (calls.is_empty() || said(message).next().is_some()) {
                items.serialize_element(&Turn {
                    role: role(message.role),
                    content: Content(message, ChatApi::Responses),
                })?;
            }
            for (call_id, name, arguments) in calls.iter() {
                items.serialize_element(&ResponsesItem::FunctionCall {
                    call_id,
                    name,
                    arguments,
                })?;
            }
        }
        items.end()
    }
}

/// What a turn says: `null` beside tool calls, a plain text where it is one, else its parts.
struct Content<'a>(&'a Message, ChatApi);

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(message, api) = *self;
        let mut parts = said(message);
        match (parts.next(), parts.next()) {
            (None, _) if ToolCalls(&message.content).is_empty() => serializer.serialize_str(""),
            (None, _) => serializer.serialize_none(),
            (Some(Part::Text(text)), None) => serializer.serialize_str(text),
            _ => {
                let mut list = serializer.serialize_seq(None)?;
                for part in said(message) {
                    let refused = |error: Error| serde::ser::Error::custom(error);
                    match api {
                        ChatApi::ChatCompletions => {
                            list.serialize_element(&chat_part(part).map_err(refused)?)?;
                        }
                        ChatApi::Responses => list.serialize_element(
                            &responses_part(part, message.role).map_err(refused)?,
                        )?,
                    }
                }
                list.end()
            }
        }
    }
}

/// The tool calls among a message's parts.
#[derive(Clone, Copy)]
struct ToolCalls<'a>(&'a [Part]);

impl<'a> ToolCalls<'a> {
    fn iter(self) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
        self.0.iter().filter_map(|part| match part {
            Part::ToolCall(call) => Some((&*call.id, &*call.name, &*call.arguments)),
            _ => None,
        })
    }

    fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl Serialize for ToolCalls<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|(id, name, arguments)| ChatToolCall {
            id,
            r#type: "function",
            function: CalledFunction { name, arguments },
        }))
    }
}

fn tool_results(message: &Message) -> impl Iterator<Item = (&str, &str)> {
    message.content.iter().filter_map(|part| match part {
        Part::ToolResult(result) => Some((&*result.id, &*result.content)),
        _ => None,
    })
}

/// The parts that are neither reasoning nor about tools.
fn said(message: &Message) -> impl Iterator<Item = &Part> {
    message.content.iter().filter(|part| {
        !matches!(
            part,
            Part::Thinking(_) | Part::ToolCall(_) | Part::ToolResult(_)
        )
    })
}

/// Whether the turn is more than tool results.
fn speaks(message: &Message) -> bool {
    message.role != Role::Tool
        && (said(message).next().is_some() || tool_results(message).next().is_none())
}

fn role(role: Role) -> &'static str {
    match role {
        // Reasoning models take `system` as `developer`, so one word serves all.
        Role::System => "system",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
        _ => "user",
    }
}

fn chat_part(part: &Part) -> Result<ChatPart<'_>> {
    Ok(match part {
        Part::Text(text) => ChatPart::Text { text },
        Part::Image(Media::File(_)) => {
            return Err(unsupported(
                "a stored image in chat completions; use the Responses API",
            ));
        }
        Part::Image(media) => ChatPart::ImageUrl {
            image_url: ImageUrl {
                url: address(media)?,
            },
        },
        Part::Document(Media::Url(_)) => {
            return Err(unsupported(
                "a document by its URL in chat completions; use the Responses API",
            ));
        }
        Part::Document(media) => ChatPart::File {
            file: file_ref(media)?,
        },
        Part::Audio(Media::Inline {
            media_type, base64, ..
        }) => ChatPart::InputAudio {
            input_audio: InputAudio {
                data: base64,
                format: match &**media_type {
                    "audio/wav" | "audio/x-wav" | "audio/wave" => "wav",
                    "audio/mpeg" | "audio/mp3" => "mp3",
                    _ => return Err(unsupported("sound other than wav and mp3")),
                },
            },
        },
        Part::Audio(_) => return Err(unsupported("sound that is not inline")),
        _ => return Err(unsupported("this part of a message")),
    })
}

fn responses_part(part: &Part, role: Role) -> Result<ResponsesPart<'_>> {
    Ok(match part {
        Part::Text(text) if role == Role::Assistant => ResponsesPart::OutputText { text },
        Part::Text(text) => ResponsesPart::InputText { text },
        Part::Image(Media::File(id)) => ResponsesPart::InputImage {
            image_url: None,
            file_id: Some(id),
        },
        Part::Image(media) => ResponsesPart::InputImage {
            image_url: Some(address(media)?),
            file_id: None,
        },
        Part::Document(media) => ResponsesPart::InputFile(file_ref(media)?),
        Part::Audio(_) => return Err(unsupported("sound in the Responses API")),
        _ => return Err(unsupported("this part of a message")),
    })
}

fn address(media: &Media) -> Result<Address<'_>> {
    match media {
        Media::Url(url) => Ok(Address::Url(url)),
        Media::Inline {
            media_type, base64, ..
        } => Ok(Address::Data { media_type, base64 }),
        _ => Err(unsupported("this place of a picture")),
    }
}

fn file_ref(media: &Media) -> Result<FileRef<'_>> {
    match media {
        Media::Url(url) => Ok(FileRef {
            file_url: Some(url),
            ..FileRef::default()
        }),
        Media::File(id) => Ok(FileRef {
            file_id: Some(id),
            ..FileRef::default()
        }),
        Media::Inline { name, .. } => Ok(FileRef {
            // The API wants a name beside the data.
            filename: Some(name.as_deref().unwrap_or("document")),
            file_data: Some(address(media)?),
            ..FileRef::default()
        }),
        _ => Err(unsupported("this place of a document")),
    }
}

/// Tools: chat completions nest the function, responses lay it flat.
struct Tools<'a>(&'a Chat, ChatApi);

impl Serialize for Tools<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(tag = "type", rename = "function")]
        struct Nested<'a> {
            function: Function<'a>,
        }
        #[derive(Serialize)]
        struct Flat<'a> {
            r#type: &'static str,
            #[serde(flatten)]
            function: Function<'a>,
        }
        let functions = self.0.tools.iter().map(|tool| Function {
            name: &tool.name,
            description: tool.description.as_deref(),
            parameters: &tool.parameters,
            strict: tool.strict,
        });
        match self.1 {
            ChatApi::ChatCompletions => {
                serializer.collect_seq(functions.map(|function| Nested { function }))
            }
            ChatApi::Responses => serializer.collect_seq(functions.map(|function| Flat {
                r#type: "function",
                function,
            })),
        }
    }
}

struct Choose<'a>(&'a ToolChoice, ChatApi);

impl Serialize for Choose<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Name<'a> {
            name: &'a str,
        }
        match self.0 {
            ToolChoice::Auto => serializer.serialize_str("auto"),
            ToolChoice::None => serializer.serialize_str("none"),
            ToolChoice::Required => serializer.serialize_str("required"),
            ToolChoice::Named(name) => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("type", "function")?;
                match self.1 {
                    ChatApi::ChatCompletions => map.serialize_entry("function", &Name { name })?,
                    ChatApi::Responses => map.serialize_entry("name", name)?,
                }
                map.end()
            }
            _ => Err(serde::ser::Error::custom("no form for this tool choice")),
        }
    }
}

/// The answer's form: chat completions nest the schema, responses lay it flat.
struct Format<'a>(&'a ResponseFormat, ChatApi);

impl Serialize for Format<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self.0 {
            ResponseFormat::Text => map.serialize_entry("type", "text")?,
            ResponseFormat::Json => map.serialize_entry("type", "json_object")?,
            ResponseFormat::JsonSchema {
                name,
                schema,
                strict,
            } => {
                map.serialize_entry("type", "json_schema")?;
                match self.1 {
                    ChatApi::ChatCompletions => map.serialize_entry(
                        "json_schema",
                        &Schema {
                            name,
                            schema,
                            strict: *strict,
                        },
                    )?,
                    ChatApi::Responses => {
                        map.serialize_entry("name", name)?;
                        map.serialize_entry("schema", schema)?;
                        map.serialize_entry("strict", strict)?;
                    }
                }
            }
            _ => return Err(serde::ser::Error::custom("no form for this answer format")),
        }
        map.end()
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
