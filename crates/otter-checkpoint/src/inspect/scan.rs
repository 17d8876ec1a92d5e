//! Looking for NaN and infinity in every tensor, streaming.

use super::elements::for_each;
use super::source::Source;
use crate::error::Result;
use crate::tensor::TensorEntry;
use std::path::Path;

/// Elements between two calls of the progress function.
const STRIDE: u64 = 1 << 24;

/// A tensor with elements that are not finite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NonFinite {
    /// Name in the file.
    pub name: String,
    /// Number of NaNs.
    pub nan: u64,
    /// Number of positive and negative infinities.
    pub infinite: u64,
    /// Row-major index of the first of either.
    pub first: u64,
}

/// Reads every float of a checkpoint or file. `progress` is told how many of how many elements were read.
///
/// # Errors
/// When the weights cannot be opened.
pub fn scan(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<NonFinite>> {
    let source = Source::open(path)?;
    let total = source.tensors.iter().map(|(_, entry)| entry.elements() as u64).sum();
    let mut done = 0;
    let mut found = Vec::new();
    for (name, entry) in &source.tensors {
        found.extend(scan_tensor(name, entry, &mut |elements| progress(done + elements, total)));
        done += entry.elements() as u64;
        progress(done, total);
    }
    Ok(found)
}

fn scan_tensor(name: &str, entry: &TensorEntry, progress: &mut dyn FnMut(u64)) -> Option<NonFinite> {
    let mut found = NonFinite { name: name.to_owned(), nan: 0, infinite: 0, first: 0 };
    let mut at = 0;
    for_each(entry, &mut |value| {
        if !value.is_finite() {
            if found.nan + found.infinite == 0 {
                found.first = at;
            }
            if value.is_nan() { found.nan += 1 } else { found.infinite += 1 }
        }
        at += 1;
        if at.is_multiple_of(STRIDE) {
            progress(at);
        }
    });
    (found.nan + found.infinite > 0).then_some(found)
}
