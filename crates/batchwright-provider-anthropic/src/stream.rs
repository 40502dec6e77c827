//! A streamed message put together again: events in, the message as it comes in one piece out.

use crate::error;
use batchwright_core::{Error, ErrorKind, Result, RetryClass};
use batchwright_http::{Secret, hollow};
use serde_json::{Map, Value};

/// A message as far as its events came. An event that is not understood changes nothing: new ones may be added.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    message: Map<String, Value>,
    blocks: Vec<Block>,
    whole: bool,
}

#[derive(Debug, Default)]
struct Block {
    value: Map<String, Value>,
    /// A tool's input, as JSON text that comes in pieces.
    input: String,
}

impl Assembly {
    /// Takes an event's data.
    ///
    /// # Errors
    /// The error the event tells (F-058): what was generated until then may have been paid. `ProviderFault` where the
    /// event is no JSON.
    pub(crate) fn take(&mut self, data: &str, key: &Secret) -> Result<()> {
        let Ok(Value::Object(mut event)) = serde_json::from_str::<Value>(data) else {
            return Err(hollow("read the answer: an event is not JSON"));
        };
        let object = |value: Option<Value>| match value {
            Some(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        match event.get("type").and_then(Value::as_str) {
            Some("message_start") => self.message = object(event.remove("message")),
            Some("content_block_start") => {
                let value = object(event.remove("content_block"));
                let block = self.block(&event)?;
                block.value = value;
            }
            Some("content_block_delta") => {
                let delta = object(event.remove("delta"));
                self.block(&event)?.grow(&delta);
            }
            Some("message_delta") => {
                self.message.extend(object(event.remove("delta")));
                let usage = object(event.remove("usage"));
                let counted = self.message.entry("usage").or_insert(Value::Null);
                if !counted.is_object() {
                    *counted = Value::Object(Map::new());
                }
                if let Some(counters) = counted.as_object_mut() {
                    // Cumulative; a counter that is not told keeps its value.
                    counters.extend(usage.into_iter().filter(|(_, value)| !value.is_null()));
                }
            }
            Some("message_stop") => self.whole = true,
            Some("error") => return Err(self.broken(data, key)),
            _ => {}
        }
        Ok(())
    }

    /// Whether the last event was there.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// The message as JSON.
    pub(crate) fn into_message(mut self) -> Result<Vec<u8>> {
        let blocks = self.blocks.into_iter().map(Block::finish).collect();
        self.message
            .insert("content".to_owned(), Value::Array(blocks));
        serde_json::to_vec(&self.message).map_err(|error| {
            Error::new(ErrorKind::Unexpected, "write the answer as JSON").with_source(error)
        })
    }

    /// The block an event is about: one that is there, or the next.
    fn block(&mut self, event: &Map<String, Value>) -> Result<&mut Block> {
        let index = event
            .get("index")
            .and_then(Value::as_u64)
            .and_then(|index| usize::try_from(index).ok());
        if index == Some(self.blocks.len()) {
            self.blocks.push(Block::default());
        }
        index
            .and_then(|index| self.blocks.get_mut(index))
            .ok_or_else(|| hollow("read the answer: an event is about no block"))
    }

    fn broken(&self, data: &str, key: &Secret) -> Error {
        let error = error::within(data, key)
            .unwrap_or_else(|| hollow("read the answer: the stream ended in an error"));
        match error.class() {
            // The call was let in, and something may have been generated.
            RetryClass::Rejected if !self.message.is_empty() => {
                error.with_class(RetryClass::Ambiguous)
            }
            _ => error,
        }
    }
}

impl Block {
    fn grow(&mut self, delta: &Map<String, Value>) {
        let piece = |name: &str| delta.get(name).and_then(Value::as_str);
        match delta.get("type").and_then(Value::as_str) {
            Some("input_json_delta") => {
                self.input
                    .push_str(piece("partial_json").unwrap_or_default());
            }
            Some("citations_delta") => {
                if let Some(citation) = delta.get("citation") {
                    let list = self
                        .value
                        .entry("citations")
                        .or_insert(Value::Array(Vec::new()));
                    match list {
                        Value::Array(list) => list.push(citation.clone()),
                        other => *other = Value::Array(vec![citation.clone()]),
                    }
                }
            }
            _ => {
                for name in ["text", "thinking", "signature"] {
                    let Some(piece) = piece(name) else { continue };
                    match self.value.get_mut(name) {
                        Some(Value::String(text)) => text.push_str(piece),
                        _ => {
                            self.value.insert(name.to_owned(), Value::from(piece));
                        }
                    }
                }
            }
        }
    }

    fn finish(mut self) -> Value {
        if !self.input.is_empty() {
            // What is no JSON was cut off; it is kept as the text it is.
            let input =
                serde_json::from_str(&self.input).unwrap_or_else(|_| Value::from(self.input));
            self.value.insert("input".to_owned(), input);
        }
        Value::Object(self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key() -> Secret {
        Secret::new("CANARY-KEY-0123456789".to_owned())
    }

    fn start() -> Value {
        json!({"type": "message_start", "message": {"id": "msg_1", "content": [], "stop_reason": null,
            "usage": {"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": 2}}})
    }

    fn assemble(events: &[Value]) -> Result<Value> {
        let mut assembly = Assembly::default();
        for event in events {
            assembly.take(&event.to_string(), &key())?;
        }
        assert!(assembly.is_whole());
        Ok(serde_json::from_slice(&assembly.into_message()?).unwrap())
    }

    #[test]
    fn blocks_of_every_kind_are_put_together() {
        let delta = |index: u32, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
        let begin = |index: u32, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
        let message = assemble(&[
            start(),
            json!({"type": "ping"}),
            begin(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
            delta(0, json!({"type": "thinking_delta", "thinking": "h"})),
            delta(0, json!({"type": "thinking_delta", "thinking": "m"})),
            delta(0, json!({"type": "signature_delta", "signature": "sig"})),
            json!({"type": "content_block_stop", "index": 0}),
            begin(1, json!({"type": "text", "text": ""})),
            delta(1, json!({"type": "text_delta", "text": "a\u{e9}"})),
            delta(1, json!({"type": "text_delta", "text": "b"})),
            delta(1, json!({"type": "citations_delta", "citation": {"cited_text": "x"}})),
            begin(2, json!({"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}})),
            delta(2, json!({"type": "input_json_delta", "partial_json": ""})),
            delta(2, json!({"type": "input_json_delta", "partial_json": "{\"a\""})),
            delta(2, json!({"type": "input_json_delta", "partial_json": ":1}"})),
            json!({"type": "a_new_event", "x": 1}),
            json!({"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": null},
                "usage": {"output_tokens": 9, "input_tokens": null}}),
            json!({"type": "message_stop"}),
        ])
        .unwrap();
        assert_eq!(
            message["content"],
            json!([
                {"type": "thinking", "thinking": "hm", "signature": "sig"},
                {"type": "text", "text": "aéb", "citations": [{"cited_text": "x"}]},
                {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
            ])
        );
        assert_eq!(message["stop_reason"], "tool_use");
        assert_eq!(
            message["usage"],
            json!({"input_tokens": 5, "output_tokens": 9, "cache_read_input_tokens": 2})
        );
    }

    #[test]
    fn f_058_an_error_after_the_start_may_have_been_paid() {
        let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
        let late = assemble(&[start(), error.clone()]).unwrap_err();
        assert_eq!(
            (late.kind(), late.class()),
            (ErrorKind::Overloaded, RetryClass::Ambiguous)
        );
        let early = assemble(&[error]).unwrap_err();
        assert_eq!(
            (early.kind(), early.class()),
            (ErrorKind::Overloaded, RetryClass::Rejected)
        );
        let fatal =
            json!({"type": "error", "error": {"type": "invalid_request_error", "message": "no"}});
        let fatal = assemble(&[start(), fatal]).unwrap_err();
        assert_eq!(fatal.class(), RetryClass::RowFatal);
    }

    #[test]
    fn f_058_f_059_events_that_are_none_end_the_attempt() {
        for odd in ["", "null", "{", "[1]"] {
            assert!(
                Assembly::default()
                    .take(odd, &key())
                    .unwrap_err()
                    .is_ambiguous()
            );
        }
        for index in [json!(3), json!(-1), json!("0"), Value::Null] {
            let event = json!({"type": "content_block_delta", "index": index, "delta": {}});
            assert!(assemble(&[start(), event]).is_err());
        }
    }
}
