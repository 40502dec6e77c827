use super::*;
use batchwright_core::{
    Chat, FinishReason, Media, Message, Part, Response, ResponseFormat, RetryClass, Role, Sampling,
    Thinking, Tool, ToolCall, ToolChoice, ToolResult,
};
use batchwright_http::Unanswered;
use serde_json::{Map, Value, json, value::RawValue};

const MODEL: &str = "gemini-2.5-flash";

fn written(request: &Request, purpose: Purpose) -> Result<Value> {
    let mut out = b"before ".to_vec();
    let result = write_body(request, purpose, &mut out);
    if result.is_err() {
        assert_eq!(out, b"before ", "an error leaves the buffer as it was");
    }
    result.map(|()| {
        assert!(!out.contains(&b'\n') && !out.contains(&b'\r'));
        serde_json::from_slice(&out[b"before ".len()..]).unwrap()
    })
}

fn chat(messages: impl IntoIterator<Item = Message>) -> Request {
    Request::chat("a", MODEL, messages)
}

fn user(part: Part) -> Request {
    chat([Message::new(Role::User, vec![part])])
}

#[test]
fn a_conversation_is_contents_and_an_instruction() {
    let request = chat([
        Message::system("be brief"),
        Message::user("hi \"there\"\n😀"),
        Message::assistant("hello"),
        Message::user("again"),
    ]);
    let text = |role: &str, text: &str| json!({"role": role, "parts": [{ "text": text }]});
    assert_eq!(
        written(&request, Purpose::Line).unwrap(),
        json!({
            "systemInstruction": {"parts": [{"text": "be brief"}]},
            "contents": [text("user", "hi \"there\"\n😀"), text("model", "hello"), text("user", "again")],
        })
    );
}

#[test]
fn sampling_and_format_are_one_config_with_the_callers_fields_over_it() {
    let sampling = Sampling::new()
        .with_temperature(0.5)
        .unwrap()
        .with_top_k(3)
        .unwrap()
        .with_max_output_tokens(9)
        .unwrap()
        .with_stop(vec!["x".into()])
        .unwrap()
        .with_seed(7)
        .with_reasoning_effort("low")
        .unwrap();
    let schema =
        json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]});
    let format = ResponseFormat::JsonSchema {
        name: "s".into(),
        schema,
        strict: true,
    };
    let conversation = Chat::new([Message::user("hi")]).with_response_format(format);
    let mut extra = Map::new();
    extra.insert(
        "generationConfig".into(),
        json!({"temperature": 1, "audioTimestamp": true}),
    );
    extra.insert("labels".into(), json!({"a": "b"}));
    let request = Request::new("a", MODEL, Payload::Chat(conversation))
        .with_sampling(sampling)
        .with_extra(extra);
    let body = written(&request, Purpose::Line).unwrap();
    assert_eq!(
        body["generationConfig"],
        json!({"temperature": 1, "topK": 3, "maxOutputTokens": 9, "stopSequences": ["x"], "seed": 7,
            "thinkingConfig": {"thinkingBudget": 1024}, "audioTimestamp": true,
            "responseMimeType": "application/json",
            "responseSchema": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}, "required": ["a"]}})
    );
    assert_eq!(body["labels"], json!({"a": "b"}));
    let later = Request::chat("a", "gemini-3-flash", [Message::user("x")])
        .with_sampling(Sampling::new().with_reasoning_effort("high").unwrap());
    assert_eq!(
        written(&later, Purpose::Answer).unwrap()["generationConfig"],
        json!({"thinkingConfig": {"thinkingLevel": "HIGH"}})
    );
}

