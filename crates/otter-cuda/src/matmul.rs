//! f32 products: twins of [`otter_nn::kernels::matmul`]. Sums run over the whole inner dimension in order, fused.

use crate::{Buffer, Launch, Result};

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

/// `c (+)= a b`, c (rows, columns), of which `b` has `columns` and the summed dimension `depth` as `kernel` says. `transposed`
/// says that `a` is (depth, rows).
pub(crate) fn product(
    kernel: &str,
    (c, rows, columns): (Columns<'_>, usize, usize),
    (a, transposed): (Columns<'_>, bool),
    b: &Buffer<f32>,
    depth: usize,
    accumulate: bool,
) -> Result<()> {
    let (a_rows, a_columns) = if transposed { (depth, rows) } else { (rows, depth) };
    assert!(
        c.holds(rows, columns),
        "{kernel}: a result of {rows} x {columns} in {} elements",
        c.matrix.len()
    );
    assert!(a.holds(a_rows, a_columns), "{kernel}: {a_rows} x {a_columns} of {} elements", a.matrix.len());
    // Of a tile of rows there may be room for more.
    assert!(b.len() >= columns * depth, "{kernel}: {columns} x {depth} of {} elements", b.len());
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    let blocks = [columns.div_ceil(TILE) as u32, rows.div_ceil(TILE) as u32];
    assert!(blocks[1] <= 65535, "{kernel}: {rows} rows are more than a grid has");
    let arguments = vec![
        c.matrix.into(),
        a.matrix.into(),
        b.into(),
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
    unsafe { b.gpu().launch(&Launch { grid, ..Launch::blocks(kernel, 1, arguments) }) }
}

/// `y (+)= x w^T` with x (rows, inner), w (outer, inner), y (rows, outer).
///
/// # Errors
/// What the driver says; so for all functions here.
///
/// # Panics
/// When lengths differ; so for all functions here.
pub fn times_transposed(
    y: &mut Buffer<f32>,
    x: &Buffer<f32>,
    w: &Buffer<f32>,
    inner: usize,
    outer: usize,
    accumulate: bool,
) -> Result<()> {
    let rows = x.len() / inner;
    assert_eq!(w.len(), outer * inner, "a matrix of {outer} x {inner}");
    let (y, x) = (Columns::all(y, outer), Columns::all(x, inner));
    product("times_transposed", (y, rows, outer), (x, false), w, inner, accumulate)
}

/// `dx (+)= dy w` with dy (rows, outer), w (outer, inner), dx (rows, inner).
pub fn times(
    dx: &mut Buffer<f32>,
    dy: &Buffer<f32>,
    w: &Buffer<f32>,
    outer: usize,
    inner: usize,
    accumulate: bool,
) -> Result<()> {
    let rows = dy.len() / outer;
    assert_eq!(w.len(), outer * inner, "a matrix of {outer} x {inner}");
    let (dx, dy) = (Columns::all(dx, inner), Columns::all(dy, outer));
    product("times", (dx, rows, inner), (dy, false), w, outer, accumulate)
}

/// `dw += dy^T x` with dy (rows, outer), x (rows, inner), dw (outer, inner).
pub fn add_transposed_times(
    dw: &mut Buffer<f32>,
    dy: &Buffer<f32>,
    x: &Buffer<f32>,
    outer: usize,
    inner: usize,
) -> Result<()> {
    let rows = dy.len() / outer;
    assert_eq!(x.len(), rows * inner, "{rows} rows of {inner}");
    let (dw, dy) = (Columns::all(dw, inner), Columns::all(dy, outer));
    product("add_transposed_times", (dw, outer, inner), (dy, true), x, rows, true)
}
