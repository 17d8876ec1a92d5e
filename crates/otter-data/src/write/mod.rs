//! Where a data set is written to, whatever the form of the files.

pub(crate) mod convert;
mod image_parquet;
mod mimicit;

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::{Path, PathBuf};

use crate::config::Group;
use crate::error::{DataError, Result};
use crate::files::hash_index::hash_id;
use crate::otter_dataset::{MANIFEST_NAME, OtterDatasetWriter};
use crate::sample::record::Record;
use crate::write::mimicit::MimicItWriter;

/// Takes the parts of one data set. Ids must be unique among images and among records.
///
/// Nothing is visible under its final name before [`DatasetWriter::finish`].
pub trait DatasetWriter {
    /// One encoded image (JPEG, PNG, …), kept as it is.
    fn image(&mut self, id: &str, encoded: &[u8]) -> Result<()>;

    /// One instruction record.
    fn record(&mut self, id: &str, record: &Record) -> Result<()>;

    /// A sample and the ids of its context, in order.
    fn context(&mut self, id: &str, context: &[String]) -> Result<()>;

    /// Completes the files and gives them their final names.
    fn finish(self: Box<Self>) -> Result<WrittenSet>;
}

/// What a finished [`DatasetWriter`] holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct WrittenSet {
    /// Number of images.
    pub images: u64,
    /// Number of instruction records.
    pub records: u64,
    /// Number of samples with a context entry.
    pub contexts: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// The forms in which a data set can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputForm {
    /// `otter-dataset`: see [`crate::otter_dataset`].
    OtterDataset,
    /// `NAME_instructions.json`, `NAME.json` (images in base64), `NAME_train.json`.
    Json,
    /// As `Json`, with the images in `NAME.parquet/part.<n>.parquet` as dask writes them.
    Parquet,
    /// As `Json`, with the images as files below the folder `NAME`.
    Folder,
    /// As `Json`, with the images in `NAME.tar`.
    Tar,
}

impl OutputForm {
    /// All forms.
    pub const ALL: [Self; 5] = [Self::OtterDataset, Self::Json, Self::Parquet, Self::Folder, Self::Tar];

    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::OtterDataset => "otter-dataset",
            Self::Json => "json",
            Self::Parquet => "parquet",
            Self::Folder => "folder",
            Self::Tar => "tar",
        }
    }
}

impl fmt::Display for OutputForm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How a data set is written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WriterOptions {
    /// Size in bytes after which a parquet file ends; default 512 MB, for the form `parquet` 1.5 GB.
    pub shard_bytes: Option<u64>,
    /// Replace a data set of the same name; otherwise it is an error that there is one.
    pub overwrite: bool,
    /// Task group, kept in the manifest of the form `otter-dataset`.
    pub group: Option<Group>,
    /// Where the data come from, kept in the manifest.
    pub source: Option<String>,
    /// Language of all records, kept in the manifest.
    pub language: Option<String>,
    /// Rate at which frames were taken from videos, kept in the manifest.
    pub frames_per_second: Option<f64>,
}

/// Readers of parquet fail from 2 GiB on.
const MAX_SHARD_BYTES: u64 = 1_900_000_000;

impl WriterOptions {
    pub(crate) fn otter_dataset_shard_bytes(&self) -> u64 {
        self.shard_bytes.unwrap_or(512_000_000)
    }

    pub(crate) fn parquet_part_bytes(&self) -> u64 {
        self.shard_bytes.unwrap_or(1_500_000_000)
    }
}

/// Files and folders that a data set of this form and name has in its directory, present or not.
pub fn output_paths(form: OutputForm, directory: &Path, name: &str) -> Vec<PathBuf> {
    let images = match form {
        OutputForm::OtterDataset => return vec![directory.join(MANIFEST_NAME)],
        OutputForm::Json => format!("{name}.json"),
        OutputForm::Parquet => format!("{name}.parquet"),
        OutputForm::Folder => name.to_owned(),
        OutputForm::Tar => format!("{name}.tar"),
    };
    [format!("{name}_instructions.json"), images, format!("{name}_train.json")]
        .iter()
        .map(|file| directory.join(file))
        .collect()
}

/// Starts a data set in a directory, which is made if needed.
///
/// # Errors
/// A name that is no plain file name, a data set that is there already (unless it may be replaced), a directory that cannot
/// be written.
pub fn create_writer(
    form: OutputForm,
    directory: &Path,
    name: &str,
    options: &WriterOptions,
) -> Result<Box<dyn DatasetWriter>> {
    let plain = !name.is_empty()
        && name.len() <= 200
        && !name.starts_with('.')
        && !name.contains(|c: char| c.is_control() || matches!(c, '/' | '\\' | ':'));
    if !plain {
        return Err(DataError::Config(format!(
            "{name:?} cannot be the name of a data set; use letters and digits"
        )));
    }
    if let Some(bytes) = options.shard_bytes.filter(|&bytes| bytes == 0 || bytes > MAX_SHARD_BYTES) {
        return Err(DataError::Config(format!(
            "files of {bytes} bytes are not possible; give a size up to {MAX_SHARD_BYTES}, as readers of parquet fail from 2 GiB on"
        )));
    }
    if !options.overwrite
        && let Some(path) = output_paths(form, directory, name).into_iter().find(|path| path.exists())
    {
        return Err(DataError::format(
            path,
            "this is there already; choose another directory or name, or ask for it to be replaced",
        ));
    }
    Ok(match form {
        OutputForm::OtterDataset => Box::new(OtterDatasetWriter::create(directory, name, options)?),
        _ => Box::new(MimicItWriter::create(form, directory, name, options)?),
    })
}

/// Notices repeated ids by their hash; 8 bytes and the slack of a hash table an id.
#[derive(Default)]
pub(crate) struct UniqueIds {
    images: HashSet<u64, BuildHasherDefault<Same>>,
    records: HashSet<u64, BuildHasherDefault<Same>>,
    contexts: HashSet<u64, BuildHasherDefault<Same>>,
}

/// The keys are hashes already.
#[derive(Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

impl UniqueIds {
    pub(crate) fn image(&mut self, id: &str) -> Result<()> {
        note(&mut self.images, "image", id)
    }

    pub(crate) fn record(&mut self, id: &str) -> Result<()> {
        note(&mut self.records, "instruction", id)
    }

    pub(crate) fn context(&mut self, id: &str) -> Result<()> {
        note(&mut self.contexts, "context", id)
    }
}

fn note(seen: &mut HashSet<u64, BuildHasherDefault<Same>>, what: &str, id: &str) -> Result<()> {
    if seen.insert(hash_id(id.as_bytes())) {
        return Ok(());
    }
    Err(DataError::Config(format!("{what} id {id:?} is written twice; ids must be unique in a data set")))
}
