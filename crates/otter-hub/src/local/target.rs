//! Where a pull puts its files: the cache, or a folder of its own.
//!
//! A file grows under `<checksum>.incomplete` while a lock is held, and is renamed once its checksum is right. Locks are
//! one a blob in the cache, as in Python's tools, and one for the whole of a folder.

use std::fs;
use std::path::{Path, PathBuf};

use otter_io::atomic_file::temporary_sibling;

use crate::error::{HubError, Result};
use crate::local::cache::{Cache, CachedRepository};
use crate::local::checksum::sha1_digits;
use crate::local::record::Record;
use crate::local::whole_file::create_parent;
use crate::names::repository::{Commit, RepositoryId, Revision};
use crate::transport::source::RemoteFile;

/// The folder for unfinished files beside those of `--out`.
const WORK_FOLDER: &str = ".otter-pull";

/// A place for the files of one repository at one commit.
pub(crate) enum Target {
    /// Blobs by checksum, and a snapshot of links to them.
    Cache { repository: CachedRepository, commit: Commit },
    /// The files themselves.
    Folder { folder: PathBuf, recorded: Vec<RemoteFile> },
}

impl Target {
    pub(crate) fn cache(cache: &Cache, id: &RepositoryId, commit: &Commit) -> Self {
        Self::Cache { repository: cache.repository(id), commit: commit.clone() }
    }

    /// Files that a record in the folder lists may be replaced, others may not.
    pub(crate) fn folder(folder: &Path) -> Result<Self> {
        let recorded = match Record::read(folder)? {
            Some(record) => record.remote_files(folder)?,
            None => Vec::new(),
        };
        Ok(Self::Folder { folder: folder.to_path_buf(), recorded })
    }

    /// The folder a user sees.
    pub(crate) fn visible_folder(&self) -> PathBuf {
        match self {
            Self::Cache { repository, commit } => repository.snapshot(commit),
            Self::Folder { folder, .. } => folder.clone(),
        }
    }

    /// The folder whose disk fills up.
    pub(crate) fn storage_folder(&self) -> PathBuf {
        match self {
            Self::Cache { repository, .. } => repository.blobs(),
            Self::Folder { folder, .. } => folder.clone(),
        }
    }

    /// Where the finished file goes.
    pub(crate) fn place(&self, file: &RemoteFile) -> PathBuf {
        match self {
            Self::Cache { repository, .. } => repository.blobs().join(file.checksum.digits()),
            Self::Folder { folder, .. } => file.path.below(folder),
        }
    }

    /// Where the file grows.
    pub(crate) fn incomplete(&self, file: &RemoteFile) -> PathBuf {
        let digits = file.checksum.digits();
        match self {
            Self::Cache { repository, .. } => repository.blobs().join(format!("{digits}.incomplete")),
            Self::Folder { folder, .. } => {
                // Two files of the same content grow apart.
                let name = sha1_digits(file.path.as_str());
                folder.join(WORK_FOLDER).join(format!("{digits}-{}.incomplete", &name[..8]))
            }
        }
    }

    /// The file whose lock says that somebody works on this one; in a folder, [`Target::folder_lock`] does.
    pub(crate) fn lock(&self, file: &RemoteFile) -> Option<PathBuf> {
        match self {
            Self::Cache { repository, .. } => {
                Some(repository.locks().join(format!("{}.lock", file.checksum.digits())))
            }
            Self::Folder { .. } => None,
        }
    }

    /// The file whose lock says that somebody works on the whole folder.
    pub(crate) fn folder_lock(&self) -> Option<PathBuf> {
        match self {
            Self::Cache { .. } => None,
            Self::Folder { folder, .. } => Some(folder.join(WORK_FOLDER).join("lock")),
        }
    }

