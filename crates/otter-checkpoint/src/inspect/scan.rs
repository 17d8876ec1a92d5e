//! Looking for NaN and infinity in every tensor, streaming.

use super::source::Source;
use crate::error::Result;
use crate::tensor::{Dtype, TensorEntry};
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
    matches!(entry.dtype, Dtype::F32 | Dtype::F64 | Dtype::F16 | Dtype::Bf16 | Dtype::Block(_))
}

fn scan_tensor(name: &str, entry: &TensorEntry, progress: &mut dyn FnMut(u64)) -> Result<Option<NonFinite>> {
    let mut found = NonFinite { name: name.to_owned(), nan: 0, infinite: 0, first: 0 };
    let mut before = 0;
    entry.for_each_f32(name, &mut |piece| {
        // Most pieces have none.
        if !piece.iter().all(|value| value.is_finite()) {
            for (at, value) in piece.iter().enumerate().filter(|(_, value)| !value.is_finite()) {
                if found.nan + found.infinite == 0 {
                    found.first = before + at as u64;
                }
                if value.is_nan() { found.nan += 1 } else { found.infinite += 1 }
            }
        }
        before += piece.len() as u64;
        progress(before);
        Ok(())
    })?;
    Ok((found.nan + found.infinite > 0).then_some(found))
}
