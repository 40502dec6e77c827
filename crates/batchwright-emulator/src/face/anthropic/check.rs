//! Which parameters the vendor refuses, and in which words.

use serde_json::{Map, Value};

use super::body::{Asking, Checked, Prompt, Way};
use super::cache::{self, Block, Ttl};
use super::error::ApiError;
use super::models::{Facts, Thinking};
use super::{Version, schema};

/// Every key of a body.
const KNOWN: [&str; 22] = [
    "cache_control",
    "container",
    "context_management",
    "diagnostics",
    "inference_geo",
    "max_tokens",
    "mcp_servers",
    "messages",
    "metadata",
    "model",
    "output_config",
    "service_tier",
    "speed",
    "stop_sequences",
    "stream",
    "system",
    "temperature",
    "thinking",
    "tool_choice",
    "tools",
    "top_k",
    "top_p",
];
/// Most messages of a request.
const MOST_MESSAGES: usize = 100_000;
/// Pictures that are taken.
const IMAGES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];
/// Most `max_tokens` of a batch's row with the long-output beta.
const LONG_OUTPUT: u64 = 300_000;

/// Looks at parameters without answering.
pub(super) fn check(asking: Asking<'_>, body: &[u8]) -> Result<Checked, ApiError> {
    let params: Value = serde_json::from_slice(body).map_err(|error| ApiError::not_json(&error))?;
    let Value::Object(params) = params else {
        return Err(ApiError::invalid("Input should be a valid dictionary"));
    };
    if let Some(name) = params.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        return Err(ApiError::extra(name));
    }
    let Some(model) = params.get("model") else {
        return Err(ApiError::missing("model"));
    };
    let Some(model) = model.as_str() else {
        return Err(ApiError::invalid("model: Input should be a valid string"));
    };
    let max_tokens = match (params.get("max_tokens"), asking.way) {
        (None, Way::Count) => u64::MAX,
        (Some(_), Way::Count) => return Err(ApiError::extra("max_tokens")),
        (None, _) => return Err(ApiError::missing("max_tokens")),
        (Some(value), way) => match (value.as_i64(), way) {
            (None, _) => {
                return Err(ApiError::invalid(
                    "max_tokens: Input should be a valid integer",
                ));
            }
            (Some(0), Way::Direct) => 0,
            (Some(least), _) if least < 1 => {
                return Err(ApiError::invalid(
                    "max_tokens: must be greater than or equal to 1",
                ));
            }
            (Some(tokens), _) => tokens.unsigned_abs(),
        },
    };
    let mut prompt = Prompt::default();
    check_tools(&params, &mut prompt)?;
    check_system(&params, &mut prompt)?;
    check_messages(&params, asking.version, &mut prompt)?;
    check_others(&params, asking.way)?;
    let Some(facts) = Facts::find(model) else {
        return Err(ApiError::no_model(model));
    };
    let most = match asking.way {
        Way::Batch { long: true } => LONG_OUTPUT,
        _ => facts.max_tokens,
    };
    if asking.way != Way::Count && max_tokens > most {
        return Err(ApiError::invalid(format!(
            "max_tokens: {max_tokens} > {most}, which is the maximum allowed number of output tokens for {model}"
        )));
    }
    let thinks = check_thinking(&params, facts, max_tokens)?;
    check_sampling(&params, facts, asking.version, thinks)?;
    let last = params["messages"].as_array().and_then(|list| list.last());
    if !facts.prefill && last.is_some_and(|last| last["role"] == "assistant") {
        return Err(ApiError::invalid(
            "This model does not support assistant message prefill. The conversation must end with a user message.",
        ));
    }
    if let Some(control) = params.get("cache_control").filter(|value| !value.is_null()) {
        let ttl = Ttl::read(control, "body")?;
        if let Some(last) = prompt.blocks.last_mut() {
            last.breakpoint.get_or_insert(ttl);
        }
    }
    cache::check(&prompt.blocks)?;
    if prompt.tokens() > facts.model.context {
        return Err(ApiError::invalid(format!(
            "prompt is too long: {} tokens > {} maximum",
            prompt.tokens(),
            facts.model.context
        )));
    }
    Ok(Checked {
        facts,
        params,
        prompt,
        max_tokens,
        thinks,
    })
}

