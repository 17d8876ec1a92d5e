//! Matrix products of row-major slices: the `gemm` crate for many rows, a row-times-matrix kernel for few.

use gemm::Parallelism;

use super::{for_row_blocks, sum_pairs};
use crate::Real;

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
                for (i, out) in block.iter_mut().enumerate() {
                    let w = &w[(first + i) * inner..(first + i + 1) * inner];
                    let value = sum_pairs(x, w, |p, q| p * q);
                    *out = if accumulate { *out + value } else { value };
                }
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
