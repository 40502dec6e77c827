//! Which part of JSON schema a vendor can hold a model to.

use crate::source::shown;
use serde_json::Value;
use std::collections::BTreeSet;

/// What a schema must obey for a vendor to enforce it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SchemaRules {
    /// Whether every object must say `"additionalProperties": false`.
    pub closed_objects: bool,
    /// Whether every object must list all its properties in `required`.
    pub all_required: bool,
    /// Whether the whole must be an object, and no `anyOf`.
    pub object_at_root: bool,
    /// Keywords that are refused.
    pub refused: &'static [&'static str],
    /// The highest `minItems` that is taken; without it any.
    pub min_items: Option<u64>,
    /// Whether a schema may refer to itself.
    pub recursion: bool,
    /// Whether the values of an `enum` must be scalars.
    pub scalar_enums: bool,
    /// The most levels of objects within each other.
    pub max_depth: Option<usize>,
    /// The most properties of all objects together.
    pub max_properties: Option<usize>,
    /// The most values of all `enum`s together.
    pub max_enum_values: Option<usize>,
}

/// Faults told of one schema; more say nothing new.
const TOLD: usize = 8;
/// Levels looked into; serde_json reads at most 128.
const LEVELS: usize = 128;

impl SchemaRules {
    /// What in `schema` the vendor would refuse, each with its place as a JSON pointer; at most 8.
    pub fn faults(&self, schema: &Value) -> Vec<String> {
        let mut walk = Walk {
            rules: self,
            root: schema,
            faults: Vec::new(),
            properties: 0,
            enum_values: 0,
            is_loop_told: false,
        };
        if self.object_at_root {
            if schema.get("anyOf").is_some() {
                walk.fault("", "the whole schema must not be an anyOf");
            } else if schema.get("type").and_then(Value::as_str) != Some("object")
                && schema.get("$ref").is_none()
            {
                walk.fault("", "the whole schema must be of type object");
            }
        }
        walk.schema(schema, "", 0, 0);
        if let Some(most) = self.max_properties.filter(|most| walk.properties > *most) {
            let what = format!(
                "{} properties, and at most {most} are taken",
                walk.properties
            );
            walk.fault("", what);
        }
        if let Some(most) = self.max_enum_values.filter(|most| walk.enum_values > *most) {
            let what = format!(
                "{} values of enums, and at most {most} are taken",
                walk.enum_values
            );
            walk.fault("", what);
        }
        walk.faults
    }
}

struct Walk<'a> {
    rules: &'a SchemaRules,
    root: &'a Value,
    faults: Vec<String>,
    properties: usize,
    enum_values: usize,
    /// Whether it was told that the schema refers to itself: once says all.
    is_loop_told: bool,
}

