//! One record of the input.

use memchr::memchr;
use minijinja::value::{Enumerator, Object, ObjectExt, Value};
use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::{borrow::Cow, collections::HashMap, fmt, ops::Range, sync::Arc};

/// One record of the input: a record of a CSV file, a line of a JSONL file or an element of a JSON array.
///
/// Cloning is cheap, since the cells are shared. Its `Debug` shows sizes, never content.
#[derive(Clone)]
pub struct Row {
    number: u64,
    line: u64,
    cells: Arc<Cells>,
}

/// What a row holds, in the form it was read in.
enum Cells {
    Csv(CsvCells),
    Json(JsonCells),
}

/// The names of a CSV file's columns, shared by all its rows.
#[derive(Debug)]
pub(crate) struct Header {
    names: Vec<String>,
    places: HashMap<String, usize>,
}

/// The fields of one CSV record: their texts joined, and where each ends.
pub(crate) struct CsvCells {
    header: Arc<Header>,
    text: String,
    ends: Box<[usize]>,
}

/// One JSON object: its text as it came, and where in it each value is.
pub(crate) struct JsonCells {
    text: String,
    fields: Vec<(String, Range<usize>)>,
}

/// Why a text is no row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum JsonFault {
    /// Not JSON: line and column within the text, both from 1, and the parser's words.
    Syntax(usize, usize, String),
    /// JSON, but no object.
    NotAnObject,
    /// This key stands twice at the top.
    DuplicateKey(String),
    /// Half a surrogate pair at this byte of the text.
    LoneSurrogate(usize),
}

impl Row {
    pub(crate) fn csv(number: u64, line: u64, cells: CsvCells) -> Self {
        Self {
            number,
            line,
            cells: Arc::new(Cells::Csv(cells)),
        }
    }

    pub(crate) fn json(number: u64, line: u64, cells: JsonCells) -> Self {
        Self {
            number,
            line,
            cells: Arc::new(Cells::Json(cells)),
        }
    }

    /// A row of a CSV file with nothing in any of these columns, which are those of a header.
    pub(crate) fn empty(number: u64, line: u64, columns: &[String]) -> Self {
        let header = Header {
            names: columns.to_vec(),
            places: HashMap::new(),
        };
        let ends = vec![0; columns.len()].into_boxed_slice();
        Self::csv(
            number,
            line,
            CsvCells::new(Arc::new(header), String::new(), ends),
        )
    }

    /// The record's number, counted from 0; a row that could not be read counts too, so a row keeps its
    /// number whatever happens to the others. It is the row's id within a job.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The physical line it starts on, counted from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The names of its columns, in the order of the input.
    pub fn columns(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match &*self.cells {
            Cells::Csv(cells) => Box::new(cells.header.names.iter().map(String::as_str)),
            Cells::Json(cells) => Box::new(cells.fields.iter().map(|(name, _)| name.as_str())),
        }
    }

    /// A column's value as text: a field of CSV as it stands, a JSON string decoded, every other JSON
    /// value as it is written in the input, so numbers keep every digit. `None` where the row has no such
    /// column or it holds `null`.
    pub fn text(&self, column: &str) -> Option<Cow<'_, str>> {
        match &*self.cells {
            Cells::Csv(cells) => cells.get(column).map(Cow::Borrowed),
            Cells::Json(cells) => match cells.get(column)? {
                "null" => None,
                raw if raw.starts_with('"') => serde_json::from_str::<JsonText<'_>>(raw)
                    .ok()
                    .map(|text| text.0),
                raw => Some(Cow::Borrowed(raw)),
            },
        }
    }

    /// The JSON of a column as it is written in the input; `None` for rows of a CSV file.
    pub fn raw_json(&self, column: &str) -> Option<&str> {
        match &*self.cells {
            Cells::Csv(_) => None,
            Cells::Json(cells) => cells.get(column),
        }
    }

    /// The whole JSON object as it is written in the input; `None` for rows of a CSV file.
    pub fn json_text(&self) -> Option<&str> {
        match &*self.cells {
            Cells::Csv(_) => None,
            Cells::Json(cells) => Some(&cells.text),
        }
    }

    /// The fields of a CSV record in the order of the header; `None` for rows of other files.
    pub fn fields(&self) -> Option<impl Iterator<Item = &str>> {
        match &*self.cells {
            Cells::Csv(cells) => Some((0..cells.ends.len()).map(|place| cells.field(place))),
            Cells::Json(_) => None,
        }
    }

    /// About how many bytes of text it holds.
    pub fn len_bytes(&self) -> usize {
        match &*self.cells {
            Cells::Csv(cells) => cells.text.len(),
            Cells::Json(cells) => cells.text.len(),
        }
    }

    /// The keys of a JSON row and their values as written; empty for rows of a CSV file.
    pub(crate) fn json_fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let cells = match &*self.cells {
            Cells::Json(cells) => Some(cells),
            Cells::Csv(_) => None,
        };
        cells.into_iter().flat_map(|cells| {
            let text = &cells.text;
            cells
                .fields
                .iter()
                .map(move |(name, place)| (name.as_str(), &text[place.clone()]))
        })
    }

    /// What a template sees: every column by its name, and all of them as `row`.
    pub(crate) fn template_context(&self) -> Value {
        Value::from_object(Scope(Arc::clone(&self.cells)))
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Row({}, line {}, {} columns, {} bytes)",
            self.number,
            self.line,
            self.columns().count(),
            self.len_bytes()
        )
    }
}

