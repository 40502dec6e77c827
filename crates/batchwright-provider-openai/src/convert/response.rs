//! OpenAI's answers in core's words: every inference endpoint's, read by the fields it has.

use crate::dialect::Dialect;
use crate::wire::{
    Answer, AnswerPart, AnswerToolCall, Choice, Datum, Envelope, IncompleteDetails, OutputItem,
    PlainAnswer, PlainUsage, UsageDetails, UsageWire, XGroq, XGroqUsage,
};
use batchwright_core::{
    Error, FinishReason, Part, Payload, RawJson, Request, Response, Thinking, ToolCall, Usage,
};
use batchwright_http::{
    Secret, Unanswered,
    wire::{BorrowedText, lenient, some_text, text},
};
use serde_json::value::RawValue;

/// Which endpoint's answer is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Chat completions or responses.
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
            // An extra `input` replaces the texts, and only the caller knows how many it holds.
            Payload::Embedding(input) if !request.extra.contains_key("input") => {
                Self::Embeddings(input.texts.len())
            }
            _ => Self::Any,
        }
    }
}

/// Reads a successful HTTP answer's body, and keeps it where that costs no other reading.
///
/// # Errors
/// As [`read_answer`].
pub(crate) fn read_body(
    body: &str,
    expect: Expect,
    dialect: &Dialect,
    secrets: &[&Secret],
) -> Result<Response, Unanswered> {
    if expect == Expect::Chat
        && body.trim_start().starts_with('{')
        && let Ok((answer, raw)) = RawJson::reading::<PlainAnswer<'_>>(body)
    {
        let mut response = read_plain(answer, dialect)?;
        response.raw = Some(raw);
        return Ok(response);
    }
    read_answer(body, expect, dialect, secrets)
}

/// What [`read_answer`] makes of the same body.
fn read_plain(answer: PlainAnswer<'_>, dialect: &Dialect) -> Result<Response, Unanswered> {
    let mut response = Response::default();
    response.usage = answer.usage.unwrap_or_default().counted(dialect);
    let read = match answer.choices.into_iter().next() {
        None => Err(Unanswered::hollow("read the answer: its choices are empty")),
        Some(choice) => {
            let finish = choice.finish_reason.as_ref().map(|word| &*word.0);
            read_finish(finish, dialect, &mut response).map(|()| {
                let message = choice.message;
                let some = |text: Option<BorrowedText<'_>>| {
                    text.map(|text| text.0.into_owned())
                        .filter(|text| !text.is_empty())
                };
                let thought = some(message.reasoning_content).or_else(|| some(message.reasoning));
                think(thought, &mut response);
                if let Some(written) = message.content {
                    push_text(&mut response.content, written);
                }
                if let Some(refusal) = some(message.refusal) {
                    refuse(refusal, &mut response);
                }
            })
        }
    };
    response.id = answer.id;
    response.model = answer.model;
    match read {
        Ok(()) => Ok(response),
        Err(unanswered) => Err(unanswered.with_usage(response.usage)),
    }
}

