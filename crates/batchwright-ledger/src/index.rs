//! Final outcomes in row order, in flat memory.

use crate::{
    files::{self, Access},
    ledger::Ledger,
    record::Entry,
    scan::{Finals, Scan},
    segment::{SegmentName, Segments},
};
use batchwright_core::{Error, ErrorKind, Result};
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    fs::File,
    io,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

const ENTRY_BYTES: usize = 16;
/// 256 entries, 4 KiB: rows that are far apart, as those of one model among many, cost little each.
const PAGE_ROWS: u64 = 256;
const PAGE_BYTES: usize = PAGE_ROWS as usize * ENTRY_BYTES;
/// Together 2 MiB, 131,072 rows: those of two full chunks, which is what is joined at once. Few in tests, so that
/// pages are written and read.
const PAGES: usize = if cfg!(test) { 4 } else { 512 };
/// Lines read ahead at most, in rows and in bytes: sorted by place, they make long runs.
const WINDOW_ROWS: usize = 8192;
const WINDOW_BYTES: usize = 1024 * 1024;
/// Lines that lie together are read together up to this size.
const RUN_BYTES: usize = 256 * 1024;
const OPEN_SEGMENTS: usize = 32;

/// The success bit of an entry's first word; the rest is the segment's index plus 1.
const SUCCESS: u32 = 1 << 31;

/// Where a row's line is.
#[derive(Clone, Copy)]
struct Place {
    segment: u32,
    success: bool,
    offset: u64,
    length: u32,
}

impl Place {
    fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        let head = (self.segment + 1) | if self.success { SUCCESS } else { 0 };
        bytes[..4].copy_from_slice(&head.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (offset, _) = rest.split_first_chunk::<8>()?;
        let head = u32::from_le_bytes(*head);
        let segment = (head & !SUCCESS).checked_sub(1)?;
        Some(Self {
            segment,
            success: head & SUCCESS != 0,
            offset: u64::from_le_bytes(*offset),
            length: u32::from_le_bytes(*length),
        })
    }
}

/// Each row's final outcome, in row order. As an iterator it gives row numbers and lines without their
/// newlines, to be read by [`crate::OutcomeRecord::parse`].
///
/// Of several outcomes of a row the first success is final, else the first one (F-099). Built from the
/// segments as they were then; what is appended later is not in it.
pub struct OutcomeIndex {
    pages: Pages,
    rows: u64,
    segments: Vec<PathBuf>,
    open: HashMap<u32, File>,
    /// The next row to read ahead.
    next_row: u64,
    /// Lines read ahead, in row order, and the bytes they are ranges of.
    window: VecDeque<(u64, usize, usize)>,
    bytes: Vec<u8>,
}

impl OutcomeIndex {
    pub(crate) fn build(ledger: &Ledger) -> Result<Self> {
        let mut pages = Pages::create(ledger)?;
        let mut segments = Segments::of(ledger)?;
        let names = segments.names().to_vec();
        let mut rows = 0;
        while let Some((segment, line, entry)) = segments.next()? {
            let (row, summary) = match entry {
                Entry::Outcome { row, summary } => (row, summary),
                Entry::Reopened { row } => {
                    pages.slot(row)?.fill(0);
                    pages.dirty(row);
                    continue;
                }
                _ => continue,
            };
            let fits = |_| {
                Error::new(
                    ErrorKind::Unexpected,
                    "index the outcomes: a number is past 32 bits",
                )
            };
            let place = Place {
                segment: u32::try_from(segment).map_err(fits)?,
                success: summary.is_success(),
                offset: line.offset,
                length: u32::try_from(line.bytes.len()).map_err(fits)?,
            };
            let slot = pages.slot(row)?;
            let better = match Place::from_bytes(slot) {
                None => true,
                Some(known) => place.success && !known.success,
            };
            if better {
                slot.copy_from_slice(&place.to_bytes());
                pages.dirty(row);
            }
            rows = rows.max(row + 1);
        }
        let path = |name: &SegmentName| name.path(ledger.folder());
        Ok(Self {
            pages,
            rows,
            segments: names.iter().map(path).collect(),
            open: HashMap::new(),
            next_row: 0,
            window: VecDeque::new(),
            bytes: Vec::new(),
        })
    }

