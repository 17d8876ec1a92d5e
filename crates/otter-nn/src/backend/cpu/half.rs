//! Products with matrices of 16-bit elements (f16, bf16): for few rows elements become f32 in registers, for many a tile
//! at a time is widened and handed to the ordinary product. A matrix is never widened as a whole.

use half::{bf16, f16};

use super::for_row_blocks;
use super::gemm::{self, Layout, SOME_ROWS};
use crate::{Float, vectorized};

/// Elements of a widened tile: 4 MiB of f32, which stay in the cache until the product has read them.
const TILE: usize = 1 << 20;
/// Weight rows widened at a time for dot products: they stay in the second-level cache.
const GROUP: usize = 16;
/// A tile has a multiple of this many rows where the matrix has them, for whole vectors in the product.
const TILE_ROWS: usize = 32;

/// An element of a weight as it is stored.
pub trait Stored<T>: Copy + Send + Sync {
    /// The element in the type of the arithmetic, exactly.
    fn widen(self) -> T;
}

impl<T: Float> Stored<T> for T {
    #[inline(always)]
    fn widen(self) -> T {
        self
    }
}

impl<T: Float> Stored<T> for f16 {
    #[inline(always)]
    fn widen(self) -> T {
        T::from_f32(f16_to_f32(self.to_bits()))
    }
}

impl<T: Float> Stored<T> for bf16 {
    #[inline(always)]
    fn widen(self) -> T {
        T::from_f32(f32::from_bits(u32::from(self.to_bits()) << 16))
    }
}

/// Branch-free, so that loops vectorize (`half`'s own conversion asks the processor for each element).
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    /// Exponents count from 15 in f16, from 127 in f32. Multiplying corrects subnormals too.
    const REBIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
    const INFINITE: u32 = 0x7c00 << 13;
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let finite = (f32::from_bits(magnitude) * REBIAS).to_bits();
    let value = if magnitude >= INFINITE { magnitude | 0x7f80_0000 } else { finite };
    f32::from_bits(value | sign)
}

vectorized! {
    fn widen_block<T: Float, W: Stored<T>>(out: &mut [T], stored: &[W]) {
        for (out, &stored) in out.iter_mut().zip(stored) {
            *out = stored.widen();
        }
    }
}

/// Writes the widened elements of `stored` to `out`, of the same length, on all threads.
pub fn widened<T: Float, W: Stored<T>>(out: &mut [T], stored: &[W]) {
    debug_assert_eq!(out.len(), stored.len());
    for_row_blocks(out, 1, 1, |first, block| {
        let stored = &stored[first..first + block.len()];
        widen_block(block, stored);
    });
}

/// Rows of a tile of a matrix (outer, inner).
fn tile_rows(inner: usize, outer: usize) -> usize {
    let rows = TILE / inner.max(1);
    (rows / TILE_ROWS * TILE_ROWS).clamp(TILE_ROWS, outer.max(TILE_ROWS))
}

/// Calls `body(first row, rows, their widened elements)` on consecutive tiles of w (outer, inner).
fn for_tiles<T: Float, W: Stored<T>>(
    w: &[W],
    inner: usize,
    outer: usize,
    mut body: impl FnMut(usize, usize, &[T]),
) {
    let most = tile_rows(inner, outer);
    let mut tile = vec![T::ZERO; most.min(outer) * inner];
    for first in (0..outer).step_by(most) {
        let rows = most.min(outer - first);
        let tile = &mut tile[..rows * inner];
        widened(tile, &w[first * inner..][..rows * inner]);
        body(first, rows, tile);
    }
}

/// `y (+)= x w^T` for more than a few rows; see [`gemm::matmul_nt`]. Some rows are dot products with groups of
/// widened weight rows, many a product with one widened tile after the other.
pub(super) fn matmul_nt<T: Float, W: Stored<T>>(
    y: &mut [T],
    x: &[T],
    w: &[W],
    inner: usize,
    outer: usize,
    accumulate: bool,
) {
    if outer == 0 || inner == 0 {
        y.iter_mut().filter(|_| !accumulate).for_each(|y| *y = T::ZERO);
        return;
    }
    let rows = y.len() / outer;
    if rows > SOME_ROWS {
        return for_tiles(w, inner, outer, |first, count, tile| {
            let (to, from) = (Layout::rows(outer).at(first), Layout::rows(inner));
            let sizes = (rows, inner, count);
            let threads = gemm::parallelism(rows * inner * count);
            let columns = Layout::columns(inner);
            gemm::product(y, to, x, from, tile, columns, sizes, T::ONE, accumulate, threads);
        });
    }
    gemm::dot_products(y, inner, outer, accumulate, |block, first| {
        let mut group = vec![T::ZERO; GROUP * inner];
        let w = &w[first * inner..];
        for (out, w) in block.chunks_mut(GROUP * rows).zip(w.chunks(GROUP * inner)) {
            let group = &mut group[..out.len() / rows * inner];
            widen_block(group, w);
            T::dot_products(out, x, group, inner);
        }
    });
}

