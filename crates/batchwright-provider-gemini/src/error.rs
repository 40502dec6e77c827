//! Google's answers to core's errors: a table for the rule all vendors share, and what only Google says.
//!
//! Source of every row: <https://ai.google.dev/gemini-api/docs/troubleshooting> and
//! <https://github.com/googleapis/googleapis/blob/master/google/api/error_reason.proto>, read 2026-11-22. A sentence is
//! no verdict: the ordinary 429 says "check your plan and billing details", word for word as another vendor's empty
//! account does (F-009). But for three that say that money is at its end, which no code does (F-006).

use ErrorKind::{
    Conflict, InvalidRequest, NotFound, Overloaded, PermissionDenied, ProviderFault, QuotaExceeded,
    RateLimited, Timeout, Unauthenticated, Unsupported,
};
use RetryClass::{Ambiguous, JobStop, Rejected, RowFatal};
use batchwright_core::{Error, ErrorKind, RetryClass};
use batchwright_http::{Asked, CodeRow, ErrorTable, NO_HINTS, Reply, Secret};
use serde_json::{Value, json};
use std::time::Duration;

/// How Google's errors are read. There are no rate-limit headers and no `retry-after`.
pub(crate) const ERRORS: ErrorTable = ErrorTable::new(CODES).with_hints(&NO_HINTS);

/// Reasons and status words that settle the matter whatever the HTTP status is.
const CODES: &[CodeRow] = &[
    // Reasons of `google.rpc.ErrorInfo`. A bad key is a 400.
    ("API_KEY_INVALID", Unauthenticated, JobStop),
    ("API_KEY_SERVICE_BLOCKED", PermissionDenied, JobStop),
    ("API_KEY_HTTP_REFERRER_BLOCKED", PermissionDenied, JobStop),
    ("API_KEY_IP_ADDRESS_BLOCKED", PermissionDenied, JobStop),
    ("SERVICE_DISABLED", PermissionDenied, JobStop),
    ("CONSUMER_SUSPENDED", PermissionDenied, JobStop),
    ("CONSUMER_INVALID", PermissionDenied, JobStop),
    ("BILLING_DISABLED", QuotaExceeded, JobStop),
    // Words of `google.rpc.Code`.
    ("INVALID_ARGUMENT", InvalidRequest, RowFatal),
    ("OUT_OF_RANGE", InvalidRequest, RowFatal),
    // Billing is not set up, or the region is not served.
    (FAILED_PRECONDITION, PermissionDenied, JobStop),
    ("UNAUTHENTICATED", Unauthenticated, JobStop),
    (DENIED, PermissionDenied, JobStop),
    (MISSING, NotFound, RowFatal),
    ("ABORTED", Conflict, Rejected),
    ("RESOURCE_EXHAUSTED", RateLimited, Rejected),
    // Somebody in between hung up; the work may have been done.
    ("CANCELLED", ProviderFault, Ambiguous),
    ("UNKNOWN", ProviderFault, Ambiguous),
    ("INTERNAL", ProviderFault, Ambiguous),
    ("DATA_LOSS", ProviderFault, Ambiguous),
    ("UNIMPLEMENTED", Unsupported, JobStop),
    ("UNAVAILABLE", Overloaded, Rejected),
    ("DEADLINE_EXCEEDED", Timeout, Ambiguous),
];

const FAILED_PRECONDITION: &str = "FAILED_PRECONDITION";
/// What an unknown or deleted file or cache gets, as well as a key without a right.
pub(crate) const DENIED: &str = "PERMISSION_DENIED";
/// What an unknown model or batch gets.
pub(crate) const MISSING: &str = "NOT_FOUND";

/// A wait this long is an honest one until a day's quota is full again; shorter ones are of no use (F-003).
const HONEST_DAY_WAIT: Duration = Duration::from_secs(15 * 60);

/// gRPC's codes, which rows and operations carry, with HTTP's and the words (`google/rpc/code.proto`).
const GRPC: [(u64, u16, &str); 16] = [
    (1, 499, "CANCELLED"),
    (2, 500, "UNKNOWN"),
    (3, 400, "INVALID_ARGUMENT"),
    (4, 504, "DEADLINE_EXCEEDED"),
    (5, 404, MISSING),
    (6, 409, "ALREADY_EXISTS"),
    (7, 403, DENIED),
    (8, 429, "RESOURCE_EXHAUSTED"),
    (9, 400, FAILED_PRECONDITION),
    (10, 409, "ABORTED"),
    (11, 400, "OUT_OF_RANGE"),
    (12, 501, "UNIMPLEMENTED"),
    (13, 500, "INTERNAL"),
    (14, 503, "UNAVAILABLE"),
    (15, 500, "DATA_LOSS"),
    (16, 401, "UNAUTHENTICATED"),
];

