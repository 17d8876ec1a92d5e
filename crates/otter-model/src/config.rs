//! Sizes of every part of an Otter model: CLIP tower, Perceiver resampler, gated cross-attention,
//! language model. Plain data, checked by `validate` before anything is allocated from it.
//! Reading and writing `config.json` is the checkpoint crate's job.

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use crate::text::config::{HiddenActivation, TextConfig};
pub use crate::text::families::{
    FalconBlock, FalconConfig, GptNeoxConfig, LlamaConfig, MptConfig, MptStyle, NormKind, OptConfig,
    alibi_slopes,
};
pub use crate::text::rope::{RopeConfig, RopeScaling};

/// No width, head count or table in a real model comes near this; a larger number is a damaged file.
pub(crate) const LARGEST_WIDTH: usize = 1 << 20;
/// Upper bound of layer counts.
pub(crate) const LARGEST_DEPTH: usize = 4096;
/// Upper bound of table lengths (vocabulary rows, positions, frames, media).
pub(crate) const LARGEST_TABLE: usize = 1 << 24;
/// Upper bound of all parameters together: 2^42, four hundred times the largest model supported.
const LARGEST_MODEL: u128 = 1 << 42;

/// A size that cannot describe a model.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ConfigError {
    /// A size is zero.
    #[error("{name} is 0; it must be at least 1")]
    Zero {
        /// Part and field, e.g. `text.hidden_size`.
        name: &'static str,
    },
    /// A size is larger than any real model has.
    #[error("{name} is {value}; the largest value accepted is {limit}, so the file is probably damaged")]
    TooLarge {
        /// Part and field.
        name: &'static str,
        /// What was found.
        value: usize,
        /// The largest accepted value.
        limit: usize,
    },
    /// One size must divide another.
    #[error("{name} is {value}, which {divisor_name} = {divisor} does not divide")]
    NotDivisible {
        /// Part and field of the dividend.
        name: &'static str,
        /// The dividend.
        value: usize,
        /// Part and field of the divisor.
        divisor_name: &'static str,
        /// The divisor.
        divisor: usize,
    },
    /// Rotary positions turn pairs of features within a head.
    #[error(
        "rotary positions turn {value} features of text heads that are {head} wide (hidden_size / num_attention_heads, \
         unless head_dim says otherwise); the number must be even and at most the width"
    )]
    OddHead {
        /// Features that turn.
        value: usize,
        /// Width of a head.
        head: usize,
    },
    /// A real-valued setting is below what makes sense.
    #[error("{name} is {value}; it must be a finite number of at least {smallest}")]
    TooSmall {
        /// Part and field.
        name: &'static str,
        /// What was found.
        value: f64,
        /// The smallest accepted value.
        smallest: f64,
    },
    /// A real-valued setting is not a positive finite number.
    #[error("{name} is {value}; it must be a positive finite number")]
    NotPositive {
        /// Part and field.
        name: &'static str,
        /// What was found.
        value: f64,
    },
    /// A special token lies outside the vocabulary.
    #[error("{name} is {value}, but the vocabulary has only {vocab_size} rows")]
    TokenOutside {
        /// Part and field.
        name: &'static str,
        /// The id found.
        value: u32,
        /// `text.vocab_size`.
        vocab_size: usize,
    },
    /// The number of input channels is fixed.
    #[error("vision.num_channels is {value}; only 3 (RGB) is supported")]
    Channels {
        /// What was found.
        value: usize,
    },
    /// The language model has one table for input and output.
    #[error(
        "tie_word_embeddings is false; MPT models have one table for input and output, so it must be true"
    )]
    MustBeTied,
    /// The sizes are fine one by one but not together.
    #[error("the sizes describe a model of {value} parameters; the largest accepted is {limit}")]
    TooManyParameters {
        /// Number of parameters described.
        value: u128,
        /// The bound.
        limit: u128,
    },
}

/// CLIP image tower (spec: hidden activation is always quick-GELU, `x * sigmoid(1.702 x)`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VisionConfig {
    /// Width of the tower, and of the Perceiver resampler behind it.
    pub hidden_size: usize,
    /// Inner width of the feed-forward part.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Attention heads per block.
    pub num_attention_heads: usize,
    /// Side of the square input image in pixels.
    pub image_size: usize,
    /// Side of a square patch in pixels.
    pub patch_size: usize,
    /// Input channels, always 3.
    pub num_channels: usize,
    /// Epsilon of every layer norm in the tower.
    pub layer_norm_eps: f64,
}

impl VisionConfig {
    /// OpenAI's CLIP ViT-L/14 at 224 pixels.
    pub fn clip_vit_l14() -> Self {
        Self {
            hidden_size: 1024,
            intermediate_size: 4096,
            num_hidden_layers: 24,
            num_attention_heads: 16,
            image_size: 224,
            patch_size: 14,
            num_channels: 3,
            layer_norm_eps: 1e-5,
        }
    }