/// `dx (+)= dy w`; see [`gemm::matmul_nn`].
pub(super) fn matmul_nn<T: Float, W: Stored<T>>(
    dx: &mut [T],
    dy: &[T],
    w: &[W],
    outer: usize,
    inner: usize,
    accumulate: bool,
) {
    let rows = dx.len() / inner.max(1);
    for_tiles(w, inner, outer, |first, count, tile| {
        let (to, from) = (Layout::rows(inner), Layout::rows(outer).at(first));
        let sizes = (rows, count, inner);
        let threads = gemm::parallelism(rows * inner * count);
        let add = accumulate || first > 0;
        gemm::product(dx, to, dy, from, tile, Layout::rows(inner), sizes, T::ONE, add, threads);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WeightView;

    /// Every bit pattern, against the `half` crate.
    #[test]
    fn every_half_number_widens_exactly() {
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        let mut found = vec![0.0f32; bits.len()];
        let f16s: Vec<f16> = bits.iter().map(|&b| f16::from_bits(b)).collect();
        widened(&mut found, &f16s);
        for (&found, &stored) in found.iter().zip(&f16s) {
            let plain: f32 = stored.widen();
            let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
            assert!(same(found, stored.to_f32()) && same(plain, found), "{stored:?}: {found}, {plain}");
        }
        let bf16s: Vec<bf16> = bits.iter().map(|&b| bf16::from_bits(b)).collect();
        widened(&mut found, &bf16s);
        for (&found, &stored) in found.iter().zip(&bf16s) {
            assert!(found == stored.to_f32() || found.is_nan() && stored.is_nan(), "{stored:?}: {found}");
        }
    }

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0).collect()
    }

    fn product_of<'a, T: Float>(
        transposed: bool,
        x: &[f32],
        w: impl Into<WeightView<'a, T>>,
        (rows, inner, outer): (usize, usize, usize),
        accumulate: bool,
    ) -> Vec<T> {
        let x: Vec<T> = x.iter().map(|&v| T::from_f32(v)).collect();
        let width = if transposed { outer } else { inner };
        let mut y: Vec<T> = numbers(rows * width, 5).into_iter().map(T::from_f32).collect();
        if transposed {
            gemm::matmul_nt(&mut y, &x, w, inner, outer, accumulate);
        } else {
            gemm::matmul_nn(&mut y, &x, w, outer, inner, accumulate);
        }
        y
    }

    /// Both products with both types against the same product of the widened matrix.
    fn compare<T: Float>(sizes: (usize, usize, usize), tolerance: f64) {
        let (rows, inner, outer) = sizes;
        let w = numbers(outer * inner, 1);
        let f16s: Vec<f16> = w.iter().map(|&v| f16::from_f32(v)).collect();
        let bf16s: Vec<bf16> = w.iter().map(|&v| bf16::from_f32(v)).collect();
        for transposed in [true, false] {
            let x = numbers(rows * if transposed { inner } else { outer }, 2);
            for accumulate in [false, true] {
                for (half, full) in [
                    (
                        WeightView::<T>::F16(&f16s),
                        f16s.iter().map(|v| T::from_f32(v.to_f32())).collect::<Vec<_>>(),
                    ),
                    (WeightView::Bf16(&bf16s), bf16s.iter().map(|v| T::from_f32(v.to_f32())).collect()),
                ] {
                    let found: Vec<T> = product_of(transposed, &x, half, sizes, accumulate);
                    let expected: Vec<T> = product_of(transposed, &x, &full[..], sizes, accumulate);
                    for (found, expected) in found.iter().zip(&expected) {
                        let difference = (found.to_f64() - expected.to_f64()).abs();
                        let exact = transposed && rows <= 3;
                        assert!(
                            difference <= if exact { 0.0 } else { tolerance },
                            "{sizes:?} transposed {transposed} accumulate {accumulate}: {found} {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn products_equal_those_of_the_widened_matrix() {
        for sizes in [(1, 37, 9), (2, 64, 21), (3, 15, 4), (1, 1, 1), (5, 33, 50), (9, 1, 3), (4, 0, 3)] {
            compare::<f32>(sizes, 1e-4);
            compare::<f64>(sizes, 1e-12);
        }
        // more than one tile, and one that is not full
        compare::<f32>((3, 700, 3100), 2e-3);
        compare::<f32>((6, 700, 3100), 2e-3);
        compare::<f64>((6, 700, 3100), 1e-10);
        compare::<f32>((40, 700, 1600), 2e-3);
        compare::<f64>((40, 700, 1600), 1e-10);
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        for rows in [1, 3, 7, 40] {
            let sizes = (rows, 512, 3000);
            let w: Vec<f16> = numbers(512 * 3000, 3).into_iter().map(f16::from_f32).collect();
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                pool.install(|| {
                    [(true, 512), (false, 3000)].map(|(transposed, width)| {
                        let x = numbers(rows * width, 4);
                        let y: Vec<f32> = product_of(transposed, &x, WeightView::F16(&w), sizes, true);
                        y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                    })
                })
            };
            let one = run(1);
            assert_eq!(one, run(2));
            assert_eq!(one, run(3));
        }
    }
}
