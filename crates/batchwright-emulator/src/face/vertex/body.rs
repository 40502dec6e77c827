//! The body of generateContent, direct or in a line of a job.

use serde_json::{Map, Value};

use super::error::ApiError;
use crate::answer::{PromptHash, tokens};
use crate::batch::RowUsage;
use crate::chat::{Ask, Said, Schema};
use crate::model::Model;

/// A request with its answer.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) model: &'static Model,
    pub(super) hash: PromptHash,
    pub(super) said: Said,
    pub(super) usage: RowUsage,
}

const FIELDS: &[&str] = &[
    "model",
    "contents",
    "systemInstruction",
    "generationConfig",
    "tools",
    "toolConfig",
    "safetySettings",
    "cachedContent",
    "labels",
    "modelArmorConfig",
];
const CONFIG: &[&str] = &[
    "temperature",
    "topP",
    "topK",
    "candidateCount",
    "maxOutputTokens",
    "stopSequences",
    "presencePenalty",
    "frequencyPenalty",
    "seed",
    "responseMimeType",
    "responseSchema",
    "responseJsonSchema",
    "responseModalities",
    "responseLogprobs",
    "logprobs",
    "mediaResolution",
    "speechConfig",
    "imageConfig",
    "thinkingConfig",
    "audioTimestamp",
    "routingConfig",
    "modelConfig",
];
const DATA: &[&str] = &[
    "text",
    "inlineData",
    "fileData",
    "functionCall",
    "functionResponse",
    "executableCode",
    "codeExecutionResult",
];
const PART: &[&str] = &[
    "text",
    "inlineData",
    "fileData",
    "functionCall",
    "functionResponse",
    "executableCode",
    "codeExecutionResult",
    "thought",
    "thoughtSignature",
    "videoMetadata",
    "mediaResolution",
];

/// Reads, checks and answers a request. Names may be in either case, as ProtoJSON allows.
pub(super) fn prepare(
    model: &'static Model,
    body: &Map<String, Value>,
    seed: u64,
) -> Result<Prepared, ApiError> {
    let read = Read::new(body)?;
    if read.input > model.context {
        return Err(ApiError::invalid(format!(
            "The input token count ({}) exceeds the maximum number of tokens allowed ({}).",
            read.input, model.context
        )));
    }
    if read.cached_content {
        return Err(ApiError::new(404, "Not found: cached content metadata."));
    }
    let ask = Ask {
        model,
        seed,
        hash: read.hash,
        last_user: &read.last_user,
        input: read.input,
        limit: read.limit,
        schema: match &read.schema {
            _ if !read.json => None,
            None => Some(Schema::Any),
            Some(schema) => Some(Schema::Given(schema)),
        },
        tool: read.tool,
    };
    let (said, mut usage) = ask.answer().map_err(ApiError::of_status)?;
    if matches!(said, Said::Refusal(_)) {
        // A blocked prompt has no candidate, and nothing is generated.
        usage.output = 0;
        usage.reasoning = 0;
    }
    Ok(Prepared {
        model,
        hash: read.hash,
        said,
        usage,
    })
}

/// Estimated input tokens of a request that may be no whole one.
pub(super) fn count(body: &Map<String, Value>) -> Result<u64, ApiError> {
    Read::new(body).map(|read| read.input)
}

struct Read {
    hash: PromptHash,
    last_user: String,
    input: u64,
    limit: Option<u64>,
    json: bool,
    schema: Option<Value>,
    tool: Option<(String, Value)>,
    cached_content: bool,
}

impl Read {
    fn new(body: &Map<String, Value>) -> Result<Self, ApiError> {
        known(body, FIELDS, "")?;
        let mut texts = Vec::new();
        if let Some(system) = field(body, "systemInstruction") {
            texts.extend(parts(
                object(system, "system_instruction")?,
                "system_instruction",
            )?);
        }
        let contents = match field(body, "contents") {
            Some(Value::Array(contents)) if !contents.is_empty() => contents.as_slice(),
            Some(one @ Value::Object(_)) => std::slice::from_ref(one),
            _ => {
                return Err(ApiError::invalid(
                    "Unable to submit request because at least one contents field is required.",
                ));
            }
        };
        let mut last_user = String::new();
        for content in contents {
            let content = object(content, "contents")?;
            let role = field(content, "role")
                .and_then(Value::as_str)
                .unwrap_or("user");
            if !matches!(role, "user" | "model" | "function") {
                return Err(ApiError::invalid("Please use a valid role: user, model."));
            }
            let said = parts(content, "contents")?;
            if role == "user"
                && let Some(last) = said.last()
            {
                last_user.clone_from(last);
            }
            texts.extend(said);
        }
        let empty = Map::new();
        let config = match field(body, "generationConfig") {
            Some(config) => object(config, "generation_config")?,
            None => &empty,
        };
        known(config, CONFIG, "generation_config")?;
        check_numbers(config)?;
        let schema = field(config, "responseJsonSchema").cloned().or_else(|| {
            let mut schema = field(config, "responseSchema")?.clone();
            lower_types(&mut schema);
            Some(schema)
        });
        let json =
            field(config, "responseMimeType").and_then(Value::as_str) == Some("application/json");
        if schema.is_some() && !json {
            return Err(ApiError::invalid(
                "response_schema requires response_mime_type application/json.",
            ));
        }
        if let Some(labels) = field(body, "labels") {
            check_labels(object(labels, "labels")?)?;
        }
        Ok(Self {
            hash: PromptHash::of(&texts),
            last_user,
            input: tokens(texts.iter().map(String::len).sum()).max(1),
            limit: field(config, "maxOutputTokens").and_then(Value::as_u64),
            json,
            schema,
            tool: forced_tool(body),
            cached_content: field(body, "cachedContent").is_some(),
        })
    }
}

