//! Puts what OpenAI would say into the shape that the switches ask for.

use serde_json::{Map, Value, json};

use super::quirks::{
    Absent, BatchErrors, Content, CountsShape, FileStatus, Lists, Metadata, Quirks, Thoughts,
    Shape, StatusCase, Times, ToolCalls, Usage,
};
use crate::clock::rfc3339;

/// A chat answer or one chunk of a stream.
pub(super) fn answer(quirks: &Quirks, thoughts: u64, value: &mut Value) {
    let Some(body) = value.as_object_mut() else {
        return;
    };
    if !quirks.system_fingerprint {
        body.remove("system_fingerprint");
    }
    if quirks.numeric_ids {
        // Over 2^53, where a float loses digits.
        body.insert("id".to_owned(), json!(9_007_199_254_740_993_u64));
    }
    if let Some(Value::Array(choices)) = body.get_mut("choices") {
        for choice in choices.iter_mut().filter_map(Value::as_object_mut) {
            shape_choice(quirks, thoughts, choice);
        }
    }
    if quirks.extra_fields {
        body.insert("prompt_logprobs".to_owned(), Value::Null);
        body.insert("kv_transfer_params".to_owned(), Value::Null);
    }
    usage(quirks.usage, body);
}

fn shape_choice(quirks: &Quirks, thoughts: u64, choice: &mut Map<String, Value>) {
    if quirks.extra_fields {
        choice.insert("stop_reason".to_owned(), Value::Null);
    }
    let called = choice
        .get("message")
        .is_some_and(|message| message.get("tool_calls").is_some());
    if called && quirks.tool_calls == ToolCalls::FinishStop {
        choice.insert("finish_reason".to_owned(), json!("stop"));
    }
    if called && quirks.tool_calls == ToolCalls::FunctionCall {
        choice.insert("finish_reason".to_owned(), json!("function_call"));
    }
    let renamed = choice
        .get("finish_reason")
        .and_then(Value::as_str)
        .and_then(|reason| quirks.finish_reasons.get(reason));
    if let Some(renamed) = renamed {
        choice.insert("finish_reason".to_owned(), json!(renamed));
    }
    for key in ["message", "delta"] {
        if let Some(Value::Object(message)) = choice.get_mut(key) {
            shape_message(quirks, thoughts, message, key == "message");
        }
    }
    if quirks.content == Content::ChoiceText
        && let Some(message) = choice.remove("message")
    {
        choice.insert("text".to_owned(), message["content"].clone());
    }
}

fn shape_message(quirks: &Quirks, thoughts: u64, message: &mut Map<String, Value>, whole: bool) {
    if !quirks.refusal {
        message.remove("annotations");
        if let Some(refusal @ Value::String(_)) = message.remove("refusal") {
            message.insert("content".to_owned(), refusal);
        }
    }
    let thinking = match quirks.reasoning {
        Thoughts::Hidden => None,
        Thoughts::Reasoning => Some("reasoning"),
        Thoughts::ReasoningContent => Some("reasoning_content"),
    };
    if let Some(key) = thinking.filter(|_| whole && thoughts > 0) {
        message.insert(key.to_owned(), json!(format!("({thoughts} tokens of thought)")));
    }
    if whole && quirks.content == Content::Parts
        && let Some(text @ Value::String(_)) = message.get_mut("content")
    {
        *text = json!([{"type": "text", "text": text.take()}]);
    }
    match message.get_mut("tool_calls") {
        None if whole && quirks.empty_tool_calls => {
            message.insert("tool_calls".to_owned(), json!([]));
        }
        None => {}
        Some(calls) => match quirks.tool_calls {
            ToolCalls::Standard | ToolCalls::FinishStop => {}
            ToolCalls::NoContentKey => {
                message.remove("content");
            }
            ToolCalls::NoId => {
                for call in calls.as_array_mut().into_iter().flatten() {
                    if let Some(call) = call.as_object_mut() {
                        call.remove("id");
                    }
                }
            }
            ToolCalls::ObjectArguments => {
                for call in calls.as_array_mut().into_iter().flatten() {
                    let arguments = &mut call["function"]["arguments"];
                    let parsed = arguments
                        .as_str()
                        .and_then(|text| serde_json::from_str(text).ok());
                    if let Some(parsed) = parsed {
                        *arguments = parsed;
                    }
                }
            }
            ToolCalls::FunctionCall => {
                let function = calls[0]["function"].take();
                message.remove("tool_calls");
                message.insert("function_call".to_owned(), function);
            }
        },
    }
}

