//! `text_config` of a Falcon, in the keys of Transformers or in the older ones of the model's own code (`RWForCausalLM`).

use otter_model::config::{FalconBlock, FalconConfig};
use serde_json::{Map, Value, json};

use super::rope::{must_turn_whole_heads, rope, write_rope};
use super::{activation, pad_token, write_activation};
use crate::config::section::Section;
use crate::config::write::set;
use crate::error::Result;

/// What is absent takes the defaults of Transformers' class, those of Falcon 7B.
pub(super) fn read(text: &Section<'_>, warnings: &mut Vec<String>) -> Result<FalconConfig> {
    for key in ["attention_dropout", "hidden_dropout"] {
        text.warn_dropout(key, warnings)?;
    }
    must_turn_whole_heads(text)?;
    if text.flag("apply_residual_connection_post_layernorm")? == Some(true) {
        let expected = "only residual connections around the norms (false) are supported";
        return Err(text.wrong("apply_residual_connection_post_layernorm", &true, expected));
    }
    let size = |keys: [&str; 2]| -> Result<_> { Ok(text.size(keys[0])?.or(text.size(keys[1])?)) };
    let default = FalconConfig::falcon_7b();
    let hidden_size = size(["hidden_size", "n_embed"])?.unwrap_or(default.hidden_size);
    let heads = size(["num_attention_heads", "n_head"])?.unwrap_or(default.num_attention_heads);
    let key_heads = size(["num_kv_heads", "n_head_kv"])?;
    // The model's own code of the 40B names its key heads and has no flag for its architecture.
    let grouped = text.flag("new_decoder_architecture")?.unwrap_or(text.value("n_head_kv").is_some());
    let num_kv_heads = match (grouped, text.flag("multi_query")?.unwrap_or(true)) {
        (true, _) => key_heads.unwrap_or(heads),
        (false, true) => 1,
        (false, false) => heads,
    };
    Ok(FalconConfig {
        hidden_size,
        ffn_hidden_size: text.size("ffn_hidden_size")?.unwrap_or(4 * hidden_size),
        num_hidden_layers: size(["num_hidden_layers", "n_layer"])?.unwrap_or(default.num_hidden_layers),
        num_attention_heads: heads,
        num_kv_heads,
        vocab_size: text.size("vocab_size")?.unwrap_or(default.vocab_size),
        max_position_embeddings: text
            .size("max_position_embeddings")?
            .unwrap_or(default.max_position_embeddings),
        block: block(text, grouped)?,
        bias: text.flag("bias")?.unwrap_or(default.bias),
        alibi: text.flag("alibi")?.unwrap_or(default.alibi),
        rope: rope(text, "rope_theta")?,
        activation: activation(text, "activation", default.activation)?,
        layer_norm_epsilon: text.real("layer_norm_epsilon")?.unwrap_or(default.layer_norm_epsilon),
        bos_token_id: text.token("bos_token_id")?.or(default.bos_token_id),
        eos_token_id: text.first_token("eos_token_id")?.or(default.eos_token_id),
        pad_token_id: pad_token(text, default.pad_token_id)?,
    })
}

fn block(text: &Section<'_>, grouped: bool) -> Result<FalconBlock> {
    let norms = text.size("num_ln_in_parallel_attn")?;
    match (text.flag("parallel_attn")?.unwrap_or(true), grouped, norms) {
        (false, false, _) => Ok(FalconBlock::Sequential),
        (false, true, _) => {
            Err(text.wrong("parallel_attn", &false, "the new decoder architecture is always parallel (true)"))
        }
        (true, true, None | Some(2)) => Ok(FalconBlock::ParallelTwoNorms),
        (true, true, Some(1)) | (true, false, None | Some(1)) => Ok(FalconBlock::Parallel),
        (true, _, Some(other)) => {
            let expected = if grouped { "supported: 1, 2" } else { "only 1 is supported here" };
            Err(text.wrong("num_ln_in_parallel_attn", &other, expected))
        }
    }
}

/// Sets the keys of [`read`], in the older names where the file has them.
pub(super) fn write(map: &mut Map<String, Value>, sizes: &FalconConfig) {
    let older = map.contains_key("n_layer") || map.contains_key("n_head");
    let (layers, heads, key_heads) = if older {
        ("n_layer", "n_head", "n_head_kv")
    } else {
        ("num_hidden_layers", "num_attention_heads", "num_kv_heads")
    };
    set(map, layers, json!(sizes.num_hidden_layers));
    set(map, heads, json!(sizes.num_attention_heads));
    let multi_query = sizes.num_kv_heads == 1;
    let grouped = sizes.block == FalconBlock::ParallelTwoNorms
        || !multi_query && sizes.num_kv_heads != sizes.num_attention_heads;
    if grouped {
        set(map, key_heads, json!(sizes.num_kv_heads));
        set(map, "num_ln_in_parallel_attn", json!(1 + usize::from(sizes.block != FalconBlock::Parallel)));
    }
    if grouped || !older {
        set(map, "new_decoder_architecture", json!(grouped));
    }
    if !older {
        set(map, "ffn_hidden_size", json!(sizes.ffn_hidden_size));
        set(map, "max_position_embeddings", json!(sizes.max_position_embeddings));
        write_rope(map, &sizes.rope, "rope_theta", None);
        write_activation(map, "activation", sizes.activation);
    }
    set(map, "multi_query", json!(multi_query));
    set(map, "parallel_attn", json!(sizes.block != FalconBlock::Sequential));
    set(map, "bias", json!(sizes.bias));
    set(map, "alibi", json!(sizes.alibi));
    set(map, "layer_norm_epsilon", json!(sizes.layer_norm_epsilon));
}

/// What Transformers writes around the sizes.
pub(super) fn template(class: &str, tied: bool) -> Value {
    json!({
        "_name_or_path": "",
        "architectures": [class],
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "initializer_range": 0.02,
        "model_type": "falcon",
        "tie_word_embeddings": tied,
    })
}
