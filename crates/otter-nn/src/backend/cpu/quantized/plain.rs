//! Integer products without vector instructions: what the other files must agree with.

use super::SKINNY_ROWS;
use super::activations::{Activations, Cells};
use crate::tensor::quantized::{QuantizedFormat, q4_k, q8_0, scale};

/// Products of one weight row with `count` rows of activations from `first` on; the rest are zero.
pub(super) fn dot(
    format: QuantizedFormat,
    row: &[u8],
    x: &Activations,
    first: usize,
    count: usize,
) -> [f32; SKINNY_ROWS] {
    let mut products = [0.0; SKINNY_ROWS];
    let of_cell = x.scales_of_cell();
    for (at, cell) in row.chunks(of_cell * format.block_bytes()).enumerate() {
        for (product, row) in products.iter_mut().zip(first..first + count) {
            let Cells { quants, scales, sums } = x.cells_of(at, row..row + 1);
            *product += match format {
                QuantizedFormat::Q8_0 => {
                    let blocks = cell.chunks_exact(q8_0::BYTES).zip(quants.chunks_exact(q8_0::ELEMENTS));
                    let of_block =
                        |((block, quants), of_x)| scale(block, 0) * of_x * of_q8_0(block, quants) as f32;
                    blocks.zip(scales).map(of_block).sum::<f32>()
                }
                QuantizedFormat::Q4K => {
                    let Some(block) = cell.first_chunk() else { continue };
                    let (dot, minima) = of_q4_k(block, quants, sums);
                    scales[0] * (scale(block, 0) * dot as f32 - scale(block, 2) * minima as f32)
                }
            };
        }
    }
    products
}

fn of_q8_0(block: &[u8], quants: &[i8]) -> i32 {
    block[q8_0::QUANTS..].iter().zip(quants).map(|(&w, &x)| i32::from(w as i8) * i32::from(x)).sum()
}

/// The weighted sum of products and the weighted sum of sums.
fn of_q4_k(block: &[u8; q4_k::BYTES], quants: &[i8], sums: &[i16]) -> (i32, i32) {
    let (scales, minima) = q4_k::scales_and_minima(block);
    let mut dot = 0;
    for (pair, quants) in quants.chunks_exact(2 * q4_k::GROUP).enumerate() {
        let codes = &block[q4_k::QUANTS + pair * q4_k::GROUP..][..q4_k::GROUP];
        let (low, high) = quants.split_at(q4_k::GROUP);
        let low: i32 = codes.iter().zip(low).map(|(&w, &x)| i32::from(w & 15) * i32::from(x)).sum();
        let high: i32 = codes.iter().zip(high).map(|(&w, &x)| i32::from(w >> 4) * i32::from(x)).sum();
        dot += i32::from(scales[2 * pair]) * low + i32::from(scales[2 * pair + 1]) * high;
    }
    let minima = minima.iter().zip(sums).map(|(&minimum, &sum)| i32::from(minimum) * i32::from(sum)).sum();
    (dot, minima)
}
