//! Products with frozen matrices in blocks of 8 or 4 bits ([`crate::tensor::quantized`]). Forward, activations become signed bytes
//! once and products are sums of integers, so that every instruction set gives the same numbers up to the rounding of a
//! last sum; the input gradient dequantizes a tile at a time into the f32 product. A matrix is never dequantized as a whole.
//!
//! For up to [`SKINNY_ROWS`] rows of activations a weight row is read once and multiplied with all of them (bound by memory);
//! for more, panels of weight rows are laid out for the widest integer products (bound by arithmetic).

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod panel;
mod plain;
mod prefetch;

use std::cell::RefCell;

use rayon::prelude::*;

use super::for_row_blocks;
use super::gemm::{self, Layout};
use crate::backend::Projection;
use crate::tensor::quantized::{QuantizedFormat, QuantizedView};
use crate::{Float, WeightView, vectorized};

use activations::Activations;
use panel::PANEL;
use prefetch::prefetch;

/// Rows of activations up to which weight rows are taken one at a time.
const SKINNY_ROWS: usize = 4;
/// Rows of activations that a panel is multiplied with at a time: their sums stay in the second-level cache.
const COLUMNS: usize = 512;
/// Rows of results asked for before they are written.
const ROWS_AHEAD: usize = 8;
/// Bytes of weights below which a product stays on one thread.
const PARALLEL_BYTES: usize = 1 << 15;
/// Elements of a dequantized tile: 4 MiB of f32, which stay in the cache until the product has read them.
const TILE: usize = 1 << 20;

/// What a processor has for integer products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instructions {
    /// Products of four bytes added to 32 bits, 512 bits wide.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Products of two bytes added to 16 bits, 256 bits wide.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler makes of loops.
    Plain,
}

impl Instructions {
    /// The best of this processor.
    fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                return Self::Avx512;
            }
            if avx2 {
                return Self::Avx2;
            }
        }
        Self::Plain
    }
}

thread_local! {
    /// Activations of the product in progress, so that a product in steady state allocates nothing.
    static ACTIVATIONS: RefCell<Activations> = RefCell::new(Activations::default());
}

/// `y (+)= x w^T` with x (rows, inner), w (outer, inner), y (rows, outer).
pub fn matmul_nt(y: &mut [f32], x: &[f32], w: QuantizedView<'_>, accumulate: bool) {
    // Taken, not borrowed: while it waits for others, this thread may begin another product.
    let mut activations = ACTIVATIONS.take();
    activations.set(x, w.width(), w.format());
    product(y, &activations, w, accumulate, Instructions::best());
    ACTIVATIONS.set(activations);
}

/// `y = x w^T` for several matrices over the same `x`. Where all are of one format, the bytes of `x` are made once and no
/// thread waits at the end of one product for the next.
pub fn matmul_nt_each(x: &[f32], projections: &mut [Projection<'_, f32>]) -> bool {
    let Some(first) = projections.first().and_then(blocks) else { return false };
    let kind = |w: QuantizedView<'_>| (w.width(), w.format());
    if !projections.iter().all(|each| blocks(each).is_some_and(|w| kind(w) == kind(first))) {
        return false;
    }
    let mut activations = ACTIVATIONS.take();
    activations.set(x, first.width(), first.format());
    products(projections, &activations, Instructions::best());
    ACTIVATIONS.set(activations);
    true
}

/// The blocks of a weight.
fn blocks<'a>(projection: &Projection<'a, f32>) -> Option<QuantizedView<'a>> {
    match projection.weight.view() {
        WeightView::Quantized(blocks) => Some(blocks),
        _ => None,
    }
}

