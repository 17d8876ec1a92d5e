//! `text_config` of an OPT.

use otter_model::config::OptConfig;
use serde_json::{Map, Value, json};

use super::{activation, pad_token, write_activation};
use crate::config::section::Section;
use crate::config::write::set;
use crate::error::Result;

/// What is absent takes the defaults of Transformers' class, those of OPT 125M.
pub(super) fn read(text: &Section<'_>, warnings: &mut Vec<String>) -> Result<OptConfig> {
    for key in ["activation_dropout", "attention_dropout", "dropout", "layerdrop"] {
        text.warn_dropout(key, warnings)?;
    }
    if text.flag("layer_norm_elementwise_affine")? == Some(false) {
        let expected = "only norms with weights and biases (true) are supported";
        return Err(text.wrong("layer_norm_elementwise_affine", &false, expected));
    }
    let default = OptConfig::opt_125m();
    let hidden_size = text.size("hidden_size")?.unwrap_or(default.hidden_size);
    let do_layer_norm_before = text.flag("do_layer_norm_before")?.unwrap_or(true);
    let removed = text.flag("_remove_final_layer_norm")?.unwrap_or(false);
    Ok(OptConfig {
        hidden_size,
        ffn_dim: text.size("ffn_dim")?.unwrap_or(default.ffn_dim),
        num_hidden_layers: text.size("num_hidden_layers")?.unwrap_or(default.num_hidden_layers),
        num_attention_heads: text.size("num_attention_heads")?.unwrap_or(default.num_attention_heads),
        vocab_size: text.size("vocab_size")?.unwrap_or(default.vocab_size),
        word_embed_proj_dim: text.size("word_embed_proj_dim")?.unwrap_or(hidden_size),
        max_position_embeddings: text
            .size("max_position_embeddings")?
            .unwrap_or(default.max_position_embeddings),
        do_layer_norm_before,
        final_layer_norm: do_layer_norm_before && !removed,
        enable_bias: text.flag("enable_bias")?.unwrap_or(true),
        activation: activation(text, "activation_function", default.activation)?,
        bos_token_id: text.token("bos_token_id")?.or(default.bos_token_id),
        eos_token_id: text.first_token("eos_token_id")?.or(default.eos_token_id),
        pad_token_id: pad_token(text, default.pad_token_id)?,
    })
}

/// Sets the keys of [`read`].
pub(super) fn write(map: &mut Map<String, Value>, sizes: &OptConfig) {
    set(map, "ffn_dim", json!(sizes.ffn_dim));
    set(map, "num_hidden_layers", json!(sizes.num_hidden_layers));
    set(map, "num_attention_heads", json!(sizes.num_attention_heads));
    set(map, "word_embed_proj_dim", json!(sizes.word_embed_proj_dim));
    set(map, "max_position_embeddings", json!(sizes.max_position_embeddings));
    set(map, "do_layer_norm_before", json!(sizes.do_layer_norm_before));
    set(map, "_remove_final_layer_norm", json!(sizes.do_layer_norm_before && !sizes.final_layer_norm));
    set(map, "enable_bias", json!(sizes.enable_bias));
    write_activation(map, "activation_function", sizes.activation);
}

/// What Transformers writes around the sizes.
pub(super) fn template(class: &str, tied: bool) -> Value {
    json!({
        "_name_or_path": "",
        "architectures": [class],
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "init_std": 0.02,
        "layer_norm_elementwise_affine": true,
        "layerdrop": 0.0,
        "model_type": "opt",
        "tie_word_embeddings": tied,
    })
}
