//! Keys of a `config.json`, read with messages that name file, key, what was found and what is expected.

mod activation;
pub mod foreign;
mod rope;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;

pub(crate) use activation::{activation, write_activation};
pub use rope::ROPE_KEYS;
pub(crate) use rope::{must_turn_whole_heads, rope, rotated_share, write_rope};

/// A key has a value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{path}: `{key}` is {found}; {expected}")]
pub struct KeyError {
    /// The file.
    pub path: PathBuf,
    /// Full key.
    pub key: String,
    /// The value found.
    pub found: String,
    /// What is supported or expected.
    pub expected: String,
}

type Result<T> = std::result::Result<T, KeyError>;

/// One object of the file, with its place for messages.
pub struct Section<'a> {
    /// The file.
    pub path: &'a Path,
    /// The section's name; empty for the whole file.
    pub name: &'static str,
    /// What it holds.
    pub map: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    /// The key with the section's name in front.
    pub fn full_key(&self, key: &str) -> String {
        let key: String = key.chars().take(100).collect();
        if self.name.is_empty() { key } else { format!("{}.{key}", self.name) }
    }

    /// The value of `key` cannot be used.
    pub fn wrong(&self, key: &str, found: &dyn std::fmt::Display, expected: &str) -> KeyError {
        let found: String = found.to_string().chars().take(200).collect();
        KeyError {
            path: self.path.to_path_buf(),
            key: self.full_key(key),
            found,
            expected: expected.to_owned(),
        }
    }

    /// A setting that would change numbers in a way that is not computed here must be off: null, false, 0 or empty.
    ///
    /// # Errors
    /// A value of another type.
    pub fn must_be_inactive(&self, key: &str, advice: &str) -> Result<()> {
        let inactive = |value: &Value| match value {
            Value::Null => true,
            Value::Bool(on) => !on,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
        };
        match self.map.get(key) {
            Some(value) if !inactive(value) => Err(self.wrong(key, value, advice)),
            _ => Ok(()),
        }
    }

    /// The value, with null the same as absent.
    pub fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The object under this key.
    ///
    /// # Errors
    /// A value of another type.
    pub fn section(&self, name: &'static str) -> Result<Section<'a>> {
        self.optional_section(name)?.ok_or_else(|| self.wrong(name, &"missing", "expected an object"))
    }

    /// The object under this key, if it is there.
    ///
    /// # Errors
    /// A value of another type.
    pub fn optional_section(&self, name: &'static str) -> Result<Option<Section<'a>>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Section { path: self.path, name, map })),
            Some(other) => Err(self.wrong(name, other, "expected an object")),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// A value of another type.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        let parse = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
        self.parsed(key, parse, "expected a whole number of at least 0")
    }

    /// A token id, which may stand in a list by itself. Older files write -1 for "none".
    ///
    /// # Errors
    /// A value of another type.
    pub fn token(&self, key: &str) -> Result<Option<u32>> {
        let parse = |value: &Value| match value {
            Value::Array(ids) if ids.len() == 1 => token_id(&ids[0]),
            value => token_id(value),
        };
        Ok(self.parsed(key, parse, "expected a token id")?.flatten())
    }

    /// Token ids: one, or a list, each once. A -1 is none, as in [`Section::token`].
    ///
    /// # Errors
    /// A value of another type.
    pub fn tokens(&self, key: &str) -> Result<Vec<u32>> {
        let parse = |value: &Value| match value {
            Value::Array(ids) if ids.is_empty() => None,
            Value::Array(ids) => ids.iter().map(token_id).collect(),
            value => token_id(value).map(|id| vec![id]),
        };
        let found = self.parsed(key, parse, "expected a token id or a list of them")?.unwrap_or_default();
        let mut distinct = Vec::with_capacity(found.len());
        for id in found.into_iter().flatten() {
            if !distinct.contains(&id) {
                distinct.push(id);
            }
        }
        Ok(distinct)
    }

    /// The first of [`Section::tokens`].
    ///
    /// # Errors
    /// A value of another type.
    pub fn first_token(&self, key: &str) -> Result<Option<u32>> {
        Ok(self.tokens(key)?.first().copied())
    }

    /// A number.
    ///
    /// # Errors
    /// A value of another type.
    pub fn real(&self, key: &str) -> Result<Option<f64>> {
        self.parsed(key, Value::as_f64, "expected a number")
    }

    /// True or false.
    ///
    /// # Errors
    /// A value of another type.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.parsed(key, Value::as_bool, "expected true or false")
    }

    /// A text.
    ///
    /// # Errors
    /// A value of another type.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, other, "expected a text")),
        }
    }

    fn parsed<T>(&self, key: &str, parse: impl Fn(&Value) -> Option<T>, expected: &str) -> Result<Option<T>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        parse(value).map(Some).ok_or_else(|| self.wrong(key, value, expected))
    }

    /// `architectures` may be absent, null, a text or a list, of which the first counts.
    ///
    /// # Errors
    /// A value of another type.
    pub fn first_architecture(&self) -> Result<Option<&'a str>> {
        match self.value("architectures") {
            None => Ok(None),
            Some(Value::String(name)) => Ok(Some(name)),
            Some(Value::Array(names)) if names.is_empty() => Ok(None),
            Some(Value::Array(names)) if names[0].is_string() => Ok(names[0].as_str()),
            Some(other) => Err(self.wrong("architectures", other, "expected a class name or a list of them")),
        }
    }

    /// Refuses any value but null.
    ///
    /// # Errors
    /// A value of another type.
    pub fn must_be_absent(&self, key: &str, advice: &str) -> Result<()> {
        match self.value(key) {
            None => Ok(()),
            Some(value) => Err(self.wrong(key, value, advice)),
        }
    }

    /// Refuses any text but `expected`.
    ///
    /// # Errors
    /// A value of another type.
    pub fn must_equal(&self, key: &str, expected: &str) -> Result<()> {
        match self.text(key)? {
            Some(found) if found != expected => {
                Err(self.wrong(key, &found, &format!("only {expected} is supported")))
            }
            _ => Ok(()),
        }
    }

    /// Warns of dropout, which is not applied.
    ///
    /// # Errors
    /// A value of another type.
    pub fn warn_dropout(&self, key: &str, warnings: &mut Vec<String>) -> Result<()> {
        if let Some(rate) = self.real(key)?
            && rate != 0.0
        {
            let key = self.full_key(key);
            warnings
                .push(format!("{key} is {rate}; no dropout is applied, neither in training nor otherwise"));
        }
        Ok(())
    }
}

/// A token id; `Some(None)` where -1 says that there is none.
fn token_id(value: &Value) -> Option<Option<u32>> {
    match value.as_i64()? {
        -1 => Some(None),
        number => u32::try_from(number).ok().map(Some),
    }
}

/// Sets a key.
pub fn set(map: &mut Map<String, Value>, key: &str, value: Value) {
    map.insert(key.to_owned(), value);
}

pub(crate) fn pad_token(text: &Section<'_>, default: Option<u32>) -> Result<Option<u32>> {
    match text.map.get("pad_token_id") {
        None => Ok(default),
        Some(_) => text.token("pad_token_id"),
    }
}
