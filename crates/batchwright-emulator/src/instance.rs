//! Valid instances of JSON schemas, for structured output and tool arguments.

use serde_json::{Map, Number, Value};

use crate::answer::{MARK_BYTES, PromptHash, words};
use crate::seed::{Rng, mix};

/// A valid instance of a schema, the same for the same seed and prompt.
///
/// Understands `type`, `properties`, `required`, `items`, `prefixItems`, `enum`, `const`, `anyOf`, `oneOf`, `allOf`,
/// `$ref` inside the document, the bounds of strings, numbers and arrays, `multipleOf`, the usual `format`s, and plain
/// `pattern`s as far as possible. The first string that may be anything (properties go in alphabetical order) is
/// `[prompt:HASH]`.
pub(crate) fn instance(schema: &Value, seed: u64, hash: PromptHash) -> Value {
    let mut maker = Maker {
        root: schema,
        rng: Rng::new(mix(seed, hash.0)),
        hash,
        marked: false,
    };
    maker.make(schema, 0)
}

/// From this depth on only what is required is made, so that recursive schemas end.
const SHALLOW: usize = 6;
/// Past this depth nothing is made: the schema has no finite instance we can find.
const DEEPEST: usize = 64;
/// Bytes after which a sample of a pattern repeats no more.
const LONGEST: usize = 10_000;

struct Maker<'a> {
    root: &'a Value,
    rng: Rng,
    hash: PromptHash,
    marked: bool,
}

