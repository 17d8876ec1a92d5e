//! A language model as sizes, and what the rest of the model asks of them.

use otter_nn::{ActivationKind, ParameterSpecs};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::block::{BlockParts, NormSpec, TransformerBlock};
use super::embedding::TextEmbedding;
use super::families::{FalconConfig, GptNeoxConfig, LlamaConfig, MptConfig, OptConfig};
use super::family::TextFamily;
use super::head::TextOutput;
use crate::config::ConfigError;

/// Defines [`TextConfig`] and how it reaches its family.
macro_rules! families {
    ($($(#[$doc:meta])* $variant:ident($config:ident),)*) => {
        /// A language model.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub enum TextConfig {
            $($(#[$doc])* $variant($config),)*
        }

        $(impl From<$config> for TextConfig {
            fn from(config: $config) -> Self {
                Self::$variant(config)
            }
        })*

        impl TextConfig {
            pub(crate) fn family(&self) -> &dyn TextFamily {
                match self {
                    $(Self::$variant(config) => config,)*
                }
            }

            fn family_mut(&mut self) -> &mut dyn TextFamily {
                match self {
                    $(Self::$variant(config) => config,)*
                }
            }
        }
    };
}

families! {
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

impl HiddenActivation {
    pub(crate) fn kind(self) -> ActivationKind {
        match self {
            Self::Gelu => ActivationKind::Gelu,
            Self::GeluTanh => ActivationKind::GeluTanh,
            Self::Relu => ActivationKind::Relu,
        }
    }
}

/// Names of a language model's parts in a state dict, without `lang_encoder.`.
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

/// What the rest of the model needs to know of a language model.
#[derive(Debug, Clone, Copy)]
pub struct TextSizes {
    /// Names of the parts.
    pub names: TextNames,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads per layer.
    pub num_attention_heads: usize,
    /// Heads of the keys of a layer, and of its values, and their features.
    pub key_heads: (usize, usize),
    /// Inner width of a layer's feed-forward part.
    pub feed_forward_width: usize,
    /// Rows of the token tables.
    pub vocab_size: usize,
    /// Width of the token tables.
    pub embedding_width: usize,
    /// Longest sequence the model was trained for.
    pub max_positions: usize,
    /// Number of learned positions; `None` where positions are computed.
    pub learned_positions: Option<usize>,
    /// Row of the table of learned positions at which position 0 stands; the table is longer by as much.
    pub position_offset: u32,
    /// Whether padding is not counted in the positions of a plain forward pass. (It never is in generation.)
    pub positions_skip_padding: bool,
    /// Norm behind the last layer.
    pub(crate) final_norm: Option<NormSpec>,
    /// Whether the class knows one table for input and output only.
    pub must_be_tied: bool,
    /// Whether the original trains the output table along with the input embedding.
    pub trains_output_table: bool,
    /// Factor on the logits.
    pub logit_scale: f64,
    /// Share of the gradient that reaches the embeddings.
    pub embedding_fraction: f64,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// End-of-sequence token of the language model.
    pub eos_token_id: Option<u32>,
    /// Token that fills finished rows in generation.
    pub pad_token_id: Option<u32>,
}

impl TextSizes {
    /// What most language models have in common: computed positions that count padding, one width, two tables.
    pub(crate) const COMMON: Self = Self {
        names: TextNames {
            class: "",
            embedding: "",
            positions: "",
            project_in: "",
            project_out: "",
            layers: "",
            norm: "",
            output: "lm_head",
        },
        hidden_size: 0,
        num_hidden_layers: 0,
        num_attention_heads: 0,
        key_heads: (0, 0),
        feed_forward_width: 0,
        vocab_size: 0,
        embedding_width: 0,
        max_positions: 0,
        learned_positions: None,
        position_offset: 0,
        positions_skip_padding: false,
        final_norm: None,
        must_be_tied: false,
        trains_output_table: false,
        logit_scale: 1.0,
        embedding_fraction: 1.0,
        bos_token_id: None,
        eos_token_id: None,
        pad_token_id: None,
    };
}

impl TextConfig {
    /// Names and numbers.
    pub fn sizes(&self) -> TextSizes {
        self.family().sizes()
    }

    /// Changes the number of rows of the token tables.
    pub fn set_vocab_size(&mut self, rows: usize) {
        self.family_mut().set_vocab_size(rows);
    }

    /// Registers a decoder layer under `<name>.`.
    pub fn block(&self, specs: &mut ParameterSpecs, name: &str) -> TransformerBlock {
        self.family().block(BlockParts { specs, name, width: self.hidden_size() })
    }

    /// Sets the keys of a `text_config` that only this family has.
    pub fn write(&self, map: &mut Map<String, Value>) {
        self.family().write(map);
    }

    /// What the original, or Transformers, writes around the sizes of a new model.
    pub fn template(&self, tied: bool) -> Value {
        self.family().template(tied)
    }

    /// Width of the keys of a layer, and of its values.
    pub fn key_width(&self) -> usize {
        let (heads, size) = self.key_heads();
        heads * size
    }

    /// Elements that a decoder layer keeps for the backward pass, for each row of text.
    pub fn saved_elements_per_row(&self) -> usize {
        self.block(&mut ParameterSpecs::default(), "").saved_elements_per_row(self.hidden_size())
    }

    /// Parameters besides the token tables.
    pub(crate) fn parameter_count(&self) -> u128 {
        let (mut layer, mut rest) = (ParameterSpecs::default(), ParameterSpecs::default());
        self.block(&mut layer, "");
        let tokens = self.vocab_size() as u128 * self.embedding_width() as u128;
        TextEmbedding::new(&mut rest, "", self);
        TextOutput::new(&mut rest, "", self);
        elements(&layer) * self.num_hidden_layers() as u128 + elements(&rest) - tokens
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        self.family().validate()?;
        let sizes = self.sizes();
        let ids = [
            ("text.bos_token_id", sizes.bos_token_id),
            ("text.eos_token_id", sizes.eos_token_id),
            ("text.pad_token_id", sizes.pad_token_id),
        ];
        let vocab_size = sizes.vocab_size;
        for (name, id) in ids {
            if let Some(value) = id.filter(|&id| id as usize >= vocab_size) {
                return Err(ConfigError::TokenOutside { name, value, vocab_size });
            }
        }
        Ok(())
    }
}

fn elements(specs: &ParameterSpecs) -> u128 {
    specs.iter().map(|spec| spec.shape.iter().map(|&size| size as u128).product::<u128>()).sum()
}

/// Methods that give one of the sizes.
macro_rules! accessors {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        impl TextConfig {
            $($(#[$doc])* pub fn $name(&self) -> $type {
                self.sizes().$name
            })*
        }
    };
}

accessors! {
    /// Names of the parts.
    names: TextNames,
    /// Width of the residual stream.
    hidden_size: usize,
    /// Number of decoder layers.
    num_hidden_layers: usize,
    /// Query heads per layer.
    num_attention_heads: usize,
    /// Heads of the keys of a layer, and of its values, and their features.
    key_heads: (usize, usize),
    /// Inner width of a layer's feed-forward part.
    feed_forward_width: usize,
    /// Rows of the token tables.
    vocab_size: usize,
    /// Width of the token tables.
    embedding_width: usize,
    /// Longest sequence the model was trained for.
    max_positions: usize,
    /// Number of learned positions; `None` where positions are computed.
    learned_positions: Option<usize>,
    /// Whether the class knows one table for input and output only.
    must_be_tied: bool,
    /// Whether the original trains the output table along with the input embedding.
    trains_output_table: bool,
    /// Beginning-of-sequence token.
    bos_token_id: Option<u32>,
    /// End-of-sequence token of the language model.
    eos_token_id: Option<u32>,
    /// Token that fills finished rows in generation.
    pad_token_id: Option<u32>,
}
