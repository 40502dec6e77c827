//! Core's words to OpenAI's and back: pure functions.
//!
//! Going out nothing is copied: [`write_body`] checks a request and then serialises it straight from
//! core's types. Coming in, [`read_answer`] reads every inference endpoint's answer by the fields it has.

use crate::config::ChatApi;
use crate::error::{hollow, inner_error};
use crate::wire::{
    Address, Answer, AnswerPart, AnswerToolCall, CalledFunction, ChatPart, ChatToolCall, Choice,
    Datum, Envelope, FileRef, Function, ImageUrl, IncompleteDetails, InputAudio, OutputItem,
    ResponsesItem, ResponsesPart, Schema, UsageDetails, UsageWire, lenient, some_text, text,
};
use batchwright_core::{
    Chat, EmbeddingInput, Error, ErrorKind, FinishReason, Media, Message, Part, Payload, Request,
    Response, ResponseFormat, Result, Role, Sampling, Thinking, ToolCall, ToolChoice, Usage,
};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, value::RawValue};

/// The endpoint chat completions are sent to, in OpenAI's spelling.
pub(crate) const CHAT_COMPLETIONS: &str = "/v1/chat/completions";
/// The endpoint of the Responses API.
pub(crate) const RESPONSES: &str = "/v1/responses";
/// The endpoint of embeddings.
pub(crate) const EMBEDDINGS: &str = "/v1/embeddings";

/// The most stop texts the API takes (API reference, `chat/completions`, `stop`).
const MAX_STOP: usize = 4;
/// The most texts of one embeddings call (API reference, `embeddings`, `input`).
const MAX_EMBEDDING_INPUTS: usize = 2048;

/// The endpoint a request goes to.
pub(crate) fn endpoint(request: &Request, api: ChatApi) -> Result<&str> {
    match &request.payload {
        Payload::Chat(_) => Ok(match api {
            ChatApi::ChatCompletions => CHAT_COMPLETIONS,
            ChatApi::Responses => RESPONSES,
        }),
        Payload::Embedding(_) => Ok(EMBEDDINGS),
        Payload::Raw(raw) => Ok(&raw.endpoint),
        _ => Err(unsupported("this kind of request")),
    }
}

/// Appends the request's body, in one line, to `out`; on an error `out` is as it was.
pub(crate) fn write_body(request: &Request, api: ChatApi, out: &mut Vec<u8>) -> Result<()> {
    check(request, api)?;
    if let Payload::Raw(raw) = &request.payload {
        // A line end between tokens would break a batch's line in two; inside a text JSON allows none.
        out.extend(raw.body.get().bytes().map(|byte| match byte {
            b'\n' | b'\r' => b' ',
            other => other,
        }));
        return Ok(());
    }
    let before = out.len();
    serde_json::to_writer(&mut *out, &Body { request, api }).map_err(|error| {
        out.truncate(before);
        Error::new(ErrorKind::Unexpected, "write the request as JSON").with_source(error)
    })
}

