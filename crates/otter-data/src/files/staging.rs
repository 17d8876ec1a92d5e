//! Files that are written in a hidden folder beside their destination and moved there when all are complete.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use crate::error::{DataError, Result};

static COUNTER: AtomicU64 = AtomicU64::new(0);

const PREFIX: &str = ".writing-";

/// A hidden folder inside a directory. Dropped, it is gone with all that was not published.
pub(crate) struct Staging {
    directory: PathBuf,
    folder: PathBuf,
}

impl Staging {
    /// Makes the directory if needed, and a hidden folder in it. What dead processes left there is removed.
    pub(crate) fn create(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).map_err(|error| DataError::write(directory, error))?;
        remove_abandoned(directory);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let folder = directory.join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&folder).map_err(|error| DataError::write(&folder, error))?;
        Ok(Self { directory: directory.to_owned(), folder })
    }

    /// Path of a name in the hidden folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Path of a name in the directory.
    pub(crate) fn destination(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Starts a file in the hidden folder.
    pub(crate) fn file(&self, name: &str) -> Result<StagedFile> {
        let path = self.path(name);
        let file = File::create_new(&path).map_err(|error| DataError::write(&path, error))?;
        let hashing = Hashing { file, digest: Sha256::new(), bytes: 0 };
        Ok(StagedFile { path, writer: BufWriter::with_capacity(1 << 18, hashing) })
    }

    /// Moves a finished file or folder to its place in the directory; what has that name there is replaced.
    pub(crate) fn publish(&self, name: &str, final_name: &str) -> Result<()> {
        let (from, to) = (self.path(name), self.destination(final_name));
        if to.is_dir() {
            let aside = self.path(&format!("replaced-{final_name}"));
            fs::rename(&to, &aside).map_err(|error| DataError::write(&to, error))?;
        }
        fs::rename(&from, &to).map_err(|error| DataError::write(&to, error))
    }

    /// Makes the new names durable.
    pub(crate) fn sync(&self) {
        // Not every system can sync a directory; the data themselves are synced.
        if let Ok(directory) = File::open(&self.directory) {
            let _ = directory.sync_all();
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Removes hidden folders of processes that no longer run, where the system can tell.
fn remove_abandoned(directory: &Path) {
    if !Path::new("/proc/self").exists() {
        return;
    }
    let Ok(listing) = fs::read_dir(directory) else { return };
    for entry in listing.flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner.to_string()).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A file being written, and the checksum of what was written so far.
pub(crate) struct StagedFile {
    path: PathBuf,
    writer: BufWriter<Hashing>,
}

struct Hashing {
    file: File,
    digest: Sha256,
    bytes: u64,
}

/// What a complete file holds.
pub(crate) struct Finished {
    /// Size in bytes.
    pub(crate) bytes: u64,
    /// SHA-256 of the content.
    pub(crate) sha256: [u8; 32],
}

impl StagedFile {
    /// Where it is being written.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes, naming the file on failure.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(|error| DataError::write(&self.path, error))
    }

    /// Completes and syncs the file.
    pub(crate) fn finish(self) -> Result<Finished> {
        let failed = |error: io::Error| DataError::write(&self.path, error);
        let hashing = self.writer.into_inner().map_err(|error| failed(error.into_error()))?;
        hashing.file.sync_all().map_err(failed)?;
        Ok(Finished { bytes: hashing.bytes, sha256: hashing.digest.finalize().into() })
    }
}

impl Write for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.digest.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn names_appear_when_published_and_nothing_else_stays() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("new/set");
        let staging = Staging::create(&directory).unwrap();
        for (name, text) in [("a", "1"), ("b", "2")] {
            let mut file = staging.file(name).unwrap();
            file.put(text.as_bytes()).unwrap();
            assert_eq!(file.finish().unwrap().bytes, 1);
        }
        staging.publish("a", "final").unwrap();
        fs::create_dir(directory.join(format!("{PREFIX}4294967295-0"))).unwrap();
        drop(staging);
        assert_eq!(names(&directory), [".writing-4294967295-0", "final"]);
        drop(Staging::create(&directory).unwrap());
        assert_eq!(names(&directory), ["final"]);
    }
}