    /// Patches of one image, without the class token.
    pub fn num_patches(&self) -> usize {
        let side = self.image_size / self.patch_size.max(1);
        side * side
    }

    /// Rows of the position table: the class token and every patch.
    pub fn num_positions(&self) -> usize {
        self.num_patches() + 1
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads.max(1)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        bounded("vision.hidden_size", self.hidden_size, LARGEST_WIDTH)?;
        bounded("vision.intermediate_size", self.intermediate_size, LARGEST_WIDTH)?;
        bounded("vision.num_hidden_layers", self.num_hidden_layers, LARGEST_DEPTH)?;
        bounded("vision.num_attention_heads", self.num_attention_heads, LARGEST_WIDTH)?;
        bounded("vision.image_size", self.image_size, 1 << 14)?;
        bounded("vision.patch_size", self.patch_size, 1 << 14)?;
        if self.num_channels != 3 {
            return Err(ConfigError::Channels { value: self.num_channels });
        }
        positive("vision.layer_norm_eps", self.layer_norm_eps)?;
        divides(
            ("vision.hidden_size", self.hidden_size),
            ("vision.num_attention_heads", self.num_attention_heads),
        )?;
        divides(("vision.image_size", self.image_size), ("vision.patch_size", self.patch_size))
    }
}

/// Perceiver resampler. Its width is the vision tower's `hidden_size`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PerceiverConfig {
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads per block.
    pub heads: usize,
    /// Width of one head.
    pub dim_head: usize,
    /// Learned latents, the number of visual tokens per media item.
    pub num_latents: usize,
    /// Inner width of the feed-forward part, as a multiple of the width.
    pub ff_mult: usize,
    /// Rows of the frame embedding table; `None` for models without one.
    pub max_num_frames: Option<usize>,
    /// Rows of the media-time embedding table; `None` for models without one.
    pub max_num_media: Option<usize>,
}

impl Default for PerceiverConfig {
    /// The sizes every published model has.
    fn default() -> Self {
        Self {
            depth: 6,
            heads: 8,
            dim_head: 64,
            num_latents: 64,
            ff_mult: 4,
            max_num_frames: None,
            max_num_media: None,
        }
    }
}

impl PerceiverConfig {
    /// Width of queries, keys and values: all heads together.
    pub fn inner_dim(&self) -> usize {
        self.heads * self.dim_head
    }

    fn validate(&self) -> Result<(), ConfigError> {
        bounded("perceiver.depth", self.depth, LARGEST_DEPTH)?;
        bounded("perceiver.heads", self.heads, 1 << 12)?;
        bounded("perceiver.dim_head", self.dim_head, 1 << 14)?;
        bounded("perceiver.num_latents", self.num_latents, LARGEST_WIDTH)?;
        bounded("perceiver.ff_mult", self.ff_mult, 256)?;
        if let Some(frames) = self.max_num_frames {
            bounded("perceiver.max_num_frames", frames, LARGEST_TABLE)?;
        }
        if let Some(media) = self.max_num_media {
            bounded("perceiver.max_num_media", media, LARGEST_TABLE)?;
        }
        Ok(())
    }
}

/// Gated cross-attention blocks between vision and language.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CrossAttentionConfig {
    /// Decoder layer `i` carries a block when `(i + 1) % every_n_layers == 0`.
    pub every_n_layers: usize,
    /// Attention heads per block.
    pub heads: usize,
    /// Width of one head.
    pub dim_head: usize,
    /// Inner width of the feed-forward part, as a multiple of the language width.
    pub ff_mult: usize,
}

impl Default for CrossAttentionConfig {
    /// The sizes every published model has.
    fn default() -> Self {
        Self { every_n_layers: 4, heads: 8, dim_head: 64, ff_mult: 4 }
    }
}

impl CrossAttentionConfig {
    /// Width of queries, keys and values: all heads together.
    pub fn inner_dim(&self) -> usize {
        self.heads * self.dim_head
    }

    /// Whether decoder layer `layer` (from 0) carries a block.
    pub fn has_block(&self, layer: usize) -> bool {
        self.every_n_layers != 0 && (layer + 1).is_multiple_of(self.every_n_layers)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        bounded("cross_attention.every_n_layers", self.every_n_layers, LARGEST_DEPTH)?;
        bounded("cross_attention.heads", self.heads, 1 << 12)?;
        bounded("cross_attention.dim_head", self.dim_head, 1 << 14)?;
        bounded("cross_attention.ff_mult", self.ff_mult, 256)
    }
}

