//! Sizes of a Falcon language model (`spec/model.md` 7.4).

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, LARGEST_DEPTH, LARGEST_TABLE, LARGEST_WIDTH, bounded, divides, positive};
use crate::text::family::HiddenActivation;
use crate::text::rope::RopeConfig;

/// How attention and feed-forward of a Falcon layer join the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FalconBlock {
    /// One after the other, each with its norm (Falcon-RW).
    Sequential,
    /// Side by side behind one norm (7B).
    Parallel,
    /// Side by side, each behind its own norm (40B, 180B).
    ParallelTwoNorms,
}

/// Falcon language model: layer norms, fused projections with one or few key heads, rotary positions or ALiBi.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FalconConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Inner width of the feed-forward part.
    pub ffn_hidden_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads per layer.
    pub num_attention_heads: usize,
    /// Key and value heads per layer.
    pub num_kv_heads: usize,
    /// Rows of the token tables.
    pub vocab_size: usize,
    /// Longest sequence the model was trained for.
    pub max_position_embeddings: usize,
    /// Shape of the layers.
    pub block: FalconBlock,
    /// Whether the matrices have biases.
    pub bias: bool,
    /// ALiBi instead of rotary positions.
    pub alibi: bool,
    /// Rotary frequencies, without ALiBi.
    pub rope: RopeConfig,
    /// Activation of the feed-forward.
    pub activation: HiddenActivation,
    /// Epsilon of the layer norms.
    pub layer_norm_epsilon: f64,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// End-of-sequence token of the language model.
    pub eos_token_id: Option<u32>,
    /// Fills finished rows in generation.
    pub pad_token_id: Option<u32>,
}

impl FalconConfig {
    /// Falcon 7B.
    pub fn falcon_7b() -> Self {
        Self {
            hidden_size: 4544,
            ffn_hidden_size: 4 * 4544,
            num_hidden_layers: 32,
            num_attention_heads: 71,
            num_kv_heads: 1,
            vocab_size: 65024,
            max_position_embeddings: 2048,
            block: FalconBlock::Parallel,
            bias: false,
            alibi: false,
            rope: RopeConfig::plain(),
            activation: HiddenActivation::Gelu,
            layer_norm_epsilon: 1e-5,
            bos_token_id: Some(11),
            eos_token_id: Some(11),
            pad_token_id: None,
        }
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads.max(1)
    }

    /// Width of the keys, and of the values.
    pub fn key_width(&self) -> usize {
        self.num_kv_heads * self.head_dim()
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        bounded("text.hidden_size", self.hidden_size, LARGEST_WIDTH)?;
        bounded("text.ffn_hidden_size", self.ffn_hidden_size, LARGEST_WIDTH)?;
        bounded("text.num_hidden_layers", self.num_hidden_layers, LARGEST_DEPTH)?;
        bounded("text.num_attention_heads", self.num_attention_heads, LARGEST_WIDTH)?;
        bounded("text.num_kv_heads", self.num_kv_heads, LARGEST_WIDTH)?;
        bounded("text.vocab_size", self.vocab_size, LARGEST_TABLE)?;
        bounded("text.max_position_embeddings", self.max_position_embeddings, LARGEST_TABLE)?;
        positive("text.layer_norm_epsilon", self.layer_norm_epsilon)?;
        let heads = ("text.num_attention_heads", self.num_attention_heads);
        divides(("text.hidden_size", self.hidden_size), heads)?;
        divides(heads, ("text.num_kv_heads", self.num_kv_heads))?;
        if self.alibi { Ok(()) } else { self.rope.validate(self.head_dim(), self.head_dim()) }
    }

    /// Parameters of the decoder layers and the final norm.
    pub(crate) fn parameter_count(&self) -> u128 {
        let wide = |value: usize| value as u128;
        let (d, di, k) = (wide(self.hidden_size), wide(self.ffn_hidden_size), wide(self.key_width()));
        let fused = d + 2 * k;
        let biases = if self.bias { fused + d + di + d } else { 0 };
        let norms = if self.block == FalconBlock::Parallel { 2 * d } else { 4 * d };
        wide(self.num_hidden_layers) * (fused * d + d * d + 2 * d * di + biases + norms) + 2 * d
    }
}
