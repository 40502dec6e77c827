//! Google's answers to core's errors, as a table for the rule all vendors share.
//!
//! Source of every row: <https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/api-errors> and
//! <https://cloud.google.com/storage/docs/json_api/v1/status-codes>, read 2026-11-22.

use ErrorKind::{
    ConfigInvalid, Conflict, InvalidRequest, Overloaded, PermissionDenied, ProviderFault,
    QuotaExceeded, RateLimited, Timeout, Unauthenticated, Unsupported,
};
use RetryClass::{Ambiguous, JobStop, Rejected, RowFatal};
use batchwright_core::{ErrorKind, RetryClass};
use batchwright_http::{CodeRow, ErrorTable, NO_HINTS};

/// How Google's errors are read. No header tells of limits.
pub(crate) const ERRORS: ErrorTable = ErrorTable::new(CODES).with_hints(&NO_HINTS);

/// Codes in words that settle the matter whatever the status is. `NOT_FOUND` is left to the status, since a missing
/// model is not a missing job.
const CODES: &[CodeRow] = &[
    ("BILLING_DISABLED", QuotaExceeded, JobStop),
    ("INVALID_ARGUMENT", InvalidRequest, RowFatal),
    ("OUT_OF_RANGE", InvalidRequest, RowFatal),
    ("UNAUTHENTICATED", Unauthenticated, JobStop),
    ("PERMISSION_DENIED", PermissionDenied, JobStop),
    // Billing, region or terms of the project, never the row (F-007).
    ("FAILED_PRECONDITION", PermissionDenied, JobStop),
    ("RESOURCE_EXHAUSTED", RateLimited, Rejected),
    ("ABORTED", Conflict, Rejected),
    ("UNAVAILABLE", Overloaded, Rejected),
    // Somebody in between hung up; the work may have been done.
    ("CANCELLED", ProviderFault, Ambiguous),
    // Google's own clock ran out; the work may have gone on.
    ("DEADLINE_EXCEEDED", Timeout, Ambiguous),
    ("INTERNAL", ProviderFault, Ambiguous),
    ("UNKNOWN", ProviderFault, Ambiguous),
    ("DATA_LOSS", ProviderFault, Ambiguous),
    // Nobody is served by a method that is not there.
    ("UNIMPLEMENTED", Unsupported, JobStop),
];

/// A full queue as a failed batch's gRPC code (F-010).
pub(crate) const QUEUE_FULL: u64 = 8;

/// What kind of fault of the account a failed batch's gRPC code tells, if so (F-027).
pub(crate) fn account_fault(code: u64) -> Option<ErrorKind> {
    match code {
        // The service agent may not read or write the bucket.
        7 => Some(PermissionDenied),
        // The bucket is not there, or is elsewhere.
        9 => Some(ConfigInvalid),
        16 => Some(Unauthenticated),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright_http::{Asked, HeaderMap, Reply};
    use serde_json::json;

    #[test]
    fn every_row_of_the_vendors_table_has_its_kind_and_class() {
        for (asked, status, word, kind, class) in [
            (
                Asked::Inference,
                400,
                "INVALID_ARGUMENT",
                InvalidRequest,
                RowFatal,
            ),
            (
                Asked::Inference,
                400,
                "FAILED_PRECONDITION",
                PermissionDenied,
                JobStop,
            ),
            (
                Asked::Inference,
                401,
                "UNAUTHENTICATED",
                Unauthenticated,
                JobStop,
            ),
            (
                Asked::Inference,
                403,
                "PERMISSION_DENIED",
                PermissionDenied,
                JobStop,
            ),
            (
                Asked::Object,
                404,
                "NOT_FOUND",
                ErrorKind::NotFound,
                RowFatal,
            ),
            (Asked::Object, 409, "ABORTED", Conflict, Rejected),
            (Asked::Object, 412, "", InvalidRequest, RowFatal),
            (
                Asked::Inference,
                429,
                "RESOURCE_EXHAUSTED",
                RateLimited,
                Rejected,
            ),
            (Asked::Inference, 499, "CANCELLED", ProviderFault, Ambiguous),
            (Asked::Inference, 501, "UNIMPLEMENTED", Unsupported, JobStop),
            (Asked::Inference, 500, "INTERNAL", ProviderFault, Ambiguous),
            (Asked::Inference, 500, "UNKNOWN", ProviderFault, Ambiguous),
            (Asked::Inference, 503, "UNAVAILABLE", Overloaded, Rejected),
            (
                Asked::Inference,
                504,
                "DEADLINE_EXCEEDED",
                Timeout,
                Ambiguous,
            ),
            (Asked::Object, 408, "", Timeout, Ambiguous),
            (Asked::Object, 502, "", ProviderFault, Ambiguous),
        ] {
            let error = json!({"error": {"code": status, "message": "m", "status": word}});
            // F-055: sometimes in a list of one.
            for body in [error.to_string(), json!([error]).to_string()] {
                let reply = Reply::new(status, HeaderMap::new(), body);
                let error = ERRORS.of_reply(asked, &reply, &[]);
                assert_eq!(
                    (error.kind(), error.class()),
                    (kind, class),
                    "{status} {word}"
                );
            }
        }
    }

    #[test]
    fn f_009_a_quota_without_a_delay_is_a_limit_and_billing_is_money() {
        let limited = br#"{"error":{"code":429,"message":"Resource exhausted","status":"RESOURCE_EXHAUSTED"}}"#;
        let error = ERRORS.of_row(429, limited);
        assert_eq!((error.kind(), error.retry_after()), (RateLimited, None));
        let billing = br#"{"error":{"code":403,"message":"b","status":"PERMISSION_DENIED",
            "details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"BILLING_DISABLED"}]}}"#;
        let error = ERRORS.of_row(403, billing);
        assert_eq!((error.kind(), error.class()), (QuotaExceeded, JobStop));
    }
}
