//! Anthropic's answers in core's words.

use crate::error;
use crate::wire::{Answer, AnswerBlock, Envelope, OutputDetails, UsageWire};
use batchwright_core::{FinishReason, Part, Response, Thinking, ToolCall, Usage};
use batchwright_http::{
    Secret, Unanswered,
    wire::{lenient, some_text, text},
};
use serde_json::value::RawValue;

/// Reads a message. Status, ids of HTTP and raw bytes are the caller's. `key` is removed from whatever the server
/// echoes.
///
/// # Errors
/// The error within where the body holds one (F-050), `ProviderFault` of class `Ambiguous` where it holds
/// no answer (F-051, F-052, F-053).
pub(crate) fn read_answer(body: &str, key: &Secret) -> Result<Response, Unanswered> {
    if !body.trim_start().starts_with('{') {
        return Err(Unanswered::hollow(
            "read the answer: it is not a JSON object",
        ));
    }
    let answer: Answer<'_> = match serde_json::from_str(body) {
        Ok(answer) => answer,
        Err(_) => {
            let said = serde_json::from_str::<Envelope<'_>>(body)
                .ok()
                .and_then(|envelope| envelope.error)
                .and_then(|raw| error::within(raw.get(), key));
            return Err(match said {
                Some(error) => Unanswered::Said(error),
                None => Unanswered::hollow("read the answer: it is not JSON of a known form"),
            });
        }
    };
    if let Some(error) = answer.error.and_then(|raw| error::within(raw.get(), key)) {
        return Err(Unanswered::Said(error));
    }
    let Some(blocks) = answer.content else {
        return Err(Unanswered::hollow("read the answer: it has no content"));
    };
    if blocks.is_empty() && answer.stop_reason.is_none() {
        // F-052: nothing said, and no word why; what that cost is known all the same.
        let error = Unanswered::hollow("read the answer: its content is empty");
        return Err(error.with_usage(usage(answer.usage)));
    }
    let mut response = Response::default();
    response.id = answer.id;
    response.model = answer.model;
    response.usage = usage(answer.usage);
    response.content = blocks.into_iter().filter_map(part).collect();
    response.finish_reason = answer.stop_reason.map(finish_reason);
    Ok(response)
}

/// A block in core's words. Searches, hidden thinking and blocks newer than this are left to the raw body.
fn part(raw: &RawValue) -> Option<Part> {
    let block = lenient::<AnswerBlock<'_>>(Some(raw))?;
    match block.r#type.as_deref()? {
        "text" => some_text(block.text).map(Part::Text),
        "thinking" => {
            let thought = block.thinking.and_then(text).unwrap_or_default();
            let signature = some_text(block.signature);
            let empty = thought.is_empty() && signature.is_none();
            (!empty).then(|| Part::Thinking(Thinking::new(thought, signature)))
        }
        "tool_use" => Some(Part::ToolCall(ToolCall::new(
            block.id.unwrap_or_default(),
            block.name.unwrap_or_default(),
            block.input.map_or("{}", RawValue::get),
        ))),
        _ => None,
    }
}

fn finish_reason(word: String) -> FinishReason {
    match &*word {
        "end_turn" | "stop_sequence" => FinishReason::Stop,
        // Both limits cut an answer off.
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "tool_use" => FinishReason::ToolCalls,
        "refusal" => FinishReason::Refusal,
        _ => FinishReason::Other(word),
    }
}

/// Reads counters; what is absent or odd is unknown (F-057, F-066). The vendor counts what came from the cache, and
/// what was written to it, beside the input: core's counter of input holds all three.
fn usage(raw: Option<&RawValue>) -> Usage {
    let wire: UsageWire<'_> = lenient(raw).unwrap_or_default();
    let output: OutputDetails = lenient(wire.output_tokens_details).unwrap_or_default();
    let read = wire.cache_read_input_tokens.unwrap_or(0);
    let written = wire.cache_creation_input_tokens.unwrap_or(0);
    let mut usage = Usage::default();
    usage.input_tokens = wire
        .input_tokens
        .map(|fresh| fresh.saturating_add(read).saturating_add(written));
    usage.output_tokens = wire.output_tokens;
    usage.cache_read_input_tokens = wire.cache_read_input_tokens;
    usage.cache_creation_input_tokens = wire.cache_creation_input_tokens;
    usage.reasoning_tokens = output.thinking_tokens;
    usage
}