impl Header {
    /// `Err` holds the place of the first empty name, or of the second of two equal ones.
    pub(crate) fn new(names: Vec<String>) -> Result<Self, usize> {
        let mut places = HashMap::with_capacity(names.len());
        for (place, name) in names.iter().enumerate() {
            if name.trim().is_empty() || places.insert(name.clone(), place).is_some() {
                return Err(place);
            }
        }
        Ok(Self { names, places })
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }
}

impl CsvCells {
    /// `ends` has one entry for each name of the header, none above `text.len()`, all at character
    /// boundaries.
    pub(crate) fn new(header: Arc<Header>, text: String, ends: Box<[usize]>) -> Self {
        Self { header, text, ends }
    }

    fn field(&self, place: usize) -> &str {
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[place]]
    }

    fn get(&self, column: &str) -> Option<&str> {
        let place = *self.header.places.get(column)?;
        Some(self.field(place))
    }
}

impl JsonCells {
    /// Reads one JSON object, keeping its text.
    pub(crate) fn parse(text: String) -> Result<Self, JsonFault> {
        // serde_json skips over escapes it need not decode, so these are looked for by hand.
        if let Some(place) = lone_surrogate(&text) {
            return Err(JsonFault::LoneSurrogate(place));
        }
        let first = text.trim_ascii_start().bytes().next();
        let mut json = serde_json::Deserializer::from_str(&text);
        let fields = serde::Deserializer::deserialize_any(&mut json, Fields { text: &text })
            .and_then(|fields| json.end().map(|()| fields));
        let fields = match fields {
            Ok(fields) => fields,
            Err(error) if error.is_data() && first != Some(b'{') => {
                return Err(JsonFault::NotAnObject);
            }
            Err(error) => return Err(JsonFault::syntax(&error)),
        };
        let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(JsonFault::DuplicateKey(pair[0].to_owned()));
        }
        Ok(Self { text, fields })
    }

    fn get(&self, column: &str) -> Option<&str> {
        let (_, place) = self.fields.iter().find(|(name, _)| name == column)?;
        Some(&self.text[place.clone()])
    }
}

impl JsonFault {
    fn syntax(error: &serde_json::Error) -> Self {
        // Syntax errors are fixed words; others may quote the input.
        let words = if error.is_syntax() || error.is_eof() {
            let text = error.to_string();
            let end = text.rfind(" at line ").unwrap_or(text.len());
            text[..end].to_owned()
        } else {
            "unexpected value".to_owned()
        };
        Self::Syntax(error.line().max(1), error.column(), words)
    }
}

/// A JSON string, borrowed where it holds no escapes.
struct JsonText<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for JsonText<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = JsonText<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(JsonText(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(JsonText(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Reads where the values of an object are.
struct Fields<'a> {
    text: &'a str,
}

impl<'de> Visitor<'de> for Fields<'de> {
    type Value = Vec<(String, Range<usize>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(Borrowed)?.get();
            // The value is a slice of the text, so the difference of the addresses is its place.
            let start = value.as_ptr().addr() - self.text.as_ptr().addr();
            fields.push((name, start..start + value.len()));
        }
        Ok(fields)
    }
}

/// Borrows a value's text from the input.
struct Borrowed;

impl<'de> DeserializeSeed<'de> for Borrowed {
    type Value = &'de RawValue;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        serde::Deserialize::deserialize(deserializer)
    }
}

/// The place of the first `\uD800`…`\uDFFF` that is not half of a pair.
fn lone_surrogate(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let unit = |at: usize| -> Option<u32> {
        let escape = bytes.get(at..at + 6)?;
        if !escape.starts_with(b"\\u") {
            return None;
        }
        u32::from_str_radix(str::from_utf8(&escape[2..]).ok()?, 16).ok()
    };
    let mut at = 0;
    while let Some(found) = memchr(b'\\', &bytes[at..]) {
        at += found;
        at += match unit(at) {
            Some(0xD800..=0xDBFF) => match unit(at + 6) {
                Some(0xDC00..=0xDFFF) => 12,
                _ => return Some(at),
            },
            Some(0xDC00..=0xDFFF) => return Some(at),
            Some(_) => 6,
            None => 2,
        };
        if at >= bytes.len() {
            break;
        }
    }
    None
}

/// The names a template may use.
#[derive(Debug)]
struct Scope(Arc<Cells>);

/// A row as a map of its own, under the name `row`.
#[derive(Debug)]
struct Whole(Arc<Cells>);

/// The name under which a template finds the whole row, unless a column has that name.
pub(crate) const WHOLE_ROW: &str = "row";

