//! Rotation of the heads of rows by their positions.

use super::for_row_blocks;
use crate::{Float, Rotary};

/// Pairs whose angles are computed together for a single row.
const PAIRS: usize = 64;

/// Turns the heads of rows, one position each, by their angles times `direction`: 1, or -1 for gradients.
pub fn rotate<T: Float>(rotary: &Rotary, rows: &mut [T], positions: &[u32], direction: T) {
    if positions.is_empty() {
        return;
    }
    let width = rows.len() / positions.len();
    if let ([position], Some(frequencies)) = (positions, rotary.fixed_frequencies()) {
        return rotate_row(rotary, rows, *position, frequencies, direction);
    }
    let half = rotary.pairs();
    let distinct = positions.iter().copied().max().unwrap_or(0) as usize + 1;
    // A batch repeats the same few positions: one table row for each of them when that is fewer.
    let all: Vec<u32> = (0..distinct as u32).collect();
    let shared = distinct <= positions.len();
    let frequencies = rotary.frequencies(distinct);
    let (cos, sin) = Rotary::tables::<T>(&frequencies, if shared { &all } else { positions });
    for_row_blocks(rows, width, 4, |first, block| {
        for (i, row) in block.chunks_exact_mut(width).enumerate() {
            let at = if shared { positions[first + i] as usize } else { first + i };
            let (cos, sin) = (&cos[at * half..][..half], &sin[at * half..][..half]);
            for head in row.chunks_exact_mut(rotary.head_size()) {
                let (low, high) = head[..2 * half].split_at_mut(half);
                for (((a, b), &c), &s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                    let s = s * direction;
                    (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                }
            }
        }
    });
}

/// One row: angles of some pairs at a time, for all heads, without a table.
fn rotate_row<T: Float>(rotary: &Rotary, row: &mut [T], position: u32, frequencies: &[f64], direction: T) {
    let half = frequencies.len();
    for (part, frequencies) in frequencies.chunks(PAIRS).enumerate() {
        let mut angles = [(T::ZERO, T::ZERO); PAIRS];
        for (angle, &frequency) in angles.iter_mut().zip(frequencies) {
            *angle = Rotary::angle(position, frequency);
        }
        for head in row.chunks_exact_mut(rotary.head_size()) {
            let (low, high) = head[..2 * half].split_at_mut(half);
            let pairs = low[part * PAIRS..].iter_mut().zip(&mut high[part * PAIRS..]);
            for ((a, b), &(c, s)) in pairs.zip(&angles[..frequencies.len()]) {
                let s = s * direction;
                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
            }
        }
    }
}
