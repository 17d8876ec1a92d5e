//! Ids by their hash: 12 bytes a row in a file that stays mapped, or 16 in memory.
//!
//! ```text
//! "OTTERIDX"  version u32  rows u32  digest of the indexed files (32 bytes)     all little-endian
//! rows × { hash u64, row u32 }                                                  sorted
//! ```
//!
//! The hash is the first eight bytes of the id's SHA-256: stable, and nobody can make many ids that share one.
//! Whoever looks up compares the id itself, so an index can miss but never mislead.

use std::io::Write;
use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::{DataError, Result};
use crate::files::mapped_file::MappedFile;

const MAGIC: &[u8; 8] = b"OTTERIDX";
const VERSION: u32 = 1;
const HEADER: usize = 48;
const ENTRY: usize = 12;

/// Hash of an id.
pub(crate) fn hash_id(id: &[u8]) -> u64 {
    let digest: [u8; 32] = Sha256::digest(id).into();
    u64::from_le_bytes([
        digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7],
    ])
}

/// Rows by the hash of their id.
pub(crate) enum HashIndex {
    /// Sorted pairs.
    Memory(Vec<(u64, u32)>),
    /// The same in a file.
    Mapped(MappedFile),
}

impl HashIndex {
    /// Sorts pairs of hash and row.
    pub(crate) fn new(mut pairs: Vec<(u64, u32)>) -> Self {
        pairs.par_sort_unstable();
        Self::Memory(pairs)
    }

    /// Maps an index file made for files of this digest with this number of rows.
    pub(crate) fn open(path: &Path, rows: u32, digest: &[u8; 32]) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let map = file.unchecked();
        let expected = HEADER + ENTRY * rows as usize;
        let stale = |what: String| {
            DataError::format(
                path,
                format!(
                    "{what}; remove the file and its entry in manifest.json, it is then rebuilt in memory"
                ),
            )
        };
        if map.len() < HEADER || &map[..8] != MAGIC {
            return Err(stale("this is no index of ids".into()));
        }
        let number = |at: usize| u32::from_le_bytes([map[at], map[at + 1], map[at + 2], map[at + 3]]);
        if number(8) != VERSION {
            return Err(stale(format!(
                "version {} of the index is unknown, {VERSION} is expected",
                number(8)
            )));
        }
        if number(12) != rows || map.len() != expected {
            return Err(stale(format!(
                "an index of {} rows in {} bytes, but {rows} rows in {expected} bytes are expected",
                number(12),
                map.len()
            )));
        }
        if &map[16..HEADER] != digest {
            return Err(stale("the index was made for other files than those beside it".into()));
        }
        Ok(Self::Mapped(file))
    }

    /// Writes the index file.
    pub(crate) fn write(&self, file: &mut dyn Write, digest: &[u8; 32]) -> std::io::Result<()> {
        file.write_all(MAGIC)?;
        file.write_all(&VERSION.to_le_bytes())?;
        file.write_all(&(self.len() as u32).to_le_bytes())?;
        file.write_all(digest)?;
        for place in 0..self.len() {
            let (hash, row) = self.pair(place);
            file.write_all(&hash.to_le_bytes())?;
            file.write_all(&row.to_le_bytes())?;
        }
        Ok(())
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Memory(pairs) => pairs.len(),
            Self::Mapped(file) => (file.unchecked().len() - HEADER) / ENTRY,
        }
    }

    /// The pair at a place of the sorted order.
    pub(crate) fn pair(&self, place: usize) -> (u64, u32) {
        match self {
            Self::Memory(pairs) => pairs[place],
            Self::Mapped(file) => {
                let entry = &file.unchecked()[HEADER + place * ENTRY..][..ENTRY];
                let hash = [entry[0], entry[1], entry[2], entry[3], entry[4], entry[5], entry[6], entry[7]];
                let row = [entry[8], entry[9], entry[10], entry[11]];
                (u64::from_le_bytes(hash), u32::from_le_bytes(row))
            }
        }
    }

    /// Whether the file still has its length; see [`MappedFile`].
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::Mapped(file) => file.check(),
        }
    }

    /// Rows whose id has this hash, in order.
    pub(crate) fn rows(&self, hash: u64) -> impl DoubleEndedIterator<Item = u32> + '_ {
        let start = self.first_place(hash, true);
        let end = self.first_place(hash, false);
        (start..end).map(|place| self.pair(place).1)
    }

    /// First place whose hash is not smaller (`inclusive`) or is larger.
    fn first_place(&self, hash: u64, inclusive: bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let found = self.pair(middle).0;
            if found < hash || (!inclusive && found == hash) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Rows that share their hash with another one, each group in order: repeated ids, if the ids are equal too.
    pub(crate) fn shared(&self) -> Vec<Vec<u32>> {
        let mut groups: Vec<Vec<u32>> = Vec::new();
        for place in 1..self.len() {
            let (hash, row) = self.pair(place);
            let (before, row_before) = self.pair(place - 1);
            if hash != before {
                continue;
            }
            match groups.last_mut() {
                Some(group) if group.last() == Some(&row_before) => group.push(row),
                _ => groups.push(vec![row_before, row]),
            }
        }
        groups
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn memory_and_file_agree() {
        let pairs: Vec<_> =
            (0..1000_u32).map(|row| (hash_id((row % 700).to_string().as_bytes()), row)).collect();
        let memory = HashIndex::new(pairs);
        let file = tempfile::NamedTempFile::new().unwrap();
        memory.write(&mut file.as_file(), &[7; 32]).unwrap();
        let mapped = HashIndex::open(file.path(), 1000, &[7; 32]).unwrap();
        for row in 0..700_u32 {
            let expected: Vec<_> = (row..1000).step_by(700).collect();
            let hash = hash_id(row.to_string().as_bytes());
            assert_eq!(memory.rows(hash).collect::<Vec<_>>(), expected);
            assert_eq!(mapped.rows(hash).collect::<Vec<_>>(), expected);
        }
        assert_eq!(mapped.rows(hash_id(b"700")).next(), None);
        assert_eq!(mapped.shared().len(), 300);
        assert!(mapped.shared().iter().all(|group| group[1] == group[0] + 700));
        assert!(HashIndex::open(file.path(), 999, &[7; 32]).is_err());
        assert!(HashIndex::open(file.path(), 1000, &[8; 32]).is_err());
    }

    #[test]
    fn the_hash_is_the_same_everywhere() {
        assert_eq!(hash_id(b"abc"), u64::from_le_bytes([0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea]));
    }
}
