//! Core's requests in Google's words.

use super::{endpoint, invalid, schema, unsupported};
use batchwright_core::{
    Chat, Error, ErrorKind, Media, Message, Part, Payload, Request, ResponseFormat, Result, Role,
    Sampling, ToolChoice,
};
use serde_json::{Map, Value, json, value::RawValue};
use std::collections::BTreeMap;

/// What a body is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A direct call.
    Answer,
    /// A line of a batch, which the vendor fetches nothing from the web for.
    Line,
}

/// The most stop texts the API takes (API reference, `GenerationConfig.stopSequences`).
const MAX_STOP: usize = 5;

/// Appends the request's body, in one line, to `out`; on an error `out` is as it was.
pub(crate) fn write_body(request: &Request, purpose: Purpose, out: &mut Vec<u8>) -> Result<()> {
    endpoint(request)?;
    let before = out.len();
    let written = match &request.payload {
        Payload::Chat(chat) => {
            let body = body(request, chat, purpose)?;
            serde_json::to_writer(&mut *out, &body).map_err(unwritten)
        }
        Payload::Raw(raw) => write_raw(request, &raw.body, out),
        _ => Err(unsupported("this kind of request")),
    };
    if written.is_err() {
        out.truncate(before);
    }
    written
}

fn unwritten(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Unexpected, "write the request as JSON").with_source(error)
}

/// A raw body as it is, but for its `model`, which stands in the path or in the job.
fn write_raw(request: &Request, raw: &RawValue, out: &mut Vec<u8>) -> Result<()> {
    if request.sampling != Sampling::default() || !request.extra.is_empty() {
        return Err(invalid(
            "a raw body is sent as it is: put sampling and extra fields into it",
        ));
    }
    let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get())
        .map_err(|_| invalid("the raw body must be a JSON object"))?;
    fields.remove("model");
    let before = out.len();
    serde_json::to_writer(&mut *out, &fields).map_err(unwritten)?;
    // A line end between tokens would break a job's line in two; inside a text JSON allows none.
    for byte in &mut out[before..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    Ok(())
}

/// The fields of a body, with the caller's extra ones laid over them; `generationConfig` field by field.
fn body(request: &Request, chat: &Chat, purpose: Purpose) -> Result<Map<String, Value>> {
    let mut body = Map::new();
    let mut system = Vec::new();
    let mut contents = Vec::new();
    for (at, message) in chat.messages.iter().enumerate() {
        if message.role == Role::System {
            if !contents.is_empty() {
                return Err(unsupported("a system message after the first turn"));
            }
            for part in &message.content {
                let text = part
                    .as_text()
                    .ok_or_else(|| invalid("a system message holds text only"))?;
                system.push(json!({ "text": text }));
            }
            continue;
        }
        let role = match message.role {
            Role::Assistant => "model",
            _ => "user",
        };
        let parts = parts(message, &chat.messages[..at], purpose)?;
        if parts.is_empty() {
            return Err(invalid("a turn of the conversation is empty"));
        }
        contents.push(json!({"role": role, "parts": parts}));
    }
    if contents.is_empty() {
        return Err(invalid(
            "a conversation needs a message beside the instructions",
        ));
    }
    body.insert("contents".to_owned(), Value::Array(contents));
    if !system.is_empty() {
        body.insert("systemInstruction".to_owned(), json!({ "parts": system }));
    }
    if !chat.tools.is_empty() {
        let declarations = chat.tools.iter().map(|tool| {
            let mut declaration = json!({ "name": tool.name });
            if let Some(description) = &tool.description {
                declaration["description"] = json!(description);
            }
            if let Some((name, schema)) = schema::parameters(&tool.parameters, purpose)? {
                declaration[name] = schema;
            }
            Ok(declaration)
        });
        let declarations = declarations.collect::<Result<Vec<_>>>()?;
        body.insert(
            "tools".to_owned(),
            json!([{ "functionDeclarations": declarations }]),
        );
    }
    if let Some(choice) = &chat.tool_choice {
        let config = match choice {
            ToolChoice::Auto => json!({"mode": "AUTO"}),
            ToolChoice::None => json!({"mode": "NONE"}),
            ToolChoice::Required => json!({"mode": "ANY"}),
            ToolChoice::Named(name) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
            _ => return Err(unsupported("this tool choice")),
        };
        body.insert(
            "toolConfig".to_owned(),
            json!({ "functionCallingConfig": config }),
        );
    }
    let mut config = sampling(&request.sampling, &request.model)?;
    match &chat.response_format {
        ResponseFormat::Text => {}
        ResponseFormat::Json => {
            config.insert("responseMimeType".to_owned(), json!("application/json"));
        }
        ResponseFormat::JsonSchema { schema, .. } => {
            config.insert("responseMimeType".to_owned(), json!("application/json"));
            let (name, schema) = schema::answer(schema, purpose)?;
            config.insert(name.to_owned(), schema);
        }
        _ => return Err(unsupported("this form of the answer")),
    }
    let mut extra = request.extra.clone();
    match extra.remove("generationConfig") {
        Some(Value::Object(theirs)) => config.extend(theirs),
        None => {}
        Some(_) => {
            return Err(invalid(
                "the extra field generationConfig must be an object",
            ));
        }
    }
    if !config.is_empty() {
        body.insert("generationConfig".to_owned(), Value::Object(config));
    }
    body.extend(extra);
    if purpose == Purpose::Line && body.contains_key("cachedContent") {
        return Err(unsupported("cachedContent in a batch"));
    }
    Ok(body)
}

