//! A file that is read at given positions, by any number of threads, without mapping it.
//!
//! Mapped pages that were once touched count as memory of the process until the system wants them back; a stream over
//! a large data set would seem to grow for ever. Reading at positions holds only what is asked for.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::error::{DataError, Result};

/// Bytes read ahead while a page header is parsed.
const HEADER_BUFFER: usize = 1 << 12;

/// Most that a page may claim to grow by when decompressed. Snappy, the format of all known files, reaches about 21.
const MAX_EXPANSION: u64 = 64;

/// A page that claims no more than this is never refused for its claim.
const MODEST_PAGE: u64 = 64 << 20;

/// A file open for reading at positions.
#[derive(Clone)]
pub(crate) struct PositionedFile {
    file: Arc<File>,
    length: u64,
}

impl PositionedFile {
    /// Opens a file; an empty one is refused.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| DataError::io(path, error))?;
        let metadata = file.metadata().map_err(|error| DataError::io(path, error))?;
        if !metadata.is_file() {
            return Err(DataError::format(path, "this is no regular file"));
        }
        if metadata.len() == 0 {
            return Err(DataError::format(path, "the file is empty"));
        }
        Ok(Self { file: Arc::new(file), length: metadata.len() })
    }

    /// Size in bytes when it was opened.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Fills `buffer` from `start` on, or fails.
    pub(crate) fn read_exact_at(&self, mut buffer: &mut [u8], mut start: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match read_at(&self.file, buffer, start) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    buffer = &mut buffer[count..];
                    start += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// `length` bytes from `start`; nothing is allocated for bytes that the file does not have.
    pub(crate) fn bytes(&self, start: u64, length: usize) -> io::Result<Vec<u8>> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(io::Error::other(format!(
                "{length} bytes at byte {start} are asked for, but the file ends at byte {}",
                self.length
            )));
        }
        let mut buffer = vec![0; length];
        self.read_exact_at(&mut buffer, start)?;
        Ok(buffer)
    }

    /// A reader from `start` on.
    pub(crate) fn reader(&self, start: u64) -> BufReader<Positioned> {
        BufReader::with_capacity(HEADER_BUFFER, Positioned { file: self.clone(), position: start })
    }

    /// Refuses a page whose header, at `start`, claims a size that no compression reaches.
    pub(crate) fn check_page_claim(&self, start: u64) -> Result<(), ParquetError> {
        let mut head = [0; 24];
        let length = (self.length.saturating_sub(start)).min(head.len() as u64) as usize;
        self.read_exact_at(&mut head[..length], start)?;
        match page_sizes(&head[..length]) {
            Some((claimed, stored)) if claimed > MODEST_PAGE && claimed / MAX_EXPANSION > stored => {
                Err(ParquetError::General(format!(
                    "the page at byte {start} claims {claimed} bytes but stores {stored}; the file is damaged"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Decompressed and stored size from the first fields of a page header (Thrift compact protocol: type, then both sizes,
/// each a 32-bit integer in zigzag form), or `None` if it begins in another way.
fn page_sizes(head: &[u8]) -> Option<(u64, u64)> {
    let mut at = 0;
    let mut field = || {
        // Field number one higher than the one before, type i32.
        if *head.get(at)? != 0x15 {
            return None;
        }
        at += 1;
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *head.get(at)?;
            at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value >> 1);
            }
        }
        None
    };
    field()?;
    Some((field()?, field()?))
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], start: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, start)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], start: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, start)
}

/// A position in a [`PositionedFile`].
pub(crate) struct Positioned {
    file: PositionedFile,
    position: u64,
}

impl Read for Positioned {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = read_at(&self.file.file, buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Length for PositionedFile {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for PositionedFile {
    type T = BufReader<Positioned>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        // The library reads page headers in this way and trusts what they claim.
        self.check_page_claim(start)?;
        Ok(self.reader(start))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        Ok(self.bytes(start, length)?.into())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn nothing_beyond_the_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"0123456789").unwrap();
        let file = PositionedFile::open(file.path()).unwrap();
        assert_eq!(file.bytes(3, 4).unwrap(), b"3456");
        assert!(file.bytes(8, 3).is_err());
        assert!(file.bytes(u64::MAX, 1).is_err());
        let mut rest = String::new();
        file.reader(7).read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "789");
    }

    #[test]
    fn absurd_pages_are_refused_by_their_header() {
        // type 0, 2^31 - 2 bytes decompressed, 100 stored
        let mut head = vec![0x15, 0x00, 0x15, 0xfc, 0xff, 0xff, 0xff, 0x0f, 0x15, 0xc8, 0x01];
        assert_eq!(page_sizes(&head), Some((0x7fff_fffe, 100)));
        head.extend([0; 20]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &head).unwrap();
        let file = PositionedFile::open(file.path()).unwrap();
        let message = file.check_page_claim(0).unwrap_err().to_string();
        assert!(message.contains("2147483646"), "{message}");
        assert!(file.check_page_claim(5).is_ok());
        assert_eq!(page_sizes(b"\x15\xff"), None);
    }
}
