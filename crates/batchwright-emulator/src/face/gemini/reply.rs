//! Answers as `GenerateContentResponse`, whole or in pieces.

use serde_json::{Value, json};

use super::body::Prepared;
use crate::answer::{head, unit_vector};
use crate::batch::RowUsage;
use crate::chat::Said;
use crate::seed::id;

/// Pieces of a stream.
const PIECES: usize = 4;

/// The id of an answer.
pub(super) fn response_id(seed: u64, nonce: u64) -> String {
    id("", seed, 41, nonce)[..22].to_owned()
}

/// The whole answer.
pub(super) fn whole(prepared: &Prepared, response_id: &str) -> Value {
    let mut answer = json!({
        "usageMetadata": usage(&prepared.usage),
        "modelVersion": prepared.model.dated,
        "responseId": response_id,
    });
    let thought = prepared.usage.reasoning > 0;
    let mut parts = Vec::new();
    if prepared.shows_thoughts && thought {
        parts.push(
            json!({"text": format!("Thinking about [prompt:{}].", prepared.hash), "thought": true}),
        );
    }
    let reason = match &prepared.said {
        Said::Refusal(_) => {
            answer["promptFeedback"] = json!({"blockReason": "PROHIBITED_CONTENT"});
            return answer;
        }
        Said::Text(text) => {
            parts.push(json!({"text": text}));
            "STOP"
        }
        Said::CutShort(text) => {
            if !text.is_empty() {
                parts.push(json!({"text": text}));
            }
            "MAX_TOKENS"
        }
        Said::Filtered(text) => {
            parts.push(json!({"text": text}));
            "SAFETY"
        }
        Said::ToolCall { name, arguments } => {
            let args: Value = serde_json::from_str(arguments).unwrap_or_default();
            let mut part = json!({"functionCall": {"name": name, "args": args}});
            if prepared.model.name.starts_with("gemini-3") {
                part["functionCall"]["id"] = Value::from(format!("call-{}", &response_id[..8]));
            }
            if thought {
                part["thoughtSignature"] = Value::from(signature(prepared));
            }
            parts.push(part);
            "STOP"
        }
        Said::Vectors { .. } => return vector(prepared),
    };
    let mut content = json!({"role": "model"});
    if !parts.is_empty() {
        content["parts"] = Value::from(parts);
    }
    let mut candidate = json!({"content": content, "finishReason": reason, "index": 0});
    if reason == "SAFETY" {
        candidate["safetyRatings"] = json!([
            {"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": true},
        ]);
    }
    answer["candidates"] = Value::from(vec![candidate]);
    answer
}

/// An opaque text that must come back verbatim.
fn signature(prepared: &Prepared) -> String {
    crate::answer::base64(format!("thoughts of {}", prepared.hash).as_bytes())
}

/// The answer in pieces: the text is cut, and only the last piece has the reason.
pub(super) fn pieces(prepared: &Prepared, response_id: &str) -> Vec<Value> {
    let last = whole(prepared, response_id);
    let text = match &prepared.said {
        Said::Text(text) | Said::CutShort(text) if !text.is_empty() => text,
        _ => return vec![last],
    };
    let step = text.len().div_ceil(PIECES).max(1);
    let mut chunks = Vec::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let mut piece = head(rest, step);
        if piece.is_empty() {
            // A character that is longer than the step.
            piece = &rest[..rest.chars().next().map_or(rest.len(), char::len_utf8)];
        }
        rest = &rest[piece.len()..];
        let part = json!({"text": piece});
        let mut parts = vec![part];
        if chunks.is_empty()
            && let Some(thought) = last["candidates"][0]["content"]["parts"]
                .as_array()
                .filter(|parts| parts.len() > 1)
        {
            parts.insert(0, thought[0].clone());
        }
        let mut candidate = json!({"content": {"role": "model", "parts": parts}, "index": 0});
        let mut chunk = json!({
            "modelVersion": last["modelVersion"],
            "responseId": last["responseId"],
        });
        if rest.is_empty() {
            candidate["finishReason"] = last["candidates"][0]["finishReason"].clone();
            chunk["usageMetadata"] = last["usageMetadata"].clone();
        } else {
            let input = prepared.usage.input;
            chunk["usageMetadata"] = json!({"promptTokenCount": input, "totalTokenCount": input});
        }
        chunk["candidates"] = Value::from(vec![candidate]);
        chunks.push(chunk);
    }
    chunks
}

/// An `EmbedContentResponse` of a batch: its count is a text, as 64 bits are.
fn vector(prepared: &Prepared) -> Value {
    json!({
        "tokenCount": prepared.usage.input.to_string(),
        "embedding": embedding(prepared),
    })
}

/// The vector alone.
pub(super) fn embedding(prepared: &Prepared) -> Value {
    match &prepared.said {
        Said::Vectors { dimensions, .. } => {
            json!({"values": unit_vector(prepared.hash, *dimensions)})
        }
        _ => Value::Null,
    }
}

/// Counters; what is zero is left out.
fn usage(usage: &RowUsage) -> Value {
    let mut counts = json!({
        "promptTokenCount": usage.input,
        "totalTokenCount": usage.input + usage.output,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.input}],
    });
    for (name, count) in [
        ("cachedContentTokenCount", usage.cached),
        ("candidatesTokenCount", usage.output - usage.reasoning),
        ("thoughtsTokenCount", usage.reasoning),
    ] {
        if count > 0 {
            counts[name] = Value::from(count);
        }
    }
    counts
}
