//! Core's requests in Google's words, checked and then serialised from core's types: texts are not copied.

use super::{EMBED, EMBED_MANY, GENERATE, model_name};
use crate::wire::{
    Blob, Content, FileData, FunctionCall, FunctionCallingConfig, FunctionDeclaration,
    FunctionResponse, GenerationConfig, Part as WirePart, ThinkingConfig, ToolAnswer, ToolConfig,
    Tools,
};
use batchwright_core::{
    Chat, EmbeddingInput, Error, ErrorKind, Media, Message, Part, Payload, Request, ResponseFormat,
    Result, Role, Sampling, ToolChoice,
};
use serde::Serialize;
use serde_json::{Map, Value, value::RawValue};

/// What a body is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A direct call.
    Answer,
    /// The `request` of a batch's line.
    Line,
}

/// The most texts of one direct call for embeddings (API reference, `batchEmbedContents`).
const MAX_EMBEDDING_INPUTS: usize = 100;

/// What the ids of calls begin with that the vendor gave none; it gets none back.
pub(super) const OWN_CALL_ID: &str = "batchwright-call-";

/// Appends the request's body, in one line, to `out`; on an error `out` is as it was.
pub(crate) fn write_body(request: &Request, purpose: Purpose, out: &mut Vec<u8>) -> Result<()> {
    model_name(&request.model)?;
    match &request.payload {
        Payload::Chat(chat) => {
            let fields = chat_fields(chat, &request.sampling, &request.model, &request.extra)?;
            write(&laid_over(fields, &request.extra), out)
        }
        Payload::Embedding(input) => write_embedding(request, input, purpose, out),
        Payload::Raw(raw) => {
            check_raw(request, &raw.endpoint, purpose)?;
            append_line(raw.body.get().as_bytes(), out);
            Ok(())
        }
        _ => Err(unsupported("this kind of request")),
    }
}

/// The body of `countTokens`.
pub(crate) fn count_body(request: &Request) -> Result<Vec<u8>> {
    let Payload::Chat(_) = &request.payload else {
        return Err(unsupported("counting what is no conversation"));
    };
    let mut out = b"{\"generateContentRequest\":{\"model\":".to_vec();
    batchwright_http::wire::push_text(&model_name(&request.model)?, &mut out);
    let mut inner = Vec::new();
    write_body(request, Purpose::Answer, &mut inner)?;
    out.push(b',');
    // The inner body is an object that is never empty: it has contents.
    out.extend_from_slice(inner.get(1..).unwrap_or_default());
    out.push(b'}');
    Ok(out)
}

/// What a cached content holds of a conversation: system, turns and tools, without a generation config.
pub(crate) fn prefix_fields(chat: &Chat) -> Result<Map<String, Value>> {
    let turns = Turns::read(&chat.messages)?;
    let mut fields = Map::new();
    let put = |fields: &mut Map<String, Value>, name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    if let Some(system) = &turns.system {
        put(&mut fields, "systemInstruction", value(system)?);
    }
    if !turns.contents.is_empty() {
        put(&mut fields, "contents", value(&turns.contents)?);
    }
    if let Some(tools) = tools(chat) {
        put(&mut fields, "tools", value(&tools)?);
    }
    if let Some(config) = tool_config(chat)? {
        put(&mut fields, "toolConfig", value(&config)?);
    }
    Ok(fields)
}

/// The fields of a body, and the one that an extra field is merged into.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChatBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    contents: Option<Vec<Content<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_instruction: Option<Content<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<[Tools<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_config: Option<ToolConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation_config: Option<Config<'a>>,
}

/// Ours alone, or ours with the caller's fields laid over.
#[derive(Serialize)]
#[serde(untagged)]
enum Config<'a> {
    Own(GenerationConfig<'a>),
    Merged(Map<String, Value>),
}

/// A body with the caller's extra fields after it.
#[derive(Serialize)]
struct LaidOver<'a> {
    #[serde(flatten)]
    body: ChatBody<'a>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

fn laid_over<'a>(mut body: ChatBody<'a>, extra: &Map<String, Value>) -> LaidOver<'a> {
    let replaced = |name: &str| extra.contains_key(name);
    if replaced("contents") {
        body.contents = None;
    }
    if replaced("systemInstruction") {
        body.system_instruction = None;
    }
    if replaced("tools") {
        body.tools = None;
    }
    if replaced("toolConfig") {
        body.tool_config = None;
    }
    let mut extra = extra.clone();
    if body.generation_config.is_some() {
        // It is merged already.
        extra.remove("generationConfig");
    }
    LaidOver { body, extra }
}

