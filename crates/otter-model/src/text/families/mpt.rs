//! Sizes of an MPT language model, in both of its generations (`spec/model.md` 7.2 and 7.3).

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, LARGEST_DEPTH, LARGEST_TABLE, LARGEST_WIDTH, bounded, divides, positive};

/// Which of MosaicML's classes a model belongs to: they differ in names and in the slopes of ALiBi.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MptStyle {
    /// `MPTForCausalLM` (7B, 30B).
    Mpt,
    /// `MosaicGPT` (1B RedPajama).
    MosaicGpt,
}

/// Kind of a norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NormKind {
    /// Mean and deviation.
    Layer,
    /// Root mean square.
    Rms,
}

/// MPT language model: fused query-key-value projection, exact GELU, ALiBi or learned positions, tied tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MptConfig {
    /// Class.
    pub style: MptStyle,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Query heads per layer.
    pub n_heads: usize,
    /// Key and value heads per layer: as many as query heads, or one (multi-query attention).
    pub key_heads: usize,
    /// Number of decoder layers.
    pub n_layers: usize,
    /// Inner width of the feed-forward part, as a multiple of the width.
    pub expansion_ratio: usize,
    /// Longest sequence the model was trained for; rows of the position table where there is one.
    pub max_seq_len: usize,
    /// Rows of the table.
    pub vocab_size: usize,
    /// ALiBi instead of learned positions.
    pub alibi: bool,
    /// Exponent of the smallest slope of ALiBi: 2^-alibi_bias_max.
    pub alibi_bias_max: f64,
    /// Norms over the whole width of queries and keys.
    pub qk_ln: bool,
    /// Largest absolute value of queries, keys and values.
    pub clip_qkv: Option<f64>,
    /// Factor on the scores; by default one over the square root of the head size.
    pub softmax_scale: Option<f64>,
    /// Whether the linear layers and the norms have no biases.
    pub no_bias: bool,
    /// Kind of the norms (those of queries and keys are always layer norms in `MosaicGPT`).
    pub norm: NormKind,
    /// Factor on the logits.
    pub logit_scale: Option<f64>,
    /// Share of the gradient that reaches the embedding.
    pub embedding_fraction: f64,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// End-of-sequence token of the language model.
    pub eos_token_id: Option<u32>,
    /// Fills finished rows in generation.
    pub pad_token_id: Option<u32>,
}

/// ALiBi's slope of every head: a geometric sequence that ends at 2^-`bias_max`. For a number of heads that is no power
/// of two, every second slope of the next power comes first.
pub fn alibi_slopes(heads: usize, bias_max: f64) -> Vec<f64> {
    let all: Vec<f64> = even_slopes(heads.next_power_of_two(), bias_max).collect();
    if heads.is_power_of_two() {
        return all;
    }
    let odd = all.iter().skip(1).step_by(2);
    odd.chain(all.iter().step_by(2)).take(heads).copied().collect()
}

fn even_slopes(heads: usize, bias_max: f64) -> impl Iterator<Item = f64> {
    (1..=heads).map(move |k| (-bias_max * k as f64 / heads as f64).exp2())
}

impl MptConfig {
    /// MPT 7B.
    pub fn mpt_7b() -> Self {
        Self {
            style: MptStyle::Mpt,
            d_model: 4096,
            n_heads: 32,
            key_heads: 32,
            n_layers: 32,
            expansion_ratio: 4,
            max_seq_len: 2048,
            vocab_size: 50432,
            alibi: true,
            alibi_bias_max: 8.0,
            qk_ln: false,
            clip_qkv: None,
            softmax_scale: None,
            no_bias: true,
            norm: NormKind::Layer,
            logit_scale: None,
            embedding_fraction: 1.0,
            bos_token_id: None,
            eos_token_id: None,
            pad_token_id: None,
        }
    }

    /// MPT 30B.
    pub fn mpt_30b() -> Self {
        Self { d_model: 7168, n_heads: 64, key_heads: 64, n_layers: 48, max_seq_len: 8192, ..Self::mpt_7b() }
    }

