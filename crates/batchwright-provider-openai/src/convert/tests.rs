use super::*;
use crate::dialect::Dialect;
use batchwright_core::{
    Chat, EmbeddingInput, FinishReason, Media, Message, Part, RawBody, Response, ResponseFormat,
    RetryClass, Role, Sampling, Thinking, Tool, ToolCall, ToolChoice, ToolResult, Usage,
};
use batchwright_http::Unanswered;
use serde_json::{Value, json, value::RawValue};

fn form(api: ChatApi) -> Form {
    Form {
        api,
        max_tokens: "max_completion_tokens",
        refused: &[],
        dated: false,
        streamed: false,
    }
}

fn read_answer(body: &str, expect: Expect) -> Result<Response, Unanswered> {
    super::read_answer(body, expect, &Dialect::OPENAI, &[])
}

fn written(request: &Request, api: ChatApi) -> Result<Value> {
    written_as(request, form(api))
}

fn written_as(request: &Request, form: Form) -> Result<Value> {
    let mut out = b"before ".to_vec();
    let result = write_body(request, form, &mut out);
    if result.is_err() {
        assert_eq!(out, b"before ", "an error leaves the buffer as it was");
    }
    result.map(|()| {
        assert!(!out.contains(&b'\n') && !out.contains(&b'\r'));
        serde_json::from_slice(&out[b"before ".len()..]).unwrap()
    })
}

fn chat(messages: impl IntoIterator<Item = Message>) -> Request {
    Request::chat("a", "m", messages)
}

fn user(parts: Vec<Part>) -> Request {
    chat([Message::new(Role::User, parts)])
}

fn inline(media_type: &str, name: Option<&str>) -> Media {
    Media::Inline {
        media_type: media_type.to_owned(),
        base64: "QUJD".to_owned(),
        name: name.map(str::to_owned),
    }
}

fn raw(endpoint: &str, body: &str) -> Request {
    let body = RawValue::from_string(body.to_owned()).unwrap();
    Request::raw("a", endpoint, body).unwrap()
}

const BOTH: [ChatApi; 2] = [ChatApi::ChatCompletions, ChatApi::Responses];

#[test]
fn a_plain_conversation_is_texts() {
    let request = chat([
        Message::system("be brief"),
        Message::user("hi \"there\"\n😀"),
        Message::assistant("hello"),
    ]);
    let turns = json!([
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi \"there\"\n😀"},
        {"role": "assistant", "content": "hello"},
    ]);
    assert_eq!(
        written(&request, ChatApi::ChatCompletions).unwrap(),
        json!({"model": "m", "messages": turns})
    );
    assert_eq!(
        written(&request, ChatApi::Responses).unwrap(),
        json!({"model": "m", "input": turns})
    );
}

#[test]
fn every_part_has_its_form_in_chat_completions() {
    let request = user(vec![
        Part::Text("see".into()),
        Part::Image(Media::Url("https://e.org/a.png".into())),
        Part::Image(inline("image/png", None)),
        Part::Document(inline("application/pdf", Some("a.pdf"))),
        Part::Document(Media::File("file-1".into())),
        Part::Audio(inline("audio/wav", None)),
        Part::Audio(inline("audio/mpeg", None)),
    ]);
    let body = written(&request, ChatApi::ChatCompletions).unwrap();
    assert_eq!(
        body["messages"][0]["content"],
        json!([
            {"type": "text", "text": "see"},
            {"type": "image_url", "image_url": {"url": "https://e.org/a.png"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"}},
            {"type": "file", "file": {"file_id": "file-1"}},
            {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}},
            {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "mp3"}},
        ])
    );
}