/// A whole Otter model and the rule that says which of its parts are trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OtterConfig {
    /// CLIP image tower.
    pub vision: VisionConfig,
    /// Perceiver resampler.
    pub perceiver: PerceiverConfig,
    /// Gated cross-attention blocks.
    pub cross_attention: CrossAttentionConfig,
    /// Language model.
    pub text: TextConfig,
    /// Whether input and output tables are one tensor; false for every published LLaMA-based Otter, always true for MPT.
    pub tie_word_embeddings: bool,
    /// Train the image tower too.
    pub train_vision_encoder: bool,
    /// Train the whole language model too.
    pub train_lang_encoder: bool,
    /// Train everything.
    pub train_full_model: bool,
}

impl OtterConfig {
    /// "Otter 9B": CLIP ViT-L/14 with LLaMA 7B and the four added tokens.
    pub fn otter_9b() -> Self {
        Self {
            vision: VisionConfig::clip_vit_l14(),
            perceiver: PerceiverConfig::default(),
            cross_attention: CrossAttentionConfig::default(),
            text: LlamaConfig::llama_7b(32004).into(),
            tie_word_embeddings: false,
            train_vision_encoder: false,
            train_lang_encoder: false,
            train_full_model: false,
        }
    }

    /// "Otter MPT-7B": CLIP ViT-L/14 with MPT 7B, whose padded table has room for the added tokens.
    pub fn otter_mpt7b() -> Self {
        Self { text: MptConfig::mpt_7b().into(), tie_word_embeddings: true, ..Self::otter_9b() }
    }

    /// "Otter MPT-1B": CLIP ViT-L/14 with MPT-1B RedPajama and cross-attention before every layer.
    pub fn otter_mpt1b() -> Self {
        let mut config = Self { text: MptConfig::mpt_1b_redpajama().into(), ..Self::otter_mpt7b() };
        config.cross_attention.every_n_layers = 1;
        config
    }

    /// "Otter MPT-30B".
    pub fn otter_mpt30b() -> Self {
        let mut config = Self { text: MptConfig::mpt_30b().into(), ..Self::otter_mpt7b() };
        config.cross_attention.every_n_layers = 7;
        config
    }

    /// State-dict key of the input embedding table.
    pub fn input_table(&self) -> String {
        format!("lang_encoder.{}.weight", self.text.names().embedding)
    }

    /// State-dict key of the output table, stored unless it is tied to the input table.
    pub fn output_table(&self) -> String {
        format!("lang_encoder.{}.weight", self.text.names().output)
    }

    /// Indices of the decoder layers that carry a gated cross-attention block.
    pub fn cross_attention_layers(&self) -> Vec<usize> {
        (0..self.text.num_hidden_layers()).filter(|&layer| self.cross_attention.has_block(layer)).collect()
    }

    /// Number of parameters the sizes describe; a tied table counts once. Call on validated sizes.
    pub fn parameter_count(&self) -> u128 {
        let wide = |value: usize| value as u128;
        let (v, vi) = (wide(self.vision.hidden_size), wide(self.vision.intermediate_size));
        let patch = wide(self.vision.patch_size);
        let vision = v * 3 * patch * patch
            + v
            + v * wide(self.vision.num_positions())
            + 4 * v
            + wide(self.vision.num_hidden_layers) * (4 * (v * v + v) + 4 * v + 2 * v * vi + vi + v);
        let inner = wide(self.perceiver.heads) * wide(self.perceiver.dim_head);
        let tables =
            wide(self.perceiver.max_num_frames.unwrap_or(0) + self.perceiver.max_num_media.unwrap_or(0));
        let perceiver = v * (wide(self.perceiver.num_latents) + tables)
            + 2 * v
            + wide(self.perceiver.depth) * (6 * v + 4 * inner * v + 2 * wide(self.perceiver.ff_mult) * v * v);
        let d = wide(self.text.hidden_size());
        let inner = wide(self.cross_attention.heads) * wide(self.cross_attention.dim_head);
        let block =
            2 + 4 * d + 2 * inner * d + 2 * inner * v + 2 * wide(self.cross_attention.ff_mult) * d * d;
        let blocks = wide(self.text.num_hidden_layers() / self.cross_attention.every_n_layers.max(1)) * block;
        let tables = if self.tie_word_embeddings { 1 } else { 2 };
        let embeddings = tables * wide(self.text.vocab_size()) * wide(self.text.embedding_width());
        vision + perceiver + blocks + self.text.parameter_count() + embeddings
    }

    /// Checks that every size is possible and none is absurd.
    ///
    /// # Errors
    /// The first field that is zero, too large, or does not fit another.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.vision.validate()?;
        self.perceiver.validate()?;
        self.cross_attention.validate()?;
        self.text.validate()?;
        if self.text.must_be_tied() && !self.tie_word_embeddings {
            return Err(ConfigError::MustBeTied);
        }
        let value = self.parameter_count();
        if value > LARGEST_MODEL {
            return Err(ConfigError::TooManyParameters { value, limit: LARGEST_MODEL });
        }
        Ok(())
    }
}

