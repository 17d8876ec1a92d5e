//! Checksums of files: SHA-256 for large ones, git's blob hash for the rest, as the hub lists them.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use otter_io::text::hex;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::error::{HubError, Result};

/// The checksum of a file, in lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-256 of the content: files in large-file storage.
    Sha256(String),
    /// SHA-1 of `blob <size>\0` and the content: files in git itself.
    GitBlob(String),
}

impl Checksum {
    /// Reads what [`Display`](fmt::Display) writes.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':')? {
            ("sha256", digits) => Self::sha256(digits),
            ("git-sha1", digits) => Self::git_blob(digits),
            _ => None,
        }
    }

    /// From 64 hexadecimal digits.
    pub fn sha256(digits: &str) -> Option<Self> {
        is_hexadecimal(digits, 64).then(|| Self::Sha256(digits.to_ascii_lowercase()))
    }

    /// From 40 hexadecimal digits.
    pub fn git_blob(digits: &str) -> Option<Self> {
        is_hexadecimal(digits, 40).then(|| Self::GitBlob(digits.to_ascii_lowercase()))
    }

    /// SHA-256 of a file on disk.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn sha256_of_file(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(HubError::io(path, "open"))?;
        let mut hasher = Hasher::Sha256(Sha256::new());
        hasher.update_from(&mut file).map_err(HubError::io(path, "read"))?;
        Ok(hasher.finish())
    }

    /// The digits, which are also the file's entity tag and its name among the blobs of the cache.
    pub fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::GitBlob(digits) => digits,
        }
    }

    /// Something that computes a checksum of this kind over a file of `size` bytes.
    pub fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::GitBlob(_) => {
                let mut state = Sha1::new();
                state.update(format!("blob {size}\0"));
                Hasher::GitBlob(state)
            }
        }
    }

    /// The checksum of this kind of a file on disk.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of_file(&self, path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(HubError::io(path, "open"))?;
        let size = file.metadata().map_err(HubError::io(path, "read"))?.len();
        let mut hasher = self.hasher(size);
        hasher.update_from(&mut file).map_err(HubError::io(path, "read"))?;
        Ok(hasher.finish())
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digits) => write!(f, "sha256:{digits}"),
            Self::GitBlob(digits) => write!(f, "git-sha1:{digits}"),
        }
    }
}

fn is_hexadecimal(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A checksum being computed.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-1 after git's header.
    GitBlob(Sha1),
}

impl Hasher {
    /// Takes in more of the file.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(state) => state.update(bytes),
            Self::GitBlob(state) => state.update(bytes),
        }
    }

    /// Takes in the rest of a reader.
    ///
    /// # Errors
    /// When reading fails.
    pub fn update_from(&mut self, reader: &mut impl Read) -> std::io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(()),
                count => self.update(&buffer[..count]),
            }
        }
    }

    /// The checksum of everything taken in.
    pub fn finish(self) -> Checksum {
        match self {
            Self::Sha256(state) => Checksum::Sha256(hex(&state.finalize())),
            Self::GitBlob(state) => Checksum::GitBlob(hex(&state.finalize())),
        }
    }
}

/// SHA-1 of a text, for names derived from content.
pub(crate) fn sha1_digits(text: &str) -> String {
    let mut state = Sha1::new();
    state.update(text);
    Hasher::GitBlob(state).finish().digits().to_string()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // `printf 'hello\n' | git hash-object --stdin` and `printf 'hello\n' | sha256sum`.
        let git = Checksum::git_blob("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        let sha =
            Checksum::sha256("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03").unwrap();
        for expected in [git, sha] {
            let mut hasher = expected.hasher(6);
            hasher.update(b"hel");
            hasher.update(b"lo\n");
            assert_eq!(hasher.finish(), expected);
            assert_eq!(Checksum::parse(&expected.to_string()), Some(expected));
        }
        for bad in ["", "sha256:12", "md5:00", "git-sha1:../../../../../../../../../../../../x", "sha256"] {
            assert_eq!(Checksum::parse(bad), None, "{bad}");
        }
    }
}