impl Maker<'_> {
    fn make(&mut self, schema: &Value, depth: usize) -> Value {
        let Some(rules) = schema.as_object() else {
            return if schema.as_bool() == Some(false) {
                Value::Null
            } else {
                Value::Object(Map::new())
            };
        };
        if depth > DEEPEST {
            return Value::Null;
        }
        if let Some(constant) = rules.get("const") {
            return constant.clone();
        }
        if let Some(Value::Array(choices)) = rules.get("enum")
            && !choices.is_empty()
        {
            return self.rng.pick(choices).clone();
        }
        if let Some(target) = rules.get("$ref").and_then(Value::as_str) {
            return match self.resolve(target) {
                Some(target) => self.make(&target, depth + 1),
                None => Value::Null,
            };
        }
        if rules.contains_key("allOf") {
            let merged = self.merge_all(rules);
            return self.make(&merged, depth + 1);
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(Value::Array(choices)) = rules.get(key)
                && let Some(choice) = choose(choices, depth)
            {
                let mut merged = rules.clone();
                merged.remove(key);
                merge(&mut merged, choice);
                return self.make(&Value::Object(merged), depth + 1);
            }
        }
        match type_of(rules, depth) {
            "object" => self.object(rules, depth),
            "array" => self.array(rules, depth),
            "integer" => self.number(rules, true),
            "number" => self.number(rules, false),
            "boolean" => Value::Bool(self.rng.below(2) == 1),
            "null" => Value::Null,
            _ => Value::String(self.string(rules)),
        }
    }

    fn resolve(&self, target: &str) -> Option<Value> {
        let pointer = target.strip_prefix('#')?;
        self.root.pointer(pointer).cloned()
    }

    fn merge_all(&self, rules: &Map<String, Value>) -> Value {
        let mut merged = rules.clone();
        if let Some(Value::Array(parts)) = merged.remove("allOf") {
            for part in &parts {
                let part = match part.get("$ref").and_then(Value::as_str) {
                    Some(target) => self.resolve(target).unwrap_or_default(),
                    None => part.clone(),
                };
                merge(&mut merged, &part);
            }
        }
        Value::Object(merged)
    }

    fn object(&mut self, rules: &Map<String, Value>, depth: usize) -> Value {
        let required: Vec<&str> = rules
            .get("required")
            .and_then(Value::as_array)
            .map(|names| names.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let mut made = Map::new();
        if let Some(Value::Object(properties)) = rules.get("properties") {
            for (name, schema) in properties {
                if depth < SHALLOW || required.contains(&name.as_str()) {
                    let value = self.make(schema, depth + 1);
                    made.insert(name.clone(), value);
                }
            }
        }
        for name in required {
            if !made.contains_key(name) {
                let schema = rules
                    .get("additionalProperties")
                    .filter(|schema| schema.is_object())
                    .cloned()
                    .unwrap_or_else(|| serde_json::json!({"type": "string"}));
                let value = self.make(&schema, depth + 1);
                made.insert(name.to_owned(), value);
            }
        }
        Value::Object(made)
    }

    fn array(&mut self, rules: &Map<String, Value>, depth: usize) -> Value {
        let least = count(rules, "minItems").unwrap_or(0);
        let wanted = if depth < SHALLOW { least.max(1) } else { least };
        let most = count(rules, "maxItems").unwrap_or(u64::MAX);
        let mut items = Vec::new();
        if let Some(Value::Array(schemas)) = rules.get("prefixItems") {
            for schema in schemas
                .iter()
                .take(usize::try_from(most).unwrap_or(usize::MAX))
            {
                items.push(self.make(schema, depth + 1));
            }
        }
        let unique = rules.get("uniqueItems").and_then(Value::as_bool) == Some(true);
        let any = Value::Object(serde_json::Map::from_iter([(
            "type".to_owned(),
            Value::from("string"),
        )]));
        let schema = rules.get("items").filter(|items| !items.is_boolean());
        let closed = rules.get("items").and_then(Value::as_bool) == Some(false);
        let mut tries = 0;
        while !closed && (items.len() as u64) < wanted.min(most).min(1_000) && tries < 10_000 {
            tries += 1;
            let item = self.make(schema.unwrap_or(&any), depth + 1);
            if !unique || !items.contains(&item) {
                items.push(item);
            }
        }
        Value::Array(items)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "bounds of a schema are small; a float that is too large saturates"
    )]
    fn number(&mut self, rules: &Map<String, Value>, integer: bool) -> Value {
        let bound = |key| rules.get(key).and_then(Value::as_f64);
        let step = bound("multipleOf").filter(|step| *step > 0.0);
        let step = if integer {
            Some(step.unwrap_or(1.0))
        } else {
            step
        };
        let nudge = step.unwrap_or(0.5).clamp(f64::EPSILON, 1e-3);
        let low = bound("minimum").max_some(bound("exclusiveMinimum").map(|low| low + nudge));
        let high = bound("maximum").min_some(bound("exclusiveMaximum").map(|high| high - nudge));
        let low = low.unwrap_or_else(|| high.map_or(0.0, |high| high - 100.0));
        let high = high.unwrap_or(low + 100.0).max(low);
        let share = self.rng.below(1_001) as f64 / 1_000.0;
        let mut value = low + (high - low) * share;
        if let Some(step) = step {
            value = (value / step).round() * step;
            if value < low {
                value = (low / step).ceil() * step;
            }
            if value > high {
                value = (high / step).floor() * step;
            }
        } else {
            value = ((value * 1_000.0).round() / 1_000.0).clamp(low, high);
        }
        if integer {
            Value::from(value as i64)
        } else {
            Number::from_f64(value).map_or(Value::from(0), Value::Number)
        }
    }

    fn string(&mut self, rules: &Map<String, Value>) -> String {
        if let Some(pattern) = rules.get("pattern").and_then(Value::as_str) {
            return sample(pattern, &mut self.rng);
        }
        if let Some(format) = rules.get("format").and_then(Value::as_str)
            && let Some(text) = self.formatted(format)
        {
            return text;
        }
        let least = usize::try_from(count(rules, "minLength").unwrap_or(0)).unwrap_or(0);
        let most = count(rules, "maxLength").map_or(usize::MAX, |most| {
            usize::try_from(most).unwrap_or(usize::MAX)
        });
        let mut text = if !self.marked && most >= MARK_BYTES {
            self.marked = true;
            format!("[prompt:{}]", self.hash)
        } else {
            words(&mut self.rng, 2)
        };
        while text.len() < least.min(100_000) {
            text.push(' ');
            text.push_str(&words(&mut self.rng, 2));
        }
        text.truncate(most.max(least));
        text
    }

    fn formatted(&mut self, format: &str) -> Option<String> {
        let day = 1 + self.rng.below(28);
        let month = 1 + self.rng.below(12);
        let hour = self.rng.below(24);
        let minute = self.rng.below(60);
        let word = words(&mut self.rng, 1);
        Some(match format {
            "date-time" => format!("2026-{month:02}-{day:02}T{hour:02}:{minute:02}:00Z"),
            "date" => format!("2026-{month:02}-{day:02}"),
            "time" => format!("{hour:02}:{minute:02}:00Z"),
            "duration" => format!("PT{minute}M"),
            "email" | "idn-email" => format!("{word}@example.com"),
            "hostname" | "idn-hostname" => format!("{word}.example.com"),
            "ipv4" => format!("192.0.2.{day}"),
            "ipv6" => format!("2001:db8::{day}"),
            "uri" | "iri" | "url" => format!("https://example.com/{word}"),
            "uri-reference" | "iri-reference" => format!("/{word}"),
            "uuid" => format!(
                "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
                self.rng.next() >> 32,
                self.rng.next() >> 48,
                self.rng.next() >> 52,
                self.rng.next() >> 52,
                self.rng.next() >> 16
            ),
            _ => return None,
        })
    }
}

