//! Images in parquet: one file, or a folder of part files as dask writes it (`spec/data.md` 1.3).
//!
//! The id column is read once into an index (about 100 bytes an image). An image is fetched by
//! decompressing the one page that holds its row; the last pages stay in a cache of bounded size.
//! A page is 1 MiB in theory, but pandas writes at least 1024 rows into one, which for images can
//! be 100 MB: random access to such files is slow whoever reads them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::basic::Type;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::error::{DataError, Result};
use crate::json_index::map_file;

/// Rows of the id column decoded at a time.
const ID_CHUNK: usize = 4096;

#[derive(Clone, Copy)]
struct Place {
    file: u32,
    row_group: u32,
    row: u64,
}

struct Part {
    path: PathBuf,
    reader: SerializedFileReader<Bytes>,
    image_column: usize,
}

/// Encoded images of one or several parquet files.
pub struct ParquetImages {
    path: PathBuf,
    parts: Vec<Part>,
    places: HashMap<Box<str>, Place>,
    cache: Mutex<PageCache>,
    repeated: usize,
}

impl ParquetImages {
    /// Opens the files and indexes their ids. Of a repeated id the last row counts.
    pub fn open(path: &Path, files: Vec<PathBuf>, cache_bytes: usize) -> Result<Self> {
        let mut images = Self {
            path: path.to_owned(),
            parts: Vec::with_capacity(files.len()),
            places: HashMap::new(),
            cache: Mutex::new(PageCache { pages: VecDeque::new(), bytes: 0, limit: cache_bytes }),
            repeated: 0,
        };
        for file in files {
            images.add_part(file)?;
        }
        Ok(images)
    }

    fn add_part(&mut self, path: PathBuf) -> Result<()> {
        let failed = |error: ParquetError| DataError::format(&path, format!("parquet: {error}"));
        let reader = SerializedFileReader::new(Bytes::from_owner(map_file(&path)?)).map_err(failed)?;
        let image_column = column_of(&reader, "base64", &path)?;
        let id_column = column_of(&reader, &id_column_name(&reader, &path)?, &path)?;
        let file = self.parts.len() as u32;
        for row_group in 0..reader.num_row_groups() {
            let mut row = 0;
            let pages = reader
                .get_row_group(row_group)
                .and_then(|group| group.get_column_page_reader(id_column))
                .map_err(failed)?;
            let mut column = byte_array_column(&reader, id_column, pages);
            loop {
                let ids = read_rows(&mut column, ID_CHUNK).map_err(failed)?;
                if ids.is_empty() {
                    break;
                }
                for id in ids {
                    let id =
                        id.as_ref().and_then(|id| std::str::from_utf8(id.data()).ok()).ok_or_else(|| {
                            DataError::format(
                                &path,
                                format!("row {row} of row group {row_group} has no readable id"),
                            )
                        })?;
                    let place = Place { file, row_group: row_group as u32, row };
                    self.repeated += usize::from(self.places.insert(id.into(), place).is_some());
                    row += 1;
                }
            }
        }
        self.parts.push(Part { path, reader, image_column });
        Ok(())
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many rows were left out because a later one has the same id.
    pub fn repeated_ids(&self) -> usize {
        self.repeated
    }

    /// Calls `visit` with each id, in the order of the rows.
    pub fn visit_ids(&self, visit: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        let mut ids: Vec<(&Place, &str)> = self.places.iter().map(|(id, place)| (place, &**id)).collect();
        ids.sort_unstable_by_key(|(place, _)| (place.file, place.row_group, place.row));
        ids.into_iter().try_for_each(|(_, id)| visit(id))
    }

    /// The base64 text of an image.
    pub fn base64(&self, id: &str) -> Result<Option<ImageText>> {
        let Some(&place) = self.places.get(id) else { return Ok(None) };
        let cached = self.cache.lock().unwrap_or_else(PoisonError::into_inner).find(place);
        let page = match cached {
            Some(page) => page,
            None => {
                // Decompressed outside the lock, so that other threads go on.
                let page = Arc::new(self.read_page(place)?);
                self.cache.lock().unwrap_or_else(PoisonError::into_inner).insert(page.clone());
                page
            }
        };
        let text = page.rows.get((place.row - page.first_row) as usize).and_then(Option::as_ref);
        match text {
            Some(text) => Ok(Some(ImageText(text.clone()))),
            None => Err(DataError::Image {
                name: format!("{id} of {}", self.parts[place.file as usize].path.display()),
                message: "its row holds no text; the conversion of this image failed".into(),
            }),
        }
    }

    fn read_page(&self, place: Place) -> Result<CachedPage> {
        let part = &self.parts[place.file as usize];
        self.try_read_page(part, place)
            .map_err(|error| DataError::format(&part.path, format!("parquet: {error}")))
    }

    fn try_read_page(&self, part: &Part, place: Place) -> Result<CachedPage, ParquetError> {
        let group = part.reader.get_row_group(place.row_group as usize)?;
        let mut pages = group.get_column_page_reader(part.image_column)?;
        let mut wanted = VecDeque::new();
        let mut first_row = 0;
        let rows = loop {
            let Some(page) = pages.peek_next_page()? else {
                return Err(ParquetError::General(format!("row {} is beyond the last page", place.row)));
            };
            if page.is_dict {
                wanted.extend(pages.get_next_page()?);
                continue;
            }
            let rows = page
                .num_rows
                .or(page.num_levels)
                .ok_or_else(|| ParquetError::General("a page does not say how many rows it has".into()))?;
            if place.row < first_row + rows as u64 {
                wanted.extend(pages.get_next_page()?);
                break rows;
            }
            pages.skip_next_page()?;
            first_row += rows as u64;
        };
        let bytes = wanted.iter().map(|page| page.buffer().len()).sum();
        let mut column = byte_array_column(&part.reader, part.image_column, Box::new(PagesInMemory(wanted)));
        let rows = read_rows(&mut column, rows)?;
        Ok(CachedPage { file: place.file, row_group: place.row_group, first_row, rows, bytes })
    }
}

/// Base64 text of one image, sharing the memory of its page.
pub struct ImageText(ByteArray);

impl std::ops::Deref for ImageText {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.data()
    }
}

