//! Error answers: `google.rpc.Status` as JSON.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Value, json};

use super::switches::{DayHint, RetryHint, Switches};
use crate::limits::{Refusal, RefusalKind};

/// An error answer, for a whole call or for one row of a batch.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) code: u16,
    pub(super) status: &'static str,
    pub(super) message: Cow<'static, str>,
    pub(super) details: Vec<Value>,
}

/// HTTP status, word and gRPC code (<https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto>).
const CODES: [(u16, &str, u8); 11] = [
    (400, "INVALID_ARGUMENT", 3),
    (400, "FAILED_PRECONDITION", 9),
    (401, "UNAUTHENTICATED", 16),
    (403, "PERMISSION_DENIED", 7),
    (404, "NOT_FOUND", 5),
    (409, "ABORTED", 10),
    (429, "RESOURCE_EXHAUSTED", 8),
    (499, "CANCELLED", 1),
    (500, "INTERNAL", 13),
    (503, "UNAVAILABLE", 14),
    (504, "DEADLINE_EXCEEDED", 4),
];

const QUOTA: &str = "You exceeded your current quota, please check your plan and billing details. For more information \
                     on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits.";

impl ApiError {
    pub(super) fn new(status: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let known = CODES.iter().find(|(_, word, _)| *word == status);
        Self {
            code: known.map_or(500, |(code, ..)| *code),
            status,
            message: message.into(),
            details: Vec::new(),
        }
    }

    pub(super) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new("INVALID_ARGUMENT", message)
    }

    pub(super) fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new("NOT_FOUND", message)
    }

    /// A name or a value that the body must not have.
    pub(super) fn bad_field(field: &str, description: String) -> Self {
        let mut error = Self::invalid(description.clone());
        error.details.push(json!({
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [{"field": field, "description": description}],
        }));
        error
    }

    pub(super) fn no_model(name: &str, method: &str) -> Self {
        Self::not_found(format!(
            "models/{name} is not found for API version v1beta, or is not supported for {method}. Call ListModels to \
             see the list of available models and their supported methods."
        ))
    }

    /// What an unknown or deleted file gets.
    pub(super) fn no_file(id: &str) -> Self {
        Self::new(
            "PERMISSION_DENIED",
            format!("You do not have permission to access the File {id} or it may not exist."),
        )
    }

    pub(super) fn no_batch() -> Self {
        Self::not_found("Requested entity was not found.")
    }

    pub(super) fn no_key() -> Self {
        Self::new(
            "PERMISSION_DENIED",
            "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or \
             other form of API consumer identity to call this API.",
        )
    }

    /// A bad key is a 400 here.
    pub(super) fn bad_key() -> Self {
        let mut error = Self::invalid("API key not valid. Please pass a valid API key.");
        error.details.push(json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "API_KEY_INVALID",
            "domain": "googleapis.com",
            "metadata": {"service": "generativelanguage.googleapis.com"},
        }));
        error
    }

    pub(super) fn too_large(limit: usize) -> Self {
        Self::invalid(format!(
            "Request payload size exceeds the limit: {limit} bytes."
        ))
    }

    /// Too many tokens wait in batches: no `RetryInfo`, only help.
    pub(super) fn queue_full() -> Self {
        let mut error = Self::new("RESOURCE_EXHAUSTED", QUOTA);
        error.details.push(help());
        error
    }

    /// The vendor's usual error of a status, for `[[error:STATUS]]`.
    pub(super) fn of_status(status: u16) -> Self {
        let mut error = match status {
            401 => Self::new(
                "UNAUTHENTICATED",
                "Request had invalid authentication credentials.",
            ),
            403 => Self::new("PERMISSION_DENIED", "The caller does not have permission"),
            404 => Self::no_batch(),
            409 => Self::new("ABORTED", "The operation was aborted."),
            429 => {
                let mut error = Self::new("RESOURCE_EXHAUSTED", QUOTA);
                error.details = quota_details(MINUTE, None, "10", "1s");
                error
            }
            499 => Self::new("CANCELLED", "The operation was cancelled."),
            503 => Self::new(
                "UNAVAILABLE",
                "The model is overloaded. Please try again later.",
            ),
            504 => Self::new(
                "DEADLINE_EXCEEDED",
                "Deadline expired before operation could complete.",
            ),
            500..=599 => Self::new(
                "INTERNAL",
                "An internal error has occurred. Please retry or report in \
                 https://developers.generativeai.google/guide/troubleshooting",
            ),
            _ => Self::invalid("Request contains an invalid argument."),
        };
        error.code = status;
        error
    }

    /// A limit of the config's that a direct call ran into.
    pub(super) fn of_refusal(switches: &Switches, model: &str, refusal: &Refusal) -> Self {
        let id = match refusal.kind {
            RefusalKind::Requests => MINUTE,
            RefusalKind::Day => "GenerateRequestsPerDayPerProjectPerModel",
            RefusalKind::Tokens | RefusalKind::TooLarge => {
                "GenerateContentInputTokensPerModelPerMinute"
            }
            RefusalKind::Concurrency => "GenerateConcurrentRequestsPerProjectPerModel",
        };
        let wait = match (refusal.kind, switches.day_hint) {
            (RefusalKind::Day, DayHint::Short) => Duration::from_secs(59),
            _ => refusal.retry_after,
        };
        let zero = refusal.limit == 0;
        let message = if zero {
            format!("{QUOTA} * Quota exceeded for metric, limit: 0, model: {model}")
        } else {
            QUOTA.to_owned()
        };
        let mut error = Self::new("RESOURCE_EXHAUSTED", message);
        error.details = match switches.retry_hint {
            RetryHint::HelpOnly => vec![help()],
            RetryHint::RetryInfo => {
                let delay = format!("{:.1}s", wait.as_secs_f64().max(0.1));
                quota_details(id, Some(model), &refusal.limit.to_string(), &delay)
            }
        };
        error
    }

    /// The object under `error`, with HTTP's code.
    pub(super) fn status_object(&self) -> Value {
        let mut status = json!({
            "code": self.code,
            "message": self.message,
            "status": self.status,
        });
        if !self.details.is_empty() {
            status["details"] = Value::from(self.details.clone());
        }
        status
    }

    /// The error of a row, with gRPC's code.
    pub(super) fn row_object(&self) -> Value {
        json!({"code": self.grpc_code(), "message": self.message})
    }

    pub(super) fn grpc_code(&self) -> u8 {
        let known = CODES.iter().find(|(_, word, _)| *word == self.status);
        known.map_or(2, |(.., code)| *code)
    }
}

const MINUTE: &str = "GenerateRequestsPerMinutePerProjectPerModel";

fn help() -> Value {
    json!({
        "@type": "type.googleapis.com/google.rpc.Help",
        "links": [{
            "description": "Learn more about Gemini API quotas",
            "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
        }],
    })
}

fn quota_details(id: &str, model: Option<&str>, value: &str, delay: &str) -> Vec<Value> {
    let mut violation = json!({
        "quotaMetric": "generativelanguage.googleapis.com/generate_content_requests",
        "quotaId": id,
        "quotaDimensions": {"location": "global", "model": model.unwrap_or("gemini-2.5-flash")},
    });
    // An int64 of zero is a default, which ProtoJSON leaves out.
    if value != "0" {
        violation["quotaValue"] = Value::from(value);
    }
    vec![
        json!({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}),
        help(),
        json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}),
    ]
}
