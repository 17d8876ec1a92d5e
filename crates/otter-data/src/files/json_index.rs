//! A memory-mapped JSON object with an index of its keys.
//!
//! Instruction files, train files and image files are objects of up to millions of entries. One
//! streaming pass notes where each key stands; values are read when asked for. The index takes
//! 24 bytes an entry. The mapped file is not counted as memory of the process: the operating
//! system keeps the pages in use and drops the others.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::path::Path;

use crate::error::{DataError, Result};
use crate::files::json_scan::{ScanError, Scanner};
use crate::files::mapped_file::MappedFile;
use crate::files::text_file::foreign_encoding;

/// Which object of the file is indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// The outermost object.
    Root,
    /// The object under this key of the outermost object.
    Named(&'static str),
    /// As `Named` if that key holds an object, otherwise the outermost object.
    NamedOrRoot(&'static str),
}

/// A mapped file and where its entries are.
pub struct JsonIndex {
    file: MappedFile,
    /// Byte position of the opening quote of each key, in file order.
    keys: Vec<u64>,
    /// (hash of the key, index into `keys`), sorted.
    by_hash: Vec<(u64, u32)>,
    /// Entries left out because their key stands there more than once.
    repeated: usize,
}

impl JsonIndex {
    /// Maps a file and indexes one of its objects.
    pub fn open(path: &Path, section: Section) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let map = file.unchecked();
        if let Some(fault) = foreign_encoding(map) {
            return Err(DataError::format(path, fault));
        }
        let mut outer = Vec::new();
        let mut inner = None;
        let mut scanner = Scanner::new(map, 0);
        let name = match section {
            Section::Root => None,
            Section::Named(name) | Section::NamedOrRoot(name) => Some(name),
        };
        let keep_outer = !matches!(section, Section::Named(_));
        let mut released = 0;
        let mut release_behind = |position: usize| {
            if position - released >= RELEASE_EVERY_BYTES {
                file.release_pages();
                released = position;
            }
        };
        let scanned = scanner.object(|scanner, key| {
            let is_section = name.is_some_and(|name| map[key.clone()] == *format!("\"{name}\"").as_bytes());
            if is_section && scanner.peek() == Some(b'{') {
                let mut keys = Vec::new();
                scanner.object(|scanner, key| {
                    keys.push(key.start as u64);
                    release_behind(key.start);
                    scanner.value().map(drop)
                })?;
                inner = Some(keys);
                return Ok(());
            }
            if keep_outer {
                outer.push(key.start as u64);
            }
            release_behind(key.start);
            scanner.value().map(drop)
        });
        file.check()?;
        scanned.map_err(|error| at_offset(path, &error))?;
        if scanner.peek().is_some() {
            let error =
                ScanError { offset: scanner.position(), message: "the file goes on after its object" };
            return Err(at_offset(path, &error));
        }
        let keys = match (inner, section) {
            (Some(keys), _) => keys,
            (None, Section::Named(name)) => {
                return Err(DataError::format(
                    path,
                    format!("the top-level object has no object `{name}`; add it"),
                ));
            }
            (None, _) => outer,
        };
        if u32::try_from(keys.len()).is_err() {
            return Err(DataError::format(path, "more than 4294967295 entries; split the file"));
        }
        let mut index = Self { file, keys, by_hash: Vec::new(), repeated: 0 };
        index.sort_keys()?;
        Ok(index)
    }

    /// Builds `by_hash`. Of a repeated key the first place and the last value count, as in Python.
    fn sort_keys(&mut self) -> Result<()> {
        let mut hashes = Vec::with_capacity(self.keys.len());
        for entry in 0..self.keys.len() {
            hashes.push((hash(&self.key(entry)?), entry as u32));
            if entry % RELEASE_EVERY_KEYS == 0 {
                self.release_pages();
            }
        }
        hashes.sort_unstable();
        let mut replacements: Vec<(usize, u64)> = Vec::new();
        let mut gone = vec![];
        for run in hashes.chunk_by(|a, b| a.0 == b.0).filter(|run| run.len() > 1) {
            let mut first_of: HashMap<Cow<'_, str>, usize> = HashMap::new();
            for &(_, entry) in run {
                let entry = entry as usize;
                match first_of.entry(self.key(entry)?) {
                    MapEntry::Vacant(slot) => {
                        slot.insert(entry);
                    }
                    MapEntry::Occupied(first) => {
                        replacements.push((*first.get(), self.keys[entry]));
                        gone.push(entry);
                    }
                }
            }
        }
        if gone.is_empty() {
            self.by_hash = hashes;
            return Ok(());
        }
        for (entry, place) in replacements {
            self.keys[entry] = place;
        }
        self.repeated = gone.len();
        gone.sort_unstable();
        let mut entry = 0;
        self.keys.retain(|_| {
            entry += 1;
            gone.binary_search(&(entry - 1)).is_err()
        });
        self.sort_keys()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many entries were left out because a later one has the same key.
    pub fn repeated_keys(&self) -> usize {
        self.repeated
    }

    /// The key of an entry, in file order.
    pub fn key(&self, entry: usize) -> Result<Cow<'_, str>> {
        if entry.is_multiple_of(CHECK_EVERY_KEYS) {
            self.file.check()?;
        }
        let mut scanner = Scanner::new(self.file.unchecked(), self.keys[entry] as usize);
        let quoted = scanner.string().map_err(|error| at_offset(self.path(), &error))?;
        self.text(quoted)
    }

    /// The raw JSON text of an entry's value.
    pub fn value(&self, entry: usize) -> Result<&[u8]> {
        let map = self.file.bytes()?;
        let mut scanner = Scanner::new(map, self.keys[entry] as usize);
        let range = scanner
            .string()
            .and_then(|_| scanner.expect(b':', "`:` is expected after a key"))
            .and_then(|()| scanner.value())
            .map_err(|error| at_offset(self.path(), &error))?;
        Ok(&map[range])
    }

    /// Lets go of the pages read so far: after a pass over a large file they would count as memory of the process.
    pub fn release_pages(&self) {
        self.file.release_pages();
    }

    /// The entry with this key.
    pub fn find(&self, key: &str) -> Option<usize> {
        let wanted = hash(key);
        let start = self.by_hash.partition_point(|(value, _)| *value < wanted);
        let mut candidates = self.by_hash[start..]
            .iter()
            .take_while(|(value, _)| *value == wanted)
            .map(|&(_, entry)| entry as usize);
        // Of a file that was cut no key is read: its value tells what happened.
        if self.file.check().is_err() {
            return candidates.next();
        }
        candidates.find(|&entry| self.key(entry).is_ok_and(|found| found == key))
    }

    fn text(&self, quoted: Range<usize>) -> Result<Cow<'_, str>> {
        let offset = quoted.start;
        json_string(&self.file.unchecked()[quoted])
            .map_err(|message| DataError::format(self.path(), format!("byte {offset}: {message}")))
    }
}

