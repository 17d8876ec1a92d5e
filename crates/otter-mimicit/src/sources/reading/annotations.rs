//! Annotation files: entries of a JSON list, of a JSON object, or lines, each parsed when it is asked for.
//!
//! The text is held in memory once; an entry costs its place in it.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use otter_data::{parse_json, parse_object, read_text_file};
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::sources::error::ImportError;
use crate::sources::item::{Reason, Skip};

/// The entries of one file.
pub struct Annotations {
    path: PathBuf,
    text: String,
    entries: Vec<Range<usize>>,
    keys: Vec<String>,
}

/// Keys under which the entry of a list says which one it is.
const ID_KEYS: [&str; 7] = ["id", "sample_id", "img_id", "vid_name", "ID", "visual_input", "image_id"];

impl Annotations {
    /// A file that holds a JSON list, or one JSON object a line.
    pub fn list_or_lines(path: &Path) -> Result<Self, ImportError> {
        let text = read_text_file(path)?;
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
        Self::list(path, read_text_file(path)?)
    }

    /// A file that holds a JSON object; each member is an entry.
    pub fn json_object(path: &Path) -> Result<Self, ImportError> {
        let text = read_text_file(path)?;
        let (keys, entries) = {
            let mut deserializer = serde_json::Deserializer::from_str(&text);
            let members: Vec<(String, &RawValue)> = (&mut deserializer)
                .deserialize_map(Members)
                .and_then(|members| deserializer.end().map(|()| members))
                .map_err(|error| not_json(path, "object", &error))?;
            let mut first: HashMap<&str, &RawValue> = HashMap::with_capacity(members.len());
            for (key, raw) in &members {
                if let Some(before) = first.insert(key, raw) {
                    let line = |raw: &RawValue| line_of(&text, range_in(&text, raw.get()).start);
                    return Err(ImportError::format(
                        path,
                        format!(
                            "the key {key:?} is there twice, at lines {} and {}; remove one of the entries",
                            line(before),
                            line(raw)
                        ),
                    ));
                }
            }
            drop(first);
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
        format!("{} line {}", self.path.display(), line_of(&self.text, self.entries[index].start))
    }

    /// An entry, which must be an object, as the source's schema.
    pub fn parse<T: DeserializeOwned>(&self, index: usize) -> Result<T, Skip> {
        self.checked(index, parse_object(self.bytes(index)))
    }

    /// An entry, which must be a list.
    pub fn parse_list<T: DeserializeOwned>(&self, index: usize) -> Result<Vec<T>, Skip> {
        self.checked(index, parse_json(self.bytes(index)))
    }

    fn bytes(&self, index: usize) -> &[u8] {
        &self.text.as_bytes()[self.entries[index].clone()]
    }

    /// A fault with the place of its entry, and the entry's id where it has one.
    fn checked<T>(&self, index: usize, parsed: Result<T, String>) -> Result<T, Skip> {
        parsed.map_err(|fault| {
            let id = self.keys.get(index).cloned().or_else(|| {
                let entry: Value = serde_json::from_slice(self.bytes(index)).ok()?;
                let (key, id) = ID_KEYS.iter().find_map(|key| Some((*key, entry.get(key)?)))?;
                let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
                Some(format!("{key} {}", id.chars().take(100).collect::<String>()))
            });
            let id = id.map(|id| format!(" ({id})")).unwrap_or_default();
            Skip::new(Reason::BadAnnotation, format!("{}{id}: {fault}", self.place(index)))
        })
    }
}

/// Line of a byte, from 1.
fn line_of(text: &str, at: usize) -> usize {
    1 + memchr::memchr_iter(b'\n', &text.as_bytes()[..at]).count()
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
    use std::fs;

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
        assert!(skip.message.contains("a.json line 3: `a` is the string \"x\""), "{}", skip.message);
        fs::write(&file, "{\"a\": [1],\n\"b\": [2]}").unwrap();
        let object = Annotations::json_object(&file).unwrap();
        assert_eq!((object.key(1), object.parse_list::<u8>(1).unwrap()), ("b", vec![2]));
        fs::write(&file, "{\"a\":1}\r\n\n{\"a\":2}").unwrap();
        let lines = Annotations::list_or_lines(&file).unwrap();
        assert_eq!(lines.len(), 2);
        assert!(lines.place(1).ends_with("line 3"));
        for broken in ["[1, 2", "[1] x", "{}"] {
            fs::write(&file, broken).unwrap();
            let message = Annotations::json_list(&file).err().unwrap().to_string();
            assert!(message.contains("a.json") && message.contains("line 1"), "{message}");
        }
        fs::write(&file, "{\"a\": [1],\n\"b\": [2],\n\"a\": [3]}").unwrap();
        let message = Annotations::json_object(&file).err().unwrap().to_string();
        assert!(message.contains("\"a\" is there twice, at lines 1 and 3"), "{message}");
        fs::write(&file, r#"[{"id": 7, "a": []}, ["a"]]"#).unwrap();
        let list = Annotations::json_list(&file).unwrap();
        let fault = |index| list.parse::<std::collections::BTreeMap<String, u8>>(index).unwrap_err().message;
        assert!(fault(0).contains("(id 7): `a` is a list"), "{}", fault(0));
        assert!(fault(1).contains("a list was found, an object"), "{}", fault(1));
    }
}
