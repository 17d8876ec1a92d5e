//! What a pull is about to do, and who is told about it.

use std::path::PathBuf;

use crate::names::repository::{Commit, RepositoryId, Revision};
use crate::names::selection::Skipped;
use crate::transport::source::RemoteFile;

/// What a pull will do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The repository.
    pub id: RepositoryId,
    /// The revision asked for.
    pub revision: Revision,
    /// The commit that it is.
    pub commit: Commit,
    /// Address of the hub, or folder of the mirror.
    pub source: String,
    /// Where the files will be seen.
    pub folder: PathBuf,
    /// The files.
    pub files: Vec<PlannedFile>,
    /// Files that are left, and why.
    pub skipped: Vec<(RemoteFile, Skipped)>,
}

impl Plan {
    /// Bytes of all files.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|planned| planned.file.size).sum()
    }

    /// Bytes to download.
    pub fn missing_bytes(&self) -> u64 {
        self.files.iter().map(|planned| planned.file.size - planned.present).sum()
    }
}

/// A file of a [`Plan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// The file.
    pub file: RemoteFile,
    /// Bytes of it that are there.
    pub present: u64,
}

/// Told about progress, from several threads.
pub trait Observer: Sync {
    /// Before the first byte.
    fn planned(&self, _plan: &Plan) {}
    /// So many bytes of the planned files are there now; negative where some must come again.
    fn bytes(&self, _change: i64) {}
    /// A line for the user.
    fn note(&self, _line: &str) {}
}

/// An observer that says nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {}