impl Walk<'_> {
    fn fault(&mut self, at: &str, what: impl Into<String>) {
        if self.faults.len() < TOLD {
            let at = if at.is_empty() { "/" } else { at };
            self.faults
                .push(format!("schema {}: {}", shown(at), what.into()));
        }
    }

    /// Looks at the schema at this place; `depth` counts the objects it is in.
    fn schema(&mut self, schema: &Value, at: &str, depth: usize, level: usize) {
        let Some(fields) = schema.as_object() else {
            // `true` and `false` are schemas too, and say nothing that could be enforced.
            return;
        };
        if level >= LEVELS {
            return self.fault(at, "it is nested too deeply to be checked");
        }
        for keyword in self.rules.refused {
            if fields.contains_key(*keyword) {
                self.fault(at, format!("the keyword {keyword} is not taken"));
            }
        }
        if let Some(most) = self.rules.min_items
            && fields
                .get("minItems")
                .is_some_and(|items| items.as_u64().is_none_or(|items| items > most))
        {
            self.fault(at, format!("minItems may be at most {most}"));
        }
        if let Some(values) = fields.get("enum").and_then(Value::as_array) {
            self.enum_values += values.len();
            if self.rules.scalar_enums && values.iter().any(|v| v.is_object() || v.is_array()) {
                self.fault(at, "the values of an enum must be scalars");
            }
        }
        if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
            self.reference(target, at);
        }
        let is_object = match fields.get("type") {
            Some(Value::String(kind)) => kind == "object",
            Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
            _ => fields.contains_key("properties"),
        };
        let depth = depth + usize::from(is_object);
        if is_object {
            self.object(fields, at, depth);
        }
        for key in ["properties", "$defs", "definitions", "patternProperties"] {
            let Some(inner) = fields.get(key).and_then(Value::as_object) else {
                continue;
            };
            // A definition counts where it is used, and the levels of its use are not known here.
            let depth = if key == "properties" { depth } else { 0 };
            for (name, inner) in inner {
                self.schema(
                    inner,
                    &format!("{at}/{key}/{}", escaped(name)),
                    depth,
                    level + 1,
                );
            }
        }
        for key in ["items", "additionalProperties", "contains"] {
            if let Some(inner) = fields.get(key) {
                self.schema(inner, &format!("{at}/{key}"), depth, level + 1);
            }
        }
        for key in ["anyOf", "oneOf", "allOf", "prefixItems"] {
            let inner = fields.get(key).and_then(Value::as_array);
            for (place, inner) in inner.into_iter().flatten().enumerate() {
                self.schema(inner, &format!("{at}/{key}/{place}"), depth, level + 1);
            }
        }
    }

    fn object(&mut self, fields: &serde_json::Map<String, Value>, at: &str, depth: usize) {
        if self.rules.closed_objects
            && fields.get("additionalProperties") != Some(&Value::Bool(false))
        {
            self.fault(at, "an object must say \"additionalProperties\": false");
        }
        if self.rules.max_depth.is_some_and(|most| depth == most + 1) {
            self.fault(
                at,
                format!("objects are nested more than {} levels deep", depth - 1),
            );
        }
        let Some(properties) = fields.get("properties").and_then(Value::as_object) else {
            return;
        };
        self.properties += properties.len();
        if !self.rules.all_required {
            return;
        }
        let required: Vec<&str> = fields
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let optional = properties
            .keys()
            .find(|name| !required.contains(&name.as_str()));
        if let Some(name) = optional {
            self.fault(
                at,
                format!(
                    "every property must be listed in required, and {} is not; one that may be absent is \
                     written with a type such as [\"string\", \"null\"]",
                    shown(name)
                ),
            );
        }
    }

    fn reference(&mut self, target: &str, at: &str) {
        let Some(pointer) = target.strip_prefix('#') else {
            return self.fault(at, "a $ref must stay within the schema");
        };
        let root = self.root;
        let Some(found) = root.pointer(pointer) else {
            return self.fault(at, "its $ref leads nowhere");
        };
        if self.rules.recursion || self.is_loop_told {
            return;
        }
        if pointer.is_empty() || leads_to(root, found, pointer, &mut BTreeSet::new()) {
            self.is_loop_told = true;
            self.fault(at, "a schema must not refer to itself");
        }
    }
}

/// Whether a reference within `schema` comes to `goal`.
fn leads_to<'a>(
    root: &'a Value,
    schema: &'a Value,
    goal: &str,
    seen: &mut BTreeSet<&'a str>,
) -> bool {
    match schema {
        Value::Object(fields) => fields.iter().any(|(key, value)| {
            if key == "$ref"
                && let Some(pointer) = value.as_str().and_then(|target| target.strip_prefix('#'))
            {
                return pointer == goal
                    || pointer.is_empty()
                    || seen.insert(pointer)
                        && root
                            .pointer(pointer)
                            .is_some_and(|next| leads_to(root, next, goal, seen));
            }
            leads_to(root, value, goal, seen)
        }),
        Value::Array(values) => values.iter().any(|value| leads_to(root, value, goal, seen)),
        _ => false,
    }
}

