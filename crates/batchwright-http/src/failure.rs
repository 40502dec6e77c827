//! What a failed exchange means: who must act, and whether the provider may have acted.

use crate::{Reply, redact::redact};
use batchwright_core::{Error, ErrorKind, RetryClass};
use reqwest::{
    Url,
    header::{HeaderMap, LOCATION},
};
use std::{error::Error as StdError, io, time::Duration};

/// Any error of a layer below.
pub(crate) type Cause = Box<dyn StdError + Send + Sync>;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Broken {
    Fault(Fault),
    /// It did not come within this time.
    Waited(Duration),
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What failed before the answer's headers, and how far the request had got.
#[derive(Debug)]
pub(crate) struct Fault {
    stage: Stage,
    cause: Cause,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// It is none that can be sent.
    Build,
    /// There was no connection to send it on.
    Connect,
    /// It may have been sent.
    Exchange,
}

impl Fault {
    pub(crate) fn build(cause: impl Into<Cause>) -> Self {
        Self {
            stage: Stage::Build,
            cause: cause.into(),
        }
    }

    pub(crate) fn connect(cause: impl Into<Cause>) -> Self {
        Self {
            stage: Stage::Connect,
            cause: cause.into(),
        }
    }

    pub(crate) fn exchange(cause: impl Into<Cause>) -> Self {
        Self {
            stage: Stage::Exchange,
            cause: cause.into(),
        }
    }
}

impl From<reqwest::Error> for Fault {
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        if error.is_connect() {
            Self::connect(error)
        } else if error.is_builder() {
            Self::build(error)
        } else {
            Self::exchange(error)
        }
    }
}

/// Why a body goes no further.
#[derive(Debug)]
pub(crate) enum Halt {
    Fault(Cause),
    /// No piece came within the wait between two.
    Idle,
    /// The whole exchange took too long.
    Total,
}