fn usage(shape: Usage, body: &mut Map<String, Value>) {
    let Some(usage) = body.get_mut("usage").filter(|usage| !usage.is_null()) else {
        return;
    };
    let numbers = |usage: &Value, write: &dyn Fn(u64) -> Value| {
        let mut plain = Map::new();
        for (name, value) in usage.as_object().into_iter().flatten() {
            if let Some(number) = value.as_u64() {
                plain.insert(name.clone(), write(number));
            }
        }
        Value::Object(plain)
    };
    match shape {
        Usage::Full => {}
        Usage::Plain => *usage = numbers(usage, &|number| json!(number)),
        Usage::Zero => *usage = numbers(usage, &|_| json!(0)),
        Usage::Texts => *usage = numbers(usage, &|number| json!(number.to_string())),
        #[expect(
            clippy::cast_precision_loss,
            reason = "token counts of one answer are far below 2^53"
        )]
        Usage::Floats => *usage = numbers(usage, &|number| json!(number as f64)),
        Usage::Null => *usage = Value::Null,
        Usage::Absent => {
            body.remove("usage");
        }
    }
}

/// A batch object, whose times are Unix seconds.
pub(super) fn batch(quirks: &Quirks, created: bool, value: &mut Value) {
    let Some(body) = value.as_object_mut() else {
        return;
    };
    let all_failed = body["request_counts"]["completed"] == 0
        && body["request_counts"]["total"] != 0
        && body["status"] == "completed";
    if quirks.all_failed_fails && all_failed {
        body.insert("status".to_owned(), json!("failed"));
        let completed = body.insert("completed_at".to_owned(), Value::Null);
        body.insert("failed_at".to_owned(), completed.unwrap_or_default());
    }
    if let Some(Value::String(status)) = body.get_mut("status") {
        if let Some(renamed) = quirks.statuses.get(status) {
            status.clone_from(renamed);
        }
        match quirks.status_case {
            StatusCase::Lower => {}
            StatusCase::Upper => status.make_ascii_uppercase(),
            StatusCase::Capital => {
                if let Some(first) = status.get_mut(..1) {
                    first.make_ascii_uppercase();
                }
            }
        }
    }
    for (name, time) in body.iter_mut() {
        if let Some(seconds) = time.as_i64().filter(|_| name.ends_with("_at")) {
            *time = self::time(quirks.times, created, seconds);
        }
    }
    match quirks.counts {
        CountsShape::Full => {}
        CountsShape::Null => {
            body.insert("request_counts".to_owned(), Value::Null);
        }
        CountsShape::Absent => {
            body.remove("request_counts");
        }
    }
    if let Some(errors) = body.get_mut("errors").filter(|errors| !errors.is_null()) {
        let list = errors["data"].take();
        let texts = || list.as_array().into_iter().flatten().map(|one| &one["message"]);
        *errors = match quirks.batch_errors {
            BatchErrors::List => json!({"object": "list", "data": list}),
            BatchErrors::Array => list,
            BatchErrors::Texts => texts().cloned().collect(),
            BatchErrors::Text => texts().next().cloned().unwrap_or_default(),
            BatchErrors::Null => Value::Null,
        };
    }
    match quirks.metadata {
        Metadata::Echo => {}
        Metadata::Drop => {
            body.remove("metadata");
        }
        Metadata::EmptyObject => {
            if body["metadata"].is_null() {
                body.insert("metadata".to_owned(), json!({}));
            }
        }
    }
    match quirks.absent {
        Absent::Null => {}
        Absent::Missing => body.retain(|_, value| !value.is_null()),
        Absent::Empty => {
            for name in ["output_file_id", "error_file_id"] {
                if body.get(name).is_some_and(Value::is_null) {
                    body.insert(name.to_owned(), json!(""));
                }
            }
        }
    }
    if quirks.shape == Shape::Together {
        *value = together(value);
    }
}

