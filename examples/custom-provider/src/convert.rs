//! Requests into Quillmere's words, its words into outcomes. Nothing here waits.

use crate::client::{ERRORS, in_common_words};
use crate::wire::{Answer, Ask, Press, SheetLine, Trouble, Turn};
use batchwright_core::{
    BatchCounts, BatchHandle, BatchSnapshot, BatchStatus, BatchSummary, Ending, Error, ErrorKind,
    FinishReason, InputFault, InputRef, Lane, Outcome, Part, Payload, Request, Response,
    ResponseFormat, Result, ResultFile, Role, Usage,
};
use batchwright_http::{
    hollow, redact,
    wire::{lenient, line_text, push_text},
};
use serde_json::value::RawValue;
use std::sync::Arc;

/// The one endpoint, for direct calls and batches.
pub(crate) const ASKS: &str = "asks";

// ---- requests ----

fn refused(kind: ErrorKind, what: &str) -> Error {
    Error::new(kind, format!("write the ask: {what}"))
}

/// Appends a request's body; on an error `body` is as it was.
pub(crate) fn write_ask(request: &Request, body: &mut Vec<u8>) -> Result<()> {
    let unsupported = |what| refused(ErrorKind::Unsupported, what);
    let chat = match &request.payload {
        Payload::Chat(chat) => chat,
        Payload::Raw(raw) => {
            body.extend_from_slice(raw.body.get().as_bytes());
            return Ok(());
        }
        _ => return Err(unsupported("Quillmere answers conversations only")),
    };
    if chat.messages.is_empty() {
        return Err(refused(ErrorKind::InvalidRequest, "nobody says anything"));
    }
    if !chat.tools.is_empty() || chat.response_format != ResponseFormat::default() {
        return Err(unsupported("Quillmere has neither tools nor schemas"));
    }
    let sampling = &request.sampling;
    let foreign = sampling.top_p().is_some()
        || sampling.top_k().is_some()
        || sampling.frequency_penalty().is_some()
        || sampling.presence_penalty().is_some()
        || sampling.seed().is_some()
        || !sampling.stop().is_empty()
        || sampling.reasoning_effort().is_some();
    if foreign {
        return Err(unsupported(
            "of sampling Quillmere knows temperature and the most tokens",
        ));
    }
    let turns = chat.messages.iter().map(|message| {
        let by = match message.role {
            Role::System => "editor",
            Role::User => "asker",
            Role::Assistant => "writer",
            _ => return Err(unsupported("no turn is a tool's")),
        };
        let words = message.content.iter().map(Part::as_text).collect();
        match words {
            Some(words) => Ok(Turn { by, words }),
            None => Err(unsupported("Quillmere reads text only")),
        }
    });
    let ask = Ask {
        voice: &request.model,
        turns: turns.collect::<Result<_>>()?,
        daring: sampling.temperature(),
        most_tokens: sampling.max_output_tokens(),
        extra: &request.extra,
    };
    let text = serde_json::to_vec(&ask)
        .map_err(|error| refused(ErrorKind::Unexpected, "as JSON").with_source(error))?;
    body.extend_from_slice(&text);
    Ok(())
}

/// Appends a request's line: its id first, and once.
pub(crate) fn write_line(request: &Request, wire_id: &str, line: &mut Vec<u8>) -> Result<()> {
    let before = line.len();
    line.extend_from_slice(b"{\"slip\":");
    push_text(wire_id, line);
    line.extend_from_slice(b",\"ask\":");
    let written = write_ask(request, line);
    match written {
        Ok(()) => line.push(b'}'),
        Err(_) => line.truncate(before),
    }
    written
}

// ---- answers ----

/// Reads an answer, or `None` where the JSON is none.
pub(crate) fn read_answer(json: &RawValue) -> Option<Response> {
    let answer: Answer = lenient(Some(json))?;
    let mut response = Response::from_text(answer.said?);
    response.id = answer.ask;
    response.model = answer.voice;
    response.finish_reason = answer.ended.map(|ended| match &*ended {
        "done" => FinishReason::Stop,
        "full" => FinishReason::Length,
        "declined" => FinishReason::Refusal,
        "barred" => FinishReason::ContentFilter,
        _ => FinishReason::Other(ended),
    });
    response.usage = Usage::default();
    response.usage.input_tokens = answer.tokens.read;
    response.usage.output_tokens = answer.tokens.wrote;
    response.raw = Some(json.into());
    Some(response)
}

