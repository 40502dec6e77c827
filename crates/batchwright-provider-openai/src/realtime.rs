//! Direct calls: one request out, one answer in.

use crate::client::Client;
use crate::convert::{self, Expect, Form};
use crate::stream::Assembly;
use batchwright_core::{CallOptions, Payload, Request, Response, Result};
use batchwright_http::{
    Asked, RetryHints, StreamReply, direct_answer, hollow, sse, wire::size_hint,
};
use bytes::Bytes;
use futures::StreamExt;
use std::pin::pin;

/// One attempt at an answer; streamed where more than `stream_above` tokens are allowed, or where that is 0.
pub(crate) async fn answer(
    client: &Client,
    mut form: Form,
    stream_above: u32,
    request: &Request,
    call: &CallOptions,
) -> Result<Response> {
    let endpoint = convert::endpoint(request, form.api)?;
    let allowed = request.sampling.max_output_tokens();
    // A raw body is sent as it is.
    form.streamed = matches!(request.payload, Payload::Chat(_))
        && allowed.map_or(stream_above == 0, |tokens| tokens > stream_above);
    let mut body = Vec::with_capacity(size_hint(request));
    convert::write_body(request, form, &mut body)?;
    let (status, body, hints) = if form.streamed {
        // On the heap, so that a call that is not streamed does not carry the room for it.
        Box::pin(streamed(client, endpoint, &request.model, body, call)).await?
    } else {
        let reply = client
            .infer(endpoint, &request.model, body, call.timeout)?
            .await?;
        if !reply.is_success() {
            return Err(client.refused(Asked::Inference, &reply));
        }
        let hints = reply.hints_by(client.dialect.errors.hints());
        (reply.status, reply.body, hints)
    };
    // Groq documents it: only a part of the answer came.
    if status == 206 {
        let error = hollow("read the answer: the service says that it is not whole");
        return Err(error.with_status(206));
    }
    read(client, &body, status, hints, Expect::of(request))
}

async fn streamed(
    client: &Client,
    endpoint: &str,
    model: &str,
    body: Vec<u8>,
    call: &CallOptions,
) -> Result<(u16, Bytes, RetryHints)> {
    let reply = client
        .infer_streamed(endpoint, model, body, call.timeout)
        .await?;
    if !reply.is_success() {
        return Err(client.refused(Asked::Inference, &reply.into_reply().await?));
    }
    let hints = client.dialect.errors.hints().read(&reply.headers);
    let status = reply.status;
    match assemble(client, reply).await {
        Ok(answer) => Ok((status, answer.into(), hints)),
        Err(error) => Err(hints.apply(error.with_status(status))),
    }
}

fn read(
    client: &Client,
    body: &[u8],
    status: u16,
    hints: RetryHints,
    expect: Expect,
) -> Result<Response> {
    direct_answer(body, status, hints, |body| {
        convert::read_body(body, expect, client.dialect, &[&client.key])
    })
}

/// Reads a stream to its last event and gives the answer it was about, in the form it has in one piece.
async fn assemble(client: &Client, reply: StreamReply) -> Result<Vec<u8>> {
    let mut assembly = Assembly::default();
    let mut events = pin!(sse::events(reply.body));
    while let Some(event) = events.next().await {
        assembly.take(&event?.data, client.dialect, &client.key)?;
        if assembly.is_whole() {
            break;
        }
    }
    if assembly.is_whole() || assembly.has_ended() {
        return assembly.into_answer();
    }
    // F-058: however much was there.
    Err(hollow("read the answer: the stream ended before its end"))
}
