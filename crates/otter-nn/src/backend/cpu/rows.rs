//! Strided rows: copied, added, kept.

use std::collections::HashSet;

use crate::Float;
use crate::backend::RowStrides;

/// Copies, or adds, `sizes` rows of `len` elements between places of two slices.
///
/// # Panics
/// When a row leaves its slice.
pub fn copy<T: Float>(
    (to, to_strides): (&mut [T], RowStrides),
    (from, from_strides): (&[T], RowStrides),
    sizes: [usize; 3],
    len: usize,
    accumulate: bool,
) {
    let at = |strides: RowStrides, [i, j, k]: [usize; 3]| {
        strides.offset + i * strides.strides[0] + j * strides.strides[1] + k * strides.strides[2]
    };
    for i in 0..sizes[0] {
        for j in 0..sizes[1] {
            for k in 0..sizes[2] {
                let (to_at, from_at) = (at(to_strides, [i, j, k]), at(from_strides, [i, j, k]));
                let (to, from) = (&mut to[to_at..to_at + len], &from[from_at..from_at + len]);
                if accumulate {
                    to.iter_mut().zip(from).for_each(|(to, &from)| *to += from);
                } else {
                    to.copy_from_slice(from);
                }
            }
        }
    }
}

/// Zeroes all rows of `width` elements but those with these numbers.
pub fn keep<T: Float>(x: &mut [T], numbers: &[u32], width: usize) {
    let kept: HashSet<usize> = numbers.iter().map(|&row| row as usize).collect();
    for (row, values) in x.chunks_exact_mut(width.max(1)).enumerate() {
        if !kept.contains(&row) {
            values.fill(T::ZERO);
        }
    }
}
