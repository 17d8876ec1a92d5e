//! What llama.cpp calls the tensors of a language model, what Hugging Face calls them, and in which order its
//! converter put the rows. One table an architecture; `{}` stands for the number of the layer. The names end in
//! `.weight` or `.bias` in both worlds.

/// How rows were moved when the file was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// Not at all.
    No,
    /// The halves of each query head were interleaved, for rotary positions on neighbouring elements.
    QueryHeads,
    /// As above, of each key head.
    KeyHeads,
    /// Groups of queries, key and value were taken apart into all queries, all keys, all values.
    Fused,
}

/// A language model that llama.cpp and this project both know.
pub(super) struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// `architectures` of the Hugging Face configuration.
    pub class: &'static str,
    /// `model_type` of the Hugging Face configuration.
    pub model_type: &'static str,
    names: &'static [(&'static str, &'static str, Moved)],
    /// Not parameters: what they are instead.
    dropped: &'static [(&'static str, &'static str)],
}

const LLAMA: Architecture = Architecture {
    name: "llama",
    class: "LlamaForCausalLM",
    model_type: "llama",
    names: &[
        ("token_embd", "model.embed_tokens", Moved::No),
        ("output_norm", "model.norm", Moved::No),
        ("output", "lm_head", Moved::No),
        ("blk.{}.attn_norm", "model.layers.{}.input_layernorm", Moved::No),
        ("blk.{}.attn_q", "model.layers.{}.self_attn.q_proj", Moved::QueryHeads),
        ("blk.{}.attn_k", "model.layers.{}.self_attn.k_proj", Moved::KeyHeads),
        ("blk.{}.attn_v", "model.layers.{}.self_attn.v_proj", Moved::No),
        ("blk.{}.attn_output", "model.layers.{}.self_attn.o_proj", Moved::No),
        ("blk.{}.ffn_norm", "model.layers.{}.post_attention_layernorm", Moved::No),
        ("blk.{}.ffn_gate", "model.layers.{}.mlp.gate_proj", Moved::No),
        ("blk.{}.ffn_up", "model.layers.{}.mlp.up_proj", Moved::No),
        ("blk.{}.ffn_down", "model.layers.{}.mlp.down_proj", Moved::No),
    ],
    dropped: &[
        ("rope_freqs", "factors of the rotary frequencies, which the configuration describes"),
        ("blk.{}.attn_rot_embd", "rotary frequencies, which are computed"),
    ],
};

const MPT: Architecture = Architecture {
    name: "mpt",
    class: "MPTForCausalLM",
    model_type: "mpt",
    names: &[
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
};

const GPT_NEOX: Architecture = Architecture {
    name: "gptneox",
    class: "GPTNeoXForCausalLM",
    model_type: "gpt_neox",
    names: &[
        ("token_embd", "gpt_neox.embed_in", Moved::No),
        ("output_norm", "gpt_neox.final_layer_norm", Moved::No),
        ("output", "embed_out", Moved::No),
        ("blk.{}.attn_norm", "gpt_neox.layers.{}.input_layernorm", Moved::No),
        ("blk.{}.attn_qkv", "gpt_neox.layers.{}.attention.query_key_value", Moved::Fused),
        ("blk.{}.attn_output", "gpt_neox.layers.{}.attention.dense", Moved::No),
        ("blk.{}.ffn_norm", "gpt_neox.layers.{}.post_attention_layernorm", Moved::No),
        ("blk.{}.ffn_up", "gpt_neox.layers.{}.mlp.dense_h_to_4h", Moved::No),
        ("blk.{}.ffn_down", "gpt_neox.layers.{}.mlp.dense_4h_to_h", Moved::No),
    ],
    dropped: &[],
};

const FALCON: Architecture = Architecture {
    name: "falcon",
    class: "FalconForCausalLM",
    model_type: "falcon",
    names: &[
        ("token_embd", "transformer.word_embeddings", Moved::No),
        ("output_norm", "transformer.ln_f", Moved::No),
        ("output", "lm_head", Moved::No),
        ("blk.{}.attn_norm", "transformer.h.{}.input_layernorm", Moved::No),
        ("blk.{}.attn_qkv", "transformer.h.{}.self_attention.query_key_value", Moved::Fused),
        ("blk.{}.attn_output", "transformer.h.{}.self_attention.dense", Moved::No),
        ("blk.{}.ffn_up", "transformer.h.{}.mlp.dense_h_to_4h", Moved::No),
        ("blk.{}.ffn_down", "transformer.h.{}.mlp.dense_4h_to_h", Moved::No),
    ],
    dropped: &[],
};

/// Falcon-40B and later: one norm before the attention, one before the feed-forward.
const FALCON_NEW: Architecture = Architecture {
    names: &[
        ("token_embd", "transformer.word_embeddings", Moved::No),
        ("output_norm", "transformer.ln_f", Moved::No),
        ("output", "lm_head", Moved::No),
        ("blk.{}.attn_norm_2", "transformer.h.{}.ln_attn", Moved::No),
        ("blk.{}.attn_norm", "transformer.h.{}.ln_mlp", Moved::No),
        ("blk.{}.attn_qkv", "transformer.h.{}.self_attention.query_key_value", Moved::Fused),
        ("blk.{}.attn_output", "transformer.h.{}.self_attention.dense", Moved::No),
        ("blk.{}.ffn_up", "transformer.h.{}.mlp.dense_h_to_4h", Moved::No),
        ("blk.{}.ffn_down", "transformer.h.{}.mlp.dense_4h_to_h", Moved::No),
    ],
    ..FALCON
};

const ALL: [&Architecture; 5] = [&LLAMA, &MPT, &GPT_NEOX, &FALCON, &FALCON_NEW];

/// What becomes of a tensor of a llama.cpp file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is this parameter.
    Parameter(String, Moved),
    /// It is no parameter, for this reason.
    Dropped(&'static str),
}

impl Architecture {
    /// The architecture of this name; files with a second norm in a layer are of Falcon's newer kind.
    pub(super) fn find(name: &str, has_second_norm: bool) -> Option<&'static Self> {
        let mut kinds = ALL.into_iter().filter(|known| known.name == name);
        let first = kinds.next();
        if has_second_norm { kinds.next().or(first) } else { first }
    }

    /// Names of all architectures.
    pub(super) fn names() -> String {
        let mut names: Vec<&str> = ALL.iter().map(|known| known.name).collect();
        names.dedup();
        names.join(", ")
    }

    /// The Hugging Face name of a tensor, or why it has none; `None` when the name is unknown.
    pub(super) fn fate(&self, name: &str) -> Option<Fate> {
        let (stem, ending) = name.rsplit_once('.')?;
        if !matches!(ending, "weight" | "bias") {
            return None;
        }
        if let Some((_, reason)) = self.dropped.iter().find(|(pattern, _)| layer_of(pattern, stem).is_some())
        {
            return Some(Fate::Dropped(reason));
        }
        self.names.iter().find_map(|(own, other, moved)| {
            let layer = layer_of(own, stem)?;
            Some(Fate::Parameter(format!("{}.{ending}", other.replace("{}", layer)), *moved))
        })
    }
}

