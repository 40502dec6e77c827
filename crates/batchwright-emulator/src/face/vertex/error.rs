//! Google's errors: one shape for Vertex, Cloud Storage and BigQuery, another for the token endpoint.

use std::io;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::face::wire;

/// An error as a client gets it.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: u16,
    /// The gRPC code in words.
    pub(super) word: &'static str,
    pub(super) message: String,
    /// What `google.rpc.ErrorInfo` names, for Vertex.
    info: Option<&'static str>,
    /// What `errors[].reason` names, for Cloud Storage and BigQuery.
    reason: Option<&'static str>,
    /// Of the token endpoint: `error`, where `message` is `error_description`.
    oauth: Option<&'static str>,
}

impl ApiError {
    /// An error with the usual word of its status.
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            word: word(status),
            message: message.into(),
            info: None,
            reason: None,
            oauth: None,
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// The object is in another state.
    pub(super) fn precondition(message: impl Into<String>) -> Self {
        let mut error = Self::new(400, message);
        error.word = "FAILED_PRECONDITION";
        error
    }

    /// A field that the message does not have.
    pub(super) fn unknown_field(name: &str, place: &str) -> Self {
        let at = if place.is_empty() {
            String::new()
        } else {
            format!(" at '{place}'")
        };
        Self::invalid(format!(
            "Invalid JSON payload received. Unknown name \"{name}\"{at}: Cannot find field."
        ))
    }

    pub(super) fn with_info(mut self, reason: &'static str) -> Self {
        self.info = Some(reason);
        self
    }

    /// Adds the list of errors that Cloud Storage and BigQuery have.
    pub(super) fn with_reason(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    pub(super) fn oauth(status: u16, error: &'static str, description: impl Into<String>) -> Self {
        let mut this = Self::new(status, description);
        this.oauth = Some(error);
        this
    }

    /// A model's own failure, by the status that a prompt asks for.
    pub(super) fn of_status(status: u16) -> Self {
        let message = match status {
            400 => "Request contains an invalid argument.",
            401 => "Request had invalid authentication credentials.",
            403 => "Permission 'aiplatform.endpoints.predict' denied on resource.",
            404 => "Requested entity was not found.",
            429 => {
                "Resource exhausted. Please try again later. Please refer to \
                 https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details."
            }
            499 => "The operation was cancelled.",
            503 => "The service is currently unavailable.",
            504 => "Deadline expired before operation could complete.",
            500.. => "Internal error encountered.",
            _ => "Request contains an invalid argument.",
        };
        Self::new(status, message)
    }

    pub(super) fn body(&self) -> Value {
        if let Some(error) = self.oauth {
            return json!({"error": error, "error_description": self.message});
        }
        let mut error = json!({"code": self.status, "message": self.message, "status": self.word});
        if let Some(reason) = self.info {
            error["details"] = json!([{
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": reason,
                "domain": "googleapis.com",
            }]);
        }
        if let Some(reason) = self.reason {
            error["errors"] =
                json!([{"message": self.message, "domain": "global", "reason": reason}]);
        }
        json!({ "error": error })
    }

    pub(super) fn response(&self) -> Response {
        let mut response = wire::json(&self.body());
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response
    }
}

impl From<io::Error> for ApiError {
    fn from(error: io::Error) -> Self {
        tracing::error!(%error, "the emulator's disk failed");
        Self::of_status(500)
    }
}

fn word(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ALREADY_EXISTS",
        412 => "FAILED_PRECONDITION",
        429 => "RESOURCE_EXHAUSTED",
        499 => "CANCELLED",
        501 => "UNIMPLEMENTED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        500.. => "INTERNAL",
        _ => "INVALID_ARGUMENT",
    }
}
