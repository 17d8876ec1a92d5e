//! The tables of an otter-dataset directory.

use std::path::{Path, PathBuf};

use super::manifest::{Manifest, digest_of_shards, wrong_size};
use super::schema::{CONTEXTS, EXAMPLE_ONLY, IMAGES, INSTRUCTIONS, LANGUAGE, MARK, Table};
use crate::error::{DataError, Result};
use crate::files::hash_index::HashIndex;
use crate::files::parquet::file::{ColumnForm, ParquetFile};
use crate::files::parquet::table::{PageValue, ParquetTable, RepeatedIds};
use crate::sample::record::Record;

/// Memory for decompressed pages of text; more helps only where records are read in order by many threads.
const TEXT_CACHE_BYTES: usize = 16 << 20;

/// Opens the shards of a table and its index.
fn open_table(
    directory: &Path,
    manifest: &Manifest,
    table: &Table,
    cache_bytes: usize,
) -> Result<ParquetTable> {
    let shards = manifest.shards(table.name);
    let mut paths = Vec::with_capacity(shards.len());
    for shard in &shards {
        let path = directory.join(&shard.name);
        let found = std::fs::metadata(&path).map_err(|error| DataError::io(&path, error))?.len();
        if found != shard.bytes {
            return Err(wrong_size(&path, found, shard.bytes));
        }
        paths.push(path);
    }
    let id_column = |file: &ParquetFile| file.column("id", ColumnForm::Value);
    let mut opened = ParquetTable::open(&paths, cache_bytes, id_column)?;
    for (file, shard) in opened.files().iter().zip(&shards) {
        if file.rows() != shard.rows {
            return Err(DataError::format(
                file.path(),
                format!("{} rows, but manifest.json says {}; copy the file anew", file.rows(), shard.rows),
            ));
        }
    }
    let index = format!("{}.index", table.name);
    match manifest.file(&index) {
        Some(listed) if opened.rows() > 0 => {
            let path = directory.join(&listed.name);
            let index = HashIndex::open(&path, opened.rows(), &digest_of_shards(&shards))?;
            opened.set_index(index);
        }
        _ => opened.build_index(RepeatedIds::Refused)?,
    }
    Ok(opened)
}

fn check_count(directory: &Path, table: &str, found: usize, expected: u64) -> Result<()> {
    if found as u64 == expected {
        return Ok(());
    }
    Err(DataError::format(
        directory.join(super::MANIFEST_NAME),
        format!("it says that there are {expected} {table}, but its files hold {found}"),
    ))
}

/// One table of an otter-dataset directory, whose rows are entries in file order; `C` says where its columns stand.
pub struct OtterDatasetTable<C> {
    directory: PathBuf,
    table: ParquetTable,
    columns: C,
}

/// Instruction records of an otter-dataset directory.
pub type OtterDatasetInstructions = OtterDatasetTable<InstructionColumns>;

/// Contexts of an otter-dataset directory.
pub type OtterDatasetContexts = OtterDatasetTable<ContextColumn>;

/// Encoded images of an otter-dataset directory.
pub type OtterDatasetImages = OtterDatasetTable<ImageColumn>;

impl<C> OtterDatasetTable<C> {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Id of an entry.
    pub fn id(&self, entry: usize) -> Result<String> {
        self.table.id(self.table.row_of(entry))
    }

    /// The entry with this id, or why its page cannot be read.
    pub fn try_find(&self, id: &str) -> Result<Option<usize>> {
        Ok(self.table.find(id)?.map(|row| self.table.entry_of(row)))
    }

    /// The entry with this id. An entry whose id cannot be read counts, so that reading it tells why: a row with the same
    /// hash is almost surely the one meant.
    pub fn find(&self, id: &str) -> Option<usize> {
        self.try_find(id)
            .unwrap_or_else(|_| self.table.last_candidate(id).map(|row| self.table.entry_of(row)))
    }

    /// The text of an entry in the column `name`.
    fn text(&self, name: &str, columns: &[u32], entry: usize) -> Result<String, String> {
        let value = self.table.text(columns, self.table.row_of(entry)).map_err(|error| error.to_string())?;
        value.map_err(|what| format!("column `{name}`: {what}"))
    }

    /// The list of an entry in the column `name`.
    fn texts(&self, name: &str, columns: &[u32], entry: usize) -> Result<Vec<String>, String> {
        let value = self.table.texts(columns, self.table.row_of(entry)).map_err(|error| error.to_string())?;
        value.map_err(|what| format!("column `{name}`: {what}"))
    }
}

