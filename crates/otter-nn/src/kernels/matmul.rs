//! Matrix products of row-major slices: the `gemm` crate for many rows, a row-times-matrix kernel for few.

use gemm::Parallelism;

use super::{LANES, fold_lanes, for_row_blocks, sum_pairs};
use crate::{Real, vectorised};

/// Rows up to which the product is a set of dot products bound by reading the weight once.
const FEW_ROWS: usize = 3;
/// Multiplications below which a product stays on one thread.
const PARALLEL_PRODUCTS: usize = 1 << 18;

fn parallelism(products: usize) -> Parallelism {
    if products < PARALLEL_PRODUCTS || rayon::current_num_threads() == 1 {
        Parallelism::None
    } else {
        Parallelism::Rayon(0)
    }
}

/// Weight rows multiplied at once: independent sums hide the latency of additions, separate streams that of memory.
const WEIGHT_ROWS: usize = 4;

vectorised! {
    /// Dot products of `x` with consecutive rows of `w`, written or added to `out`.
    fn dot_rows<T: Real>(out: &mut [T], x: &[T], w: &[T], accumulate: bool) {
        let inner = x.len();
        let put = |out: &mut T, value: T| *out = if accumulate { *out + value } else { value };
        let (groups, rest) = out.as_chunks_mut::<WEIGHT_ROWS>();
        let (w_groups, w_rest) = w.split_at(groups.len() * WEIGHT_ROWS * inner);
        if inner > 0 {
            for (group, w) in groups.iter_mut().zip(w_groups.chunks_exact(WEIGHT_ROWS * inner)) {
                for (out, value) in group.iter_mut().zip(dot_four(x, w)) {
                    put(out, value);
                }
            }
        }
        for (i, out) in rest.iter_mut().enumerate() {
            put(out, sum_pairs(x, &w_rest[i * inner..][..inner], |p, q| p * q));
        }
    }
}

/// Dot products of `x` with four rows of `w`, each in the order of [`sum_pairs`].
#[inline(always)]
fn dot_four<T: Real>(x: &[T], w: &[T]) -> [T; WEIGHT_ROWS] {
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
            lanes[0][lane] += x[lane] * w0[lane];
        }
        for lane in 0..LANES {
            lanes[1][lane] += x[lane] * w1[lane];
        }
        for lane in 0..LANES {
            lanes[2][lane] += x[lane] * w2[lane];
        }
        for lane in 0..LANES {
            lanes[3][lane] += x[lane] * w3[lane];
        }
    }
    for (lanes, tail) in lanes.iter_mut().zip([tail0, tail1, tail2, tail3]) {
        for (lane, (&x, &w)) in lanes.iter_mut().zip(x_tail.iter().zip(tail)) {
            *lane += x * w;
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

/// `c = beta * c + alpha * a b` with a (m, k), b (k, n), c (m, n) in any strided layout; `beta` is 0 or 1.
#[expect(clippy::too_many_arguments, reason = "a matrix product has this many sizes")]
pub fn product<T: Real>(
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
    // SAFETY: the layouts were checked against the slices above, `c` is borrowed mutably so it overlaps neither input,
    // and every element type that implements `Real` is one gemm supports (f32, f64).
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

/// `y (+)= x w^T` with x (rows, inner), w (outer, inner), y (rows, outer): a linear layer's forward.
pub fn times_transposed<T: Real>(
    y: &mut [T],
    x: &[T],
    w: &[T],
    inner: usize,
    outer: usize,
    accumulate: bool,
) {
    let rows = y.len() / outer.max(1);
    debug_assert_eq!(x.len(), rows * inner);
    if rows <= FEW_ROWS {
        for row in 0..rows {
            let x = &x[row * inner..(row + 1) * inner];
            for_row_blocks(&mut y[row * outer..(row + 1) * outer], 1, inner, |first, block| {
                dot_rows(block, x, &w[first * inner..], accumulate);
            });
        }
        return;
    }
    let sizes = (rows, inner, outer);
    let threads = parallelism(rows * inner * outer);
    let (rows_y, rows_x, columns_w) = (Layout::rows(outer), Layout::rows(inner), Layout::columns(inner));
    product(y, rows_y, x, rows_x, w, columns_w, sizes, T::ONE, accumulate, threads);
}

/// `dx (+)= dy w` with dy (rows, outer), w (outer, inner), dx (rows, inner): a linear layer's input gradient.
pub fn times<T: Real>(dx: &mut [T], dy: &[T], w: &[T], outer: usize, inner: usize, accumulate: bool) {
    let rows = dx.len() / inner.max(1);
    let sizes = (rows, outer, inner);
    let threads = parallelism(rows * inner * outer);
    let (a, b) = (Layout::rows(outer), Layout::rows(inner));
    product(dx, Layout::rows(inner), dy, a, w, b, sizes, T::ONE, accumulate, threads);
}

/// `dw += dy^T x` with dy (rows, outer), x (rows, inner), dw (outer, inner): a linear layer's weight gradient.
pub fn add_transposed_times<T: Real>(dw: &mut [T], dy: &[T], x: &[T], outer: usize, inner: usize) {
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
    fn few_rows_are_dot_products() {
        for (inner, outer) in [(1, 1), (15, 3), (16, 4), (37, 9), (64, 10)] {
            let x: Vec<f32> = (0..2 * inner).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
            let w: Vec<f32> = (0..inner * outer).map(|i| (i * 5 % 13) as f32 - 6.0).collect();
            for accumulate in [false, true] {
                let mut y: Vec<f32> = (0..2 * outer).map(|i| i as f32).collect();
                times_transposed(&mut y, &x, &w, inner, outer, accumulate);
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
