use super::*;
use batchwright_core::{
    Chat, EmbeddingInput, FinishReason, Media, Message, Part, Response, ResponseFormat, RetryClass,
    Role, Sampling, Thinking, Tool, ToolCall, ToolChoice, ToolResult, Usage,
};
use batchwright_http::Unanswered;
use serde_json::{Map, Value, json, value::RawValue};

fn written_for(request: &Request, purpose: Purpose) -> Result<Value> {
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

fn written(request: &Request) -> Result<Value> {
    let line = written_for(request, Purpose::Line);
    let direct = written_for(request, Purpose::Answer);
    if let Ok(line) = &line {
        assert_eq!(line, direct.as_ref().unwrap(), "one body for both");
    }
    line
}

fn chat(messages: impl IntoIterator<Item = Message>) -> Request {
    Request::chat("a", "gemini-2.5-flash", messages)
}

fn as_chat(chat: Chat) -> Request {
    Request::new("a", "gemini-2.5-flash", Payload::Chat(chat))
}

fn extra(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn a_conversation_has_its_system_apart() {
    let request = chat([
        Message::system("Be brief."),
        Message::system("Be kind."),
        Message::user("a \"b\"\n名"),
        Message::assistant("c"),
        Message::user("d"),
    ]);
    assert_eq!(
        written(&request).unwrap(),
        json!({
            "systemInstruction": {"parts": [{"text": "Be brief."}, {"text": "Be kind."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "a \"b\"\n名"}]},
                {"role": "model", "parts": [{"text": "c"}]},
                {"role": "user", "parts": [{"text": "d"}]},
            ],
        })
    );
}

#[test]
fn media_go_inline_or_by_address() {
    let inline = |media_type: &str| Media::Inline {
        media_type: media_type.into(),
        base64: "QUJD".into(),
        name: None,
    };
    let request = chat([Message::new(
        Role::User,
        vec![
            Part::Image(inline("image/png")),
            Part::Document(Media::Url("https://e.example/d.pdf".into())),
            Part::Audio(Media::File("https://g.example/v1beta/files/a".into())),
        ],
    )]);
    let parts = written(&request).unwrap()["contents"][0]["parts"].clone();
    assert_eq!(
        parts,
        json!([
            {"inlineData": {"mimeType": "image/png", "data": "QUJD"}},
            {"fileData": {"fileUri": "https://e.example/d.pdf"}},
            {"fileData": {"fileUri": "https://g.example/v1beta/files/a"}},
        ])
    );
}

#[test]
fn sampling_and_formats_become_the_generation_config() {
    let sampling = Sampling::new()
        .with_temperature(0.5)
        .and_then(|s| s.with_top_p(0.9))
        .and_then(|s| s.with_top_k(3))
        .and_then(|s| s.with_max_output_tokens(64))
        .and_then(|s| s.with_stop(vec!["x".into()]))
        .and_then(|s| s.with_reasoning_effort("high"))
        .unwrap()
        .with_seed(-7);
    let format = ResponseFormat::JsonSchema {
        name: "n".into(),
        schema: json!({"type": "object"}),
        strict: true,
    };
    let chat = Chat::new([Message::user("a")]).with_response_format(format);
    let request = as_chat(chat).with_sampling(sampling);
    assert_eq!(
        written(&request).unwrap()["generationConfig"],
        json!({
            "temperature": 0.5, "topP": 0.9, "topK": 3, "maxOutputTokens": 64, "stopSequences": ["x"], "seed": -7,
            "responseMimeType": "application/json", "responseJsonSchema": {"type": "object"},
            "thinkingConfig": {"thinkingBudget": 24576},
        })
    );
    // An unset parameter is never sent.
    let plain = written(&self::chat([Message::user("a")])).unwrap();
    assert!(plain["generationConfig"].is_null());
}

#[test]
fn efforts_are_levels_for_models_that_know_them() {
    let config = |model: &str, effort: &str| {
        let sampling = Sampling::new().with_reasoning_effort(effort).unwrap();
        let request = Request::chat("a", model, [Message::user("a")]).with_sampling(sampling);
        written(&request).map(|body| body["generationConfig"]["thinkingConfig"].clone())
    };
    let level = json!({"thinkingLevel": "LOW"});
    assert_eq!(config("gemini-3-pro-preview", "low").unwrap(), level);
    assert_eq!(config("models/gemini-3-flash", "low").unwrap(), level);
    assert_eq!(
        config("models/gemini-2.5-flash", "none").unwrap(),
        json!({"thinkingBudget": 0})
    );
    assert!(config("gemini-3-pro-preview", "none").is_err());
    assert!(config("gemini-2.5-pro", "very").is_err());
}

#[test]
fn tools_are_declared_and_their_choice_is_a_mode() {
    let tool = |strict| {
        let mut tool = Tool::new("f", Some("does".into()), json!({"type": "object"}));
        tool.strict = strict;
        tool
    };
    let body = |strict, choice| {
        let chat = Chat::new([Message::user("a")]).with_tools(vec![tool(strict)], choice);
        written(&as_chat(chat)).unwrap()
    };
    assert_eq!(
        body(None, None)["tools"],
        json!([{"functionDeclarations": [
            {"name": "f", "description": "does", "parametersJsonSchema": {"type": "object"}},
        ]}])
    );
    for (strict, choice, config) in [
        (None, None, Value::Null),
        (Some(true), None, json!({"mode": "VALIDATED"})),
        (
            Some(true),
            Some(ToolChoice::Auto),
            json!({"mode": "VALIDATED"}),
        ),
        (None, Some(ToolChoice::Auto), json!({"mode": "AUTO"})),
        (None, Some(ToolChoice::None), json!({"mode": "NONE"})),
        (
            Some(true),
            Some(ToolChoice::Required),
            json!({"mode": "ANY"}),
        ),
        (
            None,
            Some(ToolChoice::Named("f".into())),
            json!({"mode": "ANY", "allowedFunctionNames": ["f"]}),
        ),
    ] {
        let body = body(strict, choice);
        assert_eq!(body["toolConfig"]["functionCallingConfig"], config);
    }
}

/// A signature stands before its part as empty reasoning, and goes back into the part.
#[test]
fn calls_signatures_and_results_make_the_round() {
    let answer = json!({"candidates": [{"finishReason": "STOP", "content": {"role": "model", "parts": [
        {"text": "hm", "thought": true},
        {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "c2ln"},
        {"functionCall": {"id": "v-1", "name": "g"}},
    ]}}]});
    let response = read(&answer, Expect::Chat).unwrap();
    assert_eq!(response.finish_reason, Some(FinishReason::ToolCalls));
    let calls: Vec<&ToolCall> = response
        .content
        .iter()
        .filter_map(|part| match part {
            Part::ToolCall(call) => Some(call),
            _ => None,
        })
        .collect();
    assert_eq!(calls[0].arguments, r#"{"a":1}"#);
    assert_eq!(calls[1].id, "v-1");
    let results = calls
        .iter()
        .zip(["{\"x\":\n2}", "plain"])
        .map(|(call, said)| Part::ToolResult(ToolResult::new(&call.id, said)));
    let request = chat([
        Message::user("q"),
        Message::new(Role::Assistant, response.content.clone()),
        Message::new(Role::Tool, results.collect()),
    ]);
    assert_eq!(
        written(&request).unwrap()["contents"],
        json!([
            {"role": "user", "parts": [{"text": "q"}]},
            {"role": "model", "parts": [
                {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "c2ln"},
                {"functionCall": {"id": "v-1", "name": "g", "args": {}}},
            ]},
            {"role": "user", "parts": [
                {"functionResponse": {"name": "f", "response": {"x": 2}}},
                {"functionResponse": {"id": "v-1", "name": "g", "response": {"result": "plain"}}},
            ]},
        ])
    );
    let signed = Part::Thinking(Thinking::new("shown", Some("c2ln".into())));
    let request = chat([
        Message::user("q"),
        Message::new(Role::Assistant, vec![signed, Part::Text("a".into())]),
    ]);
    assert_eq!(
        written(&request).unwrap()["contents"][1]["parts"],
        json!([{"text": "shown", "thought": true, "thoughtSignature": "c2ln"}, {"text": "a"}])
    );
}

#[test]
fn extra_fields_are_laid_over_and_the_config_is_merged() {
    let sampling = Sampling::new().with_temperature(0.5).unwrap();
    let request = chat([Message::system("s"), Message::user("a")])
        .with_sampling(sampling)
        .with_extra(extra(json!({
            "generationConfig": {"temperature": 1, "candidateCount": 1},
            "systemInstruction": {"parts": [{"text": "theirs"}]},
            "safetySettings": [],
        })));
    let body = written(&request).unwrap();
    assert_eq!(
        body["generationConfig"],
        json!({"temperature": 1, "candidateCount": 1})
    );
    assert_eq!(body["systemInstruction"]["parts"][0]["text"], "theirs");
    assert_eq!(body["safetySettings"], json!([]));
    let alone = chat([Message::user("a")])
        .with_extra(extra(json!({"generationConfig": {"candidateCount": 1}})));
    assert_eq!(
        written(&alone).unwrap()["generationConfig"],
        json!({"candidateCount": 1})
    );
}

#[test]
fn a_cached_beginning_holds_system_and_tools() {
    let cached = extra(json!({"cachedContent": "cachedContents/c"}));
    let plain = chat([Message::user("a")]).with_extra(cached.clone());
    assert_eq!(
        written(&plain).unwrap()["cachedContent"],
        "cachedContents/c"
    );
    let system = chat([Message::system("s"), Message::user("a")]).with_extra(cached);
    let error = written(&system).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    let tool = Tool::new("f", None, json!({}));
    let begin = Chat::new([Message::system("s"), Message::user("long")])
        .with_tools(vec![tool], Some(ToolChoice::Auto));
    let fields = prefix_fields(&begin).unwrap();
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["contents", "systemInstruction", "toolConfig", "tools"]
    );
}

#[test]
fn what_has_no_form_is_refused() {
    let sampled =
        |request: Request| request.with_sampling(Sampling::new().with_temperature(0.5).unwrap());
    let raw = |endpoint: &str, body: &str| {
        let body = RawValue::from_string(body.to_owned()).unwrap();
        Request::raw("a", endpoint, body).unwrap()
    };
    let call = |arguments: &str| Part::ToolCall(ToolCall::new("1", "f", arguments));
    let result = |id: &str| Part::ToolResult(ToolResult::new(id, "x"));
    for (what, request) in [
        ("no message", chat([])),
        ("only a system", chat([Message::system("s")])),
        (
            "a late system",
            chat([Message::user("a"), Message::system("s")]),
        ),
        ("an empty turn", chat([Message::new(Role::User, vec![])])),
        ("no model", Request::chat("a", "", [Message::user("a")])),
        (
            "a user's call",
            chat([Message::new(Role::User, vec![call("{}")])]),
        ),
        (
            "arguments that are none",
            chat([
                Message::user("a"),
                Message::new(Role::Assistant, vec![call("[1]")]),
            ]),
        ),
        (
            "a result of nobody's",
            chat([
                Message::user("a"),
                Message::new(Role::Tool, vec![result("9")]),
            ]),
        ),
        (
            "a long seed",
            chat([Message::user("a")]).with_sampling(Sampling::new().with_seed(1 << 40)),
        ),
        (
            "a sampled vector",
            sampled(Request::embedding("a", "m", "x")),
        ),
        (
            "two texts a line",
            Request::new(
                "a",
                "m",
                Payload::Embedding(EmbeddingInput::new(["x".into(), "y".into()])),
            ),
        ),
        (
            "another model in an extra field",
            Request::embedding("a", "m", "x").with_extra(extra(json!({"model": "x"}))),
        ),
        (
            "a raw stream",
            raw("streamGenerateContent", r#"{"model":"m"}"#),
        ),
        (
            "a raw path",
            raw("/v1/chat/completions", r#"{"model":"m"}"#),
        ),
        (
            "a sampled raw body",
            sampled(raw(GENERATE, r#"{"model":"m"}"#)),
        ),
        ("a raw body of no model", raw(GENERATE, "{}")),
    ] {
        let error = written_for(&request, Purpose::Line).expect_err(what);
        assert_eq!(error.class(), RetryClass::RowFatal, "{what}: {error}");
    }
}

#[test]
fn embeddings_are_one_in_a_line_and_many_in_a_call() {
    let request = Request::new(
        "a",
        "gemini-embedding-001",
        Payload::Embedding(EmbeddingInput::new(["x".into()]).with_dimensions(8)),
    )
    .with_extra(extra(json!({"taskType": "CLUSTERING"})));
    let one = json!({"content": {"parts": [{"text": "x"}]}, "outputDimensionality": 8, "taskType": "CLUSTERING"});
    assert_eq!(written_for(&request, Purpose::Line).unwrap(), one);
    let mut named = one;
    named["model"] = json!("models/gemini-embedding-001");
    assert_eq!(
        written_for(&request, Purpose::Answer).unwrap(),
        json!({"requests": [named]})
    );
    assert_eq!(endpoint(&request, Purpose::Line).unwrap(), EMBED);
    assert_eq!(endpoint(&request, Purpose::Answer).unwrap(), EMBED_MANY);
}

#[test]
fn a_raw_body_goes_as_it_is_in_one_line() {
    let body = "{\"model\": \"models/m\",\r\n \"contents\": []}";
    let raw = RawValue::from_string(body.to_owned()).unwrap();
    let request = Request::raw("a", GENERATE, raw).unwrap();
    assert_eq!(request.model, "models/m");
    assert_eq!(
        written(&request).unwrap(),
        json!({"model": "models/m", "contents": []})
    );
}

#[test]
fn counting_asks_with_the_whole_request() {
    let request = chat([Message::system("s"), Message::user("a")]);
    let body: Value = serde_json::from_slice(&count_body(&request).unwrap()).unwrap();
    let inner = &body["generateContentRequest"];
    assert_eq!(inner["model"], "models/gemini-2.5-flash");
    assert_eq!(inner["systemInstruction"]["parts"][0]["text"], "s");
    assert_eq!(inner["contents"][0]["parts"][0]["text"], "a");
    assert!(count_body(&Request::embedding("a", "m", "x")).is_err());
}

// ---- answers ----

fn read(answer: &Value, expect: Expect) -> Result<Response, Unanswered> {
    read_answer(&answer.to_string(), expect, &[])
}

fn candidate(reason: &str, parts: Value) -> Value {
    json!({"candidates": [{"content": {"parts": parts}, "finishReason": reason}]})
}

/// F-061, F-062, F-064, F-065.
#[test]
fn f_065_a_gallery_of_parts_and_endings() {
    let text = |text: &str| json!([{"text": text}]);
    for (answer, said, reason) in [
        (candidate("STOP", text("a")), "a", Some(FinishReason::Stop)),
        (
            candidate(
                "STOP",
                json!([{"text": "a"}, {"thought": true, "text": "hm"}, {"text": "b"}]),
            ),
            "ab",
            Some(FinishReason::Stop),
        ),
        (
            candidate("MAX_TOKENS", text("h")),
            "h",
            Some(FinishReason::Length),
        ),
        (
            json!({"candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS"}]}),
            "",
            Some(FinishReason::Length),
        ),
        (
            json!({"candidates": [{"finishReason": "SAFETY"}]}),
            "",
            Some(FinishReason::ContentFilter),
        ),
        (
            candidate("RECITATION", text("h")),
            "h",
            Some(FinishReason::ContentFilter),
        ),
        (
            candidate("MODEL_ARMOR", json!([])),
            "",
            Some(FinishReason::ContentFilter),
        ),
        (
            candidate("HIBERNATED", text("a")),
            "a",
            Some(FinishReason::Other("HIBERNATED".into())),
        ),
        (
            json!({"candidates": [{"content": {"parts": text("a")}}]}),
            "a",
            None,
        ),
        (
            json!({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}),
            "",
            Some(FinishReason::ContentFilter),
        ),
        (
            json!({"candidates": [], "promptFeedback": {"blockReason": "SAFETY"}}),
            "",
            Some(FinishReason::ContentFilter),
        ),
        (
            json!({"error": null, "candidates": [{"content": {"parts": [7, {"text": "a"}]}, "finishReason": "STOP"}]}),
            "a",
            Some(FinishReason::Stop),
        ),
    ] {
        let response = read(&answer, Expect::Chat).unwrap_or_else(|_| panic!("{answer}"));
        assert_eq!(
            (response.text().as_str(), response.finish_reason),
            (said, reason),
            "{answer}"
        );
    }
}

#[test]
fn f_051_f_052_f_053_hollow_answers_are_ambiguous() {
    for body in [
        "",
        "null",
        "[]",
        "{}",
        "\"x\"",
        "<html>",
        "{\"candidates\":null}",
        "{\"candidates\":[]}",
        "{\"candidates\":[{}]}",
        "{\"candidates\":[{\"content\":{\"role\":\"model\"}}]}",
        "{\"candidates\":[{\"content\":{\"parts\":[]},\"index\":0}]}",
        "{\"candidates\":{}}",
        "{\"promptFeedback\":{}}",
        "{\"candidates\":[{\"content\":{",
    ] {
        match read_answer(body, Expect::Chat, &[]) {
            Err(Unanswered::Hollow(error)) => assert!(error.is_ambiguous(), "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
    let used =
        json!({"candidates": [], "usageMetadata": {"promptTokenCount": 7, "totalTokenCount": 7}});
    let error = read(&used, Expect::Chat).unwrap_err().into_error();
    assert_eq!(error.usage().unwrap().input_tokens, Some(7));
}

#[test]
fn f_050_f_055_an_error_in_a_success_is_its_own() {
    let error = json!({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "m"}});
    for body in [error.clone(), json!([error])] {
        match read(&body, Expect::Chat) {
            Err(Unanswered::Said(error)) => assert!(error.is_rate_limited(), "{error}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn f_066_usage_adds_thoughts_and_tools_and_stays_unknown_without() {
    let of = |usage: Value| {
        let mut answer = candidate("STOP", json!([{"text": "a"}]));
        answer["usageMetadata"] = usage;
        read(&answer, Expect::Chat).unwrap().usage
    };
    let mut want = Usage::of(25, 47);
    want.cache_read_input_tokens = Some(8);
    want.reasoning_tokens = Some(40);
    assert_eq!(
        of(
            json!({"promptTokenCount": 21, "toolUsePromptTokenCount": 4, "candidatesTokenCount": 7,
            "thoughtsTokenCount": 40, "cachedContentTokenCount": 8, "totalTokenCount": 72})
        ),
        want
    );
    // Zeros are left out, and 64 bits may be texts.
    assert_eq!(
        of(json!({"promptTokenCount": "3", "totalTokenCount": 3})),
        Usage::of(3, 0)
    );
    assert!(of(json!({})).is_unknown() && of(Value::Null).is_unknown());
    assert!(of(json!({"promptTokenCount": 1.5})).is_unknown(), "F-057");
}

#[test]
fn vectors_are_one_for_each_text_or_none() {
    let vector = |values: Value| json!({"values": values});
    let many = json!({"embeddings": [vector(json!([0.5, 1])), vector(json!([0, 1]))]});
    let response = read(&many, Expect::Embeddings(2)).unwrap();
    assert_eq!(response.embeddings, [vec![0.5, 1.0], vec![0.0, 1.0]]);
    let one = json!({"tokenCount": "5", "embedding": vector(json!([1]))});
    let response = read(&one, Expect::Any).unwrap();
    assert_eq!(response.embeddings, [[1.0]]);
    assert_eq!(response.usage.input_tokens, Some(5));
    assert_eq!(response.finish_reason, None);
    for bad in [
        json!({"embeddings": [vector(json!([1]))]}),
        json!({"embeddings": [vector(json!([1])), vector(json!([]))]}),
        json!({"embeddings": [vector(json!([1])), null]}),
        json!({"embeddings": []}),
        json!({}),
    ] {
        assert!(read(&bad, Expect::Embeddings(2)).is_err(), "{bad}");
    }
}

#[test]
fn f_058_chunks_make_one_answer_and_the_last_one_says_so() {
    let chunk = |text: &str| json!({"candidates": [{"content": {"parts": [{"text": text}]}}], "responseId": "r"});
    let mut reader = Reader::new(Expect::Chat);
    for text in ["é", "a"] {
        reader.push(&chunk(text).to_string(), &[]).unwrap();
        assert!(!reader.has_ended());
    }
    let mut last = candidate("STOP", json!([{"text": "b"}]));
    last["usageMetadata"] = json!({"promptTokenCount": 1, "candidatesTokenCount": 2});
    reader.push(&last.to_string(), &[]).unwrap();
    assert!(reader.has_ended());
    let response = reader.finish().unwrap();
    assert_eq!(response.content.len(), 1, "one text");
    assert_eq!(response.text(), "éab");
    assert_eq!(response.usage, Usage::of(1, 2));
    assert_eq!(response.id.as_deref(), Some("r"));

    let mut reader = Reader::new(Expect::Chat);
    reader.push(&chunk("a").to_string(), &[]).unwrap();
    let error = json!({"error": {"code": 503, "status": "UNAVAILABLE", "message": "m"}});
    let said = reader.push(&error.to_string(), &[]).unwrap_err();
    assert!(matches!(said, Unanswered::Said(_)));
}

#[test]
fn pictures_that_come_back_are_parts() {
    let blob = json!([{"inlineData": {"mimeType": "image/png", "data": "QUJD"}}]);
    let response = read(&candidate("STOP", blob), Expect::Chat).unwrap();
    assert!(
        matches!(&response.content[..], [Part::Image(Media::Inline { base64, .. })] if base64 == "QUJD")
    );
}
