//! Anthropic's answers to core's errors, as tables for the rule all vendors share.
//!
//! Source of every row: <https://platform.claude.com/docs/en/api/errors> and
//! <https://platform.claude.com/docs/en/api/rate-limits>, read 2026-11-22, and the official package 2.12.0.

use ErrorKind::{
    Conflict, ContextTooLong, InvalidRequest, NotFound, Overloaded, PermissionDenied,
    ProviderFault, QuotaExceeded, RateLimited, Timeout, Unauthenticated,
};
use RetryClass::{Ambiguous, JobStop, Rejected, RowFatal};
use batchwright_core::{Error, ErrorKind, RetryClass};
use batchwright_http::{Asked, CodeRow, ErrorTable, HintNames, Reply, Secret, VendorError};

/// The names of the rate-limit headers; those of tokens show whichever limit is the tightest.
static HINTS: HintNames = HintNames::new(
    Some([
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
    ]),
    Some([
        "anthropic-ratelimit-tokens-limit",
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-tokens-reset",
    ]),
);

/// How errors of calls are read: `details.error_code`, then the type where it means one thing only, then the status.
pub(crate) const ERRORS: ErrorTable = ErrorTable::new(CODES)
    .with_statuses(&[(504, Timeout, Ambiguous)])
    .with_money(MONEY)
    .with_hints(&HINTS);

/// How errors without a status are read: inside a success, or a stream.
const WITHIN: ErrorTable = ERRORS.with_own_codes(TYPES);
/// How errors of rows are read. A row that failed is not billed, whatever for ("Batch processing", pricing).
const ROWS: ErrorTable = ERRORS.with_own_codes(ROW_TYPES);
/// How either is read where the message says that money is at its end.
const SPENT: ErrorTable = ERRORS.with_own_codes(&[
    ("invalid_request_error", QuotaExceeded, JobStop),
    ("rate_limit_error", QuotaExceeded, JobStop),
]);
/// How either is read where the message says that nobody of the account is served.
const DISABLED: ErrorTable = ERRORS.with_own_codes(&[
    ("invalid_request_error", PermissionDenied, JobStop),
    ("permission_error", PermissionDenied, JobStop),
]);
/// How a direct call's error is read where the message names a model.
const NO_MODEL: ErrorTable = ERRORS.with_own_codes(&[("not_found_error", NotFound, JobStop)]);
/// How either is read where the message says that the prompt is too long.
const TOO_LONG: ErrorTable =
    ERRORS.with_own_codes(&[("invalid_request_error", ContextTooLong, RowFatal)]);

/// Parts of codes newer than the table that mean money.
const MONEY: &[&str] = &["spend", "billing", "credit", "quota"];

/// Codes, and types that mean the same with every status.
const CODES: &[CodeRow] = &[
    ("enforced_spend_limit_reached", QuotaExceeded, JobStop),
    ("contract_spend_limit_reached", QuotaExceeded, JobStop),
    (
        "linked_organization_spend_limit_reached",
        QuotaExceeded,
        JobStop,
    ),
    ("organization_on_hold", PermissionDenied, JobStop),
    ("ramp_limit_exceeded", RateLimited, Rejected),
    ("authentication_error", Unauthenticated, JobStop),
    ("billing_error", QuotaExceeded, JobStop),
    ("permission_error", PermissionDenied, JobStop),
    ("request_too_large", InvalidRequest, RowFatal),
    ("overloaded_error", Overloaded, Rejected),
];

/// Types that a status would tell more of.
const TYPES: &[CodeRow] = &[
    ("invalid_request_error", InvalidRequest, RowFatal),
    ("not_found_error", NotFound, RowFatal),
    ("conflict_error", Conflict, Rejected),
    ("rate_limit_error", RateLimited, Rejected),
    ("timeout_error", Timeout, Ambiguous),
    ("api_error", ProviderFault, Ambiguous),
];

const ROW_TYPES: &[CodeRow] = &[
    ("invalid_request_error", InvalidRequest, RowFatal),
    ("not_found_error", NotFound, RowFatal),
    ("conflict_error", Conflict, Rejected),
    ("rate_limit_error", RateLimited, Rejected),
    ("timeout_error", Timeout, Rejected),
    ("api_error", ProviderFault, Rejected),
];

