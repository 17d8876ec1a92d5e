//! Keys of a JSON object that nothing here knows.

use std::path::Path;

pub(crate) use otter_model::text::config_json::Section;

use crate::config::keys::nearest;
use crate::error::{CheckpointError, Result};
use strsim::levenshtein;

/// What is said of keys that are not known.
pub(crate) trait UnknownKeys {
    /// Every key must be one of `own`: for objects of this project, which no other program adds keys to.
    fn check_keys(&self, own: &[&str]) -> Result<()>;

    /// Keys that are in none of the lists, each with the known key that it may be a misspelling of.
    fn unknown_keys(&self, known: &[&[&str]]) -> Vec<String>;
}

impl UnknownKeys for Section<'_> {
    fn check_keys(&self, own: &[&str]) -> Result<()> {
        match self.map.keys().find(|key| !own.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(CheckpointError::UnknownKey {
                path: self.path.to_path_buf(),
                key: self.full_key(key),
                nearest: self.full_key(nearest(key, own.iter().copied())),
            }),
        }
    }

    fn unknown_keys(&self, known: &[&[&str]]) -> Vec<String> {
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
