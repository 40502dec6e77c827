//! Files the command line names.

use batchwright::core::{Error, ErrorKind};
use std::{io, path::Path};

/// What the file says.
///
/// # Errors
/// As [`unusable`].
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|error| unusable(path, error))
}

/// A file that cannot be used is the command line's mistake, unless the disk is at fault.
pub(crate) fn unusable(path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::InvalidData => ErrorKind::ConfigInvalid,
        _ => ErrorKind::Storage,
    };
    Error::new(kind, format!("read {}: {error}", path.display())).with_source(error)
}
