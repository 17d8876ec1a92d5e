//! A folder on this machine as the source of a pull: a mirror, or a snapshot of the cache.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::{HubError, Result};
use crate::local::checksum::{Checksum, sha1_digits};
use crate::local::record::{RECORD_FILE, Record};
use crate::names::remote_path::RemotePath;
use crate::names::repository::{Commit, RepositoryId};
use crate::transport::source::{Opened, RemoteFile, Source, TransportError};

/// Deepest folder that is looked into.
const MOST_LEVELS: usize = 16;

/// The files of a folder.
pub(crate) struct LocalSource {
    folder: PathBuf,
}

impl LocalSource {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf() }
    }

    /// The files that `record` lists, or else all files of the folder; those are read once for their checksums.
    pub(crate) fn list(&self, id: &RepositoryId, record: Option<&Record>) -> Result<Vec<RemoteFile>> {
        if let Some(record) = record {
            let missing = record.missing_files(&self.folder)?;
            if let Some(first) = missing.first() {
                return Err(HubError::NotHere {
                    what: id.to_string(),
                    problem: format!(
                        "{} lacks {first}, which its {RECORD_FILE} lists",
                        self.folder.display()
                    ),
                    advice: "complete the folder, or remove the record to take the files as they are"
                        .to_string(),
                });
            }
            return record.remote_files(&self.folder);
        }
        let mut files = Vec::new();
        self.walk(id, "", 0, &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    fn walk(&self, id: &RepositoryId, below: &str, level: usize, files: &mut Vec<RemoteFile>) -> Result<()> {
        let folder = self.folder.join(below);
        for item in fs::read_dir(&folder).map_err(HubError::io(&folder, "list"))? {
            let item = item.map_err(HubError::io(&folder, "list"))?;
            let name = item.file_name().to_string_lossy().into_owned();
            let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
            // Links to files are followed, links to folders are not: they could lead anywhere, or in a circle.
            let kind = item.file_type().map_err(HubError::io(&item.path(), "open"))?;
            if kind.is_dir() && !name.starts_with('.') && level < MOST_LEVELS {
                self.walk(id, &path, level + 1, files)?;
            } else if item.path().is_file() && path != RECORD_FILE {
                let checked = RemotePath::parse(&path).map_err(|problem| HubError::FileName {
                    what: id.to_string(),
                    name: path.clone(),
                    problem,
                })?;
                let size = fs::metadata(item.path()).map_err(HubError::io(&item.path(), "open"))?.len();
                let checksum = Checksum::sha256_of_file(&item.path())?;
                files.push(RemoteFile { path: checked, size, checksum });
            }
        }
        Ok(())
    }
}

/// In the place of a commit, where a mirror does not know it: changes exactly when a file does.
pub(crate) fn commit_of_content(files: &[RemoteFile]) -> Option<Commit> {
    let lines: Vec<String> = files.iter().map(|file| format!("{} {}\n", file.checksum, file.path)).collect();
    Commit::parse(&sha1_digits(&lines.concat()))
}

impl Source for LocalSource {
    fn open(&self, file: &RemoteFile, from: u64) -> Result<Opened, TransportError> {
        let path = file.path.below(&self.folder);
        let mut reader = File::open(&path).map_err(HubError::io(&path, "open"))?;
        reader.seek(SeekFrom::Start(from)).map_err(HubError::io(&path, "read"))?;
        Ok(Opened { start: from, reader: Box::new(reader) })
    }

    fn origin(&self) -> String {
        self.folder.display().to_string()
    }
}

/// One file of the cache, whatever it is asked for.
pub(crate) struct BlobSource {
    blob: PathBuf,
}

impl BlobSource {
    pub(crate) fn new(blob: PathBuf) -> Self {
        Self { blob }
    }
}

impl Source for BlobSource {
    fn open(&self, _: &RemoteFile, from: u64) -> Result<Opened, TransportError> {
        let mut reader = File::open(&self.blob).map_err(HubError::io(&self.blob, "open"))?;
        reader.seek(SeekFrom::Start(from)).map_err(HubError::io(&self.blob, "read"))?;
        Ok(Opened { start: from, reader: Box::new(reader) })
    }

    fn origin(&self) -> String {
        self.blob.display().to_string()
    }
}