pub(crate) fn bounded(name: &'static str, value: usize, limit: usize) -> Result<(), ConfigError> {
    if value == 0 {
        return Err(ConfigError::Zero { name });
    }
    if value > limit {
        return Err(ConfigError::TooLarge { name, value, limit });
    }
    Ok(())
}

pub(crate) fn positive(name: &'static str, value: f64) -> Result<(), ConfigError> {
    if value.is_finite() && value > 0.0 { Ok(()) } else { Err(ConfigError::NotPositive { name, value }) }
}

pub(crate) fn divides(
    dividend: (&'static str, usize),
    divisor: (&'static str, usize),
) -> Result<(), ConfigError> {
    if divisor.1 != 0 && dividend.1.is_multiple_of(divisor.1) {
        return Ok(());
    }
    Err(ConfigError::NotDivisible {
        name: dividend.0,
        value: dividend.1,
        divisor_name: divisor.0,
        divisor: divisor.1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts that the original's modules reported when built with these sizes.
    #[test]
    fn known_shapes_have_the_published_parameter_counts() {
        let mut config = OtterConfig::otter_9b();
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.parameter_count(), 8_220_463_120);
        assert_eq!(config.cross_attention_layers(), [3, 7, 11, 15, 19, 23, 27, 31]);
        config.text = LlamaConfig::llama2_13b(32000).into();
        config.cross_attention.every_n_layers = 8;
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.parameter_count(), 14_462_198_794);
        config.text = LlamaConfig::vicuna_33b(32000).into();
        config.cross_attention.every_n_layers = 4;
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.parameter_count(), 38_329_786_910);
        let frames = PerceiverConfig { max_num_frames: Some(128), ..PerceiverConfig::default() };
        let without = config.parameter_count();
        config.perceiver = frames;
        assert_eq!(config.parameter_count() - without, 63_150_080 - 63_019_008);
        assert_eq!(OtterConfig::otter_mpt7b().parameter_count(), 8_131_301_392);
        assert_eq!(OtterConfig::otter_mpt1b().parameter_count(), 2_558_642_224);
        assert_eq!(OtterConfig::otter_mpt30b().parameter_count(), 32_840_154_124);
        assert_eq!(OtterConfig::otter_mpt30b().cross_attention_layers(), [6, 13, 20, 27, 34, 41]);
        let falcon = OtterConfig { text: FalconConfig::falcon_7b().into(), ..OtterConfig::otter_mpt7b() };
        assert_eq!(falcon.parameter_count(), 8_655_145_872);
    }

    #[test]
    fn impossible_sizes_are_named() {
        let check = |change: fn(&mut OtterConfig)| {
            let mut config = OtterConfig::otter_9b();
            change(&mut config);
            config.validate().map_err(|error| error.to_string())
        };
        let llama = |change: fn(&mut LlamaConfig)| {
            let mut text = LlamaConfig::llama_7b(32004);
            change(&mut text);
            let config = OtterConfig { text: text.into(), ..OtterConfig::otter_9b() };
            config.validate().map_err(|error| error.to_string())
        };
        let zero = check(|config| config.cross_attention.every_n_layers = 0);
        assert!(zero.is_err_and(|text| text.contains("cross_attention.every_n_layers is 0")));
        let uneven = llama(|text| text.num_attention_heads = 31);
        assert!(uneven.is_err_and(|text| text.contains("text.num_attention_heads = 31 does not divide")));
        let odd = check(|config| config.vision.image_size = 225);
        assert!(odd.is_err_and(|text| text.contains("vision.image_size is 225")));
        let absurd = llama(|text| text.hidden_size = 1 << 40);
        assert!(absurd.is_err_and(|text| text.contains("text.hidden_size")));
        let together = llama(|text| {
            text.hidden_size = 1 << 20;
            text.intermediate_size = 1 << 20;
        });
        assert!(together.is_err_and(|text| text.contains("parameters")));
        let token = llama(|text| text.bos_token_id = 32004);
        assert!(token.is_err_and(|text| text.contains("only 32004 rows")));
        let epsilon = llama(|text| text.rms_norm_eps = f64::NAN);
        assert!(epsilon.is_err_and(|text| text.contains("text.rms_norm_eps")));
        let head = llama(|text| {
            text.hidden_size = 96;
            text.num_attention_heads = 32;
            text.num_key_value_heads = 32;
        });
        assert_eq!(head, Err(ConfigError::OddHead { value: 3, head: 3 }.to_string()));
        let untied = OtterConfig { tie_word_embeddings: false, ..OtterConfig::otter_mpt7b() };
        assert_eq!(untied.validate(), Err(ConfigError::MustBeTied));
    }
}
