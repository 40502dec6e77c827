//! Direct calls: one request out, one answer in.

use crate::client::Client;
use crate::convert::{Form, Purpose, max_tokens, read_answer, write_body};
use crate::error::ERRORS;
use crate::stream::Assembly;
use crate::wire::TokenCount;
use batchwright_core::{CallOptions, Payload, Request, Response, Result};
use batchwright_http::{Asked, StreamReply, direct_answer, hollow, sse, wire::size_hint};
use futures::StreamExt;
use std::pin::pin;

/// One attempt at an answer.
pub(crate) async fn answer(
    client: &Client,
    form: Form,
    request: &Request,
    call: &CallOptions,
) -> Result<Response> {
    let long = max_tokens(request, form) > u64::from(form.stream_above);
    // A raw body is sent as it is.
    let streams = long && matches!(request.payload, Payload::Chat(_));
    let purpose = if streams {
        Purpose::Stream
    } else {
        Purpose::Answer
    };
    let mut body = Vec::with_capacity(size_hint(request));
    write_body(request, form, purpose, &mut body)?;
    let read = |body: &str| read_answer(body, &client.key);
    if !streams {
        let reply = client.infer(body, call.timeout).await?;
        if !reply.is_success() {
            return Err(client.refused(Asked::Inference, &reply));
        }
        let hints = reply.hints_by(ERRORS.hints());
        return direct_answer(&reply.body, reply.status, hints, read);
    }
    let reply = client.infer_streamed(body, call.timeout).await?;
    if !reply.is_success() {
        return Err(client.refused(Asked::Inference, &reply.into_reply().await?));
    }
    let hints = ERRORS.hints().read(&reply.headers);
    let status = reply.status;
    match assemble(client, reply).await {
        Ok(message) => direct_answer(&message, status, hints, read),
        Err(error) => Err(hints.apply(error.with_status(status))),
    }
}

/// Reads a stream to its last event and gives the message it was about, in the form it has in one piece.
async fn assemble(client: &Client, reply: StreamReply) -> Result<Vec<u8>> {
    let mut assembly = Assembly::default();
    let mut events = pin!(sse::events(reply.body));
    while let Some(event) = events.next().await {
        assembly.take(&event?.data, &client.key)?;
        if assembly.is_whole() {
            return assembly.into_message();
        }
    }
    // F-058: however much was there.
    Err(hollow("read the answer: the stream ended before its end"))
}

/// How many tokens a request puts in.
pub(crate) async fn count(client: &Client, form: Form, request: &Request) -> Result<u64> {
    let mut body = Vec::with_capacity(size_hint(request));
    write_body(request, form, Purpose::Count, &mut body)?;
    let reply = client.count_tokens(body).await?;
    if !reply.is_success() {
        return Err(client.refused(Asked::Inference, &reply));
    }
    serde_json::from_slice::<TokenCount>(&reply.body)
        .ok()
        .and_then(|count| count.input_tokens)
        .ok_or_else(|| hollow("count the tokens: the answer names none").with_status(reply.status))
}
