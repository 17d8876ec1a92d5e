//! Matrix products of row-major slices: for many rows the packed kernel (`packed.rs`), or the `gemm` crate for f64,
//! for small products and where there is no AVX2; for few rows a row-times-matrix kernel. Weights may be stored in half
//! precision (`half.rs`) or in blocks (`quantized`); for few rows a half-precision one gives the bits of widening first.

use gemm::Parallelism;

pub(crate) mod packed;
mod packed_tile;
pub(crate) mod tile;

use super::half::{self, Stored};
use super::quantized;
use super::{LANES, fold_lanes, for_row_blocks};
use crate::{Float, WeightView, vectorized};

/// Rows up to which the product is a set of dot products bound by reading the weight once.
const SKINNY_ROWS: usize = 3;
/// Rows up to which dot products with a weight in full precision are faster than packing it for the general product.
pub(super) const SOME_ROWS: usize = 32;
/// Multiplications below which a product stays on one thread.
const PARALLEL_PRODUCTS: usize = 1 << 18;

pub(super) fn parallelism(products: usize) -> Parallelism {
    if products < PARALLEL_PRODUCTS || rayon::current_num_threads() == 1 {
        Parallelism::None
    } else {
        Parallelism::Rayon(0)
    }
}

/// Weight rows multiplied at once: independent sums hide the latency of additions, separate streams that of memory.
const WEIGHT_ROWS: usize = 4;

vectorized! {
    /// Dot products of the rows of `x` with consecutive rows of `w`: out (rows of w, rows of x), written or added to.
    fn dot_rows<T: Float, W: Stored<T>>(out: &mut [T], x: &[T], w: &[W], inner: usize, accumulate: bool) {
        let rows = x.len() / inner;
        let put = |out: &mut T, value: T| *out = if accumulate { *out + value } else { value };
        let whole = out.len() / (WEIGHT_ROWS * rows) * WEIGHT_ROWS;
        let (out, out_rest) = out.split_at_mut(whole * rows);
        let (w, w_rest) = w.split_at(whole * inner);
        let groups = out.chunks_exact_mut(WEIGHT_ROWS * rows).zip(w.chunks_exact(WEIGHT_ROWS * inner));
        for (out, w) in groups {
            for (row, x) in x.chunks_exact(inner).enumerate() {
                for (of_weight, value) in dot_four(x, w).into_iter().enumerate() {
                    put(&mut out[of_weight * rows + row], value);
                }
            }
        }
        for (out, w) in out_rest.chunks_exact_mut(rows).zip(w_rest.chunks_exact(inner)) {
            for (out, x) in out.iter_mut().zip(x.chunks_exact(inner)) {
                put(out, dot_one(x, w));
            }
        }
    }
}

/// Dot product of `x` with a row of `w`, in a fixed order of `LANES` partial sums.
#[inline(always)]
pub(super) fn dot_one<T: Float, W: Stored<T>>(x: &[T], w: &[W]) -> T {
    let mut lanes = [T::ZERO; LANES];
    let (x, x_tail) = x.as_chunks::<LANES>();
    let (w, w_tail) = w.as_chunks::<LANES>();
    for (x, w) in x.iter().zip(w) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * w[lane].widen();
        }
    }
    for (lane, (&x, &w)) in lanes.iter_mut().zip(x_tail.iter().zip(w_tail)) {
        *lane += x * w.widen();
    }
    fold_lanes(lanes)
}

