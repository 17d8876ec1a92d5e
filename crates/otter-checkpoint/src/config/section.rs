//! One object of a `config.json`, read key by key with messages that name file, key, what was found and what is expected.

use std::path::Path;

use serde_json::{Map, Value};

use crate::config::keys::nearest;
use crate::error::{CheckpointError, Result};
use strsim::levenshtein;

/// One object of the file, with its place for messages.
pub(crate) struct Section<'a> {
    pub(crate) path: &'a Path,
    pub(crate) name: &'static str,
    pub(crate) map: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    /// The key with the section's name in front.
    pub(crate) fn full_key(&self, key: &str) -> String {
        let key: String = key.chars().take(100).collect();
        if self.name.is_empty() { key } else { format!("{}.{key}", self.name) }
    }

    /// The value of `key` cannot be used.
    pub(crate) fn wrong(&self, key: &str, found: &dyn std::fmt::Display, expected: &str) -> CheckpointError {
        let found: String = found.to_string().chars().take(200).collect();
        CheckpointError::Key {
            path: self.path.to_path_buf(),
            key: self.full_key(key),
            found,
            expected: expected.to_owned(),
        }
    }

    /// Every key must be one of `own`: for objects of this project, which no other program adds keys to.
    pub(crate) fn check_keys(&self, own: &[&str]) -> Result<()> {
        match self.map.keys().find(|key| !own.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(CheckpointError::UnknownKey {
                path: self.path.to_path_buf(),
                key: self.full_key(key),
                nearest: self.full_key(nearest(key, own.iter().copied())),
            }),
        }
    }

    /// Keys that are in none of the lists, each with the known key that it may be a misspelling of.
    pub(crate) fn unknown_keys(&self, known: &[&[&str]]) -> Vec<String> {
        let all = || known.iter().flat_map(|list| list.iter().copied());
        let unknown = self.map.keys().filter(|key| !all().any(|name| name == key.as_str()));
        let described = |key: &String| {
            let near = nearest(key, all());
            let full = self.full_key(key);
            match is_misspelling(key, near) {
                true => format!("`{full}` (did you mean `{}`?)", self.full_key(near)),
                false => format!("`{full}`"),
            }
        };
        unknown.map(described).collect()
    }

    /// A setting that would change numbers in a way that is not computed here must be off: null, false, 0 or empty.
    pub(crate) fn must_be_inactive(&self, key: &str, advice: &str) -> Result<()> {
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
    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn section(&self, name: &'static str) -> Result<Section<'a>> {
        self.optional_section(name)?.ok_or_else(|| self.wrong(name, &"missing", "expected an object"))
    }

    pub(crate) fn optional_section(&self, name: &'static str) -> Result<Option<Section<'a>>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Section { path: self.path, name, map })),
            Some(other) => Err(self.wrong(name, other, "expected an object")),
        }
    }

    pub(crate) fn size(&self, key: &str) -> Result<Option<usize>> {
        let parse = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
        self.parsed(key, parse, "expected a whole number of at least 0")
    }

    /// A token id, which may stand in a list by itself. Older files write -1 for "none".
    pub(crate) fn token(&self, key: &str) -> Result<Option<u32>> {
        let parse = |value: &Value| match value {
            Value::Array(ids) if ids.len() == 1 => token_id(&ids[0]),
            value => token_id(value),
        };
        Ok(self.parsed(key, parse, "expected a token id")?.flatten())
    }

    /// Token ids: one, or a list, each once. A -1 is none, as in [`Section::token`].
    pub(crate) fn tokens(&self, key: &str) -> Result<Vec<u32>> {
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
    pub(crate) fn first_token(&self, key: &str) -> Result<Option<u32>> {
        Ok(self.tokens(key)?.first().copied())
    }

    pub(crate) fn real(&self, key: &str) -> Result<Option<f64>> {
        self.parsed(key, Value::as_f64, "expected a number")
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.parsed(key, Value::as_bool, "expected true or false")
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>> {
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
    pub(crate) fn first_architecture(&self) -> Result<Option<&'a str>> {
        match self.value("architectures") {
            None => Ok(None),
            Some(Value::String(name)) => Ok(Some(name)),
            Some(Value::Array(names)) if names.is_empty() => Ok(None),
            Some(Value::Array(names)) if names[0].is_string() => Ok(names[0].as_str()),
            Some(other) => Err(self.wrong("architectures", other, "expected a class name or a list of them")),
        }
    }

    pub(crate) fn must_be_absent(&self, key: &str, advice: &str) -> Result<()> {
        match self.value(key) {
            None => Ok(()),
            Some(value) => Err(self.wrong(key, value, advice)),
        }
    }

    pub(crate) fn must_equal(&self, key: &str, expected: &str) -> Result<()> {
        match self.text(key)? {
            Some(found) if found != expected => {
                Err(self.wrong(key, &found, &format!("only {expected} is supported")))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn warn_dropout(&self, key: &str, warnings: &mut Vec<String>) -> Result<()> {
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

/// Unknown keys listed in one warning.
const MOST_LISTED: usize = 20;

/// One warning that lists the keys that nothing here knows; `None` where there are none.
pub(crate) fn unknown_keys_warning(path: &Path, unknown: &[String]) -> Option<String> {
    let (first, rest) = unknown.split_at(unknown.len().min(MOST_LISTED));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    let list = first.join(", ");
    (!first.is_empty()).then(|| {
        format!(
            "{}: not known here and passed over, check that they change no numbers: {list}{more}",
            path.display()
        )
    })
}

/// Whether a key is so near to a known one that it was probably meant.
fn is_misspelling(key: &str, known: &str) -> bool {
    let key: String = key.chars().take(64).collect();
    levenshtein(&key, known) <= (known.len() / 5).clamp(1, 3)
}

/// A token id; `Some(None)` where -1 says that there is none.
fn token_id(value: &Value) -> Option<Option<u32>> {
    match value.as_i64()? {
        -1 => Some(None),
        number => u32::try_from(number).ok().map(Some),
    }
}
