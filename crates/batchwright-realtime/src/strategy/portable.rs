//! The part of a schema that every vendor takes.

use serde_json::{Map, Value};

/// What at least one vendor refuses, and what says nothing to a model. The answer is held to all of it afterwards.
const LEFT_OUT: &[&str] = &[
    "$schema",
    "default",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "maximum",
    "maxItems",
    "maxLength",
    "minItems",
    "minimum",
    "minLength",
    "multipleOf",
    "pattern",
    "uniqueItems",
];

/// The schema without what a vendor may refuse, its objects closed and all their properties required.
pub(crate) fn portable(schema: &Value) -> Value {
    let Value::Object(fields) = schema else {
        return schema.clone();
    };
    let mut kept = Map::new();
    for (keyword, value) in fields {
        let is_number_format = keyword == "format" && !says_string(fields);
        if LEFT_OUT.contains(&keyword.as_str()) || is_number_format {
            continue;
        }
        let value = match (keyword.as_str(), value) {
            ("properties" | "$defs" | "definitions", Value::Object(named)) => {
                let named = named
                    .iter()
                    .map(|(name, schema)| (name.clone(), portable(schema)));
                Value::Object(named.collect())
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(schemas)) => {
                Value::Array(schemas.iter().map(portable).collect())
            }
            ("items" | "additionalProperties", schema) => portable(schema),
            (_, value) => value.clone(),
        };
        // The forms of a type differ in their tags, so that more than one never fits.
        let keyword = if keyword == "oneOf" { "anyOf" } else { keyword };
        kept.insert(keyword.to_owned(), value);
    }
    if let Some(Value::Object(properties)) = kept.get("properties") {
        let all: Vec<Value> = properties.keys().map(|name| name.as_str().into()).collect();
        kept.insert("required".to_owned(), Value::Array(all));
        kept.entry("additionalProperties")
            .or_insert(Value::Bool(false));
    }
    Value::Object(kept)
}

fn says_string(schema: &Map<String, Value>) -> bool {
    match schema.get("type") {
        Some(Value::String(kind)) => kind == "string",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "string"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_16_a_schema_is_cut_to_what_every_vendor_takes() {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Tree",
            "type": "object",
            "properties": {
                // A name that is a keyword elsewhere.
                "minimum": {"type": "integer", "format": "uint32", "minimum": 0},
                "day": {"type": "string", "format": "date"},
                "kind": {"oneOf": [{"const": "oak"}, {"$ref": "#/$defs/Other"}]},
                "sizes": {"type": "object", "additionalProperties": {"type": "number", "format": "double"}},
            },
            "required": ["day"],
            "$defs": {"Other": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}}}},
        });
        let expected = json!({
            "title": "Tree",
            "type": "object",
            "properties": {
                "minimum": {"type": "integer"},
                "day": {"type": "string", "format": "date"},
                "kind": {"anyOf": [{"const": "oak"}, {"$ref": "#/$defs/Other"}]},
                "sizes": {"type": "object", "additionalProperties": {"type": "number"}},
            },
            "required": ["day", "kind", "minimum", "sizes"],
            "additionalProperties": false,
            "$defs": {"Other": {
                "type": "object",
                "properties": {"name": {"type": "string"}},
                "required": ["name"],
                "additionalProperties": false,
            }},
        });
        assert_eq!(portable(&schema), expected);
    }
}
