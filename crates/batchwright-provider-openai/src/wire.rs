//! OpenAI's JSON, named as OpenAI names it: borrowed going out, tolerant coming in.
//!
//! What comes in is read with three rules: a field nobody needs never spoils an answer, `null` means
//! absent (F-054), and a number of an odd form is unknown rather than wrong (F-057).

use batchwright_core::Timestamp;
use batchwright_http::wire::{BorrowedText, count, instant, word};
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, value::RawValue};
use std::{borrow::Cow, fmt};

// ---- what is sent ----

/// A part of a chat completion's message.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ChatPart<'a> {
    Text { text: &'a str },
    ImageUrl { image_url: ImageUrl<'a> },
    InputAudio { input_audio: InputAudio<'a> },
    File { file: FileRef<'a> },
}

#[derive(Serialize)]
pub(crate) struct ImageUrl<'a> {
    pub(crate) url: Address<'a>,
}

#[derive(Serialize)]
pub(crate) struct InputAudio<'a> {
    pub(crate) data: &'a str,
    pub(crate) format: &'static str,
}

/// A document: either `file_id`, or a name and its data.
#[derive(Default, Serialize)]
pub(crate) struct FileRef<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) filename: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file_data: Option<Address<'a>>,
}

/// A part of a response's input item.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ResponsesPart<'a> {
    InputText {
        text: &'a str,
    },
    OutputText {
        text: &'a str,
    },
    InputImage {
        #[serde(skip_serializing_if = "Option::is_none")]
        image_url: Option<Address<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        file_id: Option<&'a str>,
    },
    InputFile(FileRef<'a>),
}

/// A URL, or bytes as a `data:` URL written without building it first.
pub(crate) enum Address<'a> {
    Url(&'a str),
    Data {
        media_type: &'a str,
        base64: &'a str,
    },
}

impl Serialize for Address<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Url(url) => serializer.serialize_str(url),
            Self::Data { media_type, base64 } => {
                serializer.collect_str(&format_args!("data:{media_type};base64,{base64}"))
            }
        }
    }
}

/// A tool call inside an assistant's message.
#[derive(Serialize)]
pub(crate) struct ChatToolCall<'a> {
    pub(crate) id: &'a str,
    pub(crate) r#type: &'static str,
    pub(crate) function: CalledFunction<'a>,
}

#[derive(Serialize)]
pub(crate) struct CalledFunction<'a> {
    pub(crate) name: &'a str,
    pub(crate) arguments: &'a str,
}

/// The items of a response's input that are no messages.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ResponsesItem<'a> {
    FunctionCall {
        call_id: &'a str,
        name: &'a str,
        arguments: &'a str,
    },
    FunctionCallOutput {
        call_id: &'a str,
        output: &'a str,
    },
}

/// A function the model may call.
#[derive(Serialize)]
pub(crate) struct Function<'a> {
    pub(crate) name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<&'a str>,
    pub(crate) parameters: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) strict: Option<bool>,
}

/// A JSON schema the answer must obey.
#[derive(Serialize)]
pub(crate) struct Schema<'a> {
    pub(crate) name: &'a str,
    pub(crate) schema: &'a Value,
    pub(crate) strict: bool,
}

/// The body of a batch create.
#[derive(Serialize)]
pub(crate) struct CreateBatch<'a> {
    pub(crate) input_file_id: &'a str,
    pub(crate) endpoint: &'a str,
    pub(crate) completion_window: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metadata: Option<CreateMetadata<'a>>,
}

#[derive(Serialize)]
pub(crate) struct CreateMetadata<'a> {
    pub(crate) batchwright_tag: &'a str,
    pub(crate) batchwright_job: &'a str,
}

// ---- what is read ----

/// An answer of any inference endpoint: which fields are there tells which one it was.
#[derive(Default, Deserialize)]
pub(crate) struct Answer<'a> {
    #[serde(default, deserialize_with = "word")]
    pub(crate) id: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) model: Option<String>,
    #[serde(default, borrow)]
    pub(crate) error: Option<&'a RawValue>,
    /// Chat completions, and the old completions.
    #[serde(default, borrow)]
    pub(crate) choices: Option<Vec<Choice<'a>>>,
    /// Responses.
    #[serde(default, borrow)]
    pub(crate) output: Option<Vec<OutputItem<'a>>>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) status: Option<String>,
    #[serde(default, borrow)]
    pub(crate) incomplete_details: Option<&'a RawValue>,
    /// Embeddings, and images.
    #[serde(default)]
    pub(crate) data: Option<Vec<Datum>>,
    /// Moderations.
    #[serde(default)]
    pub(crate) results: Option<Vec<IgnoredAny>>,
    #[serde(default, borrow)]
    pub(crate) usage: Option<&'a RawValue>,
    /// Groq's own.
    #[serde(default, borrow)]
    pub(crate) x_groq: Option<&'a RawValue>,
}

