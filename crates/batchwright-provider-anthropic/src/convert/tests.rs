#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::config::{AnthropicConfig, CacheTtl};
use batchwright_core::{
    Chat, FinishReason, Media, Message, Part, ResponseFormat, RetryClass, Role, Sampling, Thinking,
    Tool, ToolCall, ToolChoice, ToolResult,
};
use batchwright_http::Secret;
use batchwright_http::Unanswered;
use serde_json::{Map, Value, json, value::RawValue};

fn form() -> Form {
    Form::of(&AnthropicConfig::new("k"))
}

fn written(request: &Request, form: Form, purpose: Purpose) -> Result<Value> {
    let mut out = b"before".to_vec();
    match write_body(request, form, purpose, &mut out) {
        Ok(()) => {
            assert!(!out.contains(&b'\n'), "one line");
            Ok(serde_json::from_slice(&out[6..]).unwrap())
        }
        Err(error) => {
            assert_eq!(out, b"before", "left as it was");
            Err(error)
        }
    }
}

fn body(request: &Request) -> Value {
    written(request, form(), Purpose::Answer).unwrap()
}

fn chat(messages: impl IntoIterator<Item = Message>) -> Request {
    Request::chat("row", "claude-haiku-4-5", messages)
}

fn inline(media_type: &str) -> Media {
    // Core's variant is open to later fields, and has no constructor.
    Media::Inline {
        media_type: media_type.to_owned(),
        base64: "aGk=".to_owned(),
        name: Some("a.pdf".to_owned()),
    }
}

#[test]
fn a_plain_request_is_as_small_as_can_be() {
    assert_eq!(
        body(&chat([Message::system("Be terse."), Message::user("Hi")])),
        json!({"model": "claude-haiku-4-5", "max_tokens": 4096, "system": "Be terse.",
            "messages": [{"role": "user", "content": "Hi"}]})
    );
}

#[test]
fn every_setting_has_its_place() {
    let sampling = Sampling::new()
        .with_temperature(0.5)
        .and_then(|sampling| sampling.with_top_p(0.9))
        .and_then(|sampling| sampling.with_top_k(5))
        .and_then(|sampling| sampling.with_max_output_tokens(7))
        .and_then(|sampling| sampling.with_stop(vec!["END".into()]))
        .and_then(|sampling| sampling.with_reasoning_effort("low"))
        .unwrap();
    let schema = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let tools =
        vec![Tool::new("f", Some("does".into()), json!({"type": "object"})).with_strict(true)];
    let conversation = Chat::new([Message::user("x")])
        .with_tools(tools, Some(ToolChoice::Named("f".into())))
        .with_response_format(ResponseFormat::JsonSchema {
            name: "c".into(),
            schema: schema.clone(),
            strict: true,
        });
    let mut extra = Map::new();
    extra.insert("thinking".into(), json!({"type": "adaptive"}));
    let request = Request::new("row", "m", Payload::Chat(conversation))
        .with_sampling(sampling)
        .with_extra(extra);
    assert_eq!(
        body(&request),
        json!({"model": "m", "max_tokens": 7, "messages": [{"role": "user", "content": "x"}],
            "tools": [{"name": "f", "description": "does", "input_schema": {"type": "object"}, "strict": true}],
            "tool_choice": {"type": "tool", "name": "f"},
            "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema}},
            "temperature": 0.5, "top_p": 0.9, "top_k": 5, "stop_sequences": ["END"],
            "thinking": {"type": "adaptive"}})
    );
    let counted = written(&request, form(), Purpose::Count).unwrap();
    let keys: Vec<&String> = counted.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "messages",
            "model",
            "output_config",
            "thinking",
            "tool_choice",
            "tools"
        ]
    );
    for (choice, wire) in [
        (ToolChoice::Auto, "auto"),
        (ToolChoice::None, "none"),
        (ToolChoice::Required, "any"),
    ] {
        let tools = vec![Tool::new("f", None, json!({"type": "object"}))];
        let conversation = Chat::new([Message::user("x")]).with_tools(tools, Some(choice));
        let request = Request::new("row", "m", Payload::Chat(conversation));
        assert_eq!(body(&request)["tool_choice"], json!({"type": wire}));
    }
}

