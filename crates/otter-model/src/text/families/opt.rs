//! OPT (Zhang et al., arXiv 2205.01068): separate projections with biases, learned positions and a rectifier; norms before
//! attention and feed-forward, in the 350M model behind them.

use otter_nn::{Init, SelfAttentionCore};
use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, LARGEST_DEPTH, LARGEST_TABLE, LARGEST_WIDTH, bounded, divides};
use crate::text::attention::{AttentionSpec, InputNames};
use crate::text::block::{BlockParts, NormSpec, Residual, TransformerBlock};
use crate::text::family::{HiddenActivation, TextFamily, TextNames, TextSizes};
use crate::text::mlp::{MlpForm, MlpSpec};

/// Every norm of the family.
const NORM: NormSpec = NormSpec::Layer { eps: 1e-5, bias: true };

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
}

impl TextFamily for OptConfig {
    fn sizes(&self) -> TextSizes {
        let names = TextNames {
            class: "OPTForCausalLM",
            embedding: "model.decoder.embed_tokens",
            positions: "model.decoder.embed_positions",
            project_in: "model.decoder.project_in",
            project_out: "model.decoder.project_out",
            layers: "model.decoder.layers",
            norm: "model.decoder.final_layer_norm",
            ..TextSizes::COMMON.names
        };
        TextSizes {
            names,
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            key_heads: (self.num_attention_heads, self.head_dim()),
            feed_forward_width: self.ffn_dim,
            vocab_size: self.vocab_size,
            embedding_width: self.word_embed_proj_dim,
            max_positions: self.max_position_embeddings,
            learned_positions: Some(self.max_position_embeddings),
            position_offset: Self::POSITION_OFFSET,
            positions_skip_padding: true,
            final_norm: self.final_layer_norm.then_some(NORM),
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

    fn block(&self, mut parts: BlockParts<'_>) -> TransformerBlock {
        let heads = self.num_attention_heads;
        let init = [Init::Normal(0.02); 2];
        let attention = parts.attention(AttentionSpec {
            inputs: InputNames::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            output: "self_attn.out_proj",
            bias: self.enable_bias,
            init,
            clip: None,
            rotary: None,
            core: SelfAttentionCore::new(heads, heads, self.head_dim()),
        });
        let mlp = parts.mlp(&MlpSpec {
            form: MlpForm::Plain(self.activation.kind()),
            up: "fc1",
            down: "fc2",
            inner: self.ffn_dim,
            bias: self.enable_bias,
            init,
        });
        let first = parts.norm("self_attn_layer_norm", NORM);
        let second = parts.norm("final_layer_norm", NORM);
        let residual = if self.do_layer_norm_before {
            Residual::PreNorm(first, second)
        } else {
            Residual::PostNorm(first, second)
        };
        TransformerBlock { residual, attention, mlp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HiddenActivation;
    use crate::text::block::tests::check_layer;

    #[test]
    fn layers_pass_every_check() {
        let config =
            OptConfig { hidden_size: 12, ffn_dim: 10, num_attention_heads: 3, ..OptConfig::opt_125m() };
        check_layer(&config.clone().into(), 12);
        check_layer(&OptConfig { do_layer_norm_before: false, ..config.clone() }.into(), 12);
        let plain = OptConfig { enable_bias: false, activation: HiddenActivation::Gelu, ..config };
        check_layer(&plain.into(), 12);
    }
}
