//! Google's JSON, named as Google names it: borrowed going out, tolerant coming in.
//!
//! What comes in is read with three rules: a field nobody needs never spoils an answer, `null` means absent (F-054),
//! and a number of an odd form is unknown rather than wrong (F-057). ProtoJSON leaves out what is zero or empty, and
//! writes 64 bits as texts.

use batchwright_core::Timestamp;
use batchwright_http::wire::{BorrowedText, count, instant, int64, lenient, word};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer as _, Serialize};
use serde_json::{Value, value::RawValue};
use std::fmt;

// ---- what is sent ----

/// A turn, or the system's instruction.
#[derive(Serialize)]
pub(crate) struct Content<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'static str>,
    pub(crate) parts: Vec<Part<'a>>,
}

/// A piece of a turn: one of its kinds, and what modifies it.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Part<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inline_data: Option<Blob<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file_data: Option<FileData<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) function_call: Option<FunctionCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) function_response: Option<FunctionResponse<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) thought: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) thought_signature: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Blob<'a> {
    pub(crate) mime_type: &'a str,
    pub(crate) data: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FileData<'a> {
    pub(crate) file_uri: &'a str,
}

#[derive(Serialize)]
pub(crate) struct FunctionCall<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<&'a str>,
    pub(crate) name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) args: Option<&'a RawValue>,
}

#[derive(Serialize)]
pub(crate) struct FunctionResponse<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<&'a str>,
    pub(crate) name: &'a str,
    pub(crate) response: ToolAnswer<'a>,
}

/// A tool's answer is an object here: its own, or one around its text.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum ToolAnswer<'a> {
    Object(&'a RawValue),
    Text { result: &'a str },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tools<'a> {
    pub(crate) function_declarations: Vec<FunctionDeclaration<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FunctionDeclaration<'a> {
    pub(crate) name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<&'a str>,
    pub(crate) parameters_json_schema: &'a Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ToolConfig<'a> {
    pub(crate) function_calling_config: FunctionCallingConfig<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FunctionCallingConfig<'a> {
    pub(crate) mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allowed_function_names: Option<[&'a str; 1]>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GenerationConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_output_tokens: Option<u32>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub(crate) stop_sequences: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response_mime_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response_json_schema: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) thinking_config: Option<ThinkingConfig>,
}

/// A budget for models up to 2.5, a level for later ones; both together are refused.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ThinkingConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) thinking_budget: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) thinking_level: Option<&'static str>,
}

/// `batchGenerateContent` over an uploaded file.
#[derive(Serialize)]
pub(crate) struct CreateBatch<'a> {
    pub(crate) batch: NewBatch<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewBatch<'a> {
    pub(crate) display_name: &'a str,
    pub(crate) input_config: InputConfigOut<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InputConfigOut<'a> {
    pub(crate) file_name: &'a str,
}

/// The start of an upload.
#[derive(Serialize)]
pub(crate) struct StartUpload<'a> {
    pub(crate) file: NewFile<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewFile<'a> {
    pub(crate) display_name: &'a str,
}

// ---- what is read ----

/// A `GenerateContentResponse`, a chunk of one, or one of the embedding responses.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer<'a> {
    #[serde(default, borrow)]
    pub(crate) error: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) candidates: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) prompt_feedback: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) usage_metadata: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) model_version: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) response_id: Option<String>,
    #[serde(default, borrow)]
    pub(crate) embedding: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) embeddings: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "int64")]
    pub(crate) token_count: Option<u64>,
}

/// The error alone, for an answer whose other fields cannot be read.
#[derive(Deserialize)]
pub(crate) struct Envelope<'a> {
    #[serde(default, borrow)]
    pub(crate) error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Candidate<'a> {
    #[serde(default, borrow)]
    pub(crate) content: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
pub(crate) struct AnswerContent<'a> {
    #[serde(default, borrow)]
    pub(crate) parts: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AnswerPart<'a> {
    #[serde(default, borrow)]
    pub(crate) text: Option<&'a RawValue>,
    #[serde(default)]
    pub(crate) thought: Option<bool>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) thought_signature: Option<String>,
    #[serde(default, borrow)]
    pub(crate) function_call: Option<&'a RawValue>,
    #[serde(default)]
    pub(crate) inline_data: Option<AnswerBlob>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AnswerBlob {
    #[serde(default)]
    pub(crate) mime_type: String,
    #[serde(default)]
    pub(crate) data: String,
}

