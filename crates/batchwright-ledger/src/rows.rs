//! A set of row numbers.

use std::{collections::BTreeMap, fmt, ops::Range};

const PAGE_ROWS: u64 = 64 * 1024;
const PAGE_WORDS: usize = (PAGE_ROWS / 64) as usize;

/// A growable set of row numbers: one bit a row, in pages of 64 Ki rows (8 KiB each) that exist once one
/// of their rows does. 10 million rows are 1.25 MB.
#[derive(Clone, Default)]
pub struct RowSet {
    pages: BTreeMap<u64, Box<[u64; PAGE_WORDS]>>,
    len: u64,
}

impl RowSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row; `false` where it was there already.
    pub fn insert(&mut self, row: u64) -> bool {
        let page = self
            .pages
            .entry(row / PAGE_ROWS)
            .or_insert_with(|| Box::new([0; PAGE_WORDS]));
        let (word, bit) = place(row);
        let new = page[word] & bit == 0;
        page[word] |= bit;
        self.len += u64::from(new);
        new
    }

    /// Takes a row out; `false` where it was not there.
    pub fn remove(&mut self, row: u64) -> bool {
        let Some(page) = self.pages.get_mut(&(row / PAGE_ROWS)) else {
            return false;
        };
        let (word, bit) = place(row);
        let there = page[word] & bit != 0;
        page[word] &= !bit;
        self.len -= u64::from(there);
        there
    }

    /// Whether a row is there.
    pub fn contains(&self, row: u64) -> bool {
        let (word, bit) = place(row);
        self.pages
            .get(&(row / PAGE_ROWS))
            .is_some_and(|page| page[word] & bit != 0)
    }

    /// How many rows are there.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether none is there.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The rows, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.iter().flat_map(|(page, words)| {
            let first = page * PAGE_ROWS;
            words.iter().zip(0_u64..).flat_map(move |(&word, index)| {
                let mut rest = word;
                std::iter::from_fn(move || {
                    (rest != 0).then(|| {
                        let bit = u64::from(rest.trailing_zeros());
                        rest &= rest - 1;
                        first + index * 64 + bit
                    })
                })
            })
        })
    }

    /// Appends the set as bytes.
    pub(crate) fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&(self.pages.len() as u64).to_le_bytes());
        for (page, words) in &self.pages {
            into.extend_from_slice(&page.to_le_bytes());
            for word in words.iter() {
                into.extend_from_slice(&word.to_le_bytes());
            }
        }
    }

    /// Takes a set off the front of `bytes`; `None` where there is none.
    pub(crate) fn read(bytes: &mut &[u8]) -> Option<Self> {
        let mut next = || {
            let (word, rest) = bytes.split_first_chunk::<8>()?;
            *bytes = rest;
            Some(u64::from_le_bytes(*word))
        };
        let mut set = Self::new();
        for _ in 0..next()? {
            let page = next()?;
            let mut words = Box::new([0; PAGE_WORDS]);
            for word in words.iter_mut() {
                *word = next()?;
                set.len += u64::from(word.count_ones());
            }
            set.pages.insert(page, words);
        }
        Some(set)
    }

    /// The rows of `range` that are not there, ascending.
    pub fn missing(&self, range: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        range.filter(|row| !self.contains(*row))
    }
}

fn place(row: u64) -> (usize, u64) {
    let within = row % PAGE_ROWS;
    ((within / 64) as usize, 1 << (within % 64))
}

impl FromIterator<u64> for RowSet {
    fn from_iter<I: IntoIterator<Item = u64>>(rows: I) -> Self {
        let mut set = Self::new();
        set.extend(rows);
        set
    }
}

impl Extend<u64> for RowSet {
    fn extend<I: IntoIterator<Item = u64>>(&mut self, rows: I) {
        for row in rows {
            self.insert(row);
        }
    }
}

impl fmt::Debug for RowSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowSet({} rows)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(steps in proptest::collection::vec((any::<bool>(), prop_oneof![0u64..300, 65_500u64..65_600, any::<u64>()]), 0..200)) {
            let mut set = RowSet::new();
            let mut model = BTreeSet::new();
            for (insert, row) in steps {
                if insert {
                    prop_assert_eq!(set.insert(row), model.insert(row));
                } else {
                    prop_assert_eq!(set.remove(row), model.remove(&row));
                }
                prop_assert_eq!(set.contains(row), model.contains(&row));
            }
            prop_assert_eq!(set.len(), model.len() as u64);
            prop_assert!(set.iter().eq(model.iter().copied()));
            let mut bytes = Vec::new();
            set.write(&mut bytes);
            let mut rest = bytes.as_slice();
            let read = RowSet::read(&mut rest).unwrap();
            prop_assert!(rest.is_empty() && read.len() == set.len() && read.iter().eq(set.iter()));
            prop_assert!(RowSet::read(&mut &bytes[..bytes.len() - 1]).is_none());
            prop_assert!(set.missing(0..300).eq((0..300).filter(|row| !model.contains(row))));
        }
    }
}
