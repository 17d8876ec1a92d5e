//! Rows of activations as signed bytes: round(x · 127 / largest magnitude) with one scale for each 256 (Q4_K) or 32
//! (Q8_0) elements, and the sum of every 32 bytes, which weights with an offset need.

use rayon::prelude::*;

use crate::quantised::{QuantisedFormat, q4_k, q8_0};
use crate::vectorised;

/// Elements that share a sum.
pub(super) const GROUP: usize = 32;
/// Work (elements) below which one thread is faster.
const PARALLEL: usize = 1 << 15;

/// Quantised rows of activations.
#[derive(Debug, Default)]
pub(crate) struct Activations {
    /// (rows, width)
    quants: Vec<i8>,
    /// (rows, width / elements of a block of the weight)
    scales: Vec<f32>,
    /// Sums of 32 quants, (rows, width / 32).
    sums: Vec<i16>,
    width: usize,
    block: usize,
}

vectorised! {
    /// Quantises whole blocks of activations. A block with a number that is not finite gets a scale that is NaN.
    fn quantise<>(
        x: &[f32], quants: &mut [i8], scales: &mut [f32], sums: &mut [i16], block: usize
    ) {
        /// 1.5 * 2^23: adding it rounds to an integer held in the low bits of the mantissa.
        const MAGIC: f32 = 12_582_912.0;
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

impl Activations {
    /// Quantises rows of `width` elements for products with a matrix of this format. Memory of earlier rows is reused.
    ///
    /// # Panics
    /// When `x` is not whole rows, or rows are not whole blocks.
    pub(super) fn set(&mut self, x: &[f32], width: usize, format: QuantisedFormat) {
        assert!(
            format.fits(width) && x.len().is_multiple_of(width),
            "{} elements in rows of {width}",
            x.len()
        );
        self.width = width;
        self.block = format.block_len();
        self.quants.resize(x.len(), 0);
        self.scales.resize(x.len() / self.block, 0.0);
        self.sums.resize(x.len() / GROUP, 0);
        let Self { quants, scales, sums, block, .. } = self;
        if x.len() < PARALLEL || rayon::current_num_threads() == 1 {
            quantise(x, quants, scales, sums, *block);
            return;
        }
        x.par_chunks(width)
            .zip(quants.par_chunks_mut(width))
            .zip(scales.par_chunks_mut(width / *block))
            .zip(sums.par_chunks_mut(width / GROUP))
            .for_each(|(((x, quants), scales), sums)| quantise(x, quants, scales, sums, *block));
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.quants.len() / self.width.max(1)
    }

    /// Bytes of a row.
    pub(super) fn quants(&self, row: usize) -> &[i8] {
        &self.quants[row * self.width..][..self.width]
    }

    /// Scales of a row, one for each block of the weight.
    pub(super) fn scales(&self, row: usize) -> &[f32] {
        let count = self.width / self.block;
        &self.scales[row * count..][..count]
    }

    /// Sums of each 32 bytes of a row.
    pub(super) fn sums(&self, row: usize) -> &[i16] {
        let count = self.width / GROUP;
        &self.sums[row * count..][..count]
    }
}

const _: () = assert!(q4_k::GROUP == GROUP && q8_0::ELEMENTS == GROUP);