/// The error of a reply that is no success.
pub(crate) fn of_reply(asked: Asked, reply: &Reply, key: &Secret) -> Error {
    let said = VendorError::from_body(&reply.body);
    let table = told(said.as_ref(), asked).unwrap_or(&ERRORS);
    table.of_reply(asked, reply, &[key])
}

/// The error in a body that came with a success, or in a stream, as its JSON text; `None` where it says that there is
/// none (F-050, F-054).
pub(crate) fn within(error: &str, key: &Secret) -> Option<Error> {
    let said = VendorError::from_body(error.as_bytes());
    let table = told(said.as_ref(), Asked::Inference).unwrap_or(&WITHIN);
    table.within(error, &[key])
}

/// The error a row ended in, as its JSON text.
pub(crate) fn of_row(error: &str) -> Option<Error> {
    let said = VendorError::from_body(error.as_bytes());
    // An unknown model is that row's alone.
    let table = told(said.as_ref(), Asked::Object).unwrap_or(&ROWS);
    table.within(error, &[])
}

/// The table for the few sentences that are read, since no code says what they do. A sentence that is not recognised
/// costs no money: it is then the row's own fault.
fn told(said: Option<&VendorError>, asked: Asked) -> Option<&'static ErrorTable> {
    let said = said?;
    let message = said.message.as_deref()?;
    // A limit of one's own comes as a plain 400, in two wordings (F-007); the vendor's own has a code, too (F-006).
    let limit =
        message.starts_with("You have reached your ") && message.contains("API usage limits");
    // An empty account is the same 400 (F-008).
    if limit || message.starts_with("Your credit balance is too low") {
        return Some(&SPENT);
    }
    if message.starts_with("This organization has been disabled") {
        return Some(&DISABLED);
    }
    if message.starts_with("prompt is too long") {
        return Some(&TOO_LONG);
    }
    (asked == Asked::Inference && message.starts_with("model: ")).then_some(&NO_MODEL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorKind::ConfigInvalid;
    use batchwright_http::{HeaderName, HeaderValue};

    fn key() -> Secret {
        Secret::new("CANARY-KEY-0123456789".to_owned())
    }

    fn judge(asked: Asked, status: u16, headers: &[(&'static str, &str)], body: &str) -> Error {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_str(value).unwrap())
            })
            .collect();
        of_reply(asked, &Reply::new(status, headers, body.to_owned()), &key())
    }

    fn body(r#type: &str, code: &str, message: &str) -> String {
        let details = match code {
            "" => serde_json::Value::Null,
            code => serde_json::json!({"error_code": code}),
        };
        serde_json::json!({
            "type": "error",
            "error": {"type": r#type, "message": message, "details": details},
            "request_id": "req_1"
        })
        .to_string()
    }

    const OWN: &str =
        "You have reached your specified API usage limits. You will regain access on 2026-12-01";
    const BALANCE: &str = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits.";
    const WORKSPACE: &str =
        "You have reached your specified workspace API usage limits. You will regain access";
    const ORGANIZATION: &str = "You have reached your API usage limits: your organization has crossed its monthly API usage threshold.";

    /// One row per row of the vendor's table, and F-001, F-006, F-007, F-008, F-020, F-021, F-023, F-024, F-025.
    #[test]
    fn every_row_of_the_vendors_table() {
        use Asked::{Cancel, Inference, Object};
        #[rustfmt::skip]
        let table = [
            (Inference, 400, "invalid_request_error", "", "max_tokens: Field required", InvalidRequest, RowFatal),
            (Inference, 400, "invalid_request_error", "organization_on_hold", "", PermissionDenied, JobStop),
            (Inference, 400, "invalid_request_error", "request_body_encoding_invalid", "", InvalidRequest, RowFatal),
            (Inference, 400, "invalid_request_error", "request_body_encoding_unsupported", "", InvalidRequest, RowFatal),
            (Inference, 400, "invalid_request_error", "image_dimensions_too_large", "", InvalidRequest, RowFatal),
            (Inference, 400, "invalid_request_error", "", "prompt is too long: 3 tokens > 2 maximum", ContextTooLong, RowFatal),
            (Inference, 400, "invalid_request_error", "", OWN, QuotaExceeded, JobStop),
            (Inference, 400, "invalid_request_error", "", WORKSPACE, QuotaExceeded, JobStop),
            (Object, 400, "invalid_request_error", "", OWN, QuotaExceeded, JobStop),
            (Inference, 400, "invalid_request_error", "", BALANCE, QuotaExceeded, JobStop),
            (Object, 400, "invalid_request_error", "", BALANCE, QuotaExceeded, JobStop),
            (Inference, 400, "invalid_request_error", "", "This organization has been disabled.", PermissionDenied, JobStop),
            (Inference, 400, "invalid_request_error", "", "a prompt that says: You have reached your API usage limits", InvalidRequest, RowFatal),
            (Inference, 401, "authentication_error", "", "API key is invalid.", Unauthenticated, JobStop),
            (Inference, 402, "billing_error", "linked_organization_spend_limit_reached", "", QuotaExceeded, JobStop),
            (Inference, 402, "billing_error", "", "", QuotaExceeded, JobStop),
            (Inference, 402, "", "", "", QuotaExceeded, JobStop),
            (Inference, 403, "permission_error", "", "", PermissionDenied, JobStop),
            (Inference, 404, "not_found_error", "", "model: claude-0", NotFound, JobStop),
            (Inference, 404, "not_found_error", "", "File not found", NotFound, RowFatal),
            (Object, 404, "not_found_error", "", "Message Batch msgbatch_1 not found.", NotFound, RowFatal),
            (Inference, 408, "", "", "", Timeout, Ambiguous),
            (Inference, 409, "conflict_error", "", "", Conflict, Rejected),
            (Cancel, 409, "conflict_error", "", "", Conflict, RowFatal),
            (Inference, 413, "request_too_large", "", "", InvalidRequest, RowFatal),
            (Inference, 413, "request_too_large", "request_body_too_large_after_decoding", "", InvalidRequest, RowFatal),
            (Inference, 413, "", "", "", InvalidRequest, RowFatal),
            (Inference, 429, "rate_limit_error", "", "This request would exceed", RateLimited, Rejected),
            (Inference, 429, "rate_limit_error", "ramp_limit_exceeded", "", RateLimited, Rejected),
            (Inference, 429, "rate_limit_error", "enforced_spend_limit_reached", ORGANIZATION, QuotaExceeded, JobStop),
            (Inference, 429, "rate_limit_error", "contract_spend_limit_reached", "", QuotaExceeded, JobStop),
            (Inference, 429, "rate_limit_error", "some_new_spend_limit", "", QuotaExceeded, JobStop),
            (Inference, 429, "rate_limit_error", "", ORGANIZATION, QuotaExceeded, JobStop),
            (Inference, 429, "", "", "", RateLimited, Rejected),
            (Inference, 500, "api_error", "", "", ProviderFault, Ambiguous),
            (Inference, 502, "", "", "", ProviderFault, Ambiguous),
            (Inference, 503, "api_error", "cmek_unavailable", "", Overloaded, Rejected),
            (Inference, 503, "", "", "", Overloaded, Ambiguous),
            (Inference, 504, "timeout_error", "", "", Timeout, Ambiguous),
            (Inference, 520, "", "", "", ProviderFault, Ambiguous),
            (Inference, 529, "overloaded_error", "", "Overloaded", Overloaded, Rejected),
            (Inference, 529, "", "", "", Overloaded, Ambiguous),
            (Object, 529, "overloaded_error", "", "", Overloaded, Rejected),
            (Inference, 400, "a_new_error", "a_new_code", "", InvalidRequest, RowFatal),
            (Inference, 307, "", "", "", ConfigInvalid, JobStop),
        ];
        for (asked, status, r#type, code, message, kind, class) in table {
            let body = match (r#type, message) {
                ("", "") => String::new(),
                _ => body(r#type, code, message),
            };
            let error = judge(asked, status, &[], &body);
            let row = format!("{status} {type} {code} {message}");
            assert_eq!((error.kind(), error.class()), (kind, class), "{row}");
            assert_eq!(error.status(), Some(status), "{row}");
            let said = if code.is_empty() { r#type } else { code };
            assert_eq!(error.code().unwrap_or_default(), said, "{row}");
        }
    }

    /// Section 5.6 of the vendor's rules: what of a row is final, and what may go into another batch.
    #[test]
    fn rows_keep_what_their_types_say() {
        for (r#type, message, kind, class) in [
            (
                "invalid_request_error",
                "messages: Field required",
                InvalidRequest,
                RowFatal,
            ),
            (
                "invalid_request_error",
                "prompt is too long: 3 tokens > 2 maximum",
                ContextTooLong,
                RowFatal,
            ),
            ("invalid_request_error", OWN, QuotaExceeded, JobStop),
            ("invalid_request_error", BALANCE, QuotaExceeded, JobStop),
            (
                "not_found_error",
                "model: no-such-model",
                NotFound,
                RowFatal,
            ),
            ("permission_error", "", PermissionDenied, JobStop),
            ("billing_error", "", QuotaExceeded, JobStop),
            ("request_too_large", "", InvalidRequest, RowFatal),
            ("api_error", "", ProviderFault, Rejected),
            ("overloaded_error", "", Overloaded, Rejected),
            ("timeout_error", "", Timeout, Rejected),
            ("rate_limit_error", "", RateLimited, Rejected),
            ("a_new_error", "", ProviderFault, Ambiguous),
        ] {
            let error = of_row(&body(r#type, "", message)).unwrap();
            assert_eq!(
                (error.kind(), error.class()),
                (kind, class),
                "{type} {message}"
            );
            assert_eq!(error.status(), None);
        }
        assert!(of_row("null").is_none());
    }

    /// F-013, F-014, F-015, F-017, F-018.
    #[test]
    fn f_013_f_017_the_servers_instructions_travel_with_the_error() {
        let limited = body("rate_limit_error", "", "slow");
        let headers = [
            ("retry-after", "2.5"),
            ("request-id", "req_1"),
            ("date", "Sun, 22 Nov 2026 10:15:00 GMT"),
            ("anthropic-ratelimit-requests-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", "2026-11-22T10:15:30Z"),
            ("anthropic-ratelimit-tokens-limit", "2000000"),
            ("anthropic-ratelimit-tokens-remaining", "1999000"),
        ];
        let error = judge(Asked::Inference, 429, &headers, &limited);
        let seconds = std::time::Duration::from_secs_f64;
        assert_eq!(error.retry_after(), Some(seconds(2.5)));
        assert_eq!(error.request_id(), Some("req_1"));
        let limit = error.rate_limit().unwrap();
        assert_eq!(limit.reset_requests, Some(seconds(30.0)));
        assert_eq!(
            (limit.limit_tokens, limit.remaining_tokens),
            (Some(2_000_000), Some(1_999_000))
        );

        let told = |status, told, body: &str| {
            judge(Asked::Inference, status, &[("x-should-retry", told)], body)
        };
        assert!(!told(500, "false", "").is_retryable());
        assert!(!told(429, "false", &limited).is_retryable());
        assert!(told(400, "true", "").is_retryable());
        assert!(told(401, "true", "").is_job_stop());
        let spent = body("rate_limit_error", "enforced_spend_limit_reached", "");
        assert!(!told(429, "true", &spent).is_retryable());
    }

    #[test]
    fn f_050_f_054_an_error_within_a_success_is_judged_by_its_type() {
        let inner = |json: &str| within(json, &key()).map(|error| (error.kind(), error.class()));
        let of = |r#type: &str| inner(&body(r#type, "", "x"));
        assert_eq!(of("overloaded_error"), Some((Overloaded, Rejected)));
        assert_eq!(of("api_error"), Some((ProviderFault, Ambiguous)));
        assert_eq!(
            of("invalid_request_error"),
            Some((InvalidRequest, RowFatal))
        );
        assert_eq!(inner("null"), None);
        assert_eq!(inner("{}"), None);
    }

    #[test]
    fn f_053_f_203_html_and_echoed_keys_are_cleaned() {
        let html = "<html><body><h1>502 Bad Gateway</h1></body></html>";
        let error = judge(
            Asked::Inference,
            502,
            &[("content-type", "text/html")],
            html,
        );
        assert!(error.message().contains("502 Bad Gateway"), "{error}");
        assert!(!error.message().contains('<'), "{error}");
        let echo = body("authentication_error", "", "bad key CANARY-KEY-0123456789.");
        let error = judge(Asked::Inference, 401, &[], &echo);
        assert!(
            !format!("{error} {error:?}").contains("CANARY"),
            "{error:?}"
        );
    }
}
