//! Records, contexts and images by their ids, whatever the form of the files that hold them.
//!
//! `instruction_table` and `image_table` are what the rest opens; each form of images has a file beside them. All of them
//! stay on disk: what is held in memory is an index of the ids.

pub(crate) mod base64_image;
pub(crate) mod image_files;
pub(crate) mod image_names;
pub(crate) mod image_parquet;
pub(crate) mod image_table;
pub(crate) mod image_tar;
pub(crate) mod instruction_table;
