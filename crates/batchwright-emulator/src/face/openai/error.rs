//! Error answers: status, and a body with `message`, `type`, `param` and `code`.

use std::borrow::Cow;
use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::quirks::Errors;
use crate::limits::{Refusal, RefusalKind};

/// An error answer, for a whole call or for one row of a batch.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: u16,
    pub(super) message: Cow<'static, str>,
    pub(super) kind: &'static str,
    pub(super) param: Option<Cow<'static, str>>,
    pub(super) code: Option<&'static str>,
    pub(super) retry_after: Option<Duration>,
}

pub(super) const INVALID: &str = "invalid_request_error";

impl ApiError {
    pub(super) fn new(
        status: u16,
        kind: &'static str,
        code: Option<&'static str>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            message: message.into(),
            kind,
            param: None,
            code,
            retry_after: None,
        }
    }

    /// A 400 about one parameter.
    pub(super) fn bad(
        param: impl Into<Cow<'static, str>>,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let mut error = Self::new(400, INVALID, Some(code), message);
        error.param = Some(param.into());
        error
    }

    pub(super) fn missing(param: &'static str) -> Self {
        Self::bad(
            param,
            "missing_required_parameter",
            format!("Missing required parameter: '{param}'."),
        )
    }

    pub(super) fn wrong_type(
        param: impl Into<Cow<'static, str>>,
        expected: &str,
        got: &str,
    ) -> Self {
        let param = param.into();
        let message =
            format!("Invalid type for '{param}': expected {expected}, but got {got} instead.");
        Self::bad(param, "invalid_type", message)
    }

    pub(super) fn model_not_found(model: &str) -> Self {
        Self::new(
            404,
            INVALID,
            Some("model_not_found"),
            format!("The model `{model}` does not exist or you do not have access to it."),
        )
    }

    pub(super) fn context_too_long(param: &'static str, limit: u64, tokens: u64) -> Self {
        Self::bad(
            param,
            "context_length_exceeded",
            format!(
                "Input exceeds the context window: this model's maximum context length is {limit} tokens, however your \
                 input has {tokens} tokens."
            ),
        )
    }

    pub(super) fn no_file(id: &str) -> Self {
        let mut error = Self::new(404, INVALID, None, format!("No such File object: {id}"));
        error.param = Some("id".into());
        error
    }

    pub(super) fn no_batch(id: &str) -> Self {
        Self::new(
            404,
            INVALID,
            None,
            format!("No batch found with id '{id}'."),
        )
    }

    pub(super) fn internal() -> Self {
        Self::new(500, "server_error", None, "Internal error.")
    }

    pub(super) fn too_large(got: u64, limit: u64) -> Self {
        Self::new(
            413,
            INVALID,
            None,
            format!("The request body has {got} bytes, the maximum is {limit} bytes."),
        )
    }

    /// The vendor's usual error of a status, for `[[error:STATUS]]`.
    pub(super) fn of_status(status: u16) -> Self {
        let mut error = match status {
            400 => Self::new(400, INVALID, Some("invalid_value"), "Invalid value."),
            401 => Self::new(
                401,
                INVALID,
                Some("invalid_api_key"),
                "Incorrect API key provided.",
            ),
            403 => Self::new(
                403,
                "request_forbidden",
                Some("unsupported_country_region_territory"),
                "Country, region, or territory not supported.",
            ),
            404 => Self::model_not_found("x"),
            429 => Self::new(
                429,
                "requests",
                Some("rate_limit_exceeded"),
                "Rate limit reached: Limit 500, Used 500, Requested 1. Please try again in 1s.",
            ),
            503 => Self::new(
                503,
                "service_unavailable_error",
                Some("server_is_overloaded"),
                "Overloaded.",
            ),
            402..500 => Self::new(status, INVALID, None, "The request was refused."),
            _ => Self::new(status, "server_error", None, "Internal error."),
        };
        if status == 429 {
            error.retry_after = Some(Duration::from_secs(1));
        }
        error
    }

    /// A prompt that a filter refused, where that is an error.
    pub(super) fn filtered() -> Self {
        Self::bad(
            "prompt",
            CONTENT_FILTER,
            "The response was filtered due to the prompt triggering the content management policy.",
        )
    }

    /// No room for a request of the flex tier.
    pub(super) fn no_capacity() -> Self {
        Self::new(
            498,
            "capacity_exceeded",
            Some("capacity_exceeded"),
            "Flex tier capacity exceeded. Please try again later.",
        )
    }

    pub(super) fn of_refusal(model: &str, refusal: &Refusal) -> Self {
        let Refusal {
            kind,
            limit,
            used,
            requested,
            retry_after,
            ..
        } = refusal;
        let wait = go_duration(*retry_after);
        let (kind, code, message) = match kind {
            RefusalKind::Requests => (
                "requests",
                "rate_limit_exceeded",
                format!(
                    "Rate limit reached for {model} in organization org-emulator on requests per min (RPM): Limit \
                     {limit}, Used {used}, Requested {requested}. Please try again in {wait}."
                ),
            ),
            RefusalKind::Tokens => (
                "tokens",
                "rate_limit_exceeded",
                format!(
                    "Rate limit reached for {model} in organization org-emulator on tokens per min (TPM): Limit \
                     {limit}, Used {used}, Requested {requested}. Please try again in {wait}."
                ),
            ),
            RefusalKind::Day => (
                "requests",
                "rate_limit_exceeded",
                format!(
                    "Rate limit reached for {model} in organization org-emulator on requests per day (RPD): Limit \
                     {limit}, Used {used}, Requested {requested}. Please try again in {wait}."
                ),
            ),
            RefusalKind::TooLarge => (
                "tokens",
                "rate_limit_exceeded",
                format!(
                    "Request too large for {model} in organization org-emulator on tokens per min (TPM): Limit \
                     {limit}, Requested {requested}. The input or output tokens must be reduced in order to run \
                     successfully."
                ),
            ),
            RefusalKind::Concurrency => (
                "rate_limit_error",
                "slow_down",
                format!("Too many open requests: Limit {limit}. Please slow down."),
            ),
        };
        let mut error = Self::new(429, kind, Some(code), message);
        if refusal.kind != RefusalKind::TooLarge {
            error.retry_after = Some(*retry_after);
        }
        error
    }

    /// The JSON body in a server's shape.
    pub(super) fn body(&self, shape: Errors) -> Value {
        let Self {
            status,
            message,
            kind,
            param,
            code,
            ..
        } = self;
        let mut object = json!({"message": message, "type": kind, "param": param, "code": code});
        if *code == Some(CONTENT_FILTER) {
            object["innererror"] = json!({
                "code": "ResponsibleAIPolicyViolation",
                "content_filter_result": {"hate": {"filtered": true, "severity": "high"}},
            });
        }
        match shape {
            Errors::Object => json!({"error": object}),
            Errors::NoParam => {
                let mut object = json!({"message": message, "type": kind});
                if let Some(code) = code {
                    object["code"] = json!(code);
                }
                json!({"error": object})
            }
            Errors::NumberCode => json!({
                "error": {"message": message, "code": status, "metadata": {"provider_name": "emulator"}},
                "user_id": "user-emulator",
            }),
            Errors::Text => json!({"error": message}),
            Errors::Detail => json!({"detail": message}),
            Errors::DetailList => json!({
                "detail": [{"loc": ["body", param], "msg": message, "type": code.unwrap_or(kind)}],
            }),
            Errors::Message => json!({
                "object": "error", "message": message, "type": kind, "param": param, "code": status,
            }),
            Errors::List => json!({"errors": [object]}),
            Errors::ListData => json!({"errors": {"object": "list", "data": [object]}}),
            Errors::Wrapped => json!([{"error": object}]),
        }
    }
}

