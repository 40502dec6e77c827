//! Request bodies as ProtoJSON reads them: names in either spelling, unknown ones refused.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::error::ApiError;

/// What a field may hold.
#[derive(Debug)]
pub(super) enum Kind {
    /// Anything: a schema, a function's arguments, metadata.
    Free,
    Text,
    /// A number, or one as a text.
    Number,
    Flag,
    Object(&'static Message),
    List(&'static Kind),
}

/// The fields of a message, by their camelCase names.
#[derive(Debug)]
pub(super) struct Message(&'static [(&'static str, Kind)]);

static BLOB: Message = Message(&[
    ("mimeType", Kind::Text),
    ("data", Kind::Text),
    ("displayName", Kind::Text),
]);
static FILE_DATA: Message = Message(&[("mimeType", Kind::Text), ("fileUri", Kind::Text)]);
static FUNCTION_CALL: Message = Message(&[
    ("id", Kind::Text),
    ("name", Kind::Text),
    ("args", Kind::Free),
]);
static FUNCTION_RESPONSE: Message = Message(&[
    ("id", Kind::Text),
    ("name", Kind::Text),
    ("response", Kind::Free),
    ("willContinue", Kind::Flag),
    ("scheduling", Kind::Text),
    ("parts", Kind::Free),
]);
static PART: Message = Message(&[
    ("text", Kind::Text),
    ("inlineData", Kind::Object(&BLOB)),
    ("fileData", Kind::Object(&FILE_DATA)),
    ("functionCall", Kind::Object(&FUNCTION_CALL)),
    ("functionResponse", Kind::Object(&FUNCTION_RESPONSE)),
    ("executableCode", Kind::Free),
    ("codeExecutionResult", Kind::Free),
    ("thought", Kind::Flag),
    ("thoughtSignature", Kind::Text),
    ("videoMetadata", Kind::Free),
]);
static CONTENT: Message = Message(&[
    ("role", Kind::Text),
    ("parts", Kind::List(&Kind::Object(&PART))),
]);
static THINKING: Message = Message(&[
    ("includeThoughts", Kind::Flag),
    ("thinkingBudget", Kind::Number),
    ("thinkingLevel", Kind::Text),
]);
static GENERATION: Message = Message(&[
    ("temperature", Kind::Number),
    ("topP", Kind::Number),
    ("topK", Kind::Number),
    ("candidateCount", Kind::Number),
    ("maxOutputTokens", Kind::Number),
    ("stopSequences", Kind::List(&Kind::Text)),
    ("presencePenalty", Kind::Number),
    ("frequencyPenalty", Kind::Number),
    ("seed", Kind::Number),
    ("responseMimeType", Kind::Text),
    ("responseSchema", Kind::Free),
    ("responseJsonSchema", Kind::Free),
    ("responseModalities", Kind::List(&Kind::Text)),
    ("responseLogprobs", Kind::Flag),
    ("logprobs", Kind::Number),
    ("mediaResolution", Kind::Text),
    ("speechConfig", Kind::Free),
    ("imageConfig", Kind::Free),
    ("thinkingConfig", Kind::Object(&THINKING)),
]);
static DECLARATION: Message = Message(&[
    ("name", Kind::Text),
    ("description", Kind::Text),
    ("parameters", Kind::Free),
    ("parametersJsonSchema", Kind::Free),
    ("response", Kind::Free),
    ("responseJsonSchema", Kind::Free),
    ("behavior", Kind::Text),
]);
static TOOL: Message = Message(&[
    (
        "functionDeclarations",
        Kind::List(&Kind::Object(&DECLARATION)),
    ),
    ("googleSearch", Kind::Free),
    ("googleSearchRetrieval", Kind::Free),
    ("codeExecution", Kind::Free),
    ("urlContext", Kind::Free),
]);
static CALLING: Message = Message(&[
    ("mode", Kind::Text),
    ("allowedFunctionNames", Kind::List(&Kind::Text)),
]);
static TOOL_CONFIG: Message = Message(&[
    ("functionCallingConfig", Kind::Object(&CALLING)),
    ("retrievalConfig", Kind::Free),
]);
static SAFETY: Message = Message(&[("category", Kind::Text), ("threshold", Kind::Text)]);

