//! OpenAI's answers to core's errors, as a table for the rule all vendors share.
//!
//! Source of every row: <https://platform.openai.com/docs/guides/error-codes>, read 2026-11-22, and the
//! official SDK's types of that day.

use ErrorKind::{
    ContentFiltered, ContextTooLong, InvalidRequest, NotFound, Overloaded, PermissionDenied,
    ProviderFault, QuotaExceeded, RateLimited, Unauthenticated,
};
use RetryClass::{Ambiguous, JobStop, Rejected, RowFatal};
use batchwright_core::{ErrorKind, RetryClass};
use batchwright_http::{CodeRow, ErrorTable};

/// How OpenAI's errors are read.
pub(crate) const ERRORS: ErrorTable = ErrorTable::new(CODES)
    .with_money(&["quota", "billing", "credit", "spend", "usage_limit"])
    // The only sentence that is read: one request above the limit of a minute, which never fits (F-002).
    .with_too_large(&["Request too large"])
    // As a type it also comes with 413.
    .with_vague_types(&["server_error"]);

/// Codes and types that settle the matter whatever the status is.
const CODES: &[CodeRow] = &[
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

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorKind::{ConfigInvalid, Conflict, Timeout};
    use batchwright_core::Error;
    use batchwright_http::{Asked, HeaderName, HeaderValue, Reply, Secret};

    fn judge(asked: Asked, status: u16, headers: &[(&'static str, &str)], body: &str) -> Error {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_str(value).unwrap())
            })
            .collect();
        let key = Secret::new("CANARY-KEY-0123456789".to_owned());
        let reply = Reply::new(status, headers, body.to_owned());
        ERRORS.of_reply(asked, &reply, &[&key])
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
            ERRORS
                .within(json, &[])
                .map(|error| (error.kind(), error.class()))
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
