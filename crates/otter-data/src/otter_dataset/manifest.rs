//! `manifest.json` of an otter-dataset directory.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use otter_io::text::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::Group;
use crate::error::{DataError, Result};
use crate::files::json_text::parse_object;
use crate::text::clean::without_byte_order_mark;

/// Name of the manifest in its directory.
pub const FILE_NAME: &str = "manifest.json";

/// Value of [`Manifest::format`]; other programs' directories have a `manifest.json`, too.
const FORMAT: &str = "otter-dataset";

const VERSION: u32 = 1;

/// Largest manifest that is read: about 300 000 files.
const MAX_BYTES: u64 = 64 << 20;

/// What an otter-dataset directory holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `otter-dataset`.
    pub format: String,
    /// Version of the format.
    pub version: u32,
    /// Name of the data set.
    pub name: String,
    /// Task group, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
    /// Where the data come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Language of all records, as ISO 639-1 code, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Rate at which frames were taken from videos.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames_per_second: Option<f64>,
    /// Number of instruction records.
    pub records: u64,
    /// Number of samples with a context entry; 0 means that all records are samples.
    pub contexts: u64,
    /// Number of images.
    pub images: u64,
    /// Number of records that say their language.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub records_with_language: u64,
    /// Number of records that are only examples in the context of others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub example_only: u64,
    /// The other files.
    pub files: Vec<ManifestFile>,
}

/// One file of the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Name in the directory.
    pub name: String,
    /// Number of rows.
    pub rows: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of the content in hexadecimal.
    pub sha256: String,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The otter-dataset directory that a path means: the directory itself or its manifest. `None` if it is neither.
pub fn dataset_directory(path: &Path) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Head {
        format: String,
    }
    let manifest = if path.is_dir() {
        path.join(FILE_NAME)
    } else if path.file_name().is_some_and(|name| name == FILE_NAME) {
        path.to_owned()
    } else {
        return None;
    };
    let text = read_text(&manifest).ok()?;
    let head: Head = serde_json::from_str(&text).ok()?;
    (head.format == FORMAT).then(|| manifest.parent().unwrap_or(Path::new("")).to_owned())
}

fn read_text(path: &Path) -> Result<String> {
    let file = File::open(path).map_err(|error| DataError::io(path, error))?;
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|error| DataError::io(path, error))?;
    text.drain(..text.len() - without_byte_order_mark(text.as_bytes()).len());
    if text.len() as u64 > MAX_BYTES {
        return Err(DataError::format(path, format!("larger than {MAX_BYTES} bytes; this is no manifest")));
    }
    Ok(text)
}

impl Manifest {
    pub(super) fn new(name: &str) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            name: name.to_owned(),
            group: None,
            source: None,
            language: None,
            frames_per_second: None,
            records: 0,
            contexts: 0,
            images: 0,
            records_with_language: 0,
            example_only: 0,
            files: Vec::new(),
        }
    }

    /// Reads the manifest of an otter-dataset directory.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE_NAME);
        let manifest: Self = parse_object(read_text(&path)?.as_bytes()).map_err(|fault| {
            DataError::format(&path, format!("this is no manifest of a data set: {fault}"))
        })?;
        if manifest.format != FORMAT {
            return Err(DataError::format(
                &path,
                format!("its format is {:?}, {FORMAT:?} is expected", manifest.format),
            ));
        }
        if manifest.version != VERSION {
            return Err(DataError::format(
                &path,
                format!(
                    "otter-dataset version {} is unknown, {VERSION} is expected; use a newer program",
                    manifest.version
                ),
            ));
        }
        for file in &manifest.files {
            let plain = !file.name.is_empty()
                && file.name != ".."
                && file.name != "."
                && !file.name.contains(['/', '\\', ':', '\0']);
            if !plain {
                return Err(DataError::format(
                    &path,
                    format!("it lists {:?}, which is no plain file name", file.name),
                ));
            }
        }
        Ok(manifest)
    }

    /// The listed shards of a table (`instructions`, `contexts` or `images`), in order.
    pub(super) fn shards(&self, table: &str) -> Vec<&ManifestFile> {
        let is_shard = |name: &str| {
            name.strip_prefix(table).is_some_and(|rest| rest.starts_with('-') && rest.ends_with(".parquet"))
        };
        let mut shards: Vec<_> = self.files.iter().filter(|file| is_shard(&file.name)).collect();
        shards.sort_by(|a, b| a.name.cmp(&b.name));
        shards
    }

    /// The listed file of this name.
    pub(super) fn file(&self, name: &str) -> Option<&ManifestFile> {
        self.files.iter().find(|file| file.name == name)
    }

    /// Compares size and SHA-256 of every file with the manifest; the first difference is the error. `progress` gets the
    /// bytes that were read since its last call.
    pub fn verify_files(&self, directory: &Path, progress: &mut dyn FnMut(u64)) -> Result<()> {
        self.files.iter().try_for_each(|listed| listed.verify(directory, progress))
    }
}

impl ManifestFile {
    /// Compares size and SHA-256 of the file in `directory` with what is said here; a difference is the error. `progress`
    /// gets the bytes that were read since its last call.
    pub fn verify(&self, directory: &Path, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let path = directory.join(&self.name);
        let mut buffer = vec![0; 1 << 18];
        let mut file = File::open(&path).map_err(|error| DataError::io(&path, error))?;
        let mut digest = Sha256::new();
        let mut bytes = 0;
        loop {
            let count = file.read(&mut buffer).map_err(|error| DataError::io(&path, error))?;
            if count == 0 {
                break;
            }
            digest.update(&buffer[..count]);
            bytes += count as u64;
            progress(count as u64);
        }
        if bytes != self.bytes {
            return Err(wrong_size(&path, bytes, self.bytes));
        }
        let found = hex(&digest.finalize());
        if found != self.sha256 {
            let problem = format!(
                "its SHA-256 is {found}, but manifest.json says {}; the file was damaged or changed, copy it anew",
                self.sha256
            );
            return Err(DataError::format(&path, problem));
        }
        Ok(())
    }
}

pub(super) fn wrong_size(path: &Path, found: u64, expected: u64) -> DataError {
    DataError::format(
        path,
        format!(
            "{found} bytes, but manifest.json says {expected}; the file was cut or changed, copy it anew"
        ),
    )
}

/// What an index file says it belongs to: the names and checksums of the shards.
pub(super) fn digest_of_shards(shards: &[&ManifestFile]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for shard in shards {
        digest.update(format!("{} {}\n", shard.name, shard.sha256));
    }
    digest.finalize().into()
}