/// A failure before the answer's headers. `upload` is why our own side could not go on, if it could not.
pub(crate) fn of_transport(operation: &str, broken: Broken, upload: Option<&Error>) -> Error {
    let Fault { stage, cause } = match broken {
        Broken::Fault(fault) => fault,
        Broken::Waited(waited) => return timeout(operation, "no answer", waited),
    };
    if let Some(fault) = upload {
        return fault.clone();
    }
    let error: &(dyn StdError + 'static) = &*cause;
    if let Some(refusal) = links(error).find_map(certificate_fault) {
        return Error::new(ErrorKind::Connect, format!("{operation}: {refusal}"))
            .with_class(RetryClass::JobStop);
    }
    let cause = self::cause(error);
    if cause.contains("proxy authorization required")
        || cause.contains("proxy authentication required")
    {
        return Error::new(
            ErrorKind::ConfigInvalid,
            format!("{operation}: the proxy wants a user name and password"),
        );
    }
    match stage {
        Stage::Build => Error::new(
            ErrorKind::ConfigInvalid,
            format!("{operation}: build the request: {cause}"),
        ),
        Stage::Connect => {
            let what = if links(error).any(is_timeout) {
                "no connection in time"
            } else if links(error).any(is_dns) {
                "the host name was not found"
            } else {
                "no connection"
            };
            Error::new(ErrorKind::Connect, format!("{operation}: {what}: {cause}"))
        }
        // REFUSED_STREAM promises that nothing was done (RFC 9113, section 8.7).
        Stage::Exchange if cause.contains("refused stream") => {
            Error::new(ErrorKind::Overloaded, format!("{operation}: {cause}"))
        }
        Stage::Exchange => Error::new(
            ErrorKind::Timeout,
            format!("{operation}: the connection broke before the answer: {cause}"),
        ),
    }
}

/// A failure inside the answer's body. `idle` is the wait between two pieces, `total` that of the whole exchange.
pub(crate) fn of_body(operation: &str, halt: &Halt, idle: Duration, total: Duration) -> Error {
    let error = match halt {
        Halt::Fault(error) => error,
        Halt::Idle => return timeout(operation, "the answer stopped", idle),
        Halt::Total => return timeout(operation, "the answer did not end", total),
    };
    let cause = cause(&**error);
    // Everything but nonsense between the pieces is a connection that broke.
    let kind = if cause.to_ascii_lowercase().contains("invalid") {
        ErrorKind::ProviderFault
    } else {
        ErrorKind::Timeout
    };
    Error::new(kind, format!("{operation}: the answer broke off: {cause}"))
}

/// A body that cannot be unpacked.
pub(crate) fn of_coding(operation: &str, reason: &str) -> Error {
    Error::new(
        ErrorKind::ProviderFault,
        format!("{operation}: the answer cannot be decompressed: {reason}"),
    )
}

/// A wait that was over.
fn timeout(operation: &str, what: &str, waited: Duration) -> Error {
    Error::new(
        ErrorKind::Timeout,
        format!("{operation}: {what} within {waited:?}"),
    )
}

/// A body over its cap.
pub(crate) fn too_long(operation: &str, cap: u64) -> Error {
    Error::new(
        ErrorKind::ProviderFault,
        format!("{operation}: the answer is longer than {cap} bytes"),
    )
}

/// A redirect, which is never followed: it would carry key and prompts along (F-046, F-194); or a
/// proxy's own answer.
pub(crate) fn of_misdirection(
    operation: &str,
    status: u16,
    headers: &HeaderMap,
    url: &Url,
) -> Option<Error> {
    let message = match status {
        301 | 302 | 303 | 307 | 308 => {
            let target = headers
                .get(LOCATION)
                .and_then(|value| value.to_str().ok())
                .and_then(|location| url.join(location).ok())
                .map(|url| url.origin().ascii_serialization());
            match target {
                Some(origin) => format!(
                    "{operation}: the base URL redirects to {}, fix it",
                    redact(&origin)
                ),
                None => format!("{operation}: the base URL redirects to nowhere, fix it"),
            }
        }
        407 => format!("{operation}: the proxy wants a user name and password"),
        _ => return None,
    };
    Some(Error::new(ErrorKind::ConfigInvalid, message).with_status(status))
}

/// The failure in an answer that a read may be repeated after; none where the answer stands.
pub(crate) fn of_status(operation: &str, reply: &Reply) -> Option<Error> {
    let kind = match reply.status {
        // Not `RateLimited`: a read's attempts are bounded whatever the reason.
        429 | 503 | 529 => ErrorKind::Overloaded,
        408 | 425 | 500..=599 => ErrorKind::ProviderFault,
        _ => return None,
    };
    let hints = reply.hints();
    let mut error = Error::new(kind, operation.to_owned()).with_status(reply.status);
    if let Some(delay) = hints.retry_after {
        error = error.with_retry_after(delay);
    }
    if let Some(should_retry) = hints.should_retry {
        error = error.with_should_retry(should_retry);
    }
    Some(error)
}

/// The innermost reason, in words that are safe to print.
pub(crate) fn cause(error: &(dyn StdError + 'static)) -> String {
    redact(
        &links(error)
            .last()
            .map(ToString::to_string)
            .unwrap_or_default(),
    )
}

fn is_timeout(link: &(dyn StdError + 'static)) -> bool {
    let kind = link.downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::TimedOut)
        || link
            .downcast_ref::<reqwest::Error>()
            .is_some_and(reqwest::Error::is_timeout)
}

fn is_dns(link: &(dyn StdError + 'static)) -> bool {
    // The connector's error has no name, but this text since it exists.
    let of_connector = || link.to_string() == "dns error";
    match link.downcast_ref::<reqwest::Error>() {
        Some(error) => error.is_dns(),
        None => of_connector(),
    }
}

fn certificate_fault(link: &(dyn StdError + 'static)) -> Option<String> {
    let Some(rustls::Error::InvalidCertificate(reason)) = link.downcast_ref::<rustls::Error>()
    else {
        return None;
    };
    use rustls::CertificateError as Fault;
    let hint = match reason {
        Fault::Expired
        | Fault::ExpiredContext { .. }
        | Fault::NotValidYet
        | Fault::NotValidYetContext { .. } => "; is this machine's clock right?",
        Fault::UnknownIssuer => "; a company's own CA must be given explicitly",
        _ => "",
    };
    Some(format!(
        "the server's certificate is refused: {}{hint}",
        redact(&reason.to_string())
    ))
}

/// The error and its sources. An `io::Error` hides the error it wraps from `source`.
fn links<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |link| {
        let link: &'a (dyn StdError + 'static) = *link;
        match link
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(wrapped) => Some(wrapped as &(dyn StdError + 'static)),
            None => link.source(),
        }
    })
}
