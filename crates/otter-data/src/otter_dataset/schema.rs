//! Tables and columns of the format.

use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::{ColumnPath, Type, TypePtr};

use crate::files::parquet::file::ColumnForm;

/// Rows of a text column in one page: what is decompressed to fetch one record.
const ROWS_OF_TEXT_PAGE: usize = 64;

/// Rows of the id column of the images in one page.
const ROWS_OF_ID_PAGE: usize = 256;

/// Bytes after which a page of images ends.
const IMAGE_PAGE_BYTES: usize = 128 << 10;

/// One of the tables of a data set.
pub(super) struct Table {
    /// Beginning of the file names.
    pub(super) name: &'static str,
    /// Columns after `id`.
    pub(super) columns: &'static [Column],
    /// Rows after which a row group ends.
    pub(super) group_rows: usize,
    /// Bytes after which a row group ends; this much is held in memory.
    pub(super) group_bytes: usize,
    /// Whether values are too large for pages of many rows, and compressed already.
    pub(super) is_images: bool,
}

/// One column.
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) form: ColumnForm,
    /// Whether values are text.
    pub(super) is_text: bool,
}

const fn text(name: &'static str) -> Column {
    Column { name, form: ColumnForm::Value, is_text: true }
}

const fn list(name: &'static str) -> Column {
    Column { name, form: ColumnForm::List, is_text: true }
}

/// Column of the codes of languages, empty where none is said. Read only where the manifest counts some.
pub(super) const LANGUAGE: &str = "language";

/// Column of the mark [`MARK`]. Read only where the manifest counts some.
pub(super) const EXAMPLE_ONLY: &str = "example_only";

/// What stands in [`EXAMPLE_ONLY`] of a record that is only an example; otherwise it is empty.
pub(super) const MARK: &str = "true";

/// Instruction records.
pub(super) const INSTRUCTIONS: Table = Table {
    name: "instructions",
    columns: &[
        text("instruction"),
        text("answer"),
        list("image_ids"),
        list("rel_ins_ids"),
        text(LANGUAGE),
        text(EXAMPLE_ONLY),
    ],
    group_rows: 8192,
    group_bytes: 8 << 20,
    is_images: false,
};

/// Samples with the ids of their context.
pub(super) const CONTEXTS: Table = Table {
    name: "contexts",
    columns: &[list("context")],
    group_rows: 16384,
    group_bytes: 8 << 20,
    is_images: false,
};

/// Encoded images.
pub(super) const IMAGES: Table = Table {
    name: "images",
    columns: &[Column { name: "image", form: ColumnForm::Value, is_text: false }],
    group_rows: 16384,
    group_bytes: 32 << 20,
    is_images: true,
};

impl Table {
    /// The parquet schema: every value is required, lists in the standard form of three levels.
    pub(super) fn schema(&self) -> Result<TypePtr, ParquetError> {
        let mut fields = vec![leaf("id", true)?];
        for column in self.columns {
            fields.push(match column.form {
                ColumnForm::Value => leaf(column.name, column.is_text)?,
                ColumnForm::List => {
                    let elements = Type::group_type_builder("list")
                        .with_repetition(Repetition::REPEATED)
                        .with_fields(vec![leaf("element", true)?])
                        .build()?;
                    Arc::new(
                        Type::group_type_builder(column.name)
                            .with_repetition(Repetition::REQUIRED)
                            .with_logical_type(Some(LogicalType::List))
                            .with_converted_type(ConvertedType::LIST)
                            .with_fields(vec![Arc::new(elements)])
                            .build()?,
                    )
                }
            });
        }
        Ok(Arc::new(Type::group_type_builder("record").with_fields(fields).build()?))
    }

    /// How the file is written: no dictionaries and no statistics (ids and texts differ), an offset index.
    pub(super) fn properties(&self) -> WriterProperties {
        let rows = if self.is_images { ROWS_OF_ID_PAGE } else { ROWS_OF_TEXT_PAGE };
        let builder = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_data_page_row_count_limit(rows)
            .set_write_batch_size(rows)
            .set_created_by("otter".to_owned());
        if !self.is_images {
            return builder.build();
        }
        let image = ColumnPath::from("image");
        builder
            .set_column_compression(image.clone(), Compression::UNCOMPRESSED)
            .set_column_data_page_size_limit(image, IMAGE_PAGE_BYTES)
            .build()
    }
}

fn leaf(name: &str, is_text: bool) -> Result<TypePtr, ParquetError> {
    let builder =
        Type::primitive_type_builder(name, Physical::BYTE_ARRAY).with_repetition(Repetition::REQUIRED);
    let builder = if is_text {
        builder.with_logical_type(Some(LogicalType::String)).with_converted_type(ConvertedType::UTF8)
    } else {
        builder
    };
    Ok(Arc::new(builder.build()?))
}