/// Dot products of `x` with four rows of `w`, each in the order of [`dot_one`].
#[inline(always)]
pub(super) fn dot_four<T: Float, W: Stored<T>>(x: &[T], w: &[W]) -> [T; WEIGHT_ROWS] {
    let inner = x.len();
    let (w0, w) = w.split_at(inner);
    let (w1, w) = w.split_at(inner);
    let (w2, w3) = w.split_at(inner);
    let mut lanes = [[T::ZERO; LANES]; WEIGHT_ROWS];
    let (x, x_tail) = x.as_chunks::<LANES>();
    let (w0, tail0) = w0.as_chunks::<LANES>();
    let (w1, tail1) = w1.as_chunks::<LANES>();
    let (w2, tail2) = w2.as_chunks::<LANES>();
    let (w3, tail3) = w3.as_chunks::<LANES>();
    for ((((x, w0), w1), w2), w3) in x.iter().zip(w0).zip(w1).zip(w2).zip(w3) {
        for lane in 0..LANES {
            lanes[0][lane] += x[lane] * w0[lane].widen();
        }
        for lane in 0..LANES {
            lanes[1][lane] += x[lane] * w1[lane].widen();
        }
        for lane in 0..LANES {
            lanes[2][lane] += x[lane] * w2[lane].widen();
        }
        for lane in 0..LANES {
            lanes[3][lane] += x[lane] * w3[lane].widen();
        }
    }
    for (lanes, tail) in lanes.iter_mut().zip([tail0, tail1, tail2, tail3]) {
        for (lane, (&x, &w)) in lanes.iter_mut().zip(x_tail.iter().zip(tail)) {
            *lane += x * w.widen();
        }
    }
    lanes.map(fold_lanes)
}

/// A matrix as pointer-free description: offset of its first element and strides in elements.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Offset of element (0, 0).
    pub offset: usize,
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance between columns.
    pub column_stride: usize,
}

impl Layout {
    /// Rows of `width` elements one after the other.
    pub fn rows(width: usize) -> Self {
        Self { offset: 0, row_stride: width, column_stride: 1 }
    }

    /// The transpose of rows of `width` elements.
    pub fn columns(width: usize) -> Self {
        Self { offset: 0, row_stride: 1, column_stride: width }
    }

    /// The same layout starting `offset` elements later.
    pub fn at(self, offset: usize) -> Self {
        Self { offset: self.offset + offset, ..self }
    }

    /// One past the largest element index of a (rows, columns) matrix.
    pub(crate) fn end(&self, rows: usize, columns: usize) -> usize {
        if rows == 0 || columns == 0 {
            return 0;
        }
        self.offset + (rows - 1) * self.row_stride + (columns - 1) * self.column_stride + 1
    }
}

/// What is done with results while they are still in the cache: called with the row, the first column and the elements of
/// every piece of a row, once, when they are complete.
pub type Finish<'a, T> = Option<&'a (dyn Fn(usize, usize, &mut [T]) + Sync)>;

/// `c = beta * c + alpha * a b` with a (m, k), b (k, n), c (m, n) in any strided layout; `beta` is 0 or 1.
pub fn product<T: Float>(
    c: &mut [T],
    c_layout: Layout,
    a: &[T],
    a_layout: Layout,
    b: &[T],
    b_layout: Layout,
    (m, k, n): (usize, usize, usize),
    alpha: T,
    accumulate: bool,
    threads: Parallelism,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(c_layout.end(m, n) <= c.len(), "c is too short");
    assert!(a_layout.end(m, k) <= a.len(), "a is too short");
    assert!(b_layout.end(k, n) <= b.len(), "b is too short");
    if own_product(
        (&mut *c, c_layout),
        (a, a_layout),
        (b, b_layout),
        (m, k, n),
        alpha,
        accumulate,
        threads,
        None,
    ) {
        return;
    }
    // SAFETY: the layouts were checked against the slices above, `c` is borrowed mutably so it overlaps neither input,
    // and every element type that implements `Float` is one gemm supports (f32, f64).
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr().add(c_layout.offset),
            c_layout.column_stride as isize,
            c_layout.row_stride as isize,
            accumulate,
            a.as_ptr().add(a_layout.offset),
            a_layout.column_stride as isize,
            a_layout.row_stride as isize,
            b.as_ptr().add(b_layout.offset),
            b_layout.column_stride as isize,
            b_layout.row_stride as isize,
            T::ONE,
            alpha,
            false,
            false,
            false,
            threads,
        );
    }
}

