//! One tolerant reader for the many shapes of error bodies (F-055).

use crate::{hints::go_duration, redact::redact};
use serde_json::Value;
use std::time::Duration;

/// The most bytes of an error body that are read; longer ones are not JSON errors.
const LONGEST_BODY: usize = 1024 * 1024;

/// The most characters kept of a code, a kind or a parameter.
const LONGEST_WORD: usize = 200;

/// How deep an error may be wrapped in lists, fields and JSON inside strings.
const DEEPEST: u8 = 6;

/// What an error body says. Every text is redacted and short; absent is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VendorError {
    /// What happened, in the vendor's words.
    pub message: Option<String>,
    /// The vendor's code, a number too.
    pub code: Option<String>,
    /// The vendor's `type`, or Google's `status` in words.
    pub kind: Option<String>,
    /// The parameter the vendor names.
    pub param: Option<String>,
    /// An HTTP status inside the body, as in a 200 that holds an error (F-050).
    pub status: Option<u16>,
    /// A reason more exact than the code, as in `google.rpc.ErrorInfo` or Anthropic's `details.error_code`.
    pub reason: Option<String>,
    /// Which quota is used up, as in `google.rpc.QuotaFailure`.
    pub quota: Option<String>,
    /// How long to wait, as in `google.rpc.RetryInfo`.
    pub retry_after: Option<Duration>,
}

impl VendorError {
    /// Reads the body of an answer with an error status. `None` where it is no JSON or says nothing.
    pub fn from_body(body: &[u8]) -> Option<Self> {
        Self::from_value(&parse(body)?)
    }

    /// Reads JSON that is an error as a whole.
    pub fn from_value(value: &Value) -> Option<Self> {
        read(value, DEEPEST)
    }

    /// Reads an `error` field that is not null out of an answer with a success status (F-050, F-054).
    pub fn in_success(body: &[u8]) -> Option<Self> {
        // Most answers are no errors and long: the tree is built only where the word occurs.
        memchr::memmem::find(body, b"\"error\"")?;
        match parse(body)? {
            Value::Object(fields) => fields
                .get("error")
                .and_then(|error| read(error, DEEPEST - 1)),
            _ => None,
        }
    }

    /// The message, or the code, or a placeholder.
    pub fn text(&self) -> &str {
        self.message
            .as_deref()
            .or(self.code.as_deref())
            .or(self.kind.as_deref())
            .unwrap_or("the provider gave no reason")
    }

