//! One error for the whole workspace: who must act, and what may follow.

use crate::Usage;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, sync::Arc, time::Duration};

/// The result of anything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who must act. The kind tells a reader what went wrong; what may follow is [`RetryClass`]'s to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller: the request is wrong as written. Not retried.
    InvalidRequest,
    /// The caller: this provider, model or endpoint cannot do what was asked. Not retried.
    Unsupported,
    /// The caller: a setting is missing or wrong, found before anything was sent. Not retried.
    ConfigInvalid,
    /// The account: the key is missing, wrong, revoked or expired. Not retried.
    Unauthenticated,
    /// The account: the key may not use this model, file, project or region. Not retried.
    PermissionDenied,
    /// The account: no money, or a spend cap is reached. Not retried.
    QuotaExceeded,
    /// The provider has no such model, file or batch under this key. Retried only where the caller
    /// has just created the object (F-086).
    NotFound,
    /// The object is in another state than the call needs, such as cancelling what has ended. The
    /// caller reads the state again.
    Conflict,
    /// The provider asks for slower sending. Retried after the stated delay.
    RateLimited,
    /// The provider has no capacity just now. Retried with backoff.
    Overloaded,
    /// The provider failed, or answered what cannot be read. Retried within the paid-attempt bound.
    ProviderFault,
    /// No connection was made: DNS, TCP, TLS or a proxy. Retried.
    Connect,
    /// No answer in time, or the connection broke after sending. Retried within the paid-attempt bound.
    Timeout,
    /// The content: the prompt does not fit the model. Not retried.
    ContextTooLong,
    /// The content: a policy stopped it. Not retried.
    ContentFiltered,
    /// The content: the model answered, and the answer is not what was asked for: no JSON, against the schema, or
    /// refused by a check of the caller's. It was paid; retried within a bound of its own
    /// ([`RetryPolicy::max_invalid_retries`](crate::RetryPolicy)).
    InvalidOutput,
    /// The caller stopped it. Not retried.
    Cancelled,
    /// The local disk, file system or lock. Not retried; sending stops.
    Storage,
    /// A decision only a person may take, since money may be spent twice. Not retried.
    NeedsDecision,
    /// A fault of this program. Not retried; please report it.
    Unexpected,
}

impl ErrorKind {
    /// The kind's stable name, `snake_case`, as written to result files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Unsupported => "unsupported",
            Self::ConfigInvalid => "config_invalid",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission_denied",
            Self::QuotaExceeded => "quota_exceeded",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::ProviderFault => "provider_fault",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::ContextTooLong => "context_too_long",
            Self::ContentFiltered => "content_filtered",
            Self::InvalidOutput => "invalid_output",
            Self::Cancelled => "cancelled",
            Self::Storage => "storage",
            Self::NeedsDecision => "needs_decision",
            Self::Unexpected => "unexpected",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ErrorKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        serde_json::from_value(serde_json::Value::from(text))
            .map_err(|_| Error::new(ErrorKind::Unexpected, "unknown error kind"))
    }
}

/// What may follow a failed attempt. Set once, where the provider's answer is read, in this order:
/// transport phase, the server's own instruction, the code in the body, the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    clippy::exhaustive_enums,
    reason = "whoever decides about money must handle every class"
)]
pub enum RetryClass {
    /// No byte of the request can have reached the provider: retry freely, within
    /// `PoolOptions::item_deadline`.
    NotSent,
    /// The provider says it did no work: retry after the stated delay; costs no money.
    Rejected,
    /// The work may have been done and billed: realtime may try again within its bound, a batch
    /// create is never sent again before reconciliation.
    Ambiguous,
    /// This request can never succeed as written: record it and go on.
    RowFatal,
    /// The account, key, model or endpoint serves nobody now: stop sending, keep everything.
    JobStop,
}

impl RetryClass {
    /// The class's stable name, `snake_case`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "not_sent",
            Self::Rejected => "rejected",
            Self::Ambiguous => "ambiguous",
            Self::RowFatal => "row_fatal",
            Self::JobStop => "job_stop",
        }
    }
}

/// Rate-limit facts a provider sent with an answer, for a limiter that learns. Absent is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimit {
    /// Requests allowed in a window.
    pub limit_requests: Option<u64>,
    /// Requests left in this window.
    pub remaining_requests: Option<u64>,
    /// Until the request bucket is full again, which is not until one more request fits.
    pub reset_requests: Option<Duration>,
    /// Tokens allowed in a window.
    pub limit_tokens: Option<u64>,
    /// Tokens left in this window.
    pub remaining_tokens: Option<u64>,
    /// Until the token bucket is full again.
    pub reset_tokens: Option<Duration>,
}

