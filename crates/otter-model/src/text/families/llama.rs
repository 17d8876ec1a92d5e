//! Sizes of a LLaMA language model.

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, LARGEST_DEPTH, LARGEST_TABLE, LARGEST_WIDTH, bounded, divides, positive};
use crate::text::rope::{RopeConfig, RopeScaling};

/// LLaMA language model: RMS norms, rotary positions, SwiGLU, usually no biases and an untied output table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Inner width of the feed-forward part.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads per layer.
    pub num_attention_heads: usize,
    /// Key and value heads per layer; equal to the query heads in every published Otter.
    pub num_key_value_heads: usize,
    /// Width of a head where it is not the residual stream's width over the query heads.
    pub head_dim_override: Option<usize>,
    /// Whether the attention's matrices have biases.
    pub attention_bias: bool,
    /// Whether the feed-forward's matrices have biases.
    pub mlp_bias: bool,
    /// Rows of the input and output tables.
    pub vocab_size: usize,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Change of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Longest sequence the model was trained for.
    pub max_position_embeddings: usize,
    /// Beginning-of-sequence token.
    pub bos_token_id: u32,
    /// End-of-sequence token of the language model (generation stops at the end-of-chunk token instead).
    pub eos_token_id: u32,
    /// Fills finished rows in generation; the tokenizer's own pad token may differ.
    pub pad_token_id: Option<u32>,
}

impl LlamaConfig {
    /// LLaMA 7B and Vicuna 7B.
    pub fn llama_7b(vocab_size: usize) -> Self {
        Self {
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            head_dim_override: None,
            attention_bias: false,
            mlp_bias: false,
            vocab_size,
            rms_norm_eps: 1e-6,
            rope_theta: 10000.0,
            rope_scaling: RopeScaling::None,
            max_position_embeddings: 2048,
            bos_token_id: 1,
            eos_token_id: 2,
            pad_token_id: Some(0),
        }
    }

    /// LLaMA-2 13B (chat).
    pub fn llama2_13b(vocab_size: usize) -> Self {
        Self {
            hidden_size: 5120,
            intermediate_size: 13824,
            num_hidden_layers: 40,
            num_attention_heads: 40,
            num_key_value_heads: 40,
            rms_norm_eps: 1e-5,
            max_position_embeddings: 4096,
            ..Self::llama_7b(vocab_size)
        }
    }

    /// Vicuna 33B v1.3.
    pub fn vicuna_33b(vocab_size: usize) -> Self {
        Self {
            hidden_size: 6656,
            intermediate_size: 17920,
            num_hidden_layers: 60,
            num_attention_heads: 52,
            num_key_value_heads: 52,
            ..Self::llama_7b(vocab_size)
        }
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.head_dim_override.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Rotary frequencies.
    pub fn rope(&self) -> RopeConfig {
        RopeConfig { theta: self.rope_theta, scaling: self.rope_scaling }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        bounded("text.hidden_size", self.hidden_size, LARGEST_WIDTH)?;
        bounded("text.intermediate_size", self.intermediate_size, LARGEST_WIDTH)?;
        bounded("text.num_hidden_layers", self.num_hidden_layers, LARGEST_DEPTH)?;
        bounded("text.num_attention_heads", self.num_attention_heads, LARGEST_WIDTH)?;
        bounded("text.num_key_value_heads", self.num_key_value_heads, LARGEST_WIDTH)?;
        bounded("text.vocab_size", self.vocab_size, LARGEST_TABLE)?;
        bounded("text.max_position_embeddings", self.max_position_embeddings, LARGEST_TABLE)?;
        positive("text.rms_norm_eps", self.rms_norm_eps)?;
        let heads = ("text.num_attention_heads", self.num_attention_heads);
        match self.head_dim_override {
            Some(head_dim) => bounded("text.head_dim", head_dim, LARGEST_WIDTH)?,
            None => divides(("text.hidden_size", self.hidden_size), heads)?,
        }
        divides(heads, ("text.num_key_value_heads", self.num_key_value_heads))?;
        self.rope().validate(self.head_dim(), self.head_dim())
    }

    /// Parameters of the decoder layers and the final norm.
    pub(crate) fn parameter_count(&self) -> u128 {
        let wide = |value: usize| value as u128;
        let (d, di) = (wide(self.hidden_size), wide(self.intermediate_size));
        let query = wide(self.num_attention_heads) * wide(self.head_dim());
        let key_value = wide(self.num_key_value_heads) * wide(self.head_dim());
        let attention_bias = if self.attention_bias { query + 2 * key_value + d } else { 0 };
        let mlp_bias = if self.mlp_bias { 2 * di + d } else { 0 };
        let products = 2 * query * d + 2 * key_value * d + 3 * d * di;
        wide(self.num_hidden_layers) * (products + attention_bias + mlp_bias + 2 * d) + d
    }
}