    /// The highest row number that has an outcome, plus 1; 0 where none has.
    pub fn end(&self) -> u64 {
        self.rows
    }

    /// Calls `visit` with every row's number and line, in row order, until it fails. Saves a copy of each line
    /// against the iterator.
    ///
    /// # Errors
    /// The first error of `visit`; `Storage` where a segment cannot be read.
    pub fn for_each_in_order(
        &mut self,
        mut visit: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        loop {
            while let Some((row, start, end)) = self.window.pop_front() {
                visit(row, &self.bytes[start..end])?;
            }
            if !self.read_ahead()? {
                return Ok(());
            }
        }
    }

    /// The line of one row, wherever the iteration is; `None` where the row has no outcome.
    ///
    /// # Errors
    /// `Storage` where it cannot be read.
    pub fn get(&mut self, row: u64) -> Result<Option<Vec<u8>>> {
        if row >= self.rows {
            return Ok(None);
        }
        let Some(place) = Place::from_bytes(self.pages.slot(row)?) else {
            return Ok(None);
        };
        let mut line = vec![0; place.length as usize];
        self.read(place.segment, place.offset, &mut line)?;
        Ok(Some(line))
    }

    fn read(&mut self, segment: u32, offset: u64, into: &mut [u8]) -> Result<()> {
        let path = &self.segments[segment as usize];
        if !self.open.contains_key(&segment) && self.open.len() >= OPEN_SEGMENTS {
            self.open.clear();
        }
        let file = match self.open.entry(segment) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(files::open(path, Access::Read)?)
            }
        };
        files::read_at(file, into, offset).map_err(|error| files::storage("read", path, error))
    }

    /// Fills the window; `false` at the end.
    fn read_ahead(&mut self) -> Result<bool> {
        let mut places = Vec::new();
        let mut total = 0;
        while self.next_row < self.rows && places.len() < WINDOW_ROWS && total < WINDOW_BYTES {
            let row = self.next_row;
            self.next_row += 1;
            if let Some(place) = Place::from_bytes(self.pages.slot(row)?) {
                let start = total;
                total += place.length as usize;
                places.push((place, start));
                self.window.push_back((row, start, total));
            }
        }
        if places.is_empty() {
            return Ok(false);
        }
        places.sort_unstable_by_key(|(place, _)| (place.segment, place.offset));
        let mut bytes = std::mem::take(&mut self.bytes);
        // Doubled, it would be held at twice the size.
        bytes.reserve_exact(total.saturating_sub(bytes.len()));
        bytes.resize(total, 0);
        let mut run = Vec::new();
        let mut rest = places.as_slice();
        while let Some((&(first, start), _)) = rest.split_first() {
            // How many of the next lines follow one another in the same segment.
            let mut end = first.offset + u64::from(first.length);
            let mut count = 1;
            for (place, _) in &rest[1..] {
                let gap = place.offset.wrapping_sub(end);
                let length = end - first.offset + u64::from(place.length);
                if place.segment != first.segment || gap != 1 || length > RUN_BYTES as u64 {
                    break;
                }
                end = place.offset + u64::from(place.length);
                count += 1;
            }
            if count == 1 {
                let line = &mut bytes[start..start + first.length as usize];
                self.read(first.segment, first.offset, line)?;
            } else {
                run.resize((end - first.offset) as usize, 0);
                self.read(first.segment, first.offset, &mut run)?;
                for (place, start) in &rest[..count] {
                    let from = (place.offset - first.offset) as usize;
                    let length = place.length as usize;
                    bytes[*start..start + length].copy_from_slice(&run[from..from + length]);
                }
            }
            rest = &rest[count..];
        }
        self.bytes = bytes;
        Ok(true)
    }
}

