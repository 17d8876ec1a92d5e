//! The names of every source format, as data.
//!
//! | table | left | right |
//! |---|---|---|
//! | [`OPEN_FLAMINGO`] | OpenFlamingo v1 and v2 | Otter |
//! | [`LanguageModel::renames`] | a plain language model | the same inside an Otter |
//! | [`CLIP`] | Hugging Face `CLIPVisionModel` | the tower inside an Otter |
//! | [`OPEN_CLIP`] | open_clip | Hugging Face `CLIPVisionModel` |
//! | [`PEFT`], [`PEFT_BASE_LAYER`] | an Otter wrapped by PEFT | Otter |

use crate::facts::rename::RenameTable;

/// OpenFlamingo's names and Otter's. The path component `ff` is replaced inside a gated block only: MPT's own `ffn`
/// and everything else keeps its name.
pub const OPEN_FLAMINGO: RenameTable = RenameTable {
    left: "OpenFlamingo",
    right: "Otter",
    pairs: &[
        ("perceiver.layers.#.1.*", "perceiver.layers.#.feed_forward.*"),
        ("perceiver.layers.#.0.*", "perceiver.layers.#.*"),
        ("perceiver.*", "perceiver.*"),
        (
            "lang_encoder.*.gated_cross_attn_layer.ff.*",
            "lang_encoder.*.gated_cross_attn_layer.feed_forward.*",
        ),
        ("lang_encoder.*", "lang_encoder.*"),
        ("vision_encoder.*", "vision_encoder.*"),
    ],
};

/// `CLIPVisionModel` alone and inside an Otter.
pub const CLIP: RenameTable = RenameTable {
    left: "Hugging Face CLIP",
    right: "Otter",
    pairs: &[("vision_model.*", "vision_encoder.vision_model.*")],
};

/// open_clip's vision tower. `attn.in_proj_weight` and `attn.in_proj_bias` hold query, key and value in one tensor; see
/// [`OPEN_CLIP_FUSED`].
pub const OPEN_CLIP: RenameTable = RenameTable {
    left: "open_clip",
    right: "Hugging Face CLIP",
    pairs: &[
        ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
        ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
        ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
        ("visual.ln_pre.@", "vision_model.pre_layrnorm.@"),
        ("visual.ln_post.@", "vision_model.post_layernorm.@"),
        ("visual.transformer.resblocks.#.ln_1.@", "vision_model.encoder.layers.#.layer_norm1.@"),
        ("visual.transformer.resblocks.#.ln_2.@", "vision_model.encoder.layers.#.layer_norm2.@"),
        ("visual.transformer.resblocks.#.mlp.c_fc.@", "vision_model.encoder.layers.#.mlp.fc1.@"),
        ("visual.transformer.resblocks.#.mlp.c_proj.@", "vision_model.encoder.layers.#.mlp.fc2.@"),
        (
            "visual.transformer.resblocks.#.attn.out_proj.@",
            "vision_model.encoder.layers.#.self_attn.out_proj.@",
        ),
    ],
};

/// Tensors that open_clip fuses, with the names of the parts in the order of their rows.
pub const OPEN_CLIP_FUSED: [(&str, [&str; 3]); 2] = [
    (
        "visual.transformer.resblocks.#.attn.in_proj_weight",
        [
            "vision_model.encoder.layers.#.self_attn.q_proj.weight",
            "vision_model.encoder.layers.#.self_attn.k_proj.weight",
            "vision_model.encoder.layers.#.self_attn.v_proj.weight",
        ],
    ),
    (
        "visual.transformer.resblocks.#.attn.in_proj_bias",
        [
            "vision_model.encoder.layers.#.self_attn.q_proj.bias",
            "vision_model.encoder.layers.#.self_attn.k_proj.bias",
            "vision_model.encoder.layers.#.self_attn.v_proj.bias",
        ],
    ),
];

/// Names under a PEFT wrapper of the language model; everything else keeps its name.
pub const PEFT: RenameTable = RenameTable {
    left: "PEFT",
    right: "Otter",
    pairs: &[
        ("lang_encoder.base_model.model.*", "lang_encoder.*"),
        // Where PEFT was put around the whole model, its prefix is gone already.
        ("lang_encoder.*", "lang_encoder.*"),
        ("perceiver.*", "perceiver.*"),
        ("vision_encoder.*", "vision_encoder.*"),
    ],
};

