//! The format `otter-dataset`: sharded parquet with small pages, an index of ids, and a manifest with checksums.
//!
//! ```text
//! DIR/manifest.json                          version, name, group, counts; rows, bytes and SHA-256 of every other file
//! DIR/instructions-00000-of-00002.parquet    id, instruction, answer: string; image_ids, rel_ins_ids: list<string>;
//!                                            language: string, empty if not said; example_only: "true" or empty
//! DIR/contexts-00000-of-00001.parquet        id: string; context: list<string>          absent if there are no contexts
//! DIR/images-00000-of-00010.parquet          id: string; image: bytes, not compressed   absent if there are no images
//! DIR/instructions.index  contexts.index  images.index                                  rows by the hash of their id
//! ```
//!
//! Any parquet reader reads the shards. A record is fetched by decompressing one page of 64 rows a column, an image by
//! reading one page of 128 KiB (or of its own, if it is larger). Opening reads footers only: the ids are not read unless
//! an index is missing. The last two columns are read only where the manifest counts records that have them, so that
//! directories without them open as before. Files are written under temporary names; the manifest comes last.

mod manifest;
mod reader;
mod schema;
mod shards;
mod writer;

pub use manifest::{FILE_NAME as MANIFEST_NAME, Manifest, ManifestFile, dataset_directory};
pub use reader::{
    ContextColumn, ImageColumn, InstructionColumns, OtterDatasetContexts, OtterDatasetImages,
    OtterDatasetInstructions, OtterDatasetTable,
};
pub(crate) use writer::OtterDatasetWriter;
