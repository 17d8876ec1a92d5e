//! Rotary positions of a language model as sizes: base, and how the frequencies are changed for sequences longer than
//! those of the training.

use otter_nn::{Rotary, rotary_frequencies};
use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, LARGEST_TABLE, bounded, positive};

/// Base and scaling of the rotary frequencies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Change of the frequencies.
    pub scaling: RopeScaling,
}

/// Change of the rotary frequencies, by the names of `rope_scaling` in a `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// All divided by `factor`.
    Linear {
        /// At least 1 in practice.
        factor: f64,
    },
    /// The base grows with sequences beyond `max_position_embeddings` ("dynamic NTK").
    Dynamic {
        /// How fast.
        factor: f64,
    },
    /// LLaMA 3.1: slow frequencies divided by `factor`, fast ones kept, a blend between.
    Llama3 {
        /// Divisor of the slow frequencies.
        factor: f64,
        /// Frequencies with fewer turns over the original length are slow.
        low_freq_factor: f64,
        /// Frequencies with more turns over the original length are fast.
        high_freq_factor: f64,
        /// Length of the original training.
        original_max_position_embeddings: usize,
    },
}

impl RopeConfig {
    /// Base 10000, unscaled.
    pub fn plain() -> Self {
        Self { theta: 10_000.0, scaling: RopeScaling::None }
    }

    /// The turning of the first `rotated` features of heads of `head_size`, for a model of `max_positions`.
    pub(crate) fn rotary(&self, head_size: usize, rotated: usize, max_positions: usize) -> Rotary {
        let plain = rotary_frequencies(rotated, self.theta);
        let frequencies = match self.scaling {
            RopeScaling::None => plain,
            RopeScaling::Linear { factor } => plain.into_iter().map(|f| f / factor).collect(),
            RopeScaling::Dynamic { factor } => {
                return Rotary::dynamic(head_size, rotated, self.theta, factor, max_positions);
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let length = original_max_position_embeddings as f64;
                let scaled = |frequency: f64| {
                    let turns = length * frequency / std::f64::consts::TAU;
                    let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let kept = kept.clamp(0.0, 1.0);
                    kept * frequency + (1.0 - kept) * frequency / factor
                };
                plain.into_iter().map(scaled).collect()
            }
        };
        Rotary::with_frequencies(head_size, frequencies)
    }

    pub(crate) fn validate(&self, head_size: usize, rotated: usize) -> Result<(), ConfigError> {
        positive("text.rope_theta", self.theta)?;
        if rotated > head_size || !rotated.is_multiple_of(2) {
            return Err(ConfigError::OddHead { value: rotated, head: head_size });
        }
        let at_least = |name: &'static str, value: f64, smallest: f64| {
            if value.is_finite() && value >= smallest {
                return Ok(());
            }
            Err(ConfigError::TooSmall { name, value, smallest })
        };
        match self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => at_least("text.rope_scaling.factor", factor, 1.0),
            RopeScaling::Dynamic { factor } => {
                // The exponent of the growth is rotated / (rotated - 2).
                at_least("text.head_dim (rotated features)", rotated as f64, 4.0)?;
                at_least("text.rope_scaling.factor", factor, 1.0)
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: length,
            } => {
                at_least("text.rope_scaling.factor", factor, 1.0)?;
                positive("text.rope_scaling.low_freq_factor", low)?;
                at_least("text.rope_scaling.high_freq_factor", high, low + f64::EPSILON * low)?;
                bounded("text.rope_scaling.original_max_position_embeddings", length, LARGEST_TABLE)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frequencies that Transformers 5 computes for these settings.
    #[test]
    fn llama_3_keeps_fast_frequencies_and_divides_slow_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 32,
        };
        let rope = RopeConfig { theta: 50.0, scaling };
        assert_eq!(rope.validate(6, 6), Ok(()));
        let plain = rotary_frequencies(6, 50.0);
        let (cosines, sines) = rope.rotary(6, 6, 256).angles::<f64>(&[1]);
        let found: Vec<f64> = (0..3).map(|d| sines[d].atan2(cosines[d])).collect();
        // 32 * 0.27144 / 2 pi = 1.3824 turns: 12.75 % of the way from slow to fast.
        let kept = (32.0 * plain[1] / std::f64::consts::TAU - 1.0) / 3.0;
        let expected = [1.0, plain[1] * (kept + (1.0 - kept) / 8.0), plain[2] / 8.0];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn impossible_scalings_are_named() {
        let check = |scaling| {
            let rope = RopeConfig { theta: 10_000.0, scaling };
            rope.validate(4, 2).map_err(|error| error.to_string())
        };
        assert_eq!(check(RopeScaling::Linear { factor: 2.0 }), Ok(()));
        let linear = check(RopeScaling::Linear { factor: f64::NAN });
        assert!(linear.is_err_and(|text| text.contains("rope_scaling.factor is NaN")));
        assert!(check(RopeScaling::Dynamic { factor: 2.0 }).is_err_and(|text| text.contains("at least 4")));
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 4.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8,
        };
        assert!(check(llama3).is_err_and(|text| text.contains("high_freq_factor")));
    }
}