/// Reads a successful HTTP answer's body. Status, ids of HTTP and raw bytes are the caller's.
///
/// # Errors
/// The error within where the body holds one (F-050), `ProviderFault` of class `Ambiguous` where it holds
/// no answer (F-051, F-052, F-053).
pub(crate) fn read_answer(
    body: &str,
    expect: Expect,
    dialect: &Dialect,
    secrets: &[&Secret],
) -> Result<Response, Unanswered> {
    let errors = &dialect.errors;
    if !body.trim_start().starts_with('{') {
        return Err(Unanswered::hollow(
            "read the answer: it is not a JSON object",
        ));
    }
    let answer: Answer<'_> = match serde_json::from_str(body) {
        Ok(answer) => answer,
        Err(_) => {
            let error = serde_json::from_str::<Envelope<'_>>(body)
                .ok()
                .and_then(|envelope| envelope.error)
                .and_then(|raw| errors.within(raw.get(), secrets));
            return Err(match error {
                Some(error) => Unanswered::Said(error),
                None => Unanswered::hollow("read the answer: it is not JSON of a known form"),
            });
        }
    };
    if let Some(error) = answer
        .error
        .and_then(|raw| errors.within(raw.get(), secrets))
    {
        return Err(Unanswered::Said(error));
    }
    let mut response = Response::default();
    response.usage = usage(answer.usage, dialect);
    let groq: XGroq<'_> = lenient(answer.x_groq).unwrap_or_default();
    response.request_id = groq.id;
    if response.usage.cache_read_input_tokens.is_none() {
        response.usage.cache_read_input_tokens = cached_by_groq(groq.usage);
    }
    let read = match (expect, answer.choices, answer.output, answer.data) {
        (Expect::Chat | Expect::Any, Some(choices), _, _) => {
            read_choices(choices, dialect, secrets, &mut response)
        }
        (Expect::Chat | Expect::Any, None, Some(output), _) => read_output(
            output,
            answer.status.as_deref(),
            lenient(answer.incomplete_details),
            &mut response,
        ),
        (Expect::Embeddings(texts), _, _, Some(data)) => {
            read_vectors(data, Some(texts), &mut response)
        }
        (Expect::Any, None, None, Some(data)) if !data.is_empty() => {
            if data.iter().any(|datum| datum.embedding.is_some()) {
                read_vectors(data, None, &mut response)
            } else {
                keep_raw(body, &mut response)
            }
        }
        (Expect::Any, None, None, None) if answer.results.is_some_and(|list| !list.is_empty()) => {
            keep_raw(body, &mut response)
        }
        _ => Err(Unanswered::hollow("read the answer: it holds no answer")),
    };
    response.id = answer.id;
    response.model = answer.model;
    match read {
        Ok(()) => Ok(response),
        Err(unanswered) => Err(unanswered.with_usage(response.usage)),
    }
}

/// Pictures and moderations have no words in core: their body is the answer.
fn keep_raw(body: &str, response: &mut Response) -> Result<(), Unanswered> {
    response.raw = serde_json::from_str(body).ok();
    Ok(())
}

fn read_choices(
    choices: Vec<Choice<'_>>,
    dialect: &Dialect,
    secrets: &[&Secret],
    response: &mut Response,
) -> Result<(), Unanswered> {
    // The further ones exist only where the caller asked for `n`; the raw body has them.
    let Some(choice) = choices.into_iter().next() else {
        return Err(Unanswered::hollow("read the answer: its choices are empty"));
    };
    if let Some(error) = choice
        .error
        .and_then(|raw| dialect.errors.within(raw.get(), secrets))
    {
        return Err(Unanswered::Said(error));
    }
    read_finish(choice.finish_reason.as_deref(), dialect, response)?;
    let Some(message) = choice.message else {
        let Some(written) = choice.text.and_then(text) else {
            return Err(Unanswered::hollow(
                "read the answer: its choice has no message",
            ));
        };
        push_text(&mut response.content, written);
        return Ok(());
    };
    let reasoning = some_text(message.reasoning_content).or_else(|| some_text(message.reasoning));
    think(reasoning, response);
    if let Some(content) = message.content {
        match text(content) {
            Some(written) => push_text(&mut response.content, written),
            None => read_parts(Some(content), response),
        }
    }
    if let Some(refusal) = some_text(message.refusal) {
        refuse(refusal, response);
    }
    response
        .content
        .extend(message.tool_calls.into_iter().flatten().map(tool_call));
    Ok(())
}

/// Why the model stopped, which some services call a fault by.
fn read_finish(
    word: Option<&str>,
    dialect: &Dialect,
    response: &mut Response,
) -> Result<(), Unanswered> {
    let mut failed = dialect.failed_finishes.iter();
    if let Some(&(word, kind, class)) = failed.find(|(failed, ..)| word == Some(failed)) {
        let message = format!("read the answer: it broke off with {word}");
        let error = Error::new(kind, message).with_class(class).with_code(word);
        return Err(Unanswered::Said(error));
    }
    response.finish_reason = word.map(finish_reason);
    Ok(())
}