/// Adds a block to the prompt.
fn push(prompt: &mut Prompt, value: &Value, bytes: usize, place: &str) -> Result<(), ApiError> {
    let control = value.get("cache_control").filter(|value| !value.is_null());
    let breakpoint = control
        .map(|control| Ttl::read(control, place))
        .transpose()?;
    let mut content = value.clone();
    if let Some(fields) = content.as_object_mut() {
        fields.remove("cache_control");
    }
    prompt.blocks.push(Block {
        content: content.to_string(),
        bytes,
        breakpoint,
    });
    Ok(())
}

fn check_tools(params: &Map<String, Value>, prompt: &mut Prompt) -> Result<(), ApiError> {
    let mut names = Vec::new();
    if let Some(tools) = params.get("tools").filter(|value| !value.is_null()) {
        let Some(tools) = tools.as_array() else {
            return Err(ApiError::invalid("tools: Input should be a valid list"));
        };
        for (at, tool) in tools.iter().enumerate() {
            let place = format!("tools.{at}");
            let own = tool.get("type").is_none_or(|kind| kind == "custom");
            let Some(name) = tool.get("name").and_then(Value::as_str) else {
                return Err(ApiError::missing(&format!("{place}.name")));
            };
            let fits = (1..=128).contains(&name.len())
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
            if !fits {
                return Err(ApiError::invalid(format!(
                    "{place}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"
                )));
            }
            if names.contains(&name) {
                return Err(ApiError::invalid("tools: Tool names must be unique."));
            }
            names.push(name);
            if own {
                let Some(schema) = tool.get("input_schema") else {
                    return Err(ApiError::missing(&format!("{place}.custom.input_schema")));
                };
                if schema.get("type") != Some(&Value::from("object")) {
                    return Err(ApiError::invalid(format!(
                        "{place}.custom.input_schema.type: Input should be 'object'"
                    )));
                }
                if tool.get("strict") == Some(&Value::Bool(true)) {
                    schema::check(schema, &format!("{place}.custom.input_schema"))?;
                }
            }
            let bytes = tool.to_string().len();
            prompt.tools += bytes;
            push(prompt, tool, bytes, &place)?;
        }
    }
    let Some(choice) = params.get("tool_choice").filter(|value| !value.is_null()) else {
        return Ok(());
    };
    if names.is_empty() {
        return Err(ApiError::invalid(
            "tool_choice: tool_choice may only be specified while providing tools",
        ));
    }
    match choice["type"].as_str() {
        Some("auto" | "any" | "none") => Ok(()),
        Some("tool")
            if choice["name"]
                .as_str()
                .is_some_and(|name| names.contains(&name)) =>
        {
            Ok(())
        }
        Some("tool") => Err(ApiError::invalid(format!(
            "tool_choice: Tool '{}' not found in provided tools",
            choice["name"].as_str().unwrap_or_default()
        ))),
        _ => Err(ApiError::invalid(
            "tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'",
        )),
    }
}

fn check_system(params: &Map<String, Value>, prompt: &mut Prompt) -> Result<(), ApiError> {
    match params.get("system") {
        None | Some(Value::Null) => Ok(()),
        Some(text @ Value::String(system)) => {
            prompt.texts.push(system.clone());
            push(prompt, text, system.len(), "system")
        }
        Some(Value::Array(blocks)) => {
            for (at, block) in blocks.iter().enumerate() {
                let place = format!("system.{at}");
                if block["type"] != "text" {
                    return Err(ApiError::invalid(format!(
                        "{place}.type: Input should be 'text'"
                    )));
                }
                let text = text_of(block, &place)?;
                prompt.texts.push(text.to_owned());
                push(prompt, block, text.len(), &place)?;
            }
            Ok(())
        }
        Some(_) => Err(ApiError::invalid("system: Input should be a valid list")),
    }
}

fn text_of<'a>(block: &'a Value, place: &str) -> Result<&'a str, ApiError> {
    match block.get("text") {
        None => Err(ApiError::missing(&format!("{place}.text"))),
        Some(Value::String(text)) if text.is_empty() => Err(ApiError::invalid(
            "messages: text content blocks must be non-empty",
        )),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(ApiError::invalid(format!(
            "{place}.text: Input should be a valid string"
        ))),
    }
}

