//! From a vendor's error answer to core's error: the shared rule, over a table of the vendor's.
//!
//! Order: the transport's phase is settled before anything gets here; then the server's own instruction, the reason,
//! code or type in the body, the status. Sentences are not read, but for the beginnings a table names.

use crate::{
    HintNames, OPENAI_HINTS, Reply, RetryHints, Secret, VendorError,
    redact::{error_text, redact_with},
    wire::some_object,
};
use ErrorKind::{
    ConfigInvalid, Conflict, InvalidRequest, NotFound, Overloaded, PermissionDenied, ProviderFault,
    QuotaExceeded, RateLimited, Timeout, Unauthenticated,
};
use RetryClass::{Ambiguous, JobStop, Rejected, RowFatal};
use batchwright_core::{Error, ErrorKind, Result, RetryClass};
use serde::Deserialize;
use serde_json::value::RawValue;

/// What was asked, since a status means different things to different calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "whoever reads an answer must know which of the three it asked for"
)]
pub enum Asked {
    /// An answer, by a direct call or as a row of a batch.
    Inference,
    /// A file or batch to be stored, created, read, listed or deleted.
    Object,
    /// A batch to be cancelled.
    Cancel,
}

/// A reason, code or type, and what it means whatever the status is.
pub type CodeRow = (&'static str, ErrorKind, RetryClass);

/// A status, and what it means where no code settles the matter.
pub type StatusRow = (u16, ErrorKind, RetryClass);

/// How one vendor's error answers are read, as data: a const of its crate. What it does not name is read by the
/// rule all vendors share.
///
/// ```
/// use batchwright_core::{ErrorKind, RetryClass};
/// use batchwright_http::{Asked, ErrorTable};
///
/// const ERRORS: ErrorTable = ErrorTable::new(&[
///     ("overloaded_error", ErrorKind::Overloaded, RetryClass::Rejected),
/// ]);
/// let error = ERRORS.of_row(529, br#"{"error":{"type":"overloaded_error","message":"busy"}}"#);
/// assert_eq!((error.kind(), error.message()), (ErrorKind::Overloaded, "busy"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ErrorTable {
    own_codes: &'static [CodeRow],
    codes: &'static [CodeRow],
    statuses: &'static [StatusRow],
    money: &'static [&'static str],
    too_large: &'static [&'static str],
    vague: &'static [&'static str],
    hints: &'static HintNames,
}

impl ErrorTable {
    /// A table of these reasons, codes and types, with OpenAI's header names.
    pub const fn new(codes: &'static [CodeRow]) -> Self {
        Self {
            own_codes: &[],
            codes,
            statuses: &[],
            money: &[],
            too_large: &[],
            vague: &[],
            hints: &OPENAI_HINTS,
        }
    }

    /// Puts codes before those it has, for a dialect.
    #[must_use]
    pub const fn with_own_codes(mut self, codes: &'static [CodeRow]) -> Self {
        self.own_codes = codes;
        self
    }

    /// Sets what statuses mean that are not as everywhere.
    #[must_use]
    pub const fn with_statuses(mut self, statuses: &'static [StatusRow]) -> Self {
        self.statuses = statuses;
        self
    }

