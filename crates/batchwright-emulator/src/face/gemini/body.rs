//! What a request asks for, and what the model says to it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::caches::{Cache, Caches};
use super::error::ApiError;
use super::models;
use crate::answer::{PromptHash, tokens};
use crate::batch::RowUsage;
use crate::chat::{Ask, Said, Schema};
use crate::engine::Engine;
use crate::model::Model;

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker<'a> {
    pub(super) engine: &'a Engine,
    /// Fingerprint of the key.
    pub(super) key: &'a str,
    pub(super) now_ms: i64,
}

/// A request that is understood, and its answer.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) model: &'static Model,
    pub(super) hash: PromptHash,
    pub(super) usage: RowUsage,
    pub(super) said: Said,
    /// Whether the answer shows a summary of the thoughts.
    pub(super) shows_thoughts: bool,
}

impl Prepared {
    /// Price in US dollars: a batch is half, but for what a cache gave.
    #[expect(
        clippy::cast_precision_loss,
        reason = "token counts of one request are far below 2^53"
    )]
    pub(super) fn price_usd(&self, batch: bool) -> f64 {
        let mut fresh = self.usage;
        fresh.input = fresh.input.saturating_sub(fresh.cached);
        fresh.cached = 0;
        let cached = self.usage.cached as f64 * self.model.prices[1] / 1e6;
        self.model.price_usd(fresh, batch) + cached
    }
}

/// A `generateContent` body that [`super::proto`] has read.
pub(super) fn generate(
    asker: Asker<'_>,
    model: &'static Model,
    body: &Value,
) -> Result<Prepared, ApiError> {
    if model.is_embedding() {
        return Err(ApiError::no_model(model.name, "generateContent"));
    }
    same_model(model, body)?;
    let contents = list(body, "contents");
    if contents.is_empty() {
        return Err(ApiError::invalid(
            "* GenerateContentRequest.contents: contents is not specified\n",
        ));
    }
    check_contents(contents)?;
    let config = &body["generationConfig"];
    let wanted = check_config(model, config)?;
    let cache = cached(asker, model, body)?;
    let mut texts: Vec<&str> = Vec::new();
    if let Some(cache) = &cache {
        texts.extend(cache.texts.iter().map(String::as_str));
    }
    texts.extend(part_texts(&body["systemInstruction"]));
    texts.extend(contents.iter().flat_map(part_texts));
    let input = tokens(texts.iter().map(|text| text.len()).sum());
    if input > model.context {
        return Err(ApiError::invalid(format!(
            "The input token count ({input}) exceeds the maximum number of tokens allowed ({}).",
            model.context
        )));
    }
    let last_user = contents
        .iter()
        .rev()
        .find(|content| content["role"] != "model")
        .and_then(|content| part_texts(content).last())
        .unwrap_or_default();
    let schema = schema(config);
    let tools = match &cache {
        Some(cache) => &cache.body,
        None => body,
    };
    let ask = Ask {
        model: wanted,
        seed: asker.engine.config.seed,
        hash: PromptHash::of(&texts),
        last_user,
        input,
        limit: whole(config, "maxOutputTokens"),
        schema: match &schema {
            Some(Value::Null) => Some(Schema::Any),
            Some(schema) => Some(Schema::Given(schema)),
            None => None,
        },
        tool: forced_tool(tools),
    };
    let (said, mut usage) = ask.answer().map_err(ApiError::of_status)?;
    if let Some(cache) = &cache {
        usage.cached = cache.tokens.min(usage.input);
    }
    if matches!(said, Said::Refusal(_)) {
        // A blocked prompt: the model never saw it.
        usage.output = 0;
        usage.reasoning = 0;
    }
    Ok(Prepared {
        model,
        hash: ask.hash,
        usage,
        said,
        shows_thoughts: config["thinkingConfig"]["includeThoughts"] == true,
    })
}

/// An `embedContent` body.
pub(super) fn embed(model: &'static Model, body: &Value) -> Result<Prepared, ApiError> {
    let Some(most) = dimensions(model) else {
        return Err(ApiError::no_model(model.name, "embedContent"));
    };
    same_model(model, body)?;
    let texts: Vec<&str> = part_texts(&body["content"]).collect();
    if texts.is_empty() {
        return Err(ApiError::invalid("content is empty"));
    }
    let length = match whole(body, "outputDimensionality") {
        None => most,
        Some(length) => usize::try_from(length)
            .ok()
            .filter(|length| (1..=most).contains(length))
            .ok_or_else(|| ApiError::invalid("outputDimensionality is out of range"))?,
    };
    let hash = PromptHash::of(&texts);
    let input = tokens(texts.iter().map(|text| text.len()).sum());
    if let Some(crate::chat::Marker::Error(status)) = texts
        .last()
        .and_then(|text| crate::chat::Marker::find(text))
    {
        return Err(ApiError::of_status(status));
    }
    Ok(Prepared {
        model,
        hash,
        usage: RowUsage {
            input,
            ..RowUsage::default()
        },
        said: Said::Vectors {
            inputs: vec![hash],
            dimensions: length,
            base64: false,
        },
        shows_thoughts: false,
    })
}

