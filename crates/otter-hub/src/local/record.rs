//! `otter-pull.json`, the record beside the files: what they are and where they came from.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{HubError, Result};
use crate::local::checksum::Checksum;
use crate::local::whole_file::write_atomically;
use crate::names::remote_path::RemotePath;
use crate::names::repository::{Commit, RepositoryId, Revision};
use crate::transport::source::RemoteFile;

/// The name of the record.
pub const RECORD_FILE: &str = "otter-pull.json";

/// Largest record that is read.
const MOST_BYTES: u64 = 64 << 20;

/// Where the files of a folder came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// `org/name`.
    pub id: String,
    /// The branch, tag or commit that was asked for.
    pub revision: String,
    /// The commit that it was. For a mirror without a record of its own: SHA-1 over names and checksums.
    pub commit: String,
    /// Address of the hub, or folder of the mirror.
    pub source: String,
    /// The files.
    pub files: Vec<RecordedFile>,
}

/// One file of a [`Record`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedFile {
    /// Name with `/` between folders.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// `sha256:…` or `git-sha1:…`.
    pub checksum: String,
}

impl Record {
    pub(crate) fn new(
        id: &RepositoryId,
        revision: &Revision,
        commit: &Commit,
        source: String,
        files: &[RemoteFile],
    ) -> Self {
        let files = files.iter().map(|file| RecordedFile {
            path: file.path.to_string(),
            size: file.size,
            checksum: file.checksum.to_string(),
        });
        Self {
            id: id.to_string(),
            revision: revision.to_string(),
            commit: commit.to_string(),
            source,
            files: files.collect(),
        }
    }

    /// The record of a folder, if it has one.
    ///
    /// # Errors
    /// When it cannot be read or is not a record.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(RECORD_FILE);
        let size = match std::fs::metadata(&path) {
            Ok(data) => data.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(HubError::io(&path, "open")(error)),
        };
        if size > MOST_BYTES {
            return Err(damaged(&path, format!("{size} bytes are too many")));
        }
        let text = std::fs::read(&path).map_err(HubError::io(&path, "read"))?;
        let record: Self = serde_json::from_slice(without_byte_order_mark(&text))
            .map_err(|error| damaged(&path, error.to_string()))?;
        record.remote_files(folder)?;
        Ok(Some(record))
    }

    /// The files with checked names and checksums.
    pub(crate) fn remote_files(&self, folder: &Path) -> Result<Vec<RemoteFile>> {
        let path = folder.join(RECORD_FILE);
        let file = |file: &RecordedFile| -> Result<RemoteFile> {
            let name = RemotePath::parse(&file.path)
                .map_err(|problem| damaged(&path, format!("file name {:?}: {problem}", file.path)))?;
            let checksum = Checksum::parse(&file.checksum)
                .ok_or_else(|| damaged(&path, format!("checksum {:?} of {name}", file.checksum)))?;
            Ok(RemoteFile { path: name, size: file.size, checksum })
        };
        self.files.iter().map(file).collect()
    }

    /// Names of files that are missing in `folder` or have another size.
    pub(crate) fn missing_files(&self, folder: &Path) -> Result<Vec<String>> {
        let is_missing = |file: &RemoteFile| {
            std::fs::metadata(file.path.below(folder)).map_or(true, |d| !d.is_file() || d.len() != file.size)
        };
        Ok(self.remote_files(folder)?.iter().filter(|f| is_missing(f)).map(|f| f.path.to_string()).collect())
    }

    /// Writes the record into `folder`. Files of an earlier record of the same commit stay listed.
    pub(crate) fn write(mut self, folder: &Path) -> Result<Self> {
        if let Ok(Some(earlier)) = Self::read(folder)
            && (&earlier.id, &earlier.commit) == (&self.id, &self.commit)
        {
            let missing = earlier.missing_files(folder)?;
            let kept = |file: &RecordedFile| {
                !missing.contains(&file.path) && !self.files.iter().any(|own| own.path == file.path)
            };
            let kept: Vec<RecordedFile> = earlier.files.iter().filter(|file| kept(file)).cloned().collect();
            self.files.extend(kept);
            self.files.sort_by(|a, b| a.path.cmp(&b.path));
        }
        let path = folder.join(RECORD_FILE);
        let mut text = serde_json::to_vec_pretty(&self).map_err(|error| damaged(&path, error.to_string()))?;
        text.push(b'\n');
        write_atomically(&path, &text)?;
        Ok(self)
    }
}

fn damaged(path: &Path, problem: String) -> HubError {
    HubError::NotHere {
        what: PathBuf::from(path).display().to_string(),
        problem: format!("not a record of a pull: {problem}"),
        advice: "remove it and pull again".to_string(),
    }
}
/// The bytes of a text file after its byte order mark (UTF-8), which some editors put in front.
pub(crate) fn without_byte_order_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}
