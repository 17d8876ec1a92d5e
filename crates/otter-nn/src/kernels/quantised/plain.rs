//! Integer products without vector instructions: what the other files must agree with.

use super::FEW_ROWS;
use super::activations::Activations;
use crate::quantised::{QuantisedFormat, q4_k, q8_0, scale};

/// Products of one weight row with `count` rows of activations from `first` on; the rest are zero.
pub(super) fn dot(
    format: QuantisedFormat,
    row: &[u8],
    x: &Activations,
    first: usize,
    count: usize,
) -> [f32; FEW_ROWS] {
    let mut products = [0.0; FEW_ROWS];
    for (product, row_of_x) in products.iter_mut().zip(first..first + count) {
        let (quants, scales, sums) = (x.quants(row_of_x), x.scales(row_of_x), x.sums(row_of_x));
        *product = match format {
            QuantisedFormat::Q8_0 => {
                let blocks =
                    row.chunks_exact(q8_0::BYTES).zip(quants.chunks_exact(q8_0::ELEMENTS)).zip(scales);
                blocks
                    .map(|((block, quants), of_x)| scale(block, 0) * of_x * of_q8_0(block, quants) as f32)
                    .sum()
            }
            QuantisedFormat::Q4K => {
                let blocks =
                    row.as_chunks::<{ q4_k::BYTES }>().0.iter().zip(quants.chunks_exact(q4_k::ELEMENTS));
                let blocks = blocks.zip(sums.chunks_exact(q4_k::GROUPS)).zip(scales);
                blocks
                    .map(|(((block, quants), sums), of_x)| {
                        let (dot, minima) = of_q4_k(block, quants, sums);
                        of_x * (scale(block, 0) * dot as f32 - scale(block, 2) * minima as f32)
                    })
                    .sum()
            }
        };
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
