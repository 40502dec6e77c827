//! A provider's list of batches, read as far back as a search needs.

use crate::{BatchSummary, Error, ErrorKind, ListMark, Result, Timestamp};
use std::{collections::HashSet, time::Duration};

/// The most pages read before a list counts as endless: at 100 a page 50,000 batches, or a day at OpenAI's hourly
/// limit of creates.
const MAX_PAGES: usize = 500;

/// How much older than the newest batch known before a create something must be to be too old: servers'
/// clocks differ among themselves.
const SLACK: Duration = Duration::from_secs(3600);

/// A page of a provider's list, as it came.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ListPage {
    /// Its entries, in the list's order.
    pub batches: Vec<BatchSummary>,
    /// Whether an entry could not be read or has no id.
    pub unreadable: bool,
    /// Where the next page starts, if there is one.
    pub next: Option<String>,
    /// Whether the server says that there is one.
    pub more: bool,
}

impl ListPage {
    /// A page of these entries, of which every one could be read, and the last.
    pub fn new(batches: Vec<BatchSummary>) -> Self {
        Self {
            batches,
            ..Self::default()
        }
    }

    /// Says that an entry of it could not be read.
    #[must_use]
    pub fn with_unreadable(mut self, unreadable: bool) -> Self {
        self.unreadable = unreadable;
        self
    }

    /// Says that another page follows, and where it starts.
    #[must_use]
    pub fn with_next(mut self, more: bool, next: Option<String>) -> Self {
        self.more = more;
        self.next = next;
        self
    }
}

/// A list being read back to a mark, page by page: [`BatchProvider::list_since`](crate::BatchProvider::list_since)
/// of every provider.
///
/// ```
/// # use batchwright_core::{BatchSummary, ListMark, ListPage, ListWalk, Result};
/// # async fn page(_after: Option<&str>) -> Result<ListPage> { Ok(ListPage::new(Vec::new())) }
/// async fn list_since(mark: &ListMark) -> Result<Vec<BatchSummary>> {
///     let mut walk = ListWalk::new(mark);
///     let mut after = None;
///     loop {
///         after = walk.take(page(after.as_deref()).await?)?;
///         if after.is_none() {
///             return Ok(walk.into_found());
///         }
///     }
/// }
/// ```
///
/// Newest first is seen and not promised, so reading stops early only where the entries so far show it:
/// none is newer than the one before, and one is older than anything a create after the mark can be.
#[derive(Debug)]
pub struct ListWalk<'m> {
    mark: &'m ListMark,
    found: Vec<BatchSummary>,
    ids: HashSet<String>,
    cursors: HashSet<String>,
    floor: Option<Timestamp>,
    previous: Option<Timestamp>,
    falls: bool,
    rises: bool,
    reached: bool,
    pages: usize,
}

impl<'m> ListWalk<'m> {
    /// A walk back to `mark`.
    pub fn new(mark: &'m ListMark) -> Self {
        Self {
            mark,
            found: Vec::new(),
            ids: HashSet::new(),
            cursors: HashSet::new(),
            floor: mark.not_before,
            previous: None,
            falls: false,
            rises: false,
            reached: false,
            pages: 0,
        }
    }

    /// Takes a page in and says where the next one starts; `None` is the end.
    ///
    /// # Errors
    /// `Unsupported` where absence from the list would mean nothing: an entry cannot be read, its pages do not go
    /// on, or there are more than 500 (F-116).
    pub fn take(&mut self, page: ListPage) -> Result<Option<String>> {
        self.pages += 1;
        if self.pages > MAX_PAGES {
            return Err(cannot_finish("it has too many pages"));
        }
        // It may be the one that is looked for.
        if page.unreadable {
            return Err(cannot_finish("an entry of it cannot be read"));
        }
        let known = self.ids.len();
        for batch in page.batches {
            if self.ids.insert(batch.handle.id.clone()) {
                self.weigh(batch);
            }
        }
        let newest_first = self.falls && !self.rises;
        if !page.more || (newest_first && self.reached) {
            return Ok(None);
        }
        match page.next {
            Some(next) if self.ids.len() > known && self.cursors.insert(next.clone()) => {
                Ok(Some(next))
            }
            _ => Err(cannot_finish("its pages do not go on")),
        }
    }

    /// What is newer than the mark, as far as the list tells.
    pub fn into_found(self) -> Vec<BatchSummary> {
        self.found
    }

    fn weigh(&mut self, batch: BatchSummary) {
        match (self.previous, batch.created_at) {
            (Some(previous), Some(at)) => {
                self.falls |= at < previous;
                self.rises |= at > previous;
            }
            // Without times there is no order to see.
            (_, None) => self.rises = true,
            (None, Some(_)) => {}
        }
        self.previous = batch.created_at.or(self.previous);
        if self.mark.seen.contains(&batch.handle.id) {
            // The newest one known before the create, where the list is newest first.
            let floor = batch.created_at.map(|at| {
                let slack = i64::try_from(SLACK.as_millis()).unwrap_or(i64::MAX);
                Timestamp::from_unix_millis(at.as_unix_millis().saturating_sub(slack))
            });
            self.floor = self.floor.max(floor);
            return;
        }
        match (batch.created_at, self.floor) {
            (Some(at), Some(floor)) if at < floor => self.reached = true,
            _ => self.found.push(batch),
        }
    }
}

