//! One unit of work.

use crate::{Error, ErrorKind, Result, Sampling};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use std::fmt;

/// One unit of work: the caller's id, the model and what is asked of it.
///
/// Its `Debug` shows sizes, never content.
#[derive(Clone)]
#[non_exhaustive]
pub struct Request {
    /// The caller's id: any text, unique within a job, and the only key results are joined by. What goes
    /// over the wire of a batch is an id of ours.
    pub custom_id: String,
    /// The model's name as the provider spells it. A raw body names its own.
    pub model: String,
    /// What is asked.
    pub payload: Payload,
    /// How the model samples; unset ones are never sent. A raw body holds its own.
    pub sampling: Sampling,
    /// Vendor fields passed through untouched, laid over the generated body last.
    pub extra: Map<String, Value>,
}

/// What is asked.
#[derive(Clone)]
#[non_exhaustive]
pub enum Payload {
    /// A conversation the model continues.
    Chat(Chat),
    /// Texts to be embedded.
    Embedding(EmbeddingInput),
    /// A complete body in the vendor's own form, sent as it is.
    Raw(RawBody),
}

/// A conversation and what the answer may be.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Chat {
    /// The turns, oldest first; system messages stand first.
    pub messages: Vec<Message>,
    /// Tools the model may ask for.
    pub tools: Vec<Tool>,
    /// Whether it must ask for one; unset is the vendor's default.
    pub tool_choice: Option<ToolChoice>,
    /// The form of the answer.
    pub response_format: ResponseFormat,
}

/// One turn of a conversation.
#[derive(Clone)]
#[non_exhaustive]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, in order.
    pub content: Vec<Part>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// Instructions above the conversation.
    System,
    /// The caller.
    User,
    /// The model.
    Assistant,
    /// The result of a tool.
    Tool,
}

/// A piece of a message or of an answer.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum Part {
    /// Plain text.
    Text(String),
    /// A picture.
    Image(Media),
    /// A document, such as a PDF.
    Document(Media),
    /// Sound.
    Audio(Media),
    /// A model's visible reasoning.
    Thinking(Thinking),
    /// The model asks for a tool.
    ToolCall(ToolCall),
    /// What a tool answered.
    ToolResult(ToolResult),
}

/// A model's visible reasoning.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Thinking {
    /// The reasoning's text.
    pub text: String,
    /// The vendor's opaque signature, where it wants it back.
    pub signature: Option<String>,
}

/// The model asks for a tool.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct ToolCall {
    /// The vendor's id of the call.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// The arguments as the model wrote them: JSON text, possibly invalid.
    pub arguments: String,
}

/// What a tool answered.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct ToolResult {
    /// The id of the call this answers.
    pub id: String,
    /// The tool's answer.
    pub content: String,
}

/// Where a picture, document or sound is.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum Media {
    /// An address the vendor fetches.
    Url(String),
    /// The bytes themselves.
    Inline {
        /// Such as `image/png`.
        media_type: String,
        /// Standard base64 with padding.
        base64: String,
        /// A file name, for documents.
        name: Option<String>,
    },
    /// A file already stored at the vendor, by its id there.
    File(String),
}

/// A tool the model may ask for.
#[derive(Clone)]
#[non_exhaustive]
pub struct Tool {
    /// 1 to 64 of `A-Z a-z 0-9 _ -`.
    pub name: String,
    /// What it does, for the model.
    pub description: Option<String>,
    /// JSON schema of its arguments.
    pub parameters: Value,
    /// Whether the vendor must hold the model to the schema; unset is the vendor's default.
    pub strict: Option<bool>,
}

/// Whether the model must ask for a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ToolChoice {
    /// The model decides.
    Auto,
    /// None may be asked for.
    None,
    /// Some tool must be asked for.
    Required,
    /// This tool must be asked for.
    Named(String),
}

/// The form of the answer.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum ResponseFormat {
    /// Text, which is every vendor's default: nothing is sent.
    #[default]
    Text,
    /// Any JSON object.
    Json,
    /// JSON that obeys a schema.
    JsonSchema {
        /// 1 to 64 of `A-Z a-z 0-9 _ -`.
        name: String,
        /// The schema.
        schema: Value,
        /// Whether the vendor must hold the model to it.
        strict: bool,
    },
}

/// Texts to be embedded.
#[derive(Clone)]
#[non_exhaustive]
pub struct EmbeddingInput {
    /// One vector comes back for each, in order.
    pub texts: Vec<String>,
    /// Length of the vectors, where the model lets one choose.
    pub dimensions: Option<u32>,
}

/// A complete body in the vendor's own form.
#[derive(Clone)]
#[non_exhaustive]
pub struct RawBody {
    /// The endpoint's path in the vendor's own spelling, such as `/v1/chat/completions`.
    pub endpoint: String,
    /// The body, kept byte for byte.
    pub body: Box<RawValue>,
}

