//! OpenAI's answers to core's errors: one function, one table.
//!
//! Order: the transport's phase is settled by `batchwright-http` before anything gets here; then the
//! server's own instruction, the code or type in the body, the status. Sentences are not read, but for the
//! one prefix that tells a request larger than the limit from a full minute.
//!
//! Source of every row: <https://platform.openai.com/docs/guides/error-codes>, read 2026-11-22, and the
//! official SDK's types of that day.

use ErrorKind::{
    ConfigInvalid, Conflict, ContentFiltered, ContextTooLong, InvalidRequest, NotFound, Overloaded,
    PermissionDenied, ProviderFault, QuotaExceeded, RateLimited, Timeout, Unauthenticated,
};
use RetryClass::{Ambiguous, JobStop, Rejected, RowFatal};
use batchwright_core::{Error, ErrorKind, RetryClass};
use batchwright_http::{
    HeaderMap, Reply, Secret, VendorError, error_text, header, redact_with, retry_hints,
};
use serde_json::value::RawValue;

/// What was asked, since 409 means different things to different calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// An answer, by a direct call or as a row of a batch.
    Inference,
    /// A file or batch to be stored, read, listed or deleted.
    Object,
    /// A batch to be cancelled.
    Cancel,
}

/// Codes and types that settle the matter whatever the status is.
const CODES: &[(&str, ErrorKind, RetryClass)] = &[
    ("context_length_exceeded", ContextTooLong, RowFatal),
    ("unsupported_parameter", InvalidRequest, RowFatal),
    ("unsupported_value", InvalidRequest, RowFatal),
    ("invalid_value", InvalidRequest, RowFatal),
    ("missing_required_parameter", InvalidRequest, RowFatal),
    ("invalid_prompt", ContentFiltered, RowFatal),
    ("content_policy_violation", ContentFiltered, RowFatal),
    // Azure only.
    ("content_filter", ContentFiltered, RowFatal),
    ("invalid_api_key", Unauthenticated, JobStop),
    (
        "unsupported_country_region_territory",
        PermissionDenied,
        JobStop,
    ),
    ("request_forbidden", PermissionDenied, JobStop),
    // Unknown, or not for this key: nobody is served by it.
    ("model_not_found", NotFound, JobStop),
    ("billing_hard_limit_reached", QuotaExceeded, JobStop),
    ("insufficient_quota", QuotaExceeded, JobStop),
    ("credit_balance_exhausted", QuotaExceeded, JobStop),
    ("organization_spend_limit_exceeded", QuotaExceeded, JobStop),
    ("project_spend_limit_exceeded", QuotaExceeded, JobStop),
    ("organization_usage_limit_exceeded", QuotaExceeded, JobStop),
    ("rate_limit_exceeded", RateLimited, Rejected),
    ("slow_down", RateLimited, Rejected),
    // Of a batch create, should it ever answer so at once: the queue is full.
    (QUEUE_FULL, RateLimited, Rejected),
    // No flex capacity (third-party report).
    ("resource_unavailable", Overloaded, Rejected),
    ("server_is_overloaded", Overloaded, Rejected),
    ("service_unavailable_error", Overloaded, Rejected),
    // Inside a response's or a row's body; as a type it also comes with 413, so only the code counts.
    ("server_error", ProviderFault, Ambiguous),
];

/// The code of the one failed batch whose input may be submitted again (F-010).
pub(crate) const QUEUE_FULL: &str = "token_limit_exceeded";

/// Parts of a 429's code or type that mean money, for codes newer than this table.
const MONEY: &[&str] = &["quota", "billing", "credit", "spend", "usage_limit"];

/// The only sentence that is read: one request above the limit of a minute, which never fits (F-002).
const TOO_LARGE: &str = "Request too large";

/// The error of a reply that is no success. `key` is removed from whatever the server echoes (F-203).
pub(crate) fn reply_error(asked: Asked, reply: &Reply, key: &Secret) -> Error {
    http_error(asked, reply.status, &reply.headers, &reply.body, key)
}

