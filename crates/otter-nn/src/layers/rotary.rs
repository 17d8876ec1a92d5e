//! Rotary position embedding, half-split as in LLaMA: of the first `rotated` features of a head,
//! d and d + rotated/2 turn together; the rest stays.

use std::borrow::Cow;

use crate::{Float, Tensor};

/// Rotation angles of the heads of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    head_size: usize,
    frequencies: Frequencies,
}

#[derive(Clone, Debug, PartialEq)]
enum Frequencies {
    /// One for each pair of features.
    Fixed(Vec<f64>),
    /// Slower ones for sequences that outgrow the trained length.
    Dynamic { pairs: usize, base: f64, factor: f64, trained_positions: usize },
}

/// Frequencies `base^(-2d / rotated)` of the pairs d of `rotated` features.
pub fn rotary_frequencies(rotated: usize, base: f64) -> Vec<f64> {
    (0..rotated / 2).map(|d| 1.0 / base.powf(2.0 * d as f64 / rotated as f64)).collect()
}

impl Rotary {
    /// Turns whole heads, with the usual frequencies.
    pub fn new(head_size: usize, base: f64) -> Self {
        Self::with_frequencies(head_size, rotary_frequencies(head_size, base))
    }

    /// Turns the first features of each head, two for each of `frequencies`.
    pub fn with_frequencies(head_size: usize, frequencies: Vec<f64>) -> Self {
        assert!(2 * frequencies.len() <= head_size, "more features are turned than a head has");
        Self { head_size, frequencies: Frequencies::Fixed(frequencies) }
    }

    /// As [`Rotary::new`] on the first `rotated` features (more than two), but where the largest position of a call is
    /// beyond the `trained_positions`, the base grows with it ("dynamic NTK"). Keys that were cached before keep the
    /// angles of their call, as in the library that made this rule.
    pub fn dynamic(
        head_size: usize,
        rotated: usize,
        base: f64,
        factor: f64,
        trained_positions: usize,
    ) -> Self {
        assert!(rotated > 2 && rotated <= head_size, "dynamic frequencies need more than one pair in a head");
        let frequencies = Frequencies::Dynamic { pairs: rotated / 2, base, factor, trained_positions };
        Self { head_size, frequencies }
    }

    /// Pairs of features that turn, in a head.
    pub(crate) fn pairs(&self) -> usize {
        match &self.frequencies {
            Frequencies::Fixed(frequencies) => frequencies.len(),
            Frequencies::Dynamic { pairs, .. } => *pairs,
        }
    }

    /// The frequencies, where they are the same at every length.
    pub(crate) fn fixed_frequencies(&self) -> Option<&[f64]> {
        match &self.frequencies {
            Frequencies::Fixed(frequencies) => Some(frequencies),
            Frequencies::Dynamic { .. } => None,
        }
    }