/// What a request asks for that this endpoint has no form for is refused before anything is sent.
fn check(request: &Request, api: ChatApi) -> Result<()> {
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
            check_sampling(sampling, api)
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

fn check_sampling(sampling: &Sampling, api: ChatApi) -> Result<()> {
    if sampling.top_k().is_some() {
        return Err(unsupported("top_k"));
    }
    if sampling.stop().len() > MAX_STOP {
        return Err(invalid(format!("at most {MAX_STOP} stop texts are taken")));
    }
    if api == ChatApi::Responses {
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
    api: ChatApi,
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut body = Fields {
            map: serializer.serialize_map(None)?,
            extra: &self.request.extra,
        };
        body.put("model", &self.request.model)?;
        let sampling = &self.request.sampling;
        match (&self.request.payload, self.api) {
            (Payload::Chat(chat), ChatApi::ChatCompletions) => {
                chat_fields(&mut body, chat, sampling)?;
            }
            (Payload::Chat(chat), ChatApi::Responses) => {
                responses_fields(&mut body, chat, sampling)?;
            }
            (Payload::Embedding(input), _) => embedding_fields(&mut body, input)?,
            // A raw body is copied, and what this version does not know was refused by `check`.
            _ => return Err(serde::ser::Error::custom("no form for this payload")),
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
    // `max_tokens` is the old name, which reasoning models refuse.
    body.put_some("max_completion_tokens", sampling.max_output_tokens())?;
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

// ---- answers ----

/// Which endpoint's answer is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Chat completions or responses.
    Chat,
    /// Embeddings of this many texts.
    Embeddings(usize),
    /// Whatever a raw request or a batch line asked for.
    Any,
}

impl Expect {
    /// The answer `request` is to get.
    pub(crate) fn of(request: &Request) -> Self {
        match &request.payload {
            Payload::Chat(_) => Self::Chat,
            // An extra `input` replaces the texts, and only the caller knows how many it holds.
            Payload::Embedding(input) if !request.extra.contains_key("input") => {
                Self::Embeddings(input.texts.len())
            }
            _ => Self::Any,
        }
    }
}

/// Why a successful answer's body holds no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// It holds an error of the server's (F-050).
    Said(Error),
    /// It holds nothing that can be understood.
    Hollow(Error),
}

impl Unanswered {
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Said(error) | Self::Hollow(error) => error,
        }
    }
}

/// Reads a successful HTTP answer's body. Status, ids of HTTP and raw bytes are the caller's.
///
/// # Errors
/// The error within where the body holds one (F-050), `ProviderFault` of class `Ambiguous` where it holds
/// no answer (F-051, F-052, F-053).
pub(crate) fn read_answer(body: &str, expect: Expect) -> Result<Response, Unanswered> {
    if !body.trim_start().starts_with('{') {
        return Err(nothing("read the answer: it is not a JSON object"));
    }
    let answer: Answer<'_> = match serde_json::from_str(body) {
        Ok(answer) => answer,
        Err(_) => {
            let error = serde_json::from_str::<Envelope<'_>>(body)
                .ok()
                .and_then(|envelope| envelope.error)
                .and_then(inner_error);
            return Err(match error {
                Some(error) => Unanswered::Said(error),
                None => nothing("read the answer: it is not JSON of a known form"),
            });
        }
    };
    if let Some(error) = answer.error.and_then(inner_error) {
        return Err(Unanswered::Said(error));
    }
    let mut response = Response::default();
    response.usage = usage(answer.usage);
    let read = match (expect, answer.choices, answer.output, answer.data) {
        (Expect::Chat | Expect::Any, Some(choices), _, _) => read_choices(choices, &mut response),
        (Expect::Chat | Expect::Any, None, Some(output), _) => read_output(
            output,
            answer.status.as_deref(),
            lenient(answer.incomplete_details),
            &mut response,
        ),
        (Expect::Embeddings(texts), _, _, Some(data)) => {
            read_vectors(data, Some(texts), &mut response)
        }
        (Expect::Any, None, None, Some(data)) if !data.is_empty() => {
            if data.iter().any(|datum| datum.embedding.is_some()) {
                read_vectors(data, None, &mut response)
            } else {
                keep_raw(body, &mut response)
            }
        }
        (Expect::Any, None, None, None) if answer.results.is_some_and(|list| !list.is_empty()) => {
            keep_raw(body, &mut response)
        }
        _ => Err(nothing("read the answer: it holds no answer")),
    };
    response.id = answer.id;
    response.model = answer.model;
    match read {
        Ok(()) => Ok(response),
        // What an unusable answer cost is known all the same.
        Err(error) if response.usage.is_unknown() => Err(error),
        Err(Unanswered::Said(error)) => Err(Unanswered::Said(error.with_usage(response.usage))),
        Err(Unanswered::Hollow(error)) => Err(Unanswered::Hollow(error.with_usage(response.usage))),
    }
}

