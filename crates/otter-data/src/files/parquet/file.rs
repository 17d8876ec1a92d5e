//! One parquet file: its rows by number, a page at a time.
//!
//! A value is fetched by reading and decompressing the one page that holds its row. Where the file has an offset index the
//! page is found without reading others; otherwise the headers of the pages before it are read.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::ByteArrayType;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::SerializedPageReader;
use parquet::schema::types::ColumnDescriptor;

use super::plain_page;
use crate::error::{DataError, Result};
use crate::files::parquet::page_cache::{DecodedPage, Span};
use crate::files::positioned_file::PositionedFile;

/// A page may always hold this many values; more only in proportion to its bytes.
const VALUES_OF_ANY_PAGE: usize = 1 << 20;

/// An open parquet file.
pub(crate) struct ParquetFile {
    path: PathBuf,
    file: Arc<PositionedFile>,
    metadata: ParquetMetaData,
    /// First row of each row group, and the number of rows of the file.
    group_starts: Vec<u64>,
}

/// What a column must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ColumnForm {
    /// One string or byte string a row.
    Value,
    /// A list of them.
    List,
}

impl ParquetFile {
    /// Opens a file and checks that what its footer says lies inside the file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = PositionedFile::open(path)?;
        let failed = |error: ParquetError| DataError::format(path, format!("parquet: {error}"));
        let metadata = ParquetMetaDataReader::new()
            .with_offset_index_policy(PageIndexPolicy::Optional)
            .parse_and_finish(&file)
            .map_err(failed)?;
        let mut group_starts = vec![0];
        let mut rows = 0_u64;
        for group in 0..metadata.num_row_groups() {
            check_row_group(&metadata, group, file.length())
                .map_err(|what| DataError::format(path, format!("parquet: row group {group}: {what}")))?;
            rows += metadata.row_group(group).num_rows() as u64;
            group_starts.push(rows);
        }
        if rows > u64::from(u32::MAX) {
            return Err(DataError::format(path, format!("{rows} rows; at most 4294967295 are possible")));
        }
        Ok(Self { path: path.to_owned(), file: Arc::new(file), metadata, group_starts })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> u64 {
        self.group_starts.last().copied().unwrap_or(0)
    }

    /// The value under a key of the file's metadata.
    pub(crate) fn metadata_value(&self, key: &str) -> Option<&str> {
        let pairs = self.metadata.file_metadata().key_value_metadata()?;
        pairs.iter().find(|pair| pair.key == key)?.value.as_deref()
    }

    /// Names of the top-level columns, one for each leaf.
    pub(crate) fn column_names(&self) -> Vec<String> {
        let columns = self.metadata.file_metadata().schema_descr().columns();
        columns.iter().filter_map(|column| column.path().parts().first().cloned()).collect()
    }

    /// Number of the column of this name, which must have the given form.
    pub(crate) fn column(&self, name: &str, form: ColumnForm) -> Result<u32> {
        let names = self.column_names();
        let wrong = |found: String| {
            let expected = match form {
                ColumnForm::Value => "a column of strings or bytes",
                ColumnForm::List => "a column of lists of strings",
            };
            DataError::format(&self.path, format!("column `{name}` {found}; {expected} is expected"))
        };
        let mut places = names.iter().enumerate().filter(|(_, found)| *found == name).map(|(place, _)| place);
        let Some(place) = places.next() else {
            return Err(DataError::format(
                &self.path,
                format!("no column `{name}`; the columns are {}", names.join(", ")),
            ));
        };
        if places.next().is_some() {
            return Err(wrong("has several parts".into()));
        }
        let column = self.descriptor(place as u32);
        let lists = match form {
            ColumnForm::Value => 0,
            ColumnForm::List => 1,
        };
        if column.physical_type() != Type::BYTE_ARRAY {
            return Err(wrong(format!("is {:?}", column.physical_type())));
        }
        if column.max_rep_level() != lists {
            return Err(wrong(format!("is nested {} deep", column.max_rep_level())));
        }
        Ok(place as u32)
    }

    fn descriptor(&self, column: u32) -> Arc<ColumnDescriptor> {
        self.metadata.file_metadata().schema_descr().column(column as usize)
    }