/// The server answered, and its list is of no use for finding a batch.
fn cannot_finish(why: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("read the list of batches: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchHandle, BatchStatus, InputRef};

    /// A list of (id, created at) served in pages of `size`.
    fn read_list(
        mark: &ListMark,
        list: &[(&str, i64)],
        size: usize,
    ) -> Result<(Vec<String>, usize)> {
        let mut reading = ListWalk::new(mark);
        for (number, page) in list.chunks(size).enumerate() {
            let batches = page.iter().map(|&(id, at)| {
                let handle = BatchHandle::new("openai", id, InputRef::default());
                let at = Some(Timestamp::from_unix_seconds(at)).filter(|_| at != 0);
                BatchSummary::new(handle, BatchStatus::InProgress, None, at)
            });
            let page = ListPage {
                batches: batches.collect(),
                unreadable: false,
                next: page.last().map(|(id, _)| (*id).to_owned()),
                more: (number + 1) * size < list.len(),
            };
            if reading.take(page)?.is_none() {
                let found = reading.into_found().into_iter();
                return Ok((found.map(|batch| batch.handle.id).collect(), number + 1));
            }
        }
        panic!("the last page ends it")
    }

    fn mark(seen: &[&str], not_before: Option<i64>) -> ListMark {
        let seen = seen.iter().map(|&id| id.to_owned()).collect();
        ListMark::new(seen, not_before.map(Timestamp::from_unix_seconds))
    }

    const HOUR: i64 = 3600;

    /// F-116: in either order, with equal times, without times.
    #[test]
    fn a_list_is_read_as_far_as_its_order_proves() {
        let newest_first = [
            ("new", 100 * HOUR),
            ("old", 90 * HOUR),
            ("older", 80 * HOUR),
            ("far", 70 * HOUR),
            ("last", 60 * HOUR),
        ];
        let (found, pages) = read_list(&mark(&["old"], None), &newest_first, 1).unwrap();
        assert_eq!(
            (found, pages),
            (vec!["new".to_owned()], 3),
            "one beyond the mark by more than the slack"
        );
        let (found, pages) = read_list(&mark(&[], Some(85 * HOUR)), &newest_first, 1).unwrap();
        assert_eq!(
            (found, pages),
            (vec!["new".to_owned(), "old".to_owned()], 3)
        );

        let mut oldest_first = newest_first;
        oldest_first.reverse();
        for size in 1..=5 {
            let (found, pages) =
                read_list(&mark(&["last", "far"], None), &oldest_first, size).unwrap();
            assert!(found.contains(&"new".to_owned()), "{size}");
            assert_eq!(pages, 5_usize.div_ceil(size), "read to its end");
        }

        let shuffled = [
            ("a", 50 * HOUR),
            ("b", 70 * HOUR),
            ("old", 90 * HOUR),
            ("c", 10 * HOUR),
            ("new", 100 * HOUR),
        ];
        let (found, _) = read_list(&mark(&["old"], None), &shuffled, 1).unwrap();
        assert!(found.contains(&"new".to_owned()));

        let same_second = [("x", 9 * HOUR), ("old", 9 * HOUR), ("new", 9 * HOUR)];
        let (found, _) = read_list(&mark(&["old"], None), &same_second, 1).unwrap();
        assert!(found.contains(&"new".to_owned()));

        let timeless = [("a", 0), ("old", 0), ("new", 0)];
        let (found, _) = read_list(&mark(&["old"], None), &timeless, 1).unwrap();
        assert!(found.contains(&"new".to_owned()));
    }

    #[test]
    fn f_116_a_cursor_that_does_not_go_on_is_an_error() {
        let mark = mark(&[], None);
        let mut reading = ListWalk::new(&mark);
        let page = |id: &str, next: Option<&str>| ListPage {
            batches: vec![BatchSummary::new(
                BatchHandle::new("openai", id, InputRef::default()),
                BatchStatus::Failed,
                None,
                None,
            )],
            unreadable: false,
            next: next.map(str::to_owned),
            more: true,
        };
        assert_eq!(
            reading.take(page("a", Some("a"))).unwrap().as_deref(),
            Some("a")
        );
        assert!(reading.take(page("a", Some("b"))).is_err(), "nothing new");
        let mut reading = ListWalk::new(&mark);
        reading.take(page("a", Some("a"))).unwrap();
        assert!(
            reading.take(page("b", Some("a"))).is_err(),
            "the same cursor"
        );
        let mut reading = ListWalk::new(&mark);
        assert!(reading.take(page("a", None)).is_err(), "no cursor");
    }

    #[test]
    fn f_116_an_entry_that_cannot_be_read_spoils_a_search_and_not_the_first_page() {
        let page = || ListPage {
            batches: Vec::new(),
            unreadable: true,
            next: None,
            more: false,
        };
        let mark = mark(&[], None);
        let error = ListWalk::new(&mark).take(page()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn f_116_an_endless_list_ends() {
        let mark = ListMark::default();
        let mut walk = ListWalk::new(&mark);
        let ended = (0..=MAX_PAGES).find_map(|number| {
            let id = format!("b{number}");
            let handle = BatchHandle::new("p", id.clone(), InputRef::default());
            let batch = BatchSummary::new(handle, BatchStatus::InProgress, None, None);
            let page = ListPage::new(vec![batch]).with_next(true, Some(id));
            walk.take(page).err()
        });
        assert_eq!(ended.unwrap().kind(), ErrorKind::Unsupported);
    }
}
