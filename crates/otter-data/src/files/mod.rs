//! Formats of files and what reads them, without a word about what they hold: JSON, base64, tar, Parquet, maps, indexes of
//! ids, files that get their names when they are complete.

pub(crate) mod base64_text;
pub(crate) mod hash_index;
pub(crate) mod json_index;
pub(crate) mod json_scan;
pub(crate) mod json_text;
pub(crate) mod mapped_file;
pub(crate) mod parquet;
pub(crate) mod positioned_file;
pub(crate) mod staging;
pub(crate) mod tar_archive;
pub(crate) mod text_file;
