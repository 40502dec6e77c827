//! What a create's answer says about the batch.

use crate::{Reply, Secret, VendorError, hollow};
use batchwright_core::{Error, ErrorKind, Result, RetryClass, SubmitError};

/// Reads the outcome of a create that was sent once: the batch's id, or whether another create may follow.
///
/// Only no connection at all ([`SubmitError::NotSent`]) and a refusal in the provider's own words with one of seven
/// statuses ([`SubmitError::Refused`]) prove that there is no batch; everything else is
/// [`SubmitError::Unknown`] (F-110, F-112). `id` reads the id out of a success, `refused` is the error of a reply that
/// is none.
///
/// # Errors
/// As said.
pub fn submitted(
    sent: Result<Reply>,
    id: impl FnOnce(&[u8]) -> Option<String>,
    refused: impl FnOnce(&Reply) -> Error,
) -> Result<String, SubmitError> {
    let reply = match sent {
        Ok(reply) => reply,
        // A refused certificate is a stop, and no connection all the same.
        Err(error)
            if error.class() == RetryClass::NotSent || error.kind() == ErrorKind::Connect =>
        {
            return Err(SubmitError::NotSent(error));
        }
        Err(error) => return Err(SubmitError::Unknown(error)),
    };
    if reply.is_success() {
        return id(&reply.body).filter(|id| !id.is_empty()).ok_or_else(|| {
            SubmitError::Unknown(
                hollow("create the batch: the answer names no batch").with_status(reply.status),
            )
        });
    }
    let settled = matches!(reply.status, 400 | 401 | 402 | 403 | 404 | 413 | 422);
    let in_words = settled && VendorError::from_body(&reply.body).is_some();
    let error = refused(&reply);
    if in_words {
        Err(SubmitError::Refused(error))
    } else {
        Err(SubmitError::Unknown(error))
    }
}

/// What tells an account apart from others and leads back to none: a hash of what it is reached by, such as
/// address, organization, project and key ([`BatchProvider::account`](batchwright_core::BatchProvider::account)).
pub fn account(parts: &[&str]) -> String {
    Secret::new(parts.join("\0")).fingerprint()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeaderMap;

    fn answer(status: u16, body: &'static str) -> Result<String, SubmitError> {
        let reply = Reply::new(status, HeaderMap::new(), body);
        let id = |body: &[u8]| Some(String::from_utf8_lossy(body).into_owned());
        submitted(Ok(reply), id, |_| Error::new(ErrorKind::InvalidRequest, ""))
    }

    #[test]
    fn f_110_f_112_only_a_refusal_in_words_proves_that_there_is_no_batch() {
        const WORDS: &str = r#"{"error":{"message":"no"}}"#;
        for status in [400, 401, 402, 403, 404, 413, 422] {
            assert!(
                matches!(answer(status, WORDS), Err(SubmitError::Refused(_))),
                "{status}"
            );
            assert!(
                matches!(answer(status, "<html>"), Err(SubmitError::Unknown(_))),
                "{status}"
            );
        }
        for status in [302, 408, 409, 425, 429, 500, 502, 503, 504, 529] {
            assert!(
                matches!(answer(status, WORDS), Err(SubmitError::Unknown(_))),
                "{status}"
            );
        }
        assert_eq!(answer(202, "b1").unwrap(), "b1");
        assert!(matches!(answer(200, ""), Err(SubmitError::Unknown(_))));
    }

    #[test]
    fn what_was_not_sent_may_be_sent() {
        for (kind, class, not_sent) in [
            (ErrorKind::Connect, RetryClass::NotSent, true),
            (ErrorKind::Connect, RetryClass::JobStop, true),
            (ErrorKind::Timeout, RetryClass::Ambiguous, false),
        ] {
            let error = Error::new(kind, "").with_class(class);
            let told = submitted(Err(error), |_| None, |_| Error::new(kind, ""));
            assert_eq!(matches!(told, Err(SubmitError::NotSent(_))), not_sent);
        }
    }

    #[test]
    fn f_204_accounts_differ_in_any_part() {
        assert_ne!(account(&["a", "bc"]), account(&["ab", "c"]));
        assert_eq!(account(&["a", "b"]), account(&["a", "b"]));
        assert!(!account(&["CANARY"]).contains("CANARY"));
    }
}
