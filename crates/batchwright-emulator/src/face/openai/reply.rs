//! Answers as the wire shows them.

use std::io::Write as _;

use super::body::{Endpoint, Prepared};
use crate::answer::{base64, unit_vector};
use crate::chat::Said;
use crate::seed::hex_id;

/// What an answer's ids and times are made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub(super) seed: u64,
    /// Different for every answer.
    pub(super) nonce: u64,
    /// Tells the lanes' nonces apart.
    pub(super) lane: u64,
    /// Virtual Unix seconds.
    pub(super) created: i64,
}

impl Stamp {
    fn id(&self, kind: u64) -> [u8; 32] {
        hex_id(self.seed, kind + self.lane * 1_000, self.nonce)
    }

    pub(super) fn request_id(&self) -> String {
        format!("req_{}", text(&self.id(21)))
    }
}

fn text(id: &[u8; 32]) -> &str {
    std::str::from_utf8(id).expect("hexadecimal digits are ASCII")
}

/// Appends the JSON body of an answer.
pub(super) fn write(endpoint: Endpoint, prepared: &Prepared, stamp: Stamp, out: &mut Vec<u8>) {
    match endpoint {
        Endpoint::Chat => chat(prepared, stamp, out),
        Endpoint::Responses => responses(prepared, stamp, out),
        Endpoint::Embeddings => embeddings(prepared, out),
    }
}

/// Appends a string as JSON.
fn string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a text serializes into memory");
}

macro_rules! put {
    ($out:expr, $($arg:tt)*) => {
        write!($out, $($arg)*).expect("memory takes every write")
    };
}

