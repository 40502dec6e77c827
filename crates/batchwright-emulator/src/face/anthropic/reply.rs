//! Answers as the wire shows them: whole, or as a stream of events.

use serde_json::{Value, json};

use super::body::{Prepared, Usage};
use super::error::ApiError;
use crate::chat::Said;
use crate::seed::id;

/// What an answer's ids are made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub(super) seed: u64,
    /// Different for every answer.
    pub(super) nonce: u64,
    pub(super) batch: bool,
}

impl Stamp {
    /// An id of a kind: the vendor's prefix and 22 digits.
    pub(super) fn id(&self, prefix: &str, kind: u64) -> String {
        let lane = if self.batch { 1_000 } else { 0 };
        short_id(prefix, self.seed, kind + lane, self.nonce)
    }
}

/// The vendor's ids have 22 digits behind their prefix.
pub(super) fn short_id(prefix: &str, seed: u64, kind: u64, sequence: u64) -> String {
    let mut text = id(prefix, seed, kind, sequence);
    text.truncate(prefix.len() + 22);
    text
}

/// The whole message.
pub(super) fn message(prepared: &Prepared, stamp: Stamp) -> Value {
    let mut message = head(prepared, stamp);
    message["content"] = Value::Array(blocks(prepared, stamp));
    let end = end(prepared);
    message["stop_reason"] = json!(end.reason);
    message["stop_sequence"] = json!(prepared.stopped_by);
    message["stop_details"] = end.details;
    message["usage"] = usage(&prepared.usage, stamp.batch);
    message
}

/// A message to which nothing was said yet.
fn head(prepared: &Prepared, stamp: Stamp) -> Value {
    json!({
        "id": stamp.id("msg_01", 51),
        "type": "message",
        "role": "assistant",
        "model": prepared.facts.model.dated,
        "content": [],
        "stop_reason": null,
        "stop_sequence": null,
        "stop_details": null,
        "container": null,
    })
}

fn usage(usage: &Usage, batch: bool) -> Value {
    json!({
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cache_creation_input_tokens": usage.cache.write_5m + usage.cache.write_1h,
        "cache_read_input_tokens": usage.cache.read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache.write_5m,
            "ephemeral_1h_input_tokens": usage.cache.write_1h,
        },
        "output_tokens_details": {"thinking_tokens": usage.thinking},
        "server_tool_use": null,
        "service_tier": if batch { "batch" } else { "standard" },
        "inference_geo": "global",
    })
}

fn blocks(prepared: &Prepared, stamp: Stamp) -> Vec<Value> {
    let thought = prepared.thought.as_ref().map(|thought| {
        json!({"type": "thinking", "thinking": thought.text, "signature": thought.signature})
    });
    let said = match &prepared.said {
        None | Some(Said::Vectors { .. }) => None,
        Some(
            Said::Text(text) | Said::CutShort(text) | Said::Filtered(text) | Said::Refusal(text),
        ) => Some(json!({"type": "text", "text": text, "citations": null})),
        Some(Said::ToolCall { name, arguments }) => Some(json!({
            "type": "tool_use",
            "id": stamp.id("toolu_01", 52),
            "name": name,
            "input": serde_json::from_str::<Value>(arguments).unwrap_or_default(),
            "caller": {"type": "direct"},
        })),
    };
    thought.into_iter().chain(said).collect()
}

struct End {
    reason: &'static str,
    details: Value,
}

fn end(prepared: &Prepared) -> End {
    let refusal = |category: Option<&str>| json!({"type": "refusal", "category": category, "explanation": null});
    let (reason, details) = match &prepared.said {
        None | Some(Said::CutShort(_)) => ("max_tokens", Value::Null),
        Some(Said::Refusal(_)) => ("refusal", refusal(None)),
        Some(Said::Filtered(_)) => ("refusal", refusal(Some("general_harms"))),
        Some(Said::ToolCall { .. }) => ("tool_use", Value::Null),
        Some(_) if prepared.stopped_by.is_some() => ("stop_sequence", Value::Null),
        Some(_) => ("end_turn", Value::Null),
    };
    End { reason, details }
}

/// The events of a stream, each with its blank line; `broken` ends it half way with an error.
pub(super) fn events(
    prepared: &Prepared,
    stamp: Stamp,
    broken: Option<(&ApiError, &str)>,
) -> Vec<Vec<u8>> {
    let mut events = Vec::new();
    let mut event = |data: Value| {
        let name = data["type"].as_str().unwrap_or_default();
        events.push(format!("event: {name}\ndata: {data}\n\n").into_bytes());
    };
    let mut start = head(prepared, stamp);
    start["usage"] = usage(
        &Usage {
            output: 1,
            thinking: 0,
            ..prepared.usage
        },
        stamp.batch,
    );
    event(json!({"type": "message_start", "message": start}));
    event(json!({"type": "ping"}));
    for (index, block) in blocks(prepared, stamp).into_iter().enumerate() {
        let (empty, deltas) = in_pieces(block);
        event(json!({"type": "content_block_start", "index": index, "content_block": empty}));
        for delta in deltas {
            event(json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
        event(json!({"type": "content_block_stop", "index": index}));
    }
    let end = end(prepared);
    event(json!({
        "type": "message_delta",
        "delta": {
            "stop_reason": end.reason,
            "stop_sequence": prepared.stopped_by,
            "stop_details": end.details,
            "container": null,
        },
        "usage": usage(&prepared.usage, stamp.batch),
    }));
    event(json!({"type": "message_stop"}));
    if let Some((error, request_id)) = broken {
        events.truncate(events.len() / 2);
        let body = error.body(request_id);
        events.push(format!("event: error\ndata: {body}\n\n").into_bytes());
    }
    events
}

/// A block without its content, and its content piece by piece.
fn in_pieces(mut block: Value) -> (Value, Vec<Value>) {
    let words = |text: &Value, kind: &str, key: &str| -> Vec<Value> {
        text.as_str()
            .unwrap_or_default()
            .split_inclusive(' ')
            .map(|word| json!({"type": kind, key: word}))
            .collect()
    };
    match block["type"].as_str() {
        Some("thinking") => {
            let text = block["thinking"].take();
            let signature = block["signature"].take();
            block["thinking"] = json!("");
            block["signature"] = json!("");
            let mut deltas = words(&text, "thinking_delta", "thinking");
            deltas.push(json!({"type": "signature_delta", "signature": signature}));
            (block, deltas)
        }
        Some("tool_use") => {
            let input = block["input"].take().to_string();
            block["input"] = json!({});
            let (left, right) = input.split_at(input.floor_char_boundary(input.len() / 2));
            let deltas = ["", left, right]
                .map(|piece| json!({"type": "input_json_delta", "partial_json": piece}));
            (block, deltas.into())
        }
        _ => {
            let text = block["text"].take();
            block["text"] = json!("");
            (block, words(&text, "text_delta", "text"))
        }
    }
}
