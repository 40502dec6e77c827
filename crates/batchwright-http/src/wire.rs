//! Lenient readers of vendors' JSON: what is odd is absent, and never spoils what stands around it.
//!
//! Three rules: a field nobody needs never spoils an answer, `null` means absent (F-054), and a number of an odd form
//! is unknown rather than wrong (F-057). The readers of fields are for `deserialize_with`, beside `default`:
//!
//! ```
//! use batchwright_core::Timestamp;
//! use batchwright_http::wire;
//!
//! #[derive(serde::Deserialize)]
//! struct Batch {
//!     #[serde(default, deserialize_with = "wire::word")]
//!     id: Option<String>,
//!     #[serde(default, deserialize_with = "wire::int64")]
//!     request_count: Option<u64>,
//!     #[serde(default, deserialize_with = "wire::instant")]
//!     created_at: Option<Timestamp>,
//! }
//! let batch: Batch = serde_json::from_str(
//!     r#"{"id":7,"request_count":"2","created_at":"2026-11-22T09:00:00.5Z"}"#,
//! )?;
//! assert_eq!((batch.id.as_deref(), batch.request_count), (Some("7"), Some(2)));
//! assert_eq!(batch.created_at, Some(Timestamp::from_unix_millis(1_795_338_000_500)));
//! # Ok::<(), serde_json::Error>(())
//! ```

use batchwright_core::{Request, Timestamp};
use serde::{Deserialize, Deserializer, de::Visitor};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt};

/// A text, or a number kept as its digits (ids may be integers beyond 2^53); anything else is absent.
///
/// # Errors
/// Where the JSON around it is broken.
pub fn word<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let raw = Option::<&'de RawValue>::deserialize(from)?;
    Ok(raw.and_then(|raw| match raw.get().as_bytes().first()? {
        b'"' => text(raw),
        b'-' | b'0'..=b'9' => Some(raw.get().to_owned()),
        _ => None,
    }))
}

/// A whole number of at least 0; a float, a text or a negative number is unknown (F-057).
///
/// # Errors
/// Where the JSON around it is broken.
pub fn count<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let raw = Option::<&'de RawValue>::deserialize(from)?;
    Ok(raw.and_then(|raw| raw.get().parse().ok()))
}

/// As [`count`], and a decimal text too, as ProtoJSON writes 64 bits; Google's `"-1"` for unknown is unknown.
///
/// # Errors
/// Where the JSON around it is broken.
pub fn int64<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let raw = Option::<&'de RawValue>::deserialize(from)?;
    Ok(raw.and_then(|raw| unquoted(raw).parse().ok()))
}

/// An instant: RFC 3339, or whole seconds or milliseconds since the epoch, as a number or a decimal text.
///
/// # Errors
/// Where the JSON around it is broken.
pub fn instant<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let raw = Option::<&'de RawValue>::deserialize(from)?;
    Ok(raw.and_then(|raw| {
        let text = unquoted(raw);
        match text.parse::<i64>() {
            Ok(count) => (count > 0).then(|| since_epoch(count)),
            Err(_) => {
                let at: jiff::Timestamp = text.parse().ok()?;
                Some(Timestamp::from_unix_millis(at.as_millisecond()))
            }
        }
    }))
}

/// Seconds, or milliseconds from servers that count so: no batch is from the year 5138 (F-057).
fn since_epoch(count: i64) -> Timestamp {
    if count < 100_000_000_000 {
        Timestamp::from_unix_seconds(count)
    } else {
        Timestamp::from_unix_millis(count)
    }
}

/// What stands between the quotes of a text without escapes, or the JSON itself.
fn unquoted(raw: &RawValue) -> &str {
    let json = raw.get();
    json.strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(json)
}

/// The text a raw JSON text holds. A lone surrogate becomes U+FFFD: a paid answer is not thrown away for
/// it, and the raw body still has it (F-059).
pub fn text(raw: &RawValue) -> Option<String> {
    struct Lossy;
    impl Visitor<'_> for Lossy {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text")
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<String, E> {
            Ok(String::from_utf8_lossy(bytes).into_owned())
        }
    }
    if !raw.get().starts_with('"') {
        return None;
    }
    serde_json::from_str(raw.get()).ok().or_else(|| {
        serde_json::Deserializer::from_str(raw.get())
            .deserialize_bytes(Lossy)
            .ok()
    })
}

/// The text of a field that is there and not empty.
pub fn some_text(raw: Option<&RawValue>) -> Option<String> {
    raw.and_then(text).filter(|text| !text.is_empty())
}

/// Reads a field whose oddness must not spoil what stands around it.
pub fn lenient<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
}