    /// Sets which parts of a 429's code or type mean money, for codes newer than the table.
    #[must_use]
    pub const fn with_money(mut self, parts: &'static [&'static str]) -> Self {
        self.money = parts;
        self
    }

    /// Sets the beginnings of messages that tell a request above the limit, which never fits, from a limit that
    /// is used up (F-002).
    #[must_use]
    pub const fn with_too_large(mut self, beginnings: &'static [&'static str]) -> Self {
        self.too_large = beginnings;
        self
    }

    /// Sets words that mean something as a code and nothing as a type.
    #[must_use]
    pub const fn with_vague_types(mut self, types: &'static [&'static str]) -> Self {
        self.vague = types;
        self
    }

    /// Sets the vendor's header names.
    #[must_use]
    pub const fn with_hints(mut self, names: &'static HintNames) -> Self {
        self.hints = names;
        self
    }

    /// The vendor's header names.
    pub const fn hints(&self) -> &'static HintNames {
        self.hints
    }

    /// The error of a reply that is no success. `secrets` are removed from whatever the server echoes (F-203).
    pub fn of_reply(&self, asked: Asked, reply: &Reply, secrets: &[&Secret]) -> Error {
        let hints = self.hints.read(&reply.headers);
        let said = said(&reply.body, reply.content_type(), secrets);
        self.of_said(asked, Some(reply.status), said, hints)
    }

    /// The error a row of a batch ended in: the same rule, without headers.
    pub fn of_row(&self, status: u16, body: &[u8]) -> Error {
        let said = said(body, None, &[]);
        self.of_said(Asked::Inference, Some(status), said, RetryHints::default())
    }

    /// The error inside a body that came with a success, as its JSON text (F-050); `None` where it says that there
    /// is none (F-054). A number as its code is the status that was meant.
    pub fn within(&self, error: &str, secrets: &[&Secret]) -> Option<Error> {
        if matches!(error.trim(), "" | "null" | "false" | "{}" | "\"\"" | "[]") {
            return None;
        }
        let said = said(error.as_bytes(), None, secrets);
        let status = said.status;
        Some(self.judged(Asked::Inference, status, said, None))
    }

    /// The error of what a vendor said, once its own shape has been read. `status` is HTTP's, or `None` inside a
    /// success.
    pub fn of_said(
        &self,
        asked: Asked,
        status: Option<u16>,
        said: VendorError,
        mut hints: RetryHints,
    ) -> Error {
        hints.retry_after = hints.retry_after.max(said.retry_after);
        let error = self.judged(asked, status, said, hints.should_retry);
        let error = match status {
            Some(status) => error.with_status(status),
            None => error,
        };
        hints.apply(error)
    }

    /// The object a successful answer holds.
    ///
    /// # Errors
    /// [`ErrorTable::of_reply`] where it is no success, the error within where it holds one, `ProviderFault` of
    /// class `Ambiguous` where it is something else.
    pub fn object<'a, T: Deserialize<'a>>(
        &self,
        reply: &'a Reply,
        secrets: &[&Secret],
    ) -> Result<T> {
        if !reply.is_success() {
            return Err(self.of_reply(Asked::Object, reply, secrets));
        }
        let odd = || {
            hollow("read the answer: it is not the object that was asked for")
                .with_status(reply.status)
        };
        let body = some_object(&reply.body).ok_or_else(odd)?;
        let within = serde_json::from_str::<Envelope<'_>>(body)
            .ok()
            .and_then(|envelope| self.within(envelope.error?.get(), secrets));
        if let Some(error) = within {
            return Err(error.with_status(reply.status));
        }
        serde_json::from_str(body).map_err(|_| odd())
    }

    /// The batch a successful answer holds, whose own `error` is how it ended and none of the call. It is the call's
    /// only where `is_batch` finds that the object is none.
    ///
    /// # Errors
    /// As [`ErrorTable::object`].
    pub fn polled<'a, T: Deserialize<'a>>(
        &self,
        reply: &'a Reply,
        secrets: &[&Secret],
        is_batch: impl FnOnce(&T) -> bool,
    ) -> Result<T> {
        let batch = some_object(&reply.body)
            .filter(|_| reply.is_success())
            .and_then(|body| serde_json::from_str(body).ok())
            .filter(is_batch);
        match batch {
            Some(batch) => Ok(batch),
            None => self.object(reply, secrets),
        }
    }

    /// The kind of a failed batch's code where it says that nobody is served, whatever the rows are (F-027).
    pub fn account_fault(&self, code: &str) -> Option<ErrorKind> {
        self.find(code)
            .filter(|(_, class)| *class == JobStop)
            .map(|(kind, _)| kind)
            .or_else(|| self.is_money(code).then_some(QuotaExceeded))
    }

    fn judged(
        &self,
        asked: Asked,
        status: Option<u16>,
        said: VendorError,
        should_retry: Option<bool>,
    ) -> Error {
        let (kind, class) = self.verdict(asked, status, &said, should_retry);
        let mut error = Error::new(kind, said.text()).with_class(class);
        // A code that repeats the status says less than the type.
        let numeric = |code: &String| code.bytes().all(|byte| byte.is_ascii_digit());
        let code = match said.code {
            Some(code) if numeric(&code) => said.reason.or(said.kind).or(Some(code)),
            code => said.reason.or(code).or(said.kind),
        };
        if let Some(code) = code {
            error = error.with_code(code);
        }
        if let Some(param) = said.param {
            error = error.with_param(param);
        }
        error
    }

    fn verdict(
        &self,
        asked: Asked,
        status: Option<u16>,
        said: &VendorError,
        should_retry: Option<bool>,
    ) -> (ErrorKind, RetryClass) {
        let (kind, class) = match self.by_code(said) {
            // A code that says the limit of a minute, for a request above it, never fits (F-002).
            Some((RateLimited, _)) if self.is_too_large(said) => (InvalidRequest, RowFatal),
            Some(known) => known,
            None => self.by_status(asked, status, said, should_retry),
        };
        // The server's own instruction makes a final row worth another try; it never lifts a stop, and a
        // cancel of what has ended is not to be repeated (F-017).
        if class == RowFatal && should_retry == Some(true) && asked != Asked::Cancel {
            return (kind, Rejected);
        }
        (kind, class)
    }

    fn by_code(&self, said: &VendorError) -> Option<(ErrorKind, RetryClass)> {
        let kind = said
            .kind
            .as_deref()
            .filter(|kind| !self.vague.contains(kind));
        [said.reason.as_deref(), said.code.as_deref(), kind]
            .into_iter()
            .flatten()
            .find_map(|word| self.find(word))
    }

    fn find(&self, word: &str) -> Option<(ErrorKind, RetryClass)> {
        self.own_codes
            .iter()
            .chain(self.codes)
            .find(|(known, ..)| *known == word)
            .map(|&(_, kind, class)| (kind, class))
    }

    fn is_money(&self, word: &str) -> bool {
        self.money.iter().any(|part| word.contains(part))
    }

    fn is_too_large(&self, said: &VendorError) -> bool {
        said.message.as_deref().is_some_and(|message| {
            self.too_large
                .iter()
                .any(|beginning| message.starts_with(beginning))
        })
    }

    fn by_status(
        &self,
        asked: Asked,
        status: Option<u16>,
        said: &VendorError,
        should_retry: Option<bool>,
    ) -> (ErrorKind, RetryClass) {
        if let Some(&(_, kind, class)) = self
            .statuses
            .iter()
            .find(|(known, ..)| Some(*known) == status)
        {
            return (kind, class);
        }
        match status {
            Some(429) => {
                let money = [&said.reason, &said.code, &said.kind]
                    .into_iter()
                    .flatten()
                    .any(|word| self.is_money(word));
                match () {
                    () if money || should_retry == Some(false) => (QuotaExceeded, JobStop),
                    () if self.is_too_large(said) => (InvalidRequest, RowFatal),
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
}

/// A success without an answer in it: it may have been paid (F-051).
pub fn hollow(message: &'static str) -> Error {
    Error::new(ProviderFault, message)
}

/// The error alone, for an answer whose other fields cannot be read.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default, borrow)]
    error: Option<&'a RawValue>,
}

/// What a body says, or its first words where it is none of an error's forms, such as a gateway's HTML.
fn said(body: &[u8], content_type: Option<&str>, secrets: &[&Secret]) -> VendorError {
    let mut said = VendorError::from_body(body).unwrap_or_else(|| VendorError {
        message: Some(error_text(body, content_type)).filter(|text| !text.is_empty()),
        ..VendorError::default()
    });
    for text in [
        &mut said.message,
        &mut said.code,
        &mut said.kind,
        &mut said.param,
        &mut said.reason,
        &mut said.quota,
    ] {
        *text = text.take().map(|text| redact_with(&text, secrets));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HeaderMap, HeaderName, HeaderValue};

    const TABLE: ErrorTable = ErrorTable::new(&[
        ("API_KEY_INVALID", Unauthenticated, JobStop),
        ("RESOURCE_EXHAUSTED", RateLimited, Rejected),
        ("shared", InvalidRequest, RowFatal),
    ])
    .with_own_codes(&[("shared", Overloaded, Rejected)])
    .with_statuses(&[(498, Overloaded, Rejected)])
    .with_money(&["spend"]);

    fn reply(status: u16, headers: &[(&'static str, &str)], body: &str) -> Reply {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_str(value).unwrap())
            })
            .collect();
        Reply::new(status, headers, body.to_owned())
    }

    fn judge(status: u16, body: &str) -> Error {
        TABLE.of_reply(Asked::Inference, &reply(status, &[], body), &[])
    }

    #[test]
    fn f_005_f_013_the_most_exact_word_decides_and_the_bodys_wait_counts() {
        let error = judge(
            400,
            r#"{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"m","details":[{"reason":"API_KEY_INVALID"}]}}"#,
        );
        assert_eq!((error.kind(), error.class()), (Unauthenticated, JobStop));
        assert_eq!(error.code(), Some("API_KEY_INVALID"));
        let error = judge(
            429,
            r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"m","details":[{"retryDelay":"37s"}]}}"#,
        );
        assert_eq!((error.kind(), error.class()), (RateLimited, Rejected));
        assert_eq!(error.code(), Some("RESOURCE_EXHAUSTED"));
        assert_eq!(
            error.retry_after(),
            Some(std::time::Duration::from_secs(37))
        );
        let error = judge(429, r#"{"error":{"code":"team_spend","message":"m"}}"#);
        assert!(error.is_job_stop());
    }

    #[test]
    fn a_dialect_overrides_codes_and_statuses() {
        let error = judge(400, r#"{"error":{"code":"shared","message":"m"}}"#);
        assert_eq!(error.kind(), Overloaded);
        assert_eq!(judge(498, "").kind(), Overloaded);
        assert_eq!(judge(497, "").kind(), InvalidRequest);
        assert_eq!(TABLE.account_fault("x_spend_y"), Some(QuotaExceeded));
        assert_eq!(
            TABLE.account_fault("API_KEY_INVALID"),
            Some(Unauthenticated)
        );
        assert_eq!(TABLE.account_fault("shared"), None);
    }

    #[test]
    fn f_050_f_051_an_object_is_one_or_an_error() {
        #[derive(Debug, Deserialize)]
        struct Named<'a> {
            name: &'a str,
        }
        let read = |status, body: &str| -> Result<String> {
            let reply = reply(status, &[], body);
            let named: Named<'_> = TABLE.object(&reply, &[])?;
            Ok(named.name.to_owned())
        };
        assert_eq!(read(200, r#" {"name":"a","error":null}"#).unwrap(), "a");
        for (status, body, kind) in [
            (404, "{}", NotFound),
            (
                200,
                r#"{"error":{"code":"API_KEY_INVALID"}}"#,
                Unauthenticated,
            ),
            (200, r#"{"id":"a"}"#, ProviderFault),
            (200, r#"["a"]"#, ProviderFault),
            (200, "<html>", ProviderFault),
            (200, "", ProviderFault),
        ] {
            assert_eq!(read(status, body).unwrap_err().kind(), kind, "{body}");
        }
    }

    #[test]
    fn f_203_every_echoed_secret_is_removed() {
        let secrets = [
            Secret::new("CANARY-ONE-1".into()),
            Secret::new("CANARY-TWO-2".into()),
        ];
        let body = r#"{"error":{"message":"m CANARY-ONE-1","code":"c CANARY-TWO-2","details":[{"reason":"r CANARY-ONE-1"}]}}"#;
        let error = TABLE.of_reply(
            Asked::Object,
            &reply(401, &[], body),
            &[&secrets[0], &secrets[1]],
        );
        assert!(
            !format!("{error} {error:?}").contains("CANARY"),
            "{error:?}"
        );
    }

    #[test]
    fn f_050_f_079_a_batchs_own_error_is_none_of_the_call() {
        #[derive(Debug, Deserialize)]
        struct Batch {
            state: Option<String>,
        }
        let polled = |status, body: &str| {
            let reply = reply(status, &[], body);
            TABLE.polled(&reply, &[], |batch: &Batch| batch.state.is_some())
        };
        let ended = polled(
            200,
            r#"{"state":"FAILED","error":{"code":8,"message":"m"}}"#,
        );
        assert_eq!(ended.unwrap().state.as_deref(), Some("FAILED"));
        let within = polled(
            200,
            r#"{"error":{"code":"RESOURCE_EXHAUSTED","message":"m"}}"#,
        );
        assert_eq!(within.unwrap_err().kind(), RateLimited);
        let refused = polled(404, r#"{"state":"x","error":{"message":"m"}}"#);
        assert_eq!(refused.unwrap_err().kind(), NotFound);
        // Without either it is for the caller to say what it lacks.
        assert_eq!(polled(200, "{}").unwrap().state, None);
        assert!(polled(200, "[]").is_err());
    }
}
