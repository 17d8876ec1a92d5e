//! What to write: each tensor of the result, and where its elements come from. A plan is made from headers alone; nothing
//! is read before it is written.

use crate::convert::elements::{self, PIECE};
use crate::error::{CheckpointError, Result};
use crate::gguf::kept_blocks;
use otter_formats::{EncodeError, encode};
use otter_formats::{StoredDType, TensorEntry};
use otter_nn::{DType, Init, ParameterSpec};
use std::io::Write;
use std::path::Path;

/// Where some of a tensor's elements come from, in row-major order.
#[derive(Debug, Clone)]
pub enum Part {
    /// A tensor of a file, or a view of one.
    Stored {
        /// Its name in the file, for messages.
        name: String,
        /// Where it is.
        entry: TensorEntry,
    },
    /// Values drawn from an initial distribution.
    Drawn {
        /// Name (which selects the random stream), shape and distribution.
        spec: ParameterSpec,
        /// Seed.
        seed: u64,
    },
    /// Rows about the mean of the rows of a table, see [`mean_rows`].
    MeanRows {
        /// Its name in the file.
        name: String,
        /// The table.
        entry: TensorEntry,
        /// How many rows.
        rows: usize,
        /// Name that selects the random stream.
        stream: String,
        /// Seed.
        seed: u64,
    },
    /// The sum of two tensors of one shape.
    Sum {
        /// Name in both files.
        name: String,
        /// One.
        left: TensorEntry,
        /// The other.
        right: TensorEntry,
    },
    /// `base + scale * b a`: a low-rank adapter added to its matrix.
    LowRank {
        /// Name of the matrix.
        name: String,
        /// The matrix (out, in).
        base: TensorEntry,
        /// (rank, in).
        a: TensorEntry,
        /// (out, rank).
        b: TensorEntry,
        /// alpha / rank.
        scale: f32,
    },
}

impl Part {
    /// A stored tensor.
    pub(super) fn stored(name: &str, entry: &TensorEntry) -> Self {
        Self::Stored { name: name.to_owned(), entry: entry.clone() }
    }

    /// `count` rows of `width` drawn from `init`, in the stream of `name`.
    pub(super) fn drawn_rows(name: &str, count: usize, width: usize, init: Init, seed: u64) -> Self {
        Self::Drawn {
            spec: ParameterSpec {
                name: name.to_owned(),
                shape: vec![count, width],
                init,
                low_precision: true,
            },
            seed,
        }
    }

    fn elements(&self) -> usize {
        match self {
            Self::Stored { entry, .. } => entry.elements(),
            Self::Drawn { spec, .. } => spec.len(),
            Self::MeanRows { entry, rows, .. } => entry.shape.get(1).copied().unwrap_or(0) * rows,
            Self::Sum { left, .. } => left.elements(),
            Self::LowRank { base, .. } => base.elements(),
        }
    }
}

/// One tensor of the result.
#[derive(Debug, Clone)]
pub struct PlannedTensor {
    /// Its name.
    pub name: String,
    /// Element type it is written in.
    pub dtype: StoredDType,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Its elements, one part after the other.
    pub parts: Vec<Part>,
}

impl PlannedTensor {
    /// A stored tensor as it is, under `name`.
    pub(super) fn copy(name: String, stored_name: &str, entry: &TensorEntry) -> Self {
        let parts = vec![Part::stored(stored_name, entry)];
        Self { name, dtype: widest([entry.dtype]), shape: entry.shape.clone(), parts }
    }