#[test]
fn every_part_has_its_form_in_responses() {
    let request = user(vec![
        Part::Text("see".into()),
        Part::Image(Media::Url("https://e.org/a.png".into())),
        Part::Image(Media::File("file-1".into())),
        Part::Document(inline("application/pdf", None)),
        Part::Document(Media::Url("https://e.org/a.pdf".into())),
        Part::Document(Media::File("file-2".into())),
    ]);
    let body = written(&request, ChatApi::Responses).unwrap();
    assert_eq!(
        body["input"][0]["content"],
        json!([
            {"type": "input_text", "text": "see"},
            {"type": "input_image", "image_url": "https://e.org/a.png"},
            {"type": "input_image", "file_id": "file-1"},
            {"type": "input_file", "filename": "document", "file_data": "data:application/pdf;base64,QUJD"},
            {"type": "input_file", "file_url": "https://e.org/a.pdf"},
            {"type": "input_file", "file_id": "file-2"},
        ])
    );
}

#[test]
fn tool_turns_are_split_as_each_api_wants_them() {
    let request = chat([
        Message::user("weather?"),
        Message::new(
            Role::Assistant,
            vec![
                Part::Thinking(Thinking::new("hm", None)),
                Part::ToolCall(ToolCall::new("c1", "f", "{\"a\":1}")),
                Part::ToolCall(ToolCall::new("c2", "g", "{}")),
            ],
        ),
        Message::new(
            Role::Tool,
            vec![
                Part::ToolResult(ToolResult::new("c1", "sun")),
                Part::ToolResult(ToolResult::new("c2", "rain")),
            ],
        ),
        Message::new(
            Role::Assistant,
            vec![
                Part::Text("both".into()),
                Part::ToolCall(ToolCall::new("c3", "f", "{}")),
            ],
        ),
    ]);
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    assert_eq!(
        written(&request, ChatApi::ChatCompletions).unwrap()["messages"],
        json!([
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": null, "tool_calls": [call("c1", "f", "{\"a\":1}"), call("c2", "g", "{}")]},
            {"role": "tool", "tool_call_id": "c1", "content": "sun"},
            {"role": "tool", "tool_call_id": "c2", "content": "rain"},
            {"role": "assistant", "content": "both", "tool_calls": [call("c3", "f", "{}")]},
        ])
    );
    assert_eq!(
        written(&request, ChatApi::Responses).unwrap()["input"],
        json!([
            {"role": "user", "content": "weather?"},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"a\":1}"},
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "sun"},
            {"type": "function_call_output", "call_id": "c2", "output": "rain"},
            {"role": "assistant", "content": "both"},
            {"type": "function_call", "call_id": "c3", "name": "f", "arguments": "{}"},
        ])
    );
}

#[test]
fn tools_choices_and_formats_are_nested_in_one_api_and_flat_in_the_other() {
    let tools = vec![
        Tool::new("f", Some("does".into()), json!({"type": "object"})).with_strict(true),
        Tool::new("g", None, json!({})),
    ];
    let format = ResponseFormat::JsonSchema {
        name: "s".into(),
        schema: json!({"type": "object"}),
        strict: true,
    };
    let conversation = Chat::new([Message::user("hi")])
        .with_tools(tools, Some(ToolChoice::Named("f".into())))
        .with_response_format(format);
    let request = Request::new("a", "m", Payload::Chat(conversation));
    let body = written(&request, ChatApi::ChatCompletions).unwrap();
    assert_eq!(
        body["tools"],
        json!([
            {"type": "function", "function": {"name": "f", "description": "does", "parameters": {"type": "object"}, "strict": true}},
            {"type": "function", "function": {"name": "g", "parameters": {}}},
        ])
    );
    assert_eq!(
        body["tool_choice"],
        json!({"type": "function", "function": {"name": "f"}})
    );
    assert_eq!(
        body["response_format"],
        json!({"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": true}})
    );
    let body = written(&request, ChatApi::Responses).unwrap();
    assert_eq!(
        body["tools"],
        json!([
            {"type": "function", "name": "f", "description": "does", "parameters": {"type": "object"}, "strict": true},
            {"type": "function", "name": "g", "parameters": {}},
        ])
    );
    assert_eq!(
        body["tool_choice"],
        json!({"type": "function", "name": "f"})
    );
    assert_eq!(
        body["text"]["format"],
        json!({"type": "json_schema", "name": "s", "schema": {"type": "object"}, "strict": true})
    );
    for (choice, word) in [
        (ToolChoice::Auto, "auto"),
        (ToolChoice::None, "none"),
        (ToolChoice::Required, "required"),
    ] {
        let chat = Chat::new([Message::user("hi")])
            .with_tools(vec![], Some(choice))
            .with_response_format(ResponseFormat::Json);
        let request = Request::new("a", "m", Payload::Chat(chat));
        let body = written(&request, ChatApi::ChatCompletions).unwrap();
        assert_eq!(body["tool_choice"], word);
        assert_eq!(body["response_format"], json!({"type": "json_object"}));
        assert_eq!(
            written(&request, ChatApi::Responses).unwrap()["text"],
            json!({"format": {"type": "json_object"}})
        );
    }
}