fn time(times: Times, created: bool, seconds: i64) -> Value {
    match times {
        Times::Seconds => json!(seconds),
        Times::TextLater if created => json!(seconds),
        Times::Text | Times::TextLater => json!(seconds.to_string()),
        Times::Iso => json!(rfc3339(seconds.saturating_mul(1000))),
        Times::Millis => json!(seconds.saturating_mul(1000)),
    }
}

/// Together's job.
fn together(batch: &Value) -> Value {
    let counts = &batch["request_counts"];
    let number = |name: &str| counts[name].as_u64().unwrap_or(0);
    let progress = (number("completed") + number("failed")) * 100;
    let error = batch["errors"].as_str().map_or_else(
        || batch["errors"]["data"][0]["message"].clone(),
        |text| json!(text),
    );
    json!({
        "id": batch["id"],
        "user_id": "user-emulator",
        "endpoint": batch["endpoint"],
        "status": batch["status"],
        "model_id": batch["model"],
        "input_file_id": batch["input_file_id"],
        "output_file_id": batch["output_file_id"],
        "error_file_id": batch["error_file_id"],
        "error": error,
        "progress": progress.checked_div(number("total")).unwrap_or(0),
        "file_size_bytes": 0,
        "created_at": batch["created_at"],
        "completed_at": batch["completed_at"],
        "job_deadline": batch["expires_at"],
    })
}

/// What answers the creation of a batch.
pub(super) fn created(quirks: &Quirks, batch: Value) -> Value {
    match quirks.shape {
        Shape::OpenAi | Shape::Mistral => batch,
        Shape::Together => json!({"job": batch, "warning": ""}),
    }
}

/// A file object; `pending` while its server still looks at it.
pub(super) fn file(quirks: &Quirks, pending: bool, value: &mut Value) {
    let Some(body) = value.as_object_mut() else {
        return;
    };
    match quirks.file_status {
        FileStatus::Processed | FileStatus::NoEndpoint => {}
        FileStatus::Pending if pending => {
            body.insert("status".to_owned(), json!("pending"));
        }
        FileStatus::Pending => {}
        FileStatus::Unsaid => {
            for name in ["status", "status_details", "expires_at"] {
                body.remove(name);
            }
        }
    }
}

/// A page of a list: `after` an id or a cursor or a page's number, at most `limit`.
pub(super) fn page(
    lists: Lists,
    data: Vec<Value>,
    query: &crate::face::wire::Query,
    limit: usize,
) -> Value {
    let start = match lists {
        Lists::After => match query.get("after") {
            None => 0,
            Some(after) => data
                .iter()
                .position(|item| item["id"] == after)
                .map_or(data.len(), |at| at + 1),
        },
        Lists::Cursor => number(query.get("cursor").and_then(|text| text.strip_prefix('c'))),
        Lists::Pages => number(query.get("page")).saturating_mul(limit),
        Lists::Whole | Lists::Array | Lists::Absent => {
            return match lists {
                Lists::Whole => json!({"object": "list", "data": data}),
                _ => Value::Array(data),
            };
        }
    };
    let total = data.len();
    let shown: Vec<Value> = data.into_iter().skip(start).take(limit).collect();
    let end = start.saturating_add(shown.len());
    let more = end < total;
    match lists {
        Lists::Cursor => {
            let mut list = json!({"object": "list", "data": shown});
            if more {
                list["paging"] = json!({"next_cursor": format!("c{end}")});
            }
            list
        }
        Lists::Pages => json!({"object": "list", "data": shown, "total": total}),
        _ => json!({
            "object": "list",
            "first_id": shown.first().map(|item| &item["id"]),
            "last_id": shown.last().map(|item| &item["id"]),
            "has_more": more,
            "data": shown,
        }),
    }
}

fn number(text: Option<&str>) -> usize {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The list of models.
pub(super) fn models(shape: super::quirks::Models, list: Vec<Value>) -> Value {
    use super::quirks::Models;
    match shape {
        Models::List | Models::Absent => json!({"object": "list", "data": list}),
        Models::Array => Value::Array(list),
        Models::Names => list.iter().map(|model| model["id"].clone()).collect(),
        Models::Tagged => {
            let named = |model: &Value| json!({"name": model["id"], "model": model["id"]});
            json!({"models": list.iter().map(named).collect::<Vec<_>>()})
        }
    }
}
