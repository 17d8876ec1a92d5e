//! Settings that change the numbers of other models, or of later releases of these. Nothing here computes them, so that one
//! that is active is refused by its name rather than passed over.

use serde_json::Value;

use super::{Result, Section};

/// The values of a setting that leave the numbers as they are; null always does.
enum Neutral {
    /// False, 0, empty.
    Off,
    /// 1.
    One,
    /// One of these names.
    Names(&'static [&'static str]),
}

use Neutral::{Names, Off, One};

const FOREIGN: &[(&str, Neutral)] = &[
    // Scales.
    ("attention_multiplier", Off),
    ("attention_in_multiplier", One),
    ("attention_out_multiplier", One),
    ("embedding_multiplier", One),
    ("embedding_scale", One),
    ("key_multiplier", One),
    ("lm_head_multiplier", One),
    ("logit_scale", One),
    ("logits_scaling", One),
    ("output_multiplier_scale", One),
    ("query_pre_attn_scalar", Off),
    ("residual_multiplier", One),
    ("residual_scale", One),
    ("scale_attn_by_inverse_layer_idx", Off),
    ("scale_depth", Off),
    ("scale_emb", One),
    ("scale_embedding", Off),
    ("softmax_scale", Off),
    ("attn_logit_softcapping", Off),
    ("final_logit_softcapping", Off),
    // Norms, biases, activations.
    ("attention_out_bias", Off),
    ("clip_qkv", Off),
    ("hidden_activation", Names(&["silu", "swish"])),
    ("lm_head_bias", Off),
    ("qk_gn", Off),
    ("qk_layernorm", Off),
    ("qk_norm", Off),
    ("qkv_bias", Off),
    ("use_bias", Off),
    ("use_post_norm", Off),
    ("use_qk_norm", Off),
    ("use_qkv_bias", Off),
    // Positions and masks.
    ("attention_chunk_size", Off),
    ("attn_temperature_tuning", Off),
    ("bidirectional", Off),
    ("partial_rotary_factor", One),
    ("position_embedding_type", Names(&["rope", "rotary", "absolute"])),
    ("rotary_pct", One),
    ("rope", Off),
    ("use_alibi", Off),
    ("use_bidirectional_attention", Off),
    ("use_sliding_window", Off),
    ("is_causal", One),
    // Another structure.
    ("add_cross_attention", Off),
    ("block_overrides", Off),
    ("is_encoder_decoder", Off),
    ("kv_dim", Off),
    ("layer_replication", Off),
    ("moe_num_experts", Off),
    ("n_routed_experts", Off),
    ("num_experts", Off),
    ("num_local_experts", Off),
    ("pruned_heads", Off),
    ("reuse_kv_layer_idx", Off),
];

/// Settings with a rule of their own.
const WINDOW: &str = "sliding_window";
const LAYER_TYPES: &str = "layer_types";
const NO_ROPE: &str = "no_rope_layers";

/// Names of all of them, which are known wherever they are off.
pub fn names() -> Vec<&'static str> {
    FOREIGN.iter().map(|(name, _)| *name).chain([WINDOW, LAYER_TYPES, NO_ROPE]).collect()
}

/// Refuses active settings; `own` are the keys that the model reads itself.
///
/// # Errors
/// For the first setting that would change numbers.
pub fn refuse(section: &Section<'_>, own: &[&str]) -> Result<()> {
    for (key, neutral) in FOREIGN.iter().filter(|(key, _)| !own.contains(key)) {
        let Some(value) = section.value(key) else { continue };
        match neutral {
            Off => section.must_be_inactive(
                key,
                "this changes numbers and is not computed here; only off is supported",
            )?,
            One if value.as_bool() != Some(true) && value.as_f64() != Some(1.0) => {
                return Err(section.wrong(
                    key,
                    value,
                    "this changes numbers and is not computed here; only 1 is supported",
                ));
            }
            Names(names) if !value.as_str().is_some_and(|name| names.contains(&name)) => {
                return Err(section.wrong(key, value, &format!("supported: {}", names.join(", "))));
            }
            One | Names(_) => {}
        }
    }
    refuse_window(section)?;
    let all = |key: &str, test: &dyn Fn(&Value) -> bool, expected: &str| match section.value(key) {
        Some(Value::Array(layers)) if layers.iter().all(test) => Ok(()),
        None => Ok(()),
        Some(other) => Err(section.wrong(key, other, expected)),
    };
    all(LAYER_TYPES, &|kind| kind == "full_attention", "only full_attention is supported, in every layer")?;
    all(NO_ROPE, &|turned| turned.as_u64() == Some(1), "only layers with rotary positions (1) are supported")
}

/// A window as long as the context hides nothing.
fn refuse_window(section: &Section<'_>) -> Result<()> {
    let Some(value) = section.value(WINDOW) else { return Ok(()) };
    let off = section.flag("use_sliding_window")? == Some(false);
    let context = section.size("max_position_embeddings")?;
    let whole = section.size(WINDOW)?.zip(context).is_some_and(|(window, context)| window >= context);
    if off || whole {
        return Ok(());
    }
    Err(section.wrong(WINDOW, value, "only attention to the whole text is supported (null)"))
}
