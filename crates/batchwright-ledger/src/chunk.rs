//! Sealed chunks: the lines of one batch, immutable, and whose rows they are.

use crate::{
    files::{self, Access, TempFile},
    journal::ChunkFile,
    ledger::Ledger,
    seal::Seal,
};
use batchwright_core::{
    Error, ErrorKind, JournalEntry, JournalEvent, Result, SealedBatch, SealedBody, Timestamp,
    WireId, WirePrefix,
};
use memchr::memmem;
use std::{
    fmt::{self, Write as _},
    fs::File,
    io::{BufRead as _, BufReader, Lines, Seek as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

fn lines_name(chunk: u32, attempt: u32) -> String {
    format!("{chunk:06}-{attempt}.jsonl")
}

fn rows_name(chunk: u32) -> String {
    format!("{chunk:06}.rows")
}

fn misuse(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unexpected, what)
}

/// Where the id made of `quoted` (`"prefix-`) begins in a line, as the ledger allows it: its first
/// occurrence is the whole quoted id, so that a later copy can replace it without reading JSON.
fn id_in_line(line: &[u8], quoted: &memmem::Finder<'_>) -> Option<usize> {
    let start = quoted.find(line)? + quoted.needle().len();
    let digits = line[start..]
        .iter()
        .take_while(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        .count();
    (digits > 0 && line.get(start + digits) == Some(&b'"')).then_some(start)
}

/// A chunk being written. Dropped unsealed, it leaves nothing.
///
/// Not durable before [`ChunkWriter::seal`] returns, and nothing of it may be sent before that.
pub struct ChunkWriter {
    ledger: Ledger,
    chunk: u32,
    prefix: WirePrefix,
    quoted: memmem::Finder<'static>,
    lines: TempFile,
    rows: TempFile,
    requests: u64,
    round: u32,
    refusals: u32,
    /// The wire id of the row at hand, and its line in the other file.
    id: String,
    pair: Vec<u8>,
}

impl ChunkWriter {
    pub(crate) fn new(ledger: Ledger, chunk: u32, prefix: WirePrefix) -> Result<Self> {
        ledger.writable()?;
        if ledger.journal().seal(chunk, 1)?.is_some() {
            return Err(misuse(format!("write chunk {chunk}: it is sealed already")));
        }
        Ok(Self {
            lines: TempFile::create(ledger.path("chunks", &lines_name(chunk, 1)))?,
            rows: TempFile::create(ledger.path("chunks", &rows_name(chunk)))?,
            quoted: memmem::Finder::new(&format!("\"{prefix}-")).into_owned(),
            prefix,
            ledger,
            chunk,
            requests: 0,
            round: 1,
            refusals: 0,
            id: String::new(),
            pair: Vec::new(),
        })
    }

    /// Sets which time its rows are sent, from 1, and how many inputs in a row with them among others were refused
    /// before anything ran. Default 1 and 0.
    #[must_use]
    pub fn with_round(mut self, round: u32, refusals: u32) -> Self {
        (self.round, self.refusals) = (round, refusals);
        self
    }

    /// Adds a row's line, which is without its newline and carries the row's [`WireId`] in quotes
    /// before any other text that begins like one. `custom_id` is kept byte for byte (F-172, F-181).
    ///
    /// # Errors
    /// `Unexpected` where the line is not of that form; `Storage` where it cannot be written, after which the
    /// writer is to be dropped.
    pub fn push(&mut self, row: u64, custom_id: &str, line: &[u8]) -> Result<()> {
        if memchr::memchr(b'\n', line).is_some() {
            return Err(misuse("write a chunk: a line holds a newline"));
        }
        self.id.clear();
        write!(self.id, "{}", WireId::new(self.prefix, row)).expect("a string takes everything");
        let start = id_in_line(line, &self.quoted);
        let rest = &self.id.as_bytes()[self.prefix.as_str().len() + 1..];
        if start.is_none_or(|start| {
            !line[start..].starts_with(rest) || line.get(start + rest.len()) != Some(&b'"')
        }) {
            return Err(misuse(format!(
                "write a chunk: row {row}'s line does not carry its wire id"
            )));
        }
        self.pair.clear();
        serde_json::to_writer(&mut self.pair, &(row, custom_id))
            .expect("a number and text always serialise");
        self.pair.push(b'\n');
        self.lines.write(line)?;
        self.lines.write(b"\n")?;
        self.rows.write(&self.pair)?;
        self.requests += 1;
        Ok(())
    }

    /// Adds a row's line that was another chunk's, under an id of this one.
    ///
    /// # Errors
    /// As [`ChunkWriter::push`].
    pub fn push_copied(&mut self, copied: &ChunkLine) -> Result<()> {
        let mut line = copied.line.clone();
        copied.rename(&mut line, self.prefix);
        self.push(copied.row, &copied.custom_id, &line)
    }

    /// Lines so far.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Bytes so far, newlines included.
    pub fn bytes(&self) -> u64 {
        self.lines.bytes()
    }

    /// Makes the files durable, puts them in place, then makes the `Seal` fact durable.
    ///
    /// # Errors
    /// `Unexpected` where no line was pushed; `Storage` where anything could not be made durable; the chunk
    /// can then be written again.
    pub fn seal(
        self,
        provider: &str,
        endpoint: &str,
        model: &str,
        at: Timestamp,
    ) -> Result<SealedChunk> {
        if self.requests == 0 {
            return Err(misuse("seal a chunk: it has no line"));
        }
        let bytes = self.lines.bytes();
        let rows_sha256 = self.rows.commit()?;
        let sha256 = self.lines.commit()?;
        let seal = JournalEvent::Seal {
            sha256,
            bytes,
            requests: self.requests,
            provider: provider.to_owned(),
            endpoint: endpoint.to_owned(),
            model: model.to_owned(),
            round: self.round,
            refusals: self.refusals,
        };
        let file = ChunkFile {
            attempt: 1,
            wire_prefix: self.prefix.to_string(),
            rows_sha256,
        };
        let entry = JournalEntry::new(self.chunk, at, seal);
        put_in_place(&self.ledger, &entry, &file)?;
        self.ledger
            .append_with(std::slice::from_ref(&entry), Some(&file))?;
        SealedChunk::describe(&self.ledger, self.chunk, &entry.event, &file)
    }
}

impl fmt::Debug for ChunkWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkWriter")
            .field("chunk", &self.chunk)
            .field("requests", &self.requests)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

/// One attempt's file of a chunk: whole, durable and immutable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SealedChunk {
    /// The chunk's number within the job.
    pub chunk: u32,
    /// The attempt, from 1.
    pub attempt: u32,
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its lines.
    pub requests: u64,
    /// Lower-case hex.
    pub sha256: String,
    /// What its lines' ids begin with.
    pub wire_prefix: String,
    /// The provider it is for.
    pub provider: String,
    /// The endpoint it is for.
    pub endpoint: String,
    /// The model it names.
    pub model: String,
    /// Which time its rows are sent, from 1.
    pub round: u32,
    /// How many inputs in a row with these rows among others were refused before anything ran.
    pub refusals: u32,
}

impl SealedChunk {
    /// The chunk as a provider takes it.
    pub fn to_batch(&self) -> SealedBatch {
        SealedBatch::new(
            SealedBody::File(self.path.clone()),
            self.bytes,
            self.requests,
            self.endpoint.clone(),
            self.model.clone(),
        )
    }

    fn describe(
        ledger: &Ledger,
        chunk: u32,
        seal: &JournalEvent,
        file: &ChunkFile,
    ) -> Result<Self> {
        let JournalEvent::Seal {
            sha256,
            bytes,
            requests,
            provider,
            endpoint,
            model,
            round,
            refusals,
        } = seal
        else {
            return Err(misuse("describe a chunk: the fact is no seal"));
        };
        Ok(Self {
            chunk,
            attempt: file.attempt,
            path: ledger.path("chunks", &lines_name(chunk, file.attempt)),
            bytes: *bytes,
            requests: *requests,
            sha256: sha256.clone(),
            wire_prefix: file.wire_prefix.clone(),
            provider: provider.clone(),
            endpoint: endpoint.clone(),
            model: model.clone(),
            round: *round,
            refusals: *refusals,
        })
    }

    fn find(ledger: &Ledger, chunk: u32, attempt: u32) -> Result<Option<(Self, ChunkFile)>> {
        let found = ledger.journal().seal(chunk, attempt)?;
        found
            .map(|(seal, file)| Ok((Self::describe(ledger, chunk, &seal, &file)?, file)))
            .transpose()
    }

    pub(crate) fn load(ledger: &Ledger, chunk: u32, attempt: u32) -> Result<Self> {
        let (sealed, _) = Self::find(ledger, chunk, attempt)?.ok_or_else(|| never_sealed(chunk))?;
        sealed.check()?;
        Ok(sealed)
    }

    /// Compares the file with what was sealed.
    fn check(&self) -> Result<()> {
        let file = files::open(&self.path, Access::Read)?;
        let (sha256, bytes, lines) = files::hash(&self.path, file)?;
        if (sha256 == self.sha256) && (bytes, lines) == (self.bytes, self.requests) {
            Ok(())
        } else {
            Err(files::damaged(
                &self.path,
                "the sealed chunk was changed after it was written, so nothing is sent from it",
            ))
        }
    }

    pub(crate) fn reseal(
        ledger: &Ledger,
        chunk: u32,
        attempt: u32,
        old_prefix: WirePrefix,
        new_prefix: WirePrefix,
    ) -> Result<Self> {
        ledger.writable()?;
        if let Some((sealed, _)) = Self::find(ledger, chunk, attempt)? {
            if sealed.wire_prefix != new_prefix.as_str() {
                return Err(misuse(format!(
                    "reseal chunk {chunk}: attempt {attempt} is sealed under another prefix"
                )));
            }
            sealed.check()?;
            return Ok(sealed);
        }
        let older = ledger
            .journal()
            .sealed_attempts()?
            .into_iter()
            .filter(|&(of, number)| of == chunk && number < attempt)
            .map(|(_, number)| number)
            .max()
            .ok_or_else(|| never_sealed(chunk))?;
        let (source, file) =
            Self::find(ledger, chunk, older)?.ok_or_else(|| never_sealed(chunk))?;
        if source.wire_prefix != old_prefix.as_str() {
            return Err(misuse(format!(
                "reseal chunk {chunk}: attempt {older} is sealed under another prefix than the one to replace"
            )));
        }
        source.check()?;
        let mut copy = TempFile::create(ledger.path("chunks", &lines_name(chunk, attempt)))?;
        let quoted_text = format!("\"{old_prefix}-");
        let quoted = memmem::Finder::new(&quoted_text);
        let mut reader =
            BufReader::with_capacity(256 * 1024, files::open(&source.path, Access::Read)?);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader
                .read_until(b'\n', &mut line)
                .map_err(|error| files::storage("read", &source.path, error))?;
            if read == 0 {
                break;
            }
            let end = id_in_line(&line, &quoted)
                .ok_or_else(|| files::damaged(&source.path, "a line carries no wire id"))?;
            // Past `end` comes the row; before it the 8 characters and the dash.
            line[end - 9..end - 1].copy_from_slice(new_prefix.as_str().as_bytes());
            copy.write(&line)?;
        }
        let bytes = copy.bytes();
        let seal = JournalEvent::Seal {
            sha256: copy.commit()?,
            bytes,
            requests: source.requests,
            provider: source.provider,
            endpoint: source.endpoint,
            model: source.model,
            round: source.round,
            refusals: source.refusals,
        };
        let file = ChunkFile {
            attempt,
            wire_prefix: new_prefix.to_string(),
            rows_sha256: file.rows_sha256,
        };
        let entry = JournalEntry::new(chunk, Timestamp::from(SystemTime::now()), seal);
        put_in_place(ledger, &entry, &file)?;
        ledger.append_with(std::slice::from_ref(&entry), Some(&file))?;
        Self::describe(ledger, chunk, &entry.event, &file)
    }
}