/// The texts of a content's parts.
fn parts(content: &Map<String, Value>, place: &str) -> Result<Vec<String>, ApiError> {
    known(content, &["role", "parts"], place)?;
    let parts = match field(content, "parts") {
        Some(Value::Array(parts)) if !parts.is_empty() => parts.as_slice(),
        Some(one @ Value::Object(_)) => std::slice::from_ref(one),
        _ => {
            return Err(ApiError::invalid(
                "Unable to submit request because it must include at least one parts field.",
            ));
        }
    };
    let mut texts = Vec::new();
    for part in parts {
        let part = object(part, "parts")?;
        known(part, PART, "contents[0].parts[0]")?;
        if DATA
            .iter()
            .filter(|name| field(part, name).is_some())
            .count()
            != 1
        {
            return Err(ApiError::invalid(
                "Unable to submit request because it must have exactly one data field in each part.",
            ));
        }
        if let Some(text) = field(part, "text") {
            let text = text.as_str().ok_or_else(|| {
                ApiError::invalid("Invalid value at 'contents[0].parts[0].text' (TYPE_STRING).")
            })?;
            texts.push(text.to_owned());
        }
    }
    Ok(texts)
}

fn check_numbers(config: &Map<String, Value>) -> Result<(), ApiError> {
    let within = |name: &str, low: f64, high: f64| match field(config, name) {
        None | Some(Value::Null) => Ok(()),
        Some(value) if value.as_f64().is_some_and(|x| (low..=high).contains(&x)) => Ok(()),
        Some(_) => Err(ApiError::invalid(format!(
            "Unable to submit request because it has a {name} value outside the supported range from {low} to {high}."
        ))),
    };
    within("temperature", 0.0, 2.0)?;
    within("topP", 0.0, 1.0)?;
    within("maxOutputTokens", 1.0, 65_535.0)?;
    // Several candidates are not emulated.
    within("candidateCount", 1.0, 1.0)?;
    within("presencePenalty", -2.0, 2.0)?;
    within("frequencyPenalty", -2.0, 2.0)?;
    match field(config, "stopSequences") {
        Some(Value::Array(stops)) if stops.len() > 5 => Err(ApiError::invalid(
            "Unable to submit request because it has more than 5 stop sequences.",
        )),
        _ => Ok(()),
    }
}

/// Keys and values of labels: at most 63 of lower case letters, digits, `_` and `-`, keys beginning with a letter.
pub(super) fn check_labels(labels: &Map<String, Value>) -> Result<(), ApiError> {
    let fits = |text: &str| {
        text.len() <= 63
            && text.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-')
            })
    };
    for (key, value) in labels {
        let begins = key.starts_with(|first: char| first.is_ascii_lowercase());
        if !begins || !fits(key) || !value.as_str().is_some_and(fits) {
            return Err(ApiError::invalid(format!(
                "Invalid label {key:?}: keys and values hold at most 63 lower case letters, digits, dashes and \
                 underscores, and keys begin with a letter."
            )));
        }
    }
    Ok(())
}

/// The function that must be called: its name and the schema of its arguments.
fn forced_tool(body: &Map<String, Value>) -> Option<(String, Value)> {
    let config = field(
        field(body, "toolConfig")?.as_object()?,
        "functionCallingConfig",
    )?;
    let config = config.as_object()?;
    if field(config, "mode")?.as_str()? != "ANY" {
        return None;
    }
    let allowed = field(config, "allowedFunctionNames").and_then(Value::as_array);
    let wanted = allowed.and_then(|names| names.first()?.as_str());
    let declarations = field(body, "tools")?
        .as_array()?
        .iter()
        .filter_map(|tool| field(tool.as_object()?, "functionDeclarations")?.as_array());
    let function = declarations
        .flatten()
        .filter_map(Value::as_object)
        .find(|function| {
            let name = function.get("name").and_then(Value::as_str);
            name.is_some() && (wanted.is_none() || name == wanted)
        })?;
    let schema = field(function, "parametersJsonSchema")
        .cloned()
        .or_else(|| {
            let mut schema = field(function, "parameters")?.clone();
            lower_types(&mut schema);
            Some(schema)
        });
    let name = function.get("name")?.as_str()?.to_owned();
    Some((
        name,
        schema.unwrap_or_else(|| serde_json::json!({"type": "object"})),
    ))
}

/// OpenAPI's types in capitals, as JSON Schema writes them.
fn lower_types(schema: &mut Value) {
    match schema {
        Value::Object(rules) => {
            for (key, value) in rules.iter_mut() {
                match value {
                    Value::String(word) if key == "type" => *word = word.to_lowercase(),
                    _ => lower_types(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(lower_types),
        _ => {}
    }
}

/// A field by its name, or by that name with underscores.
pub(super) fn field<'v>(object: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    let value = object.get(name).or_else(|| object.get(&snake(name)));
    value.filter(|value| !value.is_null())
}

fn snake(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// Refuses fields that the message does not have.
pub(super) fn known(
    object: &Map<String, Value>,
    names: &[&str],
    place: &str,
) -> Result<(), ApiError> {
    let is_known = |key: &str| names.iter().any(|name| *name == key || snake(name) == key);
    match object.keys().find(|key| !is_known(key)) {
        Some(key) => Err(ApiError::unknown_field(key, place)),
        None => Ok(()),
    }
}

fn object<'v>(value: &'v Value, place: &str) -> Result<&'v Map<String, Value>, ApiError> {
    value.as_object().ok_or_else(|| {
        ApiError::invalid(format!(
            "Invalid JSON payload received. '{place}' is not an object."
        ))
    })
}