impl Request {
    /// A request for `payload`.
    pub fn new(custom_id: impl Into<String>, model: impl Into<String>, payload: Payload) -> Self {
        Self {
            custom_id: custom_id.into(),
            model: model.into(),
            payload,
            sampling: Sampling::default(),
            extra: Map::new(),
        }
    }

    /// A conversation with text answers.
    ///
    /// ```
    /// use batchwright_core::{Message, Request};
    /// let request = Request::chat("row-1", "gpt-4o-mini", [Message::user("Name a colour.")]);
    /// assert_eq!(request.custom_id, "row-1");
    /// ```
    pub fn chat(
        custom_id: impl Into<String>,
        model: impl Into<String>,
        messages: impl IntoIterator<Item = Message>,
    ) -> Self {
        Self::new(custom_id, model, Payload::Chat(Chat::new(messages)))
    }

    /// One text to be embedded.
    pub fn embedding(
        custom_id: impl Into<String>,
        model: impl Into<String>,
        text: impl Into<String>,
    ) -> Self {
        Self::new(
            custom_id,
            model,
            Payload::Embedding(EmbeddingInput::new([text.into()])),
        )
    }

    /// A body in the vendor's own form; `model` is read from its `model` field.
    ///
    /// # Errors
    /// `InvalidRequest` where `body` is not a JSON object, or names a key twice at its top (F-178): which
    /// one a vendor would take is undefined.
    pub fn raw(
        custom_id: impl Into<String>,
        endpoint: impl Into<String>,
        body: Box<RawValue>,
    ) -> Result<Self> {
        let model = top_level_model(body.get())?;
        let body = RawBody {
            endpoint: endpoint.into(),
            body,
        };
        Ok(Self::new(custom_id, model, Payload::Raw(body)))
    }

    /// Sets how the model samples.
    #[must_use]
    pub fn with_sampling(mut self, sampling: Sampling) -> Self {
        self.sampling = sampling;
        self
    }

    /// Adds vendor fields, passed through untouched.
    #[must_use]
    pub fn with_extra(mut self, extra: Map<String, Value>) -> Self {
        self.extra = extra;
        self
    }

    /// About how many tokens go in: a quarter of the bytes, rounded up. For limits and forecasts only.
    pub fn estimated_input_tokens(&self) -> u64 {
        let bytes = match &self.payload {
            Payload::Chat(chat) => {
                chat.messages
                    .iter()
                    .flat_map(|m| &m.content)
                    .map(Part::text_bytes)
                    .sum::<usize>()
                    + chat
                        .tools
                        .iter()
                        .map(|tool| tool.name.len() + 64)
                        .sum::<usize>()
            }
            Payload::Embedding(input) => input.texts.iter().map(String::len).sum(),
            Payload::Raw(raw) => raw.body.get().len(),
        };
        (bytes as u64).div_ceil(4)
    }
}

/// Reads `model` of a raw body and refuses a key that stands twice.
fn top_level_model(body: &str) -> Result<String> {
    struct Keys;
    impl<'de> serde::de::Visitor<'de> for Keys {
        type Value = String;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
            let mut seen = std::collections::BTreeSet::new();
            let mut model = String::new();
            while let Some(key) = map.next_key::<String>()? {
                if key == "model" {
                    model = map.next_value()?;
                } else {
                    map.next_value::<serde::de::IgnoredAny>()?;
                }
                if !seen.insert(key) {
                    return Err(serde::de::Error::custom("a key stands twice"));
                }
            }
            Ok(model)
        }
    }
    let mut json = serde_json::Deserializer::from_str(body);
    serde::Deserializer::deserialize_map(&mut json, Keys).map_err(|error| {
        // serde_json's own text may quote the body, so only its category and place are told.
        let what = if error.to_string().starts_with("a key stands twice") {
            "a key stands twice in the request body"
        } else {
            "the request body must be a JSON object whose model is a text"
        };
        Error::new(ErrorKind::InvalidRequest, what)
    })
}

impl Chat {
    /// A conversation with text answers and no tools.
    pub fn new(messages: impl IntoIterator<Item = Message>) -> Self {
        Self {
            messages: messages.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Sets the form of the answer.
    #[must_use]
    pub fn with_response_format(mut self, format: ResponseFormat) -> Self {
        self.response_format = format;
        self
    }

    /// Offers tools.
    #[must_use]
    pub fn with_tools(mut self, tools: Vec<Tool>, choice: Option<ToolChoice>) -> Self {
        self.tools = tools;
        self.tool_choice = choice;
        self
    }
}

impl Message {
    /// A turn of `role` with these parts.
    pub fn new(role: Role, content: Vec<Part>) -> Self {
        Self { role, content }
    }

    /// Instructions above the conversation.
    pub fn system(text: impl Into<String>) -> Self {
        Self::new(Role::System, vec![Part::Text(text.into())])
    }

    /// A turn of the caller.
    pub fn user(text: impl Into<String>) -> Self {
        Self::new(Role::User, vec![Part::Text(text.into())])
    }

    /// A turn of the model.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new(Role::Assistant, vec![Part::Text(text.into())])
    }
}

impl Tool {
    /// A tool with a JSON schema for its arguments.
    pub fn new(name: impl Into<String>, description: Option<String>, parameters: Value) -> Self {
        Self {
            name: name.into(),
            description,
            parameters,
            strict: None,
        }
    }