    /// Whether the file is there already. In the cache the size is compared, with `verify` and in a folder the content.
    pub(crate) fn has(&self, file: &RemoteFile, verify: bool) -> Result<bool> {
        let place = self.place(file);
        let size = match fs::symlink_metadata(&place) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(HubError::io(&place, "open")(error)),
            Ok(_) => fs::metadata(&place).ok().filter(fs::Metadata::is_file).map(|data| data.len()),
        };
        match self {
            Self::Cache { .. } => {
                let right =
                    size == Some(file.size) && (!verify || file.checksum.of_file(&place)? == file.checksum);
                if !right {
                    fs::remove_file(&place).map_err(HubError::io(&place, "remove the damaged file"))?;
                }
                Ok(right)
            }
            Self::Folder { recorded, .. } => {
                let found = match size {
                    Some(_) => file.checksum.of_file(&place)?.to_string(),
                    None => "no regular file".to_string(),
                };
                if found == file.checksum.to_string() {
                    return Ok(true);
                }
                if recorded.iter().any(|own| own.path == file.path) && size.is_some() {
                    return Ok(false);
                }
                Err(HubError::Occupied { path: place, found, expected: file.checksum.to_string() })
            }
        }
    }

    /// Makes the files, which are all there, visible. Comes last.
    pub(crate) fn publish(
        &self,
        record: Record,
        revision: &Revision,
        files: &[RemoteFile],
    ) -> Result<Record> {
        match self {
            Self::Cache { repository, commit } => {
                let snapshot = repository.snapshot(commit);
                for file in files {
                    let link = file.path.below(&snapshot);
                    create_parent(&link)?;
                    link_to_blob(&self.place(file), &link)?;
                }
                let record = record.write(&snapshot)?;
                if revision.as_commit().is_none() {
                    repository.write_reference(revision, commit)?;
                }
                Ok(record)
            }
            Self::Folder { folder, .. } => {
                remove_stale(folder, &record)?;
                let record = record.write(folder)?;
                // Unfinished files of earlier pulls are of no use any more.
                for item in fs::read_dir(folder.join(WORK_FOLDER)).into_iter().flatten().flatten() {
                    if item.path().extension().is_some_and(|e| e == "incomplete") {
                        let _ = fs::remove_file(item.path());
                    }
                }
                Ok(record)
            }
        }
    }
}

/// Removes what an earlier pull of another commit brought and this commit does not have, unless somebody changed it.
fn remove_stale(folder: &Path, record: &Record) -> Result<()> {
    let Some(earlier) = Record::read(folder)?.filter(|earlier| earlier.commit != record.commit) else {
        return Ok(());
    };
    for file in earlier.remote_files(folder)? {
        let path = file.path.below(folder);
        let is_kept = record.files.iter().any(|own| own.path == file.path.as_str());
        if !is_kept && path.is_file() && file.checksum.of_file(&path)? == file.checksum {
            fs::remove_file(&path).map_err(HubError::io(&path, "remove the file of the earlier commit"))?;
        }
    }
    Ok(())
}

/// Puts a relative link to `blob` at `link`, in the place of whatever is there.
#[cfg(unix)]
fn link_to_blob(blob: &Path, link: &Path) -> Result<()> {
    let pointed_to = relative_to(blob, link);
    if fs::read_link(link).is_ok_and(|there| there == pointed_to) {
        return Ok(());
    }
    let temporary = temporary_sibling(link).map_err(HubError::io(link, "link to the downloaded file"))?;
    let made =
        std::os::unix::fs::symlink(&pointed_to, &temporary).and_then(|()| fs::rename(&temporary, link));
    made.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        HubError::io(link, "link to the downloaded file")(error)
    })
}

/// Where links need rights that users lack, a second name of the same file, or a copy.
#[cfg(not(unix))]
fn link_to_blob(blob: &Path, link: &Path) -> Result<()> {
    let temporary = temporary_sibling(link).map_err(HubError::io(link, "link to the downloaded file"))?;
    let made = fs::hard_link(blob, &temporary)
        .or_else(|_| fs::copy(blob, &temporary).map(drop))
        .and_then(|()| fs::rename(&temporary, link));
    made.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        HubError::io(link, "link to the downloaded file")(error)
    })
}

/// `path` as seen from the folder of `link`; both below one folder.
#[cfg(unix)]
fn relative_to(path: &Path, link: &Path) -> PathBuf {
    let path: Vec<_> = path.components().collect();
    let from: Vec<_> = link.parent().map(|folder| folder.components().collect()).unwrap_or_default();
    let common = path.iter().zip(&from).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n(std::path::Component::ParentDir, from.len() - common);
    up.chain(path[common..].iter().copied()).collect()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn links_are_relative() {
        let link = Path::new("/c/models--a--b/snapshots/1/sub/f");
        assert_eq!(relative_to(Path::new("/c/models--a--b/blobs/x"), link), Path::new("../../../blobs/x"));
    }
}
