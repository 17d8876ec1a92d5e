//! The folder in which a run keeps what it has computed, so that it can go on after an interruption.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Result, RetrieveError};
use crate::retrieve::encode::bert_config::read_json;

/// What the files of the folder belong to.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// Contents and encoder of `embeddings.f16`.
    embeddings: String,
    /// Options of `index.bin` and `neighbors.bin`.
    search: String,
}

/// The folder, locked.
pub struct Work {
    folder: PathBuf,
    state: State,
    /// Held until the run ends.
    _lock: File,
}

impl Work {
    /// Opens or creates the folder.
    ///
    /// # Errors
    /// When it cannot be written or another run uses it.
    pub fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(RetrieveError::io(folder, "create the folder"))?;
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(RetrieveError::io(&path, "create"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(RetrieveError::format(
                    folder,
                    "another run uses this folder; wait for it, or give another",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(RetrieveError::io(&path, "lock")(error)),
        }
        // What an earlier version of this program began.
        let _ = std::fs::rename(folder.join("neighbours.bin"), folder.join("neighbors.bin"));
        let path = folder.join("state.json");
        // A damaged state is that of nothing: the files are recomputed.
        let state = if path.exists() { read_json(&path).unwrap_or_default() } else { State::default() };
        Ok(Self { folder: folder.to_path_buf(), state, _lock: lock })
    }

    /// The embeddings' file, emptied unless it belongs to `key`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn embeddings(&mut self, key: &str) -> Result<PathBuf> {
        let path = self.folder.join("embeddings.f16");
        if self.state.embeddings != key {
            remove(&path)?;
            self.state = State { embeddings: key.to_owned(), search: String::new() };
            self.save()?;
        }
        Ok(path)
    }

    /// The files of the index and of the neighbors, removed unless they belong to `key` and the embeddings' key.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn search(&mut self, key: &str) -> Result<(PathBuf, PathBuf)> {
        let paths = (self.folder.join("index.bin"), self.folder.join("neighbors.bin"));
        if self.state.search != key {
            remove(&paths.0)?;
            remove(&paths.1)?;
            key.clone_into(&mut self.state.search);
            self.save()?;
        }
        Ok(paths)
    }

    fn save(&self) -> Result<()> {
        let json = serde_json::to_vec(&self.state).unwrap_or_default();
        write_file(&self.folder.join("state.json"), &json)
    }

    /// Removes what the run left, and the folder if nothing else is in it.
    pub fn clear(self) {
        for name in ["state.json", "embeddings.f16", "index.bin", "neighbors.bin", "lock"] {
            let _ = std::fs::remove_file(self.folder.join(name));
        }
        let _ = std::fs::remove_dir(&self.folder);
    }
}

/// Writes a file as a whole or not at all.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    otter_io::write_whole(path, bytes).map_err(RetrieveError::io(path, "write"))
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(RetrieveError::io(path, "remove")(error))
        }
        _ => Ok(()),
    }
}