    /// Asks the vendor to hold the model to the schema, or not to.
    #[must_use]
    pub fn with_strict(mut self, strict: bool) -> Self {
        self.strict = Some(strict);
        self
    }
}

impl EmbeddingInput {
    /// These texts, at the model's own vector length.
    pub fn new(texts: impl IntoIterator<Item = String>) -> Self {
        Self {
            texts: texts.into_iter().collect(),
            dimensions: None,
        }
    }

    /// Sets the vectors' length.
    #[must_use]
    pub fn with_dimensions(mut self, dimensions: u32) -> Self {
        self.dimensions = Some(dimensions);
        self
    }
}

impl Thinking {
    /// Reasoning and the vendor's signature of it.
    pub fn new(text: impl Into<String>, signature: Option<String>) -> Self {
        Self {
            text: text.into(),
            signature,
        }
    }
}

impl ToolCall {
    /// A call of tool `name` with these arguments, as JSON text.
    pub fn new(
        id: impl Into<String>,
        name: impl Into<String>,
        arguments: impl Into<String>,
    ) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            arguments: arguments.into(),
        }
    }
}

impl ToolResult {
    /// The answer to call `id`.
    pub fn new(id: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            content: content.into(),
        }
    }
}

impl Part {
    /// The text of a text part.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn text_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Thinking(thinking) => thinking.text.len(),
            Self::ToolCall(call) => call.name.len() + call.arguments.len(),
            Self::ToolResult(result) => result.content.len(),
            Self::Image(media) | Self::Document(media) | Self::Audio(media) => media.text_bytes(),
        }
    }
}

impl Media {
    fn text_bytes(&self) -> usize {
        match self {
            Self::Inline { base64, .. } => base64.len(),
            Self::Url(_) | Self::File(_) => 0,
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("custom_id", &self.custom_id)
            .field("model", &self.model)
            .field("payload", &self.payload)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chat(chat) => chat.fmt(f),
            Self::Embedding(input) => input.fmt(f),
            Self::Raw(raw) => raw.fmt(f),
        }
    }
}

impl fmt::Debug for Chat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Chat({} messages, {} tools)",
            self.messages.len(),
            self.tools.len()
        )
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({:?}, {:?})", self.role, self.content)
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Text(_) => "Text",
            Self::Image(_) => "Image",
            Self::Document(_) => "Document",
            Self::Audio(_) => "Audio",
            Self::Thinking(_) => "Thinking",
            Self::ToolCall(_) => "ToolCall",
            Self::ToolResult(_) => "ToolResult",
        };
        write!(f, "{name}({} bytes)", self.text_bytes())
    }
}

impl fmt::Debug for Thinking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thinking").finish_non_exhaustive()
    }
}

impl fmt::Debug for ToolCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolCall").finish_non_exhaustive()
    }
}

impl fmt::Debug for ToolResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolResult").finish_non_exhaustive()
    }
}

impl fmt::Debug for Media {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Media({} bytes)", self.text_bytes())
    }
}

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tool({})", self.name)
    }
}

impl fmt::Debug for EmbeddingInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EmbeddingInput({} texts)", self.texts.len())
    }
}

impl fmt::Debug for RawBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RawBody({}, {} bytes)",
            self.endpoint,
            self.body.get().len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Result<Request> {
        Request::raw(
            "a",
            "/v1/chat/completions",
            RawValue::from_string(text.to_owned()).unwrap(),
        )
    }

    #[test]
    fn a_raw_body_is_kept_byte_for_byte_and_names_its_model() {
        let text = r#"{ "model":"gpt-4o",  "seed": 12345678901234567890 }"#;
        let request = raw(text).unwrap();
        assert_eq!(request.model, "gpt-4o");
        let Payload::Raw(body) = &request.payload else {
            panic!("raw")
        };
        assert_eq!(body.body.get(), text);
    }

    #[test]
    fn f_178_duplicate_keys_and_non_objects_are_refused() {
        for text in [
            r#"{"model":"a","model":"b"}"#,
            "[]",
            "null",
            r#"{"model":3}"#,
        ] {
            let error = raw(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{text}");
        }
    }

    #[test]
    fn f_191_debug_shows_sizes_never_content() {
        let request = Request::chat(
            "a",
            "m",
            [Message::system("CANARY-1"), Message::user("CANARY-2")],
        );
        let shown = format!("{request:?}");
        assert!(!shown.contains("CANARY"), "{shown}");
        let shown = format!("{:?}", raw(r#"{"model":"m","messages":"CANARY"}"#).unwrap());
        assert!(!shown.contains("CANARY"), "{shown}");
    }
}