/// Writes the seal beside the chunk and makes the names of both durable. A chunk without one was never sent.
fn put_in_place(ledger: &Ledger, entry: &JournalEntry, file: &ChunkFile) -> Result<()> {
    let ChunkFile {
        attempt,
        wire_prefix,
        rows_sha256,
    } = file;
    Seal::new(
        entry.chunk,
        *attempt,
        wire_prefix,
        rows_sha256,
        entry.at,
        &entry.event,
    )
    .write(ledger)?;
    files::sync_folder(&ledger.path("chunks", ""))
}

/// A row's line in a sealed chunk.
#[derive(Clone)]
#[non_exhaustive]
pub struct ChunkLine {
    /// The row.
    pub row: u64,
    /// The caller's id of it.
    pub custom_id: String,
    /// The line as the provider gets it, without its newline.
    pub line: Vec<u8>,
    /// Past the id's prefix and the dash.
    id_end: usize,
}

impl ChunkLine {
    /// Exchanges the prefix of its id, 8 characters before the dash.
    fn rename(&self, line: &mut [u8], prefix: WirePrefix) {
        line[self.id_end - 9..self.id_end - 1].copy_from_slice(prefix.as_str().as_bytes());
    }
}

impl fmt::Debug for ChunkLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkLine(row {}, {} bytes)", self.row, self.line.len())
    }
}

