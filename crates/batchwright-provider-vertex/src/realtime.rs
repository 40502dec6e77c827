//! Direct calls: one request out, one answer in.

use crate::client::Client;
use crate::convert::{self, Purpose};
use crate::error::ERRORS;
use batchwright_core::{CallOptions, Request, Response, Result};
use batchwright_http::{Asked, Reply, Secret, direct_answer, wire::size_hint};

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
    let secrets: Vec<&Secret> = secrets.iter().collect();
    direct_answer(
        &reply.body,
        reply.status,
        reply.hints_by(ERRORS.hints()),
        |body| convert::read_answer(body, &secrets),
    )
}