/// The text of a JSON string given with its quotes; borrowed where it has no escapes.
pub fn json_string(quoted: &[u8]) -> Result<Cow<'_, str>, String> {
    let inner = quoted.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(quoted);
    if memchr::memchr(b'\\', inner).is_none() {
        return std::str::from_utf8(inner)
            .map(Cow::Borrowed)
            .map_err(|error| format!("the string is not UTF-8 ({error})"));
    }
    serde_json::from_slice(quoted).map(Cow::Owned).map_err(|error| format!("the string is damaged ({error})"))
}

/// Mapped pages are let go of after so many bytes of a scan, or so many keys of a pass.
const RELEASE_EVERY_BYTES: usize = 64 << 20;
const RELEASE_EVERY_KEYS: usize = 1 << 16;

/// The length of the file is looked at for every value, and for one of so many keys: passes over all keys are fast.
const CHECK_EVERY_KEYS: usize = 64;

fn at_offset(path: &Path, error: &ScanError) -> DataError {
    DataError::format(path, format!("byte {}: {}", error.offset, error.message))
}

fn hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Write;

    use super::*;

    fn index(text: &str, section: Section) -> Result<(tempfile::NamedTempFile, JsonIndex)> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let index = JsonIndex::open(file.path(), section)?;
        Ok((file, index))
    }

    #[test]
    fn sections() {
        let flat = r#"{"a":"1","base64":"2"}"#;
        let columnar = r#"{"base64":{"a":"1","b":"2","c":"3"}}"#;
        let section = Section::NamedOrRoot("base64");
        assert_eq!(index(flat, section).unwrap().1.len(), 2);
        assert_eq!(index(columnar, section).unwrap().1.len(), 3);
        let message = index(flat, Section::Named("data")).err().unwrap().to_string();
        assert!(message.contains("`data`"), "{message}");
        assert!(index("{} x", Section::Root).is_err());
        assert!(index("", Section::Root).is_err());
    }

    #[test]
    fn repeated_keys_keep_the_first_place_and_the_last_value() {
        let (_file, index) = index(r#"{"a":1,"b":2,"a":3,"c":4,"a":5,"b":6}"#, Section::Root).unwrap();
        let entries: Vec<_> =
            (0..index.len()).map(|i| (index.key(i).unwrap(), index.value(i).unwrap())).collect();
        assert_eq!(entries, [("a".into(), &b"5"[..]), ("b".into(), b"6"), ("c".into(), b"4")]);
        assert_eq!(index.find("b"), Some(1));
        assert_eq!(index.find("x"), None);
    }

    #[test]
    fn a_file_that_is_cut_or_rewritten_while_it_is_read_is_an_error() {
        // Larger than a page: what is behind the end of a cut file cannot be touched.
        let value = "x".repeat(10_000);
        let text = format!(r#"{{"a":"{value}","b":"{value}"}}"#);
        for other in [0, 100, text.len() as u64 + 1] {
            let (file, index) = index(&text, Section::Root).unwrap();
            assert_eq!(index.value(1).unwrap().len(), value.len() + 2);
            file.as_file().set_len(other).unwrap();
            let message = index.value(1).unwrap_err().to_string();
            let name = file.path().file_name().unwrap().to_str().unwrap();
            assert!(message.contains(&format!("{other} bytes")) && message.contains(name), "{message}");
            assert!(index.key(0).is_err());
            // It is found, so that reading its value tells why it cannot be used.
            assert_eq!((index.find("b"), index.find("c")), (Some(1), None));
        }
    }

    #[test]
    fn another_encoding_is_named() {
        let wide: Vec<u8> = "{\"a\":1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&wide).unwrap();
        let message = JsonIndex::open(file.path(), Section::Root).err().unwrap().to_string();
        assert!(message.contains("UTF-16"), "{message}");
        let (_file, index) = index("\u{feff}{\"a\":1}", Section::Root).unwrap();
        assert_eq!((index.find("a"), index.value(0).unwrap()), (Some(0), &b"1"[..]));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]
        #[test]
        fn every_key_is_found(entries in proptest::collection::btree_map(".{0,8}", 0..1000_i32, 0..20)) {
            let (_file, index) = index(&serde_json::to_string(&entries)?, Section::Root).unwrap();
            for (key, value) in &entries {
                let entry = index.find(key).unwrap();
                proptest::prop_assert_eq!(index.value(entry).unwrap().to_vec(), value.to_string().into_bytes());
            }
        }
    }
}