/// A sealed chunk's lines, in order.
pub struct ChunkLines {
    path: PathBuf,
    quoted: memmem::Finder<'static>,
    lines: BufReader<File>,
    rows: ChunkRows,
}

impl ChunkLines {
    pub(crate) fn open(ledger: &Ledger, chunk: u32) -> Result<Self> {
        let sealed = SealedChunk::load(ledger, chunk, 1)?;
        let quoted = format!("\"{}-", sealed.wire_prefix);
        let file = files::open(&sealed.path, Access::Read)?;
        Ok(Self {
            quoted: memmem::Finder::new(&quoted).into_owned(),
            lines: BufReader::with_capacity(256 * 1024, file),
            path: sealed.path,
            rows: ChunkRows::open(ledger, chunk)?,
        })
    }

    fn read(&mut self) -> Result<Option<ChunkLine>> {
        let Some(row) = self.rows.next() else {
            return Ok(None);
        };
        let (row, custom_id) = row?;
        let mut line = Vec::new();
        self.lines
            .read_until(b'\n', &mut line)
            .map_err(|error| files::storage("read", &self.path, error))?;
        let id_end = id_in_line(&line, &self.quoted)
            .filter(|_| line.pop() == Some(b'\n'))
            .ok_or_else(|| files::damaged(&self.path, "a line carries no wire id"))?;
        Ok(Some(ChunkLine {
            row,
            custom_id,
            line,
            id_end,
        }))
    }
}

