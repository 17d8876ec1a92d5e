//! The small base model that plays the frozen, pre-trained part of an Otter: a CLIP-shaped tower that knows the toybox's
//! pictures, and a LLaMA-shaped language model that knows its language and can bind new words in text. Perceiver and
//! gated cross-attention are fresh, with gates at zero: the base sees nothing yet.

pub mod curriculum;
pub mod language;
pub mod vision;

use std::path::Path;

use crate::world::Vocabulary;
use otter_checkpoint::{CheckpointConfig, DType, SaveOptions, atomic, save_model};
use otter_model::Otter;
use otter_model::config::{CrossAttentionConfig, LlamaConfig, OtterConfig, PerceiverConfig, VisionConfig};
use otter_nn::{Device, Parameters};

use crate::quickstart::error::QuickstartError;
use language::{LanguageProgress, LanguageRecipe, TextBinding};
use vision::{VisionProgress, VisionRecipe};

/// Sizes of the toybox Otter: about 1.4 million parameters.
pub fn config() -> OtterConfig {
    OtterConfig {
        vision: VisionConfig {
            hidden_size: 64,
            intermediate_size: 256,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            image_size: 32,
            patch_size: 4,
            num_channels: 3,
            layer_norm_eps: 1e-5,
        },
        perceiver: PerceiverConfig {
            depth: 2,
            heads: 4,
            dim_head: 32,
            num_latents: 8,
            ff_mult: 4,
            max_num_frames: Some(2),
            max_num_media: None,
        },
        cross_attention: CrossAttentionConfig { every_n_layers: 1, heads: 4, dim_head: 32, ff_mult: 4 },
        text: LlamaConfig {
            hidden_size: 128,
            intermediate_size: 256,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            num_key_value_heads: 4,
            max_position_embeddings: 512,
            ..LlamaConfig::llama_7b(Vocabulary::new().len())
        }
        .into(),
        tie_word_embeddings: false,
        train_vision_encoder: false,
        train_lang_encoder: false,
        train_full_model: false,
    }
}

/// How the base is pre-trained.
#[derive(Clone, Debug, Default)]
pub struct BaseRecipe {
    /// The language model.
    pub language: LanguageRecipe,
    /// The vision tower.
    pub vision: VisionRecipe,
    /// Seed of the fresh Perceiver and cross-attention.
    pub seed: u64,
}

/// A step of the pre-training.
#[derive(Clone, Copy, Debug)]
pub enum BaseProgress {
    /// The vision tower learns.
    Vision(VisionProgress),
    /// The language model learns.
    Language(LanguageProgress),
}

/// Pre-trains the base and writes it as a checkpoint directory of 16-bit floats; returns how well the language model
/// binds held-out words in text.
///
/// # Errors
/// When the directory cannot be written.
pub fn pretrain(
    directory: &Path,
    recipe: &BaseRecipe,
    progress: &(dyn Fn(BaseProgress) + Sync),
) -> Result<TextBinding, QuickstartError> {
    let config = config();
    let (_, specs) = Otter::new(&config)?;
    // Before the work, so that a folder that cannot be written is known at once.
    let tokenizer = atomic::temporary_dir(&directory.with_extension("tokenizer"))?;
    Vocabulary::new().write(&tokenizer)?;
    let (tower, language) = rayon::join(
        || vision::pretrain(&config.vision, &recipe.vision, &mut |p| progress(BaseProgress::Vision(*p))),
        || language::pretrain(&config, &recipe.language, &mut |p| progress(BaseProgress::Language(*p))),
    );
    let (layers, language) = language?;
    let binding = language::evaluate_binding(&layers, &language, 400, 9);
    let mut parameters = Parameters::<f32>::initialize(&specs, recipe.seed, Device::Cpu);
    take(&mut parameters, &tower, vision::TOWER);
    take(&mut parameters, &language, "lang_encoder.");
    let options =
        SaveOptions { tokenizer_from: Some(&tokenizer), dtype: DType::F16, ..SaveOptions::default() };
    let saved = save_model(directory, &CheckpointConfig::new(config), &parameters, &options);
    let removed = std::fs::remove_dir_all(&tokenizer);
    saved?;
    removed.map_err(|source| QuickstartError::Io { path: tokenizer, source })?;
    Ok(binding)
}

/// Copies the parameters of `from` whose names start with `prefix`.
fn take(to: &mut Parameters<f32>, from: &Parameters<f32>, prefix: &str) {
    for parameter in from.iter().filter(|p| p.name.starts_with(prefix)) {
        if let Some(target) = to.by_name_mut(&parameter.name) {
            target.tensor = parameter.tensor.clone();
        }
    }
}
