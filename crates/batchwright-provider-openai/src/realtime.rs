//! Direct calls: one request out, one answer in.

use crate::client::Client;
use crate::convert::{self, Expect, Form};
use batchwright_core::{CallOptions, Request, Response, Result};
use batchwright_http::{Asked, Reply, direct_answer, hollow, wire::size_hint};

/// One attempt at an answer.
pub(crate) async fn answer(
    client: &Client,
    form: Form,
    request: &Request,
    call: &CallOptions,
) -> Result<Response> {
    let endpoint = convert::endpoint(request, form.api)?;
    let mut body = Vec::with_capacity(size_hint(request));
    convert::write_body(request, form, &mut body)?;
    let reply = client
        .infer(endpoint, &request.model, body, call.timeout)
        .await?;
    if !reply.is_success() {
        return Err(client.refused(Asked::Inference, &reply));
    }
    // Groq documents it: only a part of the answer came.
    if reply.status == 206 {
        let error = hollow("read the answer: the service says that it is not whole");
        return Err(error.with_status(206));
    }
    read_reply(client, &reply, Expect::of(request))
}

fn read_reply(client: &Client, reply: &Reply, expect: Expect) -> Result<Response> {
    let hints = reply.hints_by(client.dialect.errors.hints());
    direct_answer(&reply.body, reply.status, hints, |body| {
        convert::read_answer(body, expect, client.dialect, &[&client.key])
    })
}
