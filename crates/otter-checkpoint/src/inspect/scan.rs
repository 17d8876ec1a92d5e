//! Looking for NaN and infinity in every tensor, streaming.

use crate::error::Result;
use crate::inspect::source::Source;
use otter_formats::{FormatError, TensorEntry};
use otter_nn::NotFinite;
use std::path::Path;

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
        if is_float(entry) {
            found.extend(scan_tensor(name, entry, &mut |elements| progress(done + elements, total))?);
        }
        done += entry.elements() as u64;
        progress(done, total);
    }
    Ok(found)
}

/// Integers are finite.
fn is_float(entry: &TensorEntry) -> bool {
    entry.dtype.is_float()
}

fn scan_tensor(name: &str, entry: &TensorEntry, progress: &mut dyn FnMut(u64)) -> Result<Option<NonFinite>> {
    let mut found = NotFinite::default();
    let mut before = 0;
    entry.for_each_f32::<FormatError>(name, &mut |piece| {
        found.add(piece, before);
        before += piece.len() as u64;
        progress(before);
        Ok(())
    })?;
    let NotFinite { nan, infinite, first } = found;
    Ok(found.any().then(|| NonFinite { name: name.to_owned(), nan, infinite, first }))
}
