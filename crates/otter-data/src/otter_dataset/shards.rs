//! Writes one table of the format as a series of parquet files.

use std::sync::Arc;

use otter_io::text::hex;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};

use super::manifest::{ManifestFile, digest_of_shards};
use super::schema::Table;
use crate::error::{DataError, Result};
use crate::files::hash_index::{HashIndex, hash_id};
use crate::files::parquet::file::ColumnForm;
use crate::files::staging::{StagedFile, Staging};

/// Largest single value; a page must stay below 2 GiB.
const MAX_VALUE_BYTES: usize = 1 << 30;

/// One value of a row.
pub(super) enum Cell<'a> {
    Value(&'a [u8]),
    List(&'a [String]),
}

/// A column of the row group being collected.
#[derive(Default)]
struct Pending {
    values: Vec<ByteArray>,
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

struct OpenShard {
    writer: SerializedFileWriter<StagedFile>,
    rows: u64,
}

struct ClosedShard {
    staged_name: String,
    file: ManifestFile,
}

/// The shards of one table.
pub(super) struct ShardSeries {
    table: &'static Table,
    shard_bytes: u64,
    pending: Vec<Pending>,
    pending_rows: usize,
    pending_bytes: usize,
    open: Option<OpenShard>,
    closed: Vec<ClosedShard>,
    hashes: Vec<(u64, u32)>,
}

impl ShardSeries {
    pub(super) fn new(table: &'static Table, shard_bytes: u64) -> Self {
        let columns = 1 + table.columns.len();
        Self {
            table,
            shard_bytes,
            pending: (0..columns).map(|_| Pending::default()).collect(),
            pending_rows: 0,
            pending_bytes: 0,
            open: None,
            closed: Vec::new(),
            hashes: Vec::new(),
        }
    }

    /// Number of rows so far.
    pub(super) fn rows(&self) -> u64 {
        self.hashes.len() as u64
    }

    /// Adds a row.
    pub(super) fn push(&mut self, staging: &Staging, id: &str, cells: &[Cell<'_>]) -> Result<()> {
        let size = |cell: &Cell<'_>| match cell {
            Cell::Value(value) => value.len(),
            Cell::List(elements) => elements.iter().map(|element| element.len() + 4).sum(),
        };
        let sizes = std::iter::once(id.len()).chain(cells.iter().map(size));
        if sizes.clone().any(|bytes| bytes > MAX_VALUE_BYTES) {
            return Err(DataError::Config(format!(
                "{} row {id:.100}: a value is larger than {MAX_VALUE_BYTES} bytes, which parquet cannot hold; leave it out",
                self.table.name
            )));
        }
        let bytes = sizes.sum::<usize>();
        let Ok(row) = u32::try_from(self.hashes.len()) else {
            return Err(DataError::Config(format!(
                "more than 4294967295 rows of {}; split the data set",
                self.table.name
            )));
        };
        // A shard may be exceeded by one row, not by one row group.
        if self.pending_rows > 0 && self.pending_bytes + bytes > self.group_bytes() {
            self.flush(staging)?;
        }
        self.hashes.push((hash_id(id.as_bytes()), row));
        self.pending[0].values.push(id.as_bytes().to_vec().into());
        for (pending, cell) in self.pending[1..].iter_mut().zip(cells) {
            match cell {
                Cell::Value(value) => pending.values.push(value.to_vec().into()),
                Cell::List([]) => {
                    pending.definition.push(0);
                    pending.repetition.push(0);
                }
                Cell::List(elements) => {
                    for (place, element) in elements.iter().enumerate() {
                        pending.values.push(element.as_bytes().to_vec().into());
                        pending.definition.push(1);
                        pending.repetition.push(i16::from(place > 0));
                    }
                }
            }
        }
        self.pending_rows += 1;
        self.pending_bytes += bytes;
        if self.pending_rows >= self.table.group_rows {
            self.flush(staging)?;
        }
        Ok(())
    }

    fn group_bytes(&self) -> usize {
        self.table.group_bytes.min(usize::try_from(self.shard_bytes).unwrap_or(usize::MAX))
    }

    /// Writes the collected rows as one row group.
    fn flush(&mut self, staging: &Staging) -> Result<()> {
        if self.pending_rows == 0 {
            return Ok(());
        }
        let is_full = |shard: &OpenShard| {
            shard.writer.bytes_written() as u64 + self.pending_bytes as u64 > self.shard_bytes
        };
        if self.open.as_ref().is_some_and(is_full) {
            self.close()?;
        }
        let mut shard = match self.open.take() {
            Some(shard) => shard,
            None => self.start(staging)?,
        };
        let path = shard.writer.inner().path().to_owned();
        self.write_group(&mut shard.writer).map_err(|error| write_failed(&path, error))?;
        shard.rows += self.pending_rows as u64;
        self.open = Some(shard);
        for pending in &mut self.pending {
            *pending = Pending::default();
        }
        self.pending_rows = 0;
        self.pending_bytes = 0;
        Ok(())
    }

    fn start(&self, staging: &Staging) -> Result<OpenShard> {
        let file = staging.file(&format!("{}-{}.parquet", self.table.name, self.closed.len()))?;
        let path = file.path().to_owned();
        let writer = self
            .table
            .schema()
            .and_then(|schema| SerializedFileWriter::new(file, schema, Arc::new(self.table.properties())))
            .map_err(|error| write_failed(&path, error))?;
        Ok(OpenShard { writer, rows: 0 })
    }

    fn write_group(&self, writer: &mut SerializedFileWriter<StagedFile>) -> Result<(), ParquetError> {
        let mut group = writer.next_row_group()?;
        for (number, pending) in self.pending.iter().enumerate() {
            let Some(mut column) = group.next_column()? else { break };
            let form =
                number.checked_sub(1).map_or(ColumnForm::Value, |place| self.table.columns[place].form);
            match form {
                ColumnForm::List => {
                    let levels = (Some(pending.definition.as_slice()), Some(pending.repetition.as_slice()));
                    column.typed::<ByteArrayType>().write_batch(&pending.values, levels.0, levels.1)?;
                }
                ColumnForm::Value if self.table.is_images && number > 0 => {
                    write_one_by_one(&mut column, &pending.values)?;
                }
                ColumnForm::Value => {
                    column.typed::<ByteArrayType>().write_batch(&pending.values, None, None)?;
                }
            }
            column.close()?;
        }
        group.close()?;
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(shard) = self.open.take() else { return Ok(()) };
        let path = shard.writer.inner().path().to_owned();
        let file = shard.writer.into_inner().map_err(|error| write_failed(&path, error))?;
        let finished = file.finish()?;
        self.closed.push(ClosedShard {
            staged_name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            file: ManifestFile {
                name: String::new(),
                rows: shard.rows,
                bytes: finished.bytes,
                sha256: hex(&finished.sha256),
            },
        });
        Ok(())
    }

    /// Completes the shards and the index. Gives each file's name in the staging folder and its entry in the manifest.
    pub(super) fn finish(mut self, staging: &Staging) -> Result<Vec<(String, ManifestFile)>> {
        self.flush(staging)?;
        self.close()?;
        let count = self.closed.len();
        let mut files: Vec<(String, ManifestFile)> = Vec::with_capacity(count + 1);
        for (number, shard) in self.closed.into_iter().enumerate() {
            let name = format!("{}-{number:05}-of-{count:05}.parquet", self.table.name);
            files.push((shard.staged_name, ManifestFile { name, ..shard.file }));
        }
        if files.is_empty() {
            return Ok(files);
        }
        let rows = self.hashes.len() as u64;
        let index = HashIndex::new(self.hashes);
        let shards: Vec<_> = files.iter().map(|(_, file)| file).collect();
        let digest = digest_of_shards(&shards);
        let name = format!("{}.index", self.table.name);
        let mut file = staging.file(&name)?;
        let path = file.path().to_owned();
        index.write(&mut file, &digest).map_err(|error| DataError::write(&path, error))?;
        let finished = file.finish()?;
        let sha256 = hex(&finished.sha256);
        files.push((name.clone(), ManifestFile { name, rows, bytes: finished.bytes, sha256 }));
        Ok(files)
    }
}

/// Large values: the writer looks at the size of a page after each batch, so a batch is one value.
fn write_one_by_one(
    column: &mut SerializedColumnWriter<'_>,
    values: &[ByteArray],
) -> Result<(), ParquetError> {
    let typed = column.typed::<ByteArrayType>();
    for value in values {
        typed.write_batch(std::slice::from_ref(value), None, None)?;
    }
    Ok(())
}

fn write_failed(path: &std::path::Path, error: ParquetError) -> DataError {
    DataError::write(path, error)
}