fn nothing(message: &'static str) -> Unanswered {
    Unanswered::Hollow(hollow(message))
}

/// Pictures and moderations have no words in core: their body is the answer.
fn keep_raw(body: &str, response: &mut Response) -> Result<(), Unanswered> {
    response.raw = serde_json::from_str(body).ok();
    Ok(())
}

fn read_choices(choices: Vec<Choice<'_>>, response: &mut Response) -> Result<(), Unanswered> {
    // The further ones exist only where the caller asked for `n`; the raw body has them.
    let Some(choice) = choices.into_iter().next() else {
        return Err(nothing("read the answer: its choices are empty"));
    };
    if let Some(error) = choice.error.and_then(inner_error) {
        return Err(Unanswered::Said(error));
    }
    response.finish_reason = choice.finish_reason.map(finish_reason);
    let Some(message) = choice.message else {
        let Some(written) = choice.text.and_then(text) else {
            return Err(nothing("read the answer: its choice has no message"));
        };
        push_text(&mut response.content, written);
        return Ok(());
    };
    let reasoning = some_text(message.reasoning_content).or_else(|| some_text(message.reasoning));
    if let Some(text) = reasoning {
        response
            .content
            .push(Part::Thinking(Thinking::new(text, None)));
    }
    if let Some(content) = message.content {
        match text(content) {
            Some(written) => push_text(&mut response.content, written),
            None => read_parts(Some(content), response),
        }
    }
    if let Some(refusal) = some_text(message.refusal) {
        refuse(refusal, response);
    }
    response
        .content
        .extend(message.tool_calls.into_iter().flatten().map(tool_call));
    Ok(())
}

fn tool_call(call: AnswerToolCall<'_>) -> Part {
    let function = call.function.or(call.custom);
    let (name, arguments) = function.map_or((None, None), |function| {
        (function.name, function.arguments.or(function.input))
    });
    Part::ToolCall(ToolCall::new(
        call.id.unwrap_or_default(),
        name.unwrap_or_default(),
        verbatim(arguments),
    ))
}

/// Arguments are a text that holds JSON; some servers send the JSON itself.
fn verbatim(arguments: Option<&RawValue>) -> String {
    arguments.map_or_else(String::new, |raw| {
        text(raw).unwrap_or_else(|| raw.get().to_owned())
    })
}

fn read_output(
    items: Vec<OutputItem<'_>>,
    status: Option<&str>,
    incomplete: Option<IncompleteDetails>,
    response: &mut Response,
) -> Result<(), Unanswered> {
    let empty = items.is_empty();
    let mut calls = false;
    for item in items {
        match item.r#type.as_deref() {
            Some("message") => read_parts(item.content, response),
            Some("reasoning") => {
                let summary: Vec<AnswerPart<'_>> = lenient(item.summary).unwrap_or_default();
                let text: String = summary
                    .iter()
                    .filter_map(|part| some_text(part.text))
                    .collect();
                if !text.is_empty() {
                    let thinking = Thinking::new(text, item.encrypted_content);
                    response.content.push(Part::Thinking(thinking));
                }
            }
            Some("function_call" | "custom_tool_call") => {
                calls = true;
                response.content.push(Part::ToolCall(ToolCall::new(
                    item.call_id.unwrap_or_default(),
                    item.name.unwrap_or_default(),
                    verbatim(item.arguments.or(item.input)),
                )));
            }
            // Searches and other built-in tools tell how the answer came about; the raw body has them.
            _ => {}
        }
    }
    let refused = response.finish_reason.is_some();
    let reason = incomplete.and_then(|details| details.reason);
    let ended = match (status, reason.as_deref()) {
        (Some("failed" | "cancelled"), _) => {
            return Err(nothing(
                "read the answer: the response failed without a reason",
            ));
        }
        (Some("in_progress" | "queued"), _) => {
            return Err(nothing("read the answer: the response is not finished"));
        }
        (Some("incomplete"), Some("max_output_tokens")) => FinishReason::Length,
        (Some("incomplete"), Some(reason)) => finish_reason(reason.to_owned()),
        _ if empty => return Err(nothing("read the answer: its output is empty")),
        _ if refused => return Ok(()),
        (Some("completed") | None, _) if calls => FinishReason::ToolCalls,
        (Some("completed") | None, _) => FinishReason::Stop,
        (Some(other), _) => FinishReason::Other(other.to_owned()),
    };
    response.finish_reason = Some(ended);
    Ok(())
}

