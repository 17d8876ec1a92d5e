//! The language models an Otter can be built on, as sizes; and what the rest of the model asks of them.

use serde::{Deserialize, Serialize};

use super::families::{
    FalconBlock, FalconConfig, GptNeoxConfig, LlamaConfig, MptConfig, MptStyle, OptConfig,
};
use crate::config::ConfigError;

/// A language model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TextConfig {
    /// LLaMA, Vicuna, LLaMA-2 and everything else of that shape.
    Llama(LlamaConfig),
    /// MPT and MosaicGPT.
    Mpt(MptConfig),
    /// GPT-NeoX, Pythia, RedPajama-INCITE.
    GptNeox(GptNeoxConfig),
    /// OPT.
    Opt(OptConfig),
    /// Falcon.
    Falcon(FalconConfig),
}

/// Activation of a feed-forward without a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HiddenActivation {
    /// Exact GELU.
    Gelu,
    /// GELU approximated with tanh.
    GeluTanh,
    /// Rectifier.
    Relu,
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
    /// Projections to and from the width of the token tables, where that is another.
    pub project_in: &'static str,
    /// See `project_in`.
    pub project_out: &'static str,
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
    project_in: "",
    project_out: "",
    layers: "model.layers",
    norm: "model.norm",
    output: "lm_head",
};

const MPT: TextNames = TextNames {
    class: "MPTForCausalLM",
    embedding: "transformer.wte",
    positions: "transformer.wpe",
    project_in: "",
    project_out: "",
    layers: "transformer.blocks",
    norm: "transformer.norm_f",
    output: "lm_head",
};

const GPT_NEOX: TextNames = TextNames {
    class: "GPTNeoXForCausalLM",
    embedding: "gpt_neox.embed_in",
    layers: "gpt_neox.layers",
    norm: "gpt_neox.final_layer_norm",
    output: "embed_out",
    ..LLAMA
};

const OPT: TextNames = TextNames {
    class: "OPTForCausalLM",
    embedding: "model.decoder.embed_tokens",
    positions: "model.decoder.embed_positions",
    project_in: "model.decoder.project_in",
    project_out: "model.decoder.project_out",
    layers: "model.decoder.layers",
    norm: "model.decoder.final_layer_norm",
    output: "lm_head",
};

