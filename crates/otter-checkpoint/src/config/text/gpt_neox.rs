//! `text_config` of a GPT-NeoX.

use otter_model::config::GptNeoxConfig;
use serde_json::{Map, Value, json};

use super::rope::{rope, rotated_share, write_rope};
use super::{activation, pad_token, write_activation};
use crate::config::section::Section;
use crate::config::write::set;
use crate::error::Result;

/// What is absent takes the defaults of Transformers' class, those of GPT-NeoX 20B.
pub(super) fn read(text: &Section<'_>, warnings: &mut Vec<String>) -> Result<GptNeoxConfig> {
    for key in ["attention_dropout", "hidden_dropout"] {
        text.warn_dropout(key, warnings)?;
    }
    let default = GptNeoxConfig::redpajama_incite_3b();
    Ok(GptNeoxConfig {
        hidden_size: text.size("hidden_size")?.unwrap_or(6144),
        intermediate_size: text.size("intermediate_size")?.unwrap_or(24576),
        num_hidden_layers: text.size("num_hidden_layers")?.unwrap_or(44),
        num_attention_heads: text.size("num_attention_heads")?.unwrap_or(64),
        vocab_size: text.size("vocab_size")?.unwrap_or(default.vocab_size),
        max_position_embeddings: text
            .size("max_position_embeddings")?
            .unwrap_or(default.max_position_embeddings),
        rotary_pct: rotated_share(text, "rotary_pct")?.unwrap_or(0.25),
        rope: rope(text, "rotary_emb_base")?,
        use_parallel_residual: text.flag("use_parallel_residual")?.unwrap_or(true),
        attention_bias: text.flag("attention_bias")?.unwrap_or(true),
        hidden_act: activation(text, "hidden_act", default.hidden_act)?,
        layer_norm_eps: text.real("layer_norm_eps")?.unwrap_or(default.layer_norm_eps),
        bos_token_id: text.token("bos_token_id")?.or(default.bos_token_id),
        eos_token_id: text.first_token("eos_token_id")?.or(default.eos_token_id),
        pad_token_id: pad_token(text, default.pad_token_id)?,
    })
}

/// Sets the keys of [`read`].
pub(super) fn write(map: &mut Map<String, Value>, sizes: &GptNeoxConfig) {
    set(map, "intermediate_size", json!(sizes.intermediate_size));
    set(map, "num_hidden_layers", json!(sizes.num_hidden_layers));
    set(map, "num_attention_heads", json!(sizes.num_attention_heads));
    set(map, "max_position_embeddings", json!(sizes.max_position_embeddings));
    set(map, "use_parallel_residual", json!(sizes.use_parallel_residual));
    set(map, "attention_bias", json!(sizes.attention_bias));
    set(map, "layer_norm_eps", json!(sizes.layer_norm_eps));
    write_activation(map, "hidden_act", sizes.hidden_act);
    write_rope(map, &sizes.rope, "rotary_emb_base", Some(("rotary_pct", sizes.rotary_pct)));
}

/// What Transformers writes around the sizes.
pub(super) fn template(class: &str, tied: bool) -> Value {
    json!({
        "_name_or_path": "",
        "architectures": [class],
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "initializer_range": 0.02,
        "model_type": "gpt_neox",
        "tie_word_embeddings": tied,
    })
}
