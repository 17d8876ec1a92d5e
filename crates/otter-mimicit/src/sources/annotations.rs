//! Annotation files: entries of a JSON list, of a JSON object, or lines, each parsed when it is asked for.
//!
//! The text is held in memory once; an entry costs its place in it.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::ImportError;
use super::item::{Reason, Skip};

/// The entries of one file.
pub struct Annotations {
    path: PathBuf,
    text: String,
    entries: Vec<Range<usize>>,
    keys: Vec<String>,
}

/// Reads a text file; a byte order mark is dropped.
pub fn read_text(path: &Path) -> Result<String, ImportError> {
    let bytes = fs::read(path).map_err(|error| ImportError::io(path, error))?;
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + memchr::memchr_iter(b'\n', &error.as_bytes()[..at]).count();
        ImportError::format(path, format!("line {line}: byte {at} is no UTF-8; save the file as UTF-8"))
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

impl Annotations {
    /// A file that holds a JSON list, or one JSON object a line.
    pub fn list_or_lines(path: &Path) -> Result<Self, ImportError> {
        let text = read_text(path)?;
        if text.trim_start().starts_with('[') {
            return Self::list(path, text);
        }
        let mut entries = Vec::new();
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            if !line.trim().is_empty() {
                entries.push(start..start + line.trim_end().len());
            }
            start += line.len();
        }
        Ok(Self { path: path.to_owned(), text, entries, keys: Vec::new() })
    }

    fn list(path: &Path, text: String) -> Result<Self, ImportError> {
        let entries = {
            let raw: Vec<&RawValue> =
                serde_json::from_str(&text).map_err(|error| not_json(path, "list", &error))?;
            raw.into_iter().map(|raw| range_in(&text, raw.get())).collect()
        };
        Ok(Self { path: path.to_owned(), text, entries, keys: Vec::new() })
    }

    /// A file that holds a JSON list.
    pub fn json_list(path: &Path) -> Result<Self, ImportError> {
        Self::list(path, read_text(path)?)
    }

    /// A file that holds a JSON object; each member is an entry.
    pub fn json_object(path: &Path) -> Result<Self, ImportError> {
        let text = read_text(path)?;
        let (keys, entries) = {
            let mut deserializer = serde_json::Deserializer::from_str(&text);
            let members: Vec<(String, &RawValue)> = (&mut deserializer)
                .deserialize_map(Members)
                .and_then(|members| deserializer.end().map(|()| members))
                .map_err(|error| not_json(path, "object", &error))?;
            members.into_iter().map(|(key, raw)| (key, range_in(&text, raw.get()))).unzip()
        };
        Ok(Self { path: path.to_owned(), text, entries, keys })
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Name of a member of an object.
    pub fn key(&self, index: usize) -> &str {
        &self.keys[index]
    }

    /// The file and the line where an entry begins.
    pub fn place(&self, index: usize) -> String {
        let line = 1 + memchr::memchr_iter(b'\n', &self.text.as_bytes()[..self.entries[index].start]).count();
        format!("{} line {line}", self.path.display())
    }

    /// An entry as the source's schema.
    pub fn parse<T: DeserializeOwned>(&self, index: usize) -> Result<T, Skip> {
        serde_json::from_str(&self.text[self.entries[index].clone()]).map_err(|error| {
            let place = self.place(index);
            let key = self.keys.get(index).map(|key| format!(" ({key})")).unwrap_or_default();
            Skip::new(Reason::BadAnnotation, format!("{place}{key}: {}", without_position(&error)))
        })
    }
}

/// The message of a JSON error without its position, which counts from the start of the entry.
pub fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(message, _)| message.to_owned())
}

fn not_json(path: &Path, expected: &str, error: &serde_json::Error) -> ImportError {
    ImportError::format(path, format!("a JSON {expected} of entries is expected here ({error})"))
}

/// Where a part lies in the text it was borrowed from.
fn range_in(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_and_bad_ones_are_named_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.json");
        fs::write(&file, "\u{feff}[\n  {\"a\": 1},\n  {\"a\": \"x\"}\n]").unwrap();
        let list = Annotations::json_list(&file).unwrap();
        assert_eq!(list.len(), 2);
        let parse = |index| list.parse::<std::collections::BTreeMap<String, u8>>(index);
        assert_eq!(parse(0).unwrap()["a"], 1);
        let skip = parse(1).unwrap_err();
        assert_eq!(skip.reason, Reason::BadAnnotation);
        assert!(skip.message.contains("a.json line 3: invalid type: string"), "{}", skip.message);
        fs::write(&file, "{\"a\": [1],\n\"b\": [2]}").unwrap();
        let object = Annotations::json_object(&file).unwrap();
        assert_eq!((object.key(1), object.parse::<Vec<u8>>(1).unwrap()), ("b", vec![2]));
        fs::write(&file, "{\"a\":1}\r\n\n{\"a\":2}").unwrap();
        let lines = Annotations::list_or_lines(&file).unwrap();
        assert_eq!(lines.len(), 2);
        assert!(lines.place(1).ends_with("line 3"));
        for broken in ["[1, 2", "[1] x", "{}"] {
            fs::write(&file, broken).unwrap();
            let message = Annotations::json_list(&file).err().unwrap().to_string();
            assert!(message.contains("a.json") && message.contains("line 1"), "{message}");
        }
        fs::write(&file, b"ok\n\xff").unwrap();
        assert!(read_text(&file).unwrap_err().to_string().contains("line 2"));
    }
}
