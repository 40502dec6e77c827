//! Why a body is refused: the slow pass that finds the parameter at fault.

use serde_json::{Map, Value};

use super::body::{Endpoint, MAX_INPUTS, ROLES, Ways, is_one, most_choices};
use super::error::{ApiError, INVALID};
use crate::model::{Model, ModelKind};

/// The error answer to a body that the typed pass refused.
pub(super) fn explain(ways: Ways<'_>, endpoint: Endpoint, body: &[u8]) -> ApiError {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return ApiError::new(
            400,
            INVALID,
            None,
            "We could not parse the JSON body of your request.",
        );
    };
    let Value::Object(body) = body else {
        return ApiError::new(400, INVALID, None, "The JSON body is not an object.");
    };
    match find(ways, endpoint, &body) {
        Err(error) => error,
        Ok(()) => ApiError::new(400, INVALID, None, "The JSON body is not as expected."),
    }
}

/// What a known parameter must be.
enum Kind {
    Any,
    Bool,
    Text,
    Number(f64, f64),
    Integer(i64, i64),
    Array,
    Object,
    OneOf(&'static [&'static str]),
}

use Kind::{Any, Array, Bool, Integer, Number, Object, OneOf, Text};

const TIERS: Kind = OneOf(&["auto", "default", "flex", "scale", "priority", "fast"]);
const TOKENS: Kind = Integer(1, i64::MAX);

const CHAT: &[(&str, Kind)] = &[
    ("model", Text),
    ("messages", Array),
    ("audio", Any),
    ("frequency_penalty", Number(-2.0, 2.0)),
    ("function_call", Any),
    ("functions", Array),
    ("logit_bias", Object),
    ("logprobs", Bool),
    ("max_completion_tokens", TOKENS),
    ("max_tokens", TOKENS),
    ("metadata", Object),
    ("modalities", Any),
    ("n", Integer(1, 128)),
    ("parallel_tool_calls", Bool),
    ("prediction", Any),
    ("presence_penalty", Number(-2.0, 2.0)),
    ("prompt_cache_key", Text),
    ("prompt_cache_retention", Text),
    ("reasoning_effort", Text),
    ("response_format", Object),
    ("safety_identifier", Text),
    ("seed", Integer(i64::MIN, i64::MAX)),
    ("service_tier", TIERS),
    ("stop", Any),
    ("store", Bool),
    ("stream", Bool),
    ("stream_options", Object),
    ("temperature", Number(0.0, 2.0)),
    ("tool_choice", Any),
    ("tools", Array),
    ("top_logprobs", Integer(0, 20)),
    ("top_p", Number(0.0, 1.0)),
    ("user", Text),
    ("verbosity", OneOf(&["low", "medium", "high"])),
    ("web_search_options", Object),
];

const RESPONSES: &[(&str, Kind)] = &[
    ("model", Text),
    ("input", Any),
    ("background", Bool),
    ("background_options", Object),
    ("conversation", Any),
    ("include", Array),
    ("instructions", Text),
    ("max_output_tokens", Integer(16, i64::MAX)),
    ("max_tool_calls", Integer(1, i64::MAX)),
    ("metadata", Object),
    ("parallel_tool_calls", Bool),
    ("previous_response_id", Text),
    ("prompt", Object),
    ("prompt_cache_key", Text),
    ("prompt_cache_retention", Text),
    ("reasoning", Object),
    ("safety_identifier", Text),
    ("service_tier", TIERS),
    ("store", Bool),
    ("stream", Bool),
    ("stream_options", Object),
    ("temperature", Number(0.0, 2.0)),
    ("text", Object),
    ("tool_choice", Any),
    ("tools", Array),
    ("top_logprobs", Integer(0, 20)),
    ("top_p", Number(0.0, 1.0)),
    ("truncation", Text),
    ("user", Text),
];

const EMBEDDINGS: &[(&str, Kind)] = &[
    ("model", Text),
    ("input", Any),
    ("dimensions", TOKENS),
    ("encoding_format", OneOf(&["float", "base64"])),
    ("user", Text),
];

fn parameters(endpoint: Endpoint) -> &'static [(&'static str, Kind)] {
    match endpoint {
        Endpoint::Chat => CHAT,
        Endpoint::Responses => RESPONSES,
        Endpoint::Embeddings => EMBEDDINGS,
    }
}

