//! Google's answers in core's words: whole, in chunks, and of embeddings.

use super::request::OWN_CALL_ID;
use crate::error::within;
use crate::wire::{
    Answer, AnswerCall, AnswerContent, AnswerPart, Candidate, Envelope, PromptFeedback,
    UsageMetadata, Vector,
};
use batchwright_core::{
    FinishReason, Media, Part, Payload, Request, Response, Thinking, ToolCall, Usage,
};
use batchwright_http::{
    Secret, Unanswered,
    wire::{lenient, some_text},
};
use serde_json::value::RawValue;

/// What answer is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Of a conversation.
    Chat,
    /// Embeddings of this many texts.
    Embeddings(usize),
    /// Whatever a raw request or a batch line asked for.
    Any,
}

impl Expect {
    /// The answer `request` is to get.
    pub(crate) fn of(request: &Request) -> Self {
        match &request.payload {
            Payload::Chat(_) => Self::Chat,
            Payload::Embedding(input) => Self::Embeddings(input.texts.len()),
            _ => Self::Any,
        }
    }
}

/// Reads a successful HTTP answer's body. Status, ids of HTTP and raw bytes are the caller's.
///
/// # Errors
/// The error within where the body holds one (F-050), `ProviderFault` of class `Ambiguous` where it holds no answer
/// (F-051, F-052, F-053).
pub(crate) fn read_answer(
    body: &str,
    expect: Expect,
    secrets: &[&Secret],
) -> Result<Response, Unanswered> {
    let mut reader = Reader::new(expect);
    reader.push(body, secrets)?;
    reader.finish()
}

/// An answer that comes whole or in chunks.
#[derive(Debug)]
pub(crate) struct Reader {
    expect: Expect,
    response: Response,
    /// Whether a candidate, a block or a vector was there.
    answered: bool,
    calls: usize,
}

impl Reader {
    pub(crate) fn new(expect: Expect) -> Self {
        Self {
            expect,
            response: Response::default(),
            answered: false,
            calls: 0,
        }
    }