#[test]
fn tools_their_calls_and_results() {
    let conversation = Chat::new([
        Message::user("weather?"),
        Message::new(
            Role::Assistant,
            vec![
                Part::Thinking(Thinking::new("", Some("sig".into()))),
                Part::ToolCall(ToolCall::new("c1", "f", "{\"a\":1}")),
                Part::ToolCall(ToolCall::new("c2", "g", "{}")),
            ],
        ),
        Message::new(
            Role::Tool,
            vec![
                Part::ToolResult(ToolResult::new("c2", "rain")),
                Part::ToolResult(ToolResult::new("c1", "{\"sun\":1}")),
            ],
        ),
    ])
    .with_tools(
        vec![
            Tool::new(
                "f",
                Some("does".into()),
                json!({"type": "object", "properties": {"a": {"type": "integer"}}}),
            ),
            Tool::new("g", None, json!({"type": "object", "properties": {}})),
        ],
        Some(ToolChoice::Named("f".into())),
    );
    let request = Request::new("a", MODEL, Payload::Chat(conversation));
    let body = written(&request, Purpose::Line).unwrap();
    assert_eq!(
        body["contents"][1]["parts"],
        json!([
            {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "sig"},
            {"functionCall": {"name": "g"}},
        ])
    );
    assert_eq!(
        body["contents"][2],
        json!({"role": "user", "parts": [
            {"functionResponse": {"name": "g", "response": {"output": "rain"}}},
            {"functionResponse": {"name": "f", "response": {"output": "{\"sun\":1}"}}},
        ]})
    );
    assert_eq!(
        body["tools"],
        json!([{"functionDeclarations": [
            {"name": "f", "description": "does",
                "parameters": {"type": "OBJECT", "properties": {"a": {"type": "INTEGER"}}}},
            {"name": "g"},
        ]}])
    );
    assert_eq!(
        body["toolConfig"],
        json!({"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}})
    );
    check_line(body.to_string().as_bytes()).unwrap();
}

#[test]
fn media_have_their_forms() {
    let inline = Media::Inline {
        media_type: "image/png".into(),
        base64: "QUJD".into(),
        name: None,
    };
    for (part, purpose, wire) in [
        (
            Part::Image(inline),
            Purpose::Line,
            Some(json!({"inlineData": {"mimeType": "image/png", "data": "QUJD"}})),
        ),
        (
            Part::Document(Media::File("gs://b/a.pdf".into())),
            Purpose::Line,
            Some(json!({"fileData": {"fileUri": "gs://b/a.pdf", "mimeType": "application/pdf"}})),
        ),
        (
            Part::Image(Media::Url("https://e.org/a.JPG?x=1".into())),
            Purpose::Answer,
            Some(
                json!({"fileData": {"fileUri": "https://e.org/a.JPG?x=1", "mimeType": "image/jpeg"}}),
            ),
        ),
        (
            Part::Image(Media::Url("https://e.org/a.jpg".into())),
            Purpose::Line,
            None,
        ),
        (
            Part::Image(Media::Url("gs://b/a".into())),
            Purpose::Line,
            None,
        ),
    ] {
        let body = written(&user(part), purpose);
        match wire {
            Some(wire) => assert_eq!(body.unwrap()["contents"][0]["parts"][0], wire),
            None => assert_eq!(body.unwrap_err().kind(), ErrorKind::Unsupported),
        }
    }
}

#[test]
fn raw_bodies_lose_their_model_and_nothing_else() {
    let raw = |endpoint: &str, body: &str| {
        let body = RawValue::from_string(body.to_owned()).unwrap();
        Request::raw("a", endpoint, body).unwrap()
    };
    let request = raw(
        GENERATE,
        "{\"model\":\"gemini-2.5-pro\",\n\"contents\":[ 1e400 ]}",
    );
    assert_eq!(request.model, "gemini-2.5-pro");
    let mut out = Vec::new();
    write_body(&request, Purpose::Answer, &mut out).unwrap();
    assert_eq!(out, b"{\"contents\":[ 1e400 ]}");
    assert!(written(&raw("predict", "{}"), Purpose::Answer).is_err());
}

#[test]
fn what_has_no_form_is_refused() {
    let of = |sampling: Sampling| chat([Message::user("x")]).with_sampling(sampling);
    let mut cached = chat([Message::user("x")]);
    cached.extra.insert("cachedContent".into(), json!("c"));
    assert!(written(&cached, Purpose::Answer).is_ok());
    for request in [
        chat([]),
        chat([Message::system("only")]),
        chat([Message::user("x"), Message::system("late")]),
        chat([Message::new(Role::User, vec![])]),
        chat([Message::new(
            Role::Tool,
            vec![Part::ToolResult(ToolResult::new("c", "x"))],
        )]),
        chat([Message::new(
            Role::Assistant,
            vec![Part::ToolCall(ToolCall::new("c", "f", "no"))],
        )]),
        of(Sampling::new().with_stop(vec!["x".into(); 6]).unwrap()),
        of(Sampling::new().with_seed(i64::MAX)),
        of(Sampling::new().with_reasoning_effort("much").unwrap()),
        Request::embedding("a", MODEL, "x"),
        cached,
    ] {
        let error = written(&request, Purpose::Line).unwrap_err();
        assert!(!error.is_retryable(), "{error}");
    }
}

fn read(body: &Value) -> Result<Response, Unanswered> {
    read_answer(&body.to_string(), &[])
}

#[test]
fn f_065_parts_of_all_kinds_are_read() {
    let response = read(&json!({
        "candidates": [{"content": {"role": "model", "parts": [
            {"text": "hm", "thought": true}, {"text": "a"}, 7, {"text": "b", "thoughtSignature": "s"},
            {"functionCall": {"name": "f", "args": {"x": 1}}}, {"functionCall": {"name": "g"}}]},
            "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 2, "candidatesTokenCount": 3, "thoughtsTokenCount": 4,
            "cachedContentTokenCount": 1, "totalTokenCount": 9},
        "modelVersion": "m", "responseId": "r"}))
    .unwrap();
    assert_eq!(response.text(), "ab");
    assert_eq!(response.finish_reason, Some(FinishReason::ToolCalls));
    let calls: Vec<_> = response
        .content
        .iter()
        .filter_map(|part| match part {
            Part::ToolCall(call) => Some((&*call.id, &*call.name, &*call.arguments)),
            _ => None,
        })
        .collect();
    assert_eq!(calls, [("call-1", "f", "{\"x\":1}"), ("call-2", "g", "{}")]);
    let usage = response.usage;
    assert_eq!(
        (usage.input_tokens, usage.output_tokens),
        (Some(2), Some(7))
    );
    assert_eq!(
        (usage.reasoning_tokens, usage.cache_read_input_tokens),
        (Some(4), Some(1))
    );
    assert_eq!(
        (response.model.as_deref(), response.id.as_deref()),
        (Some("m"), Some("r"))
    );
}

#[test]
fn f_051_f_056_f_062_ends_of_all_kinds() {
    let ended = |reason: &str| {
        let body = json!({"candidates": [{"finishReason": reason}]});
        read(&body).unwrap().finish_reason.unwrap()
    };
    for (word, reason) in [
        ("STOP", FinishReason::Stop),
        ("MAX_TOKENS", FinishReason::Length),
        ("SAFETY", FinishReason::ContentFilter),
        ("PROHIBITED_CONTENT", FinishReason::ContentFilter),
        ("RECITATION", FinishReason::ContentFilter),
        (
            "MALFORMED_FUNCTION_CALL",
            FinishReason::Other("MALFORMED_FUNCTION_CALL".into()),
        ),
        ("HIBERNATED", FinishReason::Other("HIBERNATED".into())),
    ] {
        assert_eq!(ended(word), reason);
    }
    let blocked = read(
        &json!({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}}),
    );
    let blocked = blocked.unwrap();
    assert_eq!(blocked.usage.output_tokens, Some(0));
    assert!(!blocked.into_ending().is_success());
    for hollow in [
        json!({}),
        json!({"candidates": []}),
        json!({"candidates": null}),
        json!({"candidates": [null]}),
        json!({"candidates": [{"content": {"role": "model"}}]}),
        json!({"candidates": {"a": 1}}),
        json!([]),
    ] {
        let Err(Unanswered::Hollow(error)) = read(&hollow) else {
            panic!("{hollow} is no answer")
        };
        assert_eq!(error.class(), RetryClass::Ambiguous);
    }
    let said =
        read(&json!({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "m"}}));
    let Err(Unanswered::Said(error)) = said else {
        panic!("an error within")
    };
    assert_eq!(
        (error.kind(), error.class()),
        (ErrorKind::RateLimited, RetryClass::Rejected)
    );
}

#[test]
fn f_057_f_066_odd_counters_are_unknown() {
    for (usage, input) in [
        (json!(null), None),
        (json!({}), None),
        (json!({"promptTokenCount": -1}), None),
        (json!({"promptTokenCount": "7"}), Some(7)),
        (json!({"candidatesTokenCount": 3}), None),
    ] {
        let body = json!({"candidates": [{"finishReason": "STOP"}], "usageMetadata": usage});
        assert_eq!(read(&body).unwrap().usage.input_tokens, input, "{usage}");
    }
}
