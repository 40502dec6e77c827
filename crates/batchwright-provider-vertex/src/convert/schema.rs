//! JSON Schema as the API takes it: its own subset of OpenAPI where that says the same, else JSON Schema itself, which a
//! job's import refuses for its keys.

use super::{request::Purpose, unsupported};
use batchwright_core::Result;
use serde_json::{Map, Value, json};

/// The field and the schema of an answer.
pub(super) fn answer(schema: &Value, purpose: Purpose) -> Result<(&'static str, Value)> {
    match (openapi(schema), purpose) {
        (Some(converted), _) => Ok(("responseSchema", converted)),
        (None, Purpose::Answer) => Ok(("responseJsonSchema", schema.clone())),
        (None, Purpose::Line) => Err(unsupported(
            "this schema in a batch: references, constants and mixed types are taken in direct calls alone",
        )),
    }
}

/// The field and the schema of a tool's arguments; `None` for a tool without any.
pub(super) fn parameters(
    schema: &Value,
    purpose: Purpose,
) -> Result<Option<(&'static str, Value)>> {
    let empty = |value: Option<&Value>| {
        value.is_none_or(|value| value.as_object().is_some_and(Map::is_empty))
    };
    if schema.is_null() || empty(schema.get("properties")) && schema.get("$ref").is_none() {
        return Ok(None);
    }
    match (openapi(schema), purpose) {
        (Some(converted), _) => Ok(Some(("parameters", converted))),
        (None, Purpose::Answer) => Ok(Some(("parametersJsonSchema", schema.clone()))),
        (None, Purpose::Line) => Err(unsupported("the schema of a tool's arguments in a batch")),
    }
}

/// A JSON Schema in the API's subset of OpenAPI
/// (<https://cloud.google.com/vertex-ai/docs/reference/rest/v1/Schema>); `None` where it has no words for it.
fn openapi(schema: &Value) -> Option<Value> {
    let rules = schema.as_object()?;
    let mut converted = Map::new();
    for (key, value) in rules {
        match key.as_str() {
            // Said by every strict schema, and the API's own rule.
            "additionalProperties" if *value == json!(false) => {}
            "$schema" | "$id" | "$comment" => {}
            "type" => {
                let (kind, nullable) = match value {
                    Value::String(kind) => (kind.as_str(), false),
                    Value::Array(kinds) => {
                        let null = kinds.iter().any(|kind| kind == "null");
                        let mut others = kinds.iter().filter(|kind| *kind != "null");
                        let kind = others.next()?.as_str()?;
                        (others.next().is_none().then_some(kind)?, null)
                    }
                    _ => return None,
                };
                converted.insert(key.clone(), json!(kind.to_uppercase()));
                if nullable {
                    converted.insert("nullable".to_owned(), json!(true));
                }
            }
            "properties" => {
                let properties = value.as_object()?.iter();
                let properties =
                    properties.map(|(name, inner)| Some((name.clone(), openapi(inner)?)));
                let properties: Map<String, Value> = properties.collect::<Option<_>>()?;
                if !properties.is_empty() {
                    converted.insert(key.clone(), Value::Object(properties));
                }
            }
            "items" => {
                converted.insert(key.clone(), openapi(value)?);
            }
            "anyOf" => {
                let choices = value.as_array()?.iter().map(openapi);
                converted.insert(key.clone(), Value::Array(choices.collect::<Option<_>>()?));
            }
            "enum" => {
                value
                    .as_array()?
                    .iter()
                    .all(Value::is_string)
                    .then_some(())?;
                converted.insert(key.clone(), value.clone());
            }
            "required" if value.as_array().is_some_and(Vec::is_empty) => {}
            "required" | "title" | "description" | "format" | "pattern" | "minimum" | "maximum"
            | "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties"
            | "maxProperties" | "nullable" | "propertyOrdering" => {
                converted.insert(key.clone(), value.clone());
            }
            _ => return None,
        }
    }
    (!converted.is_empty()).then_some(Value::Object(converted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_are_converted_where_nothing_is_lost() {
        for (schema, converted) in [
            (
                json!({"$schema": "s", "type": "object", "properties": {"a": {"type": ["string", "null"]},
                    "b": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                    "c": {"type": "string", "enum": ["x", "y"]}},
                    "required": ["a"], "additionalProperties": false}),
                Some(
                    json!({"type": "OBJECT", "properties": {"a": {"type": "STRING", "nullable": true},
                    "b": {"type": "ARRAY", "items": {"type": "INTEGER", "minimum": 0}},
                    "c": {"type": "STRING", "enum": ["x", "y"]}}, "required": ["a"]}),
                ),
            ),
            (json!({"type": ["string", "integer"]}), None),
            (json!({"$ref": "#/$defs/a"}), None),
            (
                json!({"type": "object", "properties": {"a": {"const": 1}}}),
                None,
            ),
            (json!({"type": "integer", "enum": [1]}), None),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                None,
            ),
            (json!(true), None),
            (json!({}), None),
        ] {
            assert_eq!(openapi(&schema), converted, "{schema}");
        }
    }

    #[test]
    fn what_cannot_be_converted_goes_to_direct_calls_alone() {
        let schema = json!({"$ref": "#/$defs/a"});
        assert_eq!(
            answer(&schema, Purpose::Answer).unwrap().0,
            "responseJsonSchema"
        );
        assert!(answer(&schema, Purpose::Line).is_err());
        assert!(parameters(&schema, Purpose::Line).is_err());
        let nothing = json!({"type": "object", "properties": {}});
        assert_eq!(parameters(&nothing, Purpose::Line).unwrap(), None);
    }
}