    /// Frequencies for a call whose positions are below `length`.
    pub(crate) fn frequencies(&self, length: usize) -> Cow<'_, [f64]> {
        match self.frequencies {
            Frequencies::Fixed(ref frequencies) => Cow::Borrowed(frequencies),
            Frequencies::Dynamic { pairs, base, factor, trained_positions } => {
                let rotated = 2 * pairs;
                let times = length.max(trained_positions) as f64 / trained_positions as f64;
                let growth = (factor * times - (factor - 1.0)).powf(rotated as f64 / (rotated - 2) as f64);
                Cow::Owned(rotary_frequencies(rotated, base * growth))
            }
        }
    }

    /// Cosine and sine of an angle. The reference computes inverse frequencies and angles in f32; f64 elements keep the
    /// exact values.
    pub(crate) fn angle<T: Float>(position: u32, frequency: f64) -> (T, T) {
        let single = size_of::<T>() == 4;
        let angle = if single {
            f64::from(position as f32 * frequency as f32)
        } else {
            f64::from(position) * frequency
        };
        let (sin, cos) = angle.sin_cos();
        (T::from_f64(cos), T::from_f64(sin))
    }

    /// Cosines and sines, (positions, pairs) each.
    pub(crate) fn tables<T: Float>(frequencies: &[f64], positions: &[u32]) -> (Vec<T>, Vec<T>) {
        let mut cos = Vec::with_capacity(positions.len() * frequencies.len());
        let mut sin = Vec::with_capacity(cos.capacity());
        for &position in positions {
            for &frequency in frequencies {
                let (c, s) = Self::angle(position, frequency);
                cos.push(c);
                sin.push(s);
            }
        }
        (cos, sin)
    }

    /// Features of a head.
    pub fn head_size(&self) -> usize {
        self.head_size
    }

    /// Cosines and sines of all pairs of features at `positions`, (positions, pairs) each: what [`Rotary::rotate`] turns by, for
    /// kernels elsewhere.
    pub fn angles<T: Float>(&self, positions: &[u32]) -> (Vec<T>, Vec<T>) {
        let length = positions.iter().max().map_or(0, |&last| last as usize + 1);
        Self::tables(&self.frequencies(length), positions)
    }

    /// Rotates the heads of every row in place; `positions` has one entry a row.
    pub fn rotate<T: Float>(&self, rows: &mut Tensor<T>, positions: &[u32]) {
        rows.backend().rotate(rows, self, positions, false);
    }

    /// Backward pass of [`Rotary::rotate`]: rotates gradients back, in place.
    pub fn rotate_back<T: Float>(&self, rows: &mut Tensor<T>, positions: &[u32]) {
        rows.backend().rotate(rows, self, positions, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::rows;
    use crate::testing::gradient_check::{check, random_tensor};
    use crate::{Device, ParameterSpecs};

    /// A row by itself has the bits that it has among others.
    #[test]
    fn a_row_does_not_depend_on_the_others() {
        for rotary in [Rotary::new(200, 1e4), Rotary::with_frequencies(6, vec![1.0, 0.2])] {
            let rows = random_tensor("x", &[3, 2 * rotary.head_size]).cast::<f32>();
            let mut together = rows.clone();
            rotary.rotate(&mut together, &[7, 300, 0]);
            for (at, position) in [7, 300, 0].into_iter().enumerate() {
                let width = rows.width();
                let mut alone = rows::gather_rows(&rows, &[at as u32], width);
                rotary.rotate(&mut alone, &[position]);
                assert_eq!(alone.data(), &together.data()[at * width..][..width]);
            }
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        let kinds = [
            Rotary::new(6, 10_000.0),
            Rotary::with_frequencies(6, vec![1.0, 0.2]),
            Rotary::dynamic(6, 4, 100.0, 2.0, 8),
        ];
        for rotary in kinds {
            for positions in [[0, 1, 2, 1], [7, 0, 30, 2]] {
                check(
                    &ParameterSpecs::default(),
                    &[random_tensor("x", &[4, 12])],
                    |_, inputs| {
                        let mut y = inputs[0].clone();
                        rotary.rotate(&mut y, &positions);
                        y
                    },
                    |_, _, dy, _| {
                        let mut dx = dy.clone();
                        rotary.rotate_back(&mut dx, &positions);
                        vec![dx]
                    },
                );
            }
        }
    }

    #[test]
    fn features_behind_the_rotated_ones_stay() {
        let rotary = Rotary::with_frequencies(6, vec![1.0, 0.2]);
        let mut rows = random_tensor("x", &[2, 12]);
        let before = rows.clone().into_vec();
        rotary.rotate(&mut rows, &[3, 4]);
        let rows = rows.into_vec();
        for (i, (a, b)) in rows.iter().zip(&before).enumerate() {
            assert_eq!(i % 6 >= 4, a == b, "element {i}");
        }
        // The pairs are 0 with 2 and 1 with 3.
        let (sin, cos) = (3.0 * 0.2f64).sin_cos();
        assert!((rows[1] - (before[1] * cos - before[3] * sin)).abs() < 1e-12);
    }

    #[test]
    fn dynamic_frequencies_slow_down_beyond_the_trained_length() {
        let rotary = Rotary::dynamic(6, 6, 10_000.0, 3.0, 16);
        assert_eq!(rotary.frequencies(9), rotary.frequencies(16));
        assert_eq!(*rotary.frequencies(16), rotary_frequencies(6, 10_000.0));
        // 3 * 24 / 16 - 2 = 2.5, to the power of 6 / 4
        let slower = rotary_frequencies(6, 10_000.0 * 2.5f64.powf(1.5));
        assert!(rotary.frequencies(24).iter().zip(slower).all(|(a, b)| (a - b).abs() < 1e-15));
    }

    #[test]
    fn position_zero_is_the_identity_and_lengths_are_kept() {
        let rotary = Rotary::new(4, 10_000.0);
        let rows = vec![1.0f32, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0];
        let mut rows = Tensor::from_vec(rows, &[2, 4], Device::Cpu);
        rotary.rotate(&mut rows, &[0, 9]);
        let rows = rows.data();
        assert_eq!(rows[..4], [1.0, 2.0, 3.0, 4.0]);
        assert_ne!(rows[4..], [1.0, 2.0, 3.0, 4.0]);
        assert!((rows[4..].iter().map(|v| v * v).sum::<f32>() - 30.0).abs() < 1e-4);
    }
}