/// The error of an HTTP answer that is no success.
pub(crate) fn http_error(
    asked: Asked,
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    key: &Secret,
) -> Error {
    let hints = retry_hints(headers);
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let mut said = said(body, content_type);
    for text in [
        &mut said.message,
        &mut said.code,
        &mut said.kind,
        &mut said.param,
    ] {
        *text = text.take().map(|text| redact_with(&text, &[key]));
    }
    let error = judged(asked, Some(status), said, hints.should_retry);
    hints.apply(error.with_status(status))
}

/// The error a row of a batch ended in: the same table, without headers.
pub(crate) fn row_error(status: u16, body: &[u8]) -> Error {
    judged(Asked::Inference, Some(status), said(body, None), None).with_status(status)
}

/// The error inside a body that came with a success (F-050); `None` where the field says there is none.
/// A number as its code is the status that was meant.
pub(crate) fn inner_error(error: &RawValue) -> Option<Error> {
    if matches!(error.get(), "null" | "false" | "{}" | "\"\"" | "[]") {
        return None;
    }
    let said = said(error.get().as_bytes(), None);
    let status = said.status;
    Some(judged(Asked::Inference, status, said, None))
}

/// The kind of a failed batch's code where it says that nobody is served, whatever the rows are (F-027).
pub(crate) fn account_fault(code: &str) -> Option<ErrorKind> {
    CODES
        .iter()
        .find(|(known, _, class)| *known == code && *class == JobStop)
        .map(|&(_, kind, _)| kind)
        .or_else(|| {
            MONEY
                .iter()
                .any(|part| code.contains(part))
                .then_some(QuotaExceeded)
        })
}

/// A success without an answer in it: it may have been paid (F-051).
pub(crate) fn hollow(message: &'static str) -> Error {
    Error::new(ProviderFault, message)
}

/// What a body says, or its first words where it is none of an error's forms, such as a gateway's HTML.
fn said(body: &[u8], content_type: Option<&str>) -> VendorError {
    VendorError::from_body(body).unwrap_or_else(|| {
        let mut said = VendorError::default();
        said.message = Some(error_text(body, content_type)).filter(|text| !text.is_empty());
        said
    })
}

fn judged(
    asked: Asked,
    status: Option<u16>,
    said: VendorError,
    should_retry: Option<bool>,
) -> Error {
    let (kind, class) = verdict(asked, status, &said, should_retry);
    let mut error = Error::new(kind, said.text()).with_class(class);
    if let Some(code) = said.code.or(said.kind) {
        error = error.with_code(code);
    }
    if let Some(param) = said.param {
        error = error.with_param(param);
    }
    error
}

/// The table's rule. Without a status the error stood inside a success.
fn verdict(
    asked: Asked,
    status: Option<u16>,
    said: &VendorError,
    should_retry: Option<bool>,
) -> (ErrorKind, RetryClass) {
    let (kind, class) = match by_code(said) {
        // A code that says the limit of a minute, for a request above it, never fits (F-002).
        Some((RateLimited, _)) if too_large(said) => (InvalidRequest, RowFatal),
        Some(known) => known,
        None => by_status(asked, status, said, should_retry),
    };
    // The server's own instruction makes a final row worth another try; it never lifts a stop, and a
    // cancel of what has ended is not to be repeated (F-017).
    if class == RowFatal && should_retry == Some(true) && asked != Asked::Cancel {
        return (kind, Rejected);
    }
    (kind, class)
}

fn by_code(said: &VendorError) -> Option<(ErrorKind, RetryClass)> {
    let find = |word: &str| {
        CODES
            .iter()
            .find(|(known, ..)| *known == word)
            .map(|&(_, kind, class)| (kind, class))
    };
    let kind = said.kind.as_deref().filter(|kind| *kind != "server_error");
    said.code
        .as_deref()
        .and_then(find)
        .or_else(|| kind.and_then(find))
}

fn too_large(said: &VendorError) -> bool {
    said.message
        .as_deref()
        .is_some_and(|message| message.starts_with(TOO_LARGE))
}