#[derive(Deserialize)]
pub(crate) struct AnswerCall<'a> {
    #[serde(default, deserialize_with = "word")]
    pub(crate) id: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) name: Option<String>,
    #[serde(default, borrow)]
    pub(crate) args: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PromptFeedback {
    #[serde(default, deserialize_with = "word")]
    pub(crate) block_reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UsageMetadata {
    #[serde(default, deserialize_with = "int64")]
    pub(crate) prompt_token_count: Option<u64>,
    #[serde(default, deserialize_with = "int64")]
    pub(crate) cached_content_token_count: Option<u64>,
    #[serde(default, deserialize_with = "int64")]
    pub(crate) candidates_token_count: Option<u64>,
    #[serde(default, deserialize_with = "int64")]
    pub(crate) thoughts_token_count: Option<u64>,
    #[serde(default, deserialize_with = "int64")]
    pub(crate) tool_use_prompt_token_count: Option<u64>,
    #[serde(default, deserialize_with = "int64")]
    pub(crate) total_token_count: Option<u64>,
}

#[derive(Deserialize)]
pub(crate) struct Vector {
    pub(crate) values: Vec<f32>,
}

/// A result line of a file, or an inline response: the key stands at the top or in the metadata, in any order.
#[derive(Default)]
pub(crate) struct ResultLine<'a> {
    key: Option<&'a RawValue>,
    metadata: Option<&'a RawValue>,
    pub(crate) response: Option<&'a RawValue>,
    pub(crate) error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Keyed {
    #[serde(default, deserialize_with = "word")]
    key: Option<String>,
}

impl<'a> ResultLine<'a> {
    /// Reads a line as far as it is JSON, and says whether all of it is: a broken one may still name its request.
    pub(crate) fn read(text: &'a str) -> (Self, bool) {
        let mut line = Self::default();
        let mut json = serde_json::Deserializer::from_str(text);
        let whole = json.deserialize_map(Fill(&mut line)).is_ok() && json.end().is_ok();
        (line, whole)
    }

    /// The id it stands under.
    pub(crate) fn key(&self) -> Option<String> {
        let own = self.key.and_then(|raw| word(raw).ok().flatten());
        own.or_else(|| lenient::<Keyed>(self.metadata)?.key)
            .filter(|key| !key.is_empty())
    }
}

/// Puts what is read into a line, so that it stays when what follows cannot be read.
struct Fill<'l, 'a>(&'l mut ResultLine<'a>);

impl<'de> Visitor<'de> for Fill<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a result line")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<BorrowedText<'de>>()? {
            let slot = match &*name.0 {
                "key" => &mut self.0.key,
                "metadata" => &mut self.0.metadata,
                "response" => &mut self.0.response,
                "error" => &mut self.0.error,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            // The first of two counts.
            let raw: &'de RawValue = map.next_value()?;
            slot.get_or_insert(raw);
        }
        Ok(())
    }
}

/// A long-running operation, which is what a batch is shown as.
#[derive(Deserialize)]
pub(crate) struct Operation<'a> {
    #[serde(default, deserialize_with = "word")]
    pub(crate) name: Option<String>,
    #[serde(default, borrow)]
    pub(crate) metadata: Option<&'a RawValue>,
    #[serde(default)]
    pub(crate) done: Option<bool>,
    #[serde(default, borrow)]
    pub(crate) error: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) response: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BatchMetadata<'a> {
    #[serde(default, deserialize_with = "word")]
    pub(crate) display_name: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) state: Option<String>,
    #[serde(default, deserialize_with = "instant")]
    pub(crate) create_time: Option<Timestamp>,
    #[serde(default, deserialize_with = "instant")]
    pub(crate) end_time: Option<Timestamp>,
    #[serde(default, borrow)]
    pub(crate) input_config: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) batch_stats: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) output: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InputConfig {
    #[serde(default, deserialize_with = "word")]
    pub(crate) file_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BatchStats {
    #[serde(default, deserialize_with = "int64")]
    pub(crate) request_count: Option<u64>,
    #[serde(default, deserialize_with = "int64")]
    pub(crate) successful_request_count: Option<u64>,
    #[serde(default, deserialize_with = "int64")]
    pub(crate) failed_request_count: Option<u64>,
}

/// Where results are: a file, or here.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BatchOutput<'a> {
    #[serde(default, deserialize_with = "word")]
    pub(crate) responses_file: Option<String>,
    #[serde(default, borrow)]
    pub(crate) inlined_responses: Option<&'a RawValue>,
    #[serde(default, borrow)]
    pub(crate) inlined_embed_content_responses: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InlinedResponses {
    #[serde(default)]
    pub(crate) inlined_responses: Vec<IgnoredAny>,
}

/// `google.rpc.Status`, as an operation's or a row's error.
#[derive(Deserialize)]
pub(crate) struct RpcStatus {
    #[serde(default, deserialize_with = "count")]
    pub(crate) code: Option<u64>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) message: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OperationPage<'a> {
    #[serde(default, borrow)]
    pub(crate) operations: Vec<&'a RawValue>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) next_page_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FilePage<'a> {
    #[serde(default, borrow)]
    pub(crate) files: Vec<&'a RawValue>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) next_page_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FileObject {
    #[serde(default, deserialize_with = "word")]
    pub(crate) name: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) display_name: Option<String>,
    #[serde(default, deserialize_with = "int64")]
    pub(crate) size_bytes: Option<u64>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) state: Option<String>,
}

/// What an upload's last step answers.
#[derive(Deserialize)]
pub(crate) struct Uploaded {
    #[serde(default)]
    pub(crate) file: Option<FileObject>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CacheObject<'a> {
    #[serde(default, deserialize_with = "word")]
    pub(crate) name: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) model: Option<String>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) display_name: Option<String>,
    #[serde(default, deserialize_with = "instant")]
    pub(crate) create_time: Option<Timestamp>,
    #[serde(default, deserialize_with = "instant")]
    pub(crate) expire_time: Option<Timestamp>,
    #[serde(default, borrow)]
    pub(crate) usage_metadata: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CachePage<'a> {
    #[serde(default, borrow)]
    pub(crate) cached_contents: Vec<&'a RawValue>,
    #[serde(default, deserialize_with = "word")]
    pub(crate) next_page_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CountedTokens {
    #[serde(default, deserialize_with = "int64")]
    pub(crate) total_tokens: Option<u64>,
    #[serde(default, deserialize_with = "int64")]
    pub(crate) cached_content_token_count: Option<u64>,
}