impl Iterator for ChunkLines {
    type Item = Result<ChunkLine>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

impl fmt::Debug for ChunkLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkLines({} rows)", self.rows.requests)
    }
}

fn never_sealed(chunk: u32) -> Error {
    Error::new(
        ErrorKind::Storage,
        format!(
            "read chunk {chunk}: the journal knows no such sealed attempt; write the chunk again"
        ),
    )
}

/// A sealed chunk's rows in line order: row number and the caller's `custom_id`.
pub struct ChunkRows {
    path: PathBuf,
    requests: u64,
    lines: Lines<BufReader<File>>,
}

impl ChunkRows {
    pub(crate) fn open(ledger: &Ledger, chunk: u32) -> Result<Self> {
        let (sealed, known) =
            SealedChunk::find(ledger, chunk, 1)?.ok_or_else(|| never_sealed(chunk))?;
        let path = ledger.path("chunks", &rows_name(chunk));
        let mut file = files::open(&path, Access::Read)?;
        let (sha256, _, lines) = files::hash(&path, &file)?;
        if sha256 != known.rows_sha256 || lines != sealed.requests {
            return Err(files::damaged(
                &path,
                "the chunk's rows were changed after they were written, so answers cannot be told apart",
            ));
        }
        file.rewind()
            .map_err(|error| files::storage("read", &path, error))?;
        Ok(Self {
            path,
            requests: sealed.requests,
            lines: BufReader::new(file).lines(),
        })
    }

