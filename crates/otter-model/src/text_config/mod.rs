//! The language models an Otter can be built on, as sizes; and what the rest of the model asks of them.

mod llama;
mod mpt;

use serde::{Deserialize, Serialize};

pub use llama::LlamaConfig;
pub use mpt::{MptConfig, MptStyle, NormKind};

use crate::config::ConfigError;

/// A language model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TextConfig {
    /// LLaMA, Vicuna, LLaMA-2 and everything else of that shape.
    Llama(LlamaConfig),
    /// MPT and MosaicGPT.
    Mpt(MptConfig),
}

/// Names of a language model's parts in a state dict, without `lang_encoder.` (`spec/model.md` sections 5 and 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextNames {
    /// Class of the original, which `architectures` names.
    pub class: &'static str,
    /// Input embedding.
    pub embedding: &'static str,
    /// Learned positions, where the model has them.
    pub positions: &'static str,
    /// Decoder layers, followed by their index.
    pub layers: &'static str,
    /// Final norm.
    pub norm: &'static str,
    /// Output projection, where it is stored.
    pub output: &'static str,
}

const LLAMA: TextNames = TextNames {
    class: "LlamaForCausalLM",
    embedding: "model.embed_tokens",
    positions: "",
    layers: "model.layers",
    norm: "model.norm",
    output: "lm_head",
};

const MPT: TextNames = TextNames {
    class: "MPTForCausalLM",
    embedding: "transformer.wte",
    positions: "transformer.wpe",
    layers: "transformer.blocks",
    norm: "transformer.norm_f",
    output: "lm_head",
};

const MOSAIC_GPT: TextNames = TextNames { class: "MosaicGPT", norm: "transformer.ln_f", ..MPT };

impl TextConfig {
    /// Names of the parts.
    pub fn names(&self) -> TextNames {
        match self {
            Self::Llama(_) => LLAMA,
            Self::Mpt(config) => match config.style {
                MptStyle::Mpt => MPT,
                MptStyle::MosaicGpt => MOSAIC_GPT,
            },
        }
    }

    /// Width of the residual stream.
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Llama(config) => config.hidden_size,
            Self::Mpt(config) => config.d_model,
        }
    }

    /// Number of decoder layers.
    pub fn num_hidden_layers(&self) -> usize {
        match self {
            Self::Llama(config) => config.num_hidden_layers,
            Self::Mpt(config) => config.n_layers,
        }
    }

    /// Query heads per layer.
    pub fn num_attention_heads(&self) -> usize {
        match self {
            Self::Llama(config) => config.num_attention_heads,
            Self::Mpt(config) => config.n_heads,
        }
    }

    /// Width of the keys of a layer, and of its values.
    pub fn key_width(&self) -> usize {
        match self {
            Self::Llama(config) => config.num_key_value_heads * config.head_dim(),
            Self::Mpt(config) => config.key_width(),
        }
    }

    /// Inner width of a layer's feed-forward part.
    pub fn feed_forward_width(&self) -> usize {
        match self {
            Self::Llama(config) => config.intermediate_size,
            Self::Mpt(config) => config.expansion_ratio * config.d_model,
        }
    }

    /// Elements that a decoder layer keeps for the reverse pass, for each row of text.
    pub fn saved_elements_per_row(&self) -> usize {
        let (width, keys, inner) = (self.hidden_size(), self.key_width(), self.feed_forward_width());
        let attention = 4 * width + 2 * keys + self.num_attention_heads();
        match self {
            // input, queries, keys, values, attended, middle; gate and up
            Self::Llama(_) => attention + 2 * inner,
            // the same with one widened row; queries and keys before their norm
            Self::Mpt(config) => attention + inner + if config.qk_ln { width + keys } else { 0 },
        }
    }

    /// Rows of the token tables.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Llama(config) => config.vocab_size,
            Self::Mpt(config) => config.vocab_size,
        }
    }

    /// Changes the number of rows of the token tables.
    pub fn set_vocab_size(&mut self, rows: usize) {
        match self {
            Self::Llama(config) => config.vocab_size = rows,
            Self::Mpt(config) => config.vocab_size = rows,
        }
    }

    /// Longest sequence the model was trained for.
    pub fn max_positions(&self) -> usize {
        match self {
            Self::Llama(config) => config.max_position_embeddings,
            Self::Mpt(config) => config.max_seq_len,
        }
    }

    /// Rows of the table of learned positions; `None` where positions are computed.
    pub fn learned_positions(&self) -> Option<usize> {
        match self {
            Self::Llama(_) => None,
            Self::Mpt(config) => (!config.alibi).then_some(config.max_seq_len),
        }
    }

    /// Whether padding is not counted in the positions of a plain forward pass. (It never is in generation.)
    pub fn positions_skip_padding(&self) -> bool {
        match self {
            Self::Llama(_) => false,
            Self::Mpt(_) => true,
        }
    }

    /// Whether the class knows one table for input and output only.
    pub fn must_be_tied(&self) -> bool {
        match self {
            Self::Llama(_) => false,
            Self::Mpt(_) => true,
        }
    }

    /// Whether the original trains the output table along with the input embedding.
    pub fn trains_output_table(&self) -> bool {
        matches!(self, Self::Llama(_))
    }

    /// Factor on the logits.
    pub fn logit_scale(&self) -> f64 {
        match self {
            Self::Llama(_) => 1.0,
            Self::Mpt(config) => config.logit_scale.unwrap_or(1.0),
        }
    }

    /// Share of the gradient that reaches the embeddings.
    pub fn embedding_fraction(&self) -> f64 {
        match self {
            Self::Llama(_) => 1.0,
            Self::Mpt(config) => config.embedding_fraction,
        }
    }

    /// Beginning-of-sequence token.
    pub fn bos_token_id(&self) -> Option<u32> {
        match self {
            Self::Llama(config) => Some(config.bos_token_id),
            Self::Mpt(config) => config.bos_token_id,
        }
    }

    /// End-of-sequence token of the language model.
    pub fn eos_token_id(&self) -> Option<u32> {
        match self {
            Self::Llama(config) => Some(config.eos_token_id),
            Self::Mpt(config) => config.eos_token_id,
        }
    }

    /// Token that fills finished rows in generation.
    pub fn pad_token_id(&self) -> Option<u32> {
        match self {
            Self::Llama(config) => config.pad_token_id,
            Self::Mpt(config) => config.pad_token_id,
        }
    }

    /// Parameters besides the token tables.
    pub(crate) fn parameter_count(&self) -> u128 {
        match self {
            Self::Llama(config) => config.parameter_count(),
            Self::Mpt(config) => config.parameter_count(),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Llama(config) => config.validate()?,
            Self::Mpt(config) => config.validate()?,
        }
        let ids = [
            ("text.bos_token_id", self.bos_token_id()),
            ("text.eos_token_id", self.eos_token_id()),
            ("text.pad_token_id", self.pad_token_id()),
        ];
        let vocab_size = self.vocab_size();
        for (name, id) in ids {
            if let Some(value) = id.filter(|&id| id as usize >= vocab_size) {
                return Err(ConfigError::TokenOutside { name, value, vocab_size });
            }
        }
        Ok(())
    }
}

impl From<LlamaConfig> for TextConfig {
    fn from(config: LlamaConfig) -> Self {
        Self::Llama(config)
    }
}

impl From<MptConfig> for TextConfig {
    fn from(config: MptConfig) -> Self {
        Self::Mpt(config)
    }
}