fn by_status(
    asked: Asked,
    status: Option<u16>,
    said: &VendorError,
    should_retry: Option<bool>,
) -> (ErrorKind, RetryClass) {
    match status {
        Some(429) => {
            let money = [&said.code, &said.kind]
                .into_iter()
                .flatten()
                .any(|word| MONEY.iter().any(|part| word.contains(part)));
            match () {
                () if money || should_retry == Some(false) => (QuotaExceeded, JobStop),
                () if too_large(said) => (InvalidRequest, RowFatal),
                () => (RateLimited, Rejected),
            }
        }
        Some(401) => (Unauthenticated, JobStop),
        Some(402) => (QuotaExceeded, JobStop),
        Some(403) => (PermissionDenied, JobStop),
        // Without a code: a file, a batch or a path that is not there.
        Some(404 | 410) => (NotFound, RowFatal),
        // The gateway's clock ran out; the work may have gone on.
        Some(408) => (Timeout, Ambiguous),
        Some(409) if asked == Asked::Cancel => (Conflict, RowFatal),
        // Elsewhere it is a lock, and nothing was done.
        Some(409) => (Conflict, Rejected),
        Some(425) => (Overloaded, Rejected),
        Some(400..=499) => (InvalidRequest, RowFatal),
        // Without a word of the provider's a proxy may say it, after the work was done.
        Some(503 | 529)
            if asked == Asked::Inference && said.code.is_none() && said.kind.is_none() =>
        {
            (Overloaded, Ambiguous)
        }
        Some(503 | 529) => (Overloaded, Rejected),
        // The key must not follow to another place: the base URL is to be set right.
        Some(300..=399) => (ConfigInvalid, JobStop),
        // Every other 5xx by its range, and what has no status at all: it may have been paid (F-023).
        _ => (ProviderFault, Ambiguous),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright_http::HeaderValue;

    fn judge(asked: Asked, status: u16, headers: &[(&'static str, &str)], body: &str) -> Error {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                let name = header::HeaderName::from_static(name);
                (name, HeaderValue::from_str(value).unwrap())
            })
            .collect();
        let key = Secret::new("CANARY-KEY-0123456789".to_owned());
        http_error(asked, status, &headers, body.as_bytes(), &key)
    }

    fn body(code: &str, r#type: &str, message: &str) -> String {
        let word = |word: &str| match word {
            "" => serde_json::Value::Null,
            word => word.into(),
        };
        serde_json::json!({"error": {
            "message": message, "type": word(r#type), "param": null, "code": word(code)
        }})
        .to_string()
    }

    /// One row per row of the vendor's table, and F-002, F-005, F-008, F-020, F-021, F-023, F-025.
    #[test]
    fn every_row_of_the_vendors_table() {
        use Asked::{Cancel, Inference, Object};
        #[rustfmt::skip]
        let table = [
            (Inference, 400, "context_length_exceeded", "invalid_request_error", "too long", ContextTooLong, RowFatal),
            (Inference, 400, "unsupported_parameter", "invalid_request_error", "", InvalidRequest, RowFatal),
            (Inference, 400, "unsupported_value", "invalid_request_error", "", InvalidRequest, RowFatal),
            (Inference, 400, "invalid_value", "invalid_request_error", "", InvalidRequest, RowFatal),
            (Inference, 400, "missing_required_parameter", "", "", InvalidRequest, RowFatal),
            (Inference, 400, "", "invalid_request_error", "", InvalidRequest, RowFatal),
            (Inference, 400, "invalid_prompt", "invalid_request_error", "", ContentFiltered, RowFatal),
            (Inference, 400, "content_policy_violation", "", "", ContentFiltered, RowFatal),
            (Inference, 400, "content_filter", "", "", ContentFiltered, RowFatal),
            (Inference, 400, "billing_hard_limit_reached", "invalid_request_error", "", QuotaExceeded, JobStop),
            (Inference, 400, "", "billing_hard_limit_reached", "", QuotaExceeded, JobStop),
            (Inference, 401, "invalid_api_key", "invalid_request_error", "", Unauthenticated, JobStop),
            (Inference, 401, "", "", "", Unauthenticated, JobStop),
            (Inference, 402, "", "", "", QuotaExceeded, JobStop),
            (Inference, 403, "unsupported_country_region_territory", "request_forbidden", "", PermissionDenied, JobStop),
            (Inference, 403, "", "", "", PermissionDenied, JobStop),
            (Inference, 404, "model_not_found", "invalid_request_error", "", NotFound, JobStop),
            (Object, 404, "", "invalid_request_error", "No such File object: file-1", NotFound, RowFatal),
            (Object, 404, "", "", "No batch found with id 'batch_1'", NotFound, RowFatal),
            (Inference, 408, "", "", "", Timeout, Ambiguous),
            (Inference, 409, "", "", "", Conflict, Rejected),
            (Object, 409, "", "invalid_request_error", "", Conflict, Rejected),
            (Cancel, 409, "", "invalid_request_error", "Cannot cancel", Conflict, RowFatal),
            (Inference, 413, "", "server_error", "", InvalidRequest, RowFatal),
            (Inference, 422, "", "", "", InvalidRequest, RowFatal),
            (Inference, 424, "", "", "", InvalidRequest, RowFatal),
            (Inference, 425, "", "", "", Overloaded, Rejected),
            (Inference, 429, "rate_limit_exceeded", "requests", "Limit 3, Used 3, Requested 1.", RateLimited, Rejected),
            (Inference, 429, "rate_limit_exceeded", "tokens", "Request too large for m: Limit 1, Requested 2.", InvalidRequest, RowFatal),
            (Inference, 429, "rate_limit_exceeded", "tokens", "No Request too large here.", RateLimited, Rejected),
            (Inference, 429, "slow_down", "rate_limit_error", "", RateLimited, Rejected),
            (Inference, 429, "insufficient_quota", "insufficient_quota", "", QuotaExceeded, JobStop),
            (Inference, 429, "credit_balance_exhausted", "insufficient_quota", "", QuotaExceeded, JobStop),
            (Inference, 429, "organization_spend_limit_exceeded", "", "", QuotaExceeded, JobStop),
            (Inference, 429, "project_spend_limit_exceeded", "", "", QuotaExceeded, JobStop),
            (Inference, 429, "organization_usage_limit_exceeded", "", "", QuotaExceeded, JobStop),
            (Inference, 429, "team_spend_reached", "", "", QuotaExceeded, JobStop),
            (Inference, 429, "", "billing_error", "", QuotaExceeded, JobStop),
            (Inference, 429, "resource_unavailable", "", "Resource Unavailable", Overloaded, Rejected),
            // F-009: the words of F-005 without its code.
            (Inference, 429, "", "", "You exceeded your current quota", RateLimited, Rejected),
            (Object, 429, "token_limit_exceeded", "", "", RateLimited, Rejected),
            (Inference, 500, "", "server_error", "", ProviderFault, Ambiguous),
            (Inference, 502, "", "", "", ProviderFault, Ambiguous),
            (Inference, 503, "server_is_overloaded", "service_unavailable_error", "", Overloaded, Rejected),
            (Inference, 503, "", "server_error", "", Overloaded, Rejected),
            (Inference, 503, "", "", "Service Unavailable", Overloaded, Ambiguous),
            (Inference, 529, "", "", "", Overloaded, Ambiguous),
            (Object, 503, "", "", "", Overloaded, Rejected),
            (Inference, 504, "", "", "", ProviderFault, Ambiguous),
            (Inference, 520, "", "", "", ProviderFault, Ambiguous),
            (Inference, 524, "", "", "", ProviderFault, Ambiguous),
            (Inference, 529, "", "overloaded_error", "", Overloaded, Rejected),
            (Inference, 302, "", "", "", ConfigInvalid, JobStop),
        ];
        for (asked, status, code, r#type, message, kind, class) in table {
            let error = judge(asked, status, &[], &body(code, r#type, message));
            let row = format!("{status} {code} {type} {message}");
            assert_eq!((error.kind(), error.class()), (kind, class), "{row}");
            assert_eq!(error.status(), Some(status), "{row}");
        }
    }

    #[test]
    fn f_018_f_053_bodies_that_are_no_json_are_judged_by_status_and_shown_without_tags() {
        let html =
            "<html><head><title>x</title></head><body><h1>502 Bad Gateway</h1></body></html>";
        let error = judge(
            Asked::Inference,
            502,
            &[("content-type", "text/html")],
            html,
        );
        assert_eq!(error.class(), Ambiguous);
        assert!(error.message().contains("502 Bad Gateway"), "{error}");
        assert!(!error.message().contains('<'), "{error}");
        let error = judge(Asked::Inference, 429, &[], "");
        assert_eq!((error.kind(), error.class()), (RateLimited, Rejected));
        assert!(!error.message().is_empty());
    }

    #[test]
    fn f_013_f_017_the_servers_instructions_travel_with_the_error() {
        let limited = body("rate_limit_exceeded", "requests", "slow");
        let headers = [
            ("retry-after", "2"),
            ("x-request-id", "req_1"),
            ("x-ratelimit-remaining-requests", "0"),
        ];
        let error = judge(Asked::Inference, 429, &headers, &limited);
        assert_eq!(error.retry_after(), Some(std::time::Duration::from_secs(2)));
        assert_eq!(error.request_id(), Some("req_1"));
        assert_eq!(error.rate_limit().unwrap().remaining_requests, Some(0));

        let told = |status, told, body: &str| {
            judge(Asked::Inference, status, &[("x-should-retry", told)], body)
        };
        assert!(!told(500, "false", "").is_retryable());
        assert!(!told(429, "false", &limited).is_retryable());
        // An unknown 429 that is not to be repeated is about money.
        assert!(told(429, "false", "").is_job_stop());
        assert!(told(400, "true", "").is_retryable());
        assert!(told(401, "true", "").is_job_stop());
        let quota = body("insufficient_quota", "insufficient_quota", "");
        assert!(!told(429, "true", &quota).is_retryable());
        let cancel = judge(Asked::Cancel, 409, &[("x-should-retry", "true")], "");
        assert!(!cancel.is_retryable());
    }

    #[test]
    fn f_055_every_shape_gives_its_words() {
        for shape in [
            r#"{"error":"gone"}"#,
            r#"{"error":{"message":"gone"}}"#,
            r#"{"detail":"gone"}"#,
            r#"{"detail":[{"msg":"gone"}]}"#,
            r#"{"message":"gone"}"#,
            r#"{"errors":[{"message":"gone"}]}"#,
            r#"[{"error":{"message":"gone","code":7}}]"#,
            r#"{"error":{"message":"{\"error\":{\"message\":\"gone\"}}"}}"#,
        ] {
            let error = judge(Asked::Object, 404, &[], shape);
            assert_eq!(error.message(), "gone", "{shape}");
            assert_eq!(error.kind(), NotFound, "{shape}");
        }
    }

    #[test]
    fn f_050_an_error_within_a_success_is_judged_by_its_own_code() {
        let inner = |json: &str| {
            let raw = RawValue::from_string(json.to_owned()).unwrap();
            inner_error(&raw).map(|error| (error.kind(), error.class()))
        };
        for (json, verdict) in [
            (r#"{"message":"x","code":400}"#, (InvalidRequest, RowFatal)),
            (r#"{"message":"x","code":429}"#, (RateLimited, Rejected)),
            (
                r#"{"message":"x","code":"502"}"#,
                (ProviderFault, Ambiguous),
            ),
            (
                r#"{"code":"server_error","message":"x"}"#,
                (ProviderFault, Ambiguous),
            ),
            (
                r#"{"code":"rate_limit_exceeded","message":"x"}"#,
                (RateLimited, Rejected),
            ),
            (
                r#"{"code":"invalid_prompt","message":"x"}"#,
                (ContentFiltered, RowFatal),
            ),
            (r#"{"message":"x"}"#, (ProviderFault, Ambiguous)),
            (r#""x""#, (ProviderFault, Ambiguous)),
        ] {
            assert_eq!(inner(json), Some(verdict), "{json}");
        }
        for none in ["null", "{}", "false", "\"\"", "[]"] {
            assert_eq!(inner(none), None, "F-054: {none}");
        }
    }

    #[test]
    fn f_203_an_echoed_key_is_removed() {
        let echo = body(
            "invalid_api_key",
            "",
            "Incorrect API key: CANARY-KEY-0123456789.",
        );
        let error = judge(Asked::Inference, 401, &[], &echo);
        assert!(
            !format!("{error} {error:?}").contains("CANARY"),
            "{error:?}"
        );
    }
}
