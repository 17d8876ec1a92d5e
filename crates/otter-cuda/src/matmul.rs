//! f32 products: twins of [`otter_nn::kernels::matmul`]. Sums run over the whole inner dimension in order, fused.

use crate::{Buffer, Launch, Result};

/// Rows and columns of the result that a block makes.
const TILE: usize = 128;

fn product(
    kernel: &str,
    (c, rows, columns): (&Buffer<f32>, usize, usize),
    a: &Buffer<f32>,
    b: &Buffer<f32>,
    depth: usize,
    accumulate: bool,
) -> Result<()> {
    let lengths = [c.len(), a.len(), b.len()];
    let expected = [rows * columns, rows * depth, columns * depth];
    assert_eq!(lengths, expected, "{kernel}: lengths of the result and both factors");
    if c.is_empty() {
        return Ok(());
    }
    let blocks = [columns.div_ceil(TILE) as u32, rows.div_ceil(TILE) as u32];
    assert!(blocks[1] <= 65535, "{kernel}: {rows} rows are more than a grid has");
    let arguments = vec![
        c.into(),
        a.into(),
        b.into(),
        (rows as u32).into(),
        (columns as u32).into(),
        (depth as u32).into(),
        u32::from(accumulate).into(),
    ];
    let grid = [blocks[0], blocks[1], 1];
    // SAFETY: lengths were checked; a block writes its own tile of the result only.
    unsafe { c.gpu().launch(&Launch { grid, ..Launch::blocks(kernel, 1, arguments) }) }
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
    product("times_transposed", (y, rows, outer), x, w, inner, accumulate)
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
    product("times", (dx, rows, inner), dy, w, outer, accumulate)
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
    product("add_transposed_times", (dw, outer, inner), dy, x, rows, true)
}