fn column_of(reader: &SerializedFileReader<Bytes>, name: &str, path: &Path) -> Result<usize> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let column = schema.columns().iter().position(|column| column.path().string() == name);
    match column {
        Some(index) => {
            let column = schema.column(index);
            if column.physical_type() == Type::BYTE_ARRAY && column.max_rep_level() == 0 {
                return Ok(index);
            }
            Err(DataError::format(
                path,
                format!("column `{name}` is {:?}; a string column is expected", column.physical_type()),
            ))
        }
        None => {
            let names: Vec<_> = schema.columns().iter().map(|column| column.path().string()).collect();
            Err(DataError::format(path, format!("no column `{name}`; the columns are {}", names.join(", "))))
        }
    }
}

/// The id column: the index of the data frame, named by the metadata that pandas leaves.
fn id_column_name(reader: &SerializedFileReader<Bytes>, path: &Path) -> Result<String> {
    let metadata = reader.metadata().file_metadata();
    let pandas = metadata
        .key_value_metadata()
        .and_then(|pairs| pairs.iter().find(|pair| pair.key == "pandas"))
        .and_then(|pair| pair.value.as_deref());
    if let Some(text) = pandas {
        let parsed: BTreeMap<String, serde_json::Value> = serde_json::from_str(text)
            .map_err(|error| DataError::format(path, format!("the `pandas` metadata is damaged: {error}")))?;
        let index =
            parsed.get("index_columns").and_then(|columns| columns.get(0)).and_then(|name| name.as_str());
        return index.map(str::to_owned).ok_or_else(|| {
            DataError::format(
                path,
                "its index is a plain row number; write the table with the image ids as index",
            )
        });
    }
    // Written by something else: two columns leave no choice.
    let names: Vec<String> =
        metadata.schema_descr().columns().iter().map(|column| column.path().string()).collect();
    match names.as_slice() {
        [a, b] if a == "base64" => Ok(b.clone()),
        [a, b] if b == "base64" => Ok(a.clone()),
        _ => Err(DataError::format(
            path,
            format!("no `pandas` metadata names the id column among {}", names.join(", ")),
        )),
    }
}

fn byte_array_column(
    reader: &SerializedFileReader<Bytes>,
    column: usize,
    pages: Box<dyn PageReader>,
) -> ColumnReaderImpl<ByteArrayType> {
    let descriptor = reader.metadata().file_metadata().schema_descr().column(column);
    ColumnReaderImpl::new(descriptor, pages)
}

/// Up to `count` rows; nulls become `None`.
fn read_rows(
    column: &mut ColumnReaderImpl<ByteArrayType>,
    count: usize,
) -> Result<Vec<Option<ByteArray>>, ParquetError> {
    let mut levels = Vec::new();
    let mut values = Vec::new();
    let (rows, _, _) = column.read_records(count, Some(&mut levels), None, &mut values)?;
    if levels.is_empty() {
        // A required column stores no levels.
        return Ok(values.into_iter().map(Some).collect());
    }
    let mut values = values.into_iter();
    Ok(levels.into_iter().take(rows).map(|level| if level > 0 { values.next() } else { None }).collect())
}

struct CachedPage {
    file: u32,
    row_group: u32,
    first_row: u64,
    rows: Vec<Option<ByteArray>>,
    bytes: usize,
}

impl CachedPage {
    fn holds(&self, place: Place) -> bool {
        self.file == place.file
            && self.row_group == place.row_group
            && place.row >= self.first_row
            && place.row - self.first_row < self.rows.len() as u64
    }
}

/// The pages used last; the least recently used goes first.
struct PageCache {
    pages: VecDeque<Arc<CachedPage>>,
    bytes: usize,
    limit: usize,
}

impl PageCache {
    fn find(&mut self, place: Place) -> Option<Arc<CachedPage>> {
        let position = self.pages.iter().position(|page| page.holds(place))?;
        let page = self.pages.remove(position)?;
        self.pages.push_back(page.clone());
        Some(page)
    }

    fn insert(&mut self, page: Arc<CachedPage>) {
        self.bytes += page.bytes;
        self.pages.push_back(page);
        while self.bytes > self.limit {
            let Some(oldest) = self.pages.pop_front() else { break };
            self.bytes -= oldest.bytes;
        }
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
}

impl Iterator for PagesInMemory {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}