    /// Takes a whole answer or the next chunk of one.
    pub(crate) fn push(&mut self, body: &str, secrets: &[&Secret]) -> Result<(), Unanswered> {
        if !body.trim_start().starts_with('{') {
            // An error of a stream may be wrapped in a list (F-055).
            return Err(match within(body, secrets) {
                Some(error) if body.trim_start().starts_with('[') => Unanswered::Said(error),
                _ => Unanswered::hollow("read the answer: it is not a JSON object"),
            });
        }
        let Ok(answer) = serde_json::from_str::<Answer<'_>>(body) else {
            let error = serde_json::from_str::<Envelope<'_>>(body)
                .ok()
                .and_then(|envelope| within(envelope.error?.get(), secrets));
            return Err(match error {
                Some(error) => Unanswered::Said(error),
                None => Unanswered::hollow("read the answer: it is not JSON of a known form"),
            });
        };
        if let Some(error) = answer.error.and_then(|raw| within(raw.get(), secrets)) {
            return Err(Unanswered::Said(error).with_usage(self.response.usage));
        }
        let used = usage(answer.usage_metadata);
        if !used.is_unknown() {
            self.response.usage = used;
        }
        self.response.id = answer.response_id.or(self.response.id.take());
        self.response.model = answer.model_version.or(self.response.model.take());
        match self.expect {
            Expect::Chat => {
                self.read_candidates(answer.candidates, answer.prompt_feedback);
                Ok(())
            }
            Expect::Embeddings(texts) => {
                self.read_vectors(answer.embedding, answer.embeddings, answer.token_count)?;
                if self.response.embeddings.len() == texts {
                    Ok(())
                } else {
                    Err(
                        Unanswered::hollow("read the answer: not one vector for each text")
                            .with_usage(self.response.usage),
                    )
                }
            }
            Expect::Any => {
                if answer.embedding.is_some() || answer.embeddings.is_some() {
                    self.read_vectors(answer.embedding, answer.embeddings, answer.token_count)
                } else {
                    self.read_candidates(answer.candidates, answer.prompt_feedback);
                    Ok(())
                }
            }
        }
    }

    /// Whether the answer says that it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.response.finish_reason.is_some()
    }

    /// The answer.
    pub(crate) fn finish(mut self) -> Result<Response, Unanswered> {
        let empty = self.response.content.is_empty() && self.response.embeddings.is_empty();
        if !self.answered || (empty && self.response.finish_reason.is_none()) {
            // F-052: neither candidates nor a block, or a candidate with nothing in it and no word why.
            let error = Unanswered::hollow("read the answer: it holds no answer");
            return Err(error.with_usage(self.response.usage));
        }
        if self.calls > 0 && self.response.finish_reason == Some(FinishReason::Stop) {
            self.response.finish_reason = Some(FinishReason::ToolCalls);
        }
        Ok(self.response)
    }

    fn read_candidates(&mut self, candidates: Option<&RawValue>, feedback: Option<&RawValue>) {
        let list: Vec<&RawValue> = lenient(candidates).unwrap_or_default();
        // Further ones exist only where the caller asked for them; the raw body has them.
        let Some(candidate) = list
            .first()
            .and_then(|raw| lenient::<Candidate<'_>>(Some(raw)))
        else {
            let blocked = lenient::<PromptFeedback>(feedback).and_then(|it| it.block_reason);
            if blocked.is_some() {
                // A blocked prompt: a policy refused, and the raw body says which (F-062).
                self.answered = true;
                self.response.finish_reason = Some(FinishReason::ContentFilter);
            }
            return;
        };
        let content: Option<AnswerContent<'_>> = lenient(candidate.content);
        // A safety stop has no content, and thinking may use up all tokens: no parts then (F-064, F-065).
        self.answered |= content.is_some() || candidate.finish_reason.is_some();
        let parts = content
            .and_then(|content| content.parts)
            .unwrap_or_default();
        for part in parts {
            if let Some(part) = lenient::<AnswerPart<'_>>(Some(part)) {
                self.read_part(part);
            }
        }
        if let Some(word) = candidate.finish_reason {
            self.response.finish_reason = Some(finish_reason(word));
        }
    }

    fn read_part(&mut self, part: AnswerPart<'_>) {
        let text = some_text(part.text);
        if part.thought == Some(true) {
            let thinking = Thinking::new(text.unwrap_or_default(), part.thought_signature);
            match (self.response.content.last_mut(), &thinking.signature) {
                (Some(Part::Thinking(last)), None)
                    if last.signature.is_none() && !last.text.is_empty() =>
                {
                    last.text.push_str(&thinking.text);
                }
                _ => self.response.content.push(Part::Thinking(thinking)),
            }
            return;
        }
        if let Some(signature) = part.thought_signature.filter(|text| !text.is_empty()) {
            // It must come back with this part; core has no place for it but here.
            let thinking = Thinking::new("", Some(signature));
            self.response.content.push(Part::Thinking(thinking));
        }
        let content = &mut self.response.content;
        match (text, content.last_mut()) {
            // Chunks of one text.
            (Some(text), Some(Part::Text(last))) => last.push_str(&text),
            (Some(text), _) => content.push(Part::Text(text)),
            (None, _) => {}
        }
        if let Some(call) = lenient::<AnswerCall<'_>>(part.function_call) {
            let id = call.id.filter(|id| !id.is_empty());
            let id = id.unwrap_or_else(|| format!("{OWN_CALL_ID}{}", self.calls));
            let arguments = call.args.map_or("{}", RawValue::get);
            let call = ToolCall::new(id, call.name.unwrap_or_default(), arguments);
            self.calls += 1;
            content.push(Part::ToolCall(call));
        }
        if let Some(blob) = part.inline_data {
            let sound = blob.mime_type.starts_with("audio/");
            let picture = blob.mime_type.starts_with("image/");
            let media = Media::Inline {
                media_type: blob.mime_type,
                base64: blob.data,
                name: None,
            };
            content.push(match (picture, sound) {
                (true, _) => Part::Image(media),
                (_, true) => Part::Audio(media),
                _ => Part::Document(media),
            });
        }
    }

    fn read_vectors(
        &mut self,
        one: Option<&RawValue>,
        many: Option<&RawValue>,
        tokens: Option<u64>,
    ) -> Result<(), Unanswered> {
        if let Some(tokens) = tokens.filter(|_| self.response.usage.is_unknown()) {
            self.response.usage.input_tokens = Some(tokens);
        }
        let vectors: Option<Vec<Vector>> = match one {
            Some(_) => lenient::<Vector>(one).map(|vector| vec![vector]),
            None => lenient(many),
        };
        let vectors = vectors.unwrap_or_default();
        // A hole would give a text another one's vector.
        if vectors.is_empty() || vectors.iter().any(|vector| vector.values.is_empty()) {
            return Err(Unanswered::hollow("read the answer: it holds no vectors")
                .with_usage(self.response.usage));
        }
        self.answered = true;
        self.response.embeddings = vectors.into_iter().map(|vector| vector.values).collect();
        Ok(())
    }
}

fn finish_reason(word: String) -> FinishReason {
    match &*word {
        "STOP" => FinishReason::Stop,
        "MAX_TOKENS" => FinishReason::Length,
        "SAFETY"
        | "RECITATION"
        | "LANGUAGE"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION"
        | "MODEL_ARMOR" => FinishReason::ContentFilter,
        _ => FinishReason::Other(word),
    }
}

/// Reads counters: thoughts are apart from the candidates on the wire and are billed as output, and what tools put
/// into the prompt is apart from the prompt. What is zero is left out, so beside a known counter the rest is 0.
pub(crate) fn usage(raw: Option<&RawValue>) -> Usage {
    let wire: UsageMetadata = lenient(raw).unwrap_or_default();
    let mut usage = Usage::default();
    let told = [
        wire.prompt_token_count,
        wire.candidates_token_count,
        wire.thoughts_token_count,
        wire.total_token_count,
    ];
    if told.iter().all(Option::is_none) {
        return usage;
    }
    let sum = |a: Option<u64>, b: Option<u64>| Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0)));
    usage.input_tokens = sum(wire.prompt_token_count, wire.tool_use_prompt_token_count);
    usage.output_tokens = sum(wire.candidates_token_count, wire.thoughts_token_count);
    usage.cache_read_input_tokens = wire.cached_content_token_count;
    usage.reasoning_tokens = wire.thoughts_token_count;
    usage
}
