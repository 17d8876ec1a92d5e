//! Small files, written whole.

use std::fs;
use std::path::Path;

use otter_io::write_whole;

use crate::error::{HubError, Result};

/// Makes the folder around `path`.
pub(crate) fn create_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(folder) => fs::create_dir_all(folder).map_err(HubError::io(folder, "create the folder")),
        None => Ok(()),
    }
}

/// Writes a small file under another name and renames it.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    create_parent(path)?;
    write_whole(path, content).map_err(HubError::io(path, "write"))
}
