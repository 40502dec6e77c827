//! What can go wrong with the emulator itself (never with a call to it: those are HTTP answers).

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why an emulator could not start, or could not read its own records.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmulatorError {
    /// The listen address could not be bound.
    #[error("listen on {addr}")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system answered.
        source: io::Error,
    },
    /// A file or folder of the data directory could not be read or written.
    #[error("use the data directory at {}", path.display())]
    Data {
        /// The file or folder.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A record of the data directory is not what this version writes.
    #[error("read the record {}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Where its JSON goes wrong.
        source: serde_json::Error,
    },
    /// A face refuses the options it was given.
    #[error("set the options of the face {face}: {problem}")]
    FaceOptions {
        /// The face's name.
        face: &'static str,
        /// What is wrong with them.
        problem: String,
    },
    /// A fault script is not valid.
    #[error("read the fault script")]
    Faults(#[source] serde_json::Error),
}

/// The crate's result.
pub type Result<T, E = EmulatorError> = std::result::Result<T, E>;
