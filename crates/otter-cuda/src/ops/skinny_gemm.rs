//! Products of a few rows with a matrix in f32, f16 or bf16, as in decoding: each weight is read once and becomes f32 in
//! registers.

use crate::Argument;
use crate::{Buffer, Launch, Matrix, Result};

/// Rows up to which these kernels are to be used.
pub const MOST: usize = 8;

/// Threads of a block.
const THREADS: u32 = 128;

/// `y (+)= x w^T` with x (rows, inner), w (outer, inner), y (rows, outer), for up to [`MOST`] rows. Sums are f32 in a fixed
/// order, and a row's results do not depend on how many there are.
///
/// # Errors
/// What the driver says.
///
/// # Panics
/// When lengths differ, or there are more rows.
pub fn matmul_nt(
    y: &mut Buffer<f32>,
    x: &Buffer<f32>,
    w: Matrix<'_>,
    (inner, outer): (usize, usize),
    accumulate: bool,
) -> Result<()> {
    let rows = x.len() / inner;
    assert_eq!([x.len(), y.len()], [rows * inner, rows * outer], "lengths of x and y");
    assert_eq!(w.len(), outer * inner, "a matrix of {outer} x {inner}");
    assert!(rows <= MOST, "{rows} rows are more than few");
    // Columns are counted in 32 bits, a few steps past the end too.
    assert!(inner < 1 << 28 && outer < 1 << 31, "a matrix of {outer} x {inner} is too large");
    if y.is_empty() {
        return Ok(());
    }
    // The kernel's number of rows, and how many weight rows a warp of it takes.
    let (at, weights) = match rows {
        1 => (0, 1),
        2 => (1, 2),
        3 | 4 => (2, 2),
        _ => (3, 4),
    };
    let (kernels, w): (_, Argument) = match w {
        Matrix::F32(w) => {
            (["skinny_gemm_f32_1", "skinny_gemm_f32_2", "skinny_gemm_f32_4", "skinny_gemm_f32_8"], w.into())
        }
        Matrix::F16(w) => {
            (["skinny_gemm_f16_1", "skinny_gemm_f16_2", "skinny_gemm_f16_4", "skinny_gemm_f16_8"], w.into())
        }
        Matrix::Bf16(w) => (
            ["skinny_gemm_bf16_1", "skinny_gemm_bf16_2", "skinny_gemm_bf16_4", "skinny_gemm_bf16_8"],
            w.into(),
        ),
    };
    let arguments = vec![
        (&*y).into(),
        x.into(),
        w,
        (rows as u32).into(),
        (inner as u32).into(),
        (outer as u32).into(),
        u32::from(accumulate).into(),
    ];
    let blocks = outer.div_ceil(THREADS as usize / 32 * weights) as u32;
    let launch = Launch { block: [THREADS, 1, 1], ..Launch::blocks(kernels[at], blocks, arguments) };
    // SAFETY: lengths were checked; warps past the last weight row do nothing, rows that are not there are not written.
    unsafe { y.gpu().launch(&launch) }
}
