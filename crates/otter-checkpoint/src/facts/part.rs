//! Which part of the model a tensor belongs to, told by its name alone, whichever language model and writer it is from.

use std::fmt;

/// First components of the names of an image tower; Transformers 5 writes those of CLIP and SigLIP without `vision_model.`.
const TOWERS: [&str; 13] = [
    "vision_encoder.",
    "visual.",
    "vision_model.",
    "embeddings.class_embedding",
    "embeddings.cls_token",
    "embeddings.mask_token",
    "embeddings.patch_embedding",
    "embeddings.position_embedding.",
    TOWER_LAYERS,
    "pre_layrnorm.",
    "post_layernorm.",
    "vit.",
    "dinov2.",
];
/// First components of the layers of a tower without `vision_model.`.
const TOWER_LAYERS: &str = "encoder.layers.";
/// Last components of input tables.
const INPUT_TABLES: [&str; 4] =
    ["embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight"];
/// Last components of output tables.
const OUTPUT_TABLES: [&str; 2] = ["lm_head.weight", "embed_out.weight"];

/// Part of the model that a tensor belongs to, told by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// CLIP image tower.
    Vision,
    /// Perceiver resampler.
    Perceiver,
    /// Gated cross-attention blocks.
    CrossAttention,
    /// Decoder layers and final norm.
    LanguageModel,
    /// Input and output tables.
    Embeddings,
    /// Anything else.
    Other,
}

impl Part {
    /// All parts in the order in which data flows through them.
    pub const ALL: [Self; 6] = [
        Self::Vision,
        Self::Perceiver,
        Self::CrossAttention,
        Self::LanguageModel,
        Self::Embeddings,
        Self::Other,
    ];

    /// As [`Part::of`] in a checkpoint that is an image tower or not: encoders of other models have the names of a tower's
    /// layers too.
    pub(crate) fn of_checkpoint(name: &str, tower: bool) -> Self {
        if !tower && name.starts_with(TOWER_LAYERS) { Self::Other } else { Self::of(name) }
    }

    /// The part that a tensor of this name belongs to.
    pub fn of(name: &str) -> Self {
        if TOWERS.iter().any(|start| name.starts_with(start)) {
            Self::Vision
        } else if name.starts_with("perceiver.") {
            Self::Perceiver
        } else if name.contains(".gated_cross_attn_layer.") {
            Self::CrossAttention
        } else if is_input_table(name) || is_output_table(name) {
            Self::Embeddings
        } else if language_name(name).is_some() {
            Self::LanguageModel
        } else {
            Self::Other
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Vision => "vision encoder",
            Self::Perceiver => "Perceiver resampler",
            Self::CrossAttention => "gated cross-attention",
            Self::LanguageModel => "language model",
            Self::Embeddings => "embeddings",
            Self::Other => "other",
        })
    }
}

/// Whether the name is that of the input table of a language model.
pub(crate) fn is_input_table(name: &str) -> bool {
    language_name(name).is_some() && has_end(name, &INPUT_TABLES)
}

/// Whether the name is that of the output table.
pub(crate) fn is_output_table(name: &str) -> bool {
    language_name(name).is_some() && has_end(name, &OUTPUT_TABLES)
}

fn has_end(name: &str, ends: &[&str]) -> bool {
    ends.iter().any(|end| name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// The name inside the language model: what follows `lang_encoder.`, or the whole name in a plain language model.
pub(crate) fn language_name(name: &str) -> Option<&str> {
    let inner = name.strip_prefix("lang_encoder.");
    let plain = ["model.", "transformer.", "gpt_neox.", "lm_head.", "embed_out."];
    inner.or_else(|| plain.iter().any(|start| name.starts_with(start)).then_some(name))
}

/// The number of the decoder layer that a name inside the language model belongs to, and the path before it.
pub(crate) fn layer_of(name: &str) -> Option<(&str, usize)> {
    ["layers.", "blocks.", ".h."].iter().find_map(|list| {
        let start = name.find(list)? + list.len();
        let digits = name[start..].split('.').next()?;
        Some((&name[..start], digits.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_language_model_find_their_part() {
        for (name, part) in [
            ("vision_encoder.vision_model.pre_layrnorm.weight", Part::Vision),
            ("visual.conv1.weight", Part::Vision),
            ("embeddings.class_embedding", Part::Vision),
            ("encoder.layers.0.self_attn.q_proj.weight", Part::Vision),
            ("perceiver.latents", Part::Perceiver),
            ("lang_encoder.transformer.blocks.3.gated_cross_attn_layer.ff.1.weight", Part::CrossAttention),
            ("lang_encoder.model.embed_tokens.weight", Part::Embeddings),
            ("lang_encoder.transformer.wte.weight", Part::Embeddings),
            ("lang_encoder.gpt_neox.embed_in.weight", Part::Embeddings),
            ("embed_out.weight", Part::Embeddings),
            ("lang_encoder.lm_head.weight", Part::Embeddings),
            ("model.decoder.embed_positions.weight", Part::LanguageModel),
            ("lang_encoder.transformer.h.0.decoder_layer.mlp.dense_h_to_4h.weight", Part::LanguageModel),
            ("optimizer.step", Part::Other),
        ] {
            assert_eq!(Part::of(name), part, "{name}");
        }
        assert_eq!(
            layer_of("lang_encoder.transformer.blocks.12.norm_1.weight"),
            Some(("lang_encoder.transformer.blocks.", 12))
        );
        assert_eq!(layer_of("transformer.h.3.x"), Some(("transformer.h.", 3)));
        assert_eq!(layer_of("lang_encoder.model.norm.weight"), None);
    }
}
