//! The text files of a checkpoint, read whole: bounded, and as other programs may have saved them.

use std::fs;
use std::path::Path;

use otter_data::{foreign_encoding, without_byte_order_mark};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{CheckpointError, Result};

/// No configuration is longer.
pub(crate) const LONGEST_CONFIG: u64 = 16 << 20;
/// No index of shards is longer; that of the largest model supported has a few hundred kilobytes.
pub(crate) const LONGEST_INDEX: u64 = 64 << 20;
/// No file of a tokenizer is longer.
pub(crate) const LONGEST_TOKENIZER: u64 = 256 << 20;

/// The bytes of a file that has at most `longest` of them.
pub(crate) fn read_bounded(path: &Path, longest: u64) -> Result<Vec<u8>> {
    let length = fs::metadata(path).map_err(CheckpointError::io(path, "open"))?.len();
    if length > longest {
        return Err(CheckpointError::format(path, format!("{length} bytes; at most {longest} are read")));
    }
    fs::read(path).map_err(CheckpointError::io(path, "read"))
}

/// The bytes of a text file after its byte order mark, if it has one.
///
/// # Errors
/// When it cannot be read, is longer than `longest`, or is UTF-16 or UTF-32.
pub(crate) fn read_text(path: &Path, longest: u64) -> Result<Vec<u8>> {
    let bytes = read_bounded(path, longest)?;
    if let Some(problem) = foreign_encoding(&bytes) {
        return Err(CheckpointError::format(path, problem));
    }
    Ok(without_byte_order_mark(&bytes).to_vec())
}

/// A text file that people write, such as the configuration of a run, without its byte order mark.
///
/// # Errors
/// When it cannot be read, is longer than 16 MiB or is not UTF-8.
pub fn read_text_file(path: &Path) -> Result<String> {
    into_text(path, read_text(path, LONGEST_CONFIG)?)
}

/// The text of these bytes of a file.
pub(crate) fn into_text(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes)
        .map_err(|error| CheckpointError::format(path, format!("not UTF-8: {error}; save it as UTF-8")))
}

/// The value in a JSON file.
///
/// # Errors
/// As [`read_text`]; when it is no JSON or another value.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, longest: u64) -> Result<T> {
    serde_json::from_slice(&read_text(path, longest)?)
        .map_err(|source| CheckpointError::Json { path: path.to_path_buf(), source })
}

/// The object in a JSON file.
///
/// # Errors
/// As [`read_json`]; when it holds something else.
pub(crate) fn read_object(path: &Path, longest: u64) -> Result<Map<String, Value>> {
    match read_json(path, longest)? {
        Value::Object(object) => Ok(object),
        other => {
            let found: String = other.to_string().chars().take(100).collect();
            Err(CheckpointError::format(path, format!("holds {found}; expected an object")))
        }
    }
}

/// A small file of a checkpoint for a copy of it: readers that know no byte order mark must be able to read that.
pub(crate) fn read_for_copy(path: &Path) -> Result<Vec<u8>> {
    match path.extension().is_some_and(|extension| extension == "json" || extension == "txt") {
        true => read_text(path, LONGEST_TOKENIZER),
        false => read_bounded(path, LONGEST_TOKENIZER),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mark_is_passed_over_and_another_encoding_is_named() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("config.json");
        let read = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            read_json::<Value>(&path, 100)
        };
        let text = "{\"a\": 1}";
        assert_eq!(read(text.as_bytes()).unwrap(), json!({ "a": 1 }));
        assert_eq!(read(format!("\u{FEFF}{text}").as_bytes()).unwrap(), json!({ "a": 1 }));
        let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for (mark, body) in [(&[0xFF, 0xFE][..], &little), (&[0xFE, 0xFF], &big), (&[], &little), (&[], &big)]
        {
            let error = read(&[mark, body].concat()).unwrap_err().to_string();
            assert!(error.contains("UTF-16") && error.contains("config.json"), "{error}");
        }
        let error = read(b"{\"a\": }").unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("line 1 column 7"), "{error}");
        assert!(read(&[b' '; 101]).unwrap_err().to_string().contains("101 bytes; at most 100"));
    }
}
