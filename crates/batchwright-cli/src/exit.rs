//! How the command ends, as numbers that scripts can rely on.

use batchwright::core::{Error, ErrorKind};
use std::process::ExitCode;

/// How the command ended. The numbers are documented in the README and in `--help`, and do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: everything asked for was done, and every row succeeded.
    Done,
    /// 1: a fault of this program.
    Fault,
    /// 2: the command line, the settings or the input are wrong; nothing was sent.
    Usage,
    /// 3: the job is done, and some rows did not succeed.
    Partial,
    /// 4: a person must decide before anything more is sent.
    NeedsDecision,
    /// 5: the account, its key or its budget stopped the job; it can be resumed.
    Stopped,
    /// 6: the disk or a file failed.
    Io,
    /// 7: `verify` found something wrong.
    NotVerified,
    /// 130: interrupted; the job can be resumed.
    Interrupted,
}

impl Exit {
    /// How a failure ends the command.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let kind = error
            .chain()
            .find_map(|cause| cause.downcast_ref::<Error>())
            .map(Error::kind);
        match kind {
            Some(kind) => Self::of_kind(kind),
            None if error.chain().any(|cause| cause.is::<std::io::Error>()) => Self::Io,
            None => Self::Usage,
        }
    }

    /// How an error of this kind ends the command.
    pub(crate) fn of_kind(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::ConfigInvalid | ErrorKind::InvalidRequest | ErrorKind::Unsupported => {
                Self::Usage
            }
            ErrorKind::NeedsDecision => Self::NeedsDecision,
            ErrorKind::Storage => Self::Io,
            ErrorKind::Cancelled => Self::Interrupted,
            ErrorKind::Unexpected => Self::Fault,
            _ => Self::Stopped,
        }
    }

    /// The number.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Fault => 1,
            Self::Usage => 2,
            Self::Partial => 3,
            Self::NeedsDecision => 4,
            Self::Stopped => 5,
            Self::Io => 6,
            Self::NotVerified => 7,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