const FALCON: TextNames = TextNames {
    class: "FalconForCausalLM",
    embedding: "transformer.word_embeddings",
    layers: "transformer.h",
    norm: "transformer.ln_f",
    ..LLAMA
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
            Self::GptNeox(_) => GPT_NEOX,
            Self::Opt(_) => OPT,
            Self::Falcon(_) => FALCON,
        }
    }

    /// Width of the residual stream.
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Llama(config) => config.hidden_size,
            Self::Mpt(config) => config.d_model,
            Self::GptNeox(config) => config.hidden_size,
            Self::Opt(config) => config.hidden_size,
            Self::Falcon(config) => config.hidden_size,
        }
    }

    /// Number of decoder layers.
    pub fn num_hidden_layers(&self) -> usize {
        match self {
            Self::Llama(config) => config.num_hidden_layers,
            Self::Mpt(config) => config.n_layers,
            Self::GptNeox(config) => config.num_hidden_layers,
            Self::Opt(config) => config.num_hidden_layers,
            Self::Falcon(config) => config.num_hidden_layers,
        }
    }

    /// Query heads per layer.
    pub fn num_attention_heads(&self) -> usize {
        match self {
            Self::Llama(config) => config.num_attention_heads,
            Self::Mpt(config) => config.n_heads,
            Self::GptNeox(config) => config.num_attention_heads,
            Self::Opt(config) => config.num_attention_heads,
            Self::Falcon(config) => config.num_attention_heads,
        }
    }

    /// Heads of the keys of a layer, and of its values, and their features.
    pub fn key_heads(&self) -> (usize, usize) {
        match self {
            Self::Llama(config) => (config.num_key_value_heads, config.head_dim()),
            Self::Mpt(config) => (config.key_heads, config.head_dim()),
            Self::GptNeox(config) => (config.num_attention_heads, config.head_dim()),
            Self::Opt(config) => (config.num_attention_heads, config.head_dim()),
            Self::Falcon(config) => (config.num_kv_heads, config.head_dim()),
        }
    }

    /// Width of the keys of a layer, and of its values.
    pub fn key_width(&self) -> usize {
        let (heads, size) = self.key_heads();
        heads * size
    }

    /// Inner width of a layer's feed-forward part.
    pub fn feed_forward_width(&self) -> usize {
        match self {
            Self::Llama(config) => config.intermediate_size,
            Self::Mpt(config) => config.expansion_ratio * config.d_model,
            Self::GptNeox(config) => config.intermediate_size,
            Self::Opt(config) => config.ffn_dim,
            Self::Falcon(config) => config.ffn_hidden_size,
        }
    }

    /// Elements that a decoder layer keeps for the reverse pass, for each row of text.
    pub fn saved_elements_per_row(&self) -> usize {
        let (width, keys, inner) = (self.hidden_size(), self.key_width(), self.feed_forward_width());
        // input, queries, keys, values, attended; one widened row
        let parallel = 3 * width + 2 * keys + self.num_attention_heads() + inner;
        match self {
            // middle; gate and up; queries may be wider than the residual stream
            Self::Llama(config) => {
                let queries = config.num_attention_heads * config.head_dim();
                parallel + width + inner + 2 * queries - 2 * width
            }
            // middle; queries and keys before their norm
            Self::Mpt(config) => parallel + width + if config.qk_ln { width + keys } else { 0 },
            // middle, unless both parts read the input
            Self::GptNeox(config) => parallel + if config.use_parallel_residual { 0 } else { width },
            // middle, or the sums before both norms
            Self::Opt(config) => parallel + if config.do_layer_norm_before { width } else { 2 * width },
            Self::Falcon(config) => {
                parallel + if config.block == FalconBlock::Sequential { width } else { 0 }
            }
        }
    }

    /// Rows of the token tables.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Llama(config) => config.vocab_size,
            Self::Mpt(config) => config.vocab_size,
            Self::GptNeox(config) => config.vocab_size,
            Self::Opt(config) => config.vocab_size,
            Self::Falcon(config) => config.vocab_size,
        }
    }

    /// Changes the number of rows of the token tables.
    pub fn set_vocab_size(&mut self, rows: usize) {
        match self {
            Self::Llama(config) => config.vocab_size = rows,
            Self::Mpt(config) => config.vocab_size = rows,
            Self::GptNeox(config) => config.vocab_size = rows,
            Self::Opt(config) => config.vocab_size = rows,
            Self::Falcon(config) => config.vocab_size = rows,
        }
    }

    /// Longest sequence the model was trained for.
    pub fn max_positions(&self) -> usize {
        match self {
            Self::Llama(config) => config.max_position_embeddings,
            Self::Mpt(config) => config.max_seq_len,
            Self::GptNeox(config) => config.max_position_embeddings,
            Self::Opt(config) => config.max_position_embeddings,
            Self::Falcon(config) => config.max_position_embeddings,
        }
    }

    /// Number of learned positions; `None` where positions are computed.
    pub fn learned_positions(&self) -> Option<usize> {
        match self {
            Self::Llama(_) | Self::GptNeox(_) | Self::Falcon(_) => None,
            Self::Mpt(config) => (!config.alibi).then_some(config.max_seq_len),
            Self::Opt(config) => Some(config.max_position_embeddings),
        }
    }

    /// Row of the table of learned positions at which position 0 stands; the table is longer by as much.
    pub fn position_offset(&self) -> u32 {
        match self {
            Self::Opt(_) => OptConfig::POSITION_OFFSET,
            _ => 0,
        }
    }

    /// Width of the token tables.
    pub fn embedding_width(&self) -> usize {
        match self {
            Self::Opt(config) => config.word_embed_proj_dim,
            _ => self.hidden_size(),
        }
    }

    /// Whether padding is not counted in the positions of a plain forward pass. (It never is in generation.)
    pub fn positions_skip_padding(&self) -> bool {
        match self {
            Self::Llama(_) | Self::GptNeox(_) | Self::Falcon(_) => false,
            Self::Mpt(_) | Self::Opt(_) => true,
        }
    }

    /// Whether the class knows one table for input and output only.
    pub fn must_be_tied(&self) -> bool {
        matches!(self, Self::Mpt(_))
    }

    /// Whether the original trains the output table along with the input embedding.
    pub fn trains_output_table(&self) -> bool {
        matches!(self, Self::Llama(_))
    }

    /// Factor on the logits.
    pub fn logit_scale(&self) -> f64 {
        match self {
            Self::Mpt(config) => config.logit_scale.unwrap_or(1.0),
            _ => 1.0,
        }
    }

    /// Share of the gradient that reaches the embeddings.
    pub fn embedding_fraction(&self) -> f64 {
        match self {
            Self::Mpt(config) => config.embedding_fraction,
            _ => 1.0,
        }
    }

    /// Beginning-of-sequence token.
    pub fn bos_token_id(&self) -> Option<u32> {
        match self {
            Self::Llama(config) => Some(config.bos_token_id),
            Self::Mpt(config) => config.bos_token_id,
            Self::GptNeox(config) => config.bos_token_id,
            Self::Opt(config) => config.bos_token_id,
            Self::Falcon(config) => config.bos_token_id,
        }
    }

    /// End-of-sequence token of the language model.
    pub fn eos_token_id(&self) -> Option<u32> {
        match self {
            Self::Llama(config) => Some(config.eos_token_id),
            Self::Mpt(config) => config.eos_token_id,
            Self::GptNeox(config) => config.eos_token_id,
            Self::Opt(config) => config.eos_token_id,
            Self::Falcon(config) => config.eos_token_id,
        }
    }

    /// Token that fills finished rows in generation.
    pub fn pad_token_id(&self) -> Option<u32> {
        match self {
            Self::Llama(config) => config.pad_token_id,
            Self::Mpt(config) => config.pad_token_id,
            Self::GptNeox(config) => config.pad_token_id,
            Self::Opt(config) => config.pad_token_id,
            Self::Falcon(config) => config.pad_token_id,
        }
    }

    /// Parameters besides the token tables.
    pub(crate) fn parameter_count(&self) -> u128 {
        match self {
            Self::Llama(config) => config.parameter_count(),
            Self::Mpt(config) => config.parameter_count(),
            Self::GptNeox(config) => config.parameter_count(),
            Self::Opt(config) => config.parameter_count(),
            Self::Falcon(config) => config.parameter_count(),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Llama(config) => config.validate()?,
            Self::Mpt(config) => config.validate()?,
            Self::GptNeox(config) => config.validate()?,
            Self::Opt(config) => config.validate()?,
            Self::Falcon(config) => config.validate()?,
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

impl From<GptNeoxConfig> for TextConfig {
    fn from(config: GptNeoxConfig) -> Self {
        Self::GptNeox(config)
    }
}

impl From<OptConfig> for TextConfig {
    fn from(config: OptConfig) -> Self {
        Self::Opt(config)
    }
}

impl From<FalconConfig> for TextConfig {
    fn from(config: FalconConfig) -> Self {
        Self::Falcon(config)
    }
}
