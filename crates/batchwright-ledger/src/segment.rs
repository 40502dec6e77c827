//! Segments: append-only files of outcome lines, one series for each epoch.

use crate::{
    files::{self, Access},
    journal::{Journal, SealedSegment},
    ledger::Ledger,
    record::{self, Entry},
};
use batchwright_core::Result;
use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    path::{Path, PathBuf},
};

/// Bytes read at once.
const BUFFER_BYTES: usize = 256 * 1024;
/// The longest line; no provider's answer comes near, and a damaged file cannot fill the memory.
const MAX_LINE_BYTES: usize = 512 * 1024 * 1024;

/// A segment's name: number `number` of epoch `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentName {
    pub(crate) epoch: u64,
    pub(crate) number: u32,
}

impl SegmentName {
    pub(crate) fn path(self, folder: &Path) -> PathBuf {
        folder.join("segments").join(self.file())
    }

    pub(crate) fn file(self) -> String {
        format!("{:06}-{:04}.jsonl", self.epoch, self.number)
    }

    fn parse(file: &str) -> Option<Self> {
        let (epoch, number) = file.strip_suffix(".jsonl")?.split_once('-')?;
        let name = Self {
            epoch: epoch.parse().ok()?,
            number: number.parse().ok()?,
        };
        (name.file() == file).then_some(name)
    }
}

/// The segments in a job's folder, oldest first. Files of other names are none of ours.
pub(crate) fn list(folder: &Path) -> Result<Vec<SegmentName>> {
    let names = read_names(folder)?;
    // A folder that is written to while it is read may show a file and not the one made just before; read
    // again, it shows both.
    if gap(&names).is_some() {
        return read_names(folder);
    }
    Ok(names)
}

/// The first number an epoch's series lacks.
fn gap(names: &[SegmentName]) -> Option<SegmentName> {
    let mut before = SegmentName {
        epoch: 0,
        number: 0,
    };
    for &name in names {
        let number = if name.epoch == before.epoch {
            before.number + 1
        } else {
            1
        };
        if name.number != number {
            return Some(SegmentName {
                epoch: name.epoch,
                number,
            });
        }
        before = name;
    }
    None
}

fn read_names(folder: &Path) -> Result<Vec<SegmentName>> {
    let folder = folder.join("segments");
    let failed = |error| files::storage("read", &folder, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let file = entry.map_err(failed)?.file_name();
        names.extend(file.to_str().and_then(SegmentName::parse));
    }
    names.sort_unstable();
    Ok(names)
}

/// Repairs and closes the segments of dead epochs that nobody closed.
pub(crate) fn close_dead(folder: &Path, journal: &mut Journal) -> Result<()> {
    let sealed = journal.segments()?;
    // Its process may have been killed before it did so.
    files::sync_folder(&folder.join("segments"))?;
    for name in list(folder)? {
        let known =
            |segment: &SealedSegment| (segment.epoch, segment.number) == (name.epoch, name.number);
        if sealed.iter().any(known) {
            continue;
        }
        let path = name.path(folder);
        repair_tail(folder, name, &path)?;
        let mut file = files::open(&path, Access::Read)?;
        let (sha256, bytes, _) = files::hash(&path, &file)?;
        file.rewind()
            .map_err(|error| files::storage("read", &path, error))?;
        let (mut outcomes, mut intents) = (0, 0);
        let mut lines = Lines::new(file, path);
        while lines.advance()? {
            match lines.line().entry() {
                Ok(Entry::Outcome { .. }) => outcomes += 1,
                Ok(Entry::Intent { .. }) => intents += 1,
                Ok(
                    Entry::Withdrawn { .. }
                    | Entry::Run
                    | Entry::Reopened { .. }
                    | Entry::Lost { .. },
                ) => {}
                // Not this place's to judge: whoever reads the outcomes names the line.
                Err(_) => {}
            }
        }
        journal.put_segment(&SealedSegment {
            epoch: name.epoch,
            number: name.number,
            bytes,
            sha256,
            outcomes,
            intents,
        })?;
    }
    Ok(())
}

