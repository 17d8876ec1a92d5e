//! Parquet files of several shapes, and damaged ones.

use std::path::Path;
use std::sync::Arc;

use crate::common::golden;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use otter_data::ImageTable;
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

struct Shape {
    optional: bool,
    dictionary: bool,
    version: WriterVersion,
    page_rows: usize,
    pandas: Option<&'static str>,
}

/// Rows `first..end`: image `id{row}` holds the text `image {row}`, repeated; every tenth row is null if allowed.
fn write(path: &Path, first: usize, end: usize, group_rows: usize, shape: &Shape) {
    let kind = if shape.optional { "optional" } else { "required" };
    let message =
        format!("message m {{ {kind} binary base64 (UTF8); {kind} binary __null_dask_index__ (UTF8); }}");
    let schema = Arc::new(parse_message_type(&message).unwrap());
    let metadata = shape.pandas.map(|text| vec![KeyValue::new("pandas".to_owned(), text.to_owned())]);
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(shape.dictionary)
        .set_writer_version(shape.version)
        .set_data_page_row_count_limit(shape.page_rows)
        .set_write_batch_size(shape.page_rows)
        .set_key_value_metadata(metadata)
        .build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    for start in (first..end).step_by(group_rows) {
        let rows = start..(start + group_rows).min(end);
        let mut group = writer.next_row_group().unwrap();
        for column in 0..2 {
            let is_null = |row: usize| column == 0 && shape.optional && row % 10 == 9;
            let text = |row: usize| match column {
                0 => STANDARD.encode(format!("image {row} ").repeat(row % 5 + 1)),
                _ => format!("id{row}"),
            };
            let values: Vec<ByteArray> =
                rows.clone().filter(|&row| !is_null(row)).map(|row| text(row).into_bytes().into()).collect();
            let levels: Vec<i16> = rows.clone().map(|row| i16::from(!is_null(row))).collect();
            let mut writer = group.next_column().unwrap().unwrap();
            let typed = writer.typed::<ByteArrayType>();
            typed.write_batch(&values, shape.optional.then_some(levels.as_slice()), None).unwrap();
            writer.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn every_row_of_every_shape_is_found() {
    let dask = Some(r#"{"index_columns": ["__null_dask_index__"], "columns": []}"#);
    for optional in [true, false] {
        for dictionary in [true, false] {
            for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
                let shape = Shape {
                    optional,
                    dictionary,
                    version,
                    page_rows: 7,
                    pandas: if optional { dask } else { None },
                };
                let folder = tempfile::tempdir().unwrap();
                write(&folder.path().join("part.2.parquet"), 0, 60, 25, &shape);
                // A later part that holds some ids again, in the order of numbers, not of names.
                write(&folder.path().join("part.10.parquet"), 55, 100, 100, &shape);
                std::fs::write(folder.path().join("_metadata"), "not a part").unwrap();
                for cache in [0, 300, 1 << 20] {
                    let table = ImageTable::open(folder.path(), cache).unwrap();
                    assert_eq!(table.len(), 100);
                    for row in (0..100).rev().chain([3, 97, 4, 50]) {
                        let found = table.encoded(&format!("id{row}"));
                        if optional && row % 10 == 9 {
                            assert!(found.unwrap_err().to_string().contains(&format!("id{row}")));
                        } else {
                            let expected = format!("image {row} ").repeat(row % 5 + 1);
                            assert_eq!(found.unwrap().unwrap(), expected.as_bytes(), "row {row}");
                        }
                    }
                    assert_eq!(table.encoded("id100").unwrap(), None);
                }
            }
        }
    }
}

#[test]
fn an_index_without_ids_is_explained() {
    let range = Some(r#"{"index_columns": [{"kind": "range", "start": 0}]}"#);
    let shape = Shape {
        optional: true,
        dictionary: true,
        version: WriterVersion::PARQUET_1_0,
        page_rows: 9,
        pandas: range,
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("numbered.parquet");
    write(&path, 0, 5, 5, &shape);
    let message = ImageTable::open(&path, 0).err().unwrap().to_string();
    assert!(message.contains("numbered.parquet") && message.contains("index"), "{message}");
    std::fs::write(&path, "no parquet").unwrap();
    assert!(ImageTable::open(&path, 0).is_err());
}

#[test]
fn damaged_files_are_errors_not_panics() {
    let original = std::fs::read(golden("data/images.parquet/part.0.parquet")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.parquet");
    let mut random = otter_data::PythonRandom::new(7);
    for round in 0..400 {
        let mut bytes = original.clone();
        if round % 4 == 0 {
            bytes.truncate(random.below(bytes.len() - 4) + 4);
        } else {
            // Half of the damage goes to the headers at both ends, where lengths are.
            for _ in 0..1 + round % 3 {
                let near = random.below(3000.min(bytes.len()));
                let at = match random.below(4) {
                    0 => near,
                    1 => bytes.len() - 1 - near,
                    _ => random.below(bytes.len()),
                };
                bytes[at] = random.next_u32() as u8;
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(table) = ImageTable::open(&path, 1 << 20) {
            for i in 0..9 {
                let _ = table.encoded(&format!("IMG_0{i}"));
            }
        }
    }
}
