//! Files mapped into memory for reading.

use crate::error::{FormatError, Result};
use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The bytes of a tensor inside a mapped file.
#[derive(Debug, Clone)]
pub struct Location {
    /// The file.
    pub path: Arc<Path>,
    /// The mapped file.
    pub map: Arc<Mmap>,
    /// From the first byte of the first element to the last byte that any index reaches. Checked
    /// against the file when the entry was made.
    pub bytes: Range<usize>,
}

/// Maps a whole file for reading.
///
/// # Errors
/// When it cannot be opened, is empty or is not a regular file.
pub fn map_file(path: &Path) -> Result<Arc<Mmap>> {
    let file = File::open(path).map_err(FormatError::io(path, "open"))?;
    let metadata = file.metadata().map_err(FormatError::io(path, "inspect"))?;
    if !metadata.is_file() {
        return Err(FormatError::damaged(path, "this is not a regular file"));
    }
    if metadata.len() == 0 {
        return Err(FormatError::damaged(path, "the file is empty; it was probably not written completely"));
    }
    // SAFETY: the mapping is read-only. Weight files are never changed in place, only replaced by
    // rename, which leaves the mapped content alive; another program that truncates the file meanwhile
    // is outside what a mapping can guard against, as in every loader that maps weights.
    let map = unsafe { Mmap::map(&file) }.map_err(FormatError::io(path, "map"))?;
    Ok(Arc::new(map))
}

/// Tells the system that these pages of a mapped file need not stay in memory.
#[cfg(unix)]
pub fn give_back(map: &Mmap, bytes: Range<usize>) {
    if bytes.is_empty() {
        return;
    }
    // SAFETY: the mapping is of a file and read-only, so that a page dropped here is read again from the file, with the
    // same content, when it is next touched; nothing can be lost.
    let _ =
        unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, bytes.start, bytes.len()) };
}

/// Other systems keep or drop pages by themselves.
#[cfg(not(unix))]
pub fn give_back(_map: &Mmap, _bytes: Range<usize>) {}