fn check_messages(
    params: &Map<String, Value>,
    version: Version,
    prompt: &mut Prompt,
) -> Result<(), ApiError> {
    let Some(messages) = params.get("messages") else {
        return Err(ApiError::missing("messages"));
    };
    let Some(messages) = messages.as_array() else {
        return Err(ApiError::invalid("messages: Input should be a valid list"));
    };
    if messages.is_empty() {
        return Err(ApiError::invalid(
            "messages: at least one message is required",
        ));
    }
    if messages.len() > MOST_MESSAGES {
        return Err(ApiError::invalid(format!(
            "messages: List should have at most {MOST_MESSAGES} items after validation, not {}",
            messages.len()
        )));
    }
    let mut asked: Vec<&str> = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        let place = format!("messages.{at}");
        let user = match message["role"].as_str() {
            Some("user") => true,
            Some("assistant") => false,
            _ => {
                return Err(ApiError::invalid(format!(
                    "{place}.role: Input should be 'user' or 'assistant'"
                )));
            }
        };
        let single;
        let blocks = match message.get("content") {
            None => return Err(ApiError::missing(&format!("{place}.content"))),
            Some(Value::String(text)) if text.is_empty() => {
                return Err(ApiError::invalid(format!(
                    "{place}: user messages must have non-empty content"
                )));
            }
            Some(Value::String(text)) => {
                single = [serde_json::json!({"type": "text", "text": text})];
                &single[..]
            }
            Some(Value::Array(blocks)) if !blocks.is_empty() => blocks,
            _ => {
                return Err(ApiError::invalid(format!(
                    "{place}.content: Input should be a valid list"
                )));
            }
        };
        let results: Vec<&str> = blocks
            .iter()
            .filter(|block| block["type"] == "tool_result")
            .filter_map(|block| block["tool_use_id"].as_str())
            .collect();
        if let Some(id) = results.iter().find(|id| !asked.contains(id)) {
            return Err(ApiError::invalid(format!(
                "{place}.content.0: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each `tool_result` \
                 block must have a corresponding `tool_use` block in the previous message."
            )));
        }
        if let Some(id) = asked.iter().find(|id| !results.contains(id)) {
            return Err(ApiError::invalid(format!(
                "{place}: `tool_use` ids were found without `tool_result` blocks immediately after: {id}."
            )));
        }
        asked.clear();
        for (index, block) in blocks.iter().enumerate() {
            let place = format!("{place}.content.{index}");
            let from = prompt.texts.len();
            check_block(block, user, version, &place, &mut prompt.texts)?;
            let bytes = prompt.texts[from..].iter().map(String::len).sum();
            if user && let Some(last) = prompt.texts[from..].last() {
                prompt.last_user.clone_from(last);
            }
            push(prompt, block, bytes, &place)?;
        }
        if !user {
            // The content is borrowed from the body only where it is a list, and only then can it ask for tools.
            asked = message["content"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|block| block["type"] == "tool_use")
                .filter_map(|block| block["id"].as_str())
                .collect();
        }
    }
    Ok(())
}