fn sampling(sampling: &Sampling, model: &str) -> Result<Map<String, Value>> {
    let mut config = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            config.insert(name.to_owned(), value);
        }
    };
    if sampling.stop().len() > MAX_STOP {
        return Err(invalid(format!("at most {MAX_STOP} stop texts are taken")));
    }
    let seed = sampling.seed().map(i32::try_from).transpose();
    let seed = seed.map_err(|_| invalid("the seed is a number of 32 bits"))?;
    put("temperature", sampling.temperature().map(Value::from));
    put("topP", sampling.top_p().map(Value::from));
    put("topK", sampling.top_k().map(Value::from));
    put(
        "maxOutputTokens",
        sampling.max_output_tokens().map(Value::from),
    );
    put(
        "presencePenalty",
        sampling.presence_penalty().map(Value::from),
    );
    put(
        "frequencyPenalty",
        sampling.frequency_penalty().map(Value::from),
    );
    put("seed", seed.map(Value::from));
    if !sampling.stop().is_empty() {
        put("stopSequences", Some(json!(sampling.stop())));
    }
    if let Some(effort) = sampling.reasoning_effort() {
        put("thinkingConfig", Some(thinking(effort, model)?));
    }
    Ok(config)
}

/// How long a model thinks: a budget for models up to 2.5, a level for later ones, which refuse both at once. The
/// budgets are those of Google's own OpenAI-compatible endpoint (<https://ai.google.dev/gemini-api/docs/openai>).
fn thinking(effort: &str, model: &str) -> Result<Value> {
    let model = model.rsplit('/').next().unwrap_or(model);
    if model.starts_with("gemini-2") || model.starts_with("gemini-1") {
        let budget = match effort {
            "none" => 0,
            "minimal" | "low" => 1024,
            "medium" => 8192,
            "high" => 24_576,
            _ => return Err(unsupported("this reasoning effort")),
        };
        return Ok(json!({ "thinkingBudget": budget }));
    }
    match effort {
        "minimal" | "low" | "medium" | "high" | "xhigh" => {
            Ok(json!({ "thinkingLevel": effort.to_uppercase() }))
        }
        _ => Err(unsupported("this reasoning effort")),
    }
}

