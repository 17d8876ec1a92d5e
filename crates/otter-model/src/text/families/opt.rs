//! Sizes of an OPT language model.

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, LARGEST_DEPTH, LARGEST_TABLE, LARGEST_WIDTH, bounded, divides};
use crate::text::family::HiddenActivation;

/// OPT language model: learned positions, layer norms before or after each part, biases, usually tied tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OptConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Inner width of the feed-forward part.
    pub ffn_dim: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads per layer.
    pub num_attention_heads: usize,
    /// Rows of the token tables.
    pub vocab_size: usize,
    /// Width of the token tables; projections lead to and from the residual stream where it differs.
    pub word_embed_proj_dim: usize,
    /// Longest sequence; the table of positions has two rows more.
    pub max_position_embeddings: usize,
    /// Whether norms stand before attention and feed-forward (all but the 350M model).
    pub do_layer_norm_before: bool,
    /// Whether a norm follows the last layer; only with norms before the parts.
    pub final_layer_norm: bool,
    /// Whether the matrices have biases.
    pub enable_bias: bool,
    /// Activation of the feed-forward.
    pub activation: HiddenActivation,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// End-of-sequence token of the language model.
    pub eos_token_id: Option<u32>,
    /// Fills finished rows in generation.
    pub pad_token_id: Option<u32>,
}

impl OptConfig {
    /// Row of the position table at which position 0 stands.
    pub const POSITION_OFFSET: u32 = 2;

    /// OPT 125M.
    pub fn opt_125m() -> Self {
        Self {
            hidden_size: 768,
            ffn_dim: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            vocab_size: 50272,
            word_embed_proj_dim: 768,
            max_position_embeddings: 2048,
            do_layer_norm_before: true,
            final_layer_norm: true,
            enable_bias: true,
            activation: HiddenActivation::Relu,
            bos_token_id: Some(2),
            eos_token_id: Some(2),
            pad_token_id: Some(1),
        }
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads.max(1)
    }

    /// Whether the token tables have another width than the residual stream.
    pub fn has_projections(&self) -> bool {
        self.word_embed_proj_dim != self.hidden_size
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        bounded("text.hidden_size", self.hidden_size, LARGEST_WIDTH)?;
        bounded("text.ffn_dim", self.ffn_dim, LARGEST_WIDTH)?;
        bounded("text.num_hidden_layers", self.num_hidden_layers, LARGEST_DEPTH)?;
        bounded("text.num_attention_heads", self.num_attention_heads, LARGEST_WIDTH)?;
        bounded("text.vocab_size", self.vocab_size, LARGEST_TABLE)?;
        bounded("text.word_embed_proj_dim", self.word_embed_proj_dim, LARGEST_WIDTH)?;
        bounded("text.max_position_embeddings", self.max_position_embeddings, LARGEST_TABLE)?;
        divides(
            ("text.hidden_size", self.hidden_size),
            ("text.num_attention_heads", self.num_attention_heads),
        )
    }

    /// Parameters of the decoder layers, the final norm, the position table and the projections of the tables.
    pub(crate) fn parameter_count(&self) -> u128 {
        let wide = |value: usize| value as u128;
        let (d, di) = (wide(self.hidden_size), wide(self.ffn_dim));
        let biases = if self.enable_bias { 5 * d + di } else { 0 };
        let layer = 4 * d * d + 2 * d * di + biases + 4 * d;
        let norm = if self.final_layer_norm { 2 * d } else { 0 };
        let positions = (wide(self.max_position_embeddings) + u128::from(Self::POSITION_OFFSET)) * d;
        let projections = if self.has_projections() { 2 * d * wide(self.word_embed_proj_dim) } else { 0 };
        wide(self.num_hidden_layers) * layer + norm + positions + projections
    }
}
