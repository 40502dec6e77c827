//! A streamed answer put together again: chunks in, the answer as it comes in one piece out.

use crate::dialect::Dialect;
use batchwright_core::{Error, ErrorKind, Result, RetryClass};
use batchwright_http::{Secret, hollow};
use serde_json::{Map, Value};

/// What ends a stream of chat completions.
const DONE: &str = "[DONE]";

/// An answer as far as its chunks came. What is not understood is kept where it stands, or changes nothing.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    answer: Map<String, Value>,
    choices: Vec<Map<String, Value>>,
    whole: bool,
}

impl Assembly {
    /// Takes an event's data: a chunk of chat completions, or an event of the Responses API.
    ///
    /// # Errors
    /// The error the event tells (F-058): what was generated until then may have been paid. `ProviderFault` where the
    /// event is no JSON.
    pub(crate) fn take(&mut self, data: &str, dialect: &Dialect, key: &Secret) -> Result<()> {
        if data.trim() == DONE {
            self.whole = true;
            return Ok(());
        }
        let Ok(Value::Object(mut event)) = serde_json::from_str::<Value>(data) else {
            return Err(hollow("read the answer: an event is not JSON"));
        };
        if let Some(kind) = event.get("type").and_then(Value::as_str) {
            match kind {
                // The last event holds the answer whole, a failed one with its error inside.
                "response.completed" | "response.incomplete" | "response.failed" => {
                    self.whole = true;
                    if let Some(Value::Object(response)) = event.remove("response") {
                        self.answer = response;
                    }
                }
                "error" => return Err(self.broken(&Value::Object(event), dialect, key)),
                _ => {}
            }
            return Ok(());
        }
        if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
            return Err(self.broken(error, dialect, key));
        }
        let choices = event.remove("choices");
        // Later chunks repeat what the first one said; usage comes with one of the last, elsewhere as null.
        for (name, value) in event {
            if !value.is_null() {
                self.answer.insert(name, value);
            }
        }
        if let Some(Value::Array(choices)) = choices {
            choices
                .into_iter()
                .try_for_each(|choice| self.grow(choice))?;
        }
        Ok(())
    }

    /// Whether the last event was there.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether every choice ended, for servers that end the stream without saying so.
    pub(crate) fn has_ended(&self) -> bool {
        let ended = |choice: &Map<String, Value>| {
            choice
                .get("finish_reason")
                .is_some_and(|reason| !reason.is_null())
        };
        !self.choices.is_empty() && self.choices.iter().all(ended)
    }

    /// The answer as JSON.
    pub(crate) fn into_answer(mut self) -> Result<Vec<u8>> {
        if !self.choices.is_empty() {
            let choices = self.choices.into_iter().map(Value::Object).collect();
            self.answer
                .insert("choices".to_owned(), Value::Array(choices));
            if self.answer.contains_key("object") {
                self.answer
                    .insert("object".to_owned(), Value::from("chat.completion"));
            }
        }
        serde_json::to_vec(&self.answer).map_err(|error| {
            Error::new(ErrorKind::Unexpected, "write the answer as JSON").with_source(error)
        })
    }

    fn grow(&mut self, chunk: Value) -> Result<()> {
        let Value::Object(mut chunk) = chunk else {
            return Err(hollow("read the answer: a choice is no object"));
        };
        let index = chunk.get("index").and_then(Value::as_u64).unwrap_or(0);
        let choice = at(&mut self.choices, index)?;
        let delta = chunk.remove("delta");
        if let Some(Value::Object(logprobs)) = chunk.remove("logprobs") {
            extend_lists(object(choice, "logprobs"), logprobs);
        }
        for (name, value) in chunk {
            if !value.is_null() || !choice.contains_key(&name) {
                choice.insert(name, value);
            }
        }
        if let Some(Value::Object(delta)) = delta {
            let message = object(choice, "message");
            for (name, value) in delta {
                merge(message, name, value)?;
            }
        }
        Ok(())
    }

    fn broken(&self, error: &Value, dialect: &Dialect, key: &Secret) -> Error {
        let error = dialect
            .errors
            .within(&error.to_string(), &[key])
            .unwrap_or_else(|| hollow("read the answer: the stream ended in an error"));
        match error.class() {
            // The call was let in, and something may have been generated.
            RetryClass::Rejected if !self.choices.is_empty() => {
                error.with_class(RetryClass::Ambiguous)
            }
            _ => error,
        }
    }
}

/// The most choices or tool calls of one answer that are put together.
const MAX_INDEX: u64 = 1024;

/// The entry of this index, made with those before it where it is new.
fn at(list: &mut Vec<Map<String, Value>>, index: u64) -> Result<&mut Map<String, Value>> {
    let index = usize::try_from(index.min(MAX_INDEX)).unwrap_or(usize::MAX);
    if index >= MAX_INDEX as usize {
        return Err(hollow("read the answer: an index is beyond all measure"));
    }
    if list.len() <= index {
        list.resize_with(index + 1, Map::new);
    }
    Ok(&mut list[index])
}

/// The object under `name`, made where there is none.
fn object<'m>(map: &'m mut Map<String, Value>, name: &str) -> &'m mut Map<String, Value> {
    let value = map.entry(name).or_insert(Value::Null);
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was just made one")
}

