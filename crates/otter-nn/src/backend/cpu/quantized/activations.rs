//! Rows of activations as signed bytes: round(x · 127 / largest magnitude) with one scale for each 256 (Q4_K) or 32
//! (Q8_0) elements, and the sum of every 32 bytes, which weights with an offset need.

use rayon::prelude::*;

use super::prefetch::prefetch;
use crate::tensor::quantized::{QuantizedFormat, q4_k, q8_0};
use crate::vectorized;

/// Elements that share a sum.
pub(super) const GROUP: usize = 32;
/// Elements of a cell.
pub(super) const CELL: usize = 256;
/// Sums of a cell.
pub(super) const SUMS: usize = CELL / GROUP;
/// Rows asked for before they are read.
const ROWS_AHEAD: usize = 2;
/// Work (elements) below which one thread is faster.
const PARALLEL: usize = 1 << 15;

/// Quantized rows of activations.
#[derive(Debug, Default)]
pub(crate) struct Activations {
    /// (cells of a row, rows, `CELL`)
    quants: Vec<i8>,
    /// (cells of a row, rows, `CELL` / elements of a block of the weight)
    scales: Vec<f32>,
    /// Sums of 32 quants, (cells of a row, rows, `SUMS`).
    sums: Vec<i16>,
    width: usize,
    rows: usize,
    block: usize,
}

/// The same 256 columns of consecutive rows: `CELL` quants, `SUMS` sums and some scales of each.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a> {
    pub(super) quants: &'a [i8],
    pub(super) scales: &'a [f32],
    pub(super) sums: &'a [i16],
}

vectorized! {
    /// Quantizes columns `start` to `start + CELL`, or to the end, of all rows of `x`. A block with a number that is not
    /// finite gets a scale that is NaN.
    fn quantize<>(
        x: &[f32], width: usize, start: usize, quants: &mut [i8], scales: &mut [f32], sums: &mut [i16], block: usize
    ) {
        /// 1.5 * 2^23: adding it rounds to an integer held in the low bits of the mantissa.
        const MAGIC: f32 = 12_582_912.0;
        let count = CELL.min(width - start);
        let cells = quants.chunks_exact_mut(CELL).zip(scales.chunks_exact_mut(CELL / block));
        for (row, ((quants, scales), sums)) in cells.zip(sums.chunks_exact_mut(SUMS)).enumerate() {
            if let Some(ahead) = x.get((row + ROWS_AHEAD) * width + start..).and_then(|x| x.get(..count)) {
                prefetch(ahead);
            }
            let x = &x[row * width + start..][..count];
            quants[count..].fill(0);
            scales[count / block..].fill(0.0);
            let blocks = x.chunks_exact(block).zip(quants.chunks_exact_mut(block)).zip(scales);
            for ((x, quants), scale) in blocks {
                // as integers, magnitudes are in the same order, and what is not finite is above everything
                let mut lanes = [0u32; GROUP];
                for x in x.chunks_exact(GROUP) {
                    for (lane, x) in lanes.iter_mut().zip(x) {
                        *lane = (x.to_bits() & 0x7fff_ffff).max(*lane);
                    }
                }
                let largest = f32::from_bits(lanes.into_iter().fold(0, u32::max));
                let finite = largest < f32::INFINITY;
                let inverse = if finite && largest > 0.0 { 127.0 / largest } else { 0.0 };
                // of a block of tiny numbers the inverse overflows
                let inverse = if inverse < f32::INFINITY { inverse } else { 0.0 };
                *scale = if finite { largest / 127.0 } else { f32::NAN };
                for (quant, x) in quants.iter_mut().zip(x) {
                    *quant = (x * inverse + MAGIC).to_bits() as i8;
                }
            }
            for (sum, quants) in sums.iter_mut().zip(quants.chunks_exact(GROUP)) {
                *sum = quants.iter().map(|&quant| i16::from(quant)).sum();
            }
        }
    }
}

impl Activations {
    /// Quantizes rows of `width` elements for products with a matrix of this format. Memory of earlier rows is reused.
    ///
    /// # Panics
    /// When `x` is not whole rows, or rows are not whole blocks.
    pub(super) fn set(&mut self, x: &[f32], width: usize, format: QuantizedFormat) {
        assert!(
            format.fits(width) && x.len().is_multiple_of(width),
            "{} elements in rows of {width}",
            x.len()
        );
        (self.width, self.rows, self.block) = (width, x.len() / width, format.block_len());
        let cells = self.rows * width.div_ceil(CELL);
        self.quants.resize(cells * CELL, 0);
        self.scales.resize(cells * self.scales_of_cell(), 0.0);
        self.sums.resize(cells * SUMS, 0);
        let (rows, of_cell) = (self.rows.max(1), self.scales_of_cell());
        let Self { quants, scales, sums, block, .. } = self;
        let work = (
            quants.par_chunks_mut(rows * CELL),
            scales.par_chunks_mut(rows * of_cell),
            sums.par_chunks_mut(rows * SUMS),
        );
        // Of less work than that, all stays on this thread.
        let smallest = if x.len() < PARALLEL { usize::MAX } else { 1 };
        let cells = work.into_par_iter().enumerate().with_min_len(smallest);
        cells.for_each(|(at, (quants, scales, sums))| {
            quantize(x, width, at * CELL, quants, scales, sums, *block);
        });
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Scales of a cell: one for each block of the weight.
    pub(super) fn scales_of_cell(&self) -> usize {
        CELL / self.block
    }

    /// Everything, in cells: that of row `row` and columns from `256 at` on has the number `at * rows + row`.
    pub(super) fn cells(&self) -> Cells<'_> {
        Cells { quants: &self.quants, scales: &self.scales, sums: &self.sums }
    }

    /// Columns `256 at` on of some rows.
    ///
    /// # Panics
    /// When there are no such columns or rows.
    pub(super) fn cells_of(&self, at: usize, rows: std::ops::Range<usize>) -> Cells<'_> {
        assert!(rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        let (first, count, of_cell) = (at * self.rows + rows.start, rows.len(), self.scales_of_cell());
        Cells {
            quants: &self.quants[first * CELL..][..count * CELL],
            scales: &self.scales[first * of_cell..][..count * of_cell],
            sums: &self.sums[first * SUMS..][..count * SUMS],
        }
    }
}

const _: () = assert!(q4_k::GROUP == GROUP && q8_0::ELEMENTS == GROUP && q4_k::ELEMENTS == CELL);