/// A key as it stands in a JSON pointer.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use crate::VendorRules;
    use serde_json::{Value, json};

    fn faults(vendor: &str, schema: &Value) -> Vec<String> {
        let rules = VendorRules::of(vendor).unwrap();
        rules.schema.unwrap().faults(schema)
    }

    fn object(properties: Value, required: Value) -> Value {
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
    }

    #[test]
    fn what_a_vendor_can_enforce_passes() {
        let label = object(
            json!({"label": {"type": "string", "enum": ["a", "b"]}, "more": {"type": ["string", "null"]}}),
            json!(["label", "more"]),
        );
        for vendor in ["openai", "anthropic"] {
            assert_eq!(faults(vendor, &label), [""; 0], "{vendor}");
        }
        let nested = object(
            json!({"list": {"type": "array", "items": label}, "x": {"$ref": "#/$defs/d"}}),
            json!(["list", "x"]),
        );
        assert_eq!(
            faults("openai", &nested)[0],
            "schema \"/properties/x\": its $ref leads nowhere"
        );
    }

    #[test]
    fn each_rule_is_told_with_its_place() {
        let word = json!({"type": "string"});
        let deep = (0..11).fold(word.clone(), |inner, _| {
            object(json!({"a": inner}), json!(["a"]))
        });
        let own = json!({"type": "object", "additionalProperties": false, "required": ["next"],
            "properties": {"next": {"$ref": "#"}}});
        let round = json!({"type": "object", "additionalProperties": false, "required": ["a"],
            "properties": {"a": {"$ref": "#/$defs/a"}},
            "$defs": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}});
        for (vendor, schema, word) in [
            (
                "openai",
                json!({"type": "object", "properties": {}}),
                "additionalProperties",
            ),
            (
                "openai",
                object(json!({"a": word, "b": word}), json!(["a"])),
                "\"b\" is not",
            ),
            (
                "openai",
                object(
                    json!({"a": {"type": "object", "properties": {}}}),
                    json!(["a"]),
                ),
                "/properties/a",
            ),
            (
                "openai",
                json!({"type": "array", "items": word}),
                "type object",
            ),
            ("openai", json!({"anyOf": [word]}), "anyOf"),
            (
                "openai",
                object(json!({"a": {"allOf": [word]}}), json!(["a"])),
                "allOf",
            ),
            (
                "openai",
                object(json!({"a": {"not": {}}}), json!(["a"])),
                "keyword not",
            ),
            (
                "openai",
                object(
                    json!({"a": {"$ref": "https://example.org/s"}}),
                    json!(["a"]),
                ),
                "within",
            ),
            ("openai", deep, "10 levels"),
            (
                "openai",
                object(
                    json!({"a": {"enum": (0..1001).collect::<Vec<_>>()}}),
                    json!(["a"]),
                ),
                "1001 values",
            ),
            (
                "anthropic",
                object(json!({"a": {"type": "string", "minLength": 1}}), json!([])),
                "minLength",
            ),
            (
                "anthropic",
                object(json!({"a": {"type": "array", "minItems": 2}}), json!([])),
                "minItems",
            ),
            (
                "anthropic",
                object(json!({"a": {"enum": [{"b": 1}]}}), json!([])),
                "scalars",
            ),
            ("anthropic", own.clone(), "itself"),
            ("anthropic", round.clone(), "itself"),
        ] {
            let faults = faults(vendor, &schema);
            assert_eq!(faults.len(), 1, "{schema}: {faults:?}");
            assert!(faults[0].contains(word), "{schema}: {faults:?}");
        }
        assert_eq!(
            faults("openai", &own),
            [""; 0],
            "OpenAI takes what refers to itself"
        );
        assert_eq!(faults("openai", &round), [""; 0]);
        assert_eq!(
            faults("anthropic", &object(json!({"a": word}), json!([]))),
            [""; 0]
        );
    }

    #[test]
    fn faults_are_bounded() {
        let many: serde_json::Map<String, Value> = (0..50)
            .map(|n| (n.to_string(), json!({"type": "object"})))
            .collect();
        assert_eq!(faults("anthropic", &json!({"properties": many})).len(), 8);
    }
}