/// Looks at a block and gathers its texts.
fn check_block(
    block: &Value,
    user: bool,
    version: Version,
    place: &str,
    texts: &mut Vec<String>,
) -> Result<(), ApiError> {
    let fail = |what: &str| Err(ApiError::invalid(format!("{place}.{what}")));
    let needs = |name: &str| match block.get(name) {
        None => Err(ApiError::missing(&format!("{place}.{name}"))),
        Some(_) => Ok(()),
    };
    match (block["type"].as_str(), user) {
        (Some("text"), _) => {
            texts.push(text_of(block, place)?.to_owned());
            let cited = block["citations"]
                .as_array()
                .is_some_and(|list| !list.is_empty());
            if user && cited && version == Version::October2026 {
                return fail("citations: not allowed in user messages");
            }
            Ok(())
        }
        (Some("image"), true) => check_source(block, &IMAGES, place),
        (Some("document"), false) if version == Version::October2026 => {
            fail("type: document blocks are not allowed in assistant messages")
        }
        (Some("document"), _) => check_source(block, &["application/pdf"], place),
        (Some("search_result"), true) => Ok(()),
        (Some("tool_use"), false) => {
            needs("id")?;
            needs("name")?;
            if block["input"].is_object() {
                Ok(())
            } else {
                fail("input: Input should be a valid dictionary")
            }
        }
        (Some("tool_result"), true) => {
            needs("tool_use_id")?;
            match block.get("content") {
                None | Some(Value::Null) => Ok(()),
                Some(Value::String(text)) => {
                    texts.push(text.clone());
                    Ok(())
                }
                Some(Value::Array(parts)) => {
                    let parts = parts.iter().filter_map(|part| part["text"].as_str());
                    texts.extend(parts.map(str::to_owned));
                    Ok(())
                }
                Some(_) => fail("content: Input should be a valid list"),
            }
        }
        (Some("thinking"), false) => {
            needs("thinking")?;
            needs("signature")
        }
        (Some("redacted_thinking"), false) => needs("data"),
        (Some(kind), false) if kind.ends_with("_tool_result") || kind == "server_tool_use" => {
            Ok(())
        }
        (Some(kind), _) => fail(&format!(
            "type: Input tag '{kind}' found using 'type' does not match any of the expected tags"
        )),
        (None, _) => Err(ApiError::missing(&format!("{place}.type"))),
    }
}

fn check_source(block: &Value, media_types: &[&str], place: &str) -> Result<(), ApiError> {
    let source = &block["source"];
    let place = format!("{place}.source");
    let needs = |name: &str| match source.get(name) {
        Some(Value::String(_)) => Ok(()),
        _ => Err(ApiError::missing(&format!("{place}.{name}"))),
    };
    match source["type"].as_str() {
        Some("base64") => {
            needs("data")?;
            let fits = source["media_type"]
                .as_str()
                .is_some_and(|kind| media_types.contains(&kind));
            if fits {
                Ok(())
            } else {
                Err(ApiError::invalid(format!(
                    "{place}.base64.media_type: Input should be one of {}",
                    media_types.join(", ")
                )))
            }
        }
        Some("url") => needs("url"),
        Some("file") => needs("file_id"),
        Some("text") if block["type"] == "document" => needs("data"),
        Some("content") if block["type"] == "document" => Ok(()),
        Some(kind) => Err(ApiError::invalid(format!(
            "{place}: Input tag '{kind}' found using 'type' does not match any of the expected tags"
        ))),
        None => Err(ApiError::missing(&place)),
    }
}

fn check_others(params: &Map<String, Value>, way: Way) -> Result<(), ApiError> {
    let batch = matches!(way, Way::Batch { .. });
    match params.get("stream") {
        None | Some(Value::Bool(false)) => {}
        Some(Value::Bool(true)) if way == Way::Direct => {}
        Some(Value::Bool(true)) => {
            return Err(ApiError::invalid(
                "stream: streaming is not supported in batches",
            ));
        }
        Some(_) => {
            return Err(ApiError::invalid("stream: Input should be a valid boolean"));
        }
    }
    if batch && params.contains_key("speed") {
        return Err(ApiError::invalid("speed: not supported in batches"));
    }
    let one_of = |name: &str, words: &[&str]| match params.get(name) {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(word)) if words.contains(&word.as_str()) => Ok(()),
        Some(_) => Err(ApiError::invalid(format!(
            "{name}: Input should be '{}'",
            words.join("' or '")
        ))),
    };
    one_of("service_tier", &["auto", "standard_only"])?;
    one_of("speed", &["standard", "fast"])?;
    if let Some(stops) = params
        .get("stop_sequences")
        .filter(|value| !value.is_null())
    {
        let good = |stop: &Value| stop.as_str().is_some_and(|stop| !stop.trim().is_empty());
        if !stops.as_array().is_some_and(|stops| stops.iter().all(good)) {
            return Err(ApiError::invalid(
                "stop_sequences: each stop sequence must contain non-whitespace",
            ));
        }
    }
    let Some(config) = params.get("output_config").filter(|value| !value.is_null()) else {
        return Ok(());
    };
    if let Some(effort) = config.get("effort").filter(|value| !value.is_null()) {
        let known = ["low", "medium", "high", "xhigh", "max"];
        if !effort
            .as_str()
            .is_some_and(|effort| known.contains(&effort))
        {
            return Err(ApiError::invalid(
                "output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'",
            ));
        }
    }
    if let Some(format) = config.get("format").filter(|value| !value.is_null()) {
        if format["type"] != "json_schema" {
            return Err(ApiError::invalid(
                "output_config.format.type: Input should be 'json_schema'",
            ));
        }
        let Some(given) = format.get("schema") else {
            return Err(ApiError::missing("output_config.format.schema"));
        };
        schema::check(given, "output_config.format.schema")?;
    }
    Ok(())
}