#[test]
fn sampling_takes_each_apis_names() {
    let sampling = Sampling::new()
        .with_temperature(0.5)
        .and_then(|sampling| sampling.with_top_p(0.9))
        .and_then(|sampling| sampling.with_max_output_tokens(7))
        .and_then(|sampling| sampling.with_reasoning_effort("low"))
        .unwrap();
    let request = chat([Message::user("hi")]).with_sampling(sampling.clone());
    let body = written(&request, ChatApi::Responses).unwrap();
    assert_eq!(
        body,
        json!({"model": "m", "input": [{"role": "user", "content": "hi"}], "max_output_tokens": 7,
            "temperature": 0.5, "top_p": 0.9, "reasoning": {"effort": "low"}})
    );
    let sampling = sampling
        .with_seed(9)
        .with_stop(vec!["END".into()])
        .and_then(|sampling| sampling.with_frequency_penalty(-1.0))
        .and_then(|sampling| sampling.with_presence_penalty(1.0))
        .unwrap();
    let request = request.with_sampling(sampling);
    assert_eq!(
        written(&request, ChatApi::ChatCompletions).unwrap(),
        json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 7,
            "temperature": 0.5, "top_p": 0.9, "frequency_penalty": -1.0, "presence_penalty": 1.0, "seed": 9,
            "stop": ["END"], "reasoning_effort": "low"})
    );
    assert_eq!(
        written(&request, ChatApi::Responses).unwrap_err().kind(),
        ErrorKind::Unsupported
    );
}

