//! Google's answers in core's words.

use crate::error::ERRORS;
use crate::wire::{
    AnswerCall, AnswerPart, Candidate, Content, Generated, PromptFeedback, UsageMetadata,
};
use batchwright_core::{FinishReason, Part, Response, Thinking, ToolCall, Usage};
use batchwright_http::{
    Secret, Unanswered,
    wire::{lenient, some_text},
};
use serde_json::value::RawValue;

/// Reads a successful answer's body. Status, ids of HTTP and raw bytes are the caller's; `secrets` are removed from
/// what an error within echoes (F-203).
///
/// # Errors
/// The error within where the body holds one (F-050), `ProviderFault` of class `Ambiguous` where it holds no answer
/// (F-051, F-052, F-053).
pub(crate) fn read_answer(body: &str, secrets: &[&Secret]) -> Result<Response, Unanswered> {
    if !body.trim_start().starts_with('{') {
        return Err(Unanswered::hollow(
            "read the answer: it is not a JSON object",
        ));
    }
    let Ok(answer) = serde_json::from_str::<Generated<'_>>(body) else {
        return Err(Unanswered::hollow(
            "read the answer: it is not JSON of a known form",
        ));
    };
    if let Some(error) = answer
        .error
        .and_then(|raw| ERRORS.within(raw.get(), secrets))
    {
        return Err(Unanswered::Said(error));
    }
    let mut response = Response::default();
    response.id = answer.response_id;
    response.model = answer.model_version;
    response.usage = usage(answer.usage_metadata);
    // The further ones exist only where the caller asked for several; the raw body has them.
    let candidate = answer
        .candidates
        .unwrap_or_default()
        .first()
        .and_then(|raw| lenient::<Candidate<'_>>(Some(raw)));
    let read = match candidate {
        Some(candidate) => read_candidate(candidate, &mut response),
        None => {
            let feedback: PromptFeedback = lenient(answer.prompt_feedback).unwrap_or_default();
            match feedback.block_reason {
                // The prompt was stopped: an answer that says so (F-051, F-062).
                Some(_) => {
                    response.finish_reason = Some(FinishReason::ContentFilter);
                    Ok(())
                }
                None => Err(Unanswered::hollow("read the answer: it has no candidate")),
            }
        }
    };
    match read {
        Ok(()) => Ok(response),
        Err(error) => Err(error.with_usage(response.usage)),
    }
}

fn read_candidate(candidate: Candidate<'_>, response: &mut Response) -> Result<(), Unanswered> {
    let content: Content<'_> = lenient(candidate.content).unwrap_or_default();
    let mut calls = 0;
    for part in content.parts.unwrap_or_default() {
        let Some(part) = lenient::<AnswerPart<'_>>(Some(part)) else {
            continue;
        };
        let thought = part.thought == Some(true);
        let text = some_text(part.text);
        if thought {
            let thinking = Thinking::new(text.unwrap_or_default(), part.thought_signature);
            response.content.push(Part::Thinking(thinking));
            continue;
        }
        // The vendor wants a signature back on the part it came with; core keeps it before that part.
        if let Some(signature) = part.thought_signature {
            let thinking = Thinking::new("", Some(signature));
            response.content.push(Part::Thinking(thinking));
        }
        if let Some(text) = text {
            response.content.push(Part::Text(text));
        }
        if let Some(call) = lenient::<AnswerCall<'_>>(part.function_call) {
            calls += 1;
            response.content.push(Part::ToolCall(ToolCall::new(
                // Most calls come without an id, and a result needs one to name its call by.
                call.id.unwrap_or_else(|| format!("call-{calls}")),
                call.name.unwrap_or_default(),
                call.args.map_or("{}", RawValue::get),
            )));
        }
    }
    response.finish_reason = match candidate.finish_reason {
        Some(word) => Some(finish_reason(word, calls > 0)),
        None if response.content.is_empty() => {
            return Err(Unanswered::hollow(
                "read the answer: its candidate is empty",
            ));
        }
        None => None,
    };
    Ok(())
}

/// A word of <https://cloud.google.com/vertex-ai/generative-ai/docs/reference/rest/v1/GenerateContentResponse>; an
/// unknown one is kept (F-056).
fn finish_reason(word: String, calls: bool) -> FinishReason {
    match &*word {
        "STOP" if calls => FinishReason::ToolCalls,
        "STOP" => FinishReason::Stop,
        "MAX_TOKENS" => FinishReason::Length,
        "SAFETY"
        | "RECITATION"
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

/// Reads counters; a counter that is left out is zero where there are any (F-066). Thoughts are billed as output and
/// counted apart.
fn usage(raw: Option<&RawValue>) -> Usage {
    let mut usage = Usage::default();
    let Some(wire) = lenient::<UsageMetadata>(raw) else {
        return usage;
    };
    let Some(prompt) = wire.prompt_token_count else {
        return usage;
    };
    let thoughts = wire.thoughts_token_count.unwrap_or(0);
    let tools = wire.tool_use_prompt_token_count.unwrap_or(0);
    usage.input_tokens = Some(prompt.saturating_add(tools));
    usage.output_tokens = Some(
        wire.candidates_token_count
            .unwrap_or(0)
            .saturating_add(thoughts),
    );
    usage.reasoning_tokens = Some(thoughts);
    usage.cache_read_input_tokens = Some(wire.cached_content_token_count.unwrap_or(0));
    usage
}