    /// A new tensor with values from its initial distribution.
    pub(super) fn fresh(spec: &ParameterSpec, seed: u64) -> Self {
        let parts = vec![Part::Drawn { spec: spec.clone(), seed }];
        Self { name: spec.name.clone(), dtype: StoredDType::F32, shape: spec.shape.clone(), parts }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Size in the result.
    pub fn bytes(&self) -> u64 {
        self.elements() as u64 * self.dtype.size() as u64
    }

    /// Writes the elements, little-endian. `path` is what is being written, `target` what it will be.
    ///
    /// # Errors
    /// When reading or writing fails, a type does not fit, or a value is too large for it.
    pub(super) fn write(&self, path: &Path, target: &Path, out: &mut dyn Write) -> Result<()> {
        let found: usize = self.parts.iter().map(Part::elements).sum();
        if found != self.elements() {
            let problem =
                format!("its parts hold {found} elements; shape {:?} takes {}", self.shape, self.elements());
            return Err(self.error(target, problem));
        }
        let mut sink = Sink { tensor: self, path, target, out, buffer: Vec::new() };
        for part in &self.parts {
            match part {
                Part::Stored { entry, .. } if entry.dtype == self.dtype => {
                    elements::for_each_piece(entry, &mut |bytes| {
                        let bad = elements::not_finite(entry.dtype, bytes);
                        bad.map_or(Ok(()), |value| sink.refuse(EncodeError::NotFinite(value)))?;
                        sink.bytes(bytes)
                    })?;
                }
                other => floats(other, &mut |values| sink.floats(values))?,
            }
        }
        Ok(())
    }

    /// Passes the elements as 32-bit floats to `put`.
    ///
    /// # Errors
    /// When reading fails or the elements are no floats; those of `put`.
    pub(super) fn floats(&self, put: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        self.parts.iter().try_for_each(|part| floats(part, put))
    }

    /// The format of the blocks that a GGUF file takes over as they are, where large matrices are to be of a type.
    pub(super) fn kept_blocks(&self, wanted: Option<DType>) -> Option<StoredDType> {
        let format = |part: &Part| match part {
            Part::Stored { entry, .. } => kept_blocks(&self.name, &self.shape, entry.dtype, wanted),
            _ => None,
        };
        let first = format(self.parts.first()?)?;
        self.parts.iter().all(|part| format(part) == Some(first)).then_some(first)
    }

    /// Passes the bytes of the blocks of [`PlannedTensor::kept_blocks`] to `put`.
    ///
    /// # Errors
    /// When the scale of a block makes its elements no finite numbers; those of `put`.
    pub(super) fn blocks(&self, put: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.parts.iter().try_for_each(|part| {
            let Part::Stored { entry, .. } = part else { return Ok(()) };
            entry.for_each_blocks(&self.name, put)
        })
    }

    fn error(&self, target: &Path, problem: String) -> CheckpointError {
        CheckpointError::tensor(target, &self.name, problem)
    }
}

fn floats(part: &Part, put: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
    match part {
        Part::Stored { name, entry } => elements::for_each_f32(entry, name, put),
        Part::Drawn { spec, seed } => drawn(spec, *seed, put),
        Part::MeanRows { name, entry, rows, stream, seed } => {
            mean_rows(entry, name, *rows, stream, *seed)?.chunks(PIECE).try_for_each(put)
        }
        Part::Sum { name, left, right } => sum(name, left, right, put),
        Part::LowRank { name, base, a, b, scale } => low_rank(name, (base, a, b), *scale, put),
    }
}

/// Where the elements of one tensor go.
struct Sink<'s> {
    tensor: &'s PlannedTensor,
    path: &'s Path,
    target: &'s Path,
    out: &'s mut dyn Write,
    buffer: Vec<u8>,
}

impl Sink<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(CheckpointError::write(self.path, self.target))
    }

    fn refuse(&self, error: EncodeError) -> Result<()> {
        Err(self.tensor.error(self.target, error.problem()))
    }

    fn floats(&mut self, values: &[f32]) -> Result<()> {
        self.buffer.clear();
        encode(values, self.tensor.dtype, &mut self.buffer).or_else(|error| self.refuse(error))?;
        self.out.write_all(&self.buffer).map_err(CheckpointError::write(self.path, self.target))
    }
}

