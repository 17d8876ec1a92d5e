//! Frozen matrices in blocks of 8 or 4 bits, twins of [`otter_nn::tensor::quantized`]: the same bytes as in a GGUF file.
//!
//! Unlike the host's product ([`otter_nn::backend::cpu::quantized`]) these never round activations to bytes: weights become
//! f32 in registers, and sums are f32. For up to [`SKINNY_ROWS`] rows [`matmul_nt`] reads the blocks themselves;
//! for more, and for the gradient of the input, a tile of weight rows at a time is dequantized for the products of
//! [`crate::matmul`], in the precision that is asked for. A matrix is never dequantized as a whole.

use std::sync::Arc;

use otter_nn::{QuantizedFormat, QuantizedMatrix, QuantizedView};

use crate::matmul::{Columns, Product, product};
use crate::{Buffer, Element, Gpu, Launch, Matrix, Precision, Result};

/// Rows of activations up to which weights are read as blocks.
pub const SKINNY_ROWS: usize = 8;

/// Elements of a tile that is dequantized, where nothing else was said.
const TILE: usize = 1 << 24;

/// Bytes that a dequantized tile takes.
pub const TILE_BYTES: u64 = 4 * TILE as u64;

/// Threads of a block of the product.
const THREADS: u32 = 128;

/// A matrix in blocks on a GPU, which nobody writes. Copies share the blocks.
#[derive(Clone)]
pub struct QuantizedBuffer {
    bytes: Arc<Buffer<u8>>,
    format: QuantizedFormat,
    /// (rows, elements of a row)
    shape: [usize; 2],
    tile: usize,
}

impl QuantizedBuffer {
    /// A copy of rows of the host.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn upload(gpu: &Gpu, view: QuantizedView<'_>) -> Result<Self> {
        let bytes = Arc::new(gpu.upload(view.bytes())?);
        Ok(Self { bytes, format: view.format(), shape: [view.rows(), view.width()], tile: TILE })
    }

    /// A copy of a matrix of the host.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn of(gpu: &Gpu, matrix: &QuantizedMatrix) -> Result<Self> {
        Self::upload(gpu, matrix.view())
    }

    /// Dequantizes so many elements at a time, or a row, where many rows are multiplied (16 Mi if this is not called).
    pub fn dequantize_at_a_time(&mut self, elements: usize) {
        self.tile = elements;
    }

    /// The blocks.
    pub fn bytes(&self) -> &Buffer<u8> {
        &self.bytes
    }

    /// The format.
    pub fn format(&self) -> QuantizedFormat {
        self.format
    }

    /// Rows and elements of a row.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }
}

/// Rows `first_row` and following as f32, exactly the host's numbers.
///
/// # Errors
/// What the driver says; so for all functions here.
///
/// # Panics
/// When there are not as many rows; lengths that do not fit make all functions here panic.
pub fn dequantize(w: &QuantizedBuffer, first_row: usize, rows: usize) -> Result<Buffer<f32>> {
    let mut out = w.bytes.gpu().allocate(rows * w.shape[1])?;
    dequantize_into(&mut out, w, first_row, rows)?;
    Ok(out)
}

/// [`dequantize`] into memory that is there, of `rows` rows or more.
pub fn dequantize_into(
    out: &mut Buffer<f32>,
    w: &QuantizedBuffer,
    first_row: usize,
    rows: usize,
) -> Result<()> {
    let kernel = match w.format {
        QuantizedFormat::Q8_0 => "dequantize_q8_0",
        QuantizedFormat::Q4K => "dequantize_q4_k",
    };
    // SAFETY: the kernels write f32.
    unsafe { dequantize_by(kernel, out, w, first_row, rows) }
}

/// [`dequantize_into`], rounded to bfloat16.
fn dequantize_rounded(
    out: &mut Buffer<u16>,
    w: &QuantizedBuffer,
    first_row: usize,
    rows: usize,
) -> Result<()> {
    let kernel = match w.format {
        QuantizedFormat::Q8_0 => "dequantize_q8_0_rounded",
        QuantizedFormat::Q4K => "dequantize_q4_k_rounded",
    };
    // SAFETY: the kernels write 16 bits an element.
    unsafe { dequantize_by(kernel, out, w, first_row, rows) }
}

/// Dequantizes rows by a kernel.
///
/// # Safety
/// The kernel must write such elements.
unsafe fn dequantize_by<T: Element>(
    kernel: &str,
    out: &mut Buffer<T>,
    w: &QuantizedBuffer,
    first_row: usize,
    rows: usize,
) -> Result<()> {
    let [outer, inner] = w.shape;
    assert!(
        first_row <= outer && rows <= outer - first_row,
        "dequantize: {rows} rows from {first_row} on of {outer}"
    );
    let count = rows * inner;
    assert!(out.len() >= count, "dequantize: {count} elements do not fit into {}", out.len());
    if count == 0 {
        return Ok(());
    }
    // Elements of a thread.
    let part = match w.format {
        QuantizedFormat::Q8_0 => 4,
        QuantizedFormat::Q4K => 8,
    };
    let first_byte = (first_row * w.format.row_bytes(inner)) as u64;
    let arguments = vec![(&*out).into(), (&*w.bytes).into(), first_byte.into(), (count as u64).into()];
    // SAFETY: the rows lie inside the matrix and fill no more than `out` (checked above); rows are whole blocks; the kernel
    // writes elements of `out` by the contract of this function.
    unsafe { out.gpu().launch(&Launch::over(kernel, count / part, arguments)) }
}