/// A chat completion as nearly all are, for reading without a stop: each field that is used is of the form it is
/// documented in. Any other is left to [`Answer`], which is read in several steps.
///
/// Fields stand in the order of [`Answer`] and those below it.
#[derive(Deserialize)]
pub(crate) struct PlainAnswer<'a> {
    #[serde(default)]
    pub(crate) id: Option<String>,
    #[serde(default)]
    pub(crate) model: Option<String>,
    #[serde(default)]
    #[expect(dead_code, reason = "it is there to be empty")]
    pub(crate) error: (),
    #[serde(borrow)]
    pub(crate) choices: Vec<PlainChoice<'a>>,
    #[serde(default)]
    #[expect(dead_code, reason = "it is there to be empty")]
    pub(crate) output: (),
    #[serde(default)]
    #[expect(dead_code, reason = "it is there to be empty")]
    pub(crate) data: (),
    #[serde(default)]
    #[expect(dead_code, reason = "it is there to be empty")]
    pub(crate) results: (),
    #[serde(default)]
    pub(crate) usage: Option<PlainUsage>,
    #[serde(default)]
    #[expect(dead_code, reason = "it is there to be empty")]
    pub(crate) x_groq: (),
}

/// See [`PlainAnswer`].
#[derive(Deserialize)]
pub(crate) struct PlainChoice<'a> {
    #[serde(borrow)]
    pub(crate) message: PlainMessage<'a>,
    #[serde(default)]
    #[expect(dead_code, reason = "it is there to be empty")]
    pub(crate) text: (),
    #[serde(default, borrow)]
    pub(crate) finish_reason: Option<BorrowedText<'a>>,
    #[serde(default)]
    #[expect(dead_code, reason = "it is there to be empty")]
    pub(crate) error: (),
}

/// See [`PlainAnswer`].
#[derive(Deserialize)]
pub(crate) struct PlainMessage<'a> {
    #[serde(default)]
    pub(crate) content: Option<String>,
    #[serde(default, borrow)]
    pub(crate) refusal: Option<BorrowedText<'a>>,
    #[serde(default, borrow)]
    pub(crate) reasoning_content: Option<BorrowedText<'a>>,
    #[serde(default, borrow)]
    pub(crate) reasoning: Option<BorrowedText<'a>>,
    #[serde(default)]
    #[expect(dead_code, reason = "it is there to be empty")]
    pub(crate) tool_calls: NoCalls,
}

/// See [`PlainAnswer`].
#[derive(Default, Deserialize)]
pub(crate) struct PlainUsage {
    #[serde(default)]
    pub(crate) prompt_tokens: Option<u64>,
    #[serde(default)]
    pub(crate) completion_tokens: Option<u64>,
    #[serde(default)]
    pub(crate) input_tokens: Option<u64>,
    #[serde(default)]
    pub(crate) output_tokens: Option<u64>,
    #[serde(default)]
    pub(crate) prompt_tokens_details: Option<PlainDetails>,
    #[serde(default)]
    pub(crate) completion_tokens_details: Option<PlainDetails>,
    #[serde(default)]
    pub(crate) input_tokens_details: Option<PlainDetails>,
    #[serde(default)]
    pub(crate) output_tokens_details: Option<PlainDetails>,
    #[serde(default)]
    pub(crate) prompt_cache_hit_tokens: Option<u64>,
}

/// See [`PlainAnswer`].
#[derive(Default, Deserialize)]
pub(crate) struct PlainDetails {
    #[serde(default)]
    pub(crate) cached_tokens: Option<u64>,
    #[serde(default)]
    pub(crate) cache_write_tokens: Option<u64>,
    #[serde(default)]
    pub(crate) reasoning_tokens: Option<u64>,
}

/// No calls of tools: `null` or an empty list.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NoCalls;