/// The values every parameter of this name, shape and seed starts with.
fn drawn(spec: &ParameterSpec, seed: u64, put: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
    let mut values = vec![0f32; PIECE.min(spec.len())];
    (0..spec.len()).step_by(PIECE).try_for_each(|start| {
        let values = &mut values[..PIECE.min(spec.len() - start)];
        spec.initial_values(seed, start, values);
        put(values)
    })
}

/// Share of the covariance of the old rows that new rows have about their mean. 32-bit floats tell the rows apart; 16-bit ones
/// mostly round them to the same bits, until training moves them.
pub(super) const SHARE_OF_COVARIANCE: f64 = 1e-9;

/// `count` draws from a normal distribution with the mean of the table's rows and [`SHARE_OF_COVARIANCE`] of their covariance, as
/// Transformers resizes a table. A token whose row of the output table is the mean has the mean of all logits, so that its
/// share of the softmax is at most the average one, and the loss rises by at most the logarithm of 1 + new rows / old rows.
///
/// The covariance is never made: a sum of the centered rows, each times a draw from N(0, 1) over the root of their number, has
/// it.
fn mean_rows(entry: &TensorEntry, name: &str, count: usize, stream: &str, seed: u64) -> Result<Vec<f32>> {
    let (height, width) = (entry.shape[0], entry.shape.get(1).copied().unwrap_or(0));
    if width == 0 {
        return Ok(Vec::new());
    }
    let shape = vec![count, height];
    let noise = ParameterSpec {
        name: format!("{stream}.noise"),
        shape,
        init: Init::Normal(1.0),
        low_precision: false,
    };
    let mut mean = vec![0f64; width];
    let mut mixed = vec![0f64; count * width];
    let mut weights = vec![0f64; count];
    in_row_blocks(entry, name, &mut |rows| {
        let values = collect(&elements::rows(entry, name, rows.clone())?, name)?;
        let mut drawn = vec![0f64; rows.len()];
        let add = |sums: &mut [f64], factors: Option<&[f64]>| {
            for (at, row) in values.chunks_exact(width).enumerate() {
                let factor = factors.map_or(1.0, |factors| factors[at]);
                sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += factor * f64::from(value));
            }
        };
        add(&mut mean, None);
        for (new, sums) in mixed.chunks_exact_mut(width).enumerate() {
            noise.initial_values(seed, new * height + rows.start, &mut drawn);
            weights[new] += drawn.iter().sum::<f64>();
            add(sums, Some(&drawn));
        }
        Ok(())
    })?;
    let old = height.max(1) as f64;
    mean.iter_mut().for_each(|sum| *sum /= old);
    let scale = (SHARE_OF_COVARIANCE / old).sqrt();
    let rows = mixed.chunks_exact(width).zip(&weights);
    let row = |(sums, weight): (&[f64], &f64)| -> Vec<f32> {
        let centered = sums.iter().zip(&mean).map(|(sum, mean)| mean + scale * (sum - weight * mean));
        centered.map(|value| value as f32).collect()
    };
    Ok(rows.flat_map(row).collect())
}

/// The sum piece by piece. Both tensors are cut alike, because pieces have a fixed number of elements.
fn sum(
    name: &str,
    left: &TensorEntry,
    right: &TensorEntry,
    put: &mut dyn FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    in_row_blocks(left, name, &mut |rows| {
        let mut values = collect(&elements::rows(left, name, rows.clone())?, name)?;
        let others = collect(&elements::rows(right, name, rows)?, name)?;
        values.iter_mut().zip(&others).for_each(|(value, other)| *value += other);
        put(&values)
    })
}

