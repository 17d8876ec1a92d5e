//! Rows of a table: twin of [`otter_nn::Embedding`].

use std::collections::BTreeMap;

use otter_nn::QuantizedFormat;

use crate::Argument;
use crate::quantized::QuantizedBuffer;
use crate::{Buffer, Gpu, Launch, Matrix, Result};

/// Rows `ids` of a table of rows of `width`, as f32, exactly.
///
/// # Errors
/// What the driver says; so for all functions here.
///
/// # Panics
/// When an id is outside the table; so for all functions here.
pub fn rows_of(table: Matrix<'_>, ids: &[u32], width: usize) -> Result<Buffer<f32>> {
    check(table.len(), ids, width);
    let (kernel, gpu, table): (_, _, Argument) = match table {
        Matrix::F32(table) => ("embedding_rows_f32", table.gpu(), table.into()),
        Matrix::F16(table) => ("embedding_rows_f16", table.gpu(), table.into()),
        Matrix::Bf16(table) => ("embedding_rows_bf16", table.gpu(), table.into()),
    };
    // SAFETY: the kernels take a table of this kind of elements; ids were checked.
    unsafe { launch(kernel, gpu, table, ids, width) }
}

/// Rows `ids` of a table in blocks, exactly the host's numbers.
pub fn rows_of_blocks(table: &QuantizedBuffer, ids: &[u32]) -> Result<Buffer<f32>> {
    let [rows, width] = table.shape();
    check(rows * width, ids, width);
    let kernel = match table.format() {
        QuantizedFormat::Q8_0 => "dequantize_rows_q8_0",
        QuantizedFormat::Q4K => "dequantize_rows_q4_k",
    };
    // SAFETY: the kernels take blocks of this format; ids were checked, and rows are whole blocks.
    unsafe { launch(kernel, table.bytes().gpu(), table.bytes().into(), ids, width) }
}

/// A kernel that makes a row for each id, a block each.
///
/// # Safety
/// The kernel must take a table of that kind, and the table must have these rows.
unsafe fn launch(kernel: &str, gpu: &Gpu, table: Argument, ids: &[u32], width: usize) -> Result<Buffer<f32>> {
    let out = gpu.allocate(ids.len() * width)?;
    if !out.is_empty() {
        let on_gpu = gpu.upload(ids)?;
        let arguments = vec![(&out).into(), table, (&on_gpu).into(), (width as u32).into()];
        // SAFETY: a block an id, for which `out` has a row; the rest by the contract of this function.
        unsafe { gpu.launch(&Launch::blocks(kernel, ids.len() as u32, arguments)) }?;
    }
    Ok(out)
}

/// Adds the rows of `dy` to rows `ids` of the table's gradient, those of one id in their order.
pub fn backward(d_table: &mut Buffer<f32>, dy: &Buffer<f32>, ids: &[u32], width: usize) -> Result<()> {
    check(d_table.len(), ids, width);
    assert_eq!(dy.len(), ids.len() * width, "a row of gradients for each id");
    if ids.is_empty() {
        return Ok(());
    }
    let mut places_of: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (place, &id) in (0..).zip(ids) {
        places_of.entry(id).or_default().push(place);
    }
    let distinct: Vec<u32> = places_of.keys().copied().collect();
    let mut starts = vec![0];
    let mut places = Vec::with_capacity(ids.len());
    for of_id in places_of.into_values() {
        places.extend(of_id);
        starts.push(places.len() as u32);
    }
    let gpu = d_table.gpu().clone();
    let [on_gpu, starts, places] = [gpu.upload(&distinct)?, gpu.upload(&starts)?, gpu.upload(&places)?];
    let arguments = vec![
        (&*d_table).into(),
        dy.into(),
        (&on_gpu).into(),
        (&starts).into(),
        (&places).into(),
        (width as u32).into(),
    ];
    // SAFETY: a block a distinct id; ids were checked, and places are rows of `dy`.
    unsafe { gpu.launch(&Launch::blocks("embedding_backward", distinct.len() as u32, arguments)) }
}

/// Ids of a table of so many elements.
fn check(elements: usize, ids: &[u32], width: usize) {
    // Columns are counted in 32 bits, a few steps past the end too.
    assert!(width > 0 && width < 1 << 31, "a table of rows of {width}");
    let rows = elements / width;
    assert!(ids.iter().all(|&id| (id as usize) < rows), "an id is outside a table of {rows} rows");
    assert!(ids.len() < 1 << 31, "{} ids are more than a grid has blocks", ids.len());
}
