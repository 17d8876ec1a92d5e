//! MPT in files of llama.cpp.

use serde_json::{Value, json};

use crate::text::gguf::{GgufArchitecture, GgufMetadata, Moved};

/// Names and settings.
pub(super) const GGUF: &[GgufArchitecture] = &[GgufArchitecture {
    name: "mpt",
    tensors: &[
        ("token_embd", "transformer.wte", Moved::No),
        ("position_embd", "transformer.wpe", Moved::No),
        ("output_norm", "transformer.norm_f", Moved::No),
        ("blk.{}.attn_norm", "transformer.blocks.{}.norm_1", Moved::No),
        ("blk.{}.attn_qkv", "transformer.blocks.{}.attn.Wqkv", Moved::No),
        ("blk.{}.attn_q_norm", "transformer.blocks.{}.attn.q_ln", Moved::No),
        ("blk.{}.attn_k_norm", "transformer.blocks.{}.attn.k_ln", Moved::No),
        ("blk.{}.attn_output", "transformer.blocks.{}.attn.out_proj", Moved::No),
        ("blk.{}.ffn_norm", "transformer.blocks.{}.norm_2", Moved::No),
        ("blk.{}.ffn_up", "transformer.blocks.{}.ffn.up_proj", Moved::No),
        ("blk.{}.ffn_down", "transformer.blocks.{}.ffn.down_proj", Moved::No),
    ],
    dropped: &[("output", "a copy of token_embd, which MPT also uses as output table")],
    computed: &["attention.clamp_kqv", "attention.max_alibi_bias"],
    turns_whole_heads: false,
    config,
}];

fn config(file: &dyn GgufMetadata) -> Result<Value, String> {
    let (width, heads) = (file.size("embedding_length")?, file.size("attention.head_count")?);
    let inner = file.size("feed_forward_length")?;
    if !inner.is_multiple_of(width) {
        return Err(format!("feed_forward_length {inner} is no multiple of embedding_length {width}"));
    }
    let alibi = file.real("attention.max_alibi_bias")?.unwrap_or(0.0);
    let key_heads = file.key_heads()?;
    let kind = match key_heads {
        same if same == heads => "multihead_attention",
        1 => "multiquery_attention",
        _ => "grouped_query_attention",
    };
    let mut attention = json!({
        "alibi": alibi > 0.0,
        "attn_type": kind,
        "qk_ln": file.has("blk.0.attn_q_norm.weight"),
        "clip_qkv": file.real("attention.clamp_kqv")?.filter(|limit| *limit > 0.0),
    });
    if alibi > 0.0 {
        attention["alibi_bias_max"] = json!(alibi);
    }
    if kind == "grouped_query_attention" {
        attention["kv_n_heads"] = json!(key_heads);
    }
    Ok(json!({
        "d_model": width,
        "n_heads": heads,
        "n_layers": file.size("block_count")?,
        "expansion_ratio": inner / width,
        "max_seq_len": file.size("context_length")?,
        "no_bias": !file.has("blk.0.ffn_up.bias"),
        "layer_norm_epsilon": file.real("attention.layer_norm_epsilon")?.filter(|epsilon| *epsilon != 1e-5),
        "attn_config": attention,
    }))
}
