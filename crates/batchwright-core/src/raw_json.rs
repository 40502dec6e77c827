//! A vendor's JSON, kept as it came.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use std::fmt;

/// A JSON text as it came, white space around it left out.
///
/// Its `Debug` shows its size, never its content.
///
/// ```
/// use batchwright_core::RawJson;
///
/// #[derive(serde::Deserialize)]
/// struct Answer<'a> {
///     text: &'a str,
/// }
/// let (answer, raw) = RawJson::reading::<Answer<'_>>(r#"{"text":"blue", "more":1.50} "#)?;
/// assert_eq!(answer.text, "blue");
/// assert_eq!(raw.get(), r#"{"text":"blue", "more":1.50}"#);
/// assert!(RawJson::parse("{").is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RawJson(Box<str>);

impl RawJson {
    /// Keeps a text.
    ///
    /// # Errors
    /// Where it is no JSON.
    pub fn parse(text: impl Into<String>) -> serde_json::Result<Self> {
        RawValue::from_string(text.into()).map(Self::from)
    }

    /// Reads a value from a text and keeps the text, which is gone through once: who reads a value finds out whether
    /// all of it is JSON. A `Deserialize` that hides its deserializer's errors hides them here too.
    ///
    /// # Errors
    /// Where the text is no JSON, or none of the value's form.
    pub fn reading<'a, T: Deserialize<'a>>(text: &'a str) -> serde_json::Result<(T, Self)> {
        let value = serde_json::from_str(text)?;
        let text = text.trim_matches([' ', '\n', '\r', '\t']);
        Ok((value, Self(text.into())))
    }

    /// The text.
    pub fn get(&self) -> &str {
        &self.0
    }
}

impl From<Box<RawValue>> for RawJson {
    fn from(value: Box<RawValue>) -> Self {
        Self(value.into())
    }
}

impl From<&RawValue> for RawJson {
    fn from(value: &RawValue) -> Self {
        Self(value.get().into())
    }
}

impl Serialize for RawJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Self::from)
    }
}

impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawJson({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::IgnoredAny;

    #[test]
    fn what_is_kept_is_json_byte_for_byte() {
        for text in ["{\"a\": 1.50}", " [1,\t2]\r\n", "null", "\"\\ud800\""] {
            let (_, raw) = RawJson::reading::<IgnoredAny>(text).unwrap();
            assert_eq!(raw, RawJson::parse(text).unwrap(), "{text}");
            assert_eq!(raw.get(), text.trim());
            let again = serde_json::to_string(&[&raw]).unwrap();
            assert_eq!(again, format!("[{}]", text.trim()));
            let back: [RawJson; 1] = serde_json::from_str(&again).unwrap();
            assert_eq!(back, [raw]);
        }
        for text in ["", "{", "{}{}", "\u{a0}{}", "\"a\nb\"", "01"] {
            assert!(RawJson::parse(text).is_err(), "{text}");
            assert!(RawJson::reading::<IgnoredAny>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn f_191_debug_shows_sizes_never_content() {
        let raw = RawJson::parse("\"CANARY\"").unwrap();
        assert_eq!(format!("{raw:?}"), "RawJson(8 bytes)");
    }
}