    /// The page of a column that holds `row`.
    pub(crate) fn page(&self, column: u32, row: u64) -> Result<DecodedPage> {
        self.try_page(column, row).map_err(|error| {
            let name = self.descriptor(column).path().string();
            DataError::format(&self.path, format!("parquet: column `{name}`, row {row}: {error}"))
        })
    }

    fn try_page(&self, column: u32, row: u64) -> Result<DecodedPage, ParquetError> {
        let group = self.group_starts.partition_point(|&start| start <= row) - 1;
        if group >= self.metadata.num_row_groups() {
            return Err(ParquetError::General(format!("the file has {} rows", self.rows())));
        }
        let group_start = self.group_starts[group];
        let in_group = row - group_start;
        let group_metadata = self.metadata.row_group(group);
        let locations =
            self.metadata.page_index_for_row_group(group).page_locations(column as usize).cloned();
        if let Some(locations) = &locations {
            let place = locations.partition_point(|page| page.first_row_index as u64 <= in_group);
            if let Some(page) = place.checked_sub(1).map(|place| &locations[place]) {
                self.file.check_page_claim(page.offset as u64)?;
            }
        }
        let mut pages = SerializedPageReader::new(
            Arc::clone(&self.file),
            group_metadata.column(column as usize),
            group_metadata.num_rows() as usize,
            locations,
        )?;
        let mut wanted = VecDeque::new();
        let mut first_row = 0;
        let rows = loop {
            let Some(page) = pages.peek_next_page()? else {
                return Err(ParquetError::General("the row is beyond the last page".into()));
            };
            if page.is_dict {
                wanted.extend(pages.get_next_page()?);
                continue;
            }
            let rows = page
                .num_rows
                .or(page.num_levels)
                .ok_or_else(|| ParquetError::General("a page does not say how many rows it has".into()))?;
            if in_group < first_row + rows as u64 {
                wanted.extend(pages.get_next_page()?);
                break rows;
            }
            pages.skip_next_page()?;
            first_row += rows as u64;
        };
        check_values(&wanted)?;
        let descriptor = self.descriptor(column);
        let page = match wanted.make_contiguous() {
            [
                Page::DataPage {
                    buf,
                    num_values,
                    encoding: Encoding::PLAIN,
                    def_level_encoding,
                    rep_level_encoding,
                    ..
                },
            ] if [*def_level_encoding, *rep_level_encoding] == [Encoding::RLE; 2] => {
                let levels = (descriptor.max_rep_level(), descriptor.max_def_level());
                let (repetition, definition, values) = plain_page::decode(buf, *num_values as usize, levels)?;
                Decoded::new(&descriptor, rows, &repetition, &definition, values, buf.clone())
            }
            // The library's decoders assert what damaged pages do not keep.
            _ => catch_unwind(AssertUnwindSafe(|| decode(descriptor, wanted, rows)))
                .unwrap_or_else(|_| Err(ParquetError::General("the page is damaged".into())))?,
        };
        if page.row_count() != rows {
            return Err(ParquetError::General(format!(
                "a page of {rows} rows is announced, but it holds {}",
                page.row_count()
            )));
        }
        Ok(DecodedPage {
            first_row: group_start + first_row,
            rows: rows as u64,
            list_starts: page.list_starts,
            values: page.values,
            buffer: page.buffer,
        })
    }
}

/// Checks what the parquet library takes for granted.
fn check_row_group(metadata: &ParquetMetaData, group: usize, length: u64) -> Result<(), String> {
    let row_group = metadata.row_group(group);
    let rows = row_group.num_rows();
    if rows < 0 {
        return Err(format!("{rows} rows are claimed"));
    }
    let pages = metadata.page_index_for_row_group(group);
    for (number, column) in row_group.columns().iter().enumerate() {
        let name = column.column_path();
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let size = column.compressed_size();
        let end = start.checked_add(size).filter(|&end| start >= 0 && size >= 0 && end as u64 <= length);
        let Some(end) = end else {
            return Err(format!(
                "column `{name}` claims {size} bytes at byte {start} of a file of {length} bytes; the file is cut or damaged"
            ));
        };
        let Some(locations) = pages.page_locations(number) else { continue };
        let mut before = (start, 0, true);
        for page in locations {
            let (place, row, first) = before;
            let page_end = page.offset.checked_add(i64::from(page.compressed_page_size));
            let in_order = page.offset >= place
                && page.compressed_page_size > 0
                && if first { page.first_row_index == 0 } else { page.first_row_index > row }
                && page.first_row_index <= rows;
            let Some(page_end) = page_end.filter(|&page_end| in_order && page_end <= end) else {
                return Err(format!("the offset index of column `{name}` is damaged"));
            };
            before = (page_end, page.first_row_index, false);
        }
    }
    Ok(())
}