#[test]
fn what_the_api_has_no_form_for_is_refused_before_anything_is_sent() {
    use ErrorKind::{InvalidRequest, Unsupported};
    let sampled =
        |sampling: Result<Sampling>| chat([Message::user("hi")]).with_sampling(sampling.unwrap());
    let turn = |role, part| chat([Message::new(role, vec![part])]);
    let extra = |key: &str| {
        let extra = serde_json::Map::from_iter([(key.to_owned(), Value::from(true))]);
        chat([Message::user("hi")]).with_extra(extra)
    };
    let embedding = |texts: usize| {
        let texts = (0..texts).map(|text| text.to_string());
        Request::new("a", "m", Payload::Embedding(EmbeddingInput::new(texts)))
    };
    let result = || Part::ToolResult(ToolResult::new("c", "x"));
    let in_both = [
        ("no message", chat([]), InvalidRequest),
        ("top_k", sampled(Sampling::new().with_top_k(3)), Unsupported),
        (
            "five stops",
            sampled(Sampling::new().with_stop(vec!["x".into(); 5])),
            InvalidRequest,
        ),
        ("stream", extra("stream"), InvalidRequest),
        ("background", extra("background"), InvalidRequest),
        (
            "a call by the user",
            turn(Role::User, Part::ToolCall(ToolCall::new("", "", ""))),
            InvalidRequest,
        ),
        (
            "a result by the model",
            turn(Role::Assistant, result()),
            InvalidRequest,
        ),
        (
            "words of a tool",
            turn(Role::Tool, Part::Text("x".into())),
            InvalidRequest,
        ),
        (
            "a picture of the system",
            turn(Role::System, Part::Image(Media::File("f".into()))),
            InvalidRequest,
        ),
        (
            "sound by URL",
            turn(Role::User, Part::Audio(Media::Url("u".into()))),
            Unsupported,
        ),
        (
            "odd sound",
            turn(Role::User, Part::Audio(inline("audio/ogg", None))),
            Unsupported,
        ),
        ("no text", embedding(0), InvalidRequest),
        ("too many texts", embedding(2049), InvalidRequest),
        (
            "warm vectors",
            embedding(1).with_sampling(Sampling::new().with_seed(1)),
            Unsupported,
        ),
        (
            "raw stream",
            raw("/v1/responses", r#"{"model":"m","stream":true}"#),
            InvalidRequest,
        ),
        (
            "raw background",
            raw("/v1/responses", r#"{"model":"m","background":true}"#),
            InvalidRequest,
        ),
        (
            "raw and seed",
            raw("/v1/responses", "{}").with_sampling(Sampling::new().with_seed(1)),
            InvalidRequest,
        ),
    ];
    for (what, request, kind) in in_both {
        for api in BOTH {
            assert_eq!(
                written(&request, api).unwrap_err().kind(),
                kind,
                "{what} {api:?}"
            );
        }
    }
    for (api, part) in [
        (
            ChatApi::ChatCompletions,
            Part::Image(Media::File("f".into())),
        ),
        (
            ChatApi::ChatCompletions,
            Part::Document(Media::Url("u".into())),
        ),
        (ChatApi::Responses, Part::Audio(inline("audio/wav", None))),
    ] {
        assert_eq!(
            written(&turn(Role::User, part), api).unwrap_err().kind(),
            Unsupported
        );
    }
}

#[test]
fn extra_fields_are_laid_over_the_body() {
    let extra = json!({"temperature": 1, "service_tier": "flex", "metadata": {"a": "b"}});
    let request = chat([Message::user("hi")])
        .with_sampling(Sampling::new().with_temperature(0.5).unwrap())
        .with_extra(extra.as_object().unwrap().clone());
    let mut out = Vec::new();
    write_body(&request, form(ChatApi::ChatCompletions), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(
        text.matches("\"temperature\"").count(),
        1,
        "no key twice: {text}"
    );
    let body: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(body["temperature"], 1);
    assert_eq!(body["service_tier"], "flex");
    assert_eq!(body["metadata"]["a"], "b");
}

#[test]
fn a_raw_body_is_kept_and_put_into_one_line() {
    let request = raw(
        "/v1/moderations",
        "{ \"model\":\"m\",\r\n \"big\": 12345678901234567890, \"a\":\"\\n\", \"stream\": false}",
    );
    let mut out = Vec::new();
    write_body(&request, form(ChatApi::ChatCompletions), &mut out).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "{ \"model\":\"m\",   \"big\": 12345678901234567890, \"a\":\"\\n\", \"stream\": false}"
    );
    assert_eq!(
        endpoint(&request, ChatApi::Responses).unwrap(),
        "/v1/moderations"
    );
    let Payload::Raw(RawBody { body, .. }) = &request.payload else {
        panic!("raw")
    };
    assert!(body.get().contains('\n'), "the request itself is untouched");
}

#[test]
fn embeddings_are_a_list_of_texts() {
    let input = EmbeddingInput::new(["a".to_owned(), "b".to_owned()]).with_dimensions(8);
    let request = Request::new("a", "m", Payload::Embedding(input));
    assert_eq!(
        written(&request, ChatApi::Responses).unwrap(),
        json!({"model": "m", "input": ["a", "b"], "dimensions": 8})
    );
}

// ---- answers ----

fn chat_answer(choice: Value) -> String {
    json!({"id": "chatcmpl-1", "object": "chat.completion", "model": "m-1", "error": null, "choices": [choice],
        "usage": {"prompt_tokens": 21, "completion_tokens": 3, "total_tokens": 24,
            "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 1}}})
    .to_string()
}

fn said_by(message: Value, finish_reason: &str) -> Response {
    let choice = json!({"index": 0, "finish_reason": finish_reason, "message": message});
    read_answer(&chat_answer(choice), Expect::Chat).unwrap()
}

#[test]
fn a_chat_completion_is_read() {
    let answer = said_by(
        json!({"role": "assistant", "content": "Par\"is.", "refusal": null}),
        "stop",
    );
    assert_eq!(answer.text(), "Par\"is.");
    assert_eq!(answer.id.as_deref(), Some("chatcmpl-1"));
    assert_eq!(answer.model.as_deref(), Some("m-1"));
    assert_eq!(answer.finish_reason, Some(FinishReason::Stop));
    let usage = answer.usage;
    assert_eq!(
        (usage.input_tokens, usage.output_tokens),
        (Some(21), Some(3))
    );
    assert_eq!(usage.cache_read_input_tokens, Some(5));
    assert_eq!(usage.cache_creation_input_tokens, Some(2));
    assert_eq!(usage.reasoning_tokens, Some(1));
}

#[test]
fn f_056_f_061_f_062_f_063_f_064_ends_that_are_not_plain_success() {
    let answer = said_by(json!({"content": null, "refusal": "I will not."}), "stop");
    assert_eq!(answer.finish_reason, Some(FinishReason::Refusal));
    assert_eq!(answer.text(), "I will not.");
    let answer = said_by(json!({"content": "half"}), "content_filter");
    assert_eq!(answer.finish_reason, Some(FinishReason::ContentFilter));
    let answer = said_by(json!({"content": ""}), "length");
    assert!(answer.is_truncated() && answer.content.is_empty());
    let answer = said_by(json!({"content": "x"}), "hibernated");
    assert_eq!(answer.finish_reason.unwrap().as_str(), "hibernated");
    let calls = json!({"content": null, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{not json"}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": {"a": 1}}},
        {"id": "c3", "type": "custom", "custom": {"name": "h", "input": "free"}},
    ]});
    let answer = said_by(calls, "tool_calls");
    assert_eq!(
        answer.content,
        [
            Part::ToolCall(ToolCall::new("c1", "f", "{not json")),
            Part::ToolCall(ToolCall::new("c2", "g", "{\"a\":1}")),
            Part::ToolCall(ToolCall::new("c3", "h", "free")),
        ]
    );
}

#[test]
fn compatible_servers_forms_are_read() {
    let answer = said_by(
        json!({"content": [{"type": "text", "text": "a"}, 7, {"type": "text", "text": "b"}]}),
        "stop",
    );
    assert_eq!(answer.text(), "ab");
    let answer = said_by(
        json!({"reasoning_content": "hm", "reasoning": "hm", "content": "a"}),
        "stop",
    );
    assert_eq!(answer.content[0], Part::Thinking(Thinking::new("hm", None)));
    assert_eq!(answer.text(), "a");
    // F-217: the old form.
    let old = chat_answer(json!({"text": "old", "finish_reason": "stop"}));
    assert_eq!(read_answer(&old, Expect::Any).unwrap().text(), "old");
}

fn hollow_because(body: &str, expect: Expect) -> Error {
    match read_answer(body, expect) {
        Err(Unanswered::Hollow(error)) => error,
        Err(Unanswered::Said(error)) => panic!("{body}: {error}"),
        Ok(_) => panic!("{body}: an answer"),
    }
}

#[test]
fn f_051_f_052_f_053_a_success_without_an_answer_is_ambiguous() {
    for body in [
        "",
        " \n",
        "null",
        "{}",
        "[]",
        "\"text\"",
        "7",
        "<html>hello</html>",
        r#"{"choices":null}"#,
        r#"{"choices":[]}"#,
        r#"{"choices":[null]}"#,
        r#"{"choices":[{}]}"#,
        r#"{"choices":[{"message":null}]}"#,
        r#"{"choices":{}}"#,
        r#"{"choices":[{"message":{"content":"cut"#,
        r#"{"output":[],"status":"completed"}"#,
        r#"{"output":[],"status":"in_progress"}"#,
        r#"{"output":[],"status":"failed"}"#,
        r#"{"data":[]}"#,
        r#"{"error":null}"#,
    ] {
        for expect in [Expect::Chat, Expect::Embeddings(1), Expect::Any] {
            let error = hollow_because(body, expect);
            assert_eq!(error.kind(), ErrorKind::ProviderFault, "{body}");
            assert_eq!(error.class(), RetryClass::Ambiguous, "{body}");
        }
    }
    let deep = format!("{{\"choices\":{}", "[".repeat(100_000));
    hollow_because(&deep, Expect::Any);
    let paid = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":0}}"#;
    assert_eq!(
        hollow_because(paid, Expect::Chat)
            .usage()
            .unwrap()
            .input_tokens,
        Some(3)
    );
}

#[test]
fn f_050_an_error_in_a_success_is_found_before_the_answer() {
    for body in [
        r#"{"error":{"message":"no","code":400}}"#,
        r#"{"error":{"message":"no","code":400},"choices":[{"message":{"content":"x"}}]}"#,
        r#"{"error":{"message":"no","code":400},"choices":"odd"}"#,
        r#"{"choices":[{"error":{"message":"no","code":400},"message":{"content":""}}]}"#,
    ] {
        match read_answer(body, Expect::Chat) {
            Err(Unanswered::Said(error)) => {
                assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{body}");
            }
            _ => panic!("{body}"),
        }
    }
}

#[test]
fn responses_are_read() {
    let read = |body: Value| read_answer(&body.to_string(), Expect::Chat);
    let message = |parts: Value| json!({"type": "message", "role": "assistant", "content": parts});
    let good = json!({"id": "resp_1", "object": "response", "status": "completed", "error": null,
        "incomplete_details": null, "model": "m-1",
        "output": [
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "sig"},
            {"type": "web_search_call", "name": {"odd": 1}, "content": 7},
            message(json!([{"type": "output_text", "text": "Par", "annotations": []}, {"type": "output_text", "text": "is."}])),
        ],
        "usage": {"input_tokens": 21, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 67,
            "output_tokens_details": {"reasoning_tokens": 64}}});
    let answer = read(good).unwrap();
    assert_eq!(answer.text(), "Paris.");
    assert_eq!(
        answer.content[0],
        Part::Thinking(Thinking::new("hm", Some("sig".into())))
    );
    assert_eq!(answer.finish_reason, Some(FinishReason::Stop));
    assert_eq!(answer.usage.reasoning_tokens, Some(64));
    assert_eq!(answer.usage.cache_read_input_tokens, Some(4));

    let ended = |status: &str, reason: Value, output: Value| {
        read(json!({"status": status, "incomplete_details": {"reason": reason}, "output": output}))
    };
    let text = json!([{"type": "output_text", "text": "x"}]);
    for (status, reason, output, expected) in [
        (
            "incomplete",
            json!("max_output_tokens"),
            json!([]),
            FinishReason::Length,
        ),
        (
            "incomplete",
            json!("content_filter"),
            json!([message(text.clone())]),
            FinishReason::ContentFilter,
        ),
        (
            "incomplete",
            json!("moon"),
            json!([]),
            FinishReason::Other("moon".into()),
        ),
        (
            "completed",
            json!(null),
            json!([{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]),
            FinishReason::ToolCalls,
        ),
        (
            "completed",
            json!(null),
            json!([message(json!([{"type": "refusal", "refusal": "no"}]))]),
            FinishReason::Refusal,
        ),
        (
            "hibernating",
            json!(null),
            json!([message(text)]),
            FinishReason::Other("hibernating".into()),
        ),
    ] {
        let answer = ended(status, reason, output).unwrap();
        assert_eq!(answer.finish_reason, Some(expected), "{status}");
    }
    let failed = json!({"status": "failed", "output": [], "error": {"code": "rate_limit_exceeded", "message": "slow"}});
    let error = read(failed).unwrap_err().into_error();
    assert_eq!(error.kind(), ErrorKind::RateLimited);
}

#[test]
fn vectors_are_put_in_the_order_of_their_texts() {
    let read = |data: Value, expect| {
        read_answer(
            &json!({"object": "list", "data": data, "usage": {"prompt_tokens": 5}}).to_string(),
            expect,
        )
        .map(|answer| {
            (
                answer.embeddings,
                answer.usage.input_tokens,
                answer.finish_reason,
            )
        })
    };
    let two = json!([{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": "AACAPw=="}]);
    let expected = (vec![vec![1.0], vec![2.0]], Some(5), None);
    assert_eq!(read(two.clone(), Expect::Embeddings(2)).unwrap(), expected);
    assert_eq!(read(two.clone(), Expect::Any).unwrap(), expected);
    for (what, data, expect) in [
        ("one too few", two, Expect::Embeddings(3)),
        (
            "a double",
            json!([{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [2]}]),
            Expect::Embeddings(2),
        ),
        (
            "a hole",
            json!([{"index": 0, "embedding": [1]}, {"index": 2, "embedding": [2]}]),
            Expect::Any,
        ),
        (
            "no vector",
            json!([{"index": 0, "embedding": [1]}, {"index": 1}]),
            Expect::Any,
        ),
        (
            "an empty vector",
            json!([{"index": 0, "embedding": []}]),
            Expect::Embeddings(1),
        ),
        (
            "no numbers",
            json!([{"index": 0, "embedding": ["a"]}]),
            Expect::Embeddings(1),
        ),
    ] {
        assert!(read(data, expect).is_err(), "{what}");
    }
}

/// What is read of a body in one go and step by step.
fn both(body: &str, dialect: &Dialect) -> [String; 2] {
    let shown = |read: Result<Response, Unanswered>| match read {
        Ok(answer) => format!(
            "{:?} {:?} {:?} {:?} {:?} {:?}",
            answer.id,
            answer.model,
            answer.text(),
            answer.content,
            answer.finish_reason,
            answer.usage
        ),
        Err(unanswered) => {
            let shown = format!("{unanswered:?}");
            format!("{shown} {:?}", unanswered.into_error().usage())
        }
    };
    [
        shown(read_body(body, Expect::Chat, dialect, &[])),
        shown(super::read_answer(body, Expect::Chat, dialect, &[])),
    ]
}

#[test]
fn a_plain_answer_is_read_in_one_go_and_kept() {
    let body = r#" {"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"a\n\u00e9","refusal":null,"annotations":[{}],"tool_calls":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":1},"completion_tokens_details":{"reasoning_tokens":2,"audio_tokens":0}},"system_fingerprint":null}
"#;
    let answer = read_body(body, Expect::Chat, &Dialect::OPENAI, &[]).unwrap();
    assert_eq!(answer.raw.unwrap().get(), body.trim());
    let [plain, stepwise] = both(body, &Dialect::OPENAI);
    assert_eq!(plain, stepwise);
    let calls = body.replace(
        "[]",
        r#"[{"id":"t","function":{"name":"f","arguments":"{}"}}]"#,
    );
    let answer = read_body(&calls, Expect::Chat, &Dialect::OPENAI, &[]).unwrap();
    assert_eq!((answer.raw.is_none(), answer.content.len()), (true, 2));
}

proptest::proptest! {
    /// F-054, F-056, F-057, F-059: what is read in one go is what is read step by step, however odd.
    #[test]
    fn an_answer_is_the_same_by_either_way(
        fields in proptest::collection::vec((0usize..23, 0usize..18), 0..7),
        reasoning_apart in proptest::bool::ANY,
    ) {
        let values = [
            "null", "7", "-1", "1.5", "1e999", "\"\"", "\"a\\\"b\"", "\"\\ud800\"", "\"stop\"", "[]", "{}",
            "[1]", "[{\"text\":\"p\"}]", "true", "\"error\"", "{\"message\":\"m\",\"code\":\"c\"}", "\"a\nb\"", "tru",
        ];
        let mut at: Vec<(Vec<&str>, &str)> = Vec::new();
        let paths = [
            "id", "model", "error", "choices", "usage", "x_groq", "output", "data", "results", "other",
            "choices/message", "choices/text", "choices/finish_reason", "choices/error",
            "choices/message/content", "choices/message/refusal", "choices/message/reasoning",
            "choices/message/reasoning_content", "choices/message/tool_calls",
            "usage/prompt_tokens", "usage/output_tokens", "usage/prompt_tokens_details",
            "usage/completion_tokens_details",
        ];
        for (path, value) in fields {
            let path: Vec<_> = paths[path].split('/').collect();
            at.retain(|(other, _)| *other != path);
            at.push((path, values[value]));
        }
        let get = |path: &[&str]| at.iter().find(|(other, _)| other == path).map(|(_, value)| *value);
        let object = |path: &[&str], inner: &[(&str, Option<String>)]| {
            if let Some(value) = get(path) && !path.is_empty() {
                return value.to_owned();
            }
            let own = at.iter().filter(|(other, _)| other.len() == path.len() + 1 && other.starts_with(path));
            let mut members: Vec<_> = own.map(|(path, value)| format!("\"{}\":{value}", path[path.len() - 1])).collect();
            for (name, value) in inner {
                let whole: Vec<_> = path.iter().chain([name]).copied().collect();
                if let (Some(value), None) = (value, get(&whole)) {
                    members.push(format!("\"{name}\":{value}"));
                }
            }
            format!("{{{}}}", members.join(","))
        };
        let content = Some("\"said\"".to_owned());
        let message = object(&["choices", "message"], &[("content", content)]);
        let choice = object(&["choices"], &[("message", Some(message))]);
        let choices = if choice.starts_with('{') { format!("[{choice}]") } else { choice };
        let usage = object(&["usage"], &[]);
        let body = object(&[], &[("choices", Some(choices)), ("usage", Some(usage))]);
        let mut dialect = Dialect::OPENAI;
        dialect.reasoning_apart = reasoning_apart;
        dialect.failed_finishes = &[("error", ErrorKind::ProviderFault, RetryClass::Ambiguous)];
        let [plain, stepwise] = both(&body, &dialect);
        proptest::prop_assert_eq!(plain, stepwise, "{}", body);
    }
}

#[test]
fn answers_without_words_of_ours_keep_their_body() {
    for body in [
        r#"{"id":"modr-1","model":"m","results":[{"flagged":false}]}"#,
        r#"{"created":1,"data":[{"b64_json":"QUJD"}]}"#,
    ] {
        let answer = read_answer(body, Expect::Any).unwrap();
        assert_eq!(answer.raw.unwrap().get(), body);
        hollow_because(body, Expect::Chat);
    }
}

#[test]
fn f_057_f_066_odd_counters_are_unknown() {
    for (json, expected) in [
        (
            r#"{"prompt_tokens":1,"completion_tokens":2}"#,
            Usage::of(1, 2),
        ),
        (r#"{"input_tokens":1,"output_tokens":2}"#, Usage::of(1, 2)),
        (
            r#"{"prompt_tokens":1.5,"completion_tokens":"2"}"#,
            Usage::default(),
        ),
        (
            r#"{"prompt_tokens":-1,"prompt_tokens_details":7}"#,
            Usage::default(),
        ),
        ("[]", Usage::default()),
        ("null", Usage::default()),
        ("7", Usage::default()),
    ] {
        let raw = RawValue::from_string(json.to_owned()).unwrap();
        assert_eq!(usage(Some(&raw), &Dialect::OPENAI), expected, "{json}");
    }
    assert!(usage(None, &Dialect::OPENAI).is_unknown());
}

#[test]
fn a_dialect_names_the_bound_and_refuses_what_it_does_not_take() {
    let dialect = Form {
        max_tokens: "max_tokens",
        refused: &["seed", "logit_bias"],
        ..form(ChatApi::ChatCompletions)
    };
    let mut request = chat([Message::user("x")]);
    request.sampling = Sampling::default().with_max_output_tokens(7).unwrap();
    let body = written_as(&request, dialect).unwrap();
    assert_eq!(body["max_tokens"], 7);
    assert_eq!(body.get("max_completion_tokens"), None);
    let mut seeded = chat([Message::user("x")]);
    seeded.sampling = Sampling::default().with_seed(1);
    let mut biased = chat([Message::user("x")]);
    biased.extra.insert("logit_bias".into(), json!({}));
    for request in [seeded, biased] {
        assert!(written(&request, ChatApi::ChatCompletions).is_ok());
        let error = written_as(&request, dialect).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
