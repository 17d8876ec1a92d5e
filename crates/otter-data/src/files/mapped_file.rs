//! A file mapped for reading, and what that asks of those who write.
//!
//! Mapped pages are those of the file. When it is cut while it is mapped, touching what is gone ends the process by a signal
//! (SIGBUS), and no check of bounds against the mapped length prevents that. So the length of the file is looked at before
//! each use, which turns a cut file into an error. What remains is the moment between look and use: data files are to be
//! replaced by renaming a new one over them, which leaves the mapped content alive, and never to be written in place.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{DataError, Result};

/// A mapped file whose length is looked at before it is read.
pub(crate) struct MappedFile {
    path: PathBuf,
    file: File,
    map: Mmap,
}

impl MappedFile {
    /// Maps a file; an empty one is refused.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| DataError::io(path, error))?;
        let metadata = file.metadata().map_err(|error| DataError::io(path, error))?;
        if !metadata.is_file() {
            return Err(DataError::format(path, "this is no regular file"));
        }
        if metadata.len() == 0 {
            return Err(DataError::format(path, "the file is empty"));
        }
        // SAFETY: the map is read-only, and assumes that nobody writes the file in place meanwhile; see the head of this
        // file for what is done about those who do.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| DataError::io(path, error))?;
        Ok(Self { path: path.to_owned(), file, map })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes, if it still has the length it had when it was mapped.
    pub(crate) fn bytes(&self) -> Result<&[u8]> {
        self.check()?;
        Ok(&self.map)
    }

    /// Its bytes without a look at the length: for passes that call [`Self::check`] now and then.
    pub(crate) fn unchecked(&self) -> &[u8] {
        &self.map
    }

    /// Whether the file has the length that is mapped; otherwise the error says what to do.
    pub(crate) fn check(&self) -> Result<()> {
        let length = self.length().map_err(|error| DataError::io(&self.path, error))?;
        if length == self.map.len() as u64 {
            return Ok(());
        }
        Err(DataError::format(
            &self.path,
            format!(
                "the file has {length} bytes, {} when it was opened: it was written while it is read. Start again when it is \
                 complete, and replace data files by renaming a new one over them",
                self.map.len()
            ),
        ))
    }

    /// A system call that costs less than that behind [`File::metadata`].
    #[cfg(unix)]
    fn length(&self) -> std::io::Result<u64> {
        Ok(nix::sys::stat::fstat(&self.file)?.st_size as u64)
    }

    #[cfg(not(unix))]
    fn length(&self) -> std::io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Lets go of the pages read so far: after a pass over a large file they would count as memory of the process.
    pub(crate) fn release_pages(&self) {
        // SAFETY: the map is a read-only view of a file; pages that are let go of are read from it again when needed.
        #[cfg(unix)]
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}