fn low_rank(
    name: &str,
    (base, a, b): (&TensorEntry, &TensorEntry, &TensorEntry),
    scale: f32,
    put: &mut dyn FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    let (rank, width) = (a.shape[0], base.shape[1]);
    let a = collect(a, name)?;
    in_row_blocks(base, name, &mut |rows| {
        let mut values = collect(&elements::rows(base, name, rows.clone())?, name)?;
        let b = collect(&elements::rows(b, name, rows)?, name)?;
        let mut product = vec![0f32; width];
        for (row, b) in values.chunks_exact_mut(width).zip(b.chunks_exact(rank)) {
            product.fill(0.0);
            for (&factor, a) in b.iter().zip(a.chunks_exact(width)) {
                product.iter_mut().zip(a).for_each(|(sum, a)| *sum += factor * a);
            }
            row.iter_mut().zip(&product).for_each(|(value, sum)| *value += scale * sum);
        }
        put(&values)
    })
}

/// Calls `each` with ranges of rows that hold about [`PIECE`] elements, at least one row.
fn in_row_blocks(
    entry: &TensorEntry,
    name: &str,
    each: &mut dyn FnMut(std::ops::Range<usize>) -> Result<()>,
) -> Result<()> {
    let Some(&height) = entry.shape.first() else {
        return Err(CheckpointError::tensor(
            &entry.location.path,
            name,
            "a single number cannot be added to; expected a vector or a matrix",
        ));
    };
    let width: usize = entry.shape[1..].iter().product();
    let block = (PIECE / width.max(1)).max(1);
    (0..height).step_by(block).try_for_each(|start| each(start..(start + block).min(height)))
}

fn collect(entry: &TensorEntry, name: &str) -> Result<Vec<f32>> {
    let mut values = Vec::with_capacity(entry.elements());
    elements::for_each_f32(entry, name, &mut |piece| {
        values.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(values)
}

/// The narrowest type that holds the values of all of `types` exactly; blocks are dequantized.
pub(super) fn widest(types: impl IntoIterator<Item = StoredDType>) -> StoredDType {
    let plain = |dtype: StoredDType| if dtype.is_block() { StoredDType::F32 } else { dtype };
    let join = |left: StoredDType, right: StoredDType| match (left, right) {
        (left, right) if left == right => left,
        (StoredDType::F64, _) | (_, StoredDType::F64) => StoredDType::F64,
        _ => StoredDType::F32,
    };
    types.into_iter().map(plain).reduce(join).unwrap_or(StoredDType::F32)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::convert::elements::tests::entry;

    #[test]
    fn new_rows_have_the_mean_and_a_share_of_the_covariance() {
        let (height, width, count) = (50, 3, 4000);
        let value = |at: usize| ((at * 7919 + 13) % 101) as f32 / 20.0 - (at % width) as f32;
        let values: Vec<f32> = (0..height * width).map(value).collect();
        let table = entry(&values, &[height, width], &[width, 1]);
        let rows = mean_rows(&table, "x", count, "x.rows.50", 3).unwrap();
        assert_eq!(rows, mean_rows(&table, "x", count, "x.rows.50", 3).unwrap());
        assert_ne!(rows, mean_rows(&table, "x", count, "x.rows.50", 4).unwrap());
        let column = |values: &[f32], at: usize| -> Vec<f64> {
            values.chunks(width).map(|row| f64::from(row[at])).collect()
        };
        let mean = |column: &[f64]| column.iter().sum::<f64>() / column.len() as f64;
        let covariance = |values: &[f32], i: usize, j: usize| {
            let (a, b) = (column(values, i), column(values, j));
            let (center_a, center_b) = (mean(&a), mean(&b));
            a.iter().zip(&b).map(|(x, y)| (x - center_a) * (y - center_b)).sum::<f64>() / a.len() as f64
        };
        for i in 0..width {
            assert!((mean(&column(&rows, i)) - mean(&column(&values, i))).abs() < 1e-6);
            for j in 0..width {
                let wanted = SHARE_OF_COVARIANCE * covariance(&values, i, j);
                let scale =
                    SHARE_OF_COVARIANCE * (covariance(&values, i, i) * covariance(&values, j, j)).sqrt();
                let found = covariance(&rows, i, j);
                assert!((found - wanted).abs() < 0.1 * scale, "{i} {j}: {found} {wanted}");
            }
        }
    }
}
