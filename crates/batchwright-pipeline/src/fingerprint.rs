//! What tells an input from another one.

use batchwright_core::{Error, ErrorKind, Result};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::{
    fmt::Write,
    fs::File,
    io::{self, Read},
    path::Path,
};

/// The SHA-256 and the size of an input, by which a resumed job knows that it reads the same rows
/// (F-121, F-156). It is made of the bytes, so a byte order mark or another line end counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Fingerprint {
    /// The SHA-256 in 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// The size in bytes.
    pub bytes: u64,
}

impl Fingerprint {
    /// The fingerprint of a file. It blocks while the file is read once, in pieces of 64 KiB.
    ///
    /// # Errors
    /// `Storage` where the file cannot be read.
    pub fn of_file(path: &Path) -> Result<Self> {
        File::open(path).and_then(Self::of_reader).map_err(|error| {
            let message = format!("read {}: {error}", path.display());
            Error::new(ErrorKind::Storage, message).with_source(error)
        })
    }

    /// The fingerprint of everything `reader` yields.
    ///
    /// # Errors
    /// The reader's own.
    pub fn of_reader(mut reader: impl Read) -> io::Result<Self> {
        let mut context = Context::new(&SHA256);
        let mut bytes = 0;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            context.update(&buffer[..read]);
            bytes += read as u64;
        }
        let mut sha256 = String::with_capacity(64);
        for byte in context.finish().as_ref() {
            write!(sha256, "{byte:02x}").expect("writing to a string cannot fail");
        }
        Ok(Self { sha256, bytes })
    }

    /// Compares the input a job was started with (`self`) to the one `found` now at `name`.
    ///
    /// # Errors
    /// `ConfigInvalid` where they differ, with both sizes and the first digits of both sums.
    pub fn check(&self, found: &Self, name: &str) -> Result<()> {
        if self == found {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::ConfigInvalid,
            format!(
                "resume with {name}: the input changed since the job was started: it had {} bytes (sha256 \
                 {}…) and now has {} (sha256 {}…); bring the old file back, or start a new job under another name",
                self.bytes,
                self.short(),
                found.bytes,
                found.short(),
            ),
        ))
    }

    fn short(&self) -> &str {
        self.sha256.get(..12).unwrap_or(&self.sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_sha_256_and_size_of_the_bytes() {
        let print = Fingerprint::of_reader(&b"abc"[..]).unwrap();
        assert_eq!(
            print.sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(print.bytes, 3);
        let json = serde_json::to_string(&print).unwrap();
        assert_eq!(serde_json::from_str::<Fingerprint>(&json).unwrap(), print);
    }

    #[test]
    fn f_121_f_156_one_changed_byte_is_a_changed_input() {
        let before = Fingerprint::of_reader(&b"id\n1\n2\n"[..]).unwrap();
        assert!(before.check(&before.clone(), "a.csv").is_ok());
        for after in ["id\n2\n1\n", "id\n1\n2", "id\n0\n1\n2\n"] {
            let after = Fingerprint::of_reader(after.as_bytes()).unwrap();
            let error = before.check(&after, "a.csv").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert!(
                error
                    .message()
                    .contains("the input changed since the job was started")
            );
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Fingerprint::of_file(Path::new("/no/such/file.csv")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(error.message().starts_with("read /no/such/file.csv"));
    }
}