/// `y (+)= x w^T` with x (rows, inner), w (outer, inner), y (rows, outer). Sums are f32 in a fixed order. Of up to
/// [`SKINNY_ROWS`] rows every byte of w is read once, activations are not rounded in either precision, and a row's results do not
/// depend on how many there are.
pub fn matmul_nt(
    y: &mut Buffer<f32>,
    x: &Buffer<f32>,
    w: &QuantizedBuffer,
    accumulate: bool,
    precision: Precision,
) -> Result<()> {
    let [outer, inner] = w.shape;
    let rows = x.len() / inner;
    if rows <= SKINNY_ROWS {
        return skinny_gemm(y, x, w, accumulate);
    }
    for_tiles(w, precision, |first, count, tile| {
        let (to, from) = (Columns { matrix: &*y, width: outer, first }, Columns::all(x, inner));
        let (to, tile) = ((to, rows, count), (tile, inner));
        product(Product::Nt, to, from, tile, accumulate, precision)
    })
}

/// `dx (+)= dy w` with dy (rows, outer), w (outer, inner), dx (rows, inner).
pub fn matmul_nn(
    dx: &mut Buffer<f32>,
    dy: &Buffer<f32>,
    w: &QuantizedBuffer,
    accumulate: bool,
    precision: Precision,
) -> Result<()> {
    let [outer, inner] = w.shape;
    let rows = dy.len() / outer;
    for_tiles(w, precision, |first, count, tile| {
        let (to, from) = (Columns::all(dx, inner), Columns { matrix: dy, width: outer, first });
        let (to, tile) = ((to, rows, inner), (tile, count));
        product(Product::Nn, to, from, tile, accumulate || first > 0, precision)
    })
}

/// Calls `body(first row, rows, their elements)` on consecutive tiles of rows, dequantized, or already rounded where the product
/// would round them: half the bytes, the same numbers.
fn for_tiles(
    w: &QuantizedBuffer,
    precision: Precision,
    mut body: impl FnMut(usize, usize, Matrix<'_>) -> Result<()>,
) -> Result<()> {
    let [outer, inner] = w.shape;
    let most = (w.tile / inner).clamp(1, outer);
    let tiles = (0..outer).step_by(most).map(|first| (first, most.min(outer - first)));
    let gpu = w.bytes.gpu();
    match precision {
        Precision::F32 => {
            let mut tile = gpu.allocate(most * inner)?;
            for (first, count) in tiles {
                dequantize_into(&mut tile, w, first, count)?;
                body(first, count, Matrix::F32(&tile))?;
            }
        }
        Precision::Bf16 => {
            let mut tile = gpu.allocate(most * inner)?;
            for (first, count) in tiles {
                dequantize_rounded(&mut tile, w, first, count)?;
                body(first, count, Matrix::Bf16(&tile))?;
            }
        }
    }
    Ok(())
}

fn skinny_gemm(y: &mut Buffer<f32>, x: &Buffer<f32>, w: &QuantizedBuffer, accumulate: bool) -> Result<()> {
    let [outer, inner] = w.shape;
    let rows = x.len() / inner;
    assert_eq!([x.len(), y.len()], [rows * inner, rows * outer], "lengths of x and y");
    assert!(rows <= SKINNY_ROWS, "{rows} rows are more than few");
    // Columns are counted in 32 bits, a few steps past the end too.
    assert!(inner < 1 << 28 && outer < 1 << 31, "a matrix of shape {:?} is too large", w.shape);
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
    let kernel = match w.format {
        QuantizedFormat::Q8_0 => ["product_q8_0_1", "product_q8_0_2", "product_q8_0_4", "product_q8_0_8"][at],
        QuantizedFormat::Q4K => ["product_q4_k_1", "product_q4_k_2", "product_q4_k_4", "product_q4_k_8"][at],
    };
    let arguments = vec![
        (&*y).into(),
        x.into(),
        (&*w.bytes).into(),
        (rows as u32).into(),
        (inner as u32).into(),
        (outer as u32).into(),
        u32::from(accumulate).into(),
    ];
    let blocks = outer.div_ceil(THREADS as usize / 32 * weights) as u32;
    let launch = Launch { block: [THREADS, 1, 1], ..Launch::blocks(kernel, blocks, arguments) };
    // SAFETY: lengths were checked; warps past the last weight row do nothing, rows that are not there are not written.
    unsafe { y.gpu().launch(&launch) }
}