    /// MPT-1B RedPajama.
    pub fn mpt_1b_redpajama() -> Self {
        Self {
            style: MptStyle::MosaicGpt,
            d_model: 2048,
            n_heads: 16,
            key_heads: 16,
            n_layers: 24,
            qk_ln: true,
            ..Self::mpt_7b()
        }
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.d_model / self.n_heads.max(1)
    }

    /// Width of the keys, and of the values.
    pub fn key_width(&self) -> usize {
        self.key_heads * self.head_dim()
    }

    /// Slope of every head. `MosaicGPT` divides the exponents evenly, whatever the number of heads.
    pub fn alibi_slopes(&self) -> Vec<f64> {
        match self.style {
            MptStyle::MosaicGpt => even_slopes(self.n_heads, self.alibi_bias_max).collect(),
            MptStyle::Mpt => alibi_slopes(self.n_heads, self.alibi_bias_max),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        bounded("text.d_model", self.d_model, LARGEST_WIDTH)?;
        bounded("text.n_heads", self.n_heads, LARGEST_WIDTH)?;
        bounded("text.key_heads", self.key_heads, LARGEST_WIDTH)?;
        bounded("text.n_layers", self.n_layers, LARGEST_DEPTH)?;
        bounded("text.expansion_ratio", self.expansion_ratio, 256)?;
        bounded("text.max_seq_len", self.max_seq_len, LARGEST_TABLE)?;
        bounded("text.vocab_size", self.vocab_size, LARGEST_TABLE)?;
        divides(("text.d_model", self.d_model), ("text.n_heads", self.n_heads))?;
        divides(("text.n_heads", self.n_heads), ("text.key_heads", self.key_heads))?;
        let reals = [
            ("text.alibi_bias_max", Some(self.alibi_bias_max)),
            ("text.clip_qkv", self.clip_qkv),
            ("text.softmax_scale", self.softmax_scale),
            ("text.logit_scale", self.logit_scale),
            ("text.embedding_fraction", Some(self.embedding_fraction)),
        ];
        reals.into_iter().try_for_each(|(name, value)| value.map_or(Ok(()), |value| positive(name, value)))
    }

    /// Parameters of the decoder layers, the final norm and the position table.
    pub(crate) fn parameter_count(&self) -> u128 {
        let wide = |value: usize| value as u128;
        let (d, di, k) =
            (wide(self.d_model), wide(self.d_model * self.expansion_ratio), wide(self.key_width()));
        let bias = |rows: u128| if self.no_bias { 0 } else { rows };
        let norm = |width: u128| width + if self.norm == NormKind::Layer { bias(width) } else { 0 };
        let fused = d + 2 * k;
        let products = fused * d + d * d + 2 * d * di + bias(fused + d + di + d);
        let inner_norms = if self.qk_ln { norm(d) + norm(k) } else { 0 };
        let positions = if self.alibi { 0 } else { wide(self.max_seq_len) * d };
        wide(self.n_layers) * (products + 2 * norm(d) + inner_norms) + norm(d) + positions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slopes(style: MptStyle, heads: usize) -> Vec<f64> {
        MptConfig { style, n_heads: heads, ..MptConfig::mpt_7b() }.alibi_slopes()
    }

    /// `spec/parity_vectors.md` section 6.
    #[test]
    fn slopes_are_those_of_the_original() {
        assert_eq!(slopes(MptStyle::Mpt, 4), [0.25, 0.0625, 0.015625, 0.00390625]);
        assert_eq!(slopes(MptStyle::Mpt, 6), [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]);
        let many = slopes(MptStyle::Mpt, 32);
        for (found, expected) in many.iter().zip([0.840_896_427_6, 0.707_106_769_1, 0.594_603_538_5, 0.5]) {
            assert!((found - expected).abs() < 1e-7);
        }
        let uneven = slopes(MptStyle::MosaicGpt, 6);
        assert!((uneven[0] - 2f64.powf(-8.0 / 6.0)).abs() < 1e-15 && (uneven[5] - 1.0 / 256.0).abs() < 1e-15);
    }
}
