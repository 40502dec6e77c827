//! Direct calls: one request out, one answer in, whole or in pieces; counting; cached contents.

pub(crate) mod cache;
mod context;

pub use cache::{CachePage, CachedContent, NewCache};
pub use context::GeminiContext;

use crate::client::Client;
use crate::convert::{self, Expect, Purpose, Reader};
use crate::error::ERRORS;
use crate::wire::CountedTokens;
use batchwright_core::{CallOptions, Payload, RawJson, Request, Response, Result};
use batchwright_http::{Asked, Reply, direct_answer, hollow, sse, wire::size_hint};
use futures::StreamExt;
use std::pin::pin;

/// How many tokens a request has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenCount {
    /// All of them, cached ones included.
    pub total_tokens: u64,
    /// Those that a cached content holds.
    pub cached_tokens: u64,
}

/// One attempt at an answer; streamed where more than `stream_above` tokens are allowed.
pub(crate) async fn answer(
    client: &Client,
    stream_above: u32,
    request: &Request,
    call: &CallOptions,
) -> Result<Response> {
    let endpoint = convert::endpoint(request, Purpose::Answer)?;
    let mut body = Vec::with_capacity(size_hint(request));
    convert::write_body(request, Purpose::Answer, &mut body)?;
    let allowed = request.sampling.max_output_tokens();
    let long = allowed.is_some_and(|tokens| tokens > stream_above);
    if long && matches!(request.payload, Payload::Chat(_)) {
        return streamed(client, request, body, call).await;
    }
    let reply = client
        .infer(&request.model, endpoint, body, call.timeout)
        .await?;
    if !reply.is_success() {
        return Err(client.refused(Asked::Inference, &reply));
    }
    read_reply(client, &reply, Expect::of(request))
}

fn read_reply(client: &Client, reply: &Reply, expect: Expect) -> Result<Response> {
    direct_answer(
        &reply.body,
        reply.status,
        reply.hints_by(ERRORS.hints()),
        |body| convert::read_answer(body, expect, &[&client.key]),
    )
}

/// An answer in pieces. Its raw body is the list of them, which is what the API sends without `alt=sse`.
async fn streamed(
    client: &Client,
    request: &Request,
    body: Vec<u8>,
    call: &CallOptions,
) -> Result<Response> {
    let reply = client
        .infer_streamed(&request.model, body, call.timeout)
        .await?;
    if !reply.is_success() {
        return Err(client.refused(Asked::Inference, &reply.into_reply().await?));
    }
    let status = reply.status;
    let hints = ERRORS.hints().read(&reply.headers);
    let mut reader = Reader::new(Expect::Chat);
    let mut raw = String::from("[");
    let mut events = pin!(sse::events(reply.body));
    while let Some(event) = events.next().await {
        let data = event?.data;
        reader
            .push(&data, &[&client.key])
            .map_err(|unanswered| unanswered.into_error().with_status(status))?;
        if raw.len() > 1 {
            raw.push(',');
        }
        raw.push_str(&data);
    }
    raw.push(']');
    // There is no last event but the piece that says why the model stopped (F-058).
    let ended = reader.has_ended();
    let mut response = reader
        .finish()
        .map_err(|unanswered| unanswered.into_error().with_status(status))?;
    if !ended {
        let error = hollow("read the answer: it broke off before its last piece");
        return Err(error.with_status(status).with_usage(response.usage));
    }
    response.raw = RawJson::parse(raw).ok();
    response.request_id = hints.request_id.or(response.request_id);
    response.rate_limit = hints.rate_limit;
    Ok(response)
}

/// Counts a request's tokens.
pub(crate) async fn count(client: &Client, request: &Request) -> Result<TokenCount> {
    let body = convert::count_body(request)?;
    let reply = client.count_tokens(&request.model, body).await?;
    if !reply.is_success() {
        return Err(client.refused(Asked::Inference, &reply));
    }
    let counted: CountedTokens = client.object(&reply)?;
    let total = counted.total_tokens;
    Ok(TokenCount {
        total_tokens: total.ok_or_else(|| hollow("count the tokens: the answer has no count"))?,
        cached_tokens: counted.cached_content_token_count.unwrap_or(0),
    })
}
