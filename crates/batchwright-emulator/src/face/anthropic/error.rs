//! Error answers: status, and the vendor's envelope around `type`, `message` and `details`.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Value, json};

use crate::limits::{Headroom, Refusal, RefusalKind};

/// An error answer, for a whole call or for one row of a batch.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) message: Cow<'static, str>,
    /// `error.details.error_code`.
    pub(super) code: Option<&'static str>,
    pub(super) retry_after: Option<Duration>,
    /// For the rate-limit headers.
    pub(super) room: Option<Box<Headroom>>,
}

impl ApiError {
    pub(super) fn new(
        status: u16,
        kind: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
            code: None,
            retry_after: None,
            room: None,
        }
    }

    pub(super) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "invalid_request_error", message)
    }

    /// A required key that is not there; `place` is its dotted path.
    pub(super) fn missing(place: &str) -> Self {
        Self::invalid(format!("{place}: Field required"))
    }

    pub(super) fn extra(place: &str) -> Self {
        Self::invalid(format!("{place}: Extra inputs are not permitted"))
    }

    pub(super) fn not_json(error: &serde_json::Error) -> Self {
        // Serde's own text may quote the body.
        Self::invalid(format!(
            "The request body is not valid JSON: error at line {} column {}",
            error.line(),
            error.column()
        ))
    }

    pub(super) fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(404, "not_found_error", message)
    }

    pub(super) fn no_model(name: &str) -> Self {
        Self::not_found(format!("model: {name}"))
    }

    pub(super) fn no_batch(id: &str) -> Self {
        Self::not_found(format!("Message Batch {id} not found."))
    }

    pub(super) fn too_large() -> Self {
        Self::new(
            413,
            "request_too_large",
            "Request exceeds the maximum allowed number of bytes.",
        )
    }

    pub(super) fn internal() -> Self {
        Self::new(500, "api_error", "Internal server error")
    }

    /// The vendor's usual error of a status, for `[[error:STATUS]]`.
    pub(super) fn of_status(status: u16) -> Self {
        let (kind, message) = match status {
            401 => ("authentication_error", "API key is invalid."),
            402 => (
                "billing_error",
                "There is an issue with your billing or payment information.",
            ),
            403 => (
                "permission_error",
                "Your API key does not have permission to use the specified resource.",
            ),
            404 => (
                "not_found_error",
                "The requested resource could not be found.",
            ),
            408 => ("timeout_error", "Request timeout"),
            409 => ("conflict_error", "The resource was modified concurrently."),
            413 => return Self::too_large(),
            429 => (
                "rate_limit_error",
                "This request would exceed your organization's rate limit.",
            ),
            504 => ("timeout_error", "The request timed out while processing."),
            529 => ("overloaded_error", "Overloaded"),
            400..500 => ("invalid_request_error", "Invalid request."),
            _ => ("api_error", "Internal server error"),
        };
        let mut error = Self::new(status, kind, message);
        if status == 429 {
            error.retry_after = Some(Duration::from_secs(1));
        }
        error
    }

    /// The vendor's usual status of a type, for an error inside a stream.
    pub(super) fn of_kind(kind: &str) -> Option<Self> {
        [400, 401, 402, 403, 404, 409, 413, 429, 500, 504, 529]
            .into_iter()
            .map(Self::of_status)
            .find(|error| error.kind == kind)
    }

    pub(super) fn of_refusal(refusal: &Refusal) -> Self {
        let Refusal {
            kind,
            limit,
            retry_after,
            room,
            ..
        } = refusal;
        let what = match kind {
            RefusalKind::Requests => format!("{limit} requests per minute"),
            RefusalKind::Day => format!("{limit} requests per day"),
            RefusalKind::Tokens | RefusalKind::TooLarge => {
                format!("{limit} input tokens per minute")
            }
            RefusalKind::Concurrency => format!("{limit} concurrent requests"),
        };
        let mut error = Self::new(
            429,
            "rate_limit_error",
            format!("This request would exceed your organization's rate limit of {what}."),
        );
        error.retry_after = Some(*retry_after);
        error.room = Some(Box::new(*room));
        error
    }

    /// The JSON body.
    pub(super) fn body(&self, request_id: &str) -> Value {
        let details = self.code.map(|code| json!({"error_code": code}));
        json!({
            "type": "error",
            "error": {"type": self.kind, "message": self.message, "details": details},
            "request_id": request_id,
        })
    }
}