impl<'de> Deserialize<'de> for NoCalls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Empty;
        impl<'de> Visitor<'de> for Empty {
            type Value = NoCalls;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("no calls of tools")
            }

            fn visit_unit<E>(self) -> Result<NoCalls, E> {
                Ok(NoCalls)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut calls: A) -> Result<NoCalls, A::Error> {
                match calls.next_element::<IgnoredAny>()? {
                    None => Ok(NoCalls),
                    Some(_) => Err(serde::de::Error::invalid_length(1, &self)),
                }
            }
        }
        deserializer.deserialize_any(Empty)
    }
}

/// What Groq says beside the answer.
#[derive(Default, Deserialize)]
pub(crate) struct XGroq<'a> {
    #[serde(default, deserialize_with = "word")]
    pub(crate) id: Option<String>,
    #[serde(default, borrow)]
    pub(crate) usage: Option<&'a RawValue>,
}

/// Which of Groq's memories prompt tokens were read from.
#[derive(Default, Deserialize)]
pub(crate) struct XGroqUsage {
    #[serde(default, deserialize_with = "count")]
    pub(crate) dram_cached_tokens: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) sram_cached_tokens: Option<u64>,
}

/// The error alone, for an answer whose other fields cannot be read.
#[derive(Deserialize)]
pub(crate) struct Envelope<'a> {
    #[serde(default, borrow)]
    pub(crate) error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(crate) struct Choice<'a> {
    #[serde(default, borrow)]
    pub(crate) message: Option<AnswerMessage<'a>>,
    /// Old completions, and some compatible servers (F-217).
    #[serde(default, borrow)]
    pub(crate) text: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) finish_reason: Option<String>,
    /// Routers put a fault of the model behind them here.
    #[serde(default, borrow)]
    pub(crate) error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(crate) struct AnswerMessage<'a> {
    /// A text, `null`, or a list of parts on some compatible servers.
    #[serde(default, borrow)]
    pub(crate) content: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) refusal: Option<&'a RawValue>,
    /// Visible reasoning of compatible servers; OpenAI sends none here.
    #[serde(default, borrow)]
    pub(crate) reasoning_content: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) reasoning: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) tool_calls: Option<Vec<AnswerToolCall<'a>>>,
}

#[derive(Deserialize)]
pub(crate) struct AnswerToolCall<'a> {
    #[serde(default, deserialize_with = "word")]
    pub(crate) id: Option<String>,
    #[serde(default, borrow)]
    pub(crate) function: Option<AnswerFunction<'a>>,
    #[serde(default, borrow)]
    pub(crate) custom: Option<AnswerFunction<'a>>,
}

#[derive(Deserialize)]
pub(crate) struct AnswerFunction<'a> {
    #[serde(default, deserialize_with = "word")]
    pub(crate) name: Option<String>,
    #[serde(default, borrow)]
    pub(crate) arguments: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) input: Option<&'a RawValue>,
}

/// An item of a response's output; what a field holds depends on the type, so most stay unread.
#[derive(Deserialize)]
pub(crate) struct OutputItem<'a> {
    #[serde(default, deserialize_with = "word")]
    pub(crate) r#type: Option<String>,
    #[serde(default, borrow)]
    pub(crate) content: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) summary: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) encrypted_content: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) call_id: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) name: Option<String>,
    #[serde(default, borrow)]
    pub(crate) arguments: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) input: Option<&'a RawValue>,
}

/// A part of a message of either API, or of a reasoning summary.
#[derive(Deserialize)]
pub(crate) struct AnswerPart<'a> {
    #[serde(default, borrow)]
    pub(crate) text: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) refusal: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(crate) struct IncompleteDetails {
    #[serde(default, deserialize_with = "word")]
    pub(crate) reason: Option<String>,
}

/// One vector of an embeddings answer, or one picture, which is not read.
#[derive(Deserialize)]
pub(crate) struct Datum {
    #[serde(default, deserialize_with = "count")]
    pub(crate) index: Option<u64>,
    #[serde(default)]
    pub(crate) embedding: Option<Vector>,
}

/// The counters of both APIs under both their names.
#[derive(Default, Deserialize)]
pub(crate) struct UsageWire<'a> {
    #[serde(default, deserialize_with = "count")]
    pub(crate) prompt_tokens: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) completion_tokens: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) input_tokens: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) output_tokens: Option<u64>,
    #[serde(default, borrow)]
    pub(crate) prompt_tokens_details: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) completion_tokens_details: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) input_tokens_details: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) output_tokens_details: Option<&'a RawValue>,
    /// DeepSeek's name for cached prompt tokens.
    #[serde(default, deserialize_with = "count")]
    pub(crate) prompt_cache_hit_tokens: Option<u64>,
}