/// A turn's parts. A signature of the vendor's goes back on the part that follows it.
fn parts(message: &Message, before: &[Message], purpose: Purpose) -> Result<Vec<Value>> {
    let mut parts = Vec::with_capacity(message.content.len());
    let mut signature: Option<&str> = None;
    for part in &message.content {
        let mut wire = match part {
            Part::Thinking(thinking) => {
                signature = thinking.signature.as_deref().or(signature);
                continue;
            }
            Part::Text(text) => json!({ "text": text }),
            Part::ToolCall(call) if message.role == Role::Assistant => {
                let mut wire = json!({ "name": call.name });
                let args: Map<String, Value> = match call.arguments.trim() {
                    "" => Map::new(),
                    text => serde_json::from_str(text).map_err(|_| {
                        invalid("the arguments of a tool call must be a JSON object")
                    })?,
                };
                // An empty object is nothing a job's import takes.
                if !args.is_empty() {
                    wire["args"] = Value::Object(args);
                }
                json!({ "functionCall": wire })
            }
            Part::ToolCall(_) => return Err(invalid("only the assistant calls tools")),
            Part::ToolResult(result) if message.role != Role::Assistant => {
                let name = called(&result.id, before).ok_or_else(|| {
                    invalid("a tool's result names no call that stands before it")
                })?;
                // One field of one type, since a job's import wants the same columns in all lines.
                json!({"functionResponse": {"name": name, "response": {"output": result.content}}})
            }
            Part::ToolResult(_) => {
                return Err(invalid("a tool's result belongs to a turn of the tool"));
            }
            _ if message.role == Role::Tool => {
                return Err(invalid("a turn of the tool holds tool results only"));
            }
            Part::Image(media) | Part::Document(media) | Part::Audio(media) => {
                media_part(media, purpose)?
            }
            _ => return Err(unsupported("this part of a message")),
        };
        if let Some(signature) = signature.take() {
            wire["thoughtSignature"] = json!(signature);
        }
        parts.push(wire);
    }
    Ok(parts)
}

/// The name of the tool that a call under this id asked for.
fn called<'m>(id: &str, before: &'m [Message]) -> Option<&'m str> {
    let parts = before.iter().rev().flat_map(|message| &message.content);
    parts.into_iter().find_map(|part| match part {
        Part::ToolCall(call) if call.id == id => Some(&*call.name),
        _ => None,
    })
}

fn media_part(media: &Media, purpose: Purpose) -> Result<Value> {
    match media {
        Media::Inline {
            media_type, base64, ..
        } => Ok(json!({"inlineData": {"mimeType": media_type, "data": base64}})),
        Media::Url(uri) | Media::File(uri) => {
            let stored = uri.starts_with("gs://");
            let video = ["https://www.youtube.com/", "https://youtu.be/"]
                .iter()
                .any(|host| uri.starts_with(host));
            if purpose == Purpose::Line && !stored && !video {
                return Err(unsupported("an address other than gs:// in a batch"));
            }
            let kind = if video { "video/mp4" } else { mime_type(uri)? };
            Ok(json!({"fileData": {"fileUri": uri, "mimeType": kind}}))
        }
        _ => Err(unsupported("this place of a picture, document or sound")),
    }
}

/// The API wants a type beside an address, and core has none there: it is told by the name's end.
fn mime_type(uri: &str) -> Result<&'static str> {
    let name = uri.split(['?', '#']).next().unwrap_or(uri);
    let end = name.rsplit_once('.').map_or("", |(_, end)| end);
    Ok(match &*end.to_ascii_lowercase() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "heic" => "image/heic",
        "heif" => "image/heif",
        "pdf" => "application/pdf",
        "txt" | "md" => "text/plain",
        "wav" => "audio/wav",
        "mp3" => "audio/mpeg",
        "flac" => "audio/flac",
        "ogg" => "audio/ogg",
        "mp4" => "video/mp4",
        "mov" => "video/mov",
        "webm" => "video/webm",
        _ => return Err(unsupported("an address whose end does not tell its type")),
    })
}
