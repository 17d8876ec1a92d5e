//! `text_config` of an MPT and of a MosaicGPT.

use serde_json::{Map, Value, json};

use super::{MptConfig, MptStyle, NormKind};
use crate::text::config_json::{KeyError, Section, foreign, pad_token, set};

/// Keys of the `text_config` of an MPT.
pub(super) const MPT_KEYS: &[&str] = &[
    "attn_config",
    "d_model",
    "emb_pdrop",
    "embedding_fraction",
    "expansion_ratio",
    "fc_type",
    "ffn_config",
    "hidden_size",
    "init_config",
    "init_config_defaults",
    "init_device",
    "layer_norm_epsilon",
    "learned_pos_emb",
    "logit_scale",
    "max_seq_len",
    "n_heads",
    "n_layers",
    "no_bias",
    "norm_eps",
    "norm_type",
    "quantization_config",
    "resid_pdrop",
    "tokenizer_name",
    "use_pad_tok_in_ffn",
    "verbose",
    "vocab_size",
];

/// Keys of its `attn_config`.
pub(super) const ATTENTION_KEYS: &[&str] = &[
    "alibi",
    "alibi_bias_max",
    "attn_impl",
    "attn_pdrop",
    "attn_type",
    "attn_uses_sequence_id",
    "clip_qkv",
    "fused_qkv",
    "kv_n_heads",
    "prefix_lm",
    "qk_ln",
    "rope_dail_config",
    "rope_hf_config",
    "rope_impl",
    "rope_theta",
    "sliding_window_size",
    "softmax_scale",
];

/// Keys of the `text_config` of a MosaicGPT.
pub(super) const MOSAIC_GPT_KEYS: &[&str] = &[
    "alibi",
    "alibi_bias_max",
    "attn_clip_qkv",
    "attn_impl",
    "attn_pdrop",
    "attn_qk_ln",
    "attn_uses_sequence_id",
    "d_model",
    "emb_init_std",
    "emb_init_uniform_lim",
    "emb_pdrop",
    "embedding_fraction",
    "fan_mode",
    "hidden_size",
    "init_device",
    "init_div_is_residual",
    "init_gain",
    "init_nonlinearity",
    "init_std",
    "logit_scale",
    "low_precision_layernorm",
    "max_seq_len",
    "mlp_ratio",
    "n_heads",
    "n_layers",
    "no_bias",
    "param_init_fn",
    "prefix_lm",
    "quantization_config",
    "resid_pdrop",
    "softmax_scale",
    "tokenizer_name",
    "verbose",
    "vocab_size",
];

