//! A batch in memory and its files on disk.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::BatchRecord;
use crate::store::{remove_file, write_record};

/// A batch in memory: its record, and the right to work on it.
#[derive(Debug)]
pub(crate) struct BatchCell {
    record: Mutex<BatchRecord>,
    pub(super) work: Mutex<()>,
    /// Set by a reset; whoever works on the batch then stops.
    pub(super) gone: AtomicBool,
    pub(super) paths: Paths,
}

#[derive(Debug)]
pub(super) struct Paths {
    pub(super) record: PathBuf,
    pub(super) input: PathBuf,
    pub(super) output: PathBuf,
    pub(super) error: PathBuf,
    pub(super) invoice: PathBuf,
}

impl BatchCell {
    pub(crate) fn new(dir: &Path, record: BatchRecord) -> Self {
        let path = |kind: &str| dir.join(format!("{}.{kind}", record.id));
        let paths = Paths {
            record: path("json"),
            input: path("input"),
            output: path("output"),
            error: path("error"),
            invoice: path("invoice"),
        };
        Self {
            record: Mutex::new(record),
            work: Mutex::new(()),
            gone: AtomicBool::new(false),
            paths,
        }
    }

    /// A copy of the record as of the last step.
    pub(crate) fn record(&self) -> BatchRecord {
        self.lock().clone()
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&BatchRecord) -> T) -> T {
        look(&self.lock())
    }

    /// Takes over a file of lines as the input of a batch whose rows came with its creation.
    pub(crate) fn take_input(&self, lines: &Path) -> io::Result<()> {
        std::fs::rename(lines, &self.paths.input)
    }

    pub(crate) fn persist(&self) -> io::Result<()> {
        write_record(&self.paths.record, &*self.lock())
    }

    /// Notes that a cancel was asked for; false when the batch has ended.
    pub(crate) fn cancel(&self, now_ms: i64) -> io::Result<bool> {
        let mut record = self.lock();
        if record.state.is_terminal() {
            return Ok(false);
        }
        if record.cancelling_ms.is_none() {
            record.cancelling_ms = Some(now_ms);
            write_record(&self.paths.record, &*record)?;
        }
        Ok(true)
    }

    /// The invoice file of the rows, and how much of it counts.
    pub(crate) fn invoice(&self) -> (PathBuf, u64) {
        (self.paths.invoice.clone(), self.lock().done.invoice_bytes)
    }

    /// Cuts partial files back to the last checkpoint, after a kill.
    pub(crate) fn recover(&self) -> io::Result<()> {
        let done = self.lock().done;
        for (path, len) in [
            (&self.paths.output, done.output_bytes),
            (&self.paths.error, done.error_bytes),
            (&self.paths.invoice, done.invoice_bytes),
        ] {
            match OpenOptions::new().write(true).open(path) {
                Ok(file) => file.set_len(len)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether a reset has erased the batch.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Deletes the batch for its owner: it is not found any more from now on, and stays on the invoice.
    pub(crate) fn delete(&self, now_ms: i64) -> io::Result<()> {
        let mut record = self.lock();
        record.quirks.forget_after_ms = Some(now_ms - record.created_ms);
        write_record(&self.paths.record, &*record)
    }

    /// Removes the batch and everything it wrote, once nobody works on it.
    pub(crate) fn erase(&self) -> io::Result<()> {
        self.gone.store(true, Ordering::Release);
        let _work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let Paths {
            record,
            input,
            output,
            error,
            invoice,
        } = &self.paths;
        [record, input, output, error, invoice]
            .into_iter()
            .try_for_each(|path| remove_file(path))
    }

    fn lock(&self) -> MutexGuard<'_, BatchRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes and saves the executor's copy; takes over a cancel that was asked for meanwhile.
    pub(super) fn commit(&self, local: &mut BatchRecord) -> io::Result<()> {
        if self.gone.load(Ordering::Acquire) {
            return Err(io::Error::other("the batch was erased"));
        }
        let mut shared = self.lock();
        local.cancelling_ms = shared.cancelling_ms;
        shared.clone_from(local);
        write_record(&self.paths.record, local)
    }
}
