//! Decoded parquet pages that were used last, within a limit of memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Where a value stands in the buffer of its page; null if it ends before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    /// A value that is absent.
    pub(crate) const NULL: Self = Self { start: 1, end: 0 };
}

/// The values of consecutive rows of one column.
pub(crate) struct DecodedPage {
    /// First row, counted in the file.
    pub(crate) first_row: u64,
    /// Number of rows.
    pub(crate) rows: u64,
    /// Of a column of lists: where each row's elements start in `values`, and the end.
    pub(crate) list_starts: Option<Vec<u32>>,
    /// The values, or the elements of all lists.
    pub(crate) values: Vec<Span>,
    /// What the values stand in.
    pub(crate) buffer: Bytes,
}

impl DecodedPage {
    /// The elements of a row (exactly one if the column has no lists); empty beyond the page.
    pub(crate) fn row(&self, row: u64) -> &[Span] {
        let Some(row) = row.checked_sub(self.first_row).filter(|row| *row < self.rows) else { return &[] };
        let row = row as usize;
        let range = match &self.list_starts {
            None => row..row + 1,
            Some(starts) => starts[row] as usize..starts[row + 1] as usize,
        };
        self.values.get(range).unwrap_or_default()
    }

    /// The bytes of a value, `None` if it is null.
    pub(crate) fn bytes(&self, span: Span) -> Option<&[u8]> {
        self.buffer.get(span.start as usize..span.end as usize)
    }

    /// Memory that the page takes.
    fn memory(&self) -> usize {
        let starts = self.list_starts.as_ref().map_or(0, |starts| starts.capacity() * size_of::<u32>());
        size_of::<Self>() + self.buffer.len() + self.values.capacity() * size_of::<Span>() + starts
    }
}

/// File, column, first row.
type Key = (u32, u32, u64);

#[derive(Default)]
struct Pages {
    pages: BTreeMap<Key, (Arc<DecodedPage>, u64)>,
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    bytes: usize,
}

impl Pages {
    fn touch(&mut self, key: Key) -> Option<Arc<DecodedPage>> {
        self.uses += 1;
        let (page, last_use) = self.pages.get_mut(&key)?;
        self.by_use.remove(last_use);
        self.by_use.insert(self.uses, key);
        *last_use = self.uses;
        Some(Arc::clone(page))
    }
}

/// Pages of several files and columns; the least recently used go first.
pub(crate) struct PageCache {
    pages: Mutex<Pages>,
    limit: usize,
}

impl PageCache {
    /// A cache that holds up to `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { pages: Mutex::default(), limit }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The page of a column of a file that holds `row`.
    pub(crate) fn find(&self, file: u32, column: u32, row: u64) -> Option<Arc<DecodedPage>> {
        let mut pages = self.pages();
        let (&key, (page, _)) = pages.pages.range((file, column, 0)..=(file, column, row)).next_back()?;
        if row - page.first_row < page.rows { pages.touch(key) } else { None }
    }

    /// Adds a page and drops others until the limit holds again.
    pub(crate) fn insert(&self, file: u32, column: u32, page: Arc<DecodedPage>) {
        let key = (file, column, page.first_row);
        let mut pages = self.pages();
        if pages.touch(key).is_some() {
            return; // another thread was faster
        }
        pages.bytes += page.memory();
        let used = pages.uses;
        pages.by_use.insert(used, key);
        pages.pages.insert(key, (page, used));
        while pages.bytes > self.limit {
            let Some((_, oldest)) = pages.by_use.pop_first() else { break };
            if let Some((page, _)) = pages.pages.remove(&oldest) {
                pages.bytes -= page.memory();
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Values are the row numbers, each one digit, and filler.
    fn page(first_row: u64, rows: u64, bytes: usize) -> Arc<DecodedPage> {
        let digits = (0..rows).map(|row| b'0' + ((first_row + row) % 10) as u8);
        let buffer: Vec<u8> = digits.chain(std::iter::repeat_n(b' ', bytes)).collect();
        let values = (0..rows as u32).map(|start| Span { start, end: start + 1 }).collect();
        Arc::new(DecodedPage { first_row, rows, list_starts: None, values, buffer: buffer.into() })
    }

    #[test]
    fn the_least_recently_used_page_goes_first() {
        let cache = PageCache::new(10_000);
        cache.insert(0, 0, page(0, 10, 4000));
        cache.insert(0, 0, page(10, 10, 4000));
        let found = cache.find(0, 0, 5).unwrap();
        assert_eq!(found.bytes(found.row(5)[0]), Some(&b"5"[..]));
        cache.insert(0, 1, page(0, 10, 4000));
        assert!(cache.find(0, 0, 15).is_none());
        assert!(cache.find(0, 0, 9).is_some());
        assert!(cache.find(0, 1, 0).is_some());
        assert!(cache.find(0, 1, 10).is_none());
        assert!(cache.find(1, 0, 0).is_none());
        // A page larger than the limit is not kept, and nothing else is either.
        cache.insert(0, 2, page(0, 1, 20_000));
        assert!(cache.find(0, 2, 0).is_none());
        let pages = cache.pages();
        assert_eq!((pages.bytes, pages.by_use.len(), pages.pages.len()), (0, 0, 0));
    }

    #[test]
    fn rows_of_lists() {
        let span = |start, end| Span { start, end };
        let page = DecodedPage {
            first_row: 7,
            rows: 3,
            list_starts: Some(vec![0, 2, 2, 3]),
            values: vec![span(0, 1), span(1, 1), Span::NULL],
            buffer: "a".into(),
        };
        assert_eq!(
            page.row(7).iter().map(|&span| page.bytes(span)).collect::<Vec<_>>(),
            [Some(&b"a"[..]), Some(b"")]
        );
        assert_eq!(page.row(8), []);
        assert_eq!(page.bytes(page.row(9)[0]), None);
        assert_eq!(page.row(10), []);
        assert_eq!(page.row(6), []);
    }
}
