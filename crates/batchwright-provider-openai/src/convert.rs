//! Core's words to OpenAI's and back: pure functions.

mod request;
mod response;

pub(crate) use request::{Form, write_body};
pub(crate) use response::{Expect, read_answer, read_body, usage};

use crate::config::ChatApi;
use batchwright_core::{Error, ErrorKind, Payload, Request, Result};

/// The endpoint chat completions are sent to, in OpenAI's spelling.
pub(crate) const CHAT_COMPLETIONS: &str = "/v1/chat/completions";
/// The endpoint of the Responses API.
pub(crate) const RESPONSES: &str = "/v1/responses";
/// The endpoint of embeddings.
pub(crate) const EMBEDDINGS: &str = "/v1/embeddings";

/// The endpoint a request goes to.
pub(crate) fn endpoint(request: &Request, api: ChatApi) -> Result<&str> {
    match &request.payload {
        Payload::Chat(_) => Ok(match api {
            ChatApi::ChatCompletions => CHAT_COMPLETIONS,
            ChatApi::Responses => RESPONSES,
        }),
        Payload::Embedding(_) => Ok(EMBEDDINGS),
        Payload::Raw(raw) => Ok(&raw.endpoint),
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            "encode the request: the API has no form for this kind of request",
        )),
    }
}

#[cfg(test)]
mod tests;