/// [`Float::own_product`] with the `gemm` crate's way of asking for threads.
fn own_product<T: Float>(
    c: (&mut [T], Layout),
    a: (&[T], Layout),
    b: (&[T], Layout),
    sizes: (usize, usize, usize),
    alpha: T,
    accumulate: bool,
    threads: Parallelism,
    finish: Finish<'_, T>,
) -> bool {
    T::own_product(c, a, b, sizes, alpha, accumulate, !matches!(threads, Parallelism::None), finish)
}

/// As [`matmul_nt`], and then `finish` on every piece of a row of y: for what follows a linear layer element by
/// element.
pub fn matmul_nt_then<'a, T: Float>(
    y: &mut [T],
    x: &[T],
    w: impl Into<WeightView<'a, T>>,
    inner: usize,
    outer: usize,
    accumulate: bool,
    finish: &(dyn Fn(usize, usize, &mut [T]) + Sync),
) {
    let rows = y.len() / outer.max(1);
    let w = w.into();
    if let WeightView::Full(w) = w
        && rows > SOME_ROWS
        && own_product(
            (&mut *y, Layout::rows(outer)),
            (x, Layout::rows(inner)),
            (w, Layout::columns(inner)),
            (rows, inner, outer),
            T::ONE,
            accumulate,
            parallelism(rows * inner * outer),
            Some(finish),
        )
    {
        return;
    }
    matmul_nt(y, x, w, inner, outer, accumulate);
    for_row_blocks(y, outer.max(1), 2, |first, block| {
        for (i, row) in block.chunks_exact_mut(outer).enumerate() {
            finish(first + i, 0, row);
        }
    });
}

/// `y (+)= x w^T` with x (rows, inner), w (outer, inner), y (rows, outer): a linear layer's forward.
pub fn matmul_nt<'a, T: Float>(
    y: &mut [T],
    x: &[T],
    w: impl Into<WeightView<'a, T>>,
    inner: usize,
    outer: usize,
    accumulate: bool,
) {
    let rows = y.len() / outer.max(1);
    debug_assert_eq!(x.len(), rows * inner);
    let w = w.into();
    if let WeightView::Quantized(w) = w {
        debug_assert_eq!((w.rows(), w.width()), (outer, inner));
        return T::matmul_nt_quantized(y, x, w, accumulate);
    }
    if rows <= SKINNY_ROWS && inner > 0 {
        return match w {
            WeightView::Full(w) => skinny_gemm(y, x, w, inner, outer, accumulate),
            WeightView::F16(w) => skinny_gemm(y, x, w, inner, outer, accumulate),
            WeightView::Bf16(w) => skinny_gemm(y, x, w, inner, outer, accumulate),
            WeightView::Quantized(_) => unreachable!("done above"),
        };
    }
    let w = match w {
        WeightView::Full(w) if rows <= SOME_ROWS && inner > 0 => {
            return dot_products(y, inner, outer, accumulate, |block, first| {
                let count = block.len() / rows;
                T::dot_products(block, x, &w[first * inner..(first + count) * inner], inner);
            });
        }
        WeightView::Full(w) => w,
        WeightView::F16(w) => return half::matmul_nt(y, x, w, inner, outer, accumulate),
        WeightView::Bf16(w) => return half::matmul_nt(y, x, w, inner, outer, accumulate),
        WeightView::Quantized(_) => unreachable!("done above"),
    };
    let sizes = (rows, inner, outer);
    let threads = parallelism(rows * inner * outer);
    let (rows_y, rows_x, columns_w) = (Layout::rows(outer), Layout::rows(inner), Layout::columns(inner));
    product(y, rows_y, x, rows_x, w, columns_w, sizes, T::ONE, accumulate, threads);
}

/// [`matmul_nt`] as dot products. The weight is read from memory once, whatever the number of rows.
fn skinny_gemm<T: Float, W: Stored<T>>(
    y: &mut [T],
    x: &[T],
    w: &[W],
    inner: usize,
    outer: usize,
    accumulate: bool,
) {
    let rows = x.len() / inner;
    if rows <= 1 {
        for_row_blocks(y, 1, inner, |first, block| {
            dot_rows(block, x, &w[first * inner..(first + block.len()) * inner], inner, accumulate);
        });
        return;
    }
    dot_products(y, inner, outer, accumulate, |block, first| {
        let count = block.len() / rows;
        dot_rows(block, x, &w[first * inner..(first + count) * inner], inner, false);
    });
}