/// Whether OpenAI knows a parameter.
pub(super) fn known(endpoint: Endpoint, name: &str) -> bool {
    parameters(endpoint).iter().any(|(known, _)| *known == name)
}

fn find(ways: Ways<'_>, endpoint: Endpoint, body: &Map<String, Value>) -> Result<(), ApiError> {
    let known = parameters(endpoint);
    let prompt = if endpoint == Endpoint::Chat {
        "messages"
    } else {
        "input"
    };
    for name in ["model", prompt] {
        if body.get(name).is_none_or(Value::is_null) {
            return Err(ApiError::missing(name));
        }
    }
    for name in body.keys() {
        if !known.iter().any(|(known, _)| known == name) {
            return Err(ApiError::bad(
                name.clone(),
                "unknown_parameter",
                format!("Unknown parameter: '{name}'."),
            ));
        }
    }
    for (name, kind) in known {
        match body.get(*name) {
            None | Some(Value::Null) => {}
            Some(Value::String(_)) if *name == "service_tier" && !ways.dialect.strict_reasoning => {}
            Some(value) => kind.check(name, value)?,
        }
    }
    let choices = body.get("n").and_then(Value::as_u64).unwrap_or(1);
    if choices > most_choices(ways.dialect) {
        return Err(ApiError::bad(
            "n",
            "invalid_value",
            "'n' : number must be at most 1",
        ));
    }
    let name = body
        .get("model")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let model = ways
        .model(name)
        .filter(|model| endpoint.serves(model))
        .ok_or_else(|| ApiError::model_not_found(name))?;
    match endpoint {
        Endpoint::Chat => messages(&body["messages"])?,
        Endpoint::Responses => input(&body["input"])?,
        Endpoint::Embeddings => embedding(model, body)?,
    }
    if body.get("tool_choice").is_some_and(|c| !c.is_null())
        && body.get("tools").is_none_or(Value::is_null)
    {
        return Err(ApiError::bad(
            "tool_choice",
            "invalid_value",
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.",
        ));
    }
    if ways.dialect.strict_reasoning && model.reasons() {
        sampling(endpoint, model, body)?;
    }
    if endpoint == Endpoint::Responses && body.get("stream") == Some(&Value::Bool(true)) {
        return Err(ApiError::bad(
            "stream",
            "unsupported_value",
            "Unsupported value: the emulator does not stream responses.",
        ));
    }
    Ok(())
}

impl Kind {
    fn check(&self, name: &'static str, value: &Value) -> Result<(), ApiError> {
        let expected = match (self, value) {
            (Any, _)
            | (Bool, Value::Bool(_))
            | (Text, Value::String(_))
            | (Array, Value::Array(_))
            | (Object, Value::Object(_)) => return Ok(()),
            (Number(low, high), Value::Number(number)) => {
                let number = number.as_f64().unwrap_or(f64::NAN);
                if (*low..=*high).contains(&number) {
                    return Ok(());
                }
                return Err(out_of_range(name, value, &format!("from {low} to {high}")));
            }
            (Integer(low, high), Value::Number(number)) if !number.is_f64() => {
                let number = number.as_i64().unwrap_or(i64::MAX);
                if (*low..=*high).contains(&number) {
                    return Ok(());
                }
                return Err(out_of_range(name, value, &format!("from {low} to {high}")));
            }
            (OneOf(words), Value::String(word)) => {
                if words.contains(&word.as_str()) {
                    return Ok(());
                }
                return Err(out_of_range(name, value, &format!("one of {words:?}")));
            }
            (Bool, _) => "a boolean",
            (Text | OneOf(_), _) => "a string",
            (Number(..), _) => "a decimal",
            (Integer(..), _) => "an integer",
            (Array, _) => "an array",
            (Object, _) => "an object",
        };
        Err(ApiError::wrong_type(name, expected, kind_of(value)))
    }
}