/// A whole last line gets the newline it lacks; a torn one moves to `set-aside` (F-150).
fn repair_tail(folder: &Path, name: SegmentName, path: &Path) -> Result<()> {
    let mut file = files::open(path, Access::Write)?;
    let failed = |error| files::storage("repair", path, error);
    let end = file.metadata().map_err(failed)?.len();
    let start = last_boundary(&file, end).map_err(failed)?;
    if start == end {
        // Not all of it is on the disk where its process was killed, and what counts it as closed will be.
        return file.sync_all().map_err(failed);
    }
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(start)).map_err(failed)?;
    (&mut file)
        .take(MAX_LINE_BYTES as u64)
        .read_to_end(&mut tail)
        .map_err(failed)?;
    if Entry::parse(&tail).is_ok() {
        file.write_all(b"\n").map_err(failed)?;
    } else {
        let aside = folder
            .join("set-aside")
            .join(format!("{:06}-{:04}-{start}.torn", name.epoch, name.number));
        let mut copy = files::TempFile::create(aside)?;
        copy.write(&tail)?;
        copy.commit()?;
        files::sync_folder(&folder.join("set-aside"))?;
        file.set_len(start).map_err(failed)?;
        tracing::warn!(
            segment = name.file(),
            bytes = tail.len(),
            "a torn last line of an interrupted process was set aside"
        );
    }
    file.sync_all().map_err(failed)
}

/// Where the last line that has its newline ends.
fn last_boundary(file: &File, end: u64) -> io::Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut upper = end;
    while upper > 0 {
        let lower = upper.saturating_sub(buffer.len() as u64);
        let piece = &mut buffer[..(upper - lower) as usize];
        files::read_at(file, piece, lower)?;
        if let Some(newline) = memchr::memrchr(b'\n', piece) {
            return Ok(lower + newline as u64 + 1);
        }
        upper = lower;
    }
    Ok(0)
}

/// One line of a segment.
pub(crate) struct SegmentLine<'a> {
    /// Without its newline.
    pub(crate) bytes: &'a [u8],
    pub(crate) offset: u64,
    /// From 1.
    pub(crate) number: u64,
    path: &'a Path,
}

impl<'a> SegmentLine<'a> {
    pub(crate) fn entry(&self) -> Result<Entry<'a>> {
        Entry::parse(self.bytes).map_err(|what| record::bad_line(self.path, self.number, what))
    }
}

/// A segment's lines through one buffer.
struct Lines {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    /// The part of `buffer` that was read and not handed out.
    start: usize,
    end: usize,
    /// Where `buffer[start]` is in the file.
    offset: u64,
    ended: bool,
    /// The line [`Lines::advance`] went to.
    line: Range<usize>,
    line_offset: u64,
    number: u64,
    /// Whether its newline is there.
    whole: bool,
}

impl Lines {
    fn new(file: File, path: PathBuf) -> Self {
        Self {
            file,
            path,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            offset: 0,
            ended: false,
            line: 0..0,
            line_offset: 0,
            number: 0,
            whole: true,
        }
    }

    /// Goes to the next line, the last one also where its newline is missing; `false` at the end.
    fn advance(&mut self) -> Result<bool> {
        let mut searched = 0;
        let (length, whole) = loop {
            let unread = &self.buffer[self.start + searched..self.end];
            if let Some(newline) = memchr::memchr(b'\n', unread) {
                break (searched + newline, true);
            }
            searched = self.end - self.start;
            if self.ended {
                if searched == 0 {
                    return Ok(false);
                }
                break (searched, false);
            }
            self.fill()?;
        };
        self.line = self.start..self.start + length;
        self.line_offset = self.offset;
        self.whole = whole;
        let taken = length + usize::from(whole);
        self.start += taken;
        self.offset += taken as u64;
        self.number += 1;
        Ok(true)
    }

    fn line(&self) -> SegmentLine<'_> {
        SegmentLine {
            bytes: &self.buffer[self.line.clone()],
            offset: self.line_offset,
            number: self.number,
            path: &self.path,
        }
    }

    fn fill(&mut self) -> Result<()> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            if self.end >= MAX_LINE_BYTES {
                return Err(record::bad_line(
                    &self.path,
                    self.number + 1,
                    "it is too long",
                ));
            }
            self.buffer.resize(self.end * 2, 0);
        }
        loop {
            match self.file.read(&mut self.buffer[self.end..]) {
                Ok(read) => {
                    self.end += read;
                    self.ended = read == 0;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(files::storage("read", &self.path, error)),
            }
        }
    }
}