fn think(reasoning: Option<String>, response: &mut Response) {
    let thinking = reasoning.map(|text| Part::Thinking(Thinking::new(text, None)));
    response.content.extend(thinking);
}

fn tool_call(call: AnswerToolCall<'_>) -> Part {
    let function = call.function.or(call.custom);
    let (name, arguments) = function.map_or((None, None), |function| {
        (function.name, function.arguments.or(function.input))
    });
    Part::ToolCall(ToolCall::new(
        call.id.unwrap_or_default(),
        name.unwrap_or_default(),
        verbatim(arguments),
    ))
}

/// Arguments are a text that holds JSON; some servers send the JSON itself.
fn verbatim(arguments: Option<&RawValue>) -> String {
    arguments.map_or_else(String::new, |raw| {
        text(raw).unwrap_or_else(|| raw.get().to_owned())
    })
}

fn read_output(
    items: Vec<OutputItem<'_>>,
    status: Option<&str>,
    incomplete: Option<IncompleteDetails>,
    response: &mut Response,
) -> Result<(), Unanswered> {
    let empty = items.is_empty();
    let mut calls = false;
    for item in items {
        match item.r#type.as_deref() {
            Some("message") => read_parts(item.content, response),
            Some("reasoning") => {
                let summary: Vec<AnswerPart<'_>> = lenient(item.summary).unwrap_or_default();
                let text: String = summary
                    .iter()
                    .filter_map(|part| some_text(part.text))
                    .collect();
                if !text.is_empty() {
                    let thinking = Thinking::new(text, item.encrypted_content);
                    response.content.push(Part::Thinking(thinking));
                }
            }
            Some("function_call" | "custom_tool_call") => {
                calls = true;
                response.content.push(Part::ToolCall(ToolCall::new(
                    item.call_id.unwrap_or_default(),
                    item.name.unwrap_or_default(),
                    verbatim(item.arguments.or(item.input)),
                )));
            }
            // Searches and other built-in tools tell how the answer came about; the raw body has them.
            _ => {}
        }
    }
    let refused = response.finish_reason.is_some();
    let reason = incomplete.and_then(|details| details.reason);
    let ended = match (status, reason.as_deref()) {
        (Some("failed" | "cancelled"), _) => {
            return Err(Unanswered::hollow(
                "read the answer: the response failed without a reason",
            ));
        }
        (Some("in_progress" | "queued"), _) => {
            return Err(Unanswered::hollow(
                "read the answer: the response is not finished",
            ));
        }
        (Some("incomplete"), Some("max_output_tokens")) => FinishReason::Length,
        (Some("incomplete"), Some(reason)) => finish_reason(reason),
        _ if empty => return Err(Unanswered::hollow("read the answer: its output is empty")),
        _ if refused => return Ok(()),
        (Some("completed") | None, _) if calls => FinishReason::ToolCalls,
        (Some("completed") | None, _) => FinishReason::Stop,
        (Some(other), _) => FinishReason::Other(other.to_owned()),
    };
    response.finish_reason = Some(ended);
    Ok(())
}

/// The text and refusal parts of a message; parts of other types are left to the raw body.
fn read_parts(content: Option<&RawValue>, response: &mut Response) {
    let parts: Vec<&RawValue> = lenient(content).unwrap_or_default();
    for part in parts {
        let Some(part) = lenient::<AnswerPart<'_>>(Some(part)) else {
            continue;
        };
        if let Some(written) = some_text(part.text) {
            push_text(&mut response.content, written);
        }
        if let Some(refusal) = some_text(part.refusal) {
            refuse(refusal, response);
        }
    }
}

/// A refusal's text is the content, and the reason says what it is (F-063).
fn refuse(refusal: String, response: &mut Response) {
    push_text(&mut response.content, refusal);
    response.finish_reason = Some(FinishReason::Refusal);
}

fn push_text(content: &mut Vec<Part>, text: String) {
    if !text.is_empty() {
        content.push(Part::Text(text));
    }
}

