//! The names of every source format, as data.
//!
//! | table | left | right |
//! |---|---|---|
//! | [`OPEN_FLAMINGO`] | OpenFlamingo v1 and v2 | Otter |
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::facts::rename::captures;
    use otter_model::text::{FAMILIES, Family};
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
        let layers = prop::sample::select(&FAMILIES[..]);
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
        fn language_model_names_are_wrapped(model in prop::sample::select(&FAMILIES[..]), layer in 0u32..200, at in 0usize..3) {
            let name = LAYER_NAMES.iter().find(|(name, _)| *name == model.name).unwrap().1[at];
            let plain = format!("{}.{layer}.{name}", model.layers);
            let wrapped = format!("lang_encoder.{}.{layer}.decoder_layer.{name}", model.layers);
            prop_assert_eq!(model.wrapped_name(&plain), wrapped);
            let tables = [Some(model.input_table.to_owned()), model.output_table.map(str::to_owned)];
            for table in tables.into_iter().flatten() {
                prop_assert_eq!(model.wrapped_name(&table), format!("lang_encoder.{table}"));
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
        let name = |t, a| Family::find(t, a).map(|m| m.name);
        assert_eq!(name(Some("llama"), None), Some("LLaMA"));
        assert_eq!(name(Some("mpt"), Some("MosaicGPT")), Some("MosaicGPT"));
        assert_eq!(name(Some("RefinedWebModel"), None), Some("Falcon"));
        assert_eq!(name(Some("bert"), Some("BertModel")), None);
    }
}