impl Iterator for OutcomeIndex {
    type Item = Result<(u64, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((row, start, end)) = self.window.pop_front() {
                return Some(Ok((row, self.bytes[start..end].to_vec())));
            }
            match self.read_ahead() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    // Rows of a window that was not read must not be given out.
                    self.window.clear();
                    self.next_row = self.rows;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl fmt::Debug for OutcomeIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OutcomeIndex({} rows)", self.rows)
    }
}

/// The entries: a file, and the pages of it in use.
struct Pages {
    file: File,
    path: PathBuf,
    cached: Vec<Page>,
    /// Where in `cached` a page is.
    places: HashMap<u64, usize>,
    /// Where in `cached` the page asked for last is.
    last: usize,
    /// Where the search for a page to give up goes on.
    hand: usize,
    /// Pages from here on were never written.
    end: u64,
}

struct Page {
    number: u64,
    bytes: Box<[u8]>,
    dirty: bool,
    /// Asked for since the hand passed.
    used: bool,
}

impl Pages {
    fn create(ledger: &Ledger) -> Result<Self> {
        // Readers in other processes may have theirs in the same folder.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("index-{}-{number}.tmp", std::process::id());
        let path = ledger.folder().join(name);
        files::remove(&path)?;
        let file = files::create(&path)?;
        // The file lives on without its name, and goes with the process however that ends.
        #[cfg(unix)]
        files::remove(&path)?;
        Ok(Self {
            file,
            path,
            cached: Vec::new(),
            places: HashMap::new(),
            last: 0,
            hand: 0,
            end: 0,
        })
    }

    fn failed(&self, error: io::Error) -> Error {
        files::storage("index the outcomes in", &self.path, error)
    }

    /// A row's entry.
    fn slot(&mut self, row: u64) -> Result<&mut [u8]> {
        let number = row / PAGE_ROWS;
        let here = self.cached.get(self.last);
        if here.is_none_or(|page| page.number != number) {
            self.last = match self.places.get(&number) {
                Some(&place) => place,
                None => self.bring(number)?,
            };
        }
        let start = (row % PAGE_ROWS) as usize * ENTRY_BYTES;
        let page = &mut self.cached[self.last];
        page.used = true;
        Ok(&mut page.bytes[start..start + ENTRY_BYTES])
    }

    /// Marks the page of the row [`Pages::slot`] was just asked for.
    fn dirty(&mut self, row: u64) {
        let page = &mut self.cached[self.last];
        debug_assert_eq!(page.number, row / PAGE_ROWS);
        page.dirty = true;
    }

    /// Reads a page in, in the place of one that was not used lately; returns its place.
    fn bring(&mut self, number: u64) -> Result<usize> {
        let place = if self.cached.len() < PAGES {
            self.cached.push(Page {
                number,
                bytes: vec![0; PAGE_BYTES].into_boxed_slice(),
                dirty: false,
                used: false,
            });
            self.cached.len() - 1
        } else {
            self.give_up()?
        };
        let mut bytes = std::mem::take(&mut self.cached[place].bytes);
        let read = if number < self.end {
            files::read_at(&self.file, &mut bytes, number * PAGE_BYTES as u64)
        } else {
            bytes.fill(0);
            Ok(())
        };
        self.cached[place] = Page {
            // A page that could not be read is no row's.
            number: if read.is_ok() { number } else { u64::MAX },
            bytes,
            dirty: false,
            used: false,
        };
        read.map_err(|error| self.failed(error))?;
        self.places.insert(number, place);
        Ok(place)
    }

