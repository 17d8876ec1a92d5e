//! Image towers that are no CLIP vision transformer, told by the configuration, or else by names that only they have.

use std::fmt;

use serde_json::{Map, Value};

/// A tower that no Otter has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherTower(&'static str);

/// How `model_type` begins, and the name. Longer ones stand before those that they begin with.
const TYPES: &[(&str, &str)] = &[
    ("siglip2", "SigLIP 2"),
    ("siglip", "SigLIP"),
    ("dinov3", "DINOv3"),
    ("dinov2", "DINOv2"),
    ("vitdet", "ViTDet"),
    ("vit_", "ViT"),
    ("vit", "ViT"),
    ("deit", "DeiT"),
    ("beit", "BEiT"),
    ("swin", "Swin"),
    ("convnext", "ConvNeXt"),
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

impl OtherTower {
    /// The tower that a `model_type` names.
    pub(super) fn of_type(model_type: &str) -> Option<Self> {
        TYPES.iter().find(|(start, _)| model_type.starts_with(start)).map(|(_, name)| Self(name))
    }

    /// The tower of a checkpoint that is nothing else.
    pub(crate) fn of(config: Option<&Map<String, Value>>, names: &[&str]) -> Option<Self> {
        let declared = config.and_then(|config| config.get("model_type")?.as_str()).and_then(Self::of_type);
        if declared.is_some() {
            return declared;
        }
        let any = |part: &str| names.iter().any(|name| name.contains(part));
        if any("embeddings.class_embedding") || any("visual.") {
            None
        } else if any("embeddings.mask_token") || any("layer_scale1.lambda1") {
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