/// Weight and bias of an adapted module: PEFT 0.6 and later put them under `base_layer`, earlier releases leave them.
pub const PEFT_BASE_LAYER: RenameTable =
    RenameTable { left: "PEFT 0.6 and later", right: "PEFT before 0.6", pairs: &[("*.base_layer.@", "*.@")] };

/// A decoder architecture: how its configuration names it, and where its parts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanguageModel {
    /// For messages.
    pub name: &'static str,
    /// Values of `model_type`.
    pub model_types: &'static [&'static str],
    /// Values of `architectures[0]`.
    pub architectures: &'static [&'static str],
    /// What a file without the head leaves out in front of every name.
    pub prefix: &'static str,
    /// Path of the decoder layers.
    pub layers: &'static str,
    /// Input embedding table.
    pub input_table: &'static str,
    /// Output table; `None` where it is always the input table.
    pub output_table: Option<&'static str>,
    /// Keys of the configuration that hold the width of the hidden states, in the order they are looked for.
    pub width_keys: &'static [&'static str],
    /// Keys that hold the number of layers.
    pub depth_keys: &'static [&'static str],
    /// Plain name and name inside an Otter.
    pub renames: RenameTable,
}

macro_rules! wrapped {
    ($layers:literal) => {
        RenameTable {
            left: "the plain language model",
            right: "Otter",
            pairs: &[
                (concat!($layers, ".#.*"), concat!("lang_encoder.", $layers, ".#.decoder_layer.*")),
                ("*", "lang_encoder.*"),
            ],
        }
    };
}

/// Every architecture that can be wrapped.
pub const LANGUAGE_MODELS: &[LanguageModel] = &[
    LanguageModel {
        name: "LLaMA",
        model_types: &["llama"],
        architectures: &["LlamaForCausalLM", "LLaMAForCausalLM"],
        prefix: "model.",
        layers: "model.layers",
        input_table: "model.embed_tokens.weight",
        output_table: Some("lm_head.weight"),
        width_keys: &["hidden_size"],
        depth_keys: &["num_hidden_layers"],
        renames: wrapped!("model.layers"),
    },
    LanguageModel {
        name: "MPT",
        model_types: &["mpt"],
        architectures: &["MPTForCausalLM", "MptForCausalLM"],
        prefix: "transformer.",
        layers: "transformer.blocks",
        input_table: "transformer.wte.weight",
        output_table: None,
        width_keys: &["d_model", "hidden_size"],
        depth_keys: &["n_layers", "num_hidden_layers"],
        renames: wrapped!("transformer.blocks"),
    },
    LanguageModel {
        name: "MosaicGPT",
        model_types: &["mosaic_gpt"],
        architectures: &["MosaicGPT"],
        prefix: "transformer.",
        layers: "transformer.blocks",
        input_table: "transformer.wte.weight",
        output_table: None,
        width_keys: &["d_model", "hidden_size"],
        depth_keys: &["n_layers", "num_hidden_layers"],
        renames: wrapped!("transformer.blocks"),
    },
    LanguageModel {
        name: "GPT-NeoX",
        model_types: &["gpt_neox"],
        architectures: &["GPTNeoXForCausalLM"],
        prefix: "gpt_neox.",
        layers: "gpt_neox.layers",
        input_table: "gpt_neox.embed_in.weight",
        output_table: Some("embed_out.weight"),
        width_keys: &["hidden_size"],
        depth_keys: &["num_hidden_layers"],
        renames: wrapped!("gpt_neox.layers"),
    },
    LanguageModel {
        name: "OPT",
        model_types: &["opt"],
        architectures: &["OPTForCausalLM"],
        prefix: "model.",
        layers: "model.decoder.layers",
        input_table: "model.decoder.embed_tokens.weight",
        output_table: Some("lm_head.weight"),
        width_keys: &["hidden_size"],
        depth_keys: &["num_hidden_layers"],
        renames: wrapped!("model.decoder.layers"),
    },
    LanguageModel {
        name: "Falcon",
        model_types: &["falcon", "RefinedWebModel", "RefinedWeb"],
        architectures: &["RWForCausalLM", "FalconForCausalLM"],
        prefix: "transformer.",
        layers: "transformer.h",
        input_table: "transformer.word_embeddings.weight",
        output_table: Some("lm_head.weight"),
        width_keys: &["hidden_size", "n_embed"],
        depth_keys: &["num_hidden_layers", "n_layer"],
        renames: wrapped!("transformer.h"),
    },
];

