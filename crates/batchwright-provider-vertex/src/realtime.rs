//! Direct calls: one request out, one answer in.

use crate::client::Client;
use crate::convert::{self, Purpose};
use crate::error::ERRORS;
use batchwright_core::{CallOptions, Request, Response, Result};
use batchwright_http::{Asked, Reply, Secret, wire::size_hint};
use serde_json::value::RawValue;

/// One attempt at an answer.
pub(crate) async fn answer(
    client: &Client,
    request: &Request,
    call: &CallOptions,
) -> Result<Response> {
    let mut body = Vec::with_capacity(size_hint(request));
    convert::write_body(request, Purpose::Answer, &mut body)?;
    let sent = client.infer(&request.model, body, call.timeout).await?;
    if !sent.reply.is_success() {
        return Err(client.refused_once(Asked::Inference, &sent));
    }
    read_reply(&sent.reply, &client.secrets())
}

fn read_reply(reply: &Reply, secrets: &[Secret]) -> Result<Response> {
    let hints = reply.hints_by(ERRORS.hints());
    let raw = serde_json::from_slice::<Box<RawValue>>(&reply.body).ok();
    let secrets: Vec<&Secret> = secrets.iter().collect();
    match convert::read_answer(raw.as_deref().map_or("", RawValue::get), &secrets) {
        Ok(mut response) => {
            response.request_id = hints.request_id;
            response.rate_limit = hints.rate_limit;
            response.raw = raw;
            Ok(response)
        }
        Err(unanswered) => Err(hints.apply(unanswered.into_error().with_status(reply.status))),
    }
}
