//! Writes images as pandas and dask do: `part.<n>.parquet` with a column `base64` and the ids as index.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::error::{DataError, Result};
use crate::files::staging::{StagedFile, Staging};

/// Name that dask gives to the index column.
const INDEX: &str = "__null_dask_index__";

/// Bytes after which a row group ends; this much is held in memory.
const GROUP_BYTES: usize = 32 << 20;

const GROUP_ROWS: usize = 16384;

/// Bytes after which a page ends.
const PAGE_BYTES: usize = 256 << 10;

/// Rows of the id column in one page.
const ROWS_OF_ID_PAGE: usize = 1024;

/// Base64 text of an image must stay below the 2 GiB of a page.
const MAX_IMAGE_BYTES: usize = 1 << 30;

/// The parts of one image table.
pub(crate) struct ParquetImageWriter {
    folder: String,
    part_bytes: u64,
    ids: Vec<ByteArray>,
    texts: Vec<ByteArray>,
    pending_bytes: usize,
    open: Option<SerializedFileWriter<StagedFile>>,
    parts: usize,
    written: u64,
}

impl ParquetImageWriter {
    /// Parts go to this folder of the staging folder.
    pub(crate) fn new(folder: &str, part_bytes: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            part_bytes,
            ids: Vec::new(),
            texts: Vec::new(),
            pending_bytes: 0,
            open: None,
            parts: 0,
            written: 0,
        }
    }

    /// Adds an image.
    pub(crate) fn push(&mut self, staging: &Staging, id: &str, encoded: &[u8]) -> Result<()> {
        if encoded.len() > MAX_IMAGE_BYTES {
            return Err(DataError::Image {
                name: format!("{id:.100}"),
                message: format!(
                    "{} bytes are more than parquet holds in one value; leave it out",
                    encoded.len()
                ),
            });
        }
        let text = STANDARD.encode(encoded);
        let bytes = id.len() + text.len();
        let limit = GROUP_BYTES.min(usize::try_from(self.part_bytes).unwrap_or(usize::MAX));
        if self.ids.len() >= GROUP_ROWS || (!self.ids.is_empty() && self.pending_bytes + bytes > limit) {
            self.flush(staging)?;
        }
        self.ids.push(id.as_bytes().to_vec().into());
        self.texts.push(text.into_bytes().into());
        self.pending_bytes += bytes;
        if self.pending_bytes >= limit {
            self.flush(staging)?;
        }
        Ok(())
    }

    fn flush(&mut self, staging: &Staging) -> Result<()> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let is_full = |part: &SerializedFileWriter<StagedFile>| {
            part.bytes_written() as u64 + self.pending_bytes as u64 > self.part_bytes
        };
        if self.open.as_ref().is_some_and(is_full) {
            self.close()?;
        }
        let mut part = match self.open.take() {
            Some(part) => part,
            None => {
                let file = staging.file(&format!("{}/part.{}.parquet", self.folder, self.parts))?;
                let path = file.path().to_owned();
                start(file).map_err(|error| DataError::write(&path, error))?
            }
        };
        let path = part.inner().path().to_owned();
        self.write_group(&mut part).map_err(|error| DataError::write(&path, error))?;
        self.open = Some(part);
        self.ids.clear();
        self.texts.clear();
        self.pending_bytes = 0;
        Ok(())
    }

    fn write_group(&self, part: &mut SerializedFileWriter<StagedFile>) -> Result<(), ParquetError> {
        let mut group = part.next_row_group()?;
        if let Some(mut column) = group.next_column()? {
            for text in &self.texts {
                // The writer looks at the size of a page after each batch.
                column.typed::<ByteArrayType>().write_batch(std::slice::from_ref(text), Some(&[1]), None)?;
            }
            column.close()?;
        }
        if let Some(mut column) = group.next_column()? {
            let levels = vec![1; self.ids.len()];
            column.typed::<ByteArrayType>().write_batch(&self.ids, Some(&levels), None)?;
            column.close()?;
        }
        group.close()?;
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(part) = self.open.take() else { return Ok(()) };
        let path = part.inner().path().to_owned();
        let file = part.into_inner().map_err(|error| DataError::write(&path, error))?;
        self.written += file.finish()?.bytes;
        self.parts += 1;
        Ok(())
    }

    /// Completes the last part; gives the size of all.
    pub(crate) fn finish(self, staging: &Staging) -> Result<u64> {
        let mut writer = self;
        writer.flush(staging)?;
        writer.close()?;
        Ok(writer.written)
    }
}

fn start(file: StagedFile) -> Result<SerializedFileWriter<StagedFile>, ParquetError> {
    let schema = parse_message_type(&format!(
        "message schema {{ optional binary base64 (UTF8); optional binary {INDEX} (UTF8); }}"
    ))?;
    let column = |name: &str| {
        serde_json::json!({
            "name": name, "field_name": name, "pandas_type": "unicode", "numpy_type": "object", "metadata": null
        })
    };
    let pandas = serde_json::json!({
        "index_columns": [INDEX],
        "column_indexes": [{
            "name": null, "field_name": null, "pandas_type": "unicode", "numpy_type": "object",
            "metadata": {"encoding": "UTF-8"}
        }],
        "columns": [column("base64"), column(INDEX)],
        "creator": {"library": "otter", "version": env!("CARGO_PKG_VERSION")},
        "pandas_version": "2.2.3",
    });
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_data_page_size_limit(PAGE_BYTES)
        .set_data_page_row_count_limit(ROWS_OF_ID_PAGE)
        .set_write_batch_size(ROWS_OF_ID_PAGE)
        .set_created_by("otter".to_owned())
        .set_key_value_metadata(Some(vec![KeyValue::new("pandas".to_owned(), pandas.to_string())]))
        .build();
    SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties))
}