/// A body that is a JSON object, as text; `None` for anything else.
pub fn some_object(body: &[u8]) -> Option<&str> {
    let body = str::from_utf8(body).ok()?;
    body.trim_start().starts_with('{').then_some(body)
}

/// A result line as text, and whether that is all of it: without a byte order mark, and as far as it is UTF-8, since an
/// id is ASCII of ours and stands first. `None` where not even its beginning is.
pub fn line_text(line: &[u8]) -> Option<(&str, bool)> {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    match str::from_utf8(line) {
        Ok(line) => Some((line, true)),
        Err(error) => {
            let line = str::from_utf8(&line[..error.valid_up_to()]).ok()?;
            Some((line, false))
        }
    }
}

/// About how many bytes a request's body gets: its texts and some room, so that most are written without growing.
pub fn size_hint(request: &Request) -> usize {
    let bytes = request.estimated_input_tokens().saturating_mul(4);
    usize::try_from(bytes).unwrap_or(0).saturating_add(256)
}

/// Appends a text as JSON, quotes included.
pub fn push_text(text: &str, json: &mut Vec<u8>) {
    serde_json::to_writer(json, text).expect("a text is JSON, and memory takes it");
}

/// A JSON text borrowed where it holds no escape.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
#[expect(clippy::exhaustive_structs, reason = "a text and nothing else")]
pub struct BorrowedText<'a>(#[serde(borrow)] pub Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[derive(Deserialize)]
    struct Odd {
        #[serde(default, deserialize_with = "word")]
        id: Option<String>,
        #[serde(default, deserialize_with = "count")]
        bytes: Option<u64>,
        #[serde(default, deserialize_with = "int64")]
        long: Option<u64>,
        #[serde(default, deserialize_with = "instant")]
        at: Option<Timestamp>,
    }

    fn read(json: &str) -> Odd {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn f_057_odd_numbers_are_unknown_and_big_ids_keep_their_digits() {
        for (json, bytes) in [
            (r#"{"bytes":7}"#, Some(7)),
            (r#"{"bytes":"7"}"#, None),
            (r#"{"bytes":7.5}"#, None),
            (r#"{"bytes":-7}"#, None),
            (r#"{"bytes":99999999999999999999999}"#, None),
            (r#"{"bytes":null}"#, None),
            (r#"{"bytes":{"a":[1]}}"#, None),
            ("{}", None),
        ] {
            assert_eq!(read(json).bytes, bytes, "{json}");
        }
        for (json, long) in [
            (r#"{"long":7}"#, Some(7)),
            (r#"{"long":"7"}"#, Some(7)),
            (r#"{"long":"-1"}"#, None),
            (r#"{"long":""}"#, None),
            (r#"{"long":null}"#, None),
        ] {
            assert_eq!(read(json).long, long, "{json}");
        }
        let id = |json: &str| read(json).id;
        assert_eq!(
            id(r#"{"id":123456789012345678901234567890}"#).as_deref(),
            Some("123456789012345678901234567890")
        );
        assert_eq!(id(r#"{"id":{"a":1}}"#), None);
        assert_eq!(id(r#"{"id":"a\"b"}"#).as_deref(), Some("a\"b"));
    }

    #[test]
    fn f_057_instants_in_every_form() {
        let millis = |at: &str| {
            let at = read(&format!(r#"{{"at":{at}}}"#)).at;
            at.map(Timestamp::as_unix_millis)
        };
        for at in [
            "1795338000",
            r#""1795338000""#,
            "1795338000000",
            r#""2026-11-22T09:00:00Z""#,
            r#""2026-11-22T09:00:00.000000000Z""#,
            r#""2026-11-22T10:00:00+01:00""#,
        ] {
            assert_eq!(millis(at), Some(1_795_338_000_000), "{at}");
        }
        for at in ["null", "0", "-5", r#""""#, r#""soon""#, "1.5", "{}"] {
            assert_eq!(millis(at), None, "{at}");
        }
    }

    #[test]
    fn f_059_a_lone_surrogate_costs_one_character_not_the_answer() {
        assert_eq!(
            text(&raw(r#""a\ud800b""#)).unwrap(),
            "a\u{fffd}\u{fffd}\u{fffd}b"
        );
        assert_eq!(text(&raw(r#""a\ud83d\ude00b""#)).unwrap(), "a😀b");
        assert_eq!(text(&raw("7")), None);
    }

    #[test]
    fn f_104_a_line_is_read_as_far_as_it_is_text() {
        assert_eq!(line_text(b"\xef\xbb\xbf{}"), Some(("{}", true)));
        assert_eq!(line_text(b"{\"a\xff"), Some(("{\"a", false)));
        let mut json = Vec::new();
        push_text("a\"b", &mut json);
        assert_eq!(json, br#""a\"b""#);
    }
}
