//! Quillmere's JSON. What is odd is absent, and never spoils what stands around it.

use batchwright_core::Timestamp;
use batchwright_http::wire;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

/// A prompt, as `POST /v3/asks` takes it and as the `ask` of a ream's line.
#[derive(Serialize)]
pub(crate) struct Ask<'a> {
    pub(crate) voice: &'a str,
    pub(crate) turns: Vec<Turn<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) daring: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) most_tokens: Option<u32>,
    /// The caller's own fields, laid over the others.
    #[serde(flatten)]
    pub(crate) extra: &'a Map<String, Value>,
}

#[derive(Serialize)]
pub(crate) struct Turn<'a> {
    pub(crate) by: &'static str,
    pub(crate) words: Vec<&'a str>,
}

/// An answer to an ask.
#[derive(Deserialize)]
pub(crate) struct Answer {
    #[serde(default, deserialize_with = "wire::word")]
    pub(crate) ask: Option<String>,
    #[serde(default, deserialize_with = "wire::word")]
    pub(crate) voice: Option<String>,
    #[serde(default, deserialize_with = "wire::word")]
    pub(crate) said: Option<String>,
    #[serde(default, deserialize_with = "wire::word")]
    pub(crate) ended: Option<String>,
    #[serde(default)]
    pub(crate) tokens: Tokens,
}

#[derive(Default, Deserialize)]
pub(crate) struct Tokens {
    #[serde(default, deserialize_with = "wire::count")]
    pub(crate) read: Option<u64>,
    #[serde(default, deserialize_with = "wire::count")]
    pub(crate) wrote: Option<u64>,
}

/// What every error answer holds, and a failed line of a sheet.
#[derive(Deserialize)]
pub(crate) struct Trouble {
    /// Of a line only: the status a direct ask would have had.
    #[serde(default, deserialize_with = "wire::count")]
    pub(crate) status: Option<u64>,
    #[serde(default, deserialize_with = "wire::word")]
    pub(crate) sort: Option<String>,
    #[serde(default, deserialize_with = "wire::word")]
    pub(crate) say: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Troubled {
    pub(crate) trouble: Trouble,
}

/// A stored input.
#[derive(Deserialize)]
pub(crate) struct Ream {
    #[serde(default, deserialize_with = "wire::count")]
    pub(crate) octets: Option<u64>,
}

/// The creation of a press.
#[derive(Serialize)]
pub(crate) struct NewPress<'a> {
    pub(crate) ream: &'a str,
    pub(crate) label: &'a str,
}

#[derive(Deserialize)]
pub(crate) struct Press {
    #[serde(default, deserialize_with = "wire::word")]
    pub(crate) press: Option<String>,
    #[serde(default, deserialize_with = "wire::word")]
    pub(crate) ream: Option<String>,
    #[serde(default, deserialize_with = "wire::word")]
    pub(crate) label: Option<String>,
    #[serde(default, deserialize_with = "wire::word")]
    pub(crate) stage: Option<String>,
    #[serde(default, deserialize_with = "wire::instant")]
    pub(crate) made: Option<Timestamp>,
    #[serde(default, deserialize_with = "wire::instant")]
    pub(crate) done: Option<Timestamp>,
    #[serde(default)]
    pub(crate) tally: Option<Tally>,
    #[serde(default, deserialize_with = "wire::word")]
    pub(crate) sheet: Option<String>,
    /// Why it was spoiled.
    #[serde(default)]
    pub(crate) why: Option<Trouble>,
}

#[derive(Deserialize)]
pub(crate) struct Tally {
    #[serde(default, deserialize_with = "wire::count")]
    pub(crate) asked: Option<u64>,
    #[serde(default, deserialize_with = "wire::count")]
    pub(crate) said: Option<u64>,
    #[serde(default, deserialize_with = "wire::count")]
    pub(crate) troubled: Option<u64>,
}

/// A page of the list of presses, newest first.
#[derive(Deserialize)]
pub(crate) struct Presses<'a> {
    #[serde(borrow)]
    pub(crate) presses: Vec<&'a RawValue>,
    /// Where the next page starts.
    #[serde(default, deserialize_with = "wire::word")]
    pub(crate) next: Option<String>,
}

/// A line of a sheet.
#[derive(Deserialize)]
pub(crate) struct SheetLine<'a> {
    #[serde(default, deserialize_with = "wire::word")]
    pub(crate) slip: Option<String>,
    #[serde(default, borrow)]
    pub(crate) answer: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) trouble: Option<&'a RawValue>,
    /// Why it was never asked: `halted` or `lapsed`.
    #[serde(default, deserialize_with = "wire::word")]
    pub(crate) unasked: Option<String>,
}
