//! Names that are written alike but not equal: in the other Unicode normal form, or with other capitals.
//!
//! macOS writes file names decomposed (NFD), tables and editors hold them composed (NFC). Both look the same, so an id that
//! is not there as it stands is looked for by its composed form. Capitals are a hint only.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;

use unicode_normalization::UnicodeNormalization;

use crate::error::Result;

/// The composed form (NFC).
pub fn composed(name: &str) -> String {
    name.nfc().collect()
}

/// Indices that are made when the first name is not found.
#[derive(Default)]
pub(crate) struct OtherNames {
    /// Entries whose names are not composed, by their composed form.
    composed: OnceLock<HashMap<String, Vec<u32>>>,
    /// An entry by the hash of its composed name in small letters.
    small: OnceLock<HashMap<u64, u32>>,
}

impl OtherNames {
    /// Entries that are not composed, and whose composed form is this.
    pub(crate) fn of_composed<N: AsRef<str>>(
        &self,
        form: &str,
        names: impl Iterator<Item = Result<N>>,
    ) -> Result<&[u32]> {
        let index = match self.composed.get() {
            Some(index) => index,
            None => {
                let mut index: HashMap<String, Vec<u32>> = HashMap::new();
                for (entry, name) in (0u32..).zip(names) {
                    let name = name?;
                    let name = name.as_ref();
                    if !name.is_ascii() {
                        let form = composed(name);
                        if form != name {
                            index.entry(form).or_default().push(entry);
                        }
                    }
                }
                self.composed.get_or_init(|| index)
            }
        };
        Ok(index.get(form).map_or(&[], Vec::as_slice))
    }

    /// An entry whose name is probably equal but for capitals.
    pub(crate) fn but_for_capitals<N: AsRef<str>>(
        &self,
        name: &str,
        names: impl Iterator<Item = Result<N>>,
    ) -> Result<Option<u32>> {
        let index = match self.small.get() {
            Some(index) => index,
            None => {
                let entries = (0u32..).zip(names).map(|(entry, name)| Ok((small(name?.as_ref()), entry)));
                let index = entries.collect::<Result<_>>()?;
                self.small.get_or_init(|| index)
            }
        };
        Ok(index.get(&small(name)).copied())
    }
}

fn small(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.nfc().flat_map(char::to_lowercase).for_each(|character| character.hash(&mut hasher));
    hasher.finish()
}