fn chat(prepared: &Prepared, stamp: Stamp, out: &mut Vec<u8>) {
    chat_head(prepared, stamp, "chat.completion", out);
    for index in 0..prepared.choices {
        if index > 0 {
            out.push(b',');
        }
        put!(
            out,
            r#"{{"index":{index},"finish_reason":"{}","logprobs":null,"message":{{"role":"assistant","content":"#,
            finish_reason(&prepared.said)
        );
        match &prepared.said {
            Said::Text(text) | Said::CutShort(text) | Said::Filtered(text) => {
                string(out, text);
                out.extend_from_slice(br#","refusal":null,"annotations":[]"#);
            }
            Said::Refusal(text) => {
                out.extend_from_slice(br#"null,"refusal":"#);
                string(out, text);
                out.extend_from_slice(br#","annotations":[]"#);
            }
            Said::ToolCall { name, arguments } => {
                put!(
                    out,
                    r#"null,"refusal":null,"annotations":[],"tool_calls":[{{"id":"call_{}","type":"function","function":{{"name":"#,
                    &text(&stamp.id(31 + index))[..24]
                );
                string(out, name);
                out.extend_from_slice(br#","arguments":"#);
                string(out, arguments);
                out.extend_from_slice(b"}}]");
            }
            Said::Vectors { .. } => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b"}}");
    }
    out.extend_from_slice(br#"],"usage":"#);
    chat_usage(prepared, out);
    out.push(b'}');
}

fn chat_head(prepared: &Prepared, stamp: Stamp, object: &str, out: &mut Vec<u8>) {
    put!(
        out,
        r#"{{"id":"chatcmpl-{}","object":"{object}","created":{},"model":"{}","service_tier":"{}","system_fingerprint":"fp_{:010x}","choices":["#,
        text(&stamp.id(22)),
        stamp.created,
        prepared.model.dated,
        prepared.service_tier,
        crate::seed::mix(stamp.seed, prepared.model.name.len() as u64) >> 24,
    );
}

fn chat_usage(prepared: &Prepared, out: &mut Vec<u8>) {
    let usage = &prepared.usage;
    put!(
        out,
        r#"{{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{},"prompt_tokens_details":{{"cached_tokens":{},"audio_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":{},"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}}"#,
        usage.input,
        usage.output,
        usage.input + usage.output,
        usage.cached,
        usage.reasoning,
    );
}

fn finish_reason(said: &Said) -> &'static str {
    match said {
        Said::CutShort(_) => "length",
        Said::Filtered(_) => "content_filter",
        Said::ToolCall { .. } => "tool_calls",
        Said::Text(_) | Said::Refusal(_) | Said::Vectors { .. } => "stop",
    }
}

/// The events of a streamed chat, `data: [DONE]` among them, each with its blank line.
pub(super) fn chat_events(prepared: &Prepared, stamp: Stamp) -> Vec<Vec<u8>> {
    let mut events = Vec::new();
    let mut event = |choices: &dyn Fn(&mut Vec<u8>), usage: bool| {
        let mut out = b"data: ".to_vec();
        chat_head(prepared, stamp, "chat.completion.chunk", &mut out);
        choices(&mut out);
        out.push(b']');
        if prepared.include_usage {
            out.extend_from_slice(br#","usage":"#);
            if usage {
                chat_usage(prepared, &mut out);
            } else {
                out.extend_from_slice(b"null");
            }
        }
        out.extend_from_slice(b"}\n\n");
        events.push(out);
    };
    for index in 0..prepared.choices {
        let mut delta = |delta: &dyn Fn(&mut Vec<u8>), finish: Option<&str>| {
            event(
                &|out| {
                    put!(out, r#"{{"index":{index},"delta":{{"#);
                    delta(out);
                    out.extend_from_slice(br#"},"logprobs":null,"finish_reason":"#);
                    match finish {
                        Some(finish) => put!(out, r#""{finish}""#),
                        None => out.extend_from_slice(b"null"),
                    }
                    out.push(b'}');
                },
                false,
            );
        };
        match &prepared.said {
            Said::Text(text) | Said::CutShort(text) | Said::Filtered(text) => {
                delta(
                    &|out| put!(out, r#""role":"assistant","content":"","refusal":null"#),
                    None,
                );
                for word in text.split_inclusive(' ') {
                    delta(
                        &|out| {
                            out.extend_from_slice(br#""content":"#);
                            string(out, word);
                        },
                        None,
                    );
                }
            }
            Said::Refusal(text) => {
                delta(&|out| put!(out, r#""role":"assistant","refusal":"""#), None);
                for word in text.split_inclusive(' ') {
                    delta(
                        &|out| {
                            out.extend_from_slice(br#""refusal":"#);
                            string(out, word);
                        },
                        None,
                    );
                }
            }
            Said::ToolCall { name, arguments } => {
                delta(
                    &|out| {
                        put!(
                            out,
                            r#""role":"assistant","content":null,"tool_calls":[{{"index":0,"id":"call_{}","type":"function","function":{{"name":"#,
                            &text(&stamp.id(31 + index))[..24]
                        );
                        string(out, name);
                        out.extend_from_slice(br#","arguments":""}}]"#);
                    },
                    None,
                );
                for piece in arguments.split_inclusive(',') {
                    delta(
                        &|out| {
                            out.extend_from_slice(
                                br#""tool_calls":[{"index":0,"function":{"arguments":"#,
                            );
                            string(out, piece);
                            out.extend_from_slice(b"}}]");
                        },
                        None,
                    );
                }
            }
            Said::Vectors { .. } => {}
        }
        delta(&|_| {}, Some(finish_reason(&prepared.said)));
    }
    if prepared.include_usage {
        event(&|_| {}, true);
    }
    events.push(b"data: [DONE]\n\n".to_vec());
    events
}

fn responses(prepared: &Prepared, stamp: Stamp, out: &mut Vec<u8>) {
    let (status, incomplete) = match &prepared.said {
        Said::CutShort(_) => ("incomplete", Some("max_output_tokens")),
        Said::Filtered(_) => ("incomplete", Some("content_filter")),
        _ => ("completed", None),
    };
    put!(
        out,
        r#"{{"id":"resp_{}","object":"response","created_at":{},"status":"{status}","error":null,"incomplete_details":"#,
        text(&stamp.id(23)),
        stamp.created
    );
    match incomplete {
        Some(reason) => put!(out, r#"{{"reason":"{reason}"}}"#),
        None => out.extend_from_slice(b"null"),
    }
    put!(
        out,
        r#","model":"{}","metadata":{{}},"parallel_tool_calls":true,"tool_choice":"auto","tools":[],"service_tier":"{}","output":["#,
        prepared.model.dated,
        prepared.service_tier
    );
    if prepared.model.reasons() {
        put!(
            out,
            r#"{{"type":"reasoning","id":"rs_{}","summary":[]}}"#,
            text(&stamp.id(24))
        );
    }
    let nothing_said = matches!(&prepared.said, Said::CutShort(text) if text.is_empty());
    if !nothing_said {
        if prepared.model.reasons() {
            out.push(b',');
        }
        response_item(prepared, stamp, status, out);
    }
    let usage = &prepared.usage;
    put!(
        out,
        r#"],"usage":{{"input_tokens":{},"input_tokens_details":{{"cached_tokens":{}}},"output_tokens":{},"output_tokens_details":{{"reasoning_tokens":{}}},"total_tokens":{}}}}}"#,
        usage.input,
        usage.cached,
        usage.output,
        usage.reasoning,
        usage.input + usage.output,
    );
}

fn response_item(prepared: &Prepared, stamp: Stamp, status: &str, out: &mut Vec<u8>) {
    let id = stamp.id(25);
    if let Said::ToolCall { name, arguments } = &prepared.said {
        put!(
            out,
            r#"{{"type":"function_call","id":"fc_{}","call_id":"call_{}","status":"completed","name":"#,
            text(&id),
            &text(&stamp.id(31))[..24]
        );
        string(out, name);
        out.extend_from_slice(br#","arguments":"#);
        string(out, arguments);
        out.push(b'}');
        return;
    }
    put!(
        out,
        r#"{{"type":"message","id":"msg_{}","role":"assistant","status":"{status}","content":[{{"type":"#,
        text(&id)
    );
    match &prepared.said {
        Said::Refusal(text) => {
            out.extend_from_slice(br#""refusal","refusal":"#);
            string(out, text);
        }
        Said::Text(text) | Said::CutShort(text) | Said::Filtered(text) => {
            out.extend_from_slice(br#""output_text","annotations":[],"text":"#);
            string(out, text);
        }
        Said::ToolCall { .. } | Said::Vectors { .. } => {}
    }
    out.extend_from_slice(b"}]}");
}

fn embeddings(prepared: &Prepared, out: &mut Vec<u8>) {
    put!(
        out,
        r#"{{"object":"list","model":"{}","data":["#,
        prepared.model.dated
    );
    if let Said::Vectors {
        inputs,
        dimensions,
        base64: packed,
    } = &prepared.said
    {
        for (index, hash) in inputs.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            put!(
                out,
                r#"{{"object":"embedding","index":{index},"embedding":"#
            );
            let vector = unit_vector(*hash, *dimensions);
            if *packed {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                put!(out, r#""{}""#, base64(&bytes));
            } else {
                serde_json::to_writer(&mut *out, &vector).expect("numbers serialize into memory");
            }
            out.push(b'}');
        }
    }
    let input = prepared.usage.input;
    put!(
        out,
        r#"],"usage":{{"prompt_tokens":{input},"total_tokens":{input}}}}}"#
    );
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::OPENAI;
    use super::super::body::Ways;
    use super::super::error::ApiError;
    use super::super::quirks::Quirks;
    use super::super::body;
    use super::*;

    fn prepared(endpoint: Endpoint, body: &[u8], seed: u64) -> Result<Prepared, ApiError> {
        let ways = Ways {
            dialect: &OPENAI,
            quirks: &Quirks::none(),
        };
        body::prepare(ways, endpoint, body, seed)
    }

    fn parsed(out: &[u8]) -> Value {
        serde_json::from_slice(out).unwrap_or_else(|error| {
            panic!("{error} in {}", String::from_utf8_lossy(out));
        })
    }

    const STAMP: Stamp = Stamp {
        seed: 1,
        nonce: 2,
        lane: 0,
        created: 1_763_800_000,
    };

    fn answer(endpoint: Endpoint, body: &str) -> Value {
        let prepared = prepared(endpoint, body.as_bytes(), 1).expect("a good body");
        let mut out = Vec::new();
        write(endpoint, &prepared, STAMP, &mut out);
        parsed(&out)
    }

    fn chat_about(text: &str, rest: &str) -> String {
        format!(
            r#"{{"model":"gpt-4o-mini","messages":[{{"role":"user","content":"{text}"}}]{rest}}}"#
        )
    }

    #[test]
    fn a_chat_answer_has_the_vendors_shape() {
        let answer = answer(Endpoint::Chat, &chat_about("Say \\\"hi\\\"", ""));
        assert_eq!(answer["object"], "chat.completion");
        assert_eq!(answer["model"], "gpt-4o-mini-2024-07-18");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        let hash = crate::prompt_hash(["Say \"hi\""]);
        let text = answer["choices"][0]["message"]["content"].as_str();
        assert!(text.is_some_and(|text| text.starts_with(&format!("[prompt:{hash}]"))));
        assert_eq!(answer["usage"]["prompt_tokens"], 2);
    }

    #[test]
    fn markers_choose_the_ending() {
        for (text, reason, content) in [
            ("[[refuse]]", "stop", false),
            ("[[length]]", "length", true),
            ("[[filter]]", "content_filter", true),
        ] {
            let answer = answer(Endpoint::Chat, &chat_about(text, ""));
            let choice = &answer["choices"][0];
            assert_eq!(choice["finish_reason"], reason, "{text}");
            assert_eq!(choice["message"]["content"].is_string(), content, "{text}");
            assert_eq!(choice["message"]["refusal"].is_string(), !content, "{text}");
        }
    }

    #[test]
    fn a_forced_tool_is_called_with_valid_arguments() {
        let tools = r#","tool_choice":"required","tools":[{"type":"function","function":{"name":"f","parameters":
            {"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}]"#;
        let answer = answer(Endpoint::Chat, &chat_about("x", tools));
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls");
        let call = &choice["message"]["tool_calls"][0]["function"];
        assert_eq!(call["name"], "f");
        let arguments = parsed(call["arguments"].as_str().expect("a text").as_bytes());
        let hash = crate::prompt_hash(["x"]);
        assert_eq!(arguments["city"], format!("[prompt:{hash}]"));
    }

    #[test]
    fn streams_end_with_done_and_add_up_to_the_answer() {
        for rest in [
            r#","stream":true,"stream_options":{"include_usage":true}"#,
            r#","stream":true"#,
        ] {
            let body = chat_about("hello there", rest);
            let whole = answer(Endpoint::Chat, &body);
            let prepared = prepared(Endpoint::Chat, body.as_bytes(), 1).expect("a good body");
            let mut events = chat_events(&prepared, STAMP);
            assert_eq!(events.pop().as_deref(), Some(&b"data: [DONE]\n\n"[..]));
            let mut text = String::new();
            let mut usage = Value::Null;
            for event in events {
                let event = event.strip_prefix(b"data: ").expect("a data line");
                let chunk = parsed(event);
                usage = chunk.get("usage").cloned().unwrap_or_default();
                if let Some(piece) = chunk["choices"][0]["delta"]["content"].as_str() {
                    text.push_str(piece);
                }
            }
            assert_eq!(whole["choices"][0]["message"]["content"], text);
            if prepared.include_usage {
                assert_eq!(usage, whole["usage"]);
            }
        }
    }

    #[test]
    fn responses_and_embeddings_are_whole() {
        let made = answer(
            Endpoint::Responses,
            r#"{"model":"gpt-5-mini","input":"hi","instructions":"be brief"}"#,
        );
        assert_eq!(made["output"][0]["type"], "reasoning");
        let hash = crate::prompt_hash(["be brief", "hi"]);
        let text = made["output"][1]["content"][0]["text"].as_str();
        assert!(text.is_some_and(|text| text.contains(&hash)));
        assert!(made["usage"]["output_tokens_details"]["reasoning_tokens"].as_u64() > Some(0));
        let made = answer(
            Endpoint::Embeddings,
            r#"{"model":"text-embedding-3-small","input":["a","b"],"dimensions":8}"#,
        );
        assert_eq!(
            made["data"][1]["embedding"].as_array().map(Vec::len),
            Some(8)
        );
    }
}
