//! A file of rows that is written block by block and goes on where an interrupted run stopped.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::error::{Result, RetrieveError};

/// Rows of fixed size. What is there is its length: a block that was cut off is written again.
pub struct RowFile {
    path: PathBuf,
    file: File,
    row_bytes: u64,
    done: usize,
}

impl RowFile {
    /// Opens or creates a file of at most `rows` rows of `row_bytes`, written `block` rows at a time.
    ///
    /// # Errors
    /// When it cannot be opened or is longer than all rows.
    pub fn open(path: &Path, row_bytes: usize, rows: usize, block: usize) -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(RetrieveError::io(path, "open"))?;
        let length = file.metadata().map_err(RetrieveError::io(path, "open"))?.len();
        let row_bytes = row_bytes as u64;
        let stored = length / row_bytes.max(1);
        if stored > rows as u64 {
            return Err(RetrieveError::format(
                path,
                format!("{stored} rows; {rows} are expected. Delete it"),
            ));
        }
        let stored = stored as usize;
        let done = if stored == rows { rows } else { stored / block * block };
        if length != done as u64 * row_bytes {
            file.set_len(done as u64 * row_bytes).map_err(RetrieveError::io(path, "shorten"))?;
        }
        file.seek(SeekFrom::End(0)).map_err(RetrieveError::io(path, "seek"))?;
        Ok(Self { path: path.to_path_buf(), file, row_bytes, done })
    }

    /// Rows that are there.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Appends a block of whole rows.
    ///
    /// # Errors
    /// When writing fails, for example because the disk is full.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(RetrieveError::io(&self.path, "write"))?;
        self.done += (bytes.len() as u64 / self.row_bytes.max(1)) as usize;
        Ok(())
    }

    /// Syncs the file.
    ///
    /// # Errors
    /// When the system cannot.
    pub fn finish(self) -> Result<()> {
        self.file.sync_all().map_err(RetrieveError::io(&self.path, "fsync"))
    }
}

/// Maps a finished file; `None` where it is empty.
///
/// # Errors
/// When it cannot be mapped or is no whole number of rows of `row_bytes`.
pub fn map_rows(path: &Path, row_bytes: usize) -> Result<Option<Mmap>> {
    let file = File::open(path).map_err(RetrieveError::io(path, "open"))?;
    let length = file.metadata().map_err(RetrieveError::io(path, "open"))?.len();
    if row_bytes == 0 || !length.is_multiple_of(row_bytes as u64) {
        let problem = format!("{length} bytes are no whole number of rows of {row_bytes} bytes; delete it");
        return Err(RetrieveError::format(path, problem));
    }
    if length == 0 {
        return Ok(None);
    }
    // SAFETY: the map is read-only, and the file lies in the work folder whose lock the run holds, so no other run writes it.
    // The lock is advisory: another program that cuts the file meanwhile would end this process by a signal.
    unsafe { Mmap::map(&file) }.map(Some).map_err(RetrieveError::io(path, "map"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_cut_block_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        // (bytes there, rows of 2 bytes that count), of 7 rows in blocks of 3
        for (length, expected) in [(0, 0), (5, 0), (6, 3), (11, 3), (12, 6), (13, 6), (14, 7)] {
            std::fs::write(&path, vec![1; length]).unwrap();
            let mut rows = RowFile::open(&path, 2, 7, 3).unwrap();
            assert_eq!(rows.done(), expected, "{length}");
            rows.append(&vec![2; 2 * (7 - expected)]).unwrap();
            assert_eq!(rows.done(), 7);
            rows.finish().unwrap();
            assert_eq!(map_rows(&path, 2).unwrap().unwrap().len(), 14);
        }
        std::fs::write(&path, [0; 16]).unwrap();
        assert!(RowFile::open(&path, 2, 7, 3).err().unwrap().to_string().contains("8 rows"));
    }
}