fn finish_reason(word: &str) -> FinishReason {
    match word {
        "stop" => FinishReason::Stop,
        "length" => FinishReason::Length,
        "tool_calls" => FinishReason::ToolCalls,
        "content_filter" => FinishReason::ContentFilter,
        _ => FinishReason::Other(word.to_owned()),
    }
}

/// Puts vectors in the order of their texts. A hole, a double or a wrong number of them would give a text
/// another one's vector, so nothing of such an answer is used.
fn read_vectors(
    data: Vec<Datum>,
    texts: Option<usize>,
    response: &mut Response,
) -> Result<(), Unanswered> {
    if texts.is_some_and(|texts| texts != data.len()) {
        return Err(Unanswered::hollow(
            "read the answer: not one vector for each text",
        ));
    }
    let mut vectors: Vec<Option<Vec<f32>>> = data.iter().map(|_| None).collect();
    for (place, datum) in data.into_iter().enumerate() {
        let index = datum
            .index
            .map_or(Some(place), |index| usize::try_from(index).ok());
        let slot = index.and_then(|index| vectors.get_mut(index));
        match (slot, datum.embedding) {
            (Some(slot @ None), Some(vector)) if !vector.0.is_empty() => *slot = Some(vector.0),
            _ => {
                return Err(Unanswered::hollow(
                    "read the answer: its vectors do not match the texts",
                ));
            }
        }
    }
    response.embeddings = vectors.into_iter().flatten().collect();
    Ok(())
}

impl PlainUsage {
    fn counted(self, dialect: &Dialect) -> Usage {
        let input = self.prompt_tokens_details.or(self.input_tokens_details);
        let output = self
            .completion_tokens_details
            .or(self.output_tokens_details);
        let (input, output) = (input.unwrap_or_default(), output.unwrap_or_default());
        let mut usage = Usage::default();
        usage.input_tokens = self.prompt_tokens.or(self.input_tokens);
        usage.output_tokens = self.completion_tokens.or(self.output_tokens);
        usage.cache_read_input_tokens = input.cached_tokens.or(self.prompt_cache_hit_tokens);
        usage.cache_creation_input_tokens = input.cache_write_tokens;
        usage.reasoning_tokens = output.reasoning_tokens;
        with_reasoning(usage, dialect)
    }
}

/// Reads counters of either API; what is absent or odd is unknown (F-057, F-066).
pub(crate) fn usage(raw: Option<&RawValue>, dialect: &Dialect) -> Usage {
    let wire: UsageWire<'_> = lenient(raw).unwrap_or_default();
    let details = |a: Option<&RawValue>, b: Option<&RawValue>| -> UsageDetails {
        lenient(a.or(b)).unwrap_or_default()
    };
    let input = details(wire.prompt_tokens_details, wire.input_tokens_details);
    let output = details(wire.completion_tokens_details, wire.output_tokens_details);
    let mut usage = Usage::default();
    usage.input_tokens = wire.prompt_tokens.or(wire.input_tokens);
    usage.output_tokens = wire.completion_tokens.or(wire.output_tokens);
    usage.cache_read_input_tokens = input.cached_tokens.or(wire.prompt_cache_hit_tokens);
    usage.cache_creation_input_tokens = input.cache_write_tokens;
    usage.reasoning_tokens = output.reasoning_tokens;
    with_reasoning(usage, dialect)
}

/// Core counts hidden reasoning within the output.
fn with_reasoning(mut usage: Usage, dialect: &Dialect) -> Usage {
    if let (true, Some(said), Some(thought)) = (
        dialect.reasoning_apart,
        usage.output_tokens,
        usage.reasoning_tokens,
    ) {
        usage.output_tokens = Some(said.saturating_add(thought));
    }
    usage
}

/// What Groq read from either of its memories.
fn cached_by_groq(raw: Option<&RawValue>) -> Option<u64> {
    let usage: XGroqUsage = lenient(raw)?;
    match (usage.dram_cached_tokens, usage.sram_cached_tokens) {
        (None, None) => None,
        (dram, sram) => Some(dram.unwrap_or(0).saturating_add(sram.unwrap_or(0))),
    }
}