fn chat_fields<'a>(
    chat: &'a Chat,
    sampling: &'a Sampling,
    model: &str,
    extra: &Map<String, Value>,
) -> Result<ChatBody<'a>> {
    let turns = Turns::read(&chat.messages)?;
    if turns.contents.is_empty() {
        return Err(invalid(
            "a conversation needs a message beside the system's instruction",
        ));
    }
    let has_prefix = turns.system.is_some() || !chat.tools.is_empty() || chat.tool_choice.is_some();
    if has_prefix && extra.contains_key("cachedContent") {
        return Err(invalid(
            "beside a cached content the system message, the tools and the tool choice belong into the cache",
        ));
    }
    let own = generation_config(chat, sampling, model)?;
    let generation_config = match (own, extra.get("generationConfig")) {
        (own, None) => own.map(Config::Own),
        (None, Some(_)) => None,
        (Some(own), Some(Value::Object(theirs))) => {
            let Value::Object(mut merged) = value(&own)? else {
                return Err(invalid("generationConfig is no object"));
            };
            merged.extend(theirs.clone());
            Some(Config::Merged(merged))
        }
        (Some(_), Some(_)) => {
            return Err(invalid(
                "the extra field generationConfig must be an object, which is laid over ours",
            ));
        }
    };
    Ok(ChatBody {
        contents: Some(turns.contents),
        system_instruction: turns.system,
        tools: tools(chat),
        tool_config: tool_config(chat)?,
        generation_config,
    })
}

/// Messages as turns, with the system's instruction apart.
struct Turns<'a> {
    system: Option<Content<'a>>,
    contents: Vec<Content<'a>>,
}

impl<'a> Turns<'a> {
    fn read(messages: &'a [Message]) -> Result<Self> {
        let mut system = Vec::new();
        let mut contents = Vec::new();
        for (at, message) in messages.iter().enumerate() {
            if message.role == Role::System {
                if !contents.is_empty() {
                    return Err(unsupported("a system message after the first turn"));
                }
                for part in &message.content {
                    let text = part
                        .as_text()
                        .ok_or_else(|| invalid("a system message holds text only"))?;
                    system.push(WirePart {
                        text: Some(text),
                        ..WirePart::default()
                    });
                }
                continue;
            }
            let parts = parts(message, &messages[..at])?;
            if parts.is_empty() {
                return Err(invalid("a turn is empty"));
            }
            let role = match message.role {
                Role::Assistant => "model",
                _ => "user",
            };
            contents.push(Content {
                role: Some(role),
                parts,
            });
        }
        let system = (!system.is_empty()).then_some(Content {
            role: None,
            parts: system,
        });
        Ok(Self { system, contents })
    }
}

fn parts<'a>(message: &'a Message, before: &'a [Message]) -> Result<Vec<WirePart<'a>>> {
    let mut parts: Vec<WirePart<'a>> = Vec::with_capacity(message.content.len());
    // A signature of a part that has no words of ours for it stands before the part as empty reasoning.
    let mut signature: Option<&str> = None;
    for part in &message.content {
        let mut wire = match part {
            Part::Thinking(thinking) => match (&thinking.signature, &*thinking.text) {
                (Some(signed), "") => {
                    signature = Some(signed);
                    continue;
                }
                (Some(signed), text) => {
                    parts.push(WirePart {
                        text: Some(text),
                        thought: Some(true),
                        thought_signature: Some(signed),
                        ..WirePart::default()
                    });
                    continue;
                }
                // A summary without a signature is nothing the vendor wants back.
                (None, _) => continue,
            },
            Part::Text(text) => WirePart {
                text: Some(text),
                ..WirePart::default()
            },
            Part::ToolCall(call) if message.role == Role::Assistant => WirePart {
                function_call: Some(FunctionCall {
                    id: vendors_id(&call.id),
                    name: &call.name,
                    args: arguments(&call.arguments)?,
                }),
                ..WirePart::default()
            },
            Part::ToolCall(_) => return Err(invalid("only the assistant calls tools")),
            Part::ToolResult(result) if message.role != Role::Assistant => WirePart {
                function_response: Some(FunctionResponse {
                    id: vendors_id(&result.id),
                    name: called_name(&result.id, before).ok_or_else(|| {
                        invalid("a tool's result answers no call of the conversation")
                    })?,
                    response: tool_answer(&result.content),
                }),
                ..WirePart::default()
            },
            Part::ToolResult(_) => {
                return Err(invalid("a tool's result belongs to a turn of the tool"));
            }
            Part::Image(media) | Part::Document(media) | Part::Audio(media) => media_part(media)?,
            _ => return Err(unsupported("this part of a message")),
        };
        wire.thought_signature = signature.take();
        parts.push(wire);
    }
    Ok(parts)
}