/// Defaults are those of MosaicML's configuration class, or of Transformers'.
pub(super) fn read(
    text: &Section<'_>,
    transformers: bool,
    warnings: &mut Vec<String>,
) -> Result<MptConfig, KeyError> {
    let norm = match text.text("norm_type")? {
        None | Some("layernorm" | "low_precision_layernorm") => NormKind::Layer,
        Some("rmsnorm" | "low_precision_rmsnorm") => NormKind::Rms,
        Some(other) => {
            let expected = "supported: layernorm, low_precision_layernorm, rmsnorm, low_precision_rmsnorm";
            return Err(text.wrong("norm_type", &other, expected));
        }
    };
    for key in ["layer_norm_epsilon", "norm_eps"] {
        if let Some(epsilon) = text.real(key)?
            && epsilon != 1e-5
        {
            return Err(text.wrong(key, &epsilon, "only 1e-5 is supported"));
        }
    }
    let empty = Map::new();
    let attention = text.optional_section("attn_config")?;
    let attention =
        attention.unwrap_or(Section { path: text.path, name: "text_config.attn_config", map: &empty });
    foreign::refuse(&attention, ATTENTION_KEYS)?;
    refuse_other_masks(&attention, warnings)?;
    if attention.flag("fused_qkv")? == Some(false) {
        return Err(attention.wrong(
            "fused_qkv",
            &false,
            "only query, key and value in one matrix (true) are supported",
        ));
    }
    if let Some(window) = attention.value("sliding_window_size")
        && window.as_i64() != Some(-1)
    {
        return Err(attention.wrong("sliding_window_size", window, "only the whole text (-1) is supported"));
    }
    let config = MptConfig {
        style: MptStyle::Mpt,
        expansion_ratio: text.size("expansion_ratio")?.unwrap_or(4),
        alibi: attention.flag("alibi")?.unwrap_or(transformers),
        alibi_bias_max: attention.real("alibi_bias_max")?.unwrap_or(8.0),
        qk_ln: attention.flag("qk_ln")?.unwrap_or(false),
        clip_qkv: attention.real("clip_qkv")?,
        softmax_scale: attention.real("softmax_scale")?,
        no_bias: text.flag("no_bias")?.unwrap_or(transformers),
        norm,
        ..mpt_sizes(text, warnings)?
    };
    let key_heads = match attention.text("attn_type")? {
        None | Some("multihead_attention") => config.n_heads,
        Some("multiquery_attention") => 1,
        Some("grouped_query_attention") => match attention.size("kv_n_heads")? {
            Some(heads) => heads,
            None => {
                return Err(attention.wrong("kv_n_heads", &"missing", "grouped_query_attention needs it"));
            }
        },
        Some(other) => {
            let expected = "supported: multihead_attention, multiquery_attention, grouped_query_attention";
            return Err(attention.wrong("attn_type", &other, expected));
        }
    };
    let alone = !config.alibi && text.flag("learned_pos_emb")? == Some(false);
    if alone {
        let expected = "without alibi only learned positions (true) are supported";
        return Err(text.wrong("learned_pos_emb", &false, expected));
    }
    refuse_other_feed_forward(text, &config)?;
    Ok(MptConfig { key_heads, ..config })
}

/// `ffn_config` of later releases of MosaicML's class, whose defaults are those of the earlier ones.
fn refuse_other_feed_forward(text: &Section<'_>, config: &MptConfig) -> Result<(), KeyError> {
    let Some(inner) = text.optional_section("ffn_config")? else { return Ok(()) };
    if let Some(kind) = inner.text("ffn_type")?
        && kind != "mptmlp"
    {
        return Err(inner.wrong("ffn_type", &kind, "only mptmlp is supported"));
    }
    if let Some(size) = inner.size("ffn_hidden_size")?
        && size != config.expansion_ratio * config.d_model
    {
        let expected =
            format!("expected expansion_ratio * d_model = {}", config.expansion_ratio * config.d_model);
        return Err(inner.wrong("ffn_hidden_size", &size, &expected));
    }
    match inner.value("ffn_act_fn") {
        Some(function)
            if function["name"] != "gelu" || function.get("approximate").is_some_and(|a| a != "none") =>
        {
            Err(inner.wrong("ffn_act_fn", function, "only gelu is supported"))
        }
        _ => Ok(()),
    }
}

pub(super) fn mosaic_gpt(text: &Section<'_>, warnings: &mut Vec<String>) -> Result<MptConfig, KeyError> {
    refuse_other_masks(text, warnings)?;
    Ok(MptConfig {
        style: MptStyle::MosaicGpt,
        expansion_ratio: text.size("mlp_ratio")?.unwrap_or(4),
        alibi: text.flag("alibi")?.unwrap_or(false),
        alibi_bias_max: text.real("alibi_bias_max")?.unwrap_or(8.0),
        qk_ln: text.flag("attn_qk_ln")?.unwrap_or(false),
        clip_qkv: text.real("attn_clip_qkv")?,
        softmax_scale: text.real("softmax_scale")?,
        no_bias: text.flag("no_bias")?.unwrap_or(false),
        norm: NormKind::Layer,
        ..mpt_sizes(text, warnings)?
    })
}

