//! Names that are written alike but not equal: in the other Unicode normal form, or with other capitals.
//!
//! macOS writes file names decomposed (NFD), tables and editors hold them composed (NFC). Both look the same, so an id that
//! is not there as it stands is looked for by its composed form. Capitals are a hint only.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

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
    /// Held while an index is made: only one thread reads all names.
    making: Mutex<()>,
    /// A hint was asked for by [`Self::is_first_hint`].
    hinted: AtomicBool,
}

impl OtherNames {
    /// Entries that are not composed, and whose composed form is this.
    pub(crate) fn of_composed<N: AsRef<str>>(
        &self,
        form: &str,
        names: impl Iterator<Item = Result<N>>,
    ) -> Result<&[u32]> {
        let index = self.made_once(&self.composed, || {
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
            Ok(index)
        })?;
        Ok(index.get(form).map_or(&[], Vec::as_slice))
    }

    /// An entry whose name is probably equal but for capitals.
    pub(crate) fn but_for_capitals<N: AsRef<str>>(
        &self,
        name: &str,
        names: impl Iterator<Item = Result<N>>,
    ) -> Result<Option<u32>> {
        let index = self.made_once(&self.small, || {
            (0u32..).zip(names).map(|(entry, name)| Ok((small(name?.as_ref()), entry))).collect()
        })?;
        Ok(index.get(&small(name)).copied())
    }

    /// Whether this is asked for the first time.
    pub(crate) fn is_first_hint(&self) -> bool {
        !self.hinted.swap(true, Ordering::Relaxed)
    }

    fn made_once<'a, T>(&self, index: &'a OnceLock<T>, make: impl FnOnce() -> Result<T>) -> Result<&'a T> {
        if let Some(made) = index.get() {
            return Ok(made);
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have made it in the meantime.
        match index.get() {
            Some(made) => Ok(made),
            None => make().map(|made| index.get_or_init(|| made)),
        }
    }
}

fn small(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.nfc().flat_map(char::to_lowercase).for_each(|character| character.hash(&mut hasher));
    hasher.finish()
}