#[derive(Default, Deserialize)]
pub(crate) struct UsageDetails {
    #[serde(default, deserialize_with = "count")]
    pub(crate) cached_tokens: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) cache_write_tokens: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) reasoning_tokens: Option<u64>,
}

/// A stored file.
#[derive(Deserialize)]
pub(crate) struct FileObject {
    #[serde(default, deserialize_with = "word")]
    pub(crate) id: Option<String>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) bytes: Option<u64>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) filename: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) status: Option<String>,
}

/// A page of a list. Its entries are read one by one, so that one odd entry is seen as such.
#[derive(Deserialize)]
pub(crate) struct Page<'a> {
    #[serde(borrow)]
    pub(crate) data: Vec<&'a RawValue>,
    #[serde(default)]
    pub(crate) has_more: Option<bool>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) last_id: Option<String>,
    #[serde(default)]
    pub(crate) paging: Option<PagingWire>,
}

impl<'a> Page<'a> {
    /// A list that comes alone.
    pub(crate) fn of(data: Vec<&'a RawValue>) -> Self {
        Self {
            data,
            has_more: None,
            last_id: None,
            paging: None,
        }
    }
}

/// How a list with cursors goes on.
#[derive(Deserialize)]
pub(crate) struct PagingWire {
    #[serde(default, deserialize_with = "word")]
    pub(crate) next_cursor: Option<String>,
}

/// The answer to a creation at Together: the batch is within.
#[derive(Deserialize)]
pub(crate) struct CreatedJob<'a> {
    #[serde(default, borrow)]
    pub(crate) job: Option<&'a RawValue>,
}

/// A batch.
#[derive(Deserialize)]
pub(crate) struct BatchObject<'a> {
    #[serde(default, deserialize_with = "word")]
    pub(crate) id: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) status: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) input_file_id: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) output_file_id: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) error_file_id: Option<String>,
    #[serde(default, borrow)]
    pub(crate) errors: Option<&'a RawValue>,
    /// Together's form of it: one text.
    #[serde(default, borrow)]
    pub(crate) error: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "instant")]
    pub(crate) created_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "instant")]
    pub(crate) completed_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "instant")]
    pub(crate) failed_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "instant")]
    pub(crate) expired_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "instant")]
    pub(crate) cancelled_at: Option<Timestamp>,
    #[serde(default, borrow)]
    pub(crate) request_counts: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) usage: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) metadata: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(crate) struct RequestCounts {
    #[serde(default, deserialize_with = "count")]
    pub(crate) total: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) completed: Option<u64>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) failed: Option<u64>,
}

#[derive(Deserialize)]
pub(crate) struct BatchMetadata {
    #[serde(default, deserialize_with = "word")]
    pub(crate) batchwright_tag: Option<String>,
}

/// `errors` of a batch as an object; clones send the bare list.
#[derive(Deserialize)]
pub(crate) struct BatchErrors<'a> {
    #[serde(default, borrow)]
    pub(crate) data: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
pub(crate) struct BatchError {
    #[serde(default, deserialize_with = "word")]
    pub(crate) code: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) message: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) param: Option<String>,
    #[serde(default, deserialize_with = "count")]
    pub(crate) line: Option<u64>,
}

/// `response` of a result line.
#[derive(Deserialize)]
pub(crate) struct RowResponse<'a> {
    #[serde(default, deserialize_with = "count")]
    pub(crate) status_code: Option<u64>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) request_id: Option<String>,
    #[serde(default, borrow)]
    pub(crate) body: Option<&'a RawValue>,
}

/// A result line, read key by key, so that a line that breaks off or contradicts itself still gives the
/// id it named before.
#[derive(Default)]
pub(crate) struct ResultLine<'a> {
    pub(crate) custom_id: Option<Cow<'a, str>>,
    pub(crate) response: Option<&'a RawValue>,
    pub(crate) error: Option<&'a RawValue>,
    /// What is wrong with the line as a whole.
    pub(crate) defect: Option<&'static str>,
    /// Two ids, or one that is no text: the line belongs to nobody.
    nobodys: bool,
}

impl<'a> ResultLine<'a> {
    /// Reads `line`; never fails, see [`ResultLine::defect`].
    pub(crate) fn read(line: &'a str) -> Self {
        let mut into = Self::default();
        let mut json = serde_json::Deserializer::from_str(line);
        let read = json
            .deserialize_map(ResultLineVisitor(&mut into))
            .and_then(|()| json.end());
        if read.is_err() {
            into.defect = Some("the line is not whole JSON");
        }
        if into.nobodys {
            into.custom_id = None;
        }
        into
    }
}