/// What both generations of MPT call by the same names.
fn mpt_sizes(text: &Section<'_>, warnings: &mut Vec<String>) -> Result<MptConfig, KeyError> {
    for key in ["emb_pdrop", "resid_pdrop"] {
        text.warn_dropout(key, warnings)?;
    }
    let n_heads = text.size("n_heads")?.unwrap_or(16);
    let config = MptConfig {
        d_model: text.size("d_model")?.unwrap_or(2048),
        n_heads,
        key_heads: n_heads,
        n_layers: text.size("n_layers")?.unwrap_or(24),
        max_seq_len: text.size("max_seq_len")?.unwrap_or(2048),
        vocab_size: text.size("vocab_size")?.unwrap_or(50368),
        embedding_fraction: text.real("embedding_fraction")?.unwrap_or(1.0),
        bos_token_id: text.token("bos_token_id")?,
        eos_token_id: text.first_token("eos_token_id")?,
        pad_token_id: pad_token(text, None)?,
        ..MptConfig::mpt_7b()
    };
    if let Some(width) = text.size("hidden_size")?
        && width != config.d_model
    {
        let expected = format!("expected d_model = {}", config.d_model);
        return Err(text.wrong("hidden_size", &width, &expected));
    }
    let logit_scale = match text.value("logit_scale") {
        Some(Value::String(name)) if name == "inv_sqrt_d_model" => Some(1.0 / (config.d_model as f64).sqrt()),
        Some(value) if !value.is_number() => {
            return Err(text.wrong("logit_scale", value, "expected a number, inv_sqrt_d_model or null"));
        }
        _ => text.real("logit_scale")?,
    };
    Ok(MptConfig { logit_scale, ..config })
}

/// Attention that is not plainly causal is another model.
fn refuse_other_masks(attention: &Section<'_>, warnings: &mut Vec<String>) -> Result<(), KeyError> {
    for key in ["prefix_lm", "attn_uses_sequence_id"] {
        if attention.flag(key)? == Some(true) {
            return Err(attention.wrong(key, &true, "only plain causal attention (false) is supported"));
        }
    }
    attention.warn_dropout("attn_pdrop", warnings)
}

pub(super) fn write_mpt(map: &mut Map<String, Value>, sizes: &MptConfig) {
    set(map, "expansion_ratio", json!(sizes.expansion_ratio));
    let kept = map.get("norm_type").and_then(Value::as_str);
    if kept.is_none_or(|kept| kept.ends_with("rmsnorm") != (sizes.norm == NormKind::Rms)) {
        let name = match sizes.norm {
            NormKind::Layer => "low_precision_layernorm",
            NormKind::Rms => "low_precision_rmsnorm",
        };
        set(map, "norm_type", json!(name));
    }
    if !map.get("attn_config").is_some_and(Value::is_object) {
        set(map, "attn_config", json!({}));
    }
    let Some(Value::Object(attention)) = map.get_mut("attn_config") else { return };
    set(attention, "alibi", json!(sizes.alibi));
    set(attention, "alibi_bias_max", whole(sizes.alibi_bias_max));
    set(attention, "qk_ln", json!(sizes.qk_ln));
    set(attention, "clip_qkv", json!(sizes.clip_qkv));
    set(attention, "softmax_scale", json!(sizes.softmax_scale));
    let kind = match sizes.key_heads {
        heads if heads == sizes.n_heads => "multihead_attention",
        1 => "multiquery_attention",
        heads => {
            set(attention, "kv_n_heads", json!(heads));
            "grouped_query_attention"
        }
    };
    set(attention, "attn_type", json!(kind));
}

pub(super) fn write_mosaic_gpt(map: &mut Map<String, Value>, sizes: &MptConfig) {
    set(map, "mlp_ratio", json!(sizes.expansion_ratio));
    set(map, "alibi", json!(sizes.alibi));
    set(map, "alibi_bias_max", whole(sizes.alibi_bias_max));
    set(map, "attn_qk_ln", json!(sizes.qk_ln));
    set(map, "attn_clip_qkv", json!(sizes.clip_qkv));
    set(map, "softmax_scale", json!(sizes.softmax_scale));
}

/// A number as the original writes it: whole ones without a fraction.
fn whole(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e9 { json!(value as i64) } else { json!(value) }
}