/// The error of a reply that is no success.
pub(crate) fn of_reply(asked: Asked, reply: &Reply, secrets: &[&Secret]) -> Error {
    let error = ERRORS.of_reply(asked, reply, secrets);
    let quota = Quota::of(&serde_json::from_slice(&reply.body).unwrap_or_default());
    judged(asked, error, quota)
}

/// The error inside a body that came with a success (F-050); `None` where it says that there is none (F-054).
pub(crate) fn within(error: &str, secrets: &[&Secret]) -> Option<Error> {
    let quota = Quota::of(&serde_json::from_str(error).unwrap_or_default());
    let error = ERRORS.within(error, secrets)?;
    Some(judged(Asked::Inference, error, quota))
}

/// The error a row of a batch ended in, whose code is gRPC's; `None` where it says that there is none.
pub(crate) fn of_row(error: &str) -> Option<Error> {
    let mut said: Value = serde_json::from_str(error).ok()?;
    if said.is_null() || said == json!({}) {
        return None;
    }
    let code = said["code"].as_u64();
    let Some(&(_, status, word)) = GRPC.iter().find(|(grpc, ..)| Some(*grpc) == code) else {
        // HTTP's code after all, or none.
        let status = code.and_then(|code| u16::try_from(code).ok());
        return match status.filter(|status| (400..=599).contains(status)) {
            Some(status) => Some(ERRORS.of_row(status, error.as_bytes())),
            None => ERRORS.within(error, &[]),
        };
    };
    said["code"] = Value::from(status);
    if said["status"].is_null() {
        said["status"] = Value::from(word);
    }
    let quota = Quota::of(&said);
    let error = ERRORS.of_row(status, said.to_string().as_bytes());
    // A row that names something that is not there is at fault alone: the batch's model was accepted.
    Some(judged(Asked::Object, error, quota))
}

/// A full queue as a failed batch's gRPC code.
pub(crate) const QUEUE_FULL: u64 = 8;

/// What only Google says: quotas by their ids, before any hint of a delay, and words that mean something else to
/// another call.
fn judged(asked: Asked, error: Error, quota: Quota) -> Error {
    let code = error.code().unwrap_or_default();
    match (asked, code) {
        (_, "RESOURCE_EXHAUSTED" | "RATE_LIMIT_EXCEEDED") if quota.spent => retold(
            &error,
            QuotaExceeded,
            JobStop,
            "the account's money is at its end",
        ),
        (_, "RESOURCE_EXHAUSTED" | "RATE_LIMIT_EXCEEDED") if quota.zero => retold(
            &error,
            QuotaExceeded,
            JobStop,
            "this quota is zero for the project",
        ),
        (_, "RESOURCE_EXHAUSTED" | "RATE_LIMIT_EXCEEDED") if quota.day => {
            let retold = retold(
                &error,
                QuotaExceeded,
                JobStop,
                "the day's quota is used up until midnight, Pacific time",
            );
            match error.retry_after() {
                Some(wait) if wait >= HONEST_DAY_WAIT => retold.with_retry_after(wait),
                _ => retold,
            }
        }
        // An unknown model serves nobody.
        (Asked::Inference, MISSING) => error.with_class(JobStop),
        (Asked::Cancel, FAILED_PRECONDITION) => retold(
            &error,
            Conflict,
            RowFatal,
            "cancel the batch: it has ended already",
        ),
        _ => error,
    }
}

/// The same answer under another verdict, without its delay.
fn retold(error: &Error, kind: ErrorKind, class: RetryClass, what: &str) -> Error {
    let mut retold = Error::new(kind, format!("{what}: {}", error.message())).with_class(class);
    if let Some(status) = error.status() {
        retold = retold.with_status(status);
    }
    if let Some(code) = error.code() {
        retold = retold.with_code(code);
    }
    retold
}

/// What `google.rpc.QuotaFailure` says, and two sentences that come without it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Quota {
    /// A quota of the day is used up.
    day: bool,
    /// A quota is zero, so that waiting helps nobody.
    zero: bool,
    /// Credits or a spending cap are used up. No code tells it from a limit of the minute (F-006).
    spent: bool,
}