/// How many tokens a body has, and how many of them a cache.
pub(super) fn count(
    asker: Asker<'_>,
    model: &'static Model,
    body: &Value,
) -> Result<(u64, u64), ApiError> {
    let inner = &body["generateContentRequest"];
    let request = match (inner.is_null(), body["contents"].is_null()) {
        (false, false) => {
            return Err(ApiError::invalid(
                "contents and generateContentRequest are mutually exclusive",
            ));
        }
        (false, true) => inner,
        (true, _) => body,
    };
    same_model(model, request)?;
    check_contents(list(request, "contents"))?;
    let cache = cached(asker, model, request)?;
    let cached = cache.map_or(0, |cache| cache.tokens);
    let own = part_texts(&request["systemInstruction"])
        .chain(list(request, "contents").iter().flat_map(part_texts))
        .map(str::len)
        .sum();
    Ok((cached + tokens(own), cached))
}

/// The texts of a content's parts, in order.
pub(super) fn part_texts(content: &Value) -> impl Iterator<Item = &str> {
    list(content, "parts")
        .iter()
        .filter(|part| part["thought"] != true)
        .filter_map(|part| part["text"].as_str())
}

pub(super) fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

/// Contents whose roles are known and whose parts say something.
pub(super) fn check_contents(contents: &[Value]) -> Result<(), ApiError> {
    for (at, content) in contents.iter().enumerate() {
        let known = matches!(
            content["role"].as_str(),
            None | Some("user" | "model" | "function")
        );
        if !known {
            return Err(ApiError::invalid("Please use a valid role: user, model."));
        }
        let parts = list(content, "parts");
        if parts.is_empty() {
            return Err(ApiError::invalid(format!(
                "* GenerateContentRequest.contents[{at}].parts: contents.parts must not be empty.\n"
            )));
        }
        let says = |part: &Value| {
            let data = [
                "text",
                "inlineData",
                "fileData",
                "functionCall",
                "functionResponse",
                "executableCode",
                "codeExecutionResult",
            ];
            data.iter().filter(|name| !part[**name].is_null()).count() == 1
        };
        if let Some(part) = parts.iter().position(|part| !says(part)) {
            return Err(ApiError::invalid(format!(
                "* GenerateContentRequest.contents[{at}].parts[{part}].data: required oneof field 'data' must have one \
                 initialized field\n"
            )));
        }
    }
    Ok(())
}