/// The number that stands for `{}`; empty where the pattern has none.
fn layer_of<'n>(pattern: &str, name: &'n str) -> Option<&'n str> {
    let Some((before, after)) = pattern.split_once("{}") else {
        return (pattern == name).then_some("");
    };
    let number = name.strip_prefix(before)?.strip_suffix(after)?;
    let plain = !number.is_empty() && number.len() <= 4 && number.bytes().all(|byte| byte.is_ascii_digit());
    (plain && (number == "0" || !number.starts_with('0'))).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_told_apart() {
        let parameter = |name: &str, moved| Some(Fate::Parameter(name.to_owned(), moved));
        assert_eq!(
            LLAMA.fate("blk.31.attn_q.weight"),
            parameter("model.layers.31.self_attn.q_proj.weight", Moved::QueryHeads)
        );
        assert_eq!(LLAMA.fate("output.weight"), parameter("lm_head.weight", Moved::No));
        assert_eq!(LLAMA.fate("output_norm.weight"), parameter("model.norm.weight", Moved::No));
        assert!(matches!(LLAMA.fate("rope_freqs.weight"), Some(Fate::Dropped(_))));
        assert!(matches!(MPT.fate("output.weight"), Some(Fate::Dropped(_))));
        for unknown in
            ["blk.1.ffn_gate_exps.weight", "blk.01.attn_q.weight", "blk..attn_q.weight", "output", "x"]
        {
            assert_eq!(LLAMA.fate(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn falcon_has_two_kinds() {
        let fate = |second| {
            Architecture::find("falcon", second).and_then(|known| known.fate("blk.0.attn_norm.bias"))
        };
        assert_eq!(
            fate(false),
            Some(Fate::Parameter("transformer.h.0.input_layernorm.bias".to_owned(), Moved::No))
        );
        assert_eq!(fate(true), Some(Fate::Parameter("transformer.h.0.ln_mlp.bias".to_owned(), Moved::No)));
        assert!(Architecture::find("llama", true).is_some() && Architecture::find("opt", false).is_none());
    }

    /// No two names of a table meet in one, in either direction.
    #[test]
    fn tables_are_one_to_one() {
        for known in ALL {
            let own: HashSet<&str> = known.names.iter().map(|entry| entry.0).collect();
            let other: HashSet<&str> = known.names.iter().map(|entry| entry.1).collect();
            assert_eq!((own.len(), other.len()), (known.names.len(), known.names.len()), "{}", known.name);
            for (own, other, _) in known.names {
                assert_eq!(own.contains("{}"), other.contains("{}"));
                let name = format!("{}.weight", own.replace("{}", "7"));
                let expected = format!("{}.weight", other.replace("{}", "7"));
                let found = known.fate(&name);
                assert!(matches!(found, Some(Fate::Parameter(found, _)) if found == expected), "{name}");
            }
        }
    }
}