/// Whether the model thinks before this answer.
fn check_thinking(
    params: &Map<String, Value>,
    facts: &Facts,
    max_tokens: u64,
) -> Result<bool, ApiError> {
    let always = facts.thinking == Thinking::Always;
    let Some(thinking) = params.get("thinking").filter(|value| !value.is_null()) else {
        return Ok(always || facts.thinking == Thinking::Default);
    };
    let refused = |kind: &str| {
        Err(ApiError::invalid(format!(
            "thinking.type.{kind}: \"{kind}\" is not supported for this model"
        )))
    };
    let forced = params
        .get("tool_choice")
        .is_some_and(|choice| choice["type"] == "any" || choice["type"] == "tool");
    let on = match thinking["type"].as_str() {
        Some("disabled") if always => return refused("disabled"),
        Some("disabled") => false,
        Some("adaptive") if facts.thinking == Thinking::Enabled => return refused("adaptive"),
        Some("between_tools") if facts.thinking == Thinking::Enabled => {
            return refused("between_tools");
        }
        Some("adaptive") => true,
        Some("between_tools") => always,
        Some("enabled") => {
            if !matches!(facts.thinking, Thinking::Enabled | Thinking::Both) {
                return refused("enabled");
            }
            match thinking["budget_tokens"].as_u64() {
                None => {
                    return Err(ApiError::missing("thinking.enabled.budget_tokens"));
                }
                Some(budget) if budget < 1_024 => {
                    return Err(ApiError::invalid(
                        "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
                    ));
                }
                Some(budget) if budget >= max_tokens => {
                    return Err(ApiError::invalid(
                        "`max_tokens` must be greater than `thinking.budget_tokens`",
                    ));
                }
                Some(_) => true,
            }
        }
        _ => {
            return Err(ApiError::invalid(
                "thinking: Input tag found using 'type' does not match any of the expected tags: 'adaptive', \
                 'between_tools', 'disabled', 'enabled'",
            ));
        }
    };
    if on && forced {
        return Err(ApiError::invalid(
            "Thinking may not be enabled when tool_choice forces tool use.",
        ));
    }
    Ok(on)
}

fn check_sampling(
    params: &Map<String, Value>,
    facts: &Facts,
    version: Version,
    thinks: bool,
) -> Result<(), ApiError> {
    for (name, default) in [("temperature", 1.0), ("top_p", 1.0), ("top_k", 0.0)] {
        let Some(value) = params.get(name).filter(|value| !value.is_null()) else {
            continue;
        };
        if version == Version::October2026 {
            return Err(ApiError::invalid(format!(
                "{name}: not supported with anthropic-version 2026-10-21"
            )));
        }
        let Some(number) = value.as_f64() else {
            return Err(ApiError::invalid(format!(
                "{name}: Input should be a valid number"
            )));
        };
        let within = name == "top_k" || (0.0..=1.0).contains(&number);
        if !within || number < 0.0 {
            return Err(ApiError::invalid(format!("{name}: range: 0..1")));
        }
        #[expect(clippy::float_cmp, reason = "the vendor takes exactly the default")]
        let is_default = number == default;
        if !is_default && !facts.sampling {
            return Err(ApiError::invalid(format!(
                "{name}: only the default value is supported for this model"
            )));
        }
        if !is_default && thinks && name == "temperature" {
            return Err(ApiError::invalid(
                "`temperature` may only be set to 1 when thinking is enabled.",
            ));
        }
    }
    Ok(())
}