/// Writes or adds products to y (rows, outer): `compute(block, first)` gives those with the weight rows from `first` on,
/// (weight rows, rows), on all threads.
pub(super) fn dot_products<T: Float>(
    y: &mut [T],
    inner: usize,
    outer: usize,
    accumulate: bool,
    compute: impl Fn(&mut [T], usize) + Sync,
) {
    let rows = y.len() / outer.max(1);
    let mut products = vec![T::ZERO; y.len()];
    for_row_blocks(&mut products, rows, inner, |first, block| compute(block, first));
    for_row_blocks(y, outer, 4, |first, block| {
        for (row, y) in block.chunks_exact_mut(outer).enumerate() {
            for (y, products) in y.iter_mut().zip(products.chunks_exact(rows)) {
                let product = products[first + row];
                *y = if accumulate { *y + product } else { product };
            }
        }
    });
}

/// `dx (+)= dy w` with dy (rows, outer), w (outer, inner), dx (rows, inner): a linear layer's input gradient.
pub fn matmul_nn<'a, T: Float>(
    dx: &mut [T],
    dy: &[T],
    w: impl Into<WeightView<'a, T>>,
    outer: usize,
    inner: usize,
    accumulate: bool,
) {
    let w = match w.into() {
        WeightView::Full(w) => w,
        WeightView::F16(w) => return half::matmul_nn(dx, dy, w, outer, inner, accumulate),
        WeightView::Bf16(w) => return half::matmul_nn(dx, dy, w, outer, inner, accumulate),
        WeightView::Quantized(w) => {
            debug_assert_eq!((w.rows(), w.width()), (outer, inner));
            return quantized::matmul_nn(dx, dy, w, accumulate);
        }
    };
    let rows = dx.len() / inner.max(1);
    let sizes = (rows, outer, inner);
    let threads = parallelism(rows * inner * outer);
    let (a, b) = (Layout::rows(outer), Layout::rows(inner));
    product(dx, Layout::rows(inner), dy, a, w, b, sizes, T::ONE, accumulate, threads);
}

/// `dw += dy^T x` with dy (rows, outer), x (rows, inner), dw (outer, inner): a linear layer's weight gradient.
pub fn matmul_tn_add<T: Float>(dw: &mut [T], dy: &[T], x: &[T], outer: usize, inner: usize) {
    let rows = x.len() / inner.max(1);
    let sizes = (outer, rows, inner);
    let threads = parallelism(rows * inner * outer);
    let (a, b) = (Layout::columns(outer), Layout::rows(inner));
    product(dw, Layout::rows(inner), dy, a, x, b, sizes, T::ONE, true, threads);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row, with and without whole groups of weight rows and lanes, against the definition.
    #[test]
    fn skinny_gemm_is_dot_products() {
        for (inner, outer) in [(1, 1), (15, 3), (16, 4), (37, 9), (64, 10)] {
            let x: Vec<f32> = (0..2 * inner).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
            let w: Vec<f32> = (0..inner * outer).map(|i| (i * 5 % 13) as f32 - 6.0).collect();
            for accumulate in [false, true] {
                let mut y: Vec<f32> = (0..2 * outer).map(|i| i as f32).collect();
                matmul_nt(&mut y, &x, &w[..], inner, outer, accumulate);
                for (i, &found) in y.iter().enumerate() {
                    let (x, w) = (&x[i / outer * inner..][..inner], &w[i % outer * inner..][..inner]);
                    let products: f32 = x.iter().zip(w).map(|(a, b)| a * b).sum();
                    let expected = if accumulate { i as f32 + products } else { products };
                    assert_eq!(found, expected, "inner {inner}, outer {outer}, element {i}");
                }
            }
        }
    }
}
