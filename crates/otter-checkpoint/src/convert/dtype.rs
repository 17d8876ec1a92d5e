//! In which type each tensor is written.

use crate::convert::plan::PlannedTensor;
use crate::directory::save;
use otter_formats::StoredDType;
use otter_nn::DType;

/// Kinds of tensors that may stay 32-bit floats when everything else goes to low precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepF32 {
    /// Weights and biases of every layer norm and RMS norm.
    Norms,
    /// `attn_gate` and `ff_gate`.
    Gates,
}

impl KeepF32 {
    /// Reads `norms` or `gates`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "norms" => Some(Self::Norms),
            "gates" => Some(Self::Gates),
            _ => None,
        }
    }

    /// Whether the tensor is of this kind.
    pub fn applies_to(self, name: &str) -> bool {
        match self {
            Self::Gates => name.ends_with(".attn_gate") || name.ends_with(".ff_gate"),
            Self::Norms => {
                let mut components = name.split('.');
                let named = components.any(|c| {
                    c.contains("norm") || c.contains("layrnorm") || c.starts_with("ln_") || c.ends_with("_ln")
                });
                let bridge = name.starts_with("perceiver.") || name.contains(".gated_cross_attn_layer.");
                named || bridge && name.contains(".feed_forward.0.")
            }
        }
    }
}

/// Gives every float tensor the type asked for, except the kinds to keep; integers stay.
pub(super) fn assign(tensors: &mut [PlannedTensor], dtype: Option<DType>, keep: &[KeepF32]) {
    let Some(dtype) = dtype else { return };
    for tensor in tensors.iter_mut().filter(|tensor| is_float(tensor.dtype)) {
        let kept = keep.iter().any(|kind| kind.applies_to(&tensor.name));
        tensor.dtype = if kept { StoredDType::F32 } else { dtype.into() };
    }
}

/// The float type of most bytes, as `torch_dtype` names it.
pub(super) fn torch_name(tensors: &[PlannedTensor]) -> &'static str {
    let bytes = |dtype: StoredDType| -> u64 {
        tensors.iter().filter(|t| t.dtype == dtype).map(PlannedTensor::bytes).sum()
    };
    // Of equal ones the last is taken.
    let types = [StoredDType::F64, StoredDType::F16, StoredDType::Bf16, StoredDType::F32];
    save::torch_name(types.into_iter().max_by_key(|&dtype| bytes(dtype)).unwrap_or(StoredDType::F32))
}

fn is_float(dtype: StoredDType) -> bool {
    matches!(dtype, StoredDType::F32 | StoredDType::F16 | StoredDType::Bf16 | StoredDType::F64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_and_gates_are_known_by_name() {
        for name in [
            "lang_encoder.transformer.blocks.0.decoder_layer.norm_1.weight",
            "lang_encoder.transformer.blocks.0.decoder_layer.attn.q_ln.weight",
            "lang_encoder.transformer.ln_f.weight",
            "lang_encoder.model.layers.3.decoder_layer.post_attention_layernorm.weight",
            "lang_encoder.model.layers.3.gated_cross_attn_layer.feed_forward.0.bias",
            "vision_encoder.vision_model.pre_layrnorm.weight",
            "perceiver.layers.0.feed_forward.0.weight",
        ] {
            assert!(KeepF32::Norms.applies_to(name) && !KeepF32::Gates.applies_to(name), "{name}");
        }
        let gate = "lang_encoder.model.layers.3.gated_cross_attn_layer.ff_gate";
        assert!(KeepF32::Gates.applies_to(gate) && !KeepF32::Norms.applies_to(gate));
        let matrix = "lang_encoder.model.layers.3.gated_cross_attn_layer.feed_forward.1.weight";
        assert!(!KeepF32::Gates.applies_to(matrix) && !KeepF32::Norms.applies_to(matrix));
    }
}