trait Bounds {
    fn max_some(self, other: Self) -> Self;
    fn min_some(self, other: Self) -> Self;
}

impl Bounds for Option<f64> {
    fn max_some(self, other: Self) -> Self {
        match (self, other) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        }
    }

    fn min_some(self, other: Self) -> Self {
        match (self, other) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

fn count(rules: &Map<String, Value>, key: &str) -> Option<u64> {
    rules.get(key).and_then(Value::as_u64)
}

/// The first alternative; deep down the first that does not nest, so that recursive schemas end.
fn choose(choices: &[Value], depth: usize) -> Option<&Value> {
    if depth >= SHALLOW {
        let flat = choices.iter().find(|choice| {
            matches!(
                choice.get("type").and_then(Value::as_str),
                Some("null" | "string" | "number" | "integer" | "boolean")
            )
        });
        if flat.is_some() {
            return flat;
        }
    }
    choices.first()
}

fn type_of(rules: &Map<String, Value>, depth: usize) -> &str {
    match rules.get("type") {
        Some(Value::String(name)) => name,
        Some(Value::Array(names)) => {
            let mut names = names.iter().filter_map(Value::as_str);
            if depth >= SHALLOW && names.clone().any(|name| name == "null") {
                return "null";
            }
            names.next().unwrap_or("null")
        }
        _ if rules.contains_key("properties") || rules.contains_key("required") => "object",
        _ if rules.contains_key("items") || rules.contains_key("prefixItems") => "array",
        _ if rules.contains_key("minimum") || rules.contains_key("maximum") => "number",
        _ => "string",
    }
}

fn merge(into: &mut Map<String, Value>, from: &Value) {
    let Some(from) = from.as_object() else {
        return;
    };
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                for (name, schema) in new {
                    old.insert(name.clone(), schema.clone());
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) if key == "required" => {
                old.extend(new.iter().cloned());
            }
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

/// A text that a plain regular expression matches: literals, classes, groups, alternatives and counts.
fn sample(pattern: &str, rng: &mut Rng) -> String {
    let chars: Vec<char> = pattern.chars().collect();
    let mut sampler = Sampler {
        chars: &chars,
        at: 0,
        rng,
    };
    sampler.alternatives(0)
}

struct Sampler<'a> {
    chars: &'a [char],
    at: usize,
    rng: &'a mut Rng,
}

impl Sampler<'_> {
    /// Reads `a|b|c` up to the end or a closing parenthesis; keeps the first alternative.
    fn alternatives(&mut self, depth: usize) -> String {
        let mut kept: Option<String> = None;
        let mut current = String::new();
        while let Some(&c) = self.chars.get(self.at) {
            match c {
                ')' if depth > 0 => break,
                '|' => {
                    self.at += 1;
                    let done = std::mem::take(&mut current);
                    kept.get_or_insert(done);
                }
                '^' | '$' => self.at += 1,
                _ => {
                    let start = self.at;
                    let piece = self.atom(depth);
                    let end = self.at;
                    let times = self.times();
                    let after = self.at;
                    for turn in 0..times {
                        // Nested counts multiply; nobody needs a longer sample.
                        if current.len() > LONGEST || (turn > 0 && piece.is_empty()) {
                            break;
                        }
                        if turn == 0 {
                            current.push_str(&piece);
                        } else {
                            self.at = start;
                            let again = self.atom(depth);
                            current.push_str(&again);
                            debug_assert_eq!(self.at, end, "an atom reads the same twice");
                        }
                    }
                    self.at = after;
                }
            }
        }
        kept.unwrap_or(current)
    }

    fn atom(&mut self, depth: usize) -> String {
        let c = self.chars[self.at];
        self.at += 1;
        match c {
            '(' => {
                if self.chars.get(self.at) == Some(&'?') {
                    // A non-capturing or named group: its head ends at `:` or `>`.
                    while let Some(&c) = self.chars.get(self.at) {
                        self.at += 1;
                        if c == ':' || c == '>' {
                            break;
                        }
                    }
                }
                let text = if depth < DEEPEST {
                    self.alternatives(depth + 1)
                } else {
                    String::new()
                };
                if self.chars.get(self.at) == Some(&')') {
                    self.at += 1;
                }
                text
            }
            '[' => self.class().to_string(),
            '.' => 'a'.to_string(),
            '\\' => {
                let c = self.chars.get(self.at).copied().unwrap_or('\\');
                self.at += 1;
                self.escape(c).to_string()
            }
            c => c.to_string(),
        }
    }

    fn escape(&mut self, c: char) -> char {
        match c {
            'd' => char::from(b'0' + u8::try_from(self.rng.below(10)).unwrap_or(0)),
            'w' => char::from(b'a' + u8::try_from(self.rng.below(26)).unwrap_or(0)),
            's' => ' ',
            'D' | 'S' => 'a',
            'W' => '-',
            'n' => '\n',
            't' => '\t',
            c => c,
        }
    }

    fn class(&mut self) -> char {
        let negated = self.chars.get(self.at) == Some(&'^');
        if negated {
            self.at += 1;
        }
        let mut ranges: Vec<(char, char)> = Vec::new();
        let mut first = true;
        while let Some(&c) = self.chars.get(self.at) {
            if c == ']' && !first {
                break;
            }
            first = false;
            self.at += 1;
            if c == '\\' {
                let escaped = self.chars.get(self.at).copied().unwrap_or('\\');
                self.at += 1;
                ranges.push(match escaped {
                    'd' => ('0', '9'),
                    'w' => ('a', 'z'),
                    's' => (' ', ' '),
                    c => (c, c),
                });
            } else if self.chars.get(self.at) == Some(&'-')
                && self.chars.get(self.at + 1).is_some_and(|c| *c != ']')
            {
                let end = self.chars[self.at + 1];
                self.at += 2;
                ranges.push((c, end));
            } else {
                ranges.push((c, c));
            }
        }
        self.at += 1;
        if negated {
            return ('a'..='z')
                .chain('A'..='Z')
                .chain('0'..='9')
                .find(|c| !ranges.iter().any(|(low, high)| low <= c && c <= high))
                .unwrap_or('-');
        }
        if ranges.is_empty() {
            return 'a';
        }
        let (low, high) = *self.rng.pick(&ranges);
        let width = (u32::from(high)).saturating_sub(u32::from(low)) + 1;
        let step = u32::try_from(self.rng.below(u64::from(width))).unwrap_or(0);
        char::from_u32(u32::from(low) + step).unwrap_or(low)
    }

    /// Reads a count after an atom: `?`, `*`, `+`, `{n}`, `{n,}`, `{n,m}`.
    fn times(&mut self) -> u64 {
        let times = match self.chars.get(self.at) {
            Some('?' | '+') => {
                self.at += 1;
                1
            }
            Some('*') => {
                self.at += 1;
                0
            }
            Some('{') => {
                let digits: String = self.chars[self.at + 1..]
                    .iter()
                    .take_while(|c| c.is_ascii_digit())
                    .collect();
                while let Some(&c) = self.chars.get(self.at) {
                    self.at += 1;
                    if c == '}' {
                        break;
                    }
                }
                digits.parse::<u64>().unwrap_or(0).min(1_000)
            }
            _ => 1,
        };
        if self.chars.get(self.at) == Some(&'?') {
            self.at += 1;
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn make(schema: &Value) -> Value {
        instance(schema, 1, PromptHash(0xabc))
    }

    #[test]
    fn the_first_free_string_is_the_prompt_hash() {
        let made = make(&json!({
            "type": "object",
            "properties": {
                "a": {"type": "integer", "minimum": 3, "maximum": 5},
                "b": {"type": "string", "maxLength": 4},
                "c": {"type": "string"},
                "d": {"type": "string"}
            },
            "required": ["a", "b", "c", "d"],
            "additionalProperties": false
        }));
        assert_eq!(made["c"], "[prompt:0000000000000abc]");
        assert_ne!(made["d"], made["c"]);
        assert!((3..=5).contains(&made["a"].as_i64().expect("an integer")));
        assert!(made["b"].as_str().expect("a string").len() <= 4);
    }

    #[test]
    fn references_and_recursion_end() {
        let made = make(&json!({
            "$defs": {"node": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}
                },
                "required": ["name", "next", "children"]
            }},
            "$ref": "#/$defs/node"
        }));
        assert_eq!(made["name"].as_str().map(str::is_empty), Some(false));
        let mut depth = 0;
        let mut node = &made;
        while !node["next"].is_null() {
            node = &node["next"];
            depth += 1;
        }
        assert!(depth < 20);
    }

    #[test]
    fn choices_are_respected() {
        assert_eq!(make(&json!({"const": 7})), 7);
        let picked = make(&json!({"enum": ["x", "y"]}));
        assert!(picked == "x" || picked == "y");
        assert_eq!(
            make(&json!({"oneOf": [{"type": "null"}, {"type": "string"}]})),
            Value::Null
        );
        assert!(make(&json!({"type": ["boolean", "null"]})).is_boolean());
        let list = make(&json!({"type": "array", "minItems": 3, "maxItems": 3,
            "uniqueItems": true, "items": {"type": "integer", "minimum": 1, "maximum": 3}}));
        assert_eq!(list.as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn numbers_stay_inside_their_bounds() {
        for (schema, low, high) in [
            (
                json!({"type": "number", "minimum": 0, "maximum": 1}),
                0.0,
                1.0,
            ),
            (
                json!({"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 6}),
                5.0,
                5.0,
            ),
            (
                json!({"type": "integer", "minimum": 10, "multipleOf": 7}),
                14.0,
                200.0,
            ),
            (json!({"type": "number", "maximum": -5}), -200.0, -5.0),
        ] {
            for seed in 0..50 {
                let made = instance(&schema, seed, PromptHash(seed));
                let number = made.as_f64().expect("a number");
                assert!(low <= number && number <= high, "{number} for {schema}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_pattern_has_a_sample_of_bounded_length(pattern in r"([ab().|*+?^$\\\[\]\-]|\{[0-9]{1,4}\}){0,40}") {
            let text = sample(&pattern, &mut Rng::new(1));
            proptest::prop_assert!(text.len() < 50 * LONGEST);
        }
    }

    #[test]
    fn patterns_are_sampled() {
        let text = make(&json!({"type": "string", "pattern": "^[A-Z]{3}-\\d{4}(x|y)?$"}));
        let text = text.as_str().expect("a string");
        assert_eq!(text.len(), 9, "{text}");
        assert!(text[..3].bytes().all(|b| b.is_ascii_uppercase()));
        assert_eq!(&text[3..4], "-");
        assert!(text[4..8].bytes().all(|b| b.is_ascii_digit()));
        assert!(text.ends_with('x'));
    }
}