fn products(projections: &mut [Projection<'_, f32>], x: &Activations, with: Instructions) {
    let Some((first, others)) = projections.split_first_mut() else { return };
    let Some(w) = blocks(first) else { return };
    let mut run = || product(first.y.data_mut(), x, w, false, with);
    match others.is_empty() {
        true => run(),
        false => {
            rayon::join(run, || products(others, x, with));
        }
    }
}

/// A pointer to results that threads write disjoint parts of.
#[derive(Clone, Copy)]
struct Results(*mut f32);
// SAFETY: only `panels` uses it, and every task writes columns of its own.
unsafe impl Send for Results {}
// SAFETY: as above.
unsafe impl Sync for Results {}

impl Results {
    /// `count` elements from `at` on.
    ///
    /// # Safety
    /// They must lie inside the results and be used by nobody else meanwhile.
    #[expect(clippy::mut_from_ref, reason = "disjoint parts, by the contract")]
    unsafe fn part(&self, at: usize, count: usize) -> &mut [f32] {
        // SAFETY: by the contract above.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), count) }
    }
}

fn product(y: &mut [f32], x: &Activations, w: QuantizedView<'_>, accumulate: bool, with: Instructions) {
    let (rows, outer) = (x.rows(), w.rows());
    assert_eq!(y.len(), rows * outer, "results of {rows} rows and {outer} weight rows");
    if rows == 0 || outer == 0 {
        return;
    }
    if rows <= SKINNY_ROWS || with == Instructions::Plain {
        skinny_gemm(y, x, w, accumulate, with);
    } else {
        panels(y, x, w, accumulate, with);
    }
}

/// Calls `body` with consecutive ranges of weight rows, multiples of `step` long but for the last, on all threads.
fn for_weight_rows(w: QuantizedView<'_>, step: usize, body: impl Fn(std::ops::Range<usize>) + Sync + Send) {
    let outer = w.rows();
    let threads = rayon::current_num_threads();
    if threads == 1 || w.bytes().len() < PARALLEL_BYTES {
        body(0..outer);
        return;
    }
    // A few parts a thread: one that was woken late, or shares its core, gets fewer.
    let smallest = (PARALLEL_BYTES / 4).div_ceil(w.row_bytes());
    let part = outer.div_ceil(threads * 8).max(smallest).next_multiple_of(step);
    (0..outer.div_ceil(part)).into_par_iter().with_max_len(1).for_each(|i| {
        body(i * part..((i + 1) * part).min(outer));
    });
}

/// Each weight row is read once and multiplied with all rows of activations.
fn skinny_gemm(y: &mut [f32], x: &Activations, w: QuantizedView<'_>, accumulate: bool, with: Instructions) {
    let (rows, outer) = (x.rows(), w.rows());
    let results = Results(y.as_mut_ptr());
    for_weight_rows(w, 16, |range| {
        let bytes = &w.bytes()[range.start * w.row_bytes()..range.end * w.row_bytes()];
        for first in (0..rows).step_by(SKINNY_ROWS) {
            let count = SKINNY_ROWS.min(rows - first);
            for (at, row) in bytes.chunks_exact(w.row_bytes()).enumerate() {
                let products = dot(w.format(), row, x, first, count, with);
                for (i, product) in products.into_iter().enumerate().take(count) {
                    // SAFETY: inside `y` (its length was checked), and this range of weight rows is this task's alone.
                    let y = unsafe { &mut results.part((first + i) * outer + range.start + at, 1)[0] };
                    *y = if accumulate { *y + product } else { product };
                }
            }
        }
    });
}

/// Products of one weight row with `count` rows of activations from `first` on; the rest are zero.
#[inline]
fn dot(
    format: QuantizedFormat,
    row: &[u8],
    x: &Activations,
    first: usize,
    count: usize,
    with: Instructions,
) -> [f32; SKINNY_ROWS] {
    match with {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Instructions` names only what the processor was asked for.
        Instructions::Avx512 => unsafe { avx512::dot(format, row, x, first, count) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Instructions::Avx2 => unsafe { avx2::dot(format, row, x, first, count) },
        Instructions::Plain => plain::dot(format, row, x, first, count),
    }
}

/// Panels of weight rows, laid out anew for the integer products, times all rows of activations.
fn panels(y: &mut [f32], x: &Activations, w: QuantizedView<'_>, accumulate: bool, with: Instructions) {
    let (rows, outer) = (x.rows(), w.rows());
    let results = Results(y.as_mut_ptr());
    for_weight_rows(w, PANEL, |range| {
        let mut sums = vec![0.0f32; COLUMNS.min(rows) * PANEL];
        for first_row in (0..rows).step_by(COLUMNS) {
            let columns = first_row..rows.min(first_row + COLUMNS);
            for first in range.clone().step_by(PANEL) {
                let count = PANEL.min(range.end - first);
                let sums = &mut sums[..columns.len() * PANEL];
                sums.fill(0.0);
                let w = w.split_at(first * w.width()).1.split_at(count * w.width()).0;
                match with {
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: `Instructions` names only what the processor was asked for.
                    Instructions::Avx512 => unsafe {
                        panel::multiply::<avx512::Avx512>(w, x, columns.clone(), sums)
                    },
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: as above.
                    Instructions::Avx2 => unsafe {
                        panel::multiply::<avx2::Avx2>(w, x, columns.clone(), sums)
                    },
                    Instructions::Plain => unreachable!("skinny_gemm does it"),
                }
                for (row, sums) in columns.clone().zip(sums.chunks_exact(PANEL)) {
                    if row + ROWS_AHEAD < columns.end {
                        // SAFETY: as below.
                        prefetch(unsafe { results.part((row + ROWS_AHEAD) * outer + first, count) });
                    }
                    // SAFETY: inside `y` (its length was checked), and this range of weight rows is this task's alone.
                    let y = unsafe { results.part(row * outer + first, count) };
                    for (y, &sum) in y.iter_mut().zip(sums) {
                        *y = if accumulate { *y + sum } else { sum };
                    }
                }
            }
        }
    });
}

vectorized! {
    fn dequantize_part<T: Float>(format: QuantizedFormat, bytes: &[u8], start: usize, out: &mut [T]) {
        let length = format.block_len();
        let mut block_values = [0.0f32; 256];
        let (mut at, mut out) = (start, out);
        while !out.is_empty() {
            let (block, inside) = (at / length, at % length);
            let count = (length - inside).min(out.len());
            let block = &bytes[block * format.block_bytes()..][..format.block_bytes()];
            format.decode_block(block, &mut block_values[..length]);
            let (head, rest) = out.split_at_mut(count);
            for (out, &value) in head.iter_mut().zip(&block_values[inside..inside + count]) {
                *out = T::from_f32(value);
            }
            out = rest;
            at += count;
        }
    }
}

/// Writes the dequantized elements from `start` on to `out`, on all threads.
pub fn dequantize<T: Float>(format: QuantizedFormat, bytes: &[u8], start: usize, out: &mut [T]) {
    let length = format.block_len();
    if start.is_multiple_of(length) && out.len().is_multiple_of(length) {
        for_row_blocks(out, length, 4, |first, out| {
            dequantize_part(format, bytes, start + first * length, out)
        });
    } else {
        dequantize_part(format, bytes, start, out);
    }
}

/// `dx (+)= dy w`, a tile of dequantized weight rows at a time.
pub fn matmul_nn<T: Float>(dx: &mut [T], dy: &[T], w: QuantizedView<'_>, accumulate: bool) {
    let (inner, outer) = (w.width(), w.rows());
    let rows = dx.len() / inner.max(1);
    if outer == 0 {
        dx.iter_mut().filter(|_| !accumulate).for_each(|dx| *dx = T::ZERO);
        return;
    }
    for_tiles(w, |first, count, tile| {
        let (to, from) = (Layout::rows(inner), Layout::rows(outer).at(first));
        let threads = gemm::parallelism(rows * inner * count);
        let add = accumulate || first > 0;
        let sizes = (rows, count, inner);
        gemm::product(dx, to, dy, from, tile, Layout::rows(inner), sizes, T::ONE, add, threads);
    });
}

/// `y (+)= x w^T` in the type of the arithmetic, exactly the product with the dequantized matrix.
pub fn matmul_nt_dequantized<T: Float>(y: &mut [T], x: &[T], w: QuantizedView<'_>, accumulate: bool) {
    let (inner, outer) = (w.width(), w.rows());
    let rows = y.len() / outer.max(1);
    for_tiles(w, |first, count, tile| {
        let to = Layout::rows(outer).at(first);
        let threads = gemm::parallelism(rows * inner * count);
        let (from, tile_columns, sizes) = (Layout::rows(inner), Layout::columns(inner), (rows, inner, count));
        gemm::product(y, to, x, from, tile, tile_columns, sizes, T::ONE, accumulate, threads);
    });
}

/// Calls `body(first row, rows, their dequantized elements)` on consecutive tiles.
fn for_tiles<T: Float>(w: QuantizedView<'_>, mut body: impl FnMut(usize, usize, &[T])) {
    let (inner, outer) = (w.width(), w.rows());
    let most = (TILE / inner / PANEL * PANEL).clamp(PANEL, outer.max(PANEL));
    let mut tile = vec![T::ZERO; most.min(outer) * inner];
    for first in (0..outer).step_by(most) {
        let rows = most.min(outer - first);
        let tile = &mut tile[..rows * inner];
        dequantize(w.format(), w.bytes(), first * inner, tile);
        body(first, rows, tile);
    }
}

#[cfg(test)]
mod tests;