/// Refuses pages that claim more values than their bytes can mean.
fn check_values(pages: &VecDeque<Page>) -> Result<(), ParquetError> {
    for page in pages {
        let (values, length) = (page.num_values() as usize, page.buffer().len());
        if values > VALUES_OF_ANY_PAGE.saturating_add(length.saturating_mul(8)) {
            return Err(ParquetError::General(format!("a page of {length} bytes claims {values} values")));
        }
    }
    Ok(())
}

struct Decoded {
    list_starts: Option<Vec<u32>>,
    values: Vec<Span>,
    buffer: Bytes,
}

impl Decoded {
    /// Number of complete rows.
    fn row_count(&self) -> usize {
        self.list_starts.as_ref().map_or(self.values.len(), |starts| starts.len().saturating_sub(1))
    }
}

/// Decodes up to `rows` rows of pages that are already decompressed.
fn decode(
    descriptor: Arc<ColumnDescriptor>,
    pages: VecDeque<Page>,
    rows: usize,
) -> Result<Decoded, ParquetError> {
    let mut column =
        ColumnReaderImpl::<ByteArrayType>::new(Arc::clone(&descriptor), Box::new(PagesInMemory(pages)));
    let (mut definition, mut repetition, mut values) = (Vec::new(), Vec::new(), Vec::new());
    column.read_records(rows, Some(&mut definition), Some(&mut repetition), &mut values)?;
    // Values of a dictionary stand anywhere; they are brought together.
    let mut buffer = Vec::new();
    let mut spans = Vec::with_capacity(values.len());
    for value in &values {
        let start = buffer.len() as u32;
        buffer.extend_from_slice(value.data());
        let end = u32::try_from(buffer.len())
            .map_err(|_| ParquetError::General("a page holds more than 4 GiB of values".into()))?;
        spans.push(Span { start, end });
    }
    Ok(Decoded::new(&descriptor, rows, &repetition, &definition, spans, buffer.into()))
}

impl Decoded {
    /// Puts values to their rows. Columns without levels of a kind have none of them.
    fn new(
        descriptor: &ColumnDescriptor,
        rows: usize,
        repetition: &[i16],
        definition: &[i16],
        values: Vec<Span>,
        buffer: Bytes,
    ) -> Self {
        let defined = descriptor.max_def_level();
        if defined == 0 {
            return Self { list_starts: None, values, buffer };
        }
        let mut present = values.into_iter();
        let mut next = || present.next().unwrap_or(Span::NULL);
        let mut decoded = Vec::with_capacity(definition.len());
        if descriptor.max_rep_level() == 0 {
            decoded
                .extend(definition.iter().map(|&level| if level == defined { next() } else { Span::NULL }));
            return Self { list_starts: None, values: decoded, buffer };
        }
        // Level from which on a list has an element, null or not.
        let element = defined - i16::from(descriptor.self_type().is_optional());
        let mut starts = Vec::with_capacity(rows + 1);
        for (&level, &repeated) in definition.iter().zip(repetition) {
            if repeated == 0 {
                starts.push(decoded.len() as u32);
            }
            if level >= element {
                decoded.push(if level == defined { next() } else { Span::NULL });
            }
        }
        starts.push(decoded.len() as u32);
        Self { list_starts: Some(starts), values: decoded, buffer }
    }
}

/// Pages that are already decompressed, given to a column reader.
struct PagesInMemory(VecDeque<Page>);

impl PageReader for PagesInMemory {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        Ok(self.0.pop_front())
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        Ok(self.0.front().map(|page| PageMetadata {
            num_rows: None,
            num_levels: Some(page.num_values() as usize),
            is_dict: matches!(page, Page::DictionaryPage { .. }),
        }))
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.0.pop_front();
        Ok(())
    }

    fn at_record_boundary(&mut self) -> Result<bool, ParquetError> {
        Ok(true)
    }
}

impl Iterator for PagesInMemory {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}
