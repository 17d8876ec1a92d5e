//! Products, twins of [`otter_nn::backend::cpu::gemm`]. Sums are f32 and run over the whole inner dimension in a fixed order. In
//! [`Precision::F32`] they are fused, one element after the other; a factor in half precision is widened exactly. In
//! [`Precision::Bf16`] both factors are rounded to bfloat16 (to the nearest, of two equally near to the even one) and multiplied
//! by tensor cores, which add sixteen products at a time as the kind of GPU does.

use crate::{Buffer, Launch, Matrix, Precision, Result};

/// Rows and columns of the result that a block makes.
const TILE: usize = 128;

/// Some columns of a matrix of rows of `width`, from column `first` on.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    pub(crate) matrix: &'a Buffer<f32>,
    pub(crate) width: usize,
    pub(crate) first: usize,
}

impl<'a> Columns<'a> {
    /// All columns.
    pub(crate) fn all(matrix: &'a Buffer<f32>, width: usize) -> Self {
        Self { matrix, width, first: 0 }
    }

    /// Whether there are `rows` rows, and `columns` columns from the first on.
    fn holds(&self, rows: usize, columns: usize) -> bool {
        self.matrix.len() == rows * self.width && self.first + columns <= self.width
    }
}

/// A product, by what its factors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Product {
    /// (rows, depth) times the transpose of (columns, depth).
    Nt,
    /// (rows, depth) times (depth, columns).
    Nn,
    /// The transpose of (depth, rows) times (depth, columns).
    Tn,
}

impl Product {
    /// The kernel for a second factor and a precision.
    fn kernel(self, b: Matrix<'_>, precision: Precision) -> &'static str {
        let [f32, f16, bf16] = match (self, precision) {
            (Self::Nt, Precision::F32) => ["matmul_nt", "matmul_nt_f16", "matmul_nt_bf16"],
            (Self::Nt, Precision::Bf16) => {
                ["matmul_nt_rounded", "matmul_nt_rounded_f16", "matmul_nt_rounded_bf16"]
            }
            (Self::Nn, Precision::F32) => ["matmul_nn", "matmul_nn_f16", "matmul_nn_bf16"],
            (Self::Nn, Precision::Bf16) => {
                ["matmul_nn_rounded", "matmul_nn_rounded_f16", "matmul_nn_rounded_bf16"]
            }
            (Self::Tn, Precision::F32) => ["matmul_tn", "matmul_tn_f16", "matmul_tn_bf16"],
            (Self::Tn, Precision::Bf16) => {
                ["matmul_tn_rounded", "matmul_tn_rounded_f16", "matmul_tn_rounded_bf16"]
            }
        };
        match b {
            Matrix::F32(_) => f32,
            Matrix::F16(_) => f16,
            Matrix::Bf16(_) => bf16,
        }
    }
}

/// `c (+)= a b`, c (rows, columns), with `depth` elements to a sum.
pub(crate) fn product(
    product: Product,
    (c, rows, columns): (Columns<'_>, usize, usize),
    a: Columns<'_>,
    (b, depth): (Matrix<'_>, usize),
    accumulate: bool,
    precision: Precision,
) -> Result<()> {
    let kernel = product.kernel(b, precision);
    let (a_rows, a_columns) = if product == Product::Tn { (depth, rows) } else { (rows, depth) };
    assert!(
        c.holds(rows, columns),
        "{kernel}: a result of {rows} x {columns} in {} elements",
        c.matrix.len()
    );
    assert!(a.holds(a_rows, a_columns), "{kernel}: {a_rows} x {a_columns} of {} elements", a.matrix.len());
    // Of a tile of rows there may be room for more.
    assert!(b.len() >= columns * depth, "{kernel}: {columns} x {depth} of {} elements", b.len());
    // Counted in 32 bits, a tile past the end too.
    assert!(columns.max(depth) < 1 << 31, "{kernel}: {columns} columns or sums of {depth} are too many");
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    let blocks = [columns.div_ceil(TILE) as u32, rows.div_ceil(TILE) as u32];
    assert!(blocks[1] <= 65535, "{kernel}: {rows} rows are more than a grid has");
    let second = match b {
        Matrix::F32(elements) => elements.into(),
        Matrix::F16(bits) | Matrix::Bf16(bits) => bits.into(),
    };
    let arguments = vec![
        c.matrix.into(),
        a.matrix.into(),
        second,
        (rows as u32).into(),
        (columns as u32).into(),
        (depth as u32).into(),
        c.first.into(),
        c.width.into(),
        a.first.into(),
        a.width.into(),
        u32::from(accumulate).into(),
    ];
    let grid = [blocks[0], blocks[1], 1];
    // SAFETY: lengths were checked; a block writes its own tile of the result only.
    unsafe { c.matrix.gpu().launch(&Launch { grid, ..Launch::blocks(kernel, 1, arguments) }) }
}

/// `y (+)= x w^T` with x (rows, inner), w (outer, inner), y (rows, outer).
///
/// # Errors
/// What the driver says; so for all functions here.
///
/// # Panics
/// When lengths differ; so for all functions here.
pub fn matmul_nt(
    y: &mut Buffer<f32>,
    x: &Buffer<f32>,
    w: Matrix<'_>,
    (inner, outer): (usize, usize),
    accumulate: bool,
    precision: Precision,
) -> Result<()> {
    let rows = x.len() / inner;
    assert_eq!(w.len(), outer * inner, "a matrix of {outer} x {inner}");
    let (y, x) = (Columns::all(y, outer), Columns::all(x, inner));
    product(Product::Nt, (y, rows, outer), x, (w, inner), accumulate, precision)
}

/// `dx (+)= dy w` with dy (rows, outer), w (outer, inner), dx (rows, inner).
pub fn matmul_nn(
    dx: &mut Buffer<f32>,
    dy: &Buffer<f32>,
    w: Matrix<'_>,
    (outer, inner): (usize, usize),
    accumulate: bool,
    precision: Precision,
) -> Result<()> {
    let rows = dy.len() / outer;
    assert_eq!(w.len(), outer * inner, "a matrix of {outer} x {inner}");
    let (dx, dy) = (Columns::all(dx, inner), Columns::all(dy, outer));
    product(Product::Nn, (dx, rows, inner), dy, (w, outer), accumulate, precision)
}

/// `dw += dy^T x` with dy (rows, outer), x (rows, inner), dw (outer, inner).
pub fn matmul_tn_add(
    dw: &mut Buffer<f32>,
    dy: &Buffer<f32>,
    x: &Buffer<f32>,
    (outer, inner): (usize, usize),
    precision: Precision,
) -> Result<()> {
    let rows = dy.len() / outer;
    assert_eq!(x.len(), rows * inner, "{rows} rows of {inner}");
    let (dw, dy) = (Columns::all(dw, inner), Columns::all(dy, outer));
    product(Product::Tn, (dw, outer, inner), dy, (x.into(), rows), true, precision)
}