/// A generation config within its ranges; gives the model that answers, without thoughts where they are turned off.
fn check_config(model: &'static Model, config: &Value) -> Result<&'static Model, ApiError> {
    let number = |name: &str| config[name].as_f64();
    if number("temperature").is_some_and(|value| !(0.0..=2.0).contains(&value)) {
        return Err(ApiError::invalid(
            "* GenerateContentRequest.generation_config.temperature: temperature must be in the range [0.0, 2.0].\n",
        ));
    }
    if number("topP").is_some_and(|value| !(0.0..=1.0).contains(&value)) {
        return Err(ApiError::invalid("top_p must be in the range [0.0, 1.0]."));
    }
    if number("maxOutputTokens").is_some_and(|value| value < 1.0) {
        return Err(ApiError::invalid("max_output_tokens must be positive."));
    }
    if number("candidateCount").is_some_and(|value| value.total_cmp(&1.0).is_ne()) {
        return Err(ApiError::invalid(
            "Multiple candidates is not enabled for this model",
        ));
    }
    let has_schema = !config["responseSchema"].is_null();
    let has_json_schema = !config["responseJsonSchema"].is_null();
    if has_schema && has_json_schema {
        return Err(ApiError::invalid(
            "response_schema and response_json_schema cannot be set together.",
        ));
    }
    match config["responseMimeType"].as_str() {
        None | Some("text/plain") if has_schema || has_json_schema => {
            return Err(ApiError::invalid(
                "Response schema requires a JSON response mime type.",
            ));
        }
        None | Some("text/plain" | "application/json") => {}
        Some("text/x.enum") => {
            return Err(ApiError::invalid(
                "The emulator does not serve text/x.enum.",
            ));
        }
        Some(other) => {
            return Err(ApiError::invalid(format!(
                "Unsupported response mime type: {other}"
            )));
        }
    }
    let thinking = &config["thinkingConfig"];
    let (budget, level) = (&thinking["thinkingBudget"], &thinking["thinkingLevel"]);
    if !budget.is_null() && !level.is_null() {
        return Err(ApiError::invalid(
            "You can only set only one of thinking budget and thinking level.",
        ));
    }
    if !level.is_null() && model.name.starts_with("gemini-2") {
        return Err(ApiError::invalid(
            "Thinking level is not supported for this model.",
        ));
    }
    if let Some(level) = level.as_str() {
        let known = ["MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH"];
        if !known.contains(&level.to_ascii_uppercase().as_str()) {
            return Err(ApiError::invalid(format!(
                "Invalid value at 'generation_config.thinking_config.thinking_level': \"{level}\""
            )));
        }
    }
    if budget.as_f64().is_some_and(|budget| budget.abs() < 0.5) && model.reasons() {
        return models::unthinking(model).ok_or_else(|| {
            ApiError::invalid("Budget 0 is invalid. This model only works in thinking mode.")
        });
    }
    Ok(model)
}

fn cached(
    asker: Asker<'_>,
    model: &'static Model,
    body: &Value,
) -> Result<Option<Cache>, ApiError> {
    let Some(name) = body["cachedContent"].as_str() else {
        return Ok(None);
    };
    let alone = ["systemInstruction", "tools", "toolConfig"]
        .iter()
        .all(|field| body[*field].is_null());
    if !alone {
        return Err(ApiError::invalid(
            "CachedContent can not be used with GenerateContent request setting system_instruction, tools or \
             tool_config.\n\nProposed fix: move those values to CachedContent from GenerateContent request.",
        ));
    }
    let caches = asker.engine.state::<Caches>();
    let cache = caches.get(asker.key, name, asker.now_ms).ok_or_else(|| {
        ApiError::new(
            "PERMISSION_DENIED",
            "CachedContent not found (or permission denied)",
        )
    })?;
    if cache.model != model.name {
        return Err(ApiError::invalid(format!(
            "Model used by GenerateContent request (models/{}) and CachedContent (models/{}) has to be the same.",
            model.name, cache.model
        )));
    }
    Ok(Some(cache))
}

/// A body that names a model names the one of the path.
fn same_model(model: &Model, body: &Value) -> Result<(), ApiError> {
    match body["model"].as_str() {
        Some(name) if name != format!("models/{}", model.name) && name != model.name => {
            Err(ApiError::invalid(format!(
                "Model in the request body ({name}) differs from the model of the path (models/{}).",
                model.name
            )))
        }
        _ => Ok(()),
    }
}

fn dimensions(model: &Model) -> Option<usize> {
    match model.kind {
        crate::model::ModelKind::Embedding(dimensions) => Some(dimensions),
        _ => None,
    }
}

/// A field that is a whole number of at least 0.
fn whole(value: &Value, name: &str) -> Option<u64> {
    let number = value[name].as_f64()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float that is out of range saturates, which is what we want"
    )]
    let whole = number as u64;
    Some(whole)
}

/// The JSON schema of the answer; null for any object, none for text.
fn schema(config: &Value) -> Option<Value> {
    if config["responseMimeType"] != "application/json" {
        return None;
    }
    if !config["responseJsonSchema"].is_null() {
        return Some(config["responseJsonSchema"].clone());
    }
    Some(lowered(&config["responseSchema"]))
}

/// A schema of OpenAPI's kind, whose types are in upper case, as JSON schema.
fn lowered(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let lower = |(name, value): (&String, &Value)| {
                let value = match (name.as_str(), value) {
                    ("type", Value::String(word)) => Value::from(word.to_ascii_lowercase()),
                    (_, value) => lowered(value),
                };
                (name.clone(), value)
            };
            Value::Object(fields.iter().map(lower).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(lowered).collect()),
        other => other.clone(),
    }
}

/// The function that must be called, and the schema of its arguments.
fn forced_tool(body: &Value) -> Option<(String, Value)> {
    let calling = &body["toolConfig"]["functionCallingConfig"];
    if calling["mode"] != "ANY" {
        return None;
    }
    let declared: BTreeMap<&str, &Value> = list(body, "tools")
        .iter()
        .flat_map(|tool| list(tool, "functionDeclarations"))
        .filter_map(|function| Some((function["name"].as_str()?, function)))
        .collect();
    let allowed = list(calling, "allowedFunctionNames");
    let function = match allowed.first().and_then(Value::as_str) {
        Some(name) => declared.get(name)?,
        None => declared.values().next()?,
    };
    let schema = match &function["parametersJsonSchema"] {
        Value::Null => lowered(&function["parameters"]),
        schema => schema.clone(),
    };
    let schema = if schema.is_null() {
        json!({"type": "object"})
    } else {
        schema
    };
    Some((function["name"].as_str()?.to_owned(), schema))
}
