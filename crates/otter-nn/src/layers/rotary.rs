//! Rotary position embedding, half-split as in LLaMA (`spec/model.md` 7.1): features d and d + head/2 rotate together.

use crate::Real;
use crate::kernels::for_row_blocks;

/// Rotation angles of one head size and base.
#[derive(Clone, Debug)]
pub struct Rotary {
    head_size: usize,
    inverse_frequencies: Vec<f64>,
}

impl Rotary {
    /// Frequencies `base^(-2d / head_size)`.
    pub fn new(head_size: usize, base: f64) -> Self {
        let half = head_size / 2;
        let inverse_frequencies =
            (0..half).map(|d| 1.0 / base.powf(2.0 * d as f64 / head_size as f64)).collect();
        Self { head_size, inverse_frequencies }
    }

    /// Cosines and sines, (positions, head/2) each.
    fn tables<T: Real>(&self, positions: &[u32]) -> (Vec<T>, Vec<T>) {
        // The reference computes inverse frequencies and angles in f32; f64 elements keep the exact values.
        let single = size_of::<T>() == 4;
        let angle = |position: u32, frequency: f64| {
            if single {
                f64::from(position as f32 * frequency as f32)
            } else {
                f64::from(position) * frequency
            }
        };
        let mut cos = Vec::with_capacity(positions.len() * self.inverse_frequencies.len());
        let mut sin = Vec::with_capacity(cos.capacity());
        for &position in positions {
            for &frequency in &self.inverse_frequencies {
                let (s, c) = angle(position, frequency).sin_cos();
                cos.push(T::from_f64(c));
                sin.push(T::from_f64(s));
            }
        }
        (cos, sin)
    }

    /// Rotates the heads of every row in place; `positions` has one entry a row.
    pub fn rotate<T: Real>(&self, rows: &mut [T], positions: &[u32]) {
        self.turn(rows, positions, T::ONE);
    }

    /// Reverse pass of [`Rotary::rotate`]: rotates gradients back, in place.
    pub fn rotate_back<T: Real>(&self, rows: &mut [T], positions: &[u32]) {
        self.turn(rows, positions, -T::ONE);
    }

    fn turn<T: Real>(&self, rows: &mut [T], positions: &[u32], direction: T) {
        if positions.is_empty() {
            return;
        }
        let width = rows.len() / positions.len();
        let half = self.head_size / 2;
        let distinct = positions.iter().copied().max().unwrap_or(0) as usize + 1;
        // A batch repeats the same few positions: one table row for each of them when that is fewer.
        let all: Vec<u32> = (0..distinct as u32).collect();
        let shared = distinct <= positions.len();
        let (cos, sin) = self.tables::<T>(if shared { &all } else { positions });
        for_row_blocks(rows, width, 4, |first, block| {
            for (i, row) in block.chunks_exact_mut(width).enumerate() {
                let at = if shared { positions[first + i] as usize } else { first + i };
                let (cos, sin) = (&cos[at * half..][..half], &sin[at * half..][..half]);
                for head in row.chunks_exact_mut(self.head_size) {
                    let (low, high) = head.split_at_mut(half);
                    for (((a, b), &c), &s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                        let s = s * direction;
                        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParameterSpecs;
    use crate::gradient_check::{check, random_tensor};

    #[test]
    fn gradients_match_finite_differences() {
        let rotary = Rotary::new(6, 10_000.0);
        for positions in [[0, 1, 2, 1], [7, 0, 30, 2]] {
            check(
                &ParameterSpecs::default(),
                &[random_tensor("x", &[4, 12])],
                |_, inputs| {
                    let mut y = inputs[0].clone();
                    rotary.rotate(y.data_mut(), &positions);
                    y
                },
                |_, _, dy, _| {
                    let mut dx = dy.clone();
                    rotary.rotate_back(dx.data_mut(), &positions);
                    vec![dx]
                },
            );
        }
    }

    #[test]
    fn position_zero_is_the_identity_and_lengths_are_kept() {
        let rotary = Rotary::new(4, 10_000.0);
        let mut rows = [1.0f32, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0];
        rotary.rotate(&mut rows, &[0, 9]);
        assert_eq!(rows[..4], [1.0, 2.0, 3.0, 4.0]);
        assert_ne!(rows[4..], [1.0, 2.0, 3.0, 4.0]);
        assert!((rows[4..].iter().map(|v| v * v).sum::<f32>() - 30.0).abs() < 1e-4);
    }
}
