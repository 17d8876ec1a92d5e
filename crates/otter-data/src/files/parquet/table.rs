//! Parquet files of one schema as one table with an id a row.
//!
//! Held in memory: the footers, 16 bytes a row for the index of ids (12 in a mapped file where there is an index file), and
//! the page cache.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rayon::prelude::*;

use crate::error::{DataError, Result};
use crate::files::hash_index::{HashIndex, hash_id};
use crate::files::parquet::file::{ColumnForm, ParquetFile};
use crate::files::parquet::page_cache::{DecodedPage, PageCache, Span};

/// Several parquet files, their rows numbered through.
pub(crate) struct ParquetTable {
    files: Vec<ParquetFile>,
    /// First row of each file, and the number of rows.
    starts: Vec<u32>,
    /// Number of the id column in each file.
    id_columns: Vec<u32>,
    index: HashIndex,
    /// Rows whose id comes again later, sorted.
    hidden: Vec<u32>,
    cache: PageCache,
}

/// What repeated ids mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RepeatedIds {
    /// The last row counts.
    LastCounts,
    /// They are an error.
    Refused,
}

/// A value that shares the memory of its page.
pub struct PageValue(Bytes);

impl std::ops::Deref for PageValue {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl ParquetTable {
    /// Opens the files. `id_column` says which column of a file holds the ids.
    pub(crate) fn open(
        paths: &[PathBuf],
        cache_bytes: usize,
        id_column: impl Fn(&ParquetFile) -> Result<u32> + Sync,
    ) -> Result<Self> {
        let files = paths.par_iter().map(|path| ParquetFile::open(path)).collect::<Result<Vec<_>>>()?;
        let id_columns = files.iter().map(&id_column).collect::<Result<Vec<_>>>()?;
        let mut starts = vec![0];
        let mut rows = 0_u64;
        for file in &files {
            rows += file.rows();
            let Ok(start) = u32::try_from(rows) else {
                return Err(DataError::format(
                    file.path(),
                    "more than 4294967295 rows in all files; split the data set",
                ));
            };
            starts.push(start);
        }
        let cache = PageCache::new(cache_bytes);
        Ok(Self {
            files,
            starts,
            id_columns,
            index: HashIndex::Memory(Vec::new()),
            hidden: Vec::new(),
            cache,
        })
    }

    /// Takes an index of the ids that was made before.
    pub(crate) fn set_index(&mut self, index: HashIndex) {
        self.index = index;
    }

    /// Reads all ids and indexes them.
    pub(crate) fn build_index(&mut self, repeated: RepeatedIds) -> Result<()> {
        let pairs = (0..self.files.len())
            .into_par_iter()
            .map(|file| self.hash_ids(file))
            .collect::<Result<Vec<_>>>()?
            .concat();
        self.index = HashIndex::new(pairs);
        let mut hidden = Vec::new();
        for group in self.index.shared() {
            let ids = group.iter().map(|&row| self.id(row)).collect::<Result<Vec<_>>>()?;
            for (place, id) in ids.iter().enumerate() {
                let Some(later) = ids[place + 1..].iter().position(|other| other == id) else { continue };
                if repeated == RepeatedIds::Refused {
                    let (file, _) = self.locate(group[place + 1 + later]);
                    return Err(DataError::format(
                        self.files[file].path(),
                        format!("id {id} is there twice; ids must be unique, write the data set anew"),
                    ));
                }
                hidden.push(group[place]);
            }
        }
        hidden.sort_unstable();
        self.hidden = hidden;
        Ok(())
    }

    fn hash_ids(&self, file: usize) -> Result<Vec<(u64, u32)>> {
        let (parquet, column, start) = (&self.files[file], self.id_columns[file], self.starts[file]);
        let mut pairs = Vec::new();
        let mut row = 0;
        while row < parquet.rows() {
            let page = parquet.page(column, row)?;
            while row < page.first_row + page.rows {
                let id = text(&page, page.row(row)).map_err(|what| no_id(parquet.path(), row, &what))?;
                pairs.push((hash_id(id.as_bytes()), start + row as u32));
                row += 1;
            }
        }
        Ok(pairs)
    }

    /// Number of different ids.
    pub(crate) fn len(&self) -> usize {
        self.rows() as usize - self.hidden.len()
    }

