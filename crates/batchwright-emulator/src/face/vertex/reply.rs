//! generateContent's answers.

use serde_json::{Map, Value, json};

use super::body::Prepared;
use crate::batch::RowUsage;
use crate::chat::Said;
use crate::clock::rfc3339;
use crate::seed::hex_id;

/// What makes an answer's ids and times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub(super) seed: u64,
    pub(super) nonce: u64,
    /// Direct 0, batch 1.
    pub(super) lane: u64,
    pub(super) at_ms: i64,
}

impl Stamp {
    /// The vendor's id of the answer.
    pub(super) fn response_id(self) -> String {
        let digits = hex_id(self.seed, 50 + self.lane, self.nonce);
        String::from_utf8_lossy(&digits[..22]).into_owned()
    }
}

/// The whole answer.
pub(super) fn whole(prepared: &Prepared, stamp: Stamp) -> Value {
    let (parts, reason) = content(&prepared.said);
    envelope(prepared, stamp, parts, reason, true)
}

/// The same in pieces, as a stream sends them: the last one has the reason and the usage.
pub(super) fn pieces(prepared: &Prepared, stamp: Stamp) -> Vec<Value> {
    let (parts, reason) = content(&prepared.said);
    let text = match parts.as_slice() {
        [part] => part["text"].as_str().filter(|text| text.len() > 1),
        _ => None,
    };
    let Some(text) = text else {
        return vec![envelope(prepared, stamp, parts, reason, true)];
    };
    let (head, tail) = text.split_at(text.floor_char_boundary(text.len() / 2).max(1));
    vec![
        envelope(prepared, stamp, vec![json!({ "text": head })], None, false),
        envelope(prepared, stamp, vec![json!({ "text": tail })], reason, true),
    ]
}

fn envelope(
    prepared: &Prepared,
    stamp: Stamp,
    parts: Vec<Value>,
    reason: Option<&str>,
    last: bool,
) -> Value {
    let model = if stamp.lane == 0 {
        prepared.model.name
    } else {
        prepared.model.dated
    };
    let mut answer = json!({
        "modelVersion": model,
        "createTime": rfc3339(stamp.at_ms),
        "responseId": stamp.response_id(),
    });
    if matches!(prepared.said, Said::Refusal(_)) {
        answer["promptFeedback"] = json!({
            "blockReason": "PROHIBITED_CONTENT",
            "blockReasonMessage": "The prompt is blocked due to prohibited contents",
        });
    } else {
        let mut content = json!({"role": "model"});
        // An answer that ran out of tokens while it thought has no parts.
        if !parts.is_empty() {
            content["parts"] = Value::Array(parts);
        }
        let mut candidate = json!({ "content": content });
        if let Some(reason) = reason {
            candidate["finishReason"] = json!(reason);
        }
        if reason == Some("STOP") {
            candidate["avgLogprobs"] = json!(-0.1);
        }
        answer["candidates"] = json!([candidate]);
    }
    if last {
        answer["usageMetadata"] = usage(prepared.usage);
    }
    answer
}

fn content(said: &Said) -> (Vec<Value>, Option<&'static str>) {
    let text = |text: &String| match text.as_str() {
        "" => Vec::new(),
        text => vec![json!({ "text": text })],
    };
    match said {
        Said::Text(said) => (text(said), Some("STOP")),
        Said::CutShort(said) => (text(said), Some("MAX_TOKENS")),
        Said::Filtered(said) => (text(said), Some("SAFETY")),
        Said::Refusal(_) | Said::Vectors { .. } => (Vec::new(), None),
        Said::ToolCall { name, arguments } => {
            let args: Value =
                serde_json::from_str(arguments).unwrap_or_else(|_| Value::Object(Map::new()));
            let call = json!({"functionCall": {"name": name, "args": args}});
            (vec![call], Some("STOP"))
        }
    }
}

/// Counters; what is zero is left out, as ProtoJSON does.
fn usage(usage: RowUsage) -> Value {
    let mut wire = json!({"promptTokenCount": usage.input, "trafficType": "ON_DEMAND"});
    wire["promptTokensDetails"] = json!([{"modality": "TEXT", "tokenCount": usage.input}]);
    let visible = usage.output - usage.reasoning;
    for (name, count) in [
        ("candidatesTokenCount", visible),
        ("thoughtsTokenCount", usage.reasoning),
        ("cachedContentTokenCount", usage.cached),
        ("totalTokenCount", usage.input + usage.output),
    ] {
        if count > 0 {
            wire[name] = json!(count);
        }
    }
    if visible > 0 {
        wire["candidatesTokensDetails"] = json!([{"modality": "TEXT", "tokenCount": visible}]);
    }
    wire
}
