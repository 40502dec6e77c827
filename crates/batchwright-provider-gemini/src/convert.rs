//! Core's words to Google's and back: pure functions.

mod request;
mod response;

pub(crate) use request::{Purpose, count_body, prefix_fields, write_body};
pub(crate) use response::{Expect, Reader, read_answer, usage};

use batchwright_core::{Error, ErrorKind, Payload, Request, Result};

/// The method conversations go to.
pub(crate) const GENERATE: &str = "generateContent";
/// The method of one embedding, and what batches of embeddings are made of.
pub(crate) const EMBED: &str = "embedContent";
/// The method of several embeddings at once, as the vendor's own client calls it.
pub(crate) const EMBED_MANY: &str = "batchEmbedContents";

/// The method a request goes to.
pub(crate) fn endpoint(request: &Request, purpose: Purpose) -> Result<&str> {
    match &request.payload {
        Payload::Chat(_) => Ok(GENERATE),
        Payload::Embedding(_) => Ok(match purpose {
            Purpose::Answer => EMBED_MANY,
            Purpose::Line => EMBED,
        }),
        Payload::Raw(raw) => Ok(&raw.endpoint),
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            "encode the request: the API has no form for this kind of request",
        )),
    }
}

/// A model's resource name: `models/…`, or what names its kind already, such as `tunedModels/…`.
///
/// # Errors
/// `InvalidRequest` where there is none.
pub(crate) fn model_name(model: &str) -> Result<String> {
    if model.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidRequest,
            "encode the request: it names no model; a raw body names it as `models/…`",
        ));
    }
    if model.starts_with("models/") || model.starts_with("tunedModels/") {
        return Ok(model.to_owned());
    }
    Ok(format!("models/{model}"))
}

#[cfg(test)]
mod tests;
