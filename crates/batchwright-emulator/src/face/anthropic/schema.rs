//! Which JSON schemas the vendor holds a model to.

use serde_json::Value;

use super::error::ApiError;

/// Keys that structured output refuses.
const REFUSED: [&str; 7] = [
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
];

/// Refuses what structured output does not take; `place` is the schema's dotted path.
pub(super) fn check(schema: &Value, place: &str) -> Result<(), ApiError> {
    Walk {
        root: schema,
        place,
    }
    .check(schema, &mut Vec::new())
}

struct Walk<'a> {
    root: &'a Value,
    place: &'a str,
}

impl<'a> Walk<'a> {
    fn fail(&self, why: &str) -> ApiError {
        ApiError::invalid(format!("{}: {why}", self.place))
    }

    /// `open` are the references on the way here.
    fn check(&self, schema: &'a Value, open: &mut Vec<&'a str>) -> Result<(), ApiError> {
        let Some(rules) = schema.as_object() else {
            return Ok(());
        };
        if let Some(key) = REFUSED.iter().find(|key| rules.contains_key(**key)) {
            return Err(self.fail(&format!("property '{key}' is not supported")));
        }
        if rules
            .get("minItems")
            .is_some_and(|least| *least != 0 && *least != 1)
        {
            return Err(self.fail("'minItems' values other than 0 or 1 are not supported"));
        }
        if rules.get("type").is_some_and(|kind| kind == "object")
            && rules.get("additionalProperties") != Some(&Value::Bool(false))
        {
            return Err(self.fail(
                "For 'object' type, 'additionalProperties' must be explicitly set to false",
            ));
        }
        let complex = |choice: &Value| choice.is_object() || choice.is_array();
        let choices = rules.get("enum").and_then(Value::as_array);
        if choices.is_some_and(|choices| choices.iter().any(complex)) {
            return Err(self.fail("'enum' values must be scalars"));
        }
        if let Some(target) = rules.get("$ref").and_then(Value::as_str) {
            if open.contains(&target) {
                return Err(self.fail("recursive schemas are not supported"));
            }
            let Some(found) = target
                .strip_prefix('#')
                .and_then(|path| self.root.pointer(path))
            else {
                return Err(self.fail("external '$ref' is not supported"));
            };
            open.push(target);
            self.check(found, open)?;
            open.pop();
        }
        for (key, inner) in rules {
            match (key.as_str(), inner) {
                ("properties" | "$defs" | "definitions", Value::Object(named)) => {
                    for schema in named.values() {
                        // A definition is looked at where it is used, too.
                        self.check(schema, open)?;
                    }
                }
                ("items", one) => self.check(one, open)?,
                ("anyOf" | "allOf" | "oneOf" | "prefixItems", Value::Array(list)) => {
                    for schema in list {
                        self.check(schema, open)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_of_structured_output() {
        let object = |properties: Value| json!({"type": "object", "properties": properties, "required": [], "additionalProperties": false});
        for good in [
            object(json!({"a": {"type": "string", "enum": ["x", 1, null]}})),
            object(json!({"a": {"type": "array", "items": {"type": "integer"}, "minItems": 1}})),
            json!({"$defs": {"n": {"type": "number"}}, "anyOf": [{"$ref": "#/$defs/n"}, {"$ref": "#/$defs/n"}]}),
        ] {
            assert!(check(&good, "s").is_ok(), "{good}");
        }
        for bad in [
            json!({"type": "object", "properties": {}}),
            object(json!({"a": {"type": "integer", "minimum": 1}})),
            object(json!({"a": {"type": "string", "maxLength": 4}})),
            object(json!({"a": {"type": "array", "minItems": 2}})),
            object(json!({"a": {"enum": [{"x": 1}]}})),
            object(json!({"a": {"$ref": "https://example.org/x.json"}})),
            json!({"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"}),
        ] {
            assert!(check(&bad, "s").is_err(), "{bad}");
        }
    }
}
