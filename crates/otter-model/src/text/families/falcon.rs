//! Falcon (Almazrouei et al., arXiv 2311.16867): fused projections with one key head, a few or one for each query head,
//! rotary positions or ALiBi, attention and feed-forward side by side or in turn.
//!
//! Unlike in the original's own class, padding is not attended and a cache works; and ALiBi is exact, where Transformers
//! rounds it to bfloat16.

use otter_nn::{Init, SelfAttentionCore};
use serde::{Deserialize, Serialize};

use super::mpt::alibi_slopes;
use crate::config::{ConfigError, LARGEST_DEPTH, LARGEST_TABLE, LARGEST_WIDTH, bounded, divides, positive};
use crate::text::attention::{AttentionSpec, InputNames};
use crate::text::block::{BlockParts, NormSpec, Residual, TransformerBlock};
use crate::text::family::{HiddenActivation, TextFamily, TextNames, TextSizes};
use crate::text::mlp::{MlpForm, MlpSpec};
use crate::text::rope::RopeConfig;

/// Exponent of the smallest slope of ALiBi.
const ALIBI_BIAS_MAX: f64 = 8.0;

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

    fn norm(&self) -> NormSpec {
        NormSpec::Layer { eps: self.layer_norm_epsilon, bias: true }
    }
}

impl TextFamily for FalconConfig {
    fn sizes(&self) -> TextSizes {
        let names = TextNames {
            class: "FalconForCausalLM",
            embedding: "transformer.word_embeddings",
            layers: "transformer.h",
            norm: "transformer.ln_f",
            ..TextSizes::COMMON.names
        };
        TextSizes {
            names,
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            key_heads: (self.num_kv_heads, self.head_dim()),
            feed_forward_width: self.ffn_hidden_size,
            vocab_size: self.vocab_size,
            embedding_width: self.hidden_size,
            max_positions: self.max_position_embeddings,
            final_norm: Some(self.norm()),
            bos_token_id: self.bos_token_id,
            eos_token_id: self.eos_token_id,
            pad_token_id: self.pad_token_id,
            ..TextSizes::COMMON
        }
    }

    fn set_vocab_size(&mut self, rows: usize) {
        self.vocab_size = rows;
    }

    fn validate(&self) -> Result<(), ConfigError> {
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

    fn block(&self, mut parts: BlockParts<'_>) -> TransformerBlock {
        let (heads, head_size) = (self.num_attention_heads, self.head_dim());
        let mut norm = |part| parts.norm(part, self.norm());
        let residual = match self.block {
            FalconBlock::Sequential => {
                Residual::PreNorm(norm("input_layernorm"), norm("post_attention_layernorm"))
            }
            FalconBlock::Parallel => Residual::Parallel(norm("input_layernorm")),
            FalconBlock::ParallelTwoNorms => Residual::ParallelTwoNorms(norm("ln_attn"), norm("ln_mlp")),
        };
        let mut core = SelfAttentionCore::new(heads, self.num_kv_heads, head_size);
        // The bias of ALiBi joins the products before they are scaled.
        core.slopes = self.alibi.then(|| {
            let slopes = alibi_slopes(heads, ALIBI_BIAS_MAX);
            slopes.into_iter().map(|slope| slope * core.scale).collect()
        });
        let rotary = || self.rope.rotary(head_size, head_size, self.max_position_embeddings);
        let init = [Init::Normal(0.02); 2];
        let attention = parts.attention(AttentionSpec {
            inputs: InputNames::Grouped("self_attention.query_key_value"),
            output: "self_attention.dense",
            bias: self.bias,
            init,
            clip: None,
            rotary: (!self.alibi).then(rotary),
            core,
        });
        let mlp = parts.mlp(&MlpSpec {
            form: MlpForm::Plain(self.activation.kind()),
            up: "mlp.dense_h_to_4h",
            down: "mlp.dense_4h_to_h",
            inner: self.ffn_hidden_size,
            bias: self.bias,
            init,
        });
        TransformerBlock { residual, attention, mlp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::block::tests::check_layer;

    #[test]
    fn layers_pass_every_check() {
        let config = FalconConfig {
            hidden_size: 18,
            ffn_hidden_size: 10,
            num_attention_heads: 3,
            ..FalconConfig::falcon_7b()
        };
        check_layer(&config.clone().into(), 18);
        let refined_web = FalconConfig {
            num_kv_heads: 3,
            block: FalconBlock::Sequential,
            bias: true,
            alibi: true,
            ..config.clone()
        };
        check_layer(&refined_web.into(), 18);
        let grouped = FalconConfig {
            hidden_size: 16,
            num_attention_heads: 4,
            num_kv_heads: 2,
            block: FalconBlock::ParallelTwoNorms,
            ..config
        };
        check_layer(&grouped.into(), 16);
    }
}