/// An id as the vendor gave it; `None` where it gave none.
fn vendors_id(id: &str) -> Option<&str> {
    (!id.is_empty() && !id.starts_with(OWN_CALL_ID)).then_some(id)
}

/// The name of the tool a call went to: a result has none of its own in core, and needs one here.
fn called_name<'a>(id: &str, before: &'a [Message]) -> Option<&'a str> {
    let parts = before.iter().rev().flat_map(|message| &message.content);
    parts.into_iter().find_map(|part| match part {
        Part::ToolCall(call) if call.id == id => Some(&*call.name),
        _ => None,
    })
}

fn arguments(text: &str) -> Result<Option<&RawValue>> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    object(text)
        .map(Some)
        .ok_or_else(|| invalid("the arguments of a tool call must be a JSON object"))
}

fn tool_answer(content: &str) -> ToolAnswer<'_> {
    match object(content) {
        Some(object) => ToolAnswer::Object(object),
        None => ToolAnswer::Text { result: content },
    }
}

fn object(text: &str) -> Option<&RawValue> {
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    raw.get().starts_with('{').then_some(raw)
}

fn media_part(media: &Media) -> Result<WirePart<'_>> {
    Ok(match media {
        Media::Inline {
            media_type, base64, ..
        } => WirePart {
            inline_data: Some(Blob {
                mime_type: media_type,
                data: base64,
            }),
            ..WirePart::default()
        },
        // A stored file goes by its address too.
        Media::Url(uri) | Media::File(uri) => WirePart {
            file_data: Some(FileData { file_uri: uri }),
            ..WirePart::default()
        },
        _ => return Err(unsupported("this place of a picture, document or sound")),
    })
}

fn tools(chat: &Chat) -> Option<[Tools<'_>; 1]> {
    (!chat.tools.is_empty()).then(|| {
        let declared = chat.tools.iter().map(|tool| FunctionDeclaration {
            name: &tool.name,
            description: tool.description.as_deref(),
            parameters_json_schema: &tool.parameters,
        });
        [Tools {
            function_declarations: declared.collect(),
        }]
    })
}

fn tool_config(chat: &Chat) -> Result<Option<ToolConfig<'_>>> {
    let strict = chat.tools.iter().any(|tool| tool.strict == Some(true));
    let (mode, name) = match &chat.tool_choice {
        // Calls that the schema holds are a mode here.
        None | Some(ToolChoice::Auto) if strict => ("VALIDATED", None),
        None => return Ok(None),
        Some(ToolChoice::Auto) => ("AUTO", None),
        Some(ToolChoice::None) => ("NONE", None),
        Some(ToolChoice::Required) => ("ANY", None),
        Some(ToolChoice::Named(name)) => ("ANY", Some([&**name])),
        Some(_) => return Err(unsupported("this tool choice")),
    };
    Ok(Some(ToolConfig {
        function_calling_config: FunctionCallingConfig {
            mode,
            allowed_function_names: name,
        },
    }))
}

fn generation_config<'a>(
    chat: &'a Chat,
    sampling: &'a Sampling,
    model: &str,
) -> Result<Option<GenerationConfig<'a>>> {
    let (response_mime_type, response_json_schema) = match &chat.response_format {
        ResponseFormat::Text => (None, None),
        ResponseFormat::Json => (Some("application/json"), None),
        ResponseFormat::JsonSchema { schema, .. } => (Some("application/json"), Some(schema)),
        _ => return Err(unsupported("this answer format")),
    };
    let seed = match sampling.seed() {
        None => None,
        Some(seed) => Some(
            i32::try_from(seed)
                .map_err(|_| invalid("the seed must fit 32 bits: -2147483648 to 2147483647"))?,
        ),
    };
    if *sampling == Sampling::default() && response_mime_type.is_none() {
        return Ok(None);
    }
    Ok(Some(GenerationConfig {
        temperature: sampling.temperature(),
        top_p: sampling.top_p(),
        top_k: sampling.top_k(),
        max_output_tokens: sampling.max_output_tokens(),
        stop_sequences: sampling.stop(),
        presence_penalty: sampling.presence_penalty(),
        frequency_penalty: sampling.frequency_penalty(),
        seed,
        response_mime_type,
        response_json_schema,
        thinking_config: sampling
            .reasoning_effort()
            .map(|effort| thinking(effort, model))
            .transpose()?,
    }))
}

