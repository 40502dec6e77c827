//! Request bodies: one typed pass over the text, and what is to be answered.

mod chat;
mod embeddings;
mod responses;
mod text;

use serde_json::Value;
use serde_json::value::RawValue;

use self::chat::ChatBody;
use self::embeddings::EmbeddingsBody;
use self::responses::ResponsesBody;
use super::dialect::{Dialect, Parameters};
use super::error::ApiError;
use super::explain::{explain, known};
use super::quirks::Quirks;
use crate::answer::{PromptHash, tokens};
use crate::batch::RowUsage;
use crate::chat::{Said, Schema};
use crate::model::Model;

pub(super) use self::chat::ROLES;
pub(super) use self::embeddings::MAX_INPUTS;
pub(super) use self::text::Text;

/// An inference endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::face) enum Endpoint {
    Chat,
    Responses,
    Embeddings,
}

impl Endpoint {
    /// As batch lines and batches name it.
    pub(super) fn url(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Responses => "/v1/responses",
            Self::Embeddings => "/v1/embeddings",
        }
    }

    pub(super) fn of_url(url: &str) -> Option<Self> {
        [Self::Chat, Self::Responses, Self::Embeddings]
            .into_iter()
            .find(|endpoint| endpoint.url() == url)
    }

    pub(super) fn serves(self, model: &Model) -> bool {
        (self == Self::Embeddings) == model.is_embedding()
    }
}

/// A request that will be answered, and with what.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) model: &'static Model,
    pub(super) hash: PromptHash,
    pub(super) usage: RowUsage,
    pub(super) said: Said,
    /// Choices of a chat.
    pub(super) choices: u64,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) service_tier: &'static str,
}

/// A dialect with the switches in force.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ways<'a> {
    pub(super) dialect: &'a Dialect,
    pub(super) quirks: &'a Quirks,
}

impl Ways<'_> {
    pub(super) fn model(&self, name: &str) -> Option<&'static Model> {
        self.dialect.model_for(self.quirks, name)
    }
}

/// Reads a body and decides its answer; an error answer when the vendor would refuse it.
pub(super) fn prepare(
    ways: Ways<'_>,
    endpoint: Endpoint,
    body: &[u8],
    seed: u64,
) -> Result<Prepared, ApiError> {
    let prepared = match (fast(ways, endpoint, body, seed), ways.dialect.parameters) {
        (Some(prepared), _) => prepared?,
        // The typed pass knows only that something is wrong; the slow one says what.
        (None, Parameters::OpenAi) => return Err(explain(ways, endpoint, body)),
        (None, parameters) => {
            let stripped = strip(parameters, endpoint, body).unwrap_or_default();
            match fast(ways, endpoint, &stripped, seed) {
                Some(prepared) => prepared?,
                None if stripped.is_empty() => return Err(explain(ways, endpoint, body)),
                None => return Err(explain(ways, endpoint, &stripped)),
            }
        }
    };
    if matches!(prepared.said, Said::Filtered(_)) && ways.quirks.filter_is_error {
        return Err(ApiError::filtered());
    }
    Ok(prepared)
}

fn fast(
    ways: Ways<'_>,
    endpoint: Endpoint,
    body: &[u8],
    seed: u64,
) -> Option<Result<Prepared, ApiError>> {
    match endpoint {
        Endpoint::Chat => serde_json::from_slice::<ChatBody<'_>>(body)
            .ok()
            .and_then(|body| body.prepare(ways, seed)),
        Endpoint::Responses => serde_json::from_slice::<ResponsesBody<'_>>(body)
            .ok()
            .and_then(|body| body.prepare(ways, seed)),
        Endpoint::Embeddings => serde_json::from_slice::<EmbeddingsBody<'_>>(body)
            .ok()
            .and_then(|body| body.prepare(ways)),
    }
}

/// A body without the parameters that are the dialect's own.
fn strip(parameters: Parameters, endpoint: Endpoint, body: &[u8]) -> Option<Vec<u8>> {
    let mut body: serde_json::Map<String, Value> = serde_json::from_slice(body).ok()?;
    body.retain(|name, _| match parameters {
        Parameters::OpenAi => true,
        Parameters::Also(names) => !names.contains(&name.as_str()),
        Parameters::Any => known(endpoint, name),
    });
    serde_json::to_vec(&body).ok()
}