    /// How many rows the chunk has.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Reads the rest into memory, for joining: about 16 bytes and the `custom_id` for each row.
    ///
    /// # Errors
    /// `Storage` where the file cannot be read.
    pub fn load(self) -> Result<RowIds> {
        let mut ids = RowIds::default();
        // The file was just found to have that many lines.
        let lines = usize::try_from(self.requests).unwrap_or_default();
        ids.rows.reserve_exact(lines);
        ids.ends.reserve_exact(lines);
        let mut sorted = true;
        for pair in self {
            let (row, custom_id) = pair?;
            sorted &= ids.rows.last().is_none_or(|last| *last < row);
            ids.push(row, &custom_id);
        }
        if !sorted {
            ids.sort();
        }
        ids.text.shrink_to_fit();
        Ok(ids)
    }

    fn parse(path: &Path, line: std::io::Result<String>) -> Result<(u64, String)> {
        let line = line.map_err(|error| files::storage("read", path, error))?;
        serde_json::from_str(&line)
            .map_err(|error| files::damaged(path, "a row cannot be read").with_source(error))
    }
}

impl Iterator for ChunkRows {
    type Item = Result<(u64, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.lines.next()?;
        Some(Self::parse(&self.path, line))
    }
}

impl fmt::Debug for ChunkRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkRows({} rows)", self.requests)
    }
}

/// A chunk's rows in memory, by row number: from row to `custom_id`.
#[derive(Clone, Default)]
pub struct RowIds {
    rows: Vec<u64>,
    /// Where each row's id ends in `text`; it begins where the one before ends.
    ends: Vec<usize>,
    text: String,
}

impl RowIds {
    fn push(&mut self, row: u64, custom_id: &str) {
        self.text.push_str(custom_id);
        self.rows.push(row);
        self.ends.push(self.text.len());
    }

    fn sort(&mut self) {
        let mut pairs: Vec<(u64, String)> = self
            .iter()
            .map(|(row, custom_id)| (row, custom_id.to_owned()))
            .collect();
        pairs.sort();
        self.rows.clear();
        self.ends.clear();
        self.text.clear();
        for (row, custom_id) in pairs {
            self.push(row, &custom_id);
        }
    }

    /// The row's place among the chunk's rows, from 0; `None` where the chunk has no such row.
    pub fn position(&self, row: u64) -> Option<usize> {
        // They are mostly one after another.
        let offset = row.checked_sub(*self.rows.first()?)?;
        let guess = usize::try_from(offset).unwrap_or(usize::MAX);
        if self.rows.get(guess) == Some(&row) {
            return Some(guess);
        }
        self.rows.binary_search(&row).ok()
    }

    /// The row's `custom_id`; `None` where the chunk has no such row.
    pub fn get(&self, row: u64) -> Option<&str> {
        self.position(row).map(|position| self.at(position).1)
    }

    fn at(&self, position: usize) -> (u64, &str) {
        let start = match position {
            0 => 0,
            _ => self.ends[position - 1],
        };
        (self.rows[position], &self.text[start..self.ends[position]])
    }

    /// The rows, ascending.
    pub fn rows(&self) -> &[u64] {
        &self.rows
    }

    /// Rows and their ids, ascending by row.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &str)> {
        (0..self.rows.len()).map(|position| self.at(position))
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Debug for RowIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowIds({} rows)", self.rows.len())
    }
}