    /// Number of rows whose id comes again later.
    pub(crate) fn repeated(&self) -> usize {
        self.hidden.len()
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> u32 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// The files.
    pub(crate) fn files(&self) -> &[ParquetFile] {
        &self.files
    }

    /// The row of entry `entry` of [`Self::len`].
    pub(crate) fn row_of(&self, entry: usize) -> u32 {
        // The place'th hidden row stands before the entry if no more than `entry` rows that count precede it.
        let (mut low, mut high) = (0, self.hidden.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.hidden[middle] as usize - middle <= entry { low = middle + 1 } else { high = middle }
        }
        (entry + low) as u32
    }

    /// File of a row, and the row in it.
    fn locate(&self, row: u32) -> (usize, u64) {
        let file = self.starts.partition_point(|&start| start <= row).saturating_sub(1);
        let file = file.min(self.files.len().saturating_sub(1));
        (file, u64::from(row - self.starts[file]))
    }

    /// Number of a column of each file.
    pub(crate) fn columns(&self, name: &str, form: ColumnForm) -> Result<Vec<u32>> {
        self.files.iter().map(|file| file.column(name, form)).collect()
    }

    fn page(&self, columns: &[u32], row: u32) -> Result<(Arc<DecodedPage>, u64)> {
        let (file, in_file) = self.locate(row);
        let (Some(parquet), Some(&column)) = (self.files.get(file), columns.get(file)) else {
            return Err(DataError::Config(format!("row {row} is in no parquet file")));
        };
        if let Some(page) = self.cache.find(file as u32, column, in_file) {
            return Ok((page, in_file));
        }
        // Decompressed outside the lock, so that other threads go on.
        let page = Arc::new(parquet.page(column, in_file)?);
        self.cache.insert(file as u32, column, Arc::clone(&page));
        Ok((page, in_file))
    }

    /// The value of a row, `None` if it is null.
    pub(crate) fn value(&self, columns: &[u32], row: u32) -> Result<Option<PageValue>> {
        let (page, row) = self.page(columns, row)?;
        let bytes = page.row(row).first().and_then(|&span| page.bytes(span));
        Ok(bytes.map(|bytes| PageValue(page.buffer.slice_ref(bytes))))
    }

    /// The text of a row; the inner error says what is wrong with this one.
    pub(crate) fn text(&self, columns: &[u32], row: u32) -> Result<Result<String, String>> {
        let (page, row) = self.page(columns, row)?;
        Ok(text(&page, page.row(row)).map(str::to_owned))
    }

    /// The texts of a row of lists; the inner error says what is wrong with this one.
    pub(crate) fn texts(&self, columns: &[u32], row: u32) -> Result<Result<Vec<String>, String>> {
        let (page, row) = self.page(columns, row)?;
        let elements = page.row(row);
        Ok(elements
            .iter()
            .map(|element| text(&page, std::slice::from_ref(element)).map(str::to_owned))
            .collect())
    }

    /// The id of a row.
    pub(crate) fn id(&self, row: u32) -> Result<String> {
        let (page, in_file) = self.page(&self.id_columns, row)?;
        let id = text(&page, page.row(in_file));
        id.map(str::to_owned).map_err(|what| no_id(self.files[self.locate(row).0].path(), in_file, &what))
    }

    /// The last row with this id.
    pub(crate) fn find(&self, id: &str) -> Result<Option<u32>> {
        self.index.check()?;
        for row in self.index.rows(hash_id(id.as_bytes())).rev().filter(|&row| row < self.rows()) {
            let (page, in_file) = self.page(&self.id_columns, row)?;
            if text(&page, page.row(in_file)) == Ok(id) {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// The last row whose id has the same hash, without reading it.
    pub(crate) fn last_candidate(&self, id: &str) -> Option<u32> {
        self.index.check().ok()?;
        self.index.rows(hash_id(id.as_bytes())).rev().find(|&row| row < self.rows())
    }

    /// Position among the entries of a row that [`Self::find`] gave.
    pub(crate) fn entry_of(&self, row: u32) -> usize {
        row as usize - self.hidden.partition_point(|&hidden| hidden < row)
    }
}

/// The one value of a row as text.
fn text<'a>(page: &'a DecodedPage, values: &[Span]) -> Result<&'a str, String> {
    let [value] = values else { return Err("the row has no value".into()) };
    let bytes = page.bytes(*value).ok_or("the value is null")?;
    std::str::from_utf8(bytes).map_err(|error| format!("the text is not UTF-8 ({error})"))
}

fn no_id(path: &Path, row: u64, what: &str) -> DataError {
    DataError::format(path, format!("row {row} has no readable id: {what}"))
}