#[test]
fn turns_of_one_side_are_one_and_results_of_tools_come_first() {
    let call = |id: &str| Part::ToolCall(ToolCall::new(id, "f", "{\"a\":\n1}"));
    let result =
        |id: &str| Message::new(Role::Tool, vec![Part::ToolResult(ToolResult::new(id, "r"))]);
    let thinking =
        |signature: Option<&str>| Part::Thinking(Thinking::new("hm", signature.map(str::to_owned)));
    let request = chat([
        Message::user("a"),
        Message::new(
            Role::Assistant,
            vec![thinking(Some("sig")), thinking(None), call("1"), call("2")],
        ),
        Message::user("and"),
        result("1"),
        result("2"),
    ]);
    assert_eq!(
        body(&request)["messages"],
        json!([
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "sig"},
                {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}},
                {"type": "tool_use", "id": "2", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "1", "content": "r"},
                {"type": "tool_result", "tool_use_id": "2", "content": "r"},
                {"type": "text", "text": "and"}]},
        ])
    );
}

#[test]
fn media_go_by_their_source() {
    let request = chat([Message::new(
        Role::User,
        vec![
            Part::Image(inline("image/png")),
            Part::Image(Media::Url("https://example.org/a.png".into())),
            Part::Document(inline("application/pdf")),
            Part::Document(Media::File("file_1".into())),
            Part::Text(String::new()),
            Part::Text("see".into()),
        ],
    )]);
    assert_eq!(
        body(&request)["messages"][0]["content"],
        json!([
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
            {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="},
                "title": "a.pdf"},
            {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
            {"type": "text", "text": "see"},
        ])
    );
}

#[test]
fn what_is_cached_ends_with_the_instructions_or_the_tools() {
    let mut cached = form();
    cached.cache = Some(CacheTtl::OneHour);
    let control = json!({"type": "ephemeral", "ttl": "1h"});
    let request = chat([
        Message::system("a"),
        Message::system("b"),
        Message::user("x"),
    ]);
    let system = written(&request, cached, Purpose::Line).unwrap()["system"].clone();
    assert_eq!(
        system,
        json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": control}])
    );
    let tool = |name: &str| Tool::new(name, None, json!({"type": "object"}));
    let conversation = Chat::new([Message::user("x")]).with_tools(vec![tool("f"), tool("g")], None);
    let request = Request::new("row", "m", Payload::Chat(conversation));
    let tools = written(&request, cached, Purpose::Line).unwrap()["tools"].clone();
    assert_eq!(tools[0].get("cache_control"), None);
    assert_eq!(tools[1]["cache_control"], control);
}

#[test]
fn f_040_only_what_may_be_long_is_streamed() {
    let request = chat([Message::user("x")]);
    assert_eq!(max_tokens(&request, form()), 4096);
    let streamed = written(&request, form(), Purpose::Stream).unwrap();
    assert_eq!(streamed["stream"], true);
    let mut extra = Map::new();
    extra.insert("max_tokens".into(), json!(64_000));
    let request = request.with_extra(extra);
    assert_eq!(max_tokens(&request, form()), 64_000);
    assert_eq!(body(&request)["max_tokens"], 64_000);
}

#[test]
fn f_173_what_has_no_form_is_refused_before_anything_is_sent() {
    let user = |part| chat([Message::new(Role::User, vec![part])]);
    let sampled = |sampling: Sampling| chat([Message::user("x")]).with_sampling(sampling);
    let extra = |key: &str| {
        let mut extra = Map::new();
        extra.insert(key.to_owned(), json!(true));
        chat([Message::user("x")]).with_extra(extra)
    };
    let json_object = Chat::new([Message::user("x")]).with_response_format(ResponseFormat::Json);
    let broken = ToolCall::new("1", "f", "[1]");
    for (what, request) in [
        ("no message", chat([])),
        ("instructions alone", chat([Message::system("x")])),
        (
            "instructions late",
            chat([Message::user("x"), Message::system("y")]),
        ),
        ("nothing said", chat([Message::user("")])),
        ("sound", user(Part::Audio(inline("audio/wav")))),
        ("an odd picture", user(Part::Image(inline("image/tiff")))),
        (
            "an odd document",
            user(Part::Document(inline("text/plain"))),
        ),
        (
            "a tool's call by the user",
            user(Part::ToolCall(ToolCall::new("1", "f", "{}"))),
        ),
        (
            "arguments that are no object",
            chat([Message::new(Role::Assistant, vec![Part::ToolCall(broken)])]),
        ),
        ("a seed", sampled(Sampling::new().with_seed(1))),
        (
            "a penalty",
            sampled(Sampling::new().with_presence_penalty(1.0).unwrap()),
        ),
        (
            "too hot",
            sampled(Sampling::new().with_temperature(1.5).unwrap()),
        ),
        ("a stream", extra("stream")),
        (
            "any JSON",
            Request::new("row", "m", Payload::Chat(json_object)),
        ),
        ("a vector", Request::embedding("row", "m", "x")),
    ] {
        let error = written(&request, form(), Purpose::Line).unwrap_err();
        assert_eq!(error.class(), RetryClass::RowFatal, "{what}: {error}");
    }
    assert!(written(&extra("speed"), form(), Purpose::Line).is_err());
    assert!(written(&extra("speed"), form(), Purpose::Answer).is_ok());
    let mut config = AnthropicConfig::new("k");
    config.api_version = "2026-10-21".to_owned();
    let cold = sampled(Sampling::new().with_temperature(1.0).unwrap());
    assert!(written(&cold, Form::of(&config), Purpose::Line).is_err());
    assert!(written(&cold, form(), Purpose::Line).is_ok());
}

#[test]
fn raw_bodies_are_sent_as_they_are() {
    let raw = |endpoint: &str, body: &str| {
        let body = RawValue::from_string(body.to_owned()).unwrap();
        Request::raw("row", endpoint, body).unwrap()
    };
    let odd = "{\"model\":\"m\",\n \"max_tokens\":0,\"b\":1.50}";
    let mut out = Vec::new();
    write_body(&raw(MESSAGES, odd), form(), Purpose::Answer, &mut out).unwrap();
    assert_eq!(out, odd.replace('\n', " ").as_bytes());
    let counted = written(&raw(MESSAGES, odd), form(), Purpose::Count).unwrap();
    assert_eq!(counted, json!({"model": "m"}));
    for (endpoint, body) in [
        ("/v1/complete", "{}"),
        (MESSAGES, "{\"stream\":true}"),
        (MESSAGES, "{\"speed\":\"fast\"}"),
    ] {
        assert!(
            written(&raw(endpoint, body), form(), Purpose::Line).is_err(),
            "{body}"
        );
    }
}

// ---- answers ----

fn read(body: &Value) -> std::result::Result<batchwright_core::Response, Unanswered> {
    read_answer(
        &body.to_string(),
        &Secret::new("CANARY-KEY-0123456789".into()),
    )
}

#[test]
fn an_answer_is_read_with_all_its_parts() {
    let answer = read(&json!({
        "id": "msg_1", "type": "message", "model": "m-1", "stop_reason": "tool_use", "stop_sequence": null,
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "thinking", "thinking": "", "signature": "hidden"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "a\u{1f600}", "citations": null},
            {"type": "text", "text": ""},
            {"type": "a_new_block", "text": "not ours"},
            {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
        ],
        "usage": {"input_tokens": 14, "output_tokens": 9, "cache_creation_input_tokens": 3,
            "cache_read_input_tokens": 2048, "output_tokens_details": {"thinking_tokens": 4}}
    }))
    .unwrap();
    assert_eq!(answer.text(), "a\u{1f600}");
    assert_eq!(answer.finish_reason, Some(FinishReason::ToolCalls));
    assert_eq!(
        (answer.id.as_deref(), answer.model.as_deref()),
        (Some("msg_1"), Some("m-1"))
    );
    let kinds: Vec<&str> = answer
        .content
        .iter()
        .map(|part| match part {
            Part::Thinking(thinking) => thinking.signature.as_deref().unwrap(),
            Part::Text(_) => "text",
            Part::ToolCall(call) => &call.arguments,
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["sig", "hidden", "text", "{\"a\":1}"]);
    let usage = answer.usage;
    assert_eq!(usage.input_tokens, Some(14 + 3 + 2048), "all that went in");
    assert_eq!(usage.cache_read_input_tokens, Some(2048));
    assert_eq!(usage.cache_creation_input_tokens, Some(3));
    assert_eq!(
        (usage.output_tokens, usage.reasoning_tokens),
        (Some(9), Some(4))
    );
}

#[test]
fn f_056_f_061_f_063_every_reason_to_stop() {
    for (word, reason) in [
        ("end_turn", FinishReason::Stop),
        ("stop_sequence", FinishReason::Stop),
        ("max_tokens", FinishReason::Length),
        ("model_context_window_exceeded", FinishReason::Length),
        ("tool_use", FinishReason::ToolCalls),
        ("refusal", FinishReason::Refusal),
        ("pause_turn", FinishReason::Other("pause_turn".into())),
        ("hibernated", FinishReason::Other("hibernated".into())),
    ] {
        let answer = read(&json!({"content": [], "stop_reason": word})).unwrap();
        assert_eq!(answer.finish_reason, Some(reason));
    }
}

#[test]
fn f_057_f_066_odd_counters_are_unknown_and_spoil_nothing() {
    for usage in [
        json!(null),
        json!({}),
        json!("x"),
        json!({"input_tokens": -1, "output_tokens": 1.5}),
    ] {
        let answer =
            read(&json!({"content": [{"type": "text", "text": "a"}], "usage": usage})).unwrap();
        assert!(answer.usage.is_unknown(), "{usage}");
        assert_eq!(answer.text(), "a");
    }
    let some = json!({"content": [], "stop_reason": "end_turn", "usage": {"input_tokens": 2, "cache_read_input_tokens": null}});
    assert_eq!(read(&some).unwrap().usage.input_tokens, Some(2));
}

#[test]
fn f_050_f_051_f_052_f_053_bodies_without_an_answer_are_none() {
    let key = Secret::new("CANARY-KEY-0123456789".into());
    for hollow in [
        "",
        "null",
        "[]",
        "{}",
        "\"x\"",
        "<html>",
        "{\"content\":null}",
        "{\"content\":[]}",
        "{\"content\":\"x\"}",
    ] {
        let error = read_answer(hollow, &key).unwrap_err();
        assert!(matches!(error, Unanswered::Hollow(_)), "{hollow}");
        assert!(error.into_error().is_ambiguous(), "{hollow}");
    }
    let said =
        read(&json!({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}));
    let error = said.unwrap_err();
    assert!(matches!(error, Unanswered::Said(_)));
    assert_eq!(error.into_error().class(), RetryClass::Rejected);
    // F-054: null is none.
    assert!(read(&json!({"error": null, "content": [], "stop_reason": "max_tokens"})).is_ok());
    let used = read(&json!({"content": [], "stop_reason": null, "usage": {"input_tokens": 7}}));
    let error = used.unwrap_err().into_error();
    assert_eq!(error.usage().unwrap().input_tokens, Some(7));
}

#[test]
fn f_059_a_lone_surrogate_costs_no_answer() {
    let key = Secret::new("k".into());
    let answer = read_answer(r#"{"content":[{"type":"text","text":"a\ud83d"}]}"#, &key).unwrap();
    assert!(answer.text().starts_with("a\u{fffd}"));
}