    /// What `details` say: one object, or a list of them as in `google.rpc.Status`
    /// (<https://cloud.google.com/apis/design/errors>).
    fn take_details(&mut self, details: &Value) {
        let list = match details {
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        for detail in list.iter().take(16) {
            let text = |name: &str| detail.get(name).and_then(word);
            self.reason = self
                .reason
                .take()
                .or_else(|| text("reason").or_else(|| text("error_code")));
            self.retry_after = self
                .retry_after
                .or_else(|| go_duration(detail.get("retryDelay")?.as_str()?));
            self.quota = self.quota.take().or_else(|| {
                let violations = detail.get("violations")?.as_array()?;
                let ids = violations.iter().take(16).filter_map(|violation| {
                    word(violation.get("quotaId").or(violation.get("subject"))?)
                });
                let ids = ids.collect::<Vec<_>>().join(" ");
                (!ids.is_empty()).then(|| short(&ids))
            });
        }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn parse(body: &[u8]) -> Option<Value> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    // serde_json itself refuses what is nested deeper than 128 (F-059).
    if body.len() > LONGEST_BODY {
        None
    } else {
        serde_json::from_slice(body).ok()
    }
}

fn read(value: &Value, depth: u8) -> Option<VendorError> {
    let depth = depth.checked_sub(1)?;
    match value {
        Value::String(text) => of_text(text, depth),
        Value::Array(items) => items.iter().find_map(|item| read(item, depth)),
        Value::Object(fields) => {
            let inner = ["error", "errors", "detail", "err", "fault"]
                .into_iter()
                .filter_map(|name| fields.get(name))
                .map(listed)
                .find_map(|inner| read(inner, depth));
            let get = |names: &[&str]| {
                names
                    .iter()
                    .find_map(|name| fields.get(*name).filter(|value| !value.is_null()))
            };
            let mut own = VendorError {
                code: get(&["code", "error_code", "errorCode"]).and_then(word),
                kind: get(&["type", "error_type"])
                    .and_then(word)
                    .filter(|kind| kind != "error"),
                param: get(&["param"])
                    .and_then(word)
                    .or_else(|| get(&["loc"]).and_then(path)),
                status: ["status", "status_code", "statusCode", "code"]
                    .iter()
                    .find_map(|name| fields.get(*name).and_then(status)),
                ..VendorError::default()
            };
            if let Some(details) = fields.get("details") {
                own.take_details(details);
            }
            // What details say is more exact than a word further in.
            let detailed = own.reason.clone();
            // Beside a message it is a word, as in the `errors` of Google's older APIs; alone it is the message.
            if get(&["message"]).is_some() {
                own.reason = own.reason.or_else(|| {
                    let reason = get(&["reason"]).and_then(word)?;
                    (!reason.contains(char::is_whitespace)).then_some(reason)
                });
            }
            if let Some(words) = get(&["status"])
                .and_then(Value::as_str)
                .filter(|text| text.parse::<u16>().is_err())
            {
                own.kind.get_or_insert_with(|| short(words));
            }
            let message = get(&[
                "message",
                "msg",
                "error_description",
                "error_message",
                "title",
                "reason",
            ])
            .and_then(|value| match value {
                Value::String(text) => of_text(text, depth),
                other => read(other, depth),
            });
            // The innermost word is the most exact; what it lacks comes from around it.
            let merged = [inner, message]
                .into_iter()
                .flatten()
                .fold(VendorError::default(), merge);
            let mut merged = merge(merged, own);
            merged.reason = detailed.or(merged.reason);
            (!merged.is_empty()).then_some(merged)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// The list of errors that an object holds as `data`, as the `errors` of OpenAI's batches do and Azure's refusals; else
/// the value itself.
fn listed(value: &Value) -> &Value {
    match value.get("data") {
        Some(list @ Value::Array(_)) => list,
        _ => value,
    }
}

/// A message, or JSON that somebody put into one.
fn of_text(text: &str, depth: u8) -> Option<VendorError> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return None;
    }
    if trimmed.starts_with(['{', '['])
        && let Some(inner) = parse(trimmed.as_bytes()).and_then(|value| read(&value, depth))
    {
        return Some(inner);
    }
    Some(VendorError {
        message: Some(redact(trimmed)),
        ..VendorError::default()
    })
}

fn merge(inner: VendorError, outer: VendorError) -> VendorError {
    VendorError {
        message: inner.message.or(outer.message),
        code: inner.code.or(outer.code),
        kind: inner.kind.or(outer.kind),
        param: inner.param.or(outer.param),
        status: inner.status.or(outer.status),
        reason: inner.reason.or(outer.reason),
        quota: inner.quota.or(outer.quota),
        retry_after: inner.retry_after.or(outer.retry_after),
    }
}

fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(short(text)),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A location as FastAPI gives it: `["body", "messages", 0]`.
fn path(value: &Value) -> Option<String> {
    let parts = value
        .as_array()?
        .iter()
        .take(16)
        .filter_map(word)
        .collect::<Vec<_>>();
    (!parts.is_empty()).then(|| short(&parts.join(".")))
}

fn status(value: &Value) -> Option<u16> {
    let status = match value {
        Value::Number(number) => number
            .as_u64()
            .and_then(|number| u16::try_from(number).ok()),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    status.filter(|status| (400..600).contains(status))
}

fn short(text: &str) -> String {
    redact(text).chars().take(LONGEST_WORD).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `message | code | kind | param | status`, `-` where absent.
    fn told(error: Option<VendorError>) -> String {
        let Some(error) = error else {
            return "nothing".into();
        };
        let status = error.status.map(|status| status.to_string());
        [error.message, error.code, error.kind, error.param, status]
            .map(|part| part.unwrap_or_else(|| "-".into()))
            .join(" | ")
    }

    #[test]
    fn f_055_the_gallery_of_shapes() {
        let cases = [
            (
                r#"{"error":{"message":"slow down","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#,
                "slow down | rate_limit_exceeded | tokens | - | -",
            ),
            (
                r#"{"error":{"message":"too long","type":"invalid_request_error","param":"messages","code":null}}"#,
                "too long | - | invalid_request_error | messages | -",
            ),
            (r#"{"error":"text"}"#, "text | - | - | - | -"),
            (
                r#"{"error":"text","code":17,"message":"more"}"#,
                "text | 17 | - | - | -",
            ),
            (
                r#"{"detail":"Input file not found"}"#,
                "Input file not found | - | - | - | -",
            ),
            (
                r#"{"detail":[{"loc":["body","messages",0],"msg":"field required","type":"value_error.missing"}]}"#,
                "field required | - | value_error.missing | body.messages.0 | -",
            ),
            (
                r#"{"message":"No such model","type":"NotFoundError","code":404}"#,
                "No such model | 404 | NotFoundError | - | 404",
            ),
            (
                r#"{"errors":[{"message":"first"},{"message":"second"}]}"#,
                "first | - | - | - | -",
            ),
            (
                r#"{"errors":{"object":"list","data":[{"code":"empty_file","message":"no lines","line":null}]}}"#,
                "no lines | empty_file | - | - | -",
            ),
            (
                r#"{"error":{"message":"m","data":"not a list"}}"#,
                "m | - | - | - | -",
            ),
            (
                r#"{"object":"error","message":"m","code":40303}"#,
                "m | 40303 | - | - | -",
            ),
            (
                r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
                "Overloaded | - | overloaded_error | - | -",
            ),
            (
                r#"[{"error":{"code":429,"message":"Quota","status":"RESOURCE_EXHAUSTED"}}]"#,
                "Quota | 429 | RESOURCE_EXHAUSTED | - | 429",
            ),
            (
                r#"{"error":{"message":"Provider returned error","code":502,"metadata":{"raw":"x"}}}"#,
                "Provider returned error | 502 | - | - | 502",
            ),
            (
                r#"{"error":{"message":"{\"error\":{\"message\":\"inner\",\"code\":\"c\"}}","code":"outer"}}"#,
                "inner | c | - | - | -",
            ),
            (
                r#"{"status":"error","error_description":"expired","error":null}"#,
                "expired | - | error | - | -",
            ),
            (
                r#"{"error":{"code":"model_not_found"}}"#,
                "- | model_not_found | - | - | -",
            ),
            (
                r#"{"error":{"message":"bad key sk-canary12345"}}"#,
                "bad key [redacted] | - | - | - | -",
            ),
            ("\u{feff}{\"error\":\"bom\"}", "bom | - | - | - | -"),
            (r#"{"error":{}}"#, "nothing"),
            (r#"{"error":null}"#, "nothing"),
            ("null", "nothing"),
            ("[]", "nothing"),
            ("{}", "nothing"),
            ("", "nothing"),
            ("<html>", "nothing"),
            (r#"{"error":true}"#, "nothing"),
        ];
        for (body, expected) in cases {
            assert_eq!(
                told(VendorError::from_body(body.as_bytes())),
                expected,
                "{body}"
            );
        }
    }

    #[test]
    fn f_013_details_name_reason_quota_and_wait() {
        let google = VendorError::from_body(
            br#"[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"Quota","details":[
                {"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProject"}]},
                {"@type":"type.googleapis.com/google.rpc.Help","links":[]},
                {"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"37.5s"},
                {"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}]"#,
        )
        .unwrap();
        assert_eq!(google.retry_after, Some(Duration::from_millis(37_500)));
        assert_eq!(
            google.quota.as_deref(),
            Some("GenerateRequestsPerDayPerProject")
        );
        assert_eq!(google.reason.as_deref(), Some("API_KEY_INVALID"));
        assert_eq!(google.message.as_deref(), Some("Quota"));
        let storage = VendorError::from_body(
            br#"{"error":{"code":403,"message":"m","errors":[{"message":"m","domain":"usageLimits","reason":"rateLimitExceeded"}]}}"#,
        )
        .unwrap();
        assert_eq!(storage.reason.as_deref(), Some("rateLimitExceeded"));
        let both = VendorError::from_body(
            br#"{"error":{"message":"m","errors":[{"message":"m","reason":"forbidden"}],"details":[{"reason":"BILLING_DISABLED"}]}}"#,
        )
        .unwrap();
        assert_eq!(both.reason.as_deref(), Some("BILLING_DISABLED"));
        let sentence = VendorError::from_body(br#"{"reason":"it is too much"}"#).unwrap();
        assert_eq!(sentence.message.as_deref(), Some("it is too much"));
        assert_eq!(sentence.reason, None);
        let anthropic = VendorError::from_body(
            br#"{"type":"error","error":{"type":"rate_limit_error","message":"m","details":{"error_code":"enforced_spend_limit_reached"}},"request_id":"req_1"}"#,
        )
        .unwrap();
        assert_eq!(
            anthropic.reason.as_deref(),
            Some("enforced_spend_limit_reached")
        );
        assert_eq!(anthropic.kind.as_deref(), Some("rate_limit_error"));
    }

    #[test]
    fn f_050_f_054_a_success_with_an_error_is_found_and_a_null_is_none() {
        let found = VendorError::in_success(
            br#"{"error":{"message":"Provider returned error","code":429}}"#,
        );
        assert_eq!(found.unwrap().status, Some(429));
        for body in [
            &br#"{"error":null,"choices":[]}"#[..],
            br#"{"message":"hello","type":"message"}"#,
            br#"{"choices":[{"message":{"content":"an \"error\": in the text"}}]}"#,
            br#"[{"error":"x"}]"#,
            b"",
        ] {
            assert_eq!(VendorError::in_success(body), None);
        }
    }

    #[test]
    fn f_059_depth_and_length_are_bounded() {
        let deep = [r#"{"error":"#.repeat(5000), "1".into(), "}".repeat(5000)].concat();
        assert_eq!(VendorError::from_body(deep.as_bytes()), None);
        let deep = [r#"{"error":"#.repeat(100), r#""x""#.into(), "}".repeat(100)].concat();
        assert_eq!(VendorError::from_body(deep.as_bytes()), None);
        let long = format!(
            r#"{{"error":{{"message":"{0}","code":"{0}"}}}}"#,
            "long ".repeat(10_000)
        );
        let error = VendorError::from_body(long.as_bytes()).unwrap();
        assert!(error.message.unwrap().chars().count() <= 500);
        assert!(error.code.unwrap().chars().count() <= LONGEST_WORD);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,20}|\\{\"error\":[0-9]\\}|[45][0-9]{2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 6, |inner| {
            let name = prop_oneof![
                Just("error"),
                Just("errors"),
                Just("detail"),
                Just("message"),
                Just("msg"),
                Just("code"),
                Just("type"),
                Just("status"),
                Just("param"),
                Just("loc"),
                Just("x")
            ]
            .prop_map(String::from);
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((name, inner), 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn f_055_any_json_is_survived(value in any_json()) {
            let body = value.to_string();
            VendorError::in_success(body.as_bytes());
            if let Some(error) = VendorError::from_body(body.as_bytes()) {
                prop_assert!(!error.is_empty());
                prop_assert!(error.text().chars().count() <= 500);
                prop_assert!(error.status.is_none_or(|status| (400..600).contains(&status)));
            }
        }

        #[test]
        fn f_055_any_bytes_are_survived(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            VendorError::from_body(&body);
            VendorError::in_success(&body);
        }
    }
}