/// `generateContent`.
pub(super) static GENERATE: Message = Message(&[
    ("model", Kind::Text),
    ("contents", Kind::List(&Kind::Object(&CONTENT))),
    ("systemInstruction", Kind::Object(&CONTENT)),
    ("generationConfig", Kind::Object(&GENERATION)),
    ("tools", Kind::List(&Kind::Object(&TOOL))),
    ("toolConfig", Kind::Object(&TOOL_CONFIG)),
    ("safetySettings", Kind::List(&Kind::Object(&SAFETY))),
    ("cachedContent", Kind::Text),
    ("serviceTier", Kind::Text),
    ("store", Kind::Flag),
]);
/// `countTokens`.
pub(super) static COUNT: Message = Message(&[
    ("contents", Kind::List(&Kind::Object(&CONTENT))),
    ("generateContentRequest", Kind::Object(&GENERATE)),
]);
/// `embedContent`.
pub(super) static EMBED: Message = Message(&[
    ("model", Kind::Text),
    ("content", Kind::Object(&CONTENT)),
    ("taskType", Kind::Text),
    ("title", Kind::Text),
    ("outputDimensionality", Kind::Number),
]);
/// `batchEmbedContents`.
pub(super) static EMBED_MANY: Message = Message(&[("requests", Kind::List(&Kind::Object(&EMBED)))]);
static INLINED: Message = Message(&[("request", Kind::Free), ("metadata", Kind::Free)]);
static INLINED_LIST: Message = Message(&[("requests", Kind::List(&Kind::Object(&INLINED)))]);
static INPUT: Message = Message(&[
    ("fileName", Kind::Text),
    ("requests", Kind::Object(&INLINED_LIST)),
]);
static BATCH: Message = Message(&[
    ("displayName", Kind::Text),
    ("inputConfig", Kind::Object(&INPUT)),
    ("priority", Kind::Number),
    ("webhookConfig", Kind::Free),
    ("model", Kind::Text),
]);
/// `batchGenerateContent` and `asyncBatchEmbedContent`.
pub(super) static CREATE: Message = Message(&[("batch", Kind::Object(&BATCH))]);
/// A line of a batch's file, and what inline requests are kept as.
pub(super) static LINE: Message = Message(&[
    ("key", Kind::Text),
    ("request", Kind::Free),
    ("metadata", Kind::Free),
]);
/// `cachedContents`.
pub(super) static CACHE: Message = Message(&[
    ("model", Kind::Text),
    ("displayName", Kind::Text),
    ("contents", Kind::List(&Kind::Object(&CONTENT))),
    ("systemInstruction", Kind::Object(&CONTENT)),
    ("tools", Kind::List(&Kind::Object(&TOOL))),
    ("toolConfig", Kind::Object(&TOOL_CONFIG)),
    ("ttl", Kind::Text),
    ("expireTime", Kind::Text),
    ("name", Kind::Text),
]);
/// The start of an upload.
pub(super) static UPLOAD: Message = Message(&[("file", Kind::Object(&FILE))]);
static FILE: Message = Message(&[
    ("name", Kind::Text),
    ("displayName", Kind::Text),
    ("mimeType", Kind::Text),
    ("sizeBytes", Kind::Number),
]);

/// Reads a body: its names come out in camelCase, nulls and empty bodies as if they were not there.
pub(super) fn read(body: &[u8], message: &Message) -> Result<Value, ApiError> {
    if body.trim_ascii().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    let value = serde_json::from_slice(body).map_err(|error| {
        ApiError::invalid(format!(
            "Invalid JSON payload received. Parse error at line {} column {}.",
            error.line(),
            error.column()
        ))
    })?;
    check(value, message)
}

/// [`read`] of JSON that is parsed already.
pub(super) fn check(value: Value, message: &Message) -> Result<Value, ApiError> {
    object(value, message, "")
}

fn object(value: Value, message: &Message, path: &str) -> Result<Value, ApiError> {
    let Value::Object(fields) = value else {
        return Err(wrong(path, "an object", &value));
    };
    let mut known = Map::new();
    for (name, value) in fields {
        let camel = camel(&name);
        let Some((_, kind)) = message.0.iter().find(|(field, _)| *field == camel) else {
            let at = if path.is_empty() {
                String::new()
            } else {
                format!(" at '{path}'")
            };
            return Err(ApiError::bad_field(
                path,
                format!(
                    "Invalid JSON payload received. Unknown name \"{name}\"{at}: Cannot find field."
                ),
            ));
        };
        if value.is_null() {
            continue;
        }
        let inner = if path.is_empty() {
            snake(&camel)
        } else {
            format!("{path}.{}", snake(&camel))
        };
        known.insert(camel.into_owned(), field(value, kind, &inner)?);
    }
    Ok(Value::Object(known))
}

fn field(value: Value, kind: &Kind, path: &str) -> Result<Value, ApiError> {
    let fine = match kind {
        Kind::Free => true,
        Kind::Text => value.is_string(),
        Kind::Flag => value.is_boolean(),
        Kind::Number => {
            if let Some(number) = value.as_str().and_then(|text| text.parse::<f64>().ok()) {
                return Ok(Value::from(number));
            }
            value.is_number()
        }
        Kind::Object(message) => return object(value, message, path),
        Kind::List(kind) => {
            let Value::Array(items) = value else {
                // One element stands for a list of one.
                let one = field(value, kind, &format!("{path}[0]"))?;
                return Ok(Value::Array(vec![one]));
            };
            let items = items
                .into_iter()
                .enumerate()
                .map(|(at, item)| field(item, kind, &format!("{path}[{at}]")));
            return Ok(Value::Array(items.collect::<Result<_, _>>()?));
        }
    };
    if fine {
        Ok(value)
    } else {
        Err(wrong(path, "another type", &value))
    }
}

fn wrong(path: &str, expected: &str, value: &Value) -> ApiError {
    let got = match value {
        Value::String(_) => "a string",
        Value::Number(_) => "a number",
        Value::Bool(_) => "a boolean",
        Value::Array(_) => "a list",
        _ => "something else",
    };
    ApiError::bad_field(
        path,
        format!("Invalid value at '{path}': {got} where {expected} is expected."),
    )
}

fn camel(name: &str) -> Cow<'_, str> {
    if !name.contains('_') {
        return Cow::Borrowed(name);
    }
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_read_and_unknown_names_refused_with_their_place() {
        let body = br#"{"generation_config":{"max_output_tokens":"7","temperature":null},"contents":{"parts":{"text":"a"}}}"#;
        let read_body = read(body, &GENERATE).unwrap();
        assert_eq!(
            read_body,
            serde_json::json!({"generationConfig": {"maxOutputTokens": 7.0}, "contents": [{"parts": [{"text": "a"}]}]})
        );
        let error = read(br#"{"contents":[{"parts":[{"colour":1}]}]}"#, &GENERATE).unwrap_err();
        assert!(
            error
                .message
                .contains("\"colour\" at 'contents[0].parts[0]'")
        );
        assert!(read(br#"{"contents":[{"role":7}]}"#, &GENERATE).is_err());
        assert!(read(b"[", &GENERATE).is_err());
    }
}
