//! An API key that does not print itself.

use batchwright_core::{Error, ErrorKind, Result};
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use std::fmt;

/// An API key: no `Display`, no `Serialize`, a `Debug` that says nothing, zeroed on drop (F-192).
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes the key over. White space around it is cut off, since keys come out of files and shells.
    pub fn new(key: String) -> Self {
        if key.trim().len() == key.len() {
            return Self(SecretString::from(key));
        }
        // The untrimmed copy is zeroed with its owner.
        let untrimmed = SecretString::from(key);
        Self(SecretString::from(untrimmed.expose_secret().trim()))
    }

    /// The key itself: only to put it into a header.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// 16 hex digits that tell keys apart and do not lead back to one: the first eight bytes of a
    /// SHA-256 over a fixed domain and the key.
    pub fn fingerprint(&self) -> String {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        context.update(b"batchwright key fingerprint v1\0");
        context.update(self.expose().as_bytes());
        let digest = context.finish();
        digest.as_ref()[..8]
            .iter()
            .fold(String::with_capacity(16), |mut text, byte| {
                for digit in [byte >> 4, byte & 0xf] {
                    text.extend(char::from_digit(digit.into(), 16));
                }
                text
            })
    }

    /// `prefix` and the key as a header value marked sensitive, so that neither logs nor HTTP/2's
    /// header table keep it. `prefix` is `"Bearer "` or empty.
    ///
    /// # Errors
    /// `ConfigInvalid` where the key is empty or holds what no header may hold, such as a line break.
    pub fn header_value(&self, prefix: &str) -> Result<HeaderValue> {
        let key = self.expose();
        let fault = || {
            Error::new(
                ErrorKind::ConfigInvalid,
                "use the API key: it is empty or holds a character that no header may hold",
            )
        };
        if key.is_empty() || !key.bytes().all(|byte| matches!(byte, 0x21..=0x7e)) {
            return Err(fault());
        }
        let text = SecretString::from([prefix, key].concat());
        let mut value = HeaderValue::from_str(text.expose_secret()).map_err(|_| fault())?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_192_nothing_prints_the_key() {
        let secret = Secret::new(" sk-canary\n".into());
        assert_eq!(format!("{secret:?}"), "Secret");
        assert_eq!(secret.expose(), "sk-canary");
        let value = secret.header_value("Bearer ").unwrap();
        assert_eq!(value.as_bytes(), b"Bearer sk-canary");
        assert_eq!(format!("{value:?}"), "Sensitive");
        for bad in ["", "a\nb", "a b", "schlüssel"] {
            let error = Secret::new(bad.into()).header_value("").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert!(bad.is_empty() || !error.to_string().contains(bad));
        }
    }

    #[test]
    fn f_204_fingerprints_tell_keys_apart() {
        let print = |key: &str| Secret::new(key.into()).fingerprint();
        assert_eq!(print("sk-1"), print("sk-1"));
        assert_ne!(print("sk-1"), print("sk-2"));
        assert_eq!(print("sk-1").len(), 16);
        assert!(print("sk-1").bytes().all(|byte| byte.is_ascii_hexdigit()));
        // Fixed, since journals hold it: SHA-256 of the domain and the key.
        assert_eq!(print("sk-canary"), "d34ad8a88a309dda");
    }
}