impl Quota {
    fn of(body: &Value) -> Self {
        let body = match body {
            // Sometimes the error is wrapped in a list.
            Value::Array(list) => list.first().unwrap_or(&Value::Null),
            body => body,
        };
        let error = match &body["error"] {
            Value::Null => body,
            error => error,
        };
        let message = error["message"].as_str().unwrap_or_default();
        let capped = message.starts_with("Your project has exceeded its monthly spending cap")
            || message.starts_with("Your billing account has exceeded its monthly spending cap");
        let mut quota = Self {
            spent: capped || message.starts_with("Your prepayment credits are depleted"),
            ..Self::default()
        };
        let says_zero = message.contains("limit: 0,") || message.ends_with("limit: 0");
        let violations = error["details"]
            .as_array()
            .into_iter()
            .flatten()
            .take(16)
            .filter_map(|detail| detail["violations"].as_array())
            .flatten()
            .take(64);
        for violation in violations {
            let Some(id) = violation["quotaId"].as_str() else {
                continue;
            };
            quota.day |= id.contains("PerDay");
            // ProtoJSON leaves a zero out; only then do the words tell it from a value that is not shown.
            quota.zero |= match violation["quotaValue"].as_str() {
                Some(value) => value == "0",
                None => says_zero,
            };
        }
        quota
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright_http::{HeaderMap, StatusCode};

    fn judge(asked: Asked, status: u16, body: &Value) -> Error {
        assert!(StatusCode::from_u16(status).is_ok());
        let key = Secret::new("CANARY-KEY-0123456789".to_owned());
        let reply = Reply::new(status, HeaderMap::new(), body.to_string());
        of_reply(asked, &reply, &[&key])
    }

    fn body(status: u16, word: &str, details: Value) -> Value {
        json!({"error": {"code": status, "status": word, "message": "what", "details": details}})
    }

    /// One row per row of the vendor's table.
    #[test]
    fn every_row_of_the_vendors_table() {
        use Asked::{Cancel, Inference, Object};
        let key = json!([{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]);
        let off = json!([{"reason": "SERVICE_DISABLED"}]);
        let none = json!([]);
        #[rustfmt::skip]
        let table = [
            (Inference, 400, "INVALID_ARGUMENT", &none, InvalidRequest, RowFatal),
            (Inference, 400, "INVALID_ARGUMENT", &key, Unauthenticated, JobStop),
            (Inference, 400, "FAILED_PRECONDITION", &none, PermissionDenied, JobStop),
            (Cancel, 400, "FAILED_PRECONDITION", &none, Conflict, RowFatal),
            (Inference, 400, "OUT_OF_RANGE", &none, InvalidRequest, RowFatal),
            (Inference, 401, "UNAUTHENTICATED", &none, Unauthenticated, JobStop),
            (Inference, 403, "PERMISSION_DENIED", &none, PermissionDenied, JobStop),
            (Inference, 403, "PERMISSION_DENIED", &off, PermissionDenied, JobStop),
            (Inference, 404, "NOT_FOUND", &none, NotFound, JobStop),
            (Object, 404, "NOT_FOUND", &none, NotFound, RowFatal),
            (Object, 409, "ABORTED", &none, Conflict, Rejected),
            (Inference, 429, "RESOURCE_EXHAUSTED", &none, RateLimited, Rejected),
            (Inference, 499, "CANCELLED", &none, ProviderFault, Ambiguous),
            (Inference, 500, "INTERNAL", &none, ProviderFault, Ambiguous),
            (Inference, 501, "UNIMPLEMENTED", &none, Unsupported, JobStop),
            (Inference, 503, "UNAVAILABLE", &none, Overloaded, Rejected),
            (Inference, 504, "DEADLINE_EXCEEDED", &none, Timeout, Ambiguous),
        ];
        for (asked, status, word, details, kind, class) in table {
            let object = body(status, word, details.clone());
            for shape in [object.clone(), json!([object])] {
                let error = judge(asked, status, &shape);
                assert_eq!(
                    (error.kind(), error.class()),
                    (kind, class),
                    "{word} {shape}"
                );
                assert_eq!(error.status(), Some(status), "{word}");
            }
        }
    }

    fn limited(id: &str, value: Option<&str>, delay: &str, message: &str) -> Error {
        let mut violation = json!({"quotaMetric": "m", "quotaId": id});
        if let Some(value) = value {
            violation["quotaValue"] = Value::from(value);
        }
        let details = json!([
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay},
        ]);
        let mut body = body(429, "RESOURCE_EXHAUSTED", details);
        body["error"]["message"] = Value::from(message);
        judge(Asked::Inference, 429, &body)
    }

    const MINUTE: &str = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier";
    const DAY: &str = "GenerateRequestsPerDayPerProjectPerModel-FreeTier";

    #[test]
    fn f_003_the_days_quota_is_read_before_the_hint_of_a_delay() {
        let error = limited(DAY, Some("250"), "59s", "check your plan");
        assert_eq!((error.kind(), error.class()), (QuotaExceeded, JobStop));
        assert_eq!(error.retry_after(), None, "59 s would burn the retries");
        assert!(error.message().contains("midnight"), "{error}");
        let honest = limited(DAY, Some("250"), "39043s", "check your plan");
        assert_eq!(honest.retry_after(), Some(Duration::from_secs(39_043)));
    }

    #[test]
    fn f_001_f_009_the_minutes_quota_waits_whatever_the_sentence_says() {
        let sentence =
            "You exceeded your current quota, please check your plan and billing details.";
        let error = limited(MINUTE, Some("10"), "37.4s", sentence);
        assert_eq!((error.kind(), error.class()), (RateLimited, Rejected));
        assert_eq!(error.retry_after(), Some(Duration::from_millis(37_400)));
        // F-011, F-018: help alone, and nothing at all.
        for details in [json!([{"links": []}]), json!([])] {
            let body = body(429, "RESOURCE_EXHAUSTED", details);
            let bare = judge(Asked::Object, 429, &body);
            assert_eq!((bare.class(), bare.retry_after()), (Rejected, None));
        }
    }

    #[test]
    fn f_006_money_at_its_end_is_no_limit_of_the_minute() {
        for message in [
            "Your project has exceeded its monthly spending cap. Please go to AI Studio",
            "Your billing account has exceeded its monthly spending cap.",
            "Your prepayment credits are depleted. Please go to AI Studio",
        ] {
            let mut spent = body(429, "RESOURCE_EXHAUSTED", json!([{"links": []}]));
            spent["error"]["message"] = Value::from(message);
            for asked in [Asked::Inference, Asked::Object] {
                let error = judge(asked, 429, &spent);
                assert_eq!(
                    (error.kind(), error.class()),
                    (QuotaExceeded, JobStop),
                    "{message}"
                );
            }
            let row = json!({"code": 8, "message": message}).to_string();
            assert!(of_row(&row).unwrap().is_job_stop(), "{message}");
        }
        let mut echo = body(429, "RESOURCE_EXHAUSTED", json!([]));
        echo["error"]["message"] = Value::from("x: Your prepayment credits are depleted");
        assert_eq!(judge(Asked::Inference, 429, &echo).class(), Rejected);
    }

    #[test]
    fn f_009_a_zero_limit_stops() {
        for (value, message) in [
            (Some("0"), "quota"),
            (None, "Quota exceeded for metric: x, limit: 0, model: m"),
            (None, "Quota exceeded for metric: x, limit: 0"),
        ] {
            let error = limited(MINUTE, value, "10s", message);
            assert_eq!((error.kind(), error.class()), (QuotaExceeded, JobStop));
        }
        let shown = limited(MINUTE, None, "10s", "Quota exceeded, limit: 05");
        assert_eq!(
            shown.class(),
            Rejected,
            "a limit that is not shown is none of zero"
        );
    }

    #[test]
    fn f_105_rows_carry_grpcs_codes() {
        for (code, kind, class) in [
            (3, InvalidRequest, RowFatal),
            (4, Timeout, Ambiguous),
            (5, NotFound, RowFatal),
            (7, PermissionDenied, JobStop),
            (8, RateLimited, Rejected),
            (13, ProviderFault, Ambiguous),
            (14, Overloaded, Rejected),
            (16, Unauthenticated, JobStop),
            (429, RateLimited, Rejected),
            (503, Overloaded, Rejected),
        ] {
            let error = of_row(&format!(r#"{{"code":{code},"message":"m"}}"#)).unwrap();
            assert_eq!((error.kind(), error.class()), (kind, class), "{code}");
        }
        assert!(of_row("null").is_none() && of_row("{}").is_none());
        let odd = of_row(r#"{"code":99,"message":"m"}"#).unwrap();
        assert_eq!(odd.class(), Ambiguous);
    }

    #[test]
    fn f_050_an_error_within_a_success_is_judged_by_its_own_code() {
        let error = within(
            r#"{"code":429,"status":"RESOURCE_EXHAUSTED","message":"m"}"#,
            &[],
        );
        assert_eq!(error.unwrap().class(), Rejected);
        let listed = r#"[{"error":{"code":503,"status":"UNAVAILABLE","message":"m"}}]"#;
        assert_eq!(within(listed, &[]).unwrap().class(), Rejected);
        assert!(within("null", &[]).is_none(), "F-054");
    }

    #[test]
    fn f_203_an_echoed_key_is_removed() {
        let mut echo = body(400, "INVALID_ARGUMENT", json!([]));
        echo["error"]["message"] = Value::from("API key CANARY-KEY-0123456789 not valid");
        let error = judge(Asked::Inference, 400, &echo);
        assert!(!format!("{error} {error:?}").contains("CANARY"));
    }
}
