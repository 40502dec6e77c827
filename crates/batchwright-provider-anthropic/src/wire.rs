//! Anthropic's JSON, named as Anthropic names it: borrowed going out, tolerant coming in.
//!
//! What comes in is read with three rules: a field nobody needs never spoils an answer, `null` means
//! absent (F-054), and a number of an odd form is unknown rather than wrong (F-057).

use batchwright_core::Timestamp;
use batchwright_http::wire::{BorrowedText, count, instant, word};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use std::borrow::Cow;

// ---- what is sent ----

/// A block of a message.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Block<'a> {
    Text {
        text: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    Image {
        source: Source<'a>,
    },
    Document {
        source: Source<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<&'a str>,
    },
    Thinking {
        thinking: &'a str,
        signature: &'a str,
    },
    ToolUse {
        id: &'a str,
        name: &'a str,
        input: Cow<'a, RawValue>,
    },
    ToolResult {
        tool_use_id: &'a str,
        content: &'a str,
    },
}

/// Where a picture or a document is.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Source<'a> {
    Base64 { media_type: &'a str, data: &'a str },
    Url { url: &'a str },
    File { file_id: &'a str },
}

/// Asks for everything up to here to be cached.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct CacheControl {
    pub(crate) r#type: &'static str,
    pub(crate) ttl: &'static str,
}

/// A tool the model may call.
#[derive(Serialize)]
pub(crate) struct ToolWire<'a> {
    pub(crate) name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<&'a str>,
    pub(crate) input_schema: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) strict: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache_control: Option<CacheControl>,
}

/// Whether a tool must be called.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Choice<'a> {
    Auto,
    None,
    Any,
    Tool { name: &'a str },
}

/// How hard the model works, and the form of its answer.
#[derive(Serialize)]
pub(crate) struct OutputConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) effort: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) format: Option<Format<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Format<'a> {
    JsonSchema { schema: &'a Value },
}

// ---- what is read ----

/// A message.
#[derive(Deserialize)]
pub(crate) struct Answer<'a> {
    #[serde(default, deserialize_with = "word")]
    pub(crate) id: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) model: Option<String>,
    #[serde(default, borrow)]
    pub(crate) error: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) content: Option<Vec<&'a RawValue>>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) stop_reason: Option<String>,
    #[serde(default, borrow)]
    pub(crate) usage: Option<&'a RawValue>,
}

/// The error alone, for an answer whose other fields cannot be read.
#[derive(Deserialize)]
pub(crate) struct Envelope<'a> {
    #[serde(default, borrow)]
    pub(crate) error: Option<&'a RawValue>,
}

/// A block of an answer; what a field holds depends on the type.
#[derive(Deserialize)]
pub(crate) struct AnswerBlock<'a> {
    #[serde(default, deserialize_with = "word")]
    pub(crate) r#type: Option<String>,
    #[serde(default, borrow)]
    pub(crate) text: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) thinking: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) signature: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) id: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) name: Option<String>,
    #[serde(default, borrow)]
    pub(crate) input: Option<&'a RawValue>,
}

/// Token counters; input is what no cache was involved in.
#[derive(Default, Deserialize)]
pub(crate) struct UsageWire<'a> {
    #[serde(default, deserialize_with = "count")]
    pub(crate) input_tokens: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) output_tokens: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) cache_creation_input_tokens: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) cache_read_input_tokens: Option<u64>,
    #[serde(default, borrow)]
    pub(crate) output_tokens_details: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
pub(crate) struct OutputDetails {
    #[serde(default, deserialize_with = "count")]
    pub(crate) thinking_tokens: Option<u64>,
}

#[derive(Deserialize)]
pub(crate) struct TokenCount {
    #[serde(default, deserialize_with = "count")]
    pub(crate) input_tokens: Option<u64>,
}

/// A page of the list. Its entries are read one by one, so that one odd entry is seen as such.
#[derive(Deserialize)]
pub(crate) struct Page<'a> {
    #[serde(borrow)]
    pub(crate) data: Vec<&'a RawValue>,
    #[serde(default)]
    pub(crate) has_more: Option<bool>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) first_id: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) last_id: Option<String>,
}

/// A batch.
#[derive(Deserialize)]
pub(crate) struct BatchObject<'a> {
    #[serde(default, deserialize_with = "word")]
    pub(crate) id: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) processing_status: Option<String>,
    #[serde(default, borrow)]
    pub(crate) request_counts: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "instant")]
    pub(crate) created_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "instant")]
    pub(crate) ended_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "instant")]
    pub(crate) archived_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) results_url: Option<String>,
}

/// Five numbers that sum up to the batch.
#[derive(Clone, Copy, Default, Deserialize)]
pub(crate) struct RequestCounts {
    #[serde(default, deserialize_with = "count")]
    pub(crate) processing: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) succeeded: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) errored: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) canceled: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) expired: Option<u64>,
}

impl RequestCounts {
    /// All requests; `None` where one of the five is not told, since a sum without it would be another batch's.
    pub(crate) fn total(self) -> Option<u64> {
        [
            self.processing,
            self.succeeded,
            self.errored,
            self.canceled,
            self.expired,
        ]
        .into_iter()
        .try_fold(0_u64, |sum, part| sum.checked_add(part?))
    }
}

/// The id a result line begins with, also where the rest of it is broken.
#[derive(Default)]
pub(crate) struct ResultLine<'a> {
    pub(crate) custom_id: Option<Cow<'a, str>>,
    pub(crate) result: Option<&'a RawValue>,
    /// Why the rest of the line cannot be used.
    pub(crate) defect: Option<&'static str>,
}

#[derive(Deserialize)]
struct WholeLine<'a> {
    #[serde(borrow, default)]
    custom_id: Option<BorrowedText<'a>>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
}

impl<'a> ResultLine<'a> {
    /// Reads a line as far as it can be read.
    pub(crate) fn read(line: &'a str) -> Self {
        match serde_json::from_str::<WholeLine<'a>>(line) {
            Ok(WholeLine { custom_id, result }) => Self {
                custom_id: custom_id.map(|id| id.0),
                result,
                defect: None,
            },
            Err(_) => Self {
                custom_id: first_id(line),
                result: None,
                defect: Some("the line is not JSON of the known form"),
            },
        }
    }
}

/// The id of a broken line that begins as the vendor writes it.
fn first_id(line: &str) -> Option<Cow<'_, str>> {
    let rest = line.trim_start().strip_prefix('{')?.trim_start();
    let rest = rest.strip_prefix("\"custom_id\"")?.trim_start();
    let rest = rest.strip_prefix(':')?.trim_start();
    let mut texts = serde_json::Deserializer::from_str(rest).into_iter::<BorrowedText<'_>>();
    texts.next()?.ok().map(|id| id.0)
}

/// How a row ended.
#[derive(Deserialize)]
pub(crate) struct RowResult<'a> {
    #[serde(default, deserialize_with = "word")]
    pub(crate) r#type: Option<String>,
    #[serde(default, borrow)]
    pub(crate) message: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) error: Option<&'a RawValue>,
}

/// What goes around a row's error.
#[derive(Default, Deserialize)]
pub(crate) struct RowEnvelope {
    #[serde(default, deserialize_with = "word")]
    pub(crate) request_id: Option<String>,
}

/// What a raw body asks for that would change how its answer comes.
#[derive(Deserialize)]
pub(crate) struct RawAsks<'a> {
    #[serde(default, borrow)]
    pub(crate) stream: Option<&'a RawValue>,
    #[serde(default)]
    pub(crate) speed: Option<IgnoredAny>,
}