/// Where the parts of a record stand.
pub struct InstructionColumns {
    /// Of each field, its column in each file.
    fields: [Vec<u32>; 4],
    languages: Languages,
    /// Column of the marks of records that are only examples, where there are some.
    example_only: Option<Vec<u32>>,
}

/// Where the language of a record stands.
enum Languages {
    Unsaid,
    /// All records have the one of the manifest.
    Same(String),
    /// The column of each file.
    Column(Vec<u32>),
}

impl OtterDatasetInstructions {
    /// Opens the records of a directory.
    pub fn open(directory: &Path) -> Result<Self> {
        let manifest = Manifest::read(directory)?;
        let table = open_table(directory, &manifest, &INSTRUCTIONS, TEXT_CACHE_BYTES)?;
        check_count(directory, "records", table.len(), manifest.records)?;
        let mut fields = <[Vec<u32>; 4]>::default();
        for (numbers, column) in fields.iter_mut().zip(INSTRUCTIONS.columns) {
            *numbers = table.columns(column.name, column.form)?;
        }
        let languages = match manifest.language {
            Some(code) => Languages::Same(code),
            None if manifest.records_with_language > 0 => {
                Languages::Column(table.columns(LANGUAGE, ColumnForm::Value)?)
            }
            None => Languages::Unsaid,
        };
        let example_only = (manifest.example_only > 0)
            .then(|| table.columns(EXAMPLE_ONLY, ColumnForm::Value))
            .transpose()?;
        let columns = InstructionColumns { fields, languages, example_only };
        Ok(Self { directory: directory.to_owned(), table, columns })
    }

    /// The record of an entry; the inner error says why this one record cannot be used.
    pub fn record(&self, entry: usize) -> Result<Record, String> {
        let InstructionColumns { fields: [instruction, answer, image_ids, rel_ins_ids], .. } = &self.columns;
        Ok(Record {
            instruction: self.text("instruction", instruction, entry)?,
            answer: self.text("answer", answer, entry)?,
            image_ids: self.texts("image_ids", image_ids, entry)?,
            rel_ins_ids: self.texts("rel_ins_ids", rel_ins_ids, entry)?,
            language: match &self.columns.languages {
                Languages::Unsaid => None,
                Languages::Same(code) => Some(code.clone()),
                Languages::Column(columns) => {
                    Some(self.text(LANGUAGE, columns, entry)?).filter(|code| !code.is_empty())
                }
            },
            example_only: match &self.columns.example_only {
                None => false,
                Some(columns) => self.text(EXAMPLE_ONLY, columns, entry)? == MARK,
            },
        })
    }
}

/// Where the lists of contexts stand in each file.
pub struct ContextColumn(Vec<u32>);

impl OtterDatasetContexts {
    /// Opens the contexts of a directory, which must have them.
    pub fn open(directory: &Path) -> Result<Self> {
        let manifest = Manifest::read(directory)?;
        if manifest.contexts == 0 {
            return Err(DataError::format(directory, "this data set has no table of contexts"));
        }
        let table = open_table(directory, &manifest, &CONTEXTS, TEXT_CACHE_BYTES)?;
        check_count(directory, "contexts", table.len(), manifest.contexts)?;
        let columns = ContextColumn(table.columns("context", ColumnForm::List)?);
        Ok(Self { directory: directory.to_owned(), table, columns })
    }

    /// Ids of the context of an entry; the inner error says why this one entry cannot be used.
    pub fn context(&self, entry: usize) -> Result<Vec<String>, String> {
        self.texts("context", &self.columns.0, entry)
    }
}

/// Where the encoded images stand in each file.
pub struct ImageColumn(Vec<u32>);

impl OtterDatasetImages {
    /// Opens the images of a directory, which must have them.
    pub fn open(directory: &Path, cache_bytes: usize) -> Result<Self> {
        let manifest = Manifest::read(directory)?;
        if manifest.images == 0 {
            return Err(DataError::format(directory, "this data set has no table of images"));
        }
        let table = open_table(directory, &manifest, &IMAGES, cache_bytes)?;
        check_count(directory, "images", table.len(), manifest.images)?;
        let columns = ImageColumn(table.columns("image", ColumnForm::Value)?);
        Ok(Self { directory: directory.to_owned(), table, columns })
    }

    /// The encoded bytes of an image.
    pub fn encoded(&self, entry: usize) -> Result<PageValue> {
        let row = self.table.row_of(entry);
        match self.table.value(&self.columns.0, row)? {
            Some(bytes) => Ok(bytes),
            None => Err(DataError::Image {
                name: format!("{} of {}", self.table.id(row)?, self.directory.display()),
                message: "column `image` is null in its row; bytes are expected".into(),
            }),
        }
    }
}
