//! Core's words to Anthropic's and back: pure functions.

mod request;
mod response;

pub(crate) use request::{Form, Purpose, max_tokens, write_body};
pub(crate) use response::read_answer;

use batchwright_core::{Error, ErrorKind, Payload, Request, Result};

/// The one endpoint, in Anthropic's spelling.
pub(crate) const MESSAGES: &str = "/v1/messages";

/// The endpoint a request goes to.
pub(crate) fn endpoint(request: &Request) -> Result<&'static str> {
    let unsupported = |what: &str| {
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("encode the request: {what}"),
        ))
    };
    match &request.payload {
        Payload::Chat(_) => Ok(MESSAGES),
        Payload::Raw(raw) if raw.endpoint == MESSAGES => Ok(MESSAGES),
        Payload::Raw(_) => unsupported("a raw body goes to /v1/messages"),
        Payload::Embedding(_) => unsupported("the vendor has no embeddings"),
        _ => unsupported("the API has no form for this kind of request"),
    }
}

#[cfg(test)]
mod tests;