/// Input tokens as they count for the limits, without an answer; `None` when the body is refused anyhow.
pub(super) fn input_tokens(endpoint: Endpoint, body: &[u8]) -> Option<(u64, u64)> {
    match endpoint {
        Endpoint::Chat => {
            let body: ChatBody<'_> = serde_json::from_slice(body).ok()?;
            Some((tokens(body.texts().map(str::len).sum()), 1))
        }
        Endpoint::Responses => {
            let body: ResponsesBody<'_> = serde_json::from_slice(body).ok()?;
            Some((tokens(body.texts().map(str::len).sum()), 1))
        }
        Endpoint::Embeddings => {
            let body: EmbeddingsBody<'_> = serde_json::from_slice(body).ok()?;
            Some((body.input.tokens(), body.input.len()))
        }
    }
}

fn forced_tool(tools: &RawValue, choice: Option<&RawValue>) -> Option<(String, Value)> {
    let choice: Value = serde_json::from_str(choice?.get()).ok()?;
    let tools: Vec<Value> = serde_json::from_str(tools.get()).ok()?;
    // The chat endpoint wraps a function's definition, the responses endpoint does not.
    fn inner(tool: &Value) -> &Value {
        tool.get("function").unwrap_or(tool)
    }
    fn name(tool: &Value) -> Option<&str> {
        inner(tool).get("name").and_then(Value::as_str)
    }
    let tool = if choice == "required" {
        tools.iter().find(|tool| name(tool).is_some())?
    } else {
        let wanted = name(&choice)?;
        tools.iter().find(|tool| name(tool) == Some(wanted))?
    };
    let schema = inner(tool)
        .get("parameters")
        .cloned()
        .unwrap_or_else(|| serde_json::json!({"type": "object", "properties": {}}));
    Some((name(tool)?.to_owned(), schema))
}

/// The schema that a `response_format` or `text.format` asks for.
fn schema<'a>(kind: Option<&str>, schema: Option<&'a Value>) -> Option<Schema<'a>> {
    match kind? {
        "json_object" => Some(Schema::Any),
        "json_schema" => Some(schema.map_or(Schema::Any, Schema::Given)),
        _ => None,
    }
}

/// Most choices of one answer.
pub(super) fn most_choices(dialect: &Dialect) -> u64 {
    if dialect.many_choices { 128 } else { 1 }
}

/// The tier that an answer names: the one asked for where it exists.
fn tier(dialect: &Dialect, asked: Option<&Text<'_>>) -> &'static str {
    match asked.map(|tier| &*tier.0) {
        Some("flex") => "flex",
        Some("priority") => "priority",
        Some("scale") => "scale",
        Some("performance") => "performance",
        _ => dialect.tier.unwrap_or("default"),
    }
}

#[expect(clippy::float_cmp, reason = "the vendor takes exactly 1")]
pub(super) fn is_one(value: f64) -> bool {
    value == 1.0
}


#[cfg(test)]
mod tests {
    use super::super::OPENAI;
    use super::super::quirks::Quirks;
    use super::*;

    fn ways(quirks: &Quirks) -> Ways<'_> {
        Ways {
            dialect: &OPENAI,
            quirks,
        }
    }

    #[test]
    fn hashes_cover_all_texts_in_order() {
        let body = br#"{"model":"gpt-4o-mini","messages":[
            {"role":"system","content":"a\u0062"},
            {"role":"user","content":[{"type":"text","text":"c"},{"type":"image_url","image_url":{"url":"x"}}]}]}"#;
        let prepared = prepare(ways(&Quirks::none()), Endpoint::Chat, body, 0).expect("a good body");
        assert_eq!(prepared.hash, PromptHash::of(["abc"]));
        assert_eq!(prepared.usage.input, 1);
    }

    #[test]
    fn tokens_are_embedding_inputs_too() {
        for (input, inputs, tokens) in [
            (r#""hello""#, 1, 2),
            (r#"["a","b"]"#, 2, 2),
            ("[1,2,3]", 1, 3),
            ("[[1,2],[3]]", 2, 3),
        ] {
            let body = format!(r#"{{"model":"text-embedding-3-small","input":{input}}}"#);
            let prepared = prepare(ways(&Quirks::none()), Endpoint::Embeddings, body.as_bytes(), 0).expect("a good body");
            let Said::Vectors { inputs: made, .. } = prepared.said else {
                panic!("embeddings answer with vectors");
            };
            assert_eq!(
                (made.len(), prepared.usage.input),
                (inputs, tokens),
                "{input}"
            );
        }
    }
}

