//! One file: from the byte where an earlier attempt ended to a checked file under its final name.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{HubError, Result};
use crate::local::checksum::Checksum;
use crate::local::target::Target;
use crate::local::whole_file::create_parent;
use crate::observer::Observer;
use crate::settings::Retry;
use crate::transport::http::RetryPolicy;
use crate::transport::source::{RemoteFile, Source, TransportError};

/// Bytes read at a time.
const BUFFER: usize = 1 << 17;

/// What the downloads of one pull share.
pub(crate) struct Downloads<'a> {
    /// For messages: the repository.
    pub what: &'a str,
    pub target: &'a Target,
    pub retry: Retry,
    /// Whether files that are there are read again.
    pub verify: bool,
    /// Ends everything at the next block.
    pub stop: &'a AtomicBool,
    pub observer: &'a dyn Observer,
}

impl Downloads<'_> {
    /// Gets one file, or finds that it is there.
    pub(crate) fn get(&self, source: &dyn Source, file: &RemoteFile) -> Result<()> {
        let what = format!("{} {}", self.what, file.path);
        let _lock = match self.target.lock(file) {
            Some(path) => Some(self.lock(&path, &what)?),
            None => None,
        };
        // Another process may have brought it while this one waited.
        if self.target.has(file, self.verify)? {
            self.observer.bytes(i64::try_from(file.size).unwrap_or(i64::MAX));
            return Ok(());
        }
        let incomplete = self.target.incomplete(file);
        create_parent(&incomplete)?;
        let mut retry_policy = RetryPolicy::new(self.retry);
        let mut most = 0;
        let mut may_start_over = true;
        loop {
            let mut partial = PartialFile::open(&incomplete, file.size, self)?;
            let continued = partial.length > 0;
            let outcome = self.complete(source, file, &mut partial, &what);
            let length = partial.length;
            match outcome {
                Ok(found) if found == file.checksum => {
                    partial.file.sync_all().map_err(HubError::io(&incomplete, "write"))?;
                    drop(partial);
                    let place = self.target.place(file);
                    create_parent(&place)?;
                    fs::rename(&incomplete, &place)
                        .map_err(HubError::io(&place, "put the file into place"))?;
                    return Ok(());
                }
                Ok(found) => {
                    partial.restart(self)?;
                    drop(partial);
                    fs::remove_file(&incomplete).map_err(HubError::io(&incomplete, "remove the bad file"))?;
                    // Bytes of an earlier attempt may be to blame; a file that came in one piece has no such excuse.
                    if !(continued && may_start_over) {
                        return Err(HubError::Checksum {
                            what,
                            found: found.to_string(),
                            expected: file.checksum.to_string(),
                        });
                    }
                    may_start_over = false;
                    self.observer
                        .note(&format!("{what}: the resumed file has a wrong checksum; starting over"));
                }
                Err(error) => {
                    partial.forget(self);
                    if self.stop.load(Ordering::Relaxed) {
                        return Err(HubError::Stopped { what: self.what.to_string() });
                    }
                    if length > most {
                        most = length;
                        retry_policy.reset();
                    }
                    if let TransportError::Transient { problem, .. } = &error {
                        self.observer.note(&format!(
                            "{what}: {problem} ({length} of {} bytes); trying again",
                            file.size
                        ));
                    }
                    retry_policy.after(error, &what, &source.origin(), self.stop)?;
                }
            }
        }
    }

    /// Brings the rest of the file and gives the checksum of the whole.
    fn complete(
        &self,
        source: &dyn Source,
        file: &RemoteFile,
        partial: &mut PartialFile,
        what: &str,
    ) -> Result<Checksum, TransportError> {
        let mut hasher = file.checksum.hasher(file.size);
        let mut buffer = vec![0; BUFFER];
        partial.file.seek(SeekFrom::Start(0)).map_err(HubError::io(partial.path, "read"))?;
        let mut known = 0;
        while known < partial.length {
            let count = partial.file.read(&mut buffer).map_err(HubError::io(partial.path, "read"))?;
            if count == 0 || self.stop.load(Ordering::Relaxed) {
                return Err(TransportError::transient("stopped"));
            }
            hasher.update(&buffer[..count]);
            known += count as u64;
        }
        if partial.length == file.size {
            return Ok(hasher.finish());
        }
        let mut opened = source.open(file, partial.length)?;
        if opened.start != partial.length {
            partial.restart(self)?;
            hasher = file.checksum.hasher(file.size);
        }
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(TransportError::transient("stopped"));
            }
            let count = match opened.reader.read(&mut buffer) {
                Ok(0) if partial.length < file.size => {
                    return Err(TransportError::transient("the connection was closed too early"));
                }
                Ok(0) => return Ok(hasher.finish()),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(TransportError::transient(format!("the connection broke: {error}")));
                }
            };
            if count as u64 > file.size - partial.length {
                let problem = format!("it sends more than the {} bytes that the file has", file.size);
                partial.restart(self)?;
                return Err(TransportError::Final(HubError::Answer { what: what.to_string(), problem }));
            }
            partial.file.write_all(&buffer[..count]).map_err(HubError::io(partial.path, "write"))?;
            hasher.update(&buffer[..count]);
            partial.length += count as u64;
            self.observer.bytes(count as i64);
        }
    }

    /// The folder's lock where the target has one.
    pub(crate) fn lock_folder(&self) -> Result<Option<File>> {
        match self.target.folder_lock() {
            Some(path) => Ok(Some(self.lock(&path, self.what)?)),
            None => Ok(None),
        }
    }

    /// Waits until nobody else holds the lock. It ends with the file's handle.
    fn lock(&self, path: &Path, what: &str) -> Result<File> {
        create_parent(path)?;
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(path);
        let file = file.map_err(HubError::io(path, "open the lock"))?;
        let mut said = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(HubError::io(path, "lock")(error)),
                Err(TryLockError::WouldBlock) if self.stop.load(Ordering::Relaxed) => {
                    return Err(HubError::Stopped { what: self.what.to_string() });
                }
                Err(TryLockError::WouldBlock) => {}
            }
            if !said {
                self.observer.note(&format!("{what}: another process is downloading it; waiting"));
                said = true;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The unfinished file.
struct PartialFile<'a> {
    path: &'a Path,
    file: File,
    length: u64,
}

impl<'a> PartialFile<'a> {
    /// What is there counts as progress, unless it is longer than the file will be.
    fn open(path: &'a Path, size: u64, downloads: &Downloads<'_>) -> Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(HubError::io(path, "create the file"))?;
        let length = file.metadata().map_err(HubError::io(path, "open"))?.len();
        let mut partial = Self { path, file, length: 0 };
        if length > size {
            partial.restart(downloads)?;
        } else {
            partial.length = length;
            downloads.observer.bytes(length as i64);
        }
        Ok(partial)
    }

    /// Empties the file.
    fn restart(&mut self, downloads: &Downloads<'_>) -> Result<()> {
        self.forget(downloads);
        self.length = 0;
        self.file.set_len(0).map_err(HubError::io(self.path, "write"))?;
        self.file.seek(SeekFrom::Start(0)).map_err(HubError::io(self.path, "write"))?;
        Ok(())
    }

    /// Takes its bytes out of the count; they are counted again when it is opened again.
    fn forget(&mut self, downloads: &Downloads<'_>) {
        downloads.observer.bytes(-(self.length as i64));
    }
}