/// Reads a line of a sheet.
pub(crate) fn read_line(line: &[u8], provider: &Arc<str>) -> Option<Outcome> {
    let (text, _) = line_text(line)?;
    let line: SheetLine<'_> = serde_json::from_str(text).ok()?;
    let mut model = None;
    let ending = match (line.answer, line.trouble, line.unasked.as_deref()) {
        (_, _, Some("halted")) => Ending::Cancelled,
        (_, _, Some("lapsed")) => Ending::Expired,
        (_, Some(trouble), _) => Ending::Failed(row_error(trouble, provider)),
        (Some(answer), ..) => match read_answer(answer) {
            Some(answer) => {
                model = answer.model.as_deref().map(Arc::from);
                answer.into_ending()
            }
            None => unreadable("read the result: the line's answer is hollow", provider),
        },
        _ => unreadable(
            "read the result: the line has neither an answer nor trouble",
            provider,
        ),
    };
    let mut outcome = Outcome::new(line.slip?, ending);
    outcome.provenance.provider = Some(provider.clone());
    outcome.provenance.model = model;
    outcome.provenance.lane = Some(Lane::Batch);
    Some(outcome)
}

fn unreadable(what: &'static str, provider: &Arc<str>) -> Ending {
    Ending::Unreadable(hollow(what).with_provider(provider.clone()))
}

fn row_error(trouble: &RawValue, provider: &Arc<str>) -> Error {
    let trouble: Option<Trouble> = lenient(Some(trouble));
    let status = trouble.as_ref().and_then(|trouble| trouble.status);
    let status = status.and_then(|status| u16::try_from(status).ok());
    let body = trouble.map(|trouble| in_common_words(&trouble));
    let error = ERRORS.of_row(status.unwrap_or(500), &body.unwrap_or_default());
    error.with_provider(provider.clone())
}

// ---- presses ----

fn status_of(stage: &str) -> BatchStatus {
    match stage {
        "queued" => BatchStatus::Validating,
        "inking" => BatchStatus::InProgress,
        "drying" => BatchStatus::Finalizing,
        "bound" => BatchStatus::Completed,
        "spoiled" => BatchStatus::Failed,
        "lapsed" => BatchStatus::Expired,
        "halting" => BatchStatus::Cancelling,
        "halted" => BatchStatus::Cancelled,
        other => BatchStatus::Unknown(other.to_owned()),
    }
}

/// What a poll found, or `None` where the press says nothing of its stage.
pub(crate) fn snapshot(handle: &BatchHandle, press: Press) -> Option<BatchSnapshot> {
    let status = status_of(press.stage.as_deref()?);
    let mut snapshot = BatchSnapshot::new(handle.clone(), status);
    snapshot.counts = press
        .tally
        .and_then(|tally| Some(BatchCounts::new(tally.asked?, tally.said?, tally.troubled?)));
    snapshot.created_at = press.made;
    snapshot.ended_at = press.done;
    let faults = press.why.map(|why| {
        let say = redact(why.say.as_deref().unwrap_or_default());
        InputFault::new(why.sort, say, None, None)
    });
    snapshot.faults = faults.into_iter().collect();
    let files = press.sheet.map(|sheet| ResultFile::new(sheet, "sheet"));
    snapshot.files = files.into_iter().collect();
    Some(snapshot)
}

/// An entry of the list; `None` where it cannot be read.
pub(crate) fn summary(provider: &str, entry: &RawValue) -> Option<BatchSummary> {
    let press: Press = lenient(Some(entry))?;
    let input = InputRef(press.ream.unwrap_or_default());
    let handle = BatchHandle::new(provider, press.press?, input);
    let tag = press.label.and_then(|label| label.parse().ok());
    let status = status_of(press.stage.as_deref()?);
    Some(BatchSummary::new(handle, status, tag, press.made))
}
