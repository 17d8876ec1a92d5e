//! Layer and root-mean-square normalization: twins of [`otter_nn::backend::cpu::norm`].

use crate::Argument;
use crate::{Buffer, Launch, Result};

/// Columns of a block of `norm_backward_weight`.
const COLUMNS: usize = 32;

fn optional(buffer: Option<&Buffer<f32>>) -> Argument {
    buffer.map_or(Argument::Address(0), Argument::from)
}

fn rows_of(x: &Buffer<f32>, width: usize) -> usize {
    assert!(width > 0 && x.len().is_multiple_of(width), "{} elements are no rows of {width}", x.len());
    x.len() / width
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias` of rows as wide as `weight` (`centered`), or without mean and, mostly, bias.
/// Returns it and, per row, mean (or 0) and reciprocal deviation.
///
/// # Errors
/// What the driver says; so for all functions here.
///
/// # Panics
/// When lengths differ; so for all functions here.
pub fn forward(
    x: &Buffer<f32>,
    weight: &Buffer<f32>,
    bias: Option<&Buffer<f32>>,
    eps: f32,
    centered: bool,
) -> Result<(Buffer<f32>, Buffer<f32>)> {
    let (gpu, width) = (x.gpu(), weight.len());
    let rows = rows_of(x, width);
    assert!(bias.is_none_or(|bias| bias.len() == width), "a bias of another width");
    let (y, statistics) = (gpu.allocate(x.len())?, gpu.allocate(2 * rows)?);
    if rows > 0 {
        let arguments = vec![
            (&y).into(),
            (&statistics).into(),
            x.into(),
            weight.into(),
            optional(bias),
            (width as u32).into(),
            eps.into(),
            u32::from(centered).into(),
        ];
        // SAFETY: a block a row; all rows have the width of weight and bias.
        unsafe { gpu.launch(&Launch::blocks("norm_forward", rows as u32, arguments)) }?;
    }
    Ok((y, statistics))
}

/// Gradient of x from that of [`forward`]'s result.
pub fn backward_input(
    dy: &Buffer<f32>,
    x: &Buffer<f32>,
    weight: &Buffer<f32>,
    statistics: &Buffer<f32>,
    centered: bool,
) -> Result<Buffer<f32>> {
    let (gpu, width) = (x.gpu(), weight.len());
    let rows = rows_of(x, width);
    assert_eq!((dy.len(), statistics.len()), (x.len(), 2 * rows), "lengths differ");
    let dx = gpu.allocate(x.len())?;
    if rows > 0 {
        let arguments = vec![
            (&dx).into(),
            dy.into(),
            x.into(),
            weight.into(),
            statistics.into(),
            (width as u32).into(),
            u32::from(centered).into(),
        ];
        // SAFETY: a block a row; lengths were checked.
        unsafe { gpu.launch(&Launch::blocks("norm_backward_input", rows as u32, arguments)) }?;
    }
    Ok(dx)
}

/// Adds the gradients of weight and bias.
pub fn backward_weight(
    d_weight: &mut Buffer<f32>,
    d_bias: Option<&mut Buffer<f32>>,
    dy: &Buffer<f32>,
    x: &Buffer<f32>,
    statistics: &Buffer<f32>,
) -> Result<()> {
    let width = d_weight.len();
    let rows = rows_of(x, width);
    assert_eq!((dy.len(), statistics.len()), (x.len(), 2 * rows), "lengths differ");
    column_sums(Some((d_weight, x, statistics)), d_bias, dy, width)
}

/// Adds the sum over rows of `dy` to `d_bias`.
pub fn add_column_sums(d_bias: &mut Buffer<f32>, dy: &Buffer<f32>) -> Result<()> {
    let width = d_bias.len();
    column_sums(None, Some(d_bias), dy, width)
}

fn column_sums(
    of_weight: Option<(&Buffer<f32>, &Buffer<f32>, &Buffer<f32>)>,
    d_bias: Option<&mut Buffer<f32>>,
    dy: &Buffer<f32>,
    width: usize,
) -> Result<()> {
    let rows = rows_of(dy, width);
    assert!(d_bias.as_ref().is_none_or(|d_bias| d_bias.len() == width), "a bias of another width");
    let [d_weight, x, statistics] =
        of_weight.map_or([None; 3], |(d_weight, x, statistics)| [Some(d_weight), Some(x), Some(statistics)]);
    let arguments = vec![
        optional(d_weight),
        optional(d_bias.as_deref()),
        dy.into(),
        optional(x),
        optional(statistics),
        (rows as u32).into(),
        (width as u32).into(),
    ];
    // SAFETY: lengths were checked; x and statistics are read only where there is a `d_weight`.
    unsafe {
        dy.gpu().launch(&Launch::blocks("norm_backward_weight", width.div_ceil(COLUMNS) as u32, arguments))
    }
}