impl Object for Scope {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.0
            .value(key)
            .or_else(|| (key == WHOLE_ROW).then(|| Value::from_object(Whole(Arc::clone(&self.0)))))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.mapped_enumerator(|scope| scope.0.names())
    }
}

impl Object for Whole {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.value(key.as_str()?)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.mapped_enumerator(|whole| whole.0.names())
    }
}

impl Cells {
    /// A column's value for a template, copied only when asked for.
    fn value(&self, column: &str) -> Option<Value> {
        match self {
            Self::Csv(cells) => cells.get(column).map(Value::from),
            Self::Json(cells) => cells.get(column).map(json_value),
        }
    }

    fn names(&self) -> Box<dyn Iterator<Item = Value> + Send + Sync + '_> {
        match self {
            Self::Csv(cells) => Box::new(
                cells
                    .header
                    .names
                    .iter()
                    .map(|name| Value::from(name.as_str())),
            ),
            Self::Json(cells) => Box::new(
                cells
                    .fields
                    .iter()
                    .map(|(name, _)| Value::from(name.as_str())),
            ),
        }
    }
}

impl fmt::Debug for Cells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = match self {
            Self::Csv(cells) => cells.text.len(),
            Self::Json(cells) => cells.text.len(),
        };
        write!(f, "Cells({bytes} bytes)")
    }
}

/// A JSON value for a template. An integer too wide for the parser stays the text it is, since a float
/// would lose digits; what cannot be read (nesting beyond 128) fails where the template uses it.
fn json_value(raw: &str) -> Value {
    let is_integer = raw
        .strip_prefix('-')
        .unwrap_or(raw)
        .bytes()
        .all(|byte| byte.is_ascii_digit());
    if is_integer {
        return raw
            .parse::<i64>()
            .map(Value::from)
            .or_else(|_| raw.parse::<u64>().map(Value::from))
            .unwrap_or_else(|_| Value::from(raw));
    }
    serde_json::from_str(raw).unwrap_or_else(|_| {
        Value::from(minijinja::Error::new(
            minijinja::ErrorKind::CannotDeserialize,
            "the value is nested too deeply",
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Row {
        Row::json(0, 1, JsonCells::parse(text.to_owned()).unwrap())
    }

    #[test]
    fn f_172_numbers_keep_every_digit() {
        let row = row(r#"{"id":12345678901234567890123, "f": 1e400, "s": "a\n\"b", "n": null}"#);
        assert_eq!(row.text("id").unwrap(), "12345678901234567890123");
        assert_eq!(row.text("f").unwrap(), "1e400");
        assert_eq!(row.text("s").unwrap(), "a\n\"b");
        assert_eq!(row.text("n"), None);
        assert_eq!(row.raw_json("n"), Some("null"));
        assert_eq!(row.columns().collect::<Vec<_>>(), ["id", "f", "s", "n"]);
    }

    #[test]
    fn f_170_half_a_surrogate_pair_is_found_wherever_it_stands() {
        for (text, place) in [
            (r#"{"a":"\ud83d"}"#, Some(6)),
            (r#"{"a":"\ude00"}"#, Some(6)),
            (r#"{"a":{"b":"x\ud83dx"}}"#, Some(12)),
            (r#"{"a":"\ud83d\ud83d\ude00"}"#, Some(6)),
            (r#"{"a":"\ud83d\ude00"}"#, None),
            (r#"{"a":"\\ud83d"}"#, None),
            (r#"{"a":"\u00e9\\"}"#, None),
        ] {
            let fault = JsonCells::parse(text.to_owned()).err();
            assert_eq!(fault, place.map(JsonFault::LoneSurrogate), "{text}");
        }
    }

    #[test]
    fn f_178_a_key_twice_at_the_top_is_refused_and_case_counts() {
        let twice = JsonCells::parse(r#"{"a":1,"b":2,"\u0061":3}"#.to_owned());
        assert_eq!(twice.err(), Some(JsonFault::DuplicateKey("a".into())));
        assert!(JsonCells::parse(r#"{"a":1,"A":2}"#.to_owned()).is_ok());
    }

    #[test]
    fn what_is_no_object_is_told_apart_from_what_is_no_json() {
        for text in ["1", "[1]", "\"a\"", "null", "true"] {
            let fault = JsonCells::parse(text.to_owned()).err();
            assert_eq!(fault, Some(JsonFault::NotAnObject), "{text}");
        }
        for text in ["{", "{a:1}", "// note", "{\"a\":1},", "{\"a\":NaN}", ""] {
            let fault = JsonCells::parse(text.to_owned()).err();
            assert!(
                matches!(fault, Some(JsonFault::Syntax(..))),
                "{text}: {fault:?}"
            );
        }
    }

    #[test]
    fn f_191_debug_and_faults_show_sizes_never_content() {
        assert!(!format!("{:?}", row(r#"{"a":"CANARY"}"#)).contains("CANARY"));
        let fault = JsonCells::parse(r#""CANARY""#.to_owned()).err();
        assert!(!format!("{fault:?}").contains("CANARY"));
    }
}