/// An effort as a level, or as a budget for models up to 2.5, which know no levels. The budgets are those Google names
/// for the efforts (<https://ai.google.dev/gemini-api/docs/openai>, read 2026-11-22).
fn thinking(effort: &str, model: &str) -> Result<ThinkingConfig> {
    let name = model.strip_prefix("models/").unwrap_or(model);
    let budgeted = name.starts_with("gemini-2") || name.starts_with("gemini-1");
    let config = |thinking_budget, thinking_level| ThinkingConfig {
        thinking_budget,
        thinking_level,
    };
    Ok(match (budgeted, &*effort.to_ascii_lowercase()) {
        (true, "none") => config(Some(0), None),
        (true, "minimal" | "low") => config(Some(1_024), None),
        (true, "medium") => config(Some(8_192), None),
        (true, "high") => config(Some(24_576), None),
        (false, "minimal") => config(None, Some("MINIMAL")),
        (false, "low") => config(None, Some("LOW")),
        (false, "medium") => config(None, Some("MEDIUM")),
        (false, "high") => config(None, Some("HIGH")),
        (false, "xhigh") => config(None, Some("XHIGH")),
        _ => {
            return Err(unsupported(
                "this reasoning effort of the model; thinkingConfig in the extra field generationConfig can say it",
            ));
        }
    })
}

fn write_embedding(
    request: &Request,
    input: &EmbeddingInput,
    purpose: Purpose,
    out: &mut Vec<u8>,
) -> Result<()> {
    if request.sampling != Sampling::default() {
        return Err(unsupported("sampling of an embedding"));
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct One<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        model: Option<&'a str>,
        content: Content<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        output_dimensionality: Option<u32>,
        #[serde(flatten)]
        extra: &'a Map<String, Value>,
    }
    #[derive(Serialize)]
    struct Many<'a> {
        requests: Vec<One<'a>>,
    }
    for ours in ["model", "content", "requests"] {
        if request.extra.contains_key(ours) {
            return Err(invalid(format!(
                "the extra field {ours} of an embedding would replace its texts or its model"
            )));
        }
    }
    let dimensions = input
        .dimensions
        .filter(|_| !request.extra.contains_key("outputDimensionality"));
    let one = |model, text| One {
        model,
        content: Content {
            role: None,
            parts: vec![WirePart {
                text: Some(text),
                ..WirePart::default()
            }],
        },
        output_dimensionality: dimensions,
        extra: &request.extra,
    };
    match (purpose, &*input.texts) {
        (Purpose::Line, [text]) => write(&one(None, text), out),
        (Purpose::Line, _) => Err(unsupported(
            "an embedding of several texts in a batch: one text a request",
        )),
        (Purpose::Answer, texts) if (1..=MAX_EMBEDDING_INPUTS).contains(&texts.len()) => {
            let model = model_name(&request.model)?;
            let requests = texts.iter().map(|text| one(Some(&model), text)).collect();
            write(&Many { requests }, out)
        }
        (Purpose::Answer, _) => Err(invalid(format!(
            "an embedding request holds 1 to {MAX_EMBEDDING_INPUTS} texts"
        ))),
    }
}

fn check_raw(request: &Request, endpoint: &str, purpose: Purpose) -> Result<()> {
    if request.sampling != Sampling::default() || !request.extra.is_empty() {
        return Err(invalid(
            "a raw body is sent as it is: put sampling and extra fields into it",
        ));
    }
    let known = match purpose {
        Purpose::Answer => [GENERATE, EMBED, EMBED_MANY].contains(&endpoint),
        Purpose::Line => [GENERATE, EMBED].contains(&endpoint),
    };
    if known {
        return Ok(());
    }
    Err(unsupported(format!(
        "a raw body for the method {endpoint:?}; known are {GENERATE}, {EMBED} and, in direct calls, {EMBED_MANY}"
    )))
}

/// Appends JSON; a line end between its tokens would break a batch's line in two, and inside a text JSON allows none.
fn append_line(json: &[u8], out: &mut Vec<u8>) {
    out.extend(json.iter().map(|byte| match byte {
        b'\n' | b'\r' => b' ',
        other => *other,
    }));
}

fn write(body: &impl Serialize, out: &mut Vec<u8>) -> Result<()> {
    let before = out.len();
    serde_json::to_writer(&mut *out, body).map_err(|error| {
        out.truncate(before);
        Error::new(ErrorKind::Unexpected, "write the request as JSON").with_source(error)
    })?;
    // Arguments and tools' answers are JSON of others, which may have line ends.
    for byte in &mut out[before..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    Ok(())
}

fn value(part: &impl Serialize) -> Result<Value> {
    serde_json::to_value(part).map_err(|error| {
        Error::new(ErrorKind::Unexpected, "write the request as JSON").with_source(error)
    })
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