    /// Writes out a page that was not used since the hand passed last; returns its place.
    fn give_up(&mut self) -> Result<usize> {
        loop {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.cached.len();
            let page = &mut self.cached[place];
            if std::mem::take(&mut page.used) {
                continue;
            }
            let number = page.number;
            if page.dirty {
                files::write_at(&self.file, &page.bytes, number * PAGE_BYTES as u64)
                    .map_err(|error| files::storage("index the outcomes in", &self.path, error))?;
                self.end = self.end.max(number + 1);
            }
            self.places.remove(&number);
            return Ok(place);
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        #[cfg(not(unix))]
        if let Err(error) = files::remove(&self.path) {
            tracing::warn!(%error, "an index stays behind until the job is opened again");
        }
    }
}

/// Each row's final outcome in the order they were written: row numbers and lines without newlines.
pub struct UnorderedOutcomes {
    segments: Segments,
    finals: Finals,
}

impl UnorderedOutcomes {
    pub(crate) fn new(ledger: &Ledger) -> Result<Self> {
        let scan = Scan::run(ledger)?;
        Ok(Self {
            segments: Segments::of(ledger)?,
            finals: Finals::new(&scan),
        })
    }
}

impl Iterator for UnorderedOutcomes {
    type Item = Result<(u64, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.segments.next() {
                Ok(Some((_, line, Entry::Outcome { row, summary }))) => {
                    if self.finals.is_final(row, summary.is_success()) {
                        return Some(Ok((row, line.bytes.to_vec())));
                    }
                }
                Ok(Some((_, _, Entry::Reopened { row }))) => self.finals.reopened(row),
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => {
                    self.segments.stop();
                    return Some(Err(error));
                }
            }
        }
    }
}

impl fmt::Debug for UnorderedOutcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnorderedOutcomes").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        outcome_log::{self, OutcomeLog},
        record::OutcomeRecord,
    };
    use batchwright_core::{Ending, Outcome, Response};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn record(row: u64, text: Option<&str>) -> Vec<u8> {
        let ending = text.map_or(Ending::Expired, |text| {
            Ending::Succeeded(Response::from_text(text))
        });
        let mut line = Vec::new();
        OutcomeRecord::write(row, "id", &Outcome::new("id", ending), false, &mut line);
        line
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn rows_come_in_order_each_with_its_final_line(
            // More pages than are cached, so that pages are written and read again.
            outcomes in proptest::collection::vec(
                (prop_oneof![0u64..40, 0u64..40 * PAGE_ROWS], proptest::option::of("[a-z]{0,300}")), 1..150),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let ledger = Ledger::open(folder.path()).unwrap();
            // Small segments, so that there are many.
            let log = OutcomeLog::start_with(ledger.clone(), 4000, Box::new(outcome_log::create_segment)).unwrap();
            let mut model: BTreeMap<u64, (bool, Vec<u8>)> = BTreeMap::new();
            for piece in outcomes.chunks(7) {
                let records: Vec<_> = piece.iter().map(|(row, text)| record(*row, text.as_deref())).collect();
                log.append_blocking(&records).unwrap();
                for ((row, text), line) in piece.iter().zip(records) {
                    let known = model.entry(*row).or_insert_with(|| (text.is_some(), line.clone()));
                    if text.is_some() && !known.0 {
                        *known = (true, line);
                    }
                }
            }
            drop(log);
            let expected: Vec<_> = model.into_iter().map(|(row, (_, line))| (row, line)).collect();
            let found: Vec<_> = ledger.index().unwrap().map(Result::unwrap).collect();
            prop_assert!(found == expected);
            let mut visited = Vec::new();
            ledger.index().unwrap().for_each_in_order(|row, line| {
                visited.push((row, line.to_vec()));
                Ok(())
            }).unwrap();
            prop_assert!(visited == expected);
            let mut unordered: Vec<_> = ledger.unordered().unwrap().map(Result::unwrap).collect();
            unordered.sort();
            prop_assert!(unordered == expected);
            prop_assert!(ledger.verify(None).unwrap().is_ok());
            let leftovers = std::fs::read_dir(folder.path()).unwrap();
            let leftovers = leftovers.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("index"));
            prop_assert_eq!(leftovers.count(), 0);
        }
    }
}
