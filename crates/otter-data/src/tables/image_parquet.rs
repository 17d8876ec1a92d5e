//! Images in parquet: one file, or a folder of part files as dask writes it.
//!
//! The id column is read once into an index of 16 bytes an image. An image is fetched by decompressing the one page that
//! holds its row; the last pages stay in a cache of bounded size. A page is 1 MiB in theory, but pandas writes at least
//! 1024 rows into one, which for images can be 100 MB: random access to such files is slow whoever reads them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{DataError, Result};
use crate::files::parquet::file::{ColumnForm, ParquetFile};
use crate::files::parquet::table::{PageValue, ParquetTable, RepeatedIds};

/// Encoded images of one or several parquet files.
pub struct ParquetImages {
    path: PathBuf,
    table: ParquetTable,
    base64_columns: Vec<u32>,
}

impl ParquetImages {
    /// Opens the files and indexes their ids. Of a repeated id the last row counts.
    pub fn open(path: &Path, files: Vec<PathBuf>, cache_bytes: usize) -> Result<Self> {
        let id_column = |file: &ParquetFile| file.column(&id_column_name(file)?, ColumnForm::Value);
        let mut table = ParquetTable::open(&files, cache_bytes, id_column)?;
        let base64_columns = table.columns("base64", ColumnForm::Value)?;
        table.build_index(RepeatedIds::LastCounts)?;
        Ok(Self { path: path.to_owned(), table, base64_columns })
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// How many rows were left out because a later one has the same id.
    pub fn repeated_ids(&self) -> usize {
        self.table.repeated()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Id of an image, in the order of the rows that count.
    pub fn id(&self, entry: usize) -> Result<String> {
        self.table.id(self.table.row_of(entry))
    }

    /// Position of the image with this id.
    pub fn find(&self, id: &str) -> Result<Option<usize>> {
        Ok(self.table.find(id)?.map(|row| self.table.entry_of(row)))
    }

    /// The base64 text of an image.
    pub fn base64(&self, entry: usize) -> Result<PageValue> {
        let row = self.table.row_of(entry);
        match self.table.value(&self.base64_columns, row)? {
            Some(text) => Ok(text),
            None => Err(DataError::Image {
                name: format!("{} of {}", self.table.id(row)?, self.path.display()),
                message: "its row holds no text; the conversion of this image failed".into(),
            }),
        }
    }
}

/// The id column: the index of the data frame, named by the metadata that pandas leaves.
fn id_column_name(file: &ParquetFile) -> Result<String> {
    let path = file.path();
    if let Some(text) = file.metadata_value("pandas") {
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
    let names = file.column_names();
    match names.as_slice() {
        [a, b] if a == "base64" => Ok(b.clone()),
        [a, b] if b == "base64" => Ok(a.clone()),
        _ => Err(DataError::format(
            path,
            format!("no `pandas` metadata names the id column among {}", names.join(", ")),
        )),
    }
}
