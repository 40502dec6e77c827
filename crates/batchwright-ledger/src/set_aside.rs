//! Lines nobody could use, kept for a person to look at.

use crate::{files::TempFile, ledger::Ledger, raw};
use batchwright_core::Result;
use std::{fmt, path::PathBuf};

/// Lines of one chunk's results that are unknown or cannot be read. No file is made while there is no
/// line; dropped unfinished, it leaves nothing.
pub struct SetAside {
    path: PathBuf,
    folder: PathBuf,
    file: Option<TempFile>,
    lines: u64,
}

impl SetAside {
    pub(crate) fn new(ledger: &Ledger, chunk: u32, attempt: u32, label: &str) -> Result<Self> {
        Ok(Self {
            path: ledger.path("set-aside", &raw::name(chunk, attempt, label)?),
            folder: ledger.path("set-aside", ""),
            file: None,
            lines: 0,
        })
    }

    /// Adds a line, byte for byte, and a newline.
    ///
    /// # Errors
    /// `Storage` where it cannot be written.
    pub fn push(&mut self, line: &[u8]) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(TempFile::create(self.path.clone())?),
        };
        file.write(line)?;
        file.write(b"\n")?;
        self.lines += 1;
        Ok(())
    }

    /// Lines so far.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Makes the lines durable; the file's path where there are any.
    ///
    /// # Errors
    /// `Storage` where they could not be made durable.
    pub fn finish(self) -> Result<Option<PathBuf>> {
        let Some(file) = self.file else {
            return Ok(None);
        };
        file.commit()?;
        crate::files::sync_folder(&self.folder)?;
        Ok(Some(self.path))
    }
}

impl fmt::Debug for SetAside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetAside")
            .field("path", &self.path)
            .field("lines", &self.lines)
            .finish_non_exhaustive()
    }
}
