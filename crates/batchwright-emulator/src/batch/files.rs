//! The files of an executor.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom};
use std::path::Path;

use super::Checkpoint;
use super::cell::Paths;

/// The open files of an executor, each at its checkpoint.
pub(super) struct Files {
    pub(super) input: BufReader<File>,
    pub(super) output: BufWriter<File>,
    pub(super) error: BufWriter<File>,
    pub(super) invoice: BufWriter<File>,
}

impl Files {
    pub(super) fn open(paths: &Paths, done: &Checkpoint) -> io::Result<Self> {
        let mut input = File::open(&paths.input)?;
        input.seek(SeekFrom::Start(done.input_bytes))?;
        Ok(Self {
            input: BufReader::with_capacity(256 << 10, input),
            output: writer(&paths.output, done.output_bytes)?,
            error: writer(&paths.error, done.error_bytes)?,
            invoice: writer(&paths.invoice, done.invoice_bytes)?,
        })
    }
}

fn writer(path: &Path, at: u64) -> io::Result<BufWriter<File>> {
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)?;
    file.set_len(at)?;
    file.seek(SeekFrom::Start(at))?;
    Ok(BufWriter::with_capacity(256 << 10, file))
}

pub(super) fn read_line(reader: &mut BufReader<File>, line: &mut Vec<u8>) -> io::Result<usize> {
    line.clear();
    reader.read_until(b'\n', line)
}

pub(super) fn trim(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