/// Puts a piece of a message to what is there: texts grow, tool calls by their index, all else is replaced.
fn merge(message: &mut Map<String, Value>, name: String, piece: Value) -> Result<()> {
    match (name.as_str(), piece) {
        (_, Value::Null) => {
            message.entry(name).or_insert(Value::Null);
        }
        ("tool_calls", Value::Array(calls)) => {
            let mut known = match message.remove("tool_calls") {
                Some(Value::Array(known)) => known
                    .into_iter()
                    .map(|call| match call {
                        Value::Object(call) => call,
                        _ => Map::new(),
                    })
                    .collect(),
                _ => Vec::new(),
            };
            for (position, call) in (0u64..).zip(calls) {
                let Value::Object(call) = call else { continue };
                let index = call.get("index").and_then(Value::as_u64);
                let entry = at(&mut known, index.unwrap_or(position))?;
                for (name, value) in call {
                    match (name.as_str(), value) {
                        ("index", _) | (_, Value::Null) => {}
                        ("function" | "custom", Value::Object(fields)) => {
                            let function = object(entry, &name);
                            fields
                                .into_iter()
                                .for_each(|(name, value)| append(function, name, value));
                        }
                        // Some servers repeat it with each piece.
                        (_, value) => {
                            entry.insert(name, value);
                        }
                    }
                }
            }
            let calls = known.into_iter().map(Value::Object).collect();
            message.insert(name, Value::Array(calls));
        }
        ("role", role) => {
            message.insert(name, role);
        }
        (_, piece) => append(message, name, piece),
    }
    Ok(())
}

/// Texts and lists grow; all else is replaced.
fn append(map: &mut Map<String, Value>, name: String, piece: Value) {
    match (map.get_mut(&name), piece) {
        (Some(Value::String(text)), Value::String(more)) => text.push_str(&more),
        (Some(Value::Array(list)), Value::Array(more)) => list.extend(more),
        (_, piece) => {
            map.insert(name, piece);
        }
    }
}

fn extend_lists(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (name, value) in from {
        if !value.is_null() {
            append(into, name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key() -> Secret {
        Secret::new("CANARY-KEY-0123456789".to_owned())
    }

    fn feed(events: &[&str]) -> Result<Assembly> {
        let mut assembly = Assembly::default();
        for event in events {
            assembly.take(event, &Dialect::OPENAI, &key())?;
        }
        Ok(assembly)
    }

    fn chunk(delta: &Value) -> String {
        json!({"id": "c", "object": "chat.completion.chunk", "model": "m", "usage": null,
            "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
        .to_string()
    }

    #[test]
    fn f_040_pieces_become_the_answer_they_are_of() {
        let call = |index: u32, rest: Value| {
            let mut call = json!({"index": index});
            call.as_object_mut()
                .unwrap()
                .extend(rest.as_object().unwrap().clone());
            chunk(&json!({"tool_calls": [call]}))
        };
        let events = [
            chunk(&json!({"role": "assistant", "content": "", "refusal": null})),
            chunk(&json!({"content": "a\u{e9}"})),
            chunk(&json!({"reasoning_content": "h"})),
            chunk(&json!({"content": "b", "reasoning_content": "m"})),
            call(0, json!({"id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}})),
            call(0, json!({"function": {"arguments": "{\"a\""}})),
            call(1, json!({"id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{}"}})),
            call(0, json!({"function": {"arguments": ":1}"}})),
            json!({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls",
                "logprobs": {"content": [{"token": "x"}]}}]})
            .to_string(),
            json!({"id": "c", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
                .to_string(),
            DONE.to_owned(),
        ];
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        let assembly = feed(&events).unwrap();
        assert!(assembly.is_whole() && assembly.has_ended());
        let answer: Value = serde_json::from_slice(&assembly.into_answer().unwrap()).unwrap();
        assert_eq!(
            answer,
            json!({"id": "c", "object": "chat.completion", "model": "m",
            "usage": {"prompt_tokens": 1, "completion_tokens": 2},
            "choices": [{"index": 0, "finish_reason": "tool_calls",
                "logprobs": {"content": [{"token": "x"}]},
                "message": {"role": "assistant", "content": "aéb", "refusal": null, "reasoning_content": "hm",
                    "tool_calls": [
                        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
                        {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                    ]}}]})
        );
    }

    #[test]
    fn the_last_event_of_a_response_holds_it_whole() {
        let assembly = feed(&[
            r#"{"type":"response.created","response":{"id":"resp_1","status":"in_progress"}}"#,
            r#"{"type":"response.output_text.delta","delta":"a"}"#,
            r#"{"type":"response.completed","response":{"id":"resp_1","status":"completed","output":[]}}"#,
        ])
        .unwrap();
        assert!(assembly.is_whole());
        let answer: Value = serde_json::from_slice(&assembly.into_answer().unwrap()).unwrap();
        assert_eq!(
            answer,
            json!({"id": "resp_1", "status": "completed", "output": []})
        );
    }

    #[test]
    fn f_058_an_error_after_the_start_may_have_been_paid() {
        let error = r#"{"error":{"message":"The server is overloaded","type":"server_error","code":"slow_down"}}"#;
        let early = feed(&[error]).unwrap_err();
        assert_eq!(early.class(), RetryClass::Rejected);
        let start = chunk(&json!({"content": "a"}));
        let late = feed(&[&start, error]).unwrap_err();
        assert_eq!(
            (late.kind(), late.class()),
            (early.kind(), RetryClass::Ambiguous)
        );
        let event = r#"{"type":"error","code":"server_error","message":"x"}"#;
        assert!(feed(&[event]).is_err());
    }

    #[test]
    fn f_058_f_059_what_is_no_event_ends_the_attempt() {
        for odd in [
            "",
            "null",
            "{",
            "[1]",
            r#"{"choices":[1]}"#,
            r#"{"choices":[{"index":99999999999}]}"#,
        ] {
            assert!(feed(&[odd]).unwrap_err().is_ambiguous(), "{odd}");
        }
        let open = feed(&[&chunk(&json!({"content": "a"}))]).unwrap();
        assert!(!open.is_whole() && !open.has_ended());
    }
}
