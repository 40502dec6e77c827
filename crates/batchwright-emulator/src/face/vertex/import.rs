//! The import of a job's lines from Cloud Storage, which goes through a table with columns: what it refuses fails the
//! whole job.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::engine::Engine;

/// How deep a line may be nested.
const DEEPEST: usize = 15;

/// Columns seen so far, by job; a state of the engine.
#[derive(Debug, Default)]
pub(super) struct Columns(Mutex<HashMap<String, HashMap<String, Kind>>>);

/// What a column holds; texts, numbers and truth values are made to agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Scalar,
    Record,
    Repeated,
    Null,
}

/// Looks at line `number` of a job; the fault in words.
pub(super) fn check(engine: &Engine, job: &str, number: u64, line: &Value) -> Result<(), String> {
    let columns = engine.state::<Columns>();
    let mut columns = columns.0.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = columns.entry(job.to_owned()).or_default();
    if number == 1 {
        seen.clear();
    }
    let looked = walk(line, &mut String::new(), 0, seen);
    if looked.is_err() {
        columns.remove(job);
    }
    looked
}

/// Forgets a job's columns.
pub(super) fn done(engine: &Engine, job: &str) {
    let columns = engine.state::<Columns>();
    let mut columns = columns.0.lock().unwrap_or_else(PoisonError::into_inner);
    columns.remove(job);
}

fn walk(
    value: &Value,
    path: &mut String,
    depth: usize,
    seen: &mut HashMap<String, Kind>,
) -> Result<(), String> {
    if depth > DEEPEST {
        return Err(format!(
            "Too many nested fields at {path}: at most {DEEPEST} levels."
        ));
    }
    let kind = match value {
        Value::Null => Kind::Null,
        Value::Object(_) => Kind::Record,
        Value::Array(_) => Kind::Repeated,
        _ => Kind::Scalar,
    };
    match seen.get(path.as_str()).copied() {
        Some(known) if known == kind => {}
        None => {
            seen.insert(path.clone(), kind);
        }
        // A null agrees with all but a list.
        Some(Kind::Null) if kind != Kind::Repeated => {
            seen.insert(path.clone(), kind);
        }
        Some(known) if kind == Kind::Null && known != Kind::Repeated => {}
        Some(_) => return Err(format!("Field {path} has changed type.")),
    }
    match value {
        Value::Object(fields) => {
            if fields.is_empty() {
                return Err(format!("Unsupported empty struct type for field {path}."));
            }
            for (name, inner) in fields {
                let begins =
                    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
                let word = name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                if !begins || !word || name.len() > 300 {
                    return Err(format!("Invalid field name \"{name}\"."));
                }
                let len = path.len();
                path.push('.');
                path.push_str(name);
                walk(inner, path, depth + 1, seen)?;
                path.truncate(len);
            }
            Ok(())
        }
        Value::Array(items) => {
            let len = path.len();
            path.push_str("[]");
            for item in items {
                walk(item, path, depth, seen)?;
            }
            path.truncate(len);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A text as the import types it: numbers come back as numbers.
pub(super) fn retyped(value: &Value) -> Value {
    let Some(text) = value.as_str() else {
        return value.clone();
    };
    let digits = text.bytes().any(|byte| byte.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+' | b'e' | b'E'));
    match (digits, text.parse::<i64>(), text.parse::<f64>()) {
        (true, Ok(number), _) => Value::from(number),
        (true, _, Ok(number)) => Value::from(number),
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn import(lines: &[Value]) -> Result<(), String> {
        let mut seen = HashMap::new();
        lines
            .iter()
            .try_for_each(|line| walk(line, &mut String::new(), 0, &mut seen))
    }

    #[test]
    fn what_no_table_holds_is_refused() {
        let mut deep = json!(1);
        for _ in 0..16 {
            deep = json!({ "a": deep });
        }
        for lines in [
            vec![json!({"request": {"googleSearch": {}}})],
            vec![json!({"$schema": "x"})],
            vec![json!({"a b": "x"})],
            vec![deep],
            vec![json!({"type": "x"}), json!({"type": ["x", "null"]})],
            vec![json!({"list": [1]}), json!({"list": null})],
            vec![json!({"a": {"b": 1}}), json!({"a": "x"})],
        ] {
            assert!(import(&lines).is_err(), "{lines:?}");
        }
        let good = [
            json!({"a": 1, "b": null, "c": [{"text": "x"}, {"file": {"uri": "y"}}]}),
            json!({"a": "x", "b": {"c": 1}}),
        ];
        assert_eq!(import(&good), Ok(()));
    }

    #[test]
    fn numbers_in_texts_become_numbers() {
        for (text, typed) in [
            ("000000", json!(0)),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000.0)),
            ("k-000000", json!("k-000000")),
            ("e", json!("e")),
            ("", json!("")),
        ] {
            assert_eq!(retyped(&json!(text)), typed, "{text}");
        }
    }
}
