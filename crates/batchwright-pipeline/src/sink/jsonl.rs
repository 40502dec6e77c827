//! Results as JSON lines.

use batchwright_ledger::OutcomeRecord;
use std::io::{self, BufWriter, Write};

/// Writes one line for each outcome, in the ledger's own form.
pub(super) struct JsonlEncoder<W: Write> {
    writer: BufWriter<W>,
    line: Vec<u8>,
}

impl<W: Write> JsonlEncoder<W> {
    pub(super) fn new(writer: W) -> Self {
        Self {
            writer: BufWriter::with_capacity(super::BUFFER_BYTES, writer),
            line: Vec::new(),
        }
    }

    pub(super) fn write(&mut self, record: &OutcomeRecord<'_>) -> io::Result<()> {
        self.line.clear();
        record.to_result_line(&mut self.line);
        self.line.push(b'\n');
        self.writer.write_all(&self.line)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    pub(super) fn finish(self) -> io::Result<W> {
        self.writer
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
    }
}
