//! Image towers that are no CLIP vision transformer, told by the configuration, or else by names that only they have.

use std::fmt;

use serde_json::{Map, Value};

use crate::facts::part::language_name;

/// A tower that no Otter has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherTower(&'static str);

/// First words of a `model_type`, and the name.
const TYPES: &[(&str, &str)] = &[
    ("siglip2", "SigLIP 2"),
    ("siglip", "SigLIP"),
    ("dinov3", "DINOv3"),
    ("dinov2", "DINOv2"),
    ("vitdet", "ViTDet"),
    ("vit", "ViT"),
    ("deit", "DeiT"),
    ("beit", "BEiT"),
    ("swin", "Swin"),
    ("swinv2", "Swin"),
    ("convnext", "ConvNeXt"),
    ("convnextv2", "ConvNeXt"),
    ("resnet", "ResNet"),
    ("aimv2", "AIMv2"),
    ("intern_vit", "InternViT"),
    ("internvl_vision", "InternViT"),
    ("idefics2_vision", "SigLIP of Idefics"),
    ("idefics3_vision", "SigLIP of Idefics"),
    ("pixtral", "Pixtral"),
    ("sam_vision", "SAM"),
    ("blip_vision", "BLIP"),
    ("blip_2_vision", "EVA of BLIP-2"),
    ("chinese_clip", "Chinese CLIP"),
    ("altclip", "AltCLIP"),
];

/// What may stand in front of the names of a tower.
const WRAPPERS: &[&str] = &["vision_model.", "vit.", "dinov2."];

impl OtherTower {
    /// The tower that a `model_type` names.
    pub(crate) fn of_type(model_type: &str) -> Option<Self> {
        // Whole words: `vits` makes speech.
        let begins = |start: &str| {
            model_type.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        };
        TYPES.iter().find(|(start, _)| begins(start)).map(|(_, name)| Self(name))
    }

    /// The tower of a checkpoint that is nothing else.
    pub(crate) fn of(config: Option<&Map<String, Value>>, names: &[&str]) -> Option<Self> {
        let declared = config.and_then(|config| config.get("model_type")?.as_str()).and_then(Self::of_type);
        if declared.is_some() {
            return declared;
        }
        // A model that sees and writes is none, whatever its tower is.
        let has_text = config.is_some_and(|config| config.contains_key("text_config"));
        let is_text = |name: &&str| name.contains("language_model.") || language_name(name).is_some();
        if has_text || names.iter().any(is_text) {
            return None;
        }
        let own: Vec<&str> = names
            .iter()
            .map(|name| WRAPPERS.iter().find_map(|wrapper| name.strip_prefix(wrapper)).unwrap_or(name))
            .collect();
        let any = |start: &str| own.iter().any(|name| name.starts_with(start));
        let scaled =
            |name: &&str| name.starts_with("encoder.layer.") && name.contains(".layer_scale1.lambda1");
        if any("embeddings.class_embedding") || any("visual.") {
            None
        } else if any("embeddings.mask_token") || own.iter().any(scaled) {
            Some(Self("DINOv2"))
        } else if any("embeddings.cls_token") || any("blocks.0.attn.qkv.") && any("patch_embed.") {
            Some(Self("ViT"))
        } else if any("embeddings.patch_embedding.bias") {
            Some(Self("SigLIP"))
        } else {
            None
        }
    }
}

impl fmt::Display for OtherTower {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}
