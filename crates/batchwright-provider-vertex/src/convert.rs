//! Core's words to Google's and back: pure functions.

mod import;
mod request;
mod response;
mod schema;

pub(crate) use import::check_line;
pub(crate) use request::{Purpose, write_body};
pub(crate) use response::read_answer;

use batchwright_core::{Error, ErrorKind, Payload, Request, Result};

/// The one method, in the vendor's spelling.
pub(crate) const GENERATE: &str = "generateContent";

/// The method a request goes to.
pub(crate) fn endpoint(request: &Request) -> Result<&str> {
    match &request.payload {
        Payload::Chat(_) => Ok(GENERATE),
        Payload::Raw(raw) if raw.endpoint == GENERATE => Ok(&raw.endpoint),
        Payload::Raw(_) => Err(unsupported(
            "a raw body for another method than generateContent",
        )),
        Payload::Embedding(_) => Err(unsupported("embeddings")),
        _ => Err(unsupported("this kind of request")),
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidRequest, message)
}

fn unsupported(what: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("encode the request: the API has no form for {what}"),
    )
}

#[cfg(test)]
mod tests;