struct ResultLineVisitor<'v, 'a>(&'v mut ResultLine<'a>);

impl<'a> Visitor<'a> for ResultLineVisitor<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a result line")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let line = self.0;
        let mut keep = |slot: &mut Option<&'a RawValue>, value| {
            if slot.replace(value).is_some() {
                line.defect = Some("the line names a field twice");
            }
        };
        while let Some(key) = map.next_key::<Cow<'a, str>>()? {
            match &*key {
                "custom_id" => {
                    let raw: &'a RawValue = map.next_value()?;
                    // An id that is no text is none of ours: ours are texts and come back as sent.
                    let id = serde_json::from_str::<BorrowedText<'a>>(raw.get()).ok();
                    match (&line.custom_id, id) {
                        (Some(first), id) if id.as_ref().map(|id| &id.0) != Some(first) => {
                            line.nobodys = true;
                        }
                        (Some(_), _) => {}
                        (None, Some(id)) => line.custom_id = Some(id.0),
                        (None, None) => line.nobodys = true,
                    }
                }
                "response" => keep(&mut line.response, map.next_value()?),
                "error" => keep(&mut line.error, map.next_value()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// A vector as a list of numbers, or as base64 of little-endian `f32`s (`encoding_format: "base64"`).
pub(crate) struct Vector(pub(crate) Vec<f32>);

impl<'de> Deserialize<'de> for Vector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Vector;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of numbers or base64")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<Vector, A::Error> {
                let mut vector = Vec::new();
                while let Some(number) = numbers.next_element::<f32>()? {
                    vector.push(number);
                }
                Ok(Vector(vector))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vector, E> {
                floats_from_base64(text)
                    .map(Vector)
                    .ok_or_else(|| E::custom("not base64 of whole f32s"))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Standard base64, padded or not, of little-endian `f32`s; `None` for anything else.
fn floats_from_base64(text: &str) -> Option<Vec<f32>> {
    let text = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut held, mut bits) = (0_u32, 0_u32);
    for &symbol in text {
        let six = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = (held << 6) | u32::from(six);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    let mut floats = bytes.chunks_exact(4);
    let vector = floats
        .by_ref()
        .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
        .collect();
    floats.remainder().is_empty().then_some(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_read_from_numbers_and_from_base64() {
        let read = |json: &str| serde_json::from_str::<Vector>(json).map(|vector| vector.0);
        assert_eq!(read("[0.5,-2,1e-3]").unwrap(), [0.5, -2.0, 0.001]);
        // 1.0f32 and -2.0f32, little endian.
        assert_eq!(read(r#""AACAPwAAAMA=""#).unwrap(), [1.0, -2.0]);
        for odd in [r#""AACA""#, r#""AAC$PwAAAMA=""#, "{}", "[null]", r#"["a"]"#] {
            assert!(read(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_result_line_names_one_request_or_none() {
        let id = |line: &str| ResultLine::read(line).custom_id.map(Cow::into_owned);
        for (line, expected) in [
            (r#"{"custom_id":"a"}"#, Some("a")),
            (r#"{"custom_id":"a\u00e9 \n"}"#, Some("aé \n")),
            (r#"{"custom_id":"a","custom_id":"a"}"#, Some("a")),
            (r#"{"custom_id":"a","custom_id":"b"}"#, None),
            (r#"{"custom_id":"a","custom_id":7}"#, None),
            (r#"{"custom_id":7,"custom_id":"a"}"#, None),
            (r#"{"custom_id":"a","response":{"status_co"#, Some("a")),
            (r#"{"custom_id":"ab"#, None),
            (r#"{"custom_id":7}"#, None),
            (r#"{"response":{"custom_id":"a"}}"#, None),
            ("null", None),
            ("", None),
            ("[]", None),
        ] {
            assert_eq!(id(line).as_deref(), expected, "{line}");
        }
        assert!(ResultLine::read(r#"{"custom_id":"a"} x"#).defect.is_some());
        assert!(
            ResultLine::read(r#"{"custom_id":"a","error":null,"error":{}}"#)
                .defect
                .is_some()
        );
        assert!(ResultLine::read(r#"{"custom_id":"a"}"#).defect.is_none());
    }
}
