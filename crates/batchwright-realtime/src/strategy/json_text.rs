//! JSON as models write it: alone, in a fence, between sentences.

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::{fmt, ops::Range};

/// The JSON values an answer may mean.
#[derive(Debug)]
pub(crate) enum Found {
    /// These, each with its place in the text; at least one.
    Values(Vec<(Range<usize>, Value)>),
    /// None; why the text is not JSON, without a word of it.
    Nothing(String),
}

/// Values looked at in one answer; who writes more does not answer.
const MOST_VALUES: usize = 16;
/// Places where a value is tried to be read, which bounds the time a text full of brackets takes.
const MOST_TRIES: usize = 64;

/// Finds them. The whole text, where it is one; else the objects and arrays that stand in it and in nothing else,
/// behind the last `</think>`.
pub(crate) fn find(text: &str) -> Found {
    let whole = text.trim_start_matches('\u{feff}').trim();
    let start = whole.as_ptr().addr() - text.as_ptr().addr();
    let error = match serde_json::from_str::<Strict>(whole) {
        Ok(Strict(value)) => return Found::Values(vec![(start..start + whole.len(), value)]),
        Err(error) => error,
    };
    let values = scan(text);
    if !values.is_empty() {
        return Found::Values(values);
    }
    Found::Nothing(match () {
        () if whole.is_empty() => "it is empty".to_owned(),
        () if whole.starts_with(['{', '[', '"']) => format!("it is not JSON: {error}"),
        () => "it holds no whole JSON value".to_owned(),
    })
}

fn scan(text: &str) -> Vec<(Range<usize>, Value)> {
    let mut values = Vec::new();
    let mut at = text.rfind("</think>").unwrap_or(0);
    // Within a value that cannot be read nothing counts: a part of an answer is not the answer.
    let mut depth = 0_usize;
    let mut tries = 0;
    while let Some(next) = text[at..].find(['{', '[', '}', ']']) {
        at += next;
        if matches!(text.as_bytes()[at], b'}' | b']') {
            depth = depth.saturating_sub(1);
            at += 1;
            continue;
        }
        if depth == 0 && tries < MOST_TRIES && values.len() < MOST_VALUES {
            tries += 1;
            let mut stream = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Strict>();
            if let Some(Ok(Strict(value))) = stream.next() {
                let end = at + stream.byte_offset();
                values.push((at..end, value));
                at = end;
                continue;
            }
        }
        depth += 1;
        at += 1;
    }
    values
}

/// A value in which no key stands twice: which one would count is undefined.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
            }
            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_string<E>(self, value: String) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
                let mut all = Vec::new();
                while let Some(Strict(item)) = items.next_element()? {
                    all.push(item);
                }
                Ok(Value::Array(all))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
                let mut all = Map::new();
                while let Some(key) = fields.next_key::<String>()? {
                    let Strict(value) = fields.next_value()?;
                    if all.insert(key, value).is_some() {
                        return Err(A::Error::custom("a key stands twice"));
                    }
                }
                Ok(Value::Object(all))
            }
        }
        deserializer.deserialize_any(Any).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(text: &str) -> Vec<&str> {
        match find(text) {
            Found::Values(values) => values
                .into_iter()
                .map(|(place, value)| {
                    let json = &text[place];
                    assert_eq!(serde_json::from_str::<Value>(json).unwrap(), value);
                    json
                })
                .collect(),
            Found::Nothing(_) => Vec::new(),
        }
    }

    #[test]
    fn a_39_json_is_found_where_models_put_it() {
        let cases: &[(&str, &[&str])] = &[
            ("{\"a\":1}", &["{\"a\":1}"]),
            ("\u{feff} {\"a\":1}\n", &["{\"a\":1}"]),
            ("7", &["7"]),
            ("\"x { y\"", &["\"x { y\""]),
            ("```json\n{\"a\":1}\n```", &["{\"a\":1}"]),
            ("```json\n{\"a\":1}", &["{\"a\":1}"]),
            ("```\n[1,2]\n```\nHope it helps!", &["[1,2]"]),
            ("Sure: {\"a\":\"```\"} as {asked}.", &["{\"a\":\"```\"}"]),
            (
                "As in [1]: {\"a\":{\"b\":2}}",
                &["[1]", "{\"a\":{\"b\":2}}"],
            ),
            ("<think>{\"a\":0}?</think>{\"a\":1}", &["{\"a\":1}"]),
            // A part of what cannot be read is not the answer.
            ("{\"a\":1, oops, \"b\":{\"c\":2}}", &[]),
            ("{\"a\":[1,2", &[]),
            ("[{\"a\":1},{\"a\":", &[]),
            ("{\"a\":1,\"a\":2}", &[]),
            ("{\"a\":NaN}", &[]),
            ("no", &[]),
            ("", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(found(text), *expected, "{text}");
        }
    }

    #[test]
    fn f_191_why_it_is_no_json_holds_no_word_of_it() {
        for text in [
            "CANARY",
            "{\"CANARY\": CANARY",
            "{\"CANARY\":1,\"CANARY\":2}",
            "",
        ] {
            let Found::Nothing(why) = find(text) else {
                panic!("{text}")
            };
            assert!(!why.contains("CANARY"), "{why}");
        }
    }

    #[test]
    fn brackets_without_end_take_no_time() {
        let text = "[".repeat(1 << 20);
        assert!(found(&text).is_empty());
        let text = "{[".repeat(1 << 19);
        assert!(found(&text).is_empty());
    }

    proptest! {
        #[test]
        fn whatever_a_model_says_is_read_without_a_panic(text in "([ a\"{}\\[\\]:,1é]|</think>|```){0,60}") {
            found(&text);
        }
    }
}