impl LanguageModel {
    /// The architecture with this `model_type` or `architectures[0]`.
    pub fn find(model_type: Option<&str>, architecture: Option<&str>) -> Option<&'static Self> {
        let by_class =
            LANGUAGE_MODELS.iter().find(|m| architecture.is_some_and(|a| m.architectures.contains(&a)));
        by_class.or_else(|| {
            LANGUAGE_MODELS.iter().find(|m| model_type.is_some_and(|t| m.model_types.contains(&t)))
        })
    }

    /// The input table's name inside an Otter.
    pub fn wrapped_input_table(&self) -> String {
        format!("lang_encoder.{}", self.input_table)
    }

    /// The output table's name inside an Otter, where the architecture has one.
    pub fn wrapped_output_table(&self) -> Option<String> {
        self.output_table.map(|table| format!("lang_encoder.{table}"))
    }

    /// Path of the decoder layers inside an Otter.
    pub fn wrapped_layers(&self) -> String {
        format!("lang_encoder.{}", self.layers)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::convert::rename::captures;
    use proptest::prelude::*;

    /// Names of one decoder layer, by architecture.
    const LAYER_NAMES: &[(&str, &[&str])] = &[
        ("LLaMA", &["self_attn.q_proj.weight", "mlp.gate_proj.weight", "input_layernorm.weight"]),
        ("MPT", &["attn.Wqkv.weight", "ffn.up_proj.weight", "ffn.down_proj.weight", "norm_1.weight"]),
        ("MosaicGPT", &["attn.q_ln.weight", "mlp.mlp_up.weight", "ln_1.weight"]),
        ("GPT-NeoX", &["attention.query_key_value.bias", "mlp.dense_h_to_4h.weight", "input_layernorm.bias"]),
        ("OPT", &["self_attn.out_proj.bias", "fc1.weight", "final_layer_norm.bias"]),
        (
            "Falcon",
            &["self_attention.query_key_value.weight", "mlp.dense_4h_to_h.weight", "input_layernorm.bias"],
        ),
    ];
    const OUTSIDE: &[&str] = &[
        "transformer.norm_f.weight",
        "model.norm.weight",
        "lm_head.weight",
        "gpt_neox.final_layer_norm.bias",
    ];
    const BLOCK: &[&str] = &[
        "attn_gate",
        "ff_gate",
        "attn.norm.weight",
        "attn.norm.bias",
        "attn.to_q.weight",
        "attn.to_kv.weight",
        "attn.to_out.weight",
        "feed_forward.0.weight",
        "feed_forward.0.bias",
        "feed_forward.1.weight",
        "feed_forward.3.weight",
    ];
    const RESAMPLER: &[&str] = &[
        "norm_media.weight",
        "norm_latents.bias",
        "to_q.weight",
        "to_kv.weight",
        "to_out.weight",
        "feed_forward.0.weight",
        "feed_forward.0.bias",
        "feed_forward.1.weight",
        "feed_forward.3.weight",
    ];

    /// All kinds of names an Otter has.
    fn otter_names() -> impl Strategy<Value = String> {
        let layers = prop::sample::select(LANGUAGE_MODELS);
        prop_oneof![
            (layers.clone(), 0u32..200, prop::sample::select(BLOCK))
                .prop_map(|(m, i, n)| format!("{}.{i}.gated_cross_attn_layer.{n}", m.wrapped_layers())),
            (layers, 0u32..200, 0usize..3).prop_map(|(m, i, n)| {
                let names = LAYER_NAMES.iter().find(|(name, _)| *name == m.name).unwrap().1;
                format!("{}.{i}.decoder_layer.{}", m.wrapped_layers(), names[n])
            }),
            prop::sample::select(OUTSIDE).prop_map(|n| format!("lang_encoder.{n}")),
            (0u32..20, prop::sample::select(RESAMPLER))
                .prop_map(|(i, n)| format!("perceiver.layers.{i}.{n}")),
            prop::sample::select(&["perceiver.latents", "perceiver.frame_embs", "perceiver.norm.bias"][..])
                .prop_map(str::to_owned),
            Just("vision_encoder.vision_model.post_layernorm.bias".to_owned()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn open_flamingo_names_return(name in otter_names()) {
            let theirs = OPEN_FLAMINGO.backward(&name).unwrap();
            prop_assert_eq!(OPEN_FLAMINGO.forward(&theirs).unwrap(), name);
        }

        #[test]
        fn peft_names_return(name in otter_names()) {
            let wrapped = PEFT.backward(&name).unwrap();
            prop_assert_eq!(PEFT.forward(&wrapped).unwrap(), name);
            let newer = PEFT_BASE_LAYER.backward(&wrapped);
            if let Some(newer) = newer {
                prop_assert_eq!(PEFT_BASE_LAYER.forward(&newer).unwrap(), wrapped);
            }
        }

        #[test]
        fn language_model_names_return(model in prop::sample::select(LANGUAGE_MODELS), layer in 0u32..200, at in 0usize..3) {
            let names = LAYER_NAMES.iter().find(|(name, _)| *name == model.name).unwrap().1;
            let mut plain = vec![format!("{}.{layer}.{}", model.layers, names[at]), model.input_table.to_owned()];
            plain.extend(model.output_table.map(str::to_owned));
            for name in plain {
                let wrapped = model.renames.forward(&name).unwrap();
                prop_assert!(wrapped.starts_with("lang_encoder."));
                prop_assert_eq!(model.renames.backward(&wrapped).unwrap(), name);
            }
        }
    }

    #[test]
    fn only_the_gated_block_has_its_ff_renamed() {
        let forward = |name: &str| OPEN_FLAMINGO.forward(name).unwrap();
        for (theirs, ours) in [
            (
                "lang_encoder.transformer.blocks.3.gated_cross_attn_layer.ff.1.weight",
                "lang_encoder.transformer.blocks.3.gated_cross_attn_layer.feed_forward.1.weight",
            ),
            (
                "lang_encoder.transformer.blocks.3.gated_cross_attn_layer.ff_gate",
                "lang_encoder.transformer.blocks.3.gated_cross_attn_layer.ff_gate",
            ),
            (
                "lang_encoder.transformer.blocks.3.decoder_layer.ffn.up_proj.weight",
                "lang_encoder.transformer.blocks.3.decoder_layer.ffn.up_proj.weight",
            ),
            ("perceiver.layers.11.1.3.weight", "perceiver.layers.11.feed_forward.3.weight"),
            ("perceiver.layers.11.0.to_q.weight", "perceiver.layers.11.to_q.weight"),
        ] {
            assert_eq!(forward(theirs), ours);
            assert_eq!(OPEN_FLAMINGO.backward(ours).unwrap(), theirs);
        }
    }

    #[test]
    fn open_clip_names_return() {
        for (left, _) in OPEN_CLIP.pairs {
            let name = left.replace('#', "7").replace('@', "bias");
            let theirs = OPEN_CLIP.forward(&name).unwrap();
            assert_eq!(OPEN_CLIP.backward(&theirs).unwrap(), name);
        }
        for (fused, parts) in OPEN_CLIP_FUSED {
            assert_eq!(captures(fused, &fused.replace('#', "12")).unwrap(), ["12"]);
            assert!(parts.iter().all(|part| part.contains('#')));
        }
        assert_eq!(OPEN_CLIP.forward("visual.proj"), None);
    }

    #[test]
    fn architectures_are_found_by_class_before_type() {
        let name = |t, a| LanguageModel::find(t, a).map(|m| m.name);
        assert_eq!(name(Some("llama"), None), Some("LLaMA"));
        assert_eq!(name(Some("mpt"), Some("MosaicGPT")), Some("MosaicGPT"));
        assert_eq!(name(Some("RefinedWebModel"), None), Some("Falcon"));
        assert_eq!(name(Some("bert"), Some("BertModel")), None);
    }
}
