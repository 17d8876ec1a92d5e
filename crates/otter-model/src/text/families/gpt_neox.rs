//! Sizes of a GPT-NeoX language model (Pythia, RedPajama-INCITE).

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, LARGEST_DEPTH, LARGEST_TABLE, LARGEST_WIDTH, bounded, divides, positive};
use crate::text::family::HiddenActivation;
use crate::text::rope::RopeConfig;

/// GPT-NeoX language model: layer norms, fused projections, rotary positions on a part of each head, biases, untied
/// tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GptNeoxConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Inner width of the feed-forward part.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads per layer.
    pub num_attention_heads: usize,
    /// Rows of the token tables.
    pub vocab_size: usize,
    /// Longest sequence the model was trained for.
    pub max_position_embeddings: usize,
    /// Share of each head's features that rotary positions turn.
    pub rotary_pct: f64,
    /// Rotary frequencies.
    pub rope: RopeConfig,
    /// Whether attention and feed-forward read the same rows, instead of one after the other.
    pub use_parallel_residual: bool,
    /// Whether the attention's matrices have biases (the feed-forward's always have).
    pub attention_bias: bool,
    /// Activation of the feed-forward.
    pub hidden_act: HiddenActivation,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// End-of-sequence token of the language model.
    pub eos_token_id: Option<u32>,
    /// Fills finished rows in generation.
    pub pad_token_id: Option<u32>,
}

impl GptNeoxConfig {
    /// RedPajama-INCITE 3B, the language model of OpenFlamingo 4B.
    pub fn redpajama_incite_3b() -> Self {
        Self {
            hidden_size: 2560,
            intermediate_size: 10240,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            vocab_size: 50432,
            max_position_embeddings: 2048,
            rotary_pct: 1.0,
            rope: RopeConfig::plain(),
            use_parallel_residual: false,
            attention_bias: true,
            hidden_act: HiddenActivation::Gelu,
            layer_norm_eps: 1e-5,
            bos_token_id: Some(0),
            eos_token_id: Some(0),
            pad_token_id: None,
        }
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads.max(1)
    }

    /// Features of a head that rotary positions turn.
    pub fn rotated(&self) -> usize {
        (self.head_dim() as f64 * self.rotary_pct) as usize
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        bounded("text.hidden_size", self.hidden_size, LARGEST_WIDTH)?;
        bounded("text.intermediate_size", self.intermediate_size, LARGEST_WIDTH)?;
        bounded("text.num_hidden_layers", self.num_hidden_layers, LARGEST_DEPTH)?;
        bounded("text.num_attention_heads", self.num_attention_heads, LARGEST_WIDTH)?;
        bounded("text.vocab_size", self.vocab_size, LARGEST_TABLE)?;
        bounded("text.max_position_embeddings", self.max_position_embeddings, LARGEST_TABLE)?;
        positive("text.rotary_pct", self.rotary_pct)?;
        positive("text.layer_norm_eps", self.layer_norm_eps)?;
        divides(
            ("text.hidden_size", self.hidden_size),
            ("text.num_attention_heads", self.num_attention_heads),
        )?;
        self.rope.validate(self.head_dim(), self.rotated())
    }

    /// Parameters of the decoder layers and the final norm.
    pub(crate) fn parameter_count(&self) -> u128 {
        let wide = |value: usize| value as u128;
        let (d, di) = (wide(self.hidden_size), wide(self.intermediate_size));
        let attention = 4 * d * d + if self.attention_bias { 4 * d } else { 0 };
        wide(self.num_hidden_layers) * (attention + 2 * d * di + di + d + 4 * d) + 2 * d
    }
}