/// Every line of every segment of a job, oldest first.
pub(crate) struct Segments {
    folder: PathBuf,
    names: Vec<SegmentName>,
    sealed: Vec<SealedSegment>,
    /// The segment being read: its index in `names`.
    current: Option<(usize, Lines)>,
    next: usize,
    torn: u64,
}

impl Segments {
    /// The segments as they are now. One that is known and gone, or a gap in an epoch's numbers, is an
    /// error: its outcomes would be paid for again.
    pub(crate) fn of(ledger: &Ledger) -> Result<Self> {
        let (names, sealed) = ledger.segment_list()?;
        let folder = ledger.folder().to_owned();
        let mut segments = Self {
            folder,
            names,
            sealed,
            current: None,
            next: 0,
            torn: 0,
        };
        segments.check_names()?;
        Ok(segments)
    }

    fn check_names(&mut self) -> Result<()> {
        let gone = |name: SegmentName, folder: &Path| {
            let path = name.path(folder);
            files::storage("read", &path, io::ErrorKind::NotFound.into())
        };
        for segment in &self.sealed {
            let name = SegmentName {
                epoch: segment.epoch,
                number: segment.number,
            };
            if self.names.binary_search(&name).is_err() {
                return Err(gone(name, &self.folder));
            }
        }
        match gap(&self.names) {
            Some(missing) => Err(gone(missing, &self.folder)),
            None => Ok(()),
        }
    }

    /// Goes past the first `count` segments.
    pub(crate) fn start_at(&mut self, count: usize) {
        self.next = count;
    }

    /// Ends before the first segment that somebody may still append to.
    pub(crate) fn closed_only(&mut self) {
        let is_closed = |name: &SegmentName| {
            let key = |it: &SealedSegment| (it.epoch, it.number);
            self.sealed
                .binary_search_by_key(&(name.epoch, name.number), key)
                .is_ok()
        };
        let open = self.names.iter().position(|name| !is_closed(name));
        self.names.truncate(open.unwrap_or(self.names.len()));
    }

    pub(crate) fn sealed(&self) -> &[SealedSegment] {
        &self.sealed
    }

    pub(crate) fn names(&self) -> &[SegmentName] {
        &self.names
    }

    /// Gives nothing more, after an error.
    pub(crate) fn stop(&mut self) {
        self.current = None;
        self.next = self.names.len();
    }

    /// Torn last lines passed over so far.
    pub(crate) fn torn(&self) -> u64 {
        self.torn
    }

    /// The next line: the index of its segment, and what it says.
    pub(crate) fn next(&mut self) -> Result<Option<(usize, SegmentLine<'_>, Entry<'_>)>> {
        loop {
            if self.current.is_none() && !self.open_next()? {
                return Ok(None);
            }
            let Some((_, lines)) = &mut self.current else {
                continue;
            };
            if !lines.advance()? {
                self.current = None;
            } else if !lines.whole && lines.line().entry().is_err() {
                self.torn += 1;
                self.current = None;
            } else {
                break;
            }
        }
        let (index, lines) = self.current.as_ref().expect("the loop ends at a line");
        let line = lines.line();
        let entry = line.entry()?;
        Ok(Some((*index, line, entry)))
    }

    fn open_next(&mut self) -> Result<bool> {
        let Some(&name) = self.names.get(self.next) else {
            return Ok(false);
        };
        let path = name.path(&self.folder);
        let file = files::open(&path, Access::Read)?;
        let known = self
            .sealed
            .iter()
            .find(|segment| (segment.epoch, segment.number) == (name.epoch, name.number));
        if let Some(known) = known {
            let bytes = file
                .metadata()
                .map_err(|error| files::storage("read", &path, error))?
                .len();
            if bytes != known.bytes {
                return Err(files::damaged(
                    &path,
                    format!("it has {bytes} bytes and was closed with {}", known.bytes),
                ));
            }
        }
        self.current = Some((self.next, Lines::new(file, path)));
        self.next += 1;
        Ok(true)
    }
}