/// The text and refusal parts of a message; parts of other types are left to the raw body.
fn read_parts(content: Option<&RawValue>, response: &mut Response) {
    let parts: Vec<&RawValue> = lenient(content).unwrap_or_default();
    for part in parts {
        let Some(part) = lenient::<AnswerPart<'_>>(Some(part)) else {
            continue;
        };
        if let Some(written) = some_text(part.text) {
            push_text(&mut response.content, written);
        }
        if let Some(refusal) = some_text(part.refusal) {
            refuse(refusal, response);
        }
    }
}

/// A refusal's text is the content, and the reason says what it is (F-063).
fn refuse(refusal: String, response: &mut Response) {
    push_text(&mut response.content, refusal);
    response.finish_reason = Some(FinishReason::Refusal);
}

fn push_text(content: &mut Vec<Part>, text: String) {
    if !text.is_empty() {
        content.push(Part::Text(text));
    }
}

fn finish_reason(word: String) -> FinishReason {
    match &*word {
        "stop" => FinishReason::Stop,
        "length" => FinishReason::Length,
        "tool_calls" => FinishReason::ToolCalls,
        "content_filter" => FinishReason::ContentFilter,
        _ => FinishReason::Other(word),
    }
}

/// Puts vectors in the order of their texts. A hole, a double or a wrong number of them would give a text
/// another one's vector, so nothing of such an answer is used.
fn read_vectors(
    data: Vec<Datum>,
    texts: Option<usize>,
    response: &mut Response,
) -> Result<(), Unanswered> {
    if texts.is_some_and(|texts| texts != data.len()) {
        return Err(nothing("read the answer: not one vector for each text"));
    }
    let mut vectors: Vec<Option<Vec<f32>>> = data.iter().map(|_| None).collect();
    for (place, datum) in data.into_iter().enumerate() {
        let index = datum
            .index
            .map_or(Some(place), |index| usize::try_from(index).ok());
        let slot = index.and_then(|index| vectors.get_mut(index));
        match (slot, datum.embedding) {
            (Some(slot @ None), Some(vector)) if !vector.0.is_empty() => *slot = Some(vector.0),
            _ => {
                return Err(nothing(
                    "read the answer: its vectors do not match the texts",
                ));
            }
        }
    }
    response.embeddings = vectors.into_iter().flatten().collect();
    Ok(())
}

/// Reads counters of either API; what is absent or odd is unknown (F-057, F-066).
pub(crate) fn usage(raw: Option<&RawValue>) -> Usage {
    let wire: UsageWire<'_> = lenient(raw).unwrap_or_default();
    let details = |a: Option<&RawValue>, b: Option<&RawValue>| -> UsageDetails {
        lenient(a.or(b)).unwrap_or_default()
    };
    let input = details(wire.prompt_tokens_details, wire.input_tokens_details);
    let output = details(wire.completion_tokens_details, wire.output_tokens_details);
    let mut usage = Usage::default();
    usage.input_tokens = wire.prompt_tokens.or(wire.input_tokens);
    usage.output_tokens = wire.completion_tokens.or(wire.output_tokens);
    usage.cache_read_input_tokens = input.cached_tokens;
    usage.cache_creation_input_tokens = input.cache_write_tokens;
    usage.reasoning_tokens = output.reasoning_tokens;
    usage
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidRequest, message)
}

fn unsupported(what: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("encode the request: OpenAI has no form for {what}"),
    )
}

#[cfg(test)]
mod tests;