/// The code of a prompt that a filter refused.
const CONTENT_FILTER: &str = "content_filter";

/// A duration as the vendor's rate-limit headers write it: `20ms`, `1.2s`, `6m0s`, `1h2m3s`.
pub(super) fn go_duration(duration: Duration) -> String {
    let ms = duration.as_micros().div_ceil(1000);
    let mut text = Vec::new();
    let written = if ms < 1000 {
        write!(text, "{ms}ms")
    } else {
        let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
        let (seconds, rest) = (ms / 1000 % 60, ms % 1000);
        let head = match (hours, minutes) {
            (0, 0) => String::new(),
            (0, minutes) => format!("{minutes}m"),
            (hours, minutes) => format!("{hours}h{minutes}m"),
        };
        let fraction = format!("{rest:03}");
        let fraction = fraction.trim_end_matches('0');
        let dot = if fraction.is_empty() { "" } else { "." };
        write!(text, "{head}{seconds}{dot}{fraction}s")
    };
    written.expect("memory takes every write");
    String::from_utf8(text).expect("digits and letters are UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        for (ms, text) in [
            (0, "0ms"),
            (20, "20ms"),
            (1_000, "1s"),
            (1_250, "1.25s"),
            (360_000, "6m0s"),
            (977_764, "16m17.764s"),
            (3_723_000, "1h2m3s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(ms)), text);
        }
    }
}