/// What went wrong, who must act and what may follow.
///
/// One pointer wide and cheap to clone. It never holds a key, a prompt, an answer or a full URL; those
/// who build one pass vendor messages through the redaction of `batchwright-http` first.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    class: RetryClass,
    message: String,
    provider: Option<Arc<str>>,
    model: Option<Arc<str>>,
    status: Option<u16>,
    code: Option<String>,
    param: Option<String>,
    request_id: Option<String>,
    retry_after: Option<Duration>,
    should_retry: Option<bool>,
    rate_limit: Option<RateLimit>,
    usage: Option<Usage>,
    attempts: u32,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with the class that kind usually has. Where a provider's answer was read, the
    /// class is a fact of that answer: set it with [`Error::with_class`].
    ///
    /// `message` is a lowercase fragment without a full stop that reads after "failed to".
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let class = match kind {
            ErrorKind::Connect => RetryClass::NotSent,
            ErrorKind::RateLimited | ErrorKind::Overloaded => RetryClass::Rejected,
            ErrorKind::ProviderFault | ErrorKind::Timeout => RetryClass::Ambiguous,
            ErrorKind::InvalidRequest
            | ErrorKind::Unsupported
            | ErrorKind::ContextTooLong
            | ErrorKind::ContentFiltered
            | ErrorKind::InvalidOutput
            | ErrorKind::NotFound
            | ErrorKind::Conflict => RetryClass::RowFatal,
            ErrorKind::ConfigInvalid
            | ErrorKind::Unauthenticated
            | ErrorKind::PermissionDenied
            | ErrorKind::QuotaExceeded
            | ErrorKind::Cancelled
            | ErrorKind::Storage
            | ErrorKind::NeedsDecision
            | ErrorKind::Unexpected => RetryClass::JobStop,
        };
        Self(Box::new(Inner {
            kind,
            class,
            message: message.into(),
            provider: None,
            model: None,
            status: None,
            code: None,
            param: None,
            request_id: None,
            retry_after: None,
            should_retry: None,
            rate_limit: None,
            usage: None,
            attempts: 0,
            source: None,
        }))
    }

    /// Sets what may follow.
    #[must_use]
    pub fn with_class(mut self, class: RetryClass) -> Self {
        self.0.class = class;
        self
    }

    /// Names the provider.
    #[must_use]
    pub fn with_provider(mut self, provider: impl Into<Arc<str>>) -> Self {
        self.0.provider = Some(provider.into());
        self
    }

    /// Names the model.
    #[must_use]
    pub fn with_model(mut self, model: impl Into<Arc<str>>) -> Self {
        self.0.model = Some(model.into());
        self
    }

    /// The HTTP status, also of a row inside a batch.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.0.status = Some(status);
        self
    }

    /// The vendor's code, verbatim.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.0.code = Some(code.into());
        self
    }

    /// The parameter the vendor names as the cause.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.0.param = Some(param.into());
        self
    }

    /// The vendor's id of the request, for its support.
    #[must_use]
    pub fn with_request_id(mut self, request_id: impl Into<String>) -> Self {
        self.0.request_id = Some(request_id.into());
        self
    }

    /// The delay the provider asked for.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// The provider's explicit instruction whether to retry (`x-should-retry`).
    #[must_use]
    pub fn with_should_retry(mut self, should_retry: bool) -> Self {
        self.0.should_retry = Some(should_retry);
        self
    }

    /// The rate-limit headers that came with the answer.
    #[must_use]
    pub fn with_rate_limit(mut self, rate_limit: RateLimit) -> Self {
        self.0.rate_limit = Some(rate_limit);
        self
    }

    /// The tokens the failed attempt cost.
    #[must_use]
    pub fn with_usage(mut self, usage: Usage) -> Self {
        self.0.usage = Some(usage);
        self
    }

    /// How many attempts had been made when this error became final.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.0.attempts = attempts;
        self
    }

    /// The cause.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// Puts what was being done before the message: `context: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// Who must act.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What may follow.
    pub fn class(&self) -> RetryClass {
        self.0.class
    }

    /// The message alone, without provider, status and codes.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The provider, if known.
    pub fn provider(&self) -> Option<&str> {
        self.0.provider.as_deref()
    }

    /// The model, if known.
    pub fn model(&self) -> Option<&str> {
        self.0.model.as_deref()
    }

    /// The HTTP status, if there was an answer.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// The vendor's code, if it gave one.
    pub fn code(&self) -> Option<&str> {
        self.0.code.as_deref()
    }

    /// The parameter the vendor names, if it does.
    pub fn param(&self) -> Option<&str> {
        self.0.param.as_deref()
    }

    /// The vendor's id of the request, if it gave one.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// The delay the provider asked for, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The provider's explicit instruction, if it gave one. `false` ends retrying; `true` overrides
    /// neither `JobStop` nor the rule that a create is never resent (F-017).
    pub fn should_retry(&self) -> Option<bool> {
        self.0.should_retry
    }

    /// The rate-limit headers, if there were any.
    pub fn rate_limit(&self) -> Option<&RateLimit> {
        self.0.rate_limit.as_ref()
    }

    /// The tokens the failed attempt cost, if the provider said.
    pub fn usage(&self) -> Option<&Usage> {
        self.0.usage.as_ref()
    }

    /// Attempts made when the error became final; 0 where nobody counted.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// Whether another attempt may be made at all, money and time permitting.
    pub fn is_retryable(&self) -> bool {
        self.0.should_retry != Some(false)
            && matches!(
                self.0.class,
                RetryClass::NotSent | RetryClass::Rejected | RetryClass::Ambiguous
            )
    }

    /// Whether the work may have been done and billed although no answer can be used.
    pub fn is_ambiguous(&self) -> bool {
        self.0.class == RetryClass::Ambiguous
    }

    /// Whether nobody can be served until a person acts.
    pub fn is_job_stop(&self) -> bool {
        self.0.class == RetryClass::JobStop
    }

    /// Whether the provider asked for slower sending.
    pub fn is_rate_limited(&self) -> bool {
        self.0.kind == ErrorKind::RateLimited
    }

    /// Whether time ran out.
    pub fn is_timeout(&self) -> bool {
        self.0.kind == ErrorKind::Timeout
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        let mut separator = " (";
        let mut note = |f: &mut fmt::Formatter<'_>, text: fmt::Arguments<'_>| {
            f.write_str(separator)?;
            separator = ", ";
            f.write_fmt(text)
        };
        if let Some(provider) = self.provider() {
            note(f, format_args!("{provider}"))?;
        }
        if let Some(status) = self.status() {
            note(f, format_args!("HTTP {status}"))?;
        }
        if let Some(code) = self.code() {
            note(f, format_args!("code {code}"))?;
        }
        if let Some(id) = self.request_id() {
            note(f, format_args!("request {id}"))?;
        }
        if separator == ", " {
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("class", &self.0.class)
            .field("message", &self.0.message)
            .field("provider", &self.0.provider)
            .field("model", &self.0.model)
            .field("status", &self.0.status)
            .field("code", &self.0.code)
            .field("request_id", &self.0.request_id)
            .field("retry_after", &self.0.retry_after)
            .field("attempts", &self.0.attempts)
            .field("source", &self.0.source)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_one_pointer_wide_and_crosses_threads() {
        fn crosses<T: Send + Sync + 'static>() {}
        crosses::<Error>();
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }

    #[test]
    fn display_reads_after_failed_to() {
        let error = Error::new(ErrorKind::RateLimited, "send the request: slow down")
            .with_provider("openai")
            .with_status(429)
            .with_code("rate_limit_exceeded");
        assert_eq!(
            error.to_string(),
            "send the request: slow down (openai, HTTP 429, code rate_limit_exceeded)"
        );
        assert_eq!(
            Error::new(ErrorKind::Connect, "connect").to_string(),
            "connect"
        );
    }

    #[test]
    fn every_kind_reads_back_from_its_name() {
        for kind in [
            ErrorKind::InvalidRequest,
            ErrorKind::NeedsDecision,
            ErrorKind::ContextTooLong,
            ErrorKind::Storage,
        ] {
            assert_eq!(kind.as_str().parse::<ErrorKind>().unwrap(), kind);
        }
        assert!("other".parse::<ErrorKind>().is_err());
    }

    #[test]
    fn f_017_an_instruction_ends_retrying_but_never_overrides_a_stop() {
        let fault = Error::new(ErrorKind::ProviderFault, "x");
        assert!(fault.is_retryable());
        assert!(!fault.with_should_retry(false).is_retryable());
        assert!(
            !Error::new(ErrorKind::QuotaExceeded, "x")
                .with_should_retry(true)
                .is_retryable()
        );
    }
}
