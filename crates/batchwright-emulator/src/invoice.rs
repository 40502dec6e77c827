//! The invoice: one line per billable unit the emulator accepted. It is the judge of double payment.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::{EmulatorError, Result};

/// One billable unit: a realtime answer, or one executed row of a batch.
///
/// Rows that failed, and rows that a batch did not reach before it expired or was cancelled, are not billed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InvoiceLine {
    /// Whose protocol, for example `openai`.
    pub face: String,
    /// Fingerprint of the key: the first 12 hexadecimal digits of its SHA-256.
    pub key: String,
    /// `realtime` or `batch`.
    pub lane: Lane,
    /// The row's id in its batch; none in the realtime lane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_id: Option<String>,
    /// The vendor's id of this one request.
    pub request_id: String,
    /// [`prompt_hash`](crate::prompt_hash) of the request.
    pub prompt_hash: String,
    /// The model as the answer names it.
    pub model: String,
    /// The batch; none in the realtime lane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_id: Option<String>,
    /// Input tokens, those read from a cache among them.
    pub input_tokens: u64,
    /// Input tokens that were read from a cache.
    pub cached_input_tokens: u64,
    /// Output tokens, reasoning among them.
    pub output_tokens: u64,
    /// Price in US dollars by the emulator's own table; batch rows cost half.
    pub price_usd: f64,
    /// Virtual Unix seconds.
    pub at: i64,
}

/// How a unit was bought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Lane {
    /// By a direct call.
    Realtime,
    /// As a row of a batch.
    Batch,
}

/// [`InvoiceLine`] without owning its texts, for the hot path.
#[derive(Debug, Serialize)]
pub(crate) struct Charge<'a> {
    pub(crate) face: &'a str,
    pub(crate) key: &'a str,
    pub(crate) lane: Lane,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) custom_id: Option<&'a str>,
    pub(crate) request_id: &'a str,
    pub(crate) prompt_hash: &'a str,
    pub(crate) model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) batch_id: Option<&'a str>,
    pub(crate) input_tokens: u64,
    pub(crate) cached_input_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) price_usd: f64,
    pub(crate) at: i64,
}

/// The realtime lane's invoice file: append-only, each line handed to the system before the answer is sent.
#[derive(Debug)]
pub(crate) struct Invoice {
    path: PathBuf,
    file: Mutex<File>,
    sums: Mutex<BTreeMap<String, Sum>>,
}

/// What a part of the invoice comes to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    pub(crate) units: u64,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) price_usd: f64,
}

impl Sum {
    pub(crate) fn add(&mut self, other: Self) {
        self.units += other.units;
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.price_usd += other.price_usd;
    }
}

impl Invoice {
    /// Opens the file and ends a line that a kill tore.
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        let data = |source| EmulatorError::Data {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(&path)
            .map_err(data)?;
        if !ends_with_newline(&mut file).map_err(data)? {
            file.write_all(b"\n").map_err(data)?;
        }
        let mut sums = BTreeMap::new();
        read_lines(&path, u64::MAX, |line| {
            let sum: &mut Sum = sums.entry(line.face.clone()).or_default();
            sum.add(Sum {
                units: 1,
                input_tokens: line.input_tokens,
                output_tokens: line.output_tokens,
                price_usd: line.price_usd,
            });
        })
        .map_err(data)?;
        Ok(Self {
            file: Mutex::new(file),
            sums: Mutex::new(sums),
            path,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one line with a single write.
    pub(crate) fn charge(&self, charge: &Charge<'_>) -> io::Result<()> {
        let mut line = Vec::with_capacity(384);
        serde_json::to_writer(&mut line, charge)?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line)?;
        drop(file);
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = Sum {
            units: 1,
            input_tokens: charge.input_tokens,
            output_tokens: charge.output_tokens,
            price_usd: charge.price_usd,
        };
        match sums.get_mut(charge.face) {
            Some(known) => known.add(sum),
            None => {
                sums.insert(charge.face.to_owned(), sum);
            }
        }
        Ok(())
    }

    /// What the realtime lane comes to, by face.
    pub(crate) fn sums(&self) -> Vec<(String, Sum)> {
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        sums.iter()
            .map(|(face, sum)| (face.clone(), *sum))
            .collect()
    }

    pub(crate) fn clear(&self) -> io::Result<()> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.set_len(0)?;
        self.sums
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        Ok(())
    }
}

fn ends_with_newline(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Most bytes of an invoice line that [`last_lines`] reckons with.
const LINE_BYTES: u64 = 1 << 10;

/// The last lines of the first `len` bytes of an invoice file, at most `count`.
pub(crate) fn last_lines(path: &Path, len: u64, count: usize) -> io::Result<Vec<InvoiceLine>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let len = len.min(file.metadata()?.len());
    let from = len.saturating_sub(LINE_BYTES * count as u64);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(len - from).read_to_end(&mut tail)?;
    // The first line may be the end of one, which does not parse.
    let mut lines: Vec<InvoiceLine> = tail
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    lines.drain(..lines.len().saturating_sub(count));
    Ok(lines)
}

/// Calls `each` with every whole line of the first `len` bytes of an invoice file; torn lines are left out.
pub(crate) fn read_lines(
    path: &Path,
    len: u64,
    mut each: impl FnMut(InvoiceLine),
) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut reader = BufReader::with_capacity(64 << 10, file.take(len));
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        if let Ok(parsed) = serde_json::from_slice(&line) {
            each(parsed);
        }
        line.clear();
    }
    Ok(())
}