fn out_of_range(name: &'static str, value: &Value, expected: &str) -> ApiError {
    ApiError::bad(
        name,
        "invalid_value",
        format!(
            "Invalid value for '{name}': expected a value {expected}, but got {value} instead."
        ),
    )
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn messages(value: &Value) -> Result<(), ApiError> {
    let messages = value.as_array().map_or(&[][..], Vec::as_slice);
    if messages.is_empty() {
        return Err(ApiError::bad(
            "messages",
            "empty_array",
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        ));
    }
    for (index, message) in messages.iter().enumerate() {
        let place = format!("messages[{index}]");
        let Some(message) = message.as_object() else {
            return Err(ApiError::wrong_type(place, "an object", kind_of(message)));
        };
        let role = match message.get("role") {
            None => {
                return Err(ApiError::bad(
                    format!("{place}.role"),
                    "missing_required_parameter",
                    format!("Missing required parameter: '{place}.role'."),
                ));
            }
            Some(Value::String(role)) if ROLES.contains(&role.as_str()) => role,
            Some(Value::String(role)) => {
                return Err(ApiError::bad(
                    format!("{place}.role"),
                    "invalid_value",
                    format!("Invalid value: '{role}'. Supported values are: {ROLES:?}."),
                ));
            }
            Some(other) => {
                return Err(ApiError::wrong_type(
                    format!("{place}.role"),
                    "a string",
                    kind_of(other),
                ));
            }
        };
        let content = message.get("content").unwrap_or(&Value::Null);
        let fine = match content {
            Value::String(_) => true,
            Value::Array(parts) => parts.iter().all(Value::is_object),
            Value::Null => role == "assistant" || role == "function",
            _ => false,
        };
        if !fine {
            return Err(ApiError::wrong_type(
                format!("{place}.content"),
                "a string or an array of objects",
                kind_of(content),
            ));
        }
    }
    Ok(())
}

fn input(value: &Value) -> Result<(), ApiError> {
    match value {
        Value::String(_) => Ok(()),
        Value::Array(items) => match items.iter().position(|item| !item.is_object()) {
            Some(index) => Err(ApiError::wrong_type(
                format!("input[{index}]"),
                "an object",
                kind_of(&items[index]),
            )),
            None => Ok(()),
        },
        other => Err(ApiError::wrong_type(
            "input",
            "a string or an array of objects",
            kind_of(other),
        )),
    }
}

fn embedding(model: &Model, body: &Map<String, Value>) -> Result<(), ApiError> {
    let bad = |message: &'static str| Err(ApiError::bad("input", "invalid_value", message));
    match &body["input"] {
        Value::String(text) if text.is_empty() => bad("'input' cannot be an empty string."),
        Value::Array(items) if items.is_empty() || items.len() > MAX_INPUTS => {
            bad("'input' must have from 1 to 2048 items.")
        }
        Value::Array(items) if items.iter().any(|item| item == "") => {
            bad("'input' cannot hold an empty string.")
        }
        Value::String(_) | Value::Array(_) => Ok(()),
        other => Err(ApiError::wrong_type(
            "input",
            "a string or an array",
            kind_of(other),
        )),
    }?;
    let wanted = body.get("dimensions").and_then(Value::as_u64);
    if let (Some(wanted), ModelKind::Embedding(most)) = (wanted, model.kind)
        && wanted > most as u64
    {
        return Err(ApiError::bad(
            "dimensions",
            "invalid_value",
            format!("Invalid value for 'dimensions' = {wanted}. Must be at most {most}."),
        ));
    }
    Ok(())
}

/// What reasoning models refuse.
fn sampling(endpoint: Endpoint, model: &Model, body: &Map<String, Value>) -> Result<(), ApiError> {
    if endpoint == Endpoint::Chat && body.get("max_tokens").is_some_and(|max| !max.is_null()) {
        return Err(ApiError::bad(
            "max_tokens",
            "unsupported_parameter",
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        ));
    }
    for name in ["temperature", "top_p"] {
        let value = body.get(name).and_then(Value::as_f64);
        if value.is_some_and(|value| !is_one(value)) {
            return Err(ApiError::bad(
                name,
                "unsupported_value",
                format!(
                    "Unsupported value: '{name}' is not supported with {}. Only the default (1) value is supported.",
                    model.name
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::OPENAI;
    use super::super::quirks::Quirks;
    use super::super::body::prepare;
    use super::*;

    #[test]
    fn every_refusal_names_its_parameter_and_code() {
        let chat = |rest: &str| {
            format!(
                r#"{{"model":"gpt-4o-mini","messages":[{{"role":"user","content":"x"}}]{rest}}}"#
            )
        };
        for (body, param, code) in [
            (
                r#"{"messages":[]}"#.to_owned(),
                "model",
                "missing_required_parameter",
            ),
            (
                r#"{"model":"gpt-4o"}"#.to_owned(),
                "messages",
                "missing_required_parameter",
            ),
            (chat(r#","temperature":3"#), "temperature", "invalid_value"),
            (
                chat(r#","temperature":"hot""#),
                "temperature",
                "invalid_type",
            ),
            (chat(r#","max_tokens":0"#), "max_tokens", "invalid_value"),
            (chat(r#","max_tokens":1.5"#), "max_tokens", "invalid_type"),
            (chat(r#","n":0"#), "n", "invalid_value"),
            (
                chat(r#","top_logprobs":21"#),
                "top_logprobs",
                "invalid_value",
            ),
            (chat(r#","colour":1"#), "colour", "unknown_parameter"),
            (
                chat(r#","tool_choice":"auto""#),
                "tool_choice",
                "invalid_value",
            ),
            (
                r#"{"model":"gpt-4o","messages":[]}"#.to_owned(),
                "messages",
                "empty_array",
            ),
            (
                r#"{"model":"gpt-4o","messages":[{"content":"x"}]}"#.to_owned(),
                "messages[0].role",
                "missing_required_parameter",
            ),
            (
                r#"{"model":"gpt-4o","messages":[{"role":"me","content":"x"}]}"#.to_owned(),
                "messages[0].role",
                "invalid_value",
            ),
            (
                r#"{"model":"gpt-4o","messages":[{"role":"user","content":7}]}"#.to_owned(),
                "messages[0].content",
                "invalid_type",
            ),
            (
                r#"{"model":"gpt-4o","messages":[{"role":"user"}]}"#.to_owned(),
                "messages[0].content",
                "invalid_type",
            ),
            (
                r#"{"model":"o4-mini","messages":[{"role":"user","content":"x"}],"max_tokens":9}"#
                    .to_owned(),
                "max_tokens",
                "unsupported_parameter",
            ),
            (
                r#"{"model":"gpt-5","messages":[{"role":"user","content":"x"}],"temperature":0}"#
                    .to_owned(),
                "temperature",
                "unsupported_value",
            ),
        ] {
            let ways = Ways {
                dialect: &OPENAI,
                quirks: &Quirks::none(),
            };
            let error = prepare(ways, Endpoint::Chat, body.as_bytes(), 0).expect_err(&body);
            assert_eq!(error.status, 400, "{body}");
            assert_eq!(error.param.as_deref(), Some(param), "{body}");
            assert_eq!(error.code, Some(code), "{body}");
        }
    }

    #[test]
    fn the_typed_pass_knows_the_same_parameters() {
        for (endpoint, known, start) in [
            (
                Endpoint::Chat,
                CHAT,
                r#"{"model":"gpt-4o","messages":[{"role":"user","content":"x"}],"tools":[],"#,
            ),
            (
                Endpoint::Responses,
                RESPONSES,
                r#"{"model":"gpt-4o","input":"x","tools":[],"#,
            ),
            (
                Endpoint::Embeddings,
                EMBEDDINGS,
                r#"{"model":"text-embedding-3-small","input":"x","#,
            ),
        ] {
            for (name, kind) in known {
                if ["model", "messages", "input", "tools"].contains(name) {
                    continue;
                }
                let value = match kind {
                    Any | Text => "\"x\"",
                    Bool => "false",
                    Number(..) => "1.0",
                    Integer(..) => "16",
                    Array => "[]",
                    Object => "{}",
                    OneOf(words) => &format!("{:?}", words[0]),
                };
                let body = format!("{start}\"{name}\":{value}}}");
                let ways = Ways {
                    dialect: &OPENAI,
                    quirks: &Quirks::none(),
                };
                let prepared = prepare(ways, endpoint, body.as_bytes(), 0);
                assert!(prepared.is_ok(), "{body}: {prepared:?}");
            }
        }
    }
}
