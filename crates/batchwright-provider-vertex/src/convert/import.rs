//! What the import of a job's lines refuses, found before anything is uploaded: one such line fails the whole job
//! (fact: third-party captures of September 2026; the rules are those of a table's columns).

use super::invalid;
use batchwright_core::Result;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// How deep a line may be nested.
const DEEPEST: usize = 15;

/// Looks at a line that is JSON.
pub(crate) fn check_line(line: &[u8]) -> Result<()> {
    let mut json = serde_json::Deserializer::from_slice(line);
    Walk(0).walk(&mut json).map_err(|error| {
        let text = error.to_string();
        // The text of the rule, without the place that serde_json adds.
        let rule = RULES.iter().find(|rule| text.starts_with(**rule));
        invalid(format!(
            "encode the request: {}, which fails the whole batch; a direct call may hold it",
            rule.copied().unwrap_or("the line is not JSON")
        ))
    })
}

const DEEP: &str = "it is nested deeper than 15 levels";
const EMPTY: &str = "it holds an empty object";
const NAME: &str = "it holds a key that is no name of a column (letters, digits and underscores)";
const NULL: &str = "it holds a null";
const RULES: [&str; 4] = [DEEP, EMPTY, NAME, NULL];

/// A value at this depth.
#[derive(Clone, Copy)]
struct Walk(usize);

impl Walk {
    fn walk<'de, D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> serde::de::DeserializeSeed<'de> for Walk {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        self.walk(from)
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    /// Fine by itself, and refused where another line has a list at the same place.
    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Err(E::custom(NULL))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if self.0 >= DEEPEST {
            return Err(A::Error::custom(DEEP));
        }
        let mut fields = 0;
        while let Some(Column) = map.next_key()? {
            map.next_value_seed(Self(self.0 + 1))?;
            fields += 1;
        }
        if fields == 0 {
            return Err(A::Error::custom(EMPTY));
        }
        Ok(())
    }
}

/// A key that may be a column.
struct Column;

impl<'de> Deserialize<'de> for Column {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Column;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Column, E> {
                let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
                let word = name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                if begins && word && name.len() <= 300 {
                    Ok(Column)
                } else {
                    Err(E::custom(NAME))
                }
            }
        }
        from.deserialize_str(Name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_no_table_holds_is_refused_by_its_rule() {
        let deep = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({ "a": [inner] }));
        for (line, rule) in [
            (
                json!({"request": {"tools": [{"googleSearch": {}}]}}),
                Some(EMPTY),
            ),
            (json!({"$schema": "x"}), Some(NAME)),
            (json!({"a b": "x"}), Some(NAME)),
            (json!({"ä": "x"}), Some(NAME)),
            (json!({"a": null}), Some(NULL)),
            (deep(16), Some(DEEP)),
            (deep(15), None),
            (
                json!({"a": [], "b": "ä $ ", "c": [{"d_1": 1.5}], "e": true}),
                None,
            ),
        ] {
            let checked = check_line(line.to_string().as_bytes());
            match rule {
                None => checked.unwrap(),
                Some(rule) => assert!(checked.unwrap_err().message().contains(rule), "{line}"),
            }
        }
        assert!(check_line(b"{").is_err());
        let shown =
            check_line(json!({"CANARY x": Value::Null}).to_string().as_bytes()).unwrap_err();
        assert!(!shown.to_string().contains("CANARY"), "F-191");
    }
}
